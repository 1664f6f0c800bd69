/* pgqrs worker ... */
#include "cli.h"
#include <inttypes.h>
#include <string.h>

static const char *state_name(int state)
{
    return pgqrs_worker_state_name((pgqrs_worker_state)state);
}

#define MEMBER(name, type, member, flags)                                                                              \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_worker_info, member), flags, NULL                                                   \
    }
const field worker_fields[] = {
    MEMBER("id", FIELD_INT64, id, FIELD_LISTED),
    MEMBER("name", FIELD_TEXT, name, FIELD_LISTED | FIELD_CUT),
    MEMBER("queue", FIELD_TEXT, queue, FIELD_LISTED | FIELD_CUT),
    {"state", FIELD_NAME, offsetof(pgqrs_worker_info, state), FIELD_LISTED, state_name},
    MEMBER("held", FIELD_INT64, held, FIELD_LISTED),
    MEMBER("heartbeat_at", FIELD_TIME, heartbeat_at_us, FIELD_LISTED),
    MEMBER("started_at", FIELD_TIME, started_at_us, FIELD_LISTED),
    MEMBER("stopped_at", FIELD_TIME, stopped_at_us, 0),
    MEMBER("reclaimed", FIELD_BOOL, reclaimed, 0),
    {NULL, FIELD_TEXT, 0, 0, NULL},
};

#define STAT(name, type, member)                                                                                       \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_worker_stats, member), FIELD_LISTED, NULL                                           \
    }
const field stats_fields[] = {STAT("total", FIELD_INT64, total),
                              STAT("ready", FIELD_INT64, ready),
                              STAT("polling", FIELD_INT64, polling),
                              STAT("interrupted", FIELD_INT64, interrupted),
                              STAT("suspended", FIELD_INT64, suspended),
                              STAT("stopped", FIELD_INT64, stopped),
                              STAT("stale", FIELD_INT64, stale),
                              STAT("held", FIELD_INT64, held),
                              STAT("oldest_ms", FIELD_MS, oldest_ms),
                              STAT("newest_heartbeat_ms", FIELD_MS, newest_heartbeat_ms),
                              {NULL, FIELD_TEXT, 0, 0, NULL}};

/* The heartbeat of a worker that lives is younger than this, unless a handler without threads takes longer. */
#define STALE_MS 60000

static int64_t max_age(const cli *c)
{
    return given(c, OPT_MAX_AGE) ? number_of(c, OPT_MAX_AGE) : STALE_MS;
}

static exit_code get(cli *c, pgqrs_worker_info **worker)
{
    int64_t id;
    *worker = NULL;
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_worker_get(c->store, id, worker));
    if (code == DONE && !*worker)
        return cli_fail(NOT_FOUND, "there is no worker %" PRId64 "; see: pgqrs worker list", id);
    return code;
}

static exit_code say(cli *c, const char *action, int64_t id, int64_t count)
{
    deed d = {.action = action, .object = "worker", .id = id, .count = count};
    output_said(&c->out, deed_fields, &d, "%s worker %" PRId64, action, id);
    return DONE;
}

/* --- looking */

static exit_code list(cli *c, pgqrs_worker_filter *filter, size_t *found)
{
    exit_code code = DONE;
    int64_t left = given(c, OPT_LIMIT) ? number_of(c, OPT_LIMIT) : LIST_LIMIT;
    *found = 0;
    output_begin(&c->out, worker_fields);
    while (left > 0 && code == DONE) {
        pgqrs_workers *page;
        filter->limit = left < LIST_PAGE ? (size_t)left : LIST_PAGE;
        code = cli_check(c, pgqrs_worker_list(c->store, filter, &page));
        if (code != DONE) break;
        output_rows(&c->out, page->items, page->count, sizeof *page->items);
        *found += page->count;
        left = page->count < filter->limit ? 0 : left - (int64_t)page->count;
        if (page->count > 0) filter->after_id = page->items[page->count - 1].id;
        pgqrs_free(page);
    }
    return output_ended(&c->out, code);
}

exit_code worker_list(cli *c)
{
    size_t found;
    pgqrs_worker_filter filter = {.queue = c->options[OPT_QUEUE].text, .after_id = number_of(c, OPT_AFTER)};
    const char *state = c->options[OPT_STATE].text;
    for (int i = PGQRS_WORKER_READY; state && i <= PGQRS_WORKER_STOPPED; i++)
        if (strcmp(state, state_name(i)) == 0) filter.state = (pgqrs_worker_state)i;
    if (state && !filter.state)
        return cli_fail(USAGE, "--state: \"%s\" is not one of ready, polling, interrupted, suspended, stopped", state);
    return list(c, &filter, &found);
}

exit_code worker_get(cli *c)
{
    pgqrs_worker_info *worker;
    exit_code code = get(c, &worker);
    if (code == DONE) output_one(&c->out, worker_fields, worker);
    pgqrs_free(worker);
    return code;
}

exit_code worker_stats(cli *c)
{
    pgqrs_worker_stats stats;
    const char *queue = c->operand_count > 0 ? c->operands[0] : c->options[OPT_QUEUE].text;
    exit_code code = cli_check(c, pgqrs_worker_stats_get(c->store, queue, max_age(c), &stats));
    if (code == DONE) output_one(&c->out, stats_fields, &stats);
    return code;
}

static exit_code one_is_healthy(cli *c)
{
    pgqrs_worker_info *worker;
    bool healthy = false;
    exit_code code = get(c, &worker);
    if (code == DONE) code = cli_check(c, pgqrs_worker_healthy(c->store, worker->id, max_age(c), &healthy));
    if (code == DONE) output_one(&c->out, worker_fields, worker);
    pgqrs_free(worker);
    return code == DONE && !healthy ? FAILED : code;
}

