/* What a hostile reader of the S3 backend found: each case is a promise that was not kept. */
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
#include <sys/mman.h>

static s3_process server, other_server;
static char dir[] = "/tmp/pgqrs-hostile.XXXXXX", endpoint[64];
static int caches;

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
    desc.s3 = &s3;
    desc.connect_timeout_ms = 20000;
    self->store = pgqrs_open("s3://b/q.sqlite", &desc, &err);
    if (!self->store)
        printf("# %s\n", err.message);
    return self->store != NULL;
}

enum { PATIENCE_MS = 60000, DEADLINE_MS = 30000 }; /* what is only there to end costs nothing when it does not */

static void join_for(party *self, int64_t deadline_ms)
{
    snprintf(self->cache, sizeof(self->cache), "%s/c%d", dir, ++caches);
    assert_true(open_at(self, endpoint, deadline_ms));
}

static void join(party *self)
{
    join_for(self, DEADLINE_MS);
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
    party p;
    (void)state;
    set("objects=0\nmatch=any\nhonour=both\netag_from=content\netag=quoted\nabsent_match=404\nwrite_interval_ms=0\ndelay_ms=0");
    join(&p);
    OK(&p, pgqrs_install(p.store));
    OK(&p, pgqrs_queue_create(p.store, "q", NULL));
    leave(&p);
    return 0;
}

static void spurious_412_is_forgotten(void **state)
{
    party p;
    (void)state;
    join(&p);
    set("match=quoted\nfalse_412=x1");
    OK(&p, pgqrs_enqueue(p.store, "q", "1", NULL, NULL));
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    leave(&p);
}

static void get_object(s3_text *out)
{
    memset(out, 0, sizeof(*out));
    assert_int_equal(s3_raw(server.port, "GET", "/_raw/b/q.sqlite", NULL, 0, out), 200);
}

/* The same bytes under another ETag: copied over itself, encrypted anew. */
static void same_bytes_under_another_etag(void **state)
{
    party p;
    s3_text object;
    (void)state;
    join(&p);
    OK(&p, pgqrs_enqueue(p.store, "q", "1", NULL, NULL));
    set("etag_from=version");
    get_object(&object);
    assert_int_equal(s3_raw(server.port, "PUT", "/_raw/b/q.sqlite", object.data, object.size, NULL), 200);
    s3_free(&object);
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    leave(&p);
}

/* An older version was restored. */
static void restored_version(void **state)
{
    party p;
    s3_text object;
    int64_t count = 0;
    (void)state;
    join(&p);
    get_object(&object);
    OK(&p, pgqrs_enqueue(p.store, "q", "1", NULL, NULL));
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    assert_int_equal(s3_raw(server.port, "PUT", "/_raw/b/q.sqlite", object.data, object.size, NULL), 200);
    s3_free(&object);
    OK(&p, pgqrs_enqueue(p.store, "q", "3", NULL, NULL));
    OK(&p, pgqrs_message_count(p.store, NULL, &count));
    assert_int_equal(count, 1);
    leave(&p);
}

static void find_image(const char *cache, char out[600])
{
    char path[400];
    struct dirent *entry;
    DIR *listing = opendir(cache);
    assert_non_null(listing);
    out[0] = '\0';
    while ((entry = readdir(listing)) != NULL)
        if (entry->d_name[0] != '.')
            snprintf(path, sizeof(path), "%.150s/%.200s", cache, entry->d_name), snprintf(out, 600, "%.400s/image", path);
    closedir(listing);
}

/* A SQLite file that was uploaded has no checksum of ours; the cache damages a page of it. */
static void damaged_cache_of_an_uploaded_file(void **state)
{
    party p;
    s3_text object;
    char image[600], *found;
    FILE *file;
    size_t pages, size;
    static unsigned char bytes[1 << 20];
    (void)state;
    join(&p);
    OK(&p, pgqrs_enqueue(p.store, "q", "\"precious precious\"", NULL, NULL));
    leave(&p);
    get_object(&object);
    pages = (size_t)(unsigned char)object.data[28] << 24 | (size_t)(unsigned char)object.data[29] << 16 |
            (size_t)(unsigned char)object.data[30] << 8 | (size_t)(unsigned char)object.data[31];
    size = pages * ((size_t)(unsigned char)object.data[16] << 8 | (size_t)(unsigned char)object.data[17]);
    assert_int_equal(s3_raw(server.port, "PUT", "/_raw/b/q.sqlite", object.data, size, NULL), 200); /* without trailer */
    s3_free(&object);
    join(&p); /* looks, and keeps it in its cache */
    find_image(p.cache, image);
    leave(&p);
    file = fopen(image, "rb");
    assert_non_null(file);
    size = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    found = (char *)memmem(bytes, size, "precious", 8);
    assert_non_null(found);
    *found = 'P';
    file = fopen(image, "wb");
    fwrite(bytes, 1, size, file);
    fclose(file);
    assert_true(open_at(&p, endpoint, 3000));
    OK(&p, pgqrs_enqueue(p.store, "q", "2", NULL, NULL));
    leave(&p);
    get_object(&object);
    assert_non_null(memmem(object.data, object.size, "precious precious", 17));
    s3_free(&object);
}

