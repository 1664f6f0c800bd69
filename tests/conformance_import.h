/* Import: what was read from one store is stored in another as it is. The other store is another queue here, and the ids are moved
 * out of the way, so that it works the same for stores that cannot be opened twice. */

#define FAR INT64_C(100000)

/* The target: a paused queue, and a workflow on it where one is asked for. */
static struct {
    char queue[96];
    char flow[96];
    pgqrs_message messages[64];
    size_t count;
} I;

static void begin_import(void)
{
    pgqrs_queue_desc desc = test_queue_desc();
    memset(&I, 0, sizeof(I));
    snprintf(I.queue, sizeof(I.queue), "%s", unique("there"));
    desc.paused = true;
    OK(pgqrs_queue_create(T.store, I.queue, &desc));
}

/* Everything in T.queue, as it would be given to the other store. */
static void read_messages(void)
{
    pgqrs_messages *page = NULL;
    size_t i;
    OK(pgqrs_message_list(T.store, &(pgqrs_message_filter){.queue = T.queue, .limit = COUNT_OF(I.messages)}, &page));
    keep(page);
    I.count = page->count;
    for (i = 0; i < page->count; i++) {
        I.messages[i] = page->items[i];
        I.messages[i].id += FAR;
        I.messages[i].queue = I.queue;
    }
}

static void bring_messages(size_t want)
{
    size_t stored = 99;
    OK(pgqrs_message_import(T.store, I.messages, I.count, &stored));
    EQ(want, stored);
}

static const char *or_dash(const char *text)
{
    return text ? text : "-";
}

/* Whether what arrived is what was sent, a lease apart. */
static void check_arrived(const pgqrs_message *sent, const char *file, int line)
{
    const pgqrs_message *got = must_look_at(sent->id, file, line);
    pgqrs_state want = sent->state == PGQRS_LEASED ? PGQRS_DELAYED : sent->state;
    check_int(want, got->state, "the state", file, line);
    check_int(sent->priority, got->priority, "priority", file, line);
    check_int(sent->attempt, got->attempt, "attempt", file, line);
    check_int(sent->enqueued_at_us, got->enqueued_at_us, "enqueued_at_us", file, line);
    check_int(sent->finished_at_us, got->finished_at_us, "finished_at_us", file, line);
    check_int(sent->state == PGQRS_LEASED ? sent->lease_until_us : sent->due_at_us, got->due_at_us, "due_at_us", file,
              line);
    if (!sent->attempt) check_int(sent->expires_at_us, got->expires_at_us, "expires_at_us", file, line);
    check_int(0, got->lease, "lease", file, line);
    check_int(0, got->worker_id, "worker_id", file, line);
    check_string(or_dash(sent->dedup_key), or_dash(got->dedup_key), "dedup_key", file, line);
    check_string(or_dash(sent->producer), or_dash(got->producer), "producer", file, line);
    check_string(or_dash(sent->reason), or_dash(got->reason), "reason", file, line);
    check_string(sent->payload, got->payload, "payload", file, line);
    check_int((int64_t)sent->payload_size, (int64_t)got->payload_size, "payload_size", file, line);
    check_string(I.queue, got->queue, "queue", file, line);
}

static void all_arrived(const char *file, int line)
{
    size_t i;
    for (i = 0; i < I.count; i++)
        check_arrived(&I.messages[i], file, line);
    check_call(T.store, PGQRS_OK, pgqrs_verify(T.store), "pgqrs_verify", file, line);
}
#define ALL_ARRIVED() all_arrived(__FILE__, __LINE__)

/* One message in each state, some of them with everything a message can have. */
static void put_one_of_each(void)
{
    pgqrs_message *dead = NULL;
    OK(pgqrs_dequeue(T.store, T.queue, NULL, &dead));
    YES(dead == NULL);
    put();
    OK(pgqrs_archive(T.store, must_take()));
    put_as((pgqrs_enqueue_desc){.producer = "somebody", .dedup_key = "was"});
    OK(pgqrs_reject(T.store, must_take(), "no such customer"));
    put_as((pgqrs_enqueue_desc){.expire_ms = 100});
    advance_ms(200);
    OK(pgqrs_dequeue(T.store, T.queue, NULL, &dead));
    maintain_all();
    put_as((pgqrs_enqueue_desc){.priority = 7, .dedup_key = "held"});
    (void)must_take();
    put_as((pgqrs_enqueue_desc){.priority = -3, .dedup_key = "open", .producer = "me", .expire_ms = 100000});
    put();
    put_as((pgqrs_enqueue_desc){.delay_ms = 60000, .priority = 2});
    put_as((pgqrs_enqueue_desc){.priority = 9});
    OK(pgqrs_retry(T.store, must_take(), "try again"));
}

