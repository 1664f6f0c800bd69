/* Rules for names, settings and payloads, their messages, and the token bucket, all with given times. */
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static pgqrs_store_desc test_settings(const pgqrs_validation *rules)
{
    pgqrs_store_desc settings;
    memset(&settings, 0, sizeof settings);
    if (rules)
        settings.validation = *rules;
    pgqrsi_validation_resolve(&settings.validation);
    settings.allocator = pgqrsi_mem_resolve(NULL);
    settings.json.parse = pgqrsi_json_parse;
    return settings;
}

static pgqrs_result test_check(const pgqrs_validation *rules, const char *payload, pgqrs_error *err)
{
    pgqrs_store_desc settings = test_settings(rules);
    memset(err, 0, sizeof *err);
    pgqrs_result result = pgqrsi_check_payload(&settings, payload, strlen(payload), err);
    assert_int_equal(result, err->code);
    if (result != PGQRS_OK)
        assert_int_equal(err->index, -1);
    return result;
}

static void test_has(const pgqrs_error *err, const char *part)
{
    if (!strstr(err->message, part))
        fail_msg("no \"%s\" in \"%s\"", part, err->message);
}

/* `length` times the character, inside of quotes. */
static char *test_string(size_t length)
{
    char *text = (char *)malloc(length + 3);
    assert_non_null(text);
    memset(text, 'x', length + 2);
    text[0] = text[length + 1] = '"';
    text[length + 2] = '\0';
    return text;
}

static void test_defaults(void **state)
{
    pgqrs_validation rules;
    pgqrs_error err;
    (void)state;
    memset(&rules, 0, sizeof rules);
    pgqrsi_validation_resolve(&rules);
    assert_int_equal(rules.max_payload_bytes, 1048576);
    assert_int_equal(rules.max_depth, 64);
    assert_int_equal(rules.max_string_bytes, 0);
    assert_int_equal(rules.forbidden_key_count, 0);
    assert_int_equal(rules.required_key_count, 0);
    assert_int_equal(rules.max_enqueue_per_second, 0);
    assert_int_equal(rules.max_enqueue_burst, 0);
    rules.max_enqueue_per_second = 70;
    pgqrsi_validation_resolve(&rules);
    assert_int_equal(rules.max_enqueue_burst, 70);
    assert_int_equal(test_check(NULL, "{\"__proto__\":{\"constructor\":1}}", &err), PGQRS_OK);
    char *text = test_string(100000);
    assert_int_equal(test_check(NULL, text, &err), PGQRS_OK);
    free(text);
}

static void test_strict_preset(void **state)
{
    pgqrs_validation rules = pgqrs_validation_strict();
    pgqrs_error err;
    (void)state;
    assert_int_equal(rules.max_payload_bytes, 1048576);
    assert_int_equal(rules.max_depth, 5);
    assert_int_equal(rules.max_string_bytes, 1024);
    assert_int_equal(rules.forbidden_key_count, 2);
    assert_string_equal(rules.forbidden_keys[0], "__proto__");
    assert_string_equal(rules.forbidden_keys[1], "constructor");
    assert_int_equal(rules.required_key_count, 0);
    assert_int_equal(rules.max_enqueue_per_second, 1000);
    assert_int_equal(rules.max_enqueue_burst, 50);
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "[[[[[1]]]]]", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "[[[[[[]]]]]]", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "[[[[[[1]]]]]]", &err), PGQRS_ERR_JSON_TOO_DEEP);
    assert_int_equal(test_check(&rules, "{\"a\":[{\"constructor\":1}]}", &err), PGQRS_ERR_FORBIDDEN_KEY);
}

static void test_size(void **state)
{
    pgqrs_validation rules;
    pgqrs_error err;
    (void)state;
    memset(&rules, 0, sizeof rules);
    rules.max_payload_bytes = 50;
    char *fits = test_string(48), *large = test_string(49);
    assert_int_equal(test_check(&rules, fits, &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, large, &err), PGQRS_ERR_PAYLOAD_TOO_LARGE);
    assert_int_equal(err.kind, PGQRS_KIND_MISUSE);
    test_has(&err, "51 bytes");
    test_has(&err, "limit 50");
    test_has(&err, "max_payload_bytes");
    /* the size is looked at first: what is too large is not even read */
    large[1] = '"';
    assert_int_equal(test_check(&rules, large, &err), PGQRS_ERR_PAYLOAD_TOO_LARGE);
    free(fits);
    free(large);
    large = test_string(1048576 - 2);
    assert_int_equal(test_check(NULL, large, &err), PGQRS_OK);
    free(large);
    large = test_string(1048576 - 1);
    assert_int_equal(test_check(NULL, large, &err), PGQRS_ERR_PAYLOAD_TOO_LARGE);
    free(large);
}

