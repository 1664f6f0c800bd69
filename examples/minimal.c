/* A durable job queue, complete. Everything else in this directory refines these lines.
 *
 *     cc minimal.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION /* in one source file of the program: the code itself, not only the declarations */
#include "pgqrs_sqlite.h"
#include <stdio.h>

static pgqrs_result send_email(const pgqrs_message *message, void *user)
{
    (void)user;
    printf("sending %s\n", message->payload);
    return PGQRS_OK; /* archived; any other result: retried later, dead-lettered in the end */
}

int main(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }

    pgqrs_install(store);                      /* makes the tables; harmless when they are there */
    pgqrs_queue_create(store, "emails", NULL); /* the same for the queue; NULL: default settings */
    if (pgqrs_enqueue(store, "emails", "{\"to\":\"ada@example.com\"}", NULL, NULL) != PGQRS_OK) {
        /* The one result never to ignore: only PGQRS_OK means that the message is safe. Had an earlier call failed,
         * this one would have too. */
        fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
        return 1;
    }
    pgqrs_work(store, "emails", send_email, NULL, &(pgqrs_work_desc){.until_empty = true});
    pgqrs_close(store);
    return 0;
}
