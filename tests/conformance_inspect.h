/* Looking at messages and repairing them: get, list, count, delete, update, replay, dead letters, explain, metrics. */

static void get_of_an_unknown_message_is_nothing(void)
{
    pgqrs_message *message = (pgqrs_message *)&message;
    OK(pgqrs_message_get(T.store, INT64_C(987654321012), &message));
    YES(message == NULL);
    message = (pgqrs_message *)&message;
    OK(pgqrs_message_get(T.store, -1, &message));
    YES(message == NULL);
}

static void get_shows_everything(void)
{
    int64_t at = T.now_us, id;
    const pgqrs_message *message;
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    id = put_as((pgqrs_enqueue_desc){
        .priority = 3, .delay_ms = 1000, .expire_ms = 100000, .dedup_key = "key", .producer = "me"});
    message = must_look(id);
    EQ(PGQRS_DELAYED, message->state);
    EQ(id, message->id);
    EQ(0, message->lease);
    EQ(0, message->attempt);
    EQ(3, message->priority);
    EQ(at, message->enqueued_at_us);
    EQ(0, message->lease_until_us);
    EQ(0, message->worker_id);
    EQ(at + SECOND_US, message->due_at_us);
    EQ(at + 100 * SECOND_US, message->expires_at_us);
    EQ(0, message->finished_at_us);
    SAME("key", message->dedup_key);
    SAME("me", message->producer);
    SAME(T.queue, message->queue);
    SAME(SECRET_PAYLOAD, message->payload);
    YES(message->worker == NULL);
    YES(message->reason == NULL);
    YES(message->delivery == NULL);
    advance_ms(1000);
    message = take_as((pgqrs_dequeue_desc){.worker = worker});
    assert_non_null(message);
    {
        const pgqrs_message *seen = must_look(id);
        EQ(PGQRS_LEASED, seen->state);
        EQ(message->lease, seen->lease);
        EQ(message->lease_until_us, seen->lease_until_us);
        EQ(1, seen->attempt);
        EQ(worker.id, seen->worker_id);
        SAME(must_look_worker(worker.id)->name, seen->worker);
        OK(pgqrs_archive(T.store, message));
        seen = must_look(id);
        EQ(PGQRS_ARCHIVED, seen->state);
        EQ(T.now_us, seen->finished_at_us);
        EQ(worker.id, seen->worker_id);
        EQ(0, seen->lease);
        EQ(3, seen->priority);
        SAME("me", seen->producer);
    }
}

static void inspection_refuses_missing_arguments(void)
{
    int64_t id = 1, count;
    pgqrs_message *message = NULL;
    pgqrs_messages *messages = NULL;
    pgqrs_explanation why;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_message_get(T.store, 1, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_message_list(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "count", pgqrs_message_count(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "ids", pgqrs_message_delete(T.store, NULL, 1, false, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "payload", pgqrs_message_update(T.store, 1, NULL, 0));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "ids", pgqrs_message_replay_many(T.store, NULL, 1, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_dead_list(T.store, NULL, 0, 0, &messages));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_dead_list(T.store, T.queue, 0, 0, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_dead_replay_all(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_message_explain(T.store, 1, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_get(NULL, 1, &message));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_list(NULL, NULL, &messages));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_count(NULL, NULL, &count));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_delete(NULL, &id, 1, false, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_update(NULL, 1, "1", 1));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_replay(NULL, 1));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_replay_many(NULL, &id, 1, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_dead_list(NULL, "q", 0, 0, &messages));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_dead_replay_all(NULL, "q", NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_message_explain(NULL, 1, &why));
}

static void inspection_refuses_filters_out_of_range(void)
{
    const pgqrs_message_filter wrong[] = {
        {.limit = 1001},       {.state = (pgqrs_state)6}, {.state = (pgqrs_state)-1}, {.worker_id = -1},
        {.enqueued_from_us = -1}, {.enqueued_before_us = -1}, {.after_id = -1},
    };
    size_t i;
    for (i = 0; i < COUNT_OF(wrong); i++) {
        pgqrs_messages *messages = NULL;
        pgqrs_result result = pgqrs_message_list(T.store, &wrong[i], &messages);
        if (result != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "filter %d gave %s", (int)i, pgqrs_result_name(result));
        FAILS(ERR_INVALID_ARGUMENT, result);
    }
}

static void inspection_names_the_unknown_queue(void)
{
    pgqrs_message_filter filter = {.queue = "nowhere"};
    pgqrs_messages *messages = NULL;
    int64_t count = -1;
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_message_list(T.store, &filter, &messages));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_message_count(T.store, &filter, &count));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_dead_list(T.store, "nowhere", 0, 0, &messages));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_dead_replay_all(T.store, "nowhere", NULL));
    filter.queue = "";
    FAILS(ERR_BAD_NAME, pgqrs_message_list(T.store, &filter, &messages));
    FAILS(ERR_BAD_NAME, pgqrs_message_count(T.store, &filter, &count));
    YES(messages == NULL);
}

