/* Worker rows: registration, transitions, fencing by epoch, lists, release, delete, reclaim, purge. */

static pgqrs_dequeue_desc by(pgqrs_worker_ref worker)
{
    pgqrs_dequeue_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.worker = worker;
    desc.limit = 1;
    return desc;
}

static void register_makes_a_ready_worker(void)
{
    const char *name = unique("w");
    pgqrs_worker_ref worker = enlist(name, T.queue);
    const pgqrs_worker_info *info = must_look_worker(worker.id);
    EQ(worker.id, info->id);
    EQ(worker.epoch, info->epoch);
    SAME(name, info->name);
    SAME(T.queue, info->queue);
    EQ(PGQRS_WORKER_READY, info->state);
    NO(info->reclaimed);
    EQ(T.now_us, info->started_at_us);
    EQ(T.now_us, info->heartbeat_at_us);
    EQ(0, info->stopped_at_us);
    EQ(0, info->held);
}

static void register_without_a_queue(void)
{
    pgqrs_worker_ref worker = {0, 0};
    OK(pgqrs_worker_register(T.store, unique("w"), NULL, &worker));
    YES(must_look_worker(worker.id)->queue == NULL);
    put();
    assert_non_null(take_as(by(worker)));
}

static void register_refuses_bad_arguments(void)
{
    static const char *const bad[] = {"", "a\nb", "\xFF"};
    pgqrs_worker_ref worker;
    char *longer = text_of(256, 'w'), *longest = text_of(255, 'w');
    pgqrs_result too_long = pgqrs_worker_register(T.store, longer, NULL, &worker);
    pgqrs_result just_so = pgqrs_worker_register(T.store, longest, NULL, &worker);
    size_t i;
    free(longer);
    free(longest);
    RESULT(PGQRS_ERR_BAD_NAME, too_long);
    RESULT(PGQRS_OK, just_so);
    for (i = 0; i < COUNT_OF(bad); i++)
        FAILS(ERR_BAD_NAME, pgqrs_worker_register(T.store, bad[i], NULL, &worker));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "name", pgqrs_worker_register(T.store, NULL, NULL, &worker));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_worker_register(T.store, "w", NULL, NULL));
    FAILS(ERR_INVALID_ARGUMENT,
          pgqrs_worker_register(T.store, "w", &(pgqrs_register_desc){.stale_ms = -1}, &worker));
    FAILS(ERR_QUEUE_NOT_FOUND,
          pgqrs_worker_register(T.store, "w", &(pgqrs_register_desc){.queue = "nowhere"}, &worker));
    FAILS(ERR_BAD_NAME, pgqrs_worker_register(T.store, "w", &(pgqrs_register_desc){.queue = ""}, &worker));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_register(NULL, "w", NULL, &worker));
}

static void register_of_a_live_name_is_refused(void)
{
    const char *name = unique("w");
    pgqrs_worker_ref worker = enlist(name, T.queue), second = {0, 0};
    FAILS_NAMING(ERR_WORKER_ACTIVE, name, pgqrs_worker_register(T.store, name, NULL, &second));
    OK(pgqrs_worker_begin_polling(T.store, worker));
    FAILS(ERR_WORKER_ACTIVE, pgqrs_worker_register(T.store, name, NULL, &second));
    OK(pgqrs_worker_interrupt(T.store, worker.id));
    FAILS(ERR_WORKER_ACTIVE, pgqrs_worker_register(T.store, name, NULL, &second));
    OK(pgqrs_worker_suspend(T.store, worker.id));
    FAILS(ERR_WORKER_ACTIVE, pgqrs_worker_register(T.store, name, NULL, &second));
    advance_ms(59000);
    FAILS(ERR_WORKER_ACTIVE, pgqrs_worker_register(T.store, name, NULL, &second));
    EQ(worker.epoch, must_look_worker(worker.id)->epoch);
}

static void register_takes_over_a_stale_name(void)
{
    const char *name = unique("w"), *other = another_queue("other");
    pgqrs_worker_ref old = enlist(name, T.queue), fresh = {0, 0};
    int64_t id = put();
    const pgqrs_message *held = take_as((pgqrs_dequeue_desc){.worker = old, .lease_ms = 3600000});
    assert_non_null(held);
    advance_ms(60001);
    OK(pgqrs_worker_register(T.store, name, &(pgqrs_register_desc){.queue = other}, &fresh));
    EQ(old.id, fresh.id);
    YES(old.epoch != fresh.epoch);
    SAME(other, must_look_worker(fresh.id)->queue);
    EQ(PGQRS_WORKER_READY, must_look_worker(fresh.id)->state);
    EQ(T.now_us, must_look_worker(fresh.id)->started_at_us);
    EQ(0, must_look_worker(fresh.id)->held);
    /* What it held is free again, and the old process is out. */
    STATE("ready", id);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, held));
    FAILS(ERR_WORKER_STOPPED, pgqrs_worker_heartbeat(T.store, old));
    EQ(2, must_take()->attempt);
}

