/* Workflows from outside: their definitions, and how runs begin. */

/* What the functions of these tests do and saw. */
static struct {
    int executions;
    int64_t ids[64];      /* the run of each execution */
    int32_t attempts[64]; /* and which attempt it was */
    int bodies;           /* of steps, entered */
    int fail_first;       /* this many executions fail, or this many bodies: the function decides */
    pgqrs_store *admin;   /* another store */
    int64_t id;           /* what the case wants to be known */
    int64_t other;
    int stop_at; /* a position the case chooses */
    pgqrs_failure failure;
    pgqrs_step_desc step;
    pgqrs_result status;  /* of the run, at the end */
    pgqrs_result result;  /* of some call */
    pgqrs_run_state seen; /* of the run, from outside, while it goes on */
    char text[256];       /* some output */
    void (*body)(pgqrs_run *r);
} W;

static void begin_runs(void)
{
    memset(&W, 0, sizeof(W));
}

static void note_run(const pgqrs_run *r)
{
    if ((size_t)W.executions < COUNT_OF(W.ids)) {
        W.ids[W.executions] = pgqrs_run_id(r);
        W.attempts[W.executions] = pgqrs_run_attempt(r);
    }
    W.executions++;
}

static void note_text(const char *text)
{
    snprintf(W.text, sizeof(W.text), "%s", text ? text : "(null)");
}

/* A step that is done as soon as it is entered. */
static const char *quick_step(pgqrs_run *r, const char *name, const char *result)
{
    const char *output = NULL;
    if (pgqrs_step(r, name, &output)) {
        W.bodies++;
        output = pgqrs_step_done(r, result);
    }
    return output;
}

static pgqrs_result just_return(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    return pgqrs_run_return(r, "\"done\"");
}

static pgqrs_result return_nothing(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "first", "1");
    return PGQRS_OK;
}

static pgqrs_result three_steps(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "first", "1");
    quick_step(r, "second", "2");
    quick_step(r, "third", "3");
    return W.status = pgqrs_run_return(r, "6");
}

static void give_good_data(pgqrs_run *r)
{
    pgqrs_step_done(r, "\"good\"");
}

static void fail_with_failure(pgqrs_run *r)
{
    pgqrs_step_fail(r, &W.failure);
}

/* A step before, the step "work" with W.body, a step after. */
static pgqrs_result around_work(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "before", "1");
    if (pgqrs_step_with(r, "work", &W.step, NULL)) {
        W.bodies++;
        W.body(r);
    }
    quick_step(r, "after", "2");
    return W.status = pgqrs_run_return(r, "\"done\"");
}

/* --- definition --- */

static void workflow_is_created_with_the_defaults(void)
{
    const pgqrs_workflow *workflow;
    bool exists = false;
    OK(pgqrs_workflow_create(T.store, T.flow, NULL));
    workflow = look_workflow(T.flow);
    assert_non_null(workflow);
    YES(workflow->id > 0);
    SAME(T.flow, workflow->name);
    SAME(T.flow, workflow->settings.queue);
    EQ(3, workflow->settings.retry.max_retries);
    EQ(PGQRS_BACKOFF_EXPONENTIAL, workflow->settings.retry.backoff);
    EQ(1000, workflow->settings.retry.base_ms);
    EQ(60000, workflow->settings.retry.cap_ms);
    EQ(25, workflow->settings.retry.jitter_percent);
    EQ(0, workflow->settings.timeout_ms);
    EQ(0, workflow->settings.step_timeout_ms);
    EQ(0, workflow->settings.retention_ms);
    EQ(0, workflow->settings.failed_retention_ms);
    EQ(T.now_us, workflow->created_at_us);
    OK(pgqrs_queue_exists(T.store, T.flow, &exists));
    YES(exists);
}

static void workflow_keeps_every_setting(void)
{
    const pgqrs_workflow_desc *settings;
    pgqrs_workflow_desc desc = {.queue = T.queue,
                                .retry = {.max_retries = 7,
                                          .backoff = PGQRS_BACKOFF_FIXED,
                                          .base_ms = 1500,
                                          .cap_ms = 70000,
                                          .jitter_percent = 10},
                                .timeout_ms = 86400000,
                                .step_timeout_ms = 20000,
                                .retention_ms = 3600000,
                                .failed_retention_ms = 7200000};
    define_as(desc);
    settings = &look_workflow(T.flow)->settings;
    SAME(T.queue, settings->queue);
    EQ(7, settings->retry.max_retries);
    EQ(PGQRS_BACKOFF_FIXED, settings->retry.backoff);
    EQ(1500, settings->retry.base_ms);
    EQ(70000, settings->retry.cap_ms);
    EQ(10, settings->retry.jitter_percent);
    EQ(86400000, settings->timeout_ms);
    EQ(20000, settings->step_timeout_ms);
    EQ(3600000, settings->retention_ms);
    EQ(7200000, settings->failed_retention_ms);
}

