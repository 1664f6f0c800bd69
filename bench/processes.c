/*
 * Processes side by side on one database: how much they get done together, and how long the unluckiest one waited.
 * Each process enqueues a message, takes one and archives it, over and over.
 *
 * Tables: processes
 */
#include "bench.h"
#include "bench_floor.h"
#include "bench_store.h"
#include <sys/wait.h>

#define PROCESSES_MAX 4

typedef struct report {
    int64_t messages;
    double seconds, worst_s;
} report;

static double timed(double since, double *worst)
{
    double now = bench_seconds();
    if (now - since > *worst) *worst = now - since;
    return now;
}

static report cycle(double seconds)
{
    report r = {0, 0, 0};
    pgqrs_store *store = bench_open("processes");
    double begun = bench_seconds(), at = begun;
    for (; at < begun + seconds; r.messages++) {
        pgqrs_message *message = NULL;
        bench_check(store, pgqrs_enqueue(store, "bench", bench_payload, NULL, NULL));
        at = timed(at, &r.worst_s);
        bench_check(store, pgqrs_dequeue(store, "bench", NULL, &message));
        at = timed(at, &r.worst_s);
        if (message) bench_check(store, pgqrs_archive(store, message));
        at = timed(at, &r.worst_s);
        pgqrs_free(message);
    }
    r.seconds = at - begun;
    pgqrs_close(store);
    return r;
}

/* No store is open here while there are children: SQLite's locks do not survive a fork. A child writes its report into the pipe
 * when it is done. */
static double run_processes(int count, double seconds, double *worst_s)
{
    int ends[2];
    double per_s = 0;
    if (pipe(ends)) bench_die("processes", "no pipe");
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) bench_die("processes", "no more processes");
        if (child > 0) continue;
        report r = cycle(seconds);
        _exit(write(ends[1], &r, sizeof r) == (ssize_t)sizeof r ? 0 : 1);
    }
    close(ends[1]);
    for (int i = 0; i < count; i++) {
        report r;
        if (read(ends[0], &r, sizeof r) != (ssize_t)sizeof r) bench_die("processes", "a process broke off");
        per_s += (double)r.messages / r.seconds;
        if (r.worst_s > *worst_s) *worst_s = r.worst_s;
    }
    close(ends[0]);
    while (wait(NULL) > 0) {
    }
    return per_s;
}

static double floor_rate(int clients, double seconds)
{
    bench_floor floor;
    bench_floor_open(&floor, bench_dsn);
    bench_floor_rate(&floor, clients, 0.1);
    double rate = bench_floor_rate(&floor, clients, seconds);
    bench_floor_close(&floor);
    return rate;
}

/* One process is measured in every round too: what four get done is compared with that. */
static void processes(void)
{
    static const int counts[] = {1, 2, 4};
    bench_series series[3];
    bench_figures worst_ms[3], of_one[3];
    memset(series, 0, sizeof series);
    memset(worst_ms, 0, sizeof worst_ms);
    memset(of_one, 0, sizeof of_one);
    pgqrs_close(bench_make("processes"));
    for (int round = 0; round < bench_rounds(5, 1); round++) {
        double one = 0;
        for (int i = 0; i < 3; i++) {
            double worst = 0, before = floor_rate(counts[i], 0.4);
            double rate = run_processes(counts[i], bench_slice(1.5), &worst);
            if (i == 0) one = rate;
            bench_series_add(&series[i], (before + floor_rate(counts[i], 0.4)) / 2, rate);
            bench_add(&worst_ms[i], worst * 1000);
            bench_add(&of_one[i], rate / one);
        }
    }
    for (int i = 0; i < 3; i++) {
        bench_begin("processes", bench_backend());
        bench_number("processes", counts[i], 0);
        bench_number("of_one_process", bench_median(&of_one[i]), 2);
        bench_number("median_worst_wait_ms", bench_median(&worst_ms[i]), 1);
        bench_number("worst_wait_ms", bench_percentile(&worst_ms[i], 1), 1);
        bench_end_series(&series[i]);
        bench_drop(&worst_ms[i]);
        bench_drop(&of_one[i]);
    }
    bench_remove("processes");
}

int main(int argc, char **argv)
{
    static const bench_table tables[] = {{"processes", BENCH_BOTH, processes}};
    return bench_main(argc, argv, tables, sizeof tables / sizeof *tables);
}
