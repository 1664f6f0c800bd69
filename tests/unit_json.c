/* The built-in JSON parser: what it accepts, what it reports, where it stops, and that no allocation fails unseen. */
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Counts what is allocated; fails from the `fail_at`th request on (0: never). */
typedef struct test_memory {
    size_t calls, fail_at, live_bytes;
} test_memory;

static void *test_resize(void *pointer, size_t old_size, size_t new_size, void *user)
{
    test_memory *memory = (test_memory *)user;
    if (new_size == 0) {
        memory->live_bytes -= old_size;
        free(pointer);
        return NULL;
    }
    memory->calls++;
    if (memory->fail_at && memory->calls >= memory->fail_at)
        return NULL;
    memory->live_bytes += new_size - old_size;
    return realloc(pointer, new_size);
}

/* The events of a document as text: {} [] as they come, K(…) S(…) N(…) L(…). */
typedef struct test_events {
    char text[4096];
    size_t used;
    size_t count;
    size_t stop_at; /* refuse this event; 0: none */
} test_events;

static bool test_report(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    static const char marks[] = "?{}[]KSNL";
    test_events *events = (test_events *)context;
    events->count++;
    if (events->used + size + 4 < sizeof events->text) {
        events->text[events->used++] = marks[event];
        if (event >= PGQRS_JSON_KEY) {
            assert_non_null(text);
            events->text[events->used++] = '(';
            memcpy(events->text + events->used, text, size);
            events->used += size;
            events->text[events->used++] = ')';
        } else {
            assert_null(text);
            assert_int_equal(size, 0);
        }
    }
    return events->count != events->stop_at;
}

static bool test_parse(const char *text, size_t size, test_events *events, size_t *offset)
{
    test_memory memory = {0, 0, 0};
    pgqrs_allocator allocator = {test_resize, &memory};
    /* an exact copy on the heap: the address sanitizer sees every byte read too far */
    char *copy = (char *)malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    memset(events, 0, sizeof *events);
    *offset = 12345;
    bool fine = pgqrsi_json_parse(copy, size, test_report, events, offset, &allocator);
    free(copy);
    assert_int_equal(memory.live_bytes, 0);
    return fine;
}