static void workflow_create_again_changes_nothing(void)
{
    int64_t id;
    define_as((pgqrs_workflow_desc){.queue = T.queue, .timeout_ms = 5000});
    id = look_workflow(T.flow)->id;
    advance_ms(1000);
    define_as((pgqrs_workflow_desc){.timeout_ms = 9000});
    EQ(id, look_workflow(T.flow)->id);
    EQ(5000, look_workflow(T.flow)->settings.timeout_ms);
    SAME(T.queue, look_workflow(T.flow)->settings.queue);
    EQ(T.now_us - SECOND_US, look_workflow(T.flow)->created_at_us);
}

static void workflow_that_must_be_new_is_refused_when_it_exists(void)
{
    pgqrs_workflow_desc desc = {.queue = T.queue, .must_be_new = true};
    define_as(desc);
    FAILS_NAMING(ERR_WORKFLOW_EXISTS, T.flow, pgqrs_workflow_create(T.store, T.flow, &desc));
}

static void workflow_leaves_a_queue_that_exists_as_it_is(void)
{
    pgqrs_queue *queue = NULL;
    define();
    OK(pgqrs_queue_get(T.store, T.queue, &queue));
    keep(queue);
    EQ(TEST_MAX_ATTEMPTS, queue->settings.max_attempts);
    EQ(TEST_LEASE_MS, queue->settings.lease_ms);
}

static void workflow_with_bad_settings_is_refused(void)
{
    char *name = text_of(256, 'n');
    pgqrs_result result;
    static const pgqrs_workflow_desc bad[] = {
        {.retry = {.max_retries = -2}},
        {.retry = {.base_ms = -1}},
        {.retry = {.cap_ms = -1}},
        {.retry = {.jitter_percent = 101}},
        {.retry = {.jitter_percent = -2}},
        {.retry = {.backoff = (pgqrs_backoff)2}},
        {.timeout_ms = -2},
        {.step_timeout_ms = -2},
        {.retention_ms = -2},
        {.failed_retention_ms = -2},
        {.retry = {.base_ms = 2000, .cap_ms = 1000}},
    };
    size_t i;
    for (i = 0; i < COUNT_OF(bad); i++) {
        result = pgqrs_workflow_create(T.store, T.flow, &bad[i]);
        if (result != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "bad settings %d gave %s", (int)i, pgqrs_result_name(result));
    }
    FAILS(ERR_BAD_NAME, pgqrs_workflow_create(T.store, "", NULL));
    FAILS(ERR_BAD_NAME, pgqrs_workflow_create(T.store, "a\nb", NULL));
    FAILS(ERR_BAD_NAME, pgqrs_workflow_create(T.store, T.flow, &(pgqrs_workflow_desc){.queue = "a\x01"}));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_workflow_create(T.store, NULL, NULL));
    result = pgqrs_workflow_create(T.store, name, NULL);
    free(name);
    FAILS(ERR_BAD_NAME, result);
    YES(look_workflow(T.flow) == NULL);
}

static void workflow_names_may_be_any_text(void)
{
    static const char name[] = "Rechnung für Ärzte: 100% \"sofort\" $1 'x'";
    OK(pgqrs_workflow_create(T.store, name, NULL));
    SAME(name, look_workflow(name)->name);
    OK(pgqrs_workflow_trigger(T.store, name, NULL, NULL, NULL));
}

static void workflow_update_changes_what_is_given(void)
{
    const pgqrs_workflow_desc *settings;
    define_as((pgqrs_workflow_desc){.queue = T.queue, .timeout_ms = 5000, .retention_ms = 6000});
    OK(pgqrs_workflow_update(T.store, T.flow,
                             &(pgqrs_workflow_desc){.queue = "ignored",
                                                    .must_be_new = true,
                                                    .retry = {.max_retries = 9},
                                                    .step_timeout_ms = 700,
                                                    .retention_ms = -1}));
    settings = &look_workflow(T.flow)->settings;
    SAME(T.queue, settings->queue);
    EQ(9, settings->retry.max_retries);
    EQ(1000, settings->retry.base_ms);
    EQ(5000, settings->timeout_ms);
    EQ(700, settings->step_timeout_ms);
    EQ(0, settings->retention_ms);
    OK(pgqrs_workflow_update(T.store, T.flow, &(pgqrs_workflow_desc){.timeout_ms = -1, .step_timeout_ms = -1}));
    settings = &look_workflow(T.flow)->settings;
    EQ(0, settings->timeout_ms);
    EQ(0, settings->step_timeout_ms);
    EQ(9, settings->retry.max_retries);
}

