/* Every public function as an operation on data prepared for it, for the tests that make something fail under it. */
#ifndef PGQRS_TEST_FAULT_OPERATIONS_H
#define PGQRS_TEST_FAULT_OPERATIONS_H

#include "support.h"

enum {
    CHANGES_NOTHING = 0,
    MAY_REMOVE = 2,  /* and it removes messages */
    MAY_DO_PARTS = 1 /* a loop: a part of the work may be done, but no message may be lost */
};

typedef struct operation {
    const char *name;
    pgqrs_result (*call)(void);
    int flags;
} operation;

/* The data each operation finds, made anew when the one before was used up. */
static struct {
    char queue[64];
    int serial;
    int64_t ready[3], archived, dead, delayed;
    pgqrs_messages *held; /* four of one lease */
    pgqrs_message *single;
    pgqrs_worker_ref worker; /* holds `single` */
    pgqrs_worker_ref stopped, suspended, polling;
    int64_t due_at_us;
    char workflow[80]; /* on a queue of its own */
    int64_t queued_run, done_run, failed_run, waiting_run;
} D;

/* Runs are only made for the operations on them: making them anew for each failure takes its time. */
static bool with_runs = true;

static bool is_about_runs(const operation *what)
{
    return strstr(what->name, "workflow") || strncmp(what->name, "pgqrs_step", 10) == 0 || strncmp(what->name, "pgqrs_run", 9) == 0;
}

/* A workflow with everything in it. */
static pgqrs_result all_in_one(pgqrs_run *handle, void *user)
{
    const char *output;
    (void)user;
    if (pgqrs_step(handle, "first", &output))
        pgqrs_step_done(handle, "{\"a\":[1,2,3]}");
    if (pgqrs_step_with(handle, "second", &(pgqrs_step_desc){.key = "k", .input = "[1]", .transaction = true}, &output))
        pgqrs_step_done(handle, NULL);
    pgqrs_run_set(handle, "progress", "50");
    (void)pgqrs_run_value(handle, "progress");
    pgqrs_run_sleep(handle, "nap", 0);
    if (strcmp(pgqrs_run_input(handle), "\"wait\"") == 0)
        pgqrs_run_wait_event(handle, "go", PGQRS_FOREVER, &output);
    else
        pgqrs_run_wait_event(handle, "go", 0, &output);
    if (pgqrs_step(handle, "last", &output)) {
        if (strcmp(pgqrs_run_input(handle), "\"fail\"") == 0)
            pgqrs_step_fail(handle, &(pgqrs_failure){.code = "NO", .message = "a reason"});
        else
            pgqrs_step_done(handle, "3");
    }
    return pgqrs_run_return(handle, "\"done\"");
}

static void prepare_runs(void)
{
    snprintf(D.workflow, sizeof(D.workflow), "%s-w", D.queue);
    OK(pgqrs_workflow_create(T.store, D.workflow, &(pgqrs_workflow_desc){.retention_ms = 5000}));
    OK(pgqrs_workflow_trigger(T.store, D.workflow, "1", NULL, &D.done_run));
    OK(pgqrs_workflow_trigger(T.store, D.workflow, "\"fail\"", NULL, &D.failed_run));
    OK(pgqrs_workflow_trigger(T.store, D.workflow, "\"wait\"", NULL, &D.waiting_run));
    OK(pgqrs_work_workflow(T.store, D.workflow, all_in_one, NULL, &(pgqrs_work_desc){.until_empty = true}));
    OK(pgqrs_workflow_trigger(T.store, D.workflow, SECRET_PAYLOAD, &(pgqrs_trigger_desc){.idempotency_key = "key"},
                              &D.queued_run));
}

static void forget_data(void)
{
    pgqrs_free(D.held);
    pgqrs_free(D.single);
    D.held = NULL;
    D.single = NULL;
}

static void prepare_data(void)
{
    pgqrs_queue_desc desc = test_queue_desc();
    pgqrs_dequeue_desc claim = {.lease_ms = 3600000};
    pgqrs_message *message = NULL;
    pgqrs_receipt receipt;
    char name[96];
    int i;
    forget_data();
    snprintf(D.queue, sizeof(D.queue), "m%d-%d", run.case_number, ++D.serial);
    snprintf(T.queue, sizeof(T.queue), "%s", D.queue);
    desc.retention_ms = 5000;
    OK(pgqrs_queue_create(T.store, D.queue, &desc));
    snprintf(name, sizeof(name), "%s-stopped", D.queue);
    D.stopped = enlist(name, D.queue);
    OK(pgqrs_worker_suspend(T.store, D.stopped.id));
    OK(pgqrs_worker_shutdown(T.store, D.stopped.id));
    snprintf(name, sizeof(name), "%s-suspended", D.queue);
    D.suspended = enlist(name, D.queue);
    OK(pgqrs_worker_suspend(T.store, D.suspended.id));
    snprintf(name, sizeof(name), "%s-polling", D.queue);
    D.polling = enlist(name, D.queue);
    OK(pgqrs_worker_begin_polling(T.store, D.polling));
    snprintf(name, sizeof(name), "%s-worker", D.queue);
    D.worker = enlist(name, D.queue);
    put_batch(D.queue, 4, 0, NULL);
    claim.limit = 4;
    OK(pgqrs_dequeue_many(T.store, D.queue, &claim, &D.held));
    EQ(4, D.held->count);
    D.archived = put();
    OK(pgqrs_dequeue(T.store, D.queue, NULL, &message));
    OK(pgqrs_archive(T.store, message));
    pgqrs_free(message);
    D.dead = put();
    OK(pgqrs_dequeue(T.store, D.queue, NULL, &message));
    OK(pgqrs_reject(T.store, message, "a reason"));
    pgqrs_free(message);
    put();
    claim.worker = D.worker;
    OK(pgqrs_dequeue(T.store, D.queue, &claim, &D.single));
    assert_non_null(D.single);
    for (i = 0; i < 3; i++) {
        pgqrs_enqueue_desc enqueue = {.priority = i, .dedup_key = i == 1 ? "key" : NULL};
        OK(pgqrs_enqueue(T.store, D.queue, SECRET_PAYLOAD, &enqueue, &receipt));
        D.ready[i] = receipt.id;
    }
    D.delayed = put_as((pgqrs_enqueue_desc){.delay_ms = 1000000});
    D.workflow[0] = '\0';
    if (with_runs)
        prepare_runs();
}

