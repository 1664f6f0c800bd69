/* Handlers and the worker loop. Waiting moves the clock (test_sleep), so nothing here takes real time. */

/* What the handlers of these tests do and saw. */
static struct {
    int calls;
    int64_t ids[4096];
    int32_t attempts[4096];
    size_t batch_sizes[256];
    size_t batches;
    int fail_first;     /* this many calls fail */
    int stop_at;        /* call number that calls pgqrs_stop */
    pgqrs_store *loop;  /* the store that runs the loop */
    pgqrs_store *admin; /* a store of the handler's own */
    pgqrs_worker *worker;
    int64_t move_ms; /* the clock moves that much in each call */
    pgqrs_result result, extended;
    pgqrs_message copy;
    int64_t worker_id;
} H;

static void begin_handlers(void)
{
    memset(&H, 0, sizeof(H));
    H.loop = T.store;
}

static void note(const pgqrs_message *message)
{
    if ((size_t)H.calls < COUNT_OF(H.ids)) {
        H.ids[H.calls] = message->id;
        H.attempts[H.calls] = message->attempt;
    }
    H.calls++;
}

static pgqrs_result handle(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    advance_ms(H.move_ms);
    if (H.stop_at == H.calls)
        pgqrs_stop(H.loop);
    return H.calls <= H.fail_first ? PGQRS_ERR_HANDLER : PGQRS_OK;
}

static pgqrs_result work(pgqrs_handler handler, pgqrs_work_desc desc)
{
    return pgqrs_work(T.store, T.queue, handler, NULL, &desc);
}

static const pgqrs_work_desc until_empty = {.until_empty = true};

static int64_t worker_rows(void)
{
    pgqrs_worker_filter filter = {.queue = T.queue};
    int64_t count = -1;
    OK(pgqrs_worker_count(T.store, &filter, &count));
    return count;
}

static void work_until_empty_handles_all_in_order(void)
{
    enum { many = 100 };
    int64_t ids[many];
    int i;
    begin_handlers();
    put_batch(T.queue, many, 0, ids);
    OK(work(handle, until_empty));
    EQ(many, H.calls);
    for (i = 0; i < many; i++) {
        EQ(ids[i], H.ids[i]);
        EQ(1, H.attempts[i]);
    }
    NUMBERS(0, 0, 0, many, 0);
    EQ(0, worker_rows());
}

static void work_on_an_empty_queue_ends_at_once(void)
{
    begin_handlers();
    OK(work(handle, until_empty));
    EQ(0, H.calls);
    EQ(0, worker_rows());
}

static void work_does_not_wait_for_others_delays(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.delay_ms = 3600000});
    begin_handlers();
    OK(work(handle, until_empty));
    EQ(0, H.calls);
    STATE("delayed", id);
    YES(T.slept_us < 3600 * SECOND_US);
}

static void work_ends_after_max_messages(void)
{
    pgqrs_work_desc desc = {.max_messages = 7};
    begin_handlers();
    put_batch(T.queue, 20, 0, NULL);
    OK(work(handle, desc));
    EQ(7, H.calls);
    NUMBERS(13, 0, 0, 7, 0);
    desc.max_messages = 1;
    OK(work(handle, desc));
    EQ(8, H.calls);
    NUMBERS(12, 0, 0, 8, 0);
}

static void failing_handler_never_ends_the_loop(void)
{
    int i;
    begin_handlers();
    H.fail_first = 25;
    put_batch(T.queue, 50, 0, NULL);
    OK(work(handle, until_empty));
    EQ(75, H.calls);
    NUMBERS(0, 0, 0, 50, 0);
    for (i = 50; i < 75; i++)
        EQ(2, H.attempts[i]);
}

static void work_waits_for_its_own_retries(void)
{
    int64_t id = put(), start = T.now_us;
    begin_handlers();
    H.fail_first = TEST_MAX_ATTEMPTS - 1;
    OK(work(handle, until_empty));
    EQ(TEST_MAX_ATTEMPTS, H.calls);
    STATE("archived", id);
    /* backoffs of one and two seconds, each less a quarter */
    YES(T.now_us - start >= 2250000);
    YES(T.sleeps > 0);
}

static void work_puts_the_hopeless_into_the_dead_letters(void)
{
    int64_t bad = put(), good = put();
    begin_handlers();
    H.fail_first = 1000;
    OK(work(handle, until_empty));
    EQ(2 * TEST_MAX_ATTEMPTS, H.calls);
    STATE("dead", bad);
    STATE("dead", good);
    YES(must_look(bad)->reason != NULL);
    /* The reason says what the handler returned. */
    YES(strstr(must_look(bad)->reason, "PGQRS_ERR_HANDLER") != NULL);
}

static pgqrs_result return_custom_error(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    return H.calls % 3 == 0 ? PGQRS_ERR_NO_MEMORY : H.calls % 3 == 1 ? PGQRS_ERR_OUTCOME_UNKNOWN : PGQRS_ERR_INTERNAL;
}

static void work_takes_any_other_result_for_a_failed_try(void)
{
    begin_handlers();
    put_batch(T.queue, 4, 0, NULL);
    OK(work(return_custom_error, until_empty));
    EQ(4 * TEST_MAX_ATTEMPTS, H.calls);
    NUMBERS(0, 0, 0, 0, 4);
}

static pgqrs_result look_at_message(const pgqrs_message *message, void *user)
{
    note(message);
    *(const char **)user = strcmp(message->payload, SECRET_PAYLOAD) == 0 && message->payload_size == strlen(SECRET_PAYLOAD) &&
                                   strcmp(message->queue, T.queue) == 0 && message->attempt == 1 &&
                                   message->priority == 4 && message->lease != 0 &&
                                   message->lease_until_us == T.now_us + 5 * SECOND_US && message->worker_id > 0 &&
                                   message->delivery != NULL
                               ? "as expected"
                               : "different";
    return PGQRS_OK;
}

static void handler_sees_the_message(void)
{
    const char *seen = "nothing";
    pgqrs_work_desc desc = {.until_empty = true, .lease_ms = 5000};
    int64_t id = put_as((pgqrs_enqueue_desc){.priority = 4});
    begin_handlers();
    OK(pgqrs_work(T.store, T.queue, look_at_message, &seen, &desc));
    SAME("as expected", seen);
    EQ(id, H.ids[0]);
}

static pgqrs_result give_verdict(const pgqrs_message *message, void *user)
{
    pgqrs_result result = PGQRS_ERR_INTERNAL;
    (void)user;
    note(message);
    switch (message->priority) {
    case 9:
        result = pgqrs_message_archive(message);
        break;
    case 8:
        result = pgqrs_message_remove(message);
        break;
    case 7:
        result = message->attempt == 1 ? pgqrs_message_retry(message, 7000, "mail server is down") : PGQRS_OK;
        break;
    case 6:
        result = H.calls < 20 ? pgqrs_message_give_back(message, 3000) : PGQRS_OK;
        break;
    case 5:
        result = pgqrs_message_reject(message, "unreadable");
        break;
    case 4:
        pgqrs_message_reject(message, "a first thought");
        pgqrs_message_retry(message, 1, "a second thought");
        result = pgqrs_message_archive(message);
        break;
    default:
        break;
    }
    if (result != PGQRS_OK)
        H.result = result;
    return PGQRS_OK;
}

