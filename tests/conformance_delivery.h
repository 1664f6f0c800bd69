/* Dequeueing and settling: order, leases, attempts, dead letters, verdicts. */

static void dequeue_of_nothing_is_fine(void)
{
    pgqrs_message *message = (pgqrs_message *)&message;
    pgqrs_messages *messages = NULL;
    OK(pgqrs_dequeue(T.store, T.queue, NULL, &message));
    YES(message == NULL);
    OK(pgqrs_dequeue_many(T.store, T.queue, NULL, &messages));
    assert_non_null(messages);
    keep(messages);
    EQ(0, messages->count);
}

static void dequeue_fills_the_message(void)
{
    int64_t id, enqueued_at = T.now_us;
    const pgqrs_message *message;
    id = put_as((pgqrs_enqueue_desc){.priority = -7});
    advance_ms(250);
    message = must_take();
    EQ(id, message->id);
    YES(message->lease != 0);
    SAME(SECRET_PAYLOAD, message->payload);
    EQ(strlen(SECRET_PAYLOAD), message->payload_size);
    SAME(T.queue, message->queue);
    EQ(1, message->attempt);
    EQ(-7, message->priority);
    EQ(enqueued_at, message->enqueued_at_us);
    EQ(T.now_us + TEST_LEASE_MS * INT64_C(1000), message->lease_until_us);
    EQ(1, message->lease_size);
    EQ(0, message->worker_id);
    YES(message->delivery == NULL);
}

static void dequeue_from_an_unknown_queue_names_it(void)
{
    pgqrs_message *message = NULL;
    pgqrs_messages *messages = NULL;
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_dequeue(T.store, "nowhere", NULL, &message));
    YES(message == NULL);
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_dequeue_many(T.store, "nowhere", NULL, &messages));
    YES(messages == NULL);
}

static void dequeue_refuses_missing_arguments(void)
{
    pgqrs_message *message = NULL;
    pgqrs_messages *messages = NULL;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_dequeue(T.store, NULL, NULL, &message));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_dequeue(T.store, T.queue, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_dequeue_many(T.store, NULL, NULL, &messages));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_dequeue_many(T.store, T.queue, NULL, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_dequeue(NULL, T.queue, NULL, &message));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_dequeue_many(NULL, T.queue, NULL, &messages));
}

static void dequeue_refuses_settings_out_of_range(void)
{
    const pgqrs_dequeue_desc wrong[] = {
        {.limit = 10001},
        {.limit = (size_t)-1},
        {.lease_ms = -1},
        {.lease_ms = INT64_MIN},
        {.lease_ms = INT64_MAX},
        {.lease_ms = INT64_C(11) * 366 * 86400 * 1000},
        {.wait_ms = -1},
        {.wait_ms = INT64_MIN},
    };
    size_t i;
    put();
    for (i = 0; i < COUNT_OF(wrong); i++) {
        pgqrs_messages *messages = NULL;
        pgqrs_result result = pgqrs_dequeue_many(T.store, T.queue, &wrong[i], &messages);
        if (result != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "desc %d gave %s", (int)i, pgqrs_result_name(result));
        FAILS(ERR_INVALID_ARGUMENT, result);
        YES(messages == NULL);
    }
    NUMBERS(1, 0, 0, 0, 0);
}

static void dequeue_limit_0_is_the_stores_batch(void)
{
    put_batch(T.queue, 20, 0, NULL);
    EQ(pgqrs_store_settings(T.store)->default_batch, take_many(0)->count);
}

static void dequeue_takes_no_more_than_the_limit(void)
{
    put_batch(T.queue, 7, 0, NULL);
    EQ(3, take_many(3)->count);
    EQ(3, take_many(3)->count);
    EQ(1, take_many(3)->count);
    EQ(0, take_many(3)->count);
}

static void order_is_enqueue_order(void)
{
    int64_t ids[30];
    int i;
    for (i = 0; i < 30; i++)
        ids[i] = put();
    for (i = 0; i < 30; i++)
        EQ(ids[i], must_take()->id);
}

static void order_of_a_batch_is_delivery_order(void)
{
    int64_t ids[30];
    const pgqrs_messages *got;
    size_t i;
    for (i = 0; i < 30; i++)
        ids[i] = put();
    got = take_many(30);
    EQ(30, got->count);
    for (i = 0; i < 30; i++)
        EQ(ids[i], got->items[i].id);
}

static void order_is_priority_first(void)
{
    static const int32_t priorities[] = {0, 5, -5, 32767, 5, 0, -32768, -5, 1};
    static const size_t expected[] = {3, 1, 4, 8, 0, 5, 2, 7, 6};
    int64_t ids[COUNT_OF(priorities)];
    const pgqrs_messages *got;
    size_t i;
    for (i = 0; i < COUNT_OF(priorities); i++)
        ids[i] = put_as((pgqrs_enqueue_desc){.priority = priorities[i]});
    got = take_many(100);
    EQ(COUNT_OF(priorities), got->count);
    for (i = 0; i < got->count; i++) {
        EQ(ids[expected[i]], got->items[i].id);
        EQ(priorities[expected[i]], got->items[i].priority);
    }
}

static void order_is_priority_first_in_single_claims(void)
{
    int64_t low = put_as((pgqrs_enqueue_desc){.priority = -1}), first = put(), second = put();
    int64_t high = put_as((pgqrs_enqueue_desc){.priority = 1});
    EQ(high, must_take()->id);
    EQ(first, must_take()->id);
    EQ(second, must_take()->id);
    EQ(low, must_take()->id);
}

static void order_inside_a_batch_of_mixed_priorities(void)
{
    static const int32_t priorities[] = {1, 1, 0, 2, 1, 0, 0, 2};
    static const size_t expected[] = {3, 7, 0, 1, 4, 2, 5, 6};
    pgqrs_enqueue_item items[COUNT_OF(priorities)];
    pgqrs_receipt receipts[COUNT_OF(priorities)];
    const pgqrs_messages *got;
    size_t i;
    memset(items, 0, sizeof(items));
    for (i = 0; i < COUNT_OF(items); i++) {
        items[i].payload = "1";
        items[i].desc.priority = priorities[i];
    }
    OK(pgqrs_enqueue_many(T.store, T.queue, items, COUNT_OF(items), receipts));
    got = take_many(5);
    EQ(5, got->count);
    for (i = 0; i < 5; i++)
        EQ(receipts[expected[i]].id, got->items[i].id);
    got = take_many(5);
    EQ(3, got->count);
    for (i = 0; i < 3; i++)
        EQ(receipts[expected[5 + i]].id, got->items[i].id);
}

static void order_over_batches_of_different_size(void)
{
    int64_t ids[60];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 50, 0, ids);
    put_batch(T.queue, 10, 0, ids + 50);
    got = take_many(60);
    EQ(60, got->count);
    for (i = 0; i < 60; i++)
        EQ(ids[i], got->items[i].id);
}

static void order_over_batches_in_odd_portions(void)
{
    static const size_t batches[] = {1, 120, 3, 51, 1, 1, 49, 7};
    static const size_t limits[] = {2, 57, 1, 60, 3, 110};
    int64_t ids[233];
    size_t i, j, put_count = 0, got_count = 0;
    for (i = 0; i < COUNT_OF(batches); i++) {
        put_batch(T.queue, batches[i], 0, ids + put_count);
        put_count += batches[i];
    }
    EQ(COUNT_OF(ids), put_count);
    for (i = 0; i < COUNT_OF(limits); i++) {
        const pgqrs_messages *got = take_many(limits[i]);
        EQ(limits[i], got->count);
        for (j = 0; j < got->count; j++)
            EQ(ids[got_count + j], got->items[j].id);
        got_count += got->count;
    }
    EQ(put_count, got_count);
    EQ(0, take_many(10)->count);
}

static void order_of_batches_with_priorities(void)
{
    int64_t low[60], high[60];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 60, -3, low);
    put_batch(T.queue, 60, 3, high);
    got = take_many(90);
    EQ(90, got->count);
    for (i = 0; i < 60; i++)
        EQ(high[i], got->items[i].id);
    for (i = 0; i < 30; i++)
        EQ(low[i], got->items[60 + i].id);
    got = take_many(90);
    EQ(30, got->count);
    for (i = 0; i < 30; i++)
        EQ(low[30 + i], got->items[i].id);
}

static void order_puts_a_retried_message_at_the_tail(void)
{
    int64_t first = put(), second = put(), third = put();
    OK(pgqrs_release(T.store, must_take(), NULL));
    EQ(second, must_take()->id);
    EQ(third, must_take()->id);
    EQ(first, must_take()->id);
}

static void order_puts_it_at_the_tail_of_its_priority(void)
{
    int64_t first = put_as((pgqrs_enqueue_desc){.priority = 1});
    int64_t second = put_as((pgqrs_enqueue_desc){.priority = 1}), low = put();
    OK(pgqrs_release(T.store, must_take(), NULL));
    EQ(second, must_take()->id);
    EQ(first, must_take()->id);
    EQ(low, must_take()->id);
}

static void order_takes_a_message_out_of_the_middle_of_a_batch(void)
{
    int64_t ids[10];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 10, 0, ids);
    OK(pgqrs_message_delete(T.store, &ids[4], 1, false, NULL));
    got = take_many(20);
    EQ(9, got->count);
    for (i = 0; i < 9; i++)
        EQ(ids[i < 4 ? i : i + 1], got->items[i].id);
}

