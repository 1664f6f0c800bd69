/* The database goes away, is locked, full, read-only or damaged, and processes are killed: what was acknowledged stays,
 * errors are of the right kind, and the store goes on as soon as the database does. */
#include "fault_operations.h"
#include <sys/ioctl.h>
#include <fcntl.h>
#include <grp.h>

/* --- a server that drops connections --- */

/* The DSN of the run with a name of our own, so that only our connections are ended. */
static char marked_name[64];
static void mark_connections(void)
{
    size_t length = strlen(T.dsn);
    snprintf(marked_name, sizeof(marked_name), "%.40s_%d", run.schema, run.case_number);
    snprintf(T.dsn + length, sizeof(T.dsn) - length, "%capplication_name=%s", strchr(T.dsn, '?') ? '&' : '?',
             marked_name);
}

/* The pooler hands out the connection that was used last, so ours is likely to be the one that this client gets: all of the
 * pool are ended, the one that asks for it last. */
static int64_t end_pooled_connections(void)
{
    PGconn *connection = PQconnectdb(run.dsn);
    PGresult *answer = PQexec(connection, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = "
                                          "current_database() AND pid <> pg_backend_pid()");
    PGresult *own = PQexec(connection, "SELECT pg_terminate_backend(pg_backend_pid())");
    bool ended = PQresultStatus(answer) == PGRES_TUPLES_OK && PQresultStatus(own) == PGRES_FATAL_ERROR;
    PQclear(answer);
    PQclear(own);
    PQfinish(connection);
    sleep_ms(20);
    return ended;
}

/* Ends every connection with the mark; the number of them. Its own process-wide connection, not the store's. */
static int64_t end_connections(void)
{
    char sql[512];
    int64_t ended, began_ms = monotonic_ms();
    if (on(ON_PGBOUNCER))
        return end_pooled_connections();
    snprintf(sql, sizeof(sql),
             "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '%s' AND pid <> "
             "pg_backend_pid()",
             marked_name);
    ended = raw_int(sql);
    /* The signal is only sent: wait until they are really gone. */
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM pg_stat_activity WHERE application_name = '%s' AND pid <> pg_backend_pid()",
             marked_name);
    while (raw_int(sql) > 0 && monotonic_ms() - began_ms < 60000)
        sleep_ms(5);
    return ended;
}

static pgqrs_store *marked_store(int32_t retry_limit)
{
    pgqrs_store_desc desc = test_desc();
    mark_connections();
    desc.retry_limit = retry_limit;
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    return T.store;
}

/* An idle connection that was ended costs nothing: nothing had been sent. */
static void ended_before_each_call_is_mended(void)
{
    static char before[16384], after[16384];
    size_t i;
    int64_t ended = 0;
    marked_store(0);
    for (i = 0; i < COUNT_OF(operations); i++) {
        pgqrs_result result;
        D.due_at_us = T.now_us;
        with_runs = is_about_runs(&operations[i]);
        prepare_data();
        picture(before, sizeof(before));
        ended += end_connections();
        result = operations[i].call();
        if (result != PGQRS_OK)
            fail_at(__FILE__, __LINE__, "%s on an ended connection gave %s (%s)", operations[i].name,
                    pgqrs_result_name(result), last_message(T.store));
        T.now_us = D.due_at_us;
        picture(after, sizeof(after));
        if (operations[i].call == call_archive && strcmp(before, after) == 0)
            fail_at(__FILE__, __LINE__, "%s did nothing", operations[i].name);
        T.now_us += SECOND_US;
    }
    forget_data();
    YES(ended > 0);
    if (on(ON_POSTGRES))
        YES(events_of(PGQRS_EVENT_RECONNECTED) > 0);
    OK(pgqrs_verify(T.store));
}

