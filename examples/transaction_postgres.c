/* An order and its job in one transaction, on Postgres: there is never an order without its confirmation e-mail, nor an
 * e-mail about an order that was rolled back. The library uses the program's own connection, and keeps its tables in a
 * schema beside the program's. transaction_sqlite.c does the same on SQLite.
 *
 *     cc transaction_postgres.c -lpq && PGQRS_DSN=postgresql://user:password@host/database ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

static void sql(PGconn *db, const char *text)
{
    PGresult *result = PQexec(db, text);
    ExecStatusType status = PQresultStatus(result);
    PQclear(result);
    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
        return;
    fprintf(stderr, "%s", PQerrorMessage(db));
    exit(1);
}

static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static void print_counts(PGconn *db, pgqrs_store *store)
{
    int64_t jobs = 0;
    PGresult *orders = PQexec(db, "SELECT count(*) FROM orders");
    check(pgqrs_message_count(store, &(pgqrs_message_filter){.queue = "emails", .state = PGQRS_READY}, &jobs), store);
    printf("%s orders, %d jobs to do\n", PQgetvalue(orders, 0, 0), (int)jobs);
    PQclear(orders);
}

int main(void)
{
    const char *dsn = getenv("PGQRS_DSN");
    if (!dsn) {
        fprintf(stderr, "Set PGQRS_DSN to a Postgres database, as in postgresql://user:password@host/database\n");
        return 2;
    }
    /* The connection is the program's, and it is the program that closes it, after the store. */
    PGconn *db = PQconnectdb(dsn);
    if (PQstatus(db) != CONNECTION_OK) {
        fprintf(stderr, "%s", PQerrorMessage(db));
        return 1;
    }
    pgqrs_error err;
    pgqrs_store_desc settings = {.schema = "shop_jobs"}; /* so \dt shows the program's tables only */
    pgqrs_store *store = pgqrs_open_pgconn(db, &settings, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    sql(db, "CREATE TEMPORARY TABLE orders (id serial PRIMARY KEY, item text)");
    check(pgqrs_install(store), store);
    check(pgqrs_queue_create(store, "emails", NULL), store);

    printf("begin, insert the order, enqueue the job, commit:   ");
    sql(db, "BEGIN");
    sql(db, "INSERT INTO orders (item) VALUES ('a teapot')");
    check(pgqrs_enqueue(store, "emails", "{\"order\":\"a teapot\"}", NULL, NULL), store);
    sql(db, "COMMIT");
    print_counts(db, store);

    printf("begin, insert the order, enqueue the job, rollback: ");
    sql(db, "BEGIN");
    sql(db, "INSERT INTO orders (item) VALUES ('a cup')");
    check(pgqrs_enqueue(store, "emails", "{\"order\":\"a cup\"}", NULL, NULL), store);
    sql(db, "ROLLBACK");
    print_counts(db, store);

    /* An error of your own SQL spoils a Postgres transaction; a call that the library refuses does not. */
    printf("a refused job does not harm the transaction:        ");
    sql(db, "BEGIN");
    sql(db, "INSERT INTO orders (item) VALUES ('a spoon')");
    if (pgqrs_enqueue(store, "no such queue", "{}", NULL, NULL) != PGQRS_ERR_QUEUE_NOT_FOUND)
        return 1;
    check(pgqrs_enqueue(store, "emails", "{\"order\":\"a spoon\"}", NULL, NULL), store);
    sql(db, "COMMIT");
    print_counts(db, store);

    /* It works for the consumer as well: what the job does to the database and its end commit together, so it happens
     * exactly once whatever crashes. */
    printf("take a job, do it, archive it, in one transaction:  ");
    pgqrs_message *job;
    check(pgqrs_dequeue(store, "emails", NULL, &job), store); /* before the transaction: the lease must count at once */
    sql(db, "BEGIN");
    sql(db, "UPDATE orders SET item = item || ' (confirmed)' WHERE id = 1");
    check(pgqrs_archive(store, job), store); /* had the lease been lost, this would fail: roll back */
    sql(db, "COMMIT");
    print_counts(db, store);
    pgqrs_free(job);

    pgqrs_close(store);
    PQfinish(db);
    return 0;
}
