/* A checker that cannot fail proves nothing: forged histories, one for each thing that must not happen, and a good one for each. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <cmocka.h>
#include "proof_check.h"

#pragma GCC diagnostic ignored "-Wunused-function"

#define MS INT64_C(1000)
#define OK_ PGQRS_OK
#define LOST_LEASE PGQRS_ERR_LEASE_LOST

/* One forged history at a time. Leases last 1000 ms, slack is 20 ms, recovery 100 ms. Queue 0 is by hand, 1 not, 2 is by hand and in order. */
static struct {
    proof_history history;
    proof_stored_list stored;
    proof_run_end_list runs;
    proof_terms terms;
    int32_t calls;
} F;

static int begin_forging(void **state)
{
    (void)state;
    memset(&F, 0, sizeof(F));
    F.terms.max_attempts = 3;
    F.terms.slack_us = 20 * MS;
    F.terms.recovery_us = 100 * MS;
    F.terms.backoff_max_us = 200 * MS;
    F.terms.by_hand = 5;
    F.terms.fifo = 4;
    F.terms.steps = 3;
    return 0;
}

static int end_forging(void **state)
{
    (void)state;
    free(F.history.items);
    free(F.stored.items);
    free(F.runs.items);
    return 0;
}

static void note(proof_record r)
{
    r.at_us *= MS;
    proof_push(&F.history, r);
}

/* A call of process p from `at` to at + 1 ms; result 1: the '!' is missing. */
static void said(int p, int64_t at, int64_t tag, int64_t id, int32_t result)
{
    int32_t call = ++F.calls;
    note((proof_record){.at_us = at, .process = p, .call = call, .mark = '?', .op = PROOF_ENQUEUE, .tag = tag, .count = 1});
    if (result != 1)
        note((proof_record){.at_us = at + 1, .process = p, .call = call, .mark = '!', .op = PROOF_ENQUEUE, .tag = tag, .id = id,
                            .result = result, .count = 1});
}

static void claimed(int p, int64_t at, int32_t limit, int32_t count, int32_t result)
{
    note((proof_record){.at_us = at, .process = p, .call = ++F.calls, .mark = '?', .op = PROOF_CLAIM, .ms = 1000, .count = limit});
    if (result != 1)
        note((proof_record){.at_us = at + 1, .process = p, .call = F.calls, .mark = '!', .op = PROOF_CLAIM, .count = count,
                            .result = result});
}

static void got(int p, int64_t at, int64_t id, int64_t lease, int32_t attempt, int64_t tag)
{
    claimed(p, at, 1, 1, OK_);
    note((proof_record){.at_us = at + 1, .process = p, .call = F.calls, .mark = '!', .op = PROOF_GOT, .id = id, .lease = lease,
                        .attempt = attempt, .tag = tag});
}

static void settled(int p, int64_t at, proof_op op, int64_t id, int64_t lease, int32_t result)
{
    int32_t call = ++F.calls;
    proof_record r = {.at_us = at, .process = p, .call = call, .mark = '?', .op = op, .id = id, .lease = lease};
    if (op == PROOF_EXTEND)
        r.ms = 1000;
    note(r);
    r.at_us = at + 1, r.mark = '!', r.result = result;
    if (result != 1)
        note(r);
}

static void handler(int p, int64_t at, int64_t until, int64_t id, int64_t lease, int32_t attempt, int64_t tag)
{
    note((proof_record){.at_us = at, .process = p, .mark = '.', .op = PROOF_START, .queue = 1, .id = id, .lease = lease, .attempt = attempt,
                        .ms = 1000, .tag = tag});
    if (until)
        note((proof_record){.at_us = until, .process = p, .mark = '.', .op = PROOF_FINISH, .id = id, .lease = lease});
}

static void died(int p, int64_t at)
{
    note((proof_record){.at_us = at, .process = 9, .mark = '.', .op = PROOF_DIED, .id = p});
}

/* Three consumers that were killed in their claim: what they took, and whether, nobody knows. */
static void killed_in_claims(int64_t at)
{
    int p;
    for (p = 20; p < 23; p++, at++) {
        claimed(p, at, 1, 0, 1);
        died(p, at + 1);
    }
}