static void messages_of_one_claim_share_the_lease_time(void)
{
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 12, 0, NULL);
    got = take_many(12);
    for (i = 0; i < got->count; i++) {
        EQ(T.now_us + TEST_LEASE_MS * INT64_C(1000), got->items[i].lease_until_us);
        YES(got->items[i].lease != 0);
        BETWEEN(1, 12, got->items[i].lease_size);
    }
}

static void leased_message_is_not_delivered_to_others(void)
{
    pgqrs_store *other = another_store();
    int64_t id = put();
    EQ(id, must_take()->id);
    YES(take_with(other, T.queue, (pgqrs_dequeue_desc){0}) == NULL);
    advance_ms(TEST_LEASE_MS - 1);
    YES(take_with(other, T.queue, (pgqrs_dequeue_desc){0}) == NULL);
    YES(take() == NULL);
    STATE("leased", id);
}

static void consumers_taking_turns_never_share_a_message(void)
{
    enum { many = 60 };
    pgqrs_store *stores[3];
    bool seen[many];
    int64_t ids[many];
    size_t i, j, total = 0, empty = 0;
    stores[0] = T.store;
    stores[1] = another_store();
    stores[2] = another_store();
    memset(seen, 0, sizeof(seen));
    put_batch(T.queue, many, 0, ids);
    for (i = 0; empty < 3; i++) {
        const pgqrs_messages *got =
            take_many_with(stores[i % 3], T.queue, (pgqrs_dequeue_desc){.limit = 1 + (size_t)(i % 4)});
        empty = got->count ? 0 : empty + 1;
        for (j = 0; j < got->count; j++) {
            BETWEEN(ids[0], ids[many - 1], got->items[j].id);
            NO(seen[got->items[j].id - ids[0]]);
            seen[got->items[j].id - ids[0]] = true;
            total++;
        }
    }
    EQ(many, total);
}

static void any_store_may_settle_a_lease(void)
{
    pgqrs_store *other = another_store();
    int64_t id = put();
    OK_ON(other, pgqrs_archive(other, must_take()));
    STATE("archived", id);
}

static void lease_of_the_call_wins_over_the_queues(void)
{
    put_batch(T.queue, 2, 0, NULL);
    EQ(T.now_us + 1000, take_as((pgqrs_dequeue_desc){.lease_ms = 1})->lease_until_us);
    EQ(T.now_us + 3600 * SECOND_US, take_as((pgqrs_dequeue_desc){.lease_ms = 3600000})->lease_until_us);
}

static void lease_of_ten_years_is_allowed(void)
{
    int64_t ten_years = INT64_C(3650) * 86400 * 1000;
    put();
    EQ(T.now_us + ten_years * 1000, take_as((pgqrs_dequeue_desc){.lease_ms = ten_years})->lease_until_us);
}

static void expired_lease_redelivers_by_itself(void)
{
    int64_t id = put();
    const pgqrs_message *first = must_take(), *second;
    advance_ms(TEST_LEASE_MS + 1);
    second = must_take();
    EQ(id, second->id);
    EQ(2, second->attempt);
    YES(second->lease != first->lease);
    SAME(SECRET_PAYLOAD, second->payload);
    EQ(first->enqueued_at_us, second->enqueued_at_us);
}

static void expired_lease_shows_as_ready(void)
{
    int64_t id = put();
    must_take();
    advance_ms(TEST_LEASE_MS + 1);
    STATE("ready", id);
    NUMBERS(1, 0, 0, 0, 0);
}

static void expired_lease_of_a_batch_redelivers_all(void)
{
    int64_t ids[60];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 60, 0, ids);
    EQ(60, take_many(60)->count);
    advance_ms(TEST_LEASE_MS + 1);
    got = take_many(100);
    EQ(60, got->count);
    for (i = 0; i < 60; i++) {
        EQ(ids[i], got->items[i].id);
        EQ(2, got->items[i].attempt);
    }
}

static void expired_lease_of_a_partly_settled_batch_redelivers_the_rest(void)
{
    int64_t ids[6];
    const pgqrs_messages *got;
    put_batch(T.queue, 6, 0, ids);
    got = take_many(6);
    OK(pgqrs_archive(T.store, &got->items[1]));
    OK(pgqrs_delete(T.store, &got->items[4]));
    OK(pgqrs_release(T.store, &got->items[0], &(pgqrs_release_desc){.delay_ms = 3600000}));
    advance_ms(TEST_LEASE_MS + 1);
    got = take_many(10);
    EQ(3, got->count);
    EQ(ids[2], got->items[0].id);
    EQ(ids[3], got->items[1].id);
    EQ(ids[5], got->items[2].id);
    STATE("archived", ids[1]);
    STATE("gone", ids[4]);
    STATE("delayed", ids[0]);
}

static void expired_lease_has_a_reason(void)
{
    int64_t id = put();
    must_take();
    advance_ms(TEST_LEASE_MS + 1);
    must_take();
    YES(must_look(id)->reason != NULL);
    YES(strstr(must_look(id)->reason, "lease") != NULL);
}

static void leases_of_many_consumers_expire_together(void)
{
    enum { many = 300 };
    size_t i, got = 0;
    put_batch(T.queue, many, 0, NULL);
    for (i = 0; i < many; i++)
        must_take();
    advance_ms(TEST_LEASE_MS + 1);
    for (i = 0; i < 50 && got < many; i++)
        got += take_many(many)->count;
    EQ(many, got);
    EQ(0, take_many(10)->count);
}

static void stale_lease_changes_nothing(void)
{
    int64_t id = put();
    const pgqrs_message *old = must_take(), *fresh;
    pgqrs_message before;
    pgqrs_settlement item;
    int i;
    advance_ms(TEST_LEASE_MS + 1);
    fresh = must_take();
    before = *must_look(id);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, old));
    FAILS(ERR_LEASE_LOST, pgqrs_delete(T.store, old));
    FAILS(ERR_LEASE_LOST, pgqrs_retry(T.store, old, "late"));
    FAILS(ERR_LEASE_LOST, pgqrs_reject(T.store, old, "late"));
    FAILS(ERR_LEASE_LOST, pgqrs_release(T.store, old, NULL));
    FAILS(ERR_LEASE_LOST, pgqrs_release(T.store, old, &(pgqrs_release_desc){.give_back = true}));
    FAILS(ERR_LEASE_LOST, pgqrs_extend(T.store, old, 3600000));
    for (i = PGQRS_ARCHIVE; i <= PGQRS_REJECT; i++) {
        item = pgqrs_settlement_for(old, (pgqrs_verdict)i);
        OK(pgqrs_settle(T.store, &item, 1, NULL, NULL, NULL));
        RESULT(PGQRS_ERR_LEASE_LOST, item.result);
    }
    {
        const pgqrs_message *after = must_look(id);
        EQ(before.state, after->state);
        EQ(PGQRS_LEASED, after->state);
        EQ(before.attempt, after->attempt);
        EQ(fresh->lease, after->lease);
        EQ(before.lease_until_us, after->lease_until_us);
    }
    OK(pgqrs_archive(T.store, fresh));
    STATE("archived", id);
}

static void lease_that_ran_out_is_lost_even_when_nobody_took_over(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_take();
    advance_ms(TEST_LEASE_MS + 1);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, message));
    FAILS(ERR_LEASE_LOST, pgqrs_extend(T.store, message, 1000));
    STATE("ready", id);
    EQ(2, must_take()->attempt);
}

static void settled_message_cannot_be_settled_again(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_take();
    OK(pgqrs_archive(T.store, message));
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, message));
    FAILS(ERR_LEASE_LOST, pgqrs_delete(T.store, message));
    FAILS(ERR_LEASE_LOST, pgqrs_retry(T.store, message, NULL));
    FAILS(ERR_LEASE_LOST, pgqrs_extend(T.store, message, 0));
    STATE("archived", id);
    NUMBERS(0, 0, 0, 1, 0);
}

static void stale_token_of_the_same_consumer_is_refused(void)
{
    int64_t id = put();
    const pgqrs_message *first = must_take(), *second;
    OK(pgqrs_release(T.store, first, NULL));
    second = must_take();
    EQ(id, second->id);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, first));
    FAILS(ERR_LEASE_LOST, pgqrs_release(T.store, first, NULL));
    STATE("leased", id);
    OK(pgqrs_archive(T.store, second));
}

static void stale_token_of_the_same_worker_is_refused(void)
{
    pgqrs_worker_ref worker = enlist(unique("worker"), T.queue);
    pgqrs_dequeue_desc desc = {.worker = worker};
    int64_t id = put();
    const pgqrs_message *first = take_as(desc), *second;
    assert_non_null(first);
    EQ(worker.id, first->worker_id);
    advance_ms(TEST_LEASE_MS + 1);
    second = take_as(desc);
    assert_non_null(second);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, first));
    OK(pgqrs_archive(T.store, second));
    EQ(worker.id, must_look(id)->worker_id);
}

static void made_up_lease_is_refused(void)
{
    int64_t one = put(), other = put();
    const pgqrs_message *first = must_take(), *second = must_take();
    pgqrs_message forged = *first;
    YES(first->lease != second->lease);
    forged.lease = second->lease;
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, &forged));
    forged.lease = first->lease + 1000000;
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, &forged));
    FAILS(ERR_LEASE_LOST, pgqrs_extend(T.store, &forged, 1000));
    forged.lease = -first->lease;
    FAILS(ERR_LEASE_LOST, pgqrs_delete(T.store, &forged));
    forged = *first;
    forged.id = second->id + 1000000;
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, &forged));
    STATE("leased", one);
    STATE("leased", other);
    EQ(T.now_us + TEST_LEASE_MS * INT64_C(1000), must_look(one)->lease_until_us);
}

