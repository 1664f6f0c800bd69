/* The HTTP adapters of examples/, one after the other, against the S3 server with faults and, when there is one, against radosgw
 * (PGQRS_TEST_S3_ENDPOINT, _ACCESS_KEY, _SECRET_KEY). What an adapter has to get right is here; what the server does, in
 * test_s3_server.c. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <cmocka.h>

#include "s3_client.h"
#include "s3_process.h"
#include "../examples/http_curl.h"
#include "../examples/http_socket.h"

static s3_process fault_server;
static http_curl *curl_adapter;
static http_socket *socket_adapter;
static s3_client client; /* of the adapter under test */
static s3_client bucket; /* the same, to the real server */
static pgqrs_http_reply reply;

static int start(void **state)
{
    static const char *const settings[] = {"bucket=b", NULL};
    (void)state;
    /* Nobody asked for these. */
    setenv("http_proxy", "http://127.0.0.1:1/", 1);
    setenv("all_proxy", "http://127.0.0.1:1/", 1);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    return s3_process_start(&fault_server, settings) ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    s3_process_stop(&fault_server);
    s3_reply_clear(&reply);
    curl_global_cleanup();
    return 0;
}

static void use_endpoints(pgqrs_http http)
{
    memset(&client, 0, sizeof(client));
    client.http = http;
    snprintf(client.endpoint, sizeof(client.endpoint), "http://127.0.0.1:%d", fault_server.port);
    client.access_key = "test";
    client.secret_key = "test-secret";
    client.region = "us-east-1";
    client.timeout_ms = 5000;
    bucket = client;
    if (getenv("PGQRS_TEST_S3_ENDPOINT"))
        snprintf(bucket.endpoint, sizeof(bucket.endpoint), "%s", getenv("PGQRS_TEST_S3_ENDPOINT"));
    bucket.access_key = getenv("PGQRS_TEST_S3_ACCESS_KEY");
    bucket.secret_key = getenv("PGQRS_TEST_S3_SECRET_KEY");
    bucket.timeout_ms = 30000;
}

static int use_curl(void **state)
{
    (void)state;
    curl_adapter = http_curl_create();
    if (curl_adapter)
        use_endpoints(http_curl_callback(curl_adapter));
    return curl_adapter ? 0 : -1;
}

static int end_curl(void **state)
{
    (void)state;
    http_curl_destroy(curl_adapter);
    return s3_control(fault_server.port, "objects=0") ? 0 : -1;
}

static int use_socket(void **state)
{
    (void)state;
    socket_adapter = http_socket_create();
    if (socket_adapter)
        use_endpoints(http_socket_callback(socket_adapter));
    return socket_adapter ? 0 : -1;
}

static int end_socket(void **state)
{
    (void)state;
    http_socket_destroy(socket_adapter);
    return s3_control(fault_server.port, "objects=0") ? 0 : -1;
}

static void set(const char *lines)
{
    assert_true(s3_control(fault_server.port, lines));
}

static int64_t counter(const char *name)
{
    return s3_counter(fault_server.port, name);
}

static int put(const char *target, const char *name, const char *value, const char *body)
{
    return s3_request(&client, "PUT", target, name, value, body, &reply);
}

