/* A run that waits for a person: an expense is paid once somebody has approved it, and is turned down when nobody
 * answers in time. Waiting takes no worker and no process: the run sleeps in the database, for weeks if need be.
 *
 *     cc workflow_approval.c -lsqlite3 -lpq && ./a.out    (PGQRS_DSN picks another database than a file)
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The input is how many milliseconds there are to answer. */
static pgqrs_result pay_expense(pgqrs_run *run, void *user)
{
    (void)user;
    const char *answer;
    if (pgqrs_step(run, "ask", NULL)) {
        printf("   run %d asks for an approval\n", (int)pgqrs_run_id(run));
        pgqrs_step_done(run, NULL);
    }
    if (!pgqrs_run_wait_event(run, "answer", atoll(pgqrs_run_input(run)), &answer))
        return pgqrs_run_status(
            run); /* not yet; the function is entered again when there is an answer, or no time left */
    if (!answer)
        return pgqrs_run_return(run, "\"nobody answered in time\"");
    if (pgqrs_step(run, "pay", NULL)) {
        printf("   run %d pays, the answer is %s\n", (int)pgqrs_run_id(run), answer);
        pgqrs_step_done(run, NULL);
    }
    return pgqrs_run_return(run, "\"paid\"");
}

static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static pgqrs_store *open_store(void)
{
    const char *dsn = getenv("PGQRS_DSN");
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open(dsn ? dsn : "sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return store;
}

static int64_t trigger(pgqrs_store *store, const char *time_to_answer)
{
    int64_t run_id;
    check(pgqrs_workflow_trigger(store, "pay_expense", time_to_answer, NULL, &run_id), store);
    return run_id;
}

/* Runs whatever can go on now. */
static void work(pgqrs_store *store)
{
    check(pgqrs_work_workflow(store, "pay_expense", pay_expense, NULL, &(pgqrs_work_desc){.until_empty = true}), store);
}

static void show(pgqrs_store *store, int64_t run_id)
{
    pgqrs_run_info *run;
    check(pgqrs_run_get(store, run_id, &run), store);
    printf("   run %d: %s", (int)run->id, pgqrs_run_state_name(run->state));
    if (run->state == PGQRS_RUN_PAUSED)
        printf(", waits for the %s \"%s\"\n", pgqrs_run_wait_name(run->wait), run->wait_name);
    else
        printf(", %s\n", run->output);
    pgqrs_free(run);
}

int main(void)
{
    pgqrs_store *store = open_store();
    check(pgqrs_install(store), store);
    check(pgqrs_workflow_create(store, "pay_expense", NULL), store);

    printf("two expenses, one with a day for the answer and one with a second:\n");
    int64_t patient = trigger(store, "86400000"), hasty = trigger(store, "1000");
    work(store);
    show(store, patient);
    show(store, hasty);

    printf("elsewhere, Ada approves the first; that Bob refuses comes too late:\n");
    pgqrs_store *elsewhere = open_store(); /* stands for another process: a web server, a chat robot */
    bool accepted;
    check(pgqrs_run_send_event(elsewhere, patient, "answer", "{\"yes\":\"Ada\"}", &accepted), elsewhere);
    printf("   Ada's answer is %s\n", accepted ? "accepted" : "ignored");
    check(pgqrs_run_send_event(elsewhere, patient, "answer", "{\"no\":\"Bob\"}", &accepted), elsewhere);
    printf("   Bob's answer is %s\n", accepted ? "accepted" : "ignored");
    pgqrs_close(elsewhere);
    work(store);
    show(store, patient);

    printf("nobody looks at the second:\n");
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 100000000}, NULL);
    work(store);
    show(store, hasty);
    pgqrs_close(store);
    return 0;
}
