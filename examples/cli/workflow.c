/* pgqrs workflow ..., run ... */
#include "cli.h"
#include <inttypes.h>
#include <string.h>

/* --- workflows */

#define SETTING(name, type, member, flags)                                                                             \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_workflow, settings.member), flags, NULL                                             \
    }
const field workflow_fields[] = {
    {"id", FIELD_INT64, offsetof(pgqrs_workflow, id), FIELD_LISTED, NULL},
    {"name", FIELD_TEXT, offsetof(pgqrs_workflow, name), FIELD_LISTED | FIELD_CUT, NULL},
    SETTING("queue", FIELD_TEXT, queue, FIELD_LISTED | FIELD_CUT),
    SETTING("max_retries", FIELD_INT32, retry.max_retries, FIELD_LISTED | FIELD_NONE_IS_NEGATIVE),
    SETTING("retry_base_ms", FIELD_MS, retry.base_ms, FIELD_LISTED),
    SETTING("retry_cap_ms", FIELD_MS, retry.cap_ms, FIELD_LISTED),
    SETTING("timeout_ms", FIELD_MS, timeout_ms, FIELD_LISTED),
    SETTING("step_timeout_ms", FIELD_MS, step_timeout_ms, 0),
    SETTING("retention_ms", FIELD_MS, retention_ms, FIELD_LISTED),
    SETTING("failed_retention_ms", FIELD_MS, failed_retention_ms, 0),
    {"created_at", FIELD_TIME, offsetof(pgqrs_workflow, created_at_us), FIELD_LISTED, NULL},
    {NULL, FIELD_TEXT, 0, 0, NULL}};

static exit_code say(cli *c, const char *action, int64_t count)
{
    deed d = {.action = action, .object = "workflow", .name = c->operands[0], .count = count};
    output_said(&c->out, deed_fields, &d, "%s workflow \"%s\"", action, d.name);
    return DONE;
}

exit_code workflow_list(cli *c)
{
    int64_t after = number_of(c, OPT_AFTER), left = given(c, OPT_LIMIT) ? number_of(c, OPT_LIMIT) : LIST_LIMIT;
    exit_code code = DONE;
    output_begin(&c->out, workflow_fields);
    while (left > 0 && code == DONE) {
        pgqrs_workflows *page;
        size_t limit = left < LIST_PAGE ? (size_t)left : LIST_PAGE;
        code = cli_check(c, pgqrs_workflow_list(c->store, after, limit, &page));
        if (code != DONE) break;
        output_rows(&c->out, page->items, page->count, sizeof *page->items);
        left = page->count < limit ? 0 : left - (int64_t)page->count;
        after = page->count > 0 ? page->items[page->count - 1].id : after;
        pgqrs_free(page);
    }
    return output_ended(&c->out, code);
}

exit_code workflow_get(cli *c)
{
    pgqrs_workflow *workflow = NULL;
    exit_code code = cli_check(c, pgqrs_workflow_get(c->store, c->operands[0], &workflow));
    if (code == DONE && !workflow)
        code = cli_fail(NOT_FOUND, "there is no workflow \"%s\"; see: pgqrs workflow list", c->operands[0]);
    if (code == DONE) output_one(&c->out, workflow_fields, workflow);
    pgqrs_free(workflow);
    return code;
}