static void add(char *out, size_t room, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void add(char *out, size_t room, const char *format, ...)
{
    size_t used = strlen(out);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out + used, room - used, format, arguments);
    va_end(arguments);
}

static void picture_runs(char *out, size_t room)
{
    pgqrs_run_filter filter = {.workflow = D.workflow};
    pgqrs_workflow *workflow = NULL;
    pgqrs_runs *runs = NULL;
    if (!D.workflow[0])
        return;
    OK(pgqrs_workflow_get(T.store, D.workflow, &workflow));
    if (!workflow) {
        add(out, room, "no workflow");
        return;
    }
    add(out, room, "retention %d\n", (int)workflow->settings.retention_ms);
    pgqrs_free(workflow);
    OK(pgqrs_run_list(T.store, &filter, &runs));
    for (size_t i = 0; i < runs->count; i++) {
        const pgqrs_run_info *r = &runs->items[i];
        pgqrs_steps *steps = NULL;
        add(out, room, "run %d: %s wait %d attempt %d retries %d done %d cancel %d %s %s\n", (int)r->id,
            pgqrs_run_state_name(r->state), (int)r->wait, (int)r->attempt, (int)r->retries,
            (int)(r->finished_at_us % 1000000000), (int)(r->cancel_requested_at_us % 1000000000),
            r->output ? r->output : "-", r->error_code ? r->error_code : "-");
        OK(pgqrs_run_steps(T.store, r->id, &steps));
        for (size_t k = 0; k < steps->count; k++)
            add(out, room, "  %d %s %s %s\n", (int)steps->items[k].number, steps->items[k].name,
                pgqrs_step_state_name(steps->items[k].state),
                steps->items[k].output ? steps->items[k].output : "-");
        pgqrs_free(steps);
    }
    pgqrs_free(runs);
}

/* Everything that can be seen of the queue and the workflow. */
static void picture(char *out, size_t room)
{
    pgqrs_message_filter filter = {.queue = D.queue, .limit = 1000};
    pgqrs_worker_filter workers_of = {.queue = D.queue};
    pgqrs_messages *messages = NULL;
    pgqrs_workers *workers = NULL;
    pgqrs_queue *queue = NULL;
    size_t i;
    out[0] = '\0';
    OK(pgqrs_queue_get(T.store, D.queue, &queue));
    if (!queue) {
        add(out, room, "no queue");
        return;
    }
    add(out, room, "lease %d paused %d\n", (int)queue->settings.lease_ms, queue->settings.paused);
    pgqrs_free(queue);
    OK(pgqrs_message_list(T.store, &filter, &messages));
    for (i = 0; i < messages->count; i++) {
        const pgqrs_message *m = &messages->items[i];
        add(out, room, "%d: %d attempt %d lease %d until %d due %d done %d %s %s\n", (int)m->id, (int)m->state,
            (int)m->attempt, (int)m->lease, (int)(m->lease_until_us % 1000000000), (int)(m->due_at_us % 1000000000),
            (int)(m->finished_at_us % 1000000000), m->reason ? m->reason : "-", m->payload);
    }
    pgqrs_free(messages);
    OK(pgqrs_worker_list(T.store, &workers_of, &workers));
    for (i = 0; i < workers->count; i++)
        add(out, room, "worker %d state %d held %d beat %d\n", (int)workers->items[i].id, (int)workers->items[i].state,
            (int)workers->items[i].held, (int)(workers->items[i].heartbeat_at_us % 1000000000));
    pgqrs_free(workers);
    picture_runs(out, room);
}

/* --- one function per operation: the call, what it allocated freed again --- */

static pgqrs_result released(pgqrs_result result, void *object)
{
    if (result != PGQRS_OK && object)
        result = PGQRS_ERR_INTERNAL; /* an error must not leave a result behind */
    pgqrs_free(object);
    return result;
}

