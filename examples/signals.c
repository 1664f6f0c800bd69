/* A worker that goes home when it is asked to: on SIGTERM (Ctrl-C too) the job in hand is finished, what was taken
 * but not started is given back to the others, and the program ends. Kill it with SIGKILL and nothing is lost
 * either: then the others get the jobs when the leases end.
 *
 *     cc signals.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

static pgqrs_store *store;

/* Sets a flag and wakes the loop; safe wherever a signal may strike. */
static void on_signal(int signal_number)
{
    (void)signal_number;
    pgqrs_stop(store);
}

/* While the second job is in hand, the system wants the program to end. */
static pgqrs_result do_job(const pgqrs_message *message, void *user)
{
    (void)user;
    printf("job %s begins\n", message->payload);
    if (strcmp(message->payload, "2") == 0) {
        printf("   SIGTERM arrives\n");
        raise(SIGTERM);
    }
    printf("job %s ends\n", message->payload);
    return PGQRS_OK;
}

int main(void)
{
    pgqrs_error err;
    store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGTERM, &action, NULL); /* once the handler is in place the store must not be closed before it is gone */
    sigaction(SIGINT, &action, NULL);

    pgqrs_install(store);
    pgqrs_queue_create(store, "jobs", NULL);
    const char *payloads[] = {"1", "2", "3", "4", "5"};
    for (int i = 0; i < 5; i++)
        if (pgqrs_enqueue(store, "jobs", payloads[i], NULL, NULL) != PGQRS_OK)
            return 1;

    /* Without until_empty it works for ever; being told to stop is success. */
    pgqrs_result result = pgqrs_work(store, "jobs", do_job, NULL, NULL);
    printf("the loop has ended: %s\n", pgqrs_result_name(result));

    /* Jobs 3, 4 and 5 may have been taken together with job 2. They are ready again, and the try does not count. */
    pgqrs_messages *messages;
    pgqrs_message_filter filter = {.queue = "jobs", .oldest_first = true};
    if (pgqrs_message_list(store, &filter, &messages) != PGQRS_OK)
        return 1;
    for (size_t i = 0; i < messages->count; i++)
        printf("job %s is %s, tries: %d\n", messages->items[i].payload,
               messages->items[i].state == PGQRS_ARCHIVED ? "archived" : "ready", messages->items[i].attempt);
    pgqrs_free(messages);

    action.sa_handler = SIG_DFL;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    pgqrs_close(store);
    return result == PGQRS_OK ? 0 : 1;
}
