/* Every option of the tool, once: its name, what may stand behind it, its line in --help. An option means the same in every command
 * that has it. */
#include "cli.h"
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const option_info infos[OPT_COUNT_OF_OPTIONS] = {
    [OPT_DSN] = {"dsn", 'd', KIND_TEXT, "DSN", "sqlite://FILE, postgresql://USER@HOST/DATABASE, s3://BUCKET/KEY [PGQRS_DSN]", 0, 0},
    [OPT_CONFIG] = {"config", 'c', KIND_TEXT, "FILE", "the configuration [PGQRS_CONFIG_FILE, ./pgqrs.yaml, ./pgqrs.yml]", 0, 0},
    [OPT_SCHEMA] = {"schema", 's', KIND_TEXT, "NAME", "the Postgres schema [PGQRS_SCHEMA, public]", 0, 0},
    [OPT_FORMAT] = {"format", 0, KIND_CHOICE, "table|json|jsonl|csv", "how results are written [table]", 0, 0},
    [OPT_OUT] = {"out", 0, KIND_TEXT, "stdout|FILE", "where results are written [stdout]", 0, 0},
    [OPT_LOG_DEST] = {"log-dest", 0, KIND_TEXT, "stderr|FILE", "where the log is written; a file is appended to [stderr]", 0, 0},
    [OPT_LOG_LEVEL] = {"log-level", 0, KIND_CHOICE, "error|warn|info|debug|trace", "how much of it [warn]", 0, 0},
    [OPT_NO_COLOR] = {"no-color", 0, KIND_FLAG, NULL, "no colors on a terminal [NO_COLOR]", 0, 0},
    [OPT_UTC] = {"utc", 0, KIND_FLAG, NULL, "tables show the time in UTC instead of how long ago", 0, 0},
    [OPT_VERSION] = {"version", 'V', KIND_FLAG, NULL, "print the version", 0, 0},
    [OPT_HELP] = {"help", 'h', KIND_FLAG, NULL, "help for every command: pgqrs message send --help", 0, 0},
    [OPT_YES] = {"yes", 'y', KIND_FLAG, NULL, "do not ask", 0, 0},
    [OPT_FORCE] = {"force", 0, KIND_FLAG, NULL, "even when it is in use: what is held, not empty or not ended goes too", 0, 0},
    [OPT_ALL] = {"all", 0, KIND_FLAG, NULL, "all of them", 0, 0},
    [OPT_AGAIN] = {"again", 0, KIND_FLAG, NULL, "make an object anew that was deleted from its bucket", 0, 0},
    [OPT_LIMIT] = {"limit", 0, KIND_NUMBER, "N", "at most so many records [100]", 1, INT32_MAX},
    [OPT_AFTER] = {"after", 0, KIND_NUMBER, "ID", "go on behind the last id of the list before", 1, INT64_MAX},
    [OPT_STATE] = {"state", 0, KIND_TEXT, "STATE", "only those in this state", 0, 0},
    [OPT_OPEN] = {"open", 0, KIND_FLAG, NULL, "only those that have not ended", 0, 0},
    [OPT_OLDER_THAN] = {"older-than", 0, KIND_DURATION, "AGE", "only what is older: 30s, 5m, 1h, 7d", 0, 0},
    [OPT_QUEUE] = {"queue", 'q', KIND_TEXT, "QUEUE", "only those of this queue", 0, 0},
    [OPT_DELAY] = {"delay", 0, KIND_DURATION, "TIME", "not before so long from now: 30 (seconds), 5m, 1h", 0, 0},
    [OPT_PRIORITY] = {"priority", 0, KIND_NUMBER, "N", "-32768 to 32767, higher first [0]", -32768, 32767},
    [OPT_EXPIRE] = {"expire", 0, KIND_DURATION, "TIME", "not delivered any more when not started by then [never]", 1, 0},
    [OPT_DEDUP_KEY] = {"dedup-key", 0, KIND_TEXT, "KEY", "stored once as long as a message with this key is unfinished", 0, 0},
    [OPT_PRODUCER] = {"producer", 0, KIND_TEXT, "NAME", "who sends it, for people", 0, 0},
    [OPT_FILE] = {"file", 'f', KIND_TEXT, "FILE|-", "take the payload from a file; -: from standard input", 0, 0},
    [OPT_LINES] = {"lines", 0, KIND_FLAG, NULL, "one JSON a line, each a message", 0, 0},
    [OPT_COUNT] = {"count", 'n', KIND_NUMBER, "N", "how many messages to take [1]", 1, 10000},
    [OPT_LOCK_TIME] = {"lock-time", 0, KIND_DURATION, "TIME", "the lease: how long a message is yours, 30 (seconds), 5m", 1, 0},
    [OPT_MESSAGE_TYPE] = {"message-type", 't', KIND_TEXT, "TYPE", "accepted for old scripts, means nothing", 0, 0},
    [OPT_ARCHIVE] = {"archive", 0, KIND_FLAG, NULL, "look at archived messages instead", 0, 0},
    [OPT_WAIT] = {"wait", 0, KIND_DURATION, "TIME", "wait so long for the first one [0]", 0, 0},
    [OPT_LEASE] = {"lease", 0, KIND_NUMBER, "TOKEN", "refuse when the delivery is not this one any more (\"lease\" of read)", 1, INT64_MAX},
    [OPT_REASON] = {"reason", 0, KIND_TEXT, "TEXT", "why, for people", 0, 0},
    [OPT_GIVE_BACK] = {"give-back", 0, KIND_FLAG, NULL, "it was not tried: the attempt is not counted", 0, 0},
    [OPT_MAX_ATTEMPTS] = {"max-attempts", 0, KIND_NUMBER, "N", "tries before the dead letters [5]", 1, 32767},
    [OPT_BACKOFF] = {"backoff", 0, KIND_DURATION, "TIME", "delay after the first failed try, doubles with each [1s]", 1, 0},
    [OPT_BACKOFF_MAX] = {"backoff-max", 0, KIND_DURATION, "TIME", "the most it grows to [1m]", 1, 0},
    [OPT_RETENTION] = {"retention", 0, KIND_DURATION, "TIME", "remove archived messages after so long; 0: keep [keep]", 0, 0},
    [OPT_DEAD_RETENTION] = {"dead-retention", 0, KIND_DURATION, "TIME", "the same for dead letters [keep]", 0, 0},
    [OPT_PAUSED] = {"paused", 0, KIND_FLAG, NULL, "deliver nothing until it is resumed", 0, 0},
    [OPT_IF_MISSING] = {"if-missing", 0, KIND_FLAG, NULL, "one that is there already is fine, and stays as it is", 0, 0},
    [OPT_UNLOGGED] = {"unlogged", 0, KIND_FLAG, NULL, "accepted for old scripts, means nothing: every queue is durable", 0, 0},
    [OPT_MAX_AGE] = {"max-age", 0, KIND_DURATION, "AGE", "a heartbeat older than this is a bad sign [1m]", 1, 0},
    [OPT_MAX_RETRIES] = {"max-retries", 0, KIND_NUMBER, "N", "tries of a failed step after the first one [3]", 0, 32767},
    [OPT_TIMEOUT] = {"timeout", 0, KIND_DURATION, "TIME", "what takes longer has failed [none]", 1, 0},
    [OPT_FAILED_RETENTION] = {"failed-retention", 0, KIND_DURATION, "TIME", "remove failed runs after so long [keep]", 0, 0},
    [OPT_KEY] = {"key", 0, KIND_TEXT, "KEY", "of a run: there is one with this key; of a step in a loop: which", 0, 0},
    [OPT_STEP] = {"step", 0, KIND_TEXT, "NAME", "go on with this step; those before it are taken over [the first]", 0, 0},
    [OPT_BY] = {"by", 0, KIND_TEXT, "WHO", "who asks for it, for people", 0, 0},
    [OPT_JOBS] = {"jobs", 'j', KIND_NUMBER, "N", "so many commands at a time [1]", 1, 256},
    [OPT_UNTIL_EMPTY] = {"until-empty", 0, KIND_FLAG, NULL, "end when no message is ready and those that failed here were tried again", 0, 0},
    [OPT_MAX_MESSAGES] = {"max-messages", 0, KIND_NUMBER, "N", "end after so many", 1, INT64_MAX},
    [OPT_NAME] = {"name", 0, KIND_TEXT, "NAME", "of the worker in lists [made up]", 0, 0},
    [OPT_GRACE] = {"grace", 0, KIND_DURATION, "TIME", "after Ctrl-C, how long commands may take to end [10s]", 0, 0},
    [OPT_TRANSACTION_AGE] = {"transaction-age", 0, KIND_DURATION, "AGE", "a transaction open for so long keeps vacuum from its work [5m]", 1, 0},
    [OPT_FROM_SCHEMA] = {"from-schema", 0, KIND_TEXT, "NAME", "the schema of the first store, where it is Postgres [--schema]", 0, 0},
    [OPT_TO_SCHEMA] = {"to-schema", 0, KIND_TEXT, "NAME", "the schema of the second store, likewise", 0, 0},
    [OPT_INTERVAL] = {"interval", 0, KIND_DURATION, "TIME", "look so often [2s]", 100, 0},
};
/* clang-format on */