static int64_t only_verdict(int32_t priority, int64_t max_messages)
{
    pgqrs_work_desc desc = {.max_messages = max_messages};
    int64_t id = put_as((pgqrs_enqueue_desc){.priority = priority});
    begin_handlers();
    OK(work(give_verdict, desc));
    RESULT(PGQRS_OK, H.result);
    return id;
}

static void verdict_archive(void)
{
    int64_t id = only_verdict(9, 1);
    STATE("archived", id);
}

static void verdict_remove(void)
{
    int64_t id = only_verdict(8, 1);
    STATE("gone", id);
}

static void verdict_retry(void)
{
    int64_t id = only_verdict(7, 1);
    STATE("delayed", id);
    SAME("mail server is down", must_look(id)->reason);
    EQ(T.now_us + 7 * SECOND_US, must_look(id)->due_at_us);
    EQ(1, must_look(id)->attempt);
}

static void verdict_give_back(void)
{
    int64_t id = only_verdict(6, 1);
    STATE("delayed", id);
    EQ(T.now_us + 3 * SECOND_US, must_look(id)->due_at_us);
    EQ(0, must_look(id)->attempt);
}

static void verdict_give_back_many_times_is_no_failure(void)
{
    int64_t id = only_verdict(6, 20);
    int i;
    EQ(20, H.calls);
    for (i = 0; i < 20; i++)
        EQ(1, H.attempts[i]);
    STATE("archived", id);
}

static void verdict_reject(void)
{
    int64_t id = only_verdict(5, 1);
    STATE("dead", id);
    SAME("unreadable", must_look(id)->reason);
}

static void verdict_last_one_counts(void)
{
    int64_t id = only_verdict(4, 1);
    STATE("archived", id);
}

static pgqrs_result settle_by_itself(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    H.result = pgqrs_archive(H.admin, message);
    pgqrs_message_settled(message);
    return PGQRS_ERR_HANDLER; /* does not count */
}

static void verdict_settled_leaves_the_message_alone(void)
{
    int64_t ids[40];
    begin_handlers();
    H.admin = another_store();
    put_batch(T.queue, 40, 0, ids);
    T.warnings = 0;
    OK(work(settle_by_itself, until_empty));
    EQ(40, H.calls);
    RESULT(PGQRS_OK, H.result);
    NUMBERS(0, 0, 0, 40, 0);
    EQ(0, T.warnings); /* nobody says that a verdict came too late */
    EQ(0, worker_rows());
}

static pgqrs_result say_settled_only(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    return H.calls > 1 ? PGQRS_OK : pgqrs_message_settled(message);
}

static void verdict_settled_without_settling_comes_again(void)
{
    int64_t id = put();
    begin_handlers();
    OK(work(say_settled_only, (pgqrs_work_desc){.max_messages = 1}));
    STATE("ready", id); /* the worker has ended */
    OK(work(say_settled_only, until_empty));
    EQ(2, H.calls);
    STATE("archived", id);
}

static pgqrs_result settled_then_retried(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    pgqrs_message_settled(message);
    return pgqrs_message_reject(message, "a second thought");
}

static void verdict_after_settled_counts(void)
{
    int64_t id = put();
    begin_handlers();
    OK(work(settled_then_retried, until_empty));
    STATE("dead", id);
    SAME("a second thought", must_look(id)->reason);
}

static pgqrs_result verdict_against_return_value(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    pgqrs_message_archive(message);
    return PGQRS_ERR_HANDLER;
}

static void verdict_wins_over_the_return_value(void)
{
    int64_t id = put();
    begin_handlers();
    OK(work(verdict_against_return_value, until_empty));
    EQ(1, H.calls);
    STATE("archived", id);
}

static pgqrs_result retry_with_the_backoff(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    return pgqrs_message_retry(message, 0, NULL);
}

static void verdict_retry_with_the_queues_backoff(void)
{
    int64_t id = put();
    pgqrs_work_desc desc = {.max_messages = 1};
    begin_handlers();
    OK(work(retry_with_the_backoff, desc));
    STATE("delayed", id);
    BETWEEN(T.now_us + 750000, T.now_us + 1250000, must_look(id)->due_at_us);
}

static pgqrs_result retry_at_once(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    return pgqrs_message_retry(message, 1, "again");
}

static void verdict_retry_at_once(void)
{
    int64_t id = put(), start = T.now_us;
    begin_handlers();
    OK(work(retry_at_once, until_empty));
    EQ(TEST_MAX_ATTEMPTS, H.calls);
    STATE("dead", id);
    SAME("again", must_look(id)->reason);
    YES(T.now_us - start < SECOND_US);
}

static pgqrs_result bad_verdicts(const pgqrs_message *message, void *user)
{
    pgqrs_result *results = (pgqrs_result *)user;
    note(message);
    results[0] = pgqrs_message_retry(message, -1, NULL);
    results[1] = pgqrs_message_retry(message, INT64_MAX, NULL);
    results[2] = pgqrs_message_give_back(message, -1);
    results[3] = pgqrs_message_extend(message, -1);
    results[4] = pgqrs_message_extend(message, INT64_MAX);
    results[5] = pgqrs_message_archive(NULL);
    return PGQRS_OK;
}

static void verdict_with_bad_times_is_refused(void)
{
    pgqrs_result results[6];
    size_t i;
    int64_t id = put();
    begin_handlers();
    OK(pgqrs_work(T.store, T.queue, bad_verdicts, results, &until_empty));
    for (i = 0; i < COUNT_OF(results); i++)
        if (results[i] != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "bad verdict %d gave %s", (int)i, pgqrs_result_name(results[i]));
    STATE("archived", id);
}

static void verdict_outside_of_a_handler_is_refused(void)
{
    const pgqrs_message *message;
    int64_t id = put();
    message = must_take();
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_archive(message));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_remove(message));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_retry(message, 0, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_give_back(message, 0));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_reject(message, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_settled(message));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_extend(message, 1000));
    STATE("leased", id);
}

static pgqrs_result long_reason(const pgqrs_message *message, void *user)
{
    note(message);
    return pgqrs_message_reject(message, (const char *)user);
}

static void verdict_reason_is_cut_at_500_bytes(void)
{
    char *reason = text_of(2000, 'x');
    int64_t id = put();
    pgqrs_result result;
    begin_handlers();
    result = pgqrs_work(T.store, T.queue, long_reason, reason, &until_empty);
    free(reason);
    OK(result);
    EQ(500, strlen(must_look(id)->reason));
}

static pgqrs_result extend_then_outlive(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    advance_ms(TEST_LEASE_MS - 1000);
    H.result = pgqrs_message_extend(message, 60000);
    advance_ms(50000);
    return PGQRS_OK;
}

static void extend_in_a_handler_keeps_the_message(void)
{
    int64_t id = put();
    begin_handlers();
    OK(work(extend_then_outlive, until_empty));
    EQ(1, H.calls);
    RESULT(PGQRS_OK, H.result);
    STATE("archived", id);
    EQ(1, must_look(id)->attempt);
}

