/* Queues: create, change, list, pause, purge, delete, retention. */

static const pgqrs_queue *look_queue(const char *name)
{
    pgqrs_queue *queue = NULL;
    OK(pgqrs_queue_get(T.store, name, &queue));
    keep(queue);
    return queue;
}

static void queue_has_the_default_settings(void)
{
    const pgqrs_queue *queue;
    OK(pgqrs_queue_create(T.store, "plain", NULL));
    queue = look_queue("plain");
    assert_non_null(queue);
    SAME("plain", queue->name);
    YES(queue->id > 0);
    EQ(T.now_us, queue->created_at_us);
    EQ(30000, queue->settings.lease_ms);
    EQ(5, queue->settings.max_attempts);
    EQ(1000, queue->settings.backoff_ms);
    EQ(60000, queue->settings.backoff_max_ms);
    EQ(0, queue->settings.retention_ms);
    EQ(0, queue->settings.dead_retention_ms);
    NO(queue->settings.paused);
}

static void queue_takes_the_stores_defaults(void)
{
    pgqrs_store_desc desc = test_desc();
    desc.default_lease_ms = 1234;
    desc.default_max_attempts = 9;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, "d", NULL));
    EQ(1234, look_queue("d")->settings.lease_ms);
    EQ(9, look_queue("d")->settings.max_attempts);
}

static void queue_keeps_its_settings(void)
{
    pgqrs_queue_desc desc = {.lease_ms = 1,
                             .max_attempts = 7,
                             .backoff_ms = 11,
                             .backoff_max_ms = 13,
                             .retention_ms = 17,
                             .dead_retention_ms = 19,
                             .paused = true};
    const pgqrs_queue *queue;
    OK(pgqrs_queue_create(T.store, "q", &desc));
    queue = look_queue("q");
    EQ(1, queue->settings.lease_ms);
    EQ(7, queue->settings.max_attempts);
    EQ(11, queue->settings.backoff_ms);
    EQ(13, queue->settings.backoff_max_ms);
    EQ(17, queue->settings.retention_ms);
    EQ(19, queue->settings.dead_retention_ms);
    YES(queue->settings.paused);
}

static void queue_created_again_is_left_as_it_is(void)
{
    pgqrs_queue_desc other = {.lease_ms = 5, .max_attempts = 99, .paused = true};
    int64_t id = look_queue(T.queue)->id, message = put();
    OK(pgqrs_queue_create(T.store, T.queue, &other));
    EQ(id, look_queue(T.queue)->id);
    EQ(TEST_LEASE_MS, look_queue(T.queue)->settings.lease_ms);
    EQ(TEST_MAX_ATTEMPTS, look_queue(T.queue)->settings.max_attempts);
    NO(look_queue(T.queue)->settings.paused);
    EQ(message, must_take()->id);
}

static void queue_that_must_be_new(void)
{
    pgqrs_queue_desc desc = {.must_be_new = true};
    const char *name = unique("new");
    OK(pgqrs_queue_create(T.store, name, &desc));
    FAILS_NAMING(ERR_QUEUE_EXISTS, name, pgqrs_queue_create(T.store, name, &desc));
    EQ(PGQRS_KIND_CONFLICT, pgqrs_last_error(T.store)->kind);
}

static void queue_names_are_compared_byte_by_byte(void)
{
    static const char *const names[] = {"mail", "Mail", "mail ", "ma\xC3\xAFl", "mai\xCC\x88l", "'; DROP TABLE x; --", "%s", "a/b.c"};
    int64_t ids[COUNT_OF(names)];
    size_t i, j;
    for (i = 0; i < COUNT_OF(names); i++) {
        OK(pgqrs_queue_create(T.store, names[i], NULL));
        ids[i] = look_queue(names[i])->id;
        SAME(names[i], look_queue(names[i])->name);
        for (j = 0; j < i; j++)
            YES(ids[i] != ids[j]);
    }
}

static void queue_name_of_255_bytes_is_the_longest(void)
{
    char *longest = text_of(255, 'n'), *longer = text_of(256, 'n');
    pgqrs_result good = pgqrs_queue_create(T.store, longest, NULL);
    bool there = good == PGQRS_OK && look_queue(longest) != NULL;
    pgqrs_result bad = pgqrs_queue_create(T.store, longer, NULL);
    free(longest);
    free(longer);
    RESULT(PGQRS_OK, good);
    YES(there);
    RESULT(PGQRS_ERR_BAD_NAME, bad);
}

