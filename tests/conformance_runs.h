/* Runs from outside: control, questions, repair; and what must hold when workers crash, hang and race. */

/* --- cancel --- */

static void check_cancelled(int64_t id, const char *file, int line)
{
    const pgqrs_run_info *info = must_look_run_at(id, file, line);
    check_run("cancelled", T.store, id, "the run", file, line);
    check_string("mary", info->cancelled_by, "cancelled_by", file, line);
    check_string("wrong customer", info->cancel_reason, "cancel_reason", file, line);
    check_int(T.now_us, info->cancel_requested_at_us, "cancel_requested_at_us", file, line);
    check_int(T.now_us, info->finished_at_us, "finished_at_us", file, line);
    check_true(info->output == NULL && info->error_code == NULL && info->wait == PGQRS_WAIT_NONE,
               "nothing but the cancel is told", file, line);
    check_string("archived", state_of(id), "the message", file, line);
}
#define CANCELLED(id) check_cancelled(id, __FILE__, __LINE__)

static const pgqrs_cancel_desc by_mary = {"mary", "wrong customer"};

static void cancel_at_once(int64_t id)
{
    pgqrs_run_state state = (pgqrs_run_state)0;
    OK(pgqrs_run_cancel(T.store, id, &by_mary, &state));
    EQ(PGQRS_RUN_CANCELLED, state);
    CANCELLED(id);
}

static void cancel_of_a_queued_run_is_at_once(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    advance_ms(700);
    cancel_at_once(id);
    serve(three_steps);
    EQ(0, W.executions);
    EQ(0, look_run(id)->started_at_us);
    OK(pgqrs_verify(T.store));
}

static void cancel_of_a_delayed_run_is_at_once(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger_as("1", (pgqrs_trigger_desc){.delay_ms = 5000});
    cancel_at_once(id);
    serve_after(5000, three_steps);
    EQ(0, W.executions);
}

static void cancel_of_a_paused_run_is_at_once(void)
{
    static const pgqrs_workflow_handler waits[] = {sleep_an_hour, wait_a_minute, wait_for_ever, fail_between};
    size_t i;
    begin_runs();
    define();
    W.fail_first = 100;
    for (i = 0; i < COUNT_OF(waits); i++) {
        int64_t id = trigger();
        serve(waits[i]);
        RUN("paused", id);
        cancel_at_once(id);
    }
    serve_after(3600000, three_steps);
    EQ(COUNT_OF(waits), W.executions);
    OK(pgqrs_verify(T.store));
}

static void cancel_by_mary(pgqrs_run *r)
{
    W.result = pgqrs_run_cancel(W.admin, pgqrs_run_id(r), &by_mary, &W.seen);
    if (W.result == PGQRS_OK) W.other = look_run_on(W.admin, pgqrs_run_id(r))->state;
    pgqrs_step_done(r, "\"worked\"");
}

static void cancel_of_a_running_run_stops_it_at_its_next_step(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    W.body = cancel_by_mary;
    id = trigger();
    serve(around_work);
    RESULT(PGQRS_OK, W.result);
    EQ(PGQRS_RUN_CANCELLING, W.seen);
    EQ(PGQRS_RUN_CANCELLING, W.other);
    RESULT(PGQRS_ERR_RUN_CANCELLED, W.status);
    EQ(2, W.bodies);
    CANCELLED(id);
    EQ(2, steps_of(id)->count);
    EQ(PGQRS_STEP_DONE, step_of(id, 2)->state);
    SAME("\"worked\"", step_of(id, 2)->output);
    EQ(T.now_us, look_run(id)->started_at_us);
}

static pgqrs_result dawdle_before_the_first_step(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    pgqrs_run_cancel(W.admin, pgqrs_run_id(r), &by_mary, &W.seen);
    advance_ms(5000);
    quick_step(r, "first", "1");
    return W.status = pgqrs_run_return(r, NULL);
}

static void cancel_is_seen_before_the_first_step_of_a_slow_function(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    id = trigger();
    serve(dawdle_before_the_first_step);
    EQ(PGQRS_RUN_CANCELLING, W.seen);
    EQ(0, W.bodies);
    RESULT(PGQRS_ERR_RUN_CANCELLED, W.status);
    RUN("cancelled", id);
    EQ(0, steps_of(id)->count);
}

static void cancel_then_set(pgqrs_run *r)
{
    pgqrs_run_cancel(W.admin, pgqrs_run_id(r), &by_mary, &W.seen);
    pgqrs_run_set(r, "note", "1");
    pgqrs_run_flush(r);
    pgqrs_step_done(r, "\"worked\"");
}

static void cancel_that_is_seen_inside_of_a_step_waits_for_its_end(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    W.body = cancel_then_set;
    id = trigger();
    serve(around_work);
    CANCELLED(id);
    EQ(2, steps_of(id)->count);
    EQ(PGQRS_STEP_DONE, step_of(id, 2)->state);
    SAME("\"worked\"", step_of(id, 2)->output);
    SAME("1", value_on(T.store, id, "note"));
}

static pgqrs_result cancel_after_the_last_step(pgqrs_run *r, void *user)
{
    (void)user;
    quick_step(r, "only", "1");
    pgqrs_run_cancel(W.admin, pgqrs_run_id(r), &by_mary, &W.seen);
    return W.status = pgqrs_run_return(r, "\"done\"");
}

static void cancel_between_the_last_step_and_the_end_is_a_cancel(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    id = trigger();
    serve(cancel_after_the_last_step);
    EQ(PGQRS_RUN_CANCELLING, W.seen);
    CANCELLED(id);
    EQ(1, steps_of(id)->count);
}

/* Five steps; the cancel comes before or in the middle of one of them, or before the end. */
static pgqrs_result cancelled_somewhere(pgqrs_run *r, void *user)
{
    int i, position = 0;
    (void)user;
    for (i = 0; i < 5; i++) {
        if (position++ == W.stop_at) pgqrs_run_cancel(W.admin, pgqrs_run_id(r), &by_mary, &W.seen);
        if (pgqrs_step_indexed(r, "step", i, NULL)) {
            W.bodies++;
            if (position == W.stop_at) pgqrs_run_cancel(W.admin, pgqrs_run_id(r), &by_mary, &W.seen);
            pgqrs_step_done(r, "1");
        }
        position++;
    }
    if (position == W.stop_at) pgqrs_run_cancel(W.admin, pgqrs_run_id(r), &by_mary, &W.seen);
    return W.status = pgqrs_run_return(r, "\"done\"");
}

static void cancel_at_every_boundary_stops_there(void)
{
    begin_runs();
    define();
    W.admin = another_store();
    for (W.stop_at = 0; W.stop_at <= 10; W.stop_at++) {
        int64_t id = trigger();
        int32_t i;
        W.bodies = 0;
        serve(cancelled_somewhere);
        EQ(PGQRS_RUN_CANCELLING, W.seen);
        CANCELLED(id);
        /* No body begins after the cancel, but for the very first: nothing is asked before it. */
        BETWEEN(W.stop_at == 0 ? 0 : (W.stop_at + 1) / 2, W.stop_at == 0 ? 1 : (W.stop_at + 1) / 2, W.bodies);
        EQ(W.bodies, steps_of(id)->count);
        for (i = 1; i <= W.bodies; i++)
            EQ(PGQRS_STEP_DONE, step_of(id, i)->state);
    }
    OK(pgqrs_verify(T.store));
}

static pgqrs_result cancel_then_sleep(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    pgqrs_run_cancel(W.admin, pgqrs_run_id(r), &by_mary, NULL);
    pgqrs_run_sleep(r, "nap", 3600000);
    return pgqrs_run_return(r, NULL);
}

static void cancel_on_the_way_to_bed_is_at_once(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    id = trigger();
    serve(cancel_then_sleep);
    EQ(1, W.executions);
    CANCELLED(id);
}

static void cancel_again_changes_nothing(void)
{
    const pgqrs_cancel_desc by_joe = {"joe", "me too"};
    pgqrs_run_state state = (pgqrs_run_state)0;
    int64_t id, requested;
    begin_runs();
    define();
    id = trigger();
    must_take();
    OK(pgqrs_run_cancel(T.store, id, &by_mary, NULL));
    requested = T.now_us;
    advance_ms(1000);
    OK(pgqrs_run_cancel(T.store, id, &by_joe, &state));
    EQ(PGQRS_RUN_CANCELLING, state);
    SAME("mary", look_run(id)->cancelled_by);
    SAME("wrong customer", look_run(id)->cancel_reason);
    EQ(requested, look_run(id)->cancel_requested_at_us);
}

static void cancel_of_an_ended_run_is_refused(void)
{
    pgqrs_run_state state = (pgqrs_run_state)0;
    char *picture;
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(three_steps);
    picture = picture_of(id);
    FAILS(ERR_RUN_STATE, pgqrs_run_cancel(T.store, id, &by_mary, &state));
    UNCHANGED(picture, id);
    YES(look_run(id)->cancelled_by == NULL);
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_cancel(T.store, id + 1000, NULL, NULL));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_cancel(T.store, put(), NULL, NULL));
}

static void cancel_again_on_a_cancelled_run_is_success(void)
{
    pgqrs_run_state state = (pgqrs_run_state)0;
    char *picture;
    int64_t id;
    define();
    id = trigger();
    cancel_at_once(id);
    picture = picture_of(id);
    advance_ms(1000);
    OK(pgqrs_run_cancel(T.store, id, NULL, &state));
    EQ(PGQRS_RUN_CANCELLED, state);
    UNCHANGED(picture, id);
    SAME("mary", look_run(id)->cancelled_by);
}

static void cancel_without_words(void)
{
    int64_t id;
    define();
    id = trigger();
    OK(pgqrs_run_cancel(T.store, id, NULL, NULL));
    RUN("cancelled", id);
    YES(look_run(id)->cancelled_by == NULL && look_run(id)->cancel_reason == NULL);
}

static void cancel_words_are_bounded(void)
{
    char *text = text_of(2000, 'c');
    pgqrs_result result;
    int64_t id;
    define();
    id = trigger();
    result = pgqrs_run_cancel(T.store, id, &(pgqrs_cancel_desc){.by = text}, NULL);
    FAILS(ERR_INVALID_ARGUMENT, result);
    result = pgqrs_run_cancel(T.store, id, &(pgqrs_cancel_desc){.reason = text}, NULL);
    free(text);
    OK(result);
    EQ(500, strlen(look_run(id)->cancel_reason));
}

static void cancel_of_a_run_whose_worker_died_is_at_once(void)
{
    int64_t id;
    define();
    id = trigger();
    must_take();
    RUN("running", id);
    advance_ms(TEST_LEASE_MS + 1);
    cancel_at_once(id);
    YES(take() == NULL);
}

static void cancel_that_was_asked_for_survives_the_workers_death(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    must_take();
    OK(pgqrs_run_cancel(T.store, id, &by_mary, NULL));
    RUN("cancelling", id);
    serve_after(TEST_LEASE_MS + 1, three_steps);
    EQ(0, W.executions);
    RUN("cancelled", id);
    SAME("mary", look_run(id)->cancelled_by);
    STATE("archived", id);
}