/* Reads all pages and checks that they hold `expected` (ascending), each once, in the order asked for. */
static void check_pages(pgqrs_message_filter filter, const int64_t *expected, size_t expected_count)
{
    size_t seen = 0, pages = 0;
    filter.after_id = 0;
    for (;;) {
        pgqrs_messages *page = NULL;
        size_t i;
        OK(pgqrs_message_list(T.store, &filter, &page));
        assert_non_null(page);
        YES(page->count <= filter.limit);
        for (i = 0; i < page->count && seen < expected_count; i++, seen++)
            EQ(filter.oldest_first ? expected[seen] : expected[expected_count - 1 - seen], page->items[i].id);
        EQ(page->count, i);
        if (page->count > 0)
            filter.after_id = page->items[page->count - 1].id;
        if (page->count < filter.limit) {
            pgqrs_free(page);
            break;
        }
        pgqrs_free(page);
        YES(++pages < 1000);
    }
    EQ(expected_count, seen);
    EQ(expected_count, count_where(filter));
}

/* More than a page of every state, made in batches and one by one, and interleaved. */
static void lists_page_through_every_state(void)
{
    enum { each = 23 };
    static const size_t limits[] = {1, 5, 10, 23, 24};
    int64_t ids[6][each];
    int64_t all[5 * each];
    const pgqrs_messages *got;
    size_t i, j, round, n[6] = {0};
    for (round = 0; round < 2; round++) {
        size_t half = round == 0 ? 11 : each - 11;
        /* archived: in batches, one by one, and a part of a lease */
        put_batch(T.queue, half, 0, ids[PGQRS_ARCHIVED] + n[PGQRS_ARCHIVED]);
        got = take_many(half);
        EQ(half, got->count);
        OK(pgqrs_archive_many(T.store, got->items, 4, NULL));
        for (i = 4; i < half - 3; i++)
            OK(pgqrs_archive(T.store, &got->items[i]));
        OK(pgqrs_archive_many(T.store, got->items + half - 3, 3, NULL));
        n[PGQRS_ARCHIVED] += half;
        put_batch(T.queue, half, 0, ids[PGQRS_DEAD] + n[PGQRS_DEAD]);
        got = take_many(half);
        EQ(half, got->count);
        for (i = 0; i < half; i++)
            OK(pgqrs_reject(T.store, &got->items[i], "r"));
        n[PGQRS_DEAD] += half;
        put_batch(T.queue, half, 0, ids[PGQRS_LEASED] + n[PGQRS_LEASED]);
        EQ(half - 2, take_many(half - 2)->count);
        must_take();
        must_take();
        n[PGQRS_LEASED] += half;
        for (i = 0; i < half; i++)
            ids[PGQRS_DELAYED][n[PGQRS_DELAYED]++] =
                put_as((pgqrs_enqueue_desc){.delay_ms = 1000000 - (int64_t)i, .priority = (int32_t)(i % 3)});
    }
    put_batch(T.queue, 12, 0, ids[PGQRS_READY]);
    for (i = 12; i < each; i++)
        ids[PGQRS_READY][i] = put_as((pgqrs_enqueue_desc){.priority = (int32_t)(i % 5) - 2});
    NUMBERS(each, each, each, each, each);
    for (i = PGQRS_READY; i <= PGQRS_DEAD; i++)
        for (j = 0; j < COUNT_OF(limits); j++) {
            pgqrs_message_filter filter = {.queue = T.queue, .state = (pgqrs_state)i, .limit = limits[j]};
            check_pages(filter, ids[i], each);
            filter.oldest_first = true;
            check_pages(filter, ids[i], each);
        }
    for (i = 0; i < 5 * each; i++)
        all[i] = ids[1 + i / each][i % each];
    for (i = 1; i < 5 * each; i++) { /* ids ascend inside a state: sort them by insertion */
        int64_t id = all[i];
        for (j = i; j > 0 && all[j - 1] > id; j--)
            all[j] = all[j - 1];
        all[j] = id;
    }
    for (j = 0; j < COUNT_OF(limits); j++) {
        pgqrs_message_filter filter = {.queue = T.queue, .limit = limits[j]};
        check_pages(filter, all, 5 * each);
        filter.oldest_first = true;
        check_pages(filter, all, 5 * each);
    }
}

static void lists_show_the_state_asked_for(void)
{
    pgqrs_message_filter filter = {.queue = T.queue};
    pgqrs_messages *page = NULL;
    int64_t ids[5];
    int i;
    purge_fills(ids); /* archived, dead, leased, delayed, ready */
    for (i = PGQRS_READY; i <= PGQRS_DEAD; i++) {
        static const size_t which[] = {0, 4, 3, 2, 0, 1};
        const pgqrs_message *alone = must_look(ids[which[i]]);
        filter.state = (pgqrs_state)i;
        OK(pgqrs_message_list(T.store, &filter, &page));
        keep(page);
        EQ(1, page->count);
        EQ(ids[which[i]], page->items[0].id);
        EQ(i, page->items[0].state);
        EQ(alone->lease, page->items[0].lease);
        EQ(alone->attempt, page->items[0].attempt);
        EQ(alone->due_at_us, page->items[0].due_at_us);
        EQ(alone->finished_at_us, page->items[0].finished_at_us);
        EQ(alone->enqueued_at_us, page->items[0].enqueued_at_us);
        SAME(SECRET_PAYLOAD, page->items[0].payload);
        SAME(T.queue, page->items[0].queue);
        EQ(1, count_where(filter));
    }
}

