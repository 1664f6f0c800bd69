/* Calls that have nothing to work on: no store, no run, no worker, a state that does not exist. They answer, they do not
 * crash, and what they answer is what the declarations say. */
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define REFUSED(...) assert_string_equal(pgqrs_result_name(__VA_ARGS__), pgqrs_result_name(PGQRS_ERR_INVALID_ARGUMENT))

static pgqrs_store *open_store(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite::memory:", NULL, &err);
    assert_non_null(store);
    assert_int_equal(pgqrs_install(store), PGQRS_OK);
    return store;
}

static pgqrs_result no_body(pgqrs_run *run, void *user)
{
    (void)user;
    return pgqrs_run_return(run, NULL);
}

static void test_workflows_without_a_store(void **state)
{
    pgqrs_workflow_entry entry = {"w", no_body, NULL};
    pgqrs_workflow *workflow = NULL;
    pgqrs_workflows *workflows = NULL;
    pgqrs_run_info *info = NULL;
    pgqrs_runs *runs = NULL;
    pgqrs_steps *steps = NULL;
    pgqrs_run_values *values = NULL;
    pgqrs_run_events *events = NULL;
    pgqrs_explanation why;
    int64_t number = 0;
    (void)state;
    REFUSED(pgqrs_workflow_create(NULL, "w", NULL));
    REFUSED(pgqrs_workflow_update(NULL, "w", NULL));
    REFUSED(pgqrs_workflow_get(NULL, "w", &workflow));
    REFUSED(pgqrs_workflow_list(NULL, 0, 0, &workflows));
    REFUSED(pgqrs_workflow_delete(NULL, "w", true));
    REFUSED(pgqrs_workflow_trigger(NULL, "w", NULL, NULL, &number));
    REFUSED(pgqrs_workflow_trigger_many(NULL, "w", NULL, 0, NULL));
    REFUSED(pgqrs_work_workflow(NULL, "w", no_body, NULL, NULL));
    REFUSED(pgqrs_work_workflows(NULL, &entry, 1, NULL));
    assert_null(pgqrs_worker_open_workflows(NULL, &entry, 1, NULL));
    REFUSED(pgqrs_run_get(NULL, 1, &info));
    REFUSED(pgqrs_run_result(NULL, 1, 0, &info));
    REFUSED(pgqrs_run_list(NULL, NULL, &runs));
    REFUSED(pgqrs_run_count(NULL, NULL, &number));
    REFUSED(pgqrs_run_steps(NULL, 1, &steps));
    REFUSED(pgqrs_run_values_get(NULL, 1, &values));
    REFUSED(pgqrs_run_events_get(NULL, 1, &events));
    REFUSED(pgqrs_message_import(NULL, NULL, 0, NULL));
    REFUSED(pgqrs_run_import(NULL, NULL, 0, NULL));
    REFUSED(pgqrs_run_explain(NULL, 1, &why));
    REFUSED(pgqrs_run_cancel(NULL, 1, NULL, NULL));
    REFUSED(pgqrs_run_send_event(NULL, 1, "e", "1", NULL));
    REFUSED(pgqrs_run_restart(NULL, 1));
    REFUSED(pgqrs_run_fork(NULL, 1, NULL, &number));
    REFUSED(pgqrs_run_purge(NULL, "w", NULL, &number));
    assert_null(workflow);
    assert_null(workflows);
    assert_null(info);
    assert_null(runs);
    assert_null(steps);
    assert_null(values);
    assert_int_equal(number, 0);
}

static void test_messages_without_a_store(void **state)
{
    pgqrs_message message;
    pgqrs_result results[1];
    (void)state;
    memset(&message, 0, sizeof message);
    REFUSED(pgqrs_delete_many(NULL, &message, 1, results));
    REFUSED(pgqrs_archive_many(NULL, &message, 1, results));
    REFUSED(pgqrs_release_many(NULL, &message, 1, NULL, results));
    REFUSED(pgqrs_extend_many(NULL, &message, 1, 1000, results));
    REFUSED(pgqrs_message_extend(&message, 1000)); /* it was not handed out by a loop */
    assert_null(pgqrs_store_settings(NULL));
    assert_string_equal(pgqrs_store_backend(NULL), "");
    assert_false(pgqrs_store_pooled(NULL));
}

