/* Handlers on four threads. They are written for one message at a time, as always: the calling thread takes messages for
 * all of them, stores what they finished in groups, and keeps the leases alive. When it is told to stop, what runs may
 * finish, for ten seconds at most; what was not begun goes back to the queue.
 *
 *     cc threads.c -lsqlite3 -pthread && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#define PGQRS_THREADS
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>

enum { JOBS = 200, MOST = 120 };

static pgqrs_store *store;

/* What handlers share, they protect. */
static struct {
    pthread_mutex_t mutex;
    int handled;
    long sum;
} totals = {PTHREAD_MUTEX_INITIALIZER, 0, 0};

/* Runs on any of the threads. It must not use `store` except through pgqrs_message_...; a long one asks now and then
 * whether pgqrs_message_wanted. */
static pgqrs_result add_up(const pgqrs_message *message, void *user)
{
    (void)user;
    pthread_mutex_lock(&totals.mutex);
    totals.sum += atol(message->payload);
    if (++totals.handled == MOST)
        pgqrs_stop(store); /* safe from everywhere: this might be the handler of SIGTERM, too */
    pthread_mutex_unlock(&totals.mutex);
    return PGQRS_OK;
}

static int64_t count(pgqrs_state state)
{
    pgqrs_message_filter filter = {.queue = "numbers", .state = state};
    int64_t found = -1;
    pgqrs_message_count(store, &filter, &found);
    return found;
}

int main(void)
{
    pgqrs_error err;
    store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    pgqrs_install(store);
    pgqrs_queue_create(store, "numbers", NULL);
    for (int i = 1; i <= JOBS; i++) {
        char payload[16];
        snprintf(payload, sizeof payload, "%d", i);
        if (pgqrs_enqueue(store, "numbers", payload, NULL, NULL) != PGQRS_OK) {
            fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
            return 1;
        }
    }

    /* Without until_empty it would work for ever; it ends because a handler calls pgqrs_stop. PGQRS_ERR_TIMEOUT would mean
     * that a handler did not return within stop_ms. */
    pgqrs_work_desc four = {.threads = 4, .stop_ms = 10000};
    pgqrs_result result = pgqrs_work(store, "numbers", add_up, NULL, &four);
    printf("told to stop: %s\n", pgqrs_result_name(result));
    printf("every number is handled or ready: %s\n",
           count(PGQRS_ARCHIVED) == totals.handled && count(PGQRS_READY) == JOBS - totals.handled ? "yes" : "no");

    /* The rest. */
    result = pgqrs_work(store, "numbers", add_up, NULL, &(pgqrs_work_desc){.threads = 4, .until_empty = true});
    printf("all handled: %s, %d of %d, sum %ld\n", pgqrs_result_name(result), totals.handled, JOBS, totals.sum);
    pgqrs_close(store);
    return result == PGQRS_OK ? 0 : 1;
}