/* As many ids as the lease has, with the same ends and the same sum, but not the same ids. */
static void lease_with_the_wrong_ids_settles_only_the_right_ones(void)
{
    static const bool mine[9] = {true, false, false, true, false, true, false, false, true};
    static const size_t given[4] = {0, 2, 6, 8};
    const char *other = another_queue("other");
    int64_t ids[9];
    const pgqrs_messages *got;
    pgqrs_settlement items[4];
    size_t i;
    for (i = 0; i < 9; i++)
        ids[i] = put_into(mine[i] ? T.queue : other, "1", (pgqrs_enqueue_desc){0}).id;
    got = take_many(4);
    EQ(4, got->count);
    EQ(5, take_many_with(T.store, other, (pgqrs_dequeue_desc){.limit = 5})->count);
    for (i = 0; i < 4; i++) {
        items[i] = pgqrs_settlement_for(&got->items[0], PGQRS_ARCHIVE);
        items[i].id = ids[given[i]];
    }
    OK(pgqrs_settle(T.store, items, 4, NULL, NULL, NULL));
    RESULT(PGQRS_OK, items[0].result);
    RESULT(PGQRS_ERR_LEASE_LOST, items[1].result);
    RESULT(PGQRS_ERR_LEASE_LOST, items[2].result);
    RESULT(PGQRS_OK, items[3].result);
    for (i = 0; i < 9; i++)
        SAME(i == 0 || i == 8 ? "archived" : "leased", state_of(ids[i]));
    OK(pgqrs_archive(T.store, &got->items[1]));
    OK(pgqrs_archive(T.store, &got->items[2]));
    OK(pgqrs_verify(T.store));
}

static void message_never_leased_cannot_be_settled(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_look(id);
    EQ(0, message->lease);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, message));
    STATE("ready", id);
}

static void wrong_lease_size_is_only_a_hint(void)
{
    int64_t ids[4];
    const pgqrs_messages *got;
    pgqrs_settlement items[4];
    size_t i;
    put_batch(T.queue, 4, 0, ids);
    got = take_many(4);
    for (i = 0; i < 4; i++) {
        items[i] = pgqrs_settlement_for(&got->items[i], PGQRS_ARCHIVE);
        items[i].lease_size = 2;
    }
    /* Two of four: a hint of 2 must not settle the other two. */
    OK(pgqrs_settle(T.store, items, 2, NULL, NULL, NULL));
    RESULT(PGQRS_OK, items[0].result);
    RESULT(PGQRS_OK, items[1].result);
    STATE("leased", ids[2]);
    STATE("leased", ids[3]);
    items[2].lease_size = 4000;
    items[3].lease_size = 0;
    OK(pgqrs_settle(T.store, items + 2, 2, NULL, NULL, NULL));
    RESULT(PGQRS_OK, items[2].result);
    RESULT(PGQRS_OK, items[3].result);
    NUMBERS(0, 0, 0, 4, 0);
}

static void archive_keeps_the_message_for_the_record(void)
{
    int64_t id = put();
    const pgqrs_message *message;
    OK(pgqrs_archive(T.store, must_take()));
    message = must_look(id);
    SAME("archived", state_name(message->state));
    SAME(SECRET_PAYLOAD, message->payload);
    EQ(1, message->attempt);
    EQ(T.now_us, message->finished_at_us);
    EQ(0, message->lease);
    EQ(0, message->lease_until_us);
    advance_ms(365 * INT64_C(86400000));
    YES(take() == NULL);
    STATE("archived", id);
}

static void archive_after_a_failure_forgets_the_reason(void)
{
    int64_t ids[3];
    const pgqrs_messages *got;
    put_batch(T.queue, 3, 0, ids);
    got = take_many(3);
    OK(pgqrs_release_many(T.store, got->items, 3, &(pgqrs_release_desc){.reason = "no luck"}, NULL));
    SAME("no luck", must_look(ids[1])->reason);
    got = take_many(3);
    OK(pgqrs_archive(T.store, &got->items[1]));
    YES(must_look(ids[1])->reason == NULL);
    EQ(2, must_look(ids[1])->attempt);
    SAME("no luck", must_look(ids[0])->reason);
    OK(pgqrs_archive(T.store, &got->items[0]));
    OK(pgqrs_message_replay(T.store, ids[0]));
    YES(must_look(ids[0])->reason == NULL);
}

static void delete_leaves_no_trace(void)
{
    int64_t id = put();
    OK(pgqrs_delete(T.store, must_take()));
    YES(look(id) == NULL);
    NUMBERS(0, 0, 0, 0, 0);
    YES(take() == NULL);
}

static void retry_comes_back_after_the_backoff(void)
{
    int64_t id = put(), due;
    const pgqrs_message *message;
    OK(pgqrs_retry(T.store, must_take(), "mail server is down"));
    message = must_look(id);
    SAME("delayed", state_name(message->state));
    SAME("mail server is down", message->reason);
    EQ(1, message->attempt);
    due = message->due_at_us;
    BETWEEN(T.now_us + 750000, T.now_us + 1250000, due);
    YES(take() == NULL);
    T.now_us = due - 1;
    YES(take() == NULL);
    T.now_us = due;
    message = must_take();
    EQ(id, message->id);
    EQ(2, message->attempt);
}

static void retry_doubles_the_backoff_up_to_its_limit(void)
{
    static const int64_t expected_ms[] = {1000, 2000, 4000, 8000, 8000, 8000};
    pgqrs_queue_desc desc = test_queue_desc();
    const char *queue = unique("backoff");
    size_t i;
    int64_t id;
    desc.max_attempts = 20;
    OK(pgqrs_queue_create(T.store, queue, &desc));
    id = put_into(queue, "1", (pgqrs_enqueue_desc){0}).id;
    for (i = 0; i < COUNT_OF(expected_ms); i++) {
        const pgqrs_message *message = take_with(T.store, queue, (pgqrs_dequeue_desc){0});
        assert_non_null(message);
        EQ(i + 1, message->attempt);
        OK(pgqrs_retry(T.store, message, "no"));
        BETWEEN(T.now_us + expected_ms[i] * 750, T.now_us + expected_ms[i] * 1250, must_look(id)->due_at_us);
        T.now_us = must_look(id)->due_at_us;
    }
}

static void retry_jitter_spreads(void)
{
    enum { many = 20 };
    int64_t first = 0;
    int i, different = 0;
    put_batch(T.queue, many, 0, NULL);
    for (i = 0; i < many; i++) {
        const pgqrs_message *message = must_take();
        int64_t due;
        OK(pgqrs_retry(T.store, message, NULL));
        due = must_look(message->id)->due_at_us;
        if (i == 0)
            first = due;
        different += due != first;
    }
    YES(different > many / 2);
}

static void release_at_once(void)
{
    int64_t id = put();
    OK(pgqrs_release(T.store, must_take(), NULL));
    STATE("ready", id);
    EQ(2, must_take()->attempt);
}

static void release_after_a_delay(void)
{
    int64_t id = put();
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.delay_ms = 700, .reason = "busy"}));
    STATE("delayed", id);
    EQ(T.now_us + 700000, must_look(id)->due_at_us);
    SAME("busy", must_look(id)->reason);
    advance_ms(699);
    YES(take() == NULL);
    advance_ms(1);
    EQ(2, must_take()->attempt);
}

static void release_at_a_time(void)
{
    int64_t id = put(), at = T.now_us + 12345678;
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.at_us = at}));
    EQ(at, must_look(id)->due_at_us);
    T.now_us = at;
    EQ(id, must_take()->id);
}

static void release_refuses_times_that_make_no_sense(void)
{
    const pgqrs_release_desc wrong[] = {
        {.delay_ms = -1}, {.delay_ms = INT64_MAX}, {.at_us = -1}, {.delay_ms = 5, .at_us = T.now_us + 5},
    };
    int64_t id = put();
    const pgqrs_message *message = must_take();
    size_t i;
    for (i = 0; i < COUNT_OF(wrong); i++) {
        FAILS(ERR_INVALID_ARGUMENT, pgqrs_release(T.store, message, &wrong[i]));
        FAILS(ERR_INVALID_ARGUMENT, pgqrs_release_many(T.store, message, 1, &wrong[i], NULL));
    }
    STATE("leased", id);
    OK(pgqrs_archive(T.store, message));
}

static void give_back_costs_no_attempt(void)
{
    int64_t id = put();
    int i;
    for (i = 0; i < 10 * TEST_MAX_ATTEMPTS; i++) {
        const pgqrs_message *message = must_take();
        EQ(id, message->id);
        EQ(1, message->attempt);
        OK(pgqrs_release(T.store, message, &(pgqrs_release_desc){.give_back = true}));
        EQ(0, must_look(id)->attempt);
    }
    STATE("ready", id);
}

static void give_back_after_a_failure_keeps_the_earlier_attempts(void)
{
    put();
    OK(pgqrs_release(T.store, must_take(), NULL));
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.give_back = true}));
    EQ(2, must_take()->attempt);
}

