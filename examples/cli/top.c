/* pgqrs top: queues, workers and runs, seen live. Tab chooses which of them gets the room, the arrows scroll it.
 *
 * A store that does not answer is no reason to end: the last line says so, what was seen last stays, and it is asked again.
 */
#include "cli.h"
#include <curses.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INTERVAL_MS 2000
#define STALE_MS 60000
#define ROWS_MAX 500  /* of workers and runs: more fit no screen */
#define FAILED_MAX 20 /* runs that failed, behind those that are under way */

typedef enum section { QUEUES, WORKERS, RUNS, SECTIONS } section;

/* What was seen at one time; any member may be NULL. */
typedef struct sight {
    int64_t now_us;
    pgqrs_system_metrics system;
    pgqrs_metrics *queues;
    pgqrs_workers *workers;
    pgqrs_runs *runs;   /* that have not ended */
    pgqrs_runs *failed; /* the last ones */
} sight;

typedef struct screen {
    cli *c;
    int64_t interval_ms;
    section focus;
    size_t first; /* row of the section in focus that is shown first */
    sight now, before;
    char error[PGQRS_ERROR_MESSAGE_SIZE]; /* "": none */
    bool colors;
} screen;

/* --- looking */

static void drop(sight *s)
{
    pgqrs_free(s->queues);
    pgqrs_free(s->workers);
    pgqrs_free(s->runs);
    pgqrs_free(s->failed);
    memset(s, 0, sizeof *s);
}

static pgqrs_result see(pgqrs_store *store, sight *s)
{
    pgqrs_worker_filter workers = {.limit = ROWS_MAX};
    pgqrs_run_filter runs = {.open = true, .limit = ROWS_MAX};
    pgqrs_run_filter failed = {.state = PGQRS_RUN_ERROR, .limit = FAILED_MAX};
    pgqrs_result result = pgqrs_store_now(store, &s->now_us);
    if (!result) result = pgqrs_system_metrics_get(store, &s->system);
    if (!result) result = pgqrs_metrics_get(store, NULL, &s->queues);
    if (!result) result = pgqrs_worker_list(store, &workers, &s->workers);
    if (!result) result = pgqrs_run_list(store, &runs, &s->runs);
    if (!result) result = pgqrs_run_list(store, &failed, &s->failed);
    return result;
}

static void look(screen *s)
{
    sight next;
    memset(&next, 0, sizeof next);
    if (see(s->c->store, &next) != PGQRS_OK) {
        snprintf(s->error, sizeof s->error, "%s", pgqrs_last_error(s->c->store)->message);
        cli_reword(s->error, sizeof s->error);
        drop(&next);
        return;
    }
    s->error[0] = 0;
    drop(&s->before);
    s->before = s->now;
    s->now = next;
}

/* --- writing */

/* A text of at most `width` columns at a place, filled up with blanks; on the right for numbers. */
static void put(int y, int x, int width, bool right, const char *text)
{
    int used, room = COLS - x;
    /* Half a number says something else than the whole: on a narrow terminal the last columns are left out. */
    if (room <= 0 || width <= 0 || (right && width > room)) return;
    char *plain = output_plain(text);
    if (!plain) return;
    if (width > room) width = room;
    size_t length = output_fit(plain, width, &used);
    mvaddnstr(y, right ? x + width - used : x, plain, (int)length);
    free(plain);
}

static void putf(int y, int x, int width, bool right, const char *format, ...) CLI_PRINTF(5, 6);
static void putf(int y, int x, int width, bool right, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put(y, x, width, right, text);
}

static void put_age(int y, int x, int width, int64_t ms)
{
    char text[UNITS_ROOM];
    units_write_duration(text, sizeof text, ms > 0 ? ms : 0);
    put(y, x, width, true, text);
}

/* Names get what the numbers, which need `fixed` columns, leave. */
static int name_width(int fixed)
{
    int left = COLS - fixed;
    return left < 8 ? 8 : left > 40 ? 40 : left;
}

static void alarm_on(const screen *s, bool yes)
{
    if (yes) attron(s->colors ? COLOR_PAIR(1) : A_BOLD);
}

static void alarm_off(const screen *s, bool yes)
{
    if (yes) attroff(s->colors ? COLOR_PAIR(1) : A_BOLD);
}

/* --- queues */

/* How many of a queue were archived each second since the look before. */
static double done_per_second(const screen *s, const pgqrs_queue_metrics *m)
{
    int64_t passed_us = s->now.now_us - s->before.now_us;
    if (!s->before.queues || passed_us <= 0) return 0;
    for (size_t i = 0; i < s->before.queues->count; i++) {
        const pgqrs_queue_metrics *old = &s->before.queues->items[i];
        if (strcmp(old->queue, m->queue) == 0 && m->archived > old->archived)
            return (double)(m->archived - old->archived) * 1e6 / (double)passed_us;
    }
    return 0;
}

static const char *const queue_heads[] = {"ready",    "delayed", "leased",  "dead",
                                          "archived", "done/s",  "workers", "oldest"};
#define QUEUE_COLUMN 9
#define QUEUE_COLUMNS 8