static void test_depth(void **state)
{
    static const struct {
        int32_t limit;
        const char *payload;
        bool good;
    } cases[] = {
        {1, "1", true},
        {1, "[]", true},
        {1, "[1]", true},
        {1, "{\"a\":1}", true},
        {1, "[[]]", true},
        {1, "[[1]]", false},
        {1, "[{\"a\":1}]", false},
        {1, "[[[]]]", false},
        {2, "[[1],[2],{\"a\":3}]", true},
        {2, "{\"a\":{\"b\":{}}}", true},
        {2, "{\"a\":{\"b\":{\"c\":1}}}", false},
        {2, "{\"a\":{\"b\":[null]}}", false},
    };
    pgqrs_validation rules;
    pgqrs_error err;
    (void)state;
    memset(&rules, 0, sizeof rules);
    for (size_t i = 0; i < COUNT(cases); i++) {
        rules.max_depth = cases[i].limit;
        pgqrs_result expected = cases[i].good ? PGQRS_OK : PGQRS_ERR_JSON_TOO_DEEP;
        if (test_check(&rules, cases[i].payload, &err) != expected)
            fail_msg("limit %d: %s", (int)cases[i].limit, cases[i].payload);
    }
    test_has(&err, "depth 3 exceeds limit 2");
    test_has(&err, "max_depth");
    char text[200];
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    text[130] = '\0';
    assert_int_equal(test_check(NULL, text, &err), PGQRS_OK);
    memset(text, '[', 66);
    memset(text + 66, ']', 66);
    text[132] = '\0';
    assert_int_equal(test_check(NULL, text, &err), PGQRS_ERR_JSON_TOO_DEEP);
    test_has(&err, "depth 65 exceeds limit 64");
}

static void test_string_length(void **state)
{
    pgqrs_validation rules;
    pgqrs_error err;
    (void)state;
    memset(&rules, 0, sizeof rules);
    rules.max_string_bytes = 4;
    assert_int_equal(test_check(&rules, "[\"abcd\",{\"abcd\":\"\"}]", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "123456789", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "[\"abcdE\"]", &err), PGQRS_ERR_STRING_TOO_LONG);
    test_has(&err, "string length 5 exceeds limit 4");
    test_has(&err, "max_string_bytes");
    assert_null(strstr(err.message, "abcdE"));
    assert_int_equal(test_check(&rules, "[{\"abcdE\":1}]", &err), PGQRS_ERR_STRING_TOO_LONG);
    test_has(&err, "key length 5 exceeds limit 4");
    assert_null(strstr(err.message, "abcdE"));
    /* decoded bytes count: \u00e9 is two, an emoji four */
    assert_int_equal(test_check(&rules, "\"\\u00e9\\u00E9\"", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "\"\\ud83d\\ude00\"", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "\"\\ud83d\\ude00x\"", &err), PGQRS_ERR_STRING_TOO_LONG);
}

static void test_forbidden_keys(void **state)
{
    static const char *const keys[] = {"bad", "", "na\xc3\xafve", "bad\nline"};
    pgqrs_validation rules;
    pgqrs_error err;
    (void)state;
    memset(&rules, 0, sizeof rules);
    rules.forbidden_keys = keys;
    rules.forbidden_key_count = COUNT(keys);
    assert_int_equal(test_check(&rules, "{\"ba\":\"bad\",\"badd\":[\"bad\"],\"Bad\":1}", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "{\"bad\\u0000\":1}", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "{\"bad\":1}", &err), PGQRS_ERR_FORBIDDEN_KEY);
    test_has(&err, "forbidden key 'bad'");
    test_has(&err, "forbidden_keys");
    assert_int_equal(test_check(&rules, "[[{\"x\":{\"b\\u0061d\":1}}]]", &err), PGQRS_ERR_FORBIDDEN_KEY);
    assert_int_equal(test_check(&rules, "{\"\":1}", &err), PGQRS_ERR_FORBIDDEN_KEY);
    assert_int_equal(test_check(&rules, "{\"na\\u00efve\":1}", &err), PGQRS_ERR_FORBIDDEN_KEY);
    assert_int_equal(test_check(&rules, "{\"bad\\nline\":1}", &err), PGQRS_ERR_FORBIDDEN_KEY);
    test_has(&err, "'bad?line'");
}