/* Told never to try again, the call may fail, but then it says truly whether anything was done. */
static void ended_without_retries_tells_the_truth(void)
{
    static char before[16384], after[16384];
    size_t i;
    marked_store(-1);
    for (i = 0; i < COUNT_OF(operations); i++) {
        pgqrs_result result;
        pgqrs_error err;
        int rounds = 0;
        if (operations[i].call == call_open || operations[i].call == call_config)
            continue;
        D.due_at_us = T.now_us;
        with_runs = is_about_runs(&operations[i]);
        prepare_data();
        picture(before, sizeof(before));
        end_connections();
        result = operations[i].call();
        err = *pgqrs_last_error(T.store);
        T.now_us = D.due_at_us;
        if (result != PGQRS_OK && result != PGQRS_ERR_CONNECTION && result != PGQRS_ERR_OUTCOME_UNKNOWN)
            fail_at(__FILE__, __LINE__, "%s gave %s (%s)", operations[i].name, pgqrs_result_name(result), err.message);
        /* The next call has a connection again, at the latest the one after it. */
        while (pgqrs_queue_pause(T.store, "nowhere") != PGQRS_ERR_QUEUE_NOT_FOUND && rounds++ < 3) {
        }
        YES(rounds < 3);
        if (result == PGQRS_ERR_CONNECTION) {
            picture(after, sizeof(after));
            if (operations[i].flags == CHANGES_NOTHING && strcmp(before, after) != 0)
                fail_at(__FILE__, __LINE__, "%s said that nothing was done, and changed\n%sinto\n%s", operations[i].name,
                        before, after);
        }
        if (operations[i].call == call_queue_create)
            pgqrs_queue_delete(T.store, "made-without-memory", true);
        T.now_us += 3600 * SECOND_US;
    }
    forget_data();
    OK(pgqrs_verify(T.store));
}

enum { ENDING_MS = 2500 };

/* A child that ends our connections again and again until it is killed, with time to get something done in between: ever more of it
 * when that was not enough. */
static int end_again_and_again_in_child(void *user)
{
    unsigned pause_ms = 10;
    int64_t began_ms = monotonic_ms();
    char sql[512];
    PGconn *connection = PQconnectdb(run.dsn);
    (void)user;
    snprintf(sql, sizeof(sql),
             "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '%s'", marked_name);
    if (!connection)
        return 1;
    for (;;) {
        if (PQstatus(connection) != CONNECTION_OK)
            PQreset(connection); /* behind a pooler its own may be among them */
        PQclear(PQexec(connection, sql));
        pause_ms = (pause_ms * 7 + 11) % 61; /* 0 to 60, in no order that a caller could fall in step with */
        sleep_ms(((int)pause_ms + 5) * (1 + (monotonic_ms() - began_ms) / ENDING_MS));
    }
}

static bool passing(pgqrs_result result)
{
    return result == PGQRS_OK || result == PGQRS_ERR_CONNECTION || result == PGQRS_ERR_OUTCOME_UNKNOWN;
}

static void ended_in_the_middle_loses_nothing_acknowledged(void)
{
    enum { room = 20000, enough = 10, patience_ms = 45000 };
    static int64_t sent[room], archived[room];
    size_t sent_count = 0, archived_count = 0, i;
    int64_t unknown = 0, total;
    int failures = 0, status = 0;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_queue_desc queue = test_queue_desc();
    pid_t child;
    int64_t began_ms;
    queue.max_attempts = 1000;
    queue.lease_ms = 3600000;
    marked_store(0);
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    close_all_stores();
    child = start_child(end_again_and_again_in_child, NULL);
    began_ms = monotonic_ms();
    do /* opening may be what is ended, which is an error and no hang */
        T.store = pgqrs_open(T.dsn, &desc, NULL);
    while (!T.store && monotonic_ms() - began_ms < patience_ms);
    assert_non_null(T.store);
    remember_store(T.store);
    while ((monotonic_ms() - began_ms < ENDING_MS || (sent_count < enough && monotonic_ms() - began_ms < patience_ms)) &&
           sent_count < room && archived_count < room) {
        pgqrs_receipt receipt = {0, false};
        pgqrs_message *message = NULL;
        pgqrs_result result = pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, &receipt);
        if (!passing(result))
            fail_at(__FILE__, __LINE__, "enqueue gave %s (%s)", pgqrs_result_name(result), last_message(T.store));
        if (result == PGQRS_OK)
            sent[sent_count++] = receipt.id;
        if (result == PGQRS_ERR_OUTCOME_UNKNOWN)
            unknown++;
        failures += result != PGQRS_OK;
        result = pgqrs_dequeue(T.store, T.queue, NULL, &message);
        if (!passing(result))
            fail_at(__FILE__, __LINE__, "dequeue gave %s (%s)", pgqrs_result_name(result), last_message(T.store));
        if (message && pgqrs_archive(T.store, message) == PGQRS_OK)
            archived[archived_count++] = message->id;
        pgqrs_free(message);
    }
    kill(child, SIGKILL);
    EQ(child, waitpid(child, &status, 0));
    YES(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close_all_stores();
    T.store = open_store(NULL);
    T.now_us = real_us();
    for (i = 0; i < sent_count; i++)
        if (i % 7 == 0 || i + 20 > sent_count)
            YES(look(sent[i]) != NULL);
    for (i = 0; i < archived_count; i++)
        if (i % 7 == 0 || i + 20 > archived_count)
            STATE("archived", archived[i]);
    total = count_where((pgqrs_message_filter){.queue = T.queue});
    printf("# %d sent, %d archived, %d errors, %d of unknown outcome\n", (int)sent_count, (int)archived_count, failures,
           (int)unknown);
    BETWEEN((int64_t)sent_count, (int64_t)sent_count + unknown, total);
    BETWEEN(enough, room, sent_count);
    OK(pgqrs_verify(T.store));
}

