/* The history checker: reads what every process wrote down and what the store held in the end, and says what cannot be.
 *
 * It only claims what is certain. A call happened somewhere between its '?' and its '!'; one without '!' may have happened until its
 * process died, or not at all; a lease lasts at least from the answer to (begin of the claim + its length) and at most to (answer +
 * its length). So a violation is never a matter of scheduling. tests/proof_forged.c shows that each rule finds what it is for. */
#ifndef PGQRS_PROOF_CHECK_H
#define PGQRS_PROOF_CHECK_H

#include "proof_history.h"
#include "../pgqrs.h"

/* Columns: name, what it means when it is broken. */
#define PROOF_RULES(X)                                                                                                                \
    X(LOST, "an acknowledged message is gone")                                                                                        \
    X(LIED, "a call that failed and changed nothing has stored a message")                                                           \
    X(INVENTED, "the store has something that nobody said")                                                                          \
    X(DOUBLED, "one enqueue is there twice")                                                                                          \
    X(MIXED, "an id has the payload of another message")                                                                              \
    X(PARTIAL, "a batch was stored in part")                                                                                          \
    X(DEDUP, "two unfinished messages had the same key")                                                                              \
    X(UNFINISHED, "a message never came to an end")                                                                                   \
    X(UNDONE, "an acknowledged verdict is not what the store shows")                                                                  \
    X(TWICE, "two verdicts were acknowledged where there can be one")                                                                 \
    X(AFTER_END, "a message was delivered after its end was acknowledged")                                                            \
    X(OVERLAP, "two consumers held one message at the same time")                                                                     \
    X(FENCE, "two deliveries of a message have the same lease")                                                                       \
    X(STALE, "a verdict was accepted from somebody who no longer had the lease")                                                      \
    X(REFUSED, "a verdict was refused to the one who had the lease")                                                                  \
    X(ATTEMPTS, "attempts were counted wrongly")                                                                                      \
    X(DEAD_EARLY, "a message is dead that nobody rejected and that has attempts left")                                               \
    X(ORDER, "delivered in the wrong order")                                                                                          \
    X(STARVED, "a claim left out a message that it had to give")                                                                      \
    X(RUN_LOST, "an acknowledged run is gone, or has not succeeded")                                                                  \
    X(STEP_AGAIN, "a step that was stored was executed again")                                                                        \
    X(OUTPUT, "a step gave different outputs at different times")                                                                     \
    X(MONEY, "a transactional step did not happen exactly once")                                                                      \
    X(RUN_AFTER_END, "a run went on after its end")

typedef enum proof_rule {
#define X(name, text) PROOF_RULE_##name,
    PROOF_RULES(X)
#undef X
    PROOF_RULE_COUNT
} proof_rule;

/* What holds in this proof. */
typedef struct proof_terms {
    int32_t max_attempts;
    int64_t lease_us;       /* of runs */
    int64_t slack_us;       /* what clocks may differ by within one machine, at the ends of leases */
    int64_t recovery_us;    /* what a claim may need to see that a lease is over or a time has come */
    int64_t afterlife_us;   /* a server may carry out what a process sent so long after that died */
    int64_t backoff_max_us; /* of the queues, jitter included */
    unsigned by_hand;       /* bit n: all of queue n's consumers write down every claim, so nobody holds anything unseen */
    unsigned fifo;          /* bit n: queue n has one consumer that never fails, and one priority */
    bool claims_repeat;     /* connections break: a claim that was carried out and whose answer was lost is repeated inside of the
                               call, and what the first one took is nobody's until its lease ends */
    bool clocks_differ;     /* the clocks that decide leases are not the same: only tokens keep consumers apart */
    int32_t steps;          /* of each run */
} proof_terms;

/* The end of it all, read from the store. */
typedef struct proof_stored {
    int64_t id, tag;
    int32_t queue, attempt;
    pgqrs_state state;
} proof_stored;

typedef struct proof_run_end {
    int64_t id, tag;
    bool success;
    int64_t effects;      /* what the transactional step left behind */
    int64_t outputs[8];   /* of its steps; 0: not done */
} proof_run_end;

typedef enum proof_outcome { PROOF_UNKNOWN, PROOF_DONE, PROOF_NOT_DONE } proof_outcome;

typedef struct proof_said {
    int64_t tag, id, t0, t1, delay_us;
    int32_t process, call, count, queue, priority, key;
    proof_outcome outcome;
    bool duplicate;
} proof_said;

typedef struct proof_claim {
    int64_t t0, t1, lease_us;
    int32_t process, call, queue, limit, count;
    proof_outcome outcome;
} proof_claim;

typedef struct proof_taken {
    int64_t id, lease, tag, t0, t1, lease_us;
    int32_t process, call, queue, attempt, priority;
    size_t place; /* in the history: the order within a claim */
    bool handler; /* a handler started; t0 is when, and lease_us what was left */
    int64_t finished; /* handler: when it ended */
    bool gave_back;   /* handler: that was its verdict */
    bool renewed;     /* handler: a thread renews the lease while it runs */
} proof_taken;

typedef struct proof_verdict {
    int64_t id, lease, t0, t1, ms;
    int32_t process, call, result;
    proof_op op;
    proof_outcome outcome;
} proof_verdict;

typedef struct proof_stored_list {
    proof_stored *items;
    size_t count, room;
} proof_stored_list;

typedef struct proof_run_end_list {
    proof_run_end *items;
    size_t count, room;
} proof_run_end_list;

typedef struct proof_said_list {
    proof_said *items;
    size_t count, room;
} proof_said_list;

typedef struct proof_claim_list {
    proof_claim *items;
    size_t count, room;
} proof_claim_list;

typedef struct proof_taken_list {
    proof_taken *items;
    size_t count, room;
} proof_taken_list;

typedef struct proof_verdict_list {
    proof_verdict *items;
    size_t count, room;
} proof_verdict_list;

typedef struct proof_check {
    const proof_terms *terms;
    const proof_history *history;
    const proof_stored_list *stored;
    const proof_run_end_list *runs;
    proof_said_list said;
    proof_claim_list claims;
    proof_taken_list taken;
    proof_verdict_list verdicts, extends;
    int64_t *died_at; /* by process; INT64_MAX: it did not */
    int32_t processes;
    /* what came out */
    int64_t broken[PROOF_RULE_COUNT], violations;
    int64_t killed_while_holding, slowest_recovery_us; /* from the end of a dead holder's lease to the next delivery */
    FILE *out;         /* NULL: silent */
    int64_t out_limit; /* violations shown; the rest is counted */
} proof_check;

#define PROOF_APPEND(list, item)                                                                                                      \
    do {                                                                                                                              \
        void *more_ = proof_more((list).items, (list).count, &(list).room, sizeof(*(list).items));                                   \
        memcpy(&(list).items, &more_, sizeof(more_));                                                                                 \
        (list).items[(list).count++] = (item);                                                                                        \
    } while (0)

static const char *proof_rule_name(proof_rule rule)
{
    static const char *const names[] = {
#define X(name, text) #name,
        PROOF_RULES(X)
#undef X
    };
    return names[rule];
}

static const char *proof_rule_text(proof_rule rule)
{
    static const char *const texts[] = {
#define X(name, text) text,
        PROOF_RULES(X)
#undef X
    };
    return texts[rule];
}

static void proof_broken(proof_check *check, proof_rule rule, int64_t id, const char *format, ...)
{
    va_list args;
    check->broken[rule]++;
    if (++check->violations > check->out_limit || !check->out)
        return;
    fprintf(check->out, "VIOLATION %s (%s), id %" PRId64 ": ", proof_rule_name(rule), proof_rule_text(rule), id);
    va_start(args, format);
    vfprintf(check->out, format, args);
    va_end(args);
    fputc('\n', check->out);
}