static pgqrs_result call_queue_create(void)
{
    return pgqrs_queue_create(T.store, "made-without-memory", NULL);
}
static pgqrs_result call_queue_update(void)
{
    return pgqrs_queue_update(T.store, D.queue, &(pgqrs_queue_desc){.lease_ms = 777});
}
static pgqrs_result call_queue_get(void)
{
    pgqrs_queue *out = NULL;
    pgqrs_result result = pgqrs_queue_get(T.store, D.queue, &out);
    return released(result, out);
}
static pgqrs_result call_queue_exists(void)
{
    bool exists;
    return pgqrs_queue_exists(T.store, D.queue, &exists);
}
static pgqrs_result call_queue_list(void)
{
    pgqrs_queues *out = NULL;
    pgqrs_result result = pgqrs_queue_list(T.store, 0, 0, &out);
    return released(result, out);
}
static pgqrs_result call_queue_pause(void)
{
    return pgqrs_queue_pause(T.store, D.queue);
}
static pgqrs_result call_queue_resume(void)
{
    return pgqrs_queue_resume(T.store, D.queue);
}
static pgqrs_result call_queue_delete(void)
{
    return pgqrs_queue_delete(T.store, D.queue, true);
}
static pgqrs_result call_queue_purge(void)
{
    return pgqrs_queue_purge(T.store, D.queue, NULL, NULL);
}
static pgqrs_result call_enqueue(void)
{
    return pgqrs_enqueue(T.store, D.queue, "{\"a\":[1,\"\\u0041\",{\"b\":null}]}",
                         &(pgqrs_enqueue_desc){.dedup_key = "new key", .producer = "p", .delay_ms = 5}, NULL);
}
static pgqrs_result call_enqueue_duplicate(void)
{
    pgqrs_receipt receipt;
    return pgqrs_enqueue(T.store, D.queue, "1", &(pgqrs_enqueue_desc){.dedup_key = "key"}, &receipt);
}
static pgqrs_result call_enqueue_many(void)
{
    static const char *const keys[] = {"a", NULL, "b", "a", "key"};
    pgqrs_enqueue_item items[60];
    pgqrs_receipt receipts[60];
    size_t i;
    memset(items, 0, sizeof(items));
    for (i = 0; i < COUNT_OF(items); i++) {
        items[i].payload = SECRET_PAYLOAD;
        items[i].desc.priority = (int32_t)(i % 3);
        items[i].desc.delay_ms = i % 7 == 0 ? 1000 : 0;
        items[i].desc.dedup_key = i < COUNT_OF(keys) ? keys[i] : NULL;
    }
    return pgqrs_enqueue_many(T.store, D.queue, items, COUNT_OF(items), receipts);
}
static pgqrs_result call_dequeue(void)
{
    pgqrs_message *out = NULL;
    pgqrs_result result = pgqrs_dequeue(T.store, D.queue, NULL, &out);
    return released(result, out);
}
static pgqrs_result call_dequeue_many(void)
{
    pgqrs_messages *out = NULL;
    pgqrs_result result =
        pgqrs_dequeue_many(T.store, D.queue, &(pgqrs_dequeue_desc){.limit = 50, .worker = D.worker}, &out);
    return released(result, out);
}
static pgqrs_result call_settle(void)
{
    pgqrs_settlement items[5];
    pgqrs_messages *out = NULL;
    pgqrs_result result;
    size_t i;
    for (i = 0; i < 4; i++)
        items[i] = pgqrs_settlement_for(&D.held->items[i], (pgqrs_verdict)(PGQRS_ARCHIVE + (int)i));
    items[4] = pgqrs_settlement_for(D.single, PGQRS_REJECT);
    items[4].reason = "a reason";
    result = pgqrs_settle(T.store, items, 5, D.queue, &(pgqrs_dequeue_desc){.limit = 2}, &out);
    return released(result, out);
}
static pgqrs_result call_archive(void)
{
    return pgqrs_archive(T.store, &D.held->items[1]);
}
static pgqrs_result call_delete(void)
{
    return pgqrs_delete(T.store, D.single);
}
static pgqrs_result call_retry(void)
{
    return pgqrs_retry(T.store, &D.held->items[2], "a reason");
}
static pgqrs_result call_reject(void)
{
    return pgqrs_reject(T.store, &D.held->items[3], "a reason");
}
static pgqrs_result call_release(void)
{
    return pgqrs_release(T.store, D.single, NULL);
}
static pgqrs_result call_archive_many(void)
{
    return pgqrs_archive_many(T.store, D.held->items, 3, NULL);
}
static pgqrs_result call_delete_many(void)
{
    pgqrs_result results[4];
    return pgqrs_delete_many(T.store, D.held->items, 4, results);
}
static pgqrs_result call_release_many(void)
{
    return pgqrs_release_many(T.store, D.held->items, 4, &(pgqrs_release_desc){.delay_ms = 9, .reason = "r"}, NULL);
}
static pgqrs_result call_extend(void)
{
    return pgqrs_extend(T.store, D.single, 7200000);
}
static pgqrs_result call_extend_many(void)
{
    return pgqrs_extend_many(T.store, D.held->items, 4, 7200000, NULL);
}
static pgqrs_result call_message_get(void)
{
    pgqrs_message *out = NULL;
    pgqrs_result result = pgqrs_message_get(T.store, D.dead, &out);
    return released(result, out);
}
static pgqrs_result call_message_list(void)
{
    pgqrs_message_filter filter = {.queue = D.queue};
    pgqrs_messages *out = NULL;
    pgqrs_result result = pgqrs_message_list(T.store, &filter, &out);
    return released(result, out);
}
static pgqrs_result call_message_count(void)
{
    pgqrs_message_filter filter = {.queue = D.queue, .state = PGQRS_LEASED};
    int64_t count;
    return pgqrs_message_count(T.store, &filter, &count);
}
static pgqrs_result call_message_delete(void)
{
    return pgqrs_message_delete(T.store, D.ready, 3, false, NULL);
}
static pgqrs_result call_message_update(void)
{
    return pgqrs_message_update(T.store, D.ready[0], "{\"new\":[1]}", 11);
}
static pgqrs_result call_message_replay(void)
{
    return pgqrs_message_replay(T.store, D.dead);
}
static pgqrs_result call_message_replay_many(void)
{
    int64_t ids[2];
    ids[0] = D.dead;
    ids[1] = D.archived;
    return pgqrs_message_replay_many(T.store, ids, 2, NULL);
}
static pgqrs_result call_dead_list(void)
{
    pgqrs_messages *out = NULL;
    pgqrs_result result = pgqrs_dead_list(T.store, D.queue, 0, 0, &out);
    return released(result, out);
}
static pgqrs_result call_dead_replay_all(void)
{
    return pgqrs_dead_replay_all(T.store, D.queue, NULL);
}
static pgqrs_result call_message_explain(void)
{
    pgqrs_explanation why;
    return pgqrs_message_explain(T.store, D.ready[0], &why);
}
static pgqrs_result call_worker_register(void)
{
    pgqrs_worker_ref out;
    return pgqrs_worker_register(T.store, "made-without-memory", &(pgqrs_register_desc){.queue = D.queue}, &out);
}
static pgqrs_result call_worker_heartbeat(void)
{
    return pgqrs_worker_heartbeat(T.store, D.worker);
}
static pgqrs_result call_worker_healthy(void)
{
    bool healthy;
    return pgqrs_worker_healthy(T.store, D.worker.id, 1000, &healthy);
}
static pgqrs_result call_worker_begin_polling(void)
{
    return pgqrs_worker_begin_polling(T.store, D.worker);
}
static pgqrs_result call_worker_interrupt(void)
{
    return pgqrs_worker_interrupt(T.store, D.polling.id);
}
static pgqrs_result call_worker_suspend(void)
{
    return pgqrs_worker_suspend(T.store, D.worker.id);
}
static pgqrs_result call_worker_get(void)
{
    pgqrs_worker_info *out = NULL;
    pgqrs_result result = pgqrs_worker_get(T.store, D.worker.id, &out);
    return released(result, out);
}
static pgqrs_result call_worker_list(void)
{
    pgqrs_workers *out = NULL;
    pgqrs_result result = pgqrs_worker_list(T.store, NULL, &out);
    return released(result, out);
}
static pgqrs_result call_worker_count(void)
{
    int64_t count;
    return pgqrs_worker_count(T.store, NULL, &count);
}
static pgqrs_result call_worker_release(void)
{
    return pgqrs_worker_release(T.store, D.worker.id, NULL);
}
static pgqrs_result call_worker_delete(void)
{
    return pgqrs_worker_delete(T.store, D.worker.id, true);
}
static pgqrs_result call_worker_reclaim(void)
{
    T.now_us = D.due_at_us + 100 * SECOND_US;
    return pgqrs_worker_reclaim(T.store, D.queue, 1000, NULL, NULL);
}
static pgqrs_result call_worker_purge(void)
{
    T.now_us = D.due_at_us + 100 * SECOND_US;
    return pgqrs_worker_purge(T.store, 1000, NULL);
}
static pgqrs_result call_metrics(void)
{
    pgqrs_metrics *out = NULL;
    pgqrs_result result = pgqrs_metrics_get(T.store, NULL, &out);
    return released(result, out);
}
static pgqrs_result call_system_metrics(void)
{
    pgqrs_system_metrics out;
    return pgqrs_system_metrics_get(T.store, &out);
}
static pgqrs_result call_worker_stats(void)
{
    pgqrs_worker_stats out;
    return pgqrs_worker_stats_get(T.store, D.queue, 0, &out);
}
static pgqrs_result call_maintain(void)
{
    return pgqrs_maintain(T.store, NULL);
}
static pgqrs_result call_now(void)
{
    int64_t now;
    return pgqrs_store_now(T.store, &now);
}
static pgqrs_result call_install(void)
{
    return pgqrs_install(T.store);
}
static pgqrs_result call_verify(void)
{
    return pgqrs_verify(T.store);
}
static pgqrs_result call_schema_version(void)
{
    int32_t version;
    return pgqrs_schema_version(T.store, &version);
}
static pgqrs_result call_open(void)
{
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    static const char *const keys[] = {"forbidden"};
    pgqrs_store *store;
    desc.validation.forbidden_keys = keys;
    desc.validation.forbidden_key_count = 1;
    store = pgqrs_open(T.dsn, &desc, &err);
    if (store && T.memory.failed)
        T.memory.fail_at = -1;
    pgqrs_close(store);
    return store ? PGQRS_OK : err.code;
}
static pgqrs_result call_config(void)
{
    pgqrs_error err;
    pgqrs_config_desc desc;
    pgqrs_config *config;
    memset(&desc, 0, sizeof(desc));
    desc.dsn = "sqlite://x.db";
    desc.schema = "abc";
    desc.no_file = true;
    desc.allocator = test_desc().allocator;
    config = pgqrs_config_load(&desc, &err);
    pgqrs_free(config);
    return config ? PGQRS_OK : err.code;
}

