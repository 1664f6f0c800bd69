/* The S3 backend alone: what a store does to it, what other machines do, what it costs, and everything that is wrong from the start.
 * test targets: s3
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PGQRS_THREADS
#if defined(__linux__)
#include <sys/statfs.h>
/* What the library is told of the file system that the cache is on. */
static long pretended_file_system;
static int pretending_statfs(const char *path, struct statfs *out)
{
    int result = statfs(path, out);
    if (pretended_file_system)
        out->f_type = pretended_file_system;
    return result;
}
#define statfs(path, out) pretending_statfs(path, out)
#include <errno.h>
#include <sys/inotify.h>
static int pretended_no_inotify;
static int pretending_inotify(int flags)
{
    if (!pretended_no_inotify) return inotify_init1(flags);
    errno = EMFILE;
    return -1;
}
#define inotify_init1(flags) pretending_inotify(flags)
#endif
#include "support.h"

static void control(const char *lines)
{
    YES(s3_control(run.s3_server.port, lines));
}

static int64_t counted(const char *name)
{
    return s3_counter(run.s3_server.port, name);
}

static void object_path(char *out, size_t room)
{
    snprintf(out, room, "/_raw/%.600s", T.dsn + 5);
}

/* Writes the object past the library. */
static void overwrite(const void *data, size_t size)
{
    char path[700];
    object_path(path, sizeof(path));
    EQ(200, s3_raw(run.s3_server.port, "PUT", path, data, size, NULL));
}

static void remove_object(void)
{
    char path[700];
    int status;
    object_path(path, sizeof(path));
    status = s3_raw(run.s3_server.port, "DELETE", path, NULL, 0, NULL);
    YES(status == 200 || status == 204);
}

static s3_text object(void)
{
    s3_text body = {NULL, 0, 0, false};
    char path[700];
    object_path(path, sizeof(path));
    EQ(200, s3_raw(run.s3_server.port, "GET", path, NULL, 0, &body));
    return body;
}

/* Settings of another machine: a cache directory of its own. */
static pgqrs_s3_desc elsewhere;
static char elsewhere_cache[700];
static pgqrs_store_desc desc_elsewhere(void)
{
    pgqrs_store_desc desc = test_desc();
    elsewhere = *desc.s3;
    snprintf(elsewhere_cache, sizeof(elsewhere_cache), "%s/elsewhere", S3.cache);
    elsewhere.cache_dir = elsewhere_cache;
    desc.s3 = &elsewhere;
    return desc;
}

static pgqrs_store *store_elsewhere(void)
{
    pgqrs_store_desc desc = desc_elsewhere();
    return open_store(&desc);
}

/* Opens with the changed settings and expects this error. */
static pgqrs_error open_fails(const char *dsn, const pgqrs_s3_desc *s3, pgqrs_result want, const char *part)
{
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store;
    desc.s3 = s3;
    desc.connect_timeout_ms = 1000;
    store = pgqrs_open(dsn, &desc, &err);
    if (store) {
        pgqrs_close(store);
        fail_at(__FILE__, __LINE__, "%s was opened", dsn);
    }
    check_error(&err, want, dsn, __FILE__, __LINE__);
    check_text_names(err.message, part, dsn, __FILE__, __LINE__);
    return err;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Wrong from the start
 * --------------------------------------------------------------------------------------------------------------- */

static void bad_dsn_is_refused(void)
{
    static const char *const dsns[][2] = {
        {"s3:", "s3://bucket/key"},        {"s3://", "missing bucket"},      {"s3:///key", "missing bucket"},
        {"s3://bucket", "missing object"}, {"s3://bucket/", "missing object"}, {"s3://bu cket/key", "bucket"},
        {"s3://user:pw@bucket/k", "bucket"}, {"s3://bucket/a//b", "segment"}, {"s3://bucket/../k", "segment"},
        {"s3://bucket/k?x=1", "'?'"},
    };
    size_t i;
    for (i = 0; i < COUNT_OF(dsns); i++)
        open_fails(dsns[i][0], test_s3_desc(), PGQRS_ERR_BAD_DSN, dsns[i][1]);
}

static void settings_are_checked(void)
{
    pgqrs_s3_desc s3 = *test_s3_desc();
    open_fails(T.dsn, NULL, PGQRS_ERR_BAD_CONFIG, "http");
    s3.http.exchange = NULL;
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "http");
    s3 = *test_s3_desc();
    s3.deadline_ms = -1;
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "pgqrs_s3_desc");
    s3 = *test_s3_desc();
    s3.endpoint = "http://user:" "secret-of-the-tests" "@host";
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "endpoint");
    s3 = *test_s3_desc();
    s3.secret_key = NULL;
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "AWS_ACCESS_KEY_ID");
    s3.secret_key = "secret-of-the-tests\r\nX-Evil: 1";
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "line break");
}

/* The last value of each setting that is taken, and the first that is not. */
static void limits_of_settings_are_checked(void)
{
    static const struct {
        size_t at;
        int64_t least, most; /* taken; 0: a default */
    } numbers[] = {{offsetof(pgqrs_s3_desc, request_timeout_ms), 0, 86400000}, {offsetof(pgqrs_s3_desc, deadline_ms), 0, 86400000},
                   {offsetof(pgqrs_s3_desc, heartbeat_ms), -1, 86400000},      {offsetof(pgqrs_s3_desc, idle_heartbeat_ms), -1, 86400000},
                   {offsetof(pgqrs_s3_desc, idle_ms), 0, 86400000},            {offsetof(pgqrs_s3_desc, max_object_bytes), 0, INT64_C(1) << 30},
                   {offsetof(pgqrs_s3_desc, split_bytes), -1, INT64_MAX}};
    pgqrs_s3_desc s3;
    pgqrs_store_desc desc = test_desc();
    char text[2000];
    desc.s3 = &s3;
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        for (int side = 0; side < 2; side++) {
            int64_t *value = (int64_t *)(void *)((char *)&s3 + numbers[i].at);
            s3 = *test_s3_desc();
            *value = side ? numbers[i].most : numbers[i].least;
            close_store(open_store(&desc));
            if (*value == INT64_MAX)
                continue;
            *value += side ? 1 : -1;
            open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "pgqrs_s3_desc");
        }
    s3 = *test_s3_desc();
    memset(text, 'k', sizeof(text));
    text[300] = '\0';
    s3.access_key = text;
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "too long");
    s3.access_key = "test";
    s3.secret_key = text;
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "too long");
    s3 = *test_s3_desc();
    s3.region = text;
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "too long");
    s3.region = "us east";
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "white space");
    s3 = *test_s3_desc();
    s3.session_token = "a\nb";
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "line break");
    s3.session_token = NULL;
    memset(text, 'b', sizeof(text));
    memcpy(text, "s3://", 5);
    memcpy(text + 5 + 256, "/key", 5);
    open_fails(text, &s3, PGQRS_ERR_BAD_DSN, "255");
    memset(text, 'k', sizeof(text));
    memcpy(text, "s3://b/", 7);
    text[7 + 1025] = '\0';
    open_fails(text, &s3, PGQRS_ERR_BAD_DSN, "1024");
    open_fails("s3://bucket/a~#b", &s3, PGQRS_ERR_BAD_DSN, "'#'");
    open_fails("s3://buc~ket/a", &s3, PGQRS_ERR_BAD_DSN, "bucket");
}

#define SESSION_TOKEN "token-of-the-tests-that-nobody-may-see"

/* Temporary credentials: from the settings, from the environment; a wrong one and none are refused, and none is shown. */
static void session_token_is_sent(void)
{
    pgqrs_s3_desc s3 = *test_s3_desc();
    pgqrs_store_desc desc = test_desc();
    control("token=" SESSION_TOKEN);
    open_fails(T.dsn, &s3, PGQRS_ERR_ACCESS_DENIED, "AWS_SESSION_TOKEN");
    s3.session_token = "another-token";
    NO(strstr(open_fails(T.dsn, &s3, PGQRS_ERR_ACCESS_DENIED, "AWS_SESSION_TOKEN").message, "another-token") != NULL);
    s3.session_token = SESSION_TOKEN;
    desc.s3 = &s3;
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    close_store(T.store);
    s3.access_key = s3.secret_key = s3.session_token = NULL;
    setenv("AWS_ACCESS_KEY_ID", "test", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests", 1);
    setenv("AWS_SESSION_TOKEN", SESSION_TOKEN, 1);
    T.store = open_store(&desc);
    OK(pgqrs_verify(T.store));
    unsetenv("AWS_ACCESS_KEY_ID");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    unsetenv("AWS_SESSION_TOKEN");
    control("token=");
}

static struct canned {
    int status;
    const char *name, *value; /* a field; NULL: none */
    const char *body;
    pgqrs_result want;
    const char *part; /* of the message */
} const *canned;

static int canned_reply(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    (void)user;
    (void)request;
    if (canned->name)
        pgqrs_http_reply_field(reply, canned->name, strlen(canned->name), canned->value, strlen(canned->value));
    pgqrs_http_reply_body(reply, canned->body, strlen(canned->body));
    return canned->status;
}

#define ERROR_OF(code) "<Error><Code>" code "</Code></Error>"

/* What each kind of reply to the first question says to whoever opens the store. */
static void every_reply_has_its_message(void)
{
    static const char malformed[] = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>us-east-1</Region></Error>";
    static const struct canned cases[] = {
        {401, NULL, NULL, "", PGQRS_ERR_ACCESS_DENIED, "401"},
        {400, NULL, NULL, ERROR_OF("InvalidToken"), PGQRS_ERR_ACCESS_DENIED, "AWS_SESSION_TOKEN"},
        {403, NULL, NULL, ERROR_OF("AccessDenied"), PGQRS_ERR_ACCESS_DENIED, "s3:ListBucket"},
        {403, "x-amz-bucket-region", "eu-west-1", ERROR_OF("AccessDenied"), PGQRS_ERR_ACCESS_DENIED, "s3:ListBucket"},
        {403, NULL, NULL, ERROR_OF("RequestTimeTooSkewed"), PGQRS_ERR_ACCESS_DENIED, "clocks"},
        {404, NULL, NULL, ERROR_OF("NoSuchBucket"), PGQRS_ERR_BAD_DSN, "no bucket"},
        {307, "x-amz-bucket-region", "eu-west-1", "", PGQRS_ERR_BAD_CONFIG, "to eu-west-1"},
        {308, NULL, NULL, "", PGQRS_ERR_BAD_CONFIG, "AWS_ENDPOINT_URL_S3"},
        {400, NULL, NULL, malformed, PGQRS_ERR_DATABASE, "AuthorizationHeaderMalformed"}, /* that is our region: something else */
        {400, "x-amz-bucket-region", "", malformed, PGQRS_ERR_DATABASE, "HTTP 400"},
        {400, NULL, NULL, ERROR_OF("RequestTimeout"), PGQRS_ERR_CONNECTION, "RequestTimeout"},
        {408, NULL, NULL, "", PGQRS_ERR_CONNECTION, "408"},
        {500, "x-amz-bucket-region", "eu-west-1", "", PGQRS_ERR_CONNECTION, "500"},
        {501, NULL, NULL, "", PGQRS_ERR_DATABASE, "501"},
        {505, NULL, NULL, "", PGQRS_ERR_DATABASE, "505"},
        {429, "Retry-After", "7200", "", PGQRS_ERR_BUSY, "429"},
        {206, NULL, NULL, "", PGQRS_ERR_DATABASE, "206"},
        {200, "content-length", "5", "SQLite", PGQRS_ERR_CONNECTION, "no answer"},
        {200, NULL, NULL, "no SQLite file", PGQRS_ERR_DATABASE, "not a SQLite file"},
        {400, NULL, NULL, ERROR_OF("With space"), PGQRS_ERR_DATABASE, "HTTP 400 With"},
        {400, NULL, NULL, "<Error><Code>NoEnd", PGQRS_ERR_DATABASE, "NoEnd"},
    };
    pgqrs_s3_desc s3 = *test_s3_desc();
    s3.http.exchange = canned_reply;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        canned = &cases[i];
        open_fails(T.dsn, &s3, cases[i].want, cases[i].part);
    }
    s3.max_object_bytes = 1; /* and 64 KiB for what belongs to a reply */
    {
        static char body[70000];
        static struct canned large = {200, NULL, NULL, body, PGQRS_ERR_FULL, "max_object_bytes"};
        memset(body, 'x', sizeof(body) - 1);
        canned = &large;
        open_fails(T.dsn, &s3, large.want, large.part);
    }
}

