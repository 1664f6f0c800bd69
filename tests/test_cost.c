/* What a run costs is a promise: a run of three steps makes at most five commits, and at most six round trips to a server. Counted,
 * not timed.
 *
 * test targets: sqlite-file postgres */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../bench/bench.h"
#include "support.h"

#define RUNS 20

static int64_t sqlite_commits;

static int on_commit(void *context)
{
    (void)context;
    sqlite_commits++;
    return 0;
}

static pgqrs_result three(pgqrs_run *handle, void *user)
{
    const char *output;
    sqlite3 *db = pgqrs_run_sqlite3(handle);
    (void)user;
    if (db)
        sqlite3_commit_hook(db, on_commit, NULL);
    for (int i = 0; i < 3; i++)
        if (pgqrs_step_indexed(handle, "step", i, &output))
            pgqrs_step_done(handle, "{\"some\":\"output\"}");
    return pgqrs_run_return(handle, "true");
}

/* Transactions that wrote something, of the whole server: nobody else writes to it but its own housekeeping, now and then. */
static int64_t server_commits(PGconn *connection)
{
    PGresult *r = PQexec(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text");
    int64_t number = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    return number;
}

/* Triggers runs and works them off, both one by one; the round trips it took. */
static int64_t trigger_and_work(void)
{
    int64_t before = bench_round_trips;
    for (int i = 0; i < RUNS; i++)
        OK(pgqrs_workflow_trigger(T.store, "cost", "{\"a\":1}", NULL, NULL));
    OK(pgqrs_work_workflow(T.store, "cost", three, NULL, &(pgqrs_work_desc){.max_messages = RUNS}));
    return bench_round_trips - before;
}

static void three_steps_are_five_commits_and_six_round_trips(void)
{
    int64_t commits = INT64_MAX, round_trips = INT64_MAX;
    int32_t around = 8; /* the worker comes and goes, and looks after the queues */
    PGconn *connection = on(ON_SERVER) ? PQconnectdb(T.dsn) : NULL;
    OK(pgqrs_workflow_create(T.store, "cost", NULL));
    trigger_and_work();
    for (int round = 0; round < 5; round++) {
        int64_t start = connection ? server_commits(connection) : sqlite_commits;
        int64_t trips = trigger_and_work();
        int64_t made = (connection ? server_commits(connection) : sqlite_commits) - start;
        commits = made < commits ? made : commits;
        round_trips = trips < round_trips ? trips : round_trips;
    }
    printf("# %d runs of 3 steps: %d commits, %d round trips\n", RUNS, (int)commits, (int)round_trips);
    YES(commits >= 4 * RUNS); /* or the counters are broken */
    YES(commits <= 5 * RUNS + around);
    if (connection)
        YES(round_trips >= 5 * RUNS && round_trips <= 6 * RUNS + around);
    PQfinish(connection);
}

static int64_t round_trips_of_waiting(int64_t wait_ms)
{
    int64_t before = bench_round_trips;
    pgqrs_message *message = NULL;
    OK(pgqrs_dequeue(T.store, "idle", &(pgqrs_dequeue_desc){.wait_ms = wait_ms}, &message));
    YES(message == NULL);
    printf("# waiting for %d ms: %d round trips\n", (int)wait_ms, (int)(bench_round_trips - before));
    return bench_round_trips - before;
}

/* A worker that is woken looks once a second by itself, and after some seconds every three. Lying down and the looks right after it
 * come on top. */
static void waiting_costs_few_looks(void)
{
    OK(pgqrs_queue_create(T.store, "idle", NULL));
    BETWEEN(6, 16, round_trips_of_waiting(3300));
    BETWEEN(20 + 5, 20 + 16, round_trips_of_waiting(60000));
}

/* Of definitions there are few. */
static bool is_of_workflows(const PGresult *plan, int number)
{
    char title[40];
    snprintf(title, sizeof(title), "SubPlan %d", number);
    for (int i = 0; i + 1 < PQntuples(plan); i++) {
        const char *line = PQgetvalue(plan, i, 0);
        if (strcmp(line + strspn(line, " "), title) == 0)
            return strstr(PQgetvalue(plan, i + 1, 0), ".pgqrs_workflows ") != NULL;
    }
    return false;
}

/* A hash of a subquery reads the whole table behind it, once for each execution. */
static void hashes_nothing(PGconn *connection, const char *name, int parameters)
{
    char sql[1000];
    size_t size = (size_t)snprintf(sql, sizeof(sql), "EXPLAIN (VERBOSE) EXECUTE %s", name);
    for (int i = 0; i < parameters; i++)
        size += (size_t)snprintf(sql + size, sizeof(sql) - size, "%sNULL%s", i ? ", " : "(", i + 1 == parameters ? ")" : "");
    PGresult *r = PQexec(connection, sql);
    if (PQresultStatus(r) != PGRES_TUPLES_OK)
        fail_at(__FILE__, __LINE__, "%s: %s", sql, PQerrorMessage(connection));
    for (int i = 0; i < PQntuples(r); i++) {
        const char *hashed = strstr(PQgetvalue(r, i, 0), "hashed SubPlan ");
        if (hashed && !is_of_workflows(r, atoi(hashed + strlen("hashed SubPlan "))))
            fail_at(__FILE__, __LINE__, "%s: %s", name, PQgetvalue(r, i, 0));
    }
    PQclear(r);
}

/* Every statement of the everyday ways, planned as it is when it runs. The texts of some are the rest of the one before. */
static void hash_nothing_at_all(PGconn *connection)
{
    static const Oid types[] = {0, 0, 0, 20}; /* steps do not look at their fourth parameter */
    pgqrsi_pg *pg = (pgqrsi_pg *)T.store->self;
    for (int i = PGQRSI_PG_RELAX + 1; i < (int)COUNT_OF(pgqrsi_pg_hot); i++) {
        char name[24], drop[40];
        const char *text = pgqrsi_pg_text_of(pg, i);
        bool is_step = i == PGQRSI_PG_RUN_STEP || i == PGQRSI_PG_RUN_STEP_NEW;
        assert_non_null(text);
        snprintf(name, sizeof(name), "plan_%d", i);
        PGresult *r = PQprepare(connection, name, text, is_step ? 4 : 0, types);
        PGresult *described = PQdescribePrepared(connection, name);
        if (PQresultStatus(r) == PGRES_COMMAND_OK)
            hashes_nothing(connection, name, PQnparams(described));
        else if (text[0] != ' ')
            fail_at(__FILE__, __LINE__, "%s: %s", name, PQerrorMessage(connection));
        PQclear(described);
        PQclear(r);
        snprintf(drop, sizeof(drop), "DEALLOCATE %s", name);
        PQclear(PQexec(connection, drop));
    }
}

static void everyday_statements_read_no_whole_table(void)
{
    pgqrs_trigger_item items[40];
    PGconn *connection = ((pgqrsi_pg *)T.store->self)->connection;
    memset(items, 0, sizeof(items));
    for (int i = 0; i < 40; i++)
        items[i].input = "1";
    OK(pgqrs_workflow_create(T.store, "cost", NULL));
    hash_nothing_at_all(connection);
    OK(pgqrs_workflow_trigger_many(T.store, "cost", items, 40, NULL));
    trigger_and_work();
    PQclear(PQexec(connection, "ANALYZE")); /* now the planner knows how small everything is, and may choose otherwise */
    hash_nothing_at_all(connection);
}

/* --- beside an old snapshot: nothing dead can be removed, and what is done must not cost more and more all the same */

static PGresult *ask(PGconn *connection, const char *sql)
{
    PGresult *r = PQexec(connection, sql);
    if (PQresultStatus(r) != PGRES_TUPLES_OK && PQresultStatus(r) != PGRES_COMMAND_OK)
        fail_at(__FILE__, __LINE__, "%s: %s", sql, PQerrorMessage(connection));
    return r;
}

/* Pages of our tables and their indexes that were read so far. The store's own connection tells what it did at once. */
static int64_t pages_read(PGconn *observer)
{
    PGconn *connection = ((pgqrsi_pg *)T.store->self)->connection;
    PGresult *r = PQexec(connection, "SELECT pg_stat_force_next_flush()");
    if (PQresultStatus(r) != PGRES_TUPLES_OK)
        sleep_ms(1100); /* before version 15 it tells once a second */
    PQclear(r);
    PQclear(ask(connection, "SELECT 1"));
    r = ask(observer, "SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::text"
                      " FROM pg_statio_user_tables WHERE relname IN ('pgqrs_ready', 'pgqrs_leases', 'pgqrs_sleepers')");
    int64_t pages = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    return pages;
}

static pgqrs_result nod(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    return PGQRS_OK;
}

/* Messages that come one by one, each with a lease of its own. */
static void come_and_go(int count)
{
    for (int i = 0; i < count; i++)
        OK(pgqrs_enqueue(T.store, "old", "{}", NULL, NULL));
    OK(pgqrs_work(T.store, "old", nod, NULL, &(pgqrs_work_desc){.batch = 1, .max_messages = count}));
}

/* A worker that finds one message at a time. Its looks count as dear ones, which they are once there are enough dead rows. */
static int64_t pages_of_a_trickle(PGconn *observer, pgqrs_worker *worker, int count)
{
    pgqrsi_pg_queue *slot = pgqrsi_pg_queue_slot((pgqrsi_pg *)T.store->self, "old");
    int64_t before = pages_read(observer);
    for (int i = 0; i < count; i++) {
        size_t handled = 0;
        slot->start_cost_us = PGQRSI_US_PER_S;
        slot->look_cost_us = 0; /* a look with each claim */
        slot->sweep.next_us = pgqrs_backend_monotonic() + SECOND_US; /* sweeps are measured by themselves */
        OK(pgqrs_enqueue(T.store, "old", "{}", NULL, NULL));
        while (handled == 0)
            OK(pgqrs_worker_poll(worker, 1000, &handled));
    }
    return (pages_read(observer) - before) / count;
}

/* As beside an old snapshot, and as if the last look had been after everything that is in the queue now. */
static pgqrsi_pg_queue *crowd(bool sweeps)
{
    pgqrsi_pg_queue *slot = pgqrsi_pg_queue_slot((pgqrsi_pg *)T.store->self, "late");
    int64_t monotonic_us = pgqrs_backend_monotonic();
    sleep_ms(20);
    slot->start_cost_us = PGQRSI_PG_DEAR_US;
    slot->from_us = real_us();
    slot->tend = false;
    slot->rescan_us = monotonic_us + 3600 * SECOND_US;
    pgqrsi_pg_sweep_begin(slot);
    slot->sweep.span = 3600 * SECOND_US;
    slot->sweep.going = true;
    slot->sweep.next_us = sweeps ? monotonic_us : slot->rescan_us;
    return slot;
}

static pgqrs_message *take_late(void)
{
    pgqrs_message *message = NULL;
    OK(pgqrs_dequeue(T.store, "late", NULL, &message));
    return message;
}

static void archive_late(pgqrs_message *message)
{
    assert_non_null(message);
    OK(pgqrs_archive(T.store, message));
    pgqrs_free(message);
}

/* The sweep finds it, and without it nothing does: once, and then no more. What is below the mark comes after all times. */
static void is_swept_up(int32_t attempt, int dequeues)
{
    crowd(false);
    YES(take_late() == NULL);
    pgqrsi_pg_queue *slot = crowd(true);
    pgqrs_message *message = take_late();
    for (int i = 1; i < dequeues && !message; i++) {
        YES(slot->sweep.going);
        slot->sweep.cost_us = PGQRSI_PG_DEAR_US; /* or it would be over after one round */
        sleep_ms(10);
        message = take_late();
    }
    assert_non_null(message);
    EQ(attempt, message->attempt);
    archive_late(message);
    crowd(true);
    YES(take_late() == NULL);
}

static void a_sweep_finds_what_is_visible_late(void)
{
    pgqrs_error err;
    pgqrs_store_desc desc = real_time_desc();
    PGconn *connection = PQconnectdb(T.dsn);
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, "late", NULL));
    pgqrs_store *other = pgqrs_open_pgconn(connection, &desc, &err);
    assert_non_null(other);
    OK(pgqrs_enqueue(T.store, "late", "1", NULL, NULL));
    archive_late(take_late());

    PQclear(ask(connection, "BEGIN")); /* delayed, and committed after it was due */
    OK(pgqrs_enqueue(other, "late", "2", &(pgqrs_enqueue_desc){.delay_ms = 1}, NULL));
    crowd(true);
    YES(take_late() == NULL);
    PQclear(ask(connection, "COMMIT"));
    is_swept_up(1, 1);

    PQclear(ask(connection, "BEGIN")); /* the same with a lease */
    OK(pgqrs_enqueue(other, "late", "3", NULL, NULL));
    pgqrs_message *message = NULL;
    OK(pgqrs_dequeue(other, "late", &(pgqrs_dequeue_desc){.lease_ms = 1}, &message));
    assert_non_null(message);
    pgqrs_free(message);
    PQclear(ask(connection, "COMMIT"));
    is_swept_up(2, 1);

    OK(pgqrs_enqueue(T.store, "late", "4", NULL, NULL)); /* ready, below the mark */
    pgqrsi_pg_queue *slot = pgqrsi_pg_queue_slot((pgqrsi_pg *)T.store->self, "late");
    EQ(1, slot->level_count);
    slot->levels[0].from += 1000;
    slot->levels[0].candidate = slot->levels[0].seen = 0;
    is_swept_up(1, 1000);
    pgqrs_close(other);
    PQfinish(connection);

    int64_t changed = -1; /* housekeeping leaves to the sweep what is the sweep's, and nothing else */
    OK(pgqrs_enqueue(T.store, "late", "5", &(pgqrs_enqueue_desc){.delay_ms = 1}, NULL));
    crowd(false)->looked_us = pgqrs_backend_monotonic();
    OK(pgqrs_maintain(T.store, &changed));
    EQ(0, changed);
    slot->from_us -= SECOND_US;
    OK(pgqrs_maintain(T.store, &changed));
    EQ(1, changed);
    archive_late(take_late());
}

