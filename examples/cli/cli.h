/* What the parts of the command-line tool share.
 *
 *     pgqrs.c     main: finds the command, opens the store, says what went wrong
 *     options.c   every option and what may stand behind it; --help
 *     units.c     durations and times, read and written
 *     output.c    records as tables, JSON, JSON lines, CSV
 *     admin.c queue.c message.c worker.c workflow.c work.c ...   the commands
 *     library.c   pgqrs.h itself
 *
 * A command is a row in a table (pgqrs.c) and a function that gets a `cli` and returns the exit code.
 */
#ifndef PGQRS_CLI_H
#define PGQRS_CLI_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* wcwidth, getopt_long, getline */
#endif
#include "pgqrs.h"
#include "pgqrs_sqlite.h"
#include <stdio.h>

#ifdef __GNUC__
#define CLI_PRINTF(format_index, first_index) __attribute__((format(printf, format_index, first_index)))
#else
#define CLI_PRINTF(format_index, first_index)
#endif

typedef enum exit_code { DONE = 0, FAILED = 1, USAGE = 2, NOT_FOUND = 3, NO_CONNECTION = 4 } exit_code;

/* --- options */

typedef enum option_id {
    OPT_NONE, /* ends the list of a command */
    OPT_DSN,
    OPT_CONFIG,
    OPT_SCHEMA,
    OPT_FORMAT,
    OPT_OUT,
    OPT_LOG_DEST,
    OPT_LOG_LEVEL,
    OPT_NO_COLOR,
    OPT_UTC,
    OPT_VERSION,
    OPT_HELP,
    OPT_LAST_GLOBAL = OPT_HELP,
    OPT_YES,
    OPT_FORCE,
    OPT_ALL,
    OPT_AGAIN,
    OPT_LIMIT,
    OPT_AFTER,
    OPT_STATE,
    OPT_OPEN,
    OPT_OLDER_THAN,
    OPT_QUEUE,
    OPT_DELAY,
    OPT_PRIORITY,
    OPT_EXPIRE,
    OPT_DEDUP_KEY,
    OPT_PRODUCER,
    OPT_FILE,
    OPT_LINES,
    OPT_COUNT,
    OPT_LOCK_TIME,
    OPT_MESSAGE_TYPE,
    OPT_ARCHIVE,
    OPT_WAIT,
    OPT_LEASE,
    OPT_REASON,
    OPT_GIVE_BACK,
    OPT_MAX_ATTEMPTS,
    OPT_BACKOFF,
    OPT_BACKOFF_MAX,
    OPT_RETENTION,
    OPT_DEAD_RETENTION,
    OPT_PAUSED,
    OPT_IF_MISSING,
    OPT_UNLOGGED,
    OPT_MAX_AGE,
    OPT_MAX_RETRIES,
    OPT_TIMEOUT,
    OPT_FAILED_RETENTION,
    OPT_KEY,
    OPT_STEP,
    OPT_BY,
    OPT_JOBS,
    OPT_UNTIL_EMPTY,
    OPT_MAX_MESSAGES,
    OPT_NAME,
    OPT_GRACE,
    OPT_INTERVAL,
    OPT_TRANSACTION_AGE,
    OPT_FROM_SCHEMA,
    OPT_TO_SCHEMA,
    OPT_COUNT_OF_OPTIONS
} option_id;

typedef enum option_kind {
    KIND_FLAG,
    KIND_TEXT,
    KIND_NUMBER,   /* from `least` to `most` */
    KIND_DURATION, /* number: milliseconds, at least `least` */
    KIND_CHOICE    /* `value` lists the words; number: which, from 0 */
} option_kind;

typedef struct option_info {
    const char *name;
    char letter; /* 0: none */
    option_kind kind;
    const char *value; /* what --help calls it; NULL: a flag */
    const char *help;
    int64_t least, most;
} option_info;

const option_info *option_about(option_id id);

typedef struct option_value {
    const char *text; /* NULL: not given */
    int64_t number;   /* as the option's kind says: a number, milliseconds, the index of a choice */
} option_value;

typedef struct cli cli;
typedef struct field field;

/* One command. `operands` is what --help shows and what is checked: "QUEUE [JSON]", "QUEUE ID...". */
typedef struct command {
    const char *words;
    const char *operands;
    const char *help;
    exit_code (*run)(cli *c);
    const field *fields; /* of what it prints; NULL: no records */
    unsigned char options[14];
    int variant;  /* for commands that share a function */
    bool offline; /* needs no store */
} command;

/* What --help and the manual page say beside that line; NULL: nothing. Lines end with a line feed. */
const char *command_note(const command *cmd);

extern const command commands[];
extern const size_t command_count;

/* Splits the command line: finds the command, checks options and operands. DONE: c->command is to be run, or, when that is NULL,
 * everything asked for is done already (--help, --version). */
