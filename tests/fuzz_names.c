/* Names. A name is good by a rule stated here a second time; every call that takes one agrees with the rule, and what is
 * good goes to the database and comes back the same: queue, workflow, step, step key, worker, producer, both keys. Names
 * of schemas stand inside of statements: what is good must be good in quotes.
 *
 * PGQRS_FUZZ_DSN is another database than SQLite in memory; its schema names are then tried on it as well. */
#include "fuzz.h"

#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"
#include "../pgqrs.h"

static bool fuzz_good_name(const char *name)
{
    size_t size = strlen(name);
    return size >= 1 && size <= 255 && fuzz_printable(name);
}

static bool fuzz_good_schema(const char *name)
{
    size_t size = strlen(name);
    if (size < 1 || size > 63 || strncmp(name, "pg_", 3) == 0)
        return false;
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_$0123456789") == size &&
           !strchr("$0123456789", name[0]);
}

static const char *fuzz_dsn(void)
{
    const char *given = getenv("PGQRS_FUZZ_DSN");
    return given ? given : "sqlite::memory:";
}

static pgqrs_store *fuzz_open_store;

static void fuzz_close(void)
{
    pgqrs_close(fuzz_open_store);
}

static pgqrs_store *fuzz_store(void)
{
    if (!fuzz_open_store) {
        fuzz_open_store = pgqrs_open(fuzz_dsn(), NULL, NULL);
        FUZZ_CHECK(fuzz_open_store != NULL && pgqrs_install(fuzz_open_store) == PGQRS_OK);
        FUZZ_CHECK(atexit(fuzz_close) == 0);
    }
    return fuzz_open_store;
}

static bool fuzz_same(const char *want, const char *got)
{
    return got && strcmp(want, got) == 0;
}

static void fuzz_queue(pgqrs_store *store, const char *name)
{
    pgqrs_queue *queue = NULL;
    pgqrs_enqueue_desc desc;
    pgqrs_message *message = NULL;
    memset(&desc, 0, sizeof desc);
    desc.dedup_key = desc.producer = name;
    FUZZ_CHECK(pgqrs_queue_create(store, name, NULL) == PGQRS_OK);
    FUZZ_CHECK(pgqrs_queue_get(store, name, &queue) == PGQRS_OK && fuzz_same(name, queue->name));
    FUZZ_CHECK(pgqrs_enqueue(store, name, "1", &desc, NULL) == PGQRS_OK);
    pgqrs_receipt receipt;
    FUZZ_CHECK(pgqrs_enqueue(store, name, "2", &desc, &receipt) == PGQRS_OK && receipt.duplicate);
    FUZZ_CHECK(pgqrs_message_get(store, receipt.id, &message) == PGQRS_OK);
    FUZZ_CHECK(fuzz_same(name, message->queue) && fuzz_same(name, message->dedup_key));
    FUZZ_CHECK(fuzz_same(name, message->producer) && fuzz_same("1", message->payload));
    pgqrs_free(message);
    pgqrs_free(queue);
    FUZZ_CHECK(pgqrs_queue_delete(store, name, true) == PGQRS_OK);
}

static pgqrs_result fuzz_body(pgqrs_run *run, void *user)
{
    const char *name = (const char *)user, *output;
    if (pgqrs_step_keyed(run, name, name, &output))
        output = pgqrs_step_done(run, "1");
    return pgqrs_run_return(run, output);
}

/* The worker, the step and all keys have the name, too. */
static void fuzz_workflow(pgqrs_store *store, char *name)
{
    pgqrs_trigger_desc trigger;
    pgqrs_work_desc work;
    pgqrs_steps *steps = NULL;
    int64_t id = 0;
    memset(&trigger, 0, sizeof trigger);
    memset(&work, 0, sizeof work);
    trigger.idempotency_key = name;
    work.until_empty = true;
    work.name = name;
    FUZZ_CHECK(pgqrs_workflow_create(store, name, NULL) == PGQRS_OK);
    FUZZ_CHECK(pgqrs_workflow_trigger(store, name, NULL, &trigger, &id) == PGQRS_OK);
    FUZZ_CHECK(pgqrs_work_workflow(store, name, fuzz_body, name, &work) == PGQRS_OK);
    FUZZ_CHECK(pgqrs_run_steps(store, id, &steps) == PGQRS_OK && steps->count == 1);
    FUZZ_CHECK(fuzz_same(name, steps->items[0].name) && fuzz_same(name, steps->items[0].key));
    FUZZ_CHECK(steps->items[0].state == PGQRS_STEP_DONE);
    pgqrs_free(steps);
    FUZZ_CHECK(pgqrs_workflow_delete(store, name, true) == PGQRS_OK);
    FUZZ_CHECK(pgqrs_worker_purge(store, 0, NULL) == PGQRS_OK);
}