static void lists_follow_the_moving_time(void)
{
    pgqrs_message_filter ready = {.queue = T.queue, .state = PGQRS_READY};
    pgqrs_message_filter delayed = {.queue = T.queue, .state = PGQRS_DELAYED};
    pgqrs_message_filter leased = {.queue = T.queue, .state = PGQRS_LEASED};
    put();
    must_take();
    put_as((pgqrs_enqueue_desc){.delay_ms = TEST_LEASE_MS + 5});
    EQ(0, count_where(ready));
    EQ(1, count_where(delayed));
    EQ(1, count_where(leased));
    advance_ms(TEST_LEASE_MS + 1);
    EQ(1, count_where(ready));
    EQ(1, count_where(delayed));
    EQ(0, count_where(leased));
    advance_ms(10);
    EQ(2, count_where(ready));
    EQ(0, count_where(delayed));
    NUMBERS(2, 0, 0, 0, 0);
}

static void lists_filter_by_enqueue_time(void)
{
    int64_t ids[4], times[4];
    pgqrs_message_filter filter = {.queue = T.queue, .oldest_first = true, .limit = 10};
    int i;
    for (i = 0; i < 4; i++) {
        times[i] = T.now_us;
        ids[i] = put();
        advance_ms(1000);
    }
    filter.enqueued_from_us = times[1];
    check_pages(filter, ids + 1, 3);
    filter.enqueued_before_us = times[3];
    check_pages(filter, ids + 1, 2);
    filter.enqueued_from_us = 0;
    check_pages(filter, ids, 3);
    filter.enqueued_from_us = times[3];
    check_pages(filter, ids, 0);
}

static void lists_filter_by_worker(void)
{
    pgqrs_worker_ref one = enlist(unique("one"), T.queue), two = enlist(unique("two"), T.queue);
    int64_t ids[6];
    const pgqrs_messages *got;
    pgqrs_message_filter filter = {.worker_id = one.id, .oldest_first = true, .limit = 10};
    put_batch(T.queue, 6, 0, ids);
    got = take_many_with(T.store, T.queue, (pgqrs_dequeue_desc){.limit = 3, .worker = one});
    EQ(3, got->count);
    EQ(one.id, got->items[0].worker_id);
    assert_non_null(take_as((pgqrs_dequeue_desc){.worker = two}));
    check_pages(filter, ids, 3);
    OK(pgqrs_archive(T.store, &got->items[0]));
    OK(pgqrs_reject(T.store, &got->items[1], NULL));
    check_pages(filter, ids, 3);
    filter.state = PGQRS_ARCHIVED;
    check_pages(filter, ids, 1);
    filter.state = PGQRS_DEAD;
    check_pages(filter, ids + 1, 1);
    filter.state = PGQRS_LEASED;
    check_pages(filter, ids + 2, 1);
    filter.worker_id = two.id;
    check_pages(filter, ids + 3, 1);
}

static void lists_without_a_filter_show_all_queues(void)
{
    const char *other = another_queue("other");
    int64_t a = put(), b = put_into(other, "1", (pgqrs_enqueue_desc){0}).id, count = -1;
    pgqrs_messages *page = NULL;
    OK(pgqrs_message_list(T.store, NULL, &page));
    keep(page);
    EQ(2, page->count);
    EQ(b, page->items[0].id);
    EQ(a, page->items[1].id);
    OK(pgqrs_message_count(T.store, NULL, &count));
    EQ(2, count);
}

static void lists_take_100_by_default(void)
{
    pgqrs_message_filter filter = {.queue = T.queue};
    pgqrs_messages *page = NULL;
    put_batch(T.queue, 1005, 0, NULL);
    OK(pgqrs_message_list(T.store, &filter, &page));
    keep(page);
    EQ(100, page->count);
    filter.limit = 1000;
    OK(pgqrs_message_list(T.store, &filter, &page));
    keep(page);
    EQ(1000, page->count);
    EQ(1005, count_where(filter));
}

static void message_delete_takes_any_state_but_leased(void)
{
    int64_t ids[6];
    pgqrs_result results[6];
    size_t i;
    purge_fills(ids);
    ids[5] = INT64_C(987654321012);
    OK(pgqrs_message_delete(T.store, ids, 6, false, results));
    RESULT(PGQRS_OK, results[0]);
    RESULT(PGQRS_OK, results[1]);
    RESULT(PGQRS_ERR_MESSAGE_STATE, results[2]);
    RESULT(PGQRS_OK, results[3]);
    RESULT(PGQRS_OK, results[4]);
    RESULT(PGQRS_ERR_MESSAGE_NOT_FOUND, results[5]);
    for (i = 0; i < 5; i++)
        SAME(i == 2 ? "leased" : "gone", state_of(ids[i]));
    OK(pgqrs_message_delete(T.store, ids + 2, 1, false, NULL));
    STATE("leased", ids[2]);
    OK(pgqrs_message_delete(T.store, NULL, 0, false, NULL));
}