static void queue_name_must_be_clean(void)
{
    static const char *const bad[] = {"", "a\nb", "\x01", "a\x7F", "tab\t", "\xFF", "\xC3(", "\xED\xA0\x80", "x\xC2\x85y"};
    size_t i;
    for (i = 0; i < COUNT_OF(bad); i++) {
        pgqrs_queue *queue = NULL;
        pgqrs_message *message = NULL;
        bool exists = false;
        if (pgqrs_queue_create(T.store, bad[i], NULL) != PGQRS_ERR_BAD_NAME)
            fail_at(__FILE__, __LINE__, "name %d was not refused", (int)i);
        FAILS(ERR_BAD_NAME, pgqrs_queue_create(T.store, bad[i], NULL));
        FAILS(ERR_BAD_NAME, pgqrs_queue_get(T.store, bad[i], &queue));
        FAILS(ERR_BAD_NAME, pgqrs_queue_exists(T.store, bad[i], &exists));
        FAILS(ERR_BAD_NAME, pgqrs_enqueue(T.store, bad[i], "1", NULL, NULL));
        FAILS(ERR_BAD_NAME, pgqrs_dequeue(T.store, bad[i], NULL, &message));
        FAILS(ERR_BAD_NAME, pgqrs_queue_pause(T.store, bad[i]));
        FAILS(ERR_BAD_NAME, pgqrs_queue_delete(T.store, bad[i], true));
    }
}

static void queue_refuses_settings_out_of_range(void)
{
    const pgqrs_queue_desc wrong[] = {
        {.lease_ms = -1},
        {.lease_ms = INT64_MAX},
        {.max_attempts = -1},
        {.max_attempts = INT32_MIN},
        {.backoff_ms = -1},
        {.backoff_ms = INT64_MAX},
        {.backoff_max_ms = -1},
        {.backoff_max_ms = INT64_MAX},
        {.retention_ms = -2},
        {.retention_ms = INT64_MAX},
        {.dead_retention_ms = -2},
        {.dead_retention_ms = INT64_MAX},
    };
    const char *name = unique("wrong");
    bool exists = true;
    size_t i;
    for (i = 0; i < COUNT_OF(wrong); i++) {
        pgqrs_result result = pgqrs_queue_create(T.store, name, &wrong[i]);
        if (result != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "create with desc %d gave %s", (int)i, pgqrs_result_name(result));
        FAILS(ERR_INVALID_ARGUMENT, result);
        result = pgqrs_queue_update(T.store, T.queue, &wrong[i]);
        if (result != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "update with desc %d gave %s", (int)i, pgqrs_result_name(result));
        FAILS(ERR_INVALID_ARGUMENT, result);
    }
    OK(pgqrs_queue_exists(T.store, name, &exists));
    NO(exists);
    EQ(TEST_LEASE_MS, look_queue(T.queue)->settings.lease_ms);
}

static void queue_calls_refuse_missing_arguments(void)
{
    pgqrs_queue *queue = NULL;
    pgqrs_queues *queues = NULL;
    bool exists;
    pgqrs_queue_desc desc = {0};
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_queue_create(T.store, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_queue_update(T.store, NULL, &desc));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "desc", pgqrs_queue_update(T.store, T.queue, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_queue_get(T.store, NULL, &queue));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_queue_get(T.store, T.queue, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_queue_exists(T.store, NULL, &exists));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "exists", pgqrs_queue_exists(T.store, T.queue, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_queue_list(T.store, 0, 0, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_queue_pause(T.store, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_queue_resume(T.store, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_queue_delete(T.store, NULL, true));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_queue_purge(T.store, NULL, NULL, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_create(NULL, "q", NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_update(NULL, "q", &desc));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_get(NULL, "q", &queue));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_exists(NULL, "q", &exists));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_list(NULL, 0, 0, &queues));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_pause(NULL, "q"));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_resume(NULL, "q"));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_delete(NULL, "q", true));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_queue_purge(NULL, "q", NULL, NULL));
}