static void import_keeps_what_there_is(void)
{
    begin_import();
    put_one_of_each();
    read_messages();
    EQ(8, I.count);
    bring_messages(8);
    ALL_ARRIVED();
}

static void import_twice_is_once(void)
{
    begin_import();
    put_one_of_each();
    read_messages();
    bring_messages(8);
    bring_messages(0);
    ALL_ARRIVED();
    advance_ms(3600000);
    bring_messages(0);
    EQ(8, count_where((pgqrs_message_filter){.queue = I.queue}));
}

static void import_goes_on_where_it_was_interrupted(void)
{
    size_t stored = 0;
    begin_import();
    put_one_of_each();
    read_messages();
    OK(pgqrs_message_import(T.store, I.messages + 2, 3, &stored));
    EQ(3, stored);
    bring_messages(5);
    ALL_ARRIVED();
}

/* What would have come next there comes next here: priorities, what was put back, what waited. */
static void import_keeps_the_order(void)
{
    int64_t want[64], ids[10];
    size_t i, n = 0;
    begin_import();
    for (i = 0; i < 6; i++)
        ids[i] = put_as((pgqrs_enqueue_desc){.priority = i == 4 ? 5 : 0});
    (void)ids;
    OK(pgqrs_archive(T.store, must_take()));
    OK(pgqrs_release(T.store, must_take(), NULL));
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.give_back = true}));
    put();
    put_as((pgqrs_enqueue_desc){.delay_ms = 1000});
    put_as((pgqrs_enqueue_desc){.delay_ms = 500});
    put();
    advance_ms(2000);
    read_messages();
    bring_messages(I.count);
    OK(pgqrs_queue_resume(T.store, I.queue));
    for (i = 0; i < 64; i++) {
        const pgqrs_message *next = take();
        if (!next) break;
        want[n++] = next->id + FAR;
    }
    EQ(9, n);
    for (i = 0; i < n; i++) {
        const pgqrs_message *got = take_with(T.store, I.queue, (pgqrs_dequeue_desc){0});
        assert_non_null(got);
        if (i < 7) EQ(want[i], got->id);
    }
    YES(take_with(T.store, I.queue, (pgqrs_dequeue_desc){0}) == NULL);
    OK(pgqrs_verify(T.store));
}

static void import_of_a_leased_message_waits_for_the_end_of_the_lease(void)
{
    const pgqrs_message *held;
    int64_t id;
    begin_import();
    id = put() + FAR;
    held = must_take();
    read_messages();
    bring_messages(1);
    OK(pgqrs_queue_resume(T.store, I.queue));
    STATE("delayed", id);
    YES(take_with(T.store, I.queue, (pgqrs_dequeue_desc){0}) == NULL);
    EQ(held->lease_until_us, must_look(id)->due_at_us);
    advance_ms(TEST_LEASE_MS);
    held = take_with(T.store, I.queue, (pgqrs_dequeue_desc){0});
    assert_non_null(held);
    EQ(id, held->id);
    EQ(2, held->attempt);
    OK(pgqrs_archive(T.store, held));
    OK(pgqrs_verify(T.store));
}

static void import_moves_the_ids_of_the_store(void)
{
    int64_t id;
    begin_import();
    id = put() + FAR;
    read_messages();
    bring_messages(1);
    YES(put() > id);
    YES(put() > id);
    OK(pgqrs_message_delete(T.store, &id, 1, true, NULL));
    YES(put() > id);
    OK(pgqrs_verify(T.store));
}