static void workflow_that_is_not_there_is_named(void)
{
    const char *missing = unique("missing");
    pgqrs_workflow *workflow = NULL;
    int64_t removed = 0, count = 0;
    pgqrs_runs *runs = NULL;
    pgqrs_workflow_entry entry = {missing, just_return, NULL};
    OK(pgqrs_workflow_get(T.store, missing, &workflow));
    YES(workflow == NULL);
    FAILS_NAMING(ERR_WORKFLOW_NOT_FOUND, missing,
                 pgqrs_workflow_update(T.store, missing, &(pgqrs_workflow_desc){.timeout_ms = 1}));
    FAILS_NAMING(ERR_WORKFLOW_NOT_FOUND, missing, pgqrs_workflow_delete(T.store, missing, true));
    FAILS_NAMING(ERR_WORKFLOW_NOT_FOUND, missing, pgqrs_workflow_trigger(T.store, missing, NULL, NULL, NULL));
    FAILS_NAMING(ERR_WORKFLOW_NOT_FOUND, missing, pgqrs_run_purge(T.store, missing, NULL, &removed));
    FAILS_NAMING(ERR_WORKFLOW_NOT_FOUND, missing,
                 pgqrs_run_count(T.store, &(pgqrs_run_filter){.workflow = missing}, &count));
    FAILS_NAMING(ERR_WORKFLOW_NOT_FOUND, missing,
                 pgqrs_run_list(T.store, &(pgqrs_run_filter){.workflow = missing}, &runs));
    YES(runs == NULL);
    FAILS_NAMING(ERR_WORKFLOW_NOT_FOUND, missing, pgqrs_work_workflow(T.store, missing, just_return, NULL, NULL));
    YES(pgqrs_worker_open_workflows(T.store, &entry, 1, NULL) == NULL);
    EQ(PGQRS_ERR_WORKFLOW_NOT_FOUND, pgqrs_last_error(T.store)->code);
}

static void workflow_list_pages_by_id(void)
{
    const char *names[5];
    pgqrs_workflows *page = NULL;
    int64_t after = 0;
    size_t i, seen = 0;
    for (i = 0; i < COUNT_OF(names); i++) {
        names[i] = unique((const char *[]){"a", "b", "c", "d", "e"}[i]);
        OK(pgqrs_workflow_create(T.store, names[i], &(pgqrs_workflow_desc){.queue = T.queue}));
    }
    do {
        OK(pgqrs_workflow_list(T.store, after, 2, &page));
        keep(page);
        YES(page->count <= 2);
        for (i = 0; i < page->count; i++) {
            YES(page->items[i].id > after);
            SAME(names[seen], page->items[i].name);
            SAME(T.queue, page->items[i].settings.queue);
            after = page->items[i].id;
            seen++;
        }
    } while (page->count > 0);
    EQ(COUNT_OF(names), seen);
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_workflow_list(T.store, 0, 1001, &page));
}

static void workflow_delete_takes_its_queue_and_its_ended_runs(void)
{
    int64_t id = 0;
    bool exists = true;
    begin_runs();
    OK(pgqrs_workflow_create(T.store, T.flow, NULL));
    id = trigger();
    serve(three_steps);
    RUN("success", id);
    OK(pgqrs_workflow_delete(T.store, T.flow, false));
    YES(look_workflow(T.flow) == NULL);
    YES(look_run_on(T.store, id) == NULL);
    YES(look(id) == NULL);
    OK(pgqrs_queue_exists(T.store, T.flow, &exists));
    NO(exists);
}

static void workflow_delete_is_refused_with_open_runs(void)
{
    int64_t id;
    define();
    id = trigger();
    FAILS_NAMING(ERR_WORKFLOW_NOT_EMPTY, T.flow, pgqrs_workflow_delete(T.store, T.flow, false));
    RUN("queued", id);
    STATE("ready", id);
    OK(pgqrs_workflow_delete(T.store, T.flow, true));
    YES(look_run_on(T.store, id) == NULL);
    YES(look(id) == NULL);
}

static void workflow_delete_leaves_a_queue_it_did_not_make(void)
{
    bool exists = false;
    define();
    OK(pgqrs_workflow_delete(T.store, T.flow, false));
    OK(pgqrs_queue_exists(T.store, T.queue, &exists));
    YES(exists);
}

static void workflow_delete_leaves_a_queue_with_something_in_it(void)
{
    bool exists = false;
    pgqrs_receipt receipt;
    OK(pgqrs_workflow_create(T.store, T.flow, NULL));
    OK(pgqrs_enqueue(T.store, T.flow, "1", NULL, &receipt));
    OK(pgqrs_workflow_delete(T.store, T.flow, false));
    OK(pgqrs_queue_exists(T.store, T.flow, &exists));
    YES(exists);
    STATE("ready", receipt.id);
}

static void workflow_can_be_made_anew_after_its_delete(void)
{
    int64_t old_id, id;
    begin_runs();
    OK(pgqrs_workflow_create(T.store, T.flow, NULL));
    old_id = trigger_as("1", (pgqrs_trigger_desc){.idempotency_key = "k"});
    OK(pgqrs_workflow_delete(T.store, T.flow, true));
    OK(pgqrs_workflow_create(T.store, T.flow, NULL));
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    id = trigger_as("2", (pgqrs_trigger_desc){.idempotency_key = "k"});
    YES(id != old_id);
    serve(just_return);
    EQ(1, W.executions);
    RUN("success", id);
}

static pgqrs_result return_name(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    snprintf(W.text, sizeof(W.text), "\"%s\"", pgqrs_run_workflow(r));
    return pgqrs_run_return(r, W.text);
}