static void test_required_keys(void **state)
{
    static const char *const keys[] = {"id", "kind", "id"};
    pgqrs_validation rules;
    pgqrs_error err;
    (void)state;
    memset(&rules, 0, sizeof rules);
    rules.required_keys = keys;
    rules.required_key_count = COUNT(keys);
    assert_int_equal(test_check(&rules, "{\"kind\":null,\"id\":1,\"more\":2}", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "{\"kind\":1,\"id\":1,\"id\":2}", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "{\"kind\":1}", &err), PGQRS_ERR_MISSING_KEY);
    test_has(&err, "required key 'id' missing");
    test_has(&err, "required_keys");
    assert_int_equal(test_check(&rules, "{\"id\":1,\"a\":{\"kind\":1}}", &err), PGQRS_ERR_MISSING_KEY);
    test_has(&err, "'kind'");
    assert_int_equal(test_check(&rules, "{\"a\":\"id\",\"b\":\"kind\"}", &err), PGQRS_ERR_MISSING_KEY);
    assert_int_equal(test_check(&rules, "{}", &err), PGQRS_ERR_MISSING_KEY);
    /* other values than a top-level object pass */
    assert_int_equal(test_check(&rules, "[]", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "[{\"x\":1}]", &err), PGQRS_OK);
    assert_int_equal(test_check(&rules, "\"id\"", &err), PGQRS_OK);
    /* broken JSON is that first, whatever it lacks */
    assert_int_equal(test_check(&rules, "{\"x\":1", &err), PGQRS_ERR_JSON);
}

static void test_many_required_keys(void **state)
{
    enum { KEYS = 200 };
    static char names[KEYS][8];
    static const char *keys[KEYS];
    static char payload[KEYS * 16];
    pgqrs_validation rules;
    pgqrs_error err;
    size_t used = 0;
    (void)state;
    memset(&rules, 0, sizeof rules);
    for (int i = 0; i < KEYS; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i);
        keys[i] = names[i];
        used += (size_t)snprintf(payload + used, sizeof payload - used, "%c\"k%d\":1", i ? ',' : '{', i);
    }
    memcpy(payload + used, "}", 2);
    rules.required_keys = keys;
    rules.required_key_count = KEYS;
    assert_int_equal(test_check(&rules, payload, &err), PGQRS_OK);
    memcpy(strstr(payload, "k199"), "x", 1);
    assert_int_equal(test_check(&rules, payload, &err), PGQRS_ERR_MISSING_KEY);
    test_has(&err, "'k199'");
}

static void test_malformed(void **state)
{
    static const struct {
        const char *payload;
        const char *where;
    } cases[] = {
        {"", "line 1, column 1 (byte 0: it ends too early)"},
        {"{\"top\":\"secret\",}", "line 1, column 17 (byte 16)"},
        {"{\n  \"a\": 1\n  \"secret\": 2\n}", "line 3, column 3 (byte 13)"},
        {"[\"\xc3\xa9\xe2\x82\xac\", secret]", "line 1, column 8 (byte 10)"},
        {"[1,\n\n\n", "line 4, column 1 (byte 6: it ends too early)"},
        {"\"secret \xff\"", "line 1, column 9 (byte 8)"},
        {"\"secret \\ud800\"", "line 1, column 9 (byte 8)"},
    };
    pgqrs_error err;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(test_check(NULL, cases[i].payload, &err), PGQRS_ERR_JSON);
        assert_int_equal(err.kind, PGQRS_KIND_MISUSE);
        test_has(&err, cases[i].where);
        assert_null(strstr(err.message, "secret"));
    }
    pgqrs_store_desc settings = test_settings(NULL);
    assert_int_equal(pgqrsi_check_payload(&settings, NULL, 0, &err), PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(pgqrsi_check_payload(&settings, "nul", 3, NULL), PGQRS_ERR_JSON);
    assert_int_equal(pgqrsi_check_payload(&settings, "null\0", 5, &err), PGQRS_ERR_JSON);
    assert_int_equal(pgqrsi_check_payload(&settings, "nullx", 4, &err), PGQRS_OK);
}