static int handled_count;
static pgqrs_result end_while_handling(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    if (++handled_count % 5 == 1)
        end_connections();
    return PGQRS_OK;
}

static void loop_survives_ended_connections(void)
{
    pgqrs_queue_desc queue = test_queue_desc();
    handled_count = 0;
    marked_store(0);
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    put_batch(T.queue, 30, 0, NULL);
    OK(pgqrs_work(T.store, T.queue, end_while_handling, NULL, &(pgqrs_work_desc){.until_empty = true}));
    NUMBERS(0, 0, 0, 30, 0);
    YES(handled_count >= 30);
}

static int end_then_enqueue_in_child(void *user)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store;
    char sql[512];
    PGconn *connection = PQconnectdb(run.dsn);
    (void)user;
    sleep_ms(300);
    snprintf(sql, sizeof(sql),
             "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '%s'", marked_name);
    PQclear(PQexec(connection, sql));
    PQfinish(connection);
    sleep_ms(300);
    store = child_store(&desc);
    if (pgqrs_enqueue(store, T.queue, "1", NULL, NULL) != PGQRS_OK)
        return 1;
    pgqrs_close(store);
    return 0;
}

static void waiting_survives_an_ended_connection(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_queue_desc queue = test_queue_desc();
    pid_t child;
    int64_t start;
    marked_store(0);
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    close_all_stores();
    start = monotonic_ms();
    child = start_child(end_then_enqueue_in_child, NULL);
    desc.poll_ms = 500;
    T.store = open_store(&desc);
    YES(take_as((pgqrs_dequeue_desc){.wait_ms = 60000}) != NULL);
    BETWEEN(500, 30000, monotonic_ms() - start);
    child_ended_well(child);
}

static void borrowed_connection_that_ended_is_not_mended(void)
{
    PGconn *connection;
    pgqrs_store *store;
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_result result;
    marked_store(0);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    connection = open_connection(T.dsn);
    store = pgqrs_open_pgconn(connection, &desc, &err);
    assert_non_null(store);
    remember_store(store);
    end_connections();
    result = pgqrs_enqueue(store, T.queue, "1", NULL, NULL);
    if (on(ON_POSTGRES)) {
        YES(result == PGQRS_ERR_CONNECTION || result == PGQRS_ERR_OUTCOME_UNKNOWN);
        check_error(pgqrs_last_error(store), result, "pgqrs_enqueue", __FILE__, __LINE__);
        EQ(CONNECTION_BAD, PQstatus(connection));
        result = pgqrs_enqueue(store, T.queue, "1", NULL, NULL);
        RESULT(PGQRS_ERR_CONNECTION, result);
        NUMBERS(0, 0, 0, 0, 0);
    } else {
        YES(passing(result)); /* a pooler may have another server connection at hand */
    }
}