static void queue_head(int y)
{
    int width = name_width(QUEUE_COLUMNS * QUEUE_COLUMN);
    put(y, 0, width, false, "QUEUE");
    for (int i = 0; i < QUEUE_COLUMNS; i++)
        put(y, width + i * QUEUE_COLUMN, QUEUE_COLUMN, true, queue_heads[i]);
}

static void queue_row(const screen *s, int y, size_t row)
{
    const pgqrs_queue_metrics *m = &s->now.queues->items[row];
    const int64_t counts[] = {m->ready, m->delayed, m->leased, m->dead, m->archived};
    int width = name_width(QUEUE_COLUMNS * QUEUE_COLUMN), x = width;
    bool alarming = m->dead > 0 || (m->ready > 0 && m->live_workers == 0);
    alarm_on(s, alarming);
    putf(y, 0, width, false, "%s%s", m->queue, m->paused ? " (paused)" : "");
    for (int i = 0; i < 5; i++, x += QUEUE_COLUMN)
        putf(y, x, QUEUE_COLUMN, true, "%" PRId64, counts[i]);
    putf(y, x, QUEUE_COLUMN, true, "%.1f", done_per_second(s, m));
    putf(y, x + QUEUE_COLUMN, QUEUE_COLUMN, true, "%" PRId64, m->live_workers);
    if (m->oldest_ready_ms > 0) put_age(y, x + 2 * QUEUE_COLUMN, QUEUE_COLUMN, m->oldest_ready_ms);
    alarm_off(s, alarming);
}

/* --- workers */

#define WORKER_FIXED 40

static void worker_head(int y)
{
    int width = name_width(WORKER_FIXED) / 2;
    put(y, 0, 8, true, "WORKER");
    put(y, 9, width, false, "name");
    put(y, 10 + width, width, false, "queue");
    put(y, 11 + 2 * width, 12, false, "state");
    put(y, 23 + 2 * width, 6, true, "held");
    put(y, 29 + 2 * width, 10, true, "heartbeat");
}

static void worker_row(const screen *s, int y, size_t row)
{
    const pgqrs_worker_info *w = &s->now.workers->items[row];
    int width = name_width(WORKER_FIXED) / 2;
    int64_t age_ms = (s->now.now_us - w->heartbeat_at_us) / 1000;
    /* in a bucket one that holds nothing is silent for longer, and not among the stale ones */
    bool alarming = w->state != PGQRS_WORKER_STOPPED && age_ms > STALE_MS && s->now.system.workers.stale > 0;
    alarm_on(s, alarming);
    putf(y, 0, 8, true, "%" PRId64, w->id);
    put(y, 9, width, false, w->name);
    put(y, 10 + width, width, false, w->queue ? w->queue : "-");
    put(y, 11 + 2 * width, 12, false, pgqrs_worker_state_name(w->state));
    putf(y, 23 + 2 * width, 6, true, "%" PRId64, w->held);
    put_age(y, 29 + 2 * width, 10, age_ms);
    alarm_off(s, alarming);
}

/* --- runs */

#define RUN_FIXED 42

static void run_head(int y)
{
    int width = name_width(RUN_FIXED) / 2;
    put(y, 0, 8, true, "RUN");
    put(y, 9, width, false, "workflow");
    put(y, 10 + width, 11, false, "state");
    put(y, 22 + width, 10, true, "age");
    put(y, 33 + width, COLS - 33 - width, false, "waits for");
}

static void run_row(const screen *s, int y, size_t row)
{
    const pgqrs_runs *open = s->now.runs;
    const pgqrs_run_info *r = row < open->count ? &open->items[row] : &s->now.failed->items[row - open->count];
    int width = name_width(RUN_FIXED) / 2, rest = COLS - 33 - width;
    alarm_on(s, r->state == PGQRS_RUN_ERROR);
    putf(y, 0, 8, true, "%" PRId64, r->id);
    put(y, 9, width, false, r->workflow);
    put(y, 10 + width, 11, false, pgqrs_run_state_name(r->state));
    put_age(y, 22 + width, 10, (s->now.now_us - r->triggered_at_us) / 1000);
    if (r->state == PGQRS_RUN_PAUSED)
        putf(y, 33 + width, rest, false, "%s %s", pgqrs_run_wait_name(r->wait), r->wait_name ? r->wait_name : "");
    else if (r->error_code)
        putf(y, 33 + width, rest, false, "%s: %s", r->error_code, r->error_message ? r->error_message : "");
    alarm_off(s, r->state == PGQRS_RUN_ERROR);
}

/* --- the whole */

static const struct {
    void (*head)(int y);
    void (*row)(const screen *s, int y, size_t row);
} sections[SECTIONS] = {{queue_head, queue_row}, {worker_head, worker_row}, {run_head, run_row}};

static size_t rows_of(const sight *s, section which)
{
    switch (which) {
    case QUEUES:
        return s->queues ? s->queues->count : 0;
    case WORKERS:
        return s->workers ? s->workers->count : 0;
    case RUNS:
        return s->runs && s->failed ? s->runs->count + s->failed->count : 0;
    case SECTIONS:
        break;
    }
    return 0;
}