exit_code workflow_create(cli *c)
{
    /* 0 retries are -1 to the library, where 0 means that nothing was said. */
    bool none = given(c, OPT_MAX_RETRIES) && number_of(c, OPT_MAX_RETRIES) == 0;
    pgqrs_workflow_desc desc = {.queue = c->options[OPT_QUEUE].text,
                                .retry = {.max_retries = none ? -1 : (int32_t)number_of(c, OPT_MAX_RETRIES),
                                          .base_ms = number_of(c, OPT_BACKOFF),
                                          .cap_ms = number_of(c, OPT_BACKOFF_MAX)},
                                .lease_ms = number_of(c, OPT_LOCK_TIME),
                                .max_attempts = (int32_t)number_of(c, OPT_MAX_ATTEMPTS),
                                .timeout_ms = number_of(c, OPT_TIMEOUT),
                                .retention_ms = number_of(c, OPT_RETENTION),
                                .failed_retention_ms = number_of(c, OPT_FAILED_RETENTION),
                                .must_be_new = true};
    pgqrs_result result = pgqrs_workflow_create(c->store, c->operands[0], &desc);
    if (result == PGQRS_ERR_WORKFLOW_EXISTS && given(c, OPT_IF_MISSING)) return say(c, "unchanged", 0);
    if (result == PGQRS_ERR_WORKFLOW_EXISTS)
        return cli_fail(FAILED, "workflow \"%s\" is there already; that is fine with --if-missing", c->operands[0]);
    return result == PGQRS_OK ? say(c, "created", 1) : cli_store_failed(c);
}

exit_code workflow_delete(cli *c)
{
    int64_t runs = 0;
    pgqrs_run_filter filter = {.workflow = c->operands[0]};
    exit_code code = cli_check(c, pgqrs_run_count(c->store, &filter, &runs));
    if (code != DONE) return code;
    if (!cli_confirmed(c, &code, "delete workflow \"%s\" with %" PRId64 " runs", c->operands[0], runs)) return code;
    pgqrs_result result = pgqrs_workflow_delete(c->store, c->operands[0], given(c, OPT_FORCE));
    if (result == PGQRS_ERR_WORKFLOW_NOT_EMPTY)
        return cli_fail(FAILED, "workflow \"%s\" has runs that have not ended; they go too with --force",
                        c->operands[0]);
    return result == PGQRS_OK ? say(c, "deleted", runs) : cli_store_failed(c);
}

/* --- runs */

static const char *run_state_name(int state)
{
    return pgqrs_run_state_name((pgqrs_run_state)state);
}

static const char *wait_name(int wait)
{
    return pgqrs_run_wait_name((pgqrs_run_wait)wait);
}

#define MEMBER(name, type, member, flags)                                                                              \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_run_info, member), flags, NULL                                                      \
    }
const field run_fields[] = {
    MEMBER("id", FIELD_INT64, id, FIELD_LISTED),
    MEMBER("workflow", FIELD_TEXT, workflow, FIELD_LISTED | FIELD_CUT),
    MEMBER("queue", FIELD_TEXT, queue, 0),
    {"state", FIELD_NAME, offsetof(pgqrs_run_info, state), FIELD_LISTED, run_state_name},
    {"wait", FIELD_NAME, offsetof(pgqrs_run_info, wait), FIELD_LISTED | FIELD_ZERO_IS_NULL, wait_name},
    MEMBER("wait_name", FIELD_TEXT, wait_name, FIELD_LISTED | FIELD_CUT),
    MEMBER("wait_until", FIELD_TIME, wait_until_us, 0),
    MEMBER("triggered_at", FIELD_TIME, triggered_at_us, FIELD_LISTED),
    MEMBER("started_at", FIELD_TIME, started_at_us, 0),
    MEMBER("finished_at", FIELD_TIME, finished_at_us, 0),
    MEMBER("deadline_at", FIELD_TIME, deadline_at_us, 0),
    MEMBER("attempt", FIELD_INT32, attempt, FIELD_LISTED),
    MEMBER("retries", FIELD_INT32, retries, 0),
    MEMBER("idempotency_key", FIELD_TEXT, idempotency_key, 0),
    MEMBER("cancel_requested_at", FIELD_TIME, cancel_requested_at_us, 0),
    MEMBER("cancelled_by", FIELD_TEXT, cancelled_by, 0),
    MEMBER("cancel_reason", FIELD_TEXT, cancel_reason, 0),
    MEMBER("worker_id", FIELD_INT64, worker_id, FIELD_ZERO_IS_NULL),
    MEMBER("worker", FIELD_TEXT, worker, 0),
    MEMBER("lease_until", FIELD_TIME, lease_until_us, 0),
    MEMBER("forked_from", FIELD_INT64, forked_from, FIELD_ZERO_IS_NULL),
    MEMBER("error_step", FIELD_TEXT, error_step, 0),
    MEMBER("error_code", FIELD_TEXT, error_code, FIELD_LISTED | FIELD_CUT),
    MEMBER("error_message", FIELD_TEXT, error_message, FIELD_LISTED | FIELD_CUT),
    MEMBER("input", FIELD_JSON, input, FIELD_LISTED | FIELD_CUT),
    MEMBER("output", FIELD_JSON, output, FIELD_LISTED | FIELD_CUT),
    {NULL, FIELD_TEXT, 0, 0, NULL}};

