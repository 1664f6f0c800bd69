/* pgqrs message ..., archive ..., dead ... */
#include "cli.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *state_name(int state)
{
    return pgqrs_state_name((pgqrs_state)state);
}

#define MEMBER(name, type, member, flags)                                                                              \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_message, member), flags, NULL                                                       \
    }
const field message_fields[] = {
    MEMBER("id", FIELD_INT64, id, FIELD_LISTED),
    MEMBER("queue", FIELD_TEXT, queue, 0),
    {"state", FIELD_NAME, offsetof(pgqrs_message, state), FIELD_LISTED, state_name},
    MEMBER("attempt", FIELD_INT32, attempt, FIELD_LISTED),
    MEMBER("priority", FIELD_INT32, priority, FIELD_LISTED),
    MEMBER("enqueued_at", FIELD_TIME, enqueued_at_us, FIELD_LISTED),
    MEMBER("due_at", FIELD_TIME, due_at_us, 0),
    MEMBER("expires_at", FIELD_TIME, expires_at_us, 0),
    MEMBER("finished_at", FIELD_TIME, finished_at_us, 0),
    MEMBER("lease", FIELD_TOKEN, lease, 0),
    MEMBER("lease_until", FIELD_TIME, lease_until_us, 0),
    MEMBER("worker_id", FIELD_INT64, worker_id, FIELD_ZERO_IS_NULL),
    MEMBER("worker", FIELD_TEXT, worker, FIELD_CUT),
    MEMBER("producer", FIELD_TEXT, producer, 0),
    MEMBER("dedup_key", FIELD_TEXT, dedup_key, 0),
    MEMBER("reason", FIELD_TEXT, reason, FIELD_LISTED | FIELD_CUT),
    MEMBER("payload", FIELD_JSON, payload, FIELD_LISTED | FIELD_CUT),
    {NULL, FIELD_TEXT, 0, 0, NULL},
};

/* A delivery knows less. */
const field delivery_fields[] = {
    MEMBER("id", FIELD_INT64, id, FIELD_LISTED),
    MEMBER("queue", FIELD_TEXT, queue, 0),
    MEMBER("attempt", FIELD_INT32, attempt, FIELD_LISTED),
    MEMBER("priority", FIELD_INT32, priority, FIELD_LISTED),
    MEMBER("enqueued_at", FIELD_TIME, enqueued_at_us, FIELD_LISTED),
    MEMBER("lease", FIELD_TOKEN, lease, FIELD_LISTED),
    MEMBER("lease_until", FIELD_TIME, lease_until_us, FIELD_LISTED),
    MEMBER("payload", FIELD_JSON, payload, FIELD_LISTED | FIELD_CUT),
    {NULL, FIELD_TEXT, 0, 0, NULL},
};

typedef struct count_of {
    const char *queue;
    const char *state;
    int64_t count;
} count_of;

const field count_fields[] = {{"queue", FIELD_TEXT, offsetof(count_of, queue), FIELD_LISTED, NULL},
                              {"state", FIELD_TEXT, offsetof(count_of, state), FIELD_LISTED, NULL},
                              {"count", FIELD_INT64, offsetof(count_of, count), FIELD_LISTED, NULL},
                              {NULL, FIELD_TEXT, 0, 0, NULL}};

/* --- send */

static pgqrs_enqueue_desc enqueue_desc(const cli *c)
{
    return (pgqrs_enqueue_desc){.priority = (int32_t)number_of(c, OPT_PRIORITY),
                                .delay_ms = number_of(c, OPT_DELAY),
                                .expire_ms = number_of(c, OPT_EXPIRE),
                                .dedup_key = c->options[OPT_DEDUP_KEY].text,
                                .producer = c->options[OPT_PRODUCER].text};
}

