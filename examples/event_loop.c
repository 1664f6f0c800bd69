/* A program with an event loop of its own: one poll(2) waits for jobs and for what else the program does, here lines
 * that come through a pipe. The queue's worker runs between them, in slices, without a thread.
 *
 *     cc event_loop.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pgqrs_store *open_store(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return store;
}

static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static pgqrs_result do_job(const pgqrs_message *message, void *user)
{
    int *done = (int *)user;
    ++*done;
    printf("job done:   %s\n", message->payload);
    return PGQRS_OK;
}

/* Stands for whatever the program listens to: a socket, a terminal, another library. */
static void somebody_writes(int fd, const char *text)
{
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        exit(1);
}

int main(void)
{
    int lines[2], done = 0;
    if (pipe(lines) != 0)
        return 1;
    pgqrs_store *store = open_store();
    check(pgqrs_install(store), store);
    check(pgqrs_queue_create(store, "jobs", NULL), store);
    pgqrs_worker *worker = pgqrs_worker_open(store, "jobs", do_job, NULL, &done, NULL);
    if (!worker)
        check(pgqrs_last_error(store)->code, store);
    pgqrs_store *elsewhere = open_store(); /* stands for another process */

    somebody_writes(lines[1], "A");
    somebody_writes(lines[1], "B");
    while (done < 3) {
        /* Ask for both in every round, they change. The descriptor wakes us when somebody enqueues; where there is none
         * it is -1, which poll ignores. The time is for what nobody announces: delayed jobs, the worker's heartbeat. */
        struct pollfd watched[2] = {
            {.fd = lines[0], .events = POLLIN},
            {.fd = pgqrs_worker_fd(worker), .events = POLLIN},
        };
        int64_t wait_ms = pgqrs_worker_next_ms(worker);
        int ready = poll(watched, 2, wait_ms > 60000 ? 60000 : (int)wait_ms);

        if (ready > 0 && watched[0].revents) {
            char line, payload[16];
            if (read(lines[0], &line, 1) != 1)
                break;
            printf("line read:  %c\n", line);
            snprintf(payload, sizeof payload, "{\"line\":\"%c\"}", line);
            check(pgqrs_enqueue(store, "jobs", payload, NULL, NULL), store); /* between two slices the store is free */
        }

        /* One slice: at most one batch, and it does not wait (0). Cheap when there is nothing to do. */
        size_t handled = 0;
        check(pgqrs_worker_poll(worker, 0, &handled), store);
        if (handled > 0 && done == 2)
            check(pgqrs_enqueue(elsewhere, "jobs", "{\"from\":\"elsewhere\"}", NULL, NULL), elsewhere);
    }

    pgqrs_close(elsewhere);
    check(pgqrs_worker_close(worker), store);
    pgqrs_close(store);
    return 0;
}