static void test_places_for_results_must_be_there(void **state)
{
    pgqrs_store *store = open_store();
    (void)state;
    REFUSED(pgqrs_run_get(store, 1, NULL));
    REFUSED(pgqrs_run_result(store, 1, 0, NULL));
    REFUSED(pgqrs_run_list(store, NULL, NULL));
    REFUSED(pgqrs_run_count(store, NULL, NULL));
    REFUSED(pgqrs_run_steps(store, 1, NULL));
    REFUSED(pgqrs_run_values_get(store, 1, NULL));
    REFUSED(pgqrs_run_events_get(store, 1, NULL));
    REFUSED(pgqrs_message_import(store, NULL, 1, NULL));
    REFUSED(pgqrs_run_import(store, NULL, 1, NULL));
    REFUSED(pgqrs_run_explain(store, 1, NULL));
    assert_non_null(strstr(pgqrs_last_error(store)->message, "out"));
    REFUSED(pgqrs_message_explain(store, 1, NULL));
    REFUSED(pgqrs_worker_healthy(store, 1, 0, NULL));
    REFUSED(pgqrs_workflow_get(store, "w", NULL));
    REFUSED(pgqrs_workflow_list(store, 0, 0, NULL));
    pgqrs_close(store);
}

static void test_without_a_run(void **state)
{
    const char *output = "x", *payload = "x";
    (void)state;
    assert_int_equal(pgqrs_run_id(NULL), 0);
    assert_string_equal(pgqrs_run_workflow(NULL), "");
    assert_string_equal(pgqrs_run_input(NULL), "null");
    assert_int_equal(pgqrs_run_attempt(NULL), 0);
    assert_null(pgqrs_run_store(NULL));
    assert_int_equal(pgqrs_run_error(NULL)->code, PGQRS_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(pgqrs_run_error(NULL)->message, "run"));
    REFUSED(pgqrs_run_status(NULL));
    assert_false(pgqrs_step(NULL, "a", &output));
    assert_false(pgqrs_step_keyed(NULL, "a", "k", &output));
    assert_false(pgqrs_run_sleep(NULL, "a", 1));
    assert_false(pgqrs_run_sleep_until(NULL, "a", 1));
    assert_false(pgqrs_run_wait_event(NULL, "a", 1, &payload));
    assert_null(pgqrs_step_done(NULL, "1"));
    assert_null(pgqrs_run_quote(NULL, "text"));
    assert_null(pgqrs_run_unquote(NULL, "\"text\""));
    assert_null(pgqrs_run_value(NULL, "v"));
    REFUSED(pgqrs_run_set(NULL, "v", "1"));
    REFUSED(pgqrs_run_flush(NULL));
    REFUSED(pgqrs_run_extend(NULL, 1000));
    REFUSED(pgqrs_run_return(NULL, "1"));
    REFUSED(pgqrs_run_fail(NULL, NULL));
    assert_null(pgqrs_run_sqlite3(NULL));
}

static void test_without_a_worker(void **state)
{
    (void)state;
    assert_int_equal(pgqrs_worker_fd(NULL), -1);
    assert_int_equal(pgqrs_worker_next_ms(NULL), 0);
    assert_false(pgqrs_worker_stopping(NULL));
    assert_int_equal(pgqrs_worker_self(NULL).id, 0);
    pgqrs_worker_stop(NULL);
    REFUSED(pgqrs_worker_poll(NULL, 0, NULL));
    assert_int_equal(pgqrs_worker_close(NULL), PGQRS_OK);
}

