/* A program that has a JSON parser already lets pgqrs use it. The parser says what it finds; what is allowed is
 * decided by the library, so depth, keys and lengths are checked in the same way whichever parser reads. Here:
 * cJSON.
 *
 *     cc json_cjson.c -lsqlite3 -lcjson && ./a.out
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include "json_cjson.h"

/* What the library does with a parser, made visible: it is called for each thing found, in the order of the text. */
static bool print_event(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    static const char *const names[] = {"", "{", "}", "[", "]", "key", "string", "number", "literal"};
    (void)context;
    printf(" %s", names[event]);
    if (text)
        printf(" %.*s", (int)size, text);
    return true; /* false: stop */
}

static void try_payload(pgqrs_store *store, const char *payload)
{
    pgqrs_result result = pgqrs_enqueue(store, "jobs", payload, NULL, NULL);
    printf("%-34s %s\n", payload, pgqrs_result_name(result));
    if (result != PGQRS_OK)
        printf("    %s\n", pgqrs_last_error(store)->message);
}

int main(void)
{
    pgqrs_json json = json_cjson();
    const char *text = "{\"to\": \"ada\", \"tags\": [1, null]}";
    size_t error_offset = 0;
    printf("found:");
    json.parse(text, strlen(text), print_event, NULL, &error_offset, json.user);
    printf("\n\n");

    const char *forbidden[] = {"__proto__"}, *required[] = {"to"};
    pgqrs_store_desc settings = {
        .json = json,
        .validation = {.max_depth = 3,
                       .max_string_bytes = 20,
                       .forbidden_keys = forbidden,
                       .forbidden_key_count = 1,
                       .required_keys = required,
                       .required_key_count = 1},
    };
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite::memory:", &settings, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    pgqrs_install(store);
    pgqrs_queue_create(store, "jobs", NULL);

    try_payload(store, "{\"to\":\"ada\"}");
    try_payload(store, "{\"to\":\"ada\",");
    try_payload(store, "{\"to\":\"ada\"} and more");
    try_payload(store, "{\"to\":[[[\"too deep\"]]]}");
    try_payload(store, "{\"to\":[{\"__proto__\":1}]}");
    try_payload(store, "{\"from\":\"ada\"}");
    try_payload(store, "{\"to\":\"a very very long name\"}");
    pgqrs_close(store);
    return 0;
}
