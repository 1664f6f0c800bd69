/* The conformance suite: what every backend must do, in the same words for all of them. Passing it is what makes a
 * backend a backend.
 *
 *   PGQRS_TEST_TARGET  sqlite-file (default), sqlite-memory, postgres, pgbouncer
 *   PGQRS_TEST_DSN     the server to use; sqlite-file: a file whose directory is used
 *   PGQRS_TEST_SEED    repeats a run; PGQRS_TEST_ONLY: cases whose name contains it; PGQRS_TEST_LOUD: shows the log
 */
#define PGQRS_THREADS
#include "support.h"

#include "conformance_enqueue.h"
#include "conformance_delivery.h"
#include "conformance_queues.h"
#include "conformance_inspect.h"
#include "conformance_workers.h"
#include "conformance_loop.h"
#include "conformance_store.h"
#include "conformance_processes.h"
#include "conformance_workflow.h"
#include "conformance_steps.h"
#include "conformance_runs.h"
#include "conformance_import.h"
#include "conformance_threads.h"

int main(void)
{
    static const test_list lists[] = {
        LIST(enqueue_cases), LIST(delivery_cases), LIST(queue_cases), LIST(inspect_cases),
        LIST(worker_cases),  LIST(loop_cases),     LIST(store_cases), LIST(process_cases),
        LIST(workflow_cases), LIST(step_cases), LIST(run_cases),
        LIST(import_cases), LIST(thread_cases),
    };
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    failed = run_lists("conformance", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
