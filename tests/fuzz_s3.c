/* What comes from an S3 store or out of the cache. The first byte chooses:
 *   r  a reply: status, lines of fields, an empty line, body. What is kept of it is compared with a second reading of it.
 *   o  an object: any bytes behind a small SQLite file. A trailer that is taken has the right checksum, and nothing is out of bounds.
 *   t  a trailer whose checksum is right: what is taken is whole, and the next commit's knows whoever it has to.
 *   h  the head of an object in parts, whose checksum is right: what it names is in it, and what it has is laid nowhere else.
 *   p  a part, any bytes; P: with the head and checksum put right. What is taken is what is laid.
 *   c  a file of the cache, any bytes; C: with the checksum put right.
 *   g  the head of a file by which stores of one machine share commits, any bytes; G: with the checksum put right. Written again it is the same.
 *   s  a key, a time and secrets: the signature is what the tests' own code says, which shares nothing with the library's. */
#include "fuzz.h"

#define PGQRS_IMPLEMENTATION
#include "../pgqrs_s3.h"
#include "s3_signature.h"
#include <sys/mman.h>

static pgqrs_store *fuzz_open;

static void fuzz_close(void)
{
    pgqrs_close(fuzz_open);
}

static pgqrs_store *fuzz_store(void)
{
    if (!fuzz_open) {
        fuzz_open = pgqrs_open("sqlite::memory:", NULL, NULL);
        FUZZ_CHECK(fuzz_open != NULL && atexit(fuzz_close) == 0);
    }
    return fuzz_open;
}

/* CRC-32, one bit at a time. */
static uint32_t fuzz_crc(const unsigned char *bytes, size_t size)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    return ~crc;
}

