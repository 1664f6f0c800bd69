/* A step that happens exactly once: money moves between two accounts in the database that also keeps the run, and both
 * commit together. Whenever the process is killed, the money is on one account or on the other, and moved once.
 * workflow_transaction_postgres.c does the same on Postgres.
 *
 *     cc workflow_transaction.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <signal.h>
#include <sqlite3.h>
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

static bool sql(sqlite3 *db, const char *text)
{
    return sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK;
}

static pgqrs_result transfer(pgqrs_run *run, void *user)
{
    (void)user;
    pgqrs_step_desc transaction = {.transaction = true};
    if (pgqrs_step_with(run, "move", &transaction, NULL)) { /* begins */
        sqlite3 *db = pgqrs_run_sqlite3(run);
        bool taken = sql(db, "UPDATE accounts SET balance = balance - 30 WHERE name = 'ada'");
        say("taken from Ada");
        bool given = taken && sql(db, "UPDATE accounts SET balance = balance + 30 WHERE name = 'bob'");
        say("given to Bob");
        if (given)
            pgqrs_step_done(run, NULL); /* commits, the step and what it did */
        else                            /* rolls back */
            pgqrs_step_fail(run, &(pgqrs_failure){.message = sqlite3_errmsg(db), .transient = true});
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
    pgqrs_store *store = pgqrs_open("sqlite://bank.db", NULL, &err);
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
    sqlite3 *db;
    sqlite3_stmt *rows;
    if (sqlite3_open("bank.db", &db) != SQLITE_OK || sqlite3_prepare_v2(db, text, -1, &rows, NULL) != SQLITE_OK) {
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
        exit(1);
    }
    while (sqlite3_step(rows) == SQLITE_ROW)
        printf("%s has %d\n", (const char *)sqlite3_column_text(rows, 0), sqlite3_column_int(rows, 1));
    sqlite3_finalize(rows);
    sqlite3_close(db);
}

int main(void)
{
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
