/* Configuration from code, environment and YAML files. Links libyaml; unit_config_plain.c is the program without it.
 * libyaml has its own memory, so the allocator that fails reaches the rest only. */
#ifndef PGQRS_YAML
#define PGQRS_YAML
#endif
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *const test_variables[] = {
    "PGQRS_DSN",
    "PGQRS_SCHEMA",
    "PGQRS_MAX_CONNECTIONS",
    "PGQRS_CONNECTION_TIMEOUT",
    "PGQRS_DEFAULT_LOCK_TIME",
    "PGQRS_DEFAULT_BATCH_SIZE",
    "PGQRS_MAX_READ_CT",
    "PGQRS_HEARTBEAT_INTERVAL",
    "PGQRS_POLL_INTERVAL_MS",
    "PGQRS_VALIDATION_CONFIG",
    "PGQRS_SQLITE_USE_WAL",
    "PGQRS_POOLER",
    "PGQRS_S3_MODE",
    "PGQRS_S3_CACHE_DIR",
    "PGQRS_CONFIG_FILE",
};

/* Each test starts with an empty environment in an empty directory. */
static char test_directory[] = "/tmp/pgqrs-config-XXXXXX";
static char test_old_directory[4096];

static int test_begin(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(test_variables); i++)
        unsetenv(test_variables[i]);
    if (!getcwd(test_old_directory, sizeof test_old_directory))
        return -1;
    memcpy(test_directory + sizeof test_directory - 7, "XXXXXX", 6);
    return mkdtemp(test_directory) && chdir(test_directory) == 0 ? 0 : -1;
}

static int test_end(void **state)
{
    static const char *const files[] = {"pgqrs.yaml", "pgqrs.yml", "other.yaml"};
    (void)state;
    for (size_t i = 0; i < COUNT(files); i++)
        if (unlink(files[i]) != 0)
            rmdir(files[i]);
    return chdir(test_old_directory) == 0 && rmdir(test_directory) == 0 ? 0 : -1;
}

