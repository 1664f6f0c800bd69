/*
 * Threads that share one connection and its commits: handlers of single messages on a pool, single durable enqueues through a
 * producer, runs of a three-step workflow on a pool. All of them have one connection, so the floor has one too; what four
 * connections would do is beside it.
 *
 * Tables: handlers, producer, runs
 */
#define PGQRS_THREADS
#include "bench.h"
#include "bench_floor.h"
#include "bench_store.h"

/* Rounds against both floors. */
typedef struct pool_series {
    bench_series one;
    bench_figures of_four;
} pool_series;

static void pool_round(pool_series *s, bench_floor *floor, double (*measure)(void *), void *context)
{
    double one = bench_floor_rate(floor, 1, 0.3), four = bench_floor_rate(floor, 4, 0.3);
    double rate = measure(context);
    four = (four + bench_floor_rate(floor, 4, 0.3)) / 2;
    one = (one + bench_floor_rate(floor, 1, 0.3)) / 2;
    bench_series_add(&s->one, one, rate);
    bench_add(&s->of_four, rate / four);
}

static void pool_line(const char *bench, int threads, pool_series *s)
{
    bench_begin(bench, bench_backend());
    bench_number("threads", threads, 0);
    if (bench_postgres()) bench_number("of_4_connections", bench_median(&s->of_four), 3);
    bench_end_series(&s->one);
    bench_drop(&s->of_four);
}

/* --- the time a loop of the library may take: whoever finds that it is over stops it, once */

typedef struct slice {
    pgqrs_store *store;
    double until;
    int64_t done;
    int stopped;
} slice;

static void slice_count(slice *s)
{
    __atomic_fetch_add(&s->done, 1, __ATOMIC_RELAXED);
    if (bench_seconds() > s->until && !__atomic_exchange_n(&s->stopped, 1, __ATOMIC_RELAXED)) pgqrs_stop(s->store);
}

/* --- handlers */

typedef struct pool {
    pgqrs_store *store;
    int threads;
    double seconds;
} pool;

static pgqrs_result handle(const pgqrs_message *message, void *user)
{
    (void)message;
    slice_count(user);
    return PGQRS_OK;
}

static double handle_slice(void *context)
{
    pool *p = context;
    double begun = bench_seconds();
    slice s = {p->store, begun + p->seconds, 0, 0};
    pgqrs_work_desc desc = {.until_empty = true, .threads = p->threads};
    bench_check(p->store, pgqrs_work(p->store, "bench", handle, &s, &desc));
    return (double)s.done / (bench_seconds() - begun);
}

static void handlers(void)
{
    static const int threads[] = {0, 1, 4, 16};
    bench_floor floor;
    bench_floor_open(&floor, bench_dsn);
    pgqrs_store *store = bench_make("handlers");
    for (int t = 0; t < 4; t++) {
        pool_series series = {{{0}, {0}, {0}}, {0}};
        pool p = {store, threads[t], bench_slice(1.5)};
        for (int round = 0; round < bench_rounds(4, 1); round++) {
            bench_fill_up_to(p.store, "handlers", bench_pick(50000, 10000));
            pool_round(&series, &floor, handle_slice, &p);
        }
        pool_line("handlers", threads[t], &series);
    }
    pgqrs_close(store);
    bench_remove("handlers");
    bench_floor_close(&floor);
}

/* --- producers */

typedef struct producers {
    pgqrs_producer *producer;
    int threads;
} producers;

static void produce(bench_client *client)
{
    pgqrs_error err;
    for (; bench_going(client); client->done++)
        if (pgqrs_producer_enqueue(client->context, "bench", bench_payload, NULL, NULL, &err))
            bench_die("producer", err.message);
}

static double produce_slice(void *context)
{
    producers *p = context;
    void *contexts[16];
    for (int i = 0; i < p->threads; i++)
        contexts[i] = p->producer;
    return bench_clients(p->threads, bench_slice(1), produce, contexts);
}

static void producer(void)
{
    static const int threads[] = {1, 4, 16};
    bench_floor floor;
    bench_floor_open(&floor, bench_dsn);
    for (int t = 0; t < 3; t++) {
        pool_series series = {{{0}, {0}, {0}}, {0}};
        pgqrs_error err;
        pgqrs_store *store = bench_make("producer");
        producers p = {pgqrs_producer_open(store, NULL), threads[t]};
        if (!p.producer) bench_die("producer", pgqrs_last_error(store)->message);
        for (int round = 0; round < bench_rounds(4, 1); round++)
            pool_round(&series, &floor, produce_slice, &p);
        if (pgqrs_producer_close(p.producer, &err)) bench_die("producer", err.message);
        pgqrs_close(store);
        pool_line("producer", threads[t], &series);
    }
    bench_remove("producer");
    bench_floor_close(&floor);
}

/* --- runs of three steps */

static pgqrs_result three_steps(pgqrs_run *run, void *user)
{
    const char *output;
    for (int i = 0; i < 3; i++)
        if (pgqrs_step_indexed(run, "step", i, &output))
            pgqrs_step_done(run, "{\"bytes\":1234,\"path\":\"/tmp/a.zip\"}");
    pgqrs_result result = pgqrs_run_return(run, "\"done\"");
    if (!result) slice_count(user);
    return result;
}

static void trigger(pgqrs_store *store, int count)
{
    pgqrs_trigger_item items[500];
    memset(items, 0, sizeof items);
    for (int i = 0; i < 500; i++)
        items[i].input = "{\"path\":\"/tmp/report.csv\"}";
    for (; count > 0; count -= 500)
        bench_check(store, pgqrs_workflow_trigger_many(store, "three", items, 500, NULL));
}

static double run_slice(void *context)
{
    pool *p = context;
    double begun = bench_seconds();
    slice s = {p->store, begun + p->seconds, 0, 0};
    pgqrs_work_desc desc = {.until_empty = true, .threads = p->threads};
    bench_check(p->store, pgqrs_work_workflow(p->store, "three", three_steps, &s, &desc));
    return (double)s.done / (bench_seconds() - begun);
}

/* Working the runs off, triggers not included. */
static void runs(void)
{
    static const int threads[] = {0, 1, 4, 16};
    bench_floor floor;
    bench_floor_open(&floor, bench_dsn);
    for (int t = 0; t < 4; t++) {
        pool_series series = {{{0}, {0}, {0}}, {0}};
        pool p = {bench_make("runs"), threads[t], bench_slice(1.5)};
        bench_check(p.store, pgqrs_workflow_create(p.store, "three", NULL));
        for (int round = 0; round < bench_rounds(4, 1); round++) {
            trigger(p.store, bench_pick(10000, 2000));
            pool_round(&series, &floor, run_slice, &p);
        }
        pgqrs_close(p.store);
        pool_line("runs", threads[t], &series);
    }
    bench_remove("runs");
    bench_floor_close(&floor);
}

int main(int argc, char **argv)
{
    static const bench_table tables[] = {
        {"handlers", BENCH_BOTH, handlers},
        {"producer", BENCH_BOTH, producer},
        {"runs", BENCH_BOTH, runs},
    };
    return bench_main(argc, argv, tables, sizeof tables / sizeof *tables);
}
