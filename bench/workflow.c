/*
 * What a durable step costs: runs per second, latency, commits, statements and bytes of log for runs of 1, 3 and 10 steps, and
 * how long it takes to resume a run that has thousands of finished ones.
 *
 *   workflow DSN [ROUNDS [RUNS]]
 *
 * The floor is the cheapest durable statement: one row inserted per commit, on a connection of its own to the same database.
 * Floor and runs take turns in every round; ratios are medians over the rounds.
 */
#include "bench.h"

#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include "pgqrs_sqlite.h"

#define ROUNDS_MAX 99
#define RESUME_ROUNDS 5

typedef struct bench {
    pgqrs_store *store;
    bool postgres;
    PGconn *connection; /* of the floor, and for looking at the server */
    sqlite3 *db;
    sqlite3_stmt *insert;
    int steps;       /* of each run */
    int64_t commits; /* SQLite: counted by its hook */
} bench;

static void check(bench *b, pgqrs_result result)
{
    if (result) bench_die(pgqrs_result_name(result), pgqrs_last_error(b->store)->message);
}

/* --- the floor */

static void floor_open(bench *b, const char *dsn)
{
    if (b->postgres) {
        b->connection = PQconnectdb(dsn);
        if (PQstatus(b->connection) != CONNECTION_OK) bench_die("floor", PQerrorMessage(b->connection));
        PQclear(PQexec(b->connection, "SET client_min_messages = warning; DROP TABLE IF EXISTS bench_floor;"
                                      " CREATE TABLE bench_floor(id bigserial PRIMARY KEY, payload text NOT NULL)"));
        PQclear(PQprepare(b->connection, "floor", "INSERT INTO bench_floor(payload) VALUES ($1)", 1, NULL));
        return;
    }
    const char *path = strstr(dsn, "://") + 3;
    if (sqlite3_open(path, &b->db) != SQLITE_OK) bench_die("floor", sqlite3_errmsg(b->db));
    sqlite3_busy_timeout(b->db, 10000);
    sqlite3_exec(b->db,
                 "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; DROP TABLE IF EXISTS bench_floor;"
                 "CREATE TABLE bench_floor(id INTEGER PRIMARY KEY, payload TEXT NOT NULL)",
                 NULL, NULL, NULL);
    sqlite3_prepare_v2(b->db, "INSERT INTO bench_floor(payload) VALUES (?1)", -1, &b->insert, NULL);
}

/* Seconds per commit. */
static double floor_run(bench *b, int count)
{
    static const char payload[] =
        "{\"path\":\"/tmp/report.csv\",\"owner\":\"ada\",\"size\":123456,\"tags\":[\"a\",\"b\",\"c\"]}";
    const char *values[1] = {payload};
    double start = bench_seconds();
    for (int i = 0; i < count; i++) {
        if (b->postgres) {
            PGresult *r = PQexecPrepared(b->connection, "floor", 1, values, NULL, NULL, 0);
            if (PQresultStatus(r) != PGRES_COMMAND_OK) bench_die("floor", PQerrorMessage(b->connection));
            PQclear(r);
        } else {
            sqlite3_bind_text(b->insert, 1, payload, -1, SQLITE_STATIC);
            if (sqlite3_step(b->insert) != SQLITE_DONE) bench_die("floor", sqlite3_errmsg(b->db));
            sqlite3_reset(b->insert);
        }
    }
    return (bench_seconds() - start) / count;
}

/* --- the runs */

static int on_commit(void *context)
{
    ((bench *)context)->commits++;
    return 0;
}

static pgqrs_result handler(pgqrs_run *run, void *user)
{
    bench *b = user;
    const char *output;
    sqlite3 *db = (sqlite3 *)pgqrs_run_sqlite3(run);
    if (db) sqlite3_commit_hook(db, on_commit, b);
    for (int i = 0; i < b->steps; i++)
        if (pgqrs_step_indexed(run, "step", i, &output))
            pgqrs_step_done(run, "{\"bytes\":1234,\"path\":\"/tmp/a.zip\"}");
    return pgqrs_run_return(run, "\"done\"");
}