static const char *step_state_name(int state)
{
    return pgqrs_step_state_name((pgqrs_step_state)state);
}

static const char *step_kind_name(int kind)
{
    return pgqrs_step_kind_name((pgqrs_step_kind)kind);
}

#define STEP(name, type, member, flags)                                                                                \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_step_info, member), flags, NULL                                                     \
    }
const field step_fields[] = {STEP("number", FIELD_INT32, number, FIELD_LISTED),
                             STEP("name", FIELD_TEXT, name, FIELD_LISTED | FIELD_CUT),
                             STEP("key", FIELD_TEXT, key, FIELD_LISTED | FIELD_CUT),
                             {"kind", FIELD_NAME, offsetof(pgqrs_step_info, kind), FIELD_LISTED, step_kind_name},
                             {"state", FIELD_NAME, offsetof(pgqrs_step_info, state), FIELD_LISTED, step_state_name},
                             STEP("retries", FIELD_INT32, retries, FIELD_LISTED),
                             STEP("started_at", FIELD_TIME, started_at_us, FIELD_LISTED),
                             STEP("finished_at", FIELD_TIME, finished_at_us, 0),
                             STEP("due_at", FIELD_TIME, due_at_us, FIELD_LISTED),
                             STEP("error_code", FIELD_TEXT, error_code, FIELD_LISTED | FIELD_CUT),
                             STEP("error_message", FIELD_TEXT, error_message, 0),
                             STEP("input", FIELD_JSON, input, 0),
                             STEP("output", FIELD_JSON, output, FIELD_LISTED | FIELD_CUT),
                             {NULL, FIELD_TEXT, 0, 0, NULL}};

#define VALUE(name, type, member)                                                                                      \
    {                                                                                                                  \
        name, type, offsetof(pgqrs_run_value_info, member), FIELD_LISTED, NULL                                         \
    }
const field value_fields[] = {VALUE("name", FIELD_TEXT, name),
                              VALUE("value", FIELD_JSON, value),
                              VALUE("set_at", FIELD_TIME, set_at_us),
                              {NULL, FIELD_TEXT, 0, 0, NULL}};

typedef struct triggered {
    const char *workflow;
    int64_t id;
    bool duplicate;
} triggered;

const field triggered_fields[] = {{"workflow", FIELD_TEXT, offsetof(triggered, workflow), FIELD_LISTED, NULL},
                                  {"id", FIELD_INT64, offsetof(triggered, id), FIELD_LISTED, NULL},
                                  {"duplicate", FIELD_BOOL, offsetof(triggered, duplicate), FIELD_LISTED, NULL},
                                  {NULL, FIELD_TEXT, 0, 0, NULL}};

/* The input: an argument, or a file. */
static exit_code trigger(cli *c, const char *input)
{
    pgqrs_receipt receipt;
    pgqrs_trigger_item item = {.input = input,
                               .desc = {.priority = (int32_t)number_of(c, OPT_PRIORITY),
                                        .delay_ms = number_of(c, OPT_DELAY),
                                        .idempotency_key = c->options[OPT_KEY].text}};
    exit_code code = cli_check(c, pgqrs_workflow_trigger_many(c->store, c->operands[0], &item, 1, &receipt));
    if (code != DONE) return code;
    triggered t = {c->operands[0], receipt.id, receipt.duplicate};
    output_said(&c->out, triggered_fields, &t,
                t.duplicate ? "run %" PRId64 " of workflow \"%s\" has this key already"
                            : "run %" PRId64 " of workflow \"%s\"",
                t.id, t.workflow);
    return DONE;
}

