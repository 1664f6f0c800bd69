/* Signature Version 4 for the S3 test server and the programs that drive it: on purpose not the library's code, so that each is
 * checked by the other, by published examples and by servers that neither has seen. */
#ifndef PGQRS_TEST_S3_SIGNATURE_H
#define PGQRS_TEST_S3_SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wunused-function"

/* Text that grows. After a failed allocation it stays as it was, and says so. */
typedef struct s3_text {
    char *data; /* ends with a NUL when anything was added */
    size_t size, room;
    bool failed;
} s3_text;

static void s3_add(s3_text *text, const void *data, size_t size)
{
    if (text->failed)
        return;
    if (text->size + size + 1 > text->room) {
        size_t room = 2 * text->room + size + 256;
        char *grown = (char *)realloc(text->data, room);
        if (!grown) {
            text->failed = true;
            return;
        }
        text->data = grown;
        text->room = room;
    }
    if (size > 0)
        memcpy(text->data + text->size, data, size);
    text->size += size;
    text->data[text->size] = '\0';
}

static void s3_put(s3_text *text, const char *string)
{
    s3_add(text, string, strlen(string));
}

static void s3_free(s3_text *text)
{
    free(text->data);
    memset(text, 0, sizeof(*text));
}

/* ---- SHA-256 and HMAC ---- */

typedef struct s3_sha256 {
    uint32_t state[8];
    uint64_t total;
    unsigned char block[64];
    size_t used;
} s3_sha256;

static const uint32_t s3_sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t s3_rotate(uint32_t value, unsigned by)
{
    return (value >> by) | (value << (32 - by));
}

static void s3_sha256_block(s3_sha256 *hash, const unsigned char *block)
{
    uint32_t w[64], v[8];
    for (size_t i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (size_t i = 16; i < 64; i++) {
        uint32_t low = s3_rotate(w[i - 15], 7) ^ s3_rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t high = s3_rotate(w[i - 2], 17) ^ s3_rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + low + w[i - 7] + high;
    }
    memcpy(v, hash->state, sizeof(v));
    for (size_t i = 0; i < 64; i++) {
        uint32_t e = s3_rotate(v[4], 6) ^ s3_rotate(v[4], 11) ^ s3_rotate(v[4], 25);
        uint32_t a = s3_rotate(v[0], 2) ^ s3_rotate(v[0], 13) ^ s3_rotate(v[0], 22);
        uint32_t first = v[7] + e + ((v[4] & v[5]) ^ (~v[4] & v[6])) + s3_sha256_k[i] + w[i];
        uint32_t second = a + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof(v[0]));
        v[4] += first;
        v[0] = first + second;
    }
    for (size_t i = 0; i < 8; i++)
        hash->state[i] += v[i];
}

static void s3_sha256_begin(s3_sha256 *hash)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(hash->state, start, sizeof(start));
    hash->total = 0;
    hash->used = 0;
}

static void s3_sha256_add(s3_sha256 *hash, const void *data, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)data;
    hash->total += size;
    while (size > 0) {
        size_t part = 64 - hash->used < size ? 64 - hash->used : size;
        if (hash->used == 0 && size >= 64) {
            s3_sha256_block(hash, bytes);
            part = 64;
        } else {
            memcpy(hash->block + hash->used, bytes, part);
            hash->used += part;
            if (hash->used == 64) {
                s3_sha256_block(hash, hash->block);
                hash->used = 0;
            }
        }
        bytes += part;
        size -= part;
    }
}

static void s3_sha256_end(s3_sha256 *hash, unsigned char digest[32])
{
    unsigned char length[8];
    uint64_t bits = hash->total * 8;
    for (size_t i = 0; i < 8; i++)
        length[i] = (unsigned char)(bits >> (56 - 8 * i));
    s3_sha256_add(hash, "\x80", 1);
    while (hash->used != 56)
        s3_sha256_add(hash, "", 1);
    s3_sha256_add(hash, length, 8);
    for (size_t i = 0; i < 32; i++)
        digest[i] = (unsigned char)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
}

