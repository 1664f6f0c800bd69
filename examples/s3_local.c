/* A queue that works without a network, and is brought to a bucket when there is one: local mode, with explicit sync and snapshot.
 *
 *     cc s3_local.c -lsqlite3 -lcurl
 *     export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_REGION=eu-central-1    (or AWS_ENDPOINT_URL_S3=https://...)
 *     ./a.out s3://bucket/notes.sqlite
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_s3.h"
#include "http_curl.h"
#include <stdio.h>

static pgqrs_store *open_local(const char *dsn, http_curl *curl, const char *cache, pgqrs_error *err)
{
    pgqrs_s3_desc s3 = {.http = http_curl_callback(curl), .mode = PGQRS_S3_LOCAL, .cache_dir = cache};
    pgqrs_store_desc desc = {.s3 = &s3};
    return pgqrs_open(dsn, &desc, err);
}

static pgqrs_result note(pgqrs_store *store, const char *text)
{
    pgqrs_result result = pgqrs_install(store);
    if (result == PGQRS_OK)
        result = pgqrs_queue_create(store, "notes", NULL);
    if (result == PGQRS_OK)
        result = pgqrs_enqueue(store, "notes", text, NULL, NULL); /* no network is needed for this */
    return result;
}

/* What a program does now and then: uploads what is new here, or fetches what is new there. Both at once is for people, or as here a
 * rule: what is in the bucket wins, and what was done here is done again on top of it. */
static pgqrs_result meet(pgqrs_store *store, const char *who, const char *text)
{
    pgqrs_s3_state state;
    pgqrs_result result = pgqrs_s3_state_get(store, &state);
    if (result != PGQRS_OK)
        return result;
    if (state == PGQRS_S3_CONCURRENT_CHANGES) {
        printf("%s: both sides have changed; mine is done again on theirs\n", who);
        result = pgqrs_s3_snapshot(store, true);
        if (result == PGQRS_OK)
            result = note(store, text);
    } else if (state == PGQRS_S3_REMOTE_CHANGES) {
        printf("%s: fetches what is new\n", who);
        return pgqrs_s3_snapshot(store, false);
    }
    return result == PGQRS_OK ? pgqrs_s3_sync(store) : result;
}

int main(int argc, char **argv)
{
    pgqrs_error err;
    http_curl *curl = http_curl_create();
    const char *dsn = argc > 1 ? argv[1] : "s3://bucket/notes.sqlite";
    /* Two machines: each has a cache directory of its own. */
    pgqrs_store *desk = curl ? open_local(dsn, curl, "desk", &err) : NULL;
    pgqrs_store *laptop = desk ? open_local(dsn, curl, "laptop", &err) : NULL;
    pgqrs_store *last = desk;
    pgqrs_metrics *metrics = NULL;
    pgqrs_result result;
    if (!curl)
        return 1;
    if (!laptop) {
        fprintf(stderr, "cannot open: %s\n", err.message);
        return 1;
    }
    result = note(desk, "\"from the desk\"");
    if (result == PGQRS_OK)
        result = meet(desk, "desk", "\"from the desk\"");
    if (result == PGQRS_OK)
        result = note(last = laptop, "\"from the laptop\""); /* which has not seen the bucket yet */
    if (result == PGQRS_OK)
        result = meet(laptop, "laptop", "\"from the laptop\"");
    if (result == PGQRS_OK)
        result = meet(last = desk, "desk", NULL);
    if (result == PGQRS_OK)
        result = pgqrs_metrics_get(desk, "notes", &metrics);
    if (result == PGQRS_OK)
        printf("%d notes on the desk\n", (int)metrics->items[0].ready);
    else
        fprintf(stderr, "%s\n", pgqrs_last_error(last)->message);
    pgqrs_free(metrics);
    pgqrs_close(laptop);
    pgqrs_close(desk);
    http_curl_destroy(curl);
    return result == PGQRS_OK ? 0 : 1;
}