exit_code run_trigger(cli *c)
{
    const char *file = c->options[OPT_FILE].text, *input = c->operand_count > 1 ? c->operands[1] : NULL;
    if (file && input) return cli_fail(USAGE, "the input is either an argument or comes from --file");
    if (!file) return trigger(c, input);
    char *text = NULL;
    exit_code code = cli_read_file(file, &text);
    if (code == DONE) code = trigger(c, text);
    cli_free(text);
    return code;
}

static bool read_run_state(cli *c, pgqrs_run_state *state, exit_code *code)
{
    const char *name = c->options[OPT_STATE].text;
    *state = (pgqrs_run_state)0;
    for (int i = PGQRS_RUN_QUEUED; name && i <= PGQRS_RUN_ERROR; i++)
        if (strcmp(name, run_state_name(i)) == 0) *state = (pgqrs_run_state)i;
    if (!name || *state) return true;
    *code = cli_fail(
        USAGE, "--state: \"%s\" is not one of queued, running, paused, cancelling, cancelled, success, error", name);
    return false;
}

exit_code run_list(cli *c)
{
    exit_code code = DONE;
    pgqrs_run_filter filter = {.workflow = c->operand_count > 0 ? c->operands[0] : NULL,
                               .open = given(c, OPT_OPEN),
                               .idempotency_key = c->options[OPT_KEY].text,
                               .after_id = number_of(c, OPT_AFTER)};
    if (!read_run_state(c, &filter.state, &code)) return code;
    output_begin(&c->out, run_fields);
    for (int64_t left = given(c, OPT_LIMIT) ? number_of(c, OPT_LIMIT) : LIST_LIMIT; left > 0 && code == DONE;) {
        pgqrs_runs *page;
        filter.limit = left < LIST_PAGE ? (size_t)left : LIST_PAGE;
        code = cli_check(c, pgqrs_run_list(c->store, &filter, &page));
        if (code != DONE) break;
        output_rows(&c->out, page->items, page->count, sizeof *page->items);
        left = page->count < filter.limit ? 0 : left - (int64_t)page->count;
        if (page->count > 0) filter.after_id = page->items[page->count - 1].id;
        pgqrs_free(page);
    }
    return output_ended(&c->out, code);
}

static exit_code get(cli *c, pgqrs_run_info **run)
{
    int64_t id;
    *run = NULL;
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_run_get(c->store, id, run));
    if (code == DONE && !*run) return cli_fail(NOT_FOUND, "there is no run %" PRId64 "; see: pgqrs run list", id);
    return code;
}

exit_code run_show(cli *c)
{
    pgqrs_run_info *run;
    exit_code code = get(c, &run);
    if (code == DONE) output_one(&c->out, run_fields, run);
    pgqrs_free(run);
    return code;
}

exit_code run_steps(cli *c)
{
    pgqrs_run_info *run;
    pgqrs_steps *steps = NULL;
    exit_code code = get(c, &run);
    if (code == DONE) code = cli_check(c, pgqrs_run_steps(c->store, run->id, &steps));
    if (code == DONE) {
        output_begin(&c->out, step_fields);
        output_rows(&c->out, steps->items, steps->count, sizeof *steps->items);
        output_end(&c->out);
    }
    pgqrs_free(steps);
    pgqrs_free(run);
    return code;
}