static void test_write_bytes(const char *path, const char *text, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void test_write(const char *path, const char *text)
{
    test_write_bytes(path, text, strlen(text));
}

static void test_has(const pgqrs_error *err, const char *part)
{
    if (!strstr(err->message, part))
        fail_msg("no \"%s\" in \"%s\"", part, err->message);
}

static pgqrs_config *test_load(const pgqrs_config_desc *desc)
{
    pgqrs_error err;
    pgqrs_config *config = pgqrs_config_load(desc, &err);
    if (!config)
        fail_msg("%s", err.message);
    assert_int_equal(err.code, PGQRS_OK);
    return config;
}

/* Loads, and must be refused with a message that has all of the parts. */
static void test_refused(const pgqrs_config_desc *desc, pgqrs_result code, const char *part, const char *part2)
{
    pgqrs_error err;
    pgqrs_config *config = pgqrs_config_load(desc, &err);
    if (config)
        fail_msg("accepted, instead of: %s %s", part, part2 ? part2 : "");
    assert_int_equal(err.code, code);
    test_has(&err, part);
    if (part2)
        test_has(&err, part2);
    assert_null(pgqrs_config_load(desc, NULL));
}

static void test_nothing_given(void **state)
{
    (void)state;
    test_refused(NULL, PGQRS_ERR_BAD_CONFIG, "PGQRS_DSN", "pgqrs.yaml");
    pgqrs_free(NULL);
}

static void test_only_a_dsn(void **state)
{
    pgqrs_config_desc desc;
    char dsn[] = "sqlite://jobs.db";
    (void)state;
    memset(&desc, 0, sizeof desc);
    desc.dsn = dsn;
    pgqrs_config *config = test_load(&desc);
    memset(dsn, 'x', sizeof dsn - 1); /* it was copied */
    assert_string_equal(config->dsn, "sqlite://jobs.db");
    assert_null(config->store.schema);
    assert_int_equal(config->max_connections, 16);
    assert_int_equal(config->store.default_lease_ms, 0);
    assert_int_equal(config->store.default_max_attempts, 0);
    assert_int_equal(config->store.pooler, PGQRS_AUTO);
    assert_int_equal(config->store.sqlite_wal, PGQRS_AUTO);
    assert_false(config->s3_local);
    assert_null(config->s3_cache_dir);
    assert_int_equal(config->store.validation.max_payload_bytes, 0);
    assert_null(config->store.validation.forbidden_keys);
    pgqrs_free(config);
}

static void test_whole_environment(void **state)
{
    (void)state;
    setenv("PGQRS_DSN", "postgresql://ada:secret@h/jobs", 1);
    setenv("PGQRS_SCHEMA", "jobs", 1);
    setenv("PGQRS_MAX_CONNECTIONS", "3", 1);
    setenv("PGQRS_CONNECTION_TIMEOUT", "7", 1);
    setenv("PGQRS_DEFAULT_LOCK_TIME", "45", 1);
    setenv("PGQRS_DEFAULT_BATCH_SIZE", "99", 1);
    setenv("PGQRS_MAX_READ_CT", "4", 1);
    setenv("PGQRS_HEARTBEAT_INTERVAL", "2", 1);
    setenv("PGQRS_POLL_INTERVAL_MS", "125", 1);
    setenv("PGQRS_SQLITE_USE_WAL", "false", 1);
    setenv("PGQRS_POOLER", "on", 1);
    setenv("PGQRS_VALIDATION_CONFIG",
           "{\"max_payload_size_bytes\": 1000, \"max_string_length\": 200, \"max_object_depth\": 3,"
           " \"forbidden_keys\": [\"a\", \"b\\u00e9\"], \"required_keys\": [\"id\"], \"max_enqueue_per_second\": 10,"
           " \"max_enqueue_burst\": 5}",
           1);
    pgqrs_config *config = test_load(NULL);
    for (size_t i = 0; i < COUNT(test_variables); i++)
        unsetenv(test_variables[i]);
    const pgqrs_store_desc *store = &config->store;
    assert_string_equal(config->dsn, "postgresql://ada:secret@h/jobs");
    assert_string_equal(store->schema, "jobs");
    assert_int_equal(config->max_connections, 3);
    assert_int_equal(store->connect_timeout_ms, 7000);
    assert_int_equal(store->default_lease_ms, 45000);
    assert_int_equal(store->default_batch, 99);
    assert_int_equal(store->default_max_attempts, 4);
    assert_int_equal(store->heartbeat_ms, 2000);
    assert_int_equal(store->poll_ms, 125);
    assert_int_equal(store->sqlite_wal, PGQRS_OFF);
    assert_int_equal(store->pooler, PGQRS_ON);
    assert_int_equal(store->validation.max_payload_bytes, 1000);
    assert_int_equal(store->validation.max_string_bytes, 200);
    assert_int_equal(store->validation.max_depth, 3);
    assert_int_equal(store->validation.forbidden_key_count, 2);
    assert_string_equal(store->validation.forbidden_keys[0], "a");
    assert_string_equal(store->validation.forbidden_keys[1], "b\xc3\xa9");
    assert_int_equal(store->validation.required_key_count, 1);
    assert_string_equal(store->validation.required_keys[0], "id");
    assert_int_equal(store->validation.max_enqueue_per_second, 10);
    assert_int_equal(store->validation.max_enqueue_burst, 5);
    pgqrs_error err;
    assert_int_equal(pgqrsi_settings_check(store, &err), PGQRS_OK);
    pgqrs_free(config);
}

typedef struct test_value {
    const char *name;
    const char *value;
    const char *allowed; /* part of the message; NULL: good */
} test_value;

static void test_variable_values(void **state)
{
    static const test_value values[] = {
        {"PGQRS_DSN", "", "not empty"},
        {"PGQRS_DSN", "null", NULL},
        {"PGQRS_SCHEMA", "", "not empty"},
        {"PGQRS_SCHEMA", "1st", "must start with a letter or underscore"},
        {"PGQRS_SCHEMA", "a b", "invalid character"},
        {"PGQRS_SCHEMA", "_ok$", NULL},
        {"PGQRS_MAX_CONNECTIONS", "1", NULL},
        {"PGQRS_MAX_CONNECTIONS", "10000", NULL},
        {"PGQRS_MAX_CONNECTIONS", "0", "1 to 10000"},
        {"PGQRS_MAX_CONNECTIONS", "10001", "1 to 10000"},
        {"PGQRS_MAX_CONNECTIONS", "-1", "1 to 10000"},
        {"PGQRS_MAX_CONNECTIONS", "invalid", "1 to 10000"},
        {"PGQRS_MAX_CONNECTIONS", "", "1 to 10000"},
        {"PGQRS_MAX_CONNECTIONS", "null", "1 to 10000"},
        {"PGQRS_MAX_CONNECTIONS", " 5", "whole number"},
        {"PGQRS_MAX_CONNECTIONS", "5 ", "whole number"},
        {"PGQRS_MAX_CONNECTIONS", "+5", "whole number"},
        {"PGQRS_MAX_CONNECTIONS", "5.0", "whole number"},
        {"PGQRS_MAX_CONNECTIONS", "99999999999999999999", "whole number"},
        {"PGQRS_CONNECTION_TIMEOUT", "1", NULL},
        {"PGQRS_CONNECTION_TIMEOUT", "0", "1 to 2147483"},
        {"PGQRS_CONNECTION_TIMEOUT", "2147484", "1 to 2147483"},
        {"PGQRS_CONNECTION_TIMEOUT", "30s", "whole number"},
        {"PGQRS_DEFAULT_LOCK_TIME", "315576000", NULL},
        {"PGQRS_DEFAULT_LOCK_TIME", "315576001", "1 to 315576000"},
        {"PGQRS_DEFAULT_LOCK_TIME", "0", "1 to 315576000"},
        {"PGQRS_DEFAULT_LOCK_TIME", "9223372036854775807", "1 to 315576000"},
        {"PGQRS_DEFAULT_BATCH_SIZE", "10000", NULL},
        {"PGQRS_DEFAULT_BATCH_SIZE", "10001", "1 to 10000"},
        {"PGQRS_DEFAULT_BATCH_SIZE", "0", "1 to 10000"},
        {"PGQRS_MAX_READ_CT", "32767", NULL},
        {"PGQRS_MAX_READ_CT", "32768", "1 to 32767"},
        {"PGQRS_MAX_READ_CT", "0", "1 to 32767"},
        {"PGQRS_HEARTBEAT_INTERVAL", "2147483", NULL},
        {"PGQRS_HEARTBEAT_INTERVAL", "0", "1 to 2147483"},
        {"PGQRS_HEARTBEAT_INTERVAL", "x", "1 to 2147483"},
        {"PGQRS_POLL_INTERVAL_MS", "2147483647", NULL},
        {"PGQRS_POLL_INTERVAL_MS", "2147483648", "1 to 2147483647"},
        {"PGQRS_POLL_INTERVAL_MS", "0", "1 to 2147483647"},
        {"PGQRS_SQLITE_USE_WAL", "true", NULL},
        {"PGQRS_SQLITE_USE_WAL", "FALSE", NULL},
        {"PGQRS_SQLITE_USE_WAL", "1", NULL},
        {"PGQRS_SQLITE_USE_WAL", "0", NULL},
        {"PGQRS_SQLITE_USE_WAL", "yes", "true or false"},
        {"PGQRS_SQLITE_USE_WAL", "2", "true or false"},
        {"PGQRS_SQLITE_USE_WAL", "", "true or false"},
        {"PGQRS_SQLITE_USE_WAL", "truee", "true or false"},
        {"PGQRS_POOLER", "auto", NULL},
        {"PGQRS_POOLER", "on", NULL},
        {"PGQRS_POOLER", "Off", NULL},
        {"PGQRS_POOLER", "true", "auto, on or off"},
        {"PGQRS_POOLER", "", "auto, on or off"},
        {"PGQRS_S3_MODE", "durable", NULL},
        {"PGQRS_S3_MODE", "Local", NULL},
        {"PGQRS_S3_MODE", "remote", "durable or local"},
        {"PGQRS_S3_MODE", "", "durable or local"},
        {"PGQRS_S3_CACHE_DIR", "/var/cache/jobs", NULL},
        {"PGQRS_S3_CACHE_DIR", "", "not empty"},
        {"PGQRS_CONFIG_FILE", "", "must not be empty"},
        {"PGQRS_CONFIG_FILE", "missing.yaml", "missing.yaml cannot be opened: it is not there"},
        {"PGQRS_VALIDATION_CONFIG", "{}", NULL},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_object_depth\":1}", NULL},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_enqueue_per_second\":null,\"max_enqueue_burst\":null}", NULL},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_enqueue_per_second\":0}", NULL},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_string_length\":null}", NULL},
        {"PGQRS_VALIDATION_CONFIG", "{\"forbidden_keys\":[],\"required_keys\":[\"\"]}", NULL},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_payload_size_bytes\":2147483647}", NULL},
        {"PGQRS_VALIDATION_CONFIG", "", "not well-formed at byte 0"},
        {"PGQRS_VALIDATION_CONFIG", "{", "not well-formed at byte 1"},
        {"PGQRS_VALIDATION_CONFIG", "{} x", "not well-formed at byte 3"},
        {"PGQRS_VALIDATION_CONFIG", "[]", "must be a JSON object"},
        {"PGQRS_VALIDATION_CONFIG", "null", "must be a JSON object"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_payload_size_bytes\":0}", "'max_payload_size_bytes' must be a"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_payload_size_bytes\":null}", "'max_payload_size_bytes' must be"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_payload_size_bytes\":9223372036854775808}", "must be a whole number"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_payload_size_bytes\":\"5\"}", "must be a whole number"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_payload_size_bytes\":1e3}", "must be a whole number"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_payload_size_bytes\":[1]}", "must be a whole number"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_payload_size_bytes\":{}}", "must be a whole number"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_object_depth\":0}", "1 to 2147483647"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_object_depth\":2147483648}", "1 to 2147483647"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_enqueue_per_second\":-1}", "or null for no limit"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_enqueue_per_second\":true}", "or null for no limit"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_enqueue_burst\":5}", "max_enqueue_burst"},
        {"PGQRS_VALIDATION_CONFIG", "{\"forbidden_keys\":\"a\"}", "'forbidden_keys' must be a list of texts"},
        {"PGQRS_VALIDATION_CONFIG", "{\"forbidden_keys\":null}", "must be a list of texts"},
        {"PGQRS_VALIDATION_CONFIG", "{\"forbidden_keys\":[1]}", "must be a list of texts"},
        {"PGQRS_VALIDATION_CONFIG", "{\"forbidden_keys\":[[\"a\"]]}", "must be a list of texts"},
        {"PGQRS_VALIDATION_CONFIG", "{\"forbidden_keys\":[\"a\\u0000b\"]}", "NUL"},
        {"PGQRS_VALIDATION_CONFIG", "{\"forbidden_keys\":[\"a\"],\"required_keys\":[\"a\"]}", "'a'"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_depth\":5}", "'max_depth' is not a setting"},
        {"PGQRS_VALIDATION_CONFIG", "{\"dsn\":\"x\"}", "'dsn' is not a setting"},
        {"PGQRS_VALIDATION_CONFIG", "{\"postgres://ada:secret@h/jobs\":1}", "'postgres://ada:***@h/jobs' is not a setting"},
        {"PGQRS_VALIDATION_CONFIG", "{\"max_object_depth\":5,\"max_object_depth\":6}", "is there twice"},
    };
    pgqrs_config_desc desc;
    (void)state;
    memset(&desc, 0, sizeof desc);
    for (size_t i = 0; i < COUNT(values); i++) {
        setenv("PGQRS_DSN", "sqlite://jobs.db", 1);
        setenv(values[i].name, values[i].value, 1);
        if (values[i].allowed)
            test_refused(NULL, PGQRS_ERR_BAD_CONFIG, values[i].name, values[i].allowed);
        else
            pgqrs_free(test_load(NULL));
        /* also when it is overruled it is checked; unless nobody looks */
        desc.dsn = "sqlite://code.db";
        desc.no_environment = false;
        if (values[i].allowed)
            test_refused(&desc, PGQRS_ERR_BAD_CONFIG, values[i].name, values[i].allowed);
        desc.no_environment = true;
        pgqrs_free(test_load(&desc));
        unsetenv(values[i].name);
    }
}

