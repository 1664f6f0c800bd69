/*
 * Stores to measure on. Every table works in places of its own: schemas pgqrs_bench_… on Postgres, files beside the DSN's on
 * SQLite. A place is made anew before it is used and is gone afterwards, so nothing of the user's is touched.
 */
#ifndef BENCH_STORE_H
#define BENCH_STORE_H

#include "bench.h"
#include "bench_floor.h"

static const char *bench_dsn;

static inline bool bench_postgres(void)
{
    return strncmp(bench_dsn, "postgres", 8) == 0;
}

static inline bool bench_s3(void)
{
    return strncmp(bench_dsn, "s3://", 5) == 0;
}

static inline const char *bench_backend(void)
{
    return bench_postgres() ? "postgres" : bench_s3() ? "s3" : "sqlite";
}

static inline void bench_check(pgqrs_store *store, pgqrs_result result)
{
    if (result) bench_die(pgqrs_result_name(result), pgqrs_last_error(store)->message);
}

static inline pgqrs_store *bench_open_with(const char *place, pgqrs_store_desc desc)
{
    char dsn[4096], schema[64];
    pgqrs_error err;
    snprintf(schema, sizeof schema, "pgqrs_bench_%s", place);
    snprintf(dsn, sizeof dsn, "%s%s%s", bench_dsn, bench_postgres() ? "" : "-", bench_postgres() ? "" : place);
    desc.schema = schema;
    pgqrs_store *store = pgqrs_open(dsn, &desc, &err);
    if (!store) bench_die("open", err.message);
    return store;
}

static inline pgqrs_store *bench_open(const char *place)
{
    pgqrs_store_desc desc = {0};
    return bench_open_with(place, desc);
}

static inline void bench_remove(const char *place)
{
    char text[4200];
    if (bench_postgres()) {
        PGconn *connection = bench_connect(bench_dsn);
        snprintf(text, sizeof text, "DROP SCHEMA IF EXISTS pgqrs_bench_%s CASCADE", place);
        bench_sql(connection, text);
        PQfinish(connection);
        return;
    }
    static const char *const ends[] = {"", "-wal", "-shm", "-qlock"};
    for (int i = 0; i < 4; i++) {
        snprintf(text, sizeof text, "%s-%s%s", strstr(bench_dsn, "://") + 3, place, ends[i]);
        unlink(text);
    }
}

/* A new place with a queue "bench" in it, and a store on it. */
static inline pgqrs_store *bench_make(const char *place)
{
    bench_remove(place);
    pgqrs_store *store = bench_open(place);
    bench_check(store, pgqrs_install(store));
    bench_check(store, pgqrs_queue_create(store, "bench", NULL));
    return store;
}

static inline int64_t bench_ready(pgqrs_store *store)
{
    int64_t count = 0;
    pgqrs_message_filter filter = {0};
    filter.queue = "bench";
    filter.state = PGQRS_READY;
    bench_check(store, pgqrs_message_count(store, &filter, &count));
    return count;
}

static inline void bench_enqueue(pgqrs_store *store, const char *queue, int64_t count, const char *payload)
{
    pgqrs_enqueue_item items[1000];
    memset(items, 0, sizeof items);
    for (int i = 0; i < 1000; i++)
        items[i].payload = payload;
    for (int64_t n; count > 0; count -= n) {
        n = count < 1000 ? count : 1000;
        bench_check(store, pgqrs_enqueue_many(store, queue, items, (size_t)n, NULL));
    }
}

/* --- a backlog of messages that were enqueued one by one, each with a row of its own where the backend has such rows. Many of
 * them share a transaction of the caller's, or filling would take longer than what is measured. */

typedef struct bench_filler {
    const char *place;
    int64_t count;
} bench_filler;

static inline void bench_fill_postgres(bench_client *client)
{
    const bench_filler *filler = (const bench_filler *)client->context;
    char schema[64];
    pgqrs_error err;
    pgqrs_store_desc desc = {0};
    PGconn *connection = bench_connect(bench_dsn);
    snprintf(schema, sizeof schema, "pgqrs_bench_%s", filler->place);
    desc.schema = schema;
    pgqrs_store *store = pgqrs_open_pgconn(connection, &desc, &err);
    if (!store) bench_die("fill", err.message);
    for (int64_t i = 0; i < filler->count; i++) {
        if (i % 500 == 0) bench_sql(connection, "BEGIN");
        bench_check(store, pgqrs_enqueue(store, "bench", bench_payload, NULL, NULL));
        if (i % 500 == 499 || i == filler->count - 1) bench_sql(connection, "COMMIT");
    }
    pgqrs_close(store);
    PQfinish(connection);
}