static void register_takes_over_after_the_age_given(void)
{
    const char *name = unique("w");
    pgqrs_worker_ref worker = {0, 0};
    enlist(name, T.queue);
    advance_ms(1001);
    FAILS(ERR_WORKER_ACTIVE,
          pgqrs_worker_register(T.store, name, &(pgqrs_register_desc){.stale_ms = 2000}, &worker));
    OK(pgqrs_worker_register(T.store, name, &(pgqrs_register_desc){.stale_ms = 1000}, &worker));
}

static void register_uses_a_stopped_row_again(void)
{
    const char *name = unique("w");
    pgqrs_worker_ref first = enlist(name, T.queue), second;
    OK(pgqrs_worker_suspend(T.store, first.id));
    OK(pgqrs_worker_shutdown(T.store, first.id));
    advance_ms(10);
    second = enlist(name, NULL);
    EQ(first.id, second.id);
    YES(first.epoch != second.epoch);
    EQ(PGQRS_WORKER_READY, must_look_worker(second.id)->state);
    EQ(0, must_look_worker(second.id)->stopped_at_us);
    YES(must_look_worker(second.id)->queue == NULL);
    FAILS(ERR_WORKER_STOPPED, pgqrs_worker_heartbeat(T.store, first));
    OK(pgqrs_worker_heartbeat(T.store, second));
}

static void epoch_fences_the_old_process(void)
{
    const char *name = unique("w");
    pgqrs_worker_ref old = enlist(name, T.queue), fresh;
    pgqrs_message *message = NULL;
    int64_t beat;
    advance_ms(60001);
    fresh = enlist(name, T.queue);
    beat = T.now_us;
    advance_ms(10);
    put();
    FAILS(ERR_WORKER_STOPPED, pgqrs_dequeue(T.store, T.queue, &(pgqrs_dequeue_desc){.worker = old}, &message));
    YES(message == NULL);
    /* The old process is no sign of life of the new one. */
    FAILS(ERR_WORKER_STOPPED, pgqrs_worker_heartbeat(T.store, old));
    EQ(beat, must_look_worker(fresh.id)->heartbeat_at_us);
    FAILS(ERR_WORKER_STOPPED, pgqrs_worker_begin_polling(T.store, old));
    OK(pgqrs_worker_begin_polling(T.store, fresh));
    FAILS(ERR_WORKER_STOPPED, pgqrs_worker_end_polling(T.store, old));
    EQ(PGQRS_WORKER_POLLING, must_look_worker(fresh.id)->state);
    assert_non_null(take_as(by(fresh)));
}

/* Brings a new worker into a state by allowed transitions. */
static pgqrs_worker_ref worker_in(pgqrs_worker_state state)
{
    static int serial;
    char name[96];
    pgqrs_worker_ref worker;
    snprintf(name, sizeof(name), "%s-state-%d", T.queue, ++serial);
    worker = enlist(name, T.queue);
    if (state == PGQRS_WORKER_POLLING || state == PGQRS_WORKER_INTERRUPTED)
        OK(pgqrs_worker_begin_polling(T.store, worker));
    if (state == PGQRS_WORKER_INTERRUPTED)
        OK(pgqrs_worker_interrupt(T.store, worker.id));
    if (state == PGQRS_WORKER_SUSPENDED || state == PGQRS_WORKER_STOPPED)
        OK(pgqrs_worker_suspend(T.store, worker.id));
    if (state == PGQRS_WORKER_STOPPED)
        OK(pgqrs_worker_shutdown(T.store, worker.id));
    EQ(state, must_look_worker(worker.id)->state);
    return worker;
}

enum { BEGIN, END, INTERRUPT, SUSPEND, RESUME, SHUTDOWN, OPERATIONS };

static pgqrs_result operate(int operation, pgqrs_worker_ref worker)
{
    switch (operation) {
    case BEGIN:
        return pgqrs_worker_begin_polling(T.store, worker);
    case END:
        return pgqrs_worker_end_polling(T.store, worker);
    case INTERRUPT:
        return pgqrs_worker_interrupt(T.store, worker.id);
    case SUSPEND:
        return pgqrs_worker_suspend(T.store, worker.id);
    case RESUME:
        return pgqrs_worker_resume(T.store, worker.id);
    default:
        return pgqrs_worker_shutdown(T.store, worker.id);
    }
}