static pgqrs_result extend_and_look(const pgqrs_message *message, void *user)
{
    pgqrs_worker_info *info = NULL;
    pgqrs_message *seen = NULL;
    (void)user;
    note(message);
    advance_ms(10000);
    H.result = pgqrs_message_extend(message, 60000);
    if (pgqrs_message_get(H.admin, message->id, &seen) == PGQRS_OK && seen)
        H.copy = *seen;
    if (pgqrs_worker_get(H.admin, message->worker_id, &info) == PGQRS_OK && info)
        H.worker_id = info->heartbeat_at_us == T.now_us ? message->worker_id : -1;
    pgqrs_free(seen);
    pgqrs_free(info);
    return PGQRS_OK;
}

static void extend_in_a_handler_works_at_once_and_beats(void)
{
    pgqrs_work_desc desc = {.max_messages = 1};
    begin_handlers();
    H.admin = another_store();
    put();
    OK(work(extend_and_look, desc));
    RESULT(PGQRS_OK, H.result);
    EQ(T.now_us + MINUTE_US, H.copy.lease_until_us);
    YES(H.worker_id > 0);
}

static pgqrs_result outlive_once(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    if (message->attempt == 1)
        advance_ms(TEST_LEASE_MS + 1);
    return PGQRS_OK;
}

static void handler_that_outlives_its_lease_loses_its_verdict(void)
{
    int64_t id = put(), other = put();
    pgqrs_work_desc desc = {.until_empty = true, .batch = 1};
    begin_handlers();
    OK(work(outlive_once, desc));
    STATE("archived", id);
    STATE("archived", other);
    EQ(2, must_look(id)->attempt);
    EQ(2, must_look(other)->attempt);
    EQ(4, H.calls);
    EQ(2, events_of(PGQRS_EVENT_LEASE_LOST));
    EQ(2, numbers().lease_expiries);
}

static pgqrs_result extend_too_late(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    if (message->attempt == 1) {
        advance_ms(TEST_LEASE_MS + 1);
        H.result = pgqrs_message_extend(message, 1000);
    }
    return PGQRS_OK;
}

static void extend_in_a_handler_tells_when_it_is_too_late(void)
{
    int64_t id = put();
    begin_handlers();
    OK(work(extend_too_late, until_empty));
    RESULT(PGQRS_ERR_LEASE_LOST, H.result);
    EQ(2, H.calls);
    STATE("archived", id);
}

static pgqrs_result outlive_in_the_middle(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    if (H.calls == 20)
        advance_ms(TEST_LEASE_MS + 1);
    return PGQRS_OK;
}

static void messages_waiting_behind_a_slow_handler_are_not_handled_with_a_lost_lease(void)
{
    enum { many = 60 };
    int64_t ids[many];
    int i, j, second = 0;
    begin_handlers();
    put_batch(T.queue, many, 0, ids);
    OK(work(outlive_in_the_middle, until_empty));
    NUMBERS(0, 0, 0, many, 0);
    /* Whatever was started twice was started the second time as a second attempt. */
    for (i = 0; i < H.calls; i++)
        for (j = 0; j < i; j++)
            if (H.ids[i] == H.ids[j]) {
                second++;
                YES(H.attempts[i] > H.attempts[j]);
            }
    YES(second >= 1);
    YES(H.calls == many + second);
}

static pgqrs_result handle_batch(const pgqrs_messages *batch, void *user)
{
    size_t i;
    (void)user;
    if (H.batches < COUNT_OF(H.batch_sizes))
        H.batch_sizes[H.batches] = batch->count;
    H.batches++;
    for (i = 0; i < batch->count; i++)
        note(&batch->items[i]);
    return H.calls <= H.fail_first ? PGQRS_ERR_HANDLER : PGQRS_OK;
}

static void batch_handler_gets_batches(void)
{
    pgqrs_work_desc desc = {.until_empty = true, .batch = 10};
    int64_t ids[25];
    size_t i;
    begin_handlers();
    put_batch(T.queue, 25, 0, ids);
    OK(pgqrs_work_batch(T.store, T.queue, handle_batch, NULL, &desc));
    EQ(25, H.calls);
    EQ(3, H.batches);
    EQ(10, H.batch_sizes[0]);
    EQ(10, H.batch_sizes[1]);
    EQ(5, H.batch_sizes[2]);
    for (i = 0; i < 25; i++)
        EQ(ids[i], H.ids[i]);
    NUMBERS(0, 0, 0, 25, 0);
    EQ(0, worker_rows());
}

static void batch_size_is_the_stores_default(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_queue_desc queue = test_queue_desc();
    desc.default_batch = 4;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    begin_handlers();
    put_batch(T.queue, 8, 0, NULL);
    OK(pgqrs_work_batch(T.store, T.queue, handle_batch, NULL, &until_empty));
    EQ(4, H.batch_sizes[0]);
    EQ(2, H.batches);
}

static void work_batch_ends_after_max_messages(void)
{
    pgqrs_work_desc desc = {.max_messages = 15, .batch = 10};
    begin_handlers();
    put_batch(T.queue, 40, 0, NULL);
    OK(pgqrs_work_batch(T.store, T.queue, handle_batch, NULL, &desc));
    EQ(15, H.calls);
    NUMBERS(25, 0, 0, 15, 0);
}

static void failing_batch_handler_never_ends_the_loop(void)
{
    pgqrs_work_desc desc = {.until_empty = true, .batch = 5};
    begin_handlers();
    H.fail_first = 10;
    put_batch(T.queue, 20, 0, NULL);
    OK(pgqrs_work_batch(T.store, T.queue, handle_batch, NULL, &desc));
    EQ(30, H.calls);
    NUMBERS(0, 0, 0, 20, 0);
}

static pgqrs_result verdict_for_each(const pgqrs_messages *batch, void *user)
{
    size_t i;
    (void)user;
    for (i = 0; i < batch->count; i++) {
        const pgqrs_message *message = &batch->items[i];
        note(message);
        if (message->attempt > 1)
            pgqrs_message_archive(message);
        else if (i == 1)
            pgqrs_message_archive(message);
        else if (i == 2)
            pgqrs_message_reject(message, "bad apple");
        else if (i == 3)
            pgqrs_message_remove(message);
        else if (i == 4)
            pgqrs_message_give_back(message, 3600000);
    }
    return PGQRS_ERR_HANDLER; /* for those without a verdict of their own: number 0 */
}

static void batch_handler_has_a_verdict_per_message(void)
{
    int64_t ids[5];
    pgqrs_work_desc desc = {.max_messages = 5, .batch = 5};
    begin_handlers();
    put_batch(T.queue, 5, 0, ids);
    OK(pgqrs_work_batch(T.store, T.queue, verdict_for_each, NULL, &desc));
    STATE("delayed", ids[0]);
    EQ(1, must_look(ids[0])->attempt);
    STATE("archived", ids[1]);
    STATE("dead", ids[2]);
    SAME("bad apple", must_look(ids[2])->reason);
    STATE("gone", ids[3]);
    STATE("delayed", ids[4]);
    EQ(0, must_look(ids[4])->attempt);
}

static pgqrs_result settle_some(const pgqrs_messages *batch, void *user)
{
    size_t i;
    (void)user;
    for (i = 0; i < batch->count; i++) {
        note(&batch->items[i]);
        if (i % 2 == 0) {
            H.result = pgqrs_archive(H.admin, &batch->items[i]);
            pgqrs_message_settled(&batch->items[i]);
        } else if (i % 4 == 1)
            pgqrs_message_reject(&batch->items[i], i == 1 ? "the second" : "the sixth");
    }
    return PGQRS_OK;
}

