/* What every fuzz target has: checks that say what they saw, and a program for those who have no libFuzzer. A target is
 * one function, LLVMFuzzerTestOneInput. It compares the library with a second, simpler statement of the same rule, so it
 * finds wrong answers and not only crashes; what is compared stands at the top of each target.
 *
 * With PGQRS_FUZZ_REPLAY there is a main() that gives each file of the command line to the target once: that is how the
 * corpus is checked with any compiler. tests/fuzz.sh builds and runs both. */
#ifndef PGQRS_TEST_FUZZ_H
#define PGQRS_TEST_FUZZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Not every target uses every helper. */
#pragma GCC diagnostic ignored "-Wunused-function"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition)                                                                                         \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                   \
            abort();                                                                                                  \
        }                                                                                                             \
    } while (0)

/* The input as a C string, cut at its first NUL; the caller frees it. */
static char *fuzz_text(const uint8_t *data, size_t size)
{
    char *text = (char *)malloc(size + 1);
    FUZZ_CHECK(text != NULL);
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

/* UTF-8 a second time, by decoding: bytes of the character that text[0..size) starts with, 0 for a wrong one. */
static size_t fuzz_decode(const char *text, size_t size, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t lead = (unsigned char)text[0];
    size_t length = lead < 0x80 ? 1 : (lead & 0xE0) == 0xC0 ? 2 : (lead & 0xF0) == 0xE0 ? 3 : (lead & 0xF8) == 0xF0 ? 4 : 0;
    if (length == 0 || length > size)
        return 0;
    *code = length == 1 ? lead : lead & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        uint32_t byte = (unsigned char)text[i];
        if (byte >> 6 != 2)
            return 0;
        *code = *code << 6 | (byte & 0x3F);
    }
    if (*code < least[length] || *code > 0x10FFFF || (*code >= 0xD800 && *code <= 0xDFFF))
        return 0;
    return length;
}

/* Text for people: UTF-8, one line, no control characters. */
static bool fuzz_printable(const char *text)
{
    size_t size = strlen(text), at = 0, step;
    uint32_t code = 0;
    for (; at < size; at += step) {
        step = fuzz_decode(text + at, size - at, &code);
        if (step == 0 || code < 0x20 || (code >= 0x7F && code <= 0x9F))
            return false;
    }
    return true;
}

#ifdef PGQRS_FUZZ_REPLAY

static void fuzz_replay(const char *path)
{
    uint8_t *data = (uint8_t *)malloc(1 << 20);
    FILE *file = fopen(path, "rb");
    size_t size;
    FUZZ_CHECK(data != NULL);
    if (!file) {
        perror(path);
        exit(1);
    }
    size = fread(data, 1, 1 << 20, file);
    fclose(file);
    /* A copy that is no longer than the input, so that valgrind and the sanitizers see a byte too many. */
    uint8_t *exact = (uint8_t *)malloc(size ? size : 1);
    FUZZ_CHECK(exact != NULL);
    memcpy(exact, data, size);
    free(data);
    fprintf(stderr, "%s\n", path);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        fuzz_replay(argv[i]);
    printf("%d inputs\n", argc - 1);
    return argc > 1 ? 0 : 1;
}

#endif

#endif /* PGQRS_TEST_FUZZ_H */
