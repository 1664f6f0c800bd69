/* Producers and consumers of a proof. Before and after every call they write down what they do. */
#ifndef PGQRS_PROOF_QUEUE_H
#define PGQRS_PROOF_QUEUE_H

#include "proof_world.h"

enum { BATCH = 20, PAYLOAD = 4096 };

/* --- producers --- */

typedef struct saying {
    proof_record records[BATCH];
    pgqrs_enqueue_item items[BATCH];
    pgqrs_receipt receipts[BATCH];
    char payloads[BATCH][PAYLOAD];
    char keys[BATCH][16];
    size_t count;
} saying;

static void write_payload(actor *self, char *text, size_t size, int64_t tag, size_t padding)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    size_t used = (size_t)snprintf(text, size, "{\"tag\":%" PRId64 ",\"padding\":\"", tag);
    while (padding-- > 0 && used + 3 < size)
        text[used++] = letters[next_random(&self->random) % (sizeof(letters) - 1)];
    memcpy(text + used, "\"}", 3);
}

static int64_t tag_in(const char *payload)
{
    const char *at = payload ? strstr(payload, "\"tag\":") : NULL;
    return at ? strtoll(at + 6, NULL, 10) : 0;
}

/* Plain ones, and some with a priority, a delay or a key; on the queue whose order is watched all are plain. */
static void prepare_item(actor *self, saying *all, size_t i, int call)
{
    static const int32_t priorities[] = {0, 0, 0, 5, -5};
    proof_record *r = &all->records[i];
    pgqrs_enqueue_desc *desc = &all->items[i].desc;
    bool plain = self->queue == 2;
    memset(r, 0, sizeof(*r));
    memset(&all->items[i], 0, sizeof(all->items[i]));
    r->mark = '?', r->op = PROOF_ENQUEUE, r->call = call, r->tag = new_tag(self);
    r->count = self->queue == POOL ? 1 : (int32_t)all->count; /* there it is no batch */
    if (!plain)
        r->priority = priorities[below(&self->random, 5)];
    if (!plain && chance(&self->random, 10))
        r->ms = 1 + below(&self->random, 400);
    /* Messages that are handed over one by one have no receipt to tell a duplicate. */
    if (!plain && !(self->queue == POOL && all->count > 1) && chance(&self->random, 10)) {
        r->key = 1 + below(&self->random, 6) + 10 * (int32_t)i; /* two of a batch may not have the same */
        snprintf(all->keys[i], sizeof(all->keys[i]), "key%d", r->key);
        desc->dedup_key = all->keys[i];
    }
    desc->priority = r->priority;
    desc->delay_ms = r->ms;
    write_payload(self, all->payloads[i], PAYLOAD, r->tag, (size_t)(chance(&self->random, 5) ? 3000 : below(&self->random, 100)));
    all->items[i].payload = all->payloads[i];
}

static void prepare_saying(actor *self, saying *all, size_t count)
{
    size_t i;
    int call = ++self->calls;
    all->count = count;
    for (i = 0; i < count; i++)
        prepare_item(self, all, i, call);
    note_all(self, all->records, count);
}

static pgqrs_result say(pgqrs_store *store, const char *queue, saying *all)
{
    if (all->count == 1)
        return pgqrs_enqueue(store, queue, all->items[0].payload, &all->items[0].desc, all->receipts);
    return pgqrs_enqueue_many(store, queue, all->items, all->count, all->receipts);
}

static void note_said(actor *self, saying *all, pgqrs_result result)
{
    size_t i;
    for (i = 0; i < all->count; i++) {
        proof_record *r = &all->records[i];
        r->mark = '!', r->at_us = 0, r->result = (int32_t)result;
        if (result == PGQRS_OK) {
            r->id = all->receipts[i].id;
            r->attempt = all->receipts[i].duplicate;
        }
    }
    note_all(self, all->records, all->count);
}

static int producer(actor *self)
{
    static saying all;
    if (!open_patiently(self))
        return 0;
    while (going()) {
        pgqrs_result result;
        prepare_saying(self, &all, chance(&self->random, 75) ? 1 : 2 + (size_t)below(&self->random, BATCH / 2));
        result = say(self->store, queue_of(self), &all);
        note_said(self, &all, result);
        look_at(self, "enqueue", result);
        nap_us(below(&self->random, 50000));
    }
    return 0;
}