exit_code options_read(cli *c, int argc, char **argv);

/* --- output */

typedef enum field_type {
    FIELD_TEXT,  /* const char *, NULL is null */
    FIELD_JSON,  /* const char *, JSON as it is */
    FIELD_INT64, /* right-aligned */
    FIELD_INT32,
    FIELD_BOOL,
    FIELD_TIME,  /* int64_t, microseconds since 1970; 0 is null */
    FIELD_MS,    /* int64_t, milliseconds */
    FIELD_TOKEN, /* int64_t that no JSON reader may round: a string there; 0 is null */
    FIELD_NAME   /* an int whose name `name_of` knows */
} field_type;

#define FIELD_LISTED 1u           /* in the tables of lists too, not only where a record is shown by itself */
#define FIELD_ZERO_IS_NULL 2u     /* 0 means that there is none */
#define FIELD_NONE_IS_NEGATIVE 8u /* a setting: -1 means 0 */
#define FIELD_CUT 4u              /* cut first when a table is too wide */

/* How a member of a struct is shown. Ends with a field without a name. The names are part of the interface of the tool. */
struct field {
    const char *name;
    field_type type;
    size_t offset;
    unsigned flags;
    const char *(*name_of)(int value);
};

typedef enum output_format { FORMAT_TABLE, FORMAT_JSON, FORMAT_JSONL, FORMAT_CSV } output_format;

typedef struct output {
    FILE *file;
    output_format format;
    bool utc;
    bool color;
    int width;          /* of the terminal; 0: not one */
    pgqrs_store *clock; /* NULL: none */
    int64_t now_us;     /* what "3m ago" counts from; 0: not asked for yet */
    bool no_memory;
    const field *fields; /* of the list that is open */
    size_t rows;
    char **cells; /* of a table: a row of texts for each record */
    size_t cell_count, cell_room;
} output;

/* Writes what is pending; false: it cannot be written. */
bool output_flush(output *out);
void output_begin(output *out, const field *fields);
void output_rows(output *out, const void *items, size_t count, size_t item_size);
void output_end(output *out);
/* The same for a list that an error may have ended, whose code it returns. Before the first record nothing is shown then. */
exit_code output_ended(output *out, exit_code code);
void output_one(output *out, const field *fields, const void *item);
/* The end of a command that changed something: the record, or, for people, the sentence. */
void output_said(output *out, const field *fields, const void *item, const char *format, ...) CLI_PRINTF(4, 5);
/* Text for a terminal: control characters become spaces. New memory, or NULL. */
char *output_plain(const char *text);
/* How many bytes of a text fit into so many columns; *used is how many columns they take. */
size_t output_fit(const char *text, int width, int *used);

/* What makes a word of one a word of several: "3 queue%s". */
static inline const char *plural(int64_t count)
{
    return count == 1 ? "" : "s";
}

/* --- units */

bool units_read_duration(const char *text, int64_t *ms); /* 250ms, 30s, 5m, 1h30m, 7d; 30 is seconds */
bool units_read_number(const char *text, int64_t *number);
void units_write_duration(char *buffer, size_t size, int64_t ms);
void units_write_iso(char *buffer, size_t size, int64_t time_us);
void units_write_relative(char *buffer, size_t size, int64_t time_us, int64_t now_us);
#define UNITS_ROOM 48

/* --- the tool */

struct cli {
    const command *command;
    option_value options[OPT_COUNT_OF_OPTIONS];
    char **operands;
    int operand_count;
    int tail; /* the first operand that stood behind "--"; operand_count: none */
    pgqrs_config *config;
    pgqrs_store *store;
    output out;
    FILE *log;
};

static inline bool given(const cli *c, option_id id)
{
    return c->options[id].text != NULL;
}

/* The number of an option, or 0, which means the default to the library. */
static inline int64_t number_of(const cli *c, option_id id)
{
    return c->options[id].number;
}

/* One line on standard error. */
void cli_say(const char *format, ...) CLI_PRINTF(1, 2);
/* The same, as the end of a command: `return cli_fail(NOT_FOUND, "there is no ...");` gives the code. */
#define cli_fail(code, ...) (cli_say(__VA_ARGS__), (code))
/* Opens a store with the settings of the surroundings; a DSN or schema of NULL: the one they name. `may_create`: SQLite makes a file
 * that is not there; otherwise a DSN with a slip in it would leave one behind. */
exit_code cli_open(cli *c, const char *dsn, const char *schema, bool may_create, pgqrs_config **config,
                   pgqrs_store **store);