static void message_delete_by_force_takes_the_lease(void)
{
    int64_t ids[4];
    pgqrs_result results[1];
    const pgqrs_messages *got;
    put_batch(T.queue, 4, 0, ids);
    got = take_many(4);
    OK(pgqrs_message_delete(T.store, ids + 1, 1, true, results));
    RESULT(PGQRS_OK, results[0]);
    STATE("gone", ids[1]);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, &got->items[1]));
    OK(pgqrs_archive(T.store, &got->items[0]));
    OK(pgqrs_archive(T.store, &got->items[2]));
    advance_ms(TEST_LEASE_MS + 1);
    EQ(ids[3], must_take()->id);
    YES(take() == NULL);
}

static void message_delete_takes_a_message_whose_lease_ran_out(void)
{
    int64_t id = put();
    pgqrs_result result = PGQRS_ERR_INTERNAL;
    must_take();
    advance_ms(TEST_LEASE_MS + 1);
    OK(pgqrs_message_delete(T.store, &id, 1, false, &result));
    RESULT(PGQRS_OK, result);
    STATE("gone", id);
    YES(take() == NULL);
}

static void message_delete_of_the_same_id_twice(void)
{
    int64_t ids[2];
    pgqrs_result results[2];
    ids[0] = ids[1] = put();
    OK(pgqrs_message_delete(T.store, ids, 2, false, results));
    RESULT(PGQRS_OK, results[0]);
    YES(results[1] == PGQRS_OK || results[1] == PGQRS_ERR_MESSAGE_NOT_FOUND);
    NUMBERS(0, 0, 0, 0, 0);
}

static void message_update_replaces_the_payload(void)
{
    int64_t id = put(), delayed = put_as((pgqrs_enqueue_desc){.delay_ms = 1000});
    OK(pgqrs_message_update(T.store, id, "{\"new\":true}", 12));
    OK(pgqrs_message_update(T.store, delayed, "[2] and more", 3));
    SAME("{\"new\":true}", must_look(id)->payload);
    SAME("[2]", must_look(delayed)->payload);
    EQ(3, must_look(delayed)->payload_size);
    SAME("{\"new\":true}", must_take()->payload);
}

static void message_update_measures_the_payload_when_asked(void)
{
    int64_t id = put();
    OK(pgqrs_message_update(T.store, id, "[1,2]", 0));
    SAME("[1,2]", must_look(id)->payload);
}

static void message_update_inside_a_batch_changes_only_one(void)
{
    int64_t ids[5];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 5, 0, ids);
    OK(pgqrs_message_update(T.store, ids[2], "7", 1));
    got = take_many(5);
    EQ(5, got->count);
    for (i = 0; i < 5; i++) {
        EQ(ids[i], got->items[i].id);
        SAME(i == 2 ? "7" : SECRET_PAYLOAD, got->items[i].payload);
    }
}

static void message_update_refuses_what_was_started_or_finished(void)
{
    int64_t ids[5], started = put();
    OK(pgqrs_release(T.store, must_take(), NULL));
    FAILS(ERR_MESSAGE_STATE, pgqrs_message_update(T.store, started, "1", 1));
    OK(pgqrs_message_delete(T.store, &started, 1, false, NULL));
    purge_fills(ids);
    FAILS(ERR_MESSAGE_STATE, pgqrs_message_update(T.store, ids[0], "1", 1));
    FAILS(ERR_MESSAGE_STATE, pgqrs_message_update(T.store, ids[1], "1", 1));
    FAILS(ERR_MESSAGE_STATE, pgqrs_message_update(T.store, ids[2], "1", 1));
    FAILS(ERR_MESSAGE_NOT_FOUND, pgqrs_message_update(T.store, INT64_C(987654321012), "1", 1));
    SAME(SECRET_PAYLOAD, must_look(ids[0])->payload);
    SAME(SECRET_PAYLOAD, must_look(ids[2])->payload);
}

static void message_update_is_validated(void)
{
    int64_t id = put();
    char *large = json_string_of(1024 * 1024 + 1);
    pgqrs_result result = pgqrs_message_update(T.store, id, large, 1024 * 1024 + 1);
    free(large);
    FAILS(ERR_PAYLOAD_TOO_LARGE, result);
    FAILS(ERR_JSON, pgqrs_message_update(T.store, id, "{", 1));
    SAME(SECRET_PAYLOAD, must_look(id)->payload);
}

