/* Stores of one machine share commits: whatever happens between two steps of the protocol. Each case takes the steps itself, in one
 * thread, through the functions of the library, so that every process is stopped or killed exactly where the case says: one that is
 * stopped takes its next step later or never, one that is killed is closed. Each row of the table "tally" is a change that was carried
 * out; nobody's may be there twice. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_s3.h"
#include "../examples/http_socket.h"
#include "s3_process.h"

static s3_process server;
static char dir[] = "/tmp/pgqrs-shared.XXXXXX", endpoint[64], cache[200];
static int caches;

/* A process of the machine, and the call that it is in. */
typedef struct party {
    const char *name;
    http_socket *http;
    void (*meanwhile)(struct party *p, const char *method); /* what others do when it is about to send a request */
    pgqrs_store *store;
    pgqrsi_s3 *self;
    pgqrsi_s3_op op;
    pgqrsi_s3_mark after;    /* what its try follows */
    pgqrsi_s3_staged flight; /* that it was about to send */
    bool again;
} party;

static void set(const char *lines)
{
    assert_true(s3_control(server.port, lines));
}

static int64_t gets(void)
{
    return s3_counter(server.port, "requests.GET");
}

static int exchange(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    party *p = (party *)user;
    pgqrs_http http = http_socket_callback(p->http);
    if (p->meanwhile)
        p->meanwhile(p, request->method);
    return http.exchange(http.user, request, reply);
}

static void join_at(party *p, const char *name, const char *where)
{
    pgqrs_s3_desc s3;
    pgqrs_store_desc desc;
    pgqrs_error err;
    void *context = NULL;
    memset(&s3, 0, sizeof(s3));
    memset(&desc, 0, sizeof(desc));
    memset(p, 0, sizeof(*p));
    p->name = name;
    p->http = http_socket_create();
    s3.http.exchange = exchange;
    s3.http.user = p;
    s3.endpoint = endpoint;
    s3.access_key = "test";
    s3.secret_key = "test-secret";
    s3.cache_dir = where;
    s3.request_timeout_ms = 1000;
    s3.deadline_ms = 8000;
    desc.s3 = &s3;
    desc.connect_timeout_ms = 4000;
    p->store = pgqrs_open("s3://b/q.sqlite", &desc, &err);
    if (!p->store)
        printf("# %s\n", err.message);
    assert_non_null(p->store);
    assert_int_equal(pgqrs_backend_enter(p->store, pgqrs_s3_backend(), &context), PGQRS_OK);
    assert_int_equal(pgqrs_backend_leave(p->store, PGQRS_OK), PGQRS_OK);
    p->self = (pgqrsi_s3 *)context;
}

static void join(party *p, const char *name)
{
    join_at(p, name, cache);
}

/* Also what is left of a process that was killed: its locks are free, and it takes no other step. */
static void leave(party *p)
{
    pgqrsi_s3_release(p->store, &p->flight.image);
    pgqrs_close(p->store);
    http_socket_destroy(p->http);
}

static void run_sql(party *p, const char *sql)
{
    pgqrsi_s3_op op = pgqrsi_s3_begin(p->self, PGQRSI_S3_WRITE, 0);
    while (pgqrsi_s3_again(&op))
        op.result = pgqrsi_s3_exec(p->self, sql);
    if (op.result != PGQRS_OK)
        printf("# %s: %s\n", p->name, pgqrs_last_error(p->store)->message);
    assert_int_equal(op.result, PGQRS_OK);
}

static pgqrs_result carry_out(party *p)
{
    char sql[100];
    snprintf(sql, sizeof(sql), "INSERT INTO tally VALUES('%s')", p->name);
    return pgqrsi_s3_exec(p->self, sql);
}

/* Up to the stage, and is stopped there. */
static pgqrs_result stage(party *p)
{
    pgqrs_result result;
    p->op = pgqrsi_s3_begin(p->self, PGQRSI_S3_WRITE, 0);
    p->op.stage = PGQRSI_S3_RUNNING;
    result = pgqrsi_s3_prepare(&p->op, true);
    if (result == PGQRS_OK) {
        assert_int_equal(carry_out(p), PGQRS_OK);
        assert_int_equal(pgqrsi_s3_exec(p->self, "COMMIT"), PGQRS_OK);
        assert_true(pgqrsi_s3_may_share(p->self));
        assert_true(pgqrsi_s3_stage_db(p->self, &p->op.patience));
        p->after = p->self->tip.after;
        p->self->loaded = false;
    }
    pgqrsi_s3_unlock(p->self);
    return result;
}