static void workflows_share_a_queue_and_a_worker(void)
{
    const char *names[2];
    int64_t ids[4];
    char want[2][100];
    size_t i;
    pgqrs_workflow_entry entries[2];
    begin_runs();
    for (i = 0; i < 2; i++) {
        names[i] = unique(i ? "pack" : "ship");
        snprintf(want[i], sizeof(want[i]), "\"%s\"", names[i]);
        entries[i] = (pgqrs_workflow_entry){names[i], return_name, NULL};
        OK(pgqrs_workflow_create(T.store, names[i], &(pgqrs_workflow_desc){.queue = T.queue}));
    }
    for (i = 0; i < 4; i++)
        OK(pgqrs_workflow_trigger(T.store, names[i % 2], NULL, NULL, &ids[i]));
    serve_entries(T.store, entries, 2);
    EQ(4, W.executions);
    for (i = 0; i < 4; i++) {
        EQ(ids[i], W.ids[i]);
        SAME(names[i % 2], look_run(ids[i])->workflow);
        SAME(T.queue, look_run(ids[i])->queue);
        SAME(want[i % 2], look_run(ids[i])->output);
    }
}

static void workflows_on_different_queues_need_different_workers(void)
{
    const char *other = unique("elsewhere");
    pgqrs_workflow_entry entries[2] = {{T.flow, just_return, NULL}, {other, just_return, NULL}};
    define();
    OK(pgqrs_workflow_create(T.store, other, NULL));
    YES(pgqrs_worker_open_workflows(T.store, entries, 2, NULL) == NULL);
    EQ(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_last_error(T.store)->code);
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_work_workflows(T.store, entries, 0, NULL));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_work_workflows(T.store, NULL, 1, NULL));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_work_workflow(T.store, T.flow, NULL, NULL, NULL));
}

/* --- trigger --- */

static void trigger_makes_run_and_message_at_once(void)
{
    const pgqrs_run_info *info;
    const pgqrs_message *message;
    int64_t id;
    define();
    id = trigger();
    RUN("queued", id);
    info = look_run(id);
    SAME(T.flow, info->workflow);
    SAME(T.queue, info->queue);
    SAME(SECRET_PAYLOAD, info->input);
    EQ(strlen(SECRET_PAYLOAD), info->input_size);
    EQ(T.now_us, info->triggered_at_us);
    EQ(0, info->started_at_us);
    EQ(0, info->finished_at_us);
    EQ(0, info->deadline_at_us);
    EQ(0, info->attempt);
    YES(info->output == NULL && info->error_code == NULL && info->idempotency_key == NULL);
    EQ(PGQRS_WAIT_NONE, info->wait);
    EQ(0, info->forked_from);
    message = must_look(id);
    STATE("ready", id);
    SAME(T.queue, message->queue);
    SAME(SECRET_PAYLOAD, message->payload);
    EQ(0, steps_of(id)->count);
}

static void trigger_without_input_gives_null(void)
{
    int64_t id = 0;
    define();
    OK(pgqrs_workflow_trigger(T.store, T.flow, NULL, NULL, &id));
    SAME("null", look_run(id)->input);
}

static void trigger_with_a_size_takes_that_much(void)
{
    int64_t id;
    define();
    id = trigger_as("[1,2]garbage", (pgqrs_trigger_desc){.input_size = 5});
    SAME("[1,2]", look_run(id)->input);
}

static void trigger_follows_the_rules_for_payloads(void)
{
    static const char *const forbidden[] = {"__proto__"};
    pgqrs_store_desc desc = test_desc();
    desc.validation.max_payload_bytes = 100;
    desc.validation.max_depth = 3;
    desc.validation.max_string_bytes = 20;
    desc.validation.forbidden_keys = forbidden;
    desc.validation.forbidden_key_count = 1;
    define();
    reopen_with(&desc);
    FAILS(ERR_JSON, pgqrs_workflow_trigger(T.store, T.flow, "{", NULL, NULL));
    FAILS(ERR_JSON, pgqrs_workflow_trigger(T.store, T.flow, "", NULL, NULL));
    FAILS(ERR_JSON, pgqrs_workflow_trigger(T.store, T.flow, "\"\xff\"", NULL, NULL));
    FAILS(ERR_JSON_TOO_DEEP, pgqrs_workflow_trigger(T.store, T.flow, "[[[[[1]]]]]", NULL, NULL));
    FAILS(ERR_STRING_TOO_LONG, pgqrs_workflow_trigger(T.store, T.flow, "\"abcdefghijklmnopqrstuvwxyz\"", NULL, NULL));
    FAILS(ERR_FORBIDDEN_KEY, pgqrs_workflow_trigger(T.store, T.flow, "{\"__proto__\":1}", NULL, NULL));
    FAILS(ERR_PAYLOAD_TOO_LARGE,
          pgqrs_workflow_trigger(T.store, T.flow,
                                 "[11111111111,1111111111,1111111111,1111111111,1111111111,1111111111,1111111111,"
                                 "1111111111,1111111111,1111111111]",
                                 NULL, NULL));
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    NUMBERS(0, 0, 0, 0, 0);
}

