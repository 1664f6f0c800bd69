/* The world of a proof: processes that are started, killed, stopped and started again, each with a history of its own. */
#ifndef PGQRS_PROOF_WORLD_H
#define PGQRS_PROOF_WORLD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A process whose clock is wrong, and one that did not notice that time went by (a virtual machine that stood still): the library
 * asks for the time through this. */
static int64_t wrong_by_us, asleep_us;
static int proof_clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = clock_gettime(clock, now);
    int64_t us = (int64_t)now->tv_sec * 1000000 + now->tv_nsec / 1000 - asleep_us;
    if (clock == CLOCK_REALTIME)
        us += wrong_by_us;
    now->tv_sec = (time_t)(us / 1000000);
    now->tv_nsec = (long)(us % 1000000) * 1000;
    return result;
}

/* Replies that are lost after the server did what it was told: of so many in a thousand. */
static int lost_replies;
static uint64_t lost_random;
static uint64_t next_random(uint64_t *state);
static void lose_reply(const PGconn *connection)
{
    char trash[65536];
    struct timespec while_it_works = {0, 3000000};
    nanosleep(&while_it_works, NULL);
    while (recv(PQsocket(connection), trash, sizeof(trash), MSG_DONTWAIT) > 0) {
    }
    (void)shutdown(PQsocket(connection), SHUT_RDWR);
}

static bool loses_this_one(void)
{
    return lost_replies && next_random(&lost_random) % 1000 < (uint64_t)lost_replies;
}

static PGresult *proof_last_result(PGconn *connection, int sent)
{
    PGresult *last = NULL, *result;
    if (sent && PQflush(connection) == 0)
        lose_reply(connection);
    while (sent && (result = PQgetResult(connection)) != NULL) {
        PQclear(last);
        last = result;
    }
    return last ? last : PQmakeEmptyPGresult(connection, PGRES_FATAL_ERROR);
}

static PGresult *proof_exec_params(PGconn *connection, const char *sql, int count, const Oid *types, const char *const *values,
                                   const int *lengths, const int *formats, int format)
{
    if (!loses_this_one())
        return PQexecParams(connection, sql, count, types, values, lengths, formats, format);
    return proof_last_result(connection, PQsendQueryParams(connection, sql, count, types, values, lengths, formats, format));
}

static PGresult *proof_exec_prepared(PGconn *connection, const char *name, int count, const char *const *values, const int *lengths,
                                     const int *formats, int format)
{
    if (!loses_this_one())
        return PQexecPrepared(connection, name, count, values, lengths, formats, format);
    return proof_last_result(connection, PQsendQueryPrepared(connection, name, count, values, lengths, formats, format));
}

static PGresult *proof_exec(PGconn *connection, const char *sql)
{
    if (!loses_this_one())
        return PQexec(connection, sql);
    return proof_last_result(connection, PQsendQuery(connection, sql));
}

static PGresult *proof_get_result(PGconn *connection)
{
    if (loses_this_one())
        lose_reply(connection);
    return PQgetResult(connection);
}

static int proof_consume_input(PGconn *connection)
{
    if (loses_this_one())
        lose_reply(connection);
    return PQconsumeInput(connection);
}

#define PQexec proof_exec
#define PQexecParams proof_exec_params
#define PQexecPrepared proof_exec_prepared
#define PQgetResult proof_get_result
#define PQconsumeInput proof_consume_input
#define clock_gettime proof_clock_gettime
#define PGQRS_THREADS
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"
#include "../pgqrs.h"
#undef clock_gettime
#undef PQexec
#undef PQexecParams
#undef PQexecPrepared
#undef PQgetResult
#undef PQconsumeInput

#include "proof_check.h"

/* The scenarios of the two backends do not use everything. */
#pragma GCC diagnostic ignored "-Wunused-function"

enum {
    LEASE_MS = 800,
    BACKOFF_MS = 60,
    BACKOFF_MAX_MS = 300,
    MAX_ATTEMPTS = 9,
    SLOTS = 16,
    QUEUES = 5,
    POOL_LEASE_MS = 3000,
    THREADS = 4,
    SLOW_MS = 2000,   /* what a claim may need to see that a lease is over or a time has come */
    DRAIN_MS = 60000, /* after that what is unfinished is reported */
    HOUR_MS = 3600000
};