static void *test_no_memory(void *pointer, size_t old_size, size_t new_size, void *user)
{
    (void)pointer;
    (void)old_size;
    (void)new_size;
    (void)user;
    return NULL;
}

static void test_out_of_memory_is_not_bad_json(void **state)
{
    pgqrs_store_desc settings = test_settings(NULL);
    pgqrs_error err;
    char text[900];
    (void)state;
    settings.allocator.resize = test_no_memory;
    memset(text, 'x', sizeof text);
    memcpy(text, "\"\\n", 3);
    text[sizeof text - 1] = '"';
    assert_int_equal(pgqrsi_check_payload(&settings, text, sizeof text, &err), PGQRS_ERR_NO_MEMORY);
    assert_int_equal(err.kind, PGQRS_KIND_RETRY);
    assert_int_equal(pgqrsi_check_payload(&settings, "[\"short\\n\"]", 11, &err), PGQRS_OK);
}

/* A parser of somebody else: the rules hang on its reports, and it may be careless. */
static bool test_foreign_parser(const char *text, size_t size, pgqrs_json_report report, void *context,
                                size_t *error_offset, void *user)
{
    (void)text;
    *error_offset = size + 100;
    report(PGQRS_JSON_OBJECT_BEGIN, NULL, 0, context);
    report(PGQRS_JSON_KEY, "bad", 3, context);
    report(PGQRS_JSON_STRING, NULL, 0, context); /* ignores that it was told to stop */
    report(PGQRS_JSON_OBJECT_END, NULL, 0, context);
    return *(bool *)user;
}

static void test_foreign_parsers(void **state)
{
    static const char *const keys[] = {"bad"};
    pgqrs_store_desc settings = test_settings(NULL);
    pgqrs_error err;
    bool fine = true;
    (void)state;
    settings.json.parse = test_foreign_parser;
    settings.json.user = &fine;
    assert_int_equal(pgqrsi_check_payload(&settings, "x", 1, &err), PGQRS_OK);
    settings.validation.forbidden_keys = keys;
    settings.validation.forbidden_key_count = 1;
    assert_int_equal(pgqrsi_check_payload(&settings, "x", 1, &err), PGQRS_ERR_FORBIDDEN_KEY);
    settings.validation.forbidden_key_count = 0;
    fine = false;
    assert_int_equal(pgqrsi_check_payload(&settings, "x", 1, &err), PGQRS_ERR_JSON);
    test_has(&err, "byte 1");
}

static void test_rules_that_cannot_be(void **state)
{
    static const char *const keys[] = {"a", "b", "longer"}, *const hole[] = {"a", NULL}, *const broken[] = {"\xff"};
    pgqrs_validation rules;
    pgqrs_error err;
    (void)state;
    memset(&rules, 0, sizeof rules);
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_OK);
    rules.max_depth = -1;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    test_has(&err, "max_depth");
    rules.max_depth = 0;
    rules.max_enqueue_per_second = -1;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    test_has(&err, "max_enqueue_per_second");
    rules.max_enqueue_per_second = 0;
    rules.max_enqueue_burst = 5;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    test_has(&err, "max_enqueue_burst");
    rules.max_enqueue_per_second = 1;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_OK);
    rules.max_enqueue_burst = -5;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    memset(&rules, 0, sizeof rules);
    rules.forbidden_key_count = 2;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    test_has(&err, "forbidden_keys is NULL");
    rules.forbidden_keys = hole;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    test_has(&err, "forbidden_keys[1]");
    rules.forbidden_keys = broken;
    rules.forbidden_key_count = 1;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    rules.forbidden_keys = keys;
    rules.required_key_count = 1;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    test_has(&err, "required_keys is NULL");
    rules.required_keys = keys + 1;
    rules.required_key_count = 2;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_OK);
    rules.required_keys = keys;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    test_has(&err, "'a'");
    rules.required_keys = keys + 1;
    rules.max_string_bytes = 5;
    assert_int_equal(pgqrsi_validation_check(&rules, &err), PGQRS_ERR_INVALID_ARGUMENT);
    test_has(&err, "'longer'");
}

static void test_one_setting(pgqrs_store_desc *desc, const char *refused_member)
{
    pgqrs_error err;
    memset(&err, 0, sizeof err);
    pgqrs_result result = pgqrsi_settings_check(desc, &err);
    if (!refused_member) {
        if (result != PGQRS_OK)
            fail_msg("%s", err.message);
    } else {
        assert_int_not_equal(result, PGQRS_OK);
        assert_int_equal(result, err.code);
        assert_int_equal(err.kind, PGQRS_KIND_MISUSE);
        test_has(&err, refused_member);
    }
    memset(desc, 0, sizeof *desc);
}