exit_code run_values(cli *c)
{
    pgqrs_run_info *run;
    pgqrs_run_values *values = NULL;
    exit_code code = get(c, &run);
    if (code == DONE) code = cli_check(c, pgqrs_run_values_get(c->store, run->id, &values));
    if (code == DONE) {
        output_begin(&c->out, value_fields);
        output_rows(&c->out, values->items, values->count, sizeof *values->items);
        output_end(&c->out);
    }
    pgqrs_free(values);
    pgqrs_free(run);
    return code;
}

static exit_code say_run(cli *c, const char *action, int64_t id)
{
    deed d = {.action = action, .object = "run", .id = id, .count = 1};
    output_said(&c->out, deed_fields, &d, "%s run %" PRId64, action, id);
    return DONE;
}

exit_code run_cancel(cli *c)
{
    int64_t id;
    pgqrs_run_state state;
    pgqrs_cancel_desc desc = {.by = c->options[OPT_BY].text, .reason = c->options[OPT_REASON].text};
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_run_cancel(c->store, id, &desc, &state));
    return code == DONE ? say_run(c, state == PGQRS_RUN_CANCELLED ? "cancelled" : "cancelling", id) : code;
}

exit_code run_restart(cli *c)
{
    int64_t id;
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_run_restart(c->store, id));
    return code == DONE ? say_run(c, "restarted", id) : code;
}

exit_code run_fork(cli *c)
{
    int64_t id, new_id;
    pgqrs_fork_desc desc = {.step = c->options[OPT_STEP].text, .key = c->options[OPT_KEY].text};
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_run_fork(c->store, id, &desc, &new_id));
    return code == DONE ? say_run(c, "forked", new_id) : code;
}

/* The output of the run is the result: JSON in every format, as the run gave it. */
exit_code run_result(cli *c)
{
    int64_t id;
    pgqrs_run_info *run = NULL;
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    cli_catch_signals(c);
    code = cli_check(c, pgqrs_run_result(c->store, id, number_of(c, OPT_WAIT), &run));
    if (code == DONE) output_said(&c->out, run_fields, run, "%s", run->output ? run->output : "null");
    pgqrs_free(run);
    return code;
}

exit_code run_explain(cli *c)
{
    pgqrs_run_info *run;
    pgqrs_explanation explanation;
    exit_code code = get(c, &run);
    if (code == DONE) code = cli_check(c, pgqrs_run_explain(c->store, run->id, &explanation));
    if (code == DONE) explanation_show(c, run->id, &explanation);
    pgqrs_free(run);
    return code;
}

exit_code run_send_event(cli *c)
{
    int64_t id;
    bool accepted;
    const char *payload = c->operand_count > 2 ? c->operands[2] : NULL;
    exit_code code = cli_read_id(c->operands[0], &id);
    if (code != DONE) return code;
    code = cli_check(c, pgqrs_run_send_event(c->store, id, c->operands[1], payload, &accepted));
    if (code != DONE) return code;
    deed d = {.action = accepted ? "sent" : "ignored",
              .object = "event",
              .name = c->operands[1],
              .id = id,
              .count = accepted};
    output_said(&c->out, deed_fields, &d,
                accepted ? "sent event \"%s\" to run %" PRId64
                         : "event \"%s\" came too late: run %" PRId64 " has one of this name, or waits no more",
                d.name, id);
    return DONE;
}

exit_code run_purge(cli *c)
{
    exit_code code = DONE;
    pgqrs_run_purge_desc desc = {.older_than_ms = number_of(c, OPT_OLDER_THAN)};
    deed d = {.action = "purged", .object = "workflow", .name = c->operands[0]};
    if (!read_run_state(c, &desc.state, &code)) return code;
    if (!cli_confirmed(c, &code, "remove the ended runs of workflow \"%s\"", d.name)) return code;
    code = cli_check(c, pgqrs_run_purge(c->store, d.name, &desc, &d.count));
    if (code == DONE)
        output_said(&c->out, deed_fields, &d, "removed %" PRId64 " run%s of workflow \"%s\"", d.count, plural(d.count),
                    d.name);
    return code;
}