static void give_back_of_the_last_attempt_is_no_dead_letter(void)
{
    int64_t id = put();
    OK(pgqrs_release(T.store, must_take(), NULL));
    OK(pgqrs_release(T.store, must_take(), NULL));
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.give_back = true}));
    STATE("ready", id);
    EQ(3, must_take()->attempt);
}

static void give_back_may_wait(void)
{
    int64_t id = put();
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.give_back = true, .delay_ms = 1000}));
    STATE("delayed", id);
    advance_ms(1000);
    EQ(1, must_take()->attempt);
}

static void give_back_leaves_the_expiry_in_force(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.expire_ms = 1000});
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.give_back = true}));
    advance_ms(1001);
    YES(take() == NULL);
    STATE("archived", id);
}

static void reject_is_dead_at_once(void)
{
    int64_t id = put();
    const pgqrs_message *message;
    OK(pgqrs_reject(T.store, must_take(), "unreadable"));
    message = must_look(id);
    SAME("dead", state_name(message->state));
    SAME("unreadable", message->reason);
    EQ(1, message->attempt);
    EQ(T.now_us, message->finished_at_us);
    YES(take() == NULL);
    NUMBERS(0, 0, 0, 0, 1);
}

static void reject_without_a_reason_still_has_one(void)
{
    int64_t id = put();
    OK(pgqrs_reject(T.store, must_take(), NULL));
    YES(must_look(id)->reason != NULL && must_look(id)->reason[0] != '\0');
}

static void last_failure_is_dead_with_its_reason(void)
{
    int64_t id = put();
    int i;
    for (i = 1; i <= TEST_MAX_ATTEMPTS; i++) {
        const pgqrs_message *message = must_take();
        EQ(i, message->attempt);
        OK(pgqrs_retry(T.store, message, i == TEST_MAX_ATTEMPTS ? "the last straw" : "not yet"));
        if (i < TEST_MAX_ATTEMPTS)
            T.now_us = must_look(id)->due_at_us;
    }
    SAME("dead", state_of(id));
    YES(strstr(must_look(id)->reason, "the last straw") != NULL);
    EQ(TEST_MAX_ATTEMPTS, must_look(id)->attempt);
    advance_ms(3600000);
    YES(take() == NULL);
    NUMBERS(0, 0, 0, 0, 1);
}

static void last_release_is_dead_even_with_a_delay(void)
{
    int64_t id = put();
    int i;
    for (i = 1; i < TEST_MAX_ATTEMPTS; i++)
        OK(pgqrs_release(T.store, must_take(), NULL));
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.delay_ms = 60000}));
    STATE("dead", id);
    YES(must_look(id)->reason != NULL);
}

static void last_expired_lease_is_dead_by_itself(void)
{
    int64_t id = put();
    int i;
    for (i = 1; i <= TEST_MAX_ATTEMPTS; i++) {
        EQ(i, must_take()->attempt);
        advance_ms(TEST_LEASE_MS + 1);
    }
    YES(take() == NULL);
    STATE("dead", id);
    YES(must_look(id)->reason != NULL && strstr(must_look(id)->reason, "lease") != NULL);
    EQ(TEST_MAX_ATTEMPTS, must_look(id)->attempt);
    NUMBERS(0, 0, 0, 0, 1);
}

static void failures_and_expired_leases_count_together(void)
{
    int64_t id = put();
    must_take();
    advance_ms(TEST_LEASE_MS + 1);
    OK(pgqrs_release(T.store, must_take(), NULL));
    must_take();
    advance_ms(TEST_LEASE_MS + 1);
    YES(take() == NULL);
    STATE("dead", id);
}

static void dead_letters_do_not_hold_up_the_queue(void)
{
    enum { many = 80 };
    int64_t ids[many], live;
    int i, j;
    put_batch(T.queue, many, 0, ids);
    for (i = 0; i < TEST_MAX_ATTEMPTS; i++) {
        size_t got = 0;
        for (j = 0; j < 10 && got < many; j++)
            got += take_many(many)->count;
        EQ(many, got);
        advance_ms(TEST_LEASE_MS + 1);
    }
    live = put();
    EQ(live, must_take()->id);
    for (i = 0; i < 10 && numbers().dead < many; i++)
        YES(take() == NULL);
    NUMBERS(0, 0, 1, 0, many);
}

static void one_attempt_is_enough_when_the_queue_says_so(void)
{
    pgqrs_queue_desc desc = {.max_attempts = 1};
    const char *queue = unique("once");
    int64_t id;
    OK(pgqrs_queue_create(T.store, queue, &desc));
    id = put_into(queue, "1", (pgqrs_enqueue_desc){0}).id;
    OK(pgqrs_retry(T.store, take_with(T.store, queue, (pgqrs_dequeue_desc){0}), "once is enough"));
    STATE("dead", id);
}

static void reason_is_cut_at_500_bytes(void)
{
    char *reason = text_of(900, 'r');
    int64_t id = put();
    pgqrs_result result = pgqrs_reject(T.store, must_take(), reason);
    free(reason);
    OK(result);
    EQ(500, strlen(must_look(id)->reason));
}

static void reason_is_cut_between_characters(void)
{
    char reason[700];
    size_t i, length;
    int64_t id = put();
    const char *seen;
    reason[0] = 'x';
    for (i = 1; i + 2 < sizeof(reason); i += 2)
        memcpy(reason + i, "\xC3\xA9", 2);
    reason[i] = '\0';
    OK(pgqrs_reject(T.store, must_take(), reason));
    seen = must_look(id)->reason;
    length = strlen(seen);
    BETWEEN(490, 500, length);
    EQ(0, memcmp(seen, reason, length));
    EQ(0xA9, (unsigned char)seen[length - 1]);
}

static void reason_with_broken_text_does_no_harm(void)
{
    int64_t id = put();
    OK(pgqrs_reject(T.store, must_take(), "broken \xFF\xC3 text 'quoted' \\ $1"));
    STATE("dead", id);
    YES(must_look(id)->reason != NULL && strstr(must_look(id)->reason, "text 'quoted'") != NULL);
}

static void settlement_for_copies_from_the_message(void)
{
    const pgqrs_message *message;
    pgqrs_settlement item;
    put();
    message = must_take();
    item = pgqrs_settlement_for(message, PGQRS_RELEASE);
    EQ(message->id, item.id);
    EQ(message->lease, item.lease);
    EQ(message->attempt, item.attempt);
    EQ(message->lease_size, item.lease_size);
    EQ(PGQRS_RELEASE, item.verdict);
    EQ(0, item.delay_ms);
    EQ(0, item.at_us);
    YES(item.reason == NULL);
}

static void settle_carries_out_mixed_verdicts(void)
{
    int64_t ids[6];
    const pgqrs_messages *got;
    pgqrs_settlement items[6];
    size_t i;
    put_batch(T.queue, 6, 0, ids);
    got = take_many(6);
    EQ(6, got->count);
    for (i = 0; i < 6; i++)
        items[i] = pgqrs_settlement_for(&got->items[i], (pgqrs_verdict)(PGQRS_ARCHIVE + (int)i));
    items[3].delay_ms = 5000; /* release */
    items[4].at_us = T.now_us + 9000; /* give back */
    items[5].reason = "hopeless";
    OK(pgqrs_settle(T.store, items, 6, NULL, NULL, NULL));
    for (i = 0; i < 6; i++)
        RESULT(PGQRS_OK, items[i].result);
    STATE("archived", ids[0]);
    STATE("gone", ids[1]);
    STATE("delayed", ids[2]);
    BETWEEN(T.now_us + 750000, T.now_us + 1250000, must_look(ids[2])->due_at_us);
    EQ(1, must_look(ids[2])->attempt);
    STATE("delayed", ids[3]);
    EQ(T.now_us + 5 * SECOND_US, must_look(ids[3])->due_at_us);
    EQ(1, must_look(ids[3])->attempt);
    STATE("delayed", ids[4]);
    EQ(T.now_us + 9000, must_look(ids[4])->due_at_us);
    EQ(0, must_look(ids[4])->attempt);
    STATE("dead", ids[5]);
    SAME("hopeless", must_look(ids[5])->reason);
}

static void settle_over_several_leases_and_queues_and_claim(void)
{
    const char *other = another_queue("other");
    int64_t a = put(), b = put(), c = put_into(other, "1", (pgqrs_enqueue_desc){0}).id, next_id;
    const pgqrs_message *first = must_take(), *second = must_take();
    const pgqrs_message *third = take_with(T.store, other, (pgqrs_dequeue_desc){0});
    pgqrs_settlement items[3];
    pgqrs_messages *next = NULL;
    pgqrs_dequeue_desc claim = {.limit = 5, .lease_ms = 2000};
    assert_non_null(third);
    items[0] = pgqrs_settlement_for(first, PGQRS_ARCHIVE);
    items[1] = pgqrs_settlement_for(third, PGQRS_DELETE);
    items[2] = pgqrs_settlement_for(second, PGQRS_REJECT);
    next_id = put();
    OK(pgqrs_settle(T.store, items, 3, T.queue, &claim, &next));
    keep(next);
    assert_non_null(next);
    RESULT(PGQRS_OK, items[0].result);
    RESULT(PGQRS_OK, items[1].result);
    RESULT(PGQRS_OK, items[2].result);
    STATE("archived", a);
    STATE("dead", b);
    STATE("gone", c);
    EQ(1, next->count);
    EQ(next_id, next->items[0].id);
    EQ(T.now_us + 2 * SECOND_US, next->items[0].lease_until_us);
}

