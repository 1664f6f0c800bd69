/* Proof by chaos: producers, consumers and workflow workers are killed, stopped, lied to about the time and cut off from their
 * database, at random; each writes down what it does, and in the end the history checker decides.
 *
 *   proof_chaos DSN             sqlite://FILE or postgresql://…; histories and the SQLite files are written beside FILE, or to
 *                               the working directory
 *   PGQRS_PROOF_SEED            repeats the decisions of a run (the kernel's scheduling is not ours to repeat)
 *   PGQRS_PROOF_SECONDS         how long, about, all scenarios together (30); each takes a second at least, and what it needs
 *                               to come to rest
 *   PGQRS_PROOF_ONLY            only scenarios whose name contains it
 *   PGQRS_PROOF_KEEP            keep the histories of every round (those of a failed one are kept anyway)
 *   PGQRS_PROOF_SERVER          command that restarts the server: called with `fast`, `immediate` or `start` added
 *   PGQRS_PROOF_FULL            a file: while it is there, the server's disk is full (tests/proof_fulldisk.c)
 *
 * tests/proof.sh sets all this up. Exit status 0: nothing was found. */
#include "proof_runs.h"

/* --- a round: a fresh place, processes, chaos, quiet, verdict --- */

typedef struct totals {
    char name[40];
    int64_t rounds, operations, messages, deliveries, runs, kills, stops, cuts, unknown, refused, violations;
    int64_t killed_while_holding, slowest_recovery_us;
} totals;

typedef struct scenario {
    const char *name;
    void (*run)(int64_t seconds_us);
    int weight;
    int targets; /* 1: SQLite, 2: a server */
} scenario;

/* Which queues a scenario uses. */
enum { ON_HAND = 1, ON_LOOP = 2, ON_ORDER = 4, ON_SECOND = 1 << SECOND_SCHEMA, ON_POOL = 1 << POOL };

static totals total;
static int64_t total_violations;

static pgqrs_store *place_store(int queue)
{
    pgqrs_error err;
    pgqrs_store *store = open_place(queue, &err);
    if (!store)
        fprintf(stderr, "# cannot open: %s\n", err.message);
    return store;
}

static bool made(pgqrs_store *store, pgqrs_result result)
{
    if (result != PGQRS_OK)
        fprintf(stderr, "# setting up: %s\n", pgqrs_last_error(store)->message);
    return result == PGQRS_OK;
}

/* Queues of one schema. */
static bool make_queues(unsigned queues)
{
    pgqrs_store *store = place_store(queues == 1u << SECOND_SCHEMA ? SECOND_SCHEMA : 0);
    pgqrs_queue_desc desc;
    bool good = store && made(store, pgqrs_install(store));
    int i;
    memset(&desc, 0, sizeof(desc));
    desc.max_attempts = MAX_ATTEMPTS;
    desc.backoff_ms = BACKOFF_MS;
    desc.backoff_max_ms = BACKOFF_MAX_MS;
    for (i = 0; good && i < QUEUES; i++) {
        desc.lease_ms = i == POOL ? POOL_LEASE_MS : LEASE_MS;
        if (queues >> i & 1u)
            good = made(store, pgqrs_queue_create(store, queue_names[i], &desc));
    }
    pgqrs_close(store);
    return good;
}

static void employ_pools(bool may_die)
{
    slot *place = employ_first(pool_producer, "producer with threads", POOL, may_die);
    place->histories = 1 + THREADS;
    employ(pool_looper, "pool", POOL, may_die);
}

static bool place_exec(const char *sql)
{
    sqlite3 *database = NULL;
    bool good;
    if (W.server)
        return server_exec(sql);
    good = sqlite3_open(W.place, &database) == SQLITE_OK && sqlite3_busy_timeout(database, 10000) == SQLITE_OK &&
           sqlite3_exec(database, sql, NULL, NULL, NULL) == SQLITE_OK;
    sqlite3_close(database);
    return good;
}

static bool make_workflow(void)
{
    pgqrs_store *store = place_store(0);
    pgqrs_workflow_desc desc;
    char table[700], sql[900];
    bool good = store && made(store, pgqrs_install(store));
    memset(&desc, 0, sizeof(desc));
    desc.lease_ms = LEASE_MS;
    desc.max_attempts = 10000;
    desc.retry.max_retries = 10000;
    desc.retry.base_ms = 20;
    desc.retry.cap_ms = 100;
    good = good && made(store, pgqrs_workflow_create(store, WORKFLOW, &desc));
    pgqrs_close(store);
    effects_table(table, sizeof(table));
    snprintf(sql, sizeof(sql), "CREATE TABLE %s(run_id BIGINT NOT NULL, process INTEGER NOT NULL)", table);
    return good && place_exec(sql);
}

