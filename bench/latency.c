/*
 * How long things take that nobody hurries: from an enqueue to the consumer in steady state, until a sleeping consumer is
 * awake, and what an idle worker costs.
 *
 * Tables: steady, wakeup, idle
 */
#include "bench.h"
#include "bench_floor.h"
#include "bench_store.h"
#include <dirent.h>
#include <sys/wait.h>

/* The payload is the time of the enqueue, on the clock that all processes of a machine share. */
static void stamp(char *payload, size_t size, double at)
{
    snprintf(payload, size, "{\"at\":%.9f,\"pad\":\"....................................................\"}", at);
}

static double stamped(const pgqrs_message *message)
{
    return atof(message->payload + strlen("{\"at\":"));
}

/* --- steady state: a producer keeps a rate, two consumers take up to ten at once */

typedef struct steady_state {
    pgqrs_store *producer, *consumers[2];
    double interval_s; /* between two enqueues; 0: one after the other */
    bench_figures latency_ms[2];
    volatile bool stop;
} steady_state;

typedef struct steady_part {
    steady_state *state;
    int consumer;
} steady_part;

static void steady_produce(bench_client *client)
{
    steady_state *s = ((const steady_part *)client->context)->state;
    char payload[128];
    double at = bench_seconds();
    for (; bench_going(client); client->done++) {
        /* Counted from when it was due, so a slow call is not hidden by the calls that wait for it. */
        at = s->interval_s > 0 ? at + s->interval_s : bench_seconds();
        bench_sleep_until(at);
        stamp(payload, sizeof payload, at);
        bench_check(s->producer, pgqrs_enqueue(s->producer, "bench", payload, NULL, NULL));
    }
    s->stop = true;
}

/* Settling takes the next ones with it, but does not wait; when there are none, a dequeue of its own does. */
static pgqrs_messages *steady_next(pgqrs_store *store, pgqrs_messages *batch)
{
    pgqrs_settlement verdicts[10];
    pgqrs_dequeue_desc desc = {.limit = 10};
    pgqrs_messages *next = NULL;
    for (size_t i = 0; i < batch->count; i++)
        verdicts[i] = pgqrs_settlement_for(&batch->items[i], PGQRS_ARCHIVE);
    if (batch->count > 0) bench_check(store, pgqrs_settle(store, verdicts, batch->count, "bench", &desc, &next));
    pgqrs_free(batch);
    if (next && next->count > 0) return next;
    pgqrs_free(next);
    desc.wait_ms = 200;
    bench_check(store, pgqrs_dequeue_many(store, "bench", &desc, &next));
    return next;
}

static void steady_consume(bench_client *client)
{
    const steady_part *part = client->context;
    pgqrs_store *store = part->state->consumers[part->consumer];
    pgqrs_messages *batch = NULL;
    bench_check(store, pgqrs_dequeue_many(store, "bench", &(pgqrs_dequeue_desc){.limit = 10}, &batch));
    while (batch->count > 0 || !part->state->stop) {
        double now = bench_seconds();
        for (size_t i = 0; i < batch->count; i++)
            bench_add(&part->state->latency_ms[part->consumer], (now - stamped(&batch->items[i])) * 1000);
        batch = steady_next(store, batch);
    }
    pgqrs_free(batch);
}

static void steady_body(bench_client *client)
{
    if (client->number == 0)
        steady_produce(client);
    else
        steady_consume(client);
}

static double steady_floor_ms(bench_floor *floor, bench_figures *all)
{
    bench_figures times = {0};
    for (int i = 0; i < 300; i++) {
        double since = bench_seconds();
        bench_floor_commit(&floor->connections[0]);
        bench_add(&times, (bench_seconds() - since) * 1000);
    }
    double median = bench_median(&times);
    bench_add(all, median);
    bench_drop(&times);
    return median;
}

static void steady_line(steady_state *s, const char *load, double per_s, bench_figures *floor_ms)
{
    bench_figures *all = &s->latency_ms[0];
    for (size_t i = 0; i < s->latency_ms[1].count; i++)
        bench_add(all, s->latency_ms[1].items[i]);
    bench_begin("steady", bench_backend());
    bench_text("load", load);
    bench_number("per_s", per_s, 0);
    bench_number("p50_ms", bench_percentile(all, 0.5), 2);
    bench_number("p95_ms", bench_percentile(all, 0.95), 2);
    bench_number("p99_ms", bench_percentile(all, 0.99), 2);
    bench_number("floor_ms", bench_median(floor_ms), 2);
    bench_number("p50_over_floor", bench_percentile(all, 0.5) / bench_median(floor_ms), 2);
    bench_end();
    bench_progress("    %s: %.0f/s, p50 %.2f ms, p99 %.2f ms\n", load, per_s, bench_percentile(all, 0.5),
                   bench_percentile(all, 0.99));
    bench_drop(all);
    bench_drop(&s->latency_ms[1]);
}

