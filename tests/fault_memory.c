/* Out of memory: every public function is called with its first, second, third … allocation failing, until it gets
 * through. Each time the error must be PGQRS_ERR_NO_MEMORY (or none, when the function can do without), nothing may
 * have changed, nothing may leak, and the store must go on working. Once with a single failure, once with no memory at
 * all from there on. */
#include "fault_operations.h"

static int allocations_failed;

static void starve(const operation *what, bool for_good)
{
    static char before[16384], after[16384];
    int64_t nth, total = 0, blocks;
    bool finished = false, fresh = true;
    with_runs = is_about_runs(what);
    for (nth = 0; !finished; nth++) {
        pgqrs_result result;
        pgqrs_error err;
        if (fresh) {
            D.due_at_us = T.now_us;
            prepare_data();
            /* Fixed: what is bought once for the life of the store is not what is looked for. */
            total = total_of_queue();
            picture(before, sizeof(before));
        }
        fresh = false;
        blocks = T.memory.blocks;
        T.memory.failed = 0;
        T.memory.fail_all_after = for_good;
        T.memory.fail_at = nth;
        T.sleeps = 0;
        result = what->call();
        err = *pgqrs_last_error(T.store);
        T.memory.fail_at = -1;
        finished = T.memory.failed == 0;
        allocations_failed += !finished;
        T.now_us = D.due_at_us;
        if (finished && result != PGQRS_OK)
            fail_at(__FILE__, __LINE__, "%s with enough memory gave %s (%s)", what->name, pgqrs_result_name(result),
                    err.message);
        if (result != PGQRS_OK && result != PGQRS_ERR_NO_MEMORY)
            fail_at(__FILE__, __LINE__, "%s, allocation %d failing, gave %s (%s)", what->name, (int)nth,
                    pgqrs_result_name(result), err.message);
        if (result == PGQRS_ERR_NO_MEMORY && what->flags == CHANGES_NOTHING) {
            picture(after, sizeof(after));
            if (strcmp(before, after) != 0)
                fail_at(__FILE__, __LINE__, "%s, allocation %d failing, changed\n%sinto\n%s", what->name, (int)nth,
                        before, after);
        } else {
            fresh = true; /* done, or partly done */
            if (what->flags == MAY_DO_PARTS && total_of_queue() != total)
                fail_at(__FILE__, __LINE__, "%s, allocation %d failing, lost a message", what->name, (int)nth);
        }
        if (T.memory.blocks > blocks + 64)
            fail_at(__FILE__, __LINE__, "%s, allocation %d failing, kept %d blocks", what->name, (int)nth,
                    (int)(T.memory.blocks - blocks));
        if (nth > 3000)
            fail_at(__FILE__, __LINE__, "%s never gets through", what->name);
    }
    if (on(ON_BUCKET))
        forget_rows(what);
    else if (strcmp(what->name, "pgqrs_queue_create") == 0)
        OK(pgqrs_queue_delete(T.store, "made-without-memory", true));
    if (strcmp(what->name, "pgqrs_worker_register") == 0)
        T.now_us += 3600 * SECOND_US; /* the name is stale then */
    T.now_us += SECOND_US;
}

static void starve_all(bool for_good)
{
    size_t i;
    int tried = 0;
    memset(&D, 0, sizeof(D));
    allocations_failed = 0;
    if (on(ON_BUCKET))
        watch(1200);
    for (i = 0; i < COUNT_OF(operations); i++) {
        if (is_left_out(i))
            continue;
        starve(&operations[i], for_good);
        tried++;
    }
    forget_data();
    printf("# %d allocations failed in %d operations, %d operations were left out (PGQRS_TEST_WHOLE=1)\n", allocations_failed, tried,
           (int)COUNT_OF(operations) - tried);
    YES(tried < (int)COUNT_OF(operations) || allocations_failed > tried / 2);
    OK(pgqrs_verify(T.store));
}

static void one_allocation_fails(void)
{
    starve_all(false);
}

static void no_memory_from_there_on(void)
{
    starve_all(true);
}

/* A closed and freed store leaves nothing, wherever memory ran out: many small stores, each with one failure. */
static void nothing_leaks_when_the_store_is_closed(void)
{
    size_t i;
    int64_t nth;
    memset(&D, 0, sizeof(D));
    if (on(ON_BUCKET))
        watch(1200);
    for (i = 0; i < COUNT_OF(operations); i++) {
        if (operations[i].call == call_open || operations[i].call == call_config || is_left_out(i))
            continue;
        with_runs = is_about_runs(&operations[i]);
        for (nth = 0; nth < 3; nth++) {
            int64_t balance;
            close_all_stores();
            balance = T.memory.blocks;
            T.store = open_store(NULL);
            OK(pgqrs_install(T.store));
            prepare_data();
            T.memory.fail_at = nth;
            operations[i].call();
            T.memory.fail_at = -1;
            T.now_us += 3600 * SECOND_US;
            forget_data();
            if (operations[i].call == call_queue_create)
                pgqrs_queue_delete(T.store, "made-without-memory", true);
            close_all_stores();
            if (T.memory.blocks != balance)
                fail_at(__FILE__, __LINE__, "%s, allocation %d failing, leaked %d blocks", operations[i].name, (int)nth,
                        (int)(T.memory.blocks - balance));
        }
    }
    T.store = open_store(NULL);
}