static void import_holds_keys_and_replays(void)
{
    pgqrs_receipt receipt;
    pgqrs_message *next = NULL;
    begin_import();
    put_one_of_each();
    read_messages();
    bring_messages(8);
    receipt = put_into(I.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "open"});
    YES(receipt.duplicate);
    receipt = put_into(I.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "held"});
    YES(receipt.duplicate);
    receipt = put_into(I.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "other"});
    NO(receipt.duplicate);
    OK(pgqrs_dead_replay_all(T.store, I.queue, NULL));
    receipt = put_into(I.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "was"});
    YES(receipt.duplicate);
    OK(pgqrs_message_update(T.store, receipt.id, "2", 1));
    OK(pgqrs_queue_resume(T.store, I.queue));
    advance_ms(3600000);
    for (;;) {
        OK(pgqrs_dequeue(T.store, I.queue, NULL, &next));
        if (!next) break;
        OK(pgqrs_archive(T.store, next));
        pgqrs_free(next);
    }
    EQ(0, count_where((pgqrs_message_filter){.queue = I.queue, .state = PGQRS_READY}));
    receipt = put_into(I.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "open"});
    NO(receipt.duplicate);
    OK(pgqrs_verify(T.store));
    OK(pgqrs_queue_purge(T.store, I.queue, NULL, NULL));
    OK(pgqrs_verify(T.store));
}

static void import_that_conflicts_changes_nothing(void)
{
    int64_t taken;
    size_t i;
    begin_import();
    put_one_of_each();
    read_messages();
    OK(pgqrs_message_import(T.store, &I.messages[3], 1, NULL));
    taken = I.messages[3].id;
    I.messages[3].payload = "\"another\"";
    I.messages[3].payload_size = 0;
    FAILS(ERR_ID_TAKEN, pgqrs_message_import(T.store, I.messages, I.count, NULL));
    EQ(3, pgqrs_last_error(T.store)->index);
    {
        char number[32];
        snprintf(number, sizeof(number), "%lld", (long long)taken);
        FAILS_NAMING(ERR_ID_TAKEN, number, pgqrs_message_import(T.store, I.messages, I.count, NULL));
    }
    SAME(SECRET_PAYLOAD, must_look(taken)->payload);
    EQ(1, count_where((pgqrs_message_filter){.queue = I.queue}));
    /* An id that another queue has is taken, too. */
    I.messages[0].id -= FAR;
    FAILS(ERR_ID_TAKEN, pgqrs_message_import(T.store, I.messages, 1, NULL));
    I.messages[0].id += FAR;
    /* And so is a key. */
    for (i = 0; i < I.count; i++) {
        if (strcmp(or_dash(I.messages[i].dedup_key), "open") != 0) continue;
        I.messages[i].id += FAR;
        FAILS(ERR_DUPLICATE, pgqrs_message_import(T.store, &I.messages[i], 1, NULL));
    }
    EQ(1, count_where((pgqrs_message_filter){.queue = I.queue}));
    OK(pgqrs_verify(T.store));
}

static pgqrs_message a_message(int64_t id, const char *queue)
{
    pgqrs_message message;
    memset(&message, 0, sizeof(message));
    message.id = id;
    message.queue = queue;
    message.state = PGQRS_READY;
    message.place = id;
    message.enqueued_at_us = T.now_us;
    message.payload = "{}";
    return message;
}

