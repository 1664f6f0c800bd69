/* What happens to messages that fail, and how to mend it: retries, dead letters, explain, replay.
 *
 *     cc dead_letters.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static bool printer_has_paper = false;

/* Three ways to fail. */
static pgqrs_result print_label(const pgqrs_message *message, void *user)
{
    (void)user;
    if (strstr(message->payload, "Atlantis"))
        return pgqrs_message_reject(message, "nobody delivers to Atlantis"); /* hopeless: dead at once */
    if (printer_has_paper)
        return PGQRS_OK;
    if (strstr(message->payload, "Oslo"))
        return pgqrs_message_retry(message, 0, "out of paper"); /* 0: after the queue's backoff */
    return PGQRS_ERR_HANDLER; /* the plainest; the library finds words for it */
}

static void work(pgqrs_store *store)
{
    check(pgqrs_work(store, "labels", print_label, NULL, &(pgqrs_work_desc){.until_empty = true}), store);
}

static pgqrs_messages *dead_letters(pgqrs_store *store)
{
    pgqrs_messages *dead;
    check(pgqrs_dead_list(store, "labels", 0, 0, &dead), store); /* the newest first; page by the last id */
    printf("%d dead\n", (int)dead->count);
    for (size_t i = 0; i < dead->count; i++)
        printf("  %-20s after try %d: %s\n", dead->items[i].payload, dead->items[i].attempt, dead->items[i].reason);
    return dead;
}

static void explain(pgqrs_store *store, int64_t id)
{
    pgqrs_explanation explanation;
    check(pgqrs_message_explain(store, id, &explanation), store);
    printf("  why? %s\n", explanation.text);
}

int main(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    check(pgqrs_install(store), store);
    pgqrs_queue_desc impatient = {.max_attempts = 2, .backoff_ms = 10}; /* the defaults: 5 tries, from 1 s up to 60 s */
    check(pgqrs_queue_create(store, "labels", &impatient), store);

    printf("three labels, and no paper: ");
    const char *towns[] = {"\"Paris\"", "\"Atlantis\"", "\"Oslo\""};
    for (int i = 0; i < 3; i++)
        check(pgqrs_enqueue(store, "labels", towns[i], NULL, NULL), store);
    work(store);
    pgqrs_messages *dead = dead_letters(store);

    printf("paper is here, replay Paris alone: ");
    printer_has_paper = true;
    int64_t paris = 0;
    for (size_t i = 0; i < dead->count; i++)
        if (strcmp(dead->items[i].payload, "\"Paris\"") == 0)
            paris = dead->items[i].id;
    pgqrs_free(dead);
    check(pgqrs_message_replay(store, paris), store);
    work(store);
    pgqrs_free(dead_letters(store));
    explain(store, paris);

    printf("replay all: ");
    int64_t replayed;
    check(pgqrs_dead_replay_all(store, "labels", &replayed), store);
    printf("%d replayed, then ", (int)replayed);
    work(store);
    dead = dead_letters(store);
    explain(store, dead->items[0].id);
    pgqrs_free(dead);

    /* A queue may throw its dead letters away after a while (dead_retention_ms), or somebody does it by hand. */
    printf("purge: ");
    int64_t removed;
    check(pgqrs_queue_purge(store, "labels", &(pgqrs_purge_desc){.what = PGQRS_PURGE_DEAD}, &removed), store);
    printf("%d removed, ", (int)removed);
    pgqrs_free(dead_letters(store));

    pgqrs_close(store);
    return 0;
}
