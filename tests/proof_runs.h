/* Workflow runs of a proof: four steps, the second one moves money in its transaction. */
#ifndef PGQRS_PROOF_RUNS_H
#define PGQRS_PROOF_RUNS_H

#include "proof_queue.h"

enum { STEPS = 4, MONEY_STEP = 2 };
static const char *const step_names[STEPS + 1] = {"", "reserve", "move", "print", "tell"};
#define WORKFLOW "transfer"

/* What a worker's function needs to know. */
typedef struct run_worker {
    actor *self;
    bool sleepwalks; /* stops itself inside of bodies until the lease is over */
} run_worker;

static void effects_table(char *name, size_t size)
{
    if (W.server)
        snprintf(name, size, "%s.proof_effects", W.place);
    else
        snprintf(name, size, "proof_effects");
}

/* One row for each time it happens: nothing but the step's transaction keeps a second one out. */
static bool move_money(pgqrs_run *run, actor *self)
{
    char table[700], sql[900];
    struct pg_conn *connection = pgqrs_run_pgconn(run);
    struct sqlite3 *database = pgqrs_run_sqlite3(run);
    effects_table(table, sizeof(table));
    snprintf(sql, sizeof(sql), "INSERT INTO %s(run_id, process) VALUES (%" PRId64 ", %d)", table, pgqrs_run_id(run), self->process);
    if (connection) {
        PGresult *result = PQexec(connection, sql);
        bool good = PQresultStatus(result) == PGRES_COMMAND_OK;
        PQclear(result);
        return good;
    }
    return database && sqlite3_exec(database, sql, NULL, NULL, NULL) == SQLITE_OK;
}

static void note_run(actor *self, proof_op op, int64_t id, int32_t step, int64_t tag, int64_t ms)
{
    proof_record r;
    memset(&r, 0, sizeof(r));
    r.mark = '.', r.op = op, r.id = id, r.count = step, r.tag = tag, r.ms = ms;
    note(self, r);
}

static int dice_of(actor *self, int limit)
{
    int value;
    pthread_mutex_lock(&self->lock);
    value = below(&self->random, limit);
    pthread_mutex_unlock(&self->lock);
    return value;
}

static int64_t tag_of(actor *self)
{
    int64_t tag;
    pthread_mutex_lock(&self->lock);
    tag = new_tag(self);
    pthread_mutex_unlock(&self->lock);
    return tag;
}

/* After the lease: nothing the run still says may count. */
static void say_everything_late(pgqrs_run *run, actor *self)
{
    const char *output = "";
    expect_refused(self, "pgqrs_run_flush", pgqrs_run_flush(run));
    expect_refused(self, "pgqrs_run_extend", pgqrs_run_extend(run, LEASE_MS));
    expect_refused(self, "pgqrs_run_set", pgqrs_run_set(run, "late", "true"));
    if (pgqrs_step(run, "late", &output) || output) {
        __sync_fetch_and_add(&W.page->unexpected, 1);
        fprintf(stderr, "# UNEXPECTED: process %d got a step of a run that it has lost\n", self->process);
    }
    expect_refused(self, "pgqrs_run_status", pgqrs_run_status(run));
}

/* The body of step k. False: the function is to be left. */
static bool do_step(pgqrs_run *run, run_worker *worker, int32_t k, int64_t asked_us)
{
    actor *self = worker->self;
    int64_t tag = tag_of(self), id = pgqrs_run_id(run);
    char output[64];
    bool stored;
    note_run(self, PROOF_BODY, id, k, tag, asked_us);
    nap_us(dice_of(self, 6000));
    if (k == MONEY_STEP && !move_money(run, self)) {
        pgqrs_step_fail(run, &(pgqrs_failure){.code = "MONEY", .transient = true});
        return false;
    }
    if (dice_of(self, 100) < 3) {
        pgqrs_step_fail(run, &(pgqrs_failure){.code = "DICE", .transient = true});
        return false;
    }
    /* A transaction that stands still would hold up everybody on SQLite. */
    if (worker->sleepwalks && (W.server || k != MONEY_STEP) && dice_of(self, 100) < 30) {
        sleepwalk();
        if (W.server || !W.sleepers_freeze) {
            snprintf(output, sizeof(output), "{\"tag\":%" PRId64 "}", tag);
            pgqrs_step_done(run, output);
            say_everything_late(run, self);
            return false;
        }
    }
    snprintf(output, sizeof(output), "{\"tag\":%" PRId64 "}", tag);
    stored = pgqrs_step_done(run, output) != NULL && k == MONEY_STEP;
    if (!stored && dice_of(self, 100) < 20)
        stored = pgqrs_run_flush(run) == PGQRS_OK;
    if (stored)
        note_run(self, PROOF_STORED, id, k, tag, 0);
    return true;
}