/* Worked on by hand; by loops; by one that watches the order; by hand in a second schema; by pools of threads. */
static const char *const queue_names[QUEUES] = {"hand", "loop", "order", "hand", "pool"};
#define SECOND_SCHEMA 3
#define POOL 4
#define SECOND_SCHEMA_IDS INT64_C(1000000000000000)

typedef enum proof_phase { GOING, DRAINING, STOPPING } proof_phase;

/* Shared by all processes. */
typedef struct proof_page {
    volatile int phase;
    volatile int64_t unexpected; /* errors that no scenario explains */
    volatile int64_t unknown;    /* outcomes that were reported as unknown */
    volatile int64_t refused;    /* late calls that were refused as they have to be */
    volatile int64_t expected_errors;
} proof_page;

struct actor;
typedef int (*role_function)(struct actor *actor);

typedef struct slot {
    role_function role;
    const char *name;
    int queue;
    bool may_die;
    bool ends_first; /* when work stops coming; the others go on until nothing is left */
    int histories; /* one for each thread that writes one of its own; they have numbers in a row */
    int64_t wrong_by_us;
    /* now */
    pid_t pid; /* 0: not running */
    int process;
    int64_t stopped_until_us; /* 0: not stopped */
} slot;

/* One process, seen from inside. */
typedef struct actor {
    int process, queue, calls;
    int64_t tags;
    uint64_t random;
    bool patient; /* a server that is away or errors in between are part of the scenario */
    pgqrs_store *store;
    proof_writer out;
    pthread_mutex_t lock;
} actor;

static struct {
    const char *dsn;
    bool server;
    char root[400], dir[500], place[600]; /* histories of the round; its database file or schema */
    uint64_t seed, random;
    int round, processes;
    slot slots[SLOTS];
    int slot_count;
    proof_page *page;
    proof_writer out; /* the parent's own history */
    bool errors_are_expected;
    bool sleepers_freeze; /* who is woken after its lease believes that no time went by */
    int lost_replies;     /* in a thousand */
    int64_t kills, stops, terminated, restarts, fills;
    int64_t wrong_exits;
} W;

/* --- randomness: everything derives from the seed --- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static int below(uint64_t *state, int limit)
{
    return (int)(next_random(state) % (uint64_t)limit);
}

static bool chance(uint64_t *state, int percent)
{
    return below(state, 100) < percent;
}

static void nap_us(int64_t us)
{
    struct timespec pause;
    pause.tv_sec = (time_t)(us / 1000000);
    pause.tv_nsec = (long)(us % 1000000) * 1000;
    nanosleep(&pause, NULL);
}

static void nap_ms(int64_t ms)
{
    nap_us(ms * 1000);
}

/* --- inside of a process --- */

static bool going(void)
{
    return W.page->phase == GOING;
}

static bool stopping(void)
{
    return W.page->phase == STOPPING;
}

/* Until the parent wakes us, when the lease is over. */
static void sleepwalk(void)
{
    int64_t since_us = proof_now_us();
    raise(SIGSTOP);
    if (W.sleepers_freeze)
        asleep_us += proof_now_us() - since_us;
}

static void note_all(actor *self, const proof_record *records, size_t count)
{
    size_t i;
    pthread_mutex_lock(&self->lock);
    for (i = 0; i < count; i++) {
        proof_record r = records[i];
        /* Two schemas count their ids on their own; in the histories they stay apart. */
        if (self->queue == SECOND_SCHEMA && r.id)
            r.id += SECOND_SCHEMA_IDS;
        if (self->queue == SECOND_SCHEMA && r.lease)
            r.lease += SECOND_SCHEMA_IDS;
        r.queue = self->queue;
        proof_add(&self->out, r);
    }
    proof_flush(&self->out);
    pthread_mutex_unlock(&self->lock);
}

static void note(actor *self, proof_record r)
{
    note_all(self, &r, 1);
}

static int64_t new_tag(actor *self)
{
    return (int64_t)self->process * PROOF_TAGS_PER_PROCESS + ++self->tags;
}

static const char *queue_of(const actor *self)
{
    return queue_names[self->queue];
}