static void trigger_with_bad_settings_is_refused(void)
{
    char *key = text_of(256, 'k');
    pgqrs_result result;
    define();
    result = pgqrs_workflow_trigger(T.store, T.flow, "1", &(pgqrs_trigger_desc){.idempotency_key = key}, NULL);
    free(key);
    FAILS(ERR_INVALID_ARGUMENT, result);
    FAILS(ERR_INVALID_ARGUMENT,
          pgqrs_workflow_trigger(T.store, T.flow, "1", &(pgqrs_trigger_desc){.priority = 40000}, NULL));
    FAILS(ERR_INVALID_ARGUMENT,
          pgqrs_workflow_trigger(T.store, T.flow, "1", &(pgqrs_trigger_desc){.delay_ms = -1}, NULL));
    FAILS(ERR_INVALID_ARGUMENT,
          pgqrs_workflow_trigger(T.store, T.flow, "1",
                                 &(pgqrs_trigger_desc){.delay_ms = 1, .at_us = T.now_us + SECOND_US}, NULL));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_workflow_trigger(T.store, NULL, "1", NULL, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_workflow_trigger(NULL, T.flow, "1", NULL, NULL));
    NUMBERS(0, 0, 0, 0, 0);
}

static void trigger_with_a_delay_starts_later(void)
{
    int64_t delayed, at, start = T.now_us;
    begin_runs();
    define();
    delayed = trigger_as("1", (pgqrs_trigger_desc){.delay_ms = 5000});
    at = trigger_as("1", (pgqrs_trigger_desc){.at_us = start + 7 * SECOND_US});
    RUN("queued", delayed);
    STATE("delayed", delayed);
    EQ(start + 5 * SECOND_US, must_look(delayed)->due_at_us);
    EQ(start + 7 * SECOND_US, must_look(at)->due_at_us);
    serve_after(4999, just_return);
    EQ(0, W.executions);
    serve_after(1, just_return);
    RUN("success", delayed);
    RUN("queued", at);
    serve_after(2000, just_return);
    RUN("success", at);
}

static void runs_start_by_priority_then_in_order(void)
{
    static const int32_t priorities[] = {0, 5, -3, 5, 0};
    static const int want[] = {1, 3, 0, 4, 2};
    int64_t ids[COUNT_OF(priorities)];
    size_t i;
    begin_runs();
    define();
    for (i = 0; i < COUNT_OF(priorities); i++)
        ids[i] = trigger_as("1", (pgqrs_trigger_desc){.priority = priorities[i]});
    serve(just_return);
    EQ(COUNT_OF(want), W.executions);
    for (i = 0; i < COUNT_OF(want); i++)
        EQ(ids[want[i]], W.ids[i]);
}

static void idempotency_key_gives_the_same_run_back(void)
{
    pgqrs_trigger_desc desc = {.idempotency_key = "order-7"};
    int64_t id, again;
    begin_runs();
    define();
    id = trigger_as("1", desc);
    SAME("order-7", look_run(id)->idempotency_key);
    EQ(id, trigger_as("2", desc));
    SAME("1", look_run(id)->input);
    NUMBERS(1, 0, 0, 0, 0);
    YES(trigger_as("1", (pgqrs_trigger_desc){.idempotency_key = "order-8"}) != id);
    YES(trigger_as("1", (pgqrs_trigger_desc){0}) != id);
    serve(just_return);
    RUN("success", id);
    /* Ended or not. */
    again = trigger_as("3", desc);
    EQ(id, again);
    serve(just_return);
    EQ(3, W.executions);
}

static void idempotency_key_is_free_again_after_the_purge(void)
{
    pgqrs_trigger_desc desc = {.idempotency_key = "order-7"};
    int64_t id, removed = 0;
    begin_runs();
    define();
    id = trigger_as("1", desc);
    serve(just_return);
    OK(pgqrs_run_purge(T.store, T.flow, NULL, &removed));
    EQ(1, removed);
    YES(trigger_as("1", desc) != id);
}

static void idempotency_keys_belong_to_a_workflow(void)
{
    const char *other = unique("other");
    pgqrs_trigger_desc desc = {.idempotency_key = "k"};
    int64_t id, other_id = 0;
    define();
    OK(pgqrs_workflow_create(T.store, other, &(pgqrs_workflow_desc){.queue = T.queue}));
    id = trigger_as("1", desc);
    OK(pgqrs_workflow_trigger(T.store, other, "1", &desc, &other_id));
    YES(id != other_id);
}

static void trigger_many_makes_all_in_order(void)
{
    pgqrs_trigger_item items[60];
    pgqrs_receipt receipts[60];
    size_t i;
    begin_runs();
    define();
    memset(items, 0, sizeof(items));
    items[3].desc.idempotency_key = "three";
    items[5].input = "{\"five\":5}";
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, items, 60, receipts));
    for (i = 0; i < 60; i++)
        NO(receipts[i].duplicate);
    SAME("null", look_run(receipts[0].id)->input);
    SAME("{\"five\":5}", look_run(receipts[5].id)->input);
    SAME("three", look_run(receipts[3].id)->idempotency_key);
    serve(just_return);
    EQ(60, W.executions);
    for (i = 0; i < 60; i++)
        EQ(receipts[i].id, W.ids[i]);
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, NULL, 0, NULL));
}

