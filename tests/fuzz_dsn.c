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
    fuzz_built("host=h %s password: %s %s", text, secret, after);
    fuzz_built("postgres://h/%s?options=-c%%20a.password%%3D%s %s", text, secret, after);
}

/* A DSN that libpq understands, spelt as the input has it: what may stand there, percent-encoded, between quotes, behind a
 * backslash. The secret's marks stay plain. */
typedef struct fuzz_spelling {
    const uint8_t *data;
    size_t size, at, used;
    char dsn[1024];
} fuzz_spelling;

static uint8_t fuzz_next(fuzz_spelling *spelling)
{
    return spelling->at < spelling->size ? spelling->data[spelling->at++] : 0;
}

static void fuzz_put(fuzz_spelling *spelling, const char *text)
{
    size_t size = strlen(text);
    FUZZ_CHECK(spelling->used + size < sizeof spelling->dsn);
    memcpy(spelling->dsn + spelling->used, text, size + 1);
    spelling->used += size;
}

static void fuzz_put_blanks(fuzz_spelling *spelling)
{
    for (uint8_t count = fuzz_next(spelling) & 7; count > 0; count--) {
        char blank[] = {" \t\n\v\f\r"[fuzz_next(spelling) % 6], '\0'};
        fuzz_put(spelling, blank);
    }
}

static void fuzz_put_escaped(fuzz_spelling *spelling, const char *plain, const char *text)
{
    for (; *text; text++) {
        char piece[8];
        uint8_t how = fuzz_next(spelling);
        if (strchr(plain, *text) && (how & 1) == 0)
            snprintf(piece, sizeof piece, "%c", *text);
        else
            snprintf(piece, sizeof piece, how & 2 ? "%%%02x" : "%%%02X", (unsigned char)*text);
        fuzz_put(spelling, piece);
    }
}

/* Something of the input between QZ and QZ; each byte as `uri` or as a list of words has it. */
static void fuzz_put_secret(fuzz_spelling *spelling, bool uri, bool quoted)
{
    fuzz_put(spelling, FUZZ_SHOWN);
    for (uint8_t count = fuzz_next(spelling) & 15; count > 0; count--) {
        char byte[] = {(char)fuzz_next(spelling), '\0'};
        if (byte[0] == '\0' || byte[0] == 'Q' || byte[0] == 'Z')
            continue;
        if (uri) {
            fuzz_put_escaped(spelling, "abcxyz019!$'()*+,;\"\\[]{}<>|^` \n\xff", byte);
            continue;
        }
        if (strchr("'\\", byte[0]) || (!quoted && strchr(" \t\n\v\f\r", byte[0])))
            fuzz_put(spelling, "\\");
        fuzz_put(spelling, byte);
    }
    fuzz_put(spelling, FUZZ_SHOWN);
}

static void fuzz_spell_uri(fuzz_spelling *spelling, const char *name)
{
    bool user = fuzz_next(spelling) & 1, path = fuzz_next(spelling) & 1;
    fuzz_put(spelling, fuzz_next(spelling) & 1 ? "postgres://" : "postgresql://");
    if (user) {
        fuzz_put_escaped(spelling, "user", "us:er@/");
        fuzz_put(spelling, ":");
        fuzz_put_secret(spelling, true, false);
        fuzz_put(spelling, "@");
    }
    fuzz_put(spelling, fuzz_next(spelling) & 1 ? "h1:1,[::1]:2" : "h");
    fuzz_put(spelling, path ? "/a@b:c=d" : "");
    if (user)
        return;
    /* Without a path an @ would be the end of a user's name. */
    fuzz_put(spelling, !(fuzz_next(spelling) & 1) ? "?" : path ? "?application_name=@:&" : "?application_name=:&");
    fuzz_put_escaped(spelling, "paswordl", name);
    fuzz_put(spelling, "=");
    fuzz_put_secret(spelling, true, false);
    fuzz_put(spelling, !(fuzz_next(spelling) & 1) ? "" : path ? "&host=@:" : "&host=/:");
}

static void fuzz_spell_words(fuzz_spelling *spelling, const char *name)
{
    bool quoted = fuzz_next(spelling) & 1;
    fuzz_put_blanks(spelling);
    fuzz_put(spelling, fuzz_next(spelling) & 1 ? "host='a:b@c'" : "user = a\\ password=x dbname=' = \\' password='");
    fuzz_put(spelling, " ");
    fuzz_put_blanks(spelling);
    fuzz_put(spelling, name);
    fuzz_put_blanks(spelling);
    fuzz_put(spelling, "=");
    fuzz_put_blanks(spelling);
    fuzz_put(spelling, quoted ? "'" : "");
    fuzz_put_secret(spelling, false, quoted);
    fuzz_put(spelling, quoted ? "'" : "");
    fuzz_put_blanks(spelling);
    fuzz_put(spelling, fuzz_next(spelling) & 1 ? " user=@:" : "");
}

static void fuzz_spelt(const uint8_t *data, size_t size)
{
    static char shown[4096];
    fuzz_spelling spelling;
    memset(&spelling, 0, sizeof spelling);
    spelling.data = data;
    spelling.size = size;
    uint8_t form = fuzz_next(&spelling);
    const char *name = form & 1 ? "password" : "sslpassword";
    if (form & 2)
        fuzz_spell_uri(&spelling, name);
    else
        fuzz_spell_words(&spelling, name);
    bool known = false;
    PQconninfoOption *options = PQconninfoParse(spelling.dsn, NULL);
    for (PQconninfoOption *option = options; option && option->keyword; option++)
        known = known || (fuzz_is_secret(option) && strncmp(option->val, FUZZ_SHOWN, 2) == 0);
    PQconninfoFree(options);
    if (!known)
        fprintf(stderr, "%s\n", spelling.dsn);
    FUZZ_CHECK(known);
    fuzz_redact(spelling.dsn, shown, sizeof shown);
    FUZZ_CHECK(!strstr(shown, FUZZ_SHOWN) && strstr(shown, "***"));
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
    fuzz_spelt(data, size);
    free(dsn);
    return 0;
}
