/* cJSON as the parser of pgqrs: copy this file, link with -lcjson, and give json_cjson() to pgqrs_store_desc.json.
 *
 * cJSON is more liberal than the built-in parser: it does not check UTF-8, and cuts strings at \u0000. It also knows
 * numbers only as doubles, which matters to nobody here: the library stores the payload as it was given, whatever
 * the parser. */
#ifndef JSON_CJSON_H
#define JSON_CJSON_H

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

/* Reports a tree in document order: cJSON keeps members in the order of the text. The depth of the recursion is
 * limited, because cJSON refuses to parse more than CJSON_NESTING_LIMIT levels. */
static bool json_cjson_walk(const cJSON *node, pgqrs_json_report report, void *context)
{
    if (cJSON_IsObject(node) || cJSON_IsArray(node)) {
        bool object = cJSON_IsObject(node);
        if (!report(object ? PGQRS_JSON_OBJECT_BEGIN : PGQRS_JSON_ARRAY_BEGIN, NULL, 0, context))
            return false;
        for (const cJSON *child = node->child; child; child = child->next) {
            if (object && !report(PGQRS_JSON_KEY, child->string, strlen(child->string), context))
                return false;
            if (!json_cjson_walk(child, report, context))
                return false;
        }
        return report(object ? PGQRS_JSON_OBJECT_END : PGQRS_JSON_ARRAY_END, NULL, 0, context);
    }
    if (cJSON_IsString(node))
        return report(PGQRS_JSON_STRING, node->valuestring, strlen(node->valuestring), context);
    if (cJSON_IsNumber(node)) {
        char number[32];
        int size = snprintf(number, sizeof number, "%.17g", node->valuedouble);
        return report(PGQRS_JSON_NUMBER, number, (size_t)size, context);
    }
    const char *literal = cJSON_IsNull(node) ? "null" : cJSON_IsTrue(node) ? "true" : "false";
    return report(PGQRS_JSON_LITERAL, literal, strlen(literal), context);
}

static bool json_cjson_parse(const char *text, size_t size, pgqrs_json_report report, void *context,
                             size_t *error_offset, void *user)
{
    (void)user;
    const char *end = text;
    cJSON *root = cJSON_ParseWithLengthOpts(text, size, &end, false);
    size_t offset = (size_t)(end - text);
    while (root && offset < size && strchr(" \t\r\n", text[offset]) && text[offset])
        offset++;
    /* cJSON stops after the first value; anything but space behind it is an error of the document. */
    bool well_formed = root && offset == size;
    if (!well_formed)
        *error_offset = offset;
    bool accepted = well_formed && json_cjson_walk(root, report, context);
    cJSON_Delete(root);
    return accepted;
}

static inline pgqrs_json json_cjson(void)
{
    pgqrs_json json = {json_cjson_parse, NULL};
    return json;
}

#endif