static void trigger_many_tells_new_runs_from_old_ones(void)
{
    pgqrs_trigger_item items[3] = {{.input = "1"}, {.input = "2"}, {.input = "3"}};
    pgqrs_receipt receipts[3];
    int64_t id;
    define();
    id = trigger_as("0", (pgqrs_trigger_desc){.idempotency_key = "b"});
    items[0].desc.idempotency_key = "a";
    items[1].desc.idempotency_key = "b";
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, items, 3, receipts));
    NO(receipts[0].duplicate);
    YES(receipts[1].duplicate);
    NO(receipts[2].duplicate);
    EQ(id, receipts[1].id);
    SAME("3", look_run(receipts[2].id)->input);
    NUMBERS(3, 0, 0, 0, 0);
    EQ(3, runs_where((pgqrs_run_filter){.workflow = T.flow}));
}

static void trigger_many_is_all_or_nothing(void)
{
    pgqrs_trigger_item items[3] = {{.input = "1"}, {.input = "2"}, {.input = "{"}};
    define();
    FAILS(ERR_JSON, pgqrs_workflow_trigger_many(T.store, T.flow, items, 3, NULL));
    EQ(2, pgqrs_last_error(T.store)->index);
    items[2].input = "3";
    items[0].desc.idempotency_key = "same";
    items[2].desc.idempotency_key = "same";
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_workflow_trigger_many(T.store, T.flow, items, 3, NULL));
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    NUMBERS(0, 0, 0, 0, 0);
}

static void transactional_trigger_commits_with_the_caller(void)
{
    pgqrs_store *store;
    int64_t id = 0;
    begin_runs();
    define();
    store = borrow_store();
    my_exec("BEGIN");
    OK_ON(store, pgqrs_workflow_trigger(store, T.flow, "1", NULL, &id));
    YES(in_transaction());
    if (!on(ON_SQLITE_MEMORY)) YES(look_run_on(T.store, id) == NULL);
    my_exec("COMMIT");
    RUN("queued", id);
    serve(just_return);
    RUN("success", id);
}

static void transactional_trigger_rolls_back_with_the_caller(void)
{
    pgqrs_store *store;
    pgqrs_trigger_desc keyed = {.idempotency_key = "k", .delay_ms = 5};
    int64_t id = 0;
    define();
    store = borrow_store();
    my_exec("BEGIN");
    OK_ON(store, pgqrs_workflow_trigger(store, T.flow, "1", NULL, &id));
    OK_ON(store, pgqrs_workflow_trigger(store, T.flow, "1", &keyed, NULL));
    my_exec("ROLLBACK");
    NUMBERS(0, 0, 0, 0, 0);
    YES(look_run_on(T.store, id) == NULL);
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    trigger_as("2", keyed);
    EQ(1, runs_where((pgqrs_run_filter){.workflow = T.flow}));
}

static void triggers_count_against_the_rate_limit(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_trigger_item items[3] = {{.input = "1"}, {.input = "2"}, {.input = "3"}};
    define();
    desc.validation.max_enqueue_per_second = 1;
    desc.validation.max_enqueue_burst = 2;
    reopen_with(&desc);
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_workflow_trigger_many(T.store, T.flow, items, 3, NULL));
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, items, 2, NULL));
    FAILS(ERR_RATE_LIMITED, pgqrs_workflow_trigger(T.store, T.flow, "1", NULL, NULL));
    YES(pgqrs_last_error(T.store)->retry_after_ms > 0);
    NUMBERS(2, 0, 0, 0, 0);
}

static void observer_is_told_of_runs(void)
{
    const test_event *event;
    int64_t id;
    begin_runs();
    define();
    T.event_count = 0;
    id = trigger_as("1", (pgqrs_trigger_desc){.idempotency_key = "k"});
    EQ(1, events_of(PGQRS_EVENT_ENQUEUED));
    event = nth_event(PGQRS_EVENT_ENQUEUED, 0);
    EQ(1, event->event.count);
    SAME(T.queue, event->queue);
    serve(three_steps);
    event = nth_event(PGQRS_EVENT_STARTED, 0);
    EQ(id, event->event.message_id);
    EQ(1, event->event.attempt);
    SAME(T.queue, event->queue);
    event = nth_event(PGQRS_EVENT_FINISHED, 0);
    EQ(id, event->event.message_id);
    RESULT(PGQRS_OK, event->event.result);
    EQ(1, events_of(PGQRS_EVENT_CLAIMED));
    EQ(1, events_of(PGQRS_EVENT_SETTLED));
    T.event_count = 0;
    trigger();
    serve(return_nothing);
    NO(nth_event(PGQRS_EVENT_FINISHED, 0)->event.result == PGQRS_OK);
}

static void observer_is_not_told_of_runs_that_were_there(void)
{
    pgqrs_trigger_item items[2] = {{.desc = {.idempotency_key = "a"}}, {.desc = {.idempotency_key = "b"}}};
    int64_t stored = 0;
    size_t i;
    define();
    trigger_as("1", (pgqrs_trigger_desc){.idempotency_key = "a"});
    T.event_count = 0;
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, items, 2, NULL));
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, items, 2, NULL));
    for (i = 0; i < T.event_count; i++)
        if (T.events[i].event.type == PGQRS_EVENT_ENQUEUED) stored += T.events[i].event.count;
    EQ(1, stored);
}