static pgqrs_result archive_it(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    return PGQRS_OK;
}
static pgqrs_result archive_them(const pgqrs_messages *batch, void *user)
{
    (void)batch;
    (void)user;
    return PGQRS_OK;
}
static pgqrs_result call_work(void)
{
    return pgqrs_work(T.store, D.queue, archive_it, NULL, &(pgqrs_work_desc){.until_empty = true});
}
static pgqrs_result call_work_batch(void)
{
    return pgqrs_work_batch(T.store, D.queue, archive_them, NULL, &(pgqrs_work_desc){.until_empty = true, .batch = 2});
}
static pgqrs_result call_poll(void)
{
    pgqrs_worker *worker = pgqrs_worker_open(T.store, D.queue, archive_it, NULL, NULL, NULL);
    pgqrs_result result = pgqrs_last_error(T.store)->code, closed;
    if (!worker)
        return result;
    result = pgqrs_worker_poll(worker, 0, NULL);
    (void)pgqrs_worker_fd(worker);
    (void)pgqrs_worker_next_ms(worker);
    closed = pgqrs_worker_close(worker);
    return result != PGQRS_OK ? result : closed;
}

static pgqrs_result call_workflow_create(void)
{
    char name[100];
    snprintf(name, sizeof(name), "%s-new", D.workflow);
    return pgqrs_workflow_create(T.store, name, &(pgqrs_workflow_desc){.queue = D.queue, .timeout_ms = 5000});
}
static pgqrs_result call_workflow_update(void)
{
    return pgqrs_workflow_update(T.store, D.workflow, &(pgqrs_workflow_desc){.retention_ms = 777});
}
static pgqrs_result call_workflow_get(void)
{
    pgqrs_workflow *out = NULL;
    pgqrs_result result = pgqrs_workflow_get(T.store, D.workflow, &out);
    return released(result, out);
}
static pgqrs_result call_workflow_list(void)
{
    pgqrs_workflows *out = NULL;
    pgqrs_result result = pgqrs_workflow_list(T.store, 0, 0, &out);
    return released(result, out);
}
static pgqrs_result call_workflow_delete(void)
{
    return pgqrs_workflow_delete(T.store, D.workflow, true);
}
static pgqrs_result call_trigger(void)
{
    return pgqrs_workflow_trigger(T.store, D.workflow, "{\"a\":1}",
                                  &(pgqrs_trigger_desc){.idempotency_key = "new key", .delay_ms = 5}, NULL);
}
static pgqrs_result call_trigger_again(void)
{
    int64_t id = 0;
    return pgqrs_workflow_trigger(T.store, D.workflow, "1", &(pgqrs_trigger_desc){.idempotency_key = "key"}, &id);
}
static pgqrs_result call_trigger_many(void)
{
    pgqrs_trigger_item items[20];
    pgqrs_receipt receipts[20];
    memset(items, 0, sizeof(items));
    for (size_t i = 0; i < COUNT_OF(items); i++) {
        items[i].desc.priority = (int32_t)(i % 3);
        items[i].desc.idempotency_key = i == 3 ? "key" : i == 7 ? "another" : NULL;
    }
    return pgqrs_workflow_trigger_many(T.store, D.workflow, items, COUNT_OF(items), receipts);
}
static pgqrs_result call_run_get(void)
{
    pgqrs_run_info *out = NULL;
    pgqrs_result result = pgqrs_run_get(T.store, D.failed_run, &out);
    return released(result, out);
}
static pgqrs_result call_run_list(void)
{
    pgqrs_run_filter filter = {.workflow = D.workflow};
    pgqrs_runs *out = NULL;
    pgqrs_result result = pgqrs_run_list(T.store, &filter, &out);
    return released(result, out);
}
static pgqrs_result call_run_list_open(void)
{
    pgqrs_run_filter filter = {.workflow = D.workflow, .open = true};
    pgqrs_runs *out = NULL;
    pgqrs_result result = pgqrs_run_list(T.store, &filter, &out);
    return released(result, out);
}
static pgqrs_result call_run_count(void)
{
    pgqrs_run_filter filter = {.workflow = D.workflow, .state = PGQRS_RUN_QUEUED};
    int64_t count;
    return pgqrs_run_count(T.store, &filter, &count);
}
static pgqrs_result call_run_steps(void)
{
    pgqrs_steps *out = NULL;
    pgqrs_result result = pgqrs_run_steps(T.store, D.done_run, &out);
    return released(result, out);
}
static pgqrs_result call_run_values(void)
{
    pgqrs_run_values *out = NULL;
    pgqrs_result result = pgqrs_run_values_get(T.store, D.done_run, &out);
    return released(result, out);
}
static pgqrs_result call_run_events(void)
{
    pgqrs_run_events *out = NULL;
    pgqrs_result result = pgqrs_run_events_get(T.store, D.waiting_run, &out);
    return released(result, out);
}
/* Half of what the second call brings is there: ids above all others, in a queue of its own that is made first. */
static pgqrs_result import_target(char *queue, size_t room, const char *workflow)
{
    pgqrs_queue_desc desc = {.paused = true};
    pgqrs_result result;
    snprintf(queue, room, "%s-import", D.queue);
    result = pgqrs_queue_create(T.store, queue, &desc);
    if (result == PGQRS_OK && workflow)
        result = pgqrs_workflow_create(T.store, workflow, &(pgqrs_workflow_desc){.queue = queue});
    return result;
}
static pgqrs_message import_message(int64_t id, const char *queue)
{
    return (pgqrs_message){.id = id, .queue = queue, .payload = SECRET_PAYLOAD, .state = PGQRS_READY, .place = id,
                           .enqueued_at_us = TEST_EPOCH_US};
}
static pgqrs_result call_message_import(void)
{
    pgqrs_message items[4];
    char queue[96];
    pgqrs_result result = import_target(queue, sizeof(queue), NULL);
    for (int i = 0; i < 4; i++)
        items[i] = import_message(D.delayed + 100000 + i, queue);
    items[1].state = PGQRS_DEAD;
    items[1].finished_at_us = TEST_EPOCH_US;
    items[2].dedup_key = "key";
    items[2].reason = "a reason";
    if (result == PGQRS_OK)
        result = pgqrs_message_import(T.store, items, 2, NULL);
    return result == PGQRS_OK ? pgqrs_message_import(T.store, items, COUNT_OF(items), NULL) : result;
}
static pgqrs_result call_run_import(void)
{
    const pgqrs_step_info steps[] = {{.number = 1, .kind = PGQRS_STEP_BODY, .state = PGQRS_STEP_DONE, .name = "first",
                                      .output = "1", .started_at_us = TEST_EPOCH_US, .finished_at_us = TEST_EPOCH_US}};
    const pgqrs_run_value_info values[] = {{.name = "progress", .value = "50", .set_at_us = TEST_EPOCH_US}};
    const pgqrs_run_event_info events[] = {{.name = "go", .payload = "1", .sent_at_us = TEST_EPOCH_US}};
    char queue[96], workflow[96];
    pgqrs_message message;
    pgqrs_run_info info = {.state = PGQRS_RUN_QUEUED, .triggered_at_us = TEST_EPOCH_US, .idempotency_key = "key"};
    pgqrs_run_image image = {&info, &message, steps, 1, values, 1, events, 1};
    pgqrs_result result;
    snprintf(workflow, sizeof(workflow), "%s-import", D.workflow);
    result = import_target(queue, sizeof(queue), workflow);
    message = import_message(D.queued_run + 100000, queue);
    info.id = message.id;
    info.queue = queue;
    info.workflow = workflow;
    if (result == PGQRS_OK)
        result = pgqrs_run_import(T.store, &image, 1, NULL);
    return result == PGQRS_OK ? pgqrs_run_import(T.store, &image, 1, NULL) : result;
}
static pgqrs_result call_run_result(void)
{
    pgqrs_run_info *out = NULL;
    pgqrs_result result = pgqrs_run_result(T.store, D.done_run, 10, &out);
    return released(result, out);
}
static pgqrs_result call_run_explain(void)
{
    pgqrs_explanation why;
    return pgqrs_run_explain(T.store, D.waiting_run, &why);
}
static pgqrs_result call_run_cancel(void)
{
    pgqrs_cancel_desc desc = {.by = "ada", .reason = "not needed"};
    return pgqrs_run_cancel(T.store, D.waiting_run, &desc, NULL);
}
static pgqrs_result call_run_send_event(void)
{
    return pgqrs_run_send_event(T.store, D.waiting_run, "go", "[1]", NULL);
}
static pgqrs_result call_run_restart(void)
{
    return pgqrs_run_restart(T.store, D.failed_run);
}
static pgqrs_result call_run_fork(void)
{
    return pgqrs_run_fork(T.store, D.done_run, &(pgqrs_fork_desc){.step = "last", .input = "2"}, NULL);
}
static pgqrs_result call_run_purge(void)
{
    return pgqrs_run_purge(T.store, D.workflow, NULL, NULL);
}
static pgqrs_result call_work_workflow(void)
{
    return pgqrs_work_workflow(T.store, D.workflow, all_in_one, NULL, &(pgqrs_work_desc){.until_empty = true});
}