static void control_in_the_users_transaction_rolls_back_with_it(void)
{
    pgqrs_store *store;
    pgqrs_run_state state = (pgqrs_run_state)0;
    char *asleep_picture, *failed_picture;
    int64_t asleep, failed, forked = 0;
    begin_runs();
    define();
    asleep = trigger();
    serve(wait_a_minute);
    failed = trigger();
    serve(return_nothing);
    asleep_picture = picture_of(asleep);
    failed_picture = picture_of(failed);
    store = borrow_store();
    my_exec("BEGIN");
    OK_ON(store, pgqrs_run_send_event(store, asleep, "paid", "1", NULL));
    OK_ON(store, pgqrs_run_cancel(store, asleep, &by_mary, &state));
    EQ(PGQRS_RUN_CANCELLED, state);
    OK_ON(store, pgqrs_run_restart(store, failed));
    OK_ON(store, pgqrs_run_fork(store, failed, NULL, &forked));
    YES(in_transaction());
    my_exec("ROLLBACK");
    UNCHANGED(asleep_picture, asleep);
    UNCHANGED(failed_picture, failed);
    YES(look_run_on(T.store, forked) == NULL);
    STATE("delayed", asleep);
    STATE("archived", failed);
    send_event(asleep, "2", true);
    OK(pgqrs_verify(T.store));
}

/* --- get, list, count --- */

/* One run in each state; the index is the state. */
static void runs_in_every_state(int64_t ids[8])
{
    begin_runs();
    define();
    ids[PGQRS_RUN_SUCCESS] = trigger();
    serve(three_steps);
    ids[PGQRS_RUN_ERROR] = trigger();
    serve(return_nothing);
    ids[PGQRS_RUN_PAUSED] = trigger();
    serve(sleep_an_hour);
    ids[PGQRS_RUN_CANCELLED] = trigger();
    OK(pgqrs_run_cancel(T.store, ids[PGQRS_RUN_CANCELLED], NULL, NULL));
    ids[PGQRS_RUN_RUNNING] = trigger();
    ids[PGQRS_RUN_CANCELLING] = trigger();
    EQ(2, take_many(2)->count);
    OK(pgqrs_run_cancel(T.store, ids[PGQRS_RUN_CANCELLING], NULL, NULL));
    ids[PGQRS_RUN_QUEUED] = trigger();
}

static void runs_are_found_by_state(void)
{
    static const char *const names[] = {"",           "queued",    "running", "paused",
                                        "cancelling", "cancelled", "success", "error"};
    int64_t ids[8], dead, count = 0;
    int state;
    runs_in_every_state(ids);
    for (state = PGQRS_RUN_QUEUED; state <= PGQRS_RUN_ERROR; state++) {
        pgqrs_run_filter filter = {.workflow = T.flow, .state = (pgqrs_run_state)state};
        pgqrs_runs *found = NULL;
        RUN(names[state], ids[state]);
        SAME(names[state], pgqrs_run_state_name((pgqrs_run_state)state));
        OK(pgqrs_run_list(T.store, &filter, &found));
        keep(found);
        EQ(1, found->count);
        EQ(ids[state], found->items[0].id);
        EQ(state, found->items[0].state);
        EQ(1, runs_where(filter));
    }
    SAME("unknown", pgqrs_run_state_name((pgqrs_run_state)0));
    SAME("unknown", pgqrs_run_state_name((pgqrs_run_state)8));
    EQ(7, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    /* A dead letter is an error too. */
    dead = ids[PGQRS_RUN_QUEUED];
    OK(pgqrs_reject(T.store, must_take(), "unreadable"));
    RUN_ERROR("DEAD", NULL, dead);
    SAME("unreadable", look_run(dead)->error_message);
    EQ(2, runs_where((pgqrs_run_filter){.workflow = T.flow, .state = PGQRS_RUN_ERROR}));
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow, .state = PGQRS_RUN_QUEUED}));
    /* A lease that is over is nobody's. */
    advance_ms(TEST_LEASE_MS + 1);
    RUN("queued", ids[PGQRS_RUN_RUNNING]);
    count = runs_where((pgqrs_run_filter){.workflow = T.flow, .state = PGQRS_RUN_RUNNING});
    EQ(0, count);
    OK(pgqrs_verify(T.store));
}

/* The runs of a page, which are kept, are these. */
static void check_open(pgqrs_run_filter filter, const int64_t *ids, size_t count, const char *file, int line)
{
    pgqrs_runs *found = NULL;
    filter.open = true;
    OK(pgqrs_run_list(T.store, &filter, &found));
    keep(found);
    check_int((int64_t)count, (int64_t)found->count, "open runs", file, line);
    for (size_t i = 0; i < count; i++)
        check_int(ids[i], found->items[i].id, "id of an open run", file, line);
}
#define OPEN(ids, count, ...) check_open((pgqrs_run_filter){.workflow = T.flow, __VA_ARGS__}, ids, count, __FILE__, __LINE__)

static void open_runs_are_those_that_have_not_ended(void)
{
    int64_t ids[8], newest_first[4], other = 0;
    const char *name = unique("other");
    runs_in_every_state(ids);
    newest_first[0] = ids[PGQRS_RUN_QUEUED];
    newest_first[1] = ids[PGQRS_RUN_CANCELLING];
    newest_first[2] = ids[PGQRS_RUN_RUNNING];
    newest_first[3] = ids[PGQRS_RUN_PAUSED];
    OPEN(newest_first, 4, .limit = 0);
    OPEN(newest_first, 2, .limit = 2);
    OPEN(newest_first + 2, 2, .limit = 3, .after_id = newest_first[1]);
    OPEN(&newest_first[3], 1, .oldest_first = true, .limit = 1);
    OPEN(&newest_first[2], 1, .oldest_first = true, .limit = 1, .after_id = newest_first[3]);
    OPEN(newest_first, 1, .state = PGQRS_RUN_QUEUED);
    OPEN(newest_first, 0, .idempotency_key = "none");
    EQ(4, runs_where((pgqrs_run_filter){.workflow = T.flow, .open = true, .limit = 1}));
    EQ(1, runs_where((pgqrs_run_filter){.workflow = T.flow, .open = true, .state = PGQRS_RUN_PAUSED}));
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow, .open = true, .triggered_before_us = 1}));
    /* Of all workflows. A dead letter has ended; a lease that is over ends nothing. */
    OK(pgqrs_workflow_create(T.store, name, NULL));
    OK(pgqrs_workflow_trigger(T.store, name, "1", NULL, &other));
    EQ(5, runs_where((pgqrs_run_filter){.open = true}));
    OK(pgqrs_reject(T.store, must_take(), "unreadable"));
    OPEN(newest_first + 1, 3, .limit = 0);
    advance_ms(TEST_LEASE_MS + 1);
    OPEN(newest_first + 1, 3, .limit = 0);
    EQ(4, runs_where((pgqrs_run_filter){.open = true}));
    OK(pgqrs_run_cancel(T.store, ids[PGQRS_RUN_PAUSED], NULL, NULL));
    EQ(2, runs_where((pgqrs_run_filter){.workflow = T.flow, .open = true}));
}

static void running_run_tells_who_has_it(void)
{
    pgqrs_worker_ref worker;
    const pgqrs_run_info *info;
    int64_t id;
    define();
    worker = enlist(unique("hand"), T.queue);
    id = trigger();
    take_as((pgqrs_dequeue_desc){.worker = worker});
    info = look_run(id);
    EQ(PGQRS_RUN_RUNNING, info->state);
    EQ(worker.id, info->worker_id);
    YES(info->worker && strstr(info->worker, "hand"));
    EQ(T.now_us + TEST_LEASE_MS * 1000, info->lease_until_us);
    EQ(1, info->attempt);
}

static void unknown_run_is_nothing(void)
{
    pgqrs_run_info *info = NULL;
    pgqrs_explanation why;
    OK(pgqrs_run_get(T.store, 987654321, &info));
    YES(info == NULL);
    OK(pgqrs_run_get(T.store, put(), &info));
    YES(info == NULL);
    OK(pgqrs_run_explain(T.store, 987654321, &why));
    EQ(PGQRS_WHY_UNKNOWN_ID, why.reason);
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_get(T.store, 1, NULL));
}

static void check_run_pages(const int64_t *ids, int count, bool oldest_first)
{
    pgqrs_run_filter filter = {.workflow = T.flow, .oldest_first = oldest_first, .limit = 4};
    pgqrs_runs *page = NULL;
    int seen = 0;
    size_t i;
    do {
        OK(pgqrs_run_list(T.store, &filter, &page));
        keep(page);
        YES(page->count <= 4);
        for (i = 0; i < page->count; i++) {
            EQ(oldest_first ? ids[seen] : ids[count - 1 - seen], page->items[i].id);
            SAME("null", page->items[i].input);
            filter.after_id = page->items[i].id;
            seen++;
        }
    } while (page->count > 0);
    EQ(count, seen);
}

static void list_pages_in_both_directions(void)
{
    enum { many = 14 };
    pgqrs_trigger_item items[many];
    pgqrs_receipt receipts[many];
    int64_t ids[many];
    int i;
    begin_runs();
    define();
    memset(items, 0, sizeof(items));
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, items, many, receipts));
    for (i = 0; i < many; i++)
        ids[i] = receipts[i].id;
    OK(pgqrs_work_workflow(T.store, T.flow, just_return, NULL, &(pgqrs_work_desc){.max_messages = 5}));
    check_run_pages(ids, many, true);
    check_run_pages(ids, many, false);
    EQ(5, runs_where((pgqrs_run_filter){.workflow = T.flow, .state = PGQRS_RUN_SUCCESS, .limit = 2, .after_id = 1}));
}

static void runs_are_found_by_key_and_time(void)
{
    pgqrs_runs *found = NULL;
    int64_t first, second, start = T.now_us;
    define();
    first = trigger_as("1", (pgqrs_trigger_desc){.idempotency_key = "k1"});
    advance_ms(1000);
    second = trigger_as("2", (pgqrs_trigger_desc){.idempotency_key = "k2"});
    OK(pgqrs_run_list(T.store, &(pgqrs_run_filter){.workflow = T.flow, .idempotency_key = "k2"}, &found));
    keep(found);
    EQ(1, found->count);
    EQ(second, found->items[0].id);
    EQ(1, runs_where((pgqrs_run_filter){.workflow = T.flow, .triggered_before_us = start + SECOND_US}));
    EQ(1, runs_where((pgqrs_run_filter){.workflow = T.flow, .triggered_from_us = start + SECOND_US}));
    EQ(2, runs_where((pgqrs_run_filter){.workflow = T.flow, .triggered_from_us = start}));
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow, .triggered_before_us = start}));
    OK(pgqrs_run_list(T.store, &(pgqrs_run_filter){.workflow = T.flow, .triggered_before_us = start + 1}, &found));
    keep(found);
    EQ(1, found->count);
    EQ(first, found->items[0].id);
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow, .idempotency_key = "k3"}));
}

static void list_shows_runs_of_all_workflows(void)
{
    pgqrs_runs *found = NULL;
    const char *other = unique("other");
    int64_t first, second = 0;
    define();
    OK(pgqrs_workflow_create(T.store, other, NULL));
    first = trigger();
    OK(pgqrs_workflow_trigger(T.store, other, "1", NULL, &second));
    OK(pgqrs_run_list(T.store, NULL, &found));
    keep(found);
    EQ(2, found->count);
    EQ(second, found->items[0].id);
    EQ(first, found->items[1].id);
    SAME(other, found->items[0].workflow);
    SAME(T.flow, found->items[1].workflow);
    EQ(2, runs_where((pgqrs_run_filter){0}));
    EQ(1, runs_where((pgqrs_run_filter){.workflow = other}));
}