static void begin_round(void)
{
    W.round++;
    W.processes = 1;
    W.slot_count = 0;
    W.errors_are_expected = W.sleepers_freeze = false;
    W.lost_replies = 0;
    W.kills = W.stops = W.terminated = W.restarts = W.fills = W.wrong_exits = 0;
    memset(W.page, 0, sizeof(*W.page));
    snprintf(W.dir, sizeof(W.dir), "%s/round%d", W.root, W.round);
    if (mkdir(W.dir, 0755) != 0 || !proof_open_writer(&W.out, W.dir, 0)) {
        perror(W.dir);
        exit(94);
    }
    if (W.server)
        snprintf(W.place, sizeof(W.place), "proof%d_%d", (int)getpid(), W.round);
    else
        snprintf(W.place, sizeof(W.place), "%s/store.db", W.dir);
}

static proof_terms usual_terms(void)
{
    proof_terms terms;
    memset(&terms, 0, sizeof(terms));
    terms.max_attempts = MAX_ATTEMPTS;
    terms.lease_us = LEASE_MS * 1000;
    terms.slack_us = 20000;
    terms.recovery_us = SLOW_MS * 1000;
    terms.afterlife_us = W.server ? terms.recovery_us : 0;
    terms.backoff_max_us = (BACKOFF_MAX_MS + BACKOFF_MAX_MS / 4) * 1000;
    terms.by_hand = 1u << 0 | 1u << 2 | 1u << SECOND_SCHEMA;
    terms.fifo = 1u << 2;
    terms.steps = STEPS;
    return terms;
}

/* --- the end of a round --- */

static int64_t unfinished(pgqrs_store *store)
{
    pgqrs_metrics *metrics = NULL;
    int64_t left = 0;
    size_t i;
    if (pgqrs_metrics_get(store, NULL, &metrics) != PGQRS_OK)
        return -1;
    for (i = 0; i < metrics->count; i++)
        left += metrics->items[i].ready + metrics->items[i].delayed + metrics->items[i].leased;
    pgqrs_free(metrics);
    return left;
}

/* Is there anybody left who may still add to the work, or who sleeps on some of it? */
static bool work_may_come(void)
{
    int i;
    for (i = 0; i < W.slot_count; i++)
        if (W.slots[i].stopped_until_us || (W.slots[i].ends_first && W.slots[i].pid > 0))
            return true;
    return false;
}

/* No more work comes; those who are left finish what there is, expired leases and all, without any help. */
static void drain(void)
{
    int64_t deadline = proof_now_us() + (int64_t)DRAIN_MS * 1000, left = -1;
    int quiet = 0; /* looked so often and found nothing: a server may still carry out what the dead sent */
    pgqrs_store *store, *second = NULL;
    W.page->phase = DRAINING;
    while (work_may_come() && proof_now_us() < deadline) {
        attend(LEASE_MS + 300);
        nap_ms(5);
    }
    store = place_store(0);
    if (W.slot_count && W.slots[W.slot_count - 1].queue == SECOND_SCHEMA)
        second = place_store(SECOND_SCHEMA);
    while (store && quiet < 5 && proof_now_us() < deadline) {
        attend(LEASE_MS + 300);
        left = unfinished(store);
        if (left == 0 && second)
            left = unfinished(second);
        quiet = left == 0 ? quiet + 1 : 0;
        nap_ms(25);
    }
    if (left != 0)
        printf("# %" PRId64 " messages are unfinished after %d s of quiet\n", left, DRAIN_MS / 1000);
    pgqrs_close(second);
    pgqrs_close(store);
    W.page->phase = STOPPING;
    join_all();
}

static bool read_queue(pgqrs_store *store, int queue, proof_stored_list *list)
{
    pgqrs_message_filter filter;
    pgqrs_messages *page = NULL;
    bool more = true;
    memset(&filter, 0, sizeof(filter));
    filter.queue = queue_names[queue];
    filter.oldest_first = true;
    filter.limit = 1000;
    while (more) {
        size_t i;
        if (pgqrs_message_list(store, &filter, &page) != PGQRS_OK)
            return false;
        for (i = 0; i < page->count; i++) {
            const pgqrs_message *message = &page->items[i];
            proof_stored stored;
            stored.id = message->id + (queue == SECOND_SCHEMA ? SECOND_SCHEMA_IDS : 0);
            stored.tag = tag_in(message->payload), stored.queue = queue, stored.attempt = message->attempt;
            stored.state = message->state;
            PROOF_APPEND(*list, stored);
            filter.after_id = message->id;
        }
        more = page->count == 1000;
        pgqrs_free(page);
    }
    return true;
}

