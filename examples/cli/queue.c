/* pgqrs queue ... */
#include "cli.h"
#include <string.h>

#define SETTING(name, type, member)                                                                                    \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_queue, settings.member), FIELD_LISTED, NULL                                         \
    }
const field queue_fields[] = {{"id", FIELD_INT64, offsetof(pgqrs_queue, id), FIELD_LISTED, NULL},
                              {"name", FIELD_TEXT, offsetof(pgqrs_queue, name), FIELD_LISTED | FIELD_CUT, NULL},
                              SETTING("paused", FIELD_BOOL, paused),
                              SETTING("lease_ms", FIELD_MS, lease_ms),
                              SETTING("max_attempts", FIELD_INT32, max_attempts),
                              SETTING("backoff_ms", FIELD_MS, backoff_ms),
                              SETTING("backoff_max_ms", FIELD_MS, backoff_max_ms),
                              SETTING("retention_ms", FIELD_MS, retention_ms),
                              SETTING("dead_retention_ms", FIELD_MS, dead_retention_ms),
                              {"created_at", FIELD_TIME, offsetof(pgqrs_queue, created_at_us), FIELD_LISTED, NULL},
                              {NULL, FIELD_TEXT, 0, 0, NULL}};

#define METRIC(name, type, member, flags)                                                                              \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_queue_metrics, member), flags, NULL                                                 \
    }
const field metrics_fields[] = {METRIC("queue", FIELD_TEXT, queue, FIELD_LISTED | FIELD_CUT),
                                METRIC("paused", FIELD_BOOL, paused, FIELD_LISTED),
                                METRIC("total", FIELD_INT64, total, FIELD_LISTED),
                                METRIC("ready", FIELD_INT64, ready, FIELD_LISTED),
                                METRIC("delayed", FIELD_INT64, delayed, FIELD_LISTED),
                                METRIC("leased", FIELD_INT64, leased, FIELD_LISTED),
                                METRIC("archived", FIELD_INT64, archived, FIELD_LISTED),
                                METRIC("dead", FIELD_INT64, dead, FIELD_LISTED),
                                METRIC("live_workers", FIELD_INT64, live_workers, FIELD_LISTED),
                                METRIC("oldest_ready_ms", FIELD_MS, oldest_ready_ms, FIELD_LISTED),
                                METRIC("lease_expiries", FIELD_INT64, lease_expiries, 0),
                                METRIC("oldest_unfinished_at", FIELD_TIME, oldest_unfinished_at_us, 0),
                                METRIC("newest_at", FIELD_TIME, newest_at_us, 0),
                                {NULL, FIELD_TEXT, 0, 0, NULL}};

/* A retention of 0 is written as "keep": to the library 0 means that nothing was said. */
static int64_t retention(const cli *c, option_id id)
{
    return given(c, id) && number_of(c, id) == 0 ? -1 : number_of(c, id);
}

static pgqrs_queue_desc settings_of(const cli *c)
{
    return (pgqrs_queue_desc){.lease_ms = number_of(c, OPT_LOCK_TIME),
                              .max_attempts = (int32_t)number_of(c, OPT_MAX_ATTEMPTS),
                              .backoff_ms = number_of(c, OPT_BACKOFF),
                              .backoff_max_ms = number_of(c, OPT_BACKOFF_MAX),
                              .retention_ms = number_of(c, OPT_RETENTION),
                              .dead_retention_ms = number_of(c, OPT_DEAD_RETENTION)};
}

static exit_code get(cli *c, pgqrs_queue **queue)
{
    exit_code code = cli_check(c, pgqrs_queue_get(c->store, c->operands[0], queue));
    if (code == DONE && !*queue)
        return cli_fail(NOT_FOUND, "there is no queue \"%s\"; see: pgqrs queue list", c->operands[0]);
    return code;
}