static exit_code show_sent(cli *c, const pgqrs_receipt *receipt)
{
    pgqrs_message *message = NULL;
    if (receipt->duplicate)
        fprintf(stderr, "pgqrs: message %" PRId64 " has this key and is unfinished; nothing was stored\n", receipt->id);
    exit_code code = cli_check(c, pgqrs_message_get(c->store, receipt->id, &message));
    /* Somebody may have taken and removed it by now. */
    deed gone = {.action = "sent", .object = "message", .id = receipt->id, .count = 1};
    if (code == DONE && message) output_one(&c->out, message_fields, message);
    if (code == DONE && !message) output_said(&c->out, deed_fields, &gone, "sent message %" PRId64, receipt->id);
    pgqrs_free(message);
    return code;
}

static exit_code send_one(cli *c, const char *payload)
{
    pgqrs_receipt receipt;
    pgqrs_enqueue_desc desc = enqueue_desc(c);
    if (!*payload) return cli_fail(USAGE, "the payload is empty: give JSON, for example '{\"to\":\"ada\"}'");
    pgqrs_result result = pgqrs_enqueue(c->store, c->operands[0], payload, &desc, &receipt);
    if (result == PGQRS_ERR_JSON) /* which a shell takes off */
        return cli_fail(FAILED, "%s; JSON is best in single quotes: '{\"to\":\"ada\"}', or '\"hello\"'",
                        pgqrs_last_error(c->store)->message);
    return result == PGQRS_OK ? show_sent(c, &receipt) : cli_store_failed(c);
}

/* Lines are stored in groups: each is one commit. */
#define GROUP 500
typedef struct bulk {
    cli *c;
    FILE *file;
    const char *name;
    pgqrs_enqueue_item items[GROUP];
    char *payloads[GROUP];
    int64_t lines[GROUP]; /* where each came from */
    size_t count;
    int64_t line, sent, bytes, size;
    bool progress;
} bulk;

static void show_progress(const bulk *b, bool end)
{
    if (!b->progress) return;
    if (b->size > 0) {
        int percent = (int)(b->bytes * 100 / b->size), done = percent / 4;
        fprintf(stderr, "\r[%.*s%*s] %3d%%  %" PRId64 " message%s", done, "=========================", 25 - done, "",
                percent, b->sent, plural(b->sent));
    } else {
        fprintf(stderr, "\r%" PRId64 " message%s", b->sent, plural(b->sent));
    }
    if (end) fputs("\n", stderr);
}

static void drop_group(bulk *b)
{
    for (size_t i = 0; i < b->count; i++)
        free(b->payloads[i]);
    b->count = 0;
}

static exit_code send_group(bulk *b)
{
    cli *c = b->c;
    if (b->count == 0) return DONE;
    pgqrs_result result = pgqrs_enqueue_many(c->store, c->operands[0], b->items, b->count, NULL);
    if (result == PGQRS_OK) {
        b->sent += (int64_t)b->count;
        drop_group(b);
        show_progress(b, false);
        return DONE;
    }
    pgqrs_error error = *pgqrs_last_error(c->store);
    bool known = error.index >= 0 && (size_t)error.index < b->count;
    char what[sizeof error.message];
    memcpy(what, error.message, sizeof what);
    show_progress(b, true);
    snprintf(error.message, sizeof error.message,
             "%s line %" PRId64 ": %.200s; go on at line %" PRId64 ", before it %" PRId64 " message%s stored", b->name,
             b->lines[known ? error.index : 0], what, b->lines[0], b->sent, b->sent == 1 ? " is" : "s are");
    drop_group(b);
    return cli_error(&error);
}

static exit_code add_line(bulk *b, const char *line, size_t size)
{
    while (size > 0 && (line[size - 1] == '\n' || line[size - 1] == '\r'))
        size--;
    b->line++;
    if (strspn(line, " \t\r\n") >= size) return DONE;
    char *copy = malloc(size + 1);
    if (!copy) return cli_fail(FAILED, "no memory for line %" PRId64, b->line);
    memcpy(copy, line, size);
    copy[size] = 0;
    b->items[b->count] = (pgqrs_enqueue_item){copy, enqueue_desc(b->c)};
    b->items[b->count].desc.payload_size = size;
    b->payloads[b->count] = copy;
    b->lines[b->count++] = b->line;
    return b->count == GROUP ? send_group(b) : DONE;
}

