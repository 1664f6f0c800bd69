/* What a hostile reader of local mode tried. */
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
#include <dirent.h>

static s3_process server, other_server;
static char dir[] = "/tmp/pgqrs-hostile.XXXXXX", endpoint[64];
static int caches;
static bool local;

typedef struct party {
    http_socket *http;
    pgqrs_store *store;
    char cache[200];
} party;

static bool open_at(party *self, const char *at, int64_t deadline_ms)
{
    pgqrs_s3_desc s3;
    pgqrs_store_desc desc;
    pgqrs_error err;
    memset(&s3, 0, sizeof(s3));
    memset(&desc, 0, sizeof(desc));
    self->http = http_socket_create();
    s3.http = http_socket_callback(self->http);
    s3.endpoint = at;
    s3.access_key = "test";
    s3.secret_key = "test-secret";
    s3.cache_dir = self->cache;
    s3.request_timeout_ms = 1000;
    s3.deadline_ms = deadline_ms;
    s3.mode = local ? PGQRS_S3_LOCAL : PGQRS_S3_DURABLE;
    desc.s3 = &s3;
    desc.connect_timeout_ms = 20000;
    self->store = pgqrs_open("s3://b/q.sqlite", &desc, &err);
    if (!self->store)
        printf("# %s\n", err.message), fflush(stdout);
    return self->store != NULL;
}

static void join(party *self)
{
    snprintf(self->cache, sizeof(self->cache), "%s/c%d", dir, ++caches);
    assert_true(open_at(self, endpoint, 30000));
}

static void leave(party *self)
{
    pgqrs_close(self->store);
    http_socket_destroy(self->http);
}

#define OK(party, call)                                                                                                                    \
    do {                                                                                                                                   \
        pgqrs_result ok_result = (call);                                                                                                   \
        if (ok_result != PGQRS_OK)                                                                                                         \
            printf("# %s: %s\n", pgqrs_result_name(ok_result), pgqrs_last_error((party)->store)->message);                                 \
        assert_int_equal(ok_result, PGQRS_OK);                                                                                             \
    } while (0)

static void set(const char *lines)
{
    assert_true(s3_control(server.port, lines));
}

static int each(void **state)
{
    (void)state;
    set("objects=0\nmatch=any\nhonour=both\netag_from=content\netag=quoted\nabsent_match=404\nwrite_interval_ms=0\ndelay_ms=0");
    local = true;
    return 0;
}

