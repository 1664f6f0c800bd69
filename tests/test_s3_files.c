/* Each system call that the S3 backend makes on a file of its cache directory fails once, or from there on, or is interrupted, or does
 * half of what it was asked for: what was acknowledged is in the bucket all the same, and what could not be done is said.
 *
 * The calls are taken by definitions of the same name in this program, which come before those of the C library. */
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

#if defined(__linux__)
#include <sys/syscall.h>

/* ---- calls that fail ---- */

enum { DESCRIPTORS = 256 };

typedef enum file_fault {
    FAIL_ONCE,   /* EIO */
    FAIL_ALWAYS, /* ENOSPC, from that call on */
    INTERRUPT,   /* EINTR, nothing was done */
    HALVE        /* a read or a write of more than one byte */
} file_fault;

static struct {
    file_fault how;
    int64_t countdown; /* at 0 the fault happens; negative: it has, or there is none */
    int64_t happened;
    int64_t nth;
    const char *call; /* the first that it happened to */
    const char *only; /* what the path has to end with; NULL: any */
    bool watched[DESCRIPTORS];
} files = {.countdown = -1};

static char dir[] = "/tmp/pgqrs-files.XXXXXX";

/* Only what the backend does itself, the file of a local store is SQLite's, and only to the stores that are tried. */
static bool is_ours(const char *path)
{
    size_t size = strlen(path), end = files.only ? strlen(files.only) : 0;
    if (size < end || memcmp(path + size - end, files.only ? files.only : "", end) != 0)
        return false;
    return strncmp(path, dir, strlen(dir)) == 0 && !strstr(path, "local.sqlite") && !strstr(path, "/observer");
}

static bool is_watched(int descriptor)
{
    return descriptor >= 0 && descriptor < DESCRIPTORS && files.watched[descriptor];
}

/* Is it this call's turn? */
static bool strikes(const char *call)
{
    if (files.countdown < 0)
        return false;
    if (files.countdown > 0) {
        files.countdown--;
        return false;
    }
    if (files.how != FAIL_ALWAYS)
        files.countdown = -1;
    if (files.happened++ == 0)
        files.call = call;
    return true;
}

/* Of a call that can only fail or work. */
static bool fails(bool ours, const char *call)
{
    if (!ours || files.how == INTERRUPT || files.how == HALVE || !strikes(call))
        return false;
    errno = files.how == FAIL_ALWAYS ? ENOSPC : EIO;
    return true;
}

/* Of one that may be interrupted. */
static bool fails_or_is_interrupted(bool ours, const char *call)
{
    if (!ours || files.how != INTERRUPT)
        return fails(ours, call);
    if (!strikes(call))
        return false;
    errno = EINTR;
    return true;
}

static size_t halved(bool ours, size_t size, const char *call)
{
    return ours && files.how == HALVE && size > 1 && strikes(call) ? size / 2 : size;
}

static int watch(int descriptor, bool ours)
{
    if (descriptor >= 0 && descriptor < DESCRIPTORS)
        files.watched[descriptor] = ours;
    return descriptor;
}

int open(const char *path, int flags, ...)
{
    int mode = 0;
    if (flags & O_CREAT) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, int);
        va_end(arguments);
    }
    if (fails_or_is_interrupted(is_ours(path), __func__))
        return -1;
    return watch((int)syscall(SYS_openat, AT_FDCWD, path, flags, mode), is_ours(path));
}

int close(int descriptor)
{
    bool failed = files.how == FAIL_ONCE && fails(is_watched(descriptor), __func__); /* it is closed in any case */
    int rc;
    watch(descriptor, false);
    rc = (int)syscall(SYS_close, descriptor);
    if (failed)
        errno = EIO;
    return failed ? -1 : rc;
}

ssize_t pread(int descriptor, void *data, size_t size, off_t at)
{
    bool ours = is_watched(descriptor);
    return fails_or_is_interrupted(ours, __func__) ? -1 : (ssize_t)syscall(SYS_pread64, descriptor, data, halved(ours, size, __func__), at);
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    bool ours = is_watched(descriptor);
    return fails_or_is_interrupted(ours, __func__) ? -1 : (ssize_t)syscall(SYS_write, descriptor, data, halved(ours, size, __func__));
}

/* Letting go of a lock never fails. */
int flock(int descriptor, int operation)
{
    return operation != LOCK_UN && fails_or_is_interrupted(is_watched(descriptor), __func__) ? -1 : (int)syscall(SYS_flock, descriptor, operation);
}