static exit_code say(cli *c, const char *action, int64_t count)
{
    deed d = {.action = action, .object = "queue", .name = c->operands[0], .count = count};
    output_said(&c->out, deed_fields, &d, "%s queue \"%s\"", action, c->operands[0]);
    return DONE;
}

exit_code queue_create(cli *c)
{
    pgqrs_queue_desc desc = settings_of(c);
    desc.paused = given(c, OPT_PAUSED);
    desc.must_be_new = true;
    pgqrs_result result = pgqrs_queue_create(c->store, c->operands[0], &desc);
    if (result == PGQRS_ERR_QUEUE_EXISTS && given(c, OPT_IF_MISSING)) return say(c, "unchanged", 0);
    if (result == PGQRS_ERR_QUEUE_EXISTS)
        return cli_fail(FAILED, "queue \"%s\" is there already; its settings: pgqrs queue update", c->operands[0]);
    return result == PGQRS_OK ? say(c, "created", 1) : cli_store_failed(c);
}

exit_code queue_update(cli *c)
{
    pgqrs_queue_desc desc = settings_of(c);
    desc.retention_ms = retention(c, OPT_RETENTION);
    desc.dead_retention_ms = retention(c, OPT_DEAD_RETENTION);
    exit_code code = cli_check(c, pgqrs_queue_update(c->store, c->operands[0], &desc));
    return code == DONE ? say(c, "updated", 1) : code;
}

exit_code queue_list(cli *c)
{
    int64_t after = number_of(c, OPT_AFTER), left = given(c, OPT_LIMIT) ? number_of(c, OPT_LIMIT) : LIST_LIMIT;
    exit_code code = DONE;
    output_begin(&c->out, queue_fields);
    while (left > 0 && code == DONE) {
        pgqrs_queues *page;
        size_t limit = left < LIST_PAGE ? (size_t)left : LIST_PAGE;
        code = cli_check(c, pgqrs_queue_list(c->store, after, limit, &page));
        if (code != DONE) break;
        output_rows(&c->out, page->items, page->count, sizeof *page->items);
        left = page->count < limit ? 0 : left - (int64_t)page->count;
        after = page->count > 0 ? page->items[page->count - 1].id : after;
        pgqrs_free(page);
    }
    return output_ended(&c->out, code);
}

exit_code queue_get(cli *c)
{
    pgqrs_queue *queue = NULL;
    exit_code code = get(c, &queue);
    if (code == DONE) output_one(&c->out, queue_fields, queue);
    pgqrs_free(queue);
    return code;
}

static exit_code count_messages(cli *c, int64_t *total)
{
    pgqrs_metrics *metrics = NULL;
    exit_code code = cli_check(c, pgqrs_metrics_get(c->store, c->operands[0], &metrics));
    if (code == DONE) *total = metrics->count > 0 ? metrics->items[0].total : 0;
    pgqrs_free(metrics);
    return code;
}

exit_code queue_delete(cli *c)
{
    int64_t total = 0;
    exit_code code = count_messages(c, &total);
    if (code != DONE) return code;
    if (!cli_confirmed(c, &code, "delete queue \"%s\" with %lld message%s", c->operands[0], (long long)total,
                       plural(total)))
        return code;
    pgqrs_result result = pgqrs_queue_delete(c->store, c->operands[0], given(c, OPT_FORCE));
    if (result == PGQRS_ERR_QUEUE_NOT_EMPTY)
        return cli_fail(FAILED, "queue \"%s\" has messages or live workers; they go too with --force", c->operands[0]);
    return result == PGQRS_OK ? say(c, "deleted", total) : cli_store_failed(c);
}

static bool purge_of(const char *state, pgqrs_purge *what)
{
    static const char *const names[] = {"all", "archived", "dead", "unfinished"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(names[i], state ? state : "all") != 0) continue;
        *what = (pgqrs_purge)i;
        return true;
    }
    return false;
}

