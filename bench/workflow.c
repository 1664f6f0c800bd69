/*
 * What a durable step costs: runs per second, latency, commits, statements and bytes of log for runs of 1, 3 and 10 steps, one
 * process and one worker that does one run after the other; and how long it takes to resume a run that has thousands of finished
 * steps. Runs on a pool of threads are in threads.c.
 *
 * Tables: workflow, resume
 */
#include "bench.h"
#include "bench_floor.h"
#include "bench_store.h"

#define RESUME_ROUNDS 5

typedef struct workflows {
    pgqrs_store *store;
    PGconn *connection; /* for asking the server what it counted; NULL on SQLite */
    bench_floor floor;
    int steps; /* of each run */
    int runs;  /* in each turn */
} workflows;

static pgqrs_result handler(pgqrs_run *run, void *user)
{
    const workflows *w = user;
    const char *output;
    for (int i = 0; i < w->steps; i++)
        if (pgqrs_step_indexed(run, "step", i, &output))
            pgqrs_step_done(run, "{\"bytes\":1234,\"path\":\"/tmp/a.zip\"}");
    return pgqrs_run_return(run, "\"done\"");
}

/* Triggers runs one by one, then works them off one by one: everything a run costs. */
static double throughput(workflows *w, bench_traffic *per_run)
{
    bench_traffic before = bench_traffic_now(w->connection);
    double begun = bench_seconds();
    for (int i = 0; i < w->runs; i++)
        bench_check(w->store, pgqrs_workflow_trigger(w->store, "bench", "{\"path\":\"/tmp/report.csv\"}", NULL, NULL));
    bench_check(w->store,
                pgqrs_work_workflow(w->store, "bench", handler, w, &(pgqrs_work_desc){.max_messages = w->runs}));
    double per_s = w->runs / (bench_seconds() - begun);
    *per_run = bench_traffic_per(before, w->connection, w->runs);
    return per_s;
}

static pgqrs_worker *worker_with(workflows *w, pgqrs_workflow_handler function)
{
    pgqrs_workflow_entry entry = {"bench", function, w};
    pgqrs_worker *worker = pgqrs_worker_open_workflows(w->store, &entry, 1, NULL);
    if (!worker) bench_die("worker", pgqrs_last_error(w->store)->message);
    return worker;
}

/* From the trigger to the stored end, with a worker that has nothing else to do. */
static void latency(workflows *w, bench_figures *ms)
{
    pgqrs_worker *worker = worker_with(w, handler);
    for (int i = 0; i < w->runs; i++) {
        double since = bench_seconds();
        bench_check(w->store, pgqrs_workflow_trigger(w->store, "bench", NULL, NULL, NULL));
        bench_check(w->store, pgqrs_worker_poll(worker, 1000, NULL));
        bench_add(ms, (bench_seconds() - since) * 1000);
    }
    bench_check(w->store, pgqrs_worker_close(worker));
}

static void runs_line(const workflows *w, bench_series *series, bench_figures *ms, const bench_traffic *per_run)
{
    bench_begin("workflow", bench_backend());
    bench_number("steps", w->steps, 0);
    bench_number("p50_ms", bench_percentile(ms, 0.5), 2);
    bench_number("p99_ms", bench_percentile(ms, 0.99), 2);
    bench_number("commits", per_run->commits, 2);
    bench_number("statements", per_run->statements, 2);
    if (w->connection) {
        bench_number("round_trips", per_run->round_trips, 2);
        bench_number("wal_bytes", per_run->wal_bytes, 0);
    }
    bench_number("commit_over_floor", 1 / (bench_median(&series->ratio) * (w->steps + 2)), 2);
    bench_end_series(series);
    bench_drop(ms);
}

static void measure_runs(workflows *w, int steps)
{
    bench_series series = {{0}, {0}, {0}};
    bench_figures ms = {0};
    bench_traffic per_run;
    w->steps = steps;
    throughput(w, &per_run); /* warm: plans, caches */
    for (int round = 0; round < bench_rounds(4, 1); round++)
        BENCH_ROUND(&series, &w->floor, 1, 0.2, throughput(w, &per_run));
    latency(w, &ms);
    runs_line(w, &series, &ms, &per_run);
}

static void workflows_open(workflows *w)
{
    memset(w, 0, sizeof *w);
    w->runs = bench_pick(150, 50);
    w->store = bench_make("workflow");
    bench_check(w->store, pgqrs_workflow_create(w->store, "bench", NULL));
    if (bench_postgres()) w->connection = bench_connect(bench_dsn);
    bench_floor_open(&w->floor, bench_dsn);
}

static void workflows_close(workflows *w)
{
    bench_floor_close(&w->floor);
    if (w->connection) PQfinish(w->connection);
    pgqrs_close(w->store);
    bench_remove("workflow");
}

static void workflow(void)
{
    workflows w;
    workflows_open(&w);
    measure_runs(&w, 1);
    measure_runs(&w, 3);
    measure_runs(&w, 10);
    workflows_close(&w);
}

/* --- resuming */

static pgqrs_result long_handler(pgqrs_run *run, void *user)
{
    const workflows *w = user;
    const char *output;
    for (int i = 0; i < w->steps; i++)
        if (pgqrs_step_indexed(run, "step", i, &output))
            pgqrs_step_done(run, "{\"bytes\":1234,\"path\":\"/tmp/a.zip\"}");
    if (!pgqrs_run_wait_event(run, "go", PGQRS_FOREVER, NULL)) return pgqrs_run_return(run, NULL);
    return pgqrs_run_return(run, NULL);
}

/* A run does all its steps and waits for an event; then the event comes, and what is timed is: claim, load, walk through all
 * finished steps, end. */
static void resume_with(workflows *w, int steps)
{
    bench_figures ms = {0};
    pgqrs_worker *worker = worker_with(w, long_handler);
    w->steps = steps;
    for (int round = 0; round < bench_pick(RESUME_ROUNDS, 2); round++) {
        int64_t run_id = 0;
        pgqrs_run_info *info = NULL;
        bench_check(w->store, pgqrs_workflow_trigger(w->store, "bench", NULL, NULL, &run_id));
        bench_check(w->store, pgqrs_worker_poll(worker, 1000, NULL));
        bench_check(w->store, pgqrs_run_send_event(w->store, run_id, "go", NULL, NULL));
        double since = bench_seconds();
        bench_check(w->store, pgqrs_worker_poll(worker, 1000, NULL));
        bench_add(&ms, (bench_seconds() - since) * 1000);
        bench_check(w->store, pgqrs_run_result(w->store, run_id, 0, &info));
        pgqrs_free(info);
    }
    bench_check(w->store, pgqrs_worker_close(worker));
    bench_begin("resume", bench_backend());
    bench_number("finished_steps", steps, 0);
    bench_number("median_ms", bench_median(&ms), 1);
    bench_end();
    bench_drop(&ms);
}

static void resume(void)
{
    workflows w;
    workflows_open(&w);
    resume_with(&w, 1000);
    if (!bench_quick()) resume_with(&w, 10000);
    workflows_close(&w);
}

int main(int argc, char **argv)
{
    static const bench_table tables[] = {
        {"workflow", BENCH_BOTH, workflow},
        {"resume", BENCH_BOTH, resume},
    };
    return bench_main(argc, argv, tables, sizeof tables / sizeof *tables);
}