static exit_code send_lines(cli *c, FILE *file, const char *name)
{
    bulk *b = calloc(1, sizeof *b);
    char *line = NULL;
    size_t room = 0;
    ssize_t got;
    exit_code code = DONE;
    if (!b) return cli_fail(FAILED, "no memory");
    b->c = c;
    b->name = name;
    b->progress = isatty(STDERR_FILENO);
    if (fseek(file, 0, SEEK_END) == 0) {
        b->size = ftell(file);
        rewind(file);
    }
    while (code == DONE && !cli_interrupted() && (got = getline(&line, &room, file)) >= 0) {
        b->bytes += got;
        code = add_line(b, line, (size_t)got);
    }
    if (code == DONE && ferror(file) && !cli_interrupted()) code = cli_fail(FAILED, "%s: %s", name, strerror(errno));
    if (code == DONE) code = send_group(b);
    if (code == DONE) show_progress(b, true);
    deed d = {.action = "sent", .object = "queue", .name = c->operands[0], .count = b->sent};
    if (code == DONE)
        output_said(&c->out, deed_fields, &d, "sent %" PRId64 " message%s to queue \"%s\"", d.count, plural(d.count),
                    d.name);
    if (code == DONE && cli_interrupted()) code = cli_fail(FAILED, "interrupted at line %" PRId64, b->line);
    drop_group(b);
    free(line);
    free(b);
    return code;
}

static exit_code send_file(cli *c, const char *name)
{
    char *payload;
    exit_code code = cli_read_file(name, &payload);
    if (code == DONE) code = send_one(c, payload);
    cli_free(payload);
    return code;
}

static exit_code send_lines_of(cli *c, const char *name)
{
    cli_catch_signals(c);
    if (strcmp(name, "-") == 0) return send_lines(c, stdin, "standard input");
    FILE *file = fopen(name, "re");
    if (!file) return cli_fail(FAILED, "%s: %s", name, strerror(errno));
    exit_code code = send_lines(c, file, name);
    fclose(file);
    return code;
}

exit_code message_send(cli *c)
{
    const char *name = c->options[OPT_FILE].text, *json = c->operand_count > 1 ? c->operands[1] : NULL;
    if (json && (name || given(c, OPT_LINES)))
        return cli_fail(USAGE, "the payload is either an argument or comes from --file or standard input");
    if (given(c, OPT_LINES) && given(c, OPT_DEDUP_KEY))
        return cli_fail(USAGE, "--dedup-key is one message's; it does not go together with --lines");
    if (json && strcmp(json, "-") != 0) return send_one(c, json);
    if (!name) name = "-";
    return given(c, OPT_LINES) ? send_lines_of(c, name) : send_file(c, name);
}

/* --- read, dequeue */

static bool read_state(cli *c, pgqrs_state *state, exit_code *code)
{
    const char *name = c->options[OPT_STATE].text;
    *state = (pgqrs_state)c->command->variant;
    if (given(c, OPT_ARCHIVE)) *state = PGQRS_ARCHIVED;
    if (!name) return true;
    for (int i = PGQRS_READY; i <= PGQRS_DEAD; i++) {
        if (strcmp(state_name(i), name) != 0) continue;
        *state = (pgqrs_state)i;
        return true;
    }
    *code = cli_fail(USAGE, "--state: \"%s\" is not one of ready, delayed, leased, archived, dead", name);
    return false;
}

exit_code message_list_filtered(cli *c, pgqrs_message_filter *filter, int64_t limit)
{
    exit_code code = DONE;
    filter->after_id = number_of(c, OPT_AFTER);
    output_begin(&c->out, message_fields);
    for (int64_t left = limit; left > 0 && code == DONE;) {
        pgqrs_messages *page;
        filter->limit = left < LIST_PAGE ? (size_t)left : LIST_PAGE;
        code = cli_check(c, pgqrs_message_list(c->store, filter, &page));
        if (code != DONE) break;
        output_rows(&c->out, page->items, page->count, sizeof *page->items);
        left = page->count < filter->limit ? 0 : left - (int64_t)page->count;
        if (page->count > 0) filter->after_id = page->items[page->count - 1].id;
        pgqrs_free(page);
    }
    return output_ended(&c->out, code);
}