/* --- from records to calls --- */

static proof_outcome proof_outcome_of(int32_t result)
{
    if (result == PGQRS_OK)
        return PROOF_DONE;
    return result == PGQRS_ERR_OUTCOME_UNKNOWN ? PROOF_UNKNOWN : PROOF_NOT_DONE;
}

static int64_t proof_death_of(const proof_check *check, int32_t process)
{
    return process < check->processes ? check->died_at[process] : INT64_MAX;
}

/* After that nothing happens any more that the process wanted. */
static int64_t proof_end_of(const proof_check *check, int32_t process)
{
    int64_t death = proof_death_of(check, process);
    return death == INT64_MAX ? death : death + check->terms->afterlife_us;
}

static void proof_find_deaths(proof_check *check)
{
    size_t i;
    int32_t last = 0;
    for (i = 0; i < check->history->count; i++) {
        const proof_record *r = &check->history->items[i];
        if (r->process > last)
            last = r->process;
        if (r->op == PROOF_DIED && r->id > last)
            last = (int32_t)r->id;
    }
    check->processes = last + 1;
    check->died_at = (int64_t *)malloc((size_t)check->processes * sizeof(int64_t));
    if (!check->died_at)
        exit(98);
    for (i = 0; i < (size_t)check->processes; i++)
        check->died_at[i] = INT64_MAX;
    for (i = 0; i < check->history->count; i++)
        if (check->history->items[i].op == PROOF_DIED)
            check->died_at[check->history->items[i].id] = check->history->items[i].at_us;
}

/* The last entry that fits, looking back over the calls of one process; they are read in the order they were written in. */
#define PROOF_LOOK_BACK(list, found, condition)                                                                                       \
    do {                                                                                                                              \
        size_t n_ = (list).count;                                                                                                     \
        found = NULL;                                                                                                                 \
        while (n_-- > 0 && (list).items[n_].process == r->process && !found)                                                          \
            if ((list).items[n_].call == r->call && (condition))                                                                      \
                found = &(list).items[n_];                                                                                            \
    } while (0)

static void proof_learn_enqueue(proof_check *check, const proof_record *r)
{
    proof_said said, *found;
    if (r->mark == '?') {
        memset(&said, 0, sizeof(said));
        said.tag = r->tag, said.t0 = r->at_us, said.t1 = proof_end_of(check, r->process), said.delay_us = r->ms * 1000;
        said.process = r->process, said.call = r->call, said.count = r->count, said.queue = r->queue;
        said.priority = r->priority, said.key = r->key;
        PROOF_APPEND(check->said, said);
        return;
    }
    PROOF_LOOK_BACK(check->said, found, check->said.items[n_].tag == r->tag);
    if (!found)
        return;
    found->outcome = proof_outcome_of(r->result);
    found->t1 = r->at_us;
    found->id = r->id;
    found->duplicate = r->attempt == 1;
}

static void proof_learn_claim(proof_check *check, const proof_record *r)
{
    proof_claim claim, *found;
    if (r->mark == '?') {
        memset(&claim, 0, sizeof(claim));
        claim.t0 = r->at_us, claim.t1 = proof_end_of(check, r->process), claim.lease_us = r->ms * 1000;
        claim.process = r->process, claim.call = r->call, claim.queue = r->queue, claim.limit = r->count;
        PROOF_APPEND(check->claims, claim);
        return;
    }
    PROOF_LOOK_BACK(check->claims, found, true);
    if (!found)
        return;
    found->outcome = proof_outcome_of(r->result);
    found->t1 = r->at_us;
    found->count = r->count;
}

static void proof_learn_got(proof_check *check, const proof_record *r, size_t place)
{
    proof_taken taken;
    proof_claim *claim;
    PROOF_LOOK_BACK(check->claims, claim, true);
    if (!claim)
        return;
    memset(&taken, 0, sizeof(taken));
    taken.id = r->id, taken.lease = r->lease, taken.tag = r->tag, taken.attempt = r->attempt, taken.priority = r->priority;
    taken.t0 = claim->t0, taken.t1 = claim->t1, taken.lease_us = claim->lease_us;
    taken.process = r->process, taken.call = r->call, taken.queue = claim->queue, taken.place = place;
    PROOF_APPEND(check->taken, taken);
}

static void proof_learn_handler(proof_check *check, const proof_record *r, size_t place)
{
    proof_taken taken;
    size_t i = check->taken.count;
    if (r->op == PROOF_START) {
        memset(&taken, 0, sizeof(taken));
        taken.id = r->id, taken.lease = r->lease, taken.tag = r->tag, taken.attempt = r->attempt, taken.priority = r->priority;
        taken.t0 = taken.t1 = r->at_us, taken.lease_us = r->ms * 1000, taken.finished = proof_death_of(check, r->process);
        taken.process = r->process, taken.call = -1, taken.queue = r->queue, taken.place = place, taken.handler = true;
        taken.renewed = r->key == 1;
        PROOF_APPEND(check->taken, taken);
        return;
    }
    while (i-- > 0 && check->taken.items[i].process == r->process) {
        proof_taken *found = &check->taken.items[i];
        if (found->handler && found->id == r->id && found->lease == r->lease) {
            found->finished = r->at_us;
            found->gave_back = r->count == PROOF_GIVE_BACK;
            return;
        }
    }
}

static void proof_learn_verdict(proof_check *check, const proof_record *r)
{
    proof_verdict verdict, *found;
    if (r->mark == '?') {
        memset(&verdict, 0, sizeof(verdict));
        verdict.id = r->id, verdict.lease = r->lease, verdict.op = r->op, verdict.ms = r->ms;
        verdict.process = r->process, verdict.call = r->call, verdict.t0 = r->at_us, verdict.t1 = proof_end_of(check, r->process);
        PROOF_APPEND(check->verdicts, verdict);
        return;
    }
    PROOF_LOOK_BACK(check->verdicts, found,
                    check->verdicts.items[n_].op == r->op && check->verdicts.items[n_].id == r->id &&
                        check->verdicts.items[n_].lease == r->lease);
    if (!found)
        return;
    found->outcome = proof_outcome_of(r->result);
    found->result = r->result;
    found->t1 = r->at_us;
}

static void proof_learn(proof_check *check)
{
    size_t i;
    for (i = 0; i < check->history->count; i++) {
        const proof_record *r = &check->history->items[i];
        switch (r->op) {
        case PROOF_ENQUEUE: proof_learn_enqueue(check, r); break;
        case PROOF_CLAIM: proof_learn_claim(check, r); break;
        case PROOF_GOT: proof_learn_got(check, r, i); break;
        case PROOF_START:
        case PROOF_FINISH: proof_learn_handler(check, r, i); break;
        case PROOF_ARCHIVE:
        case PROOF_DELETE:
        case PROOF_RETRY:
        case PROOF_RELEASE:
        case PROOF_GIVE_BACK:
        case PROOF_REJECT:
        case PROOF_EXTEND: proof_learn_verdict(check, r); break;
        default: break;
        }
    }
}

/* --- sorting and finding --- */

#define PROOF_COMPARE(a, b) ((a) < (b) ? -1 : (a) > (b))

static int proof_by_tag(const void *a, const void *b)
{
    return PROOF_COMPARE(((const proof_said *)a)->tag, ((const proof_said *)b)->tag);
}

static int proof_by_id_and_time(const void *a, const void *b)
{
    const proof_taken *x = (const proof_taken *)a, *y = (const proof_taken *)b;
    int order = PROOF_COMPARE(x->id, y->id);
    if (!order)
        order = PROOF_COMPARE(x->t0, y->t0);
    return order ? order : PROOF_COMPARE(x->place, y->place);
}

