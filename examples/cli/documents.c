/* The manual page and the completions for shells, written from the tables of commands and options: they never say anything else than
 * --help.
 *
 *     pgqrs manual | man -l -
 *     source <(pgqrs completion bash)
 */
#include "cli.h"
#include <string.h>

/* --- manual page (man(7)) */

/* Backslashes, and dots and quotes at the start of a line, mean something to troff; "-" would become a hyphen. */
static void write_roff(FILE *file, const char *text)
{
    if (*text == '.' || *text == '\'') fputs("\\&", file);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", file);
        else if (*text == '-')
            fputs("\\-", file);
        else
            fputc(*text, file);
    }
}

static void write_option(FILE *file, option_id id)
{
    const option_info *o = option_about(id);
    fputs(".TP\n", file);
    if (o->letter) fprintf(file, "\\fB\\-%c\\fR, ", o->letter);
    fputs("\\fB\\-\\-", file);
    write_roff(file, o->name);
    fputs("\\fR", file);
    if (o->value) fprintf(file, " \\fI%s\\fR", o->value);
    fputs("\n", file);
    write_roff(file, o->help);
    fputs("\n", file);
}

static void write_command(FILE *file, const command *cmd)
{
    fputs(".TP\n\\fBpgqrs ", file);
    write_roff(file, cmd->words);
    fputs("\\fR \\fI", file);
    write_roff(file, cmd->operands);
    fputs("\\fR\n", file);
    write_roff(file, cmd->help);
    fputs(".\n", file);
    if (command_note(cmd)) write_roff(file, command_note(cmd));
    for (size_t i = 0; i < sizeof cmd->options && cmd->options[i] != OPT_NONE; i++) {
        const option_info *o = option_about((option_id)cmd->options[i]);
        fputs(i == 0 ? "Options: " : ", ", file);
        fputs("\\fB\\-\\-", file);
        write_roff(file, o->name);
        fputs("\\fR", file);
    }
    fputs(cmd->options[0] != OPT_NONE ? ".\n" : "", file);
    for (const field *f = cmd->fields; f && f->name; f++)
        fprintf(file, "%s%s%s", f == cmd->fields ? "Fields: " : "", f->name, f[1].name ? ",\n" : ".\n");
}

static const char manual_head[] =
    ".SH NAME\npgqrs \\- queues, messages, workers and workflows from a shell\n"
    ".SH SYNOPSIS\n.B pgqrs\n.I command\n.RI [ option ...]\n.RI [ argument ...]\n"
    ".SH DESCRIPTION\n"
    "A durable queue and workflow engine keeps its state in a file of SQLite, a schema of Postgres or an object in a bucket. This "
    "tool looks into it, "
    "sends and takes messages, mends what went wrong, and runs a command for each message of a queue.\n"
    ".PP\nThe store is named by a DSN. The command line wins over the environment, the environment over the "
    "configuration file, "
    "field by field.\n"
    ".PP\nDurations are written 250ms, 30s, 5m, 1h30m, 7d; a bare number is seconds.\n";

static const char manual_tail[] =
    ".SH OUTPUT\n"
    "Tables are for people. With \\fB\\-\\-format\\fR json, jsonl (an object a line) or csv the names of the fields "
    "are stable; times are UTC, ISO "
    "8601; members named _ms are milliseconds; the token of a lease is a string, because it is larger than what many "
    "readers keep "
    "of a number.\n"
    ".SH EXIT STATUS\n.TP\n0\ndone\n.TP\n1\nfailed\n.TP\n2\nwrong usage or configuration\n.TP\n3\nnot "
    "found\n.TP\n4\nno connection\n"
    ".SH ENVIRONMENT\nPGQRS_DSN, PGQRS_SCHEMA, PGQRS_CONFIG_FILE and the other variables of the library; NO_COLOR.\n"
    ".PP\nFor a bucket: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL_S3, "
    "PGQRS_S3_MODE (durable, local), PGQRS_S3_CACHE_DIR.\n"
    ".SH FILES\n\\&./pgqrs.yaml, ./pgqrs.yml\n"
    ".SH EXAMPLES\n.nf\n"
    "export PGQRS_DSN=sqlite://jobs.db\n"
    "pgqrs install && pgqrs queue create mail\n"
    "pgqrs message send mail '{\"to\":\"ada@example.com\"}'\n"
    "pgqrs work mail \\-\\-jobs 4 \\-\\- ./send\\-mail.sh\n"
    "pgqrs doctor\n.fi\n";