/* Paced: at a quarter of the floor's rate. Otherwise one enqueue after the other. */
static void steady_with(bench_floor *floor, steady_state *s, bool paced)
{
    steady_part parts[3] = {{s, 0}, {s, 0}, {s, 1}};
    void *contexts[3] = {&parts[0], &parts[1], &parts[2]};
    bench_figures floor_ms = {0}, per_s = {0};
    double seconds = bench_pick(3, 1);
    for (int round = 0; round < bench_rounds(4, 1); round++) {
        double median_ms = steady_floor_ms(floor, &floor_ms);
        s->interval_s = paced ? median_ms / 1000 * 4 : 0;
        s->stop = false;
        bench_clients(3, seconds, steady_body, contexts);
        bench_add(&per_s, (double)(s->latency_ms[0].count + s->latency_ms[1].count) / (seconds * (round + 1)));
    }
    steady_line(s, paced ? "paced" : "flat out", bench_median(&per_s), &floor_ms);
    bench_drop(&floor_ms);
    bench_drop(&per_s);
}

static void steady(void)
{
    bench_floor floor;
    steady_state s = {0};
    bench_floor_open(&floor, bench_dsn);
    s.producer = bench_make("steady");
    for (int i = 0; i < 2; i++)
        s.consumers[i] = bench_open("steady");
    steady_with(&floor, &s, true);
    steady_with(&floor, &s, false);
    for (int i = 0; i < 2; i++)
        pgqrs_close(s.consumers[i]);
    pgqrs_close(s.producer);
    bench_remove("steady");
    bench_floor_close(&floor);
}

/* --- waking up */

static void wakeup_produce(int count)
{
    pgqrs_store *store = bench_open("wakeup");
    char payload[128];
    for (int i = 0; i < count; i++) {
        bench_sleep_until(bench_seconds() + 0.015 + 0.0001 * (i % 50)); /* long enough for the consumer to be asleep */
        stamp(payload, sizeof payload, bench_seconds());
        bench_check(store, pgqrs_enqueue(store, "bench", payload, NULL, NULL));
    }
    pgqrs_close(store);
}

static void *wakeup_thread(void *count)
{
    wakeup_produce(*(int *)count);
    return NULL;
}

/* From the start of the enqueue, its commit included, until the message is in the hands of a consumer that slept. */
static void wakeup_consume(int count, bench_figures *ms)
{
    pgqrs_store *store = bench_open("wakeup");
    pgqrs_dequeue_desc desc = {.wait_ms = 10000};
    for (int i = 0; i < count; i++) {
        pgqrs_message *message = NULL;
        bench_check(store, pgqrs_dequeue(store, "bench", &desc, &message));
        double now = bench_seconds();
        if (!message) bench_die("wakeup", "nothing came");
        bench_add(ms, (now - stamped(message)) * 1000);
        bench_check(store, pgqrs_archive(store, message));
        pgqrs_free(message);
    }
    pgqrs_close(store);
}

static void wakeup_line(const char *producer, bench_figures *ms, bench_figures *floor_ms)
{
    bench_begin("wakeup", bench_backend());
    bench_text("producer", producer);
    bench_number("p50_ms", bench_percentile(ms, 0.5), 3);
    bench_number("p99_ms", bench_percentile(ms, 0.99), 3);
    bench_number("floor_ms", bench_median(floor_ms), 3);
    bench_number("p50_over_floor", bench_median(ms) / bench_median(floor_ms), 2);
    bench_end();
    bench_progress("    %s: p50 %.3f ms, p99 %.3f ms\n", producer, bench_percentile(ms, 0.5),
                   bench_percentile(ms, 0.99));
    bench_drop(ms);
    bench_drop(floor_ms);
}

static void wakeup_floor(bench_figures *floor_ms)
{
    bench_floor floor;
    bench_floor_open(&floor, bench_dsn);
    steady_floor_ms(&floor, floor_ms);
    bench_floor_close(&floor);
}

static void wakeup_here(int count, bench_figures *ms)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, wakeup_thread, &count)) bench_die("wakeup", "no more threads");
    wakeup_consume(count, ms);
    pthread_join(thread, NULL);
}