static void nap_ms(int ms)
{
    struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

/* Until the server has a request that this fault befell. */
static void wait_for_fault(const char *counter)
{
    for (int waited = 0; s3_counter(server.port, counter) == 0; waited += 10) {
        assert_true(waited < 60000);
        nap_ms(10);
    }
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void prepare(party *p)
{
    join(p);
    OK(p, pgqrs_install(p->store));
    OK(p, pgqrs_queue_create(p->store, "q", NULL));
    OK(p, pgqrs_s3_sync(p->store));
    OK(p, pgqrs_enqueue(p->store, "q", "1", NULL, NULL));
    OK(p, pgqrs_s3_sync(p->store));
}

static void find_file(const char *cache, const char *name, char out[700])
{
    struct dirent *entry;
    DIR *listing = opendir(cache);
    assert_non_null(listing);
    out[0] = '\0';
    while ((entry = readdir(listing)) != NULL)
        if (entry->d_name[0] != '.')
            snprintf(out, 700, "%.150s/%.200s/%s", cache, entry->d_name, name);
    closedir(listing);
}

static int64_t remote_messages(void)
{
    party p;
    int64_t count = -1;
    local = false;
    join(&p);
    OK(&p, pgqrs_message_count(p.store, NULL, &count));
    leave(&p);
    local = true;
    return count;
}

/* Somebody cleaned up a part of the cache: nothing of that may reach the bucket. */
static void lost_local_file_does_not_empty_the_bucket(void **state)
{
    party p;
    char file[700];
    pgqrs_s3_state where;
    pgqrs_result result;
    (void)state;
    prepare(&p);
    leave(&p);
    assert_int_equal(remote_messages(), 1);
    find_file(p.cache, "local.sqlite", file);
    assert_int_equal(unlink(file), 0);
    assert_true(open_at(&p, endpoint, 30000));
    OK(&p, pgqrs_s3_state_get(p.store, &where));
    printf("# state %d\n", (int)where);
    pgqrs_install(p.store);
    result = pgqrs_s3_sync(p.store);
    printf("# sync: %s\n", pgqrs_result_name(result));
    leave(&p);
    assert_int_equal(remote_messages(), 1);
}

/* The same behind a sync that was cut off, so that its upload is taken for our own. */
static void lost_local_file_behind_a_sync_that_was_cut_off(void **state)
{
    party p;
    char file[700];
    pid_t pid;
    int status;
    (void)state;
    prepare(&p);
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    leave(&p);
    set("counters=0");
    pid = fork();
    if (pid == 0) {
        if (!open_at(&p, endpoint, 30000))
            _exit(3);
        set("slow_ms=2000\nslow_reply=PUT:x1");
        pgqrs_s3_sync(p.store);
        _exit(4);
    }
    wait_for_fault("fault.slow_reply");
    nap_ms(100);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    set("slow_ms=1000\nslow_reply=0");
    assert_int_equal(remote_messages(), 2);
    find_file(p.cache, "local.sqlite", file);
    assert_int_equal(unlink(file), 0);
    assert_true(open_at(&p, endpoint, 30000));
    pgqrs_install(p.store);
    status = pgqrs_s3_sync(p.store);
    leave(&p);
    assert_int_equal(remote_messages(), 2);
    assert_int_equal(status, PGQRS_ERR_OBJECT_CHANGED);
}

/* An enqueue while the snapshot of another process waits for the bucket. True: it was over before that was. */
static bool enqueued_during_a_snapshot(int slow_ms)
{
    party p, other;
    pid_t pid;
    int status;
    char how[60];
    bool before;
    prepare(&p);
    other = p;
    leave(&p);
    snprintf(how, sizeof(how), "slow_ms=%d\nslow=GET:x1", slow_ms);
    set("counters=0");
    pid = fork();
    if (pid == 0) {
        if (!open_at(&other, endpoint, 30000))
            _exit(3);
        set(how);
        _exit(pgqrs_s3_snapshot(other.store, false) == PGQRS_OK ? 0 : 4);
    }
    assert_true(open_at(&p, endpoint, 30000));
    wait_for_fault("fault.slow");
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    before = waitpid(pid, &status, WNOHANG) == 0;
    if (before)
        waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    leave(&p);
    return before;
}

static void calls_do_not_wait_for_a_snapshot(void **state)
{
    int slow_ms = 900;
    while (!enqueued_during_a_snapshot(slow_ms)) {
        assert_true((slow_ms *= 2) < 10000);
        each(state);
    }
    set("slow_ms=1000");
}

/* The first process ends after its upload, before it could write down what it did; others go on writing to the file. */
static void sync_cut_off_after_its_upload(void **state)
{
    party p, other;
    pid_t pid;
    int status;
    (void)state;
    prepare(&p);
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    other = p;
    leave(&p);
    set("counters=0");
    pid = fork();
    if (pid == 0) {
        if (!open_at(&other, endpoint, 30000))
            _exit(3);
        set("slow_ms=2000\nslow_reply=PUT:x1");
        pgqrs_s3_sync(other.store);
        _exit(4);
    }
    assert_true(open_at(&p, endpoint, 30000));
    wait_for_fault("fault.slow_reply");
    nap_ms(100);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    set("slow_ms=1000\nslow_reply=0");
    assert_int_equal(remote_messages(), 2);
    OK(&p, pgqrs_enqueue(p.store, "q", "3", NULL, NULL));
    status = pgqrs_s3_sync(p.store);
    printf("# %s\n", pgqrs_last_error(p.store)->message);
    leave(&p);
    assert_int_equal(status, PGQRS_OK);
    assert_int_equal(remote_messages(), 3);
}

static void unknown_sync_is_recognized(void **state)
{
    party p;
    pgqrs_result result;
    (void)state;
    prepare(&p);
    leave(&p);
    assert_true(open_at(&p, endpoint, 3000)); /* all of it is waited for */
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    set("lost_reply=PUT:1\nreset=GET:1");
    result = pgqrs_s3_sync(p.store);
    set("lost_reply=0\nreset=0");
    assert_int_equal(result, PGQRS_ERR_OUTCOME_UNKNOWN);
    OK(&p, pgqrs_enqueue(p.store, "q", "3", NULL, NULL));
    OK(&p, pgqrs_s3_sync(p.store));
    assert_int_equal(remote_messages(), 3);
    leave(&p);
}

/* Writers go on while another one syncs and takes snapshots: nothing that was acknowledged goes, and every version is sound. */
static void writers_and_snapshots(void **state)
{
    party p, other;
    pid_t pid;
    int status, written = 0;
    int64_t count, end;
    (void)state;
    prepare(&p);
    other = p;
    leave(&p);
    pid = fork();
    if (pid == 0) {
        if (!open_at(&other, endpoint, 30000))
            _exit(3);
        for (int64_t until = now_ms() + 2500, i = 0; now_ms() < until; i++) {
            pgqrs_result result = i % 2 ? pgqrs_s3_sync(other.store) : pgqrs_s3_snapshot(other.store, false);
            if (result != PGQRS_OK && result != PGQRS_ERR_OBJECT_CHANGED && result != PGQRS_ERR_BUSY) {
                printf("# %s\n", pgqrs_last_error(other.store)->message);
                fflush(stdout);
                _exit(4);
            }
        }
        _exit(0);
    }
    assert_true(open_at(&p, endpoint, 30000));
    end = now_ms() + 2500;
    while (now_ms() < end) {
        OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
        written++;
    }
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    OK(&p, pgqrs_message_count(p.store, NULL, &count));
    assert_int_equal(count, written + 1);
    OK(&p, pgqrs_s3_sync(p.store));
    leave(&p);
    assert_int_equal(remote_messages(), written + 1);
}

/* A write that comes in while a snapshot waits for the store is not thrown away. */
static bool written_during_a_snapshot(int slow_ms)
{
    party p, other, remote;
    pid_t pid;
    int status;
    char how[60];
    bool before;
    int64_t count = 0;
    snprintf(how, sizeof(how), "slow_ms=%d\nslow=GET:x1", slow_ms);
    prepare(&p);
    leave(&p);
    local = false;
    join(&remote);
    OK(&remote, pgqrs_enqueue(remote.store, "q", "7", NULL, NULL));
    leave(&remote);
    local = true;
    other = p;
    set("counters=0");
    pid = fork();
    if (pid == 0) {
        pgqrs_result result;
        if (!open_at(&other, endpoint, 30000))
            _exit(3);
        set(how);
        result = pgqrs_s3_snapshot(other.store, false);
        _exit(result == PGQRS_ERR_OBJECT_CHANGED ? 0 : result == PGQRS_OK ? 5 : 4);
    }
    assert_true(open_at(&p, endpoint, 30000));
    wait_for_fault("fault.slow");
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    before = waitpid(pid, &status, WNOHANG) == 0;
    if (before)
        waitpid(pid, &status, 0);
    set("slow_ms=1000\nslow=0");
    OK(&p, pgqrs_message_count(p.store, NULL, &count));
    leave(&p);
    if (!before && WEXITSTATUS(status) == 5) /* too late */
        return false;
    assert_int_equal(status, 0);
    assert_int_equal(count, 2);
    assert_true(open_at(&p, endpoint, 30000));
    OK(&p, pgqrs_s3_snapshot(p.store, true));
    OK(&p, pgqrs_message_count(p.store, NULL, &count));
    leave(&p);
    assert_int_equal(count, 2);
    return true;
}

static void write_during_a_snapshot_stays(void **state)
{
    int slow_ms = 900;
    while (!written_during_a_snapshot(slow_ms)) {
        assert_true((slow_ms *= 2) < 10000);
        each(state);
    }
}

/* The first upload comes late, when a second one, of another process, has been given up too. */
static bool two_uploads_after_another(void)
{
    party p, q;
    pgqrs_result result;
    prepare(&p);
    q = p;
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    OK(&p, pgqrs_s3_sync(p.store));
    leave(&p);
    assert_true(open_at(&p, endpoint, 300));
    assert_true(open_at(&q, endpoint, 300));
    OK(&p, pgqrs_enqueue(p.store, "q", "3", NULL, NULL));
    set("counters=0\nlate_ms=1200\nlate=PUT:x1\nreset=GET:1");
    result = pgqrs_s3_sync(p.store);
    if (s3_counter(server.port, "requests.PUT") == 0) { /* its time was over before */
        set("late_ms=500\nlate=0\nreset=0");
        leave(&p);
        leave(&q);
        return false;
    }
    assert_int_equal(result, PGQRS_ERR_OUTCOME_UNKNOWN);
    OK(&q, pgqrs_enqueue(q.store, "q", "4", NULL, NULL));
    set("late=0\nreset=1");
    (void)pgqrs_s3_sync(q.store); /* nothing of it arrives */
    nap_ms(1300);
    set("late_ms=500\nreset=0");
    assert_int_equal(remote_messages(), 3);
    leave(&p);
    leave(&q);
    assert_true(open_at(&q, endpoint, 30000));
    OK(&q, pgqrs_s3_sync(q.store));
    leave(&q);
    assert_int_equal(remote_messages(), 4);
    return true;
}

static void two_uploads_of_unknown_end(void **state)
{
    for (int tries = 1; !two_uploads_after_another(); tries++) {
        assert_true(tries < 10);
        each(state);
    }
}

static void copy_file(const char *from, const char *to)
{
    char command[1500];
    snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

/* The file is what the snapshot brought, and the process was killed before it could say so; then the object is changed once more. */
static void snapshot_cut_off_before_its_end(void **state)
{
    party here, there;
    char image[700], old[700], arriving[700];
    int64_t count = -1;
    pgqrs_s3_state is;
    (void)state;
    prepare(&here);
    join(&there);
    OK(&there, pgqrs_s3_snapshot(there.store, true));
    find_file(there.cache, "image", image);
    find_file(there.cache, "image.old", old);
    find_file(there.cache, "arriving", arriving);
    copy_file(image, old);
    OK(&here, pgqrs_enqueue(here.store, "q", "2", NULL, NULL));
    OK(&here, pgqrs_s3_sync(here.store));
    OK(&there, pgqrs_s3_snapshot(there.store, false));
    assert_int_equal(rename(image, arriving), 0);
    assert_int_equal(rename(old, image), 0);
    OK(&here, pgqrs_enqueue(here.store, "q", "3", NULL, NULL));
    OK(&here, pgqrs_s3_sync(here.store));
    OK(&there, pgqrs_s3_state_get(there.store, &is));
    assert_int_equal(is, PGQRS_S3_REMOTE_CHANGES);
    OK(&there, pgqrs_s3_snapshot(there.store, false));
    OK(&there, pgqrs_message_count(there.store, NULL, &count));
    assert_int_equal(count, 3);
    leave(&here);
    leave(&there);
}

/* It never got as far as the file: what was announced does not count. */
static void snapshot_cut_off_before_its_begin(void **state)
{
    party here, there;
    char image[700], old[700], arriving[700];
    (void)state;
    prepare(&here);
    find_file(here.cache, "image", image);
    find_file(here.cache, "image.old", old);
    find_file(here.cache, "arriving", arriving);
    copy_file(image, old);
    OK(&here, pgqrs_enqueue(here.store, "q", "2", NULL, NULL));
    join(&there);
    OK(&there, pgqrs_s3_snapshot(there.store, true));
    OK(&there, pgqrs_enqueue(there.store, "q", "3", NULL, NULL));
    OK(&there, pgqrs_s3_sync(there.store));
    find_file(there.cache, "image", old);
    copy_file(old, arriving);
    assert_int_equal(pgqrs_s3_sync(here.store), PGQRS_ERR_OBJECT_CHANGED);
    assert_int_equal(remote_messages(), 2);
    leave(&here);
    leave(&there);
}

static int start(void **state)
{
    (void)state;
    (void)other_server;
    return s3_process_begin(&server, dir, endpoint, sizeof(endpoint));
}

static int stop(void **state)
{
    (void)state;
    return s3_process_end(&server, dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(lost_local_file_does_not_empty_the_bucket, each),
                                       cmocka_unit_test_setup(lost_local_file_behind_a_sync_that_was_cut_off, each),
                                       cmocka_unit_test_setup(calls_do_not_wait_for_a_snapshot, each),
                                       cmocka_unit_test_setup(sync_cut_off_after_its_upload, each),
                                       cmocka_unit_test_setup(unknown_sync_is_recognized, each),
                                       cmocka_unit_test_setup(two_uploads_of_unknown_end, each),
                                       cmocka_unit_test_setup(snapshot_cut_off_before_its_end, each),
                                       cmocka_unit_test_setup(snapshot_cut_off_before_its_begin, each),
                                       cmocka_unit_test_setup(write_during_a_snapshot_stays, each),
                                       cmocka_unit_test_setup(writers_and_snapshots, each)};
    return cmocka_run_group_tests(tests, start, stop);
}