/* Slices take about a millisecond each; where there is much, so long that all is seen within half a minute. */
static void a_sweep_goes_by_what_its_slices_take(void)
{
    pgqrs_store_desc desc = real_time_desc();
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, "late", NULL));
    YES(take_late() == NULL);
    pgqrsi_pg_queue *slot = crowd(true);
    pgqrsi_pg_sweep *sweep = &slot->sweep;
    sweep->next_us = 0;
    sweep->whole_us = 0;
    sweep->span = 1000;
    pgqrsi_pg_sweep_learn(sweep, 100);
    EQ(2000, sweep->span);
    EQ(20000, sweep->next_us);
    EQ(0, sweep->cost_us); /* any statement takes as much */
    pgqrsi_pg_sweep_learn(sweep, 700);
    EQ(2000, sweep->span);
    pgqrsi_pg_sweep_learn(sweep, 10000);
    YES(sweep->span > 100 && sweep->span < 250);
    EQ(20000 + 140000 + 200000, sweep->next_us);
    EQ(500 + 9800, sweep->cost_us);
    sweep->whole_us = 6 * SECOND_US;
    sweep->span = 1000;
    pgqrsi_pg_sweep_learn(sweep, 10000);
    EQ(2000, sweep->span);
    for (int i = 0; i < 100; i++)
        pgqrsi_pg_sweep_learn(sweep, 0);
    YES(sweep->span > INT64_MAX / 8);

    sweep->cost_us = PGQRSI_PG_DEAR_US / 4; /* over: is there still something? */
    sweep->next_us = sweep->began_us = SECOND_US;
    pgqrsi_pg_sweep_end(slot, 2 * SECOND_US);
    YES(sweep->going && pgqrsi_pg_is_crowded(slot));
    EQ(11 * SECOND_US, sweep->next_us);
    pgqrsi_pg_sweep_end(slot, 30 * SECOND_US);
    EQ(30 * SECOND_US, sweep->next_us);
    sweep->cost_us = PGQRSI_PG_DEAR_US / 4 - 1;
    slot->look_cost_us = 0;
    pgqrsi_pg_sweep_end(slot, 1);
    YES(!sweep->going && !pgqrsi_pg_is_crowded(slot));

    int slices = 0; /* and the beginning of time is not far */
    crowd(true);
    do {
        slices++;
        YES(pgqrsi_pg_sweep_slice((pgqrsi_pg *)T.store->self, slot));
        sweep->span = sweep->span > SECOND_US << slices ? sweep->span : SECOND_US << slices; /* whatever the machine does */
    } while (sweep->below > 0 && slices < 100);
    YES(slices > 5 && slices < 40);
}

