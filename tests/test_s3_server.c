/* The S3 server of the tests: it has to be right before anything is measured by it. Published examples for the signature, bytes
 * over a socket, and every fault it knows. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <dirent.h>
#include <cmocka.h>

#include "s3_client.h"
#include "s3_process.h"
#include "../examples/http_socket.h"

static s3_process fault_server;
static s3_client client;
static http_socket *adapter;
static pgqrs_http_reply reply;

static const char *const settings[] = {"access_key=key", "secret_key=swordfish-7731", "bucket=b", NULL};

static int start(void **state)
{
    (void)state;
    adapter = http_socket_create();
    if (!adapter || !s3_process_start(&fault_server, settings))
        return -1;
    client.http = http_socket_callback(adapter);
    snprintf(client.endpoint, sizeof(client.endpoint), "http://127.0.0.1:%d", fault_server.port);
    client.access_key = "key";
    client.secret_key = "swordfish-7731";
    client.region = "us-east-1";
    client.timeout_ms = 5000;
    return 0;
}

static int stop(void **state)
{
    (void)state;
    s3_process_stop(&fault_server);
    http_socket_destroy(adapter);
    s3_reply_clear(&reply);
    return 0;
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

static void holds(const char *target, const char *body)
{
    assert_int_equal(get(target), 200);
    assert_string_equal(reply.body.data ? reply.body.data : "", body);
}

/* The error's code in the reply's XML. */
static void says(int status, const char *code)
{
    char wanted[100];
    snprintf(wanted, sizeof(wanted), "<Code>%s</Code>", code);
    assert_int_equal(reply.status, status);
    assert_non_null(reply.body.data);
    assert_non_null(strstr(reply.body.data, wanted));
}

static void copy_etag(char out[80])
{
    snprintf(out, 80, "%s", s3_reply_field(&reply, "etag"));
    assert_int_equal(strlen(out), 34);
}

/* ---- the signature ---- */

/* The examples of Amazon's description of Signature Version 4 for S3. */
static void sign_example(const char *method, const char *target, const s3_field *fields, size_t count, const char *names, const char *body,
                         const char *expected)
{
    s3_text canonical = {NULL, 0, 0, false};
    char hash[65], signature[65];
    s3_digest_hex(body, strlen(body), hash);
    s3_canonical_request(&canonical, method, target, fields, count, names, hash);
    s3_signature("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524T000000Z", "us-east-1", &canonical, signature);
    s3_free(&canonical);
    assert_string_equal(signature, expected);
}

