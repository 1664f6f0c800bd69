/* Stores in a bucket: HTTP by libcurl, mode and cache directory from the configuration, the rest from the usual AWS_… variables. */
#include "cli.h"
#include "pgqrs_s3.h"
#include "../http_curl.h"

enum { ADAPTERS = 4 }; /* `copy` has two stores */
static http_curl *adapters[ADAPTERS];
static int adapter_count;

static pgqrs_store *open_with(http_curl *curl, pgqrs_config *config, pgqrs_error *error)
{
    pgqrs_s3_desc s3;
    memset(&s3, 0, sizeof s3);
    s3.http = http_curl_callback(curl);
    s3.mode = config->s3_local ? PGQRS_S3_LOCAL : PGQRS_S3_DURABLE;
    s3.cache_dir = config->s3_cache_dir;
    config->store.s3 = &s3;
    pgqrs_store *store = pgqrs_open(config->dsn, &config->store, error);
    config->store.s3 = NULL;
    return store;
}

static bool is_set(const char *variable)
{
    const char *value = getenv(variable);
    return value && *value;
}

static pgqrs_store *refuse(pgqrs_error *error, pgqrs_result code, const char *message)
{
    memset(error, 0, sizeof *error);
    error->code = code;
    snprintf(error->message, sizeof error->message, "%s", message);
    return NULL;
}

pgqrs_store *cli_open_store(pgqrs_config *config, pgqrs_error *error)
{
    if (strncmp(config->dsn, "s3:", 3) != 0) return pgqrs_open(config->dsn, &config->store, error);
    if (!is_set("AWS_ACCESS_KEY_ID") || !is_set("AWS_SECRET_ACCESS_KEY"))
        return refuse(
            error, PGQRS_ERR_BAD_CONFIG,
            "a bucket needs the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, when "
            "they are temporary); the others are in `pgqrs --help`");
    http_curl *curl = adapter_count < ADAPTERS ? http_curl_create() : NULL;
    if (!curl) return refuse(error, PGQRS_ERR_NO_MEMORY, "libcurl cannot be set up: no memory");
    adapters[adapter_count++] = curl;
    return open_with(curl, config, error);
}

exit_code cli_begin_again(cli *c)
{
    return cli_check(c, pgqrs_s3_bootstrap(c->store));
}

void cli_release_http(void)
{
    for (int i = 0; i < adapter_count; i++) {
        http_curl_destroy(adapters[i]);
        adapters[i] = NULL;
    }
    adapter_count = 0;
}
