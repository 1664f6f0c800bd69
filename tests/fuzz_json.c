/* The JSON parser and the payload rules, each against a second implementation: the same texts are accepted, the same
 * events reported with the same decoded strings, and the same rule refuses. The parser does not read past an allocation
 * that failed either. */
#include "fuzz.h"

#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

/* A stream of events as one number. */
typedef struct fuzz_stream {
    uint64_t hash;
    int64_t count;
    int64_t depth;
} fuzz_stream;

static void fuzz_byte(fuzz_stream *stream, unsigned byte)
{
    stream->hash = (stream->hash ^ byte) * UINT64_C(1099511628211);
}

static bool fuzz_report(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    fuzz_stream *stream = (fuzz_stream *)context;
    stream->count++;
    if (event == PGQRS_JSON_OBJECT_BEGIN || event == PGQRS_JSON_ARRAY_BEGIN)
        stream->depth++;
    else if (event == PGQRS_JSON_OBJECT_END || event == PGQRS_JSON_ARRAY_END)
        stream->depth--;
    fuzz_byte(stream, 256u + (unsigned)event);
    for (size_t i = 0; i < size; i++)
        fuzz_byte(stream, (unsigned char)text[i]);
    return true;
}

/* ------------------------------------------------------------------------------------------------------------------
 * RFC 8259 as its grammar reads, one function per rule; they call each other.
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct fuzz_reader {
    const char *at, *end;
    fuzz_stream stream;
    /* the rules of fuzz_rules, as the reference sees them; the first that is broken */
    pgqrs_result broken;
    bool root_is_object, has_id;
} fuzz_reader;

#define FUZZ_MAX_DEPTH 4
#define FUZZ_MAX_STRING 12

static bool fuzz_value(fuzz_reader *in, int depth);

static void fuzz_space(fuzz_reader *in)
{
    while (in->at < in->end && *in->at && strchr(" \t\r\n", *in->at))
        in->at++;
}

static bool fuzz_char(fuzz_reader *in, char c)
{
    if (in->at == in->end || *in->at != c)
        return false;
    in->at++;
    return true;
}

static bool fuzz_one_of(fuzz_reader *in, const char *set)
{
    if (in->at == in->end || !*in->at || !strchr(set, *in->at))
        return false;
    in->at++;
    return true;
}

static bool fuzz_digits(fuzz_reader *in)
{
    bool any = false;
    while (fuzz_one_of(in, "0123456789"))
        any = true;
    return any;
}

static void fuzz_break(fuzz_reader *in, pgqrs_result rule)
{
    if (in->broken == PGQRS_OK)
        in->broken = rule;
}

/* A value stands `depth` levels deep. */
static void fuzz_depth(fuzz_reader *in, int depth)
{
    if (depth > FUZZ_MAX_DEPTH)
        fuzz_break(in, PGQRS_ERR_JSON_TOO_DEEP);
}

static bool fuzz_hex4(fuzz_reader *in, uint32_t *unit)
{
    char digits[5] = {0};
    for (int i = 0; i < 4; i++) {
        if (!fuzz_one_of(in, "0123456789abcdefABCDEF"))
            return false;
        digits[i] = in->at[-1];
    }
    *unit = (uint32_t)strtoul(digits, NULL, 16);
    return true;
}

static bool fuzz_escape(fuzz_reader *in, uint32_t *code)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    uint32_t low;
    if (fuzz_char(in, 'u')) {
        if (!fuzz_hex4(in, code))
            return false;
        if (*code >> 10 == 0x37)
            return false;
        if (*code >> 10 != 0x36)
            return true;
        if (!fuzz_char(in, '\\') || !fuzz_char(in, 'u') || !fuzz_hex4(in, &low) || low >> 10 != 0x37)
            return false;
        *code = 0x10000 + (*code % 0x400) * 0x400 + low % 0x400;
        return true;
    }
    if (!fuzz_one_of(in, names))
        return false;
    *code = (unsigned char)values[strchr(names, in->at[-1]) - names];
    return true;
}

static size_t fuzz_encode(uint32_t code, char *out)
{
    size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned leads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = size; i-- > 0; code >>= 6)
        out[i] = (char)(i > 0 ? 0x80 | (code & 0x3F) : leads[size] | code);
    return size;
}

