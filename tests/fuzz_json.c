/* A libFuzzer target for the JSON parser and the DSN redaction. It is not a part of `make test`:
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz_json.c -o fuzz_json -lsqlite3 && ./fuzz_json
 */
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

typedef struct fuzz_state {
    int64_t depth;
    size_t events;
} fuzz_state;

static bool fuzz_report(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    fuzz_state *state = (fuzz_state *)context;
    state->events++;
    if (event == PGQRS_JSON_OBJECT_BEGIN || event == PGQRS_JSON_ARRAY_BEGIN)
        state->depth++;
    else if (event == PGQRS_JSON_OBJECT_END || event == PGQRS_JSON_ARRAY_END)
        state->depth--;
    else if (!pgqrsi_utf8_valid(text, size, NULL))
        abort(); /* whatever is reported is UTF-8 */
    if (state->depth < 0)
        abort();
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_state state = {0, 0};
    size_t offset = 0;
    char shown[64];
    bool fine = pgqrsi_json_parse((const char *)data, size, fuzz_report, &state, &offset, NULL);
    if (fine ? state.depth != 0 || state.events == 0 : offset > size)
        abort();
    if (fine && !pgqrsi_utf8_valid((const char *)data, size, NULL))
        abort(); /* nothing but UTF-8 is accepted */
    char *dsn = (char *)malloc(size + 1);
    if (!dsn)
        return 0;
    memcpy(dsn, data, size);
    dsn[size] = '\0';
    pgqrsi_dsn_redact(dsn, shown, sizeof shown);
    if (!pgqrsi_utf8_valid(shown, strlen(shown), NULL))
        abort();
    free(dsn);
    return 0;
}