static void batch_handler_settles_some_itself(void)
{
    int64_t ids[8];
    size_t i;
    pgqrs_work_desc desc = {.until_empty = true, .batch = 8};
    begin_handlers();
    H.admin = another_store();
    put_batch(T.queue, 8, 0, ids);
    T.warnings = 0;
    OK(pgqrs_work_batch(T.store, T.queue, settle_some, NULL, &desc));
    EQ(8, H.calls);
    RESULT(PGQRS_OK, H.result);
    for (i = 0; i < 8; i++)
        STATE(i % 4 == 1 ? "dead" : "archived", ids[i]);
    SAME("the second", must_look(ids[1])->reason);
    SAME("the sixth", must_look(ids[5])->reason);
    EQ(2, T.warnings); /* of the dead letters */
}

static void stop_in_a_handler_ends_the_loop(void)
{
    enum { many = 60 };
    int64_t ids[many];
    int i;
    pgqrs_message_filter filter = {.queue = T.queue, .state = PGQRS_LEASED};
    begin_handlers();
    H.stop_at = 30;
    put_batch(T.queue, many, 0, ids);
    OK(work(handle, (pgqrs_work_desc){0}));
    EQ(30, H.calls);
    EQ(0, count_where(filter));
    NUMBERS(many - 30, 0, 0, 30, 0);
    /* What was taken in advance went back without costing an attempt. */
    for (i = 30; i < many; i++)
        EQ(0, must_look(ids[i])->attempt);
    EQ(0, worker_rows());
    /* The stop is used up. */
    H.stop_at = 0;
    OK(work(handle, until_empty));
    NUMBERS(0, 0, 0, many, 0);
}

static void stop_before_the_loop_ends_the_next_one(void)
{
    begin_handlers();
    put();
    pgqrs_stop(T.store);
    OK(work(handle, (pgqrs_work_desc){0}));
    EQ(0, H.calls);
    OK(work(handle, until_empty));
    EQ(1, H.calls);
}

static void stop_does_not_touch_calls_that_do_not_wait(void)
{
    put();
    pgqrs_stop(T.store);
    must_take();
    put();
    EQ(1, take_many(5)->count);
    pgqrs_stop(NULL);
}

static pgqrs_result work_forever_then_stop(void)
{
    return pgqrs_work(T.store, T.queue, handle, NULL, NULL);
}

static void stop_while_sleeping(void)
{
    pgqrs_stop(H.loop);
}

static void stop_while_idle_ends_the_loop(void)
{
    begin_handlers();
    T.on_sleep = stop_while_sleeping;
    OK(work_forever_then_stop());
    EQ(1, T.sleeps);
}

static int64_t enqueue_later_at;
static void enqueue_while_sleeping(void)
{
    if (enqueue_later_at && T.now_us >= enqueue_later_at) {
        enqueue_later_at = 0;
        pgqrs_enqueue(H.admin, T.queue, "1", NULL, NULL);
    }
}

static void idle_loop_finds_what_comes_later(void)
{
    pgqrs_work_desc desc = {.max_messages = 1};
    begin_handlers();
    H.admin = another_store();
    enqueue_later_at = T.now_us + 10 * SECOND_US;
    T.on_sleep = enqueue_while_sleeping;
    OK(work(handle, desc));
    EQ(1, H.calls);
    YES(T.slept_us >= 9 * SECOND_US);
}

static void idle_loop_beats(void)
{
    pgqrs_worker *worker;
    const pgqrs_worker_info *info;
    int64_t start = T.now_us;
    pgqrs_work_desc desc = {.heartbeat_ms = 1000, .poll_ms = 100};
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, &desc);
    assert_non_null(worker);
    OK(pgqrs_worker_poll(worker, 5000, NULL));
    YES(T.now_us - start >= 5 * SECOND_US);
    info = must_look_worker(pgqrs_worker_self(worker).id);
    YES(T.now_us - info->heartbeat_at_us <= 1500000);
    OK(pgqrs_worker_close(worker));
}

static void own_name_stays_listed(void)
{
    const char *name = unique("me");
    pgqrs_work_desc desc = {.until_empty = true, .name = name};
    pgqrs_worker_filter filter = {.queue = T.queue};
    pgqrs_workers *page = NULL;
    int64_t id = put();
    begin_handlers();
    OK(work(handle, desc));
    OK(pgqrs_worker_list(T.store, &filter, &page));
    keep(page);
    EQ(1, page->count);
    SAME(name, page->items[0].name);
    EQ(PGQRS_WORKER_STOPPED, page->items[0].state);
    NO(page->items[0].reclaimed);
    EQ(0, page->items[0].held);
    EQ(page->items[0].id, must_look(id)->worker_id);
    SAME(name, must_look(id)->worker);
    /* And may be used again at once. */
    put();
    OK(work(handle, desc));
    EQ(2, H.calls);
}

static void own_name_that_is_in_use_is_refused(void)
{
    const char *name = unique("me");
    pgqrs_work_desc desc = {.until_empty = true, .name = name};
    enlist(name, T.queue);
    begin_handlers();
    FAILS(ERR_WORKER_ACTIVE, work(handle, desc));
    advance_ms(60001);
    OK(work(handle, desc));
}

static void work_refuses_bad_arguments(void)
{
    const pgqrs_work_desc wrong[] = {
        {.batch = -1},     {.batch = 10001},       {.lease_ms = -1},    {.lease_ms = INT64_MAX}, {.settle_ms = -2},
        {.heartbeat_ms = -1}, {.poll_ms = -1}, {.stale_ms = -1}, {.max_messages = -1},
    };
    size_t i;
    pgqrs_worker *worker;
    begin_handlers();
    put();
    for (i = 0; i < COUNT_OF(wrong); i++) {
        pgqrs_result result = work(handle, wrong[i]);
        if (result != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "desc %d gave %s", (int)i, pgqrs_result_name(result));
        FAILS(ERR_INVALID_ARGUMENT, result);
    }
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_work(T.store, NULL, handle, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "handler", pgqrs_work(T.store, T.queue, NULL, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "handler", pgqrs_work_batch(T.store, T.queue, NULL, NULL, NULL));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_work(T.store, "nowhere", handle, NULL, NULL));
    FAILS(ERR_BAD_NAME, work(handle, (pgqrs_work_desc){.name = ""}));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_work(NULL, T.queue, handle, NULL, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_work_batch(NULL, T.queue, handle_batch, NULL, NULL));
    worker = pgqrs_worker_open(T.store, T.queue, handle, handle_batch, NULL, NULL);
    YES(worker == NULL);
    check_error(pgqrs_last_error(T.store), PGQRS_ERR_INVALID_ARGUMENT, "both handlers", __FILE__, __LINE__);
    worker = pgqrs_worker_open(T.store, T.queue, NULL, NULL, NULL, NULL);
    YES(worker == NULL);
    check_error(pgqrs_last_error(T.store), PGQRS_ERR_INVALID_ARGUMENT, "no handler", __FILE__, __LINE__);
    YES(pgqrs_worker_open(NULL, T.queue, handle, NULL, NULL, NULL) == NULL);
    EQ(0, H.calls);
    EQ(0, worker_rows());
}