static void transitions_follow_the_table(void)
{
    static const char *const names[] = {"begin_polling", "end_polling", "interrupt", "suspend", "resume", "shutdown"};
    /* 0: refused */
    static const int to[PGQRS_WORKER_STOPPED + 1][OPERATIONS] = {
        {0},
        {PGQRS_WORKER_POLLING, 0, 0, PGQRS_WORKER_SUSPENDED, 0, 0},
        {PGQRS_WORKER_POLLING, PGQRS_WORKER_READY, PGQRS_WORKER_INTERRUPTED, PGQRS_WORKER_SUSPENDED, 0, 0},
        {0, 0, 0, PGQRS_WORKER_SUSPENDED, 0, 0},
        {0, 0, 0, 0, PGQRS_WORKER_READY, PGQRS_WORKER_STOPPED},
        {0, 0, 0, 0, 0, 0},
    };
    int state, operation;
    for (state = PGQRS_WORKER_READY; state <= PGQRS_WORKER_STOPPED; state++)
        for (operation = 0; operation < OPERATIONS; operation++) {
            pgqrs_worker_ref worker = worker_in((pgqrs_worker_state)state);
            pgqrs_result result = operate(operation, worker);
            pgqrs_result want = to[state][operation] ? PGQRS_OK : PGQRS_ERR_WORKER_STATE;
            pgqrs_worker_state after;
            /* A worker that speaks for itself is told that it has to register anew; an operator, that it is too late. */
            if (state == PGQRS_WORKER_STOPPED && (operation == BEGIN || operation == END))
                want = PGQRS_ERR_WORKER_STOPPED;
            if (result != want)
                fail_at(__FILE__, __LINE__, "%s in state %d gave %s (%s)", names[operation], state,
                        pgqrs_result_name(result), last_message(T.store));
            check_call(T.store, want, result, names[operation], __FILE__, __LINE__);
            after = must_look_worker(worker.id)->state;
            if ((int)after != (to[state][operation] ? to[state][operation] : state))
                fail_at(__FILE__, __LINE__, "%s in state %d led to %d", names[operation], state, (int)after);
        }
}

static void transitions_of_an_unknown_worker(void)
{
    pgqrs_worker_ref nobody = {INT64_C(987654321), 1};
    int operation;
    /* Whoever holds a reference was registered once: the row is gone, and it has to register anew. */
    for (operation = 0; operation < OPERATIONS; operation++)
        if (operation == BEGIN || operation == END)
            FAILS(ERR_WORKER_STOPPED, operate(operation, nobody));
        else
            FAILS(ERR_WORKER_NOT_FOUND, operate(operation, nobody));
    FAILS(ERR_WORKER_STOPPED, pgqrs_worker_heartbeat(T.store, nobody));
    FAILS(ERR_WORKER_NOT_FOUND, pgqrs_worker_release(T.store, nobody.id, NULL));
    FAILS(ERR_WORKER_NOT_FOUND, pgqrs_worker_delete(T.store, nobody.id, true));
    {
        bool healthy = true;
        FAILS(ERR_WORKER_NOT_FOUND, pgqrs_worker_healthy(T.store, nobody.id, 1000, &healthy));
    }
    YES(look_worker(nobody.id) == NULL);
}

static void worker_calls_refuse_missing_arguments(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    pgqrs_worker_info *info = NULL;
    pgqrs_workers *workers = NULL;
    bool healthy;
    int64_t count;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "healthy", pgqrs_worker_healthy(T.store, worker.id, 1, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "max_age_ms", pgqrs_worker_healthy(T.store, worker.id, -1, &healthy));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_worker_get(T.store, worker.id, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_worker_list(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "count", pgqrs_worker_count(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "older_than_ms", pgqrs_worker_reclaim(T.store, NULL, -1, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "older_than_ms", pgqrs_worker_purge(T.store, -1, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_heartbeat(NULL, worker));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_healthy(NULL, worker.id, 1, &healthy));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_begin_polling(NULL, worker));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_end_polling(NULL, worker));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_interrupt(NULL, worker.id));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_suspend(NULL, worker.id));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_resume(NULL, worker.id));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_shutdown(NULL, worker.id));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_get(NULL, worker.id, &info));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_list(NULL, NULL, &workers));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_count(NULL, NULL, &count));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_release(NULL, worker.id, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_delete(NULL, worker.id, true));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_reclaim(NULL, NULL, 0, NULL, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_purge(NULL, 0, NULL));
}

static void claim_needs_a_ready_or_polling_worker(void)
{
    static const pgqrs_result want[] = {PGQRS_OK,
                                        PGQRS_OK,
                                        PGQRS_OK,
                                        PGQRS_ERR_WORKER_INTERRUPTED,
                                        PGQRS_ERR_WORKER_SUSPENDED,
                                        PGQRS_ERR_WORKER_STOPPED};
    int state;
    for (state = PGQRS_WORKER_READY; state <= PGQRS_WORKER_STOPPED; state++) {
        pgqrs_worker_ref worker = worker_in((pgqrs_worker_state)state);
        pgqrs_message *message = NULL;
        pgqrs_dequeue_desc desc = by(worker);
        pgqrs_result result;
        int64_t id = put();
        result = pgqrs_dequeue(T.store, T.queue, &desc, &message);
        keep(message);
        if (result != want[state])
            fail_at(__FILE__, __LINE__, "a claim in state %d gave %s", state, pgqrs_result_name(result));
        if (result == PGQRS_OK) {
            assert_non_null(message);
            EQ(worker.id, message->worker_id);
            OK(pgqrs_archive(T.store, message));
        } else {
            check_error(pgqrs_last_error(T.store), result, "pgqrs_dequeue", __FILE__, __LINE__);
            YES(message == NULL);
            STATE("ready", id);
            OK(pgqrs_message_delete(T.store, &id, 1, false, NULL));
        }
    }
}

