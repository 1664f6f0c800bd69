/* Several processes, real time: work shared without loss or overlap, crashes, waiting and being woken. */

enum { PRODUCERS = 2, CONSUMERS = 3, PER_PRODUCER = 150 };

typedef struct shared_work {
    int number;
    int ids;     /* write end: what was handled */
    int go_on;   /* read end: closed by the parent when all is done */
    int enqueued;
    bool with_loop;
} shared_work;

static int produce_in_child(void *user)
{
    shared_work *work_of = (shared_work *)user;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    int i, sent = 0;
    close(work_of->ids);
    while (sent < PER_PRODUCER) {
        pgqrs_enqueue_item items[7];
        pgqrs_receipt receipts[7];
        int count = 1 + (sent + work_of->number) % 7;
        if (count > PER_PRODUCER - sent)
            count = PER_PRODUCER - sent;
        memset(items, 0, sizeof(items));
        for (i = 0; i < count; i++)
            items[i].payload = "1";
        if (pgqrs_enqueue_many(store, T.queue, items, (size_t)count, receipts) != PGQRS_OK) {
            fprintf(stderr, "# producer: %s\n", pgqrs_last_error(store)->message);
            return 1;
        }
        for (i = 0; i < count; i++)
            if (write(work_of->enqueued, &receipts[i].id, sizeof(receipts[i].id)) != (ssize_t)sizeof(receipts[i].id))
                return 2;
        sent += count;
    }
    pgqrs_close(store);
    return 0;
}

static bool all_is_done(int go_on)
{
    struct pollfd ready;
    ready.fd = go_on;
    ready.events = POLLIN;
    ready.revents = 0;
    return poll(&ready, 1, 0) > 0;
}

static int consume_in_child(void *user)
{
    shared_work *work_of = (shared_work *)user;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_dequeue_desc claim = {0};
    pgqrs_messages *messages = NULL;
    close(work_of->enqueued);
    claim.limit = (size_t)(1 + work_of->number * 3);
    claim.wait_ms = 100;
    while (!all_is_done(work_of->go_on)) {
        pgqrs_settlement items[16];
        size_t i;
        if (pgqrs_dequeue_many(store, T.queue, &claim, &messages) != PGQRS_OK) {
            fprintf(stderr, "# consumer: %s\n", pgqrs_last_error(store)->message);
            return 1;
        }
        for (i = 0; i < messages->count; i++)
            items[i] = pgqrs_settlement_for(&messages->items[i], PGQRS_ARCHIVE);
        if (pgqrs_settle(store, items, messages->count, NULL, NULL, NULL) != PGQRS_OK) {
            fprintf(stderr, "# consumer: %s\n", pgqrs_last_error(store)->message);
            return 2;
        }
        for (i = 0; i < messages->count; i++)
            if (items[i].result != PGQRS_OK ||
                write(work_of->ids, &items[i].id, sizeof(items[i].id)) != (ssize_t)sizeof(items[i].id))
                return 3;
        pgqrs_free(messages);
    }
    pgqrs_close(store);
    return 0;
}

static pgqrs_result tell_id(const pgqrs_message *message, void *user)
{
    shared_work *work_of = (shared_work *)user;
    return write(work_of->ids, &message->id, sizeof(message->id)) == (ssize_t)sizeof(message->id) ? PGQRS_OK
                                                                                                   : PGQRS_ERR_HANDLER;
}

static int work_in_child(void *user)
{
    shared_work *work_of = (shared_work *)user;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_worker *worker = pgqrs_worker_open(store, T.queue, tell_id, NULL, work_of, NULL);
    close(work_of->enqueued);
    if (!worker) {
        fprintf(stderr, "# worker: %s\n", pgqrs_last_error(store)->message);
        return 1;
    }
    while (!all_is_done(work_of->go_on))
        if (pgqrs_worker_poll(worker, 100, NULL) != PGQRS_OK) {
            fprintf(stderr, "# worker: %s\n", pgqrs_last_error(store)->message);
            return 2;
        }
    if (pgqrs_worker_close(worker) != PGQRS_OK)
        return 3;
    pgqrs_close(store);
    return 0;
}