/* --- consumers that do everything by hand --- */

typedef struct holding {
    pgqrs_messages *batch;
    pgqrs_settlement verdicts[BATCH];
    proof_record records[2 * BATCH + 2];
} holding;

static proof_record claim_record(actor *self, const pgqrs_dequeue_desc *desc)
{
    proof_record r;
    (void)self;
    memset(&r, 0, sizeof(r));
    r.mark = '?', r.op = PROOF_CLAIM, r.count = (int32_t)desc->limit, r.ms = desc->lease_ms;
    return r;
}

/* What a claim gave: its result, then what it gave. */
static size_t claimed_records(const pgqrs_messages *batch, pgqrs_result result, int call, proof_record *records)
{
    size_t i, count = 0;
    memset(&records[0], 0, sizeof(records[0]));
    records[0].mark = '!', records[0].op = PROOF_CLAIM, records[0].call = call, records[0].result = (int32_t)result;
    records[0].count = batch ? (int32_t)batch->count : 0;
    for (i = 0; batch && i < batch->count; i++) {
        const pgqrs_message *message = &batch->items[i];
        proof_record *r = &records[++count];
        memset(r, 0, sizeof(*r));
        r->mark = '!', r->op = PROOF_GOT, r->call = call, r->id = message->id, r->lease = message->lease;
        r->attempt = message->attempt, r->priority = message->priority, r->tag = tag_in(message->payload);
    }
    return count + 1;
}

static pgqrs_dequeue_desc some_claim(actor *self)
{
    pgqrs_dequeue_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.limit = 1 + (size_t)below(&self->random, 8);
    desc.lease_ms = LEASE_MS;
    desc.wait_ms = chance(&self->random, 30) ? 100 : 0;
    return desc;
}

static pgqrs_result claim(actor *self, holding *held, const pgqrs_dequeue_desc *desc)
{
    proof_record r = claim_record(self, desc);
    pgqrs_result result;
    int call = r.call = ++self->calls;
    note(self, r);
    result = pgqrs_dequeue_many(self->store, queue_of(self), desc, &held->batch);
    note_all(self, held->records, claimed_records(held->batch, result, call, held->records));
    look_at(self, "dequeue", result);
    return result;
}

static proof_op op_of_verdict(pgqrs_verdict verdict)
{
    switch (verdict) {
    case PGQRS_ARCHIVE: return PROOF_ARCHIVE;
    case PGQRS_DELETE: return PROOF_DELETE;
    case PGQRS_RETRY: return PROOF_RETRY;
    case PGQRS_RELEASE: return PROOF_RELEASE;
    case PGQRS_GIVE_BACK: return PROOF_GIVE_BACK;
    default: return PROOF_REJECT;
    }
}

static pgqrs_verdict some_verdict(actor *self)
{
    int dice = below(&self->random, 100);
    return dice < 74 ? PGQRS_ARCHIVE : dice < 80 ? PGQRS_RETRY : dice < 87 ? PGQRS_RELEASE : dice < 94 ? PGQRS_GIVE_BACK
           : dice < 98 ? PGQRS_DELETE : PGQRS_REJECT;
}

static proof_record verdict_record(const pgqrs_settlement *item, int call)
{
    proof_record r;
    memset(&r, 0, sizeof(r));
    r.mark = '?', r.op = op_of_verdict(item->verdict), r.call = call, r.id = item->id, r.lease = item->lease, r.ms = item->delay_ms;
    return r;
}

/* The everyday call for a verdict. */
static pgqrs_result settle_one(pgqrs_store *store, const pgqrs_message *message, const pgqrs_settlement *item)
{
    pgqrs_release_desc release;
    memset(&release, 0, sizeof(release));
    release.delay_ms = item->delay_ms;
    release.give_back = item->verdict == PGQRS_GIVE_BACK;
    switch (item->verdict) {
    case PGQRS_ARCHIVE: return pgqrs_archive(store, message);
    case PGQRS_DELETE: return pgqrs_delete(store, message);
    case PGQRS_RETRY: return pgqrs_retry(store, message, "tried");
    case PGQRS_REJECT: return pgqrs_reject(store, message, "refused");
    default: return pgqrs_release(store, message, &release);
    }
}