int fsync(int descriptor)
{
    return fails(is_watched(descriptor), __func__) ? -1 : 0; /* nobody cuts the power here */
}

int fstat(int descriptor, struct stat *out)
{
    return fails(is_watched(descriptor), __func__) ? -1 : (int)syscall(SYS_newfstatat, descriptor, "", out, AT_EMPTY_PATH);
}

int rename(const char *from, const char *to)
{
    return fails(is_ours(to), __func__) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    return fails(is_ours(path), __func__) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int mkdir(const char *path, mode_t mode)
{
    return fails(is_ours(path), __func__) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int symlink(const char *to, const char *path)
{
    return fails(is_ours(path), __func__) ? -1 : (int)syscall(SYS_symlinkat, to, AT_FDCWD, path);
}

int inotify_init1(int flags)
{
    return fails(true, __func__) ? -1 : (int)syscall(SYS_inotify_init1, flags);
}

int inotify_add_watch(int descriptor, const char *path, uint32_t mask)
{
    return fails(is_ours(path), __func__) ? -1 : (int)syscall(SYS_inotify_add_watch, descriptor, path, mask);
}

/* ---- stores ---- */

static s3_process server;
static char endpoint[64];
static int64_t deadline_ms;

typedef struct party {
    http_socket *http;
    pgqrs_store *store;
    pgqrs_error err;
} party;

static bool party_open(party *self, const char *cache, pgqrs_s3_mode mode, int64_t split_bytes)
{
    pgqrs_s3_desc s3;
    pgqrs_store_desc desc;
    char place[100];
    memset(self, 0, sizeof(*self));
    memset(&s3, 0, sizeof(s3));
    memset(&desc, 0, sizeof(desc));
    snprintf(place, sizeof(place), "%s/%s", dir, cache);
    self->http = http_socket_create();
    assert_non_null(self->http);
    s3.http = http_socket_callback(self->http);
    s3.endpoint = endpoint;
    s3.access_key = "test";
    s3.secret_key = "test-secret";
    s3.cache_dir = place;
    s3.mode = mode;
    s3.split_bytes = split_bytes;
    s3.deadline_ms = deadline_ms;
    desc.s3 = &s3;
    desc.connect_timeout_ms = 5000;
    self->store = pgqrs_open("s3://b/q.sqlite", &desc, &self->err);
    return self->store != NULL;
}

static void party_close(party *self)
{
    pgqrs_close(self->store);
    http_socket_destroy(self->http);
}

static int64_t unknown; /* calls of this run whose outcome was */

/* An error that says what is wrong, or none. With faults that can be got over there must be none. */
static bool fine(pgqrs_result result, const pgqrs_error *err)
{
    bool hidden = files.how == INTERRUPT || files.how == HALVE;
    if (result == PGQRS_OK)
        return true;
    /* The lock is not to be had any more, after others could have sent what had been staged. */
    if (result == PGQRS_ERR_OUTCOME_UNKNOWN && files.how == FAIL_ALWAYS && files.happened > 0) {
        unknown++;
        return false;
    }
    if (hidden || files.happened == 0 ||
        (result != PGQRS_ERR_BAD_CONFIG && result != PGQRS_ERR_DATABASE && result != PGQRS_ERR_SCHEMA_MISSING))
        fail_msg("fault %d at %d, %s: %s: %s", (int)files.how, (int)files.nth, files.happened ? files.call : "none", pgqrs_result_name(result), err->message);
    if (!strstr(err->message, dir) && !strstr(err->message, "q.sqlite") && result != PGQRS_ERR_SCHEMA_MISSING)
        fail_msg("what was it? %s: %s", pgqrs_result_name(result), err->message);
    return false;
}

static bool did(party *p, pgqrs_result result)
{
    return fine(result, pgqrs_last_error(p->store));
}

static bool opened(party *p, const char *cache, pgqrs_s3_mode mode, int64_t split_bytes)
{
    if (party_open(p, cache, mode, split_bytes))
        return true;
    fine(p->err.code, &p->err);
    party_close(p);
    return false;
}

static party observer;

static int64_t messages_of(party *p)
{
    int64_t count = -1;
    assert_int_equal(pgqrs_message_count(p->store, NULL, &count), PGQRS_OK);
    return count;
}

/* ---- what is done meanwhile ---- */

typedef int64_t (*scenario)(int64_t split_bytes);

/* Two stores of one cache directory. Back: how many messages were acknowledged. */
static int64_t durable_stores(int64_t split_bytes)
{
    party one, other;
    int64_t stored = 0, before = messages_of(&observer), count;
    if (!opened(&one, "cache", PGQRS_S3_DURABLE, split_bytes))
        return 0;
    for (int i = 0; i < 2; i++)
        stored += did(&one, pgqrs_enqueue(one.store, "q", "1", NULL, NULL));
    if (opened(&other, "cache", PGQRS_S3_DURABLE, split_bytes)) {
        stored += did(&other, pgqrs_enqueue(other.store, "q", "2", NULL, NULL));
        if (did(&one, pgqrs_message_count(one.store, NULL, &count)))
            assert_in_range(count, before + stored, before + stored + unknown);
        party_close(&other);
    }
    party_close(&one);
    return stored;
}

static void write_out(party *p)
{
    char path[100];
    pgqrs_result result;
    snprintf(path, sizeof(path), "%s/export.sqlite", dir);
    result = pgqrs_s3_export(p->store, path);
    if (!files.happened || (result != PGQRS_ERR_INVALID_ARGUMENT && result != PGQRS_ERR_FULL)) /* the path is the caller's */
        did(p, result);
    if (result != PGQRS_OK && files.how != FAIL_ALWAYS) /* half a file is none, if it can be removed */
        assert_int_not_equal(access(path, F_OK), 0);
    (void)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

/* What a local store does after its first snapshot. Back: how many messages the observer stored. */
static int64_t write_and_sync(party *p, int64_t *local, bool fetched)
{
    pgqrs_s3_state where;
    pgqrs_result result;
    *local = did(p, pgqrs_enqueue(p->store, "q", "1", NULL, NULL));
    did(p, pgqrs_s3_state_get(p->store, &where));
    result = pgqrs_s3_sync(p->store);
    if ((result == PGQRS_ERR_OBJECT_CHANGED && !fetched) || !did(p, result))
        return 0;
    assert_int_equal(pgqrs_enqueue(observer.store, "q", "2", NULL, NULL), PGQRS_OK);
    did(p, pgqrs_s3_snapshot(p->store, false));
    return 1;
}

/* A local store fetches, writes, syncs, fetches what another one wrote; then, without faults, what is left to do. Only where the
 * first snapshot failed may what was written after it have to be given up. */
static int64_t local_store(int64_t split_bytes)
{
    party p;
    int64_t local = 0, remote = 0;
    bool fetched = false;
    pgqrs_s3_state where;
    if (opened(&p, "cache", PGQRS_S3_LOCAL, split_bytes)) {
        fetched = did(&p, pgqrs_s3_snapshot(p.store, false));
        remote = write_and_sync(&p, &local, fetched);
        write_out(&p);
        party_close(&p);
    }
    files.countdown = -1;
    assert_true(party_open(&p, "cache", PGQRS_S3_LOCAL, split_bytes));
    assert_int_equal(pgqrs_s3_state_get(p.store, &where), PGQRS_OK);
    if (where == PGQRS_S3_CONCURRENT_CHANGES && !fetched) {
        assert_int_equal(pgqrs_s3_snapshot(p.store, true), PGQRS_OK);
        local = 0;
    } else {
        assert_int_equal(pgqrs_s3_sync(p.store), PGQRS_OK);
        assert_int_equal(pgqrs_s3_snapshot(p.store, false), PGQRS_OK);
    }
    assert_int_equal(messages_of(&p), messages_of(&observer));
    party_close(&p);
    return local + remote;
}

static void clean_up(void)
{
    char command[100];
    snprintf(command, sizeof(command), "rm -rf '%s/cache'", dir);
    assert_int_equal(system(command), 0);
}

/* Every twentieth call, others in each run; PGQRS_TEST_WHOLE=1: every one. */
static void each_call_of(scenario run, int64_t split_bytes)
{
    int64_t step = getenv("PGQRS_TEST_WHOLE") ? 1 : 20;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int how = FAIL_ONCE; how <= HALVE; how++) {
        int64_t nth, first = (now.tv_nsec / 1000 + how * 3) % step, before = messages_of(&observer);
        for (nth = first;; nth += step) {
            int64_t stored, there;
            files.how = (file_fault)how;
            files.happened = 0;
            files.countdown = files.nth = nth;
            unknown = 0;
            stored = run(split_bytes);
            files.countdown = -1;
            there = messages_of(&observer);
            if (there < before + stored || there > before + stored + unknown)
                fail_msg("fault %d at call %d, %s: %d messages were acknowledged, %d are there", how, (int)nth, files.happened ? files.call : "none",
                         (int)stored, (int)(there - before));
            before = there;
            clean_up();
            if (files.happened == 0)
                break;
        }
        printf("# fault %d: each %d. of %d calls, from %d on\n", how, (int)step, (int)nth, (int)first);
        assert_true(nth > first);
    }
}

static void begin(int64_t split_bytes)
{
    assert_true(s3_control(server.port, "objects=0"));
    assert_true(party_open(&observer, "observer", PGQRS_S3_DURABLE, split_bytes));
    assert_int_equal(pgqrs_s3_bootstrap(observer.store), PGQRS_OK);
    assert_int_equal(pgqrs_queue_create(observer.store, "q", NULL), PGQRS_OK);
}

static void run_all(scenario run, int64_t split_bytes)
{
    char command[100];
    begin(split_bytes);
    each_call_of(run, split_bytes);
    party_close(&observer);
    snprintf(command, sizeof(command), "rm -rf '%s/observer'", dir);
    assert_int_equal(system(command), 0);
}

static void durable_store_gets_over_its_files(void **state)
{
    (void)state;
    run_all(durable_stores, 0);
}

static void durable_store_in_parts_gets_over_its_files(void **state)
{
    (void)state;
    run_all(durable_stores, 1);
}

static void local_store_gets_over_its_files(void **state)
{
    (void)state;
    run_all(local_store, 0);
}

/* What tells an upload whose reply was lost from one of somebody else. Where it cannot be read or written nothing is uploaded, and what
 * is there is not taken for somebody else's. */
static void note_of_an_upload_that_cannot_be_had(void **state)
{
    static const struct {
        const char *file;
        int nth, times;
    } cases[] = {{"/pending", 0, 3}, {"/image.new", 0, 1}, {"/image.new", 1, 1}};
    party p;
    (void)state;
    begin(0);
    assert_true(party_open(&p, "cache", PGQRS_S3_LOCAL, 0));
    assert_int_equal(pgqrs_s3_snapshot(p.store, false), PGQRS_OK);
    party_close(&p);
    deadline_ms = 250;
    assert_true(party_open(&p, "cache", PGQRS_S3_LOCAL, 0));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int nth = cases[i].nth; nth < cases[i].nth + cases[i].times; nth++) {
            assert_int_equal(pgqrs_enqueue(p.store, "q", "1", NULL, NULL), PGQRS_OK);
            assert_true(s3_control(server.port, "lost_reply=PUT:x1\nreset=GET:1"));
            assert_int_equal(pgqrs_s3_sync(p.store), PGQRS_ERR_OUTCOME_UNKNOWN);
            assert_true(s3_control(server.port, "reset=0"));
            assert_int_equal(pgqrs_enqueue(p.store, "q", "2", NULL, NULL), PGQRS_OK);
            files.how = FAIL_ONCE;
            files.only = cases[i].file;
            memset(files.watched, 0, sizeof(files.watched)); /* nor what is open already */
            files.happened = 0;
            files.countdown = nth;
            assert_int_equal(pgqrs_s3_sync(p.store), PGQRS_ERR_DATABASE);
            files.countdown = -1;
            files.only = NULL;
            assert_int_equal(files.happened, 1);
            assert_non_null(strstr(pgqrs_last_error(p.store)->message, "/pending"));
            assert_non_null(strstr(pgqrs_last_error(p.store)->message, "nothing was uploaded"));
            assert_int_equal(messages_of(&observer), messages_of(&p) - 1);
            assert_int_equal(pgqrs_s3_sync(p.store), PGQRS_OK);
            assert_int_equal(messages_of(&observer), messages_of(&p));
        }
    }
    party_close(&p);
    party_close(&observer);
    deadline_ms = 0;
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(durable_store_gets_over_its_files),
                                       cmocka_unit_test(durable_store_in_parts_gets_over_its_files),
                                       cmocka_unit_test(local_store_gets_over_its_files),
                                       cmocka_unit_test(note_of_an_upload_that_cannot_be_had)};
    return cmocka_run_group_tests(tests, start, stop);
}

#else

static void nowhere_else(void **state)
{
    (void)state;
    skip(); /* the calls that are taken are Linux's */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nowhere_else)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