static void settle_delivers_what_it_released(void)
{
    int64_t id = put();
    pgqrs_settlement item = pgqrs_settlement_for(must_take(), PGQRS_RELEASE);
    pgqrs_messages *next = NULL;
    OK(pgqrs_settle(T.store, &item, 1, T.queue, NULL, &next));
    keep(next);
    assert_non_null(next);
    EQ(1, next->count);
    EQ(id, next->items[0].id);
    EQ(2, next->items[0].attempt);
    YES(next->items[0].lease != item.lease);
}

/* Settings of a queue that is gone cannot be read, and need not be: the lease went with it. */
static void settle_with_a_retry_in_a_deleted_queue_settles_the_rest(void)
{
    const char *gone = another_queue("gone");
    pgqrs_settlement items[2];
    const pgqrs_message *kept, *lost;
    put();
    OK(pgqrs_enqueue(T.store, gone, "1", NULL, NULL));
    kept = must_take();
    lost = take_with(T.store, gone, (pgqrs_dequeue_desc){0});
    assert_non_null(lost);
    OK(pgqrs_queue_delete(T.store, gone, true));
    items[0] = pgqrs_settlement_for(kept, PGQRS_ARCHIVE);
    items[1] = pgqrs_settlement_for(lost, PGQRS_RETRY);
    OK(pgqrs_settle(T.store, items, 2, NULL, NULL, NULL));
    RESULT(PGQRS_OK, items[0].result);
    RESULT(PGQRS_ERR_LEASE_LOST, items[1].result);
}

static void settle_without_items_only_claims(void)
{
    pgqrs_messages *next = NULL;
    int64_t id = put();
    OK(pgqrs_settle(T.store, NULL, 0, T.queue, NULL, &next));
    keep(next);
    EQ(1, next->count);
    EQ(id, next->items[0].id);
}

static void settle_of_nothing_is_fine(void)
{
    OK(pgqrs_settle(T.store, NULL, 0, NULL, NULL, NULL));
}

static void settle_lost_and_held_leases_together(void)
{
    int64_t a = put(), b;
    const pgqrs_message *lost = must_take(), *held;
    pgqrs_settlement items[2];
    pgqrs_messages *next = NULL;
    advance_ms(TEST_LEASE_MS + 1);
    OK(pgqrs_archive(T.store, must_take()));
    b = put();
    held = must_take();
    items[0] = pgqrs_settlement_for(lost, PGQRS_REJECT);
    items[1] = pgqrs_settlement_for(held, PGQRS_ARCHIVE);
    OK(pgqrs_settle(T.store, items, 2, T.queue, NULL, &next));
    keep(next);
    RESULT(PGQRS_ERR_LEASE_LOST, items[0].result);
    RESULT(PGQRS_OK, items[1].result);
    EQ(0, next->count);
    STATE("archived", a);
    STATE("archived", b);
}

static void settle_with_an_error_changes_nothing(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_take();
    pgqrs_settlement items[2];
    pgqrs_messages *next = NULL;
    items[0] = items[1] = pgqrs_settlement_for(message, PGQRS_ARCHIVE);
    FAILS(ERR_QUEUE_NOT_FOUND, pgqrs_settle(T.store, items, 1, "nowhere", NULL, &next));
    YES(next == NULL);
    STATE("leased", id);
    items[1].verdict = (pgqrs_verdict)77;
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_settle(T.store, items, 2, NULL, NULL, NULL));
    EQ(1, pgqrs_last_error(T.store)->index);
    items[1].verdict = (pgqrs_verdict)0;
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_settle(T.store, items, 2, NULL, NULL, NULL));
    items[1].verdict = PGQRS_RELEASE;
    items[1].delay_ms = -1;
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_settle(T.store, items, 2, NULL, NULL, NULL));
    items[1].delay_ms = 1;
    items[1].at_us = 1;
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_settle(T.store, items, 2, NULL, NULL, NULL));
    STATE("leased", id);
    OK(pgqrs_archive(T.store, message));
}

static void settle_refuses_missing_arguments(void)
{
    pgqrs_messages *next = NULL;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "items", pgqrs_settle(T.store, NULL, 1, NULL, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "next", pgqrs_settle(T.store, NULL, 0, T.queue, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_settle(T.store, NULL, 0, NULL, NULL, &next));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_settle(NULL, NULL, 0, NULL, NULL, NULL));
}

static void verdicts_refuse_missing_arguments(void)
{
    const pgqrs_message *message;
    pgqrs_result result;
    put();
    message = must_take();
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "message", pgqrs_archive(T.store, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "message", pgqrs_delete(T.store, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "message", pgqrs_retry(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "message", pgqrs_reject(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "message", pgqrs_release(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "message", pgqrs_extend(T.store, NULL, 0));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "messages", pgqrs_archive_many(T.store, NULL, 1, &result));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "messages", pgqrs_delete_many(T.store, NULL, 1, &result));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "messages", pgqrs_release_many(T.store, NULL, 1, NULL, &result));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "messages", pgqrs_extend_many(T.store, NULL, 1, 0, &result));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_archive(NULL, message));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_delete(NULL, message));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_retry(NULL, message, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_reject(NULL, message, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_release(NULL, message, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_extend(NULL, message, 0));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_archive_many(NULL, message, 1, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_extend_many(NULL, message, 1, 0, NULL));
}

static void batches_of_nothing_are_fine(void)
{
    OK(pgqrs_archive_many(T.store, NULL, 0, NULL));
    OK(pgqrs_delete_many(T.store, NULL, 0, NULL));
    OK(pgqrs_release_many(T.store, NULL, 0, NULL, NULL));
    OK(pgqrs_extend_many(T.store, NULL, 0, 0, NULL));
}

static void same_message_twice_in_one_settlement_counts_once(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_take();
    pgqrs_settlement items[2];
    items[0] = pgqrs_settlement_for(message, PGQRS_ARCHIVE);
    items[1] = pgqrs_settlement_for(message, PGQRS_RELEASE);
    OK(pgqrs_settle(T.store, items, 2, NULL, NULL, NULL));
    RESULT(PGQRS_OK, items[0].result);
    RESULT(PGQRS_ERR_LEASE_LOST, items[1].result);
    STATE("archived", id);
    NUMBERS(0, 0, 0, 1, 0);
}

static void lease_is_settled_one_by_one_in_any_order(void)
{
    enum { many = 12 };
    static const size_t order[many] = {5, 0, 11, 3, 4, 10, 1, 2, 9, 7, 8, 6};
    int64_t ids[many];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, many, 0, ids);
    got = take_many(many);
    EQ(many, got->count);
    for (i = 0; i < many; i++) {
        const pgqrs_message *message = &got->items[order[i]];
        switch (i % 3) {
        case 0:
            OK(pgqrs_archive(T.store, message));
            break;
        case 1:
            OK(pgqrs_delete(T.store, message));
            break;
        default:
            OK(pgqrs_reject(T.store, message, "r"));
            break;
        }
        EQ(many - 1 - i, numbers().leased);
        FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, message));
    }
    for (i = 0; i < many; i++)
        SAME(i % 3 == 0 ? "archived" : i % 3 == 1 ? "gone" : "dead", state_of(ids[order[i]]));
    NUMBERS(0, 0, 0, 4, 4);
}

static void lease_is_settled_in_parts(void)
{
    int64_t ids[50];
    const pgqrs_messages *got;
    pgqrs_result results[50];
    size_t i;
    put_batch(T.queue, 50, 0, ids);
    got = take_many(50);
    OK(pgqrs_archive_many(T.store, got->items, 20, results));
    for (i = 0; i < 20; i++)
        RESULT(PGQRS_OK, results[i]);
    OK(pgqrs_release_many(T.store, got->items + 30, 20, NULL, results));
    for (i = 0; i < 20; i++)
        RESULT(PGQRS_OK, results[i]);
    NUMBERS(20, 0, 10, 20, 0);
    OK(pgqrs_delete_many(T.store, got->items + 10, 30, results));
    for (i = 0; i < 30; i++)
        RESULT(i >= 10 && i < 20 ? PGQRS_OK : PGQRS_ERR_LEASE_LOST, results[i]);
    NUMBERS(20, 0, 0, 20, 0);
}

static void batch_call_is_fine_when_every_lease_is_lost(void)
{
    const pgqrs_messages *got;
    pgqrs_result results[3];
    size_t i;
    put_batch(T.queue, 3, 0, NULL);
    got = take_many(3);
    advance_ms(TEST_LEASE_MS + 1);
    OK(pgqrs_archive_many(T.store, got->items, 3, results));
    for (i = 0; i < 3; i++)
        RESULT(PGQRS_ERR_LEASE_LOST, results[i]);
    OK(pgqrs_delete_many(T.store, got->items, 3, results));
    for (i = 0; i < 3; i++)
        RESULT(PGQRS_ERR_LEASE_LOST, results[i]);
    OK(pgqrs_release_many(T.store, got->items, 3, NULL, results));
    for (i = 0; i < 3; i++)
        RESULT(PGQRS_ERR_LEASE_LOST, results[i]);
    OK(pgqrs_extend_many(T.store, got->items, 3, 1000, results));
    for (i = 0; i < 3; i++)
        RESULT(PGQRS_ERR_LEASE_LOST, results[i]);
    NUMBERS(3, 0, 0, 0, 0);
}