/* Nothing is taken as seen that was not, and it is not asked again at once; the claim does not mind. */
static void a_slice_that_fails_is_read_again(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrsi_pg *pg;
    char there[200], gone[200];
    reopen_with(&desc);
    pg = (pgqrsi_pg *)T.store->self;
    PGconn *connection = PQconnectdb(T.dsn);
    OK(pgqrs_queue_create(T.store, "late", NULL));
    YES(take_late() == NULL);
    snprintf(gone, sizeof(gone), "ALTER TABLE %s.pgqrs_delayed RENAME COLUMN due_at TO gone", pg->schema);
    snprintf(there, sizeof(there), "ALTER TABLE %s.pgqrs_delayed RENAME COLUMN gone TO due_at", pg->schema);
    pgqrsi_pg_queue *slot = crowd(true);
    int64_t below = slot->sweep.below, next_us = slot->sweep.next_us;
    PQclear(ask(connection, gone));
    YES(!pgqrsi_pg_sweep_slice(pg, slot));
    PQclear(ask(connection, there));
    EQ(below, slot->sweep.below);
    YES(slot->sweep.next_us >= next_us + PGQRSI_PG_PAUSE_US);
    snprintf(slot->name, sizeof(slot->name), "nobody");
    YES(!pgqrsi_pg_sweep_slice(pg, slot));
    EQ(below, slot->sweep.below);
    snprintf(slot->name, sizeof(slot->name), "late");
    YES(pgqrsi_pg_sweep_slice(pg, slot));
    YES(slot->sweep.below < below);
    OK(pgqrs_enqueue(T.store, "late", "1", NULL, NULL));
    archive_late(take_late());
    PQfinish(connection);
}