static void entries_of_a_worker_are_copied(void)
{
    char name[64];
    pgqrs_workflow_entry entry = {name, just_return, NULL};
    pgqrs_worker *worker;
    size_t handled = 0;
    begin_runs();
    define();
    trigger();
    snprintf(name, sizeof(name), "%s", T.flow);
    worker = pgqrs_worker_open_workflows(T.store, &entry, 1, NULL);
    assert_non_null(worker);
    memset(&entry, 0, sizeof(entry));
    memset(name, 'x', sizeof(name));
    OK(pgqrs_worker_poll(worker, 0, &handled));
    OK(pgqrs_worker_close(worker));
    EQ(1, handled);
    EQ(1, W.executions);
}

/* --- tables of the version before --- */

/* Makes the database look as version 1 left it. */
static void back_to_version_1(void)
{
    raw_exec("DROP VIEW IF EXISTS @pgqrs_run_view");
    raw_exec("DROP VIEW IF EXISTS @pgqrs_step_view");
    raw_exec("DROP TABLE @pgqrs_run_values");
    raw_exec("DROP TABLE @pgqrs_run_events");
    raw_exec("DROP TABLE @pgqrs_steps");
    raw_exec("DROP TABLE @pgqrs_runs");
    raw_exec("DROP TABLE @pgqrs_workflows");
    raw_exec("DELETE FROM @pgqrs_meta WHERE key = 'max_workflow_id'");
    set_schema_version(1);
}

static void tables_of_version_1_are_migrated(void)
{
    int32_t version = 0;
    int64_t message, id;
    begin_runs();
    message = put();
    EQ(message, must_take()->id);
    put();
    back_to_version_1();
    reopen_with(NULL);
    FAILS_NAMING(ERR_SCHEMA_OLDER, "pgqrs_install", pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    FAILS(ERR_SCHEMA_OLDER, pgqrs_workflow_create(T.store, T.flow, NULL));
    OK(pgqrs_install(T.store));
    OK(pgqrs_schema_version(T.store, &version));
    EQ(PGQRS_SCHEMA_VERSION, version);
    OK(pgqrs_verify(T.store));
    NUMBERS(1, 0, 1, 0, 0);
    STATE("leased", message);
    SAME(SECRET_PAYLOAD, must_look(message)->payload);
    define_as((pgqrs_workflow_desc){0});
    id = trigger();
    serve(three_steps);
    RUN("success", id);
}

static void tables_of_version_1_are_migrated_by_four_processes_at_once(void)
{
    pid_t children[4];
    size_t i;
    put();
    back_to_version_1();
    close_all_stores();
    for (i = 0; i < COUNT_OF(children); i++)
        children[i] = start_child(install_in_child, NULL);
    for (i = 0; i < COUNT_OF(children); i++)
        child_ended_well(children[i]);
    T.store = open_store(NULL);
    OK(pgqrs_verify(T.store));
    NUMBERS(5, 0, 0, 0, 0);
}

static pgqrs_result set_and_return(pgqrs_run *r, void *user)
{
    (void)user;
    pgqrs_run_set(r, "note", "1");
    quick_step(r, "first", "1");
    return pgqrs_run_return(r, "1");
}

static void check_that_verify_notices(const char *const *damages, size_t count)
{
    size_t i;
    begin_runs();
    for (i = 0; i < count; i++) {
        int64_t id;
        define();
        id = trigger();
        OK(pgqrs_run_send_event(T.store, id, "paid", "1", NULL));
        serve(set_and_return);
        RUN("success", id);
        OK(pgqrs_verify(T.store));
        raw_exec(damages[i]);
        if (pgqrs_verify(T.store) != PGQRS_ERR_SCHEMA_DAMAGED)
            fail_at(__FILE__, __LINE__, "verify did not see: %s", damages[i]);
        FAILS(ERR_SCHEMA_DAMAGED, pgqrs_verify(T.store));
        OK(pgqrs_uninstall(T.store));
        OK(pgqrs_install(T.store));
    }
}

static void verify_notices_what_belongs_to_no_run(void)
{
    static const char *const damages[] = {
        "UPDATE @pgqrs_steps SET run_id = 4711",
        "UPDATE @pgqrs_run_values SET run_id = 4711",
        "UPDATE @pgqrs_run_events SET run_id = 4711",
        "DELETE FROM @pgqrs_runs",
    };
    check_that_verify_notices(damages, COUNT_OF(damages));
}

static void verify_notices_runs_and_workflows_that_belong_nowhere(void)
{
    static const char *const damages[] = {
        "UPDATE @pgqrs_runs SET workflow_id = 4711",
        "DELETE FROM @pgqrs_workflows",
        "UPDATE @pgqrs_workflows SET queue_id = 4711",
    };
    check_that_verify_notices(damages, COUNT_OF(damages));
}

static void uninstall_removes_workflows_too(void)
{
    int64_t count = -1;
    int32_t version = -1;
    begin_runs();
    define();
    trigger();
    serve(three_steps);
    OK(pgqrs_uninstall(T.store));
    OK(pgqrs_schema_version(T.store, &version));
    EQ(0, version);
    FAILS(ERR_SCHEMA_MISSING, pgqrs_run_count(T.store, NULL, &count));
    OK(pgqrs_install(T.store));
    OK(pgqrs_run_count(T.store, NULL, &count));
    EQ(0, count);
}

static pgqrs_result archive_any(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    return PGQRS_OK;
}

/* A plain loop would archive runs without running them. */
static void plain_worker_on_a_workflows_queue_is_refused(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "pgqrs_work_workflow",
                 pgqrs_work(T.store, T.queue, archive_any, NULL, &(pgqrs_work_desc){.until_empty = true}));
    RUN("queued", id);
}

