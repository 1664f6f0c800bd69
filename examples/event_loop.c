/* A program with an event loop of its own: one poll(2) waits for jobs and for what else the program does, here lines that
 * come through a pipe. Every line becomes a job, and the queue's worker runs between the lines, without a thread.
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

/* The worker's store is busy while a handler runs, so the rest of the program has one of its own. */
static pgqrs_store *open_store(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    if (pgqrs_install(store) != PGQRS_OK || pgqrs_queue_create(store, "jobs", NULL) != PGQRS_OK) {
        fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
        exit(1);
    }
    return store;
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
    int lines[2], done = 0, read_lines = 0;
    if (pipe(lines) != 0)
        return 1;
    pgqrs_store *producer = open_store(), *consumer = open_store();
    pgqrs_worker *worker = pgqrs_worker_open(consumer, "jobs", do_job, NULL, &done, NULL);
    if (!worker) {
        fprintf(stderr, "%s\n", pgqrs_last_error(consumer)->message);
        return 1;
    }
    somebody_writes(lines[1], "1");

    while (done < 3) {
        /* Both may change from round to round. A worker without a descriptor (-1, which poll ignores) goes by time alone,
         * and a worker with one still wants to be called when the time has come: for its heartbeat, for delayed jobs. */
        struct pollfd watched[2] = {
            {.fd = lines[0], .events = POLLIN},
            {.fd = pgqrs_worker_fd(worker), .events = POLLIN},
        };
        int64_t wait_ms = pgqrs_worker_next_ms(worker);
        int ready = poll(watched, 2, wait_ms > 60000 ? 60000 : (int)wait_ms);

        if (ready > 0 && watched[0].revents) {
            char line;
            if (read(lines[0], &line, 1) != 1)
                break;
            char payload[16];
            snprintf(payload, sizeof payload, "{\"line\":%c}", line);
            printf("line read:  %c\n", line);
            if (pgqrs_enqueue(producer, "jobs", payload, NULL, NULL) != PGQRS_OK)
                fprintf(stderr, "%s\n", pgqrs_last_error(producer)->message);
            read_lines++;
        }

        /* Never waits (timeout 0). Cheap to call when there is nothing to do, so no need to look at revents. */
        int done_before = done;
        if (pgqrs_worker_poll(worker, 0, NULL) != PGQRS_OK)
            fprintf(stderr, "%s\n", pgqrs_last_error(consumer)->message);
        if (done > done_before && read_lines < 3)
            somebody_writes(lines[1], read_lines == 1 ? "2" : "3");
    }

    pgqrs_worker_close(worker);
    pgqrs_close(consumer);
    pgqrs_close(producer);
    return done == 3 ? 0 : 1;
}
