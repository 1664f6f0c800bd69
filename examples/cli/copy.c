/* pgqrs copy: everything in one store, to another.
 *
 * Nothing is remembered outside of the two stores, so a copy that was cut off is simply begun again: what is in the other store already is
 * left alone. The newest come first, which moves the ids that the other store gives out beyond all that follow.
 */
#include "cli.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RUNS_AT_ONCE 50
#define MESSAGES_AT_ONCE 200

/* What is compared in the end: unfinished messages are one kind, because time makes delayed ones ready. */
enum { SUM_UNFINISHED, SUM_ARCHIVED, SUM_DEAD, SUM_COUNT };

typedef struct sum {
    int64_t count;
    uint64_t check; /* does not depend on the order */
} sum;

typedef struct side {
    pgqrs_config *config;
    pgqrs_store *store;
} side;

typedef struct copying {
    cli *c;
    side from, to;
    int64_t total, done, stored;
    bool progress;
} copying;

/* One line of the report. */
typedef struct copied {
    const char *queue; /* or workflow */
    const char *kind;
    int64_t count;
    const char *check;
    bool equal;
} copied;

const field copied_fields[] = {{"name", FIELD_TEXT, offsetof(copied, queue), FIELD_LISTED | FIELD_CUT, NULL},
                               {"kind", FIELD_TEXT, offsetof(copied, kind), FIELD_LISTED, NULL},
                               {"count", FIELD_INT64, offsetof(copied, count), FIELD_LISTED, NULL},
                               {"checksum", FIELD_TEXT, offsetof(copied, check), FIELD_LISTED, NULL},
                               {"equal", FIELD_BOOL, offsetof(copied, equal), FIELD_LISTED, NULL},
                               {NULL, FIELD_TEXT, 0, 0, NULL}};

static exit_code check(const side *where, pgqrs_result result)
{
    return result == PGQRS_OK ? DONE : cli_error(pgqrs_last_error(where->store));
}

static void show_progress(const copying *job, bool end)
{
    int percent = (int)(job->done >= job->total ? 100 : job->done * 100 / job->total), filled = percent / 4;
    if (!job->progress) return;
    fprintf(stderr, "\r[%.*s%*s] %3d%%  %" PRId64 " messages and runs", filled,
            "=========================", 25 - filled, "", percent, job->done);
    if (end) fputs("\n", stderr);
}

/* --- what is there */

/* Grows with each page; NULL when memory is short. */
static void *append(void *items, size_t count, const void *more, size_t more_count, size_t size)
{
    char *grown = realloc(items, (count + more_count + 1) * size);
    if (!grown) return NULL;
    if (more_count > 0) memcpy(grown + count * size, more, more_count * size);
    return grown;
}

/* The pages a list was read in; their texts live as long. */
typedef struct list {
    void *items;
    size_t count;
    void **pages;
    size_t page_count;
} list;

static void list_free(list *all)
{
    for (size_t i = 0; i < all->page_count; i++)
        pgqrs_free(all->pages[i]);
    free(all->pages);
    free(all->items);
    memset(all, 0, sizeof *all);
}

static exit_code list_add(list *all, void *page, const void *items, size_t count, size_t size)
{
    void *pages = append(all->pages, all->page_count, &page, 1, sizeof page);
    if (!pages) {
        pgqrs_free(page);
        return cli_fail(FAILED, "no memory to list the queues and workflows");
    }
    all->pages = pages;
    all->page_count++;
    void *grown = append(all->items, all->count, items, count, size);
    if (!grown) return cli_fail(FAILED, "no memory to list the queues and workflows");
    all->items = grown;
    all->count += count;
    return DONE;
}

static exit_code list_queues(const side *where, list *all)
{
    exit_code code = DONE;
    size_t got = 1;
    while (code == DONE && got > 0) {
        const pgqrs_queue *last = all->count ? (const pgqrs_queue *)all->items + all->count - 1 : NULL;
        pgqrs_queues *page = NULL;
        code = check(where, pgqrs_queue_list(where->store, last ? last->id : 0, LIST_PAGE, &page));
        got = code == DONE ? page->count : 0;
        if (code == DONE) code = list_add(all, page, page->items, page->count, sizeof *page->items);
    }
    return code;
}