static inline void bench_fill(pgqrs_store *store, const char *place, int64_t count)
{
    bench_filler filler = {place, (count + 3) / 4};
    void *contexts[4] = {&filler, &filler, &filler, &filler};
    if (count <= 0) return;
    if (bench_postgres())
        bench_clients(4, 0, bench_fill_postgres, contexts);
    else
        bench_enqueue(store, "bench", count, bench_payload);
}

static inline void bench_fill_up_to(pgqrs_store *store, const char *place, int64_t count)
{
    bench_fill(store, place, count - bench_ready(store));
}

/* --- consumers */

/* A store, and how many messages it takes at once. */
typedef struct bench_consumer {
    pgqrs_store *store;
    const char *queue;
    size_t batch;
} bench_consumer;

/* Archives what it has and takes the next in one call, until the time is over or nothing is left. */
static inline void bench_consume(bench_client *client)
{
    const bench_consumer *consumer = (const bench_consumer *)client->context;
    pgqrs_store *store = consumer->store;
    pgqrs_settlement verdicts[1000];
    pgqrs_messages *batch = NULL, *next;
    pgqrs_dequeue_desc desc = {0};
    desc.limit = consumer->batch;
    bench_check(store, pgqrs_dequeue_many(store, consumer->queue, &desc, &batch));
    while (batch && batch->count > 0) {
        bool more = bench_going(client);
        next = NULL;
        for (size_t i = 0; i < batch->count; i++)
            verdicts[i] = pgqrs_settlement_for(&batch->items[i], PGQRS_ARCHIVE);
        double since = bench_seconds();
        bench_check(store, pgqrs_settle(store, verdicts, batch->count, more ? consumer->queue : NULL,
                                        more ? &desc : NULL, more ? &next : NULL));
        bench_waited(client, since);
        client->done += (int64_t)batch->count;
        pgqrs_free(batch);
        batch = next;
    }
    pgqrs_free(batch);
}

/* --- what the database writes */

typedef struct bench_traffic {
    double commits, wal_bytes, statements, round_trips;
} bench_traffic;

/* This question is a statement as well; it is not to be counted. */
static inline void bench_traffic_ask(PGconn *connection, bench_traffic *t)
{
    int64_t statements = bench_statements, round_trips = bench_round_trips;
    PGresult *r = PQexec(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text,"
                                     " (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text");
    if (PQresultStatus(r) != PGRES_TUPLES_OK) bench_die("traffic", PQerrorMessage(connection));
    t->commits = atof(PQgetvalue(r, 0, 0));
    t->wal_bytes = atof(PQgetvalue(r, 0, 1));
    PQclear(r);
    bench_statements = statements;
    bench_round_trips = round_trips;
}

/* What was counted so far. On Postgres by the server: transactions that wrote something, bytes of log; on SQLite commits alone. */
static inline bench_traffic bench_traffic_now(PGconn *connection)
{
    bench_traffic t = {(double)bench_commits, 0, 0, 0};
    if (connection) bench_traffic_ask(connection, &t);
    t.statements = (double)bench_statements;
    t.round_trips = (double)bench_round_trips;
    return t;
}
/* Since `before`, divided by `count`. */
static inline bench_traffic bench_traffic_per(bench_traffic before, PGconn *connection, double count)
{
    bench_traffic now = bench_traffic_now(connection);
    now.commits = (now.commits - before.commits) / count;
    now.wal_bytes = (now.wal_bytes - before.wal_bytes) / count;
    now.statements = (now.statements - before.statements) / count;
    now.round_trips = (now.round_trips - before.round_trips) / count;
    return now;
}

/* --- main */

#define BENCH_POSTGRES 1
#define BENCH_SQLITE 2
#define BENCH_BOTH 3
#define BENCH_S3 4 /* its stores are made in s3.c */

typedef struct bench_table {
    const char *name;
    int backends;
    void (*run)(void);
} bench_table;

static inline int bench_main(int argc, char **argv, const bench_table *tables, size_t count)
{
    if (argc != 2) bench_die("usage", "PROGRAM DSN");
    bench_dsn = argv[1];
    if (!strstr(bench_dsn, "://")) bench_die("usage", "the DSN is sqlite://FILE, postgresql://... or s3://BUCKET");
    int backend = bench_postgres() ? BENCH_POSTGRES : bench_s3() ? BENCH_S3 : BENCH_SQLITE;
    for (size_t i = 0; i < count; i++) {
        if (!(tables[i].backends & backend)) continue;
        if (!bench_wanted(tables[i].name)) continue;
        double begun = bench_seconds();
        bench_progress("%s: %s\n", bench_backend(), tables[i].name);
        tables[i].run();
        bench_progress("%s: %s took %.0f s\n", bench_backend(), tables[i].name, bench_seconds() - begun);
    }
    return 0;
}

#endif
