/* The parts of the S3 backend that need no store: digests and signatures against published vectors, texts, replies, trailers. */
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_s3.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* --- digests */

static const char *hex_of(const unsigned char *digest)
{
    static char hex[65];
    pgqrsi_s3_hex(digest, hex);
    return hex;
}

static void test_sha256(void **state)
{
    /* FIPS 180-4's examples, and one million times "a". */
    unsigned char digest[32];
    char million[1000];
    pgqrsi_s3_sha sha;
    int i;
    (void)state;
    pgqrsi_s3_sha_of("", 0, digest);
    assert_string_equal(hex_of(digest), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    pgqrsi_s3_sha_of("abc", 3, digest);
    assert_string_equal(hex_of(digest), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    pgqrsi_s3_sha_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, digest);
    assert_string_equal(hex_of(digest), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    memset(million, 'a', sizeof(million));
    pgqrsi_s3_sha_start(&sha);
    for (i = 0; i < 1000; i++)
        pgqrsi_s3_sha_add(&sha, million, sizeof(million));
    pgqrsi_s3_sha_end(&sha, digest);
    assert_string_equal(hex_of(digest), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* Whatever the pieces, the digest is that of the whole. */
static void test_sha256_in_pieces(void **state)
{
    unsigned char data[300], whole[32], pieces[32];
    size_t size, cut;
    (void)state;
    for (size = 0; size < sizeof(data); size++)
        data[size] = (unsigned char)(size * 7);
    for (size = 0; size < sizeof(data); size += 13)
        for (cut = 0; cut <= size; cut += 5) {
            pgqrsi_s3_sha sha;
            pgqrsi_s3_sha_of(data, size, whole);
            pgqrsi_s3_sha_start(&sha);
            pgqrsi_s3_sha_add(&sha, data, cut);
            pgqrsi_s3_sha_add(&sha, data + cut, size - cut);
            pgqrsi_s3_sha_end(&sha, pieces);
            assert_memory_equal(whole, pieces, 32);
        }
}

/* With the processor's own instructions, where it has them, as without. */
static void test_sha256_blocks(void **state)
{
    unsigned char data[64 * 9];
    uint32_t fast[8], plain[8];
    size_t count;
    (void)state;
    for (count = 0; count < sizeof(data); count++)
        data[count] = (unsigned char)(count * count >> 2);
    for (count = 0; count < 9; count++) {
        memset(fast, 0x5a, sizeof(fast));
        memset(plain, 0x5a, sizeof(plain));
        pgqrsi_s3_sha_blocks(fast, data + count, count);
        pgqrsi_s3_sha_blocks_plain(plain, data + count, count);
        assert_memory_equal(fast, plain, sizeof(fast));
    }
    memset(plain, 0, sizeof(plain));
    assert_memory_not_equal(fast, plain, sizeof(fast));
}

/* RFC 4231, cases 1, 2 and 6. */
static void test_hmac(void **state)
{
    unsigned char key[131], digest[32];
    (void)state;
    memset(key, 0x0b, 20);
    pgqrsi_s3_hmac(key, 20, "Hi There", digest);
    assert_string_equal(hex_of(digest), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    pgqrsi_s3_hmac("Jefe", 4, "what do ya want for nothing?", digest);
    assert_string_equal(hex_of(digest), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof(key));
    pgqrsi_s3_hmac(key, sizeof(key), "Test Using Larger Than Block-Size Key - Hash Key First", digest);
    assert_string_equal(hex_of(digest), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void test_crc(void **state)
{
    (void)state;
    assert_int_equal(pgqrsi_s3_crc(0, (const unsigned char *)"123456789", 9), 0xcbf43926u);
    assert_int_equal(pgqrsi_s3_crc(pgqrsi_s3_crc(0, (const unsigned char *)"1234", 4), (const unsigned char *)"56789", 5),
                     0xcbf43926u);
    assert_int_equal(pgqrsi_s3_crc(0, (const unsigned char *)"", 0), 0);
}

/* By its definition, bit by bit, for every length and place. */
static void test_crc_of_every_length(void **state)
{
    unsigned char data[64];
    size_t at, size, i;
    int bit;
    (void)state;
    for (i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 37 + 11);
    for (at = 0; at < 9; at++)
        for (size = 0; at + size <= sizeof(data); size++) {
            uint32_t crc = 0xffffffffu;
            for (i = 0; i < size; i++)
                for (crc ^= data[at + i], bit = 0; bit < 8; bit++)
                    crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
            assert_int_equal(pgqrsi_s3_crc(0, data + at, size), ~crc);
        }
}

/* --- signatures: the examples of "Authenticating Requests: Using the Authorization Header" in the Amazon S3 API reference */

#define EMPTY_HASH "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void signs(const char *method, const char *path, const char *query, const pgqrs_http_field *fields, size_t count,
                  const char *payload, const char *signature)
{
    char out[PGQRSI_S3_AUTHORIZATION_MAX];
    pgqrsi_s3_signing signing;
    memset(&signing, 0, sizeof(signing));
    signing.method = method;
    signing.path = path;
    signing.query = query;
    signing.fields = fields;
    signing.field_count = count;
    signing.payload = payload;
    signing.stamp = "20130524T000000Z";
    signing.region = "us-east-1";
    signing.access_key = "AKIAIOSFODNN7EXAMPLE";
    signing.secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    pgqrsi_s3_sign(&signing, out);
    if (!strstr(out, signature)) fail_msg("%s %s: %s", method, path, out);
    assert_int_equal(strncmp(out, "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ", 84), 0);
    assert_null(strstr(out, signing.secret_key));
}

static void test_signatures(void **state)
{
    static const char put_hash[] = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    static const pgqrs_http_field get[] = {{"host", "examplebucket.s3.amazonaws.com"},
                                           {"range", "bytes=0-9"},
                                           {"x-amz-content-sha256", EMPTY_HASH},
                                           {"x-amz-date", "20130524T000000Z"}};
    static const pgqrs_http_field put[] = {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                           {"host", "examplebucket.s3.amazonaws.com"},
                                           {"x-amz-content-sha256", put_hash},
                                           {"x-amz-date", "20130524T000000Z"},
                                           {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
    static const pgqrs_http_field plain[] = {{"host", "examplebucket.s3.amazonaws.com"},
                                             {"x-amz-content-sha256", EMPTY_HASH},
                                             {"x-amz-date", "20130524T000000Z"}};
    unsigned char digest[32];
    (void)state;
    pgqrsi_s3_sha_of("Welcome to Amazon S3.", 21, digest);
    assert_string_equal(hex_of(digest), put_hash);
    signs("GET", "/test.txt", "", get, COUNT(get), EMPTY_HASH,
          "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
          "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    signs("PUT", "/test%24file.text", "", put, COUNT(put), put_hash,
          "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    signs("GET", "/", "lifecycle=", plain, COUNT(plain), EMPTY_HASH,
          "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    signs("GET", "/", "max-keys=2&prefix=J", plain, COUNT(plain), EMPTY_HASH,
          "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

/* --- texts */

static void test_encoding(void **state)
{
    static const char *const cases[][2] = {
        {"jobs.sqlite", "jobs.sqlite"}, {"a/b-c_d.e~f", "a/b-c_d.e~f"},     {"test$file.text", "test%24file.text"},
        {"a b", "a%20b"},               {"100%", "100%25"},                 {"\xc3\xa4", "%C3%A4"},
        {"+&=:@", "%2B%26%3D%3A%40"},   {"\x01\x7f\xff", "%01%7F%FF"},      {"", ""},
    };
    char out[64];
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        pgqrsi_s3_encode(cases[i][0], out);
        assert_string_equal(out, cases[i][1]);
    }
}

static void test_dates(void **state)
{
    static const struct {
        const char *text;
        int64_t seconds;
    } cases[] = {
        {"Sun, 06 Nov 1994 08:49:37 GMT", 784111777}, {"Thu, 01 Jan 1970 00:00:01 GMT", 1},
        {"Tue, 29 Feb 2000 23:59:59 GMT", 951868799}, {"Sat, 21 Nov 2026 10:00:00 GMT", 1795255200},
        {"Fri, 31 Dec 9998 23:59:59 GMT", INT64_C(253370764799)},
        {"Sunday, 06-Nov-94 08:49:37 GMT", 0},        {"Sun Nov  6 08:49:37 1994", 0},
        {"Sun, 06 Nox 1994 08:49:37 GMT", 0},         {"Sun, 06 Nov 1994 08:49:37 CET", 0},
        {"Sun, 06 Nov 1994 24:49:37 GMT", 0},         {"Sun, 00 Nov 1994 08:49:37 GMT", 0},
        {"Sun, 06 Nov 1994 08:4x:37 GMT", 0},         {"", 0},
        {"Sun. 06 Nov 1994 08:49:37 GMT", 0},         {"Sun, 06 Nov 1994-08:49:37 GMT", 0},
        {"Sun, 06 Nov 1994 08.49:37 GMT", 0},         {"Sun, 06 Nov 1994 08:49.37 GMT", 0},
        {"Sun, 32 Nov 1994 08:49:37 GMT", 0},         {"Sun, 06 Nov 1969 08:49:37 GMT", 0},
        {"Sun, 06 Nov 1994 -8:49:37 GMT", 0},         {"Sun, 06 Nov 1994 08:60:37 GMT", 0},
        {"Sun, 06 Nov 1994 08:49:61 GMT", 0},         {"Sun, 06 Nov 1994 08:49:-1 GMT", 0},
        {"Sun, 06 Nov /994 08:49:37 GMT", 0},
    };
    char stamp[17];
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        if (pgqrsi_s3_http_date(cases[i].text, strlen(cases[i].text)) != cases[i].seconds * 1000000)
            fail_msg("%s: %lld", cases[i].text,
                     (long long)pgqrsi_s3_http_date(cases[i].text, strlen(cases[i].text)));
    pgqrsi_s3_stamp(INT64_C(1369353600) * 1000000, stamp);
    assert_string_equal(stamp, "20130524T000000Z");
    pgqrsi_s3_stamp(INT64_C(951868799) * 1000000 + 999999, stamp);
    assert_string_equal(stamp, "20000229T235959Z");
    pgqrsi_s3_stamp(INT64_C(1767225599) * 1000000, stamp);
    assert_string_equal(stamp, "20251231T235959Z");
}

static void test_keys(void **state)
{
    static const char *const odd[] = {"a//b", "/a", "a/", "..", ".", "a/../b", "a/.", "./a"};
    static const char *const fine[] = {"a", "a/b", "...", "a.b", ".a", "a/..b/c"};
    (void)state;
    for (size_t i = 0; i < COUNT(odd); i++)
        if (!pgqrsi_s3_odd_key(odd[i])) fail_msg("%s", odd[i]);
    for (size_t i = 0; i < COUNT(fine); i++)
        if (pgqrsi_s3_odd_key(fine[i])) fail_msg("%s", fine[i]);
}

static void test_endpoints(void **state)
{
    static const char *const fine[] = {"http://127.0.0.1:9000", "https://s3.eu-west-1.amazonaws.com", "http://h/path"};
    static const char *const bad[] = {"",        "s3.amazonaws.com", "ftp://h",     "http://",  "http:///x",
                                      "http://user:password@h", "http://h?x=1", "http://h#x", "http://h h", "HTTP://h"};
    (void)state;
    for (size_t i = 0; i < COUNT(fine); i++)
        if (!pgqrsi_s3_endpoint_fine(fine[i])) fail_msg("%s", fine[i]);
    for (size_t i = 0; i < COUNT(bad); i++)
        if (pgqrsi_s3_endpoint_fine(bad[i])) fail_msg("%s", bad[i]);
}

static void test_network_file_systems(void **state)
{
    (void)state;
    assert_true(pgqrsi_s3_is_network(0x6969));     /* NFS */
    assert_true(pgqrsi_s3_is_network(0xfe534d42)); /* SMB2 */
    assert_false(pgqrsi_s3_is_network(0xef53));    /* ext4 */
    assert_false(pgqrsi_s3_is_network(0x01021994)); /* tmpfs */
}

/* --- replies */

static void field(pgqrs_http_reply *reply, const char *name, const char *value)
{
    assert_true(pgqrs_http_reply_field(reply, name, strlen(name), value, strlen(value)));
}

static pgqrs_store *memory_store(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite::memory:", NULL, &err);
    assert_non_null(store);
    return store;
}

static void test_reply_fields(void **state)
{
    pgqrs_http_reply reply;
    char longest[400];
    (void)state;
    memset(&reply, 0, sizeof(reply));
    field(&reply, "ETag", " \"abc\"\r\n");
    field(&reply, "DATE", "Sun, 06 Nov 1994 08:49:37 GMT");
    field(&reply, "Retry-After", "3");
    field(&reply, "Content-Length", "17");
    field(&reply, "x-amz-bucket-region", "eu-west-1");
    field(&reply, "Server", "something");
    assert_string_equal(reply.etag, "\"abc\"");
    assert_true(reply.date_us == INT64_C(784111777000000));
    assert_true(reply.retry_after_ms == 3000);
    assert_true(reply.length_known && reply.length == 17);
    assert_string_equal(reply.region, "eu-west-1");
    /* What could be put to bad use in a request is dropped. */
    field(&reply, "etag", "\"a\r\nX-Evil: 1\"");
    assert_string_equal(reply.etag, "");
    memset(longest, 'x', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    field(&reply, "etag", longest);
    assert_string_equal(reply.etag, "");
    field(&reply, "Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_true(reply.retry_after_ms == 0);
    field(&reply, "Retry-After", "999999999999999999999999");
    assert_true(reply.retry_after_ms == 0);
    field(&reply, "Content-Length", "-1");
    assert_false(reply.length_known);
    field(&reply, "", "");
}

static void test_reply_bodies(void **state)
{
    static const char xml[] = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>m</Message></Error>";
    pgqrs_store *store = memory_store();
    pgqrs_http_reply reply;
    (void)state;
    memset(&reply, 0, sizeof(reply));
    reply.store = store;
    reply.most = 200;
    assert_true(pgqrs_http_reply_body(&reply, xml, 10));
    assert_true(pgqrs_http_reply_body(&reply, NULL, 0));
    assert_true(pgqrs_http_reply_body(&reply, xml + 10, sizeof(xml) - 11));
    assert_int_equal(pgqrsi_s3_judge(&reply, 404), 404);
    assert_string_equal(reply.code, "NoSuchKey");
    field(&reply, "content-length", "5000");
    assert_int_equal(pgqrsi_s3_judge(&reply, 200), 0); /* cut off */
    assert_int_equal(pgqrsi_s3_judge(&reply, 304), 304);
    assert_int_equal(pgqrsi_s3_judge(&reply, 77), 0);
    assert_int_equal(pgqrsi_s3_judge(&reply, 12345), 0);
    assert_int_equal(pgqrsi_s3_judge(&reply, -1), -1);
    assert_false(pgqrs_http_reply_body(&reply, xml, 200));
    assert_true(reply.too_large);
    reply.length_known = false;
    assert_int_equal(pgqrsi_s3_judge(&reply, 200), 0); /* whatever the function says that it was told to stop */
    pgqrsi_s3_release(store, &reply.body);
    pgqrs_close(store);
}

/* Whatever stands between the tags, it is a word or nothing. */
static void test_error_codes(void **state)
{
    static const struct {
        const char *body;
        const char *code;
    } cases[] = {
        {"<Error><Code>SlowDown</Code></Error>", "SlowDown"}, {"<Code></Code>", ""}, {"<Code>", ""}, {"<Code>Cut", "Cut"},
        {"", ""}, {"<Code>a b</Code>", "a"}, {"<Code>\n</Code>", ""}, {"no xml at all", ""},
    };
    pgqrs_store *store = memory_store();
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        pgqrs_http_reply reply;
        memset(&reply, 0, sizeof(reply));
        reply.store = store;
        reply.most = 1000;
        assert_true(pgqrs_http_reply_body(&reply, cases[i].body, strlen(cases[i].body)));
        pgqrsi_s3_judge(&reply, 500);
        assert_string_equal(reply.code, cases[i].code);
        pgqrsi_s3_release(store, &reply.body);
    }
    pgqrs_close(store);
}

/* --- trailers */

static size_t make_image(unsigned char *out)
{
    sqlite3 *db;
    sqlite3_int64 size;
    unsigned char *data;
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA page_size=512; CREATE TABLE t(a); INSERT INTO t VALUES(1)", NULL, NULL, NULL),
                     SQLITE_OK);
    data = sqlite3_serialize(db, "main", &size, 0);
    assert_non_null(data);
    memcpy(out, data, (size_t)size);
    sqlite3_free(data);
    sqlite3_close(db);
    return (size_t)size;
}

static pgqrsi_s3_writer writer_of(uint64_t id, uint64_t counter, uint64_t seq, int64_t at_s)
{
    pgqrsi_s3_writer writer;
    writer.id = id;
    writer.counter = counter;
    writer.seq = seq;
    writer.at_us = at_s * 1000000;
    return writer;
}

static unsigned char body_data[1 << 17], old_data[1 << 17];

/* body becomes the commit of `me` on top of what is in it. */
static pgqrsi_s3_trailer commit_on(pgqrsi_s3_bytes *body, pgqrsi_s3_writer me)
{
    pgqrsi_s3_trailer old, now;
    memcpy(old_data, body->data, body->size);
    assert_int_equal(pgqrsi_s3_decode(old_data, body->size, &old), PGQRSI_S3_FINE);
    assert_true(old.image_size + pgqrsi_s3_trailer_room(&old) <= body->room);
    body->size = old.image_size;
    me.seq = old.seq + 1;
    pgqrsi_s3_append_trailer(body, &old, 77, PGQRSI_S3_PROVEN, 4711, &me);
    assert_int_equal(pgqrsi_s3_decode(body->data, body->size, &now), PGQRSI_S3_FINE);
    return now;
}

static void test_trailer(void **state)
{
    pgqrsi_s3_bytes body = {body_data, 0, sizeof(body_data)};
    pgqrsi_s3_trailer trailer;
    (void)state;
    body.size = make_image(body.data);
    assert_int_equal(pgqrsi_s3_decode(body.data, body.size, &trailer), PGQRSI_S3_FINE);
    assert_true(trailer.seq == 0 && trailer.writer_count == 0 && trailer.birth == 0);
    trailer = commit_on(&body, writer_of(1, 5, 0, 1000));
    assert_true(trailer.seq == 1 && trailer.birth == 77 && trailer.flags == PGQRSI_S3_PROVEN && trailer.horizon == 0 && trailer.place == 4711);
    assert_true(pgqrsi_s3_last_commit(&trailer, 1) == 5);
    assert_true(pgqrsi_s3_last_commit(&trailer, 2) == 0);
    commit_on(&body, writer_of(2, UINT64_MAX, 0, 1001));
    trailer = commit_on(&body, writer_of(1, 6, 0, 1002));
    assert_true(trailer.seq == 3 && trailer.writer_count == 2);
    assert_true(pgqrsi_s3_last_commit(&trailer, 1) == 6 && pgqrsi_s3_last_commit(&trailer, 2) == UINT64_MAX);
}

/* A writer is forgotten when it is old, or one of too many, and the horizon says up to where. */
static void test_trailer_forgets(void **state)
{
    pgqrsi_s3_bytes body = {body_data, 0, sizeof(body_data)};
    pgqrsi_s3_trailer trailer;
    uint64_t i;
    (void)state;
    body.size = make_image(body.data);
    commit_on(&body, writer_of(1, 1, 0, 1000));
    commit_on(&body, writer_of(2, 1, 0, 1100));
    trailer = commit_on(&body, writer_of(3, 1, 0, 1121));
    assert_true(trailer.writer_count == 2 && trailer.horizon == 1);
    assert_true(pgqrsi_s3_last_commit(&trailer, 1) == 0 && pgqrsi_s3_last_commit(&trailer, 2) == 1);
    for (i = 0; i < 2000; i++) {
        trailer = commit_on(&body, writer_of(100 + i, 1, 0, 1122));
        assert_true(trailer.writer_count <= PGQRSI_S3_WRITERS_MAX);
        assert_true(pgqrsi_s3_last_commit(&trailer, 100 + i) == 1);
        /* Whoever is missing committed at or below the horizon. */
        assert_true(trailer.seq - trailer.horizon <= trailer.writer_count);
    }
    assert_true(trailer.writer_count == PGQRSI_S3_WRITERS_MAX && trailer.horizon == trailer.seq - PGQRSI_S3_WRITERS_MAX);
}

/* --- fairness between machines */

static uint64_t writer_on(uint64_t machine, uint64_t id)
{
    return machine << PGQRSI_S3_MACHINE_SHIFT | id;
}

/* Machines are counted, not writers; those that have not committed for long are not, nor those whom many commits followed. */
static void test_active_machines(void **state)
{
    pgqrsi_s3_bytes body = {body_data, 0, sizeof(body_data)};
    pgqrsi_s3_trailer trailer;
    bool joins;
    int i;
    (void)state;
    body.size = make_image(body_data);
    assert_int_equal(pgqrsi_s3_decode(body.data, body.size, &trailer), PGQRSI_S3_FINE);
    assert_int_equal(pgqrsi_s3_active_machines(&trailer, 1, INT64_C(1000000000), &joins), 1);
    assert_true(joins);
    assert_false(pgqrsi_s3_is_of_machine(&trailer, 1));
    commit_on(&body, writer_of(writer_on(2, 1), 1, 0, 1000));
    commit_on(&body, writer_of(writer_on(2, 2), 1, 0, 1001));
    commit_on(&body, writer_of(writer_on(3, 1), 1, 0, 1002));
    trailer = commit_on(&body, writer_of(writer_on(1, 1), 1, 0, 1003));
    assert_int_equal(pgqrsi_s3_active_machines(&trailer, 1, INT64_C(1003000000), &joins), 3);
    assert_false(joins);
    assert_int_equal(pgqrsi_s3_active_machines(&trailer, 4, INT64_C(1003000000), &joins), 4);
    assert_true(joins);
    assert_int_equal(pgqrsi_s3_active_machines(&trailer, 1, INT64_C(1011500000), &joins), 2);
    assert_int_equal(pgqrsi_s3_active_machines(&trailer, 1, INT64_C(1013500000), &joins), 1);
    assert_true(pgqrsi_s3_is_of_machine(&trailer, 1));
    assert_false(pgqrsi_s3_is_of_machine(&trailer, 2));
    for (i = 0; i <= PGQRSI_S3_CROWD_COMMITS; i++)
        trailer = commit_on(&body, writer_of(writer_on(1, 1), 2, 0, 1003));
    assert_int_equal(pgqrsi_s3_active_machines(&trailer, 1, INT64_C(1003000000), &joins), 1);
    for (i = 0; i < 20; i++)
        trailer = commit_on(&body, writer_of(writer_on(10 + (uint64_t)i, 1), 1, 0, 1003));
    assert_int_equal(pgqrsi_s3_active_machines(&trailer, 1, INT64_C(1003000000), &joins), PGQRSI_S3_CROWD_MAX);
}

/* The pause grows with the number of machines, begins when the commit landed, and is never long. */
static void test_yield(void **state)
{
    const int64_t landed = 10 * PGQRSI_S3_PROBE_US + 500000;
    (void)state;
    assert_true(pgqrsi_s3_yield_us(1, false, 60000, landed, landed) == 0);
    assert_true(pgqrsi_s3_yield_us(2, false, 60000, landed, landed) == 42000);
    assert_true(pgqrsi_s3_yield_us(4, false, 60000, landed, landed) == 126000);
    assert_true(pgqrsi_s3_yield_us(4, false, 60000, landed, landed + 26000) == 100000);
    assert_true(pgqrsi_s3_yield_us(4, false, 60000, landed, landed + 126000) == 0);
    assert_true(pgqrsi_s3_yield_us(8, false, 10000000, landed, landed) == PGQRSI_S3_YIELD_MAX_US);
    assert_true(pgqrsi_s3_yield_us(4, false, 60000, landed, landed - 1) == 0); /* the clock was set back */
    /* alone: two round trips after the first commit, and once in each interval */
    assert_true(pgqrsi_s3_yield_us(1, true, 60000, landed, landed) == 120000);
    assert_true(pgqrsi_s3_yield_us(1, false, 60000, landed - 450000, landed - 440000) == 110000);
    assert_true(pgqrsi_s3_yield_us(1, false, 60000, landed - 380000, landed - 370000) == 0);
    assert_true(pgqrsi_s3_yield_us(1, false, 60000, landed - 700000, landed) == 0); /* was long ago */
}

/* --- what is staged */

static void test_staged_head(void **state)
{
    unsigned char data[PGQRSI_S3_STAGED_ROOM], copy[PGQRSI_S3_STAGED_ROOM];
    pgqrsi_s3_staged staged, read;
    uint64_t image_size = 0;
    size_t size, i, bit;
    (void)state;
    memset(&staged, 0, sizeof(staged));
    memset(&read, 0, sizeof(read));
    staged.after.birth = 11, staged.after.seq = 12, staged.after.id = 13, staged.after.counter = 14;
    staged.until_us = 15;
    for (staged.count = 1; staged.count <= PGQRSI_S3_STAGED_MAX; staged.count++)
        staged.ids[staged.count - 1] = 100 + staged.count, staged.counters[staged.count - 1] = 200 + staged.count;
    staged.count = PGQRSI_S3_STAGED_MAX;
    staged.image.size = 4096;
    assert_int_equal(pgqrsi_s3_staged_head(&staged, data), sizeof(data));
    staged.count = 3;
    size = pgqrsi_s3_staged_head(&staged, data);
    assert_int_equal(pgqrsi_s3_read_staged_head(data, size, &read, &image_size), size);
    assert_true(read.count == 3 && image_size == 4096 && read.until_us == 15);
    assert_true(pgqrsi_s3_same_mark(read.after, staged.after));
    assert_true(pgqrsi_s3_has_writer(&read, 103, 203) && !pgqrsi_s3_has_writer(&read, 103, 202));
    assert_false(pgqrsi_s3_has_writer(&read, 104, 204));
    assert_true(pgqrsi_s3_mark_of(&read).seq == 13 && pgqrsi_s3_mark_of(&read).id == 103);
    for (i = 0; i < size; i++)
        if (pgqrsi_s3_read_staged_head(data, i, &read, &image_size) != 0) fail_msg("cut to %zu", i);
    for (i = 0; i < size; i++)
        for (bit = 0; bit < 8; bit++) {
            memcpy(copy, data, size);
            copy[i] ^= (unsigned char)(1u << bit);
            if (pgqrsi_s3_read_staged_head(copy, size, &read, &image_size) != 0) fail_msg("byte %zu, bit %zu", i, bit);
        }
}

/* Whoever waits longer asks more often. */
static void test_line(void **state)
{
    int64_t waited, last = INT64_MAX;
    (void)state;
    for (waited = 0; waited < 400000; waited += 10000) {
        int64_t pause = pgqrsi_s3_line_pause_us(false, waited);
        assert_true(pause > 0 && pause <= last && pause >= pgqrsi_s3_line_pause_us(true, waited));
        last = pause;
    }
    assert_true(last < pgqrsi_s3_line_pause_us(false, 0));
}

static void test_bad_objects(void **state)
{
    pgqrsi_s3_bytes body = {body_data, 0, sizeof(body_data)};
    pgqrsi_s3_trailer trailer;
    size_t image, size, i;
    (void)state;
    image = body.size = make_image(body.data);
    commit_on(&body, writer_of(1, 1, 0, 1000));
    size = body.size;
    assert_int_equal(pgqrsi_s3_decode(body.data, 0, &trailer), PGQRSI_S3_NO_SQLITE);
    assert_int_equal(pgqrsi_s3_decode((const unsigned char *)"<html>", 6, &trailer), PGQRSI_S3_NO_SQLITE);
    /* Cut off anywhere it is not taken for anything else; only just the image is a plain SQLite file. */
    for (i = 0; i < size; i++)
        if ((pgqrsi_s3_decode(body.data, i, &trailer) == PGQRSI_S3_FINE) != (i == image)) fail_msg("cut to %zu", i);
    /* One wrong bit anywhere shows. */
    for (i = 0; i < size; i++) {
        body.data[i] ^= 1;
        if (pgqrsi_s3_decode(body.data, size, &trailer) == PGQRSI_S3_FINE) fail_msg("byte %zu", i);
        body.data[i] ^= 1;
    }
    assert_int_equal(pgqrsi_s3_decode(body.data, size, &trailer), PGQRSI_S3_FINE);
    body.data[image + 8] = 3;
    assert_int_equal(pgqrsi_s3_decode(body.data, size, &trailer), PGQRSI_S3_NEWER);
    body.data[image] = 'x';
    assert_int_equal(pgqrsi_s3_decode(body.data, size, &trailer), PGQRSI_S3_FOREIGN);
}

/* --- parts */

enum { PAGE = 512, PAGES = 40 };

/* A SQLite file of so many pages, the last of which are nothing to SQLite. */
static void make_pages(unsigned char *out, uint32_t pages)
{
    size_t size = make_image(out);
    for (size_t i = size; i < (size_t)pages * PAGE; i++)
        out[i] = (unsigned char)(i * 7 + i / PAGE);
    out[28] = out[29] = out[30] = 0;
    out[31] = (unsigned char)pages;
}

static pgqrsi_s3_part part_of(uint64_t seq, uint64_t id, uint64_t upto, uint32_t pages, uint32_t kind)
{
    pgqrsi_s3_part part = {seq, id, upto, pages, kind, 0};
    return part;
}

static void test_part(void **state)
{
    static unsigned char image[PAGES * PAGE], data[PAGES * (PAGE + 4) + 100], flags[PAGES];
    pgqrsi_s3_bytes bytes = {data, 0, sizeof(data)};
    pgqrsi_s3_part part = part_of(9, 77, 8, 3, PGQRSI_S3_PAGES), other;
    size_t i;
    int bit;
    (void)state;
    make_pages(image, PAGES);
    flags[1] = flags[2] = flags[PAGES - 1] = 1;
    pgqrsi_s3_encode_part(&bytes, &part, 5, image, PAGE, PAGES, flags);
    assert_int_equal(bytes.size, pgqrsi_s3_part_size(&part, PAGE));
    assert_true(pgqrsi_s3_part_fine(data, bytes.size, &part, 5, PAGE));
    for (i = 0; i < bytes.size; i++)
        if (pgqrsi_s3_part_fine(data, i, &part, 5, PAGE)) fail_msg("cut to %zu", i);
    for (i = 0; i < bytes.size; i++)
        for (bit = 0; bit < 8; bit++) {
            data[i] ^= (unsigned char)(1 << bit);
            if (pgqrsi_s3_part_fine(data, bytes.size, &part, 5, PAGE)) fail_msg("bit %d of byte %zu", bit, i);
            data[i] ^= (unsigned char)(1 << bit);
        }
    /* Whole, but another one. */
    assert_false(pgqrsi_s3_part_fine(data, bytes.size, &part, 6, PAGE));
    assert_false(pgqrsi_s3_part_fine(data, bytes.size, &part, 5, 1024));
    other = part, other.seq++;
    assert_false(pgqrsi_s3_part_fine(data, bytes.size, &other, 5, PAGE));
    other = part, other.id++;
    assert_false(pgqrsi_s3_part_fine(data, bytes.size, &other, 5, PAGE));
    other = part, other.pages = UINT32_MAX;
    assert_false(pgqrsi_s3_part_fine(data, bytes.size, &other, 5, PAGE));
    other = part, other.kind = PGQRSI_S3_WHOLE;
    assert_false(pgqrsi_s3_part_fine(data, bytes.size, &other, 5, PAGE));
    /* A SQLite file goes by its CRC-32 and size alone. */
    part = part_of(9, 77, 8, PAGES, PGQRSI_S3_WHOLE);
    part.crc = pgqrsi_s3_crc(0, image, sizeof(image));
    assert_true(pgqrsi_s3_part_fine(image, sizeof(image), &part, 5, PAGE));
    assert_false(pgqrsi_s3_part_fine(image, sizeof(image) - PAGE, &part, 5, PAGE));
    image[700] ^= 1;
    assert_false(pgqrsi_s3_part_fine(image, sizeof(image), &part, 5, PAGE));
}

static void test_part_names(void **state)
{
    char name[PGQRSI_S3_PART_NAME];
    (void)state;
    pgqrsi_s3_part_name(UINT64_C(0x1a), UINT64_C(0xfedcba9876543210), name);
    assert_string_equal(name, "000000000000001a-fedcba9876543210.sqlite");
}

/* A head over two parts: the pages of `image` that `flags` names are in it. */
static void make_head(pgqrsi_s3_bytes *body, pgqrsi_s3_plan *plan, const unsigned char *image, uint32_t pages, unsigned char *flags)
{
    pgqrsi_s3_trailer old;
    memset(&old, 0, sizeof(old));
    memset(plan, 0, sizeof(*plan));
    plan->image = image;
    plan->page_size = PAGE;
    plan->page_count = pages;
    plan->flags = flags;
    for (uint32_t i = 0; i < pages; i++)
        plan->flagged += flags[i];
    plan->sum = pgqrsi_s3_image_sum(image, PAGE, 0, pages);
    plan->parts[plan->part_count++] = part_of(3, 30, 3, PAGES, PGQRSI_S3_WHOLE);
    plan->parts[plan->part_count++] = part_of(7, 70, 6, 2, PGQRSI_S3_PAGES);
    pgqrsi_s3_retire(plan, 2, 20, 12345);
    plan->me = writer_of(1, 5, 9, 1000);
    body->size = make_image(body->data);
    pgqrsi_s3_append_writers(body, PGQRSI_S3_TRAILER_PARTS, &old, 77, 0, 4711, &plan->me);
    pgqrsi_s3_append_parts(body, plan, true);
    pgqrsi_s3_append_crc(body);
}

static void put_crc(pgqrsi_s3_bytes *body)
{
    body->size -= 4;
    pgqrsi_s3_append_crc(body);
}

static void test_heads(void **state)
{
    static unsigned char image[PAGES * PAGE], flags[PAGES];
    static pgqrsi_s3_plan plan;
    pgqrsi_s3_bytes body = {body_data, 0, sizeof(body_data)};
    pgqrsi_s3_trailer head;
    size_t file, size, i, at;
    (void)state;
    make_pages(image, PAGES);
    flags[0] = flags[5] = flags[PAGES - 1] = 1;
    make_head(&body, &plan, image, PAGES, flags);
    file = make_image(old_data);
    size = body.size;
    assert_int_equal(pgqrsi_s3_decode(body.data, size, &head), PGQRSI_S3_FINE);
    assert_true(pgqrsi_s3_in_parts(&head) && head.page_size == PAGE && head.page_count == PAGES && head.seq == 9);
    assert_true(head.image_size == sizeof(image) && head.file_size == file && head.part_count == 2 && head.retired_count == 1);
    assert_true(pgqrsi_s3_part_at(&head, 1).id == 70 && pgqrsi_s3_part_at(&head, 1).upto == 6 && pgqrsi_s3_part_at(&head, 0).pages == PAGES);
    assert_true(pgqrsi_s3_retired_at(&head, 0).id == 20 && pgqrsi_s3_retired_at(&head, 0).at_us == 12345);
    assert_true(head.number_count == 3 && pgqrsi_s3_number_at(&head, 2) == PAGES - 1);
    assert_memory_equal(head.pages + 2 * PAGE, image + (PAGES - 1) * PAGE, PAGE);
    assert_true(pgqrsi_s3_last_commit(&head, 1) == 5);
    for (i = 0; i < size; i++) /* cut anywhere it is no head; only just the file in front is a SQLite file */
        if ((pgqrsi_s3_decode(body.data, i, &head) == PGQRSI_S3_FINE) != (i == file)) fail_msg("cut to %zu", i);
    for (i = 0; i < size; i++) {
        body.data[i] ^= 1;
        if (pgqrsi_s3_decode(body.data, size, &head) == PGQRSI_S3_FINE) fail_msg("byte %zu", i);
        body.data[i] ^= 1;
    }
    /* With the right checksum, but of nonsense. */
    at = file + 56 + 32;
    {
        static const struct {
            size_t at;
            unsigned char value;
        } nonsense[] = {{0, 1},  {1, 3},         {4, 5},      {7, 255},           {16, 1},           {16, 3},          {20, 0},        {24, 2},
                        {24, 4}, {32 + 28, 1},   {32 + 24, 0}, {32 + 40 + 16, 3}, {32 + 40 + 16, 10}, {32 + 40 + 28, 0}, {32 + 40 + 28, 7}, {32 + 80 + 24, 6},
                        {32 + 80 + 24 + 4, 0}, {32 + 80 + 24 + 8, PAGES}};
        for (i = 0; i < COUNT(nonsense); i++) {
            make_head(&body, &plan, image, PAGES, flags);
            body.data[at + nonsense[i].at] = nonsense[i].value;
            put_crc(&body);
            if (pgqrsi_s3_decode(body.data, body.size, &head) == PGQRSI_S3_FINE) fail_msg("nonsense %zu", i);
        }
    }
    /* All in one again, with something left to delete. */
    make_head(&body, &plan, image, PAGES, flags);
    body.size = file + 56 + 32;
    pgqrsi_s3_append_parts(&body, &plan, false);
    pgqrsi_s3_append_crc(&body);
    assert_int_equal(pgqrsi_s3_decode(body.data, body.size, &head), PGQRSI_S3_FINE);
    assert_true(!pgqrsi_s3_in_parts(&head) && head.retired_count == 1 && head.image_size == file);
}

/* Parts and head laid over each other are the file, from nothing and from what was known of it. */
static void test_laying(void **state)
{
    static unsigned char first[PAGES * PAGE], last[PAGES * PAGE], part_data[4 * PAGE], flags[PAGES];
    static pgqrsi_s3_plan plan;
    static const uint32_t counts[] = {PAGES, PAGES - 6, PAGES - 20};
    pgqrs_store *store = memory_store();
    (void)state;
    make_pages(first, PAGES);
    for (size_t c = 0; c < COUNT(counts); c++) {
        uint32_t pages = counts[c];
        pgqrsi_s3_bytes body = {body_data, 0, sizeof(body_data)}, part_bytes = {part_data, 0, sizeof(part_data)};
        pgqrsi_s3_version cold, warm, grown;
        pgqrsi_s3_part whole, part;
        memcpy(last, first, sizeof(last));
        last[31] = (unsigned char)pages;
        memset(flags, 0, sizeof(flags));
        flags[7] = flags[9] = 1;
        last[7 * PAGE] = last[9 * PAGE] = 'p';
        part = part_of(7, 70, 6, 2, PGQRSI_S3_PAGES);
        pgqrsi_s3_encode_part(&part_bytes, &part, 77, last, PAGE, pages, flags);
        memset(flags, 0, sizeof(flags));
        flags[0] = flags[9] = flags[11] = 1;
        last[9 * PAGE] = last[11 * PAGE] = 'h';
        make_head(&body, &plan, last, pages, flags);
        whole = plan.parts[0];
        memset(&cold, 0, sizeof(cold));
        assert_int_equal(pgqrsi_s3_decode(body.data, body.size, &cold.trailer), PGQRSI_S3_FINE);
        assert_true(pgqrsi_s3_lay_begin(store, &cold, NULL));
        assert_int_equal(cold.missing, pages);
        pgqrsi_s3_lay_part(&cold, &whole, first);
        pgqrsi_s3_lay_part(&cold, &part, part_data);
        assert_true(pgqrsi_s3_lay_head(&cold));
        assert_memory_equal(cold.base.data, last, (size_t)pages * PAGE);
        assert_true(pgqrsi_s3_born(&cold.born, 1) == 3 && pgqrsi_s3_born(&cold.born, 7) == 6 && pgqrsi_s3_born(&cold.born, 9) == 6 &&
                    pgqrsi_s3_born(&cold.born, 11) == 3);
        /* A part too few shows. */
        memset(&warm, 0, sizeof(warm));
        warm.trailer = cold.trailer;
        assert_true(pgqrsi_s3_lay_begin(store, &warm, NULL));
        pgqrsi_s3_lay_part(&warm, &whole, first);
        assert_false(pgqrsi_s3_lay_head(&warm));
        assert_true(pgqrsi_s3_lay_begin(store, &warm, NULL));
        pgqrsi_s3_lay_part(&warm, &part, part_data);
        assert_false(pgqrsi_s3_lay_head(&warm));
        /* From what is known, all pages of another size of the file included. */
        memset(&grown, 0, sizeof(grown));
        grown.base.data = first;
        grown.trailer = cold.trailer;
        grown.trailer.page_count = PAGES;
        grown.trailer.sum = pgqrsi_s3_image_sum(first, PAGE, 0, PAGES);
        assert_true(pgqrsi_s3_reserve(store, &grown.born, PAGES * 8));
        for (uint32_t i = 0; i < PAGES; i++)
            pgqrsi_s3_set_born(&grown.born, i, 3);
        assert_true(pgqrsi_s3_lay_begin(store, &warm, &grown));
        pgqrsi_s3_lay_part(&warm, &part, part_data);
        assert_true(pgqrsi_s3_lay_head(&warm));
        assert_memory_equal(warm.base.data, last, (size_t)pages * PAGE);
        assert_memory_equal(warm.born.data, cold.born.data, (size_t)pages * 8);
        pgqrsi_s3_release(store, &grown.born);
        pgqrsi_s3_drop_version(store, &cold);
        pgqrsi_s3_drop_version(store, &warm);
    }
    pgqrs_close(store);
}

/* Over a long time: few parts, each page written a few times, and all in one when half of the file is new. */
static void test_merging(void **state)
{
    pgqrsi_s3_part parts[PGQRSI_S3_PARTS_MAX];
    uint32_t count = 1, most = 0, wholes = 0, i, k;
    uint64_t added = 0, written = 0;
    (void)state;
    parts[0] = part_of(1, 1, 1, 100000, PGQRSI_S3_WHOLE);
    for (i = 0; i < 30000; i++) { /* in the end the file can not be made anew */
        uint32_t from;
        parts[count++] = part_of(i, i, i, 10, PGQRSI_S3_PAGES);
        added += 10;
        from = pgqrsi_s3_choose_merge(parts, count, parts[0].pages, i < 20000);
        if (from < count && from > 0) {
            for (k = from + 1; k < count; k++)
                parts[from].pages += parts[k].pages;
            written += parts[from].pages;
            count = from + 1;
        } else if (from == 0) {
            count = 1;
            written += parts[0].pages;
            wholes++;
        }
        if (count > most) most = count;
    }
    if (most > 32 || written > 7 * added || wholes != 4) fail_msg("%u parts, %u wholes, %llu written", most, wholes, (unsigned long long)written);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),       cmocka_unit_test(test_sha256_in_pieces),
        cmocka_unit_test(test_hmac),         cmocka_unit_test(test_sha256_blocks), cmocka_unit_test(test_crc_of_every_length),
        cmocka_unit_test(test_crc),
        cmocka_unit_test(test_signatures),   cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_dates),        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_endpoints),    cmocka_unit_test(test_network_file_systems),
        cmocka_unit_test(test_reply_fields), cmocka_unit_test(test_reply_bodies),
        cmocka_unit_test(test_error_codes),  cmocka_unit_test(test_trailer),
        cmocka_unit_test(test_trailer_forgets), cmocka_unit_test(test_bad_objects),
        cmocka_unit_test(test_active_machines), cmocka_unit_test(test_yield),
        cmocka_unit_test(test_staged_head), cmocka_unit_test(test_line),         cmocka_unit_test(test_part),
        cmocka_unit_test(test_part_names),   cmocka_unit_test(test_heads),
        cmocka_unit_test(test_laying),       cmocka_unit_test(test_merging),
    };
    return cmocka_run_group_tests_name("unit_s3", tests, NULL, NULL);
}