static void claim_by_an_interrupted_worker_suspends_it(void)
{
    pgqrs_worker_ref worker = worker_in(PGQRS_WORKER_INTERRUPTED);
    pgqrs_dequeue_desc desc = by(worker);
    pgqrs_message *message = NULL;
    put();
    FAILS(ERR_WORKER_INTERRUPTED, pgqrs_dequeue(T.store, T.queue, &desc, &message));
    EQ(PGQRS_WORKER_SUSPENDED, must_look_worker(worker.id)->state);
    FAILS(ERR_WORKER_SUSPENDED, pgqrs_dequeue(T.store, T.queue, &desc, &message));
    OK(pgqrs_worker_resume(T.store, worker.id));
    assert_non_null(take_as(desc));
}

static void claim_by_an_unknown_worker_is_refused(void)
{
    pgqrs_dequeue_desc desc = by((pgqrs_worker_ref){INT64_C(987654321), 7});
    pgqrs_message *message = NULL;
    pgqrs_result result;
    int64_t id = put();
    result = pgqrs_dequeue(T.store, T.queue, &desc, &message);
    YES(result == PGQRS_ERR_WORKER_STOPPED || result == PGQRS_ERR_WORKER_NOT_FOUND);
    YES(message == NULL);
    STATE("ready", id);
}

static void refused_claim_still_settles(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    pgqrs_dequeue_desc desc = by(worker);
    pgqrs_settlement item;
    pgqrs_messages *next = NULL;
    int64_t id = put(), other = put();
    const pgqrs_message *message = take_as(desc);
    pgqrs_result result;
    assert_non_null(message);
    EQ(id, message->id);
    OK(pgqrs_worker_suspend(T.store, worker.id));
    item = pgqrs_settlement_for(message, PGQRS_ARCHIVE);
    result = pgqrs_settle(T.store, &item, 1, T.queue, &desc, &next);
    keep(next);
    /* The work was done: losing its verdict because of the claim would do it twice. */
    if (result == PGQRS_OK)
        EQ(0, next->count);
    else
        RESULT(PGQRS_ERR_WORKER_SUSPENDED, result);
    STATE("ready", other);
    STATE("archived", id);
}

static void suspended_worker_keeps_and_settles_what_it_holds(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    const pgqrs_message *message;
    int64_t id = put();
    message = take_as(by(worker));
    assert_non_null(message);
    OK(pgqrs_worker_suspend(T.store, worker.id));
    EQ(1, must_look_worker(worker.id)->held);
    OK(pgqrs_extend(T.store, message, 60000));
    OK(pgqrs_archive(T.store, message));
    STATE("archived", id);
    EQ(0, must_look_worker(worker.id)->held);
}

static void shutdown_is_refused_while_holding_messages(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    const pgqrs_messages *got;
    put_batch(T.queue, 2, 0, NULL);
    got = take_many_with(T.store, T.queue, (pgqrs_dequeue_desc){.limit = 2, .worker = worker});
    EQ(2, must_look_worker(worker.id)->held);
    OK(pgqrs_worker_suspend(T.store, worker.id));
    FAILS(ERR_WORKER_BUSY, pgqrs_worker_shutdown(T.store, worker.id));
    OK(pgqrs_archive(T.store, &got->items[0]));
    EQ(1, must_look_worker(worker.id)->held);
    FAILS(ERR_WORKER_BUSY, pgqrs_worker_shutdown(T.store, worker.id));
    EQ(PGQRS_WORKER_SUSPENDED, must_look_worker(worker.id)->state);
    OK(pgqrs_release(T.store, &got->items[1], NULL));
    OK(pgqrs_worker_shutdown(T.store, worker.id));
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(worker.id)->state);
    EQ(T.now_us, must_look_worker(worker.id)->stopped_at_us);
    NO(must_look_worker(worker.id)->reclaimed);
}

static void shutdown_does_not_count_leases_that_ran_out(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    put();
    assert_non_null(take_as(by(worker)));
    OK(pgqrs_worker_suspend(T.store, worker.id));
    advance_ms(TEST_LEASE_MS + 1);
    EQ(0, must_look_worker(worker.id)->held);
    OK(pgqrs_worker_shutdown(T.store, worker.id));
}