static void queue_calls_name_the_unknown_queue(void)
{
    pgqrs_queue *queue = (pgqrs_queue *)&queue;
    bool exists = true;
    pgqrs_queue_desc desc = {.lease_ms = 1};
    OK(pgqrs_queue_get(T.store, "nowhere", &queue));
    YES(queue == NULL);
    OK(pgqrs_queue_exists(T.store, "nowhere", &exists));
    NO(exists);
    OK(pgqrs_queue_exists(T.store, T.queue, &exists));
    YES(exists);
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_queue_update(T.store, "nowhere", &desc));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_queue_pause(T.store, "nowhere"));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_queue_resume(T.store, "nowhere"));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_queue_delete(T.store, "nowhere", false));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_queue_delete(T.store, "nowhere", true));
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "nowhere", pgqrs_queue_purge(T.store, "nowhere", NULL, NULL));
}

static void queue_update_changes_what_is_given(void)
{
    pgqrs_queue_desc change = {.lease_ms = 4000, .backoff_max_ms = 9000, .retention_ms = 5000, .paused = true};
    const pgqrs_queue *queue;
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    queue = look_queue(T.queue);
    EQ(4000, queue->settings.lease_ms);
    EQ(TEST_MAX_ATTEMPTS, queue->settings.max_attempts);
    EQ(TEST_BACKOFF_MS, queue->settings.backoff_ms);
    EQ(9000, queue->settings.backoff_max_ms);
    EQ(5000, queue->settings.retention_ms);
    EQ(0, queue->settings.dead_retention_ms);
    NO(queue->settings.paused);
    put();
    EQ(T.now_us + 4 * SECOND_US, must_take()->lease_until_us);
}

static void queue_update_of_nothing_is_fine(void)
{
    pgqrs_queue_desc change = {0};
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    EQ(TEST_LEASE_MS, look_queue(T.queue)->settings.lease_ms);
}

static void queue_update_sets_retention_back_to_keep(void)
{
    pgqrs_queue_desc change = {.retention_ms = 5000, .dead_retention_ms = 6000};
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    EQ(6000, look_queue(T.queue)->settings.dead_retention_ms);
    change.retention_ms = -1;
    change.dead_retention_ms = 0;
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    EQ(0, look_queue(T.queue)->settings.retention_ms);
    EQ(6000, look_queue(T.queue)->settings.dead_retention_ms);
    change.retention_ms = 0;
    change.dead_retention_ms = -1;
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    EQ(0, look_queue(T.queue)->settings.dead_retention_ms);
}

static void queue_update_leaves_leases_alone(void)
{
    pgqrs_queue_desc change = {.lease_ms = 10};
    int64_t id = put();
    const pgqrs_message *message = must_take();
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    EQ(message->lease_until_us, must_look(id)->lease_until_us);
    advance_ms(1000);
    OK(pgqrs_archive(T.store, message));
}

static void queue_update_of_max_attempts_counts_at_the_next_failure(void)
{
    pgqrs_queue_desc change = {.max_attempts = 1};
    int64_t id = put();
    const pgqrs_message *message = must_take();
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    OK(pgqrs_release(T.store, message, NULL));
    STATE("dead", id);
}

static void paused_queue_delivers_nothing(void)
{
    int64_t id = put();
    OK(pgqrs_queue_pause(T.store, T.queue));
    YES(look_queue(T.queue)->settings.paused);
    YES(take() == NULL);
    EQ(0, take_many(10)->count);
    STATE("ready", id);
    YES(numbers().paused);
    OK(pgqrs_queue_resume(T.store, T.queue));
    NO(numbers().paused);
    EQ(id, must_take()->id);
}

static void paused_queue_takes_and_settles(void)
{
    int64_t a = put(), b;
    const pgqrs_message *message = must_take();
    pgqrs_settlement item;
    pgqrs_messages *next = NULL;
    OK(pgqrs_queue_pause(T.store, T.queue));
    b = put();
    OK(pgqrs_extend(T.store, message, 60000));
    item = pgqrs_settlement_for(message, PGQRS_ARCHIVE);
    OK(pgqrs_settle(T.store, &item, 1, T.queue, NULL, &next));
    keep(next);
    RESULT(PGQRS_OK, item.result);
    EQ(0, next->count);
    STATE("archived", a);
    STATE("ready", b);
}

static void pause_and_resume_may_be_repeated(void)
{
    OK(pgqrs_queue_pause(T.store, T.queue));
    OK(pgqrs_queue_pause(T.store, T.queue));
    OK(pgqrs_queue_resume(T.store, T.queue));
    OK(pgqrs_queue_resume(T.store, T.queue));
    NO(look_queue(T.queue)->settings.paused);
}

