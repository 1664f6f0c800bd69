/* Two processes share a queue in a bucket; there is no database server. The first puts orders in, the second, which could run on
 * another machine, works them off. HTTP is libcurl's (http_curl.h); any function that makes one exchange will do.
 *
 *     cc s3_shared.c -lsqlite3 -lcurl
 *     export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_REGION=eu-central-1    for other stores than Amazon's also
 *     ./a.out s3://bucket/orders.sqlite                                                  AWS_ENDPOINT_URL_S3=https://...
 *
 * Look at the queue with any SQLite tool: aws s3 cp s3://bucket/orders.sqlite . && sqlite3 orders.sqlite
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_s3.h"
#include "http_curl.h"
#include <stdio.h>
#include <sys/wait.h>

static int fail(const char *what, const pgqrs_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->message);
    return 1;
}

static pgqrs_store *open_bucket(const char *dsn, http_curl *curl, pgqrs_error *err)
{
    pgqrs_s3_desc s3 = {.http = http_curl_callback(curl)};
    pgqrs_store_desc desc = {.s3 = &s3};
    return pgqrs_open(dsn, &desc, err);
}

static pgqrs_result ship(const pgqrs_message *message, void *user)
{
    printf("ships %s\n", message->payload);
    ++*(int *)user;
    return PGQRS_OK;
}

/* A round trip to the store is what a commit costs, so the orders go in together, and come out in batches. */
static pgqrs_result put_orders(pgqrs_store *store)
{
    static const pgqrs_enqueue_item orders[] = {{.payload = "{\"order\":1}"}, {.payload = "{\"order\":2}"}, {.payload = "{\"order\":3}"}};
    return pgqrs_enqueue_many(store, "orders", orders, 3, NULL);
}

/* role: what the process does with the store. */
static int run(const char *dsn, bool shop)
{
    pgqrs_error err;
    http_curl *curl = http_curl_create();
    pgqrs_store *store = curl ? open_bucket(dsn, curl, &err) : NULL;
    pgqrs_result result;
    int shipped = 0;
    if (!curl)
        return 1;
    if (!store)
        return fail("cannot open", &err);
    result = pgqrs_install(store); /* makes the object, or brings it up to date; harmless when both do it at once */
    if (result == PGQRS_OK)
        result = pgqrs_queue_create(store, "orders", NULL);
    if (result == PGQRS_OK)
        result = shop ? put_orders(store)
                      : pgqrs_work(store, "orders", ship, &shipped, &(pgqrs_work_desc){.batch = 10, .until_empty = true});
    if (result != PGQRS_OK)
        return fail(shop ? "shop" : "warehouse", pgqrs_last_error(store));
    if (!shop)
        printf("%d orders shipped\n", shipped);
    pgqrs_close(store);
    http_curl_destroy(curl);
    return 0;
}

int main(int argc, char **argv)
{
    pid_t shop;
    int status = 1;
    if (argc != 2) {
        fprintf(stderr, "usage: %s s3://bucket/key.sqlite\n", argv[0]);
        return 2;
    }
    shop = fork();
    if (shop == 0)
        return run(argv[1], true);
    if (shop < 0 || waitpid(shop, &status, 0) < 0 || status != 0)
        return 1;
    return run(argv[1], false);
}
