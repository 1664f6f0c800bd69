/*
 * What happens when there is a lot of something: an old transaction that keeps dead rows alive, a large backlog, many queues.
 *
 * Tables: backlog, queues, pinned (with a line for each window of it: pinned_window)
 */
#include "bench.h"
#include "bench_floor.h"
#include "bench_store.h"

/* --- pinned xmin: one transaction stays open, so nothing that is deleted meanwhile can be cleaned up */

#define PINNED_PER_S 4000
#define PINNED_GROUP 20

typedef struct pinned_state {
    bench_floor floor;
    pgqrs_store *producer, *consumers[2];
    double begun, window_s;
    int windows;
    bench_figures *dequeue_ms[2]; /* one for each window and consumer */
    bench_figures *floor_ms;
    int64_t *enqueued, *dequeued[2]; /* by the end of each window */
    volatile bool stop;
} pinned_state;

typedef struct pinned_part {
    pinned_state *state;
    int consumer;
} pinned_part;

static int pinned_window(const pinned_state *s)
{
    int window = (int)((bench_seconds() - s->begun) / s->window_s);
    return window < s->windows ? window : s->windows - 1;
}

static void pinned_produce(pinned_state *s)
{
    double length = s->window_s * s->windows, interval = (double)PINNED_GROUP / PINNED_PER_S, at = s->begun;
    pgqrs_enqueue_item items[PINNED_GROUP];
    memset(items, 0, sizeof items);
    for (int i = 0; i < PINNED_GROUP; i++)
        items[i].payload = bench_payload;
    for (; at < s->begun + length && bench_seconds() < s->begun + length; at += interval) {
        bench_sleep_until(at);
        bench_check(s->producer, pgqrs_enqueue_many(s->producer, "bench", items, PINNED_GROUP, NULL));
        s->enqueued[pinned_window(s)] += PINNED_GROUP;
    }
    s->stop = true;
}

/* Only dequeues that found something are timed, and nothing but them. */
static void pinned_consume(pinned_state *s, int consumer)
{
    pgqrs_store *store = s->consumers[consumer];
    pgqrs_dequeue_desc desc = {.limit = PINNED_GROUP};
    while (!s->stop) {
        pgqrs_messages *batch = NULL;
        double since = bench_seconds();
        bench_check(store, pgqrs_dequeue_many(store, "bench", &desc, &batch));
        if (batch->count > 0) {
            int window = pinned_window(s);
            bench_add(&s->dequeue_ms[consumer][window], (bench_seconds() - since) * 1000);
            bench_check(store, pgqrs_archive_many(store, batch->items, batch->count, NULL));
            s->dequeued[consumer][window] += (int64_t)batch->count;
        } else {
            bench_sleep_until(bench_seconds() + 0.002);
        }
        pgqrs_free(batch);
    }
}

/* A commit of the floor now and then tells whether the machine itself became slower. */
static void pinned_probe(pinned_state *s)
{
    while (!s->stop) {
        double since = bench_seconds();
        bench_floor_commit(&s->floor.connections[0]);
        bench_add(&s->floor_ms[pinned_window(s)], (bench_seconds() - since) * 1000);
        bench_sleep_until(bench_seconds() + 0.02);
    }
}

static void pinned_body(bench_client *client)
{
    const pinned_part *part = client->context;
    if (client->number == 0)
        pinned_produce(part->state);
    else if (client->number < 3)
        pinned_consume(part->state, part->consumer);
    else
        pinned_probe(part->state);
}

static PGconn *pin(void)
{
    PGconn *old = bench_connect(bench_dsn);
    bench_sql(old, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    bench_sql(old, "SELECT txid_current()");
    return old;
}

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory) bench_die("bench", "out of memory");
    return memory;
}

static void pinned_open(pinned_state *s)
{
    s->window_s = bench_slice(15) / bench_pick(1, 2);
    s->windows = bench_pick(12, 4);
    bench_floor_open(&s->floor, bench_dsn);
    s->producer = bench_make("pinned");
    s->enqueued = zeroed((size_t)s->windows, sizeof *s->enqueued);
    s->floor_ms = zeroed((size_t)s->windows, sizeof *s->floor_ms);
    for (int i = 0; i < 2; i++) {
        s->consumers[i] = bench_open("pinned");
        s->dequeue_ms[i] = zeroed((size_t)s->windows, sizeof *s->dequeue_ms[i]);
        s->dequeued[i] = zeroed((size_t)s->windows, sizeof *s->dequeued[i]);
    }
}

