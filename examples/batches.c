/* Many messages at a time. A database commit costs much and a message little: whoever moves messages in batches is ten
 * times faster. Every message still gets a verdict of its own.
 *
 *     cc batches.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>

static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static void print_batch(const char *title, const pgqrs_messages *batch)
{
    printf("%s", title);
    for (size_t i = 0; i < batch->count; i++)
        printf(" %s", batch->items[i].payload);
    printf("\n");
}

/* Takes a whole batch, for work that is cheaper in bulk: one HTTP request, one INSERT. The return value counts for all
 * messages that have no verdict of their own. */
static pgqrs_result save_readings(const pgqrs_messages *batch, void *user)
{
    int *saved = (int *)user;
    for (size_t i = 0; i < batch->count; i++) {
        const pgqrs_message *message = &batch->items[i];
        if (atoi(message->payload) < 0)
            pgqrs_message_reject(message, "a length cannot be negative");
        else
            ++*saved;
    }
    return PGQRS_OK; /* the others are archived, in one commit */
}

int main(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite::memory:", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    check(pgqrs_install(store), store);
    check(pgqrs_queue_create(store, "readings", NULL), store);

    /* One commit for all. All or none: the third of these is not JSON, so nothing is stored, and the error says
     * which. */
    pgqrs_enqueue_item broken[] = {{.payload = "1"}, {.payload = "2"}, {.payload = "three"}};
    if (pgqrs_enqueue_many(store, "readings", broken, 3, NULL) == PGQRS_ERR_JSON)
        printf("refused because of item %d\n", (int)pgqrs_last_error(store)->index);

    const char *payloads[] = {"10", "20", "30", "40", "50", "60", "70", "-80", "90"};
    enum { COUNT = sizeof payloads / sizeof payloads[0] };
    pgqrs_enqueue_item items[COUNT] = {{0}};
    for (size_t i = 0; i < COUNT; i++)
        items[i].payload = payloads[i]; /* each could have its own priority, delay, ... in items[i].desc */
    check(pgqrs_enqueue_many(store, "readings", items, COUNT, NULL), store);

    /* Take three. They share one lease time: all three want a verdict before it ends. */
    pgqrs_messages *batch;
    pgqrs_dequeue_desc three = {.limit = 3};
    check(pgqrs_dequeue_many(store, "readings", &three, &batch), store);
    print_batch("taken:   ", batch);

    /* Three verdicts, and the next three messages, in one transaction: a consumer that works like this needs one commit
     * per batch. */
    pgqrs_settlement verdicts[] = {
        pgqrs_settlement_for(&batch->items[0], PGQRS_ARCHIVE),
        pgqrs_settlement_for(&batch->items[1], PGQRS_RELEASE),
        pgqrs_settlement_for(&batch->items[2], PGQRS_REJECT),
    };
    verdicts[1].delay_ms = 3600 * 1000; /* this one again in an hour */
    verdicts[2].reason = "sensor 30 is being repaired";
    pgqrs_messages *next;
    check(pgqrs_settle(store, verdicts, 3, "readings", &three, &next), store);
    print_batch("next:    ", next);

    /* A verdict that comes late changes nothing and says so, for each message: somebody else has the message by then.
     * Here all three were settled a moment ago. */
    check(pgqrs_settle(store, verdicts, 3, NULL, NULL, NULL), store);
    for (int i = 0; i < 3; i++)
        printf("again:    %s\n", pgqrs_result_name(verdicts[i].result));
    check(pgqrs_archive_many(store, next->items, next->count, NULL), store); /* the short form for one verdict */
    pgqrs_free(batch);
    pgqrs_free(next);

    /* The same as a loop: the library takes batches, hands them over, settles and takes in one commit. */
    int saved = 0;
    check(pgqrs_work_batch(store, "readings", save_readings, &saved, &(pgqrs_work_desc){.until_empty = true}), store);
    printf("saved:    %d\n", saved);

    pgqrs_messages *dead;
    check(pgqrs_dead_list(store, "readings", 0, 0, &dead), store);
    for (size_t i = 0; i < dead->count; i++)
        printf("dead:     %s, %s\n", dead->items[i].payload, dead->items[i].reason);
    pgqrs_free(dead);
    pgqrs_close(store);
    return 0;
}