static pgqrs_result delete_queue(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    H.result = pgqrs_queue_delete(H.admin, T.queue, true);
    return PGQRS_OK;
}

static void work_ends_when_the_queue_goes_away(void)
{
    pgqrs_result result;
    begin_handlers();
    H.admin = another_store();
    put();
    result = work(delete_queue, (pgqrs_work_desc){0});
    RESULT(PGQRS_OK, H.result);
    EQ(1, H.calls);
    YES(result == PGQRS_ERR_QUEUE_NOT_FOUND || result == PGQRS_ERR_WORKER_STOPPED);
    check_error(pgqrs_last_error(T.store), result, "pgqrs_work", __FILE__, __LINE__);
}

static void paused_queue_counts_as_empty(void)
{
    int64_t id = put();
    OK(pgqrs_queue_pause(T.store, T.queue));
    begin_handlers();
    OK(work(handle, until_empty));
    EQ(0, H.calls);
    STATE("ready", id);
}

static pgqrs_result interrupt_me(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    H.worker_id = message->worker_id;
    if (H.calls == 1)
        H.result = pgqrs_worker_interrupt(H.admin, message->worker_id);
    return PGQRS_OK;
}

static void interrupt_ends_the_loop(void)
{
    const char *name = unique("me");
    pgqrs_work_desc desc = {.name = name};
    int64_t id = put(), other;
    begin_handlers();
    H.admin = another_store();
    other = put();
    FAILS(ERR_WORKER_INTERRUPTED, work(interrupt_me, desc));
    RESULT(PGQRS_OK, H.result);
    EQ(1, H.calls);
    /* The message in hand was settled, the next not taken. */
    STATE("archived", id);
    STATE("ready", other);
    EQ(0, must_look(other)->attempt);
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(H.worker_id)->state);
}

static void interrupt_ends_a_poll_and_suspends(void)
{
    pgqrs_worker *worker;
    pgqrs_worker_ref self;
    size_t handled = 99;
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    self = pgqrs_worker_self(worker);
    EQ(PGQRS_WORKER_POLLING, must_look_worker(self.id)->state);
    OK(pgqrs_worker_interrupt(T.store, self.id));
    put();
    FAILS(ERR_WORKER_INTERRUPTED, pgqrs_worker_poll(worker, 0, &handled));
    EQ(0, handled);
    EQ(PGQRS_WORKER_SUSPENDED, must_look_worker(self.id)->state);
    /* Resumed by somebody, it works again. */
    OK(pgqrs_worker_resume(T.store, self.id));
    OK(pgqrs_worker_poll(worker, 0, &handled));
    if (handled == 0)
        OK(pgqrs_worker_poll(worker, 0, &handled));
    EQ(1, handled);
    OK(pgqrs_worker_close(worker));
}

static pgqrs_result suspend_me(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    H.worker_id = message->worker_id;
    if (H.calls == 1)
        H.result = pgqrs_worker_suspend(H.admin, message->worker_id);
    return PGQRS_OK;
}

static void resume_while_sleeping(void)
{
    if (T.slept_us > 20 * SECOND_US && H.worker_id) {
        if (H.calls != 1)
            H.result = PGQRS_ERR_INTERNAL; /* it worked while suspended */
        pgqrs_worker_resume(H.admin, H.worker_id);
        H.worker_id = 0;
    }
}

static void suspended_loop_waits_for_resume(void)
{
    pgqrs_work_desc desc = {.max_messages = 2, .name = unique("me")};
    begin_handlers();
    H.admin = another_store();
    T.on_sleep = resume_while_sleeping;
    put();
    put();
    OK(work(suspend_me, desc));
    RESULT(PGQRS_OK, H.result);
    EQ(2, H.calls);
    NUMBERS(0, 0, 0, 2, 0);
}

static void shutdown_while_sleeping(void)
{
    if (T.slept_us > 20 * SECOND_US && H.worker_id) {
        H.result = pgqrs_worker_shutdown(H.admin, H.worker_id);
        H.worker_id = 0;
    }
}

static void shutdown_ends_the_loop(void)
{
    pgqrs_work_desc desc = {.name = unique("me")};
    pgqrs_worker_filter filter = {.queue = T.queue, .state = PGQRS_WORKER_STOPPED};
    int64_t id = put(), other = put(), count = -1;
    begin_handlers();
    H.admin = another_store();
    T.on_sleep = shutdown_while_sleeping;
    FAILS(ERR_WORKER_STOPPED, work(suspend_me, desc));
    RESULT(PGQRS_OK, H.result);
    EQ(1, H.calls);
    STATE("archived", id);
    STATE("ready", other);
    OK(pgqrs_worker_count(T.store, &filter, &count));
    EQ(1, count);
}

static pgqrs_result reclaim_me(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    if (H.calls == 1) {
        int64_t workers = 0;
        advance_ms(10000);
        H.result = pgqrs_worker_reclaim(H.admin, T.queue, 9000, &workers, NULL);
        H.worker_id = workers == 1 ? message->worker_id : -1;
    }
    return PGQRS_OK;
}

static void reclaimed_loop_registers_again(void)
{
    const char *name = unique("me");
    pgqrs_work_desc desc = {.max_messages = 3, .name = name};
    int64_t id = put(), other = put();
    begin_handlers();
    H.admin = another_store();
    OK(work(reclaim_me, desc));
    RESULT(PGQRS_OK, H.result);
    YES(H.worker_id > 0);
    /* The message it had was taken from it and came again. */
    EQ(3, H.calls);
    STATE("archived", id);
    STATE("archived", other);
    EQ(2, must_look(id)->attempt);
    EQ(H.worker_id, must_look(id)->worker_id);
    EQ(1, events_of(PGQRS_EVENT_LEASE_LOST));
}

static pgqrs_result take_my_name(const pgqrs_message *message, void *user)
{
    pgqrs_worker_ref fresh;
    (void)user;
    note(message);
    advance_ms(10000);
    H.result = pgqrs_worker_register(H.admin, T.test->name, &(pgqrs_register_desc){.queue = T.queue, .stale_ms = 9000}, &fresh);
    H.worker_id = fresh.id;
    advance_ms(10);
    H.extended = pgqrs_message_extend(message, 60000);
    return PGQRS_OK;
}

static void loop_whose_name_was_taken_over_ends(void)
{
    pgqrs_work_desc desc = {.name = T.test->name};
    begin_handlers();
    H.admin = another_store();
    put();
    put();
    FAILS(ERR_WORKER_STOPPED, work(take_my_name, desc));
    RESULT(PGQRS_OK, H.result);
    EQ(1, H.calls);
    RESULT(PGQRS_ERR_LEASE_LOST, H.extended);
    /* The row belongs to the other one now, and is left alone. */
    EQ(PGQRS_WORKER_READY, must_look_worker(H.worker_id)->state);
    EQ(T.now_us - 10000, must_look_worker(H.worker_id)->heartbeat_at_us);
    NUMBERS(2, 0, 0, 0, 0);
}

