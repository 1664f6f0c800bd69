/* The threads of a server enqueue through one store. What comes at the same time shares a commit, so many threads get far
 * more stored than one could. Three of them wait until their order is durable, because a customer is told so; the fourth
 * only counts clicks, hands them over and goes on at once.
 *
 *     cc producers.c -lsqlite3 -pthread && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#define PGQRS_THREADS
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>

enum { SHOPS = 3, ORDERS = 100, CLICKS = 400 };

typedef struct shop {
    pthread_t thread;
    pgqrs_producer *producer;
    int number;
    int confirmed;
} shop;

static void *take_orders(void *argument)
{
    shop *self = (shop *)argument;
    for (int i = 0; i < ORDERS; i++) {
        char payload[64];
        pgqrs_error err; /* each thread has its own: pgqrs_last_error is not for producers */
        pgqrs_receipt receipt;
        snprintf(payload, sizeof payload, "{\"shop\":%d,\"order\":%d}", self->number, i);
        if (pgqrs_producer_enqueue(self->producer, "orders", payload, NULL, &receipt, &err) == PGQRS_OK)
            self->confirmed++; /* durable: tell the customer that order `receipt.id` is taken */
        else
            fprintf(stderr, "%s\n", err.message);
    }
    return NULL;
}

static void *count_clicks(void *argument)
{
    shop *self = (shop *)argument;
    pgqrs_error err;
    for (int i = 0; i < CLICKS; i++)
        if (pgqrs_producer_hand_over(self->producer, "clicks", "{\"page\":\"home\"}", NULL, &err) == PGQRS_OK)
            self->confirmed++; /* checked and copied; a crash within the next milliseconds would lose it */
    return NULL;
}

static int64_t ready(pgqrs_store *store, const char *queue)
{
    pgqrs_message_filter filter = {.queue = queue, .state = PGQRS_READY};
    int64_t found = -1;
    pgqrs_message_count(store, &filter, &found);
    return found;
}

int main(void)
{
    pgqrs_error err;
    shop shops[SHOPS + 1];
    pgqrs_store *store = pgqrs_open("sqlite://shop.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    pgqrs_install(store);
    pgqrs_queue_create(store, "orders", NULL);
    pgqrs_queue_create(store, "clicks", NULL);

    /* From here until it is closed the store is the producer's alone. */
    pgqrs_producer *producer = pgqrs_producer_open(store, NULL);
    if (!producer) {
        fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
        return 1;
    }
    for (int i = 0; i <= SHOPS; i++) {
        shops[i].producer = producer;
        shops[i].number = i;
        shops[i].confirmed = 0;
        if (pthread_create(&shops[i].thread, NULL, i < SHOPS ? take_orders : count_clicks, &shops[i]))
            return 1;
    }
    int orders = 0;
    for (int i = 0; i <= SHOPS; i++) {
        pthread_join(shops[i].thread, NULL);
        orders += i < SHOPS ? shops[i].confirmed : 0;
    }

    /* What was handed over is durable once this returns PGQRS_OK; otherwise it says how many were lost, and why. */
    if (pgqrs_producer_flush(producer, &err) != PGQRS_OK)
        fprintf(stderr, "%s\n", err.message);

    /* One that is refused disturbs nobody. */
    if (pgqrs_producer_enqueue(producer, "orders", "not JSON", NULL, NULL, &err) == PGQRS_ERR_JSON)
        printf("refused: %s\n", pgqrs_result_name(err.code));

    if (pgqrs_producer_close(producer, &err) != PGQRS_OK)
        fprintf(stderr, "%s\n", err.message);
    printf("orders: %d confirmed, %d in the queue\n", orders, (int)ready(store, "orders"));
    printf("clicks: %d handed over, %d in the queue\n", shops[SHOPS].confirmed, (int)ready(store, "clicks"));
    pgqrs_close(store);
    return 0;
}
