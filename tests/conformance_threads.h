/* Handlers and runs on a pool of threads, and producers that many threads share. What threads do to each other shows in real
 * time only, so the waiting is real here; the clock runs on by itself and leaps when a lease is to end. Tests wait for
 * what they want to see (reach), never for a time. Checks of cmocka stand on the thread of the test alone: handlers
 * write down what they saw. */

enum { THREADS_PATIENCE_MS = 60000, THREADS_SEEN_MAX = 4096 };

/* What handlers and helping threads share; under `lock`. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t test;
    pgqrs_store *loop;  /* the store that runs the loop */
    pgqrs_store *admin; /* for one thread at a time */
    int calls, ended;
    int running, most_running;
    int together; /* a handler waits until so many have run at the same time */
    int on_test_thread;
    bool open; /* the gate at which handlers wait */
    int unwanted, checks; /* of pgqrs_message_wanted */
    int64_t ids[THREADS_SEEN_MAX];
    int32_t attempts[THREADS_SEEN_MAX];
    int64_t most_leased;
    int64_t value;
    int64_t worker_id;
    pgqrs_result result, second;
    int steps[THREADS_SEEN_MAX]; /* bodies executed, by what the test counts */
} P = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int64_t clock_began_us;

/* The clock of the test, which runs on as the real one does. */
static int64_t running_now(void *user)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return test_now(user) + (int64_t)now.tv_sec * SECOND_US + now.tv_nsec / 1000 - clock_began_us;
}

static pgqrs_store_desc threaded_desc(void)
{
    pgqrs_store_desc desc = test_desc();
    memset(&desc.sleeper, 0, sizeof(desc.sleeper));
    desc.clock.now_us = running_now;
    desc.poll_ms = 10;
    return desc;
}

static pgqrs_queue_desc quick_queue_desc(void)
{
    pgqrs_queue_desc desc = test_queue_desc();
    desc.backoff_ms = 20;
    desc.backoff_max_ms = 40;
    return desc;
}

/* T.store with the running clock and a connection of its own; a database in memory begins anew. */
static void begin_threads(void)
{
    pgqrs_store_desc desc = threaded_desc();
    pgqrs_queue_desc queue = quick_queue_desc();
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    clock_began_us = (int64_t)now.tv_sec * SECOND_US + now.tv_nsec / 1000;
    close_store(T.store);
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    OK(on(ON_SQLITE_MEMORY) ? pgqrs_queue_create(T.store, T.queue, &queue) : pgqrs_queue_update(T.store, T.queue, &queue));
    pthread_mutex_lock(&P.lock);
    P.test = pthread_self();
    P.loop = T.store;
    P.admin = NULL;
    P.calls = P.ended = P.running = P.most_running = P.together = P.on_test_thread = P.unwanted = P.checks = 0;
    P.open = false;
    P.most_leased = P.value = P.worker_id = 0;
    P.result = P.second = PGQRS_OK;
    memset(P.ids, 0, sizeof(P.ids));
    memset(P.attempts, 0, sizeof(P.attempts));
    memset(P.steps, 0, sizeof(P.steps));
    pthread_mutex_unlock(&P.lock);
}

/* Another store on the same database, for handlers or for the test while a loop has T.store. */
static pgqrs_store *threads_admin(void)
{
    pgqrs_store_desc desc = threaded_desc();
    return P.admin = open_store(&desc);
}

static void changed(void)
{
    pthread_cond_broadcast(&P.changed);
}

/* Waits, with the lock held, for what other threads do. */
static bool wait_a_moment(int64_t began_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 5000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&P.changed, &P.lock, &until);
    return monotonic_ms() - began_ms < THREADS_PATIENCE_MS;
}

static bool reach_locked(const int *what, int value)
{
    int64_t began_ms = monotonic_ms();
    while (*what < value)
        if (!wait_a_moment(began_ms))
            return false;
    return true;
}

/* Waits until a counter of P is at least `value`. */
static bool reach(const int *what, int value)
{
    bool reached;
    pthread_mutex_lock(&P.lock);
    reached = reach_locked(what, value);
    pthread_mutex_unlock(&P.lock);
    return reached;
}

static int get(const int *what)
{
    int value;
    pthread_mutex_lock(&P.lock);
    value = *what;
    pthread_mutex_unlock(&P.lock);
    return value;
}

static int count_up(int *what)
{
    int value;
    pthread_mutex_lock(&P.lock);
    value = ++*what;
    changed();
    pthread_mutex_unlock(&P.lock);
    return value;
}

static void open_gate(void)
{
    pthread_mutex_lock(&P.lock);
    P.open = true;
    changed();
    pthread_mutex_unlock(&P.lock);
}

static bool wait_at_gate_for(int64_t patience_ms)
{
    int64_t began_ms = monotonic_ms();
    bool open;
    pthread_mutex_lock(&P.lock);
    while (!P.open && wait_a_moment(began_ms) && monotonic_ms() - began_ms < patience_ms) {
    }
    open = P.open;
    pthread_mutex_unlock(&P.lock);
    return open;
}

static bool wait_at_gate(void)
{
    return wait_at_gate_for(THREADS_PATIENCE_MS);
}

/* A handler begins. */
static int enter(const pgqrs_message *message)
{
    int call;
    pthread_mutex_lock(&P.lock);
    call = P.calls++;
    if (message && call < THREADS_SEEN_MAX) {
        P.ids[call] = message->id;
        P.attempts[call] = message->attempt;
        P.worker_id = message->worker_id;
    }
    P.running++;
    if (P.running > P.most_running)
        P.most_running = P.running;
    P.on_test_thread += pthread_equal(pthread_self(), P.test) != 0;
    changed();
    if (P.together)
        reach_locked(&P.most_running, P.together);
    pthread_mutex_unlock(&P.lock);
    return call;
}

static pgqrs_result leave(pgqrs_result result)
{
    pthread_mutex_lock(&P.lock);
    P.running--;
    P.ended++;
    changed();
    pthread_mutex_unlock(&P.lock);
    return result;
}

static int times_seen(int64_t id)
{
    int i, times = 0;
    pthread_mutex_lock(&P.lock);
    for (i = 0; i < P.calls && i < THREADS_SEEN_MAX; i++)
        times += P.ids[i] == id;
    pthread_mutex_unlock(&P.lock);
    return times;
}

/* pgqrs_work on a thread of its own, while the test looks on. */
typedef struct loop_thread {
    pthread_t thread;
    pgqrs_store *store;
    const char *queue;
    pgqrs_handler handler;
    pgqrs_workflow_handler runs; /* instead of it, for T.flow */
    pgqrs_work_desc desc;
    pgqrs_result result;
    pgqrs_error error;
    int ended;
} loop_thread;

static void *loop_main(void *argument)
{
    loop_thread *loop = (loop_thread *)argument;
    const char *queue = loop->queue ? loop->queue : T.queue;
    loop->result = loop->runs ? pgqrs_work_workflow(loop->store, T.flow, loop->runs, NULL, &loop->desc)
                              : pgqrs_work(loop->store, queue, loop->handler, NULL, &loop->desc);
    loop->error = *pgqrs_last_error(loop->store);
    pthread_mutex_lock(&P.lock);
    loop->ended = 1;
    changed();
    pthread_mutex_unlock(&P.lock);
    return NULL;
}

static void start_loop(loop_thread *loop)
{
    if (!loop->store)
        loop->store = T.store;
    EQ(0, pthread_create(&loop->thread, NULL, loop_main, loop));
}

static pgqrs_result end_of_loop(loop_thread *loop)
{
    YES(reach(&loop->ended, 1));
    EQ(0, pthread_join(loop->thread, NULL));
    return loop->result;
}

/* --- messages */

static pgqrs_result count_it(const pgqrs_message *message, void *user)
{
    (void)user;
    enter(message);
    return leave(PGQRS_OK);
}

static void all_messages_on(int32_t threads)
{
    enum { many = 300 };
    int64_t ids[many];
    int i;
    begin_threads();
    put_batch(T.queue, many, 0, ids);
    P.together = threads;
    OK(work(count_it, (pgqrs_work_desc){.threads = threads, .until_empty = true}));
    EQ(many, P.calls);
    EQ(threads, P.most_running);
    EQ(0, P.on_test_thread);
    for (i = 0; i < many; i++)
        EQ(1, times_seen(ids[i]));
    NUMBERS(0, 0, 0, many, 0);
    EQ(0, worker_rows());
    OK(pgqrs_verify(T.store));
}

static void one_thread_handles_all_messages_once(void)
{
    all_messages_on(1);
}

static void four_threads_handle_all_messages_once(void)
{
    all_messages_on(4);
}

static void sixteen_threads_handle_all_messages_once(void)
{
    all_messages_on(16);
}

static pgqrs_result settle_with_admin(const pgqrs_message *message, void *user)
{
    (void)user;
    enter(message);
    pthread_mutex_lock(&P.lock);
    pgqrs_result result = pgqrs_archive(P.admin, message);
    if (result)
        P.result = result;
    pthread_mutex_unlock(&P.lock);
    pgqrs_message_settled(message);
    return leave(PGQRS_ERR_HANDLER); /* does not count */
}

static void threads_leave_alone_what_handlers_settled(void)
{
    begin_threads();
    threads_admin();
    put_batch(T.queue, 100, 0, NULL);
    T.warnings = 0;
    OK(work(settle_with_admin, (pgqrs_work_desc){.threads = 4, .until_empty = true}));
    EQ(100, P.calls);
    RESULT(PGQRS_OK, P.result);
    NUMBERS(0, 0, 0, 100, 0);
    EQ(0, T.warnings);
    EQ(0, worker_rows());
    OK(pgqrs_verify(T.store));
}

static void threads_on_an_empty_queue_end_at_once(void)
{
    begin_threads();
    OK(work(count_it, (pgqrs_work_desc){.threads = 4, .until_empty = true}));
    EQ(0, P.calls);
}

static void one_thread_keeps_the_order(void)
{
    enum { many = 60 };
    int64_t low[many], high[many];
    int i;
    begin_threads();
    put_batch(T.queue, many, 0, low);
    put_batch(T.queue, many, 5, high);
    OK(work(count_it, (pgqrs_work_desc){.threads = 1, .until_empty = true}));
    EQ(2 * many, P.calls);
    for (i = 0; i < many; i++) {
        EQ(high[i], P.ids[i]);
        EQ(low[i], P.ids[many + i]);
    }
}

/* The payload says what becomes of the message. */
static pgqrs_result do_as_told(const pgqrs_message *message, void *user)
{
    pgqrs_result result = PGQRS_ERR_HANDLER;
    (void)user;
    enter(message);
    if (strcmp(message->payload, "\"archive\"") == 0)
        result = pgqrs_message_archive(message) ? PGQRS_OK : PGQRS_ERR_HANDLER; /* the verdict wins */
    else if (strcmp(message->payload, "\"remove\"") == 0)
        result = pgqrs_message_remove(message);
    else if (strcmp(message->payload, "\"retry\"") == 0)
        result = pgqrs_message_retry(message, 1, "because of the tide");
    else if (strcmp(message->payload, "\"reject\"") == 0)
        result = pgqrs_message_reject(message, "hopeless on a thread");
    else if (strcmp(message->payload, "\"give back\"") == 0)
        result = times_seen(message->id) < 5 ? pgqrs_message_give_back(message, 1) : PGQRS_OK;
    else if (strcmp(message->payload, "\"extend\"") == 0)
        result = pgqrs_message_extend(message, 77000);
    return leave(result);
}