#define STAGED(p) assert_int_equal(stage(p), PGQRS_OK)

static void hold_files(party *p)
{
    assert_int_equal(pgqrsi_s3_lock(p->self), PGQRS_OK);
    assert_true(pgqrsi_s3_catch_up(p->self));
}

/* Makes the stage a flight, or takes the one that was left behind, and is stopped before the PUT. */
static void take_off(party *p)
{
    hold_files(p);
    assert_int_equal(pgqrsi_s3_take_next(p->self, &p->flight, &p->again), PGQRSI_S3_THERE);
    pgqrsi_s3_unlock(p->self);
}

/* The PUT of that flight, and is stopped when it has the reply. */
static pgqrsi_s3_outcome fly(party *p)
{
    pgqrs_result result;
    bool uncertain = p->again;
    pgqrsi_s3_outcome outcome;
    pgqrsi_s3_patience patience = pgqrsi_s3_begin_patience(8000000);
    outcome = pgqrsi_s3_push_for(p->self, p->flight.image.data, p->flight.image.size, &p->flight, &uncertain, &patience, &result);
    p->self->unpublished = outcome != PGQRSI_S3_FAILED;
    return outcome;
}

/* Tells the others. */
static void land(party *p, pgqrsi_s3_outcome outcome)
{
    assert_int_equal(pgqrsi_s3_lock(p->self), PGQRS_OK);
    pgqrsi_s3_end_flight(p->self, &p->flight, outcome, p->flight.after.seq);
    pgqrsi_s3_unlock(p->self);
}

/* Waits for the try that is staged, and is stopped when it knows what became of it. */
static pgqrsi_s3_outcome await(party *p, pgqrs_result *result)
{
    pgqrsi_s3_outcome outcome;
    hold_files(p);
    outcome = pgqrsi_s3_await(p->self, &p->op.patience, result);
    pgqrsi_s3_unlock(p->self);
    return outcome;
}

/* After a try that is lost: to the end of the call. */
static pgqrs_result again(party *p)
{
    bool more;
    for (more = pgqrsi_s3_run(&p->op, true); more; more = pgqrsi_s3_again(&p->op))
        p->op.result = carry_out(p);
    return p->op.result;
}

static pgqrs_result finish(party *p)
{
    pgqrs_result result = PGQRS_OK;
    pgqrsi_s3_outcome outcome = await(p, &result);
    if (outcome == PGQRSI_S3_LOST)
        return again(p);
    pgqrsi_s3_end(&p->op, outcome == PGQRSI_S3_LANDED ? PGQRS_OK : result);
    return p->op.result;
}

#define DONE(p)                                                                                                        \
    do {                                                                                                               \
        pgqrs_result done_result = finish(p);                                                                          \
        if (done_result != PGQRS_OK)                                                                                   \
            printf("# %s: %s\n", (p)->name, pgqrs_last_error((p)->store)->message);                                    \
        assert_int_equal(done_result, PGQRS_OK);                                                                       \
    } while (0)

/* As the object has it, for somebody who knows nothing yet. */
static int tally(const char *name)
{
    party p;
    char where[200];
    sqlite3_stmt *statement = NULL;
    int count = -1;
    snprintf(where, sizeof(where), "%s/c%d", dir, ++caches);
    join_at(&p, "reader", where);
    assert_int_equal(pgqrs_verify(p.store), PGQRS_OK);
    assert_int_equal(sqlite3_prepare_v2(p.self->db, "SELECT count(*) FROM tally WHERE who = ?1", -1, &statement, NULL), SQLITE_OK);
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    if (sqlite3_step(statement) == SQLITE_ROW)
        count = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    leave(&p);
    return count;
}

/* Something that happens just before a stage becomes a flight. */
static void (*before_takeoff)(void);