static void pinned_close(pinned_state *s)
{
    for (int i = 0; i < 2; i++) {
        pgqrs_close(s->consumers[i]);
        for (int w = 0; w < s->windows; w++)
            bench_drop(&s->dequeue_ms[i][w]);
        free(s->dequeue_ms[i]);
        free(s->dequeued[i]);
    }
    for (int w = 0; w < s->windows; w++)
        bench_drop(&s->floor_ms[w]);
    free(s->floor_ms);
    free(s->enqueued);
    pgqrs_close(s->producer);
    bench_remove("pinned");
    bench_floor_close(&s->floor);
}

static double pinned_p50(pinned_state *s, int window)
{
    bench_figures *all = &s->dequeue_ms[0][window], *other = &s->dequeue_ms[1][window];
    for (size_t i = 0; i < other->count; i++)
        bench_add(all, other->items[i]);
    bench_drop(other);
    return bench_median(all);
}

static void pinned_lines(pinned_state *s)
{
    int64_t backlog = 0;
    for (int w = 0; w < s->windows; w++) {
        backlog += s->enqueued[w] - s->dequeued[0][w] - s->dequeued[1][w];
        bench_begin("pinned_window", bench_backend());
        bench_number("until_s", (w + 1) * s->window_s, 0);
        bench_number("enqueued_per_s", (double)s->enqueued[w] / s->window_s, 0);
        bench_number("dequeue_p50_ms", pinned_p50(s, w), 3);
        bench_number("dequeue_p99_ms", bench_percentile(&s->dequeue_ms[0][w], 0.99), 3);
        bench_number("floor_p50_ms", bench_median(&s->floor_ms[w]), 3);
        bench_number("backlog", (double)backlog, 0);
        bench_end();
    }
    int last = s->windows - 1;
    double growth = pinned_p50(s, last) / pinned_p50(s, 0);
    double floor_growth = bench_median(&s->floor_ms[last]) / bench_median(&s->floor_ms[0]);
    bench_begin("pinned", bench_backend());
    bench_number("seconds", s->windows * s->window_s, 0);
    bench_number("first_p50_ms", pinned_p50(s, 0), 3);
    bench_number("last_p50_ms", pinned_p50(s, last), 3);
    bench_number("last_over_first", growth, 2);
    bench_number("floor_last_over_first", floor_growth, 2);
    bench_number("beyond_the_floor", growth / floor_growth, 2);
    bench_number("backlog", (double)backlog, 0);
    bench_end();
}

static void pinned(void)
{
    pinned_state s;
    memset(&s, 0, sizeof s);
    pinned_open(&s);
    PGconn *old = pin();
    pinned_part parts[4] = {{&s, 0}, {&s, 0}, {&s, 1}, {&s, 0}};
    void *contexts[4] = {&parts[0], &parts[1], &parts[2], &parts[3]};
    bench_progress("  %d messages a second for %.0f s\n", PINNED_PER_S, s.windows * s.window_s);
    s.begun = bench_seconds();
    bench_clients(4, 0, pinned_body, contexts);
    pinned_lines(&s);
    PQfinish(old);
    pinned_close(&s);
}

/* --- two places that take turns: does the larger one cost more? */

typedef struct pair {
    pgqrs_store *stores[2]; /* small, large */
    bench_figures p50_us[2];
    bench_figures ratio;
} pair;

static pgqrs_result take(pgqrs_store *store, const char *queue, size_t batch, double *seconds)
{
    pgqrs_messages *messages = NULL;
    pgqrs_dequeue_desc desc = {.limit = batch};
    double since = bench_seconds();
    pgqrs_result result = pgqrs_dequeue_many(store, queue, &desc, &messages);
    *seconds = bench_seconds() - since;
    if (!result && messages->count != batch) bench_die("dequeue", "fewer messages than there are");
    if (!result) result = pgqrs_archive_many(store, messages->items, messages->count, NULL);
    pgqrs_free(messages);
    return result;
}

