/* A step that happens exactly once: money moves between two accounts in the database that also keeps the run, and both
 * commit together. Whenever the process is killed, the money is on one account or on the other, and moved once.
 * workflow_transaction.c does the same on SQLite.
 *
 *     cc workflow_transaction_postgres.c -lpq && PGQRS_DSN=postgresql://user:password@host/database ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include <libpq-fe.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int process;      /* 1, 2, 3 */
static const char *dies; /* where this process is killed */

static void say(const char *text)
{
    bool now = strcmp(text, dies) == 0;
    printf("   process %d: %s%s\n", process, text, now ? " ... killed" : "");
    fflush(stdout);
    if (now)
        kill(getpid(), SIGKILL);
}

static bool sql(PGconn *db, const char *text)
{
    PGresult *result = PQexec(db, text);
    bool done = PQresultStatus(result) == PGRES_COMMAND_OK;
    PQclear(result);
    return done;
}

static pgqrs_result transfer(pgqrs_run *run, void *user)
{
    (void)user;
    pgqrs_step_desc transaction = {.transaction = true};
    if (pgqrs_step_with(run, "move", &transaction, NULL)) { /* begins */
        PGconn *db = pgqrs_run_pgconn(run);
        bool taken = sql(db, "UPDATE accounts SET balance = balance - 30 WHERE name = 'ada'");
        say("taken from Ada");
        bool given = taken && sql(db, "UPDATE accounts SET balance = balance + 30 WHERE name = 'bob'");
        say("given to Bob");
        if (given)
            pgqrs_step_done(run, NULL); /* commits, the step and what it did */
        else                            /* rolls back */
            pgqrs_step_fail(run, &(pgqrs_failure){.message = PQerrorMessage(db), .transient = true});
    }
    say("after the step");
    return pgqrs_run_return(run, "\"moved\"");
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
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open(getenv("PGQRS_DSN"), NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return store;
}

/* Works on one run; what a killed process had is free again after a second. */
static void work_once(void)
{
    pgqrs_store *store = open_store();
    pgqrs_work_desc one_run = {.max_messages = 1, .lease_ms = 1000};
    check(pgqrs_work_workflow(store, "transfer", transfer, NULL, &one_run), store);
    pgqrs_close(store);
}

/* Somebody else looks at the accounts. */
static void bank(const char *text)
{
    PGconn *db = PQconnectdb(getenv("PGQRS_DSN"));
    PGresult *rows = PQexec(db, text);
    ExecStatusType status = PQresultStatus(rows);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        fprintf(stderr, "%s", PQerrorMessage(db));
        exit(1);
    }
    for (int i = 0; i < PQntuples(rows); i++)
        printf("%s has %s\n", PQgetvalue(rows, i, 0), PQgetvalue(rows, i, 1));
    PQclear(rows);
    PQfinish(db);
}

int main(void)
{
    if (!getenv("PGQRS_DSN")) {
        fprintf(stderr, "Set PGQRS_DSN to a Postgres database, as in postgresql://user:password@host/database\n");
        return 2;
    }
    pgqrs_store *store = open_store();
    check(pgqrs_install(store), store);
    check(pgqrs_workflow_create(store, "transfer", NULL), store);
    check(pgqrs_workflow_trigger(store, "transfer", NULL, NULL, NULL), store);
    pgqrs_close(store); /* before the fork: no database connection survives one */
    bank("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER)");
    bank("INSERT INTO accounts VALUES ('ada', 100), ('bob', 0)");

    const char *deaths[] = {"taken from Ada", "after the step", "never"};
    for (process = 1; process <= 3; process++) {
        dies = deaths[process - 1];
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            work_once();
            _exit(0);
        }
        waitpid(child, NULL, 0);
        bank("SELECT name, balance FROM accounts ORDER BY name");
    }
    return 0;
}