static exit_code list(cli *c, pgqrs_state state, int64_t limit)
{
    pgqrs_message_filter filter = {.queue = c->operands[0], .state = state};
    return message_list_filtered(c, &filter, limit);
}

exit_code message_list(cli *c)
{
    pgqrs_state state;
    exit_code code;
    if (!read_state(c, &state, &code)) return code;
    return list(c, state, given(c, OPT_LIMIT) ? number_of(c, OPT_LIMIT) : LIST_LIMIT);
}

/* Nobody has seen them: back at once. When that fails too their leases end by themselves. */
static exit_code give_back(cli *c, const pgqrs_message *messages, size_t count)
{
    pgqrs_release_desc unread = {.give_back = true};
    exit_code code = count > 0 ? cli_check(c, pgqrs_release_many(c->store, messages, count, &unread, NULL)) : DONE;
    if (code != DONE || !cli_interrupted()) return code;
    return cli_fail(FAILED, count > 0 ? "interrupted; what was taken is given back" : "interrupted");
}

/* The documented default of this command, not the queue's. */
#define READ_LOCK_MS 5000

exit_code message_read(cli *c)
{
    pgqrs_messages *messages = NULL;
    int64_t count = given(c, OPT_COUNT) ? number_of(c, OPT_COUNT) : 1;
    if (given(c, OPT_ARCHIVE)) return list(c, PGQRS_ARCHIVED, count);
    pgqrs_dequeue_desc desc = {.limit = (size_t)count,
                               .lease_ms = given(c, OPT_LOCK_TIME) ? number_of(c, OPT_LOCK_TIME) : READ_LOCK_MS,
                               .wait_ms = number_of(c, OPT_WAIT)};
    cli_catch_signals(c);
    exit_code code = cli_check(c, pgqrs_dequeue_many(c->store, c->operands[0], &desc, &messages));
    if (code != DONE) return code;
    if (cli_interrupted()) {
        code = give_back(c, messages->items, messages->count);
        pgqrs_free(messages);
        return code;
    }
    output_begin(&c->out, delivery_fields);
    output_rows(&c->out, messages->items, messages->count, sizeof *messages->items);
    output_end(&c->out);
    if (!output_flush(&c->out)) give_back(c, messages->items, messages->count);
    pgqrs_free(messages);
    return code;
}

exit_code message_dequeue(cli *c)
{
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc desc = {.wait_ms = number_of(c, OPT_WAIT)};
    cli_catch_signals(c);
    exit_code code = cli_check(c, pgqrs_dequeue(c->store, c->operands[0], &desc, &message));
    if (code != DONE) return code;
    if (cli_interrupted()) {
        code = give_back(c, message, message ? 1 : 0);
        pgqrs_free(message);
        return code;
    }
    if (!message) return cli_fail(NOT_FOUND, "there is nothing to take in queue \"%s\"", c->operands[0]);
    /* First shown, then archived: what nobody saw must not be lost. */
    pgqrs_message shown = *message;
    shown.lease = shown.lease_until_us = 0; /* it has ended when anybody reads this */
    output_one(&c->out, delivery_fields, &shown);
    code = output_flush(&c->out) ? cli_check(c, pgqrs_archive(c->store, message)) : give_back(c, message, 1);
    pgqrs_free(message);
    return code;
}

/* --- show, explain, count */

/* The message ID of the queue QUEUE, in `state` unless that is 0. */
static exit_code find(cli *c, const char *id_text, pgqrs_state state, pgqrs_message **message)
{
    int64_t id;
    *message = NULL;
    exit_code code = cli_read_id(id_text, &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_message_get(c->store, id, message));
    if (code != DONE) return code;
    if (*message && strcmp((*message)->queue, c->operands[0]) == 0 && (state == 0 || (*message)->state == state))
        return DONE;
    pgqrs_free(*message);
    *message = NULL;
    return cli_fail(NOT_FOUND, "there is no %s%smessage %" PRId64 " in queue \"%s\"",
                    state ? pgqrs_state_name(state) : "", state ? " " : "", id, c->operands[0]);
}