#define TEST_SETTING(member, value, refused)                                                                           \
    do {                                                                                                               \
        desc.member = (value);                                                                                         \
        test_one_setting(&desc, (refused) ? #member : NULL);                                                           \
    } while (0)

static void test_settings_ranges(void **state)
{
    const int64_t ten_years_ms = INT64_C(315576000000);
    pgqrs_store_desc desc;
    pgqrs_error err;
    (void)state;
    memset(&desc, 0, sizeof desc);
    test_one_setting(&desc, NULL);
    TEST_SETTING(connect_timeout_ms, 1, false);
    TEST_SETTING(connect_timeout_ms, INT32_MAX, false);
    TEST_SETTING(connect_timeout_ms, -1, true);
    TEST_SETTING(connect_timeout_ms, INT64_MAX, true);
    TEST_SETTING(retry_limit, -1, false);
    TEST_SETTING(retry_limit, INT32_MAX, false);
    TEST_SETTING(retry_limit, -2, true);
    TEST_SETTING(default_lease_ms, 1, false);
    TEST_SETTING(default_lease_ms, ten_years_ms, false);
    TEST_SETTING(default_lease_ms, ten_years_ms + 1, true);
    TEST_SETTING(default_lease_ms, -1, true);
    TEST_SETTING(default_max_attempts, 32767, false);
    TEST_SETTING(default_max_attempts, 32768, true);
    TEST_SETTING(default_max_attempts, -1, true);
    TEST_SETTING(default_batch, 10000, false);
    TEST_SETTING(default_batch, 10001, true);
    TEST_SETTING(default_batch, -1, true);
    TEST_SETTING(heartbeat_ms, 1, false);
    TEST_SETTING(heartbeat_ms, -1, true);
    TEST_SETTING(heartbeat_ms, INT64_C(2147483648), true);
    TEST_SETTING(poll_ms, 1, false);
    TEST_SETTING(poll_ms, -1, true);
    TEST_SETTING(poll_ms, INT64_MIN, true);
    TEST_SETTING(pooler, PGQRS_OFF, false);
    TEST_SETTING(pooler, (pgqrs_switch)3, true);
    TEST_SETTING(sqlite_wal, PGQRS_ON, false);
    TEST_SETTING(sqlite_wal, (pgqrs_switch)3, true);
    TEST_SETTING(sqlite_create, PGQRS_OFF, false);
    TEST_SETTING(sqlite_create, (pgqrs_switch)3, true);
    TEST_SETTING(schema, "jobs_2$", false);
    TEST_SETTING(schema, "2jobs", true);
    TEST_SETTING(logger.level, PGQRS_LOG_DEBUG, false);
    TEST_SETTING(logger.level, (pgqrs_log_level)5, true);
    TEST_SETTING(validation.max_depth, -1, true);
    desc.schema = "";
    assert_int_equal(pgqrsi_settings_check(&desc, &err), PGQRS_ERR_BAD_NAME);
}

static void test_schema_names(void **state)
{
    static const struct {
        const char *name;
        const char *part; /* of the message; NULL: good */
    } cases[] = {
        {"public", NULL},
        {"_", NULL},
        {"A1_$", NULL},
        {"a23456789_123456789_123456789_123456789_123456789_123456789_123", NULL},
        {"a23456789_123456789_123456789_123456789_123456789_123456789_1234", "exceeds the maximum length"},
        {"", "cannot be empty"},
        {"1a", "must start with a letter or underscore"},
        {"$a", "must start with a letter or underscore"},
        {"\xc3\xa9", "must start with a letter or underscore"},
        {"a-b", "invalid character"},
        {"a b", "invalid character"},
        {"a\"b", "invalid character"},
        {"a.b", "invalid character"},
        {"a;drop", "invalid character"},
        {"caf\xc3\xa9", "invalid character"},
    };
    pgqrs_error err;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        pgqrs_result result = pgqrsi_check_schema_name(cases[i].name, &err);
        assert_int_equal(result, cases[i].part ? PGQRS_ERR_BAD_NAME : PGQRS_OK);
        if (cases[i].part)
            test_has(&err, cases[i].part);
    }
    assert_int_equal(pgqrsi_check_schema_name(NULL, &err), PGQRS_ERR_INVALID_ARGUMENT);
}

