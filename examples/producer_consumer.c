/* One producer process, three consumer processes, one queue between them: nothing is lost, nothing is done twice.
 * The processes share nothing but the name of the database: PGQRS_DSN when it is set, otherwise a file.
 *
 *     cc producer_consumer.c -lsqlite3 -lpq && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include "pgqrs_sqlite.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { JOBS = 300, CONSUMERS = 3 };

static pgqrs_store *store; /* where the signal handler finds it */

/* Every process makes a store of its own, after the fork: a database connection does not survive one. Whoever comes
 * first makes the tables and the queue; the others find them there. */
static void open_store(void)
{
    const char *dsn = getenv("PGQRS_DSN");
    pgqrs_error err;
    store = pgqrs_open(dsn ? dsn : "sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    if (pgqrs_install(store) != PGQRS_OK || pgqrs_queue_create(store, "jobs", NULL) != PGQRS_OK) {
        fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
        exit(1);
    }
}

/* pgqrs_stop is one of two functions that may be called here; the loop ends when the job in hand is settled. */
static void on_sigterm(int signal_number)
{
    (void)signal_number;
    pgqrs_stop(store);
}

/* The work: tell the parent which job it was. */
static pgqrs_result do_job(const pgqrs_message *message, void *user)
{
    const int *report = (const int *)user;
    int job;
    if (sscanf(message->payload, "{\"job\":%d}", &job) != 1)
        return pgqrs_message_reject(message, "not a job");
    return write(*report, &job, sizeof job) == (ssize_t)sizeof job ? PGQRS_OK : PGQRS_ERR_HANDLER;
}

static int consume(int report)
{
    open_store();
    signal(SIGTERM, on_sigterm);
    pgqrs_result result = pgqrs_work(store, "jobs", do_job, &report, NULL);
    if (result != PGQRS_OK)
        fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    return result == PGQRS_OK ? 0 : 1;
}

int main(void)
{
    int reports[2];
    pid_t consumers[CONSUMERS];
    if (pipe(reports) != 0)
        return 1;
    for (int i = 0; i < CONSUMERS; i++) {
        consumers[i] = fork();
        if (consumers[i] == 0)
            _exit(consume(reports[1]));
    }
    close(reports[1]);

    open_store();
    for (int job = 0; job < JOBS; job++) {
        char payload[32];
        snprintf(payload, sizeof payload, "{\"job\":%d}", job);
        if (pgqrs_enqueue(store, "jobs", payload, NULL, NULL) != PGQRS_OK) {
            fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
            return 1;
        }
    }
    printf("%d jobs enqueued\n", JOBS);

    /* Wait for as many reports as there are jobs, then send the consumers home and look for reports too many. */
    int times[JOBS] = {0}, job, reported = 0;
    while (reported < JOBS && read(reports[0], &job, sizeof job) == (ssize_t)sizeof job)
        times[job]++, reported++;
    for (int i = 0; i < CONSUMERS; i++)
        kill(consumers[i], SIGTERM);
    while (read(reports[0], &job, sizeof job) == (ssize_t)sizeof job)
        times[job]++;
    while (wait(NULL) > 0)
        continue;

    int lost = 0, twice = 0;
    for (job = 0; job < JOBS; job++) {
        lost += times[job] == 0;
        twice += times[job] > 1;
    }
    printf("%d lost, %d done twice\n", lost, twice);

    pgqrs_metrics *metrics = NULL;
    if (pgqrs_metrics_get(store, "jobs", &metrics) == PGQRS_OK)
        printf("the queue says: %d archived, %d unfinished, %d dead\n", (int)metrics->items[0].archived,
               (int)(metrics->items[0].total - metrics->items[0].archived - metrics->items[0].dead),
               (int)metrics->items[0].dead);
    pgqrs_free(metrics);
    pgqrs_close(store);
    return lost || twice;
}