static void bad_filters_are_refused(void)
{
    pgqrs_runs *runs = NULL;
    define();
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_list(T.store, &(pgqrs_run_filter){.limit = 1001}, &runs));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_list(T.store, &(pgqrs_run_filter){.after_id = -1}, &runs));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_list(T.store, &(pgqrs_run_filter){.state = (pgqrs_run_state)8}, &runs));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_list(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "success",
                 pgqrs_run_list(T.store, &(pgqrs_run_filter){.open = true, .state = PGQRS_RUN_SUCCESS}, &runs));
}

static void view_shows_a_row_per_run(void)
{
    char sql[200], state[40];
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(three_steps);
    trigger();
    EQ(2, raw_int("SELECT count(*) FROM @pgqrs_run_view"));
    EQ(3, raw_int("SELECT count(*) FROM @pgqrs_step_view"));
    snprintf(sql, sizeof(sql), "SELECT state FROM @pgqrs_run_view WHERE id = %" PRId64, id);
    raw_query(sql, state, sizeof(state));
    SAME("success", state);
}

/* --- result --- */

static void result_of_a_success_is_its_output(void)
{
    pgqrs_run_info *info = NULL;
    int64_t id, start;
    begin_runs();
    define();
    id = trigger();
    serve(three_steps);
    start = T.now_us;
    OK(pgqrs_run_result(T.store, id, 0, &info));
    keep(info);
    SAME("6", info->output);
    OK(pgqrs_run_result(T.store, id, PGQRS_FOREVER, &info));
    keep(info);
    EQ(id, info->id);
    EQ(start, T.now_us);
}

static void result_of_a_failure_says_why(void)
{
    pgqrs_run_info *info = NULL;
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.code = "CARD_DECLINED", .message = "no money"};
    id = trigger();
    serve(around_work);
    FAILS(ERR_RUN_FAILED, pgqrs_run_result(T.store, id, 0, &info));
    YES(info == NULL);
    FAILS_NAMING(ERR_RUN_FAILED, "CARD_DECLINED", pgqrs_run_result(T.store, id, 0, &info));
    FAILS_NAMING(ERR_RUN_FAILED, "no money", pgqrs_run_result(T.store, id, 0, &info));
    FAILS_NAMING(ERR_RUN_FAILED, "work", pgqrs_run_result(T.store, id, 0, &info));
}

static void result_of_a_cancelled_run_says_who(void)
{
    pgqrs_run_info *info = NULL;
    int64_t id;
    define();
    id = trigger();
    cancel_at_once(id);
    FAILS_NAMING(ERR_RUN_CANCELLED, "mary", pgqrs_run_result(T.store, id, 0, &info));
    FAILS_NAMING(ERR_RUN_CANCELLED, "wrong customer", pgqrs_run_result(T.store, id, 0, &info));
    YES(info == NULL);
}

static void result_that_does_not_come_times_out(void)
{
    pgqrs_run_info *info = NULL;
    int64_t id, start = T.now_us;
    define();
    id = trigger();
    FAILS(ERR_TIMEOUT, pgqrs_run_result(T.store, id, 0, &info));
    EQ(start, T.now_us);
    FAILS(ERR_TIMEOUT, pgqrs_run_result(T.store, id, 5000, &info));
    BETWEEN(5 * SECOND_US, 6 * SECOND_US, T.now_us - start);
    YES(info == NULL);
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_result(T.store, id, -1, &info));
    pgqrs_stop(T.store);
    FAILS(ERR_TIMEOUT, pgqrs_run_result(T.store, id, PGQRS_FOREVER, &info));
}

static void result_of_no_run_is_refused(void)
{
    pgqrs_run_info *info = NULL;
    int64_t id, removed = 0;
    begin_runs();
    define();
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_result(T.store, 987654321, 5000, &info));
    id = trigger();
    serve(three_steps);
    OK(pgqrs_run_purge(T.store, T.flow, NULL, &removed));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_result(T.store, id, 5000, &info));
    YES(info == NULL);
}

static void work_while_waiting(void)
{
    if (T.sleeps == 3) serve_on(W.admin, three_steps);
}

static void result_waits_for_the_end(void)
{
    pgqrs_run_info *info = NULL;
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    id = trigger();
    T.on_sleep = work_while_waiting;
    OK(pgqrs_run_result(T.store, id, PGQRS_FOREVER, &info));
    keep(info);
    SAME("6", info->output);
    BETWEEN(3, 4, T.sleeps);
}

/* Works on the queue a moment later. */
static bool work_soon(pgqrs_store *store)
{
    pgqrs_work_desc desc = {.until_empty = true};
    sleep_ms(200);
    return store && pgqrs_work_workflow(store, T.flow, just_return, NULL, &desc) == PGQRS_OK;
}

static int work_soon_in_child(void *user)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    bool good = work_soon(store);
    (void)user;
    pgqrs_close(store);
    return good ? 0 : 1;
}

static int64_t time_until_a_process_wakes_a_result(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_run_info *info = NULL;
    int64_t id, start, took;
    pid_t child;
    desc.poll_ms = patient_poll_ms();
    reopen_with(&desc);
    id = trigger();
    close_all_stores();
    child = start_child(work_soon_in_child, NULL);
    T.store = open_store(&desc);
    start = monotonic_ms();
    OK(pgqrs_run_result(T.store, id, 20000, &info));
    took = monotonic_ms() - start;
    keep(info);
    SAME("\"done\"", info->output);
    child_ended_well(child);
    return took;
}

static void result_is_woken_by_another_process(void)
{
    define();
    must_be_soon(time_until_a_process_wakes_a_result);
}

static void *work_soon_in_thread(void *user)
{
    pgqrs_store *store = (pgqrs_store *)user;
    return work_soon(store) ? user : NULL;
}

static int64_t time_until_a_thread_wakes_a_result(void)
{
    pgqrs_store_desc desc = real_time_desc(), plain;
    pgqrs_store *store;
    pgqrs_run_info *info = NULL;
    pthread_t thread;
    void *worked = NULL;
    pgqrs_result result;
    int64_t id, start, took;
    desc.poll_ms = patient_poll_ms();
    reopen_with(&desc);
    id = trigger();
    plain = desc;
    /* The counters of these tests are not made for two threads. */
    memset(&plain.allocator, 0, sizeof(plain.allocator));
    memset(&plain.logger, 0, sizeof(plain.logger));
    memset(&plain.observer, 0, sizeof(plain.observer));
    memset(&plain.random, 0, sizeof(plain.random));
    store = open_store(&plain);
    EQ(0, pthread_create(&thread, NULL, work_soon_in_thread, store));
    start = monotonic_ms();
    result = pgqrs_run_result(T.store, id, 20000, &info);
    took = monotonic_ms() - start;
    EQ(0, pthread_join(thread, &worked));
    OK(result);
    keep(info);
    YES(worked == store);
    SAME("\"done\"", info->output);
    close_store(store);
    return took;
}

static void result_is_woken_by_another_thread(void)
{
    define();
    must_be_soon(time_until_a_thread_wakes_a_result);
}

/* --- explain --- */

static void check_why(pgqrs_reason want, int64_t until_us, int64_t id, const char *file, int line)
{
    pgqrs_explanation why;
    memset(&why, 0, sizeof(why));
    OK(pgqrs_run_explain(T.store, id, &why));
    if (why.reason != want)
        fail_at(file, line, "the reason is %d, expected %d: %s", (int)why.reason, (int)want, why.text);
    check_int(until_us, why.until_us, "until_us", file, line);
    check_error_text(why.text, "pgqrs_run_explain", file, line);
    check_text_names(why.text, "run ", "pgqrs_run_explain", file, line);
    YES(strcmp("unknown", pgqrs_reason_name(why.reason)) != 0);
}
#define WHY(reason, until_us, id) check_why(PGQRS_WHY_##reason, until_us, id, __FILE__, __LINE__)

static void explain_runs_that_wait_in_line(void)
{
    int64_t id, delayed, start = T.now_us;
    define();
    id = trigger();
    WHY(NO_WORKER, 0, id);
    enlist(unique("somebody"), T.queue);
    WHY(NEXT, 0, id);
    OK(pgqrs_queue_pause(T.store, T.queue));
    WHY(PAUSED, 0, id);
    OK(pgqrs_queue_resume(T.store, T.queue));
    delayed = trigger_as("1", (pgqrs_trigger_desc){.delay_ms = 5000});
    WHY(DELAYED, start + 5 * SECOND_US, delayed);
    must_take();
    WHY(LEASED, start + TEST_LEASE_MS * 1000, id);
    OK(pgqrs_run_cancel(T.store, id, NULL, NULL));
    WHY(CANCELLING, start + TEST_LEASE_MS * 1000, id);
}

static void explain_a_run_whose_worker_died(void)
{
    int64_t id;
    define();
    enlist(unique("somebody"), T.queue);
    id = trigger();
    must_take();
    advance_ms(TEST_LEASE_MS + 1);
    WHY(LEASE_OVER, 0, id);
}

static void explain_runs_that_are_paused(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(sleep_an_hour);
    WHY(SLEEP, T.now_us + HOUR_US, id);
    id = trigger();
    serve(wait_a_minute);
    WHY(EVENT, T.now_us + MINUTE_US, id);
    id = trigger();
    serve(wait_for_ever);
    WHY(EVENT, 0, id);
    W.body = pause_the_step;
    id = trigger();
    serve(around_work);
    WHY(STEP_PAUSE, T.now_us + MINUTE_US, id);
    W.body = fail_with_failure;
    W.failure.transient = true;
    id = trigger();
    serve(around_work);
    WHY(RETRY, T.now_us + SECOND_US, id);
}

static void explain_runs_that_have_ended(void)
{
    pgqrs_explanation why;
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(three_steps);
    WHY(RUN_ENDED, 0, id);
    id = trigger();
    OK(pgqrs_run_cancel(T.store, id, &(pgqrs_cancel_desc){.by = "ada", .reason = "ordered twice"}, NULL));
    WHY(RUN_ENDED, 0, id);
    OK(pgqrs_run_explain(T.store, id, &why));
    YES(strstr(why.text, "cancelled by ada: ordered twice"));
    OK(pgqrs_run_explain(T.store, trigger(), &why));
    YES(strncmp(why.text, "run ", 4) == 0 && strstr(why.text, "message") == NULL);
    id = trigger();
    W.body = fail_with_failure;
    W.failure.code = "NO_STOCK";
    serve(around_work);
    WHY(RUN_FAILED, 0, id);
    OK(pgqrs_run_explain(T.store, id, &why));
    YES(strstr(why.text, "NO_STOCK") && strstr(why.text, "work") && strstr(why.text, "pgqrs_run_restart"));
}

/* --- restart --- */

static void restart_does_the_failed_step_again(void)
{
    int64_t id, failed_at;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.code = "DOWN", .transient = true, .retry_after_ms = -1};
    id = trigger();
    serve(around_work);
    RUN_ERROR("DOWN", "work", id);
    failed_at = T.now_us;
    advance_ms(5000);
    OK(pgqrs_run_restart(T.store, id));
    RUN("queued", id);
    STATE("ready", id);
    EQ(1, steps_of(id)->count);
    EQ(0, look_run(id)->finished_at_us);
    EQ(0, look_run(id)->retries);
    YES(look_run(id)->error_code == NULL && look_run(id)->error_step == NULL);
    SAME(SECRET_PAYLOAD, look_run(id)->input);
    /* All retries begin anew. */
    W.failure.retry_after_ms = 0;
    serve(around_work);
    RUN("paused", id);
    EQ(T.now_us + SECOND_US, look_run(id)->wait_until_us);
    W.body = give_good_data;
    serve_after(1000, around_work);
    RUN("success", id);
    EQ(failed_at, step_of(id, 1)->finished_at_us);
    EQ(7, W.bodies);
    EQ(3, steps_of(id)->count);
    OK(pgqrs_verify(T.store));
}