/* The object was copied to a store that ignores conditions. */
static void proof_of_another_store(void **state)
{
    static const char *const settings[] = {"bucket=b", "honour=none", NULL};
    party p;
    s3_text object;
    char at[64];
    (void)state;
    join(&p);
    OK(&p, pgqrs_enqueue(p.store, "q", "1", NULL, NULL));
    leave(&p);
    get_object(&object);
    assert_true(s3_process_start(&other_server, settings));
    snprintf(at, sizeof(at), "http://127.0.0.1:%d", other_server.port);
    assert_int_equal(s3_raw(other_server.port, "PUT", "/_raw/b/q.sqlite", object.data, object.size, NULL), 200);
    s3_free(&object);
    snprintf(p.cache, sizeof(p.cache), "%s/c%d", dir, ++caches);
    if (open_at(&p, at, 3000)) {
        pgqrs_result result = pgqrs_enqueue(p.store, "q", "2", NULL, NULL);
        leave(&p);
        s3_process_stop(&other_server);
        assert_int_equal(result, PGQRS_ERR_UNSUPPORTED);
    }
    s3_process_stop(&other_server);
}

static void nap_ms(int ms)
{
    struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

enum { TURNS = 5, FAST_FOR_A_TURN = 2000 };

/* A host that was told once to be slower still gets its turn beside one that was not: after so many commits of that one at most, however
 * long those take. */
static void slowed_host_is_not_starved(void **state)
{
    party slow, fast;
    pid_t pid;
    pgqrs_result result = PGQRS_OK;
    volatile int *commits = (volatile int *)mmap(NULL, sizeof(*commits), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status, most = 0;
    (void)state;
    assert_true((const void *)commits != MAP_FAILED);
    join(&slow);
    join(&fast);
    set("delay_ms=4\nretry_after=0\nslow_down=x2");
    OK(&slow, pgqrs_enqueue(slow.store, "q", "0", NULL, NULL));
    pid = fork();
    if (pid == 0) {
        http_socket_close(fast.http);
        for (int i = 0; i < 100000; i++)
            *commits += pgqrs_enqueue(fast.store, "q", "1", NULL, NULL) == PGQRS_OK;
        _exit(0);
    }
    for (int waited = 0; *commits == 0 && waited < PATIENCE_MS; waited++)
        nap_ms(1);
    for (int i = 0; i < TURNS && result == PGQRS_OK; i++) {
        int before = *commits;
        result = pgqrs_enqueue(slow.store, "q", "2", NULL, NULL);
        most = *commits - before > most ? *commits - before : most;
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    if (result)
        printf("# %s\n", pgqrs_last_error(slow.store)->message);
    printf("# a turn after %d commits of the other one at most\n", most);
    assert_int_equal(result, PGQRS_OK);
    assert_true(*commits > 0 && most <= FAST_FOR_A_TURN);
    munmap((void *)(uintptr_t)commits, sizeof(*commits));
    leave(&slow);
    leave(&fast);
}

/* Three stores of one machine: the first commits slowly, the second waits and is stopped, the third must not wait for ever. */
static pid_t child_that_enqueues(const char *cache)
{
    pid_t pid = fork();
    if (pid == 0) {
        party p;
        snprintf(p.cache, sizeof(p.cache), "%s", cache);
        if (!open_at(&p, endpoint, 3000))
            _exit(3);
        kill(getpid(), SIGSTOP); /* ready */
        _exit(pgqrs_enqueue(p.store, "q", "1", NULL, NULL) == PGQRS_OK ? 0 : 4);
    }
    waitpid(pid, NULL, WUNTRACED);
    return pid;
}

static void stopped_waiter_does_not_hang_the_others(void **state)
{
    char cache[200];
    pid_t pids[3];
    int status = 0, waited = 0;
    (void)state;
    snprintf(cache, sizeof(cache), "%s/c%d", dir, ++caches);
    for (int i = 0; i < 3; i++)
        pids[i] = child_that_enqueues(cache);
    set("slow_ms=900\nslow=PUT:x1");
    kill(pids[0], SIGCONT); /* holds the lock for 0.9 s */
    nap_ms(200);
    kill(pids[1], SIGCONT); /* first in line */
    nap_ms(200);
    kill(pids[1], SIGSTOP);
    kill(pids[2], SIGCONT);
    while ((waitpid(pids[2], &status, WNOHANG)) == 0 && waited++ < 300)
        nap_ms(100);
    kill(pids[1], SIGCONT);
    if (waited >= 300)
        waitpid(pids[2], &status, 0);
    waitpid(pids[0], NULL, 0);
    waitpid(pids[1], NULL, 0);
    set("slow_ms=1000");
    assert_true(waited < 300);
}

/* The machine that the last writer of the object says it is on; its whole id in *id. */
static uint64_t last_machine(uint64_t *id)
{
    s3_text object;
    pgqrsi_s3_trailer trailer;
    get_object(&object);
    assert_int_equal(pgqrsi_s3_decode((unsigned char *)object.data, object.size, &trailer), PGQRSI_S3_FINE);
    assert_true(trailer.writer_count > 0);
    *id = pgqrsi_s3_writer_at(&trailer, trailer.writer_count - 1).id;
    s3_free(&object);
    return *id >> PGQRSI_S3_MACHINE_SHIFT;
}

/* Stores that share a cache directory are one machine to others, also after a restart; one whose number is lost is another. */
static void cache_directory_is_a_machine(void **state)
{
    party p;
    uint64_t ids[3], machine = 0;
    char command[500];
    (void)state;
    snprintf(p.cache, sizeof(p.cache), "%s/c%d", dir, ++caches);
    for (int i = 0; i < 3; i++) {
        assert_true(open_at(&p, endpoint, 3000));
        OK(&p, pgqrs_enqueue(p.store, "q", "1", NULL, NULL));
        if (i > 0)
            assert_int_equal(last_machine(&ids[i]), machine);
        machine = last_machine(&ids[i]);
        leave(&p);
    }
    assert_true(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    snprintf(command, sizeof(command), "cd '%s'/*/ && rm machine && mkdir machine", p.cache);
    assert_int_equal(system(command), 0);
    assert_true(open_at(&p, endpoint, 3000));
    OK(&p, pgqrs_enqueue(p.store, "q", "1", NULL, NULL));
    leave(&p);
}

/* --- stores of one machine share commits */

static pid_t enqueuer(const char *cache, int times)
{
    pid_t pid = fork();
    if (pid == 0) {
        party p;
        snprintf(p.cache, sizeof(p.cache), "%s", cache);
        if (!open_at(&p, endpoint, DEADLINE_MS))
            _exit(3);
        kill(getpid(), SIGSTOP); /* ready */
        for (int i = 0; i < times; i++)
            if (pgqrs_enqueue(p.store, "q", "1", NULL, NULL) != PGQRS_OK)
                _exit(4);
        _exit(0);
    }
    waitpid(pid, NULL, WUNTRACED);
    return pid;
}

static void new_cache(char out[200])
{
    snprintf(out, 200, "%s/c%d", dir, ++caches);
}

/* How it ended: its exit code, 100 plus a signal, -1 when it takes longer than that. */
static int end_of(pid_t pid, int within_ms)
{
    int status = 0;
    for (int waited = 0; waitpid(pid, &status, WNOHANG) == 0; waited += 10) {
        if (waited > within_ms)
            return -1;
        nap_ms(10);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

/* Everything as a machine sees it that knows nothing yet. */
static int64_t messages_in_object(void)
{
    party p;
    int64_t count = -1;
    join(&p);
    OK(&p, pgqrs_message_count(p.store, NULL, &count));
    OK(&p, pgqrs_verify(p.store));
    leave(&p);
    return count;
}

static int64_t puts_of_processes(int delay_ms)
{
    char cache[200], delay[40];
    pid_t pids[4];
    int64_t puts, before = messages_in_object();
    new_cache(cache);
    for (int i = 0; i < 4; i++)
        pids[i] = enqueuer(cache, 6);
    snprintf(delay, sizeof(delay), "delay_ms=%d\ncounters=0", delay_ms);
    set(delay);
    for (int i = 0; i < 4; i++)
        kill(pids[i], SIGCONT);
    for (int i = 0; i < 4; i++)
        assert_int_equal(end_of(pids[i], PATIENCE_MS), 0);
    puts = s3_counter(server.port, "requests.PUT");
    set("delay_ms=0");
    assert_int_equal(messages_in_object(), before + 24);
    printf("# 24 enqueues of 4 processes, %d ms for a PUT: %d PUTs\n", delay_ms, (int)puts);
    assert_true(puts >= 6);
    return puts;
}

/* Who shares nothing needs 24, however long each takes; those who do have to get there while one is under way. */
static void processes_share_commits(void **state)
{
    int64_t puts = 24;
    (void)state;
    for (int delay_ms = 60; puts > 18 && delay_ms <= 960; delay_ms *= 4)
        puts = puts_of_processes(delay_ms);
    assert_true(puts <= 18);
}

/* Three processes: the first sends and does not get on, the second and the third have staged theirs meanwhile. */
static void begin_slow_commit(const char *cache, pid_t pids[3], const char *how)
{
    const char *fault = strstr(how, "slow_reply") ? "fault.slow_reply" : "fault.slow";
    for (int i = 0; i < 3; i++)
        pids[i] = enqueuer(cache, 1);
    set("counters=0");
    set(how);
    kill(pids[0], SIGCONT);
    for (int waited = 0; s3_counter(server.port, fault) == 0; waited += 10) {
        assert_true(waited < PATIENCE_MS);
        nap_ms(10);
    }
    for (int i = 1; i < 3; i++) {
        nap_ms(150);
        kill(pids[i], SIGCONT);
    }
    nap_ms(150);
}

/* One of three is killed during a slow commit. False: it was over by then. */
static bool kill_one(int which, const char *how)
{
    char cache[200];
    pid_t pids[3];
    int64_t count, before = messages_in_object();
    int end;
    new_cache(cache);
    begin_slow_commit(cache, pids, how);
    kill(pids[which], SIGKILL);
    end = end_of(pids[which], PATIENCE_MS);
    assert_true(end == 100 + SIGKILL || end == 0);
    for (int i = 0; i < 3; i++)
        if (i != which)
            assert_int_equal(end_of(pids[i], PATIENCE_MS), 0);
    nap_ms(900);
    count = messages_in_object() - before;
    assert_true(count == 3 || (count == 2 && which != 0));
    return end != 0;
}

static void kill_one_in_time(int which, const char *how)
{
    int tries = 1;
    while (!kill_one(which, how))
        assert_true(++tries < 10);
    set("slow_ms=1000");
}

/* The flight of whoever was killed is sent again by others; it is there once, whether it had arrived or not. */
static void killed_committer(void **state)
{
    (void)state;
    kill_one_in_time(0, "slow_ms=900\nslow=PUT:x1");
    kill_one_in_time(0, "slow_ms=900\nslow_reply=PUT:x1");
}

/* What it had staged may be committed or not; the others do not miss it. */
static void killed_stager(void **state)
{
    (void)state;
    kill_one_in_time(1, "slow_ms=900\nslow=PUT:x1");
}

static void stopped_committer_does_not_hang_the_others(void **state)
{
    char cache[200];
    pid_t pids[3];
    (void)state;
    new_cache(cache);
    begin_slow_commit(cache, pids, "slow_ms=900\nslow=PUT:x1");
    kill(pids[0], SIGSTOP);
    assert_int_equal(end_of(pids[1], PATIENCE_MS), 0);
    assert_int_equal(end_of(pids[2], PATIENCE_MS), 0);
    kill(pids[0], SIGCONT);
    assert_int_equal(end_of(pids[0], PATIENCE_MS), 0);
    assert_int_equal(messages_in_object(), 3);
    set("slow_ms=1000");
}

/* Another machine is faster than the flight: it and what stands on it is carried out again. */
static void dropped_stage(void **state)
{
    char cache[200];
    pid_t pids[3];
    party other;
    (void)state;
    join(&other);
    new_cache(cache);
    begin_slow_commit(cache, pids, "slow_ms=900\nslow=PUT:x1");
    OK(&other, pgqrs_enqueue(other.store, "q", "1", NULL, NULL));
    leave(&other);
    for (int i = 0; i < 3; i++)
        assert_int_equal(end_of(pids[i], PATIENCE_MS), 0);
    assert_int_equal(messages_in_object(), 4);
    set("slow_ms=1000");
}

/* The store refuses for good: everybody is told so, and nothing is carried out later. */
static void refused_flight(void **state)
{
    char cache[200];
    pid_t pids[3];
    (void)state;
    new_cache(cache);
    begin_slow_commit(cache, pids, "slow_ms=700\nslow=PUT:x1\nread_only=1");
    for (int i = 0; i < 3; i++)
        assert_int_equal(end_of(pids[i], PATIENCE_MS), 4);
    set("slow_ms=1000\nread_only=0");
    pids[0] = enqueuer(cache, 1);
    kill(pids[0], SIGCONT);
    assert_int_equal(end_of(pids[0], PATIENCE_MS), 0);
    assert_int_equal(messages_in_object(), 1);
}

/* Half a file, or another one, is none: those who were in it go again. */
static void damaged_shared_files(void **state)
{
    static const char *const damage[] = {"truncate -s -5", "truncate -s 70", "truncate -s 0", "rm -f", "cp ../image"};
    (void)state;
    for (size_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
        char cache[200], command[600];
        pid_t pids[3];
        int64_t before = messages_in_object();
        new_cache(cache);
        begin_slow_commit(cache, pids, "slow_ms=700\nslow=PUT:x1");
        snprintf(command, sizeof(command), "cd '%s'/*/shared && for i in $(seq 600); do [ -e stage ] || sleep 0.1; done && %s stage", cache,
                 damage[i]);
        assert_int_equal(system(command), 0);
        for (int k = 0; k < 3; k++)
            assert_int_equal(end_of(pids[k], PATIENCE_MS), 0);
        assert_int_equal(messages_in_object(), before + 3);
    }
    set("slow_ms=1000");
}

/* A PUT is refused with 404 while a GET shows the object, as on a store that is slow to agree with itself: no storm of requests. */
static void absent_and_there(void **state)
{
    party p;
    int64_t before;
    (void)state;
    join_for(&p, 3000);
    OK(&p, pgqrs_enqueue(p.store, "q", "1", NULL, NULL));
    before = s3_counter(server.port, "requests.PUT");
    set("false_404=1");
    assert_int_not_equal(pgqrs_enqueue(p.store, "q", "2", NULL, NULL), PGQRS_OK);
    set("false_404=0");
    printf("# %d PUTs in 3 seconds\n", (int)(s3_counter(server.port, "requests.PUT") - before));
    assert_true(s3_counter(server.port, "requests.PUT") - before < 60);
    leave(&p);
}

static void temporary_credentials_ran_out(void **state)
{
    party p;
    (void)state;
    join(&p);
    set("expired=x1");
    assert_int_equal(pgqrs_enqueue(p.store, "q", "1", NULL, NULL), PGQRS_ERR_ACCESS_DENIED);
    OK(&p, pgqrs_enqueue(p.store, "q", "1", NULL, NULL));
    leave(&p);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(spurious_412_is_forgotten, each),
                                       cmocka_unit_test_setup(same_bytes_under_another_etag, each),
                                       cmocka_unit_test_setup(restored_version, each),
                                       cmocka_unit_test_setup(damaged_cache_of_an_uploaded_file, each),
                                       cmocka_unit_test_setup(proof_of_another_store, each),
                                       cmocka_unit_test_setup(slowed_host_is_not_starved, each),
                                       cmocka_unit_test_setup(stopped_waiter_does_not_hang_the_others, each),
                                       cmocka_unit_test_setup(cache_directory_is_a_machine, each),
                                       cmocka_unit_test_setup(processes_share_commits, each),
                                       cmocka_unit_test_setup(killed_committer, each),
                                       cmocka_unit_test_setup(killed_stager, each),
                                       cmocka_unit_test_setup(stopped_committer_does_not_hang_the_others, each),
                                       cmocka_unit_test_setup(dropped_stage, each),
                                       cmocka_unit_test_setup(refused_flight, each),
                                       cmocka_unit_test_setup(damaged_shared_files, each),
                                       cmocka_unit_test_setup(absent_and_there, each),
                                       cmocka_unit_test_setup(temporary_credentials_ran_out, each)};
    return cmocka_run_group_tests(tests, start, stop);
}