static int compare_ids(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

/* Reads ids until `count` have come, or nothing comes for 20 seconds. */
static size_t read_ids(int descriptor, int64_t *ids, size_t count)
{
    size_t have = 0;
    while (have < count * sizeof(*ids)) {
        struct pollfd ready;
        ssize_t size;
        ready.fd = descriptor;
        ready.events = POLLIN;
        ready.revents = 0;
        if (poll(&ready, 1, 20000) <= 0)
            break;
        size = read(descriptor, (char *)ids + have, count * sizeof(*ids) - have);
        if (size <= 0)
            break;
        have += (size_t)size;
    }
    return have / sizeof(*ids);
}

static void share_work(child_function consumer)
{
    enum { all = PRODUCERS * PER_PRODUCER };
    static int64_t sent[all + 1], done[all * 2];
    int handled[2], go_on[2], enqueued[2];
    pid_t children[PRODUCERS + CONSUMERS];
    shared_work work_of[PRODUCERS + CONSUMERS];
    size_t i, sent_count, done_count;
    char extra;
    close_all_stores();
    EQ(0, pipe(handled));
    EQ(0, pipe(go_on));
    EQ(0, pipe(enqueued));
    for (i = 0; i < COUNT_OF(children); i++) {
        work_of[i].number = (int)i;
        work_of[i].ids = handled[1];
        work_of[i].go_on = go_on[0];
        work_of[i].enqueued = enqueued[1];
        children[i] = fork();
        if (children[i] == 0) {
            close(handled[0]);
            close(go_on[1]);
            close(enqueued[0]);
            alarm(60);
            _exit(i < PRODUCERS ? produce_in_child(&work_of[i]) : consumer(&work_of[i]));
        }
        YES(children[i] > 0);
    }
    close(handled[1]);
    close(go_on[0]);
    close(enqueued[1]);
    sent_count = read_ids(enqueued[0], sent, all);
    done_count = read_ids(handled[0], done, all);
    close(go_on[1]);
    for (i = 0; i < COUNT_OF(children); i++)
        child_ended_well(children[i]);
    /* Nothing may come after the last one. */
    while (done_count < COUNT_OF(done) && read(handled[0], &done[done_count], sizeof(done[0])) == (ssize_t)sizeof(done[0]))
        done_count++;
    EQ(0, read(enqueued[0], &extra, 1));
    close(handled[0]);
    close(enqueued[0]);
    EQ(all, sent_count);
    EQ(all, done_count);
    qsort(sent, all, sizeof(sent[0]), compare_ids);
    qsort(done, all, sizeof(done[0]), compare_ids);
    for (i = 0; i < all; i++) {
        EQ(sent[i], done[i]);
        if (i > 0)
            YES(sent[i] != sent[i - 1]);
    }
    T.store = open_store(NULL);
    NUMBERS(0, 0, 0, all, 0);
    OK(pgqrs_verify(T.store));
}

static void processes_share_the_work_by_hand(void)
{
    share_work(consume_in_child);
}

static void processes_share_the_work_in_loops(void)
{
    share_work(work_in_child);
    EQ(0, worker_rows());
}

/* A store whose clock is the real one plus what the test adds. */
static int64_t clock_offset_us;
static int64_t shifted_now(void *user)
{
    (void)user;
    return real_us() + clock_offset_us;
}

static pgqrs_store_desc shifted_desc(void)
{
    pgqrs_store_desc desc = real_time_desc();
    desc.clock.now_us = shifted_now;
    return desc;
}

typedef struct crash {
    int tell;
    bool with_worker;
} crash;

static int claim_and_hang_in_child(void *user)
{
    crash *how = (crash *)user;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc claim = {.lease_ms = 20000};
    if (how->with_worker && pgqrs_worker_register(store, "crasher", &(pgqrs_register_desc){.queue = T.queue}, &claim.worker) != PGQRS_OK)
        return 1;
    if (pgqrs_dequeue(store, T.queue, &claim, &message) != PGQRS_OK || !message)
        return 2;
    if (write(how->tell, &message->id, sizeof(message->id)) != (ssize_t)sizeof(message->id))
        return 3;
    for (;;)
        pause();
}

static int64_t crash_while_holding(bool with_worker)
{
    int pipes[2], status = 0;
    crash how;
    pid_t child;
    int64_t id = 0;
    EQ(0, pipe(pipes));
    how.tell = pipes[1];
    how.with_worker = with_worker;
    child = start_child(claim_and_hang_in_child, &how);
    EQ(1, read_ids(pipes[0], &id, 1));
    EQ(0, kill(child, SIGKILL));
    EQ(child, waitpid(child, &status, 0));
    YES(WIFSIGNALED(status));
    close(pipes[0]);
    close(pipes[1]);
    return id;
}

static void killed_consumer_loses_its_lease_and_nothing_else(void)
{
    pgqrs_store_desc desc = shifted_desc();
    const pgqrs_message *message;
    int64_t id;
    clock_offset_us = 0;
    reopen_with(&desc);
    put_batch(T.queue, 1, 0, &id);
    close_all_stores();
    EQ(id, crash_while_holding(false));
    T.store = open_store(&desc);
    YES(take() == NULL);
    STATE("leased", id);
    clock_offset_us = 20001000;
    message = must_take();
    EQ(id, message->id);
    EQ(2, message->attempt);
    SAME(SECRET_PAYLOAD, message->payload);
    OK(pgqrs_archive(T.store, message));
    OK(pgqrs_verify(T.store));
}

static void killed_worker_can_take_over_its_own_name(void)
{
    pgqrs_store_desc desc = shifted_desc();
    pgqrs_worker_ref worker;
    int64_t id;
    clock_offset_us = 0;
    reopen_with(&desc);
    id = put();
    close_all_stores();
    crash_while_holding(true);
    T.store = open_store(&desc);
    FAILS(ERR_WORKER_ACTIVE, pgqrs_worker_register(T.store, "crasher", NULL, &worker));
    clock_offset_us = 5 * SECOND_US;
    OK(pgqrs_worker_register(T.store, "crasher", &(pgqrs_register_desc){.stale_ms = 4000}, &worker));
    STATE("ready", id);
    EQ(2, take_as(by(worker))->attempt);
}

static void killed_worker_can_be_reclaimed_early(void)
{
    pgqrs_store_desc desc = shifted_desc();
    int64_t id, workers = -1, messages = -1;
    clock_offset_us = 0;
    reopen_with(&desc);
    id = put();
    close_all_stores();
    crash_while_holding(true);
    T.store = open_store(&desc);
    clock_offset_us = 5 * SECOND_US;
    OK(pgqrs_worker_reclaim(T.store, T.queue, 4000, &workers, &messages));
    EQ(1, workers);
    EQ(1, messages);
    STATE("ready", id);
}

/* Enqueues and is killed right after the acknowledgement. */
static int enqueue_and_die_in_child(void *user)
{
    int tell = *(int *)user;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_receipt receipt;
    int i;
    for (i = 0; i < 20; i++) {
        if (pgqrs_enqueue(store, T.queue, SECRET_PAYLOAD, NULL, &receipt) != PGQRS_OK)
            return 1;
        if (write(tell, &receipt.id, sizeof(receipt.id)) != (ssize_t)sizeof(receipt.id))
            return 2;
    }
    kill(getpid(), SIGKILL);
    return 3;
}

static void acknowledged_enqueues_survive_a_killed_producer(void)
{
    int pipes[2], status = 0;
    int64_t ids[20];
    pid_t child;
    size_t i;
    close_all_stores();
    EQ(0, pipe(pipes));
    child = start_child(enqueue_and_die_in_child, &pipes[1]);
    EQ(20, read_ids(pipes[0], ids, 20));
    EQ(child, waitpid(child, &status, 0));
    YES(WIFSIGNALED(status));
    close(pipes[0]);
    close(pipes[1]);
    T.store = open_store(NULL);
    for (i = 0; i < 20; i++)
        STATE("ready", ids[i]);
    OK(pgqrs_verify(T.store));
}

/* --- producers that commit late --- */

static PGconn *begin_on(pgqrs_store **store)
{
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    PGconn *connection = open_connection(run.dsn);
    *store = pgqrs_open_pgconn(connection, &desc, &err);
    if (!*store)
        fail_at(__FILE__, __LINE__, "pgqrs_open_pgconn: %s", err.message);
    remember_store(*store);
    PQclear(PQexec(connection, "BEGIN"));
    return connection;
}

static void end_on(PGconn *connection, const char *how)
{
    PGresult *result = PQexec(connection, how);
    EQ(PGRES_COMMAND_OK, PQresultStatus(result));
    PQclear(result);
}

/* Whatever a consumer remembers about where the queue begins must not hide what was enqueued earlier and committed later. */
static void messages_that_are_committed_late_are_delivered(void)
{
    enum { rounds = 120 };
    pgqrs_store *slow, *slower;
    PGconn *slow_connection = begin_on(&slow), *slower_connection = begin_on(&slower);
    pgqrs_receipt first, second, third;
    int i;
    OK_ON(slower, pgqrs_enqueue(slower, T.queue, "1", NULL, &first));
    OK_ON(slow, pgqrs_enqueue(slow, T.queue, "1", NULL, &second));
    for (i = 0; i < rounds; i++) {
        int64_t id = put();
        const pgqrs_message *message = must_take();
        EQ(id, message->id);
        OK(pgqrs_archive(T.store, message));
        if (i % 10 == 0)
            advance_ms(400);
    }
    YES(take() == NULL);
    end_on(slow_connection, "COMMIT");
    EQ(second.id, must_take()->id);
    YES(take() == NULL);
    OK_ON(slower, pgqrs_enqueue(slower, T.queue, "1", NULL, &third));
    for (i = 0; i < rounds; i++) {
        put();
        OK(pgqrs_archive(T.store, must_take()));
        if (i % 10 == 0)
            advance_ms(400);
    }
    end_on(slower_connection, "COMMIT");
    EQ(first.id, must_take()->id);
    EQ(third.id, must_take()->id);
    YES(take() == NULL);
    OK(pgqrs_verify(T.store));
}

/* The transaction with the younger number draws the older place, and ends last. Nobody else ends one in between: so its number is beyond all
 * that a consumer's snapshot knows of. */
static void messages_of_younger_transactions_are_delivered(void)
{
    enum { earlier = 8, in_between = 5 };
    pgqrs_store *older, *younger;
    PGconn *older_connection = begin_on(&older), *younger_connection = begin_on(&younger);
    pgqrs_receipt first;
    int i;
    OK_ON(older, pgqrs_enqueue(older, T.queue, "1", NULL, NULL));
    OK_ON(younger, pgqrs_enqueue(younger, T.queue, "1", NULL, &first));
    for (i = 1; i < earlier; i++)
        OK_ON(older, pgqrs_enqueue(older, T.queue, "1", NULL, NULL));
    end_on(older_connection, "COMMIT");
    for (i = 0; i < in_between; i++) {
        YES(must_take()->id != first.id);
        advance_ms(150);
    }
    end_on(younger_connection, "COMMIT");
    for (i = in_between; i < earlier && must_take()->id != first.id; i++)
        continue;
    BETWEEN(in_between, in_between + 1, i);
}

static void messages_that_are_rolled_back_late_are_not_missed(void)
{
    pgqrs_store *slow;
    PGconn *connection = begin_on(&slow);
    int64_t ids[50];
    const pgqrs_messages *got;
    size_t i;
    OK_ON(slow, pgqrs_enqueue(slow, T.queue, "1", NULL, NULL));
    put_batch(T.queue, 50, 0, ids);
    end_on(connection, "ROLLBACK");
    got = take_many(100);
    EQ(50, got->count);
    for (i = 0; i < 50; i++)
        EQ(ids[i], got->items[i].id);
}

/* In a session whose transactions are not READ COMMITTED unless somebody says so. */
static int delete_soon_in_child(void *user)
{
    pgqrs_store_desc desc = test_desc();
    PGconn *connection = PQconnectdb(run.dsn);
    pgqrs_store *store = pgqrs_open_pgconn(connection, &desc, NULL);
    (void)user;
    PQclear(PQexec(connection, "SET default_transaction_isolation = 'repeatable read'"));
    if (!store)
        return 1;
    sleep_ms(200);
    if (pgqrs_queue_delete(store, T.queue, true) != PGQRS_OK)
        return 2;
    pgqrs_close(store);
    PQfinish(connection);
    return 0;
}

static void what_a_deletion_waited_for_is_deleted(void)
{
    pgqrs_store *slow;
    PGconn *connection;
    pid_t child;
    close_all_stores();
    child = start_child(delete_soon_in_child, NULL);
    connection = begin_on(&slow);
    OK_ON(slow, pgqrs_enqueue(slow, T.queue, "1", NULL, NULL));
    sleep_ms(500);
    end_on(connection, "COMMIT");
    child_ended_well(child);
    EQ(0, raw_int("SELECT count(*) FROM @pgqrs_messages WHERE queue_id NOT IN (SELECT id FROM @pgqrs_queues)"));
    EQ(0, raw_int("SELECT count(*) FROM @pgqrs_ready WHERE queue_id NOT IN (SELECT id FROM @pgqrs_queues)"));
}

/* --- waiting --- */

/* Who is not woken finds it by looking, after three seconds at the earliest, each time. A machine with much to do may once take as
 * long for everything else: the quickest of several tries counts. */
static void must_be_soon(int64_t (*time_of_a_try)(void))
{
    enum { SOON_MS = 2500, TRIES = 7 };
    int64_t took = time_of_a_try();
    for (int tries = 1; took > SOON_MS && tries < TRIES; tries++)
        took = time_of_a_try();
    BETWEEN(0, SOON_MS, took);
}

static int enqueue_soon_in_child(void *user)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    (void)user;
    sleep_ms(300);
    if (pgqrs_enqueue(store, T.queue, "1", NULL, NULL) != PGQRS_OK)
        return 1;
    pgqrs_close(store);
    return 0;
}