static void test_names_of_states(void **state)
{
    static const int beyond[] = {-1, 99};
    (void)state;
    assert_string_equal(pgqrs_state_name(PGQRS_READY), "ready");
    assert_string_equal(pgqrs_state_name(PGQRS_DEAD), "dead");
    assert_string_equal(pgqrs_worker_state_name(PGQRS_WORKER_STOPPED), "stopped");
    assert_string_equal(pgqrs_run_state_name(PGQRS_RUN_QUEUED), "queued");
    assert_string_equal(pgqrs_run_wait_name(PGQRS_WAIT_EVENT), "event");
    assert_string_equal(pgqrs_step_state_name(PGQRS_STEP_FAILED), "failed");
    assert_string_equal(pgqrs_step_kind_name(PGQRS_STEP_BODY), "body");
    assert_string_equal(pgqrs_step_kind_name(PGQRS_STEP_SLEEP), "sleep");
    assert_string_equal(pgqrs_step_kind_name(PGQRS_STEP_EVENT), "event");
    for (size_t i = 0; i < COUNT(beyond); i++) {
        assert_string_equal(pgqrs_state_name((pgqrs_state)beyond[i]), "unknown");
        assert_string_equal(pgqrs_worker_state_name((pgqrs_worker_state)beyond[i]), "unknown");
        assert_string_equal(pgqrs_run_state_name((pgqrs_run_state)beyond[i]), "unknown");
        assert_string_equal(pgqrs_run_wait_name((pgqrs_run_wait)beyond[i]), "unknown");
        assert_string_equal(pgqrs_step_state_name((pgqrs_step_state)beyond[i]), "unknown");
        assert_string_equal(pgqrs_step_kind_name((pgqrs_step_kind)beyond[i]), "unknown");
        assert_string_equal(pgqrs_reason_name((pgqrs_reason)beyond[i]), "unknown");
        assert_non_null(pgqrs_result_name((pgqrs_result)(1000 + beyond[i])));
    }
}

static void test_names_of_reasons(void **state)
{
    static const struct {
        pgqrs_reason reason;
        const char *name;
    } all[] = {{PGQRS_WHY_NEXT, "next"},
               {PGQRS_WHY_NO_WORKER, "no_worker"},
               {PGQRS_WHY_PAUSED, "paused"},
               {PGQRS_WHY_DELAYED, "delayed"},
               {PGQRS_WHY_LEASED, "leased"},
               {PGQRS_WHY_LEASE_OVER, "lease_over"},
               {PGQRS_WHY_EXPIRED, "expired"},
               {PGQRS_WHY_ARCHIVED, "archived"},
               {PGQRS_WHY_DEAD, "dead"},
               {PGQRS_WHY_UNKNOWN_ID, "unknown_id"},
               {PGQRS_WHY_RETRY, "retry"},
               {PGQRS_WHY_STEP_PAUSE, "step_pause"},
               {PGQRS_WHY_SLEEP, "sleep"},
               {PGQRS_WHY_EVENT, "event"},
               {PGQRS_WHY_CANCELLING, "cancelling"},
               {PGQRS_WHY_RUN_ENDED, "run_ended"},
               {PGQRS_WHY_RUN_FAILED, "run_failed"}};
    (void)state;
    for (size_t i = 0; i < COUNT(all); i++) {
        assert_int_equal((int)all[i].reason, (int)i + 1);
        assert_string_equal(pgqrs_reason_name(all[i].reason), all[i].name);
    }
    assert_string_equal(pgqrs_reason_name((pgqrs_reason)0), "unknown");
    assert_string_equal(pgqrs_reason_name((pgqrs_reason)(COUNT(all) + 1)), "unknown");
}

/* The body's question, and whether it was answered. */
typedef struct question {
    bool (*ask)(pgqrs_run *run);
    bool answer;
} question;

static pgqrs_result ask_in_run(pgqrs_run *run, void *user)
{
    question *asked = (question *)user;
    asked->answer = asked->ask(run);
    return pgqrs_run_return(run, NULL);
}