static int draw_section(const screen *s, section which, int y, int height)
{
    size_t count = rows_of(&s->now, which), first = which == s->focus ? s->first : 0;
    attron(which == s->focus ? A_REVERSE : A_BOLD);
    mvhline(y, 0, ' ', COLS);
    sections[which].head(y++);
    attroff(which == s->focus ? A_REVERSE : A_BOLD);
    for (size_t i = first; i < count && height > 1; i++, height--)
        sections[which].row(s, y++, i);
    return y;
}

/* The two sections out of focus get up to a quarter of the lines each, the one in focus what is left. */
static int height_of(const screen *s, section which, int lines)
{
    int wants[SECTIONS], quarter = lines / 4 < 2 ? 2 : lines / 4, others = 0;
    for (int i = 0; i < SECTIONS; i++) {
        size_t rows = rows_of(&s->now, (section)i);
        wants[i] = rows + 1 < (size_t)quarter ? (int)rows + 1 : quarter;
        if ((section)i != s->focus) others += wants[i] + 1;
    }
    return which == s->focus ? lines - others : wants[which];
}

static void draw_top(const screen *s)
{
    const pgqrs_system_metrics *m = &s->now.system;
    int64_t live = m->workers.total - m->workers.stopped;
    char when[UNITS_ROOM];
    units_write_iso(when, sizeof when, s->now.now_us);
    putf(0, 0, COLS, false, "pgqrs top on %s, %.19sZ", pgqrs_store_backend(s->c->store), s->now.now_us ? when : "");
    putf(1, 0, COLS, false,
         "%" PRId64 " queue%s: %" PRId64 " ready, %" PRId64 " delayed, %" PRId64 " leased, %" PRId64 " dead, %" PRId64
         " archived; %" PRId64 " worker%s, %" PRId64 " stale",
         m->queues, plural(m->queues), m->ready, m->delayed, m->leased, m->dead, m->archived, live, plural(live),
         m->workers.stale);
}

static void draw(const screen *s)
{
    int y = 3, lines = LINES - 4;
    erase();
    draw_top(s);
    for (int i = 0; i < SECTIONS; i++) {
        int height = height_of(s, (section)i, lines);
        if (height > 0 && y < LINES - 1) y = draw_section(s, (section)i, y, height) + 1;
    }
    alarm_on(s, s->error[0] != 0);
    put(LINES - 1, 0, COLS - 1, false,
        s->error[0] ? s->error : "q quit   Tab next section   arrows scroll   space look now");
    alarm_off(s, s->error[0] != 0);
    refresh();
}

/* --- keys */

static void scroll_by(screen *s, int by)
{
    size_t count = rows_of(&s->now, s->focus), away = by < 0 ? (size_t)-by : (size_t)by;
    if (by < 0)
        s->first = s->first > away ? s->first - away : 0;
    else
        s->first = s->first + away < count ? s->first + away : count > 0 ? count - 1 : 0;
}

/* False: the end. True and *again: it is time to look again. */
static bool handle_key(screen *s, int key, bool *again)
{
    *again = key == ERR || key == ' ';
    switch (key) {
    case 'q':
    case 'Q':
        return false;
    case '\t':
        s->focus = (section)((s->focus + 1) % SECTIONS);
        s->first = 0;
        break;
    case KEY_UP:
        scroll_by(s, -1);
        break;
    case KEY_DOWN:
        scroll_by(s, 1);
        break;
    case KEY_PPAGE:
        scroll_by(s, -LINES / 2);
        break;
    case KEY_NPAGE:
        scroll_by(s, LINES / 2);
        break;
    case KEY_HOME:
        s->first = 0;
        break;
    default:
        break;
    }
    return true;
}

static void watch(screen *s)
{
    bool again = true;
    do {
        if (again) look(s);
        if (s->first >= rows_of(&s->now, s->focus)) s->first = 0;
        draw(s);
        timeout((int)s->interval_ms);
    } while (!cli_interrupted() && handle_key(s, getch(), &again) && !cli_interrupted());
}

static void begin(screen *s)
{
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    curs_set(0);
    s->colors = s->c->out.color && has_colors() && start_color() == OK && use_default_colors() == OK;
    if (s->colors) init_pair(1, COLOR_RED, -1);
}

exit_code top(cli *c)
{
    screen s = {.c = c, .interval_ms = given(c, OPT_INTERVAL) ? number_of(c, OPT_INTERVAL) : INTERVAL_MS};
    if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))
        return cli_fail(USAGE, "top needs a terminal; for scripts there is: pgqrs queue metrics --format json");
    /* What cannot be asked even once is said without a screen. */
    look(&s);
    if (s.error[0]) return cli_fail(FAILED, "%s", s.error);
    SCREEN *terminal = newterm(NULL, stdout, stdin);
    if (!terminal) {
        drop(&s.now);
        return cli_fail(FAILED, "this terminal is not known: set TERM, for example to xterm");
    }
    begin(&s);
    cli_catch_signals(c);
    watch(&s);
    endwin();
    delscreen(terminal);
    drop(&s.now);
    drop(&s.before);
    return DONE;
}
