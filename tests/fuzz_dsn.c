/* DSNs. What libpq takes from one as a password is never shown, nor is what stands where a person puts one; the copy for
 * messages is one line of UTF-8 that fits. Opening a DSN that cannot be used does not show it either. */
#include "fuzz.h"
#include <libpq-fe.h>

#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"
#include "../pgqrs.h"

/* A secret begins and ends with this; these letters are taken out of all else. */
#define FUZZ_SHOWN "QZ"

static void fuzz_redact(const char *dsn, char *out, size_t room)
{
    memset(out, 'x', room);
    pgqrsi_dsn_redact(dsn, out, room);
    FUZZ_CHECK(memchr(out, '\0', room) != NULL);
    FUZZ_CHECK(fuzz_printable(out));
}

/* Could this be found in a redacted DSN only if it was not redacted? */
static bool fuzz_telling(const char *dsn, const char *secret)
{
    const char *found = strstr(dsn, secret);
    if (strlen(secret) < 4 || !found || strstr(found + 1, secret))
        return false;
    for (; *secret; secret++)
        if (!pgqrsi_is_letter(*secret) && !pgqrsi_is_digit(*secret))
            return false;
    return true;
}

static bool fuzz_is_secret(const PQconninfoOption *option)
{
    return option->dispchar[0] == '*' && option->val && option->val[0];
}

/* Not a word of a password, said libpq; false: libpq does not understand the DSN at all. */
static bool fuzz_as_libpq(const char *dsn, const char *shown)
{
    char *why = NULL;
    PQconninfoOption *options = PQconninfoParse(dsn, &why);
    bool understood = options != NULL;
    for (PQconninfoOption *option = options; option && option->keyword; option++)
        if (fuzz_is_secret(option) && fuzz_telling(dsn, option->val))
            FUZZ_CHECK(!strstr(shown, option->val));
    PQconninfoFree(options);
    PQfreemem(why);
    return understood;
}

static void fuzz_open(const char *dsn, const char *hidden)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open(dsn, NULL, &err);
    FUZZ_CHECK(store == NULL);
    FUZZ_CHECK(err.code != PGQRS_OK && err.message[0] && fuzz_printable(err.message));
    FUZZ_CHECK(!hidden || !strstr(err.message, hidden));
}

/* Q and Z are what is looked for, so they stand nowhere but in the secret. */
static void fuzz_clean(char *text)
{
    for (; *text; text++)
        if (*text == 'Q' || *text == 'Z')
            *text = 'q';
}

static void fuzz_built(const char *format, const char *before, const char *secret, const char *after)
{
    static char dsn[16384], shown[32768];
    if (strlen(before) + strlen(secret) + strlen(after) > sizeof dsn / 2)
        return;
    snprintf(dsn, sizeof dsn, format, before, secret, after);
    for (size_t room = 1; room < 64; room += 9) {
        fuzz_redact(dsn, shown, room);
        FUZZ_CHECK(!strstr(shown, FUZZ_SHOWN));
    }
    fuzz_redact(dsn, shown, sizeof shown);
    FUZZ_CHECK(!strstr(shown, FUZZ_SHOWN));
    FUZZ_CHECK(strstr(shown, "***") != NULL);
    if (strncmp(dsn, "nosuch:", 7) == 0)
        fuzz_open(dsn, FUZZ_SHOWN);
}

/* Three lines: what stands before the secret, the secret, what stands behind it. */
static void fuzz_three_lines(char *text)
{
    char secret[512];
    char *middle = strchr(text, '\n'), *after = middle ? strchr(middle + 1, '\n') : NULL;
    if (!after)
        return;
    *middle++ = '\0';
    *after++ = '\0';
    fuzz_clean(text);
    fuzz_clean(middle);
    fuzz_clean(after);
    snprintf(secret, sizeof secret, "QZ%.200sQZ", middle);
    fuzz_built("postgres://%s:%s@%s", text, secret, after);
    fuzz_built("nosuch://%s:%s@%s", text, secret, after);
    fuzz_built("%s:%s@%s", text, secret, after);
    fuzz_built("postgres://%s?password=%s&%s", text, secret, after);
    fuzz_built("host=h %s password = %s %s", text, secret, after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char shown[32768];
    if (size > 4096)
        return 0;
    char *dsn = fuzz_text(data, size);
    for (size_t room = 1; room <= 16; room++)
        fuzz_redact(dsn, shown, room);
    fuzz_redact(dsn, shown, sizeof shown);
    /* Only what cannot lead anywhere is opened. */
    if (!fuzz_as_libpq(dsn, shown) && !pgqrsi_dsn_is_file(dsn, pgqrsi_dsn_scheme(dsn)))
        fuzz_open(dsn, NULL);
    fuzz_three_lines(dsn);
    free(dsn);
    return 0;
}