static void replay_makes_a_dead_letter_new_again(void)
{
    int64_t id = put(), other;
    const pgqrs_message *message;
    int i;
    for (i = 0; i < TEST_MAX_ATTEMPTS; i++)
        OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.reason = "r"}));
    STATE("dead", id);
    other = put();
    OK(pgqrs_message_replay(T.store, id));
    message = must_look(id);
    EQ(PGQRS_READY, message->state);
    EQ(0, message->attempt);
    EQ(0, message->finished_at_us);
    EQ(other, must_take()->id);
    message = must_take();
    EQ(id, message->id);
    EQ(1, message->attempt);
    SAME(SECRET_PAYLOAD, message->payload);
    for (i = 1; i < TEST_MAX_ATTEMPTS; i++) {
        OK(pgqrs_release(T.store, message, NULL));
        message = must_take();
        EQ(i + 1, message->attempt);
    }
    OK(pgqrs_archive(T.store, message));
    STATE("archived", id);
}

static void replay_of_an_archived_message(void)
{
    int64_t ids[5];
    const pgqrs_messages *got;
    put_batch(T.queue, 5, 0, ids);
    got = take_many(5);
    OK(pgqrs_archive_many(T.store, got->items, 5, NULL));
    OK(pgqrs_message_replay(T.store, ids[3]));
    NUMBERS(1, 0, 0, 4, 0);
    EQ(ids[3], must_take()->id);
    YES(take() == NULL);
}

static void replay_of_an_expired_message_delivers_it(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.expire_ms = 10});
    advance_ms(20);
    YES(take() == NULL);
    STATE("archived", id);
    OK(pgqrs_message_replay(T.store, id));
    EQ(id, must_take()->id);
}

static void replay_refuses_other_states(void)
{
    int64_t ids[5];
    purge_fills(ids);
    FAILS(ERR_MESSAGE_STATE, pgqrs_message_replay(T.store, ids[2]));
    FAILS(ERR_MESSAGE_STATE, pgqrs_message_replay(T.store, ids[3]));
    FAILS(ERR_MESSAGE_STATE, pgqrs_message_replay(T.store, ids[4]));
    FAILS(ERR_MESSAGE_NOT_FOUND, pgqrs_message_replay(T.store, INT64_C(987654321012)));
    NUMBERS(1, 1, 1, 1, 1);
}

static void replay_respects_the_deduplication_key(void)
{
    int64_t old = put_as((pgqrs_enqueue_desc){.dedup_key = "k"}), fresh;
    OK(pgqrs_reject(T.store, must_take(), NULL));
    fresh = put_as((pgqrs_enqueue_desc){.dedup_key = "k"});
    FAILS(ERR_DUPLICATE, pgqrs_message_replay(T.store, old));
    STATE("dead", old);
    OK(pgqrs_archive(T.store, must_take()));
    STATE("archived", fresh);
    OK(pgqrs_message_replay(T.store, old));
    STATE("ready", old);
    YES(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
}

static void replay_many_tells_about_each(void)
{
    int64_t ids[7];
    pgqrs_result results[7];
    purge_fills(ids);
    ids[5] = INT64_C(987654321012);
    ids[6] = ids[0];
    OK(pgqrs_message_replay_many(T.store, ids, 7, results));
    RESULT(PGQRS_OK, results[0]);
    RESULT(PGQRS_OK, results[1]);
    RESULT(PGQRS_ERR_MESSAGE_STATE, results[2]);
    RESULT(PGQRS_ERR_MESSAGE_STATE, results[3]);
    RESULT(PGQRS_ERR_MESSAGE_STATE, results[4]);
    RESULT(PGQRS_ERR_MESSAGE_NOT_FOUND, results[5]);
    YES(results[6] == PGQRS_OK || results[6] == PGQRS_ERR_MESSAGE_STATE);
    NUMBERS(3, 1, 1, 0, 0);
    OK(pgqrs_message_replay_many(T.store, ids, 2, NULL));
    OK(pgqrs_message_replay_many(T.store, NULL, 0, NULL));
    NUMBERS(3, 1, 1, 0, 0);
}

static void replay_many_of_two_with_the_same_key_lets_one_through(void)
{
    int64_t ids[2];
    pgqrs_result results[2];
    int i;
    for (i = 0; i < 2; i++) {
        ids[i] = put_as((pgqrs_enqueue_desc){.dedup_key = "k"});
        OK(pgqrs_reject(T.store, must_take(), NULL));
    }
    OK(pgqrs_message_replay_many(T.store, ids, 2, results));
    RESULT(PGQRS_OK, results[0]);
    RESULT(PGQRS_ERR_DUPLICATE, results[1]);
    NUMBERS(1, 0, 0, 0, 1);
}

static void replayed_message_has_a_new_lease(void)
{
    const pgqrs_message *old;
    int64_t id = put();
    old = must_take();
    OK(pgqrs_reject(T.store, old, NULL));
    OK(pgqrs_message_replay(T.store, id));
    YES(must_take()->lease != old->lease);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, old));
}

