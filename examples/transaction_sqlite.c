/* An order and its job in one transaction, on SQLite: there is never an order without its confirmation e-mail, nor
 * an e-mail about an order that was rolled back. The tables of the queue live beside the program's own, and the
 * library uses the program's connection. transaction_postgres.c does the same on Postgres.
 *
 *     cc transaction_sqlite.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

static void sql(sqlite3 *db, const char *text)
{
    if (sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK)
        return;
    fprintf(stderr, "%s\n", sqlite3_errmsg(db));
    exit(1);
}

static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static void print_counts(sqlite3 *db, pgqrs_store *store)
{
    sqlite3_stmt *statement;
    int64_t jobs = 0, orders = 0;
    if (sqlite3_prepare_v2(db, "SELECT count(*) FROM orders", -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        orders = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    check(pgqrs_message_count(store, &(pgqrs_message_filter){.queue = "emails", .state = PGQRS_READY}, &jobs), store);
    printf("%d orders, %d jobs to do\n", (int)orders, (int)jobs);
}

int main(void)
{
    /* The connection is the program's: its settings (journal mode, busy timeout) stay, and it is the program that
     * closes it, after the store. */
    sqlite3 *db;
    if (sqlite3_open("shop.db", &db) != SQLITE_OK) {
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
        return 1;
    }
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open_sqlite3(db, NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    sql(db, "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)");
    check(pgqrs_install(store), store);
    check(pgqrs_queue_create(store, "emails", NULL), store);

    printf("begin, insert the order, enqueue the job, commit:   ");
    sql(db, "BEGIN IMMEDIATE"); /* not plain BEGIN: another process could slip in before the first write */
    sql(db, "INSERT INTO orders (item) VALUES ('a teapot')");
    check(pgqrs_enqueue(store, "emails", "{\"order\":\"a teapot\"}", NULL, NULL), store);
    sql(db, "COMMIT");
    print_counts(db, store);

    printf("begin, insert the order, enqueue the job, rollback: ");
    sql(db, "BEGIN IMMEDIATE");
    sql(db, "INSERT INTO orders (item) VALUES ('a cup')");
    check(pgqrs_enqueue(store, "emails", "{\"order\":\"a cup\"}", NULL, NULL), store);
    sql(db, "ROLLBACK");
    print_counts(db, store);

    /* A call that fails leaves nothing behind, and the transaction goes on as if it had not been made. */
    printf("a refused job does not harm the transaction:        ");
    sql(db, "BEGIN IMMEDIATE");
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
    sql(db, "BEGIN IMMEDIATE");
    sql(db, "UPDATE orders SET item = item || ' (confirmed)' WHERE id = 1");
    check(pgqrs_archive(store, job), store); /* had the lease been lost, this would fail: roll back */
    sql(db, "COMMIT");
    print_counts(db, store);
    pgqrs_free(job);

    pgqrs_close(store);
    sqlite3_close(db);
    return 0;
}