int rename(const char *from, const char *to)
{
    void (*happens)(void) = before_takeoff;
    if (happens && strlen(to) > 7 && strcmp(to + strlen(to) - 7, "/flight") == 0) {
        before_takeoff = NULL;
        happens();
    }
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

static void in_cache(const char *command)
{
    char line[600];
    snprintf(line, sizeof(line), "cd '%s'/*/ && %s", cache, command);
    assert_int_equal(system(line), 0);
}

static int each(void **state)
{
    party p;
    (void)state;
    set("objects=0\nread_only=0\ndelay_ms=0");
    snprintf(cache, sizeof(cache), "%s/c%d", dir, ++caches);
    join(&p, "first");
    assert_int_equal(pgqrs_install(p.store), PGQRS_OK);
    run_sql(&p, "CREATE TABLE tally(who TEXT)");
    leave(&p);
    return 0;
}

/* --- the sender is killed */

static void killed_before_the_put(void **state)
{
    party a, w;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    leave(&a);
    DONE(&w);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

/* A store that meets the commit by a GET, and cannot tell the others at once, does so before it builds on it. They need not ask. */
static void killed_between_landing_and_publishing(void **state)
{
    party a, w, r;
    int64_t before;
    bool moved;
    pgqrsi_s3_patience patience = pgqrsi_s3_begin_patience(3000000);
    (void)state;
    join(&a, "a");
    join(&w, "w");
    join(&r, "r");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    assert_int_equal(fly(&a), PGQRSI_S3_LANDED);
    leave(&a);
    assert_int_equal(pgqrsi_s3_lock(w.self), PGQRS_OK); /* the cache is in use */
    assert_int_equal(pgqrsi_s3_look(r.self, &patience, &moved), PGQRS_OK);
    assert_true(moved && r.self->unpublished);
    pgqrsi_s3_unlock(w.self);
    STAGED(&r);
    take_off(&r); /* its flight takes the place of the old one */
    before = gets();
    DONE(&w);
    assert_int_equal(gets(), before);
    assert_int_equal(fly(&r), PGQRSI_S3_LANDED);
    land(&r, PGQRSI_S3_LANDED);
    DONE(&r);
    leave(&w);
    leave(&r);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
    assert_int_equal(tally("r"), 1);
}

/* Likewise, when nobody has met it. */
static void killed_between_landing_and_publishing_unseen(void **state)
{
    party a, w;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    assert_int_equal(fly(&a), PGQRSI_S3_LANDED);
    leave(&a);
    DONE(&w);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

/* --- stages that follow nothing */

/* The flight is forgotten, and lands after all: what was staged on it was given up and does not come back. */
static void stage_on_a_forgotten_flight(void **state)
{
    party a, w, x;
    pgqrs_result result;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    join(&x, "x");
    STAGED(&a);
    take_off(&a);
    assert_true(pgqrsi_s3_take_commit(a.self));
    STAGED(&w);
    pgqrsi_s3_unlock(a.self);
    pgqrsi_s3_remove_shared(a.self, PGQRSI_S3_FLIGHT);
    assert_int_equal(await(&w, &result), PGQRSI_S3_LOST);
    assert_true(w.self->doubt_counter == 0); /* it was never sent: that is sure */
    assert_int_equal(fly(&a), PGQRSI_S3_LANDED);
    land(&a, PGQRSI_S3_LANDED);
    STAGED(&x);
    DONE(&x);
    assert_int_equal(again(&w), PGQRS_OK);
    leave(&a);
    leave(&w);
    leave(&x);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
    assert_int_equal(tally("x"), 1);
}

/* Another machine was faster than the flight. */
static void stage_on_a_lost_flight(void **state)
{
    party a, w, other;
    char where[200];
    int64_t before;
    (void)state;
    snprintf(where, sizeof(where), "%s/c%d", dir, ++caches);
    join_at(&other, "other", where);
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    take_off(&a);
    assert_true(pgqrsi_s3_take_commit(a.self));
    STAGED(&w);
    pgqrsi_s3_unlock(a.self);
    run_sql(&other, "INSERT INTO tally VALUES('other')");
    assert_int_equal(fly(&a), PGQRSI_S3_LOST);
    land(&a, PGQRSI_S3_LOST);
    in_cache("rm shared/stage.dropped");
    before = gets();
    DONE(&w); /* base proves it */
    assert_int_equal(gets(), before);
    DONE(&a);
    leave(&a);
    leave(&w);
    leave(&other);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
    assert_int_equal(tally("other"), 1);
}

/* Refused for certain: everybody may say so, and nobody has to ask. */
static void refused_flight_is_certain(void **state)
{
    party a, w;
    pgqrs_result result;
    int64_t before;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    set("read_only=1");
    assert_int_equal(await(&a, &result), PGQRSI_S3_FAILED);
    assert_int_equal(result, PGQRS_ERR_ACCESS_DENIED);
    before = gets();
    assert_int_equal(finish(&w), PGQRS_ERR_ACCESS_DENIED);
    assert_int_equal(gets(), before);
    set("read_only=0");
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 0);
    assert_int_equal(tally("w"), 0);
}

/* Refused, but another try of it may still be carried out: nobody says that it failed. */
static void refused_second_try_is_not_certain(void **state)
{
    party a, w;
    pgqrs_result result;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    set("read_only=1");
    assert_int_equal(await(&w, &result), PGQRSI_S3_FAILED);
    assert_int_equal(result, PGQRS_ERR_OUTCOME_UNKNOWN);
    set("read_only=0");
    assert_int_equal(fly(&a), PGQRSI_S3_LANDED);
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

static party *successor;

static void take_over(party *p, const char *method)
{
    if (strcmp(method, "PUT") != 0 || successor->flight.count > 0)
        return;
    assert_false(p->self->locked);
    pgqrsi_s3_real_pause(20000); /* whoever takes over has waited */
    take_off(successor);
    pgqrsi_s3_touch_flight(successor->self);
    set("read_only=1");
}

/* Likewise for the first one. */
static void refused_first_try_is_not_certain(void **state)
{
    party a, w;
    pgqrs_result result;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    run_sql(&a, "INSERT INTO tally VALUES('proven')");
    STAGED(&a);
    STAGED(&w);
    successor = &w;
    a.meanwhile = take_over;
    assert_int_equal(await(&a, &result), PGQRSI_S3_FAILED);
    assert_int_equal(result, PGQRS_ERR_OUTCOME_UNKNOWN);
    set("read_only=0");
    assert_true(w.flight.count == 2 && w.again);
    assert_int_equal(fly(&w), PGQRSI_S3_LANDED);
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

/* --- caches that cannot be written or read */

/* Who knows that its try landed is done, also when it cannot tell. The others find it out; their flight is not overwritten. */
static void cache_that_cannot_be_written(void **state)
{
    party a, w;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    in_cache("rm -f image.new && mkdir image.new");
    DONE(&a);
    assert_true(a.self->unpublished);
    run_sql(&a, "INSERT INTO tally VALUES('a2')"); /* alone: nobody could follow it */
    DONE(&w);
    in_cache("rmdir image.new");
    run_sql(&a, "INSERT INTO tally VALUES('a3')");
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
    assert_int_equal(tally("a2"), 1);
    assert_int_equal(tally("a3"), 1);
}

/* By somebody who tidies up while the programs run: all go on, and together. */
static void cache_that_is_removed(void **state)
{
    static const char *const commands[] = {"rm -rf \"$PWD\"", "rm line lock commit", "rm lock", "rm -rf shared"};
    int64_t before;
    (void)state;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        party a, w, x;
        char name[3][8];
        for (int k = 0; k < 3; k++)
            snprintf(name[k], 8, "%c%d", "awx"[k], (int)i);
        join(&a, name[0]);
        join(&w, name[1]);
        run_sql(&a, "INSERT INTO tally VALUES('before')");
        STAGED(&w);
        if (i == 3)
            join(&x, name[2]);
        in_cache(commands[i]);
        if (i == 1 || i == 2)
            join(&x, name[2]); /* comes to what is there now, */
        DONE(&w);
        in_cache("test -e image");
        if (i == 0)
            join(&x, name[2]); /* or to what was made again */
        run_sql(&x, "INSERT INTO tally VALUES('x')");
        run_sql(&a, "INSERT INTO tally VALUES('a')");
        assert_int_equal(pgqrsi_s3_lock(a.self), PGQRS_OK);
        assert_int_not_equal(pgqrsi_s3_flock(x.self->lock_fd, LOCK_EX | LOCK_NB), 0);
        pgqrsi_s3_unlock(a.self);
        STAGED(&a);
        STAGED(&x);
        before = s3_counter(server.port, "requests.PUT");
        DONE(&a);
        DONE(&x);
        assert_int_equal(s3_counter(server.port, "requests.PUT") - before, 1);
        leave(&a);
        leave(&w);
        leave(&x);
        for (int k = 0; k < 3; k++)
            assert_int_equal(tally(name[k]), 1);
    }
}

static party *newcomer;

static void come_with_another_lock(void)
{
    in_cache("rm lock");
    hold_files(newcomer);
    pgqrsi_s3_drop_shared(newcomer->self, PGQRSI_S3_STAGE);
    pgqrsi_s3_unlock(newcomer->self);
    STAGED(newcomer);
}

/* Between reading the stage and making it a flight: what was dropped is not sent. */
static void lock_that_is_removed(void **state)
{
    party a, w, x;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    join(&x, "x");
    STAGED(&w);
    newcomer = &x;
    before_takeoff = come_with_another_lock;
    hold_files(&a);
    assert_int_equal(pgqrsi_s3_take_next(a.self, &a.flight, &a.again), PGQRSI_S3_NOT_THERE);
    pgqrsi_s3_unlock(a.self);
    assert_null(before_takeoff);
    DONE(&w);
    DONE(&x);
    leave(&a);
    leave(&w);
    leave(&x);
    assert_int_equal(tally("w"), 1);
    assert_int_equal(tally("x"), 1);
}

/* A flight that follows a version which this store could not read from the cache is not taken for a dead one. */
static void flight_on_an_unreadable_version(void **state)
{
    party a, b, w;
    (void)state;
    join(&a, "a");
    join(&b, "b");
    join(&w, "w");
    run_sql(&a, "INSERT INTO tally VALUES('a')");
    STAGED(&b);
    take_off(&b);
    in_cache("truncate -s 1000 image");
    run_sql(&w, "INSERT INTO tally VALUES('w')"); /* asks, and goes alone */
    in_cache("test -e shared/flight");
    assert_int_equal(fly(&b), PGQRSI_S3_LOST);
    land(&b, PGQRSI_S3_LOST);
    DONE(&b);
    leave(&a);
    leave(&b);
    leave(&w);
    assert_int_equal(tally("b"), 1);
    assert_int_equal(tally("w"), 1);
}

/* --- the files tell nothing */

/* The flight landed and is gone, and so is the version that it made: the store knows. */
static void lost_files_of_a_flight_that_landed(void **state)
{
    party a, w;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    assert_int_equal(fly(&a), PGQRSI_S3_LANDED);
    land(&a, PGQRSI_S3_LANDED);
    in_cache("rm image");
    DONE(&w);
    DONE(&a);
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

/* The file of a flight is gone before its PUT arrives: the try is in doubt, and whoever goes again is not committed twice. */
static void late_flight_of_a_lost_file(void **state)
{
    party a, w;
    pgqrs_result result;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    in_cache("rm shared/flight");
    assert_int_equal(await(&w, &result), PGQRSI_S3_LOST);
    assert_true(w.self->doubt_counter > 0);
    assert_int_equal(fly(&a), PGQRSI_S3_LANDED);
    assert_int_equal(again(&w), PGQRS_ERR_OUTCOME_UNKNOWN);
    run_sql(&w, "INSERT INTO tally VALUES('w2')");
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
    assert_int_equal(tally("w2"), 1);
}

/* Likewise, and the new try is first. */
static void too_late_flight_of_a_lost_file(void **state)
{
    party a, w;
    pgqrs_result result;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    in_cache("rm shared/flight");
    assert_int_equal(await(&w, &result), PGQRSI_S3_LOST);
    assert_int_equal(again(&w), PGQRS_OK);
    land(&a, fly(&a));
    DONE(&a);
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

/* While a try is in doubt no error is certain. */
static void failure_while_in_doubt(void **state)
{
    party a, w;
    pgqrs_result result;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    in_cache("rm shared/flight");
    assert_int_equal(await(&w, &result), PGQRSI_S3_LOST);
    set("read_only=1");
    assert_int_equal(again(&w), PGQRS_ERR_OUTCOME_UNKNOWN);
    assert_non_null(strstr(pgqrs_last_error(w.store)->message, "ACCESS_DENIED"));
    set("read_only=0");
    assert_int_equal(fly(&a), PGQRSI_S3_LANDED);
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

/* A good head and a bad image: it is no tip, it is not sent, and nobody waits for it. */
static void damaged_images(void **state)
{
    static const char *const files[] = {"stage", "flight", "stage"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        party a, w;
        char command[200], name[2][8];
        int64_t before;
        snprintf(name[0], 8, "a%d", i);
        snprintf(name[1], 8, "w%d", i);
        join(&a, name[0]);
        join(&w, name[1]);
        STAGED(&a);
        if (i == 1)
            take_off(&a);
        snprintf(command, sizeof(command), "printf '\\377\\377\\377' | dd of=shared/%s bs=1 seek=5000 conv=notrunc 2>/dev/null", files[i]);
        in_cache(command);
        before = gets();
        if (i == 2)
            DONE(&a);
        assert_int_equal(gets(), before); /* what was staged was never sent */
        STAGED(&w);
        DONE(&w);
        if (i < 2)
            DONE(&a);
        leave(&a);
        leave(&w);
        assert_int_equal(tally(name[0]), 1);
    assert_int_equal(tally(name[1]), 1);
    }
}

/* --- senders that are stopped */

/* Two send the same flight. */
static void stopped_before_the_put(void **state)
{
    party a, w;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    STAGED(&w);
    take_off(&a);
    DONE(&w);
    run_sql(&w, "INSERT INTO tally VALUES('w2')");
    land(&a, fly(&a));
    DONE(&a);
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
    assert_int_equal(tally("w2"), 1);
}

/* What is sent last is not what we waited for, which others have sent meanwhile: that it is lost says nothing about ours. */
static void foreign_flight_is_lost(void **state)
{
    party a, p, x, other;
    char where[200];
    pgqrsi_s3_outcome outcome;
    bool over = true;
    (void)state;
    snprintf(where, sizeof(where), "%s/c%d", dir, ++caches);
    join_at(&other, "other", where);
    join(&a, "a");
    join(&p, "p");
    join(&x, "x");
    STAGED(&p);
    STAGED(&a);
    take_off(&a);
    assert_int_equal(fly(&a), PGQRSI_S3_LANDED);
    land(&a, PGQRSI_S3_LANDED);
    STAGED(&x);
    run_sql(&other, "INSERT INTO tally VALUES('other')");
    hold_files(&p);
    assert_int_equal(pgqrsi_s3_send_ours(p.self, PGQRSI_S3_IN_FLIGHT, p.after, &p.op.patience, &outcome, &over), PGQRS_OK);
    assert_int_equal(outcome, PGQRSI_S3_LOST);
    assert_false(over);
    pgqrsi_s3_unlock(p.self);
    DONE(&p);
    DONE(&x);
    DONE(&a);
    leave(&a);
    leave(&p);
    leave(&x);
    leave(&other);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("p"), 1);
    assert_int_equal(tally("x"), 1);
}

/* Stopped while it has the lock of the one who sends: the others wait for it once, not for every commit. */
static void stopped_with_the_lock(void **state)
{
    party a, w;
    int64_t took_us = PGQRSI_S3_STUCK_US;
    int tries = 0;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    assert_true(pgqrsi_s3_take_commit(a.self));
    STAGED(&w);
    DONE(&w);
    while (took_us >= PGQRSI_S3_STUCK_US) { /* a machine with much to do may once take as long without waiting for anybody */
        int64_t begin_us = pgqrs_backend_monotonic();
        assert_true(tries++ < 5);
        for (int i = 0; i < 3; i++)
            run_sql(&w, "INSERT INTO tally VALUES('w2')");
        took_us = pgqrs_backend_monotonic() - begin_us;
    }
    pgqrsi_s3_unlock(a.self);
    run_sql(&a, "INSERT INTO tally VALUES('a')");
    assert_false(pgqrsi_s3_is_replaced(a.self, "commit", a.self->commit_fd));
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
    assert_int_equal(tally("w2"), 3 * tries);
}

/* --- an operation that has to be carried out on base */

static party crowd[6];
static int crowded;

/* With every commit of somebody else comes another one who wants to be in the next. */
static void crowd_in(party *p, const char *method)
{
    if (strcmp(method, "PUT") == 0 && !p->self->locked && crowded < 6)
        STAGED(&crowd[crowded++]);
}

/* It sends what it finds, once; who comes meanwhile goes again. */
static void alone_in_a_crowd(void **state)
{
    static const char *const names[] = {"0", "1", "2", "3", "4", "5"};
    party a;
    (void)state;
    join(&a, "a");
    crowded = 0;
    for (int i = 0; i < 6; i++)
        join(&crowd[i], names[i]);
    STAGED(&crowd[crowded++]);
    a.meanwhile = crowd_in;
    a.op = pgqrsi_s3_begin(a.self, PGQRSI_S3_WRITE, 0);
    a.op.alone = true;
    assert_int_equal(again(&a), PGQRS_OK);
    assert_int_equal(crowded, 2);
    for (int i = 0; i < crowded; i++)
        DONE(&crowd[i]);
    leave(&a);
    for (int i = 0; i < 6; i++) {
        leave(&crowd[i]);
        assert_int_equal(tally(names[i]), i < crowded);
    }
    assert_int_equal(tally("a"), 1);
}

/* --- what comes after the commit */

static party *watcher;
static int deleted;

/* The others know of the commit, and can go on. */
static void look_around(party *p, const char *method)
{
    if (strcmp(method, "DELETE") != 0)
        return;
    deleted++;
    assert_true(pgqrsi_s3_catch_up(watcher->self));
    assert_int_equal(watcher->self->trailer.seq, p->self->trailer.seq);
    STAGED(watcher);
    assert_true(pgqrsi_s3_take_commit(watcher->self));
    pgqrsi_s3_unlock(watcher->self);
}

/* Parts are deleted when nobody waits for that. */
static void others_know_before_parts_are_deleted(void **state)
{
    party a, w;
    pgqrsi_s3_part part;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    memset(&part, 0, sizeof(part));
    part.seq = part.id = 1;
    STAGED(&a);
    pgqrsi_s3_add_stray(a.self, a.self->trailer.birth, &part);
    watcher = &w;
    deleted = 0;
    a.meanwhile = look_around;
    DONE(&a);
    assert_int_equal(deleted, 1);
    DONE(&w);
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

/* --- time */

/* Two calls, the other one in a process of its own; `a` waits for so long before its commit lands, of so many requests. */
static void wait_beside(party *a, party *w, int64_t wait_us, int64_t puts)
{
    pid_t child;
    int status = -1;
    int64_t begin_us = pgqrs_backend_monotonic(), before = s3_counter(server.port, "requests.PUT");
    STAGED(a);
    STAGED(w);
    hold_files(a);
    assert_true(pgqrsi_s3_take_commit(a->self));
    child = fork();
    if (child == 0) {
        pgqrsi_s3_close_file(&a->self->lock_fd);
        pgqrsi_s3_close_file(&a->self->commit_fd);
        _exit(finish(w) == PGQRS_OK ? 0 : 1);
    }
    assert_true(child > 0);
    pgqrsi_s3_unlock(a->self);
    DONE(a);
    assert_true(pgqrs_backend_monotonic() - begin_us >= wait_us);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(s3_counter(server.port, "requests.PUT") - before, puts);
    assert_false(pgqrsi_s3_is_replaced(a->self, "commit", a->self->commit_fd));
}

/* Whoever waits because the store said that we are too fast, before it sends or for another try, is not taken for one that was stopped. */
static void waiting_is_not_stopped(void **state)
{
    party a, w;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    run_sql(&a, "INSERT INTO tally VALUES('proven')");
    a.self->put_at_us = pgqrs_backend_monotonic();
    a.self->pace_us = 2600000;
    wait_beside(&a, &w, 2600000, 1);
    a.self->pace_us = 0;
    set("retry_after=3\nbusy=PUT:x1");
    wait_beside(&a, &w, 3000000, 2);
    set("retry_after=1");
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 2);
    assert_int_equal(tally("w"), 2);
}

/* What was left behind before the machine was started anew is not carried out, though its clock says that somebody waits. */
static void flight_of_an_earlier_start(void **state)
{
    party a, w;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    a.self->tip.era -= 1000;
    assert_true(pgqrsi_s3_write_stage(a.self, &a.self->tip));
    leave(&a);
    run_sql(&w, "INSERT INTO tally VALUES('w')");
    leave(&w);
    assert_int_equal(tally("a"), 0);
    assert_int_equal(tally("w"), 1);
}

static void flight_that_nobody_waits_for(void **state)
{
    party a, w;
    (void)state;
    join(&a, "a");
    join(&w, "w");
    STAGED(&a);
    a.self->tip.until_us = pgqrs_backend_monotonic() - 1;
    assert_true(pgqrsi_s3_write_stage(a.self, &a.self->tip));
    run_sql(&w, "INSERT INTO tally VALUES('w')");
    assert_int_equal(tally("a"), 0);
    DONE(&a);
    leave(&a);
    leave(&w);
    assert_int_equal(tally("a"), 1);
    assert_int_equal(tally("w"), 1);
}

/* --- one commit */

static void operations_of_several_are_one_put(void **state)
{
    party p[4];
    static const char *const names[] = {"0", "1", "2", "3"};
    int64_t before;
    (void)state;
    for (int i = 0; i < 4; i++)
        join(&p[i], names[i]);
    run_sql(&p[0], "INSERT INTO tally VALUES('proven')"); /* that the store heeds conditions has been tested */
    before = s3_counter(server.port, "requests.PUT");
    for (int i = 0; i < 4; i++)
        STAGED(&p[i]);
    for (int i = 0; i < 4; i++)
        DONE(&p[i]);
    assert_int_equal(s3_counter(server.port, "requests.PUT") - before, 1);
    for (int i = 0; i < 4; i++) {
        leave(&p[i]);
        assert_int_equal(tally(names[i]), 1);
    }
}

static int start(void **state)
{
    (void)state;
    return s3_process_begin(&server, dir, endpoint, sizeof(endpoint));
}

static int stop(void **state)
{
    (void)state;
    return s3_process_end(&server, dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(operations_of_several_are_one_put, each),
                                       cmocka_unit_test_setup(killed_before_the_put, each),
                                       cmocka_unit_test_setup(killed_between_landing_and_publishing, each),
                                       cmocka_unit_test_setup(killed_between_landing_and_publishing_unseen, each),
                                       cmocka_unit_test_setup(stage_on_a_forgotten_flight, each),
                                       cmocka_unit_test_setup(stage_on_a_lost_flight, each),
                                       cmocka_unit_test_setup(refused_flight_is_certain, each),
                                       cmocka_unit_test_setup(refused_second_try_is_not_certain, each),
                                       cmocka_unit_test_setup(refused_first_try_is_not_certain, each),
                                       cmocka_unit_test_setup(cache_that_cannot_be_written, each),
                                       cmocka_unit_test_setup(cache_that_is_removed, each),
                                       cmocka_unit_test_setup(lock_that_is_removed, each),
                                       cmocka_unit_test_setup(flight_on_an_unreadable_version, each),
                                       cmocka_unit_test_setup(lost_files_of_a_flight_that_landed, each),
                                       cmocka_unit_test_setup(late_flight_of_a_lost_file, each),
                                       cmocka_unit_test_setup(too_late_flight_of_a_lost_file, each),
                                       cmocka_unit_test_setup(failure_while_in_doubt, each),
                                       cmocka_unit_test_setup(damaged_images, each),
                                       cmocka_unit_test_setup(stopped_before_the_put, each),
                                       cmocka_unit_test_setup(foreign_flight_is_lost, each),
                                       cmocka_unit_test_setup(stopped_with_the_lock, each),
                                       cmocka_unit_test_setup(alone_in_a_crowd, each),
                                       cmocka_unit_test_setup(others_know_before_parts_are_deleted, each),
                                       cmocka_unit_test_setup(waiting_is_not_stopped, each),
                                       cmocka_unit_test_setup(flight_of_an_earlier_start, each),
                                       cmocka_unit_test_setup(flight_that_nobody_waits_for, each)};
    return cmocka_run_group_tests(tests, start, stop);
}