static void import_refuses_wrong_input(void)
{
    pgqrs_message good[2], bad;
    size_t stored = 9;
    int64_t first = put() + FAR;
    begin_import();
    good[0] = a_message(first, I.queue);
    good[1] = a_message(first + 1, I.queue);
    OK(pgqrs_message_import(T.store, NULL, 0, &stored));
    EQ(0, stored);
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "items", pgqrs_message_import(T.store, NULL, 1, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "count", pgqrs_message_import(T.store, good, 1001, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "run", pgqrs_run_import(T.store, &(pgqrs_run_image){.message = good}, 1, NULL));
#define REFUSES(code, part, change)                                                                                    \
    do {                                                                                                               \
        bad = good[0];                                                                                                 \
        change;                                                                                                        \
        FAILS_NAMING(code, part, pgqrs_message_import(T.store, &bad, 1, NULL));                                        \
    } while (0)
    REFUSES(ERR_INVALID_ARGUMENT, "id", bad.id = 0);
    REFUSES(ERR_INVALID_ARGUMENT, "id", bad.id = INT64_MAX);
    REFUSES(ERR_INVALID_ARGUMENT, "state", bad.state = (pgqrs_state)6);
    REFUSES(ERR_INVALID_ARGUMENT, "priority", bad.priority = 40000);
    REFUSES(ERR_INVALID_ARGUMENT, "attempt", bad.attempt = -1);
    REFUSES(ERR_INVALID_ARGUMENT, "enqueued_at_us", bad.enqueued_at_us = 0);
    REFUSES(ERR_INVALID_ARGUMENT, "due_at_us", bad.state = PGQRS_DELAYED);
    REFUSES(ERR_INVALID_ARGUMENT, "lease_until_us", bad.state = PGQRS_LEASED);
    REFUSES(ERR_INVALID_ARGUMENT, "finished_at_us", bad.state = PGQRS_DEAD);
    REFUSES(ERR_INVALID_ARGUMENT, "payload", bad.payload = NULL);
    REFUSES(ERR_JSON, "payload", bad.payload = "{");
    REFUSES(ERR_INVALID_ARGUMENT, "dedup_key", bad.dedup_key = "");
    REFUSES(ERR_INVALID_ARGUMENT, "reason", bad.reason = "\xff");
    REFUSES(ERR_QUEUE_NOT_FOUND, "nowhere", bad.queue = "nowhere");
    bad = good[1];
    good[1].id = good[0].id;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "two items", pgqrs_message_import(T.store, good, 2, NULL));
    EQ(1, pgqrs_last_error(T.store)->index);
    good[1] = bad;
    good[1].queue = T.queue;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "one queue", pgqrs_message_import(T.store, good, 2, NULL));
    good[1] = bad;
    good[0].dedup_key = good[1].dedup_key = "same";
    FAILS(ERR_DUPLICATE, pgqrs_message_import(T.store, good, 2, NULL));
    OK(pgqrs_queue_resume(T.store, I.queue));
    FAILS_NAMING(ERR_QUEUE_NOT_PAUSED, I.queue, pgqrs_message_import(T.store, good, 1, NULL));
    EQ(0, count_where((pgqrs_message_filter){.queue = I.queue}));
}

/* --- runs --- */

static struct {
    pgqrs_run_image image;
    pgqrs_run_info run;
    pgqrs_message message;
} R;

/* The workflow of the target, on its paused queue. */
static void begin_run_import(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    begin_import();
    begin_runs();
    define();
    snprintf(I.flow, sizeof(I.flow), "%s", unique("flow-there"));
    desc.queue = I.queue;
    desc.lease_ms = 0;
    desc.max_attempts = 0;
    OK(pgqrs_workflow_create(T.store, I.flow, &desc));
}

/* A run as it is, and where it is to go. */
static const pgqrs_run_image *read_run(int64_t id)
{
    pgqrs_run_values *values = NULL;
    pgqrs_run_events *events = NULL;
    R.run = *look_run(id);
    R.message = *must_look(id);
    R.run.id = R.message.id = id + FAR;
    R.run.queue = R.message.queue = I.queue;
    R.run.workflow = I.flow;
    OK(pgqrs_run_values_get(T.store, id, &values));
    keep(values);
    OK(pgqrs_run_events_get(T.store, id, &events));
    keep(events);
    memset(&R.image, 0, sizeof(R.image));
    R.image.run = &R.run;
    R.image.message = &R.message;
    R.image.steps = steps_of(id)->items;
    R.image.step_count = steps_of(id)->count;
    R.image.values = values->items;
    R.image.value_count = values->count;
    R.image.events = events->items;
    R.image.event_count = events->count;
    return &R.image;
}

static int64_t bring_run(int64_t id)
{
    size_t stored = 99;
    OK(pgqrs_run_import(T.store, read_run(id), 1, &stored));
    EQ(1, stored);
    OK(pgqrs_run_import(T.store, &R.image, 1, &stored));
    EQ(0, stored);
    OK(pgqrs_verify(T.store));
    return id + FAR;
}

static void serve_there(pgqrs_workflow_handler handler)
{
    pgqrs_workflow_entry entry = {.workflow = I.flow, .handler = handler};
    OK(pgqrs_queue_resume(T.store, I.queue));
    serve_entries(T.store, &entry, 1);
}

static pgqrs_result four_steps(pgqrs_run *r, void *user)
{
    static const char *const names[] = {"one", "two", "three", "four"};
    size_t i;
    (void)user;
    note_run(r);
    for (i = 0; i < COUNT_OF(names); i++) {
        const char *output;
        if (pgqrs_step(r, names[i], &output)) {
            W.bodies++;
            if (i == 2 && W.fail_first > 0) {
                W.fail_first--;
                pgqrs_step_fail(r, &(pgqrs_failure){.code = "NET", .transient = true});
            } else {
                pgqrs_step_done(r, i == 0 ? "{\"first\":1}" : "2");
            }
        } else if (i == 0 && pgqrs_run_status(r) == PGQRS_OK) {
            SAME("{\"first\":1}", output);
        }
        if (i == 1) pgqrs_run_set(r, "progress", "50");
    }
    return W.status = pgqrs_run_return(r, "\"done\"");
}