static int proof_verdict_by_id(const void *a, const void *b)
{
    const proof_verdict *x = (const proof_verdict *)a, *y = (const proof_verdict *)b;
    int order = PROOF_COMPARE(x->id, y->id);
    return order ? order : PROOF_COMPARE(x->t0, y->t0);
}

static int proof_verdict_by_lease(const void *a, const void *b)
{
    const proof_verdict *x = (const proof_verdict *)a, *y = (const proof_verdict *)b;
    int order = PROOF_COMPARE(x->lease, y->lease);
    return order ? order : PROOF_COMPARE(x->t0, y->t0);
}

static int proof_stored_by_id(const void *a, const void *b)
{
    return PROOF_COMPARE(((const proof_stored *)a)->id, ((const proof_stored *)b)->id);
}

static int proof_claim_by_time(const void *a, const void *b)
{
    return PROOF_COMPARE(((const proof_claim *)a)->t0, ((const proof_claim *)b)->t0);
}

static void proof_sort(void *items, size_t count, size_t size, int (*compare)(const void *, const void *))
{
    if (count > 1)
        qsort(items, count, size, compare);
}

/* An extension holds for all messages of its lease, so these have a list of their own. */
static void proof_order(proof_check *check)
{
    size_t i;
    for (i = 0; i < check->verdicts.count; i++)
        if (check->verdicts.items[i].op == PROOF_EXTEND)
            PROOF_APPEND(check->extends, check->verdicts.items[i]);
    proof_sort(check->said.items, check->said.count, sizeof(proof_said), proof_by_tag);
    proof_sort(check->taken.items, check->taken.count, sizeof(proof_taken), proof_by_id_and_time);
    proof_sort(check->verdicts.items, check->verdicts.count, sizeof(proof_verdict), proof_verdict_by_id);
    proof_sort(check->extends.items, check->extends.count, sizeof(proof_verdict), proof_verdict_by_lease);
    proof_sort(check->claims.items, check->claims.count, sizeof(proof_claim), proof_claim_by_time);
    proof_sort(check->stored->items, check->stored->count, sizeof(proof_stored), proof_stored_by_id);
}

/* What was handed over got its id later: from the store, or from whoever it was delivered to. */
static void proof_find_ids(proof_check *check)
{
    size_t i, j;
    for (i = 0; i < check->said.count; i++) {
        proof_said *said = &check->said.items[i];
        if (said->outcome != PROOF_DONE || said->id)
            continue;
        for (j = 0; j < check->stored->count && !said->id; j++)
            if (check->stored->items[j].tag == said->tag)
                said->id = check->stored->items[j].id;
        for (j = 0; j < check->taken.count && !said->id; j++)
            if (check->taken.items[j].tag == said->tag)
                said->id = check->taken.items[j].id;
    }
}

/* The first entry of a sorted list whose member is not below the value. */
#define PROOF_FIRST(list, member, value, at)                                                                                          \
    do {                                                                                                                              \
        size_t low_ = 0, high_ = (list).count;                                                                                        \
        while (low_ < high_) {                                                                                                        \
            size_t middle_ = (low_ + high_) / 2;                                                                                      \
            if ((list).items[middle_].member < (value))                                                                               \
                low_ = middle_ + 1;                                                                                                   \
            else                                                                                                                      \
                high_ = middle_;                                                                                                      \
        }                                                                                                                             \
        at = low_;                                                                                                                    \
    } while (0)

/* All that is known of one message. */
typedef struct proof_life {
    int64_t id;
    const proof_said *said;     /* NULL: not known under this id */
    const proof_stored *stored; /* NULL: not there in the end */
    const proof_taken *taken;
    size_t taken_count;
    const proof_verdict *verdicts;
    size_t verdict_count;
} proof_life;

static const proof_said *proof_said_by_tag(const proof_check *check, int64_t tag)
{
    size_t at;
    PROOF_FIRST(check->said, tag, tag, at);
    return at < check->said.count && check->said.items[at].tag == tag ? &check->said.items[at] : NULL;
}

static proof_life proof_life_of(const proof_check *check, int64_t id)
{
    proof_life life;
    size_t at;
    memset(&life, 0, sizeof(life));
    life.id = id;
    PROOF_FIRST(*check->stored, id, id, at);
    if (at < check->stored->count && check->stored->items[at].id == id)
        life.stored = &check->stored->items[at];
    PROOF_FIRST(check->taken, id, id, at);
    life.taken = check->taken.count ? &check->taken.items[at] : NULL;
    while (at + life.taken_count < check->taken.count && check->taken.items[at + life.taken_count].id == id)
        life.taken_count++;
    PROOF_FIRST(check->verdicts, id, id, at);
    life.verdicts = check->verdicts.count ? &check->verdicts.items[at] : NULL;
    while (at + life.verdict_count < check->verdicts.count && check->verdicts.items[at + life.verdict_count].id == id)
        life.verdict_count++;
    if (life.stored)
        life.said = proof_said_by_tag(check, life.stored->tag);
    else if (life.taken_count)
        life.said = proof_said_by_tag(check, life.taken[0].tag);
    return life;
}

static bool proof_is_final(proof_op op)
{
    return op == PROOF_ARCHIVE || op == PROOF_DELETE || op == PROOF_REJECT;
}

static bool proof_has_verdict(const proof_life *life, proof_op op, bool or_unknown)
{
    size_t i;
    for (i = 0; i < life->verdict_count; i++) {
        const proof_verdict *v = &life->verdicts[i];
        if (v->op == op && (v->outcome == PROOF_DONE || (or_unknown && v->outcome == PROOF_UNKNOWN)))
            return true;
    }
    return false;
}

static bool proof_has_handler(const proof_life *life)
{
    size_t i;
    for (i = 0; i < life->taken_count; i++)
        if (life->taken[i].handler)
            return true;
    return false;
}

static bool proof_by_hand(const proof_check *check, int32_t queue)
{
    return (check->terms->by_hand >> queue & 1u) != 0;
}

/* --- leases --- */

/* Until when a lease surely lasts: sure; when it is surely over: latest. Extensions that begin at `before_us` or later do not count. */
static void proof_lease_ends(const proof_check *check, const proof_taken *taken, int64_t before_us, int64_t *sure, int64_t *latest)
{
    size_t at;
    *sure = taken->t0 + taken->lease_us;
    *latest = taken->t1 + taken->lease_us;
    PROOF_FIRST(check->extends, lease, taken->lease, at);
    for (; at < check->extends.count && check->extends.items[at].lease == taken->lease; at++) {
        const proof_verdict *extend = &check->extends.items[at];
        /* One that came too late extends nothing, even if it was accepted: that is a violation of its own. */
        if (extend->outcome == PROOF_NOT_DONE || extend->t0 >= before_us || extend->t0 > *latest)
            continue;
        if (extend->outcome == PROOF_DONE && extend->id == taken->id && *sure < extend->t0 + extend->ms * 1000)
            *sure = extend->t0 + extend->ms * 1000;
        if (extend->t1 == INT64_MAX)
            *latest = INT64_MAX;
        else if (*latest < extend->t1 + extend->ms * 1000)
            *latest = extend->t1 + extend->ms * 1000;
    }
}

static const proof_verdict *proof_first_verdict(const proof_life *life, const proof_taken *taken)
{
    size_t i;
    for (i = 0; i < life->verdict_count; i++) {
        const proof_verdict *v = &life->verdicts[i];
        if (v->lease == taken->lease && v->op != PROOF_EXTEND && v->outcome != PROOF_NOT_DONE)
            return v;
    }
    return NULL;
}

/* Who was stopped may have missed to renew a lease. */
static bool proof_was_stopped(const proof_check *check, int32_t process)
{
    size_t i;
    for (i = 0; i < check->history->count; i++)
        if (check->history->items[i].op == PROOF_RESUMED && check->history->items[i].id == process)
            return true;
    return false;
}