static void threads_carry_out_every_verdict(void)
{
    enum { each = 12 };
    static const char *const payloads[] = {"\"archive\"", "\"remove\"", "\"retry\"", "\"reject\"", "\"give back\"", "\"extend\"", "\"fail\""};
    int64_t ids[COUNT_OF(payloads)][each];
    int i;
    size_t k;
    begin_threads();
    for (i = 0; i < each; i++)
        for (k = 0; k < COUNT_OF(payloads); k++)
            ids[k][i] = put_into(T.queue, payloads[k], (pgqrs_enqueue_desc){0}).id;
    OK(work(do_as_told, (pgqrs_work_desc){.threads = 4, .until_empty = true}));
    for (i = 0; i < each; i++) {
        STATE("archived", ids[0][i]);
        EQ(1, times_seen(ids[0][i]));
        STATE("gone", ids[1][i]);
        STATE("dead", ids[2][i]);
        SAME("because of the tide", must_look(ids[2][i])->reason);
        EQ(TEST_MAX_ATTEMPTS, times_seen(ids[2][i]));
        STATE("dead", ids[3][i]);
        SAME("hopeless on a thread", must_look(ids[3][i])->reason);
        EQ(1, times_seen(ids[3][i]));
        STATE("archived", ids[4][i]);
        EQ(5, times_seen(ids[4][i]));
        EQ(1, must_look(ids[4][i])->attempt);
        STATE("archived", ids[5][i]);
        STATE("dead", ids[6][i]);
        EQ(TEST_MAX_ATTEMPTS, times_seen(ids[6][i]));
        YES(strstr(must_look(ids[6][i])->reason, "PGQRS_ERR_HANDLER") != NULL);
    }
    NUMBERS(0, 0, 0, 3 * each, 3 * each);
}

static pgqrs_result fail_first_try(const pgqrs_message *message, void *user)
{
    (void)user;
    enter(message);
    return leave(message->attempt == 1 ? PGQRS_ERR_HANDLER : PGQRS_OK);
}

static void threads_wait_for_their_own_retries(void)
{
    enum { many = 40 };
    int i;
    begin_threads();
    put_batch(T.queue, many, 0, NULL);
    OK(work(fail_first_try, (pgqrs_work_desc){.threads = 4, .until_empty = true}));
    EQ(2 * many, P.calls);
    NUMBERS(0, 0, 0, many, 0);
    for (i = 0; i < P.calls; i++)
        BETWEEN(1, 2, P.attempts[i]);
}

static void threads_do_not_wait_for_others_delays(void)
{
    int64_t id;
    begin_threads();
    id = put_as((pgqrs_enqueue_desc){.delay_ms = 3600000});
    put();
    OK(work(count_it, (pgqrs_work_desc){.threads = 4, .until_empty = true}));
    EQ(1, P.calls);
    STATE("delayed", id);
}

static void threads_handle_max_messages_exactly(void)
{
    int i;
    begin_threads();
    put_batch(T.queue, 100, 0, NULL);
    for (i = 1; i <= 3; i++) {
        OK(work(count_it, (pgqrs_work_desc){.threads = 4, .max_messages = 17}));
        EQ(17 * i, P.calls);
        NUMBERS(100 - 17 * i, 0, 0, 17 * i, 0);
    }
    OK(work(count_it, (pgqrs_work_desc){.threads = 16, .max_messages = 1}));
    NUMBERS(100 - 17 * 3 - 1, 0, 0, 17 * 3 + 1, 0);
    EQ(0, count_where((pgqrs_message_filter){.queue = T.queue, .state = PGQRS_LEASED}));
}

static pgqrs_result settled_already(const pgqrs_message *message, void *user)
{
    pgqrs_metrics *metrics = NULL;
    int call = enter(message);
    (void)user;
    pthread_mutex_lock(&P.lock);
    if (pgqrs_metrics_get(P.admin, T.queue, &metrics) == PGQRS_OK) {
        if (metrics->items[0].leased > P.most_leased)
            P.most_leased = metrics->items[0].leased;
        if (metrics->items[0].archived != call)
            P.value++;
    }
    pgqrs_free(metrics);
    pthread_mutex_unlock(&P.lock);
    return leave(PGQRS_OK);
}

/* settle_ms -1: a thread gets its next message after the last one is stored. */
static void one_thread_settles_after_every_message(void)
{
    begin_threads();
    put_batch(T.queue, 20, 0, NULL);
    threads_admin();
    OK(work(settled_already, (pgqrs_work_desc){.threads = 1, .settle_ms = -1, .until_empty = true}));
    EQ(20, P.calls);
    EQ(0, P.value);
}

static void batch_bounds_what_threads_take(void)
{
    begin_threads();
    put_batch(T.queue, 80, 0, NULL);
    threads_admin();
    OK(work(settled_already, (pgqrs_work_desc){.threads = 2, .batch = 3, .until_empty = true}));
    EQ(80, P.calls);
    BETWEEN(1, 3, P.most_leased);
}

/* Waiting for the ordinary settle_ms would make each of them slow: several are taken together. */
static void quick_handlers_get_more_at_once(void)
{
    begin_threads();
    put_batch(T.queue, 200, 0, NULL);
    threads_admin();
    OK(work(settled_already, (pgqrs_work_desc){.threads = 1, .batch = 16, .settle_ms = 2000, .until_empty = true}));
    EQ(200, P.calls);
    BETWEEN(4, 16, P.most_leased);
}

static pgqrs_result take_long(const pgqrs_message *message, void *user)
{
    settled_already(message, user);
    sleep_ms(120);
    return PGQRS_OK;
}

static void slow_handlers_get_no_more_than_their_threads(void)
{
    begin_threads();
    put_batch(T.queue, 12, 0, NULL);
    threads_admin();
    OK(work(take_long, (pgqrs_work_desc){.threads = 2, .until_empty = true}));
    EQ(12, P.calls);
    BETWEEN(1, 4, P.most_leased);
}

enum { QUICK = 400, TOGETHER = 24 };

/* Returns at once; the last ones wait until all of them have begun. */
static pgqrs_result quick_then_together(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    pthread_mutex_lock(&P.lock);
    if (P.calls++ >= QUICK) {
        P.checks++;
        changed();
        P.unwanted += !reach_locked(&P.checks, TOGETHER);
    }
    pthread_mutex_unlock(&P.lock);
    return PGQRS_OK;
}

/* Few threads are woken for quick handlers; when their messages begin to take long, all others come. */
static void threads_come_when_handlers_become_slow(int32_t batch)
{
    begin_threads();
    put_batch(T.queue, QUICK + TOGETHER, 0, NULL);
    OK(work(quick_then_together,
            (pgqrs_work_desc){.threads = TOGETHER, .batch = batch, .settle_ms = THREADS_PATIENCE_MS, .until_empty = true}));
    EQ(QUICK + TOGETHER, P.calls);
    EQ(0, P.unwanted);
    NUMBERS(0, 0, 0, QUICK + TOGETHER, 0);
}

static void all_threads_come_when_handlers_become_slow(void)
{
    threads_come_when_handlers_become_slow(0);
}

/* As before, but one of the threads has taken them. */
static void all_threads_come_when_one_stood_in(void)
{
    threads_come_when_handlers_become_slow(2 * TOGETHER);
}

static pgqrs_result nothing_to_do(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    return PGQRS_OK;
}

/* Handlers that do nothing allocate nothing: what is allocated on their threads is an exchange's. */
static void *count_on_other_threads(void *pointer, size_t old_size, size_t new_size, void *user)
{
    if (new_size && !pthread_equal(pthread_self(), P.test))
        count_up(&P.checks);
    return test_resize(pointer, old_size, new_size, user);
}

/* Quick handlers do not wake the thread that called pgqrs_work for each exchange: they make it themselves. */
static void quick_handlers_make_the_next_exchange(void)
{
    pgqrs_store_desc desc = threaded_desc();
    begin_threads();
    put_batch(T.queue, 1000, 0, NULL);
    desc.allocator.resize = count_on_other_threads;
    threads_admin();
    close_store(T.store);
    T.store = open_store(&desc);
    OK(work(nothing_to_do, (pgqrs_work_desc){.threads = 2, .batch = 4, .until_empty = true}));
    YES(P.checks > 0);
    NUMBERS(0, 0, 0, 1000, 0);
}

/* --- leases */

static const pgqrs_message *admin_look(int64_t id)
{
    pgqrs_message *message = NULL;
    OK_ON(P.admin, pgqrs_message_get(P.admin, id, &message));
    keep(message);
    return message;
}

static int64_t admin_count(pgqrs_state state)
{
    pgqrs_message_filter filter = {.queue = T.queue, .state = state};
    int64_t count = -1;
    OK_ON(P.admin, pgqrs_message_count(P.admin, &filter, &count));
    return count;
}

/* Until so many messages are in this state. */
static void admin_reach(pgqrs_state state, int64_t count)
{
    int64_t began_ms = monotonic_ms();
    while (admin_count(state) != count) {
        YES(monotonic_ms() - began_ms < THREADS_PATIENCE_MS);
        sleep_ms(5);
    }
}

static pgqrs_result wait_while_wanted(const pgqrs_message *message, void *user)
{
    int64_t began_ms = monotonic_ms();
    (void)user;
    enter(message);
    while (!wait_at_gate_for(5) && monotonic_ms() - began_ms < THREADS_PATIENCE_MS) {
        bool wanted = pgqrs_message_wanted(message);
        pthread_mutex_lock(&P.lock);
        P.checks++;
        P.unwanted += !wanted;
        changed();
        pthread_mutex_unlock(&P.lock);
        if (!wanted)
            break;
    }
    return leave(PGQRS_OK);
}

static void lease_of_a_long_handler_is_renewed(void)
{
    loop_thread loop = {.handler = wait_while_wanted, .desc = {.threads = 2, .lease_ms = 60000, .heartbeat_ms = 20, .until_empty = true}};
    int64_t id, first_us, began_ms;
    int i;
    begin_threads();
    id = put();
    threads_admin();
    start_loop(&loop);
    YES(reach(&P.calls, 1));
    first_us = admin_look(id)->lease_until_us;
    for (i = 0; i < 32; i++) {
        /* In small steps, each seen by the handler: leaping, the clock would overtake a thread that is not on a processor. */
        advance_ms(10000);
        YES(reach(&P.checks, get(&P.checks) + 2));
        began_ms = monotonic_ms();
        while (admin_look(id)->lease_until_us < running_now(NULL) + 29 * SECOND_US) {
            YES(monotonic_ms() - began_ms < THREADS_PATIENCE_MS);
            sleep_ms(5);
        }
        YES(take_with(P.admin, T.queue, (pgqrs_dequeue_desc){0}) == NULL);
    }
    YES(admin_look(id)->lease_until_us > first_us + 240 * SECOND_US);
    EQ(0, get(&P.unwanted));
    open_gate();
    RESULT(PGQRS_OK, end_of_loop(&loop));
    EQ(1, P.calls);
    STATE("archived", id);
    EQ(1, must_look(id)->attempt);
}