static void settings_of_the_queue_are_not_the_workflows(void)
{
    pgqrs_queue *queue = NULL;
    begin_runs();
    define();
    OK(pgqrs_workflow_create(T.store, "own", &(pgqrs_workflow_desc){.lease_ms = 1234, .max_attempts = 7}));
    OK(pgqrs_queue_get(T.store, "own", &queue));
    EQ(1234, queue->settings.lease_ms);
    EQ(7, queue->settings.max_attempts);
    pgqrs_free(queue);
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "pgqrs_queue_update",
                 pgqrs_workflow_update(T.store, T.flow, &(pgqrs_workflow_desc){.lease_ms = 5000}));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "pgqrs_queue_update",
                 pgqrs_workflow_update(T.store, T.flow, &(pgqrs_workflow_desc){.max_attempts = 9}));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_workflow_create(T.store, "other", &(pgqrs_workflow_desc){.lease_ms = -1}));
}

static const test_case workflow_cases[] = {
    CASE(plain_worker_on_a_workflows_queue_is_refused, PLAIN),
    CASE(settings_of_the_queue_are_not_the_workflows, FRESH),
    CASE(workflow_is_created_with_the_defaults, PLAIN),
    CASE(workflow_keeps_every_setting, PLAIN),
    CASE(workflow_create_again_changes_nothing, PLAIN),
    CASE(workflow_that_must_be_new_is_refused_when_it_exists, PLAIN),
    CASE(workflow_leaves_a_queue_that_exists_as_it_is, PLAIN),
    CASE(workflow_with_bad_settings_is_refused, PLAIN),
    CASE(workflow_names_may_be_any_text, FRESH),
    CASE(workflow_update_changes_what_is_given, PLAIN),
    CASE(workflow_that_is_not_there_is_named, PLAIN),
    CASE(workflow_list_pages_by_id, FRESH),
    CASE(workflow_delete_takes_its_queue_and_its_ended_runs, PLAIN),
    CASE(workflow_delete_is_refused_with_open_runs, PLAIN),
    CASE(workflow_delete_leaves_a_queue_it_did_not_make, PLAIN),
    CASE(workflow_delete_leaves_a_queue_with_something_in_it, PLAIN),
    CASE(workflow_can_be_made_anew_after_its_delete, PLAIN),
    CASE(workflows_share_a_queue_and_a_worker, PLAIN),
    CASE(workflows_on_different_queues_need_different_workers, PLAIN),
    CASE(trigger_makes_run_and_message_at_once, PLAIN),
    CASE(trigger_without_input_gives_null, PLAIN),
    CASE(trigger_with_a_size_takes_that_much, PLAIN),
    CASE(trigger_follows_the_rules_for_payloads, TWO),
    CASE(trigger_with_bad_settings_is_refused, PLAIN),
    CASE(trigger_with_a_delay_starts_later, PLAIN),
    CASE(runs_start_by_priority_then_in_order, PLAIN),
    CASE(idempotency_key_gives_the_same_run_back, PLAIN),
    CASE(idempotency_key_is_free_again_after_the_purge, PLAIN),
    CASE(idempotency_keys_belong_to_a_workflow, PLAIN),
    CASE(trigger_many_makes_all_in_order, PLAIN),
    CASE(trigger_many_tells_new_runs_from_old_ones, PLAIN),
    CASE(trigger_many_is_all_or_nothing, PLAIN),
    CASE_ON(transactional_trigger_commits_with_the_caller, TWO, ON_LENT),
    CASE_ON(transactional_trigger_rolls_back_with_the_caller, TWO, ON_LENT),
    CASE(triggers_count_against_the_rate_limit, TWO),
    CASE(observer_is_told_of_runs, PLAIN),
    CASE(observer_is_not_told_of_runs_that_were_there, PLAIN),
    CASE(entries_of_a_worker_are_copied, PLAIN),
    CASE(tables_of_version_1_are_migrated, FRESH | TWO),
    CASE_ON(tables_of_version_1_are_migrated_by_four_processes_at_once, FRESH, ON_SHARED),
    CASE(verify_notices_what_belongs_to_no_run, FRESH | TWO),
    CASE(verify_notices_runs_and_workflows_that_belong_nowhere, FRESH | TWO),
    CASE(uninstall_removes_workflows_too, FRESH | TWO),
};