/* The time during which nobody else may have the message. */
static void proof_hold(const proof_check *check, const proof_life *life, const proof_taken *taken, int64_t *from, int64_t *until)
{
    const proof_verdict *verdict = proof_first_verdict(life, taken);
    int64_t latest;
    proof_lease_ends(check, taken, INT64_MAX, until, &latest);
    *from = taken->t1;
    *until -= check->terms->slack_us;
    if (taken->renewed && !check->terms->claims_repeat && !proof_was_stopped(check, taken->process))
        *until = taken->finished;
    if (taken->handler && taken->finished < *until)
        *until = taken->finished;
    if (verdict && verdict->t0 < *until)
        *until = verdict->t0;
}

static void proof_check_overlap(proof_check *check, const proof_life *life)
{
    size_t i, j;
    for (i = 0; i < life->taken_count; i++)
        for (j = i + 1; j < life->taken_count; j++) {
            const proof_taken *a = &life->taken[i], *b = &life->taken[j];
            int64_t a_from, a_until, b_from, b_until;
            if (a->lease == b->lease) {
                proof_broken(check, PROOF_RULE_FENCE, life->id, "lease %" PRId64 " of processes %d and %d", a->lease, a->process,
                             b->process);
                continue;
            }
            if (check->terms->clocks_differ)
                continue;
            proof_hold(check, life, a, &a_from, &a_until);
            proof_hold(check, life, b, &b_from, &b_until);
            if (a_from < b_until && b_from < a_until && a_from < a_until && b_from < b_until)
                proof_broken(check, PROOF_RULE_OVERLAP, life->id,
                             "process %d from %" PRId64 " to %" PRId64 " (attempt %d), process %d from %" PRId64 " to %" PRId64
                             " (attempt %d)",
                             a->process, a_from, a_until, a->attempt, b->process, b_from, b_until, b->attempt);
        }
}

/* --- verdicts --- */

static const proof_taken *proof_taken_for(const proof_life *life, const proof_verdict *verdict)
{
    size_t i;
    for (i = 0; i < life->taken_count; i++)
        if (life->taken[i].lease == verdict->lease)
            return &life->taken[i];
    return NULL;
}

/* Somebody else got it after this delivery, and before the verdict was even sent. */
static const proof_taken *proof_successor(const proof_life *life, const proof_taken *taken, int64_t before_us)
{
    size_t i;
    for (i = 0; i < life->taken_count; i++) {
        const proof_taken *other = &life->taken[i];
        if (!other->handler && other->lease != taken->lease && other->t0 > taken->t1 && other->t1 < before_us)
            return other;
    }
    return NULL;
}

static bool proof_settled_before(const proof_life *life, const proof_verdict *verdict)
{
    size_t i;
    for (i = 0; i < life->verdict_count; i++) {
        const proof_verdict *v = &life->verdicts[i];
        if (v != verdict && v->lease == verdict->lease && v->op != PROOF_EXTEND && v->outcome != PROOF_NOT_DONE &&
            v->t0 < verdict->t1)
            return true;
    }
    return false;
}

/* Where replies get lost, what only frees a message is done when the message is free of this lease, by whatever; it changed nothing
 * then, which all other rules see to. */
static bool proof_only_frees(const proof_check *check, const proof_verdict *v)
{
    return check->terms->claims_repeat && (v->op == PROOF_RELEASE || v->op == PROOF_RETRY || v->op == PROOF_GIVE_BACK);
}

static void proof_check_accepted(proof_check *check, const proof_life *life, const proof_verdict *v, const proof_taken *taken)
{
    int64_t sure, latest;
    const proof_taken *other = proof_successor(life, taken, v->t0);
    if (proof_only_frees(check, v))
        return;
    proof_lease_ends(check, taken, v->t0, &sure, &latest);
    if (other)
        proof_broken(check, PROOF_RULE_STALE, life->id, "%s by process %d at %" PRId64 ", but process %d had it since %" PRId64,
                     proof_op_name(v->op), v->process, v->t0, other->process, other->t1);
    else if (!check->terms->clocks_differ && !taken->handler && latest != INT64_MAX && v->t0 > latest + check->terms->slack_us)
        proof_broken(check, PROOF_RULE_STALE, life->id, "%s by process %d at %" PRId64 ", but its lease ended at %" PRId64,
                     proof_op_name(v->op), v->process, v->t0, latest);
}

static void proof_check_refused(proof_check *check, const proof_life *life, const proof_verdict *v, const proof_taken *taken)
{
    int64_t sure, latest;
    if (check->terms->clocks_differ || taken->handler || proof_settled_before(life, v))
        return;
    proof_lease_ends(check, taken, v->t0, &sure, &latest);
    if (v->t1 < sure - check->terms->slack_us)
        proof_broken(check, PROOF_RULE_REFUSED, life->id, "%s by process %d at %" PRId64 ", the lease lasts until %" PRId64,
                     proof_op_name(v->op), v->process, v->t1, sure);
}

static void proof_check_verdicts(proof_check *check, const proof_life *life)
{
    size_t i, j;
    for (i = 0; i < life->verdict_count; i++) {
        const proof_verdict *v = &life->verdicts[i];
        const proof_taken *taken = proof_taken_for(life, v);
        if (!taken) {
            if (v->outcome == PROOF_DONE)
                proof_broken(check, PROOF_RULE_STALE, life->id, "%s with a lease that nobody was given", proof_op_name(v->op));
            continue;
        }
        if (v->outcome == PROOF_DONE)
            proof_check_accepted(check, life, v, taken);
        else if (v->result == PGQRS_ERR_LEASE_LOST)
            proof_check_refused(check, life, v, taken);
        for (j = i + 1; j < life->verdict_count && v->outcome == PROOF_DONE && v->op != PROOF_EXTEND; j++) {
            const proof_verdict *w = &life->verdicts[j];
            if (w->outcome == PROOF_DONE && w->op != PROOF_EXTEND &&
                (w->lease == v->lease || (proof_is_final(v->op) && proof_is_final(w->op))))
                proof_broken(check, PROOF_RULE_TWICE, life->id, "%s by process %d and %s by process %d", proof_op_name(v->op),
                             v->process, proof_op_name(w->op), w->process);
        }
    }
}

static void proof_check_after_end(proof_check *check, const proof_life *life)
{
    size_t i, j;
    for (i = 0; i < life->verdict_count; i++) {
        const proof_verdict *v = &life->verdicts[i];
        const proof_taken *own = proof_taken_for(life, v);
        if (!proof_is_final(v->op) || v->outcome != PROOF_DONE)
            continue;
        for (j = 0; j < life->taken_count; j++) {
            const proof_taken *taken = &life->taken[j];
            /* A handler may have been claimed long before it starts; its attempt tells whether that was later. */
            bool later = taken->handler ? own && taken->attempt > own->attempt : taken->t0 > v->t1;
            if (later && taken->lease != v->lease)
                proof_broken(check, PROOF_RULE_AFTER_END, life->id, "%s at %" PRId64 ", taken by process %d at %" PRId64,
                             proof_op_name(v->op), v->t1, taken->process, taken->t1);
        }
    }
}

/* --- attempts --- */

/* Claims that may have taken something which nobody wrote down. */
static int32_t proof_hidden_claims(const proof_check *check, int32_t queue, int64_t from, int64_t until)
{
    int32_t hidden = 0;
    size_t i;
    for (i = 0; i < check->claims.count && check->claims.items[i].t0 < until; i++) {
        const proof_claim *claim = &check->claims.items[i];
        if (claim->queue == queue && (claim->outcome == PROOF_UNKNOWN || check->terms->claims_repeat) && claim->t1 > from)
            hidden++;
    }
    return hidden;
}