static pgqrs_result settle_by_hand(actor *self, const pgqrs_message *message, const pgqrs_settlement *item)
{
    proof_record r = verdict_record(item, ++self->calls);
    pgqrs_result result;
    note(self, r);
    result = settle_one(self->store, message, item);
    r.mark = '!', r.result = (int32_t)result;
    note(self, r);
    look_at(self, "verdict", result);
    return result;
}

static pgqrs_result extend_by_hand(actor *self, const pgqrs_message *message, int64_t ms)
{
    proof_record r;
    pgqrs_result result;
    memset(&r, 0, sizeof(r));
    r.mark = '?', r.op = PROOF_EXTEND, r.call = ++self->calls, r.id = message->id, r.lease = message->lease, r.ms = ms;
    note(self, r);
    result = pgqrs_extend(self->store, message, ms);
    r.mark = '!', r.result = (int32_t)result;
    note(self, r);
    look_at(self, "extend", result);
    return result;
}

static void decide_all(actor *self, holding *held, bool only_archive)
{
    size_t i;
    for (i = 0; i < held->batch->count; i++) {
        held->verdicts[i] = pgqrs_settlement_for(&held->batch->items[i], only_archive ? PGQRS_ARCHIVE : some_verdict(self));
        if (held->verdicts[i].verdict == PGQRS_RELEASE || held->verdicts[i].verdict == PGQRS_GIVE_BACK)
            held->verdicts[i].delay_ms = below(&self->random, 150);
    }
}

static void settle_each(actor *self, holding *held)
{
    size_t i;
    for (i = 0; i < held->batch->count; i++) {
        if (chance(&self->random, 4))
            extend_by_hand(self, &held->batch->items[i], LEASE_MS);
        if (chance(&self->random, 2))
            continue; /* forgotten: it comes back by itself */
        if (chance(&self->random, 10))
            nap_us(below(&self->random, 20000));
        settle_by_hand(self, &held->batch->items[i], &held->verdicts[i]);
    }
}

/* All verdicts and the next claim in one call. */
static void settle_and_claim(actor *self, holding *held)
{
    pgqrs_dequeue_desc desc = some_claim(self);
    pgqrs_messages *next = NULL;
    size_t i, count = held->batch->count, records = count;
    pgqrs_result result;
    int call = ++self->calls;
    desc.wait_ms = 0;
    for (i = 0; i < count; i++)
        held->records[i] = verdict_record(&held->verdicts[i], call);
    held->records[count] = claim_record(self, &desc);
    held->records[count].call = call;
    note_all(self, held->records, count + 1);
    result = pgqrs_settle(self->store, held->verdicts, count, queue_of(self), &desc, &next);
    for (i = 0; i < count; i++) {
        held->records[i].mark = '!', held->records[i].at_us = 0;
        held->records[i].result = (int32_t)(result == PGQRS_OK ? held->verdicts[i].result : result);
    }
    records += claimed_records(next, result, call, held->records + count);
    note_all(self, held->records, records);
    look_at(self, "settle", result);
    pgqrs_free(held->batch);
    held->batch = next;
}

static int consumer(actor *self)
{
    static holding held;
    if (!open_patiently(self))
        return 0;
    while (!stopping()) {
        if (!held.batch) {
            pgqrs_dequeue_desc desc = some_claim(self);
            if (claim(self, &held, &desc) != PGQRS_OK)
                continue;
        }
        if (held.batch->count == 0) {
            pgqrs_free(held.batch);
            held.batch = NULL;
            nap_us(below(&self->random, 30000));
            continue;
        }
        decide_all(self, &held, false);
        if (chance(&self->random, 2))
            nap_ms(LEASE_MS + 50); /* too slow: others get them */
        else
            nap_us(below(&self->random, 15000));
        if (chance(&self->random, 40)) {
            settle_and_claim(self, &held);
            continue;
        }
        settle_each(self, &held);
        pgqrs_free(held.batch);
        held.batch = NULL;
    }
    pgqrs_free(held.batch);
    return 0;
}

