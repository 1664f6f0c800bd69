/* What a Postgres server (or somebody who answers in its place) sends: numbers, times and arrays in binary form, and the
 * texts in which libpq says why a connection failed. Numbers are read a second time here; what does not have the length of
 * a number is 0; an array that is cut off reads as absent values. Arrays of ours read back as what was put in. Of the text
 * of a failure one line is shown, and without SQLSTATE nothing that stood in quotes. */
#include "fuzz.h"
#include <libpq-fe.h>

#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"
#include "../pgqrs.h"

static char fuzz_column_name[] = "c";

/* One row; every column has the same value. */
static PGresult *fuzz_row(int columns, Oid type, const uint8_t *data, size_t size)
{
    PGresAttDesc *attributes = (PGresAttDesc *)calloc((size_t)columns, sizeof *attributes);
    PGresult *r = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    char *copy = (char *)malloc(size + 1);
    FUZZ_CHECK(attributes != NULL && r != NULL && copy != NULL);
    if (size > 0)
        memcpy(copy, data, size);
    for (int i = 0; i < columns; i++) {
        attributes[i].name = fuzz_column_name;
        attributes[i].typid = type;
        attributes[i].format = 1;
    }
    FUZZ_CHECK(PQsetResultAttrs(r, columns, attributes));
    for (int i = 0; i < columns; i++)
        FUZZ_CHECK(PQsetvalue(r, 0, i, copy, (int)size));
    free(attributes);
    free(copy);
    return r;
}

static int64_t fuzz_big_endian(const uint8_t *data, size_t size)
{
    uint64_t value = size > 0 && data[0] >= 0x80 ? UINT64_MAX : 0;
    for (size_t i = 0; i < size; i++)
        value = value * 256 + data[i];
    return (int64_t)value;
}

static void fuzz_number(const uint8_t *data, size_t size)
{
    bool is_number = size == 2 || size == 4 || size == 8;
    int64_t want = is_number ? fuzz_big_endian(data, size) : size == 1 && data[0] ? 1 : 0;
    PGresult *r = fuzz_row(1, PGQRSI_PG_INT8, data, size);
    FUZZ_CHECK(pgqrsi_pg_get_int64(r, 0, 0) == want);
    PQclear(r);
    r = fuzz_row(1, PGQRSI_PG_TIME, data, size);
    int64_t time = pgqrsi_pg_get_int64(r, 0, 0);
    if (size == 8 && want > INT64_C(253402300800000000) - INT64_C(946684800000000))
        FUZZ_CHECK(time == INT64_C(253402300800000000)); /* the end of the year 9999 */
    else if (size == 8)
        FUZZ_CHECK(time == want + INT64_C(946684800000000));
    PQclear(r);
}

static void fuzz_text_value(const uint8_t *data, size_t size)
{
    int64_t got_size = -1;
    PGresult *r = fuzz_row(1, PGQRSI_PG_TEXT, data, size);
    const char *got = pgqrsi_pg_get_text(r, 0, 0, &got_size);
    FUZZ_CHECK(got_size == (int64_t)size && memcmp(got, data, size) == 0 && got[size] == '\0');
    FUZZ_CHECK(pgqrsi_pg_text_bytes(r) >= size + 1);
    PQclear(r);
}

/* The values of a claim: behind a header of 20 bytes, each a length and that many bytes; all but 8 mean NULL. */
static void fuzz_claimed(const uint8_t *data, size_t size)
{
    int64_t want[12] = {0};
    bool there[12] = {false};
    pgqrsi_pg_claimed got;
    size_t at = 20;
    for (int i = 0; i < 12 && at + 4 <= size; i++) {
        there[i] = fuzz_big_endian(data + at, 4) == 8 && at + 12 <= size;
        want[i] = there[i] ? fuzz_big_endian(data + at + 4, 8) : 0;
        at += there[i] ? 12 : 4;
    }
    PGresult *r = fuzz_row(7, PGQRSI_PG_INT8_ARRAY, data, size);
    pgqrsi_pg_claimed_read(r, 0, &got);
    PQclear(r);
    FUZZ_CHECK(got.has_queue == there[0] && got.queue_id == want[0] && got.paused == (want[1] != 0));
    FUZZ_CHECK(got.has_worker == there[2] && (int64_t)got.worker_state == want[2]);
    FUZZ_CHECK(got.has_lease == there[3] && got.lease == want[3] && got.total == want[4] && got.seen == want[5]);
    FUZZ_CHECK(got.has_first == there[8] && got.ord == want[8] && got.xmin == want[9] && got.xid == want[10]);
}