static bool proof_gave_back(const proof_life *life, const proof_taken *taken, bool or_unknown)
{
    const proof_verdict *verdict = proof_first_verdict(life, taken);
    if (taken->handler)
        return taken->gave_back && or_unknown; /* whether the loop managed to store it is not known */
    return verdict && verdict->op == PROOF_GIVE_BACK && (or_unknown || verdict->outcome == PROOF_DONE);
}

/* Deliveries in between that stand elsewhere in the order, since one of the calls began to wait earlier: those with a number in between,
 * and those with the lower one that came while the call for the higher one waited. */
static int32_t proof_known_between(const proof_life *life, int32_t low, const proof_taken *high)
{
    int32_t known = 0;
    size_t i;
    for (i = 0; i < life->taken_count; i++) {
        const proof_taken *taken = &life->taken[i];
        known += (taken->attempt > low && taken->attempt < high->attempt) ||
                 (taken->attempt == low && taken->t0 >= high->t0 && taken->t1 <= high->t1);
    }
    return known;
}

static void proof_check_pair_of_attempts(proof_check *check, const proof_life *life, const proof_taken *a, const proof_taken *b)
{
    int32_t least = a->attempt + (proof_gave_back(life, a, true) ? 0 : 1);
    int32_t most = a->attempt + (proof_gave_back(life, a, false) ? 0 : 1);
    if (b->attempt < least)
        proof_broken(check, PROOF_RULE_ATTEMPTS, life->id, "attempt %d (process %d) is followed by %d (process %d)", a->attempt,
                     a->process, b->attempt, b->process);
    else if (proof_by_hand(check, b->queue) && b->attempt > most &&
             b->attempt > most + proof_known_between(life, a->attempt, b) +
                              proof_hidden_claims(check, b->queue, a->t0, b->t1))
        proof_broken(check, PROOF_RULE_ATTEMPTS, life->id, "attempt %d (process %d) is followed by %d (process %d), too many",
                     a->attempt, a->process, b->attempt, b->process);
}

static void proof_check_attempts(proof_check *check, const proof_life *life)
{
    size_t i;
    int32_t highest = 0;
    for (i = 0; i < life->taken_count; i++) {
        const proof_taken *taken = &life->taken[i];
        if (taken->attempt < 1 || taken->attempt > check->terms->max_attempts)
            proof_broken(check, PROOF_RULE_ATTEMPTS, life->id, "attempt %d of %d", taken->attempt, check->terms->max_attempts);
        if (taken->attempt > highest)
            highest = taken->attempt;
        if (i > 0 && !taken->handler && !life->taken[i - 1].handler && life->taken[i - 1].t1 < taken->t0)
            proof_check_pair_of_attempts(check, life, &life->taken[i - 1], taken);
    }
    if (life->taken_count && !life->taken[0].handler && proof_by_hand(check, life->taken[0].queue) && life->taken[0].attempt > 1 &&
        life->taken[0].attempt > 1 + proof_known_between(life, 0, &life->taken[0]) +
                                     proof_hidden_claims(check, life->taken[0].queue, life->said ? life->said->t0 : 0,
                                                         life->taken[0].t1))
        proof_broken(check, PROOF_RULE_ATTEMPTS, life->id, "the first delivery is attempt %d", life->taken[0].attempt);
    if (life->stored && life->stored->state == PGQRS_DEAD && proof_by_hand(check, life->stored->queue) &&
        life->stored->attempt > highest + proof_hidden_claims(check, life->stored->queue, life->said ? life->said->t0 : 0, INT64_MAX))
        proof_broken(check, PROOF_RULE_ATTEMPTS, life->id, "died with attempt %d after attempt %d, too many", life->stored->attempt,
                     highest);
    if (life->stored && life->stored->attempt < highest && !proof_has_verdict(life, PROOF_GIVE_BACK, true) &&
        !proof_has_handler(life))
        proof_broken(check, PROOF_RULE_ATTEMPTS, life->id, "ended with attempt %d after attempt %d", life->stored->attempt, highest);
}

/* Two handlers that started with the same number: one of the tries was not counted. */
static void proof_check_handlers(proof_check *check, const proof_life *life)
{
    size_t i, j;
    for (i = 0; i < life->taken_count; i++)
        for (j = i + 1; j < life->taken_count; j++) {
            const proof_taken *a = &life->taken[i], *b = &life->taken[j];
            if (a->handler && b->handler && a->attempt == b->attempt && a->lease != b->lease && !a->gave_back && !b->gave_back)
                proof_broken(check, PROOF_RULE_ATTEMPTS, life->id, "attempt %d twice, by processes %d and %d", a->attempt,
                             a->process, b->process);
        }
}

/* --- what is there in the end --- */

static void proof_check_end(proof_check *check, const proof_life *life)
{
    const proof_stored *stored = life->stored;
    const proof_said *said = life->said;
    bool deleted = proof_has_verdict(life, PROOF_DELETE, true);
    if (!stored)
        return;
    if (!said)
        proof_broken(check, PROOF_RULE_INVENTED, life->id, "tag %" PRId64, stored->tag);
    else if (said->outcome == PROOF_NOT_DONE)
        proof_broken(check, PROOF_RULE_LIED, life->id, "tag %" PRId64 " by process %d", stored->tag, said->process);
    else if (said->queue != stored->queue)
        proof_broken(check, PROOF_RULE_INVENTED, life->id, "said in queue %d, stored in %d", said->queue, stored->queue);
    else if (said->outcome == PROOF_DONE && (said->duplicate || said->id != life->id))
        proof_broken(check, said->duplicate ? PROOF_RULE_LIED : PROOF_RULE_MIXED, life->id,
                     "tag %" PRId64 " was acknowledged as %" PRId64, stored->tag, said->id);
    if (stored->state != PGQRS_ARCHIVED && stored->state != PGQRS_DEAD)
        proof_broken(check, PROOF_RULE_UNFINISHED, life->id, "state %d, attempt %d", (int)stored->state, stored->attempt);
    if (proof_has_verdict(life, PROOF_DELETE, false) ||
        (stored->state != PGQRS_ARCHIVED && proof_has_verdict(life, PROOF_ARCHIVE, false)) ||
        (stored->state != PGQRS_DEAD && proof_has_verdict(life, PROOF_REJECT, false)))
        proof_broken(check, PROOF_RULE_UNDONE, life->id, "it is in state %d", (int)stored->state);
    if (stored->state == PGQRS_DEAD && stored->attempt < check->terms->max_attempts &&
        !proof_has_verdict(life, PROOF_REJECT, true) && !proof_has_handler(life))
        proof_broken(check, PROOF_RULE_DEAD_EARLY, life->id, "attempt %d of %d", stored->attempt, check->terms->max_attempts);
    if (stored->state == PGQRS_ARCHIVED && !deleted && !proof_has_verdict(life, PROOF_ARCHIVE, true) && !proof_has_handler(life))
        proof_broken(check, PROOF_RULE_INVENTED, life->id, "archived by nobody");
}

static void proof_check_tags_of_deliveries(proof_check *check, const proof_life *life)
{
    size_t i;
    for (i = 0; i < life->taken_count; i++) {
        const proof_said *said = proof_said_by_tag(check, life->taken[i].tag);
        if (!said)
            proof_broken(check, PROOF_RULE_INVENTED, life->id, "tag %" PRId64 " was delivered", life->taken[i].tag);
        else if (said->outcome == PROOF_NOT_DONE)
            proof_broken(check, PROOF_RULE_LIED, life->id, "tag %" PRId64 " was delivered", said->tag);
        else if ((said->outcome == PROOF_DONE && said->id != life->id) || (i > 0 && life->taken[i].tag != life->taken[0].tag))
            proof_broken(check, PROOF_RULE_MIXED, life->id, "delivered with tag %" PRId64, said->tag);
        else if (said->queue != life->taken[i].queue)
            proof_broken(check, PROOF_RULE_MIXED, life->id, "said in queue %d, delivered in %d", said->queue, life->taken[i].queue);
    }
}

