/*
 * The floor: the cheapest durable statement, a one-row prepared INSERT per commit, with the payload that the candidate
 * stores, on connections of its own. Postgres as it is configured (synchronous_commit on); SQLite in WAL mode with
 * synchronous=FULL, in a file of its own beside the candidate's, one connection: writers of a file take turns anyway, and one
 * alone is the fastest.
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include "bench.h"

#define BENCH_FLOOR_CONNECTIONS 4

typedef struct bench_floor_connection {
    PGconn *connection;
    sqlite3 *db;
    sqlite3_stmt *insert;
    const char *payload;
} bench_floor_connection;

typedef struct bench_floor {
    bench_floor_connection connections[BENCH_FLOOR_CONNECTIONS];
    void *contexts[BENCH_FLOOR_CONNECTIONS];
    bool postgres;
    char *path; /* SQLite's file */
} bench_floor;

static inline void bench_sql(PGconn *connection, const char *sql)
{
    PGresult *r = PQexec(connection, sql);
    ExecStatusType status = PQresultStatus(r);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) bench_die("floor", PQerrorMessage(connection));
    PQclear(r);
}

static inline PGconn *bench_connect(const char *dsn)
{
    PGconn *connection = PQconnectdb(dsn);
    if (PQstatus(connection) != CONNECTION_OK) bench_die("floor", PQerrorMessage(connection));
    bench_sql(connection, "SET client_min_messages = warning");
    return connection;
}

static inline void bench_floor_open_postgres(bench_floor *f, const char *dsn)
{
    for (int i = 0; i < BENCH_FLOOR_CONNECTIONS; i++) {
        PGconn *connection = f->connections[i].connection = bench_connect(dsn);
        if (i == 0)
            bench_sql(connection, "DROP TABLE IF EXISTS pgqrs_bench_floor;"
                                  "CREATE TABLE pgqrs_bench_floor(id bigserial PRIMARY KEY, payload text NOT NULL)");
        PQclear(PQprepare(connection, "floor", "INSERT INTO pgqrs_bench_floor(payload) VALUES ($1)", 1, NULL));
    }
}

static inline void bench_floor_remove_file(const bench_floor *f)
{
    char name[4200];
    const char *const ends[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", f->path, ends[i]);
        unlink(name);
    }
}

static inline void bench_floor_open_sqlite(bench_floor *f, const char *path)
{
    bench_floor_connection *c = &f->connections[0];
    f->path = (char *)malloc(strlen(path) + sizeof "-floor");
    if (!f->path) bench_die("floor", "out of memory");
    sprintf(f->path, "%s-floor", path);
    bench_floor_remove_file(f);
    if (sqlite3_open(f->path, &c->db) != SQLITE_OK) bench_die("floor", sqlite3_errmsg(c->db));
    sqlite3_exec(c->db,
                 "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                 "CREATE TABLE floor(id INTEGER PRIMARY KEY, payload TEXT NOT NULL)",
                 NULL, NULL, NULL);
    if (sqlite3_prepare_v2(c->db, "INSERT INTO floor(payload) VALUES (?1)", -1, &c->insert, NULL) != SQLITE_OK)
        bench_die("floor", sqlite3_errmsg(c->db));
}

static inline void bench_floor_open(bench_floor *f, const char *dsn)
{
    memset(f, 0, sizeof *f);
    f->postgres = strncmp(dsn, "postgres", 8) == 0;
    if (f->postgres)
        bench_floor_open_postgres(f, dsn);
    else
        bench_floor_open_sqlite(f, strstr(dsn, "://") + 3);
    for (int i = 0; i < BENCH_FLOOR_CONNECTIONS; i++) {
        f->contexts[i] = &f->connections[i];
        f->connections[i].payload = bench_payload;
    }
}

static inline void bench_floor_close(bench_floor *f)
{
    if (f->postgres) {
        bench_sql(f->connections[0].connection, "DROP TABLE pgqrs_bench_floor");
        for (int i = 0; i < BENCH_FLOOR_CONNECTIONS; i++)
            PQfinish(f->connections[i].connection);
        return;
    }
    sqlite3_finalize(f->connections[0].insert);
    sqlite3_close(f->connections[0].db);
    bench_floor_remove_file(f);
    free(f->path);
}

static inline void bench_floor_commit(bench_floor_connection *c)
{
    if (c->connection) {
        const char *values[1] = {c->payload};
        PGresult *r = PQexecPrepared(c->connection, "floor", 1, values, NULL, NULL, 0);
        if (PQresultStatus(r) != PGRES_COMMAND_OK) bench_die("floor", PQerrorMessage(c->connection));
        PQclear(r);
        return;
    }
    sqlite3_bind_text(c->insert, 1, c->payload, -1, SQLITE_STATIC);
    if (sqlite3_step(c->insert) != SQLITE_DONE) bench_die("floor", sqlite3_errmsg(c->db));
    sqlite3_reset(c->insert);
}

static inline void bench_floor_body(bench_client *client)
{
    for (; bench_going(client); client->done++)
        bench_floor_commit((bench_floor_connection *)client->context);
}

/* Commits per second of so many clients. */
static inline double bench_floor_rate(bench_floor *f, int clients, double seconds)
{
    if (!f->postgres) clients = 1;
    if (clients > BENCH_FLOOR_CONNECTIONS) clients = BENCH_FLOOR_CONNECTIONS;
    return bench_clients(clients, bench_slice(seconds), bench_floor_body, f->contexts);
}

static inline void bench_floor_use(bench_floor *f, const char *payload)
{
    for (int i = 0; i < BENCH_FLOOR_CONNECTIONS; i++)
        f->connections[i].payload = payload;
}

/* One round: the floor before and after the candidate, whose rate is what `measure` returns. */
#define BENCH_ROUND(series, f, clients, seconds, measure)                                                              \
    do {                                                                                                               \
        double before_ = bench_floor_rate(f, clients, seconds);                                                        \
        double rate_ = (measure);                                                                                      \
        bench_series_add(series, (before_ + bench_floor_rate(f, clients, seconds)) / 2, rate_);                        \
    } while (0)

#endif