static void environment_is_read(void)
{
    pgqrs_s3_desc s3 = *test_s3_desc();
    pgqrs_store_desc desc = test_desc();
    s3.access_key = s3.secret_key = s3.region = s3.endpoint = NULL;
    desc.s3 = &s3;
    unsetenv("AWS_ACCESS_KEY_ID");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    unsetenv("AWS_SESSION_TOKEN");
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "AWS_ACCESS_KEY_ID");
    setenv("AWS_ACCESS_KEY_ID", "test", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests", 1);
    setenv("AWS_DEFAULT_REGION", "us-east-1", 1);
    setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1", 1);
    setenv("AWS_ENDPOINT_URL_S3", run.s3_endpoint, 1);
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    unsetenv("AWS_ACCESS_KEY_ID");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    unsetenv("AWS_DEFAULT_REGION");
    unsetenv("AWS_ENDPOINT_URL");
    unsetenv("AWS_ENDPOINT_URL_S3");
}

static void refusals_of_the_store_are_told_apart(void)
{
    pgqrs_s3_desc s3 = *test_s3_desc();
    s3.secret_key = "not-the-secret-of-the-tests";
    open_fails(T.dsn, &s3, PGQRS_ERR_ACCESS_DENIED, "SignatureDoesNotMatch");
    s3 = *test_s3_desc();
    s3.access_key = "nobody";
    open_fails(T.dsn, &s3, PGQRS_ERR_ACCESS_DENIED, "InvalidAccessKeyId");
    open_fails("s3://no-such-bucket/key", test_s3_desc(), PGQRS_ERR_BAD_DSN, "no-such-bucket");
    s3 = *test_s3_desc();
    s3.region = "eu-north-1"; /* 400 AuthorizationHeaderMalformed, which names the right one */
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "AWS_REGION (pgqrs_s3_desc.region) to us-east-1");
    control("moved=ap-south-1"); /* 301 PermanentRedirect */
    open_fails(T.dsn, test_s3_desc(), PGQRS_ERR_BAD_CONFIG, "AWS_REGION (pgqrs_s3_desc.region) to ap-south-1");
    control("moved=us-east-1"); /* the region is right: it is the endpoint */
    open_fails(T.dsn, test_s3_desc(), PGQRS_ERR_BAD_CONFIG, "AWS_ENDPOINT_URL_S3");
    control("moved=");
}

/* A second is enough for a connection that is refused, whatever the other times are; a server that says nothing gets all of them. */
static void endpoint_without_a_server_is_found_out_soon(void)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_s3_desc s3 = *desc.s3;
    pgqrs_error err;
    int64_t begin_ms = monotonic_ms(), took_ms;
    desc.s3 = &s3;
    desc.connect_timeout_ms = 20000;
    s3.endpoint = "http://127.0.0.1:1";
    YES(pgqrs_open(T.dsn, &desc, &err) == NULL);
    took_ms = monotonic_ms() - begin_ms;
    check_error(&err, PGQRS_ERR_CONNECTION, "open", __FILE__, __LINE__);
    check_text_names(err.message, "http://127.0.0.1:1", "open", __FILE__, __LINE__);
    check_text_names(err.message, "AWS_ENDPOINT_URL_S3", "open", __FILE__, __LINE__);
    BETWEEN(900, 6000, took_ms);
    s3.endpoint = run.s3_endpoint;
    desc.connect_timeout_ms = 3100; /* whatever the pauses between tries are, the last one ends after more than 1.2 s */
    control("error_before=1.0");
    begin_ms = monotonic_ms();
    YES(pgqrs_open(T.dsn, &desc, &err) == NULL);
    took_ms = monotonic_ms() - begin_ms;
    control("error_before=0");
    check_error(&err, PGQRS_ERR_CONNECTION, "open", __FILE__, __LINE__);
    YES(took_ms > 1100);
}

/* The server is away for longer than that second while the store is in use: its calls go by deadline_ms. */
static int exchange_refused_until_ms(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    return monotonic_ms() < *(int64_t *)user ? -1 : s3_exchange_plain(request, reply);
}

static void refused_connections_of_an_open_store_are_waited_out(void)
{
    pgqrs_store_desc desc = real_time_desc();
    int64_t until_ms;
    close_store(T.store);
    T.store = open_store(&desc);
    until_ms = monotonic_ms() + 1300;
    S3.instead.exchange = exchange_refused_until_ms;
    S3.instead.user = &until_ms;
    put();
    S3.instead.exchange = NULL;
    YES(monotonic_ms() >= until_ms);
    NUMBERS(1, 0, 0, 0, 0);
}

static int nonsense_status;
static int nonsense(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    (void)user;
    (void)request;
    pgqrs_http_reply_field(reply, "", 0, "", 0);
    pgqrs_http_reply_field(reply, "content-length", 14, "x", 1);
    pgqrs_http_reply_body(reply, "nonsense", 8);
    return nonsense_status;
}

static void nonsense_from_the_callback_is_an_error(void)
{
    static const struct {
        int status;
        pgqrs_result want;
    } cases[] = {{0, PGQRS_ERR_CONNECTION},     {-5, PGQRS_ERR_CONNECTION}, {7, PGQRS_ERR_CONNECTION},
                 {99999, PGQRS_ERR_CONNECTION}, {500, PGQRS_ERR_CONNECTION}, {200, PGQRS_ERR_DATABASE},
                 {418, PGQRS_ERR_DATABASE},     {301, PGQRS_ERR_BAD_CONFIG}, {304, PGQRS_ERR_DATABASE},
                 {503, PGQRS_ERR_BUSY}};
    pgqrs_s3_desc s3 = *test_s3_desc();
    size_t i;
    s3.http.exchange = nonsense;
    for (i = 0; i < COUNT_OF(cases); i++) {
        nonsense_status = cases[i].status;
        open_fails(T.dsn, &s3, cases[i].want, "s3://");
    }
}

static void cache_directory_must_be_usable(void)
{
    pgqrs_s3_desc s3 = *test_s3_desc();
    char *home = getenv("HOME"), *kept = home ? strdup(home) : NULL, *cache = getenv("XDG_CACHE_HOME");
    char *kept_cache = cache ? strdup(cache) : NULL;
    s3.cache_dir = "/dev/null/cache";
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "/dev/null/cache");
    s3.cache_dir = NULL;
    unsetenv("HOME");
    unsetenv("XDG_CACHE_HOME");
    open_fails(T.dsn, &s3, PGQRS_ERR_BAD_CONFIG, "XDG_CACHE_HOME");
    if (kept)
        setenv("HOME", kept, 1);
    if (kept_cache)
        setenv("XDG_CACHE_HOME", kept_cache, 1);
    free(kept);
    free(kept_cache);
}

#if defined(__linux__)
static void cache_directory_on_a_network_file_system_is_refused(void)
{
    static const long systems[] = {0x6969, 0x517b, (long)0xff534d42, (long)0xfe534d42}; /* NFS, SMB, CIFS, SMB2 */
    size_t i;
    for (i = 0; i < COUNT_OF(systems); i++) {
        pretended_file_system = systems[i];
        open_fails(T.dsn, test_s3_desc(), PGQRS_ERR_BAD_CONFIG, "network file system");
    }
    pretended_file_system = 0x9fa0; /* any other */
    T.store = open_store(NULL);
    pretended_file_system = 0;
}
#endif

/* Root may write everywhere, so the child becomes somebody else. */
static int open_where_nothing_can_be_written(void *user)
{
    pgqrs_s3_desc s3 = *test_s3_desc();
    pgqrs_store_desc desc = test_desc();
    pgqrs_error err;
    pgqrs_store *store;
    if (geteuid() == 0 && setuid(65534) != 0)
        return 2;
    s3.cache_dir = (const char *)user;
    desc.s3 = &s3;
    store = pgqrs_open(T.dsn, &desc, &err);
    if (!store && err.code == PGQRS_ERR_BAD_CONFIG && strstr(err.message, s3.cache_dir))
        return 0;
    fprintf(stderr, "# child: %s\n", store ? "it was opened" : err.message);
    pgqrs_close(store);
    return 1;
}

static void cache_directory_that_cannot_be_written_is_refused(void)
{
    char place[] = "/tmp/pgqrs-read-only.XXXXXX";
    pid_t child;
    assert_non_null(mkdtemp(place));
    assert_int_equal(chmod(place, 0555), 0);
    child = start_child(open_where_nothing_can_be_written, place);
    child_ended_well(child);
    assert_int_equal(rmdir(place), 0);
}

static int64_t total(void)
{
    return count_where((pgqrs_message_filter){.queue = T.queue});
}

/* A store without a Date, whose clock is another one: there is nothing to set ours by. */
static void clock_skew_that_the_store_refuses_is_an_error(void)
{
    pgqrs_s3_desc s3 = *test_s3_desc();
    pgqrs_store *store = T.store;
    int64_t before = total(), skewed;
    control("date=0\nclock_s=7200");
    s3.deadline_ms = 1000;
    open_fails(T.dsn, &s3, PGQRS_ERR_ACCESS_DENIED, "clocks");
    T.store = store;
    FAILS_NAMING(ERR_ACCESS_DENIED, "clocks", pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, NULL));
    skewed = counted("status.403");
    YES(skewed >= 2);
    control("date=1\nclock_s=0");
    EQ(before, total());
    put();
    EQ(before + 1, total());
}

static int nonsense_of_puts(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    return strcmp(request->method, "PUT") == 0 ? nonsense(user, request, reply) : s3_exchange_plain(request, reply);
}

/* Whatever the function says about a commit that it never sent, the object tells. */
static void nonsense_about_a_commit_loses_nothing(void)
{
    static const int statuses[] = {200, 201, 204, 7, -5, 99999, 304, 301, 404, 412, 409, 418, 500};
    size_t i;
    for (i = 0; i < COUNT_OF(statuses); i++) {
        int64_t before = total();
        pgqrs_result result;
        nonsense_status = statuses[i];
        S3.instead.exchange = nonsense_of_puts;
        result = pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, NULL);
        S3.instead.exchange = NULL;
        if (result == PGQRS_OK || result == PGQRS_ERR_INTERNAL)
            fail_at(__FILE__, __LINE__, "status %d was %s", statuses[i], pgqrs_result_name(result));
        check_error(pgqrs_last_error(T.store), result, "enqueue", __FILE__, __LINE__);
        EQ(before, total());
        put();
        EQ(before + 1, total());
    }
}

/* The key may read, and no more; or the session token has run out: each while the store is open. */
static void refusals_while_the_store_is_open_change_nothing(void)
{
    int64_t before = total();
    control("read_only=1");
    FAILS_NAMING(ERR_ACCESS_DENIED, "403", pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, NULL));
    EQ(before, total());
    control("read_only=0\nexpired=1");
    FAILS_NAMING(ERR_ACCESS_DENIED, "ExpiredToken", pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, NULL));
    control("expired=0");
    EQ(before, total());
    put();
    EQ(before + 1, total());
}