/* A snapshot of what the server counts: transactions that wrote something, bytes of log. */
static void server_counts(bench *b, double *commits, double *wal)
{
    *commits = (double)b->commits;
    *wal = 0;
    if (!b->postgres) return;
    PGresult *r = PQexec(b->connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text,"
                                        " (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text");
    *commits = atof(PQgetvalue(r, 0, 0));
    *wal = atof(PQgetvalue(r, 0, 1));
    PQclear(r);
}

typedef struct cost {
    double run_s, commits, wal, statements, round_trips;
} cost;

/* Triggers `runs` runs one by one, then works them off one by one: everything a run costs, per run. */
static cost throughput(bench *b, int runs)
{
    cost c;
    double commits[2], wal[2];
    server_counts(b, &commits[0], &wal[0]);
    int64_t statements = bench_statements, round_trips = bench_round_trips;
    double start = bench_seconds();
    for (int i = 0; i < runs; i++)
        check(b, pgqrs_workflow_trigger(b->store, "bench", "{\"path\":\"/tmp/report.csv\"}", NULL, NULL));
    check(b, pgqrs_work_workflow(b->store, "bench", handler, b, &(pgqrs_work_desc){.max_messages = runs}));
    c.run_s = (bench_seconds() - start) / runs;
    c.statements = (double)(bench_statements - statements) / runs;
    c.round_trips = (double)(bench_round_trips - round_trips) / runs;
    server_counts(b, &commits[1], &wal[1]);
    c.commits = (commits[1] - commits[0]) / runs;
    c.wal = (wal[1] - wal[0]) / runs;
    return c;
}

/* From the trigger to the stored end, with a worker that has nothing else to do. */
static void latency(bench *b, int runs, double *p50_ms, double *p99_ms)
{
    double *times = calloc((size_t)runs, sizeof *times);
    pgqrs_workflow_entry entry = {"bench", handler, b};
    pgqrs_worker *worker = pgqrs_worker_open_workflows(b->store, &entry, 1, NULL);
    if (!worker) bench_die("worker", pgqrs_last_error(b->store)->message);
    for (int i = 0; i < runs; i++) {
        double start = bench_seconds();
        check(b, pgqrs_workflow_trigger(b->store, "bench", NULL, NULL, NULL));
        check(b, pgqrs_worker_poll(worker, 1000, NULL));
        times[i] = (bench_seconds() - start) * 1000;
    }
    check(b, pgqrs_worker_close(worker));
    *p50_ms = bench_percentile(times, (size_t)runs, 0.5);
    *p99_ms = bench_percentile(times, (size_t)runs, 0.99);
    free(times);
}

static void measure_runs(bench *b, int steps, int rounds, int runs)
{
    double ratio[ROUNDS_MAX], step_ratio[ROUNDS_MAX], per_second[ROUNDS_MAX], floor_s[ROUNDS_MAX], p50, p99;
    cost last = {0, 0, 0, 0, 0};
    b->steps = steps;
    throughput(b, runs / 4 + 1); /* warm: plans, caches */
    for (int i = 0; i < rounds; i++) {
        double before = floor_run(b, runs * 2);
        last = throughput(b, runs);
        floor_s[i] = (before + floor_run(b, runs * 2)) / 2;
        per_second[i] = 1 / last.run_s;
        ratio[i] = floor_s[i] / last.run_s;
        step_ratio[i] = last.run_s / (steps + 2) / floor_s[i];
        bench_progress("  %d steps, round %d of %d: %.0f runs/s, floor %.0f/s\n", steps, i + 1, rounds, per_second[i],
                       1 / floor_s[i]);
    }
    latency(b, runs, &p50, &p99);
    printf("{\"bench\":\"workflow\",\"backend\":\"%s\",\"steps\":%d,\"runs_per_s\":%.0f,\"floor_per_s\":%.0f,"
           "\"of_floor\":%.3f,\"commit_over_floor\":%.2f,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"commits\":%.2f,",
           pgqrs_store_backend(b->store), steps, bench_median(per_second, (size_t)rounds),
           1 / bench_median(floor_s, (size_t)rounds), bench_median(ratio, (size_t)rounds),
           bench_median(step_ratio, (size_t)rounds), p50, p99, last.commits);
    if (b->postgres)
        printf("\"statements\":%.2f,\"round_trips\":%.2f,\"wal_bytes\":%.0f}\n", last.statements, last.round_trips,
               last.wal);
    else
        printf("\"statements\":null,\"round_trips\":null,\"wal_bytes\":null}\n");
    fflush(stdout);
}