static void there(int64_t id, int64_t tag, pgqrs_state state, int32_t attempt)
{
    proof_stored stored = {.id = id, .tag = tag, .state = state, .attempt = attempt};
    PROOF_APPEND(F.stored, stored);
}

/* Dead after all its attempts, of which nobody tells anything. */
static void died_there(int64_t id, int64_t tag)
{
    killed_in_claims(5000);
    there(id, tag, PGQRS_DEAD, F.terms.max_attempts);
}

static void run_there(int64_t id, int64_t tag, bool success, int64_t effects)
{
    proof_run_end end = {.id = id, .tag = tag, .success = success, .effects = effects};
    PROOF_APPEND(F.runs, end);
}

static void in_queue(int32_t queue)
{
    size_t i;
    for (i = 0; i < F.history.count; i++)
        F.history.items[i].queue = queue;
    for (i = 0; i < F.stored.count; i++)
        F.stored.items[i].queue = queue;
}

/* The rule is broken and no other one is; -1: none is. */
static void verdict_is(int rule)
{
    proof_check check;
    int i;
    memset(&check, 0, sizeof(check));
    proof_decide(&check, &F.terms, &F.history, &F.stored, &F.runs);
    for (i = 0; i < PROOF_RULE_COUNT; i++)
        if ((check.broken[i] > 0) != (i == rule))
            fail_msg("%s is broken %d times, expected was %s", proof_rule_name((proof_rule)i), (int)check.broken[i],
                     rule < 0 ? "nothing" : proof_rule_name((proof_rule)rule));
    proof_check_free(&check);
}
#define FOUND(name) verdict_is(PROOF_RULE_##name)
#define NOTHING_FOUND() verdict_is(-1)

/* Message 1, tag 7: said, taken, archived. */
static void good_life(void)
{
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 30, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
}

static void good_history_passes(void **state)
{
    (void)state;
    good_life();
    NOTHING_FOUND();
}

static void unknown_outcomes_pass_either_way(void **state)
{
    (void)state;
    said(1, 10, 7, 1, 1); /* killed in the enqueue: it is there */
    died(1, 12);
    said(3, 10, 8, 2, 1); /* and here it is not */
    died(3, 12);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 30, PROOF_ARCHIVE, 1, 100, 1); /* killed in the archive */
    died(2, 32);
    there(1, 7, PGQRS_ARCHIVED, 1);
    NOTHING_FOUND();
}

static void lost_message_is_found(void **state)
{
    (void)state;
    good_life();
    F.stored.count = 0;
    FOUND(LOST);
}

static void lost_message_that_nobody_took_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    FOUND(LOST);
}

static void deleted_message_is_not_lost(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 30, PROOF_DELETE, 1, 100, OK_);
    NOTHING_FOUND();
}

static void failed_enqueue_that_is_there_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 0, PGQRS_ERR_CONNECTION);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 30, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    FOUND(LIED);
}

static void message_of_nobody_is_found(void **state)
{
    (void)state;
    good_life();
    died_there(2, 99);
    FOUND(INVENTED);
}

static void message_archived_by_nobody_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    FOUND(INVENTED);
}

static void message_in_another_queue_is_found(void **state)
{
    (void)state;
    good_life();
    F.stored.items[0].queue = 2;
    FOUND(INVENTED);
}

static void enqueue_stored_twice_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, 1);
    died(1, 12);
    died_there(1, 7);
    died_there(2, 7);
    FOUND(DOUBLED);
}

static void exchanged_payload_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    said(1, 12, 8, 2, OK_);
    died_there(1, 8);
    died_there(2, 7);
    FOUND(MIXED);
}

static void say_batch(bool acknowledged)
{
    int64_t tag;
    for (tag = 7; tag < 10; tag++)
        note((proof_record){.at_us = 10, .process = 1, .call = 1, .mark = '?', .op = PROOF_ENQUEUE, .tag = tag, .count = 3});
    for (tag = 7; tag < 10 && acknowledged; tag++)
        note((proof_record){.at_us = 12, .process = 1, .call = 1, .mark = '!', .op = PROOF_ENQUEUE, .tag = tag, .id = tag, .count = 3});
    died(1, 20);
    F.calls = 1;
}

static void batch_stored_in_part_is_found(void **state)
{
    (void)state;
    say_batch(false);
    died_there(1, 7);
    died_there(2, 9);
    FOUND(PARTIAL);
}