static void test_names(void **state)
{
    static const char *const good[] = {"a", " ", "emails", "with space, dots. and 'quotes\"", "\xc3\xa9t\xc3\xa9",
                                       "\xf0\x9f\x98\x80", "\xc2\xa0"};
    static const char *const bad[] = {"", "a\nb", "\t", "\x7f", "\xc2\x80", "a\xc2\x9f", "\xff", "a\xc3",
                                      "\xed\xa0\x80", "\xc0\x80"};
    char name[300];
    pgqrs_error err;
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++)
        assert_int_equal(pgqrsi_check_name("queue name", good[i], &err), PGQRS_OK);
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(pgqrsi_check_name("queue name", bad[i], &err), PGQRS_ERR_BAD_NAME);
        test_has(&err, "queue name");
    }
    memset(name, 'n', sizeof name);
    name[255] = '\0';
    assert_int_equal(pgqrsi_check_name("producer", name, &err), PGQRS_OK);
    name[255] = 'n';
    name[256] = '\0';
    assert_int_equal(pgqrsi_check_name("producer", name, &err), PGQRS_ERR_BAD_NAME);
    test_has(&err, "producer has 256 bytes: at most 255");
    assert_int_equal(pgqrsi_check_name("producer", NULL, &err), PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(pgqrsi_check_name("producer", "", NULL), PGQRS_ERR_BAD_NAME);
}

static pgqrsi_bucket test_bucket(int32_t rate, int32_t burst, int64_t now_us)
{
    pgqrs_validation rules;
    pgqrsi_bucket bucket;
    memset(&rules, 0, sizeof rules);
    rules.max_enqueue_per_second = rate;
    rules.max_enqueue_burst = burst;
    pgqrsi_bucket_init(&bucket, &rules, now_us);
    return bucket;
}

/* Takes; the wait it is told, 0 for success. */
static int64_t test_take(pgqrsi_bucket *bucket, size_t count, int64_t now_us)
{
    pgqrs_error err;
    memset(&err, 0, sizeof err);
    pgqrs_result result = pgqrsi_bucket_take(bucket, count, now_us, &err);
    if (result == PGQRS_OK)
        return 0;
    assert_int_equal(result, PGQRS_ERR_RATE_LIMITED);
    assert_int_equal(err.kind, PGQRS_KIND_RETRY);
    assert_true(err.retry_after_ms > 0);
    test_has(&err, "max_enqueue_per_second");
    return err.retry_after_ms;
}

static void test_bucket_exact_waits(void **state)
{
    const int64_t start = INT64_C(5000000);
    pgqrsi_bucket bucket = test_bucket(100, 10, start);
    (void)state;
    for (int i = 0; i < 10; i++)
        assert_int_equal(test_take(&bucket, 1, start), 0);
    assert_int_equal(test_take(&bucket, 1, start), 10);
    assert_int_equal(test_take(&bucket, 3, start), 30);
    assert_int_equal(test_take(&bucket, 10, start), 100);
    /* the wait is the truth: a moment less is too early, and refusals cost nothing */
    assert_int_equal(test_take(&bucket, 3, start + 29999), 1);
    assert_int_equal(test_take(&bucket, 3, start + 30000), 0);
    assert_int_equal(test_take(&bucket, 1, start + 30000), 10);
    assert_int_equal(test_take(&bucket, 1, start + 30001), 10);
    assert_int_equal(test_take(&bucket, 1, start + 31001), 9);
    /* never more than the burst, however long nobody came */
    assert_int_equal(test_take(&bucket, 10, start + INT64_C(3600000000)), 0);
    assert_int_equal(test_take(&bucket, 1, start + INT64_C(3600000000)), 10);
}

static void test_bucket_keeps_fractions(void **state)
{
    pgqrsi_bucket bucket = test_bucket(3, 2, 0);
    int64_t taken = 0;
    (void)state;
    /* asked every 7 microseconds for almost ten seconds: two at the start, and three a second, not one less */
    for (int64_t now_us = 0; now_us <= 10000000; now_us += 7)
        if (pgqrsi_bucket_take(&bucket, 1, now_us, NULL) == PGQRS_OK)
            taken++;
    assert_int_equal(taken, 2 + 29);
    assert_int_equal(test_take(&bucket, 1, 9999999), 1);
    assert_int_equal(test_take(&bucket, 1, 10000000), 0);
    bucket = test_bucket(7, 7, 0);
    assert_int_equal(test_take(&bucket, 7, 0), 0);
    assert_int_equal(test_take(&bucket, 1, 0), 143);
    assert_int_equal(test_take(&bucket, 1, 142857), 1);
    assert_int_equal(test_take(&bucket, 1, 142858), 0);
}

