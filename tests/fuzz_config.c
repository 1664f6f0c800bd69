/* Configuration. The input is lines "VARIABLE=value"; after a line "---" follows the file. Checked are
 * - the environment alone against a second reader of the same rules, value by value;
 * - that what is accepted is what pgqrs_open accepts;
 * - that a file never overrules the environment, and the code neither;
 * - that a refusal is one line, and does not show the DSN;
 * - that every allocation may fail.
 *
 * fuzz_config_plain.c is the same without libyaml, where a file is refused. */
#ifndef PGQRS_FUZZ_WITHOUT_YAML
#define PGQRS_YAML
#endif
#include "fuzz.h"
#include <unistd.h>

#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

typedef struct fuzz_variable {
    const char *name;
    int64_t min, max; /* both 0: a text */
    const char *words; /* instead: one of these, whatever the case */
} fuzz_variable;

static const fuzz_variable fuzz_variables[] = {
    {"PGQRS_DSN", 0, 0, NULL},
    {"PGQRS_SCHEMA", 0, 0, NULL},
    {"PGQRS_MAX_CONNECTIONS", 1, 10000, NULL},
    {"PGQRS_CONNECTION_TIMEOUT", 1, 2147483, NULL},
    {"PGQRS_DEFAULT_LOCK_TIME", 1, 315576000, NULL},
    {"PGQRS_DEFAULT_BATCH_SIZE", 1, 10000, NULL},
    {"PGQRS_MAX_READ_CT", 1, 32767, NULL},
    {"PGQRS_HEARTBEAT_INTERVAL", 1, 2147483, NULL},
    {"PGQRS_POLL_INTERVAL_MS", 1, 2147483647, NULL},
    {"PGQRS_POOLER", 0, 0, " auto on off "},
    {"PGQRS_SQLITE_USE_WAL", 0, 0, " true false 1 0 "},
    {"PGQRS_S3_MODE", 0, 0, " durable local "},
    {"PGQRS_S3_CACHE_DIR", 0, 0, NULL},
    {"PGQRS_VALIDATION_CONFIG", 0, 0, NULL},
};
#define FUZZ_VARIABLES (sizeof fuzz_variables / sizeof fuzz_variables[0])

static char fuzz_path[64];
static bool fuzz_file_has_dsn;

static void fuzz_clear(void)
{
    for (size_t i = 0; i < FUZZ_VARIABLES; i++)
        unsetenv(fuzz_variables[i].name);
    unsetenv("PGQRS_CONFIG_FILE");
}

/* Sets the variables, and returns where the file begins; NULL: there is none. */
static char *fuzz_environment(char *text)
{
    while (*text) {
        char *end = text + strcspn(text, "\n"), *next = *end ? end + 1 : end;
        *end = '\0';
        if (strcmp(text, "---") == 0)
            return next;
        for (size_t i = 0; i < FUZZ_VARIABLES; i++) {
            size_t length = strlen(fuzz_variables[i].name);
            if (strncmp(text, fuzz_variables[i].name, length) == 0 && text[length] == '=')
                setenv(fuzz_variables[i].name, text + length + 1, 1);
        }
        text = next;
    }
    return NULL;
}

static void fuzz_remove_file(void)
{
    unlink(fuzz_path);
}

static void fuzz_write(const char *text)
{
    const char *dsn = getenv("PGQRS_DSN");
    fuzz_file_has_dsn = dsn && strstr(text, dsn);
    if (!fuzz_path[0]) {
        snprintf(fuzz_path, sizeof fuzz_path, "/tmp/pgqrs-fuzz-XXXXXX");
        int fd = mkstemp(fuzz_path);
        FUZZ_CHECK(fd >= 0 && close(fd) == 0 && atexit(fuzz_remove_file) == 0);
    }
    FILE *file = fopen(fuzz_path, "wb");
    FUZZ_CHECK(file != NULL && fwrite(text, 1, strlen(text), file) == strlen(text));
    FUZZ_CHECK(fclose(file) == 0);
}