/* The only one on its queue, never late and never failing: what it gets is in order. */
static int orderly_consumer(actor *self)
{
    static holding held;
    if (!open_patiently(self))
        return 0;
    while (!stopping()) {
        pgqrs_dequeue_desc desc = some_claim(self);
        size_t i;
        desc.lease_ms = 60000;
        if (claim(self, &held, &desc) != PGQRS_OK)
            continue;
        decide_all(self, &held, true);
        for (i = 0; i < held.batch->count; i++)
            settle_by_hand(self, &held.batch->items[i], &held.verdicts[i]);
        if (held.batch->count == 0)
            nap_ms(5);
        pgqrs_free(held.batch);
        held.batch = NULL;
    }
    return 0;
}

/* --- the loop --- */

/* What is left of a lease, on the clock that gave it. */
static int64_t left_of_lease_ms(const pgqrs_message *message)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return message->lease_until_us / 1000 - ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

static pgqrs_result handle(const pgqrs_message *message, void *user)
{
    actor *self = (actor *)user;
    proof_record r;
    uint64_t dice;
    pgqrs_result result = PGQRS_OK;
    memset(&r, 0, sizeof(r));
    r.mark = '.', r.op = PROOF_START, r.id = message->id, r.lease = message->lease, r.attempt = message->attempt;
    r.priority = message->priority, r.tag = tag_in(message->payload), r.ms = left_of_lease_ms(message);
    note(self, r);
    pthread_mutex_lock(&self->lock);
    dice = next_random(&self->random);
    pthread_mutex_unlock(&self->lock);
    nap_us((int64_t)(dice >> 32) % 8000);
    switch (dice % 32) {
    case 0: result = PGQRS_ERR_HANDLER; break;
    case 1: result = pgqrs_message_retry(message, 50, "later"); break;
    case 2:
        result = pgqrs_message_give_back(message, 30);
        r.count = PROOF_GIVE_BACK;
        break;
    case 3: (void)pgqrs_message_extend(message, LEASE_MS); break;
    case 4: result = pgqrs_message_reject(message, "hopeless"); break;
    default: break;
    }
    r.op = PROOF_FINISH, r.at_us = 0, r.result = (int32_t)result;
    note(self, r);
    return result;
}

/* On a thread of a pool: the lease is renewed for it, so it may take longer than that. */
static pgqrs_result handle_on_thread(const pgqrs_message *message, void *user)
{
    actor *self = (actor *)user;
    proof_record r;
    uint64_t dice;
    pgqrs_result result;
    memset(&r, 0, sizeof(r));
    r.mark = '.', r.op = PROOF_START, r.id = message->id, r.lease = message->lease, r.attempt = message->attempt;
    r.priority = message->priority, r.tag = tag_in(message->payload), r.ms = left_of_lease_ms(message), r.key = 1;
    note(self, r);
    pthread_mutex_lock(&self->lock);
    dice = next_random(&self->random);
    pthread_mutex_unlock(&self->lock);
    nap_us(dice % 400 == 7 ? (POOL_LEASE_MS + 400) * 1000 : (int64_t)(dice >> 32) % 8000);
    result = dice % 32 == 0 ? PGQRS_ERR_HANDLER : dice % 32 == 1 ? pgqrs_message_retry(message, 50, "later") : PGQRS_OK;
    r.op = PROOF_FINISH, r.at_us = 0, r.result = (int32_t)result;
    note(self, r);
    return result;
}

static pgqrs_store *volatile working;
static void on_term(int number)
{
    (void)number;
    if (working)
        pgqrs_stop(working);
}

static void stop_on_term(actor *self)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_term;
    working = self->store;
    sigaction(SIGTERM, &action, NULL);
}