static void test_no_value_is_shown(void **state)
{
    (void)state;
    setenv("PGQRS_DSN", "sqlite://jobs.db", 1);
    for (size_t i = 1; i < COUNT(test_variables) - 1; i++) {
        pgqrs_error err;
        if (strcmp(test_variables[i], "PGQRS_S3_CACHE_DIR") == 0) /* any text will do */
            continue;
        setenv(test_variables[i], "hunter2 is my password", 1);
        assert_null(pgqrs_config_load(NULL, &err));
        test_has(&err, test_variables[i]);
        assert_null(strstr(err.message, "hunter2"));
        unsetenv(test_variables[i]);
    }
}

static const char test_file[] = "# all of it\n"
                                "dsn: postgres://file/jobs\n"
                                "schema: \"file_jobs\"\n"
                                "max_connections: 2\n"
                                "connection_timeout_seconds: 11\n"
                                "default_lock_time_seconds: 12\n"
                                "default_max_batch_size: 13\n"
                                "max_read_ct: 14\n"
                                "heartbeat_interval: 15\n"
                                "poll_interval_ms: 16\n"
                                "pooler: off\n"
                                "sqlite:\n"
                                "  use_wal: true\n"
                                "s3: {mode: LOCAL, cache_dir: /var/cache/jobs}\n"
                                "validation_config:\n"
                                "  max_payload_size_bytes: 17\n"
                                "  max_string_length: 18\n"
                                "  max_object_depth: 19\n"
                                "  forbidden_keys: [x, \"null\", '5']\n"
                                "  required_keys:\n"
                                "    - id\n"
                                "    - kind\n"
                                "  max_enqueue_per_second: 20\n"
                                "  max_enqueue_burst: 21\n";