exit_code message_show(cli *c)
{
    pgqrs_message *message;
    pgqrs_state state;
    exit_code code;
    if (!read_state(c, &state, &code)) return code;
    code = find(c, c->operands[1], state, &message);
    if (code == DONE) output_one(&c->out, message_fields, message);
    pgqrs_free(message);
    return code;
}

typedef struct why {
    int64_t id;
    int reason;
    int64_t until_us;
    int64_t worker_id;
    const char *text;
} why;

static const char *reason_name(int reason)
{
    return pgqrs_reason_name((pgqrs_reason)reason);
}

const field why_fields[] = {
    {"id", FIELD_INT64, offsetof(why, id), FIELD_LISTED, NULL},
    {"reason", FIELD_NAME, offsetof(why, reason), FIELD_LISTED, reason_name},
    {"until", FIELD_TIME, offsetof(why, until_us), FIELD_LISTED, NULL},
    {"worker_id", FIELD_INT64, offsetof(why, worker_id), FIELD_LISTED | FIELD_ZERO_IS_NULL, NULL},
    {"text", FIELD_TEXT, offsetof(why, text), FIELD_LISTED, NULL},
    {NULL, FIELD_TEXT, 0, 0, NULL}};

void explanation_show(cli *c, int64_t id, pgqrs_explanation *e)
{
    why w = {.id = id, .reason = (int)e->reason, .until_us = e->until_us, .worker_id = e->worker_id, .text = e->text};
    cli_reword(e->text, sizeof e->text);
    output_said(&c->out, why_fields, &w, "%s", w.text);
}

exit_code message_explain(cli *c)
{
    pgqrs_message *message;
    pgqrs_explanation explanation;
    exit_code code = find(c, c->operands[1], (pgqrs_state)0, &message);
    if (code == DONE) code = cli_check(c, pgqrs_message_explain(c->store, message->id, &explanation));
    if (code == DONE) explanation_show(c, message->id, &explanation);
    pgqrs_free(message);
    return code;
}

/* Pending: not finished, and nobody has it. Both numbers come from one snapshot. */
static exit_code count_pending(cli *c, int64_t *count)
{
    pgqrs_metrics *metrics = NULL;
    exit_code code = cli_check(c, pgqrs_metrics_get(c->store, c->operands[0], &metrics));
    if (code == DONE) *count = metrics->items[0].ready + metrics->items[0].delayed;
    pgqrs_free(metrics);
    return code;
}

exit_code message_count(cli *c)
{
    pgqrs_message_filter filter = {.queue = c->operands[0]};
    count_of result = {.queue = c->operands[0], .state = "pending"};
    exit_code code;
    if (!read_state(c, &filter.state, &code)) return code;
    if (filter.state) {
        result.state = pgqrs_state_name(filter.state);
        code = cli_check(c, pgqrs_message_count(c->store, &filter, &result.count));
    } else {
        code = count_pending(c, &result.count);
    }
    if (code == DONE) output_said(&c->out, count_fields, &result, "%" PRId64, result.count);
    return code;
}

/* --- what changes a message. Each id is done by itself; the first that fails ends the command. */

/* The delivery that is meant: the one a script has read, or whichever there is. */
static exit_code find_delivery(cli *c, const char *id_text, pgqrs_message **message)
{
    exit_code code = find(c, id_text, (pgqrs_state)0, message);
    if (code != DONE) return code;
    if ((*message)->lease == 0)
        code = cli_fail(FAILED, "message %" PRId64 " is %s, nobody has it: take it first, with pgqrs message read",
                        (*message)->id, pgqrs_state_name((*message)->state));
    else if (given(c, OPT_LEASE) && number_of(c, OPT_LEASE) != (*message)->lease)
        code = cli_fail(FAILED, "the lease of message %" PRId64 " has ended, and somebody else has it now",
                        (*message)->id);
    return code;
}