/* Somebody takes the message away by force, and another consumer gets it. */
static void lost_lease_reaches_the_handler(void)
{
    loop_thread loop = {.handler = wait_while_wanted, .desc = {.threads = 2, .lease_ms = 60000, .heartbeat_ms = 20, .max_messages = 1}};
    const pgqrs_message *theirs;
    int64_t id, released = 0;
    begin_threads();
    id = put();
    threads_admin();
    start_loop(&loop);
    YES(reach(&P.calls, 1));
    OK_ON(P.admin, pgqrs_worker_release(P.admin, admin_look(id)->worker_id, &released));
    EQ(1, released);
    theirs = take_with(P.admin, T.queue, (pgqrs_dequeue_desc){.lease_ms = 3600000});
    YES(theirs != NULL && theirs->id == id);
    EQ(0, get(&P.unwanted));
    advance_ms(31000); /* half of it: the coordinator renews, and learns of it long before the end */
    YES(reach(&P.unwanted, 1));
    RESULT(PGQRS_OK, end_of_loop(&loop));
    STATE("leased", id); /* the late verdict changed nothing */
    OK_ON(P.admin, pgqrs_archive(P.admin, theirs));
    EQ(1, must_look(id)->attempt - 1);
    NUMBERS(0, 0, 0, 1, 0);
}

enum { TRICKLE = 400 };

static void count_claims(const pgqrs_event *event, void *user)
{
    if (event->type == PGQRS_EVENT_CLAIMED)
        count_up((int *)user);
}

/* Messages that follow each other within a millisecond do not cost a claim each. */
static void messages_in_quick_succession_are_taken_together(void)
{
    int claims = 0;
    loop_thread loop = {.handler = count_it, .desc = {.threads = 2, .max_messages = TRICKLE}};
    pgqrs_store_desc desc = real_time_desc();
    struct timespec pause = {.tv_nsec = 300000};
    begin_threads();
    desc.observer.observe = count_claims;
    desc.observer.user = &claims;
    loop.store = open_store(&desc);
    start_loop(&loop);
    sleep_ms(100); /* it lies down */
    int64_t began_ms = monotonic_ms();
    for (int i = 0; i < TRICKLE; i++) {
        put();
        nanosleep(&pause, NULL);
    }
    int64_t took_ms = monotonic_ms() - began_ms;
    RESULT(PGQRS_OK, end_of_loop(&loop));
    EQ(TRICKLE, P.calls);
    BETWEEN(1, took_ms + 40, claims); /* who takes each at once makes nearly TRICKLE of them */
    NUMBERS(0, 0, 0, TRICKLE, 0);
}

static pgqrs_result outlive_the_lease_on_a_thread(const pgqrs_message *message, void *user)
{
    (void)user;
    enter(message);
    wait_at_gate();
    return leave(pgqrs_message_archive(message));
}

static void late_verdict_of_a_thread_is_refused(void)
{
    loop_thread loop = {.handler = outlive_the_lease_on_a_thread, .desc = {.threads = 1, .max_messages = 1}};
    const pgqrs_message *theirs;
    int64_t id;
    begin_threads();
    id = put();
    threads_admin();
    start_loop(&loop);
    YES(reach(&P.calls, 1));
    OK_ON(P.admin, pgqrs_worker_release(P.admin, admin_look(id)->worker_id, NULL));
    theirs = take_with(P.admin, T.queue, (pgqrs_dequeue_desc){0});
    YES(theirs != NULL);
    open_gate();
    RESULT(PGQRS_OK, end_of_loop(&loop));
    STATE("leased", id);
    OK_ON(P.admin, pgqrs_archive(P.admin, theirs));
    NUMBERS(0, 0, 0, 1, 0);
}

static pgqrs_result extend_shortly(const pgqrs_message *message, void *user)
{
    pgqrs_result result;
    (void)user;
    enter(message);
    result = pgqrs_message_extend(message, 200000);
    pthread_mutex_lock(&P.lock);
    P.result = result;
    P.value = 1;
    pthread_mutex_unlock(&P.lock);
    open_gate();
    reach(&P.unwanted, 1); /* here: the test has looked */
    result = pgqrs_message_extend(message, 0);
    pthread_mutex_lock(&P.lock);
    P.second = result;
    pthread_mutex_unlock(&P.lock);
    return leave(PGQRS_OK);
}

static void extend_on_a_thread_works_at_once(void)
{
    loop_thread loop = {.handler = extend_shortly, .desc = {.threads = 1, .max_messages = 1}};
    int64_t id;
    begin_threads();
    id = put();
    threads_admin();
    start_loop(&loop);
    YES(wait_at_gate());
    YES(admin_look(id)->lease_until_us > running_now(NULL) + 150 * SECOND_US);
    OK_ON(P.admin, pgqrs_worker_release(P.admin, admin_look(id)->worker_id, NULL));
    pthread_mutex_lock(&P.lock);
    P.unwanted = 1;
    changed();
    pthread_mutex_unlock(&P.lock);
    RESULT(PGQRS_OK, end_of_loop(&loop));
    RESULT(PGQRS_OK, P.result);
    RESULT(PGQRS_ERR_LEASE_LOST, P.second);
    EQ(0, numbers().archived);
}

/* The payload `1` blocks the one thread; what was taken with it and waits is for others after a second. */
static pgqrs_result block_at_1(const pgqrs_message *message, void *user)
{
    (void)user;
    enter(message);
    if (strcmp(message->payload, "1") == 0)
        wait_at_gate();
    return leave(PGQRS_OK);
}

static void what_waits_for_a_thread_too_long_goes_to_others(void)
{
    loop_thread loop = {.handler = block_at_1, .desc = {.threads = 1, .batch = 64, .settle_ms = 1000, .until_empty = true}};
    const pgqrs_message *other = NULL;
    int64_t blocking, began_ms;
    int rest, got = 0;
    begin_threads();
    put_batch(T.queue, 30, 2, NULL);
    blocking = put_into(T.queue, "1", (pgqrs_enqueue_desc){.priority = 1}).id;
    put_batch(T.queue, 20, 0, NULL);
    threads_admin();
    start_loop(&loop);
    YES(reach(&P.calls, 31));
    rest = 20;
    began_ms = monotonic_ms();
    while (got < rest && monotonic_ms() - began_ms < THREADS_PATIENCE_MS) {
        other = take_with(P.admin, T.queue, (pgqrs_dequeue_desc){0});
        if (!other) {
            sleep_ms(5);
            continue;
        }
        got++;
        EQ(1, other->attempt); /* what was given back cost none */
        OK_ON(P.admin, pgqrs_archive(P.admin, other));
    }
    EQ(rest, got);
    EQ(31, get(&P.calls));
    open_gate();
    RESULT(PGQRS_OK, end_of_loop(&loop));
    STATE("archived", blocking);
    NUMBERS(0, 0, 0, 51, 0);
}

/* --- told to stop */

/* Quick ones first, so that more are taken than the threads can begin; then all threads wait. */
static pgqrs_result quick_then_blocked(const pgqrs_message *message, void *user)
{
    if (strcmp(message->payload, "1") != 0)
        return count_it(message, user);
    return wait_while_wanted(message, user);
}

static void put_quick_then_blocked(int quick, int blocked)
{
    int i;
    if (quick)
        put_batch(T.queue, (size_t)quick, 5, NULL);
    for (i = 0; i < blocked; i++)
        put_into(T.queue, "1", (pgqrs_enqueue_desc){0});
}

/* All that was not begun is ready again, and no attempt was counted. */
static void check_given_back(int64_t archived, int64_t ready)
{
    pgqrs_messages *messages = NULL;
    size_t i;
    NUMBERS(ready, 0, 0, archived, 0);
    OK(pgqrs_message_list(T.store, &(pgqrs_message_filter){.queue = T.queue, .state = PGQRS_READY}, &messages));
    keep(messages);
    for (i = 0; i < messages->count; i++)
        EQ(0, messages->items[i].attempt);
}

static void stop_from_another_thread_ends_the_pool(void)
{
    loop_thread loop = {.handler = quick_then_blocked, .desc = {.threads = 4, .batch = 64}};
    begin_threads();
    put_quick_then_blocked(60, 40);
    start_loop(&loop);
    YES(reach(&P.calls, 64));
    EQ(0, get(&P.unwanted));
    pgqrs_stop(T.store);
    YES(reach(&P.unwanted, 4)); /* the handlers know, finish, and what they did counts */
    RESULT(PGQRS_OK, end_of_loop(&loop));
    EQ(64, P.calls);
    check_given_back(64, 36);
    EQ(0, worker_rows());
    /* The next loop is a new one. */
    open_gate();
    OK(work(quick_then_blocked, (pgqrs_work_desc){.threads = 4, .until_empty = true}));
    NUMBERS(0, 0, 0, 100, 0);
}

static volatile sig_atomic_t signals_seen;
static pthread_t signal_thread;

static void stop_on_signal(int number)
{
    (void)number;
    signals_seen++;
    signal_thread = pthread_self();
    pgqrs_stop(P.loop);
}

static pgqrs_result signal_and_wait(const pgqrs_message *message, void *user)
{
    int64_t began_ms = monotonic_ms();
    sigset_t blocked;
    (void)user;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    pthread_mutex_lock(&P.lock);
    P.value += sigismember(&blocked, SIGUSR1) != 1;
    pthread_mutex_unlock(&P.lock);
    if (enter(message) == 0)
        kill(getpid(), SIGUSR1);
    while (pgqrs_message_wanted(message) && monotonic_ms() - began_ms < THREADS_PATIENCE_MS)
        sleep_ms(2);
    return leave(PGQRS_OK);
}

/* Threads of the pool leave signals to the program's own. */
static void stop_in_a_signal_handler_ends_the_pool(void)
{
    struct sigaction action, before;
    memset(&action, 0, sizeof(action));
    action.sa_handler = stop_on_signal;
    signals_seen = 0;
    begin_threads();
    put_batch(T.queue, 50, 0, NULL);
    EQ(0, sigaction(SIGUSR1, &action, &before));
    OK(work(signal_and_wait, (pgqrs_work_desc){.threads = 4}));
    sigaction(SIGUSR1, &before, NULL);
    EQ(1, signals_seen);
    EQ(0, P.value); /* the system may choose any thread that does not block it */
    YES(pthread_equal(signal_thread, pthread_self()) != 0);
    BETWEEN(1, 8, P.calls);
    check_given_back(P.calls, 50 - P.calls);
}

static void operator_ends_the_pool(pgqrs_result (*command)(pgqrs_store *store, int64_t worker_id), pgqrs_result want)
{
    const char *name = unique("me");
    loop_thread loop = {.handler = quick_then_blocked, .desc = {.threads = 4, .batch = 64, .name = name}};
    begin_threads();
    put_quick_then_blocked(60, 40);
    threads_admin();
    start_loop(&loop);
    YES(reach(&P.calls, 64));
    OK_ON(P.admin, command(P.admin, P.worker_id));
    open_gate();
    RESULT(want, end_of_loop(&loop));
    check_error(&loop.error, want, "pgqrs_work", __FILE__, __LINE__);
    BETWEEN(64, 100, P.calls);
    check_given_back(P.calls, 100 - P.calls);
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(P.worker_id)->state);
}

static void interrupt_ends_the_pool(void)
{
    operator_ends_the_pool(pgqrs_worker_interrupt, PGQRS_ERR_WORKER_INTERRUPTED);
}

/* Quick, but for the one that waits until the operator has spoken. */
static pgqrs_result wait_at_the_gate_once(const pgqrs_message *message, void *user)
{
    (void)user;
    if (enter(message) == 200)
        wait_at_gate();
    return leave(PGQRS_OK);
}