static void test_whole_file(void **state)
{
    (void)state;
    test_write("pgqrs.yaml", test_file);
    pgqrs_config *config = test_load(NULL);
    const pgqrs_store_desc *store = &config->store;
    assert_string_equal(config->dsn, "postgres://file/jobs");
    assert_string_equal(store->schema, "file_jobs");
    assert_int_equal(config->max_connections, 2);
    assert_int_equal(store->connect_timeout_ms, 11000);
    assert_int_equal(store->default_lease_ms, 12000);
    assert_int_equal(store->default_batch, 13);
    assert_int_equal(store->default_max_attempts, 14);
    assert_int_equal(store->heartbeat_ms, 15000);
    assert_int_equal(store->poll_ms, 16);
    assert_int_equal(store->pooler, PGQRS_OFF);
    assert_int_equal(store->sqlite_wal, PGQRS_ON);
    assert_true(config->s3_local);
    assert_string_equal(config->s3_cache_dir, "/var/cache/jobs");
    assert_int_equal(store->validation.max_payload_bytes, 17);
    assert_int_equal(store->validation.max_string_bytes, 18);
    assert_int_equal(store->validation.max_depth, 19);
    assert_int_equal(store->validation.forbidden_key_count, 3);
    assert_string_equal(store->validation.forbidden_keys[0], "x");
    assert_string_equal(store->validation.forbidden_keys[1], "null");
    assert_string_equal(store->validation.forbidden_keys[2], "5");
    assert_int_equal(store->validation.required_key_count, 2);
    assert_string_equal(store->validation.required_keys[0], "id");
    assert_string_equal(store->validation.required_keys[1], "kind");
    assert_int_equal(store->validation.max_enqueue_per_second, 20);
    assert_int_equal(store->validation.max_enqueue_burst, 21);
    pgqrs_free(config);
}