const option_info *option_about(option_id id)
{
    return &infos[id];
}

/* --- what may stand behind an option */

static bool find_choice(const char *words, const char *text, int64_t *number)
{
    size_t length = strlen(text);
    for (int64_t index = 0; *words; index++) {
        size_t word = strcspn(words, "|");
        if (word == length && strncmp(words, text, word) == 0) {
            *number = index;
            return true;
        }
        words += word + (words[word] == '|');
    }
    return false;
}

static exit_code read_value(cli *c, option_id id, const char *text)
{
    const option_info *o = &infos[id];
    option_value *v = &c->options[id];
    v->text = text ? text : "";
    switch (o->kind) {
    case KIND_FLAG:
        v->number = 1;
        break;
    case KIND_TEXT:
        if (*v->text == 0) return cli_fail(USAGE, "--%s is empty: give %s", o->name, o->value);
        break;
    case KIND_NUMBER:
        if (!units_read_number(v->text, &v->number) || v->number < o->least || v->number > o->most)
            return cli_fail(USAGE, "--%s: \"%s\" is not a number from %lld to %lld", o->name, v->text,
                            (long long)o->least, (long long)o->most);
        break;
    case KIND_DURATION:
        if (!units_read_duration(v->text, &v->number))
            return cli_fail(USAGE, "--%s: \"%s\" is no duration; write 30s, 5m, 1h or 7d", o->name, v->text);
        if (v->number < o->least)
            return cli_fail(USAGE, "--%s: \"%s\" is too short, %dms is the least", o->name, v->text, (int)o->least);
        break;
    case KIND_CHOICE:
        if (!find_choice(o->value, v->text, &v->number))
            return cli_fail(USAGE, "--%s: \"%s\" is not one of %s", o->name, v->text, o->value);
        break;
    }
    return DONE;
}

