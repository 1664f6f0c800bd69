/* Helpers of the test programs: a store for the target under test, hooks that can be looked at, time that is moved by
 * hand, and checks that say what they saw. Include this first; it contains the whole library. */
#ifndef PGQRS_TEST_SUPPORT_H
#define PGQRS_TEST_SUPPORT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include <libpq-fe.h>
#include <sqlite3.h>

#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"
#include "../pgqrs_s3.h"
#include "../pgqrs.h"
#include "../examples/http_socket.h"
#include "s3_parts.h"
#include "s3_process.h"

#if defined(__SANITIZE_ADDRESS__)
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_SANITIZED 1
#endif
#endif
#ifndef TEST_SANITIZED
#define TEST_SANITIZED 0
#endif

/* Not every program uses every helper. */
#pragma GCC diagnostic ignored "-Wunused-function"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define SECOND_US INT64_C(1000000)
#define MINUTE_US (60 * SECOND_US)
#define HOUR_US (60 * MINUTE_US)
#define DAY_US (24 * HOUR_US)
/* 2030-03-17: far from the real time, so that a decision made by a wrong clock shows. */
#define TEST_EPOCH_US (INT64_C(1900000000) * SECOND_US)
#define TEST_LEASE_MS 30000
#define TEST_MAX_ATTEMPTS 3
#define TEST_BACKOFF_MS 1000
#define TEST_BACKOFF_MAX_MS 8000

/* Stands in payloads. No error message and no line of the log may ever contain it. */
#define SECRET "swordfish-7731"
#define SECRET_PAYLOAD "{\"key\":\"" SECRET "\"}"

typedef enum test_target {
    ON_SQLITE_FILE = 1,
    ON_SQLITE_MEMORY = 2,
    ON_POSTGRES = 4,
    ON_PGBOUNCER = 8,
    ON_S3 = 16,
    ON_S3_LOCAL = 32, /* its local mode, which no test of the suite needs a store for */
    ON_BUCKET = ON_S3 | ON_S3_LOCAL,
    ON_SQLITE = ON_SQLITE_FILE | ON_SQLITE_MEMORY,
    ON_SERVER = ON_POSTGRES | ON_PGBOUNCER,
    ON_SHARED = ON_SQLITE_FILE | ON_SERVER | ON_BUCKET, /* several processes, reopening */
    ON_LENT = ON_SQLITE | ON_SERVER, /* stores on a connection of the program's, and without settings */
    ON_ALL = ON_SQLITE | ON_SERVER | ON_BUCKET
} test_target;

enum {
    PLAIN = 0,
    FRESH = 1,    /* nothing else in the database: for calls that look at everything */
    TWO = 2,      /* another_store works on every target */
    NO_STORE = 4, /* the test opens what it needs */
    NO_QUEUE = 8,
    UNINSTALLED = 16, /* a database without tables */
    NO_BALANCE = 32   /* the test damages what it would have to free */
};

typedef struct test_case {
    const char *name;
    void (*run)(void);
    unsigned flags;
    unsigned targets;
} test_case;

#define CASE(function, flags) {#function, function, flags, ON_ALL}
#define CASE_ON(function, flags, targets) {#function, function, flags, targets}

/* What the whole program knows. */
static struct {
    test_target target;
    char dsn[1024];
    char password[128];
    char schema[48];
    char dir[512];
    bool own_dir;
    uint64_t seed;
    int case_number;
    bool loud;
    pid_t pid;
    s3_process s3_server; /* not running: the server is another one, without control and counters */
    s3_account s3_account;
    const char *s3_bucket;
    char s3_endpoint[64];
} run;

/* The counting allocator: sizes are checked, memory is never zero by luck, and the Nth allocation can fail. */
typedef union test_block {
    struct {
        size_t size;
        uint64_t mark;
    } head;
    long double alignment[2];
} test_block;
#define TEST_BLOCK_MARK UINT64_C(0x7067717273746573)

typedef struct test_memory {
    int64_t blocks;
    int64_t bytes;
    int64_t calls;
    int64_t fail_at; /* counts down; the allocation that finds 0 fails; -1: none */
    int64_t failed;
    bool fail_all_after;
    const char *misuse;
} test_memory;

typedef struct test_event {
    pgqrs_event event;
    char queue[80];
} test_event;

/* What one test knows; fresh for each. */
static struct {
    const test_case *test;
    pgqrs_store *store;
    pgqrs_store *stores[32];
    size_t store_count;
    void **results;
    size_t result_count, result_room;
    PGconn *connections[8];
    size_t connection_count;
    sqlite3 *databases[8];
    size_t database_count;
    char dsn[1280];
    char file[600];
    char schema[64];
    char queue[64];
    char flow[64]; /* the workflow of this test, on T.queue */
    int64_t now_us;
    int64_t slept_us;
    int64_t sleeps;
    int64_t sleep_limit;
    bool runaway;
    void (*on_sleep)(void); /* called each time somebody sleeps */
    uint64_t random_state;
    int64_t random_calls;
    test_memory memory;
    uint32_t object_counter; /* S3: of the object that was fetched last */
    const char *leak; /* a log line that has what it must not have */
    int64_t log_lines;
    int warnings; /* of these, warnings and errors */
    test_event events[512];
    size_t event_count;
    int64_t began_ms;
} T;

/* ------------------------------------------------------------------------------------------------------------------
 * Checks
 * --------------------------------------------------------------------------------------------------------------- */

static void fail_at(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));
static void fail_at(const char *file, int line, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    print_error("%s:%d: %s [%s]\n", file, line, text, T.test ? T.test->name : "-");
    _fail(file, line);
    abort(); /* never reached */
}

static const char *last_message(const pgqrs_store *store)
{
    return store ? pgqrs_last_error(store)->message : "no store";
}

static void check_error_text(const char *message, const char *call, const char *file, int line)
{
    size_t length = strlen(message);
    if (length == 0)
        fail_at(file, line, "%s: the error has no message", call);
    if (length >= PGQRS_ERROR_MESSAGE_SIZE)
        fail_at(file, line, "%s: the message is not terminated", call);
    if (strstr(message, SECRET))
        fail_at(file, line, "%s: the message shows a payload: %s", call, message);
    if (run.password[0] && strstr(message, run.password))
        fail_at(file, line, "%s: the message shows the password: %s", call, message);
    if (strchr(message, '\n'))
        fail_at(file, line, "%s: the message has more than one line: %s", call, message);
}

static void check_error(const pgqrs_error *err, pgqrs_result want, const char *call, const char *file, int line)
{
    if (err->code != want)
        fail_at(file, line, "%s: the error says %s, the call said %s", call, pgqrs_result_name(err->code),
                pgqrs_result_name(want));
    if (err->kind != pgqrs_result_kind(want))
        fail_at(file, line, "%s: kind %d, expected %d", call, (int)err->kind, (int)pgqrs_result_kind(want));
    check_error_text(err->message, call, file, line);
}

static void check_call(pgqrs_store *store, pgqrs_result want, pgqrs_result got, const char *call, const char *file,
                       int line)
{
    if (got != want)
        fail_at(file, line, "%s: %s (%s), expected %s", call, pgqrs_result_name(got), last_message(store),
                pgqrs_result_name(want));
    if (!store)
        return;
    if (want == PGQRS_OK) {
        if (pgqrs_last_error(store)->code != PGQRS_OK)
            fail_at(file, line, "%s succeeded, but pgqrs_last_error still says %s", call,
                    pgqrs_result_name(pgqrs_last_error(store)->code));
    } else {
        check_error(pgqrs_last_error(store), want, call, file, line);
    }
}

static void check_text_names(const char *text, const char *part, const char *call, const char *file, int line)
{
    if (!strstr(text, part))
        fail_at(file, line, "%s: the message does not name %s: %s", call, part, text);
}