/* Whoever claims learns it, and tells the thread that called pgqrs_work. */
static void interrupt_ends_a_pool_of_quick_handlers(void)
{
    loop_thread loop = {.handler = wait_at_the_gate_once,
                        .desc = {.threads = 2, .batch = 4, .name = unique("me"), .heartbeat_ms = 600000}};
    int64_t worker_id;
    begin_threads();
    put_batch(T.queue, 2000, 0, NULL);
    threads_admin();
    start_loop(&loop);
    YES(reach(&P.calls, 201));
    pthread_mutex_lock(&P.lock);
    worker_id = P.worker_id;
    pthread_mutex_unlock(&P.lock);
    OK_ON(P.admin, pgqrs_worker_interrupt(P.admin, worker_id));
    open_gate();
    RESULT(PGQRS_ERR_WORKER_INTERRUPTED, end_of_loop(&loop));
    check_error(&loop.error, PGQRS_ERR_WORKER_INTERRUPTED, "pgqrs_work", __FILE__, __LINE__);
    BETWEEN(201, 210, P.calls);
    check_given_back(P.calls, 2000 - P.calls);
    EQ(PGQRS_WORKER_STOPPED, must_look_worker(P.worker_id)->state);
}

static pgqrs_result stop_at_the_200th(const pgqrs_message *message, void *user)
{
    (void)user;
    if (enter(message) == 199)
        pgqrs_stop(P.loop);
    return leave(PGQRS_OK);
}

/* From then on no thread takes anything: what is in hand, with a claim that was under way, is all that may be handled. */
static void stop_in_a_quick_handler_takes_no_more(void)
{
    begin_threads();
    put_batch(T.queue, 2000, 0, NULL);
    OK(work(stop_at_the_200th, (pgqrs_work_desc){.threads = 1, .batch = 4}));
    BETWEEN(200, 200 + 4, P.calls);
    check_given_back(P.calls, 2000 - P.calls);
}

static void suspended_pool_waits_for_resume(void)
{
    loop_thread loop = {.handler = count_it, .desc = {.threads = 4, .name = unique("me")}};
    begin_threads();
    threads_admin();
    put();
    start_loop(&loop);
    YES(reach(&P.ended, 1));
    OK_ON(P.admin, pgqrs_worker_suspend(P.admin, P.worker_id));
    OK_ON(P.admin, pgqrs_enqueue(P.admin, T.queue, "1", NULL, NULL));
    sleep_ms(100); /* some looks long */
    EQ(1, get(&P.calls));
    OK_ON(P.admin, pgqrs_worker_resume(P.admin, P.worker_id));
    YES(reach(&P.ended, 2));
    pgqrs_stop(T.store);
    RESULT(PGQRS_OK, end_of_loop(&loop));
    NUMBERS(0, 0, 0, 2, 0);
}

static void shutdown_ends_the_pool(void)
{
    loop_thread loop = {.handler = count_it, .desc = {.threads = 4, .name = unique("me")}};
    begin_threads();
    threads_admin();
    put();
    start_loop(&loop);
    YES(reach(&P.ended, 1));
    admin_reach(PGQRS_ARCHIVED, 1);
    OK_ON(P.admin, pgqrs_worker_suspend(P.admin, P.worker_id));
    OK_ON(P.admin, pgqrs_worker_shutdown(P.admin, P.worker_id));
    RESULT(PGQRS_ERR_WORKER_STOPPED, end_of_loop(&loop));
    NUMBERS(0, 0, 0, 1, 0);
}

static pgqrs_result extend_after_reclaim(const pgqrs_message *message, void *user)
{
    pgqrs_result result;
    int call = enter(message);
    (void)user;
    if (call > 0) {
        result = pgqrs_message_extend(message, 90000);
        pthread_mutex_lock(&P.lock);
        P.result = result;
        pthread_mutex_unlock(&P.lock);
    }
    return leave(PGQRS_OK);
}

/* A suspended laptop: the row was reclaimed, the pool goes on under its name, and its threads with the new one. */
static void reclaimed_pool_registers_again(void)
{
    loop_thread loop = {.handler = extend_after_reclaim,
                        .desc = {.threads = 2, .name = unique("me"), .max_messages = 2, .heartbeat_ms = 600000}};
    int64_t workers = 0;
    begin_threads();
    threads_admin();
    put();
    start_loop(&loop);
    YES(reach(&P.ended, 1));
    admin_reach(PGQRS_ARCHIVED, 1);
    advance_ms(3000); /* the next heartbeat is not due for long */
    OK_ON(P.admin, pgqrs_worker_reclaim(P.admin, T.queue, 2000, &workers, NULL));
    EQ(1, workers);
    OK_ON(P.admin, pgqrs_enqueue(P.admin, T.queue, "1", NULL, NULL));
    RESULT(PGQRS_OK, end_of_loop(&loop));
    RESULT(PGQRS_OK, P.result);
    NUMBERS(0, 0, 0, 2, 0);
}

static pgqrs_worker_state admin_worker_state(int64_t id)
{
    pgqrs_worker_info *info = NULL;
    pgqrs_worker_state state;
    OK_ON(P.admin, pgqrs_worker_get(P.admin, id, &info));
    YES(info != NULL);
    state = info->state;
    pgqrs_free(info);
    return state;
}

static pgqrs_result stay_at_the_gate(const pgqrs_message *message, void *user)
{
    (void)user;
    enter(message);
    wait_at_gate();
    return leave(PGQRS_OK);
}

/* All of its threads are at work, so nothing is claimed: its heartbeat learns of it. */
static void pool_reclaimed_at_work_registers_again(void)
{
    loop_thread loop = {.handler = stay_at_the_gate, .desc = {.threads = 1, .batch = 1, .name = unique("me"), .heartbeat_ms = 100}};
    int64_t workers = 0, began_ms;
    begin_threads();
    threads_admin();
    put();
    start_loop(&loop);
    YES(reach(&P.calls, 1));
    sleep_ms(5);
    OK_ON(P.admin, pgqrs_worker_reclaim(P.admin, T.queue, 1, &workers, NULL));
    EQ(1, workers);
    for (began_ms = monotonic_ms(); admin_worker_state(P.worker_id) == PGQRS_WORKER_STOPPED; sleep_ms(5))
        YES(monotonic_ms() - began_ms < THREADS_PATIENCE_MS);
    EQ(1, get(&P.calls));
    open_gate();
    YES(reach(&P.ended, 2)); /* what it held was taken from it, and is delivered again */
    pgqrs_stop(T.store);
    RESULT(PGQRS_OK, end_of_loop(&loop));
    NUMBERS(0, 0, 0, 1, 0);
}

/* --- a stop with a deadline */

/* Payload `1` ignores that it is not wanted, until the gate opens; then it tries what it may not do any more. */
static pgqrs_result hang_at_1(const pgqrs_message *message, void *user)
{
    pgqrs_result extended;
    if (strcmp(message->payload, "1") != 0)
        return count_it(message, user);
    enter(message);
    wait_at_gate();
    extended = pgqrs_message_extend(message, 5000);
    pthread_mutex_lock(&P.lock);
    P.result = extended;
    P.unwanted += !pgqrs_message_wanted(message);
    pthread_mutex_unlock(&P.lock);
    return leave(pgqrs_message_archive(message));
}

static int64_t blocks_now(void)
{
    int64_t blocks;
    pthread_mutex_lock(&hook_lock);
    blocks = T.memory.blocks;
    pthread_mutex_unlock(&hook_lock);
    return blocks;
}

static void handlers_that_do_not_return_are_left_behind(void)
{
    loop_thread loop = {.handler = hang_at_1, .desc = {.threads = 3, .stop_ms = 500, .batch = 32, .settle_ms = 3600000, .poll_ms = 60000}};
    pgqrs_store_desc desc = threaded_desc();
    pgqrs_store *store;
    int64_t hanging, began_ms;
    begin_threads();
    threads_admin();
    hanging = put_into(T.queue, "1", (pgqrs_enqueue_desc){.priority = 9}).id;
    put_batch(T.queue, 5, 0, NULL);
    loop.store = store = open_store(&desc);
    start_loop(&loop);
    YES(reach(&P.ended, 5));
    sleep_ms(20); /* so that the last of them has reached the coordinator */
    pgqrs_stop(store);
    RESULT(PGQRS_ERR_TIMEOUT, end_of_loop(&loop));
    check_error(&loop.error, PGQRS_ERR_TIMEOUT, "pgqrs_work", __FILE__, __LINE__);
    /* What was finished in time is stored; the other is as if its process had crashed. */
    NUMBERS(0, 0, 1, 5, 0);
    free_results();
    close_all_stores();
    open_gate();
    YES(reach(&P.ended, 6));
    began_ms = monotonic_ms();
    while (blocks_now() > 0) { /* the last thread frees the pool */
        YES(monotonic_ms() - began_ms < THREADS_PATIENCE_MS);
        sleep_ms(5);
    }
    T.store = open_store(&desc);
    RESULT(PGQRS_ERR_LEASE_LOST, P.result);
    EQ(1, P.unwanted);
    STATE("leased", hanging);
    advance_ms(TEST_LEASE_MS + 1000);
    OK(work(count_it, (pgqrs_work_desc){.threads = 2, .until_empty = true}));
    STATE("archived", hanging);
    EQ(2, must_look(hanging)->attempt);
}

static void stop_ms_does_not_disturb_who_returns_in_time(void)
{
    loop_thread loop = {.handler = quick_then_blocked, .desc = {.threads = 4, .stop_ms = 60000}};
    begin_threads();
    put_quick_then_blocked(0, 10);
    start_loop(&loop);
    YES(reach(&P.calls, 4));
    pgqrs_stop(T.store);
    RESULT(PGQRS_OK, end_of_loop(&loop));
    check_given_back(4, 6);
}

/* --- what is refused */

static pgqrs_result count_batch(const pgqrs_messages *batch, void *user)
{
    (void)batch;
    (void)user;
    return PGQRS_OK;
}

static void threads_out_of_place_are_refused(void)
{
    pgqrs_work_desc desc = {.threads = 2, .until_empty = true};
    put();
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_work_batch(T.store, T.queue, count_batch, NULL, &desc));
    YES(pgqrs_worker_open(T.store, T.queue, count_it, NULL, NULL, &desc) == NULL);
    check_error(pgqrs_last_error(T.store), PGQRS_ERR_UNSUPPORTED, "pgqrs_worker_open", __FILE__, __LINE__);
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "threads", work(count_it, (pgqrs_work_desc){.threads = -1}));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "threads", work(count_it, (pgqrs_work_desc){.threads = 257}));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "stop_ms", work(count_it, (pgqrs_work_desc){.threads = 1, .stop_ms = -1}));
    NUMBERS(1, 0, 0, 0, 0);
    EQ(0, worker_rows());
}

/* --- several in one process */

static void several_pools_work_at_the_same_time(void)
{
    enum { many = 200 };
    loop_thread loops[3] = {{.handler = count_it}, {.handler = count_it}, {.handler = count_it}};
    pgqrs_store_desc desc = threaded_desc();
    int64_t ids[2 * many];
    const char *other;
    int i;
    begin_threads();
    other = another_queue("other");
    put_batch(T.queue, many, 0, ids);
    put_batch(other, many, 0, ids + many);
    for (i = 0; i < 3; i++) {
        loops[i].desc = (pgqrs_work_desc){.threads = 3, .until_empty = true};
        loops[i].store = open_store(&desc);
        loops[i].queue = i == 2 ? other : T.queue;
        start_loop(&loops[i]);
    }
    for (i = 0; i < 3; i++)
        RESULT(PGQRS_OK, end_of_loop(&loops[i]));
    EQ(2 * many, P.calls);
    for (i = 0; i < 2 * many; i++)
        EQ(1, times_seen(ids[i]));
    NUMBERS(0, 0, 0, many, 0);
    EQ(many, numbers_of(other).archived);
}