/* A workflow with everything that the other one has not. */
static pgqrs_result all_the_rest(pgqrs_run *handle, void *user)
{
    const char *output;
    (void)user;
    if (pgqrs_step_keyed(handle, "keyed", "k", &output))
        pgqrs_step_done(handle, "1");
    pgqrs_run_flush(handle);
    if (pgqrs_step_indexed(handle, "indexed", 3, &output)) {
        pgqrs_run_extend(handle, 7200000);
        if (pgqrs_run_attempt(handle) == 1 && strcmp(pgqrs_run_input(handle), "\"pause\"") == 0)
            pgqrs_step_pause(handle, 0, "not yet");
        else
            pgqrs_step_fail(handle, &(pgqrs_failure){.code = "OFTEN", .transient = true, .retry_after_ms = -1});
    }
    pgqrs_run_sleep_until(handle, "until", 1);
    return pgqrs_run_fail(handle, &(pgqrs_failure){.code = "AT_LAST", .message = "a reason"});
}
static pgqrs_result call_work_workflows(void)
{
    pgqrs_workflow_entry entry = {D.workflow, all_the_rest, NULL};
    return pgqrs_work_workflows(T.store, &entry, 1, &(pgqrs_work_desc){.max_messages = 2, .until_empty = true});
}
static pgqrs_result call_poll_workflows(void)
{
    pgqrs_workflow_entry entry = {D.workflow, all_in_one, NULL};
    pgqrs_worker *worker = pgqrs_worker_open_workflows(T.store, &entry, 1, NULL);
    pgqrs_result result = pgqrs_last_error(T.store)->code, closed;
    if (!worker)
        return result;
    result = pgqrs_worker_poll(worker, 0, NULL);
    closed = pgqrs_worker_close(worker);
    return result != PGQRS_OK ? result : closed;
}