static exit_code purge(cli *c, pgqrs_purge what)
{
    static const char *const words[] = {"all", "the archived", "the dead", "the unfinished"};
    exit_code code = DONE;
    bool exists;
    pgqrs_purge_desc desc = {.what = what, .older_than_ms = number_of(c, OPT_OLDER_THAN)};
    const char *age = given(c, OPT_OLDER_THAN) ? c->options[OPT_OLDER_THAN].text : "";
    code = cli_check(c, pgqrs_queue_exists(c->store, c->operands[0], &exists));
    if (code == DONE && !exists)
        return cli_fail(NOT_FOUND, "there is no queue \"%s\"; see: pgqrs queue list", c->operands[0]);
    if (code != DONE) return code;
    if (!cli_confirmed(c, &code, "remove %s messages%s%s of queue \"%s\"", words[what], *age ? " older than " : "", age,
                       c->operands[0]))
        return code;
    deed d = {.action = "purged", .object = "queue", .name = c->operands[0]};
    code = cli_check(c, pgqrs_queue_purge(c->store, c->operands[0], &desc, &d.count));
    if (code != DONE) return code;
    output_said(&c->out, deed_fields, &d, "removed %lld message%s of queue \"%s\"", (long long)d.count, plural(d.count),
                d.name);
    return DONE;
}

exit_code queue_purge(cli *c)
{
    pgqrs_purge what;
    const char *state = c->options[OPT_STATE].text;
    if (!purge_of(state, &what))
        return cli_fail(USAGE, "--state: \"%s\" is not one of all, unfinished, archived, dead", state);
    return purge(c, what);
}

exit_code archive_purge(cli *c)
{
    return purge(c, PGQRS_PURGE_ARCHIVED);
}

static exit_code change_all(cli *c, const char *action, bool paused)
{
    deed d = {.action = action, .object = "queue"};
    exit_code code = DONE;
    int64_t after = 0;
    size_t got = 1;
    while (code == DONE && got > 0) {
        pgqrs_queues *page = NULL;
        code = cli_check(c, pgqrs_queue_list(c->store, after, LIST_PAGE, &page));
        got = code == DONE ? page->count : 0;
        for (size_t i = 0; i < got && code == DONE; i++) {
            const pgqrs_queue *queue = &page->items[i];
            after = queue->id;
            if (queue->settings.paused == paused) continue;
            code = cli_check(c, paused ? pgqrs_queue_pause(c->store, queue->name)
                                       : pgqrs_queue_resume(c->store, queue->name));
            if (code == DONE) d.count++;
        }
        pgqrs_free(page);
    }
    if (code == DONE)
        output_said(&c->out, deed_fields, &d, "%s %lld queue%s", action, (long long)d.count, plural(d.count));
    return code;
}

static exit_code change(cli *c, const char *action, bool paused)
{
    if (given(c, OPT_ALL) == (c->operand_count > 0)) return cli_fail(USAGE, "which one? Give its name, or --all");
    if (given(c, OPT_ALL)) return change_all(c, action, paused);
    exit_code code = cli_check(c, paused ? pgqrs_queue_pause(c->store, c->operands[0])
                                         : pgqrs_queue_resume(c->store, c->operands[0]));
    return code == DONE ? say(c, action, 1) : code;
}

exit_code queue_pause(cli *c)
{
    return change(c, "paused", true);
}

exit_code queue_resume(cli *c)
{
    return change(c, "resumed", false);
}

exit_code queue_metrics(cli *c)
{
    pgqrs_metrics *metrics = NULL;
    bool one = c->operand_count > 0;
    exit_code code = cli_check(c, pgqrs_metrics_get(c->store, one ? c->operands[0] : NULL, &metrics));
    if (code != DONE) return code;
    if (one) {
        output_one(&c->out, metrics_fields, &metrics->items[0]);
    } else {
        output_begin(&c->out, metrics_fields);
        output_rows(&c->out, metrics->items, metrics->count, sizeof *metrics->items);
        output_end(&c->out);
    }
    pgqrs_free(metrics);
    return DONE;
}