static void batch_results_may_be_left_out(void)
{
    const pgqrs_messages *got;
    put_batch(T.queue, 9, 0, NULL);
    got = take_many(9);
    OK(pgqrs_extend_many(T.store, got->items, 9, 0, NULL));
    OK(pgqrs_archive_many(T.store, got->items, 3, NULL));
    OK(pgqrs_delete_many(T.store, got->items + 3, 3, NULL));
    OK(pgqrs_release_many(T.store, got->items + 6, 3, &(pgqrs_release_desc){.delay_ms = 5, .reason = "r"}, NULL));
    NUMBERS(0, 3, 0, 3, 0);
}

static void release_many_gives_the_same_to_all(void)
{
    int64_t ids[5];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 5, 0, ids);
    got = take_many(5);
    OK(pgqrs_release_many(T.store, got->items, 5, &(pgqrs_release_desc){.delay_ms = 100, .reason = "shift ends"}, NULL));
    for (i = 0; i < 5; i++) {
        EQ(T.now_us + 100000, must_look(ids[i])->due_at_us);
        SAME("shift ends", must_look(ids[i])->reason);
        EQ(1, must_look(ids[i])->attempt);
    }
    advance_ms(100);
    got = take_many(5);
    EQ(5, got->count);
    for (i = 0; i < 5; i++)
        EQ(ids[i], got->items[i].id);
}

static void extend_counts_from_now(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_take();
    advance_ms(20000);
    OK(pgqrs_extend(T.store, message, 60000));
    EQ(T.now_us + MINUTE_US, must_look(id)->lease_until_us);
    advance_ms(59999);
    YES(take() == NULL);
    OK(pgqrs_archive(T.store, message));
}

static void extend_never_shortens(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_take();
    int64_t until = message->lease_until_us;
    OK(pgqrs_extend(T.store, message, 1));
    EQ(until, must_look(id)->lease_until_us);
}

static void extend_by_0_is_the_queues_lease(void)
{
    int64_t id = put();
    const pgqrs_message *message = take_as((pgqrs_dequeue_desc){.lease_ms = 500});
    assert_non_null(message);
    advance_ms(100);
    OK(pgqrs_extend(T.store, message, 0));
    EQ(T.now_us + TEST_LEASE_MS * INT64_C(1000), must_look(id)->lease_until_us);
}

static void extend_holds_for_the_whole_lease(void)
{
    int64_t ids[5];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 5, 0, ids);
    got = take_many(5);
    EQ(got->items[0].lease, got->items[4].lease);
    OK(pgqrs_archive(T.store, &got->items[2]));
    OK(pgqrs_extend(T.store, &got->items[0], 90000));
    for (i = 0; i < 5; i++)
        if (i != 2)
            EQ(T.now_us + 90 * SECOND_US, must_look(ids[i])->lease_until_us);
    advance_ms(80000);
    EQ(0, take_many(10)->count);
    OK(pgqrs_archive(T.store, &got->items[4]));
}

static void extend_of_a_settled_message_is_too_late(void)
{
    const pgqrs_messages *got;
    put_batch(T.queue, 3, 0, NULL);
    got = take_many(3);
    OK(pgqrs_archive(T.store, &got->items[1]));
    FAILS(ERR_LEASE_LOST, pgqrs_extend(T.store, &got->items[1], 1000));
}

static void extend_many_tells_about_each(void)
{
    int64_t ids[3];
    const pgqrs_message *messages[3];
    pgqrs_message copies[3];
    pgqrs_result results[3];
    size_t i;
    for (i = 0; i < 3; i++)
        ids[i] = put();
    for (i = 0; i < 3; i++) {
        messages[i] = must_take();
        copies[i] = *messages[i];
    }
    OK(pgqrs_archive(T.store, messages[1]));
    OK(pgqrs_extend_many(T.store, copies, 3, 77000, results));
    RESULT(PGQRS_OK, results[0]);
    RESULT(PGQRS_ERR_LEASE_LOST, results[1]);
    RESULT(PGQRS_OK, results[2]);
    EQ(T.now_us + 77 * SECOND_US, must_look(ids[0])->lease_until_us);
    EQ(T.now_us + 77 * SECOND_US, must_look(ids[2])->lease_until_us);
    STATE("archived", ids[1]);
}

static void extend_refuses_times_that_make_no_sense(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_take();
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_extend(T.store, message, -1));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_extend(T.store, message, INT64_MAX));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_extend(T.store, message, INT64_C(11) * 366 * 86400 * 1000));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_extend_many(T.store, message, 1, -1, NULL));
    EQ(message->lease_until_us, must_look(id)->lease_until_us);
}

static void large_batch_is_settled_in_one_call(void)
{
    enum { many = 3000 };
    const pgqrs_messages *got;
    pgqrs_settlement *items = (pgqrs_settlement *)calloc(many, sizeof(*items));
    pgqrs_result result;
    size_t i, wrong = 0;
    assert_non_null(items);
    put_batch(T.queue, many, 0, NULL);
    got = take_many(many);
    for (i = 0; i < got->count && i < many; i++) {
        items[i] = pgqrs_settlement_for(&got->items[i], (pgqrs_verdict)(PGQRS_ARCHIVE + (int)(i % 6)));
        items[i].reason = "r";
    }
    result = pgqrs_settle(T.store, items, got->count, NULL, NULL, NULL);
    for (i = 0; i < many; i++)
        wrong += items[i].result != PGQRS_OK;
    free(items);
    OK(result);
    EQ(many, got->count);
    EQ(0, wrong);
    /* archive, delete, retry, release, give back, reject: one sixth each */
    NUMBERS(many / 3, many / 6, 0, many / 6, many / 6);
}

static void results_outlive_the_store(void)
{
    int64_t id = put();
    const pgqrs_message *message = must_take(), *seen = must_look(id);
    close_store(T.store);
    SAME(SECRET_PAYLOAD, message->payload);
    SAME(SECRET_PAYLOAD, seen->payload);
    EQ(id, message->id);
}

static void *free_elsewhere(void *result)
{
    pgqrs_free(result);
    return NULL;
}

static void results_may_be_freed_by_another_thread(void)
{
    pgqrs_message *message = NULL;
    pthread_t thread;
    put();
    OK(pgqrs_dequeue(T.store, T.queue, NULL, &message));
    assert_non_null(message);
    EQ(0, pthread_create(&thread, NULL, free_elsewhere, message));
    EQ(0, pthread_join(thread, NULL));
    pgqrs_free(NULL);
}

static void messages_survive_closing_the_store(void)
{
    int64_t ready = put(), leased, archived, dead, delayed;
    const pgqrs_message *held;
    int64_t lease;
    pgqrs_message copy;
    archived = ready;
    OK(pgqrs_archive(T.store, must_take()));
    dead = put();
    OK(pgqrs_reject(T.store, must_take(), "r"));
    leased = put();
    held = must_take();
    lease = held->lease;
    copy = *held;
    ready = put();
    delayed = put_as((pgqrs_enqueue_desc){.delay_ms = 1000});
    close_store(T.store);
    T.store = open_store(NULL);
    STATE("archived", archived);
    STATE("dead", dead);
    STATE("leased", leased);
    EQ(lease, must_look(leased)->lease);
    STATE("ready", ready);
    STATE("delayed", delayed);
    SAME(SECRET_PAYLOAD, must_look(ready)->payload);
    OK(pgqrs_archive(T.store, &copy));
    EQ(ready, must_take()->id);
}

static void receipts_are_unique_over_reopening(void)
{
    int64_t first = put(), second;
    OK(pgqrs_delete(T.store, must_take()));
    close_store(T.store);
    T.store = open_store(NULL);
    second = put();
    YES(second > first);
    {
        int64_t lease = must_take()->lease;
        YES(lease != 0);
    }
}

static void lease_tokens_are_never_used_again(void)
{
    int64_t seen[40];
    size_t i, j;
    put();
    for (i = 0; i < 40; i++) {
        const pgqrs_message *message = must_take();
        for (j = 0; j < i; j++)
            YES(seen[j] != message->lease);
        seen[i] = message->lease;
        OK(pgqrs_release(T.store, message, &(pgqrs_release_desc){.give_back = true}));
        if (i == 20 && on(ON_SHARED)) {
            close_store(T.store);
            T.store = open_store(NULL);
        }
    }
}

static void ids_are_never_used_again(void)
{
    int64_t before = 0;
    int i;
    for (i = 0; i < 5; i++) {
        int64_t id = put();
        YES(id > before);
        before = id;
        OK(pgqrs_delete(T.store, must_take()));
    }
}

/* --- A backend may find the next message by what it remembers of the last one. What has changed since must count all the same.
 * Each case claims once before, and then in the way that is looked at. */

static void put_one_by_one(int count)
{
    while (count-- > 0)
        put();
}

static void next_claim_sees_that_the_queue_is_paused(void)
{
    put_one_by_one(3);
    must_take();
    OK(pgqrs_queue_pause(T.store, T.queue));
    YES(take() == NULL);
    OK(pgqrs_queue_resume(T.store, T.queue));
    must_take();
}

static void next_claim_sees_a_message_of_higher_priority(void)
{
    int64_t urgent;
    put_one_by_one(3);
    must_take();
    urgent = put_as((pgqrs_enqueue_desc){.priority = 1});
    EQ(urgent, must_take()->id);
    EQ(0, must_take()->priority);
}