static exit_code list_workflows(const side *where, list *all)
{
    exit_code code = DONE;
    size_t got = 1;
    while (code == DONE && got > 0) {
        const pgqrs_workflow *last = all->count ? (const pgqrs_workflow *)all->items + all->count - 1 : NULL;
        pgqrs_workflows *page = NULL;
        code = check(where, pgqrs_workflow_list(where->store, last ? last->id : 0, LIST_PAGE, &page));
        got = code == DONE ? page->count : 0;
        if (code == DONE) code = list_add(all, page, page->items, page->count, sizeof *page->items);
    }
    return code;
}

/* --- before anything is copied */

static exit_code pause_source(copying *job, const list *queues)
{
    exit_code code = DONE;
    int64_t delivering = 0;
    const pgqrs_queue *queue = queues->items;
    for (size_t i = 0; i < queues->count; i++)
        delivering += !queue[i].settings.paused;
    if (delivering > 0 && !cli_confirmed(job->c, &code, "pause %" PRId64 " of %zu queue%s to copy", delivering,
                                         queues->count, plural((int64_t)queues->count)))
        return code;
    for (size_t i = 0; i < queues->count && code == DONE; i++)
        if (!queue[i].settings.paused) code = check(&job->from, pgqrs_queue_pause(job->from.store, queue[i].name));
    return code;
}

/* Who holds a message goes on working on it, and his verdict would only reach the store that is left behind. */
static exit_code nobody_works(copying *job)
{
    pgqrs_system_metrics numbers;
    exit_code code = check(&job->from, pgqrs_system_metrics_get(job->from.store, &numbers));
    if (code != DONE) return code;
    job->total = numbers.total;
    if (numbers.leased == 0 || given(job->c, OPT_FORCE)) return DONE;
    return cli_fail(FAILED,
                    "%" PRId64
                    " message%s still being worked on; the queues are paused now: run this again when that is "
                    "done, or add --force to deliver again what is not done when its lease ends",
                    numbers.leased, numbers.leased == 1 ? " is" : "s are");
}

static exit_code create_queue(const side *to, const pgqrs_queue *queue)
{
    pgqrs_queue_desc settings = queue->settings;
    pgqrs_queue *there = NULL;
    settings.paused = true;
    exit_code code = check(to, pgqrs_queue_create(to->store, queue->name, &settings));
    if (code == DONE) code = check(to, pgqrs_queue_get(to->store, queue->name, &there));
    if (code == DONE && (!there || !there->settings.paused))
        code = cli_fail(FAILED,
                        "queue \"%s\" is delivering already where it is to be copied to: pause it there, or delete it",
                        queue->name);
    pgqrs_free(there);
    return code;
}

static exit_code prepare_target(copying *job, const list *queues, const list *workflows)
{
    const side *to = &job->to;
    const pgqrs_queue *queue = queues->items;
    const pgqrs_workflow *workflow = workflows->items;
    exit_code code = check(to, pgqrs_install(to->store));
    for (size_t i = 0; i < queues->count && code == DONE; i++)
        code = create_queue(to, &queue[i]);
    for (size_t i = 0; i < workflows->count && code == DONE; i++)
        code = check(to, pgqrs_workflow_create(to->store, workflow[i].name, &workflow[i].settings));
    return code;
}

/* --- runs */

/* A run with all that belongs to it. */
typedef struct whole_run {
    pgqrs_message *message;
    pgqrs_steps *steps;
    pgqrs_run_values *values;
    pgqrs_run_events *events;
} whole_run;

static void free_run(whole_run *run)
{
    pgqrs_free(run->message);
    pgqrs_free(run->steps);
    pgqrs_free(run->values);
    pgqrs_free(run->events);
    memset(run, 0, sizeof *run);
}

static exit_code read_run(const side *from, const pgqrs_run_info *info, whole_run *run, pgqrs_run_image *image)
{
    exit_code code = check(from, pgqrs_message_get(from->store, info->id, &run->message));
    memset(image, 0, sizeof *image);
    if (code == DONE) code = check(from, pgqrs_run_steps(from->store, info->id, &run->steps));
    if (code == DONE) code = check(from, pgqrs_run_values_get(from->store, info->id, &run->values));
    if (code == DONE) code = check(from, pgqrs_run_events_get(from->store, info->id, &run->events));
    if (code != DONE) return code;
    image->run = info;
    image->message = run->message;
    image->steps = run->steps->items;
    image->step_count = run->steps->count;
    image->values = run->values->items;
    image->value_count = run->values->count;
    image->events = run->events->items;
    image->event_count = run->events->count;
    return DONE;
}