static bool sleeps_until_before_1970(pgqrs_run *run)
{
    return pgqrs_run_sleep_until(run, "nap", -1);
}

static bool sleeps_until_after_9999(pgqrs_run *run)
{
    return pgqrs_run_sleep_until(run, "nap", INT64_MAX);
}

static bool sleeps_without_name_until_before_1970(pgqrs_run *run)
{
    return pgqrs_run_sleep_until(run, NULL, -1);
}

static bool sleeps_without_name_for_less_than_nothing(pgqrs_run *run)
{
    return pgqrs_run_sleep(run, NULL, -1);
}

static bool waits_without_name_for_less_than_nothing(pgqrs_run *run)
{
    const char *payload;
    return pgqrs_run_wait_event(run, NULL, -1, &payload);
}

static bool keys_with_nothing(pgqrs_run *run)
{
    const char *output;
    return pgqrs_step_keyed(run, "a", NULL, &output);
}

static bool stores_under_a_bad_name(pgqrs_run *run)
{
    return pgqrs_run_set(run, "a\nb", "1") == PGQRS_OK;
}

/* Each is a mistake of the program: the run fails for good, and says of which step. */
static void test_mistakes_inside_of_a_run(void **state)
{
    static bool (*const asks[])(pgqrs_run *) = {
        sleeps_until_before_1970,
        sleeps_until_after_9999,
        sleeps_without_name_until_before_1970,
        sleeps_without_name_for_less_than_nothing,
        waits_without_name_for_less_than_nothing,
        keys_with_nothing,
        stores_under_a_bad_name,
    };
    pgqrs_store *store = open_store();
    (void)state;
    assert_int_equal(pgqrs_workflow_create(store, "w", NULL), PGQRS_OK);
    for (size_t i = 0; i < COUNT(asks); i++) {
        question asked = {asks[i], true};
        pgqrs_work_desc desc;
        pgqrs_run_info *info = NULL;
        int64_t id = 0;
        memset(&desc, 0, sizeof desc);
        desc.until_empty = true;
        assert_int_equal(pgqrs_workflow_trigger(store, "w", NULL, NULL, &id), PGQRS_OK);
        assert_int_equal(pgqrs_work_workflow(store, "w", ask_in_run, &asked, &desc), PGQRS_OK);
        assert_false(asked.answer);
        assert_int_equal(pgqrs_run_get(store, id, &info), PGQRS_OK);
        assert_int_equal(info->state, PGQRS_RUN_ERROR);
        assert_non_null(info->error_message);
        pgqrs_free(info);
    }
    pgqrs_close(store);
}

static void test_workers_are_found_by_reference(void **state)
{
    static const pgqrs_worker_ref nobody = {0, 0}, negative = {-5, 1};
    pgqrs_store *store = open_store();
    bool healthy = true;
    (void)state;
    assert_int_equal(pgqrs_worker_heartbeat(store, nobody), PGQRS_ERR_WORKER_NOT_FOUND);
    assert_int_equal(pgqrs_worker_heartbeat(store, negative), PGQRS_ERR_WORKER_NOT_FOUND);
    assert_int_equal(pgqrs_worker_begin_polling(store, negative), PGQRS_ERR_WORKER_NOT_FOUND);
    assert_int_equal(pgqrs_worker_suspend(store, -5), PGQRS_ERR_WORKER_NOT_FOUND);
    assert_int_equal(pgqrs_worker_suspend(store, 12345), PGQRS_ERR_WORKER_NOT_FOUND);
    assert_int_equal(pgqrs_worker_healthy(store, 12345, 0, &healthy), PGQRS_ERR_WORKER_NOT_FOUND);
    assert_false(healthy);
    pgqrs_close(store);
}