static void check_int(int64_t want, int64_t got, const char *what, const char *file, int line)
{
    if (want != got)
        fail_at(file, line, "%s is %" PRId64 ", expected %" PRId64, what, got, want);
}

static void check_between(int64_t low, int64_t high, int64_t got, const char *what, const char *file, int line)
{
    if (got < low || got > high)
        fail_at(file, line, "%s is %" PRId64 ", expected %" PRId64 " to %" PRId64, what, got, low, high);
}

static void check_string(const char *want, const char *got, const char *what, const char *file, int line)
{
    if (!got || strcmp(want, got) != 0)
        fail_at(file, line, "%s is \"%.200s\", expected \"%.200s\"", what, got ? got : "(null)", want);
}

static void check_true(bool condition, const char *what, const char *file, int line)
{
    if (!condition)
        fail_at(file, line, "not so: %s", what);
}

#define OK(...) check_call(T.store, PGQRS_OK, (__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define OK_ON(store, ...) check_call(store, PGQRS_OK, (__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define FAILS(code, ...) check_call(T.store, PGQRS_##code, (__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define FAILS_ON(store, code, ...) check_call(store, PGQRS_##code, (__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
/* The same, and the message names something. */
#define FAILS_NAMING(code, part, ...)                                                                                 \
    do {                                                                                                              \
        FAILS(code, __VA_ARGS__);                                                                                     \
        check_text_names(last_message(T.store), part, #__VA_ARGS__, __FILE__, __LINE__);                              \
    } while (0)
#define EQ(want, got) check_int((int64_t)(want), (int64_t)(got), #got, __FILE__, __LINE__)
#define BETWEEN(low, high, got)                                                                                       \
    check_between((int64_t)(low), (int64_t)(high), (int64_t)(got), #got, __FILE__, __LINE__)
#define SAME(want, got) check_string(want, got, #got, __FILE__, __LINE__)
#define YES(condition) check_true((condition), #condition, __FILE__, __LINE__)
#define NO(condition) check_true(!(condition), "!(" #condition ")", __FILE__, __LINE__)
#define RESULT(want, got)                                                                                             \
    check_string(pgqrs_result_name(want), pgqrs_result_name(got), #got, __FILE__, __LINE__)

/* ------------------------------------------------------------------------------------------------------------------
 * Hooks
 * --------------------------------------------------------------------------------------------------------------- */

/* Threads of a pool call the hooks too. */
static pthread_mutex_t hook_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t event_gate = PTHREAD_MUTEX_INITIALIZER; /* a test that holds it stops whoever tells an event */

static void *test_resize_alone(void *pointer, size_t old_size, size_t new_size, void *user)
{
    test_memory *memory = (test_memory *)user;
    test_block *block = pointer ? (test_block *)pointer - 1 : NULL;
    test_block *fresh;
    if (block) {
        if (block->head.mark != TEST_BLOCK_MARK) {
            memory->misuse = "a pointer that was never allocated, or is free already";
            return NULL;
        }
        if (block->head.size != old_size)
            memory->misuse = "old_size is not what was asked for";
    } else if (old_size != 0) {
        memory->misuse = "old_size without a pointer";
    }
    if (new_size == 0) {
        if (block) {
            memory->blocks--;
            memory->bytes -= (int64_t)block->head.size;
            memset(block, 0xDD, sizeof(*block) + block->head.size);
            free(block);
        }
        return NULL;
    }
    memory->calls++;
    if (memory->fail_at == 0) {
        memory->failed++;
        if (!memory->fail_all_after)
            memory->fail_at = -1;
        return NULL;
    }
    if (memory->fail_at > 0)
        memory->fail_at--;
    /* Always a new place, so that a pointer kept across a resize shows. */
    fresh = (test_block *)malloc(sizeof(*fresh) + new_size);
    if (!fresh)
        return NULL;
    memset(fresh, 0xA5, sizeof(*fresh) + new_size);
    fresh->head.size = new_size;
    fresh->head.mark = TEST_BLOCK_MARK;
    memory->blocks++;
    memory->bytes += (int64_t)new_size;
    if (block) {
        memcpy(fresh + 1, block + 1, block->head.size < new_size ? block->head.size : new_size);
        memory->blocks--;
        memory->bytes -= (int64_t)block->head.size;
        memset(block, 0xDD, sizeof(*block) + block->head.size);
        free(block);
    }
    return fresh + 1;
}

static void *test_resize(void *pointer, size_t old_size, size_t new_size, void *user)
{
    void *fresh;
    pthread_mutex_lock(&hook_lock);
    fresh = test_resize_alone(pointer, old_size, new_size, user);
    pthread_mutex_unlock(&hook_lock);
    return fresh;
}

static void test_log(pgqrs_log_level level, const char *text, void *user)
{
    (void)user;
    pthread_mutex_lock(&hook_lock);
    T.log_lines++;
    T.warnings += level <= PGQRS_LOG_WARN;
    if (run.loud)
        fprintf(stderr, "# log %d: %s\n", (int)level, text);
    if (level < PGQRS_LOG_ERROR || level > PGQRS_LOG_DEBUG)
        T.leak = "a level that does not exist";
    if (strchr(text, '\n'))
        T.leak = "a newline";
    if (strstr(text, SECRET))
        T.leak = "a payload";
    if (run.password[0] && strstr(text, run.password))
        T.leak = "the password";
    pthread_mutex_unlock(&hook_lock);
}

static int64_t test_now(void *user)
{
    int64_t now_us;
    (void)user;
    pthread_mutex_lock(&hook_lock);
    now_us = T.now_us;
    pthread_mutex_unlock(&hook_lock);
    return now_us;
}

static uint64_t test_random(void *user)
{
    uint64_t value;
    (void)user;
    pthread_mutex_lock(&hook_lock);
    T.random_calls++;
    T.random_state += UINT64_C(0x9E3779B97F4A7C15);
    value = T.random_state;
    pthread_mutex_unlock(&hook_lock);
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

/* Sleeping moves the clock. Whoever sleeps for ever is stopped. */
static void test_sleep(int64_t us, void *user)
{
    (void)user;
    T.sleeps++;
    if (us < 1)
        us = 1;
    T.slept_us += us;
    T.now_us += us;
    if (T.on_sleep)
        T.on_sleep();
    if (T.sleeps > T.sleep_limit) {
        size_t i;
        T.runaway = true;
        for (i = 0; i < T.store_count; i++)
            if (T.stores[i])
                pgqrs_stop(T.stores[i]);
    }
}

static void test_observe(const pgqrs_event *event, void *user)
{
    (void)user;
    pthread_mutex_lock(&event_gate);
    pthread_mutex_lock(&hook_lock);
    if (T.event_count < COUNT_OF(T.events)) {
        test_event *copy = &T.events[T.event_count++];
        copy->event = *event;
        snprintf(copy->queue, sizeof(copy->queue), "%s", event->queue ? event->queue : "");
    }
    pthread_mutex_unlock(&hook_lock);
    pthread_mutex_unlock(&event_gate);
}

static size_t events_of(pgqrs_event_type type)
{
    size_t i, found = 0;
    for (i = 0; i < T.event_count; i++)
        found += T.events[i].event.type == type;
    return found;
}

static const test_event *nth_event(pgqrs_event_type type, size_t n)
{
    size_t i;
    for (i = 0; i < T.event_count; i++)
        if (T.events[i].event.type == type && n-- == 0)
            return &T.events[i];
    fail_at(__FILE__, __LINE__, "there is no such event (type %d)", (int)type);
    return NULL;
}

static void advance_ms(int64_t ms)
{
    pthread_mutex_lock(&hook_lock);
    T.now_us += ms * 1000;
    pthread_mutex_unlock(&hook_lock);
}

static int64_t real_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * SECOND_US + now.tv_nsec / 1000;
}

static int64_t monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sleep_ms(int64_t ms)
{
    struct timespec left;
    left.tv_sec = (time_t)(ms / 1000);
    left.tv_nsec = (long)(ms % 1000) * 1000000L;
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * Stores and connections
 * --------------------------------------------------------------------------------------------------------------- */

static bool on(unsigned targets)
{
    return ((unsigned)run.target & targets) != 0;
}

/* HTTP for any number of stores and threads: connections are lent. A fork leaves those of its parent alone. */
static struct {
    pthread_mutex_t lock;
    http_socket *idle[64];
    size_t count;
    pid_t pid;
    char cache[640];
    pgqrs_s3_desc desc;
    pgqrs_http instead; /* what a test puts between the library and the server; it passes on through s3_exchange_plain */
    int split_bytes; /* of stores that are opened from now on; 0: as everywhere */
} S3 = {.lock = PTHREAD_MUTEX_INITIALIZER};

static http_socket *s3_take_connection(void)
{
    http_socket *http = NULL;
    pthread_mutex_lock(&S3.lock);
    if (S3.pid != getpid())
        S3.count = 0;
    S3.pid = getpid();
    if (S3.count > 0)
        http = S3.idle[--S3.count];
    pthread_mutex_unlock(&S3.lock);
    return http ? http : http_socket_create();
}

static void s3_give_connection(http_socket *http)
{
    pthread_mutex_lock(&S3.lock);
    if (S3.count < COUNT_OF(S3.idle)) {
        S3.idle[S3.count++] = http;
        http = NULL;
    }
    pthread_mutex_unlock(&S3.lock);
    if (http)
        http_socket_destroy(http);
}

static int s3_exchange_plain(const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    http_socket *http = s3_take_connection();
    int status;
    if (!http)
        return -1;
    status = http_socket_callback(http).exchange(http, request, reply);
    s3_give_connection(http);
    return status;
}

static int s3_exchange(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    (void)user;
    return S3.instead.exchange ? S3.instead.exchange(S3.instead.user, request, reply) : s3_exchange_plain(request, reply);
}

static const pgqrs_s3_desc *test_s3_desc(void)
{
    memset(&S3.desc, 0, sizeof(S3.desc));
    S3.desc.http.exchange = s3_exchange;
    S3.desc.endpoint = run.s3_endpoint;
    S3.desc.access_key = run.s3_account.access_key;
    S3.desc.secret_key = run.s3_account.secret_key;
    S3.desc.region = "us-east-1";
    S3.desc.cache_dir = S3.cache;
    S3.desc.heartbeat_ms = -1; /* the cases want to see each one; what is saved has cases of its own */
    S3.desc.mode = on(ON_S3_LOCAL) ? PGQRS_S3_LOCAL : PGQRS_S3_DURABLE;
    S3.desc.split_bytes = getenv("PGQRS_TEST_S3_SPLIT") ? atoi(getenv("PGQRS_TEST_S3_SPLIT")) : S3.split_bytes;
    return &S3.desc;
}

/* Where a store in local mode has its file. */
static void s3_local_file(char *out, size_t room)
{
    unsigned char digest[32];
    char url[800], hex[65];
    snprintf(url, sizeof(url), "%s/%.600s", run.s3_endpoint, T.dsn + 5);
    pgqrsi_s3_sha_of(url, strlen(url), digest);
    pgqrsi_s3_hex(digest, hex);
    snprintf(out, room, "%.400s/%.60s-%.16s-local/local.sqlite", S3.cache, run.s3_bucket, hex);
}

/* Every hook is ours, time is moved by hand. */
static pgqrs_store_desc test_desc(void)
{
    pgqrs_store_desc desc;
    memset(&desc, 0, sizeof(desc));
    if (on(ON_BUCKET))
        desc.s3 = test_s3_desc();
    if (on(ON_SERVER))
        desc.schema = T.schema;
    desc.allocator.resize = test_resize;
    desc.allocator.user = &T.memory;
    desc.logger.write = test_log;
    desc.logger.level = PGQRS_LOG_DEBUG;
    desc.clock.now_us = test_now;
    desc.random.next = test_random;
    desc.sleeper.sleep_us = test_sleep;
    desc.observer.observe = test_observe;
    desc.connect_timeout_ms = 10000;
    return desc;
}

/* The real clock and real waiting. */
static pgqrs_store_desc real_time_desc(void)
{
    pgqrs_store_desc desc = test_desc();
    memset(&desc.clock, 0, sizeof(desc.clock));
    memset(&desc.sleeper, 0, sizeof(desc.sleeper));
    return desc;
}

static pgqrs_store *remember_store(pgqrs_store *store)
{
    size_t i = 0;
    while (i < T.store_count && T.stores[i])
        i++;
    if (store) {
        if (i == COUNT_OF(T.stores))
            fail_at(__FILE__, __LINE__, "too many stores in one test");
        T.stores[i] = store;
        if (i == T.store_count)
            T.store_count++;
    }
    return store;
}

static void close_store(pgqrs_store *store)
{
    size_t i;
    for (i = 0; i < T.store_count; i++)
        if (T.stores[i] == store)
            T.stores[i] = NULL;
    if (T.store == store)
        T.store = NULL;
    pgqrs_close(store);
}

static void close_all_stores(void)
{
    size_t i;
    for (i = 0; i < T.store_count; i++) {
        pgqrs_close(T.stores[i]);
        T.stores[i] = NULL;
    }
    T.store_count = 0;
    T.store = NULL;
}

static pgqrs_store *open_store(const pgqrs_store_desc *desc)
{
    pgqrs_error err;
    pgqrs_store_desc standard = test_desc();
    pgqrs_store *store;
    store = pgqrs_open(T.dsn, desc ? desc : &standard, &err);
    if (!store)
        fail_at(__FILE__, __LINE__, "pgqrs_open: %s", err.message);
    return remember_store(store);
}

static sqlite3 *open_database(const char *file)
{
    sqlite3 *database = NULL;
    if (T.database_count == COUNT_OF(T.databases))
        fail_at(__FILE__, __LINE__, "too many databases in one test");
    if (sqlite3_open(file, &database) != SQLITE_OK)
        fail_at(__FILE__, __LINE__, "sqlite3_open %s failed", file);
    sqlite3_busy_timeout(database, 5000);
    T.databases[T.database_count++] = database;
    return database;
}

static PGconn *open_connection(const char *dsn)
{
    PGconn *connection;
    if (T.connection_count == COUNT_OF(T.connections))
        fail_at(__FILE__, __LINE__, "too many connections in one test");
    connection = PQconnectdb(dsn);
    T.connections[T.connection_count++] = connection;
    if (PQstatus(connection) != CONNECTION_OK)
        fail_at(__FILE__, __LINE__, "cannot connect: %s", PQerrorMessage(connection));
    return connection;
}

static void close_connections(void)
{
    while (T.connection_count > 0)
        PQfinish(T.connections[--T.connection_count]);
    while (T.database_count > 0)
        sqlite3_close(T.databases[--T.database_count]);
}

/* One more store on the same database. In memory that needs the flag TWO: the stores then share one handle. */
static pgqrs_store *another_store_with(const pgqrs_store_desc *desc)
{
    pgqrs_error err;
    pgqrs_store_desc standard = test_desc();
    pgqrs_store *store;
    if (!on(ON_SQLITE_MEMORY))
        return open_store(desc);
    if (T.database_count == 0)
        fail_at(__FILE__, __LINE__, "the test case lacks the flag TWO");
    store = pgqrs_open_sqlite3(T.databases[0], desc ? desc : &standard, &err);
    if (!store)
        fail_at(__FILE__, __LINE__, "pgqrs_open_sqlite3: %s", err.message);
    return remember_store(store);
}

static pgqrs_store *another_store(void)
{
    return another_store_with(NULL);
}

/* Closes and opens T.store with other settings, on the same data. */
static void reopen_with(const pgqrs_store_desc *desc)
{
    close_store(T.store);
    T.store = on(ON_SQLITE_MEMORY) && T.database_count > 0 ? another_store_with(desc) : open_store(desc);
    if (on(ON_SQLITE_MEMORY) && T.database_count == 0)
        OK(pgqrs_install(T.store));
}

/* ------------------------------------------------------------------------------------------------------------------
 * Raw SQL, past the library
 * --------------------------------------------------------------------------------------------------------------- */

/* Writes sql with @name as the qualified table name. */
static void qualify(char *out, size_t room, const char *sql)
{
    size_t used = 0;
    for (; *sql && used + 80 < room; sql++) {
        if (*sql != '@')
            out[used++] = *sql;
        else if (on(ON_SERVER))
            used += (size_t)snprintf(out + used, room - used, "\"%s\".", T.schema);
    }
    out[used] = '\0';
}

/* The case's object, past the library and, where that can be, past faults and counters. */
static int s3_object(const char *method, const void *data, size_t size, s3_text *body)
{
    char path[700];
    snprintf(path, sizeof(path), "%s/%.600s", run.s3_server.pid ? "/_raw" : "", T.dsn + 5);
    return run.s3_server.pid ? s3_raw(run.s3_server.port, method, path, data, size, body)
                             : s3_signed(&run.s3_account, method, path, data, size, body);
}

static bool s3_fetch_part(void *user, const char *name, s3_text *body)
{
    char path[800];
    (void)user;
    snprintf(path, sizeof(path), "%s/%.600s.d/%s", run.s3_server.pid ? "/_raw" : "", T.dsn + 5, name);
    return (run.s3_server.pid ? s3_raw(run.s3_server.port, "GET", path, NULL, 0, body)
                              : s3_signed(&run.s3_account, "GET", path, NULL, 0, body)) == 200;
}

/* The object, put together when it is in parts. */
static s3_text s3_whole_object(void)
{
    s3_text body = {NULL, 0, 0, false}, whole = {NULL, 0, 0, false};
    if (s3_object("GET", NULL, 0, &body) != 200)
        fail_at(__FILE__, __LINE__, "%s cannot be fetched", T.dsn);
    if (!s3_parts_table(&body))
        return body;
    if (!s3_parts_assemble(&body, s3_fetch_part, NULL, &whole))
        fail_at(__FILE__, __LINE__, "%s is not complete", T.dsn);
    s3_free(&body);
    return whole;
}

/* The object as a file, for sqlite3; and back, when that has changed it. */
static void s3_fetch_object(void)
{
    s3_text body = s3_whole_object();
    FILE *file = fopen(T.file, "wb");
    assert_non_null(file);
    fwrite(body.data, 1, body.size, file);
    fclose(file);
    T.object_counter = pgqrsi_s3_big32((const unsigned char *)body.data + 24);
    s3_free(&body);
}

static void s3_store_object(void)
{
    static unsigned char data[4 << 20];
    FILE *file = fopen(T.file, "rb");
    size_t size = file ? fread(data, 1, sizeof(data), file) : 0;
    if (file)
        fclose(file);
    unlink(T.file);
    size = pgqrsi_s3_image_size(data, size);
    if (size == 0)
        fail_at(__FILE__, __LINE__, "what was %s is no SQLite file any more", T.dsn);
    if (pgqrsi_s3_big32(data + 24) != T.object_counter && s3_object("PUT", data, size, NULL) != 200)
        fail_at(__FILE__, __LINE__, "%s cannot be stored", T.dsn);
}

/* Runs SQL; the first column of the first row as text (empty when there is none) goes to `out`. */
static void raw_query(const char *sql, char *out, size_t room)
{
    char text[4096];
    qualify(text, sizeof(text), sql);
    if (out)
        out[0] = '\0';
    if (on(ON_SERVER)) {
        PGconn *connection = PQconnectdb(run.dsn);
        PGresult *result = PQexec(connection, text);
        ExecStatusType status = PQresultStatus(result);
        char problem[512];
        snprintf(problem, sizeof(problem), "%s", PQerrorMessage(connection));
        if (out && status == PGRES_TUPLES_OK && PQntuples(result) > 0)
            snprintf(out, room, "%s", PQgetvalue(result, 0, 0));
        PQclear(result);
        PQfinish(connection);
        if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
            fail_at(__FILE__, __LINE__, "%s: %s", text, problem);
    } else {
        sqlite3 *database;
        if (on(ON_S3))
            s3_fetch_object();
        database = T.database_count > 0 && on(ON_SQLITE_MEMORY) ? T.databases[0] : open_database(T.file);
        sqlite3_stmt *statement = NULL;
        const char *rest = text;
        while (rest && *rest) {
            int code = sqlite3_prepare_v2(database, rest, -1, &statement, &rest);
            if (code != SQLITE_OK)
                fail_at(__FILE__, __LINE__, "%s: %s", text, sqlite3_errmsg(database));
            if (!statement)
                break;
            code = sqlite3_step(statement);
            if (code == SQLITE_ROW && out)
                snprintf(out, room, "%s",
                         sqlite3_column_text(statement, 0) ? (const char *)sqlite3_column_text(statement, 0) : "");
            while (code == SQLITE_ROW)
                code = sqlite3_step(statement);
            sqlite3_finalize(statement);
            if (code != SQLITE_DONE)
                fail_at(__FILE__, __LINE__, "%s: %s", text, sqlite3_errmsg(database));
        }
        if (!on(ON_SQLITE_MEMORY)) {
            sqlite3_close(database);
            T.database_count--;
        }
        if (on(ON_S3))
            s3_store_object();
    }
}

static void raw_exec(const char *sql)
{
    raw_query(sql, NULL, 0);
}

static int64_t raw_int(const char *sql)
{
    char text[64];
    raw_query(sql, text, sizeof(text));
    return strtoll(text, NULL, 10);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Short forms of what nearly every test does. Results are freed at the end of the test.
 * --------------------------------------------------------------------------------------------------------------- */

static void keep(const void *result)
{
    union {
        const void *in;
        void *out;
    } cast;
    if (!result)
        return;
    if (T.result_count == T.result_room) {
        T.result_room = T.result_room ? T.result_room * 2 : 64;
        T.results = (void **)realloc(T.results, T.result_room * sizeof(*T.results));
        assert_non_null(T.results);
    }
    cast.in = result;
    T.results[T.result_count++] = cast.out;
}

static void free_results(void)
{
    while (T.result_count > 0)
        pgqrs_free(T.results[--T.result_count]);
    free(T.results);
    T.results = NULL;
    T.result_room = 0;
}

/* The settings of T.queue. */
static pgqrs_queue_desc test_queue_desc(void)
{
    pgqrs_queue_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.lease_ms = TEST_LEASE_MS;
    desc.max_attempts = TEST_MAX_ATTEMPTS;
    desc.backoff_ms = TEST_BACKOFF_MS;
    desc.backoff_max_ms = TEST_BACKOFF_MAX_MS;
    return desc;
}

/* A name that no other test uses. */
static const char *unique(const char *suffix)
{
    static char names[16][96];
    static unsigned next;
    char *name = names[next++ % COUNT_OF(names)];
    snprintf(name, sizeof(names[0]), "%s-%d-%s", T.queue, (int)(run.case_number), suffix);
    return name;
}

/* Creates another queue for this test. */
static const char *another_queue(const char *suffix)
{
    const char *name = unique(suffix);
    pgqrs_queue_desc desc = test_queue_desc();
    OK(pgqrs_queue_create(T.store, name, &desc));
    return name;
}

static pgqrs_receipt put_into(const char *queue, const char *payload, pgqrs_enqueue_desc desc)
{
    pgqrs_receipt receipt = {0, false};
    OK(pgqrs_enqueue(T.store, queue, payload, &desc, &receipt));
    YES(receipt.id > 0);
    return receipt;
}

static int64_t put_as(pgqrs_enqueue_desc desc)
{
    return put_into(T.queue, SECRET_PAYLOAD, desc).id;
}

static int64_t put(void)
{
    pgqrs_receipt receipt = {0, false};
    OK(pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, &receipt));
    YES(receipt.id > 0);
    NO(receipt.duplicate);
    return receipt.id;
}

/* Several in one batch; ids may be NULL. */
static void put_batch(const char *queue, size_t count, int32_t priority, int64_t *ids)
{
    pgqrs_enqueue_item *items = (pgqrs_enqueue_item *)calloc(count, sizeof(*items));
    pgqrs_receipt *receipts = (pgqrs_receipt *)calloc(count, sizeof(*receipts));
    pgqrs_result result = PGQRS_ERR_INTERNAL;
    size_t i;
    if (items && receipts) {
        for (i = 0; i < count; i++) {
            items[i].payload = SECRET_PAYLOAD;
            items[i].desc.priority = priority;
        }
        result = pgqrs_enqueue_many(T.store, queue, items, count, receipts);
        for (i = 0; ids && i < count; i++)
            ids[i] = receipts[i].id;
    }
    free(items);
    free(receipts);
    OK(result);
}

static const pgqrs_message *take_with(pgqrs_store *store, const char *queue, pgqrs_dequeue_desc desc)
{
    pgqrs_message *message = NULL;
    OK_ON(store, pgqrs_dequeue(store, queue, &desc, &message));
    keep(message);
    return message;
}

static const pgqrs_message *take_as(pgqrs_dequeue_desc desc)
{
    return take_with(T.store, T.queue, desc);
}

/* The next message of T.queue, NULL when there is none. */
static const pgqrs_message *take(void)
{
    pgqrs_message *message = NULL;
    OK(pgqrs_dequeue(T.store, T.queue, NULL, &message));
    keep(message);
    return message;
}

/* The next message, which must be there. */
static const pgqrs_message *must_take_at(const char *file, int line)
{
    const pgqrs_message *message = take();
    if (!message)
        fail_at(file, line, "nothing was delivered");
    return message;
}
#define must_take() must_take_at(__FILE__, __LINE__)

static const pgqrs_messages *take_many_with(pgqrs_store *store, const char *queue, pgqrs_dequeue_desc desc)
{
    pgqrs_messages *messages = NULL;
    OK_ON(store, pgqrs_dequeue_many(store, queue, &desc, &messages));
    keep(messages);
    assert_non_null(messages);
    return messages;
}

static const pgqrs_messages *take_many(size_t limit)
{
    pgqrs_dequeue_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.limit = limit;
    return take_many_with(T.store, T.queue, desc);
}

/* A message as the inspection shows it, NULL when there is none. */
static const pgqrs_message *look(int64_t id)
{
    pgqrs_message *message = NULL;
    OK(pgqrs_message_get(T.store, id, &message));
    keep(message);
    return message;
}

static const pgqrs_message *must_look_at(int64_t id, const char *file, int line)
{
    const pgqrs_message *message = look(id);
    if (!message)
        fail_at(file, line, "message %" PRId64 " is gone", id);
    return message;
}
#define must_look(id) must_look_at(id, __FILE__, __LINE__)

static const char *state_name(pgqrs_state state)
{
    static const char *const names[] = {"gone", "ready", "delayed", "leased", "archived", "dead"};
    return (int)state >= 0 && (size_t)state < COUNT_OF(names) ? names[state] : "no state";
}

static const char *state_of(int64_t id)
{
    const pgqrs_message *message = look(id);
    return message ? state_name(message->state) : "gone";
}
#define STATE(want, id) check_string(want, state_of(id), "the state of " #id, __FILE__, __LINE__)

static pgqrs_queue_metrics numbers_of(const char *queue)
{
    pgqrs_metrics *metrics = NULL;
    OK(pgqrs_metrics_get(T.store, queue, &metrics));
    assert_non_null(metrics);
    keep(metrics);
    EQ(1, metrics->count);
    SAME(queue, metrics->items[0].queue);
    EQ(metrics->items[0].total, metrics->items[0].ready + metrics->items[0].delayed + metrics->items[0].leased +
                                    metrics->items[0].archived + metrics->items[0].dead);
    return metrics->items[0];
}

static pgqrs_queue_metrics numbers(void)
{
    return numbers_of(T.queue);
}

#define NUMBERS(want_ready, want_delayed, want_leased, want_archived, want_dead)                                      \
    do {                                                                                                              \
        pgqrs_queue_metrics numbers_seen = numbers();                                                                 \
        EQ(want_ready, numbers_seen.ready);                                                                           \
        EQ(want_delayed, numbers_seen.delayed);                                                                       \
        EQ(want_leased, numbers_seen.leased);                                                                         \
        EQ(want_archived, numbers_seen.archived);                                                                     \
        EQ(want_dead, numbers_seen.dead);                                                                             \
    } while (0)

static int64_t count_where(pgqrs_message_filter filter)
{
    int64_t count = -1;
    OK(pgqrs_message_count(T.store, &filter, &count));
    return count;
}

/* Housekeeping until nothing is left to do. */
static int64_t maintain_all(void)
{
    int64_t all = 0, changed = 0;
    int rounds = 0;
    do {
        OK(pgqrs_maintain(T.store, &changed));
        YES(changed >= 0);
        all += changed;
        YES(++rounds < 1000);
    } while (changed > 0);
    return all;
}

static pgqrs_worker_ref enlist(const char *name, const char *queue)
{
    pgqrs_worker_ref worker = {0, 0};
    pgqrs_register_desc desc = {NULL, 0};
    desc.queue = queue;
    OK(pgqrs_worker_register(T.store, name, &desc, &worker));
    YES(worker.id > 0);
    YES(worker.epoch != 0);
    return worker;
}

static const pgqrs_worker_info *look_worker(int64_t id)
{
    pgqrs_worker_info *info = NULL;
    OK(pgqrs_worker_get(T.store, id, &info));
    keep(info);
    return info;
}

static const pgqrs_worker_info *must_look_worker_at(int64_t id, const char *file, int line)
{
    const pgqrs_worker_info *info = look_worker(id);
    if (!info)
        fail_at(file, line, "worker %" PRId64 " is gone", id);
    return info;
}
#define must_look_worker(id) must_look_worker_at(id, __FILE__, __LINE__)

/* ------------------------------------------------------------------------------------------------------------------
 * Workflows. Those of a test are on T.queue and try again after exactly 1, 2, 4 ... seconds.
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_workflow_desc test_workflow_desc(void)
{
    pgqrs_workflow_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.queue = T.queue;
    desc.retry.max_retries = 2;
    desc.retry.base_ms = 1000;
    desc.retry.cap_ms = 8000;
    desc.retry.jitter_percent = -1;
    return desc;
}

/* The workflow T.flow. */
static void define_as(pgqrs_workflow_desc desc)
{
    OK(pgqrs_workflow_create(T.store, T.flow, &desc));
}

static void define(void)
{
    define_as(test_workflow_desc());
}

static const pgqrs_workflow *look_workflow(const char *name)
{
    pgqrs_workflow *workflow = NULL;
    OK(pgqrs_workflow_get(T.store, name, &workflow));
    keep(workflow);
    return workflow;
}

static int64_t trigger_as(const char *input, pgqrs_trigger_desc desc)
{
    int64_t id = 0;
    OK(pgqrs_workflow_trigger(T.store, T.flow, input, &desc, &id));
    YES(id > 0);
    return id;
}

static int64_t trigger(void)
{
    int64_t id = 0;
    OK(pgqrs_workflow_trigger(T.store, T.flow, SECRET_PAYLOAD, NULL, &id));
    YES(id > 0);
    return id;
}

/* A run as the inspection shows it, NULL when there is none. */
static const pgqrs_run_info *look_run_on(pgqrs_store *store, int64_t id)
{
    pgqrs_run_info *info = NULL;
    OK_ON(store, pgqrs_run_get(store, id, &info));
    keep(info);
    return info;
}

static const pgqrs_run_info *must_look_run_at(int64_t id, const char *file, int line)
{
    const pgqrs_run_info *info = look_run_on(T.store, id);
    if (!info)
        fail_at(file, line, "run %" PRId64 " is gone", id);
    return info;
}
#define look_run(id) must_look_run_at(id, __FILE__, __LINE__)

static void check_run(const char *want, pgqrs_store *store, int64_t id, const char *what, const char *file, int line)
{
    const pgqrs_run_info *info = look_run_on(store, id);
    const char *state = info ? pgqrs_run_state_name(info->state) : "gone";
    if (strcmp(want, state) != 0)
        fail_at(file, line, "the state of run %s is %s, expected %s; error %s (%s) in %s", what, state, want,
                info && info->error_code ? info->error_code : "-",
                info && info->error_message ? info->error_message : "-",
                info && info->error_step ? info->error_step : "-");
}
#define RUN(want, id) check_run(want, T.store, id, #id, __FILE__, __LINE__)

static void check_run_error(const char *code, const char *step, int64_t id, const char *file, int line)
{
    const pgqrs_run_info *info = must_look_run_at(id, file, line);
    check_run("error", T.store, id, "the run", file, line);
    check_string(code, info->error_code, "error_code", file, line);
    if (step)
        check_string(step, info->error_step, "error_step", file, line);
    else
        check_true(info->error_step == NULL, "no error_step", file, line);
}
/* The run has failed with this code, in this step (NULL: in none). */
#define RUN_ERROR(code, step, id) check_run_error(code, step, id, __FILE__, __LINE__)

static const pgqrs_steps *steps_on(pgqrs_store *store, int64_t id)
{
    pgqrs_steps *steps = NULL;
    OK_ON(store, pgqrs_run_steps(store, id, &steps));
    keep(steps);
    assert_non_null(steps);
    return steps;
}

static const pgqrs_steps *steps_of(int64_t id)
{
    return steps_on(T.store, id);
}

/* Step number 1, 2, ... of a run, which must be there. */
static const pgqrs_step_info *step_at(int64_t id, int32_t number, const char *file, int line)
{
    const pgqrs_steps *steps = steps_of(id);
    size_t i;
    for (i = 0; i < steps->count; i++)
        if (steps->items[i].number == number)
            return &steps->items[i];
    fail_at(file, line, "run %" PRId64 " has no step number %d", id, (int)number);
    return NULL;
}
#define step_of(id, number) step_at(id, number, __FILE__, __LINE__)

/* The value of a run, NULL when it is not set. */
static const char *value_on(pgqrs_store *store, int64_t id, const char *name)
{
    pgqrs_run_values *values = NULL;
    size_t i;
    OK_ON(store, pgqrs_run_values_get(store, id, &values));
    keep(values);
    for (i = 0; i < values->count; i++)
        if (strcmp(values->items[i].name, name) == 0)
            return values->items[i].value;
    return NULL;
}

static int64_t runs_where(pgqrs_run_filter filter)
{
    int64_t count = -1;
    OK(pgqrs_run_count(T.store, &filter, &count));
    return count;
}

/* Executes whatever of these workflows is deliverable now. The clock does not move. */
static void serve_entries(pgqrs_store *store, const pgqrs_workflow_entry *entries, size_t count)
{
    pgqrs_worker *worker = pgqrs_worker_open_workflows(store, entries, count, NULL);
    size_t handled = 1;
    int rounds = 0;
    if (!worker)
        fail_at(__FILE__, __LINE__, "pgqrs_worker_open_workflows: %s", last_message(store));
    while (handled > 0) {
        OK_ON(store, pgqrs_worker_poll(worker, 0, &handled));
        YES(++rounds < 500);
    }
    OK_ON(store, pgqrs_worker_close(worker));
}

static void serve_on(pgqrs_store *store, pgqrs_workflow_handler handler)
{
    pgqrs_workflow_entry entry = {T.flow, handler, NULL};
    serve_entries(store, &entry, 1);
}

static void serve(pgqrs_workflow_handler handler)
{
    serve_on(T.store, handler);
}

/* The same later. */
static void serve_after(int64_t ms, pgqrs_workflow_handler handler)
{
    advance_ms(ms);
    serve(handler);
}

/* All that can be seen of a run, as one text: for "nothing changed". The caller frees it. */
static char *picture_of(int64_t id)
{
    enum { room = 16384 };
    char *out = (char *)malloc(room);
    const pgqrs_run_info *info = look_run(id);
    const pgqrs_steps *steps = steps_of(id);
    size_t i, used;
    assert_non_null(out);
#define TEXT(text) ((text) ? (text) : "-")
    used = (size_t)snprintf(out, room, "%s in=%s out=%s err=%s/%s/%s wait=%d/%s/%" PRId64 " retries=%d ended=%" PRId64 "\n",
                            pgqrs_run_state_name(info->state), TEXT(info->input), TEXT(info->output),
                            TEXT(info->error_code), TEXT(info->error_message), TEXT(info->error_step), (int)info->wait,
                            TEXT(info->wait_name), info->wait_until_us, (int)info->retries, info->finished_at_us);
    for (i = 0; i < steps->count && used < room; i++) {
        const pgqrs_step_info *step = &steps->items[i];
        used += (size_t)snprintf(out + used, room - used,
                                 "%d kind=%d %s %s/%s in=%s out=%s err=%s/%s retries=%d %" PRId64 "-%" PRId64 " due=%" PRId64
                                 "\n",
                                 (int)step->number, (int)step->kind, pgqrs_step_state_name(step->state), step->name,
                                 TEXT(step->key), TEXT(step->input), TEXT(step->output), TEXT(step->error_code),
                                 TEXT(step->error_message), (int)step->retries, step->started_at_us,
                                 step->finished_at_us, step->due_at_us);
    }
    if (used < room)
        snprintf(out + used, room - used, "note=%s\n", TEXT(value_on(T.store, id, "note")));
#undef TEXT
    return out;
}

static void check_unchanged(char *before, int64_t id, const char *file, int line)
{
    char *after = picture_of(id);
    bool same = strcmp(before, after) == 0;
    if (!same)
        print_error("before:\n%safter:\n%s", before, after);
    free(before);
    free(after);
    check_true(same, "the run is as it was", file, line);
}
/* Frees the picture. */
#define UNCHANGED(before, id) check_unchanged(before, id, __FILE__, __LINE__)

static bool digits_in(const char *text)
{
    return strpbrk(text, "0123456789") != NULL;
}

/* A string of `size` bytes; the caller frees it. */
static char *text_of(size_t size, char fill)
{
    char *text = (char *)malloc(size + 1);
    assert_non_null(text);
    memset(text, fill, size);
    text[size] = '\0';
    return text;
}

/* A JSON string of exactly `size` bytes, quotes included; the caller frees it. */
static char *json_string_of(size_t size)
{
    char *text = text_of(size, 'a');
    text[0] = '"';
    text[size - 1] = '"';
    return text;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Processes. SQLite must not be carried across a fork, so every store is closed before.
 * --------------------------------------------------------------------------------------------------------------- */

/* Runs in a child: no checks of cmocka there, the exit status tells. */
typedef int (*child_function)(void *user);

static pid_t start_child(child_function function, void *user)
{
    pid_t pid;
    size_t i;
    for (i = 0; i < T.store_count; i++)
        if (T.stores[i])
            fail_at(__FILE__, __LINE__, "a store is open while forking");
    fflush(NULL);
    pid = fork();
    if (pid < 0)
        fail_at(__FILE__, __LINE__, "fork failed");
    if (pid == 0) {
        alarm(60);
        _exit(function(user));
    }
    return pid;
}

static void child_ended_well(pid_t pid)
{
    int status = -1;
    YES(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_at(__FILE__, __LINE__, "a child process ended with status %d, signal %d",
                WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

/* In a child: a store or the end of the child. */
static pgqrs_store *child_store(const pgqrs_store_desc *desc)
{
    pgqrs_error err;
    pgqrs_store *store;
    /* Random numbers of its own: a fork copies the generator, and names and epochs are drawn from it. */
    T.random_state ^= (uint64_t)getpid() << 32;
    store = pgqrs_open(T.dsn, desc, &err);
    if (!store) {
        fprintf(stderr, "# child: %s\n", err.message);
        _exit(90);
    }
    return store;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Running
 * --------------------------------------------------------------------------------------------------------------- */

static void watchdog(int number)
{
    const char *name = T.test ? T.test->name : "-";
    ssize_t ignored = write(2, "# hangs: ", 9);
    ignored = write(2, name, strlen(name));
    ignored = write(2, "\n", 1);
    (void)ignored;
    (void)number;
    _exit(3);
}

static void watch(unsigned seconds)
{
    signal(SIGALRM, watchdog);
    alarm(seconds);
}

static void server_exec(const char *format, const char *schema)
{
    char sql[256];
    PGconn *connection = PQconnectdb(run.dsn);
    PGresult *result;
    snprintf(sql, sizeof(sql), format, schema);
    result = PQexec(connection, sql);
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        fprintf(stderr, "# %s: %s", sql, PQerrorMessage(connection));
    PQclear(result);
    PQfinish(connection);
}

static void place_for_case(const test_case *test)
{
    switch (run.target) {
    case ON_SQLITE_FILE:
        snprintf(T.file, sizeof(T.file), "%s/case%d.db", run.dir, run.case_number);
        snprintf(T.dsn, sizeof(T.dsn), "sqlite://%s", T.file);
        break;
    case ON_S3:
    case ON_S3_LOCAL:
        snprintf(T.file, sizeof(T.file), "%s/case%d.db", run.dir, run.case_number);
        snprintf(T.dsn, sizeof(T.dsn), "s3://%s/run%d/case%d.sqlite", run.s3_bucket, (int)run.pid, run.case_number);
        snprintf(S3.cache, sizeof(S3.cache), "%s/cache%d", run.dir, run.case_number);
        if (on(ON_S3_LOCAL))
            s3_local_file(T.file, sizeof(T.file));
        break;
    case ON_SQLITE_MEMORY:
        snprintf(T.dsn, sizeof(T.dsn), "sqlite::memory:");
        if (test->flags & TWO)
            open_database(":memory:");
        break;
    default:
        snprintf(T.dsn, sizeof(T.dsn), "%s", run.dsn);
        if (test->flags & (FRESH | UNINSTALLED))
            snprintf(T.schema, sizeof(T.schema), "%s_%d", run.schema, run.case_number);
        else
            snprintf(T.schema, sizeof(T.schema), "%s", run.schema);
        break;
    }
}

static void remove_file(const char *file)
{
    static const char *const endings[] = {"", "-wal", "-shm", "-journal", "-qlock", "-lock", "-wake"};
    char name[700];
    size_t i;
    for (i = 0; i < COUNT_OF(endings); i++) {
        snprintf(name, sizeof(name), "%s%s", file, endings[i]);
        unlink(name);
    }
}

static void s3_remove_case(void)
{
    char command[800];
    s3_object("DELETE", NULL, 0, NULL);
    if (run.s3_server.pid)
        s3_control(run.s3_server.port, "faults=0\nclock_s=0\nwrite_interval_ms=0\nread_only=0\nmoved=\nhonour=both\nmatch=any\netag=quoted\n"
                                       "etag_from=content\nabsent_match=404\nretry_after=1");
    snprintf(command, sizeof(command), "rm -rf '%s'", S3.cache);
    if (S3.cache[0] && system(command) != 0)
        fprintf(stderr, "# %s failed\n", command);
}

static void tidy_up_case(void)
{
    int64_t took_ms = monotonic_ms() - T.began_ms;
    if (took_ms >= 300)
        printf("# %s took %d ms\n", T.test->name, (int)took_ms);
    T.memory.fail_at = -1;
    close_all_stores();
    free_results();
    close_connections();
    if ((on(ON_SQLITE_FILE) || on(ON_BUCKET)) && T.file[0])
        remove_file(T.file);
    if (on(ON_BUCKET))
        s3_remove_case();
    if (on(ON_SERVER) && strcmp(T.schema, run.schema) != 0 && T.schema[0])
        server_exec("SET client_min_messages TO warning; DROP SCHEMA IF EXISTS \"%s\" CASCADE", T.schema);
}

static void begin_case(const test_case *test)
{
    memset(&T, 0, sizeof(T));
    memset(&S3.instead, 0, sizeof(S3.instead));
    S3.split_bytes = 0;
    T.test = test;
    T.memory.fail_at = -1;
    T.sleep_limit = 20000;
    run.case_number++;
    T.began_ms = monotonic_ms();
    T.now_us = TEST_EPOCH_US + (int64_t)run.case_number * DAY_US;
    T.random_state = run.seed + (uint64_t)run.case_number;
    snprintf(T.queue, sizeof(T.queue), "q%d", run.case_number);
    snprintf(T.flow, sizeof(T.flow), "w%d", run.case_number);
    watch(TEST_SANITIZED ? 240 : 90);
    place_for_case(test);
}

static void run_case(void **state)
{
    const test_case *test = (const test_case *)*state;
    begin_case(test);
    if (!(test->flags & NO_STORE)) {
        pgqrs_queue_desc desc = test_queue_desc();
        T.store = on(ON_SQLITE_MEMORY) && (test->flags & TWO) ? another_store() : open_store(NULL);
        if (!(test->flags & UNINSTALLED)) {
            /* In the shared schema this happens once, and the repetition costs little. */
            OK(pgqrs_install(T.store));
            if (!(test->flags & NO_QUEUE))
                OK(pgqrs_queue_create(T.store, T.queue, &desc));
        }
    }
    T.event_count = 0;
    test->run();
    close_all_stores();
    free_results();
    if (T.leak)
        fail_at(__FILE__, __LINE__, "the log shows %s", T.leak);
    if (T.runaway)
        fail_at(__FILE__, __LINE__, "it slept %" PRId64 " times without coming to an end", T.sleeps);
    if (!(test->flags & NO_BALANCE)) {
        if (T.memory.misuse)
            fail_at(__FILE__, __LINE__, "the allocator was called with %s", T.memory.misuse);
        EQ(0, T.memory.blocks);
        EQ(0, T.memory.bytes);
    }
}

static int end_case(void **state)
{
    (void)state;
    tidy_up_case();
    return 0;
}

static uint64_t seed_of_run(void)
{
    const char *given = getenv("PGQRS_TEST_SEED");
    uint64_t seed = (uint64_t)real_us() ^ ((uint64_t)getpid() << 40);
    if (given && *given)
        seed = strtoull(given, NULL, 0);
    return seed;
}

static void remember_password(const char *dsn)
{
    const char *user = strstr(dsn, "://");
    const char *at = user ? strchr(user, '@') : NULL;
    const char *colon = user ? strchr(user + 3, ':') : NULL;
    if (at && colon && colon < at && (size_t)(at - colon) <= sizeof(run.password)) {
        memcpy(run.password, colon + 1, (size_t)(at - colon) - 1);
        /* A password that is also the name of the user or the database would be found everywhere. */
        if (strlen(run.password) < 6 || strstr(run.password, "pgqrs") == run.password)
            run.password[0] = '\0';
    }
}

static bool ci(void)
{
    const char *value = getenv("CI");
    return value && strcmp(value, "true") == 0;
}

/* Reads target and DSN. Not 0: the program ends with that status minus one, having said why. */
/* A server of our own, or the one that was started for us. */
static bool start_s3(bool other)
{
    static const char *const settings[] = {"access_key=test", "secret_key=secret-of-the-tests", "bucket=pgqrs-test", NULL};
    const char *endpoint = getenv("PGQRS_TEST_S3_ENDPOINT");
    run.s3_account.access_key = other ? getenv("PGQRS_TEST_S3_ACCESS_KEY") : "test";
    run.s3_account.secret_key = other ? getenv("PGQRS_TEST_S3_SECRET_KEY") : "secret-of-the-tests";
    run.s3_bucket = other ? getenv("PGQRS_TEST_S3_BUCKET") : "pgqrs-test";
    if (other && (!endpoint || !run.s3_account.access_key || !run.s3_account.secret_key || !run.s3_bucket)) {
        fprintf(stderr, "PGQRS_TEST_S3_ENDPOINT, _ACCESS_KEY, _SECRET_KEY or _BUCKET is not set (tests/servers.sh start DIR s3)\n");
        return false;
    }
    if (!other && !s3_process_start(&run.s3_server, settings)) {
        fprintf(stderr, "the S3 server of the tests does not start; make build/test/s3_server\n");
        return false;
    }
    snprintf(run.s3_endpoint, sizeof(run.s3_endpoint), "http://127.0.0.1:%d", run.s3_server.port);
    if (other)
        snprintf(run.s3_endpoint, sizeof(run.s3_endpoint), "%s", endpoint);
    run.s3_account.endpoint = run.s3_endpoint;
    snprintf(run.password, sizeof(run.password), "%s", run.s3_account.secret_key);
    return true;
}

static int begin_run(void)
{
    static const struct {
        const char *name;
        test_target target;
    } targets[] = {{"sqlite-file", ON_SQLITE_FILE},
                   {"sqlite-memory", ON_SQLITE_MEMORY},
                   {"postgres", ON_POSTGRES},
                   {"pgbouncer", ON_PGBOUNCER},
                   {"s3", ON_S3},
                   {"s3-local", ON_S3_LOCAL},
                   {"s3-radosgw", ON_S3},
                   {"s3-local-radosgw", ON_S3_LOCAL}};
    const char *name = getenv("PGQRS_TEST_TARGET");
    const char *dsn = getenv("PGQRS_TEST_DSN");
    size_t i;
    memset(&run, 0, sizeof(run));
    run.pid = getpid();
    run.seed = seed_of_run();
    run.loud = getenv("PGQRS_TEST_LOUD") != NULL;
    cmocka_set_message_output(CM_OUTPUT_TAP);
    signal(SIGPIPE, SIG_IGN);
    if (!name || !*name)
        name = "sqlite-file";
    for (i = 0; i < COUNT_OF(targets); i++)
        if (strcmp(name, targets[i].name) == 0)
            run.target = targets[i].target;
    if (!run.target) {
        fprintf(stderr, "PGQRS_TEST_TARGET is %s; there are sqlite-file, sqlite-memory, postgres, pgbouncer, s3, s3-local, s3-radosgw, s3-local-radosgw\n", name);
        return 3;
    }
    printf("# target %s, seed %" PRIu64 " (PGQRS_TEST_SEED repeats it)\n", name, run.seed);
    fflush(stdout);
    if (on(ON_SERVER)) {
        if (!dsn || !*dsn) {
            printf("1..1\nok 1 # SKIP NOTHING WAS TESTED on %s: PGQRS_TEST_DSN is not set\n", name);
            fprintf(stderr, "SKIPPED: nothing was tested on %s, PGQRS_TEST_DSN is not set\n", name);
            return ci() ? 2 : 1;
        }
        snprintf(run.dsn, sizeof(run.dsn), "%s", dsn);
        remember_password(dsn);
        snprintf(run.schema, sizeof(run.schema), "t%08x%04x", (unsigned)(run.seed * UINT64_C(0x9E3779B97F4A7C15) >> 32),
                 (unsigned)getpid() & 0xffffu);
    }
    if (on(ON_BUCKET) && !start_s3(strstr(name, "radosgw") != NULL))
        return 3;
    if (on(ON_SQLITE_FILE) || on(ON_BUCKET)) {
        if (dsn && strncmp(dsn, "sqlite://", 9) == 0 && strrchr(dsn + 9, '/')) {
            snprintf(run.dir, sizeof(run.dir), "%.*s", (int)(strrchr(dsn + 9, '/') - (dsn + 9)), dsn + 9);
        } else {
            const char *temporary = getenv("TMPDIR");
            snprintf(run.dir, sizeof(run.dir), "%s/pgqrs-test-XXXXXX", temporary && *temporary ? temporary : "/tmp");
            if (!mkdtemp(run.dir)) {
                perror("mkdtemp");
                return 3;
            }
            run.own_dir = true;
        }
    }
    return 0;
}

/* Leaves nothing behind. 0, or 1 when something was left. */
static int end_run(void)
{
    int problems = 0;
    alarm(0);
    memset(&T, 0, sizeof(T));
    if (on(ON_SERVER)) {
        char sql[256];
        PGconn *connection;
        PGresult *result;
        server_exec("SET client_min_messages TO warning; DROP SCHEMA IF EXISTS \"%s\" CASCADE", run.schema);
        connection = PQconnectdb(run.dsn);
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%s%%'", run.schema);
        result = PQexec(connection, sql);
        if (PQntuples(result) != 1 || strcmp(PQgetvalue(result, 0, 0), "0") != 0) {
            fprintf(stderr, "schemas of this run are left behind\n");
            problems = 1;
        }
        PQclear(result);
        PQfinish(connection);
    }
    if (on(ON_BUCKET)) {
        while (S3.count > 0)
            http_socket_destroy(S3.idle[--S3.count]);
        s3_process_stop(&run.s3_server);
    }
    if (run.own_dir && rmdir(run.dir) != 0) {
        fprintf(stderr, "files are left behind in %s\n", run.dir);
        problems = 1;
    }
    return problems;
}

typedef struct test_list {
    const test_case *cases;
    size_t count;
} test_list;
#define LIST(cases) {cases, COUNT_OF(cases)}

/* Is any of these words, with spaces between them, part of the name? */
static bool named_by(const char *words, const char *name)
{
    char copy[256], *word, *rest = NULL;
    snprintf(copy, sizeof(copy), "%s", words);
    for (word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        if (strstr(name, word))
            return true;
    return false;
}

/* Runs the cases meant for this target. PGQRS_TEST_ONLY: only those whose name contains it, or one word of it.
 * PGQRS_TEST_SHARE: only every so manyth of them, for tools that are slow. */
static int run_lists(const char *name, const test_list *lists, size_t list_count)
{
    const char *only = getenv("PGQRS_TEST_ONLY");
    const char *given_share = getenv("PGQRS_TEST_SHARE");
    size_t share = given_share && atoi(given_share) > 1 ? (size_t)atoi(given_share) : 1, met = 0;
    struct CMUnitTest *tests;
    size_t i, j, all = 0, count = 0;
    int failed;
    for (i = 0; i < list_count; i++)
        all += lists[i].count;
    tests = (struct CMUnitTest *)calloc(all + 1, sizeof(*tests));
    if (!tests)
        return 1;
    for (i = 0; i < list_count; i++)
        for (j = 0; j < lists[i].count; j++) {
            const test_case *test = &lists[i].cases[j];
            union {
                const test_case *in;
                void *out;
            } cast;
            if (!on(test->targets) || (only && !named_by(only, test->name)) || met++ % share != 0)
                continue;
            cast.in = test;
            tests[count].name = test->name;
            tests[count].test_func = run_case;
            tests[count].teardown_func = end_case;
            tests[count].initial_state = cast.out;
            count++;
        }
    failed = _cmocka_run_group_tests(name, tests, count, NULL, NULL);
    free(tests);
    return failed;
}

#endif /* PGQRS_TEST_SUPPORT_H */
