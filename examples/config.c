/* Settings that do not live in the program: environment variables, and a YAML file when the program is built with it.
 *
 *     cc config.c -lsqlite3 -lpq && PGQRS_DSN=sqlite://jobs.db PGQRS_MAX_READ_CT=3 ./a.out
 *     cc -DPGQRS_YAML config.c -lsqlite3 -lpq -lyaml && ./a.out          (reads pgqrs.yaml, if there is one)
 *
 * The program wins over the environment, the environment wins over the file, field by field. All names are in the
 * manual, at the top of pgqrs.h.
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include "pgqrs_sqlite.h"
#include <stdio.h>

static const char *text_or_none(const char *text)
{
    return text && *text ? text : "(none)";
}

int main(void)
{
    /* NULL: look everywhere. A desc could give a DSN that wins, name the file, or forbid the environment. */
    pgqrs_error err;
    pgqrs_config *config = pgqrs_config_load(NULL, &err);
    if (!config) {
        /* Nothing that is wrong is ignored: a typo in a number ends the program here, with the name of the variable. */
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }

    /* config->store is an ordinary pgqrs_store_desc, so the program can add what no file can say. */
    config->store.logger.write = pgqrs_log_stderr;
    config->store.logger.level = PGQRS_LOG_WARN;
    pgqrs_store *store = pgqrs_open(config->dsn, &config->store, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        pgqrs_free(config);
        return 1;
    }

    /* What is in force now, with every default filled in. The DSN is not printed: there may be a password in it. */
    const pgqrs_store_desc *s = pgqrs_store_settings(store);
    printf("backend:       %s\n", pgqrs_store_backend(store));
    printf("schema:        %s\n", text_or_none(s->schema));
    printf("lease:         %d ms\n", (int)s->default_lease_ms);
    printf("max attempts:  %d\n", (int)s->default_max_attempts);
    printf("batch:         %d\n", (int)s->default_batch);
    printf("poll interval: %d ms\n", (int)s->poll_ms);
    printf("max depth:     %d\n", (int)s->validation.max_depth);
    for (size_t i = 0; i < s->validation.forbidden_key_count; i++)
        printf("forbidden key: %s\n", s->validation.forbidden_keys[i]);

    /* Queues made through this store start with those settings. */
    pgqrs_queue *queue = NULL;
    if (pgqrs_install(store) == PGQRS_OK && pgqrs_queue_create(store, "jobs", NULL) == PGQRS_OK &&
        pgqrs_queue_get(store, "jobs", &queue) == PGQRS_OK && queue)
        printf("queue jobs:    %d ms, %d attempts\n", (int)queue->settings.lease_ms, (int)queue->settings.max_attempts);
    else
        fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);

    pgqrs_free(queue);
    pgqrs_close(store);
    pgqrs_free(config); /* after the stores that were opened with it */
    return queue ? 0 : 1;
}
