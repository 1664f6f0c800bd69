/* An agent: think, act, observe, until there is an answer. Every thought and every observation is a step, so an agent
 * that is killed goes on where it was, and no thought is paid for twice. Where it is can be seen from outside.
 *
 *     cc workflow_agent.c -lsqlite3 -lpq && ./a.out       (PGQRS_DSN picks another database than a file)
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

static int process; /* 1, 2 */

static void say(const char *what, const char *text)
{
    printf("   process %d %s %s\n", process, what, text);
    fflush(stdout);
}

/* Stands for a language model: it reads what is known so far and says what to do next. Such calls are slow, cost money, and
 * do not give the same answer twice, which is why the answer is kept. */
static const char *model(const char *known)
{
    const char *thought = "{\"answer\":\"Rome is warmer\"}";
    if (!strstr(known, "Rome"))
        thought = "{\"look_up\":\"Rome\"}";
    if (!strstr(known, "Oslo"))
        thought = "{\"look_up\":\"Oslo\"}";
    say("thinks", thought);
    return thought;
}

/* Stands for the tools. In the middle of the second call the first process is killed. */
static const char *use_tool(const char *thought)
{
    const char *observation = strstr(thought, "Oslo") ? "{\"Oslo\":4}" : "{\"Rome\":21}";
    if (process == 1 && strstr(thought, "Rome")) {
        say("is", "killed");
        kill(getpid(), SIGKILL);
    }
    say("observes", observation);
    return observation;
}

/* A value of the run, for whoever wants to know. Set inside a step, it is not set again when that is skipped. */
static void show_progress(pgqrs_run *run, int turn, const char *thought)
{
    char json[300];
    snprintf(json, sizeof json, "{\"turn\":%d,\"doing\":%s}", turn, thought);
    pgqrs_run_set(run, "progress", json);
}

static pgqrs_result answer_question(pgqrs_run *run, void *user)
{
    (void)user;
    char known[1000] = ""; /* not stored: every process makes it anew, from what the steps give */
    const char *thought = NULL, *observation, *readers[] = {"mail", "chat"};
    for (int turn = 1; turn <= 10; turn++) {
        if (pgqrs_step_indexed(run, "think", turn, &thought))
            thought = pgqrs_step_done(run, model(known));
        if (!thought || strstr(thought, "answer"))
            break;
        if (pgqrs_step_indexed(run, "act", turn, &observation)) {
            show_progress(run, turn, thought);
            observation = pgqrs_step_done(run, use_tool(thought));
        }
        if (!observation) /* the run has to stop: nothing to look at, and the rest does nothing */
            break;
        strncat(known, observation, sizeof known - strlen(known) - 1);
    }
    if (thought && !strstr(thought, "answer"))
        return pgqrs_run_fail(run, &(pgqrs_failure){.code = "NO_ANSWER"});
    for (int i = 0; i < 2; i++)
        if (pgqrs_step_keyed(run, "tell", readers[i], NULL)) { /* a loop over things: their names are the keys */
            say("tells", readers[i]);
            pgqrs_step_done(run, NULL);
        }
    return pgqrs_run_return(run, thought);
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

/* A process that works on one run; what a killed one had is free again after a second. */
static void work_once(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        pgqrs_store *store = open_store();
        pgqrs_work_desc one_run = {.max_messages = 1, .lease_ms = 1000};
        check(pgqrs_work_workflow(store, "answer_question", answer_question, NULL, &one_run), store);
        pgqrs_close(store);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static void look(int64_t run_id)
{
    pgqrs_store *store = open_store();
    pgqrs_run_values *values;
    check(pgqrs_run_values_get(store, run_id, &values), store);
    for (size_t i = 0; i < values->count; i++)
        printf("seen from outside: %s is %s\n", values->items[i].name, values->items[i].value);
    pgqrs_free(values);
    pgqrs_close(store);
}

int main(void)
{
    pgqrs_store *store = open_store();
    check(pgqrs_install(store), store);
    check(pgqrs_workflow_create(store, "answer_question", NULL), store);
    int64_t run_id;
    check(pgqrs_workflow_trigger(store, "answer_question", "\"Is it warmer in Oslo or in Rome?\"", NULL, &run_id),
          store);
    pgqrs_close(store); /* before the fork: no database connection survives one */

    for (process = 1; process <= 2; process++) {
        work_once();
        look(run_id);
    }

    store = open_store();
    pgqrs_run_info *run;
    check(pgqrs_run_result(store, run_id, 0, &run), store);
    printf("%s %s\n", run->input, run->output);
    pgqrs_free(run);
    pgqrs_close(store);
    return 0;
}