/* --- runs on threads */

static void body_done(const pgqrs_run *r, int step)
{
    int number = atoi(pgqrs_run_input(r));
    pthread_mutex_lock(&P.lock);
    if (number >= 0 && (number + 1) * 4 < THREADS_SEEN_MAX)
        P.steps[number * 4 + step]++;
    pthread_mutex_unlock(&P.lock);
}

static pgqrs_result run_three_steps(pgqrs_run *r, void *user)
{
    static const char *const names[] = {"one", "two", "three"};
    const char *output = NULL;
    int i;
    (void)user;
    enter(NULL);
    for (i = 0; i < 3; i++)
        if (pgqrs_step(r, names[i], &output)) {
            body_done(r, i);
            output = pgqrs_step_done(r, pgqrs_run_input(r));
        }
    return leave(pgqrs_run_return(r, output));
}

static void trigger_many(int count, int64_t *ids)
{
    char input[24];
    int i;
    for (i = 0; i < count; i++) {
        snprintf(input, sizeof(input), "%d", i);
        ids[i] = trigger_as(input, (pgqrs_trigger_desc){0});
    }
}

static pgqrs_result serve_on_threads(pgqrs_workflow_handler handler, int32_t threads)
{
    return pgqrs_work_workflow(T.store, T.flow, handler, NULL, &(pgqrs_work_desc){.threads = threads, .until_empty = true});
}

static void check_bodies_once(int count)
{
    int i;
    for (i = 0; i < count * 4; i++)
        EQ(i % 4 == 3 ? 0 : 1, P.steps[i]);
}

static void runs_on_threads_execute_each_step_once(void)
{
    enum { many = 200 };
    int64_t ids[many];
    char output[24];
    int i;
    begin_threads();
    define();
    trigger_many(many, ids);
    P.together = 4;
    OK(serve_on_threads(run_three_steps, 4));
    EQ(many, P.calls);
    EQ(4, P.most_running);
    EQ(0, P.on_test_thread);
    check_bodies_once(many);
    for (i = 0; i < many; i++) {
        RUN("success", ids[i]);
        snprintf(output, sizeof(output), "%d", i);
        SAME(output, look_run(ids[i])->output);
    }
    EQ(3, steps_of(ids[many - 1])->count);
    NUMBERS(0, 0, 0, many, 0);
    OK(pgqrs_verify(T.store));
}

static void step_on_thread(pgqrs_run *r, const char *name)
{
    const char *output;
    if (pgqrs_step(r, name, &output))
        pgqrs_step_done(r, NULL);
}

enum { TRIES, QUESTIONS, AFTERS };

/* The input says what happens. */
static pgqrs_result all_kinds(pgqrs_run *r, void *user)
{
    const char *input = pgqrs_run_input(r), *output = NULL;
    (void)user;
    enter(NULL);
    step_on_thread(r, "before");
    if (strcmp(input, "\"retry\"") == 0 && pgqrs_step(r, "try", &output)) {
        if (count_up(&P.steps[TRIES]) == 1)
            pgqrs_step_fail(r, &(pgqrs_failure){.code = "NET", .transient = true, .retry_after_ms = 30});
        else
            output = pgqrs_step_done(r, "\"second\"");
    } else if (strcmp(input, "\"sleep\"") == 0) {
        pgqrs_run_sleep(r, "nap", 60000);
    } else if (strcmp(input, "\"event\"") == 0) {
        pgqrs_run_wait_event(r, "go", PGQRS_FOREVER, &output);
    } else if (strcmp(input, "\"value\"") == 0) {
        pgqrs_run_set(r, "progress", "50");
        output = pgqrs_run_value(r, "progress");
    } else if (strcmp(input, "\"pause\"") == 0 && pgqrs_step(r, "ask", &output)) {
        if (count_up(&P.steps[QUESTIONS]) == 1)
            pgqrs_step_pause(r, 30, NULL);
        else
            output = pgqrs_step_done(r, "\"asked\"");
    } else if (strcmp(input, "\"fail\"") == 0 && pgqrs_step(r, "try", &output)) {
        pgqrs_step_fail(r, &(pgqrs_failure){.code = "NO", .message = "not on this thread"});
    } else if (strcmp(input, "\"twice\"") == 0) {
        step_on_thread(r, "before");
    } else if (strcmp(input, "\"open\"") == 0 && pgqrs_step(r, "left open", &output)) {
        return leave(PGQRS_OK);
    }
    step_on_thread(r, "after");
    return leave(pgqrs_run_return(r, output));
}

static void runs_on_threads_retry_sleep_wait_and_fail(void)
{
    static const char *const kinds[] = {"retry", "sleep", "event", "value", "pause", "fail", "twice", "open"};
    enum { RETRY, SLEEP, EVENT, VALUE, PAUSE, FAIL, TWICE, OPEN };
    int64_t ids[COUNT_OF(kinds)];
    char input[24];
    size_t i;
    begin_threads();
    define();
    for (i = 0; i < COUNT_OF(kinds); i++) {
        snprintf(input, sizeof(input), "\"%s\"", kinds[i]);
        ids[i] = trigger_as(input, (pgqrs_trigger_desc){0});
    }
    OK(serve_on_threads(all_kinds, 4));
    RUN("success", ids[RETRY]);
    SAME("\"second\"", look_run(ids[RETRY])->output);
    EQ(2, P.steps[TRIES]);
    RUN("success", ids[PAUSE]);
    EQ(2, P.steps[QUESTIONS]);
    RUN("success", ids[VALUE]);
    SAME("50", look_run(ids[VALUE])->output);
    SAME("50", value_on(T.store, ids[VALUE], "progress"));
    RUN_ERROR("NO", "try", ids[FAIL]);
    RUN("error", ids[TWICE]);
    RUN("error", ids[OPEN]);
    RUN("paused", ids[SLEEP]);
    RUN("paused", ids[EVENT]);
    OK(pgqrs_run_send_event(T.store, ids[EVENT], "go", "[7]", NULL));
    advance_ms(61000);
    OK(serve_on_threads(all_kinds, 4));
    RUN("success", ids[SLEEP]);
    RUN("success", ids[EVENT]);
    SAME("[7]", look_run(ids[EVENT])->output);
    OK(pgqrs_verify(T.store));
}

static pgqrs_result wait_between_steps(pgqrs_run *r, void *user)
{
    (void)user;
    enter(NULL);
    step_on_thread(r, "before");
    wait_at_gate();
    step_on_thread(r, "after");
    return leave(pgqrs_run_return(r, NULL));
}

static void cancel_reaches_a_run_on_a_thread(void)
{
    loop_thread loop = {.runs = wait_between_steps, .desc = {.threads = 2, .max_messages = 1}};
    int64_t id;
    begin_threads();
    define();
    id = trigger();
    threads_admin();
    start_loop(&loop);
    YES(reach(&P.calls, 1));
    OK_ON(P.admin, pgqrs_run_cancel(P.admin, id, NULL, NULL));
    open_gate();
    RESULT(PGQRS_OK, end_of_loop(&loop));
    RUN("cancelled", id);
}

static void stop_gives_back_runs_on_threads(void)
{
    enum { many = 20 };
    loop_thread loop = {.runs = wait_between_steps, .desc = {.threads = 2}};
    int64_t ids[many];
    int i, ended = 0;
    begin_threads();
    define();
    trigger_many(many, ids);
    start_loop(&loop);
    YES(reach(&P.calls, 2));
    pgqrs_stop(T.store);
    open_gate();
    RESULT(PGQRS_OK, end_of_loop(&loop));
    YES(P.calls < many);
    EQ(0, count_where((pgqrs_message_filter){.queue = T.queue, .state = PGQRS_LEASED}));
    OK(serve_on_threads(wait_between_steps, 2));
    for (i = 0; i < many; i++)
        ended += look_run(ids[i])->state == PGQRS_RUN_SUCCESS;
    EQ(many, ended);
}

/* Money is moved in a transaction of the run's own, while other threads do other things. */
static pgqrs_result move_money(pgqrs_run *r, void *user)
{
    bool outside, inside = true;
    (void)user;
    enter(NULL);
    outside = pgqrs_run_pgconn(r) || pgqrs_run_sqlite3(r) || pgqrs_run_store(r);
    step_on_thread(r, "before");
    if (pgqrs_step_with(r, "move", &(pgqrs_step_desc){.transaction = true}, NULL)) {
        pgqrs_result result = exec_in(r, "UPDATE @ledger SET n = n + 1");
        inside = (pgqrs_run_pgconn(r) != NULL) + (pgqrs_run_sqlite3(r) != NULL) == 1 && pgqrs_run_store(r) == P.loop;
        if (inside && pgqrs_enqueue(pgqrs_run_store(r), (const char *)user, "1", NULL, NULL) != PGQRS_OK)
            result = PGQRS_ERR_HANDLER;
        if (count_up(&P.steps[TRIES]) % 5 == 0) /* it goes wrong after the money was moved */
            result = PGQRS_ERR_HANDLER;
        if (result == PGQRS_OK)
            pgqrs_step_done(r, NULL);
        else
            pgqrs_step_fail(r, &(pgqrs_failure){.code = "AGAIN", .transient = true, .retry_after_ms = -1});
    }
    outside = outside || pgqrs_run_pgconn(r) || pgqrs_run_sqlite3(r) || pgqrs_run_store(r);
    pthread_mutex_lock(&P.lock);
    P.unwanted += outside || !inside;
    pthread_mutex_unlock(&P.lock);
    step_on_thread(r, "after");
    return leave(pgqrs_run_return(r, NULL));
}

static void transactional_steps_on_threads_commit_once(void)
{
    enum { many = 40 };
    pgqrs_workflow_entry entry = {T.flow, move_money, NULL};
    pgqrs_workflow_desc flow = test_workflow_desc();
    char moved[96];
    int64_t ids[many];
    int i;
    begin_threads();
    raw_exec("CREATE TABLE @ledger(n INTEGER)");
    raw_exec("INSERT INTO @ledger VALUES (0)");
    flow.retry.max_retries = 30;
    define_as(flow);
    snprintf(moved, sizeof(moved), "%s", another_queue("moved"));
    entry.user = moved;
    trigger_many(many, ids);
    OK(pgqrs_work_workflows(T.store, &entry, 1, &(pgqrs_work_desc){.threads = 4, .until_empty = true}));
    for (i = 0; i < many; i++)
        RUN("success", ids[i]);
    EQ(0, P.unwanted);
    EQ(many, raw_int("SELECT n FROM @ledger"));
    EQ(many, numbers_of(moved).ready);
    EQ(many * 5 / 4 - (many % 4 == 0), P.steps[TRIES]); /* every fifth try went wrong */
    OK(pgqrs_verify(T.store));
}

/* The step is left without done, fail or pause: nothing is kept, and the other threads go on. */
static pgqrs_result leave_in_a_transaction(pgqrs_run *r, void *user)
{
    (void)user;
    enter(NULL);
    if (pgqrs_step_with(r, "move", &(pgqrs_step_desc){.transaction = true}, NULL)) {
        exec_in(r, "UPDATE @ledger SET n = n + 1");
        if (strcmp(pgqrs_run_input(r), "0") == 0)
            return leave(PGQRS_OK);
        pgqrs_step_done(r, NULL);
    }
    return leave(pgqrs_run_return(r, NULL));
}