static void heartbeat_moves_the_time(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    advance_ms(5000);
    OK(pgqrs_worker_heartbeat(T.store, worker));
    EQ(T.now_us, must_look_worker(worker.id)->heartbeat_at_us);
    OK(pgqrs_worker_suspend(T.store, worker.id));
    advance_ms(5000);
    OK(pgqrs_worker_heartbeat(T.store, worker));
    EQ(T.now_us, must_look_worker(worker.id)->heartbeat_at_us);
    EQ(PGQRS_WORKER_SUSPENDED, must_look_worker(worker.id)->state);
    OK(pgqrs_worker_shutdown(T.store, worker.id));
    FAILS(ERR_WORKER_STOPPED, pgqrs_worker_heartbeat(T.store, worker));
}

static void healthy_means_a_young_heartbeat(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    bool healthy = false;
    advance_ms(1000);
    OK(pgqrs_worker_healthy(T.store, worker.id, 1000, &healthy));
    YES(healthy);
    OK(pgqrs_worker_healthy(T.store, worker.id, 999, &healthy));
    NO(healthy);
    OK(pgqrs_worker_heartbeat(T.store, worker));
    OK(pgqrs_worker_healthy(T.store, worker.id, 1, &healthy));
    YES(healthy);
    OK(pgqrs_worker_healthy(T.store, worker.id, 0, &healthy));
    NO(healthy);
    OK(pgqrs_worker_suspend(T.store, worker.id));
    OK(pgqrs_worker_healthy(T.store, worker.id, 1000, &healthy));
    YES(healthy);
    OK(pgqrs_worker_shutdown(T.store, worker.id));
    OK(pgqrs_worker_healthy(T.store, worker.id, 1000, &healthy));
    NO(healthy);
}

static void worker_list_pages_by_id(void)
{
    enum { many = 23 };
    int64_t ids[many], after = 0, count = -1;
    size_t seen = 0, i;
    pgqrs_worker_filter filter = {.limit = 7};
    for (i = 0; i < many; i++) {
        char name[32];
        snprintf(name, sizeof(name), "list-%d", (int)i);
        ids[i] = enlist(name, i % 2 ? T.queue : NULL).id;
    }
    for (;;) {
        pgqrs_workers *page = NULL;
        filter.after_id = after;
        OK(pgqrs_worker_list(T.store, &filter, &page));
        assert_non_null(page);
        keep(page);
        YES(page->count <= 7);
        if (page->count == 0)
            break;
        for (i = 0; i < page->count; i++, seen++) {
            YES(seen < many);
            EQ(ids[seen], page->items[i].id);
            after = page->items[i].id;
        }
    }
    EQ(many, seen);
    OK(pgqrs_worker_count(T.store, NULL, &count));
    EQ(many, count);
    filter.queue = T.queue;
    OK(pgqrs_worker_count(T.store, &filter, &count));
    EQ(many / 2, count);
}

static void worker_list_filters(void)
{
    pgqrs_worker_ref ready = worker_in(PGQRS_WORKER_READY), polling = worker_in(PGQRS_WORKER_POLLING);
    pgqrs_worker_ref stopped = worker_in(PGQRS_WORKER_STOPPED);
    pgqrs_workers *page = NULL;
    int64_t count = -1;
    pgqrs_worker_filter filter = {.state = PGQRS_WORKER_POLLING, .queue = T.queue};
    OK(pgqrs_worker_list(T.store, &filter, &page));
    keep(page);
    EQ(1, page->count);
    EQ(polling.id, page->items[0].id);
    EQ(PGQRS_WORKER_POLLING, page->items[0].state);
    SAME(T.queue, page->items[0].queue);
    filter.state = PGQRS_WORKER_STOPPED;
    OK(pgqrs_worker_list(T.store, &filter, &page));
    keep(page);
    EQ(1, page->count);
    EQ(stopped.id, page->items[0].id);
    advance_ms(5000);
    OK(pgqrs_worker_heartbeat(T.store, ready));
    memset(&filter, 0, sizeof(filter));
    filter.queue = T.queue;
    filter.stale_ms = 4999;
    OK(pgqrs_worker_list(T.store, &filter, &page));
    keep(page);
    EQ(1, page->count);
    EQ(polling.id, page->items[0].id);
    OK(pgqrs_worker_count(T.store, &filter, &count));
    EQ(1, count);
    filter.stale_ms = 5001;
    OK(pgqrs_worker_count(T.store, &filter, &count));
    EQ(0, count);
}

static void worker_list_refuses_filters_out_of_range(void)
{
    const pgqrs_worker_filter wrong[] = {
        {.limit = 1001}, {.state = (pgqrs_worker_state)6}, {.state = (pgqrs_worker_state)-1}, {.stale_ms = -1}, {.after_id = -1}};
    size_t i;
    for (i = 0; i < COUNT_OF(wrong); i++) {
        pgqrs_workers *page = NULL;
        pgqrs_result result = pgqrs_worker_list(T.store, &wrong[i], &page);
        if (result != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "filter %d gave %s", (int)i, pgqrs_result_name(result));
    }
    {
        pgqrs_workers *page = NULL;
        pgqrs_worker_filter filter = {.queue = "nowhere"};
        int64_t count = -1;
        FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_worker_list(T.store, &filter, &page));
        FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_worker_count(T.store, &filter, &count));
        filter.queue = "";
        FAILS(ERR_BAD_NAME, pgqrs_worker_list(T.store, &filter, &page));
        YES(page == NULL);
    }
}