static int get(const char *target)
{
    return s3_request(&client, "GET", target, NULL, NULL, NULL, &reply);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- what goes there and comes back ---- */

static void test_every_method(void **state)
{
    char etag[80];
    (void)state;
    assert_int_equal(get("/b/k"), 404);
    assert_non_null(strstr(reply.body.data, "<Code>NoSuchKey</Code>"));
    assert_int_equal(put("/b/k", "If-None-Match", "*", "one"), 200);
    snprintf(etag, sizeof(etag), "%s", s3_reply_field(&reply, "ETag"));
    assert_int_equal(strlen(etag), 34);
    assert_int_equal(put("/b/k", "If-None-Match", "*", "two"), 412);
    assert_int_equal(s3_request(&client, "GET", "/b/k", "If-None-Match", etag, NULL, &reply), 304);
    assert_int_equal(s3_request(&client, "HEAD", "/b/k", NULL, NULL, NULL, &reply), 200);
    assert_string_equal(s3_reply_field(&reply, "content-length"), "3");
    assert_int_equal(reply.body.size, 0);
    assert_int_equal(get("/b/k"), 200);
    assert_string_equal(reply.body.data, "one");
    assert_string_not_equal(s3_reply_field(&reply, "DATE"), "");
    assert_int_equal(put("/b/k", "If-Match", etag, ""), 200); /* an empty body has a length, too */
    assert_int_equal(get("/b/k"), 200);
    assert_int_equal(reply.body.size, 0);
    assert_int_equal(s3_request(&client, "DELETE", "/b/k", NULL, NULL, NULL, &reply), 204);
    assert_int_equal(get("/b/k"), 404);
}

static void test_one_connection(void **state)
{
    (void)state;
    assert_int_equal(put("/b/k", NULL, NULL, "one"), 200);
    set("counters=0");
    for (int i = 0; i < 10; i++) {
        assert_int_equal(get("/b/k"), 200);
        assert_int_equal(get("/b/none"), 404);
        assert_int_equal(s3_request(&client, "HEAD", "/b/none", NULL, NULL, NULL, &reply), 404);
        assert_int_equal(s3_request(&client, "GET", "/b/k", "If-None-Match", "*", NULL, &reply), 304);
        assert_int_equal(s3_request(&client, "DELETE", "/b/none", NULL, NULL, NULL, &reply), 204);
        assert_int_equal(put("/b/k", NULL, NULL, "one"), 200);
    }
    assert_int_equal(counter("connections"), 1); /* the one that asks */
}

/* As it was signed, and not tidied up on the way. */
static void test_targets_and_fields(void **state)
{
    static const char *const targets[] = {"/b/a%20b%2Fc", "/b/%C3%A4%2B%3F%23%25", "/b/..%2F.", "/b/x/../y", "/b/x//y/./z", "/b/~-_.!*'()"};
    (void)state;
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
        assert_int_equal(put(targets[i], "X-Unknown", "", targets[i]), 200);
        assert_int_equal(get(targets[i]), 200);
        assert_string_equal(reply.body.data, targets[i]);
    }
    assert_int_equal(get("/b?list-type=2&prefix=x%2F"), 200);
    assert_non_null(strstr(reply.body.data, "<Key>x/../y</Key>"));
    assert_non_null(strstr(reply.body.data, "<Key>x//y/./z</Key>"));
}

static void test_large_bodies(void **state)
{
    enum { SIZE = 5 << 20 };
    char *body = (char *)malloc(SIZE);
    (void)state;
    assert_non_null(body);
    for (size_t i = 0; i < SIZE; i++)
        body[i] = (char)(i * 31 + i / 257);
    client.sign_body = true;
    assert_int_equal(s3_request_raw(&client, "PUT", "/b/large", NULL, 0, body, SIZE, &reply), 200);
    assert_int_equal(get("/b/large"), 200);
    assert_int_equal(reply.body.size, SIZE);
    assert_memory_equal(reply.body.data, body, SIZE);
    free(body);
    reply.room = SIZE - 1; /* more than is wanted is no complete reply */
    assert_int_equal(get("/b/large"), 0);
    reply.room = 0;
    assert_int_equal(get("/b/large"), 200); /* and the next one is not disturbed by what was left */
    assert_int_equal(reply.body.size, SIZE);
}

/* ---- when no complete reply comes ---- */

