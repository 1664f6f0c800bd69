/* Jansson for everything: pgqrs checks payloads with it, the producer writes and the consumer reads them with it.
 * json_cjson.c shows what the library makes of a parser.
 *
 *     cc json_jansson.c -lsqlite3 -ljansson && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include "json_jansson.h"
#include <stdlib.h>

static pgqrs_result send_email(const pgqrs_message *message, void *user)
{
    (void)user;
    const char *to = NULL;
    json_int_t copies = 1;
    json_t *job = json_loadb(message->payload, message->payload_size, 0, NULL);
    int found = job ? json_unpack(job, "{s:s, s?:I}", "to", &to, "copies", &copies) : -1;
    if (found == 0)
        printf("%d x to %s\n", (int)copies, to);
    json_decref(job);
    return found == 0 ? PGQRS_OK : pgqrs_message_reject(message, "not an e-mail");
}

static void enqueue(pgqrs_store *store, const char *payload)
{
    if (pgqrs_enqueue(store, "emails", payload, NULL, NULL) != PGQRS_OK)
        printf("refused: %s\n", pgqrs_last_error(store)->message);
}

int main(void)
{
    const char *required[] = {"to"};
    pgqrs_store_desc settings = {
        .json = json_jansson(),
        .validation = {.max_depth = 2, .required_keys = required, .required_key_count = 1},
    };
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite::memory:", &settings, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    pgqrs_install(store);
    pgqrs_queue_create(store, "emails", NULL);

    json_t *job = json_pack("{s:s, s:i}", "to", "ada@example.com", "copies", 2);
    char *payload = json_dumps(job, JSON_COMPACT);
    if (payload)
        enqueue(store, payload); /* copied: free the text as soon as you like */
    free(payload);
    json_decref(job);

    enqueue(store, "{\"to\":\"grace@example.com\"}");
    enqueue(store, "{\"to\":42}");                        /* well-formed; it is the handler that does not like it */
    enqueue(store, "{\"to\":\"alan@example.com\",\n }");  /* Jansson finds it */
    enqueue(store, "{\"copies\":3}");                     /* the library finds it, in what Jansson reports */
    enqueue(store, "{\"to\":\"x\",\"list\":[[[3]]]}");    /* and this */

    pgqrs_work(store, "emails", send_email, NULL, &(pgqrs_work_desc){.until_empty = true});

    pgqrs_messages *dead;
    if (pgqrs_dead_list(store, "emails", 0, 0, &dead) == PGQRS_OK) {
        for (size_t i = 0; i < dead->count; i++)
            printf("dead: %s, %s\n", dead->items[i].payload, dead->items[i].reason);
        pgqrs_free(dead);
    }
    pgqrs_close(store);
    return 0;
}
