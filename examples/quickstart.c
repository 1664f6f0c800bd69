/* The first five minutes: three e-mails go into a queue, one of them fails once, one of them is hopeless. Then a workflow
 * whose process is killed half-way, and goes on in another.
 *
 *     cc quickstart.c -lsqlite3 -o quickstart && ./quickstart        (or, in the repository: make quickstart)
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every call says whether it worked, and the store knows why it did not. */
static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "quickstart: %s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static bool domain_is_gone = true;

/* This is the work. What it returns decides what becomes of the message. */
static pgqrs_result send_email(const pgqrs_message *message, void *user)
{
    (void)user;
    printf("   try %d  %-30s  ", message->attempt, message->payload);

    if (strstr(message->payload, "grace") && message->attempt == 1) {
        printf("the mail server is busy: retry, a little later\n");
        return PGQRS_ERR_HANDLER;
    }
    if (strstr(message->payload, "alan") && domain_is_gone) {
        printf("no such domain: to the dead letters\n");
        return pgqrs_message_reject(message, "no such domain");
    }
    printf("sent: archived\n");
    return PGQRS_OK;
}

static bool is_killed; /* this process, in the step "transcode" */

/* One step of a workflow: if it was done before, the answer is there; otherwise do it now, and store the answer. */
static const char *step(pgqrs_run *run, const char *name, const char *answer)
{
    const char *stored;
    if (!pgqrs_step(run, name, &stored)) {
        printf("   %-10s  was done before: %s\n", name, stored ? stored : "-");
        return stored;
    }
    bool dies = is_killed && strcmp(name, "transcode") == 0;
    printf("   %-10s  %s\n", name, dies ? "half-way ... KILLED" : answer);
    fflush(stdout);
    if (dies)
        kill(getpid(), SIGKILL);
    return pgqrs_step_done(run, answer);
}

/* A workflow is a function made of such steps. */
static pgqrs_result publish_film(pgqrs_run *run, void *user)
{
    (void)user;
    step(run, "download", "\"film.raw\"");
    step(run, "transcode", "\"film.mp4\"");
    return pgqrs_run_return(run, step(run, "publish", "\"https://example.com/film\""));
}

static pgqrs_store *open_store(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "quickstart: %s\n", err.message);
        exit(1);
    }
    return store;
}

/* A process that works on one run of the workflow. It knows nothing of the one before. */
static void work_in_a_process(bool to_be_killed)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        is_killed = to_be_killed;
        pgqrs_store *store = open_store();
        pgqrs_work_desc one_run = {.max_messages = 1, .lease_ms = 1000};
        check(pgqrs_work_workflow(store, "publish_film", publish_film, NULL, &one_run), store);
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

int main(void)
{
    pgqrs_store *store = open_store();

    printf("1. A queue is a name in a database; here the database is the file jobs.db. A failed message\n"
           "   comes back after 0.2 s, then 0.4 s, 0.8 s, ... and is given up after 5 tries.\n\n");
    check(pgqrs_install(store), store); /* makes the tables; harmless when they are there */
    pgqrs_queue_desc settings = {.backoff_ms = 200, .max_attempts = 5};
    check(pgqrs_queue_create(store, "emails", &settings), store);

    printf("2. Enqueue. When pgqrs_enqueue returns, the message is on the disk: pull the plug, it is still there.\n");
    const char *emails[] = {"{\"to\":\"ada@example.com\"}",
                            "{\"to\":\"grace@example.com\"}",
                            "{\"to\":\"alan@example.net\"}"};
    for (int i = 0; i < 3; i++) {
        check(pgqrs_enqueue(store, "emails", emails[i], NULL, NULL), store);
        printf("          %s\n", emails[i]);
    }

    printf("\n3. Work, until nothing is left to do. One function gets every message:\n");
    pgqrs_work_desc until_empty = {.until_empty = true};
    check(pgqrs_work(store, "emails", send_email, NULL, &until_empty), store);

    printf("\n4. What could not be done is not lost. It waits among the dead letters, with the reason:\n");
    pgqrs_messages *dead;
    check(pgqrs_dead_list(store, "emails", 0, 0, &dead), store);
    for (size_t i = 0; i < dead->count; i++)
        printf("   dead   %-30s  %s\n", dead->items[i].payload, dead->items[i].reason);
    pgqrs_free(dead);

    printf("\n5. Somebody registers the domain. Replay the dead letters and work again:\n");
    domain_is_gone = false;
    check(pgqrs_dead_replay_all(store, "emails", NULL), store);
    check(pgqrs_work(store, "emails", send_email, NULL, &until_empty), store);

    printf("\n6. A workflow is a function made of steps; what a step gave is stored before the next one begins.\n"
           "   Here the process that runs it is killed in the middle (SIGKILL: it cannot even say goodbye):\n");
    int64_t run_id;
    check(pgqrs_workflow_create(store, "publish_film", NULL), store);
    check(pgqrs_workflow_trigger(store, "publish_film", NULL, NULL, &run_id), store);
    pgqrs_close(store); /* every process opens its own */
    work_in_a_process(true);

    printf("\n7. Another process. It finds the run a second later, and goes on where the first one was:\n");
    work_in_a_process(false);
    store = open_store();
    pgqrs_run_info *run;
    check(pgqrs_run_result(store, run_id, 0, &run), store);
    printf("   the run ended with %s: %s\n", pgqrs_run_state_name(run->state), run->output);
    pgqrs_free(run);
    pgqrs_close(store);

    char directory[1024] = ".";
    printf("\nThat was all: no server, no daemon. Everything is in one SQLite file, open to plain SQL:\n\n"
           "   cd %s\n"
           "   sqlite3 -box jobs.db 'SELECT id, state, attempt, payload FROM pgqrs_message_view'\n"
           "   sqlite3 -box jobs.db 'SELECT run_id, number, name, state, output FROM pgqrs_step_view'\n\n"
           "The same program works on Postgres when you include pgqrs.h and open postgresql://...\n",
           getcwd(directory, sizeof directory) ? directory : ".");
    return 0;
}
