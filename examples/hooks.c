/* The program's own allocator, log, clock, sleep, randomness and observer. Each is a function and a pointer that is
 * handed to it; a hook that is not set means the default.
 *
 *     cc hooks.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>

/* Memory: one function allocates (pointer NULL), resizes and frees (new_size 0). It may return NULL: the call that
 * needed the memory then fails with PGQRS_ERR_NO_MEMORY, and nothing has happened. */
typedef struct heap {
    size_t in_use, limit;
} heap;

static void *resize(void *pointer, size_t old_size, size_t new_size, void *user)
{
    heap *h = (heap *)user;
    if (h->in_use - old_size + new_size > h->limit)
        return NULL;
    void *moved = NULL;
    if (new_size == 0)
        free(pointer);
    else if (!(moved = realloc(pointer, new_size)))
        return NULL;
    h->in_use += new_size - old_size;
    return moved;
}

/* Log: one line, without a newline, without payloads and passwords. pgqrs_log_stderr is a ready-made function. */
static void write_log(pgqrs_log_level level, const char *text, void *user)
{
    (void)user;
    printf("log:       %s: %s\n", level == PGQRS_LOG_WARN ? "warning" : "other", text);
}

/* Time and waiting: for tests. Instead of sleeping, this clock is put forward, so an hour of backoff passes at once. A
 * clock that stands still needs such a sleep: otherwise nothing that is delayed ever becomes due. */
static int64_t read_clock(void *user)
{
    return *(const int64_t *)user;
}

static void sleep_us(int64_t us, void *user)
{
    *(int64_t *)user += us;
}

/* Randomness, for the jitter of backoffs and for workers' names: a fixed sequence makes a test repeatable. */
static uint64_t next_random(void *user)
{
    uint64_t *state = (uint64_t *)user;
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state;
}

/* Metrics and traces: told after each thing that happened. Numbers go up here; a real program feeds its telemetry. */
typedef struct numbers {
    int64_t claimed, handled, leases_lost;
} numbers;

static void observe(const pgqrs_event *event, void *user)
{
    numbers *n = (numbers *)user;
    switch (event->type) {
    case PGQRS_EVENT_CLAIMED:
        n->claimed += event->count;
        break;
    case PGQRS_EVENT_FINISHED:
        n->handled++;
        break;
    case PGQRS_EVENT_LEASE_LOST:
        n->leases_lost++;
        break;
    default:
        break; /* there are more, and there will be more */
    }
}

/* The first job fails once and is tried again in an hour. The second is slow once: a minute, longer than its lease. */
static pgqrs_result work_badly(const pgqrs_message *message, void *user)
{
    int64_t *now_us = (int64_t *)user;
    if (message->attempt > 1)
        return PGQRS_OK;
    if (message->payload[0] == '1')
        return pgqrs_message_retry(message, 3600 * 1000, "the first try always fails");
    *now_us += 60 * 1000000;
    return PGQRS_OK;
}

static int run(heap *memory)
{
    const int64_t start_us = INT64_C(1893456000000000); /* 2030-01-01 */
    int64_t now_us = start_us;
    uint64_t seed = 42;
    numbers n = {0, 0, 0};
    pgqrs_store_desc settings = {
        .allocator = {resize, memory},
        .logger = {write_log, NULL, PGQRS_LOG_WARN},
        .clock = {read_clock, &now_us},
        .sleeper = {sleep_us, &now_us},
        .random = {next_random, &seed},
        .observer = {observe, &n},
    };
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite::memory:", &settings, &err);
    if (!store) {
        printf("%s\n", pgqrs_result_name(err.code));
        return 1;
    }
    pgqrs_install(store);
    pgqrs_queue_create(store, "jobs", NULL);
    pgqrs_enqueue(store, "jobs", "1", NULL, NULL);
    pgqrs_enqueue(store, "jobs", "2", NULL, NULL);
    pgqrs_result result = pgqrs_work(store, "jobs", work_badly, &now_us, &(pgqrs_work_desc){.until_empty = true});
    pgqrs_close(store);

    printf("observer:  %d claimed, %d handled, %d leases lost\n", (int)n.claimed, (int)n.handled, (int)n.leases_lost);
    printf("clock:     %d hour passed\n", (int)((now_us - start_us) / 3600000000));
    printf("random:    %s\n", seed != 42 ? "used" : "not used");
    printf("allocator: %d bytes left over\n", (int)memory->in_use);
    return result == PGQRS_OK ? 0 : 1;
}

int main(void)
{
    heap plenty = {0, 64 << 20}, tiny = {0, 100};
    printf("with 100 bytes of memory: ");
    run(&tiny);
    printf("with 64 MiB of memory:\n");
    return run(&plenty);
}