/* The decoded text goes to out, which has room for all that is left of the input. */
static bool fuzz_string(fuzz_reader *in, char *out, size_t *size)
{
    *size = 0;
    if (!fuzz_char(in, '"'))
        return false;
    while (!fuzz_char(in, '"')) {
        uint32_t code;
        if (in->at == in->end)
            return false;
        size_t step = fuzz_decode(in->at, (size_t)(in->end - in->at), &code);
        if (step == 0 || code < 0x20)
            return false;
        in->at += step;
        if (code == '\\' && !fuzz_escape(in, &code))
            return false;
        *size += fuzz_encode(code, out + *size);
    }
    return true;
}

static bool fuzz_text_value(fuzz_reader *in, pgqrs_json_event event, int depth)
{
    size_t size = 0;
    char *text = (char *)malloc((size_t)(in->end - in->at) + 8);
    FUZZ_CHECK(text != NULL);
    bool fine = fuzz_string(in, text, &size);
    if (fine) {
        fuzz_report(event, text, size, &in->stream);
        if (event == PGQRS_JSON_STRING)
            fuzz_depth(in, depth);
        if (event == PGQRS_JSON_KEY && size == 9 && memcmp(text, "__proto__", 9) == 0)
            fuzz_break(in, PGQRS_ERR_FORBIDDEN_KEY);
        if (event == PGQRS_JSON_KEY && depth == 1 && size == 2 && memcmp(text, "id", 2) == 0)
            in->has_id = true;
        if (size > FUZZ_MAX_STRING)
            fuzz_break(in, PGQRS_ERR_STRING_TOO_LONG);
    }
    free(text);
    return fine;
}

static bool fuzz_number(fuzz_reader *in, int depth)
{
    const char *start = in->at;
    (void)fuzz_char(in, '-');
    if (!fuzz_char(in, '0') && !fuzz_digits(in))
        return false;
    if (fuzz_char(in, '.') && !fuzz_digits(in))
        return false;
    if (fuzz_one_of(in, "eE")) {
        (void)fuzz_one_of(in, "+-");
        if (!fuzz_digits(in))
            return false;
    }
    fuzz_depth(in, depth);
    return fuzz_report(PGQRS_JSON_NUMBER, start, (size_t)(in->at - start), &in->stream);
}

static bool fuzz_word(fuzz_reader *in, const char *word, int depth)
{
    const char *start = in->at;
    for (const char *c = word; *c; c++)
        if (!fuzz_char(in, *c))
            return false;
    fuzz_depth(in, depth);
    return fuzz_report(PGQRS_JSON_LITERAL, start, strlen(word), &in->stream);
}

static bool fuzz_members(fuzz_reader *in, bool object, int depth)
{
    fuzz_report(object ? PGQRS_JSON_OBJECT_BEGIN : PGQRS_JSON_ARRAY_BEGIN, NULL, 0, &in->stream);
    fuzz_space(in);
    if (!fuzz_char(in, object ? '}' : ']')) {
        do {
            fuzz_space(in);
            if (object) {
                if (!fuzz_text_value(in, PGQRS_JSON_KEY, depth))
                    return false;
                fuzz_space(in);
                if (!fuzz_char(in, ':'))
                    return false;
            }
            if (!fuzz_value(in, depth))
                return false;
            fuzz_space(in);
        } while (fuzz_char(in, ','));
        if (!fuzz_char(in, object ? '}' : ']'))
            return false;
    }
    return fuzz_report(object ? PGQRS_JSON_OBJECT_END : PGQRS_JSON_ARRAY_END, NULL, 0, &in->stream);
}

static bool fuzz_value(fuzz_reader *in, int depth)
{
    fuzz_space(in);
    if (in->at == in->end)
        return false;
    switch (*in->at) {
    case '"':
        return fuzz_text_value(in, PGQRS_JSON_STRING, depth);
    case 't':
        return fuzz_word(in, "true", depth);
    case 'f':
        return fuzz_word(in, "false", depth);
    case 'n':
        return fuzz_word(in, "null", depth);
    case '{':
    case '[': {
        bool object = *in->at++ == '{';
        fuzz_depth(in, depth);
        if (depth == 0)
            in->root_is_object = object;
        return fuzz_members(in, object, depth + 1);
    }
    default:
        return fuzz_number(in, depth);
    }
}