static void restart_sets_the_deadline_anew(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id;
    begin_runs();
    desc.timeout_ms = 60000;
    define_as(desc);
    id = trigger();
    serve_after(60000, three_steps);
    RUN_ERROR("TIMEOUT", NULL, id);
    advance_ms(1000);
    OK(pgqrs_run_restart(T.store, id));
    EQ(T.now_us + MINUTE_US, look_run(id)->deadline_at_us);
    serve(three_steps);
    RUN("success", id);
}

static void restart_of_a_run_that_has_not_failed_is_refused(void)
{
    int64_t ids[8];
    int state;
    runs_in_every_state(ids);
    for (state = PGQRS_RUN_QUEUED; state < PGQRS_RUN_ERROR; state++) {
        char *picture = picture_of(ids[state]);
        FAILS(ERR_RUN_STATE, pgqrs_run_restart(T.store, ids[state]));
        UNCHANGED(picture, ids[state]);
    }
    OK(pgqrs_run_restart(T.store, ids[PGQRS_RUN_ERROR]));
    FAILS(ERR_RUN_STATE, pgqrs_run_restart(T.store, ids[PGQRS_RUN_ERROR]));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_restart(T.store, 987654321));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_restart(T.store, put()));
}

static pgqrs_result fail_after_the_event(pgqrs_run *r, void *user)
{
    const char *payload = NULL;
    (void)user;
    note_run(r);
    if (!pgqrs_run_wait_event(r, "paid", 60000, &payload) || !pgqrs_run_sleep(r, "nap", 1000))
        return pgqrs_run_return(r, NULL);
    pgqrs_run_set(r, "note", "1");
    if (W.fail_first) return pgqrs_run_fail(r, NULL);
    return pgqrs_run_return(r, payload);
}

static void restart_keeps_waits_that_are_over(void)
{
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 1;
    id = trigger();
    send_event(id, "\"paid\"", true);
    serve(fail_after_the_event);
    serve_after(1000, fail_after_the_event);
    RUN_ERROR("FAILED", NULL, id);
    W.fail_first = 0;
    OK(pgqrs_run_restart(T.store, id));
    SAME("1", value_on(T.store, id, "note"));
    serve(fail_after_the_event);
    RUN("success", id);
    SAME("\"paid\"", look_run(id)->output);
}

/* --- fork --- */

static void fork_makes_a_new_run_with_the_steps_before(void)
{
    char *picture;
    int64_t id, forked = 0;
    begin_runs();
    define();
    id = trigger_as(SECRET_PAYLOAD, (pgqrs_trigger_desc){.priority = 7, .idempotency_key = "k"});
    serve(three_steps);
    picture = picture_of(id);
    advance_ms(1000);
    OK(pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.step = "second"}, &forked));
    YES(forked > id);
    UNCHANGED(picture, id);
    RUN("queued", forked);
    STATE("ready", forked);
    EQ(id, look_run(forked)->forked_from);
    EQ(T.now_us, look_run(forked)->triggered_at_us);
    EQ(7, must_look(forked)->priority);
    SAME(SECRET_PAYLOAD, look_run(forked)->input);
    SAME(T.flow, look_run(forked)->workflow);
    YES(look_run(forked)->idempotency_key == NULL);
    EQ(1, steps_of(forked)->count);
    SAME("first", step_of(forked, 1)->name);
    SAME("1", step_of(forked, 1)->output);
    serve(three_steps);
    RUN("success", forked);
    EQ(5, W.bodies);
    EQ(3, steps_of(forked)->count);
    OK(pgqrs_verify(T.store));
}

static void fork_without_a_step_starts_over_with_another_input(void)
{
    int64_t id, forked = 0;
    begin_runs();
    define();
    id = trigger();
    serve(three_steps);
    OK(pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.input = "{\"other\":1}"}, &forked));
    EQ(0, steps_of(forked)->count);
    SAME("{\"other\":1}", look_run(forked)->input);
    SAME(SECRET_PAYLOAD, look_run(id)->input);
    OK(pgqrs_run_fork(T.store, id, NULL, &forked));
    EQ(0, steps_of(forked)->count);
    serve(three_steps);
    EQ(9, W.bodies);
}

static void fork_from_a_step_with_a_key(void)
{
    int64_t id, forked = 0;
    begin_runs();
    define();
    id = trigger();
    serve(keyed_steps);
    OK(pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.step = "page", .key = "4"}, &forked));
    EQ(8, steps_of(forked)->count);
    SAME("3", step_of(forked, 8)->key);
    FAILS(ERR_STEP_NOT_FOUND, pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.step = "page", .key = "400"}, &forked));
    FAILS(ERR_STEP_NOT_FOUND, pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.step = "page"}, &forked));
    FAILS_NAMING(ERR_STEP_NOT_FOUND, "nothing",
                 pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.step = "nothing"}, &forked));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_fork(T.store, 987654321, NULL, &forked));
    FAILS(ERR_JSON, pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.input = "{"}, &forked));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.key = "4"}, &forked));
    EQ(2, runs_where((pgqrs_run_filter){.workflow = T.flow}));
}

static void fork_copies_waits_that_are_over_but_no_values_and_events(void)
{
    pgqrs_run_values *values = NULL;
    int64_t id, forked = 0;
    begin_runs();
    define();
    W.fail_first = 1;
    id = trigger();
    send_event(id, "\"paid\"", true);
    serve(fail_after_the_event);
    OK(pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.step = "nap"}, &forked));
    EQ(1, steps_of(forked)->count);
    EQ(PGQRS_STEP_EVENT, step_of(forked, 1)->kind);
    SAME("\"paid\"", step_of(forked, 1)->output);
    OK(pgqrs_run_values_get(T.store, forked, &values));
    keep(values);
    EQ(0, values->count);
    RUN("paused", id);
    /* The fork waits for its own event when it starts before it. */
    OK(pgqrs_run_fork(T.store, id, NULL, &forked));
    W.fail_first = 0;
    serve(fail_after_the_event);
    RUN("paused", forked);
    EQ(PGQRS_WAIT_EVENT, look_run(forked)->wait);
}

static pgqrs_result sleep_before_a_step_of_this_name(pgqrs_run *r, void *user)
{
    (void)user;
    pgqrs_run_sleep(r, "name", 1000);
    quick_step(r, "name", "1");
    return pgqrs_run_return(r, NULL);
}

static void fork_from_a_name_means_the_step_with_a_body(void)
{
    int64_t id, forked = 0;
    begin_runs();
    define();
    id = trigger();
    serve(sleep_before_a_step_of_this_name);
    serve_after(1000, sleep_before_a_step_of_this_name);
    RUN("success", id);
    OK(pgqrs_run_fork(T.store, id, &(pgqrs_fork_desc){.step = "name"}, &forked));
    EQ(1, steps_of(forked)->count);
    EQ(PGQRS_STEP_SLEEP, step_of(forked, 1)->kind);
}

static void refused_control_leaves_no_answers(void)
{
    pgqrs_run_state state = PGQRS_RUN_SUCCESS;
    bool accepted = true;
    int64_t forked = 7;
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_cancel(T.store, 987654321, NULL, &state));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_send_event(T.store, 987654321, "paid", "1", &accepted));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_fork(T.store, 987654321, NULL, &forked));
    EQ(0, state);
    NO(accepted);
    EQ(0, forked);
}

static void fork_of_runs_in_any_state(void)
{
    int64_t ids[8], forked = 0;
    int state;
    runs_in_every_state(ids);
    for (state = PGQRS_RUN_QUEUED; state <= PGQRS_RUN_ERROR; state++) {
        char *picture = picture_of(ids[state]);
        OK(pgqrs_run_fork(T.store, ids[state], NULL, &forked));
        RUN("queued", forked);
        UNCHANGED(picture, ids[state]);
    }
    OK(pgqrs_verify(T.store));
}

/* --- purge --- */

static void purge_removes_ended_runs_and_all_that_is_theirs(void)
{
    int64_t ids[8], removed = -1;
    int state;
    runs_in_every_state(ids);
    OK(pgqrs_run_purge(T.store, T.flow, NULL, &removed));
    EQ(3, removed);
    for (state = PGQRS_RUN_QUEUED; state <= PGQRS_RUN_ERROR; state++) {
        bool ended = state >= PGQRS_RUN_CANCELLED;
        EQ(ended, look_run_on(T.store, ids[state]) == NULL);
        EQ(ended, look(ids[state]) == NULL);
    }
    EQ(1, raw_int("SELECT count(DISTINCT run_id) FROM @pgqrs_steps"));
    OK(pgqrs_run_purge(T.store, T.flow, NULL, &removed));
    EQ(0, removed);
    OK(pgqrs_verify(T.store));
}

static void purge_by_state(void)
{
    int64_t ids[8], removed = -1;
    runs_in_every_state(ids);
    OK(pgqrs_run_purge(T.store, T.flow, &(pgqrs_run_purge_desc){.state = PGQRS_RUN_SUCCESS}, &removed));
    EQ(1, removed);
    RUN("cancelled", ids[PGQRS_RUN_CANCELLED]);
    OK(pgqrs_run_purge(T.store, T.flow, &(pgqrs_run_purge_desc){.state = PGQRS_RUN_CANCELLED}, &removed));
    EQ(1, removed);
    OK(pgqrs_run_purge(T.store, T.flow, &(pgqrs_run_purge_desc){.state = PGQRS_RUN_ERROR}, NULL));
    EQ(4, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    FAILS(ERR_INVALID_ARGUMENT,
          pgqrs_run_purge(T.store, T.flow, &(pgqrs_run_purge_desc){.state = PGQRS_RUN_QUEUED}, NULL));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_purge(T.store, T.flow, &(pgqrs_run_purge_desc){.older_than_ms = -1}, NULL));
}

static void purge_by_age(void)
{
    int64_t old, young, dead, removed = -1;
    begin_runs();
    define();
    old = trigger();
    serve(three_steps);
    dead = trigger();
    OK(pgqrs_reject(T.store, must_take(), "unreadable"));
    advance_ms(10000);
    young = trigger();
    serve(three_steps);
    advance_ms(5000);
    OK(pgqrs_run_purge(T.store, T.flow, &(pgqrs_run_purge_desc){.older_than_ms = 20000}, &removed));
    EQ(0, removed);
    OK(pgqrs_run_purge(T.store, T.flow, &(pgqrs_run_purge_desc){.older_than_ms = 10000}, &removed));
    EQ(2, removed);
    YES(look_run_on(T.store, old) == NULL);
    YES(look_run_on(T.store, dead) == NULL);
    RUN("success", young);
}