static void test_published_signatures(void **state)
{
    static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const s3_field fields[] = {{"Host", "examplebucket.s3.amazonaws.com"}, {"x-amz-date", "20130524T000000Z"},
                               {"x-amz-content-sha256", empty}, {"Range", " bytes=0-9 "}};
    const s3_field put_fields[] = {{"Date", "Fri, 24 May 2013 00:00:00 GMT"}, {"Host", "examplebucket.s3.amazonaws.com"},
                                   {"x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"},
                                   {"x-amz-date", "20130524T000000Z"}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
    (void)state;
    sign_example("GET", "/test.txt", fields, 4, "host;range;x-amz-content-sha256;x-amz-date", "",
                 "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    sign_example("PUT", "/test$file.text", put_fields, 5, "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                 "Welcome to Amazon S3.", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    sign_example("GET", "/?lifecycle", fields, 3, "host;x-amz-content-sha256;x-amz-date", "",
                 "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    sign_example("GET", "/?prefix=J&max-keys=2", fields, 3, "host;x-amz-content-sha256;x-amz-date", "",
                 "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void test_digests(void **state)
{
    static const char long_key[] = "0123456789012345678901234567890123456789012345678901234567890123456789"; /* 70 */
    unsigned char mac[32];
    char hex[65], again[65], text[200];
    (void)state;
    s3_digest_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    memset(text, 'a', sizeof(text)); /* however it comes in */
    for (size_t size = 0; size <= sizeof(text); size++) {
        s3_sha256 hash;
        unsigned char digest[32];
        s3_sha256_begin(&hash);
        for (size_t i = 0; i < size; i++)
            s3_sha256_add(&hash, text + i, 1);
        s3_sha256_end(&hash, digest);
        s3_hex(digest, 32, again);
        s3_digest_hex(text, size, hex);
        assert_string_equal(hex, again);
    }
    s3_hmac("Jefe", 4, "what do ya want for nothing?", 28, mac); /* RFC 4231, case 2 */
    s3_hex(mac, 32, hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    s3_hmac(long_key, 70, "x", 1, mac); /* a key longer than a block counts as its digest */
    s3_hex(mac, 32, hex);
    s3_digest(long_key, 70, mac);
    s3_hmac(mac, 32, "x", 1, mac);
    s3_hex(mac, 32, again);
    assert_string_equal(hex, again);
}

/* ---- who may ask ---- */

static void test_wrong_credentials(void **state)
{
    s3_client other = client;
    (void)state;
    other.secret_key = "another";
    s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    says(403, "SignatureDoesNotMatch");
    other = client;
    other.access_key = "nobody";
    s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    says(403, "InvalidAccessKeyId");
    other = client;
    other.clock_s = 16 * 60;
    s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    says(403, "RequestTimeTooSkewed");
    other.clock_s = -16 * 60;
    s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    says(403, "RequestTimeTooSkewed");
    other.clock_s = 14 * 60;
    s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    says(404, "NoSuchKey");
    other = client;
    other.region = "eu-west-1";
    s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    says(400, "AuthorizationHeaderMalformed");
    assert_int_equal(s3_raw(fault_server.port, "GET", "/b/k", NULL, 0, NULL), 403);
}

static void test_server_clock(void **state)
{
    s3_client other = client;
    char date[64];
    (void)state;
    set("clock_s=3600");
    assert_int_equal(get("/b/k"), 403);
    says(403, "RequestTimeTooSkewed");
    snprintf(date, sizeof(date), "%s", s3_reply_field(&reply, "date"));
    other.clock_s = 3600;
    s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    says(404, "NoSuchKey");
    set("clock_s=0\ndate=0");
    get("/b/k");
    assert_string_equal(s3_reply_field(&reply, "date"), "");
    set("date=1");
    get("/b/k");
    assert_string_not_equal(s3_reply_field(&reply, "date"), date);
    assert_int_equal(strlen(date), strlen("Fri, 24 May 2013 00:00:00 GMT"));
}

static void test_signed_body(void **state)
{
    s3_client other = client;
    (void)state;
    other.sign_body = true;
    assert_int_equal(s3_request(&other, "PUT", "/b/signed%20%C3%A4.db", NULL, NULL, "body", &reply), 200);
    holds("/b/signed%20%C3%A4.db", "body");
    holds("/b/%73igned%20%C3%A4%2Edb", "body"); /* spelled in another way, signed in one */
    assert_int_equal(s3_raw(fault_server.port, "GET", "/_raw/b/signed%20%C3%A4.db", NULL, 0, NULL), 200);
}

static void test_session_token(void **state)
{
    s3_client other = client;
    (void)state;
    set("token=session");
    get("/b/k");
    says(400, "InvalidToken");
    other.token = "session";
    s3_request(&other, "GET", "/b/k", NULL, NULL, NULL, &reply);
    says(404, "NoSuchKey");
    set("token=");
}

static void test_unsigned_field(void **state)
{
    (void)state;
    put("/b/k", "x-amz-acl", "public-read", "body"); /* sent, and not signed */
    says(403, "AccessDenied");
    assert_int_equal(s3_raw(fault_server.port, "GET", "/_raw/b/k", NULL, 0, NULL), 404);
}

/* ---- objects and conditions ---- */

static void test_objects(void **state)
{
    char etag[80];
    (void)state;
    get("/b/o");
    says(404, "NoSuchKey");
    get("/c/o");
    says(404, "NoSuchBucket");
    put("/c/o", NULL, NULL, "x");
    says(404, "NoSuchBucket");
    assert_int_equal(put("/b/o", NULL, NULL, "one"), 200);
    copy_etag(etag);
    holds("/b/o", "one");
    assert_string_equal(s3_reply_field(&reply, "etag"), etag);
    assert_int_equal(s3_request(&client, "HEAD", "/b/o", NULL, NULL, NULL, &reply), 200);
    assert_string_equal(s3_reply_field(&reply, "content-length"), "3");
    assert_int_equal(reply.body.size, 0);
    assert_int_equal(s3_request(&client, "GET", "/b/o", "Range", "bytes=1-1", NULL, &reply), 206);
    assert_string_equal(reply.body.data, "n");
    s3_request(&client, "GET", "/b/o", "Range", "bytes=3-", NULL, &reply);
    says(416, "InvalidRange");
    assert_int_equal(s3_request(&client, "DELETE", "/b/o", NULL, NULL, NULL, &reply), 204);
    assert_int_equal(s3_request(&client, "DELETE", "/b/o", NULL, NULL, NULL, &reply), 204);
    assert_int_equal(s3_request(&client, "HEAD", "/b/o", NULL, NULL, NULL, &reply), 404);
    assert_int_equal(reply.body.size, 0);
    assert_int_equal(put("/b/o", NULL, NULL, ""), 200);
    holds("/b/o", "");
}

static void test_conditional_put(void **state)
{
    char first[80], second[80];
    (void)state;
    put("/b/c", "If-Match", "\"0123\"", "x");
    says(404, "NoSuchKey");
    assert_int_equal(put("/b/c", "If-None-Match", "*", "one"), 200);
    copy_etag(first);
    put("/b/c", "If-None-Match", "*", "two");
    says(412, "PreconditionFailed");
    assert_int_equal(put("/b/c", "If-Match", first, "two"), 200);
    copy_etag(second);
    assert_string_not_equal(first, second);
    put("/b/c", "If-Match", first, "three");
    says(412, "PreconditionFailed");
    holds("/b/c", "two");
    assert_int_equal(s3_request(&client, "GET", "/b/c", "If-None-Match", second, NULL, &reply), 304);
    assert_int_equal(reply.body.size, 0);
    assert_string_equal(s3_reply_field(&reply, "etag"), second);
    assert_int_equal(s3_request(&client, "GET", "/b/c", "If-None-Match", first, NULL, &reply), 200);
    assert_int_equal(s3_request(&client, "GET", "/b/c", "If-Match", first, NULL, &reply), 412);
    assert_int_equal(s3_request(&client, "DELETE", "/b/c", "If-Match", first, NULL, &reply), 412);
    put("/b/c", "If-None-Match", second, "x");
    says(501, "NotImplemented");
    assert_int_equal(s3_request(&client, "DELETE", "/b/c", "If-Match", second, NULL, &reply), 204);
}

static void test_quirks(void **state)
{
    char etag[80], bare[80];
    (void)state;
    set("match=bare");
    assert_int_equal(put("/b/q", NULL, NULL, "one"), 200);
    copy_etag(etag);
    snprintf(bare, sizeof(bare), "%.32s", etag + 1);
    assert_int_equal(put("/b/q", "If-Match", etag, "two"), 412);
    assert_int_equal(put("/b/q", "If-Match", bare, "one"), 200);
    set("match=quoted");
    assert_int_equal(put("/b/q", "If-Match", bare, "one"), 412);
    assert_int_equal(put("/b/q", "If-Match", etag, "one"), 200); /* the same bytes, the same ETag */
    set("etag_from=version\netag=bare\nmatch=any");
    assert_int_equal(put("/b/q", "If-Match", etag, "one"), 200);
    assert_int_equal(put("/b/q", "If-Match", etag, "one"), 412);
    holds("/b/q", "one");
    assert_int_equal(strlen(s3_reply_field(&reply, "etag")), 32);
    set("etag=weak");
    holds("/b/q", "one");
    assert_memory_equal(s3_reply_field(&reply, "etag"), "W/\"", 3);
    set("etag=quoted\netag_from=content\nhonour=none");
    assert_int_equal(put("/b/q", "If-Match", "\"0\"", "two"), 200);
    assert_int_equal(put("/b/q", "If-None-Match", "*", "three"), 200);
    set("honour=if_none_match");
    assert_int_equal(put("/b/q", "If-Match", "\"0\"", "four"), 200);
    assert_int_equal(put("/b/q", "If-None-Match", "*", "five"), 412);
    set("honour=if_match");
    assert_int_equal(put("/b/q", "If-Match", "\"0\"", "six"), 412);
    assert_int_equal(put("/b/q", "If-None-Match", "*", "seven"), 200);
    set("honour=both\nabsent_match=412");
    assert_int_equal(put("/b/absent", "If-Match", "\"0\"", "x"), 412);
    set("absent_match=404\nread_only=1");
    put("/b/q", NULL, NULL, "eight");
    says(403, "AccessDenied");
    set("read_only=0");
    holds("/b/q", "seven");
}

static void test_write_interval(void **state)
{
    (void)state;
    set("write_interval_ms=60000\nretry_after=7");
    assert_int_equal(put("/b/w", NULL, NULL, "one"), 200);
    put("/b/w", NULL, NULL, "two");
    says(429, "TooManyRequests");
    assert_string_equal(s3_reply_field(&reply, "retry-after"), "7");
    assert_int_equal(put("/b/w2", NULL, NULL, "one"), 200);
    holds("/b/w", "one");
    set("write_interval_ms=0\nretry_after=1");
    assert_int_equal(put("/b/w", NULL, NULL, "two"), 200);
}

static void test_list(void **state)
{
    (void)state;
    assert_int_equal(put("/b/list/a%26b", NULL, NULL, "1"), 200);
    assert_int_equal(put("/b/list/b", NULL, NULL, "22"), 200);
    assert_int_equal(put("/b/list/c", NULL, NULL, "333"), 200);
    assert_int_equal(get("/b?list-type=2&prefix=list%2F&max-keys=2"), 200);
    assert_non_null(strstr(reply.body.data, "<Key>list/a&amp;b</Key>"));
    assert_non_null(strstr(reply.body.data, "<IsTruncated>true</IsTruncated><NextContinuationToken>list/b</"));
    assert_null(strstr(reply.body.data, "<Key>list/c</Key>"));
    assert_int_equal(get("/b/?continuation-token=list%2Fb&list-type=2&prefix=list%2F"), 200);
    assert_non_null(strstr(reply.body.data, "<Key>list/c</Key>"));
    assert_null(strstr(reply.body.data, "<Key>list/b</Key>"));
    assert_non_null(strstr(reply.body.data, "<IsTruncated>false</IsTruncated>"));
    get("/nowhere?list-type=2");
    says(404, "NoSuchBucket");
    assert_int_equal(put("/b2", NULL, NULL, NULL), 200);
    assert_int_equal(s3_request(&client, "HEAD", "/b2", NULL, NULL, NULL, &reply), 200);
    assert_int_equal(put("/b2/k", NULL, NULL, "x"), 200);
}

/* ---- atomic, with many at once ---- */

enum { RACERS = 8, ROUNDS = 40 };

static void *race(void *failed)
{
    http_socket *http = http_socket_create();
    s3_client own = client;
    pgqrs_http_reply seen;
    memset(&seen, 0, sizeof(seen));
    own.http = http_socket_callback(http);
    for (int done = 0; http && done < ROUNDS;) {
        char text[24], etag[80];
        int status = s3_request(&own, "GET", "/b/race", NULL, NULL, NULL, &seen);
        if (status != 200)
            break;
        snprintf(etag, sizeof(etag), "%s", s3_reply_field(&seen, "etag"));
        snprintf(text, sizeof(text), "%d", atoi(seen.body.data) + 1);
        status = s3_request(&own, "PUT", "/b/race", "If-Match", etag, text, &seen);
        done += status == 200;
        if (status != 200 && status != 412)
            break;
        if (done == ROUNDS)
            *(int *)failed = 0;
    }
    s3_reply_clear(&seen);
    http_socket_destroy(http);
    return NULL;
}

static void test_race(void **state)
{
    pthread_t threads[RACERS];
    int failed[RACERS];
    char expected[24];
    (void)state;
    assert_int_equal(put("/b/race", NULL, NULL, "0"), 200);
    for (int i = 0; i < RACERS; i++) {
        failed[i] = 1;
        assert_int_equal(pthread_create(&threads[i], NULL, race, &failed[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(failed[i], 0);
    }
    snprintf(expected, sizeof(expected), "%d", RACERS * ROUNDS);
    holds("/b/race", expected);
}

/* ---- faults ---- */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void test_faults_before(void **state)
{
    static const struct {
        const char *fault, *code;
        int status;
    } cases[] = {{"error_before=x1", "InternalError", 500}, {"busy=x1", "TooManyRequests", 429}, {"slow_down=x1", "SlowDown", 503},
                 {"expired=x1", "ExpiredToken", 400}, {"conflict=x1", "ConditionalRequestConflict", 409},
                 {"false_412=x1", "PreconditionFailed", 412}, {"false_404=x1", "NoSuchKey", 404}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(put("/b/f", NULL, NULL, "before"), 200);
        set(cases[i].fault);
        put("/b/f", "If-Match", "*", "after");
        says(cases[i].status, cases[i].code);
        assert_int_equal(strcmp(s3_reply_field(&reply, "retry-after"), "1") == 0, cases[i].status == 429 || cases[i].status == 503);
        holds("/b/f", "before");
        assert_int_equal(put("/b/f", "If-Match", "*", "after"), 200); /* once */
    }
    set("reset=PUT:x1");
    assert_int_equal(put("/b/f", NULL, NULL, "reset"), 0);
    holds("/b/f", "after");
    assert_int_equal(counter("fault.reset"), 1);
    assert_int_equal(counter("fault.conflict"), 1);
}

static void test_faults_after(void **state)
{
    static const struct {
        const char *fault;
        int status;
    } cases[] = {{"lost_reply=x1", 0}, {"error_after=x1", 500}, {"own_412=x1", 412}, {"cut_head=PUT:x1", 0}, {"garbage=PUT:x1", 0}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char body[24];
        snprintf(body, sizeof(body), "version %zu", i);
        set(cases[i].fault);
        assert_int_equal(put("/b/g", NULL, NULL, body), cases[i].status);
        holds("/b/g", body);
    }
}

/* A PUT that comes late. False: it was there before anybody could look. */
static bool seen_before_it_comes(int late_ms)
{
    char how[60];
    bool early;
    assert_int_equal(put("/b/late", NULL, NULL, "early"), 200);
    snprintf(how, sizeof(how), "late_ms=%d\nlate=x1", late_ms);
    set(how);
    assert_int_equal(put("/b/late", NULL, NULL, "late"), 0);
    assert_int_equal(get("/b/late"), 200);
    early = strcmp(reply.body.data, "early") == 0;
    for (int64_t end = now_ms() + late_ms + 60000; now_ms() < end;)
        if (get("/b/late") == 200 && strcmp(reply.body.data, "late") == 0)
            break;
    holds("/b/late", "late");
    return early;
}

/* A late one heeds its condition when it is applied. False: it was not late enough. */
static bool overtaken_by_another(int late_ms)
{
    char how[60], etag[80];
    int status;
    assert_int_equal(get("/b/late"), 200);
    snprintf(etag, sizeof(etag), "%s", s3_reply_field(&reply, "etag"));
    snprintf(how, sizeof(how), "late_ms=%d\nlate=x1", late_ms);
    set(how);
    assert_int_equal(put("/b/late", "If-Match", etag, "never"), 0);
    status = put("/b/late", "If-Match", etag, "newer");
    if (status == 412)
        return false;
    assert_int_equal(status, 200);
    for (int64_t end = now_ms() + late_ms + 300; now_ms() < end;)
        holds("/b/late", "newer");
    return true;
}

static void test_late(void **state)
{
    (void)state;
    for (int late_ms = 300; !seen_before_it_comes(late_ms); late_ms *= 2)
        assert_true(late_ms <= 4800);
    for (int late_ms = 300; !overtaken_by_another(late_ms); late_ms *= 2)
        assert_true(late_ms <= 4800);
    set("late_ms=500");
}

/* The client gives up and asks before the server gets to it. False: something took so long that it was too late for that. */
static bool gave_up_before(int slow_ms)
{
    s3_client hasty = client;
    char how[60];
    int64_t begin;
    int seen;
    snprintf(how, sizeof(how), "slow_ms=%d\nslow=PUT:x1", slow_ms);
    set(how);
    hasty.timeout_ms = 100;
    begin = now_ms();
    assert_int_equal(s3_request(&hasty, "PUT", "/b/slow", NULL, NULL, "one", &reply), 0);
    seen = get("/b/slow");
    while (now_ms() - begin < slow_ms + 60000 && get("/b/slow") != 200)
        continue;
    holds("/b/slow", "one"); /* though the client gave up */
    return seen == 404;
}

static void test_slow(void **state)
{
    s3_client hasty = client;
    int64_t begin;
    int slow_ms = 400;
    (void)state;
    hasty.timeout_ms = 100;
    while (!gave_up_before(slow_ms)) {
        assert_true((slow_ms *= 2) <= 6400);
        assert_int_equal(s3_request(&client, "DELETE", "/b/slow", NULL, NULL, NULL, &reply), 204);
    }
    set("slow_reply=PUT:x1");
    assert_int_equal(s3_request(&hasty, "PUT", "/b/slow", NULL, NULL, "two", &reply), 0);
    holds("/b/slow", "two");
    set("slow_ms=1000\ndelay_ms=60");
    begin = now_ms();
    holds("/b/slow", "two");
    assert_true(now_ms() - begin >= 59);
    set("delay_ms=0");
}

static void test_spoiled_bodies(void **state)
{
    (void)state;
    assert_int_equal(put("/b/s", NULL, NULL, "0123456789"), 200);
    assert_int_equal(put("/b/s", NULL, NULL, "abcdefghij"), 200);
    set("truncated=x1");
    assert_int_equal(get("/b/s"), 0);
    set("shortened=x1");
    holds("/b/s", "abcde");
    set("corrupted=x1");
    assert_int_equal(get("/b/s"), 200);
    assert_int_equal(reply.body.size, 10);
    assert_memory_not_equal(reply.body.data, "abcdefghij", 10);
    set("stale=x1");
    holds("/b/s", "0123456789");
    holds("/b/s", "abcdefghij");
}

static void test_choice_of_faults(void **state)
{
    int failed = 0;
    (void)state;
    set("seed=7\ncounters=0\nerror_before=GET:0.3\nkeys=some");
    assert_int_equal(put("/b/some", NULL, NULL, "x"), 200);
    assert_int_equal(put("/b/other", NULL, NULL, "x"), 200);
    for (int i = 0; i < 200; i++) {
        failed += get("/b/some") == 500;
        assert_int_equal(get("/b/other"), 200);
    }
    assert_in_range(failed, 30, 90);
    assert_int_equal(counter("fault.error_before"), failed);
    assert_int_equal(counter("status.500"), failed);
    assert_int_equal(counter("requests.GET"), 400);
    assert_int_equal(counter("requests.PUT"), 2);
    assert_true(counter("bytes_in.PUT") > 2);
    set("keys=\nerror_before=@3");
    assert_int_equal(get("/b/some"), 200);
    assert_int_equal(get("/b/some"), 200);
    assert_int_equal(get("/b/some"), 500);
    assert_int_equal(get("/b/some"), 200);
    assert_false(s3_control(fault_server.port, "no_such_fault=1"));
    assert_false(s3_control(fault_server.port, "reset=2"));
    assert_false(s3_control(fault_server.port, "honour=some"));
    assert_false(s3_control(fault_server.port, "delay_ms=soon"));
}

/* ---- the wire ---- */

static void test_nonsense(void **state)
{
    static const char *const cases[] = {"\r\n\r\n", "GET\r\n\r\n", "GET x HTTP/1.1\r\n\r\n", "GET / SMTP\r\n\r\n",
                                        "GET /b/k HTTP/1.1\r\nno colon\r\n\r\n", "PUT /b/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                                        "PUT /b/k HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                                        "PUT /b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"};
    s3_text answer = {NULL, 0, 0, false};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        s3_exchange_bytes(fault_server.port, cases[i], strlen(cases[i]), &answer);
        assert_int_equal(answer.size, 0);
    }
    assert_int_equal(s3_raw(fault_server.port, "POST", "/b/k", NULL, 0, NULL), 405);
    assert_int_equal(s3_raw(fault_server.port, "GET", "/_nothing", NULL, 0, NULL), 404);
    s3_free(&answer);
    get("/b/still-there");
    says(404, "NoSuchKey");
}

static void test_one_connection(void **state)
{
    static const char two[] = "GET /_control HTTP/1.1\r\nHost: x\r\n\r\nGET /_control HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    s3_text answer = {NULL, 0, 0, false};
    char *first;
    (void)state;
    get("/b/k");
    set("counters=0");
    for (int i = 0; i < 10; i++)
        get("/b/k");
    assert_int_equal(counter("connections"), 1); /* which asks */
    assert_true(s3_exchange_bytes(fault_server.port, two, sizeof(two) - 1, &answer));
    first = strstr(answer.data, "HTTP/1.1 200");
    assert_non_null(first);
    assert_non_null(strstr(first + 1, "HTTP/1.1 200"));
    s3_free(&answer);
}

static void test_raw_objects(void **state)
{
    s3_text body = {NULL, 0, 0, false};
    (void)state;
    assert_int_equal(s3_raw(fault_server.port, "PUT", "/_raw/b/raw", "damage", 6, NULL), 200);
    holds("/b/raw", "damage");
    set("error_before=1");
    assert_int_equal(s3_raw(fault_server.port, "GET", "/_raw/b/raw", NULL, 0, &body), 200);
    assert_string_equal(body.data, "damage");
    assert_int_equal(s3_raw(fault_server.port, "DELETE", "/_raw/b/raw", NULL, 0, NULL), 200);
    set("error_before=0");
    assert_int_equal(get("/b/raw"), 404);
    assert_int_equal(put("/b/raw", NULL, NULL, "x"), 200);
    set("objects=0");
    assert_int_equal(get("/b/raw"), 404);
    s3_free(&body);
}

static void test_kept_versions(void **state)
{
    char dir[] = "/tmp/pgqrs-s3-keep.XXXXXX", line[100];
    int count = 0;
    DIR *listing;
    struct dirent *entry;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(line, sizeof(line), "keep=%s", dir);
    set(line);
    assert_int_equal(put("/b/kept", NULL, NULL, "one"), 200);
    assert_int_equal(put("/b/kept", NULL, NULL, "two"), 200);
    set("keep=");
    listing = opendir(dir);
    assert_non_null(listing);
    while ((entry = readdir(listing)) != NULL) {
        char path[400];
        if (entry->d_name[0] == '.')
            continue;
        assert_non_null(strstr(entry->d_name, "-b+kept"));
        snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
        assert_int_equal(remove(path), 0);
        count++;
    }
    closedir(listing);
    assert_int_equal(count, 2);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published_signatures),
                                       cmocka_unit_test(test_digests),
                                       cmocka_unit_test(test_wrong_credentials),
                                       cmocka_unit_test(test_server_clock),
                                       cmocka_unit_test(test_signed_body),
                                       cmocka_unit_test(test_session_token),
                                       cmocka_unit_test(test_unsigned_field),
                                       cmocka_unit_test(test_objects),
                                       cmocka_unit_test(test_conditional_put),
                                       cmocka_unit_test(test_quirks),
                                       cmocka_unit_test(test_write_interval),
                                       cmocka_unit_test(test_list),
                                       cmocka_unit_test(test_race),
                                       cmocka_unit_test(test_faults_before),
                                       cmocka_unit_test(test_faults_after),
                                       cmocka_unit_test(test_late),
                                       cmocka_unit_test(test_slow),
                                       cmocka_unit_test(test_spoiled_bodies),
                                       cmocka_unit_test(test_choice_of_faults),
                                       cmocka_unit_test(test_nonsense),
                                       cmocka_unit_test(test_one_connection),
                                       cmocka_unit_test(test_raw_objects),
                                       cmocka_unit_test(test_kept_versions)};
    return cmocka_run_group_tests(tests, start, stop);
}