/* Code over environment over file, each field by itself. */
static void test_precedence(void **state)
{
    pgqrs_config_desc desc;
    (void)state;
    memset(&desc, 0, sizeof desc);
    test_write("pgqrs.yaml", test_file);
    setenv("PGQRS_SCHEMA", "env_jobs", 1);
    setenv("PGQRS_MAX_READ_CT", "3", 1);
    setenv("PGQRS_VALIDATION_CONFIG", "{\"max_object_depth\":2,\"required_keys\":[]}", 1);
    pgqrs_config *config = test_load(&desc);
    assert_string_equal(config->dsn, "postgres://file/jobs");
    assert_string_equal(config->store.schema, "env_jobs");
    assert_int_equal(config->store.default_max_attempts, 3);
    assert_int_equal(config->store.default_batch, 13);
    assert_int_equal(config->store.validation.max_depth, 2);
    assert_int_equal(config->store.validation.max_string_bytes, 18);
    assert_int_equal(config->store.validation.required_key_count, 0);
    assert_int_equal(config->store.validation.forbidden_key_count, 3);
    pgqrs_free(config);
    setenv("PGQRS_DSN", "postgres://env/jobs", 1);
    desc.schema = "code_jobs";
    config = test_load(&desc);
    assert_string_equal(config->dsn, "postgres://env/jobs");
    assert_string_equal(config->store.schema, "code_jobs");
    pgqrs_free(config);
    desc.dsn = "postgres://code/jobs";
    config = test_load(&desc);
    assert_string_equal(config->dsn, "postgres://code/jobs");
    assert_int_equal(config->max_connections, 2);
    pgqrs_free(config);
    desc.no_environment = true;
    config = test_load(&desc);
    assert_int_equal(config->store.default_max_attempts, 14);
    pgqrs_free(config);
    desc.no_file = true;
    config = test_load(&desc);
    assert_int_equal(config->store.default_max_attempts, 0);
    pgqrs_free(config);
}

