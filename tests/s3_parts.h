/* Puts an object in parts together as the head of pgqrs_s3.h's sections "trailer" and "parts" describe it, with nothing of the library's
 * code, so that the tests know whether the library does. */
#ifndef PGQRS_TEST_S3_PARTS_H
#define PGQRS_TEST_S3_PARTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "s3_signature.h"

/* Fetches the part of that name into body. */
typedef bool (*s3_parts_fetch)(void *user, const char *name, s3_text *body);

static uint64_t s3_parts_number(const char *bytes, int size)
{
    uint64_t value = 0;
    while (size > 0)
        value = value << 8 | (unsigned char)bytes[--size];
    return value;
}

static size_t s3_parts_file_size(const char *data, size_t size)
{
    size_t page, pages;
    if (size < 100 || memcmp(data, "SQLite format 3", 16) != 0)
        return 0;
    page = (size_t)(unsigned char)data[16] << 8 | (unsigned char)data[17];
    pages = (size_t)(unsigned char)data[28] << 24 | (size_t)(unsigned char)data[29] << 16 | (size_t)(unsigned char)data[30] << 8 |
            (unsigned char)data[31];
    return (page == 1 ? 65536 : page) * pages;
}

/* Where the head says what the parts are; NULL: it is an object that is all in one. */
static const char *s3_parts_table(const s3_text *head)
{
    size_t file = s3_parts_file_size(head->data, head->size);
    const char *trailer = head->data + file, *table;
    if (file == 0 || file + 60 > head->size || memcmp(trailer, "pgqrs-s3", 8) != 0 || s3_parts_number(trailer + 8, 4) != 2)
        return NULL;
    table = trailer + 56 + 32 * s3_parts_number(trailer + 48, 4);
    return s3_parts_number(table + 16, 4) > 0 ? table : NULL;
}

typedef struct s3_parts_sheet {
    char *data, *there;
    size_t page, count;
} s3_parts_sheet;

static void s3_parts_lay(s3_parts_sheet *sheet, uint64_t number, const char *page)
{
    if (number >= sheet->count)
        return;
    memcpy(sheet->data + number * sheet->page, page, sheet->page);
    sheet->there[number] = 1;
}

static bool s3_parts_lay_part(s3_parts_sheet *sheet, const char *entry, const s3_text *body)
{
    uint64_t pages = s3_parts_number(entry + 24, 4);
    bool whole = s3_parts_number(entry + 28, 4) == 0;
    const char *numbers = body->data + 48;
    if (body->size != (whole ? pages * sheet->page : 52 + pages * (sheet->page + 4)))
        return false;
    for (uint64_t i = 0; i < pages; i++)
        if (whole)
            s3_parts_lay(sheet, i, body->data + i * sheet->page);
        else
            s3_parts_lay(sheet, s3_parts_number(numbers + 4 * i, 4), numbers + 4 * pages + i * sheet->page);
    return true;
}

/* The whole file, to be freed with s3_free; false: it is not all there. `head` is one in parts. */
static bool s3_parts_assemble(const s3_text *head, s3_parts_fetch fetch, void *user, s3_text *out)
{
    const char *table = s3_parts_table(head), *entry = table + 32, *numbers, *pages;
    s3_parts_sheet sheet = {NULL, NULL, (size_t)s3_parts_number(table, 4), (size_t)s3_parts_number(table + 4, 4)};
    uint64_t parts = s3_parts_number(table + 16, 4), retired = s3_parts_number(table + 20, 4), inside = s3_parts_number(table + 24, 4);
    bool good;
    sheet.data = (char *)calloc(sheet.count, sheet.page);
    sheet.there = (char *)calloc(sheet.count, 1);
    good = sheet.data && sheet.there;
    for (uint64_t i = 0; good && i < parts; i++, entry += 40) {
        s3_text body = {NULL, 0, 0, false};
        char name[64];
        snprintf(name, sizeof(name), "%016llx-%016llx.sqlite", (unsigned long long)s3_parts_number(entry, 8),
                 (unsigned long long)s3_parts_number(entry + 8, 8));
        good = fetch(user, name, &body) && s3_parts_lay_part(&sheet, entry, &body);
        s3_free(&body);
    }
    numbers = table + 32 + 40 * parts + 24 * retired;
    pages = numbers + 4 * inside;
    for (uint64_t i = 0; good && i < inside; i++)
        s3_parts_lay(&sheet, s3_parts_number(numbers + 4 * i, 4), pages + i * sheet.page);
    for (size_t i = 0; good && i < sheet.count; i++)
        good = sheet.there[i] != 0;
    if (good)
        s3_add(out, sheet.data, sheet.count * sheet.page);
    free(sheet.data);
    free(sheet.there);
    return good && !out->failed;
}

#endif /* PGQRS_TEST_S3_PARTS_H */