static void transaction_of_the_caller_that_ended_is_lost_as_a_whole(void)
{
    PGconn *connection;
    pgqrs_store *store;
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_result result;
    marked_store(0);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    connection = open_connection(T.dsn);
    store = pgqrs_open_pgconn(connection, &desc, &err);
    assert_non_null(store);
    remember_store(store);
    PQclear(PQexec(connection, "BEGIN"));
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
    end_connections();
    result = pgqrs_enqueue(store, T.queue, "2", NULL, NULL);
    YES(result == PGQRS_ERR_CONNECTION || result == PGQRS_ERR_OUTCOME_UNKNOWN || result == PGQRS_ERR_TRANSACTION);
    NUMBERS(0, 0, 0, 0, 0);
}

/* A server that is not reachable for a while: the port is right, nobody answers. */
static void server_that_goes_away_is_an_error_and_no_hang(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_error err;
    int64_t start = monotonic_ms();
    desc.connect_timeout_ms = 500;
    desc.retry_limit = 2;
    YES(pgqrs_open("postgresql://nobody@127.0.0.1:1/jobs", &desc, &err) == NULL);
    check_error(&err, PGQRS_ERR_CONNECTION, "pgqrs_open", __FILE__, __LINE__);
    EQ(PGQRS_KIND_RETRY, err.kind);
    BETWEEN(0, 10000, monotonic_ms() - start);
}