static void transactional_step_left_on_a_thread_writes_nothing(void)
{
    int64_t ids[8];
    int i;
    begin_threads();
    raw_exec("CREATE TABLE @ledger(n INTEGER)");
    raw_exec("INSERT INTO @ledger VALUES (0)");
    define();
    trigger_many(8, ids);
    OK(serve_on_threads(leave_in_a_transaction, 4));
    RUN("error", ids[0]);
    for (i = 1; i < 8; i++)
        RUN("success", ids[i]);
    EQ(7, raw_int("SELECT n FROM @ledger"));
}

/* --- the store fails */

typedef struct killing_thread {
    pthread_t thread;
    int stop;
    int killed; /* times */
} killing_thread;

static killing_thread trouble_of_test;

/* A quarter of a second, and as long as it takes to connect and do some work on a slow machine. */
static void let_something_be_done(killing_thread *killer_of)
{
    int64_t began_ms = monotonic_ms();
    int before = get(&P.calls);
    sleep_ms(250);
    while (!get(&killer_of->stop) && get(&P.calls) < before + 50 && monotonic_ms() - began_ms < 5000)
        sleep_ms(5);
}

/* Ends the connections of T.store's loop, again and again. */
static void *kill_connections(void *argument)
{
    killing_thread *killer_of = (killing_thread *)argument;
    const char *admin = getenv("PGQRS_TEST_POSTGRES_ADMIN_DSN");
    PGconn *connection = PQconnectdb(admin && *admin ? admin : run.dsn);
    while (!get(&killer_of->stop)) {
        PGresult *result = PQexec(connection, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                                              " AND backend_type = 'client backend' AND datname = current_database()");
        count_up(&killer_of->killed);
        PQclear(result);
        let_something_be_done(killer_of);
    }
    PQfinish(connection);
    return NULL;
}

enum { BEFORE_TROUBLE = 20 };

/* What comes later waits for the trouble to begin, however quick the others are. */
static pgqrs_result a_little_later(const pgqrs_message *message, void *user)
{
    (void)user;
    if (enter(message) >= BEFORE_TROUBLE)
        reach(&trouble_of_test.killed, 1);
    sleep_ms(2);
    return leave(PGQRS_OK);
}

/* Another process holds the file's lock for a while, again and again. */
static void *lock_the_file(void *argument)
{
    killing_thread *locker = (killing_thread *)argument;
    sqlite3 *database = NULL;
    sqlite3_open(T.file, &database);
    sqlite3_busy_timeout(database, 20);
    while (!get(&locker->stop)) {
        if (sqlite3_exec(database, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK) {
            count_up(&locker->killed);
            sleep_ms(150);
            sqlite3_exec(database, "ROLLBACK", NULL, NULL, NULL);
        }
        sleep_ms(50);
    }
    sqlite3_close(database);
    return NULL;
}

/* The same, but quick. */
static pgqrs_result at_once(const pgqrs_message *message, void *user)
{
    (void)user;
    if (enter(message) >= BEFORE_TROUBLE)
        reach(&trouble_of_test.killed, 1);
    return leave(PGQRS_OK);
}

/* The pool outlives what happens to its store; afterwards everything goes on and nothing is lost. */
static void pool_outlives_trouble(void *(*trouble)(void *), pgqrs_handler handler, int32_t batch)
{
    enum { many = 400 };
    /* it does not wait for a heartbeat to go on */
    loop_thread loop = {.handler = handler, .desc = {.threads = 4, .batch = batch, .heartbeat_ms = 600000}};
    int64_t ids[many], began_ms;
    int i;
    memset(&trouble_of_test, 0, sizeof(trouble_of_test));
    begin_threads();
    put_batch(T.queue, many, 0, ids);
    start_loop(&loop);
    YES(reach(&P.ended, BEFORE_TROUBLE));
    EQ(0, pthread_create(&trouble_of_test.thread, NULL, trouble, &trouble_of_test));
    YES(reach(&P.ended, 300));
    pthread_mutex_lock(&P.lock);
    trouble_of_test.stop = 1;
    pthread_mutex_unlock(&P.lock);
    EQ(0, pthread_join(trouble_of_test.thread, NULL));
    YES(trouble_of_test.killed > 0);
    YES(reach(&P.ended, many));
    threads_admin();
    /* What was taken in a commit whose reply was lost comes back when its lease ends. */
    began_ms = monotonic_ms();
    while (admin_count(PGQRS_ARCHIVED) < many) {
        YES(monotonic_ms() - began_ms < THREADS_PATIENCE_MS);
        advance_ms(1000);
        sleep_ms(20);
    }
    pgqrs_stop(T.store);
    RESULT(PGQRS_OK, end_of_loop(&loop));
    for (i = 0; i < many; i++)
        YES(times_seen(ids[i]) >= 1);
    NUMBERS(0, 0, 0, many, 0);
    OK(pgqrs_verify(T.store));
}

static void pool_outlives_killed_connections(void)
{
    pool_outlives_trouble(kill_connections, a_little_later, 0);
}

static void pool_of_quick_handlers_outlives_killed_connections(void)
{
    pool_outlives_trouble(kill_connections, at_once, 4);
}

static void pool_outlives_a_locked_file(void)
{
    pool_outlives_trouble(lock_the_file, a_little_later, 0);
}

static void pool_of_quick_handlers_outlives_a_locked_file(void)
{
    pool_outlives_trouble(lock_the_file, at_once, 4);
}

/* A pool with nothing to do meets a store that cannot be written to: it tries again soon, not with the next heartbeat. */
static void idle_pool_tries_again_soon(void)
{
    loop_thread loop = {.handler = count_it, .desc = {.threads = 2, .heartbeat_ms = 600000}};
    pgqrs_store_desc impatient = threaded_desc();
    sqlite3 *database = NULL;
    begin_threads();
    impatient.connect_timeout_ms = 100;
    loop.store = open_store(&impatient);
    OK(pgqrs_enqueue(T.store, T.queue, "1", &(pgqrs_enqueue_desc){.delay_ms = 60000}, NULL));
    start_loop(&loop);
    while (worker_rows() == 0)
        sleep_ms(5);
    EQ(SQLITE_OK, sqlite3_open(T.file, &database));
    sqlite3_busy_timeout(database, 10000); /* the loop may be at its first claim */
    EQ(SQLITE_OK, sqlite3_exec(database, "BEGIN IMMEDIATE", NULL, NULL, NULL));
    advance_ms(61000);
    sleep_ms(600); /* the claim fails, once at least */
    EQ(0, P.calls);
    EQ(SQLITE_OK, sqlite3_exec(database, "ROLLBACK", NULL, NULL, NULL));
    sqlite3_close(database);
    YES(reach(&P.calls, 1));
    pgqrs_stop(loop.store);
    RESULT(PGQRS_OK, end_of_loop(&loop));
}

/* --- producers */

enum { PRODUCING = 8, EACH = 500 };

typedef struct producing {
    pthread_t thread;
    pgqrs_producer *producer;
    int number;
    int count;
    bool hand_over;
    int64_t ids[EACH];
    int failed, duplicates;
    pgqrs_result result;
    pgqrs_error error;
} producing;

static void *produce(void *argument)
{
    producing *mine_of = (producing *)argument;
    char payload[40];
    int i;
    for (i = 0; i < mine_of->count; i++) {
        pgqrs_receipt receipt = {0, false};
        pgqrs_error err;
        pgqrs_result result;
        snprintf(payload, sizeof(payload), "%d", mine_of->number * 1000 + i);
        result = mine_of->hand_over ? pgqrs_producer_hand_over(mine_of->producer, T.queue, payload, NULL, &err)
                                    : pgqrs_producer_enqueue(mine_of->producer, T.queue, payload, NULL, &receipt, &err);
        mine_of->ids[i] = receipt.id;
        mine_of->failed += result != PGQRS_OK;
        if (!result)
            count_up(&P.calls);
        if (result && !mine_of->result) {
            mine_of->result = result;
            mine_of->error = err;
        }
    }
    return NULL;
}

static pgqrs_producer *must_open_producer(pgqrs_producer_desc desc)
{
    pgqrs_producer *producer = pgqrs_producer_open(T.store, &desc);
    if (!producer)
        fail_at(__FILE__, __LINE__, "pgqrs_producer_open: %s", last_message(T.store));
    return producer;
}

static void close_producer(pgqrs_producer *producer)
{
    pgqrs_error err;
    RESULT(PGQRS_OK, pgqrs_producer_close(producer, &err));
    RESULT(PGQRS_OK, err.code);
}

static producing *produce_together(pgqrs_producer *producer, int count, bool hand_over)
{
    static producing all[PRODUCING];
    int i;
    memset(all, 0, sizeof(all));
    for (i = 0; i < PRODUCING; i++) {
        all[i].producer = producer;
        all[i].number = i;
        all[i].count = count;
        all[i].hand_over = hand_over;
        EQ(0, pthread_create(&all[i].thread, NULL, produce, &all[i]));
    }
    for (i = 0; i < PRODUCING; i++)
        EQ(0, pthread_join(all[i].thread, NULL));
    return all;
}

/* All of the queue in the order of delivery: each payload once, each thread's in its order. */
static void check_produced(int count)
{
    int next[PRODUCING] = {0}, all = 0;
    const pgqrs_messages *messages;
    size_t i;
    do {
        messages = take_many(1000);
        for (i = 0; i < messages->count; i++) {
            int payload = atoi(messages->items[i].payload), number = payload / 1000;
            YES(number >= 0 && number < PRODUCING);
            EQ(next[number]++, payload % 1000);
            all++;
        }
    } while (messages->count);
    EQ(PRODUCING * count, all);
}

static int compare_int64(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

static void producer_stores_each_message_of_every_thread_once(void)
{
    static int64_t ids[PRODUCING * EACH];
    pgqrs_producer *producer;
    producing *all;
    size_t i;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){0});
    T.event_count = 0;
    all = produce_together(producer, EACH, false);
    close_producer(producer);
    for (i = 0; i < PRODUCING; i++) {
        EQ(0, all[i].failed);
        memcpy(ids + i * EACH, all[i].ids, sizeof(all[i].ids));
    }
    qsort(ids, COUNT_OF(ids), sizeof(ids[0]), compare_int64);
    for (i = 0; i < COUNT_OF(ids); i++)
        YES(ids[i] > (i ? ids[i - 1] : 0));
    NUMBERS(PRODUCING * EACH, 0, 0, 0, 0);
    for (i = 0; i < PRODUCING; i++)
        EQ((int)i * 1000 + EACH - 1, atoi(look(all[i].ids[EACH - 1])->payload));
    check_produced(EACH);
}

static int64_t stored_events(void)
{
    int64_t stored = 0;
    size_t i;
    for (i = 0; i < T.event_count; i++)
        if (T.events[i].event.type == PGQRS_EVENT_ENQUEUED)
            stored += T.events[i].event.count;
    return stored;
}

/* Whoever stores waits at the gate with its event: all that comes meanwhile is one group. */
static void what_is_handed_over_shares_commits(pgqrs_producer *producer)
{
    enum { HANDED = 400, GROUP_MAX = 256 };
    int i, refused = 0;
    pthread_mutex_lock(&event_gate);
    T.event_count = 0;
    for (i = 0; i < HANDED; i++)
        refused += pgqrs_producer_hand_over(producer, T.queue, "1", NULL, NULL) != PGQRS_OK;
    pthread_mutex_unlock(&event_gate);
    RESULT(PGQRS_OK, pgqrs_producer_flush(producer, NULL));
    EQ(0, refused);
    EQ(HANDED, stored_events());
    BETWEEN(1, 1 + (HANDED + GROUP_MAX - 1) / GROUP_MAX, events_of(PGQRS_EVENT_ENQUEUED));
}

