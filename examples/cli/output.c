/* Records as tables for people, as JSON, JSON lines and CSV for programs.
 *
 * What a record has is told by a list of fields: a name, where it stands in its struct, how it is shown. Tables show times relative
 * to now, the other formats show them in UTC, as ISO 8601.
 */
#include "cli.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

/* --- one value */

typedef struct value {
    bool null;
    bool quoted;      /* JSON: a string */
    bool right;       /* tables: numbers stand on the right */
    const char *text; /* points to memory of the record, or to `buffer` */
    char buffer[UNITS_ROOM];
} value;

static int64_t int64_of(const field *f, const void *item)
{
    const char *place = (const char *)item + f->offset;
    if (f->type == FIELD_INT32) {
        int32_t small;
        memcpy(&small, place, sizeof small);
        return small;
    }
    int64_t number;
    memcpy(&number, place, sizeof number);
    return number;
}

static const char *text_of(const field *f, const void *item)
{
    const char *text;
    memcpy(&text, (const char *)item + f->offset, sizeof text);
    return text;
}

static const char *name_of(const field *f, const void *item)
{
    int number;
    memcpy(&number, (const char *)item + f->offset, sizeof number);
    return number == 0 && f->flags & FIELD_ZERO_IS_NULL ? NULL : f->name_of(number);
}

static bool bool_of(const field *f, const void *item)
{
    bool yes;
    memcpy(&yes, (const char *)item + f->offset, sizeof yes);
    return yes;
}

/* Ages are counted on the store's clock, as late as possible: what was just made is not in the future. */
static bool know_now(output *out)
{
    if (out->utc || !out->clock) return false;
    return out->now_us != 0 || pgqrs_store_now(out->clock, &out->now_us) == PGQRS_OK;
}

static void value_of_number(output *out, value *v, const field *f, int64_t number)
{
    bool people = out->format == FORMAT_TABLE;
    if (number < 0 && f->flags & FIELD_NONE_IS_NEGATIVE) number = 0;
    v->text = v->buffer;
    v->null = number == 0 && (f->flags & FIELD_ZERO_IS_NULL || f->type == FIELD_TIME || f->type == FIELD_TOKEN);
    v->right = f->type != FIELD_TIME;
    v->quoted = f->type == FIELD_TIME || f->type == FIELD_TOKEN;
    if (f->type == FIELD_MS && people && number == 0) v->null = true;
    if (v->null) return;
    if (f->type == FIELD_TIME && people && know_now(out))
        units_write_relative(v->buffer, sizeof v->buffer, number, out->now_us);
    else if (f->type == FIELD_TIME)
        units_write_iso(v->buffer, sizeof v->buffer, number);
    else if (f->type == FIELD_MS && people)
        units_write_duration(v->buffer, sizeof v->buffer, number);
    else
        snprintf(v->buffer, sizeof v->buffer, "%" PRId64, number);
}

static void value_of(output *out, value *v, const field *f, const void *item)
{
    memset(v, 0, sizeof *v);
    switch (f->type) {
    case FIELD_TEXT:
    case FIELD_JSON:
        v->text = text_of(f, item);
        v->quoted = f->type == FIELD_TEXT;
        v->null = v->text == NULL;
        break;
    case FIELD_NAME:
        v->text = name_of(f, item);
        v->quoted = true;
        v->null = v->text == NULL;
        break;
    case FIELD_BOOL:
        v->text = bool_of(f, item) ? "true" : "false";
        break;
    default:
        value_of_number(out, v, f, int64_of(f, item));
        break;
    }
}

/* --- JSON, CSV */

static void write_json_string(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(file, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", file);
        else if (c < 0x20 || c == 0x7f)
            fprintf(file, "\\u%04x", c);
        else
            fputc(c, file);
    }
    fputc('"', file);
}

/* A line feed in JSON text can only stand between its parts: inside of strings it is escaped. */
static void write_json_text(FILE *file, const char *json)
{
    for (; *json; json++)
        fputc(*json == '\n' || *json == '\r' || *json == '\t' ? ' ' : *json, file);
}

static void write_json_record(output *out, const field *fields, const void *item)
{
    fputc('{', out->file);
    for (const field *f = fields; f->name; f++) {
        value v;
        value_of(out, &v, f, item);
        fprintf(out->file, "%s\"%s\":", f == fields ? "" : ",", f->name);
        if (v.null)
            fputs("null", out->file);
        else if (v.quoted)
            write_json_string(out->file, v.text);
        else
            write_json_text(out->file, v.text);
    }
    fputc('}', out->file);
}

static void write_csv_text(FILE *file, const char *text)
{
    if (!text[strcspn(text, "\",\r\n")] && *text != ' ') {
        fputs(text, file);
        return;
    }
    fputc('"', file);
    for (; *text; text++) {
        if (*text == '"') fputc('"', file);
        fputc(*text, file);
    }
    fputc('"', file);
}

