/* A process is killed in the middle of a workflow, and another goes on after the last step that was done. SIGKILL cannot
 * be caught, so a power failure looks the same.
 *
 *     cc workflow_crash.c -lsqlite3 -lpq && ./a.out       (PGQRS_DSN picks another database than a file)
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include "pgqrs_sqlite.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int process;         /* 1, 2, 3 */
static const char *dies_in; /* the step this process is killed in */

/* Stands for the work of a step. */
static void work_on(const char *step)
{
    bool dies = strcmp(step, dies_in) == 0;
    printf("   process %d: %s%s\n", process, step, dies ? " ... killed" : "");
    fflush(stdout);
    if (dies)
        kill(getpid(), SIGKILL);
}

/* The function is entered from the top in every process. Steps that are done are skipped, and give what they gave. */
static pgqrs_result publish_film(pgqrs_run *run, void *user)
{
    (void)user;
    const char *raw, *film, *address;
    if (pgqrs_step(run, "download", &raw)) {
        work_on("download");
        raw = pgqrs_step_done(run, "\"film.raw\"");
    }
    if (pgqrs_step(run, "transcode", &film)) {
        work_on("transcode"); /* of `raw`, wherever that was downloaded */
        film = pgqrs_step_done(run, "\"film.mp4\"");
    }
    if (pgqrs_step(run, "publish", &address)) {
        work_on("publish");
        address = pgqrs_step_done(run, "\"https://example.com/film\"");
    }
    return pgqrs_run_return(run, address);
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

/* Works on one run. What a killed process had is free again when its lease is over, here after a second; nobody has to
 * notice the crash or to clean up. */
static void work_once(void)
{
    pgqrs_store *store = open_store();
    pgqrs_work_desc one_run = {.max_messages = 1, .lease_ms = 1000};
    check(pgqrs_work_workflow(store, "publish_film", publish_film, NULL, &one_run), store);
    pgqrs_close(store);
}

int main(void)
{
    int64_t run_id;
    pgqrs_store *store = open_store();
    check(pgqrs_install(store), store);
    check(pgqrs_workflow_create(store, "publish_film", NULL), store);
    check(pgqrs_workflow_trigger(store, "publish_film", NULL, NULL, &run_id), store);
    pgqrs_close(store); /* before the fork: no database connection survives one */

    const char *deaths[] = {"transcode", "publish", "none"};
    for (process = 1; process <= 3; process++) {
        dies_in = deaths[process - 1];
        pid_t child = fork();
        if (child == 0) {
            work_once();
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }

    store = open_store();
    pgqrs_run_info *run;
    check(pgqrs_run_result(store, run_id, 0, &run), store);
    printf("run %lld: %s after %d deliveries, %s\n", (long long)run->id, pgqrs_run_state_name(run->state), run->attempt,
           run->output);
    pgqrs_free(run);

    pgqrs_steps *steps;
    check(pgqrs_run_steps(store, run_id, &steps), store);
    for (size_t i = 0; i < steps->count; i++)
        printf("   step %d: %-10s %s\n", steps->items[i].number, steps->items[i].name, steps->items[i].output);
    pgqrs_free(steps);
    pgqrs_close(store);
    return 0;
}