/* A handler's own words about its message; extending is the one that asks the store at once. */
static pgqrs_result settle_by_hand(const pgqrs_message *message, void *user)
{
    int turn = (*(int *)user)++;
    if (pgqrs_message_extend(message, 7200000) == PGQRS_ERR_NO_MEMORY)
        return PGQRS_ERR_HANDLER;
    if (turn % 5 == 0)
        return pgqrs_message_retry(message, 1000000, "a reason");
    if (turn % 5 == 1)
        return pgqrs_message_reject(message, "a reason");
    if (turn % 5 == 2)
        return pgqrs_message_give_back(message, 1000000);
    return turn % 5 == 3 ? pgqrs_message_archive(message) : pgqrs_message_remove(message);
}
static pgqrs_result call_work_by_hand(void)
{
    int turn = 0;
    return pgqrs_work(T.store, D.queue, settle_by_hand, &turn, &(pgqrs_work_desc){.max_messages = 3, .until_empty = true});
}
static pgqrs_result call_worker_end_polling(void)
{
    return pgqrs_worker_end_polling(T.store, D.polling);
}
static pgqrs_result call_worker_resume(void)
{
    return pgqrs_worker_resume(T.store, D.suspended.id);
}
static pgqrs_result call_worker_shutdown(void)
{
    return pgqrs_worker_shutdown(T.store, D.suspended.id);
}

#ifdef PGQRS_THREADS
static pgqrs_result call_producer(void)
{
    pgqrs_error err;
    pgqrs_producer *producer = pgqrs_producer_open(T.store, NULL);
    pgqrs_result result, other;
    if (!producer)
        return pgqrs_last_error(T.store)->code;
    result = pgqrs_producer_enqueue(producer, D.queue, "1", NULL, NULL, &err);
    other = pgqrs_producer_hand_over(producer, D.queue, "2", NULL, &err);
    result = result ? result : other;
    other = pgqrs_producer_flush(producer, &err);
    result = result ? result : other;
    other = pgqrs_producer_close(producer, &err);
    return result ? result : other;
}
#endif