/* From the dead holder's lease to the next delivery: measured, since how soon a consumer asks is not the library's doing. */
static void proof_measure_recovery(proof_check *check, const proof_life *life)
{
    size_t i;
    for (i = 0; i < life->taken_count; i++) {
        const proof_taken *taken = &life->taken[i];
        int64_t sure, latest, death = proof_death_of(check, taken->process);
        proof_lease_ends(check, taken, INT64_MAX, &sure, &latest);
        if (death == INT64_MAX || death > latest || proof_first_verdict(life, taken) ||
            (taken->handler && taken->finished < death))
            continue;
        check->killed_while_holding++;
        if (i + 1 < life->taken_count && life->taken[i + 1].t1 - latest > check->slowest_recovery_us)
            check->slowest_recovery_us = life->taken[i + 1].t1 - latest;
    }
}

static void proof_check_life(proof_check *check, int64_t id)
{
    proof_life life = proof_life_of(check, id);
    proof_check_end(check, &life);
    proof_check_tags_of_deliveries(check, &life);
    proof_check_overlap(check, &life);
    proof_check_verdicts(check, &life);
    proof_check_after_end(check, &life);
    proof_check_attempts(check, &life);
    proof_check_handlers(check, &life);
    proof_measure_recovery(check, &life);
}

/* Every id that occurs anywhere, once. */
static void proof_check_lives(proof_check *check)
{
    size_t stored = 0, taken = 0;
    while (stored < check->stored->count || taken < check->taken.count) {
        int64_t a = stored < check->stored->count ? check->stored->items[stored].id : INT64_MAX;
        int64_t b = taken < check->taken.count ? check->taken.items[taken].id : INT64_MAX;
        int64_t id = a < b ? a : b;
        proof_check_life(check, id);
        while (stored < check->stored->count && check->stored->items[stored].id == id)
            stored++;
        while (taken < check->taken.count && check->taken.items[taken].id == id)
            taken++;
    }
}

/* --- enqueues --- */

static bool proof_was_stored(const proof_check *check, const proof_said *said, const proof_stored *const *by_tag, size_t tag_count)
{
    size_t low = 0, high = tag_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (by_tag[middle]->tag < said->tag)
            low = middle + 1;
        else
            high = middle;
    }
    (void)check;
    return low < tag_count && by_tag[low]->tag == said->tag;
}

static bool proof_was_delivered(const proof_check *check, const proof_said *said)
{
    size_t i;
    for (i = 0; i < check->taken.count; i++)
        if (check->taken.items[i].tag == said->tag)
            return true;
    return false;
}

static int proof_pointer_by_tag(const void *a, const void *b)
{
    const proof_stored *const *x = (const proof_stored *const *)a, *const *y = (const proof_stored *const *)b;
    return PROOF_COMPARE((*x)->tag, (*y)->tag);
}

static void proof_check_acknowledged(proof_check *check, const proof_said *said, bool there)
{
    proof_life life;
    if (said->outcome != PROOF_DONE)
        return;
    life = proof_life_of(check, said->id);
    if (said->duplicate) {
        const proof_said *first = life.said;
        if (there)
            proof_broken(check, PROOF_RULE_DOUBLED, said->id, "tag %" PRId64 " was a duplicate and was stored all the same", said->tag);
        else if (first && (first->key != said->key || first->queue != said->queue))
            proof_broken(check, PROOF_RULE_DEDUP, said->id, "tag %" PRId64 " was told to be a duplicate of tag %" PRId64, said->tag,
                         first->tag);
        else if (!first && !life.taken_count)
            proof_broken(check, PROOF_RULE_LOST, said->id, "the message that tag %" PRId64 " is a duplicate of", said->tag);
        return;
    }
    if (!there && !proof_has_verdict(&life, PROOF_DELETE, true))
        proof_broken(check, PROOF_RULE_LOST, said->id, "tag %" PRId64 " of process %d, acknowledged at %" PRId64, said->tag,
                     said->process, said->t1);
}

/* All items of a batch, or none. One that has a key may be a duplicate, and one that was delivered was there. */
static void proof_check_batch(proof_check *check, size_t first, const bool *there)
{
    const proof_said *said = &check->said.items[first];
    int32_t i, yes = 0, no = 0;
    if (said->count < 2 || (first > 0 && said[-1].process == said->process && said[-1].call == said->call))
        return;
    for (i = 0; i < said->count && first + (size_t)i < check->said.count; i++) {
        const proof_said *item = &said[i];
        if (item->process != said->process || item->call != said->call)
            break;
        if (item->key)
            continue;
        if (there[first + (size_t)i] || proof_was_delivered(check, item))
            yes++;
        else
            no++;
    }
    if (yes && no)
        proof_broken(check, PROOF_RULE_PARTIAL, 0, "the batch that begins with tag %" PRId64 ": %d stored, %d not", said->tag, yes, no);
}

/* When it may have ended first; before that it surely had its key. */
static int64_t proof_earliest_end(const proof_life *life)
{
    return life->taken_count ? life->taken[0].t0 : INT64_MAX;
}

static int proof_said_by_key(const void *a, const void *b)
{
    const proof_said *x = *(const proof_said *const *)a, *y = *(const proof_said *const *)b;
    int order = PROOF_COMPARE(x->queue, y->queue);
    if (!order)
        order = PROOF_COMPARE(x->key, y->key);
    return order ? order : PROOF_COMPARE(x->t0, y->t0);
}

static void proof_check_keys(proof_check *check)
{
    size_t i, j, count = 0;
    const proof_said **keyed = (const proof_said **)malloc((check->said.count + 1) * sizeof(*keyed));
    if (!keyed)
        exit(98);
    for (i = 0; i < check->said.count; i++)
        if (check->said.items[i].key && check->said.items[i].outcome == PROOF_DONE && !check->said.items[i].duplicate)
            keyed[count++] = &check->said.items[i];
    proof_sort(keyed, count, sizeof(*keyed), proof_said_by_key);
    for (i = 0; i < count; i++) {
        proof_life life = proof_life_of(check, keyed[i]->id);
        int64_t end = proof_earliest_end(&life);
        for (j = i + 1; j < count && keyed[j]->key == keyed[i]->key && keyed[j]->queue == keyed[i]->queue; j++) {
            /* Both there at one time for sure: each was stored before the other could have ended. */
            proof_life other = proof_life_of(check, keyed[j]->id);
            if (keyed[j]->t1 < end && keyed[i]->t1 < proof_earliest_end(&other) && proof_by_hand(check, keyed[i]->queue))
                proof_broken(check, PROOF_RULE_DEDUP, keyed[j]->id, "key %d is that of message %" PRId64, keyed[j]->key, keyed[i]->id);
        }
    }
    free(keyed);
}

static void proof_check_enqueues(proof_check *check)
{
    size_t i;
    const proof_stored **by_tag = (const proof_stored **)malloc((check->stored->count + 1) * sizeof(*by_tag));
    bool *there = (bool *)malloc((check->said.count + 1) * sizeof(bool));
    if (!by_tag || !there)
        exit(98);
    for (i = 0; i < check->stored->count; i++)
        by_tag[i] = &check->stored->items[i];
    proof_sort(by_tag, check->stored->count, sizeof(*by_tag), proof_pointer_by_tag);
    for (i = 1; i < check->stored->count; i++)
        if (by_tag[i]->tag == by_tag[i - 1]->tag)
            proof_broken(check, PROOF_RULE_DOUBLED, by_tag[i]->id, "and id %" PRId64 " both have tag %" PRId64, by_tag[i - 1]->id,
                         by_tag[i]->tag);
    for (i = 0; i < check->said.count; i++) {
        there[i] = proof_was_stored(check, &check->said.items[i], by_tag, check->stored->count);
        proof_check_acknowledged(check, &check->said.items[i], there[i]);
    }
    for (i = 0; i < check->said.count; i++)
        proof_check_batch(check, i, there);
    proof_check_keys(check);
    free(there);
    free(by_tag);
}