exit_code manual(cli *c)
{
    FILE *file = c->out.file;
    fprintf(file, ".TH PGQRS 1 \"\" \"pgqrs %s\"\n%s.SH COMMANDS\n", pgqrs_version(), manual_head);
    for (size_t i = 0; i < command_count; i++)
        write_command(file, &commands[i]);
    fputs(".SH OPTIONS\nIn every command:\n", file);
    for (int id = OPT_NONE + 1; id < OPT_COUNT_OF_OPTIONS; id++) {
        if (id == OPT_LAST_GLOBAL + 1) fputs(".SS Options of some commands\n", file);
        write_option(file, (option_id)id);
    }
    fputs(manual_tail, file);
    return DONE;
}

/* --- completion: a function that finds the words before the cursor, and one case for each of them */

static bool starts_group(size_t index, size_t *length)
{
    const char *words = commands[index].words;
    *length = strcspn(words, " ");
    if (words[*length] == 0) return false;
    return index == 0 || strncmp(commands[index - 1].words, words, *length + 1) != 0;
}

/* "install queue message ...": what may stand first. */
static void write_first_words(FILE *file,
                              void (*write_one)(FILE *file, const char *word, size_t length, const char *help))
{
    size_t length;
    for (size_t i = 0; i < command_count; i++) {
        bool group = starts_group(i, &length);
        if (group) write_one(file, commands[i].words, length, "commands about it");
        if (commands[i].words[length] == 0) write_one(file, commands[i].words, length, commands[i].help);
    }
}

static void write_second_words(FILE *file, const char *group, size_t length,
                               void (*write_one)(FILE *file, const char *word, size_t length, const char *help))
{
    for (size_t i = 0; i < command_count; i++)
        if (strncmp(commands[i].words, group, length) == 0 && commands[i].words[length] == ' ')
            write_one(file, commands[i].words + length + 1, strlen(commands[i].words + length + 1), commands[i].help);
}

static void write_options(FILE *file, const unsigned char *ids, size_t count,
                          void (*write_one)(FILE *file, const char *word, size_t length, const char *help))
{
    char word[64];
    for (size_t i = 0; i < count && ids[i] != OPT_NONE; i++) {
        const option_info *o = option_about((option_id)ids[i]);
        snprintf(word, sizeof word, "--%s", o->name);
        write_one(file, word, strlen(word), o->help);
    }
}

static size_t global_options(unsigned char *ids)
{
    size_t count = 0;
    for (int id = OPT_NONE + 1; id <= OPT_LAST_GLOBAL; id++)
        ids[count++] = (unsigned char)id;
    return count;
}

/* A pattern of a shell's `case`: -d|--dsn|... */
static void write_valued(FILE *file)
{
    const char *bar = "";
    for (int id = OPT_NONE + 1; id < OPT_COUNT_OF_OPTIONS; id++) {
        const option_info *o = option_about((option_id)id);
        if (!o->value) continue;
        fprintf(file, "%s--%s", bar, o->name);
        bar = "|";
        if (o->letter) fprintf(file, "|-%c", o->letter);
    }
}

static void write_plain(FILE *file, const char *word, size_t length, const char *help)
{
    (void)help;
    fprintf(file, " %.*s", (int)length, word);
}

/* zsh: 'word:help', in single quotes. */
static void write_described(FILE *file, const char *word, size_t length, const char *help)
{
    fprintf(file, " '%.*s:", (int)length, word);
    for (; *help; help++) {
        if (*help == '\'')
            fputs("'\\''", file);
        else if (*help == ':')
            fputs("\\:", file);
        else
            fputc(*help, file);
    }
    fputs("'", file);
}

/* What each `case` begins with, and how a word and the end are written. */
typedef struct dialect {
    const char *before, *after;
    void (*write_one)(FILE *file, const char *word, size_t length, const char *help);
} dialect;

static void write_word_cases(FILE *file, const dialect *d)
{
    size_t length;
    fprintf(file, "    '')%s", d->before);
    write_first_words(file, d->write_one);
    fputs(d->after, file);
    for (size_t i = 0; i < command_count; i++) {
        if (!starts_group(i, &length)) continue;
        fprintf(file, "    '%.*s ')%s", (int)length, commands[i].words, d->before);
        write_second_words(file, commands[i].words, length, d->write_one);
        fputs(d->after, file);
    }
}