static exit_code copy_some_runs(copying *job, const pgqrs_runs *page)
{
    whole_run runs[RUNS_AT_ONCE];
    pgqrs_run_image images[RUNS_AT_ONCE];
    exit_code code = DONE;
    size_t stored = 0;
    memset(runs, 0, sizeof runs);
    for (size_t i = 0; i < page->count && code == DONE; i++)
        code = read_run(&job->from, &page->items[i], &runs[i], &images[i]);
    if (code == DONE) code = check(&job->to, pgqrs_run_import(job->to.store, images, page->count, &stored));
    job->stored += (int64_t)stored;
    for (size_t i = 0; i < page->count; i++)
        free_run(&runs[i]);
    return code;
}

static exit_code copy_runs(copying *job, const char *workflow)
{
    pgqrs_run_filter filter = {.workflow = workflow, .limit = RUNS_AT_ONCE};
    exit_code code = DONE;
    size_t got = 1;
    while (code == DONE && got > 0) {
        pgqrs_runs *page = NULL;
        code = check(&job->from, pgqrs_run_list(job->from.store, &filter, &page));
        got = code == DONE ? page->count : 0;
        if (got > 0) code = copy_some_runs(job, page);
        if (got > 0) filter.after_id = page->items[got - 1].id;
        pgqrs_free(page);
        job->done += (int64_t)got;
        show_progress(job, false);
    }
    return code;
}

/* --- messages */

/* Those of a page that are not in the other page; both are newest first. */
static size_t missing(const pgqrs_messages *page, const pgqrs_messages *there, pgqrs_message *out)
{
    size_t count = 0, j = 0;
    for (size_t i = 0; i < page->count; i++) {
        while (j < there->count && there->items[j].id > page->items[i].id)
            j++;
        if (j == there->count || there->items[j].id != page->items[i].id) out[count++] = page->items[i];
    }
    return count;
}

/* What is there already, runs among it, need not be sent; that it is equal is seen in the end. */
static exit_code copy_some_messages(copying *job, const pgqrs_message_filter *filter, const pgqrs_messages *page)
{
    pgqrs_message items[MESSAGES_AT_ONCE];
    pgqrs_messages *there = NULL;
    size_t stored = 0;
    exit_code code = check(&job->to, pgqrs_message_list(job->to.store, filter, &there));
    size_t count = code == DONE ? missing(page, there, items) : 0;
    if (count > 0) code = check(&job->to, pgqrs_message_import(job->to.store, items, count, &stored));
    pgqrs_free(there);
    job->stored += (int64_t)stored;
    job->done += (int64_t)stored;
    show_progress(job, false);
    return code;
}

static exit_code copy_messages(copying *job, const char *queue)
{
    pgqrs_message_filter filter = {.queue = queue, .limit = MESSAGES_AT_ONCE};
    exit_code code = DONE;
    size_t got = 1;
    while (code == DONE && got > 0) {
        pgqrs_messages *page = NULL;
        code = check(&job->from, pgqrs_message_list(job->from.store, &filter, &page));
        got = code == DONE ? page->count : 0;
        if (got > 0) code = copy_some_messages(job, &filter, page);
        if (got > 0) filter.after_id = page->items[got - 1].id;
        pgqrs_free(page);
    }
    return code;
}

/* --- whether all arrived */

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ byte[i]) * UINT64_C(1099511628211); /* FNV-1a */
    return hash;
}

static uint64_t hash_number(uint64_t hash, int64_t number)
{
    return hash_bytes(hash, &number, sizeof number);
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
    return text ? hash_bytes(hash, text, strlen(text) + 1) : hash_number(hash, -1);
}

#define HASH_START UINT64_C(14695981039346656037)

