/*
 * What every benchmark needs: times, medians, JSON lines, and counters of what goes over the wire.
 *
 * Include it before pgqrs.h with PGQRS_IMPLEMENTATION: it puts counting functions in the place of the libpq calls that send
 * something, so that statements and round trips are counted in the client and nothing about them is guessed.
 */
#ifndef BENCH_H
#define BENCH_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <inttypes.h>
#include <libpq-fe.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t bench_statements, bench_round_trips;

static inline PGresult *bench_exec(PGconn *connection, const char *sql)
{
    bench_statements++;
    bench_round_trips++;
    return PQexec(connection, sql);
}

static inline PGresult *bench_exec_params(PGconn *connection, const char *sql, int count, const Oid *types,
                                          const char *const *values, const int *lengths, const int *formats, int format)
{
    bench_statements++;
    bench_round_trips++;
    return PQexecParams(connection, sql, count, types, values, lengths, formats, format);
}

static inline PGresult *bench_exec_prepared(PGconn *connection, const char *name, int count, const char *const *values,
                                            const int *lengths, const int *formats, int format)
{
    bench_statements++;
    bench_round_trips++;
    return PQexecPrepared(connection, name, count, values, lengths, formats, format);
}

static inline int bench_send_params(PGconn *connection, const char *sql, int count, const Oid *types,
                                    const char *const *values, const int *lengths, const int *formats, int format)
{
    bench_statements++;
    return PQsendQueryParams(connection, sql, count, types, values, lengths, formats, format);
}

static inline int bench_send_prepared(PGconn *connection, const char *name, int count, const char *const *values,
                                      const int *lengths, const int *formats, int format)
{
    bench_statements++;
    return PQsendQueryPrepared(connection, name, count, values, lengths, formats, format);
}

static inline int bench_sync(PGconn *connection)
{
    bench_round_trips++;
    return PQpipelineSync(connection);
}

#define PQexec bench_exec
#define PQexecParams bench_exec_params
#define PQexecPrepared bench_exec_prepared
#define PQsendQueryParams bench_send_params
#define PQsendQueryPrepared bench_send_prepared
#define PQpipelineSync bench_sync

static inline double bench_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts the values; p between 0 and 1. */
static inline double bench_percentile(double *values, size_t count, double p)
{
    qsort(values, count, sizeof *values, bench_compare);
    size_t at = (size_t)(p * (double)(count - 1) + 0.5);
    return count ? values[at] : 0;
}

static inline double bench_median(double *values, size_t count)
{
    return bench_percentile(values, count, 0.5);
}

/* Progress goes to stderr, results to stdout. */
static inline void bench_progress(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fflush(stderr);
}

static inline void bench_die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

#endif