static struct {
    pgqrs_backend backend;
    int64_t takes_ms;
    int calls;
} housekeeping;

static pgqrs_result keep_house(void *self, int64_t now_us, int64_t *changed)
{
    (void)self;
    (void)now_us;
    *changed = 0;
    housekeeping.calls++;
    advance_ms(housekeeping.takes_ms);
    return PGQRS_OK;
}

/* How often a worker without work keeps house meanwhile. */
static int keeps_house(pgqrs_worker *worker, int64_t takes_ms, int seconds)
{
    int64_t end_us = T.now_us + seconds * SECOND_US;
    size_t handled;
    housekeeping.takes_ms = takes_ms;
    housekeeping.calls = 0;
    while (T.now_us < end_us) {
        advance_ms(1000);
        OK(pgqrs_worker_poll(worker, 0, &handled));
    }
    return housekeeping.calls;
}

static void housekeeping_that_takes_long_is_done_less_often(void)
{
    const pgqrs_backend *backend = T.store->backend;
    OK(pgqrs_queue_create(T.store, "house", NULL));
    pgqrs_worker *worker = pgqrs_worker_open(T.store, "house", nod, NULL, NULL, NULL);
    assert_non_null(worker);
    housekeeping.backend = *backend;
    housekeeping.backend.maintain = keep_house;
    T.store->backend = &housekeeping.backend;
    int fast = keeps_house(worker, 0, 200), slow = keeps_house(worker, 100, 300), slowest = keeps_house(worker, 10000, 800);
    T.store->backend = backend;
    OK(pgqrs_worker_close(worker));
    printf("# housekeeping: %d times in 200 s, of 0.1 s %d times in 300 s, of 10 s %d times in 800 s\n", fast, slow, slowest);
    YES(fast >= 18 && fast <= 20);      /* every 10 s */
    YES(slow >= 9 && slow <= 11);       /* another 20 s between two */
    YES(slowest >= 10 && slowest <= 13); /* another minute, never more */
}