static void uninstall_without_memory(void)
{
    int64_t nth;
    for (nth = 0;; nth++) {
        pgqrs_result result;
        int32_t version = -1;
        OK(pgqrs_install(T.store));
        T.memory.failed = 0;
        T.memory.fail_at = nth;
        result = pgqrs_uninstall(T.store);
        T.memory.fail_at = -1;
        OK(pgqrs_schema_version(T.store, &version));
        EQ(result == PGQRS_OK ? 0 : PGQRS_SCHEMA_VERSION, version);
        if (T.memory.failed == 0)
            break;
        YES(result == PGQRS_OK || result == PGQRS_ERR_NO_MEMORY);
        YES(nth < 100);
    }
}

static void install_without_memory(void)
{
    int64_t nth;
    for (nth = 0;; nth++) {
        pgqrs_result result;
        int32_t version = -1;
        OK(pgqrs_uninstall(T.store));
        T.memory.failed = 0;
        T.memory.fail_at = nth;
        result = pgqrs_install(T.store);
        T.memory.fail_at = -1;
        OK(pgqrs_schema_version(T.store, &version));
        EQ(result == PGQRS_OK ? PGQRS_SCHEMA_VERSION : 0, version);
        if (T.memory.failed == 0)
            break;
        YES(result == PGQRS_OK || result == PGQRS_ERR_NO_MEMORY);
        YES(nth < 100);
    }
    OK(pgqrs_verify(T.store));
}

static void open_without_memory_leaks_nothing(void)
{
    int64_t nth;
    for (nth = 0;; nth++) {
        int64_t balance = T.memory.blocks;
        pgqrs_result result;
        T.memory.failed = 0;
        T.memory.fail_at = nth;
        result = call_open();
        T.memory.fail_at = -1;
        EQ(balance, T.memory.blocks);
        if (T.memory.failed == 0) {
            RESULT(PGQRS_OK, result);
            break;
        }
        YES(result == PGQRS_OK || result == PGQRS_ERR_NO_MEMORY);
        YES(nth < 1000);
    }
    YES(nth > 0);
}

/* Local mode of S3. */
static void sync_and_snapshot_without_memory(void)
{
    begin_copying();
    for (size_t i = 0; i < COUNT_OF(copyings); i++) {
        int64_t nth = 0, blocks;
        do {
            pgqrs_result result;
            prepare_copying(&copyings[i]);
            blocks = T.memory.blocks;
            T.memory.failed = 0;
            T.memory.fail_at = nth;
            result = copyings[i].call();
            T.memory.fail_at = -1;
            if (!(result == PGQRS_OK || (T.memory.failed > 0 && result == PGQRS_ERR_NO_MEMORY)))
                fail_at(__FILE__, __LINE__, "%s, allocation %d failing, gave %s", copyings[i].name, (int)nth, pgqrs_result_name(result));
            BETWEEN(0, blocks + 8, T.memory.blocks);
            check_copying(&copyings[i], copyings[i].name, result);
        } while (T.memory.failed > 0 && ++nth < 200);
        YES(nth > 0);
        EQ(0, T.memory.failed);
    }
}

static void configuration_without_memory_leaks_nothing(void)
{
    int64_t nth;
    for (nth = 0;; nth++) {
        int64_t balance = T.memory.blocks;
        pgqrs_result result;
        T.memory.failed = 0;
        T.memory.fail_at = nth;
        result = call_config();
        T.memory.fail_at = -1;
        EQ(balance, T.memory.blocks);
        if (T.memory.failed == 0) {
            RESULT(PGQRS_OK, result);
            break;
        }
        RESULT(PGQRS_ERR_NO_MEMORY, result);
        YES(nth < 1000);
    }
    YES(nth > 0);
}

static const test_case memory_cases[] = {
    CASE(one_allocation_fails, FRESH | NO_QUEUE),
    /* Behind the pooler the first case has been at every allocation; these two would take minutes there. */
    CASE_ON(no_memory_from_there_on, FRESH | NO_QUEUE, ON_SQLITE | ON_POSTGRES | ON_BUCKET),
    CASE_ON(nothing_leaks_when_the_store_is_closed, FRESH | NO_QUEUE, ON_SQLITE | ON_POSTGRES | ON_BUCKET),
    CASE(uninstall_without_memory, FRESH),
    CASE(install_without_memory, FRESH),
    CASE(open_without_memory_leaks_nothing, NO_STORE),
    CASE(configuration_without_memory_leaks_nothing, NO_STORE),
};

static const test_case copying_cases[] = {
    CASE_ON(sync_and_snapshot_without_memory, PLAIN, ON_S3_LOCAL),
};

int main(void)
{
    static const test_list lists[] = {LIST(memory_cases), LIST(copying_cases)};
    static const test_list copying_lists[] = {LIST(copying_cases)};
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    /* In local mode another server matters to these alone. */
    if (on(ON_S3_LOCAL) && !run.s3_server.pid)
        failed = run_lists("fault_memory", copying_lists, COUNT_OF(copying_lists));
    else
        failed = run_lists("fault_memory", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
