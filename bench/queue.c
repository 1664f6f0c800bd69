/*
 * What a message costs: enqueue in groups of 1 to 1000, drains by 1 to 4 consumers, each single operation beside the raw
 * commit, payloads of three sizes.
 *
 * Tables: enqueue, drain, operations, payload
 */
#include "bench.h"
#include "bench_floor.h"
#include "bench_store.h"

#define BACKLOG 50000

/* --- enqueue */

typedef struct producer {
    pgqrs_store *store;
    const char *payload;
    size_t group;
} producer;

static void produce(bench_client *client)
{
    const producer *p = client->context;
    static pgqrs_enqueue_item items[1000];
    for (size_t i = 0; i < p->group; i++)
        items[i].payload = p->payload;
    for (; bench_going(client); client->done += (int64_t)p->group) {
        if (p->group == 1)
            bench_check(p->store, pgqrs_enqueue(p->store, "bench", p->payload, NULL, NULL));
        else
            bench_check(p->store, pgqrs_enqueue_many(p->store, "bench", items, p->group, NULL));
    }
}

static void enqueue(void)
{
    static const size_t groups[] = {1, 10, 50, 1000};
    bench_floor floor;
    bench_floor_open(&floor, bench_dsn);
    for (int g = 0; g < 4; g++) {
        bench_series series = {0};
        producer p = {bench_make("enqueue"), bench_payload, groups[g]};
        void *context = &p;
        bench_clients(1, 0.3, produce, &context); /* warm: plans, caches */
        for (int round = 0; round < bench_rounds(7, 2); round++)
            BENCH_ROUND(&series, &floor, 1, 0.4, bench_clients(1, bench_slice(0.8), produce, &context));
        pgqrs_close(p.store);
        bench_begin("enqueue", bench_backend());
        bench_number("group", (double)groups[g], 0);
        bench_end_series(&series);
    }
    bench_remove("enqueue");
    bench_floor_close(&floor);
}

/* --- drain */

static void drain_with(bench_floor *floor, pgqrs_store *store, int consumers, size_t batch)
{
    bench_series series = {0};
    bench_consumer contexts[4] = {0};
    void *pointers[4];
    int64_t backlog = bench_pick(BACKLOG, BACKLOG / 5);
    for (int i = 0; i < consumers; i++) {
        contexts[i] = (bench_consumer){bench_open("drain"), "bench", batch};
        pointers[i] = &contexts[i];
    }
    for (int round = 0; round < bench_rounds(3, 1); round++) {
        bench_fill_up_to(store, "drain", backlog);
        BENCH_ROUND(&series, floor, consumers, 0.5, bench_clients(consumers, bench_slice(2), bench_consume, pointers));
    }
    for (int i = 0; i < consumers; i++)
        pgqrs_close(contexts[i].store);
    bench_begin("drain", bench_backend());
    bench_number("consumers", consumers, 0);
    bench_number("batch", (double)batch, 0);
    bench_end_series(&series);
}

static void drain(void)
{
    static const size_t batches[] = {1, 10, 50};
    bench_floor floor;
    bench_floor_open(&floor, bench_dsn);
    pgqrs_store *store = bench_make("drain");
    for (int consumers = 1; consumers <= 4; consumers *= bench_pick(2, 4))
        for (int b = 0; b < 3; b += bench_pick(1, 2))
            drain_with(&floor, store, consumers, batches[b]);
    pgqrs_close(store);
    bench_remove("drain");
    bench_floor_close(&floor);
}

/* --- one operation per commit */

typedef struct operation_times {
    bench_figures raw, enqueue, dequeue, archive;
    bench_series rounds[3]; /* enqueue, dequeue, archive: medians of each round */
} operation_times;

static void end_round(bench_figures *raw, bench_figures *times, bench_series *series)
{
    bench_series_add(series, 1 / bench_median(raw), 1 / bench_median(times));
    bench_drop(times);
}