static PGresult *plan_of(PGconn *connection, int statement)
{
    static const Oid types[] = {0, 0, 0, 20};
    char sql[600];
    bool is_step = statement == PGQRSI_PG_RUN_STEP || statement == PGQRSI_PG_RUN_STEP_NEW;
    PQclear(PQprepare(connection, "by_number", pgqrsi_pg_text_of((pgqrsi_pg *)T.store->self, statement), is_step ? 4 : 0, types));
    PGresult *described = PQdescribePrepared(connection, "by_number");
    int parameters = PQnparams(described);
    size_t size = (size_t)snprintf(sql, sizeof(sql), "EXPLAIN EXECUTE by_number");
    for (int i = 0; i < parameters; i++)
        size += (size_t)snprintf(sql + size, sizeof(sql) - size, "%sNULL%s", i ? ", " : "(", i + 1 == parameters ? ")" : "");
    PQclear(described);
    PGresult *r = ask(connection, sql);
    PQclear(ask(connection, "DEALLOCATE by_number"));
    return r;
}

/* What knows the lease reaches it through the primary key, however few of the rows are alive. */
static void finds_leases_by_number(PGconn *connection, int statement)
{
    int found = 0;
    char sql[200];
    PGresult *r = plan_of(connection, statement);
    for (int i = 0; i + 1 < PQntuples(r); i++) {
        if (!strstr(PQgetvalue(r, i, 0), " using pgqrs_leases_"))
            continue;
        found++;
        if (!strstr(PQgetvalue(r, i, 0), "pgqrs_leases_pkey") || !strstr(PQgetvalue(r, i + 1, 0), "Index Cond: (lease = "))
            fail_at(__FILE__, __LINE__, "statement %d: %s %s", statement, PQgetvalue(r, i, 0), PQgetvalue(r, i + 1, 0));
    }
    YES(found > 0);
    PQclear(r);
    /* That it does so now is luck when the other index could serve, too: whichever is smaller is taken. */
    PQclear(ask(connection, "BEGIN"));
    snprintf(sql, sizeof(sql), "ALTER TABLE %s.pgqrs_leases DROP CONSTRAINT pgqrs_leases_pkey",
             ((pgqrsi_pg *)T.store->self)->schema);
    PQclear(ask(connection, sql));
    r = plan_of(connection, statement);
    for (int i = 0; i < PQntuples(r); i++)
        if (strstr(PQgetvalue(r, i, 0), "Index Cond: (until "))
            fail_at(__FILE__, __LINE__, "statement %d: %s", statement, PQgetvalue(r, i, 0));
    PQclear(r);
    PQclear(ask(connection, "ROLLBACK"));
}