static int looper(actor *self)
{
    pgqrs_work_desc desc;
    memset(&desc, 0, sizeof(desc));
    if (!open_patiently(self))
        return 0;
    stop_on_term(self);
    desc.batch = 4;
    while (!stopping()) {
        /* Now and then it ends by itself and gives back what it has not started. */
        desc.max_messages = 20 + below(&self->random, 200);
        look_at(self, "work", pgqrs_work(self->store, queue_of(self), handle, self, &desc));
    }
    return 0;
}

static int pool_looper(actor *self)
{
    pgqrs_work_desc desc;
    memset(&desc, 0, sizeof(desc));
    if (!open_patiently(self))
        return 0;
    stop_on_term(self);
    desc.threads = THREADS;
    while (!stopping()) {
        desc.batch = 4 + below(&self->random, 28);
        desc.max_messages = 100 + below(&self->random, 500);
        look_at(self, "work on threads", pgqrs_work(self->store, queue_of(self), handle_on_thread, self, &desc));
    }
    return 0;
}

/* --- one store, and threads that enqueue through it --- */

typedef struct talker {
    actor self;
    pgqrs_producer *producer;
    pthread_t thread;
    saying handed; /* over, and not flushed yet: what became of it is not known */
} talker;

static void talk(talker *t, saying *all)
{
    pgqrs_error err;
    pgqrs_result result;
    prepare_saying(&t->self, all, 1);
    result = pgqrs_producer_enqueue(t->producer, queue_of(&t->self), all->items[0].payload, &all->items[0].desc, all->receipts, &err);
    note_said(&t->self, all, result);
    look_at(&t->self, "producer_enqueue", result);
}

/* Several are handed over, in this order; then a flush says that all of them are there. */
static void hand_over(talker *t)
{
    saying *all = &t->handed;
    pgqrs_result result = PGQRS_OK, accepted;
    size_t i;
    prepare_saying(&t->self, all, 2 + (size_t)below(&t->self.random, 6));
    for (i = 0; i < all->count; i++) {
        accepted = pgqrs_producer_hand_over(t->producer, queue_of(&t->self), all->items[i].payload, &all->items[i].desc, NULL);
        memset(&all->receipts[i], 0, sizeof(all->receipts[i]));
        if (accepted)
            result = accepted;
    }
    accepted = pgqrs_producer_flush(t->producer, NULL);
    /* A flush speaks for all threads: one that failed says nothing about these. */
    if (result || accepted)
        result = PGQRS_ERR_OUTCOME_UNKNOWN;
    note_said(&t->self, all, result);
    look_at(&t->self, "hand_over", result);
}

static void *talk_on_thread(void *user)
{
    talker *t = (talker *)user;
    saying *all = (saying *)calloc(1, sizeof(*all));
    while (all && going()) {
        if (chance(&t->self.random, 80))
            talk(t, all);
        else
            hand_over(t);
        nap_us(below(&t->self.random, 40000));
    }
    free(all);
    return NULL;
}

/* Keys are left out by hand_over's batches: a duplicate has no receipt there. */
static int pool_producer(actor *self)
{
    static talker talkers[THREADS];
    pgqrs_producer *producer;
    pgqrs_error err;
    pgqrs_result result;
    int i;
    if (!open_patiently(self))
        return 0;
    producer = pgqrs_producer_open(self->store, NULL);
    if (!producer)
        return 21;
    for (i = 0; i < THREADS; i++) {
        begin_actor(&talkers[i].self, self->process + 1 + i, self->queue);
        talkers[i].producer = producer;
        if (pthread_create(&talkers[i].thread, NULL, talk_on_thread, &talkers[i]) != 0)
            _exit(22);
    }
    for (i = 0; i < THREADS; i++)
        pthread_join(talkers[i].thread, NULL);
    result = pgqrs_producer_close(producer, &err);
    look_at(self, "producer_close", result);
    return 0;
}

/* --- one that is stopped until its lease is over, and then tries everything --- */

typedef struct final_picture {
    pgqrs_state state;
    int32_t attempt;
    int64_t finished_at_us, worker_id;
    char reason[80];
} final_picture;