static void batch_stored_as_a_whole_passes(void **state)
{
    (void)state;
    say_batch(false);
    died_there(1, 7);
    died_there(2, 8);
    died_there(3, 9);
    NOTHING_FOUND();
}

static void say_two_with_a_key(bool after_the_first_was_taken)
{
    size_t i;
    said(1, 10, 7, 1, OK_);
    said(3, after_the_first_was_taken ? 40 : 15, 8, 2, OK_);
    got(2, 30, 1, 100, 1, 7);
    settled(2, 32, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    died_there(2, 8);
    for (i = 0; i < F.history.count; i++)
        if (F.history.items[i].op == PROOF_ENQUEUE)
            F.history.items[i].key = 5;
}

static void key_taken_twice_is_found(void **state)
{
    (void)state;
    say_two_with_a_key(false);
    FOUND(DEDUP);
}

static void key_that_is_free_again_passes(void **state)
{
    (void)state;
    say_two_with_a_key(true);
    NOTHING_FOUND();
}

/* The call of 1 began first and took long: 2 had the key, and was archived, before 1 was stored. */
static void key_that_was_waited_for_passes(void **state)
{
    size_t i;
    (void)state;
    said(1, 10, 7, 1, OK_);
    said(3, 15, 8, 2, OK_);
    got(2, 20, 2, 100, 1, 8);
    settled(2, 22, PROOF_ARCHIVE, 2, 100, OK_);
    got(2, 65, 1, 101, 1, 7);
    settled(2, 67, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    there(2, 8, PGQRS_ARCHIVED, 1);
    for (i = 0; i < F.history.count; i++)
        if (F.history.items[i].op == PROOF_ENQUEUE) {
            F.history.items[i].key = 5;
            if (F.history.items[i].id == 1)
                F.history.items[i].at_us = 60 * MS;
        }
    NOTHING_FOUND();
}

static void duplicate_of_another_key_is_found(void **state)
{
    (void)state;
    good_life();
    said(1, 15, 8, 1, OK_);
    F.history.items[F.history.count - 1].attempt = 1;
    F.history.items[F.history.count - 2].key = 5;
    FOUND(DEDUP);
}

static void message_that_never_ends_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    there(1, 7, PGQRS_READY, 0);
    FOUND(UNFINISHED);
}

static void archive_that_did_not_happen_is_found(void **state)
{
    (void)state;
    good_life();
    F.stored.count = 0;
    died_there(1, 7);
    FOUND(UNDONE);
}

static void two_archives_are_found(void **state)
{
    (void)state;
    good_life();
    settled(2, 40, PROOF_ARCHIVE, 1, 100, OK_);
    FOUND(TWICE);
}

static void two_archives_with_two_leases_are_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 1200, 1, 101, 2, 7);
    settled(3, 1230, PROOF_ARCHIVE, 1, 101, OK_);
    settled(2, 900, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    /* The first one was in time; so the message was given out once more after its end. */
    F.terms.by_hand = 0;
    {
        proof_check check;
        memset(&check, 0, sizeof(check));
        proof_decide(&check, &F.terms, &F.history, &F.stored, &F.runs);
        assert_true(check.broken[PROOF_RULE_TWICE] == 1 && check.broken[PROOF_RULE_AFTER_END] == 1 && check.violations == 2);
        proof_check_free(&check);
    }
}

static void delivery_after_the_end_is_found(void **state)
{
    (void)state;
    good_life();
    got(3, 50, 1, 101, 2, 7);
    F.stored.items[0].attempt = 2;
    FOUND(AFTER_END);
}

static void handler_after_the_end_is_found(void **state)
{
    (void)state;
    good_life();
    handler(3, 1400, 1410, 1, 101, 2, 7);
    in_queue(1);
    FOUND(AFTER_END);
}

static void two_holders_are_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 500, 1, 101, 2, 7);
    settled(3, 510, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    FOUND(OVERLAP);
}

static void two_handlers_are_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    handler(2, 20, 600, 1, 100, 1, 7);
    handler(3, 500, 700, 1, 101, 2, 7);
    there(1, 7, PGQRS_ARCHIVED, 2);
    in_queue(1);
    FOUND(OVERLAP);
}