/* Of a walk through what is over: one slice of it. */
static int64_t pages_of_a_slice(PGconn *observer, bool ready, int64_t below, int64_t span)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)T.store->self;
    pgqrsi_pg_queue *slot = pgqrsi_pg_queue_slot(pg, "old");
    pgqrsi_pg_sweep sweep = {.going = true, .ready = ready, .prio = slot->levels[0].prio, .below = below, .span = span};
    int64_t before = pages_read(observer);
    slot->sweep = sweep;
    pgqrsi_pg_sweep_slice(pg, slot);
    YES(slot->sweep.below == (below > span ? below - span : 0));
    return pages_read(observer) - before;
}

/* A slice reads what lies in it and nothing else, whatever there is beside it. The leases of what came and went ended half a minute after
 * they began. */
static void slices_are_bounded(PGconn *observer, int64_t began_us, int64_t ended_us)
{
    pgqrsi_pg_queue *slot = pgqrsi_pg_queue_slot((pgqrsi_pg *)T.store->self, "old");
    int64_t lease_us = 30 * SECOND_US, below_us = ended_us + lease_us, ord = slot->levels[0].from;
    YES(slot->level_count > 0 && ord > 2500);
    int64_t all = pages_of_a_slice(observer, true, ord, INT64_MAX / 4);
    int64_t few = pages_of_a_slice(observer, true, ord - 1000, 50);
    int64_t ever = pages_of_a_slice(observer, false, below_us, INT64_MAX / 4);
    int64_t some = pages_of_a_slice(observer, false, below_us, (ended_us - began_us) / 50);
    printf("# pages of a slice: %d of %d by ord, %d of %d by time\n", (int)few, (int)all, (int)some, (int)ever);
    YES(all > 30 && few > 0 && few < all / 3);
    YES(ever > 30 && some > 0 && some < ever / 3);
}

static void an_old_snapshot_makes_nothing_dearer_and_dearer(void)
{
    static const int by_number[] = {PGQRSI_PG_SETTLE_ONE, PGQRSI_PG_SETTLE_WHOLE, PGQRSI_PG_SETTLE_ANY, PGQRSI_PG_EXTEND,
                                    PGQRSI_PG_UNCLAIM,    PGQRSI_PG_RUN_WRITE,    PGQRSI_PG_RUN_STEP,   PGQRSI_PG_RUN_STEP_NEW,
                                    PGQRSI_PG_RUN_END,    PGQRSI_PG_SETTLE_END};
    pgqrs_store_desc desc = real_time_desc();
    PGconn *old = PQconnectdb(T.dsn), *observer = PQconnectdb(T.dsn);
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, "old", NULL));
    pgqrs_worker *worker = pgqrs_worker_open(T.store, "old", nod, NULL, NULL, NULL);
    assert_non_null(worker);
    come_and_go(200);
    PQclear(ask(old, "BEGIN ISOLATION LEVEL REPEATABLE READ"));
    PQclear(ask(old, "SELECT count(*) FROM pg_class"));
    int64_t early = pages_of_a_trickle(observer, worker, 50);
    int64_t began_us = real_us();
    come_and_go(2500);
    int64_t ended_us = real_us();
    PQclear(ask(observer, "SET client_min_messages = error"));
    PQclear(ask(observer, "VACUUM ANALYZE")); /* what it learns, and that plans are made anew */
    sleep_ms(300); /* until the mark follows: who holds it up is not asked more often */
    pages_of_a_trickle(observer, worker, 5);
    int64_t late = pages_of_a_trickle(observer, worker, 50);
    printf("# pages for a message: %d, after 2,500 others %d\n", (int)early, (int)late);
    YES(early > 0); /* or the counter is broken */
    YES(late < 2 * early + 20);
    slices_are_bounded(observer, began_us, ended_us);
    for (size_t i = 0; i < COUNT_OF(by_number); i++)
        finds_leases_by_number(((pgqrsi_pg *)T.store->self)->connection, by_number[i]);
    OK(pgqrs_worker_close(worker));
    PQfinish(old);
    PQfinish(observer);
}