static void queue_created_paused_waits_for_resume(void)
{
    pgqrs_queue_desc desc = {.paused = true};
    const char *queue = unique("paused");
    OK(pgqrs_queue_create(T.store, queue, &desc));
    put_into(queue, "1", (pgqrs_enqueue_desc){0});
    YES(take_with(T.store, queue, (pgqrs_dequeue_desc){0}) == NULL);
    OK(pgqrs_queue_resume(T.store, queue));
    YES(take_with(T.store, queue, (pgqrs_dequeue_desc){0}) != NULL);
}

static void queue_list_pages_by_id(void)
{
    enum { many = 25 };
    int64_t after = 0, last = 0;
    size_t seen = 0, pages = 0;
    int i;
    for (i = 0; i < many; i++) {
        char name[32];
        snprintf(name, sizeof(name), "list-%02d", i);
        OK(pgqrs_queue_create(T.store, name, NULL));
    }
    for (;;) {
        pgqrs_queues *page = NULL;
        size_t j;
        OK(pgqrs_queue_list(T.store, after, 10, &page));
        keep(page);
        assert_non_null(page);
        if (page->count == 0)
            break;
        YES(page->count <= 10);
        for (j = 0; j < page->count; j++) {
            char name[32];
            snprintf(name, sizeof(name), "list-%02d", (int)seen);
            SAME(name, page->items[j].name);
            EQ(30000, page->items[j].settings.lease_ms);
            YES(page->items[j].id > last);
            last = page->items[j].id;
            seen++;
        }
        after = last;
        YES(++pages < 10);
    }
    EQ(many, seen);
    EQ(3, pages);
}

static void queue_list_limits(void)
{
    pgqrs_queues *page = NULL;
    int i;
    for (i = 0; i < 105; i++) {
        char name[32];
        snprintf(name, sizeof(name), "limit-%03d", i);
        OK(pgqrs_queue_create(T.store, name, NULL));
    }
    OK(pgqrs_queue_list(T.store, 0, 0, &page));
    keep(page);
    EQ(100, page->count);
    OK(pgqrs_queue_list(T.store, 0, 1000, &page));
    keep(page);
    EQ(105, page->count);
    page = NULL;
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_queue_list(T.store, 0, 1001, &page));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_queue_list(T.store, -1, 10, &page));
    YES(page == NULL);
}

static void queue_list_of_nothing_is_empty(void)
{
    pgqrs_queues *page = NULL;
    OK(pgqrs_queue_list(T.store, 0, 0, &page));
    assert_non_null(page);
    keep(page);
    EQ(0, page->count);
}

static void queue_delete_of_an_empty_queue(void)
{
    bool exists = true;
    OK(pgqrs_queue_delete(T.store, T.queue, false));
    OK(pgqrs_queue_exists(T.store, T.queue, &exists));
    NO(exists);
    FAILS(ERR_QUEUE_NOT_FOUND, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
}

static void queue_delete_is_refused_while_it_has_messages(void)
{
    static const char *const states[] = {"ready", "delayed", "leased", "archived", "dead"};
    size_t i;
    for (i = 0; i < COUNT_OF(states); i++) {
        int64_t id;
        switch (i) {
        case 1:
            id = put_as((pgqrs_enqueue_desc){.delay_ms = 1000});
            break;
        default:
            id = put();
            break;
        }
        if (i >= 2) {
            const pgqrs_message *message = must_take();
            if (i == 3)
                OK(pgqrs_archive(T.store, message));
            if (i == 4)
                OK(pgqrs_reject(T.store, message, NULL));
        }
        SAME(states[i], state_of(id));
        FAILS_NAMING(ERR_QUEUE_NOT_EMPTY, T.queue, pgqrs_queue_delete(T.store, T.queue, false));
        OK(pgqrs_message_delete(T.store, &id, 1, true, NULL));
    }
    OK(pgqrs_queue_delete(T.store, T.queue, false));
}

static void queue_delete_is_refused_while_it_has_live_workers(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    FAILS(ERR_QUEUE_NOT_EMPTY, pgqrs_queue_delete(T.store, T.queue, false));
    OK(pgqrs_worker_suspend(T.store, worker.id));
    FAILS(ERR_QUEUE_NOT_EMPTY, pgqrs_queue_delete(T.store, T.queue, false));
    OK(pgqrs_worker_shutdown(T.store, worker.id));
    OK(pgqrs_queue_delete(T.store, T.queue, false));
}

static void queue_delete_by_force_takes_everything(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    const char *other = another_queue("other");
    int64_t ids[5], kept = put_into(other, "1", (pgqrs_enqueue_desc){0}).id;
    const pgqrs_message *held;
    pgqrs_message *none = NULL;
    size_t i;
    put_batch(T.queue, 3, 0, ids);
    held = take_as((pgqrs_dequeue_desc){.worker = worker});
    assert_non_null(held);
    OK(pgqrs_archive(T.store, must_take()));
    OK(pgqrs_reject(T.store, must_take(), NULL));
    ids[3] = put_as((pgqrs_enqueue_desc){.delay_ms = 1000});
    ids[4] = put();
    OK(pgqrs_queue_delete(T.store, T.queue, true));
    for (i = 0; i < 5; i++)
        STATE("gone", ids[i]);
    STATE("ready", kept);
    YES(look_worker(worker.id) == NULL);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, held));
    FAILS(ERR_QUEUE_NOT_FOUND, pgqrs_dequeue(T.store, T.queue, NULL, &none));
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    NUMBERS(0, 0, 0, 0, 0);
    EQ(0, numbers().lease_expiries);
    YES(take() == NULL);
}