static void dead_list_shows_reasons_and_pages(void)
{
    int64_t ids[7], after = 0;
    size_t i, seen = 0;
    for (i = 0; i < 7; i++) {
        char reason[32];
        ids[i] = put();
        snprintf(reason, sizeof(reason), "reason %d", (int)i);
        OK(pgqrs_reject(T.store, must_take(), reason));
    }
    put();
    for (;;) {
        pgqrs_messages *page = NULL;
        OK(pgqrs_dead_list(T.store, T.queue, after, 3, &page));
        keep(page);
        if (page->count == 0)
            break;
        for (i = 0; i < page->count; i++, seen++) {
            char reason[32];
            YES(seen < 7);
            EQ(ids[6 - seen], page->items[i].id);
            EQ(PGQRS_DEAD, page->items[i].state);
            snprintf(reason, sizeof(reason), "reason %d", (int)(6 - seen));
            SAME(reason, page->items[i].reason);
            after = page->items[i].id;
        }
    }
    EQ(7, seen);
}

static void dead_replay_all_replays_the_queue(void)
{
    const char *other = another_queue("other");
    int64_t replayed = -1, elsewhere = put_into(other, "1", (pgqrs_enqueue_desc){0}).id, stays;
    const pgqrs_messages *got;
    size_t i;
    OK(pgqrs_reject(T.store, take_with(T.store, other, (pgqrs_dequeue_desc){0}), NULL));
    put_batch(T.queue, 150, 0, NULL);
    got = take_many(150);
    for (i = 0; i < got->count; i++)
        OK(pgqrs_reject(T.store, &got->items[i], NULL));
    stays = put_as((pgqrs_enqueue_desc){.dedup_key = "k"});
    OK(pgqrs_reject(T.store, must_take(), NULL));
    put_as((pgqrs_enqueue_desc){.dedup_key = "k"});
    OK(pgqrs_dead_replay_all(T.store, T.queue, &replayed));
    EQ(150, replayed);
    NUMBERS(151, 0, 0, 0, 1);
    STATE("dead", stays);
    STATE("dead", elsewhere);
    OK(pgqrs_dead_replay_all(T.store, T.queue, NULL));
    EQ(151, take_many(1000)->count);
}

static pgqrs_explanation explain(int64_t id)
{
    pgqrs_explanation why;
    memset(&why, 0x5A, sizeof(why));
    OK(pgqrs_message_explain(T.store, id, &why));
    check_error_text(why.text, "pgqrs_message_explain", __FILE__, __LINE__);
    return why;
}

static void explain_knows_every_reason(void)
{
    pgqrs_worker_ref worker;
    pgqrs_explanation why;
    int64_t id = put();
    why = explain(id);
    EQ(PGQRS_WHY_NO_WORKER, why.reason);
    EQ(0, why.until_us);
    worker = enlist(unique("w"), T.queue);
    why = explain(id);
    EQ(PGQRS_WHY_NEXT, why.reason);
    OK(pgqrs_queue_pause(T.store, T.queue));
    why = explain(id);
    EQ(PGQRS_WHY_PAUSED, why.reason);
    OK(pgqrs_queue_resume(T.store, T.queue));
    assert_non_null(take_as((pgqrs_dequeue_desc){.worker = worker}));
    why = explain(id);
    EQ(PGQRS_WHY_LEASED, why.reason);
    EQ(worker.id, why.worker_id);
    EQ(T.now_us + TEST_LEASE_MS * INT64_C(1000), why.until_us);
    advance_ms(TEST_LEASE_MS + 1);
    why = explain(id);
    EQ(PGQRS_WHY_LEASE_OVER, why.reason);
    OK(pgqrs_retry(T.store, must_take(), "r"));
    why = explain(id);
    EQ(PGQRS_WHY_DELAYED, why.reason);
    EQ(must_look(id)->due_at_us, why.until_us);
    T.now_us = why.until_us;
    OK(pgqrs_reject(T.store, must_take(), "hopeless case"));
    why = explain(id);
    EQ(PGQRS_WHY_DEAD, why.reason);
    EQ(0, why.until_us);
    YES(strstr(why.text, "hopeless case") != NULL);
    OK(pgqrs_message_replay(T.store, id));
    OK(pgqrs_archive(T.store, must_take()));
    why = explain(id);
    EQ(PGQRS_WHY_ARCHIVED, why.reason);
    OK(pgqrs_message_delete(T.store, &id, 1, false, NULL));
    why = explain(id);
    EQ(PGQRS_WHY_UNKNOWN_ID, why.reason);
    EQ(0, why.worker_id);
}

static void explain_knows_expired_before_and_after_archiving(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.expire_ms = 1000});
    advance_ms(1001);
    EQ(PGQRS_WHY_EXPIRED, explain(id).reason);
    YES(take() == NULL);
    EQ(PGQRS_WHY_EXPIRED, explain(id).reason);
    STATE("archived", id);
}

static void explain_a_delayed_message_before_its_time(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.delay_ms = 5000});
    pgqrs_explanation why = explain(id);
    EQ(PGQRS_WHY_DELAYED, why.reason);
    EQ(T.now_us + 5 * SECOND_US, why.until_us);
    advance_ms(5000);
    EQ(PGQRS_WHY_NO_WORKER, explain(id).reason);
}

