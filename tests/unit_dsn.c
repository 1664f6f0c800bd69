/* DSNs in messages: the scheme, and that no password survives redaction. Also the numbers and names beside them. */
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void test_scheme(void **state)
{
    static const struct {
        const char *dsn;
        size_t length;
    } cases[] = {
        {"postgres://u@h/db", 8}, {"postgresql:///db", 10}, {"sqlite::memory:", 6}, {"sqlite://jobs.db", 6},
        {"turso://x", 5},         {"s3://bucket/key", 2},   {"a+b-c.d2:x", 8},      {"S3:", 2},
        {"", 0},                  {":", 0},                 {"://x", 0},            {"jobs.db", 0},
        {"host=h port=1", 0},     {"3s://x", 0},            {"-a:x", 0},            {"a b:c", 0},
        {"postgres", 0},          {"a_b:c", 0},             {"\xc3\xa9:x", 0},      {"a/b:c", 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        if (pgqrsi_dsn_scheme(cases[i].dsn) != cases[i].length)
            fail_msg("%s: %zu", cases[i].dsn, pgqrsi_dsn_scheme(cases[i].dsn));
    assert_int_equal(pgqrsi_dsn_scheme(NULL), 0);
}

static void test_redacted(void **state)
{
    static const char *const cases[][2] = {
        {"postgres://ada:secret@db.example.com/jobs", "postgres://ada:***@db.example.com/jobs"},
        {"postgresql://ada:secret@h:5432/jobs?sslmode=require", "postgresql://ada:***@h:5432/jobs?sslmode=require"},
        {"postgres://ada@h:5432/jobs", "postgres://ada@h:5432/jobs"},
        {"postgres://h:5432/jobs", "postgres://h:5432/jobs"},
        {"postgres://h1:5432,h2:5433/jobs", "postgres://h1:5432,h2:5433/jobs"},
        {"postgres://[::1]:5432/jobs", "postgres://[::1]:5432/jobs"},
        {"postgres://ada@[::1]:5432/jobs", "postgres://ada@[::1]:5432/jobs"},
        {"postgres://ada:@h/jobs", "postgres://ada:***@h/jobs"},
        {"postgres:///jobs?host=/run/postgresql", "postgres:///jobs?host=/run/postgresql"},
        {"postgres://ada:secret@h/jobs?sslmode=require&password=secret",
         "postgres://ada:***@h/jobs?sslmode=require&password=***"},
        {"host=h user=ada dbname=jobs password=secret", "host=h user=ada dbname=jobs password=***"},
        {"host=h user=ada dbname=jobs", "host=h user=ada dbname=jobs"},
        {"sqlite://jobs.db", "sqlite://jobs.db"},
        {"sqlite:///var/lib/app/jobs.db", "sqlite:///var/lib/app/jobs.db"},
        {"sqlite::memory:", "sqlite::memory:"},
        {"sqlite://C:/app/jobs.db", "sqlite://C:/app/jobs.db"},
        {"turso://jobs.db", "turso://jobs.db"},
        {"jobs.db", "jobs.db"},
        {"", ""},
        {"mysql://h/jobs", "mysql://h/jobs"},
        {"postgres://ada@h1:5432,h2:5433/jobs?options=-c%20a=b", "postgres://ada@h1:5432,h2:5433/jobs?options=-c%20a=b"},
        {"postgres://key-auth:5432/token", "postgres://key-auth:5432/token"},
        {"postgres://%2Frun%2Fpg:5432/C%3A", "postgres://%2Frun%2Fpg:5432/C%3A"},
        {"postgres://ada%3asecret@h/jobs?options=-c%20a.token%3dx", "postgres://ada%3a***@h/jobs?options=-c%20a.token%3d***"},
        {"postgres://ada:secret@h:secret/jobs", "postgres://ada:***"},
        {"postgres://ada@h/jo\nbs", "postgres://ada@h/jo?bs"},
        {"postgres://ada@h/\xff", "postgres://ada@h/?"},
    };
    char shown[200];
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        pgqrsi_dsn_redact(cases[i][0], shown, sizeof shown);
        assert_string_equal(shown, cases[i][1]);
    }
    pgqrsi_dsn_redact(NULL, shown, sizeof shown);
    assert_string_equal(shown, "(none)");
}

/* 32 letters of a parameter's name. */
#define LONG "%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61%61"

/* In each, everything secret is made of capitals Q and Z; whatever the buffer, none may be seen. */
static void test_password_is_never_visible(void **state)
{
    static const char *const dsns[] = {
        "postgres://ada:QZQZ@h/db",
        "postgres://:QZQZ@h/db",
        "postgres://ada:QZ@QZ@h/db",
        "postgres://ada:@QZ@QZ@@h/db",
        "postgres://ada:QZ:QZ@h/db",
        "postgres://ada:QZ/QZ@h/db",
        "postgres://ada:QZ?QZ@h/db",
        "postgres://ada:QZ#QZ@h/db",
        "postgres://ada:QZ&QZ=QZ@h/db",
        "postgres://ada:QZ%40QZ@h/db",
        "postgres://ada:QZ QZ@h/db",
        "postgres://ada:QZ[QZ]@h/db",
        "postgres://ada:QZ\tQZ\n@h/db",
        "postgres://ada:QZ?password=QZ@h/db",
        "postgres://ada:12?password=QZ@h/db",
        "postgres://ada:QZ/?key=@QZ",
        "postgres://ada:QZ",
        "postgres://ada:QZ/db",
        "postgres://h:5432,ada:QZ",
        "postgres://ada:5432QZ/db",
        "postgres://ada:QZ@",
        "postgres://ada:QZ@h1:1,h2:2/db?x=a@b",
        "postgres://ada%3AQZ@h/db",
        "postgres://ada%3aQZ%40h/db",
        "postgres://ada%3AQZ",
        "postgres://ada%3AQZ@h:QZ/db",
        "postgres://ada@h:QZ/db",
        "postgres://ada@[::1]:QZ/db",
        "postgres://[ada:QZ/db",
        "postgres:ada:QZ@h/db",
        "postgres:QZ@h",
        "postgres:QZ",
        "postgres:/ada:QZ@h/db",
        "postgres//ada:QZ@h/db",
        "ada:QZ@h/db",
        "ada:QZ",
        "POSTGRES://ada:QZ@h/db",
        "redis://ada:QZ@h/db",
        "sqlite://ada:QZ@h/db",
        "turso://h/db?authToken=QZ.QZ",
        "turso://h/db?AUTH_TOKEN=QZ",
        "postgres://h/db?password=QZ",
        "postgres://h/db?PassWord=QZ&sslmode=QZ",
        "postgres://h/db?pass%77ord=QZ",
        "postgres://h/db?%70%41SSWORD=QZ",
        "postgres://h/db?password%3DQZ",
        "postgres://h/db?pass%77ord%3dQZ",
        "postgres://h/db?pw=QZ",
        "postgres://h/db?options=-c%20a.password%3DQZ",
        "postgres://h/db?password=QZ@QZ",
        "postgres://ada@h/db?password=QZ@QZ&x=QZ",
        "postgres://ada:QZ@h/db?password=QZ@QZ",
        "postgres://h/db?sslpassword=QZ;QZ",
        "postgres://h/db?secret_key=QZ",
        "postgres://h/db?api-key=QZ#QZ",
        "postgres://h/db?aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaapwx=QZ",
        "postgres://h/db?pw" LONG LONG "=QZ",
        "postgres://h/db?pw" LONG LONG LONG LONG "=QZ",
        "host=h password=QZ user=ada",
        "host=h password = QZ user=ada",
        "host=h password\n=QZ user=ada",
        "host=h password \r\n\t\v\f = QZ user=ada",
        "host=h password\xa0=QZ user=ada",
        "host=h password\xc2\xa0= QZ user=ada",
        "host=/run/pg password: QZ",
        "host=/run/pg password:5432QZ",
        "{\"dbname\": \"/jobs\", \"password\" : \"QZ\"}",
        "{'host': '/run/pg', 'password': 'QZ@h'}",
        "host=h password='QZ QZ' user=ada",
        "host=h password='QZ\\'QZ",
        "password=QZ",
        "password=",
        "host=h passwd=QZ:QZ@QZ",
        "PGPASSWORD=QZ host=h",
    };
    (void)state;
    for (size_t i = 0; i < COUNT(dsns); i++) {
        for (size_t size = 1; size < 128; size++) {
            char shown[128];
            memset(shown, 'x', sizeof shown);
            pgqrsi_dsn_redact(dsns[i], shown, size);
            assert_non_null(memchr(shown, '\0', size));
            if (strpbrk(shown, "QZ"))
                fail_msg("%s\n  shows as %s", dsns[i], shown);
            assert_null(strpbrk(shown, "\n\t"));
        }
    }
}

static void test_redaction_respects_the_buffer(void **state)
{
    static const char dsn[] = "postgres://\xc3\xa9\xc3\xa9:secret@\xe2\x82\xac/db?password=secret";
    (void)state;
    for (size_t size = 0; size < sizeof dsn + 4; size++) {
        char *shown = (char *)malloc(size + 1); /* exact, for the address sanitizer */
        assert_non_null(shown);
        shown[size] = 'x';
        pgqrsi_dsn_redact(dsn, shown, size);
        assert_int_equal(shown[size], 'x');
        if (size > 0)
            assert_true(pgqrsi_utf8_valid(shown, strlen(shown), NULL));
        free(shown);
    }
}

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        bool good;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"7", true, 7},
        {"-7", true, -7},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"18446744073709551616", false, 0},
        {"99999999999999999999999", false, 0},
        {"", false, 0},
        {"-", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"01", false, 0},
        {"-01", false, 0},
        {"00", false, 0},
        {"1.0", false, 0},
        {"1e3", false, 0},
        {"0x1", false, 0},
        {"1k", false, 0},
        {"--1", false, 0},
        {"\xd9\xa1", false, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t value = 0;
        if (pgqrsi_parse_int64(cases[i].text, strlen(cases[i].text), &value) != cases[i].good)
            fail_msg("%s", cases[i].text);
        if (cases[i].good)
            assert_true(value == cases[i].value);
    }
}