/* Every call that takes a name refuses it, in the group that its place has. */
static void fuzz_refused(pgqrs_store *store, const char *name)
{
    pgqrs_enqueue_desc desc;
    pgqrs_worker_ref worker;
    bool exists;
    memset(&desc, 0, sizeof desc);
    FUZZ_CHECK(pgqrs_queue_create(store, name, NULL) == PGQRS_ERR_BAD_NAME);
    FUZZ_CHECK(pgqrs_last_error(store)->message[0] && fuzz_printable(pgqrs_last_error(store)->message));
    FUZZ_CHECK(pgqrs_queue_exists(store, name, &exists) == PGQRS_ERR_BAD_NAME);
    FUZZ_CHECK(pgqrs_workflow_create(store, name, NULL) == PGQRS_ERR_BAD_NAME);
    FUZZ_CHECK(pgqrs_workflow_trigger(store, name, NULL, NULL, NULL) == PGQRS_ERR_BAD_NAME);
    FUZZ_CHECK(pgqrs_worker_register(store, name, NULL, &worker) == PGQRS_ERR_BAD_NAME);
    FUZZ_CHECK(pgqrs_run_send_event(store, 1, name, "1", NULL) == PGQRS_ERR_BAD_NAME);
    FUZZ_CHECK(pgqrs_enqueue(store, name, "1", NULL, NULL) == PGQRS_ERR_BAD_NAME);
    desc.dedup_key = name;
    FUZZ_CHECK(pgqrs_enqueue(store, "q", "1", &desc, NULL) == PGQRS_ERR_INVALID_ARGUMENT);
    desc.dedup_key = NULL;
    desc.producer = name;
    FUZZ_CHECK(pgqrs_enqueue(store, "q", "1", &desc, NULL) == PGQRS_ERR_INVALID_ARGUMENT);
}

static void fuzz_schema_in_quotes(const char *name)
{
    sqlite3 *database = NULL;
    char sql[256];
    if (strcasecmp(name, "main") == 0 || strcasecmp(name, "temp") == 0)
        return;
    FUZZ_CHECK(sqlite3_open(":memory:", &database) == SQLITE_OK);
    snprintf(sql, sizeof sql, "ATTACH ':memory:' AS \"%s\"; CREATE TABLE \"%s\".t (x); DETACH \"%s\"", name, name, name);
    FUZZ_CHECK(sqlite3_exec(database, sql, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(database);
}

static void fuzz_schema_on_server(const char *name)
{
    pgqrs_store_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.schema = name;
    pgqrs_store *store = pgqrs_open(fuzz_dsn(), &desc, NULL);
    FUZZ_CHECK(store != NULL && pgqrs_install(store) == PGQRS_OK);
    FUZZ_CHECK(pgqrs_queue_create(store, "q", NULL) == PGQRS_OK);
    FUZZ_CHECK(pgqrs_uninstall(store) == PGQRS_OK);
    pgqrs_close(store);
}

static void fuzz_schema(const char *name)
{
    pgqrs_error err;
    bool good = fuzz_good_schema(name);
    pgqrs_result result = pgqrsi_check_schema_name(name, &err);
    FUZZ_CHECK(result == (good ? PGQRS_OK : PGQRS_ERR_BAD_NAME));
    FUZZ_CHECK(good || (err.message[0] && fuzz_printable(err.message)));
    if (good)
        fuzz_schema_in_quotes(name);
    if (good && getenv("PGQRS_FUZZ_DSN"))
        fuzz_schema_on_server(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 400)
        return 0;
    char *name = fuzz_text(data, size);
    pgqrs_error err;
    bool good = fuzz_good_name(name);
    FUZZ_CHECK(pgqrsi_check_name("name", name, &err) == (good ? PGQRS_OK : PGQRS_ERR_BAD_NAME));
    if (good) {
        fuzz_queue(fuzz_store(), name);
        fuzz_workflow(fuzz_store(), name);
    } else {
        fuzz_refused(fuzz_store(), name);
    }
    fuzz_schema(name);
    free(name);
    return 0;
}
