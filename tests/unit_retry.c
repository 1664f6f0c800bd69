/* The delay before a retry: growth, cap, jitter, defaults, and that no policy makes it overflow. */
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define YEAR_MS (INT64_C(365) * 24 * 60 * 60 * 1000)

static void test_vectors(void **state)
{
    static const struct {
        pgqrs_retry_policy policy;
        int32_t retry;
        int64_t delay_ms;
    } cases[] = {
        /* exponential without jitter */
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, 0, 1000},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, 1, 2000},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, 2, 4000},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, 5, 32000},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, 6, 60000},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, 7, 60000},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, INT32_MAX, 60000},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1, 8, -1}, 3, 8},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1, 8, -1}, 4, 8},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 5, 9, -1}, 1, 9},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 5, 5, -1}, 1, 5},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1, 10 * YEAR_MS, -1}, 30, INT64_C(1) << 30},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 1, 10 * YEAR_MS, -1}, 63, 10 * YEAR_MS},
        {{3, PGQRS_BACKOFF_EXPONENTIAL, 10 * YEAR_MS, 10 * YEAR_MS, -1}, 3, 10 * YEAR_MS},
        /* fixed: the cap does not matter */
        {{3, PGQRS_BACKOFF_FIXED, 2500, 60000, -1}, 0, 2500},
        {{3, PGQRS_BACKOFF_FIXED, 2500, 60000, -1}, 9, 2500},
        {{3, PGQRS_BACKOFF_FIXED, 2500, 1, -1}, INT32_MAX, 2500},
        /* how many retries there are is not asked */
        {{1, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, 3, 8000},
        {{-1, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, -1}, 0, 1000},
        /* a member that is zero is the default */
        {{0, PGQRS_BACKOFF_EXPONENTIAL, 0, 0, -1}, 0, 1000},
        {{0, PGQRS_BACKOFF_EXPONENTIAL, 0, 0, -1}, 10, 60000},
        {{0, PGQRS_BACKOFF_EXPONENTIAL, 0, 3000, -1}, 2, 3000},
        {{0, PGQRS_BACKOFF_EXPONENTIAL, 100, 0, -1}, 3, 800},
        {{0, PGQRS_BACKOFF_EXPONENTIAL, 0, 500, -1}, 0, 500},
        {{0, PGQRS_BACKOFF_EXPONENTIAL, 0, 500, -1}, 2, 500},
        {{0, PGQRS_BACKOFF_FIXED, 0, 0, -1}, 4, 1000},
        /* a base above the default cap lifts it */
        {{0, PGQRS_BACKOFF_EXPONENTIAL, 90000, 0, -1}, 0, 90000},
        {{0, PGQRS_BACKOFF_EXPONENTIAL, 90000, 0, -1}, 3, 90000},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t delay_ms = pgqrs_retry_delay_ms(&cases[i].policy, cases[i].retry, UINT64_C(0x123456789abcdef) * i);
        if (delay_ms != cases[i].delay_ms)
            fail_msg("case %zu: %lld, expected %lld", i, (long long)delay_ms, (long long)cases[i].delay_ms);
    }
}

/* The smallest and the largest delay, and the mean, over many random numbers. */
static void spread(const pgqrs_retry_policy *policy, int32_t retry, int64_t *low, int64_t *high, double *mean)
{
    uint64_t random = 42;
    double sum = 0;
    int i;
    *low = INT64_MAX;
    *high = INT64_MIN;
    for (i = 0; i < 20000; i++) {
        int64_t delay_ms;
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        delay_ms = pgqrs_retry_delay_ms(policy, retry, random ^ (random >> 31));
        sum += (double)delay_ms;
        if (delay_ms < *low) *low = delay_ms;
        if (delay_ms > *high) *high = delay_ms;
    }
    *mean = sum / 20000;
}