/* On any backend. What lies below S3 is released at the end, when the stores are closed. */
pgqrs_store *cli_open_store(pgqrs_config *config, pgqrs_error *error);
void cli_release_http(void);
exit_code cli_begin_again(cli *c); /* an object that was deleted, with nothing in it */
/* What the library says about the call that failed, in the words of this tool. */
exit_code cli_store_failed(cli *c);
exit_code cli_error(const pgqrs_error *error);
/* DONE for PGQRS_OK, otherwise what cli_store_failed returns. */
exit_code cli_check(cli *c, pgqrs_result result);
/* Functions of the library that a text names become commands. */
void cli_reword(char *text, size_t room);
/* True: --yes, or a person said so. Otherwise *code is the exit code. The text is what would happen, without an end. */
bool cli_confirmed(cli *c, exit_code *code, const char *format, ...) CLI_PRINTF(3, 4);
/* From now on Ctrl-C and SIGTERM stop the call that waits; a second one ends the program. */
void cli_catch_signals(cli *c);
void cli_release_signals(void);
/* The same, but every signal is counted and none ends the program. */
void cli_count_signals(cli *c);
int cli_interrupted(void); /* how many came */
/* An id among the operands. */
exit_code cli_read_id(const char *text, int64_t *id);

/* All of a file ("-": standard input), with a zero behind it. Free with cli_free. */
exit_code cli_read_file(const char *name, char **text);
void cli_free(void *memory);
/* Lists the messages a filter finds, at most `limit`. */
exit_code message_list_filtered(cli *c, pgqrs_message_filter *filter, int64_t limit);
void explanation_show(cli *c, int64_t id, pgqrs_explanation *explanation);

/* --- what lists share: at most --limit records [100], page by page */
#define LIST_LIMIT 100
#define LIST_PAGE 500

/* --- the records that commands print */
extern const field copied_fields[];
extern const field count_fields[];
extern const field delivery_fields[];
extern const field finding_fields[];
extern const field message_fields[];
extern const field metrics_fields[];
extern const field queue_fields[];
extern const field reclaimed_fields[];
extern const field run_fields[];
extern const field schema_fields[];
extern const field stats_fields[];
extern const field step_fields[];
extern const field triggered_fields[];
extern const field value_fields[];
extern const field why_fields[];
extern const field worker_fields[];
extern const field workflow_fields[];

/* Ends most commands that changed something: {"action": "deleted", "object": "queue", "name": "emails", "count": 7}. */
typedef struct deed {
    const char *action;
    const char *object;
    const char *name; /* NULL: none */
    int64_t id;       /* 0: none */
    int64_t count;
} deed;
extern const field deed_fields[];

/* --- commands */
exit_code admin_install(cli *c);
exit_code admin_uninstall(cli *c);
exit_code admin_verify(cli *c);
exit_code admin_migrate(cli *c);

exit_code queue_create(cli *c);
exit_code queue_update(cli *c);
exit_code queue_list(cli *c);
exit_code queue_get(cli *c);
exit_code queue_delete(cli *c);
exit_code queue_purge(cli *c);
exit_code queue_pause(cli *c);
exit_code queue_resume(cli *c);
exit_code queue_metrics(cli *c);

exit_code message_send(cli *c);
exit_code message_read(cli *c);
exit_code message_dequeue(cli *c);
exit_code message_list(cli *c);
exit_code message_show(cli *c);
exit_code message_explain(cli *c);
exit_code message_count(cli *c);
exit_code message_delete(cli *c);
exit_code message_archive(cli *c);
exit_code message_release(cli *c);
exit_code message_extend(cli *c);
exit_code message_requeue(cli *c);
exit_code archive_purge(cli *c);
exit_code dead_replay(cli *c);

exit_code worker_list(cli *c);
exit_code worker_get(cli *c);
exit_code worker_stats(cli *c);
exit_code worker_health(cli *c);
exit_code worker_messages(cli *c);
exit_code worker_suspend(cli *c);
exit_code worker_resume(cli *c);
exit_code worker_stop(cli *c);
exit_code worker_release(cli *c);
exit_code worker_delete(cli *c);
exit_code worker_purge(cli *c);
exit_code worker_reclaim(cli *c);

exit_code workflow_list(cli *c);
exit_code workflow_get(cli *c);
exit_code workflow_create(cli *c);
exit_code workflow_delete(cli *c);

exit_code run_trigger(cli *c);
exit_code run_list(cli *c);
exit_code run_show(cli *c);
exit_code run_steps(cli *c);
exit_code run_values(cli *c);
exit_code run_cancel(cli *c);
exit_code run_restart(cli *c);
exit_code run_fork(cli *c);
exit_code run_result(cli *c);
exit_code run_explain(cli *c);
exit_code run_send_event(cli *c);
exit_code run_purge(cli *c);

exit_code work(cli *c);
exit_code doctor(cli *c);
exit_code top(cli *c);
exit_code copy(cli *c);

exit_code completion(cli *c);
exit_code manual(cli *c);

#endif