static void poll_handles_at_most_a_batch(void)
{
    pgqrs_work_desc desc = {.batch = 4};
    pgqrs_worker *worker;
    size_t handled = 99;
    begin_handlers();
    put_batch(T.queue, 6, 0, NULL);
    worker = pgqrs_worker_open(T.store, T.queue, NULL, handle_batch, NULL, &desc);
    assert_non_null(worker);
    EQ(0, H.calls);
    OK(pgqrs_worker_poll(worker, 0, &handled));
    EQ(4, handled);
    /* Settled when it returns. */
    NUMBERS(2, 0, 0, 4, 0);
    OK(pgqrs_worker_poll(worker, 0, &handled));
    EQ(2, handled);
    OK(pgqrs_worker_poll(worker, 0, &handled));
    EQ(0, handled);
    OK(pgqrs_worker_poll(worker, 0, NULL));
    NUMBERS(0, 0, 0, 6, 0);
    OK(pgqrs_worker_close(worker));
    EQ(0, worker_rows());
}

static void poll_of_single_messages_settles_before_it_returns(void)
{
    pgqrs_worker *worker;
    size_t handled = 0, total = 0;
    int i;
    begin_handlers();
    put_batch(T.queue, 30, 0, NULL);
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    for (i = 0; i < 60; i++) {
        OK(pgqrs_worker_poll(worker, 0, &handled));
        total += handled;
        EQ(total, H.calls);
        NUMBERS(30 - (int64_t)total, 0, 0, (int64_t)total, 0);
        if (handled == 0)
            break;
    }
    EQ(30, total);
    OK(pgqrs_worker_close(worker));
}

static void poll_waits_for_the_first_message(void)
{
    pgqrs_worker *worker;
    int64_t start = T.now_us;
    size_t handled = 99;
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    OK(pgqrs_worker_poll(worker, 3000, &handled));
    EQ(0, handled);
    BETWEEN(2999000, 4 * SECOND_US, T.now_us - start);
    put_as((pgqrs_enqueue_desc){.delay_ms = 500});
    start = T.now_us;
    OK(pgqrs_worker_poll(worker, 3000, &handled));
    EQ(1, handled);
    BETWEEN(500000, SECOND_US, T.now_us - start);
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_worker_poll(worker, -1, &handled));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_poll(NULL, 0, &handled));
    OK(pgqrs_worker_close(worker));
    RESULT(PGQRS_OK, pgqrs_worker_close(NULL));
}

static void worker_stop_ends_every_later_poll(void)
{
    pgqrs_worker *worker;
    size_t handled = 99;
    int64_t start = T.now_us;
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    NO(pgqrs_worker_stopping(worker));
    pgqrs_worker_stop(worker);
    YES(pgqrs_worker_stopping(worker));
    put();
    OK(pgqrs_worker_poll(worker, PGQRS_FOREVER, &handled));
    EQ(0, handled);
    OK(pgqrs_worker_poll(worker, 1000, &handled));
    EQ(0, handled);
    EQ(start, T.now_us);
    EQ(0, pgqrs_worker_next_ms(worker));
    OK(pgqrs_worker_close(worker));
    NUMBERS(1, 0, 0, 0, 0);
}

static pgqrs_result stop_worker(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    if (H.calls == H.stop_at)
        pgqrs_worker_stop(H.worker);
    return PGQRS_OK;
}

static void worker_stop_in_a_handler_gives_back_the_rest(void)
{
    size_t handled = 0;
    int i;
    pgqrs_message_filter leased = {.queue = T.queue, .state = PGQRS_LEASED};
    begin_handlers();
    H.stop_at = 10;
    put_batch(T.queue, 40, 0, NULL);
    H.worker = pgqrs_worker_open(T.store, T.queue, stop_worker, NULL, NULL, NULL);
    assert_non_null(H.worker);
    for (i = 0; i < 40 && !pgqrs_worker_stopping(H.worker); i++)
        OK(pgqrs_worker_poll(H.worker, 0, &handled));
    OK(pgqrs_worker_close(H.worker));
    EQ(10, H.calls);
    EQ(0, count_where(leased));
    NUMBERS(30, 0, 0, 10, 0);
}

static void worker_self_is_its_row(void)
{
    const char *name = unique("me");
    pgqrs_work_desc desc = {.name = name};
    pgqrs_worker *worker;
    pgqrs_worker_ref self;
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, &desc);
    assert_non_null(worker);
    self = pgqrs_worker_self(worker);
    SAME(name, must_look_worker(self.id)->name);
    EQ(self.epoch, must_look_worker(self.id)->epoch);
    SAME(T.queue, must_look_worker(self.id)->queue);
    OK(pgqrs_worker_close(worker));
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(self.id)->state);
}

static void next_ms_knows_what_falls_due(void)
{
    pgqrs_work_desc desc = {.poll_ms = 60000, .heartbeat_ms = 60000};
    pgqrs_worker *worker;
    size_t handled = 0;
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, &desc);
    assert_non_null(worker);
    EQ(0, pgqrs_worker_next_ms(worker));
    put_as((pgqrs_enqueue_desc){.delay_ms = 5000});
    OK(pgqrs_worker_poll(worker, 0, &handled));
    OK(pgqrs_worker_poll(worker, 0, &handled));
    EQ(0, handled);
    BETWEEN(1, 5001, pgqrs_worker_next_ms(worker));
    OK(pgqrs_worker_close(worker));
}

static void observer_is_told_in_order(void)
{
    pgqrs_work_desc desc = {.until_empty = true, .batch = 1};
    int64_t id, finished, settled, claimed, started, i;
    begin_handlers();
    H.fail_first = 1;
    id = put();
    EQ(1, events_of(PGQRS_EVENT_ENQUEUED));
    EQ(1, nth_event(PGQRS_EVENT_ENQUEUED, 0)->event.count);
    SAME(T.queue, nth_event(PGQRS_EVENT_ENQUEUED, 0)->queue);
    YES(nth_event(PGQRS_EVENT_ENQUEUED, 0)->event.duration_us >= 0);
    T.event_count = 0;
    OK(work(handle, desc));
    EQ(2, H.calls);
    EQ(2, events_of(PGQRS_EVENT_CLAIMED));
    EQ(2, events_of(PGQRS_EVENT_STARTED));
    EQ(2, events_of(PGQRS_EVENT_FINISHED));
    EQ(2, events_of(PGQRS_EVENT_SETTLED));
    EQ(0, events_of(PGQRS_EVENT_LEASE_LOST));
    EQ(id, nth_event(PGQRS_EVENT_STARTED, 0)->event.message_id);
    EQ(1, nth_event(PGQRS_EVENT_STARTED, 0)->event.attempt);
    EQ(2, nth_event(PGQRS_EVENT_STARTED, 1)->event.attempt);
    RESULT(PGQRS_ERR_HANDLER, nth_event(PGQRS_EVENT_FINISHED, 0)->event.result);
    RESULT(PGQRS_OK, nth_event(PGQRS_EVENT_FINISHED, 1)->event.result);
    EQ(id, nth_event(PGQRS_EVENT_FINISHED, 1)->event.message_id);
    SAME(T.queue, nth_event(PGQRS_EVENT_FINISHED, 1)->queue);
    EQ(1, nth_event(PGQRS_EVENT_SETTLED, 0)->event.count);
    EQ(1, nth_event(PGQRS_EVENT_CLAIMED, 0)->event.count);
    /* claimed, started, finished, settled; twice */
    claimed = started = finished = settled = 0;
    for (i = 0; i < (int64_t)T.event_count; i++) {
        switch (T.events[i].event.type) {
        case PGQRS_EVENT_CLAIMED:
            EQ(claimed, finished);
            claimed++;
            break;
        case PGQRS_EVENT_STARTED:
            started++;
            EQ(claimed, started);
            break;
        case PGQRS_EVENT_FINISHED:
            finished++;
            EQ(started, finished);
            break;
        case PGQRS_EVENT_SETTLED:
            settled++;
            YES(settled <= finished);
            break;
        default:
            break;
        }
    }
}