/* --- --help */

static bool takes(const command *cmd, option_id id)
{
    for (size_t i = 0; i < sizeof cmd->options && cmd->options[i] != OPT_NONE; i++)
        if (cmd->options[i] == (unsigned char)id) return true;
    return false;
}

static void print_option(FILE *file, option_id id)
{
    char left[80];
    const option_info *o = &infos[id];
    snprintf(left, sizeof left, "%c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
             o->letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
    if (strlen(left) > 26)
        fprintf(file, "  %s\n  %-26s  %s\n", left, "", o->help);
    else
        fprintf(file, "  %-26s  %s\n", left, o->help);
}

static void print_command(FILE *file, const command *cmd)
{
    char left[120];
    snprintf(left, sizeof left, "%s%s%s", cmd->words, *cmd->operands ? " " : "", cmd->operands);
    if (strlen(left) > 30)
        fprintf(file, "  %s\n  %-30s  %s\n", left, "", cmd->help);
    else
        fprintf(file, "  %-30s  %s\n", left, cmd->help);
}

static void print_globals(FILE *file)
{
    fputs("\nIn every command:\n", file);
    for (int id = OPT_DSN; id <= OPT_LAST_GLOBAL; id++)
        print_option(file, (option_id)id);
}

/* Broken into lines by hand: there are up to two dozen of them. */
static void print_fields(FILE *file, const field *fields)
{
    size_t column = 0;
    if (fields) fputs("\nFields of JSON and CSV:", file);
    for (const field *f = fields; f && f->name; f++) {
        column = column == 0 || column + strlen(f->name) > 76 ? 2 : column;
        fprintf(file, "%s%s%s", column == 2 ? "\n  " : " ", f->name, f[1].name ? "," : "\n");
        column += strlen(f->name) + 2;
    }
}

const char *command_note(const command *cmd)
{
    static const struct {
        const char *words, *text;
    } notes[] = {
        {"message send", "The payload is JSON: '{\"to\":\"ada\"}', 42, or a text in double quotes, '\"hello\"'.\n"},
        {"message read", "Each message is yours until its lease ends. Say what became of it before: pgqrs message\n"
                         "archive (done), release (failed: again later), delete or extend, with --lease for scripts.\n"
                         "Without --lock-time the lease is 5 s, whatever the queue says.\n"},
        {"work", "The command gets the payload on its standard input, with a line feed at the end, and\n"
                 "PGQRS_MESSAGE_ID, PGQRS_QUEUE, PGQRS_ATTEMPT and PGQRS_PRIORITY in its environment.\n"
                 "Exit status 0: done, the message is archived. 65: hopeless, it goes to the dead letters at\n"
                 "once. Any other, a signal or the timeout: it is tried again after the queue's backoff,\n"
                 "and goes to the dead letters after its last attempt. The exit status of pgqrs work itself\n"
                 "does not tell: see pgqrs dead list.\n"
                 "Ctrl-C (SIGTERM) starts no more commands and waits for those that run, for --grace at most;\n"
                 "a second one ends them now, a third one kills them. What they had is given back, and the\n"
                 "try does not count.\n"},
        {"copy", "The queues are paused in both stores, so that nobody changes what is copied. Tables that the\n"
                 "second store does not have yet are made. A copy that was interrupted is begun again with\n"
                 "the same command: what has arrived is left alone. In the end counts and checksums of both\n"
                 "are compared. --force copies messages that somebody holds, too: there they are delivered\n"
                 "again when their leases would have ended.\n"
                 "Then: pgqrs queue resume --all --dsn TO-DSN\n"},
    };
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++)
        if (strcmp(notes[i].words, cmd->words) == 0) return notes[i].text;
    return NULL;
}