/* The same for threads that wait until theirs is stored: false when not all of them were there in time. */
static bool waiting_threads_share_commits(pgqrs_producer *producer, int patience_ms)
{
    static producing all[PRODUCING];
    int i;
    memset(all, 0, sizeof(all));
    pthread_mutex_lock(&event_gate);
    T.event_count = 0;
    for (i = 0; i < PRODUCING; i++) {
        all[i] = (producing){.producer = producer, .number = i, .count = 1};
        if (pthread_create(&all[i].thread, NULL, produce, &all[i]))
            abort(); /* not a check: it would leave the lock held */
    }
    sleep_ms(patience_ms);
    pthread_mutex_unlock(&event_gate);
    for (i = 0; i < PRODUCING; i++) {
        EQ(0, pthread_join(all[i].thread, NULL));
        EQ(0, all[i].failed);
    }
    EQ(PRODUCING, stored_events());
    return events_of(PGQRS_EVENT_ENQUEUED) <= 2;
}

static void producer_shares_commits(void)
{
    pgqrs_producer *producer;
    int patience_ms = 1;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){0});
    what_is_handed_over_shares_commits(producer);
    while (!waiting_threads_share_commits(producer, patience_ms) && patience_ms < THREADS_PATIENCE_MS / 2)
        patience_ms *= 4;
    YES(patience_ms < THREADS_PATIENCE_MS / 2);
    close_producer(producer);
}

static void what_was_handed_over_is_stored_by_flush(void)
{
    pgqrs_producer *producer;
    pgqrs_error err;
    producing *all;
    int i;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){.max_pending = 40});
    RESULT(PGQRS_OK, pgqrs_producer_flush(producer, &err)); /* nothing is pending */
    all = produce_together(producer, EACH, true);
    RESULT(PGQRS_OK, pgqrs_producer_flush(producer, &err));
    if (on(ON_SHARED)) {
        threads_admin();
        EQ(PRODUCING * EACH, admin_count(PGQRS_READY));
    }
    close_producer(producer);
    for (i = 0; i < PRODUCING; i++)
        EQ(0, all[i].failed);
    check_produced(EACH);
}

static void close_of_a_producer_flushes(void)
{
    pgqrs_producer *producer;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){0});
    produce_together(producer, 50, true);
    close_producer(producer);
    check_produced(50);
    RESULT(PGQRS_OK, pgqrs_producer_close(NULL, NULL));
}

/* One bad message, or many, among the good ones of other threads. */
static void *produce_nonsense(void *argument)
{
    producing *mine_of = (producing *)argument;
    int i;
    for (i = 0; i < mine_of->count; i++) {
        pgqrs_error err;
        pgqrs_result want = i % 2 ? PGQRS_ERR_QUEUE_NOT_FOUND : PGQRS_ERR_JSON;
        pgqrs_result result = pgqrs_producer_enqueue(mine_of->producer, i % 2 ? "no-such-queue" : T.queue,
                                                     i % 2 ? "1" : "{" SECRET, NULL, NULL, &err);
        mine_of->failed += result != want || err.code != want || !err.message[0] || strstr(err.message, SECRET);
    }
    return NULL;
}

static void refused_messages_do_not_disturb_the_others(void)
{
    static producing bad;
    pgqrs_producer *producer;
    producing *all;
    int i;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){0});
    memset(&bad, 0, sizeof(bad));
    bad.producer = producer;
    bad.count = 200;
    EQ(0, pthread_create(&bad.thread, NULL, produce_nonsense, &bad));
    all = produce_together(producer, 100, false);
    EQ(0, pthread_join(bad.thread, NULL));
    close_producer(producer);
    EQ(0, bad.failed);
    for (i = 0; i < PRODUCING; i++)
        EQ(0, all[i].failed);
    check_produced(100);
}

static void *produce_one_key(void *argument)
{
    producing *mine_of = (producing *)argument;
    pgqrs_receipt receipt = {0, false};
    mine_of->result = pgqrs_producer_enqueue(mine_of->producer, T.queue, SECRET_PAYLOAD,
                                             &(pgqrs_enqueue_desc){.dedup_key = "only one"}, &receipt, &mine_of->error);
    mine_of->ids[0] = receipt.id;
    mine_of->duplicates = receipt.duplicate;
    return NULL;
}

static void equal_keys_of_many_threads_are_one_message(void)
{
    static producing all[32];
    pgqrs_producer *producer;
    size_t i;
    int duplicates = 0;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){0});
    memset(all, 0, sizeof(all));
    for (i = 0; i < COUNT_OF(all); i++) {
        all[i].producer = producer;
        EQ(0, pthread_create(&all[i].thread, NULL, produce_one_key, &all[i]));
    }
    for (i = 0; i < COUNT_OF(all); i++) {
        EQ(0, pthread_join(all[i].thread, NULL));
        RESULT(PGQRS_OK, all[i].result);
        EQ(all[0].ids[0], all[i].ids[0]);
        duplicates += all[i].duplicates;
    }
    close_producer(producer);
    EQ(COUNT_OF(all) - 1, duplicates);
    NUMBERS(1, 0, 0, 0, 0);
}

static void producer_keeps_delays_priorities_and_queues(void)
{
    pgqrs_producer *producer;
    pgqrs_receipt low, high, later, elsewhere;
    const char *other;
    pgqrs_error err;
    begin_threads();
    other = another_queue("other");
    producer = must_open_producer((pgqrs_producer_desc){0});
    RESULT(PGQRS_OK, pgqrs_producer_enqueue(producer, T.queue, "1", NULL, &low, &err));
    RESULT(PGQRS_OK, pgqrs_producer_enqueue(producer, T.queue, "2", &(pgqrs_enqueue_desc){.priority = 7, .producer = "p"}, &high, NULL));
    RESULT(PGQRS_OK, pgqrs_producer_enqueue(producer, T.queue, "3", &(pgqrs_enqueue_desc){.delay_ms = 3600000}, &later, NULL));
    RESULT(PGQRS_OK, pgqrs_producer_enqueue(producer, other, "4", NULL, &elsewhere, NULL));
    RESULT(PGQRS_OK, pgqrs_producer_hand_over(producer, other, "55", &(pgqrs_enqueue_desc){.payload_size = 1, .dedup_key = "k", .producer = "p"}, NULL));
    close_producer(producer);
    EQ(high.id, must_take()->id);
    EQ(low.id, must_take()->id);
    STATE("delayed", later.id);
    EQ(2, numbers_of(other).ready);
    SAME("4", look(elsewhere.id)->payload);
    {
        const pgqrs_messages *there = take_many_with(T.store, other, (pgqrs_dequeue_desc){.limit = 5});
        EQ(2, there->count);
        SAME("5", there->items[1].payload);
        SAME("p", must_look(there->items[1].id)->producer);
    }
}

static void rate_limit_of_a_store_counts_for_its_producer(void)
{
    pgqrs_store_desc desc = threaded_desc();
    pgqrs_producer *producer;
    pgqrs_error err;
    int64_t began_ms;
    int i, stored = 0, refused = 0;
    begin_threads();
    close_store(T.store);
    desc.validation.max_enqueue_per_second = 1;
    desc.validation.max_enqueue_burst = 5;
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    if (on(ON_SQLITE_MEMORY))
        OK(pgqrs_queue_create(T.store, T.queue, NULL));
    began_ms = monotonic_ms();
    producer = must_open_producer((pgqrs_producer_desc){0});
    for (i = 0; i < 20; i++) {
        pgqrs_result result = i % 2 ? pgqrs_producer_enqueue(producer, T.queue, "1", NULL, NULL, &err)
                                    : pgqrs_producer_hand_over(producer, T.queue, "1", NULL, &err);
        stored += result == PGQRS_OK;
        refused += result == PGQRS_ERR_RATE_LIMITED && err.code == result && err.retry_after_ms > 0;
    }
    close_producer(producer);
    EQ(20, stored + refused);
    BETWEEN(5, 5 + 1 + (monotonic_ms() - began_ms) / 1000, stored); /* the burst, and one for each second */
    EQ(stored, numbers().ready);
}

static void store_is_the_producers_alone(void)
{
    pgqrs_producer *producer;
    bool exists;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){0});
    RESULT(PGQRS_ERR_WRONG_THREAD, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    RESULT(PGQRS_ERR_WRONG_THREAD, pgqrs_queue_exists(T.store, T.queue, &exists));
    RESULT(PGQRS_ERR_WRONG_THREAD, pgqrs_work(T.store, T.queue, count_it, NULL, NULL));
    YES(pgqrs_producer_open(T.store, NULL) == NULL);
    close_producer(producer);
    NUMBERS(0, 0, 0, 0, 0);
    producer = must_open_producer((pgqrs_producer_desc){0});
    close_producer(producer);
}

static void producer_refuses_what_it_cannot_use(void)
{
    pgqrs_error err;
    YES(pgqrs_producer_open(T.store, &(pgqrs_producer_desc){.max_pending = -1}) == NULL);
    check_error(pgqrs_last_error(T.store), PGQRS_ERR_INVALID_ARGUMENT, "pgqrs_producer_open", __FILE__, __LINE__);
    YES(pgqrs_producer_open(T.store, &(pgqrs_producer_desc){.close_ms = -1}) == NULL);
    check_error(pgqrs_last_error(T.store), PGQRS_ERR_INVALID_ARGUMENT, "pgqrs_producer_open", __FILE__, __LINE__);
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_producer_enqueue(NULL, T.queue, "1", NULL, NULL, &err));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_producer_hand_over(NULL, T.queue, "1", NULL, &err));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_producer_flush(NULL, &err));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, err.code);
    if (on(ON_SERVER)) {
        pgqrs_store_desc desc = test_desc();
        pgqrs_store *borrowing = remember_store(pgqrs_open_pgconn(open_connection(run.dsn), &desc, &err));
        assert_non_null(borrowing);
        YES(pgqrs_producer_open(borrowing, NULL) == NULL);
        check_error(pgqrs_last_error(borrowing), PGQRS_ERR_UNSUPPORTED, "pgqrs_producer_open", __FILE__, __LINE__);
    } else if (on(ON_SQLITE_MEMORY)) {
        YES(pgqrs_producer_open(T.store, NULL) == NULL);
        check_error(pgqrs_last_error(T.store), PGQRS_ERR_UNSUPPORTED, "pgqrs_producer_open", __FILE__, __LINE__);
    }
    put();
}

static void *flush_it(void *argument)
{
    producing *mine_of = (producing *)argument;
    pgqrs_result result = pgqrs_producer_flush(mine_of->producer, &mine_of->error);
    pthread_mutex_lock(&P.lock);
    mine_of->result = result;
    P.ended = 1;
    pthread_mutex_unlock(&P.lock);
    return NULL;
}

