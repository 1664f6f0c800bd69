/* From a prototype on SQLite to a service on Postgres: the program stays, the DSN changes.
 *
 *     cc any_backend.c -lsqlite3 -lpq && ./a.out                       the prototype: a file
 *     PGQRS_DSN=postgresql://user:password@host/database ./a.out       the service
 *     PGQRS_DSN=postgresql://... ./a.out move sqlite://jobs.db         the day between: what is still to do moves over
 *
 * Other arguments: enqueue, work; without any it does both.
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"        /* Postgres */
#include "pgqrs_sqlite.h" /* SQLite; a program that includes both can open both, at the same time too */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(pgqrs_result result, const pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

/* The only place that knows of a database. */
static pgqrs_store *open_store(const char *dsn)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open(dsn, NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message); /* never shows the password */
        exit(1);
    }
    check(pgqrs_install(store), store);
    check(pgqrs_queue_create(store, "thumbnails", NULL), store);
    return store;
}

static pgqrs_result make_thumbnail(const pgqrs_message *message, void *user)
{
    (void)user;
    printf("thumbnail of %s, priority %d\n", message->payload, (int)message->priority);
    return PGQRS_OK;
}

/* Takes from the old store and puts into the new one. They cannot commit together, so the order matters: first in, then
 * out. After a crash in between the message is in both; its key stops the next run from storing it again, as long as it
 * is unfinished over there. Delayed messages move when their time has come: run it again. */
static void move_over(pgqrs_store *from, pgqrs_store *to)
{
    pgqrs_message *message = NULL;
    while (check(pgqrs_dequeue(from, "thumbnails", NULL, &message), from), message != NULL) {
        char key[64];
        snprintf(key, sizeof key, "moved-%lld", (long long)message->id);
        pgqrs_enqueue_desc same = {.priority = message->priority, .dedup_key = key};
        check(pgqrs_enqueue(to, "thumbnails", message->payload, &same, NULL), to);
        check(pgqrs_delete(from, message), from);
        printf("moved %s\n", message->payload);
        pgqrs_free(message);
    }
}

int main(int argc, char **argv)
{
    const char *dsn = getenv("PGQRS_DSN"), *task = argc > 1 ? argv[1] : "";
    pgqrs_store *store = open_store(dsn ? dsn : "sqlite://jobs.db");
    fprintf(stderr, "working on %s\n", pgqrs_store_backend(store));

    if (strcmp(task, "move") == 0 && argc == 3) {
        pgqrs_store *old = open_store(argv[2]);
        move_over(old, store);
        pgqrs_close(old);
    }
    if (strcmp(task, "enqueue") == 0 || argc == 1) {
        check(pgqrs_enqueue(store, "thumbnails", "\"cat.png\"", NULL, NULL), store);
        check(pgqrs_enqueue(store, "thumbnails", "\"dog.png\"", &(pgqrs_enqueue_desc){.priority = 1}, NULL), store);
    }
    if (strcmp(task, "work") == 0 || argc == 1) {
        pgqrs_work_desc until_empty = {.until_empty = true};
        check(pgqrs_work(store, "thumbnails", make_thumbnail, NULL, &until_empty), store);
    }
    pgqrs_close(store);
    return 0;
}
