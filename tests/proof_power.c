/* The power goes while the SQLite backend is at work: what was acknowledged is there when it comes back.
 *
 *   proof_power [SECONDS]     without: a fixed share of what it can do; with: rounds of new seeds until the time is over
 *
 * A round is a workload through the public API, recorded system call by system call (power.h), and then many moments at which the
 * power may have gone, each with several of the images that a disk may hold then. Each image is opened by SQLite alone and by the
 * library, and compared with what the calls that had returned by that moment had promised. PGQRS_TEST_SEED repeats it; where several
 * processes write, the kernel decides in which order.
 *
 * test targets: sqlite-file */
#include "support.h"
#include "power.h"

/* What a call did to messages, or to one step of a run. A message goes up in rank as it is worked on: 0 enqueued, 2a-1 leased for
 * the attempt a, 2a settled after it. */
enum { OP_MESSAGES = 1, OP_TRIGGER, OP_STEP, OP_ENDED, OP_LEDGER, OP_ROOM = 1 << 14, OP_IDS = 8 };
enum { IS_WAITING = 1, IS_LEASED = 3, IS_ARCHIVED = 4, IS_DEAD = 5, IS_GONE = 6 };

typedef struct promise {
    int what;
    int64_t begin, end; /* before which event it began and had returned; INT64_MAX: never */
    size_t count;
    int64_t id[OP_IDS];
    int32_t rank[OP_IDS], state[OP_IDS];
    int32_t step;
    bool beside; /* another call was waiting for the disk */
} promise;

typedef struct promises {
    int count;
    int64_t serial;
    int64_t installed; /* the event at which that was promised */
    promise items[OP_ROOM];
} promises;

static promises *P;

typedef struct held_message {
    pgqrs_message *message;
} held_message;

enum { ACTORS = 3, HELD = 10 };
typedef struct actor {
    pgqrs_store *store;
    bool busy;
    held_message held[HELD];
    size_t held_count;
} actor;

static actor actors[ACTORS];
static uint64_t dice;
static int depth;
static bool several_processes;
static char work_dir[560], work_file[600], image_file[600];
static const char *const PROOF_QUEUE = "proof", *const PROOF_FLOW = "flow";

static int64_t below(int64_t limit)
{
    return power_below(&dice, limit);
}

/* A child must not go on as a test of its own. */
static void work_failed(const char *what, pgqrs_result result, const char *why)
{
    if (getpid() == run.pid)
        fail_at(__FILE__, __LINE__, "%s gave %s (%s)", what, pgqrs_result_name(result), why);
    fprintf(stderr, "# child: %s gave %s (%s)\n", what, pgqrs_result_name(result), why);
    _exit(80);
}

static promise *promise_begin(int what)
{
    int at = __atomic_fetch_add(&P->count, 1, __ATOMIC_SEQ_CST);
    promise *p = &P->items[at];
    if (at >= OP_ROOM)
        abort();
    memset(p, 0, sizeof(*p));
    p->what = what;
    p->begin = power_time();
    p->end = INT64_MAX;
    p->beside = depth > 0;
    return p;
}

static void promise_add(promise *p, int64_t id, int32_t rank, int32_t state)
{
    if (p->count == OP_IDS)
        abort();
    p->id[p->count] = id;
    p->rank[p->count] = rank;
    p->state[p->count++] = state;
}

/* A call that did nothing promises nothing; any other failure may have done it or not. */
static bool promise_end(promise *p, pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        p->end = power_time();
    else if (result == PGQRS_ERR_BUSY)
        p->begin = INT64_MAX;
    else if (result != PGQRS_ERR_OUTCOME_UNKNOWN)
        work_failed("a call of the workload", result, last_message(store));
    return result == PGQRS_OK;
}

/* --- the workload --- */

static int64_t shared_now(void *user)
{
    (void)user;
    return __atomic_add_fetch(&power->now_us, 50, __ATOMIC_SEQ_CST);
}

static pgqrs_store_desc workload_desc(void)
{
    pgqrs_store_desc desc = test_desc();
    desc.clock.now_us = shared_now;
    memset(&desc.sleeper, 0, sizeof(desc.sleeper));
    /* Alone, who is in the way is further up on the stack and will not go away. */
    desc.connect_timeout_ms = several_processes ? 20000 : 1;
    return desc;
}