static int64_t effects_of(int64_t run)
{
    char table[700], sql[900];
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    int64_t count = -1;
    effects_table(table, sizeof(table));
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s WHERE run_id = %" PRId64, table, run);
    if (W.server)
        return server_number(sql);
    if (sqlite3_open(W.place, &database) == SQLITE_OK && sqlite3_prepare_v2(database, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        count = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(database);
    return count;
}

static bool read_run(pgqrs_store *store, const pgqrs_run_info *info, proof_run_end_list *list)
{
    proof_run_end end;
    pgqrs_steps *steps = NULL;
    size_t i;
    int k;
    memset(&end, 0, sizeof(end));
    end.id = info->id, end.tag = tag_in(info->input), end.success = info->state == PGQRS_RUN_SUCCESS;
    if (pgqrs_run_steps(store, info->id, &steps) != PGQRS_OK)
        return false;
    for (i = 0; i < steps->count; i++)
        for (k = 1; k <= STEPS; k++)
            if (strcmp(steps->items[i].name, step_names[k]) == 0)
                end.outputs[k - 1] = tag_in(steps->items[i].output);
    pgqrs_free(steps);
    PROOF_APPEND(*list, end);
    return true;
}

static bool read_runs(pgqrs_store *store, proof_run_end_list *list)
{
    pgqrs_run_filter filter;
    pgqrs_runs *page = NULL;
    bool good = true, more = true;
    size_t i;
    memset(&filter, 0, sizeof(filter));
    filter.workflow = WORKFLOW;
    filter.oldest_first = true;
    filter.limit = 1000;
    while (good && more) {
        if (pgqrs_run_list(store, &filter, &page) != PGQRS_OK)
            return false;
        for (i = 0; i < page->count && good; i++) {
            good = read_run(store, &page->items[i], list);
            filter.after_id = page->items[i].id;
        }
        more = page->count == 1000;
        pgqrs_free(page);
    }
    for (i = 0; i < list->count; i++)
        list->items[i].effects = effects_of(list->items[i].id);
    return good;
}

typedef struct place_end {
    proof_stored_list stored;
    proof_run_end_list runs;
} place_end;

/* The queues of one schema. */
static bool read_place(unsigned queues, bool with_runs, place_end *end)
{
    pgqrs_store *store;
    bool good;
    int i;
    if (!queues && !with_runs)
        return true;
    store = place_store(queues == 1u << SECOND_SCHEMA ? SECOND_SCHEMA : 0);
    good = store != NULL;
    if (good && pgqrs_verify(store) != PGQRS_OK) {
        printf("# pgqrs_verify: %s\n", pgqrs_last_error(store)->message);
        good = false;
    }
    for (i = 0; good && i < QUEUES; i++)
        if (queues >> i & 1u)
            good = read_queue(store, i, &end->stored);
    if (good && with_runs)
        good = read_runs(store, &end->runs);
    if (store && !good)
        printf("# reading the end: %s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    return good;
}

static void remove_place(bool keep)
{
    char sql[1400], command[700];
    if (W.server) {
        snprintf(sql, sizeof(sql), "SET client_min_messages TO warning; DROP SCHEMA IF EXISTS %s, %s_b CASCADE", W.place, W.place);
        server_exec(sql);
    }
    if (keep)
        return;
    snprintf(command, sizeof(command), "rm -rf '%s'", W.dir);
    if (system(command) != 0)
        printf("# could not remove %s\n", W.dir);
}

static void add_totals(const proof_history *history, const place_end *end, const proof_check *check, int64_t violations)
{
    size_t i;
    total.rounds++;
    for (i = 0; i < history->count; i++)
        total.operations += history->items[i].mark == '!' && history->items[i].op != PROOF_GOT;
    total.messages += (int64_t)end->stored.count;
    total.runs += (int64_t)end->runs.count;
    total.deliveries += (int64_t)check->taken.count;
    total.kills += W.kills, total.stops += W.stops, total.cuts += W.terminated + W.restarts + W.fills;
    total.unknown += W.page->unknown, total.refused += W.page->refused;
    total.killed_while_holding += check->killed_while_holding;
    if (check->slowest_recovery_us > total.slowest_recovery_us)
        total.slowest_recovery_us = check->slowest_recovery_us;
    total.violations += violations;
}

/* Quiet, then the verdict. */
static void end_round(const proof_terms *terms, unsigned queues, bool with_runs)
{
    proof_history history;
    proof_check check;
    place_end end;
    int64_t wrong, quiet_us = proof_now_us();
    bool good;
    drain();
    quiet_us = proof_now_us() - quiet_us;
    memset(&history, 0, sizeof(history));
    memset(&check, 0, sizeof(check));
    memset(&end, 0, sizeof(end));
    check.out = stdout;
    check.out_limit = 20;
    close(W.out.file);
    good = read_place(queues & ~(1u << SECOND_SCHEMA), with_runs, &end) && read_place(queues & 1u << SECOND_SCHEMA, false, &end) &&
           proof_read_all(&history, W.dir, W.processes);
    proof_decide(&check, terms, &history, &end.stored, &end.runs);
    wrong = check.violations + W.page->unexpected + W.wrong_exits + !good;
    printf("#   round %d (%.1f s until quiet): %d processes, %zu records, %zu messages, %zu runs, %" PRId64 " kills, %" PRId64 " stops, %" PRId64
           " cuts, %" PRId64 " unknown, %" PRId64 " passing errors, %" PRId64 " unexpected, %" PRId64 " violations\n",
           W.round, (double)quiet_us / 1e6, W.processes, history.count, end.stored.count, end.runs.count, W.kills, W.stops,
           W.terminated + W.restarts + W.fills, W.page->unknown, W.page->expected_errors, W.page->unexpected, check.violations);
    if (wrong)
        printf("#   the histories are in %s\n", W.dir);
    add_totals(&history, &end, &check, wrong);
    proof_check_free(&check);
    free(history.items);
    free(end.stored.items);
    free(end.runs.items);
    remove_place(wrong != 0 || getenv("PGQRS_PROOF_KEEP") != NULL);
    fflush(stdout);
}

/* From here on connections break, and errors that a program would wait out are no surprise. */
static void expect_cuts(proof_terms *terms)
{
    W.errors_are_expected = true;
    terms->claims_repeat = true;
}

/* Ends a scenario whose place could not even be made. */
static void count_as_broken(void)
{
    total.violations++;
    total.rounds++;
}

/* --- the scenarios --- */

/* SIGKILL and SIGSTOP at random points; whoever was killed is started again at once. */
static void kill_and_stop(int64_t end_us, int stops_percent)
{
    while (proof_now_us() < end_us) {
        slot *place = any_slot();
        attend(LEASE_MS + 300);
        if (place && chance(&W.random, stops_percent))
            stop_one(place, 50 + below(&W.random, 2 * LEASE_MS));
        else if (place)
            kill_one(place);
        nap_ms(10 + below(&W.random, 150));
    }
}

static void kills(int64_t us)
{
    proof_terms terms = usual_terms();
    int i;
    begin_round();
    if (!make_queues(ON_HAND | ON_LOOP | ON_ORDER | ON_POOL)) {
        count_as_broken();
        return;
    }
    for (i = 0; i < 2; i++) {
        employ_first(producer, "producer", 0, true);
        employ(consumer, "consumer", 0, true);
        employ_first(producer, "producer of loops", 1, true);
        employ(looper, "loop", 1, true);
        employ_first(producer, "producer in order", 2, true);
    }
    employ(consumer, "consumer", 0, true);
    employ(orderly_consumer, "consumer in order", 2, false);
    employ_pools(true);
    start_all();
    kill_and_stop(proof_now_us() + us, 15);
    end_round(&terms, ON_HAND | ON_LOOP | ON_ORDER | ON_POOL, false);
}

static void sleep_over(int64_t us, bool freeze)
{
    proof_terms terms = usual_terms();
    int64_t end_us = proof_now_us() + us;
    int i;
    begin_round();
    W.sleepers_freeze = freeze;
    if (freeze && !W.server) {
        terms.clocks_differ = true;
        terms.by_hand = 0;
    }
    if (!make_queues(ON_HAND)) {
        count_as_broken();
        return;
    }
    for (i = 0; i < 2; i++) {
        employ_first(producer, "producer", 0, false);
        employ_first(sleepwalker, "sleepwalker", 0, false);
        employ(consumer, "consumer", 0, false);
    }
    start_all();
    /* On a slow machine it takes a while until the first one has slept. */
    while (proof_now_us() < end_us || (W.page->refused == 0 && proof_now_us() < end_us + 10 * 1000000)) {
        attend(LEASE_MS + 50 + below(&W.random, 600));
        nap_ms(5);
    }
    end_round(&terms, ON_HAND, false);
}

static void sleepwalkers(int64_t us)
{
    sleep_over(us, false);
}

static void frozen(int64_t us)
{
    sleep_over(us, true);
}

/* One that sees everything as due: on SQLite every process decides by its own clock. */
static void employ_with_clocks(void)
{
    static const int64_t hour_us = (int64_t)HOUR_MS * 1000;
    int64_t offsets[3];
    int i;
    offsets[0] = -hour_us, offsets[1] = 0, offsets[2] = hour_us;
    for (i = 0; i < 3; i++) {
        employ_first(producer, "producer", 0, true)->wrong_by_us = offsets[i];
        employ(consumer, "consumer", 0, true)->wrong_by_us = offsets[(i + 1) % 3];
        employ_first(producer, "producer of loops", 1, true)->wrong_by_us = offsets[i];
        employ(looper, "loop", 1, true)->wrong_by_us = offsets[i];
    }
}

static void wrong_clocks(int64_t us)
{
    proof_terms terms = usual_terms();
    int i;
    begin_round();
    if (!make_queues(ON_HAND | ON_LOOP)) {
        count_as_broken();
        return;
    }
    employ_with_clocks();
    if (!W.server) {
        terms.clocks_differ = true;
        terms.by_hand = 0;
    }
    start_all();
    kill_and_stop(proof_now_us() + us, 0);
    if (!W.server) {
        /* The rest is theirs whose clock is ahead of all: to them every delay and every lease has ended. */
        int first = W.slot_count;
        W.page->phase = DRAINING;
        nap_ms(100);
        employ(consumer, "last consumer", 0, false)->wrong_by_us = (int64_t)HOUR_MS * 2000;
        employ(looper, "last loop", 1, false)->wrong_by_us = (int64_t)HOUR_MS * 2000;
        for (i = first; i < W.slot_count; i++)
            spawn(&W.slots[i]);
    }
    end_round(&terms, ON_HAND | ON_LOOP, false);
}

static void run_over(int64_t us, bool freeze)
{
    proof_terms terms = usual_terms();
    int i;
    begin_round();
    W.sleepers_freeze = freeze;
    terms.clocks_differ = freeze && !W.server;
    if (!make_workflow()) {
        count_as_broken();
        return;
    }
    for (i = 0; i < 2; i++)
        employ(run_looper, "worker", 0, true);
    employ(run_pool, "pool", 0, true);
    for (i = 0; i < 2; i++) {
        employ_first(trigger_and_wait, "trigger", 0, true);
        employ_first(run_sleepwalker, "sleepwalker", 0, false);
    }
    start_all();
    kill_and_stop(proof_now_us() + us, 10);
    end_round(&terms, 0, true);
}

static void runs(int64_t us)
{
    run_over(us, false);
}

static void frozen_runs(int64_t us)
{
    run_over(us, true);
}

/* --- Postgres: transactions of the caller that commit late, and out of order --- */

static void note_rolled_back(actor *self, saying *all)
{
    note_said(self, all, PGQRS_ERR_TRANSACTION);
}

static void late_transaction(actor *self, PGconn *connection, pgqrs_store *store)
{
    static saying all;
    bool rolled_back = chance(&self->random, 15), good;
    PGresult *result;
    PQclear(PQexec(connection, "BEGIN"));
    prepare_saying(self, &all, 1 + (size_t)below(&self->random, BATCH / 2));
    good = say(store, queue_of(self), &all) == PGQRS_OK;
    if (!good) {
        fprintf(stderr, "# UNEXPECTED: process %d, enqueue in a transaction: %s\n", self->process, pgqrs_last_error(store)->message);
        __sync_fetch_and_add(&W.page->unexpected, 1);
    }
    nap_ms(below(&self->random, chance(&self->random, 20) ? 1500 : 100));
    result = PQexec(connection, rolled_back || !good ? "ROLLBACK" : "COMMIT");
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        note_said(self, &all, PGQRS_ERR_OUTCOME_UNKNOWN);
    else if (rolled_back || !good)
        note_rolled_back(self, &all);
    else
        note_said(self, &all, PGQRS_OK);
    PQclear(result);
}

static int late_producer(actor *self)
{
    PGconn *connection = PQconnectdb(W.dsn);
    char schema[64];
    pgqrs_store_desc desc = store_settings(self->queue, schema, sizeof(schema));
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open_pgconn(connection, &desc, &err);
    if (!store) {
        fprintf(stderr, "# late producer: %s\n", err.message);
        return 1;
    }
    while (going())
        late_transaction(self, connection, store);
    pgqrs_close(store);
    PQfinish(connection);
    return 0;
}

/* Keys of open transactions would make others wait for their ends, so the queue in order, whose messages are plain, is added. */
static void late_commits(int64_t us)
{
    proof_terms terms = usual_terms();
    int64_t end_us;
    int i;
    begin_round();
    if (!make_queues(ON_HAND | ON_ORDER)) {
        count_as_broken();
        return;
    }
    for (i = 0; i < 3; i++) {
        employ_first(late_producer, "late producer", 0, i > 0);
        employ_first(late_producer, "late producer in order", 2, true);
    }
    employ_first(producer, "producer", 0, true);
    employ_first(producer, "producer in order", 2, true);
    for (i = 0; i < 2; i++)
        employ(consumer, "consumer", 0, true);
    employ(orderly_consumer, "consumer in order", 2, false);
    start_all();
    end_us = proof_now_us() + us;
    while (proof_now_us() < end_us) {
        attend(0);
        if (chance(&W.random, 8)) {
            slot *place = any_slot();
            if (place)
                kill_one(place);
        }
        nap_ms(40);
    }
    end_round(&terms, ON_HAND | ON_ORDER, false);
}

/* --- Postgres: connections are ended, the server is restarted --- */

static bool server_command(const char *what)
{
    const char *command = getenv("PGQRS_PROOF_SERVER");
    char line[1200];
    if (!command || !*command)
        return false;
    snprintf(line, sizeof(line), "%s %s >/dev/null 2>&1", command, what);
    return system(line) == 0;
}

static void end_some_connections(void)
{
    char sql[300];
    snprintf(sql, sizeof(sql),
             "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
             "pg_backend_pid() AND random() < 0.%d",
             2 + below(&W.random, 7));
    if (server_number(sql) > 0)
        W.terminated++;
}

static void cut_connections(int64_t us, bool restarts)
{
    int64_t end_us = proof_now_us() + us, next_restart_us = proof_now_us() + us / 5;
    while (proof_now_us() < end_us) {
        attend(LEASE_MS + 300);
        if (restarts && proof_now_us() > next_restart_us) {
            if (!server_command(chance(&W.random, 50) ? "fast" : "immediate")) {
                printf("# the server could not be restarted\n");
                W.wrong_exits++;
            }
            W.restarts++;
            next_restart_us = proof_now_us() + us / 4;
        } else if (chance(&W.random, 15) && any_slot()) {
            kill_one(any_slot());
        } else {
            end_some_connections();
        }
        nap_ms(20 + below(&W.random, 250));
    }
}

static void employ_everybody(void)
{
    int i;
    for (i = 0; i < 2; i++) {
        employ_first(producer, "producer", 0, true);
        employ(consumer, "consumer", 0, true);
        employ_first(producer, "producer of loops", 1, true);
        employ(looper, "loop", 1, true);
    }
    employ_pools(true);
}

static void terminated_and_restarted(int64_t us)
{
    proof_terms terms = usual_terms();
    begin_round();
    if (!make_queues(ON_HAND | ON_LOOP | ON_POOL)) {
        count_as_broken();
        return;
    }
    expect_cuts(&terms);
    employ_everybody();
    start_all();
    cut_connections(us, getenv("PGQRS_PROOF_SERVER") != NULL);
    if (!getenv("PGQRS_PROOF_SERVER"))
        printf("# WARNING: THE SERVER WAS NOT RESTARTED: PGQRS_PROOF_SERVER says no command for it\n");
    end_round(&terms, ON_HAND | ON_LOOP | ON_POOL, false);
}

/* The server did it, and its answer does not arrive. */
static void lost_replies_to_all(int64_t us)
{
    proof_terms terms = usual_terms();
    begin_round();
    if (!make_queues(ON_HAND | ON_LOOP | ON_POOL)) {
        count_as_broken();
        return;
    }
    expect_cuts(&terms);
    W.lost_replies = 10;
    employ_everybody();
    start_all();
    kill_and_stop(proof_now_us() + us, 0);
    end_round(&terms, ON_HAND | ON_LOOP | ON_POOL, false);
}

static void runs_cut_off(int64_t us)
{
    proof_terms terms = usual_terms();
    int i;
    begin_round();
    if (!make_workflow()) {
        count_as_broken();
        return;
    }
    expect_cuts(&terms);
    W.lost_replies = 5;
    for (i = 0; i < 2; i++)
        employ(run_looper, "worker", 0, true);
    employ(run_pool, "pool", 0, true);
    for (i = 0; i < 2; i++)
        employ_first(trigger_and_wait, "trigger", 0, true);
    start_all();
    cut_connections(us, getenv("PGQRS_PROOF_SERVER") != NULL);
    end_round(&terms, 0, true);
}

/* --- Postgres: no room on the disk --- */

static void fill_the_disk(bool full)
{
    const char *name = getenv("PGQRS_PROOF_FULL");
    FILE *file;
    if (!full) {
        unlink(name);
        return;
    }
    file = fopen(name, "w");
    if (file)
        fclose(file);
    W.fills++;
}

static void hush(void *user, const char *text)
{
    (void)user;
    (void)text;
}

/* The log goes on in a new file, for which there is no room: nobody can commit any more, and the server gives up. */
static void fill_the_log(void)
{
    const char *admin = getenv("PGQRS_TEST_POSTGRES_ADMIN_DSN");
    PGconn *connection = PQconnectdb(admin ? admin : W.dsn);
    PQsetNoticeProcessor(connection, hush, NULL);
    PQclear(PQexec(connection, "SELECT pg_switch_wal()"));
    PQfinish(connection);
}

static bool server_answers(void)
{
    PGconn *connection = PQconnectdb(W.dsn);
    bool there = PQstatus(connection) == CONNECTION_OK;
    PQfinish(connection);
    return there;
}

/* A full log volume brings the server down, as it does in life; when there is room again somebody starts it. */
static void start_if_down(void)
{
    int64_t deadline = proof_now_us() + 20 * 1000000;
    while (!server_answers() && proof_now_us() < deadline) {
        nap_ms(300);
        if (!server_answers())
            (void)server_command("start");
    }
}

static void full_disk(int64_t us)
{
    proof_terms terms = usual_terms();
    int64_t end_us = proof_now_us() + us;
    begin_round();
    if (!getenv("PGQRS_PROOF_FULL") || !make_queues(ON_HAND | ON_LOOP | ON_POOL)) {
        count_as_broken();
        return;
    }
    expect_cuts(&terms);
    employ_everybody();
    start_all();
    nap_ms(300);
    while (proof_now_us() < end_us) {
        fill_the_disk(true);
        if (chance(&W.random, 30))
            fill_the_log();
        nap_ms(300 + below(&W.random, 700));
        fill_the_disk(false);
        start_if_down();
        attend(0);
        nap_ms(200 + below(&W.random, 300));
    }
    if (W.page->expected_errors == 0) {
        printf("# nobody noticed that the disk was full\n");
        W.wrong_exits++;
    }
    end_round(&terms, ON_HAND | ON_LOOP | ON_POOL, false);
}

/* --- two schemas and two versions side by side --- */

static pgqrs_result newcomers_error;
static int newcomer(actor *self)
{
    pgqrs_message *message = NULL;
    pgqrs_error err;
    int64_t id;
    const char *hint = newcomers_error == PGQRS_ERR_SCHEMA_OLDER ? "pgqrs_install" : "update the program";
    self->store = open_place(self->queue, &err);
    if (!self->store)
        return 11;
    if (pgqrs_enqueue(self->store, queue_of(self), "1", NULL, NULL) != newcomers_error)
        return 12;
    if (!strstr(pgqrs_last_error(self->store)->message, hint))
        return 13;
    if (pgqrs_dequeue(self->store, queue_of(self), NULL, &message) != newcomers_error || message)
        return 14;
    if (pgqrs_work(self->store, queue_of(self), handle, self, NULL) != newcomers_error)
        return 15;
    if (pgqrs_workflow_trigger(self->store, WORKFLOW, NULL, NULL, &id) != newcomers_error)
        return 16;
    if (newcomers_error == PGQRS_ERR_SCHEMA_NEWER && pgqrs_install(self->store) != newcomers_error)
        return 17;
    return 0;
}

static void set_version(int queue, int version)
{
    char sql[800];
    snprintf(sql, sizeof(sql), "UPDATE %s%s%spgqrs_meta SET value = '%d' WHERE key = 'schema_version'", W.server ? W.place : "",
             W.server && queue == SECOND_SCHEMA ? "_b" : "", W.server ? "." : "", version);
    if (!place_exec(sql)) {
        printf("# the version could not be set\n");
        W.wrong_exits++;
    }
}

/* A process of another version comes to tables that are in use, and goes away with a clear answer. */
static void come_with_version(int queue, int version, pgqrs_result expected)
{
    slot place;
    int status = 0;
    memset(&place, 0, sizeof(place));
    place.role = newcomer, place.name = "newcomer", place.queue = queue;
    newcomers_error = expected;
    set_version(queue, version);
    spawn(&place);
    if (waitpid(place.pid, &status, 0) == place.pid)
        gone(&place, status);
    set_version(queue, PGQRS_SCHEMA_VERSION);
}

static void versions(int64_t us)
{
    proof_terms terms = usual_terms();
    int64_t end_us = proof_now_us() + us;
    int i, other = W.server ? SECOND_SCHEMA : 0;
    begin_round();
    if (!make_queues(ON_HAND) || (W.server && !make_queues(ON_SECOND))) {
        count_as_broken();
        return;
    }
    W.errors_are_expected = true;
    for (i = 0; i < 2; i++) {
        employ_first(producer, "producer", 0, true);
        employ(consumer, "consumer", 0, true);
    }
    for (i = 0; i < 2 && W.server; i++) {
        employ_first(producer, "producer of the second schema", SECOND_SCHEMA, true);
        employ(consumer, "consumer of the second schema", SECOND_SCHEMA, true);
    }
    start_all();
    while (proof_now_us() < end_us) {
        attend(0);
        nap_ms(100 + below(&W.random, 100));
        come_with_version(other, PGQRS_SCHEMA_VERSION + 1, PGQRS_ERR_SCHEMA_NEWER);
        nap_ms(100);
        come_with_version(other, 1, PGQRS_ERR_SCHEMA_OLDER);
        if (any_slot())
            kill_one(any_slot());
    }
    end_round(&terms, ON_HAND | (W.server ? ON_SECOND : 0), false);
}

/* --- all of them --- */

static const scenario scenarios[] = {
    {"kills", kills, 4, 3},
    {"sleepwalkers", sleepwalkers, 2, 3},
    {"wrong_clocks", wrong_clocks, 2, 3},
    {"runs", runs, 4, 3},
    {"frozen", frozen, 2, 3},
    {"frozen_runs", frozen_runs, 2, 3},
    {"versions", versions, 1, 3},
    {"late_commits", late_commits, 3, 2},
    {"terminated_and_restarted", terminated_and_restarted, 4, 2},
    {"lost_replies", lost_replies_to_all, 3, 2},
    {"runs_cut_off", runs_cut_off, 4, 2},
    {"full_disk", full_disk, 3, 2},
};
enum { SCENARIOS = sizeof(scenarios) / sizeof(scenarios[0]) };

static bool wanted(const scenario *s)
{
    const char *only = getenv("PGQRS_PROOF_ONLY");
    return (s->targets & (W.server ? 2 : 1)) && (!only || !*only || strstr(s->name, only));
}

static void begin(const char *dsn)
{
    const char *seed = getenv("PGQRS_PROOF_SEED");
    const char *slash;
    memset(&W, 0, sizeof(W));
    W.dsn = dsn;
    W.server = strncmp(dsn, "sqlite://", 9) != 0;
    slash = W.server ? NULL : strrchr(dsn + 9, '/');
    if (slash)
        snprintf(W.root, sizeof(W.root), "%.*s", (int)(slash - (dsn + 9)), dsn + 9);
    else if (!getcwd(W.root, sizeof(W.root)))
        exit(92);
    W.seed = seed && *seed ? strtoull(seed, NULL, 0) : (uint64_t)proof_now_us() ^ ((uint64_t)getpid() << 32);
    W.random = W.seed;
    W.page = (proof_page *)mmap(NULL, sizeof(proof_page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (W.page == MAP_FAILED) {
        perror("mmap");
        exit(93);
    }
    signal(SIGPIPE, SIG_IGN);
    printf("# %s, seed %" PRIu64 " (PGQRS_PROOF_SEED repeats it)\n", W.server ? "postgres" : "sqlite-file", W.seed);
    fflush(stdout);
}

static void print_row(const totals *t)
{
    printf("# %-26s %6" PRId64 " %9" PRId64 " %9" PRId64 " %9" PRId64 " %6" PRId64 " %6" PRId64 " %6" PRId64 " %6" PRId64 " %7" PRId64
           " %7" PRId64 " %8" PRId64 " %8.1f %10" PRId64 "\n",
           t->name, t->rounds, t->operations, t->messages, t->deliveries, t->runs, t->kills, t->stops, t->cuts, t->unknown, t->refused,
           t->killed_while_holding, (double)t->slowest_recovery_us / 1000.0, t->violations);
}

static void print_table(const totals *rows, int count)
{
    int i;
    printf("# %-26s %6s %9s %9s %9s %6s %6s %6s %6s %7s %7s %8s %8s %10s\n", "scenario", "rounds", "calls", "messages", "delivered",
           "runs", "kills", "stops", "cuts", "unknown", "refused", "orphans", "late ms", "violations");
    for (i = 0; i < count; i++)
        print_row(&rows[i]);
}

static int seconds_wanted(void)
{
    const char *text = getenv("PGQRS_PROOF_SECONDS");
    int seconds = text && *text ? atoi(text) : 30;
    return seconds > 0 ? seconds : 30;
}

/* Rounds of at most half a minute: what the checker holds in memory stays small, and each begins with a fresh store. */
static void run_scenario(const scenario *s, int64_t us)
{
    const int64_t most_us = 30 * 1000000;
    int64_t rounds, i;
    if (us < 1000000)
        us = 1000000;
    rounds = (us + most_us - 1) / most_us;
    memset(&total, 0, sizeof(total));
    snprintf(total.name, sizeof(total.name), "%s", s->name);
    for (i = 0; i < rounds; i++)
        s->run(us / rounds);
}

int main(int argc, char **argv)
{
    static totals rows[SCENARIOS];
    int i, count = 0, weights = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: %s DSN\n", argv[0]);
        return 2;
    }
    begin(argv[1]);
    for (i = 0; i < SCENARIOS; i++)
        weights += wanted(&scenarios[i]) ? scenarios[i].weight : 0;
    for (i = 0; i < SCENARIOS; i++) {
        if (!wanted(&scenarios[i]))
            continue;
        if (strcmp(scenarios[i].name, "full_disk") == 0 && !getenv("PGQRS_PROOF_FULL")) {
            printf("ok %d # SKIP full_disk: NOT TESTED, this machine cannot preload a library into the server\n", ++count);
            snprintf(rows[count - 1].name, sizeof(rows[0].name), "full_disk (SKIPPED)");
            continue;
        }
        printf("# %s\n", scenarios[i].name);
        fflush(stdout);
        run_scenario(&scenarios[i], (int64_t)seconds_wanted() * 1000000 * scenarios[i].weight / weights);
        rows[count++] = total;
        total_violations += total.violations;
        printf("%sok %d - %s\n", total.violations ? "not " : "", count, total.name);
        fflush(stdout);
    }
    printf("1..%d\n", count);
    print_table(rows, count);
    return total_violations ? 1 : 0;
}