static void write_csv_header(output *out, const field *fields)
{
    for (const field *f = fields; f->name; f++)
        fprintf(out->file, "%s%s", f == fields ? "" : ",", f->name);
    fputs("\n", out->file);
}

static void write_csv_record(output *out, const field *fields, const void *item)
{
    for (const field *f = fields; f->name; f++) {
        value v;
        value_of(out, &v, f, item);
        if (f != fields) fputc(',', out->file);
        if (!v.null) write_csv_text(out->file, v.text);
    }
    fputs("\n", out->file);
}

/* --- tables */

/* Moves over one character; *columns is how wide it is on a terminal. What is no text in this locale counts as one each. */
static size_t next_character(const char *text, int *columns)
{
    wchar_t wide;
    mbstate_t state;
    memset(&state, 0, sizeof state);
    size_t length = mbrtowc(&wide, text, strlen(text), &state);
    if (length == 0 || length > strlen(text)) {
        *columns = 1;
        return 1;
    }
    int width = wcwidth(wide);
    *columns = width < 0 ? 1 : width;
    return length;
}

static int width_of(const char *text)
{
    int total = 0, columns;
    while (*text) {
        text += next_character(text, &columns);
        total += columns;
    }
    return total;
}

static void write_times(FILE *file, char c, int times)
{
    for (int i = 0; i < times; i++)
        fputc(c, file);
}

size_t output_fit(const char *text, int width, int *used)
{
    size_t length = 0;
    int columns;
    *used = 0;
    while (text[length]) {
        size_t next = next_character(text + length, &columns);
        if (*used + columns > width) break;
        length += next;
        *used += columns;
    }
    return length;
}

/* At most `width` columns of a text, filled up with blanks. */
static void write_cell(FILE *file, const char *text, int width, bool right, bool fill)
{
    int whole = width_of(text), used;
    if (right) write_times(file, ' ', width - whole);
    bool cut = whole > width;
    fwrite(text, 1, output_fit(text, cut ? width - 1 : width, &used), file);
    if (cut) {
        fputs("~", file);
        used++;
    }
    if (!right && fill) write_times(file, ' ', width - used);
}

/* The whole of C0 and C1: what a stranger put into a queue must not move the cursor of whoever looks at it. */
char *output_plain(const char *text)
{
    char *copy = strdup(text);
    if (!copy) return NULL;
    for (unsigned char *p = (unsigned char *)copy; *p; p++) {
        if (*p < 0x20 || *p == 0x7f) *p = ' ';
        if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) p[0] = p[1] = ' ';
    }
    return copy;
}

static void keep_cell(output *out, const char *text)
{
    if (out->cell_count == out->cell_room) {
        size_t room = out->cell_room ? out->cell_room * 2 : 64;
        char **more = realloc(out->cells, room * sizeof *more);
        if (!more) {
            out->no_memory = true;
            return;
        }
        out->cells = more;
        out->cell_room = room;
    }
    char *copy = output_plain(text);
    if (!copy) out->no_memory = true;
    out->cells[out->cell_count++] = copy;
}

static void keep_record(output *out, const field *fields, const void *item)
{
    for (const field *f = fields; f->name; f++) {
        value v;
        if (!(f->flags & FIELD_LISTED)) continue;
        value_of(out, &v, f, item);
        keep_cell(out, v.null ? "-" : v.text);
    }
}

static void drop_cells(output *out)
{
    for (size_t i = 0; i < out->cell_count; i++)
        free(out->cells[i]);
    free(out->cells);
    out->cells = NULL;
    out->cell_count = out->cell_room = 0;
}

/* Tables show durations with their units. */
static const char *heading_of(const field *f, char *buffer, size_t size)
{
    size_t length = strlen(f->name);
    if (f->type == FIELD_MS && length > 3) length -= 3;
    snprintf(buffer, size, "%.*s", (int)length, f->name);
    return buffer;
}

#define HEADING_ROOM 32
#define COLUMNS_MAX 32
typedef struct column {
    const field *field;
    char heading[HEADING_ROOM];
    int width;
} column;

static size_t columns_of(const output *out, column *columns)
{
    size_t count = 0;
    for (const field *f = out->fields; f->name && count < COLUMNS_MAX; f++) {
        if (!(f->flags & FIELD_LISTED)) continue;
        columns[count].field = f;
        columns[count].width = width_of(heading_of(f, columns[count].heading, HEADING_ROOM));
        count++;
    }
    for (size_t i = 0; count > 0 && i < out->cell_count; i++) {
        int width = width_of(out->cells[i]);
        if (width > columns[i % count].width) columns[i % count].width = width;
    }
    return count;
}

/* Takes from the columns that may be cut, the widest first, until the table fits or nothing is left to take. */
static void fit_columns(const output *out, column *columns, size_t count)
{
    int total = 2 * ((int)count - 1);
    for (size_t i = 0; i < count; i++)
        total += columns[i].width;
    while (out->width > 0 && total > out->width) {
        column *widest = NULL;
        for (size_t i = 0; i < count; i++)
            if (columns[i].field->flags & FIELD_CUT && (!widest || columns[i].width > widest->width))
                widest = &columns[i];
        if (!widest || widest->width <= 8) return;
        widest->width--;
        total--;
    }
}