static void holders_one_after_the_other_pass(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    died(2, 30);
    got(3, 1030, 1, 101, 2, 7);
    settled(3, 1040, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    NOTHING_FOUND();
}

static void extended_lease_is_still_held(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 900, PROOF_EXTEND, 1, 100, OK_);
    got(3, 1100, 1, 101, 2, 7);
    settled(3, 1110, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    FOUND(OVERLAP);
}

static void refused_extension_holds_nothing(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 1050, PROOF_EXTEND, 1, 100, LOST_LEASE);
    got(3, 1100, 1, 101, 2, 7);
    settled(3, 1110, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    NOTHING_FOUND();
}

static void clocks_that_differ_may_overlap(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 500, 1, 101, 2, 7);
    settled(3, 510, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    F.terms.clocks_differ = true;
    NOTHING_FOUND();
}

static void same_token_twice_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 1100, 1, 100, 2, 7);
    died_there(1, 7);
    FOUND(FENCE);
}

static void verdict_after_the_lease_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 1100, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    FOUND(STALE);
}

/* With clocks that differ the successor alone tells. */
static void verdict_of_the_one_before_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 500, 1, 101, 2, 7);
    settled(2, 510, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    F.terms.clocks_differ = true;
    FOUND(STALE);
}

/* With replies that get lost, too; but not what changes nothing any more. */
static void verdict_of_the_one_before_with_lost_replies(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 1500, 1, 101, 2, 7);
    settled(2, 1510, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    F.terms.claims_repeat = true;
    FOUND(STALE);
}

static void release_of_the_one_before_with_lost_replies_is_fine(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 1500, 1, 101, 2, 7);
    settled(2, 1510, PROOF_RELEASE, 1, 100, OK_);
    settled(3, 1520, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    F.terms.claims_repeat = true;
    NOTHING_FOUND();
}

static void release_of_the_one_before_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 1500, 1, 101, 2, 7);
    settled(2, 1510, PROOF_RELEASE, 1, 100, OK_);
    settled(3, 1520, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    FOUND(STALE);
}

static void extension_of_the_one_before_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    got(3, 1500, 1, 101, 2, 7);
    settled(2, 1510, PROOF_EXTEND, 1, 100, OK_);
    settled(3, 1502, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    FOUND(STALE);
}

static void verdict_with_a_lease_of_nobody_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    settled(2, 30, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    FOUND(STALE);
}

static void refusal_of_the_holder_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 30, PROOF_ARCHIVE, 1, 100, LOST_LEASE);
    died_there(1, 7);
    FOUND(REFUSED);
}

static void refusal_after_the_lease_passes(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    settled(2, 1015, PROOF_ARCHIVE, 1, 100, LOST_LEASE);
    died_there(1, 7);
    NOTHING_FOUND();
}

static void two_tries_with(int32_t first, int32_t second, proof_op verdict)
{
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, first, 7);
    settled(2, 30, verdict, 1, 100, OK_);
    got(2, 290, 1, 101, second, 7);
    settled(2, 300, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, second);
}

static void attempt_that_is_not_counted_is_found(void **state)
{
    (void)state;
    two_tries_with(1, 1, PROOF_RETRY);
    FOUND(ATTEMPTS);
}

static void attempt_that_is_counted_twice_is_found(void **state)
{
    (void)state;
    two_tries_with(1, 3, PROOF_RETRY);
    FOUND(ATTEMPTS);
}

static void giving_back_that_is_counted_is_found(void **state)
{
    (void)state;
    two_tries_with(1, 2, PROOF_GIVE_BACK);
    FOUND(ATTEMPTS);
}

static void giving_back_is_not_counted(void **state)
{
    (void)state;
    two_tries_with(1, 1, PROOF_GIVE_BACK);
    NOTHING_FOUND();
}

static void first_delivery_with_attempt_two_is_found(void **state)
{
    (void)state;
    good_life();
    F.history.items[3].attempt = 1;
    F.history.items[4].attempt = 2;
    F.stored.items[0].attempt = 2;
    FOUND(ATTEMPTS);
}