static void test_no_reply(void **state)
{
    static const char *const faults[] = {"lost_reply", "cut_head", "garbage", "reset", "late"};
    static const char *const methods[] = {"PUT", "DELETE"};
    (void)state;
    set("late_ms=50");
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        for (size_t m = 0; m < 2; m++)
            for (int kept = 0; kept < 2; kept++) {
                char line[60];
                assert_int_equal(put("/b/other", NULL, NULL, "the connection is open"), 200);
                if (!kept) {
                    client.http.exchange == http_curl_exchange ? end_curl(state) : end_socket(state);
                    client.http.exchange == http_curl_exchange ? use_curl(state) : use_socket(state);
                }
                snprintf(line, sizeof(line), "counters=0\n%s=%s:x1", faults[i], methods[m]);
                set(line);
                assert_int_equal(s3_request(&client, methods[m], "/b/k", NULL, NULL, m == 0 ? "x" : NULL, &reply), 0);
                /* Nothing was sent twice, on whatever connection. */
                assert_int_equal(counter(m == 0 ? "requests.PUT" : "requests.DELETE"), 1);
                assert_int_equal(get("/b/none"), 404);
            }
    set("late_ms=500");
}

static void test_spoiled_bodies(void **state)
{
    (void)state;
    assert_int_equal(put("/b/k", NULL, NULL, "0123456789"), 200);
    set("truncated=x1");
    assert_int_equal(get("/b/k"), 0);
    set("shortened=x1");
    assert_int_equal(get("/b/k"), 200);
    assert_string_equal(reply.body.data, "01234");
    assert_int_equal(get("/b/k"), 200);
    assert_string_equal(reply.body.data, "0123456789");
}

static void test_timeout(void **state)
{
    int64_t begin = now_ms();
    (void)state;
    set("slow_ms=60000\nslow=x1\ncounters=0");
    client.timeout_ms = 150;
    assert_int_equal(get("/b/k"), 0);
    assert_in_range(now_ms() - begin, 140, 30000);
    client.timeout_ms = 5000;
    assert_int_equal(get("/b/k"), 404);
    assert_int_equal(counter("requests.GET"), 2);
    set("slow_ms=1000");
}

static void test_no_server(void **state)
{
    s3_client other = client;
    (void)state;
    snprintf(other.endpoint, sizeof(other.endpoint), "http://127.0.0.1:1");
    assert_int_equal(s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply), -1);
    snprintf(other.endpoint, sizeof(other.endpoint), "http://host.invalid");
    assert_int_equal(s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply), -1);
    snprintf(other.endpoint, sizeof(other.endpoint), "gopher://127.0.0.1");
    assert_int_equal(s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply), -1);
    assert_int_equal(get("/b/k"), 404);
}

/* The server ended the connection while nobody looked: that is noticed before anything is sent on it. */
static void test_connection_closed_while_idle(void **state)
{
    const char *again[] = {"bucket=b", NULL, NULL};
    char port[24];
    (void)state;
    assert_int_equal(put("/b/k", NULL, NULL, "x"), 200);
    s3_process_stop(&fault_server);
    snprintf(port, sizeof(port), "port=%d", fault_server.port);
    again[1] = port;
    assert_true(s3_process_start(&fault_server, again));
    assert_int_equal(put("/b/k", NULL, NULL, "x"), 200);
    assert_int_equal(counter("requests.PUT"), 1);
}

/* ---- replies that this server does not make: written down, and sent by a thread ---- */

typedef struct canned {
    int listener;
    const char *reply;
} canned;

static void *send_canned(void *user)
{
    const canned *answer = (const canned *)user;
    char request[8192];
    int link = accept(answer->listener, NULL, NULL);
    size_t left = strlen(answer->reply), at = 0;
    ssize_t got = link < 0 ? -1 : recv(link, request, sizeof(request), 0);
    while (got > 0 && left > 0) { /* in small pieces */
        size_t part = left < 7 ? left : 7;
        if (send(link, answer->reply + at, part, MSG_NOSIGNAL) <= 0)
            break;
        at += part;
        left -= part;
    }
    if (link >= 0)
        close(link);
    return NULL;
}