static void purge_of_more_runs_than_fit_in_one_piece(void)
{
    enum { many = 1100 };
    pgqrs_trigger_item *items = (pgqrs_trigger_item *)calloc(many, sizeof(*items));
    pgqrs_result result;
    int64_t count = -1;
    define();
    assert_non_null(items);
    result = pgqrs_workflow_trigger_many(T.store, T.flow, items, many, NULL);
    free(items);
    OK(result);
    EQ(many, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    OK(pgqrs_workflow_delete(T.store, T.flow, true));
    OK(pgqrs_run_count(T.store, NULL, &count));
    EQ(0, count);
    NUMBERS(0, 0, 0, 0, 0);
}

static void workers_remove_runs_after_their_retention(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t good, bad, cancelled, open;
    begin_runs();
    desc.retention_ms = 60000;
    desc.failed_retention_ms = 120000;
    define_as(desc);
    good = trigger();
    serve(three_steps);
    bad = trigger();
    serve(return_nothing);
    cancelled = trigger();
    OK(pgqrs_run_cancel(T.store, cancelled, NULL, NULL));
    open = trigger_as("1", (pgqrs_trigger_desc){.delay_ms = 3600000});
    advance_ms(59999);
    maintain_all();
    RUN("success", good);
    advance_ms(2);
    maintain_all();
    YES(look_run_on(T.store, good) == NULL);
    YES(look_run_on(T.store, cancelled) == NULL);
    YES(look(good) == NULL);
    RUN("error", bad);
    advance_ms(60000);
    maintain_all();
    YES(look_run_on(T.store, bad) == NULL);
    RUN("queued", open);
    EQ(1, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    OK(pgqrs_verify(T.store));
}

static void check_gone(int64_t id)
{
    YES(look_run_on(T.store, id) == NULL);
    YES(look(id) == NULL);
    EQ(0, raw_int("SELECT count(*) FROM @pgqrs_runs"));
    EQ(0, raw_int("SELECT count(*) FROM @pgqrs_steps"));
    EQ(0, raw_int("SELECT count(*) FROM @pgqrs_run_values"));
    EQ(0, raw_int("SELECT count(*) FROM @pgqrs_run_events"));
    OK(pgqrs_verify(T.store));
}

/* A run that has a step, a value and an event. */
static int64_t ended_run(void)
{
    int64_t id;
    W.executions = 0;
    id = trigger();
    send_event(id, "1", true);
    serve(set_values);
    RUN("success", id);
    return id;
}

static void run_goes_with_its_message(void)
{
    int64_t id, removed = 0;
    begin_runs();
    define();
    id = ended_run();
    OK(pgqrs_message_delete(T.store, &id, 1, false, NULL));
    check_gone(id);
    id = trigger();
    OK(pgqrs_message_delete(T.store, &id, 1, false, NULL));
    check_gone(id);
    id = ended_run();
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, &removed));
    EQ(1, removed);
    check_gone(id);
    id = ended_run();
    OK(pgqrs_queue_update(T.store, T.queue, &(pgqrs_queue_desc){.retention_ms = 1000}));
    advance_ms(2000);
    maintain_all();
    check_gone(id);
}

/* --- fencing --- */

static void two_workers_never_have_the_same_run(void)
{
    enum { many = 20 };
    pgqrs_workflow_entry entry = {T.flow, three_steps, NULL};
    pgqrs_store *other = another_store();
    pgqrs_worker *workers[2];
    int64_t ids[many];
    size_t handled = 1, more = 1;
    int i;
    begin_runs();
    define();
    for (i = 0; i < many; i++)
        ids[i] = trigger();
    workers[0] = pgqrs_worker_open_workflows(T.store, &entry, 1, NULL);
    workers[1] = pgqrs_worker_open_workflows(other, &entry, 1, NULL);
    YES(workers[0] && workers[1]);
    while (handled + more > 0) {
        OK(pgqrs_worker_poll(workers[0], 0, &handled));
        OK_ON(other, pgqrs_worker_poll(workers[1], 0, &more));
    }
    OK(pgqrs_worker_close(workers[0]));
    OK_ON(other, pgqrs_worker_close(workers[1]));
    EQ(many, W.executions);
    for (i = 0; i < many; i++)
        RUN("success", ids[i]);
}

/* The clock of a worker that does not know how late it is. */
static int64_t behind_us;
static int64_t slow_now(void *user)
{
    (void)user;
    return T.now_us - behind_us;
}

/* What a zombie tries. Those with a step do it inside of one. */
static void zombie_done(pgqrs_run *r)
{
    pgqrs_step_done(r, "666");
}

static void zombie_fails(pgqrs_run *r)
{
    pgqrs_step_fail(r, &(pgqrs_failure){.code = "ZOMBIE"});
}

static void zombie_tries_again(pgqrs_run *r)
{
    pgqrs_step_fail(r, &(pgqrs_failure){.code = "ZOMBIE", .transient = true});
}

static void zombie_pauses(pgqrs_run *r)
{
    pgqrs_step_pause(r, 5000, "zombie");
}

static void zombie_begins_a_step(pgqrs_run *r)
{
    NO(pgqrs_step(r, "zombie", NULL));
}

static void zombie_sleeps(pgqrs_run *r)
{
    pgqrs_run_sleep(r, "zombie", 5000);
}

static void zombie_waits(pgqrs_run *r)
{
    pgqrs_run_wait_event(r, "zombie", 5000, NULL);
}

static void zombie_sets(pgqrs_run *r)
{
    RESULT(PGQRS_ERR_LEASE_LOST, pgqrs_run_set(r, "note", "666"));
}

static void zombie_flushes(pgqrs_run *r)
{
    RESULT(PGQRS_ERR_LEASE_LOST, pgqrs_run_flush(r));
}

static void zombie_extends(pgqrs_run *r)
{
    RESULT(PGQRS_ERR_LEASE_LOST, pgqrs_run_extend(r, 60000));
}

static void zombie_fails_the_run(pgqrs_run *r)
{
    pgqrs_run_fail(r, &(pgqrs_failure){.code = "ZOMBIE"});
}

static void zombie_returns(pgqrs_run *r)
{
    pgqrs_run_return(r, "666");
}

static const struct {
    const char *what;
    void (*act)(pgqrs_run *r);
    bool in_step;
} zombies[] = {
    {"done", zombie_done, true},
    {"fail", zombie_fails, true},
    {"fail transiently", zombie_tries_again, true},
    {"pause", zombie_pauses, true},
    {"step", zombie_begins_a_step, false},
    {"sleep", zombie_sleeps, false},
    {"wait", zombie_waits, false},
    {"set", zombie_sets, false},
    {"set in a step", zombie_sets, true},
    {"flush", zombie_flushes, false},
    {"extend", zombie_extends, false},
    {"fail the run", zombie_fails_the_run, false},
    {"return", zombie_returns, false},
};

/* Its lease ends, and somebody else does the work, or cancels it. */
static void lose_the_run(void)
{
    advance_ms(TEST_LEASE_MS + 1);
    if (W.stop_at) behind_us = (TEST_LEASE_MS + 1) * 1000;
    if (W.seen == PGQRS_RUN_CANCELLED)
        OK(pgqrs_run_cancel(T.store, W.id, &by_mary, NULL));
    else
        serve(W.seen == PGQRS_RUN_PAUSED ? sleep_an_hour : three_steps);
}

static char *zombie_picture;
static size_t zombie_number;
static pgqrs_result zombie(pgqrs_run *r, void *user)
{
    (void)user;
    quick_step(r, "first", "1");
    if (!zombies[zombie_number].in_step || pgqrs_step(r, "second", NULL)) {
        W.id = pgqrs_run_id(r);
        lose_the_run();
        zombie_picture = picture_of(pgqrs_run_id(r));
        zombies[zombie_number].act(r);
    }
    if (pgqrs_step(r, "much later", NULL)) W.fail_first++;
    W.status = pgqrs_run_status(r);
    return pgqrs_run_return(r, "666");
}

/* Whatever a worker does whose run is in this state by now, it changes nothing and is told. */
static void haunt(bool slow, pgqrs_run_state state)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store;
    begin_runs();
    define();
    behind_us = 0;
    desc.clock.now_us = slow_now;
    store = another_store_with(&desc);
    W.stop_at = slow;
    W.seen = state;
    for (zombie_number = 0; zombie_number < COUNT_OF(zombies); zombie_number++) {
        const char *what = zombies[zombie_number].what;
        int64_t id = trigger();
        pgqrs_workflow_entry entry = {T.flow, zombie, NULL};
        pgqrs_worker *worker = pgqrs_worker_open_workflows(store, &entry, 1, NULL);
        assert_non_null(worker);
        T.event_count = 0;
        zombie_picture = NULL;
        OK_ON(store, pgqrs_worker_poll(worker, 0, NULL));
        OK_ON(store, pgqrs_worker_close(worker));
        behind_us = 0;
        assert_non_null(zombie_picture);
        if (W.fail_first) fail_at(__FILE__, __LINE__, "%s: the zombie's next step was entered", what);
        if (W.status != PGQRS_ERR_LEASE_LOST && events_of(PGQRS_EVENT_LEASE_LOST) == 0)
            fail_at(__FILE__, __LINE__, "%s: the zombie was told %s", what, pgqrs_result_name(W.status));
        UNCHANGED(zombie_picture, id);
        RUN(pgqrs_run_state_name(state), id);
        STATE(state == PGQRS_RUN_PAUSED ? "delayed" : "archived", id);
    }
    OK(pgqrs_verify(T.store));
}

static void zombie_changes_nothing(void)
{
    haunt(false, PGQRS_RUN_SUCCESS);
}

static void zombie_with_a_slow_clock_changes_nothing(void)
{
    haunt(true, PGQRS_RUN_SUCCESS);
}

static void zombie_does_not_wake_a_run_that_sleeps(void)
{
    haunt(true, PGQRS_RUN_PAUSED);
}

static void zombie_does_not_revive_a_run_that_was_cancelled(void)
{
    haunt(true, PGQRS_RUN_CANCELLED);
}

static void delivery_of_an_ended_run_is_archived_quietly(void)
{
    static const int ended[] = {PGQRS_RUN_CANCELLED, PGQRS_RUN_SUCCESS, PGQRS_RUN_ERROR};
    int64_t ids[8];
    size_t i;
    runs_in_every_state(ids);
    for (i = 0; i < COUNT_OF(ended); i++) {
        int64_t id = ids[ended[i]];
        char *picture = picture_of(id);
        int executions;
        OK(pgqrs_message_replay(T.store, id));
        STATE("ready", id);
        executions = W.executions;
        serve(three_steps);
        /* Only the run that was queued may have been executed. */
        BETWEEN(executions, executions + (i == 0), W.executions);
        STATE("archived", id);
        UNCHANGED(picture, id);
    }
}

static void ended_run_never_changes(void)
{
    static const int ended[] = {PGQRS_RUN_CANCELLED, PGQRS_RUN_SUCCESS};
    int64_t ids[8], forked;
    size_t i;
    runs_in_every_state(ids);
    for (i = 0; i < COUNT_OF(ended); i++) {
        int64_t id = ids[ended[i]];
        char *picture = picture_of(id);
        FAILS(ERR_RUN_STATE, pgqrs_run_send_event(T.store, id, "paid", "1", NULL));
        FAILS(ERR_RUN_STATE, pgqrs_run_restart(T.store, id));
        (void)pgqrs_run_cancel(T.store, id, &by_mary, NULL);
        OK(pgqrs_run_fork(T.store, id, NULL, &forked));
        advance_ms(3600000);
        maintain_all();
        UNCHANGED(picture, id);
    }
}