static exit_code change_each(cli *c, const char *action, exit_code (*carry_out)(cli *c, const pgqrs_message *message),
                             exit_code (*look_up)(cli *c, const char *id_text, pgqrs_message **message))
{
    deed d = {.action = action, .object = "message", .name = c->operands[0]};
    exit_code code = DONE;
    for (int i = 1; i < c->operand_count && code == DONE; i++) {
        pgqrs_message *message = NULL;
        code = look_up(c, c->operands[i], &message);
        if (code == DONE) code = carry_out(c, message);
        if (code == DONE) d.count++;
        if (message) d.id = c->operand_count == 2 ? message->id : 0;
        pgqrs_free(message);
    }
    if (code != DONE && d.count > 0) cli_say("%s only the first %" PRId64, action, d.count);
    if (code != DONE) return code;
    output_said(&c->out, deed_fields, &d, "%s %" PRId64 " message%s of queue \"%s\"", action, d.count, plural(d.count),
                d.name);
    return DONE;
}

static exit_code archive(cli *c, const pgqrs_message *message)
{
    return cli_check(c, pgqrs_archive(c->store, message));
}

static exit_code release(cli *c, const pgqrs_message *message)
{
    pgqrs_release_desc desc = {.delay_ms = number_of(c, OPT_DELAY),
                               .give_back = given(c, OPT_GIVE_BACK),
                               .reason = c->options[OPT_REASON].text};
    return cli_check(c, pgqrs_release(c->store, message, &desc));
}

static exit_code extend(cli *c, const pgqrs_message *message)
{
    return cli_check(c, pgqrs_extend(c->store, message, number_of(c, OPT_LOCK_TIME)));
}

exit_code message_archive(cli *c)
{
    return change_each(c, "archived", archive, find_delivery);
}

exit_code message_release(cli *c)
{
    if (given(c, OPT_GIVE_BACK) && given(c, OPT_REASON))
        return cli_fail(USAGE, "--give-back says that nothing failed; it has no --reason");
    return change_each(c, "released", release, find_delivery);
}

exit_code message_extend(cli *c)
{
    return change_each(c, "extended", extend, find_delivery);
}

static exit_code find_any(cli *c, const char *id_text, pgqrs_message **message)
{
    return find(c, id_text, (pgqrs_state)0, message);
}

static exit_code find_dead(cli *c, const char *id_text, pgqrs_message **message)
{
    return find(c, id_text, PGQRS_DEAD, message);
}

static exit_code replay(cli *c, const pgqrs_message *message)
{
    return cli_check(c, pgqrs_message_replay(c->store, message->id));
}

static exit_code delete (cli *c, const pgqrs_message *message)
{
    pgqrs_result result = PGQRS_OK;
    exit_code code = cli_check(c, pgqrs_message_delete(c->store, &message->id, 1, given(c, OPT_FORCE), &result));
    if (code != DONE || result == PGQRS_OK) return code;
    if (result == PGQRS_ERR_MESSAGE_NOT_FOUND)
        return cli_fail(NOT_FOUND, "message %" PRId64 " is gone already", message->id);
    return cli_fail(FAILED, "somebody has message %" PRId64 "; it goes all the same with --force", message->id);
}

exit_code message_requeue(cli *c)
{
    return change_each(c, "requeued", replay, find_any);
}

exit_code message_delete(cli *c)
{
    exit_code code = DONE;
    int count = c->operand_count - 1;
    if (!cli_confirmed(c, &code, "delete %d message%s of queue \"%s\"", count, plural(count), c->operands[0]))
        return code;
    return change_each(c, "deleted", delete, find_any);
}

exit_code dead_replay(cli *c)
{
    if (given(c, OPT_ALL) == (c->operand_count > 1)) return cli_fail(USAGE, "which ones? Give their ids, or --all");
    if (!given(c, OPT_ALL)) return change_each(c, "replayed", replay, find_dead);
    deed d = {.action = "replayed", .object = "queue", .name = c->operands[0]};
    exit_code code = cli_check(c, pgqrs_dead_replay_all(c->store, c->operands[0], &d.count));
    if (code == DONE)
        output_said(&c->out, deed_fields, &d, "replayed %" PRId64 " dead letter%s of queue \"%s\"", d.count,
                    plural(d.count), d.name);
    return code;
}