static void s3_digest(const void *data, size_t size, unsigned char digest[32])
{
    s3_sha256 hash;
    s3_sha256_begin(&hash);
    s3_sha256_add(&hash, data, size);
    s3_sha256_end(&hash, digest);
}

static void s3_hmac(const void *key, size_t key_size, const void *data, size_t size, unsigned char mac[32])
{
    unsigned char block[64] = {0}, inner[32];
    s3_sha256 hash;
    if (key_size > 64)
        s3_digest(key, key_size, block);
    else
        memcpy(block, key, key_size);
    for (size_t i = 0; i < 64; i++)
        block[i] ^= 0x36;
    s3_sha256_begin(&hash);
    s3_sha256_add(&hash, block, 64);
    s3_sha256_add(&hash, data, size);
    s3_sha256_end(&hash, inner);
    for (size_t i = 0; i < 64; i++)
        block[i] ^= 0x36 ^ 0x5c;
    s3_sha256_begin(&hash);
    s3_sha256_add(&hash, block, 64);
    s3_sha256_add(&hash, inner, 32);
    s3_sha256_end(&hash, mac);
}

static void s3_hex(const unsigned char *bytes, size_t size, char *out)
{
    for (size_t i = 0; i < size; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static void s3_digest_hex(const void *data, size_t size, char out[65])
{
    unsigned char digest[32];
    s3_digest(data, size, digest);
    s3_hex(digest, 32, out);
}

/* ---- the signature ---- */

typedef struct s3_field {
    const char *name, *value;
} s3_field;

static bool s3_same_name(const char *a, const char *b, size_t b_size)
{
    size_t i = 0;
    for (; a[i] && i < b_size; i++) {
        char x = a[i] >= 'A' && a[i] <= 'Z' ? (char)(a[i] + 32) : a[i], y = b[i] >= 'A' && b[i] <= 'Z' ? (char)(b[i] + 32) : b[i];
        if (x != y)
            return false;
    }
    return !a[i] && i == b_size;
}

static const char *s3_find(const s3_field *fields, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (s3_same_name(fields[i].name, name, strlen(name)))
            return fields[i].value;
    return NULL;
}

static int s3_hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void s3_decode(s3_text *out, const char *text, size_t size)
{
    s3_add(out, "", 0);
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '%' && i + 2 < size && s3_hex_digit(text[i + 1]) >= 0 && s3_hex_digit(text[i + 2]) >= 0) {
            c = (char)(s3_hex_digit(text[i + 1]) * 16 + s3_hex_digit(text[i + 2]));
            i += 2;
        }
        s3_add(out, &c, 1);
    }
}

static void s3_encode(s3_text *out, const char *text, size_t size, bool keep_slash)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    s3_add(out, "", 0);
    for (size_t i = 0; i < size; i++) {
        char encoded[4];
        if ((text[i] && strchr(plain, text[i])) || (keep_slash && text[i] == '/')) {
            s3_add(out, text + i, 1);
        } else {
            snprintf(encoded, sizeof(encoded), "%%%02X", (unsigned char)text[i]);
            s3_add(out, encoded, 3);
        }
    }
}

/* What a client encoded in its own way is signed in one way. */
static void s3_encode_again(s3_text *out, const char *text, size_t size, bool keep_slash)
{
    s3_text decoded = {NULL, 0, 0, false};
    s3_decode(&decoded, text, size);
    out->failed = out->failed || decoded.failed;
    if (decoded.data)
        s3_encode(out, decoded.data, decoded.size, keep_slash);
    s3_free(&decoded);
}

static int s3_compare_texts(const void *a, const void *b)
{
    return strcmp(((const s3_text *)a)->data, ((const s3_text *)b)->data);
}