static void observer_is_told_of_calls_by_hand(void)
{
    const pgqrs_messages *got;
    int64_t lost = put();
    const pgqrs_message *message = must_take();
    advance_ms(TEST_LEASE_MS + 1);
    must_take();
    T.event_count = 0;
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, message));
    EQ(1, events_of(PGQRS_EVENT_LEASE_LOST));
    EQ(lost, nth_event(PGQRS_EVENT_LEASE_LOST, 0)->event.message_id);
    put_batch(T.queue, 5, 0, NULL);
    EQ(5, nth_event(PGQRS_EVENT_ENQUEUED, 0)->event.count);
    got = take_many(5);
    EQ(5, nth_event(PGQRS_EVENT_CLAIMED, 0)->event.count);
    T.event_count = 0;
    OK(pgqrs_archive_many(T.store, got->items, 5, NULL));
    EQ(5, nth_event(PGQRS_EVENT_SETTLED, 0)->event.count);
    T.event_count = 0;
    take();
    EQ(0, events_of(PGQRS_EVENT_CLAIMED));
}

static pgqrs_result count_archived(const pgqrs_message *message, void *user)
{
    pgqrs_message_filter filter = {.queue = T.queue, .state = PGQRS_ARCHIVED};
    int64_t count = -1;
    (void)user;
    if (pgqrs_message_count(H.admin, &filter, &count) != PGQRS_OK || count != H.calls)
        H.result = PGQRS_ERR_INTERNAL;
    note(message);
    return PGQRS_OK;
}

static void settle_ms_minus_1_settles_after_every_message(void)
{
    pgqrs_work_desc desc = {.until_empty = true, .settle_ms = -1};
    begin_handlers();
    H.admin = another_store();
    put_batch(T.queue, 20, 0, NULL);
    OK(work(count_archived, desc));
    EQ(20, H.calls);
    RESULT(PGQRS_OK, H.result);
}

static pgqrs_result nested_work(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    H.result = pgqrs_enqueue(H.admin, T.queue, "2", NULL, NULL);
    return PGQRS_OK;
}

static void handler_may_use_a_store_of_its_own(void)
{
    pgqrs_work_desc desc = {.max_messages = 5};
    begin_handlers();
    H.admin = another_store();
    put();
    OK(work(nested_work, desc));
    RESULT(PGQRS_OK, H.result);
    EQ(5, H.calls);
    NUMBERS(1, 0, 0, 5, 0);
}

static pgqrs_result borrowed_result;
static void call_back(const pgqrs_event *event, void *user)
{
    (void)user;
    if (event->type == PGQRS_EVENT_ENQUEUED)
        borrowed_result = pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL);
}

static void hook_that_calls_back_is_refused(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_queue_desc queue = test_queue_desc();
    desc.observer.observe = call_back;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    borrowed_result = PGQRS_OK;
    put();
    RESULT(PGQRS_ERR_WRONG_THREAD, borrowed_result);
    NUMBERS(1, 0, 0, 0, 0);
}

static void loop_moves_due_and_expired_messages_by_itself(void)
{
    int64_t delayed = put_as((pgqrs_enqueue_desc){.delay_ms = 2000}), leased = put(), expiring;
    pgqrs_worker *worker;
    size_t handled, total = 0;
    int i;
    EQ(leased, must_take()->id);
    expiring = put_as((pgqrs_enqueue_desc){.delay_ms = 3000, .expire_ms = 2500});
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    for (i = 0; i < 20 && total < 2; i++) {
        OK(pgqrs_worker_poll(worker, TEST_LEASE_MS + 5000, &handled));
        total += handled;
    }
    OK(pgqrs_worker_close(worker));
    STATE("archived", delayed);
    STATE("archived", leased);
    STATE("archived", expiring);
    EQ(2, must_look(leased)->attempt);
    EQ(0, must_look(expiring)->attempt);
}

static void loop_applies_the_retention(void)
{
    pgqrs_queue_desc change = {.retention_ms = 1000};
    int64_t id = put();
    pgqrs_worker *worker;
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    OK(pgqrs_archive(T.store, must_take()));
    advance_ms(2000);
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    OK(pgqrs_worker_poll(worker, 120000, NULL));
    OK(pgqrs_worker_close(worker));
    STATE("gone", id);
}

static pgqrs_result handle_and_be_reclaimed(const pgqrs_message *message, void *user)
{
    pgqrs_result result = handle(message, user);
    if (H.calls == 1) {
        advance_ms(3600000);
        OK_ON(H.admin, pgqrs_worker_reclaim(H.admin, T.queue, 1000, NULL, NULL));
    }
    return result;
}

/* The claim that finds out about the reclaim comes back empty, which says nothing about the queue. */
static void until_empty_outlives_a_reclaim(void)
{
    pgqrs_work_desc desc = {.until_empty = true, .batch = 1, .lease_ms = 36000000};
    begin_handlers();
    H.admin = another_store();
    put_batch(T.queue, 6, 0, NULL);
    OK(work(handle_and_be_reclaimed, desc));
    EQ(7, H.calls); /* the first one again: its lease was lost */
    NUMBERS(0, 0, 0, 6, 0);
}

static pgqrs_result poll_and_close_its_own_worker(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    RESULT(PGQRS_ERR_WRONG_THREAD, pgqrs_worker_poll(H.worker, 0, NULL));
    RESULT(PGQRS_ERR_WRONG_THREAD, pgqrs_worker_close(H.worker));
    return pgqrs_message_reject(message, "kept");
}

static void handler_may_not_poll_or_close_its_worker(void)
{
    int64_t first = put(), second = put();
    pgqrs_work_desc desc = {.batch = 1};
    begin_handlers();
    H.worker = pgqrs_worker_open(T.store, T.queue, poll_and_close_its_own_worker, NULL, NULL, &desc);
    assert_non_null(H.worker);
    OK(pgqrs_worker_poll(H.worker, 0, NULL));
    OK(pgqrs_worker_poll(H.worker, 0, NULL));
    OK(pgqrs_worker_close(H.worker));
    EQ(2, H.calls);
    SAME("kept", must_look(first)->reason);
    SAME("kept", must_look(second)->reason);
}

static void poll_after_max_messages_does_nothing(void)
{
    pgqrs_work_desc desc = {.max_messages = 3};
    pgqrs_worker *worker;
    int i;
    begin_handlers();
    put_batch(T.queue, 8, 0, NULL);
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, &desc);
    assert_non_null(worker);
    for (i = 0; i < 6; i++)
        OK(pgqrs_worker_poll(worker, 1000, NULL));
    EQ(3, H.calls);
    EQ(0, T.slept_us);
    YES(pgqrs_worker_stopping(worker));
    OK(pgqrs_worker_close(worker));
    NUMBERS(5, 0, 0, 3, 0);
}

