/* Configuration in a program without libyaml: the environment works, and a file is never silently passed over. */
#undef PGQRS_YAML
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static char test_directory[] = "/tmp/pgqrs-config-XXXXXX";
static char test_old_directory[4096];

static int test_begin(void **state)
{
    (void)state;
    unsetenv("PGQRS_CONFIG_FILE");
    unsetenv("PGQRS_VALIDATION_CONFIG");
    setenv("PGQRS_DSN", "sqlite://jobs.db", 1);
    if (!getcwd(test_old_directory, sizeof test_old_directory))
        return -1;
    return mkdtemp(test_directory) && chdir(test_directory) == 0 ? 0 : -1;
}

static int test_end(void **state)
{
    (void)state;
    unlink("pgqrs.yaml");
    unlink("pgqrs.yml");
    return chdir(test_old_directory) == 0 && rmdir(test_directory) == 0 ? 0 : -1;
}

static void test_refused(const pgqrs_config_desc *desc, const char *file)
{
    pgqrs_error err;
    assert_null(pgqrs_config_load(desc, &err));
    assert_int_equal(err.code, PGQRS_ERR_NOT_BUILT);
    assert_int_equal(err.kind, PGQRS_KIND_MISUSE);
    assert_non_null(strstr(err.message, "PGQRS_YAML"));
    assert_non_null(strstr(err.message, file));
    assert_null(pgqrs_config_load(desc, NULL));
}

static void test_write(const char *path)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
}

static void test_files_need_yaml(void **state)
{
    pgqrs_config_desc desc;
    pgqrs_error err;
    (void)state;
    memset(&desc, 0, sizeof desc);
    pgqrs_config *config = pgqrs_config_load(&desc, &err);
    assert_non_null(config);
    assert_string_equal(config->dsn, "sqlite://jobs.db");
    pgqrs_free(config);
    test_write("pgqrs.yml");
    test_refused(&desc, "pgqrs.yml");
    test_write("pgqrs.yaml");
    test_refused(&desc, "pgqrs.yaml");
    desc.file = "pgqrs.yml";
    test_refused(&desc, "pgqrs.yml");
    desc.file = NULL;
    setenv("PGQRS_CONFIG_FILE", "pgqrs.yml", 1);
    test_refused(&desc, "pgqrs.yml");
    desc.no_file = true;
    config = pgqrs_config_load(&desc, &err);
    assert_non_null(config);
    pgqrs_free(config);
    desc.no_file = false;
    setenv("PGQRS_CONFIG_FILE", "missing.yml", 1);
    assert_null(pgqrs_config_load(&desc, &err));
    assert_int_equal(err.code, PGQRS_ERR_BAD_CONFIG);
    assert_non_null(strstr(err.message, "missing.yml"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_files_need_yaml, test_begin, test_end),
    };
    return cmocka_run_group_tests_name("unit_config_plain", tests, NULL, NULL);
}