/* For monitoring: lists whoever is not well, and the exit status says whether there is anybody. */
exit_code worker_health(cli *c)
{
    size_t found;
    pgqrs_worker_filter filter = {.queue = c->options[OPT_QUEUE].text, .stale_ms = max_age(c)};
    if (c->operand_count > 0) return one_is_healthy(c);
    exit_code code = list(c, &filter, &found);
    return code == DONE && found > 0 ? FAILED : code;
}

exit_code worker_messages(cli *c)
{
    pgqrs_worker_info *worker;
    exit_code code = get(c, &worker);
    if (code != DONE) return code;
    pgqrs_message_filter filter = {.state = PGQRS_LEASED, .worker_id = worker->id};
    pgqrs_free(worker);
    return message_list_filtered(c, &filter, given(c, OPT_LIMIT) ? number_of(c, OPT_LIMIT) : LIST_LIMIT);
}

/* --- mending */

exit_code worker_suspend(cli *c)
{
    int64_t id;
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_worker_suspend(c->store, id));
    return code == DONE ? say(c, "suspended", id, 1) : code;
}

exit_code worker_resume(cli *c)
{
    int64_t id;
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_worker_resume(c->store, id));
    return code == DONE ? say(c, "resumed", id, 1) : code;
}

static exit_code shut_down(cli *c, int64_t id)
{
    pgqrs_result result = pgqrs_worker_shutdown(c->store, id);
    if (result == PGQRS_ERR_WORKER_BUSY)
        return cli_fail(FAILED,
                        "worker %" PRId64
                        " takes no more messages, but still has some: try again later, or free them with "
                        "pgqrs worker release",
                        id);
    return result == PGQRS_OK ? say(c, "stopped", id, 1) : cli_store_failed(c);
}

/* A worker that runs a loop ends it by itself after the message in hand; a row without a loop is shut down here. */
exit_code worker_stop(cli *c)
{
    pgqrs_worker_info *worker;
    exit_code code = get(c, &worker);
    if (code != DONE) return code;
    int64_t id = worker->id;
    pgqrs_worker_state state = worker->state;
    pgqrs_free(worker);
    switch (state) {
    case PGQRS_WORKER_STOPPED:
        return say(c, "unchanged", id, 0);
    case PGQRS_WORKER_INTERRUPTED:
        return say(c, "interrupted", id, 0);
    case PGQRS_WORKER_POLLING:
        code = cli_check(c, pgqrs_worker_interrupt(c->store, id));
        return code == DONE ? say(c, "interrupted", id, 1) : code;
    case PGQRS_WORKER_READY:
        code = cli_check(c, pgqrs_worker_suspend(c->store, id));
        break;
    case PGQRS_WORKER_SUSPENDED:
        break;
    }
    return code == DONE ? shut_down(c, id) : code;
}

exit_code worker_release(cli *c)
{
    pgqrs_worker_info *worker;
    int64_t released = 0;
    exit_code code = get(c, &worker);
    if (code != DONE) return code;
    deed d = {.action = "released", .object = "worker", .id = worker->id};
    pgqrs_free(worker);
    code = cli_check(c, pgqrs_worker_release(c->store, d.id, &released));
    d.count = released;
    if (code == DONE)
        output_said(&c->out, deed_fields, &d, "released %" PRId64 " messages of worker %" PRId64, released, d.id);
    return code;
}

exit_code worker_delete(cli *c)
{
    pgqrs_worker_info *worker;
    exit_code code = get(c, &worker);
    if (code != DONE) return code;
    int64_t id = worker->id;
    bool yes = cli_confirmed(c, &code, "delete worker %" PRId64 ", which is %s", id, state_name((int)worker->state));
    pgqrs_free(worker);
    if (!yes) return code;
    pgqrs_result result = pgqrs_worker_delete(c->store, id, given(c, OPT_FORCE));
    if (result == PGQRS_ERR_WORKER_ACTIVE)
        return cli_fail(FAILED, "worker %" PRId64 " is not stopped: pgqrs worker stop, or --force", id);
    return result == PGQRS_OK ? say(c, "deleted", id, 1) : cli_store_failed(c);
}

exit_code worker_purge(cli *c)
{
    exit_code code = DONE;
    deed d = {.action = "purged", .object = "worker"};
    if (!cli_confirmed(c, &code, "remove the rows of stopped workers")) return code;
    code = cli_check(c, pgqrs_worker_purge(c->store, number_of(c, OPT_OLDER_THAN), &d.count));
    if (code == DONE)
        output_said(&c->out, deed_fields, &d, "removed %" PRId64 " stopped worker%s", d.count, plural(d.count));
    return code;
}

typedef struct reclaimed {
    int64_t workers, messages;
} reclaimed;

const field reclaimed_fields[] = {{"workers", FIELD_INT64, offsetof(reclaimed, workers), FIELD_LISTED, NULL},
                                  {"messages", FIELD_INT64, offsetof(reclaimed, messages), FIELD_LISTED, NULL},
                                  {NULL, FIELD_TEXT, 0, 0, NULL}};

exit_code worker_reclaim(cli *c)
{
    reclaimed r = {0};
    exit_code code = cli_check(c, pgqrs_worker_reclaim(c->store, c->options[OPT_QUEUE].text,
                                                       number_of(c, OPT_OLDER_THAN), &r.workers, &r.messages));
    if (code == DONE)
        output_said(&c->out, reclaimed_fields, &r,
                    "stopped %" PRId64 " workers that were silent, released %" PRId64 " messages", r.workers,
                    r.messages);
    return code;
}