static void test_rate_limit_switched_off(void **state)
{
    (void)state;
    test_write("pgqrs.yaml", test_file);
    setenv("PGQRS_VALIDATION_CONFIG", "{\"max_enqueue_per_second\":null}", 1);
    pgqrs_config *config = test_load(NULL);
    assert_int_equal(config->store.validation.max_enqueue_per_second, 0);
    assert_int_equal(config->store.validation.max_enqueue_burst, 0);
    pgqrs_free(config);
    setenv("PGQRS_VALIDATION_CONFIG", "{\"max_enqueue_per_second\":100,\"max_enqueue_burst\":null}", 1);
    config = test_load(NULL);
    assert_int_equal(config->store.validation.max_enqueue_per_second, 100);
    assert_int_equal(config->store.validation.max_enqueue_burst, 0);
    pgqrs_free(config);
    /* a burst of the environment without a rate anywhere is a slip */
    test_write("pgqrs.yaml", "validation_config: {max_enqueue_per_second: null}\ndsn: sqlite://a\n");
    setenv("PGQRS_VALIDATION_CONFIG", "{\"max_enqueue_burst\":5}", 1);
    test_refused(NULL, PGQRS_ERR_BAD_CONFIG, "VALIDATION_CONFIG", "max_enqueue_burst");
}

static void test_which_file(void **state)
{
    pgqrs_config_desc desc;
    pgqrs_config *config;
    (void)state;
    memset(&desc, 0, sizeof desc);
    test_write("pgqrs.yml", "dsn: sqlite://yml\n");
    config = test_load(&desc);
    assert_string_equal(config->dsn, "sqlite://yml");
    pgqrs_free(config);
    test_write("pgqrs.yaml", "dsn: sqlite://yaml\n");
    config = test_load(&desc);
    assert_string_equal(config->dsn, "sqlite://yaml");
    pgqrs_free(config);
    test_write("other.yaml", "dsn: sqlite://other\n");
    setenv("PGQRS_CONFIG_FILE", "other.yaml", 1);
    config = test_load(&desc);
    assert_string_equal(config->dsn, "sqlite://other");
    pgqrs_free(config);
    desc.file = "pgqrs.yml";
    config = test_load(&desc);
    assert_string_equal(config->dsn, "sqlite://yml");
    pgqrs_free(config);
    desc.file = "missing.yaml";
    test_refused(&desc, PGQRS_ERR_BAD_CONFIG, "pgqrs_config_desc.file: missing.yaml", "it is not there");
    desc.file = "";
    test_refused(&desc, PGQRS_ERR_BAD_CONFIG, "pgqrs_config_desc.file", "must not be empty");
    desc.file = "pgqrs.yml";
    desc.no_file = true;
    test_refused(&desc, PGQRS_ERR_INVALID_ARGUMENT, "no_file", NULL);
    desc.file = NULL;
    desc.no_file = false;
    desc.no_environment = true;
    config = test_load(&desc);
    assert_string_equal(config->dsn, "sqlite://yaml");
    pgqrs_free(config);
    desc.no_file = true;
    test_refused(&desc, PGQRS_ERR_BAD_CONFIG, "no DSN", NULL);
}

static void test_unreadable_files(void **state)
{
    pgqrs_error err;
    (void)state;
    setenv("PGQRS_DSN", "sqlite://jobs.db", 1);
    setenv("PGQRS_CONFIG_FILE", "pgqrs.yaml/other.yaml", 1);
    test_write("pgqrs.yaml", "max_read_ct: 1\n");
    assert_null(pgqrs_config_load(NULL, &err));
    assert_int_equal(err.native_code, ENOTDIR);
    test_refused(NULL, PGQRS_ERR_BAD_CONFIG, "PGQRS_CONFIG_FILE", "native_code");
    unsetenv("PGQRS_CONFIG_FILE");
    unlink("pgqrs.yaml");
    assert_int_equal(mkdir("pgqrs.yaml", 0700), 0);
    test_refused(NULL, PGQRS_ERR_BAD_CONFIG, "pgqrs.yaml", NULL);
    rmdir("pgqrs.yaml");
    if (geteuid() != 0) { /* root may read everything */
        test_write("pgqrs.yaml", "max_read_ct: 1\n");
        assert_int_equal(chmod("pgqrs.yaml", 0), 0);
        test_refused(NULL, PGQRS_ERR_BAD_CONFIG, "pgqrs.yaml", "permission denied");
    }
}