static bool fuzz_good_schema(const char *name)
{
    size_t size = strlen(name);
    if (size < 1 || size > 63 || strncmp(name, "pg_", 3) == 0)
        return false;
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_$0123456789") == size &&
           !strchr("$0123456789", name[0]);
}

static bool fuzz_word_of(const char *text, const char *words)
{
    char lower[16];
    size_t size = strlen(text);
    if (size < 1 || size > 10 || strpbrk(text, " "))
        return false;
    lower[0] = ' ';
    for (size_t i = 0; i < size; i++)
        lower[i + 1] = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
    memcpy(lower + size + 1, " ", 2);
    return strstr(words, lower) != NULL;
}

static bool fuzz_good_number(const char *text, int64_t min, int64_t max)
{
    char again[32];
    long long value = strtoll(text, NULL, 10);
    snprintf(again, sizeof again, "%lld", value);
    return strcmp(again, text) == 0 && value >= min && value <= max;
}

static bool fuzz_good_value(const fuzz_variable *variable, const char *text)
{
    if (variable->words)
        return fuzz_word_of(text, variable->words);
    if (variable->max > 0)
        return fuzz_good_number(text, variable->min, variable->max);
    return strcmp(variable->name, "PGQRS_SCHEMA") == 0 ? fuzz_good_schema(text) : text[0] != '\0';
}

static int64_t fuzz_number(const char *variable)
{
    const char *text = getenv(variable);
    return text ? strtoll(text, NULL, 10) : 0;
}

static void fuzz_texts(const char *variable, const char *got)
{
    const char *want = getenv(variable);
    if (want)
        FUZZ_CHECK(got && strcmp(got, want) == 0);
}

/* What the environment says is in the configuration. */
static void fuzz_has_environment(const pgqrs_config *config)
{
    const pgqrs_store_desc *store = &config->store;
    const char *pooler = getenv("PGQRS_POOLER"), *wal = getenv("PGQRS_SQLITE_USE_WAL");
    fuzz_texts("PGQRS_DSN", config->dsn);
    fuzz_texts("PGQRS_SCHEMA", store->schema);
#define FUZZ_NUMBER(variable, member, times)                                                                          \
    FUZZ_CHECK(!getenv(variable) || (int64_t)(member) == fuzz_number(variable) * (times))
    FUZZ_NUMBER("PGQRS_MAX_CONNECTIONS", config->max_connections, 1);
    FUZZ_NUMBER("PGQRS_CONNECTION_TIMEOUT", store->connect_timeout_ms, 1000);
    FUZZ_NUMBER("PGQRS_DEFAULT_LOCK_TIME", store->default_lease_ms, 1000);
    FUZZ_NUMBER("PGQRS_DEFAULT_BATCH_SIZE", store->default_batch, 1);
    FUZZ_NUMBER("PGQRS_MAX_READ_CT", store->default_max_attempts, 1);
    FUZZ_NUMBER("PGQRS_HEARTBEAT_INTERVAL", store->heartbeat_ms, 1000);
    FUZZ_NUMBER("PGQRS_POLL_INTERVAL_MS", store->poll_ms, 1);
#undef FUZZ_NUMBER
    if (pooler)
        FUZZ_CHECK((int)store->pooler == (strcasecmp(pooler, "on") == 0 ? 1 : strcasecmp(pooler, "off") == 0 ? 2 : 0));
    if (wal)
        FUZZ_CHECK((int)store->sqlite_wal == (wal[0] == '1' || wal[0] == 't' || wal[0] == 'T' ? 1 : 2));
}

static void fuzz_shown(const pgqrs_error *err)
{
    const char *dsn = getenv("PGQRS_DSN"), *rules = getenv("PGQRS_VALIDATION_CONFIG");
    bool elsewhere = dsn && (fuzz_file_has_dsn || (rules && strstr(rules, dsn))); /* as the name of a key, which may be shown */
    FUZZ_CHECK(err->message[0] && fuzz_printable(err->message));
    if (dsn && strlen(dsn) >= 24 && !elsewhere)
        FUZZ_CHECK(!strstr(err->message, dsn));
}

