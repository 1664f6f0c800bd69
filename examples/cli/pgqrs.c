/* pgqrs, the command-line tool: queues, messages, workers and workflows from a shell.
 *
 *     make cli && build/pgqrs --help
 *
 * It uses the public interface of pgqrs.h alone, so it is also an example of all of it.
 */
#include "cli.h"
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* clang-format off */
const command commands[] = {
    {"install", "", "create the tables, or bring them up to date", admin_install, schema_fields, {OPT_AGAIN}, 0, false},
    {"uninstall", "", "drop the tables, with all messages", admin_uninstall, schema_fields, {OPT_YES}, 0, false},
    {"verify", "", "check that the tables are whole", admin_verify, schema_fields, {0}, 0, false},
    {"migrate", "", "bring the tables up to date", admin_migrate, schema_fields, {0}, 0, false},

    {"queue create", "NAME", "create a queue", queue_create, deed_fields,
     {OPT_LOCK_TIME, OPT_MAX_ATTEMPTS, OPT_BACKOFF, OPT_BACKOFF_MAX, OPT_RETENTION, OPT_DEAD_RETENTION, OPT_PAUSED, OPT_IF_MISSING,
      OPT_UNLOGGED}, 0, false},
    {"queue update", "NAME", "change the settings that are given", queue_update, deed_fields,
     {OPT_LOCK_TIME, OPT_MAX_ATTEMPTS, OPT_BACKOFF, OPT_BACKOFF_MAX, OPT_RETENTION, OPT_DEAD_RETENTION}, 0, false},
    {"queue list", "", "list the queues with their settings", queue_list, queue_fields,
     {OPT_LIMIT, OPT_AFTER}, 0, false},
    {"queue get", "NAME", "show one queue", queue_get, queue_fields, {0}, 0, false},
    {"queue delete", "NAME", "remove a queue", queue_delete, deed_fields, {OPT_FORCE, OPT_YES}, 0, false},
    {"queue purge", "NAME", "remove all messages of a queue", queue_purge, deed_fields,
     {OPT_STATE, OPT_OLDER_THAN, OPT_YES}, 0, false},
    {"queue pause", "[NAME]", "stop delivering its messages", queue_pause, deed_fields, {OPT_ALL}, 0, false},
    {"queue resume", "[NAME]", "deliver its messages again", queue_resume, deed_fields, {OPT_ALL}, 0, false},
    {"queue metrics", "[NAME]", "count the messages of one queue, or of all", queue_metrics, metrics_fields,
     {0}, 0, false},

    {"message send", "QUEUE [JSON]", "enqueue a message; without JSON it is read from standard input", message_send, message_fields,
     {OPT_DELAY, OPT_PRIORITY, OPT_EXPIRE, OPT_DEDUP_KEY, OPT_PRODUCER, OPT_FILE, OPT_LINES}, 0, false},
    {"message read", "QUEUE", "lease messages and print them: archive, delete or release them later", message_read, delivery_fields,
     {OPT_COUNT, OPT_LOCK_TIME, OPT_WAIT, OPT_ARCHIVE, OPT_MESSAGE_TYPE}, 0, false},
    {"message dequeue", "QUEUE", "take one message, print it, archive it", message_dequeue, delivery_fields,
     {OPT_WAIT}, 0, false},
    {"message list", "QUEUE", "list messages without touching them", message_list, message_fields,
     {OPT_STATE, OPT_LIMIT, OPT_AFTER}, 0, false},
    {"message show", "QUEUE ID", "show one message", message_show, message_fields, {OPT_ARCHIVE}, 0, false},
    {"message explain", "QUEUE ID", "why is it not moving?", message_explain, why_fields, {0}, 0, false},
    {"message count", "QUEUE", "count the pending messages", message_count, count_fields,
     {OPT_ARCHIVE, OPT_STATE}, 0, false},
    {"message delete", "QUEUE ID...", "remove messages", message_delete, deed_fields, {OPT_FORCE, OPT_YES}, 0, false},
    {"message archive", "QUEUE ID...", "a leased message is done", message_archive, deed_fields, {OPT_LEASE}, 0, false},
    {"message release", "QUEUE ID...", "a leased message failed, or comes back: deliver it again", message_release, deed_fields,
     {OPT_DELAY, OPT_REASON, OPT_GIVE_BACK, OPT_LEASE}, 0, false},
    {"message extend", "QUEUE ID...", "make the lease last longer", message_extend, deed_fields,
     {OPT_LOCK_TIME, OPT_LEASE}, 0, false},
    {"message requeue", "QUEUE ID...", "deliver archived or dead messages again", message_requeue, deed_fields,
     {0}, 0, false},

    {"archive list", "QUEUE", "list archived messages", message_list, message_fields,
     {OPT_LIMIT, OPT_AFTER}, PGQRS_ARCHIVED, false},
    {"archive count", "QUEUE", "count them", message_count, count_fields, {0}, PGQRS_ARCHIVED, false},
    {"archive show", "QUEUE ID", "show one", message_show, message_fields, {0}, PGQRS_ARCHIVED, false},
    {"archive purge", "QUEUE", "remove them", archive_purge, deed_fields, {OPT_OLDER_THAN, OPT_YES}, 0, false},

    {"dead list", "QUEUE", "list the dead letters, with the reason", message_list, message_fields,
     {OPT_LIMIT, OPT_AFTER}, PGQRS_DEAD, false},
    {"dead show", "QUEUE ID", "show one", message_show, message_fields, {0}, PGQRS_DEAD, false},
    {"dead replay", "QUEUE [ID...]", "deliver them again", dead_replay, deed_fields, {OPT_ALL}, 0, false},

    {"worker list", "", "list the workers", worker_list, worker_fields,
     {OPT_QUEUE, OPT_STATE, OPT_LIMIT, OPT_AFTER}, 0, false},
    {"worker get", "ID", "show one worker", worker_get, worker_fields, {0}, 0, false},
    {"worker stats", "[QUEUE]", "count the workers of a queue, or all", worker_stats, stats_fields,
     {OPT_QUEUE, OPT_MAX_AGE}, 0, false},
    {"worker health", "[ID]", "list workers with an old heartbeat; exit status 1 when there is one", worker_health, worker_fields,
     {OPT_QUEUE, OPT_MAX_AGE, OPT_LIMIT}, 0, false},
    {"worker messages", "ID", "list the messages it holds", worker_messages, message_fields,
     {OPT_LIMIT, OPT_AFTER}, 0, false},
    {"worker suspend", "ID", "it takes no more messages until it is resumed", worker_suspend, deed_fields,
     {0}, 0, false},
    {"worker resume", "ID", "it takes messages again", worker_resume, deed_fields, {0}, 0, false},
    {"worker stop", "ID", "it ends after the message in hand", worker_stop, deed_fields, {0}, 0, false},
    {"worker release", "ID", "deliver what it holds to others", worker_release, deed_fields, {0}, 0, false},
    {"worker delete", "ID", "remove its row", worker_delete, deed_fields, {OPT_FORCE, OPT_YES}, 0, false},
    {"worker purge", "", "remove the rows of stopped workers", worker_purge, deed_fields,
     {OPT_OLDER_THAN, OPT_YES}, 0, false},
    {"worker reclaim", "", "stop workers with an old heartbeat [1m], deliver what they hold to others", worker_reclaim, reclaimed_fields,
     {OPT_QUEUE, OPT_OLDER_THAN}, 0, false},

    {"workflow list", "", "list the workflows with their settings", workflow_list, workflow_fields,
     {OPT_LIMIT, OPT_AFTER}, 0, false},
    {"workflow get", "NAME", "show one workflow", workflow_get, workflow_fields, {0}, 0, false},
    {"workflow create", "NAME", "create a workflow, and its queue", workflow_create, deed_fields,
     {OPT_QUEUE, OPT_MAX_RETRIES, OPT_BACKOFF, OPT_BACKOFF_MAX, OPT_LOCK_TIME, OPT_MAX_ATTEMPTS, OPT_TIMEOUT,
      OPT_RETENTION, OPT_FAILED_RETENTION, OPT_IF_MISSING}, 0, false},
    {"workflow delete", "NAME", "remove a workflow with its runs", workflow_delete, deed_fields,
     {OPT_FORCE, OPT_YES}, 0, false},

    {"run trigger", "WORKFLOW [JSON]", "start a run with this input", run_trigger, triggered_fields,
     {OPT_DELAY, OPT_PRIORITY, OPT_KEY, OPT_FILE}, 0, false},
    {"run list", "[WORKFLOW]", "list runs, the newest first", run_list, run_fields,
     {OPT_STATE, OPT_OPEN, OPT_KEY, OPT_LIMIT, OPT_AFTER}, 0, false},
    {"run show", "ID", "show one run", run_show, run_fields, {0}, 0, false},
    {"run steps", "ID", "list its steps, with what they gave", run_steps, step_fields, {0}, 0, false},
    {"run values", "ID", "list the values it has set", run_values, value_fields, {0}, 0, false},
    {"run explain", "ID", "why is it not moving?", run_explain, why_fields, {0}, 0, false},
    {"run result", "ID", "print the output of a run that has ended", run_result, run_fields, {OPT_WAIT}, 0, false},
    {"run cancel", "ID", "end it at its next step", run_cancel, deed_fields, {OPT_BY, OPT_REASON}, 0, false},
    {"run restart", "ID", "go on with a failed run, after its last completed step", run_restart, deed_fields,
     {0}, 0, false},
    {"run fork", "ID", "a new run from the steps of this one", run_fork, deed_fields, {OPT_STEP, OPT_KEY}, 0, false},
    {"run send-event", "ID EVENT [JSON]", "what it waits for has happened", run_send_event, deed_fields, {0}, 0, false},
    {"run purge", "WORKFLOW", "remove ended runs", run_purge, deed_fields,
     {OPT_STATE, OPT_OLDER_THAN, OPT_YES}, 0, false},

    {"work", "QUEUE -- COMMAND...", "run a command for each message, with the payload on its standard input", work, NULL,
     {OPT_JOBS, OPT_TIMEOUT, OPT_GRACE, OPT_LOCK_TIME, OPT_UNTIL_EMPTY, OPT_MAX_MESSAGES, OPT_NAME}, 0, false},
    {"doctor", "", "look for what is wrong, and say the cure", doctor, finding_fields, {OPT_MAX_AGE, OPT_TRANSACTION_AGE}, 0, false},
    {"top", "", "watch queues, workers and runs; q ends it", top, NULL, {OPT_INTERVAL}, 0, false},
    {"copy", "FROM-DSN TO-DSN", "copy all queues, messages, workflows and runs to another store", copy, copied_fields,
     {OPT_FROM_SCHEMA, OPT_TO_SCHEMA, OPT_FORCE, OPT_YES}, 0, true},
    {"completion", "SHELL", "print the completion for bash or zsh", completion, NULL, {0}, 0, true},
    {"manual", "", "print the manual page", manual, NULL, {0}, 0, true},
};
/* clang-format on */
const size_t command_count = sizeof commands / sizeof commands[0];