/* --- poisoned runs --- */

/* As a worker that dies each time: takes and never settles. */
static void die_with(int64_t id, int times)
{
    int i;
    for (i = 0; i < times; i++) {
        EQ(id, must_take()->id);
        advance_ms(TEST_LEASE_MS + 1);
    }
}

static pgqrs_result nap_then_crash(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "before", "1");
    if (!pgqrs_run_sleep(r, "nap", 1000)) return pgqrs_run_return(r, NULL);
    quick_step(r, "after", "2");
    return pgqrs_run_return(r, "\"done\"");
}

static void run_that_kills_its_workers_ends_among_the_dead_letters(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(nap_then_crash);
    advance_ms(1000);
    die_with(id, TEST_MAX_ATTEMPTS);
    maintain_all();
    YES(take() == NULL);
    STATE("dead", id);
    RUN_ERROR("DEAD", NULL, id);
    SAME(must_look(id)->reason, look_run(id)->error_message);
    EQ(must_look(id)->finished_at_us, look_run(id)->finished_at_us);
    EQ(1, runs_where((pgqrs_run_filter){.workflow = T.flow, .state = PGQRS_RUN_ERROR}));
    OK(pgqrs_run_restart(T.store, id));
    RUN("queued", id);
    EQ(0, look_run(id)->attempt);
    /* The sleep had not come to its end and begins anew, the step before it does not. */
    EQ(1, steps_of(id)->count);
    serve(nap_then_crash);
    serve_after(1000, nap_then_crash);
    RUN("success", id);
    EQ(2, W.bodies);
    EQ(1, look_run(id)->attempt);
    OK(pgqrs_verify(T.store));
}

static void result_of_a_dead_run_says_so(void)
{
    pgqrs_run_info *info = NULL;
    define();
    int64_t id = trigger();
    OK(pgqrs_reject(T.store, must_take(), "unreadable"));
    FAILS_NAMING(ERR_RUN_FAILED, "DEAD", pgqrs_run_result(T.store, id, 0, &info));
    FAILS_NAMING(ERR_RUN_FAILED, "unreadable", pgqrs_run_result(T.store, id, 0, &info));
    WHY(RUN_FAILED, 0, id);
    FAILS(ERR_RUN_STATE, pgqrs_run_cancel(T.store, id, NULL, NULL));
    FAILS(ERR_RUN_STATE, pgqrs_run_send_event(T.store, id, "paid", "1", NULL));
}

static void replay_of_a_dead_runs_message_brings_it_back(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    OK(pgqrs_reject(T.store, must_take(), "unreadable"));
    OK(pgqrs_message_replay(T.store, id));
    RUN("queued", id);
    serve(three_steps);
    RUN("success", id);
}

static void run_whose_message_somebody_else_settled_is_an_error(void)
{
    int64_t archived, removed, forked = 0;
    begin_runs();
    define();
    archived = trigger();
    OK(pgqrs_archive(T.store, must_take()));
    RUN_ERROR("DEAD", NULL, archived);
    SAME(SECRET_PAYLOAD, look_run(archived)->input);
    removed = trigger();
    OK(pgqrs_delete(T.store, must_take()));
    RUN_ERROR("DEAD", NULL, removed);
    YES(look_run(removed)->input == NULL);
    EQ(2, runs_where((pgqrs_run_filter){.workflow = T.flow, .state = PGQRS_RUN_ERROR}));
    OK(pgqrs_run_restart(T.store, archived));
    serve(three_steps);
    RUN("success", archived);
    /* Nothing is left to start it with. */
    FAILS(ERR_RUN_STATE, pgqrs_run_restart(T.store, removed));
    FAILS(ERR_RUN_STATE, pgqrs_run_fork(T.store, removed, NULL, &forked));
    OK(pgqrs_run_fork(T.store, removed, &(pgqrs_fork_desc){.input = "1"}, &forked));
    RUN("queued", forked);
    OK(pgqrs_run_purge(T.store, T.flow, &(pgqrs_run_purge_desc){.state = PGQRS_RUN_ERROR}, NULL));
    YES(look_run_on(T.store, removed) == NULL);
    OK(pgqrs_verify(T.store));
}

static void attempts_begin_anew_after_progress_and_a_sleep(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    die_with(id, TEST_MAX_ATTEMPTS - 1);
    serve(nap_then_crash);
    EQ(TEST_MAX_ATTEMPTS, W.attempts[0]);
    RUN("paused", id);
    EQ(0, look_run(id)->attempt);
    advance_ms(1000);
    die_with(id, TEST_MAX_ATTEMPTS - 1);
    serve(nap_then_crash);
    RUN("success", id);
    EQ(TEST_MAX_ATTEMPTS, W.attempts[1]);
}

static void sleep_without_progress_keeps_the_attempts(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    die_with(id, TEST_MAX_ATTEMPTS - 1);
    serve(wait_for_ever);
    EQ(TEST_MAX_ATTEMPTS, W.attempts[0]);
    RUN("paused", id);
    EQ(TEST_MAX_ATTEMPTS - 1, look_run(id)->attempt);
}

/* --- processes that are killed --- */

static int killer; /* counts down; whoever finds 1 is killed */

static void killing_point(void)
{
    if (killer > 0 && --killer == 0) kill(getpid(), SIGKILL);
}

/* Every request to the database asks for the time first. */
static int64_t killing_now(void *user)
{
    (void)user;
    killing_point();
    return T.now_us;
}

typedef struct effect {
    int64_t run;
    int64_t step;
} effect;

typedef struct killing {
    int effects; /* a file: an effect for every body */
    int point;
    bool at_requests; /* points are requests, otherwise places in the function */
    bool transaction; /* the effects are rows of a table, written in transactional steps */
} killing;

static bool leave_effect(const pgqrs_run *r, const killing *how, const effect *done)
{
    char sql[200];
    snprintf(sql, sizeof(sql), "INSERT INTO @ledger VALUES (%" PRId64 ", %" PRId64 ")", done->run, done->step);
    if (how->transaction) return exec_in(r, sql) == PGQRS_OK;
    return write(how->effects, done, sizeof(*done)) == (ssize_t)sizeof(*done);
}

static pgqrs_result five_steps(pgqrs_run *r, void *user)
{
    const killing *how = (const killing *)user;
    void (*point)(void) = how->at_requests ? NULL : killing_point;
    pgqrs_result result;
    effect done;
    done.run = pgqrs_run_id(r);
    for (done.step = 0; done.step < 5; done.step++) {
        char key[24];
        pgqrs_step_desc desc = {.key = key, .transaction = how->transaction};
        snprintf(key, sizeof(key), "%" PRId64, done.step);
        if (point) point();
        if (pgqrs_step_with(r, "step", &desc, NULL)) {
            if (!leave_effect(r, how, &done)) return PGQRS_ERR_HANDLER;
            if (point) point();
            pgqrs_step_done(r, "1");
        }
        if (point) point();
    }
    result = pgqrs_run_return(r, "\"done\"");
    if (point) point();
    return result;
}

/* For children: no checks of cmocka. */
static pgqrs_worker *open_quietly(pgqrs_store *store, const killing *how)
{
    union {
        const killing *in;
        void *out;
    } cast;
    pgqrs_workflow_entry entry = {T.flow, five_steps, NULL};
    cast.in = how;
    entry.user = cast.out;
    return pgqrs_worker_open_workflows(store, &entry, 1, NULL);
}

static bool serve_quietly(pgqrs_worker *worker)
{
    size_t handled = 1;
    bool good = worker != NULL;
    while (good && handled > 0)
        good = pgqrs_worker_poll(worker, 0, &handled) == PGQRS_OK;
    return good;
}

/* What the one before left is taken up first: it may take a moment until the server notices that its client is dead. */
static bool take_up(pgqrs_store *store, pgqrs_worker *worker)
{
    static const pgqrs_run_filter ended = {.state = PGQRS_RUN_SUCCESS};
    int64_t all = -1, done = -2;
    int64_t began_ms = monotonic_ms();
    while (all != done && monotonic_ms() - began_ms < 50000) {
        if (done >= 0) sleep_ms(5);
        if (!serve_quietly(worker) || pgqrs_run_count(store, NULL, &all) != PGQRS_OK ||
            pgqrs_run_count(store, &ended, &done) != PGQRS_OK)
            return false;
    }
    return all == done;
}

enum { SURVIVED = 77 };