static void fuzz_put(unsigned char *out, int size, uint64_t value)
{
    for (int i = 0; i < size; i++)
        out[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t fuzz_get(const unsigned char *bytes, int size)
{
    uint64_t value = 0;
    for (int i = size - 1; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* ---- replies ---- */

static void fuzz_is_text(const char *text, size_t room)
{
    FUZZ_CHECK(memchr(text, '\0', room) != NULL);
    for (; *text; text++)
        FUZZ_CHECK(*text >= 0x20 && *text <= 0x7e);
}

/* The value as the library has to see it: without space around it. */
static char *fuzz_trimmed(const char *value)
{
    size_t size;
    value += strspn(value, " \t\r\n");
    size = strlen(value);
    while (size > 0 && strchr(" \t\r\n", value[size - 1]))
        size--;
    return fuzz_text((const uint8_t *)value, size);
}

static void fuzz_field(pgqrs_http_reply *reply, const char *name, const char *value)
{
    char *text = fuzz_trimmed(value);
    if (strcasecmp(name, "etag") == 0) {
        bool good = *text && strlen(text) < sizeof(reply->etag);
        for (const char *c = text; *c; c++)
            good = good && *c >= 0x20 && *c <= 0x7e;
        FUZZ_CHECK(strcmp(reply->etag, good ? text : "") == 0);
    } else if (strcasecmp(name, "date") == 0 && reply->date_us != 0) {
        char again[40] = "";
        time_t seconds = (time_t)(reply->date_us / 1000000);
        struct tm parts;
        int hour, minute, second = 0;
        FUZZ_CHECK(reply->date_us > 0 && gmtime_r(&seconds, &parts) != NULL);
        /* A leap second is the next minute's first, and nobody looks at the day of the week. */
        strftime(again, sizeof(again), "%a, %d %b %Y %H:%M:%S GMT", &parts);
        if (sscanf(text + 17, "%2d:%2d:%2d", &hour, &minute, &second) == 3 && second < 60 && parts.tm_mday == atoi(text + 5))
            FUZZ_CHECK(memcmp(again + 8, text + 8, 3) == 0 && memcmp(again + 12, text + 12, 4) == 0 && strcmp(again + 16, text + 16) == 0);
    } else if (strcasecmp(name, "retry-after") == 0) {
        FUZZ_CHECK(reply->retry_after_ms >= 0 && reply->retry_after_ms <= 3600000);
        if (*text && strspn(text, "0123456789") == strlen(text) && strlen(text) < 4)
            FUZZ_CHECK(reply->retry_after_ms == atoi(text) * 1000);
    }
    free(text);
}

static void fuzz_reply(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size), *line = text, *body, copy[64] = "";
    pgqrs_http_reply reply;
    const char *code;
    int given = atoi(text), status;
    memset(&reply, 0, sizeof(reply));
    reply.store = fuzz_store();
    reply.most = 1000;
    line += strcspn(line, "\n");
    while (*line == '\n' && line[1] != '\n' && line[1]) {
        char *end, *colon, last;
        line++;
        end = line + strcspn(line, "\n");
        last = *end;
        *end = '\0';
        colon = strchr(line, ':');
        if (colon) {
            *colon = '\0';
            FUZZ_CHECK(pgqrs_http_reply_field(&reply, line, strlen(line), colon + 1, strlen(colon + 1)));
            fuzz_field(&reply, line, colon + 1);
        }
        *end = last;
        line = end;
    }
    body = *line ? line + 1 : line;
    for (size_t at = 0, left = strlen(body); at < left; at += 7)
        if (!pgqrs_http_reply_body(&reply, body + at, left - at < 7 ? left - at : 7))
            break;
    FUZZ_CHECK(reply.too_large == (strlen(body) > reply.most));
    FUZZ_CHECK(reply.too_large || (reply.body.size == strlen(body) && memcmp(reply.body.data ? (char *)reply.body.data : "", body, reply.body.size) == 0));
    status = pgqrsi_s3_judge(&reply, given);
    FUZZ_CHECK(status == given || status == 0);
    FUZZ_CHECK(status <= 0 || (status >= 100 && status <= 599));
    FUZZ_CHECK(status <= 0 || status == 304 || !reply.length_known || reply.length == reply.body.size);
    fuzz_is_text(reply.etag, sizeof(reply.etag));
    fuzz_is_text(reply.region, sizeof(reply.region));
    fuzz_is_text(reply.code, sizeof(reply.code));
    code = status >= 300 && !reply.too_large ? strstr(body, "<Code>") : NULL;
    if (code && sscanf(code, "<Code>%63[A-Za-z0-9]<", copy) == 1 && code[6 + strlen(copy)] == '<' && strlen(copy) < 60)
        FUZZ_CHECK(strcmp(reply.code, copy) == 0);
    pgqrsi_s3_release(reply.store, &reply.body);
    free(text);
}

/* ---- objects ---- */

enum { PAGE = 512 };

/* An empty database of one page, and room behind it. */
static unsigned char *fuzz_object(size_t room)
{
    unsigned char *object = (unsigned char *)calloc(1, PAGE + room);
    FUZZ_CHECK(object != NULL);
    memcpy(object, "SQLite format 3", 16);
    object[16] = PAGE >> 8;
    object[18] = object[19] = 1;
    object[27] = object[95] = 7; /* the change counter, and that the number of pages goes with it */
    object[31] = 1;
    return object;
}

static void fuzz_taken(const unsigned char *object, size_t size, const pgqrsi_s3_trailer *trailer)
{
    size_t file = trailer->file_size, more = trailer->version == 2 ? 32 : 0;
    FUZZ_CHECK(file > 0 && file <= size);
    FUZZ_CHECK(trailer->part_count > 0 || trailer->image_size == file);
    if (file == size)
        return;
    FUZZ_CHECK(fuzz_crc(object, size - 4) == fuzz_get(object + size - 4, 4));
    FUZZ_CHECK(fuzz_get(object + file + 16, 8) == file);
    more += (size_t)trailer->part_count * 40 + (size_t)trailer->retired_count * 24 + (size_t)trailer->number_count * (trailer->page_size + 4);
    FUZZ_CHECK(file + 56 + (size_t)trailer->writer_count * 32 + more + 4 == size);
    FUZZ_CHECK(fuzz_get(object + file + 32, 8) == trailer->seq);
}

/* The commit after it. */
static void fuzz_next(const unsigned char *object, const pgqrsi_s3_trailer *old)
{
    pgqrsi_s3_bytes body = {NULL, 0, 0};
    pgqrsi_s3_trailer now;
    pgqrsi_s3_writer me;
    FUZZ_CHECK(pgqrsi_s3_reserve(fuzz_store(), &body, old->image_size + pgqrsi_s3_trailer_room(old)));
    memcpy(body.data, object, old->image_size);
    body.size = old->image_size;
    me.id = old->writer_count ? pgqrsi_s3_writer_at(old, 0).id : 1;
    me.counter = 77;
    me.seq = old->seq + 1;
    me.at_us = INT64_C(1900000000000000);
    pgqrsi_s3_append_trailer(&body, old, 5, 1, 9, &me);
    FUZZ_CHECK(body.size <= body.room);
    FUZZ_CHECK(pgqrsi_s3_decode(body.data, body.size, &now) == PGQRSI_S3_FINE);
    fuzz_taken(body.data, body.size, &now);
    FUZZ_CHECK(now.seq == old->seq + 1 && now.birth == 5 && now.flags == 1 && now.place == 9);
    FUZZ_CHECK(now.writer_count >= 1 && now.writer_count <= PGQRSI_S3_WRITERS_MAX);
    FUZZ_CHECK(pgqrsi_s3_last_commit(&now, me.id) == 77);
    FUZZ_CHECK(now.horizon >= old->horizon);
    for (uint32_t i = 0; i < old->writer_count; i++) { /* known, or below the horizon */
        pgqrsi_s3_writer writer = pgqrsi_s3_writer_at(old, i);
        bool listed = writer.id == me.id || writer.seq <= now.horizon;
        for (uint32_t k = 0; k < now.writer_count && !listed; k++)
            listed = memcmp(now.writers + (size_t)k * 32, old->writers + (size_t)i * 32, 32) == 0;
        FUZZ_CHECK(listed);
    }
    pgqrsi_s3_release(fuzz_store(), &body);
}

static void fuzz_object_bytes(const uint8_t *data, size_t size, bool fix)
{
    size_t rest = fix ? PGQRSI_S3_TRAILER_LEAST + (size > 40 ? (size - 40) / 32 * 32 : 0) : size;
    unsigned char *object = fuzz_object(rest), *tail = object + PAGE;
    pgqrsi_s3_trailer trailer;
    pgqrsi_s3_shape shape;
    if (!fix && size > 0)
        memcpy(tail, data, size);
    if (fix) {
        size_t head = size < 40 ? size : 40;
        memcpy(tail, pgqrsi_s3_magic, 8);
        fuzz_put(tail + 8, 4, 1);
        memcpy(tail + 12, data, head < 4 ? head : 4);
        fuzz_put(tail + 16, 8, PAGE);
        memcpy(tail + 24, data + (head < 4 ? head : 4), head < 28 ? (head < 4 ? 0 : head - 4) : 24);
        fuzz_put(tail + 48, 4, (rest - PGQRSI_S3_TRAILER_LEAST) / 32);
        if (size > 40)
            memcpy(tail + 56, data + 40, rest - PGQRSI_S3_TRAILER_LEAST);
        fuzz_put(tail + rest - 4, 4, fuzz_crc(object, PAGE + rest - 4));
    }
    shape = pgqrsi_s3_decode(object, PAGE + rest, &trailer);
    FUZZ_CHECK(!fix || shape == PGQRSI_S3_FINE);
    if (shape == PGQRSI_S3_FINE) {
        fuzz_taken(object, PAGE + rest, &trailer);
        if (trailer.seq < UINT64_MAX && trailer.version < 2)
            fuzz_next(object, &trailer);
    }
    free(object);
    /* And without the small file in front. */
    if (pgqrsi_s3_decode(data, size, &trailer) == PGQRSI_S3_FINE)
        fuzz_taken(data, size, &trailer);
}

/* ---- parts ---- */

enum { SHEET = 24 };

/* All that is laid is inside, under its number. */
static void fuzz_lay(const pgqrsi_s3_trailer *trailer, const pgqrsi_s3_part *part, const unsigned char *data)
{
    pgqrsi_s3_version version;
    bool whole;
    memset(&version, 0, sizeof(version));
    version.trailer = *trailer;
    FUZZ_CHECK(pgqrsi_s3_lay_begin(fuzz_store(), &version, NULL));
    if (part)
        pgqrsi_s3_lay_part(&version, part, data);
    whole = pgqrsi_s3_lay_head(&version);
    FUZZ_CHECK(!whole || (version.missing == 0 && version.sum == trailer->sum));
    for (uint32_t i = 0; i < trailer->page_count; i++) {
        const unsigned char *from = NULL;
        for (uint32_t k = 0; part && k < part->pages; k++)
            if (fuzz_get(data + 48 + 4 * k, 4) == i)
                from = data + 48 + 4 * part->pages + (size_t)k * trailer->page_size;
        for (uint32_t k = 0; k < trailer->number_count; k++)
            if (fuzz_get(trailer->numbers + 4 * k, 4) == i)
                from = trailer->pages + (size_t)k * trailer->page_size;
        FUZZ_CHECK((pgqrsi_s3_born(&version.born, i) == 0) == (from == NULL));
        FUZZ_CHECK(!from || memcmp(version.base.data + (size_t)i * trailer->page_size, from, trailer->page_size) == 0);
    }
    pgqrsi_s3_drop_version(fuzz_store(), &version);
}

static void fuzz_head(const uint8_t *data, size_t size)
{
    size_t room = size + 200;
    unsigned char *object = fuzz_object(room), *tail = object + PAGE;
    pgqrsi_s3_trailer trailer;
    memcpy(tail, pgqrsi_s3_magic, 8);
    fuzz_put(tail + 8, 4, 2);
    fuzz_put(tail + 16, 8, PAGE);
    fuzz_put(tail + 32, 8, 100);
    fuzz_put(tail + 48, 4, 1);
    if (size > 0)
        memcpy(tail + 88, data, size);
    fuzz_put(tail + 88 + size, 4, fuzz_crc(object, PAGE + 88 + size));
    if (pgqrsi_s3_decode(object, PAGE + 88 + size + 4, &trailer) == PGQRSI_S3_FINE) {
        uint64_t upto = 0;
        fuzz_taken(object, PAGE + 88 + size + 4, &trailer);
        for (uint32_t i = 0; i < trailer.part_count; i++) {
            pgqrsi_s3_part part = pgqrsi_s3_part_at(&trailer, i);
            FUZZ_CHECK(part.upto > upto && part.upto <= 100 && part.kind == (i > 0) && part.pages > 0);
            upto = part.upto;
        }
        FUZZ_CHECK(trailer.part_count == 0 || trailer.image_size == (size_t)trailer.page_count * trailer.page_size);
        if (trailer.part_count > 0 && trailer.image_size < 1 << 20)
            fuzz_lay(&trailer, NULL, NULL);
    }
    free(object);
}

static void fuzz_part(const uint8_t *data, size_t size, bool fix)
{
    pgqrsi_s3_trailer trailer;
    pgqrsi_s3_part part = {9, 77, 8, 1, PGQRSI_S3_PAGES, 0};
    unsigned char *bytes = (unsigned char *)malloc(size + 64);
    FUZZ_CHECK(bytes != NULL);
    if (size > 0)
        memcpy(bytes, data, size);
    part.pages = size > 52 ? (uint32_t)((size - 52) / (PAGE + 4)) : 1;
    if (fix && part.pages > 0 && size > 52) {
        size = 52 + (size_t)part.pages * (PAGE + 4);
        memcpy(bytes, pgqrsi_s3_part_magic, 8);
        fuzz_put(bytes + 8, 4, 1);
        fuzz_put(bytes + 12, 4, PAGE);
        fuzz_put(bytes + 16, 8, 5);
        fuzz_put(bytes + 24, 8, part.seq);
        fuzz_put(bytes + 32, 8, part.id);
        fuzz_put(bytes + 40, 4, part.pages);
        fuzz_put(bytes + size - 4, 4, fuzz_crc(bytes, size - 4));
    }
    if (size >= 4)
        part.crc = (uint32_t)fuzz_get(bytes + size - 4, 4);
    if (pgqrsi_s3_part_fine(bytes, size, &part, 5, PAGE)) {
        FUZZ_CHECK(size == 52 + (size_t)part.pages * (PAGE + 4) && fuzz_crc(bytes, size - 4) == part.crc);
        memset(&trailer, 0, sizeof(trailer));
        trailer.page_size = PAGE;
        trailer.page_count = SHEET;
        trailer.image_size = (size_t)SHEET * PAGE;
        fuzz_lay(&trailer, &part, bytes);
    }
    free(bytes);
}

/* ---- the cache ---- */

static void fuzz_cache(const uint8_t *data, size_t size, bool fix)
{
    static const char url[] = "http://h/b/k";
    static unsigned char bytes[4200];
    pgqrsi_s3 self;
    pgqrsi_s3_cached cached;
    size_t tail_at, etag_size, url_size = strlen(url);
    int descriptor;
    memset(&self, 0, sizeof(self));
    memset(&cached, 0, sizeof(cached));
    self.store = fuzz_store();
    self.url = url;
    self.most = 2000;
    if (size > 4096)
        return;
    if (size > 0)
        memcpy(bytes, data, size);
    if (fix && size > PGQRSI_S3_TAIL + url_size) { /* the lengths stay as they are */
        tail_at = size - PGQRSI_S3_TAIL;
        etag_size = (size_t)fuzz_get(bytes + tail_at + 20, 4) % 40;
        memcpy(bytes + tail_at, pgqrsi_s3_tail_magic, 8);
        fuzz_put(bytes + tail_at + 16, 4, url_size);
        if (tail_at >= etag_size + url_size) {
            unsigned char checked[200];
            memcpy(bytes + tail_at - etag_size - url_size, url, url_size);
            memcpy(checked, bytes + tail_at - etag_size - url_size, url_size + etag_size + 36);
            fuzz_put(bytes + tail_at + 36, 4, fuzz_crc(checked, url_size + etag_size + 36));
        }
    }
    descriptor = memfd_create("cache", 0);
    FUZZ_CHECK(descriptor >= 0 && write(descriptor, bytes, size) == (ssize_t)size);
    if (pgqrsi_s3_read_tail(&self, descriptor, &cached)) {
        size_t checked = url_size + strlen(cached.etag) + 36;
        FUZZ_CHECK(cached.etag[0] || memchr(bytes, '\0', size));
        FUZZ_CHECK(cached.size <= self.most * (cached.flags & PGQRSI_S3_TAIL_PARTS ? 2 : 1) + 1 && cached.size + url_size + PGQRSI_S3_TAIL < size);
        FUZZ_CHECK(memcmp(bytes + cached.size, url, url_size) == 0);
        if (cached.size + checked + 4 == size)
            FUZZ_CHECK(fuzz_crc(bytes + cached.size, checked) == fuzz_get(bytes + size - 4, 4));
        if (cached.flags & PGQRSI_S3_TAIL_PARTS) {
            pgqrsi_s3_version version;
            bool memory = true;
            memset(&version, 0, sizeof(version));
            FUZZ_CHECK(pgqrsi_s3_reserve(self.store, &version.base, cached.size + 1));
            memcpy(version.base.data, bytes, cached.size);
            version.base.size = cached.size;
            if (pgqrsi_s3_unpack(&self, &version, &memory))
                FUZZ_CHECK(version.base.size == version.trailer.image_size && version.born.size == (size_t)version.trailer.page_count * 8);
            pgqrsi_s3_drop_version(self.store, &version);
        }
    }
    close(descriptor);
}

/* ---- signatures ---- */

static void fuzz_word(char *out, size_t room, const char *from, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < size && used + 1 < room; i++)
        if (from[i] > 0x20 && from[i] < 0x7f && from[i] != ',')
            out[used++] = from[i];
    if (used == 0)
        out[used++] = 'x';
    out[used] = '\0';
}

static void fuzz_signature(const uint8_t *data, size_t size)
{
    static const char names[] = "host;if-match;x-amz-content-sha256;x-amz-date";
    char key[400], access[100], secret[100], region[60], etag[100], path[1400], stamp[17], payload[65], expected[65], wanted[40];
    char authorization[PGQRSI_S3_AUTHORIZATION_MAX];
    pgqrs_http_field fields[4];
    s3_field again[4];
    pgqrsi_s3_signing signing;
    s3_text canonical = {NULL, 0, 0, false}, encoded = {NULL, 0, 0, false};
    char *text = fuzz_text(data, size);
    size_t length = strlen(text), fifth = length / 5;
    time_t seconds;
    struct tm parts;
    snprintf(key, sizeof(key), "/b/%.390s", text);
    fuzz_word(access, sizeof(access), text, fifth);
    fuzz_word(secret, sizeof(secret), text + fifth, fifth);
    fuzz_word(region, sizeof(region), text + 2 * fifth, fifth);
    fuzz_word(etag, sizeof(etag), text + 3 * fifth, fifth);
    seconds = (time_t)(length > 4 ? (uint32_t)fuzz_get((const unsigned char *)text, 4) : 0);
    pgqrsi_s3_encode(key, path);
    s3_encode(&encoded, key, strlen(key), true);
    FUZZ_CHECK(strcmp(path, encoded.data) == 0);
    pgqrsi_s3_stamp((int64_t)seconds * 1000000 + 999999, stamp);
    gmtime_r(&seconds, &parts);
    strftime(wanted, sizeof(wanted), "%Y%m%dT%H%M%SZ", &parts);
    FUZZ_CHECK(strcmp(stamp, wanted) == 0);
    s3_digest_hex(data, size, payload);
    {
        unsigned char digest[32];
        pgqrsi_s3_sha_of(data, size, digest);
        pgqrsi_s3_hex(digest, expected);
        FUZZ_CHECK(strcmp(payload, expected) == 0);
    }
    fields[0].name = "host", fields[0].value = "h:1";
    fields[1].name = "if-match", fields[1].value = etag;
    fields[2].name = "x-amz-content-sha256", fields[2].value = payload;
    fields[3].name = "x-amz-date", fields[3].value = stamp;
    for (int i = 0; i < 4; i++)
        again[i].name = fields[i].name, again[i].value = fields[i].value;
    memset(&signing, 0, sizeof(signing));
    signing.method = "PUT";
    signing.path = path;
    signing.query = "";
    signing.fields = fields;
    signing.field_count = 4;
    signing.payload = payload;
    signing.stamp = stamp;
    signing.region = region;
    signing.access_key = access;
    signing.secret_key = secret;
    pgqrsi_s3_sign(&signing, authorization);
    s3_canonical_request(&canonical, "PUT", path, again, 4, names, payload);
    s3_signature(secret, stamp, region, &canonical, expected);
    FUZZ_CHECK(strlen(authorization) > 64 && strcmp(authorization + strlen(authorization) - 64, expected) == 0);
    FUZZ_CHECK(strstr(authorization, names) != NULL);
    s3_free(&canonical);
    s3_free(&encoded);
    free(text);
}

/* ---- commits that are shared ---- */

static void fuzz_staged(const uint8_t *data, size_t size, bool fix)
{
    unsigned char again[PGQRSI_S3_STAGED_ROOM], *bytes = (unsigned char *)malloc(size + 1);
    pgqrsi_s3_staged staged;
    uint64_t image_size = 0;
    size_t whole = 0, taken;
    FUZZ_CHECK(bytes != NULL);
    if (size > 0)
        memcpy(bytes, data, size);
    if (fix && size >= PGQRSI_S3_STAGED_HEAD + 20) {
        size_t count = (size - PGQRSI_S3_STAGED_HEAD - 4) / 16;
        count = count > PGQRSI_S3_STAGED_MAX ? PGQRSI_S3_STAGED_MAX : count;
        whole = PGQRSI_S3_STAGED_HEAD + 16 * count + 4;
        memcpy(bytes, pgqrsi_s3_staged_magic, 8);
        fuzz_put(bytes + 40, 4, count);
        fuzz_put(bytes + whole - 4, 4, fuzz_crc(bytes, whole - 4));
    }
    memset(&staged, 0, sizeof(staged));
    taken = pgqrsi_s3_read_staged_head(bytes, size, &staged, &image_size);
    FUZZ_CHECK(taken <= size && (whole == 0 || taken == whole));
    staged.image.size = (size_t)image_size;
    if (taken > 0)
        FUZZ_CHECK(pgqrsi_s3_staged_head(&staged, again) == taken && memcmp(bytes, again, taken) == 0);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0]) {
    case 'r': fuzz_reply(data + 1, size - 1); break;
    case 'g': fuzz_staged(data + 1, size - 1, false); break;
    case 'G': fuzz_staged(data + 1, size - 1, true); break;
    case 'o': fuzz_object_bytes(data + 1, size - 1, false); break;
    case 't': fuzz_object_bytes(data + 1, size - 1, true); break;
    case 'h': fuzz_head(data + 1, size - 1); break;
    case 'p': fuzz_part(data + 1, size - 1, false); break;
    case 'P': fuzz_part(data + 1, size - 1, true); break;
    case 'c': fuzz_cache(data + 1, size - 1, false); break;
    case 'C': fuzz_cache(data + 1, size - 1, true); break;
    case 's': fuzz_signature(data + 1, size - 1); break;
    default: break;
    }
    return 0;
}