static void release_of_a_worker_frees_its_messages(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue), other = enlist(unique("o"), T.queue);
    const char *second_queue = another_queue("second");
    int64_t ids[4], elsewhere, released = -1;
    const pgqrs_messages *got;
    const pgqrs_message *kept;
    put_batch(T.queue, 4, 0, ids);
    elsewhere = put_into(second_queue, "1", (pgqrs_enqueue_desc){0}).id;
    got = take_many_with(T.store, T.queue, (pgqrs_dequeue_desc){.limit = 3, .worker = worker});
    EQ(3, got->count);
    assert_non_null(take_with(T.store, second_queue, by(worker)));
    kept = take_as(by(other));
    assert_non_null(kept);
    OK(pgqrs_archive(T.store, &got->items[1]));
    OK(pgqrs_worker_release(T.store, worker.id, &released));
    EQ(3, released);
    STATE("ready", ids[0]);
    STATE("archived", ids[1]);
    STATE("ready", ids[2]);
    STATE("leased", ids[3]);
    STATE("ready", elsewhere);
    SAME("released", must_look(ids[0])->reason);
    EQ(1, must_look(ids[0])->attempt);
    EQ(0, must_look_worker(worker.id)->held);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, &got->items[0]));
    OK(pgqrs_archive(T.store, kept));
    OK(pgqrs_worker_release(T.store, worker.id, &released));
    EQ(0, released);
    OK(pgqrs_worker_release(T.store, worker.id, NULL));
    EQ(PGQRS_WORKER_READY, must_look_worker(worker.id)->state);
}

static void release_of_a_worker_on_the_last_attempt_makes_dead_letters(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    int64_t id = put();
    int i;
    for (i = 1; i < TEST_MAX_ATTEMPTS; i++)
        OK(pgqrs_release(T.store, must_take(), NULL));
    assert_non_null(take_as(by(worker)));
    OK(pgqrs_worker_release(T.store, worker.id, NULL));
    STATE("dead", id);
    SAME("released", must_look(id)->reason);
}

static void worker_delete_wants_it_stopped(void)
{
    int state;
    for (state = PGQRS_WORKER_READY; state <= PGQRS_WORKER_STOPPED; state++) {
        pgqrs_worker_ref worker = worker_in((pgqrs_worker_state)state);
        if (state == PGQRS_WORKER_STOPPED) {
            OK(pgqrs_worker_delete(T.store, worker.id, false));
        } else {
            FAILS(ERR_WORKER_ACTIVE, pgqrs_worker_delete(T.store, worker.id, false));
            EQ(state, must_look_worker(worker.id)->state);
            OK(pgqrs_worker_delete(T.store, worker.id, true));
        }
        YES(look_worker(worker.id) == NULL);
    }
}

static void worker_delete_by_force_releases_what_it_holds(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    int64_t id = put();
    const pgqrs_message *message = take_as(by(worker));
    assert_non_null(message);
    OK(pgqrs_worker_delete(T.store, worker.id, true));
    STATE("ready", id);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, message));
    EQ(2, must_take()->attempt);
}

static void worker_delete_leaves_what_it_finished(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    int64_t id = put();
    OK(pgqrs_archive(T.store, take_as(by(worker))));
    SAME(must_look_worker(worker.id)->name, must_look(id)->worker);
    OK(pgqrs_worker_suspend(T.store, worker.id));
    OK(pgqrs_worker_shutdown(T.store, worker.id));
    OK(pgqrs_worker_delete(T.store, worker.id, false));
    STATE("archived", id);
    EQ(worker.id, must_look(id)->worker_id);
    YES(must_look(id)->worker == NULL);
    OK(pgqrs_verify(T.store));
}

static void reclaim_stops_the_silent_and_frees_their_messages(void)
{
    pgqrs_worker_ref silent = enlist(unique("silent"), T.queue), alive = enlist(unique("alive"), T.queue);
    int64_t ids[4], workers = -1, messages = -1;
    const pgqrs_messages *got;
    const pgqrs_message *kept;
    put_batch(T.queue, 4, 0, ids);
    got = take_many_with(T.store, T.queue,
                         (pgqrs_dequeue_desc){.limit = 2, .worker = silent, .lease_ms = 3600000});
    kept = take_as((pgqrs_dequeue_desc){.worker = alive, .lease_ms = 3600000});
    assert_non_null(kept);
    advance_ms(10000);
    OK(pgqrs_worker_heartbeat(T.store, alive));
    OK(pgqrs_worker_reclaim(T.store, T.queue, 10001, &workers, &messages));
    EQ(0, workers);
    EQ(0, messages);
    OK(pgqrs_worker_reclaim(T.store, T.queue, 9999, &workers, &messages));
    EQ(1, workers);
    EQ(2, messages);
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(silent.id)->state);
    YES(must_look_worker(silent.id)->reclaimed);
    EQ(T.now_us, must_look_worker(silent.id)->stopped_at_us);
    EQ(0, must_look_worker(silent.id)->held);
    EQ(PGQRS_WORKER_READY, must_look_worker(alive.id)->state);
    STATE("ready", ids[0]);
    STATE("ready", ids[1]);
    STATE("leased", ids[2]);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, &got->items[0]));
    OK(pgqrs_archive(T.store, kept));
    OK(pgqrs_worker_reclaim(T.store, T.queue, 9999, NULL, NULL));
}

