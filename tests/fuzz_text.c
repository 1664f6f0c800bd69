/* Texts: quoting gives JSON that unquotes to the same text, and refuses what is not UTF-8; unquoting takes JSON strings
 * alone. Beside them what is shown to people, whole numbers, and words without regard to case. */
#include "fuzz.h"

#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

static pgqrs_store *fuzz_open_store;

static void fuzz_close(void)
{
    pgqrs_close(fuzz_open_store);
}

static pgqrs_store *fuzz_store(void)
{
    if (!fuzz_open_store) {
        fuzz_open_store = pgqrs_open("sqlite::memory:", NULL, NULL);
        FUZZ_CHECK(fuzz_open_store != NULL && atexit(fuzz_close) == 0);
    }
    return fuzz_open_store;
}

/* As much of a run as texts need. */
typedef struct fuzz_run {
    pgqrs_worker worker;
    pgqrs_run run;
} fuzz_run;

static void fuzz_run_begin(fuzz_run *it)
{
    memset(it, 0, sizeof *it);
    it->worker.store = fuzz_store();
    it->run.worker = &it->worker;
    it->run.loaded = (pgqrs_backend_run *)pgqrs_backend_result_new(it->worker.store, sizeof *it->run.loaded, 0);
    FUZZ_CHECK(it->run.loaded != NULL);
}

static bool fuzz_utf8(const char *text, size_t size)
{
    uint32_t code;
    size_t at = 0, step = 1;
    for (; at < size && step > 0; at += step)
        step = fuzz_decode(text + at, size - at, &code);
    return step > 0;
}

static bool fuzz_one_string(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    (void)text;
    (void)size;
    *(int *)context += event == PGQRS_JSON_STRING ? 1 : 1000;
    return true;
}

static void fuzz_quote(pgqrs_run *run, const char *text)
{
    const char *quoted = pgqrsi_run_quote(run, text);
    size_t offset;
    int strings = 0;
    FUZZ_CHECK((quoted != NULL) == fuzz_utf8(text, strlen(text)));
    if (!quoted)
        return;
    FUZZ_CHECK(pgqrsi_json_parse(quoted, strlen(quoted), fuzz_one_string, &strings, &offset, NULL) && strings == 1);
    for (const char *c = quoted; *c; c++)
        FUZZ_CHECK((unsigned char)*c >= 0x20);
    const char *back = pgqrsi_run_unquote(run, quoted);
    FUZZ_CHECK(back != NULL && strcmp(back, text) == 0);
}

/* The texts themselves, except that both \/ and \u0041 have a second spelling: quoting once more ends that. */
static void fuzz_unquote(pgqrs_run *run, const char *json)
{
    const char *text = pgqrsi_run_unquote(run, json);
    size_t offset;
    int strings = 0;
    bool fine = pgqrsi_json_parse(json, strlen(json), fuzz_one_string, &strings, &offset, NULL) && strings == 1;
    FUZZ_CHECK(fine || !text);
    FUZZ_CHECK(text || !fine || strstr(json, "\\u0000")); /* a NUL cannot be in a C string */
    if (!text)
        return;
    const char *again = pgqrsi_run_quote(run, text);
    FUZZ_CHECK(again != NULL);
    const char *same = pgqrsi_run_unquote(run, again);
    FUZZ_CHECK(same != NULL && strcmp(same, text) == 0);
}

/* What fits is shown as it is, and the rest begins as the text does. */
static void fuzz_show(const char *text, size_t size)
{
    char whole[8192], cut[24];
    pgqrsi_text_show(text, size, whole, sizeof whole);
    FUZZ_CHECK(fuzz_printable(whole));
    if (fuzz_utf8(text, size) && !memchr(text, '\0', size) && fuzz_printable(whole) && !strpbrk(whole, "?"))
        FUZZ_CHECK(strlen(whole) == size && memcmp(whole, text, size) == 0);
    for (size_t room = 1; room <= sizeof cut; room++) {
        memset(cut, 'x', sizeof cut);
        pgqrsi_text_show(text, size, cut, room);
        size_t length = strlen(cut);
        FUZZ_CHECK(length < room && fuzz_printable(cut));
        if (strcmp(cut, whole) == 0)
            continue;
        FUZZ_CHECK(room <= 3 || (length >= 3 && strcmp(cut + length - 3, "...") == 0));
        FUZZ_CHECK(strncmp(cut, whole, room <= 3 ? length : length - 3) == 0);
    }
}

/* The number is the one that printf would write in the same way. */
static void fuzz_number(const char *text, size_t size)
{
    char copy[32], back[32];
    int64_t value = 0;
    bool fine = pgqrsi_parse_int64(text, size, &value);
    bool same = false;
    if (size > 0 && size < sizeof copy) {
        memcpy(copy, text, size);
        copy[size] = '\0';
        snprintf(back, sizeof back, "%lld", strtoll(copy, NULL, 10));
        same = strlen(copy) == size && strcmp(copy, back) == 0;
    }
    if (size == 2 && memcmp(text, "-0", 2) == 0)
        FUZZ_CHECK(fine && value == 0);
    else
        FUZZ_CHECK(fine == same && (!fine || value == strtoll(copy, NULL, 10)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_run it;
    if (size > 2048)
        return 0;
    char *text = fuzz_text(data, size);
    fuzz_run_begin(&it);
    fuzz_quote(&it.run, text);
    fuzz_unquote(&it.run, text);
    FUZZ_CHECK(it.run.status == PGQRS_OK);
    pgqrs_free(it.run.loaded);
    fuzz_show(text, size);
    fuzz_number(text, size);
    FUZZ_CHECK(pgqrsi_equal_nocase(text, size, "password") == (size == 8 && strcasecmp(text, "password") == 0));
    free(text);
    return 0;
}