static void next_claim_passes_over_what_has_expired_meanwhile(void)
{
    pgqrs_store_desc desc = real_time_desc();
    int64_t last;
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    put();
    put_as((pgqrs_enqueue_desc){.expire_ms = 20});
    last = put();
    must_take();
    sleep_ms(25);
    EQ(last, must_take()->id);
}

static void next_claim_sees_that_the_name_was_taken_over(void)
{
    pgqrs_worker_ref worker;
    pgqrs_dequeue_desc claim = {0};
    pgqrs_message *message = NULL;
    put_one_by_one(3);
    claim.worker = enlist("the worker", T.queue);
    assert_non_null(take_as(claim));
    advance_ms(5000);
    OK(pgqrs_worker_register(T.store, "the worker", &(pgqrs_register_desc){.queue = T.queue, .stale_ms = 1000},
                             &worker));
    FAILS(ERR_WORKER_STOPPED, pgqrs_dequeue(T.store, T.queue, &claim, &message));
    must_take();
}

static void next_claim_splits_a_batch(void)
{
    int64_t ids[4];
    int i;
    put_one_by_one(2);
    put_batch(T.queue, 4, 0, ids);
    must_take();
    must_take();
    for (i = 0; i < 4; i++)
        EQ(ids[i], must_take()->id);
    YES(take() == NULL);
}

static void next_claim_sees_that_the_queue_is_gone(void)
{
    const char *queue = another_queue("short-lived");
    const pgqrs_message *message;
    pgqrs_messages *next = NULL;
    pgqrs_settlement verdict;
    put_into(queue, "1", (pgqrs_enqueue_desc){0});
    put_into(queue, "2", (pgqrs_enqueue_desc){0});
    put();
    message = must_take();
    assert_non_null(take_with(T.store, queue, (pgqrs_dequeue_desc){0}));
    OK(pgqrs_queue_delete(T.store, queue, true));
    verdict = pgqrs_settlement_for(message, PGQRS_ARCHIVE);
    FAILS(ERR_QUEUE_NOT_FOUND,
          pgqrs_settle(T.store, &verdict, 1, queue, &(pgqrs_dequeue_desc){.limit = 1}, &next));
    YES(next == NULL);
    STATE("leased", message->id);
}

static void message_taken_from_under_its_holder_is_lost_to_him_alone(void)
{
    int64_t ids[3];
    pgqrs_result results[3];
    const pgqrs_messages *held;
    put_batch(T.queue, 3, 0, ids);
    held = take_many(3);
    EQ(3, held->count);
    OK(pgqrs_message_delete(T.store, &ids[1], 1, true, NULL));
    OK(pgqrs_archive_many(T.store, held->items, held->count, results));
    EQ(PGQRS_OK, results[0]);
    EQ(PGQRS_ERR_LEASE_LOST, results[1]);
    EQ(PGQRS_OK, results[2]);
    STATE("archived", ids[0]);
    STATE("archived", ids[2]);
}

/* --- Two stores that take by turns from messages that were enqueued together: straight at the backend */

enum { TURNS_MESSAGES = 600 };

typedef struct by_turns {
    size_t left, claims, full, full_lately;
} by_turns;

/* How many, each of them for the first time. */
static size_t claim_straight(pgqrs_store *store, size_t limit, size_t enough, const int64_t *ids, char *taken)
{
    pgqrs_backend_claim claim;
    pgqrs_backend_exchange exchange;
    size_t i, j, count;
    memset(&claim, 0, sizeof(claim));
    memset(&exchange, 0, sizeof(exchange));
    claim.queue = T.queue;
    claim.limit = limit;
    claim.enough = enough;
    exchange.now_us = T.now_us;
    exchange.claim = &claim;
    EQ(PGQRS_OK, store->backend->exchange(store->self, &exchange));
    count = claim.messages ? claim.messages->count : 0;
    for (i = 0; i < count; i++) {
        for (j = 0; j < TURNS_MESSAGES && ids[j] != claim.messages->items[i].id;)
            j++;
        BETWEEN(0, TURNS_MESSAGES - 1, j);
        NO(taken[j]);
        taken[j] = 1;
    }
    pgqrs_free(claim.messages);
    return count;
}

/* The second half was enqueued in batches of so many. Takes all there is. None gets less than is enough, nor more than the limit. */
static by_turns take_by_turns(size_t batch, size_t limit, size_t enough)
{
    by_turns turns = {TURNS_MESSAGES, 0, 0, 0};
    pgqrs_store *stores[2];
    int64_t ids[TURNS_MESSAGES];
    char taken[TURNS_MESSAGES] = {0};
    size_t i, got, least = enough ? enough : limit;
    stores[0] = T.store;
    stores[1] = another_store();
    for (i = 0; i < TURNS_MESSAGES; i += got) {
        got = i < TURNS_MESSAGES / 2 ? 50 : batch;
        put_batch(T.queue, got, 0, ids + i);
    }
    while (turns.left > 0) {
        got = claim_straight(stores[turns.claims++ % 2], limit, enough, ids, taken);
        BETWEEN(least < turns.left ? least : turns.left, limit, got);
        turns.left -= got;
        turns.full += got == limit;
        turns.full_lately += got == limit && turns.left < TURNS_MESSAGES / 4;
    }
    EQ(0, claim_straight(T.store, limit, enough, ids, taken));
    return turns;
}

static void claims_by_turns_are_full(void)
{
    by_turns turns = take_by_turns(50, 20, 0);
    EQ(TURNS_MESSAGES / 20, turns.full);
    EQ(turns.claims, turns.full);
}

/* The end of a batch is not filled up from the next one, which would take another commit. */
static void claims_by_turns_need_not_be_full(void)
{
    by_turns turns = take_by_turns(50, 20, 10);
    YES(turns.full >= TURNS_MESSAGES / 50);
    if (on(ON_SERVER))
        YES(turns.claims > TURNS_MESSAGES / 20);
}

/* Where no batch has as many as are wanted, more is taken than one batch. */
static void claims_by_turns_of_small_batches_are_full(void)
{
    YES(take_by_turns(10, 20, 10).full_lately > 0);
}