static int canned_status(const char *text)
{
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    canned answer = {socket(AF_INET, SOCK_STREAM, 0), text};
    s3_client other = client;
    pthread_t thread;
    int status;
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(answer.listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(answer.listener, 1), 0);
    assert_int_equal(getsockname(answer.listener, (struct sockaddr *)&address, &size), 0);
    snprintf(other.endpoint, sizeof(other.endpoint), "http://127.0.0.1:%d", ntohs(address.sin_port));
    assert_int_equal(pthread_create(&thread, NULL, send_canned, &answer), 0);
    status = s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    pthread_join(thread, NULL);
    close(answer.listener);
    return status;
}

static void test_other_replies(void **state)
{
    (void)state;
    assert_int_equal(canned_status("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag:\t \"e\"  \r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: t\r\n\r\n"),
                     200);
    assert_string_equal(reply.body.data, "hello world");
    assert_string_equal(s3_reply_field(&reply, "etag"), "\"e\"");
    assert_int_equal(canned_status("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"), 0);
    assert_int_equal(canned_status("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), 0);
    assert_int_equal(canned_status("HTTP/1.1 100 Continue\r\nX: early\r\n\r\nHTTP/1.1 204 No Content\r\nX: late\r\n\r\n"), 204);
    assert_string_equal(s3_reply_field(&reply, "x"), "late");
    assert_int_equal(canned_status("HTTP/1.0 200 OK\r\n\r\nup to the end"), 200);
    assert_string_equal(reply.body.data, "up to the end");
    assert_int_equal(canned_status("HTTP/1.1 200\r\nContent-Length: 2\r\nEmpty:\r\n\r\nok"), 200);
    assert_string_equal(reply.body.data, "ok");
    assert_int_equal(canned_status("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"), 0);
    assert_int_equal(canned_status("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nok"), 0);
    assert_int_equal(canned_status("HTTP/1.1 200 OK\r\nContent-Le"), 0);
    assert_int_equal(canned_status("220 mail.example.com ESMTP\r\n"), 0);
    assert_int_equal(canned_status(""), 0);
    /* A redirect is a reply, and nothing is asked elsewhere. */
    assert_int_equal(canned_status("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), 307);
}

/* ---- the real server ---- */

static bool has_real_server(void)
{
    if (!getenv("PGQRS_TEST_S3_ENDPOINT"))
        skip();
    return true;
}

static void make_bucket(char *name, size_t room)
{
    static int number;
    snprintf(name, room, "/probe-%d-%lld-%d", (int)getpid(), (long long)now_ms(), ++number);
    assert_int_equal(s3_request(&bucket, "PUT", name, NULL, NULL, NULL, &reply), 200);
}

/* Ceph 16 compares a PUT's If-Match with the ETag without its quotes. */
static void replace_as_it_likes(const char *target, char *etag, const char *body)
{
    char bare[80];
    if (s3_request(&bucket, "PUT", target, "If-Match", etag, body, &reply) == 200)
        return;
    assert_int_equal(reply.status, 412);
    snprintf(bare, sizeof(bare), "%.*s", (int)strlen(etag) - 2, etag + 1);
    strcpy(etag, bare);
    assert_int_equal(s3_request(&bucket, "PUT", target, "If-Match", etag, body, &reply), 200);
}

static void test_real_conditions(void **state)
{
    char at[100], target[200], absent[200], first[80], second[80];
    (void)state;
    has_real_server();
    make_bucket(at, sizeof(at));
    snprintf(target, sizeof(target), "%s/dir%%20a/k.sqlite", at);
    snprintf(absent, sizeof(absent), "%s/absent", at);
    assert_int_equal(s3_request(&bucket, "GET", target, NULL, NULL, NULL, &reply), 404);
    assert_non_null(strstr(reply.body.data, "<Code>NoSuchKey</Code>"));
    assert_int_equal(s3_request(&bucket, "PUT", target, "If-None-Match", "*", "one", &reply), 200);
    snprintf(first, sizeof(first), "%s", s3_reply_field(&reply, "etag"));
    assert_int_equal(s3_request(&bucket, "PUT", target, "If-None-Match", "*", "two", &reply), 412);
    replace_as_it_likes(target, first, "two");
    snprintf(second, sizeof(second), "%s", s3_reply_field(&reply, "etag"));
    assert_int_equal(s3_request(&bucket, "PUT", target, "If-Match", first, "three", &reply), 412);
    int missing = s3_request(&bucket, "PUT", absent, "If-Match", first, "x", &reply);
    assert_true(missing == 404 || missing == 412);
    assert_int_equal(s3_request(&bucket, "GET", target, "If-None-Match", second, NULL, &reply), 304);
    assert_int_equal(s3_request(&bucket, "HEAD", target, NULL, NULL, NULL, &reply), 200);
    assert_string_equal(s3_reply_field(&reply, "content-length"), "3");
    assert_int_equal(s3_request(&bucket, "GET", target, NULL, NULL, NULL, &reply), 200);
    assert_string_equal(reply.body.data, "two");
    assert_string_equal(s3_reply_field(&reply, "etag"), second);
    assert_string_not_equal(s3_reply_field(&reply, "date"), "");
    assert_int_equal(s3_request(&bucket, "DELETE", target, NULL, NULL, NULL, &reply), 204);
    assert_int_equal(s3_request(&bucket, "GET", target, NULL, NULL, NULL, &reply), 404);
}

enum { RACERS = 6, ROUNDS = 8 };

typedef struct racer {
    s3_client client;
    const char *target;
    int bare; /* the ETag goes without its quotes */
    int number, won, lost;
    int unsure; /* 1: the last one may have won */
    bool broken;
} racer;

/* The object is a list of numbers, one per racer. False: it is not. */
static bool read_counts(const char *text, int counts[RACERS])
{
    int used;
    for (int i = 0; i < RACERS; i++) {
        if (!text || sscanf(text, "%d%n", &counts[i], &used) != 1)
            return false;
        text += used;
    }
    return true;
}

static void write_counts(char *text, size_t room, const int counts[RACERS])
{
    size_t used = 0;
    for (int i = 0; i < RACERS; i++)
        used += (size_t)snprintf(text + used, room - used, "%d ", counts[i]);
}

/* Adds one to its number, so many times. Ceph says 500 to many a loser, and what a 500 means is in the object: its own number. */
static pthread_barrier_t all_there;

static void *race(void *user)
{
    racer *self = (racer *)user;
    pgqrs_http_reply seen;
    memset(&seen, 0, sizeof(seen));
    pthread_barrier_wait(&all_there);
    while (!self->broken) {
        char etag[80], text[100];
        int counts[RACERS], status = s3_request(&self->client, "GET", self->target, NULL, NULL, NULL, &seen);
        size_t size = strlen(s3_reply_field(&seen, "etag"));
        self->broken = status != 200 || size < 3 || size >= sizeof(etag) || !read_counts(seen.body.data, counts) ||
                       (counts[self->number] != self->won && counts[self->number] != self->won + self->unsure);
        if (self->broken)
            break;
        self->won = counts[self->number];
        self->unsure = 0;
        if (self->won == ROUNDS)
            break;
        snprintf(etag, sizeof(etag), "%s", s3_reply_field(&seen, "etag") + self->bare);
        etag[size - 2u * (unsigned)self->bare] = '\0';
        counts[self->number]++;
        write_counts(text, sizeof(text), counts);
        status = s3_request(&self->client, "PUT", self->target, "If-Match", etag, text, &seen);
        self->won += status == 200;
        self->unsure = status == 500;
        self->lost += status != 200;
        self->broken = status != 200 && status != 412 && status != 409 && status != 500;
    }
    s3_reply_clear(&seen);
    return NULL;
}

/* Compare-and-swap is what everything else stands on. */
static void test_real_race(void **state)
{
    char at[100], target[200], etag[80], text[100];
    int counts[RACERS] = {0};
    pthread_t threads[RACERS];
    racer racers[RACERS];
    bool curl;
    int lost = 0;
    (void)state;
    has_real_server();
    curl = bucket.http.exchange == http_curl_exchange;
    make_bucket(at, sizeof(at));
    snprintf(target, sizeof(target), "%s/race", at);
    assert_int_equal(s3_request(&bucket, "PUT", target, NULL, NULL, "start", &reply), 200);
    snprintf(etag, sizeof(etag), "%s", s3_reply_field(&reply, "etag"));
    write_counts(text, sizeof(text), counts);
    replace_as_it_likes(target, etag, text);
    assert_int_equal(pthread_barrier_init(&all_there, NULL, RACERS), 0);
    for (int i = 0; i < RACERS; i++) {
        memset(&racers[i], 0, sizeof(racers[i]));
        racers[i].client = bucket;
        racers[i].client.http = curl ? http_curl_callback(http_curl_create()) : http_socket_callback(http_socket_create());
        racers[i].target = target;
        racers[i].number = i;
        racers[i].bare = etag[0] != '"';
        assert_non_null(racers[i].client.http.user);
        assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        curl ? http_curl_destroy((http_curl *)racers[i].client.http.user) : http_socket_destroy((http_socket *)racers[i].client.http.user);
        lost += racers[i].lost;
    }
    pthread_barrier_destroy(&all_there);
    for (int i = 0; i < RACERS; i++) {
        assert_false(racers[i].broken);
        assert_int_equal(racers[i].won, ROUNDS);
    }
    assert_int_equal(s3_request(&bucket, "GET", target, NULL, NULL, NULL, &reply), 200);
    assert_true(read_counts(reply.body.data, counts));
    for (int i = 0; i < RACERS; i++)
        assert_int_equal(counts[i], ROUNDS);
    assert_true(lost > 0); /* otherwise they were never at it at once */
}

static void test_real_refusals(void **state)
{
    s3_client wrong;
    char at[100], target[200];
    (void)state;
    has_real_server();
    make_bucket(at, sizeof(at));
    snprintf(target, sizeof(target), "%s/k", at);
    wrong = bucket;
    wrong.secret_key = "another";
    assert_int_equal(s3_request(&wrong, "PUT", target, NULL, NULL, "x", &reply), 403);
    assert_non_null(strstr(reply.body.data, "<Code>SignatureDoesNotMatch</Code>"));
    wrong = bucket;
    wrong.access_key = "nobody";
    assert_int_equal(s3_request(&wrong, "PUT", target, NULL, NULL, "x", &reply), 403);
    assert_non_null(strstr(reply.body.data, "<Code>InvalidAccessKeyId</Code>"));
    wrong = bucket;
    wrong.clock_s = 3600;
    assert_int_equal(s3_request(&wrong, "PUT", target, NULL, NULL, "x", &reply), 403);
    assert_non_null(strstr(reply.body.data, "<Code>RequestTimeTooSkewed</Code>"));
    wrong = bucket;
    wrong.sign_body = true;
    assert_int_equal(s3_request(&wrong, "PUT", target, NULL, NULL, "signed", &reply), 200);
    assert_int_equal(s3_request(&bucket, "GET", "/no-such-bucket-here/k", NULL, NULL, NULL, &reply), 404);
    assert_non_null(strstr(reply.body.data, "<Code>NoSuchBucket</Code>"));
}

#define BOTH(test)                                                                                                                         \
    {#test " (curl)", test, use_curl, end_curl, NULL}, {#test " (sockets)", test, use_socket, end_socket, NULL}

int main(void)
{
    const struct CMUnitTest tests[] = {BOTH(test_every_method),
                                       BOTH(test_one_connection),
                                       BOTH(test_targets_and_fields),
                                       BOTH(test_large_bodies),
                                       BOTH(test_no_reply),
                                       BOTH(test_spoiled_bodies),
                                       BOTH(test_timeout),
                                       BOTH(test_no_server),
                                       BOTH(test_connection_closed_while_idle),
                                       BOTH(test_other_replies),
                                       BOTH(test_real_conditions),
                                       BOTH(test_real_race),
                                       BOTH(test_real_refusals)};
    return cmocka_run_group_tests(tests, start, stop);
}