static void explain_a_message_held_by_nobody_registered(void)
{
    int64_t id = put();
    must_take();
    EQ(PGQRS_WHY_LEASED, explain(id).reason);
    EQ(0, explain(id).worker_id);
}

static void metrics_follow_every_change(void)
{
    pgqrs_queue_metrics seen;
    int64_t first_at = T.now_us;
    int64_t id;
    NUMBERS(0, 0, 0, 0, 0);
    seen = numbers();
    EQ(0, seen.oldest_ready_ms);
    EQ(0, seen.oldest_unfinished_at_us);
    EQ(0, seen.newest_at_us);
    EQ(0, seen.lease_expiries);
    NO(seen.paused);
    id = put();
    NUMBERS(1, 0, 0, 0, 0);
    advance_ms(1500);
    put_as((pgqrs_enqueue_desc){.delay_ms = 60000});
    seen = numbers();
    EQ(1500, seen.oldest_ready_ms);
    EQ(first_at, seen.oldest_unfinished_at_us);
    EQ(T.now_us, seen.newest_at_us);
    NUMBERS(1, 1, 0, 0, 0);
    must_take();
    NUMBERS(0, 1, 1, 0, 0);
    EQ(0, numbers().oldest_ready_ms);
    EQ(first_at, numbers().oldest_unfinished_at_us);
    advance_ms(TEST_LEASE_MS + 1);
    NUMBERS(1, 1, 0, 0, 0);
    EQ(TEST_LEASE_MS + 1501, numbers().oldest_ready_ms);
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.delay_ms = 1000}));
    EQ(1, numbers().lease_expiries);
    NUMBERS(0, 2, 0, 0, 0);
    advance_ms(1000);
    OK(pgqrs_archive(T.store, must_take()));
    NUMBERS(0, 1, 0, 1, 0);
    EQ(2, numbers().total);
    OK(pgqrs_message_replay(T.store, id));
    OK(pgqrs_reject(T.store, must_take(), NULL));
    NUMBERS(0, 1, 0, 0, 1);
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, NULL));
    NUMBERS(0, 0, 0, 0, 0);
    EQ(1, numbers().lease_expiries);
    EQ(0, numbers().oldest_unfinished_at_us);
}

static void metrics_agree_with_counting(void)
{
    static const pgqrs_state states[] = {PGQRS_READY, PGQRS_DELAYED, PGQRS_LEASED, PGQRS_ARCHIVED, PGQRS_DEAD};
    int i;
    size_t j;
    for (i = 0; i < 200; i++) {
        const pgqrs_messages *got;
        pgqrs_queue_metrics seen;
        int64_t sums[5];
        switch (test_random(NULL) % 8) {
        case 0:
            put_batch(T.queue, 1 + test_random(NULL) % 9, (int32_t)(test_random(NULL) % 3), NULL);
            break;
        case 1:
            put_as((pgqrs_enqueue_desc){.delay_ms = (int64_t)(test_random(NULL) % 20000)});
            break;
        case 2:
            put_as((pgqrs_enqueue_desc){.expire_ms = 1 + (int64_t)(test_random(NULL) % 20000)});
            break;
        case 3:
            advance_ms((int64_t)(test_random(NULL) % 15000));
            break;
        default: {
            pgqrs_settlement items[8];
            got = take_many(1 + test_random(NULL) % 8);
            for (j = 0; j < got->count; j++)
                items[j] = pgqrs_settlement_for(&got->items[j], (pgqrs_verdict)(1 + test_random(NULL) % 6));
            OK(pgqrs_settle(T.store, items, got->count - got->count / 3, NULL, NULL, NULL));
            break;
        }
        }
        if (i % 5 != 0)
            continue;
        seen = numbers();
        for (j = 0; j < 5; j++) {
            pgqrs_message_filter filter = {.queue = T.queue, .state = states[j]};
            sums[j] = count_where(filter);
        }
        EQ(sums[0], seen.ready);
        EQ(sums[1], seen.delayed);
        EQ(sums[2], seen.leased);
        EQ(sums[3], seen.archived);
        EQ(sums[4], seen.dead);
        EQ(count_where((pgqrs_message_filter){.queue = T.queue}), seen.total);
    }
    OK(pgqrs_verify(T.store));
}

static void metrics_of_all_queues_are_listed_by_id(void)
{
    const char *other = another_queue("other");
    pgqrs_metrics *metrics = NULL;
    put();
    put_into(other, "1", (pgqrs_enqueue_desc){.delay_ms = 5});
    OK(pgqrs_metrics_get(T.store, NULL, &metrics));
    keep(metrics);
    EQ(2, metrics->count);
    SAME(T.queue, metrics->items[0].queue);
    EQ(1, metrics->items[0].ready);
    SAME(other, metrics->items[1].queue);
    EQ(1, metrics->items[1].delayed);
}