const field deed_fields[] = {{"action", FIELD_TEXT, offsetof(deed, action), FIELD_LISTED, NULL},
                             {"object", FIELD_TEXT, offsetof(deed, object), FIELD_LISTED, NULL},
                             {"name", FIELD_TEXT, offsetof(deed, name), FIELD_LISTED, NULL},
                             {"id", FIELD_INT64, offsetof(deed, id), FIELD_LISTED | FIELD_ZERO_IS_NULL, NULL},
                             {"count", FIELD_INT64, offsetof(deed, count), FIELD_LISTED, NULL},
                             {NULL, FIELD_TEXT, 0, 0, NULL}};

/* --- errors */

void cli_say(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char *plain = output_plain(text);
    fprintf(stderr, "pgqrs: %s\n", plain ? plain : "no memory to say what");
    free(plain);
}

static void replace_all(char *text, size_t room, const char *from, const char *to)
{
    size_t from_size = strlen(from), to_size = strlen(to);
    for (char *place = text; (place = strstr(place, from)) != NULL; place += to_size) {
        size_t rest = strlen(place + from_size) + 1;
        if ((size_t)(place - text) + to_size + rest > room) return;
        memmove(place + to_size, place + from_size, rest);
        memcpy(place, to, to_size);
    }
}

/* The library gives cures in the names of its functions. */
void cli_reword(char *text, size_t room)
{
    static const struct {
        const char *from, *to;
    } words[] = {
        {"call pgqrs_install", "run: pgqrs install"},
        {"call pgqrs_s3_bootstrap", "run: pgqrs install --again"},
        {": pgqrs_queue_resume", "; run: pgqrs queue resume, with its name"},
        {"pgqrs_queue_", "pgqrs queue "},
        {"pgqrs_message_replay", "pgqrs dead replay"},
        {"pgqrs_run_send_event", "pgqrs run send-event"},
        {"pgqrs_run_restart", "pgqrs run restart"},
        {"pgqrs_worker_reclaim", "pgqrs worker reclaim"},
        {"pgqrs_workflow_trigger", "pgqrs run trigger"},
        {"pgqrs_workflow_create", "pgqrs workflow create"},
        {"pgqrs_workflow_delete", "pgqrs workflow delete"},
        {"work on it with pgqrs_work_workflow", "its steps are in a program, which calls pgqrs_work_workflow"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        replace_all(text, room, words[i].from, words[i].to);
}

static exit_code code_of(pgqrs_result result)
{
    switch (result) {
    case PGQRS_OK:
        return DONE;
    case PGQRS_ERR_CONNECTION:
    case PGQRS_ERR_OUTCOME_UNKNOWN:
        return NO_CONNECTION;
    case PGQRS_ERR_QUEUE_NOT_FOUND:
    case PGQRS_ERR_MESSAGE_NOT_FOUND:
    case PGQRS_ERR_WORKER_NOT_FOUND:
    case PGQRS_ERR_WORKFLOW_NOT_FOUND:
    case PGQRS_ERR_RUN_NOT_FOUND:
    case PGQRS_ERR_STEP_NOT_FOUND:
        return NOT_FOUND;
    case PGQRS_ERR_INVALID_ARGUMENT:
    case PGQRS_ERR_BAD_DSN:
    case PGQRS_ERR_BAD_CONFIG:
    case PGQRS_ERR_BAD_NAME:
    case PGQRS_ERR_NOT_BUILT:
        return USAGE;
    default:
        return FAILED;
    }
}

exit_code cli_error(const pgqrs_error *error)
{
    char text[PGQRS_ERROR_MESSAGE_SIZE];
    snprintf(text, sizeof text, "%s", *error->message ? error->message : pgqrs_result_text(error->code));
    cli_reword(text, sizeof text);
    return cli_fail(error->code == PGQRS_OK ? FAILED : code_of(error->code), "%s", text);
}

exit_code cli_store_failed(cli *c)
{
    return cli_error(pgqrs_last_error(c->store));
}

exit_code cli_check(cli *c, pgqrs_result result)
{
    return result == PGQRS_OK ? DONE : cli_store_failed(c);
}

exit_code cli_read_id(const char *text, int64_t *id)
{
    if (units_read_number(text, id) && *id > 0) return DONE;
    return cli_fail(USAGE, "\"%s\" is no id: a number from 1", text);
}

/* --- files */

static exit_code read_all(FILE *file, const char *name, char **text)
{
    size_t size = 0, room = 0, got = 1;
    while (got > 0) {
        if (room - size < 2) {
            room = room ? room * 2 : 8192;
            char *more = realloc(*text, room);
            if (!more) return cli_fail(FAILED, "%s: no memory for so large a file", name);
            *text = more;
        }
        got = fread(*text + size, 1, room - size - 1, file);
        size += got;
        (*text)[size] = 0;
    }
    if (ferror(file)) return cli_fail(FAILED, "%s: %s", name, strerror(errno));
    return strlen(*text) == size ? DONE : cli_fail(FAILED, "%s: there is a zero byte in it", name);
}

exit_code cli_read_file(const char *name, char **text)
{
    *text = NULL;
    bool standard = strcmp(name, "-") == 0;
    FILE *file = standard ? stdin : fopen(name, "re");
    if (!file) return cli_fail(FAILED, "%s: %s", name, strerror(errno));
    exit_code code = read_all(file, standard ? "standard input" : name, text);
    if (!standard) fclose(file);
    /* The line feed at the end of a file is the editor's. */
    for (size_t size = code == DONE ? strlen(*text) : 0; size > 0 && strchr("\r\n", (*text)[size - 1]); size--)
        (*text)[size - 1] = 0;
    return code;
}

void cli_free(void *memory)
{
    free(memory);
}

/* --- questions */

bool cli_confirmed(cli *c, exit_code *code, const char *format, ...)
{
    char text[512], answer[16];
    if (given(c, OPT_YES)) return true;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) {
        *code = cli_fail(USAGE, "this would %s, and there is nobody to ask: add --yes", text);
        return false;
    }
    fprintf(stderr, "%s? [y/N] ", text);
    fflush(stderr);
    if (fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y')) return true;
    *code = cli_fail(FAILED, "nothing was changed");
    return false;
}

/* --- signals */

/* The handler runs on any thread, and commands of `work` ask on threads of their own. */
static pgqrs_store *signalled_store;
static int interrupted;

static void on_signal(int number)
{
    (void)number;
    int kept = errno;
    pgqrs_store *store = __atomic_load_n(&signalled_store, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&interrupted, 1, __ATOMIC_SEQ_CST);
    if (store) pgqrs_stop(store);
    errno = kept;
}

/* Who presses Ctrl-C twice does not want to wait: `once` makes the second one end the program. */
static void handle_signals(void (*handler)(int), bool once)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    if (once) action.sa_flags = (int)SA_RESETHAND;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

void cli_catch_signals(cli *c)
{
    __atomic_store_n(&signalled_store, c->store, __ATOMIC_SEQ_CST);
    handle_signals(on_signal, true);
}

void cli_count_signals(cli *c)
{
    __atomic_store_n(&signalled_store, c->store, __ATOMIC_SEQ_CST);
    handle_signals(on_signal, false);
}

void cli_release_signals(void)
{
    handle_signals(SIG_DFL, false);
    __atomic_store_n(&signalled_store, NULL, __ATOMIC_SEQ_CST);
}

int cli_interrupted(void)
{
    return __atomic_load_n(&interrupted, __ATOMIC_SEQ_CST);
}

/* --- the surroundings of a command */

static void write_log(pgqrs_log_level level, const char *text, void *user)
{
    static const char *const names[] = {"", "error", "warn", "info", "debug"};
    char when[UNITS_ROOM];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    units_write_iso(when, sizeof when, (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    fprintf(user, "%s pgqrs %s: %s\n", when, names[level], text);
    fflush(user);
}

static exit_code open_log(cli *c)
{
    const char *place = c->options[OPT_LOG_DEST].text;
    c->log = stderr;
    if (!place || strcmp(place, "stderr") == 0) return DONE;
    c->log = fopen(place, "ae");
    return c->log ? DONE : cli_fail(FAILED, "--log-dest: cannot write to %s: %s", place, strerror(errno));
}

static int terminal_width(FILE *file)
{
    struct winsize size;
    if (!isatty(fileno(file))) return 0;
    return ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static exit_code open_output(cli *c)
{
    const char *place = c->options[OPT_OUT].text, *no_color = getenv("NO_COLOR");
    output *out = &c->out;
    out->file = stdout;
    out->format = (output_format)number_of(c, OPT_FORMAT);
    out->utc = given(c, OPT_UTC);
    if (place && strcmp(place, "stdout") != 0) out->file = fopen(place, "we");
    if (!out->file) {
        out->file = stdout;
        return cli_fail(FAILED, "--out: cannot write to %s: %s", place, strerror(errno));
    }
    out->width = terminal_width(out->file);
    out->color = out->width > 0 && !given(c, OPT_NO_COLOR) && !(no_color && *no_color);
    return DONE;
}

/* trace is debug: the library has no more to tell. */
static pgqrs_log_level log_level(const cli *c)
{
    static const pgqrs_log_level levels[] = {PGQRS_LOG_ERROR, PGQRS_LOG_WARN, PGQRS_LOG_INFO, PGQRS_LOG_DEBUG,
                                             PGQRS_LOG_DEBUG};
    return given(c, OPT_LOG_LEVEL) ? levels[number_of(c, OPT_LOG_LEVEL)] : PGQRS_LOG_WARN;
}

exit_code cli_open(cli *c, const char *dsn, const char *schema, bool may_create, pgqrs_config **config,
                   pgqrs_store **store)
{
    pgqrs_error error;
    pgqrs_config_desc desc = {
        .dsn = dsn, .schema = schema ? schema : c->options[OPT_SCHEMA].text, .file = c->options[OPT_CONFIG].text};
    *config = pgqrs_config_load(&desc, &error);
    if (!*config && !dsn && strncmp(error.message, "no DSN", 6) == 0)
        return cli_fail(USAGE,
                        "which store? Give --dsn, set PGQRS_DSN, or write dsn into pgqrs.yaml: sqlite://jobs.db");
    if (!*config) return cli_error(&error);
    (*config)->store.sqlite_create = may_create ? PGQRS_ON : PGQRS_OFF;
    (*config)->store.logger = (pgqrs_logger){write_log, c->log, log_level(c)};
    *store = cli_open_store(*config, &error);
    if (*store) return DONE;
    exit_code code = cli_error(&error);
    return code == FAILED && error.code != PGQRS_ERR_NO_MEMORY ? NO_CONNECTION : code;
}

static exit_code close_output(cli *c, exit_code code)
{
    output *out = &c->out;
    if (out->no_memory) return cli_fail(FAILED, "no memory for the whole result");
    bool failed = !output_flush(out);
    int why = errno;
    if (out->file != stdout && fclose(out->file) != 0) failed = true;
    /* Nobody reads any more (`| head`): that is no news to anybody. */
    if (failed && why == EPIPE) return code == DONE ? FAILED : code;
    if (failed && code == DONE) return cli_fail(FAILED, "cannot write the result: %s", strerror(why));
    return code;
}

static exit_code run(cli *c)
{
    exit_code code = open_log(c);
    if (code == DONE) code = open_output(c);
    if (code == DONE && !c->command->offline)
        code = cli_open(c, c->options[OPT_DSN].text, NULL, c->command->run == admin_install, &c->config, &c->store);
    c->out.clock = c->store;
    if (code == DONE) code = c->command->run(c);
    return c->out.file ? close_output(c, code) : code;
}

int main(int argc, char **argv)
{
    cli c;
    memset(&c, 0, sizeof c);
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN); /* a write that fails is seen where it fails */
    exit_code code = options_read(&c, argc, argv);
    if (c.command && code == DONE) code = run(&c);
    cli_release_signals();
    pgqrs_close(c.store);
    cli_release_http();
    pgqrs_free(c.config);
    if (c.log && c.log != stderr) fclose(c.log);
    free(c.operands);
    return (int)code;
}