static void print_note(FILE *file, const char *note)
{
    fputs("\n", file);
    while (*note) {
        int length = (int)strcspn(note, "\n");
        fprintf(file, "  %.*s\n", length, note);
        note += length + 1;
    }
}

static void help_command(FILE *file, const command *cmd)
{
    const char *note = command_note(cmd);
    fprintf(file, "pgqrs %s%s%s\n\n  %s\n", cmd->words, *cmd->operands ? " " : "", cmd->operands, cmd->help);
    if (note) print_note(file, note);
    if (cmd->options[0] != OPT_NONE) fputs("\nOptions:\n", file);
    for (size_t i = 0; i < sizeof cmd->options && cmd->options[i] != OPT_NONE; i++)
        print_option(file, (option_id)cmd->options[i]);
    print_globals(file);
    print_fields(file, cmd->fields);
}

/* All commands, or those that begin with these words. */
static void help_overview(FILE *file, const char *words)
{
    size_t length = strlen(words);
    fprintf(file, "pgqrs%s%s COMMAND [OPTION...]\n\n", *words ? " " : "", words);
    for (size_t i = 0; i < command_count; i++)
        if (strncmp(commands[i].words, words, length) == 0) print_command(file, &commands[i]);
    print_globals(file);
    fputs("\nExit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 no connection.\n", file);
    if (*words) return;
    fputs(
        "\nA bucket (s3://BUCKET/KEY) takes these from the environment:\n"
        "    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY       the credentials; AWS_SESSION_TOKEN with temporary ones\n"
        "    AWS_REGION [us-east-1]                         or AWS_DEFAULT_REGION\n"
        "    AWS_ENDPOINT_URL_S3 [AWS of that region]       or AWS_ENDPOINT_URL: http://HOST:PORT, https://HOST\n"
        "    PGQRS_S3_MODE [durable]                        local: a local file, which a program of yours syncs\n"
        "    PGQRS_S3_CACHE_DIR [~/.cache/pgqrs]            where the last known version is kept, or the local file\n",
        file);
    fputs("\nTo begin:\n"
          "    export PGQRS_DSN=sqlite://jobs.db\n"
          "    pgqrs install\n"
          "    pgqrs queue create mail\n"
          "    pgqrs message send mail '{\"to\":\"ada@example.com\"}'\n"
          "    pgqrs work mail --until-empty -- cat\n",
          file);
}