/* A checkpoint comes after every few commits instead of after 1000 pages: more of them, more new starts of the log. */
static void checkpoint_often(pgqrs_store *store)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)store->self;
    sqlite3_wal_autocheckpoint(self->db, (int)(4 + below(60)));
}

static void open_actor(actor *who)
{
    pgqrs_store_desc desc = workload_desc();
    power_outsider = true;
    who->store = open_store(&desc);
    power_outsider = false;
    who->busy = false;
    checkpoint_often(who->store);
}

static void close_actor(actor *who)
{
    size_t i;
    for (i = 0; i < who->held_count; i++)
        free(who->held[i].message);
    who->held_count = 0;
    if (!who->store)
        return;
    power_outsider = true;
    close_store(who->store);
    power_outsider = false;
    who->store = NULL;
}

/* The text says which batch it belongs to, and whether all of it is there. */
static void write_payload_of(char *out, size_t room, int64_t serial, size_t pad)
{
    size_t used = (size_t)snprintf(out, room, "{\"serial\":%" PRId64 ",\"size\":%d,\"pad\":\"", serial, (int)pad);
    memset(out + used, 'a' + (int)(serial % 26), pad);
    snprintf(out + used + pad, room - used - pad, "\"}");
}

static void write_payload(char *out, size_t room, int64_t serial)
{
    write_payload_of(out, room, serial, below(12) == 0 ? (size_t)below(24000) : (size_t)below(120));
}

static void do_enqueue(actor *who)
{
    static char payloads[4][25000];
    pgqrs_enqueue_item items[4];
    pgqrs_receipt receipts[4];
    size_t i, count = (size_t)(1 + below(4));
    promise *p = promise_begin(OP_MESSAGES);
    pgqrs_result result;
    memset(items, 0, sizeof(items));
    for (i = 0; i < count; i++) {
        write_payload(payloads[i], sizeof(payloads[i]), __atomic_add_fetch(&P->serial, 1, __ATOMIC_SEQ_CST));
        items[i].payload = payloads[i];
        items[i].desc.priority = (int32_t)below(2);
        items[i].desc.delay_ms = below(5) == 0 ? 1 + below(3) : 0;
    }
    result = pgqrs_enqueue_many(who->store, PROOF_QUEUE, items, count, receipts);
    for (i = 0; i < count && result == PGQRS_OK; i++)
        promise_add(p, receipts[i].id, 0, IS_WAITING);
    promise_end(p, result, who->store);
}

static void keep_claimed(actor *who, promise *p, pgqrs_messages *messages)
{
    for (size_t i = 0; messages && i < messages->count; i++) {
        pgqrs_message *copy = NULL;
        promise_add(p, messages->items[i].id, 2 * messages->items[i].attempt - 1, IS_LEASED);
        /* One object of its own for each: held ones are settled in any order. */
        copy = (pgqrs_message *)calloc(1, sizeof(*copy));
        assert_non_null(copy);
        copy->id = messages->items[i].id;
        copy->lease = messages->items[i].lease;
        copy->attempt = messages->items[i].attempt;
        who->held[who->held_count++].message = copy;
    }
}

static void do_claim(actor *who)
{
    pgqrs_messages *messages = NULL;
    pgqrs_dequeue_desc desc = {.limit = (size_t)(1 + below(3)), .lease_ms = 3600000};
    promise *p;
    pgqrs_result result;
    if (who->held_count + desc.limit > HELD)
        return;
    p = promise_begin(OP_MESSAGES);
    result = pgqrs_dequeue_many(who->store, PROOF_QUEUE, &desc, &messages);
    if (result == PGQRS_OK)
        keep_claimed(who, p, messages);
    promise_end(p, result, who->store);
    pgqrs_free(messages);
}

static int32_t state_after(pgqrs_verdict verdict)
{
    return verdict == PGQRS_ARCHIVE ? IS_ARCHIVED : verdict == PGQRS_REJECT ? IS_DEAD
           : verdict == PGQRS_DELETE                                        ? IS_GONE
                                                                            : IS_WAITING;
}