static int run_and_be_killed_in_child(void *user)
{
    const killing *how = (const killing *)user;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store;
    pgqrs_worker *worker;
    bool good;
    killer = 0;
    if (how->at_requests) desc.clock.now_us = killing_now;
    store = child_store(&desc);
    worker = open_quietly(store, how);
    good = take_up(store, worker) && pgqrs_workflow_trigger(store, T.flow, "1", NULL, NULL) == PGQRS_OK;
    killer = how->point;
    good = good && serve_quietly(worker) && pgqrs_worker_close(worker) == PGQRS_OK;
    killer = 0;
    if (!good) fprintf(stderr, "# child: %s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    return good ? SURVIVED : 1;
}

/* Kills a child at one point after the other of its run until one survives; returns how many were killed. Requests are
 * many: a fifth of them each time, which fifth is up to the seed. */
static int kill_everywhere(killing *how)
{
    int killed = 0, step = how->at_requests ? 5 : 1;
    how->point = how->at_requests ? 1 + (int)(run.seed % 5) : 1;
    for (; how->point < 300; how->point += step) {
        int status = 0;
        pid_t child = start_child(run_and_be_killed_in_child, how);
        EQ(child, waitpid(child, &status, 0));
        if (WIFEXITED(status) && WEXITSTATUS(status) == SURVIVED) return killed;
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            fail_at(__FILE__, __LINE__, "point %d: the child ended with status %d, signal %d", how->point,
                    WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        killed++;
        advance_ms(TEST_LEASE_MS + 1);
    }
    fail_at(__FILE__, __LINE__, "no child survives");
    return 0;
}

/* Of one run: steps in order, none left out, none repeated once the next one has begun, at most one repeated at all. */
static void check_effects_of_run(const effect *effects, size_t count, int64_t id)
{
    int64_t last = -1;
    size_t i, repeated = 0;
    for (i = 0; i < count; i++) {
        if (effects[i].run != id) continue;
        if (effects[i].step == last)
            repeated++;
        else
            EQ(last + 1, effects[i].step);
        last = effects[i].step;
    }
    EQ(4, last);
    YES(repeated <= 1);
}

static void check_effects(int file, int runs)
{
    static effect effects[2000];
    pgqrs_run_filter filter = {.workflow = T.flow, .limit = 1000};
    pgqrs_runs *all = NULL;
    ssize_t size = pread(file, effects, sizeof(effects), 0);
    size_t i;
    YES(size >= 0 && (size_t)size < sizeof(effects));
    OK(pgqrs_run_list(T.store, &filter, &all));
    keep(all);
    EQ(runs, all->count);
    for (i = 0; i < all->count; i++) {
        RUN("success", all->items[i].id);
        SAME("\"done\"", all->items[i].output);
        EQ(5, steps_of(all->items[i].id)->count);
        check_effects_of_run(effects, (size_t)size / sizeof(effects[0]), all->items[i].id);
    }
}

static void kill_sweep(bool at_requests, int least, int most)
{
    FILE *file = tmpfile();
    killing how = {0, 0, at_requests, false};
    int killed;
    assert_non_null(file);
    how.effects = fileno(file);
    define();
    close_all_stores();
    killed = kill_everywhere(&how);
    T.store = open_store(NULL);
    BETWEEN(least, most, killed);
    check_effects(how.effects, killed + 1);
    fclose(file);
    OK(pgqrs_verify(T.store));
}

static void run_survives_a_kill_at_every_place_of_its_function(void)
{
    kill_sweep(false, 16, 16);
}

static void run_survives_a_kill_before_every_request(void)
{
    kill_sweep(true, 5, 60);
}

/* Exactly once, wherever it is killed. */
static void kill_sweep_of_transactions(bool at_requests)
{
    killing how = {0, 0, at_requests, true};
    int killed;
    raw_exec("CREATE TABLE @ledger(run BIGINT, step BIGINT)");
    define();
    close_all_stores();
    killed = kill_everywhere(&how);
    T.store = open_store(NULL);
    YES(killed >= 5);
    EQ(killed + 1, runs_where((pgqrs_run_filter){.workflow = T.flow, .state = PGQRS_RUN_SUCCESS}));
    EQ(5 * (killed + 1), raw_int("SELECT count(*) FROM @ledger"));
    EQ(5 * (killed + 1), raw_int("SELECT count(*) FROM (SELECT DISTINCT run, step FROM @ledger) AS l"));
    OK(pgqrs_verify(T.store));
}

static void transactional_steps_happen_once_wherever_they_are_killed(void)
{
    kill_sweep_of_transactions(false);
}

static void transactional_steps_happen_once_killed_before_every_request(void)
{
    kill_sweep_of_transactions(true);
}

static int die_in_the_second_step_in_child(void *user)
{
    const killing *how = (const killing *)user;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store = child_store(&desc);
    killer = 5;
    serve_quietly(open_quietly(store, how));
    return 1;
}

static void run_that_kills_every_process_ends_among_the_dead_letters(void)
{
    FILE *file = tmpfile();
    killing how = {0, 0, false, false};
    pgqrs_workflow_entry entry = {T.flow, five_steps, &how};
    int64_t id;
    int i;
    assert_non_null(file);
    how.effects = fileno(file);
    define();
    id = trigger();
    close_all_stores();
    for (i = 0; i < TEST_MAX_ATTEMPTS; i++) {
        int status = 0;
        pid_t child = start_child(die_in_the_second_step_in_child, &how);
        EQ(child, waitpid(child, &status, 0));
        YES(WIFSIGNALED(status));
        advance_ms(TEST_LEASE_MS + 1);
    }
    T.store = open_store(NULL);
    serve_entries(T.store, &entry, 1);
    maintain_all();
    RUN_ERROR("DEAD", NULL, id);
    EQ(1, steps_of(id)->count);
    OK(pgqrs_run_restart(T.store, id));
    serve_entries(T.store, &entry, 1);
    RUN("success", id);
    fclose(file);
    OK(pgqrs_verify(T.store));
}

static int share_runs_in_child(void *user)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_work_desc work_desc = {.until_empty = true};
    pgqrs_result result = pgqrs_work_workflow(store, T.flow, five_steps, user, &work_desc);
    if (result != PGQRS_OK) fprintf(stderr, "# child: %s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    return result == PGQRS_OK ? 0 : 1;
}

static void processes_share_the_runs(void)
{
    enum { many = 30 };
    FILE *file = tmpfile();
    killing how = {0, 0, false, false};
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_trigger_item items[many];
    pid_t children[3];
    size_t i;
    assert_non_null(file);
    how.effects = fileno(file);
    reopen_with(&desc);
    define();
    memset(items, 0, sizeof(items));
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, items, many, NULL));
    close_all_stores();
    for (i = 0; i < COUNT_OF(children); i++)
        children[i] = start_child(share_runs_in_child, &how);
    for (i = 0; i < COUNT_OF(children); i++)
        child_ended_well(children[i]);
    T.store = open_store(&desc);
    check_effects(how.effects, many);
    EQ(many * 5 * sizeof(effect), lseek(how.effects, 0, SEEK_END));
    fclose(file);
    OK(pgqrs_verify(T.store));
}

/* --- processes that get in each other's way --- */

typedef struct race {
    int inside; /* write end: the child is where it should be */
    int go_on;  /* read end */
} race;

static pgqrs_result wait_when_told(pgqrs_run *r, void *user)
{
    const race *with = (const race *)user;
    const char *payload = NULL;
    char byte = 'x';
    if (write(with->inside, &byte, 1) != 1 || read(with->go_on, &byte, 1) != 1) return PGQRS_ERR_HANDLER;
    if (!pgqrs_run_wait_event(r, "paid", 60000, &payload)) return pgqrs_run_return(r, NULL);
    return pgqrs_run_return(r, payload);
}

static int work_once_in_child(void *user)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_result result =
        pgqrs_work_workflow(store, T.flow, wait_when_told, user, &(pgqrs_work_desc){.max_messages = 1});
    if (result != PGQRS_OK) fprintf(stderr, "# child: %s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    return result == PGQRS_OK ? 0 : 1;
}

/* While a run goes to sleep somebody wants something of it in a transaction that is not committed yet. */
static int64_t meddle_while_it_goes_to_sleep(bool cancel)
{
    int inside[2], go_on[2];
    race with;
    PGconn *connection;
    pgqrs_store *store;
    pid_t child;
    char byte = 'x';
    int64_t id;
    EQ(0, pipe(inside));
    EQ(0, pipe(go_on));
    with.inside = inside[1];
    with.go_on = go_on[0];
    define();
    id = trigger();
    close_all_stores();
    child = start_child(work_once_in_child, &with);
    EQ(1, read(inside[0], &byte, 1));
    connection = begin_on(&store);
    if (cancel)
        OK_ON(store, pgqrs_run_cancel(store, id, NULL, NULL));
    else
        OK_ON(store, pgqrs_run_send_event(store, id, "paid", "\"late\"", NULL));
    EQ(1, write(go_on[1], &byte, 1));
    sleep_ms(100);
    end_on(connection, "COMMIT");
    child_ended_well(child);
    T.store = open_store(NULL);
    close(inside[0]);
    close(inside[1]);
    close(go_on[0]);
    close(go_on[1]);
    return id;
}

static void event_committed_while_the_run_goes_to_sleep_wakes_it(void)
{
    int64_t id;
    begin_runs();
    id = meddle_while_it_goes_to_sleep(false);
    serve(wait_a_minute);
    EQ(1, W.executions);
    RUN("success", id);
    SAME("\"late\"", W.text);
}

static void cancel_committed_while_the_run_goes_to_sleep_ends_it(void)
{
    int64_t id;
    begin_runs();
    id = meddle_while_it_goes_to_sleep(true);
    serve(wait_a_minute);
    EQ(0, W.executions);
    RUN("cancelled", id);
    STATE("archived", id);
}

static int work_until_told_in_child(void *user)
{
    const race *with = (const race *)user;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_workflow_entry entry = {T.flow, wait_for_ever, NULL};
    pgqrs_worker *worker = pgqrs_worker_open_workflows(store, &entry, 1, NULL);
    bool good = worker != NULL;
    while (good && !all_is_done(with->go_on))
        good = pgqrs_worker_poll(worker, 20, NULL) == PGQRS_OK;
    good = good && pgqrs_worker_close(worker) == PGQRS_OK;
    if (!good) fprintf(stderr, "# child: %s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    return good ? 0 : 1;
}

static void many_runs(size_t count, int64_t *ids)
{
    pgqrs_trigger_item *items = (pgqrs_trigger_item *)calloc(count, sizeof(*items));
    pgqrs_receipt *receipts = (pgqrs_receipt *)calloc(count, sizeof(*receipts));
    pgqrs_result result = PGQRS_ERR_INTERNAL;
    size_t i;
    if (items && receipts) result = pgqrs_workflow_trigger_many(T.store, T.flow, items, count, receipts);
    for (i = 0; i < count && result == PGQRS_OK; i++)
        ids[i] = receipts[i].id;
    free(items);
    free(receipts);
    OK(result);
}

/* Two workers execute runs while this process does something with each of them. */
static void meddle_with(size_t count, int64_t *ids, void (*meddle)(int64_t id))
{
    pgqrs_store_desc desc = real_time_desc();
    int go_on[2];
    race with;
    pid_t children[2];
    size_t i;
    EQ(0, pipe(go_on));
    with.inside = -1;
    with.go_on = go_on[0];
    reopen_with(&desc);
    define();
    many_runs(count, ids);
    close_all_stores();
    for (i = 0; i < 2; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            close(go_on[1]);
            alarm(60);
            _exit(work_until_told_in_child(&with));
        }
        YES(children[i] > 0);
    }
    close(go_on[0]);
    T.store = open_store(&desc);
    for (i = 0; i < count; i++)
        meddle(ids[i]);
    for (i = 0; i < count; i++) {
        pgqrs_run_info *info = NULL;
        pgqrs_result result = pgqrs_run_result(T.store, ids[i], 20000, &info);
        pgqrs_free(info);
        if (result == PGQRS_ERR_TIMEOUT) fail_at(__FILE__, __LINE__, "%s", last_message(T.store));
    }
    close(go_on[1]);
    for (i = 0; i < 2; i++)
        child_ended_well(children[i]);
    OK(pgqrs_verify(T.store));
}

static void send_the_event(int64_t id)
{
    OK(pgqrs_run_send_event(T.store, id, "paid", "1", NULL));
}

static void no_event_is_missed_by_runs_that_go_to_sleep_meanwhile(void)
{
    enum { many = 40 };
    int64_t ids[many];
    size_t i;
    meddle_with(many, ids, send_the_event);
    for (i = 0; i < many; i++)
        RUN("success", ids[i]);
}

static void cancel_it(int64_t id)
{
    pgqrs_run_state state = (pgqrs_run_state)0;
    OK(pgqrs_run_cancel(T.store, id, &by_mary, &state));
    YES(state == PGQRS_RUN_CANCELLED || state == PGQRS_RUN_CANCELLING);
}

static void no_cancel_is_missed_by_runs_that_go_to_sleep_meanwhile(void)
{
    enum { many = 40 };
    int64_t ids[many];
    size_t i;
    meddle_with(many, ids, cancel_it);
    for (i = 0; i < many; i++) {
        RUN("cancelled", ids[i]);
        STATE("archived", ids[i]);
    }
}

enum { SHARED_KEYS = 40 };

static int trigger_keys_in_child(void *user)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_trigger_item items[SHARED_KEYS];
    char keys[SHARED_KEYS][16];
    bool backwards = *(const int *)user % 2 != 0;
    pgqrs_result result;
    int i;
    memset(items, 0, sizeof(items));
    for (i = 0; i < SHARED_KEYS; i++) {
        snprintf(keys[i], sizeof(keys[i]), "key %d", backwards ? SHARED_KEYS - 1 - i : i);
        items[i].desc.idempotency_key = keys[i];
    }
    result = pgqrs_workflow_create(store, T.flow, &(pgqrs_workflow_desc){.queue = T.queue});
    for (i = 0; i < SHARED_KEYS / 2 && result == PGQRS_OK; i++)
        result = pgqrs_workflow_trigger(store, T.flow, NULL, &items[i].desc, NULL);
    if (result == PGQRS_OK) result = pgqrs_workflow_trigger_many(store, T.flow, items, SHARED_KEYS, NULL);
    if (result != PGQRS_OK) fprintf(stderr, "# child: %s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    return result == PGQRS_OK ? 0 : 1;
}