/* The other process begins before any store is open here: SQLite's locks do not survive a fork. */
static void wakeup_there(int count, bench_figures *ms)
{
    pid_t child = fork();
    if (child == 0) {
        wakeup_produce(count);
        _exit(0);
    }
    wakeup_consume(count, ms);
    waitpid(child, NULL, 0);
}

static void wakeup(void)
{
    int count = bench_pick(150, 40);
    bench_figures here = {0}, there = {0}, floor_here = {0}, floor_there = {0};
    pgqrs_close(bench_make("wakeup"));
    for (int round = 0; round < bench_rounds(3, 1); round++) {
        wakeup_floor(&floor_here);
        wakeup_here(count, &here);
        wakeup_floor(&floor_there);
        wakeup_there(count, &there);
    }
    wakeup_line("same process", &here, &floor_here);
    wakeup_line("another process", &there, &floor_there);
    bench_remove("wakeup");
}

/* --- an idle worker */

/* Nanoseconds that a process was on a processor; 0 where the kernel does not tell. */
static double process_cpu_ns(int pid)
{
    char path[64];
    double ns = 0;
    snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%lf", &ns) != 1) ns = 0;
    fclose(file);
    return ns;
}

static int parent_of(int pid)
{
    char path[64], text[512];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t size = fread(text, 1, sizeof text - 1, file);
    text[size] = '\0';
    const char *after_name = strrchr(text, ')');
    if (!after_name || sscanf(after_name + 1, " %*c %d", &parent) != 1) parent = 0;
    fclose(file);
    return parent;
}

/* All processes of the private server together, or -1 when it is somebody else's server. */
static double server_cpu_ns(void)
{
    const char *data = getenv("PGQRS_TEST_POSTGRES_DATA");
    char path[4200];
    int postmaster = 0;
    double ns = 0;
    struct dirent *entry;
    if (!data || !bench_postgres()) return -1;
    snprintf(path, sizeof path, "%s/postmaster.pid", data);
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    if (fscanf(file, "%d", &postmaster) != 1) postmaster = 0;
    fclose(file);
    DIR *processes = postmaster > 0 ? opendir("/proc") : NULL;
    if (!processes) return -1;
    while ((entry = readdir(processes))) {
        int pid = atoi(entry->d_name);
        if (pid > 0 && parent_of(pid) == postmaster) ns += process_cpu_ns(pid);
    }
    closedir(processes);
    return ns;
}

static double own_cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static pgqrs_result nothing(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    return PGQRS_OK;
}

/* The server without any worker is measured first: what it does by itself is not the worker's. */
static void idle(void)
{
    double seconds = bench_pick(15, 3);
    pgqrs_store *store = bench_make("idle");
    pgqrs_worker *worker = pgqrs_worker_open(store, "bench", nothing, NULL, NULL, NULL);
    if (!worker) bench_die("worker", pgqrs_last_error(store)->message);
    bench_check(store, pgqrs_worker_poll(worker, 0, NULL));
    double server_before = server_cpu_ns();
    bench_sleep_until(bench_seconds() + seconds);
    double server_alone = server_cpu_ns() - server_before, cpu = own_cpu_s();
    int64_t statements = bench_statements, round_trips = bench_round_trips;
    server_before = server_cpu_ns();
    for (double until = bench_seconds() + seconds, left; (left = until - bench_seconds()) > 0;)
        bench_check(store, pgqrs_worker_poll(worker, (int64_t)(left * 1000) + 1, NULL));
    double server = server_cpu_ns() - server_before - server_alone;
    bench_begin("idle", bench_backend());
    bench_number("statements_per_s", (double)(bench_statements - statements) / seconds, 2);
    if (bench_postgres()) bench_number("round_trips_per_s", (double)(bench_round_trips - round_trips) / seconds, 2);
    bench_number("cpu_ms_per_s", (own_cpu_s() - cpu) * 1000 / seconds, 3);
    if (server_cpu_ns() > 0) bench_number("server_cpu_ms_per_s", server / 1e6 / seconds, 3);
    bench_end();
    bench_check(store, pgqrs_worker_close(worker));
    pgqrs_close(store);
    bench_remove("idle");
}

int main(int argc, char **argv)
{
    static const bench_table tables[] = {
        {"steady", BENCH_BOTH, steady},
        {"wakeup", BENCH_BOTH, wakeup},
        {"idle", BENCH_BOTH, idle},
    };
    return bench_main(argc, argv, tables, sizeof tables / sizeof *tables);
}