static void test_file_contents(void **state)
{
    static const test_value files[] = {
        {"", "", NULL},
        {"", "# nothing but a comment\n", NULL},
        {"", "---\n...\n", NULL},
        {"", "max_read_ct: 7\n", NULL},
        {"", "schema: &name jobs\nvalidation_config: {required_keys: [*name]}\n", NULL},
        {"", "{\"schema\": \"json_is_yaml\", \"max_read_ct\": 5}\n", NULL},
        {"", "sqlite: {use_wal: False}\n", NULL},
        {"", "validation_config:\n  max_enqueue_per_second: ~\n", NULL},
        {"", "validation_config:\n  max_enqueue_per_second:\n", NULL},
        {"", "validation_config:\n  forbidden_keys: []\n", NULL},
        {"", "\xef\xbb\xbfmax_read_ct: 7\n", NULL},
        {"line 1: key 'dsn'", "dsn:\n", "not empty"},
        {"line 1: key 'dsn'", "dsn: null\n", "not empty"},
        {"line 1: key 'dsn'", "dsn: ''\n", "not empty"},
        {"line 1: key 'dsn'", "dsn: [a]\n", "not empty"},
        {"line 1: key 'dsn'", "dsn: \"sqlite://a\\0b\"\n", "NUL"},
        {"line 2: key 'schema'", "\nschema: 1st\n", "must start with a letter"},
        {"line 3: key 'max_conections'", "\n\nmax_conections: 5\n", "not a setting"},
        {"line 1: key 'use_wal'", "use_wal: true\n", "not a setting"},
        {"line 1: key 'sqlite.use_wal'", "sqlite.use_wal: true\n", "not a setting"},
        {"line 2: key 'sqlite.dsn'", "sqlite:\n  dsn: x\n", "not a setting"},
        {"line 2: key 'sqlite.use_wal'", "sqlite:\n  use_wal: maybe\n", "true or false"},
        {"line 2: key 'sqlite.use_wal'", "sqlite:\n  use_wal: 'true'\n", "true or false"},
        {"line 1: key 'sqlite'", "sqlite: true\n", "indented below it"},
        {"line 1: key 'sqlite'", "sqlite:\n", "indented below it"},
        {"line 1: key 'validation_config'", "validation_config: [a]\n", "indented below it"},
        {"line 2: key 'validation_config.max_depth'", "validation_config:\n  max_depth: 5\n", "not a setting"},
        {"line 2: key 'validation_config.max_object_depth'", "validation_config:\n  max_object_depth: x\n",
         "2147483647"},
        {"line 2: key 'validation_config.forbidden_keys'", "validation_config:\n  forbidden_keys: a\n",
         "list of texts"},
        {"line 2: key 'validation_config.forbidden_keys'", "validation_config:\n  forbidden_keys: [[a]]\n",
         "list of texts"},
        {"line 2: key 'validation_config.max_enqueue_burst'",
         "validation_config:\n  max_enqueue_burst: 1.5\n", "or null for no limit"},
        {"line 1: key 'max_read_ct'", "max_read_ct: five\n", "1 to 32767"},
        {"line 1: key 'max_read_ct'", "max_read_ct: '5'\n", "1 to 32767"},
        {"line 1: key 'max_read_ct'", "max_read_ct: 0\n", "1 to 32767"},
        {"line 1: key 'max_read_ct'", "max_read_ct: 010\n", "1 to 32767"},
        {"line 1: key 'max_read_ct'", "max_read_ct: 99999999999999999999\n", "1 to 32767"},
        {"line 1: key 'max_read_ct'", "max_read_ct:\n", "1 to 32767"},
        {"line 1: key 'max_read_ct'", "max_read_ct: {a: 1}\n", "1 to 32767"},
        {"line 2: key 'max_read_ct'", "max_read_ct: 5\nmax_read_ct: 5\n", "is there twice"},
        {"line 3: key 'sqlite.use_wal'", "sqlite: {use_wal: true}\nsqlite:\n  use_wal: true\n", "is there twice"},
        {"line 1: key 'pooler'", "pooler: maybe\n", "auto, on or off"},
        {"line 2: key 's3.mode'", "s3:\n  mode: both\n", "durable or local"},
        {"line 2: key 's3.bucket'", "s3:\n  bucket: x\n", "not a setting"},
        {"line 1: key '<<'", "<<: {max_read_ct: 5}\n", "not a setting"},
        {"line 1: key ''", "'': 5\n", "not a setting"},
        {"line 1: key 'a?b'", "\"a\\nb\": 5\n", "not a setting"},
        {"line 1", "? [a, b]\n: 5\n", "must be a plain word"},
        {"line 1", "- dsn\n- schema\n", "key: value"},
        {"line 1", "just a text\n", "key: value"},
        {"line 3", "max_read_ct: 5\n---\nmax_read_ct: 6\n", "second document"},
        {"line 2", "a: [1\nb: 2\n", "not valid YAML"},
        {"line", "dsn: 'open\n", "not valid YAML"},
        {"line 1", "dsn: \"\\q\"\n", "not valid YAML"},
        {"line 2", "schema: jobs\n\tmax_read_ct: 5\n", "not valid YAML"},
        {"line 1", "schema: *unknown\n", "not valid YAML"},
        {"byte 8", "schema: \xff\xfe\n", "not valid YAML"},
    };
    (void)state;
    setenv("PGQRS_DSN", "sqlite://jobs.db", 1);
    for (size_t i = 0; i < COUNT(files); i++) {
        test_write("pgqrs.yaml", files[i].value);
        if (!files[i].allowed) {
            pgqrs_free(test_load(NULL));
            continue;
        }
        test_refused(NULL, PGQRS_ERR_BAD_CONFIG, "pgqrs.yaml", files[i].allowed);
        test_refused(NULL, PGQRS_ERR_BAD_CONFIG, files[i].name, NULL);
    }
    unsetenv("PGQRS_DSN");
    test_write("pgqrs.yaml", "schema: jobs\n");
    test_refused(NULL, PGQRS_ERR_BAD_CONFIG, "no DSN", "PGQRS_DSN");
}