static void reclaimed_worker_cannot_claim_before_it_registers_again(void)
{
    const char *name = unique("w");
    pgqrs_worker_ref worker = enlist(name, T.queue);
    pgqrs_dequeue_desc desc = by(worker);
    pgqrs_message *message = NULL;
    put();
    advance_ms(60001);
    OK(pgqrs_worker_reclaim(T.store, T.queue, 0, NULL, NULL));
    FAILS(ERR_WORKER_STOPPED, pgqrs_dequeue(T.store, T.queue, &desc, &message));
    FAILS(ERR_WORKER_STOPPED, pgqrs_worker_heartbeat(T.store, worker));
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(worker.id)->state);
    worker = enlist(name, T.queue);
    NO(must_look_worker(worker.id)->reclaimed);
    assert_non_null(take_as(by(worker)));
}

static void reclaim_takes_every_state_but_stopped(void)
{
    pgqrs_worker_ref workers[PGQRS_WORKER_STOPPED + 1];
    int64_t stopped_at = T.now_us, count = -1;
    int state;
    for (state = PGQRS_WORKER_READY; state <= PGQRS_WORKER_STOPPED; state++)
        workers[state] = worker_in((pgqrs_worker_state)state);
    advance_ms(60001);
    OK(pgqrs_worker_reclaim(T.store, T.queue, 0, &count, NULL));
    EQ(4, count);
    for (state = PGQRS_WORKER_READY; state <= PGQRS_WORKER_STOPPED; state++)
        EQ(PGQRS_WORKER_STOPPED, must_look_worker(workers[state].id)->state);
    NO(must_look_worker(workers[PGQRS_WORKER_STOPPED].id)->reclaimed);
    EQ(stopped_at, must_look_worker(workers[PGQRS_WORKER_STOPPED].id)->stopped_at_us);
}

static void reclaim_is_for_one_queue_or_for_all(void)
{
    const char *other = another_queue("other");
    pgqrs_worker_ref here = enlist("here", T.queue), there = enlist("there", other), loose = enlist("loose", NULL);
    int64_t count = -1;
    advance_ms(60001);
    OK(pgqrs_worker_reclaim(T.store, T.queue, 0, &count, NULL));
    EQ(1, count);
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(here.id)->state);
    EQ(PGQRS_WORKER_READY, must_look_worker(there.id)->state);
    OK(pgqrs_worker_reclaim(T.store, NULL, 0, &count, NULL));
    EQ(2, count);
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(there.id)->state);
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(loose.id)->state);
    FAILS(ERR_QUEUE_NOT_FOUND, pgqrs_worker_reclaim(T.store, "nowhere", 0, NULL, NULL));
}

static void reclaim_default_age_is_a_minute(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    int64_t count = -1;
    advance_ms(59999);
    OK(pgqrs_worker_reclaim(T.store, T.queue, 0, &count, NULL));
    EQ(0, count);
    advance_ms(2);
    OK(pgqrs_worker_reclaim(T.store, T.queue, 0, &count, NULL));
    EQ(1, count);
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(worker.id)->state);
}

static void worker_purge_removes_those_stopped_for_long(void)
{
    pgqrs_worker_ref old = worker_in(PGQRS_WORKER_STOPPED), young, live = worker_in(PGQRS_WORKER_READY);
    int64_t removed = -1;
    advance_ms(10000);
    young = worker_in(PGQRS_WORKER_STOPPED);
    OK(pgqrs_worker_purge(T.store, 10001, &removed));
    EQ(0, removed);
    OK(pgqrs_worker_purge(T.store, 9999, &removed));
    EQ(1, removed);
    YES(look_worker(old.id) == NULL);
    YES(look_worker(young.id) != NULL);
    YES(look_worker(live.id) != NULL);
    advance_ms(1);
    OK(pgqrs_worker_purge(T.store, 0, &removed));
    EQ(1, removed);
    YES(look_worker(young.id) == NULL);
    YES(look_worker(live.id) != NULL);
}

