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

static const test_case cost_cases[] = {
    CASE_ON(everyday_statements_read_no_whole_table, PLAIN, ON_POSTGRES),
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