static pgqrs_result extend_what_was_taken_away(const pgqrs_message *message, void *user)
{
    (void)user;
    note(message);
    if (H.calls == 2) {
        int64_t ids[4];
        size_t i;
        for (i = 0; i < COUNT_OF(ids); i++)
            ids[i] = message->id + (int64_t)i;
        OK_ON(H.admin, pgqrs_message_delete(H.admin, ids, COUNT_OF(ids), true, NULL));
        H.extended = pgqrs_message_extend(message, 3600000);
        advance_ms(60000);
    }
    return PGQRS_OK;
}

/* An extension that was refused is not counted on: what was taken with it is not started after the lease. */
static void lost_extension_is_not_counted_on(void)
{
    begin_handlers();
    H.admin = another_store();
    put_batch(T.queue, 5, 0, NULL);
    OK(work(extend_what_was_taken_away, until_empty));
    RESULT(PGQRS_ERR_LEASE_LOST, H.extended);
    EQ(2, H.calls);
    NUMBERS(0, 0, 0, 1, 0);
}

static void clock_before_1970_works(void)
{
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc desc = {.wait_ms = 100};
    int64_t start;
    T.now_us = -5;
    start = T.now_us;
    OK(pgqrs_dequeue(T.store, T.queue, &desc, &message));
    YES(message == NULL);
    BETWEEN(start + 100000, start + 200000, T.now_us);
}

static void row_of_an_invented_name_goes_even_after_a_shutdown(void)
{
    pgqrs_worker *worker;
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    OK(pgqrs_worker_suspend(T.store, pgqrs_worker_self(worker).id));
    OK(pgqrs_worker_shutdown(T.store, pgqrs_worker_self(worker).id));
    RESULT(PGQRS_ERR_WORKER_STOPPED, pgqrs_worker_poll(worker, 0, NULL));
    OK(pgqrs_worker_close(worker));
    EQ(0, worker_rows());
}

static const test_case loop_cases[] = {
    CASE(work_until_empty_handles_all_in_order, PLAIN),
    CASE(work_on_an_empty_queue_ends_at_once, PLAIN),
    CASE(work_does_not_wait_for_others_delays, PLAIN),
    CASE(work_ends_after_max_messages, PLAIN),
    CASE(work_batch_ends_after_max_messages, PLAIN),
    CASE(failing_handler_never_ends_the_loop, PLAIN),
    CASE(work_waits_for_its_own_retries, PLAIN),
    CASE(work_puts_the_hopeless_into_the_dead_letters, PLAIN),
    CASE(work_takes_any_other_result_for_a_failed_try, PLAIN),
    CASE(handler_sees_the_message, PLAIN),
    CASE(verdict_archive, PLAIN),
    CASE(verdict_remove, PLAIN),
    CASE(verdict_retry, PLAIN),
    CASE(verdict_give_back, PLAIN),
    CASE(verdict_give_back_many_times_is_no_failure, PLAIN),
    CASE(verdict_reject, PLAIN),
    CASE(verdict_last_one_counts, PLAIN),
    CASE(verdict_wins_over_the_return_value, PLAIN),
    CASE(verdict_settled_leaves_the_message_alone, TWO),
    CASE(verdict_settled_without_settling_comes_again, PLAIN),
    CASE(verdict_after_settled_counts, PLAIN),
    CASE(verdict_retry_with_the_queues_backoff, PLAIN),
    CASE(verdict_retry_at_once, PLAIN),
    CASE(verdict_with_bad_times_is_refused, PLAIN),
    CASE(verdict_outside_of_a_handler_is_refused, PLAIN),
    CASE(verdict_reason_is_cut_at_500_bytes, PLAIN),
    CASE(extend_in_a_handler_keeps_the_message, PLAIN),
    CASE(extend_in_a_handler_works_at_once_and_beats, TWO),
    CASE(handler_that_outlives_its_lease_loses_its_verdict, PLAIN),
    CASE(extend_in_a_handler_tells_when_it_is_too_late, PLAIN),
    CASE(messages_waiting_behind_a_slow_handler_are_not_handled_with_a_lost_lease, PLAIN),
    CASE(batch_handler_gets_batches, PLAIN),
    CASE(batch_size_is_the_stores_default, PLAIN),
    CASE(failing_batch_handler_never_ends_the_loop, PLAIN),
    CASE(batch_handler_has_a_verdict_per_message, PLAIN),
    CASE(batch_handler_settles_some_itself, TWO),
    CASE(stop_in_a_handler_ends_the_loop, PLAIN),
    CASE(stop_before_the_loop_ends_the_next_one, PLAIN),
    CASE(stop_does_not_touch_calls_that_do_not_wait, PLAIN),
    CASE(stop_while_idle_ends_the_loop, PLAIN),
    CASE(idle_loop_finds_what_comes_later, TWO),
    CASE(idle_loop_beats, PLAIN),
    CASE(own_name_stays_listed, PLAIN),
    CASE(own_name_that_is_in_use_is_refused, PLAIN),
    CASE(work_refuses_bad_arguments, PLAIN),
    CASE(work_ends_when_the_queue_goes_away, TWO),
    CASE(paused_queue_counts_as_empty, PLAIN),
    CASE(interrupt_ends_the_loop, TWO),
    CASE(interrupt_ends_a_poll_and_suspends, PLAIN),
    CASE(suspended_loop_waits_for_resume, TWO),
    CASE(shutdown_ends_the_loop, TWO),
    CASE(reclaimed_loop_registers_again, TWO),
    CASE(loop_whose_name_was_taken_over_ends, TWO),
    CASE(poll_handles_at_most_a_batch, PLAIN),
    CASE(poll_of_single_messages_settles_before_it_returns, PLAIN),
    CASE(poll_waits_for_the_first_message, PLAIN),
    CASE(worker_stop_ends_every_later_poll, PLAIN),
    CASE(worker_stop_in_a_handler_gives_back_the_rest, PLAIN),
    CASE(worker_self_is_its_row, PLAIN),
    CASE(next_ms_knows_what_falls_due, PLAIN),
    CASE(observer_is_told_in_order, PLAIN),
    CASE(observer_is_told_of_calls_by_hand, PLAIN),
    CASE(settle_ms_minus_1_settles_after_every_message, TWO),
    CASE(handler_may_use_a_store_of_its_own, TWO),
    CASE(hook_that_calls_back_is_refused, PLAIN),
    CASE(loop_moves_due_and_expired_messages_by_itself, PLAIN),
    CASE(loop_applies_the_retention, PLAIN),
    CASE(until_empty_outlives_a_reclaim, TWO),
    CASE(handler_may_not_poll_or_close_its_worker, PLAIN),
    CASE(poll_after_max_messages_does_nothing, PLAIN),
    CASE(lost_extension_is_not_counted_on, TWO),
    CASE_ON(clock_before_1970_works, PLAIN, ON_SQLITE),
    CASE(row_of_an_invented_name_goes_even_after_a_shutdown, PLAIN),
};