static bool fuzz_document(fuzz_reader *in)
{
    if (!fuzz_value(in, 0))
        return false;
    fuzz_space(in);
    return in->at == in->end;
}

/* ------------------------------------------------------------------------------------------------------------------
 * An allocator that fails at the Nth call
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct fuzz_memory {
    int left;
    int blocks;
} fuzz_memory;

static void *fuzz_resize(void *pointer, size_t old_size, size_t new_size, void *user)
{
    fuzz_memory *memory = (fuzz_memory *)user;
    (void)old_size;
    if (new_size == 0) {
        memory->blocks -= pointer != NULL;
        free(pointer);
        return NULL;
    }
    if (memory->left-- <= 0)
        return NULL;
    memory->blocks += pointer == NULL;
    return realloc(pointer, new_size);
}

static void fuzz_without_memory(const char *text, size_t size, bool good, const fuzz_stream *want)
{
    for (int grants = 0; grants < 3; grants++) {
        fuzz_memory memory = {grants, 0};
        fuzz_stream got = {0, 0, 0};
        size_t offset = 0;
        pgqrs_allocator allocator;
        allocator.resize = fuzz_resize;
        allocator.user = &memory;
        bool fine = pgqrsi_json_parse(text, size, fuzz_report, &got, &offset, &allocator);
        FUZZ_CHECK(memory.blocks == 0);
        if (fine)
            FUZZ_CHECK(good && got.hash == want->hash);
        else
            FUZZ_CHECK(!good || offset == PGQRSI_JSON_NO_MEMORY);
    }
}

static void fuzz_rules(const char *text, size_t size, const fuzz_reader *reference, bool good)
{
    static const char *const forbidden[] = {"__proto__"}, *const required[] = {"id"};
    pgqrs_store_desc settings;
    pgqrs_error err;
    memset(&settings, 0, sizeof settings);
    memset(&err, 0, sizeof err);
    settings.allocator = pgqrsi_mem_resolve(NULL);
    settings.json.parse = pgqrsi_json_parse;
    settings.validation.max_payload_bytes = 2048;
    settings.validation.max_depth = FUZZ_MAX_DEPTH;
    settings.validation.max_string_bytes = FUZZ_MAX_STRING;
    settings.validation.forbidden_keys = forbidden;
    settings.validation.forbidden_key_count = 1;
    settings.validation.required_keys = required;
    settings.validation.required_key_count = 1;
    pgqrs_result want = reference->broken ? reference->broken : good ? PGQRS_OK : PGQRS_ERR_JSON;
    if (want == PGQRS_OK && reference->root_is_object && !reference->has_id)
        want = PGQRS_ERR_MISSING_KEY;
    if (size > 2048)
        want = PGQRS_ERR_PAYLOAD_TOO_LARGE;
    pgqrs_result got = pgqrsi_check_payload(&settings, text, size, &err);
    if (got != want)
        fprintf(stderr, "%s, expected %s\n", pgqrs_result_name(got), pgqrs_result_name(want));
    FUZZ_CHECK(got == want);
    FUZZ_CHECK(got == PGQRS_OK || (err.code == got && err.message[0] && fuzz_printable(err.message)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char none[] = "";
    const char *text = size ? (const char *)data : none;
    fuzz_stream got = {0, 0, 0};
    fuzz_reader reference;
    size_t offset = 0;
    memset(&reference, 0, sizeof reference);
    reference.at = text;
    reference.end = text + size;
    bool good = fuzz_document(&reference);
    bool fine = pgqrsi_json_parse(text, size, fuzz_report, &got, &offset, NULL);
    FUZZ_CHECK(fine == good);
    if (fine)
        FUZZ_CHECK(got.hash == reference.stream.hash && got.count == reference.stream.count && got.depth == 0);
    else
        FUZZ_CHECK(offset <= size);
    fuzz_without_memory(text, size, good, &reference.stream);
    fuzz_rules(text, size, &reference, good);
    return 0;
}