/* Behind a pooler nobody can be woken: there, poll_ms decides. */
static int64_t patient_poll_ms(void)
{
    return on(ON_PGBOUNCER) ? 100 : 8000;
}

static int64_t time_until_a_dequeue_is_woken(void)
{
    pgqrs_store_desc desc = real_time_desc();
    const pgqrs_message *message;
    pid_t child;
    int64_t start, took;
    desc.poll_ms = patient_poll_ms();
    close_all_stores();
    child = start_child(enqueue_soon_in_child, NULL);
    T.store = open_store(&desc);
    start = monotonic_ms();
    message = take_as((pgqrs_dequeue_desc){.wait_ms = 20000});
    took = monotonic_ms() - start;
    YES(message != NULL);
    OK(pgqrs_archive(T.store, message));
    child_ended_well(child);
    return took;
}

static void waiting_dequeue_is_woken_by_another_process(void)
{
    must_be_soon(time_until_a_dequeue_is_woken);
}

static int commit_soon_in_child(void *user)
{
    pgqrs_store_desc desc = real_time_desc();
    PGconn *connection = PQconnectdb(run.dsn);
    pgqrs_store *store = pgqrs_open_pgconn(connection, &desc, NULL);
    (void)user;
    if (!store)
        return 1;
    sleep_ms(200);
    PQclear(PQexec(connection, "BEGIN"));
    if (pgqrs_enqueue(store, T.queue, "1", NULL, NULL) != PGQRS_OK)
        return 2;
    sleep_ms(300);
    PQclear(PQexec(connection, "COMMIT"));
    pgqrs_close(store);
    PQfinish(connection);
    return 0;
}

