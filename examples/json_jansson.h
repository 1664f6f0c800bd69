/* Jansson as the parser of pgqrs: copy this file, link with -ljansson, and give json_jansson() to
 * pgqrs_store_desc.json.
 *
 * Jansson is stricter than the built-in parser: it refuses integers beyond 64 bits, and the adapter makes it refuse
 * a key that is twice in an object, because of the two it would show only one. */
#ifndef JSON_JANSSON_H
#define JSON_JANSSON_H

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* Reports a tree in document order: Jansson iterates over members in the order of the text. The depth of the
 * recursion is limited, because Jansson refuses to parse more than JSON_PARSER_MAX_DEPTH levels. */
static bool json_jansson_walk(json_t *node, pgqrs_json_report report, void *context)
{
    char number[40];
    const char *literal = json_is_true(node) ? "true" : json_is_false(node) ? "false" : "null";
    switch (json_typeof(node)) {
    case JSON_OBJECT: {
        if (!report(PGQRS_JSON_OBJECT_BEGIN, NULL, 0, context))
            return false;
        for (void *i = json_object_iter(node); i; i = json_object_iter_next(node, i)) {
            const char *key = json_object_iter_key(i);
            if (!report(PGQRS_JSON_KEY, key, strlen(key), context) ||
                !json_jansson_walk(json_object_iter_value(i), report, context))
                return false;
        }
        return report(PGQRS_JSON_OBJECT_END, NULL, 0, context);
    }
    case JSON_ARRAY:
        if (!report(PGQRS_JSON_ARRAY_BEGIN, NULL, 0, context))
            return false;
        for (size_t i = 0; i < json_array_size(node); i++)
            if (!json_jansson_walk(json_array_get(node, i), report, context))
                return false;
        return report(PGQRS_JSON_ARRAY_END, NULL, 0, context);
    case JSON_STRING:
        return report(PGQRS_JSON_STRING, json_string_value(node), json_string_length(node), context);
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(node));
        return report(PGQRS_JSON_NUMBER, number, strlen(number), context);
    case JSON_REAL:
        snprintf(number, sizeof number, "%.17g", json_real_value(node));
        return report(PGQRS_JSON_NUMBER, number, strlen(number), context);
    case JSON_TRUE:
    case JSON_FALSE:
    case JSON_NULL:
    default:
        return report(PGQRS_JSON_LITERAL, literal, strlen(literal), context);
    }
}

static bool json_jansson_parse(const char *text, size_t size, pgqrs_json_report report, void *context,
                               size_t *error_offset, void *user)
{
    (void)user;
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        /* Jansson counts the bytes it has read, the offending one among them unless the text ends too early. */
        bool ends_early = json_error_code(&error) == json_error_premature_end_of_input;
        *error_offset = error.position > 0 ? (size_t)error.position - (ends_early ? 0 : 1) : 0;
        return false;
    }
    bool accepted = json_jansson_walk(root, report, context);
    json_decref(root);
    return accepted;
}

static inline pgqrs_json json_jansson(void)
{
    pgqrs_json json = {json_jansson_parse, NULL};
    return json;
}

#endif