static const operation operations[] = {
#ifdef PGQRS_THREADS
    {"pgqrs_producer", call_producer, MAY_DO_PARTS | MAY_REMOVE},
#endif
    {"pgqrs_work by hand", call_work_by_hand, MAY_DO_PARTS | MAY_REMOVE},
    {"pgqrs_worker_end_polling", call_worker_end_polling, CHANGES_NOTHING},
    {"pgqrs_worker_resume", call_worker_resume, CHANGES_NOTHING},
    {"pgqrs_worker_shutdown", call_worker_shutdown, CHANGES_NOTHING},
    {"pgqrs_work_workflows", call_work_workflows, MAY_DO_PARTS},
    {"pgqrs_worker_open_workflows", call_poll_workflows, MAY_DO_PARTS},
    {"pgqrs_queue_create", call_queue_create, CHANGES_NOTHING},
    {"pgqrs_queue_update", call_queue_update, CHANGES_NOTHING},
    {"pgqrs_queue_get", call_queue_get, CHANGES_NOTHING},
    {"pgqrs_queue_exists", call_queue_exists, CHANGES_NOTHING},
    {"pgqrs_queue_list", call_queue_list, CHANGES_NOTHING},
    {"pgqrs_queue_pause", call_queue_pause, CHANGES_NOTHING},
    {"pgqrs_queue_resume", call_queue_resume, CHANGES_NOTHING},
    {"pgqrs_queue_delete", call_queue_delete, CHANGES_NOTHING},
    {"pgqrs_queue_purge", call_queue_purge, CHANGES_NOTHING},
    {"pgqrs_enqueue", call_enqueue, CHANGES_NOTHING},
    {"pgqrs_enqueue of a duplicate", call_enqueue_duplicate, CHANGES_NOTHING},
    {"pgqrs_enqueue_many", call_enqueue_many, CHANGES_NOTHING},
    {"pgqrs_dequeue", call_dequeue, CHANGES_NOTHING},
    {"pgqrs_dequeue_many", call_dequeue_many, CHANGES_NOTHING},
    {"pgqrs_settle", call_settle, CHANGES_NOTHING},
    {"pgqrs_archive", call_archive, CHANGES_NOTHING},
    {"pgqrs_delete", call_delete, CHANGES_NOTHING},
    {"pgqrs_retry", call_retry, CHANGES_NOTHING},
    {"pgqrs_reject", call_reject, CHANGES_NOTHING},
    {"pgqrs_release", call_release, CHANGES_NOTHING},
    {"pgqrs_archive_many", call_archive_many, CHANGES_NOTHING},
    {"pgqrs_delete_many", call_delete_many, CHANGES_NOTHING},
    {"pgqrs_release_many", call_release_many, CHANGES_NOTHING},
    {"pgqrs_extend", call_extend, CHANGES_NOTHING},
    {"pgqrs_extend_many", call_extend_many, CHANGES_NOTHING},
    {"pgqrs_message_get", call_message_get, CHANGES_NOTHING},
    {"pgqrs_message_list", call_message_list, CHANGES_NOTHING},
    {"pgqrs_message_count", call_message_count, CHANGES_NOTHING},
    {"pgqrs_message_delete", call_message_delete, CHANGES_NOTHING},
    {"pgqrs_message_update", call_message_update, CHANGES_NOTHING},
    {"pgqrs_message_replay", call_message_replay, CHANGES_NOTHING},
    {"pgqrs_message_replay_many", call_message_replay_many, CHANGES_NOTHING},
    {"pgqrs_dead_list", call_dead_list, CHANGES_NOTHING},
    {"pgqrs_dead_replay_all", call_dead_replay_all, MAY_DO_PARTS},
    {"pgqrs_message_explain", call_message_explain, CHANGES_NOTHING},
    {"pgqrs_worker_register", call_worker_register, CHANGES_NOTHING},
    {"pgqrs_worker_heartbeat", call_worker_heartbeat, CHANGES_NOTHING},
    {"pgqrs_worker_healthy", call_worker_healthy, CHANGES_NOTHING},
    {"pgqrs_worker_begin_polling", call_worker_begin_polling, CHANGES_NOTHING},
    {"pgqrs_worker_interrupt", call_worker_interrupt, CHANGES_NOTHING},
    {"pgqrs_worker_suspend", call_worker_suspend, CHANGES_NOTHING},
    {"pgqrs_worker_get", call_worker_get, CHANGES_NOTHING},
    {"pgqrs_worker_list", call_worker_list, CHANGES_NOTHING},
    {"pgqrs_worker_count", call_worker_count, CHANGES_NOTHING},
    {"pgqrs_worker_release", call_worker_release, CHANGES_NOTHING},
    {"pgqrs_worker_delete", call_worker_delete, CHANGES_NOTHING},
    {"pgqrs_worker_reclaim", call_worker_reclaim, CHANGES_NOTHING},
    {"pgqrs_worker_purge", call_worker_purge, CHANGES_NOTHING},
    {"pgqrs_metrics_get", call_metrics, CHANGES_NOTHING},
    {"pgqrs_system_metrics_get", call_system_metrics, CHANGES_NOTHING},
    {"pgqrs_worker_stats_get", call_worker_stats, CHANGES_NOTHING},
    {"pgqrs_maintain", call_maintain, MAY_DO_PARTS},
    {"pgqrs_store_now", call_now, CHANGES_NOTHING},
    {"pgqrs_install", call_install, CHANGES_NOTHING},
    {"pgqrs_verify", call_verify, CHANGES_NOTHING},
    {"pgqrs_schema_version", call_schema_version, CHANGES_NOTHING},
    {"pgqrs_open", call_open, CHANGES_NOTHING},
    {"pgqrs_config_load", call_config, CHANGES_NOTHING},
    {"pgqrs_work", call_work, MAY_DO_PARTS},
    {"pgqrs_work_batch", call_work_batch, MAY_DO_PARTS},
    {"pgqrs_worker_poll", call_poll, MAY_DO_PARTS},
    {"pgqrs_workflow_create", call_workflow_create, CHANGES_NOTHING},
    {"pgqrs_workflow_update", call_workflow_update, CHANGES_NOTHING},
    {"pgqrs_workflow_get", call_workflow_get, CHANGES_NOTHING},
    {"pgqrs_workflow_list", call_workflow_list, CHANGES_NOTHING},
    {"pgqrs_workflow_delete", call_workflow_delete, MAY_DO_PARTS},
    {"pgqrs_workflow_trigger", call_trigger, CHANGES_NOTHING},
    {"pgqrs_workflow_trigger of a known key", call_trigger_again, CHANGES_NOTHING},
    {"pgqrs_workflow_trigger_many", call_trigger_many, CHANGES_NOTHING},
    {"pgqrs_run_get", call_run_get, CHANGES_NOTHING},
    {"pgqrs_run_list", call_run_list, CHANGES_NOTHING},
    {"pgqrs_run_list of open ones", call_run_list_open, CHANGES_NOTHING},
    {"pgqrs_run_count", call_run_count, CHANGES_NOTHING},
    {"pgqrs_run_steps", call_run_steps, CHANGES_NOTHING},
    {"pgqrs_run_values_get", call_run_values, CHANGES_NOTHING},
    {"pgqrs_run_events_get", call_run_events, CHANGES_NOTHING},
    {"pgqrs_run_import", call_run_import, MAY_DO_PARTS},
    {"pgqrs_message_import", call_message_import, MAY_DO_PARTS},
    {"pgqrs_run_result", call_run_result, CHANGES_NOTHING},
    {"pgqrs_run_explain", call_run_explain, CHANGES_NOTHING},
    {"pgqrs_run_cancel", call_run_cancel, CHANGES_NOTHING},
    {"pgqrs_run_send_event", call_run_send_event, CHANGES_NOTHING},
    {"pgqrs_run_restart", call_run_restart, CHANGES_NOTHING},
    {"pgqrs_run_fork", call_run_fork, CHANGES_NOTHING},
    {"pgqrs_run_purge", call_run_purge, MAY_DO_PARTS},
    {"pgqrs_work_workflow", call_work_workflow, MAY_DO_PARTS},
};