static int64_t time_until_a_commit_wakes(void)
{
    pgqrs_store_desc desc = real_time_desc();
    const pgqrs_message *message;
    pid_t child;
    int64_t start, took;
    desc.poll_ms = patient_poll_ms();
    close_all_stores();
    start = monotonic_ms();
    child = start_child(commit_soon_in_child, NULL);
    T.store = open_store(&desc);
    message = take_as((pgqrs_dequeue_desc){.wait_ms = 20000});
    took = monotonic_ms() - start;
    YES(message != NULL);
    OK(pgqrs_archive(T.store, message));
    YES(took >= 500); /* not before it is committed */
    child_ended_well(child);
    return took;
}

static void waiting_dequeue_is_woken_by_the_commit_of_a_transaction(void)
{
    must_be_soon(time_until_a_commit_wakes);
}

/* Who no longer waits is not on the list of those to wake, or every enqueue would go on notifying for nobody. */
static void nobody_is_left_sleeping(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_worker *worker;
    reopen_with(&desc);
    YES(take_as((pgqrs_dequeue_desc){.wait_ms = 50}) == NULL);
    EQ(0, raw_int("SELECT count(*) FROM @pgqrs_sleepers"));
    begin_handlers();
    OK(work(handle, until_empty));
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    OK(pgqrs_worker_poll(worker, 50, NULL));
    OK(pgqrs_worker_close(worker));
    EQ(0, raw_int("SELECT count(*) FROM @pgqrs_sleepers"));
}