static void test_accepted(void **state)
{
    static const char *const accepted[][2] = {
        {"null", "L(null)"},
        {"true", "L(true)"},
        {"false", "L(false)"},
        {" \t\r\n null \t\r\n ", "L(null)"},
        {"0", "N(0)"},
        {"-0", "N(-0)"},
        {"7", "N(7)"},
        {"-12", "N(-12)"},
        {"1234567890123456789012345678901234567890", "N(1234567890123456789012345678901234567890)"},
        {"0.5", "N(0.5)"},
        {"-0.0", "N(-0.0)"},
        {"10.250", "N(10.250)"},
        {"1e5", "N(1e5)"},
        {"1E+05", "N(1E+05)"},
        {"0e-0", "N(0e-0)"},
        {"1.5e-300", "N(1.5e-300)"},
        {"\"\"", "S()"},
        {"\"a\"", "S(a)"},
        {"\"eight888\"", "S(eight888)"},
        {"\"a longer text, over several words of eight bytes\"", "S(a longer text, over several words of eight bytes)"},
        {"\"\x7f\"", "S(\x7f)"},
        {"\"\xc2\x80\"", "S(\xc2\x80)"},
        {"\"\xdf\xbf\"", "S(\xdf\xbf)"},
        {"\"\xe0\xa0\x80\"", "S(\xe0\xa0\x80)"},
        {"\"\xed\x9f\xbf\"", "S(\xed\x9f\xbf)"},
        {"\"\xee\x80\x80\"", "S(\xee\x80\x80)"},
        {"\"\xef\xbf\xbf\"", "S(\xef\xbf\xbf)"},
        {"\"\xf0\x90\x80\x80\"", "S(\xf0\x90\x80\x80)"},
        {"\"\xf4\x8f\xbf\xbf\"", "S(\xf4\x8f\xbf\xbf)"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "S(\"\\/\b\f\n\r\t)"},
        {"\"\\u0041\\u00e9\\u20AC\"", "S(A\xc3\xa9\xe2\x82\xac)"},
        {"\"\\ud83d\\ude00\"", "S(\xf0\x9f\x98\x80)"},
        {"\"\\uD800\\uDC00\\uDBFF\\uDFFF\"", "S(\xf0\x90\x80\x80\xf4\x8f\xbf\xbf)"},
        {"\"\\ud7ff\\ue000\\uffff\"", "S(\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf)"},
        {"\"plain \\n middle \\t end\"", "S(plain \n middle \t end)"},
        {"[]", "[]"},
        {"[ ]", "[]"},
        {"{}", "{}"},
        {"{ }", "{}"},
        {"[[],[[]],{}]", "[[][[]]{}]"},
        {"[1,\"a\",null,true,{\"k\":[]}]", "[N(1)S(a)L(null)L(true){K(k)[]}]"},
        {" [ 1 , 2 ] ", "[N(1)N(2)]"},
        {"{\"a\":1,\"b\":{\"c\":[false]}}", "{K(a)N(1)K(b){K(c)[L(false)]}}"},
        {"{ \"a\" : 1 , \"b\" : 2 }", "{K(a)N(1)K(b)N(2)}"},
        {"{\"\":\"\"}", "{K()S()}"},
        {"{\"a\":1,\"a\":2}", "{K(a)N(1)K(a)N(2)}"},
        {"{\"\\u0061\\n\":\"\\u0062\"}", "{K(a\n)S(b)}"},
        {"[\"\\n\",\"plain\",\"\\t\"]", "[S(\n)S(plain)S(\t)]"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(accepted); i++) {
        test_events events;
        size_t offset;
        if (!test_parse(accepted[i][0], strlen(accepted[i][0]), &events, &offset))
            fail_msg("refused at %zu: %s", offset, accepted[i][0]);
        assert_string_equal(events.text, accepted[i][1]);
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *text;
        size_t offset;
    } refused[] = {
        {"", 0},
        {"   ", 3},
        {"nul", 3},
        {"nulL", 3},
        {"nullx", 4},
        {"truE", 3},
        {"fals", 4},
        {"True", 0},
        {"NaN", 0},
        {"Infinity", 0},
        {"-Infinity", 1},
        {"undefined", 0},
        {"1 2", 2},
        {"null null", 5},
        {"+1", 0},
        {"-", 1},
        {"--1", 1},
        {"01", 1},
        {"-01", 2},
        {".5", 0},
        {"5.", 2},
        {"5.e1", 2},
        {"1e", 2},
        {"1e+", 3},
        {"1e+-1", 3},
        {"1.2.3", 3},
        {"0x10", 1},
        {"1_000", 1},
        {"1,", 1},
        {"'a'", 0},
        {"a", 0},
        {"\"", 1},
        {"\"abc", 4},
        {"\"abcdefghijklmnop", 17},
        {"\"abc\"d", 5},
        {"\"tab\there\"", 4},
        {"\"line\nbreak\"", 5},
        {"\"01234567\x1f\"", 9},
        {"\"\\", 2},
        {"\"\\\"", 3},
        {"\"\\x41\"", 1},
        {"\"\\'\"", 1},
        {"\"ab\\v\"", 3},
        {"\"\\u\"", 1},
        {"\"\\u12\"", 1},
        {"\"\\u123", 6},
        {"\"\\u12g4\"", 1},
        {"\"\\U0041\"", 1},
        {"\"\\ud800\"", 1},
        {"\"\\ud800x\"", 1},
        {"\"\\ud800\\n0000\"", 1},
        {"\"\\ud800\\u0041\"", 1},
        {"\"\\ud800\\ud800\"", 1},
        {"\"\\udc00\"", 1},
        {"\"\\udfff\\ud800\"", 1},
        {"\"ok\\ude00\"", 3},
        {"\"\x80\"", 1},
        {"\"\xbf\"", 1},
        {"\"\xc0\x80\"", 1},
        {"\"\xc1\xbf\"", 1},
        {"\"\xc2\"", 1},
        {"\"\xc2", 1},
        {"\"\xc3(\"", 1},
        {"\"\xe0\x80\x80\"", 1},
        {"\"\xe0\x9f\xbf\"", 1},
        {"\"\xe2\x82\"", 1},
        {"\"\xe2\x82", 1},
        {"\"\xe2\x28\xa1\"", 1},
        {"\"\xed\xa0\x80\"", 1},
        {"\"\xed\xbf\xbf\"", 1},
        {"\"\xf0\x80\x80\x80\"", 1},
        {"\"\xf0\x8f\xbf\xbf\"", 1},
        {"\"\xf0\x9f\x98\"", 1},
        {"\"\xf4\x90\x80\x80\"", 1},
        {"\"\xf5\x80\x80\x80\"", 1},
        {"\"\xff\"", 1},
        {"\"\xfe\xff\"", 1},
        {"\"fine so far \xc3\xa9 then \xff\"", 21},
        {"\xef\xbb\xbf{}", 0},
        {"\xc2\xa0null", 0},
        {"[", 1},
        {"]", 0},
        {"[1", 2},
        {"[1,", 3},
        {"[1,]", 3},
        {"[,1]", 1},
        {"[,]", 1},
        {"[1 2]", 3},
        {"[1}", 2},
        {"[}", 1},
        {"[]]", 2},
        {"[1],", 3},
        {"[\"a\":1]", 4},
        {"{", 1},
        {"}", 0},
        {"{]", 1},
        {"{\"a\"", 4},
        {"{\"a\"}", 4},
        {"{\"a\":", 5},
        {"{\"a\":}", 5},
        {"{\"a\":1", 6},
        {"{\"a\":1]", 6},
        {"{\"a\":1,", 7},
        {"{\"a\":1,}", 7},
        {"{,}", 1},
        {"{a:1}", 1},
        {"{'a':1}", 1},
        {"{1:1}", 1},
        {"{null:1}", 1},
        {"{\"a\" 1}", 5},
        {"{\"a\",1}", 4},
        {"{\"a\":1 \"b\":2}", 7},
        {"{\"a\":1,,\"b\":2}", 7},
        {"{\"a\"::1}", 5},
        {"{\"a\":1}{", 7},
        {"[1] // no comments", 4},
        {"/* none */ 1", 0},
        {"[1,\n  2,\n  x]", 11},
        {"[[[[[[[[[1]]]]]]]]", 18},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(refused); i++) {
        test_events events;
        size_t offset;
        if (test_parse(refused[i].text, strlen(refused[i].text), &events, &offset))
            fail_msg("accepted: %s", refused[i].text);
        if (offset != refused[i].offset)
            fail_msg("stopped at %zu instead of %zu: %s", offset, refused[i].offset, refused[i].text);
    }
}

static void test_nul_bytes(void **state)
{
    static const char escaped[] = "\"a\\u0000b\"";
    test_events events;
    size_t offset;
    (void)state;
    assert_true(test_parse(escaped, sizeof escaped - 1, &events, &offset));
    assert_int_equal(events.used, 6);
    assert_memory_equal(events.text, "S(a\0b)", 6);
    assert_false(test_parse("\"a\0b\"", 5, &events, &offset));
    assert_int_equal(offset, 2);
    assert_false(test_parse("null\0", 5, &events, &offset));
    assert_int_equal(offset, 4);
    assert_false(test_parse("\0", 1, &events, &offset));
    assert_int_equal(offset, 0);
    assert_false(test_parse("\"\\\0\"", 4, &events, &offset));
    assert_int_equal(offset, 1);
}

/* The words of eight bytes must see a special byte at every place, and the bytes around it must not fool them. */
static void test_special_byte_at_every_place(void **state)
{
    (void)state;
    for (int special = 0; special < 256; special++) {
        for (size_t place = 0; place < 20; place++) {
            char text[22];
            test_events events;
            size_t offset;
            memset(text, special % 2 ? '!' : '#', sizeof text);
            text[0] = text[21] = '"';
            text[1 + place] = (char)special;
            bool fine = test_parse(text, sizeof text, &events, &offset);
            bool plain = special >= 0x20 && special < 0x80 && special != '"' && special != '\\';
            assert_int_equal(fine, plain);
            if (special == '"')
                assert_int_equal(offset, place + 2);
            else if (special == '\\' && place == 19)
                assert_int_equal(offset, sizeof text); /* it escapes the last quote */
            else if (!plain)
                assert_int_equal(offset, place + 1);
        }
    }
}

/* Every prefix of a document is refused; the numbers at its end are not allowed to read beyond it. */
static void test_every_prefix(void **state)
{
    static const char text[] = "{\"key\\u00e9\\ud83d\\ude00\":[1.5e+3,true,false,null,\"\xe2\x82\xac\"],\"b\":{}}";
    test_events events;
    size_t offset;
    (void)state;
    for (size_t size = 0; size < sizeof text - 1; size++) {
        assert_false(test_parse(text, size, &events, &offset));
        assert_true(offset <= size);
    }
    assert_true(test_parse(text, sizeof text - 1, &events, &offset));
}

/* Every byte of a document changed to every other: nothing but yes or no may come of it. */
static void test_every_byte_changed(void **state)
{
    static const char text[] = "{\"k\\u00e9\\ud83d\\ude00\":[1.5e+3,true,\"\xe2\x82\xac\"]}";
    (void)state;
    for (size_t place = 0; place < sizeof text - 1; place++) {
        for (int byte = 0; byte < 256; byte++) {
            char changed[sizeof text];
            test_events events;
            size_t offset;
            memcpy(changed, text, sizeof text);
            changed[place] = (char)byte;
            if (!test_parse(changed, sizeof text - 1, &events, &offset))
                assert_true(offset <= sizeof text - 1);
        }
    }
}

/* 100 000 levels, by turns arrays and objects; the parser must not use the stack for them. */
static char *test_nested(size_t levels, size_t *size)
{
    char *text = (char *)malloc(levels * 6 + 1), *at = text;
    assert_non_null(text);
    for (size_t i = 0; i < levels; i++) {
        memcpy(at, i % 3 ? "[" : "{\"k\":", i % 3 ? 1 : 5);
        at += i % 3 ? 1 : 5;
    }
    *at++ = '1';
    for (size_t i = levels; i-- > 0;)
        *at++ = i % 3 ? ']' : '}';
    *size = (size_t)(at - text);
    return text;
}

static void test_deep(void **state)
{
    static const size_t levels[] = {1, 7, 8, 9, 255, 256, 257, 511, 512, 513, 100000};
    (void)state;
    for (size_t i = 0; i < COUNT(levels); i++) {
        test_events events;
        size_t size, offset;
        char *text = test_nested(levels[i], &size);
        assert_true(test_parse(text, size, &events, &offset));
        assert_int_equal(events.count, levels[i] * 2 + (levels[i] + 2) / 3 + 1);
        assert_false(test_parse(text, size - 1, &events, &offset));
        assert_int_equal(offset, size - 1);
        text[size - 1] = text[size - 1] == '}' ? ']' : '}';
        assert_false(test_parse(text, size, &events, &offset));
        assert_int_equal(offset, size - 1);
        free(text);
    }
}

static void test_long_escaped_string(void **state)
{
    enum { PIECES = 20000 };
    size_t size = (size_t)PIECES * 8 + 2;
    char *text = (char *)malloc(size);
    test_memory memory = {0, 0, 0};
    pgqrs_allocator allocator = {test_resize, &memory};
    test_events events;
    size_t offset = 0;
    (void)state;
    assert_non_null(text);
    text[0] = text[size - 1] = '"';
    for (size_t i = 0; i < PIECES; i++)
        memcpy(text + 1 + i * 8, "ab\\u00e9", 8);
    memset(&events, 0, sizeof events);
    assert_true(pgqrsi_json_parse(text, size, test_report, &events, &offset, &allocator));
    assert_int_equal(events.count, 1);
    assert_int_equal(memory.live_bytes, 0);
    assert_true(memory.calls > 1 && memory.calls < 20);
    free(text);
}

static void test_nothing_is_allocated_for_common_payloads(void **state)
{
    static const char text[] = "{\"to\":\"ada@example.com\",\"items\":[1,2,{\"name\":\"tea\\n\"}]}";
    test_memory memory = {0, 1, 0};
    pgqrs_allocator allocator = {test_resize, &memory};
    test_events events;
    size_t offset = 0;
    (void)state;
    memset(&events, 0, sizeof events);
    assert_true(pgqrsi_json_parse(text, sizeof text - 1, test_report, &events, &offset, &allocator));
    assert_int_equal(memory.calls, 0);
}

static void test_every_allocation_may_fail(void **state)
{
    size_t size, deep_size;
    char *deep = test_nested(3000, &deep_size);
    char *text = (char *)malloc(deep_size + 6000);
    test_memory memory = {0, 0, 0};
    pgqrs_allocator allocator = {test_resize, &memory};
    bool fine = false;
    size_t failures = 0;
    (void)state;
    assert_non_null(text);
    size = deep_size;
    text[0] = '[';
    memcpy(text + 1, deep, deep_size);
    memcpy(text + 1 + deep_size, ",\"", 2);
    size = deep_size + 3;
    for (int i = 0; i < 2000; i++, size += 2)
        memcpy(text + size, "\\n", 2);
    memcpy(text + size, "\"]", 2);
    size += 2;
    for (size_t fail_at = 1; !fine; fail_at++) {
        test_events events;
        size_t offset = 0;
        memset(&events, 0, sizeof events);
        memory.calls = 0;
        memory.fail_at = fail_at;
        fine = pgqrsi_json_parse(text, size, test_report, &events, &offset, &allocator);
        assert_int_equal(memory.live_bytes, 0);
        if (!fine) {
            assert_true(offset == PGQRSI_JSON_NO_MEMORY);
            failures++;
        }
        assert_true(fail_at < 100);
    }
    assert_true(failures >= 6);
    free(text);
    free(deep);
}

static void test_report_stops_the_parser(void **state)
{
    static const char text[] = "{\"a\":[1,\"x\\n\",null],\"b\":{}}";
    (void)state;
    for (size_t stop_at = 1; stop_at <= 11; stop_at++) {
        test_events events;
        size_t offset = 0;
        memset(&events, 0, sizeof events);
        events.stop_at = stop_at;
        assert_false(pgqrsi_json_parse(text, sizeof text - 1, test_report, &events, &offset, NULL));
        assert_int_equal(events.count, stop_at);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_nul_bytes),
        cmocka_unit_test(test_special_byte_at_every_place),
        cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_every_byte_changed),
        cmocka_unit_test(test_deep),
        cmocka_unit_test(test_long_escaped_string),
        cmocka_unit_test(test_nothing_is_allocated_for_common_payloads),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_report_stops_the_parser),
    };
    return cmocka_run_group_tests_name("unit_json", tests, NULL, NULL);
}