/* More queues than the engine remembers settings of: the oldest gives way, and retries still use the right policy. */
static void test_more_queues_than_remembered_policies(void **state)
{
    pgqrs_store *store = open_store();
    (void)state;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 20; i++) {
            char name[16];
            pgqrs_queue_desc desc;
            pgqrs_message *message = NULL, *now = NULL;
            memset(&desc, 0, sizeof desc);
            desc.max_attempts = i % 3 + 1;
            desc.backoff_ms = desc.backoff_max_ms = 1;
            snprintf(name, sizeof name, "q%d", i);
            if (round == 0)
                assert_int_equal(pgqrs_queue_create(store, name, &desc), PGQRS_OK);
            assert_int_equal(pgqrs_enqueue(store, name, "1", NULL, NULL), PGQRS_OK);
            assert_int_equal(pgqrs_dequeue(store, name, NULL, &message), PGQRS_OK);
            assert_non_null(message);
            assert_int_equal(pgqrs_retry(store, message, "again"), PGQRS_OK);
            assert_int_equal(pgqrs_message_get(store, message->id, &now), PGQRS_OK);
            /* one attempt allowed: it is dead at once */
            assert_int_equal(now->state == PGQRS_DEAD, i % 3 == 0);
            assert_int_equal(pgqrs_message_delete(store, &now->id, 1, true, NULL), PGQRS_OK);
            pgqrs_free(now);
            pgqrs_free(message);
        }
    }
    pgqrs_close(store);
}

/* Sizes that would overflow never reach the allocator. */
static void test_sizes_that_cannot_be(void **state)
{
    pgqrs_store *store = open_store();
    (void)state;
    assert_null(pgqrs_backend_result_new(store, SIZE_MAX / 2, 0));
    assert_null(pgqrs_backend_result_new(store, 1, SIZE_MAX / 2));
    void *result = pgqrs_backend_result_new(store, 1, 0);
    assert_non_null(result);
    assert_null(pgqrs_backend_result_alloc(result, SIZE_MAX / 2));
    void *nothing = pgqrs_backend_result_alloc(result, 0);
    assert_non_null(nothing);
    assert_ptr_not_equal(nothing, pgqrs_backend_result_alloc(result, 0));
    pgqrs_free(result);
    pgqrs_close(store);
}

static void test_backends_are_registered_once(void **state)
{
    static pgqrs_backend others[32];
    static const char *const schemes[] = {"nothing", NULL};
    size_t taken = 0;
    (void)state;
    assert_int_equal(pgqrs_backend_register(NULL), PGQRS_ERR_INVALID_ARGUMENT);
    assert_int_equal(pgqrs_backend_register(&others[0]), PGQRS_ERR_UNSUPPORTED); /* of version 0 */
    for (size_t i = 0; i < COUNT(others); i++) {
        others[i].version = PGQRS_BACKEND_VERSION;
        others[i].schemes = schemes;
        pgqrs_result result = pgqrs_backend_register(&others[i]);
        assert_true(result == PGQRS_OK || result == PGQRS_ERR_UNSUPPORTED);
        taken += result == PGQRS_OK;
    }
    assert_in_range(taken, 1, COUNT(others) - 1);
    assert_int_equal(pgqrs_backend_register(&others[0]), PGQRS_OK);
    assert_int_equal(pgqrs_backend_register(&others[COUNT(others) - 1]), PGQRS_ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_workflows_without_a_store),
        cmocka_unit_test(test_messages_without_a_store),
        cmocka_unit_test(test_places_for_results_must_be_there),
        cmocka_unit_test(test_without_a_run),
        cmocka_unit_test(test_without_a_worker),
        cmocka_unit_test(test_names_of_states), cmocka_unit_test(test_names_of_reasons),
        cmocka_unit_test(test_mistakes_inside_of_a_run),
        cmocka_unit_test(test_workers_are_found_by_reference),
        cmocka_unit_test(test_more_queues_than_remembered_policies),
        cmocka_unit_test(test_sizes_that_cannot_be),
        cmocka_unit_test(test_backends_are_registered_once),
    };
    return cmocka_run_group_tests_name("unit_edges", tests, NULL, NULL);
}
