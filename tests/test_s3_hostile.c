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
    desc.connect_timeout_ms = 3000;
    self->store = pgqrs_open("s3://b/q.sqlite", &desc, &err);
    if (!self->store)
        printf("# %s\n", err.message);
    return self->store != NULL;
}

static void join(party *self)
{
    snprintf(self->cache, sizeof(self->cache), "%s/c%d", dir, ++caches);
    assert_true(open_at(self, endpoint, 3000));
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

/* A host that was told once to be slower still gets its turn beside one that was not. */
static void slowed_host_is_not_starved(void **state)
{
    party slow, fast;
    pid_t pid;
    pgqrs_result result;
    int status;
    (void)state;
    join(&slow);
    join(&fast);
    set("delay_ms=4\nretry_after=0\nslow_down=x2");
    OK(&slow, pgqrs_enqueue(slow.store, "q", "0", NULL, NULL));
    pid = fork();
    if (pid == 0) {
        http_socket_close(fast.http);
        for (int i = 0; i < 100000; i++)
            pgqrs_enqueue(fast.store, "q", "1", NULL, NULL);
        _exit(0);
    }
    result = PGQRS_OK;
    for (int i = 0; i < 5 && result == PGQRS_OK; i++)
        result = pgqrs_enqueue(slow.store, "q", "2", NULL, NULL);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    if (result)
        printf("# %s\n", pgqrs_last_error(slow.store)->message);
    assert_int_equal(result, PGQRS_OK);
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

static void nap_ms(int ms)
{
    struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
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
    while ((waitpid(pids[2], &status, WNOHANG)) == 0 && waited++ < 80)
        nap_ms(100);
    kill(pids[1], SIGCONT);
    if (waited >= 80)
        waitpid(pids[2], &status, 0);
    waitpid(pids[0], NULL, 0);
    waitpid(pids[1], NULL, 0);
    set("slow_ms=1000");
    assert_true(waited < 80);
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

/* A PUT is refused with 404 while a GET shows the object, as on a store that is slow to agree with itself: no storm of requests. */
static void absent_and_there(void **state)
{
    party p;
    int64_t before;
    (void)state;
    join(&p);
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
    static const char *const settings[] = {"bucket=b", NULL};
    (void)state;
    if (!mkdtemp(dir) || !s3_process_start(&server, settings))
        return -1;
    snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%d", server.port);
    return 0;
}

static int stop(void **state)
{
    char command[100];
    (void)state;
    s3_process_stop(&server);
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
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
                                       cmocka_unit_test_setup(absent_and_there, each),
                                       cmocka_unit_test_setup(temporary_credentials_ran_out, each)};
    return cmocka_run_group_tests(tests, start, stop);
}