static void s3_canonical_query(s3_text *out, const char *query)
{
    enum { MOST = 32 };
    s3_text parts[MOST];
    size_t count = 0;
    memset(parts, 0, sizeof(parts));
    while (query && *query && count < MOST) {
        size_t size = strcspn(query, "&"), name = 0;
        while (name < size && query[name] != '=')
            name++;
        s3_encode_again(&parts[count], query, name, false);
        s3_put(&parts[count], "\001"); /* sorts before everything, as names are sorted, not names with values */
        if (name < size)
            s3_encode_again(&parts[count], query + name + 1, size - name - 1, false);
        out->failed = out->failed || parts[count].failed;
        count++;
        query += size + (query[size] == '&');
    }
    if (!out->failed)
        qsort(parts, count, sizeof(parts[0]), s3_compare_texts);
    for (size_t i = 0; i < count; i++) {
        if (!out->failed) {
            s3_put(out, i ? "&" : "");
            *strchr(parts[i].data, '\001') = '=';
            s3_add(out, parts[i].data, parts[i].size);
        }
        s3_free(&parts[i]);
    }
}

/* The value without space around it, and with one space where there are several. */
static void s3_canonical_value(s3_text *out, const char *value)
{
    bool space = false, any = false;
    for (; *value; value++) {
        if (*value == ' ' || *value == '\t') {
            space = true;
            continue;
        }
        if (space && any)
            s3_put(out, " ");
        s3_add(out, value, 1);
        space = false;
        any = true;
    }
}

/* `target` is the path with the query, as it is sent; `signed_names` the names of the signed fields, as they are sent. */
static void s3_canonical_request(s3_text *out, const char *method, const char *target, const s3_field *fields, size_t count,
                                 const char *signed_names, const char *payload_hash)
{
    size_t path = strcspn(target, "?");
    s3_put(out, method);
    s3_put(out, "\n");
    s3_encode_again(out, target, path, true);
    s3_put(out, "\n");
    s3_canonical_query(out, target[path] ? target + path + 1 : NULL);
    s3_put(out, "\n");
    for (const char *name = signed_names; *name;) {
        size_t size = strcspn(name, ";");
        bool first = true;
        s3_add(out, name, size);
        s3_put(out, ":");
        for (size_t i = 0; i < count; i++)
            if (s3_same_name(fields[i].name, name, size)) {
                s3_put(out, first ? "" : ",");
                s3_canonical_value(out, fields[i].value);
                first = false;
            }
        s3_put(out, "\n");
        name += size + (name[size] == ';');
    }
    s3_put(out, "\n");
    s3_put(out, signed_names);
    s3_put(out, "\n");
    s3_put(out, payload_hash);
}

/* `time` as in x-amz-date: 20130524T000000Z. */
static void s3_signature(const char *secret, const char *time, const char *region, const s3_text *canonical, char out[65])
{
    unsigned char key[32];
    s3_text text = {NULL, 0, 0, false};
    char hash[65];
    s3_put(&text, "AWS4");
    s3_put(&text, secret);
    out[0] = '\0';
    if (!text.failed && !canonical->failed) {
        s3_hmac(text.data, text.size, time, 8, key);
        s3_hmac(key, 32, region, strlen(region), key);
        s3_hmac(key, 32, "s3", 2, key);
        s3_hmac(key, 32, "aws4_request", 12, key);
        s3_digest_hex(canonical->data, canonical->size, hash);
        text.size = 0;
        s3_put(&text, "AWS4-HMAC-SHA256\n");
        s3_put(&text, time);
        s3_put(&text, "\n");
        s3_add(&text, time, 8);
        s3_put(&text, "/");
        s3_put(&text, region);
        s3_put(&text, "/s3/aws4_request\n");
        s3_put(&text, hash);
    }
    if (!text.failed && !canonical->failed) {
        s3_hmac(key, 32, text.data, text.size, key);
        s3_hex(key, 32, out);
    }
    s3_free(&text);
}

#endif /* PGQRS_TEST_S3_SIGNATURE_H */