static uint64_t hash_message(const pgqrs_message *m)
{
    bool finished = m->state == PGQRS_ARCHIVED || m->state == PGQRS_DEAD;
    uint64_t hash = hash_number(HASH_START, m->id);
    hash = hash_number(hash, m->priority);
    hash = hash_number(hash, m->attempt);
    hash = hash_number(hash, m->enqueued_at_us);
    hash = hash_number(hash, finished ? m->finished_at_us : 0);
    hash = hash_text(hash, m->dedup_key);
    hash = hash_text(hash, m->producer);
    hash = hash_text(hash, m->state == PGQRS_ARCHIVED ? NULL : m->reason);
    return hash_text(hash, m->payload);
}

static exit_code sum_messages(const side *where, const char *queue, sum sums[SUM_COUNT])
{
    pgqrs_message_filter filter = {.queue = queue, .limit = MESSAGES_AT_ONCE};
    exit_code code = DONE;
    size_t got = 1;
    while (code == DONE && got > 0) {
        pgqrs_messages *page = NULL;
        code = check(where, pgqrs_message_list(where->store, &filter, &page));
        got = code == DONE ? page->count : 0;
        for (size_t i = 0; i < got; i++) {
            const pgqrs_message *m = &page->items[i];
            sum *total = &sums[m->state == PGQRS_DEAD       ? SUM_DEAD
                               : m->state == PGQRS_ARCHIVED ? SUM_ARCHIVED
                                                            : SUM_UNFINISHED];
            total->count++;
            total->check += hash_message(m);
        }
        if (got > 0) filter.after_id = page->items[got - 1].id;
        pgqrs_free(page);
    }
    return code;
}

static uint64_t hash_run(const pgqrs_run_image *image)
{
    const pgqrs_run_info *run = image->run;
    bool ended = run->state >= PGQRS_RUN_CANCELLED;
    uint64_t hash = hash_number(HASH_START, run->id);
    hash = hash_number(hash, ended ? (int64_t)run->state : 0);
    hash = hash_number(hash, run->triggered_at_us);
    hash = hash_number(hash, run->deadline_at_us);
    hash = hash_number(hash, run->retries);
    hash = hash_text(hash, run->idempotency_key);
    hash = hash_text(hash, run->output);
    hash = hash_text(hash, run->error_code);
    hash = hash_text(hash, run->cancel_reason);
    for (size_t i = 0; i < image->step_count; i++) {
        const pgqrs_step_info *step = &image->steps[i];
        hash = hash_number(hash, step->number);
        hash = hash_number(hash, (int64_t)step->state);
        hash = hash_number(hash, step->retries);
        hash = hash_text(hash_text(hash_text(hash, step->name), step->key), step->output);
    }
    for (size_t i = 0; i < image->value_count; i++)
        hash = hash_text(hash_text(hash, image->values[i].name), image->values[i].value);
    for (size_t i = 0; i < image->event_count; i++)
        hash = hash_text(hash_text(hash, image->events[i].name), image->events[i].payload);
    return hash;
}

static exit_code sum_runs(const side *where, const char *workflow, sum *total)
{
    pgqrs_run_filter filter = {.workflow = workflow, .limit = RUNS_AT_ONCE};
    exit_code code = DONE;
    size_t got = 1;
    while (code == DONE && got > 0) {
        pgqrs_runs *page = NULL;
        code = check(where, pgqrs_run_list(where->store, &filter, &page));
        got = code == DONE ? page->count : 0;
        for (size_t i = 0; i < got && code == DONE; i++) {
            whole_run run;
            pgqrs_run_image image;
            memset(&run, 0, sizeof run);
            code = read_run(where, &page->items[i], &run, &image);
            total->count++;
            if (code == DONE) total->check += hash_run(&image);
            free_run(&run);
        }
        if (got > 0) filter.after_id = page->items[got - 1].id;
        pgqrs_free(page);
    }
    return code;
}

static bool report(copying *job, const char *name, const char *kind, const sum *there, const sum *here)
{
    char checksum[20];
    copied line = {.queue = name, .kind = kind, .count = here->count, .check = checksum};
    line.equal = there->count == here->count && there->check == here->check;
    snprintf(checksum, sizeof checksum, "%016" PRIx64, here->check);
    output_rows(&job->c->out, &line, 1, sizeof line);
    return line.equal;
}

