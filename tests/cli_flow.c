/* What the tests of the command-line tool need beside it.
 *
 *     cli_flow            a worker: runs of the workflow "expense" until none can go on
 *     cli_flow FILE SQL   statements on a SQLite file
 *     cli_flow DSN SLOT FEEDBACK   leaves a replication slot behind, as a standby that is gone would; FEEDBACK is what it said last:
 *                                  in hexadecimal, after its 'h'
 *
 * A run asks, waits an hour for the event "answer", and pays. With the input "broke" paying fails for good, until there is a file named
 * "money".
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include "pgqrs_sqlite.h"
#include "pgqrs_s3.h"
#include "../examples/http_curl.h"
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pgqrs_result expense(pgqrs_run *run, void *user)
{
    (void)user;
    const char *answer;
    if (pgqrs_step(run, "ask", NULL)) {
        pgqrs_run_set(run, "progress", "50");
        pgqrs_step_done(run, "\"asked\"");
    }
    if (!pgqrs_run_wait_event(run, "answer", 3600 * 1000, &answer))
        return pgqrs_run_status(run);
    if (pgqrs_step_keyed(run, "pay", "cash", NULL)) {
        if (strcmp(pgqrs_run_input(run), "\"broke\"") == 0 && access("money", F_OK) != 0)
            pgqrs_step_fail(run, &(pgqrs_failure){.code = "BROKE", .message = "there is no money"});
        else
            pgqrs_step_done(run, "{\"paid\":true}");
    }
    return pgqrs_run_return(run, answer);
}

static int carry_out(const char *file, const char *sql)
{
    sqlite3 *database = NULL;
    int result = sqlite3_open_v2(file, &database, SQLITE_OPEN_READWRITE, NULL);
    if (!result)
        result = sqlite3_exec(database, sql, NULL, NULL, NULL);
    if (result)
        fprintf(stderr, "%s\n", database ? sqlite3_errmsg(database) : "no memory");
    sqlite3_close(database);
    return result ? 1 : 0;
}

static int work(void)
{
    pgqrs_error err;
    http_curl *curl = http_curl_create();
    pgqrs_s3_desc s3 = {.http = http_curl_callback(curl)};
    pgqrs_config *config = pgqrs_config_load(NULL, &err);
    if (config)
        config->store.s3 = &s3;
    pgqrs_store *store = config ? pgqrs_open(config->dsn, &config->store, &err) : NULL;
    pgqrs_result result = PGQRS_ERR_CONNECTION;
    if (!store)
        fprintf(stderr, "%s\n", err.message);
    else
        result = pgqrs_work_workflow(store, "expense", expense, NULL, &(pgqrs_work_desc){.until_empty = true});
    if (store && result)
        fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    pgqrs_free(config);
    http_curl_destroy(curl);
    return result ? 1 : 0;
}

static bool said(PGconn *connection, const char *sql, ExecStatusType wanted)
{
    PGresult *result = PQexec(connection, sql);
    bool good = PQresultStatus(result) == wanted;
    if (!good)
        fprintf(stderr, "%s: %s", sql, PQerrorMessage(connection));
    PQclear(result);
    return good;
}

static bool feed_back(PGconn *connection, const char *hex)
{
    char message[64] = "h", byte[3] = "";
    int size = 1;
    for (; hex[0] && hex[1] && size < (int)sizeof message; hex += 2) {
        memcpy(byte, hex, 2);
        message[size++] = (char)strtol(byte, NULL, 16);
    }
    return PQputCopyData(connection, message, size) == 1 && PQflush(connection) == 0;
}

/* Where the log ends. */
static bool find_position(PGconn *connection, char *position, size_t size)
{
    PGresult *result = PQexec(connection, "IDENTIFY_SYSTEM");
    bool good = PQntuples(result) == 1 && PQnfields(result) > 2;
    snprintf(position, size, "%s", good ? PQgetvalue(result, 0, 2) : "");
    PQclear(result);
    return good;
}

static int leave_slot(const char *dsn, const char *slot, const char *feedback)
{
    char create[200], start[200], position[32];
    PGconn *connection = PQconnectdb(dsn);
    bool good = find_position(connection, position, sizeof position);
    snprintf(create, sizeof create, "CREATE_REPLICATION_SLOT \"%.60s\" PHYSICAL RESERVE_WAL", slot);
    snprintf(start, sizeof start, "START_REPLICATION SLOT \"%.60s\" PHYSICAL %s", slot, position);
    good = good && said(connection, create, PGRES_TUPLES_OK) && said(connection, start, PGRES_COPY_BOTH) &&
           feed_back(connection, feedback) && PQputCopyEnd(connection, NULL) == 1 && PQflush(connection) == 0;
    PQfinish(connection);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 4)
        return leave_slot(argv[1], argv[2], argv[3]);
    return argc == 3 ? carry_out(argv[1], argv[2]) : work();
}
