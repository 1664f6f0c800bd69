/* A program without PGQRS_THREADS: what needs threads says so, and names the cure. */
#undef PGQRS_THREADS
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static pgqrs_store *test_store;
static int test_calls;

static int test_begin(void **state)
{
    (void)state;
    test_store = pgqrs_open("sqlite::memory:", NULL, NULL);
    test_calls = 0;
    return test_store && pgqrs_install(test_store) == PGQRS_OK && pgqrs_queue_create(test_store, "q", NULL) == PGQRS_OK &&
                   pgqrs_workflow_create(test_store, "w", NULL) == PGQRS_OK &&
                   pgqrs_enqueue(test_store, "q", "1", NULL, NULL) == PGQRS_OK
               ? 0
               : -1;
}

static int test_end(void **state)
{
    (void)state;
    pgqrs_close(test_store);
    return 0;
}

static pgqrs_result test_handle(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    test_calls++;
    return PGQRS_OK;
}

static pgqrs_result test_run(pgqrs_run *run, void *user)
{
    (void)user;
    test_calls++;
    return pgqrs_run_return(run, NULL);
}

static void test_unsupported(pgqrs_result result)
{
    const pgqrs_error *err = pgqrs_last_error(test_store);
    assert_int_equal(result, PGQRS_ERR_UNSUPPORTED);
    assert_int_equal(err->code, PGQRS_ERR_UNSUPPORTED);
    assert_int_equal(err->kind, PGQRS_KIND_MISUSE);
    assert_non_null(strstr(err->message, "PGQRS_THREADS"));
    assert_non_null(strstr(err->message, "-pthread"));
    assert_int_equal(test_calls, 0);
}

static void test_pools_are_unsupported(void **state)
{
    pgqrs_work_desc desc;
    int64_t count = -1;
    (void)state;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    desc.until_empty = true;
    test_unsupported(pgqrs_work(test_store, "q", test_handle, NULL, &desc));
    test_unsupported(pgqrs_work_workflow(test_store, "w", test_run, NULL, &desc));
    assert_int_equal(pgqrs_worker_count(test_store, NULL, &count), PGQRS_OK);
    assert_int_equal(count, 0);
}

static void test_producers_are_unsupported(void **state)
{
    (void)state;
    assert_null(pgqrs_producer_open(test_store, NULL));
    test_unsupported(pgqrs_last_error(test_store)->code);
    /* and the store is as usable as before */
    assert_int_equal(pgqrs_enqueue(test_store, "q", "2", NULL, NULL), PGQRS_OK);
}

static void test_other_calls_of_producers_are_harmless(void **state)
{
    pgqrs_error err;
    (void)state;
    assert_int_equal(pgqrs_producer_enqueue(NULL, "q", "1", NULL, NULL, &err), PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(err.code, PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(pgqrs_producer_hand_over(NULL, "q", "1", NULL, NULL), PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(pgqrs_producer_flush(NULL, NULL), PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(pgqrs_producer_close(NULL, &err), PGQRS_OK);
    assert_int_equal(err.code, PGQRS_OK);
}

static void test_no_threads_are_the_calling_thread(void **state)
{
    pgqrs_work_desc desc;
    (void)state;
    memset(&desc, 0, sizeof desc);
    desc.until_empty = true;
    assert_int_equal(pgqrs_work(test_store, "q", test_handle, NULL, &desc), PGQRS_OK);
    assert_int_equal(test_calls, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pools_are_unsupported, test_begin, test_end),
        cmocka_unit_test_setup_teardown(test_producers_are_unsupported, test_begin, test_end),
        cmocka_unit_test_setup_teardown(test_other_calls_of_producers_are_harmless, test_begin, test_end),
        cmocka_unit_test_setup_teardown(test_no_threads_are_the_calling_thread, test_begin, test_end),
    };
    return cmocka_run_group_tests_name("unit_threads_plain", tests, NULL, NULL);
}
