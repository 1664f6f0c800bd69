/* When is a message delivered, and before which others? Delays, times, priorities, expiry, deduplication.
 * The clock belongs to this program, so a day passes at once. Tests of your own programs can do the same.
 *
 *     cc delay_priority.c -lsqlite3 && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>

#define SECOND_US INT64_C(1000000)
#define HOUR_MS INT64_C(3600000)

static pgqrs_store *store;

/* With a clock hook, every decision of the library uses this time. */
static int64_t now_us = 1893456000 * SECOND_US; /* 2030-01-01 00:00 UTC */

static int64_t read_clock(void *user)
{
    (void)user;
    return now_us;
}

static void hours_pass(int hours)
{
    now_us += hours * 3600 * SECOND_US;
    printf("%d hours pass\n", hours);
}

static void check(pgqrs_result result)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static pgqrs_receipt enqueue(const char *payload, pgqrs_enqueue_desc desc)
{
    pgqrs_receipt receipt;
    check(pgqrs_enqueue(store, "kitchen", payload, &desc, &receipt));
    return receipt;
}

/* Takes all that may be taken now. */
static void cook(void)
{
    pgqrs_messages *messages;
    check(pgqrs_dequeue_many(store, "kitchen", &(pgqrs_dequeue_desc){.limit = 100}, &messages));
    printf("  cook:");
    for (size_t i = 0; i < messages->count; i++)
        printf(" %s", messages->items[i].payload);
    printf(messages->count ? "\n" : " nothing\n");
    check(pgqrs_archive_many(store, messages->items, messages->count, NULL));
    pgqrs_free(messages);
}

int main(void)
{
    pgqrs_error err;
    pgqrs_store_desc settings = {.clock = {.now_us = read_clock}};
    store = pgqrs_open("sqlite::memory:", &settings, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    check(pgqrs_install(store));
    check(pgqrs_queue_create(store, "kitchen", NULL));

    printf("higher priority first, then in order of arrival\n");
    enqueue("\"soup\"", (pgqrs_enqueue_desc){0});
    enqueue("\"salad\"", (pgqrs_enqueue_desc){0});
    enqueue("\"the mayor's steak\"", (pgqrs_enqueue_desc){.priority = 10});
    enqueue("\"yesterday's guest\"", (pgqrs_enqueue_desc){.priority = -1});
    cook();

    printf("not before: a delay, or a point in time\n");
    enqueue("\"breakfast at 6\"", (pgqrs_enqueue_desc){.at_us = now_us + 6 * 3600 * SECOND_US});
    enqueue("\"snack in 2 hours\"", (pgqrs_enqueue_desc){.delay_ms = 2 * HOUR_MS});
    cook();
    hours_pass(2);
    cook();
    hours_pass(4);
    cook();

    printf("not after: what nobody has started in time is archived as expired\n");
    pgqrs_receipt flambee = enqueue("\"flambee\"", (pgqrs_enqueue_desc){.expire_ms = HOUR_MS});
    enqueue("\"stew\"", (pgqrs_enqueue_desc){0});
    hours_pass(3);
    cook();
    pgqrs_message *message;
    check(pgqrs_message_get(store, flambee.id, &message));
    printf("  %s is %s: %s\n", message->payload, message->state == PGQRS_ARCHIVED ? "archived" : "not archived",
           message->reason);
    pgqrs_free(message);

    printf("only once: a key is unique while its message is unfinished\n");
    pgqrs_receipt first = enqueue("\"bill for table 7\"", (pgqrs_enqueue_desc){.dedup_key = "bill-7"});
    pgqrs_receipt second = enqueue("\"bill for table 7\"", (pgqrs_enqueue_desc){.dedup_key = "bill-7"});
    printf("  the second is %s, the ids are %s\n", second.duplicate ? "a duplicate" : "new",
           first.id == second.id ? "equal" : "different");
    cook();
    pgqrs_receipt third = enqueue("\"bill for table 7\"", (pgqrs_enqueue_desc){.dedup_key = "bill-7"});
    printf("  the first is done, so the third is %s\n", third.duplicate ? "a duplicate" : "new");
    cook();

    pgqrs_close(store);
    return 0;
}