/* Up to three of the held ones, each with a verdict of its own; sometimes together with the next claim. */
static void do_settle(actor *who)
{
    static const pgqrs_verdict verdicts[] = {PGQRS_ARCHIVE, PGQRS_ARCHIVE, PGQRS_RETRY, PGQRS_REJECT, PGQRS_DELETE};
    pgqrs_settlement items[3];
    pgqrs_messages *messages = NULL;
    pgqrs_dequeue_desc next = {.limit = 2, .lease_ms = 3600000};
    bool claim = below(2) == 0 && who->held_count + next.limit <= HELD;
    size_t i, count = (size_t)(1 + below(3));
    promise *p;
    pgqrs_result result;
    if (count > who->held_count)
        count = who->held_count;
    if (count == 0)
        return;
    p = promise_begin(OP_MESSAGES);
    for (i = 0; i < count; i++) {
        pgqrs_message *message = who->held[who->held_count - 1 - i].message;
        pgqrs_verdict verdict = verdicts[below((int64_t)COUNT_OF(verdicts))];
        items[i] = pgqrs_settlement_for(message, verdict);
        promise_add(p, message->id, 2 * message->attempt, state_after(verdict));
    }
    result = pgqrs_settle(who->store, items, count, claim ? PROOF_QUEUE : NULL, claim ? &next : NULL,
                          claim ? &messages : NULL);
    if (result == PGQRS_OK) {
        for (i = 0; i < count; i++) {
            if (items[i].result != PGQRS_OK)
                work_failed("a settlement", items[i].result, "");
            free(who->held[--who->held_count].message);
        }
        keep_claimed(who, p, messages);
    }
    promise_end(p, result, who->store);
    pgqrs_free(messages);
}

/* The key of a call that may be waiting for the disk right now; -1: none. Calls beside it ask for the same. */
static int64_t key_under_way = -1, trigger_under_way = -1;

static int64_t a_key(int64_t under_way, int64_t any)
{
    return under_way >= 0 ? under_way : below(any);
}

/* "It is there already" is a promise about another call, which may not have returned yet. */
static void do_enqueue_once(actor *who)
{
    int64_t outer = key_under_way, number = a_key(key_under_way, 4);
    char payload[400], key[16];
    pgqrs_enqueue_desc desc = {.dedup_key = key};
    pgqrs_receipt receipt = {0, false};
    promise *p = promise_begin(OP_MESSAGES);
    pgqrs_result result;
    snprintf(key, sizeof(key), "key%d", (int)number);
    key_under_way = number;
    write_payload_of(payload, sizeof(payload), __atomic_add_fetch(&P->serial, 1, __ATOMIC_SEQ_CST), 20);
    result = pgqrs_enqueue(who->store, PROOF_QUEUE, payload, &desc, &receipt);
    key_under_way = outer;
    if (result == PGQRS_OK)
        promise_add(p, receipt.id, 0, IS_WAITING);
    promise_end(p, result, who->store);
}

/* What is promised of a run: a step is durable when the next one begins. */
static promise *step_under_way;

static void step_is_durable(void)
{
    if (step_under_way)
        step_under_way->end = power_time();
    step_under_way = NULL;
}

static void step_begins(pgqrs_run *handle, int32_t number, int what)
{
    step_under_way = promise_begin(what);
    step_under_way->step = number;
    promise_add(step_under_way, pgqrs_run_id(handle), 0, 0);
}

/* Three steps; the second writes to a table of the program in the same transaction. */
static pgqrs_result prove_flow(pgqrs_run *handle, void *user)
{
    const char *output;
    promise *outer = step_under_way; /* a run inside another one's flush */
    promise **ended = (promise **)user;
    step_under_way = NULL;
    if (pgqrs_step(handle, "first", &output)) {
        step_begins(handle, 1, OP_STEP);
        pgqrs_step_done(handle, "\"one\"");
    }
    if (pgqrs_step_with(handle, "pay", &(pgqrs_step_desc){.transaction = true}, &output)) {
        char sql[200];
        step_is_durable();
        step_begins(handle, 2, OP_LEDGER);
        snprintf(sql, sizeof(sql), "INSERT INTO ledger(run) VALUES (%" PRId64 ")", pgqrs_run_id(handle));
        power_in_step = true;
        if (sqlite3_exec(pgqrs_run_sqlite3(handle), sql, NULL, NULL, NULL) != SQLITE_OK)
            work_failed("the body's statement", PGQRS_ERR_DATABASE, sqlite3_errmsg(pgqrs_run_sqlite3(handle)));
        if (pgqrs_step_done(handle, "\"two\""))
            step_is_durable();
        power_in_step = false;
        step_under_way = NULL;
    }
    if (below(3) == 0 && pgqrs_run_set(handle, "note", "1") == PGQRS_OK)
        step_is_durable();
    if (pgqrs_step(handle, "last", &output)) {
        step_begins(handle, 3, OP_STEP);
        pgqrs_step_done(handle, "\"three\"");
        if (below(2) == 0 && pgqrs_run_flush(handle) == PGQRS_OK)
            step_is_durable();
    }
    step_under_way = outer;
    *ended = promise_begin(OP_ENDED);
    promise_add(*ended, pgqrs_run_id(handle), 0, 0);
    return pgqrs_run_return(handle, "\"done\"");
}