static void read_only_server_is_told_apart(void)
{
    size_t length;
    pgqrs_queue_desc queue = test_queue_desc();
    pgqrs_message *message = NULL;
    int64_t id;
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    id = put();
    close_all_stores();
    length = strlen(T.dsn);
    snprintf(T.dsn + length, sizeof(T.dsn) - length, "%coptions=-c%%20default_transaction_read_only%%3Don",
             strchr(T.dsn, '?') ? '&' : '?');
    T.store = open_store(NULL);
    FAILS(ERR_READ_ONLY, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    FAILS(ERR_READ_ONLY, pgqrs_dequeue(T.store, T.queue, NULL, &message));
    FAILS(ERR_READ_ONLY, pgqrs_queue_create(T.store, "other", NULL));
    SAME("25006", pgqrs_last_error(T.store)->sqlstate);
    EQ(PGQRS_KIND_FATAL, pgqrs_last_error(T.store)->kind);
    /* Looking is allowed. */
    STATE("ready", id);
    NUMBERS(1, 0, 0, 0, 0);
}

static void user_without_rights_is_told_so(void)
{
    const char *admin = getenv("PGQRS_TEST_POSTGRES_ADMIN_DSN");
    char role[64], sql[400], dsn[1200];
    const char *at = strchr(run.dsn, '@');
    PGconn *connection;
    PGresult *result;
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store;
    if (!admin || !*admin) {
        fprintf(stderr, "SKIPPED: PGQRS_TEST_POSTGRES_ADMIN_DSN is not set, so no user without rights can be made\n");
        skip();
    }
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    snprintf(role, sizeof(role), "%.40s_poor", run.schema);
    connection = open_connection(admin);
    snprintf(sql, sizeof(sql), "CREATE ROLE \"%s\" LOGIN PASSWORD 'poorword'", role);
    result = PQexec(connection, sql);
    EQ(PGRES_COMMAND_OK, PQresultStatus(result));
    PQclear(result);
    snprintf(dsn, sizeof(dsn), "postgresql://%s:poorword%s", role, at ? at : "");
    store = pgqrs_open(dsn, &desc, &err);
    if (store) {
        remember_store(store);
        RESULT(PGQRS_ERR_ACCESS_DENIED, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
        check_error(pgqrs_last_error(store), PGQRS_ERR_ACCESS_DENIED, "pgqrs_enqueue", __FILE__, __LINE__);
        SAME("42501", pgqrs_last_error(store)->sqlstate);
        RESULT(PGQRS_ERR_ACCESS_DENIED, pgqrs_install(store));
        close_store(store);
    }
    snprintf(sql, sizeof(sql), "DROP ROLE \"%s\"", role);
    result = PQexec(connection, sql);
    EQ(PGRES_COMMAND_OK, PQresultStatus(result));
    PQclear(result);
    if (!store)
        fail_at(__FILE__, __LINE__, "pgqrs_open: %s", err.message);
}

/* --- SQLite --- */

static int use_read_only_file_in_child(void *user)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store;
    pgqrs_error err;
    pgqrs_result result;
    int64_t count = -1;
    (void)user;
    if (geteuid() == 0 && (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0))
        return 10;
    store = pgqrs_open(T.dsn, &desc, &err);
    if (!store) {
        fprintf(stderr, "# child: open: %s (%s)\n", pgqrs_result_name(err.code), err.message);
        return err.code == PGQRS_ERR_READ_ONLY && err.kind == PGQRS_KIND_FATAL ? 0 : 1;
    }
    result = pgqrs_enqueue(store, T.queue, "1", NULL, NULL);
    if (result != PGQRS_ERR_READ_ONLY) {
        fprintf(stderr, "# child: enqueue: %s (%s)\n", pgqrs_result_name(result), pgqrs_last_error(store)->message);
        return 2;
    }
    result = pgqrs_queue_create(store, "other", NULL);
    if (result != PGQRS_ERR_READ_ONLY) {
        fprintf(stderr, "# child: create: %s (%s)\n", pgqrs_result_name(result), pgqrs_last_error(store)->message);
        return 3;
    }
    result = pgqrs_message_count(store, NULL, &count);
    if (result == PGQRS_OK && count != 1)
        return 4;
    pgqrs_close(store);
    return 0;
}

static void read_only_with(pgqrs_switch wal)
{
    pgqrs_store_desc desc = test_desc();
    desc.sqlite_wal = wal;
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    put();
    close_all_stores();
    chmod(T.file, 0444);
    chmod(run.dir, 0555);
    {
        pid_t child = start_child(use_read_only_file_in_child, NULL);
        int status = -1;
        waitpid(child, &status, 0);
        chmod(run.dir, 0755);
        chmod(T.file, 0644);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_at(__FILE__, __LINE__, "the child ended with %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    }
    T.store = open_store(NULL);
    NUMBERS(1, 0, 0, 0, 0);
}

static void read_only_file_is_told_so(void)
{
    read_only_with(PGQRS_OFF);
}

static void read_only_file_in_wal_mode_is_told_so(void)
{
    read_only_with(PGQRS_ON);
}

/* SQLite's own limit gives exactly the error of a full disk, wherever it is hit. */
static void full_database_changes_nothing(void)
{
    static char before[16384], after[16384];
    sqlite3 *database = on(ON_SQLITE_MEMORY) ? T.databases[0] : open_database(T.file);
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store = pgqrs_open_sqlite3(database, &desc, &err);
    char *payload = json_string_of(200000);
    pgqrs_result result = PGQRS_OK;
    int stored = 0;
    const pgqrs_message *message;
    assert_non_null(store);
    remember_store(store);
    snprintf(D.queue, sizeof(D.queue), "%s", T.queue);
    sqlite3_exec(database, "PRAGMA max_page_count=600", NULL, NULL, NULL);
    while (stored < 1000) {
        picture(before, sizeof(before));
        result = pgqrs_enqueue(store, T.queue, payload, NULL, NULL);
        if (result != PGQRS_OK)
            break;
        stored++;
    }
    free(payload);
    FAILS_ON(store, ERR_FULL, result);
    EQ(PGQRS_KIND_RETRY, pgqrs_last_error(store)->kind);
    picture(after, sizeof(after));
    SAME(before, after);
    EQ(stored, numbers().ready);
    YES(stored > 2);
    /* Room again: it goes on. */
    sqlite3_exec(database, "PRAGMA max_page_count=1000000", NULL, NULL, NULL);
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
    message = take_with(store, T.queue, (pgqrs_dequeue_desc){0});
    assert_non_null(message);
    OK_ON(store, pgqrs_archive(store, message));
    OK_ON(store, pgqrs_verify(store));
}

/* The file may not grow any more: what was acknowledged before is there, what failed is not. */
static int fill_the_file_in_child(void *user)
{
    int tell = *(int *)user;
    struct rlimit limit;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store;
    pgqrs_result result = PGQRS_OK;
    pgqrs_receipt receipt;
    char *payload = (char *)malloc(100001);
    int i;
    if (!payload)
        return 1;
    memset(payload, 'a', 100000);
    payload[0] = payload[99999] = '"';
    payload[100000] = '\0';
    signal(SIGXFSZ, SIG_IGN);
    store = child_store(&desc);
    limit.rlim_cur = limit.rlim_max = 6 * 1024 * 1024;
    setrlimit(RLIMIT_FSIZE, &limit);
    for (i = 0; i < 400 && result == PGQRS_OK; i++) {
        result = pgqrs_enqueue(store, T.queue, payload, NULL, &receipt);
        if (result == PGQRS_OK && write(tell, &receipt.id, sizeof(receipt.id)) != (ssize_t)sizeof(receipt.id))
            return 2;
    }
    free(payload);
    /* A commit that broke off may be in the file or not: whoever says so must not say more. */
    if (result != PGQRS_ERR_FULL && result != PGQRS_ERR_DATABASE && result != PGQRS_ERR_OUTCOME_UNKNOWN) {
        fprintf(stderr, "# child: %s (%s)\n", pgqrs_result_name(result), pgqrs_last_error(store)->message);
        return 3;
    }
    pgqrs_close(store);
    return 0;
}

static void file_that_cannot_grow_keeps_what_was_acknowledged(void)
{
    int pipes[2];
    pid_t child;
    int64_t id, count = 0;
    T.store = open_store(NULL);
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    close_all_stores();
    EQ(0, pipe(pipes));
    child = start_child(fill_the_file_in_child, &pipes[1]);
    close(pipes[1]);
    T.now_us = real_us();
    child_ended_well(child);
    T.store = open_store(NULL);
    while (read(pipes[0], &id, sizeof(id)) == (ssize_t)sizeof(id)) {
        STATE("ready", id);
        count++;
    }
    close(pipes[0]);
    YES(count > 3);
    BETWEEN(count, count + 1, numbers().ready);
    OK(pgqrs_verify(T.store));
    put();
}

static void locked_file_is_busy_after_the_timeout(void)
{
    static char before[16384], after[16384];
    pgqrs_store_desc desc = real_time_desc();
    sqlite3 *other;
    size_t i;
    int64_t start;
    D.due_at_us = T.now_us;
    prepare_data();
    desc.clock.now_us = test_now;
    desc.connect_timeout_ms = 30;
    reopen_with(&desc);
    OK(pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    picture(before, sizeof(before));
    other = open_database(T.file);
    for (i = 0; i < COUNT_OF(operations); i++) {
        pgqrs_result result;
        if (operations[i].flags != CHANGES_NOTHING)
            continue; /* a loop waits a passing error out */
        EQ(SQLITE_OK, sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL));
        start = monotonic_ms();
        result = operations[i].call();
        BETWEEN(0, 5000, monotonic_ms() - start);
        EQ(SQLITE_OK, sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL));
        T.now_us = D.due_at_us;
        if (result != PGQRS_OK && result != PGQRS_ERR_BUSY)
            fail_at(__FILE__, __LINE__, "%s gave %s (%s)", operations[i].name, pgqrs_result_name(result),
                    last_message(T.store));
        picture(after, sizeof(after));
        if (strcmp(before, after) != 0)
            fail_at(__FILE__, __LINE__, "%s changed\n%sinto\n%s", operations[i].name, before, after);
    }
    EQ(SQLITE_OK, sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL));
    FAILS(ERR_BUSY, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    EQ(PGQRS_KIND_RETRY, pgqrs_last_error(T.store)->kind);
    EQ(SQLITE_OK, sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    forget_data();
}

#if defined(__linux__)
/* As a process has it that was stopped in the middle of a commit. */
static int take_turn_for_ever(void)
{
    char path[640];
    struct flock lock;
    int fd;
    snprintf(path, sizeof(path), "%s-qlock", T.file);
    memset(&lock, 0, sizeof(lock));
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_len = 1;
    fd = open(path, O_RDWR);
    YES(fd >= 0);
    EQ(0, fcntl(fd, 37 /* F_OFD_SETLK, hidden under -std=c99 */, &lock));
    return fd;
}

static void open_beside_a_stopped_process_is_busy(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_error error;
    int64_t start;
    int fd;
    desc.connect_timeout_ms = 50;
    reopen_with(&desc);
    put();
    fd = take_turn_for_ever();
    start = monotonic_ms();
    YES(pgqrs_open(T.dsn, &desc, &error) == NULL);
    EQ(PGQRS_ERR_BUSY, error.code);
    YES(strstr(error.message, "-qlock") != NULL);
    BETWEEN(50, 5000, monotonic_ms() - start);
    EQ(1, numbers().ready);
    close(fd);
    reopen_with(&desc);
    put();
    EQ(2, numbers().ready);
}
#endif

static int hold_the_lock_in_child(void *user)
{
    int tell = *(int *)user;
    sqlite3 *database = NULL;
    char byte = 'x';
    if (sqlite3_open(T.file, &database) != SQLITE_OK || sqlite3_exec(database, "BEGIN EXCLUSIVE", NULL, NULL, NULL) != SQLITE_OK)
        return 1;
    if (write(tell, &byte, 1) != 1)
        return 2;
    sleep_ms(400);
    if (sqlite3_exec(database, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        return 3;
    sqlite3_close(database);
    return 0;
}

static void lock_of_another_process_is_waited_for(void)
{
    int pipes[2];
    pid_t child;
    char byte = 0;
    pgqrs_store_desc desc = real_time_desc();
    T.store = open_store(NULL);
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    close_all_stores();
    EQ(0, pipe(pipes));
    child = start_child(hold_the_lock_in_child, &pipes[1]);
    EQ(1, read(pipes[0], &byte, 1));
    T.store = open_store(&desc);
    OK(pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    child_ended_well(child);
    close(pipes[0]);
    close(pipes[1]);
}

/* Rubbish in the middle of the file: an error of the right kind, and no crash. */
static void damaged_file_is_an_error_and_no_crash(void)
{
    FILE *file;
    long size, at;
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_result result;
    int i;
    desc.sqlite_wal = PGQRS_OFF;
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    put_batch(T.queue, 500, 0, NULL);
    close_all_stores();
    file = fopen(T.file, "r+b");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    for (at = 4096; at + 100 < size; at += 1000) {
        fseek(file, at, SEEK_SET);
        for (i = 0; i < 40; i++)
            fputc((int)(test_random(NULL) & 255), file);
    }
    fclose(file);
    T.store = remember_store(pgqrs_open(T.dsn, &desc, &err));
    result = T.store ? pgqrs_verify(T.store) : err.code;
    YES(result == PGQRS_ERR_DATABASE || result == PGQRS_ERR_SCHEMA_DAMAGED);
    if (T.store) {
        pgqrs_message *message = NULL;
        check_error(pgqrs_last_error(T.store), result, "pgqrs_verify", __FILE__, __LINE__);
        pgqrs_dequeue(T.store, T.queue, NULL, &message);
        pgqrs_free(message);
        pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL);
    }
}

/* --- processes killed at any moment --- */

enum { ENQUEUED = 1, ARCHIVED = 2 };
typedef struct told {
    int64_t id;
    int64_t what;
} told;

static int live_until_killed_in_child(void *user)
{
    int tell = *(int *)user;
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    told line;
    int round;
    for (round = 0;; round++) {
        pgqrs_enqueue_item items[3];
        pgqrs_receipt receipts[3];
        pgqrs_messages *messages = NULL;
        pgqrs_dequeue_desc claim = {.limit = 2, .lease_ms = 3600000};
        size_t i, count = (size_t)(1 + round % 3);
        memset(items, 0, sizeof(items));
        for (i = 0; i < count; i++)
            items[i].payload = SECRET_PAYLOAD;
        if (pgqrs_enqueue_many(store, T.queue, items, count, receipts) != PGQRS_OK)
            return 1;
        for (i = 0; i < count; i++) {
            line.id = receipts[i].id;
            line.what = ENQUEUED;
            if (write(tell, &line, sizeof(line)) != (ssize_t)sizeof(line))
                return 2;
        }
        if (pgqrs_dequeue_many(store, T.queue, &claim, &messages) != PGQRS_OK)
            return 3;
        for (i = 0; i < messages->count; i++) {
            if (pgqrs_archive(store, &messages->items[i]) != PGQRS_OK)
                return 4;
            line.id = messages->items[i].id;
            line.what = ARCHIVED;
            if (write(tell, &line, sizeof(line)) != (ssize_t)sizeof(line))
                return 5;
        }
        pgqrs_free(messages);
    }
}

/* Every other one is not killed before it has told something, however long it takes to open the store. */
static void wait_for_some_lines(int from)
{
    int64_t began_ms = monotonic_ms();
    int bytes = 0;
    while (bytes < 3 * (int)sizeof(told)) {
        YES(monotonic_ms() - began_ms < 50000);
        sleep_ms(1);
        EQ(0, ioctl(from, FIONREAD, &bytes));
    }
}

static void killed_at_any_moment_loses_nothing_acknowledged(void)
{
    enum { rounds = 12 };
    static told lines[200000];
    size_t count = 0, i;
    int round;
    int64_t enqueued = 0, total;
    pgqrs_queue_desc queue = test_queue_desc();
    queue.max_attempts = 1000;
    T.store = open_store(NULL);
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    close_all_stores();
    for (round = 0; round < rounds; round++) {
        int pipes[2], status = 0;
        pid_t child;
        EQ(0, pipe(pipes));
        fcntl(pipes[1], F_SETPIPE_SZ, 1024 * 1024);
        child = start_child(live_until_killed_in_child, &pipes[1]);
        close(pipes[1]);
        if (round % 2)
            wait_for_some_lines(pipes[0]);
        sleep_ms((round % 2 ? 0 : 60) + (int64_t)(test_random(NULL) % 60));
        kill(child, SIGKILL);
        EQ(child, waitpid(child, &status, 0));
        if (!WIFSIGNALED(status))
            fail_at(__FILE__, __LINE__, "the child ended by itself with %d", WEXITSTATUS(status));
        while (count < COUNT_OF(lines) && read(pipes[0], &lines[count], sizeof(told)) == (ssize_t)sizeof(told))
            count++;
        close(pipes[0]);
        T.store = open_store(NULL);
        T.now_us = real_us();
        OK(pgqrs_verify(T.store));
        close_all_stores();
    }
    T.store = open_store(NULL);
    YES(count > rounds);
    for (i = 0; i < count; i++)
        enqueued += lines[i].what == ENQUEUED;
    for (i = 0; i < count; i++) {
        if (count > 600 && i % (count / 300) != 0)
            continue;
        if (lines[i].what == ARCHIVED)
            STATE("archived", lines[i].id);
        else
            YES(look(lines[i].id) != NULL);
    }
    total = count_where((pgqrs_message_filter){.queue = T.queue});
    /* A batch that was committed but not told of, at most, per kill. */
    BETWEEN(enqueued, enqueued + 3 * rounds, total);
    printf("# %d acknowledgements in %d lives\n", (int)count, (int)rounds);
}

static const test_case connection_cases[] = {
    CASE_ON(ended_before_each_call_is_mended, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(ended_without_retries_tells_the_truth, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(ended_in_the_middle_loses_nothing_acknowledged, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(loop_survives_ended_connections, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(waiting_survives_an_ended_connection, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(borrowed_connection_that_ended_is_not_mended, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(transaction_of_the_caller_that_ended_is_lost_as_a_whole, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(server_that_goes_away_is_an_error_and_no_hang, NO_STORE, ON_SERVER),
    CASE_ON(read_only_server_is_told_apart, NO_QUEUE | FRESH, ON_POSTGRES),
    CASE_ON(user_without_rights_is_told_so, NO_QUEUE | FRESH, ON_POSTGRES),
    CASE_ON(read_only_file_is_told_so, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(read_only_file_in_wal_mode_is_told_so, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(full_database_changes_nothing, TWO, ON_SQLITE),
    CASE_ON(file_that_cannot_grow_keeps_what_was_acknowledged, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(locked_file_is_busy_after_the_timeout, NO_QUEUE, ON_SQLITE_FILE),
#if defined(__linux__)
    CASE_ON(open_beside_a_stopped_process_is_busy, PLAIN, ON_SQLITE_FILE),
#endif
    CASE_ON(lock_of_another_process_is_waited_for, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(damaged_file_is_an_error_and_no_crash, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(killed_at_any_moment_loses_nothing_acknowledged, NO_STORE | FRESH, ON_SHARED),
};

int main(void)
{
    static const test_list lists[] = {LIST(connection_cases)};
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    failed = run_lists("fault_connection", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