/* --- which command */

/* How many of the operands are the words of this command; 0: it is another one. */
static int words_match(const char *words, char *const *operands, int count)
{
    int matched = 0;
    while (*words) {
        size_t length = strcspn(words, " ");
        if (matched == count || strlen(operands[matched]) != length || strncmp(words, operands[matched], length) != 0)
            return 0;
        words += length + (words[length] == ' ');
        matched++;
    }
    return matched;
}

static const command *find_command(char *const *operands, int count, int *matched)
{
    for (size_t i = 0; i < command_count; i++) {
        *matched = words_match(commands[i].words, operands, count);
        if (*matched) return &commands[i];
    }
    *matched = 0;
    return NULL;
}

/* "queue" alone begins commands, but is none. */
static bool is_group(const char *word)
{
    size_t length = strlen(word);
    for (size_t i = 0; i < command_count; i++)
        if (strncmp(commands[i].words, word, length) == 0 && commands[i].words[length] == ' ') return true;
    return false;
}

/* Reads the counts off the pattern: "QUEUE [JSON]" is 1 to 2, "QUEUE ID..." 2 and more. */
static void count_operands(const char *pattern, int *least, int *most)
{
    *least = *most = 0;
    while (*pattern) {
        size_t length = strcspn(pattern, " ");
        bool several = length > 3 && strncmp(pattern + length - 3 - (pattern[length - 1] == ']'), "...", 3) == 0;
        if (strncmp(pattern, "--", length) != 0) {
            *least += *pattern != '[';
            *most = several ? 1000000 : *most + 1;
        }
        pattern += length + (pattern[length] == ' ');
    }
}

static exit_code check_operands(cli *c)
{
    int least, most;
    count_operands(c->command->operands, &least, &most);
    bool wants_tail = strstr(c->command->operands, "-- ") != NULL;
    if (wants_tail && (c->tail == c->operand_count || c->tail != 1))
        return cli_fail(USAGE, "usage: pgqrs %s %s", c->command->words, c->command->operands);
    if (c->operand_count < least)
        return cli_fail(USAGE, "something is missing: pgqrs %s %s", c->command->words, c->command->operands);
    if (c->operand_count > most)
        return cli_fail(USAGE, "\"%s\" is too much: pgqrs %s %s", c->operands[most], c->command->words,
                        *c->command->operands ? c->command->operands : "takes no arguments");
    return DONE;
}

static exit_code check_options(cli *c)
{
    for (int id = OPT_LAST_GLOBAL + 1; id < OPT_COUNT_OF_OPTIONS; id++)
        if (given(c, (option_id)id) && !takes(c->command, (option_id)id))
            return cli_fail(USAGE, "pgqrs %s has no --%s; see: pgqrs %s --help", c->command->words, infos[id].name,
                            c->command->words);
    return DONE;
}