/* Errors that mean "try later" or "look again" are part of life; what somebody would have to mend is not. */
static void look_at(actor *self, const char *what, pgqrs_result result)
{
    const pgqrs_error *err = self->store ? pgqrs_last_error(self->store) : NULL;
    pgqrs_error_kind kind = pgqrs_result_kind(result);
    if (result == PGQRS_OK || result == PGQRS_ERR_LEASE_LOST)
        return;
    if (result == PGQRS_ERR_OUTCOME_UNKNOWN)
        __sync_fetch_and_add(&W.page->unknown, 1);
    if (W.errors_are_expected && (kind == PGQRS_KIND_RETRY || result == PGQRS_ERR_OUTCOME_UNKNOWN)) {
        __sync_fetch_and_add(&W.page->expected_errors, 1);
        nap_ms(20);
        return;
    }
    if (W.errors_are_expected && (result == PGQRS_ERR_SCHEMA_NEWER || result == PGQRS_ERR_SCHEMA_OLDER)) {
        __sync_fetch_and_add(&W.page->expected_errors, 1);
        nap_ms(20);
        return;
    }
    __sync_fetch_and_add(&W.page->unexpected, 1);
    fprintf(stderr, "# UNEXPECTED: process %d, %s: %s: %s\n", self->process, what, pgqrs_result_name(result),
            err ? err->message : "-");
    nap_ms(20);
}

static pgqrs_store_desc store_settings(int queue, char *schema, size_t size)
{
    pgqrs_store_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.connect_timeout_ms = 15000;
    desc.default_lease_ms = LEASE_MS;
    desc.heartbeat_ms = 300;
    desc.poll_ms = 50;
    if (W.server) {
        snprintf(schema, size, "%s%s", W.place, queue == SECOND_SCHEMA ? "_b" : "");
        desc.schema = schema;
    }
    return desc;
}

static pgqrs_store *open_place(int queue, pgqrs_error *err)
{
    char schema[64], dsn[700];
    pgqrs_store_desc desc = store_settings(queue, schema, sizeof(schema));
    if (W.server)
        snprintf(dsn, sizeof(dsn), "%s", W.dsn);
    else
        snprintf(dsn, sizeof(dsn), "sqlite://%s", W.place);
    return pgqrs_open(dsn, &desc, err);
}

/* A store, or NULL when the round ends meanwhile. */
static pgqrs_store *open_patiently(actor *self)
{
    pgqrs_error err;
    while (!self->store && !stopping()) {
        self->store = open_place(self->queue, &err);
        if (!self->store && !(W.errors_are_expected && err.kind == PGQRS_KIND_RETRY)) {
            fprintf(stderr, "# UNEXPECTED: process %d cannot open: %s\n", self->process, err.message);
            __sync_fetch_and_add(&W.page->unexpected, 1);
            return NULL;
        }
        if (!self->store)
            nap_ms(50);
    }
    return self->store;
}

/* --- processes, from outside --- */

static void begin_actor(actor *self, int process, int queue)
{
    memset(self, 0, sizeof(*self));
    self->process = process;
    self->queue = queue;
    self->random = W.seed ^ ((uint64_t)process << 20) ^ ((uint64_t)W.round << 50);
    pthread_mutex_init(&self->lock, NULL);
    if (!proof_open_writer(&self->out, W.dir, process))
        _exit(97);
}

static void run_child(slot *place, int process)
{
    static actor self;
    int status;
    begin_actor(&self, process, place->queue);
    wrong_by_us = place->wrong_by_us;
    lost_replies = W.lost_replies;
    lost_random = self.random + 1;
    signal(SIGTERM, SIG_IGN); /* it only ends the waiting of loops; the page says when to end */
    status = place->role(&self);
    pgqrs_close(self.store);
    _exit(status);
}

static void spawn(slot *place)
{
    int process = W.processes;
    W.processes += place->histories;
    fflush(NULL);
    place->process = process;
    place->stopped_until_us = 0;
    place->pid = fork();
    if (place->pid == 0)
        run_child(place, process);
    if (place->pid < 0) {
        perror("proof: fork");
        exit(96);
    }
}

static slot *employ(role_function role, const char *name, int queue, bool may_die)
{
    slot *place = &W.slots[W.slot_count++];
    if (W.slot_count > SLOTS) {
        fprintf(stderr, "proof: too many processes\n");
        exit(95);
    }
    memset(place, 0, sizeof(*place));
    place->role = role, place->name = name, place->queue = queue, place->may_die = may_die;
    place->histories = 1;
    return place;
}

/* Producers, and all who stop working when those do. */
static slot *employ_first(role_function role, const char *name, int queue, bool may_die)
{
    slot *place = employ(role, name, queue, may_die);
    place->ends_first = true;
    return place;
}

static void start_all(void)
{
    int i;
    for (i = 0; i < W.slot_count; i++)
        spawn(&W.slots[i]);
}

