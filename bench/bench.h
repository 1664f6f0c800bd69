/*
 * What every benchmark needs: times, medians, JSON lines, clients in threads, and counters of what goes to the database.
 *
 * It includes the library itself, after putting counting functions in the place of the calls that send something, so that
 * statements and round trips are counted in the client and nothing about them is guessed.
 *
 * A program is a list of tables, each with a name and the backends it makes sense on, and is run once per backend:
 *
 *   PROGRAM DSN
 *
 *   PGQRS_BENCH_ONLY     names of tables, with commas; the others are left out
 *   PGQRS_BENCH_QUICK    1: shorter, for looking whether it works; its figures are rough
 *   PGQRS_BENCH_ROUNDS   how often floor and candidate take turns
 */
#ifndef BENCH_H
#define BENCH_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <inttypes.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t bench_statements, bench_round_trips, bench_commits; /* commits: of SQLite */

/* Several threads count at once. */
static inline void bench_count(int64_t *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static inline PGresult *bench_exec(PGconn *connection, const char *sql)
{
    bench_count(&bench_statements);
    bench_count(&bench_round_trips);
    return PQexec(connection, sql);
}

static inline PGresult *bench_exec_params(PGconn *connection, const char *sql, int count, const Oid *types,
                                          const char *const *values, const int *lengths, const int *formats, int format)
{
    bench_count(&bench_statements);
    bench_count(&bench_round_trips);
    return PQexecParams(connection, sql, count, types, values, lengths, formats, format);
}

static inline PGresult *bench_exec_prepared(PGconn *connection, const char *name, int count, const char *const *values,
                                            const int *lengths, const int *formats, int format)
{
    bench_count(&bench_statements);
    bench_count(&bench_round_trips);
    return PQexecPrepared(connection, name, count, values, lengths, formats, format);
}

static inline int bench_send_params(PGconn *connection, const char *sql, int count, const Oid *types,
                                    const char *const *values, const int *lengths, const int *formats, int format)
{
    bench_count(&bench_statements);
    return PQsendQueryParams(connection, sql, count, types, values, lengths, formats, format);
}

static inline int bench_send_prepared(PGconn *connection, const char *name, int count, const char *const *values,
                                      const int *lengths, const int *formats, int format)
{
    bench_count(&bench_statements);
    return PQsendQueryPrepared(connection, name, count, values, lengths, formats, format);
}

static inline int bench_sync(PGconn *connection)
{
    bench_count(&bench_round_trips);
    return PQpipelineSync(connection);
}

#define PQexec bench_exec
#define PQexecParams bench_exec_params
#define PQexecPrepared bench_exec_prepared
#define PQsendQueryParams bench_send_params
#define PQsendQueryPrepared bench_send_prepared
#define PQpipelineSync bench_sync

/* SQLite's statements are counted by how often one starts: the first step after a reset. */
static inline int bench_step(sqlite3_stmt *statement)
{
    if (!sqlite3_stmt_busy(statement)) {
        bench_count(&bench_statements);
        if (strncmp(sqlite3_sql(statement), "COMMIT", 6) == 0) bench_count(&bench_commits);
    }
    return sqlite3_step(statement);
}

#define sqlite3_step bench_step

#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include "pgqrs_sqlite.h"

/* About a hundred bytes, as real payloads of jobs are. */
static const char bench_payload[] =
    "{\"path\":\"/tmp/report.csv\",\"owner\":\"ada\",\"size\":123456,\"tags\":[\"a\",\"b\",\"c\"],\"note\":\"none at "
    "all\"}";

static inline void bench_die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* Progress goes to stderr, results to stdout. */
__attribute__((format(printf, 1, 2))) static inline void bench_progress(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fflush(stderr);
}

/* --- time */

static inline double bench_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void bench_sleep_until(double at)
{
    double left = at - bench_seconds();
    if (left <= 0) return;
    struct timespec t = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
    nanosleep(&t, NULL);
}

/* --- statistics */

/* A list of figures that grows. */
typedef struct bench_figures {
    double *items;
    size_t count, room;
} bench_figures;

static inline void bench_add(bench_figures *f, double value)
{
    if (f->count == f->room) {
        f->room = f->room ? f->room * 2 : 1024;
        f->items = (double *)realloc(f->items, f->room * sizeof *f->items);
        if (!f->items) bench_die("bench", "out of memory");
    }
    f->items[f->count++] = value;
}

static inline void bench_drop(bench_figures *f)
{
    free(f->items);
    memset(f, 0, sizeof *f);
}

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts the figures; p between 0 and 1. */
static inline double bench_percentile(bench_figures *f, double p)
{
    if (f->count == 0) return 0;
    qsort(f->items, f->count, sizeof *f->items, bench_compare);
    return f->items[(size_t)(p * (double)(f->count - 1) + 0.5)];
}

static inline double bench_median(bench_figures *f)
{
    return bench_percentile(f, 0.5);
}

/* Rounds in which the floor and a candidate took turns. */
typedef struct bench_series {
    bench_figures floor, rate, ratio;
} bench_series;

static inline void bench_series_add(bench_series *s, double floor, double rate)
{
    bench_add(&s->floor, floor);
    bench_add(&s->rate, rate);
    bench_add(&s->ratio, rate / floor);
}

static inline void bench_series_drop(bench_series *s)
{
    bench_drop(&s->floor);
    bench_drop(&s->rate);
    bench_drop(&s->ratio);
}

/* --- JSON lines: one flat object each, "bench" and "backend" first */

static bool bench_line_begun;

static inline void bench_text(const char *name, const char *value)
{
    printf("%s\"%s\":\"%s\"", bench_line_begun ? "," : "{", name, value);
    bench_line_begun = true;
}

static inline void bench_number(const char *name, double value, int decimals)
{
    printf("%s\"%s\":%.*f", bench_line_begun ? "," : "{", name, decimals, value);
    bench_line_begun = true;
}

static inline void bench_begin(const char *bench, const char *backend)
{
    bench_text("bench", bench);
    bench_text("backend", backend);
}

static inline void bench_end(void)
{
    puts("}");
    fflush(stdout);
    bench_line_begun = false;
}

/* Medians, and the smallest and largest ratio of a round. */
static inline void bench_end_series(bench_series *s)
{
    bench_number("per_s", bench_median(&s->rate), 0);
    bench_number("floor_per_s", bench_median(&s->floor), 0);
    bench_number("of_floor", bench_median(&s->ratio), 3);
    bench_number("lowest", bench_percentile(&s->ratio, 0), 3);
    bench_number("highest", bench_percentile(&s->ratio, 1), 3);
    bench_end();
    bench_progress("    %.0f/s, floor %.0f/s, ratio %.2f (%.2f to %.2f)\n", bench_median(&s->rate),
                   bench_median(&s->floor), bench_median(&s->ratio), bench_percentile(&s->ratio, 0),
                   bench_percentile(&s->ratio, 1));
    bench_series_drop(s);
}

/* --- options */

static inline bool bench_quick(void)
{
    const char *quick = getenv("PGQRS_BENCH_QUICK");
    return quick && *quick && strcmp(quick, "0") != 0;
}

static inline int bench_pick(int full, int quick)
{
    return bench_quick() ? quick : full;
}

static inline int bench_rounds(int full, int quick)
{
    const char *rounds = getenv("PGQRS_BENCH_ROUNDS");
    return rounds && atoi(rounds) > 0 ? atoi(rounds) : bench_pick(full, quick);
}

/* How long a turn lasts. */
static inline double bench_slice(double seconds)
{
    return bench_quick() ? seconds / 3 : seconds;
}

static inline bool bench_wanted(const char *name)
{
    const char *only = getenv("PGQRS_BENCH_ONLY");
    if (!only || !*only) return true;
    size_t length = strlen(name);
    for (const char *at = only; (at = strstr(at, name)); at += length)
        if ((at == only || at[-1] == ',') && (at[length] == ',' || !at[length])) return true;
    return false;
}

/* --- clients: threads that do the same thing side by side */

typedef struct bench_client {
    void *context; /* what the body works with: its own store, its own connection */
    int number;
    double until; /* the body ends at this time, or when there is nothing left to do */
    int64_t done; /* how many it did */
    double ended;
    double worst_s; /* the longest it waited for one call */
    pthread_barrier_t *start;
    void (*body)(struct bench_client *client);
    double seconds;
} bench_client;

typedef void (*bench_body)(bench_client *client);

static inline bool bench_going(const bench_client *client)
{
    return bench_seconds() < client->until;
}

static inline void bench_waited(bench_client *client, double since)
{
    double s = bench_seconds() - since;
    if (s > client->worst_s) client->worst_s = s;
}

static inline void *bench_client_main(void *argument)
{
    bench_client *client = (bench_client *)argument;
    pthread_barrier_wait(client->start);
    client->until = bench_seconds() + client->seconds;
    client->body(client);
    client->ended = bench_seconds();
    return NULL;
}

#define BENCH_CLIENTS_MAX 64

/* Runs `count` bodies for some seconds, contexts[i] with the i-th, and gives what all of them did per second. */
static inline double bench_clients(int count, double seconds, bench_body body, void *const *contexts)
{
    pthread_t threads[BENCH_CLIENTS_MAX];
    bench_client clients[BENCH_CLIENTS_MAX];
    pthread_barrier_t start;
    memset(clients, 0, sizeof clients);
    pthread_barrier_init(&start, NULL, (unsigned)count + 1);
    for (int i = 0; i < count; i++) {
        clients[i].context = contexts[i];
        clients[i].number = i;
        clients[i].seconds = seconds;
        clients[i].body = body;
        clients[i].start = &start;
        if (pthread_create(&threads[i], NULL, bench_client_main, &clients[i])) bench_die("bench", "no more threads");
    }
    pthread_barrier_wait(&start);
    double begun = bench_seconds(), ended = begun;
    int64_t done = 0;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        done += clients[i].done;
        if (clients[i].ended > ended) ended = clients[i].ended;
    }
    pthread_barrier_destroy(&start);
    return (double)done / (ended - begun);
}

#endif