static void processes_that_trigger_the_same_keys_make_each_run_once(void)
{
    int numbers_of_children[4];
    pid_t children[4];
    int i;
    close_all_stores();
    for (i = 0; i < 4; i++) {
        numbers_of_children[i] = i;
        children[i] = start_child(trigger_keys_in_child, &numbers_of_children[i]);
    }
    for (i = 0; i < 4; i++)
        child_ended_well(children[i]);
    T.store = open_store(NULL);
    EQ(SHARED_KEYS, runs_where((pgqrs_run_filter){.workflow = T.flow}));
    NUMBERS(SHARED_KEYS, 0, 0, 0, 0);
    OK(pgqrs_verify(T.store));
}

/* --- What a worker's requests may not do, whatever they say: straight at the backend */

static pgqrs_result end_at_once(const pgqrs_message *message, uint32_t lease_size, const char *output)
{
    pgqrs_backend_run_write write;
    pgqrs_backend_verdict verdict;
    pgqrs_backend_exchange exchange;
    memset(&write, 0, sizeof(write));
    memset(&verdict, 0, sizeof(verdict));
    memset(&exchange, 0, sizeof(exchange));
    write.now_us = exchange.now_us = T.now_us;
    write.run_id = verdict.id = message->id;
    write.lease = verdict.lease = message->lease;
    write.state = PGQRS_RUN_SUCCESS;
    write.output = output;
    write.output_size = strlen(output);
    verdict.lease_size = lease_size;
    verdict.verdict = PGQRS_ARCHIVE;
    verdict.run = &write;
    exchange.verdicts = &verdict;
    exchange.verdict_count = 1;
    EQ(PGQRS_OK, T.store->backend->exchange(T.store->self, &exchange));
    EQ(verdict.result, write.result);
    return verdict.result;
}

/* The size of a lease is a hint, and may be wrong. */
static void end_of_a_run_leaves_the_others_of_its_lease(void)
{
    const pgqrs_messages *held;
    begin_runs();
    define();
    trigger();
    trigger();
    held = take_many_with(T.store, T.queue, (pgqrs_dequeue_desc){.limit = 2});
    EQ(2, held->count);
    EQ(PGQRS_OK, end_at_once(&held->items[0], 1, "1"));
    STATE("archived", held->items[0].id);
    STATE("leased", held->items[1].id);
    EQ(PGQRS_OK, end_at_once(&held->items[1], 1, "1"));
    RUN("success", held->items[0].id);
    RUN("success", held->items[1].id);
    OK(pgqrs_verify(T.store));
}

static void end_of_a_run_that_has_ended_is_refused(void)
{
    const pgqrs_message *message;
    char *picture;
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    message = take_with(T.store, T.queue, (pgqrs_dequeue_desc){0});
    assert_non_null(message);
    EQ(PGQRS_OK, end_at_once(message, message->lease_size, "1"));
    OK(pgqrs_message_replay(T.store, id));
    message = take_with(T.store, T.queue, (pgqrs_dequeue_desc){0});
    assert_non_null(message);
    picture = picture_of(id);
    EQ(PGQRS_ERR_LEASE_LOST, end_at_once(message, message->lease_size, "2"));
    UNCHANGED(picture, id);
}

/* Between a step's write and its commit the lease may run out: nobody gets the run before the step can be seen. */
static void lease_is_locked_until_its_step_is_committed(void)
{
    pgqrs_backend_run_write write;
    pgqrs_step_info step;
    const pgqrs_message *message;
    pgqrs_store *other = another_store();
    int first;
    begin_runs();
    define();
    for (first = 0; first < 2; first++) {
        int64_t id = trigger();
        message = take_with(T.store, T.queue, (pgqrs_dequeue_desc){0});
        assert_non_null(message);
        memset(&write, 0, sizeof(write));
        memset(&step, 0, sizeof(step));
        step.number = 1;
        step.kind = PGQRS_STEP_BODY;
        step.state = PGQRS_STEP_DONE;
        step.name = "step";
        write.now_us = T.now_us;
        write.run_id = message->id;
        write.lease = message->lease;
        write.steps = &step;
        write.step_count = 1;
        write.started_at_us = first ? 0 : T.now_us;
        OK(T.store->backend->transaction(T.store->self, PGQRS_BACKEND_BEGIN));
        OK(T.store->backend->run_write(T.store->self, &write));
        EQ(PGQRS_OK, write.result);
        advance_ms(TEST_LEASE_MS + 1);
        YES(take_with(other, T.queue, (pgqrs_dequeue_desc){0}) == NULL);
        OK(T.store->backend->transaction(T.store->self, PGQRS_BACKEND_COMMIT));
        message = take_with(other, T.queue, (pgqrs_dequeue_desc){0});
        assert_non_null(message);
        EQ(id, message->id);
        EQ(1, steps_of(id)->count);
        OK_ON(other, pgqrs_archive(other, message));
    }
}

static const test_case run_cases[] = {
    CASE(cancel_of_a_queued_run_is_at_once, FRESH),
    CASE(cancel_of_a_delayed_run_is_at_once, PLAIN),
    CASE(cancel_of_a_paused_run_is_at_once, FRESH),
    CASE(cancel_of_a_running_run_stops_it_at_its_next_step, TWO),
    CASE(cancel_is_seen_before_the_first_step_of_a_slow_function, TWO),
    CASE(cancel_that_is_seen_inside_of_a_step_waits_for_its_end, TWO),
    CASE(cancel_between_the_last_step_and_the_end_is_a_cancel, TWO),
    CASE(cancel_at_every_boundary_stops_there, TWO | FRESH),
    CASE(cancel_on_the_way_to_bed_is_at_once, TWO),
    CASE(cancel_again_changes_nothing, PLAIN),
    CASE(cancel_of_an_ended_run_is_refused, PLAIN),
    CASE(cancel_again_on_a_cancelled_run_is_success, PLAIN),
    CASE(cancel_without_words, PLAIN),
    CASE(cancel_words_are_bounded, PLAIN),
    CASE(cancel_of_a_run_whose_worker_died_is_at_once, PLAIN),
    CASE(cancel_that_was_asked_for_survives_the_workers_death, PLAIN),
    CASE_ON(control_in_the_users_transaction_rolls_back_with_it, TWO | FRESH, ON_LENT),
    CASE(runs_are_found_by_state, FRESH),
    CASE(open_runs_are_those_that_have_not_ended, FRESH),
    CASE(running_run_tells_who_has_it, PLAIN),
    CASE(unknown_run_is_nothing, PLAIN),
    CASE(list_pages_in_both_directions, PLAIN),
    CASE(runs_are_found_by_key_and_time, PLAIN),
    CASE(list_shows_runs_of_all_workflows, FRESH),
    CASE(bad_filters_are_refused, PLAIN),
    CASE(view_shows_a_row_per_run, FRESH | TWO),
    CASE(result_of_a_success_is_its_output, PLAIN),
    CASE(result_of_a_failure_says_why, PLAIN),
    CASE(result_of_a_cancelled_run_says_who, PLAIN),
    CASE(result_that_does_not_come_times_out, PLAIN),
    CASE(result_of_no_run_is_refused, PLAIN),
    CASE(result_waits_for_the_end, TWO),
    CASE_ON(result_is_woken_by_another_process, PLAIN, ON_SHARED),
    CASE_ON(result_is_woken_by_another_thread, PLAIN, ON_SHARED),
    CASE(explain_runs_that_wait_in_line, PLAIN),
    CASE(explain_a_run_whose_worker_died, PLAIN),
    CASE(explain_runs_that_are_paused, PLAIN),
    CASE(explain_runs_that_have_ended, PLAIN),
    CASE(restart_does_the_failed_step_again, FRESH),
    CASE(restart_sets_the_deadline_anew, PLAIN),
    CASE(restart_of_a_run_that_has_not_failed_is_refused, PLAIN),
    CASE(restart_keeps_waits_that_are_over, PLAIN),
    CASE(fork_makes_a_new_run_with_the_steps_before, FRESH),
    CASE(fork_without_a_step_starts_over_with_another_input, PLAIN),
    CASE(fork_from_a_step_with_a_key, PLAIN),
    CASE(fork_copies_waits_that_are_over_but_no_values_and_events, PLAIN),
    CASE(fork_from_a_name_means_the_step_with_a_body, PLAIN),
    CASE(refused_control_leaves_no_answers, PLAIN),
    CASE(fork_of_runs_in_any_state, FRESH),
    CASE(purge_removes_ended_runs_and_all_that_is_theirs, FRESH | TWO),
    CASE(purge_by_state, PLAIN),
    CASE(purge_by_age, PLAIN),
    CASE(purge_of_more_runs_than_fit_in_one_piece, FRESH),
    CASE(workers_remove_runs_after_their_retention, FRESH),
    CASE(run_goes_with_its_message, FRESH | TWO),
    CASE(two_workers_never_have_the_same_run, TWO),
    CASE(zombie_changes_nothing, TWO | FRESH),
    CASE(zombie_with_a_slow_clock_changes_nothing, TWO | FRESH),
    CASE(zombie_does_not_wake_a_run_that_sleeps, TWO | FRESH),
    CASE(zombie_does_not_revive_a_run_that_was_cancelled, TWO | FRESH),
    CASE(delivery_of_an_ended_run_is_archived_quietly, PLAIN),
    CASE(ended_run_never_changes, FRESH),
    CASE(run_that_kills_its_workers_ends_among_the_dead_letters, FRESH),
    CASE(result_of_a_dead_run_says_so, PLAIN),
    CASE(replay_of_a_dead_runs_message_brings_it_back, PLAIN),
    CASE(run_whose_message_somebody_else_settled_is_an_error, FRESH),
    CASE(attempts_begin_anew_after_progress_and_a_sleep, PLAIN),
    CASE(sleep_without_progress_keeps_the_attempts, PLAIN),
    CASE_ON(run_survives_a_kill_at_every_place_of_its_function, FRESH, ON_SHARED),
    CASE_ON(run_survives_a_kill_before_every_request, FRESH, ON_SHARED),
    CASE_ON(transactional_steps_happen_once_wherever_they_are_killed, FRESH, ON_SHARED),
    CASE_ON(transactional_steps_happen_once_killed_before_every_request, FRESH, ON_SHARED),
    CASE_ON(run_that_kills_every_process_ends_among_the_dead_letters, FRESH, ON_SHARED),
    CASE_ON(processes_share_the_runs, FRESH, ON_SHARED),
    CASE_ON(event_committed_while_the_run_goes_to_sleep_wakes_it, FRESH, ON_SERVER),
    CASE_ON(cancel_committed_while_the_run_goes_to_sleep_ends_it, FRESH, ON_SERVER),
    CASE_ON(no_event_is_missed_by_runs_that_go_to_sleep_meanwhile, FRESH, ON_SHARED),
    CASE_ON(no_cancel_is_missed_by_runs_that_go_to_sleep_meanwhile, FRESH, ON_SHARED),
    CASE_ON(processes_that_trigger_the_same_keys_make_each_run_once, FRESH, ON_SHARED),
    CASE(end_of_a_run_leaves_the_others_of_its_lease, FRESH),
    CASE(end_of_a_run_that_has_ended_is_refused, FRESH),
    CASE_ON(lease_is_locked_until_its_step_is_committed, FRESH, ON_SERVER),
};