/* The four take turns every few messages, so a slow moment of the disk meets all of them. */
static void operations_round(pgqrs_store *store, bench_floor *floor, operation_times *t, double seconds)
{
    enum { TURN = 10 };
    for (double until = bench_seconds() + seconds; bench_seconds() < until;) {
        pgqrs_message *messages[TURN];
        double at = bench_seconds(), then;
        for (int i = 0; i < TURN; i++, bench_add(&t->raw, then - at), at = then) {
            bench_floor_commit(&floor->connections[0]);
            then = bench_seconds();
        }
        for (int i = 0; i < TURN; i++, bench_add(&t->enqueue, then - at), at = then) {
            bench_check(store, pgqrs_enqueue(store, "bench", bench_payload, NULL, NULL));
            then = bench_seconds();
        }
        for (int i = 0; i < TURN; i++, bench_add(&t->dequeue, then - at), at = then) {
            bench_check(store, pgqrs_dequeue(store, "bench", NULL, &messages[i]));
            then = bench_seconds();
        }
        for (int i = 0; i < TURN; i++, bench_add(&t->archive, then - at), at = then) {
            bench_check(store, pgqrs_archive(store, messages[i]));
            then = bench_seconds();
        }
        for (int i = 0; i < TURN; i++)
            pgqrs_free(messages[i]);
    }
    end_round(&t->raw, &t->enqueue, &t->rounds[0]);
    end_round(&t->raw, &t->dequeue, &t->rounds[1]);
    end_round(&t->raw, &t->archive, &t->rounds[2]);
    bench_drop(&t->raw);
}

static void operations(void)
{
    static const char *const names[] = {"enqueue", "dequeue", "archive"};
    bench_floor floor;
    operation_times times = {0};
    bench_floor_open(&floor, bench_dsn);
    pgqrs_store *store = bench_make("operations");
    for (int round = 0; round < bench_rounds(7, 2); round++)
        operations_round(store, &floor, &times, bench_slice(1.5));
    for (int i = 0; i < 3; i++) {
        bench_series *s = &times.rounds[i];
        double us = 1e6 / bench_median(&s->rate), raw_us = 1e6 / bench_median(&s->floor);
        bench_begin("operations", bench_backend());
        bench_text("operation", names[i]);
        bench_number("p50_us", us, 0);
        bench_number("floor_us", raw_us, 0);
        bench_number("over_floor", 1 / bench_median(&s->ratio), 2);
        bench_number("lowest", 1 / bench_percentile(&s->ratio, 1), 2);
        bench_number("highest", 1 / bench_percentile(&s->ratio, 0), 2);
        bench_end();
        bench_progress("    %s %.0f us, floor %.0f us\n", names[i], us, raw_us);
        bench_series_drop(s);
    }
    pgqrs_close(store);
    bench_remove("operations");
    bench_floor_close(&floor);
}

/* --- payloads */

static char *payload_of(size_t size)
{
    char *text = malloc(size + 1);
    if (!text) bench_die("bench", "out of memory");
    memset(text, 'x', size);
    text[0] = text[size - 1] = '"';
    text[size] = '\0';
    return text;
}

static void payload_line(const char *operation, size_t size, bench_series *series)
{
    bench_begin("payload", bench_backend());
    bench_text("operation", operation);
    bench_number("bytes", (double)size, 0);
    bench_end_series(series);
}

static void payload_with(bench_floor *floor, size_t size)
{
    bench_series in = {0}, out = {0};
    producer p = {bench_make("payload"), payload_of(size), 1};
    bench_consumer c = {p.store, "bench", 1};
    void *producer_context = &p, *consumer_context = &c;
    bench_floor_use(floor, p.payload);
    for (int round = 0; round < bench_rounds(5, 1); round++) {
        BENCH_ROUND(&in, floor, 1, 0.4, bench_clients(1, bench_slice(0.6), produce, &producer_context));
        BENCH_ROUND(&out, floor, 1, 0.4, bench_clients(1, bench_slice(0.6), bench_consume, &consumer_context));
    }
    payload_line("enqueue", size, &in);
    payload_line("archive and dequeue", size, &out);
    pgqrs_close(p.store);
    bench_floor_use(floor, bench_payload);
    free((char *)p.payload);
}

static void payload(void)
{
    bench_floor floor;
    bench_floor_open(&floor, bench_dsn);
    payload_with(&floor, 100);
    payload_with(&floor, 10 * 1024);
    payload_with(&floor, 1024 * 1024);
    bench_remove("payload");
    bench_floor_close(&floor);
}

int main(int argc, char **argv)
{
    static const bench_table tables[] = {
        {"enqueue", BENCH_BOTH, enqueue},
        {"drain", BENCH_BOTH, drain},
        {"operations", BENCH_BOTH, operations},
        {"payload", BENCH_BOTH, payload},
    };
    return bench_main(argc, argv, tables, sizeof tables / sizeof *tables);
}