static void do_trigger(actor *who)
{
    int64_t id = 0, outer = trigger_under_way;
    char key[40];
    pgqrs_trigger_desc desc = {.idempotency_key = key};
    promise *p = promise_begin(OP_TRIGGER);
    pgqrs_result result;
    trigger_under_way = a_key(trigger_under_way, 1 << 30);
    snprintf(key, sizeof(key), "key%" PRId64, trigger_under_way);
    result = pgqrs_workflow_trigger(who->store, PROOF_FLOW, "1", &desc, &id);
    trigger_under_way = outer;
    if (result == PGQRS_OK)
        promise_add(p, id, 0, 0);
    promise_end(p, result, who->store);
}

/* One run, if there is one: when the call is back, what it ended is ended. */
static void do_flow(actor *who)
{
    promise *ended = NULL;
    pgqrs_result result = pgqrs_work_workflow(who->store, PROOF_FLOW, prove_flow, &ended,
                                              &(pgqrs_work_desc){.max_messages = 1, .until_empty = true});
    if (ended)
        promise_end(ended, result, who->store);
}

/* A program that knows nothing of us: its own table, checkpoints of every kind. */
static void do_outsider(void)
{
    static const char *const statements[] = {
        "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(FULL)", "PRAGMA wal_checkpoint(RESTART)",
        "PRAGMA wal_checkpoint(TRUNCATE)", "INSERT INTO outsider VALUES (randomblob(500))", "DELETE FROM outsider"};
    sqlite3 *db = NULL;
    bool was = power_outsider;
    power_outsider = true;
    assert_int_equal(SQLITE_OK, sqlite3_open(work_file, &db));
    sqlite3_busy_timeout(db, several_processes ? 2000 : 0);
    sqlite3_exec(db, statements[below((int64_t)COUNT_OF(statements))], NULL, NULL, NULL);
    sqlite3_close(db);
    power_outsider = was;
}

static void act(actor *who)
{
    int64_t choice = below(100);
    who->busy = true;
    __atomic_add_fetch(&power->now_us, 400, __ATOMIC_SEQ_CST);
    if (choice < 8)
        do_enqueue_once(who);
    else if (choice < 35)
        do_enqueue(who);
    else if (choice < 60)
        do_claim(who);
    else if (choice < 82)
        do_settle(who);
    else if (choice < 87)
        do_trigger(who);
    else if (choice < 92)
        do_flow(who);
    else if (choice < 98)
        do_outsider();
    else if (depth == 0 && who->held_count == 0) {
        close_actor(who);
        open_actor(who);
    }
    who->busy = false;
}

/* While one store waits for the disk another one is at work: as it is with several processes, but in an order that repeats. */
static void act_while_flushing(void)
{
    bool outsider = power_outsider, in_step = power_in_step;
    actor *who = &actors[below(ACTORS)];
    if (depth >= 2 || who->busy || !who->store || below(3) > 0 || !power_turn_is_free())
        return;
    depth++;
    who->busy = true;
    power_outsider = power_in_step = false;
    power->nested++;
    if (key_under_way >= 0)
        do_enqueue_once(who);
    else if (trigger_under_way >= 0)
        do_trigger(who);
    else
        act(who);
    who->busy = false;
    power_outsider = outsider;
    power_in_step = in_step;
    depth--;
}

static void pause_while_flushing(void)
{
    struct timespec pause = {0, (long)below(200000)};
    nanosleep(&pause, NULL);
}