static void import_of_a_run_goes_on_after_its_last_step(void)
{
    int64_t id, there;
    begin_run_import();
    W.fail_first = 1;
    id = trigger_as("{\"of\":1}", (pgqrs_trigger_desc){.idempotency_key = "once", .priority = 3});
    serve(four_steps);
    RUN("paused", id);
    there = bring_run(id);
    RUN("paused", there);
    EQ(PGQRS_WAIT_RETRY, look_run(there)->wait);
    EQ(look_run(id)->wait_until_us, look_run(there)->wait_until_us);
    EQ(look_run(id)->triggered_at_us, look_run(there)->triggered_at_us);
    EQ(look_run(id)->started_at_us, look_run(there)->started_at_us);
    SAME("once", look_run(there)->idempotency_key);
    SAME("{\"of\":1}", look_run(there)->input);
    EQ(3, steps_of(there)->count);
    SAME("NET", step_of(there, 3)->error_code);
    SAME("50", value_on(T.store, there, "progress"));
    W.bodies = 0;
    advance_ms(60000);
    serve_there(four_steps);
    EQ(2, W.bodies);
    RUN("success", there);
    SAME("\"done\"", look_run(there)->output);
    EQ(4, steps_of(there)->count);
    OK(pgqrs_verify(T.store));
}

static void import_of_ended_runs_keeps_their_ends(void)
{
    int64_t good, bad, gone, there;
    begin_run_import();
    good = trigger();
    serve(four_steps);
    gone = trigger();
    cancel_at_once(gone);
    W.fail_first = 100;
    bad = trigger();
    serve(fail_between);
    advance_ms(3600000);
    serve(fail_between);
    there = bring_run(good);
    RUN("success", there);
    SAME("\"done\"", look_run(there)->output);
    EQ(look_run(good)->finished_at_us, look_run(there)->finished_at_us);
    STATE("archived", there);
    there = bring_run(gone);
    RUN("cancelled", there);
    SAME("mary", look_run(there)->cancelled_by);
    there = bring_run(bad);
    SAME(pgqrs_run_state_name(look_run(bad)->state), pgqrs_run_state_name(look_run(there)->state));
    SAME(or_dash(look_run(bad)->error_code), or_dash(look_run(there)->error_code));
    EQ(3, runs_where((pgqrs_run_filter){.workflow = I.flow}));
}

static void import_of_a_dead_run_can_be_restarted(void)
{
    int64_t id, there, i;
    begin_run_import();
    id = trigger();
    for (i = 0; i < TEST_MAX_ATTEMPTS; i++) {
        (void)take();
        advance_ms(TEST_LEASE_MS);
    }
    maintain_all();
    YES(take() == NULL);
    RUN_ERROR("DEAD", NULL, id);
    there = bring_run(id);
    RUN_ERROR("DEAD", NULL, there);
    STATE("dead", there);
    SAME(look_run(id)->error_message, look_run(there)->error_message);
    OK(pgqrs_run_restart(T.store, there));
    RUN("queued", there);
    serve_there(four_steps);
    RUN("success", there);
    OK(pgqrs_verify(T.store));
}

static void import_of_a_run_that_lost_its_message(void)
{
    int64_t id, there;
    begin_run_import();
    id = trigger();
    OK(pgqrs_archive(T.store, must_take()));
    RUN_ERROR("DEAD", NULL, id);
    there = bring_run(id);
    RUN_ERROR("DEAD", NULL, there);
    STATE("archived", there);
    OK(pgqrs_run_restart(T.store, there));
    serve_there(four_steps);
    RUN("success", there);
}

static void import_of_a_running_run_waits_for_its_lease(void)
{
    int64_t id, there;
    begin_run_import();
    id = trigger();
    (void)must_take();
    RUN("running", id);
    there = bring_run(id);
    RUN("queued", there);
    STATE("delayed", there);
    serve_there(four_steps);
    EQ(0, W.bodies);
    advance_ms(TEST_LEASE_MS);
    serve_there(four_steps);
    EQ(4, W.bodies);
    RUN("success", there);
    EQ(2, look_run(there)->attempt);
}