static void worker_purge_is_not_stopped_by_finished_messages(void)
{
    pgqrs_worker_ref worker = enlist("w", T.queue);
    int64_t id = put(), removed = -1;
    OK(pgqrs_archive(T.store, take_as(by(worker))));
    OK(pgqrs_worker_suspend(T.store, worker.id));
    OK(pgqrs_worker_shutdown(T.store, worker.id));
    advance_ms(1000);
    OK(pgqrs_worker_purge(T.store, 1, &removed));
    EQ(1, removed);
    STATE("archived", id);
}

static void one_shot_calls_leave_no_workers(void)
{
    int64_t count = -1;
    const pgqrs_message *message;
    put();
    put_batch(T.queue, 5, 0, NULL);
    message = must_take();
    OK(pgqrs_extend(T.store, message, 1000));
    OK(pgqrs_archive(T.store, message));
    take_many(3);
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, NULL));
    OK(pgqrs_worker_reclaim(T.store, NULL, 0, NULL, NULL));
    OK(pgqrs_maintain(T.store, NULL));
    OK(pgqrs_worker_count(T.store, NULL, &count));
    EQ(0, count);
}

static void worker_stats_count_states(void)
{
    pgqrs_worker_stats stats;
    int state;
    pgqrs_worker_ref holder;
    for (state = PGQRS_WORKER_READY; state <= PGQRS_WORKER_STOPPED; state++)
        worker_in((pgqrs_worker_state)state);
    advance_ms(61000);
    holder = worker_in(PGQRS_WORKER_POLLING);
    put();
    assert_non_null(take_as(by(holder)));
    advance_ms(500);
    OK(pgqrs_worker_stats_get(T.store, T.queue, 0, &stats));
    EQ(6, stats.total);
    EQ(1, stats.ready);
    EQ(2, stats.polling);
    EQ(1, stats.interrupted);
    EQ(1, stats.suspended);
    EQ(1, stats.stopped);
    EQ(4, stats.stale);
    EQ(1, stats.held);
    EQ(61500, stats.oldest_ms);
    EQ(500, stats.newest_heartbeat_ms);
    OK(pgqrs_worker_stats_get(T.store, T.queue, 100, &stats));
    EQ(5, stats.stale);
    EQ(5, numbers().live_workers);
    OK(pgqrs_worker_stats_get(T.store, NULL, 0, &stats));
    EQ(6, stats.total);
}

static const test_case worker_cases[] = {
    CASE(register_makes_a_ready_worker, PLAIN),
    CASE(register_without_a_queue, PLAIN),
    CASE(register_refuses_bad_arguments, FRESH),
    CASE(register_of_a_live_name_is_refused, PLAIN),
    CASE(register_takes_over_a_stale_name, PLAIN),
    CASE(register_takes_over_after_the_age_given, PLAIN),
    CASE(register_uses_a_stopped_row_again, PLAIN),
    CASE(epoch_fences_the_old_process, PLAIN),
    CASE(transitions_follow_the_table, PLAIN),
    CASE(transitions_of_an_unknown_worker, PLAIN),
    CASE(worker_calls_refuse_missing_arguments, PLAIN),
    CASE(claim_needs_a_ready_or_polling_worker, PLAIN),
    CASE(claim_by_an_interrupted_worker_suspends_it, PLAIN),
    CASE(claim_by_an_unknown_worker_is_refused, PLAIN),
    CASE(refused_claim_still_settles, PLAIN),
    CASE(suspended_worker_keeps_and_settles_what_it_holds, PLAIN),
    CASE(shutdown_is_refused_while_holding_messages, PLAIN),
    CASE(shutdown_does_not_count_leases_that_ran_out, PLAIN),
    CASE(heartbeat_moves_the_time, PLAIN),
    CASE(healthy_means_a_young_heartbeat, PLAIN),
    CASE(worker_list_pages_by_id, FRESH),
    CASE(worker_list_filters, PLAIN),
    CASE(worker_list_refuses_filters_out_of_range, PLAIN),
    CASE(release_of_a_worker_frees_its_messages, PLAIN),
    CASE(release_of_a_worker_on_the_last_attempt_makes_dead_letters, PLAIN),
    CASE(worker_delete_wants_it_stopped, PLAIN),
    CASE(worker_delete_by_force_releases_what_it_holds, PLAIN),
    CASE(worker_delete_leaves_what_it_finished, PLAIN),
    CASE(reclaim_stops_the_silent_and_frees_their_messages, PLAIN),
    CASE(reclaimed_worker_cannot_claim_before_it_registers_again, PLAIN),
    CASE(reclaim_takes_every_state_but_stopped, PLAIN),
    CASE(reclaim_is_for_one_queue_or_for_all, FRESH),
    CASE(reclaim_default_age_is_a_minute, PLAIN),
    CASE(worker_purge_removes_those_stopped_for_long, FRESH),
    CASE(worker_purge_is_not_stopped_by_finished_messages, FRESH),
    CASE(one_shot_calls_leave_no_workers, FRESH),
    CASE(worker_stats_count_states, FRESH),
};