/* Tables, queue, workflow, and the tables of others. */
static void set_up_work(void)
{
    sqlite3 *db = NULL;
    pgqrs_queue_desc queue = test_queue_desc();
    queue.max_attempts = 1000;
    queue.backoff_ms = 1;
    queue.backoff_max_ms = 1;
    open_actor(&actors[0]);
    T.store = actors[0].store;
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, PROOF_QUEUE, &queue));
    OK(pgqrs_workflow_create(T.store, PROOF_FLOW, NULL));
    power_outsider = true;
    assert_int_equal(SQLITE_OK, sqlite3_open(work_file, &db));
    assert_int_equal(SQLITE_OK, sqlite3_exec(db,
                                             "PRAGMA synchronous=FULL; CREATE TABLE ledger(run INTEGER);"
                                             "CREATE TABLE outsider(data BLOB)",
                                             NULL, NULL, NULL));
    sqlite3_close(db);
    power_outsider = false;
    P->installed = power_time();
}

static void begin_work(uint64_t seed)
{
    if (!P) {
        void *memory = mmap(NULL, sizeof(*P), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(memory != MAP_FAILED);
        P = (promises *)memory;
    }
    memset(P, 0, offsetof(promises, items));
    memset(actors, 0, sizeof(actors));
    dice = seed;
    depth = 0;
    step_under_way = NULL;
    remove_file(work_file);
    power_begin(work_dir, work_file);
    power->now_us = T.now_us;
}

static void work_alone(uint64_t seed, int acts)
{
    several_processes = false;
    begin_work(seed);
    set_up_work();
    for (int i = 1; i < ACTORS; i++)
        open_actor(&actors[i]);
    power_while_flushing = act_while_flushing;
    for (int i = 0; i < acts; i++)
        act(&actors[below(ACTORS)]);
    power_while_flushing = NULL;
    for (int i = 0; i < ACTORS; i++)
        close_actor(&actors[i]);
    close_all_stores();
    power_end();
}

static int work_in_child(void *user)
{
    int64_t acts = ((int64_t *)user)[0];
    dice ^= (uint64_t)((int64_t *)user)[1] * UINT64_C(0xA0761D6478BD642F);
    T.random_state ^= dice;
    open_actor(&actors[0]);
    power_while_flushing = pause_while_flushing;
    while (acts-- > 0)
        act(&actors[0]);
    close_actor(&actors[0]);
    return 0;
}

static void work_in_processes(uint64_t seed, int acts)
{
    pid_t children[ACTORS];
    several_processes = true;
    begin_work(seed);
    set_up_work();
    close_actor(&actors[0]);
    close_all_stores();
    for (int i = 0; i < ACTORS; i++) {
        int64_t what[2] = {acts / ACTORS, i};
        children[i] = start_child(work_in_child, what);
    }
    for (int i = 0; i < ACTORS; i++)
        child_ended_well(children[i]);
    power_end();
}

/* --- what came back --- */

enum { ROOM_FOR_IDS = 1 << 15 };
static struct {
    bool there[ROOM_FOR_IDS], explained[ROOM_FOR_IDS];
    int32_t rank[ROOM_FOR_IDS], state[ROOM_FOR_IDS]; /* rank -1: not there, and not deleted either */
    int32_t run_state[ROOM_FOR_IDS];                 /* -1: no run */
    unsigned steps[ROOM_FOR_IDS];                    /* a bit for each */
    int ledger[ROOM_FOR_IDS];
    int64_t crash;
    const char *where;
} seen;

static struct {
    int64_t images, rounds, promises;
} totals;

static void broken(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void broken(const char *format, ...)
{
    char text[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fail_at(__FILE__, __LINE__, "%s: %s", seen.where, text);
}

static sqlite3_stmt *prepared(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        broken("%s: %s", sql, sqlite3_errmsg(db));
    return statement;
}

static bool next_row(sqlite3 *db, sqlite3_stmt *statement)
{
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        return true;
    sqlite3_finalize(statement);
    if (rc != SQLITE_DONE)
        broken("reading: %s", sqlite3_errmsg(db));
    return false;
}

static int64_t seen_id(sqlite3_stmt *statement)
{
    int64_t id = sqlite3_column_int64(statement, 0);
    if (id < 1 || id >= ROOM_FOR_IDS)
        broken("there is a message %" PRId64, id);
    return id;
}

static void check_payload(int64_t id, const char *text, int size)
{
    int64_t serial = 0;
    int pad = -1, head = 0;
    if (sscanf(text, "{\"serial\":%" SCNd64 ",\"size\":%d,\"pad\":\"%n", &serial, &pad, &head) < 2 || size != head + pad + 2)
        broken("the payload of message %" PRId64 " is not whole: %.60s", id, text);
}

static void read_messages(sqlite3 *db)
{
    sqlite3_stmt *rows = prepared(db, "SELECT m.id, m.state, m.attempt, m.payload, q.name = 'flow' FROM pgqrs_messages m"
                                      " JOIN pgqrs_queues q ON q.id = m.queue_id");
    while (next_row(db, rows)) {
        int64_t id = seen_id(rows);
        int32_t state = sqlite3_column_int(rows, 1), attempt = sqlite3_column_int(rows, 2);
        seen.there[id] = true;
        seen.state[id] = state == 2 ? IS_WAITING : state;
        seen.rank[id] = state == IS_LEASED ? 2 * attempt - 1 : 2 * attempt;
        if (sqlite3_column_int(rows, 4) == 0)
            check_payload(id, (const char *)sqlite3_column_text(rows, 3), sqlite3_column_bytes(rows, 3));
    }
}

static void read_runs(sqlite3 *db)
{
    sqlite3_stmt *rows = prepared(db, "SELECT id, state FROM pgqrs_runs");
    while (next_row(db, rows)) {
        int64_t id = seen_id(rows);
        seen.run_state[id] = sqlite3_column_int(rows, 1);
        if (!seen.there[id])
            broken("run %" PRId64 " has no message", id);
        if ((seen.run_state[id] == PGQRS_RUN_SUCCESS) != (seen.state[id] == IS_ARCHIVED))
            broken("run %" PRId64 " is in state %d and its message in state %d", id, (int)seen.run_state[id],
                   (int)seen.state[id]);
    }
    rows = prepared(db, "SELECT run_id, number, output FROM pgqrs_steps WHERE state = 1");
    while (next_row(db, rows)) {
        static const char *const outputs[] = {"", "\"one\"", "\"two\"", "\"three\""};
        int64_t id = seen_id(rows);
        int number = sqlite3_column_int(rows, 1);
        if (number < 1 || number > 3 || strcmp((const char *)sqlite3_column_text(rows, 2), outputs[number]) != 0)
            broken("run %" PRId64 " has a step %d that nobody did", id, number);
        seen.steps[id] |= 1u << number;
    }
    rows = prepared(db, "SELECT run FROM ledger");
    while (next_row(db, rows))
        seen.ledger[seen_id(rows)]++;
}

static void check_steps(void)
{
    for (int64_t id = 1; id < ROOM_FOR_IDS; id++) {
        unsigned steps = seen.steps[id];
        int paid = (steps & 4u) != 0;
        if (seen.ledger[id] != paid)
            broken("run %" PRId64 ": step 2 is %sdone, and its own write is there %d times", id, paid ? "" : "not ",
                   seen.ledger[id]);
        if (((steps & 4u) && !(steps & 2u)) || ((steps & 8u) && !(steps & 4u)))
            broken("run %" PRId64 " has a step and not the one before", id);
        if (steps && seen.run_state[id] < 0)
            broken("steps of the run %" PRId64 ", which is not there", id);
        if (seen.run_state[id] == PGQRS_RUN_SUCCESS && steps != 14u)
            broken("run %" PRId64 " is done without its steps", id);
    }
}

static void find_deleted(void)
{
    for (int i = 0; i < P->count; i++)
        for (size_t k = 0; P->items[i].what == OP_MESSAGES && k < P->items[i].count; k++)
            if (P->items[i].state[k] == IS_GONE && P->items[i].begin < seen.crash && !seen.there[P->items[i].id[k]]) {
                seen.rank[P->items[i].id[k]] = P->items[i].rank[k];
                seen.state[P->items[i].id[k]] = IS_GONE;
            }
}

static void check_promise_about_messages(const promise *p)
{
    size_t applied = 0;
    for (size_t i = 0; i < p->count; i++) {
        int64_t id = p->id[i];
        bool is_applied = seen.rank[id] >= p->rank[i];
        applied += is_applied;
        if (p->end <= seen.crash && !is_applied)
            broken("message %" PRId64 " was acknowledged in state %d at %" PRId64 " (rank %d), and is %s (state %d, rank %d)",
                   id, (int)p->state[i], p->end, (int)p->rank[i], seen.there[id] ? "older" : "gone", (int)seen.state[id],
                   (int)seen.rank[id]);
        if (seen.rank[id] != p->rank[i])
            continue;
        if (p->begin >= seen.crash)
            continue; /* another call of this rank must explain it */
        if (seen.state[id] != p->state[i])
            broken("message %" PRId64 " is in state %d after what should have made it %d", id, (int)seen.state[id],
                   (int)p->state[i]);
        seen.explained[id] = true;
    }
    if (applied != 0 && applied != p->count && p->begin < seen.crash)
        broken("a call about %d messages was done for %d of them, first message %" PRId64, (int)p->count, (int)applied,
               p->id[0]);
}

static void check_promise_about_run(const promise *p)
{
    int64_t id = p->count > 0 ? p->id[0] : 0;
    if (id == 0)
        return;
    if (p->what == OP_TRIGGER && p->begin < seen.crash)
        seen.explained[id] = true;
    if (p->end > seen.crash)
        return;
    if (seen.run_state[id] < 0)
        broken("run %" PRId64 " was triggered, and is not there", id);
    if ((p->what == OP_STEP || p->what == OP_LEDGER) && !(seen.steps[id] & (1u << p->step)))
        broken("step %d of run %" PRId64 " was stored, and is not there", (int)p->step, id);
    if (p->what == OP_ENDED && seen.run_state[id] != PGQRS_RUN_SUCCESS)
        broken("run %" PRId64 " had ended, and is in state %d", id, (int)seen.run_state[id]);
}

static void check_promises(void)
{
    find_deleted();
    for (int i = 0; i < P->count; i++) {
        if (P->items[i].what == OP_MESSAGES)
            check_promise_about_messages(&P->items[i]);
        else
            check_promise_about_run(&P->items[i]);
        totals.promises += P->items[i].end <= seen.crash;
    }
    for (int64_t id = 1; id < ROOM_FOR_IDS; id++)
        if (seen.there[id] && !seen.explained[id])
            broken("message %" PRId64 " in state %d, attempt %d: no call that had begun did that", id, (int)seen.state[id],
                   (int)seen.rank[id]);
}

static void read_with_sqlite_alone(void)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *row;
    bool installed = false;
    if (sqlite3_open(image_file, &db) != SQLITE_OK)
        broken("SQLite does not open it");
    row = prepared(db, "PRAGMA integrity_check");
    while (next_row(db, row))
        if (strcmp((const char *)sqlite3_column_text(row, 0), "ok") != 0)
            broken("integrity_check: %s", (const char *)sqlite3_column_text(row, 0));
    row = prepared(db, "SELECT count(*) FROM sqlite_master WHERE name IN ('pgqrs_meta', 'ledger', 'outsider')");
    while (next_row(db, row))
        installed = sqlite3_column_int(row, 0) == 3;
    if (!installed && seen.crash >= P->installed)
        broken("the tables are not there");
    if (installed) {
        read_messages(db);
        read_runs(db);
        check_steps();
        check_promises();
    }
    sqlite3_close(db);
}

/* The library on the same image: it verifies, and work goes on. */
static void use_with_the_library(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_receipt receipt = {0, false};
    pgqrs_message *message = NULL;
    pgqrs_store *store;
    pgqrs_error err;
    char dsn[700];
    snprintf(dsn, sizeof(dsn), "sqlite://%s", image_file);
    store = pgqrs_open(dsn, &desc, &err);
    if (!store)
        broken("the library does not open it: %s", err.message);
    T.now_us = power->now_us + 1000000;
    if (pgqrs_install(store) != PGQRS_OK || pgqrs_verify(store) != PGQRS_OK)
        broken("pgqrs_verify: %s", last_message(store));
    if (seen.crash >= P->installed) {
        if (pgqrs_enqueue(store, PROOF_QUEUE, "1", NULL, &receipt) != PGQRS_OK)
            broken("pgqrs_enqueue: %s", last_message(store));
        if (receipt.id >= ROOM_FOR_IDS || seen.there[receipt.id])
            broken("the id %" PRId64 " was given twice", receipt.id);
        if (pgqrs_dequeue(store, PROOF_QUEUE, NULL, &message) != PGQRS_OK || !message)
            broken("pgqrs_dequeue: %s", last_message(store));
        if (pgqrs_archive(store, message) != PGQRS_OK)
            broken("pgqrs_archive: %s", last_message(store));
        pgqrs_free(message);
    }
    pgqrs_close(store);
}

static void check_image(const power_image_state *state, int64_t crash, power_mode mode, uint64_t *random, uint64_t seed)
{
    static char where[200];
    snprintf(where, sizeof(where), "seed %" PRIu64 ", power lost before event %" PRId64 " of %" PRId64 ", image %d", seed,
             crash, power->event_count, (int)mode);
    memset(&seen, 0, sizeof(seen));
    memset(seen.rank, 0xff, sizeof(seen.rank));
    memset(seen.run_state, 0xff, sizeof(seen.run_state));
    seen.crash = crash;
    seen.where = where;
    power_write_image(state, crash, mode, random, image_file);
    read_with_sqlite_alone();
    use_with_the_library();
    remove_file(image_file);
    totals.images++;
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* A quarter of the moments are any; the others are where it matters: just when a call returned, above all one that was made while
 * another one waited for the disk, and just before a flush was over. */
static int64_t a_moment(uint64_t *random)
{
    int64_t at = power_below(random, power->event_count + 1);
    int64_t kind = power_below(random, 4);
    for (int tries = 0; kind < 2 && P->count > 0 && tries < 100; tries++) {
        const promise *p = &P->items[power_below(random, P->count)];
        if (p->end != INT64_MAX && (p->beside || kind == 0 || several_processes))
            return p->end;
    }
    while (kind == 2 && at < power->event_count && power->events[at].kind != POWER_FLUSHED)
        at++;
    return at;
}

static void check_moments(uint64_t seed, int count)
{
    static power_image_state state;
    static int64_t moments[4096];
    uint64_t random = seed ^ UINT64_C(0x5851F42D4C957F2D);
    power_reset(&state);
    for (int i = 0; i < count; i++)
        moments[i] = a_moment(&random);
    qsort(moments, (size_t)count, sizeof(moments[0]), by_number);
    for (int i = 0; i < count; i++) {
        power_advance(&state, moments[i]);
        check_image(&state, moments[i], (power_mode)(i % (POWER_MODES + 1)), &random, seed);
    }
}

static void check_turns(uint64_t seed)
{
    if (power->turn_violations > 0)
        fail_at(__FILE__, __LINE__,
                "seed %" PRIu64 ": %" PRId64 " writes to the file or the log by a store without the queue lock", seed,
                power->turn_violations);
    if (power->checkpointed == 0 || power->restarted < 3)
        fail_at(__FILE__, __LINE__, "seed %" PRIu64 ": the log was never copied into the file, or never started anew", seed);
}

static int seconds_given;

static void rounds_of(void (*work)(uint64_t, int), int acts, int moments, int rounds)
{
    int64_t until = monotonic_ms() + (int64_t)seconds_given * 500; /* half of it for each of the two kinds */
    int64_t nested = 0;
    snprintf(work_dir, sizeof(work_dir), "%s", run.dir);
    snprintf(work_file, sizeof(work_file), "%s/power.db", run.dir);
    snprintf(image_file, sizeof(image_file), "%s/image.db", run.dir);
    snprintf(T.dsn, sizeof(T.dsn), "sqlite://%s", work_file);
    watch((unsigned)(300 + 2 * seconds_given));
    memset(&totals, 0, sizeof(totals));
    for (int i = 0; seconds_given ? monotonic_ms() < until : i < rounds; i++) {
        uint64_t seed = run.seed + (uint64_t)i;
        work(seed, acts);
        nested += power->nested;
        check_turns(seed);
        check_moments(seed, moments);
        totals.rounds++;
        remove_file(work_file);
    }
    printf("# %d rounds, %d images, %.0f promises kept, %d calls while another one waited for the disk\n",
           (int)totals.rounds, (int)totals.images, (double)totals.promises, (int)nested);
    fflush(stdout);
}

static void what_one_process_acknowledged_survives(void)
{
    rounds_of(work_alone, 250, 80, 16);
}

static void what_several_processes_acknowledged_survives(void)
{
    rounds_of(work_in_processes, 300, 80, 6);
}

static const test_case power_cases[] = {
    CASE_ON(what_one_process_acknowledged_survives, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(what_several_processes_acknowledged_survives, NO_STORE, ON_SQLITE_FILE),
};

int main(int argc, char **argv)
{
    static const test_list lists[] = {LIST(power_cases)};
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    seconds_given = argc > 1 ? atoi(argv[1]) : 0;
    failed = run_lists("proof_power", lists, COUNT_OF(lists));
    remove_file(work_file);
    remove_file(image_file);
    return end_run() || failed ? 1 : 0;
}