static void queue_deleted_and_made_again_by_another_store_is_noticed(void)
{
    pgqrs_store *other = another_store();
    int64_t id;
    put();
    OK(pgqrs_archive(T.store, must_take()));
    OK_ON(other, pgqrs_queue_delete(other, T.queue, true));
    FAILS(ERR_QUEUE_NOT_FOUND, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    OK_ON(other, pgqrs_queue_create(other, T.queue, NULL));
    id = put();
    EQ(id, must_take()->id);
}

static void purge_fills(int64_t ids[5])
{
    ids[0] = put();
    OK(pgqrs_archive(T.store, must_take()));
    ids[1] = put();
    OK(pgqrs_reject(T.store, must_take(), NULL));
    ids[2] = put();
    must_take();
    ids[3] = put_as((pgqrs_enqueue_desc){.delay_ms = 3600000});
    ids[4] = put();
    NUMBERS(1, 1, 1, 1, 1);
}

static void purge_removes_all(void)
{
    int64_t ids[5], removed = -1;
    const char *other = another_queue("other");
    int64_t kept = put_into(other, "1", (pgqrs_enqueue_desc){0}).id;
    purge_fills(ids);
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, &removed));
    EQ(5, removed);
    NUMBERS(0, 0, 0, 0, 0);
    STATE("ready", kept);
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, &removed));
    EQ(0, removed);
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, NULL));
}

static void purge_removes_archived_only(void)
{
    int64_t ids[5], removed = -1;
    purge_fills(ids);
    OK(pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.what = PGQRS_PURGE_ARCHIVED}, &removed));
    EQ(1, removed);
    STATE("gone", ids[0]);
    NUMBERS(1, 1, 1, 0, 1);
}

static void purge_removes_dead_only(void)
{
    int64_t ids[5], removed = -1;
    purge_fills(ids);
    OK(pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.what = PGQRS_PURGE_DEAD}, &removed));
    EQ(1, removed);
    STATE("gone", ids[1]);
    NUMBERS(1, 1, 1, 1, 0);
}

static void purge_removes_unfinished_only(void)
{
    int64_t ids[5], removed = -1;
    purge_fills(ids);
    OK(pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.what = PGQRS_PURGE_UNFINISHED}, &removed));
    EQ(3, removed);
    NUMBERS(0, 0, 0, 1, 1);
}

static void purge_by_age_counts_from_the_end(void)
{
    int64_t old_archived = put(), young_archived, old_dead, removed = -1;
    const pgqrs_message *message = must_take();
    advance_ms(1000);
    old_dead = put();
    OK(pgqrs_reject(T.store, must_take(), NULL));
    OK(pgqrs_archive(T.store, message));
    advance_ms(10000);
    young_archived = put();
    OK(pgqrs_archive(T.store, must_take()));
    OK(pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.older_than_ms = 10001}, &removed));
    EQ(0, removed);
    OK(pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.older_than_ms = 9999}, &removed));
    EQ(2, removed);
    STATE("gone", old_archived);
    STATE("gone", old_dead);
    STATE("archived", young_archived);
}

