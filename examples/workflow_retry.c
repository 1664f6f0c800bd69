/* What fails: a step that is tried again until it works, one that cannot work, and how to go on once the cause is mended.
 *
 *     cc workflow_retry.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool card_is_valid = false;
static int calls; /* of a service that is down for the first two */

static pgqrs_result place_order(pgqrs_run *run, void *user)
{
    (void)user;
    if (pgqrs_step(run, "reserve", NULL)) {
        bool reached = ++calls > 2;
        printf("   reserve: %s\n", reached ? "done" : "the warehouse does not answer");
        if (reached)
            pgqrs_step_done(run, NULL);
        else /* worth another try: the function is left here and entered again when that is due */
            pgqrs_step_fail(run, &(pgqrs_failure){.code = "UNREACHABLE", .transient = true});
    }
    if (pgqrs_step(run, "charge", NULL)) {
        printf("   charge: %s\n", card_is_valid ? "done" : "the card is refused");
        if (card_is_valid)
            pgqrs_step_done(run, NULL);
        else /* for good: the run ends here, and the failure is its error */
            pgqrs_step_fail(run, &(pgqrs_failure){.code = "REFUSED", .message = "the card has expired"});
    }
    return pgqrs_run_return(run, "\"ordered\"");
}

static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static void work(pgqrs_store *store)
{
    check(pgqrs_work_workflow(store, "place_order", place_order, NULL, &(pgqrs_work_desc){.until_empty = true}), store);
}

static void show_steps(pgqrs_store *store, int64_t run_id)
{
    pgqrs_steps *steps;
    check(pgqrs_run_steps(store, run_id, &steps), store);
    for (size_t i = 0; i < steps->count; i++)
        printf("   %s is %s, retries: %d\n", steps->items[i].name, pgqrs_step_state_name(steps->items[i].state),
               (int)steps->items[i].retries);
    pgqrs_free(steps);
}

int main(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    check(pgqrs_install(store), store);
    /* Three retries are the default, after 1, 2 and 4 seconds; here after 0.1, 0.2 and 0.4. A step may have a policy of its
     * own: pgqrs_step_desc.retry. */
    pgqrs_workflow_desc settings = {.retry = {.max_retries = 3, .base_ms = 100}};
    check(pgqrs_workflow_create(store, "place_order", &settings), store);
    int64_t run_id;
    check(pgqrs_workflow_trigger(store, "place_order", NULL, NULL, &run_id), store);

    printf("work:\n");
    work(store);

    printf("the result:\n");
    pgqrs_run_info *run;
    pgqrs_result result = pgqrs_run_result(store, run_id, 0, &run);
    printf("   %s: %s\n", pgqrs_result_name(result), pgqrs_last_error(store)->message);
    check(pgqrs_run_get(store, run_id, &run), store); /* for programs: the same in parts */
    printf("   step \"%s\", code \"%s\", message \"%s\"\n", run->error_step, run->error_code, run->error_message);
    pgqrs_free(run);
    show_steps(store, run_id);

    printf("there is a new card; restart:\n");
    card_is_valid = true;
    check(pgqrs_run_restart(store, run_id), store); /* what was done stays done */
    work(store);
    check(pgqrs_run_result(store, run_id, 0, &run), store);
    printf("   %s: %s\n", pgqrs_run_state_name(run->state), run->output);
    pgqrs_free(run);
    show_steps(store, run_id);
    pgqrs_close(store);
    return 0;
}