static void metrics_refuse_bad_arguments(void)
{
    pgqrs_metrics *metrics = NULL;
    pgqrs_worker_stats stats;
    pgqrs_system_metrics system;
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_metrics_get(T.store, "nowhere", &metrics));
    YES(metrics == NULL);
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_metrics_get(T.store, T.queue, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_system_metrics_get(T.store, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_worker_stats_get(T.store, NULL, 0, NULL));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_worker_stats_get(T.store, NULL, -1, &stats));
    FAILS(ERR_QUEUE_NOT_FOUND, pgqrs_worker_stats_get(T.store, "nowhere", 0, &stats));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_metrics_get(NULL, NULL, &metrics));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_system_metrics_get(NULL, &system));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_worker_stats_get(NULL, NULL, 0, &stats));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_maintain(NULL, NULL));
}

static void system_metrics_sum_the_queues(void)
{
    const char *other = another_queue("other");
    pgqrs_system_metrics system;
    int64_t ids[5];
    purge_fills(ids);
    put_into(other, "1", (pgqrs_enqueue_desc){0});
    put_into(other, "1", (pgqrs_enqueue_desc){0});
    assert_non_null(take_with(T.store, other, (pgqrs_dequeue_desc){0}));
    enlist("w", NULL);
    OK(pgqrs_system_metrics_get(T.store, &system));
    EQ(PGQRS_SCHEMA_VERSION, system.schema_version);
    EQ(2, system.queues);
    EQ(7, system.total);
    EQ(2, system.ready);
    EQ(1, system.delayed);
    EQ(2, system.leased);
    EQ(1, system.archived);
    EQ(1, system.dead);
    EQ(0, system.lease_expiries);
    EQ(1, system.workers.total);
    EQ(1, system.workers.ready);
    advance_ms(TEST_LEASE_MS + 1);
    EQ(2, take_many(5)->count);
    OK(pgqrs_system_metrics_get(T.store, &system));
    EQ(1, system.lease_expiries);
}

static void system_metrics_of_nothing(void)
{
    pgqrs_system_metrics system;
    memset(&system, 0x5A, sizeof(system));
    OK(pgqrs_system_metrics_get(T.store, &system));
    EQ(0, system.queues);
    EQ(0, system.total);
    EQ(0, system.workers.total);
    EQ(0, system.workers.newest_heartbeat_ms);
    EQ(0, system.workers.oldest_ms);
}

static const test_case inspect_cases[] = {
    CASE(get_of_an_unknown_message_is_nothing, PLAIN),
    CASE(get_shows_everything, PLAIN),
    CASE(inspection_refuses_missing_arguments, PLAIN),
    CASE(inspection_refuses_filters_out_of_range, PLAIN),
    CASE(inspection_names_the_unknown_queue, PLAIN),
    CASE(lists_page_through_every_state, PLAIN),
    CASE(lists_show_the_state_asked_for, PLAIN),
    CASE(lists_follow_the_moving_time, PLAIN),
    CASE(lists_filter_by_enqueue_time, PLAIN),
    CASE(lists_filter_by_worker, PLAIN),
    CASE(lists_without_a_filter_show_all_queues, FRESH),
    CASE(lists_take_100_by_default, PLAIN),
    CASE(message_delete_takes_any_state_but_leased, PLAIN),
    CASE(message_delete_by_force_takes_the_lease, PLAIN),
    CASE(message_delete_takes_a_message_whose_lease_ran_out, PLAIN),
    CASE(message_delete_of_the_same_id_twice, PLAIN),
    CASE(message_update_replaces_the_payload, PLAIN),
    CASE(message_update_measures_the_payload_when_asked, PLAIN),
    CASE(message_update_inside_a_batch_changes_only_one, PLAIN),
    CASE(message_update_refuses_what_was_started_or_finished, PLAIN),
    CASE(message_update_is_validated, PLAIN),
    CASE(replay_makes_a_dead_letter_new_again, PLAIN),
    CASE(replay_of_an_archived_message, PLAIN),
    CASE(replay_of_an_expired_message_delivers_it, PLAIN),
    CASE(replay_refuses_other_states, PLAIN),
    CASE(replay_respects_the_deduplication_key, PLAIN),
    CASE(replay_many_tells_about_each, PLAIN),
    CASE(replay_many_of_two_with_the_same_key_lets_one_through, PLAIN),
    CASE(replayed_message_has_a_new_lease, PLAIN),
    CASE(dead_list_shows_reasons_and_pages, PLAIN),
    CASE(dead_replay_all_replays_the_queue, PLAIN),
    CASE(explain_knows_every_reason, PLAIN),
    CASE(explain_knows_expired_before_and_after_archiving, PLAIN),
    CASE(explain_a_delayed_message_before_its_time, PLAIN),
    CASE(explain_a_message_held_by_nobody_registered, PLAIN),
    CASE(metrics_follow_every_change, PLAIN),
    CASE(metrics_agree_with_counting, PLAIN),
    CASE(metrics_of_all_queues_are_listed_by_id, FRESH),
    CASE(metrics_refuse_bad_arguments, PLAIN),
    CASE(system_metrics_sum_the_queues, FRESH),
    CASE(system_metrics_of_nothing, FRESH | NO_QUEUE),
};
