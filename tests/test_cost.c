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

static const test_case cost_cases[] = {
    CASE(three_steps_are_five_commits_and_six_round_trips, PLAIN),
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