/* Loads; what comes back can be used, or says in one line why it cannot. */
static pgqrs_config *fuzz_load(const pgqrs_config_desc *desc, pgqrs_result *result)
{
    pgqrs_error err, why;
    pgqrs_config *config = pgqrs_config_load(desc, &err);
    *result = err.code;
    FUZZ_CHECK((config != NULL) == (err.code == PGQRS_OK));
    if (!config) {
        fuzz_shown(&err);
        return NULL;
    }
    FUZZ_CHECK(config->dsn && config->dsn[0]);
    FUZZ_CHECK(config->max_connections >= 1);
    if (pgqrsi_settings_check(&config->store, &why) != PGQRS_OK)
        fprintf(stderr, "%s\n", why.message);
    FUZZ_CHECK(pgqrsi_settings_check(&config->store, &why) == PGQRS_OK);
    return config;
}

static void fuzz_environment_alone(void)
{
    pgqrs_config_desc desc;
    pgqrs_result result;
    bool good = getenv("PGQRS_DSN") != NULL;
    memset(&desc, 0, sizeof desc);
    desc.no_file = true;
    for (size_t i = 0; i < FUZZ_VARIABLES; i++) {
        const char *text = getenv(fuzz_variables[i].name);
        good = good && (!text || fuzz_good_value(&fuzz_variables[i], text));
    }
    pgqrs_config *config = fuzz_load(&desc, &result);
    FUZZ_CHECK(config || result == PGQRS_ERR_BAD_CONFIG);
    if (config)
        FUZZ_CHECK(good);
    else
        FUZZ_CHECK(!good || getenv("PGQRS_VALIDATION_CONFIG"));
    if (config)
        fuzz_has_environment(config);
    pgqrs_free(config);
}

static void fuzz_with_file(void)
{
    pgqrs_config_desc desc;
    pgqrs_result result;
    memset(&desc, 0, sizeof desc);
    desc.file = fuzz_path;
    pgqrs_config *config = fuzz_load(&desc, &result);
#ifdef PGQRS_YAML
    FUZZ_CHECK(config || result == PGQRS_ERR_BAD_CONFIG);
    if (config)
        fuzz_has_environment(config);
#else
    FUZZ_CHECK(!config && (result == PGQRS_ERR_NOT_BUILT || result == PGQRS_ERR_BAD_CONFIG));
#endif
    pgqrs_free(config);
    desc.dsn = "sqlite://code.db";
    desc.schema = "code";
    config = fuzz_load(&desc, &result);
    if (config)
        FUZZ_CHECK(strcmp(config->dsn, "sqlite://code.db") == 0 && strcmp(config->store.schema, "code") == 0);
    pgqrs_free(config);
}

typedef struct fuzz_memory {
    int left;
    int blocks;
} fuzz_memory;

static void *fuzz_resize(void *pointer, size_t old_size, size_t new_size, void *user)
{
    fuzz_memory *memory = (fuzz_memory *)user;
    (void)old_size;
    if (new_size == 0) {
        memory->blocks -= pointer != NULL;
        free(pointer);
        return NULL;
    }
    if (memory->left-- <= 0)
        return NULL;
    memory->blocks += pointer == NULL;
    return realloc(pointer, new_size);
}

static void fuzz_without_memory(void)
{
    for (int grants = 0; grants < 4; grants++) {
        fuzz_memory memory = {grants, 0};
        pgqrs_config_desc desc;
        pgqrs_error err;
        memset(&desc, 0, sizeof desc);
        desc.no_file = true;
        desc.allocator.resize = fuzz_resize;
        desc.allocator.user = &memory;
        pgqrs_config *config = pgqrs_config_load(&desc, &err);
        FUZZ_CHECK(config || err.code == PGQRS_ERR_NO_MEMORY || err.code == PGQRS_ERR_BAD_CONFIG);
        pgqrs_free(config);
        FUZZ_CHECK(memory.blocks == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size);
    fuzz_clear();
    char *file = fuzz_environment(text);
    fuzz_file_has_dsn = false;
    fuzz_environment_alone();
    fuzz_without_memory();
    if (file) {
        fuzz_write(file);
        fuzz_with_file();
    }
    fuzz_clear();
    free(text);
    return 0;
}