static void test_jitter_goes_both_ways_and_no_further(void **state)
{
    static const struct {
        int32_t percent;
        int64_t base_ms, low, high;
    } cases[] = {
        {-1, 1000, 1000, 1000}, {1, 1000, 990, 1010}, {25, 1000, 750, 1250}, {50, 1000, 500, 1500},
        {100, 1000, 0, 2000},   {25, 4, 3, 5},        {25, 3, 3, 3},         {0, 1000, 750, 1250},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        pgqrs_retry_policy policy = {3, PGQRS_BACKOFF_FIXED, cases[i].base_ms, 0, cases[i].percent};
        double mean = 0, base = (double)cases[i].base_ms;
        int64_t low = 0, high = 0;
        spread(&policy, 0, &low, &high, &mean);
        if (low != cases[i].low || high != cases[i].high || mean < base * 0.97 || mean > base * 1.03)
            fail_msg("jitter of %d %% on %lld: %lld to %lld, mean %f", (int)cases[i].percent,
                     (long long)cases[i].base_ms, (long long)low, (long long)high, mean);
    }
}

static void test_jitter_is_on_top_of_the_cap(void **state)
{
    pgqrs_retry_policy policy = {3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 8000, 25};
    double mean = 0;
    int64_t low = 0, high = 0;
    (void)state;
    spread(&policy, 9, &low, &high, &mean);
    assert_true(low >= 6000 && low < 6100);
    assert_true(high <= 10000 && high > 9900);
}

static void test_same_numbers_same_delay(void **state)
{
    pgqrs_retry_policy policy = {3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, 25};
    uint64_t random;
    (void)state;
    for (random = 0; random < 1000; random++)
        assert_true(pgqrs_retry_delay_ms(&policy, 4, random * 7919) == pgqrs_retry_delay_ms(&policy, 4, random * 7919));
}

static void test_no_policy_is_the_default_one(void **state)
{
    static const int64_t want[] = {1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000};
    pgqrs_retry_policy zero;
    int32_t retry;
    (void)state;
    memset(&zero, 0, sizeof zero);
    for (retry = 0; retry < (int32_t)COUNT(want); retry++) {
        double mean = 0;
        int64_t low = 0, high = 0;
        spread(NULL, retry, &low, &high, &mean);
        assert_true(low >= want[retry] * 3 / 4 && high <= want[retry] * 5 / 4);
        assert_true(high - low > want[retry] * 49 / 100);
        assert_true(pgqrs_retry_delay_ms(NULL, retry, 77) == pgqrs_retry_delay_ms(&zero, retry, 77));
    }
}

/* Whatever stands in a policy: a delay, and nothing undefined. */
static void test_odd_policies_never_give_a_negative_delay(void **state)
{
    static const int64_t times[] = {INT64_MIN, -1, 0, 1, INT64_MAX / 2, INT64_MAX};
    static const int32_t numbers[] = {INT32_MIN, -2, -1, 0, 1, 64, 101, INT32_MAX};
    static const uint64_t randoms[] = {0, 1, UINT64_C(1) << 63, UINT64_MAX};
    (void)state;
    for (size_t b = 0; b < COUNT(times); b++)
        for (size_t c = 0; c < COUNT(times); c++)
            for (size_t j = 0; j < COUNT(numbers); j++)
                for (size_t n = 0; n < COUNT(numbers); n++)
                    for (size_t r = 0; r < COUNT(randoms); r++) {
                        pgqrs_retry_policy policy = {3, (pgqrs_backoff)(r % 2), times[b], times[c], numbers[j]};
                        int64_t delay_ms = pgqrs_retry_delay_ms(&policy, numbers[n], randoms[r]);
                        if (delay_ms < 0)
                            fail_msg("base %lld, cap %lld, jitter %d, retry %d: %lld", (long long)times[b],
                                     (long long)times[c], (int)numbers[j], (int)numbers[n], (long long)delay_ms);
                    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_jitter_goes_both_ways_and_no_further),
        cmocka_unit_test(test_jitter_is_on_top_of_the_cap),
        cmocka_unit_test(test_same_numbers_same_delay),
        cmocka_unit_test(test_no_policy_is_the_default_one),
        cmocka_unit_test(test_odd_policies_never_give_a_negative_delay),
    };
    return cmocka_run_group_tests_name("unit_retry", tests, NULL, NULL);
}