/* queues: how many each of the two has; their names are q0, q1, ..., or "bench" when there is one. */
static void pair_round(pair *p, const int *queues, size_t batch, int count)
{
    enum { TURN = 5 };
    static int next[2];
    bench_figures us[2] = {{0}, {0}};
    char name[32];
    for (int done = 0; done < count; done += TURN)
        for (int side = 0; side < 2; side++)
            for (int i = 0; i < TURN; i++) {
                double seconds;
                snprintf(name, sizeof name, "q%d", next[side]++ % queues[side]);
                bench_check(p->stores[side],
                            take(p->stores[side], queues[side] == 1 ? "bench" : name, batch, &seconds));
                bench_add(&us[side], seconds * 1e6);
            }
    for (int side = 0; side < 2; side++)
        bench_add(&p->p50_us[side], bench_median(&us[side]));
    bench_add(&p->ratio, bench_median(&us[1]) / bench_median(&us[0]));
    bench_drop(&us[0]);
    bench_drop(&us[1]);
}

static void pair_line(pair *p, const char *bench, const char *what, double small, double large, size_t batch)
{
    char name[64];
    bench_begin(bench, bench_backend());
    bench_number("batch", (double)batch, 0);
    snprintf(name, sizeof name, "few_%s", what);
    bench_number(name, small, 0);
    snprintf(name, sizeof name, "many_%s", what);
    bench_number(name, large, 0);
    bench_number("few_p50_us", bench_median(&p->p50_us[0]), 0);
    bench_number("many_p50_us", bench_median(&p->p50_us[1]), 0);
    bench_number("many_over_few", bench_median(&p->ratio), 2);
    bench_number("lowest", bench_percentile(&p->ratio, 0), 2);
    bench_number("highest", bench_percentile(&p->ratio, 1), 2);
    bench_end();
    bench_progress("    %.0f %s: dequeue p50 %.0f us; %.0f: %.0f us\n", small, what, bench_median(&p->p50_us[0]), large,
                   bench_median(&p->p50_us[1]));
    bench_drop(&p->ratio);
    for (int side = 0; side < 2; side++)
        bench_drop(&p->p50_us[side]);
}

/* --- backlog */

static void backlog_of(int64_t small, int64_t large)
{
    static const size_t batches[] = {1, 10};
    static const int queues[2] = {1, 1};
    pair p;
    memset(&p, 0, sizeof p);
    p.stores[0] = bench_make("small");
    p.stores[1] = bench_make("large");
    bench_progress("  filling with %.0f messages\n", (double)large);
    bench_fill(p.stores[1], "large", large);
    for (int b = 0; b < 2; b++) {
        for (int round = 0; round < bench_rounds(5, 2); round++) {
            bench_fill_up_to(p.stores[0], "small", small);
            pair_round(&p, queues, batches[b], bench_pick(300, 50));
        }
        pair_line(&p, "backlog", "messages", (double)small, (double)large, batches[b]);
    }
    for (int side = 0; side < 2; side++)
        pgqrs_close(p.stores[side]);
    bench_remove("small");
    bench_remove("large");
}

static void backlog(void)
{
    if (bench_postgres())
        backlog_of(bench_pick(10000, 5000), bench_pick(1000000, 40000));
    else
        backlog_of(5000, 100000);
}

/* --- many queues, as many messages in both places */

static void queues(void)
{
    enum { EACH = 50 };
    const int counts[2] = {1, bench_pick(1000, 100)};
    char name[32];
    pair p;
    memset(&p, 0, sizeof p);
    p.stores[0] = bench_make("one");
    p.stores[1] = bench_make("many");
    bench_progress("  filling %d queues\n", counts[1]);
    bench_enqueue(p.stores[0], "bench", (int64_t)counts[1] * EACH, bench_payload);
    for (int i = 0; i < counts[1]; i++) {
        snprintf(name, sizeof name, "q%d", i);
        bench_check(p.stores[1], pgqrs_queue_create(p.stores[1], name, NULL));
        bench_enqueue(p.stores[1], name, EACH, bench_payload);
    }
    for (int round = 0; round < bench_rounds(5, 2); round++)
        pair_round(&p, counts, 1, bench_pick(1000, 100));
    pair_line(&p, "queues", "queues", 1, counts[1], 1);
    for (int side = 0; side < 2; side++)
        pgqrs_close(p.stores[side]);
    bench_remove("one");
    bench_remove("many");
}

int main(int argc, char **argv)
{
    static const bench_table tables[] = {
        {"backlog", BENCH_BOTH, backlog},
        {"queues", BENCH_BOTH, queues},
        {"pinned", BENCH_POSTGRES, pinned},
    };
    return bench_main(argc, argv, tables, sizeof tables / sizeof *tables);
}