static void hidden_claim_explains_an_attempt(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    claimed(3, 12, 1, 0, 1);
    died(3, 14);
    got(2, 1020, 1, 100, 2, 7);
    settled(2, 1030, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    NOTHING_FOUND();
}

/* The server took the message for a process that was dead already. */
static void claim_of_the_dead_explains_an_attempt(void **state)
{
    (void)state;
    claimed(3, 5, 1, 0, 1);
    died(3, 8);
    said(1, 10, 7, 1, OK_);
    got(2, 1020, 1, 100, 2, 7);
    settled(2, 1030, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    FOUND(ATTEMPTS);
    F.terms.afterlife_us = 10 * MS;
    NOTHING_FOUND();
}

static void repeated_claim_explains_an_attempt(void **state)
{
    (void)state;
    good_life();
    claimed(3, 12, 1, 0, OK_);
    F.history.items[3].attempt = F.stored.items[0].attempt = 2;
    F.history.items[4].attempt = 2;
    FOUND(ATTEMPTS);
    F.terms.claims_repeat = true;
    NOTHING_FOUND();
}

static void more_attempts_than_allowed_are_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    handler(2, 20, 30, 1, 100, 4, 7);
    there(1, 7, PGQRS_ARCHIVED, 4);
    in_queue(1);
    FOUND(ATTEMPTS);
}

static void handlers_with_the_same_attempt_are_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    handler(2, 20, 30, 1, 100, 1, 7);
    handler(3, 1200, 1210, 1, 101, 1, 7);
    there(1, 7, PGQRS_ARCHIVED, 1);
    in_queue(1);
    FOUND(ATTEMPTS);
}

static void message_that_died_early_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    killed_in_claims(40);
    there(1, 7, PGQRS_DEAD, 2);
    FOUND(DEAD_EARLY);
}

static void take_two(int64_t first, int64_t second, int32_t priority)
{
    said(1, 10, 7, 1, OK_);
    said(1, 12, 8, 2, OK_);
    claimed(2, 20, 2, 2, OK_);
    note((proof_record){.at_us = 21, .process = 2, .call = F.calls, .mark = '!', .op = PROOF_GOT, .id = first, .lease = 100, .attempt = 1,
                        .tag = first + 6});
    note((proof_record){.at_us = 21, .process = 2, .call = F.calls, .mark = '!', .op = PROOF_GOT, .id = second, .lease = 100,
                        .attempt = 1, .tag = second + 6, .priority = priority});
    settled(2, 30, PROOF_ARCHIVE, 1, 100, OK_);
    settled(2, 32, PROOF_ARCHIVE, 2, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    there(2, 8, PGQRS_ARCHIVED, 1);
}

static void batch_in_order_passes(void **state)
{
    (void)state;
    take_two(1, 2, 0);
    NOTHING_FOUND();
}

static void batch_in_the_wrong_order_is_found(void **state)
{
    (void)state;
    take_two(2, 1, 0);
    FOUND(ORDER);
}

static void batch_with_the_wrong_priority_first_is_found(void **state)
{
    (void)state;
    take_two(1, 2, 5);
    FOUND(ORDER);
}

static void queue_in_the_wrong_order_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    said(1, 12, 8, 2, OK_);
    got(2, 20, 2, 100, 1, 8);
    got(2, 22, 1, 101, 1, 7);
    settled(2, 30, PROOF_ARCHIVE, 2, 100, OK_);
    settled(2, 32, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    there(2, 8, PGQRS_ARCHIVED, 1);
    in_queue(2);
    FOUND(ORDER);
}

static void message_left_out_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    claimed(2, 200, 1, 0, OK_);
    got(2, 300, 1, 100, 1, 7);
    settled(2, 310, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    FOUND(STARVED);
}

static void lease_that_does_not_come_back_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    died(2, 30);
    claimed(3, 1500, 1, 0, OK_);
    got(3, 1600, 1, 101, 2, 7);
    settled(3, 1610, PROOF_ARCHIVE, 1, 101, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    FOUND(STARVED);
}

static void last_attempt_that_nobody_wrote_down_ends_it(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    died(2, 30);
    killed_in_claims(1200);
    claimed(3, 9000, 1, 0, OK_); /* long after, it is dead */
    there(1, 7, PGQRS_DEAD, 3);
    NOTHING_FOUND();
}

static void left_out_before_the_last_attempt_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    died(2, 30);
    claimed(3, 1500, 1, 0, OK_);
    killed_in_claims(4000);
    there(1, 7, PGQRS_DEAD, 3);
    FOUND(STARVED);
}