/* The queue goes away under what was handed over. */
static void flush_reports_what_was_lost(void)
{
    static producing another;
    pthread_t thread;
    pgqrs_producer *producer;
    const char *other;
    pgqrs_error err;
    int i;
    begin_threads();
    other = another_queue("short-lived");
    producer = must_open_producer((pgqrs_producer_desc){0});
    threads_admin();
    OK_ON(P.admin, pgqrs_queue_delete(P.admin, other, true));
    for (i = 0; i < 7; i++) {
        RESULT(PGQRS_OK, pgqrs_producer_hand_over(producer, other, SECRET_PAYLOAD, NULL, &err));
        RESULT(PGQRS_OK, pgqrs_producer_hand_over(producer, T.queue, "1", NULL, &err));
    }
    RESULT(PGQRS_ERR_QUEUE_NOT_FOUND, pgqrs_producer_flush(producer, &err));
    check_error(&err, PGQRS_ERR_QUEUE_NOT_FOUND, "pgqrs_producer_flush", __FILE__, __LINE__);
    check_text_names(err.message, "7 messages", "pgqrs_producer_flush", __FILE__, __LINE__);
    check_text_names(err.message, other, "pgqrs_producer_flush", __FILE__, __LINE__);
    RESULT(PGQRS_OK, pgqrs_producer_flush(producer, &err)); /* once is enough */
    another.producer = producer; /* but another thread may have handed them over: it is told, too */
    EQ(0, pthread_create(&thread, NULL, flush_it, &another));
    EQ(0, pthread_join(thread, NULL));
    EQ(PGQRS_ERR_QUEUE_NOT_FOUND, another.result);
    check_text_names(another.error.message, "7 messages", "pgqrs_producer_flush", __FILE__, __LINE__);
    RESULT(PGQRS_OK, pgqrs_producer_hand_over(producer, other, "1", NULL, &err));
    RESULT(PGQRS_ERR_QUEUE_NOT_FOUND, pgqrs_producer_close(producer, &err));
    NUMBERS(7, 0, 0, 0, 0);
}

/* Another process has the file for good: close gives up in time, says so, and gives the store back. */
static void close_of_a_producer_ends_in_time(void)
{
    pgqrs_producer *producer;
    pgqrs_error err;
    sqlite3 *database;
    int64_t began_ms;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){.close_ms = 300});
    database = open_database(T.file);
    EQ(SQLITE_OK, sqlite3_exec(database, "BEGIN IMMEDIATE", NULL, NULL, NULL));
    RESULT(PGQRS_OK, pgqrs_producer_hand_over(producer, T.queue, "1", NULL, &err));
    RESULT(PGQRS_OK, pgqrs_producer_hand_over(producer, T.queue, "2", NULL, &err));
    began_ms = monotonic_ms();
    NO(pgqrs_producer_close(producer, &err) == PGQRS_OK);
    YES(monotonic_ms() - began_ms < 20000);
    check_text_names(err.message, "2 messages", "pgqrs_producer_close", __FILE__, __LINE__);
    EQ(SQLITE_OK, sqlite3_exec(database, "ROLLBACK", NULL, NULL, NULL));
    NUMBERS(0, 0, 0, 0, 0);
    put();
}

static void flush_waits_until_it_is_stored(void)
{
    static producing one;
    pgqrs_producer *producer;
    sqlite3 *database;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){0});
    database = open_database(T.file);
    EQ(SQLITE_OK, sqlite3_exec(database, "BEGIN IMMEDIATE", NULL, NULL, NULL));
    RESULT(PGQRS_OK, pgqrs_producer_hand_over(producer, T.queue, "1", NULL, NULL));
    memset(&one, 0, sizeof(one));
    one.producer = producer;
    EQ(0, pthread_create(&one.thread, NULL, flush_it, &one));
    sleep_ms(150);
    EQ(0, get(&P.ended));
    EQ(SQLITE_OK, sqlite3_exec(database, "ROLLBACK", NULL, NULL, NULL));
    EQ(0, pthread_join(one.thread, NULL));
    RESULT(PGQRS_OK, one.result);
    close_producer(producer);
    NUMBERS(1, 0, 0, 0, 0);
}

/* Handing over waits while max_pending are not stored. */
static void handing_over_waits_for_room(void)
{
    static producing one;
    pgqrs_producer *producer;
    sqlite3 *database;
    int64_t before;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){.max_pending = 10});
    database = open_database(T.file);
    EQ(SQLITE_OK, sqlite3_exec(database, "BEGIN IMMEDIATE", NULL, NULL, NULL));
    memset(&one, 0, sizeof(one));
    one.producer = producer;
    one.count = 50;
    one.hand_over = true;
    before = blocks_now();
    EQ(0, pthread_create(&one.thread, NULL, produce, &one));
    sleep_ms(150);
    YES(blocks_now() - before < 40); /* far from fifty copies */
    EQ(SQLITE_OK, sqlite3_exec(database, "ROLLBACK", NULL, NULL, NULL));
    EQ(0, pthread_join(one.thread, NULL));
    EQ(0, one.failed);
    close_producer(producer);
    NUMBERS(50, 0, 0, 0, 0);
}

static void producer_outlives_killed_connections(void)
{
    killing_thread killer_of = {.stop = 0};
    pgqrs_producer *producer;
    pgqrs_messages *messages = NULL;
    producing *all;
    int64_t stored = 0;
    int i, k, acknowledged = 0;
    begin_threads();
    producer = must_open_producer((pgqrs_producer_desc){0});
    EQ(0, pthread_create(&killer_of.thread, NULL, kill_connections, &killer_of));
    all = produce_together(producer, EACH, false);
    pthread_mutex_lock(&P.lock);
    killer_of.stop = 1;
    pthread_mutex_unlock(&P.lock);
    EQ(0, pthread_join(killer_of.thread, NULL));
    pgqrs_producer_close(producer, NULL);
    for (i = 0; i < PRODUCING; i++)
        for (k = 0; k < EACH; k++)
            if (all[i].ids[k]) {
                acknowledged++;
                EQ(i * 1000 + k, atoi(must_look(all[i].ids[k])->payload));
            }
    YES(acknowledged > 0);
    do {
        OK(pgqrs_dequeue_many(T.store, T.queue, &(pgqrs_dequeue_desc){.limit = 1000}, &messages));
        keep(messages);
        stored += (int64_t)messages->count;
    } while (messages->count);
    BETWEEN(acknowledged, PRODUCING * EACH, stored);
}

static const test_case thread_cases[] = {
    CASE(one_thread_handles_all_messages_once, PLAIN),
    CASE(four_threads_handle_all_messages_once, PLAIN),
    CASE(sixteen_threads_handle_all_messages_once, PLAIN),
    CASE_ON(threads_leave_alone_what_handlers_settled, PLAIN, ON_SHARED),
    CASE(threads_on_an_empty_queue_end_at_once, PLAIN),
    CASE(one_thread_keeps_the_order, PLAIN),
    CASE(threads_carry_out_every_verdict, PLAIN),
    CASE(threads_wait_for_their_own_retries, PLAIN),
    CASE(threads_do_not_wait_for_others_delays, PLAIN),
    CASE(threads_handle_max_messages_exactly, PLAIN),
    CASE_ON(one_thread_settles_after_every_message, PLAIN, ON_SHARED),
    CASE_ON(batch_bounds_what_threads_take, PLAIN, ON_SHARED),
    CASE_ON(quick_handlers_get_more_at_once, PLAIN, ON_SHARED),
    CASE_ON(messages_in_quick_succession_are_taken_together, PLAIN, ON_POSTGRES),
    CASE_ON(slow_handlers_get_no_more_than_their_threads, PLAIN, ON_SHARED),
    CASE(all_threads_come_when_handlers_become_slow, PLAIN),
    CASE(all_threads_come_when_one_stood_in, PLAIN),
    CASE_ON(quick_handlers_make_the_next_exchange, PLAIN, ON_SHARED),
    CASE_ON(lease_of_a_long_handler_is_renewed, PLAIN, ON_SHARED),
    CASE_ON(lost_lease_reaches_the_handler, PLAIN, ON_SHARED),
    CASE_ON(late_verdict_of_a_thread_is_refused, PLAIN, ON_SHARED),
    CASE_ON(extend_on_a_thread_works_at_once, PLAIN, ON_SHARED),
    CASE_ON(what_waits_for_a_thread_too_long_goes_to_others, PLAIN, ON_SHARED),
    CASE(stop_from_another_thread_ends_the_pool, PLAIN),
    CASE(stop_in_a_signal_handler_ends_the_pool, PLAIN),
    CASE_ON(interrupt_ends_a_pool_of_quick_handlers, PLAIN, ON_SHARED),
    CASE(stop_in_a_quick_handler_takes_no_more, PLAIN),
    CASE_ON(interrupt_ends_the_pool, PLAIN, ON_SHARED),
    CASE_ON(suspended_pool_waits_for_resume, PLAIN, ON_SHARED),
    CASE_ON(shutdown_ends_the_pool, PLAIN, ON_SHARED),
    CASE_ON(reclaimed_pool_registers_again, PLAIN, ON_SHARED),
    CASE_ON(pool_reclaimed_at_work_registers_again, PLAIN, ON_SHARED),
    CASE_ON(handlers_that_do_not_return_are_left_behind, PLAIN, ON_SHARED),
    CASE(stop_ms_does_not_disturb_who_returns_in_time, PLAIN),
    CASE(threads_out_of_place_are_refused, PLAIN),
    CASE_ON(several_pools_work_at_the_same_time, PLAIN, ON_SHARED),
    CASE(runs_on_threads_execute_each_step_once, PLAIN),
    CASE(runs_on_threads_retry_sleep_wait_and_fail, PLAIN),
    CASE_ON(cancel_reaches_a_run_on_a_thread, PLAIN, ON_SHARED),
    CASE(stop_gives_back_runs_on_threads, PLAIN),
    CASE_ON(transactional_steps_on_threads_commit_once, FRESH, ON_SHARED),
    CASE_ON(transactional_step_left_on_a_thread_writes_nothing, FRESH, ON_SHARED),
    CASE_ON(pool_outlives_killed_connections, PLAIN, ON_POSTGRES),
    CASE_ON(pool_of_quick_handlers_outlives_killed_connections, PLAIN, ON_POSTGRES),
    CASE_ON(pool_outlives_a_locked_file, PLAIN, ON_SQLITE_FILE),
    CASE_ON(pool_of_quick_handlers_outlives_a_locked_file, PLAIN, ON_SQLITE_FILE),
    CASE_ON(idle_pool_tries_again_soon, PLAIN, ON_SQLITE_FILE),
    CASE(producer_stores_each_message_of_every_thread_once, PLAIN),
    CASE_ON(producer_shares_commits, PLAIN, ON_SHARED),
    CASE(what_was_handed_over_is_stored_by_flush, PLAIN),
    CASE(close_of_a_producer_flushes, PLAIN),
    CASE(refused_messages_do_not_disturb_the_others, PLAIN),
    CASE(equal_keys_of_many_threads_are_one_message, PLAIN),
    CASE(producer_keeps_delays_priorities_and_queues, PLAIN),
    CASE(rate_limit_of_a_store_counts_for_its_producer, PLAIN),
    CASE(store_is_the_producers_alone, PLAIN),
    CASE(producer_refuses_what_it_cannot_use, TWO),
    CASE_ON(flush_reports_what_was_lost, PLAIN, ON_SHARED),
    CASE_ON(close_of_a_producer_ends_in_time, PLAIN, ON_SQLITE_FILE),
    CASE_ON(flush_waits_until_it_is_stored, PLAIN, ON_SQLITE_FILE),
    CASE_ON(handing_over_waits_for_room, PLAIN, ON_SQLITE_FILE),
    CASE_ON(producer_outlives_killed_connections, PLAIN, ON_POSTGRES),
};