static void import_of_events_that_were_not_waited_for(void)
{
    pgqrs_run_events *events = NULL;
    int64_t id, there;
    begin_run_import();
    id = trigger();
    send_event(id, "\"paid\"", true);
    OK(pgqrs_run_events_get(T.store, id, &events));
    keep(events);
    EQ(1, events->count);
    SAME("\"paid\"", events->items[0].payload);
    EQ(6, events->items[0].payload_size);
    EQ(T.now_us, events->items[0].sent_at_us);
    there = bring_run(id);
    OK(pgqrs_run_events_get(T.store, there, &events));
    keep(events);
    EQ(1, events->count);
    send_event(there, "\"twice\"", false);
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_events_get(T.store, 123456789, &events));
    YES(events == NULL);
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "out", pgqrs_run_events_get(T.store, there, NULL));
}

static void import_of_a_run_that_conflicts_changes_nothing(void)
{
    pgqrs_run_image images[2];
    int64_t id, other;
    size_t stored;
    begin_run_import();
    id = trigger_as("1", (pgqrs_trigger_desc){.idempotency_key = "key"});
    other = bring_run(id);
    /* One that is the same but for a value. */
    R.image.values = &(pgqrs_run_value_info){.name = "new", .value = "1", .set_at_us = T.now_us};
    R.image.value_count = 1;
    FAILS(ERR_ID_TAKEN, pgqrs_run_import(T.store, &R.image, 1, &stored));
    EQ(0, stored);
    YES(value_on(T.store, other, "new") == NULL);
    /* One with a key that the workflow knows. */
    R.run.id = R.message.id = other + 1;
    FAILS(ERR_DUPLICATE, pgqrs_run_import(T.store, &R.image, 1, NULL));
    YES(look(other + 1) == NULL);
    R.run.idempotency_key = NULL;
    R.run.workflow = T.flow;
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_run_import(T.store, &R.image, 1, NULL));
    R.run.workflow = "nothing";
    FAILS_NAMING(ERR_WORKFLOW_NOT_FOUND, "nothing", pgqrs_run_import(T.store, &R.image, 1, NULL));
    R.run.workflow = I.flow;
    images[0] = images[1] = R.image;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "two items", pgqrs_run_import(T.store, images, 2, NULL));
    R.image.message = NULL;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "message", pgqrs_run_import(T.store, &R.image, 1, NULL));
    R.image.message = &R.message;
    R.message.state = PGQRS_DEAD;
    R.message.finished_at_us = T.now_us;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "moved on", pgqrs_run_import(T.store, &R.image, 1, NULL));
    R.message.state = PGQRS_READY;
    R.image.values = &(pgqrs_run_value_info){.name = "new", .value = "{", .set_at_us = T.now_us};
    FAILS_NAMING(ERR_JSON, "value", pgqrs_run_import(T.store, &R.image, 1, NULL));
    R.image.steps = &(pgqrs_step_info){.number = 0, .name = "x"};
    R.image.step_count = 1;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "number", pgqrs_run_import(T.store, &R.image, 1, NULL));
    EQ(1, runs_where((pgqrs_run_filter){.workflow = I.flow}));
    OK(pgqrs_verify(T.store));
}

static const test_case import_cases[] = {
    CASE(import_keeps_what_there_is, PLAIN),
    CASE(import_twice_is_once, PLAIN),
    CASE(import_goes_on_where_it_was_interrupted, PLAIN),
    CASE(import_keeps_the_order, PLAIN),
    CASE(import_of_a_leased_message_waits_for_the_end_of_the_lease, PLAIN),
    CASE(import_moves_the_ids_of_the_store, PLAIN),
    CASE(import_holds_keys_and_replays, PLAIN),
    CASE(import_that_conflicts_changes_nothing, PLAIN),
    CASE(import_refuses_wrong_input, PLAIN),
    CASE(import_of_a_run_goes_on_after_its_last_step, PLAIN),
    CASE(import_of_ended_runs_keeps_their_ends, PLAIN),
    CASE(import_of_a_dead_run_can_be_restarted, PLAIN),
    CASE(import_of_a_run_that_lost_its_message, PLAIN),
    CASE(import_of_a_running_run_waits_for_its_lease, PLAIN),
    CASE(import_of_events_that_were_not_waited_for, PLAIN),
    CASE(import_of_a_run_that_conflicts_changes_nothing, PLAIN),
};