static int64_t time_until_a_loop_is_woken(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pid_t child;
    int64_t start, took;
    desc.poll_ms = patient_poll_ms();
    close_all_stores();
    child = start_child(enqueue_soon_in_child, NULL);
    T.store = open_store(&desc);
    begin_handlers();
    start = monotonic_ms();
    OK(work(handle, (pgqrs_work_desc){.max_messages = 1}));
    took = monotonic_ms() - start;
    EQ(1, H.calls);
    child_ended_well(child);
    return took;
}

static void waiting_loop_is_woken_by_another_process(void)
{
    must_be_soon(time_until_a_loop_is_woken);
}

static int64_t time_until_a_descriptor_speaks(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_worker *worker;
    pid_t child;
    int64_t start, took;
    int rounds = 0;
    size_t handled = 0;
    desc.poll_ms = patient_poll_ms();
    close_all_stores();
    child = start_child(enqueue_soon_in_child, NULL);
    T.store = open_store(&desc);
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    start = monotonic_ms();
    while (H.calls == 0 && monotonic_ms() - start < 20000) {
        struct pollfd ready;
        int64_t timeout = pgqrs_worker_next_ms(worker);
        YES(timeout >= 0);
        ready.fd = pgqrs_worker_fd(worker);
        ready.events = POLLIN;
        ready.revents = 0;
        poll(&ready, ready.fd >= 0 ? 1 : 0, (int)(timeout < 20000 ? timeout : 20000));
        OK(pgqrs_worker_poll(worker, 0, &handled));
        rounds++;
    }
    took = monotonic_ms() - start;
    EQ(1, H.calls);
    /* It sleeps in between. */
    BETWEEN(1, 15 + 2 * took / patient_poll_ms(), rounds);
    OK(pgqrs_worker_close(worker));
    child_ended_well(child);
    return took;
}

static void descriptor_of_a_worker_speaks_when_something_comes(void)
{
    must_be_soon(time_until_a_descriptor_speaks);
}

static int64_t time_until_a_delay_wakes(void)
{
    pgqrs_store_desc desc = real_time_desc();
    const pgqrs_message *message;
    int64_t start, took;
    desc.poll_ms = 8000;
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    start = monotonic_ms();
    put_as((pgqrs_enqueue_desc){.delay_ms = 250});
    message = take_as((pgqrs_dequeue_desc){.wait_ms = 6000});
    took = monotonic_ms() - start;
    YES(message != NULL);
    OK(pgqrs_archive(T.store, message));
    YES(took >= 200);
    return took;
}