/* --- order --- */

static int proof_taken_by_place(const void *a, const void *b)
{
    const proof_taken *x = *(const proof_taken *const *)a, *y = *(const proof_taken *const *)b;
    int order = PROOF_COMPARE(x->t1, y->t1);
    return order ? order : PROOF_COMPARE(x->place, y->place);
}

static bool proof_same_claim(const proof_taken *a, const proof_taken *b)
{
    return a->process == b->process && a->call == b->call && !a->handler && !b->handler;
}

/* Never delivered before, not delayed: its place in the queue is that of its enqueue. */
static bool proof_is_fresh(const proof_check *check, const proof_taken *taken)
{
    const proof_said *said = proof_said_by_tag(check, taken->tag);
    const proof_life life = proof_life_of(check, taken->id);
    if (taken->attempt != 1 || !said || said->delay_us != 0)
        return false;
    for (size_t i = 0; i < life.taken_count; i++) /* in the order in which calls began, and one that waits begins early */
        if (life.taken[i].lease != taken->lease && life.taken[i].t1 <= taken->t1)
            return false;
    return true;
}

static void proof_check_order_in_claim(proof_check *check, const proof_taken *const *taken, size_t count)
{
    size_t i, j;
    for (i = 0; i < count; i++)
        for (j = i + 1; j < count && proof_same_claim(taken[i], taken[j]); j++) {
            const proof_taken *a = taken[i], *b = taken[j];
            if (a->priority < b->priority)
                proof_broken(check, PROOF_RULE_ORDER, b->id, "priority %d after priority %d in one claim", b->priority, a->priority);
            else if (a->priority == b->priority && proof_by_hand(check, a->queue) && a->tag > b->tag &&
                     a->tag / PROOF_TAGS_PER_PROCESS == b->tag / PROOF_TAGS_PER_PROCESS && proof_is_fresh(check, a) &&
                     proof_is_fresh(check, b))
                proof_broken(check, PROOF_RULE_ORDER, b->id, "tag %" PRId64 " after tag %" PRId64 " in one claim", b->tag, a->tag);
        }
}

/* One consumer, one priority, no failures: each producer's messages come as they were said. */
static void proof_check_fifo(proof_check *check, const proof_taken *const *taken, size_t count)
{
    size_t i, j;
    for (i = 0; i < count; i++) {
        if (!(check->terms->fifo >> taken[i]->queue & 1u))
            continue;
        for (j = i; j-- > 0;)
            if (taken[j]->queue == taken[i]->queue &&
                taken[j]->tag / PROOF_TAGS_PER_PROCESS == taken[i]->tag / PROOF_TAGS_PER_PROCESS) {
                if (taken[j]->tag > taken[i]->tag)
                    proof_broken(check, PROOF_RULE_ORDER, taken[i]->id, "tag %" PRId64 " came after tag %" PRId64, taken[i]->tag,
                                 taken[j]->tag);
                break;
            }
    }
}

static void proof_check_order(proof_check *check)
{
    size_t i;
    const proof_taken **taken = (const proof_taken **)malloc((check->taken.count + 1) * sizeof(*taken));
    if (!taken)
        exit(98);
    for (i = 0; i < check->taken.count; i++)
        taken[i] = &check->taken.items[i];
    proof_sort(taken, check->taken.count, sizeof(*taken), proof_taken_by_place);
    proof_check_order_in_claim(check, taken, check->taken.count);
    proof_check_fifo(check, taken, check->taken.count);
    free(taken);
}

/* --- nobody is left out --- */

/* From when a message may be had again after this delivery; INT64_MAX: never, or that is not certain. */
static int64_t proof_free_again(const proof_check *check, const proof_life *life, const proof_taken *taken)
{
    const proof_verdict *verdict = proof_first_verdict(life, taken);
    int64_t sure, latest;
    proof_lease_ends(check, taken, INT64_MAX, &sure, &latest);
    if (!verdict)
        return taken->attempt >= check->terms->max_attempts ? INT64_MAX : latest;
    if (proof_is_final(verdict->op) || verdict->outcome == PROOF_UNKNOWN)
        return INT64_MAX;
    if (taken->attempt >= check->terms->max_attempts && verdict->op != PROOF_GIVE_BACK)
        return INT64_MAX;
    return verdict->t1 + (verdict->op == PROOF_RETRY ? check->terms->backoff_max_us : verdict->ms * 1000);
}

/* Another claim at the same time may have had its hands on the message, for a moment or (killed) until its lease ends. */
static bool proof_is_disturbed(const proof_check *check, const proof_claim *claim)
{
    size_t i;
    for (i = 0; i < check->claims.count && check->claims.items[i].t0 <= claim->t1; i++) {
        const proof_claim *other = &check->claims.items[i];
        int64_t end = other->t1;
        if (other == claim || other->queue != claim->queue)
            continue;
        if (other->outcome == PROOF_UNKNOWN || check->terms->claims_repeat)
            end = other->t1 == INT64_MAX ? INT64_MAX : other->t1 + other->lease_us + check->terms->recovery_us;
        if (end >= claim->t0)
            return true;
    }
    return false;
}

/* Calls wait, and are told late: which of two deliveries was the first is not always known. */
static bool proof_was_before(const proof_taken *a, const proof_taken *b)
{
    return a == b || a->attempt < b->attempt || a->t1 < b->t0;
}

/* Until when a message may be had that is free from a time on, after a delivery or (NULL) its enqueue: until the first of all calls that
 * may have got it next. */
static int64_t proof_free_until(const proof_check *check, const proof_life *life, int32_t queue, const proof_taken *after, int64_t from)
{
    int64_t until = INT64_MAX;
    int32_t attempt = 0;
    size_t i;
    for (i = 0; i < life->taken_count; i++) {
        if ((!after || !proof_was_before(&life->taken[i], after)) && life->taken[i].t0 < until)
            until = life->taken[i].t0;
        if (life->taken[i].attempt > attempt)
            attempt = life->taken[i].attempt;
    }
    /* A killed consumer that wrote nothing down may have had the last attempt: then nobody gets the message any more. */
    if (!life->stored || life->stored->state != PGQRS_DEAD || life->stored->attempt <= attempt)
        return until;
    for (i = 0; i < check->claims.count; i++) {
        const proof_claim *claim = &check->claims.items[i];
        if (claim->queue == queue && claim->t1 > from && claim->t0 < until &&
            (claim->outcome == PROOF_UNKNOWN || check->terms->claims_repeat))
            until = claim->t0;
    }
    return until;
}

/* Is there a claim with room left that began when the message could be had, and ended before somebody got it? */
static void proof_check_window(proof_check *check, const proof_life *life, int32_t queue, const proof_taken *after, int64_t from)
{
    int64_t until = proof_free_until(check, life, queue, after, from);
    size_t at;
    if (from >= INT64_MAX - check->terms->recovery_us || until - from < check->terms->recovery_us)
        return;
    PROOF_FIRST(check->claims, t0, from + check->terms->recovery_us, at);
    for (; at < check->claims.count && check->claims.items[at].t0 < until; at++) {
        const proof_claim *claim = &check->claims.items[at];
        if (claim->queue == queue && claim->outcome == PROOF_DONE && claim->count < claim->limit && claim->t1 < until &&
            !proof_is_disturbed(check, claim)) {
            proof_broken(check, PROOF_RULE_STARVED, life->id,
                         "it could be had since %" PRId64 ", process %d claimed %d of %d from %" PRId64 " to %" PRId64
                         " without it; taken at %" PRId64,
                         from, claim->process, claim->count, claim->limit, claim->t0, claim->t1, until);
            return;
        }
    }
}