static void test_bucket_default_burst_and_no_limit(void **state)
{
    pgqrsi_bucket bucket = test_bucket(5, 0, 0);
    (void)state;
    assert_int_equal(test_take(&bucket, 5, 0), 0);
    assert_int_equal(test_take(&bucket, 1, 0), 200);
    bucket = test_bucket(0, 0, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(test_take(&bucket, SIZE_MAX, 0), 0);
    pgqrsi_bucket_put_back(&bucket, SIZE_MAX);
    assert_int_equal(test_take(&bucket, 1, 0), 0);
}

static void test_bucket_impossible_batch(void **state)
{
    pgqrsi_bucket bucket = test_bucket(1000, 50, 0);
    pgqrs_error err;
    (void)state;
    assert_int_equal(pgqrsi_bucket_take(&bucket, 51, 0, &err), PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(err.kind, PGQRS_KIND_MISUSE);
    assert_int_equal(err.retry_after_ms, 0);
    test_has(&err, "max_enqueue_burst (50)");
    assert_int_equal(pgqrsi_bucket_take(&bucket, SIZE_MAX, 0, NULL), PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(test_take(&bucket, 50, 0), 0);
    assert_int_equal(test_take(&bucket, 0, 0), 0);
}

static void test_bucket_put_back(void **state)
{
    pgqrsi_bucket bucket = test_bucket(1, 10, 0);
    (void)state;
    assert_int_equal(test_take(&bucket, 10, 0), 0);
    pgqrsi_bucket_put_back(&bucket, 4);
    assert_int_equal(test_take(&bucket, 5, 0), 1000);
    assert_int_equal(test_take(&bucket, 4, 0), 0);
    pgqrsi_bucket_put_back(&bucket, 10);
    pgqrsi_bucket_put_back(&bucket, 10);
    pgqrsi_bucket_put_back(&bucket, SIZE_MAX);
    assert_int_equal(test_take(&bucket, 10, 0), 0);
    assert_int_equal(test_take(&bucket, 1, 0), 1000);
}

static void test_bucket_at_the_ends_of_time(void **state)
{
    pgqrsi_bucket bucket = test_bucket(INT32_MAX, INT32_MAX, INT64_MIN);
    (void)state;
    assert_int_equal(test_take(&bucket, INT32_MAX, INT64_MIN), 0);
    assert_int_equal(test_take(&bucket, INT32_MAX, INT64_MIN), 1000);
    assert_int_equal(test_take(&bucket, INT32_MAX, INT64_MAX), 0);
    assert_int_equal(test_take(&bucket, 1, INT64_MAX), 1);
    /* a clock that goes back gives nothing, and what was given stays given */
    assert_int_equal(test_take(&bucket, INT32_MAX, 0), 1000);
    assert_int_equal(test_take(&bucket, 1, INT64_MAX), 1);
    bucket = test_bucket(1, INT32_MAX, 0);
    assert_int_equal(test_take(&bucket, INT32_MAX, 0), 0);
    assert_true(test_take(&bucket, INT32_MAX, 0) == INT64_C(2147483647000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_strict_preset),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_string_length),
        cmocka_unit_test(test_forbidden_keys),
        cmocka_unit_test(test_required_keys),
        cmocka_unit_test(test_many_required_keys),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_out_of_memory_is_not_bad_json),
        cmocka_unit_test(test_foreign_parsers),
        cmocka_unit_test(test_rules_that_cannot_be),
        cmocka_unit_test(test_settings_ranges),
        cmocka_unit_test(test_schema_names),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_bucket_exact_waits),
        cmocka_unit_test(test_bucket_keeps_fractions),
        cmocka_unit_test(test_bucket_default_burst_and_no_limit),
        cmocka_unit_test(test_bucket_impossible_batch),
        cmocka_unit_test(test_bucket_put_back),
        cmocka_unit_test(test_bucket_at_the_ends_of_time),
    };
    return cmocka_run_group_tests_name("unit_validation", tests, NULL, NULL);
}