static void death_without_its_attempts_is_found(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(2, 20, 1, 100, 1, 7);
    died(2, 30);
    there(1, 7, PGQRS_DEAD, 3);
    FOUND(ATTEMPTS);
}

static void call_that_waited_long_got_it_next(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    got(5, 12, 1, 99, 1, 7);
    settled(5, 14, PROOF_GIVE_BACK, 1, 99, OK_);
    note((proof_record){.at_us = 15, .process = 4, .call = ++F.calls, .mark = '?', .op = PROOF_CLAIM, .ms = 1000, .count = 1});
    note((proof_record){.at_us = 400, .process = 4, .call = F.calls, .mark = '!', .op = PROOF_CLAIM, .count = 1});
    note((proof_record){.at_us = 400, .process = 4, .call = F.calls, .mark = '!', .op = PROOF_GOT, .id = 1, .lease = 101, .attempt = 2, .tag = 7});
    got(2, 20, 1, 100, 1, 7);
    settled(2, 30, PROOF_RELEASE, 1, 100, OK_);
    settled(4, 410, PROOF_ARCHIVE, 1, 101, OK_);
    claimed(3, 9000, 1, 0, OK_);
    there(1, 7, PGQRS_ARCHIVED, 2);
    NOTHING_FOUND();
}

static void enqueue_that_is_told_last_proves_nothing(void **state)
{
    (void)state;
    note((proof_record){.at_us = 10, .process = 1, .call = ++F.calls, .mark = '?', .op = PROOF_ENQUEUE, .tag = 7, .count = 1});
    note((proof_record){.at_us = 50, .process = 1, .call = F.calls, .mark = '!', .op = PROOF_ENQUEUE, .tag = 7, .id = 1, .count = 1});
    got(2, 20, 1, 100, 1, 7);
    settled(2, 30, PROOF_ARCHIVE, 1, 100, OK_);
    claimed(3, 9000, 1, 0, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    NOTHING_FOUND();
}

static void claim_beside_another_one_proves_nothing(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    claimed(2, 200, 1, 0, OK_);
    got(3, 200, 1, 100, 1, 7);
    settled(3, 310, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    NOTHING_FOUND();
}

static void claim_that_is_full_proves_nothing(void **state)
{
    (void)state;
    said(1, 10, 7, 1, OK_);
    claimed(2, 200, 0, 0, OK_);
    got(2, 300, 1, 100, 1, 7);
    settled(2, 310, PROOF_ARCHIVE, 1, 100, OK_);
    there(1, 7, PGQRS_ARCHIVED, 1);
    NOTHING_FOUND();
}

/* --- runs --- */

static void of_run(int p, int64_t at, proof_op op, int32_t step, int64_t tag)
{
    note((proof_record){.at_us = at, .process = p, .mark = '.', .op = op, .id = 1, .count = step, .tag = tag, .ms = at * MS});
}

static void good_run(void)
{
    note((proof_record){.at_us = 10, .process = 1, .call = 1, .mark = '?', .op = PROOF_TRIGGER, .tag = 7});
    note((proof_record){.at_us = 11, .process = 1, .call = 1, .mark = '!', .op = PROOF_TRIGGER, .tag = 7, .id = 1});
    of_run(2, 20, PROOF_ENTER, 0, 0);
    of_run(2, 21, PROOF_BODY, 1, 701);
    of_run(2, 22, PROOF_BODY, 2, 702);
    died(2, 23);
    of_run(3, 30, PROOF_ENTER, 0, 0);
    of_run(3, 31, PROOF_SEEN, 1, 701);
    of_run(3, 32, PROOF_BODY, 2, 703);
    of_run(3, 33, PROOF_BODY, 3, 704);
    of_run(4, 40, PROOF_ENDED, 0, 0);
    run_there(1, 7, true, 1);
    F.runs.items[0].outputs[0] = 701;
    F.runs.items[0].outputs[1] = 703;
}

static void good_run_passes(void **state)
{
    (void)state;
    good_run();
    NOTHING_FOUND();
}

static void lost_run_is_found(void **state)
{
    (void)state;
    good_run();
    F.runs.count = 0;
    FOUND(RUN_LOST);
}

static void run_that_failed_is_found(void **state)
{
    (void)state;
    run_there(1, 7, false, 0);
    FOUND(UNFINISHED);
}

static void run_triggered_twice_is_found(void **state)
{
    (void)state;
    good_run();
    run_there(2, 7, true, 1);
    FOUND(DOUBLED);
}

static void step_that_ran_again_is_found(void **state)
{
    (void)state;
    good_run();
    of_run(3, 34, PROOF_BODY, 2, 705);
    FOUND(STEP_AGAIN);
}

static void step_that_ran_again_after_a_flush_is_found(void **state)
{
    (void)state;
    good_run();
    of_run(3, 34, PROOF_STORED, 3, 0);
    of_run(3, 35, PROOF_BODY, 3, 705);
    FOUND(STEP_AGAIN);
}

/* Its clock stood still, so that to it the lease of somebody else has not begun, and its own to others is over. */
static void body_of_a_process_that_lags_passes(void **state)
{
    (void)state;
    good_run();
    F.terms.clocks_differ = true;
    note((proof_record){.at_us = 5, .process = 0, .mark = '.', .op = PROOF_RESUMED, .id = 5, .ms = 900});
    note((proof_record){.at_us = 35, .process = 5, .mark = '.', .op = PROOF_BODY, .id = 1, .count = 2, .tag = 799, .ms = 34 * MS});
    NOTHING_FOUND();
}

/* Asked for before it was stored, and stopped in between: nobody could know. */
static void body_of_a_paused_process_passes(void **state)
{
    (void)state;
    good_run();
    note((proof_record){.at_us = 35, .process = 5, .mark = '.', .op = PROOF_BODY, .id = 1, .count = 2, .tag = 799, .ms = 25 * MS});
    NOTHING_FOUND();
}

static void other_output_is_found(void **state)
{
    (void)state;
    good_run();
    of_run(3, 34, PROOF_SEEN, 1, 799);
    FOUND(OUTPUT);
}

static void other_output_in_the_end_is_found(void **state)
{
    (void)state;
    good_run();
    F.runs.items[0].outputs[0] = 799;
    FOUND(OUTPUT);
}

static void money_moved_twice_is_found(void **state)
{
    (void)state;
    good_run();
    F.runs.items[0].effects = 2;
    FOUND(MONEY);
}

static void money_not_moved_is_found(void **state)
{
    (void)state;
    good_run();
    F.runs.items[0].effects = 0;
    FOUND(MONEY);
}

static void run_after_its_end_is_found(void **state)
{
    (void)state;
    good_run();
    of_run(5, 50, PROOF_ENTER, 0, 0);
    FOUND(RUN_AFTER_END);
}

static void input_of_another_run_is_found(void **state)
{
    (void)state;
    good_run();
    F.runs.items[0].tag = 8;
    FOUND(MIXED);
}

/* --- the files --- */

static void history_is_read_as_it_was_written(void **state)
{
    static proof_writer writer;
    char dir[] = "proof-XXXXXX", name[64];
    proof_history back = {0};
    FILE *file;
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_true(proof_open_writer(&writer, dir, 3));
    proof_write(&writer, (proof_record){.at_us = 5, .call = 2, .mark = '!', .op = PROOF_GOT, .queue = 1, .id = INT64_MAX, .lease = -7,
                                        .attempt = 4, .priority = -3, .ms = 1500, .count = 6, .result = -80, .tag = 12, .key = 9});
    close(writer.file);
    snprintf(name, sizeof(name), "%s/history.3", dir);
    file = fopen(name, "a");
    assert_non_null(file);
    fputs("17 3 ? claim 0 0 0 0", file); /* a write that the kill cut */
    fclose(file);
    assert_true(proof_read_all(&back, dir, 5));
    assert_int_equal(back.count, 1);
    assert_true(back.items[0].process == 3 && back.items[0].at_us == 5 && back.items[0].call == 2 && back.items[0].mark == '!' &&
                back.items[0].op == PROOF_GOT && back.items[0].queue == 1 && back.items[0].id == INT64_MAX &&
                back.items[0].lease == -7 && back.items[0].attempt == 4 && back.items[0].priority == -3 && back.items[0].ms == 1500 &&
                back.items[0].count == 6 && back.items[0].result == -80 && back.items[0].tag == 12 && back.items[0].key == 9);
    file = fopen(name, "a");
    assert_non_null(file);
    fputs(" nonsense\n", file);
    fclose(file);
    assert_false(proof_read_all(&back, dir, 5));
    free(back.items);
    unlink(name);
    rmdir(dir);
}

#define FORGED(test) cmocka_unit_test_setup_teardown(test, begin_forging, end_forging)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FORGED(good_history_passes), FORGED(unknown_outcomes_pass_either_way), FORGED(lost_message_is_found),
        FORGED(lost_message_that_nobody_took_is_found), FORGED(deleted_message_is_not_lost),
        FORGED(failed_enqueue_that_is_there_is_found), FORGED(message_of_nobody_is_found),
        FORGED(message_archived_by_nobody_is_found), FORGED(message_in_another_queue_is_found), FORGED(enqueue_stored_twice_is_found),
        FORGED(exchanged_payload_is_found), FORGED(batch_stored_in_part_is_found), FORGED(batch_stored_as_a_whole_passes),
        FORGED(key_taken_twice_is_found), FORGED(key_that_is_free_again_passes), FORGED(key_that_was_waited_for_passes), FORGED(duplicate_of_another_key_is_found),
        FORGED(message_that_never_ends_is_found), FORGED(archive_that_did_not_happen_is_found), FORGED(two_archives_are_found),
        FORGED(two_archives_with_two_leases_are_found), FORGED(delivery_after_the_end_is_found), FORGED(handler_after_the_end_is_found),
        FORGED(two_holders_are_found), FORGED(two_handlers_are_found), FORGED(holders_one_after_the_other_pass),
        FORGED(extended_lease_is_still_held), FORGED(refused_extension_holds_nothing), FORGED(clocks_that_differ_may_overlap),
        FORGED(same_token_twice_is_found), FORGED(verdict_after_the_lease_is_found), FORGED(verdict_of_the_one_before_is_found),
        FORGED(verdict_of_the_one_before_with_lost_replies), FORGED(release_of_the_one_before_with_lost_replies_is_fine),
        FORGED(release_of_the_one_before_is_found),
        FORGED(extension_of_the_one_before_is_found), FORGED(verdict_with_a_lease_of_nobody_is_found),
        FORGED(refusal_of_the_holder_is_found), FORGED(refusal_after_the_lease_passes), FORGED(attempt_that_is_not_counted_is_found),
        FORGED(attempt_that_is_counted_twice_is_found), FORGED(giving_back_that_is_counted_is_found), FORGED(giving_back_is_not_counted),
        FORGED(first_delivery_with_attempt_two_is_found), FORGED(hidden_claim_explains_an_attempt), FORGED(claim_of_the_dead_explains_an_attempt),
        FORGED(repeated_claim_explains_an_attempt),
        FORGED(more_attempts_than_allowed_are_found), FORGED(handlers_with_the_same_attempt_are_found),
        FORGED(message_that_died_early_is_found), FORGED(batch_in_order_passes), FORGED(batch_in_the_wrong_order_is_found),
        FORGED(batch_with_the_wrong_priority_first_is_found), FORGED(queue_in_the_wrong_order_is_found), FORGED(message_left_out_is_found),
        FORGED(lease_that_does_not_come_back_is_found), FORGED(claim_beside_another_one_proves_nothing),
        FORGED(last_attempt_that_nobody_wrote_down_ends_it), FORGED(left_out_before_the_last_attempt_is_found),
        FORGED(death_without_its_attempts_is_found), FORGED(call_that_waited_long_got_it_next),
        FORGED(enqueue_that_is_told_last_proves_nothing),
        FORGED(claim_that_is_full_proves_nothing), FORGED(good_run_passes), FORGED(lost_run_is_found), FORGED(run_that_failed_is_found),
        FORGED(run_triggered_twice_is_found), FORGED(step_that_ran_again_is_found), FORGED(body_of_a_process_that_lags_passes), FORGED(step_that_ran_again_after_a_flush_is_found),
        FORGED(body_of_a_paused_process_passes), FORGED(other_output_is_found), FORGED(other_output_in_the_end_is_found),
        FORGED(money_moved_twice_is_found), FORGED(money_not_moved_is_found), FORGED(run_after_its_end_is_found),
        FORGED(input_of_another_run_is_found), FORGED(history_is_read_as_it_was_written)};
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("proof_forged", tests, NULL, NULL);
}