static void test_shown_text(void **state)
{
    char shown[8];
    (void)state;
    pgqrsi_text_show("abc", 3, shown, sizeof shown);
    assert_string_equal(shown, "abc");
    pgqrsi_text_show("abcdefg", 7, shown, sizeof shown);
    assert_string_equal(shown, "abcdefg");
    pgqrsi_text_show("abcdefgh", 8, shown, sizeof shown);
    assert_string_equal(shown, "abcd...");
    pgqrsi_text_show("abc\xe2\x82\xac\xe2\x82\xac", 9, shown, sizeof shown);
    assert_string_equal(shown, "abc...");
    pgqrsi_text_show("a\nb\0c\xc2\x85", 7, shown, sizeof shown);
    assert_string_equal(shown, "a?b?c?");
    pgqrsi_text_show("\xff\xff", 2, shown, sizeof shown);
    assert_string_equal(shown, "??");
    pgqrsi_text_show("abc", 3, shown, 3);
    assert_string_equal(shown, "ab");
    pgqrsi_text_show("abc", 3, shown, 1);
    assert_string_equal(shown, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scheme),
        cmocka_unit_test(test_redacted),
        cmocka_unit_test(test_password_is_never_visible),
        cmocka_unit_test(test_redaction_respects_the_buffer),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_shown_text),
    };
    return cmocka_run_group_tests_name("unit_dsn", tests, NULL, NULL);
}