static void waiting_dequeue_is_woken_by_a_delay_that_ends(void)
{
    must_be_soon(time_until_a_delay_wakes);
}

static int64_t time_until_the_end_of_a_lease_wakes(void)
{
    pgqrs_store_desc desc = real_time_desc();
    const pgqrs_message *again;
    int64_t start, took;
    desc.poll_ms = 8000;
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    put();
    start = monotonic_ms();
    assert_non_null(take_as((pgqrs_dequeue_desc){.lease_ms = 250}));
    again = take_as((pgqrs_dequeue_desc){.wait_ms = 6000});
    took = monotonic_ms() - start;
    YES(again != NULL);
    YES(took >= 150);
    OK(pgqrs_archive(T.store, again));
    return took;
}

static void waiting_dequeue_is_woken_by_a_lease_that_ends(void)
{
    must_be_soon(time_until_the_end_of_a_lease_wakes);
}

/* Takes the message before the parent waits, and gives it back with a delay while the parent does. */
static int give_back_later_in_child(void *user)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_message *message = NULL;
    (void)user;
    if (pgqrs_dequeue(store, T.queue, NULL, &message) != PGQRS_OK || !message)
        return 1;
    sleep_ms(600);
    if (pgqrs_release(store, message, &(pgqrs_release_desc){.delay_ms = 400}) != PGQRS_OK)
        return 2;
    pgqrs_free(message);
    pgqrs_close(store);
    return 0;
}

static int64_t time_to_learn_of_a_delay(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_message_filter held = {.queue = T.queue, .state = PGQRS_LEASED};
    const pgqrs_message *message;
    pid_t child;
    int64_t start, took, leased = 0;
    desc.poll_ms = patient_poll_ms();
    put();
    close_all_stores();
    child = start_child(give_back_later_in_child, NULL);
    T.store = open_store(&desc);
    for (int i = 0; leased == 0 && i < 1000; i++) { /* until the child has it */
        sleep_ms(10);
        OK(pgqrs_message_count(T.store, &held, &leased));
    }
    start = monotonic_ms();
    message = take_as((pgqrs_dequeue_desc){.wait_ms = 20000});
    took = monotonic_ms() - start;
    YES(message != NULL);
    OK(pgqrs_archive(T.store, message));
    child_ended_well(child);
    return took;
}

static void waiting_dequeue_learns_of_a_delay_that_others_set(void)
{
    must_be_soon(time_to_learn_of_a_delay);
}

static int64_t time_until_an_empty_dequeue_ends(void)
{
    pgqrs_store_desc desc = real_time_desc();
    int64_t start, took;
    desc.poll_ms = 60000; /* who does not look at the deadline waits for that */
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    start = monotonic_ms();
    YES(take_as((pgqrs_dequeue_desc){.wait_ms = 200}) == NULL);
    took = monotonic_ms() - start;
    YES(took >= 190);
    return took;
}

static int64_t time_until_an_empty_dequeue_of_many_ends(void)
{
    pgqrs_messages *messages = NULL;
    pgqrs_dequeue_desc claim = {.limit = 5, .wait_ms = 200};
    int64_t start, took;
    start = monotonic_ms();
    OK(pgqrs_dequeue_many(T.store, T.queue, &claim, &messages));
    keep(messages);
    took = monotonic_ms() - start;
    EQ(0, messages->count);
    YES(took >= 190);
    return took;
}

static void waiting_dequeue_ends_empty_at_the_deadline(void)
{
    must_be_soon(time_until_an_empty_dequeue_ends);
    must_be_soon(time_until_an_empty_dequeue_of_many_ends);
}

static void waiting_does_not_keep_a_full_queue_waiting(void)
{
    pgqrs_store_desc desc = real_time_desc();
    int64_t start;
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    put_batch(T.queue, 3, 0, NULL);
    start = monotonic_ms();
    EQ(3, take_many_with(T.store, T.queue, (pgqrs_dequeue_desc){.limit = 10, .wait_ms = 60000})->count);
    BETWEEN(0, 30000, monotonic_ms() - start);
}

static void waiting_moves_the_manual_clock(void)
{
    int64_t start = T.now_us, id = put_as((pgqrs_enqueue_desc){.delay_ms = 5000});
    const pgqrs_message *message = take_as((pgqrs_dequeue_desc){.wait_ms = 60000});
    assert_non_null(message);
    EQ(id, message->id);
    BETWEEN(5 * SECOND_US, 6 * SECOND_US, T.now_us - start);
    start = T.now_us;
    YES(take_as((pgqrs_dequeue_desc){.wait_ms = 7000}) == NULL);
    BETWEEN(6990000, 8 * SECOND_US, T.now_us - start);
}