/* --- the command line */

#define LETTERS_ROOM (3 * OPT_COUNT_OF_OPTIONS + 3)

static void make_getopt(struct option *longs, char *letters)
{
    size_t used = 0;
    letters[used++] = '-'; /* operands are reported where they stand, and the environment cannot change that */
    letters[used++] = ':';
    for (int id = 1; id < OPT_COUNT_OF_OPTIONS; id++) {
        const option_info *o = &infos[id];
        int has_value = o->kind == KIND_FLAG ? no_argument : required_argument;
        longs[id - 1] = (struct option){o->name, has_value, NULL, 256 + id};
        if (o->letter) letters[used++] = o->letter;
        if (o->letter && has_value == required_argument) letters[used++] = ':';
    }
    longs[OPT_COUNT_OF_OPTIONS - 1] = (struct option){NULL, 0, NULL, 0};
    letters[used] = 0;
}

static option_id option_of(int found)
{
    if (found > 256) return (option_id)(found - 256);
    for (int id = 1; id < OPT_COUNT_OF_OPTIONS; id++)
        if (infos[id].letter == found) return (option_id)id;
    return OPT_NONE;
}

static exit_code read_arguments(cli *c, int argc, char **argv)
{
    struct option longs[OPT_COUNT_OF_OPTIONS];
    char letters[LETTERS_ROOM];
    make_getopt(longs, letters);
    opterr = 0;
    for (;;) {
        int at = optind, found = getopt_long(argc, argv, letters, longs, NULL);
        if (found == -1) break;
        if (found == 1) {
            c->operands[c->operand_count++] = optarg;
            continue;
        }
        if (found == ':') return cli_fail(USAGE, "%s needs a value; see: pgqrs --help", argv[optind - 1]);
        option_id id = found == '?' ? OPT_NONE : option_of(found);
        if (id == OPT_NONE)
            return cli_fail(USAGE, "there is no option %s; see: pgqrs --help", argv[at < argc ? at : argc - 1]);
        exit_code code = read_value(c, id, optarg);
        if (code != DONE) return code;
    }
    c->tail = c->operand_count;
    while (optind < argc)
        c->operands[c->operand_count++] = argv[optind++];
    return DONE;
}

static exit_code no_command(cli *c)
{
    if (given(c, OPT_VERSION)) {
        printf("pgqrs %s\n", pgqrs_version());
        return DONE;
    }
    const char *group = c->operand_count > 0 && is_group(c->operands[0]) ? c->operands[0] : "";
    if (given(c, OPT_HELP) && (c->operand_count == 0 || (*group && c->operand_count == 1))) {
        help_overview(stdout, group);
        return DONE;
    }
    if (c->operand_count == 0) {
        help_overview(stderr, "");
        return USAGE;
    }
    if (*group && c->operand_count == 1) return cli_fail(USAGE, "pgqrs %s what? See: pgqrs %s --help", group, group);
    return cli_fail(USAGE, "there is no command \"%s%s%s\"; see: pgqrs %s%s--help", c->operands[0], *group ? " " : "",
                    *group ? c->operands[1] : "", group, *group ? " " : "");
}

exit_code options_read(cli *c, int argc, char **argv)
{
    int matched;
    c->operand_count = 0;
    c->operands = calloc((size_t)argc + 1, sizeof *c->operands);
    if (!c->operands) return cli_fail(FAILED, "no memory");
    exit_code code = read_arguments(c, argc, argv);
    if (code != DONE) return code;
    const command *found = find_command(c->operands, c->tail, &matched);
    if (!found || given(c, OPT_VERSION)) return no_command(c);
    if (given(c, OPT_HELP)) {
        help_command(stdout, found);
        return DONE;
    }
    c->command = found;
    c->operand_count -= matched;
    c->tail -= matched;
    memmove(c->operands, c->operands + matched, ((size_t)c->operand_count + 1) * sizeof *c->operands);
    code = check_options(c);
    return code == DONE ? check_operands(c) : code;
}