static void gone(slot *place, int status)
{
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        printf("# process %d (%s) ended with %s %d\n", place->process, place->name, WIFEXITED(status) ? "status" : "signal",
               WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        W.wrong_exits++;
    }
    place->pid = 0;
}

/* SIGKILL, at whatever place it is; another one takes over at once. */
static void kill_one(slot *place)
{
    int status, i;
    if (place->pid <= 0)
        return;
    kill(place->pid, SIGKILL);
    if (waitpid(place->pid, &status, 0) != place->pid)
        return;
    for (i = 0; i < place->histories; i++)
        proof_write(&W.out, (proof_record){.mark = '.', .op = PROOF_DIED, .id = place->process + i});
    W.kills++;
    place->pid = 0;
    spawn(place);
}

static void stop_one(slot *place, int64_t ms)
{
    if (place->pid <= 0 || place->stopped_until_us)
        return;
    kill(place->pid, SIGSTOP);
    place->stopped_until_us = proof_now_us() + ms * 1000;
    W.stops++;
}

static void resume_one(slot *place)
{
    place->stopped_until_us = 0;
    if (place->pid > 0)
        kill(place->pid, SIGCONT);
    proof_write(&W.out, (proof_record){.mark = '.', .op = PROOF_RESUMED, .id = place->process});
}

/* Sees who ended, who stopped itself (they wait for the end of their lease), and wakes whose time has come. */
static void attend(int64_t stop_ms)
{
    int i, status;
    for (i = 0; i < W.slot_count; i++) {
        slot *place = &W.slots[i];
        pid_t pid = place->pid > 0 ? waitpid(place->pid, &status, WNOHANG | WUNTRACED) : 0;
        if (pid > 0 && WIFSTOPPED(status)) {
            if (!place->stopped_until_us) {
                place->stopped_until_us = proof_now_us() + stop_ms * 1000;
                W.stops++;
            }
        } else if (pid > 0) {
            gone(place, status);
        }
        if (place->stopped_until_us && place->stopped_until_us <= proof_now_us())
            resume_one(place);
    }
}

static slot *any_slot(void)
{
    int tries;
    for (tries = 0; tries < 50; tries++) {
        slot *place = &W.slots[below(&W.random, W.slot_count)];
        if (place->may_die && place->pid > 0)
            return place;
    }
    return NULL;
}

static void resume_all(void)
{
    int i;
    for (i = 0; i < W.slot_count; i++)
        if (W.slots[i].stopped_until_us)
            resume_one(&W.slots[i]);
}

/* Waits for all to end; whoever does not is a mistake. */
static void join_all(void)
{
    int64_t deadline = proof_now_us() + 30 * 1000000;
    int i, left = 1;
    while (left && proof_now_us() < deadline) {
        attend(0);
        left = 0;
        for (i = 0; i < W.slot_count; i++) {
            left += W.slots[i].pid > 0;
            if (W.slots[i].pid > 0)
                kill(W.slots[i].pid, SIGTERM); /* ends the waiting of a loop */
        }
        nap_ms(20);
    }
    for (i = 0; i < W.slot_count; i++)
        if (W.slots[i].pid > 0) {
            printf("# process %d (%s) does not end\n", W.slots[i].process, W.slots[i].name);
            W.wrong_exits++;
            kill(W.slots[i].pid, SIGKILL);
            waitpid(W.slots[i].pid, NULL, 0);
            W.slots[i].pid = 0;
        }
}

/* --- the server, from outside --- */

static bool server_exec(const char *sql)
{
    PGconn *connection = PQconnectdb(W.dsn);
    PGresult *result = PQexec(connection, sql);
    bool good = PQresultStatus(result) == PGRES_COMMAND_OK || PQresultStatus(result) == PGRES_TUPLES_OK;
    if (!good && !W.errors_are_expected)
        fprintf(stderr, "# %s: %s", sql, PQerrorMessage(connection));
    PQclear(result);
    PQfinish(connection);
    return good;
}

static int64_t server_number(const char *sql)
{
    PGconn *connection = PQconnectdb(W.dsn);
    PGresult *result = PQexec(connection, sql);
    int64_t number = PQntuples(result) == 1 ? strtoll(PQgetvalue(result, 0, 0), NULL, 10) : -1;
    PQclear(result);
    PQfinish(connection);
    return number;
}

#endif /* PGQRS_PROOF_WORLD_H */