static void waiting_for_ever_ends_with_stop(void)
{
    pgqrs_stop(T.store);
    YES(take_as((pgqrs_dequeue_desc){.wait_ms = PGQRS_FOREVER}) == NULL);
    EQ(PGQRS_OK, pgqrs_last_error(T.store)->code);
    put();
    YES(take_as((pgqrs_dequeue_desc){.wait_ms = PGQRS_FOREVER}) != NULL);
}

static pgqrs_store *volatile signalled_store;
static pgqrs_worker *volatile signalled_worker;
static void on_alarm(int number)
{
    (void)number;
    if (signalled_store)
        pgqrs_stop(signalled_store);
    if (signalled_worker)
        pgqrs_worker_stop(signalled_worker);
}

static void alarm_in_ms(int ms)
{
    struct itimerval timer;
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_alarm;
    action.sa_flags = SA_RESTART; /* the unkind case: system calls go on by themselves */
    sigaction(SIGALRM, &action, NULL);
    memset(&timer, 0, sizeof(timer));
    timer.it_value.tv_sec = ms / 1000;
    timer.it_value.tv_usec = (ms % 1000) * 1000;
    /* Again and again, for the case that the first one comes too early. */
    timer.it_interval.tv_sec = 10;
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void alarm_over(void)
{
    struct itimerval timer;
    memset(&timer, 0, sizeof(timer));
    setitimer(ITIMER_REAL, &timer, NULL);
    signalled_store = NULL;
    signalled_worker = NULL;
    watch(90);
}

static int64_t time_until_a_signal_ends_a_dequeue(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc claim = {.wait_ms = PGQRS_FOREVER};
    pgqrs_result result;
    int64_t start, took;
    desc.poll_ms = patient_poll_ms();
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    start = monotonic_ms();
    signalled_store = T.store;
    alarm_in_ms(200);
    result = pgqrs_dequeue(T.store, T.queue, &claim, &message);
    took = monotonic_ms() - start;
    alarm_over();
    OK(result);
    YES(message == NULL);
    YES(took >= 150);
    return took;
}

static void stop_from_a_signal_handler_ends_a_waiting_dequeue(void)
{
    must_be_soon(time_until_a_signal_ends_a_dequeue);
}

static int64_t time_until_a_signal_ends_the_loop(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_result result;
    int64_t start, took, before;
    desc.poll_ms = patient_poll_ms();
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    begin_handlers();
    before = numbers().archived;
    put_batch(T.queue, 10, 0, NULL);
    start = monotonic_ms();
    signalled_store = T.store;
    alarm_in_ms(200);
    result = pgqrs_work(T.store, T.queue, handle, NULL, NULL);
    took = monotonic_ms() - start;
    alarm_over();
    OK(result);
    EQ(10, H.calls);
    YES(took >= 150);
    NUMBERS(0, 0, 0, before + 10, 0);
    EQ(0, worker_rows());
    return took;
}

static void stop_from_a_signal_handler_ends_the_loop(void)
{
    must_be_soon(time_until_a_signal_ends_the_loop);
}

static int64_t time_until_a_signal_ends_a_poll(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_worker *worker;
    pgqrs_result result;
    int64_t start, took;
    desc.poll_ms = patient_poll_ms();
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    begin_handlers();
    worker = pgqrs_worker_open(T.store, T.queue, handle, NULL, NULL, NULL);
    assert_non_null(worker);
    start = monotonic_ms();
    signalled_worker = worker;
    alarm_in_ms(200);
    result = pgqrs_worker_poll(worker, 30000, NULL);
    took = monotonic_ms() - start;
    alarm_over();
    OK(result);
    YES(took >= 150);
    YES(pgqrs_worker_stopping(worker));
    OK(pgqrs_worker_close(worker));
    return took;
}

static void stop_of_a_worker_from_a_signal_handler_ends_its_poll(void)
{
    must_be_soon(time_until_a_signal_ends_a_poll);
}

static void *stop_from_thread(void *store)
{
    sleep_ms(200);
    pgqrs_stop((pgqrs_store *)store);
    return NULL;
}

static int64_t time_until_a_thread_ends_a_dequeue(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc claim = {.wait_ms = 30000};
    pgqrs_result result;
    pthread_t thread;
    int64_t start, took;
    desc.poll_ms = patient_poll_ms();
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    start = monotonic_ms();
    EQ(0, pthread_create(&thread, NULL, stop_from_thread, T.store));
    result = pgqrs_dequeue(T.store, T.queue, &claim, &message);
    took = monotonic_ms() - start;
    EQ(0, pthread_join(thread, NULL));
    OK(result);
    YES(message == NULL);
    YES(took >= 150);
    return took;
}

static void stop_from_another_thread_ends_a_waiting_dequeue(void)
{
    must_be_soon(time_until_a_thread_ends_a_dequeue);
}

/* Until it is told to stop: the one that is refused may be this thread, too. */
static void *wait_in_thread(void *store)
{
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc claim = {.wait_ms = PGQRS_FOREVER};
    while (pgqrs_dequeue((pgqrs_store *)store, T.queue, &claim, &message) == PGQRS_ERR_WRONG_THREAD)
        sleep_ms(1);
    pgqrs_free(message);
    return NULL;
}

static void store_used_by_two_threads_at_once_is_refused(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pthread_t thread;
    pgqrs_result result = PGQRS_OK;
    int64_t start;
    reopen_with(&desc);
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    EQ(0, pthread_create(&thread, NULL, wait_in_thread, T.store));
    start = monotonic_ms();
    while (result != PGQRS_ERR_WRONG_THREAD && monotonic_ms() - start < 30000) {
        sleep_ms(20);
        result = pgqrs_queue_pause(T.store, "nowhere");
    }
    pgqrs_stop(T.store);
    EQ(0, pthread_join(thread, NULL));
    RESULT(PGQRS_ERR_WRONG_THREAD, result);
}

/* SQLite's locks do not survive a fork: what such a child stored could be lost when its parent closes. */
static void child_of_an_open_sqlite_store_is_refused(void)
{
    pid_t pid;
    put();
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        pgqrs_error err;
        pgqrs_store *opened = pgqrs_open(T.dsn, NULL, &err);
        _exit(opened ? 1 : err.code != PGQRS_ERR_UNSUPPORTED ? 2 : strstr(err.message, "before fork") == NULL ? 3 : 0);
    }
    child_ended_well(pid);
    NUMBERS(1, 0, 0, 0, 0);
    put();
    close_all_stores();
    T.store = open_store(NULL);
    NUMBERS(2, 0, 0, 0, 0);
}