static void test_code_values(void **state)
{
    pgqrs_config_desc desc;
    (void)state;
    memset(&desc, 0, sizeof desc);
    desc.dsn = "";
    test_refused(&desc, PGQRS_ERR_BAD_CONFIG, "pgqrs_config_desc.dsn", "not empty");
    desc.dsn = "sqlite://jobs.db";
    desc.schema = "no-good";
    test_refused(&desc, PGQRS_ERR_BAD_CONFIG, "pgqrs_config_desc.schema", "invalid character");
}

/* Deep or huge files end in an error, not in the stack. */
static void test_deep_file(void **state)
{
    enum { LEVELS = 5000 };
    static char text[LEVELS + 8];
    (void)state;
    setenv("PGQRS_DSN", "sqlite://jobs.db", 1);
    memcpy(text, "dsn: ", 5);
    memset(text + 5, '[', LEVELS);
    test_write_bytes("pgqrs.yaml", text, LEVELS + 5);
    test_refused(NULL, PGQRS_ERR_BAD_CONFIG, "pgqrs.yaml", NULL);
}

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

static void test_every_allocation_may_fail(void **state)
{
    static char validation[6000];
    test_memory memory = {0, 0, 0};
    pgqrs_config_desc desc;
    pgqrs_config *config = NULL;
    size_t used, failures = 0;
    (void)state;
    used = (size_t)snprintf(validation, sizeof validation, "{\"forbidden_keys\":[\"");
    for (int i = 0; i < 400; i++)
        used += (size_t)snprintf(validation + used, sizeof validation - used, "\\n");
    used += (size_t)snprintf(validation + used, sizeof validation - used, "\"");
    for (int i = 0; i < 200; i++)
        used += (size_t)snprintf(validation + used, sizeof validation - used, ",\"key-%d\"", i);
    snprintf(validation + used, sizeof validation - used, "]}");
    setenv("PGQRS_VALIDATION_CONFIG", validation, 1);
    test_write("pgqrs.yaml", test_file);
    memset(&desc, 0, sizeof desc);
    desc.allocator.resize = test_resize;
    desc.allocator.user = &memory;
    for (size_t fail_at = 1; !config; fail_at++) {
        pgqrs_error err;
        memory.calls = 0;
        memory.fail_at = fail_at;
        config = pgqrs_config_load(&desc, &err);
        if (!config) {
            assert_int_equal(err.code, PGQRS_ERR_NO_MEMORY);
            assert_int_equal(memory.live_bytes, 0);
            failures++;
        }
        assert_true(fail_at < 1000);
    }
    assert_true(failures > 4);
    assert_int_equal(config->store.validation.forbidden_key_count, 201);
    assert_string_equal(config->store.validation.forbidden_keys[200], "key-199");
    assert_true(config->store.allocator.resize == test_resize);
    pgqrs_free(config);
    assert_int_equal(memory.live_bytes, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_begin, test_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_given),
        TEST(test_only_a_dsn),
        TEST(test_whole_environment),
        TEST(test_variable_values),
        TEST(test_no_value_is_shown),
        TEST(test_whole_file),
        TEST(test_precedence),
        TEST(test_rate_limit_switched_off),
        TEST(test_which_file),
        TEST(test_unreadable_files),
        TEST(test_file_contents),
        TEST(test_code_values),
        TEST(test_deep_file),
        TEST(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("unit_config", tests, NULL, NULL);
}