/* The store that settles has not seen that the message has a key. */
static void archive_by_another_store_frees_the_key(void)
{
    pgqrs_store *other = another_store();
    pgqrs_receipt first = put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"});
    OK_ON(other, pgqrs_archive(other, must_take()));
    STATE("archived", first.id);
    NO(put_into(T.queue, "2", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
}

/* Messages that were enqueued together are stored together, and taken off part by part: each part is a lease of its own. */
static void batch_is_taken_part_by_part(void)
{
    enum { all = 120, part = 7 };
    int64_t ids[all], last_lease = 0;
    size_t i, taken = 0;
    put_batch(T.queue, all, 0, ids);
    while (taken < all) {
        size_t wanted = taken % 3 == 2 ? 1 : part, expected = wanted < all - taken ? wanted : all - taken;
        const pgqrs_messages *got = take_many(wanted);
        pgqrs_settlement items[part];
        EQ(expected, got->count);
        for (i = 0; i < expected; i++) {
            EQ(ids[taken + i], got->items[i].id);
            EQ(1, got->items[i].attempt);
            YES(got->items[i].lease != last_lease);
            items[i] = pgqrs_settlement_for(&got->items[i], PGQRS_ARCHIVE);
        }
        last_lease = got->items[expected - 1].lease;
        OK(pgqrs_settle(T.store, items, expected, NULL, NULL, NULL));
        for (i = 0; i < expected; i++)
            RESULT(PGQRS_OK, items[i].result);
        NUMBERS((int64_t)(all - taken - expected), 0, 0, (int64_t)(taken + expected), 0);
        taken += expected;
    }
    EQ(0, take_many(part)->count);
    OK(pgqrs_verify(T.store));
}

/* Enqueued together and one by one by turns, so that what the claims so far were like says little about the next one. */
static size_t put_by_turns(int64_t *ids)
{
    static const size_t together[] = {50, 50, 1, 1, 50, 10, 10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 50, 7, 20};
    size_t i, count = 0;
    for (i = 0; i < COUNT_OF(together); i++) {
        put_batch(T.queue, together[i], 0, ids + count);
        count += together[i];
    }
    return count;
}

static void claims_by_turns(size_t wanted, const int64_t *ids, size_t count)
{
    size_t i, taken = 0;
    while (taken < count) {
        size_t expected = wanted < count - taken ? wanted : count - taken;
        const pgqrs_messages *got = take_many(wanted);
        EQ(expected, got->count);
        for (i = 0; i < expected; i++)
            EQ(ids[taken + i], got->items[i].id);
        OK(pgqrs_archive_many(T.store, got->items, got->count, NULL));
        taken += expected;
    }
    EQ(0, take_many(wanted)->count);
}

static void batches_and_single_messages_take_turns(void)
{
    static const size_t wanted[] = {10, 20, 50};
    int64_t ids[400];
    for (size_t i = 0; i < COUNT_OF(wanted); i++)
        claims_by_turns(wanted[i], ids, put_by_turns(ids));
    OK(pgqrs_verify(T.store));
}

/* None of them knows how much the others have left of what was enqueued together. */
static void consumers_of_one_batch_take_turns(void)
{
    static const struct {
        size_t wanted, all;
    } portions[] = {{10, 150}, {7, 105}, {1, 12}};
    int64_t ids[150];
    pgqrs_store *stores[3];
    stores[0] = T.store;
    stores[1] = another_store();
    stores[2] = another_store();
    for (size_t i = 0; i < COUNT_OF(portions); i++) {
        size_t wanted = portions[i].wanted, all = portions[i].all, taken, turn = 0;
        put_batch(T.queue, all, 0, ids);
        for (taken = 0; taken < all; taken += wanted) {
            pgqrs_store *store = stores[turn < 4 ? 0 : turn * turn % 3];
            const pgqrs_messages *got = take_many_with(store, T.queue, (pgqrs_dequeue_desc){.limit = wanted});
            turn++;
            EQ(wanted, got->count);
            for (size_t k = 0; k < wanted; k++)
                EQ(ids[taken + k], got->items[k].id);
            OK_ON(store, pgqrs_archive_many(store, got->items, got->count, NULL));
        }
    }
    OK(pgqrs_verify(T.store));
}

/* The claims before it give no reason to expect it. */
static void order_is_priority_first_in_claims_of_many(void)
{
    put_one_by_one(40);
    EQ(10, take_many(10)->count);
    EQ(10, take_many(10)->count);
    pgqrs_receipt urgent = put_into(T.queue, "1", (pgqrs_enqueue_desc){.priority = 1});
    const pgqrs_messages *got = take_many(10);
    EQ(10, got->count);
    EQ(urgent.id, got->items[0].id);
    OK(pgqrs_queue_pause(T.store, T.queue));
    EQ(0, take_many(10)->count);
    OK(pgqrs_queue_resume(T.store, T.queue));
    EQ(10, take_many(10)->count);
}

static const test_case delivery_cases[] = {
    CASE(dequeue_of_nothing_is_fine, PLAIN),
    CASE(dequeue_fills_the_message, PLAIN),
    CASE(dequeue_from_an_unknown_queue_names_it, PLAIN),
    CASE(dequeue_refuses_missing_arguments, PLAIN),
    CASE(dequeue_refuses_settings_out_of_range, PLAIN),
    CASE(dequeue_limit_0_is_the_stores_batch, PLAIN),
    CASE(batch_is_taken_part_by_part, PLAIN),
    CASE(batches_and_single_messages_take_turns, PLAIN),
    CASE(order_is_priority_first_in_claims_of_many, PLAIN),
    CASE(consumers_of_one_batch_take_turns, TWO),
    CASE(dequeue_takes_no_more_than_the_limit, PLAIN),
    CASE(order_is_enqueue_order, PLAIN),
    CASE(order_of_a_batch_is_delivery_order, PLAIN),
    CASE(order_is_priority_first, PLAIN),
    CASE(order_is_priority_first_in_single_claims, PLAIN),
    CASE(order_inside_a_batch_of_mixed_priorities, PLAIN),
    CASE(order_over_batches_of_different_size, PLAIN),
    CASE(order_over_batches_in_odd_portions, PLAIN),
    CASE(order_of_batches_with_priorities, PLAIN),
    CASE(order_puts_a_retried_message_at_the_tail, PLAIN),
    CASE(order_puts_it_at_the_tail_of_its_priority, PLAIN),
    CASE(order_takes_a_message_out_of_the_middle_of_a_batch, PLAIN),
    CASE(messages_of_one_claim_share_the_lease_time, PLAIN),
    CASE(leased_message_is_not_delivered_to_others, TWO),
    CASE(consumers_taking_turns_never_share_a_message, TWO),
    CASE(any_store_may_settle_a_lease, TWO),
    CASE(lease_of_the_call_wins_over_the_queues, PLAIN),
    CASE(lease_of_ten_years_is_allowed, PLAIN),
    CASE(expired_lease_redelivers_by_itself, PLAIN),
    CASE(expired_lease_shows_as_ready, PLAIN),
    CASE(expired_lease_of_a_batch_redelivers_all, PLAIN),
    CASE(expired_lease_of_a_partly_settled_batch_redelivers_the_rest, PLAIN),
    CASE(expired_lease_has_a_reason, PLAIN),
    CASE(leases_of_many_consumers_expire_together, PLAIN),
    CASE(stale_lease_changes_nothing, PLAIN),
    CASE(lease_that_ran_out_is_lost_even_when_nobody_took_over, PLAIN),
    CASE(settled_message_cannot_be_settled_again, PLAIN),
    CASE(stale_token_of_the_same_consumer_is_refused, PLAIN),
    CASE(stale_token_of_the_same_worker_is_refused, PLAIN),
    CASE(made_up_lease_is_refused, PLAIN),
    CASE(lease_with_the_wrong_ids_settles_only_the_right_ones, PLAIN),
    CASE(message_never_leased_cannot_be_settled, PLAIN),
    CASE(wrong_lease_size_is_only_a_hint, PLAIN),
    CASE(archive_keeps_the_message_for_the_record, PLAIN),
    CASE(archive_after_a_failure_forgets_the_reason, PLAIN),
    CASE(delete_leaves_no_trace, PLAIN),
    CASE(retry_comes_back_after_the_backoff, PLAIN),
    CASE(retry_doubles_the_backoff_up_to_its_limit, PLAIN),
    CASE(retry_jitter_spreads, PLAIN),
    CASE(release_at_once, PLAIN),
    CASE(release_after_a_delay, PLAIN),
    CASE(release_at_a_time, PLAIN),
    CASE(release_refuses_times_that_make_no_sense, PLAIN),
    CASE(give_back_costs_no_attempt, PLAIN),
    CASE(give_back_after_a_failure_keeps_the_earlier_attempts, PLAIN),
    CASE(give_back_of_the_last_attempt_is_no_dead_letter, PLAIN),
    CASE(give_back_may_wait, PLAIN),
    CASE(give_back_leaves_the_expiry_in_force, PLAIN),
    CASE(reject_is_dead_at_once, PLAIN),
    CASE(reject_without_a_reason_still_has_one, PLAIN),
    CASE(last_failure_is_dead_with_its_reason, PLAIN),
    CASE(last_release_is_dead_even_with_a_delay, PLAIN),
    CASE(last_expired_lease_is_dead_by_itself, PLAIN),
    CASE(failures_and_expired_leases_count_together, PLAIN),
    CASE(dead_letters_do_not_hold_up_the_queue, PLAIN),
    CASE(one_attempt_is_enough_when_the_queue_says_so, PLAIN),
    CASE(reason_is_cut_at_500_bytes, PLAIN),
    CASE(reason_is_cut_between_characters, PLAIN),
    CASE(reason_with_broken_text_does_no_harm, PLAIN),
    CASE(settlement_for_copies_from_the_message, PLAIN),
    CASE(settle_carries_out_mixed_verdicts, PLAIN),
    CASE(settle_over_several_leases_and_queues_and_claim, PLAIN),
    CASE(settle_delivers_what_it_released, PLAIN),
    CASE(settle_with_a_retry_in_a_deleted_queue_settles_the_rest, PLAIN),
    CASE(settle_without_items_only_claims, PLAIN),
    CASE(settle_of_nothing_is_fine, PLAIN),
    CASE(settle_lost_and_held_leases_together, PLAIN),
    CASE(settle_with_an_error_changes_nothing, PLAIN),
    CASE(settle_refuses_missing_arguments, PLAIN),
    CASE(verdicts_refuse_missing_arguments, PLAIN),
    CASE(batches_of_nothing_are_fine, PLAIN),
    CASE(same_message_twice_in_one_settlement_counts_once, PLAIN),
    CASE(lease_is_settled_one_by_one_in_any_order, PLAIN),
    CASE(lease_is_settled_in_parts, PLAIN),
    CASE(batch_call_is_fine_when_every_lease_is_lost, PLAIN),
    CASE(batch_results_may_be_left_out, PLAIN),
    CASE(release_many_gives_the_same_to_all, PLAIN),
    CASE(extend_counts_from_now, PLAIN),
    CASE(extend_never_shortens, PLAIN),
    CASE(extend_by_0_is_the_queues_lease, PLAIN),
    CASE(extend_holds_for_the_whole_lease, PLAIN),
    CASE(extend_of_a_settled_message_is_too_late, PLAIN),
    CASE(extend_many_tells_about_each, PLAIN),
    CASE(extend_refuses_times_that_make_no_sense, PLAIN),
    CASE(large_batch_is_settled_in_one_call, PLAIN),
    CASE(results_outlive_the_store, PLAIN),
    CASE(results_may_be_freed_by_another_thread, PLAIN),
    CASE_ON(messages_survive_closing_the_store, PLAIN, ON_SHARED),
    CASE_ON(receipts_are_unique_over_reopening, PLAIN, ON_SHARED),
    CASE(lease_tokens_are_never_used_again, PLAIN),
    CASE(ids_are_never_used_again, PLAIN),
    CASE(next_claim_sees_that_the_queue_is_paused, PLAIN),
    CASE(next_claim_sees_a_message_of_higher_priority, PLAIN),
    CASE(next_claim_passes_over_what_has_expired_meanwhile, PLAIN),
    CASE(next_claim_sees_that_the_name_was_taken_over, PLAIN),
    CASE(next_claim_splits_a_batch, PLAIN),
    CASE(next_claim_sees_that_the_queue_is_gone, PLAIN),
    CASE(message_taken_from_under_its_holder_is_lost_to_him_alone, PLAIN),
    CASE(claims_by_turns_are_full, TWO),
    CASE(claims_by_turns_need_not_be_full, TWO),
    CASE(claims_by_turns_of_small_batches_are_full, TWO),
    CASE(archive_by_another_store_frees_the_key, TWO),
};