/* --- resuming */

static pgqrs_result long_handler(pgqrs_run *run, void *user)
{
    bench *b = user;
    const char *output;
    for (int i = 0; i < b->steps; i++)
        if (pgqrs_step_indexed(run, "step", i, &output))
            pgqrs_step_done(run, "{\"bytes\":1234,\"path\":\"/tmp/a.zip\"}");
    if (!pgqrs_run_wait_event(run, "go", PGQRS_FOREVER, NULL)) return pgqrs_run_return(run, NULL);
    return pgqrs_run_return(run, NULL);
}

/* A run does all its steps and waits for an event; then the event comes, and what is timed is: claim, load, walk through all finished
 * steps, end. */
static void measure_resume(bench *b, int steps)
{
    double times[RESUME_ROUNDS];
    pgqrs_workflow_entry entry = {"bench", long_handler, b};
    pgqrs_worker *worker = pgqrs_worker_open_workflows(b->store, &entry, 1, NULL);
    if (!worker) bench_die("worker", pgqrs_last_error(b->store)->message);
    b->steps = steps;
    for (int i = 0; i < RESUME_ROUNDS; i++) {
        int64_t run_id = 0;
        pgqrs_run_info *info = NULL;
        check(b, pgqrs_workflow_trigger(b->store, "bench", NULL, NULL, &run_id));
        check(b, pgqrs_worker_poll(worker, 1000, NULL));
        check(b, pgqrs_run_send_event(b->store, run_id, "go", NULL, NULL));
        double start = bench_seconds();
        check(b, pgqrs_worker_poll(worker, 1000, NULL));
        times[i] = (bench_seconds() - start) * 1000;
        check(b, pgqrs_run_result(b->store, run_id, 0, &info));
        pgqrs_free(info);
        bench_progress("  resume after %d steps, round %d of %d: %.1f ms\n", steps, i + 1, RESUME_ROUNDS, times[i]);
    }
    check(b, pgqrs_worker_close(worker));
    printf("{\"bench\":\"resume\",\"backend\":\"%s\",\"steps\":%d,\"median_ms\":%.1f}\n", pgqrs_store_backend(b->store),
           steps, bench_median(times, RESUME_ROUNDS));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    bench b = {0};
    pgqrs_error err;
    int rounds = argc > 2 ? atoi(argv[2]) : 7, runs = argc > 3 ? atoi(argv[3]) : 300;
    if (argc < 2 || rounds < 1 || rounds > ROUNDS_MAX || runs < 4) bench_die("usage", "workflow DSN [ROUNDS [RUNS]]");
    b.postgres = strncmp(argv[1], "postgres", 8) == 0;
    b.store = pgqrs_open(argv[1], NULL, &err);
    if (!b.store) bench_die("open", err.message);
    check(&b, pgqrs_install(b.store));
    check(&b, pgqrs_workflow_create(b.store, "bench", NULL));
    floor_open(&b, argv[1]);
    for (int steps = 1; steps <= 10; steps = steps == 1 ? 3 : steps == 3 ? 10 : 11)
        measure_runs(&b, steps, rounds, runs);
    measure_resume(&b, 1000);
    measure_resume(&b, 10000);
    check(&b, pgqrs_workflow_delete(b.store, "bench", true));
    sqlite3_finalize(b.insert);
    sqlite3_close(b.db);
    if (b.connection) PQfinish(b.connection);
    pgqrs_close(b.store);
    return 0;
}