/* What is over does not change any more. False: it is not over, or cannot be read now. */
static bool take_picture(actor *self, int64_t id, final_picture *picture)
{
    pgqrs_message *message = NULL;
    bool over = pgqrs_message_get(self->store, id, &message) == PGQRS_OK && message &&
                (message->state == PGQRS_ARCHIVED || message->state == PGQRS_DEAD);
    memset(picture, 0, sizeof(*picture));
    if (over) {
        picture->state = message->state, picture->attempt = message->attempt;
        picture->finished_at_us = message->finished_at_us, picture->worker_id = message->worker_id;
        snprintf(picture->reason, sizeof(picture->reason), "%s", message->reason ? message->reason : "-");
    }
    pgqrs_free(message);
    return over;
}

static void expect_refused(actor *self, const char *what, pgqrs_result result)
{
    if (result == PGQRS_ERR_LEASE_LOST) {
        __sync_fetch_and_add(&W.page->refused, 1);
        return;
    }
    if (W.errors_are_expected && result != PGQRS_OK)
        return;
    /* By its own clock, which is the one that decides on SQLite, the lease lasts; somebody else's token would have decided otherwise,
     * and that is what the checker looks at. */
    if (result == PGQRS_OK && W.sleepers_freeze && !W.server)
        return;
    __sync_fetch_and_add(&W.page->unexpected, 1);
    fprintf(stderr, "# UNEXPECTED: process %d, late %s: %s\n", self->process, what, pgqrs_result_name(result));
}

static void try_everything(actor *self, const pgqrs_message *message)
{
    static const pgqrs_verdict verdicts[] = {PGQRS_ARCHIVE, PGQRS_DELETE, PGQRS_RETRY, PGQRS_RELEASE, PGQRS_GIVE_BACK, PGQRS_REJECT};
    final_picture before, after;
    bool over = take_picture(self, message->id, &before);
    pgqrs_result each = PGQRS_OK, result;
    size_t i;
    expect_refused(self, "extend", extend_by_hand(self, message, LEASE_MS));
    for (i = 0; i < sizeof(verdicts) / sizeof(verdicts[0]); i++) {
        pgqrs_settlement item = pgqrs_settlement_for(message, verdicts[i]);
        expect_refused(self, "verdict", settle_by_hand(self, message, &item));
    }
    if (W.sleepers_freeze && !W.server)
        return;
    for (i = 0; i < sizeof(verdicts) / sizeof(verdicts[0]); i++) {
        pgqrs_settlement item = pgqrs_settlement_for(message, verdicts[i]);
        result = pgqrs_settle(self->store, &item, 1, NULL, NULL, NULL);
        expect_refused(self, "settle", result == PGQRS_OK ? item.result : result);
    }
    result = pgqrs_archive_many(self->store, message, 1, &each);
    expect_refused(self, "archive_many", result == PGQRS_OK ? each : result);
    result = pgqrs_delete_many(self->store, message, 1, &each);
    expect_refused(self, "delete_many", result == PGQRS_OK ? each : result);
    result = pgqrs_release_many(self->store, message, 1, NULL, &each);
    expect_refused(self, "release_many", result == PGQRS_OK ? each : result);
    result = pgqrs_extend_many(self->store, message, 1, LEASE_MS, &each);
    expect_refused(self, "extend_many", result == PGQRS_OK ? each : result);
    if (over && (!take_picture(self, message->id, &after) || memcmp(&before, &after, sizeof(before)) != 0)) {
        __sync_fetch_and_add(&W.page->unexpected, 1);
        fprintf(stderr, "# UNEXPECTED: process %d changed message %" PRId64 " after its end\n", self->process, message->id);
    }
}

static int sleepwalker(actor *self)
{
    static holding held;
    if (!open_patiently(self))
        return 0;
    while (going()) {
        pgqrs_dequeue_desc desc = some_claim(self);
        size_t i;
        desc.limit = 1 + desc.limit % 2;
        if (claim(self, &held, &desc) != PGQRS_OK)
            continue;
        if (held.batch->count > 0)
            sleepwalk();
        for (i = 0; i < held.batch->count; i++)
            try_everything(self, &held.batch->items[i]);
        pgqrs_free(held.batch);
        held.batch = NULL;
        nap_ms(10);
    }
    return 0;
}

#endif /* PGQRS_PROOF_QUEUE_H */