static void write_option_cases(FILE *file, const dialect *d)
{
    unsigned char globals[OPT_LAST_GLOBAL];
    size_t count = global_options(globals);
    for (size_t i = 0; i < command_count; i++) {
        fprintf(file, "    '%s '*)%s", commands[i].words, d->before);
        write_options(file, commands[i].options, sizeof commands[i].options, d->write_one);
        write_options(file, globals, count, d->write_one);
        fputs(d->after, file);
    }
    fprintf(file, "    *)%s", d->before);
    write_options(file, globals, count, d->write_one);
    fputs(d->after, file);
}

static void write_choice_cases(FILE *file, const dialect *d)
{
    for (int id = OPT_NONE + 1; id < OPT_COUNT_OF_OPTIONS; id++) {
        const option_info *o = option_about((option_id)id);
        if (o->kind != KIND_CHOICE) continue;
        fprintf(file, "    --%s)%s", o->name, d->before);
        for (const char *word = o->value; *word; word += strcspn(word, "|") + (word[strcspn(word, "|")] == '|'))
            d->write_one(file, word, strcspn(word, "|"), "");
        fputs(d->after, file);
    }
}

static void write_bash(FILE *file)
{
    static const dialect bash = {" words=\"", "\" ;;\n", write_plain};
    fputs("# pgqrs(1), completion for bash\n_pgqrs()\n{\n"
          "    # The line itself, because bash splits words at the colon of a DSN.\n"
          "    local line=${COMP_LINE:0:COMP_POINT} current= before= skip= last= word words= all\n"
          "    COMPREPLY=()\n"
          "    read -ra all <<<\"$line\"\n"
          "    case $line in *[[:space:]]) ;; *) current=${all[${#all[@]} - 1]} && unset 'all[${#all[@]}-1]' ;; esac\n"
          "    for word in \"${all[@]:1}\"; do\n"
          "        last=$word\n"
          "        if [ -n \"$skip\" ]; then skip= && continue; fi\n"
          "        case $word in\n"
          "        --) return ;;\n        ",
          file);
    write_valued(file);
    fputs(") skip=1 ;;\n        -*) ;;\n        *) before=\"$before$word \" ;;\n        esac\n    done\n"
          "    if [ -n \"$skip\" ]; then\n        case $last in\n",
          file);
    write_choice_cases(file, &bash);
    fputs("        --out|--log-dest|--config|-c|--file|-f) COMPREPLY=($(compgen -f -- \"$current\")) && return ;;\n    "
          "    esac\n"
          "    else case $current in\n    -*) case $before in\n",
          file);
    write_option_cases(file, &bash);
    fputs("    esac ;;\n    *) case $before in\n", file);
    write_word_cases(file, &bash);
    fputs("    esac ;;\n    esac; fi\n"
          "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
          "}\ncomplete -F _pgqrs pgqrs\n",
          file);
}

static void write_zsh(FILE *file)
{
    static const dialect zsh = {" found=(", ") ;;\n", write_described};
    fputs("#compdef pgqrs\n# pgqrs(1), completion for zsh\n_pgqrs()\n{\n"
          "    local -a found\n"
          "    local before= skip= last= word\n"
          "    for word in \"${(@)words[2,CURRENT-1]}\"; do\n"
          "        last=$word\n"
          "        if [[ -n $skip ]]; then skip=; continue; fi\n"
          "        case $word in\n"
          "        --) _normal; return ;;\n        ",
          file);
    write_valued(file);
    fputs(") skip=1 ;;\n        -*) ;;\n        *) before=\"$before$word \" ;;\n        esac\n    done\n"
          "    if [[ -n $skip ]]; then\n        case $last in\n",
          file);
    write_choice_cases(file, &zsh);
    fputs("        --out|--log-dest|--config|-c|--file|-f) _files; return ;;\n        esac\n"
          "    elif [[ $PREFIX == -* ]]; then case $before in\n",
          file);
    write_option_cases(file, &zsh);
    fputs("    esac\n    else case $before in\n", file);
    write_word_cases(file, &zsh);
    fputs("    esac; fi\n    (( $#found )) && _describe -t commands 'pgqrs' found\n}\n"
          "if [[ $funcstack[1] == _pgqrs ]]; then _pgqrs \"$@\"; else compdef _pgqrs pgqrs; fi\n",
          file);
}

exit_code completion(cli *c)
{
    if (strcmp(c->operands[0], "bash") == 0)
        write_bash(c->out.file);
    else if (strcmp(c->operands[0], "zsh") == 0)
        write_zsh(c->out.file);
    else
        return cli_fail(USAGE, "there are completions for bash and zsh, none for \"%s\"", c->operands[0]);
    return DONE;
}