static const test_case process_cases[] = {
    CASE_ON(processes_share_the_work_by_hand, PLAIN, ON_SHARED),
    CASE_ON(processes_share_the_work_in_loops, PLAIN, ON_SHARED),
    CASE_ON(killed_consumer_loses_its_lease_and_nothing_else, PLAIN, ON_SHARED),
    CASE_ON(killed_worker_can_take_over_its_own_name, FRESH, ON_SHARED),
    CASE_ON(killed_worker_can_be_reclaimed_early, FRESH, ON_SHARED),
    CASE_ON(acknowledged_enqueues_survive_a_killed_producer, PLAIN, ON_SHARED),
    CASE_ON(messages_that_are_committed_late_are_delivered, PLAIN, ON_SERVER),
    CASE_ON(what_a_deletion_waited_for_is_deleted, PLAIN, ON_POSTGRES),
    CASE_ON(messages_of_younger_transactions_are_delivered, PLAIN, ON_SERVER),
    CASE_ON(messages_that_are_rolled_back_late_are_not_missed, PLAIN, ON_SERVER),
    CASE_ON(waiting_dequeue_is_woken_by_another_process, PLAIN, ON_SHARED),
    CASE_ON(waiting_dequeue_is_woken_by_the_commit_of_a_transaction, PLAIN, ON_SERVER),
    CASE_ON(waiting_dequeue_learns_of_a_delay_that_others_set, PLAIN, ON_SERVER),
    CASE_ON(nobody_is_left_sleeping, FRESH, ON_SERVER),
    CASE_ON(waiting_loop_is_woken_by_another_process, PLAIN, ON_SHARED),
    CASE_ON(descriptor_of_a_worker_speaks_when_something_comes, PLAIN, ON_SHARED),
    CASE(waiting_dequeue_is_woken_by_a_delay_that_ends, PLAIN),
    CASE(waiting_dequeue_is_woken_by_a_lease_that_ends, PLAIN),
    CASE(waiting_dequeue_ends_empty_at_the_deadline, PLAIN),
    CASE(waiting_does_not_keep_a_full_queue_waiting, PLAIN),
    CASE(waiting_moves_the_manual_clock, PLAIN),
    CASE(waiting_for_ever_ends_with_stop, PLAIN),
    CASE(stop_from_a_signal_handler_ends_a_waiting_dequeue, PLAIN),
    CASE(stop_from_a_signal_handler_ends_the_loop, PLAIN),
    CASE(stop_of_a_worker_from_a_signal_handler_ends_its_poll, PLAIN),
    CASE(stop_from_another_thread_ends_a_waiting_dequeue, PLAIN),
    CASE(store_used_by_two_threads_at_once_is_refused, PLAIN),
    CASE_ON(child_of_an_open_sqlite_store_is_refused, PLAIN, ON_SQLITE_FILE),
};