/* A claim that saw `ord` first, in transaction `xid`, when all before `xmin` were over. */
static int64_t mark_after(pgqrsi_pg_queue *slot, int64_t ord, int64_t xmin, int64_t xid)
{
    pgqrsi_pg_claimed claimed = {.has_first = true, .ord = ord, .xmin = xmin, .xid = xid};
    pgqrsi_pg_mark(slot, &claimed);
    return slot->levels[0].from;
}

static void the_mark_follows_claims_that_are_over(void)
{
    pgqrsi_pg_queue slot = {.id = 1};
    EQ(0, mark_after(&slot, 10, 1, 1));
    EQ(0, mark_after(&slot, 20, 2, 2));
    EQ(10, mark_after(&slot, 30, 3, 3));
    EQ(20, mark_after(&slot, 35, 4, 0)); /* took nothing, so it has no number */
    EQ(20, mark_after(&slot, 40, 4, 4));
    EQ(35, mark_after(&slot, 50, 5, 5));
    EQ(15, mark_after(&slot, 15, 6, 6)); /* a restored database */
}

/* Number 103 has drawn 5 and goes on. None above it has ended, so the claims' snapshots know nothing beyond it; nor does it end when theirs do. */
static void the_mark_waits_for_numbers_given_before(void)
{
    pgqrsi_pg_queue slot = {.id = 1};
    for (int i = 0; i < 5; i++)
        EQ(0, mark_after(&slot, 6 + i, 103, 104 + i));
    EQ(5, mark_after(&slot, 5, 109, 109));
    EQ(10, mark_after(&slot, 11, 110, 110));
}

static void the_mark_waits_for_the_end_of_a_transaction_with_many_claims(void)
{
    pgqrsi_pg_queue slot = {.id = 1};
    for (int i = 0; i < 5; i++)
        EQ(0, mark_after(&slot, 1 + i, 104, 104));
    EQ(0, mark_after(&slot, 1, 105, 105)); /* that was rolled back */
    EQ(2, mark_after(&slot, 2, 106, 106));
}

static const test_case cost_cases[] = {
    CASE_ON(an_old_snapshot_makes_nothing_dearer_and_dearer, PLAIN, ON_POSTGRES),
    CASE_ON(waiting_costs_few_looks, PLAIN, ON_POSTGRES),
    CASE_ON(a_sweep_finds_what_is_visible_late, PLAIN, ON_POSTGRES),
    CASE_ON(a_sweep_goes_by_what_its_slices_take, PLAIN, ON_POSTGRES),
    CASE_ON(a_slice_that_fails_is_read_again, PLAIN, ON_POSTGRES),
    CASE_ON(housekeeping_that_takes_long_is_done_less_often, PLAIN, ON_SQLITE),
    CASE_ON(everyday_statements_read_no_whole_table, PLAIN, ON_POSTGRES),
    CASE(three_steps_are_five_commits_and_six_round_trips, PLAIN),
    CASE_ON(the_mark_follows_claims_that_are_over, NO_STORE, ON_POSTGRES),
    CASE_ON(the_mark_waits_for_numbers_given_before, NO_STORE, ON_POSTGRES),
    CASE_ON(the_mark_waits_for_the_end_of_a_transaction_with_many_claims, NO_STORE, ON_POSTGRES),
};

int main(void)
{
    static const test_list lists[] = {LIST(cost_cases)};
    int stop = begin_run();
    if (stop)
        return stop - 1;
    int failed = run_lists("test_cost", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