static void object_that_is_not_ours_is_refused(void)
{
    s3_text good = object();
    char *copy = (char *)malloc(good.size + 10);
    size_t image = pgqrsi_s3_image_size((unsigned char *)good.data, good.size);
    assert_non_null(copy);
    overwrite("<html>not a database</html>", 27);
    FAILS_NAMING(ERR_OUTCOME_UNKNOWN, "not a SQLite file", pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    FAILS_NAMING(ERR_DATABASE, "no", pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    overwrite("", 0);
    FAILS_NAMING(ERR_DATABASE, "not a SQLite file", pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    memcpy(copy, good.data, good.size);
    copy[image] = 'x';
    overwrite(copy, good.size);
    FAILS_NAMING(ERR_DATABASE, "VACUUM INTO", pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    memcpy(copy, good.data, good.size);
    copy[image + 8] = 3;
    overwrite(copy, good.size);
    FAILS_NAMING(ERR_SCHEMA_NEWER, "newer", pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    copy[image + 8] = 1;
    copy[200] ^= 1;
    overwrite(copy, good.size);
    FAILS_NAMING(ERR_DATABASE, "damaged", pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    /* Nothing of this was made worse, and with the right object back all is well. */
    overwrite(good.data, good.size);
    put();
    s3_free(&good);
    free(copy);
}

static void sqlite_file_that_was_uploaded_is_taken_over(void)
{
    static unsigned char data[1 << 20];
    pgqrs_store_desc desc = test_desc();
    pgqrs_error err;
    char dsn[700];
    FILE *file;
    size_t size;
    pgqrs_store *local;
    snprintf(dsn, sizeof(dsn), "sqlite://%s", T.file);
    local = pgqrs_open(dsn, &desc, &err);
    assert_non_null(local);
    OK_ON(local, pgqrs_install(local));
    OK_ON(local, pgqrs_queue_create(local, T.queue, NULL));
    OK_ON(local, pgqrs_enqueue(local, T.queue, "17", NULL, NULL));
    pgqrs_close(local);
    file = fopen(T.file, "rb");
    assert_non_null(file);
    size = fread(data, 1, sizeof(data), file);
    fclose(file);
    overwrite(data, size); /* its header still says WAL */
    T.store = open_store(NULL);
    OK(pgqrs_enqueue(T.store, T.queue, "18", NULL, NULL));
    SAME("17", must_take()->payload);
    SAME("18", must_take()->payload);
    OK(pgqrs_verify(T.store));
}

/* A store that accepts conditions and ignores them is found out by the first who wants to write. */
static void store_that_ignores_conditions_is_refused(void)
{
    static const char *const honour[] = {"honour=none", "honour=if_none_match", "honour=if_match"};
    size_t i;
    for (i = 0; i < COUNT_OF(honour); i++) {
        control(honour[i]);
        FAILS_NAMING(ERR_UNSUPPORTED, "does not honour", pgqrs_install(T.store));
        FAILS_NAMING(ERR_UNSUPPORTED, "does not honour", pgqrs_queue_create(T.store, T.queue, NULL));
        control("honour=both");
        close_store(T.store);
        remove_object();
        {
            char command[800];
            snprintf(command, sizeof(command), "rm -rf '%s'", S3.cache);
            EQ(0, system(command));
        }
        T.store = open_store(NULL);
    }
    OK(pgqrs_install(T.store));
}

/* ------------------------------------------------------------------------------------------------------------------
 * The object's life
 * --------------------------------------------------------------------------------------------------------------- */

static void object_is_made_by_install_alone(void)
{
    int32_t version = -1;
    OK(pgqrs_schema_version(T.store, &version));
    EQ(0, version);
    FAILS(ERR_SCHEMA_MISSING, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_queue_create(T.store, T.queue, NULL));
    control("counters=0");
    EQ(0, counted("requests.PUT"));
    OK(pgqrs_install(T.store));
    EQ(3, counted("requests.PUT")); /* and the two that must fail */
    OK(pgqrs_install(T.store));
    EQ(3, counted("requests.PUT"));
    FAILS(ERR_OBJECT_EXISTS, pgqrs_s3_bootstrap(T.store));
    put_into((OK(pgqrs_queue_create(T.store, T.queue, NULL)), T.queue), "1", (pgqrs_enqueue_desc){0});
    NUMBERS(1, 0, 0, 0, 0);
}

static void bootstrap_is_only_for_s3(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite::memory:", NULL, &err);
    FAILS_ON(store, ERR_UNSUPPORTED, pgqrs_s3_bootstrap(store));
    pgqrs_close(store);
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_s3_bootstrap(NULL));
}

static void deleted_object_is_an_error_and_stays_deleted(void)
{
    pgqrs_message *message = NULL;
    pgqrs_message_filter filter;
    int64_t count;
    char path[700];
    put();
    remove_object();
    memset(&filter, 0, sizeof(filter));
    FAILS(ERR_OBJECT_GONE, pgqrs_message_count(T.store, &filter, &count));
    FAILS(ERR_OBJECT_GONE, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    FAILS(ERR_OBJECT_GONE, pgqrs_dequeue(T.store, T.queue, NULL, &message));
    FAILS(ERR_OBJECT_GONE, pgqrs_install(T.store));
    /* Nor does a store that only knows it from the cache. */
    close_store(T.store);
    T.store = open_store(NULL);
    FAILS(ERR_OBJECT_GONE, pgqrs_install(T.store));
    object_path(path, sizeof(path));
    EQ(404, s3_raw(run.s3_server.port, "GET", path, NULL, 0, NULL));
    OK(pgqrs_s3_bootstrap(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    put();
    NUMBERS(1, 0, 0, 0, 0);
}

static void object_is_a_sqlite_file(void)
{
    char text[64];
    put();
    put();
    raw_query("PRAGMA integrity_check", text, sizeof(text));
    SAME("ok", text);
    EQ(2, raw_int("SELECT count(*) FROM pgqrs_message_view"));
}

/* ------------------------------------------------------------------------------------------------------------------
 * Other machines
 * --------------------------------------------------------------------------------------------------------------- */

static void conflicts_are_not_seen(void)
{
    pgqrs_store *other = store_elsewhere();
    int64_t ids[20];
    size_t i, j;
    for (i = 0; i < COUNT_OF(ids); i++) {
        pgqrs_receipt receipt;
        pgqrs_store *store = i % 2 ? other : T.store;
        OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, &receipt));
        ids[i] = receipt.id;
        for (j = 0; j < i; j++)
            YES(ids[i] > ids[j]);
    }
    NUMBERS(20, 0, 0, 0, 0);
    YES(counted("status.412") > 0);
    for (i = 0; i < COUNT_OF(ids); i++)
        EQ(ids[i], take_with(i % 2 ? T.store : other, T.queue, (pgqrs_dequeue_desc){0})->id);
}

/* What one machine knows may be old; what it says may not. */
static void answers_are_about_the_newest_version(void)
{
    pgqrs_store *other = store_elsewhere();
    const pgqrs_message *message;
    int64_t id;
    pgqrs_receipt receipt;
    OK(pgqrs_queue_create(T.store, "late", NULL));
    OK_ON(other, pgqrs_enqueue(other, "late", "1", NULL, NULL));
    id = put();
    YES(take_with(other, T.queue, (pgqrs_dequeue_desc){0})->id == id);
    YES(take() == NULL);
    OK_ON(other, pgqrs_enqueue(other, T.queue, "2", &(pgqrs_enqueue_desc){.dedup_key = "k"}, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "2", &(pgqrs_enqueue_desc){.dedup_key = "k"}, &receipt));
    YES(receipt.duplicate);
    message = must_take();
    OK(pgqrs_archive(T.store, message));
    FAILS_ON(other, ERR_LEASE_LOST, pgqrs_archive(other, message));
    OK_ON(other, pgqrs_queue_pause(other, T.queue));
    put();
    YES(take() == NULL);
}

typedef struct transfer {
    pgqrs_store *other;
    int bodies;
} transfer;

static pgqrs_result move_money(pgqrs_run *r, void *user)
{
    transfer *t = (transfer *)user;
    pgqrs_step_desc desc = {.transaction = true};
    if (pgqrs_step_with(r, "move", &desc, NULL)) {
        sqlite3 *db = (sqlite3 *)pgqrs_run_sqlite3(r);
        if (t->bodies++ == 0) /* another machine commits in the middle of it */
            OK_ON(t->other, pgqrs_enqueue(t->other, "elsewhere", "1", NULL, NULL));
        EQ(SQLITE_OK, sqlite3_exec(db, "INSERT INTO ledger VALUES (1)", NULL, NULL, NULL));
        pgqrs_step_done(r, NULL);
    }
    return pgqrs_run_return(r, NULL);
}

static void transactional_step_meets_another_machine(void)
{
    transfer t = {store_elsewhere(), 0};
    pgqrs_workflow_entry entry;
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id;
    int i;
    raw_exec("CREATE TABLE ledger(n INTEGER)");
    OK(pgqrs_queue_create(T.store, "elsewhere", NULL));
    OK(pgqrs_workflow_create(T.store, T.flow, &desc));
    id = trigger();
    entry.workflow = T.flow;
    entry.handler = move_money;
    entry.user = &t;
    for (i = 0; i < 5 && look_run(id)->state != PGQRS_RUN_SUCCESS; i++) {
        serve_entries(T.store, &entry, 1);
        advance_ms(60000);
    }
    RUN("success", id);
    EQ(2, t.bodies);
    EQ(1, raw_int("SELECT count(*) FROM ledger"));
    EQ(1, numbers_of("elsewhere").ready);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Faults of the store
 * --------------------------------------------------------------------------------------------------------------- */

static const char *const faults[] = {"reset",     "late",       "slow",     "error_before", "busy",     "slow_down",
                                     "conflict",  "false_412",  "stale",    "lost_reply",   "slow_reply", "error_after",
                                     "own_412",   "cut_head",   "garbage",  "truncated",    "shortened", "corrupted"};

static void no_more_faults(void)
{
    char lines[64];
    size_t i;
    for (i = 0; i < COUNT_OF(faults); i++) {
        snprintf(lines, sizeof(lines), "%s=0", faults[i]);
        control(lines);
    }
}

/* With each fault once and three times in a row, in a commit, with another machine's commit before it and without: one message comes
 * into the queue, under the id that was returned, and leaves it once. */
static void single_faults_do_no_harm(void)
{
    pgqrs_store *other = store_elsewhere();
    char lines[64];
    size_t i;
    int times, foreign;
    control("late_ms=30\nslow_ms=30\nretry_after=0");
    for (i = 0; i < COUNT_OF(faults); i++)
        for (times = 1; times <= 3; times += 2)
            for (foreign = 0; foreign < 2; foreign++) {
                pgqrs_receipt receipt;
                const pgqrs_message *message;
                if (foreign)
                    OK_ON(other, pgqrs_enqueue(other, T.queue, "\"other\"", NULL, NULL));
                snprintf(lines, sizeof(lines), "%s=x%d", faults[i], times);
                control(lines);
                OK(pgqrs_enqueue(T.store, T.queue, "\"mine\"", NULL, &receipt));
                control(lines);
                if (foreign) {
                    message = must_take();
                    SAME("\"other\"", message->payload);
                    OK(pgqrs_archive(T.store, message));
                }
                message = must_take();
                SAME("\"mine\"", message->payload);
                EQ(receipt.id, message->id);
                control(lines);
                OK(pgqrs_archive(T.store, message));
                no_more_faults();
                YES(take() == NULL);
                NUMBERS(0, 0, 0, (int64_t)(i * 6) + (times == 3 ? 3 : 0) + (foreign ? 3 : 1), 0);
            }
    OK(pgqrs_verify(T.store));
}

/* 12 % of everything goes wrong, in each way. */
static void many_faults_do_no_harm(void)
{
    pgqrs_store *other = store_elsewhere();
    char lines[64];
    int64_t ids[150];
    bool seen[150] = {false};
    size_t i, j, taken = 0;
    control("late_ms=20\nslow_ms=20\nretry_after=0");
    for (i = 0; i < COUNT_OF(faults); i++) {
        snprintf(lines, sizeof(lines), "%s=0.007", faults[i]);
        control(lines);
    }
    for (i = 0; i < COUNT_OF(ids); i++) {
        pgqrs_store *store = i % 3 ? T.store : other;
        pgqrs_receipt receipt;
        OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, &receipt));
        ids[i] = receipt.id;
    }
    while (taken < COUNT_OF(ids)) {
        pgqrs_store *store = taken % 2 ? T.store : other;
        const pgqrs_message *message = take_with(store, T.queue, (pgqrs_dequeue_desc){0});
        YES(message != NULL);
        for (j = 0; j < COUNT_OF(ids) && ids[j] != message->id; j++)
            continue;
        YES(j < COUNT_OF(ids) && !seen[j]);
        seen[j] = true;
        taken++;
        OK_ON(store, pgqrs_archive(store, message));
    }
    no_more_faults();
    NUMBERS(0, 0, 0, COUNT_OF(ids), 0);
    OK(pgqrs_verify(T.store));
}

/* It sleeps by the clock of the test, so what its deadline costs is requests and no time; what else takes time may take some. */
static pgqrs_store *impatient_store(void)
{
    pgqrs_store_desc desc = test_desc();
    static pgqrs_s3_desc s3;
    s3 = *desc.s3;
    s3.deadline_ms = 5000;
    s3.request_timeout_ms = 5000;
    desc.s3 = &s3;
    close_store(T.store);
    T.store = open_store(&desc);
    return T.store;
}

/* The reply is lost, and nobody can be asked: unknown. The next call finds out first, and goes on from there. */
static void outcome_that_cannot_be_known_is_said_to_be(void)
{
    int64_t id;
    impatient_store();
    control("lost_reply=PUT:x1\nerror_before=GET:1.0");
    FAILS(ERR_OUTCOME_UNKNOWN, pgqrs_enqueue(T.store, T.queue, "\"first\"", NULL, NULL));
    no_more_faults();
    id = put();
    NUMBERS(2, 0, 0, 0, 0);
    SAME("\"first\"", must_take()->payload);
    EQ(id, must_take()->id);
    /* The other way: it was not carried out. */
    control("reset=PUT:x1\nerror_before=GET:1.0");
    FAILS(ERR_OUTCOME_UNKNOWN, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    no_more_faults();
    NUMBERS(0, 0, 2, 0, 0);
}

/* Carried out, and a 412: a proxy sent it twice. Whoever cannot look after that, or cannot read what there is, does not know. */
static void refusal_without_a_look_says_nothing(void)
{
    static const char *const bad_looks[] = {"error_before=GET:1.0", "reset=GET:1.0", "corrupted=GET:1.0", "shortened=GET:1.0"};
    size_t i;
    for (i = 0; i < COUNT_OF(bad_looks); i++) {
        int64_t id;
        impatient_store();
        control("own_412=PUT:x1");
        control(bad_looks[i]);
        FAILS(ERR_OUTCOME_UNKNOWN, pgqrs_enqueue(T.store, T.queue, "\"first\"", NULL, NULL));
        no_more_faults();
        id = put();
        NUMBERS(2, 0, 2 * (int64_t)i, 0, 0);
        SAME("\"first\"", must_take()->payload);
        EQ(id, must_take()->id);
    }
}

/* Given up, and carried out later, also behind the back of the next one. */
static void put_that_comes_late_is_no_harm(void)
{
    int64_t before, after;
    impatient_store();
    control("late_ms=250\nlate=PUT:1.0\nerror_before=GET:1.0");
    FAILS(ERR_OUTCOME_UNKNOWN, pgqrs_enqueue(T.store, T.queue, "\"late\"", NULL, NULL));
    no_more_faults();
    before = put();
    sleep_ms(400);
    after = put();
    YES(after > before);
    BETWEEN(2, 3, numbers().ready);
    OK(pgqrs_verify(T.store));
}

/* It may have been damaged on its way: the object is called damaged only when there was time to ask again. */
static void damaged_reply_is_no_verdict(void)
{
    static const char *const damage[] = {"corrupted=GET:1.0", "shortened=GET:1.0"};
    pgqrs_s3_desc s3 = *desc_elsewhere().s3; /* with nothing cached */
    size_t i;
    for (i = 0; i < COUNT_OF(damage); i++) {
        control(damage[i]);
        s3.deadline_ms = 9; /* less than any pause before another try */
        s3.request_timeout_ms = 500;
        open_fails(T.dsn, &s3, PGQRS_ERR_CONNECTION, i == 0 ? "damaged" : "s3://");
        s3.deadline_ms = 3000;
        open_fails(T.dsn, &s3, PGQRS_ERR_DATABASE, i == 0 ? "damaged" : "s3://");
        no_more_faults();
    }
}

static void store_that_is_away_is_an_error(void)
{
    int64_t count;
    pgqrs_message_filter filter;
    memset(&filter, 0, sizeof(filter));
    impatient_store();
    control("busy=PUT:1.0");
    FAILS(ERR_BUSY, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    control("busy=0\nerror_before=1.0");
    FAILS(ERR_CONNECTION, pgqrs_message_count(T.store, &filter, &count));
    FAILS(ERR_OUTCOME_UNKNOWN, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    control("error_before=0\nslow_down=1.0");
    FAILS(ERR_BUSY, pgqrs_message_count(T.store, &filter, &count));
    control("slow_down=0\nread_only=1");
    FAILS(ERR_ACCESS_DENIED, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    control("read_only=0");
    put();
    NUMBERS(1, 0, 0, 0, 0);
}

static void etags_may_be_compared_without_their_quotes(void)
{
    int64_t puts;
    control("match=bare");
    put();
    put();
    control("counters=0");
    put();
    puts = counted("requests.PUT");
    EQ(1, puts); /* once found out it is known */
    close_store(T.store);
    T.store = open_store(NULL);
    control("counters=0");
    put();
    EQ(1, counted("requests.PUT"));
    control("match=any");
    put();
    NUMBERS(5, 0, 0, 0, 0);
}

static void etags_may_look_otherwise(void)
{
    control("etag=bare");
    put();
    control("etag=quoted\netag_from=version");
    put();
    put();
    control("etag_from=content\nabsent_match=412");
    put();
    control("absent_match=404");
    NUMBERS(4, 0, 0, 0, 0);
}

/* One commit per second and key: slower, and nothing else. */
static void pace_of_the_store_is_kept(void)
{
    pgqrs_store_desc desc = real_time_desc();
    int i;
    close_store(T.store);
    T.store = open_store(&desc);
    control("write_interval_ms=40\nretry_after=0");
    for (i = 0; i < 8; i++)
        put();
    control("write_interval_ms=0");
    NUMBERS(8, 0, 0, 0, 0);
}

/* Replies tell whole seconds, and what took its time on the way here is late by as much. */
static void check_clock_ahead(int64_t want_s, int64_t store_us, int64_t begin_us)
{
    int64_t off_s = 2 + (real_us() - begin_us) / SECOND_US;
    BETWEEN(want_s - off_s, want_s + off_s, (store_us - real_us()) / SECOND_US);
}

static void clock_is_the_stores(void)
{
    pgqrs_store_desc desc = real_time_desc();
    int64_t now, begin = real_us();
    control("clock_s=7200");
    close_store(T.store);
    T.store = open_store(&desc);
    OK(pgqrs_store_now(T.store, &now));
    check_clock_ahead(7200, now, begin);
    put();
    check_clock_ahead(7200, must_take()->enqueued_at_us, begin);
    /* It may move while we work: a signature that is refused for it is made anew. */
    control("clock_s=-7200");
    put();
    OK(pgqrs_store_now(T.store, &now));
    check_clock_ahead(-7200, now, begin);
    control("clock_s=0");
    put();
}

/* ------------------------------------------------------------------------------------------------------------------
 * Costs
 * --------------------------------------------------------------------------------------------------------------- */

static void commit_is_one_request(void)
{
    const pgqrs_message *message;
    put();
    control("counters=0");
    put();
    EQ(1, counted("requests.PUT"));
    EQ(0, counted("requests.GET"));
    message = must_take();
    EQ(2, counted("requests.PUT"));
    OK(pgqrs_archive(T.store, message));
    EQ(3, counted("requests.PUT"));
    EQ(0, counted("requests.GET"));
    /* Nothing found is one question. */
    OK(pgqrs_archive(T.store, must_take()));
    control("counters=0");
    YES(take() == NULL);
    EQ(0, counted("requests.PUT"));
    EQ(1, counted("requests.GET"));
    EQ(1, counted("status.304"));
}

static pgqrs_result count_it(const pgqrs_message *message, void *user)
{
    (void)message;
    ++*(int *)user;
    return PGQRS_OK;
}

/* An idle worker writes nothing but now and then a heartbeat, and asks less and less. */
static void idle_worker_is_cheap(void)
{
    pgqrs_store_desc desc = real_time_desc();
    static pgqrs_s3_desc s3;
    pgqrs_worker *worker;
    int handled = 0;
    int64_t end_ms;
    s3 = *desc.s3;
    s3.heartbeat_ms = 0;
    desc.s3 = &s3;
    desc.heartbeat_ms = 100;
    desc.poll_ms = 20;
    close_store(T.store);
    T.store = open_store(&desc);
    worker = pgqrs_worker_open(T.store, T.queue, count_it, NULL, &handled, NULL);
    assert_non_null(worker);
    OK(pgqrs_worker_poll(worker, 50, NULL));
    control("counters=0");
    end_ms = monotonic_ms() + 2000;
    while (monotonic_ms() < end_ms)
        OK(pgqrs_worker_poll(worker, end_ms - monotonic_ms(), NULL));
    EQ(0, counted("requests.PUT"));
    BETWEEN(1, 40, counted("requests.GET"));
    put();
    OK(pgqrs_worker_poll(worker, 2000, NULL));
    EQ(1, handled);
    OK(pgqrs_worker_close(worker));
}

/* Requests of two idle workers on one machine within two seconds, or as long as it takes until some are written; how long that was. */
static int64_t count_idle(pgqrs_worker *const workers[2], int64_t *gets, int64_t *puts)
{
    int64_t begin_ms = monotonic_ms(), took_ms;
    control("counters=0");
    do {
        for (int i = 0; i < 2; i++)
            OK(pgqrs_worker_poll(workers[i], 30, NULL));
        took_ms = monotonic_ms() - begin_ms;
        *gets = counted("requests.GET");
        *puts = counted("requests.PUT");
    } while (took_ms < 2000 || (*puts < 4 && took_ms < 30000));
    return took_ms;
}

static void count_idle_workers(bool in_one_store)
{
    pgqrs_store_desc desc = real_time_desc();
    static pgqrs_s3_desc s3;
    pgqrs_worker *workers[2];
    int64_t gets, puts, took_ms;
    int handled = 0;
    s3 = *desc.s3;
    s3.heartbeat_ms = 400;
    s3.idle_heartbeat_ms = -1;
    s3.idle_ms = 300;
    desc.s3 = &s3;
    desc.heartbeat_ms = 50;
    desc.poll_ms = 10;
    close_store(T.store);
    for (int i = 0; i < 2; i++) {
        pgqrs_store *store = i && in_one_store ? T.store : open_store(&desc);
        if (i == 0)
            T.store = store;
        if (in_one_store)
            OK(pgqrs_queue_create(T.store, "beside", NULL));
        workers[i] = pgqrs_worker_open(store, i == 0 && in_one_store ? "beside" : T.queue, count_it, NULL, &handled, NULL);
        assert_non_null(workers[i]);
    }
    for (int i = 0; i < 30; i++)
        OK(pgqrs_worker_poll(workers[i % 2], 30, NULL));
    took_ms = count_idle(workers, &gets, &puts);
    BETWEEN(4, 2 + 2 * took_ms / 400, puts);
    BETWEEN(0, 1 + took_ms / 300, gets); /* idle_ms */
    put();
    OK(pgqrs_worker_poll(workers[1], 2000, NULL));
    EQ(1, handled);
    for (int i = 0; i < 2; i++)
        OK(pgqrs_worker_close(workers[i]));
}

/* A heartbeat is no reason to ask more often, and what one store has asked the others of its machine need not. */
static void idle_workers_ask_together_and_ever_less(void)
{
    count_idle_workers(false);
}

/* One program's loop around two queues. */
static void idle_workers_of_one_store_ask_ever_less(void)
{
    count_idle_workers(true);
}

#if defined(__linux__)
/* As on other systems, and where all that a user may have of them are taken. */
static void idle_workers_that_nobody_wakes_ask_ever_less(void)
{
    pretended_no_inotify = 1;
    count_idle_workers(false);
    pretended_no_inotify = 0;
}

static void idle_workers_of_one_store_that_nobody_wakes_ask_ever_less(void)
{
    pretended_no_inotify = 1;
    count_idle_workers(true);
    pretended_no_inotify = 0;
}
#endif

/* Ours is opened anew, in real time. */
static void open_with_idle_ms(int64_t idle_ms, int64_t poll_ms)
{
    pgqrs_store_desc desc = real_time_desc();
    static pgqrs_s3_desc s3;
    s3 = *desc.s3;
    s3.idle_ms = idle_ms;
    desc.s3 = &s3;
    desc.poll_ms = poll_ms;
    close_store(T.store);
    T.store = open_store(&desc);
}

/* The same for whoever waits for the end of a run. */
static void waiting_for_a_run_asks_ever_less(void)
{
    pgqrs_run_info *info = NULL;
    int64_t id, begin_ms, took_ms;
    open_with_idle_ms(300, 10);
    define();
    id = trigger();
    control("counters=0");
    begin_ms = monotonic_ms();
    FAILS(ERR_TIMEOUT, pgqrs_run_result(T.store, id, 2000, &info));
    took_ms = monotonic_ms() - begin_ms;
    BETWEEN(1, 6 + took_ms / 300, counted("requests.GET")); /* after 0, 100, 150, 225 ms at first */
}

static void dequeue_from_elsewhere(pgqrs_store *other, const char *queue)
{
    pgqrs_message *taken = NULL;
    OK_ON(other, pgqrs_enqueue(other, queue, "1", NULL, NULL));
    OK(pgqrs_dequeue(T.store, queue, NULL, &taken));
    assert_non_null(taken);
    pgqrs_free(taken);
}

/* Only what waits may go by what it knew a while ago: the same store answers questions, and takes messages, as ever. */
static void questions_beside_an_idle_worker_are_not_spared(void)
{
    pgqrs_worker *worker;
    pgqrs_store *other = store_elsewhere();
    int handled = 0;
    int64_t count = -1;
    open_with_idle_ms(600000, 1);
    OK(pgqrs_queue_create(T.store, "aside", NULL));
    worker = pgqrs_worker_open(T.store, T.queue, count_it, NULL, &handled, NULL);
    assert_non_null(worker);
    for (int i = 0; i < 30; i++)
        OK(pgqrs_worker_poll(worker, 30, NULL));
    OK_ON(other, pgqrs_enqueue(other, "aside", "1", NULL, NULL));
    OK(pgqrs_message_count(T.store, &(pgqrs_message_filter){.queue = "aside"}, &count));
    EQ(1, count);
    OK(pgqrs_worker_poll(worker, 100, NULL));
    dequeue_from_elsewhere(other, "aside");
    OK(pgqrs_worker_poll(worker, 100, NULL));
    dequeue_from_elsewhere(other, T.queue);
    OK(pgqrs_worker_close(worker));
    close_store(other);
}

static int64_t reclaimed_now(int64_t older_than_ms)
{
    int64_t workers = -1, messages = -1;
    OK(pgqrs_worker_reclaim(T.store, NULL, older_than_ms, &workers, &messages));
    return workers * 100 + messages;
}

static int64_t stale_now(void)
{
    int64_t count = -1;
    pgqrs_worker_filter filter = {.stale_ms = 60000};
    pgqrs_workers *list = NULL;
    OK(pgqrs_worker_count(T.store, &filter, &count));
    OK(pgqrs_worker_list(T.store, &filter, &list));
    EQ(count, list->count);
    pgqrs_free(list);
    return count;
}

static bool healthy_now(pgqrs_worker_ref worker)
{
    bool healthy = false;
    OK(pgqrs_worker_healthy(T.store, worker.id, 60000, &healthy));
    return healthy;
}

/* PUTs of a worker that says every five seconds that it is alive. */
static int64_t beats_of(pgqrs_worker_ref worker, int64_t for_s)
{
    control("counters=0");
    for (; for_s > 0; for_s -= 5) {
        advance_ms(5000);
        OK(pgqrs_worker_heartbeat(T.store, worker));
    }
    return counted("requests.PUT");
}

/* Whoever holds nothing writes nothing for half an hour, and is missed after two; whoever holds a message is like anywhere. */
static void idle_worker_writes_nothing_and_is_missed_in_the_end(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_s3_desc s3 = *desc.s3;
    pgqrs_worker_ref worker, dead, holder;
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc take_one = {.limit = 1, .lease_ms = 7200000};
    pgqrs_worker_stats stats;
    s3.heartbeat_ms = 0;
    desc.s3 = &s3;
    close_store(T.store);
    T.store = open_store(&desc);
    put();
    worker = enlist("alive", T.queue);
    dead = enlist("dead", T.queue);
    holder = enlist("holder", T.queue);
    take_one.worker = holder;
    OK(pgqrs_dequeue(T.store, T.queue, &take_one, &message));
    assert_non_null(message);
    keep(message);
    EQ(3, beats_of(holder, 60));
    EQ(0, beats_of(worker, 1200));
    YES(healthy_now(worker) && healthy_now(dead) && !healthy_now(holder)); /* that was silent for 20 minutes */
    EQ(1, stale_now());
    OK(pgqrs_worker_stats_get(T.store, NULL, 60000, &stats));
    EQ(1, stats.stale);
    EQ(101, reclaimed_now(60000));
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, message));
    EQ(0, stale_now());
    EQ(1, beats_of(worker, 1200)); /* half an hour after it was registered */
    EQ(0, reclaimed_now(60000));
    EQ(1, beats_of(worker, 1800));
    EQ(1, stale_now()); /* 71 minutes */
    YES(healthy_now(worker) && !healthy_now(dead));
    EQ(100, reclaimed_now(60000));
    YES(must_look_worker(dead.id)->reclaimed);
    NO(must_look_worker(worker.id)->reclaimed);
}

/* ------------------------------------------------------------------------------------------------------------------
 * The cache
 * --------------------------------------------------------------------------------------------------------------- */

static void cache_file(char *out, size_t room)
{
    FILE *found;
    char command[800];
    snprintf(command, sizeof(command), "ls '%s'/*/image", S3.cache);
    found = popen(command, "r");
    assert_non_null(found);
    if (!fgets(out, (int)room, found))
        out[0] = '\0';
    pclose(found);
    out[strcspn(out, "\n")] = '\0';
    YES(out[0] != '\0');
}

/* Whatever is left of the file, cut off or with other bytes in it: the store is as it was. */
static pgqrs_result gives_back_twice(const pgqrs_message *message, void *user)
{
    int *times = (int *)user;
    return ++*times < 3 ? pgqrs_message_give_back(message, 1) : PGQRS_OK;
}

/* The delay has passed before the answer is there: that is no reason to leave it to others. */
static void what_came_back_during_a_slow_commit_is_waited_for(void)
{
    pgqrs_store_desc desc = real_time_desc();
    int threads;
    close_store(T.store);
    T.store = open_store(&desc);
    for (threads = 0; threads <= 2; threads += 2) {
        int64_t id = put();
        int times = 0;
        control("delay_ms=150");
        OK(pgqrs_work(T.store, T.queue, gives_back_twice, &times, &(pgqrs_work_desc){.threads = threads, .until_empty = true}));
        control("delay_ms=0");
        EQ(3, times);
        STATE("archived", id);
    }
}

static void damaged_cache_is_no_harm(void)
{
    static unsigned char data[1 << 20], copy[1 << 20];
    char path[700];
    FILE *file;
    size_t size, i;
    put();
    cache_file(path, sizeof(path));
    file = fopen(path, "rb");
    assert_non_null(file);
    size = fread(data, 1, sizeof(data), file);
    fclose(file);
    close_store(T.store);
    for (i = 0; i < 60; i++) {
        size_t cut = i % 2 ? size : size * i / 60;
        memcpy(copy, data, size);
        if (i % 2)
            copy[size - 1 - (size - 1) * (i / 2) / 60] ^= (unsigned char)(1 + i);
        file = fopen(path, "wb");
        assert_non_null(file);
        fwrite(copy, 1, cut, file);
        fclose(file);
        T.store = open_store(NULL);
        put();
        NUMBERS((int64_t)i + 2, 0, 0, 0, 0);
        close_all_stores();
    }
}

static void cache_may_go_and_be_shared(void)
{
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store, *neighbour;
    char command[800], dsn[1300];
    int64_t gets;
    put();
    /* Another store of this machine sees it without asking more than once. */
    store = another_store();
    control("counters=0");
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
    put();
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
    gets = counted("requests.GET");
    EQ(0, gets);
    EQ(0, counted("status.412"));
    /* Another object beside it. */
    snprintf(dsn, sizeof(dsn), "%s.other", T.dsn);
    neighbour = remember_store(pgqrs_open(dsn, &desc, &err));
    assert_non_null(neighbour);
    OK_ON(neighbour, pgqrs_install(neighbour));
    FAILS_ON(neighbour, ERR_QUEUE_NOT_FOUND, pgqrs_enqueue(neighbour, T.queue, "1", NULL, NULL));
    close_all_stores();
    snprintf(command, sizeof(command), "rm -rf '%s'", S3.cache);
    EQ(0, system(command));
    T.store = open_store(NULL);
    NUMBERS(4, 0, 0, 0, 0);
}

/* T.store with another threshold. */
static void reopen_split(int64_t bytes)
{
    static pgqrs_s3_desc s3;
    pgqrs_store_desc desc = test_desc();
    s3 = *desc.s3;
    s3.split_bytes = bytes;
    desc.s3 = &s3;
    close_store(T.store);
    T.store = open_store(&desc);
}

static void object_shrinks_with_what_is_removed(void)
{
    char *payload = json_string_of(200000);
    s3_text large, small;
    int i;
    reopen_split(-1);
    for (i = 0; i < 3; i++)
        OK(pgqrs_enqueue(T.store, T.queue, payload, NULL, NULL));
    large = object();
    for (i = 0; i < 3; i++)
        OK(pgqrs_delete(T.store, must_take()));
    put();
    small = object();
    YES(large.size > 600000);
    YES(small.size < 200000);
    s3_free(&large);
    s3_free(&small);
    free(payload);
    OK(pgqrs_verify(T.store));
    OK(pgqrs_archive(T.store, must_take()));
}

/* An object over the limit is refused and stays as it was. */
static void object_may_not_become_too_large(void)
{
    pgqrs_store_desc desc = test_desc();
    static pgqrs_s3_desc s3;
    char *payload = json_string_of(200000);
    s3 = *desc.s3;
    s3.max_object_bytes = 600000;
    desc.s3 = &s3;
    close_store(T.store);
    T.store = open_store(&desc);
    OK(pgqrs_enqueue(T.store, T.queue, payload, NULL, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, payload, NULL, NULL));
    FAILS_NAMING(ERR_FULL, "max_object_bytes", pgqrs_enqueue(T.store, T.queue, payload, NULL, NULL));
    NUMBERS(2, 0, 0, 0, 0);
    put();
    free(payload);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Memory
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_store *starved_other;

static pgqrs_result starved_enqueue(void)
{
    return pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, NULL);
}

static pgqrs_result starved_conflict(void)
{
    test_memory kept = T.memory;
    pgqrs_result result;
    T.memory.fail_at = -1;
    result = pgqrs_enqueue(starved_other, T.queue, SECRET_PAYLOAD, NULL, NULL);
    T.memory.fail_at = kept.fail_at;
    return result ? result : pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, NULL);
}

static pgqrs_result starved_lost_reply(void)
{
    s3_control(run.s3_server.port, "lost_reply=PUT:x1");
    return pgqrs_enqueue(T.store, T.queue, SECRET_PAYLOAD, NULL, NULL);
}

static pgqrs_result starved_claim(void)
{
    pgqrs_message *message = NULL;
    pgqrs_result result = pgqrs_dequeue(T.store, T.queue, NULL, &message);
    if (!result && message)
        result = pgqrs_delete(T.store, message);
    pgqrs_free(message);
    return result;
}

static pgqrs_result starved_reading(void)
{
    pgqrs_messages *messages = NULL;
    pgqrs_message_filter filter;
    pgqrs_result result;
    memset(&filter, 0, sizeof(filter));
    result = pgqrs_message_list(T.store, &filter, &messages);
    pgqrs_free(messages);
    return result;
}

static pgqrs_result starved_open(void)
{
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store = pgqrs_open(T.dsn, &desc, &err);
    pgqrs_close(store);
    return store ? PGQRS_OK : err.code;
}

static int64_t messages_there(void)
{
    pgqrs_message_filter filter;
    int64_t count = -1;
    memset(&filter, 0, sizeof(filter));
    OK_ON(starved_other, pgqrs_message_count(starved_other, &filter, &count));
    return count;
}

/* Each allocation of each of these fails once, or all from there on: an error that tells the truth, and nothing leaks. */
static void no_memory_is_an_error_that_tells_the_truth(void)
{
    static const struct {
        pgqrs_result (*call)(void);
        int change;         /* to the number of messages, when it works */
        int change_anyway;  /* by the other store */
    } calls[] = {{starved_enqueue, 1, 0}, {starved_conflict, 1, 1}, {starved_lost_reply, 1, 0},
                 {starved_claim, -1, 0},  {starved_reading, 0, 0},  {starved_open, 0, 0}};
    size_t i;
    int64_t nth, failed = 0;
    int for_good;
    starved_other = store_elsewhere();
    for (i = 0; i < COUNT_OF(calls); i++)
        for (for_good = 0; for_good < 2; for_good++)
            for (nth = 0;; nth++) {
                int64_t before, after, balance;
                pgqrs_result result;
                put();
                before = messages_there();
                balance = T.memory.blocks;
                T.memory.failed = 0;
                T.memory.fail_all_after = for_good != 0;
                T.memory.fail_at = nth;
                result = calls[i].call();
                T.memory.fail_at = -1;
                failed += T.memory.failed > 0;
                if (result != PGQRS_OK && result != PGQRS_ERR_NO_MEMORY && result != PGQRS_ERR_OUTCOME_UNKNOWN)
                    fail_at(__FILE__, __LINE__, "call %d, allocation %d: %s", (int)i, (int)nth, pgqrs_result_name(result));
                s3_control(run.s3_server.port, "lost_reply=0");
                after = messages_there() - before - calls[i].change_anyway;
                if (result == PGQRS_OK)
                    EQ(calls[i].change, after);
                if (result == PGQRS_ERR_NO_MEMORY && calls[i].call != starved_claim)
                    EQ(0, after);
                if (calls[i].call == starved_open)
                    EQ(balance, T.memory.blocks);
                if (T.memory.failed == 0)
                    break;
                YES(nth < 300);
            }
    YES(failed > 20);
    OK(pgqrs_verify(T.store));
}

/* ------------------------------------------------------------------------------------------------------------------
 * Large objects: a head and parts
 * --------------------------------------------------------------------------------------------------------------- */

static int64_t ready_on(pgqrs_store *store)
{
    pgqrs_message_filter filter;
    int64_t count = -1;
    memset(&filter, 0, sizeof(filter));
    OK_ON(store, pgqrs_message_count(store, &filter, &count));
    return count;
}

static void fill_on(pgqrs_store *store, size_t count)
{
    pgqrs_enqueue_item *items = (pgqrs_enqueue_item *)calloc(count, sizeof(*items));
    size_t i;
    assert_non_null(items);
    for (i = 0; i < count; i++)
        items[i].payload = SECRET_PAYLOAD;
    OK_ON(store, pgqrs_enqueue_many(store, T.queue, items, count, NULL));
    free(items);
}

static void part_path(const char *name, char *out, size_t room)
{
    snprintf(out, room, "/_raw/%.600s.d/%.63s", T.dsn + 5, name);
}

/* The names of the parts that the object has now; 0: it is all in one. */
static size_t parts_of(char names[64][64])
{
    s3_text head = object();
    const char *table = s3_parts_table(&head);
    size_t count = table ? (size_t)s3_parts_number(table + 16, 4) : 0, i;
    YES(count < 64);
    for (i = 0; i < count; i++)
        snprintf(names[i], 64, "%016llx-%016llx.sqlite", (unsigned long long)s3_parts_number(table + 32 + 40 * i, 8),
                 (unsigned long long)s3_parts_number(table + 40 + 40 * i, 8));
    s3_free(&head);
    return count;
}

static s3_text part(const char *name)
{
    s3_text body = {NULL, 0, 0, false};
    char path[800];
    part_path(name, path, sizeof(path));
    EQ(200, s3_raw(run.s3_server.port, "GET", path, NULL, 0, &body));
    return body;
}

static void set_part(const char *name, const void *data, size_t size)
{
    char path[800];
    part_path(name, path, sizeof(path));
    EQ(200, s3_raw(run.s3_server.port, "PUT", path, data, size, NULL));
}

static bool part_is_there(const char *name)
{
    s3_text body = {NULL, 0, 0, false};
    char path[800];
    int status;
    part_path(name, path, sizeof(path));
    status = s3_raw(run.s3_server.port, "GET", path, NULL, 0, &body);
    s3_free(&body);
    return status == 200;
}

/* What sqlite3 says of the bytes. */
static void is_sound(const char *data, size_t size, const char *query, int64_t want)
{
    char path[700];
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    FILE *file;
    snprintf(path, sizeof(path), "%s.looked-at", T.file);
    file = fopen(path, "wb");
    assert_non_null(file);
    EQ(size, fwrite(data, 1, size, file));
    EQ(0, fclose(file));
    EQ(SQLITE_OK, sqlite3_open_v2(path, &database, SQLITE_OPEN_READONLY, NULL));
    EQ(SQLITE_OK, sqlite3_prepare_v2(database, "PRAGMA integrity_check", -1, &statement, NULL));
    EQ(SQLITE_ROW, sqlite3_step(statement));
    SAME("ok", (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
    EQ(SQLITE_OK, sqlite3_prepare_v2(database, query, -1, &statement, NULL));
    EQ(SQLITE_ROW, sqlite3_step(statement));
    EQ(want, sqlite3_column_int64(statement, 0));
    sqlite3_finalize(statement);
    sqlite3_close(database);
    unlink(path);
}

/* The object, put together without the library if it is in parts. */
static void check_whole(int64_t messages)
{
    s3_text head = object(), whole = {NULL, 0, 0, false};
    bool parts = s3_parts_table(&head) != NULL;
    if (parts)
        is_sound(head.data, head.size, "SELECT count(*) FROM pgqrs_s3", 1);
    YES(!parts || s3_parts_assemble(&head, s3_fetch_part, NULL, &whole));
    is_sound(parts ? whole.data : head.data, parts ? whole.size : head.size, "SELECT count(*) FROM pgqrs_messages", messages);
    s3_free(&head);
    s3_free(&whole);
}

/* Beyond the threshold a commit uploads kilobytes, and a machine that knows the object downloads what is new. */
static void large_object_is_in_parts(void)
{
    char names[64][64];
    pgqrs_store *other;
    s3_text body;
    int64_t cold;
    int i;
    reopen_split(S3.split_bytes = 262144);
    EQ(0, parts_of(names));
    for (i = 0; i < 4; i++)
        fill_on(T.store, 1000);
    YES(parts_of(names) >= 1);
    put(); /* what the commits before have changed it does not carry along */
    body = object();
    YES(body.size < 20000);
    s3_free(&body);
    body = part(names[0]); /* an older version, whole */
    is_sound(body.data, body.size, "SELECT count(*) > 0 FROM pgqrs_messages", 1);
    YES(body.size > 262144);
    s3_free(&body);
    check_whole(4001);
    other = store_elsewhere();
    control("counters=0");
    EQ(4001, ready_on(other));
    for (i = 0; i < 40; i++)
        put();
    /* 40 commits, and now and then the whole file. */
    YES(counted("bytes_in.PUT") < 40 * 16384 + 1200000);
    YES(counted("requests.PUT") < 60);
    check_whole(4041);
    control("counters=0");
    EQ(4041, ready_on(other));
    YES(counted("bytes_out.GET") < 200000);
    OK_ON(other, pgqrs_verify(other));
    EQ(0, counted("requests.PUT"));
    /* A third one knows nothing, the first one's cache is found again. */
    close_all_stores();
    control("counters=0");
    T.store = open_store(NULL);
    NUMBERS(4041, 0, 0, 0, 0);
    cold = counted("bytes_out.GET");
    YES(cold < 20000);
    OK(pgqrs_verify(T.store));
    {
        char command[800];
        snprintf(command, sizeof(command), "rm -rf '%s'", S3.cache);
        close_store(T.store);
        EQ(0, system(command));
    }
    T.store = open_store(NULL);
    NUMBERS(4041, 0, 0, 0, 0);
    put();
    OK(pgqrs_archive(T.store, must_take()));
    OK(pgqrs_verify(T.store));
}

/* A batch is one request in parts, too; a part goes with it now and then, and no single call carries along what batches changed. Another
 * machine that looks after some of them, or after many, has them all. */
static void batch_in_parts_is_one_request(void)
{
    pgqrs_store *other;
    int64_t requests, bytes;
    int round;
    reopen_split(S3.split_bytes = 262144);
    fill_on(T.store, 4000);
    other = store_elsewhere();
    EQ(4000, ready_on(other));
    control("counters=0");
    for (round = 1; round <= 70; round++) {
        const pgqrs_messages *taken = take_many(50);
        EQ(50, taken->count);
        if (round % 13 < 3) {
            pgqrs_message_filter filter;
            int64_t leased = 0;
            memset(&filter, 0, sizeof(filter));
            filter.state = PGQRS_LEASED;
            OK_ON(other, pgqrs_message_count(other, &filter, &leased));
            EQ(round * 50, leased);
        }
    }
    requests = counted("requests.PUT");
    printf("# 70 batches in %lld PUTs\n", (long long)requests);
    YES(requests > 70 && requests <= 76);
    YES(counted("bytes_in.PUT") < 70 * 400000);
    check_whole(4000);
    put();
    control("counters=0");
    for (round = 0; round < 200; round++)
        put();
    bytes = counted("bytes_in.PUT") / 200;
    YES(bytes > 1024 && bytes < 16384);
    EQ(4201, ready_on(other));
    check_whole(4201);
    OK_ON(other, pgqrs_verify(other));
}

/* A part that is missing, cut off, damaged or another one is an error for whoever needs it, and never taken. */
static void parts_are_checked(void)
{
    char names[64][64], path[800];
    pgqrs_store_desc desc;
    size_t count, i;
    int how, round;
    reopen_split(1);
    fill_on(T.store, 300);
    for (round = 0; round < 6; round++) {
        fill_on(T.store, 20);
        put();
    }
    count = parts_of(names);
    YES(count >= 3);
    for (i = 0; i < count; i++)
        for (how = 0; how < 5; how++) {
            s3_text good = part(names[i]), bad = part(names[how == 4 ? (i + 1) % count : i]);
            pgqrs_error err;
            pgqrs_store *store;
            if (how == 1)
                bad.size /= 2;
            if (how == 2)
                bad.data[bad.size / 3] ^= 4;
            if (how == 3)
                s3_add(&bad, "more", 4);
            set_part(names[i], bad.data, bad.size);
            if (how == 0) {
                part_path(names[i], path, sizeof(path));
                s3_raw(run.s3_server.port, "DELETE", path, NULL, 0, NULL);
            }
            desc = desc_elsewhere();
            store = pgqrs_open(T.dsn, &desc, &err);
            YES(store == NULL);
            check_error(&err, PGQRS_ERR_DATABASE, "open", __FILE__, __LINE__);
            check_text_names(err.message, names[i], "open", __FILE__, __LINE__);
            NUMBERS(426, 0, 0, 0, 0); /* whoever has it all goes on */
            set_part(names[i], good.data, good.size);
            s3_free(&good);
            s3_free(&bad);
        }
    EQ(426, ready_on(store_elsewhere()));
    check_whole(426);
    put();
}

/* A commit that was refused after its part had been stored, or whose process ended there, leaves a part that no head names: the next
 * commit on this machine deletes it. */
static void part_without_a_head_is_removed(void)
{
    char names[64][64], before[64][64];
    size_t count;
    reopen_split(1);
    fill_on(T.store, 100);
    fill_on(T.store, 100);
    count = parts_of(before);
    YES(count >= 1);
    control("counters=0\nexpired=PUT:@2");
    FAILS(ERR_ACCESS_DENIED, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    EQ(2, counted("requests.PUT"));
    control("expired=0");
    EQ(count, parts_of(names));
    NUMBERS(200, 0, 0, 0, 0);
    reopen_split(1);
    put();
    EQ(1, counted("requests.DELETE"));
    put();
    EQ(1, counted("requests.DELETE"));
    check_whole(202);
}

/* Whatever becomes of a part's PUT, the commit is made, with it or without. */
static void faults_of_parts_do_no_harm(void)
{
    static const char *const of_reading[] = {"reset",      "slow",     "error_before", "busy",      "slow_down", "stale",
                                             "slow_reply", "cut_head", "garbage",      "truncated", "shortened", "corrupted"};
    char line[64];
    int64_t messages = 100, seen;
    size_t i;
    int nth, parts_written = 0;
    reopen_split(1);
    fill_on(T.store, 100);
    control("late_ms=30\nslow_ms=30\nretry_after=0");
    for (i = 0; i < COUNT_OF(faults); i++)
        for (nth = 1; nth <= 2; nth++) {
            if (strcmp(faults[i], "stale") == 0 || strcmp(faults[i], "truncated") == 0 || strcmp(faults[i], "shortened") == 0 ||
                strcmp(faults[i], "corrupted") == 0)
                continue;
            snprintf(line, sizeof(line), "%s=PUT:@%d", faults[i], nth);
            close_all_stores();
            reopen_split(1); /* a part that could not be written is tried again after 5 s, or by somebody else */
            fill_on(T.store, 40);
            control("counters=0");
            control(line);
            put(); /* a part of what the commit before changed, and the head */
            parts_written += counted("requests.PUT") > 1;
            no_more_faults();
            messages += 41;
            NUMBERS(messages, 0, 0, 0, 0);
            check_whole(messages);
        }
    YES(parts_written > 10);
    /* And for whoever fetches them. */
    for (i = 0; i < COUNT_OF(of_reading); i++) {
        pgqrs_store *other;
        char command[900];
        snprintf(line, sizeof(line), "%s=GET:0.3", of_reading[i]);
        control(line);
        other = store_elsewhere();
        seen = ready_on(other);
        if (strcmp(of_reading[i], "stale") != 0 || seen != messages - 1) /* an older version is one, too, */
            EQ(messages, seen);
        no_more_faults();
        EQ(messages, ready_on(other)); /* until the store has a newer one */
        close_store(other);
        snprintf(command, sizeof(command), "rm -rf '%s'", elsewhere_cache);
        EQ(0, system(command));
    }
    OK(pgqrs_verify(T.store));
}

/* An object that has shrunk is one file again; what was parts is deleted, not at once. A head that is older than that is read again. */
static void object_in_parts_becomes_one_again(void)
{
    char names[64][64], now[64][64];
    pgqrs_store *other;
    size_t count, i, there = 0;
    reopen_split(S3.split_bytes = 262144);
    fill_on(T.store, 2000);
    fill_on(T.store, 2000);
    count = parts_of(names);
    YES(count >= 1);
    other = store_elsewhere();
    EQ(4000, ready_on(other));
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, NULL));
    EQ(0, parts_of(now));
    EQ(0, ready_on(other));
    for (i = 0; i < count; i++)
        YES(part_is_there(names[i]));
    control("clock_s=30"); /* later */
    for (i = 0; i < 40; i++)
        put();
    for (i = 0; i < count; i++)
        there += part_is_there(names[i]);
    EQ(0, there);
    OK_ON(other, pgqrs_verify(other));
    fill_on(other, 4000);
    put();
    YES(parts_of(now) >= 1);
    NUMBERS(4041, 0, 0, 0, 0);
    /* A switch for one file at any time. */
    reopen_split(-1);
    put();
    EQ(0, parts_of(now));
    reopen_split(0); /* whoever has no wish of its own leaves it at that */
    put();
    EQ(0, parts_of(now));
    reopen_split(100000);
    put();
    YES(parts_of(now) >= 1);
    OK(pgqrs_verify(T.store));
    control("clock_s=0");
}

/* Nobody is bothered by a store that lets nothing be deleted, and it is not asked at every commit. */
static void parts_that_cannot_be_deleted_stay(void)
{
    char names[64][64], now[64][64];
    int i;
    reopen_split(1);
    fill_on(T.store, 100);
    put();
    YES(parts_of(names) >= 1);
    for (i = 0; i < 8; i++)
        fill_on(T.store, 60);
    control("counters=0\nerror_before=DELETE:1\nclock_s=30");
    for (i = 0; i < 30; i++)
        put();
    EQ(1, counted("requests.DELETE"));
    YES(part_is_there(names[0]));
    control("error_before=0");
    reopen_split(1); /* a new process tries again */
    for (i = 0; i < 30; i++)
        put();
    control("clock_s=0");
    YES(!part_is_there(names[0]));
    YES(parts_of(now) >= 1);
    check_whole(101 + 8 * 60 + 60);
}

/* Growing, shrinking, messages of many pages, two machines by turns: each version put together in the three ways there are, by who was
 * there, by who was not, and by the tests' own code. */
static void parts_follow_every_change(void)
{
    static pgqrs_s3_desc s3;
    pgqrs_store_desc desc = desc_elsewhere();
    pgqrs_store *stores[2];
    char names[64][64], command[900];
    int64_t messages = 0;
    uint64_t random = 1;
    size_t most = 0;
    int round;
    reopen_split(1);
    s3 = *desc.s3;
    s3.split_bytes = 1;
    desc.s3 = &s3;
    stores[0] = T.store;
    stores[1] = open_store(&desc);
    for (round = 0; round < 120; round++) {
        pgqrs_store *store = stores[(random >> 20) % 2];
        int what = (int)((random >> 33) % 20);
        size_t parts;
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        if (what < 8) {
            char *payload = json_string_of(10 + (size_t)(random >> 40) % 9000);
            OK_ON(store, pgqrs_enqueue(store, T.queue, payload, NULL, NULL));
            free(payload);
            messages++;
        } else if (what < 12) {
            size_t count = 1 + (size_t)(random >> 40) % 80;
            fill_on(store, count);
            messages += (int64_t)count;
        } else if (what < 18) {
            const pgqrs_message *message = take_with(store, T.queue, (pgqrs_dequeue_desc){0});
            if (message && what < 15)
                OK_ON(store, pgqrs_archive(store, message));
            else if (message) {
                OK_ON(store, pgqrs_delete(store, message));
                messages--;
            }
        } else if (what == 19 && round % 3 == 0) {
            int64_t removed = 0;
            OK_ON(store, pgqrs_queue_purge(store, T.queue, NULL, &removed));
            messages -= removed;
        }
        parts = parts_of(names);
        most = parts > most ? parts : most;
        check_whole(messages);
        EQ(messages, ready_on(stores[0]));
        EQ(messages, ready_on(stores[1]));
        if (round % 10 == 9) {
            OK_ON(stores[1], pgqrs_verify(stores[1]));
            close_store(stores[1]);
            snprintf(command, sizeof(command), "rm -rf '%s'", elsewhere_cache);
            EQ(0, system(command));
            stores[1] = open_store(&desc);
            EQ(messages, ready_on(stores[1]));
        }
    }
    YES(most > 4);
}

/* An older head without the parts that it names, as a restore that forgot them leaves it. */
static void head_without_its_parts_is_an_error(void)
{
    char names[64][64];
    s3_text old, now;
    int i;
    reopen_split(1);
    fill_on(T.store, 100);
    put();
    YES(parts_of(names) >= 1);
    old = object();
    for (i = 0; i < 8; i++)
        fill_on(T.store, 60);
    control("clock_s=30");
    for (i = 0; i < 30; i++)
        put();
    control("clock_s=0");
    YES(!part_is_there(names[0]));
    now = object();
    overwrite(old.data, old.size);
    FAILS_NAMING(ERR_OUTCOME_UNKNOWN, names[0], pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    FAILS_NAMING(ERR_DATABASE, names[0], pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    open_fails(T.dsn, desc_elsewhere().s3, PGQRS_ERR_DATABASE, names[0]);
    overwrite(now.data, now.size);
    put();
    check_whole(100 + 1 + 8 * 60 + 30 + 1);
    s3_free(&old);
    s3_free(&now);
}

static void export_is_one_file(void)
{
    char path[700];
    struct stat status;
    s3_text body = {NULL, 0, 0, false};
    FILE *file;
    reopen_split(1);
    fill_on(T.store, 50);
    fill_on(T.store, 50);
    snprintf(path, sizeof(path), "%s.exported", T.file);
    OK(pgqrs_s3_export(T.store, path));
    EQ(0, stat(path, &status));
    file = fopen(path, "rb");
    assert_non_null(file);
    while (body.size < (size_t)status.st_size) {
        char some[4096];
        size_t got = fread(some, 1, sizeof(some), file);
        if (got == 0)
            break;
        s3_add(&body, some, got);
    }
    fclose(file);
    is_sound(body.data, body.size, "SELECT count(*) FROM pgqrs_messages", 100);
    s3_free(&body);
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "exported", pgqrs_s3_export(T.store, path));
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_s3_export(T.store, NULL));
    unlink(path);
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "no-such", pgqrs_s3_export(T.store, "/no-such-directory/file"));
    remove_object();
    FAILS(ERR_OBJECT_GONE, pgqrs_s3_export(T.store, path));
}

static void no_memory_for_parts_is_told_too(void)
{
    setenv("PGQRS_TEST_S3_SPLIT", "1", 1);
    reopen_split(1);
    fill_on(T.store, 100);
    no_memory_is_an_error_that_tells_the_truth();
    unsetenv("PGQRS_TEST_S3_SPLIT");
}

/* ------------------------------------------------------------------------------------------------------------------
 * Local mode
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_s3_desc local_s3[3];
static char local_caches[3][700];

/* A store in local mode; `machine` 0 to 2 has a cache directory of its own. */
static pgqrs_store *local_store(int machine)
{
    pgqrs_store_desc desc = real_time_desc();
    local_s3[machine] = *desc.s3;
    snprintf(local_caches[machine], sizeof(local_caches[machine]), "%s/local%d", S3.cache, machine);
    local_s3[machine].cache_dir = local_caches[machine];
    local_s3[machine].mode = PGQRS_S3_LOCAL;
    local_s3[machine].deadline_ms = 500;
    local_s3[machine].request_timeout_ms = 300;
    desc.s3 = &local_s3[machine];
    return open_store(&desc);
}

static pgqrs_s3_state state_on(pgqrs_store *store)
{
    pgqrs_s3_state state = (pgqrs_s3_state)0;
    OK_ON(store, pgqrs_s3_state_get(store, &state));
    return state;
}

static void enqueue_on(pgqrs_store *store)
{
    OK_ON(store, pgqrs_enqueue(store, T.queue, SECRET_PAYLOAD, NULL, NULL));
}

static void every_state_is_told(void)
{
    pgqrs_store *a, *b;
    int64_t requests = counted("requests.GET") + counted("requests.PUT");
    a = local_store(0);
    EQ(requests, counted("requests.GET") + counted("requests.PUT")); /* nobody was asked */
    EQ(PGQRS_S3_REMOTE_MISSING_CLEAN, state_on(a));
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(PGQRS_S3_REMOTE_MISSING_CLEAN, state_on(a));
    FAILS_ON(a, ERR_OBJECT_GONE, pgqrs_s3_snapshot(a, false));
    OK_ON(a, pgqrs_install(a));
    OK_ON(a, pgqrs_queue_create(a, T.queue, NULL));
    EQ(PGQRS_S3_REMOTE_MISSING_DIRTY, state_on(a));
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(PGQRS_S3_IN_SYNC, state_on(a));
    control("counters=0");
    OK_ON(a, pgqrs_s3_sync(a));
    OK_ON(a, pgqrs_install(a)); /* changes nothing */
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(0, counted("requests.GET") + counted("requests.PUT"));
    b = local_store(1);
    EQ(PGQRS_S3_REMOTE_CHANGES, state_on(b));
    OK_ON(b, pgqrs_s3_snapshot(b, false));
    EQ(PGQRS_S3_IN_SYNC, state_on(b));
    enqueue_on(b);
    EQ(PGQRS_S3_LOCAL_CHANGES, state_on(b));
    FAILS_ON(b, ERR_OBJECT_CHANGED, pgqrs_s3_snapshot(b, false));
    OK_ON(b, pgqrs_s3_sync(b));
    EQ(PGQRS_S3_REMOTE_CHANGES, state_on(a));
    enqueue_on(a);
    EQ(PGQRS_S3_CONCURRENT_CHANGES, state_on(a));
    close_store(b);
    {
        char command[900];
        snprintf(command, sizeof(command), "rm '%s'/*-local/local.sqlite", local_caches[0]);
        EQ(0, system(command));
    }
    EQ(PGQRS_S3_LOCAL_MISSING, state_on(a));
    FAILS_ON(a, ERR_DATABASE, pgqrs_s3_sync(a));
    close_store(a);
    a = local_store(0);
    OK_ON(a, pgqrs_s3_snapshot(a, true));
    EQ(1, ready_on(a));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_s3_state_get(a, NULL));
    FAILS_ON(a, ERR_UNSUPPORTED, pgqrs_s3_bootstrap(a));
}

static void conflict_leaves_the_choice(void)
{
    pgqrs_store *a = local_store(0), *b = local_store(1);
    OK_ON(a, pgqrs_s3_snapshot(a, false));
    OK_ON(b, pgqrs_s3_snapshot(b, false));
    enqueue_on(a);
    enqueue_on(b);
    OK_ON(a, pgqrs_s3_sync(a));
    FAILS_ON(b, ERR_OBJECT_CHANGED, pgqrs_s3_sync(b));
    FAILS_ON(b, ERR_OBJECT_CHANGED, pgqrs_s3_snapshot(b, false));
    EQ(PGQRS_S3_CONCURRENT_CHANGES, state_on(b));
    EQ(1, ready_on(b)); /* and goes on */
    enqueue_on(b);
    EQ(2, ready_on(b));
    OK_ON(b, pgqrs_s3_snapshot(b, true));
    EQ(1, ready_on(b));
    EQ(PGQRS_S3_IN_SYNC, state_on(b));
    enqueue_on(b);
    OK_ON(b, pgqrs_s3_sync(b));
    OK_ON(a, pgqrs_s3_snapshot(a, false));
    EQ(2, ready_on(a));
    OK_ON(a, pgqrs_verify(a));
    EQ(2, ready_on(T.store)); /* the durable one sees it too */
}

/* What was synced is known after a restart, and by other processes of the machine. */
static void local_file_survives_restarts(void)
{
    pgqrs_store *a = local_store(0), *other;
    OK_ON(a, pgqrs_s3_snapshot(a, false));
    enqueue_on(a);
    close_store(a);
    a = local_store(0);
    EQ(PGQRS_S3_LOCAL_CHANGES, state_on(a));
    other = local_store(0);
    enqueue_on(other);
    EQ(2, ready_on(a));
    OK_ON(other, pgqrs_s3_sync(other));
    EQ(PGQRS_S3_IN_SYNC, state_on(a));
    remove_object();
    EQ(PGQRS_S3_REMOTE_MISSING_CLEAN, state_on(a));
    OK_ON(a, pgqrs_s3_sync(a)); /* nothing changed: nothing is made again */
    EQ(PGQRS_S3_REMOTE_MISSING_CLEAN, state_on(a));
    enqueue_on(a);
    EQ(PGQRS_S3_REMOTE_MISSING_DIRTY, state_on(other));
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(PGQRS_S3_IN_SYNC, state_on(other));
    EQ(3, ready_on(other));
}

static void *writes_meanwhile(void *user)
{
    pgqrs_store *store = (pgqrs_store *)user;
    int i;
    for (i = 0; i < 60; i++)
        if (pgqrs_enqueue(store, T.queue, "1", NULL, NULL) != PGQRS_OK) {
            fprintf(stderr, "# enqueue %d: %s\n", i, last_message(store));
            return user;
        }
    return NULL;
}

/* Syncs and snapshots while another store of the machine writes: nothing is dropped, nothing torn. */
static void writes_during_a_sync_are_kept(void)
{
    pgqrs_store *a = local_store(0), *writer = local_store(0);
    pthread_t thread;
    void *failed = NULL;
    int i;
    OK_ON(a, pgqrs_s3_snapshot(a, false));
    EQ(0, pthread_create(&thread, NULL, writes_meanwhile, writer));
    for (i = 0; i < 15; i++) {
        pgqrs_result result;
        OK_ON(a, pgqrs_s3_sync(a));
        result = pgqrs_s3_snapshot(a, false);
        YES(result == PGQRS_OK || result == PGQRS_ERR_OBJECT_CHANGED);
    }
    pthread_join(thread, &failed);
    YES(failed == NULL);
    EQ(60, ready_on(a));
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(60, ready_on(T.store));
    OK(pgqrs_verify(T.store));
}

/* Each fault once and three times in a row, in a sync and in a snapshot. */
static void faults_do_no_harm_to_local_stores(void)
{
    pgqrs_store *a = local_store(0), *b = local_store(1);
    char lines[64];
    size_t i;
    int times;
    OK_ON(a, pgqrs_s3_snapshot(a, false));
    OK_ON(b, pgqrs_s3_snapshot(b, false));
    control("late_ms=30\nslow_ms=30\nretry_after=0");
    for (i = 0; i < COUNT_OF(faults); i++)
        for (times = 1; times <= 3; times += 2) {
            pgqrs_result result;
            if (strcmp(faults[i], "stale") == 0)
                continue; /* what a store says is the newest is the newest */
            snprintf(lines, sizeof(lines), "%s=x%d", faults[i], times);
            enqueue_on(a);
            control(lines);
            result = pgqrs_s3_sync(a);
            no_more_faults();
            if (result == PGQRS_ERR_OUTCOME_UNKNOWN || result == PGQRS_ERR_CONNECTION || result == PGQRS_ERR_BUSY)
                result = pgqrs_s3_sync(a);
            RESULT(PGQRS_OK, result);
            EQ(PGQRS_S3_IN_SYNC, state_on(a));
            control(lines);
            result = pgqrs_s3_snapshot(b, false);
            no_more_faults();
            if (result == PGQRS_ERR_CONNECTION || result == PGQRS_ERR_BUSY) /* half a second is short on a busy machine */
                result = pgqrs_s3_snapshot(b, false);
            RESULT(PGQRS_OK, result);
            EQ(ready_on(a), ready_on(b));
            EQ(PGQRS_S3_IN_SYNC, state_on(b));
        }
}

/* The upload arrived, its reply did not, and nobody could be asked; then more was written. */
static void sync_of_unknown_outcome_is_found_out(void)
{
    pgqrs_store *a = local_store(0);
    OK_ON(a, pgqrs_s3_snapshot(a, false));
    enqueue_on(a);
    control("lost_reply=PUT:x1\nerror_before=GET:1.0");
    FAILS_ON(a, ERR_OUTCOME_UNKNOWN, pgqrs_s3_sync(a));
    no_more_faults();
    enqueue_on(a);
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(PGQRS_S3_IN_SYNC, state_on(a));
    EQ(2, ready_on(T.store));
    /* The process ended in between: the object is what the file is. */
    enqueue_on(a);
    control("lost_reply=PUT:x1\nerror_before=GET:1.0");
    FAILS_ON(a, ERR_OUTCOME_UNKNOWN, pgqrs_s3_sync(a));
    no_more_faults();
    close_store(a);
    a = local_store(0);
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(PGQRS_S3_IN_SYNC, state_on(a));
    EQ(3, ready_on(T.store));
    /* And the file was written to before the next sync. */
    enqueue_on(a);
    control("lost_reply=PUT:x1\nerror_before=GET:1.0");
    FAILS_ON(a, ERR_OUTCOME_UNKNOWN, pgqrs_s3_sync(a));
    no_more_faults();
    close_store(a);
    a = local_store(0);
    enqueue_on(a);
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(PGQRS_S3_IN_SYNC, state_on(a));
    EQ(5, ready_on(T.store));
}

static void durable_stores_are_in_sync(void)
{
    EQ(PGQRS_S3_IN_SYNC, state_on(T.store));
    OK(pgqrs_s3_sync(T.store));
    OK(pgqrs_s3_snapshot(T.store, false));
    put();
    remove_object();
    EQ(PGQRS_S3_REMOTE_MISSING_CLEAN, state_on(T.store));
}

/* Sync and snapshot of a large file send and fetch what was changed. */
static void large_local_files_are_synced_in_parts(void)
{
    char names[64][64];
    pgqrs_store *a, *b;
    S3.split_bytes = 262144;
    a = local_store(0);
    b = local_store(1);
    OK_ON(a, pgqrs_s3_snapshot(a, false));
    fill_on(a, 4000);
    OK_ON(a, pgqrs_s3_sync(a));
    OK_ON(b, pgqrs_s3_snapshot(b, false));
    EQ(4000, ready_on(b));
    enqueue_on(b);
    OK_ON(b, pgqrs_s3_sync(b)); /* in parts from here on */
    YES(parts_of(names) >= 1);
    EQ(PGQRS_S3_REMOTE_CHANGES, state_on(a));
    OK_ON(a, pgqrs_s3_snapshot(a, false));
    EQ(4001, ready_on(a));
    control("counters=0");
    enqueue_on(a);
    EQ(PGQRS_S3_LOCAL_CHANGES, state_on(a));
    OK_ON(a, pgqrs_s3_sync(a));
    EQ(PGQRS_S3_IN_SYNC, state_on(a));
    OK_ON(b, pgqrs_s3_snapshot(b, false));
    EQ(4002, ready_on(b));
    YES(counted("bytes_in.PUT") < 40000 && counted("bytes_out.GET") < 80000);
    check_whole(4002);
    enqueue_on(a);
    enqueue_on(b);
    OK_ON(a, pgqrs_s3_sync(a));
    FAILS_ON(b, ERR_OBJECT_CHANGED, pgqrs_s3_sync(b));
    OK_ON(b, pgqrs_s3_snapshot(b, true));
    EQ(4003, ready_on(b));
    OK_ON(b, pgqrs_verify(b));
    /* After a restart, too. */
    close_store(b);
    b = local_store(1);
    EQ(PGQRS_S3_IN_SYNC, state_on(b));
    enqueue_on(b);
    OK_ON(b, pgqrs_s3_sync(b));
    check_whole(4004);
}

static const test_case s3_cases[] = {
    CASE(bad_dsn_is_refused, NO_STORE),
    CASE(settings_are_checked, NO_STORE),
    CASE(limits_of_settings_are_checked, NO_STORE),
    CASE(session_token_is_sent, NO_STORE),
    CASE(every_reply_has_its_message, NO_STORE),
    CASE(environment_is_read, NO_STORE),
    CASE(refusals_of_the_store_are_told_apart, NO_STORE),
    CASE(endpoint_without_a_server_is_found_out_soon, NO_STORE),
    CASE(refused_connections_of_an_open_store_are_waited_out, PLAIN),
    CASE(nonsense_from_the_callback_is_an_error, NO_STORE),
    CASE(cache_directory_must_be_usable, NO_STORE),
#if defined(__linux__)
    CASE(cache_directory_on_a_network_file_system_is_refused, NO_STORE),
#endif
    CASE(cache_directory_that_cannot_be_written_is_refused, NO_STORE),
    CASE(clock_skew_that_the_store_refuses_is_an_error, PLAIN),
    CASE(nonsense_about_a_commit_loses_nothing, PLAIN),
    CASE(refusals_while_the_store_is_open_change_nothing, PLAIN),
    CASE(object_that_is_not_ours_is_refused, PLAIN),
    CASE(sqlite_file_that_was_uploaded_is_taken_over, NO_STORE),
    CASE(store_that_ignores_conditions_is_refused, UNINSTALLED),
    CASE(object_is_made_by_install_alone, UNINSTALLED),
    CASE(bootstrap_is_only_for_s3, PLAIN),
    CASE(deleted_object_is_an_error_and_stays_deleted, PLAIN),
    CASE(object_is_a_sqlite_file, PLAIN),
    CASE(conflicts_are_not_seen, PLAIN),
    CASE(answers_are_about_the_newest_version, PLAIN),
    CASE(transactional_step_meets_another_machine, PLAIN),
    CASE(single_faults_do_no_harm, PLAIN),
    CASE(many_faults_do_no_harm, PLAIN),
    CASE(outcome_that_cannot_be_known_is_said_to_be, PLAIN),
    CASE(refusal_without_a_look_says_nothing, PLAIN),
    CASE(damaged_reply_is_no_verdict, PLAIN),
    CASE(put_that_comes_late_is_no_harm, PLAIN),
    CASE(store_that_is_away_is_an_error, PLAIN),
    CASE(etags_may_be_compared_without_their_quotes, PLAIN),
    CASE(etags_may_look_otherwise, PLAIN),
    CASE(pace_of_the_store_is_kept, PLAIN),
    CASE(clock_is_the_stores, PLAIN),
    CASE(commit_is_one_request, PLAIN),
    CASE(idle_worker_is_cheap, PLAIN),
    CASE(idle_workers_ask_together_and_ever_less, PLAIN),
    CASE(idle_workers_of_one_store_ask_ever_less, PLAIN),
#if defined(__linux__)
    CASE(idle_workers_that_nobody_wakes_ask_ever_less, PLAIN),
    CASE(idle_workers_of_one_store_that_nobody_wakes_ask_ever_less, PLAIN),
#endif
    CASE(waiting_for_a_run_asks_ever_less, PLAIN),
    CASE(questions_beside_an_idle_worker_are_not_spared, PLAIN),
    CASE(idle_worker_writes_nothing_and_is_missed_in_the_end, PLAIN),
    CASE(what_came_back_during_a_slow_commit_is_waited_for, PLAIN),
    CASE(damaged_cache_is_no_harm, PLAIN),
    CASE(cache_may_go_and_be_shared, PLAIN),
    CASE(object_shrinks_with_what_is_removed, PLAIN),
    CASE(object_may_not_become_too_large, PLAIN),
    CASE(no_memory_is_an_error_that_tells_the_truth, PLAIN),
    CASE(large_object_is_in_parts, PLAIN),
    CASE(batch_in_parts_is_one_request, PLAIN),
    CASE(parts_are_checked, PLAIN),
    CASE(part_without_a_head_is_removed, PLAIN),
    CASE(faults_of_parts_do_no_harm, PLAIN),
    CASE(object_in_parts_becomes_one_again, PLAIN),
    CASE(parts_that_cannot_be_deleted_stay, PLAIN),
    CASE(parts_follow_every_change, PLAIN),
    CASE(head_without_its_parts_is_an_error, PLAIN),
    CASE(export_is_one_file, PLAIN),
    CASE(no_memory_for_parts_is_told_too, PLAIN),
    CASE(every_state_is_told, NO_STORE),
    CASE(conflict_leaves_the_choice, PLAIN),
    CASE(local_file_survives_restarts, PLAIN),
    CASE(writes_during_a_sync_are_kept, PLAIN),
    CASE(faults_do_no_harm_to_local_stores, PLAIN),
    CASE(sync_of_unknown_outcome_is_found_out, PLAIN),
    CASE(durable_stores_are_in_sync, PLAIN),
    CASE(large_local_files_are_synced_in_parts, PLAIN),
};

int main(void)
{
    static const test_list lists[] = {LIST(s3_cases)};
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    failed = run_lists("test_s3_store", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