static void proof_check_starved(proof_check *check)
{
    size_t i, j;
    for (i = 0; i < check->said.count; i++) {
        const proof_said *said = &check->said.items[i];
        proof_life life;
        if (said->outcome != PROOF_DONE || said->duplicate || !proof_by_hand(check, said->queue))
            continue;
        life = proof_life_of(check, said->id);
        proof_check_window(check, &life, said->queue, NULL, said->t1 + said->delay_us);
        for (j = 0; j < life.taken_count; j++)
            proof_check_window(check, &life, said->queue, &life.taken[j], proof_free_again(check, &life, &life.taken[j]));
    }
}

/* --- workflows --- */

static int proof_record_by_run(const void *a, const void *b)
{
    const proof_record *x = *(const proof_record *const *)a, *y = *(const proof_record *const *)b;
    int order = PROOF_COMPARE(x->id, y->id);
    return order ? order : PROOF_COMPARE(x->at_us, y->at_us);
}

static const proof_run_end *proof_run_end_of(const proof_check *check, int64_t id)
{
    size_t i;
    for (i = 0; i < check->runs->count; i++)
        if (check->runs->items[i].id == id)
            return &check->runs->items[i];
    return NULL;
}

/* From the end of a dead worker's lease to the next time the run is entered: measured, as for messages. */
static void proof_measure_run(proof_check *check, const proof_record *before, const proof_record *after)
{
    int64_t death = proof_death_of(check, before->process);
    if (after->op != PROOF_ENTER || after->process == before->process || death >= after->at_us)
        return;
    check->killed_while_holding++;
    if (after->at_us - death - check->terms->lease_us > check->slowest_recovery_us)
        check->slowest_recovery_us = after->at_us - death - check->terms->lease_us;
}

/* One run's records in the order of time. What was stored when: by an acknowledged flush, or because a later body began. */
/* A process whose clock stood still while it was stopped takes leases that are over for everybody else before they begin: what it writes
 * is refused, but it enters bodies. */
static bool proof_lags(const proof_check *check, int32_t process)
{
    return check->terms->clocks_differ && proof_was_stopped(check, process);
}

static void proof_check_run(proof_check *check, const proof_record *const *r, size_t count)
{
    const proof_run_end *end = proof_run_end_of(check, r[0]->id);
    int64_t stored_at[9], output[9], ended_at = INT64_MAX;
    size_t i;
    int32_t k;
    for (k = 0; k < 9; k++) {
        stored_at[k] = INT64_MAX;
        output[k] = end && k > 0 ? end->outputs[k - 1] : 0;
    }
    for (i = 0; i < count; i++) {
        int32_t step = r[i]->count;
        if (i > 0)
            proof_measure_run(check, r[i - 1], r[i]);
        if (step < 0 || step > 8)
            continue;
        if (r[i]->op == PROOF_BODY && r[i]->ms > stored_at[step] && !proof_lags(check, r[i]->process))
            proof_broken(check, PROOF_RULE_STEP_AGAIN, r[i]->id, "step %d by process %d, asked for at %" PRId64 ", stored since %" PRId64,
                         step, r[i]->process, r[i]->ms, stored_at[step]);
        if ((r[i]->op == PROOF_BODY || r[i]->op == PROOF_ENTER) && (r[i]->op == PROOF_BODY ? r[i]->ms : r[i]->at_us) > ended_at)
            proof_broken(check, PROOF_RULE_RUN_AFTER_END, r[i]->id, "process %d at %" PRId64, r[i]->process, r[i]->at_us);
        if (r[i]->op == PROOF_SEEN && output[step] && output[step] != r[i]->tag)
            proof_broken(check, PROOF_RULE_OUTPUT, r[i]->id, "step %d gave %" PRId64 " and %" PRId64, step, output[step], r[i]->tag);
        if (r[i]->op == PROOF_SEEN)
            output[step] = r[i]->tag;
        if (r[i]->op == PROOF_ENDED && r[i]->at_us < ended_at)
            ended_at = r[i]->at_us;
        for (k = 1; k <= 8 && (r[i]->op == PROOF_BODY || r[i]->op == PROOF_STORED); k++)
            if ((k < step || (k == step && r[i]->op == PROOF_STORED)) && r[i]->at_us < stored_at[k])
                stored_at[k] = r[i]->at_us;
    }
}

static void proof_check_triggers(proof_check *check)
{
    size_t i, j;
    for (i = 0; i < check->history->count; i++) {
        const proof_record *r = &check->history->items[i];
        const proof_run_end *end;
        if (r->op != PROOF_TRIGGER || r->mark != '!' || r->result != PGQRS_OK)
            continue;
        end = proof_run_end_of(check, r->id);
        if (!end || !end->success)
            proof_broken(check, PROOF_RULE_RUN_LOST, r->id, "%s", end ? "it did not succeed" : "it is not there");
        else if (end->tag != r->tag && r->key == 0)
            proof_broken(check, PROOF_RULE_MIXED, r->id, "the run of tag %" PRId64 " has the input of %" PRId64, r->tag, end->tag);
    }
    for (i = 0; i < check->runs->count; i++) {
        const proof_run_end *end = &check->runs->items[i];
        if (end->success ? end->effects != 1 : end->effects > 1)
            proof_broken(check, PROOF_RULE_MONEY, end->id, "%" PRId64 " times", end->effects);
        if (!end->success)
            proof_broken(check, PROOF_RULE_UNFINISHED, end->id, "the run did not succeed");
        for (j = i + 1; j < check->runs->count; j++)
            if (check->runs->items[j].tag == end->tag)
                proof_broken(check, PROOF_RULE_DOUBLED, end->id, "and run %" PRId64 " are both of tag %" PRId64,
                             check->runs->items[j].id, end->tag);
    }
}

static void proof_check_runs(proof_check *check)
{
    size_t i, first, count = 0;
    const proof_record **r = (const proof_record **)malloc((check->history->count + 1) * sizeof(*r));
    if (!r)
        exit(98);
    for (i = 0; i < check->history->count; i++) {
        proof_op op = check->history->items[i].op;
        if (op == PROOF_ENTER || op == PROOF_BODY || op == PROOF_SEEN || op == PROOF_STORED || op == PROOF_ENDED)
            r[count++] = &check->history->items[i];
    }
    proof_sort(r, count, sizeof(*r), proof_record_by_run);
    for (first = 0; first < count; first = i) {
        for (i = first; i < count && r[i]->id == r[first]->id; i++) {
        }
        proof_check_run(check, r + first, i - first);
    }
    free(r);
    proof_check_triggers(check);
}

/* --- all of it --- */

/* Decides. Sorts the lists; what is in check->out, check->out_limit stays. True: nothing is wrong. proof_check_free at the end. */
static bool proof_decide(proof_check *check, const proof_terms *terms, const proof_history *history, const proof_stored_list *stored,
                         const proof_run_end_list *runs)
{
    check->terms = terms;
    check->history = history;
    check->stored = stored;
    check->runs = runs;
    proof_find_deaths(check);
    proof_learn(check);
    proof_order(check);
    proof_find_ids(check);
    proof_check_lives(check);
    proof_check_enqueues(check);
    proof_check_order(check);
    proof_check_starved(check);
    proof_check_runs(check);
    return check->violations == 0;
}

static void proof_check_free(proof_check *check)
{
    free(check->said.items);
    free(check->claims.items);
    free(check->taken.items);
    free(check->verdicts.items);
    free(check->extends.items);
    free(check->died_at);
    memset(check, 0, sizeof(*check));
}

#endif /* PGQRS_PROOF_CHECK_H */