static pgqrs_store *fuzz_store;

static void fuzz_close(void)
{
    pgqrs_close(fuzz_store);
}

/* As many numbers as the input holds, as an array and back. */
static void fuzz_array(const uint8_t *data, size_t size)
{
    size_t count = size / 8;
    pgqrsi_pg pg;
    pgqrsi_pg_call call;
    int64_t *ids = (int64_t *)malloc(8 * count + 1);
    if (!fuzz_store) {
        fuzz_store = pgqrs_open("sqlite::memory:", NULL, NULL);
        FUZZ_CHECK(fuzz_store != NULL && atexit(fuzz_close) == 0);
    }
    FUZZ_CHECK(ids != NULL);
    if (count > 0)
        memcpy(ids, data, 8 * count);
    memset(&pg, 0, sizeof pg);
    pg.store = fuzz_store;
    pgqrsi_pg_start(&call, &pg, 0);
    pgqrsi_pg_ids(&call, ids, count);
    FUZZ_CHECK(!call.failed && call.count == 1 && call.lengths[0] == (int)(20 + 12 * count));
    const uint8_t *sent = (const uint8_t *)call.values[0];
    FUZZ_CHECK(fuzz_big_endian(sent + 12, 4) == (int64_t)count);
    for (size_t i = 0; i < count; i++) {
        FUZZ_CHECK(fuzz_big_endian(sent + 20 + 12 * i, 4) == 8);
        FUZZ_CHECK(fuzz_big_endian(sent + 24 + 12 * i, 8) == ids[i]);
    }
    pgqrsi_pg_release(&call);
    free(ids);
}

/* libpq separates what it says by ": "; a SQLSTATE is the first piece that looks like one. */
static void fuzz_reason(const char *text)
{
    char sqlstate[6], out[160];
    memset(sqlstate, 'x', sizeof sqlstate);
    memset(out, 'x', sizeof out);
    pgqrsi_pg_dial_reason(text, sqlstate, out, sizeof out);
    FUZZ_CHECK(memchr(out, '\0', sizeof out) != NULL && !strchr(out, '\n'));
    if (sqlstate[0]) {
        FUZZ_CHECK(strlen(sqlstate) == 5);
        FUZZ_CHECK(strspn(sqlstate, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && strpbrk(sqlstate, "0123456789"));
        FUZZ_CHECK(strstr(text, sqlstate) != NULL && strstr(text, out) != NULL);
    } else {
        for (const char *quote = strchr(out, '"'); quote; quote = strchr(quote + 2, '"')) {
            FUZZ_CHECK(quote[1] == '"' || quote[1] == '\0');
            if (!quote[1])
                break;
        }
    }
}

/* The same with a secret in quotes, in front of the reason or with none. */
static void fuzz_secret_host(const char *text)
{
    static const char *const formats[] = {"could not translate host name \"%sQZ%s\" to address: unknown",
                                          "invalid integer value \"%sQZ%s\" for connection option \"port\"",
                                          "invalid port number: \"%sQZ%s\""};
    static char message[8192];
    char sqlstate[6], out[160];
    if (strpbrk(text, "\"\n") || strlen(text) > 2000)
        return;
    for (int i = 0; i < 3; i++) {
        snprintf(message, sizeof message, formats[i], text, text);
        pgqrsi_pg_dial_reason(message, sqlstate, out, sizeof out);
        FUZZ_CHECK(!sqlstate[0] && !strstr(out, "QZ"));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t none[1] = {0};
    const uint8_t *given = size ? data : none;
    if (size > 2048)
        return 0;
    fuzz_number(given, size);
    fuzz_text_value(given, size);
    fuzz_claimed(given, size);
    fuzz_array(given, size);
    char *text = fuzz_text(data, size);
    fuzz_reason(text);
    fuzz_secret_host(text);
    free(text);
    return 0;
}