static void purge_by_age_of_unfinished_counts_from_the_enqueue(void)
{
    int64_t old_ready = put(), removed = -1;
    int64_t old_delayed = put_as((pgqrs_enqueue_desc){.delay_ms = 3600000}), young;
    advance_ms(5000);
    young = put();
    OK(pgqrs_queue_purge(T.store, T.queue,
                         &(pgqrs_purge_desc){.what = PGQRS_PURGE_UNFINISHED, .older_than_ms = 4000}, &removed));
    EQ(2, removed);
    STATE("gone", old_ready);
    STATE("gone", old_delayed);
    STATE("ready", young);
}

static void purge_takes_the_lease_from_a_handler(void)
{
    int64_t ids[5];
    const pgqrs_messages *got;
    put_batch(T.queue, 5, 0, ids);
    got = take_many(5);
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, NULL));
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, &got->items[0]));
    FAILS(ERR_LEASE_LOST, pgqrs_extend(T.store, &got->items[1], 1000));
    advance_ms(TEST_LEASE_MS + 1);
    YES(take() == NULL);
    NUMBERS(0, 0, 0, 0, 0);
}

static void purge_leaves_workers_alone(void)
{
    pgqrs_worker_ref worker = enlist(unique("w"), T.queue);
    put();
    assert_non_null(take_as((pgqrs_dequeue_desc){.worker = worker}));
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, NULL));
    EQ(PGQRS_WORKER_READY, must_look_worker(worker.id)->state);
    EQ(0, must_look_worker(worker.id)->held);
}

static void purge_of_a_part_of_a_batch(void)
{
    int64_t ids[20];
    const pgqrs_messages *got;
    int64_t removed = -1;
    size_t i;
    put_batch(T.queue, 20, 0, ids);
    got = take_many(10);
    OK(pgqrs_archive_many(T.store, got->items, 5, NULL));
    OK(pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.what = PGQRS_PURGE_ARCHIVED}, &removed));
    EQ(5, removed);
    for (i = 0; i < 20; i++)
        SAME(i < 5 ? "gone" : i < 10 ? "leased" : "ready", state_of(ids[i]));
    OK(pgqrs_archive_many(T.store, got->items + 5, 5, NULL));
    NUMBERS(10, 0, 0, 5, 0);
}

static void purge_refuses_what_makes_no_sense(void)
{
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.older_than_ms = -1}, NULL));
    FAILS(ERR_INVALID_ARGUMENT,
          pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.what = (pgqrs_purge)9}, NULL));
    FAILS(ERR_INVALID_ARGUMENT,
          pgqrs_queue_purge(T.store, T.queue, &(pgqrs_purge_desc){.older_than_ms = INT64_MAX}, NULL));
}

static void retention_removes_old_archived_messages(void)
{
    pgqrs_queue_desc change = {.retention_ms = 60000};
    int64_t old, young, dead;
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    old = put();
    OK(pgqrs_archive(T.store, must_take()));
    dead = put();
    OK(pgqrs_reject(T.store, must_take(), NULL));
    advance_ms(50000);
    young = put();
    OK(pgqrs_archive(T.store, must_take()));
    maintain_all();
    STATE("archived", old);
    advance_ms(10001);
    YES(maintain_all() >= 1);
    STATE("gone", old);
    STATE("archived", young);
    STATE("dead", dead);
    advance_ms(60000);
    maintain_all();
    STATE("gone", young);
    STATE("dead", dead);
}

static void retention_removes_old_dead_letters(void)
{
    pgqrs_queue_desc change = {.dead_retention_ms = 60000};
    int64_t archived, dead;
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    archived = put();
    OK(pgqrs_archive(T.store, must_take()));
    dead = put();
    OK(pgqrs_reject(T.store, must_take(), NULL));
    advance_ms(59999);
    maintain_all();
    STATE("dead", dead);
    advance_ms(2);
    maintain_all();
    STATE("gone", dead);
    STATE("archived", archived);
}

static void retention_works_through_many_bit_by_bit(void)
{
    enum { many = 2500 };
    pgqrs_queue_desc change = {.retention_ms = 1000};
    const pgqrs_messages *got;
    int64_t live;
    OK(pgqrs_queue_update(T.store, T.queue, &change));
    put_batch(T.queue, many, 0, NULL);
    got = take_many(many);
    OK(pgqrs_archive_many(T.store, got->items, got->count, NULL));
    live = put();
    EQ(many, numbers().archived);
    advance_ms(1001);
    maintain_all();
    NUMBERS(1, 0, 0, 0, 0);
    STATE("ready", live);
}