static pgqrs_result transfer(pgqrs_run *run, void *user)
{
    run_worker *worker = (run_worker *)user;
    int64_t id = pgqrs_run_id(run);
    int32_t k;
    note_run(worker->self, PROOF_ENTER, id, 0, 0, 0);
    for (k = 1; k <= STEPS; k++) {
        pgqrs_step_desc desc;
        const char *output = NULL;
        int64_t asked_us = proof_now_us();
        memset(&desc, 0, sizeof(desc));
        desc.transaction = k == MONEY_STEP;
        if (!pgqrs_step_with(run, step_names[k], &desc, &output)) {
            if (output)
                note_run(worker->self, PROOF_SEEN, id, k, tag_in(output), 0);
        } else if (!do_step(run, worker, k, asked_us)) {
            return pgqrs_run_status(run);
        }
    }
    return pgqrs_run_return(run, pgqrs_run_input(run));
}

static int work_on_runs(actor *self, bool sleepwalks, int32_t threads)
{
    run_worker worker;
    pgqrs_work_desc desc;
    worker.self = self;
    worker.sleepwalks = sleepwalks;
    memset(&desc, 0, sizeof(desc));
    if (!open_patiently(self))
        return 0;
    stop_on_term(self);
    while (sleepwalks ? going() : !stopping()) {
        desc.max_messages = 10 + below(&self->random, 100);
        /* Who takes runs ahead, stands still, and does not notice, begins one that somebody else has done meanwhile: nothing but a
         * question to the store before each function could tell. Taken one by one there is no such time. */
        desc.batch = sleepwalks && W.sleepers_freeze ? 1 : 1 + threads + below(&self->random, 3);
        desc.threads = threads;
        desc.until_empty = sleepwalks;
        look_at(self, "work_workflow", pgqrs_work_workflow(self->store, WORKFLOW, transfer, &worker, &desc));
        if (sleepwalks)
            nap_ms(10);
    }
    return 0;
}

static int run_looper(actor *self)
{
    return work_on_runs(self, false, 0);
}

static int run_pool(actor *self)
{
    return work_on_runs(self, false, THREADS);
}

static int run_sleepwalker(actor *self)
{
    return work_on_runs(self, true, 0);
}

/* --- those who trigger, and wait for the end --- */

static pgqrs_result trigger(actor *self, int64_t *id)
{
    char input[64], key[32];
    pgqrs_trigger_desc desc;
    proof_record r;
    pgqrs_result result;
    memset(&desc, 0, sizeof(desc));
    memset(&r, 0, sizeof(r));
    r.mark = '?', r.op = PROOF_TRIGGER, r.call = ++self->calls, r.tag = new_tag(self);
    snprintf(input, sizeof(input), "{\"tag\":%" PRId64 "}", r.tag);
    snprintf(key, sizeof(key), "transfer-%" PRId64, r.tag);
    if (chance(&self->random, 30))
        desc.idempotency_key = key;
    note(self, r);
    result = pgqrs_workflow_trigger(self->store, WORKFLOW, input, &desc, id);
    /* The key makes it repeatable, and what came of the first call is known then. */
    if (desc.idempotency_key && (result == PGQRS_ERR_OUTCOME_UNKNOWN || chance(&self->random, 30))) {
        int64_t again = 0;
        pgqrs_result second = pgqrs_workflow_trigger(self->store, WORKFLOW, input, &desc, &again);
        if (second == PGQRS_OK && result == PGQRS_OK && again != *id) {
            __sync_fetch_and_add(&W.page->unexpected, 1);
            fprintf(stderr, "# UNEXPECTED: one key, runs %" PRId64 " and %" PRId64 "\n", *id, again);
        }
        if (second == PGQRS_OK && result != PGQRS_OK) {
            *id = again;
            result = second;
        }
    }
    r.mark = '!', r.id = *id, r.result = (int32_t)result;
    note(self, r);
    look_at(self, "trigger", result);
    return result;
}

static void wait_for(actor *self, int64_t *id)
{
    pgqrs_run_info *info = NULL;
    pgqrs_result result = pgqrs_run_result(self->store, *id, 30, &info);
    pgqrs_free(info);
    if (result == PGQRS_OK)
        note_run(self, PROOF_ENDED, *id, 0, 0, 0);
    if (result == PGQRS_OK || result == PGQRS_ERR_RUN_FAILED)
        *id = 0;
    if (result != PGQRS_ERR_TIMEOUT)
        look_at(self, "run_result", result);
}

static int trigger_and_wait(actor *self)
{
    enum { OPEN = 8 };
    int64_t open_runs[OPEN] = {0};
    size_t turn = 0;
    if (!open_patiently(self))
        return 0;
    while (going()) {
        int64_t *place = &open_runs[turn++ % OPEN];
        if (*place)
            wait_for(self, place);
        else if (trigger(self, place) != PGQRS_OK)
            *place = 0;
        nap_us(below(&self->random, 20000));
    }
    return 0;
}

#endif /* PGQRS_PROOF_RUNS_H */