/* What looks at everything there is must not take longer each time; and an object is uploaded with all that is in it. */
static void forget_rows(const operation *what)
{
    char name[100];
    if (strcmp(what->name, "pgqrs_queue_create") == 0)
        pgqrs_queue_delete(T.store, "made-without-memory", true);
    if (D.workflow[0]) {
        snprintf(name, sizeof(name), "%s-new", D.workflow);
        pgqrs_workflow_delete(T.store, name, true);
        pgqrs_workflow_delete(T.store, D.workflow, true);
        pgqrs_queue_delete(T.store, D.workflow, true);
    }
    pgqrs_queue_delete(T.store, D.queue, true);
}

/* On S3, where each call is an upload, behind pgBouncer, where the code is the same as without it, and with sanitizers on Postgres, which
 * takes minutes, a run does a share of the operations, another one with each seed; PGQRS_TEST_WHOLE=1: all. In pairs: the two cases
 * of one kind of failure do every other operation. */
static bool is_left_out(size_t number)
{
    size_t share = on(ON_BUCKET) ? (TEST_SANITIZED ? 24 : 12) : on(ON_PGBOUNCER) ? 3 : on(ON_SERVER) && TEST_SANITIZED ? 2 : 1;
    return !getenv("PGQRS_TEST_WHOLE") && (number / 2 + (size_t)run.seed) % share != 0;
}

/* A store as another machine has it. */
static pgqrs_store *open_elsewhere(void)
{
    pgqrs_store_desc desc = test_desc();
    char cache[700];
    snprintf(cache, sizeof(cache), "%s/elsewhere", S3.cache);
    S3.desc.cache_dir = cache;
    return open_store(&desc);
}

/* --- S3 in local mode: what goes between the file of this machine, the object, and the file of another machine. `there` is that
 * machine's store; every message that was ever enqueued is on one of both sides, and in the end on both. */

typedef struct copying {
    const char *name;
    pgqrs_result (*call)(void);
    bool fetches;
} copying;

static struct {
    pgqrs_store *there;
    int64_t total;
} C;

static pgqrs_result call_s3_sync(void)
{
    return pgqrs_s3_sync(T.store);
}
static pgqrs_result call_s3_snapshot(void)
{
    return pgqrs_s3_snapshot(T.store, false);
}
static pgqrs_result call_s3_state(void)
{
    pgqrs_s3_state state;
    return pgqrs_s3_state_get(T.store, &state);
}
static pgqrs_result call_s3_export(void)
{
    char path[700];
    snprintf(path, sizeof(path), "%s.exported", T.file);
    unlink(path);
    return pgqrs_s3_export(T.store, path);
}

static const copying copyings[] = {
    {"pgqrs_s3_sync", call_s3_sync, false},
    {"pgqrs_s3_snapshot", call_s3_snapshot, true},
    {"pgqrs_s3_state_get", call_s3_state, false},
    {"pgqrs_s3_export", call_s3_export, false},
};

static int64_t total_on(pgqrs_store *store)
{
    pgqrs_message_filter filter = {.queue = T.queue};
    int64_t count = -1;
    OK_ON(store, pgqrs_message_count(store, &filter, &count));
    return count;
}

static void begin_copying(void)
{
    C.total = 0;
    OK(pgqrs_s3_sync(T.store));
    C.there = open_elsewhere();
    OK_ON(C.there, pgqrs_s3_snapshot(C.there, true));
}

/* One more message on the side that the call copies from. */
static void prepare_copying(const copying *what)
{
    pgqrs_store *side = what->fetches ? C.there : T.store;
    OK_ON(side, pgqrs_enqueue(side, T.queue, SECRET_PAYLOAD, NULL, NULL));
    if (what->fetches)
        OK_ON(side, pgqrs_s3_sync(side));
    C.total++;
}

/* Whatever the call said, nothing is lost, and the next one of its kind does it. */
static void check_copying(const copying *what, const char *text, pgqrs_result result)
{
    pgqrs_s3_state state;
    int64_t here = total_on(T.store);
    if (here != C.total && !(what->fetches && result != PGQRS_OK && here == C.total - 1))
        fail_at(__FILE__, __LINE__, "%s: %d messages here, of %d", text, (int)here, (int)C.total);
    if (what->fetches)
        OK(pgqrs_s3_snapshot(T.store, false));
    else
        OK(pgqrs_s3_sync(T.store));
    OK_ON(C.there, pgqrs_s3_snapshot(C.there, false));
    OK(pgqrs_s3_state_get(T.store, &state));
    if (total_on(T.store) != C.total || total_on(C.there) != C.total || state != PGQRS_S3_IN_SYNC)
        fail_at(__FILE__, __LINE__, "%s: %d messages here, %d there, of %d, and state %d", text, (int)total_on(T.store),
                (int)total_on(C.there), (int)C.total, (int)state);
}

static int64_t total_of_queue(void)
{
    return count_where((pgqrs_message_filter){.queue = D.queue});
}

#endif /* PGQRS_TEST_FAULT_OPERATIONS_H */