static exit_code compare_queue(copying *job, const char *queue, bool *equal)
{
    static const char *const names[] = {"unfinished", "archived", "dead"};
    sum there[SUM_COUNT], here[SUM_COUNT];
    memset(there, 0, sizeof there);
    memset(here, 0, sizeof here);
    exit_code code = sum_messages(&job->from, queue, there);
    if (code == DONE) code = sum_messages(&job->to, queue, here);
    for (int i = 0; i < SUM_COUNT && code == DONE; i++)
        *equal = report(job, queue, names[i], &there[i], &here[i]) && *equal;
    return code;
}

static exit_code compare_workflow(copying *job, const char *workflow, bool *equal)
{
    sum there = {0, 0}, here = {0, 0};
    exit_code code = sum_runs(&job->from, workflow, &there);
    if (code == DONE) code = sum_runs(&job->to, workflow, &here);
    if (code == DONE) *equal = report(job, workflow, "runs", &there, &here) && *equal;
    return code;
}

static exit_code compare(copying *job, const list *queues, const list *workflows)
{
    bool equal = true;
    exit_code code = DONE;
    const pgqrs_queue *queue = queues->items;
    const pgqrs_workflow *workflow = workflows->items;
    output_begin(&job->c->out, copied_fields);
    for (size_t i = 0; i < queues->count && code == DONE; i++)
        code = compare_queue(job, queue[i].name, &equal);
    for (size_t i = 0; i < workflows->count && code == DONE; i++)
        code = compare_workflow(job, workflow[i].name, &equal);
    output_end(&job->c->out);
    if (code != DONE || equal) return code;
    return cli_fail(FAILED,
                    "the stores are not equal: something still writes to one of them. Stop that, and run this again");
}

/* --- the command */

static exit_code copy_all(copying *job, const list *queues, const list *workflows)
{
    const pgqrs_queue *queue = queues->items;
    const pgqrs_workflow *workflow = workflows->items;
    exit_code code = pause_source(job, queues);
    if (code == DONE) code = nobody_works(job);
    if (code == DONE) code = prepare_target(job, queues, workflows);
    for (size_t i = 0; i < workflows->count && code == DONE; i++)
        code = copy_runs(job, workflow[i].name);
    for (size_t i = 0; i < queues->count && code == DONE; i++)
        code = copy_messages(job, queue[i].name);
    if (code == DONE) job->done = job->total;
    show_progress(job, true);
    if (code == DONE) code = compare(job, queues, workflows);
    if (code == DONE)
        fprintf(stderr,
                "pgqrs: %" PRId64 " %s stored, the others were there; the queues are paused in both "
                "stores. To go on in the new one: pgqrs queue resume --all, with its --dsn\n",
                job->stored, job->stored == 1 ? "message or run was" : "messages and runs were");
    return code;
}

/* Only on Postgres are there several stores behind one DSN. */
static bool same(const side *one, const side *other)
{
    if (strcmp(one->config->dsn, other->config->dsn) != 0) return false;
    return strcmp(pgqrs_store_backend(one->store), "postgres") != 0 ||
           strcmp(pgqrs_store_settings(one->store)->schema, pgqrs_store_settings(other->store)->schema) == 0;
}

static exit_code open_both(copying *job)
{
    cli *c = job->c;
    side *from = &job->from, *to = &job->to;
    exit_code code = cli_open(c, c->operands[0], c->options[OPT_FROM_SCHEMA].text, false, &from->config, &from->store);
    if (code == DONE) code = cli_open(c, c->operands[1], c->options[OPT_TO_SCHEMA].text, true, &to->config, &to->store);
    if (code == DONE && same(from, to))
        return cli_fail(USAGE, "both are the same store: it cannot be copied to itself");
    return code;
}

exit_code copy(cli *c)
{
    copying job;
    list queues, workflows;
    memset(&job, 0, sizeof job);
    memset(&queues, 0, sizeof queues);
    memset(&workflows, 0, sizeof workflows);
    job.c = c;
    job.progress = isatty(STDERR_FILENO) != 0;
    exit_code code = open_both(&job);
    if (code == DONE) code = list_queues(&job.from, &queues);
    if (code == DONE) code = list_workflows(&job.from, &workflows);
    if (code == DONE) code = copy_all(&job, &queues, &workflows);
    list_free(&queues);
    list_free(&workflows);
    pgqrs_close(job.from.store);
    pgqrs_close(job.to.store);
    pgqrs_free(job.from.config);
    pgqrs_free(job.to.config);
    return code;
}