static void retention_of_nothing_keeps_everything(void)
{
    int64_t id = put();
    OK(pgqrs_archive(T.store, must_take()));
    advance_ms(INT64_C(86400000) * 3650);
    maintain_all();
    STATE("archived", id);
}

static void maintain_does_what_fell_due(void)
{
    int64_t delayed = put_as((pgqrs_enqueue_desc){.delay_ms = 1000}), expiring, leased, doomed, changed = -1;
    int i;
    doomed = put();
    for (i = 1; i < TEST_MAX_ATTEMPTS; i++)
        OK(pgqrs_release(T.store, must_take(), NULL));
    EQ(doomed, must_take()->id);
    leased = put();
    EQ(leased, must_take()->id);
    expiring = put_as((pgqrs_enqueue_desc){.expire_ms = 1000});
    advance_ms(TEST_LEASE_MS + 1);
    YES(maintain_all() >= 4);
    STATE("ready", delayed);
    STATE("ready", leased);
    STATE("archived", expiring);
    STATE("dead", doomed);
    OK(pgqrs_maintain(T.store, &changed));
    EQ(0, changed);
    OK(pgqrs_maintain(T.store, NULL));
    NUMBERS(2, 0, 0, 1, 1);
    EQ(2, numbers().lease_expiries);
}

static const test_case queue_cases[] = {
    CASE(queue_has_the_default_settings, FRESH),
    CASE(queue_takes_the_stores_defaults, FRESH | NO_QUEUE),
    CASE(queue_keeps_its_settings, FRESH),
    CASE(queue_created_again_is_left_as_it_is, PLAIN),
    CASE(queue_that_must_be_new, PLAIN),
    CASE(queue_names_are_compared_byte_by_byte, FRESH),
    CASE(queue_name_of_255_bytes_is_the_longest, FRESH),
    CASE(queue_name_must_be_clean, PLAIN),
    CASE(queue_refuses_settings_out_of_range, PLAIN),
    CASE(queue_calls_refuse_missing_arguments, PLAIN),
    CASE(queue_calls_name_the_unknown_queue, PLAIN),
    CASE(queue_update_changes_what_is_given, PLAIN),
    CASE(queue_update_of_nothing_is_fine, PLAIN),
    CASE(queue_update_sets_retention_back_to_keep, PLAIN),
    CASE(queue_update_leaves_leases_alone, PLAIN),
    CASE(queue_update_of_max_attempts_counts_at_the_next_failure, PLAIN),
    CASE(paused_queue_delivers_nothing, PLAIN),
    CASE(paused_queue_takes_and_settles, PLAIN),
    CASE(pause_and_resume_may_be_repeated, PLAIN),
    CASE(queue_created_paused_waits_for_resume, PLAIN),
    CASE(queue_list_pages_by_id, FRESH | NO_QUEUE),
    CASE(queue_list_limits, FRESH | NO_QUEUE),
    CASE(queue_list_of_nothing_is_empty, FRESH | NO_QUEUE),
    CASE(queue_delete_of_an_empty_queue, PLAIN),
    CASE(queue_delete_is_refused_while_it_has_messages, PLAIN),
    CASE(queue_delete_is_refused_while_it_has_live_workers, PLAIN),
    CASE(queue_delete_by_force_takes_everything, PLAIN),
    CASE(queue_deleted_and_made_again_by_another_store_is_noticed, TWO),
    CASE(purge_removes_all, PLAIN),
    CASE(purge_removes_archived_only, PLAIN),
    CASE(purge_removes_dead_only, PLAIN),
    CASE(purge_removes_unfinished_only, PLAIN),
    CASE(purge_by_age_counts_from_the_end, PLAIN),
    CASE(purge_by_age_of_unfinished_counts_from_the_enqueue, PLAIN),
    CASE(purge_takes_the_lease_from_a_handler, PLAIN),
    CASE(purge_leaves_workers_alone, PLAIN),
    CASE(purge_of_a_part_of_a_batch, PLAIN),
    CASE(purge_refuses_what_makes_no_sense, PLAIN),
    CASE(retention_removes_old_archived_messages, FRESH),
    CASE(retention_removes_old_dead_letters, FRESH),
    CASE(retention_works_through_many_bit_by_bit, FRESH),
    CASE(retention_of_nothing_keeps_everything, FRESH),
    CASE(maintain_does_what_fell_due, FRESH),
};
