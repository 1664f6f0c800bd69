/* The Nth statement of every public function fails, or the connection is lost around it. Whatever it is: the call did everything
 * or nothing, which another store sees; its error is of the right kind; no transaction and no lock is left; and the same call on the
 * same store succeeds afterwards.
 *
 * On Postgres a thread between libpq and the server makes it happen (fault_proxy.h), on SQLite the functions of sqlite3 the library
 * calls are replaced here. On S3 it is the Nth request that fails, or its reply is lost, once or from there on. Each statement meets
 * one kind of failure, which one changes with the seed; PGQRS_TEST_WHOLE=1 tries all. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sqlite3.h>

typedef enum sqlite_way {
    WAY_REFUSED,    /* the statement fails, the transaction goes on */
    WAY_ROLLED_BACK, /* and SQLite ended the transaction */
    WAY_DONE        /* it was done, and then reported as failed: only for a commit */
} sqlite_way;

static struct {
    bool armed;
    int code;
    sqlite_way way;
    int64_t countdown, happened;
    int last; /* what the connection says about its last call */
    bool at_commit;
} broken;

static bool breaks_now(sqlite3 *db, const char *sql)
{
    bool commits = sql && strcmp(sql, "COMMIT") == 0;
    broken.last = SQLITE_OK;
    if (!broken.armed || broken.countdown-- != 0)
        return false;
    broken.happened++;
    broken.last = broken.code;
    broken.at_commit = commits;
    if (broken.way == WAY_DONE && commits)
        sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    else if (broken.way != WAY_REFUSED && !sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return true;
}

static int broken_prepare(sqlite3 *db, const char *sql, int size, sqlite3_stmt **statement, const char **tail)
{
    if (breaks_now(db, sql)) {
        *statement = NULL;
        return broken.code;
    }
    return sqlite3_prepare_v2(db, sql, size, statement, tail);
}

static int broken_step(sqlite3_stmt *statement)
{
    if (breaks_now(sqlite3_db_handle(statement), sqlite3_sql(statement)))
        return broken.code;
    return sqlite3_step(statement);
}

static int broken_exec(sqlite3 *db, const char *sql, int (*row)(void *, int, char **, char **), void *context, char **message)
{
    if (breaks_now(db, sql))
        return broken.code;
    return sqlite3_exec(db, sql, row, context, message);
}

static int broken_errcode(sqlite3 *db)
{
    return broken.last ? broken.last : sqlite3_extended_errcode(db);
}

static const char *broken_errmsg(sqlite3 *db)
{
    return broken.last ? sqlite3_errstr(broken.last) : sqlite3_errmsg(db);
}

#define sqlite3_prepare_v2 broken_prepare
#define sqlite3_step broken_step
#define sqlite3_exec broken_exec
#define sqlite3_extended_errcode broken_errcode
#define sqlite3_errmsg broken_errmsg
#define PGQRS_THREADS
#include "fault_operations.h"
#include "fault_proxy.h"

/* --- what may fail, and what the call may say then --- */

typedef struct failure_kind {
    const char *name;
    pgqrs_result expected; /* beside success, when the library could do without, or again */
    int code;              /* of SQLite */
    sqlite_way way;
    proxy_fault fault;
    const char *sqlstate;
    const struct request_fault *request;
} failure_kind;

/* --- S3: what becomes of a request --- */

typedef struct request_fault {
    int before;    /* not sent; exchange gives this, with a body where it is a status */
    int after;     /* sent, and its reply is replaced by this */
    bool damaged;  /* sent; one bit of a reply's body is another */
    bool for_good; /* and so is everything that follows */
} request_fault;

enum { NOT_SENT = -1, NO_REPLY = 0, UNTOUCHED = 1 };

static struct {
    pthread_mutex_t lock;
    const request_fault *fault;
    int64_t countdown, happened;
} bucket = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The fault of this request, or NULL. */
static const request_fault *fault_of_request(void)
{
    const request_fault *fault = NULL;
    pthread_mutex_lock(&bucket.lock);
    if (bucket.fault && (bucket.countdown == 0 || (bucket.fault->for_good && bucket.countdown < 0))) {
        fault = bucket.fault;
        bucket.happened++;
    }
    bucket.countdown--;
    pthread_mutex_unlock(&bucket.lock);
    return fault;
}

static int made_up_reply(int status, pgqrs_http_reply *reply)
{
    static const char body[] = "<Error><Code>MadeUp</Code></Error>";
    if (status > 0 && (!pgqrs_http_reply_field(reply, "Content-Type", 12, "application/xml", 15) ||
                       !pgqrs_http_reply_body(reply, body, sizeof(body) - 1)))
        return NO_REPLY;
    return status;
}

/* Drops the reply of a request that is carried out. */
static int exchange_for_nothing(const pgqrs_http_request *request)
{
    pgqrs_http_reply dropped;
    int status;
    memset(&dropped, 0, sizeof(dropped));
    dropped.store = T.store;
    dropped.most = (size_t)64 << 20;
    status = s3_exchange_plain(request, &dropped);
    pgqrsi_s3_release(T.store, &dropped.body);
    return status;
}

static int exchange_damaged(const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    int status = s3_exchange_plain(request, reply);
    if (reply->body.size > 0)
        reply->body.data[reply->body.size / 2] ^= 4;
    return status;
}

static int exchange_with_faults(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    const request_fault *fault = fault_of_request();
    (void)user;
    if (!fault)
        return s3_exchange_plain(request, reply);
    if (fault->damaged)
        return exchange_damaged(request, reply);
    if (fault->before != UNTOUCHED)
        return made_up_reply(fault->before, reply);
    exchange_for_nothing(request);
    return made_up_reply(fault->after, reply);
}

static const failure_kind sqlite_kinds[] = {
    {"busy", PGQRS_ERR_BUSY, SQLITE_BUSY, WAY_REFUSED, PROXY_NONE, NULL, NULL},
    {"an I/O error", PGQRS_ERR_DATABASE, SQLITE_IOERR_WRITE, WAY_ROLLED_BACK, PROXY_NONE, NULL, NULL},
    {"full", PGQRS_ERR_FULL, SQLITE_FULL, WAY_ROLLED_BACK, PROXY_NONE, NULL, NULL},
    {"no memory", PGQRS_ERR_NO_MEMORY, SQLITE_NOMEM, WAY_ROLLED_BACK, PROXY_NONE, NULL, NULL},
    {"no memory, the transaction goes on", PGQRS_ERR_NO_MEMORY, SQLITE_NOMEM, WAY_REFUSED, PROXY_NONE, NULL, NULL},
    {"damaged", PGQRS_ERR_DATABASE, SQLITE_CORRUPT, WAY_REFUSED, PROXY_NONE, NULL, NULL},
    {"read-only", PGQRS_ERR_READ_ONLY, SQLITE_READONLY, WAY_REFUSED, PROXY_NONE, NULL, NULL},
    {"an I/O error after the commit", PGQRS_ERR_DATABASE, SQLITE_IOERR_FSYNC, WAY_DONE, PROXY_NONE, NULL, NULL},
};

/* What can go wrong in a database in memory. */
static const failure_kind memory_kinds[] = {
    {"no memory", PGQRS_ERR_NO_MEMORY, SQLITE_NOMEM, WAY_ROLLED_BACK, PROXY_NONE, NULL, NULL},
    {"no memory, the transaction goes on", PGQRS_ERR_NO_MEMORY, SQLITE_NOMEM, WAY_REFUSED, PROXY_NONE, NULL, NULL},
    {"damaged", PGQRS_ERR_DATABASE, SQLITE_CORRUPT, WAY_REFUSED, PROXY_NONE, NULL, NULL},
};

static const failure_kind refusals[] = {
    {"serialization failure", PGQRS_ERR_CONFLICT, 0, WAY_REFUSED, PROXY_ERROR, "40001", NULL},
    {"deadlock", PGQRS_ERR_CONFLICT, 0, WAY_REFUSED, PROXY_ERROR, "40P01", NULL},
    {"disk full", PGQRS_ERR_FULL, 0, WAY_REFUSED, PROXY_ERROR, "53100", NULL},
    {"read-only", PGQRS_ERR_READ_ONLY, 0, WAY_REFUSED, PROXY_ERROR, "25006", NULL},
    {"statement timeout", PGQRS_ERR_BUSY, 0, WAY_REFUSED, PROXY_ERROR, "57014", NULL},
    {"lock timeout", PGQRS_ERR_BUSY, 0, WAY_REFUSED, PROXY_ERROR, "55P03", NULL},
    {"no right", PGQRS_ERR_ACCESS_DENIED, 0, WAY_REFUSED, PROXY_ERROR, "42501", NULL},
    {"an internal error", PGQRS_ERR_DATABASE, 0, WAY_REFUSED, PROXY_ERROR, "XX000", NULL},
};

static const failure_kind losses[] = {
    {"terminated", PGQRS_ERR_CONNECTION, 0, WAY_REFUSED, PROXY_TERMINATE, NULL, NULL},
    {"lost before it", PGQRS_ERR_CONNECTION, 0, WAY_REFUSED, PROXY_LOSE_BEFORE, NULL, NULL},
    {"lost after it", PGQRS_ERR_CONNECTION, 0, WAY_REFUSED, PROXY_LOSE_AFTER, NULL, NULL},
    {"lost in the reply", PGQRS_ERR_CONNECTION, 0, WAY_REFUSED, PROXY_LOSE_MIDDLE, NULL, NULL},
};

/* Once: nobody notices, or the answer is the store's own. */
#define REQUEST(name, before, after, damaged, for_good, expected)                                                     \
    {name, expected, 0, WAY_REFUSED, PROXY_NONE, NULL, &(const request_fault){before, after, damaged, for_good}}

static const failure_kind passing_requests[] = {
    REQUEST("not sent", NOT_SENT, UNTOUCHED, false, false, PGQRS_OK),
    REQUEST("lost", NO_REPLY, UNTOUCHED, false, false, PGQRS_OK),
    REQUEST("its reply is lost", UNTOUCHED, NO_REPLY, false, false, PGQRS_OK),
    REQUEST("500 before it", 500, UNTOUCHED, false, false, PGQRS_OK),
    REQUEST("500 after it", UNTOUCHED, 500, false, false, PGQRS_OK),
    REQUEST("503", 503, UNTOUCHED, false, false, PGQRS_OK),
    REQUEST("429", 429, UNTOUCHED, false, false, PGQRS_OK),
    REQUEST("damaged", UNTOUCHED, UNTOUCHED, true, false, PGQRS_OK),
};

static const failure_kind lasting_requests[] = {
    REQUEST("no way to the store", NOT_SENT, UNTOUCHED, false, true, PGQRS_ERR_CONNECTION),
    REQUEST("no reply any more, nothing is done", NO_REPLY, UNTOUCHED, false, true, PGQRS_ERR_CONNECTION),
    REQUEST("no reply any more, all is done", UNTOUCHED, NO_REPLY, false, true, PGQRS_ERR_CONNECTION),
    REQUEST("500 for everything", 500, UNTOUCHED, false, true, PGQRS_ERR_CONNECTION),
    REQUEST("500 for everything, and all is done", UNTOUCHED, 500, false, true, PGQRS_ERR_CONNECTION),
    REQUEST("503 for everything", 503, UNTOUCHED, false, true, PGQRS_ERR_BUSY),
    REQUEST("429 for everything", 429, UNTOUCHED, false, true, PGQRS_ERR_BUSY),
    REQUEST("403 for everything", 403, UNTOUCHED, false, true, PGQRS_ERR_ACCESS_DENIED),
};

static void arm(const failure_kind *kind, int64_t nth)
{
    if (on(ON_SERVER)) {
        proxy_arm(kind->fault, kind->sqlstate, nth);
        return;
    }
    if (kind->request) {
        bucket.fault = kind->request;
        bucket.countdown = nth;
        bucket.happened = 0;
        return;
    }
    memset(&broken, 0, sizeof(broken));
    broken.code = kind->code;
    broken.way = kind->way;
    broken.countdown = nth;
    broken.armed = true;
}

static int64_t disarm(void)
{
    broken.armed = false;
    if (bucket.fault) {
        bucket.fault = NULL;
        return bucket.happened;
    }
    return on(ON_SERVER) ? proxy_disarm() : broken.happened;
}

static bool may_say(const failure_kind *kind, pgqrs_result result)
{
    bool loss = kind->fault > PROXY_ERROR || (kind->request && kind->request->for_good && kind->request->before != NOT_SENT);
    if (result == PGQRS_OK || result == kind->expected)
        return true;
    if (kind->request && kind->request->for_good && result == PGQRS_ERR_CONNECTION)
        return true; /* a commit that the store does not take, whatever it says about it */
    return result == PGQRS_ERR_OUTCOME_UNKNOWN && (loss || (broken.at_commit && kind->expected == PGQRS_ERR_DATABASE));
}

/* --- looking, through another store --- */

static pgqrs_store *watcher;
static char before[16384], after[16384], done_shape[16384], shape[16384];

static void look_at(char *out, size_t room)
{
    pgqrs_store *store = T.store;
    T.store = watcher ? watcher : store;
    picture(out, room);
    T.store = store;
}

/* Numbers of two digits and more differ from one time to the next: ids, times, leases. */
static void shape_of(const char *text, char *out)
{
    while (*text) {
        size_t digits;
        if (*text == '-' && text[1] >= '0' && text[1] <= '9')
            text++; /* a lease is any number */
        digits = strspn(text, "0123456789");
        if (digits > 1)
            *out++ = '#';
        else if (digits == 1)
            *out++ = *text;
        text += digits;
        if (digits == 0)
            *out++ = *text++;
    }
    *out = '\0';
}

static void nothing_is_left_open(const char *what)
{
    if (on(ON_BUCKET)) {
        pgqrsi_s3 *self = (pgqrsi_s3 *)T.store->self;
        if (self->spanning || (self->db && self->loaded && !sqlite3_get_autocommit(self->db))) /* not loaded: it is thrown away */
            fail_at(__FILE__, __LINE__, "%s left a transaction open", what);
        if (self->locked)
            fail_at(__FILE__, __LINE__, "%s kept the lock", what);
    } else if (on(ON_SQLITE)) {
        pgqrsi_sqlite *self = (pgqrsi_sqlite *)T.store->self;
        if (!sqlite3_get_autocommit(self->db))
            fail_at(__FILE__, __LINE__, "%s left a transaction open", what);
        if (self->turn_taken)
            fail_at(__FILE__, __LINE__, "%s kept the queue lock", what);
    } else {
        pgqrsi_pg *pg = (pgqrsi_pg *)T.store->self;
        if (pg->connection && PQstatus(pg->connection) == CONNECTION_OK &&
            PQtransactionStatus(pg->connection) != PQTRANS_IDLE)
            fail_at(__FILE__, __LINE__, "%s left a transaction open", what);
    }
    if (watcher && pgqrs_queue_pause(watcher, "nowhere") != PGQRS_ERR_QUEUE_NOT_FOUND)
        fail_at(__FILE__, __LINE__, "%s keeps others out: %s", what, last_message(watcher));
}

static void fresh_data(void)
{
    D.due_at_us = T.now_us;
    prepare_data();
    look_at(before, sizeof(before));
}

/* Past the library, which would take the row of a worker gone for a new one of the same name. */
static void forget_worker(const char *name)
{
    char sql[200];
    snprintf(sql, sizeof(sql), "DELETE FROM @pgqrs_workers WHERE name = '%s'", name);
    if (on(ON_SQLITE_MEMORY))
        sqlite3_exec(((pgqrsi_sqlite *)T.store->self)->db, "DELETE FROM pgqrs_workers WHERE name = 'made-without-memory'",
                     NULL, NULL, NULL);
    else
        raw_exec(sql);
}

static void tidy_after(const operation *what)
{
    pgqrs_store *store = T.store;
    T.store = watcher ? watcher : store;
    forget_rows(what);
    T.store = store;
    if (strcmp(what->name, "pgqrs_worker_register") == 0)
        forget_worker("made-without-memory");
    T.now_us += SECOND_US;
}

/* What the operation does when nothing fails. */
static void learn(const operation *what)
{
    pgqrs_result result;
    with_runs = is_about_runs(what);
    fresh_data();
    result = what->call();
    if (result != PGQRS_OK)
        fail_at(__FILE__, __LINE__, "%s gave %s (%s)", what->name, pgqrs_result_name(result), last_message(T.store));
    T.now_us = D.due_at_us;
    look_at(after, sizeof(after));
    shape_of(after, done_shape);
    tidy_after(what);
}

/* The first line in which two pictures differ. */
static const char *difference(const char *one, const char *other)
{
    static char lines[500];
    size_t at = 0, line = 0;
    for (; one[at] && one[at] == other[at]; at++)
        if (one[at] == '\n')
            line = at + 1;
    snprintf(lines, sizeof(lines), "%.*s -> %.*s", (int)strcspn(one + line, "\n"), one + line,
             (int)strcspn(other + line, "\n"), other + line);
    return lines;
}

/* Nothing changed, as the error says, or everything. True: nothing did. */
static bool all_or_nothing(const char *text, pgqrs_result result, bool repeated)
{
    bool same;
    look_at(after, sizeof(after));
    same = strcmp(before, after) == 0;
    shape_of(after, shape);
    if (result == PGQRS_OK && !repeated && strcmp(shape, done_shape) != 0)
        fail_at(__FILE__, __LINE__, "%s succeeded, and did something else: %s", text, difference(done_shape, shape));
    if (result != PGQRS_OK && result != PGQRS_ERR_OUTCOME_UNKNOWN && !repeated && !same)
        fail_at(__FILE__, __LINE__, "%s: %s, and changed %s", text, pgqrs_result_name(result),
                difference(before, after));
    if (result == PGQRS_ERR_OUTCOME_UNKNOWN && !same && strcmp(shape, done_shape) != 0)
        fail_at(__FILE__, __LINE__, "%s did a half: %s", text, difference(done_shape, shape));
    return same && result != PGQRS_OK;
}

static void check_failure(const failure_kind *kind, const char *text, pgqrs_result result, const pgqrs_error *err, bool parts)
{
    if (!may_say(kind, result))
        fail_at(__FILE__, __LINE__, "%s gave %s (%s)", text, pgqrs_result_name(result), err->message);
    if (result == PGQRS_OK || (parts && err->code != result)) /* several calls: the last one's error is not the first one's */
        return;
    check_error(err, result, text, __FILE__, __LINE__);
    if (on(ON_SQLITE_FILE) && result != PGQRS_ERR_NO_MEMORY)
        check_text_names(err->message, T.file, text, __FILE__, __LINE__);
    if (kind->sqlstate && err->sqlstate[0] && strcmp(err->sqlstate, kind->sqlstate) != 0)
        fail_at(__FILE__, __LINE__, "%s: SQLSTATE %s", text, err->sqlstate);
}

/* A claim whose reply was lost left its messages with nobody: they come back when its lease ends, and the claim may be made again.
 * This is the one thing that "nothing was done" leaves out. */
static bool may_be_repeated(const operation *what, const failure_kind *kind)
{
    bool claims = strstr(what->name, "dequeue") || strcmp(what->name, "pgqrs_settle") == 0;
    return claims && kind->fault > PROXY_ERROR;
}

static int64_t failures, absorbed;

static void break_one(const operation *what, const failure_kind *kinds, size_t kind_count, uint64_t offset)
{
    bool fresh = true, happened = true;
    int64_t total = 0;
    if (run.loud)
        fprintf(stderr, "# %s\n", what->name);
    learn(what);
    for (int64_t nth = 0; happened; nth++) {
        const failure_kind *kind = &kinds[((uint64_t)nth + offset) % kind_count];
        char text[200];
        pgqrs_result result;
        pgqrs_error err;
        if (fresh) {
            fresh_data();
            total = total_of_queue();
        }
        T.sleeps = 0;
        arm(kind, nth);
        result = what->call();
        err = *pgqrs_last_error(T.store);
        happened = disarm() > 0;
        T.now_us = D.due_at_us;
        snprintf(text, sizeof(text), "%s, statement %d: %s", what->name, (int)nth, happened ? kind->name : "nothing failed");
        failures += happened;
        absorbed += happened && result == PGQRS_OK;
        if (!happened && result != PGQRS_OK)
            fail_at(__FILE__, __LINE__, "%s gave %s (%s)", text, pgqrs_result_name(result), err.message);
        if (what->call == call_open && result != PGQRS_OK)
            err.code = result; /* it has an error of its own */
        else
            check_failure(kind, text, result, &err, what->flags != CHANGES_NOTHING);
        nothing_is_left_open(text);
        if (what->flags == CHANGES_NOTHING) {
            fresh = !all_or_nothing(text, result, may_be_repeated(what, kind));
        } else {
            fresh = true;
            if (what->flags == MAY_DO_PARTS && total_of_queue() != total)
                fail_at(__FILE__, __LINE__, "%s lost a message", text);
        }
        if (fresh)
            tidy_after(what);
        if (nth > 400)
            fail_at(__FILE__, __LINE__, "%s never gets through", what->name);
    }
}

/* `share` of 2: every other operation, so that two cases do all of them once. */
static void break_all(const failure_kind *kinds, size_t kind_count, int share)
{
    bool whole = getenv("PGQRS_TEST_WHOLE") != NULL;
    int tried = 0, left_out = 0;
    const char *only = getenv("PGQRS_TEST_OPERATION");
    watch(on(ON_S3) && whole ? 3600 : TEST_SANITIZED ? 1200 : 600);
    memset(&D, 0, sizeof(D));
    failures = absorbed = 0;
    for (size_t i = 0; i < COUNT_OF(operations); i++) {
        if (operations[i].call == call_config || (only && !strstr(operations[i].name, only)))
            continue;
        if (kinds[0].request && kinds[0].request->for_good && operations[i].flags != CHANGES_NOTHING)
            continue; /* a loop goes on until the store is back */
        if (!only && ((!whole && share >= 0 && (int)((i + run.seed) % 2) != share) || is_left_out(i))) {
            left_out++;
            continue;
        }
        tried++;
        for (uint64_t offset = 0; offset < (whole ? kind_count : 1); offset++)
            break_one(&operations[i], kinds, kind_count, whole ? offset : run.seed + i);
    }
    forget_data();
    printf("# %d %s failed in %d operations, %d of them without the caller noticing; %d operations were left out (PGQRS_TEST_WHOLE=1)\n",
           (int)failures, kinds[0].request ? "requests" : "statements", tried, (int)absorbed, left_out);
    YES(only || left_out > 0 || failures > tried / 2); /* a few operations may be those that ask for nothing */
    OK(pgqrs_verify(T.store));
}

/* Ids of one digit would be told apart by shape_of. */
static void put_some_numbers_out_of_the_way(void)
{
    pgqrs_queue_desc desc = test_queue_desc();
    char name[80];
    for (int i = 0; i < 12; i++) {
        snprintf(name, sizeof(name), "%s-%d", T.queue, i);
        OK(pgqrs_queue_create(T.store, name, &desc));
        enlist(name, name);
        put_batch(name, 2, 0, NULL);
        if (take_with(T.store, name, (pgqrs_dequeue_desc){.limit = 1}) == NULL)
            fail_at(__FILE__, __LINE__, "nothing was delivered");
    }
}

/* T.store through the proxy, and a watcher past it. */
static void begin_breaking(int32_t retry_limit)
{
    pgqrs_store_desc desc = test_desc();
    char direct[1280];
    desc.retry_limit = retry_limit;
    watcher = NULL;
    T.now_us += 123457; /* no time is round: shape_of would take it for none */
    if (on(ON_BUCKET))
        watcher = open_elsewhere();
    else if (!on(ON_SQLITE_MEMORY))
        watcher = open_store(NULL);
    if (on(ON_SERVER)) {
        snprintf(direct, sizeof(direct), "%s", T.dsn);
        proxy_start(direct, T.dsn, sizeof(T.dsn));
    }
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    put_some_numbers_out_of_the_way();
}

static void end_breaking(void)
{
    close_all_stores();
    if (on(ON_SERVER))
        proxy_end();
}

static void a_statement_is_refused(void)
{
    begin_breaking(-1);
    if (on(ON_SERVER))
        break_all(refusals, COUNT_OF(refusals), -1);
    else if (on(ON_S3))
        break_all(memory_kinds, COUNT_OF(memory_kinds), -1);
    else
        break_all(sqlite_kinds, COUNT_OF(sqlite_kinds), -1);
    end_breaking();
}

static void a_connection_is_lost(void)
{
    begin_breaking(-1);
    break_all(losses, COUNT_OF(losses), 0);
    end_breaking();
}

static void a_connection_is_lost_and_the_call_repeated(void)
{
    begin_breaking(0);
    break_all(losses, COUNT_OF(losses), 1);
    end_breaking();
}

static void a_request_fails(void)
{
    S3.instead.exchange = exchange_with_faults;
    begin_breaking(0);
    break_all(passing_requests, COUNT_OF(passing_requests), -1);
    end_breaking();
}

static void every_request_fails_from_there_on(void)
{
    S3.instead.exchange = exchange_with_faults;
    begin_breaking(0);
    break_all(lasting_requests, COUNT_OF(lasting_requests), -1);
    end_breaking();
}

/* --- local mode: the calls are those of SQLite, but for these */

static void break_copying(const copying *what, const failure_kind *kinds, size_t kind_count)
{
    for (size_t k = 0; k < kind_count; k++) {
        bool happened = true;
        for (int64_t nth = 0; happened; nth++) {
            char text[200];
            pgqrs_result result;
            prepare_copying(what);
            arm(&kinds[k], nth);
            result = what->call();
            happened = disarm() > 0;
            snprintf(text, sizeof(text), "%s, request %d: %s", what->name, (int)nth, happened ? kinds[k].name : "nothing failed");
            failures += happened;
            if (!(happened ? may_say(&kinds[k], result) : result == PGQRS_OK))
                fail_at(__FILE__, __LINE__, "%s gave %s (%s)", text, pgqrs_result_name(result), last_message(T.store));
            check_copying(what, text, result);
            YES(nth < 30);
        }
    }
}

static void a_request_of_sync_or_snapshot_fails(void)
{
    S3.instead.exchange = exchange_with_faults;
    failures = 0;
    begin_copying();
    for (size_t i = 0; i < COUNT_OF(copyings); i++) {
        break_copying(&copyings[i], passing_requests, COUNT_OF(passing_requests));
        break_copying(&copyings[i], lasting_requests, COUNT_OF(lasting_requests));
    }
    printf("# %d requests failed\n", (int)failures);
    YES(failures > 40);
}

static void settle_one(const pgqrs_message *message, pgqrs_verdict verdict, pgqrs_result *result)
{
    pgqrs_settlement item = pgqrs_settlement_for(message, verdict);
    *result = pgqrs_settle(T.store, &item, 1, NULL, NULL, NULL);
    if (*result == PGQRS_OK)
        *result = item.result;
}

/* Each verdict on a message out of the middle of a lease whose other messages stay held. */
static void a_verdict_whose_reply_is_lost_was_given_once(void)
{
    static const pgqrs_verdict verdicts[] = {PGQRS_ARCHIVE, PGQRS_DELETE, PGQRS_RETRY, PGQRS_RELEASE, PGQRS_GIVE_BACK, PGQRS_REJECT};
    begin_breaking(0);
    for (size_t i = 0; i < COUNT_OF(verdicts); i++) {
        pgqrs_dequeue_desc six = {.limit = 6};
        const pgqrs_messages *held;
        pgqrs_result result;
        char name[20];
        snprintf(name, sizeof(name), "verdict-%d", (int)verdicts[i]);
        const char *queue = another_queue(name);
        put_batch(queue, 6, 0, NULL);
        held = take_many_with(T.store, queue, six);
        EQ(6, held->count);
        settle_one(&held->items[1], verdicts[i], &result); /* and so the statement is prepared: the next to go out is the verdict */
        EQ(PGQRS_OK, result);
        proxy_arm(PROXY_LOSE_AFTER, NULL, 0);
        settle_one(&held->items[3], verdicts[i], &result);
        EQ(1, proxy_disarm());
        if (result != PGQRS_OK)
            fail_at(__FILE__, __LINE__, "verdict %d gave %s", (int)verdicts[i], pgqrs_result_name(result));
        settle_one(&held->items[3], verdicts[i], &result);
        EQ(PGQRS_ERR_LEASE_LOST, result);
        settle_one(&held->items[2], PGQRS_ARCHIVE, &result);
        EQ(PGQRS_OK, result);
    }
    end_breaking();
}

/* A message with a key may be finished, and its key free again, before the call could be repeated: that is for the caller to decide. */
static void an_enqueue_whose_reply_is_lost_is_not_repeated(void)
{
    pgqrs_enqueue_desc desc = {.dedup_key = "order-1"};
    pgqrs_receipt receipt;
    const char *queue;
    begin_breaking(0);
    queue = another_queue("keyed");
    OK(pgqrs_enqueue(T.store, queue, "1", &desc, &receipt));
    OK(pgqrs_archive(T.store, take_with(T.store, queue, (pgqrs_dequeue_desc){.limit = 1})));
    proxy_arm(PROXY_LOSE_AFTER, NULL, 0);
    EQ(PGQRS_ERR_OUTCOME_UNKNOWN, pgqrs_enqueue(T.store, queue, "2", &desc, &receipt));
    EQ(1, proxy_disarm());
    OK(pgqrs_enqueue(T.store, queue, "2", &desc, &receipt));
    YES(receipt.duplicate);
    end_breaking();
}

static const test_case statement_cases[] = {
    CASE_ON(a_verdict_whose_reply_is_lost_was_given_once, NO_STORE | FRESH, ON_POSTGRES),
    CASE_ON(an_enqueue_whose_reply_is_lost_is_not_repeated, NO_STORE | FRESH, ON_POSTGRES),
    CASE_ON(a_statement_is_refused, NO_STORE | FRESH, ON_SQLITE | ON_SERVER | ON_S3),
    CASE_ON(a_connection_is_lost, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(a_connection_is_lost_and_the_call_repeated, NO_STORE | FRESH, ON_POSTGRES),
    CASE_ON(a_request_fails, NO_STORE | FRESH, ON_S3),
    CASE_ON(every_request_fails_from_there_on, NO_STORE | FRESH, ON_S3),
    CASE_ON(a_request_of_sync_or_snapshot_fails, PLAIN, ON_S3_LOCAL),
};

int main(void)
{
    static const test_list lists[] = {LIST(statement_cases)};
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    failed = run_lists("fault_statements", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