static bool stands_right(const field *f)
{
    return f->type == FIELD_INT64 || f->type == FIELD_INT32 || f->type == FIELD_MS || f->type == FIELD_TOKEN;
}

/* What somebody should look at is red. */
static const char *color_of(const field *f, const char *text)
{
    static const char *const alarming[] = {"dead", "error", "failed", "interrupted", "problem"};
    if (f->type != FIELD_NAME) return NULL;
    for (size_t i = 0; i < sizeof alarming / sizeof alarming[0]; i++)
        if (strcmp(text, alarming[i]) == 0) return "\033[31m";
    return NULL;
}

static void write_table(output *out)
{
    column columns[COLUMNS_MAX];
    size_t count = columns_of(out, columns);
    if (count == 0) return;
    fit_columns(out, columns, count);
    if (out->color) fputs("\033[1m", out->file);
    for (size_t i = 0; i < count; i++) {
        if (i > 0) fputs("  ", out->file);
        write_cell(out->file, columns[i].heading, columns[i].width, stands_right(columns[i].field), i + 1 < count);
    }
    fputs(out->color ? "\033[0m\n" : "\n", out->file);
    for (size_t i = 0; i < out->cell_count; i++) {
        const column *col = &columns[i % count];
        const char *color = out->color ? color_of(col->field, out->cells[i]) : NULL;
        bool last = i % count + 1 == count;
        if (color) fputs(color, out->file);
        write_cell(out->file, out->cells[i], col->width, stands_right(col->field), !last);
        if (color) fputs("\033[0m", out->file);
        fputs(last ? "\n" : "  ", out->file);
    }
}

/* --- lists and single records */

bool output_flush(output *out)
{
    return fflush(out->file) == 0 && !ferror(out->file) && !out->no_memory;
}

void output_begin(output *out, const field *fields)
{
    out->fields = fields;
    out->rows = 0;
}

static void open_list(output *out)
{
    if (out->format == FORMAT_JSON) fputs("[", out->file);
    if (out->format == FORMAT_CSV) write_csv_header(out, out->fields);
}

static void write_row(output *out, const void *item)
{
    if (out->rows == 0) open_list(out);
    switch (out->format) {
    case FORMAT_TABLE:
        keep_record(out, out->fields, item);
        break;
    case FORMAT_CSV:
        write_csv_record(out, out->fields, item);
        break;
    case FORMAT_JSON:
        fputs(out->rows == 0 ? "\n" : ",\n", out->file);
        write_json_record(out, out->fields, item);
        break;
    case FORMAT_JSONL:
        write_json_record(out, out->fields, item);
        fputs("\n", out->file);
        break;
    }
    out->rows++;
}

void output_rows(output *out, const void *items, size_t count, size_t item_size)
{
    for (size_t i = 0; i < count; i++)
        write_row(out, (const char *)items + i * item_size);
}

void output_end(output *out)
{
    if (out->rows == 0) open_list(out);
    if (out->format == FORMAT_JSON) fputs(out->rows == 0 ? "]\n" : "\n]\n", out->file);
    if (out->format == FORMAT_TABLE && !out->no_memory) write_table(out);
    drop_cells(out);
    out->fields = NULL;
}

exit_code output_ended(output *out, exit_code code)
{
    if (code == DONE || out->rows > 0) output_end(out);
    out->fields = NULL;
    return code;
}

/* For people: a line for each field that has a value. */
static void write_lines(output *out, const field *fields, const void *item)
{
    int width = 0;
    char heading[HEADING_ROOM];
    for (const field *f = fields; f->name; f++)
        if ((int)strlen(f->name) > width) width = (int)strlen(f->name);
    for (const field *f = fields; f->name; f++) {
        value v;
        value_of(out, &v, f, item);
        if (v.null) continue;
        char *text = output_plain(v.text);
        if (!text) {
            out->no_memory = true;
            return;
        }
        fprintf(out->file, "%s%-*s%s  %s\n", out->color ? "\033[1m" : "", width, heading_of(f, heading, sizeof heading),
                out->color ? "\033[0m" : "", text);
        free(text);
    }
}

void output_one(output *out, const field *fields, const void *item)
{
    switch (out->format) {
    case FORMAT_TABLE:
        write_lines(out, fields, item);
        break;
    case FORMAT_CSV:
        write_csv_header(out, fields);
        write_csv_record(out, fields, item);
        break;
    default:
        write_json_record(out, fields, item);
        fputs("\n", out->file);
        break;
    }
}

void output_said(output *out, const field *fields, const void *item, const char *format, ...)
{
    if (out->format != FORMAT_TABLE) {
        output_one(out, fields, item);
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    vfprintf(out->file, format, arguments);
    va_end(arguments);
    fputs("\n", out->file);
}
