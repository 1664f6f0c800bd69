/*
    pgqrs.h - a durable queue and workflow engine that you copy into a C or C++ program                       >>manual

    Do this

        #define PGQRS_IMPLEMENTATION
        #include "pgqrs.h"              Postgres; link with -lpq, compile with -I"$(pg_config --includedir)"
        #include "pgqrs_sqlite.h"       SQLite;   link with -lsqlite3

    in one source file, and include the same headers without the define everywhere else. One of the two is enough:
    pgqrs_sqlite.h alone needs neither libpq nor its headers. Both together work in any order; the DSN picks.

    CONTENTS
        1  What it is                      9  Workflows                         17  Operations: looking and mending
        2  A first program                10  Runs: failing, waiting, ending    18  Configuration
        3  What it promises               11  Foreign event loops               19  Postgres
        4  The life of a message          12  Waiting and waking                20  Hooks
        5  Enqueue                        13  Batches, and what is fast         21  Macros
        6  Dequeue, settle                14  Inside your own transaction       22  What it does not do
        7  Failure, retry, dead letters   15  Errors                            23  Writing a backend
        8  Working: handlers and loops    16  Threads, processes, signals

    Searchable marks start with two angle brackets: ">>queues", ">>worker", ">>postgres" and so on.


    1  WHAT IT IS

    Producers put messages (JSON texts) into named queues, consumers take them, work, and say what became of them. All state
    is in tables of a database you already have; there is no server and no daemon. A message that was accepted is not lost,
    whichever process dies when; a message that is being worked on belongs to one consumer at a time.

    On top of that are workflows (chapter 9): functions made of named steps. What a step gave is stored, and a run whose process
    dies is continued by another one after the last step that was done, an hour or a month later.

    pgqrs_sqlite.h keeps everything in one file, pgqrs.h in a Postgres schema. Moving from one to the other is a change of
    the DSN.


    2  A FIRST PROGRAM

    @example first_program
    #define PGQRS_IMPLEMENTATION
    #include "pgqrs_sqlite.h"
    #include <stdio.h>

    static pgqrs_result send_email(const pgqrs_message *message, void *user)
    {
        (void)user;
        printf("sending %s\n", message->payload);
        return PGQRS_OK;
    }

    int main(void)
    {
        pgqrs_error err;
        pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
        if (!store) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        pgqrs_install(store);
        pgqrs_queue_create(store, "emails", NULL);
        pgqrs_enqueue(store, "emails", "{\"to\":\"ada@example.com\"}", NULL, NULL);
        pgqrs_work(store, "emails", send_email, NULL, &(pgqrs_work_desc){.until_empty = true});
        pgqrs_close(store);
        return 0;
    }
    @end

    pgqrs_install and pgqrs_queue_create may run at every start: what is there is left alone (other settings of an existing
    queue take a pgqrs_queue_update). A real program looks at what each call returns (chapter 15). In C++ before C++20 write
    `pgqrs_work_desc work{}; work.until_empty = true;` and pass &work.


    3  WHAT IT PROMISES

    - Once pgqrs_enqueue has returned PGQRS_OK the message survives a crash of any process and of the database, as well as
      the database keeps any commit.
    - A delivery is a lease with an end. While it lasts nobody else gets the message. When it ends without a verdict (a crash,
      a hang) the message is delivered again by itself; nobody has to clean up.
    - Every delivery has a token of its own, message->lease. A consumer that wakes up too late can change nothing: its calls
      return PGQRS_ERR_LEASE_LOST.
    - Attempts are counted. A message that used them all up is moved to the dead letters, with the reason, and can be replayed.
    - Order: higher priority first, then in the order of enqueueing. A message that comes back goes to the tail.
    - A run of a workflow that was triggered ends: as a success, as an error with a code, or cancelled. A step that is done is not
      run again; a crash repeats at most the one that was under way. A transactional step happens exactly once.

    What happens once: the verdict. What may happen again: the handler, or the step. A crash between its last side effect and
    the verdict means another try, so make effects repeatable, or put them into the same transaction (chapters 10 and 14). This
    is what every queue with at-least-once delivery asks; what pgqrs adds is that a late verdict can do no harm.


    4  THE LIFE OF A MESSAGE

              enqueue (delay)                 enqueue
                    |                            |
                    v        time has come       v          dequeue
                 DELAYED ---------------------> READY -------------------------> LEASED
                    ^                            ^  \                             |  |  |
                    |   retry, release later     |   \ not started by its expiry  |  |  | archive
                    +----------------------------|----\---------------------------+  |  +----------> ARCHIVED
                                                 |     +-------------------------------------------> ARCHIVED ("expired")
                                                 |   lease ends, release, give back  |  | delete
                                                 +-----------------------------------+  +----------> (gone)
                    replay (from ARCHIVED or DEAD)                                   |
                                                 ^                                   | attempts used up, reject
                                                 +---------------- DEAD <------------+

    LEASED -> READY by the end of a lease needs no call: the next claim on the queue, or any worker, carries it out. A crash at
    any point leaves one of these states; there is nothing in between. "READY" in lists and metrics means: would be given to
    the next claim, so it includes delayed messages whose time has come and leases that have run out.


    5  ENQUEUE

    @example enqueue
    pgqrs_receipt receipt;
    pgqrs_enqueue_desc desc = {.priority = 5, .delay_ms = 60000, .dedup_key = "invoice-17"};
    if (pgqrs_enqueue(store, "invoices", "{\"id\":17}", &desc, &receipt) != PGQRS_OK)
        fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    else if (receipt.duplicate)
        printf("invoice 17 is already queued as message %lld\n", (long long)receipt.id);
    @end

    The payload is JSON in UTF-8, checked before anything is sent: well-formed, at most 1 MiB, at most 64 levels deep; more
    rules (forbidden and required keys, string lengths, a rate limit) are in pgqrs_validation and off by default. The text is
    stored and returned byte for byte. pgqrs_enqueue_many stores all or nothing, in one commit, and is 10 to 30 times cheaper per
    message. A deduplication key is unique in its queue while its message is unfinished; after that it is free again.
    A message with an expiry that nobody has started by then is archived as "expired"; once started it does not expire.


    6  DEQUEUE, SETTLE

    @example dequeue
    pgqrs_message *message;
    pgqrs_dequeue_desc desc = {.wait_ms = 5000, .lease_ms = 60000};
    if (pgqrs_dequeue(store, "invoices", &desc, &message) == PGQRS_OK && message) {
        bool sent = send_invoice(message->payload);
        if (sent)
            pgqrs_archive(store, message);
        else
            pgqrs_retry(store, message, "the mail server did not answer");
        pgqrs_free(message);
    }
    @end

    No message is not an error: message is NULL. Every message taken wants one verdict: archive, delete, retry (after the
    queue's backoff), release (after a delay of yours), reject. Without one it comes back when its lease ends. Work that takes
    longer than the lease calls pgqrs_extend now and then; it holds for all messages of the same lease.

    Settling the last messages and claiming the next ones in one round trip is pgqrs_settle, the general form of all of this:

    @example settle
    pgqrs_messages *batch = NULL, *next = NULL;
    pgqrs_dequeue_desc desc = {.limit = 10};
    pgqrs_settlement verdicts[10];
    pgqrs_dequeue_many(store, "invoices", &desc, &batch);
    while (batch && batch->count > 0) {
        for (size_t i = 0; i < batch->count; i++)
            verdicts[i] = pgqrs_settlement_for(&batch->items[i], PGQRS_ARCHIVE);
        if (pgqrs_settle(store, verdicts, batch->count, "invoices", &desc, &next) != PGQRS_OK)
            break;
        pgqrs_free(batch);
        batch = next;
    }
    pgqrs_free(batch);
    @end


    7  FAILURE, RETRY, DEAD LETTERS

    A failed try (retry, release, an ended lease) has used one of the queue's max_attempts (5). A retry waits for
    backoff_ms · 2^(tries - 1), at most backoff_max_ms, ±25 %: 1 s, 2 s, 4 s … 60 s by default. When the attempts are used up the
    failing verdict itself moves the message to the dead letters. Giving a message back unstarted costs no attempt.

    @example dead_letters
    pgqrs_messages *dead;
    if (pgqrs_dead_list(store, "invoices", 0, 100, &dead) == PGQRS_OK) {
        for (size_t i = 0; i < dead->count; i++)
            printf("%lld: %s\n", (long long)dead->items[i].id, dead->items[i].reason);
        pgqrs_free(dead);
    }
    pgqrs_dead_replay_all(store, "invoices", NULL);
    @end


    8  WORKING: HANDLERS AND LOOPS

    pgqrs_work takes messages, calls the handler, carries out the verdicts, and waits when there is nothing. It ends when told
    to (pgqrs_stop, an operator's interrupt or shutdown, max_messages, until_empty) or when the store cannot be used any more. A
    handler that fails never ends it, and a database that is away for a while is waited for. A handler says with its return
    value whether it worked, or something more precise:

    @example handler
    static pgqrs_result handle(const pgqrs_message *message, void *user)
    {
        struct mailer *mailer = user;
        switch (mailer_send(mailer, message->payload)) {
        case MAIL_SENT: return PGQRS_OK;
        case MAIL_BUSY: return pgqrs_message_retry(message, 30000, "the mail server is busy");
        case MAIL_NO_SUCH_USER: return pgqrs_message_reject(message, "no such user");
        default: return PGQRS_ERR_HANDLER; // retried after the queue's backoff
        }
    }
    @end

    The loop takes several messages at once as long as the handler is quick (work_desc.batch, settle_ms), so that code which
    handles one message at a time still gets batched traffic. Verdicts are stored with the next claim, after settle_ms at the
    latest unless a handler runs longer; a crash in between means that finished messages of that batch are delivered again.
    .settle_ms = -1 stores each verdict before the next message is started, at the price of one commit for each.

    A batch handler gets all of them, and may say something different about each:

    @example batch_handler
    static pgqrs_result handle_many(const pgqrs_messages *batch, void *user)
    {
        (void)user;
        for (size_t i = 0; i < batch->count; i++)
            if (!send_invoice(batch->items[i].payload))
                pgqrs_message_retry(&batch->items[i], 0, "not sent"); // 0: the queue's backoff
        return PGQRS_OK; // for all the others
    }
    @end

    The loop registers a worker: a row that shows who works on what, with a heartbeat. Without threads nothing can beat while
    a handler runs; a handler longer than its lease calls pgqrs_message_extend, which beats too.


    9  WORKFLOWS

    A workflow is a function made of named steps; a run is the workflow at work on one input. A step asks whether it is still to
    be done. If so its body runs and says what came of it, which is stored; otherwise the step gives what it gave the first
    time. When the process dies, the function is entered from the top in another one, and skips its way to where it was.

    @example workflow
    static pgqrs_result archive_files(pgqrs_run *run, void *user)
    {
        const char *files, *archive;
        if (pgqrs_step(run, "list_files", &files))
            files = pgqrs_step_done(run, list_directory(user));
        if (pgqrs_step(run, "create_archive", &archive)) {
            char *path = zip(files);
            archive = path ? pgqrs_step_done(run, path)
                           : pgqrs_step_fail(run, &(pgqrs_failure){.code = "DISK", .transient = true});
        }
        return pgqrs_run_return(run, archive);
    }

    int64_t run_id;
    pgqrs_run_info *ended;
    pgqrs_workflow_create(store, "archive_files", NULL);
    pgqrs_workflow_trigger(store, "archive_files", NULL, NULL, &run_id);
    pgqrs_work_workflow(store, "archive_files", archive_files, "inbox", &(pgqrs_work_desc){.until_empty = true});
    if (pgqrs_run_result(store, run_id, 0, &ended) == PGQRS_OK)
        printf("%s\n", ended->output);
    pgqrs_free(ended);
    @end

    Whoever triggers, works and waits for the result may be three programs. A run keeps the JSON it was triggered with, its input
    (pgqrs_run_input); `user` is the worker's own. A run is a message of the workflow's queue, under the same id: priority,
    delay, leases and pgqrs_queue_pause mean for runs what they mean for messages. An idempotency key makes a trigger
    repeatable: the run that has the key is returned, ended or not.

    The rules:

    - What has an effect, or would come out differently the second time (a clock, a random number, a file), stands inside of a
      step. Everything else runs again in every execution.
    - A step is known by its name; in a loop by name and key (pgqrs_step_keyed, pgqrs_step_indexed). Each occurs once in a run.
      A program that changes while runs are open finds their steps by name: new steps are run, steps that went are ignored, and
      a step whose meaning changes gets a new name.
    - A body ends with pgqrs_step_done, _fail or _pause. What it gives is JSON; a plain text becomes JSON with
      pgqrs_run_quote, and a plain text again with pgqrs_run_unquote. Texts that the library hands out live until the
      function returns.
    - A run that has to stop (it waits, failed, was cancelled, lost its lease, the worker is told to stop) skips every later step
      and gives NULL for it, and the last call returns the reason. So steps in a row need no checks. Only where the function
      itself looks into an output, in an if or in the condition of a loop, it looks for NULL first, which means: leave.

    A step that is done is stored with what the run writes next: before the next body begins, before it sleeps or waits, with a
    value, at the end; pgqrs_run_flush does it at once. So after a crash one body at most runs a second time, the one that was
    under way. A run of three steps costs five commits: the trigger, the claim, two steps, and the third together with the end
    of the run, the archiving of its message and the next claim. Nothing is written for a step that is skipped.

    pgqrs_work_workflow is pgqrs_work for runs, one at a time. until_empty waits for retries and paused steps, not for sleeps
    and events. pgqrs_stop ends the loop at the next step, and whoever takes the run goes on there. Workflows that share a queue
    (pgqrs_workflow_desc.queue) are served by one worker with pgqrs_work_workflows; pgqrs_worker_open_workflows is for foreign
    event loops.

    The lease is how soon another process goes on after a crash, so it is short: 30 s, or the lease_ms of the queue. It is made
    longer with the steps that are stored. A body that takes longer has lost its run, and is repeated until the attempts are used
    up: give it a timeout_ms, which the lease lasts for in any case, or let it call pgqrs_run_extend now and then.


    10  RUNS: FAILING, WAITING, ENDING

    A failure is transient or for good. After a transient one the function is left, and the step is tried again after
    base_ms · 2^n, at most cap_ms, ±25 %: by default 3 times, after 1, 2 and 4 s. pgqrs_workflow_desc.retry changes that for the
    workflow, pgqrs_step_desc.retry for a step, .retry_after_ms for one failure. When the retries are used up, or at once when it
    is for good, the run ends as an error with the failure's code and message. pgqrs_run_fail does the same outside of steps.

    A crash is no failure of a step. It uses up one of the queue's max_attempts (5), and a run that brought down so many workers
    is an error with the code "DEAD". Sleeps, waits and retries use up none. Once the cause is mended pgqrs_run_restart
    goes on with the failed step, under the same id; pgqrs_run_fork makes a new run from the steps before one that is named. A
    wait that is over is a completed step like any other: to ask somebody again, fork from it.

    A sleep survives restarts and holds no worker; so does waiting for an event, which somebody sends with pgqrs_run_send_event,
    before or after the run gets there. The first event of a name counts. pgqrs_step_pause is for asking again: it leaves
    the function and runs the same body later, at no cost of retries.

    @example waiting
    static pgqrs_result subscription(pgqrs_run *run, void *user)
    {
        (void)user;
        const char *answer;
        if (!pgqrs_run_sleep(run, "trial", INT64_C(14) * 24 * 60 * 60 * 1000)) // two weeks
            return pgqrs_run_status(run);
        if (!pgqrs_run_wait_event(run, "answer", 60 * 60 * 1000, &answer))
            return pgqrs_run_status(run);
        if (pgqrs_step(run, "invoice", NULL)) {
            if (send_invoice(answer ? answer : "{}")) // NULL: no answer in time
                pgqrs_step_done(run, NULL);
            else
                pgqrs_step_pause(run, 5000, "the printer is in use");
        }
        return pgqrs_run_return(run, NULL);
    }
    @end

    Values (pgqrs_run_set) show the way of a run to others while it goes on: pgqrs_run_values_get reads them. They are set where
    the call stands, once more in every execution unless that is inside of a step.

    A transactional step commits what its body does in the database together with the step, so it happens exactly once whatever
    crashes. A failure rolls it back.

    @example transactional_step
    static pgqrs_result transfer(pgqrs_run *run, void *user)
    {
        (void)user;
        pgqrs_step_desc desc = {.transaction = true};
        if (pgqrs_step_with(run, "move", &desc, NULL)) {
            if (move_money(pgqrs_run_pgconn(run))) // pgqrs_run_sqlite3 on SQLite
                pgqrs_step_done(run, NULL);
            else
                pgqrs_step_fail(run, &(pgqrs_failure){.code = "MONEY", .transient = true});
        }
        return pgqrs_run_return(run, NULL);
    }
    @end

    Cancel stops a run at once when nobody has it, otherwise at its next step; nothing that was done is undone. A workflow's
    timeout_ms ends runs that take too long, waits included, with the code "TIMEOUT"; a step's timeout_ms makes a body that took
    longer a transient failure. Neither interrupts a body. Runs that ended are kept until pgqrs_run_purge, or until they are
    older than the workflow's retention_ms (failed ones: failed_retention_ms).

    @example run_control
    pgqrs_explanation why;
    if (pgqrs_run_explain(store, 4711, &why) == PGQRS_OK)
        printf("%s\n", why.text);
    pgqrs_run_cancel(store, 4711, &(pgqrs_cancel_desc){.by = "ada", .reason = "ordered twice"}, NULL);
    @end

    pgqrs_run_result waits for the end of a run and gives its output, or its failure as an error. In SQL:
    SELECT * FROM pgqrs_run_view WHERE id = 4711 shows input, state, what it waits for, output and failure of every run;
    SELECT * FROM pgqrs_step_view WHERE run_id = 4711 ORDER BY number what each step gave.


    11  FOREIGN EVENT LOOPS

    @example event_loop
    pgqrs_worker *worker = pgqrs_worker_open(store, "invoices", handler, NULL, NULL, NULL);
    while (worker && !pgqrs_worker_stopping(worker)) {
        struct pollfd fds[2] = {{.fd = pgqrs_worker_fd(worker), .events = POLLIN}, {.fd = my_socket, .events = POLLIN}};
        poll(fds, 2, (int)pgqrs_worker_next_ms(worker));
        if (fds[1].revents)
            serve_my_socket();
        if (pgqrs_worker_poll(worker, 0, NULL) != PGQRS_OK)
            fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    }
    pgqrs_worker_close(worker);
    @end

    poll takes at most one batch, handles and settles it. The descriptor may be -1 (a pooler between, a database in memory,
    a system without inotify): poll(2) ignores it, and the deadline alone counts. Ask for both again after every call.


    12  WAITING AND WAKING

    A consumer that waits is woken by an enqueue: through NOTIFY on Postgres, and only when somebody sleeps, since a NOTIFY in
    every enqueue would serialise the commits of all producers; through inotify between processes on one SQLite file. Behind
    a transaction pooler, and for enqueues inside somebody else's transaction, it looks every poll_ms (250). It also wakes when a
    delay or a lease of its queue ends. Whoever waits in pgqrs_run_result is woken in the same ways by the end of the run.


    13  BATCHES, AND WHAT IS FAST

    What costs is the commit. In the order of effect: enqueue_many instead of enqueue; dequeue_many and settle with the next
    claim instead of one by one; pgqrs_work, which does this by itself; several processes (they do not wait for each other on
    Postgres, and share the disk fairly on SQLite). A claim costs the same with ten messages waiting and with a million.


    14  INSIDE YOUR OWN TRANSACTION

    A store on your own connection writes inside your transaction: the order and the job that handles it are both there
    after COMMIT, or neither.

    @example own_transaction_postgres
    #include <libpq-fe.h>
    pgqrs_store *mine = pgqrs_open_pgconn(connection, NULL, &err);
    PQclear(PQexec(connection, "BEGIN"));
    PQclear(PQexec(connection, "INSERT INTO orders(id) VALUES (17)"));
    result = pgqrs_enqueue(mine, "invoices", "{\"order\":17}", NULL, NULL);
    PQclear(PQexec(connection, result == PGQRS_OK ? "COMMIT" : "ROLLBACK"));
    pgqrs_close(mine); // the connection stays yours
    @end

    The same with pgqrs_open_sqlite3 on a sqlite3 *, and with pgqrs_workflow_trigger. Settling works too: a handler's own writes
    and its verdict can commit together, which makes the effect happen exactly once. On such a store nothing is retried or
    reconnected. On Postgres an error of the database spoils the transaction, as always; errors found before (bad JSON, bad
    arguments) do not.


    15  ERRORS

    Every call returns a pgqrs_result: 0, or a negative code. The detail is in pgqrs_last_error(store) until the next call.
    Its `kind` says what to do:

        kind       meaning                                            what a program does
        RETRY      nothing was changed, it may work later             waits and calls again
        CONFLICT   the world is not as assumed (lease lost, exists)   looks again and decides
        FATAL      somebody must mend something outside               gives up and tells people
        MISUSE     the call is wrong                                  is corrected

    PGQRS_ERR_OUTCOME_UNKNOWN is the one to think about: the connection broke after an enqueue was sent and before the reply,
    so it may have been stored. Enqueue again with the same dedup_key and it is stored once either way.

    @example errors
    result = pgqrs_enqueue(store, "invoices", payload, NULL, NULL);
    if (result != PGQRS_OK) {
        const pgqrs_error *detail = pgqrs_last_error(store);
        fprintf(stderr, "%s: %s\n", pgqrs_result_name(result), detail->message);
        if (detail->kind == PGQRS_KIND_RETRY)
            try_again_later();
    }
    @end

    Messages are for people, never hold a payload or a password, and may change; codes and kinds do not.


    16  THREADS, PROCESSES, SIGNALS

    A store belongs to one thread at a time; a call that comes while another runs gets PGQRS_ERR_WRONG_THREAD. Open one store per
    thread, as many as you like. Result objects may be read and freed by any thread and may outlive their store. The library
    starts no threads and installs no signal handlers. pgqrs_stop and pgqrs_worker_stop may be called from anywhere, signal
    handlers included:

    @example graceful_stop
    static pgqrs_store *the_store;
    static void on_term(int signal_number)
    {
        (void)signal_number;
        pgqrs_stop(the_store);
    }
    the_store = store;
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    pgqrs_work(store, "invoices", handler, NULL, NULL); // returns after the message in hand; the rest is given back
    @end

    (signal() would do as well, but in strict C modes it works only once.) The signal also cuts short what the handler itself is
    waiting for, as signals do.

    After fork, a child opens stores of its own and does not use or close the parent's. On SQLite every store is closed before
    a fork: its locks do not survive one, and a child that was forked beside an open store is refused (PGQRS_ERR_UNSUPPORTED).


    17  OPERATIONS: LOOKING AND MENDING

    "Why is this message not moving?" has one answer for programs and people (for runs: chapter 10):

    @example explain
    pgqrs_explanation why;
    if (pgqrs_message_explain(store, 4711, &why) == PGQRS_OK)
        printf("%s\n", why.text);
    @end

    In SQL: SELECT * FROM pgqrs_message_view WHERE id = 4711 shows state, attempts, holder, times and the last failure of every
    message. pgqrs_message_list, _get, _count look at any state, page by page (after_id); pgqrs_queue_pause stops deliveries while
    you look; pgqrs_message_replay, _delete, _update and pgqrs_worker_release mend. pgqrs_metrics_get counts each message in exactly one
    of ready, delayed, leased, archived, dead. Archived messages are kept until a purge, or until they are older than the
    queue's retention_ms; workers see to that bit by bit, pgqrs_maintain does it by hand. pgqrs_verify checks that the tables are whole.

    A worker whose heartbeat is old can be reclaimed (pgqrs_worker_reclaim), which frees its messages before their leases end;
    it finds out at its next claim and registers anew. Nothing depends on reclaiming: leases end by themselves.


    18  CONFIGURATION

    pgqrs_config_load merges, field by field: what the program says, environment variables, a YAML file (needs libyaml and
    PGQRS_YAML). A value that cannot be used is an error that names the variable or key, and so is an unknown key in the file.

        variable                    YAML key                     unit      default   meaning
        PGQRS_DSN                   dsn                                    required
        PGQRS_SCHEMA                schema                                 public    Postgres schema
        PGQRS_MAX_CONNECTIONS       max_connections                        16        for programs that open several stores
        PGQRS_CONNECTION_TIMEOUT    connection_timeout_seconds   s         30
        PGQRS_DEFAULT_LOCK_TIME     default_lock_time_seconds    s         30        lease of queues created
        PGQRS_DEFAULT_BATCH_SIZE    default_max_batch_size                 16        messages a worker takes at once
        PGQRS_MAX_READ_CT           max_read_ct                            5         max_attempts of queues created (1 to 32767)
        PGQRS_HEARTBEAT_INTERVAL    heartbeat_interval           s         5
        PGQRS_POLL_INTERVAL_MS      poll_interval_ms             ms        250
        PGQRS_VALIDATION_CONFIG     validation_config            JSON                rules for payloads, see below
        PGQRS_SQLITE_USE_WAL        sqlite: use_wal                        true
        PGQRS_POOLER                pooler                                 auto      auto, on, off
        PGQRS_CONFIG_FILE           -                                                the YAML file

    validation_config: max_payload_size_bytes, max_string_length, max_object_depth, forbidden_keys, required_keys,
    max_enqueue_per_second, max_enqueue_burst.

    @example config
    pgqrs_config *config = pgqrs_config_load(NULL, &err);
    pgqrs_store *configured = config ? pgqrs_open(config->dsn, &config->store, &err) : NULL;
    if (!configured)
        fprintf(stderr, "%s\n", err.message);
    pgqrs_close(configured);
    pgqrs_free(config);
    @end


    19  POSTGRES

    PostgreSQL 12 or newer, any schema (pgqrs_store_desc.schema), several of them in one database. pgqrs_install needs CREATE on the
    schema (or on the database, to make it); working needs SELECT, INSERT, UPDATE, DELETE on the tables and USAGE on the sequences.
    Four tables keep four things apart, so that nothing large is ever rewritten: pgqrs_messages (what was said: written once,
    and the archive), pgqrs_ready (what may be taken: narrow rows, one for each run of consecutive messages), pgqrs_leases (who
    holds what until when: one row per claim), pgqrs_done (what became of it: one row per settled claim). Beside them: delayed,
    dead, failures, dedup, queues, workers; and for workflows: workflows, runs, steps, run_values,
    run_events.

    Connections that the library opens are tuned for its own statements (generic plans, no sequential scans). Behind a
    transaction pooler such as pgBouncer it notices, sets nothing for the session, prepares nothing and does not LISTEN;
    store_desc.pooler overrides. Times are the server's; no consumer's clock matters. A connection that breaks is made again with
    backoff; what is safe to repeat is repeated, the rest is PGQRS_ERR_OUTCOME_UNKNOWN. A transaction left open for hours somewhere
    in the database keeps vacuum from cleaning up; claims stay fast all the same, the tables just grow.


    20  HOOKS

    Allocator, log, clock, random, sleep, JSON parser and observer are pairs of a function and a pointer in pgqrs_store_desc. With
    a clock hook its time decides everything, which is how tests move time:

    @example manual_clock
    static int64_t my_time_us = 1700000000000000;
    static int64_t my_now(void *user)
    {
        (void)user;
        return my_time_us;
    }
    pgqrs_store_desc settings = {.clock = {my_now, NULL}, .logger = {pgqrs_log_stderr, NULL, PGQRS_LOG_DEBUG}};
    pgqrs_store *tested = pgqrs_open("sqlite::memory:", &settings, &err);
    my_time_us += 30 * 1000000; // half a minute later
    pgqrs_close(tested);
    @end


    21  MACROS

        PGQRS_IMPLEMENTATION   in one source file, before the includes: the code itself. It needs POSIX 2008; with -std=c99 include
                               pgqrs before any system header there, or compile with -D_POSIX_C_SOURCE=200809L.
        PGQRS_STATIC           every function static; the library lives in that one file.
        PGQRS_API              how public functions are declared, e.g. for a shared library.
        PGQRS_YAML             YAML configuration files; link with -lyaml.
        PGQRS_TURSO            see pgqrs_sqlite.h.


    22  WHAT IT DOES NOT DO

    No exactly-once effects on things outside the database: nobody can. No global order across consumers: messages are started in
    order, and finished when they are finished. No message groups, no cron. No steps in parallel within a run: trigger other runs
    for that, with idempotency keys, in a step. No undoing of steps when a run fails or is cancelled. Nothing checks that a
    workflow's function is as repeatable as the rules ask. No Windows. It does not connect to anything but the database you name,
    and sends nothing anywhere else.


    23  WRITING A BACKEND

    The engine (validation, retry, states, loops, workflows) is separate from storage: a backend is one table of functions,
    described at ">>backend interface" in the declarations. pgqrs_sqlite.h uses nothing else and is a complete example. Passing
    tests/conformance.c is what makes a backend a backend.
*/

/* The implementation needs POSIX 2008; a strict -std=c99 hides it unless asked for before the first system header. */
#if defined(PGQRS_IMPLEMENTATION) && defined(__STRICT_ANSI__) && !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#ifndef PGQRS_H
#define PGQRS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PGQRS_VERSION_MAJOR 0
#define PGQRS_VERSION_MINOR 1
#define PGQRS_VERSION_PATCH 0
#define PGQRS_VERSION "0.1.0"

/* PGQRS_STATIC makes every function static: the whole library lives and dies inside one source file. */
#ifndef PGQRS_API
#if defined(PGQRS_STATIC) && (defined(__GNUC__) || defined(__clang__))
#define PGQRS_API static __attribute__((unused))
#elif defined(PGQRS_STATIC)
#define PGQRS_API static
#else
#define PGQRS_API extern
#endif
#endif

#if defined(__GNUC__) || defined(__clang__)
#define PGQRSI_PRINTF(format_index, first_index) __attribute__((format(printf, format_index, first_index)))
#else
#define PGQRSI_PRINTF(format_index, first_index)
#endif

/* Foreign types, never opened here: libpq calls this one PGconn. */
struct pg_conn;
struct sqlite3;

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------------------------
 * >>results and errors
 * --------------------------------------------------------------------------------------------------------------- */

/* What every function returns. 0 is success, negatives are errors; the list is grouped and only ever appended to.
 * "Nothing there" is never an error: an empty queue gives PGQRS_OK and nothing. Columns: name, value, kind, meaning. */
#define PGQRS_RESULTS(X)                                                                                               \
    X(OK, 0, NONE, "success")                                                                                          \
    /* the call */                                                                                                     \
    X(ERR_INVALID_ARGUMENT, -1, MISUSE, "an argument is NULL, out of range or contradicts another")                    \
    X(ERR_NO_MEMORY, -2, RETRY, "the allocator returned NULL")                                                         \
    X(ERR_INTERNAL, -3, FATAL, "a state the library believes impossible")                                              \
    X(ERR_NOT_BUILT, -4, MISUSE, "the backend for this DSN is not part of the program")                                \
    X(ERR_UNSUPPORTED, -5, MISUSE, "this backend or platform cannot do it")                                            \
    X(ERR_HANDLER, -6, RETRY, "for handlers: the try failed")                                                          \
    X(ERR_WRONG_THREAD, -7, MISUSE, "a store is being used by two calls at once")                                      \
    /* configuration */                                                                                                \
    X(ERR_BAD_DSN, -20, MISUSE, "the DSN cannot be read")                                                              \
    X(ERR_BAD_CONFIG, -21, MISUSE, "a configuration value or file cannot be used")                                     \
    X(ERR_BAD_NAME, -22, MISUSE, "a queue, schema or worker name is not allowed")                                      \
    /* the store */                                                                                                    \
    X(ERR_CONNECTION, -40, RETRY, "the database cannot be reached; nothing was done")                                  \
    X(ERR_OUTCOME_UNKNOWN, -41, CONFLICT, "the connection broke while the database may have committed")                \
    X(ERR_BUSY, -42, RETRY, "the database is locked by others for too long")                                           \
    X(ERR_CONFLICT, -43, RETRY, "serialization failure or deadlock, repeatedly")                                       \
    X(ERR_READ_ONLY, -44, FATAL, "the database or its file is read-only")                                              \
    X(ERR_FULL, -45, RETRY, "no room left on the device")                                                              \
    X(ERR_ACCESS_DENIED, -46, FATAL, "the database refuses the user or the permission")                                \
    X(ERR_DATABASE, -47, FATAL, "any other error of the database")                                                     \
    X(ERR_SCHEMA_MISSING, -48, MISUSE, "the tables are not there: call pgqrs_install")                                 \
    X(ERR_SCHEMA_NEWER, -49, FATAL, "the tables were made by a newer version of this library")                         \
    X(ERR_SCHEMA_OLDER, -50, MISUSE, "the tables need a migration: call pgqrs_install")                                \
    X(ERR_SCHEMA_DAMAGED, -51, FATAL, "a table, column or index is missing, or rows contradict each other")            \
    X(ERR_TRANSACTION, -52, MISUSE, "the caller's transaction has failed or does not allow this call")                 \
    /* objects */                                                                                                      \
    X(ERR_QUEUE_NOT_FOUND, -60, MISUSE, "no queue of this name")                                                       \
    X(ERR_QUEUE_EXISTS, -61, CONFLICT, "a queue of this name is there already")                                        \
    X(ERR_QUEUE_NOT_EMPTY, -62, CONFLICT, "the queue still has messages or live workers")                              \
    X(ERR_MESSAGE_NOT_FOUND, -63, MISUSE, "no message of this id")                                                     \
    X(ERR_MESSAGE_STATE, -64, CONFLICT, "the message is in a state that does not allow this")                          \
    X(ERR_WORKER_NOT_FOUND, -65, MISUSE, "no worker of this id")                                                       \
    X(ERR_WORKER_ACTIVE, -66, CONFLICT, "a live worker has this name")                                                 \
    X(ERR_WORKER_STATE, -67, CONFLICT, "the worker's state does not allow this transition")                            \
    X(ERR_WORKER_BUSY, -68, CONFLICT, "the worker still holds messages")                                               \
    X(ERR_DUPLICATE, -69, CONFLICT, "an unfinished message holds this deduplication key")                              \
    /* deliveries */                                                                                                   \
    X(ERR_LEASE_LOST, -80, CONFLICT, "the lease has ended: somebody else may have the message")                        \
    X(ERR_WORKER_STOPPED, -81, FATAL, "the worker was shut down or reclaimed and must register anew")                  \
    X(ERR_WORKER_SUSPENDED, -82, CONFLICT, "the worker is suspended")                                                  \
    X(ERR_WORKER_INTERRUPTED, -83, CONFLICT, "the worker was interrupted and is suspended now")                        \
    /* validation */                                                                                                   \
    X(ERR_JSON, -100, MISUSE, "the payload is not well-formed JSON in UTF-8")                                          \
    X(ERR_PAYLOAD_TOO_LARGE, -101, MISUSE, "the payload has too many bytes")                                           \
    X(ERR_JSON_TOO_DEEP, -102, MISUSE, "the payload is nested too deeply")                                             \
    X(ERR_STRING_TOO_LONG, -103, MISUSE, "a string or key in the payload is too long")                                 \
    X(ERR_FORBIDDEN_KEY, -104, MISUSE, "the payload has a forbidden key")                                              \
    X(ERR_MISSING_KEY, -105, MISUSE, "the payload lacks a required key")                                               \
    X(ERR_RATE_LIMITED, -106, RETRY, "more enqueues than the store's rate limit allows")                               \
    /* workflows */                                                                                                    \
    X(ERR_WORKFLOW_NOT_FOUND, -120, MISUSE, "no workflow of this name")                                                \
    X(ERR_WORKFLOW_EXISTS, -121, CONFLICT, "a workflow of this name is there already")                                 \
    X(ERR_WORKFLOW_NOT_EMPTY, -122, CONFLICT, "the workflow still has runs that have not ended")                       \
    X(ERR_RUN_NOT_FOUND, -123, MISUSE, "no run of this id")                                                            \
    X(ERR_RUN_STATE, -124, CONFLICT, "the run is in a state that does not allow this")                                 \
    X(ERR_RUN_FAILED, -125, CONFLICT, "the run has failed")                                                            \
    X(ERR_RUN_CANCELLED, -126, CONFLICT, "the run was cancelled")                                                      \
    X(ERR_RUN_WAITING, -127, RETRY, "the run waits; its function is entered again later")                              \
    X(ERR_RUN_STOPPED, -128, RETRY, "the worker is told to stop; the run goes on elsewhere")                           \
    X(ERR_STEP_NOT_FOUND, -129, MISUSE, "the run has no such step")                                                    \
    X(ERR_STEP_MISUSE, -130, MISUSE, "a step is used in a way that cannot be right")                                   \
    X(ERR_TIMEOUT, -131, RETRY, "not within the time given")

/* clang-format off */
typedef enum pgqrs_result {
#define PGQRSI_X(name, value, kind, text) PGQRS_##name = (value),
    PGQRS_RESULTS(PGQRSI_X)
#undef PGQRSI_X
    PGQRSI_RESULT_LAST = -32768 /* no result: makes the type wide enough for results to come */
} pgqrs_result;
/* clang-format on */

/* What a program should do about an error. */
typedef enum pgqrs_error_kind {
    PGQRS_KIND_NONE = 0,     /* no error */
    PGQRS_KIND_RETRY = 1,    /* nothing was changed; the same call may succeed later */
    PGQRS_KIND_CONFLICT = 2, /* the world is not as the call assumed: look again, then decide */
    PGQRS_KIND_FATAL = 3,    /* this store cannot go on until somebody mends something outside the program */
    PGQRS_KIND_MISUSE = 4    /* the call itself is wrong and will never succeed */
} pgqrs_error_kind;

#define PGQRS_ERROR_MESSAGE_SIZE 384

/* The detail behind an error, of fixed size so that reporting never allocates. `message` names the thing and the cure
 * and never holds a password or a payload; programs decide by `code` and `kind`, and show `message` to people. */
typedef struct pgqrs_error {
    pgqrs_result code;
    pgqrs_error_kind kind;
    int native_code;        /* SQLite's extended result code, errno, or 0 */
    char sqlstate[6];       /* Postgres: five characters, else "" */
    int64_t index;          /* the failing item of a batch, -1 when not a batch */
    int64_t retry_after_ms; /* PGQRS_ERR_RATE_LIMITED: wait this long; otherwise 0 */
    char message[PGQRS_ERROR_MESSAGE_SIZE];
} pgqrs_error;

/* The symbolic name ("PGQRS_ERR_LEASE_LOST") and the meaning of a code; never NULL. Any thread. */
PGQRS_API const char *pgqrs_result_name(pgqrs_result result);
PGQRS_API const char *pgqrs_result_text(pgqrs_result result);
PGQRS_API pgqrs_error_kind pgqrs_result_kind(pgqrs_result result);

/* The version of the implementation, to compare with PGQRS_VERSION of the header. Any thread. */
PGQRS_API const char *pgqrs_version(void);

/* ------------------------------------------------------------------------------------------------------------------
 * >>hooks: each is a function and a user pointer; a NULL function means the default.
 * All hooks run on the thread that called the library, inside that call, and must not call back into the same store.
 * --------------------------------------------------------------------------------------------------------------- */

/* Memory. One function does all: `pointer` NULL allocates, `new_size` 0 frees (and its return value is ignored);
 * NULL back for a non-zero size means "no memory". `old_size` is what was asked for before. Default: realloc, free. */
typedef struct pgqrs_allocator {
    void *(*resize)(void *pointer, size_t old_size, size_t new_size, void *user);
    void *user;
} pgqrs_allocator;

typedef enum pgqrs_log_level {
    PGQRS_LOG_ERROR = 1,
    PGQRS_LOG_WARN = 2,
    PGQRS_LOG_INFO = 3,
    PGQRS_LOG_DEBUG = 4
} pgqrs_log_level;

/* Log. Silent by default. `text` is one line without a newline, valid during the call, free of payloads and passwords.
 * `level` is the most detailed level wanted (0: PGQRS_LOG_INFO). pgqrs_log_stderr is a ready-made function. */
typedef struct pgqrs_logger {
    void (*write)(pgqrs_log_level level, const char *text, void *user);
    void *user;
    pgqrs_log_level level;
} pgqrs_logger;
PGQRS_API void pgqrs_log_stderr(pgqrs_log_level level, const char *text, void *user);

/* Time: microseconds since 1970-01-01 UTC. By default the database server's clock decides (Postgres), or this
 * machine's (SQLite). With a clock of your own, its time is used for every decision: tests move time with it. A clock that
 * stands still wants a sleeper that puts it forward, or waits for a due time never end. */
typedef struct pgqrs_clock {
    int64_t (*now_us)(void *user);
    void *user;
} pgqrs_clock;

/* Randomness for jitter and names: 64 uniform bits. Default: seeded from the system. */
typedef struct pgqrs_random {
    uint64_t (*next)(void *user);
    void *user;
} pgqrs_random;

/* Waiting: called instead of sleeping on the descriptor, for at most `us` microseconds; may return early. */
typedef struct pgqrs_sleeper {
    void (*sleep_us)(int64_t us, void *user);
    void *user;
} pgqrs_sleeper;

/* JSON. A parser reports what it finds in document order; the library's own rules (depth, keys, lengths) hang on these
 * reports, so they are the same with every parser. `text` is the decoded key or string (not NUL-terminated), NULL for
 * the other events. */
typedef enum pgqrs_json_event {
    PGQRS_JSON_OBJECT_BEGIN = 1,
    PGQRS_JSON_OBJECT_END = 2,
    PGQRS_JSON_ARRAY_BEGIN = 3,
    PGQRS_JSON_ARRAY_END = 4,
    PGQRS_JSON_KEY = 5,
    PGQRS_JSON_STRING = 6,
    PGQRS_JSON_NUMBER = 7,  /* text: the number as written */
    PGQRS_JSON_LITERAL = 8, /* text: true, false or null */
    PGQRS_JSON_EVENT_COUNT = 9
} pgqrs_json_event;

/* Called by the parser for each event; false means: stop now and return false. */
typedef bool (*pgqrs_json_report)(pgqrs_json_event event, const char *text, size_t size, void *context);

/* `parse` reads all of text[0..size) as one JSON value. True: well-formed and every report returned true. False: not
 * well-formed (then *error_offset is the first byte that is wrong, or size when the text ends too early), out of memory, or
 * a report returned false.
 * Default: the built-in parser (RFC 8259, UTF-8 checked, no recursion). */
typedef struct pgqrs_json {
    bool (*parse)(const char *text, size_t size, pgqrs_json_report report, void *context, size_t *error_offset,
                  void *user);
    void *user;
} pgqrs_json;

/* Every event has a count, so numbers[event->type] += event->count is all a counter needs. */
typedef enum pgqrs_event_type {
    PGQRS_EVENT_ENQUEUED = 1,    /* count messages were stored; duration_us of the call */
    PGQRS_EVENT_CLAIMED = 2,     /* count messages were leased; duration_us of the call */
    PGQRS_EVENT_STARTED = 3,     /* a handler starts: message_id, attempt */
    PGQRS_EVENT_FINISHED = 4,    /* a handler ended: message_id, attempt, result, duration_us */
    PGQRS_EVENT_SETTLED = 5,     /* count verdicts were stored; duration_us of the call */
    PGQRS_EVENT_LEASE_LOST = 6,  /* a verdict came too late: message_id */
    PGQRS_EVENT_RECONNECTED = 7, /* the connection was lost and made again */
    PGQRS_EVENT_TYPE_COUNT = 8
} pgqrs_event_type;

typedef struct pgqrs_event {
    pgqrs_event_type type;
    const char *queue; /* NULL when not about one queue; valid during the call */
    int64_t message_id;
    int32_t attempt;
    pgqrs_result result;
    int64_t count;
    int64_t duration_us;
} pgqrs_event;

/* Metrics and traces: told of each event after it happened. */
typedef struct pgqrs_observer {
    void (*observe)(const pgqrs_event *event, void *user);
    void *user;
} pgqrs_observer;

/* ------------------------------------------------------------------------------------------------------------------
 * >>store: open, close, install
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrs_store pgqrs_store;

typedef enum pgqrs_switch { PGQRS_AUTO = 0, PGQRS_ON = 1, PGQRS_OFF = 2 } pgqrs_switch;

/* Rules for payloads, checked before anything is sent. Zero means the default in brackets. */
typedef struct pgqrs_validation {
    size_t max_payload_bytes;          /* [1048576] */
    int32_t max_depth;                 /* [64] the root is at depth 0, its members and items at 1 */
    size_t max_string_bytes;           /* [0: no limit] of each string value and each key, decoded */
    const char *const *forbidden_keys; /* [none] refused at any depth */
    size_t forbidden_key_count;
    const char *const *required_keys; /* [none] a top-level object must have them; other values pass */
    size_t required_key_count;
    int32_t max_enqueue_per_second; /* [0: no limit] per store; measured on the monotonic clock */
    int32_t max_enqueue_burst;      /* [max_enqueue_per_second] the most messages at one instant, and in one batch */
} pgqrs_validation;

/* The stricter values of the Rust pgqrs: strings 1024 bytes, depth 5, __proto__ and constructor forbidden,
 * 1000 enqueues a second in bursts of 50. */
PGQRS_API pgqrs_validation pgqrs_validation_strict(void);

/* Settings of a store. Zero means the default in brackets. Strings and arrays are copied. */
typedef struct pgqrs_store_desc {
    const char *schema; /* [public] Postgres alone: letters, digits, _ and $, first a letter or _, at most 63 bytes */
    pgqrs_allocator allocator;
    pgqrs_logger logger;
    pgqrs_clock clock;
    pgqrs_random random;
    pgqrs_sleeper sleeper;
    pgqrs_json json;
    pgqrs_observer observer;
    pgqrs_validation validation;
    int64_t connect_timeout_ms;   /* [30000] for connecting, and for waiting on a locked SQLite file */
    int32_t retry_limit;          /* [5] how often a safe call is tried again after a passing error; -1: never */
    int64_t default_lease_ms;     /* [30000] lease of queues created through this store */
    int32_t default_max_attempts; /* [5] the same for max_attempts */
    int32_t default_batch;        /* [16] messages a worker takes at once */
    int64_t heartbeat_ms;         /* [5000] between the heartbeats of a worker */
    int64_t poll_ms;              /* [250] a waiting consumer looks this often even when nobody wakes it */
    pgqrs_switch pooler;          /* [auto] Postgres: is there a transaction pooler between? on: no session state */
    pgqrs_switch sqlite_wal;      /* [on] SQLite: write-ahead log; off: rollback journal */
} pgqrs_store_desc;

/* Opens the store a DSN names: sqlite://FILE, sqlite::memory:, turso://FILE, postgresql://…, postgres://… .
 * The scheme picks the backend among those whose header the program includes. Nothing is created in the database
 * (SQLite makes the file); call pgqrs_install for that. desc may be NULL, err may be NULL. NULL back: see *err.
 * Close with pgqrs_close. A store belongs to one thread at a time; open as many as you like. It must not be used on the other
 * side of a fork: a child opens its own, on SQLite only if no store was open at the fork (PGQRS_ERR_UNSUPPORTED). */
PGQRS_API pgqrs_store *pgqrs_open(const char *dsn, const pgqrs_store_desc *desc, pgqrs_error *err);

/* A store on a connection that stays yours: it is never closed, never set up, never reconnected, and a transaction
 * that is open on it is respected: what this store writes commits or rolls back with it. The connection must outlive
 * the store, and must not be used by another thread meanwhile. Inside a transaction a lease is invisible to others until the
 * commit: dequeue before you begin, settle inside. libpq: the connection must be in blocking mode and not
 * in pipeline mode. */
PGQRS_API pgqrs_store *pgqrs_open_pgconn(struct pg_conn *connection, const pgqrs_store_desc *desc, pgqrs_error *err);
PGQRS_API pgqrs_store *pgqrs_open_sqlite3(struct sqlite3 *database, const pgqrs_store_desc *desc, pgqrs_error *err);

/* Closes and frees; NULL is fine. Messages held keep their leases. Results stay valid until pgqrs_free. */
PGQRS_API void pgqrs_close(pgqrs_store *store);

/* The detail of the last failed call on this store; code PGQRS_OK when the last call succeeded. Never NULL, valid
 * until the next call on the store. */
PGQRS_API const pgqrs_error *pgqrs_last_error(const pgqrs_store *store);

/* The settings in force, every default filled in; valid as long as the store. */
PGQRS_API const pgqrs_store_desc *pgqrs_store_settings(const pgqrs_store *store);

/* "sqlite", "turso", "postgres". Valid as long as the program. */
PGQRS_API const char *pgqrs_store_backend(const pgqrs_store *store);

/* The store's time, microseconds since 1970 UTC: the clock hook's, the server's, or this machine's. */
PGQRS_API pgqrs_result pgqrs_store_now(pgqrs_store *store, int64_t *now_us);

/* Frees any result object a call returned (messages, lists, a configuration); NULL is fine. Any thread. A call that fails
 * has set its out pointer to NULL (unless the store itself was NULL or in use by another call). */
PGQRS_API void pgqrs_free(void *result);

/* Ends the waiting call that runs on this store (a dequeue with wait_ms, pgqrs_work, pgqrs_worker_poll), or the next
 * one if none runs: it returns PGQRS_OK as soon as the message in hand is settled. The only function besides
 * pgqrs_worker_stop that is safe from signal handlers and other threads while the store is in use. */
PGQRS_API void pgqrs_stop(pgqrs_store *store);

/* Creates or migrates the tables, in one transaction, safe to repeat and to run from many processes at once.
 * Postgres: creates the schema too when it is missing and the user may. */
PGQRS_API pgqrs_result pgqrs_install(pgqrs_store *store);

/* Drops everything pgqrs_install created, with all messages. The Postgres schema itself stays. */
PGQRS_API pgqrs_result pgqrs_uninstall(pgqrs_store *store);

/* Checks version, tables, columns, indexes and that rows agree with each other. PGQRS_OK, or an error that names the
 * first thing that is wrong. Reads everything: for tests and operators, not for hot paths. */
PGQRS_API pgqrs_result pgqrs_verify(pgqrs_store *store);

/* The version of the installed tables; 0 when there are none. PGQRS_SCHEMA_VERSION is what this library writes. */
PGQRS_API pgqrs_result pgqrs_schema_version(pgqrs_store *store, int32_t *version);
#define PGQRS_SCHEMA_VERSION 2

/* ------------------------------------------------------------------------------------------------------------------
 * >>queues
 * Names: 1 to 255 bytes of UTF-8 without control characters, compared byte by byte.
 * --------------------------------------------------------------------------------------------------------------- */

/* Settings of a queue, stored with it. Zero means the default in brackets. */
typedef struct pgqrs_queue_desc {
    int64_t lease_ms;          /* [store's default_lease_ms, 30000] */
    int32_t max_attempts;      /* [store's default_max_attempts, 5] tries before the dead letters */
    int64_t backoff_ms;        /* [1000] delay after the first failed try; doubles with each try, ±25 % jitter */
    int64_t backoff_max_ms;    /* [60000] the most it grows to */
    int64_t retention_ms;      /* [0: keep] archived messages older than this are removed by workers, bit by bit */
    int64_t dead_retention_ms; /* [0: keep] the same for dead letters */
    bool paused;               /* [false] nothing is delivered until pgqrs_queue_resume */
    bool must_be_new;          /* create: an existing queue is PGQRS_ERR_QUEUE_EXISTS instead of success */
} pgqrs_queue_desc;

typedef struct pgqrs_queue {
    int64_t id;
    const char *name;
    pgqrs_queue_desc settings; /* resolved */
    int64_t created_at_us;
} pgqrs_queue;

typedef struct pgqrs_queues {
    const pgqrs_queue *items;
    size_t count;
} pgqrs_queues;

/* Creates a queue. One that exists is left as it is, settings included, and that is success. */
PGQRS_API pgqrs_result pgqrs_queue_create(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc);

/* Changes the settings whose member in desc is not zero; `paused` and `must_be_new` are ignored. To set a retention back to
 * "keep", give -1. Messages already leased keep their lease. */
PGQRS_API pgqrs_result pgqrs_queue_update(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc);

/* *out is NULL when there is no such queue. Free with pgqrs_free. */
PGQRS_API pgqrs_result pgqrs_queue_get(pgqrs_store *store, const char *queue, pgqrs_queue **out);
PGQRS_API pgqrs_result pgqrs_queue_exists(pgqrs_store *store, const char *queue, bool *exists);

/* Queues by id, ascending, those after `after_id` (0: from the start), at most `limit` (0: 100, at most 1000). */
PGQRS_API pgqrs_result pgqrs_queue_list(pgqrs_store *store, int64_t after_id, size_t limit, pgqrs_queues **out);

/* Stops and restarts delivery. Enqueue, settlement and leases go on while a queue is paused. */
PGQRS_API pgqrs_result pgqrs_queue_pause(pgqrs_store *store, const char *queue);
PGQRS_API pgqrs_result pgqrs_queue_resume(pgqrs_store *store, const char *queue);

/* Removes the queue. Refused with PGQRS_ERR_QUEUE_NOT_EMPTY while it has any message (archived and dead ones too) or a
 * worker that is not stopped, unless `force`: then they go as well. */
PGQRS_API pgqrs_result pgqrs_queue_delete(pgqrs_store *store, const char *queue, bool force);

/* Removes messages, all in one transaction; *removed (may be NULL) counts them. Workers stay. A handler that still holds
 * one of them finds its lease lost. */
typedef enum pgqrs_purge {
    PGQRS_PURGE_ALL = 0,
    PGQRS_PURGE_ARCHIVED = 1,  /* archived only */
    PGQRS_PURGE_DEAD = 2,      /* dead letters only */
    PGQRS_PURGE_UNFINISHED = 3 /* ready, delayed and leased ones */
} pgqrs_purge;

typedef struct pgqrs_purge_desc {
    pgqrs_purge what;      /* [all] */
    int64_t older_than_ms; /* [0: any age] since the message was archived or died, otherwise since it was enqueued */
} pgqrs_purge_desc;

PGQRS_API pgqrs_result pgqrs_queue_purge(pgqrs_store *store, const char *queue, const pgqrs_purge_desc *desc,
                                         int64_t *removed);

/* ------------------------------------------------------------------------------------------------------------------
 * >>messages: enqueue
 * --------------------------------------------------------------------------------------------------------------- */

/* How a message is enqueued. Zero means the default in brackets. Times are microseconds since 1970 UTC. */
typedef struct pgqrs_enqueue_desc {
    size_t payload_size;   /* [strlen] bytes of the payload */
    int32_t priority;      /* [0] -32768 … 32767, higher first */
    int64_t delay_ms;      /* [0] not delivered before now + delay_ms */
    int64_t at_us;         /* [0] or not before this time; not both */
    int64_t expire_ms;     /* [0: never] not started by now + expire_ms: archived as expired, not delivered */
    int64_t expire_at_us;  /* [0: never] or by this time; not both */
    const char *dedup_key; /* [none] up to 255 bytes; unique in the queue while the message is unfinished */
    const char *producer;  /* [none] up to 255 bytes; who enqueued it, for people */
} pgqrs_enqueue_desc;

typedef struct pgqrs_enqueue_item {
    const char *payload; /* JSON in UTF-8; stays yours, not needed after the call */
    pgqrs_enqueue_desc desc;
} pgqrs_enqueue_item;

/* What became of an enqueue. */
typedef struct pgqrs_receipt {
    int64_t id;     /* of the new message, or of the unfinished one that has the same deduplication key */
    bool duplicate; /* true: nothing was stored, `id` was there already */
} pgqrs_receipt;

/* Stores a message: once this returns PGQRS_OK it survives a crash. On a borrowed connection inside a transaction: once
 * that commits. desc and receipt may be NULL. Errors beside the store's: QUEUE_NOT_FOUND, the validation group. */
PGQRS_API pgqrs_result pgqrs_enqueue(pgqrs_store *store, const char *queue, const char *payload,
                                     const pgqrs_enqueue_desc *desc, pgqrs_receipt *receipt);

/* Stores all of them in one commit, or none: on failure pgqrs_last_error(store)->index names the culprit. Order within
 * the batch is delivery order. receipts may be NULL, else it has room for count. count 0 is fine. */
PGQRS_API pgqrs_result pgqrs_enqueue_many(pgqrs_store *store, const char *queue, const pgqrs_enqueue_item *items,
                                          size_t count, pgqrs_receipt *receipts);

/* ------------------------------------------------------------------------------------------------------------------
 * >>messages: dequeue and settle
 * --------------------------------------------------------------------------------------------------------------- */

typedef enum pgqrs_state {
    PGQRS_READY = 1,    /* may be taken now; also delayed ones whose time has come and leases that ran out */
    PGQRS_DELAYED = 2,  /* waits for its time: due_at_us */
    PGQRS_LEASED = 3,   /* a consumer has it until lease_until_us */
    PGQRS_ARCHIVED = 4, /* done; or expired before anyone started it: reason "expired" */
    PGQRS_DEAD = 5      /* all attempts used up, or rejected: reason says why */
} pgqrs_state;

/* "ready", "delayed", …; "unknown" for anything else. Any thread. */
PGQRS_API const char *pgqrs_state_name(pgqrs_state state);

/* A message. From a dequeue: the members down to `worker_id` are filled. From the inspecting calls (get, list): all. */
typedef struct pgqrs_message {
    int64_t id;
    int64_t lease;       /* fencing token of this delivery; 0 when not leased */
    const char *payload; /* NUL-terminated */
    size_t payload_size; /* without the NUL */
    const char *queue;
    int32_t attempt; /* 1 on the first delivery; not delivered yet: 0 */
    int32_t priority;
    int64_t enqueued_at_us;
    int64_t lease_until_us; /* 0 when not leased */
    uint32_t lease_size;    /* how many messages came with the same lease */
    int64_t worker_id;      /* holder, or who finished it; 0: no registered worker */
    /* inspection only */
    pgqrs_state state;
    int64_t due_at_us;               /* delayed: when it may be taken */
    int64_t expires_at_us;           /* 0: never */
    int64_t finished_at_us;          /* archived or dead since; 0: unfinished */
    const char *dedup_key;           /* NULL: none */
    const char *producer;            /* NULL: unnamed */
    const char *worker;              /* name of worker_id, NULL when unknown or gone */
    const char *reason;              /* why it is dead, or why its last try failed; NULL: no failure so far */
    struct pgqrs_delivery *delivery; /* in handlers: what the pgqrs_message_… verdicts act on; otherwise NULL */
} pgqrs_message;

typedef struct pgqrs_messages {
    const pgqrs_message *items;
    size_t count;
} pgqrs_messages;

/* A registered worker: the id of its row and the token of this registration. {0, 0}: nobody, which is fine. */
typedef struct pgqrs_worker_ref {
    int64_t id;
    int64_t epoch;
} pgqrs_worker_ref;

/* How to take messages. Zero means the default in brackets. */
typedef struct pgqrs_dequeue_desc {
    size_t limit;            /* [the store's default_batch, 16] dequeue_many, settle: at most so many, at most 10000 */
    int64_t lease_ms;        /* [the queue's] how long they are yours; at most 10 years */
    int64_t wait_ms;         /* [0: do not wait] wait so long for the first one; PGQRS_FOREVER: until pgqrs_stop */
    pgqrs_worker_ref worker; /* [nobody] a live registered worker; a stopped or suspended one gets an error */
} pgqrs_dequeue_desc;
#define PGQRS_FOREVER INT64_MAX

/* Takes one message, or gives *out = NULL and PGQRS_OK when there is none (empty, delayed, paused). It is yours until
 * lease_until_us; after that it is delivered again by itself, as another attempt. Free with pgqrs_free. */
PGQRS_API pgqrs_result pgqrs_dequeue(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                     pgqrs_message **out);

/* Takes up to desc->limit messages in delivery order: higher priority first, then enqueue order; retried ones are at the
 * tail. *out is never NULL on success; its count may be 0. All of them share the lease time, most share the lease. */
PGQRS_API pgqrs_result pgqrs_dequeue_many(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                          pgqrs_messages **out);

/* What is to become of a delivered message. */
typedef enum pgqrs_verdict {
    PGQRS_ARCHIVE = 1, /* done; kept for the record */
    PGQRS_DELETE = 2,  /* done; no trace is kept */
    PGQRS_RETRY = 3,   /* the try failed: again after the queue's backoff, or dead when the attempts are used up */
    PGQRS_RELEASE =
        4, /* a failed try like PGQRS_RETRY (it counts), but again after delay_ms or at at_us; neither: now */
    PGQRS_GIVE_BACK = 5, /* not started: again after delay_ms or at at_us, and the attempt is not counted */
    PGQRS_REJECT = 6     /* dead at once, with the reason */
} pgqrs_verdict;

/* One message and its verdict, for pgqrs_settle. */
typedef struct pgqrs_settlement {
    int64_t id;          /* from the message */
    int64_t lease;       /* from the message */
    int32_t attempt;     /* from the message; backoff grows with it. 0: as after the first try */
    uint32_t lease_size; /* from the message, or 0; a hint that saves work when all of a lease are settled together */
    const char *queue;   /* from the message: whose backoff PGQRS_RETRY follows; NULL: 1 s doubling up to 60 s */
    pgqrs_verdict verdict;
    int64_t delay_ms;    /* PGQRS_RELEASE, PGQRS_GIVE_BACK */
    int64_t at_us;       /* instead of delay_ms */
    const char *reason;  /* RETRY, RELEASE, REJECT: shown to people, cut at 500 bytes; may be NULL */
    pgqrs_result result; /* out: PGQRS_OK or PGQRS_ERR_LEASE_LOST */
} pgqrs_settlement;

/* Fills in a settlement from a message. */
PGQRS_API pgqrs_settlement pgqrs_settlement_for(const pgqrs_message *message, pgqrs_verdict verdict);

/* Settles a batch and takes the next messages, all in one transaction and one round trip. Items may belong to different
 * queues and leases, each gets its own `result`; a lost lease is not an error of the call. `claim` may be NULL: the
 * defaults. `queue`, `claim` and `next` NULL together: it only settles. On an error of the call nothing was changed, except that
 * verdicts stand when only the worker was refused (PGQRS_ERR_WORKER_…): each result tells. */
PGQRS_API pgqrs_result pgqrs_settle(pgqrs_store *store, pgqrs_settlement *items, size_t count, const char *queue,
                                    const pgqrs_dequeue_desc *claim, pgqrs_messages **next);

/* The everyday forms. A lease that has ended gives PGQRS_ERR_LEASE_LOST and changes nothing. */
PGQRS_API pgqrs_result pgqrs_archive(pgqrs_store *store, const pgqrs_message *message);
PGQRS_API pgqrs_result pgqrs_delete(pgqrs_store *store, const pgqrs_message *message);
PGQRS_API pgqrs_result pgqrs_retry(pgqrs_store *store, const pgqrs_message *message, const char *reason);
PGQRS_API pgqrs_result pgqrs_reject(pgqrs_store *store, const pgqrs_message *message, const char *reason);

typedef struct pgqrs_release_desc {
    int64_t delay_ms;   /* [0: at once] */
    int64_t at_us;      /* [0] or at this time */
    bool give_back;     /* [false] not started: the attempt is not counted */
    const char *reason; /* [none] */
} pgqrs_release_desc;
PGQRS_API pgqrs_result pgqrs_release(pgqrs_store *store, const pgqrs_message *message, const pgqrs_release_desc *desc);

/* The same for many in one transaction; results may be NULL, else it has room for count: PGQRS_OK or
 * PGQRS_ERR_LEASE_LOST for each. The call itself is PGQRS_OK even when every lease was lost. */
PGQRS_API pgqrs_result pgqrs_archive_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                          pgqrs_result *results);
PGQRS_API pgqrs_result pgqrs_delete_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                         pgqrs_result *results);
PGQRS_API pgqrs_result pgqrs_release_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                          const pgqrs_release_desc *desc, pgqrs_result *results);

/* Keeps a lease alive: at least lease_ms from now (0: the queue's lease), never shorter than before. It holds for every
 * message of the same lease that is not settled yet. */
PGQRS_API pgqrs_result pgqrs_extend(pgqrs_store *store, const pgqrs_message *message, int64_t lease_ms);
PGQRS_API pgqrs_result pgqrs_extend_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                         int64_t lease_ms, pgqrs_result *results);

/* ------------------------------------------------------------------------------------------------------------------
 * >>messages: inspect and repair. These look at any state and change nothing that is leased, unless said so.
 * --------------------------------------------------------------------------------------------------------------- */

/* Which messages. Zero means no restriction, or the default in brackets. */
typedef struct pgqrs_message_filter {
    const char *queue; /* one that does not exist is PGQRS_ERR_QUEUE_NOT_FOUND */
    pgqrs_state state;
    int64_t worker_id;          /* held by (leased), or finished by (archived, dead) */
    int64_t enqueued_from_us;   /* enqueued at or after */
    int64_t enqueued_before_us; /* enqueued before */
    int64_t after_id;  /* the last id of the page before, in either direction; keyset paging: pages never shift */
    bool oldest_first; /* [false: newest first] by id */
    size_t limit;      /* [100] at most 1000 */
} pgqrs_message_filter;

/* *out is NULL when there is no such message. */
PGQRS_API pgqrs_result pgqrs_message_get(pgqrs_store *store, int64_t id, pgqrs_message **out);
PGQRS_API pgqrs_result pgqrs_message_list(pgqrs_store *store, const pgqrs_message_filter *filter, pgqrs_messages **out);
/* Counts all that match; after_id, oldest_first and limit are ignored. */
PGQRS_API pgqrs_result pgqrs_message_count(pgqrs_store *store, const pgqrs_message_filter *filter, int64_t *count);

/* Removes messages by id, whatever their state unless leased (PGQRS_ERR_MESSAGE_STATE; with `force` leased ones too, whose
 * holder then finds its lease lost). One transaction; results (may be NULL): PGQRS_OK, PGQRS_ERR_MESSAGE_NOT_FOUND, … */
PGQRS_API pgqrs_result pgqrs_message_delete(pgqrs_store *store, const int64_t *ids, size_t count, bool force,
                                            pgqrs_result *results);

/* Replaces the payload of a message that nobody has started and that is not finished (ready or delayed); validated like an
 * enqueue. PGQRS_ERR_MESSAGE_STATE otherwise. */
PGQRS_API pgqrs_result pgqrs_message_update(pgqrs_store *store, int64_t id, const char *payload, size_t payload_size);

/* Makes dead or archived messages deliverable again, attempts counted from zero, at the tail of their queue, under the
 * same id. A deduplication key that another unfinished message now holds: PGQRS_ERR_DUPLICATE. A message in another state:
 * PGQRS_ERR_MESSAGE_STATE. One transaction; results may be NULL for many. */
PGQRS_API pgqrs_result pgqrs_message_replay(pgqrs_store *store, int64_t id);
PGQRS_API pgqrs_result pgqrs_message_replay_many(pgqrs_store *store, const int64_t *ids, size_t count,
                                                 pgqrs_result *results);

/* Dead letters of a queue, newest first: pgqrs_message_list with state PGQRS_DEAD, in one word. after_id and limit as there. */
PGQRS_API pgqrs_result pgqrs_dead_list(pgqrs_store *store, const char *queue, int64_t after_id, size_t limit,
                                       pgqrs_messages **out);
/* Replays every dead letter of a queue; *replayed (may be NULL) counts them. Those whose key is taken stay. */
PGQRS_API pgqrs_result pgqrs_dead_replay_all(pgqrs_store *store, const char *queue, int64_t *replayed);

/* Why is this message not moving? */
typedef enum pgqrs_reason {
    PGQRS_WHY_NEXT = 1,        /* deliverable, and somebody is working on the queue */
    PGQRS_WHY_NO_WORKER = 2,   /* deliverable, but no live worker is registered for the queue */
    PGQRS_WHY_PAUSED = 3,      /* its queue is paused */
    PGQRS_WHY_DELAYED = 4,     /* waits until until_us: enqueued with a delay, or backing off after a failure */
    PGQRS_WHY_LEASED = 5,      /* held by worker_id until until_us */
    PGQRS_WHY_LEASE_OVER = 6,  /* its lease ran out; the next claim or idle worker of the queue takes it back */
    PGQRS_WHY_EXPIRED = 7,     /* nobody started it in time; it will be, or was, archived as expired */
    PGQRS_WHY_ARCHIVED = 8,    /* done */
    PGQRS_WHY_DEAD = 9,        /* in the dead letters: replay it once the cause is mended */
    PGQRS_WHY_UNKNOWN_ID = 10, /* there is no such message (deleted, purged, or never there) */
    /* runs of workflows only */
    PGQRS_WHY_RETRY = 11,      /* a failed step is tried again at until_us */
    PGQRS_WHY_STEP_PAUSE = 12, /* a step asked to be called again at until_us */
    PGQRS_WHY_SLEEP = 13,      /* sleeps until until_us */
    PGQRS_WHY_EVENT = 14,      /* waits for an event, until until_us at most */
    PGQRS_WHY_CANCELLING = 15, /* cancel was asked for; worker_id stops at its next step, or at until_us */
    PGQRS_WHY_RUN_ENDED = 16,  /* success or cancelled */
    PGQRS_WHY_RUN_FAILED = 17  /* error: pgqrs_run_restart once the cause is mended */
} pgqrs_reason;

typedef struct pgqrs_explanation {
    pgqrs_reason reason;
    int64_t until_us;                    /* when it changes by itself; 0: it does not */
    int64_t worker_id;                   /* leased: the holder; 0: none or not registered */
    char text[PGQRS_ERROR_MESSAGE_SIZE]; /* one sentence for the person on call: what, and the cure */
} pgqrs_explanation;

PGQRS_API pgqrs_result pgqrs_message_explain(pgqrs_store *store, int64_t id, pgqrs_explanation *out);

/* ------------------------------------------------------------------------------------------------------------------
 * >>handlers and the worker loop
 * --------------------------------------------------------------------------------------------------------------- */

/* Handles one message, on the thread that runs the loop. PGQRS_OK: it is archived. Anything else: the try failed; it is
 * retried after the queue's backoff and ends in the dead letters when its attempts are used up. The functions below say
 * something more precise and win over the return value. A handler may run more than once for one message (a crash, a lost
 * lease): make its effects repeatable. It must not use the store that runs the loop except through pgqrs_message_…; a
 * store of its own is fine. */
typedef pgqrs_result (*pgqrs_handler)(const pgqrs_message *message, void *user);

/* Handles a batch. The return value counts for every message without a verdict of its own. */
typedef pgqrs_result (*pgqrs_batch_handler)(const pgqrs_messages *batch, void *user);

/* Verdicts inside a handler, for the loop that called it; the last one counts. By hand it is pgqrs_archive, pgqrs_retry … Each returns PGQRS_OK, so a handler can end with
 * `return pgqrs_message_retry(message, 5000, "mail server is down");`. Outside of a handler: PGQRS_ERR_INVALID_ARGUMENT (and
 * no detail, for there is no store to keep it). */
PGQRS_API pgqrs_result pgqrs_message_archive(const pgqrs_message *message);
PGQRS_API pgqrs_result pgqrs_message_remove(const pgqrs_message *message); /* done, and no trace is kept */
/* Failed; again after delay_ms (0: the queue's backoff), or dead when its attempts are used up. The reason (may be NULL) is
 * shown to people. */
PGQRS_API pgqrs_result pgqrs_message_retry(const pgqrs_message *message, int64_t delay_ms, const char *reason);
/* Not started after all; again after delay_ms, and the attempt is not counted. */
PGQRS_API pgqrs_result pgqrs_message_give_back(const pgqrs_message *message, int64_t delay_ms);
/* Hopeless: to the dead letters at once. */
PGQRS_API pgqrs_result pgqrs_message_reject(const pgqrs_message *message, const char *reason);
/* Keeps the lease (and the worker's heartbeat) alive for at least lease_ms more; at once, not at the end of the handler.
 * PGQRS_ERR_LEASE_LOST: stop working on it, somebody else will. */
PGQRS_API pgqrs_result pgqrs_message_extend(const pgqrs_message *message, int64_t lease_ms);

/* How to work. Zero means the default in brackets. */
typedef struct pgqrs_work_desc {
    const char *name; /* [host-pid-random, and its row goes when the loop ends] a name of your own stays listed, and is
                             refused (PGQRS_ERR_WORKER_ACTIVE) for stale_ms after a crash */
    int32_t batch; /* [the store's default_batch, 16; workflows: 1] at most so many messages taken at once. Handlers of
                             single messages start with 1 and take more while a batch is done within settle_ms */
    int64_t lease_ms;  /* [the queue's] */
    int64_t settle_ms; /* [50] finished messages are settled after this time at the latest, usually with the next claim;
                             a crash in between delivers them again. -1: after every message */
    int64_t heartbeat_ms; /* [the store's heartbeat_ms, 5000] */
    int64_t poll_ms;      /* [the store's poll_ms, 250] */
    int64_t stale_ms;     /* [60000] a worker of the same name whose heartbeat is older is taken over */
    int64_t max_messages; /* [0: no limit] end after handling so many */
    bool until_empty; /* [false] end when nothing is deliverable now; messages that this loop itself sent to a retry are
                             waited for (up to 15 s for a message that fails 5 times), as are runs whose step is to be tried
                             or asked again; other delayed messages, sleeping runs and events are not */
} pgqrs_work_desc;

/* Works on a queue until told to stop (pgqrs_stop, a shutdown or interrupt of the worker, max_messages, until_empty) or
 * until the store cannot be used any more. A failing handler never ends it; a passing store error is waited out. */
PGQRS_API pgqrs_result pgqrs_work(pgqrs_store *store, const char *queue, pgqrs_handler handler, void *user,
                                  const pgqrs_work_desc *desc);
PGQRS_API pgqrs_result pgqrs_work_batch(pgqrs_store *store, const char *queue, pgqrs_batch_handler handler, void *user,
                                        const pgqrs_work_desc *desc);

/* The same loop in slices, for programs that own their event loop. */
typedef struct pgqrs_worker pgqrs_worker;

/* Registers a worker. Exactly one of handler and batch_handler. NULL back: pgqrs_last_error(store). Between two calls of
 * pgqrs_worker_poll the store is free for anything else. */
PGQRS_API pgqrs_worker *pgqrs_worker_open(pgqrs_store *store, const char *queue, pgqrs_handler handler,
                                          pgqrs_batch_handler batch_handler, void *user, const pgqrs_work_desc *desc);

/* Takes at most one batch, handles and settles it, then returns; waits up to timeout_ms for the first message (0: not at
 * all). *handled (may be NULL) counts. Call it when the descriptor is readable or the deadline has come; not from the worker's
 * own handler. After max_messages pgqrs_worker_stopping is true. */
PGQRS_API pgqrs_result pgqrs_worker_poll(pgqrs_worker *worker, int64_t timeout_ms, size_t *handled);

/* A descriptor that becomes readable when poll should be called, -1 when this store has none; then the deadline alone
 * counts. It may change after a call of poll. */
PGQRS_API int pgqrs_worker_fd(pgqrs_worker *worker);

/* Milliseconds from now until poll must be called even when the descriptor is quiet; 0: now. */
PGQRS_API int64_t pgqrs_worker_next_ms(pgqrs_worker *worker);

/* Ends the running or next poll early and makes every later one return at once. Safe from signal handlers and other
 * threads. pgqrs_worker_stopping tells whether it was called. */
PGQRS_API void pgqrs_worker_stop(pgqrs_worker *worker);
PGQRS_API bool pgqrs_worker_stopping(const pgqrs_worker *worker);

/* The worker's row. */
PGQRS_API pgqrs_worker_ref pgqrs_worker_self(const pgqrs_worker *worker);

/* Settles what is finished, gives back what is not started, marks the row stopped (or removes it when the name was the
 * library's), frees; NULL is fine. */
PGQRS_API pgqrs_result pgqrs_worker_close(pgqrs_worker *worker);

/* ------------------------------------------------------------------------------------------------------------------
 * >>workers: rows that say who works on what
 *
 *   ready, polling --begin_polling--> polling ready, polling, interrupted --suspend--> suspended
 *   polling   --end_polling----> ready        suspended --resume--> ready
 *   polling   --interrupt------> interrupted  suspended --shutdown--> stopped (only when it holds no messages)
 *   any but stopped --reclaim (heartbeat too old)--> stopped          stopped --register--> ready
 *
 * Any other transition is PGQRS_ERR_WORKER_STATE. Only ready and polling workers may claim.
 * --------------------------------------------------------------------------------------------------------------- */

typedef enum pgqrs_worker_state {
    PGQRS_WORKER_READY = 1,
    PGQRS_WORKER_POLLING = 2,
    PGQRS_WORKER_INTERRUPTED = 3,
    PGQRS_WORKER_SUSPENDED = 4,
    PGQRS_WORKER_STOPPED = 5
} pgqrs_worker_state;

/* "ready", "polling", …; "unknown" for anything else. Any thread. */
PGQRS_API const char *pgqrs_worker_state_name(pgqrs_worker_state state);

typedef struct pgqrs_worker_info {
    int64_t id;
    int64_t epoch; /* of its last registration */
    const char *name;
    const char *queue; /* NULL: not tied to a queue */
    pgqrs_worker_state state;
    bool reclaimed; /* stopped by a reclaim, not by a shutdown */
    int64_t started_at_us;
    int64_t heartbeat_at_us;
    int64_t stopped_at_us; /* 0: not stopped */
    int64_t held;          /* messages it holds now */
} pgqrs_worker_info;

typedef struct pgqrs_workers {
    const pgqrs_worker_info *items;
    size_t count;
} pgqrs_workers;

typedef struct pgqrs_register_desc {
    const char *queue; /* [none] */
    int64_t stale_ms;  /* [60000] take over a row of this name whose heartbeat is older; its messages are released */
} pgqrs_register_desc;

/* Registers a worker by name (unique; 1 to 255 bytes without control characters). A stopped row of that name is used again
 * with a new epoch; a live one is PGQRS_ERR_WORKER_ACTIVE until its heartbeat is stale. */
PGQRS_API pgqrs_result pgqrs_worker_register(pgqrs_store *store, const char *name, const pgqrs_register_desc *desc,
                                             pgqrs_worker_ref *out);

/* I am alive. PGQRS_ERR_WORKER_STOPPED when it was shut down, reclaimed or registered again meanwhile. */
PGQRS_API pgqrs_result pgqrs_worker_heartbeat(pgqrs_store *store, pgqrs_worker_ref worker);

/* Is its heartbeat at most max_age_ms old, and the worker not stopped? max_age_ms 0 is never healthy. */
PGQRS_API pgqrs_result pgqrs_worker_healthy(pgqrs_store *store, int64_t worker_id, int64_t max_age_ms, bool *healthy);

/* Transitions of the table above. */
PGQRS_API pgqrs_result pgqrs_worker_begin_polling(pgqrs_store *store, pgqrs_worker_ref worker);
PGQRS_API pgqrs_result pgqrs_worker_end_polling(pgqrs_store *store, pgqrs_worker_ref worker);
PGQRS_API pgqrs_result pgqrs_worker_interrupt(pgqrs_store *store, int64_t worker_id);
PGQRS_API pgqrs_result pgqrs_worker_suspend(pgqrs_store *store, int64_t worker_id);
PGQRS_API pgqrs_result pgqrs_worker_resume(pgqrs_store *store, int64_t worker_id);
PGQRS_API pgqrs_result pgqrs_worker_shutdown(pgqrs_store *store,
                                             int64_t worker_id); /* PGQRS_ERR_WORKER_BUSY: holds messages */

typedef struct pgqrs_worker_filter {
    const char *queue; /* one that does not exist is PGQRS_ERR_QUEUE_NOT_FOUND */
    pgqrs_worker_state state;
    int64_t stale_ms; /* only those not stopped whose heartbeat is older than this */
    int64_t after_id; /* keyset paging */
    size_t limit;     /* [100] at most 1000 */
} pgqrs_worker_filter;

/* By id, ascending. *out of get is NULL when there is none. */
PGQRS_API pgqrs_result pgqrs_worker_get(pgqrs_store *store, int64_t worker_id, pgqrs_worker_info **out);
PGQRS_API pgqrs_result pgqrs_worker_list(pgqrs_store *store, const pgqrs_worker_filter *filter, pgqrs_workers **out);
PGQRS_API pgqrs_result pgqrs_worker_count(pgqrs_store *store, const pgqrs_worker_filter *filter, int64_t *count);

/* Releases every message the worker holds (its attempt counts, reason "released"); *released may be NULL. */
PGQRS_API pgqrs_result pgqrs_worker_release(pgqrs_store *store, int64_t worker_id, int64_t *released);

/* Removes the row. A worker that is not stopped: PGQRS_ERR_WORKER_ACTIVE unless `force`, which also releases what it holds. */
PGQRS_API pgqrs_result pgqrs_worker_delete(pgqrs_store *store, int64_t worker_id, bool force);

/* Early recovery from crashes: workers of the queue (NULL: all) that are not stopped and whose heartbeat is older than
 * older_than_ms (0: 60000) are stopped and their messages released, each worker in one transaction that checks the
 * heartbeat again. A worker without threads cannot beat while a handler runs: choose an age above your longest handler.
 * Without any reclaim the messages come back when their leases end. Counts may be NULL. */
PGQRS_API pgqrs_result pgqrs_worker_reclaim(pgqrs_store *store, const char *queue, int64_t older_than_ms,
                                            int64_t *workers, int64_t *messages);

/* Removes rows of workers stopped for longer than older_than_ms. *removed may be NULL. */
PGQRS_API pgqrs_result pgqrs_worker_purge(pgqrs_store *store, int64_t older_than_ms, int64_t *removed);

/* ------------------------------------------------------------------------------------------------------------------
 * >>workflows: a function made of named steps that is resumed after its last completed step
 *
 *   trigger --> queued --> running --> success            open:  queued, running, paused, cancelling
 *                 ^  ^       |  |  +--> error             ended: success, error, cancelled; never changes any more,
 *                 |  |       |  +-----> cancelled                except that an error can be restarted
 *                 |  +-crash-+
 *                 +-- paused <- sleep, event, retry       cancelling: asked for while a worker has the run
 *
 * A run is a message of the workflow's queue, under the same id, so everything that holds for messages holds for runs:
 * leases, order, priority, attempts, dead letters, pausing the queue. Names of workflows, steps, events and values: 1 to 255
 * bytes of UTF-8 without control characters.
 * --------------------------------------------------------------------------------------------------------------- */

typedef enum pgqrs_backoff {
    PGQRS_BACKOFF_EXPONENTIAL = 0, /* base_ms · 2^n, at most cap_ms */
    PGQRS_BACKOFF_FIXED = 1        /* always base_ms */
} pgqrs_backoff;

/* When a transient failure is tried again. Zero means the default in brackets; for a step: the workflow's. */
typedef struct pgqrs_retry_policy {
    int32_t max_retries;    /* [3] tries after the first one; -1: none */
    pgqrs_backoff backoff;  /* [exponential] */
    int64_t base_ms;        /* [1000] */
    int64_t cap_ms;         /* [60000] */
    int32_t jitter_percent; /* [25] the delay is varied by up to so much in both directions, at most 100; -1: none */
} pgqrs_retry_policy;

/* The delay before retry `retry` (0 is the first) under a policy (NULL: the default one); `random` is 64 random bits. A pure
 * function, for tests and for programs with retries of their own. Any thread. */
PGQRS_API int64_t pgqrs_retry_delay_ms(const pgqrs_retry_policy *policy, int32_t retry, uint64_t random);

/* Settings of a workflow, stored with it. Zero means the default in brackets. */
typedef struct pgqrs_workflow_desc {
    const char *queue;        /* [the workflow's name] made when it is not there. Workflows that one worker serves
                                    together share a queue */
    pgqrs_retry_policy retry; /* of its steps, and of the run as a whole */
    int64_t lease_ms;         /* [the store's default_lease_ms, 30000] of the queue, when it is made here: the longest a
                                    step may take, unless it has a timeout_ms of its own */
    int32_t max_attempts; /* [the store's default_max_attempts, 5] of the queue, when it is made here: how often a run
                                    may lose its worker (a crash, a lease that ended) before it is an error, code "DEAD" */
    int64_t timeout_ms;   /* [0: none] a run not ended so long after its trigger fails when a worker next
                                    looks at it: code "TIMEOUT" */
    int64_t step_timeout_ms; /* [0: none] default of pgqrs_step_desc.timeout_ms */
    int64_t retention_ms;    /* [0: keep] runs ended by success or cancel and older are removed by workers. What removes
                                    their messages (the queue's own retention, a purge) removes them too */
    int64_t failed_retention_ms; /* [0: keep] the same for runs that failed */
    bool must_be_new;            /* create: an existing workflow is PGQRS_ERR_WORKFLOW_EXISTS instead of success */
} pgqrs_workflow_desc;

typedef struct pgqrs_workflow {
    int64_t id;
    const char *name;
    pgqrs_workflow_desc settings; /* resolved; lease_ms and max_attempts are the queue's and 0 here: pgqrs_queue_get */
    int64_t created_at_us;
} pgqrs_workflow;

typedef struct pgqrs_workflows {
    const pgqrs_workflow *items;
    size_t count;
} pgqrs_workflows;

/* Creates a workflow, and its queue when that is not there. One that exists is left as it is, and that is success. How often a
 * run may crash its worker, and the lease, are settings of the queue (max_attempts, lease_ms). */
PGQRS_API pgqrs_result pgqrs_workflow_create(pgqrs_store *store, const char *workflow, const pgqrs_workflow_desc *desc);

/* Changes the settings whose member in desc is not zero; `queue` and `must_be_new` are ignored, lease_ms and max_attempts refused:
 * pgqrs_queue_update changes those. To set a time back to 0, give -1. Open runs follow the new settings from their next delivery on; a deadline already set stays. */
PGQRS_API pgqrs_result pgqrs_workflow_update(pgqrs_store *store, const char *workflow, const pgqrs_workflow_desc *desc);

/* *out is NULL when there is no such workflow. */
PGQRS_API pgqrs_result pgqrs_workflow_get(pgqrs_store *store, const char *workflow, pgqrs_workflow **out);

/* By id, ascending, those after `after_id`, at most `limit` (0: 100, at most 1000). */
PGQRS_API pgqrs_result pgqrs_workflow_list(pgqrs_store *store, int64_t after_id, size_t limit, pgqrs_workflows **out);

/* Removes a workflow with its ended runs; with open ones too when `force` is given, otherwise they are
 * PGQRS_ERR_WORKFLOW_NOT_EMPTY. Its queue goes too when the workflow made it and nothing is left in it. Runs go in pieces: a crash leaves
 * the workflow with fewer of them. */
PGQRS_API pgqrs_result pgqrs_workflow_delete(pgqrs_store *store, const char *workflow, bool force);

/* How a run is triggered. Zero means the default in brackets. */
typedef struct pgqrs_trigger_desc {
    size_t input_size; /* [strlen] */
    int32_t priority;  /* [0] -32768 … 32767, higher first */
    int64_t delay_ms;  /* [0] not started before now + delay_ms */
    int64_t at_us;     /* [0] or not before this time; not both */
    /* [none] up to 255 bytes: the workflow's run that has it, ended or not, is returned instead of a new one, for as long as
     * that run is kept */
    const char *idempotency_key;
} pgqrs_trigger_desc;

typedef struct pgqrs_trigger_item {
    const char *input; /* JSON; NULL: null */
    pgqrs_trigger_desc desc;
} pgqrs_trigger_item;

/* Makes a run: durable once this returns PGQRS_OK, together with its message, in one transaction (yours, on a borrowed
 * connection). The input follows the store's validation rules. run_id may be NULL. With an idempotency key that is taken, the run
 * that has it is returned, whatever its input; pgqrs_workflow_trigger_many tells which. To find a run by its key:
 * pgqrs_run_list. */
PGQRS_API pgqrs_result pgqrs_workflow_trigger(pgqrs_store *store, const char *workflow, const char *input,
                                              const pgqrs_trigger_desc *desc, int64_t *run_id);

/* All of them in one commit, or none; receipts (may be NULL) tell new runs from those whose key was there. Two items with the same
 * key: PGQRS_ERR_INVALID_ARGUMENT. */
PGQRS_API pgqrs_result pgqrs_workflow_trigger_many(pgqrs_store *store, const char *workflow,
                                                   const pgqrs_trigger_item *items, size_t count,
                                                   pgqrs_receipt *receipts);

/* ------------------------------------------------------------------------------------------------------------------
 * >>runs from inside: what a workflow's function does
 *
 * A run is sticky: once it has to stop (cancelled, waiting, failed, lease lost, worker told to stop, store unreachable) every
 * later step is skipped and gives NULL, and the last call returns the reason. So the function needs no checks, as long as everything
 * that has an effect stands inside of steps; only where it looks into an output itself, in an if or a loop, it looks for NULL first,
 * which means: leave. All texts handed out live until the function returns. The run is used on the thread that called the function,
 * and not after it returned.
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrs_run pgqrs_run;

/* A workflow. Ends with pgqrs_run_return or pgqrs_run_fail; what it returns is what these returned. To leave early because the run has
 * to stop it returns anything, pgqrs_run_status(run) for one. A function that returns PGQRS_OK without any of these has a bug: the
 * run fails, code "UNFINISHED". Any other error of its own is a transient failure of the run as a whole. It may use the store
 * that runs it for other things between steps. */
typedef pgqrs_result (*pgqrs_workflow_handler)(pgqrs_run *run, void *user);

PGQRS_API int64_t pgqrs_run_id(const pgqrs_run *run);
PGQRS_API const char *pgqrs_run_workflow(const pgqrs_run *run);
PGQRS_API const char *pgqrs_run_input(const pgqrs_run *run); /* JSON; never NULL */
PGQRS_API int32_t pgqrs_run_attempt(const pgqrs_run *run);   /* 1, and one more after each crash */
PGQRS_API pgqrs_store *pgqrs_run_store(const pgqrs_run *run);

/* PGQRS_OK while the run goes on, otherwise why it must stop; and the same in words (never NULL, valid as long as the run). */
PGQRS_API pgqrs_result pgqrs_run_status(const pgqrs_run *run);
PGQRS_API const pgqrs_error *pgqrs_run_error(const pgqrs_run *run);

/* Is this step still to be done? True: do it now, then say pgqrs_step_done, _fail or _pause, and take what that returns as the
 * output: *output is NULL until then. False: it was done before and *output is
 * what it stored, or the run must stop and *output is NULL. Before the first true the step before is durable: a crash repeats at most
 * the one step that was under way. The same name (and key) twice in one execution is an error of the program; steps in
 * loops have keys. output may be NULL. */
PGQRS_API bool pgqrs_step(pgqrs_run *run, const char *name, const char **output);
PGQRS_API bool pgqrs_step_keyed(pgqrs_run *run, const char *name, const char *key, const char **output);
PGQRS_API bool pgqrs_step_indexed(pgqrs_run *run, const char *name, int64_t index, const char **output);

/* A step with everything. Zero means the default in brackets. */
typedef struct pgqrs_step_desc {
    const char *key;          /* [none] 1 to 255 bytes; tells steps of one name apart */
    pgqrs_retry_policy retry; /* [the workflow's], member by member */
    int64_t timeout_ms; /* [the workflow's] the lease is made to last so long, and a body that took longer has failed,
                                 transiently, with the code "TIMEOUT": nothing interrupts it */
    const char *input;  /* [none] JSON, kept with the step. When it is done already with another input the run fails,
                                 code "INPUT_CHANGED" */
    bool transaction;   /* [false] the body runs inside a transaction on the run's own connection, see
                                 pgqrs_run_pgconn, and pgqrs_step_done commits it together with the step: exactly once. All
                                 that the body does with pgqrs_run_store is part of it. The body does not end it, and says
                                 pgqrs_step_fail when a statement of its own failed. Keep it short: on SQLite nobody else
                                 writes meanwhile */
} pgqrs_step_desc;

PGQRS_API bool pgqrs_step_with(pgqrs_run *run, const char *name, const pgqrs_step_desc *desc, const char **output);

/* The step under way is done. `output` is JSON (NULL: null); the run's own copy of it is returned, NULL when the run must stop. It is
 * stored together with whatever the run does next: before the next step's body, a sleep, a wait, pgqrs_run_set, the end. With
 * desc.transaction: now. JSON that is not well-formed, or exceeds the store's size or depth, fails the run: code "BAD_JSON". */
PGQRS_API const char *pgqrs_step_done(pgqrs_run *run, const char *output);

/* Why something failed. */
typedef struct pgqrs_failure {
    const char *code;       /* ["FAILED"] for programs, at most 64 bytes */
    const char *message;    /* [none] for people, cut at 500 bytes */
    bool transient;         /* [false: for good] worth another try */
    int64_t retry_after_ms; /* [the policy's delay] another try after so long; -1: at once. It counts as a retry */
} pgqrs_failure;

/* The step under way failed. Transiently: the function is left and entered again when the retry is due; when the retries are
 * used up, or for good, the run ends as an error, with this failure. A transactional step is rolled back. failure NULL: for good,
 * "FAILED". Returns NULL, to end an expression with. */
PGQRS_API const char *pgqrs_step_fail(pgqrs_run *run, const pgqrs_failure *failure);

/* The step under way is not ready yet: the function is left, and the body runs again after delay_ms. Costs neither a retry nor an
 * attempt. A transactional step is rolled back. `why` (may be NULL) is shown to people. Returns NULL. */
PGQRS_API const char *pgqrs_step_pause(pgqrs_run *run, int64_t delay_ms, const char *why);

/* A sleep that survives restarts, of any length, and holds no worker. True: it is over, go on. False: leave the function now, it is
 * entered again at that time. A name like a step's; the time is set when it is reached first. */
PGQRS_API bool pgqrs_run_sleep(pgqrs_run *run, const char *name, int64_t duration_ms);
PGQRS_API bool pgqrs_run_sleep_until(pgqrs_run *run, const char *name, int64_t at_us);

/* Waits for an event of this run (pgqrs_run_send_event), sent before or after; at most timeout_ms (PGQRS_FOREVER: no limit), counted
 * from when it is reached first. True: go on; *payload is the event's JSON, or NULL when the time was over. False: leave the
 * function now, *payload is NULL. What came of it is the same in every later execution. */
PGQRS_API bool pgqrs_run_wait_event(pgqrs_run *run, const char *event, int64_t timeout_ms, const char **payload);

/* Values of the run that others may read while it goes on: progress, notes. Durable when this returns (in a transactional step: with
 * it), at the price of a commit; inside of a step's body that is once, elsewhere in every execution. NULL removes. Unlike steps they
 * are what was last set, whichever execution did it. Reading one is a query. */
PGQRS_API pgqrs_result pgqrs_run_set(pgqrs_run *run, const char *name, const char *json);
PGQRS_API const char *pgqrs_run_value(pgqrs_run *run, const char *name); /* NULL: not set */

/* Stores now what is done and not stored yet. */
PGQRS_API pgqrs_result pgqrs_run_flush(pgqrs_run *run);

/* Keeps the run at least lease_ms more (0: the lease's usual length), for steps that take longer than the lease. Every stored
 * step does it too. PGQRS_ERR_LEASE_LOST: somebody else may have the run. */
PGQRS_API pgqrs_result pgqrs_run_extend(pgqrs_run *run, int64_t lease_ms);

/* The connection the run's store works on, for transactional steps; NULL: another backend, or not connected. Not to be closed, and
 * not to be used outside of such a step. */
PGQRS_API struct pg_conn *pgqrs_run_pgconn(const pgqrs_run *run);
PGQRS_API struct sqlite3 *pgqrs_run_sqlite3(const pgqrs_run *run);

/* Between plain text and JSON, for outputs that are just a text: pgqrs_step_done(run, pgqrs_run_quote(run, path)). quote: the text as
 * a JSON string; NULL for NULL, and for what is not UTF-8. unquote: the text in a JSON string; NULL for anything else. */
PGQRS_API const char *pgqrs_run_quote(pgqrs_run *run, const char *text);
PGQRS_API const char *pgqrs_run_unquote(pgqrs_run *run, const char *json);

/* Ends the run: success with this JSON (NULL: null), unless it has to stop for another reason, which is returned. Stored with the last
 * step, the archiving of its message and the next claim, in one transaction, right after the function returned. Any use of the run
 * after it is PGQRS_ERR_STEP_MISUSE and changes nothing. */
PGQRS_API pgqrs_result pgqrs_run_return(pgqrs_run *run, const char *output);

/* Fails the run outside of a step; transient: the function is entered again, as often as the workflow's policy says. */
PGQRS_API pgqrs_result pgqrs_run_fail(pgqrs_run *run, const pgqrs_failure *failure);

/* --- workers */

/* Which function runs which workflow. */
typedef struct pgqrs_workflow_entry {
    const char *workflow;
    pgqrs_workflow_handler handler;
    void *user;
} pgqrs_workflow_entry;

/* pgqrs_work for runs of one workflow. Takes one run at a time unless desc->batch says more. pgqrs_stop ends it at the next
 * step: the run in hand is given back, and whoever takes it goes on there. */
PGQRS_API pgqrs_result pgqrs_work_workflow(pgqrs_store *store, const char *workflow, pgqrs_workflow_handler handler,
                                           void *user, const pgqrs_work_desc *desc);

/* For several workflows that share a queue. A run of a workflow that is not among them is given back after a second. */
PGQRS_API pgqrs_result pgqrs_work_workflows(pgqrs_store *store, const pgqrs_workflow_entry *entries, size_t count,
                                            const pgqrs_work_desc *desc);

/* The same in slices: see pgqrs_worker_open. The entries are copied. */
PGQRS_API pgqrs_worker *pgqrs_worker_open_workflows(pgqrs_store *store, const pgqrs_workflow_entry *entries,
                                                    size_t count, const pgqrs_work_desc *desc);

/* ------------------------------------------------------------------------------------------------------------------
 * >>runs from outside: questions and control. A run that does not exist, or was purged: PGQRS_ERR_RUN_NOT_FOUND.
 * --------------------------------------------------------------------------------------------------------------- */

typedef enum pgqrs_run_state {
    PGQRS_RUN_QUEUED = 1,     /* waits for a worker, or for its first time */
    PGQRS_RUN_RUNNING = 2,    /* a worker has it, until lease_until_us at least */
    PGQRS_RUN_PAUSED = 3,     /* waits for what `wait` says */
    PGQRS_RUN_CANCELLING = 4, /* cancel was asked for; it stops at the next step */
    PGQRS_RUN_CANCELLED = 5,
    PGQRS_RUN_SUCCESS = 6,
    PGQRS_RUN_ERROR = 7 /* failed, or its message is among the dead letters: code "DEAD" */
} pgqrs_run_state;

/* "queued", "running", …; "unknown" for anything else. Any thread. */
PGQRS_API const char *pgqrs_run_state_name(pgqrs_run_state state);

/* What a paused run waits for. */
typedef enum pgqrs_run_wait {
    PGQRS_WAIT_NONE = 0,
    PGQRS_WAIT_RETRY = 1, /* a failed step, or the failed run, is tried again */
    PGQRS_WAIT_PAUSE = 2, /* pgqrs_step_pause */
    PGQRS_WAIT_SLEEP = 3, /* pgqrs_run_sleep */
    PGQRS_WAIT_EVENT = 4  /* pgqrs_run_wait_event */
} pgqrs_run_wait;

/* "retry", "pause", "sleep", "event"; "none". Any thread. */
PGQRS_API const char *pgqrs_run_wait_name(pgqrs_run_wait wait);

/* Codes of the library's own in error_code: FAILED (none was given), TIMEOUT, UNFINISHED, MISUSE, BAD_JSON, BAD_INPUT,
 * INPUT_CHANGED, DEAD, and the name of a result that the function returned. */
typedef struct pgqrs_run_info {
    int64_t id;
    const char *workflow;
    const char *queue;
    pgqrs_run_state state;
    const char *input; /* JSON; NULL when its message was removed */
    size_t input_size;
    const char *output; /* JSON; NULL unless success */
    size_t output_size;
    const char *error_code; /* error: as in pgqrs_failure; NULL otherwise */
    const char *error_message;
    const char *error_step;      /* NULL: not in a step */
    pgqrs_run_wait wait;         /* paused: for what */
    const char *wait_name;       /* name of the step, sleep or event */
    int64_t wait_until_us;       /* 0: no limit */
    int32_t attempt;             /* deliveries that count, see pgqrs_message */
    int32_t retries;             /* of the run as a whole so far */
    const char *idempotency_key; /* NULL: none */
    int64_t triggered_at_us;
    int64_t started_at_us; /* first execution that left a trace; 0: none yet */
    int64_t finished_at_us;
    int64_t deadline_at_us;         /* 0: none */
    int64_t cancel_requested_at_us; /* 0: never */
    const char *cancelled_by;       /* NULL: not said */
    const char *cancel_reason;
    int64_t worker_id; /* running: who has it; 0: not registered */
    const char *worker;
    int64_t lease_until_us;
    int64_t forked_from; /* run id; 0: not a fork */
} pgqrs_run_info;

typedef struct pgqrs_runs {
    const pgqrs_run_info *items;
    size_t count;
} pgqrs_runs;

typedef enum pgqrs_step_kind {
    PGQRS_STEP_BODY = 1,  /* pgqrs_step */
    PGQRS_STEP_SLEEP = 2, /* pgqrs_run_sleep */
    PGQRS_STEP_EVENT = 3  /* pgqrs_run_wait_event */
} pgqrs_step_kind;

typedef enum pgqrs_step_state {
    PGQRS_STEP_DONE = 1,     /* an event that timed out is done without output */
    PGQRS_STEP_RETRYING = 2, /* failed, tried again at due_at_us */
    PGQRS_STEP_WAITING = 3,  /* paused, sleeping or waiting until due_at_us (0: no limit) */
    PGQRS_STEP_FAILED = 4
} pgqrs_step_state;

/* "done", "retrying", "waiting", "failed"; "unknown". Any thread. */
PGQRS_API const char *pgqrs_step_state_name(pgqrs_step_state state);

typedef struct pgqrs_step_info {
    int32_t number; /* 1, 2, … in the order in which they were recorded first */
    pgqrs_step_kind kind;
    pgqrs_step_state state;
    const char *name;
    const char *key;    /* NULL: none */
    const char *input;  /* NULL: none was given */
    const char *output; /* JSON; NULL unless done */
    size_t output_size;
    const char *error_code; /* of the last failure; NULL: none, or done since */
    const char *error_message;
    int32_t retries; /* used so far */
    int64_t started_at_us;
    int64_t finished_at_us; /* 0: not done and not failed */
    int64_t due_at_us;
} pgqrs_step_info;

typedef struct pgqrs_steps {
    const pgqrs_step_info *items; /* by number */
    size_t count;
} pgqrs_steps;

typedef struct pgqrs_run_value_info {
    const char *name;
    const char *value; /* JSON */
    size_t value_size;
    int64_t set_at_us;
} pgqrs_run_value_info;

typedef struct pgqrs_run_values {
    const pgqrs_run_value_info *items; /* by name */
    size_t count;
} pgqrs_run_values;

/* *out is NULL when there is no such run. */
PGQRS_API pgqrs_result pgqrs_run_get(pgqrs_store *store, int64_t run_id, pgqrs_run_info **out);

/* Waits until the run has ended, at most timeout_ms (0: just looks; PGQRS_FOREVER: until pgqrs_stop). Success: PGQRS_OK and *out. Failed:
 * PGQRS_ERR_RUN_FAILED, cancelled: PGQRS_ERR_RUN_CANCELLED, and pgqrs_last_error says why; not ended in time: PGQRS_ERR_TIMEOUT; *out
 * is NULL then. Woken by the run's end on Postgres and, for one SQLite file, between processes and threads; elsewhere it looks
 * every poll_ms. Not from a workflow's function with the store that runs it: it would wait for itself. */
PGQRS_API pgqrs_result pgqrs_run_result(pgqrs_store *store, int64_t run_id, int64_t timeout_ms, pgqrs_run_info **out);

/* Which runs. Zero means no restriction, or the default in brackets. */
typedef struct pgqrs_run_filter {
    const char *workflow; /* one that does not exist is PGQRS_ERR_WORKFLOW_NOT_FOUND */
    pgqrs_run_state state;
    const char *idempotency_key;
    int64_t triggered_from_us;   /* triggered at or after */
    int64_t triggered_before_us; /* triggered before */
    int64_t after_id;            /* the last id of the page before, in either direction */
    bool oldest_first;           /* [false: newest first] by id */
    size_t limit;                /* [100] at most 1000 */
} pgqrs_run_filter;

PGQRS_API pgqrs_result pgqrs_run_list(pgqrs_store *store, const pgqrs_run_filter *filter, pgqrs_runs **out);
/* Counts all that match; after_id, oldest_first and limit are ignored. */
PGQRS_API pgqrs_result pgqrs_run_count(pgqrs_store *store, const pgqrs_run_filter *filter, int64_t *count);
PGQRS_API pgqrs_result pgqrs_run_steps(pgqrs_store *store, int64_t run_id, pgqrs_steps **out);
PGQRS_API pgqrs_result pgqrs_run_values_get(pgqrs_store *store, int64_t run_id, pgqrs_run_values **out);

/* Why is this run not moving? The sentence and the reason; PGQRS_WHY_UNKNOWN_ID, and PGQRS_OK, when there is no such run. */
PGQRS_API pgqrs_result pgqrs_run_explain(pgqrs_store *store, int64_t run_id, pgqrs_explanation *out);

typedef struct pgqrs_cancel_desc {
    const char *by;     /* [none] who, at most 255 bytes */
    const char *reason; /* [none] why, cut at 500 bytes */
} pgqrs_cancel_desc;

/* Cancels a run: at once when nobody has it, otherwise at its next step. *state (may be NULL) tells which: PGQRS_RUN_CANCELLED or
 * _CANCELLING. Again on the same run: no change, and success. An ended run: PGQRS_ERR_RUN_STATE. */
PGQRS_API pgqrs_result pgqrs_run_cancel(pgqrs_store *store, int64_t run_id, const pgqrs_cancel_desc *desc,
                                        pgqrs_run_state *state);

/* Sends an event to a run: JSON (NULL: null). The first of a name counts; later ones, and one whose wait has timed out already,
 * change nothing and set *accepted (may be NULL) to false. It wakes a run that waits for it. An ended run: PGQRS_ERR_RUN_STATE. */
PGQRS_API pgqrs_result pgqrs_run_send_event(pgqrs_store *store, int64_t run_id, const char *event, const char *payload,
                                            bool *accepted);

/* Runs a failed run again under the same id: completed steps are kept, the failed one and all retries begin anew, a deadline is set
 * anew. A wait that timed out or got its event is a completed step: to wait again, pgqrs_run_fork with `step` naming it. Any
 * other run: PGQRS_ERR_RUN_STATE. */
PGQRS_API pgqrs_result pgqrs_run_restart(pgqrs_store *store, int64_t run_id);

typedef struct pgqrs_fork_desc {
    const char *step;  /* [the first] the new run has all steps that were recorded before this one, and runs it anew */
    const char *key;   /* [none] of that step */
    const char *input; /* [the same] JSON */
} pgqrs_fork_desc;

/* Makes a new run of the same workflow from a run in any state, which stays as it is. Values and events are not copied, completed
 * waits are. A step that the run does not have: PGQRS_ERR_STEP_NOT_FOUND. */
PGQRS_API pgqrs_result pgqrs_run_fork(pgqrs_store *store, int64_t run_id, const pgqrs_fork_desc *desc,
                                      int64_t *new_run_id);

typedef struct pgqrs_run_purge_desc {
    pgqrs_run_state state; /* [every ended one] success, error or cancelled */
    int64_t older_than_ms; /* [0: any age] since it ended */
} pgqrs_run_purge_desc;

/* Removes ended runs of a workflow with their steps, values, events and messages, bit by bit; *removed (may be NULL) counts them. A
 * single run goes with its message: pgqrs_message_delete. */
PGQRS_API pgqrs_result pgqrs_run_purge(pgqrs_store *store, const char *workflow, const pgqrs_run_purge_desc *desc,
                                       int64_t *removed);

/* ------------------------------------------------------------------------------------------------------------------
 * >>metrics: one definition each, computed in one snapshot; ready + delayed + leased + archived + dead = total
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrs_queue_metrics {
    const char *queue;
    bool paused;
    int64_t total;
    int64_t ready; /* deliverable now, lease run out included */
    int64_t delayed;
    int64_t leased; /* lease not run out */
    int64_t archived;
    int64_t dead;
    int64_t lease_expiries;          /* leases that ran out since the queue was created */
    int64_t oldest_ready_ms;         /* age of the oldest deliverable message, since it was enqueued; 0: none */
    int64_t oldest_unfinished_at_us; /* 0: none */
    int64_t newest_at_us;            /* 0: none */
    int64_t live_workers;            /* registered for it and not stopped */
} pgqrs_queue_metrics;

typedef struct pgqrs_metrics {
    const pgqrs_queue_metrics *items; /* by queue id */
    size_t count;
} pgqrs_metrics;

typedef struct pgqrs_worker_stats {
    int64_t total, ready, polling, interrupted, suspended, stopped;
    int64_t stale;               /* not stopped and heartbeat older than the given age */
    int64_t held;                /* messages held by them */
    int64_t oldest_ms;           /* since the longest-running one started; 0: none running */
    int64_t newest_heartbeat_ms; /* since the latest heartbeat; 0: no workers */
} pgqrs_worker_stats;

typedef struct pgqrs_system_metrics {
    int32_t schema_version;
    int64_t queues;
    int64_t total, ready, delayed, leased, archived, dead, lease_expiries; /* sums over the queues */
    pgqrs_worker_stats workers;
} pgqrs_system_metrics;

/* One queue: QUEUE_NOT_FOUND when there is none. NULL: all queues. */
PGQRS_API pgqrs_result pgqrs_metrics_get(pgqrs_store *store, const char *queue, pgqrs_metrics **out);
PGQRS_API pgqrs_result pgqrs_system_metrics_get(pgqrs_store *store, pgqrs_system_metrics *out);
/* Workers of a queue, or all with NULL; older than stale_ms (0: 60000) counts as stale. */
PGQRS_API pgqrs_result pgqrs_worker_stats_get(pgqrs_store *store, const char *queue, int64_t stale_ms,
                                              pgqrs_worker_stats *out);

/* One bounded step of housekeeping for every queue: due delays, expired leases, expired messages, retention. Workers do it
 * by themselves; a program without workers may call it. *changed (may be NULL): rows touched, 0 when nothing was left. */
PGQRS_API pgqrs_result pgqrs_maintain(pgqrs_store *store, int64_t *changed);

/* ------------------------------------------------------------------------------------------------------------------
 * >>configuration from the environment and from files
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrs_config_desc {
    const char *dsn;    /* [none] wins over everything else */
    const char *schema; /* [none] wins over everything else */
    const char *file;   /* [PGQRS_CONFIG_FILE, else pgqrs.yaml, else pgqrs.yml if there] needs PGQRS_YAML and libyaml */
    bool no_environment; /* [false] do not look at PGQRS_… variables */
    bool no_file;        /* [false] do not look for files */
    pgqrs_allocator allocator;
} pgqrs_config_desc;

typedef struct pgqrs_config {
    const char *dsn; /* never NULL */
    pgqrs_store_desc store;
    int32_t max_connections; /* [16] for programs that open several stores; the library itself opens what you open */
} pgqrs_config;

/* Reads the configuration: desc, then the environment, then the file; each field comes from the first that has it. A
 * value that cannot be used is PGQRS_ERR_BAD_CONFIG and names the variable or the key. NULL back: see *err. Free with
 * pgqrs_free, after the stores opened with it. The names are in the manual. */
PGQRS_API pgqrs_config *pgqrs_config_load(const pgqrs_config_desc *desc, pgqrs_error *err);

/* ------------------------------------------------------------------------------------------------------------------
 * >>backend interface: for whoever writes the next backend. The engine decides, a backend stores.
 *
 * A backend is one table of functions. The engine checks every argument before it calls: names are valid, payloads
 * validated, times in range, batches not empty and free of equal deduplication keys. Functions return a pgqrs_result and
 * on failure have called pgqrs_backend_fail. Each is one transaction, or, when the connection is the caller's and in a
 * transaction, a part of that one which leaves nothing behind when it fails. A call that fails with a kind of RETRY has
 * changed nothing. Members are only appended; `version` says how many there are.
 *
 * Time: every request carries now_us. 0 means the backend's own clock (only with PGQRS_CAN_CLOCK), otherwise it is the
 * time to use for every decision. Points in time are given as pgqrs_when.
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRS_BACKEND_VERSION 2

#define PGQRS_CAN_CLOCK 0x1u /* has a clock that all its users share: now_us may be 0 */
#define PGQRS_CAN_WAKE 0x2u  /* wait_begin / wait_fd work: others' enqueues wake a sleeping consumer */
#define PGQRS_CAN_SHARE 0x4u /* several processes may use one store */

typedef struct pgqrs_when {
    int64_t at_us;    /* absolute when not 0 */
    int64_t delay_us; /* otherwise relative to the backend's now; 0 and 0: now */
} pgqrs_when;

/* Exactly one of dsn, connection, database is set. */
typedef struct pgqrs_backend_open {
    const char *dsn;
    struct pg_conn *connection;
    struct sqlite3 *database;
    const pgqrs_store_desc *settings; /* resolved; lives as long as the store */
} pgqrs_backend_open;

typedef struct pgqrs_backend_message {
    const char *payload;
    size_t payload_size;
    int32_t priority;
    pgqrs_when due;
    pgqrs_when expires;    /* 0 and 0: never */
    const char *dedup_key; /* NULL: none */
    const char *producer;  /* NULL: unnamed */
} pgqrs_backend_message;

typedef struct pgqrs_backend_enqueue {
    int64_t now_us;
    const char *queue;
    const pgqrs_backend_message *items;
    size_t count; /* at least 1 */
} pgqrs_backend_enqueue;

/* RETRY has become RELEASE here: the engine worked out the backoff. `due` is for RELEASE and GIVE_BACK. */
typedef struct pgqrs_backend_verdict {
    int64_t id;
    int64_t lease;
    uint32_t lease_size; /* hint, 0: unknown */
    pgqrs_verdict verdict;
    pgqrs_when due;
    const char *reason; /* NULL or at most 500 bytes */
    bool fresh;         /* GIVE_BACK: attempts are counted from zero again */
    /* NULL, or what to store of the run that this message is, before the verdict and in the same transaction. Its LEASE_LOST is the
     * verdict's too. A GIVE_BACK of a run that is asked to cancel, or whose event was sent meanwhile, is due at once */
    struct pgqrs_backend_run_write *run;
    pgqrs_result result; /* out: PGQRS_OK or PGQRS_ERR_LEASE_LOST */
} pgqrs_backend_verdict;

typedef struct pgqrs_backend_claim {
    const char *queue;
    size_t limit;
    int64_t lease_us;        /* 0: the queue's */
    pgqrs_worker_ref worker; /* {0, 0}: nobody */
    bool heartbeat;          /* also store a heartbeat of the worker */
    /* out */
    pgqrs_messages *messages; /* a result object; NULL when nothing was claimed */
    int64_t next_due_us;      /* when nothing was claimed: microseconds until the queue's next message falls due by
                                    itself (delay, lease end); -1: never */
    bool paused;              /* when nothing was claimed: because the queue is paused */
    pgqrs_result refused;     /* PGQRS_OK, or why the worker may not claim: PGQRS_ERR_WORKER_STOPPED, _SUSPENDED,
                                    _INTERRUPTED. Verdicts of the same exchange are carried out all the same */
} pgqrs_backend_claim;

/* Settle, then claim, in one transaction; either part may be absent (verdict_count 0, claim NULL). */
typedef struct pgqrs_backend_exchange {
    int64_t now_us;
    pgqrs_backend_verdict *verdicts;
    size_t verdict_count;
    pgqrs_backend_claim *claim;
} pgqrs_backend_exchange;

typedef struct pgqrs_backend_extend {
    int64_t now_us;
    const pgqrs_backend_verdict *leases; /* id and lease count; several ids may share a lease */
    size_t count;
    int64_t lease_us;        /* 0: the queue's */
    pgqrs_worker_ref worker; /* not {0, 0}: store a heartbeat too */
    pgqrs_result *results;   /* count of them */
} pgqrs_backend_extend;

/* What a queue_change writes: members of `settings` that are not zero (retentions: -1 means keep), and pause. */
typedef struct pgqrs_backend_queue_change {
    pgqrs_queue_desc settings;
    pgqrs_switch paused; /* PGQRS_AUTO: leave as it is */
} pgqrs_backend_queue_change;

typedef enum pgqrs_worker_change {
    PGQRS_WORKER_BEGIN_POLLING = 1,
    PGQRS_WORKER_END_POLLING = 2,
    PGQRS_WORKER_INTERRUPT = 3,
    PGQRS_WORKER_SUSPEND = 4,
    PGQRS_WORKER_RESUME = 5,
    PGQRS_WORKER_SHUTDOWN = 6,
    PGQRS_WORKER_BEAT = 7
} pgqrs_worker_change;

/* One conditional transition. The engine owns the table of allowed transitions and passes it as a set of states. */
typedef struct pgqrs_backend_worker_change {
    int64_t now_us;
    pgqrs_worker_ref worker; /* epoch 0: any epoch */
    uint32_t from;           /* bit (1 << state) for every state it may start from */
    pgqrs_worker_state to;   /* 0: the state stays (a heartbeat) */
    bool beat;               /* store a heartbeat */
    bool if_idle;            /* only when it holds no message (leases run out do not count) */
    /* out */
    bool changed;
    bool found;               /* a row with this id (and epoch) is there */
    pgqrs_worker_state state; /* of the row found: after the change, or as it stood in its way */
    int64_t held;             /* with if_idle and not changed: messages it holds */
} pgqrs_backend_worker_change;

/* --- workflows
 *
 * A run is a row of its own and a message of the workflow's queue with the same id; its input is that message's payload. What is
 * stored of its state is open (0), cancelled, success or error, a request to cancel, and what it waits for. The rest is read off the
 * message, in this order: an open run whose message is dead, or neither deliverable nor leased nor delayed (archived, removed), is
 * PGQRS_RUN_ERROR with the code "DEAD" and the dead letter's reason; one asked to cancel is CANCELLING; one whose message is leased and
 * the lease not over is RUNNING; one with a wait whose message is not deliverable yet is PAUSED; all others are QUEUED. So nothing is
 * written to start a run. worker, worker_id and lease_until_us are those of a lease that is not over. */

typedef struct pgqrs_backend_trigger_item {
    const char *input;
    size_t input_size;
    int32_t priority;
    pgqrs_when due;
    const char *idempotency_key; /* NULL: none; no two items have the same */
} pgqrs_backend_trigger_item;

/* Stores runs and messages, in the order given; WORKFLOW_NOT_FOUND. A key that a run of the workflow has already: that run's id and
 * `duplicate`, nothing stored for it. The deadline is now + the workflow's timeout_ms, when it has one. */
typedef struct pgqrs_backend_trigger {
    int64_t now_us;
    const char *workflow;
    const pgqrs_backend_trigger_item *items;
    size_t count; /* at least 1 */
} pgqrs_backend_trigger;

typedef struct pgqrs_backend_run_event {
    const char *name;
    const char *payload;
    size_t payload_size;
} pgqrs_backend_run_event;

/* All that a delivery needs to go on; a result object. */
typedef struct pgqrs_backend_run {
    int64_t now_us; /* the store's time at which this was true */
    int64_t id;
    const char *workflow;
    pgqrs_run_state stored; /* 0: open; CANCELLED, SUCCESS or ERROR */
    bool cancel;            /* a cancel is asked for */
    int32_t retries;
    int64_t started_at_us;
    int64_t deadline_at_us;
    pgqrs_workflow_desc settings; /* of the workflow */
    const pgqrs_step_info *steps; /* every one, by number */
    size_t step_count;
    const pgqrs_backend_run_event *events; /* every one, any order */
    size_t event_count;
} pgqrs_backend_run;

typedef struct pgqrs_backend_value {
    const char *name;
    const char *value; /* NULL: remove */
    size_t value_size;
} pgqrs_backend_value;

/* What a worker stores of a run, all in one transaction, and only while `lease` holds the run's message, is not over and the run
 * is open: otherwise nothing changes and `result` is PGQRS_ERR_LEASE_LOST. The lease must be locked until the commit, so that it cannot
 * end in between and be taken by somebody who does not see these steps. Repeating a write changes nothing. */
typedef struct pgqrs_backend_run_write {
    int64_t now_us;
    int64_t run_id;
    int64_t lease;
    /* Not 0: the lease ends no sooner than this from now. Never 0 in an exchange when the lease is about to end, so that it does
     * not in the middle of it */
    int64_t lease_us;
    const pgqrs_step_info *steps; /* inserted, or replaced where (run, number) is there */
    size_t step_count;
    const pgqrs_backend_value *values; /* inserted, replaced or removed by (run, name) */
    size_t value_count;
    /* What becomes of the run. 0: stays as it is, retries and wait included. QUEUED: goes on later, wait_… and retries are stored
     * (wait NONE clears it). SUCCESS, ERROR, CANCELLED: ends now, finished_at = now, wait cleared. SUCCESS of a run asked to cancel is
     * stored as CANCELLED, without the output. */
    pgqrs_run_state state;
    int32_t retries;
    int64_t started_at_us; /* stored when the row has none */
    pgqrs_run_wait wait;
    const char *wait_name;
    int64_t wait_until_us;
    const char *output; /* SUCCESS */
    size_t output_size;
    const char *error_code; /* ERROR */
    const char *error_message;
    const char *error_step;
    /* out */
    pgqrs_result result;
    bool cancel; /* a cancel is asked for */
} pgqrs_backend_run_write;

/* Removes runs of a workflow, oldest first, with everything that belongs to them, message included. */
typedef struct pgqrs_backend_run_purge {
    int64_t now_us;
    const char *workflow;
    uint32_t states;       /* bits (1 << state) of SUCCESS, ERROR (dead letters included), CANCELLED */
    bool open;             /* also those not ended, whoever holds them */
    int64_t older_than_us; /* since they ended; 0: any age */
    size_t limit;
    int64_t removed; /* out: 0 means that there are no more */
} pgqrs_backend_run_purge;

typedef enum pgqrs_backend_verb {
    PGQRS_BACKEND_BEGIN = 1,
    PGQRS_BACKEND_COMMIT = 2,
    PGQRS_BACKEND_ROLLBACK = 3
} pgqrs_backend_verb;

typedef struct pgqrs_backend {
    int32_t version;            /* PGQRS_BACKEND_VERSION this table was written for */
    const char *name;           /* "sqlite" */
    const char *header;         /* "pgqrs_sqlite.h" */
    const char *const *schemes; /* NULL-terminated: what stands before the colon of a DSN */
    uint32_t (*capabilities)(void *self);

    /* life */
    pgqrs_result (*open)(pgqrs_store *store, const pgqrs_backend_open *request, void **self);
    void (*close)(void *self);
    pgqrs_result (*now)(void *self, int64_t *now_us);
    pgqrs_result (*install)(void *self, int64_t now_us);
    pgqrs_result (*uninstall)(void *self);
    pgqrs_result (*verify)(void *self);
    pgqrs_result (*schema_version)(void *self, int32_t *version); /* 0: not installed */

    /* queues. QUEUE_NOT_FOUND where there is none, unless said otherwise */
    pgqrs_result (*queue_create)(void *self, int64_t now_us, const char *queue, const pgqrs_queue_desc *settings,
                                 bool *created);
    pgqrs_result (*queue_change)(void *self, const char *queue, const pgqrs_backend_queue_change *change);
    pgqrs_result (*queue_list)(void *self, const char *queue_or_null, int64_t after_id, size_t limit,
                               pgqrs_queues **out);
    pgqrs_result (*queue_delete)(void *self, int64_t now_us, const char *queue, bool force);
    pgqrs_result (*queue_purge)(void *self, int64_t now_us, const char *queue, const pgqrs_purge_desc *desc,
                                int64_t *removed);

    /* the hot path */
    pgqrs_result (*enqueue)(void *self, const pgqrs_backend_enqueue *request, pgqrs_receipt *receipts);
    pgqrs_result (*exchange)(void *self, pgqrs_backend_exchange *exchange);
    pgqrs_result (*extend)(void *self, const pgqrs_backend_extend *request);

    /* Waiting. begin: from now on an enqueue to the queue makes wait_fd readable, for about for_us; the engine claims once
     * more after it, so nothing slips through. fd: -1 when there is none. end: no more waiting; swallow what is pending. */
    pgqrs_result (*wait_begin)(void *self, int64_t now_us, const char *queue, int64_t for_us);
    int (*wait_fd)(void *self);
    void (*wait_end)(void *self);

    /* messages. list and get fill every member of pgqrs_message; filter is resolved (limit set) */
    pgqrs_result (*message_get)(void *self, int64_t now_us, int64_t id, pgqrs_message **out);
    pgqrs_result (*message_list)(void *self, int64_t now_us, const pgqrs_message_filter *filter, pgqrs_messages **out);
    pgqrs_result (*message_count)(void *self, int64_t now_us, const pgqrs_message_filter *filter, int64_t *count);
    pgqrs_result (*message_delete)(void *self, int64_t now_us, const int64_t *ids, size_t count, bool force,
                                   pgqrs_result *results);
    pgqrs_result (*message_update)(void *self, int64_t now_us, int64_t id, const char *payload, size_t payload_size);
    pgqrs_result (*message_replay)(void *self, int64_t now_us, const int64_t *ids, size_t count, pgqrs_result *results);

    /* workers */
    pgqrs_result (*worker_register)(void *self, int64_t now_us, const char *name, const char *queue_or_null,
                                    int64_t stale_us, int64_t epoch, pgqrs_worker_ref *out);
    pgqrs_result (*worker_change)(void *self, pgqrs_backend_worker_change *change);
    pgqrs_result (*worker_list)(void *self, int64_t now_us, int64_t id_or_0, const pgqrs_worker_filter *filter,
                                pgqrs_workers **out);
    pgqrs_result (*worker_count)(void *self, int64_t now_us, const pgqrs_worker_filter *filter, int64_t *count);
    pgqrs_result (*worker_release)(void *self, int64_t now_us, int64_t worker_id, const char *reason,
                                   int64_t *released);
    pgqrs_result (*worker_delete)(void *self, int64_t now_us, int64_t worker_id, bool force);
    pgqrs_result (*worker_reclaim)(void *self, int64_t now_us, const char *queue_or_null, int64_t older_than_us,
                                   const char *reason, int64_t *workers, int64_t *messages);
    pgqrs_result (*worker_purge)(void *self, int64_t now_us, int64_t older_than_us, int64_t *removed);

    /* numbers and housekeeping */
    pgqrs_result (*metrics)(void *self, int64_t now_us, const char *queue_or_null, pgqrs_metrics **out);
    pgqrs_result (*worker_stats)(void *self, int64_t now_us, const char *queue_or_null, int64_t stale_us,
                                 pgqrs_worker_stats *out);
    pgqrs_result (*maintain)(void *self, int64_t now_us, int64_t *changed);

    /* workflows. RUN_NOT_FOUND and WORKFLOW_NOT_FOUND where there is none, unless said otherwise */
    pgqrs_result (*workflow_create)(void *self, int64_t now_us, const char *workflow,
                                    const pgqrs_workflow_desc *settings, const pgqrs_queue_desc *queue, bool *created);
    pgqrs_result (*workflow_change)(void *self, const char *workflow, const pgqrs_workflow_desc *change);
    pgqrs_result (*workflow_list)(void *self, const char *workflow_or_null, int64_t after_id, size_t limit,
                                  pgqrs_workflows **out);
    /* Only one without runs (WORKFLOW_NOT_EMPTY); its queue too if it made it and nothing else is there */
    pgqrs_result (*workflow_delete)(void *self, int64_t now_us, const char *workflow);
    pgqrs_result (*trigger)(void *self, const pgqrs_backend_trigger *request, pgqrs_receipt *receipts);

    /* *out NULL: no run has this id. Its lease was just claimed by the caller */
    pgqrs_result (*run_load)(void *self, int64_t now_us, int64_t run_id, pgqrs_backend_run **out);
    pgqrs_result (*run_write)(void *self, pgqrs_backend_run_write *write);
    pgqrs_result (*run_list)(void *self, int64_t now_us, int64_t id_or_0, const pgqrs_run_filter *filter,
                             pgqrs_runs **out);
    pgqrs_result (*run_count)(void *self, int64_t now_us, const pgqrs_run_filter *filter, int64_t *count);
    pgqrs_result (*run_steps)(void *self, int64_t run_id, pgqrs_steps **out);
    pgqrs_result (*run_values)(void *self, int64_t run_id, pgqrs_run_values **out);
    /* An open run: nobody holds its message (a lease that is over counts as nobody): CANCELLED and the message archived; else the
     * request is noted once and *state is CANCELLING. An ended run: nothing, and *state is what it is */
    pgqrs_result (*run_cancel)(void *self, int64_t now_us, int64_t run_id, const char *by, const char *reason,
                               pgqrs_run_state *state);
    /* *accepted false and PGQRS_OK when there is one of this name. *state: of the run; ended: nothing stored */
    pgqrs_result (*run_send)(void *self, int64_t now_us, int64_t run_id, const char *event, const char *payload,
                             size_t payload_size, bool *accepted, pgqrs_run_state *state);
    /* Only of a run in PGQRS_RUN_ERROR, otherwise nothing and *state is what it is. Steps not done are removed, retries, wait, error,
     * finished_at and cancel cleared, deadline set anew, the message made deliverable like a replay */
    pgqrs_result (*run_restart)(void *self, int64_t now_us, int64_t run_id, pgqrs_run_state *state);
    /* A new run and message (priority of the old one) with copies of the steps that are done and whose number is below `before` */
    pgqrs_result (*run_fork)(void *self, int64_t now_us, int64_t run_id, int32_t before, const char *input_or_null,
                             size_t input_size, int64_t *new_run_id);
    pgqrs_result (*run_purge)(void *self, pgqrs_backend_run_purge *purge);
    /* Like wait_begin, for the end of a run; wait_fd and wait_end are shared */
    pgqrs_result (*run_wait_begin)(void *self, int64_t now_us, int64_t run_id, int64_t for_us);

    /* A transaction around other calls, for transactional steps: after BEGIN every call takes part until COMMIT or ROLLBACK, none is
     * repeated or reconnected. TRANSACTION when one is open already (a borrowed connection's too). After a COMMIT that failed nothing is
     * open any more; OUTCOME_UNKNOWN when it may have happened */
    pgqrs_result (*transaction)(void *self, pgqrs_backend_verb verb);
    struct pg_conn *(*pgconn)(void *self); /* NULL, or the member: not this backend's */
    struct sqlite3 *(*database)(void *self);
} pgqrs_backend;

/* Makes a backend known to pgqrs_open; the headers of the built-in ones do it before main where the compiler can (gcc,
 * clang, any C++), elsewhere call it first thing: pgqrs_backend_register(pgqrs_sqlite_backend()). Registering twice is
 * harmless. Not thread-safe. PGQRS_ERR_UNSUPPORTED: a table of a version this library does not know, or too many. */
PGQRS_API pgqrs_result pgqrs_backend_register(const pgqrs_backend *backend);

/* What the engine offers to backends. `store` is the one given to open. */
PGQRS_API void *pgqrs_backend_alloc(pgqrs_store *store, size_t size); /* zeroed; NULL: fails */
PGQRS_API void *pgqrs_backend_resize(pgqrs_store *store, void *pointer, size_t old_size, size_t new_size);
PGQRS_API void pgqrs_backend_free(pgqrs_store *store, void *pointer, size_t size);
/* Records the error of the running call and returns `code`. sqlstate may be NULL. The text names the thing and the cure. */
PGQRS_API pgqrs_result pgqrs_backend_fail(pgqrs_store *store, pgqrs_result code, int native_code, const char *sqlstate,
                                          const char *format, ...) PGQRSI_PRINTF(5, 6);
PGQRS_API void pgqrs_backend_log(pgqrs_store *store, pgqrs_log_level level, const char *format, ...)
    PGQRSI_PRINTF(3, 4);
PGQRS_API int64_t pgqrs_backend_clock(pgqrs_store *store); /* the clock hook, else this machine's wall clock; us */
PGQRS_API int64_t pgqrs_backend_monotonic(void);           /* us; never goes back */
PGQRS_API uint64_t pgqrs_backend_random(pgqrs_store *store);
PGQRS_API void pgqrs_backend_sleep(pgqrs_store *store, int64_t us); /* the sleeper hook, else the system's */
PGQRS_API void pgqrs_backend_observe(pgqrs_store *store, const pgqrs_event *event);
/* Result objects: one arena each, freed whole by pgqrs_free. new: the object itself, zeroed. alloc: zeroed memory that lives
 * as long, aligned for any type. text: a copy with a NUL; size -1: strlen; NULL stays NULL. reserve: makes the following
 * allocs up to `size` bytes come from one block. NULL back: no memory (not recorded). */
PGQRS_API void *pgqrs_backend_result_new(pgqrs_store *store, size_t size, size_t reserve);
PGQRS_API void *pgqrs_backend_result_alloc(void *result, size_t size);
PGQRS_API char *pgqrs_backend_result_text(void *result, const char *text, int64_t size);

#ifdef __cplusplus
}
#endif

#endif /* PGQRS_H */
/* The Postgres backend's table, in programs that include pgqrs.h itself. */
#if !defined(PGQRSI_CORE_ONLY) && !defined(PGQRSI_POSTGRES_DECLARED)
#define PGQRSI_POSTGRES_DECLARED
#ifdef __cplusplus
extern "C" {
#endif
PGQRS_API const pgqrs_backend *pgqrs_postgres_backend(void);
#ifdef __cplusplus
}
#endif
#endif

/* ==================================================================================================================
 *
 *  IMPLEMENTATION
 *
 * =============================================================================================================== */
#if defined(PGQRS_IMPLEMENTATION) && !defined(PGQRSI_ENGINE_DONE)
#define PGQRSI_ENGINE_DONE

/* ------------------------------------------------------------------------------------------------------------------
 * >>platform
 * --------------------------------------------------------------------------------------------------------------- */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if !defined(CLOCK_MONOTONIC)
#error                                                                                                                 \
    "pgqrs.h: POSIX is hidden. Include pgqrs first in the file that defines PGQRS_IMPLEMENTATION, or compile with -D_POSIX_C_SOURCE=200809L"
#endif

#define PGQRSI_US_PER_MS INT64_C(1000)
#define PGQRSI_US_PER_S INT64_C(1000000)
#define PGQRSI_YEAR_MS INT64_C(31557600000)
#define PGQRSI_LEASE_MAX_MS (10 * PGQRSI_YEAR_MS)
#define PGQRSI_DELAY_MAX_MS (100 * PGQRSI_YEAR_MS)
#define PGQRSI_TIME_MAX_US INT64_C(253402300800000000) /* the end of the year 9999, which every backend can store */
#define PGQRSI_NAME_MAX 255
#define PGQRSI_REASON_MAX 500
#define PGQRSI_LIST_MAX 1000
#define PGQRSI_LIST_DEFAULT 100
#define PGQRSI_CLAIM_MAX 10000
#define PGQRSI_STALE_DEFAULT_MS 60000

/* A flag that signal handlers and other threads may set. */
#if defined(__GNUC__) || defined(__clang__)
#define PGQRSI_FLAG_SET(flag, value) __atomic_store_n(&(flag), (value), __ATOMIC_SEQ_CST)
#define PGQRSI_FLAG_GET(flag) __atomic_load_n(&(flag), __ATOMIC_SEQ_CST)
#define PGQRSI_FLAG_TAKE(flag) __atomic_exchange_n(&(flag), 0, __ATOMIC_SEQ_CST)
#define PGQRSI_FLAG_TRY(flag) (__atomic_exchange_n(&(flag), 1, __ATOMIC_SEQ_CST) == 0)
#else
#define PGQRSI_FLAG_SET(flag, value) ((flag) = (value))
#define PGQRSI_FLAG_GET(flag) (flag)
#define PGQRSI_FLAG_TAKE(flag) ((flag) ? ((flag) = 0, 1) : 0)
#define PGQRSI_FLAG_TRY(flag) ((flag) ? false : ((flag) = 1, true))
#endif

static pgqrs_result pgqrsi_error_set(pgqrs_error *err, pgqrs_result code, const char *format, ...) PGQRSI_PRINTF(3, 4);

static int64_t pgqrsi_timespec_us(const struct timespec *time)
{
    return (int64_t)time->tv_sec * PGQRSI_US_PER_S + (int64_t)time->tv_nsec / 1000;
}

static int64_t pgqrsi_monotonic_us(void)
{
    struct timespec time = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return pgqrsi_timespec_us(&time);
}

static int64_t pgqrsi_wall_us(void)
{
    struct timespec time = {0, 0};
    clock_gettime(CLOCK_REALTIME, &time);
    return pgqrsi_timespec_us(&time);
}

static void pgqrsi_nap_us(int64_t us)
{
    struct timespec time;
    time.tv_sec = (time_t)(us / PGQRSI_US_PER_S);
    time.tv_nsec = (long)(us % PGQRSI_US_PER_S) * 1000;
    if (us > 0) nanosleep(&time, NULL);
}

/* splitmix64: any state gives a full-period sequence, so a weak seed still gives distinct tokens. */
static uint64_t pgqrsi_random_step(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t pgqrsi_random_seed(const void *salt)
{
    uint64_t seed = 0;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t got = read(fd, &seed, sizeof seed);
        close(fd);
        if (got == (ssize_t)sizeof seed) return seed;
    }
    return (uint64_t)pgqrsi_monotonic_us() ^ ((uint64_t)getpid() << 32) ^ (uint64_t)(uintptr_t)salt ^
           ((uint64_t)pgqrsi_wall_us() << 13);
}

/* The pipe that lets pgqrs_stop end a poll(2): writing one byte is all a signal handler may do. */
static bool pgqrsi_pipe_open(int fds[2])
{
    if (pipe(fds) != 0) {
        fds[0] = fds[1] = -1;
        return false;
    }
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    return true;
}

static void pgqrsi_pipe_close(int fds[2])
{
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0) close(fds[i]);
}

static void pgqrsi_pipe_signal(const int fds[2])
{
    int saved = errno;
    ssize_t written = write(fds[1], "", 1); /* a full pipe is as good: it is readable already */
    (void)written;
    errno = saved;
}

static void pgqrsi_pipe_drain(const int fds[2])
{
    char bytes[64];
    while (read(fds[0], bytes, sizeof bytes) > 0) {
    }
}

static bool pgqrsi_readable(int fd)
{
    struct pollfd pending;
    pending.fd = fd;
    pending.events = POLLIN;
    pending.revents = 0;
    return fd >= 0 && poll(&pending, 1, 0) > 0;
}

/* Waits until one of two descriptors is readable (either may be -1) or the time is over. */
static void pgqrsi_poll_us(int fd_a, int fd_b, int64_t timeout_us)
{
    struct pollfd fds[2];
    nfds_t count = 0;
    int64_t timeout_ms = (timeout_us + PGQRSI_US_PER_MS - 1) / PGQRSI_US_PER_MS;
    if (fd_a >= 0) {
        fds[count].fd = fd_a;
        fds[count].events = POLLIN;
        fds[count++].revents = 0;
    }
    if (fd_b >= 0) {
        fds[count].fd = fd_b;
        fds[count].events = POLLIN;
        fds[count++].revents = 0;
    }
    if (timeout_ms > 60000) timeout_ms = 60000;
    poll(fds, count, timeout_ms < 0 ? 0 : (int)timeout_ms);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>memory
 * --------------------------------------------------------------------------------------------------------------- */

static void *pgqrsi_mem_default(void *pointer, size_t old_size, size_t new_size, void *user)
{
    (void)old_size;
    (void)user;
    if (new_size == 0) {
        free(pointer);
        return NULL;
    }
    return realloc(pointer, new_size);
}

static pgqrs_allocator pgqrsi_mem_resolve(const pgqrs_allocator *allocator)
{
    pgqrs_allocator resolved = {pgqrsi_mem_default, NULL};
    return allocator && allocator->resize ? *allocator : resolved;
}

static void *pgqrsi_mem_resize(const pgqrs_allocator *allocator, void *pointer, size_t old_size, size_t new_size)
{
    return allocator->resize(pointer, old_size, new_size, allocator->user);
}

static void *pgqrsi_mem_alloc(const pgqrs_allocator *allocator, size_t size)
{
    void *pointer = pgqrsi_mem_resize(allocator, NULL, 0, size);
    if (pointer) memset(pointer, 0, size);
    return pointer;
}

static void pgqrsi_mem_free(const pgqrs_allocator *allocator, void *pointer, size_t size)
{
    if (pointer) (void)pgqrsi_mem_resize(allocator, pointer, size, 0);
}

/* A result object is an arena whose first allocation is the object itself. The header stands right before the object, so
 * that pgqrs_free needs nothing but the pointer, and carries its own copy of the allocator, so that results may outlive
 * their store. */
typedef union pgqrsi_align {
    int64_t number;
    double real;
    void *pointer;
    void (*function)(void);
} pgqrsi_align;

typedef struct pgqrsi_block {
    struct pgqrsi_block *next;
    size_t size; /* of the block with this header */
    size_t used;
} pgqrsi_block;

typedef struct pgqrsi_result_header {
    pgqrs_allocator allocator;
    pgqrsi_block *blocks; /* the newest first; the last one in the list holds this header */
    pgqrsi_align end;
} pgqrsi_result_header;

#define PGQRSI_ROUND(size) (((size) + sizeof(pgqrsi_align) - 1) / sizeof(pgqrsi_align) * sizeof(pgqrsi_align))
#define PGQRSI_BLOCK_HEADER PGQRSI_ROUND(sizeof(pgqrsi_block))
#define PGQRSI_RESULT_HEADER PGQRSI_ROUND(sizeof(pgqrsi_result_header))
#define PGQRSI_BLOCK_MIN 1024

static pgqrsi_block *pgqrsi_block_new(const pgqrs_allocator *allocator, size_t payload)
{
    if (payload > SIZE_MAX / 2) return NULL;
    size_t size = PGQRSI_BLOCK_HEADER + payload;
    pgqrsi_block *block = (pgqrsi_block *)pgqrsi_mem_alloc(allocator, size);
    if (block) {
        block->size = size;
        block->used = PGQRSI_BLOCK_HEADER;
    }
    return block;
}

static void *pgqrsi_block_take(pgqrsi_block *block, size_t size)
{
    if (block->size - block->used < size) return NULL;
    void *taken = (char *)block + block->used;
    block->used += size;
    return taken;
}

static void *pgqrsi_result_new(const pgqrs_allocator *allocator, size_t size, size_t reserve)
{
    size_t object = PGQRSI_RESULT_HEADER + PGQRSI_ROUND(size);
    if (reserve > SIZE_MAX / 4 || size > SIZE_MAX / 4) return NULL;
    reserve += reserve ? PGQRSI_RESULT_HEADER + PGQRSI_ROUND(sizeof(pgqrs_message)) : 0;
    pgqrsi_block *block = pgqrsi_block_new(allocator, object + PGQRSI_ROUND(reserve));
    if (!block) return NULL;
    pgqrsi_result_header *header = (pgqrsi_result_header *)pgqrsi_block_take(block, object);
    header->allocator = *allocator;
    header->blocks = block;
    return (char *)header + PGQRSI_RESULT_HEADER;
}

static pgqrsi_result_header *pgqrsi_result_head(void *result)
{
    return (pgqrsi_result_header *)(void *)((char *)result - PGQRSI_RESULT_HEADER);
}

static void *pgqrsi_result_alloc(void *result, size_t size)
{
    pgqrsi_result_header *header = pgqrsi_result_head(result);
    if (size > SIZE_MAX / 4) return NULL;
    size = PGQRSI_ROUND(size ? size : 1);
    void *taken = pgqrsi_block_take(header->blocks, size);
    if (taken) return taken;
    size_t grown = header->blocks->size * 2 > PGQRSI_BLOCK_MIN ? header->blocks->size * 2 : PGQRSI_BLOCK_MIN;
    pgqrsi_block *block = pgqrsi_block_new(&header->allocator, size > grown ? size : grown);
    if (!block) return NULL;
    block->next = header->blocks;
    header->blocks = block;
    return pgqrsi_block_take(block, size);
}

static char *pgqrsi_result_text(void *result, const char *text, int64_t size)
{
    if (!text) return NULL;
    size_t length = size < 0 ? strlen(text) : (size_t)size;
    char *copy = (char *)pgqrsi_result_alloc(result, length + 1);
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

/* A second object in the same arena that can be freed in place of the first one; nothing may be added to either after it.
 * Room for it is part of every reserve, so it rarely costs an allocation. */
static void *pgqrsi_result_alias(void *result, size_t size)
{
    pgqrsi_result_header *header = (pgqrsi_result_header *)pgqrsi_result_alloc(result, PGQRSI_RESULT_HEADER + size);
    if (!header) return NULL;
    *header = *pgqrsi_result_head(result);
    return (char *)header + PGQRSI_RESULT_HEADER;
}

static void pgqrsi_result_free(void *result)
{
    pgqrsi_result_header *header = pgqrsi_result_head(result);
    pgqrs_allocator allocator = header->allocator; /* the header goes with the last block */
    pgqrsi_block *block = header->blocks;
    while (block) {
        pgqrsi_block *next = block->next;
        pgqrsi_mem_free(&allocator, block, block->size);
        block = next;
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>text
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_SCHEMA_NAME_MAX 63

/* Bytes of the UTF-8 sequence that text[0..size) starts with, size at least 1; 0 when it is not a valid one: cut off,
 * longer than needed, a surrogate, or beyond U+10FFFF. */
static size_t pgqrsi_utf8_step(const char *text, size_t size)
{
    unsigned char lead = (unsigned char)text[0];
    unsigned char low = 0x80, high = 0xBF; /* what the second byte may be */
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return 0;
    size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (size < length) return 0;
    if (lead == 0xE0)
        low = 0xA0;
    else if (lead == 0xED)
        high = 0x9F;
    else if (lead == 0xF0)
        low = 0x90;
    else if (lead == 0xF4)
        high = 0x8F;
    unsigned char second = (unsigned char)text[1];
    if (second < low || second > high) return 0;
    for (size_t i = 2; i < length; i++)
        if (((unsigned char)text[i] & 0xC0) != 0x80) return 0;
    return length;
}

static bool pgqrsi_utf8_valid(const char *text, size_t size, size_t *bad_offset)
{
    size_t at = 0;
    while (at < size) {
        size_t step = pgqrsi_utf8_step(text + at, size - at);
        if (step == 0) {
            if (bad_offset) *bad_offset = at;
            return false;
        }
        at += step;
    }
    return true;
}

/* A control character (U+0000 to U+001F, U+007F to U+009F) starts here. */
static bool pgqrsi_is_control(const char *text, size_t size)
{
    unsigned char first = (unsigned char)text[0];
    if (first < 0x20 || first == 0x7F) return true;
    return first == 0xC2 && size > 1 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] <= 0x9F;
}

static bool pgqrsi_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool pgqrsi_is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Unlike tolower, the same in every locale. */
static char pgqrsi_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool pgqrsi_equal_nocase(const char *text, size_t size, const char *word)
{
    for (size_t i = 0; i < size; i++)
        if (word[i] == '\0' || pgqrsi_lower(text[i]) != word[i]) return false;
    return word[size] == '\0';
}

/* Is text[0..size) this word? `text` may be NULL when size is 0. */
static bool pgqrsi_equal(const char *text, size_t size, const char *word)
{
    size_t length = strlen(word);
    return length == size && (size == 0 || memcmp(text, word, size) == 0);
}

/* For messages: a copy that fits and stays on one line. Control characters and broken UTF-8 become '?', what does not
 * fit is cut between characters and marked with dots. */
static void pgqrsi_text_show(const char *text, size_t length, char *out, size_t size)
{
    size_t used = 0, fits = 0, at = 0;
    if (size == 0) return;
    while (at < length) {
        size_t step = pgqrsi_utf8_step(text + at, length - at);
        bool plain = step > 0 && !pgqrsi_is_control(text + at, length - at);
        size_t bytes = plain ? step : 1;
        if (used + bytes >= size) break;
        if (plain)
            memcpy(out + used, text + at, bytes);
        else
            out[used] = '?';
        used += bytes;
        at += step ? step : 1;
        if (used + 3 < size) fits = used;
    }
    if (at < length && size > 3) {
        memcpy(out + fits, "...", 3);
        used = fits + 3;
    }
    out[used] = '\0';
}

/* A whole number as people write it: no plus sign, no spaces, no needless zeros. */
static bool pgqrsi_parse_int64(const char *text, size_t size, int64_t *out)
{
    bool negative = size > 0 && text[0] == '-';
    size_t at = negative ? 1 : 0;
    uint64_t limit = (uint64_t)INT64_MAX + (negative ? 1 : 0);
    uint64_t value = 0;
    if (at == size || (text[at] == '0' && size - at > 1)) return false;
    for (; at < size; at++) {
        if (!pgqrsi_is_digit(text[at])) return false;
        uint64_t digit = (uint64_t)(text[at] - '0');
        if (value > (limit - digit) / 10) return false;
        value = value * 10 + digit;
    }
    if (!negative)
        *out = (int64_t)value;
    else
        *out = value == limit ? INT64_MIN : -(int64_t)value;
    return true;
}

/* Queue, worker, key and producer names; `what` says which one it is. */
static pgqrs_result pgqrsi_check_name(const char *what, const char *name, pgqrs_error *err)
{
    if (!name)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "%s is NULL: give a name of 1 to %d bytes", what,
                                PGQRSI_NAME_MAX);
    size_t size = strlen(name), at = 0;
    if (size == 0)
        return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME, "%s is empty: give a name of 1 to %d bytes", what,
                                PGQRSI_NAME_MAX);
    if (size > PGQRSI_NAME_MAX)
        return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME, "%s has %zu bytes: at most %d are allowed", what, size,
                                PGQRSI_NAME_MAX);
    while (at < size) {
        size_t step = pgqrsi_utf8_step(name + at, size - at);
        if (step == 0) return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME, "%s is not UTF-8: see its byte %zu", what, at);
        if (pgqrsi_is_control(name + at, size - at))
            return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME,
                                    "%s has a control character at byte %zu: these are not allowed", what, at);
        at += step;
    }
    return PGQRS_OK;
}

/* Narrower than what Postgres takes in quotes, so that people can type the name anywhere. */
static pgqrs_result pgqrsi_check_schema_name(const char *name, pgqrs_error *err)
{
    if (!name) return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "the schema name is NULL");
    size_t size = strlen(name);
    if (size == 0) return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME, "the schema name cannot be empty");
    if (size > PGQRSI_SCHEMA_NAME_MAX)
        return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME,
                                "the schema name has %zu bytes, which exceeds the maximum length of %d", size,
                                PGQRSI_SCHEMA_NAME_MAX);
    if (!pgqrsi_is_letter(name[0]) && name[0] != '_')
        return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME,
                                "the schema name must start with a letter or underscore (ASCII letters only)");
    if (strncmp(name, "pg_", 3) == 0)
        return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME,
                                "the schema name must not start with pg_, which Postgres keeps for itself");
    for (size_t i = 1; i < size; i++)
        if (!pgqrsi_is_letter(name[i]) && !pgqrsi_is_digit(name[i]) && name[i] != '_' && name[i] != '$')
            return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME,
                                    "the schema name has an invalid character at byte %zu: letters, digits, _ and $ "
                                    "are allowed",
                                    i);
    return PGQRS_OK;
}

/* Length of the scheme before the first colon, 0 when there is none. */
static size_t pgqrsi_dsn_scheme(const char *dsn)
{
    size_t at = 0;
    if (!dsn || !pgqrsi_is_letter(dsn[0])) return 0;
    while (pgqrsi_is_letter(dsn[at]) || pgqrsi_is_digit(dsn[at]) || dsn[at] == '+' || dsn[at] == '-' || dsn[at] == '.')
        at++;
    return dsn[at] == ':' ? at : 0;
}

/* Redaction errs on the side of hiding. A DSN that is shown is often one that could not be understood, so there is no
 * grammar to rely on; what is hidden is
 *   - between the first colon after the scheme and the last @,
 *   - without an @: what stands where a port should, but is no number,
 *   - the value of the first parameter that sounds secret, and all that follows it.
 */

static int pgqrsi_hex_digit(char c)
{
    if (pgqrsi_is_digit(c)) return c - '0';
    c = pgqrsi_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* key[0..size) is lower case. */
static bool pgqrsi_sounds_secret(const char *key, size_t size)
{
    static const char *const words[] = {"pass", "pwd", "secret", "token", "key", "cred", "auth", "signature"};
    for (size_t word = 0; word < sizeof words / sizeof words[0]; word++) {
        size_t length = strlen(words[word]);
        for (size_t at = 0; at + length <= size; at++)
            if (memcmp(key + at, words[word], length) == 0) return true;
    }
    return false;
}

/* Does the parameter name right before dsn[end], the equals sign, sound secret? Names may be percent-encoded. */
static bool pgqrsi_dsn_secret_key(const char *dsn, size_t end)
{
    char key[64];
    size_t used = 0, start;
    while (end > 0 && (dsn[end - 1] == ' ' || dsn[end - 1] == '\t'))
        end--;
    start = end;
    while (start > 0 && (pgqrsi_is_letter(dsn[start - 1]) || pgqrsi_is_digit(dsn[start - 1]) ||
                         (dsn[start - 1] != '\0' && strchr("_.-%+", dsn[start - 1]))))
        start--;
    for (size_t at = start; at < end; at++) {
        char c = dsn[at];
        if (used == sizeof key) return true; /* nobody names a parameter like this */
        if (c == '%' && end - at > 2 && pgqrsi_hex_digit(dsn[at + 1]) >= 0 && pgqrsi_hex_digit(dsn[at + 2]) >= 0) {
            c = (char)(pgqrsi_hex_digit(dsn[at + 1]) * 16 + pgqrsi_hex_digit(dsn[at + 2]));
            at += 2;
        }
        key[used++] = pgqrsi_lower(c);
    }
    return pgqrsi_sounds_secret(key, used);
}

/* Where the value of the first secret parameter starts; `length` when there is none. */
static size_t pgqrsi_dsn_secret_value(const char *dsn, size_t length)
{
    for (size_t at = 0; at < length; at++)
        if (dsn[at] == '=' && pgqrsi_dsn_secret_key(dsn, at)) return at + 1;
    return length;
}

/* The colon at `at` is followed by digits only, up to the end of what may be a port. */
static bool pgqrsi_dsn_port(const char *dsn, size_t at)
{
    at++;
    while (pgqrsi_is_digit(dsn[at]))
        at++;
    return dsn[at] == '\0' || strchr(",/?#", dsn[at]) != NULL;
}

/* Without an @: the first colon that does not stand before a port; `length` when there is none. */
static size_t pgqrsi_dsn_no_port(const char *dsn, size_t from, size_t length)
{
    bool bracket = false; /* inside of an IPv6 address */
    for (size_t at = from; at < length && !strchr("/?#", dsn[at]); at++) {
        if (dsn[at] == '[')
            bracket = true;
        else if (dsn[at] == ']')
            bracket = false;
        else if (dsn[at] == ':' && !bracket && !pgqrsi_dsn_port(dsn, at))
            return at;
    }
    return length;
}

static bool pgqrsi_dsn_is_file(const char *dsn, size_t scheme)
{
    return pgqrsi_equal_nocase(dsn, scheme, "sqlite") || pgqrsi_equal_nocase(dsn, scheme, "turso");
}

/* Finds what to hide besides parameters: dsn[*from..*until). Nothing: both are `secret`, the start of the first secret
 * parameter's value or the end. */
static void pgqrsi_dsn_userinfo(const char *dsn, size_t length, size_t secret, size_t *from, size_t *until)
{
    size_t scheme = pgqrsi_dsn_scheme(dsn), start = 0, last_at = length, colon;
    bool hidden_at = false; /* an @ behind the start of the secret parameter: was it the end of the userinfo? */
    if (scheme > 0) start = strncmp(dsn + scheme, "://", 3) == 0 ? scheme + 3 : scheme;
    for (size_t at = start; at < length; at++) {
        if (dsn[at] == '@' && at < secret)
            last_at = at;
        else if (dsn[at] == '@')
            hidden_at = true;
    }
    *from = *until = secret;
    if (hidden_at || last_at < length) {
        colon = start;
        while (colon < secret && dsn[colon] != ':')
            colon++;
        if (colon < secret && (hidden_at || colon < last_at)) {
            *from = colon + 1;
            *until = hidden_at ? length : last_at;
        }
    } else if (!(scheme > 0 && pgqrsi_dsn_is_file(dsn, scheme))) {
        colon = pgqrsi_dsn_no_port(dsn, start, secret);
        if (colon < secret) {
            *from = colon + 1;
            *until = length;
        }
    }
}

/* A copy for messages: scheme, user, host and path stay readable, secrets become ***. */
static void pgqrsi_dsn_redact(const char *dsn, char *out, size_t size)
{
    size_t used = 0, from, until;
    if (size == 0) return;
    if (!dsn) dsn = "(none)";
    size_t length = strlen(dsn), secret = pgqrsi_dsn_secret_value(dsn, length);
    pgqrsi_dsn_userinfo(dsn, length, secret, &from, &until);
    size_t pieces[2][2] = {{0, from}, {until, secret}};
    bool stars[2];
    stars[0] = from < until || (from == until && from < secret);
    stars[1] = secret < length && until <= secret;
    for (size_t piece = 0; piece < 2; piece++) {
        size_t begin = pieces[piece][0], end = pieces[piece][1];
        if (begin < end && used + 1 < size) {
            pgqrsi_text_show(dsn + begin, end - begin, out + used, size - used);
            used += strlen(out + used);
        }
        if (stars[piece] && used + 3 < size) {
            memcpy(out + used, "***", 3);
            used += 3;
        }
    }
    out[used] = '\0';
}
/* ------------------------------------------------------------------------------------------------------------------
 * >>json
 * The built-in parser: all of RFC 8259 and nothing else. It keeps one bit per open object or array instead of calling
 * itself, so depth costs memory of the allocator and never stack.
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_JSON_NO_MEMORY SIZE_MAX /* as *error_offset: it was not the text's fault */
#define PGQRSI_JSON_STACK_BYTES 32
#define PGQRSI_JSON_SCRATCH_BYTES 256

typedef enum pgqrsi_json_due {
    PGQRSI_JSON_VALUE = 1,
    PGQRSI_JSON_VALUE_OR_END = 2, /* after [ */
    PGQRSI_JSON_KEY_DUE = 3,
    PGQRSI_JSON_KEY_OR_END = 4, /* after { */
    PGQRSI_JSON_COMMA_OR_END = 5
} pgqrsi_json_due;

typedef struct pgqrsi_json_reader {
    const char *text;
    size_t size;
    size_t at; /* after a failure: where */
    pgqrs_json_report report;
    void *context;
    const pgqrs_allocator *allocator;
    unsigned char *stack; /* one bit for each level: 1 for an object */
    size_t stack_bytes;
    size_t depth;
    char *scratch; /* a string whose escapes are being decoded */
    size_t scratch_bytes;
    size_t scratch_used;
    unsigned char first_stack[PGQRSI_JSON_STACK_BYTES];
    char first_scratch[PGQRSI_JSON_SCRATCH_BYTES];
} pgqrsi_json_reader;

static bool pgqrsi_json_fail(pgqrsi_json_reader *reader, size_t at)
{
    reader->at = at;
    return false;
}

/* Doubles a buffer until it holds `needed`; the first one is a part of the reader and is not freed. NULL: no memory. */
static void *pgqrsi_json_grow(pgqrsi_json_reader *reader, void *buffer, const void *first, size_t *bytes, size_t needed)
{
    size_t grown = *bytes;
    void *larger;
    while (grown < needed)
        grown = grown > SIZE_MAX / 2 ? needed : grown * 2;
    if (buffer == first) {
        larger = pgqrsi_mem_alloc(reader->allocator, grown);
        if (larger) memcpy(larger, first, *bytes);
    } else {
        larger = pgqrsi_mem_resize(reader->allocator, buffer, *bytes, grown);
    }
    if (larger)
        *bytes = grown;
    else
        reader->at = PGQRSI_JSON_NO_MEMORY;
    return larger;
}

static bool pgqrsi_json_push(pgqrsi_json_reader *reader, bool object)
{
    size_t byte = reader->depth / 8;
    unsigned char bit = (unsigned char)(1u << (reader->depth % 8));
    if (byte == reader->stack_bytes) {
        void *larger = pgqrsi_json_grow(reader, reader->stack, reader->first_stack, &reader->stack_bytes, byte + 1);
        if (!larger) return false;
        reader->stack = (unsigned char *)larger;
    }
    if (object)
        reader->stack[byte] = (unsigned char)(reader->stack[byte] | bit);
    else
        reader->stack[byte] = (unsigned char)(reader->stack[byte] & ~bit);
    reader->depth++;
    return true;
}

static bool pgqrsi_json_in_object(const pgqrsi_json_reader *reader)
{
    size_t level = reader->depth - 1;
    return (reader->stack[level / 8] >> (level % 8) & 1) != 0;
}

static bool pgqrsi_json_append(pgqrsi_json_reader *reader, const char *bytes, size_t count)
{
    size_t needed = reader->scratch_used + count;
    if (needed > reader->scratch_bytes) {
        void *larger = pgqrsi_json_grow(reader, reader->scratch, reader->first_scratch, &reader->scratch_bytes, needed);
        if (!larger) return false;
        reader->scratch = (char *)larger;
    }
    if (count > 0) memcpy(reader->scratch + reader->scratch_used, bytes, count);
    reader->scratch_used = needed;
    return true;
}

static void pgqrsi_json_space(pgqrsi_json_reader *reader)
{
    while (reader->at < reader->size) {
        char c = reader->text[reader->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
        reader->at++;
    }
}

/* The first byte that needs a look: not ASCII, a control character, a quote or a backslash. Eight bytes at a time. */
static size_t pgqrsi_json_skip_plain(const char *text, size_t at, size_t size)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = UINT64_C(0x8080808080808080);
    while (size - at >= 8) {
        uint64_t word, quote, backslash;
        memcpy(&word, text + at, 8);
        quote = word ^ (ones * '"');
        backslash = word ^ (ones * '\\');
        /* The high bit of a byte is set when that byte is zero (quote, backslash) or below a space; borrows can only
         * add bits after a true one, so "any" is exact. */
        uint64_t special = ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash);
        special |= ((word - ones * ' ') & ~word) | word;
        if (special & high) break;
        at += 8;
    }
    while (at < size) {
        unsigned char c = (unsigned char)text[at];
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\') break;
        at++;
    }
    return at;
}

/* Reads the four hexadecimal digits at reader->at. */
static bool pgqrsi_json_hex(pgqrsi_json_reader *reader, uint32_t *unit)
{
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        int digit = reader->at < reader->size ? pgqrsi_hex_digit(reader->text[reader->at]) : -1;
        if (digit < 0) return false;
        *unit = *unit * 16 + (uint32_t)digit;
        reader->at++;
    }
    return true;
}

static size_t pgqrsi_utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* What follows \u; the half of a surrogate pair alone is no character. */
static bool pgqrsi_json_unicode(pgqrsi_json_reader *reader, uint32_t *code)
{
    uint32_t low;
    if (!pgqrsi_json_hex(reader, code) || (*code >= 0xDC00 && *code <= 0xDFFF)) return false;
    if (*code < 0xD800 || *code > 0xDFFF) return true;
    if (reader->size - reader->at < 6 || reader->text[reader->at] != '\\' || reader->text[reader->at + 1] != 'u')
        return false;
    reader->at += 2;
    if (!pgqrsi_json_hex(reader, &low) || low < 0xDC00 || low > 0xDFFF) return false;
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return true;
}

/* Decodes the escape whose backslash is at reader->at. */
static bool pgqrsi_json_escape(pgqrsi_json_reader *reader)
{
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    size_t start = reader->at, count = 1;
    char decoded[4];
    if (reader->size - start < 2) return pgqrsi_json_fail(reader, reader->size);
    char kind = reader->text[start + 1];
    reader->at = start + 2;
    if (kind == 'u') {
        uint32_t code;
        if (!pgqrsi_json_unicode(reader, &code))
            return pgqrsi_json_fail(reader, reader->at == reader->size ? reader->size : start);
        count = pgqrsi_utf8_encode(code, decoded);
    } else {
        const char *found = kind == '\0' ? NULL : strchr(escapes, kind);
        if (!found) return pgqrsi_json_fail(reader, start);
        decoded[0] = meanings[found - escapes];
    }
    return pgqrsi_json_append(reader, decoded, count);
}

/* Reads the string whose opening quote is at reader->at. Without escapes it is reported where it stands. */
static bool pgqrsi_json_string(pgqrsi_json_reader *reader, pgqrs_json_event event)
{
    const char *text = reader->text;
    size_t size = reader->size, start = reader->at + 1, at = start;
    bool escaped = false;
    for (;;) {
        at = pgqrsi_json_skip_plain(text, at, size);
        if (at == size) return pgqrsi_json_fail(reader, size);
        unsigned char c = (unsigned char)text[at];
        if (c == '"') break;
        if (c >= 0x80) {
            size_t step = pgqrsi_utf8_step(text + at, size - at);
            if (step == 0) return pgqrsi_json_fail(reader, at);
            at += step;
            continue;
        }
        if (c != '\\') return pgqrsi_json_fail(reader, at);
        if (!escaped) reader->scratch_used = 0;
        escaped = true;
        reader->at = at;
        if (!pgqrsi_json_append(reader, text + start, at - start) || !pgqrsi_json_escape(reader)) return false;
        start = at = reader->at;
    }
    reader->at = at + 1;
    if (!escaped) return reader->report(event, text + start, at - start, reader->context);
    if (!pgqrsi_json_append(reader, text + start, at - start)) return false;
    return reader->report(event, reader->scratch, reader->scratch_used, reader->context);
}

/* At least one digit, from reader->at. */
static bool pgqrsi_json_digits(pgqrsi_json_reader *reader)
{
    size_t start = reader->at;
    while (reader->at < reader->size && pgqrsi_is_digit(reader->text[reader->at]))
        reader->at++;
    return reader->at > start;
}

static bool pgqrsi_json_take(pgqrsi_json_reader *reader, char c)
{
    if (reader->at == reader->size || reader->text[reader->at] != c) return false;
    reader->at++;
    return true;
}

static bool pgqrsi_json_number(pgqrsi_json_reader *reader)
{
    size_t start = reader->at;
    pgqrsi_json_take(reader, '-');
    if (!pgqrsi_json_take(reader, '0') && !pgqrsi_json_digits(reader)) return false;
    if (pgqrsi_json_take(reader, '.') && !pgqrsi_json_digits(reader)) return false;
    if (pgqrsi_json_take(reader, 'e') || pgqrsi_json_take(reader, 'E')) {
        if (!pgqrsi_json_take(reader, '+')) pgqrsi_json_take(reader, '-');
        if (!pgqrsi_json_digits(reader)) return false;
    }
    return reader->report(PGQRS_JSON_NUMBER, reader->text + start, reader->at - start, reader->context);
}

static bool pgqrsi_json_literal(pgqrsi_json_reader *reader, const char *word)
{
    size_t start = reader->at;
    for (; *word; word++)
        if (!pgqrsi_json_take(reader, *word)) return false;
    return reader->report(PGQRS_JSON_LITERAL, reader->text + start, reader->at - start, reader->context);
}

/* Reads a value, or only the opening bracket of one, and says what is due after it. */
static bool pgqrsi_json_value(pgqrsi_json_reader *reader, pgqrsi_json_due *due)
{
    char c = reader->text[reader->at];
    *due = PGQRSI_JSON_COMMA_OR_END;
    switch (c) {
    case '"':
        return pgqrsi_json_string(reader, PGQRS_JSON_STRING);
    case 't':
        return pgqrsi_json_literal(reader, "true");
    case 'f':
        return pgqrsi_json_literal(reader, "false");
    case 'n':
        return pgqrsi_json_literal(reader, "null");
    case '{':
        *due = PGQRSI_JSON_KEY_OR_END;
        break;
    case '[':
        *due = PGQRSI_JSON_VALUE_OR_END;
        break;
    default:
        return pgqrsi_json_number(reader);
    }
    if (!pgqrsi_json_push(reader, c == '{')) return false;
    reader->at++;
    return reader->report(c == '{' ? PGQRS_JSON_OBJECT_BEGIN : PGQRS_JSON_ARRAY_BEGIN, NULL, 0, reader->context);
}

/* Reads a key and its colon. */
static bool pgqrsi_json_key(pgqrsi_json_reader *reader)
{
    if (reader->text[reader->at] != '"' || !pgqrsi_json_string(reader, PGQRS_JSON_KEY)) return false;
    pgqrsi_json_space(reader);
    return pgqrsi_json_take(reader, ':');
}

static bool pgqrsi_json_document(pgqrsi_json_reader *reader)
{
    pgqrsi_json_due due = PGQRSI_JSON_VALUE;
    for (;;) {
        pgqrsi_json_space(reader);
        if (due == PGQRSI_JSON_COMMA_OR_END && reader->depth == 0) return reader->at == reader->size;
        if (reader->at == reader->size) return false;
        char c = reader->text[reader->at];
        if (due != PGQRSI_JSON_VALUE && due != PGQRSI_JSON_KEY_DUE) {
            bool object = pgqrsi_json_in_object(reader);
            if (c == (object ? '}' : ']')) {
                reader->at++;
                reader->depth--;
                due = PGQRSI_JSON_COMMA_OR_END;
                if (!reader->report(object ? PGQRS_JSON_OBJECT_END : PGQRS_JSON_ARRAY_END, NULL, 0, reader->context))
                    return false;
                continue;
            }
            if (due == PGQRSI_JSON_COMMA_OR_END) {
                if (!pgqrsi_json_take(reader, ',')) return false;
                due = object ? PGQRSI_JSON_KEY_DUE : PGQRSI_JSON_VALUE;
                continue;
            }
        }
        if (due == PGQRSI_JSON_KEY_DUE || due == PGQRSI_JSON_KEY_OR_END) {
            if (!pgqrsi_json_key(reader)) return false;
            due = PGQRSI_JSON_VALUE;
        } else if (!pgqrsi_json_value(reader, &due)) {
            return false;
        }
    }
}

/* The default of the JSON hook; `user` is the allocator (NULL: the default one). Out of memory: *error_offset is
 * PGQRSI_JSON_NO_MEMORY. */
static bool pgqrsi_json_parse(const char *text, size_t size, pgqrs_json_report report, void *context,
                              size_t *error_offset, void *user)
{
    pgqrsi_json_reader reader;
    pgqrs_allocator allocator = pgqrsi_mem_resolve((const pgqrs_allocator *)user);
    reader.text = text;
    reader.size = size;
    reader.at = 0;
    reader.report = report;
    reader.context = context;
    reader.allocator = &allocator;
    reader.stack = reader.first_stack;
    reader.stack_bytes = sizeof reader.first_stack;
    reader.depth = 0;
    reader.scratch = reader.first_scratch;
    reader.scratch_bytes = sizeof reader.first_scratch;
    reader.scratch_used = 0;
    memset(reader.first_stack, 0, sizeof reader.first_stack);
    bool fine = pgqrsi_json_document(&reader);
    if (reader.stack != reader.first_stack) pgqrsi_mem_free(&allocator, reader.stack, reader.stack_bytes);
    if (reader.scratch != reader.first_scratch) pgqrsi_mem_free(&allocator, reader.scratch, reader.scratch_bytes);
    if (!fine && error_offset) *error_offset = reader.at;
    return fine;
}
/* ------------------------------------------------------------------------------------------------------------------
 * >>validation
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_DEFAULT_PAYLOAD_BYTES 1048576
#define PGQRSI_DEFAULT_DEPTH 64
#define PGQRSI_ATTEMPTS_MAX 32767
#define PGQRSI_SHOWN_KEY 96 /* bytes of a configured key that fit into a message */

PGQRS_API pgqrs_validation pgqrs_validation_strict(void)
{
    static const char *const forbidden[] = {"__proto__", "constructor"};
    pgqrs_validation rules;
    memset(&rules, 0, sizeof rules);
    rules.max_payload_bytes = PGQRSI_DEFAULT_PAYLOAD_BYTES;
    rules.max_depth = 5;
    rules.max_string_bytes = 1024;
    rules.forbidden_keys = forbidden;
    rules.forbidden_key_count = sizeof forbidden / sizeof forbidden[0];
    rules.max_enqueue_per_second = 1000;
    rules.max_enqueue_burst = 50;
    return rules;
}

static void pgqrsi_validation_resolve(pgqrs_validation *rules)
{
    if (rules->max_payload_bytes == 0) rules->max_payload_bytes = PGQRSI_DEFAULT_PAYLOAD_BYTES;
    if (rules->max_depth == 0) rules->max_depth = PGQRSI_DEFAULT_DEPTH;
    if (rules->max_enqueue_burst == 0) rules->max_enqueue_burst = rules->max_enqueue_per_second;
}

static pgqrs_result pgqrsi_validation_check_keys(const char *member, const char *const *keys, size_t count,
                                                 pgqrs_error *err)
{
    if (count > 0 && !keys)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "validation.%ss is NULL, but %s_count is %zu", member,
                                member, count);
    for (size_t i = 0; i < count; i++) {
        if (!keys[i])
            return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "validation.%ss[%zu] is NULL", member, i);
        if (!pgqrsi_utf8_valid(keys[i], strlen(keys[i]), NULL))
            return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                    "validation.%ss[%zu] is not UTF-8, so no payload can have it", member, i);
    }
    return PGQRS_OK;
}

/* Two rules that no object can obey together are a slip of whoever wrote them. */
static pgqrs_result pgqrsi_validation_check_required(const pgqrs_validation *rules, pgqrs_error *err)
{
    char shown[PGQRSI_SHOWN_KEY];
    for (size_t i = 0; i < rules->required_key_count; i++) {
        const char *key = rules->required_keys[i];
        size_t size = strlen(key);
        pgqrsi_text_show(key, size, shown, sizeof shown);
        if (rules->max_string_bytes > 0 && size > rules->max_string_bytes)
            return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                    "validation.required_keys has '%s', longer than max_string_bytes (%zu) allows",
                                    shown, rules->max_string_bytes);
        for (size_t k = 0; k < rules->forbidden_key_count; k++)
            if (strcmp(key, rules->forbidden_keys[k]) == 0)
                return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                        "validation has '%s' in required_keys and in forbidden_keys: choose one",
                                        shown);
    }
    return PGQRS_OK;
}

/* Refuses values that are negative or contradict each other. The rules may be resolved or not. */
static pgqrs_result pgqrsi_validation_check(const pgqrs_validation *rules, pgqrs_error *err)
{
    if (rules->max_depth < 0)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                "validation.max_depth is negative: 0 means the default, %d", PGQRSI_DEFAULT_DEPTH);
    if (rules->max_enqueue_per_second < 0)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                "validation.max_enqueue_per_second is negative: 0 means no limit");
    if (rules->max_enqueue_burst < 0)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                "validation.max_enqueue_burst is negative: 0 means max_enqueue_per_second");
    if (rules->max_enqueue_burst > 0 && rules->max_enqueue_per_second == 0)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                "validation.max_enqueue_burst limits nothing without max_enqueue_per_second");
    pgqrs_result result =
        pgqrsi_validation_check_keys("forbidden_key", rules->forbidden_keys, rules->forbidden_key_count, err);
    if (result == PGQRS_OK)
        result = pgqrsi_validation_check_keys("required_key", rules->required_keys, rules->required_key_count, err);
    if (result == PGQRS_OK) result = pgqrsi_validation_check_required(rules, err);
    return result;
}

static pgqrs_result pgqrsi_settings_range(const char *member, int64_t value, int64_t min, int64_t max, pgqrs_error *err)
{
    if (value >= min && value <= max) return PGQRS_OK;
    return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "%s is %lld: %lld to %lld is allowed, 0 means the default",
                            member, (long long)value, (long long)min, (long long)max);
}

/* Checks settings given in code: zeros (defaults) and resolved values pass. */
static pgqrs_result pgqrsi_settings_check(const pgqrs_store_desc *desc, pgqrs_error *err)
{
    const struct {
        const char *member;
        int64_t value, min, max;
    } ranges[] = {
        {"connect_timeout_ms", desc->connect_timeout_ms, 0, INT32_MAX},
        {"retry_limit", desc->retry_limit, -1, INT32_MAX},
        {"default_lease_ms", desc->default_lease_ms, 0, PGQRSI_LEASE_MAX_MS},
        {"default_max_attempts", desc->default_max_attempts, 0, PGQRSI_ATTEMPTS_MAX},
        {"default_batch", desc->default_batch, 0, PGQRSI_CLAIM_MAX},
        {"heartbeat_ms", desc->heartbeat_ms, 0, INT32_MAX},
        {"poll_ms", desc->poll_ms, 0, INT32_MAX},
        {"pooler", (int64_t)desc->pooler, PGQRS_AUTO, PGQRS_OFF},
        {"sqlite_wal", (int64_t)desc->sqlite_wal, PGQRS_AUTO, PGQRS_OFF},
        {"logger.level", (int64_t)desc->logger.level, 0, PGQRS_LOG_DEBUG},
    };
    pgqrs_result result = desc->schema ? pgqrsi_check_schema_name(desc->schema, err) : PGQRS_OK;
    for (size_t i = 0; result == PGQRS_OK && i < sizeof ranges / sizeof ranges[0]; i++)
        result = pgqrsi_settings_range(ranges[i].member, ranges[i].value, ranges[i].min, ranges[i].max, err);
    return result == PGQRS_OK ? pgqrsi_validation_check(&desc->validation, err) : result;
}

/* One payload on its way through the rules. */
typedef struct pgqrsi_inspection {
    const pgqrs_validation *rules;
    pgqrs_error *err;
    pgqrs_result refused; /* by a rule; then the error is recorded */
    int64_t depth;        /* of the next value */
    bool root_is_object;
    unsigned char *found; /* one byte for each required key */
    unsigned char few_found[64];
} pgqrsi_inspection;

static pgqrs_result pgqrsi_inspect_length(const pgqrsi_inspection *inspection, const char *what, size_t size)
{
    size_t limit = inspection->rules->max_string_bytes;
    if (limit == 0 || size <= limit) return PGQRS_OK;
    return pgqrsi_error_set(inspection->err, PGQRS_ERR_STRING_TOO_LONG,
                            "payload: %s length %zu exceeds limit %zu (validation.max_string_bytes)", what, size,
                            limit);
}

static pgqrs_result pgqrsi_inspect_key(pgqrsi_inspection *inspection, const char *key, size_t size)
{
    const pgqrs_validation *rules = inspection->rules;
    for (size_t i = 0; i < rules->forbidden_key_count; i++) {
        if (pgqrsi_equal(key, size, rules->forbidden_keys[i])) {
            char shown[PGQRSI_SHOWN_KEY];
            pgqrsi_text_show(key, size, shown, sizeof shown);
            return pgqrsi_error_set(inspection->err, PGQRS_ERR_FORBIDDEN_KEY,
                                    "payload: forbidden key '%s' (validation.forbidden_keys)", shown);
        }
    }
    if (inspection->root_is_object && inspection->depth == 1)
        for (size_t i = 0; i < rules->required_key_count; i++)
            if (pgqrsi_equal(key, size, rules->required_keys[i])) inspection->found[i] = 1;
    return pgqrsi_inspect_length(inspection, "key", size);
}

static pgqrs_result pgqrsi_inspect_depth(const pgqrsi_inspection *inspection)
{
    if (inspection->depth <= inspection->rules->max_depth) return PGQRS_OK;
    return pgqrsi_error_set(inspection->err, PGQRS_ERR_JSON_TOO_DEEP,
                            "payload: nesting depth %lld exceeds limit %d (validation.max_depth)",
                            (long long)inspection->depth, (int)inspection->rules->max_depth);
}

/* What hangs on the parser's reports. */
static bool pgqrsi_inspect(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    pgqrsi_inspection *inspection = (pgqrsi_inspection *)context;
    if (inspection->refused != PGQRS_OK) return false;
    switch (event) {
    case PGQRS_JSON_KEY:
        inspection->refused = pgqrsi_inspect_key(inspection, text, size);
        break;
    case PGQRS_JSON_OBJECT_END:
    case PGQRS_JSON_ARRAY_END:
        inspection->depth--;
        break;
    default:
        inspection->refused = pgqrsi_inspect_depth(inspection);
        if (event == PGQRS_JSON_STRING && inspection->refused == PGQRS_OK)
            inspection->refused = pgqrsi_inspect_length(inspection, "string", size);
        if (event == PGQRS_JSON_OBJECT_BEGIN && inspection->depth == 0) inspection->root_is_object = true;
        if (event == PGQRS_JSON_OBJECT_BEGIN || event == PGQRS_JSON_ARRAY_BEGIN) inspection->depth++;
    }
    return inspection->refused == PGQRS_OK;
}

/* Line and column count from 1, the column in characters, the byte from 0. */
static pgqrs_result pgqrsi_malformed(const char *payload, size_t size, size_t offset, pgqrs_error *err)
{
    size_t line = 1, column = 1;
    if (offset > size) offset = size;
    for (size_t i = 0; i < offset; i++) {
        if (payload[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)payload[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    return pgqrsi_error_set(err, PGQRS_ERR_JSON,
                            "payload: not well-formed JSON in UTF-8 at line %zu, column %zu (byte %zu%s)", line, column,
                            offset, offset == size ? ": it ends too early" : "");
}

static pgqrs_result pgqrsi_inspect_payload(pgqrsi_inspection *inspection, const pgqrs_store_desc *settings,
                                           const char *payload, size_t size)
{
    size_t offset = 0;
    const pgqrs_validation *rules = inspection->rules;
    pgqrs_allocator allocator = settings->allocator;
    void *user = settings->json.parse == pgqrsi_json_parse ? &allocator : settings->json.user;
    bool fine = settings->json.parse(payload, size, pgqrsi_inspect, inspection, &offset, user);
    if (inspection->refused != PGQRS_OK) return inspection->refused;
    if (!fine && offset == PGQRSI_JSON_NO_MEMORY)
        return pgqrsi_error_set(inspection->err, PGQRS_ERR_NO_MEMORY, "no memory to check a payload of %zu bytes",
                                size);
    if (!fine) return pgqrsi_malformed(payload, size, offset, inspection->err);
    for (size_t i = 0; inspection->root_is_object && i < rules->required_key_count; i++) {
        if (!inspection->found[i]) {
            char shown[PGQRSI_SHOWN_KEY];
            pgqrsi_text_show(rules->required_keys[i], strlen(rules->required_keys[i]), shown, sizeof shown);
            return pgqrsi_error_set(inspection->err, PGQRS_ERR_MISSING_KEY,
                                    "payload: required key '%s' missing (validation.required_keys)", shown);
        }
    }
    return PGQRS_OK;
}

/* Checks one payload against resolved settings. Takes no tokens: see the bucket. */
static pgqrs_result pgqrsi_check_payload(const pgqrs_store_desc *settings, const char *payload, size_t size,
                                         pgqrs_error *err)
{
    const pgqrs_validation *rules = &settings->validation;
    pgqrsi_inspection inspection;
    if (!payload)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                "the payload is NULL: where there is nothing to say, give the text null");
    if (size > rules->max_payload_bytes)
        return pgqrsi_error_set(err, PGQRS_ERR_PAYLOAD_TOO_LARGE,
                                "payload: %zu bytes exceed limit %zu (validation.max_payload_bytes)", size,
                                rules->max_payload_bytes);
    inspection.rules = rules;
    inspection.err = err;
    inspection.refused = PGQRS_OK;
    inspection.depth = 0;
    inspection.root_is_object = false;
    inspection.found = inspection.few_found;
    memset(inspection.few_found, 0, sizeof inspection.few_found);
    bool many = rules->required_key_count > sizeof inspection.few_found;
    if (many) {
        inspection.found = (unsigned char *)pgqrsi_mem_alloc(&settings->allocator, rules->required_key_count);
        if (!inspection.found)
            return pgqrsi_error_set(err, PGQRS_ERR_NO_MEMORY, "no memory to check %zu required keys",
                                    rules->required_key_count);
    }
    pgqrs_result result = pgqrsi_inspect_payload(&inspection, settings, payload, size);
    if (many) pgqrsi_mem_free(&settings->allocator, inspection.found, rules->required_key_count);
    return result;
}

/* The rate limit: a bucket of millionths of a message. At N messages a second exactly N of them flow in per
 * microsecond, so no fraction is ever lost. It starts full; times are of the monotonic clock. */
typedef struct pgqrsi_bucket {
    int64_t rate; /* 0: no limit */
    int64_t burst;
    int64_t level; /* millionths */
    int64_t filled_at_us;
} pgqrsi_bucket;

#define PGQRSI_MILLION INT64_C(1000000)

static void pgqrsi_bucket_init(pgqrsi_bucket *bucket, const pgqrs_validation *rules, int64_t now_us)
{
    bucket->rate = rules->max_enqueue_per_second;
    bucket->burst = rules->max_enqueue_burst > 0 ? rules->max_enqueue_burst : rules->max_enqueue_per_second;
    bucket->level = bucket->burst * PGQRSI_MILLION;
    bucket->filled_at_us = now_us;
}

static void pgqrsi_bucket_fill(pgqrsi_bucket *bucket, int64_t now_us)
{
    int64_t room = bucket->burst * PGQRSI_MILLION - bucket->level;
    if (now_us <= bucket->filled_at_us) return;
    uint64_t passed_us = (uint64_t)now_us - (uint64_t)bucket->filled_at_us;
    if (passed_us > (uint64_t)(room / bucket->rate))
        bucket->level += room;
    else
        bucket->level += (int64_t)passed_us * bucket->rate;
    bucket->filled_at_us = now_us;
}

/* Takes all or nothing. */
static pgqrs_result pgqrsi_bucket_take(pgqrsi_bucket *bucket, size_t count, int64_t now_us, pgqrs_error *err)
{
    if (bucket->rate == 0) return PGQRS_OK;
    if (count > (uint64_t)bucket->burst)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT,
                                "a batch of %zu messages can never pass validation.max_enqueue_burst (%lld): make the "
                                "batch smaller or the burst larger",
                                count, (long long)bucket->burst);
    pgqrsi_bucket_fill(bucket, now_us);
    int64_t missing = (int64_t)count * PGQRSI_MILLION - bucket->level;
    if (missing <= 0) {
        bucket->level = -missing;
        return PGQRS_OK;
    }
    int64_t per_ms = bucket->rate * 1000;
    int64_t wait_ms = (missing + per_ms - 1) / per_ms;
    pgqrsi_error_set(err, PGQRS_ERR_RATE_LIMITED,
                     "more than %lld messages a second (validation.max_enqueue_per_second): try again in %lld ms",
                     (long long)bucket->rate, (long long)wait_ms);
    if (err) err->retry_after_ms = wait_ms;
    return PGQRS_ERR_RATE_LIMITED;
}

/* For messages that were not stored after all. */
static void pgqrsi_bucket_put_back(pgqrsi_bucket *bucket, size_t count)
{
    int64_t full = bucket->burst * PGQRSI_MILLION;
    if (count >= (uint64_t)bucket->burst || (int64_t)count * PGQRSI_MILLION > full - bucket->level)
        bucket->level = full;
    else
        bucket->level += (int64_t)count * PGQRSI_MILLION;
}
/* ------------------------------------------------------------------------------------------------------------------
 * >>log and errors
 * --------------------------------------------------------------------------------------------------------------- */

struct pgqrs_store {
    const pgqrs_backend *backend;
    void *self;         /* the backend's own state */
    const char *scheme; /* what pgqrs_store_backend says */
    uint32_t capabilities;
    pgqrs_store_desc settings; /* resolved; strings live in `owned` */
    void *owned;
    pgqrs_error error;
    pgqrsi_bucket bucket;
    uint64_t random_state;
    int wake[2];                    /* pgqrs_stop writes, a waiting call reads */
    int stop;                       /* set by pgqrs_stop, taken by the call it ends */
    uint64_t swallowed;             /* wake-ups that one wait may have taken from another */
    int in_call;                    /* one call at a time: see pgqrsi_begin */
    int handlers;                   /* of its workers, running now */
    struct pgqrsi_policy *policies; /* what the engine remembers of queues, see >>queue */
};

#define PGQRSI_X(name, value, kind, text) {PGQRS_##name, PGQRS_KIND_##kind, "PGQRS_" #name, text},
static const struct {
    pgqrs_result code;
    pgqrs_error_kind kind;
    const char *name;
    const char *text;
} pgqrsi_results[] = {PGQRS_RESULTS(PGQRSI_X)};
#undef PGQRSI_X

static size_t pgqrsi_result_index(pgqrs_result result)
{
    size_t count = sizeof pgqrsi_results / sizeof pgqrsi_results[0];
    for (size_t i = 0; i < count; i++)
        if (pgqrsi_results[i].code == result) return i;
    return count;
}

static void pgqrsi_error_clear(pgqrs_error *err)
{
    memset(err, 0, sizeof *err);
    err->index = -1;
}

/* A cut at the end of the buffer must not leave half a UTF-8 character. */
static void pgqrsi_text_trim(char *text, size_t size)
{
    size_t length = strlen(text);
    if (length + 1 < size) return;
    while (length > 0 && ((unsigned char)text[length - 1] & 0xC0) == 0x80)
        length--;
    if (length > 0 && (unsigned char)text[length - 1] >= 0xC0) length--;
    text[length] = '\0';
}

static void pgqrsi_error_format(pgqrs_error *err, pgqrs_result code, const char *format, va_list arguments)
{
    pgqrsi_error_clear(err);
    err->code = code;
    err->kind = pgqrs_result_kind(code);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    pgqrsi_text_trim(err->message, sizeof err->message);
}

static pgqrs_result pgqrsi_error_set(pgqrs_error *err, pgqrs_result code, const char *format, ...)
{
    va_list arguments;
    if (!err) return code;
    va_start(arguments, format);
    pgqrsi_error_format(err, code, format, arguments);
    va_end(arguments);
    return code;
}

static pgqrs_result pgqrsi_fail(pgqrs_store *store, pgqrs_result code, const char *format, ...) PGQRSI_PRINTF(3, 4);
static pgqrs_result pgqrsi_fail(pgqrs_store *store, pgqrs_result code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    pgqrsi_error_format(&store->error, code, format, arguments);
    va_end(arguments);
    return code;
}

static pgqrs_result pgqrsi_no_memory(pgqrs_store *store)
{
    return pgqrsi_fail(store, PGQRS_ERR_NO_MEMORY, "out of memory: the allocator returned NULL");
}

static pgqrs_result pgqrsi_null_argument(pgqrs_store *store, const char *name)
{
    return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "%s is NULL", name);
}

/* Every public call on a store stands between begin and end. A second call that comes while one runs (another thread, or a
 * hook calling back) is refused without touching anything of the first. */
static pgqrs_result pgqrsi_begin(pgqrs_store *store)
{
    if (!store) return PGQRS_ERR_INVALID_ARGUMENT;
    if (!PGQRSI_FLAG_TRY(store->in_call)) return PGQRS_ERR_WRONG_THREAD;
    pgqrsi_error_clear(&store->error);
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_end(pgqrs_store *store, pgqrs_result result)
{
    if (result == PGQRS_OK)
        pgqrsi_error_clear(&store->error);
    else if (store->error.code != result)
        pgqrsi_fail(store, result, "%s", pgqrs_result_text(result));
    PGQRSI_FLAG_SET(store->in_call, 0);
    return result;
}

static void pgqrsi_log_format(pgqrs_store *store, pgqrs_log_level level, const char *format, va_list arguments)
{
    char line[512];
    vsnprintf(line, sizeof line, format, arguments);
    pgqrsi_text_trim(line, sizeof line);
    for (char *c = line; *c; c++)
        if (*c == '\n' || *c == '\r') *c = ' ';
    store->settings.logger.write(level, line, store->settings.logger.user);
}

static bool pgqrsi_log_wanted(const pgqrs_store *store, pgqrs_log_level level)
{
    return store->settings.logger.write && level <= store->settings.logger.level;
}

static void pgqrsi_log(pgqrs_store *store, pgqrs_log_level level, const char *format, ...) PGQRSI_PRINTF(3, 4);
static void pgqrsi_log(pgqrs_store *store, pgqrs_log_level level, const char *format, ...)
{
    va_list arguments;
    if (!pgqrsi_log_wanted(store, level)) return;
    va_start(arguments, format);
    pgqrsi_log_format(store, level, format, arguments);
    va_end(arguments);
}

static void pgqrsi_observe(pgqrs_store *store, pgqrs_event event)
{
    if (store->settings.observer.observe) store->settings.observer.observe(&event, store->settings.observer.user);
}

static pgqrs_event pgqrsi_event(pgqrs_event_type type, const char *queue, int64_t count, int64_t started_us)
{
    pgqrs_event event;
    memset(&event, 0, sizeof event);
    event.type = type;
    event.queue = queue;
    event.count = count;
    event.duration_us = pgqrsi_monotonic_us() - started_us;
    return event;
}

static uint64_t pgqrsi_random(pgqrs_store *store)
{
    if (store->settings.random.next) return store->settings.random.next(store->settings.random.user);
    return pgqrsi_random_step(&store->random_state);
}

/* The now_us of a request: 0 lets a backend with a shared clock use its own. */
static int64_t pgqrsi_now(pgqrs_store *store)
{
    if (store->settings.clock.now_us) return store->settings.clock.now_us(store->settings.clock.user);
    return (store->capabilities & PGQRS_CAN_CLOCK) ? 0 : pgqrsi_wall_us();
}

/* For measuring how long something takes: the clock hook when there is one, so that tests move waits too. */
static int64_t pgqrsi_elapsed_us(pgqrs_store *store)
{
    return store->settings.clock.now_us ? store->settings.clock.now_us(store->settings.clock.user)
                                        : pgqrsi_monotonic_us();
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>queue: names, times, enqueue, dequeue, settle
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_check_queue(pgqrs_store *store, const char *queue)
{
    return pgqrsi_check_name("queue", queue, &store->error);
}

static pgqrs_result pgqrsi_check_range(pgqrs_store *store, const char *what, int64_t value, int64_t least, int64_t most)
{
    if (value >= least && value <= most) return PGQRS_OK;
    return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "%s is %lld, allowed is %lld to %lld", what, (long long)value,
                       (long long)least, (long long)most);
}

/* A point in time given as a delay or absolutely, in two members of a desc; the names are theirs. */
static pgqrs_result pgqrsi_check_when(pgqrs_store *store, const char *delay_name, int64_t delay_ms, const char *at_name,
                                      int64_t at_us, pgqrs_when *out)
{
    if (delay_ms && at_us)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "%s and %s are both given: choose one", delay_name,
                           at_name);
    pgqrs_result result = pgqrsi_check_range(store, delay_name, delay_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, at_name, at_us, 0, PGQRSI_TIME_MAX_US);
    out->at_us = at_us;
    out->delay_us = result ? 0 : delay_ms * PGQRSI_US_PER_MS;
    return result;
}

/* Keys and producers follow the rules of names, but are arguments rather than names of things. */
static pgqrs_result pgqrsi_check_label(pgqrs_store *store, const char *what, const char *label)
{
    pgqrs_result result = label ? pgqrsi_check_name(what, label, &store->error) : PGQRS_OK;
    if (result != PGQRS_ERR_BAD_NAME) return result;
    store->error.code = PGQRS_ERR_INVALID_ARGUMENT;
    return PGQRS_ERR_INVALID_ARGUMENT;
}

/* --- what the engine remembers of queues: only what it needs to work out a backoff ------------------------------- */

#define PGQRSI_POLICY_SLOTS 8
#define PGQRSI_POLICY_FRESH_US (10 * PGQRSI_US_PER_S)

typedef struct pgqrsi_policy {
    char queue[PGQRSI_NAME_MAX + 1]; /* "": free */
    int64_t read_at_us;              /* monotonic */
    pgqrs_queue_desc settings;
} pgqrsi_policy;

static void pgqrsi_policy_forget(pgqrs_store *store)
{
    memset(store->policies, 0, PGQRSI_POLICY_SLOTS * sizeof(pgqrsi_policy));
}

/* The slot that holds the queue, or the one that is longest unread. */
static pgqrsi_policy *pgqrsi_policy_slot(pgqrs_store *store, const char *queue)
{
    pgqrsi_policy *oldest = &store->policies[0];
    for (int i = 0; i < PGQRSI_POLICY_SLOTS; i++) {
        pgqrsi_policy *policy = &store->policies[i];
        if (strcmp(policy->queue, queue) == 0) return policy;
        if (!policy->queue[0] || (oldest->queue[0] && policy->read_at_us < oldest->read_at_us)) oldest = policy;
    }
    oldest->queue[0] = '\0';
    return oldest;
}

static pgqrs_result pgqrsi_queue_find(pgqrs_store *store, const char *queue, pgqrs_queues **out)
{
    pgqrs_result result = store->backend->queue_list(store->self, queue, 0, 1, out);
    if (!result && (*out)->count == 0) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

static pgqrs_result pgqrsi_queue_unknown(pgqrs_store *store, const char *queue)
{
    return pgqrsi_fail(store, PGQRS_ERR_QUEUE_NOT_FOUND, "there is no queue \"%s\": create it with pgqrs_queue_create",
                       queue);
}

static pgqrs_result pgqrsi_policy_get(pgqrs_store *store, const char *queue, pgqrs_queue_desc *settings)
{
    pgqrsi_policy *policy = pgqrsi_policy_slot(store, queue);
    int64_t now_us = pgqrsi_monotonic_us();
    if (!policy->queue[0] || now_us - policy->read_at_us > PGQRSI_POLICY_FRESH_US) {
        pgqrs_queues *queues = NULL;
        pgqrs_result result = pgqrsi_queue_find(store, queue, &queues);
        if (result) return result;
        if (!queues) return pgqrsi_queue_unknown(store, queue);
        snprintf(policy->queue, sizeof policy->queue, "%s", queue);
        policy->read_at_us = now_us;
        policy->settings = queues->items[0].settings;
        pgqrs_free(queues);
    }
    *settings = policy->settings;
    return PGQRS_OK;
}

/* base, doubled for each try after the first, up to the cap; then ±25 % so that failures do not come back in step. */
static int64_t pgqrsi_backoff_us(pgqrs_store *store, int64_t base_ms, int64_t cap_ms, int32_t attempt)
{
    int64_t delay_ms = base_ms < cap_ms ? base_ms : cap_ms;
    for (int32_t i = 1; i < attempt && delay_ms < cap_ms; i++)
        delay_ms = delay_ms > cap_ms / 2 ? cap_ms : delay_ms * 2;
    int64_t spread_us = delay_ms * PGQRSI_US_PER_MS / 2;
    int64_t jitter_us = spread_us > 0 ? (int64_t)(pgqrsi_random(store) % (uint64_t)(spread_us + 1)) - spread_us / 2 : 0;
    return delay_ms * PGQRSI_US_PER_MS + jitter_us;
}

static pgqrs_result pgqrsi_queue_backoff(pgqrs_store *store, const char *queue, int32_t attempt, int64_t *delay_us)
{
    pgqrs_queue_desc settings;
    memset(&settings, 0, sizeof settings);
    settings.backoff_ms = 1000;
    settings.backoff_max_ms = 60000;
    pgqrs_result result = queue ? pgqrsi_policy_get(store, queue, &settings) : PGQRS_OK;
    *delay_us = result ? 0 : pgqrsi_backoff_us(store, settings.backoff_ms, settings.backoff_max_ms, attempt);
    return result;
}

static pgqrs_result pgqrsi_worker_change(pgqrs_store *store, pgqrs_worker_ref worker, pgqrs_worker_change what);

/* --- enqueue ------------------------------------------------------------------------------------------------------ */

static pgqrs_result pgqrsi_enqueue_check(pgqrs_store *store, const pgqrs_enqueue_item *item, pgqrs_backend_message *out)
{
    const pgqrs_enqueue_desc *desc = &item->desc;
    pgqrs_result result = PGQRS_OK;
    memset(out, 0, sizeof *out);
    if (!item->payload) return pgqrsi_null_argument(store, "payload");
    out->payload = item->payload;
    out->payload_size = desc->payload_size ? desc->payload_size : strlen(item->payload);
    out->priority = desc->priority;
    out->dedup_key = desc->dedup_key;
    out->producer = desc->producer;
    result = pgqrsi_check_range(store, "priority", desc->priority, INT16_MIN, INT16_MAX);
    if (!result) result = pgqrsi_check_when(store, "delay_ms", desc->delay_ms, "at_us", desc->at_us, &out->due);
    if (!result)
        result =
            pgqrsi_check_when(store, "expire_ms", desc->expire_ms, "expire_at_us", desc->expire_at_us, &out->expires);
    if (!result) result = pgqrsi_check_label(store, "dedup_key", desc->dedup_key);
    if (!result) result = pgqrsi_check_label(store, "producer", desc->producer);
    if (!result) result = pgqrsi_check_payload(&store->settings, out->payload, out->payload_size, &store->error);
    return result;
}

/* Equal keys inside one batch: the first is stored, the others become its duplicates. An open-addressing table of positions
 * keeps this linear in the size of the batch. */
typedef struct pgqrsi_batch {
    pgqrs_backend_message *messages; /* those to store, in order */
    pgqrs_receipt *receipts;         /* of those */
    int32_t *position;               /* of each item among `messages` */
    int32_t *table;                  /* by hash of the key: position + 1, 0 is free */
    size_t count;
    size_t stored;
    size_t table_size;
    size_t bytes;
    void *memory;
} pgqrsi_batch;

static uint64_t pgqrsi_hash(const char *text)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(1099511628211);
    return hash ^ (hash >> 29);
}

static bool pgqrsi_batch_open(pgqrs_store *store, pgqrsi_batch *batch, size_t count)
{
    size_t table_size = 2;
    memset(batch, 0, sizeof *batch);
    if (count > (size_t)INT32_MAX / 4) return false;
    while (table_size < 2 * count)
        table_size *= 2;
    batch->bytes = count * (sizeof(pgqrs_backend_message) + sizeof(pgqrs_receipt) + sizeof(int32_t)) +
                   table_size * sizeof(int32_t);
    batch->memory = pgqrsi_mem_alloc(&store->settings.allocator, batch->bytes);
    if (!batch->memory) return false;
    batch->messages = (pgqrs_backend_message *)batch->memory;
    batch->receipts = (pgqrs_receipt *)(void *)(batch->messages + count);
    batch->position = (int32_t *)(void *)(batch->receipts + count);
    batch->table = batch->position + count;
    batch->count = count;
    batch->table_size = table_size;
    return true;
}

static void pgqrsi_batch_close(pgqrs_store *store, pgqrsi_batch *batch)
{
    pgqrsi_mem_free(&store->settings.allocator, batch->memory, batch->bytes);
}

/* The position of an earlier message with this key, or `next` when there is none (then it is entered). */
static int32_t pgqrsi_batch_place(pgqrsi_batch *batch, const char *key, int32_t next)
{
    size_t mask = batch->table_size - 1;
    size_t slot = (size_t)pgqrsi_hash(key) & mask;
    for (; batch->table[slot]; slot = (slot + 1) & mask) {
        int32_t position = batch->table[slot] - 1;
        if (strcmp(batch->messages[position].dedup_key, key) == 0) return position;
    }
    batch->table[slot] = next + 1;
    return next;
}

static pgqrs_result pgqrsi_batch_fill(pgqrs_store *store, pgqrsi_batch *batch, const pgqrs_enqueue_item *items,
                                      bool single)
{
    for (size_t i = 0; i < batch->count; i++) {
        pgqrs_backend_message *message = &batch->messages[batch->stored];
        pgqrs_result result = pgqrsi_enqueue_check(store, &items[i], message);
        if (result) {
            store->error.index = single ? -1 : (int64_t)i;
            return result;
        }
        int32_t next = (int32_t)batch->stored;
        batch->position[i] = message->dedup_key ? pgqrsi_batch_place(batch, message->dedup_key, next) : next;
        batch->stored += batch->position[i] == next;
    }
    return PGQRS_OK;
}

static void pgqrsi_batch_receipts(const pgqrsi_batch *batch, pgqrs_receipt *receipts)
{
    int32_t next = 0;
    for (size_t i = 0; i < batch->count; i++) {
        receipts[i] = batch->receipts[batch->position[i]];
        if (batch->position[i] == next)
            next++;
        else
            receipts[i].duplicate = true;
    }
}

static pgqrs_result pgqrsi_batch_store(pgqrs_store *store, pgqrsi_batch *batch, const char *queue)
{
    pgqrs_backend_enqueue request;
    int64_t started_us = pgqrsi_monotonic_us();
    pgqrs_result result = pgqrsi_bucket_take(&store->bucket, batch->count, started_us, &store->error);
    if (result) return result;
    request.now_us = pgqrsi_now(store);
    request.queue = queue;
    request.items = batch->messages;
    request.count = batch->stored;
    result = store->backend->enqueue(store->self, &request, batch->receipts);
    if (!result)
        pgqrsi_observe(store, pgqrsi_event(PGQRS_EVENT_ENQUEUED, queue, (int64_t)batch->stored, started_us));
    else if (result != PGQRS_ERR_OUTCOME_UNKNOWN)
        pgqrsi_bucket_put_back(&store->bucket, batch->count);
    return result;
}

static pgqrs_result pgqrsi_enqueue(pgqrs_store *store, const char *queue, const pgqrs_enqueue_item *items, size_t count,
                                   pgqrs_receipt *receipts, bool single)
{
    pgqrsi_batch batch;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (result || count == 0) return result;
    if (!items) return pgqrsi_null_argument(store, "items");
    if (!pgqrsi_batch_open(store, &batch, count)) return pgqrsi_no_memory(store);
    result = pgqrsi_batch_fill(store, &batch, items, single);
    if (!result) result = pgqrsi_batch_store(store, &batch, queue);
    if (!result && receipts) pgqrsi_batch_receipts(&batch, receipts);
    pgqrsi_batch_close(store, &batch);
    return result;
}

/* --- waiting ------------------------------------------------------------------------------------------------------ */

/* After lying down, look again soon: a producer whose transaction began before we lay down wakes nobody. */
static const int64_t pgqrsi_wait_probes_us[] = {2000, 10000, 50000};
#define PGQRSI_WAIT_ARM_US (10 * PGQRSI_US_PER_S)

typedef struct pgqrsi_wait {
    pgqrs_store *store;
    const char *queue; /* for messages of this queue, */
    int64_t run_id;    /* or for the end of this run */
    int *stop;         /* a second flag that ends it, or NULL */
    int64_t poll_us;
    int64_t end_us;      /* by pgqrsi_elapsed_us */
    int64_t real_end_us; /* by the monotonic clock, in case a clock hook stands still while we really sleep */
    int64_t armed_at_us; /* 0: not armed */
    size_t probe;
    bool over; /* the last look has been granted */
} pgqrsi_wait;

static int64_t pgqrsi_later_us(int64_t now_us, int64_t delay_ms)
{
    int64_t room_us = INT64_MAX - (now_us > 0 ? now_us : 0);
    return delay_ms >= room_us / PGQRSI_US_PER_MS ? INT64_MAX : now_us + delay_ms * PGQRSI_US_PER_MS;
}

static void pgqrsi_wait_open(pgqrsi_wait *wait, pgqrs_store *store, const char *queue, int *stop, int64_t poll_ms,
                             int64_t timeout_ms)
{
    memset(wait, 0, sizeof *wait);
    wait->store = store;
    wait->queue = queue;
    wait->stop = stop;
    wait->poll_us = poll_ms * PGQRSI_US_PER_MS;
    pgqrsi_pipe_drain(store->wake);
    wait->end_us = pgqrsi_later_us(pgqrsi_elapsed_us(store), timeout_ms);
    wait->real_end_us =
        store->settings.sleeper.sleep_us ? INT64_MAX : pgqrsi_later_us(pgqrsi_monotonic_us(), timeout_ms);
}

static void pgqrsi_wait_close(pgqrsi_wait *wait)
{
    if (wait->armed_at_us) {
        wait->store->backend->wait_end(wait->store->self);
        wait->store->swallowed++;
    }
    wait->armed_at_us = 0;
}

static bool pgqrsi_wait_stopped(const pgqrsi_wait *wait)
{
    return PGQRSI_FLAG_GET(wait->store->stop) || (wait->stop && PGQRSI_FLAG_GET(*wait->stop));
}

static int64_t pgqrsi_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t pgqrsi_wait_left_us(const pgqrsi_wait *wait)
{
    int64_t left_us = wait->end_us == INT64_MAX ? INT64_MAX : wait->end_us - pgqrsi_elapsed_us(wait->store);
    return pgqrsi_min(left_us, wait->real_end_us - pgqrsi_monotonic_us());
}

static bool pgqrsi_wait_can_arm(const pgqrsi_wait *wait)
{
    return (wait->store->capabilities & PGQRS_CAN_WAKE) && (wait->queue || wait->run_id);
}

/* The first time: lie down. Later: swallow what woke us, and stay down. Either way the queue must be looked at again before
 * sleeping, because what is swallowed here may have been the news of the next message. */
static pgqrs_result pgqrsi_wait_arm(pgqrsi_wait *wait)
{
    pgqrs_store *store = wait->store;
    if (!pgqrsi_wait_can_arm(wait)) return PGQRS_OK;
    if (pgqrsi_readable(store->backend->wait_fd(store->self))) store->swallowed++;
    const pgqrs_backend *backend = store->backend;
    int64_t now_us = pgqrsi_now(store);
    pgqrs_result result = wait->run_id ? backend->run_wait_begin(store->self, now_us, wait->run_id, PGQRSI_WAIT_ARM_US)
                                       : backend->wait_begin(store->self, now_us, wait->queue, PGQRSI_WAIT_ARM_US);
    if (!result && !wait->armed_at_us) {
        wait->armed_at_us = pgqrsi_monotonic_us();
        wait->probe = 0;
    }
    return result;
}

static void pgqrsi_wait_sleep(pgqrsi_wait *wait, int64_t us)
{
    pgqrs_store *store = wait->store;
    int fd = wait->armed_at_us ? store->backend->wait_fd(store->self) : -1;
    if (us <= 0) return;
    if (store->settings.sleeper.sleep_us)
        store->settings.sleeper.sleep_us(us, store->settings.sleeper.user);
    else
        pgqrsi_poll_us(fd, store->wake[0], us);
    pgqrsi_pipe_drain(store->wake); /* the flags are looked at after this */
}

static int64_t pgqrsi_wait_step_us(pgqrsi_wait *wait)
{
    size_t probes = sizeof pgqrsi_wait_probes_us / sizeof pgqrsi_wait_probes_us[0];
    if ((!wait->armed_at_us && !wait->run_id) || wait->probe >= probes) return wait->poll_us;
    return pgqrsi_min(wait->poll_us, pgqrsi_wait_probes_us[wait->probe++]);
}

/* Sleeps until it is worth looking again, at most until the next known due time. *again false: the time is over, or somebody
 * told us to stop. After the deadline one more look is owed to a message that fell due with it. */
static pgqrs_result pgqrsi_wait_next(pgqrsi_wait *wait, int64_t next_due_us, bool *again)
{
    *again = false;
    int64_t left_us = pgqrsi_wait_left_us(wait);
    if (pgqrsi_wait_stopped(wait) || wait->over || left_us <= 0) return PGQRS_OK;
    if (pgqrsi_wait_can_arm(wait) && !wait->armed_at_us) {
        *again = true;
        return pgqrsi_wait_arm(wait);
    }
    int64_t step_us = pgqrsi_min(pgqrsi_wait_step_us(wait), left_us);
    if (next_due_us >= 0) step_us = pgqrsi_min(step_us, next_due_us > 0 ? next_due_us : PGQRSI_US_PER_MS);
    pgqrsi_wait_sleep(wait, step_us);
    wait->over = pgqrsi_wait_left_us(wait) <= 0;
    *again = !pgqrsi_wait_stopped(wait);
    return *again ? pgqrsi_wait_arm(wait) : PGQRS_OK;
}

/* The call that ends because of pgqrs_stop takes the request with it. */
static bool pgqrsi_stop_take(pgqrs_store *store)
{
    if (store->handlers > 0)
        return PGQRSI_FLAG_GET(store->stop) != 0; /* it is meant for the loop around the handler, too */
    if (!PGQRSI_FLAG_TAKE(store->stop)) return false;
    pgqrsi_pipe_drain(store->wake);
    return true;
}

/* --- dequeue and settle ------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_claim_check(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                       pgqrs_backend_claim *claim)
{
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    memset(claim, 0, sizeof *claim);
    claim->queue = queue;
    claim->limit = desc && desc->limit ? desc->limit : (size_t)store->settings.default_batch;
    claim->next_due_us = -1;
    if (result || !desc) return result;
    claim->worker = desc->worker;
    if (desc->limit > PGQRSI_CLAIM_MAX)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "limit is %zu, allowed is 1 to %d", desc->limit,
                           PGQRSI_CLAIM_MAX);
    result = pgqrsi_check_range(store, "lease_ms", desc->lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "wait_ms", desc->wait_ms, 0, PGQRS_FOREVER);
    claim->lease_us = result ? 0 : desc->lease_ms * PGQRSI_US_PER_MS;
    return result;
}

/* Settle, claim, tell the observer. What was refused is not an error here. */
static pgqrs_result pgqrsi_exchange(pgqrs_store *store, pgqrs_backend_verdict *verdicts, size_t count,
                                    pgqrs_backend_claim *claim)
{
    pgqrs_backend_exchange exchange;
    int64_t started_us = pgqrsi_monotonic_us();
    exchange.now_us = pgqrsi_now(store);
    exchange.verdicts = verdicts;
    exchange.verdict_count = count;
    exchange.claim = claim;
    if (claim) {
        claim->messages = NULL;
        claim->next_due_us = -1;
        claim->paused = false;
        claim->refused = PGQRS_OK;
    }
    pgqrs_result result = store->backend->exchange(store->self, &exchange);
    if (!result && (count || (claim && claim->messages)))
        pgqrsi_log(store, PGQRS_LOG_DEBUG, "settled %zu, claimed %zu from \"%s\"", count,
                   claim && claim->messages ? claim->messages->count : 0, claim ? claim->queue : "-");
    if (result || !store->settings.observer.observe) return result;
    if (count)
        pgqrsi_observe(store,
                       pgqrsi_event(PGQRS_EVENT_SETTLED, claim ? claim->queue : NULL, (int64_t)count, started_us));
    if (claim && claim->messages)
        pgqrsi_observe(store,
                       pgqrsi_event(PGQRS_EVENT_CLAIMED, claim->queue, (int64_t)claim->messages->count, started_us));
    for (size_t i = 0; i < count; i++) {
        if (verdicts[i].result == PGQRS_ERR_LEASE_LOST) {
            pgqrs_event event = pgqrsi_event(PGQRS_EVENT_LEASE_LOST, NULL, 1, started_us);
            event.message_id = verdicts[i].id;
            event.result = PGQRS_ERR_LEASE_LOST;
            pgqrsi_observe(store, event);
        }
    }
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_refusal(pgqrs_store *store, const pgqrs_backend_claim *claim)
{
    if (claim->refused == PGQRS_OK) return PGQRS_OK;
    if (claim->refused == PGQRS_ERR_WORKER_STOPPED)
        return pgqrsi_fail(
            store, claim->refused,
            "worker %lld is not registered under this epoch (stopped, reclaimed, removed or registered again): "
            "register anew",
            (long long)claim->worker.id);
    return pgqrsi_fail(store, claim->refused, "worker %lld may not claim from \"%s\": %s", (long long)claim->worker.id,
                       claim->queue, pgqrs_result_text(claim->refused));
}

static pgqrs_result pgqrsi_empty_messages(pgqrs_store *store, pgqrs_messages **out)
{
    *out = (pgqrs_messages *)pgqrsi_result_new(&store->settings.allocator, sizeof **out, 0);
    return *out ? PGQRS_OK : pgqrsi_no_memory(store);
}

/* Whoever notices an interruption carries it out: the worker is suspended, and the call says why it ended. */
static pgqrs_result pgqrsi_claim_refused(pgqrs_store *store, const pgqrs_backend_claim *claim)
{
    pgqrs_result result = PGQRS_OK;
    if (claim->refused == PGQRS_ERR_WORKER_INTERRUPTED)
        result = pgqrsi_worker_change(store, claim->worker, PGQRS_WORKER_SUSPEND);
    return result ? result : pgqrsi_refusal(store, claim);
}

/* Claims, waiting up to wait_ms. claim->messages stays NULL when nothing came. */
static pgqrs_result pgqrsi_claim(pgqrs_store *store, pgqrs_backend_claim *claim, int64_t wait_ms)
{
    pgqrsi_wait wait;
    bool again = true;
    pgqrs_result result = PGQRS_OK;
    pgqrsi_wait_open(&wait, store, claim->queue, NULL, store->settings.poll_ms, wait_ms);
    while (again) {
        result = pgqrsi_exchange(store, NULL, 0, claim);
        if (!result) result = pgqrsi_claim_refused(store, claim);
        if (result || claim->messages || wait_ms == 0) break;
        result = pgqrsi_wait_next(&wait, claim->next_due_us, &again);
        if (result) break;
    }
    pgqrsi_wait_close(&wait);
    if (wait_ms > 0) pgqrsi_stop_take(store);
    return result;
}

static pgqrs_result pgqrsi_dequeue(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                   pgqrs_messages **out)
{
    pgqrs_backend_claim claim;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_claim_check(store, queue, desc, &claim);
    if (!result) result = pgqrsi_claim(store, &claim, desc ? desc->wait_ms : 0);
    *out = claim.messages;
    return result;
}

/* A retry becomes a release with the backoff worked out; the rest is copied. */
static pgqrs_result pgqrsi_settlement_check(pgqrs_store *store, const pgqrs_settlement *item,
                                            pgqrs_backend_verdict *out)
{
    pgqrs_result result = PGQRS_OK;
    memset(out, 0, sizeof *out);
    out->id = item->id;
    out->lease = item->lease;
    out->lease_size = item->lease_size;
    out->verdict = item->verdict;
    out->reason = item->reason;
    if (item->verdict < PGQRS_ARCHIVE || item->verdict > PGQRS_REJECT)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "verdict %d of message %lld is none of pgqrs_verdict",
                           (int)item->verdict, (long long)item->id);
    if (item->verdict == PGQRS_RETRY) {
        out->verdict = PGQRS_RELEASE;
        result = pgqrsi_queue_backoff(store, item->queue, item->attempt, &out->due.delay_us);
        if (result ==
            PGQRS_ERR_QUEUE_NOT_FOUND) /* then the lease is gone too, which the verdict's own result will say */
            result = pgqrsi_queue_backoff(store, NULL, item->attempt, &out->due.delay_us);
        return result;
    }
    if (item->verdict == PGQRS_RELEASE || item->verdict == PGQRS_GIVE_BACK)
        result = pgqrsi_check_when(store, "delay_ms", item->delay_ms, "at_us", item->at_us, &out->due);
    return result;
}

/* A reason is for people and comes from anywhere: it is cut to PGQRSI_REASON_MAX bytes, and broken UTF-8 becomes '?', since one
 * bad byte would make a whole settlement fail. */
static void pgqrsi_reason_copy(const char *reason, char out[PGQRSI_REASON_MAX + 1])
{
    size_t bad = 0;
    snprintf(out, PGQRSI_REASON_MAX + 1, "%s", reason);
    pgqrsi_text_trim(out, PGQRSI_REASON_MAX + 1);
    while (!pgqrsi_utf8_valid(out, strlen(out), &bad))
        out[bad] = '?';
}

static bool pgqrsi_reason_fit(pgqrs_backend_verdict *verdict, void **texts, const pgqrs_allocator *allocator)
{
    size_t length = verdict->reason ? strlen(verdict->reason) : 0;
    if (length <= PGQRSI_REASON_MAX && pgqrsi_utf8_valid(verdict->reason, length, NULL)) return true;
    if (!*texts) *texts = pgqrsi_result_new(allocator, 1, PGQRSI_REASON_MAX + 1);
    char *copy = *texts ? (char *)pgqrsi_result_alloc(*texts, PGQRSI_REASON_MAX + 1) : NULL;
    if (!copy) return false;
    pgqrsi_reason_copy(verdict->reason, copy);
    verdict->reason = copy;
    return true;
}

static pgqrs_result pgqrsi_settle_convert(pgqrs_store *store, const pgqrs_settlement *items, size_t count,
                                          pgqrs_backend_verdict *verdicts, void **texts)
{
    for (size_t i = 0; i < count; i++) {
        pgqrs_result result = pgqrsi_settlement_check(store, &items[i], &verdicts[i]);
        if (result) {
            store->error.index = (int64_t)i;
            return result;
        }
        if (!pgqrsi_reason_fit(&verdicts[i], texts, &store->settings.allocator)) return pgqrsi_no_memory(store);
    }
    return PGQRS_OK;
}

/* Verdicts for one message need no allocation. */
#define PGQRSI_SETTLE_LOCAL 4

static pgqrs_result pgqrsi_settle(pgqrs_store *store, pgqrs_settlement *items, size_t count, pgqrs_backend_claim *claim)
{
    pgqrs_backend_verdict local[PGQRSI_SETTLE_LOCAL];
    pgqrs_backend_verdict *verdicts = local;
    void *texts = NULL;
    if (count && !items) return pgqrsi_null_argument(store, "items");
    for (size_t i = 0; i < count; i++)
        items[i].result = PGQRS_ERR_NO_MEMORY; /* what it stays when this call ends early */
    if (count > SIZE_MAX / 2 / sizeof *verdicts) return pgqrsi_no_memory(store);
    if (count > PGQRSI_SETTLE_LOCAL)
        verdicts = (pgqrs_backend_verdict *)pgqrsi_mem_alloc(&store->settings.allocator, count * sizeof *verdicts);
    if (!verdicts) return pgqrsi_no_memory(store);
    pgqrs_result result = pgqrsi_settle_convert(store, items, count, verdicts, &texts);
    if (!result && (count || claim)) result = pgqrsi_exchange(store, verdicts, count, claim);
    for (size_t i = 0; i < count; i++)
        items[i].result = result ? result : verdicts[i].result;
    pgqrs_free(texts);
    if (verdicts != local) pgqrsi_mem_free(&store->settings.allocator, verdicts, count * sizeof *verdicts);
    return result;
}

static pgqrs_settlement pgqrsi_settlement_for(const pgqrs_message *message, pgqrs_verdict verdict)
{
    pgqrs_settlement item;
    memset(&item, 0, sizeof item);
    item.id = message->id;
    item.lease = message->lease;
    item.attempt = message->attempt;
    item.lease_size = message->lease_size;
    item.queue = message->queue;
    item.verdict = verdict;
    return item;
}

/* What archive, delete, release and their _many forms share: the same verdict for all. */
static pgqrs_result pgqrsi_settle_same(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                       const pgqrs_settlement *pattern, pgqrs_result *results)
{
    pgqrs_settlement local[PGQRSI_SETTLE_LOCAL];
    pgqrs_settlement *items = local;
    if (count && !messages) return pgqrsi_null_argument(store, "messages");
    if (count > SIZE_MAX / 2 / sizeof *items) return pgqrsi_no_memory(store);
    if (count > PGQRSI_SETTLE_LOCAL)
        items = (pgqrs_settlement *)pgqrsi_mem_alloc(&store->settings.allocator, count * sizeof *items);
    if (!items) return pgqrsi_no_memory(store);
    for (size_t i = 0; i < count; i++) {
        items[i] = pgqrsi_settlement_for(&messages[i], pattern->verdict);
        items[i].delay_ms = pattern->delay_ms;
        items[i].at_us = pattern->at_us;
        items[i].reason = pattern->reason;
    }
    pgqrs_result result = pgqrsi_settle(store, items, count, NULL);
    for (size_t i = 0; results && i < count; i++)
        results[i] = items[i].result;
    if (items != local) pgqrsi_mem_free(&store->settings.allocator, items, count * sizeof *items);
    return result;
}

static pgqrs_result pgqrsi_lease_lost(pgqrs_store *store, int64_t id)
{
    return pgqrsi_fail(store, PGQRS_ERR_LEASE_LOST,
                       "message %lld is not held under this lease any more (it ended, or the message was settled "
                       "before); nothing was changed",
                       (long long)id);
}

static pgqrs_result pgqrsi_settle_one(pgqrs_store *store, const pgqrs_message *message, pgqrs_settlement pattern)
{
    pgqrs_result outcome = PGQRS_OK;
    if (!message) return pgqrsi_null_argument(store, "message");
    pgqrs_result result = pgqrsi_settle_same(store, message, 1, &pattern, &outcome);
    store->error.index = -1;
    return result || outcome == PGQRS_OK ? result : pgqrsi_lease_lost(store, message->id);
}

static pgqrs_settlement pgqrsi_pattern(pgqrs_verdict verdict, const char *reason)
{
    pgqrs_settlement pattern;
    memset(&pattern, 0, sizeof pattern);
    pattern.verdict = verdict;
    pattern.reason = reason;
    return pattern;
}

static pgqrs_settlement pgqrsi_release_pattern(const pgqrs_release_desc *desc)
{
    pgqrs_settlement pattern = pgqrsi_pattern(desc && desc->give_back ? PGQRS_GIVE_BACK : PGQRS_RELEASE, NULL);
    if (desc) {
        pattern.delay_ms = desc->delay_ms;
        pattern.at_us = desc->at_us;
        pattern.reason = desc->reason;
    }
    return pattern;
}

static pgqrs_result pgqrsi_extend_run(pgqrs_store *store, const pgqrs_backend_verdict *leases, size_t count,
                                      int64_t lease_ms, pgqrs_worker_ref worker, pgqrs_result *results)
{
    pgqrs_backend_extend request;
    memset(&request, 0, sizeof request);
    request.now_us = pgqrsi_now(store);
    request.leases = leases;
    request.count = count;
    request.lease_us = lease_ms * PGQRSI_US_PER_MS;
    request.worker = worker;
    request.results = results;
    return store->backend->extend(store->self, &request);
}

static pgqrs_result pgqrsi_extend(pgqrs_store *store, const pgqrs_message *messages, size_t count, int64_t lease_ms,
                                  pgqrs_worker_ref worker, pgqrs_result *results)
{
    size_t bytes = count * (sizeof(pgqrs_backend_verdict) + sizeof(pgqrs_result));
    pgqrs_result result = pgqrsi_check_range(store, "lease_ms", lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (result || count == 0) return result;
    if (!messages) return pgqrsi_null_argument(store, "messages");
    if (count > SIZE_MAX / 256) return pgqrsi_no_memory(store);
    pgqrs_backend_verdict *leases = (pgqrs_backend_verdict *)pgqrsi_mem_alloc(&store->settings.allocator, bytes);
    if (!leases) return pgqrsi_no_memory(store);
    pgqrs_result *outcomes = (pgqrs_result *)(void *)(leases + count);
    for (size_t i = 0; i < count; i++) {
        leases[i].id = messages[i].id;
        leases[i].lease = messages[i].lease;
    }
    result = pgqrsi_extend_run(store, leases, count, lease_ms, worker, outcomes);
    for (size_t i = 0; results && i < count; i++)
        results[i] = result ? result : outcomes[i];
    pgqrsi_mem_free(&store->settings.allocator, leases, bytes);
    return result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>worker: registration, transitions, the loop
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_STATE_BIT(state) (1u << (unsigned)(state))
#define PGQRSI_STATES_LIVE                                                                                             \
    (PGQRSI_STATE_BIT(PGQRS_WORKER_READY) | PGQRSI_STATE_BIT(PGQRS_WORKER_POLLING) |                                   \
     PGQRSI_STATE_BIT(PGQRS_WORKER_INTERRUPTED) | PGQRSI_STATE_BIT(PGQRS_WORKER_SUSPENDED))

/* The state machine of the manual, one row per change. `to` 0: the state stays. */
static const struct {
    pgqrs_worker_change change;
    const char *verb;
    uint32_t from;
    int to;
} pgqrsi_transitions[] = {
    {PGQRS_WORKER_BEGIN_POLLING, "begin polling",
     PGQRSI_STATE_BIT(PGQRS_WORKER_READY) | PGQRSI_STATE_BIT(PGQRS_WORKER_POLLING), PGQRS_WORKER_POLLING},
    {PGQRS_WORKER_END_POLLING, "end polling", PGQRSI_STATE_BIT(PGQRS_WORKER_POLLING), PGQRS_WORKER_READY},
    {PGQRS_WORKER_INTERRUPT, "be interrupted", PGQRSI_STATE_BIT(PGQRS_WORKER_POLLING), PGQRS_WORKER_INTERRUPTED},
    {PGQRS_WORKER_SUSPEND, "be suspended",
     PGQRSI_STATE_BIT(PGQRS_WORKER_READY) | PGQRSI_STATE_BIT(PGQRS_WORKER_POLLING) |
         PGQRSI_STATE_BIT(PGQRS_WORKER_INTERRUPTED),
     PGQRS_WORKER_SUSPENDED},
    {PGQRS_WORKER_RESUME, "resume", PGQRSI_STATE_BIT(PGQRS_WORKER_SUSPENDED), PGQRS_WORKER_READY},
    {PGQRS_WORKER_SHUTDOWN, "be shut down", PGQRSI_STATE_BIT(PGQRS_WORKER_SUSPENDED), PGQRS_WORKER_STOPPED},
    {PGQRS_WORKER_BEAT, "send a heartbeat", PGQRSI_STATES_LIVE, 0},
};

static pgqrs_result pgqrsi_worker_unknown(pgqrs_store *store, int64_t id)
{
    return pgqrsi_fail(store, PGQRS_ERR_WORKER_NOT_FOUND, "no worker has the id %lld", (long long)id);
}

/* Why a transition did not happen. */
static pgqrs_result pgqrsi_worker_refused(pgqrs_store *store, const pgqrs_backend_worker_change *change,
                                          const char *verb)
{
    long long id = (long long)change->worker.id;
    if (!change->found && change->worker.epoch)
        return pgqrsi_fail(store, PGQRS_ERR_WORKER_STOPPED,
                           "worker %lld is gone, or was registered again by somebody else: register anew", id);
    if (!change->found) return pgqrsi_worker_unknown(store, change->worker.id);
    if (change->worker.epoch && change->state == PGQRS_WORKER_STOPPED)
        return pgqrsi_fail(store, PGQRS_ERR_WORKER_STOPPED, "worker %lld was shut down or reclaimed: register anew",
                           id);
    if (change->if_idle && (change->from & PGQRSI_STATE_BIT(change->state)))
        return pgqrsi_fail(store, PGQRS_ERR_WORKER_BUSY,
                           "worker %lld still holds %lld messages: settle or release them first", id,
                           (long long)change->held);
    return pgqrsi_fail(store, PGQRS_ERR_WORKER_STATE, "worker %lld is %s and cannot %s", id,
                       pgqrs_worker_state_name(change->state), verb);
}

static pgqrs_result pgqrsi_worker_change(pgqrs_store *store, pgqrs_worker_ref worker, pgqrs_worker_change what)
{
    size_t row = 0;
    pgqrs_backend_worker_change change;
    while (pgqrsi_transitions[row].change != what)
        row++;
    memset(&change, 0, sizeof change);
    change.now_us = pgqrsi_now(store);
    change.worker = worker;
    change.from = pgqrsi_transitions[row].from;
    change.to = (pgqrs_worker_state)pgqrsi_transitions[row].to;
    change.beat = worker.epoch != 0; /* an operator's command is no sign of life */
    change.if_idle = what == PGQRS_WORKER_SHUTDOWN;
    if (worker.id <= 0) return pgqrsi_worker_unknown(store, worker.id);
    pgqrs_result result = store->backend->worker_change(store->self, &change);
    if (result || change.changed) return result;
    return pgqrsi_worker_refused(store, &change, pgqrsi_transitions[row].verb);
}

static pgqrs_result pgqrsi_worker_command(pgqrs_store *store, int64_t worker_id, pgqrs_worker_change what)
{
    pgqrs_worker_ref worker;
    worker.id = worker_id;
    worker.epoch = 0;
    return pgqrsi_worker_change(store, worker, what);
}

static pgqrs_result pgqrsi_worker_register(pgqrs_store *store, const char *name, const char *queue, int64_t stale_ms,
                                           pgqrs_worker_ref *out)
{
    int64_t epoch = (int64_t)(pgqrsi_random(store) >> 1);
    pgqrs_result result = pgqrsi_check_name("worker name", name, &store->error);
    if (!result && queue) result = pgqrsi_check_queue(store, queue);
    if (!result) result = pgqrsi_check_range(store, "stale_ms", stale_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (result) return result;
    if (stale_ms == 0) stale_ms = PGQRSI_STALE_DEFAULT_MS;
    return store->backend->worker_register(store->self, pgqrsi_now(store), name, queue, stale_ms * PGQRSI_US_PER_MS,
                                           epoch ? epoch : 1, out);
}

static pgqrs_result pgqrsi_worker_find(pgqrs_store *store, int64_t worker_id, pgqrs_workers **out)
{
    pgqrs_worker_filter filter;
    memset(&filter, 0, sizeof filter);
    filter.limit = 1;
    *out = NULL;
    pgqrs_result result = store->backend->worker_list(store->self, pgqrsi_now(store), worker_id, &filter, out);
    if (!result && (*out)->count == 0) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

/* --- the loop ------------------------------------------------------------------------------------------------------
 *
 * One turn: carry out the verdicts of the turn before and claim the next batch (one exchange), hand each message to the
 * handler, collect verdicts. What is owed to the store is therefore always in one of two places: `held` from `next` on
 * (taken, not started) and `owed` (finished, not settled). A crash loses neither: leases end by themselves.
 * ---------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrs_delivery {
    pgqrs_worker *worker;  /* NULL outside of the handler */
    pgqrs_verdict verdict; /* 0: none said */
    int64_t delay_ms;      /* 0: a retry follows the queue's backoff */
    char reason[PGQRSI_REASON_MAX + 1];
} pgqrs_delivery;

struct pgqrs_worker {
    pgqrs_store *store;
    pgqrs_handler handler;
    pgqrs_batch_handler batch_handler;
    void *user;
    struct pgqrsi_runs *runs; /* instead of a handler: see >>workflow */
    pgqrs_work_desc desc;     /* resolved */
    pgqrs_worker_ref self;
    bool own_name; /* the name is the program's: the row stays */
    bool registered;
    bool suspended;  /* seen suspended: polling must begin again afterwards */
    bool refused;    /* the last claim was: that nothing came says nothing about the queue */
    bool in_handler; /* the worker itself must not be used meanwhile */
    int stop;
    char queue[PGQRSI_NAME_MAX + 1];
    char name[PGQRSI_NAME_MAX + 1];
    size_t bytes; /* of this allocation: the two arrays below follow the struct */
    pgqrs_backend_verdict *owed;
    pgqrs_delivery *deliveries; /* parallel to owed while in use: it keeps the reasons alive */
    size_t owed_count;
    int64_t owed_since_us; /* monotonic: when the oldest of them was finished */
    pgqrs_messages *held;
    size_t next;
    int64_t lease_ms;
    int64_t lease_end_us; /* of `held`, by pgqrsi_elapsed_us; counted from before the claim, so never too late */
    int64_t beat_at_us;   /* last heartbeat, by pgqrsi_elapsed_us */
    int64_t tended_at_us; /* last housekeeping, likewise; 0: never */
    uint64_t swallowed;   /* of the store, at the last claim */
    size_t window;        /* how many to take next */
    int64_t handled;
    int64_t retry_until_us; /* until_empty waits for its own retries; by pgqrsi_elapsed_us, 0: none */
    int64_t next_due_us;    /* of the last empty claim, -1: unknown */
    int64_t looked_at_us;   /* monotonic, of the last claim */
    int32_t failures;       /* store errors in a row */
    pgqrsi_wait wait;       /* armed between polls for foreign event loops */
};

#define PGQRSI_DEFAULT(value, fallback) ((value) ? (value) : (fallback))

static pgqrs_result pgqrsi_work_check(pgqrs_store *store, const pgqrs_work_desc *given, pgqrs_work_desc *desc)
{
    const pgqrs_store_desc *settings = &store->settings;
    pgqrs_result result = PGQRS_OK;
    memset(desc, 0, sizeof *desc);
    if (given) *desc = *given;
    result = pgqrsi_check_range(store, "batch", desc->batch, 0, PGQRSI_CLAIM_MAX);
    if (!result) result = pgqrsi_check_range(store, "lease_ms", desc->lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "settle_ms", desc->settle_ms, -1, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "heartbeat_ms", desc->heartbeat_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "poll_ms", desc->poll_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "max_messages", desc->max_messages, 0, INT64_MAX);
    if (!result && desc->name) result = pgqrsi_check_name("worker name", desc->name, &store->error);
    desc->batch = PGQRSI_DEFAULT(desc->batch, settings->default_batch);
    desc->settle_ms = PGQRSI_DEFAULT(desc->settle_ms, 50);
    desc->heartbeat_ms = PGQRSI_DEFAULT(desc->heartbeat_ms, settings->heartbeat_ms);
    desc->poll_ms = PGQRSI_DEFAULT(desc->poll_ms, settings->poll_ms);
    return result;
}

static void pgqrsi_worker_invent_name(pgqrs_worker *worker)
{
    char host[64] = "";
    if (gethostname(host, sizeof host - 1) != 0 || !host[0] || !pgqrsi_utf8_valid(host, strlen(host), NULL))
        snprintf(host, sizeof host, "host");
    snprintf(worker->name, sizeof worker->name, "%s-%ld-%08lx", host, (long)getpid(),
             (unsigned long)(pgqrsi_random(worker->store) & 0xffffffffu));
}

static pgqrs_worker *pgqrsi_worker_alloc(pgqrs_store *store, const char *queue, const pgqrs_work_desc *desc)
{
    size_t batch = (size_t)desc->batch;
    size_t head = PGQRSI_ROUND(sizeof(pgqrs_worker));
    size_t verdicts = PGQRSI_ROUND(batch * sizeof(pgqrs_backend_verdict));
    size_t bytes = head + verdicts + batch * sizeof(pgqrs_delivery);
    pgqrs_worker *worker = (pgqrs_worker *)pgqrsi_mem_alloc(&store->settings.allocator, bytes);
    if (!worker) return NULL;
    worker->store = store;
    worker->bytes = bytes;
    worker->desc = *desc;
    worker->owed = (pgqrs_backend_verdict *)(void *)((char *)worker + head);
    worker->deliveries = (pgqrs_delivery *)(void *)((char *)worker + head + verdicts);
    worker->window = 1;
    worker->next_due_us = -1;
    worker->own_name = desc->name != NULL;
    snprintf(worker->queue, sizeof worker->queue, "%s", queue);
    if (desc->name)
        snprintf(worker->name, sizeof worker->name, "%s", desc->name);
    else
        pgqrsi_worker_invent_name(worker);
    worker->desc.name = worker->name;
    pgqrsi_wait_open(&worker->wait, store, worker->queue, &worker->stop, desc->poll_ms, 0);
    return worker;
}

static pgqrs_result pgqrsi_worker_enlist(pgqrs_worker *worker)
{
    pgqrs_store *store = worker->store;
    pgqrs_queue_desc settings;
    pgqrs_result result = pgqrsi_policy_get(store, worker->queue, &settings);
    if (result) return result;
    worker->lease_ms = PGQRSI_DEFAULT(worker->desc.lease_ms, settings.lease_ms);
    result = pgqrsi_worker_register(store, worker->name, worker->queue, worker->desc.stale_ms, &worker->self);
    if (result) return result;
    worker->registered = true;
    worker->beat_at_us = pgqrsi_elapsed_us(store);
    pgqrsi_log(store, PGQRS_LOG_INFO, "queue \"%s\": worker \"%s\" (%lld) starts", worker->queue, worker->name,
               (long long)worker->self.id);
    return pgqrsi_worker_change(store, worker->self, PGQRS_WORKER_BEGIN_POLLING);
}

static void pgqrsi_runs_free(pgqrs_worker *worker);
static void pgqrsi_runs_settled(pgqrs_worker *worker);
static void pgqrsi_worker_handle_run(pgqrs_worker *worker);

static void pgqrsi_worker_free(pgqrs_worker *worker)
{
    pgqrs_store *store = worker->store;
    pgqrsi_wait_close(&worker->wait);
    pgqrsi_runs_free(worker);
    pgqrs_free(worker->held);
    pgqrsi_mem_free(&store->settings.allocator, worker, worker->bytes);
}

/* Takes over `runs`, which it frees in any case. *out may be a worker even on failure: it is to be closed then. */
static pgqrs_result pgqrsi_worker_start_up(pgqrs_worker *worker, struct pgqrsi_runs *runs, pgqrs_worker **out)
{
    worker->runs = runs;
    pgqrs_result result = pgqrsi_worker_enlist(worker);
    if (result && !worker->registered) {
        pgqrsi_worker_free(worker);
        return result;
    }
    *out = worker;
    return result;
}

/* A handler of messages would archive runs that never ran. */
static pgqrs_result pgqrsi_queue_is_plain(pgqrs_store *store, const char *queue)
{
    pgqrs_result result = PGQRS_OK;
    int64_t after_id = 0;
    do {
        pgqrs_workflows *found = NULL;
        result = store->backend->workflow_list(store->self, NULL, after_id, PGQRSI_LIST_MAX, &found);
        size_t count = result ? 0 : found->count;
        after_id = count == PGQRSI_LIST_MAX ? found->items[count - 1].id : 0;
        for (size_t i = 0; i < count && !result; i++)
            if (strcmp(found->items[i].settings.queue, queue) == 0)
                result =
                    pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT,
                                "queue \"%s\" has the runs of workflow \"%s\": work on it with pgqrs_work_workflow",
                                queue, found->items[i].name);
        pgqrs_free(found);
    } while (!result && after_id);
    return result;
}

static pgqrs_result pgqrsi_worker_open(pgqrs_store *store, const char *queue, pgqrs_handler handler,
                                       pgqrs_batch_handler batch_handler, void *user, const pgqrs_work_desc *given,
                                       pgqrs_worker **out)
{
    pgqrs_work_desc desc;
    *out = NULL;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result) result = pgqrsi_work_check(store, given, &desc);
    if (result) return result;
    if ((handler != NULL) == (batch_handler != NULL))
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "give exactly one of handler and batch_handler");
    result = pgqrsi_queue_is_plain(store, queue);
    if (result) return result;
    pgqrs_worker *worker = pgqrsi_worker_alloc(store, queue, &desc);
    if (!worker) return pgqrsi_no_memory(store);
    worker->handler = handler;
    worker->batch_handler = batch_handler;
    worker->user = user;
    return pgqrsi_worker_start_up(worker, NULL, out);
}

/* --- verdicts */

static pgqrs_delivery *pgqrsi_delivery_of(const pgqrs_message *message)
{
    return message && message->delivery && message->delivery->worker ? message->delivery : NULL;
}

static pgqrs_result pgqrsi_delivery_decide(const pgqrs_message *message, pgqrs_verdict verdict, int64_t delay_ms,
                                           const char *reason)
{
    pgqrs_delivery *delivery = pgqrsi_delivery_of(message);
    if (!delivery || delay_ms < 0 || delay_ms > PGQRSI_DELAY_MAX_MS) return PGQRS_ERR_INVALID_ARGUMENT;
    delivery->verdict = verdict;
    delivery->delay_ms = delay_ms;
    delivery->reason[0] = '\0';
    if (reason) pgqrsi_reason_copy(reason, delivery->reason);
    return PGQRS_OK;
}

/* What nobody said: success archives, anything else is a failed try. */
static void pgqrsi_delivery_default(pgqrs_delivery *delivery, pgqrs_result returned)
{
    if (delivery->verdict) return;
    delivery->verdict = returned == PGQRS_OK ? PGQRS_ARCHIVE : PGQRS_RETRY;
    if (returned != PGQRS_OK)
        snprintf(delivery->reason, sizeof delivery->reason, "the handler returned %s (%d)", pgqrs_result_name(returned),
                 (int)returned);
}

/* Turns the delivery in slot `owed_count` into a verdict that is owed to the store. */
static pgqrs_result pgqrsi_worker_owe(pgqrs_worker *worker, const pgqrs_message *message)
{
    pgqrs_store *store = worker->store;
    pgqrs_delivery *delivery = &worker->deliveries[worker->owed_count];
    pgqrs_backend_verdict *owed = &worker->owed[worker->owed_count];
    pgqrs_result result = PGQRS_OK;
    memset(owed, 0, sizeof *owed);
    owed->id = message->id;
    owed->lease = message->lease;
    owed->lease_size = message->lease_size;
    owed->verdict = delivery->verdict == PGQRS_RETRY ? PGQRS_RELEASE : delivery->verdict;
    owed->reason = delivery->reason[0] ? delivery->reason : NULL;
    if (delivery->delay_ms > 0)
        owed->due.delay_us = delivery->delay_ms * PGQRSI_US_PER_MS;
    else if (delivery->verdict == PGQRS_RETRY)
        result = pgqrsi_queue_backoff(store, worker->queue, message->attempt, &owed->due.delay_us);
    if (result) /* the settings cannot be read now: the default policy is better than losing the verdict */
        owed->due.delay_us = pgqrsi_backoff_us(store, 1000, 60000, message->attempt);
    if (owed->verdict == PGQRS_RELEASE || owed->verdict == PGQRS_GIVE_BACK) {
        int64_t due_us = pgqrsi_elapsed_us(store) + owed->due.delay_us;
        if (worker->retry_until_us == 0 || due_us > worker->retry_until_us) worker->retry_until_us = due_us;
    }
    if (worker->owed_count++ == 0) worker->owed_since_us = pgqrsi_monotonic_us();
    delivery->worker = NULL;
    return PGQRS_OK;
}

/* --- exchange with the store */

static void pgqrsi_worker_settled(pgqrs_worker *worker)
{
    for (size_t i = 0; i < worker->owed_count; i++)
        if (worker->owed[i].result == PGQRS_ERR_LEASE_LOST)
            pgqrsi_log(worker->store, PGQRS_LOG_WARN,
                       "queue \"%s\": the verdict on message %lld came too late, its lease had ended: give it a longer "
                       "lease_ms, or call "
                       "pgqrs_message_extend in the handler",
                       worker->queue, (long long)worker->owed[i].id);
    pgqrsi_runs_settled(worker);
    worker->owed_count = 0;
}

static bool pgqrsi_worker_beat_due(const pgqrs_worker *worker)
{
    return pgqrsi_elapsed_us(worker->store) - worker->beat_at_us >= worker->desc.heartbeat_ms * PGQRSI_US_PER_MS;
}

static pgqrs_result pgqrsi_worker_flush(pgqrs_worker *worker)
{
    if (worker->owed_count == 0) return PGQRS_OK;
    pgqrs_result result = pgqrsi_exchange(worker->store, worker->owed, worker->owed_count, NULL);
    if (!result) pgqrsi_worker_settled(worker);
    return result;
}

/* A worker that was reclaimed although it lives (a suspended laptop, a long pause) starts again under its name; one that
 * was shut down by somebody stays down. */
static pgqrs_result pgqrsi_worker_stopped(pgqrs_worker *worker)
{
    pgqrs_store *store = worker->store;
    pgqrs_workers *found = NULL;
    pgqrs_result result = pgqrsi_worker_find(store, worker->self.id, &found);
    bool again = found && found->items[0].reclaimed && found->items[0].epoch == worker->self.epoch;
    pgqrs_free(found);
    if (result) return result;
    if (!again) {
        worker->registered = false;
        return pgqrsi_fail(store, PGQRS_ERR_WORKER_STOPPED,
                           "worker \"%s\" was shut down, removed or registered elsewhere", worker->name);
    }
    pgqrsi_log(store, PGQRS_LOG_WARN, "worker \"%s\" was reclaimed because its heartbeat was late; it registers again",
               worker->name);
    return pgqrsi_worker_enlist(worker);
}

static pgqrs_result pgqrsi_worker_beat(pgqrs_worker *worker)
{
    int64_t now_us = pgqrsi_elapsed_us(worker->store);
    if (!pgqrsi_worker_beat_due(worker)) return PGQRS_OK;
    pgqrs_result result = pgqrsi_worker_change(worker->store, worker->self, PGQRS_WORKER_BEAT);
    if (!result) worker->beat_at_us = now_us;
    return result;
}

static pgqrs_result pgqrsi_worker_refusal(pgqrs_worker *worker, const pgqrs_backend_claim *claim)
{
    pgqrs_store *store = worker->store;
    if (claim->refused == PGQRS_ERR_WORKER_STOPPED) return pgqrsi_worker_stopped(worker);
    if (claim->refused == PGQRS_ERR_WORKER_SUSPENDED) {
        worker->suspended = true;
        return worker->desc.until_empty ? pgqrsi_refusal(store, claim) : pgqrsi_worker_beat(worker);
    }
    if (claim->refused == PGQRS_ERR_WORKER_INTERRUPTED) {
        worker->suspended = true;
        pgqrs_result result = pgqrsi_worker_change(store, worker->self, PGQRS_WORKER_SUSPEND);
        return result ? result : pgqrsi_refusal(store, claim);
    }
    if (worker->suspended) {
        worker->suspended = false;
        return pgqrsi_worker_change(store, worker->self, PGQRS_WORKER_BEGIN_POLLING);
    }
    return PGQRS_OK;
}

static size_t pgqrsi_worker_limit(const pgqrs_worker *worker)
{
    size_t limit = worker->batch_handler ? (size_t)worker->desc.batch : worker->window;
    int64_t left = worker->desc.max_messages ? worker->desc.max_messages - worker->handled : INT64_MAX;
    return left < (int64_t)limit ? (size_t)left : limit;
}

/* Settles what is owed and claims the next batch. */
static pgqrs_result pgqrsi_worker_claim(pgqrs_worker *worker)
{
    pgqrs_store *store = worker->store;
    pgqrs_backend_claim claim;
    int64_t started_us = pgqrsi_elapsed_us(store);
    memset(&claim, 0, sizeof claim);
    claim.queue = worker->queue;
    claim.limit = pgqrsi_worker_limit(worker);
    claim.lease_us = worker->lease_ms * PGQRSI_US_PER_MS;
    claim.worker = worker->self;
    claim.heartbeat = pgqrsi_worker_beat_due(worker);
    worker->swallowed = store->swallowed;
    pgqrs_result result = pgqrsi_exchange(store, worker->owed, worker->owed_count, &claim);
    if (result) return result;
    worker->looked_at_us = pgqrsi_monotonic_us();
    pgqrsi_worker_settled(worker);
    pgqrs_free(worker->held);
    worker->held = claim.messages;
    worker->next = 0;
    worker->next_due_us = claim.next_due_us;
    worker->refused = claim.refused != PGQRS_OK;
    worker->lease_end_us = started_us + worker->lease_ms * PGQRSI_US_PER_MS;
    if (claim.heartbeat) worker->beat_at_us = started_us;
    return pgqrsi_worker_refusal(worker, &claim);
}

/* --- handling */

static size_t pgqrsi_worker_unstarted(const pgqrs_worker *worker)
{
    return worker->held ? worker->held->count - worker->next : 0;
}

static pgqrs_result pgqrsi_worker_extend(pgqrs_worker *worker, size_t first, size_t count, int64_t lease_ms,
                                         pgqrs_result *results)
{
    pgqrs_store *store = worker->store;
    const pgqrs_message *items = worker->held->items;
    int64_t started_us = pgqrsi_elapsed_us(store);
    pgqrs_result result = pgqrsi_extend(store, &items[first], count, lease_ms, worker->self, results);
    bool all = !result;
    if (!result) worker->beat_at_us = started_us;
    for (size_t i = 0; results && i < count; i++)
        all = all && results[i] == PGQRS_OK;
    for (size_t i = worker->next; i < worker->held->count;
         i++) /* does what was extended cover all that is not started? */
        all = all && (count > 1 || items[i].lease == items[first].lease);
    if (all && started_us + lease_ms * PGQRSI_US_PER_MS > worker->lease_end_us)
        worker->lease_end_us = started_us + lease_ms * PGQRSI_US_PER_MS;
    return result;
}

static pgqrs_result pgqrsi_message_extend(pgqrs_worker *worker, const pgqrs_message *message, int64_t lease_ms)
{
    pgqrs_result outcome = PGQRS_OK;
    int64_t length_ms = lease_ms ? lease_ms : worker->lease_ms;
    size_t index = (size_t)(message - worker->held->items);
    pgqrs_result result = pgqrsi_worker_extend(worker, index, 1, length_ms, &outcome);
    return result || outcome == PGQRS_OK ? result : pgqrsi_lease_lost(worker->store, message->id);
}

/* Before a message is started: is it surely still ours? Half of the lease gone is the time to renew it; all of it gone means
 * that the rest of the batch is somebody else's by now. */
static bool pgqrsi_worker_lease_ok(pgqrs_worker *worker)
{
    int64_t left_us = worker->lease_end_us - pgqrsi_elapsed_us(worker->store);
    if (left_us <= 0) {
        pgqrsi_log(worker->store, PGQRS_LOG_WARN,
                   "queue \"%s\": the lease of %zu messages ended before they were started; they are delivered again",
                   worker->queue, pgqrsi_worker_unstarted(worker));
        worker->next = worker->held->count;
        return false;
    }
    if (left_us < worker->lease_ms * PGQRSI_US_PER_MS / 2 && worker->next > 0)
        pgqrsi_worker_extend(worker, worker->next, pgqrsi_worker_unstarted(worker), worker->lease_ms, NULL);
    return true;
}

static pgqrs_message *pgqrsi_worker_message(pgqrs_worker *worker, size_t index)
{
    return (pgqrs_message *)&worker->held->items[index]; /* the result object is the worker's own */
}

static void pgqrsi_worker_start(pgqrs_worker *worker, pgqrs_message *message, size_t slot)
{
    pgqrs_delivery *delivery = &worker->deliveries[slot];
    delivery->worker = worker;
    delivery->verdict = (pgqrs_verdict)0;
    delivery->delay_ms = 0;
    delivery->reason[0] = '\0';
    message->delivery = delivery;
}

static void pgqrsi_worker_tell(pgqrs_worker *worker, pgqrs_event_type type, const pgqrs_message *message,
                               pgqrs_result result, int64_t started_us)
{
    if (!worker->store->settings.observer.observe) return;
    pgqrs_event event = pgqrsi_event(type, worker->queue, 1, started_us);
    event.message_id = message->id;
    event.attempt = message->attempt;
    event.result = result;
    pgqrsi_observe(worker->store, event);
}

static bool pgqrsi_worker_last_try(pgqrs_worker *worker, const pgqrs_message *message)
{
    pgqrs_queue_desc settings;
    return pgqrsi_policy_get(worker->store, worker->queue, &settings) == PGQRS_OK &&
           message->attempt >= settings.max_attempts;
}

/* What the person on call wants to read: which message failed, why, and whether that was its end. */
static void pgqrsi_worker_finished(pgqrs_worker *worker, const pgqrs_message *message, const pgqrs_delivery *delivery,
                                   pgqrs_result returned, int64_t started_us)
{
    pgqrs_store *store = worker->store;
    const char *reason = delivery->reason[0] ? delivery->reason : "no reason was given";
    pgqrsi_worker_tell(worker, PGQRS_EVENT_FINISHED, message, returned, started_us);
    if (delivery->verdict == PGQRS_REJECT ||
        (delivery->verdict == PGQRS_RETRY && pgqrsi_worker_last_try(worker, message)))
        pgqrsi_log(store, PGQRS_LOG_WARN, "queue \"%s\": message %lld goes to the dead letters, attempt %d: %s",
                   worker->queue, (long long)message->id, (int)message->attempt, reason);
    else if (delivery->verdict == PGQRS_RETRY)
        pgqrsi_log(store, PGQRS_LOG_INFO, "queue \"%s\": message %lld failed, attempt %d: %s", worker->queue,
                   (long long)message->id, (int)message->attempt, reason);
}

/* The handler may use the store: the call in progress is put aside for as long as it runs. */
static pgqrs_result pgqrsi_worker_call(pgqrs_worker *worker, const pgqrs_message *message)
{
    pgqrs_result returned;
    worker->in_handler = true;
    worker->store->handlers++;
    PGQRSI_FLAG_SET(worker->store->in_call, 0);
    returned = message ? worker->handler(message, worker->user) : worker->batch_handler(worker->held, worker->user);
    PGQRSI_FLAG_SET(worker->store->in_call, 1);
    worker->store->handlers--;
    worker->in_handler = false;
    return returned;
}

static void pgqrsi_worker_handle_message(pgqrs_worker *worker)
{
    pgqrs_message *message = pgqrsi_worker_message(worker, worker->next);
    int64_t started_us = pgqrsi_monotonic_us();
    size_t slot = worker->owed_count;
    pgqrsi_worker_start(worker, message, slot);
    worker->next++;
    pgqrsi_worker_tell(worker, PGQRS_EVENT_STARTED, message, PGQRS_OK, started_us);
    pgqrs_result returned = pgqrsi_worker_call(worker, message);
    pgqrsi_delivery_default(&worker->deliveries[slot], returned);
    pgqrsi_worker_finished(worker, message, &worker->deliveries[slot], returned, started_us);
    pgqrsi_worker_owe(worker, message);
    message->delivery = NULL;
    worker->handled++;
}

static void pgqrsi_worker_handle_batch(pgqrs_worker *worker)
{
    size_t count = worker->held->count;
    int64_t started_us = pgqrsi_monotonic_us();
    for (size_t i = 0; i < count; i++) {
        pgqrsi_worker_start(worker, pgqrsi_worker_message(worker, i), i);
        pgqrsi_worker_tell(worker, PGQRS_EVENT_STARTED, &worker->held->items[i], PGQRS_OK, started_us);
    }
    worker->next = count;
    pgqrs_result returned = pgqrsi_worker_call(worker, NULL);
    for (size_t i = 0; i < count; i++) {
        pgqrs_message *message = pgqrsi_worker_message(worker, i);
        pgqrsi_delivery_default(&worker->deliveries[i], returned);
        pgqrsi_worker_finished(worker, message, &worker->deliveries[i], returned, started_us);
        pgqrsi_worker_owe(worker, message);
        message->delivery = NULL;
    }
    worker->handled += (int64_t)count;
}

/* Messages taken but not started go back without costing an attempt. */
static void pgqrsi_worker_return_rest(pgqrs_worker *worker)
{
    while (pgqrsi_worker_unstarted(worker) > 0) {
        pgqrs_message *message = pgqrsi_worker_message(worker, worker->next++);
        int64_t retry_until_us = worker->retry_until_us;
        pgqrsi_worker_start(worker, message, worker->owed_count);
        worker->deliveries[worker->owed_count].verdict = PGQRS_GIVE_BACK;
        pgqrsi_worker_owe(worker, message);
        message->delivery = NULL;
        worker->retry_until_us = retry_until_us;
    }
}

static bool pgqrsi_worker_stopping(const pgqrs_worker *worker)
{
    return PGQRSI_FLAG_GET(worker->stop) || PGQRSI_FLAG_GET(worker->store->stop);
}

/* A batch that was done well within settle_ms may be twice as large next time; one that took longer is halved. */
static void pgqrsi_worker_adapt(pgqrs_worker *worker, int64_t took_us, size_t count)
{
    int64_t budget_us = worker->desc.settle_ms * PGQRSI_US_PER_MS;
    if (worker->desc.settle_ms < 0 || took_us > budget_us)
        worker->window = worker->window > 1 ? worker->window / 2 : 1;
    else if (count >= worker->window && took_us * 2 < budget_us)
        worker->window = worker->window * 2;
    if (worker->window > (size_t)worker->desc.batch) worker->window = (size_t)worker->desc.batch;
}

static pgqrs_result pgqrsi_worker_handle(pgqrs_worker *worker)
{
    pgqrs_result result = PGQRS_OK;
    int64_t started_us = pgqrsi_monotonic_us();
    size_t count = worker->held->count;
    if (worker->batch_handler && pgqrsi_worker_lease_ok(worker)) {
        pgqrsi_worker_handle_batch(worker);
        return PGQRS_OK;
    }
    while (pgqrsi_worker_unstarted(worker) > 0 && !result) {
        if (pgqrsi_worker_stopping(worker))
            pgqrsi_worker_return_rest(worker);
        else if (pgqrsi_worker_lease_ok(worker))
            worker->runs ? pgqrsi_worker_handle_run(worker) : pgqrsi_worker_handle_message(worker);
        bool late = worker->owed_count &&
                    pgqrsi_monotonic_us() - worker->owed_since_us >= worker->desc.settle_ms * PGQRSI_US_PER_MS;
        if (late && pgqrsi_worker_unstarted(worker) > 0) result = pgqrsi_worker_flush(worker);
    }
    pgqrsi_worker_adapt(worker, pgqrsi_monotonic_us() - started_us, count);
    return result;
}

/* --- one turn, and the loop around it */

/* Retention, and queues nobody claims from, need somebody to look after them: each worker does, most of all when it is idle. */
static pgqrs_result pgqrsi_worker_tend(pgqrs_worker *worker)
{
    int64_t now_us = pgqrsi_elapsed_us(worker->store);
    int64_t pause_us = (worker->held ? 60 : 10) * PGQRSI_US_PER_S;
    int64_t changed = 0;
    if (worker->tended_at_us && now_us - worker->tended_at_us < pause_us) return PGQRS_OK;
    if (worker->held && !worker->tended_at_us) /* a loop that starts with work does the work first */
        worker->tended_at_us = now_us;
    if (worker->held && now_us == worker->tended_at_us) return PGQRS_OK;
    worker->tended_at_us = now_us;
    return worker->store->backend->maintain(worker->store->self, pgqrsi_now(worker->store), &changed);
}

/* A failed settlement leaves its verdicts owed and unstarted messages held: finish these before claiming anew. */
static pgqrs_result pgqrsi_worker_resume(pgqrs_worker *worker)
{
    pgqrs_result result = pgqrsi_worker_unstarted(worker) ? pgqrsi_worker_flush(worker) : PGQRS_OK;
    if (!result && pgqrsi_worker_unstarted(worker)) result = pgqrsi_worker_handle(worker);
    return result;
}

static pgqrs_result pgqrsi_worker_turn(pgqrs_worker *worker)
{
    pgqrs_result result = pgqrsi_worker_resume(worker);
    if (!result) result = pgqrsi_worker_claim(worker);
    if (!result && worker->held) result = pgqrsi_worker_handle(worker);
    return result ? result : pgqrsi_worker_tend(worker);
}

static bool pgqrsi_worker_all_done(const pgqrs_worker *worker)
{
    return worker->desc.max_messages && worker->handled >= worker->desc.max_messages;
}

/* Is there nothing left that this loop would wait for? */
static bool pgqrsi_worker_drained(const pgqrs_worker *worker)
{
    int64_t grace_us = 50 * PGQRSI_US_PER_MS; /* the server's clock and ours need not agree to the millisecond */
    if (pgqrsi_worker_all_done(worker)) return true;
    if (!worker->desc.until_empty || worker->held || worker->refused) return false;
    return worker->retry_until_us == 0 || pgqrsi_elapsed_us(worker->store) > worker->retry_until_us + grace_us ||
           worker->next_due_us < 0;
}

static int64_t pgqrsi_worker_beat_left_ms(const pgqrs_worker *worker)
{
    int64_t left_us =
        worker->beat_at_us + worker->desc.heartbeat_ms * PGQRSI_US_PER_MS - pgqrsi_elapsed_us(worker->store);
    return left_us <= 0 ? 0 : left_us / PGQRSI_US_PER_MS + 1;
}

/* Lies down until something may have come, the heartbeat is due or `timeout_ms` is over. */
static pgqrs_result pgqrsi_worker_rest(pgqrs_worker *worker, int64_t timeout_ms, bool *again)
{
    pgqrsi_wait *wait = &worker->wait;
    int64_t armed_at_us = wait->armed_at_us;
    size_t probe = wait->probe;
    pgqrsi_wait_open(wait, worker->store, worker->queue, &worker->stop, worker->desc.poll_ms, timeout_ms);
    wait->armed_at_us = armed_at_us;
    wait->probe = probe;
    pgqrs_result result = pgqrsi_wait_next(wait, worker->next_due_us, again);
    *again = !pgqrsi_worker_stopping(worker); /* whether the whole time is over is the caller's to say */
    return result;
}

/* A store that fails for a passing reason is asked again, ever more slowly, until somebody says stop. */
static bool pgqrsi_worker_may_go_on(pgqrs_worker *worker, pgqrs_result result)
{
    pgqrs_store *store = worker->store;
    bool again = false;
    bool passing = pgqrs_result_kind(result) == PGQRS_KIND_RETRY || result == PGQRS_ERR_OUTCOME_UNKNOWN;
    if (!passing || (worker->desc.until_empty && worker->failures >= 3)) return false;
    int64_t delay_us = pgqrsi_backoff_us(store, 100, 30000, ++worker->failures);
    pgqrsi_log(store, PGQRS_LOG_WARN, "queue \"%s\": %s; trying again in %lld ms", worker->queue, store->error.message,
               (long long)(delay_us / PGQRSI_US_PER_MS));
    pgqrsi_wait wait;
    pgqrsi_wait_open(&wait, store, NULL, &worker->stop, PGQRSI_YEAR_MS, delay_us / PGQRSI_US_PER_MS + 1);
    do {
        if (pgqrsi_wait_next(&wait, -1, &again) != PGQRS_OK) return false;
    } while (again && !wait.over);
    return true;
}

static pgqrs_result pgqrsi_worker_run(pgqrs_worker *worker)
{
    pgqrs_result result = PGQRS_OK;
    while (!pgqrsi_worker_stopping(worker)) {
        bool again = true;
        result = pgqrsi_worker_turn(worker);
        if (!result) {
            worker->failures = 0;
            if (pgqrsi_worker_drained(worker)) break;
            if (!worker->held) result = pgqrsi_worker_rest(worker, pgqrsi_worker_beat_left_ms(worker) + 1, &again);
        }
        if (result && !pgqrsi_worker_may_go_on(worker, result)) break;
    }
    return pgqrsi_worker_stopping(worker) && pgqrs_result_kind(result) == PGQRS_KIND_RETRY ? PGQRS_OK : result;
}

/* The error of the loop is what the caller wants to know; an error while tidying up only counts when there is none. */
static pgqrs_result pgqrsi_worker_close(pgqrs_worker *worker, pgqrs_result result)
{
    pgqrs_store *store = worker->store;
    pgqrs_error first = store->error;
    pgqrs_result last;
    pgqrsi_wait_close(&worker->wait);
    pgqrsi_worker_return_rest(worker);
    last = pgqrsi_worker_flush(worker);
    if (worker->registered && worker->own_name) {
        pgqrs_backend_worker_change change;
        memset(&change, 0, sizeof change);
        change.now_us = pgqrsi_now(store);
        change.worker = worker->self;
        change.from = PGQRSI_STATES_LIVE;
        change.to = PGQRS_WORKER_STOPPED;
        change.beat = true;
        pgqrs_result stopped = store->backend->worker_change(store->self, &change);
        last = last ? last : stopped;
    } else if (!worker->own_name && worker->self.id) {
        pgqrs_result removed = store->backend->worker_delete(store->self, pgqrsi_now(store), worker->self.id, true);
        last = last || removed == PGQRS_ERR_WORKER_NOT_FOUND ? last : removed;
    }
    if (worker->registered)
        pgqrsi_log(store, PGQRS_LOG_INFO, "queue \"%s\": worker \"%s\" ends after %lld messages", worker->queue,
                   worker->name, (long long)worker->handled);
    pgqrsi_worker_free(worker);
    if (!result) return last;
    store->error = first;
    return result;
}

/* Runs a worker that was opened with `result`, and closes it. */
static pgqrs_result pgqrsi_work_through(pgqrs_worker *worker, pgqrs_result result)
{
    pgqrs_store *store = worker->store;
    if (!result) result = pgqrsi_worker_run(worker);
    result = pgqrsi_worker_close(worker, result);
    pgqrsi_stop_take(store);
    return result;
}

static pgqrs_result pgqrsi_work(pgqrs_store *store, const char *queue, pgqrs_handler handler,
                                pgqrs_batch_handler batch_handler, void *user, const pgqrs_work_desc *desc)
{
    pgqrs_worker *worker = NULL;
    pgqrs_result result = pgqrsi_worker_open(store, queue, handler, batch_handler, user, desc, &worker);
    return worker ? pgqrsi_work_through(worker, result) : result;
}

/* For foreign loops: one batch, everything settled before it returns, lying down armed so that the descriptor speaks. */
static pgqrs_result pgqrsi_worker_poll(pgqrs_worker *worker, int64_t timeout_ms)
{
    pgqrs_store *store = worker->store;
    pgqrsi_wait whole;
    pgqrsi_wait_open(&whole, store, NULL, NULL, 0, timeout_ms);
    bool again = !pgqrsi_worker_stopping(worker) && !pgqrsi_worker_all_done(worker);
    pgqrs_result result = worker->wait.armed_at_us ? pgqrsi_wait_arm(&worker->wait) : PGQRS_OK;
    while (again && !result) {
        again = false;
        result = pgqrsi_worker_turn(worker);
        int64_t left_us = pgqrsi_wait_left_us(&whole);
        int64_t left_ms = left_us > 0 ? left_us / PGQRSI_US_PER_MS + 1 : 0;
        if (!result && !worker->held && left_ms > 0)
            result = pgqrsi_worker_rest(worker, pgqrsi_min(left_ms, pgqrsi_worker_beat_left_ms(worker) + 1), &again);
    }
    if (!result) result = pgqrsi_worker_flush(worker);
    if (!result && !worker->held && !worker->wait.armed_at_us) result = pgqrsi_wait_arm(&worker->wait);
    if (pgqrsi_worker_all_done(worker)) /* pgqrs_worker_stopping tells the event loop */
        PGQRSI_FLAG_SET(worker->stop, 1);
    pgqrsi_stop_take(store);
    return result;
}

static int64_t pgqrsi_worker_next_ms(pgqrs_worker *worker)
{
    int64_t next_ms = pgqrsi_min(pgqrsi_worker_beat_left_ms(worker), worker->desc.poll_ms);
    bool looked = worker->looked_at_us && worker->looked_at_us >= worker->wait.armed_at_us;
    if (worker->held || pgqrsi_worker_stopping(worker) || worker->owed_count || !looked ||
        worker->swallowed != worker->store->swallowed)
        return 0;
    if (worker->next_due_us >= 0) {
        int64_t left_us = worker->next_due_us - (pgqrsi_monotonic_us() - worker->looked_at_us);
        next_ms = pgqrsi_min(next_ms, left_us <= 0 ? 0 : left_us / PGQRSI_US_PER_MS + 1);
    }
    return next_ms;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>workflow: runs and steps, on top of the deliveries above
 *
 * A delivery of a run: load it (one query), call the function, put what came of it into the verdict's `run`, which the next
 * exchange stores with the verdict and the next claim. In between, finished steps wait in `pending` and are written before the
 * next body is entered: one write per step, the last one for free. Nothing else is remembered between deliveries.
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_CODE_MAX 64
#define PGQRSI_RUN_PENDING 8
#define PGQRSI_RUN_AGAIN_MS 1000 /* before a run of a workflow that this worker does not serve is offered again */
#define PGQRSI_RUN_FRESH_US (50 * PGQRSI_US_PER_MS)
#define PGQRSI_RUN_END_US (10 * PGQRSI_US_PER_S)
#define PGQRSI_RUN_SKIPPED_MANY 10000
#define PGQRSI_NO_STEP SIZE_MAX

typedef struct pgqrsi_step {
    pgqrs_step_info info;
    bool met; /* in this execution */
} pgqrsi_step;

struct pgqrs_run {
    pgqrs_worker *worker; /* NULL: its function is not running */
    const pgqrs_message *message;
    pgqrs_backend_run *loaded; /* and the arena of every text below; NULL: nothing to store */
    int64_t loaded_at_us;      /* by pgqrsi_elapsed_us */
    pgqrsi_step *steps;
    size_t step_count, step_room;
    uint32_t *table; /* open addressing by kind, name and key: index + 1, 0 is free */
    size_t table_size;
    int32_t last_number;
    pgqrs_step_info pending[PGQRSI_RUN_PENDING]; /* finished, not stored */
    size_t pending_count;
    bool progress; /* a step was completed in this delivery */
    bool stored;   /* something was written in this delivery */
    bool cancel;   /* a write saw that a cancel is asked for: heeded once no step is under way */
    /* the step under way */
    size_t open; /* PGQRSI_NO_STEP: none */
    bool transaction;
    int64_t outer_lease_end_us; /* what holds when the transaction is rolled back */
    pgqrs_retry_policy policy;
    int64_t timeout_us;
    int64_t opened_at_us; /* by pgqrsi_elapsed_us */
    /* how it ends */
    bool stranger;       /* of a workflow that the worker does not serve */
    uint64_t skipped;    /* calls after it had to stop */
    pgqrs_result status; /* not PGQRS_OK: no body is entered any more */
    pgqrs_error error;
    bool returned;
    const char *output;
    size_t output_size;
    bool failed;
    char code[PGQRSI_CODE_MAX + 1];
    char text[PGQRSI_REASON_MAX + 1];
    const char *failed_step;
    int32_t retries;
    pgqrs_run_wait wait;
    const char *wait_name;
    int64_t wait_until_us;
    pgqrs_backend_run_write write;
};

typedef struct pgqrsi_entry {
    char workflow[PGQRSI_NAME_MAX + 1];
    pgqrs_workflow_handler handler;
    void *user;
} pgqrsi_entry;

/* What makes a worker a worker of workflows. */
typedef struct pgqrsi_runs {
    size_t bytes;
    pgqrsi_entry *entries;
    size_t entry_count;
    pgqrs_run *items; /* parallel to the worker's deliveries */
    size_t count;
} pgqrsi_runs;

/* --- retry policies */

static pgqrs_retry_policy pgqrsi_retry_resolve(const pgqrs_retry_policy *own, const pgqrs_retry_policy *fallback)
{
    pgqrs_retry_policy policy = *own;
    policy.max_retries = PGQRSI_DEFAULT(own->max_retries, fallback->max_retries);
    policy.backoff = own->backoff || own->base_ms ? own->backoff : fallback->backoff;
    policy.base_ms = PGQRSI_DEFAULT(own->base_ms, fallback->base_ms);
    if (!own->base_ms && own->cap_ms && own->cap_ms < policy.base_ms) policy.base_ms = own->cap_ms;
    policy.cap_ms = PGQRSI_DEFAULT(own->cap_ms, fallback->cap_ms > policy.base_ms ? fallback->cap_ms : policy.base_ms);
    policy.jitter_percent = PGQRSI_DEFAULT(own->jitter_percent, fallback->jitter_percent);
    return policy;
}

static const pgqrs_retry_policy pgqrsi_retry_default = {3, PGQRS_BACKOFF_EXPONENTIAL, 1000, 60000, 25};

static int64_t pgqrsi_retry_delay_ms(const pgqrs_retry_policy *policy, int32_t retry, uint64_t random)
{
    int64_t delay_ms = policy->base_ms < policy->cap_ms ? policy->base_ms : policy->cap_ms;
    if (policy->backoff == PGQRS_BACKOFF_FIXED) delay_ms = policy->base_ms;
    if (delay_ms <= 0) return 0;
    for (int32_t i = 0; policy->backoff != PGQRS_BACKOFF_FIXED && i < retry && delay_ms < policy->cap_ms; i++)
        delay_ms = delay_ms > policy->cap_ms / 2 ? policy->cap_ms : delay_ms * 2;
    int64_t percent = policy->jitter_percent < 0 ? 0 : pgqrsi_min(policy->jitter_percent, 100);
    delay_ms = pgqrsi_min(delay_ms, INT64_MAX / 4);
    int64_t spread_ms = delay_ms / 100 * percent + delay_ms % 100 * percent / 100;
    return delay_ms - spread_ms + (int64_t)(random % ((uint64_t)spread_ms * 2 + 1));
}

static pgqrs_result pgqrsi_retry_check(const pgqrs_retry_policy *policy, pgqrs_error *err)
{
    const struct {
        const char *member;
        int64_t value, least, most;
    } ranges[] = {
        {"retry.max_retries", policy->max_retries, -1, INT32_MAX},
        {"retry.backoff", (int64_t)policy->backoff, PGQRS_BACKOFF_EXPONENTIAL, PGQRS_BACKOFF_FIXED},
        {"retry.base_ms", policy->base_ms, 0, PGQRSI_LEASE_MAX_MS},
        {"retry.cap_ms", policy->cap_ms, 0, PGQRSI_LEASE_MAX_MS},
        {"retry.jitter_percent", policy->jitter_percent, -1, 100},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].value < ranges[i].least || ranges[i].value > ranges[i].most)
            return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "%s is %lld, allowed is %lld to %lld",
                                    ranges[i].member, (long long)ranges[i].value, (long long)ranges[i].least,
                                    (long long)ranges[i].most);
    if (policy->base_ms && policy->cap_ms && policy->base_ms > policy->cap_ms)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "retry.base_ms (%lld) is above retry.cap_ms (%lld)",
                                (long long)policy->base_ms, (long long)policy->cap_ms);
    return PGQRS_OK;
}

/* --- how a run stops */

static int64_t pgqrsi_run_now(const pgqrs_run *run)
{
    return run->loaded->now_us + (pgqrsi_elapsed_us(run->worker->store) - run->loaded_at_us);
}

/* The first reason to stop is the one that counts. */
static pgqrs_result pgqrsi_run_halt(pgqrs_run *run, pgqrs_result why, const char *format, ...) PGQRSI_PRINTF(3, 4);
static pgqrs_result pgqrsi_run_halt(pgqrs_run *run, pgqrs_result why, const char *format, ...)
{
    va_list arguments;
    if (run->status) return run->status;
    va_start(arguments, format);
    pgqrsi_error_format(&run->error, why, format, arguments);
    va_end(arguments);
    return run->status = why;
}

static pgqrs_result pgqrsi_run_halt_store(pgqrs_run *run, pgqrs_result result)
{
    if (run->status) return run->status;
    run->error = run->worker->store->error;
    if (run->error.code != result) pgqrsi_error_set(&run->error, result, "%s", pgqrs_result_text(result));
    return run->status = result;
}

static pgqrs_result pgqrsi_run_lost(pgqrs_run *run)
{
    return pgqrsi_run_halt(run, PGQRS_ERR_LEASE_LOST,
                           "run %lld: its lease has ended, somebody else may have it; give the queue a longer "
                           "lease_ms, or call pgqrs_run_extend",
                           (long long)run->message->id);
}

static pgqrs_result pgqrsi_run_no_memory(pgqrs_run *run)
{
    return pgqrsi_run_halt(run, PGQRS_ERR_NO_MEMORY, "out of memory: the allocator returned NULL");
}

static void pgqrsi_code_copy(const char *code, char out[PGQRSI_CODE_MAX + 1])
{
    size_t bad = 0;
    snprintf(out, PGQRSI_CODE_MAX + 1, "%s", code && *code ? code : "FAILED");
    pgqrsi_text_trim(out, PGQRSI_CODE_MAX + 1);
    while (!pgqrsi_utf8_valid(out, strlen(out), &bad))
        out[bad] = '?';
}

/* For good: the run ends as an error. `step` is one of its own texts, or NULL. */
static pgqrs_result pgqrsi_run_fail_for_good(pgqrs_run *run, pgqrs_result why, const char *step, const char *code,
                                             const char *text)
{
    if (run->status) return run->status;
    run->failed = true;
    run->failed_step = step;
    pgqrsi_code_copy(code, run->code);
    run->text[0] = '\0';
    if (text) pgqrsi_reason_copy(text, run->text);
    return pgqrsi_run_halt(run, why, "run %lld of \"%s\" failed%s%s%s: %s%s%s", (long long)run->message->id,
                           run->loaded->workflow, step ? " in step \"" : "", step ? step : "", step ? "\"" : "",
                           run->code, run->text[0] ? ": " : "", run->text);
}

/* The program uses the run in a way that cannot be right: that must be seen, not be retried. */
static pgqrs_result pgqrsi_run_misuse(pgqrs_run *run, const char *format, ...) PGQRSI_PRINTF(2, 3);
static pgqrs_result pgqrsi_run_misuse(pgqrs_run *run, const char *format, ...)
{
    pgqrs_error detail;
    va_list arguments;
    va_start(arguments, format);
    pgqrsi_error_format(&detail, PGQRS_ERR_STEP_MISUSE, format, arguments);
    va_end(arguments);
    return pgqrsi_run_fail_for_good(run, PGQRS_ERR_STEP_MISUSE, NULL, "MISUSE", detail.message);
}

/* Goes on later: when `until_us` has come, 0: not by itself. */
static pgqrs_result pgqrsi_run_suspend(pgqrs_run *run, pgqrs_run_wait wait, const char *name, int64_t until_us)
{
    run->wait = wait;
    run->wait_name = name;
    run->wait_until_us = until_us;
    return pgqrsi_run_halt(run, PGQRS_ERR_RUN_WAITING, "run %lld waits (%s%s%s): its function is entered again later",
                           (long long)run->message->id, pgqrs_run_wait_name(wait), name ? " " : "", name ? name : "");
}

static int64_t pgqrsi_run_after(const pgqrs_run *run, int64_t delay_ms)
{
    return pgqrsi_min(pgqrsi_later_us(pgqrsi_run_now(run), delay_ms), PGQRSI_TIME_MAX_US);
}

static int64_t pgqrsi_run_retry_at(const pgqrs_run *run, const pgqrs_retry_policy *policy, int32_t retries,
                                   const pgqrs_failure *failure)
{
    int64_t delay_ms = pgqrsi_retry_delay_ms(policy, retries, pgqrsi_random(run->worker->store));
    if (failure->retry_after_ms) delay_ms = failure->retry_after_ms < 0 ? 0 : failure->retry_after_ms;
    return pgqrsi_run_after(run, delay_ms);
}

/* The run as a whole failed, outside of a step. */
static pgqrs_result pgqrsi_run_try_again(pgqrs_run *run, const pgqrs_failure *failure)
{
    const pgqrs_retry_policy *policy = &run->loaded->settings.retry;
    if (!failure->transient || run->retries >= policy->max_retries)
        return pgqrsi_run_fail_for_good(run, PGQRS_ERR_RUN_FAILED, NULL, failure->code, failure->message);
    int64_t due_us = pgqrsi_run_retry_at(run, policy, run->retries, failure);
    run->retries++;
    return pgqrsi_run_suspend(run, PGQRS_WAIT_RETRY, NULL, due_us);
}

/* --- the steps in memory */

static const char *pgqrsi_text_or_empty(const char *text)
{
    return text ? text : "";
}

static size_t pgqrsi_step_slot(const pgqrs_run *run, pgqrs_step_kind kind, const char *name, const char *key)
{
    uint64_t hash = pgqrsi_hash(name) * 31 + pgqrsi_hash(pgqrsi_text_or_empty(key)) + (uint64_t)kind;
    size_t mask = run->table_size - 1;
    size_t slot = (size_t)(hash ^ (hash >> 32)) & mask;
    for (; run->table[slot]; slot = (slot + 1) & mask) {
        const pgqrs_step_info *info = &run->steps[run->table[slot] - 1].info;
        if (info->kind == kind && strcmp(info->name, name) == 0 &&
            strcmp(pgqrsi_text_or_empty(info->key), pgqrsi_text_or_empty(key)) == 0)
            break;
    }
    return slot;
}

/* Room for `room` steps; the old arrays stay in the arena. */
static bool pgqrsi_run_grow(pgqrs_run *run, size_t room)
{
    size_t table_size = 16;
    while (table_size < 2 * room)
        table_size *= 2;
    pgqrsi_step *steps = (pgqrsi_step *)pgqrsi_result_alloc(run->loaded, room * sizeof *steps);
    uint32_t *table = (uint32_t *)pgqrsi_result_alloc(run->loaded, table_size * sizeof *table);
    if (!steps || !table) return false;
    if (run->step_count) memcpy(steps, run->steps, run->step_count * sizeof *steps);
    run->steps = steps;
    run->step_room = room;
    run->table = table;
    run->table_size = table_size;
    for (size_t i = 0; i < run->step_count; i++) {
        const pgqrs_step_info *info = &steps[i].info;
        table[pgqrsi_step_slot(run, info->kind, info->name, info->key)] = (uint32_t)i + 1;
    }
    return true;
}

static bool pgqrsi_run_index(pgqrs_run *run)
{
    const pgqrs_backend_run *loaded = run->loaded;
    if (!pgqrsi_run_grow(run, loaded->step_count + 16)) return false;
    for (size_t i = 0; i < loaded->step_count; i++) {
        const pgqrs_step_info *info = &loaded->steps[i];
        run->steps[i].info = *info;
        run->step_count = i + 1;
        run->table[pgqrsi_step_slot(run, info->kind, info->name, info->key)] = (uint32_t)i + 1;
        if (info->number > run->last_number) run->last_number = info->number;
    }
    return true;
}

static pgqrsi_step *pgqrsi_run_add(pgqrs_run *run, pgqrs_step_kind kind, const char *name, const char *key)
{
    if (run->step_count == run->step_room && !pgqrsi_run_grow(run, run->step_room * 2)) return NULL;
    pgqrsi_step *step = &run->steps[run->step_count];
    memset(step, 0, sizeof *step);
    step->info.kind = kind;
    step->info.name = pgqrsi_result_text(run->loaded, name, -1);
    step->info.key = pgqrsi_result_text(run->loaded, key, -1);
    if (!step->info.name || (key && !step->info.key)) return NULL;
    step->info.number = ++run->last_number;
    run->table[pgqrsi_step_slot(run, kind, name, key)] = (uint32_t)++run->step_count;
    return step;
}

static const char *pgqrsi_step_noun(pgqrs_step_kind kind)
{
    return kind == PGQRS_STEP_SLEEP ? "sleep" : kind == PGQRS_STEP_EVENT ? "event" : "step";
}

static bool pgqrsi_run_check_name(pgqrs_run *run, const char *what, const char *name)
{
    pgqrs_error detail;
    if (pgqrsi_check_name(what, name, &detail) == PGQRS_OK) return true;
    pgqrsi_run_misuse(run, "%s", detail.message);
    return false;
}

/* The step of this name, known or new; NULL when the run has to stop. */
static pgqrsi_step *pgqrsi_run_meet(pgqrs_run *run, pgqrs_step_kind kind, const char *name, const char *key)
{
    if (!pgqrsi_run_check_name(run, pgqrsi_step_noun(kind), name)) return NULL;
    if (key && !pgqrsi_run_check_name(run, "step key", key)) return NULL;
    if (run->open != PGQRSI_NO_STEP) {
        pgqrsi_run_misuse(run, "%s \"%s\" begins inside of step \"%s\": first say what became of that one",
                          pgqrsi_step_noun(kind), name, run->steps[run->open].info.name);
        return NULL;
    }
    uint32_t place = run->table[pgqrsi_step_slot(run, kind, name, key)];
    pgqrsi_step *step = place ? &run->steps[place - 1] : pgqrsi_run_add(run, kind, name, key);
    if (!step) {
        pgqrsi_run_no_memory(run);
    } else if (step->met) {
        pgqrsi_run_misuse(run, "%s \"%s\"%s%s is met twice in one execution: give each its own %s",
                          pgqrsi_step_noun(kind), name, key ? " with key " : "", pgqrsi_text_or_empty(key),
                          kind == PGQRS_STEP_BODY ? "name or key" : "name");
        return NULL;
    } else {
        step->met = true;
    }
    return step;
}

/* --- storing */

static void pgqrsi_run_write_begin(pgqrs_run *run)
{
    pgqrs_backend_run_write *write = &run->write;
    memset(write, 0, sizeof *write);
    write->now_us = pgqrsi_now(run->worker->store);
    write->run_id = run->message->id;
    write->lease = run->message->lease;
    write->steps = run->pending;
    write->step_count = run->pending_count;
    write->retries = run->retries;
}

/* Stores what is pending, and a value. */
static bool pgqrsi_run_store_now(pgqrs_run *run, int64_t lease_us, const pgqrs_backend_value *value)
{
    pgqrs_worker *worker = run->worker;
    int64_t started_us = pgqrsi_elapsed_us(worker->store);
    pgqrsi_run_write_begin(run);
    run->write.lease_us = lease_us;
    run->write.values = value;
    run->write.value_count = value ? 1 : 0;
    run->write.started_at_us = run->stored || run->loaded->started_at_us ? 0 : run->loaded->now_us;
    pgqrs_result result = worker->store->backend->run_write(worker->store->self, &run->write);
    if (result) return pgqrsi_run_halt_store(run, result) == PGQRS_OK;
    if (run->write.result) return pgqrsi_run_lost(run) == PGQRS_OK;
    run->pending_count = 0;
    run->stored = true;
    run->cancel = run->cancel || run->write.cancel;
    if (lease_us && started_us + lease_us > worker->lease_end_us) worker->lease_end_us = started_us + lease_us;
    return true;
}

/* A step under way when the cancel came is still recorded. */
static void pgqrsi_run_heed_cancel(pgqrs_run *run)
{
    if (run->cancel && run->open == PGQRSI_NO_STEP && !run->transaction)
        pgqrsi_run_halt(run, PGQRS_ERR_RUN_CANCELLED, "run %lld is asked to cancel", (long long)run->message->id);
}

static bool pgqrsi_run_put(pgqrs_run *run, const pgqrsi_step *step)
{
    if (run->pending_count == PGQRSI_RUN_PENDING && !pgqrsi_run_store_now(run, 0, NULL)) return false;
    run->pending[run->pending_count++] = step->info;
    return true;
}

/* How long the lease is to last from now; 0: it need not be touched. A body with a timeout gets that and time to report. Otherwise
 * a body gets nearly the whole lease whenever something is written anyway, and half of it at least. */
static int64_t pgqrsi_run_lease_us(const pgqrs_run *run, int64_t need_us)
{
    int64_t whole_us = run->worker->lease_ms * PGQRSI_US_PER_MS;
    int64_t left_us = run->worker->lease_end_us - pgqrsi_elapsed_us(run->worker->store);
    int64_t least_us = run->pending_count ? whole_us - whole_us / 8 : whole_us / 2;
    if (need_us && left_us < need_us + whole_us / 2) return need_us + whole_us;
    return left_us < least_us ? whole_us : 0;
}

/* May a body be entered without asking the store? Only right after the run was loaded. */
static bool pgqrsi_run_is_fresh(const pgqrs_run *run)
{
    return !run->stored && pgqrsi_elapsed_us(run->worker->store) - run->loaded_at_us < PGQRSI_RUN_FRESH_US;
}

static bool pgqrsi_run_is_late(pgqrs_run *run)
{
    int64_t deadline_us = run->loaded->deadline_at_us;
    if (!deadline_us || pgqrsi_run_now(run) < deadline_us) return false;
    pgqrsi_run_fail_for_good(run, PGQRS_ERR_RUN_FAILED, NULL, "TIMEOUT", "the run's timeout_ms is over");
    return true;
}

/* Before a body is entered: everything done so far is durable, and the run is still ours and wanted. */
static bool pgqrsi_run_boundary(pgqrs_run *run, int64_t need_us)
{
    pgqrs_worker *worker = run->worker;
    long long id = (long long)run->message->id;
    if (pgqrsi_worker_stopping(worker))
        pgqrsi_run_halt(run, PGQRS_ERR_RUN_STOPPED, "run %lld is given back because its worker is told to stop", id);
    else
        (void)pgqrsi_run_is_late(run);
    if (run->status) return false;
    (void)pgqrsi_worker_beat(worker); /* whether it may go on, the lease decides */
    int64_t lease_us = pgqrsi_run_lease_us(run, need_us);
    if (run->pending_count || lease_us || !pgqrsi_run_is_fresh(run)) (void)pgqrsi_run_store_now(run, lease_us, NULL);
    pgqrsi_run_heed_cancel(run);
    return run->status == PGQRS_OK;
}

/* --- checks of what the function says */

/* Messages about JSON begin with what it is. */
static void pgqrsi_error_rename(pgqrs_error *err, const char *what)
{
    static const char payload[] = "payload: ";
    char rest[PGQRS_ERROR_MESSAGE_SIZE];
    if (strncmp(err->message, payload, sizeof payload - 1) != 0) return;
    snprintf(rest, sizeof rest, "%s", err->message + sizeof payload - 1);
    snprintf(err->message, sizeof err->message, "%s: %.300s", what, rest);
    pgqrsi_text_trim(err->message, sizeof err->message);
}

/* JSON that the run stores: well-formed, and within the store's size and depth. The rules about keys are for payloads. */
static pgqrs_result pgqrsi_run_check_json(const pgqrs_run *run, const char *json, size_t size, pgqrs_error *detail)
{
    pgqrs_store_desc settings = run->worker->store->settings;
    settings.validation.forbidden_key_count = 0;
    settings.validation.required_key_count = 0;
    settings.validation.max_string_bytes = 0;
    return pgqrsi_check_payload(&settings, json, size, detail);
}

/* The run's own copy; NULL when the run has to stop. */
static const char *pgqrsi_run_take_json(pgqrs_run *run, const char *what, const char *step, const char *json)
{
    pgqrs_error detail;
    char text[PGQRSI_REASON_MAX + 1];
    const char *given = json ? json : "null";
    size_t size = strlen(given);
    pgqrs_result result = pgqrsi_run_check_json(run, given, size, &detail);
    if (result == PGQRS_ERR_NO_MEMORY) {
        pgqrsi_run_no_memory(run);
        return NULL;
    }
    if (result) {
        pgqrsi_error_rename(&detail, what);
        snprintf(text, sizeof text, "%s%s", detail.message,
                 result == PGQRS_ERR_JSON ? "; a plain text is JSON in quotes: \"\\\"like this\\\"\"" : "");
        pgqrsi_run_fail_for_good(run, PGQRS_ERR_RUN_FAILED, step, "BAD_JSON", text);
        return NULL;
    }
    char *copy = pgqrsi_result_text(run->loaded, given, (int64_t)size);
    if (!copy) pgqrsi_run_no_memory(run);
    return copy;
}

/* --- texts as JSON */

static const char *pgqrsi_run_quote(pgqrs_run *run, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    size_t size = strlen(text);
    if (!pgqrsi_utf8_valid(text, size, NULL)) return NULL;
    char *quoted = size < SIZE_MAX / 8 ? (char *)pgqrsi_result_alloc(run->loaded, 6 * size + 3) : NULL;
    char *out = quoted;
    if (!quoted) {
        pgqrsi_run_no_memory(run);
        return NULL;
    }
    *out++ = '"';
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20) {
            memcpy(out, "\\u00", 4);
            out[4] = hex[c >> 4];
            out[5] = hex[c & 15];
            out += 6;
            continue;
        }
        if (c == '"' || c == '\\') *out++ = '\\';
        *out++ = (char)c;
    }
    memcpy(out, "\"", 2);
    return quoted;
}

typedef struct pgqrsi_unquoting {
    pgqrs_run *run;
    const char *text;
} pgqrsi_unquoting;

static bool pgqrsi_run_unquote_report(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    pgqrsi_unquoting *unquoting = (pgqrsi_unquoting *)context;
    if (event != PGQRS_JSON_STRING || memchr(text, 0, size)) return false;
    unquoting->text = pgqrsi_result_text(unquoting->run->loaded, text, (int64_t)size);
    if (!unquoting->text) pgqrsi_run_no_memory(unquoting->run);
    return unquoting->text != NULL;
}

static const char *pgqrsi_run_unquote(pgqrs_run *run, const char *json)
{
    const pgqrs_store_desc *settings = &run->worker->store->settings;
    pgqrs_allocator allocator = settings->allocator;
    void *user = settings->json.parse == pgqrsi_json_parse ? &allocator : settings->json.user;
    size_t offset = 0;
    pgqrsi_unquoting unquoting;
    unquoting.run = run;
    unquoting.text = NULL;
    bool fine = settings->json.parse(json, strlen(json), pgqrsi_run_unquote_report, &unquoting, &offset, user);
    return fine ? unquoting.text : NULL;
}

/* --- transactional steps */

static bool pgqrsi_run_transact(pgqrs_run *run, pgqrs_backend_verb verb)
{
    pgqrs_store *store = run->worker->store;
    pgqrs_result result = store->backend->transaction(store->self, verb);
    if (verb == PGQRS_BACKEND_BEGIN)
        run->outer_lease_end_us = run->worker->lease_end_us;
    else if (result || verb == PGQRS_BACKEND_ROLLBACK)
        run->worker->lease_end_us = run->outer_lease_end_us;
    run->transaction = verb == PGQRS_BACKEND_BEGIN && !result;
    if (result && verb != PGQRS_BACKEND_ROLLBACK) pgqrsi_run_halt_store(run, result);
    return result == PGQRS_OK;
}

/* Takes back what the body wrote; what it reported with it is not stored either. */
static void pgqrsi_run_rollback(pgqrs_run *run)
{
    if (!run->transaction) return;
    (void)pgqrsi_run_transact(run, PGQRS_BACKEND_ROLLBACK);
    run->pending_count = 0;
}

/* Inside a transaction the checkpoint is written now, and committed with the rest. */
static bool pgqrsi_run_commit(pgqrs_run *run)
{
    if (pgqrsi_run_store_now(run, 0, NULL) && pgqrsi_run_transact(run, PGQRS_BACKEND_COMMIT)) return true;
    pgqrsi_run_rollback(run);
    if (run->status == PGQRS_ERR_TRANSACTION) { /* trying again would make it worse */
        run->status = PGQRS_OK;
        pgqrsi_run_misuse(
            run, "the body of a transactional step ended its transaction, or went on after a statement that failed");
    }
    return false;
}

/* --- steps with a body */

static bool pgqrsi_step_check(pgqrs_run *run, const char *name, const pgqrs_step_desc *desc)
{
    pgqrs_error detail;
    pgqrs_result result = pgqrsi_retry_check(&desc->retry, &detail);
    if (!result && (desc->timeout_ms < 0 || desc->timeout_ms > PGQRSI_LEASE_MAX_MS))
        result = pgqrsi_error_set(&detail, PGQRS_ERR_INVALID_ARGUMENT, "timeout_ms is %lld, allowed is 0 to %lld",
                                  (long long)desc->timeout_ms, (long long)PGQRSI_LEASE_MAX_MS);
    if (!result && desc->input) result = pgqrsi_run_check_json(run, desc->input, strlen(desc->input), &detail);
    if (result == PGQRS_ERR_NO_MEMORY)
        pgqrsi_run_no_memory(run);
    else if (result)
        pgqrsi_run_misuse(run, "step \"%s\": %s", name ? name : "", detail.message);
    return result == PGQRS_OK;
}

/* A step that is done already: its output, if it was done with the same input. */
static void pgqrsi_step_recall(pgqrs_run *run, const pgqrsi_step *step, const pgqrs_step_desc *desc,
                               const char **output)
{
    bool same = !desc->input || (step->info.input && strcmp(step->info.input, desc->input) == 0);
    if (same)
        *output = step->info.output;
    else
        pgqrsi_run_fail_for_good(run, PGQRS_ERR_RUN_FAILED, step->info.name, "INPUT_CHANGED",
                                 "the step was completed with another input than it is given now: give it another key, "
                                 "or fork the run from it");
}

/* A failed, paused or sleeping step whose time has not come: somebody woke the run early. */
static bool pgqrsi_step_waits(pgqrs_run *run, const pgqrsi_step *step)
{
    const pgqrs_step_info *info = &step->info;
    if (info->state != PGQRS_STEP_RETRYING && info->state != PGQRS_STEP_WAITING) return false;
    if (info->due_at_us <= pgqrsi_run_now(run)) return false;
    pgqrsi_run_suspend(run, info->state == PGQRS_STEP_RETRYING ? PGQRS_WAIT_RETRY : PGQRS_WAIT_PAUSE, info->name,
                       info->due_at_us);
    return true;
}

static bool pgqrsi_step_enter(pgqrs_run *run, pgqrsi_step *step, const pgqrs_step_desc *desc)
{
    const pgqrs_workflow_desc *settings = &run->loaded->settings;
    int64_t timeout_ms = PGQRSI_DEFAULT(desc->timeout_ms, settings->step_timeout_ms);
    if (!pgqrsi_run_boundary(run, timeout_ms * PGQRSI_US_PER_MS)) return false;
    step->info.input = desc->input ? pgqrsi_result_text(run->loaded, desc->input, -1) : NULL;
    if (desc->input && !step->info.input) return pgqrsi_run_no_memory(run) == PGQRS_OK;
    if (desc->transaction && !pgqrsi_run_transact(run, PGQRS_BACKEND_BEGIN)) return false;
    step->info.started_at_us = pgqrsi_run_now(run);
    run->open = (size_t)(step - run->steps);
    run->policy = pgqrsi_retry_resolve(&desc->retry, &settings->retry);
    run->timeout_us = timeout_ms * PGQRSI_US_PER_MS;
    run->opened_at_us = pgqrsi_elapsed_us(run->worker->store);
    return true;
}

static bool pgqrsi_step_begin(pgqrs_run *run, const char *name, const pgqrs_step_desc *given, const char **output)
{
    pgqrs_step_desc desc;
    memset(&desc, 0, sizeof desc);
    if (given) desc = *given;
    if (!pgqrsi_step_check(run, name, &desc)) return false;
    pgqrsi_step *step = pgqrsi_run_meet(run, PGQRS_STEP_BODY, name, desc.key);
    if (!step) return false;
    if (step->info.state == PGQRS_STEP_DONE) {
        pgqrsi_step_recall(run, step, &desc, output);
        return false;
    }
    return !pgqrsi_step_waits(run, step) && pgqrsi_step_enter(run, step, &desc);
}

/* The step under way, which ends here; NULL: there is none. */
static pgqrsi_step *pgqrsi_step_close(pgqrs_run *run, const char *verb)
{
    if (run->open == PGQRSI_NO_STEP) {
        pgqrsi_run_misuse(run, "%s is called, but no step is under way", verb);
        return NULL;
    }
    pgqrsi_step *step = &run->steps[run->open];
    run->open = PGQRSI_NO_STEP;
    return step;
}

/* What the program said has been cut and cleaned by pgqrsi_failure_keep; the library's own texts need none of it. */
static bool pgqrsi_step_note_failure(pgqrs_run *run, pgqrsi_step *step, const pgqrs_failure *failure)
{
    step->info.error_code = pgqrsi_result_text(run->loaded, failure->code, -1);
    step->info.error_message = pgqrsi_result_text(run->loaded, failure->message, -1);
    step->info.output = NULL;
    step->info.output_size = 0;
    if (step->info.error_code && (!failure->message || step->info.error_message)) return true;
    pgqrsi_run_no_memory(run);
    return false;
}

/* Later, or never again. */
static void pgqrsi_step_failed(pgqrs_run *run, pgqrsi_step *step, const pgqrs_failure *failure)
{
    pgqrs_step_info *info = &step->info;
    pgqrsi_run_rollback(run);
    if (!pgqrsi_step_note_failure(run, step, failure)) return;
    if (failure->transient && info->retries < run->policy.max_retries) {
        info->due_at_us = pgqrsi_run_retry_at(run, &run->policy, info->retries, failure);
        info->state = PGQRS_STEP_RETRYING;
        info->retries++;
        if (pgqrsi_run_put(run, step)) pgqrsi_run_suspend(run, PGQRS_WAIT_RETRY, info->name, info->due_at_us);
        return;
    }
    info->state = PGQRS_STEP_FAILED;
    info->due_at_us = 0;
    info->finished_at_us = pgqrsi_run_now(run);
    if (pgqrsi_run_put(run, step))
        pgqrsi_run_fail_for_good(run, PGQRS_ERR_RUN_FAILED, info->name, failure->code, failure->message);
}

static bool pgqrsi_step_late(pgqrs_run *run, pgqrsi_step *step)
{
    pgqrs_failure failure;
    if (!run->timeout_us || pgqrsi_elapsed_us(run->worker->store) - run->opened_at_us <= run->timeout_us) return false;
    memset(&failure, 0, sizeof failure);
    failure.code = "TIMEOUT";
    failure.message = "the step took longer than its timeout_ms";
    failure.transient = true;
    pgqrsi_step_failed(run, step, &failure);
    return true;
}

static void pgqrsi_step_finish(pgqrs_run *run, pgqrsi_step *step, const char *output)
{
    pgqrs_step_info *info = &step->info;
    info->state = PGQRS_STEP_DONE;
    info->output = output;
    info->output_size = output ? strlen(output) : 0;
    info->error_code = NULL;
    info->error_message = NULL;
    info->due_at_us = 0;
    info->finished_at_us = pgqrsi_run_now(run);
}

static const char *pgqrsi_step_done(pgqrs_run *run, const char *given)
{
    pgqrsi_step *step = pgqrsi_step_close(run, "pgqrs_step_done");
    if (!step || pgqrsi_step_late(run, step)) return NULL;
    const char *output = pgqrsi_run_take_json(run, "output", step->info.name, given);
    if (!output) {
        pgqrsi_run_rollback(run);
        return NULL;
    }
    pgqrsi_step_finish(run, step, output);
    if (!pgqrsi_run_put(run, step)) return NULL;
    if (run->transaction && !pgqrsi_run_commit(run)) return NULL;
    run->progress = true;
    return output;
}

static void pgqrsi_step_fail(pgqrs_run *run, const pgqrs_failure *failure)
{
    pgqrsi_step *step = pgqrsi_step_close(run, "pgqrs_step_fail");
    if (step) pgqrsi_step_failed(run, step, failure);
}

static void pgqrsi_step_pause(pgqrs_run *run, int64_t delay_ms, const char *why)
{
    pgqrs_failure note;
    pgqrsi_step *step = pgqrsi_step_close(run, "pgqrs_step_pause");
    if (!step) return;
    pgqrsi_run_rollback(run);
    if (delay_ms < 0 || delay_ms > PGQRSI_DELAY_MAX_MS) {
        pgqrsi_run_misuse(run, "step \"%s\" pauses for %lld ms: allowed is 0 to %lld", step->info.name,
                          (long long)delay_ms, (long long)PGQRSI_DELAY_MAX_MS);
        return;
    }
    memset(&note, 0, sizeof note);
    note.code = "PAUSED";
    note.message = why;
    if (!pgqrsi_step_note_failure(run, step, &note)) return;
    step->info.state = PGQRS_STEP_WAITING;
    step->info.due_at_us = pgqrsi_run_after(run, delay_ms);
    if (pgqrsi_run_put(run, step)) pgqrsi_run_suspend(run, PGQRS_WAIT_PAUSE, step->info.name, step->info.due_at_us);
}

/* --- sleeps and events: steps without a body */

static bool pgqrsi_run_sleep(pgqrs_run *run, const char *name, int64_t until_us)
{
    pgqrsi_step *step = pgqrsi_run_meet(run, PGQRS_STEP_SLEEP, name, NULL);
    if (!step) return false;
    bool known = step->info.state != 0;
    if (step->info.state == PGQRS_STEP_DONE) return true;
    if (!known) {
        step->info.started_at_us = pgqrsi_run_now(run);
        step->info.due_at_us = until_us;
    }
    int64_t due_us = step->info.due_at_us;
    if (due_us <= pgqrsi_run_now(run)) {
        pgqrsi_step_finish(run, step, NULL);
        return pgqrsi_run_put(run, step);
    }
    step->info.state = PGQRS_STEP_WAITING;
    if (known || pgqrsi_run_put(run, step)) pgqrsi_run_suspend(run, PGQRS_WAIT_SLEEP, step->info.name, due_us);
    return false;
}

static const pgqrs_backend_run_event *pgqrsi_run_event(const pgqrs_run *run, const char *name)
{
    for (size_t i = 0; i < run->loaded->event_count; i++)
        if (strcmp(run->loaded->events[i].name, name) == 0) return &run->loaded->events[i];
    return NULL;
}

/* What came of the wait is a step like any other: recorded once, the same ever after. */
static bool pgqrsi_run_wait_event(pgqrs_run *run, const char *name, int64_t timeout_ms, const char **payload)
{
    pgqrsi_step *step = pgqrsi_run_meet(run, PGQRS_STEP_EVENT, name, NULL);
    if (!step) return false;
    pgqrs_step_info *info = &step->info;
    bool known = info->state != 0;
    if (info->state == PGQRS_STEP_DONE) {
        *payload = info->output;
        return true;
    }
    if (!known) {
        info->started_at_us = pgqrsi_run_now(run);
        info->due_at_us = timeout_ms == PGQRS_FOREVER ? 0 : pgqrsi_run_after(run, timeout_ms);
    }
    const pgqrs_backend_run_event *event = pgqrsi_run_event(run, name);
    if (event || (info->due_at_us && info->due_at_us <= pgqrsi_run_now(run))) {
        pgqrsi_step_finish(run, step, event ? event->payload : NULL);
        *payload = info->output;
        return pgqrsi_run_put(run, step);
    }
    info->state = PGQRS_STEP_WAITING;
    if (known || pgqrsi_run_put(run, step)) pgqrsi_run_suspend(run, PGQRS_WAIT_EVENT, info->name, info->due_at_us);
    return false;
}

/* --- values */

static pgqrs_result pgqrsi_run_set(pgqrs_run *run, const char *name, const char *json)
{
    pgqrs_backend_value value;
    memset(&value, 0, sizeof value);
    if (!pgqrsi_run_check_name(run, "value", name)) return run->status;
    value.name = name;
    value.value = json ? pgqrsi_run_take_json(run, name, NULL, json) : NULL;
    if (json && !value.value) return run->status;
    value.value_size = json ? strlen(json) : 0;
    (void)pgqrsi_run_store_now(run, 0, &value);
    pgqrsi_run_heed_cancel(run);
    return run->status;
}

static const char *pgqrsi_run_value(pgqrs_run *run, const char *name)
{
    pgqrs_store *store = run->worker->store;
    pgqrs_run_values *values = NULL;
    const char *found = NULL;
    if (!pgqrsi_run_check_name(run, "value", name)) return NULL;
    pgqrs_result result = store->backend->run_values(store->self, run->message->id, &values);
    if (result) pgqrsi_run_halt_store(run, result);
    for (size_t i = 0; !result && i < values->count && !found; i++) {
        if (strcmp(values->items[i].name, name) != 0) continue;
        found = pgqrsi_result_text(run->loaded, values->items[i].value, (int64_t)values->items[i].value_size);
        if (!found) pgqrsi_run_no_memory(run);
    }
    pgqrs_free(values);
    return found;
}

/* --- the end */

static pgqrs_result pgqrsi_run_return(pgqrs_run *run, const char *output)
{
    if (run->open != PGQRSI_NO_STEP)
        return pgqrsi_run_misuse(run, "the run returns inside of step \"%s\": first say what became of it",
                                 run->steps[run->open].info.name);
    if (pgqrsi_run_is_late(run)) return run->status;
    run->output = pgqrsi_run_take_json(run, "the run's output", NULL, output);
    run->returned = run->output != NULL;
    run->output_size = run->output ? strlen(run->output) : 0;
    return run->status;
}

static pgqrs_result pgqrsi_run_fail(pgqrs_run *run, const pgqrs_failure *failure)
{
    run->open = PGQRSI_NO_STEP;
    pgqrsi_run_rollback(run);
    return pgqrsi_run_try_again(run, failure);
}

/* The function came back: with an end, with a reason to stop, or with neither. */
static void pgqrsi_run_conclude(pgqrs_run *run, pgqrs_result returned)
{
    pgqrs_failure failure;
    const char *open = run->open != PGQRSI_NO_STEP ? run->steps[run->open].info.name : NULL;
    pgqrsi_run_rollback(run);
    if (run->returned || run->status) return;
    memset(&failure, 0, sizeof failure);
    failure.code = "UNFINISHED";
    failure.message = open ? "the function returned inside of a step: nothing said what became of it"
                           : "the function returned without pgqrs_run_return or pgqrs_run_fail";
    if (returned != PGQRS_OK) {
        failure.code = pgqrs_result_name(returned);
        failure.message = "the function returned this result";
        failure.transient = true;
    }
    pgqrsi_run_try_again(run, &failure);
}

static void pgqrsi_run_write_end(pgqrs_run *run, pgqrs_run_state state)
{
    pgqrs_backend_run_write *write = &run->write;
    pgqrsi_run_write_begin(run);
    write->state = state;
    if (run->worker->lease_end_us - pgqrsi_elapsed_us(run->worker->store) < PGQRSI_RUN_END_US)
        write->lease_us = PGQRSI_RUN_END_US;
    write->started_at_us = run->loaded->now_us;
    if (state == PGQRS_RUN_QUEUED) {
        write->wait = run->wait;
        write->wait_name = run->wait_name;
        write->wait_until_us = run->wait_until_us;
    } else if (state == PGQRS_RUN_SUCCESS) {
        write->output = run->output;
        write->output_size = run->output_size;
    } else if (state == PGQRS_RUN_ERROR) {
        write->error_code = run->code;
        write->error_message = run->text[0] ? run->text : NULL;
        write->error_step = run->failed_step;
    }
}

/* The store failed under it. It costs an attempt, so that a run that always makes it fail ends among the dead letters. */
static void pgqrsi_run_trouble(const pgqrs_run *run, pgqrs_delivery *delivery)
{
    delivery->verdict = PGQRS_RETRY;
    pgqrsi_reason_copy(run->error.message, delivery->reason);
}

/* Back in the line, without a try being counted, now or when its time has come. */
static void pgqrsi_run_give_back(pgqrs_run *run, pgqrs_delivery *delivery, pgqrs_backend_verdict *verdict)
{
    int64_t deadline_us = run->loaded->deadline_at_us;
    delivery->verdict = PGQRS_GIVE_BACK;
    verdict->fresh = run->progress;
    if (run->status == PGQRS_ERR_RUN_STOPPED) return;
    verdict->due.at_us = run->wait_until_us ? run->wait_until_us : PGQRSI_TIME_MAX_US;
    if (deadline_us && deadline_us < verdict->due.at_us) verdict->due.at_us = deadline_us;
}

/* What is to be stored, and what becomes of the message. */
static void pgqrsi_run_judge(pgqrs_run *run, pgqrs_delivery *delivery, pgqrs_backend_verdict *verdict)
{
    pgqrs_run_state state = (pgqrs_run_state)0;
    if (run->returned)
        state = PGQRS_RUN_SUCCESS;
    else if (run->failed)
        state = PGQRS_RUN_ERROR;
    else if (run->status == PGQRS_ERR_RUN_CANCELLED)
        state = PGQRS_RUN_CANCELLED;
    else if (run->status == PGQRS_ERR_RUN_WAITING)
        state = PGQRS_RUN_QUEUED;
    pgqrsi_run_write_end(run, state);
    if (state || run->pending_count) verdict->run = &run->write;
    if (state == PGQRS_RUN_QUEUED || run->status == PGQRS_ERR_RUN_STOPPED)
        pgqrsi_run_give_back(run, delivery, verdict);
    else if (state == 0)
        pgqrsi_run_trouble(run, delivery);
    else
        delivery->verdict = PGQRS_ARCHIVE;
}

static void pgqrsi_run_tell(pgqrs_run *run)
{
    pgqrs_store *store = run->worker->store;
    long long id = (long long)run->message->id;
    if (run->returned)
        pgqrsi_log(store, PGQRS_LOG_DEBUG, "workflow \"%s\": run %lld is done", run->loaded->workflow, id);
    else if (run->status == PGQRS_ERR_RUN_WAITING || run->status == PGQRS_ERR_RUN_CANCELLED)
        pgqrsi_log(store, PGQRS_LOG_INFO, "%s", run->error.message);
    else if (run->status)
        pgqrsi_log(store, PGQRS_LOG_WARN, "%s", run->error.message);
}

/* --- a delivery */

static const pgqrsi_entry *pgqrsi_run_entry(const pgqrsi_runs *runs, const char *workflow)
{
    for (size_t i = 0; i < runs->entry_count; i++)
        if (strcmp(runs->entries[i].workflow, workflow) == 0) return &runs->entries[i];
    return NULL;
}

/* Cases in which the function is not called. True: the delivery has its verdict already. */
static bool pgqrsi_run_dismiss(pgqrs_run *run, pgqrs_delivery *delivery)
{
    pgqrs_store *store = run->worker->store;
    const pgqrs_backend_run *loaded = run->loaded;
    long long id = (long long)run->message->id;
    if (!loaded) {
        delivery->verdict = PGQRS_REJECT;
        pgqrsi_reason_copy("not a run of a workflow: trigger it with pgqrs_workflow_trigger", delivery->reason);
        pgqrsi_log(store, PGQRS_LOG_WARN, "queue \"%s\": message %lld goes to the dead letters: %s", run->worker->queue,
                   id, delivery->reason);
    } else if (loaded->stored) {
        delivery->verdict = PGQRS_ARCHIVE;
    } else if (!pgqrsi_run_entry(run->worker->runs, loaded->workflow)) {
        run->stranger = true;
        delivery->verdict = PGQRS_GIVE_BACK;
        delivery->delay_ms = PGQRSI_RUN_AGAIN_MS;
        pgqrsi_log(store, PGQRS_LOG_WARN, "run %lld is of workflow \"%s\", which this worker does not serve", id,
                   loaded->workflow);
    }
    return delivery->verdict != 0;
}

static void pgqrsi_run_bad_input(pgqrs_run *run, pgqrs_error *detail)
{
    pgqrsi_error_rename(detail, "input");
    pgqrsi_run_fail_for_good(run, PGQRS_ERR_RUN_FAILED, NULL, "BAD_INPUT", detail->message);
}

/* Reasons to stop before the function is called. */
static void pgqrsi_run_admit(pgqrs_run *run)
{
    pgqrs_error detail;
    const pgqrs_backend_run *loaded = run->loaded;
    if (loaded->cancel)
        pgqrsi_run_halt(run, PGQRS_ERR_RUN_CANCELLED, "run %lld is cancelled", (long long)loaded->id);
    else if (pgqrsi_run_is_late(run))
        return;
    else if (pgqrsi_run_check_json(run, run->message->payload, run->message->payload_size, &detail) == PGQRS_ERR_JSON)
        pgqrsi_run_bad_input(run, &detail);
    else if (!pgqrsi_run_index(run))
        pgqrsi_run_no_memory(run);
}

static void pgqrsi_run_load(pgqrs_run *run)
{
    pgqrs_store *store = run->worker->store;
    run->loaded_at_us = pgqrsi_elapsed_us(store);
    pgqrs_result result = store->backend->run_load(store->self, pgqrsi_now(store), run->message->id, &run->loaded);
    if (result) pgqrsi_run_halt_store(run, result);
    if (run->loaded) run->retries = run->loaded->retries;
}

static pgqrs_result pgqrsi_run_call(pgqrs_run *run)
{
    pgqrs_worker *worker = run->worker;
    const pgqrsi_entry *entry = pgqrsi_run_entry(worker->runs, run->loaded->workflow);
    worker->in_handler = true;
    worker->store->handlers++;
    PGQRSI_FLAG_SET(worker->store->in_call, 0);
    pgqrs_result returned = entry->handler(run, entry->user);
    PGQRSI_FLAG_SET(worker->store->in_call, 1);
    worker->store->handlers--;
    worker->in_handler = false;
    return returned;
}

/* False: the lease is gone, nothing is owed. */
static bool pgqrsi_run_execute(pgqrs_run *run, pgqrs_delivery *delivery, pgqrs_backend_verdict *verdict)
{
    pgqrsi_run_load(run);
    if (run->status) { /* it could not even be read */
        pgqrsi_run_tell(run);
        pgqrsi_run_trouble(run, delivery);
        return true;
    }
    if (pgqrsi_run_dismiss(run, delivery)) return true;
    pgqrsi_run_admit(run);
    if (!run->status) pgqrsi_run_conclude(run, pgqrsi_run_call(run));
    pgqrsi_run_tell(run);
    if (run->status == PGQRS_ERR_LEASE_LOST && !run->returned) return false;
    pgqrsi_run_judge(run, delivery, verdict);
    return true;
}

static void pgqrsi_run_free(pgqrs_run *run)
{
    pgqrs_free(run->loaded);
    run->loaded = NULL;
    run->worker = NULL;
}

/* Waits for a retry and for a paused step count as the loop's own retries; sleeps and events do not, they may take years. */
static bool pgqrsi_run_is_retry(const pgqrs_run *run)
{
    return run->status == PGQRS_ERR_RUN_WAITING && (run->wait == PGQRS_WAIT_RETRY || run->wait == PGQRS_WAIT_PAUSE);
}

static void pgqrsi_run_owe(pgqrs_worker *worker, pgqrs_run *run, const pgqrs_message *message,
                           const pgqrs_backend_verdict *judged)
{
    int64_t retry_until_us = worker->retry_until_us;
    size_t slot = worker->owed_count;
    int64_t now_us = run->loaded ? pgqrsi_run_now(run) : 0;
    pgqrsi_worker_owe(worker, message);
    pgqrs_backend_verdict *owed = &worker->owed[slot];
    owed->run = judged->run;
    owed->fresh = judged->fresh;
    if (judged->due.at_us || judged->due.delay_us) owed->due = judged->due;
    if (owed->verdict != PGQRS_GIVE_BACK) return;
    int64_t wait_us = owed->due.at_us ? owed->due.at_us - now_us : owed->due.delay_us;
    int64_t due_us = pgqrsi_elapsed_us(worker->store) + (wait_us > 0 ? wait_us : 0);
    worker->retry_until_us = retry_until_us;
    if (pgqrsi_run_is_retry(run) && due_us > retry_until_us) worker->retry_until_us = due_us;
}

static void pgqrsi_worker_handle_run(pgqrs_worker *worker)
{
    pgqrs_message *message = pgqrsi_worker_message(worker, worker->next);
    int64_t started_us = pgqrsi_monotonic_us();
    size_t slot = worker->owed_count;
    pgqrs_run *run = &worker->runs->items[slot];
    pgqrs_backend_verdict judged;
    memset(&judged, 0, sizeof judged);
    memset(run, 0, sizeof *run);
    run->worker = worker;
    run->message = message;
    run->open = PGQRSI_NO_STEP;
    pgqrsi_worker_start(worker, message, slot);
    worker->next++;
    pgqrsi_worker_tell(worker, PGQRS_EVENT_STARTED, message, PGQRS_OK, started_us);
    bool owed = pgqrsi_run_execute(run, &worker->deliveries[slot], &judged);
    pgqrsi_worker_tell(worker, PGQRS_EVENT_FINISHED, message, run->returned ? PGQRS_OK : run->status, started_us);
    if (owed)
        pgqrsi_run_owe(worker, run, message, &judged);
    else
        pgqrsi_run_free(run);
    run->worker = NULL;
    message->delivery = NULL;
    if (!run->stranger) worker->handled++;
}

/* What was owed is stored, or refused for good: the texts of the runs are not needed any more. */
static void pgqrsi_runs_settled(pgqrs_worker *worker)
{
    for (size_t i = 0; worker->runs && i < worker->owed_count; i++)
        pgqrsi_run_free(&worker->runs->items[i]);
}

/* --- workers of workflows */

static pgqrs_result pgqrsi_workflow_unknown(pgqrs_store *store, const char *workflow)
{
    return pgqrsi_fail(store, PGQRS_ERR_WORKFLOW_NOT_FOUND,
                       "there is no workflow \"%s\": create it with pgqrs_workflow_create", workflow);
}

static pgqrs_result pgqrsi_workflow_find(pgqrs_store *store, const char *workflow, pgqrs_workflows **out)
{
    pgqrs_result result = pgqrsi_check_name("workflow", workflow, &store->error);
    *out = NULL;
    if (!result) result = store->backend->workflow_list(store->self, workflow, 0, 1, out);
    if (!result && (*out)->count == 0) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

/* The queue of one entry; the first one decides, the others have to agree. */
static pgqrs_result pgqrsi_runs_queue(pgqrs_store *store, const pgqrs_workflow_entry *entry, char *queue)
{
    pgqrs_workflows *found = NULL;
    if (!entry->handler)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "the handler of workflow \"%s\" is NULL",
                           entry->workflow ? entry->workflow : "");
    pgqrs_result result = pgqrsi_workflow_find(store, entry->workflow, &found);
    if (!result && !found) result = pgqrsi_workflow_unknown(store, entry->workflow);
    if (result) return result;
    const char *name = found->items[0].settings.queue;
    if (!queue[0])
        snprintf(queue, PGQRSI_NAME_MAX + 1, "%s", name);
    else if (strcmp(queue, name) != 0)
        result = pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT,
                             "workflow \"%s\" is on queue \"%s\", not on \"%s\": one worker serves workflows that were "
                             "created with the same pgqrs_workflow_desc.queue",
                             entry->workflow, name, queue);
    pgqrs_free(found);
    return result;
}

static void pgqrsi_runs_free(pgqrs_worker *worker)
{
    pgqrsi_runs *runs = worker->runs;
    if (!runs) return;
    for (size_t i = 0; i < runs->count; i++)
        pgqrsi_run_free(&runs->items[i]);
    pgqrsi_mem_free(&worker->store->settings.allocator, runs, runs->bytes);
    worker->runs = NULL;
}

static pgqrsi_runs *pgqrsi_runs_alloc(pgqrs_store *store, const pgqrs_workflow_entry *entries, size_t count,
                                      size_t batch)
{
    size_t head = PGQRSI_ROUND(sizeof(pgqrsi_runs));
    size_t items = PGQRSI_ROUND(batch * sizeof(pgqrs_run));
    size_t bytes = head + items + count * sizeof(pgqrsi_entry);
    pgqrsi_runs *runs = (pgqrsi_runs *)pgqrsi_mem_alloc(&store->settings.allocator, bytes);
    if (!runs) return NULL;
    runs->bytes = bytes;
    runs->items = (pgqrs_run *)(void *)((char *)runs + head);
    runs->count = batch;
    runs->entries = (pgqrsi_entry *)(void *)((char *)runs + head + items);
    runs->entry_count = count;
    for (size_t i = 0; i < count; i++) {
        snprintf(runs->entries[i].workflow, sizeof runs->entries[i].workflow, "%s", entries[i].workflow);
        runs->entries[i].handler = entries[i].handler;
        runs->entries[i].user = entries[i].user;
    }
    return runs;
}

/* One run at a time, each stored at its end, unless the caller says otherwise. */
static pgqrs_result pgqrsi_worker_open_workflows(pgqrs_store *store, const pgqrs_workflow_entry *entries, size_t count,
                                                 const pgqrs_work_desc *given, pgqrs_worker **out)
{
    char queue[PGQRSI_NAME_MAX + 1] = "";
    pgqrs_work_desc wanted, desc;
    pgqrs_result result = PGQRS_OK;
    *out = NULL;
    memset(&wanted, 0, sizeof wanted);
    if (given) wanted = *given;
    wanted.batch = PGQRSI_DEFAULT(wanted.batch, 1);
    wanted.settle_ms = PGQRSI_DEFAULT(wanted.settle_ms, wanted.batch > 1 ? 0 : -1);
    if (!entries || !count || count > PGQRSI_LIST_MAX)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "give 1 to %d workflows", PGQRSI_LIST_MAX);
    for (size_t i = 0; i < count && !result; i++)
        result = pgqrsi_runs_queue(store, &entries[i], queue);
    if (!result) result = pgqrsi_work_check(store, &wanted, &desc);
    if (result) return result;
    pgqrs_worker *worker = pgqrsi_worker_alloc(store, queue, &desc);
    pgqrsi_runs *runs = worker ? pgqrsi_runs_alloc(store, entries, count, (size_t)desc.batch) : NULL;
    if (runs) return pgqrsi_worker_start_up(worker, runs, out);
    if (worker) pgqrsi_worker_free(worker);
    return pgqrsi_no_memory(store);
}

static pgqrs_result pgqrsi_work_workflows(pgqrs_store *store, const pgqrs_workflow_entry *entries, size_t count,
                                          const pgqrs_work_desc *desc)
{
    pgqrs_worker *worker = NULL;
    pgqrs_result result = pgqrsi_worker_open_workflows(store, entries, count, desc, &worker);
    return worker ? pgqrsi_work_through(worker, result) : result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>admin: queues, inspection, repair, numbers
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_check_limit(pgqrs_store *store, size_t *limit)
{
    if (*limit == 0) *limit = PGQRSI_LIST_DEFAULT;
    if (*limit <= PGQRSI_LIST_MAX) return PGQRS_OK;
    return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT,
                       "limit is %zu, allowed is 1 to %d: read page by page with after_id", *limit, PGQRSI_LIST_MAX);
}

/* --- queues */

static pgqrs_result pgqrsi_queue_desc_check(pgqrs_store *store, const pgqrs_queue_desc *desc)
{
    pgqrs_result result = pgqrsi_check_range(store, "lease_ms", desc->lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "max_attempts", desc->max_attempts, 0, INT16_MAX);
    if (!result) result = pgqrsi_check_range(store, "backoff_ms", desc->backoff_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "backoff_max_ms", desc->backoff_max_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "retention_ms", desc->retention_ms, -1, PGQRSI_DELAY_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "dead_retention_ms", desc->dead_retention_ms, -1, PGQRSI_DELAY_MAX_MS);
    if (!result && desc->backoff_max_ms && desc->backoff_ms > desc->backoff_max_ms)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "backoff_ms (%lld) is above backoff_max_ms (%lld)",
                           (long long)desc->backoff_ms, (long long)desc->backoff_max_ms);
    return result;
}

static void pgqrsi_queue_desc_resolve(const pgqrs_store *store, pgqrs_queue_desc *desc)
{
    desc->lease_ms = PGQRSI_DEFAULT(desc->lease_ms, store->settings.default_lease_ms);
    desc->max_attempts = PGQRSI_DEFAULT(desc->max_attempts, store->settings.default_max_attempts);
    desc->backoff_ms = PGQRSI_DEFAULT(desc->backoff_ms, 1000);
    desc->backoff_max_ms = PGQRSI_DEFAULT(desc->backoff_max_ms, desc->backoff_ms > 60000 ? desc->backoff_ms : 60000);
    desc->retention_ms = desc->retention_ms < 0 ? 0 : desc->retention_ms;
    desc->dead_retention_ms = desc->dead_retention_ms < 0 ? 0 : desc->dead_retention_ms;
}

static pgqrs_result pgqrsi_queue_create(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc)
{
    pgqrs_queue_desc settings;
    bool created = false;
    memset(&settings, 0, sizeof settings);
    if (desc) settings = *desc;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result) result = pgqrsi_queue_desc_check(store, &settings);
    if (result) return result;
    pgqrsi_queue_desc_resolve(store, &settings);
    result = store->backend->queue_create(store->self, pgqrsi_now(store), queue, &settings, &created);
    pgqrsi_policy_forget(store);
    if (!result && !created && settings.must_be_new)
        return pgqrsi_fail(store, PGQRS_ERR_QUEUE_EXISTS, "queue \"%s\" exists already", queue);
    return result;
}

static pgqrs_result pgqrsi_queue_change(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc,
                                        pgqrs_switch paused)
{
    pgqrs_backend_queue_change change;
    memset(&change, 0, sizeof change);
    if (desc) change.settings = *desc;
    change.paused = paused;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result) result = pgqrsi_queue_desc_check(store, &change.settings);
    if (!result) result = store->backend->queue_change(store->self, queue, &change);
    pgqrsi_policy_forget(store);
    return result;
}

static pgqrs_result pgqrsi_queue_get(pgqrs_store *store, const char *queue, pgqrs_queue **out)
{
    pgqrs_queues *queues = NULL;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result) result = pgqrsi_queue_find(store, queue, &queues);
    if (result || !queues) return result;
    pgqrs_queue *copy = (pgqrs_queue *)pgqrsi_result_new(&store->settings.allocator, sizeof *copy, strlen(queue) + 16);
    char *name = copy ? pgqrsi_result_text(copy, queues->items[0].name, -1) : NULL;
    if (name) {
        *copy = queues->items[0];
        copy->name = name;
        *out = copy;
    } else {
        pgqrs_free(copy);
        result = pgqrsi_no_memory(store);
    }
    pgqrs_free(queues);
    return result;
}

static pgqrs_result pgqrsi_queue_exists(pgqrs_store *store, const char *queue, bool *exists)
{
    pgqrs_queues *queues = NULL;
    if (!exists) return pgqrsi_null_argument(store, "exists");
    *exists = false;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result) result = pgqrsi_queue_find(store, queue, &queues);
    *exists = queues != NULL;
    pgqrs_free(queues);
    return result;
}

static pgqrs_result pgqrsi_queue_list(pgqrs_store *store, int64_t after_id, size_t limit, pgqrs_queues **out)
{
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_check_limit(store, &limit);
    if (!result) result = pgqrsi_check_range(store, "after_id", after_id, 0, INT64_MAX);
    return result ? result : store->backend->queue_list(store->self, NULL, after_id, limit, out);
}

static pgqrs_result pgqrsi_queue_delete(pgqrs_store *store, const char *queue, bool force)
{
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    pgqrsi_policy_forget(store);
    return result ? result : store->backend->queue_delete(store->self, pgqrsi_now(store), queue, force);
}

static pgqrs_result pgqrsi_queue_purge(pgqrs_store *store, const char *queue, const pgqrs_purge_desc *given,
                                       int64_t *removed)
{
    pgqrs_purge_desc desc;
    int64_t ignored = 0;
    memset(&desc, 0, sizeof desc);
    if (given) desc = *given;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result) result = pgqrsi_check_range(store, "what", desc.what, PGQRS_PURGE_ALL, PGQRS_PURGE_UNFINISHED);
    if (!result) result = pgqrsi_check_range(store, "older_than_ms", desc.older_than_ms, 0, PGQRSI_DELAY_MAX_MS);
    return result ? result
                  : store->backend->queue_purge(store->self, pgqrsi_now(store), queue, &desc,
                                                removed ? removed : &ignored);
}

/* --- messages */

static pgqrs_result pgqrsi_message_filter(pgqrs_store *store, const pgqrs_message_filter *given,
                                          pgqrs_message_filter *filter)
{
    memset(filter, 0, sizeof *filter);
    if (given) *filter = *given;
    pgqrs_result result = filter->queue ? pgqrsi_check_queue(store, filter->queue) : PGQRS_OK;
    if (!result) result = pgqrsi_check_range(store, "state", filter->state, 0, PGQRS_DEAD);
    if (!result) result = pgqrsi_check_range(store, "worker_id", filter->worker_id, 0, INT64_MAX);
    if (!result) result = pgqrsi_check_range(store, "after_id", filter->after_id, 0, INT64_MAX);
    if (!result)
        result = pgqrsi_check_range(store, "enqueued_from_us", filter->enqueued_from_us, 0, PGQRSI_TIME_MAX_US);
    if (!result)
        result = pgqrsi_check_range(store, "enqueued_before_us", filter->enqueued_before_us, 0, PGQRSI_TIME_MAX_US);
    return result ? result : pgqrsi_check_limit(store, &filter->limit);
}

/* An empty answer about a queue that is not there is more likely a typing error than news: say so. */
static pgqrs_result pgqrsi_queue_must_exist(pgqrs_store *store, const char *queue)
{
    pgqrs_queues *queues = NULL;
    pgqrs_result result = pgqrsi_queue_find(store, queue, &queues);
    if (!result && !queues) result = pgqrsi_queue_unknown(store, queue);
    pgqrs_free(queues);
    return result;
}

static pgqrs_result pgqrsi_message_list(pgqrs_store *store, const pgqrs_message_filter *given, pgqrs_messages **out)
{
    pgqrs_message_filter filter;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_message_filter(store, given, &filter);
    if (!result) result = store->backend->message_list(store->self, pgqrsi_now(store), &filter, out);
    if (!result && (*out)->count == 0 && filter.queue) result = pgqrsi_queue_must_exist(store, filter.queue);
    if (result) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

static pgqrs_result pgqrsi_message_count(pgqrs_store *store, const pgqrs_message_filter *given, int64_t *count)
{
    pgqrs_message_filter filter;
    if (!count) return pgqrsi_null_argument(store, "count");
    *count = 0;
    pgqrs_result result = pgqrsi_message_filter(store, given, &filter);
    filter.after_id = 0;
    if (!result) result = store->backend->message_count(store->self, pgqrsi_now(store), &filter, count);
    if (!result && *count == 0 && filter.queue) result = pgqrsi_queue_must_exist(store, filter.queue);
    return result;
}

static pgqrs_result pgqrsi_message_unknown(pgqrs_store *store, int64_t id)
{
    return pgqrsi_fail(store, PGQRS_ERR_MESSAGE_NOT_FOUND, "no message has the id %lld", (long long)id);
}

static pgqrs_result pgqrsi_message_update(pgqrs_store *store, int64_t id, const char *payload, size_t payload_size)
{
    if (!payload) return pgqrsi_null_argument(store, "payload");
    size_t size = payload_size ? payload_size : strlen(payload);
    pgqrs_result result = pgqrsi_check_payload(&store->settings, payload, size, &store->error);
    return result ? result : store->backend->message_update(store->self, pgqrsi_now(store), id, payload, size);
}

typedef pgqrs_result (*pgqrsi_by_ids)(pgqrs_store *store, const int64_t *ids, size_t count, bool force,
                                      pgqrs_result *results);

static pgqrs_result pgqrsi_message_delete_run(pgqrs_store *store, const int64_t *ids, size_t count, bool force,
                                              pgqrs_result *results)
{
    return store->backend->message_delete(store->self, pgqrsi_now(store), ids, count, force, results);
}

static pgqrs_result pgqrsi_message_replay_run(pgqrs_store *store, const int64_t *ids, size_t count, bool force,
                                              pgqrs_result *results)
{
    (void)force;
    return store->backend->message_replay(store->self, pgqrsi_now(store), ids, count, results);
}

/* Backends always want room for the results; callers may not care. */
static pgqrs_result pgqrsi_by_ids_run(pgqrs_store *store, pgqrsi_by_ids run, const int64_t *ids, size_t count,
                                      bool force, pgqrs_result *results)
{
    pgqrs_result *outcomes = results;
    if (count == 0) return PGQRS_OK;
    if (!ids) return pgqrsi_null_argument(store, "ids");
    if (count > SIZE_MAX / 2 / sizeof *outcomes) return pgqrsi_no_memory(store);
    if (!outcomes) outcomes = (pgqrs_result *)pgqrsi_mem_alloc(&store->settings.allocator, count * sizeof *outcomes);
    if (!outcomes) return pgqrsi_no_memory(store);
    pgqrs_result result = run(store, ids, count, force, outcomes);
    for (size_t i = 0; result && i < count; i++)
        outcomes[i] = result;
    if (outcomes != results) pgqrsi_mem_free(&store->settings.allocator, outcomes, count * sizeof *outcomes);
    return result;
}

static pgqrs_result pgqrsi_message_replay(pgqrs_store *store, int64_t id)
{
    pgqrs_result outcome = PGQRS_OK;
    pgqrs_result result = pgqrsi_by_ids_run(store, pgqrsi_message_replay_run, &id, 1, false, &outcome);
    if (result || outcome == PGQRS_OK) return result;
    if (outcome == PGQRS_ERR_MESSAGE_NOT_FOUND) return pgqrsi_message_unknown(store, id);
    if (outcome == PGQRS_ERR_DUPLICATE)
        return pgqrsi_fail(store, outcome,
                           "message %lld cannot be replayed: an unfinished message has its deduplication key",
                           (long long)id);
    return pgqrsi_fail(store, outcome, "message %lld is neither dead nor archived, so there is nothing to replay",
                       (long long)id);
}

static pgqrs_result pgqrsi_dead_page(pgqrs_store *store, const char *queue, int64_t after_id, size_t limit,
                                     bool oldest_first, pgqrs_messages **out)
{
    pgqrs_message_filter filter;
    memset(&filter, 0, sizeof filter);
    filter.queue = queue;
    filter.state = PGQRS_DEAD;
    filter.after_id = after_id;
    filter.limit = limit;
    filter.oldest_first = oldest_first;
    if (out) *out = NULL;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    return result ? result : pgqrsi_message_list(store, &filter, out);
}

static pgqrs_result pgqrsi_replay_page(pgqrs_store *store, const pgqrs_messages *page, int64_t *replayed)
{
    int64_t ids[PGQRSI_LIST_DEFAULT];
    pgqrs_result results[PGQRSI_LIST_DEFAULT];
    for (size_t i = 0; i < page->count; i++)
        ids[i] = page->items[i].id;
    pgqrs_result result = pgqrsi_by_ids_run(store, pgqrsi_message_replay_run, ids, page->count, false, results);
    for (size_t i = 0; i < page->count; i++)
        *replayed += results[i] == PGQRS_OK;
    return result;
}

/* Page by page, oldest first, so that any number is replayed with bounded memory and short transactions. */
static pgqrs_result pgqrsi_dead_replay_all(pgqrs_store *store, const char *queue, int64_t *replayed)
{
    int64_t after_id = 0;
    int64_t total = 0;
    pgqrs_result result = PGQRS_OK;
    for (bool more = true; more && !result;) {
        pgqrs_messages *page = NULL;
        result = pgqrsi_dead_page(store, queue, after_id, PGQRSI_LIST_DEFAULT, true, &page);
        more = page && page->count > 0;
        if (more) {
            after_id = page->items[page->count - 1].id;
            result = pgqrsi_replay_page(store, page, &total);
        }
        pgqrs_free(page);
    }
    if (replayed) *replayed = total;
    return result;
}

/* --- explain */

static void pgqrsi_say(pgqrs_explanation *out, pgqrs_reason reason, int64_t until_us, const char *format, ...)
    PGQRSI_PRINTF(4, 5);
static void pgqrsi_say(pgqrs_explanation *out, pgqrs_reason reason, int64_t until_us, const char *format, ...)
{
    va_list arguments;
    out->reason = reason;
    out->until_us = until_us;
    va_start(arguments, format);
    vsnprintf(out->text, sizeof out->text, format, arguments);
    va_end(arguments);
    pgqrsi_text_trim(out->text, sizeof out->text);
}

typedef struct pgqrsi_facts {
    const pgqrs_message *message;
    bool paused;
    int64_t live_workers;
    int64_t now_us;
} pgqrsi_facts;

static double pgqrsi_seconds(int64_t from_us, int64_t to_us)
{
    return (double)(to_us - from_us) / 1e6;
}

/* An expiry is a bound on the start: once a message has been started it no longer counts. */
static bool pgqrsi_expired(const pgqrsi_facts *facts)
{
    const pgqrs_message *m = facts->message;
    return m->expires_at_us && m->expires_at_us <= facts->now_us && m->attempt == 0;
}

static void pgqrsi_explain_finished(const pgqrs_message *m, pgqrs_explanation *out)
{
    long long id = (long long)m->id;
    const char *reason = m->reason ? m->reason : "no reason was recorded";
    if (m->state == PGQRS_DEAD)
        pgqrsi_say(out, PGQRS_WHY_DEAD, 0,
                   "message %lld is in the dead letters since attempt %d: %s. Mend the cause, then replay it with "
                   "pgqrs_message_replay",
                   id, (int)m->attempt, reason);
    else if (m->reason && m->attempt == 0)
        pgqrsi_say(out, PGQRS_WHY_EXPIRED, 0,
                   "message %lld was archived as expired: nobody started it in time. Replay it, or enqueue with a "
                   "later expiry",
                   id);
    else
        pgqrsi_say(out, PGQRS_WHY_ARCHIVED, 0, "message %lld is done and archived", id);
}

static void pgqrsi_explain_ready(const pgqrsi_facts *facts, pgqrs_explanation *out)
{
    const pgqrs_message *m = facts->message;
    long long id = (long long)m->id;
    if (pgqrsi_expired(facts))
        pgqrsi_say(out, PGQRS_WHY_EXPIRED, 0,
                   "message %lld expired before anyone started it; the next claim on \"%s\" archives it", id, m->queue);
    else if (facts->paused)
        pgqrsi_say(out, PGQRS_WHY_PAUSED, 0, "message %lld is ready, but queue \"%s\" is paused: pgqrs_queue_resume",
                   id, m->queue);
    else if (facts->live_workers == 0)
        pgqrsi_say(
            out, PGQRS_WHY_NO_WORKER, 0,
            "message %lld is ready, but no worker for queue \"%s\" showed a heartbeat within a minute: start one", id,
            m->queue);
    else if (m->lease_until_us)
        pgqrsi_say(out, PGQRS_WHY_LEASE_OVER, 0,
                   "the lease on message %lld ran out %.1f s ago (attempt %d); the next claim on \"%s\" takes it back",
                   id, pgqrsi_seconds(m->lease_until_us, facts->now_us), (int)m->attempt, m->queue);
    else
        pgqrsi_say(out, PGQRS_WHY_NEXT, 0,
                   "message %lld is ready, and %lld %s for queue \"%s\" showed a heartbeat within a minute: it is "
                   "taken when its turn "
                   "comes, or when their leases end",
                   id, (long long)facts->live_workers, facts->live_workers == 1 ? "worker" : "workers", m->queue);
}

static void pgqrsi_explain_facts(const pgqrsi_facts *facts, pgqrs_explanation *out)
{
    const pgqrs_message *m = facts->message;
    long long id = (long long)m->id;
    out->worker_id = m->state == PGQRS_LEASED ? m->worker_id : 0;
    if (m->state == PGQRS_LEASED)
        pgqrsi_say(
            out, PGQRS_WHY_LEASED, m->lease_until_us,
            "message %lld is held by worker %s (%lld), attempt %d, for another %.1f s; then it returns by itself", id,
            m->worker ? m->worker : "(not registered)", (long long)m->worker_id, (int)m->attempt,
            pgqrsi_seconds(facts->now_us, m->lease_until_us));
    else if (m->state == PGQRS_DELAYED && !pgqrsi_expired(facts))
        pgqrsi_say(out, PGQRS_WHY_DELAYED, m->due_at_us, "message %lld waits another %.1f s%s%s", id,
                   pgqrsi_seconds(facts->now_us, m->due_at_us),
                   m->reason ? ", after its last try failed: " : " for its time", m->reason ? m->reason : "");
    else if (m->state == PGQRS_ARCHIVED || m->state == PGQRS_DEAD)
        pgqrsi_explain_finished(m, out);
    else
        pgqrsi_explain_ready(facts, out);
}

static pgqrs_result pgqrsi_explain_gather(pgqrs_store *store, const pgqrs_message *message, pgqrsi_facts *facts)
{
    pgqrs_queues *queues = NULL;
    pgqrs_worker_stats stats;
    memset(facts, 0, sizeof *facts);
    memset(&stats, 0, sizeof stats);
    facts->message = message;
    pgqrs_result result = store->backend->now(store->self, &facts->now_us);
    if (!result) result = pgqrsi_queue_find(store, message->queue, &queues);
    if (!result)
        result = store->backend->worker_stats(store->self, pgqrsi_now(store), message->queue,
                                              PGQRSI_STALE_DEFAULT_MS * PGQRSI_US_PER_MS, &stats);
    facts->paused = queues && queues->items[0].settings.paused;
    facts->live_workers = stats.total - stats.stopped - stats.stale;
    pgqrs_free(queues);
    return result;
}

static pgqrs_result pgqrsi_message_explain(pgqrs_store *store, int64_t id, pgqrs_explanation *out)
{
    pgqrs_message *message = NULL;
    pgqrsi_facts facts;
    if (!out) return pgqrsi_null_argument(store, "out");
    memset(out, 0, sizeof *out);
    pgqrs_result result = store->backend->message_get(store->self, pgqrsi_now(store), id, &message);
    if (result) return result;
    if (!message) {
        pgqrsi_say(out, PGQRS_WHY_UNKNOWN_ID, 0, "there is no message %lld: it was deleted, purged, or never there",
                   (long long)id);
        return PGQRS_OK;
    }
    result = pgqrsi_explain_gather(store, message, &facts);
    if (!result) pgqrsi_explain_facts(&facts, out);
    pgqrs_free(message);
    return result;
}

/* --- workflows */

static pgqrs_result pgqrsi_workflow_desc_check(pgqrs_store *store, const pgqrs_workflow_desc *desc)
{
    int64_t least = -1; /* an update sets back to 0 with it */
    pgqrs_result result = desc->queue ? pgqrsi_check_queue(store, desc->queue) : PGQRS_OK;
    if (!result) result = pgqrsi_retry_check(&desc->retry, &store->error);
    if (!result) result = pgqrsi_check_range(store, "lease_ms", desc->lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "max_attempts", desc->max_attempts, 0, INT16_MAX);
    if (!result) result = pgqrsi_check_range(store, "timeout_ms", desc->timeout_ms, least, PGQRSI_DELAY_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "step_timeout_ms", desc->step_timeout_ms, least, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "retention_ms", desc->retention_ms, least, PGQRSI_DELAY_MAX_MS);
    if (!result)
        result =
            pgqrsi_check_range(store, "failed_retention_ms", desc->failed_retention_ms, least, PGQRSI_DELAY_MAX_MS);
    return result;
}

static pgqrs_result pgqrsi_workflow_create(pgqrs_store *store, const char *workflow, const pgqrs_workflow_desc *desc)
{
    pgqrs_workflow_desc settings;
    pgqrs_queue_desc queue;
    bool created = false;
    memset(&settings, 0, sizeof settings);
    memset(&queue, 0, sizeof queue);
    if (desc) settings = *desc;
    pgqrs_result result = pgqrsi_check_name("workflow", workflow, &store->error);
    if (!result) result = pgqrsi_workflow_desc_check(store, &settings);
    if (result) return result;
    if (!settings.queue) settings.queue = workflow;
    settings.retry = pgqrsi_retry_resolve(&settings.retry, &pgqrsi_retry_default);
    settings.timeout_ms = settings.timeout_ms < 0 ? 0 : settings.timeout_ms;
    settings.step_timeout_ms = settings.step_timeout_ms < 0 ? 0 : settings.step_timeout_ms;
    settings.retention_ms = settings.retention_ms < 0 ? 0 : settings.retention_ms;
    settings.failed_retention_ms = settings.failed_retention_ms < 0 ? 0 : settings.failed_retention_ms;
    queue.lease_ms = settings.lease_ms;
    queue.max_attempts = settings.max_attempts;
    pgqrsi_queue_desc_resolve(store, &queue);
    result = store->backend->workflow_create(store->self, pgqrsi_now(store), workflow, &settings, &queue, &created);
    pgqrsi_policy_forget(store);
    if (!result && !created && settings.must_be_new)
        return pgqrsi_fail(store, PGQRS_ERR_WORKFLOW_EXISTS, "workflow \"%s\" exists already", workflow);
    return result;
}

static pgqrs_result pgqrsi_workflow_update(pgqrs_store *store, const char *workflow, const pgqrs_workflow_desc *desc)
{
    pgqrs_workflow_desc settings;
    memset(&settings, 0, sizeof settings);
    if (desc) settings = *desc;
    pgqrs_result result = pgqrsi_check_name("workflow", workflow, &store->error);
    settings.queue = NULL;
    if (!result) result = pgqrsi_workflow_desc_check(store, &settings);
    if (!result && (settings.lease_ms || settings.max_attempts))
        result = pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT,
                             "lease_ms and max_attempts belong to the workflow's queue: pgqrs_queue_update");
    return result ? result : store->backend->workflow_change(store->self, workflow, &settings);
}

static pgqrs_result pgqrsi_workflow_get(pgqrs_store *store, const char *workflow, pgqrs_workflow **out)
{
    pgqrs_workflows *found = NULL;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_workflow_find(store, workflow, &found);
    if (result || !found) return result;
    pgqrs_workflow *one = (pgqrs_workflow *)pgqrsi_result_alias(found, sizeof *one);
    if (!one) {
        pgqrs_free(found);
        return pgqrsi_no_memory(store);
    }
    *one = found->items[0];
    *out = one;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_workflow_list(pgqrs_store *store, int64_t after_id, size_t limit, pgqrs_workflows **out)
{
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_check_limit(store, &limit);
    if (!result) result = pgqrsi_check_range(store, "after_id", after_id, 0, INT64_MAX);
    return result ? result : store->backend->workflow_list(store->self, NULL, after_id, limit, out);
}

#define PGQRSI_RUN_ENDED_BITS (1u << PGQRS_RUN_SUCCESS | 1u << PGQRS_RUN_ERROR | 1u << PGQRS_RUN_CANCELLED)

/* Removes runs bit by bit. */
static pgqrs_result pgqrsi_run_purge_all(pgqrs_store *store, pgqrs_backend_run_purge *purge, int64_t *removed)
{
    pgqrs_result result = PGQRS_OK;
    purge->limit = PGQRSI_LIST_MAX;
    do {
        purge->now_us = pgqrsi_now(store);
        purge->removed = 0;
        result = store->backend->run_purge(store->self, purge);
        if (!result) *removed += purge->removed;
    } while (!result && purge->removed > 0);
    return result;
}

/* Counts runs that have not ended. */
static pgqrs_result pgqrsi_workflow_open_runs(pgqrs_store *store, const char *workflow, int64_t *open)
{
    static const pgqrs_run_state states[] = {PGQRS_RUN_QUEUED, PGQRS_RUN_RUNNING, PGQRS_RUN_PAUSED,
                                             PGQRS_RUN_CANCELLING};
    pgqrs_run_filter filter;
    pgqrs_result result = PGQRS_OK;
    memset(&filter, 0, sizeof filter);
    filter.workflow = workflow;
    *open = 0;
    for (size_t i = 0; i < sizeof states / sizeof states[0] && !result; i++) {
        int64_t count = 0;
        filter.state = states[i];
        result = store->backend->run_count(store->self, pgqrsi_now(store), &filter, &count);
        *open += count;
    }
    return result;
}

static pgqrs_result pgqrsi_workflow_must_exist(pgqrs_store *store, const char *workflow)
{
    pgqrs_workflows *found = NULL;
    pgqrs_result result = pgqrsi_workflow_find(store, workflow, &found);
    if (!result && !found) result = pgqrsi_workflow_unknown(store, workflow);
    pgqrs_free(found);
    return result;
}

static pgqrs_result pgqrsi_workflow_delete(pgqrs_store *store, const char *workflow, bool force)
{
    pgqrs_backend_run_purge purge;
    int64_t open = 0, removed = 0;
    pgqrs_result result = pgqrsi_workflow_must_exist(store, workflow);
    if (!result && !force) result = pgqrsi_workflow_open_runs(store, workflow, &open);
    if (result) return result;
    if (open > 0)
        return pgqrsi_fail(store, PGQRS_ERR_WORKFLOW_NOT_EMPTY,
                           "workflow \"%s\" has %lld runs that have not ended: cancel them, or delete with force",
                           workflow, (long long)open);
    memset(&purge, 0, sizeof purge);
    purge.workflow = workflow;
    purge.states = PGQRSI_RUN_ENDED_BITS;
    purge.open = force;
    result = pgqrsi_run_purge_all(store, &purge, &removed);
    if (!result) result = store->backend->workflow_delete(store->self, pgqrsi_now(store), workflow);
    pgqrsi_policy_forget(store);
    return result;
}

/* --- triggers */

static pgqrs_result pgqrsi_trigger_check(pgqrs_store *store, const pgqrs_trigger_item *item,
                                         pgqrs_backend_trigger_item *out)
{
    const pgqrs_trigger_desc *desc = &item->desc;
    memset(out, 0, sizeof *out);
    out->input = item->input ? item->input : "null";
    out->input_size = item->input && desc->input_size ? desc->input_size : strlen(out->input);
    out->priority = desc->priority;
    out->idempotency_key = desc->idempotency_key;
    pgqrs_result result = pgqrsi_check_range(store, "priority", desc->priority, INT16_MIN, INT16_MAX);
    if (!result) result = pgqrsi_check_when(store, "delay_ms", desc->delay_ms, "at_us", desc->at_us, &out->due);
    if (!result) result = pgqrsi_check_label(store, "idempotency_key", desc->idempotency_key);
    if (!result) result = pgqrsi_check_payload(&store->settings, out->input, out->input_size, &store->error);
    if (result) pgqrsi_error_rename(&store->error, "input");
    return result;
}

static int pgqrsi_trigger_compare(const void *a, const void *b)
{
    const pgqrs_backend_trigger_item *left = *(const pgqrs_backend_trigger_item *const *)a;
    const pgqrs_backend_trigger_item *right = *(const pgqrs_backend_trigger_item *const *)b;
    return strcmp(left->idempotency_key, right->idempotency_key);
}

/* `sorted` is room for count pointers. */
static pgqrs_result pgqrsi_trigger_keys(pgqrs_store *store, const pgqrs_backend_trigger_item *items, size_t count,
                                        const pgqrs_backend_trigger_item **sorted)
{
    size_t keys = 0;
    for (size_t i = 0; i < count; i++)
        if (items[i].idempotency_key) sorted[keys++] = &items[i];
    qsort((void *)sorted, keys, sizeof sorted[0], pgqrsi_trigger_compare);
    for (size_t i = 1; i < keys; i++) {
        if (strcmp(sorted[i - 1]->idempotency_key, sorted[i]->idempotency_key) != 0) continue;
        pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "two items have the same idempotency_key");
        store->error.index = (sorted[i] > sorted[i - 1] ? sorted[i] : sorted[i - 1]) - items;
        return PGQRS_ERR_INVALID_ARGUMENT;
    }
    return PGQRS_OK;
}

/* Runs that were there already are no news. The queue has to be asked for, which only an observer pays. */
static void pgqrsi_trigger_tell(pgqrs_store *store, const char *workflow, const pgqrs_receipt *receipts, size_t count,
                                int64_t started_us)
{
    pgqrs_workflows *found = NULL;
    int64_t made = 0;
    if (!store->settings.observer.observe) return;
    for (size_t i = 0; i < count; i++)
        made += !receipts[i].duplicate;
    pgqrs_event event = pgqrsi_event(PGQRS_EVENT_ENQUEUED, NULL, made, started_us);
    if (made == 0) return;
    if (pgqrsi_workflow_find(store, workflow, &found) == PGQRS_OK && found)
        event.queue = found->items[0].settings.queue;
    pgqrsi_observe(store, event);
    pgqrs_free(found);
}

static pgqrs_result pgqrsi_trigger_send(pgqrs_store *store, const char *workflow,
                                        const pgqrs_backend_trigger_item *items, size_t count, pgqrs_receipt *receipts)
{
    pgqrs_backend_trigger request;
    int64_t started_us = pgqrsi_monotonic_us();
    pgqrs_result result = pgqrsi_bucket_take(&store->bucket, count, started_us, &store->error);
    if (result) return result;
    request.now_us = pgqrsi_now(store);
    request.workflow = workflow;
    request.items = items;
    request.count = count;
    result = store->backend->trigger(store->self, &request, receipts);
    if (!result)
        pgqrsi_trigger_tell(store, workflow, receipts, count, started_us);
    else if (result != PGQRS_ERR_OUTCOME_UNKNOWN)
        pgqrsi_bucket_put_back(&store->bucket, count);
    return result;
}

static pgqrs_result pgqrsi_workflow_trigger(pgqrs_store *store, const char *workflow, const pgqrs_trigger_item *items,
                                            size_t count, pgqrs_receipt *receipts, bool single)
{
    size_t each = sizeof(pgqrs_backend_trigger_item) + sizeof(pgqrs_receipt) + sizeof(void *);
    pgqrs_result result = pgqrsi_check_name("workflow", workflow, &store->error);
    if (result || count == 0) return result;
    if (!items) return pgqrsi_null_argument(store, "items");
    if (count > (size_t)INT32_MAX / each) return pgqrsi_no_memory(store);
    pgqrs_backend_trigger_item *checked =
        (pgqrs_backend_trigger_item *)pgqrsi_mem_alloc(&store->settings.allocator, count * each);
    if (!checked) return pgqrsi_no_memory(store);
    pgqrs_receipt *made = (pgqrs_receipt *)(void *)(checked + count);
    const pgqrs_backend_trigger_item **sorted = (const pgqrs_backend_trigger_item **)(void *)(made + count);
    for (size_t i = 0; i < count && !result; i++) {
        result = pgqrsi_trigger_check(store, &items[i], &checked[i]);
        if (result) store->error.index = single ? -1 : (int64_t)i;
    }
    if (!result) result = pgqrsi_trigger_keys(store, checked, count, sorted);
    if (!result) result = pgqrsi_trigger_send(store, workflow, checked, count, made);
    if (!result && receipts) memcpy(receipts, made, count * sizeof *made);
    pgqrsi_mem_free(&store->settings.allocator, checked, count * each);
    return result;
}

/* --- runs: questions */

static pgqrs_result pgqrsi_run_unknown(pgqrs_store *store, int64_t id)
{
    return pgqrsi_fail(store, PGQRS_ERR_RUN_NOT_FOUND, "there is no run %lld: it was purged, or never there",
                       (long long)id);
}

/* *out NULL: there is no such run. The first of a list of one, in the list's own arena. */
static pgqrs_result pgqrsi_run_find(pgqrs_store *store, int64_t id, pgqrs_run_info **out)
{
    pgqrs_runs *runs = NULL;
    pgqrs_run_filter filter;
    memset(&filter, 0, sizeof filter);
    filter.limit = 1;
    *out = NULL;
    if (id <= 0) return PGQRS_OK;
    pgqrs_result result = store->backend->run_list(store->self, pgqrsi_now(store), id, &filter, &runs);
    if (!result && runs->count > 0) {
        *out = (pgqrs_run_info *)pgqrsi_result_alias(runs, sizeof **out);
        if (*out) {
            **out = runs->items[0];
            return PGQRS_OK;
        }
        result = pgqrsi_no_memory(store);
    }
    pgqrs_free(runs);
    return result;
}

static pgqrs_result pgqrsi_run_get(pgqrs_store *store, int64_t id, pgqrs_run_info **out)
{
    return out ? pgqrsi_run_find(store, id, out) : pgqrsi_null_argument(store, "out");
}

static pgqrs_result pgqrsi_run_must_exist(pgqrs_store *store, int64_t id)
{
    pgqrs_run_info *info = NULL;
    pgqrs_result result = pgqrsi_run_find(store, id, &info);
    if (!result && !info) result = pgqrsi_run_unknown(store, id);
    pgqrs_free(info);
    return result;
}

static pgqrs_result pgqrsi_run_filter(pgqrs_store *store, const pgqrs_run_filter *given, pgqrs_run_filter *filter)
{
    memset(filter, 0, sizeof *filter);
    if (given) *filter = *given;
    pgqrs_result result = filter->workflow ? pgqrsi_check_name("workflow", filter->workflow, &store->error) : PGQRS_OK;
    if (!result) result = pgqrsi_check_range(store, "state", filter->state, 0, PGQRS_RUN_ERROR);
    if (!result) result = pgqrsi_check_label(store, "idempotency_key", filter->idempotency_key);
    if (!result) result = pgqrsi_check_range(store, "after_id", filter->after_id, 0, INT64_MAX);
    if (!result)
        result = pgqrsi_check_range(store, "triggered_from_us", filter->triggered_from_us, 0, PGQRSI_TIME_MAX_US);
    if (!result)
        result = pgqrsi_check_range(store, "triggered_before_us", filter->triggered_before_us, 0, PGQRSI_TIME_MAX_US);
    return result ? result : pgqrsi_check_limit(store, &filter->limit);
}

static pgqrs_result pgqrsi_run_list(pgqrs_store *store, const pgqrs_run_filter *given, pgqrs_runs **out)
{
    pgqrs_run_filter filter;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_run_filter(store, given, &filter);
    if (!result) result = store->backend->run_list(store->self, pgqrsi_now(store), 0, &filter, out);
    if (!result && (*out)->count == 0 && filter.workflow) result = pgqrsi_workflow_must_exist(store, filter.workflow);
    if (result) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

static pgqrs_result pgqrsi_run_count(pgqrs_store *store, const pgqrs_run_filter *given, int64_t *count)
{
    pgqrs_run_filter filter;
    if (!count) return pgqrsi_null_argument(store, "count");
    *count = 0;
    pgqrs_result result = pgqrsi_run_filter(store, given, &filter);
    filter.after_id = 0;
    if (!result) result = store->backend->run_count(store->self, pgqrsi_now(store), &filter, count);
    if (!result && *count == 0 && filter.workflow) result = pgqrsi_workflow_must_exist(store, filter.workflow);
    return result;
}

static pgqrs_result pgqrsi_run_steps(pgqrs_store *store, int64_t id, pgqrs_steps **out)
{
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = store->backend->run_steps(store->self, id, out);
    if (!result && (*out)->count == 0) result = pgqrsi_run_must_exist(store, id);
    if (result) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

static pgqrs_result pgqrsi_run_values_get(pgqrs_store *store, int64_t id, pgqrs_run_values **out)
{
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = store->backend->run_values(store->self, id, out);
    if (!result && (*out)->count == 0) result = pgqrsi_run_must_exist(store, id);
    if (result) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

static bool pgqrsi_run_has_ended(const pgqrs_run_info *info)
{
    return info->state >= PGQRS_RUN_CANCELLED;
}

/* What the reason of a dead letter does not say. The commonest way to lose every worker is a step that outlasts its lease. */
static const char *pgqrsi_dead_advice(const pgqrs_run_info *run)
{
    static const char expired[] = "lease expired";
    if (!run->error_code || strcmp(run->error_code, "DEAD") != 0) return "";
    if (!run->error_message)
        return " (its message was finished or removed by something that is no worker of workflows)";
    if (strncmp(run->error_message, expired, sizeof expired - 1) != 0) return "";
    return " (its workers died, or a step took longer than lease_ms and has no timeout_ms)";
}

/* The record of an ended run becomes the answer, or the error that says why there is none. */
static pgqrs_result pgqrsi_run_answer(pgqrs_store *store, pgqrs_run_info *info, pgqrs_run_info **out)
{
    pgqrs_result result = PGQRS_OK;
    long long id = (long long)info->id;
    if (info->state == PGQRS_RUN_SUCCESS) {
        *out = info;
        return PGQRS_OK;
    }
    if (info->state == PGQRS_RUN_CANCELLED)
        result = pgqrsi_fail(store, PGQRS_ERR_RUN_CANCELLED, "run %lld of \"%s\" was cancelled%s%s%s%s", id,
                             info->workflow, info->cancelled_by ? " by " : "", pgqrsi_text_or_empty(info->cancelled_by),
                             info->cancel_reason ? ": " : "", pgqrsi_text_or_empty(info->cancel_reason));
    else
        result = pgqrsi_fail(store, PGQRS_ERR_RUN_FAILED, "run %lld of \"%s\" failed%s%s%s: %s%s%s%s", id,
                             info->workflow, info->error_step ? " in step \"" : "",
                             pgqrsi_text_or_empty(info->error_step), info->error_step ? "\"" : "",
                             pgqrsi_text_or_empty(info->error_code), info->error_message ? ": " : "",
                             pgqrsi_text_or_empty(info->error_message), pgqrsi_dead_advice(info));
    pgqrs_free(info);
    return result;
}

static pgqrs_result pgqrsi_run_await(pgqrs_store *store, int64_t id, pgqrsi_wait *wait, pgqrs_run_info **info)
{
    bool again = true;
    while (again) {
        pgqrs_result result = pgqrsi_run_find(store, id, info);
        if (!result && !*info) result = pgqrsi_run_unknown(store, id);
        if (result || pgqrsi_run_has_ended(*info)) return result;
        result = pgqrsi_wait_next(wait, -1, &again);
        if (!result && again) {
            pgqrs_free(*info);
            *info = NULL;
        }
        if (result) return result;
    }
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_run_result(pgqrs_store *store, int64_t id, int64_t timeout_ms, pgqrs_run_info **out)
{
    pgqrsi_wait wait;
    pgqrs_run_info *info = NULL;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_check_range(store, "timeout_ms", timeout_ms, 0, PGQRS_FOREVER);
    if (result) return result;
    pgqrsi_wait_open(&wait, store, NULL, NULL, store->settings.poll_ms, timeout_ms);
    wait.run_id = id;
    result = pgqrsi_run_await(store, id, &wait, &info);
    pgqrsi_wait_close(&wait);
    if (timeout_ms > 0) pgqrsi_stop_take(store);
    if (!result && pgqrsi_run_has_ended(info)) return pgqrsi_run_answer(store, info, out);
    if (!result)
        result = pgqrsi_fail(store, PGQRS_ERR_TIMEOUT, "run %lld is %s and has not ended in the time given",
                             (long long)id, pgqrs_run_state_name(info->state));
    pgqrs_free(info);
    return result;
}

/* --- runs: why is it not moving? */

static void pgqrsi_explain_ended(const pgqrs_run_info *run, pgqrs_explanation *out)
{
    long long id = (long long)run->id;
    if (run->state == PGQRS_RUN_ERROR)
        pgqrsi_say(
            out, PGQRS_WHY_RUN_FAILED, 0,
            "run %lld failed%s%s: %s%s%s%s. Mend the cause, then pgqrs_run_restart goes on after its last completed "
            "step",
            id, run->error_step ? " in step " : "", pgqrsi_text_or_empty(run->error_step),
            pgqrsi_text_or_empty(run->error_code), run->error_message ? ": " : "",
            pgqrsi_text_or_empty(run->error_message), pgqrsi_dead_advice(run));
    else
        pgqrsi_say(out, PGQRS_WHY_RUN_ENDED, 0, "run %lld has ended: %s%s%s%s%s", id, pgqrs_run_state_name(run->state),
                   run->cancelled_by ? " by " : "", pgqrsi_text_or_empty(run->cancelled_by),
                   run->cancel_reason ? ": " : "", pgqrsi_text_or_empty(run->cancel_reason));
}

/* The step that was stored last tells where it is. */
static pgqrs_result pgqrsi_explain_running(pgqrs_store *store, const pgqrs_run_info *run, const pgqrsi_facts *facts,
                                           pgqrs_explanation *out)
{
    pgqrs_steps *steps = NULL;
    pgqrs_result result = store->backend->run_steps(store->self, run->id, &steps);
    const pgqrs_step_info *last = !result && steps->count ? &steps->items[steps->count - 1] : NULL;
    if (!result)
        pgqrsi_say(out, PGQRS_WHY_LEASED, run->lease_until_us,
                   "run %lld is with worker %s (%lld), attempt %d, for another %.1f s at least%s%s%s%s",
                   (long long)run->id, run->worker ? run->worker : "(not registered)", (long long)run->worker_id,
                   (int)run->attempt, pgqrsi_seconds(facts->now_us, run->lease_until_us),
                   last ? "; the last step stored is " : "; no step is stored yet", last ? last->name : "",
                   last && last->key ? " " : "", last ? pgqrsi_text_or_empty(last->key) : "");
    pgqrs_free(steps);
    return result;
}

static void pgqrsi_explain_wait(const pgqrs_run_info *run, const pgqrsi_facts *facts, pgqrs_explanation *out)
{
    static const pgqrs_reason reasons[] = {PGQRS_WHY_DELAYED, PGQRS_WHY_RETRY, PGQRS_WHY_STEP_PAUSE, PGQRS_WHY_SLEEP,
                                           PGQRS_WHY_EVENT};
    static const char *const what[] = {"its time", "another try of", "step", "the end of sleep", "event"};
    char limit[64] = "";
    if (run->wait_until_us)
        snprintf(limit, sizeof limit, ", another %.1f s%s", pgqrsi_seconds(facts->now_us, run->wait_until_us),
                 run->wait == PGQRS_WAIT_EVENT ? " at most" : "");
    pgqrsi_say(out, reasons[run->wait], run->wait_until_us, "run %lld waits for %s %s%s%s", (long long)run->id,
               what[run->wait], run->wait_name ? run->wait_name : "the run", limit,
               run->wait == PGQRS_WAIT_EVENT ? ": pgqrs_run_send_event" : "");
}

static void pgqrsi_explain_cancelling(const pgqrs_run_info *run, const pgqrsi_facts *facts, pgqrs_explanation *out)
{
    if (run->lease_until_us)
        pgqrsi_say(out, PGQRS_WHY_CANCELLING, run->lease_until_us,
                   "run %lld is asked to cancel: worker %s (%lld) stops at its next step, or its lease ends in %.1f s",
                   (long long)run->id, run->worker ? run->worker : "(not registered)", (long long)run->worker_id,
                   pgqrsi_seconds(facts->now_us, run->lease_until_us));
    else
        pgqrsi_say(
            out, PGQRS_WHY_CANCELLING, 0,
            "run %lld is asked to cancel and nobody has it any more: cancel it again, or the next worker does it",
            (long long)run->id);
}

/* A run and its message have the same number; people ask about runs. */
static void pgqrsi_explain_as_run(pgqrs_explanation *out)
{
    static const char message[] = "message ";
    size_t cut = sizeof message - 1 - 4;
    if (strncmp(out->text, message, sizeof message - 1) != 0) return;
    memmove(out->text, out->text + cut, strlen(out->text + cut) + 1);
    memcpy(out->text, "run ", 4);
}

static pgqrs_result pgqrsi_explain_open(pgqrs_store *store, const pgqrs_run_info *run, pgqrs_explanation *out)
{
    pgqrs_message *message = NULL;
    pgqrsi_facts facts;
    pgqrs_result result = store->backend->message_get(store->self, pgqrsi_now(store), run->id, &message);
    if (!result && message) result = pgqrsi_explain_gather(store, message, &facts);
    if (!result && !message)
        pgqrsi_say(out, PGQRS_WHY_RUN_FAILED, 0, "run %lld lost its message, somebody removed it", (long long)run->id);
    if (!result && message) {
        pgqrsi_explain_facts(&facts, out);
        pgqrsi_explain_as_run(out);
        if (run->state == PGQRS_RUN_CANCELLING)
            pgqrsi_explain_cancelling(run, &facts, out);
        else if (run->state == PGQRS_RUN_PAUSED)
            pgqrsi_explain_wait(run, &facts, out);
        else if (run->state == PGQRS_RUN_RUNNING)
            result = pgqrsi_explain_running(store, run, &facts, out);
    }
    pgqrs_free(message);
    return result;
}

static pgqrs_result pgqrsi_run_explain(pgqrs_store *store, int64_t id, pgqrs_explanation *out)
{
    pgqrs_run_info *run = NULL;
    if (!out) return pgqrsi_null_argument(store, "out");
    memset(out, 0, sizeof *out);
    pgqrs_result result = pgqrsi_run_find(store, id, &run);
    if (result) return result;
    if (!run)
        pgqrsi_say(out, PGQRS_WHY_UNKNOWN_ID, 0, "there is no run %lld: it was purged, or never there", (long long)id);
    else if (pgqrsi_run_has_ended(run))
        pgqrsi_explain_ended(run, out);
    else
        result = pgqrsi_explain_open(store, run, out);
    pgqrs_free(run);
    return result;
}

/* --- runs: control */

static pgqrs_result pgqrsi_run_wrong_state(pgqrs_store *store, int64_t id, pgqrs_run_state state, const char *verb)
{
    return pgqrsi_fail(store, PGQRS_ERR_RUN_STATE, "run %lld is %s and cannot %s", (long long)id,
                       pgqrs_run_state_name(state), verb);
}

static pgqrs_result pgqrsi_run_not_found(pgqrs_store *store, int64_t id, pgqrs_result result)
{
    return result == PGQRS_ERR_RUN_NOT_FOUND ? pgqrsi_run_unknown(store, id) : result;
}

static pgqrs_result pgqrsi_run_cancel(pgqrs_store *store, int64_t id, const pgqrs_cancel_desc *desc,
                                      pgqrs_run_state *state)
{
    char reason[PGQRSI_REASON_MAX + 1] = "";
    pgqrs_run_state now = (pgqrs_run_state)0;
    if (state) *state = now;
    const char *by = desc ? desc->by : NULL;
    pgqrs_result result = pgqrsi_check_label(store, "by", by);
    if (desc && desc->reason) pgqrsi_reason_copy(desc->reason, reason);
    if (!result)
        result = store->backend->run_cancel(store->self, pgqrsi_now(store), id, by,
                                            desc && desc->reason ? reason : NULL, &now);
    if (result) return pgqrsi_run_not_found(store, id, result);
    if (state) *state = now;
    if (now == PGQRS_RUN_CANCELLED || now == PGQRS_RUN_CANCELLING) return PGQRS_OK;
    return pgqrsi_run_wrong_state(store, id, now, "be cancelled");
}

static pgqrs_result pgqrsi_run_send_event(pgqrs_store *store, int64_t id, const char *event, const char *payload,
                                          bool *accepted)
{
    pgqrs_run_state state = (pgqrs_run_state)0;
    bool first = false;
    if (accepted) *accepted = false;
    const char *text = payload ? payload : "null";
    size_t size = strlen(text);
    pgqrs_result result = pgqrsi_check_name("event", event, &store->error);
    if (!result) result = pgqrsi_check_payload(&store->settings, text, size, &store->error);
    if (!result)
        result = store->backend->run_send(store->self, pgqrsi_now(store), id, event, text, size, &first, &state);
    if (result) return pgqrsi_run_not_found(store, id, result);
    if (accepted) *accepted = first;
    return state >= PGQRS_RUN_CANCELLED ? pgqrsi_run_wrong_state(store, id, state, "get events") : PGQRS_OK;
}

static pgqrs_result pgqrsi_run_restart(pgqrs_store *store, int64_t id)
{
    pgqrs_run_state state = (pgqrs_run_state)0;
    pgqrs_result result = store->backend->run_restart(store->self, pgqrsi_now(store), id, &state);
    if (result) return pgqrsi_run_not_found(store, id, result);
    return state == PGQRS_RUN_ERROR ? PGQRS_OK
                                    : pgqrsi_run_wrong_state(store, id, state, "be restarted: only failed ones can");
}

/* The number of the step to fork from. */
static pgqrs_result pgqrsi_fork_point(pgqrs_store *store, int64_t id, const pgqrs_fork_desc *desc, int32_t *before)
{
    pgqrs_steps *steps = NULL;
    pgqrs_result result = store->backend->run_steps(store->self, id, &steps);
    *before = 0;
    for (size_t i = 0; !result && i < steps->count; i++) {
        bool same = strcmp(steps->items[i].name, desc->step) == 0 &&
                    strcmp(pgqrsi_text_or_empty(steps->items[i].key), pgqrsi_text_or_empty(desc->key)) == 0;
        if (same && (!*before || steps->items[i].kind == PGQRS_STEP_BODY)) *before = steps->items[i].number;
    }
    pgqrs_free(steps);
    if (!result && !*before) result = pgqrsi_run_must_exist(store, id);
    if (!result && !*before)
        result = pgqrsi_fail(store, PGQRS_ERR_STEP_NOT_FOUND, "run %lld has no step \"%s\"%s%s", (long long)id,
                             desc->step, desc->key ? " with key " : "", pgqrsi_text_or_empty(desc->key));
    return result;
}

static pgqrs_result pgqrsi_run_fork(pgqrs_store *store, int64_t id, const pgqrs_fork_desc *given, int64_t *new_run_id)
{
    pgqrs_fork_desc desc;
    int32_t before = 1;
    int64_t made = 0;
    if (new_run_id) *new_run_id = 0;
    memset(&desc, 0, sizeof desc);
    if (given) desc = *given;
    pgqrs_result result = desc.step ? pgqrsi_check_name("step", desc.step, &store->error) : PGQRS_OK;
    if (!result && desc.key && !desc.step)
        result = pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "key is given without step");
    if (!result && desc.input)
        result = pgqrsi_check_payload(&store->settings, desc.input, strlen(desc.input), &store->error);
    if (!result && desc.step) result = pgqrsi_fork_point(store, id, &desc, &before);
    if (!result)
        result = store->backend->run_fork(store->self, pgqrsi_now(store), id, before, desc.input,
                                          desc.input ? strlen(desc.input) : 0, &made);
    if (!result && new_run_id) *new_run_id = made;
    return pgqrsi_run_not_found(store, id, result);
}

static pgqrs_result pgqrsi_run_purge(pgqrs_store *store, const char *workflow, const pgqrs_run_purge_desc *given,
                                     int64_t *removed)
{
    pgqrs_run_purge_desc desc;
    pgqrs_backend_run_purge purge;
    int64_t count = 0;
    memset(&desc, 0, sizeof desc);
    memset(&purge, 0, sizeof purge);
    if (given) desc = *given;
    pgqrs_result result = pgqrsi_check_name("workflow", workflow, &store->error);
    if (!result && desc.state)
        result = pgqrsi_check_range(store, "state", desc.state, PGQRS_RUN_CANCELLED, PGQRS_RUN_ERROR);
    if (!result) result = pgqrsi_check_range(store, "older_than_ms", desc.older_than_ms, 0, PGQRSI_DELAY_MAX_MS);
    purge.workflow = workflow;
    purge.states = desc.state ? 1u << desc.state : PGQRSI_RUN_ENDED_BITS;
    purge.older_than_us = result ? 0 : desc.older_than_ms * PGQRSI_US_PER_MS;
    if (!result) result = pgqrsi_run_purge_all(store, &purge, &count);
    if (removed) *removed = count;
    return result;
}

/* --- workers */

static pgqrs_result pgqrsi_worker_healthy(pgqrs_store *store, int64_t worker_id, int64_t max_age_ms, bool *healthy)
{
    pgqrs_workers *found = NULL;
    int64_t now_us = 0;
    if (!healthy) return pgqrsi_null_argument(store, "healthy");
    *healthy = false;
    pgqrs_result result = pgqrsi_check_range(store, "max_age_ms", max_age_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (!result) result = pgqrsi_worker_find(store, worker_id, &found);
    if (!result && !found) result = pgqrsi_worker_unknown(store, worker_id);
    if (!result) result = store->backend->now(store->self, &now_us);
    if (!result && max_age_ms > 0 && found->items[0].state != PGQRS_WORKER_STOPPED)
        *healthy = now_us - found->items[0].heartbeat_at_us <= max_age_ms * PGQRSI_US_PER_MS;
    pgqrs_free(found);
    return result;
}

static pgqrs_result pgqrsi_worker_filter(pgqrs_store *store, const pgqrs_worker_filter *given,
                                         pgqrs_worker_filter *filter)
{
    memset(filter, 0, sizeof *filter);
    if (given) *filter = *given;
    pgqrs_result result = filter->queue ? pgqrsi_check_queue(store, filter->queue) : PGQRS_OK;
    if (!result) result = pgqrsi_check_range(store, "state", filter->state, 0, PGQRS_WORKER_STOPPED);
    if (!result) result = pgqrsi_check_range(store, "stale_ms", filter->stale_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (!result) result = pgqrsi_check_range(store, "after_id", filter->after_id, 0, INT64_MAX);
    return result ? result : pgqrsi_check_limit(store, &filter->limit);
}

static pgqrs_result pgqrsi_worker_list(pgqrs_store *store, const pgqrs_worker_filter *given, pgqrs_workers **out)
{
    pgqrs_worker_filter filter;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_worker_filter(store, given, &filter);
    if (!result) result = store->backend->worker_list(store->self, pgqrsi_now(store), 0, &filter, out);
    if (!result && (*out)->count == 0 && filter.queue) result = pgqrsi_queue_must_exist(store, filter.queue);
    if (result) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

static pgqrs_result pgqrsi_worker_count(pgqrs_store *store, const pgqrs_worker_filter *given, int64_t *count)
{
    pgqrs_worker_filter filter;
    if (!count) return pgqrsi_null_argument(store, "count");
    *count = 0;
    pgqrs_result result = pgqrsi_worker_filter(store, given, &filter);
    filter.after_id = 0;
    if (!result) result = store->backend->worker_count(store->self, pgqrsi_now(store), &filter, count);
    if (!result && *count == 0 && filter.queue) result = pgqrsi_queue_must_exist(store, filter.queue);
    return result;
}

static pgqrs_result pgqrsi_worker_get(pgqrs_store *store, int64_t worker_id, pgqrs_worker_info **out)
{
    pgqrs_workers *found = NULL;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_worker_find(store, worker_id, &found);
    if (result || !found) return result;
    pgqrs_worker_info *copy = (pgqrs_worker_info *)pgqrsi_result_new(&store->settings.allocator, sizeof *copy, 256);
    char *name = copy ? pgqrsi_result_text(copy, found->items[0].name, -1) : NULL;
    char *queue = copy ? pgqrsi_result_text(copy, found->items[0].queue, -1) : NULL;
    if (!name || (found->items[0].queue && !queue)) {
        pgqrs_free(copy);
        result = pgqrsi_no_memory(store);
    } else {
        *copy = found->items[0];
        copy->name = name;
        copy->queue = queue;
        *out = copy;
    }
    pgqrs_free(found);
    return result;
}

static pgqrs_result pgqrsi_worker_reclaim(pgqrs_store *store, const char *queue, int64_t older_than_ms,
                                          int64_t *workers, int64_t *messages)
{
    int64_t ignored[2] = {0, 0};
    pgqrs_result result = queue ? pgqrsi_check_queue(store, queue) : PGQRS_OK;
    if (!result) result = pgqrsi_check_range(store, "older_than_ms", older_than_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (result) return result;
    older_than_ms = PGQRSI_DEFAULT(older_than_ms, PGQRSI_STALE_DEFAULT_MS);
    return store->backend->worker_reclaim(store->self, pgqrsi_now(store), queue, older_than_ms * PGQRSI_US_PER_MS,
                                          "its worker was reclaimed", workers ? workers : &ignored[0],
                                          messages ? messages : &ignored[1]);
}

/* --- numbers */

static void pgqrsi_metrics_add(pgqrs_system_metrics *sum, const pgqrs_queue_metrics *one)
{
    sum->total += one->total;
    sum->ready += one->ready;
    sum->delayed += one->delayed;
    sum->leased += one->leased;
    sum->archived += one->archived;
    sum->dead += one->dead;
    sum->lease_expiries += one->lease_expiries;
}

static pgqrs_result pgqrsi_worker_stats(pgqrs_store *store, const char *queue, int64_t stale_ms,
                                        pgqrs_worker_stats *out)
{
    if (!out) return pgqrsi_null_argument(store, "out");
    memset(out, 0, sizeof *out);
    pgqrs_result result = queue ? pgqrsi_check_queue(store, queue) : PGQRS_OK;
    if (!result) result = pgqrsi_check_range(store, "stale_ms", stale_ms, 0, PGQRSI_DELAY_MAX_MS);
    stale_ms = PGQRSI_DEFAULT(stale_ms, PGQRSI_STALE_DEFAULT_MS);
    return result
               ? result
               : store->backend->worker_stats(store->self, pgqrsi_now(store), queue, stale_ms * PGQRSI_US_PER_MS, out);
}

static pgqrs_result pgqrsi_system_metrics(pgqrs_store *store, pgqrs_system_metrics *out)
{
    pgqrs_metrics *metrics = NULL;
    if (!out) return pgqrsi_null_argument(store, "out");
    memset(out, 0, sizeof *out);
    pgqrs_result result = store->backend->metrics(store->self, pgqrsi_now(store), NULL, &metrics);
    if (!result) result = store->backend->schema_version(store->self, &out->schema_version);
    if (!result) result = pgqrsi_worker_stats(store, NULL, 0, &out->workers);
    for (size_t i = 0; !result && i < metrics->count; i++)
        pgqrsi_metrics_add(out, &metrics->items[i]);
    if (!result) out->queues = (int64_t)metrics->count;
    pgqrs_free(metrics);
    return result;
}

#endif /* the engine */

/* ------------------------------------------------------------------------------------------------------------------
 * >>postgres: the backend for Postgres 12 and later, on libpq
 *
 * Four tables keep four things apart, so that each is written as rarely as possible: messages (what was said, written
 * once), ready (what may be taken, one narrow row per run of consecutive ids), leases (who holds what, one row per claim)
 * and done (what became of it, one row per settled claim). Delayed, dead, failures and dedup hold the exceptions.
 * --------------------------------------------------------------------------------------------------------------- */
#if defined(PGQRS_IMPLEMENTATION) && !defined(PGQRSI_CORE_ONLY) && !defined(PGQRSI_POSTGRES_DONE)
#define PGQRSI_POSTGRES_DONE

#include <libpq-fe.h>

/* --- state -------------------------------------------------------------------------------------------------------- */

#define PGQRSI_PG_PARAMETERS 32
#define PGQRSI_PG_ADMIN_FIRST 32 /* statements from here on belong to administration: see pgqrsi_pg_admin_sql */
#define PGQRSI_PG_STATEMENTS 160
#define PGQRSI_PG_QUEUES 16
#define PGQRSI_PG_LEVELS 8
#define PGQRSI_PG_GROUP 8
#define PGQRSI_PG_EPOCH_US INT64_C(946684800000000) /* 2000-01-01, where Postgres counts from */

/* Parameter types, as the server's catalogue numbers them. */
#define PGQRSI_PG_BOOL 16
#define PGQRSI_PG_INT8 20
#define PGQRSI_PG_INT2 21
#define PGQRSI_PG_INT4 23
#define PGQRSI_PG_TEXT 25
#define PGQRSI_PG_TIME 1184
#define PGQRSI_PG_INT2_ARRAY 1005
#define PGQRSI_PG_INT4_ARRAY 1007
#define PGQRSI_PG_TEXT_ARRAY 1009
#define PGQRSI_PG_INT8_ARRAY 1016
#define PGQRSI_PG_TIME_ARRAY 1185

/* Where the next claim of one priority may start: see "the mark". */
typedef struct pgqrsi_pg_level {
    int32_t prio;
    int64_t from;      /* no live row of this priority has a smaller ord, and none will */
    int64_t candidate; /* will be the next `from` once every transaction before `horizon` has ended; 0: none */
    int64_t horizon;
    int64_t since_us; /* monotonic time of the candidate */
} pgqrsi_pg_level;

/* What this store remembers of a queue between claims. Nothing here is needed for correctness. */
typedef struct pgqrsi_pg_queue {
    char name[PGQRSI_NAME_MAX + 1];
    int64_t id;
    int64_t used_us;
    int64_t tended_us;
    int64_t retained_us;
    int64_t runs_us;   /* the same for runs */
    int64_t rescan_us; /* monotonic time of the next scan from the start */
    int64_t doubt_us;  /* monotonic time of the last look at who holds the mark up */
    bool idle;         /* the last claim found nothing */
    int level_count;
    pgqrsi_pg_level levels[PGQRSI_PG_LEVELS];
} pgqrsi_pg_queue;

typedef struct pgqrsi_pg {
    pgqrs_store *store;
    const pgqrs_store_desc *settings;
    PGconn *connection;
    char *dsn; /* NULL: the connection is the caller's */
    size_t dsn_size;
    char schema[72];  /* quoted */
    char channel[72]; /* for NOTIFY; needs no quoting inside a literal */
    bool own;
    bool pooled;  /* a transaction pooler stands between: nothing of the session may be relied on */
    bool unnamed; /* no named statements: pooled, borrowed, or the server lost one */
    bool checked; /* the version of the tables is the one this library writes */
    bool listening;
    bool ended; /* the server said that it is about to close the connection */
    bool open;  /* inside pgqrsi_pg_transaction's BEGIN … COMMIT: nothing is repeated, nothing made anew */
    int depth;  /* inside pgqrsi_pg_begin … commit */
    bool savepoint;
    char *texts[PGQRSI_PG_STATEMENTS];
    size_t text_sizes[PGQRSI_PG_STATEMENTS];
    bool prepared[PGQRSI_PG_STATEMENTS];
    char wait_queue[PGQRSI_NAME_MAX + 1];
    int64_t wait_token;
    int nudge_fd;          /* always readable; opened when it is needed first, -1 until then */
    int64_t wait_until_us; /* monotonic; 0: no sleepers row is ours */
    pgqrsi_pg_queue queues[PGQRSI_PG_QUEUES];
} pgqrsi_pg;

/* One statement with its parameters. Every start is followed by exactly one read or write, which also frees. */
typedef struct pgqrsi_pg_call {
    pgqrsi_pg *pg;
    int statement;
    int count;
    bool failed; /* out of memory or too many parameters: reported when it is run */
    Oid types[PGQRSI_PG_PARAMETERS];
    const char *values[PGQRSI_PG_PARAMETERS];
    int lengths[PGQRSI_PG_PARAMETERS];
    int formats[PGQRSI_PG_PARAMETERS];
    char numbers[PGQRSI_PG_PARAMETERS][8];
    char *owned[PGQRSI_PG_PARAMETERS];
    size_t owned_sizes[PGQRSI_PG_PARAMETERS];
} pgqrsi_pg_call;

/* Several calls sent together: one round trip and one transaction. */
typedef struct pgqrsi_pg_group {
    pgqrsi_pg_call **calls; /* `few` and `few_results`, or longer ones */
    PGresult **results;
    pgqrsi_pg_call *few[PGQRSI_PG_GROUP];
    PGresult *few_results[PGQRSI_PG_GROUP];
    int count;
    int failed;       /* index of the call the server refused, -1: none */
    char sqlstate[6]; /* why */
    pgqrs_result code;
    bool repeatable; /* doing it twice is as good as once: a lost reply is answered by doing it again */
    bool writes;     /* when it cannot be repeated any more, its outcome is unknown */
    bool lost;       /* a reply was lost on the way: an earlier attempt may have been carried out */
} pgqrsi_pg_group;

static const char *pgqrsi_pg_hot_sql(int statement);
static const char *pgqrsi_pg_admin_sql(int index); /* index: statement - PGQRSI_PG_ADMIN_FIRST */

static void pgqrsi_pg_group_start(pgqrsi_pg_group *group)
{
    memset(group, 0, sizeof *group);
    group->calls = group->few;
    group->results = group->few_results;
}

/* Whether transactions, retries and reconnects are ours to decide. */
static bool pgqrsi_pg_alone(const pgqrsi_pg *pg)
{
    return pg->own && !pg->open;
}

/* --- parameters --------------------------------------------------------------------------------------------------- */

static void pgqrsi_pg_put32(char *out, int32_t value)
{
    uint32_t bits = (uint32_t)value;
    for (int i = 0; i < 4; i++)
        out[i] = (char)((bits >> (24 - 8 * i)) & 0xff);
}

static void pgqrsi_pg_put64(char *out, int64_t value)
{
    uint64_t bits = (uint64_t)value;
    for (int i = 0; i < 8; i++)
        out[i] = (char)((bits >> (56 - 8 * i)) & 0xff);
}

static uint64_t pgqrsi_pg_take(const char *in, int size)
{
    uint64_t bits = 0;
    for (int i = 0; i < size; i++)
        bits = (bits << 8) | (unsigned char)in[i];
    return bits;
}

static void pgqrsi_pg_start(pgqrsi_pg_call *call, pgqrsi_pg *pg, int statement)
{
    call->pg = pg;
    call->statement = statement;
    call->count = 0;
    call->failed = false;
}

static void pgqrsi_pg_add(pgqrsi_pg_call *call, Oid type, const char *value, size_t size)
{
    int at = call->count;
    if (at >= PGQRSI_PG_PARAMETERS || size > INT32_MAX) {
        call->failed = true;
        return;
    }
    call->types[at] = type;
    call->values[at] = value;
    call->lengths[at] = (int)size;
    call->formats[at] = 1;
    call->owned[at] = NULL;
    call->count++;
}

/* Room inside the call for a number; the last slot again when there are too many, which add then reports. */
static char *pgqrsi_pg_number(pgqrsi_pg_call *call)
{
    int at = call->count < PGQRSI_PG_PARAMETERS ? call->count : PGQRSI_PG_PARAMETERS - 1;
    return call->numbers[at];
}

static void pgqrsi_pg_int64(pgqrsi_pg_call *call, int64_t value)
{
    char *number = pgqrsi_pg_number(call);
    pgqrsi_pg_put64(number, value);
    pgqrsi_pg_add(call, PGQRSI_PG_INT8, number, 8);
}

static void pgqrsi_pg_int32(pgqrsi_pg_call *call, int32_t value)
{
    char *number = pgqrsi_pg_number(call);
    pgqrsi_pg_put32(number, value);
    pgqrsi_pg_add(call, PGQRSI_PG_INT4, number, 4);
}

static void pgqrsi_pg_bool(pgqrsi_pg_call *call, bool value)
{
    char *number = pgqrsi_pg_number(call);
    number[0] = value ? 1 : 0;
    pgqrsi_pg_add(call, PGQRSI_PG_BOOL, number, 1);
}

static void pgqrsi_pg_text_sized(pgqrsi_pg_call *call, const char *text, size_t size)
{
    pgqrsi_pg_add(call, PGQRSI_PG_TEXT, text, text ? size : 0);
}

static void pgqrsi_pg_text(pgqrsi_pg_call *call, const char *text)
{
    pgqrsi_pg_text_sized(call, text, text ? strlen(text) : 0);
}

static void pgqrsi_pg_time(pgqrsi_pg_call *call, int64_t us)
{
    char *number = pgqrsi_pg_number(call);
    pgqrsi_pg_put64(number, us - PGQRSI_PG_EPOCH_US);
    pgqrsi_pg_add(call, PGQRSI_PG_TIME, us ? number : NULL, us ? 8 : 0);
}

/* Arrays are sent in the server's binary form: a header, then each element after its length (-1: NULL). */
#define PGQRSI_PG_ARRAY_HEADER 20

static char *pgqrsi_pg_array(pgqrsi_pg_call *call, Oid type, Oid element, size_t count, size_t bytes)
{
    int at = call->count;
    if (at >= PGQRSI_PG_PARAMETERS || count > INT32_MAX ||
        bytes > (size_t)INT32_MAX - PGQRSI_PG_ARRAY_HEADER - 4 * count) {
        call->failed = true;
        return NULL;
    }
    size_t size = PGQRSI_PG_ARRAY_HEADER + 4 * count + bytes;
    char *out = (char *)pgqrs_backend_resize(call->pg->store, NULL, 0, size);
    if (!out) {
        call->failed = true;
        return NULL;
    }
    pgqrsi_pg_put32(out, 1);     /* dimensions */
    pgqrsi_pg_put32(out + 4, 1); /* there may be NULLs */
    pgqrsi_pg_put32(out + 8, (int32_t)element);
    pgqrsi_pg_put32(out + 12, (int32_t)count);
    pgqrsi_pg_put32(out + 16, 1); /* the first subscript */
    pgqrsi_pg_add(call, type, out, size);
    call->owned[at] = out;
    call->owned_sizes[at] = size;
    return out + PGQRSI_PG_ARRAY_HEADER;
}

static char *pgqrsi_pg_put_int64(char *out, int64_t value)
{
    pgqrsi_pg_put32(out, 8);
    pgqrsi_pg_put64(out + 4, value);
    return out + 12;
}

static char *pgqrsi_pg_put_int32(char *out, int32_t value)
{
    pgqrsi_pg_put32(out, 4);
    pgqrsi_pg_put32(out + 4, value);
    return out + 8;
}

static char *pgqrsi_pg_put_null(char *out)
{
    pgqrsi_pg_put32(out, -1);
    return out + 4;
}

/* A time of 0 is NULL. */
static char *pgqrsi_pg_put_time(char *out, int64_t us)
{
    return us ? pgqrsi_pg_put_int64(out, us - PGQRSI_PG_EPOCH_US) : pgqrsi_pg_put_null(out);
}

static char *pgqrsi_pg_put_text(char *out, const char *text, size_t size)
{
    if (!text) return pgqrsi_pg_put_null(out);
    pgqrsi_pg_put32(out, (int32_t)size);
    memcpy(out + 4, text, size);
    return out + 4 + size;
}

static void pgqrsi_pg_ids(pgqrsi_pg_call *call, const int64_t *ids, size_t count)
{
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, count, 8 * count);
    for (size_t i = 0; out && i < count; i++)
        out = pgqrsi_pg_put_int64(out, ids[i]);
}

/* An array made for more bytes than it came to need (NULLs are shorter) is cut to where it ends. */
static void pgqrsi_pg_array_end(pgqrsi_pg_call *call, const char *end)
{
    if (call->failed || !end) return;
    int at = call->count - 1;
    call->lengths[at] = (int)(end - call->owned[at]);
}

static void pgqrsi_pg_release(pgqrsi_pg_call *call)
{
    for (int i = 0; i < call->count; i++) {
        if (call->owned[i]) pgqrs_backend_free(call->pg->store, call->owned[i], call->owned_sizes[i]);
        call->owned[i] = NULL;
    }
    call->count = 0;
}

/* --- results ------------------------------------------------------------------------------------------------------ */

static int64_t pgqrsi_pg_get_int64(const PGresult *r, int row, int column)
{
    if (PQgetisnull(r, row, column)) return 0;
    const char *value = PQgetvalue(r, row, column);
    switch (PQgetlength(r, row, column)) {
    case 1:
        return value[0] != 0;
    case 2:
        return (int16_t)(uint16_t)pgqrsi_pg_take(value, 2);
    case 4:
        return (int32_t)(uint32_t)pgqrsi_pg_take(value, 4);
    case 8:
        return (int64_t)pgqrsi_pg_take(value, 8) + (PQftype(r, column) == PGQRSI_PG_TIME ? PGQRSI_PG_EPOCH_US : 0);
    default:
        return 0;
    }
}

static const char *pgqrsi_pg_get_text(const PGresult *r, int row, int column, int64_t *size)
{
    if (size) *size = 0;
    if (PQgetisnull(r, row, column)) return NULL;
    if (size) *size = PQgetlength(r, row, column);
    return PQgetvalue(r, row, column);
}

/* Copies one text into a result object; false: no memory. */
static bool pgqrsi_pg_copy(void *result, const PGresult *r, int row, int column, const char **out)
{
    int64_t size;
    const char *text = pgqrsi_pg_get_text(r, row, column, &size);
    *out = pgqrs_backend_result_text(result, text, size);
    return *out != NULL || text == NULL;
}

/* Bytes that the texts of a result will need, so that one block holds them all. */
static size_t pgqrsi_pg_text_bytes(const PGresult *r)
{
    size_t bytes = 0;
    for (int column = 0; column < PQnfields(r); column++) {
        if (PQftype(r, column) != PGQRSI_PG_TEXT) continue;
        for (int row = 0; row < PQntuples(r); row++)
            if (!PQgetisnull(r, row, column)) bytes += (size_t)PQgetlength(r, row, column) + 16;
    }
    return bytes;
}

/* --- errors ------------------------------------------------------------------------------------------------------- */

static bool pgqrsi_pg_class(const char *sqlstate, const char *prefix)
{
    return strncmp(sqlstate, prefix, strlen(prefix)) == 0;
}

static pgqrs_result pgqrsi_pg_code(const char *sqlstate)
{
    if (pgqrsi_pg_class(sqlstate, "28") || pgqrsi_pg_class(sqlstate, "42501")) return PGQRS_ERR_ACCESS_DENIED;
    if (pgqrsi_pg_class(sqlstate, "25006")) return PGQRS_ERR_READ_ONLY;
    if (pgqrsi_pg_class(sqlstate, "25")) return PGQRS_ERR_TRANSACTION;
    if (pgqrsi_pg_class(sqlstate, "53100")) return PGQRS_ERR_FULL;
    if (pgqrsi_pg_class(sqlstate, "08") || pgqrsi_pg_class(sqlstate, "53300") || pgqrsi_pg_class(sqlstate, "57P0"))
        return PGQRS_ERR_CONNECTION;
    if (pgqrsi_pg_class(sqlstate, "40001") || pgqrsi_pg_class(sqlstate, "40P01")) return PGQRS_ERR_CONFLICT;
    if (pgqrsi_pg_class(sqlstate, "55P03")) return PGQRS_ERR_BUSY;
    if (pgqrsi_pg_class(sqlstate, "42P01") || pgqrsi_pg_class(sqlstate, "3F000")) return PGQRS_ERR_SCHEMA_MISSING;
    return PGQRS_ERR_DATABASE;
}

static pgqrs_result pgqrsi_pg_no_memory(pgqrsi_pg *pg)
{
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_NO_MEMORY, 0, NULL, "out of memory: the allocator returned NULL");
}

static pgqrs_result pgqrsi_pg_schema_missing(pgqrsi_pg *pg)
{
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_SCHEMA_MISSING, 0, NULL,
                              "the tables are not in schema %s: call pgqrs_install", pg->schema);
}

/* The server's first line only: its detail and context may quote values. */
static pgqrs_result pgqrsi_pg_refuse(pgqrsi_pg *pg, const PGresult *r)
{
    const char *sqlstate = r ? PQresultErrorField(r, PG_DIAG_SQLSTATE) : NULL;
    const char *text = r ? PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    pgqrs_result code = sqlstate ? pgqrsi_pg_code(sqlstate) : PGQRS_ERR_DATABASE;
    if (code == PGQRS_ERR_SCHEMA_MISSING)
        return pgqrs_backend_fail(pg->store, code, 0, sqlstate, "the tables are not in schema %s: call pgqrs_install",
                                  pg->schema);
    if (code == PGQRS_ERR_CONFLICT)
        return pgqrs_backend_fail(pg->store, code, 0, sqlstate, "others kept changing the same rows: try again");
    return pgqrs_backend_fail(pg->store, code, 0, sqlstate, "the database says: %s", text ? text : "(nothing)");
}

static pgqrs_result pgqrsi_pg_lost(pgqrsi_pg *pg, bool unknown)
{
    if (unknown)
        return pgqrs_backend_fail(
            pg->store, PGQRS_ERR_OUTCOME_UNKNOWN, 0, "08007",
            "the connection to the database broke before the reply came: look whether it was done");
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_CONNECTION, 0, "08006",
                              "the connection to the database broke; nothing was done");
}

static pgqrs_result pgqrsi_pg_no_queue(pgqrsi_pg *pg, const char *queue)
{
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_QUEUE_NOT_FOUND, 0, NULL,
                              "there is no queue \"%s\": create it with pgqrs_queue_create", queue);
}

/* --- connection --------------------------------------------------------------------------------------------------- */

/* Connections of our own are silent. The server's last words on an idle one (it was terminated, the server shuts down) come as
 * a notice, often before the end of the stream does: then nothing more may be sent. */
static void pgqrsi_pg_notice(void *argument, const PGresult *notice)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)argument;
    const char *sqlstate = PQresultErrorField(notice, PG_DIAG_SQLSTATE);
    if (sqlstate && pgqrsi_pg_class(sqlstate, "57P0")) pg->ended = true;
}

static void pgqrsi_pg_hang_up(pgqrsi_pg *pg)
{
    if (pg->own && pg->connection) {
        PQfinish(pg->connection);
        pg->connection = NULL;
    }
}

/* Everything that lived in the session is gone with it. */
static void pgqrsi_pg_forget(pgqrsi_pg *pg)
{
    memset(pg->prepared, 0, sizeof pg->prepared);
    for (int i = 0; i < PGQRSI_PG_QUEUES; i++)
        pg->queues[i].level_count = 0;
    pg->listening = false;
    pg->wait_until_us = 0;
    pg->depth = 0;
}

/* Five digits and capitals and a colon; "FATAL:" is none, for want of a digit. */
static bool pgqrsi_pg_is_sqlstate(const char *text)
{
    bool digit = false;
    for (int i = 0; i < 5; i++) {
        digit = digit || (text[i] >= '0' && text[i] <= '9');
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'A' && text[i] <= 'Z'))) return false;
    }
    return digit && text[5] == ':';
}

/* libpq has no function for the SQLSTATE of a refused connection; in verbose form the text carries it: "FATAL:  28P01: ". Of
 * other texts only the end of the first line is taken, and what stands in quotes is left out, because a misspelt DSN can put half
 * a password where the host or the port is expected. */
static void pgqrsi_pg_dial_reason(const char *text, char sqlstate[6], char *out, size_t size)
{
    size_t length = strcspn(text, "\n"), from = 0, used = 0;
    bool quoted = false;
    sqlstate[0] = '\0';
    for (size_t i = 0; i + 1 < length && !sqlstate[0]; i++) {
        if (text[i] != ':' || text[i + 1] != ' ') continue;
        from = i + 2 + (text[i + 2] == ' ');
        if (pgqrsi_pg_is_sqlstate(text + from)) {
            memcpy(sqlstate, text + from, 5);
            sqlstate[5] = '\0';
            from += 7;
        }
    }
    for (; from < length && used + 1 < size; from++) {
        bool quote = text[from] == '"' && !sqlstate[0];
        if (quote || !quoted) out[used++] = text[from];
        quoted = quoted != quote;
    }
    out[used] = '\0';
}

static pgqrs_result pgqrsi_pg_dial_failed(pgqrsi_pg *pg, const PGconn *connection)
{
    char sqlstate[6], dsn[160], reason[160];
    pgqrsi_pg_dial_reason(PQerrorMessage(connection), sqlstate, reason, sizeof reason);
    pgqrsi_dsn_redact(pg->dsn, dsn, sizeof dsn);
    pgqrs_result code = sqlstate[0] ? pgqrsi_pg_code(sqlstate) : PGQRS_ERR_CONNECTION;
    if (code == PGQRS_ERR_ACCESS_DENIED)
        return pgqrs_backend_fail(pg->store, code, 0, sqlstate, "%s refuses the user: %s", dsn, reason);
    return pgqrs_backend_fail(pg->store, code, 0, sqlstate, "%s cannot be reached: %s", dsn, reason);
}

static PGconn *pgqrsi_pg_dial_start(pgqrsi_pg *pg)
{
    const char *keys[5];
    const char *values[5];
    keys[0] = "fallback_application_name";
    values[0] = "pgqrs";
    keys[1] = "dbname"; /* the whole DSN */
    values[1] = pg->dsn;
    keys[2] = "client_encoding";
    values[2] = "UTF8";
    keys[3] = NULL;
    values[3] = NULL;
    return PQconnectStartParams(keys, values, 1);
}

static bool pgqrsi_pg_dial_wait(PGconn *connection, PostgresPollingStatusType want, int64_t deadline_us)
{
    struct pollfd waiting;
    int64_t left_ms = (deadline_us - pgqrs_backend_monotonic()) / PGQRSI_US_PER_MS;
    waiting.fd = PQsocket(connection);
    waiting.events = want == PGRES_POLLING_READING ? POLLIN : POLLOUT;
    waiting.revents = 0;
    if (left_ms <= 0 || waiting.fd < 0) return false;
    return poll(&waiting, 1, left_ms > 60000 ? 60000 : (int)left_ms) >= 0 || errno == EINTR;
}

/* One attempt, in libpq's non-blocking form: only there can the verbosity be set in time, and the timeout is exact. */
static pgqrs_result pgqrsi_pg_dial(pgqrsi_pg *pg, int64_t deadline_us)
{
    PGconn *connection = pgqrsi_pg_dial_start(pg);
    PostgresPollingStatusType status = PGRES_POLLING_WRITING;
    if (!connection) return pgqrsi_pg_no_memory(pg);
    PQsetErrorVerbosity(connection, PQERRORS_VERBOSE);
    PQsetNoticeReceiver(connection, pgqrsi_pg_notice, pg);
    pg->ended = false;
    while (PQstatus(connection) != CONNECTION_BAD && status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED) {
        if (!pgqrsi_pg_dial_wait(connection, status, deadline_us)) {
            PQfinish(connection);
            return pgqrs_backend_fail(pg->store, PGQRS_ERR_CONNECTION, 0, "08001",
                                      "the database cannot be reached: no answer within %lld ms (connect_timeout_ms)",
                                      (long long)pg->settings->connect_timeout_ms);
        }
        status = PQconnectPoll(connection);
    }
    if (PQstatus(connection) != CONNECTION_OK) {
        pgqrs_result result = pgqrsi_pg_dial_failed(pg, connection);
        PQfinish(connection);
        return result;
    }
    PQsetErrorVerbosity(connection, PQERRORS_DEFAULT);
    pg->connection = connection;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_pg_simple(pgqrsi_pg *pg, const char *sql)
{
    PGresult *r = PQexec(pg->connection, sql);
    ExecStatusType status = PQresultStatus(r);
    pgqrs_result result = PGQRS_OK;
    if (PQstatus(pg->connection) == CONNECTION_BAD)
        result = pgqrsi_pg_lost(pg, false);
    else if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        result = pgqrsi_pg_refuse(pg, r);
    PQclear(r);
    return result;
}

/* Behind a transaction pooler the process that answers is not the one libpq was told about when it connected. */
static pgqrs_result pgqrsi_pg_find_pooler(pgqrsi_pg *pg)
{
    if (pg->settings->pooler != PGQRS_AUTO) {
        pg->pooled = pg->settings->pooler == PGQRS_ON;
        return PGQRS_OK;
    }
    PGresult *r = PQexecParams(pg->connection, "SELECT pg_backend_pid()", 0, NULL, NULL, NULL, NULL, 1);
    if (PQresultStatus(r) != PGRES_TUPLES_OK) {
        pgqrs_result result =
            PQstatus(pg->connection) == CONNECTION_BAD ? pgqrsi_pg_lost(pg, false) : pgqrsi_pg_refuse(pg, r);
        PQclear(r);
        return result;
    }
    pg->pooled = pgqrsi_pg_get_int64(r, 0, 0) != PQbackendPID(pg->connection);
    PQclear(r);
    return PGQRS_OK;
}

/* A plan made once and kept: with the shape of the hot statements one plan is right for an empty table and for a full one,
 * provided the planner is not tempted by the sizes it happens to see. */
static const char pgqrsi_pg_session_sql[] =
    "SET plan_cache_mode=force_generic_plan; SET enable_seqscan=off; SET enable_sort=off; SET enable_bitmapscan=off; "
    "SET enable_material=off; SET jit=off; SET default_transaction_isolation='read committed'";

static pgqrs_result pgqrsi_pg_session(pgqrsi_pg *pg)
{
    if (PQserverVersion(pg->connection) < 120000)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_UNSUPPORTED, 0, NULL,
                                  "the server is Postgres %d; 12 or later is needed",
                                  PQserverVersion(pg->connection) / 10000);
    if (!pg->own) {
        const char *encoding = PQparameterStatus(pg->connection, "client_encoding");
        if (encoding && strcmp(encoding, "UTF8") != 0)
            return pgqrs_backend_fail(pg->store, PGQRS_ERR_UNSUPPORTED, 0, NULL,
                                      "the connection's client_encoding is %s: set it to UTF8", encoding);
        return PGQRS_OK;
    }
    pgqrs_result result = pgqrsi_pg_find_pooler(pg);
    if (result) return result;
    if (pg->pooled) pg->unnamed = true;
    return pg->pooled ? PGQRS_OK : pgqrsi_pg_simple(pg, pgqrsi_pg_session_sql);
}

static pgqrs_result pgqrsi_pg_connect(pgqrsi_pg *pg, int64_t deadline_us)
{
    pgqrs_result result = pgqrsi_pg_dial(pg, deadline_us);
    if (!result) result = pgqrsi_pg_session(pg);
    if (result) pgqrsi_pg_hang_up(pg);
    return result;
}

static int64_t pgqrsi_pg_jitter(pgqrsi_pg *pg, int64_t us)
{
    return us / 2 + (int64_t)(pgqrs_backend_random(pg->store) % (uint64_t)(us + 1));
}

/* Tries again for connect_timeout_ms as long as trying again may help. */
static pgqrs_result pgqrsi_pg_reconnect(pgqrsi_pg *pg)
{
    int64_t deadline_us = pgqrs_backend_monotonic() + pg->settings->connect_timeout_ms * PGQRSI_US_PER_MS;
    int64_t pause_us = 20 * PGQRSI_US_PER_MS;
    pgqrs_event event;
    pgqrs_result result;
    pgqrsi_pg_hang_up(pg);
    pgqrsi_pg_forget(pg);
    while ((result = pgqrsi_pg_connect(pg, deadline_us)) == PGQRS_ERR_CONNECTION) {
        int64_t nap_us = pgqrsi_pg_jitter(pg, pause_us);
        if (pgqrs_backend_monotonic() + nap_us >= deadline_us) return result;
        pgqrs_backend_sleep(pg->store, nap_us);
        pause_us = pause_us < PGQRSI_US_PER_S ? pause_us * 2 : pause_us;
    }
    if (result) return result;
    memset(&event, 0, sizeof event);
    event.type = PGQRS_EVENT_RECONNECTED;
    pgqrs_backend_log(pg->store, PGQRS_LOG_WARN, "the connection to the database was lost and made again");
    pgqrs_backend_observe(pg->store, &event);
    return PGQRS_OK;
}

/* --- statements --------------------------------------------------------------------------------------------------- */

#define PGQRSI_PG_RELAX 0 /* the first of the hot statements: see pgqrsi_pg_hot_sql */

/* "@." is the schema and a dot, "@," the schema alone, "@!" the channel. Called with out NULL to measure. */
static size_t pgqrsi_pg_expand(const pgqrsi_pg *pg, const char *sql, char *out)
{
    size_t size = 0;
    for (; *sql; sql++) {
        const char *piece = sql;
        size_t length = 1;
        if (strcmp(sql, "@+") == 0) break;
        if (sql[0] == '@' && (sql[1] == '.' || sql[1] == ',' || sql[1] == '!')) {
            piece = sql[1] == '!' ? pg->channel : pg->schema;
            length = strlen(piece);
            sql += sql[1] != '.'; /* the dot is copied by the next round */
        }
        if (out) memcpy(out + size, piece, length);
        size += length;
    }
    if (out) out[size] = '\0';
    return size;
}

static char *pgqrsi_pg_expanded(pgqrsi_pg *pg, const char *sql, size_t *size)
{
    *size = pgqrsi_pg_expand(pg, sql, NULL) + 1;
    char *text = (char *)pgqrs_backend_resize(pg->store, NULL, 0, *size);
    if (text) pgqrsi_pg_expand(pg, sql, text);
    return text;
}

static const char *pgqrsi_pg_sql(int statement)
{
    return statement < PGQRSI_PG_ADMIN_FIRST ? pgqrsi_pg_hot_sql(statement)
                                             : pgqrsi_pg_admin_sql(statement - PGQRSI_PG_ADMIN_FIRST);
}

static bool pgqrsi_pg_continues(const char *sql)
{
    size_t length = strlen(sql);
    return length >= 2 && strcmp(sql + length - 2, "@+") == 0;
}

/* C99 promises string literals of 4095 bytes: a text that ends in "@+" goes on in the entry after it. */
static size_t pgqrsi_pg_join_text(pgqrsi_pg *pg, int statement, char *out)
{
    size_t size = 0;
    const char *sql;
    do {
        sql = pgqrsi_pg_sql(statement++);
        size += pgqrsi_pg_expand(pg, sql, out ? out + size : NULL);
    } while (pgqrsi_pg_continues(sql));
    return size;
}

static const char *pgqrsi_pg_text_of(pgqrsi_pg *pg, int statement)
{
    if (!pg->texts[statement]) {
        size_t size = pgqrsi_pg_join_text(pg, statement, NULL) + 1;
        char *text = (char *)pgqrs_backend_resize(pg->store, NULL, 0, size);
        if (text) pgqrsi_pg_join_text(pg, statement, text);
        pg->texts[statement] = text;
        pg->text_sizes[statement] = size;
    }
    return pg->texts[statement];
}

/* Hot statements are prepared once per connection. Administration plans anew each time: it is rare and its filters differ. Inside
 * an open transaction the planner's settings are the usual ones, and a plan made under them must not be kept. */
static bool pgqrsi_pg_named(const pgqrsi_pg *pg, int statement)
{
    return !pg->unnamed && !pg->open && statement > PGQRSI_PG_RELAX && statement < PGQRSI_PG_ADMIN_FIRST;
}

static void pgqrsi_pg_name(int statement, char name[24])
{
    snprintf(name, 24, "pgqrs_%d", statement);
}

static bool pgqrsi_pg_good(const PGresult *r)
{
    ExecStatusType status = PQresultStatus(r);
    return status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;
}

/* How far an attempt came. */
typedef enum pgqrsi_pg_outcome {
    PGQRSI_PG_DONE = 1,
    PGQRSI_PG_REFUSED = 2, /* the server said no and rolled back: group->failed, group->sqlstate */
    PGQRSI_PG_UNSENT = 3,  /* the connection broke before the statement left */
    PGQRSI_PG_LOST = 4     /* the connection broke: it may have been carried out */
} pgqrsi_pg_outcome;

static pgqrsi_pg_outcome pgqrsi_pg_judge(pgqrsi_pg *pg, pgqrsi_pg_group *group, int index, const PGresult *r)
{
    if (pgqrsi_pg_good(r)) return PGQRSI_PG_DONE;
    const char *severity = r ? PQresultErrorField(r, PG_DIAG_SEVERITY_NONLOCALIZED) : NULL;
    const char *sqlstate = r ? PQresultErrorField(r, PG_DIAG_SQLSTATE) : NULL;
    bool fatal = severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
    if (!sqlstate || fatal || PQstatus(pg->connection) == CONNECTION_BAD) return PGQRSI_PG_LOST;
    if (group->failed < 0) {
        group->failed = index;
        snprintf(group->sqlstate, sizeof group->sqlstate, "%s", sqlstate);
        group->code = pgqrsi_pg_refuse(pg, r);
    }
    return PGQRSI_PG_REFUSED;
}

static pgqrsi_pg_outcome pgqrsi_pg_prepare(pgqrsi_pg *pg, pgqrsi_pg_group *group, int index)
{
    const pgqrsi_pg_call *call = group->calls[index];
    char name[24];
    if (!pgqrsi_pg_named(pg, call->statement) || pg->prepared[call->statement]) return PGQRSI_PG_DONE;
    pgqrsi_pg_name(call->statement, name);
    PGresult *r = PQprepare(pg->connection, name, pg->texts[call->statement], call->count, call->types);
    pgqrsi_pg_outcome outcome = pgqrsi_pg_judge(pg, group, index, r);
    PQclear(r);
    pg->prepared[call->statement] = outcome == PGQRSI_PG_DONE;
    return outcome == PGQRSI_PG_LOST ? PGQRSI_PG_UNSENT : outcome;
}

static PGresult *pgqrsi_pg_execute(pgqrsi_pg *pg, const pgqrsi_pg_call *call)
{
    char name[24];
    if (!pgqrsi_pg_named(pg, call->statement))
        return PQexecParams(pg->connection, pg->texts[call->statement], call->count, call->types, call->values,
                            call->lengths, call->formats, 1);
    pgqrsi_pg_name(call->statement, name);
    return PQexecPrepared(pg->connection, name, call->count, call->values, call->lengths, call->formats, 1);
}

#ifdef LIBPQ_HAS_PIPELINING
static bool pgqrsi_pg_send(pgqrsi_pg *pg, const pgqrsi_pg_call *call)
{
    char name[24];
    if (!pgqrsi_pg_named(pg, call->statement))
        return PQsendQueryParams(pg->connection, pg->texts[call->statement], call->count, call->types, call->values,
                                 call->lengths, call->formats, 1) == 1;
    pgqrsi_pg_name(call->statement, name);
    return PQsendQueryPrepared(pg->connection, name, call->count, call->values, call->lengths, call->formats, 1) == 1;
}

/* Reads up to the answer to the sync, whatever comes. */
static pgqrsi_pg_outcome pgqrsi_pg_receive(pgqrsi_pg *pg, pgqrsi_pg_group *group, int skip)
{
    pgqrsi_pg_outcome outcome = PGQRSI_PG_DONE;
    for (int i = 0; i < group->count + skip; i++) {
        PGresult *r = PQgetResult(pg->connection);
        if (r && PQresultStatus(r) != PGRES_PIPELINE_ABORTED) {
            pgqrsi_pg_outcome one = pgqrsi_pg_judge(pg, group, i - skip, r);
            outcome = one > outcome ? one : outcome;
        } else if (!r || group->failed < 0) {
            outcome = PGQRSI_PG_LOST;
        }
        if (outcome == PGQRSI_PG_DONE && i >= skip)
            group->results[i - skip] = r;
        else
            PQclear(r);
        while (outcome != PGQRSI_PG_LOST && (r = PQgetResult(pg->connection)) != NULL)
            PQclear(r);
        if (outcome == PGQRSI_PG_LOST) return outcome;
    }
    PGresult *sync = PQgetResult(pg->connection);
    /* a failure of the commit itself (a deferred constraint, a serialization failure) comes in place of the sync */
    bool synced = PQresultStatus(sync) == PGRES_PIPELINE_SYNC;
    if (!synced && outcome == PGQRSI_PG_DONE) outcome = pgqrsi_pg_judge(pg, group, group->count - 1, sync);
    PQclear(sync);
    while (!synced && PQstatus(pg->connection) == CONNECTION_OK && (sync = PQgetResult(pg->connection)) != NULL) {
        synced = PQresultStatus(sync) == PGRES_PIPELINE_SYNC;
        PQclear(sync);
    }
    return outcome;
}

static pgqrsi_pg_outcome pgqrsi_pg_pipeline(pgqrsi_pg *pg, pgqrsi_pg_group *group, const pgqrsi_pg_call *first)
{
    bool sent = PQenterPipelineMode(pg->connection) == 1;
    pgqrsi_pg_outcome outcome = PGQRSI_PG_UNSENT;
    if (sent && first) sent = pgqrsi_pg_send(pg, first);
    for (int i = 0; i < group->count && sent; i++)
        sent = pgqrsi_pg_send(pg, group->calls[i]);
    /* without the sync nothing is committed: what was sent so far ends with the connection */
    if (sent)
        outcome = PQpipelineSync(pg->connection) == 1 ? pgqrsi_pg_receive(pg, group, first ? 1 : 0) : PGQRSI_PG_LOST;
    if (outcome >= PGQRSI_PG_UNSENT) {
        PGresult *r;
        for (int i = 0; i < 64 && (r = PQgetResult(pg->connection)) != NULL; i++)
            PQclear(r);
    }
    if (PQexitPipelineMode(pg->connection) != 1 && outcome <= PGQRSI_PG_REFUSED) return PGQRSI_PG_LOST;
    return outcome;
}
#else
/* An older libpq: the same transaction, one round trip per statement. */
static pgqrsi_pg_outcome pgqrsi_pg_pipeline(pgqrsi_pg *pg, pgqrsi_pg_group *group, const pgqrsi_pg_call *first)
{
    bool outside = PQtransactionStatus(pg->connection) == PQTRANS_IDLE;
    pgqrsi_pg_outcome outcome = PGQRSI_PG_DONE;
    if (outside && pgqrsi_pg_simple(pg, "BEGIN")) return PGQRSI_PG_UNSENT;
    if (first) PQclear(pgqrsi_pg_execute(pg, first));
    for (int i = 0; i < group->count && outcome == PGQRSI_PG_DONE; i++) {
        group->results[i] = pgqrsi_pg_execute(pg, group->calls[i]);
        outcome = pgqrsi_pg_judge(pg, group, i, group->results[i]);
    }
    if (outside && outcome != PGQRSI_PG_LOST) {
        PGresult *r = PQexec(pg->connection, outcome == PGQRSI_PG_DONE ? "COMMIT" : "ROLLBACK");
        if (outcome == PGQRSI_PG_DONE) outcome = pgqrsi_pg_judge(pg, group, group->count - 1, r);
        PQclear(r);
    }
    return outcome;
}
#endif

static void pgqrsi_pg_group_clear(pgqrsi_pg_group *group)
{
    for (int i = 0; i < group->count; i++) {
        PQclear(group->results[i]);
        group->results[i] = NULL;
    }
    group->failed = -1;
    group->sqlstate[0] = '\0';
}

/* Administration runs with the planner's usual settings: a set_config for this transaction goes first. */
static pgqrsi_pg_outcome pgqrsi_pg_attempt(pgqrsi_pg *pg, pgqrsi_pg_group *group)
{
    pgqrsi_pg_call relax;
    bool relaxed = pgqrsi_pg_alone(pg) && pg->depth == 0 && group->calls[0]->statement >= PGQRSI_PG_ADMIN_FIRST;
    for (int i = 0; i < group->count; i++) {
        pgqrsi_pg_outcome outcome = pgqrsi_pg_prepare(pg, group, i);
        if (outcome != PGQRSI_PG_DONE) return outcome;
    }
    if (group->count > 1 || relaxed) {
        pgqrsi_pg_start(&relax, pg, PGQRSI_PG_RELAX);
        return pgqrsi_pg_pipeline(pg, group, relaxed ? &relax : NULL);
    }
    group->results[0] = pgqrsi_pg_execute(pg, group->calls[0]);
    return pgqrsi_pg_judge(pg, group, 0, group->results[0]);
}

/* --- running ------------------------------------------------------------------------------------------------------ */

/* An idle connection that the server has closed is readable: found out here, before a statement whose fate would then be
 * unknown. */
static bool pgqrsi_pg_alive(pgqrsi_pg *pg)
{
    struct pollfd socket;
    if (!pg->connection || PQstatus(pg->connection) != CONNECTION_OK || pg->ended) return false;
    socket.fd = PQsocket(pg->connection);
    socket.events = POLLIN;
    socket.revents = 0;
    if (socket.fd < 0) return false;
    if (poll(&socket, 1, 0) <= 0) return true;
    if (PQconsumeInput(pg->connection) != 1) return false;
    (void)PQisBusy(pg->connection); /* reads what has come: see pgqrsi_pg_notice */
    return PQstatus(pg->connection) == CONNECTION_OK && !pg->ended;
}

static pgqrs_result pgqrsi_pg_borrowed_ready(pgqrsi_pg *pg)
{
    if (PQstatus(pg->connection) != CONNECTION_OK)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_CONNECTION, 0, "08003",
                                  "the caller's connection is broken: reset it, then go on");
    if (PQtransactionStatus(pg->connection) == PQTRANS_INERROR)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, "25P02",
                                  "the caller's transaction has failed: roll it back first");
#ifdef LIBPQ_HAS_PIPELINING
    if (PQpipelineStatus(pg->connection) != PQ_PIPELINE_OFF)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, NULL,
                                  "the caller's connection is in pipeline mode: leave it first");
#endif
    if (PQtransactionStatus(pg->connection) == PQTRANS_ACTIVE)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, NULL,
                                  "the caller's connection is still busy with another statement");
    return PGQRS_OK;
}

/* Inside a transaction that pgqrsi_pg_transaction opened: it may have failed, and it is not made again. */
static pgqrs_result pgqrsi_pg_open_ready(pgqrsi_pg *pg)
{
    if (PQstatus(pg->connection) != CONNECTION_OK) return pgqrsi_pg_lost(pg, false);
    if (PQtransactionStatus(pg->connection) == PQTRANS_INTRANS) return PGQRS_OK;
    if (PQtransactionStatus(pg->connection) == PQTRANS_INERROR)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, "25P02",
                                  "the transaction has failed: it can only be rolled back");
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, NULL,
                              "the transaction was ended, or its connection left busy, by a statement of the program");
}

static pgqrs_result pgqrsi_pg_connected(pgqrsi_pg *pg)
{
    if (pg->open) return pgqrsi_pg_open_ready(pg);
    if (!pg->own) return pgqrsi_pg_borrowed_ready(pg);
    if (pg->depth > 0) return PQstatus(pg->connection) == CONNECTION_OK ? PGQRS_OK : pgqrsi_pg_lost(pg, false);
    return pgqrsi_pg_alive(pg) ? PGQRS_OK : pgqrsi_pg_reconnect(pg);
}

/* The connection is of no use any more. Inside a transaction it is kept, so that every later statement of it fails too. */
static void pgqrsi_pg_drop(pgqrsi_pg *pg)
{
    if (pg->depth == 0 && !pg->open) pgqrsi_pg_hang_up(pg);
}

static pgqrs_result pgqrsi_pg_check_version(pgqrsi_pg *pg);

static bool pgqrsi_pg_is_conflict(const char *sqlstate)
{
    return strcmp(sqlstate, "40001") == 0 || strcmp(sqlstate, "40P01") == 0;
}

/* The server does not know a named statement, or knows another one under that name, or its plan does not fit any more. */
static bool pgqrsi_pg_is_stale(const char *sqlstate)
{
    return strcmp(sqlstate, "26000") == 0 || strcmp(sqlstate, "42P05") == 0 || strcmp(sqlstate, "0A000") == 0;
}

static void pgqrsi_pg_back_off(pgqrsi_pg *pg, int tries)
{
    pgqrs_backend_sleep(pg->store, pgqrsi_pg_jitter(pg, INT64_C(5000) << (tries < 6 ? tries : 6)));
}

/* Runs a group until it is done or there is no point in trying again. Results stay in the group until they are cleared. */
static pgqrs_result pgqrsi_pg_run(pgqrsi_pg *pg, pgqrsi_pg_group *group)
{
    bool again = pgqrsi_pg_alone(pg) && pg->depth == 0;
    for (int tries = 0;; tries++) {
        pgqrsi_pg_group_clear(group);
        pgqrs_result result = pgqrsi_pg_connected(pg);
        if (!result && !pg->checked) result = pgqrsi_pg_check_version(pg);
        if (result) return group->lost && group->writes ? pgqrsi_pg_lost(pg, true) : result;
        bool in_transaction =
            PQtransactionStatus(pg->connection) == PQTRANS_INTRANS; /* which is lost with the connection */
        pgqrsi_pg_outcome outcome = pgqrsi_pg_attempt(pg, group);
        if (outcome == PGQRSI_PG_DONE) return PGQRS_OK;
        if (outcome == PGQRSI_PG_REFUSED) {
            if (again && pgqrsi_pg_is_stale(group->sqlstate) && !pg->unnamed) {
                pg->unnamed = true;
                continue;
            }
            if (again && pgqrsi_pg_is_conflict(group->sqlstate) && tries < pg->settings->retry_limit) {
                pgqrsi_pg_back_off(pg, tries);
                continue;
            }
            return group->code;
        }
        group->lost = group->lost || (outcome == PGQRSI_PG_LOST && pg->depth == 0 && !in_transaction);
        pgqrsi_pg_drop(pg);
        if ((group->lost && !group->repeatable) || !again || tries >= pg->settings->retry_limit)
            return pgqrsi_pg_lost(pg, group->lost && group->writes);
    }
}

static void pgqrsi_pg_group_release(pgqrsi_pg_group *group)
{
    for (int i = 0; i < group->count; i++)
        pgqrsi_pg_release(group->calls[i]);
}

/* The parameters are freed, whatever happens; the results are the caller's to clear. */
static pgqrs_result pgqrsi_pg_run_group(pgqrsi_pg *pg, pgqrsi_pg_group *group)
{
    bool ready = pgqrsi_pg_text_of(pg, PGQRSI_PG_RELAX) != NULL;
    for (int i = 0; i < group->count; i++)
        ready = ready && !group->calls[i]->failed && pgqrsi_pg_text_of(pg, group->calls[i]->statement);
    pgqrs_result result = ready ? pgqrsi_pg_run(pg, group) : pgqrsi_pg_no_memory(pg);
    pgqrsi_pg_group_release(group);
    return result;
}

static pgqrs_result pgqrsi_pg_run_one(pgqrsi_pg_call *call, PGresult **out, bool repeatable, bool writes)
{
    pgqrsi_pg_group group;
    *out = NULL;
    pgqrsi_pg_group_start(&group);
    group.calls[0] = call;
    group.count = 1;
    group.repeatable = repeatable;
    group.writes = writes;
    pgqrs_result result = pgqrsi_pg_run_group(call->pg, &group);
    if (!result) {
        *out = group.results[0];
        group.results[0] = NULL;
    }
    pgqrsi_pg_group_clear(&group);
    return result;
}

static pgqrs_result pgqrsi_pg_read(pgqrsi_pg_call *call, PGresult **out)
{
    return pgqrsi_pg_run_one(call, out, true, false);
}

static pgqrs_result pgqrsi_pg_write(pgqrsi_pg_call *call, PGresult **out)
{
    return pgqrsi_pg_run_one(call, out, false, true);
}

/* --- transactions of several statements ----------------------------------------------------------------------------- */

static const char pgqrsi_pg_relax_sql[] =
    "SELECT set_config('plan_cache_mode','auto',true), set_config('enable_seqscan','on',true), "
    "set_config('enable_sort','on',true), set_config('enable_bitmapscan','on',true), "
    "set_config('enable_material','on',true),"
    " set_config('jit','off',true)";

static pgqrs_result pgqrsi_pg_rollback(pgqrsi_pg *pg)
{
    pg->depth = 0;
    if (!pg->connection || PQstatus(pg->connection) != CONNECTION_OK) {
        pgqrsi_pg_drop(pg);
        return PGQRS_OK; /* it ended with the connection */
    }
    PGresult *r =
        PQexec(pg->connection, pg->savepoint ? "ROLLBACK TO SAVEPOINT pgqrs; RELEASE SAVEPOINT pgqrs" : "ROLLBACK");
    PQclear(r);
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_pg_begin_once(pgqrsi_pg *pg)
{
    pgqrs_result result = pgqrsi_pg_connected(pg);
    if (result) return result;
    pg->savepoint = !pgqrsi_pg_alone(pg) && PQtransactionStatus(pg->connection) == PQTRANS_INTRANS;
    result = pgqrsi_pg_simple(pg, pg->savepoint ? "SAVEPOINT pgqrs" : "BEGIN");
    if (result) return result;
    pg->depth = 1;
    if (pgqrsi_pg_alone(pg)) result = pgqrsi_pg_simple(pg, pgqrsi_pg_relax_sql);
    if (result) pgqrsi_pg_rollback(pg);
    return result;
}

/* Nothing has been done before the first statement, so a connection that turns out to be broken here is simply made anew. */
static pgqrs_result pgqrsi_pg_begin(pgqrsi_pg *pg)
{
    pgqrs_result result = pgqrsi_pg_begin_once(pg);
    bool again = pgqrsi_pg_alone(pg);
    for (int tries = 0; result == PGQRS_ERR_CONNECTION && again && tries < pg->settings->retry_limit; tries++) {
        pgqrsi_pg_drop(pg);
        result = pgqrsi_pg_begin_once(pg);
    }
    return result;
}

static pgqrs_result pgqrsi_pg_commit(pgqrsi_pg *pg)
{
    PGresult *r = PQexec(pg->connection, pg->savepoint ? "RELEASE SAVEPOINT pgqrs" : "COMMIT");
    pgqrs_result result = PGQRS_OK;
    /* COMMIT of a failed transaction is answered by "ROLLBACK", as a success */
    bool rolled_back = r && strncmp(PQcmdStatus(r), "ROLLBACK", 8) == 0;
    if (PQstatus(pg->connection) == CONNECTION_BAD || !r)
        result = pgqrsi_pg_lost(pg, !pg->savepoint);
    else if (!pgqrsi_pg_good(r))
        result = pgqrsi_pg_refuse(pg, r);
    else if (rolled_back)
        result = pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, "25P02",
                                    "the transaction had failed; nothing was done");
    PQclear(r);
    pg->depth = 0;
    if (PQstatus(pg->connection) == CONNECTION_BAD) pgqrsi_pg_drop(pg);
    return result;
}

/* --- a transaction around other calls --- */

static pgqrs_result pgqrsi_pg_open_once(pgqrsi_pg *pg)
{
    static const char begin[] = "BEGIN; ";
    char sql[sizeof begin + sizeof pgqrsi_pg_relax_sql];
    pgqrs_result result = pgqrsi_pg_connected(pg);
    if (!result && !pg->checked) result = pgqrsi_pg_check_version(pg);
    if (result) return result;
    if (PQtransactionStatus(pg->connection) != PQTRANS_IDLE)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, "25001",
                                  "a transaction is open on the caller's connection already: end it first");
    snprintf(sql, sizeof sql, "%s%s", begin, pg->own ? pgqrsi_pg_relax_sql : "");
    result = pgqrsi_pg_simple(pg, sql);
    pg->open = result == PGQRS_OK;
    if (result && PQstatus(pg->connection) == CONNECTION_OK && PQtransactionStatus(pg->connection) != PQTRANS_IDLE)
        PQclear(PQexec(pg->connection, "ROLLBACK"));
    return result;
}

static pgqrs_result pgqrsi_pg_open_transaction(pgqrsi_pg *pg)
{
    if (pg->open)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, "25001",
                                  "a transaction is open on this store already: end it first");
    pgqrs_result result = pgqrsi_pg_open_once(pg);
    for (int tries = 0; result == PGQRS_ERR_CONNECTION && pg->own && tries < pg->settings->retry_limit; tries++) {
        pgqrsi_pg_drop(pg);
        result = pgqrsi_pg_open_once(pg);
    }
    return result;
}

/* Whatever the program did to its transaction, afterwards none is open; a connection that cannot be brought there is given up. */
static void pgqrsi_pg_close_transaction(pgqrsi_pg *pg)
{
    pg->open = false;
    pg->depth = 0;
    if (pg->connection && PQstatus(pg->connection) == CONNECTION_OK &&
        PQtransactionStatus(pg->connection) != PQTRANS_IDLE)
        PQclear(PQexec(pg->connection, "ROLLBACK"));
    if (pg->connection &&
        (PQstatus(pg->connection) != CONNECTION_OK || PQtransactionStatus(pg->connection) != PQTRANS_IDLE))
        pgqrsi_pg_drop(pg);
}

static pgqrs_result pgqrsi_pg_transaction(void *self, pgqrs_backend_verb verb)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrs_result result = PGQRS_OK;
    if (verb == PGQRS_BACKEND_BEGIN) return pgqrsi_pg_open_transaction(pg);
    if (!pg->open)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, "25P01", "no transaction is open on this store");
    if (verb == PGQRS_BACKEND_COMMIT) {
        result = pg->own ? pgqrsi_pg_open_ready(pg) : pgqrsi_pg_borrowed_ready(pg);
        pg->savepoint = false;
        if (!result && PQtransactionStatus(pg->connection) != PQTRANS_INTRANS)
            result = pgqrs_backend_fail(pg->store, PGQRS_ERR_TRANSACTION, 0, "25P01",
                                        "the transaction was ended by a statement of the program");
        if (!result) result = pgqrsi_pg_commit(pg);
    }
    pgqrsi_pg_close_transaction(pg);
    return result;
}

static PGconn *pgqrsi_pg_pgconn(void *self)
{
    return ((pgqrsi_pg *)self)->connection;
}

/* Ends a transaction the way its statements went; the first failure is the one reported. */
static pgqrs_result pgqrsi_pg_finish(pgqrsi_pg *pg, pgqrs_result result)
{
    if (!result) return pgqrsi_pg_commit(pg);
    pgqrsi_pg_rollback(pg);
    return result;
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

/* One list of statements per schema version, applied in order; a list that was released is never changed. */
static const char *const pgqrsi_pg_migration_1[] = {
    "CREATE TABLE @.pgqrs_meta(key text PRIMARY KEY, value bigint NOT NULL)",
    "CREATE TABLE @.pgqrs_queues(id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,"
    " lease_ms bigint NOT NULL, max_attempts integer NOT NULL, backoff_ms bigint NOT NULL, backoff_max_ms bigint NOT "
    "NULL,"
    " retention_ms bigint NOT NULL, dead_retention_ms bigint NOT NULL, paused boolean NOT NULL,"
    " created_at timestamptz NOT NULL, lease_expiries bigint NOT NULL DEFAULT 0)",
    "CREATE SEQUENCE @.pgqrs_message_id CACHE 1",
    "CREATE SEQUENCE @.pgqrs_lease_id CACHE 64",
    "CREATE SEQUENCE @.pgqrs_ready_ord CACHE 1",
    "CREATE TABLE @.pgqrs_messages(queue_id bigint NOT NULL, id bigint NOT NULL, priority smallint NOT NULL,"
    " enqueued_at timestamptz NOT NULL, expires_at timestamptz, dedup_key text, producer text, payload text NOT NULL,"
    " PRIMARY KEY (queue_id, id))",
    "CREATE TABLE @.pgqrs_ready(ord bigint NOT NULL DEFAULT nextval('@.pgqrs_ready_ord'), queue_id bigint NOT NULL,"
    " prio integer NOT NULL, lo bigint NOT NULL, n smallint NOT NULL CHECK (n BETWEEN 1 AND 50),"
    " attempt smallint NOT NULL DEFAULT 0, expires_at timestamptz, keyed boolean NOT NULL DEFAULT false)"
    " WITH (fillfactor=80, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=5000)",
    "CREATE INDEX pgqrs_ready_order ON @.pgqrs_ready(queue_id, prio, ord, lo)",
    "CREATE INDEX pgqrs_ready_lo ON @.pgqrs_ready(queue_id, lo)",
    "CREATE INDEX pgqrs_ready_expiry ON @.pgqrs_ready(queue_id, expires_at) WHERE expires_at IS NOT NULL",
    "CREATE TABLE @.pgqrs_delayed(due_at timestamptz NOT NULL, queue_id bigint NOT NULL, prio integer NOT NULL,"
    " lo bigint NOT NULL, n smallint NOT NULL CHECK (n BETWEEN 1 AND 50), attempt smallint NOT NULL DEFAULT 0,"
    " expires_at timestamptz, keyed boolean NOT NULL DEFAULT false)"
    " WITH (autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_threshold=5000)",
    "CREATE INDEX pgqrs_delayed_due ON @.pgqrs_delayed(queue_id, due_at, lo)",
    "CREATE INDEX pgqrs_delayed_lo ON @.pgqrs_delayed(queue_id, lo)",
    "CREATE TABLE @.pgqrs_leases(lease bigint PRIMARY KEY, queue_id bigint NOT NULL, until timestamptz NOT NULL,"
    " claimed_at timestamptz NOT NULL, worker_id bigint, total integer NOT NULL, lo_min bigint NOT NULL, hi_max bigint "
    "NOT NULL,"
    " keyed boolean NOT NULL, lo bigint[] NOT NULL, n smallint[] NOT NULL, attempt smallint[] NOT NULL, prio integer[] "
    "NOT NULL)"
    " WITH (fillfactor=70, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=1000)",
    "CREATE INDEX pgqrs_leases_until ON @.pgqrs_leases(queue_id, until)",
    "CREATE TABLE @.pgqrs_done(queue_id bigint NOT NULL, lease bigint NOT NULL, worker_id bigint, at timestamptz NOT "
    "NULL,"
    " claimed_at timestamptz, outcome smallint NOT NULL, total integer NOT NULL, lo_min bigint NOT NULL, hi_max bigint "
    "NOT NULL,"
    " lo bigint[] NOT NULL, n smallint[] NOT NULL, attempt smallint[] NOT NULL,"
    " CONSTRAINT pgqrs_done_span CHECK (hi_max - lo_min < 1024))",
    "CREATE INDEX pgqrs_done_lo ON @.pgqrs_done(queue_id, lo_min)",
    "CREATE TABLE @.pgqrs_dead(queue_id bigint NOT NULL, id bigint NOT NULL, attempt smallint NOT NULL, at timestamptz "
    "NOT NULL,"
    " reason text, worker_id bigint, PRIMARY KEY (queue_id, id))",
    "CREATE TABLE @.pgqrs_failures(message_id bigint PRIMARY KEY, queue_id bigint NOT NULL, attempt smallint NOT NULL,"
    " at timestamptz NOT NULL, reason text)",
    "CREATE TABLE @.pgqrs_dedup(queue_id bigint NOT NULL, key text NOT NULL, message_id bigint NOT NULL,"
    " PRIMARY KEY (queue_id, key))",
    "CREATE UNIQUE INDEX pgqrs_dedup_message ON @.pgqrs_dedup(queue_id, message_id)",
    "CREATE TABLE @.pgqrs_workers(id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,"
    " epoch bigint NOT NULL, queue_id bigint, state smallint NOT NULL, reclaimed boolean NOT NULL DEFAULT false,"
    " started_at timestamptz NOT NULL, heartbeat_at timestamptz NOT NULL, stopped_at timestamptz) WITH (fillfactor=70)",
    "CREATE UNLOGGED TABLE @.pgqrs_sleepers(queue_id bigint NOT NULL, token bigint NOT NULL, until timestamptz NOT "
    "NULL,"
    " PRIMARY KEY (queue_id, token)) WITH (autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=200)",
    "CREATE VIEW @.pgqrs_message_view AS"
    " SELECT m.id, q.name AS queue, m.queue_id,"
    " CASE s.code WHEN 1 THEN 'ready' WHEN 2 THEN 'delayed' WHEN 3 THEN 'leased' WHEN 4 THEN 'archived' WHEN 5 THEN "
    "'dead'"
    " END AS state, s.code AS state_code, m.priority, s.attempt, s.lease, s.due_at, s.lease_until, s.worker_id,"
    " w.name AS worker, m.enqueued_at, m.expires_at, s.finished_at, m.dedup_key, m.producer,"
    " CASE WHEN s.code = 4 THEN s.reason ELSE coalesce(s.reason, f.reason) END AS reason, m.payload"
    " FROM @.pgqrs_messages m JOIN @.pgqrs_queues q ON q.id = m.queue_id LEFT JOIN LATERAL ("
    " SELECT 1 AS code, r.attempt, NULL::bigint AS lease, NULL::timestamptz AS due_at, NULL::timestamptz AS "
    "lease_until,"
    " NULL::bigint AS worker_id, NULL::timestamptz AS finished_at, NULL::text AS reason"
    " FROM @.pgqrs_ready r WHERE r.queue_id = m.queue_id AND r.lo <= m.id AND r.lo > m.id - 50 AND m.id < r.lo + r.n"
    " UNION ALL SELECT CASE WHEN d.due_at <= statement_timestamp() THEN 1 ELSE 2 END, d.attempt, NULL, d.due_at, NULL, "
    "NULL,"
    " NULL, NULL FROM @.pgqrs_delayed d"
    " WHERE d.queue_id = m.queue_id AND d.lo <= m.id AND d.lo > m.id - 50 AND m.id < d.lo + d.n"
    " UNION ALL SELECT CASE WHEN l.until <= statement_timestamp() THEN 1 ELSE 3 END, u.attempt,"
    " CASE WHEN l.until > statement_timestamp() THEN l.lease END, NULL, l.until,"
    " CASE WHEN l.until > statement_timestamp() THEN l.worker_id END, NULL, NULL"
    " FROM @.pgqrs_leases l, unnest(l.lo, l.n, l.attempt) AS u(lo, n, attempt)"
    " WHERE l.queue_id = m.queue_id AND l.lo_min <= m.id AND l.hi_max >= m.id AND u.lo <= m.id AND m.id < u.lo + u.n"
    " UNION ALL SELECT 4, u.attempt, NULL, NULL, NULL, d.worker_id, d.at, CASE d.outcome WHEN 1 THEN 'expired' END"
    " FROM @.pgqrs_done d, unnest(d.lo, d.n, d.attempt) AS u(lo, n, attempt)"
    " WHERE d.queue_id = m.queue_id AND d.lo_min <= m.id AND d.lo_min > m.id - 1024 AND d.hi_max >= m.id"
    " AND u.lo <= m.id AND m.id < u.lo + u.n"
    " UNION ALL SELECT 5, d.attempt, NULL, NULL, NULL, d.worker_id, d.at, d.reason"
    " FROM @.pgqrs_dead d WHERE d.queue_id = m.queue_id AND d.id = m.id"
    " ) s ON true LEFT JOIN @.pgqrs_failures f ON f.message_id = m.id LEFT JOIN @.pgqrs_workers w ON w.id = "
    "s.worker_id",
    "INSERT INTO @.pgqrs_meta(key, value) VALUES ('schema_version', 1)",
    NULL,
};

/* Where message r.id of queue r.queue_id is, for runs that have not ended: k 1 to be taken, 2 held, 3 delayed, 5 dead; no row: gone. `now` is
 * the time of the decision. */
#define PGQRSI_PG_RUN_PLACE(now)                                                                                       \
    "SELECT 1 AS k, t.attempt, NULL::bigint AS worker_id, NULL::timestamptz AS at, NULL::text AS reason"               \
    " FROM @.pgqrs_ready t WHERE t.queue_id = r.queue_id AND t.lo <= r.id AND t.lo > r.id - 50 AND r.id < t.lo + t.n"  \
    " UNION ALL SELECT CASE WHEN t.due_at > " now " THEN 3 ELSE 1 END, t.attempt, NULL, NULL, NULL"                    \
    " FROM @.pgqrs_delayed t WHERE t.queue_id = r.queue_id AND t.lo <= r.id AND t.lo > r.id - 50"                      \
    " AND r.id < t.lo + t.n"                                                                                           \
    " UNION ALL SELECT CASE WHEN t.until > " now " THEN 2 ELSE 1 END, u.attempt, t.worker_id, t.until, NULL"           \
    " FROM @.pgqrs_leases t, unnest(t.lo, t.n, t.attempt) AS u(lo, n, attempt)"                                        \
    " WHERE t.queue_id = r.queue_id AND t.lo_min <= r.id AND t.hi_max >= r.id AND u.lo <= r.id AND r.id < u.lo + u.n"  \
    " UNION ALL SELECT 5, t.attempt, t.worker_id, t.at, t.reason"                                                      \
    " FROM @.pgqrs_dead t WHERE t.queue_id = r.queue_id AND t.id = r.id"

/* The state of run r whose message is at place p. */
#define PGQRSI_PG_RUN_STATE                                                                                            \
    "CASE WHEN r.state <> 0 THEN r.state WHEN p.k IS NULL OR p.k = 5 THEN 7 WHEN r.cancel_requested_at IS NOT NULL"    \
    " THEN 4 WHEN p.k = 2 THEN 2 WHEN p.k = 3 AND r.wait <> 0 THEN 3 ELSE 1 END"

/* How often the message of an ended run was delivered. The row of its archiving starts with it, mostly. */
#define PGQRSI_PG_RUN_TRIES                                                                                            \
    "SELECT a.attempt FROM ((SELECT u.attempt FROM @.pgqrs_done t, unnest(t.lo, t.n, t.attempt) AS u(lo, n, attempt)"  \
    " WHERE t.queue_id = r.queue_id AND t.lo_min <= r.id AND t.lo_min > r.id - 1024 AND t.hi_max >= r.id"              \
    " AND u.lo <= r.id AND r.id < u.lo + u.n ORDER BY t.lo_min DESC LIMIT 1)"                                          \
    " UNION ALL SELECT t.attempt FROM @.pgqrs_dead t WHERE t.queue_id = r.queue_id AND t.id = r.id) a LIMIT 1"

/* Nothing refers to anything by a foreign key: the deletion of messages would pay for it. */
static const char *const pgqrsi_pg_migration_2[] = {
    "CREATE TABLE @.pgqrs_workflows(id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,"
    " queue_id bigint NOT NULL, made_queue boolean NOT NULL, max_retries integer NOT NULL, backoff smallint NOT NULL,"
    " base_ms bigint NOT NULL, cap_ms bigint NOT NULL, jitter_percent integer NOT NULL, timeout_ms bigint NOT NULL,"
    " step_timeout_ms bigint NOT NULL, retention_ms bigint NOT NULL, failed_retention_ms bigint NOT NULL,"
    " created_at timestamptz NOT NULL)",
    "CREATE TABLE @.pgqrs_runs(id bigint PRIMARY KEY, workflow_id bigint NOT NULL, queue_id bigint NOT NULL,"
    " triggered_at timestamptz NOT NULL, started_at timestamptz, finished_at timestamptz, deadline_at timestamptz,"
    " cancel_requested_at timestamptz, wait_until timestamptz, forked_from bigint, retries integer NOT NULL DEFAULT 0,"
    " state smallint NOT NULL DEFAULT 0 CHECK (state IN (0, 5, 6, 7)),"
    " wait smallint NOT NULL DEFAULT 0 CHECK (wait BETWEEN 0 AND 4), wait_name text, idempotency_key text,"
    " cancelled_by text, cancel_reason text, error_code text, error_message text, error_step text, output text)"
    " WITH (fillfactor=80)",
    "CREATE INDEX pgqrs_runs_workflow ON @.pgqrs_runs(workflow_id, id)",
    "CREATE UNIQUE INDEX pgqrs_runs_key ON @.pgqrs_runs(workflow_id, idempotency_key)"
    " WHERE idempotency_key IS NOT NULL",
    "CREATE INDEX pgqrs_runs_ended ON @.pgqrs_runs(workflow_id, state, finished_at) WHERE state <> 0",
    "CREATE TABLE @.pgqrs_steps(run_id bigint NOT NULL, number integer NOT NULL,"
    " kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 3), state smallint NOT NULL CHECK (state BETWEEN 1 AND 4),"
    " retries integer NOT NULL, started_at timestamptz, finished_at timestamptz, due_at timestamptz, name text NOT "
    "NULL,"
    " key text, input text, output text, error_code text, error_message text, PRIMARY KEY (run_id, number))"
    " WITH (fillfactor=95)",
    "CREATE TABLE @.pgqrs_run_events(run_id bigint NOT NULL, name text NOT NULL, sent_at timestamptz NOT NULL,"
    " payload text NOT NULL, PRIMARY KEY (run_id, name))",
    "CREATE TABLE @.pgqrs_run_values(run_id bigint NOT NULL, name text NOT NULL, set_at timestamptz NOT NULL,"
    " value text NOT NULL, PRIMARY KEY (run_id, name)) WITH (fillfactor=70)",
    "CREATE VIEW @.pgqrs_run_view AS"
    " SELECT r.id, w.name AS workflow, q.name AS queue, CASE s.code WHEN 1 THEN 'queued' WHEN 2 THEN 'running'"
    " WHEN 3 THEN 'paused' WHEN 4 THEN 'cancelling' WHEN 5 THEN 'cancelled' WHEN 6 THEN 'success' ELSE 'error' END"
    " AS state,"
    " CASE CASE WHEN s.code = 3 THEN r.wait END WHEN 1 THEN 'retry' WHEN 2 THEN 'pause' WHEN 3 THEN 'sleep'"
    " WHEN 4 THEN 'event' ELSE 'none' END AS wait,"
    " CASE WHEN s.code = 3 THEN r.wait_name END AS wait_name, CASE WHEN s.code = 3 THEN r.wait_until END AS wait_until,"
    " coalesce(CASE WHEN r.state = 0 THEN p.attempt ELSE (" PGQRSI_PG_RUN_TRIES ") END, 0) AS attempt, r.retries,"
    " CASE WHEN r.state = 0 AND s.code = 7 THEN 'DEAD' ELSE r.error_code END AS error_code,"
    " CASE WHEN r.state = 0 AND s.code = 7 THEN p.reason ELSE r.error_message END AS error_message, r.error_step,"
    " CASE WHEN p.k = 2 THEN p.worker_id END AS worker_id, k.name AS worker,"
    " CASE WHEN p.k = 2 THEN p.at END AS lease_until, r.triggered_at, r.started_at,"
    " CASE WHEN p.k = 5 THEN p.at ELSE r.finished_at END AS finished_at, r.deadline_at, r.cancel_requested_at,"
    " r.cancelled_by, r.cancel_reason, r.idempotency_key, r.forked_from, m.payload AS input, r.output"
    " FROM @.pgqrs_runs r JOIN @.pgqrs_workflows w ON w.id = r.workflow_id JOIN @.pgqrs_queues q ON q.id = r.queue_id"
    " LEFT JOIN @.pgqrs_messages m ON m.queue_id = r.queue_id AND m.id = r.id"
    " LEFT JOIN LATERAL (" PGQRSI_PG_RUN_PLACE(
        "statement_timestamp()") ") p ON r.state = 0"
                                 " CROSS JOIN LATERAL (SELECT " PGQRSI_PG_RUN_STATE " AS code) s"
                                 " LEFT JOIN @.pgqrs_workers k ON p.k = 2 AND k.id = p.worker_id",
    "CREATE VIEW @.pgqrs_step_view AS"
    " SELECT run_id, number, CASE kind WHEN 1 THEN 'step' WHEN 2 THEN 'sleep' WHEN 3 THEN 'event' END AS kind,"
    " CASE state WHEN 1 THEN 'done' WHEN 2 THEN 'retrying' WHEN 3 THEN 'waiting' WHEN 4 THEN 'failed' END AS state,"
    " name, key, input, output, error_code, error_message, retries, started_at, finished_at, due_at"
    " FROM @.pgqrs_steps",
    "UPDATE @.pgqrs_meta SET value = 2 WHERE key = 'schema_version'",
    NULL,
};

static const char *const *const pgqrsi_pg_migrations[] = {pgqrsi_pg_migration_1, pgqrsi_pg_migration_2};

static const char *const pgqrsi_pg_uninstall_sql[] = {
    "DROP VIEW IF EXISTS @.pgqrs_step_view, @.pgqrs_run_view, @.pgqrs_message_view",
    "DROP TABLE IF EXISTS @.pgqrs_workflows, @.pgqrs_runs, @.pgqrs_steps, @.pgqrs_run_events, @.pgqrs_run_values",
    "DROP TABLE IF EXISTS @.pgqrs_meta, @.pgqrs_queues, @.pgqrs_messages, @.pgqrs_ready, @.pgqrs_delayed, "
    "@.pgqrs_leases,"
    " @.pgqrs_done, @.pgqrs_dead, @.pgqrs_failures, @.pgqrs_dedup, @.pgqrs_workers, @.pgqrs_sleepers",
    "DROP SEQUENCE IF EXISTS @.pgqrs_message_id, @.pgqrs_lease_id, @.pgqrs_ready_ord",
    NULL,
};

/* One statement outside the tables above, without parameters; its first value, 0 when there is none. */
static pgqrs_result pgqrsi_pg_scalar(pgqrsi_pg *pg, const char *sql, int64_t *value)
{
    size_t size;
    char *text = pgqrsi_pg_expanded(pg, sql, &size);
    if (!text) return pgqrsi_pg_no_memory(pg);
    PGresult *r = PQexecParams(pg->connection, text, 0, NULL, NULL, NULL, NULL, 1);
    pgqrs_result result = PGQRS_OK;
    pgqrs_backend_free(pg->store, text, size);
    if (PQstatus(pg->connection) == CONNECTION_BAD)
        result = pgqrsi_pg_lost(pg, false);
    else if (!pgqrsi_pg_good(r))
        result = pgqrsi_pg_refuse(pg, r);
    else
        *value = PQntuples(r) > 0 ? pgqrsi_pg_get_int64(r, 0, 0) : 0;
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_script(pgqrsi_pg *pg, const char *const *statements)
{
    int64_t ignored;
    pgqrs_result result = PGQRS_OK;
    for (; *statements && !result; statements++)
        result = pgqrsi_pg_scalar(pg, *statements, &ignored);
    return result;
}

/* Asks first whether the table is there: inside the caller's transaction an error would cost the caller that transaction. */
static pgqrs_result pgqrsi_pg_version(pgqrsi_pg *pg, int64_t *version)
{
    int64_t there = 0;
    *version = 0;
    pgqrs_result result = pgqrsi_pg_scalar(pg, "SELECT to_regclass('@.pgqrs_meta') IS NOT NULL", &there);
    if (!result && there)
        result = pgqrsi_pg_scalar(pg, "SELECT value FROM @.pgqrs_meta WHERE key = 'schema_version'", version);
    return result;
}

static pgqrs_result pgqrsi_pg_newer(pgqrsi_pg *pg, int64_t version)
{
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_SCHEMA_NEWER, 0, NULL,
                              "the tables in schema %s have version %lld, this library knows %d: update the program",
                              pg->schema, (long long)version, PGQRS_SCHEMA_VERSION);
}

static pgqrs_result pgqrsi_pg_check_version(pgqrsi_pg *pg)
{
    int64_t version;
    pgqrs_result result = pgqrsi_pg_version(pg, &version);
    if (result) return result;
    if (version == 0) return pgqrsi_pg_schema_missing(pg);
    if (version > PGQRS_SCHEMA_VERSION) return pgqrsi_pg_newer(pg, version);
    if (version < PGQRS_SCHEMA_VERSION)
        return pgqrs_backend_fail(
            pg->store, PGQRS_ERR_SCHEMA_OLDER, 0, NULL,
            "the tables in schema %s have version %lld, this library needs %d: call pgqrs_install", pg->schema,
            (long long)version, PGQRS_SCHEMA_VERSION);
    pg->checked = true;
    return PGQRS_OK;
}

/* Calls outside the statement tables retry by this: everything they do is repeatable. */
static pgqrs_result pgqrsi_pg_retry(pgqrsi_pg *pg, pgqrs_result (*work)(pgqrsi_pg *pg, int64_t *value), int64_t *value)
{
    for (int tries = 0;; tries++) {
        pgqrs_result result = pgqrsi_pg_connected(pg);
        if (result) return result;
        result = work(pg, value);
        bool passing =
            result == PGQRS_ERR_CONNECTION || result == PGQRS_ERR_CONFLICT || result == PGQRS_ERR_OUTCOME_UNKNOWN;
        if (!passing || !pgqrsi_pg_alone(pg) || tries >= pg->settings->retry_limit) return result;
        if (result == PGQRS_ERR_CONFLICT)
            pgqrsi_pg_back_off(pg, tries);
        else
            pgqrsi_pg_hang_up(pg);
    }
}

static pgqrs_result pgqrsi_pg_read_clock(pgqrsi_pg *pg, int64_t *value)
{
    return pgqrsi_pg_scalar(pg, "SELECT statement_timestamp()", value);
}

static pgqrs_result pgqrsi_pg_now(void *self, int64_t *now_us)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    if (pg->settings->clock.now_us) {
        *now_us = pgqrs_backend_clock(pg->store);
        return PGQRS_OK;
    }
    return pgqrsi_pg_retry(pg, pgqrsi_pg_read_clock, now_us);
}

static pgqrs_result pgqrsi_pg_schema_version(void *self, int32_t *version)
{
    int64_t value = 0;
    pgqrs_result result = pgqrsi_pg_retry((pgqrsi_pg *)self, pgqrsi_pg_version, &value);
    *version = (int32_t)value;
    return result;
}

/* CREATE SCHEMA IF NOT EXISTS asks for the right to create even when there is nothing to do; hence the look first. */
static pgqrs_result pgqrsi_pg_create_schema(pgqrsi_pg *pg)
{
    int64_t there = 0;
    pgqrs_result result = pgqrsi_pg_scalar(pg, "SELECT to_regnamespace('@,') IS NOT NULL", &there);
    if (!result && !there) result = pgqrsi_pg_scalar(pg, "CREATE SCHEMA @,", &there);
    return result;
}

/* One process installs at a time, database-wide per schema; the lock ends with the transaction. */
static pgqrs_result pgqrsi_pg_lock_schema(pgqrsi_pg *pg)
{
    int64_t ignored;
    return pgqrsi_pg_scalar(pg, "SELECT pg_advisory_xact_lock(1886351986, hashtext('@,'))", &ignored);
}

static pgqrs_result pgqrsi_pg_migrate(pgqrsi_pg *pg, int64_t *version)
{
    pgqrs_result result = pgqrsi_pg_lock_schema(pg);
    if (!result) result = pgqrsi_pg_create_schema(pg);
    if (!result) result = pgqrsi_pg_version(pg, version);
    if (!result && *version > PGQRS_SCHEMA_VERSION) result = pgqrsi_pg_newer(pg, *version);
    for (; !result && *version < PGQRS_SCHEMA_VERSION; ++*version)
        result = pgqrsi_pg_script(pg, pgqrsi_pg_migrations[*version]);
    return result;
}

static pgqrs_result pgqrsi_pg_install_once(pgqrsi_pg *pg, int64_t *version)
{
    pgqrs_result result = pgqrsi_pg_begin(pg);
    return result ? result : pgqrsi_pg_finish(pg, pgqrsi_pg_migrate(pg, version));
}

static pgqrs_result pgqrsi_pg_install(void *self, int64_t now_us)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int64_t version = 0;
    (void)now_us;
    memset(pg->queues, 0, sizeof pg->queues);
    pgqrs_result result = pgqrsi_pg_retry(pg, pgqrsi_pg_install_once, &version);
    pg->checked = false;
    return result;
}

static pgqrs_result pgqrsi_pg_uninstall_once(pgqrsi_pg *pg, int64_t *ignored)
{
    pgqrs_result result = pgqrsi_pg_begin(pg);
    (void)ignored;
    if (result) return result;
    result = pgqrsi_pg_lock_schema(pg);
    if (!result) result = pgqrsi_pg_script(pg, pgqrsi_pg_uninstall_sql);
    return pgqrsi_pg_finish(pg, result);
}

static pgqrs_result pgqrsi_pg_uninstall(void *self)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int64_t ignored = 0;
    pg->checked = false;
    memset(pg->queues, 0, sizeof pg->queues);
    return pgqrsi_pg_retry(pg, pgqrsi_pg_uninstall_once, &ignored);
}

/* --- life --------------------------------------------------------------------------------------------------------- */

/* A channel name has at most 63 bytes; of a longer one the schema's hash stands in. */
static void pgqrsi_pg_set_names(pgqrsi_pg *pg, const char *schema)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    snprintf(pg->schema, sizeof pg->schema, "\"%s\"", schema);
    if (strlen(schema) <= 50) {
        snprintf(pg->channel, sizeof pg->channel, "pgqrs_%s", schema);
        return;
    }
    for (const char *c = schema; *c; c++)
        hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    snprintf(pg->channel, sizeof pg->channel, "pgqrs_%016llx", (unsigned long long)hash);
}

static void pgqrsi_pg_close(void *self)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    if (!pg) return;
    pgqrsi_pg_hang_up(pg);
    if (pg->nudge_fd >= 0) close(pg->nudge_fd);
    for (int i = 0; i < PGQRSI_PG_STATEMENTS; i++)
        if (pg->texts[i]) pgqrs_backend_free(pg->store, pg->texts[i], pg->text_sizes[i]);
    if (pg->dsn) pgqrs_backend_free(pg->store, pg->dsn, pg->dsn_size);
    pgqrs_backend_free(pg->store, pg, sizeof *pg);
}

/* libpq's own complaint may quote the DSN, so it is not shown. */
static pgqrs_result pgqrsi_pg_check_dsn(pgqrsi_pg *pg)
{
    char *complaint = NULL;
    PQconninfoOption *options = PQconninfoParse(pg->dsn, &complaint);
    bool good = options != NULL;
    PQconninfoFree(options);
    PQfreemem(complaint);
    if (good) return PGQRS_OK;
    return pgqrs_backend_fail(
        pg->store, PGQRS_ERR_BAD_DSN, 0, NULL,
        "libpq cannot read the DSN: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE?option=value, "
        "special characters as %%XX");
}

static pgqrs_result pgqrsi_pg_open_own(pgqrsi_pg *pg, const char *dsn)
{
    pg->own = true;
    pg->dsn_size = strlen(dsn) + 1;
    pg->dsn = (char *)pgqrs_backend_alloc(pg->store, pg->dsn_size);
    if (!pg->dsn) return pgqrsi_pg_no_memory(pg);
    memcpy(pg->dsn, dsn, pg->dsn_size);
    pgqrs_result result = pgqrsi_pg_check_dsn(pg);
    if (result) return result;
    return pgqrsi_pg_connect(pg, pgqrs_backend_monotonic() + pg->settings->connect_timeout_ms * PGQRSI_US_PER_MS);
}

static pgqrs_result pgqrsi_pg_open_borrowed(pgqrsi_pg *pg, PGconn *connection)
{
    pg->connection = connection;
    pg->unnamed = true;
    if (PQstatus(connection) != CONNECTION_OK) return pgqrsi_pg_borrowed_ready(pg);
    if (PQisnonblocking(connection))
        return pgqrs_backend_fail(
            pg->store, PGQRS_ERR_INVALID_ARGUMENT, 0, NULL,
            "the caller's connection is in non-blocking mode: PQsetnonblocking(connection, 0) first");
    return pgqrsi_pg_session(pg);
}

static pgqrs_result pgqrsi_pg_open(pgqrs_store *store, const pgqrs_backend_open *request, void **self)
{
    *self = NULL;
    pgqrsi_pg *pg = (pgqrsi_pg *)pgqrs_backend_alloc(store, sizeof *pg);
    if (!pg)
        return pgqrs_backend_fail(store, PGQRS_ERR_NO_MEMORY, 0, NULL, "out of memory: the allocator returned NULL");
    pg->store = store;
    pg->settings = request->settings;
    pg->nudge_fd = -1;
    pgqrsi_pg_set_names(pg, request->settings->schema ? request->settings->schema : "public");
    pgqrs_result result =
        request->dsn ? pgqrsi_pg_open_own(pg, request->dsn) : pgqrsi_pg_open_borrowed(pg, request->connection);
    if (result)
        pgqrsi_pg_close(pg);
    else
        *self = pg;
    return result;
}

static uint32_t pgqrsi_pg_capabilities(void *self)
{
    const pgqrsi_pg *pg = (const pgqrsi_pg *)self;
    uint32_t wake = pg->own && !pg->pooled ? PGQRS_CAN_WAKE : 0u;
    return PGQRS_CAN_CLOCK | PGQRS_CAN_SHARE | wake;
}

/* --- hot statements ----------------------------------------------------------------------------------------------- */

/* Numbers of the statements in pgqrsi_pg_hot_sql. */
#define PGQRSI_PG_ENQUEUE_ONE 1
#define PGQRSI_PG_ENQUEUE_MANY 2
#define PGQRSI_PG_ENQUEUE_ANY 3
#define PGQRSI_PG_SETTLE_WHOLE 4
#define PGQRSI_PG_CLAIM 5
#define PGQRSI_PG_TEND 6
#define PGQRSI_PG_RETAIN 7
#define PGQRSI_PG_EXTEND 8
#define PGQRSI_PG_SLEEP 9
#define PGQRSI_PG_WAKE 10
#define PGQRSI_PG_QUEUE_ID 11
#define PGQRSI_PG_NEXT_QUEUE 12
#define PGQRSI_PG_SETTLED 13
#define PGQRSI_PG_UNCLAIM 14
#define PGQRSI_PG_SETTLE_ANY 15 /* and 16 */
#define PGQRSI_PG_DOUBT 17
#define PGQRSI_PG_BEAT 18
#define PGQRSI_PG_TRIGGER_ONE 19
#define PGQRSI_PG_TRIGGER_ANY 20
#define PGQRSI_PG_RUN_WRITE 21 /* and 22 */
#define PGQRSI_PG_RUN_LOAD 23
#define PGQRSI_PG_RUN_STEPS 24
#define PGQRSI_PG_RUN_EVENTS 25
#define PGQRSI_PG_RUN_SEND 26
#define PGQRSI_PG_RUN_WAKE 27
#define PGQRSI_PG_RUN_SLEEP 28
#define PGQRSI_PG_RUN_STEP 29
#define PGQRSI_PG_RUN_END 30

/* The time of every decision is parameter 2, or the server's clock when that is NULL. */
#define PGQRSI_PG_NOW "coalesce($2::timestamptz, statement_timestamp())"

/* Somebody sleeps on the queue: a NOTIFY only then, because it makes the server serialize commits. Sleeping is about real time. */
#define PGQRSI_PG_NOTIFY(queue)                                                                                        \
    "(SELECT pg_notify('@!', z.id::text) FROM " queue " z WHERE EXISTS (SELECT 1 FROM @.pgqrs_sleepers s"              \
    " WHERE s.queue_id = z.id AND s.until > statement_timestamp()))"

/* Rows for `ready` are always made from what a writing statement returned. Thereby the transaction has its number before ord
 * is drawn, which "the mark" relies on. */

/* Run r need not wait any longer. */
#define PGQRSI_PG_RUN_DUE                                                                                              \
    "(r.state <> 0 OR r.cancel_requested_at IS NOT NULL OR r.wait = 4 AND EXISTS (SELECT 1 FROM @.pgqrs_run_events v"  \
    " WHERE v.run_id = r.id AND v.name = r.wait_name))"

/* 1 queue, 2 now, 3 payload, 4 priority, 5 producer: one message, deliverable at once. */
static const char pgqrsi_pg_enqueue_one[] =
    "WITH q AS MATERIALIZED (SELECT id FROM @.pgqrs_queues WHERE name = $1),"
    " m AS (INSERT INTO @.pgqrs_messages(queue_id, id, priority, enqueued_at, producer, payload)"
    " SELECT id, nextval('@.pgqrs_message_id'), $4::int, " PGQRSI_PG_NOW
    ", $5::text, $3::text FROM q RETURNING queue_id, id),"
    " r AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n) SELECT queue_id, -$4::int, id, 1 FROM m)"
    " SELECT id, " PGQRSI_PG_NOTIFY("q") "::text FROM m";

/* 1 queue, 2 now, 3 payloads, 4 priority, 5 producer, 6 due, 7 delay_us, 8 expires, 9 expire_us: messages that differ in
 * their payloads only. Runs: ids that follow each other, cut at every 50th. What expires is a run of its own. The sort makes
 * all ids be drawn before the first row is written, so that two batches at once hardly ever draw by turns. */
static const char pgqrsi_pg_enqueue_many[] =
    "WITH q AS MATERIALIZED (SELECT id, " PGQRSI_PG_NOW " AS now,"
    " coalesce($6::timestamptz, " PGQRSI_PG_NOW " + $7::bigint * interval '1 microsecond') AS due,"
    " coalesce($8::timestamptz, " PGQRSI_PG_NOW " + nullif($9::bigint, 0) * interval '1 microsecond') AS expires"
    " FROM @.pgqrs_queues WHERE name = $1),"
    " m AS (INSERT INTO @.pgqrs_messages(queue_id, id, priority, enqueued_at, expires_at, producer, payload)"
    " SELECT q.id, p.id, $4::int, q.now, q.expires, $5::text, p.payload FROM q,"
    " (SELECT nextval('@.pgqrs_message_id') AS id, u.payload FROM unnest($3::text[]) AS u(payload) ORDER BY id) p"
    " RETURNING queue_id, id, expires_at),"
    " o AS (SELECT queue_id, id, expires_at, row_number() OVER (ORDER BY id) AS place FROM m),"
    " g AS MATERIALIZED (SELECT queue_id, expires_at, min(id) AS lo, count(*) AS n FROM o GROUP BY queue_id, "
    "expires_at,"
    " id - place, CASE WHEN expires_at IS NULL THEN (place - 1) / 50 ELSE place END),"
    " r AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n, expires_at)"
    " SELECT g.queue_id, -$4::int, g.lo, g.n, g.expires_at FROM g, q WHERE q.due <= q.now ORDER BY g.lo),"
    " d AS (INSERT INTO @.pgqrs_delayed(due_at, queue_id, prio, lo, n, expires_at)"
    " SELECT q.due, g.queue_id, -$4::int, g.lo, g.n, g.expires_at FROM g, q WHERE q.due > q.now ORDER BY g.lo)"
    " SELECT id, " PGQRSI_PG_NOTIFY("q") "::text FROM m";

/* 1 queue, 2 now, 3 payloads, 4 priorities, 5 producers, 6 due, 7 delay_us, 8 expires, 9 expire_us, 10 keys: everything. Keys
 * are taken in their order, so that two such statements cannot wait for each other. A message that expired and that nobody has
 * taken off yet does not hold its key: it is archived here (xr, xd, xa). */
static const char pgqrsi_pg_enqueue_any[] =
    "WITH q AS MATERIALIZED (SELECT id, " PGQRSI_PG_NOW " AS now FROM @.pgqrs_queues WHERE name = $1),"
    " i AS MATERIALIZED (SELECT q.id AS queue_id, q.now, nextval('@.pgqrs_message_id') AS id, u.payload, u.priority, "
    "u.producer,"
    " coalesce(u.due, q.now + u.delay_us * interval '1 microsecond') AS due,"
    " coalesce(u.expires, q.now + nullif(u.expire_us, 0) * interval '1 microsecond') AS expires, u.key, u.place"
    " FROM q, unnest($3::text[], $4::int[], $5::text[], $6::timestamptz[], $7::bigint[], $8::timestamptz[], "
    "$9::bigint[],"
    " $10::text[]) WITH ORDINALITY AS u(payload, priority, producer, due, delay_us, expires, expire_us, key, place)),"
    " y AS MATERIALIZED (SELECT e.queue_id, e.message_id FROM i JOIN @.pgqrs_dedup e ON e.queue_id = i.queue_id AND "
    "e.key = i.key"
    " ORDER BY e.message_id),"
    " xr AS (DELETE FROM @.pgqrs_ready t USING y WHERE t.queue_id = y.queue_id AND t.lo = y.message_id AND t.attempt = "
    "0"
    " AND t.expires_at <= (SELECT now FROM q) RETURNING t.queue_id, t.lo),"
    " xd AS (DELETE FROM @.pgqrs_delayed t USING y WHERE t.queue_id = y.queue_id AND t.lo = y.message_id AND t.attempt "
    "= 0"
    " AND t.expires_at <= (SELECT now FROM q) RETURNING t.queue_id, t.lo),"
    " x AS MATERIALIZED (SELECT * FROM xr UNION ALL SELECT * FROM xd),"
    " xa AS (INSERT INTO @.pgqrs_done(queue_id, lease, at, outcome, total, lo_min, hi_max, lo, n, attempt)"
    " SELECT queue_id, 0, (SELECT now FROM q), 1, 1, lo, lo, ARRAY[lo], ARRAY[1::smallint], ARRAY[0::smallint] FROM x),"
    " k AS (INSERT INTO @.pgqrs_dedup AS d (queue_id, key, message_id) SELECT queue_id, key, id FROM i WHERE key IS "
    "NOT NULL"
    " ORDER BY key COLLATE \"C\" ON CONFLICT (queue_id, key) DO UPDATE SET message_id ="
    " CASE WHEN d.message_id = ANY(ARRAY(SELECT lo FROM x)) THEN excluded.message_id ELSE d.message_id END"
    " RETURNING key, message_id),"
    " w AS MATERIALIZED (SELECT i.*, coalesce(k.message_id, i.id) AS winner FROM i LEFT JOIN k ON k.key = i.key),"
    " m AS (INSERT INTO @.pgqrs_messages(queue_id, id, priority, enqueued_at, expires_at, dedup_key, producer, payload)"
    " SELECT queue_id, id, priority, now, expires, key, producer, payload FROM w WHERE winner = id ORDER BY place"
    " RETURNING queue_id, id, priority, expires_at, dedup_key),"
    " o AS (SELECT m.queue_id, m.id, -m.priority AS prio, m.expires_at, m.dedup_key IS NOT NULL AS keyed, w.due, w.now,"
    " m.dedup_key IS NOT NULL OR m.expires_at IS NOT NULL AS single,"
    " row_number() OVER (PARTITION BY m.priority, w.due, m.dedup_key IS NOT NULL OR m.expires_at IS NOT NULL ORDER BY "
    "m.id)"
    " AS place FROM m JOIN w ON w.id = m.id),"
    " g AS MATERIALIZED (SELECT queue_id, prio, due, now, expires_at, keyed, min(id) AS lo, count(*) AS n FROM o"
    " GROUP BY queue_id, prio, due, now, expires_at, keyed, id - place, CASE WHEN single THEN id ELSE (place - 1) / 50 "
    "END),"
    " r AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n, expires_at, keyed)"
    " SELECT queue_id, prio, lo, n, expires_at, keyed FROM g WHERE due <= now ORDER BY lo),"
    " d AS (INSERT INTO @.pgqrs_delayed(due_at, queue_id, prio, lo, n, expires_at, keyed)"
    " SELECT due, queue_id, prio, lo, n, expires_at, keyed FROM g WHERE due > now ORDER BY lo)"
    " SELECT place, winner, winner <> id, " PGQRSI_PG_NOTIFY("q") "::text FROM w ORDER BY place";

/* 1 leases, 2 now, 3 counts, 4 smallest ids, 5 greatest ids, 6 sums of ids: archives leases of which every message is settled
 * now. That the ids given are all of the lease's is checked by their number, ends and sum (they differ from each other).
 * A lease that is alive and still does not match fails the statement, by a division by zero, and with it the transaction: the
 * caller then takes the other statement. It takes somebody who removed a message from under its holder. */
static const char pgqrsi_pg_settle_whole[] =
    "WITH i AS MATERIALIZED (SELECT * FROM unnest($1::bigint[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[])"
    " AS u(lease, total, lo, hi, sum)),"
    " x AS (DELETE FROM @.pgqrs_leases l USING i WHERE l.lease = i.lease AND l.until > " PGQRSI_PG_NOW
    " AND l.total = i.total AND l.lo_min = i.lo AND l.hi_max = i.hi AND (l.hi_max - l.lo_min = l.total - 1 OR"
    " (SELECT sum(u.lo * u.n + u.n * (u.n - 1) / 2) FROM unnest(l.lo, l.n) AS u(lo, n)) = i.sum) RETURNING l.*),"
    " a AS (INSERT INTO @.pgqrs_done(queue_id, lease, worker_id, at, claimed_at, outcome, total, lo_min, hi_max, lo, "
    "n, attempt)"
    " SELECT queue_id, lease, worker_id, " PGQRSI_PG_NOW ", claimed_at, 0, total, lo_min, hi_max, lo, n, attempt FROM x"
    " WHERE hi_max - lo_min < 1024"
    " UNION ALL SELECT x.queue_id, x.lease, x.worker_id, " PGQRSI_PG_NOW ", x.claimed_at, 0, u.n, u.lo, u.lo + u.n - 1,"
    " ARRAY[u.lo], ARRAY[u.n], ARRAY[u.attempt] FROM x, unnest(x.lo, x.n, x.attempt) AS u(lo, n, attempt)"
    " WHERE x.hi_max - x.lo_min >= 1024),"
    " k AS (DELETE FROM @.pgqrs_dedup e USING x, unnest(x.lo, x.n) AS u(lo, n)"
    " WHERE x.keyed AND e.queue_id = x.queue_id AND e.message_id >= u.lo AND e.message_id < u.lo + u.n)"
    " SELECT i.lease, CASE WHEN x.lease IS NOT NULL THEN 1 ELSE 0 / (SELECT count(*) - 1 FROM @.pgqrs_leases l"
    " WHERE l.lease = i.lease AND l.until > " PGQRSI_PG_NOW ") END FROM i LEFT JOIN x ON x.lease = i.lease";

/* 1 leases, 2 now, 3 ids, 4 verdicts (see pgqrsi_pg_verdict_code), 5 due, 6 delay_us, 7 reasons: any mix. A lease of which something remains keeps its row
 * (an UPDATE, not a new row), so that an extend that waits for the row finds it again. Everything that follows derives from
 * the rows that DELETE and UPDATE returned. Returns the places of the verdicts that were valid. */
static const char pgqrsi_pg_settle_any[] =
    "WITH v AS MATERIALIZED (SELECT DISTINCT ON (lease, id) * FROM unnest($1::bigint[], $3::bigint[], $4::int[],"
    " $5::timestamptz[], $6::bigint[], $7::text[]) WITH ORDINALITY AS u(lease, id, verdict, due, delay_us, reason, "
    "place)"
    " ORDER BY lease, id, place),"
    " l AS MATERIALIZED (SELECT * FROM @.pgqrs_leases WHERE lease = ANY($1) AND until > " PGQRSI_PG_NOW
    " ORDER BY lease FOR UPDATE),"
    " e AS MATERIALIZED (SELECT l.lease, u.lo + s.k AS id, u.attempt, u.prio FROM l,"
    " unnest(l.lo, l.n, l.attempt, l.prio) AS u(lo, n, attempt, prio), generate_series(0, u.n - 1) AS s(k)),"
    " h AS MATERIALIZED (SELECT e.*, v.verdict, v.due, v.delay_us, v.reason, v.place FROM e"
    " LEFT JOIN v ON v.lease = e.lease AND v.id = e.id),"
    " o AS (SELECT *, id - row_number() OVER (PARTITION BY lease, attempt, prio ORDER BY id) AS island FROM h"
    " WHERE verdict IS NULL),"
    " c AS (SELECT lease, attempt, prio, min(id) AS lo, count(*)::smallint AS n FROM o"
    " GROUP BY lease, attempt, prio, island, id / 50),"
    " left_over AS MATERIALIZED (SELECT lease, sum(n)::int AS total, min(lo) AS lo_min, max(lo + n - 1) AS hi_max,"
    " array_agg(lo ORDER BY prio, lo) AS lo, array_agg(n ORDER BY prio, lo) AS n,"
    " array_agg(attempt ORDER BY prio, lo) AS attempt, array_agg(prio ORDER BY prio, lo) AS prio FROM c GROUP BY "
    "lease),"
    " x AS (DELETE FROM @.pgqrs_leases t USING l WHERE t.lease = l.lease"
    " AND NOT EXISTS (SELECT 1 FROM left_over WHERE left_over.lease = l.lease)"
    " RETURNING t.lease, t.queue_id, t.worker_id, t.claimed_at, t.keyed),"
    " y AS (UPDATE @.pgqrs_leases t SET total = f.total, lo_min = f.lo_min, hi_max = f.hi_max, lo = f.lo, n = f.n,"
    " attempt = f.attempt, prio = f.prio FROM left_over f WHERE t.lease = f.lease"
    " AND EXISTS (SELECT 1 FROM h WHERE h.lease = f.lease AND h.verdict IS NOT NULL)"
    " RETURNING t.lease, t.queue_id, t.worker_id, t.claimed_at, t.keyed),"
    " b AS (SELECT * FROM x UNION ALL SELECT * FROM y),"
    " z AS MATERIALIZED (SELECT b.*, h.id, h.prio, h.reason, h.place, " PGQRSI_PG_NOW " AS now,"
    " CASE WHEN h.verdict = 4 AND h.attempt >= q.max_attempts THEN 6 WHEN h.verdict > 6 THEN 5 ELSE h.verdict END AS "
    "verdict,"
    " (CASE h.verdict WHEN 5 THEN h.attempt - 1 WHEN 8 THEN h.attempt - 1 WHEN 7 THEN 0 WHEN 9 THEN 0 ELSE h.attempt "
    "END)"
    "::smallint AS attempt,"
    " CASE WHEN h.verdict > 7 AND EXISTS (SELECT 1 FROM @.pgqrs_runs r WHERE r.id = h.id AND " PGQRSI_PG_RUN_DUE
    ") THEN"
    " " PGQRSI_PG_NOW " ELSE coalesce(h.due, " PGQRSI_PG_NOW " + h.delay_us * interval '1 microsecond') END AS due,"
    " coalesce(h.reason, CASE h.verdict WHEN 4 THEN 'attempts used up' ELSE 'rejected' END) AS dead_reason"
    " FROM h JOIN b ON b.lease = h.lease JOIN @.pgqrs_queues q ON q.id = b.queue_id WHERE h.verdict IS NOT NULL),"
    "@+";
static const char pgqrsi_pg_settle_any_more[] =
    " a AS (INSERT INTO @.pgqrs_done(queue_id, lease, worker_id, at, claimed_at, outcome, total, lo_min, hi_max, lo, "
    "n, attempt)"
    " SELECT queue_id, lease, worker_id, now, claimed_at, 0, count(*), min(id), max(id), array_agg(id), "
    "array_agg(1::smallint),"
    " array_agg(attempt) FROM z WHERE verdict = 1 GROUP BY queue_id, lease, worker_id, now, claimed_at, id / 512),"
    " m AS (DELETE FROM @.pgqrs_messages t USING z WHERE z.verdict = 2 AND t.queue_id = z.queue_id AND t.id = z.id),"
    " mf AS (DELETE FROM @.pgqrs_failures t USING z WHERE (z.verdict = 2 OR z.verdict = 4 AND z.reason IS NULL)"
    " AND t.message_id = z.id),"
    " dd AS (INSERT INTO @.pgqrs_dead(queue_id, id, attempt, at, reason, worker_id)"
    " SELECT queue_id, id, attempt, now, dead_reason, worker_id FROM z WHERE verdict = 6),"
    " f AS (INSERT INTO @.pgqrs_failures(message_id, queue_id, attempt, at, reason)"
    " SELECT id, queue_id, attempt, now, reason FROM z WHERE verdict = 4 AND reason IS NOT NULL ON CONFLICT "
    "(message_id)"
    " DO UPDATE SET attempt = excluded.attempt, at = excluded.at, reason = excluded.reason),"
    " g AS MATERIALIZED (SELECT z.*, CASE WHEN z.attempt = 0 THEN (SELECT t.expires_at FROM @.pgqrs_messages t"
    " WHERE t.queue_id = z.queue_id AND t.id = z.id) END AS expires FROM z WHERE verdict IN (4, 5)),"
    " r AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n, attempt, expires_at, keyed)"
    " SELECT queue_id, prio, id, 1, attempt, expires, keyed FROM g WHERE due <= now ORDER BY place),"
    " w AS (INSERT INTO @.pgqrs_delayed(due_at, queue_id, prio, lo, n, attempt, expires_at, keyed)"
    " SELECT due, queue_id, prio, id, 1, attempt, expires, keyed FROM g WHERE due > now ORDER BY place),"
    " k AS (DELETE FROM @.pgqrs_dedup t USING z WHERE z.keyed AND z.verdict IN (1, 2, 6) AND t.queue_id = z.queue_id"
    " AND t.message_id = z.id),"
    " n AS (SELECT count(pg_notify('@!', s.queue_id::text)::text) FROM (SELECT DISTINCT queue_id FROM g WHERE due <= "
    "now) s"
    " WHERE EXISTS (SELECT 1 FROM @.pgqrs_sleepers p WHERE p.queue_id = s.queue_id AND p.until > "
    "statement_timestamp()))"
    " SELECT place, (SELECT count FROM n) FROM z";

/* A claim. 1 queue, 2 now, 3 limit, 4 lease_us (0: the queue's), 5 worker id (0: nobody), 6 its epoch, 7 fail when the queue is
 * missing (by a division by zero, so that what was settled before in the same transaction is undone), 8 to 10: the ranges of
 * (prio, ord) to look through, in order: from (8, 9), inclusive, to the priority 10, exclusive. The end is not a row comparison,
 * because there the index would not stop before the end of the queue.
 *
 * f: the first row, for its ord (see "the mark") and to guess how many rows make up the limit. c: so many rows, locked. k: how
 * much of each to take. d, u: rows taken whole, and the one that is split. What d and u returned is the claim: c may have locked
 * a newer version of a row than the snapshot shows, which d and u then pass over. Messages that expired before anyone started
 * them are passed over; pgqrsi_pg_tend_sql archives them. The worker's row is read without a lock: a claim that runs beside the
 * reclaim of its worker counts as the earlier of the two, and its lease ends by itself. The first row returned is about the claim,
 * the others are its messages. */
#define PGQRSI_PG_RANGES "unnest($8::int[], $9::bigint[], $10::int[]) AS r(p0, o0, p1)"
#define PGQRSI_PG_IN_RANGE                                                                                             \
    "t.queue_id = g.id AND (t.prio, t.ord) >= (r.p0, r.o0) AND t.prio < r.p1"                                          \
    " AND (t.expires_at IS NULL OR t.expires_at > g.now OR t.attempt > 0) ORDER BY t.prio, t.ord, t.lo"
static const char pgqrsi_pg_claim_sql[] =
    "WITH q AS MATERIALIZED (SELECT id, paused, lease_ms FROM @.pgqrs_queues WHERE name = $1),"
    " w AS MATERIALIZED (SELECT state FROM @.pgqrs_workers WHERE id = $5::bigint AND epoch = $6::bigint),"
    " g AS MATERIALIZED (SELECT id, " PGQRSI_PG_NOW
    " AS now, coalesce(nullif($4::bigint, 0), lease_ms * 1000) AS lease_us"
    " FROM q WHERE NOT paused AND ($5 = 0 OR (SELECT state IN (1, 2) FROM w))),"
    " f AS MATERIALIZED (SELECT s.* FROM g, " PGQRSI_PG_RANGES
    ", LATERAL (SELECT t.prio, t.ord, ($3::int + t.n - 1) / t.n AS guess FROM @.pgqrs_ready t WHERE " PGQRSI_PG_IN_RANGE
    " LIMIT 1) s LIMIT 1),"
    " c AS MATERIALIZED (SELECT s.* FROM g, " PGQRSI_PG_RANGES
    ", LATERAL (SELECT t.ctid AS tid, t.n FROM @.pgqrs_ready t WHERE " PGQRSI_PG_IN_RANGE
    " FOR UPDATE SKIP LOCKED) s LIMIT coalesce((SELECT guess FROM f), 0)),"
    " k AS MATERIALIZED (SELECT tid, n, least(n, $3 - before)::smallint AS take FROM"
    " (SELECT tid, n, sum(n) OVER (ROWS UNBOUNDED PRECEDING) - n AS before FROM c) b WHERE before < $3),"
    " z AS MATERIALIZED (SELECT tid, take FROM k WHERE take < n),"
    " d AS (DELETE FROM @.pgqrs_ready WHERE ctid = ANY(ARRAY(SELECT tid FROM k WHERE take = n))"
    " RETURNING queue_id, prio, ord, lo, n, attempt, keyed),"
    " u AS (UPDATE @.pgqrs_ready t SET lo = t.lo + (SELECT take FROM z), n = t.n - (SELECT take FROM z)"
    " WHERE t.ctid = ANY(ARRAY(SELECT tid FROM z))"
    " RETURNING t.queue_id, t.prio, t.ord, t.lo - (SELECT take FROM z) AS lo, (SELECT take FROM z) AS n, t.attempt, "
    "t.keyed),"
    " y AS MATERIALIZED (SELECT * FROM d UNION ALL SELECT * FROM u),"
    " l AS (INSERT INTO @.pgqrs_leases(lease, queue_id, until, claimed_at, worker_id, total, lo_min, hi_max, keyed, "
    "lo, n, attempt,"
    " prio) SELECT nextval('@.pgqrs_lease_id'), (SELECT id FROM g), (SELECT now + lease_us * interval '1 microsecond' "
    "FROM g),"
    " (SELECT now FROM g), nullif($5, 0), sum(n), min(lo), max(lo + n - 1), bool_or(keyed), array_agg(lo), "
    "array_agg(n),"
    " array_agg((attempt + 1)::smallint), array_agg(prio) FROM y HAVING count(*) > 0 RETURNING lease, until, total)"
    " SELECT NULL::bigint, NULL::bigint, NULL::int, NULL::smallint, (SELECT until FROM l), NULL::text,"
    " ARRAY[(SELECT id FROM q), (SELECT paused::int FROM q), (SELECT state FROM w), (SELECT lease FROM l), (SELECT "
    "total FROM l),"
    " (SELECT count(*) FROM c), (SELECT guess FROM f), (SELECT prio FROM f), (SELECT ord FROM f),"
    " txid_snapshot_xmin(txid_current_snapshot()), txid_snapshot_xmax(txid_current_snapshot()),"
    " CASE WHEN $7::boolean THEN 1 / (SELECT count(*)::int FROM q) END]::bigint[]"
    " UNION ALL SELECT m.id, y.ord, y.prio, (y.attempt + 1)::smallint, m.enqueued_at, m.payload, NULL FROM y, LATERAL"
    " (SELECT t.id, t.enqueued_at, t.payload FROM @.pgqrs_messages t WHERE t.queue_id = y.queue_id AND t.id >= y.lo"
    " AND t.id < y.lo + y.n OFFSET 0) m";

/* 1 worker, 2 now, 3 epoch. */
static const char pgqrsi_pg_beat_sql[] = "UPDATE @.pgqrs_workers SET heartbeat_at = " PGQRSI_PG_NOW
                                         " WHERE id = $1::bigint AND epoch = $3::bigint AND state <> 5";

/* 1 queue, 2 now: a bounded step of what happens by itself. Delayed messages that are due become ready (or expire), leases that
 * ran out give their messages back or to the dead letters, ready ones that expired are archived. Returns the queue's id, now, when
 * the next of these falls due (NULL: never), and how many messages moved. */
static const char pgqrsi_pg_tend_sql[] =
    "WITH q AS MATERIALIZED (SELECT id, max_attempts, " PGQRSI_PG_NOW " AS now FROM @.pgqrs_queues WHERE name = $1),"
    " p AS (DELETE FROM @.pgqrs_delayed WHERE ctid = ANY(ARRAY(SELECT t.ctid FROM @.pgqrs_delayed t"
    " WHERE t.queue_id = (SELECT id FROM q) AND t.due_at <= (SELECT now FROM q) ORDER BY t.due_at, t.lo LIMIT 1000"
    " FOR UPDATE SKIP LOCKED)) RETURNING *),"
    " pr AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n, attempt, expires_at, keyed)"
    " SELECT p.queue_id, p.prio, p.lo, p.n, p.attempt, p.expires_at, p.keyed FROM p, q"
    " WHERE p.attempt > 0 OR p.expires_at > q.now IS NOT FALSE ORDER BY p.due_at, p.lo),"
    " x AS (DELETE FROM @.pgqrs_leases WHERE lease = ANY(ARRAY(SELECT t.lease FROM @.pgqrs_leases t"
    " WHERE t.queue_id = (SELECT id FROM q) AND t.until <= (SELECT now FROM q) ORDER BY t.until LIMIT 100"
    " FOR UPDATE SKIP LOCKED)) AND until <= (SELECT now FROM q) RETURNING *),"
    " b AS MATERIALIZED (SELECT x.queue_id, x.until, x.worker_id, x.keyed, u.*, u.attempt >= q.max_attempts AS dies, "
    "q.now,"
    " q.max_attempts FROM x, q, unnest(x.lo, x.n, x.attempt, x.prio) AS u(lo, n, attempt, prio)),"
    " br AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n, attempt, keyed)"
    " SELECT queue_id, prio, lo, n, attempt, keyed FROM b WHERE NOT dies ORDER BY until, lo),"
    " bf AS (INSERT INTO @.pgqrs_failures(message_id, queue_id, attempt, at, reason)"
    " SELECT b.lo + s.k, b.queue_id, b.attempt, b.now, 'lease expired' FROM b, generate_series(0, b.n - 1) AS s(k)"
    " WHERE NOT b.dies ON CONFLICT (message_id)"
    " DO UPDATE SET attempt = excluded.attempt, at = excluded.at, reason = excluded.reason),"
    " bd AS (INSERT INTO @.pgqrs_dead(queue_id, id, attempt, at, reason, worker_id)"
    " SELECT b.queue_id, b.lo + s.k, b.attempt, b.now, format('lease expired on attempt %s of %s', b.attempt, "
    "b.max_attempts),"
    " b.worker_id FROM b, generate_series(0, b.n - 1) AS s(k) WHERE b.dies),"
    " bq AS (UPDATE @.pgqrs_queues SET lease_expiries = lease_expiries + (SELECT sum(n) FROM b)"
    " WHERE id = (SELECT queue_id FROM b LIMIT 1)),"
    " r AS (DELETE FROM @.pgqrs_ready WHERE ctid = ANY(ARRAY(SELECT t.ctid FROM @.pgqrs_ready t"
    " WHERE t.queue_id = (SELECT id FROM q) AND t.expires_at <= (SELECT now FROM q) AND t.attempt = 0"
    " ORDER BY t.expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED)) RETURNING queue_id, lo, n, keyed),"
    " e AS MATERIALIZED (SELECT queue_id, lo, n, keyed FROM r UNION ALL SELECT p.queue_id, p.lo, p.n, p.keyed FROM p, q"
    " WHERE p.attempt = 0 AND p.expires_at <= q.now),"
    " ea AS (INSERT INTO @.pgqrs_done(queue_id, lease, at, outcome, total, lo_min, hi_max, lo, n, attempt)"
    " SELECT e.queue_id, 0, q.now, 1, e.n, e.lo, e.lo + e.n - 1, ARRAY[e.lo], ARRAY[e.n], ARRAY[0::smallint] FROM e, "
    "q),"
    " k AS (DELETE FROM @.pgqrs_dedup t USING (SELECT queue_id, lo, n FROM e WHERE keyed"
    " UNION ALL SELECT queue_id, lo, n FROM b WHERE keyed AND dies) o"
    " WHERE t.queue_id = o.queue_id AND t.message_id >= o.lo AND t.message_id < o.lo + o.n),"
    " s AS MATERIALIZED (SELECT (SELECT count(*) FROM p) AS promoted, (SELECT count(*) FROM x) AS ended,"
    " (SELECT count(*) FROM r) AS late)"
    " SELECT q.id, q.now, CASE WHEN s.promoted = 1000 OR s.ended = 100 OR s.late = 1000 THEN q.now ELSE least("
    "(SELECT t.due_at FROM @.pgqrs_delayed t WHERE t.queue_id = q.id AND t.due_at > q.now ORDER BY t.due_at LIMIT 1),"
    " (SELECT t.until FROM @.pgqrs_leases t WHERE t.queue_id = q.id AND t.until > q.now ORDER BY t.until LIMIT 1)) END,"
    " (SELECT coalesce(sum(n), 0)::bigint FROM p) + (SELECT coalesce(sum(n), 0)::bigint FROM b)"
    " + (SELECT count(*) FROM r), s.late = 1000 FROM q, s";

/* 1 queue, 2 now: a bounded step of retention. It looks at the oldest by id, which are the oldest by time as well, nearly. */
static const char pgqrsi_pg_retain_sql[] =
    "WITH q AS MATERIALIZED (SELECT id, retention_ms, dead_retention_ms, " PGQRSI_PG_NOW " AS now FROM @.pgqrs_queues"
    " WHERE name = $1 AND (retention_ms > 0 OR dead_retention_ms > 0)),"
    " a AS (DELETE FROM @.pgqrs_done WHERE ctid = ANY(ARRAY(SELECT o.tid FROM q, LATERAL (SELECT t.ctid AS tid, t.at"
    " FROM @.pgqrs_done t WHERE t.queue_id = q.id ORDER BY t.queue_id, t.lo_min LIMIT 500) o WHERE q.retention_ms > 0"
    " AND o.at < q.now - q.retention_ms * interval '1 millisecond')) RETURNING queue_id, lo, n),"
    " d AS (DELETE FROM @.pgqrs_dead t WHERE t.queue_id = (SELECT id FROM q) AND t.id = ANY(ARRAY(SELECT o.id FROM q, "
    "LATERAL"
    " (SELECT t.id, t.at FROM @.pgqrs_dead t WHERE t.queue_id = q.id ORDER BY t.queue_id, t.id LIMIT 500) o"
    " WHERE q.dead_retention_ms > 0 AND o.at < q.now - q.dead_retention_ms * interval '1 millisecond')) RETURNING "
    "queue_id, id),"
    " g AS MATERIALIZED (SELECT a.queue_id, u.lo, u.n FROM a, unnest(a.lo, a.n) AS u(lo, n) UNION ALL SELECT queue_id, "
    "id, 1 FROM d),"
    " m AS (DELETE FROM @.pgqrs_messages t USING g WHERE t.queue_id = g.queue_id AND t.id >= g.lo AND t.id < g.lo + g.n"
    " RETURNING t.id),"
    " f AS (DELETE FROM @.pgqrs_failures t USING g WHERE t.message_id >= g.lo AND t.message_id < g.lo + g.n),"
    " w AS (SELECT lo, n FROM g WHERE queue_id = ANY(ARRAY(SELECT queue_id FROM @.pgqrs_workflows))),"
    " r AS (DELETE FROM @.pgqrs_runs t USING w WHERE t.id >= w.lo AND t.id < w.lo + w.n RETURNING t.id),"
    " rs AS (DELETE FROM @.pgqrs_steps t USING r WHERE t.run_id = r.id),"
    " re AS (DELETE FROM @.pgqrs_run_events t USING r WHERE t.run_id = r.id),"
    " rv AS (DELETE FROM @.pgqrs_run_values t USING r WHERE t.run_id = r.id)"
    " SELECT (SELECT count(*) FROM m), greatest((SELECT count(*) FROM a), (SELECT count(*) FROM d))";

/* 1 leases, 2 now, 3 ids, 4 lease_us (0: the queue's), 5 worker, 6 epoch. Returns the places whose lease is alive and has them; a
 * lease that has none of the ids given for it stays as it is. What is held and what was asked for meet in an aggregate and not in
 * a join, because a plan made without knowing how many there are would loop over all pairs. */
static const char pgqrsi_pg_extend_sql[] =
    "WITH w AS (UPDATE @.pgqrs_workers SET heartbeat_at = " PGQRSI_PG_NOW
    " WHERE id = $5::bigint AND epoch = $6::bigint AND state <> 5),"
    " l AS MATERIALIZED (SELECT lease, lo, n FROM @.pgqrs_leases WHERE lease = ANY($1::bigint[]) AND until "
    "> " PGQRSI_PG_NOW " ORDER BY lease FOR UPDATE),"
    " h AS MATERIALIZED (SELECT lease, unnest(array_agg(place) FILTER (WHERE place IS NOT NULL)) AS place FROM"
    " (SELECT u.lease, u.id, u.place FROM unnest($1, $3::bigint[]) WITH ORDINALITY AS u(lease, id, place)"
    " UNION ALL SELECT l.lease, u.lo + s.k, NULL FROM l, unnest(l.lo, l.n) AS u(lo, n), generate_series(0, u.n - 1) AS "
    "s(k)) a"
    " GROUP BY lease, id HAVING count(*) > count(place)),"
    " x AS (UPDATE @.pgqrs_leases t SET until = greatest(t.until, " PGQRSI_PG_NOW " + coalesce(nullif($4::bigint, 0),"
    " (SELECT lease_ms * 1000 FROM @.pgqrs_queues q WHERE q.id = t.queue_id)) * interval '1 microsecond')"
    " WHERE t.lease = ANY(ARRAY(SELECT lease FROM h)))"
    " SELECT place FROM h";

/* 1 queue, 2 for_us, 3 token. */
static const char pgqrsi_pg_sleep_sql[] = "INSERT INTO @.pgqrs_sleepers AS s (queue_id, token, until)"
                                          " SELECT id, $3::bigint, statement_timestamp() + $2::bigint * interval '1 "
                                          "microsecond' FROM @.pgqrs_queues WHERE name = $1"
                                          " ON CONFLICT (queue_id, token) DO UPDATE SET until = excluded.until";

/* 1 token. Others' rows that are long over (their processes died) go as well. */
static const char pgqrsi_pg_wake_sql[] =
    "DELETE FROM @.pgqrs_sleepers WHERE token = $1::bigint OR until < statement_timestamp() - interval '1 hour'";

/* 1 leases, 2 ids, 3 verdicts: the places of those that look carried out already. For when a reply was lost and the repetition
 * found the lease gone. An archived message is known by the lease in its record, a deleted one by its absence, a rejected one by
 * its dead letter. A released message is free again whether our release did it or the end of the lease. */
static const char pgqrsi_pg_settled_sql[] =
    "SELECT u.place FROM unnest($1::bigint[], $2::bigint[], $3::int[]) WITH ORDINALITY AS u(lease, id, verdict, place)"
    " WHERE CASE u.verdict WHEN 1 THEN EXISTS (SELECT 1 FROM @.pgqrs_done d, unnest(d.lo, d.n) AS r(lo, n)"
    " WHERE d.queue_id = ANY(ARRAY(SELECT id FROM @.pgqrs_queues)) AND d.lo_min <= u.id AND d.lo_min > u.id - 1024"
    " AND d.lease = u.lease AND u.id >= r.lo AND u.id < r.lo + r.n)"
    " WHEN 2 THEN NOT EXISTS (SELECT 1 FROM @.pgqrs_messages m"
    " WHERE m.queue_id = ANY(ARRAY(SELECT id FROM @.pgqrs_queues)) AND m.id = u.id)"
    " WHEN 6 THEN EXISTS (SELECT 1 FROM @.pgqrs_dead d"
    " WHERE d.queue_id = ANY(ARRAY(SELECT id FROM @.pgqrs_queues)) AND d.id = u.id)"
    " ELSE NOT EXISTS (SELECT 1 FROM @.pgqrs_leases l WHERE l.lease = u.lease AND l.lo_min <= u.id AND l.hi_max >= "
    "u.id) END";

/* 1 lease: as if it had never been claimed. For when there is no memory to hand its messages out. */
static const char pgqrsi_pg_unclaim_sql[] =
    "WITH x AS (DELETE FROM @.pgqrs_leases WHERE lease = $1::bigint RETURNING *)"
    " INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n, attempt, expires_at, keyed)"
    " SELECT x.queue_id, u.prio, u.lo, u.n, u.attempt - 1, CASE WHEN u.attempt = 1 THEN (SELECT m.expires_at"
    " FROM @.pgqrs_messages m WHERE m.queue_id = x.queue_id AND m.id = u.lo) END, x.keyed"
    " FROM x, unnest(x.lo, x.n, x.attempt, x.prio) AS u(lo, n, attempt, prio)";

/* 1 horizon: whether no transaction below it that still runs has written to `ready` (it would hold the lock of a writer). The
 * locks are read once, so that a holder and its number are seen together; a prepared transaction has no process. */
static const char pgqrsi_pg_doubt_sql[] =
    "WITH k AS MATERIALIZED (SELECT * FROM pg_locks) SELECT NOT EXISTS (SELECT 1 FROM k l LEFT JOIN k x ON x.pid = "
    "l.pid"
    " AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock' WHERE l.locktype = 'relation'"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND l.relation = '@.pgqrs_ready'::regclass AND l.mode = 'RowExclusiveLock' AND (l.pid IS NULL"
    " OR l.pid <> pg_backend_pid() AND x.transactionid::text::bigint = ANY(ARRAY(SELECT p % 4294967296"
    " FROM txid_snapshot_xip(txid_current_snapshot()) AS p WHERE p < $1::bigint))))";

/* 1 workflow, 2 now, 3 input, 4 priority, 5 due, 6 delay_us: one run without a key. */
static const char pgqrsi_pg_trigger_one[] =
    "WITH w AS MATERIALIZED (SELECT id, queue_id, " PGQRSI_PG_NOW " AS now,"
    " coalesce($5::timestamptz, " PGQRSI_PG_NOW " + $6::bigint * interval '1 microsecond') AS due,"
    " " PGQRSI_PG_NOW " + nullif(timeout_ms, 0) * interval '1 millisecond' AS deadline"
    " FROM @.pgqrs_workflows WHERE name = $1),"
    " m AS (INSERT INTO @.pgqrs_messages(queue_id, id, priority, enqueued_at, payload)"
    " SELECT queue_id, nextval('@.pgqrs_message_id'), $4::int, now, $3::text FROM w RETURNING queue_id, id),"
    " n AS (INSERT INTO @.pgqrs_runs(id, workflow_id, queue_id, triggered_at, deadline_at)"
    " SELECT m.id, w.id, m.queue_id, w.now, w.deadline FROM m, w),"
    " r AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n) SELECT m.queue_id, -$4::int, m.id, 1 FROM m, w"
    " WHERE w.due <= w.now),"
    " d AS (INSERT INTO @.pgqrs_delayed(due_at, queue_id, prio, lo, n) SELECT w.due, m.queue_id, -$4::int, m.id, 1"
    " FROM m, w WHERE w.due > w.now)"
    " SELECT id, " PGQRSI_PG_NOTIFY("(SELECT queue_id AS id FROM w)") "::text FROM m";

/* 1 workflow, 2 now, 3 inputs, 4 priorities, 5 due, 6 delay_us, 7 keys: everything. A key whose run can be seen writes nothing.
 * One that another session is just taking is waited for, and its run returned: that is what the update is for, which
 * changes nothing. Keys are taken in their order, so that two such statements cannot wait for each other. */
static const char pgqrsi_pg_trigger_any[] =
    "WITH w AS MATERIALIZED (SELECT id, queue_id, " PGQRSI_PG_NOW " AS now,"
    " " PGQRSI_PG_NOW " + nullif(timeout_ms, 0) * interval '1 millisecond' AS deadline"
    " FROM @.pgqrs_workflows WHERE name = $1),"
    " u AS MATERIALIZED (SELECT u.*, (SELECT r.id FROM @.pgqrs_runs r WHERE r.workflow_id = w.id"
    " AND r.idempotency_key = u.key) AS old FROM w, unnest($3::text[], $4::int[], $5::timestamptz[], $6::bigint[],"
    " $7::text[]) WITH ORDINALITY AS u(input, priority, due, delay_us, key, place)),"
    " i AS MATERIALIZED (SELECT nextval('@.pgqrs_message_id') AS id, p.* FROM (SELECT u.input, u.priority,"
    " coalesce(u.due, w.now + u.delay_us * interval '1 microsecond') AS due, u.key, u.place FROM w, u"
    " WHERE u.old IS NULL ORDER BY u.place) p),"
    " k AS (INSERT INTO @.pgqrs_runs AS r (id, workflow_id, queue_id, triggered_at, deadline_at, idempotency_key)"
    " SELECT i.id, w.id, w.queue_id, w.now, w.deadline, i.key FROM i, w ORDER BY i.key COLLATE \"C\", i.place"
    " ON CONFLICT (workflow_id, idempotency_key) WHERE idempotency_key IS NOT NULL"
    " DO UPDATE SET idempotency_key = r.idempotency_key RETURNING r.id, r.idempotency_key),"
    " a AS MATERIALIZED (SELECT u.place, coalesce(u.old, k.id, o.id) AS run_id, k.id IS NOT NULL AS fresh, i.due,"
    " i.priority, i.input FROM u LEFT JOIN i ON i.place = u.place LEFT JOIN k ON k.id = i.id"
    " LEFT JOIN k o ON o.idempotency_key = i.key),"
    " m AS (INSERT INTO @.pgqrs_messages(queue_id, id, priority, enqueued_at, payload)"
    " SELECT w.queue_id, a.run_id, a.priority, w.now, a.input FROM a, w WHERE a.fresh ORDER BY a.place"
    " RETURNING queue_id, id, priority),"
    " o AS (SELECT m.queue_id, m.id, -m.priority AS prio, a.due,"
    " row_number() OVER (PARTITION BY m.priority, a.due ORDER BY m.id) AS place FROM m JOIN a ON a.run_id = m.id),"
    " g AS MATERIALIZED (SELECT queue_id, prio, due, min(id) AS lo, count(*) AS n FROM o"
    " GROUP BY queue_id, prio, due, id - place, (place - 1) / 50),"
    " r AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n) SELECT g.queue_id, g.prio, g.lo, g.n FROM g, w"
    " WHERE g.due <= w.now ORDER BY g.lo),"
    " d AS (INSERT INTO @.pgqrs_delayed(due_at, queue_id, prio, lo, n) SELECT g.due, g.queue_id, g.prio, g.lo, g.n"
    " FROM g, w WHERE g.due > w.now ORDER BY g.lo)"
    " SELECT place, run_id, NOT fresh, " PGQRSI_PG_NOTIFY(
        "(SELECT queue_id AS id FROM w)") "::text FROM a ORDER BY place";

/* What a delivery stores of its run. 1 lease, 2 now, 3 run, 4 lease_us (0: as it is), 5 state (0: stays, 1: goes on later), 6
 * retries, 7 started, 8 wait, 9 its name, 10 its end, 11 output, 12 to 14 error code, message and step; of the steps 15 numbers, 16
 * kinds, 17 states, 18 retries, 19 started, 20 finished, 21 due, 22 names, 23 keys, 24 inputs, 25 outputs, 26 error codes, 27
 * error messages; 28 names and 29 values. No row: the lease is lost, or the run has ended.
 *
 * The lease is locked first, then the run, and that only when it is written: who sends an event or cancels locks the run and
 * waits for no lease. `short` is looked up before the lease is locked, so that either the lock or the longer lease is
 * chosen whatever happens meanwhile. */
static const char pgqrsi_pg_run_write_sql[] =
    "WITH b AS MATERIALIZED (SELECT " PGQRSI_PG_NOW " AS now, " PGQRSI_PG_NOW
    " + $4::bigint * interval '1 microsecond' AS needed),"
    " d AS MATERIALIZED (SELECT $4 > 0 AND t.until < b.needed AS short FROM @.pgqrs_leases t, b"
    " WHERE t.lease = $1::bigint),"
    " l AS MATERIALIZED (SELECT t.lease FROM @.pgqrs_leases t WHERE t.lease = $1 AND NOT (SELECT short FROM d)"
    " AND t.until > (SELECT now FROM b) AND t.lo_min <= $3::bigint AND t.hi_max >= $3"
    " AND EXISTS (SELECT 1 FROM unnest(t.lo, t.n) AS u(lo, n) WHERE $3 >= u.lo AND $3 < u.lo + u.n) FOR UPDATE),"
    " x AS (UPDATE @.pgqrs_leases t SET until = greatest(t.until, (SELECT needed FROM b)) WHERE t.lease = $1"
    " AND (SELECT short FROM d) AND t.until > (SELECT now FROM b) AND t.lo_min <= $3 AND t.hi_max >= $3"
    " AND EXISTS (SELECT 1 FROM unnest(t.lo, t.n) AS u(lo, n) WHERE $3 >= u.lo AND $3 < u.lo + u.n)"
    " RETURNING t.lease),"
    " h AS MATERIALIZED (SELECT lease FROM l UNION ALL SELECT lease FROM x),"
    " r AS MATERIALIZED (SELECT state, cancel_requested_at IS NOT NULL AS cancel,"
    " $5::int <> 0 OR $7::timestamptz IS NOT NULL AND started_at IS NULL AS change"
    " FROM @.pgqrs_runs WHERE id = $3),"
    " u AS (UPDATE @.pgqrs_runs t SET started_at = coalesce(t.started_at, $7),"
    " state = CASE WHEN $5 < 5 THEN 0 WHEN $5 = 6 AND t.cancel_requested_at IS NOT NULL THEN 5 ELSE $5 END,"
    " finished_at = CASE WHEN $5 >= 5 THEN (SELECT now FROM b) END,"
    " retries = CASE WHEN $5 = 1 THEN $6::int ELSE t.retries END,"
    " wait = CASE $5 WHEN 0 THEN t.wait WHEN 1 THEN $8::int ELSE 0 END,"
    " wait_name = CASE $5 WHEN 0 THEN t.wait_name WHEN 1 THEN $9::text END,"
    " wait_until = CASE $5 WHEN 0 THEN t.wait_until WHEN 1 THEN $10::timestamptz END,"
    " output = CASE WHEN $5 = 6 AND t.cancel_requested_at IS NULL THEN $11::text END,"
    " error_code = CASE $5 WHEN 7 THEN $12::text END, error_message = CASE $5 WHEN 7 THEN $13::text END,"
    " error_step = CASE $5 WHEN 7 THEN $14::text END"
    " WHERE t.id = $3 AND t.state = 0 AND (SELECT change FROM r) AND EXISTS (SELECT 1 FROM h)"
    " RETURNING t.cancel_requested_at IS NOT NULL AS cancel),"
    " g AS MATERIALIZED (SELECT cancel FROM u UNION ALL SELECT r.cancel FROM h, r WHERE r.state = 0 AND NOT r.change),"
    "@+";
static const char pgqrsi_pg_run_write_more[] =
    " s AS (INSERT INTO @.pgqrs_steps AS o (run_id, number, kind, state, retries, started_at, finished_at, due_at, "
    "name, key,"
    " input, output, error_code, error_message)"
    " SELECT $3, p.* FROM g, unnest($15::int[], $16::int[], $17::int[], $18::int[], $19::timestamptz[],"
    " $20::timestamptz[], $21::timestamptz[], $22::text[], $23::text[], $24::text[], $25::text[], $26::text[],"
    " $27::text[]) AS p ON CONFLICT (run_id, number) DO UPDATE SET kind = excluded.kind, state = excluded.state,"
    " retries = excluded.retries, started_at = excluded.started_at, finished_at = excluded.finished_at,"
    " due_at = excluded.due_at, name = excluded.name, key = excluded.key, input = excluded.input,"
    " output = excluded.output, error_code = excluded.error_code, error_message = excluded.error_message),"
    " v AS (INSERT INTO @.pgqrs_run_values(run_id, name, set_at, value) SELECT $3, p.name, b.now, p.value"
    " FROM g, b, unnest($28::text[], $29::text[]) AS p(name, value) WHERE p.value IS NOT NULL"
    " ON CONFLICT (run_id, name) DO UPDATE SET set_at = excluded.set_at, value = excluded.value),"
    " c AS (DELETE FROM @.pgqrs_run_values t USING g, unnest($28, $29) AS p(name, value)"
    " WHERE t.run_id = $3 AND t.name = p.name AND p.value IS NULL)"
    " SELECT cancel, (SELECT pg_notify('@!', (-$3)::text) WHERE $5 >= 5 AND EXISTS (SELECT 1 FROM @.pgqrs_sleepers z"
    " WHERE z.queue_id = -$3 AND z.until > statement_timestamp()))::text FROM g";

/* The everyday case of it, one step and nothing else, in a third of the time. 1 lease, 2 now, 3 run, 4 started, 5 number, 6 kind, 7
 * state, 8 retries, 9 started, 10 finished, 11 due, 12 name, 13 key, 14 input, 15 output, 16 error code, 17 error message. */
static const char pgqrsi_pg_run_step_sql[] =
    "WITH l AS MATERIALIZED (SELECT 1 FROM @.pgqrs_leases t WHERE t.lease = $1::bigint AND t.until > " PGQRSI_PG_NOW
    " AND t.lo_min <= $3::bigint AND t.hi_max >= $3"
    " AND EXISTS (SELECT 1 FROM unnest(t.lo, t.n) AS u(lo, n) WHERE $3 >= u.lo AND $3 < u.lo + u.n) FOR UPDATE),"
    " r AS MATERIALIZED (SELECT cancel_requested_at IS NOT NULL AS cancel FROM l, @.pgqrs_runs"
    " WHERE id = $3 AND state = 0),"
    " u AS (UPDATE @.pgqrs_runs t SET started_at = $4::timestamptz FROM r WHERE t.id = $3 AND t.started_at IS NULL"
    " AND $4 IS NOT NULL),"
    " s AS (INSERT INTO @.pgqrs_steps (run_id, number, kind, state, retries, started_at, finished_at, due_at, name, "
    "key,"
    " input, output, error_code, error_message) SELECT $3, $5::int, $6::int, $7::int, $8::int, $9::timestamptz,"
    " $10::timestamptz, $11::timestamptz, $12::text, $13::text, $14::text, $15::text, $16::text, $17::text FROM r"
    " ON CONFLICT (run_id, number) DO UPDATE SET kind = excluded.kind, state = excluded.state,"
    " retries = excluded.retries, started_at = excluded.started_at, finished_at = excluded.finished_at,"
    " due_at = excluded.due_at, name = excluded.name, key = excluded.key, input = excluded.input,"
    " output = excluded.output, error_code = excluded.error_code, error_message = excluded.error_message)"
    " SELECT cancel FROM r";

/* The everyday end: at most one step with it (number 0: none). 1 to 17 as above, 18 state, 19 output, 20 to 22 error code, message and
 * step. */
static const char pgqrsi_pg_run_end_sql[] =
    "WITH l AS MATERIALIZED (SELECT 1 FROM @.pgqrs_leases t WHERE t.lease = $1::bigint AND t.until > " PGQRSI_PG_NOW
    " AND t.lo_min <= $3::bigint AND t.hi_max >= $3"
    " AND EXISTS (SELECT 1 FROM unnest(t.lo, t.n) AS u(lo, n) WHERE $3 >= u.lo AND $3 < u.lo + u.n) FOR UPDATE),"
    " u AS (UPDATE @.pgqrs_runs t SET started_at = coalesce(t.started_at, $4::timestamptz), finished_at "
    "= " PGQRSI_PG_NOW
    ", state = CASE WHEN $18::int = 6 AND t.cancel_requested_at IS NOT NULL THEN 5 ELSE $18 END, wait = 0,"
    " wait_name = NULL, wait_until = NULL,"
    " output = CASE WHEN $18 = 6 AND t.cancel_requested_at IS NULL THEN $19::text END, error_code = $20::text,"
    " error_message = $21::text, error_step = $22::text FROM l WHERE t.id = $3 AND t.state = 0"
    " RETURNING t.cancel_requested_at IS NOT NULL AS cancel),"
    " s AS (INSERT INTO @.pgqrs_steps (run_id, number, kind, state, retries, started_at, finished_at, due_at, name, "
    "key,"
    " input, output, error_code, error_message) SELECT $3, $5::int, $6::int, $7::int, $8::int, $9::timestamptz,"
    " $10::timestamptz, $11::timestamptz, $12::text, $13::text, $14::text, $15::text, $16::text, $17::text FROM u"
    " WHERE $5 > 0 ON CONFLICT (run_id, number) DO UPDATE SET kind = excluded.kind, state = excluded.state,"
    " retries = excluded.retries, started_at = excluded.started_at, finished_at = excluded.finished_at,"
    " due_at = excluded.due_at, name = excluded.name, key = excluded.key, input = excluded.input,"
    " output = excluded.output, error_code = excluded.error_code, error_message = excluded.error_message)"
    " SELECT cancel, (SELECT pg_notify('@!', (-$3)::text) WHERE EXISTS (SELECT 1 FROM @.pgqrs_sleepers z"
    " WHERE z.queue_id = -$3 AND z.until > statement_timestamp()))::text FROM u";

#define PGQRSI_PG_WORKFLOW_COLUMNS                                                                                     \
    "w.name, q.name, w.max_retries, w.backoff, w.base_ms, w.cap_ms, w.jitter_percent, w.timeout_ms,"                   \
    " w.step_timeout_ms, w.retention_ms, w.failed_retention_ms"

/* 1 run, 2 now. */
static const char pgqrsi_pg_run_load_sql[] =
    "SELECT " PGQRSI_PG_WORKFLOW_COLUMNS ", " PGQRSI_PG_NOW
    ", r.state, r.cancel_requested_at IS NOT NULL, r.retries, r.started_at, r.deadline_at,"
    " EXISTS (SELECT 1 FROM @.pgqrs_steps t WHERE t.run_id = r.id)"
    " OR EXISTS (SELECT 1 FROM @.pgqrs_run_events t WHERE t.run_id = r.id)"
    " FROM @.pgqrs_runs r JOIN @.pgqrs_workflows w ON w.id = r.workflow_id JOIN @.pgqrs_queues q ON q.id = r.queue_id"
    " WHERE r.id = $1::bigint";

/* 1 run. */
static const char pgqrsi_pg_run_steps_sql[] =
    "SELECT number, kind, state, retries, started_at, finished_at, due_at, name, key, input, output, error_code,"
    " error_message FROM @.pgqrs_steps WHERE run_id = $1::bigint ORDER BY number";

/* 1 run, 2 now, 3 event, 4 payload. The run is locked (and written, which REPEATABLE READ notices too), so that one that begins to wait for the event is either through with that,
 * and found by the statement that follows, or waits here and then sees the event. */
static const char pgqrsi_pg_run_send_sql[] =
    "WITH r AS (UPDATE @.pgqrs_runs SET state = state WHERE id = $1::bigint RETURNING *),"
    " s AS MATERIALIZED (SELECT r.id, " PGQRSI_PG_RUN_STATE " AS code FROM r LEFT JOIN LATERAL (" PGQRSI_PG_RUN_PLACE(
        PGQRSI_PG_NOW) ") p ON r.state = 0),"
                       " e AS (INSERT INTO @.pgqrs_run_events(run_id, name, sent_at, payload)"
                       " SELECT id, $3::text, " PGQRSI_PG_NOW ", $4::text FROM s WHERE code < 5"
                       " AND NOT EXISTS (SELECT 1 FROM @.pgqrs_steps t WHERE t.run_id = $1 AND t.kind = 3 AND t.state "
                       "= 1"
                       " AND t.name = $3)"
                       " ON CONFLICT (run_id, name) DO NOTHING RETURNING run_id)"
                       " SELECT code, (SELECT count(*) FROM e) FROM s";

/* 1 run. */
static const char pgqrsi_pg_run_wake_sql[] =
    "WITH r AS MATERIALIZED (SELECT r.id, r.queue_id FROM @.pgqrs_runs r WHERE r.id = $1::bigint AND " PGQRSI_PG_RUN_DUE
    "), d AS (DELETE FROM @.pgqrs_delayed t USING r WHERE t.queue_id = r.queue_id AND t.lo = r.id AND t.n = 1"
    " RETURNING t.*),"
    " i AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n, attempt, expires_at, keyed)"
    " SELECT queue_id, prio, lo, n, attempt, expires_at, keyed FROM d RETURNING queue_id)"
    " SELECT " PGQRSI_PG_NOTIFY("(SELECT queue_id AS id FROM i)") "::text";

/* 1 run, 2 for_us, 3 token. */
static const char pgqrsi_pg_run_sleep_sql[] =
    "INSERT INTO @.pgqrs_sleepers AS s (queue_id, token, until)"
    " SELECT -$1::bigint, $3::bigint, statement_timestamp() + $2::bigint * interval '1 microsecond'"
    " ON CONFLICT (queue_id, token) DO UPDATE SET until = excluded.until";

static const char *const pgqrsi_pg_hot[] = {
    pgqrsi_pg_relax_sql,
    pgqrsi_pg_enqueue_one,
    pgqrsi_pg_enqueue_many,
    pgqrsi_pg_enqueue_any,
    pgqrsi_pg_settle_whole,
    pgqrsi_pg_claim_sql,
    pgqrsi_pg_tend_sql,
    pgqrsi_pg_retain_sql,
    pgqrsi_pg_extend_sql,
    pgqrsi_pg_sleep_sql,
    pgqrsi_pg_wake_sql,
    "SELECT id FROM @.pgqrs_queues WHERE name = $1",
    "SELECT id, name FROM @.pgqrs_queues WHERE id > $1::bigint ORDER BY id LIMIT 1",
    pgqrsi_pg_settled_sql,
    pgqrsi_pg_unclaim_sql,
    pgqrsi_pg_settle_any,
    pgqrsi_pg_settle_any_more,
    pgqrsi_pg_doubt_sql,
    pgqrsi_pg_beat_sql,
    pgqrsi_pg_trigger_one,
    pgqrsi_pg_trigger_any,
    pgqrsi_pg_run_write_sql,
    pgqrsi_pg_run_write_more,
    pgqrsi_pg_run_load_sql,
    pgqrsi_pg_run_steps_sql,
    "SELECT name, payload FROM @.pgqrs_run_events WHERE run_id = $1::bigint",
    pgqrsi_pg_run_send_sql,
    pgqrsi_pg_run_wake_sql,
    pgqrsi_pg_run_sleep_sql,
    pgqrsi_pg_run_step_sql,
    pgqrsi_pg_run_end_sql,
};

static const char *pgqrsi_pg_hot_sql(int statement)
{
    return pgqrsi_pg_hot[statement];
}

/* --- enqueue ------------------------------------------------------------------------------------------------------ */

static bool pgqrsi_pg_same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool pgqrsi_pg_same_when(pgqrs_when a, pgqrs_when b)
{
    return a.at_us == b.at_us && a.delay_us == b.delay_us;
}

static int pgqrsi_pg_enqueue_statement(const pgqrs_backend_enqueue *request)
{
    const pgqrs_backend_message *first = &request->items[0];
    bool plain = !first->due.at_us && !first->due.delay_us && !first->expires.at_us && !first->expires.delay_us;
    if (first->dedup_key) return PGQRSI_PG_ENQUEUE_ANY;
    for (size_t i = 1; i < request->count; i++) {
        const pgqrs_backend_message *item = &request->items[i];
        if (item->dedup_key || item->priority != first->priority || !pgqrsi_pg_same_when(item->due, first->due) ||
            !pgqrsi_pg_same_when(item->expires, first->expires) ||
            !pgqrsi_pg_same_text(item->producer, first->producer))
            return PGQRSI_PG_ENQUEUE_ANY;
    }
    return plain && request->count == 1 ? PGQRSI_PG_ENQUEUE_ONE : PGQRSI_PG_ENQUEUE_MANY;
}

static void pgqrsi_pg_put_payloads(pgqrsi_pg_call *call, const pgqrs_backend_enqueue *request)
{
    size_t bytes = 0;
    for (size_t i = 0; i < request->count; i++)
        bytes += request->items[i].payload_size;
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TEXT_ARRAY, PGQRSI_PG_TEXT, request->count, bytes);
    for (size_t i = 0; out && i < request->count; i++)
        out = pgqrsi_pg_put_text(out, request->items[i].payload, request->items[i].payload_size);
}

static void pgqrsi_pg_put_priorities(pgqrsi_pg_call *call, const pgqrs_backend_enqueue *request)
{
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT4_ARRAY, PGQRSI_PG_INT4, request->count, 4 * request->count);
    for (size_t i = 0; out && i < request->count; i++)
        out = pgqrsi_pg_put_int32(out, request->items[i].priority);
}

/* Keys or producers. */
static void pgqrsi_pg_put_names(pgqrsi_pg_call *call, const pgqrs_backend_enqueue *request, bool keys)
{
    size_t bytes = 0;
    for (size_t i = 0; i < request->count; i++) {
        const char *text = keys ? request->items[i].dedup_key : request->items[i].producer;
        bytes += text ? strlen(text) : 0;
    }
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TEXT_ARRAY, PGQRSI_PG_TEXT, request->count, bytes);
    for (size_t i = 0; out && i < request->count; i++) {
        const char *text = keys ? request->items[i].dedup_key : request->items[i].producer;
        out = pgqrsi_pg_put_text(out, text, text ? strlen(text) : 0);
    }
}

/* Two arrays: times where they are absolute, delays otherwise. */
static void pgqrsi_pg_put_whens(pgqrsi_pg_call *call, const pgqrs_backend_enqueue *request, bool expires)
{
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TIME_ARRAY, PGQRSI_PG_TIME, request->count, 8 * request->count);
    for (size_t i = 0; out && i < request->count; i++)
        out = pgqrsi_pg_put_time(out, expires ? request->items[i].expires.at_us : request->items[i].due.at_us);
    pgqrsi_pg_array_end(call, out);
    out = pgqrsi_pg_array(call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, request->count, 8 * request->count);
    for (size_t i = 0; out && i < request->count; i++)
        out = pgqrsi_pg_put_int64(out, expires ? request->items[i].expires.delay_us : request->items[i].due.delay_us);
}

static void pgqrsi_pg_enqueue_parameters(pgqrsi_pg_call *call, const pgqrs_backend_enqueue *request)
{
    const pgqrs_backend_message *first = &request->items[0];
    pgqrsi_pg_text(call, request->queue);
    pgqrsi_pg_time(call, request->now_us);
    if (call->statement == PGQRSI_PG_ENQUEUE_ONE)
        pgqrsi_pg_text_sized(call, first->payload, first->payload_size);
    else
        pgqrsi_pg_put_payloads(call, request);
    if (call->statement == PGQRSI_PG_ENQUEUE_ANY) {
        pgqrsi_pg_put_priorities(call, request);
        pgqrsi_pg_put_names(call, request, false);
        pgqrsi_pg_put_whens(call, request, false);
        pgqrsi_pg_put_whens(call, request, true);
        pgqrsi_pg_put_names(call, request, true);
        return;
    }
    pgqrsi_pg_int32(call, first->priority);
    pgqrsi_pg_text(call, first->producer);
    if (call->statement == PGQRSI_PG_ENQUEUE_ONE) return;
    pgqrsi_pg_time(call, first->due.at_us);
    pgqrsi_pg_int64(call, first->due.delay_us);
    pgqrsi_pg_time(call, first->expires.at_us);
    pgqrsi_pg_int64(call, first->expires.delay_us);
}

static pgqrs_result pgqrsi_pg_enqueue_receipts(pgqrsi_pg *pg, const pgqrs_backend_enqueue *request, const PGresult *r,
                                               bool any, pgqrs_receipt *receipts)
{
    if (PQntuples(r) == 0) return pgqrsi_pg_no_queue(pg, request->queue);
    if ((size_t)PQntuples(r) != request->count)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_INTERNAL, 0, NULL,
                                  "the enqueue statement returned %d rows of %zu", PQntuples(r), request->count);
    for (size_t i = 0; i < request->count; i++) {
        receipts[i].id = pgqrsi_pg_get_int64(r, (int)i, any ? 1 : 0);
        receipts[i].duplicate = any && pgqrsi_pg_get_int64(r, (int)i, 2) != 0;
    }
    return PGQRS_OK;
}

/* Repeating it after a lost reply is safe only when every message has a key: the second attempt then meets the first. */
static pgqrs_result pgqrsi_pg_enqueue(void *self, const pgqrs_backend_enqueue *request, pgqrs_receipt *receipts)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r;
    bool repeatable = true;
    for (size_t i = 0; i < request->count; i++)
        repeatable = repeatable && request->items[i].dedup_key;
    pgqrsi_pg_start(&call, pg, pgqrsi_pg_enqueue_statement(request));
    pgqrsi_pg_enqueue_parameters(&call, request);
    bool any = call.statement == PGQRSI_PG_ENQUEUE_ANY;
    pgqrs_result result = pgqrsi_pg_run_one(&call, &r, repeatable, true);
    if (!result) result = pgqrsi_pg_enqueue_receipts(pg, request, r, any, receipts);
    PQclear(r);
    return result;
}

/* --- the mark ----------------------------------------------------------------------------------------------------- */

/* A claim need not walk the dead index entries of what was claimed before it: per queue and priority it starts at `from`, below
 * which no live row is and none will come.
 *
 * Why that holds. Let claim A see with its snapshot, looking from `from`, the smallest live ord m, and let X be the snapshot's xmax.
 * A row that A does not see and that comes later with an ord below m was drawn by a transaction numbered below X: one numbered X or
 * above got its number after the snapshot, its ord after its number (rows are made from what a writing statement returned), and
 * the sequence, which has no cache, had passed m before the snapshot. Now let claim B, looking from the same `from`, have a snapshot
 * whose xmin is at least X: all transactions below X are over, and what they wrote B sees. So below min(m, smallest ord B sees)
 * there is nothing live in B's snapshot, and nothing will come: that is the new `from`.
 *
 * A transaction that has nothing to do with us, but runs for long, would hold X up for as long. So when a candidate has waited for
 * a while, the holders of locks are looked at: a transaction below X that has drawn an ord still holds the lock of a writer on
 * `ready` as long as it runs. When none of them does, what they may still insert lies above m, and the next claim, whose snapshot
 * is taken after that look, sees whatever has ended; so the candidate need not wait for the others.
 *
 * The ord is read without locking, so a row that another claim is just deleting counts as live until that deletion is
 * committed; its rollback cannot bring back a row below `from`. A restored or reinstalled database can, because its sequence starts
 * again: hence a claim that finds nothing looks again from the start, and every claim does every half minute. */
#define PGQRSI_PG_RESCAN_US (30 * PGQRSI_US_PER_S)

static pgqrsi_pg_queue *pgqrsi_pg_queue_slot(pgqrsi_pg *pg, const char *name)
{
    int64_t now_us = pgqrs_backend_monotonic();
    pgqrsi_pg_queue *oldest = &pg->queues[0];
    for (int i = 0; i < PGQRSI_PG_QUEUES; i++) {
        pgqrsi_pg_queue *slot = &pg->queues[i];
        if (strcmp(slot->name, name) == 0) {
            slot->used_us = now_us;
            return slot;
        }
        if (slot->used_us < oldest->used_us) oldest = slot;
    }
    memset(oldest, 0, sizeof *oldest);
    snprintf(oldest->name, sizeof oldest->name, "%s", name);
    oldest->used_us = now_us;
    oldest->retained_us = now_us;
    oldest->runs_us = now_us;
    return oldest;
}

/* Levels stand in the order of their priority. A priority that does not fit simply has no mark. */
static pgqrsi_pg_level *pgqrsi_pg_level_of(pgqrsi_pg_queue *slot, int32_t prio)
{
    int at = 0;
    while (at < slot->level_count && slot->levels[at].prio < prio)
        at++;
    if (at < slot->level_count && slot->levels[at].prio == prio) return &slot->levels[at];
    if (slot->level_count == PGQRSI_PG_LEVELS) return NULL;
    memmove(&slot->levels[at + 1], &slot->levels[at], (size_t)(slot->level_count - at) * sizeof slot->levels[0]);
    memset(&slot->levels[at], 0, sizeof slot->levels[at]);
    slot->levels[at].prio = prio;
    slot->level_count++;
    return &slot->levels[at];
}

static void pgqrsi_pg_mark(pgqrsi_pg_queue *slot, int32_t prio, int64_t ord, int64_t xmin, int64_t xmax)
{
    pgqrsi_pg_level *level = pgqrsi_pg_level_of(slot, prio);
    if (!level) return;
    if (level->from > ord) level->from = ord;
    if (level->candidate && xmin < level->horizon) return;
    if (level->candidate) level->from = level->candidate < ord ? level->candidate : ord;
    level->candidate = ord;
    level->horizon = xmax;
    level->since_us = pgqrs_backend_monotonic();
}

#define PGQRSI_PG_DOUBT_US (200 * PGQRSI_US_PER_MS)

/* A failure here only means that the mark stays where it is. */
static void pgqrsi_pg_doubt(pgqrsi_pg *pg, pgqrsi_pg_queue *slot)
{
    int64_t monotonic_us = pgqrs_backend_monotonic(), horizon = 0;
    for (int i = 0; i < slot->level_count; i++) {
        const pgqrsi_pg_level *level = &slot->levels[i];
        if (level->candidate && monotonic_us - level->since_us > PGQRSI_PG_DOUBT_US && level->horizon > horizon)
            horizon = level->horizon;
    }
    if (horizon == 0 || slot->idle || monotonic_us - slot->doubt_us < PGQRSI_PG_DOUBT_US) return;
    pgqrsi_pg_call call;
    PGresult *r;
    slot->doubt_us = monotonic_us;
    pgqrsi_pg_start(&call, pg, PGQRSI_PG_DOUBT);
    pgqrsi_pg_int64(&call, horizon);
    if (!pgqrsi_pg_read(&call, &r) && pgqrsi_pg_get_int64(r, 0, 0))
        for (int i = 0; i < slot->level_count; i++)
            if (slot->levels[i].horizon <= horizon) slot->levels[i].horizon = 0;
    PQclear(r);
}

/* With marks the ranges are: what lies above the first known priority, then each known one from its mark up to the start of the
 * next; so a priority nobody has seen yet always lies in one of them. */
static void pgqrsi_pg_ranges(pgqrsi_pg_call *call, const pgqrsi_pg_queue *slot, bool full)
{
    size_t levels = full ? 0 : (size_t)slot->level_count;
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT4_ARRAY, PGQRSI_PG_INT4, levels + 1, 4 * (levels + 1));
    for (size_t i = 0; out && i <= levels; i++)
        out = pgqrsi_pg_put_int32(out, i == 0 ? INT32_MIN : slot->levels[i - 1].prio);
    out = pgqrsi_pg_array(call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, levels + 1, 8 * (levels + 1));
    for (size_t i = 0; out && i <= levels; i++)
        out = pgqrsi_pg_put_int64(out, i == 0 ? 0 : slot->levels[i - 1].from);
    out = pgqrsi_pg_array(call, PGQRSI_PG_INT4_ARRAY, PGQRSI_PG_INT4, levels + 1, 4 * (levels + 1));
    for (size_t i = 0; out && i <= levels; i++)
        out = pgqrsi_pg_put_int32(out, i == levels ? INT32_MAX : slot->levels[i].prio);
}

/* --- settle ------------------------------------------------------------------------------------------------------- */

/* The verdicts of an exchange, by lease and id, and to which statement each goes. */
typedef struct pgqrsi_pg_item {
    pgqrs_backend_verdict *verdict;
    size_t place; /* in the request */
    bool whole;   /* all of its lease is archived now */
} pgqrsi_pg_item;

static int pgqrsi_pg_item_order(const void *left, const void *right)
{
    const pgqrsi_pg_item *a = (const pgqrsi_pg_item *)left;
    const pgqrsi_pg_item *b = (const pgqrsi_pg_item *)right;
    if (a->verdict->lease != b->verdict->lease) return a->verdict->lease < b->verdict->lease ? -1 : 1;
    if (a->verdict->id != b->verdict->id) return a->verdict->id < b->verdict->id ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static void pgqrsi_pg_items_fill(pgqrsi_pg_item *items, pgqrs_backend_verdict *verdicts, size_t count)
{
    bool sorted = true;
    for (size_t i = 0; i < count; i++) {
        items[i].verdict = &verdicts[i];
        items[i].place = i;
        items[i].whole = false;
        sorted = sorted && (i == 0 || pgqrsi_pg_item_order(&items[i - 1], &items[i]) < 0);
    }
    if (!sorted) qsort(items, count, sizeof *items, pgqrsi_pg_item_order);
}

static size_t pgqrsi_pg_lease_end(const pgqrsi_pg_item *items, size_t from, size_t count)
{
    size_t end = from + 1;
    while (end < count && items[end].verdict->lease == items[from].verdict->lease)
        end++;
    return end;
}

/* Only ids without a gap go the short way: there number and ends leave no doubt that they are the lease's own. */
static bool pgqrsi_pg_is_whole(const pgqrsi_pg_item *items, size_t from, size_t end)
{
    if (items[end - 1].verdict->id - items[from].verdict->id != (int64_t)(end - from) - 1) return false;
    for (size_t i = from; i < end; i++) {
        const pgqrs_backend_verdict *verdict = items[i].verdict;
        if (verdict->verdict != PGQRS_ARCHIVE || verdict->lease_size != end - from ||
            (i > from && items[i - 1].verdict->id == verdict->id))
            return false;
    }
    return true;
}

/* How many leases go the short way. */
static size_t pgqrsi_pg_items_sort_out(pgqrsi_pg_item *items, size_t count)
{
    size_t leases = 0;
    for (size_t from = 0; from < count;) {
        size_t end = pgqrsi_pg_lease_end(items, from, count);
        bool whole = pgqrsi_pg_is_whole(items, from, end);
        for (size_t i = from; i < end; i++)
            items[i].whole = whole;
        leases += whole;
        from = end;
    }
    return leases;
}

typedef enum pgqrsi_pg_whole_column {
    PGQRSI_PG_WHOLE_LEASE = 0,
    PGQRSI_PG_WHOLE_LOW = 1,
    PGQRSI_PG_WHOLE_HIGH = 2,
    PGQRSI_PG_WHOLE_SUM = 3
} pgqrsi_pg_whole_column;

static int64_t pgqrsi_pg_whole_value(const pgqrsi_pg_item *items, size_t from, size_t end,
                                     pgqrsi_pg_whole_column column)
{
    uint64_t sum = 0;
    if (column == PGQRSI_PG_WHOLE_LEASE) return items[from].verdict->lease;
    if (column != PGQRSI_PG_WHOLE_SUM) return items[column == PGQRSI_PG_WHOLE_LOW ? from : end - 1].verdict->id;
    for (size_t i = from; i < end; i++)
        sum += (uint64_t)items[i].verdict->id;
    return (int64_t)sum;
}

static void pgqrsi_pg_put_whole(pgqrsi_pg_call *call, const pgqrsi_pg_item *items, size_t count, size_t leases,
                                pgqrsi_pg_whole_column column)
{
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, leases, 8 * leases);
    for (size_t from = 0, end; out && from < count; from = end) {
        end = pgqrsi_pg_lease_end(items, from, count);
        if (items[from].whole) out = pgqrsi_pg_put_int64(out, pgqrsi_pg_whole_value(items, from, end, column));
    }
}

static void pgqrsi_pg_whole_parameters(pgqrsi_pg_call *call, const pgqrsi_pg_item *items, size_t count, size_t leases,
                                       int64_t now_us)
{
    pgqrsi_pg_put_whole(call, items, count, leases, PGQRSI_PG_WHOLE_LEASE);
    pgqrsi_pg_time(call, now_us);
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT4_ARRAY, PGQRSI_PG_INT4, leases, 4 * leases);
    for (size_t from = 0, end; out && from < count; from = end) {
        end = pgqrsi_pg_lease_end(items, from, count);
        if (items[from].whole) out = pgqrsi_pg_put_int32(out, (int32_t)(end - from));
    }
    pgqrsi_pg_put_whole(call, items, count, leases, PGQRSI_PG_WHOLE_LOW);
    pgqrsi_pg_put_whole(call, items, count, leases, PGQRSI_PG_WHOLE_HIGH);
    pgqrsi_pg_put_whole(call, items, count, leases, PGQRSI_PG_WHOLE_SUM);
}

static void pgqrsi_pg_put_items(pgqrsi_pg_call *call, const pgqrsi_pg_item *items, size_t count, size_t chosen,
                                bool leases)
{
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, chosen, 8 * chosen);
    for (size_t i = 0; out && i < count; i++)
        if (!items[i].whole) out = pgqrsi_pg_put_int64(out, leases ? items[i].verdict->lease : items[i].verdict->id);
}

/* How the statements number verdicts: 7 to 9 are kinds of giving back. Fresh: attempts are counted from zero again. With a run:
 * due at once when the run has nothing to wait for any more. */
static int32_t pgqrsi_pg_verdict_code(const pgqrs_backend_verdict *verdict)
{
    if (verdict->verdict != PGQRS_GIVE_BACK) return (int32_t)verdict->verdict;
    if (verdict->run) return verdict->fresh ? 9 : 8;
    return verdict->fresh ? 7 : 5;
}

static void pgqrsi_pg_put_verdicts(pgqrsi_pg_call *call, const pgqrsi_pg_item *items, size_t count, size_t chosen)
{
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT4_ARRAY, PGQRSI_PG_INT4, chosen, 4 * chosen);
    for (size_t i = 0; out && i < count; i++)
        if (!items[i].whole) out = pgqrsi_pg_put_int32(out, pgqrsi_pg_verdict_code(items[i].verdict));
}

static void pgqrsi_pg_put_reasons(pgqrsi_pg_call *call, const pgqrsi_pg_item *items, size_t count, size_t chosen)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += !items[i].whole && items[i].verdict->reason ? strlen(items[i].verdict->reason) : 0;
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TEXT_ARRAY, PGQRSI_PG_TEXT, chosen, bytes);
    for (size_t i = 0; out && i < count; i++) {
        const char *reason = items[i].verdict->reason;
        if (!items[i].whole) out = pgqrsi_pg_put_text(out, reason, reason ? strlen(reason) : 0);
    }
}

static void pgqrsi_pg_any_parameters(pgqrsi_pg_call *call, const pgqrsi_pg_item *items, size_t count, size_t chosen,
                                     int64_t now_us)
{
    pgqrsi_pg_put_items(call, items, count, chosen, true);
    pgqrsi_pg_time(call, now_us);
    pgqrsi_pg_put_items(call, items, count, chosen, false);
    pgqrsi_pg_put_verdicts(call, items, count, chosen);
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TIME_ARRAY, PGQRSI_PG_TIME, chosen, 8 * chosen);
    for (size_t i = 0; out && i < count; i++)
        if (!items[i].whole) out = pgqrsi_pg_put_time(out, items[i].verdict->due.at_us);
    pgqrsi_pg_array_end(call, out);
    out = pgqrsi_pg_array(call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, chosen, 8 * chosen);
    for (size_t i = 0; out && i < count; i++)
        if (!items[i].whole) out = pgqrsi_pg_put_int64(out, items[i].verdict->due.delay_us);
    pgqrsi_pg_put_reasons(call, items, count, chosen);
}

/* Results of the two statements, back into the verdicts. */
static void pgqrsi_pg_whole_results(const PGresult *r, pgqrsi_pg_item *items, size_t count)
{
    for (int row = 0; row < PQntuples(r); row++) {
        int64_t lease = pgqrsi_pg_get_int64(r, row, 0);
        size_t low = 0, high = count;
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            if (items[middle].verdict->lease < lease)
                low = middle + 1;
            else
                high = middle;
        }
        for (; pgqrsi_pg_get_int64(r, row, 1) == 1 && low < count && items[low].verdict->lease == lease; low++)
            items[low].verdict->result = PGQRS_OK;
    }
}

/* The n-th of the items that went the general way is the place n + 1; rows come in any order. */
static void pgqrsi_pg_any_results(const PGresult *r, pgqrsi_pg_item *const *chosen, size_t count)
{
    for (int row = 0; row < PQntuples(r); row++) {
        int64_t place = pgqrsi_pg_get_int64(r, row, 0);
        if (place >= 1 && (uint64_t)place <= count) chosen[place - 1]->verdict->result = PGQRS_OK;
    }
}

/* --- exchange ----------------------------------------------------------------------------------------------------- */

static void pgqrsi_pg_put_write(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, int64_t now_us,
                                int64_t lease_us);
static void pgqrsi_pg_take_write(const PGresult *r, pgqrs_backend_run_write *write);
static int64_t pgqrsi_pg_retain_runs(pgqrsi_pg *pg, int64_t now_us, const char *queue);

#define PGQRSI_PG_LOCAL_ITEMS 64
#define PGQRSI_PG_CLAIM_ROUNDS 16

/* What a claim said about itself, in the order in which its statement lists it. */
typedef struct pgqrsi_pg_claimed {
    bool has_queue, paused, has_worker, has_lease, has_first;
    int64_t queue_id;
    int64_t worker_state;
    int64_t lease;
    int64_t lease_until_us;
    int64_t total;
    int64_t seen;
    int64_t guess;
    int64_t prio, ord;
    int64_t xmin, xmax;
} pgqrsi_pg_claimed;

typedef struct pgqrsi_pg_work {
    pgqrsi_pg *pg;
    pgqrs_backend_exchange *exchange;
    pgqrsi_pg_item *items;
    pgqrsi_pg_item **chosen; /* those for the general statement */
    size_t chosen_count;
    size_t lease_count; /* leases for the short one */
    size_t run_count;   /* verdicts with something to store of their run */
    pgqrsi_pg_queue *slot;
    pgqrsi_pg_call *calls; /* `few`, or, when there are many runs, in `block` */
    pgqrsi_pg_call few[PGQRSI_PG_GROUP];
    char *block;
    size_t block_size;
    pgqrsi_pg_group group;
    int runs;                                  /* place of the first run in the group, in the order of the items */
    int whole, any, tend, retain, beat, claim; /* places in the group, -1: not part of it */
    bool full;                                 /* the claim looks from the start */
    PGresult *claims[PGQRSI_PG_CLAIM_ROUNDS];
    pgqrsi_pg_claimed claimed[PGQRSI_PG_CLAIM_ROUNDS];
    int claim_count;
    pgqrsi_pg_claimed last; /* of the latest round */
    size_t got;
    pgqrs_messages *spare; /* an empty result, for when there is no memory for the real one */
} pgqrsi_pg_work;

static pgqrsi_pg_call *pgqrsi_pg_join(pgqrsi_pg_work *work, int statement, int *place)
{
    *place = work->group.count++;
    pgqrsi_pg_call *call = &work->calls[*place];
    pgqrsi_pg_start(call, work->pg, statement);
    work->group.calls[*place] = call;
    return call;
}

/* What follows in the same transaction must find the lease as alive as the write did. */
#define PGQRSI_PG_WRITE_GUARD_US (10 * PGQRSI_US_PER_S)

static bool pgqrsi_pg_is_plain_end(const pgqrs_backend_run_write *write);
static void pgqrsi_pg_put_end(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, int64_t now_us);

static void pgqrsi_pg_join_runs(pgqrsi_pg_work *work)
{
    int64_t now_us = work->exchange->now_us;
    int place;
    work->runs = work->group.count;
    for (size_t i = 0; i < work->exchange->verdict_count; i++) {
        const pgqrs_backend_run_write *write = work->items[i].verdict->run;
        if (!write) continue;
        if (pgqrsi_pg_is_plain_end(write)) {
            pgqrsi_pg_put_end(pgqrsi_pg_join(work, PGQRSI_PG_RUN_END, &place), write, now_us);
            continue;
        }
        int64_t lease_us = write->lease_us;
        if (now_us == 0 && lease_us < PGQRSI_PG_WRITE_GUARD_US) lease_us = PGQRSI_PG_WRITE_GUARD_US;
        pgqrsi_pg_put_write(pgqrsi_pg_join(work, PGQRSI_PG_RUN_WRITE, &place), write, now_us, lease_us);
    }
}

/* A run and the verdict on its message share their fate. */
static void pgqrsi_pg_take_runs(pgqrsi_pg_work *work)
{
    int place = work->runs;
    for (size_t i = 0; i < work->exchange->verdict_count; i++) {
        pgqrs_backend_verdict *verdict = work->items[i].verdict;
        if (!verdict->run) continue;
        pgqrsi_pg_take_write(work->group.results[place++], verdict->run);
        if (verdict->run->result) verdict->result = verdict->run->result;
    }
}

static void pgqrsi_pg_agree(const pgqrsi_pg_work *work)
{
    for (size_t i = 0; i < work->exchange->verdict_count; i++) {
        pgqrs_backend_verdict *verdict = work->items[i].verdict;
        if (verdict->run) verdict->run->result = verdict->result;
    }
}

static void pgqrsi_pg_join_settle(pgqrsi_pg_work *work)
{
    size_t count = work->exchange->verdict_count;
    if (work->lease_count > 0)
        pgqrsi_pg_whole_parameters(pgqrsi_pg_join(work, PGQRSI_PG_SETTLE_WHOLE, &work->whole), work->items, count,
                                   work->lease_count, work->exchange->now_us);
    if (work->chosen_count > 0)
        pgqrsi_pg_any_parameters(pgqrsi_pg_join(work, PGQRSI_PG_SETTLE_ANY, &work->any), work->items, count,
                                 work->chosen_count, work->exchange->now_us);
}

#define PGQRSI_PG_RETAIN_US (10 * PGQRSI_US_PER_S)
#define PGQRSI_PG_RETAIN_RUNS 500 /* at a time */

static void pgqrsi_pg_join_tend(pgqrsi_pg_work *work)
{
    int64_t monotonic_us = pgqrs_backend_monotonic();
    pgqrsi_pg_call *call = pgqrsi_pg_join(work, PGQRSI_PG_TEND, &work->tend);
    pgqrsi_pg_text(call, work->exchange->claim->queue);
    pgqrsi_pg_time(call, work->exchange->now_us);
    if (monotonic_us - work->slot->retained_us < PGQRSI_PG_RETAIN_US) return;
    call = pgqrsi_pg_join(work, PGQRSI_PG_RETAIN, &work->retain);
    pgqrsi_pg_text(call, work->exchange->claim->queue);
    pgqrsi_pg_time(call, work->exchange->now_us);
}

static void pgqrsi_pg_join_beat(pgqrsi_pg_work *work)
{
    pgqrsi_pg_call *call = pgqrsi_pg_join(work, PGQRSI_PG_BEAT, &work->beat);
    pgqrsi_pg_int64(call, work->exchange->claim->worker.id);
    pgqrsi_pg_time(call, work->exchange->now_us);
    pgqrsi_pg_int64(call, work->exchange->claim->worker.epoch);
}

static void pgqrsi_pg_join_claim(pgqrsi_pg_work *work, bool guard)
{
    const pgqrs_backend_claim *claim = work->exchange->claim;
    pgqrsi_pg_call *call = pgqrsi_pg_join(work, PGQRSI_PG_CLAIM, &work->claim);
    pgqrsi_pg_text(call, claim->queue);
    pgqrsi_pg_time(call, work->exchange->now_us);
    pgqrsi_pg_int32(call, (int32_t)(claim->limit - work->got));
    pgqrsi_pg_int64(call, claim->lease_us);
    pgqrsi_pg_int64(call, claim->worker.id);
    pgqrsi_pg_int64(call, claim->worker.epoch);
    pgqrsi_pg_bool(call, guard);
    pgqrsi_pg_ranges(call, work->slot, work->full);
}

static void pgqrsi_pg_claimed_read(const PGresult *r, int row, pgqrsi_pg_claimed *out)
{
    int64_t values[12];
    bool there[12];
    memset(values, 0, sizeof values);
    memset(there, 0, sizeof there);
    memset(out, 0, sizeof *out);
    const char *in = PQgetvalue(r, row, 6);
    const char *end = in + PQgetlength(r, row, 6);
    in += PGQRSI_PG_ARRAY_HEADER;
    for (int i = 0; i < 12 && in + 4 <= end; i++) {
        there[i] = (int32_t)(uint32_t)pgqrsi_pg_take(in, 4) == 8 && in + 12 <= end;
        values[i] = there[i] ? (int64_t)pgqrsi_pg_take(in + 4, 8) : 0;
        in += there[i] ? 12 : 4;
    }
    out->has_queue = there[0];
    out->queue_id = values[0];
    out->paused = values[1] != 0;
    out->has_worker = there[2];
    out->worker_state = values[2];
    out->has_lease = there[3];
    out->lease = values[3];
    out->total = values[4];
    out->seen = values[5];
    out->guess = values[6];
    out->has_first = there[8];
    out->prio = values[7];
    out->ord = values[8];
    out->xmin = values[9];
    out->xmax = values[10];
    out->lease_until_us = pgqrsi_pg_get_int64(r, row, 4);
}

static int pgqrsi_pg_claimed_row(const PGresult *r)
{
    for (int row = 0; row < PQntuples(r); row++)
        if (PQgetisnull(r, row, 0)) return row;
    return -1;
}

static pgqrs_result pgqrsi_pg_refusal_of(const pgqrsi_pg_claimed *claimed)
{
    if (!claimed->has_worker || claimed->worker_state == PGQRS_WORKER_STOPPED) return PGQRS_ERR_WORKER_STOPPED;
    if (claimed->worker_state == PGQRS_WORKER_SUSPENDED) return PGQRS_ERR_WORKER_SUSPENDED;
    return claimed->worker_state == PGQRS_WORKER_INTERRUPTED ? PGQRS_ERR_WORKER_INTERRUPTED : PGQRS_OK;
}

static void pgqrsi_pg_take_tend(pgqrsi_pg_work *work)
{
    pgqrs_backend_claim *claim = work->exchange->claim;
    const PGresult *r = work->group.results[work->tend];
    int64_t monotonic_us = pgqrs_backend_monotonic();
    /* many expired messages at the head are in the way of the next claim */
    bool late = PQntuples(r) > 0 && pgqrsi_pg_get_int64(r, 0, 4) != 0;
    work->slot->tended_us = late ? monotonic_us - PGQRSI_US_PER_S : monotonic_us;
    claim->next_due_us = -1;
    if (PQntuples(r) > 0 && !PQgetisnull(r, 0, 2)) {
        int64_t wait_us = pgqrsi_pg_get_int64(r, 0, 2) - pgqrsi_pg_get_int64(r, 0, 1);
        claim->next_due_us = wait_us > 0 ? wait_us : 0;
    }
    if (work->retain < 0) return;
    /* a step that was full is followed by the next one soon */
    bool full = pgqrsi_pg_get_int64(work->group.results[work->retain], 0, 1) >= 400;
    work->slot->retained_us = full ? monotonic_us - PGQRSI_PG_RETAIN_US + 200 * PGQRSI_US_PER_MS : monotonic_us;
}

static pgqrs_result pgqrsi_pg_take_claim(pgqrsi_pg_work *work)
{
    pgqrsi_pg *pg = work->pg;
    pgqrs_backend_claim *claim = work->exchange->claim;
    PGresult *r = work->group.results[work->claim];
    int row = pgqrsi_pg_claimed_row(r);
    pgqrsi_pg_claimed *claimed = &work->last;
    if (row < 0)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_INTERNAL, 0, NULL, "the claim statement returned nothing");
    pgqrsi_pg_claimed_read(r, row, claimed);
    if (!claimed->has_queue) return pgqrsi_pg_no_queue(pg, claim->queue);
    claim->paused = claimed->paused;
    claim->refused = claim->worker.id ? pgqrsi_pg_refusal_of(claimed) : PGQRS_OK;
    if (work->slot->id != claimed->queue_id) work->slot->level_count = 0;
    work->slot->id = claimed->queue_id;
    if (claimed->has_first)
        pgqrsi_pg_mark(work->slot, (int32_t)claimed->prio, claimed->ord, claimed->xmin, claimed->xmax);
    if (work->full) work->slot->rescan_us = pgqrs_backend_monotonic() + PGQRSI_PG_RESCAN_US;
    if (PQntuples(r) > 1) {
        work->got += (size_t)PQntuples(r) - 1;
        work->claimed[work->claim_count] = *claimed;
        work->claims[work->claim_count++] = r;
        work->group.results[work->claim] = NULL;
    }
    return PGQRS_OK;
}

/* One transaction: settle and heartbeat (in the first round, if wanted), tend, claim. */
static pgqrs_result pgqrsi_pg_round(pgqrsi_pg_work *work, bool first, bool tend, bool guard)
{
    bool settle = first && work->exchange->verdict_count > 0;
    pgqrsi_pg_group_clear(&work->group);
    work->group.count = 0;
    work->whole = work->any = work->tend = work->retain = work->beat = work->claim = -1;
    if (settle && work->run_count > 0) pgqrsi_pg_join_runs(work);
    if (settle) pgqrsi_pg_join_settle(work);
    if (tend) pgqrsi_pg_join_tend(work);
    if (first && work->slot && work->exchange->claim->heartbeat && work->exchange->claim->worker.id)
        pgqrsi_pg_join_beat(work);
    if (work->slot) pgqrsi_pg_join_claim(work, guard);
    /* the text for giving back is made while there is memory, not when it has run out */
    if (work->slot && !pgqrsi_pg_text_of(work->pg, PGQRSI_PG_UNCLAIM)) work->calls[work->claim].failed = true;
    work->group.repeatable = true; /* a settlement checks the lease; of a claim whose reply was lost the leases end */
    work->group.writes = settle;
    pgqrs_result result = pgqrsi_pg_run_group(work->pg, &work->group);
    if (!result && tend) pgqrsi_pg_take_tend(work);
    return !result && work->slot ? pgqrsi_pg_take_claim(work) : result;
}

/* Which verdicts go which way. In the caller's transaction the short statement, which may fail on purpose, is not used. */
static void pgqrsi_pg_sort_out(pgqrsi_pg_work *work, bool short_way)
{
    size_t count = work->exchange->verdict_count;
    work->lease_count = short_way ? pgqrsi_pg_items_sort_out(work->items, count) : 0;
    work->chosen_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (!short_way) work->items[i].whole = false;
        if (!work->items[i].whole) work->chosen[work->chosen_count++] = &work->items[i];
    }
}

/* After a lost reply the repetition finds leases gone that the first attempt may have settled: looks which. */
static pgqrs_result pgqrsi_pg_look_again(pgqrsi_pg_work *work)
{
    pgqrsi_pg_call call;
    PGresult *r;
    pgqrsi_pg_sort_out(work, false);
    size_t lost = 0;
    for (size_t i = 0; i < work->chosen_count; i++)
        if (work->chosen[i]->verdict->result == PGQRS_ERR_LEASE_LOST)
            work->chosen[lost++] = work->chosen[i];
        else
            work->chosen[i]->whole = true; /* not to be asked about */
    if (lost == 0) return PGQRS_OK;
    pgqrsi_pg_start(&call, work->pg, PGQRSI_PG_SETTLED);
    pgqrsi_pg_put_items(&call, work->items, work->exchange->verdict_count, lost, true);
    pgqrsi_pg_put_items(&call, work->items, work->exchange->verdict_count, lost, false);
    pgqrsi_pg_put_verdicts(&call, work->items, work->exchange->verdict_count, lost);
    pgqrs_result result = pgqrsi_pg_run_one(&call, &r, true, true);
    if (!result) pgqrsi_pg_any_results(r, work->chosen, lost);
    PQclear(r);
    return result ? pgqrsi_pg_lost(work->pg, true) : PGQRS_OK;
}

static pgqrs_result pgqrsi_pg_take_verdicts(pgqrsi_pg_work *work)
{
    for (size_t i = 0; i < work->exchange->verdict_count; i++)
        work->exchange->verdicts[i].result = PGQRS_ERR_LEASE_LOST;
    if (work->whole >= 0)
        pgqrsi_pg_whole_results(work->group.results[work->whole], work->items, work->exchange->verdict_count);
    if (work->any >= 0) pgqrsi_pg_any_results(work->group.results[work->any], work->chosen, work->chosen_count);
    if (work->run_count > 0) pgqrsi_pg_take_runs(work);
    pgqrs_result result = work->group.lost && work->exchange->verdict_count > 0 ? pgqrsi_pg_look_again(work) : PGQRS_OK;
    if (work->run_count > 0) pgqrsi_pg_agree(work);
    return result;
}

static pgqrs_result pgqrsi_pg_find_queue(pgqrsi_pg *pg, const char *queue)
{
    pgqrsi_pg_call call;
    PGresult *r;
    pgqrsi_pg_start(&call, pg, PGQRSI_PG_QUEUE_ID);
    pgqrsi_pg_text(&call, queue);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_no_queue(pg, queue);
    PQclear(r);
    return result;
}

static bool pgqrsi_pg_in_callers_transaction(const pgqrsi_pg *pg)
{
    return !pgqrsi_pg_alone(pg) && PQtransactionStatus(pg->connection) == PQTRANS_INTRANS;
}

/* The first round, with the verdicts. An unknown queue and a lease that does not match its hint make the server fail the
 * transaction by a division by zero; in the caller's transaction that must not happen. */
static pgqrs_result pgqrsi_pg_first_round(pgqrsi_pg_work *work, bool tend)
{
    bool settles = work->exchange->verdict_count > 0;
    bool careful = pgqrsi_pg_in_callers_transaction(work->pg);
    pgqrs_result result = PGQRS_OK;
    if (careful && settles && work->slot) result = pgqrsi_pg_find_queue(work->pg, work->exchange->claim->queue);
    if (result) return result;
    pgqrsi_pg_sort_out(work, !careful);
    result = pgqrsi_pg_round(work, true, tend, settles && !careful);
    bool divided = result && strcmp(work->group.sqlstate, "22012") == 0;
    if (divided && work->group.failed == work->whole) {
        pgqrsi_pg_sort_out(work, false);
        result = pgqrsi_pg_round(work, true, tend, settles);
        divided = result && strcmp(work->group.sqlstate, "22012") == 0;
    }
    if (divided && work->group.failed == work->claim && work->slot)
        return pgqrsi_pg_no_queue(work->pg, work->exchange->claim->queue);
    return result ? result : pgqrsi_pg_take_verdicts(work);
}

/* --- the messages of a claim -------------------------------------------------------------------------------------- */

typedef struct pgqrsi_pg_row {
    int64_t ord;
    int64_t id;
    int32_t prio;
    int16_t round;
    int row;
} pgqrsi_pg_row;

static int pgqrsi_pg_row_order(const void *left, const void *right)
{
    const pgqrsi_pg_row *a = (const pgqrsi_pg_row *)left;
    const pgqrsi_pg_row *b = (const pgqrsi_pg_row *)right;
    if (a->prio != b->prio) return a->prio < b->prio ? -1 : 1;
    if (a->ord != b->ord) return a->ord < b->ord ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* The rows of all rounds in the order of delivery; returns the bytes of their payloads. */
static size_t pgqrsi_pg_rows(const pgqrsi_pg_work *work, pgqrsi_pg_row *rows)
{
    size_t count = 0, bytes = 0;
    bool sorted = true;
    for (int16_t round = 0; round < work->claim_count; round++) {
        const PGresult *r = work->claims[round];
        for (int row = 0; row < PQntuples(r); row++) {
            if (PQgetisnull(r, row, 0)) continue;
            rows[count].id = pgqrsi_pg_get_int64(r, row, 0);
            rows[count].ord = pgqrsi_pg_get_int64(r, row, 1);
            rows[count].prio = (int32_t)pgqrsi_pg_get_int64(r, row, 2);
            rows[count].round = round;
            rows[count].row = row;
            bytes += (size_t)PQgetlength(r, row, 5) + 1 + sizeof(pgqrsi_align);
            sorted = sorted && (count == 0 || pgqrsi_pg_row_order(&rows[count - 1], &rows[count]) < 0);
            count++;
        }
    }
    if (!sorted) qsort(rows, count, sizeof *rows, pgqrsi_pg_row_order);
    return bytes;
}

static bool pgqrsi_pg_message_fill(const pgqrsi_pg_work *work, const pgqrsi_pg_row *row, pgqrs_messages *owner,
                                   const char *queue, pgqrs_message *message)
{
    const PGresult *r = work->claims[row->round];
    const pgqrsi_pg_claimed *claimed = &work->claimed[row->round];
    message->id = row->id;
    message->lease = claimed->lease;
    message->lease_size = (uint32_t)claimed->total;
    message->lease_until_us = claimed->lease_until_us;
    message->queue = queue;
    message->attempt = (int32_t)pgqrsi_pg_get_int64(r, row->row, 3);
    message->priority = -row->prio;
    message->enqueued_at_us = pgqrsi_pg_get_int64(r, row->row, 4);
    message->worker_id = work->exchange->claim->worker.id;
    message->payload_size = (size_t)PQgetlength(r, row->row, 5);
    message->payload = pgqrs_backend_result_text(owner, PQgetvalue(r, row->row, 5), (int64_t)message->payload_size);
    return message->payload != NULL;
}

static pgqrs_messages *pgqrsi_pg_messages_make(const pgqrsi_pg_work *work, const pgqrsi_pg_row *rows, size_t bytes)
{
    const char *name = work->exchange->claim->queue;
    size_t reserve = bytes + work->got * sizeof(pgqrs_message) + strlen(name) + 1 + 2 * sizeof(pgqrsi_align);
    pgqrs_messages *messages = (pgqrs_messages *)pgqrs_backend_result_new(work->pg->store, sizeof *messages, reserve);
    if (!messages) return NULL;
    pgqrs_message *items = (pgqrs_message *)pgqrs_backend_result_alloc(messages, work->got * sizeof *items);
    const char *queue = pgqrs_backend_result_text(messages, name, -1);
    bool good = items && queue;
    for (size_t i = 0; good && i < work->got; i++)
        good = pgqrsi_pg_message_fill(work, &rows[i], messages, queue, &items[i]);
    if (!good) {
        pgqrs_free(messages);
        return NULL;
    }
    messages->items = items;
    messages->count = work->got;
    return messages;
}

/* No memory to hand them out: they go back as if never claimed, so that nobody waits for the leases to end. */
static pgqrs_result pgqrsi_pg_unclaim(pgqrsi_pg_work *work)
{
    for (int round = 0; round < work->claim_count; round++) {
        pgqrsi_pg_call call;
        PGresult *r;
        pgqrsi_pg_start(&call, work->pg, PGQRSI_PG_UNCLAIM);
        pgqrsi_pg_int64(&call, work->claimed[round].lease);
        pgqrsi_pg_write(&call, &r);
        PQclear(r);
    }
    if (work->exchange->verdict_count == 0) return pgqrsi_pg_no_memory(work->pg);
    /* the verdicts have been carried out, so the call must not fail */
    pgqrs_backend_log(work->pg->store, PGQRS_LOG_WARN, "out of memory: %zu claimed messages were given back",
                      work->got);
    work->exchange->claim->messages = work->spare;
    work->spare = NULL;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_pg_messages(pgqrsi_pg_work *work)
{
    pgqrsi_pg_row local[PGQRSI_PG_LOCAL_ITEMS];
    pgqrsi_pg_row *rows = local;
    if (work->got == 0) return PGQRS_OK;
    if (work->got > PGQRSI_PG_LOCAL_ITEMS)
        rows = (pgqrsi_pg_row *)pgqrs_backend_resize(work->pg->store, NULL, 0, work->got * sizeof *rows);
    pgqrs_messages *messages = NULL;
    if (rows) messages = pgqrsi_pg_messages_make(work, rows, pgqrsi_pg_rows(work, rows));
    if (rows && rows != local) pgqrs_backend_free(work->pg->store, rows, work->got * sizeof *rows);
    work->exchange->claim->messages = messages;
    return messages ? PGQRS_OK : pgqrsi_pg_unclaim(work);
}

/* Later rounds of a claim: the guess was too low, or nothing was found where the first one looked. What the rounds before have
 * claimed is handed out even when a later one fails. */
static pgqrs_result pgqrsi_pg_more_rounds(pgqrsi_pg_work *work)
{
    pgqrs_backend_claim *claim = work->exchange->claim;
    bool tended = work->tend >= 0;
    for (int rounds = 1; rounds < PGQRSI_PG_CLAIM_ROUNDS && work->got < claim->limit; rounds++) {
        bool cut = work->last.seen > 0 && work->last.seen == work->last.guess;
        bool bare = work->got == 0 && !(tended && work->full);
        if (claim->paused || claim->refused || (!cut && !bare)) break;
        bool tend = bare && !cut;
        work->full = work->full || tend;
        tended = tended || tend;
        pgqrs_result result = pgqrsi_pg_round(work, false, tend, false);
        if (result) return work->got > 0 || work->exchange->verdict_count > 0 ? PGQRS_OK : result;
    }
    return PGQRS_OK;
}

static bool pgqrsi_pg_tend_due(const pgqrsi_pg_work *work)
{
    return work->slot && (work->exchange->now_us || work->slot->idle ||
                          pgqrs_backend_monotonic() - work->slot->tended_us >= PGQRSI_US_PER_S);
}

/* A transaction of its own now and then, before the claim. A failure only means that old runs stay for another while. */
static void pgqrsi_pg_retain_due(pgqrsi_pg_work *work)
{
    int64_t monotonic_us = pgqrs_backend_monotonic();
    if (monotonic_us - work->slot->runs_us < PGQRSI_PG_RETAIN_US || pgqrsi_pg_in_callers_transaction(work->pg)) return;
    bool full =
        pgqrsi_pg_retain_runs(work->pg, work->exchange->now_us, work->exchange->claim->queue) >= PGQRSI_PG_RETAIN_RUNS;
    /* a step that was full is followed by the next one soon */
    work->slot->runs_us = full ? monotonic_us - PGQRSI_PG_RETAIN_US + 200 * PGQRSI_US_PER_MS : monotonic_us;
}

static pgqrs_result pgqrsi_pg_exchange_run(pgqrsi_pg_work *work)
{
    pgqrs_backend_claim *claim = work->exchange->claim;
    bool tend = pgqrsi_pg_tend_due(work);
    if (tend) pgqrsi_pg_retain_due(work);
    work->full = work->slot && (work->slot->idle || pgqrs_backend_monotonic() >= work->slot->rescan_us);
    if (work->slot && !work->full && !pgqrsi_pg_in_callers_transaction(work->pg)) pgqrsi_pg_doubt(work->pg, work->slot);
    pgqrs_result result = pgqrsi_pg_first_round(work, tend);
    if (result || !claim) return result;
    result = pgqrsi_pg_more_rounds(work);
    if (result) return result;
    work->slot->idle = work->got == 0;
    if (claim->paused || claim->refused) claim->next_due_us = -1;
    return pgqrsi_pg_messages(work);
}

/* Room in the group for every run and what else may belong to it. */
static bool pgqrsi_pg_work_room(pgqrsi_pg_work *work)
{
    size_t count = work->run_count + PGQRSI_PG_GROUP - 2;
    if (count <= PGQRSI_PG_GROUP) return true;
    if (count > INT32_MAX / (sizeof(pgqrsi_pg_call) + 2 * sizeof(void *))) return false;
    work->block_size = count * (sizeof(pgqrsi_pg_call) + 2 * sizeof(void *));
    work->block = (char *)pgqrs_backend_alloc(work->pg->store, work->block_size);
    if (!work->block) return false;
    work->calls = (pgqrsi_pg_call *)(void *)work->block;
    work->group.calls = (pgqrsi_pg_call **)(void *)(work->calls + count);
    work->group.results = (PGresult **)(void *)(work->group.calls + count);
    return true;
}

static void pgqrsi_pg_work_start(pgqrsi_pg_work *work, pgqrsi_pg *pg, pgqrs_backend_exchange *exchange)
{
    pgqrsi_pg_group_start(&work->group);
    work->pg = pg;
    work->exchange = exchange;
    work->calls = work->few;
    work->block = NULL;
    work->block_size = 0;
    work->items = NULL;
    work->claim_count = 0;
    work->got = 0;
    work->spare = NULL;
    work->run_count = 0;
    for (size_t i = 0; i < exchange->verdict_count; i++)
        work->run_count += exchange->verdicts[i].run != NULL;
}

static pgqrs_result pgqrsi_pg_exchange(void *self, pgqrs_backend_exchange *exchange)
{
    pgqrsi_pg_item local[PGQRSI_PG_LOCAL_ITEMS];
    pgqrsi_pg_item *local_chosen[PGQRSI_PG_LOCAL_ITEMS];
    pgqrsi_pg_work work;
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    size_t bytes = exchange->verdict_count * (sizeof(pgqrsi_pg_item) + sizeof(pgqrsi_pg_item *));
    bool large = exchange->verdict_count > PGQRSI_PG_LOCAL_ITEMS;
    pgqrsi_pg_work_start(&work, pg, exchange);
    bool ready = pgqrsi_pg_work_room(&work);
    if (ready && exchange->claim && exchange->verdict_count > 0) {
        work.spare = (pgqrs_messages *)pgqrs_backend_result_new(pg->store, sizeof *work.spare, 0);
        ready = work.spare != NULL;
    }
    if (ready) work.items = large ? (pgqrsi_pg_item *)pgqrs_backend_resize(pg->store, NULL, 0, bytes) : local;
    pgqrs_result result = work.items ? PGQRS_OK : pgqrsi_pg_no_memory(pg);
    if (!result) {
        work.chosen = large ? (pgqrsi_pg_item **)(void *)(work.items + exchange->verdict_count) : local_chosen;
        work.slot = exchange->claim ? pgqrsi_pg_queue_slot(pg, exchange->claim->queue) : NULL;
        pgqrsi_pg_items_fill(work.items, exchange->verdicts, exchange->verdict_count);
        result = pgqrsi_pg_exchange_run(&work);
        pgqrsi_pg_group_clear(&work.group);
    }
    for (int i = 0; i < work.claim_count; i++)
        PQclear(work.claims[i]);
    pgqrs_free(work.spare);
    if (large && work.items) pgqrs_backend_free(pg->store, work.items, bytes);
    if (work.block) pgqrs_backend_free(pg->store, work.block, work.block_size);
    return result;
}

/* --- extend ------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_pg_extend(void *self, const pgqrs_backend_extend *request)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r;
    pgqrsi_pg_start(&call, pg, PGQRSI_PG_EXTEND);
    char *out = pgqrsi_pg_array(&call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, request->count, 8 * request->count);
    for (size_t i = 0; out && i < request->count; i++)
        out = pgqrsi_pg_put_int64(out, request->leases[i].lease);
    pgqrsi_pg_time(&call, request->now_us);
    out = pgqrsi_pg_array(&call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, request->count, 8 * request->count);
    for (size_t i = 0; out && i < request->count; i++)
        out = pgqrsi_pg_put_int64(out, request->leases[i].id);
    pgqrsi_pg_int64(&call, request->lease_us);
    pgqrsi_pg_int64(&call, request->worker.id);
    pgqrsi_pg_int64(&call, request->worker.epoch);
    pgqrs_result result = pgqrsi_pg_run_one(&call, &r, true, false);
    for (size_t i = 0; i < request->count; i++)
        request->results[i] = result ? result : PGQRS_ERR_LEASE_LOST;
    for (int row = 0; row < PQntuples(r); row++) {
        int64_t place = pgqrsi_pg_get_int64(r, row, 0);
        if (place >= 1 && (uint64_t)place <= request->count) request->results[place - 1] = PGQRS_OK;
    }
    PQclear(r);
    return result;
}

/* --- runs: the hot path -------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_pg_no_workflow(pgqrsi_pg *pg, const char *workflow)
{
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_WORKFLOW_NOT_FOUND, 0, NULL,
                              "there is no workflow \"%s\": create it with pgqrs_workflow_create", workflow);
}

static pgqrs_result pgqrsi_pg_no_run(pgqrsi_pg *pg, int64_t run_id)
{
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_RUN_NOT_FOUND, 0, NULL, "no run has the id %lld", (long long)run_id);
}

static void pgqrsi_pg_put_trigger_texts(pgqrsi_pg_call *call, const pgqrs_backend_trigger *request, bool keys)
{
    size_t bytes = 0;
    for (size_t i = 0; i < request->count; i++) {
        const char *key = request->items[i].idempotency_key;
        bytes += !keys ? request->items[i].input_size : key ? strlen(key) : 0;
    }
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TEXT_ARRAY, PGQRSI_PG_TEXT, request->count, bytes);
    for (size_t i = 0; out && i < request->count; i++) {
        const pgqrs_backend_trigger_item *item = &request->items[i];
        const char *key = item->idempotency_key;
        if (keys)
            out = pgqrsi_pg_put_text(out, key, key ? strlen(key) : 0);
        else
            out = pgqrsi_pg_put_text(out, item->input, item->input_size);
    }
}

static void pgqrsi_pg_put_trigger_items(pgqrsi_pg_call *call, const pgqrs_backend_trigger *request)
{
    size_t count = request->count;
    pgqrsi_pg_put_trigger_texts(call, request, false);
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT4_ARRAY, PGQRSI_PG_INT4, count, 4 * count);
    for (size_t i = 0; out && i < count; i++)
        out = pgqrsi_pg_put_int32(out, request->items[i].priority);
    out = pgqrsi_pg_array(call, PGQRSI_PG_TIME_ARRAY, PGQRSI_PG_TIME, count, 8 * count);
    for (size_t i = 0; out && i < count; i++)
        out = pgqrsi_pg_put_time(out, request->items[i].due.at_us);
    pgqrsi_pg_array_end(call, out);
    out = pgqrsi_pg_array(call, PGQRSI_PG_INT8_ARRAY, PGQRSI_PG_INT8, count, 8 * count);
    for (size_t i = 0; out && i < count; i++)
        out = pgqrsi_pg_put_int64(out, request->items[i].due.delay_us);
    pgqrsi_pg_put_trigger_texts(call, request, true);
}

static void pgqrsi_pg_trigger_start(pgqrsi_pg_call *call, pgqrsi_pg *pg, const pgqrs_backend_trigger *request)
{
    const pgqrs_backend_trigger_item *first = &request->items[0];
    bool one = request->count == 1 && !first->idempotency_key;
    pgqrsi_pg_start(call, pg, one ? PGQRSI_PG_TRIGGER_ONE : PGQRSI_PG_TRIGGER_ANY);
    pgqrsi_pg_text(call, request->workflow);
    pgqrsi_pg_time(call, request->now_us);
    if (one) {
        pgqrsi_pg_text_sized(call, first->input, first->input_size);
        pgqrsi_pg_int32(call, first->priority);
        pgqrsi_pg_time(call, first->due.at_us);
        pgqrsi_pg_int64(call, first->due.delay_us);
    } else {
        pgqrsi_pg_put_trigger_items(call, request);
    }
}

/* Safe to repeat after a lost reply only when every run has a key, like an enqueue. */
static pgqrs_result pgqrsi_pg_trigger(void *self, const pgqrs_backend_trigger *request, pgqrs_receipt *receipts)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r;
    bool repeatable = true;
    for (size_t i = 0; i < request->count; i++)
        repeatable = repeatable && request->items[i].idempotency_key;
    pgqrsi_pg_trigger_start(&call, pg, request);
    bool any = call.statement == PGQRSI_PG_TRIGGER_ANY;
    pgqrs_result result = pgqrsi_pg_run_one(&call, &r, repeatable, true);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_no_workflow(pg, request->workflow);
    if (!result && (size_t)PQntuples(r) != request->count)
        result = pgqrs_backend_fail(pg->store, PGQRS_ERR_INTERNAL, 0, NULL,
                                    "the trigger statement returned %d rows of %zu", PQntuples(r), request->count);
    for (size_t i = 0; i < request->count && !result; i++) {
        receipts[i].id = pgqrsi_pg_get_int64(r, (int)i, any ? 1 : 0);
        receipts[i].duplicate = any && pgqrsi_pg_get_int64(r, (int)i, 2) != 0;
    }
    PQclear(r);
    return result;
}

/* --- run_write: what of a step goes into which array */

typedef enum pgqrsi_pg_step_column {
    PGQRSI_PG_STEP_NUMBER = 0,
    PGQRSI_PG_STEP_KIND = 1,
    PGQRSI_PG_STEP_STATE = 2,
    PGQRSI_PG_STEP_RETRIES = 3,
    PGQRSI_PG_STEP_STARTED = 4,
    PGQRSI_PG_STEP_FINISHED = 5,
    PGQRSI_PG_STEP_DUE = 6,
    PGQRSI_PG_STEP_NAME = 7,
    PGQRSI_PG_STEP_KEY = 8,
    PGQRSI_PG_STEP_INPUT = 9,
    PGQRSI_PG_STEP_OUTPUT = 10,
    PGQRSI_PG_STEP_CODE = 11,
    PGQRSI_PG_STEP_MESSAGE = 12
} pgqrsi_pg_step_column;

static int32_t pgqrsi_pg_step_number(const pgqrs_step_info *step, int column)
{
    if (column == PGQRSI_PG_STEP_NUMBER) return step->number;
    if (column == PGQRSI_PG_STEP_KIND) return (int32_t)step->kind;
    return column == PGQRSI_PG_STEP_STATE ? (int32_t)step->state : step->retries;
}

static int64_t pgqrsi_pg_step_time(const pgqrs_step_info *step, int column)
{
    if (column == PGQRSI_PG_STEP_STARTED) return step->started_at_us;
    return column == PGQRSI_PG_STEP_FINISHED ? step->finished_at_us : step->due_at_us;
}

static const char *pgqrsi_pg_step_text(const pgqrs_step_info *step, int column, size_t *size)
{
    const char *texts[6];
    texts[0] = step->name;
    texts[1] = step->key;
    texts[2] = step->input;
    texts[3] = step->output;
    texts[4] = step->error_code;
    texts[5] = step->error_message;
    const char *text = texts[column - PGQRSI_PG_STEP_NAME];
    *size = !text ? 0 : column == PGQRSI_PG_STEP_OUTPUT ? step->output_size : strlen(text);
    return text;
}

/* An array nobody looks into costs nothing as NULL. */
static void pgqrsi_pg_null(pgqrsi_pg_call *call, Oid type)
{
    pgqrsi_pg_add(call, type, NULL, 0);
}

static void pgqrsi_pg_put_step_numbers(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, int column)
{
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_INT4_ARRAY, PGQRSI_PG_INT4, write->step_count, 4 * write->step_count);
    for (size_t i = 0; out && i < write->step_count; i++)
        out = pgqrsi_pg_put_int32(out, pgqrsi_pg_step_number(&write->steps[i], column));
}

static void pgqrsi_pg_put_step_times(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, int column)
{
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TIME_ARRAY, PGQRSI_PG_TIME, write->step_count, 8 * write->step_count);
    for (size_t i = 0; out && i < write->step_count; i++)
        out = pgqrsi_pg_put_time(out, pgqrsi_pg_step_time(&write->steps[i], column));
    pgqrsi_pg_array_end(call, out);
}

static void pgqrsi_pg_put_step_texts(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, int column)
{
    size_t bytes = 0, size;
    for (size_t i = 0; i < write->step_count; i++) {
        (void)pgqrsi_pg_step_text(&write->steps[i], column, &size);
        bytes += size;
    }
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TEXT_ARRAY, PGQRSI_PG_TEXT, write->step_count, bytes);
    for (size_t i = 0; out && i < write->step_count; i++) {
        const char *text = pgqrsi_pg_step_text(&write->steps[i], column, &size);
        out = pgqrsi_pg_put_text(out, text, size);
    }
}

static void pgqrsi_pg_put_steps(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write)
{
    for (int column = PGQRSI_PG_STEP_NUMBER; column <= PGQRSI_PG_STEP_MESSAGE; column++) {
        bool text = column >= PGQRSI_PG_STEP_NAME, number = column <= PGQRSI_PG_STEP_RETRIES;
        if (write->step_count == 0)
            pgqrsi_pg_null(call, text ? PGQRSI_PG_TEXT_ARRAY : number ? PGQRSI_PG_INT4_ARRAY : PGQRSI_PG_TIME_ARRAY);
        else if (text)
            pgqrsi_pg_put_step_texts(call, write, column);
        else if (number)
            pgqrsi_pg_put_step_numbers(call, write, column);
        else
            pgqrsi_pg_put_step_times(call, write, column);
    }
}

static void pgqrsi_pg_put_values(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, bool names)
{
    size_t bytes = 0;
    if (write->value_count == 0) {
        pgqrsi_pg_null(call, PGQRSI_PG_TEXT_ARRAY);
        return;
    }
    for (size_t i = 0; i < write->value_count; i++) {
        const pgqrs_backend_value *value = &write->values[i];
        bytes += names ? strlen(value->name) : value->value ? value->value_size : 0;
    }
    char *out = pgqrsi_pg_array(call, PGQRSI_PG_TEXT_ARRAY, PGQRSI_PG_TEXT, write->value_count, bytes);
    for (size_t i = 0; out && i < write->value_count; i++) {
        const pgqrs_backend_value *value = &write->values[i];
        if (names)
            out = pgqrsi_pg_put_text(out, value->name, strlen(value->name));
        else
            out = pgqrsi_pg_put_text(out, value->value, value->value_size);
    }
}

static void pgqrsi_pg_put_write(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, int64_t now_us,
                                int64_t lease_us)
{
    pgqrsi_pg_int64(call, write->lease);
    pgqrsi_pg_time(call, now_us);
    pgqrsi_pg_int64(call, write->run_id);
    pgqrsi_pg_int64(call, lease_us);
    pgqrsi_pg_int32(call, (int32_t)write->state);
    pgqrsi_pg_int32(call, write->retries);
    pgqrsi_pg_time(call, write->started_at_us);
    pgqrsi_pg_int32(call, (int32_t)write->wait);
    pgqrsi_pg_text(call, write->wait_name);
    pgqrsi_pg_time(call, write->wait_until_us);
    pgqrsi_pg_text_sized(call, write->output, write->output_size);
    pgqrsi_pg_text(call, write->error_code);
    pgqrsi_pg_text(call, write->error_message);
    pgqrsi_pg_text(call, write->error_step);
    pgqrsi_pg_put_steps(call, write);
    pgqrsi_pg_put_values(call, write, true);
    pgqrsi_pg_put_values(call, write, false);
}

static bool pgqrsi_pg_is_one_step(const pgqrs_backend_run_write *write)
{
    return write->step_count == 1 && write->value_count == 0 && (int)write->state == 0 && write->lease_us == 0;
}

static bool pgqrsi_pg_is_plain_end(const pgqrs_backend_run_write *write)
{
    return write->step_count <= 1 && write->value_count == 0 && write->state >= PGQRS_RUN_CANCELLED &&
           write->lease_us == 0;
}

static void pgqrsi_pg_put_one_step(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, int64_t now_us)
{
    static const pgqrs_step_info none = {
        0, PGQRS_STEP_BODY, PGQRS_STEP_DONE, "", NULL, NULL, NULL, 0, NULL, NULL, 0, 0, 0, 0};
    const pgqrs_step_info *step = write->step_count ? &write->steps[0] : &none;
    pgqrsi_pg_int64(call, write->lease);
    pgqrsi_pg_time(call, now_us);
    pgqrsi_pg_int64(call, write->run_id);
    pgqrsi_pg_time(call, write->started_at_us);
    pgqrsi_pg_int32(call, step->number);
    pgqrsi_pg_int32(call, (int32_t)step->kind);
    pgqrsi_pg_int32(call, (int32_t)step->state);
    pgqrsi_pg_int32(call, step->retries);
    pgqrsi_pg_time(call, step->started_at_us);
    pgqrsi_pg_time(call, step->finished_at_us);
    pgqrsi_pg_time(call, step->due_at_us);
    pgqrsi_pg_text(call, step->name);
    pgqrsi_pg_text(call, step->key);
    pgqrsi_pg_text(call, step->input);
    pgqrsi_pg_text_sized(call, step->output, step->output_size);
    pgqrsi_pg_text(call, step->error_code);
    pgqrsi_pg_text(call, step->error_message);
}

static void pgqrsi_pg_put_end(pgqrsi_pg_call *call, const pgqrs_backend_run_write *write, int64_t now_us)
{
    bool failed = write->state == PGQRS_RUN_ERROR;
    pgqrsi_pg_put_one_step(call, write, now_us);
    pgqrsi_pg_int32(call, (int32_t)write->state);
    pgqrsi_pg_text_sized(call, write->output, write->output_size);
    pgqrsi_pg_text(call, failed ? write->error_code : NULL);
    pgqrsi_pg_text(call, failed ? write->error_message : NULL);
    pgqrsi_pg_text(call, failed ? write->error_step : NULL);
}

static void pgqrsi_pg_take_write(const PGresult *r, pgqrs_backend_run_write *write)
{
    bool done = PQntuples(r) > 0;
    write->result = done ? PGQRS_OK : PGQRS_ERR_LEASE_LOST;
    write->cancel = done && pgqrsi_pg_get_int64(r, 0, 0) != 0;
}

/* Repeating is harmless as long as the run goes on. One that ended by the attempt whose reply was lost looks like a lost lease to the
 * repetition. */
static pgqrs_result pgqrsi_pg_run_write(void *self, pgqrs_backend_run_write *write)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    pgqrsi_pg_group group;
    pgqrsi_pg_group_start(&group);
    if (pgqrsi_pg_is_one_step(write)) {
        pgqrsi_pg_start(&call, pg, PGQRSI_PG_RUN_STEP);
        pgqrsi_pg_put_one_step(&call, write, write->now_us);
    } else {
        pgqrsi_pg_start(&call, pg, PGQRSI_PG_RUN_WRITE);
        pgqrsi_pg_put_write(&call, write, write->now_us, write->lease_us);
    }
    group.calls[0] = &call;
    group.count = 1;
    group.repeatable = true;
    group.writes = true;
    pgqrs_result result = pgqrsi_pg_run_group(pg, &group);
    if (!result) pgqrsi_pg_take_write(group.results[0], write);
    if (!result && group.lost && write->result && write->state >= PGQRS_RUN_CANCELLED)
        result = pgqrsi_pg_lost(pg, true);
    pgqrsi_pg_group_clear(&group);
    return result;
}

/* --- run_load */

static bool pgqrsi_pg_read_settings(const PGresult *r, int row, int column, void *result, pgqrs_workflow_desc *settings)
{
    settings->retry.max_retries = (int32_t)pgqrsi_pg_get_int64(r, row, column + 1);
    settings->retry.backoff = (pgqrs_backoff)(int)pgqrsi_pg_get_int64(r, row, column + 2);
    settings->retry.base_ms = pgqrsi_pg_get_int64(r, row, column + 3);
    settings->retry.cap_ms = pgqrsi_pg_get_int64(r, row, column + 4);
    settings->retry.jitter_percent = (int32_t)pgqrsi_pg_get_int64(r, row, column + 5);
    settings->timeout_ms = pgqrsi_pg_get_int64(r, row, column + 6);
    settings->step_timeout_ms = pgqrsi_pg_get_int64(r, row, column + 7);
    settings->retention_ms = pgqrsi_pg_get_int64(r, row, column + 8);
    settings->failed_retention_ms = pgqrsi_pg_get_int64(r, row, column + 9);
    return pgqrsi_pg_copy(result, r, row, column, &settings->queue);
}

/* The columns are those of pgqrsi_pg_run_steps_sql. */
static bool pgqrsi_pg_read_step(const PGresult *r, int row, void *result, pgqrs_step_info *step)
{
    step->number = (int32_t)pgqrsi_pg_get_int64(r, row, 0);
    step->kind = (pgqrs_step_kind)(int)pgqrsi_pg_get_int64(r, row, 1);
    step->state = (pgqrs_step_state)(int)pgqrsi_pg_get_int64(r, row, 2);
    step->retries = (int32_t)pgqrsi_pg_get_int64(r, row, 3);
    step->started_at_us = pgqrsi_pg_get_int64(r, row, 4);
    step->finished_at_us = pgqrsi_pg_get_int64(r, row, 5);
    step->due_at_us = pgqrsi_pg_get_int64(r, row, 6);
    step->output_size = PQgetisnull(r, row, 10) ? 0 : (size_t)PQgetlength(r, row, 10);
    return pgqrsi_pg_copy(result, r, row, 7, &step->name) && pgqrsi_pg_copy(result, r, row, 8, &step->key) &&
           pgqrsi_pg_copy(result, r, row, 9, &step->input) && pgqrsi_pg_copy(result, r, row, 10, &step->output) &&
           pgqrsi_pg_copy(result, r, row, 11, &step->error_code) &&
           pgqrsi_pg_copy(result, r, row, 12, &step->error_message);
}

static bool pgqrsi_pg_read_steps(const PGresult *r, void *result, const pgqrs_step_info **items, size_t *count)
{
    size_t rows = (size_t)PQntuples(r);
    pgqrs_step_info *steps = (pgqrs_step_info *)pgqrs_backend_result_alloc(result, (rows ? rows : 1) * sizeof *steps);
    bool good = steps != NULL;
    for (size_t i = 0; good && i < rows; i++)
        good = pgqrsi_pg_read_step(r, (int)i, result, &steps[i]);
    *items = steps;
    *count = good ? rows : 0;
    return good;
}

static bool pgqrsi_pg_read_events(const PGresult *r, pgqrs_backend_run *run)
{
    size_t rows = (size_t)PQntuples(r);
    pgqrs_backend_run_event *events =
        (pgqrs_backend_run_event *)pgqrs_backend_result_alloc(run, (rows ? rows : 1) * sizeof *events);
    bool good = events != NULL;
    for (size_t i = 0; good && i < rows; i++) {
        events[i].payload_size = (size_t)PQgetlength(r, (int)i, 1);
        good =
            pgqrsi_pg_copy(run, r, (int)i, 0, &events[i].name) && pgqrsi_pg_copy(run, r, (int)i, 1, &events[i].payload);
    }
    run->events = events;
    run->event_count = good ? rows : 0;
    return good;
}

/* The columns are those of pgqrsi_pg_run_load_sql. */
static bool pgqrsi_pg_read_run_head(const PGresult *r, pgqrs_backend_run *run)
{
    run->now_us = pgqrsi_pg_get_int64(r, 0, 11);
    run->stored = (pgqrs_run_state)(int)pgqrsi_pg_get_int64(r, 0, 12);
    run->cancel = pgqrsi_pg_get_int64(r, 0, 13) != 0;
    run->retries = (int32_t)pgqrsi_pg_get_int64(r, 0, 14);
    run->started_at_us = pgqrsi_pg_get_int64(r, 0, 15);
    run->deadline_at_us = pgqrsi_pg_get_int64(r, 0, 16);
    return pgqrsi_pg_copy(run, r, 0, 0, &run->workflow) && pgqrsi_pg_read_settings(r, 0, 1, run, &run->settings);
}

/* `past`: steps and events; NULL: there are none. */
static pgqrs_backend_run *pgqrsi_pg_read_run(pgqrsi_pg *pg, const PGresult *head, PGresult *const *past, int64_t run_id)
{
    size_t bytes = pgqrsi_pg_text_bytes(head) + 256;
    if (past) bytes += pgqrsi_pg_text_bytes(past[0]) + pgqrsi_pg_text_bytes(past[1]);
    if (past) bytes += (size_t)PQntuples(past[0]) * sizeof(pgqrs_step_info);
    if (past) bytes += (size_t)PQntuples(past[1]) * sizeof(pgqrs_backend_run_event);
    pgqrs_backend_run *run = (pgqrs_backend_run *)pgqrs_backend_result_new(pg->store, sizeof *run, bytes);
    if (!run) return NULL;
    run->id = run_id;
    if (pgqrsi_pg_read_run_head(head, run) &&
        (!past ||
         (pgqrsi_pg_read_steps(past[0], run, &run->steps, &run->step_count) && pgqrsi_pg_read_events(past[1], run))))
        return run;
    pgqrs_free(run);
    return NULL;
}

/* A run that was under way before. */
static pgqrs_result pgqrsi_pg_load_past(pgqrsi_pg *pg, const PGresult *head, int64_t run_id, pgqrs_backend_run **out)
{
    pgqrsi_pg_call calls[2];
    pgqrsi_pg_group group;
    pgqrsi_pg_group_start(&group);
    for (int i = 0; i < 2; i++) {
        pgqrsi_pg_start(&calls[i], pg, i == 0 ? PGQRSI_PG_RUN_STEPS : PGQRSI_PG_RUN_EVENTS);
        pgqrsi_pg_int64(&calls[i], run_id);
        group.calls[i] = &calls[i];
    }
    group.count = 2;
    group.repeatable = true;
    pgqrs_result result = pgqrsi_pg_run_group(pg, &group);
    if (!result && (*out = pgqrsi_pg_read_run(pg, head, group.results, run_id)) == NULL)
        result = pgqrsi_pg_no_memory(pg);
    pgqrsi_pg_group_clear(&group);
    return result;
}

/* One look is enough for a run that has no past. Nobody but the caller adds steps; an event that comes in between is found when the
 * run goes to sleep. */
static pgqrs_result pgqrsi_pg_run_load(void *self, int64_t now_us, int64_t run_id, pgqrs_backend_run **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *head = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PG_RUN_LOAD);
    pgqrsi_pg_int64(&call, run_id);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_read(&call, &head);
    bool found = !result && PQntuples(head) > 0;
    if (found && pgqrsi_pg_get_int64(head, 0, 17) != 0)
        result = pgqrsi_pg_load_past(pg, head, run_id, out);
    else if (found && (*out = pgqrsi_pg_read_run(pg, head, NULL, run_id)) == NULL)
        result = pgqrsi_pg_no_memory(pg);
    PQclear(head);
    return result;
}

/* --- run_send: two statements, the second of which sees what the first one waited for */

static pgqrs_result pgqrsi_pg_run_send(void *self, int64_t now_us, int64_t run_id, const char *event,
                                       const char *payload, size_t payload_size, bool *accepted, pgqrs_run_state *state)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call calls[2];
    pgqrsi_pg_group group;
    *accepted = false;
    pgqrsi_pg_group_start(&group);
    pgqrsi_pg_start(&calls[0], pg, PGQRSI_PG_RUN_SEND);
    pgqrsi_pg_int64(&calls[0], run_id);
    pgqrsi_pg_time(&calls[0], now_us);
    pgqrsi_pg_text(&calls[0], event);
    pgqrsi_pg_text_sized(&calls[0], payload ? payload : "null", payload ? payload_size : 4);
    pgqrsi_pg_start(&calls[1], pg, PGQRSI_PG_RUN_WAKE);
    pgqrsi_pg_int64(&calls[1], run_id);
    group.calls[0] = &calls[0];
    group.calls[1] = &calls[1];
    group.count = 2;
    group.writes = true;
    pgqrs_result result = pgqrsi_pg_run_group(pg, &group);
    if (!result && PQntuples(group.results[0]) == 0) result = pgqrsi_pg_no_run(pg, run_id);
    if (!result) {
        *state = (pgqrs_run_state)(int)pgqrsi_pg_get_int64(group.results[0], 0, 0);
        *accepted = pgqrsi_pg_get_int64(group.results[0], 0, 1) != 0;
    }
    pgqrsi_pg_group_clear(&group);
    return result;
}

/* --- waiting ------------------------------------------------------------------------------------------------------ */

static void pgqrsi_pg_swallow(pgqrsi_pg *pg)
{
    PGnotify *notice;
    if (!pg->connection || PQconsumeInput(pg->connection) != 1) return;
    while ((notice = PQnotifies(pg->connection)) != NULL)
        PQfreemem(notice);
}

static pgqrs_result pgqrsi_pg_listen(pgqrsi_pg *pg, int64_t *ignored)
{
    pgqrs_result result = pg->listening ? PGQRS_OK : pgqrsi_pg_scalar(pg, "LISTEN \"@!\"", ignored);
    pg->listening = result == PGQRS_OK;
    return result;
}

/* The row in `sleepers` is what makes producers notify. It is renewed only when half of its time is over, so that waiting costs
 * no writes. */
static pgqrs_result pgqrsi_pg_lie_down(pgqrsi_pg *pg, const char *queue, int64_t run_id, int64_t for_us)
{
    pgqrsi_pg_call call;
    PGresult *r;
    int64_t monotonic_us = pgqrs_backend_monotonic();
    if (strcmp(pg->wait_queue, queue) == 0 && pg->wait_until_us - monotonic_us > for_us / 2) return PGQRS_OK;
    if (!pg->wait_token) pg->wait_token = (int64_t)(pgqrs_backend_random(pg->store) >> 1) | 1;
    pgqrsi_pg_start(&call, pg, run_id ? PGQRSI_PG_RUN_SLEEP : PGQRSI_PG_SLEEP);
    if (run_id)
        pgqrsi_pg_int64(&call, run_id);
    else
        pgqrsi_pg_text(&call, queue);
    pgqrsi_pg_int64(&call, for_us);
    pgqrsi_pg_int64(&call, pg->wait_token);
    pgqrs_result result = pgqrsi_pg_run_one(&call, &r, true, false);
    PQclear(r);
    if (result) return result;
    snprintf(pg->wait_queue, sizeof pg->wait_queue, "%s", queue);
    pg->wait_until_us = monotonic_us + for_us;
    return PGQRS_OK;
}

/* Sleeping is about real time. Inside an open transaction nobody would hear of it. */
static pgqrs_result pgqrsi_pg_wait_for(pgqrsi_pg *pg, const char *name, int64_t run_id, int64_t for_us)
{
    int64_t ignored = 0;
    if (!(pgqrsi_pg_capabilities(pg) & PGQRS_CAN_WAKE) || pg->open) return PGQRS_OK;
    pgqrs_result result = pgqrsi_pg_retry(pg, pgqrsi_pg_listen, &ignored);
    if (!result) result = pgqrsi_pg_lie_down(pg, name, run_id, for_us);
    pgqrsi_pg_swallow(pg);
    return result;
}

static pgqrs_result pgqrsi_pg_wait_begin(void *self, int64_t now_us, const char *queue, int64_t for_us)
{
    (void)now_us;
    return pgqrsi_pg_wait_for((pgqrsi_pg *)self, queue, 0, for_us);
}

/* A run stands among the sleepers under its negative id. No queue can have a name with a control character in it. */
static pgqrs_result pgqrsi_pg_run_wait_begin(void *self, int64_t now_us, int64_t run_id, int64_t for_us)
{
    char name[32];
    (void)now_us;
    snprintf(name, sizeof name, "\n%lld", (long long)run_id);
    return pgqrsi_pg_wait_for((pgqrsi_pg *)self, name, run_id, for_us);
}

/* News that came along with the reply to a statement has been read from the socket already, which stays silent about it. */
static bool pgqrsi_pg_has_news(pgqrsi_pg *pg)
{
    bool news = false;
    PGnotify *notice;
    while ((notice = PQnotifies(pg->connection)) != NULL) {
        PQfreemem(notice);
        news = true;
    }
    return news;
}

static int pgqrsi_pg_wait_fd(void *self)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    if (!pg->connection || !pg->listening) return -1;
    if (pgqrsi_pg_has_news(pg)) {
        if (pg->nudge_fd < 0) pg->nudge_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (pg->nudge_fd >= 0) return pg->nudge_fd;
    }
    return PQsocket(pg->connection);
}

/* A connection that broke meanwhile is not made again for this: the row runs out by itself. */
static void pgqrsi_pg_wait_end(void *self)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    if (pg->wait_until_us && !pg->open && pgqrsi_pg_alive(pg)) {
        pgqrsi_pg_call call;
        PGresult *r;
        pgqrsi_pg_start(&call, pg, PGQRSI_PG_WAKE);
        pgqrsi_pg_int64(&call, pg->wait_token);
        pgqrsi_pg_run_one(&call, &r, true, false);
        PQclear(r);
    }
    pg->wait_until_us = 0;
    pg->wait_queue[0] = '\0';
    pgqrsi_pg_swallow(pg);
}

/* --- housekeeping ------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_pg_maintain_queue(pgqrsi_pg *pg, int64_t now_us, const char *queue, int64_t *changed)
{
    pgqrsi_pg_call calls[2];
    pgqrsi_pg_group group;
    pgqrsi_pg_group_start(&group);
    for (int i = 0; i < 2; i++) {
        pgqrsi_pg_start(&calls[i], pg, i == 0 ? PGQRSI_PG_TEND : PGQRSI_PG_RETAIN);
        pgqrsi_pg_text(&calls[i], queue);
        pgqrsi_pg_time(&calls[i], now_us);
        group.calls[i] = &calls[i];
    }
    group.count = 2;
    group.repeatable = true;
    pgqrs_result result = pgqrsi_pg_run_group(pg, &group);
    if (!result && PQntuples(group.results[0]) > 0) *changed += pgqrsi_pg_get_int64(group.results[0], 0, 3);
    if (!result && PQntuples(group.results[1]) > 0) *changed += pgqrsi_pg_get_int64(group.results[1], 0, 0);
    pgqrsi_pg_group_clear(&group);
    if (!result) *changed += pgqrsi_pg_retain_runs(pg, now_us, queue);
    return result;
}

static pgqrs_result pgqrsi_pg_maintain(void *self, int64_t now_us, int64_t *changed)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int64_t after = 0;
    *changed = 0;
    for (;;) {
        pgqrsi_pg_call call;
        PGresult *r;
        pgqrsi_pg_start(&call, pg, PGQRSI_PG_NEXT_QUEUE);
        pgqrsi_pg_int64(&call, after);
        pgqrs_result result = pgqrsi_pg_read(&call, &r);
        bool more = !result && PQntuples(r) > 0;
        if (more) {
            after = pgqrsi_pg_get_int64(r, 0, 0);
            result = pgqrsi_pg_maintain_queue(pg, now_us, pgqrsi_pg_get_text(r, 0, 1, NULL), changed);
        }
        PQclear(r);
        if (result || !more) return result;
    }
}

/* --- administration: queues, messages, workers, numbers -------------------------------------------------------------
 *
 * Everything here may run beside claims and settlements that move messages from table to table. Three rules keep it
 * right: a statement that takes rows out derives everything from what its DELETE returns; what must be looked at first
 * is locked by one statement and changed by the next, whose snapshot then shows what the lock protects; and nobody waits
 * in a circle: leases are locked in their order, then workers, deduplication keys in theirs, and of two administrators
 * who touch rows in an order of their own one waits at the gate.
 * ---------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_PA_NOW(parameter) "coalesce($" parameter ",statement_timestamp())"

/* Message k.id of queue k.queue_id is in row t of ready or delayed; in row l of leases; in row d of done. */
#define PGQRSI_PA_IN_RUN "t.queue_id=k.queue_id AND t.lo<=k.id AND t.lo>k.id-50 AND k.id<t.lo+t.n"
#define PGQRSI_PA_IN_LEASE                                                                                             \
    "l.queue_id=k.queue_id AND l.lo_min<=k.id AND l.hi_max>=k.id"                                                      \
    " AND EXISTS(SELECT 1 FROM unnest(l.lo,l.n) AS u(lo,n) WHERE k.id>=u.lo AND k.id<u.lo+u.n)"
#define PGQRSI_PA_IN_DONE                                                                                              \
    "d.queue_id=k.queue_id AND d.lo_min<=k.id AND d.lo_min>k.id-1024 AND d.hi_max>=k.id"                               \
    " AND EXISTS(SELECT 1 FROM unnest(d.lo,d.n) AS u(lo,n) WHERE k.id>=u.lo AND k.id<u.lo+u.n)"

/* The messages of an id array $1, whatever their queue, as k(id, o, queue_id). */
#define PGQRSI_PA_FIND                                                                                                 \
    "k AS MATERIALIZED (SELECT u.id,u.o,m.queue_id FROM unnest($1) WITH ORDINALITY AS u(id,o) LEFT JOIN LATERAL"       \
    " (SELECT m.queue_id FROM @.pgqrs_messages m WHERE m.queue_id=ANY(ARRAY(SELECT id FROM @.pgqrs_queues))"           \
    " AND m.id=u.id) m ON true ORDER BY u.id)"

/* Ids $1 with their queues $2, as k(id, queue_id). */
#define PGQRSI_PA_GIVEN "k AS MATERIALIZED (SELECT * FROM unnest($1,$2) AS k(id,queue_id))"

/* Deletes the rows of `table` that have one of k. They are locked, so their places in the table stay what they are; the
 * OFFSET keeps the planner from anything but looking each of them up. */
#define PGQRSI_PA_TAKE(table, t, is)                                                                                   \
    "gone AS (DELETE FROM @." table " WHERE ctid=ANY(ARRAY(SELECT s.tid FROM k,LATERAL(SELECT " t ".ctid AS tid"       \
    " FROM @." table " " t " WHERE " is " OFFSET 0) s)) RETURNING *)"

/* The messages of deleted runs: `old` are those that are not to come back, either by their age or because they are
 * in k. */
#define PGQRSI_PA_OLD "($2 IS NULL OR m.enqueued_at<$2)"
#define PGQRSI_PA_MESSAGES_OF(r)                                                                                       \
    "LATERAL(SELECT m.id," PGQRSI_PA_OLD " AS old FROM @.pgqrs_messages m WHERE m.queue_id=$1 AND m.id>=" r ".lo"      \
    " AND m.id<" r ".lo+" r ".n OFFSET 0) m"
#define PGQRSI_PA_EACH_BY_AGE "each AS MATERIALIZED (SELECT g.*,m.id,m.old FROM gone g," PGQRSI_PA_MESSAGES_OF("g") ")"
#define PGQRSI_PA_EACH_IN_K                                                                                            \
    "each AS MATERIALIZED (SELECT g.*,x.id,x.id IN (SELECT id FROM k) AS old"                                          \
    " FROM gone g,generate_series(g.lo,g.lo+g.n-1) AS x(id))"

/* What is left of deleted runs comes back as runs. The order number stays, so what is left keeps its place in line. */
#define PGQRSI_PA_RUN_REST(columns)                                                                                    \
    " SELECT " columns ",min(id),count(*),attempt,expires_at,keyed FROM (SELECT e.*,"                                  \
    "id-row_number() OVER (PARTITION BY lo ORDER BY id) AS island FROM each e WHERE NOT old) e"                        \
    " GROUP BY " columns ",lo,island,attempt,expires_at,keyed ORDER BY " columns ",min(id)"
#define PGQRSI_PA_READY_REST                                                                                           \
    "rest AS (INSERT INTO @.pgqrs_ready(ord,queue_id,prio,lo,n,attempt,expires_at,keyed)" PGQRSI_PA_RUN_REST(          \
        "ord,queue_id,prio") ")"
#define PGQRSI_PA_DELAYED_REST                                                                                         \
    "rest AS (INSERT INTO @.pgqrs_delayed(due_at,queue_id,prio,lo,n,attempt,expires_at,keyed)" PGQRSI_PA_RUN_REST(     \
        "due_at,queue_id,prio") ")"

/* The same for the locked leases in the array `leases`: `each` has their messages. A lease keeps its row, so that
 * who waits for it finds it; one without messages goes. */
#define PGQRSI_PA_LEASE_REST(leases)                                                                                   \
    "runs AS (SELECT lease,o,min(id) AS lo,max(id) AS hi,count(*)::smallint AS n,attempt,prio FROM (SELECT e.*,"       \
    "id-row_number() OVER (PARTITION BY lease,o ORDER BY id) AS island FROM each e WHERE NOT old) e"                   \
    " GROUP BY lease,o,island,attempt,prio),"                                                                          \
    "rest AS MATERIALIZED (SELECT lease,sum(n)::int AS total,min(lo) AS lo_min,max(hi) AS hi_max,"                     \
    "array_agg(lo ORDER BY o,lo) AS lo,array_agg(n ORDER BY o,lo) AS n,array_agg(attempt ORDER BY o,lo) AS attempt,"   \
    "array_agg(prio ORDER BY o,lo) AS prio FROM runs GROUP BY lease),"                                                 \
    "smaller AS (UPDATE @.pgqrs_leases l SET total=r.total,lo_min=r.lo_min,hi_max=r.hi_max,lo=r.lo,n=r.n,"             \
    "attempt=r.attempt,prio=r.prio FROM rest r WHERE l.lease=r.lease AND l.total<>r.total),"                           \
    "empty AS (DELETE FROM @.pgqrs_leases l WHERE l.lease=ANY(" leases ")"                                             \
    " AND NOT EXISTS(SELECT 1 FROM rest r WHERE r.lease=l.lease))"
#define PGQRSI_PA_OLD_IDS "ids AS MATERIALIZED (SELECT queue_id,id FROM each WHERE old)"

/* What else belongs to runs that `source` has. */
#define PGQRSI_PA_FORGET_RUNS(source, id)                                                                              \
    "gone_steps AS (DELETE FROM @.pgqrs_steps t USING " source " r WHERE t.run_id=" id "),"                            \
    "gone_events AS (DELETE FROM @.pgqrs_run_events t USING " source " r WHERE t.run_id=" id "),"                      \
    "gone_values AS (DELETE FROM @.pgqrs_run_values t USING " source " r WHERE t.run_id=" id ")"

/* Forgets the messages in ids(queue_id, id) and counts them, and what is left of the runs that had them. */
#define PGQRSI_PA_FORGET                                                                                               \
    "forget AS (DELETE FROM @.pgqrs_failures f USING ids i WHERE f.message_id=i.id),"                                  \
    "keys AS MATERIALIZED (SELECT y.queue_id,y.key FROM @.pgqrs_dedup y JOIN ids i ON y.queue_id=i.queue_id"           \
    " AND y.message_id=i.id ORDER BY y.key COLLATE \"C\" FOR UPDATE OF y),"                                            \
    "unkey AS (DELETE FROM @.pgqrs_dedup y USING keys k WHERE y.queue_id=k.queue_id AND y.key=k.key),"                 \
    "gone_runs AS (DELETE FROM @.pgqrs_runs r USING ids i"                                                             \
    " WHERE i.queue_id=ANY(ARRAY(SELECT queue_id FROM @.pgqrs_workflows)) AND r.id=i.id RETURNING "                    \
    "r.id)," PGQRSI_PA_FORGET_RUNS("gone_runs", "r.id") ","                                                            \
                                                        "m AS (DELETE FROM @.pgqrs_messages m USING ids i WHERE "      \
                                                        "m.queue_id=i.queue_id AND m.id=i.id RETURNING 1)"             \
                                                        " SELECT count(*) FROM m"

/* Wakes who sleeps on the queues in `source`(queue_id): the notification leaves when the transaction commits. */
#define PGQRSI_PA_WAKE(source)                                                                                         \
    "(SELECT count(pg_notify('@!',s.queue_id::text)::text) FROM (SELECT DISTINCT queue_id FROM " source ") s"          \
    " WHERE EXISTS(SELECT 1 FROM @.pgqrs_sleepers z WHERE z.queue_id=s.queue_id AND z.until>statement_timestamp()))"

/* The messages of deleted leases go back to the tail of the line, or to the dead letters when their attempts are
 * used up: `gone` has the leases, the parameters are the reason and the time. What follows can count ids, and
 * selects PGQRSI_PA_RELEASED. */
#define PGQRSI_PA_RELEASED PGQRSI_PA_WAKE("runs WHERE NOT spent")
#define PGQRSI_PA_LEASE_COLUMNS "l.queue_id,l.lease,l.worker_id,l.keyed,l.lo,l.n,l.attempt,l.prio"
#define PGQRSI_PA_GONE(leases, lock)                                                                                   \
    "gone AS (DELETE FROM @.pgqrs_leases l USING (SELECT lease FROM @.pgqrs_leases WHERE " leases                      \
    " ORDER BY lease " lock ") k WHERE l.lease=k.lease RETURNING " PGQRSI_PA_LEASE_COLUMNS ")"
#define PGQRSI_PA_RELEASE(reason, now)                                                                                 \
    "runs AS (SELECT g.queue_id,g.lease,g.worker_id,g.keyed,r.lo,r.n,r.attempt,r.prio,r.o,"                            \
    "r.attempt>=q.max_attempts AS spent FROM gone g JOIN @.pgqrs_queues q ON q.id=g.queue_id,"                         \
    "unnest(g.lo,g.n,g.attempt,g.prio) WITH ORDINALITY AS r(lo,n,attempt,prio,o)),"                                    \
    "ids AS MATERIALIZED (SELECT r.*,x.id FROM runs r,generate_series(r.lo,r.lo+r.n-1) AS x(id)),"                     \
    "back AS (INSERT INTO @.pgqrs_ready(queue_id,prio,lo,n,attempt,keyed)"                                             \
    " SELECT queue_id,prio,lo,n,attempt,keyed FROM runs WHERE NOT spent ORDER BY lease,o),"                            \
    "failed AS (INSERT INTO @.pgqrs_failures(message_id,queue_id,attempt,at,reason)"                                   \
    " SELECT id,queue_id,attempt," now "," reason " FROM ids WHERE NOT spent ON CONFLICT (message_id)"                 \
    " DO UPDATE SET attempt=excluded.attempt,at=excluded.at,reason=excluded.reason),"                                  \
    "fatal AS (INSERT INTO @.pgqrs_dead(queue_id,id,attempt,at,reason,worker_id)"                                      \
    " SELECT queue_id,id,attempt," now "," reason ",worker_id FROM ids WHERE spent),"                                  \
    "forget AS (DELETE FROM @.pgqrs_failures f USING ids i WHERE i.spent AND f.message_id=i.id),"                      \
    "unkey AS (DELETE FROM @.pgqrs_dedup y USING ids i WHERE i.spent AND i.keyed AND y.queue_id=i.queue_id"            \
    " AND y.message_id=i.id)"

#define PGQRSI_PA_QUEUE_COLUMNS                                                                                        \
    "id,name,lease_ms,max_attempts,backoff_ms,backoff_max_ms,retention_ms,dead_retention_ms,paused,created_at"

#define PGQRSI_PA_HAS_OLD                                                                                              \
    "($2 IS NULL OR (SELECT true FROM @.pgqrs_messages m WHERE m.queue_id=$1 AND m.id>=t.lo AND m.id<t.lo+t.n"         \
    " AND m.enqueued_at<$2 LIMIT 1))"

#define PGQRSI_PA_QUEUE_STATEMENTS(X)                                                                                  \
    /* most queues are there already: then nothing is written */                                                       \
    X(QUEUE_CREATE, "WITH made AS (INSERT INTO @.pgqrs_queues(name,lease_ms,max_attempts,backoff_ms,backoff_max_ms,"   \
                    "retention_ms,dead_retention_ms,paused,created_at)"                                                \
                    " SELECT $1,$2,$3,$4,$5,$6,$7,$8," PGQRSI_PA_NOW(                                                  \
                        "9") " WHERE NOT EXISTS(SELECT 1 FROM @.pgqrs_queues WHERE name=$1)"                           \
                             " ON CONFLICT (name) DO NOTHING RETURNING id) SELECT count(*) FROM made")                 \
    X(QUEUE_CHANGE, "UPDATE @.pgqrs_queues SET lease_ms=coalesce(nullif($2,0),lease_ms),"                              \
                    "max_attempts=coalesce(nullif($3,0),max_attempts),backoff_ms=coalesce(nullif($4,0),backoff_ms),"   \
                    "backoff_max_ms=coalesce(nullif($5,0),backoff_max_ms),"                                            \
                    "retention_ms=CASE $6 WHEN 0 THEN retention_ms WHEN -1 THEN 0 ELSE $6 END,"                        \
                    "dead_retention_ms=CASE $7 WHEN 0 THEN dead_retention_ms WHEN -1 THEN 0 ELSE $7 END,"              \
                    "paused=CASE $8 WHEN 1 THEN true WHEN 2 THEN false ELSE paused END WHERE name=$1"                  \
                    " RETURNING id," PGQRSI_PA_WAKE("(SELECT id AS queue_id WHERE $8=2) r"))                           \
    X(QUEUE_GET, "SELECT " PGQRSI_PA_QUEUE_COLUMNS " FROM @.pgqrs_queues WHERE name=$1")                               \
    X(QUEUE_PAGE, "SELECT " PGQRSI_PA_QUEUE_COLUMNS " FROM @.pgqrs_queues WHERE id>$1 ORDER BY id LIMIT $2")           \
    X(GATE, "SELECT CASE WHEN $1 THEN pg_advisory_xact_lock(1886417010,'@.pgqrs_meta'::regclass::oid::int)"            \
            " ELSE pg_advisory_xact_lock_shared(1886417010,'@.pgqrs_meta'::regclass::oid::int) END::text")             \
    X(QUEUE_LOCK, "SELECT id FROM @.pgqrs_queues WHERE name=$1 FOR UPDATE")                                            \
    X(QUEUE_ID, "SELECT id FROM @.pgqrs_queues WHERE name=$1")                                                         \
    X(PATIENCE, "SELECT current_setting('lock_timeout'),set_config('lock_timeout',coalesce($1,'3s'),true)")            \
    X(QUEUE_BARRIER, "LOCK TABLE @.pgqrs_leases,@.pgqrs_messages IN EXCLUSIVE MODE")                                   \
    X(QUEUE_USE, "SELECT (SELECT count(*) FROM @.pgqrs_messages WHERE queue_id=$1),"                                   \
                 "(SELECT count(*) FROM @.pgqrs_workers WHERE queue_id=$1 AND state<>5),"                              \
                 "(SELECT name FROM @.pgqrs_workflows WHERE queue_id=$1 ORDER BY id LIMIT 1)")                         \
    X(DROP_DELAYED, "DELETE FROM @.pgqrs_delayed WHERE queue_id=$1")                                                   \
    X(DROP_READY, "DELETE FROM @.pgqrs_ready WHERE queue_id=$1")                                                       \
    X(DROP_LEASES, "DELETE FROM @.pgqrs_leases WHERE queue_id=$1")                                                     \
    X(DROP_DEAD, "DELETE FROM @.pgqrs_dead WHERE queue_id=$1")                                                         \
    X(DROP_DONE, "DELETE FROM @.pgqrs_done WHERE queue_id=$1")                                                         \
    X(DROP_FAILURES, "DELETE FROM @.pgqrs_failures WHERE queue_id=$1")                                                 \
    X(DROP_DEDUP, "DELETE FROM @.pgqrs_dedup WHERE queue_id=$1")                                                       \
    X(DROP_MESSAGES, "DELETE FROM @.pgqrs_messages WHERE queue_id=$1")                                                 \
    X(QUEUE_DROP, "WITH w AS (DELETE FROM @.pgqrs_workers WHERE queue_id=$1),"                                         \
                  "s AS (DELETE FROM @.pgqrs_sleepers WHERE queue_id=$1)"                                              \
                  " DELETE FROM @.pgqrs_queues WHERE id=$1")                                                           \
    X(PURGE_START,                                                                                                     \
      "SELECT id,CASE WHEN $3>0 THEN " PGQRSI_PA_NOW("2") "-$3*interval '1 millisecond' END"                           \
                                                          " FROM @.pgqrs_queues WHERE name=$1 FOR KEY SHARE")          \
    X(PURGE_DELAYED,                                                                                                   \
      "WITH gone AS (DELETE FROM @.pgqrs_delayed t WHERE t.queue_id=$1 AND " PGQRSI_PA_HAS_OLD                         \
      " RETURNING t.*)," PGQRSI_PA_EACH_BY_AGE "," PGQRSI_PA_OLD_IDS "," PGQRSI_PA_DELAYED_REST "," PGQRSI_PA_FORGET)  \
    X(PURGE_READY,                                                                                                     \
      "WITH gone AS (DELETE FROM @.pgqrs_ready t WHERE t.queue_id=$1 AND " PGQRSI_PA_HAS_OLD                           \
      " RETURNING t.*)," PGQRSI_PA_EACH_BY_AGE "," PGQRSI_PA_OLD_IDS "," PGQRSI_PA_READY_REST "," PGQRSI_PA_FORGET)    \
    X(PURGE_HAVE, "SELECT EXISTS(SELECT 1 FROM @.pgqrs_leases WHERE queue_id=$1)")                                     \
    X(PURGE_LOCK, "SELECT array_agg(lease) FROM (SELECT lease FROM @.pgqrs_leases WHERE queue_id=$1"                   \
                  " ORDER BY lease FOR UPDATE) l")                                                                     \
    X(PURGE_LOCK_FREE, "SELECT array_agg(lease) FROM (SELECT lease FROM @.pgqrs_leases WHERE queue_id=$1"              \
                       " FOR UPDATE SKIP LOCKED) l")                                                                   \
    X(PURGE_LEASED,                                                                                                    \
      "WITH each AS MATERIALIZED (SELECT l.queue_id,l.lease,r.o,r.attempt,r.prio,m.id,m.old"                           \
      " FROM @.pgqrs_leases l,unnest(l.lo,l.n,l.attempt,l.prio) WITH ORDINALITY AS"                                    \
      " r(lo,n,attempt,prio,o)," PGQRSI_PA_MESSAGES_OF("r") " WHERE l.lease=ANY($3))," PGQRSI_PA_OLD_IDS               \
                                                            "," PGQRSI_PA_LEASE_REST("$3") "," PGQRSI_PA_FORGET)       \
    X(PURGE_DEAD, "WITH ids AS (DELETE FROM @.pgqrs_dead WHERE queue_id=$1 AND ($2 IS NULL OR at<$2)"                  \
                  " RETURNING queue_id,id)," PGQRSI_PA_FORGET)                                                         \
    X(PURGE_DONE, "WITH gone AS (DELETE FROM @.pgqrs_done WHERE queue_id=$1 AND ($2 IS NULL OR at<$2)"                 \
                  " RETURNING queue_id,lo,n),ids AS MATERIALIZED (SELECT g.queue_id,x.id FROM gone g,"                 \
                  "unnest(g.lo,g.n) AS r(lo,n),generate_series(r.lo,r.lo+r.n-1) AS x(id))," PGQRSI_PA_FORGET)

/* What people see of a message: p says where it is, as (queue_id, id, k, a, l, w, t, z, x): k 1 ready, 2 delayed, 3
 * leased, 4 archived, 5 dead, 0 ready because its lease ran out; attempt, lease, worker, the time that belongs to k,
 * size of the lease, reason. A failed try explains the present state only of an unfinished message; an expiry
 * matters only until the first try. */
#define PGQRSI_PA_SHOW                                                                                                 \
    "SELECT p.id,CASE p.k WHEN 0 THEN 1 ELSE p.k END,m.priority,p.a,p.l,CASE WHEN p.k IN (0,3) THEN p.t END,p.w,"      \
    "m.enqueued_at,CASE p.k WHEN 2 THEN p.t END,CASE WHEN p.k>2 OR p.a=0 THEN m.expires_at END,"                       \
    "CASE WHEN p.k>3 THEN p.t END,p.z,n.name,m.dedup_key,m.producer,"                                                  \
    "CASE WHEN p.k>3 THEN p.x ELSE f.reason END,m.payload,w.name FROM ("
#define PGQRSI_PA_SHOWN                                                                                                \
    ") p(queue_id,id,k,a,l,w,t,z,x) JOIN @.pgqrs_messages m ON m.queue_id=p.queue_id AND m.id=p.id"                    \
    " JOIN @.pgqrs_queues n ON n.id=p.queue_id LEFT JOIN @.pgqrs_failures f ON f.message_id=p.id"                      \
    " LEFT JOIN @.pgqrs_workers w ON w.id=p.w"
#define PGQRSI_PA_AT_READY "q.id,x.id,1,r.attempt,0,q.n,q.u,0,q.x"
#define PGQRSI_PA_AT_DELAYED "q.id,x.id,2,r.attempt,0,q.n,r.due_at,0,q.x"
#define PGQRSI_PA_AT_LEASED                                                                                            \
    "q.id,x.id,CASE WHEN l.until>q.t THEN 3 ELSE 0 END,r.attempt,CASE WHEN l.until>q.t THEN l.lease ELSE 0 END,"       \
    "CASE WHEN l.until>q.t THEN l.worker_id END,l.until,CASE WHEN l.until>q.t THEN l.total ELSE 0 END,q.x"
#define PGQRSI_PA_AT_DONE "q.id,x.id,4,r.attempt,0,d.worker_id,d.at,0,CASE d.outcome WHEN 1 THEN 'expired' END"
#define PGQRSI_PA_AT_DEAD "q.id,x.id,5,x.attempt,0,x.worker_id,x.at,0,x.reason"
#define PGQRSI_PA_RUN_IDS ",generate_series(r.lo,r.lo+r.n-1) x(id)"
#define PGQRSI_PA_NULLS "NULL::bigint AS n,NULL::timestamptz AS u,NULL::text AS x"

/* The filter: $1 queue, $2 state, $3 worker, $4 enqueued from, $5 before; in lists $6 the cursor and $7 the limit;
 * then now. */
#define PGQRSI_PA_QUEUES(now)                                                                                          \
    "WITH q AS (SELECT id," PGQRSI_PA_NOW(                                                                             \
        now) " AS t,$4 IS NULL AND $5 IS NULL AS f,"                                                                   \
             "coalesce($4,'-infinity') AS a,coalesce($5,'infinity') AS b," PGQRSI_PA_NULLS                             \
             " FROM @.pgqrs_queues WHERE name=$1 OR $1 IS NULL)"
#define PGQRSI_PA_RANGE "m.enqueued_at>=q.a AND m.enqueued_at<q.b"
#define PGQRSI_PA_IN_RANGE                                                                                             \
    " AND (q.f OR (SELECT true FROM @.pgqrs_messages m WHERE m.queue_id=q.id AND m.id=x.id AND " PGQRSI_PA_RANGE "))"
#define PGQRSI_PA_LIST_ARM(direction, columns, from, order, when)                                                      \
    "SELECT s.* FROM q,LATERAL(SELECT " columns " FROM " from PGQRSI_PA_IN_RANGE " ORDER BY " order "x.id " direction  \
    " LIMIT $7) s WHERE " when

/* A page in the exact order of ids. Each place gives its first $7 messages beyond the cursor; the places are merged.
 * Runs of ready and delayed do not overlap, so the order of runs is the order of ids. Rows of done do overlap, but
 * no row is wider than 1024 ids: the first $7 rows bound the page, then everything within the bound is looked at.
 * `lo`, `lease`, `row` and `id` say what lies beyond the cursor in this direction, `edge` and `within` what the
 * bound is. */
#define PGQRSI_PA_LIST(direction, lo, lease, row, edge, within, id)                                                                                                                                                                               \
    PGQRSI_PA_QUEUES("8")                                                                                                                                                                                                                         \
    PGQRSI_PA_SHOW                                                                                                                                                                                                                                \
    "SELECT * FROM (" PGQRSI_PA_LIST_ARM(direction, PGQRSI_PA_AT_READY, "@.pgqrs_ready r" PGQRSI_PA_RUN_IDS " WHERE r.queue_id=q.id AND r.lo" lo " AND x.id" id, "r.lo " direction ",", "$2 IN (0,1) AND $3=0") " UNION ALL " PGQRSI_PA_LIST_ARM( \
        direction, PGQRSI_PA_AT_READY,                                                                                                                                                                                                            \
        "(SELECT * FROM @.pgqrs_delayed t WHERE t.queue_id=q.id AND t.due_at<=q.t OFFSET 0) r" PGQRSI_PA_RUN_IDS                                                                                                                                  \
        " WHERE x.id" id,                                                                                                                                                                                                                         \
        "",                                                                                                                                                                                                                                       \
        "$2 IN (0,1) AND $3=0") " UNION ALL " PGQRSI_PA_LIST_ARM(direction, PGQRSI_PA_AT_DELAYED,                                                                                                                                                 \
                                                                 "@.pgqrs_delayed r" PGQRSI_PA_RUN_IDS                                                                                                                                            \
                                                                 " WHERE r.queue_id=q.id AND r.lo" lo                                                                                                                                             \
                                                                 " AND r.due_at>q.t"                                                                                                                                                              \
                                                                 " AND x.id" id,                                                                                                                                                                  \
                                                                 "r.lo " direction ",",                                                                                                                                                           \
                                                                 "$2 IN (0,2) AND $3=0") " UNION "                                                                                                                                                \
                                                                                         "ALL"                                                                                                                                                    \
                                                                                         " " PGQRSI_PA_LIST_ARM(                                                                                                                                  \
                                                                                             direction,                                                                                                                                           \
                                                                                             PGQRSI_PA_AT_LEASED,                                                                                                                                 \
                                                                                             "@"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "p"                                                                                                                                                  \
                                                                                             "g"                                                                                                                                                  \
                                                                                             "q"                                                                                                                                                  \
                                                                                             "r"                                                                                                                                                  \
                                                                                             "s"                                                                                                                                                  \
                                                                                             "_"                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "e"                                                                                                                                                  \
                                                                                             "a"                                                                                                                                                  \
                                                                                             "s"                                                                                                                                                  \
                                                                                             "e"                                                                                                                                                  \
                                                                                             "s"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             ","                                                                                                                                                  \
                                                                                             "u"                                                                                                                                                  \
                                                                                             "n"                                                                                                                                                  \
                                                                                             "n"                                                                                                                                                  \
                                                                                             "e"                                                                                                                                                  \
                                                                                             "s"                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             "("                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "o"                                                                                                                                                  \
                                                                                             ","                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "n"                                                                                                                                                  \
                                                                                             ","                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "a"                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             "e"                                                                                                                                                  \
                                                                                             "m"                                                                                                                                                  \
                                                                                             "p"                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             ")"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "r"                                                                                                                                                  \
                                                                                             "("                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "o"                                                                                                                                                  \
                                                                                             ","                                                                                                                                                  \
                                                                                             "n"                                                                                                                                                  \
                                                                                             ","                                                                                                                                                  \
                                                                                             "a"                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             "e"                                                                                                                                                  \
                                                                                             "m"                                                                                                                                                  \
                                                                                             "p"                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             ")" PGQRSI_PA_RUN_IDS " "                                                                                                                            \
                                                                                             "W"                                                                                                                                                  \
                                                                                             "H"                                                                                                                                                  \
                                                                                             "E"                                                                                                                                                  \
                                                                                             "R"                                                                                                                                                  \
                                                                                             "E"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "q"                                                                                                                                                  \
                                                                                             "u"                                                                                                                                                  \
                                                                                             "e"                                                                                                                                                  \
                                                                                             "u"                                                                                                                                                  \
                                                                                             "e"                                                                                                                                                  \
                                                                                             "_"                                                                                                                                                  \
                                                                                             "i"                                                                                                                                                  \
                                                                                             "d"                                                                                                                                                  \
                                                                                             "="                                                                                                                                                  \
                                                                                             "q"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "i"                                                                                                                                                  \
                                                                                             "d"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "A"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             "D"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "." lease " "                                                                                                                                        \
                                                                                             "A"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             "D"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "C"                                                                                                                                                  \
                                                                                             "A"                                                                                                                                                  \
                                                                                             "S"                                                                                                                                                  \
                                                                                             "E"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "W"                                                                                                                                                  \
                                                                                             "H"                                                                                                                                                  \
                                                                                             "E"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "u"                                                                                                                                                  \
                                                                                             "n"                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             "i"                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             ">"                                                                                                                                                  \
                                                                                             "q"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "t"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "T"                                                                                                                                                  \
                                                                                             "H"                                                                                                                                                  \
                                                                                             "E"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "$"                                                                                                                                                  \
                                                                                             "2"                                                                                                                                                  \
                                                                                             "<"                                                                                                                                                  \
                                                                                             ">"                                                                                                                                                  \
                                                                                             "1"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "A"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             "D"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "("                                                                                                                                                  \
                                                                                             "$"                                                                                                                                                  \
                                                                                             "3"                                                                                                                                                  \
                                                                                             "="                                                                                                                                                  \
                                                                                             "0"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "O"                                                                                                                                                  \
                                                                                             "R"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "l"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "w"                                                                                                                                                  \
                                                                                             "o"                                                                                                                                                  \
                                                                                             "r"                                                                                                                                                  \
                                                                                             "k"                                                                                                                                                  \
                                                                                             "e"                                                                                                                                                  \
                                                                                             "r"                                                                                                                                                  \
                                                                                             "_"                                                                                                                                                  \
                                                                                             "i"                                                                                                                                                  \
                                                                                             "d"                                                                                                                                                  \
                                                                                             "="                                                                                                                                                  \
                                                                                             "$"                                                                                                                                                  \
                                                                                             "3"                                                                                                                                                  \
                                                                                             ")"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "E"                                                                                                                                                  \
                                                                                             "L"                                                                                                                                                  \
                                                                                             "S"                                                                                                                                                  \
                                                                                             "E"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "$"                                                                                                                                                  \
                                                                                             "2"                                                                                                                                                  \
                                                                                             "<"                                                                                                                                                  \
                                                                                             ">"                                                                                                                                                  \
                                                                                             "3"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "A"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             "D"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "$"                                                                                                                                                  \
                                                                                             "3"                                                                                                                                                  \
                                                                                             "="                                                                                                                                                  \
                                                                                             "0"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "E"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             "D"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "A"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             "D"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "x"                                                                                                                                                  \
                                                                                             "."                                                                                                                                                  \
                                                                                             "i"                                                                                                                                                  \
                                                                                             "d" id,                                                                                                                                              \
                                                                                             "",                                                                                                                                                  \
                                                                                             "$"                                                                                                                                                  \
                                                                                             "2"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "I"                                                                                                                                                  \
                                                                                             "N"                                                                                                                                                  \
                                                                                             " "                                                                                                                                                  \
                                                                                             "("                                                                                                                                                  \
                                                                                             "0"                                                                                                                                                  \
                                                                                             ","                                                                                                                                                  \
                                                                                             "1"                                                                                                                                                  \
                                                                                             ","                                                                                                                                                  \
                                                                                             "3"                                                                                                                                                  \
                                                                                             ")") " UNION ALL "                                                                                                                                   \
                                                                                                  "SELECT s.* "                                                                                                                                   \
                                                                                                  "FROM "                                                                                                                                         \
                                                                                                  "q,LATERAL("                                                                                                                                    \
                                                                                                  "SELECT " edge                                                                                                                                  \
                                                                                                  " AS e FROM "                                                                                                                                   \
                                                                                                  "(SELECT "                                                                                                                                      \
                                                                                                  "d.lo_min,d.hi_"                                                                                                                                \
                                                                                                  "max"                                                                                                                                           \
                                                                                                  " FROM "                                                                                                                                        \
                                                                                                  "@.pgqrs_done "                                                                                                                                 \
                                                                                                  "d WHERE "                                                                                                                                      \
                                                                                                  "d.queue_id=q."                                                                                                                                 \
                                                                                                  "id AND " row                                                                                                                                   \
                                                                                                  " AND ($3=0 OR "                                                                                                                                \
                                                                                                  "d.worker_id=$"                                                                                                                                 \
                                                                                                  "3) AND (q.f "                                                                                                                                  \
                                                                                                  "OR (SELECT "                                                                                                                                   \
                                                                                                  "true"                                                                                                                                          \
                                                                                                  " FROM "                                                                                                                                        \
                                                                                                  "unnest(d.lo,d."                                                                                                                                \
                                                                                                  "n) "                                                                                                                                           \
                                                                                                  "u(lo,n),"                                                                                                                                      \
                                                                                                  "LATERAL("                                                                                                                                      \
                                                                                                  "SELECT FROM "                                                                                                                                  \
                                                                                                  "@.pgqrs_"                                                                                                                                      \
                                                                                                  "messages m "                                                                                                                                   \
                                                                                                  "WHERE "                                                                                                                                        \
                                                                                                  "m.queue_id=q."                                                                                                                                 \
                                                                                                  "id AND "                                                                                                                                       \
                                                                                                  "m.id>=u.lo"                                                                                                                                    \
                                                                                                  " AND "                                                                                                                                         \
                                                                                                  "m.id<u.lo+u.n "                                                                                                                                \
                                                                                                  "AND m.id" id " AND"                                                                                                                            \
                                                                                                  " " PGQRSI_PA_RANGE                                                                                                                             \
                                                                                                  " LIMIT 1) m "                                                                                                                                  \
                                                                                                  "LIMIT 1)) "                                                                                                                                    \
                                                                                                  "ORDER BY "                                                                                                                                     \
                                                                                                  "d.lo_"                                                                                                                                         \
                                                                                                  "min " direction                                                                                                                                \
                                                                                                  " LIMIT $7) z) "                                                                                                                                \
                                                                                                  "e,"                                                                                                                                            \
                                                                                                  "LATERAL("                                                                                                                                      \
                                                                                                  "SELECT"                                                                                                                                        \
                                                                                                  " " PGQRSI_PA_AT_DONE                                                                                                                           \
                                                                                                  " FROM "                                                                                                                                        \
                                                                                                  "@.pgqrs_done "                                                                                                                                 \
                                                                                                  "d,unnest(d.lo,"                                                                                                                                \
                                                                                                  "d.n,d.attempt)"                                                                                                                                \
                                                                                                  " r(lo,n,"                                                                                                                                      \
                                                                                                  "attempt"                                                                                                                                       \
                                                                                                  ")" PGQRSI_PA_RUN_IDS                                                                                                                           \
                                                                                                  " WHERE "                                                                                                                                       \
                                                                                                  "d.queue_id=q."                                                                                                                                 \
                                                                                                  "id AND " row                                                                                                                                   \
                                                                                                  " AND "                                                                                                                                         \
                                                                                                  "d.lo_"                                                                                                                                         \
                                                                                                  "min" within                                                                                                                                    \
                                                                                                  " AND ($3=0 OR "                                                                                                                                \
                                                                                                  "d.worker_id=$"                                                                                                                                 \
                                                                                                  "3)"                                                                                                                                            \
                                                                                                  " AND x.id" id                                                                                                                                  \
                                                                                                      PGQRSI_PA_IN_RANGE                                                                                                                          \
                                                                                                  " ORDER BY "                                                                                                                                    \
                                                                                                  "x."                                                                                                                                            \
                                                                                                  "id " direction                                                                                                                                 \
                                                                                                  " LIMIT $7) s "                                                                                                                                 \
                                                                                                  "WHERE $2 IN "                                                                                                                                  \
                                                                                                  "(0,4)"                                                                                                                                         \
                                                                                                  " UNION "                                                                                                                                       \
                                                                                                  "ALL"                                                                                                                                           \
                                                                                                  " " PGQRSI_PA_LIST_ARM(                                                                                                                         \
                                                                                                      direction,                                                                                                                                  \
                                                                                                      PGQRSI_PA_AT_DEAD,                                                                                                                          \
                                                                                                      "@.pgqrs_"                                                                                                                                  \
                                                                                                      "dead x "                                                                                                                                   \
                                                                                                      "WHERE "                                                                                                                                    \
                                                                                                      "x.queue_"                                                                                                                                  \
                                                                                                      "id=q.id "                                                                                                                                  \
                                                                                                      "AND "                                                                                                                                      \
                                                                                                      "x.id" id                                                                                                                                   \
                                                                                                      " AND "                                                                                                                                     \
                                                                                                      "($3=0 OR "                                                                                                                                 \
                                                                                                      "x.worker_"                                                                                                                                 \
                                                                                                      "id=$3)",                                                                                                                                   \
                                                                                                      "",                                                                                                                                         \
                                                                                                      "$2 IN "                                                                                                                                    \
                                                                                                      "(0,5)") ")"                                                                                                                                \
                                                                                                               " "                                                                                                                                \
                                                                                                               "a"                                                                                                                                \
                                                                                                               " "                                                                                                                                \
                                                                                                               "O"                                                                                                                                \
                                                                                                               "R"                                                                                                                                \
                                                                                                               "D"                                                                                                                                \
                                                                                                               "E"                                                                                                                                \
                                                                                                               "R"                                                                                                                                \
                                                                                                               " "                                                                                                                                \
                                                                                                               "B"                                                                                                                                \
                                                                                                               "Y"                                                                                                                                \
                                                                                                               " "                                                                                                                                \
                                                                                                               "2"                                                                                                                                \
                                                                                                               " " direction                                                                                                                      \
                                                                                                               " "                                                                                                                                \
                                                                                                               "L"                                                                                                                                \
                                                                                                               "I"                                                                                                                                \
                                                                                                               "M"                                                                                                                                \
                                                                                                               "I"                                                                                                                                \
                                                                                                               "T"                                                                                                                                \
                                                                                                               " "                                                                                                                                \
                                                                                                               "$"                                                                                                                                \
                                                                                                               "7" PGQRSI_PA_SHOWN                                                                                                                \
                                                                                                               " "                                                                                                                                \
                                                                                                               "O"                                                                                                                                \
                                                                                                               "R"                                                                                                                                \
                                                                                                               "D"                                                                                                                                \
                                                                                                               "E"                                                                                                                                \
                                                                                                               "R"                                                                                                                                \
                                                                                                               " "                                                                                                                                \
                                                                                                               "B"                                                                                                                                \
                                                                                                               "Y"                                                                                                                                \
                                                                                                               " "                                                                                                                                \
                                                                                                               "p"                                                                                                                                \
                                                                                                               "."                                                                                                                                \
                                                                                                               "i"                                                                                                                                \
                                                                                                               "d"                                                                                                                                \
                                                                                                               " " direction

/* Where message $1 is; $2 is the time. */
#define PGQRSI_PA_GET                                                                                                  \
    "WITH q AS MATERIALIZED (SELECT m.queue_id AS id,m.id AS k," PGQRSI_PA_NOW(                                        \
        "2") " AS t," PGQRSI_PA_NULLS " FROM @.pgqrs_messages m WHERE m.queue_id=ANY(ARRAY(SELECT id FROM "            \
             "@.pgqrs_queues)) AND m.id=$1)" PGQRSI_PA_SHOW "SELECT " PGQRSI_PA_AT_READY                               \
             " FROM q,LATERAL(SELECT q.k AS id) x,@.pgqrs_ready r"                                                     \
             " WHERE r.queue_id=q.id AND r.lo<=$1 AND r.lo>$1-50 AND $1<r.lo+r.n"                                      \
             " UNION ALL SELECT q.id,x.id,CASE WHEN r.due_at>q.t THEN 2 ELSE 1 END,r.attempt,0,q.n,r.due_at,0,q.x"     \
             " FROM q,LATERAL(SELECT q.k AS id) x,@.pgqrs_delayed r"                                                   \
             " WHERE r.queue_id=q.id AND r.lo<=$1 AND r.lo>$1-50 AND $1<r.lo+r.n"                                      \
             " UNION ALL SELECT " PGQRSI_PA_AT_LEASED                                                                  \
             " FROM q,LATERAL(SELECT q.k AS id) x,@.pgqrs_leases l,unnest(l.lo,l.n,l.attempt) AS r(lo,n,attempt)"      \
             " WHERE l.queue_id=q.id AND l.lo_min<=$1 AND l.hi_max>=$1 AND $1>=r.lo AND $1<r.lo+r.n"                   \
             " UNION ALL SELECT " PGQRSI_PA_AT_DONE                                                                    \
             " FROM q,LATERAL(SELECT q.k AS id) x,@.pgqrs_done d,unnest(d.lo,d.n,d.attempt) AS r(lo,n,attempt)"        \
             " WHERE d.queue_id=q.id AND d.lo_min<=$1 AND d.lo_min>$1-1024 AND d.hi_max>=$1 AND $1>=r.lo AND "         \
             "$1<r.lo+r.n"                                                                                             \
             " UNION ALL SELECT " PGQRSI_PA_AT_DEAD                                                                    \
             " FROM q,@.pgqrs_dead x WHERE x.queue_id=q.id AND x.id=$1" PGQRSI_PA_SHOWN

/* How many match, without looking at single messages: no range of times is asked for. */
#define PGQRSI_PA_SUM(what, from, when)                                                                                \
    "CASE WHEN " when " THEN (SELECT coalesce(sum(" what "),0) FROM @." from " AND queue_id IN (SELECT id FROM q))"    \
    " ELSE 0 END"
#define PGQRSI_PA_COUNT                                                                                                                                                                                  \
    PGQRSI_PA_QUEUES("6")                                                                                                                                                                                \
    "SELECT (" PGQRSI_PA_SUM("n", "pgqrs_ready WHERE true", "$2 IN (0,1) AND $3=0") "+" PGQRSI_PA_SUM("n", "pgqrs_delayed WHERE due_at<=" PGQRSI_PA_NOW("6"), "$2 IN (0,1) AND $3=0") "+" PGQRSI_PA_SUM( \
        "n", "pgqrs_delayed WHERE due_at>" PGQRSI_PA_NOW("6"),                                                                                                                                           \
        "$2 IN (0,2) AND $3=0") "+" PGQRSI_PA_SUM("total", "pgqrs_leases WHERE until<=" PGQRSI_PA_NOW("6"),                                                                                              \
                                                  "$2 IN (0,1) AND $3=0") "+" PGQRSI_PA_SUM("total",                                                                                                     \
                                                                                            "pgqrs_leases WHERE "                                                                                        \
                                                                                            "until>" PGQRSI_PA_NOW(                                                                                      \
                                                                                                "6") " AND ($3=0 OR "                                                                                    \
                                                                                                     "worker_id=$3)",                                                                                    \
                                                                                            "$2 IN (0,3)") "+" PGQRSI_PA_SUM("total",                                                                    \
                                                                                                                             "pgqrs_done WHERE ($3=0 OR worker_id=$3)",                                  \
                                                                                                                             "$2 IN (0,4)") "+" PGQRSI_PA_SUM("1",                                       \
                                                                                                                                                              "pgqrs_dead WHERE ($3=0 OR worker_id=$3)", \
                                                                                                                                                              "$2 IN (0,5)") ")::bigint"

/* The same message by message. */
#define PGQRSI_PA_EACH(from, where, when)                                                                              \
    "SELECT t.queue_id,x.id FROM q JOIN @." from " CROSS JOIN LATERAL generate_series(r.lo,r.lo+r.n-1) AS x(id)"       \
    " WHERE " where " AND " when
#define PGQRSI_PA_UNNESTED "t ON t.queue_id=q.id CROSS JOIN LATERAL unnest(t.lo,t.n) AS r(lo,n)"
#define PGQRSI_PA_PLAIN "t ON t.queue_id=q.id CROSS JOIN LATERAL (SELECT t.lo,t.n) r"
#define PGQRSI_PA_COUNT_RANGE                                                                                                                                                                                                                                              \
    PGQRSI_PA_QUEUES("6")                                                                                                                                                                                                                                                  \
    "SELECT count(*) FROM ("                                                                                                                                                                                                                                               \
    "SELECT m.queue_id,m.id FROM q JOIN @.pgqrs_messages m ON m.queue_id=q.id WHERE $2=0 AND $3=0 UNION "                                                                                                                                                                  \
    "ALL " PGQRSI_PA_EACH("pgqrs_ready " PGQRSI_PA_PLAIN, "true", "$2=1 AND $3=0") " UNION ALL " PGQRSI_PA_EACH(                                                                                                                                                           \
        "pgqrs_delayed " PGQRSI_PA_PLAIN, "($2=1)=(t.due_at<=" PGQRSI_PA_NOW("6") ")",                                                                                                                                                                                     \
        "$2 IN (1,2) AND $3=0") " UNION ALL " PGQRSI_PA_EACH("pgqrs_leases " PGQRSI_PA_UNNESTED,                                                                                                                                                                           \
                                                             "t.until<=" PGQRSI_PA_NOW("6"),                                                                                                                                                                               \
                                                             "$2=1 AND $3=0") " UNION ALL " PGQRSI_PA_EACH("pgqrs_"                                                                                                                                                        \
                                                                                                           "leases"                                                                                                                                                        \
                                                                                                           " " PGQRSI_PA_UNNESTED,                                                                                                                                         \
                                                                                                           "t."                                                                                                                                                            \
                                                                                                           "until"                                                                                                                                                         \
                                                                                                           ">" PGQRSI_PA_NOW(                                                                                                                                              \
                                                                                                               "6") " AND ($3=0 OR t.worker_id=$3)",                                                                                                                       \
                                                                                                           "($2=3 OR "                                                                                                                                                     \
                                                                                                           "$2=0 AND "                                                                                                                                                     \
                                                                                                           "$3>0)") " UNION ALL " PGQRSI_PA_EACH("pgqrs_done " PGQRSI_PA_UNNESTED,                                                                                         \
                                                                                                                                                 "($3=0 OR t.worker_id=$3)",                                                                                               \
                                                                                                                                                 "($2=4 OR $2=0 AND $3>0)") " UNION ALL SELECT t.queue_id,t.id FROM q JOIN @.pgqrs_dead t ON t.queue_id=q.id"              \
                                                                                                                                                                            " WHERE ($3=0 OR t.worker_id=$3) AND ($2=5 OR $2=0 AND $3>0)"                                  \
                                                                                                                                                                            ") p JOIN q ON q.id=p.queue_id JOIN @.pgqrs_messages m ON m.queue_id=p.queue_id AND m.id=p.id" \
                                                                                                                                                                            " WHERE " PGQRSI_PA_RANGE

/* Finds and locks whatever has one of the messages $1: 1 ready, 2 delayed, 3 leased, 4 lease run out, 5 archived, 6
 * dead; 0: it moved while the lock was awaited, ask again. A queue of NULL: there is no such message. */
#define PGQRSI_PA_LOCK                                                                                                 \
    "WITH " PGQRSI_PA_FIND ",line AS MATERIALIZED (SELECT k.*,r.attempt AS ready,t.attempt AS delayed FROM k"          \
    " LEFT JOIN LATERAL (SELECT t.attempt FROM @.pgqrs_ready t WHERE " PGQRSI_PA_IN_RUN " FOR UPDATE) r ON true"       \
    " LEFT JOIN LATERAL (SELECT t.attempt FROM @.pgqrs_delayed t WHERE r.attempt IS NULL AND " PGQRSI_PA_IN_RUN        \
    " FOR UPDATE) t ON true),held AS MATERIALIZED (SELECT l.* FROM @.pgqrs_leases l WHERE l.lease IN"                  \
    " (SELECT l.lease FROM line k JOIN @.pgqrs_leases l ON " PGQRSI_PA_IN_LEASE                                        \
    " WHERE k.ready IS NULL AND k.delayed IS NULL) ORDER BY l.lease FOR UPDATE)"                                       \
    " SELECT k.id,k.queue_id,CASE WHEN k.ready IS NOT NULL THEN 1 WHEN k.delayed IS NOT NULL THEN 2"                   \
    " WHEN l.until>" PGQRSI_PA_NOW(                                                                                    \
        "2") " THEN 3 WHEN l.lease IS NOT NULL THEN 4"                                                                 \
             " WHEN d.outcome IS NOT NULL THEN 5 WHEN x.at IS NOT NULL THEN 6 ELSE 0 END,l.lease,"                     \
             "coalesce(k.ready,k.delayed),row_number() OVER (PARTITION BY k.id ORDER BY k.o) FROM line k"              \
             " LEFT JOIN LATERAL (SELECT l.lease,l.until FROM held l"                                                  \
             " WHERE k.ready IS NULL AND k.delayed IS NULL AND " PGQRSI_PA_IN_LEASE " LIMIT 1) l ON true"              \
             " LEFT JOIN LATERAL (SELECT d.outcome FROM @.pgqrs_done d WHERE k.ready IS NULL AND k.delayed IS NULL"    \
             " AND l.lease IS NULL AND " PGQRSI_PA_IN_DONE " FOR UPDATE) d ON true"                                    \
             " LEFT JOIN LATERAL (SELECT x.at FROM @.pgqrs_dead x WHERE x.queue_id=k.queue_id AND x.id=k.id FOR "      \
             "UPDATE) x"                                                                                               \
             " ON true ORDER BY k.o"

/* Takes the ids out of rows of done; what is left of a row comes back as a row. */
#define PGQRSI_PA_TAKE_DONE                                                                                            \
    "WITH " PGQRSI_PA_GIVEN "," PGQRSI_PA_TAKE(                                                                        \
        "pgqrs_done", "d",                                                                                             \
        PGQRSI_PA_IN_DONE) ","                                                                                         \
                           "each AS MATERIALIZED (SELECT g.lo_min,r.o,r.attempt,x.id,x.id IN (SELECT id FROM k) AS "   \
                           "old FROM gone g,"                                                                          \
                           "unnest(g.lo,g.n,g.attempt) WITH ORDINALITY AS "                                            \
                           "r(lo,n,attempt,o),generate_series(r.lo,r.lo+r.n-1) AS x(id)),"                             \
                           "runs AS (SELECT lo_min,o,min(id) AS lo,max(id) AS hi,count(*)::smallint AS n,attempt "     \
                           "FROM (SELECT e.*,"                                                                         \
                           "id-row_number() OVER (PARTITION BY lo_min,o ORDER BY id) AS island FROM each e WHERE NOT " \
                           "old) e"                                                                                    \
                           " GROUP BY lo_min,o,island,attempt),"                                                       \
                           "rest AS (SELECT lo_min AS was,sum(n)::int AS total,min(lo) AS lo_min,max(hi) AS hi_max,"   \
                           "array_agg(lo ORDER BY o,lo) AS lo,array_agg(n ORDER BY o,lo) AS n,array_agg(attempt "      \
                           "ORDER BY o,lo) AS attempt"                                                                 \
                           " FROM runs GROUP BY lo_min)"                                                               \
                           " INSERT INTO "                                                                             \
                           "@.pgqrs_done(queue_id,lease,worker_id,at,claimed_at,outcome,total,lo_min,hi_max,lo,n,"     \
                           "attempt)"                                                                                  \
                           " SELECT "                                                                                  \
                           "g.queue_id,g.lease,g.worker_id,g.at,g.claimed_at,g.outcome,r.total,r.lo_min,r.hi_max,r."   \
                           "lo,r.n,r.attempt"                                                                          \
                           " FROM rest r JOIN gone g ON g.lo_min=r.was"

#define PGQRSI_PA_MESSAGE_STATEMENTS(X)                                                                                 \
    X(LIST_UP, PGQRSI_PA_LIST("ASC", ">$6-50", "hi_max>$6", "d.lo_min>$6-1024 AND d.hi_max>$6", "max(z.hi_max)",        \
                              "<=e.e", ">$6"))                                                                          \
    X(LIST_DOWN, PGQRSI_PA_LIST("DESC", "<$6", "lo_min<$6", "d.lo_min<$6", "min(z.lo_min)", ">e.e-1024", "<$6"))        \
    X(GET, PGQRSI_PA_GET)                                                                                               \
    X(COUNT, PGQRSI_PA_COUNT)                                                                                           \
    X(COUNT_RANGE, PGQRSI_PA_COUNT_RANGE)                                                                               \
    X(LOCK, PGQRSI_PA_LOCK)                                                                                             \
    X(TAKE_READY,                                                                                                       \
      "WITH " PGQRSI_PA_GIVEN "," PGQRSI_PA_TAKE("pgqrs_ready", "t", PGQRSI_PA_IN_RUN) "," PGQRSI_PA_EACH_IN_K          \
                                                                                       "," PGQRSI_PA_READY_REST         \
                                                                                       " SELECT 1 WHERE false")         \
    X(TAKE_DELAYED,                                                                                                     \
      "WITH " PGQRSI_PA_GIVEN "," PGQRSI_PA_TAKE("pgqrs_delayed", "t", PGQRSI_PA_IN_RUN) "," PGQRSI_PA_EACH_IN_K        \
                                                                                         "," PGQRSI_PA_DELAYED_REST     \
                                                                                         " SELECT 1 WHERE false")       \
    X(TAKE_LEASED, "WITH each AS MATERIALIZED (SELECT l.lease,r.o,r.attempt,r.prio,x.id,"                               \
                   "x.id IN (SELECT unnest($1)) AS old FROM @.pgqrs_leases l,unnest(l.lo,l.n,l.attempt,l.prio)"         \
                   " WITH ORDINALITY AS r(lo,n,attempt,prio,o),generate_series(r.lo,r.lo+r.n-1) AS x(id)"               \
                   " WHERE l.lease=ANY($2))," PGQRSI_PA_LEASE_REST("$2") " SELECT 1 WHERE false")                       \
    X(TAKE_DONE, PGQRSI_PA_TAKE_DONE)                                                                                   \
    X(TAKE_DEAD,                                                                                                        \
      "WITH " PGQRSI_PA_GIVEN " DELETE FROM @.pgqrs_dead x USING k WHERE x.queue_id=k.queue_id AND x.id=k.id")          \
    X(FORGET, "WITH " PGQRSI_PA_GIVEN ",ids AS (SELECT * FROM k)," PGQRSI_PA_FORGET)                                    \
    X(UPDATE, "UPDATE @.pgqrs_messages SET payload=$3 WHERE queue_id=$1 AND id=$2")                                     \
    /* an unfinished message that expired before anyone started it holds no key: it is archived, as a claim would do */ \
    X(REPLAY_FREE,                                                                                                      \
      "WITH " PGQRSI_PA_GIVEN ",y AS MATERIALIZED (SELECT e.queue_id,e.message_id FROM k"                               \
      " JOIN @.pgqrs_messages m ON m.queue_id=k.queue_id AND m.id=k.id"                                                 \
      " JOIN @.pgqrs_dedup e ON e.queue_id=m.queue_id AND e.key=m.dedup_key),"                                          \
      "r AS (DELETE FROM @.pgqrs_ready t USING y WHERE t.queue_id=y.queue_id AND t.lo=y.message_id"                     \
      " AND t.attempt=0 AND t.expires_at<=" PGQRSI_PA_NOW(                                                              \
          "3") " RETURNING t.queue_id,t.lo),"                                                                           \
               "d AS (DELETE FROM @.pgqrs_delayed t USING y WHERE t.queue_id=y.queue_id AND t.lo=y.message_id"          \
               " AND t.attempt=0 AND t.expires_at<=" PGQRSI_PA_NOW(                                                     \
                   "3") " RETURNING t.queue_id,t.lo),"                                                                  \
                        "x AS MATERIALIZED (SELECT * FROM r UNION ALL SELECT * FROM d),"                                \
                        "a AS (INSERT INTO @.pgqrs_done(queue_id,lease,at,outcome,total,lo_min,hi_max,lo,n,attempt)"    \
                        " SELECT queue_id,0," PGQRSI_PA_NOW("3") ",1,1,lo,lo,ARRAY[lo],ARRAY[1::smallint],"             \
                                                                 "ARRAY[0::smallint] FROM x)"                           \
                                                                 " DELETE FROM @.pgqrs_dedup e USING x WHERE "          \
                                                                 "e.queue_id=x.queue_id AND e.message_id=x.lo")         \
    X(REPLAY_KEYS, "WITH k AS MATERIALIZED (SELECT * FROM unnest($1,$2) WITH ORDINALITY AS k(id,queue_id,o)),"          \
                   "taken AS (INSERT INTO @.pgqrs_dedup(queue_id,key,message_id) SELECT m.queue_id,m.dedup_key,m.id"    \
                   " FROM k JOIN @.pgqrs_messages m ON m.queue_id=k.queue_id AND m.id=k.id"                             \
                   " WHERE m.dedup_key IS NOT NULL ORDER BY k.o ON CONFLICT DO NOTHING RETURNING message_id)"           \
                   " SELECT k.id FROM k JOIN @.pgqrs_messages m ON m.queue_id=k.queue_id AND m.id=k.id"                 \
                   " WHERE m.dedup_key IS NOT NULL AND NOT EXISTS(SELECT 1 FROM taken t WHERE t.message_id=k.id)")      \
    /* ids that follow each other are one run of the line again */                                                      \
    X(REPLAY, "WITH k AS MATERIALIZED (SELECT * FROM unnest($1,$2) WITH ORDINALITY AS k(id,queue_id,o)),"               \
              "c AS (UPDATE @.pgqrs_messages m SET expires_at=NULL FROM k WHERE m.queue_id=k.queue_id AND m.id=k.id"    \
              " AND m.expires_at IS NOT NULL),"                                                                         \
              "f AS (DELETE FROM @.pgqrs_failures f USING k WHERE f.message_id=k.id),"                                  \
              "s AS (SELECT k.*,m.priority,m.dedup_key IS NOT NULL AS keyed,"                                           \
              "row_number() OVER (PARTITION BY k.queue_id,m.priority,k.id-k.o ORDER BY k.o)-1 AS step"                  \
              " FROM k JOIN @.pgqrs_messages m ON m.queue_id=k.queue_id AND m.id=k.id),"                                \
              "r AS (INSERT INTO @.pgqrs_ready(queue_id,prio,lo,n,attempt,keyed)"                                       \
              " SELECT queue_id,-priority,min(id),count(*),0,bool_or(keyed) FROM s"                                     \
              " GROUP BY queue_id,priority,id-o,o-step,step/50 ORDER BY min(o) RETURNING queue_id)"                     \
              " SELECT " PGQRSI_PA_WAKE("r"))

/* Workers a filter means: $1 id, $2 queue, $3 state, $4 stale_ms, $5 now. */
#define PGQRSI_PA_WORKER_FILTER                                                                                        \
    "($1=0 OR w.id=$1) AND ($2 IS NULL OR w.queue_id=(SELECT id FROM @.pgqrs_queues WHERE name=$2))"                   \
    " AND ($3=0 OR w.state=$3)"                                                                                        \
    " AND ($4=0 OR w.state<>5 AND w.heartbeat_at<" PGQRSI_PA_NOW("5") "-$4*interval '1 millisecond')"

/* Workers of queue $1 whose last heartbeat is older than $2 at $3. */
#define PGQRSI_PA_LATE                                                                                                 \
    "state<>5 AND heartbeat_at<" PGQRSI_PA_NOW("3") "-$2*interval '1 microsecond'"                                     \
                                                    " AND ($1 IS NULL OR queue_id=(SELECT id FROM q))"

#define PGQRSI_PA_WORKER_STATEMENTS(X)                                                                                 \
    /* leases before workers, as everywhere: counting them is what makes the server lock them first */                 \
    X(REGISTER,                                                                                                        \
      "WITH q AS MATERIALIZED (SELECT id FROM @.pgqrs_queues WHERE name=$2 FOR KEY SHARE),"                            \
      "h AS MATERIALIZED (SELECT lease FROM @.pgqrs_leases WHERE worker_id="                                           \
      "(SELECT id FROM @.pgqrs_workers WHERE name=$1) ORDER BY lease FOR UPDATE),"                                     \
      "w AS (INSERT INTO @.pgqrs_workers AS w(name,epoch,queue_id,state,reclaimed,started_at,heartbeat_at)"            \
      " SELECT $1,$3,(SELECT id FROM q),1,false," PGQRSI_PA_NOW("5") "," PGQRSI_PA_NOW(                                \
          "5") " WHERE ($2 IS NULL OR EXISTS(SELECT 1 FROM q)) AND (SELECT count(*) FROM h)>=0"                        \
               " ON CONFLICT (name) DO UPDATE SET epoch=excluded.epoch,queue_id=excluded.queue_id,state=1,"            \
               "reclaimed=false,started_at=excluded.started_at,heartbeat_at=excluded.heartbeat_at,stopped_at=NULL"     \
               " WHERE w.state=5 OR w.heartbeat_at<" PGQRSI_PA_NOW(                                                    \
                   "5") "-$4*interval '1 microsecond'"                                                                 \
                        " RETURNING w.id)," PGQRSI_PA_GONE(                                                            \
                            "worker_id IN (SELECT id FROM w)",                                                         \
                            "FOR UPDATE") "," PGQRSI_PA_RELEASE("'worker taken over'",                                 \
                                                                PGQRSI_PA_NOW(                                         \
                                                                    "5")) " SELECT (SELECT id FROM w),(SELECT "        \
                                                                          "count(*) FROM q)," PGQRSI_PA_RELEASED)      \
    X(REGISTERED, "SELECT " PGQRSI_PA_NOW("2") ",heartbeat_at FROM @.pgqrs_workers WHERE name=$1 AND state<>5")        \
    X(WORKER_CHANGE, "WITH w AS MATERIALIZED (SELECT id,state FROM @.pgqrs_workers WHERE id=$1 AND ($2=0 OR epoch=$2)" \
                     " FOR UPDATE),h AS MATERIALIZED (SELECT CASE WHEN $6 THEN (SELECT coalesce(sum(total),0)"         \
                     " FROM @.pgqrs_leases WHERE worker_id=$1 AND until>" PGQRSI_PA_NOW(                               \
                         "7") ") ELSE 0 END AS held),"                                                                 \
                              "u AS (UPDATE @.pgqrs_workers t SET state=CASE WHEN $4=0 THEN t.state ELSE $4 END,"      \
                              "heartbeat_at=CASE WHEN $5 THEN " PGQRSI_PA_NOW(                                         \
                                  "7") " ELSE t.heartbeat_at END,"                                                     \
                                       "stopped_at=CASE WHEN $4=0 THEN t.stopped_at WHEN $4=5 THEN " PGQRSI_PA_NOW(    \
                                           "7") " END"                                                                 \
                                                " FROM w,h WHERE t.id=w.id AND (1<<w.state::int)&$3<>0 AND h.held=0 "  \
                                                "RETURNING t.state)"                                                   \
                                                " SELECT w.state,(SELECT state FROM u),(SELECT held FROM h) FROM w")   \
    X(WORKER_LIST, "WITH held AS MATERIALIZED (SELECT worker_id,sum(total)::bigint AS n FROM @.pgqrs_leases"           \
                   " WHERE worker_id IS NOT NULL AND until>" PGQRSI_PA_NOW(                                            \
                       "5") " AND ($1=0 OR worker_id=$1)"                                                              \
                            " GROUP BY worker_id) SELECT w.id,w.epoch,w.name,q.name,w.state,w.reclaimed,w.started_at," \
                            "w.heartbeat_at,w.stopped_at,coalesce(held.n,0) FROM (SELECT * FROM @.pgqrs_workers w "    \
                            "WHERE " PGQRSI_PA_WORKER_FILTER " AND w.id>$6 ORDER BY w.id LIMIT $7) w"                  \
                            " LEFT JOIN @.pgqrs_queues q ON q.id=w.queue_id LEFT JOIN held ON held.worker_id=w.id"     \
                            " ORDER BY w.id")                                                                          \
    X(WORKER_COUNT, "SELECT count(*) FROM @.pgqrs_workers w WHERE " PGQRSI_PA_WORKER_FILTER)                           \
    X(WORKER_RELEASE,                                                                                                  \
      "WITH w AS MATERIALIZED (SELECT id FROM @.pgqrs_workers WHERE id=$1)," PGQRSI_PA_GONE(                           \
          "worker_id IN (SELECT id FROM w)",                                                                           \
          "FOR UPDATE") "," PGQRSI_PA_RELEASE("$2", PGQRSI_PA_NOW("3")) " SELECT (SELECT count(*) FROM w),(SELECT "    \
                                                                        "count(*) FROM ids)," PGQRSI_PA_RELEASED)      \
    X(WORKER_DELETE,                                                                                                   \
      "WITH h AS MATERIALIZED (SELECT lease FROM @.pgqrs_leases WHERE worker_id=$1 ORDER BY lease"                     \
      " FOR UPDATE),w AS MATERIALIZED (SELECT id,state FROM @.pgqrs_workers WHERE id=$1"                               \
      " AND (SELECT count(*) FROM h)>=0 FOR UPDATE),"                                                                  \
      "d AS (DELETE FROM @.pgqrs_workers t USING w WHERE t.id=w.id AND (w.state=5 OR $2)"                              \
      " RETURNING t.id),gone AS (DELETE FROM @.pgqrs_leases l USING d,h WHERE l.lease=h.lease"                         \
      " RETURNING " PGQRSI_PA_LEASE_COLUMNS ")," PGQRSI_PA_RELEASE(                                                    \
          "'its worker was removed'",                                                                                  \
          PGQRSI_PA_NOW("3")) " SELECT (SELECT count(*) FROM w),(SELECT count(*) FROM d)," PGQRSI_PA_RELEASED)         \
    X(RECLAIM,                                                                                                         \
      "WITH q AS MATERIALIZED (SELECT id FROM @.pgqrs_queues WHERE name=$1),"                                          \
      "h AS MATERIALIZED (SELECT lease FROM @.pgqrs_leases WHERE worker_id IN (SELECT id"                              \
      " FROM @.pgqrs_workers WHERE " PGQRSI_PA_LATE ") ORDER BY lease FOR UPDATE),"                                    \
      "w AS (UPDATE @.pgqrs_workers t SET state=5,reclaimed=true,stopped_at=" PGQRSI_PA_NOW(                           \
          "3") " FROM (SELECT id FROM @.pgqrs_workers WHERE " PGQRSI_PA_LATE " AND (SELECT count(*) FROM h)>=0"        \
               " ORDER BY id FOR UPDATE) c WHERE t.id=c.id RETURNING t.id)"                                            \
               " SELECT (SELECT count(*) FROM q),(SELECT count(*) FROM w),(SELECT array_agg(id) FROM w)")              \
    X(RELEASE_WORKERS, "WITH " PGQRSI_PA_GONE("worker_id=ANY($1)", "FOR UPDATE SKIP LOCKED") "," PGQRSI_PA_RELEASE(    \
                           "$2", PGQRSI_PA_NOW("3")) " SELECT (SELECT count(*) FROM ids)," PGQRSI_PA_RELEASED)         \
    X(WORKER_PURGE, "WITH w AS (DELETE FROM @.pgqrs_workers WHERE state=5 AND ($1=0 OR stopped_at<" PGQRSI_PA_NOW(     \
                        "2") "-$1*interval '1 microsecond') RETURNING 1) SELECT count(*) FROM w")

/* --- statements: numbers */

/* The oldest message of a place is taken to be the one with the smallest id in it: ids are given out in the order of
 * enqueue, apart from a few that connections keep in stock. */
#define PGQRSI_PA_METRICS                                                                                              \
    "SELECT q.name,q.paused,r.n+d.due+l.lost,d.n-d.due,l.held,a.n,x.n,q.lease_expiries," PGQRSI_PA_NOW(                \
        "2") ","                                                                                                       \
             "(SELECT min(m.enqueued_at) FROM @.pgqrs_messages m WHERE m.queue_id=q.id"                                \
             " AND m.id=ANY(ARRAY[r.lo,d.due_lo,l.lost_lo])),"                                                         \
             "(SELECT min(m.enqueued_at) FROM @.pgqrs_messages m WHERE m.queue_id=q.id AND "                           \
             "m.id=ANY(ARRAY[r.lo,d.lo,l.lo])),"                                                                       \
             "(SELECT m.enqueued_at FROM @.pgqrs_messages m WHERE m.queue_id=q.id ORDER BY m.id DESC LIMIT 1),"        \
             "(SELECT count(*) FROM @.pgqrs_workers w WHERE w.queue_id=q.id AND w.state<>5) FROM @.pgqrs_queues q"     \
             " CROSS JOIN LATERAL (SELECT coalesce(sum(t.n),0)::bigint AS n,min(t.lo) AS lo"                           \
             " FROM @.pgqrs_ready t WHERE t.queue_id=q.id) r"                                                          \
             " CROSS JOIN LATERAL (SELECT coalesce(sum(t.n),0)::bigint AS n,min(t.lo) AS lo,"                          \
             "coalesce(sum(t.n) FILTER (WHERE t.due_at<=" PGQRSI_PA_NOW(                                               \
                 "2") "),0)::bigint AS due,"                                                                           \
                      "min(t.lo) FILTER (WHERE t.due_at<=" PGQRSI_PA_NOW(                                              \
                          "2") ") AS due_lo"                                                                           \
                               " FROM @.pgqrs_delayed t WHERE t.queue_id=q.id) d"                                      \
                               " CROSS JOIN LATERAL (SELECT min(t.lo_min) AS lo,"                                      \
                               "coalesce(sum(t.total) FILTER (WHERE t.until>" PGQRSI_PA_NOW(                           \
                                   "2") "),0)::bigint AS held,"                                                        \
                                        "coalesce(sum(t.total) FILTER (WHERE t.until<=" PGQRSI_PA_NOW(                 \
                                            "2") "),0)::bigint AS lost,"                                               \
                                                 "min(t.lo_min) FILTER (WHERE t.until<=" PGQRSI_PA_NOW(                \
                                                     "2") ") AS lost_lo"                                               \
                                                          " FROM @.pgqrs_leases t WHERE t.queue_id=q.id) l"            \
                                                          " CROSS JOIN LATERAL (SELECT "                               \
                                                          "coalesce(sum(t.total),0)::bigint AS n FROM @.pgqrs_done t " \
                                                          "WHERE t.queue_id=q.id) a"                                   \
                                                          " CROSS JOIN LATERAL (SELECT count(*) AS n FROM "            \
                                                          "@.pgqrs_dead t WHERE t.queue_id=q.id) x"                    \
                                                          " WHERE $1 IS NULL OR q.name=$1 ORDER BY q.id"

#define PGQRSI_PA_NUMBER_STATEMENTS(X)                                                                                 \
    X(METRICS, PGQRSI_PA_METRICS)                                                                                      \
    X(WORKER_STATS,                                                                                                    \
      "SELECT $1 IS NULL OR EXISTS(SELECT 1 FROM @.pgqrs_queues WHERE name=$1)," PGQRSI_PA_NOW(                        \
          "3") ","                                                                                                     \
               "count(*),count(*) FILTER (WHERE state=1),count(*) FILTER (WHERE state=2),"                             \
               "count(*) FILTER (WHERE state=3),count(*) FILTER (WHERE state=4),count(*) FILTER (WHERE state=5),"      \
               "count(*) FILTER (WHERE state<>5 AND heartbeat_at<" PGQRSI_PA_NOW(                                      \
                   "3") "-$2*interval '1 microsecond'),coalesce(sum(h.n),0)::bigint,"                                  \
                        "min(started_at) FILTER (WHERE state<>5),max(heartbeat_at) FROM @.pgqrs_workers w LEFT JOIN"   \
                        " (SELECT worker_id,sum(total) AS n FROM @.pgqrs_leases WHERE worker_id IS NOT NULL"           \
                        " AND until>" PGQRSI_PA_NOW(                                                                   \
                            "3") " GROUP BY worker_id) h ON h.worker_id=w.id"                                          \
                                 " WHERE $1 IS NULL OR w.queue_id=(SELECT id FROM @.pgqrs_queues WHERE name=$1)")

/* --- statements: verify. Each gives a text that says what is wrong, or nothing. */

/* name:type of every column, types as the catalogue calls them. */
#define PGQRSI_PA_TABLES                                                                                               \
    "('pgqrs_meta','key:text value:int8'),"                                                                            \
    "('pgqrs_queues','id:int8 name:text lease_ms:int8 max_attempts:int4 backoff_ms:int8 backoff_max_ms:int8"           \
    " retention_ms:int8 dead_retention_ms:int8 paused:bool created_at:timestamptz lease_expiries:int8'),"              \
    "('pgqrs_messages','queue_id:int8 id:int8 priority:int2 enqueued_at:timestamptz expires_at:timestamptz"            \
    " dedup_key:text producer:text payload:text'),"                                                                    \
    "('pgqrs_ready','ord:int8 queue_id:int8 prio:int4 lo:int8 n:int2 attempt:int2 expires_at:timestamptz"              \
    " keyed:bool'),"                                                                                                   \
    "('pgqrs_delayed','due_at:timestamptz queue_id:int8 prio:int4 lo:int8 n:int2 attempt:int2 expires_at:timestamptz"  \
    " keyed:bool'),"                                                                                                   \
    "('pgqrs_leases','lease:int8 queue_id:int8 until:timestamptz claimed_at:timestamptz worker_id:int8 total:int4"     \
    " lo_min:int8 hi_max:int8 keyed:bool lo:_int8 n:_int2 attempt:_int2 prio:_int4'),"                                 \
    "('pgqrs_done','queue_id:int8 lease:int8 worker_id:int8 at:timestamptz claimed_at:timestamptz outcome:int2"        \
    " total:int4 lo_min:int8 hi_max:int8 lo:_int8 n:_int2 attempt:_int2'),"                                            \
    "('pgqrs_dead','queue_id:int8 id:int8 attempt:int2 at:timestamptz reason:text worker_id:int8'),"                   \
    "('pgqrs_failures','message_id:int8 queue_id:int8 attempt:int2 at:timestamptz reason:text'),"                      \
    "('pgqrs_dedup','queue_id:int8 key:text message_id:int8'),"                                                        \
    "('pgqrs_workers','id:int8 name:text epoch:int8 queue_id:int8 state:int2 reclaimed:bool started_at:timestamptz"    \
    " heartbeat_at:timestamptz stopped_at:timestamptz'),"                                                              \
    "('pgqrs_sleepers','queue_id:int8 token:int8 until:timestamptz'),"                                                 \
    "('pgqrs_workflows','id:int8 name:text queue_id:int8 made_queue:bool max_retries:int4 backoff:int2 base_ms:int8"   \
    " cap_ms:int8 jitter_percent:int4 timeout_ms:int8 step_timeout_ms:int8 retention_ms:int8"                          \
    " failed_retention_ms:int8 created_at:timestamptz'),"                                                              \
    "('pgqrs_runs','id:int8 workflow_id:int8 queue_id:int8 triggered_at:timestamptz started_at:timestamptz"            \
    " finished_at:timestamptz deadline_at:timestamptz cancel_requested_at:timestamptz wait_until:timestamptz"          \
    " forked_from:int8 retries:int4 state:int2 wait:int2 wait_name:text idempotency_key:text cancelled_by:text"        \
    " cancel_reason:text error_code:text error_message:text error_step:text output:text'),"                            \
    "('pgqrs_steps','run_id:int8 number:int4 kind:int2 state:int2 retries:int4 started_at:timestamptz"                 \
    " finished_at:timestamptz due_at:timestamptz name:text key:text input:text output:text error_code:text"            \
    " error_message:text'),"                                                                                           \
    "('pgqrs_run_events','run_id:int8 name:text sent_at:timestamptz payload:text'),"                                   \
    "('pgqrs_run_values','run_id:int8 name:text set_at:timestamptz value:text')"
#define PGQRSI_PA_RELATIONS                                                                                            \
    "('pgqrs_message_id','sequence'),('pgqrs_lease_id','sequence'),('pgqrs_ready_ord','sequence'),"                    \
    "('pgqrs_message_view','view'),('pgqrs_run_view','view'),('pgqrs_step_view','view')"
/* table, whether unique, leading columns */
#define PGQRSI_PA_INDEXES                                                                                              \
    "('pgqrs_meta',true,'key'),('pgqrs_queues',true,'id'),('pgqrs_queues',true,'name'),"                               \
    "('pgqrs_messages',true,'queue_id,id'),('pgqrs_ready',false,'queue_id,prio,ord'),"                                 \
    "('pgqrs_ready',false,'queue_id,lo'),('pgqrs_ready',false,'queue_id,expires_at'),"                                 \
    "('pgqrs_delayed',false,'queue_id,due_at,lo'),('pgqrs_delayed',false,'queue_id,lo'),"                              \
    "('pgqrs_leases',true,'lease'),('pgqrs_leases',false,'queue_id,until'),('pgqrs_done',false,'queue_id,lo_min'),"    \
    "('pgqrs_dead',true,'queue_id,id'),('pgqrs_failures',true,'message_id'),('pgqrs_dedup',true,'queue_id,key'),"      \
    "('pgqrs_dedup',true,'queue_id,message_id'),('pgqrs_workers',true,'id'),('pgqrs_workers',true,'name'),"            \
    "('pgqrs_sleepers',true,'queue_id,token'),('pgqrs_workflows',true,'id'),('pgqrs_workflows',true,'name'),"          \
    "('pgqrs_runs',true,'id'),('pgqrs_runs',false,'workflow_id,id'),('pgqrs_runs',true,'workflow_id,idempotency_key')" \
    ","                                                                                                                \
    "('pgqrs_runs',false,'workflow_id,state,finished_at'),('pgqrs_steps',true,'run_id,number'),"                       \
    "('pgqrs_run_events',true,'run_id,name'),('pgqrs_run_values',true,'run_id,name')"

/* Every place of every message, as places(queue_id, id, keyed, open, place). */
#define PGQRSI_PA_PLACES                                                                                               \
    "WITH places AS (SELECT queue_id,x.id,keyed,true AS open,'ready' AS place FROM @.pgqrs_ready,"                     \
    "generate_series(lo,lo+n-1) AS x(id)"                                                                              \
    " UNION ALL SELECT queue_id,x.id,keyed,true,'delayed' FROM @.pgqrs_delayed,generate_series(lo,lo+n-1) AS x(id)"    \
    " UNION ALL SELECT l.queue_id,x.id,l.keyed,true,'leased' FROM @.pgqrs_leases l,unnest(l.lo,l.n) AS r(lo,n),"       \
    "generate_series(r.lo,r.lo+r.n-1) AS x(id)"                                                                        \
    " UNION ALL SELECT d.queue_id,x.id,false,false,'archived' FROM @.pgqrs_done d,unnest(d.lo,d.n) AS r(lo,n),"        \
    "generate_series(r.lo,r.lo+r.n-1) AS x(id)"                                                                        \
    " UNION ALL SELECT queue_id,id,false,false,'dead' FROM @.pgqrs_dead)"

static const char pgqrsi_pa_verify_runs[] =
    "SELECT format('workflow %s has a queue that does not exist', w.id) FROM @.pgqrs_workflows w"
    " WHERE NOT EXISTS (SELECT 1 FROM @.pgqrs_queues q WHERE q.id = w.queue_id)"
    " UNION ALL SELECT format('run %s belongs to a workflow that does not exist, or not on this queue', r.id)"
    " FROM @.pgqrs_runs r LEFT JOIN @.pgqrs_workflows w ON w.id = r.workflow_id"
    " WHERE w.queue_id IS DISTINCT FROM r.queue_id"
    " UNION ALL SELECT format('run %s does not agree with itself on whether it has ended', r.id)"
    " FROM @.pgqrs_runs r WHERE (r.state <> 0) <> (r.finished_at IS NOT NULL) OR r.state <> 0 AND r.wait <> 0"
    " UNION ALL SELECT format('a step is recorded for run %s, which does not exist', t.run_id) FROM @.pgqrs_steps t"
    " WHERE NOT EXISTS (SELECT 1 FROM @.pgqrs_runs r WHERE r.id = t.run_id)"
    " UNION ALL SELECT format('an event is recorded for run %s, which does not exist', t.run_id)"
    " FROM @.pgqrs_run_events t WHERE NOT EXISTS (SELECT 1 FROM @.pgqrs_runs r WHERE r.id = t.run_id)"
    " UNION ALL SELECT format('a value is recorded for run %s, which does not exist', t.run_id)"
    " FROM @.pgqrs_run_values t WHERE NOT EXISTS (SELECT 1 FROM @.pgqrs_runs r WHERE r.id = t.run_id) LIMIT 1";

#define PGQRSI_PA_VERIFY_STATEMENTS(X)                                                                                 \
    X(VERIFY_TABLES, "SELECT CASE WHEN to_regclass('@.'||t.name) IS NULL THEN format('table %s is missing',t.name)"    \
                     " ELSE format('column %s of table %s is missing or of another type',split_part(c.name,':',1),"    \
                     "t.name) END FROM (VALUES " PGQRSI_PA_TABLES ") AS t(name,columns),"                              \
                     "unnest(string_to_array(t.columns,' ')) AS c(name) WHERE NOT EXISTS(SELECT 1 FROM pg_attribute a" \
                     " JOIN pg_type y ON y.oid=a.atttypid WHERE a.attrelid=to_regclass('@.'||t.name)"                  \
                     " AND NOT a.attisdropped AND a.attname||':'||y.typname=c.name) LIMIT 1")                          \
    X(VERIFY_RELATIONS, "SELECT format('%s %s is missing',kind,name) FROM (VALUES " PGQRSI_PA_RELATIONS                \
                        ") AS t(name,kind) WHERE to_regclass('@.'||name) IS NULL LIMIT 1")                             \
    X(VERIFY_INDEXES, "SELECT format('the index of table %s on (%s) is missing or not valid',t.name,t.columns)"        \
                      " FROM (VALUES " PGQRSI_PA_INDEXES ") AS t(name,one,columns) WHERE NOT EXISTS("                  \
                      "SELECT 1 FROM pg_index i WHERE i.indrelid=to_regclass('@.'||t.name) AND i.indisvalid"           \
                      " AND i.indisunique>=t.one AND strpos((SELECT string_agg(a.attname,',' ORDER BY k.o)||','"       \
                      " FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(n,o) JOIN pg_attribute a"                   \
                      " ON a.attrelid=i.indrelid AND a.attnum=k.n),t.columns||',')=1) LIMIT 1")                        \
    X(VERIFY_PLACES,                                                                                                   \
      PGQRSI_PA_PLACES "SELECT CASE WHEN m.id IS NULL THEN format('message %s is %s but has no row in"                 \
                       " pgqrs_messages',p.id,p.places) WHEN p.id IS NULL THEN format('message %s is in no state at"   \
                       " all',m.id) ELSE format('message %s is in two states at once: %s',p.id,p.places) END"          \
                       " FROM (SELECT queue_id,id,count(*) AS n,string_agg(place,' and ') AS places FROM places"       \
                       " GROUP BY queue_id,id) p FULL JOIN @.pgqrs_messages m ON m.queue_id=p.queue_id AND m.id=p.id"  \
                       " WHERE m.id IS NULL OR p.id IS NULL OR p.n>1 LIMIT 1")                                         \
    X(VERIFY_KEYS, PGQRSI_PA_PLACES                                                                                    \
      "SELECT CASE WHEN p.id IS NULL THEN format('the deduplication row of message %s"                                 \
      " has outlived it',y.message_id) WHEN y.key IS NULL THEN format('unfinished message %s does not"                 \
      " hold its deduplication key',p.id) ELSE format('the deduplication row of message %s has another"                \
      " key, or its run is not marked as keyed',p.id) END FROM (SELECT p.*,m.dedup_key FROM places p"                  \
      " JOIN @.pgqrs_messages m ON m.queue_id=p.queue_id AND m.id=p.id WHERE p.open"                                   \
      " AND m.dedup_key IS NOT NULL) p FULL JOIN @.pgqrs_dedup y ON y.queue_id=p.queue_id"                             \
      " AND y.message_id=p.id WHERE p.id IS NULL OR y.key IS NULL OR y.key<>p.dedup_key OR NOT p.keyed"                \
      " LIMIT 1")                                                                                                      \
    X(VERIFY_LEASES, "SELECT format('lease %s does not agree with its own sums',l.lease) FROM @.pgqrs_leases l,"       \
                     "LATERAL (SELECT sum(r.n) AS total,min(r.lo) AS lo,max(r.lo+r.n-1) AS hi,"                        \
                     "bool_or(num_nulls(r.lo,r.n,r.attempt,r.prio)>0) AS ragged"                                       \
                     " FROM unnest(l.lo,l.n,l.attempt,l.prio) AS r(lo,n,attempt,prio)) s"                              \
                     " WHERE s.total IS DISTINCT FROM l.total OR s.lo<>l.lo_min OR s.hi<>l.hi_max OR s.ragged"         \
                     " LIMIT 1")                                                                                       \
    X(VERIFY_DONE, "SELECT format('the archive row of message %s does not agree with its own sums',d.lo_min)"          \
                   " FROM @.pgqrs_done d,LATERAL (SELECT sum(r.n) AS total,min(r.lo) AS lo,max(r.lo+r.n-1) AS hi,"     \
                   "bool_or(num_nulls(r.lo,r.n,r.attempt)>0) AS ragged"                                                \
                   " FROM unnest(d.lo,d.n,d.attempt) AS r(lo,n,attempt)) s WHERE s.total IS DISTINCT FROM d.total"     \
                   " OR s.lo<>d.lo_min OR s.hi<>d.hi_max OR d.hi_max-d.lo_min>=1024 OR s.ragged LIMIT 1")              \
    X(VERIFY_OWNERS, "SELECT format('message %s belongs to a queue that does not exist',m.id) FROM @.pgqrs_messages m" \
                     " WHERE NOT EXISTS(SELECT 1 FROM @.pgqrs_queues q WHERE q.id=m.queue_id)"                         \
                     " UNION ALL SELECT format('worker %s belongs to a queue that does not exist',w.id)"               \
                     " FROM @.pgqrs_workers w WHERE w.queue_id IS NOT NULL"                                            \
                     " AND NOT EXISTS(SELECT 1 FROM @.pgqrs_queues q WHERE q.id=w.queue_id)"                           \
                     " UNION ALL SELECT format('worker %s is in no known state',w.id) FROM @.pgqrs_workers w"          \
                     " WHERE w.state NOT BETWEEN 1 AND 5 OR (w.state=5)<>(w.stopped_at IS NOT NULL)"                   \
                     " UNION ALL SELECT format('a failure is recorded for message %s, which does not exist',"          \
                     "f.message_id)"                                                                                   \
                     " FROM @.pgqrs_failures f WHERE NOT EXISTS(SELECT 1 FROM @.pgqrs_messages m"                      \
                     " WHERE m.queue_id=f.queue_id AND m.id=f.message_id) LIMIT 1")                                    \
    X(VERIFY_RUNS, pgqrsi_pa_verify_runs)

/* --- statements: workflows and runs. PGQRSI_PG_NOW takes the time from $2. */

static const char pgqrsi_pa_workflow_create[] =
    "INSERT INTO @.pgqrs_workflows(name, queue_id, made_queue, max_retries, backoff, base_ms, cap_ms, jitter_percent,"
    " timeout_ms, step_timeout_ms, retention_ms, failed_retention_ms, created_at)"
    " SELECT $1, q.id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, " PGQRSI_PG_NOW
    " FROM (SELECT id FROM @.pgqrs_queues WHERE name = $3 FOR KEY SHARE) q ON CONFLICT (name) DO NOTHING RETURNING 1";

/* 0: as it is; of the times, -1 means none. Retries: 0 as they are, otherwise one more than there are. */
static const char pgqrsi_pa_workflow_change[] =
    "UPDATE @.pgqrs_workflows SET max_retries = coalesce(nullif($2, 0), max_retries),"
    " backoff = coalesce(nullif($3, 0), backoff), base_ms = coalesce(nullif($4, 0), base_ms),"
    " cap_ms = coalesce(nullif($5, 0), cap_ms), jitter_percent = coalesce(nullif($6, 0), jitter_percent),"
    " timeout_ms = CASE $7 WHEN 0 THEN timeout_ms WHEN -1 THEN 0 ELSE $7 END,"
    " step_timeout_ms = CASE $8 WHEN 0 THEN step_timeout_ms WHEN -1 THEN 0 ELSE $8 END,"
    " retention_ms = CASE $9 WHEN 0 THEN retention_ms WHEN -1 THEN 0 ELSE $9 END,"
    " failed_retention_ms = CASE $10 WHEN 0 THEN failed_retention_ms WHEN -1 THEN 0 ELSE $10 END"
    " WHERE name = $1 RETURNING id";

static const char pgqrsi_pa_workflow_list[] =
    "SELECT " PGQRSI_PG_WORKFLOW_COLUMNS
    ", w.id, w.created_at FROM @.pgqrs_workflows w JOIN @.pgqrs_queues q ON q.id = w.queue_id"
    " WHERE ($1 IS NULL OR w.name = $1) AND w.id > $2 ORDER BY w.id LIMIT $3";

static const char pgqrsi_pa_workflow_lock[] =
    "SELECT w.id, w.queue_id, EXISTS (SELECT 1 FROM @.pgqrs_runs r WHERE r.workflow_id = w.id),"
    " w.made_queue AND NOT EXISTS (SELECT 1 FROM @.pgqrs_workflows o WHERE o.queue_id = w.queue_id AND o.id <> w.id)"
    " AND NOT EXISTS (SELECT 1 FROM @.pgqrs_messages m WHERE m.queue_id = w.queue_id)"
    " AND NOT EXISTS (SELECT 1 FROM @.pgqrs_workers k WHERE k.queue_id = w.queue_id AND k.state <> 5)"
    " FROM @.pgqrs_workflows w WHERE w.name = $1 FOR UPDATE OF w";

/* What people see of a run: those whose ids are in `page`, at time n.now. */
#define PGQRSI_PA_RUN_SHOW                                                                                             \
    "SELECT r.id, s.code::int, w.name, q.name, m.payload, r.output, CASE WHEN r.state = 0 AND s.code = 7 THEN 'DEAD'"  \
    " ELSE r.error_code END, CASE WHEN r.state = 0 AND s.code = 7 THEN p.reason ELSE r.error_message END,"             \
    " r.error_step, CASE WHEN s.code = 3 THEN r.wait END, CASE WHEN s.code = 3 THEN r.wait_name END,"                  \
    " CASE WHEN s.code = 3 THEN r.wait_until END,"                                                                     \
    " CASE WHEN r.state = 0 THEN p.attempt ELSE (" PGQRSI_PG_RUN_TRIES ") END, r.retries, r.idempotency_key,"          \
    " r.triggered_at, r.started_at, CASE WHEN p.k = 5 THEN p.at ELSE r.finished_at END, r.deadline_at,"                \
    " r.cancel_requested_at, r.cancelled_by, r.cancel_reason, CASE WHEN p.k = 2 THEN p.worker_id END, k.name,"         \
    " CASE WHEN p.k = 2 THEN p.at END, r.forked_from"                                                                  \
    " FROM page JOIN @.pgqrs_runs r ON r.id = page.id CROSS JOIN n JOIN @.pgqrs_workflows w ON w.id = r.workflow_id"   \
    " JOIN @.pgqrs_queues q ON q.id = r.queue_id"                                                                      \
    " LEFT JOIN @.pgqrs_messages m ON m.queue_id = r.queue_id AND m.id = r.id"                                         \
    " LEFT JOIN LATERAL (" PGQRSI_PG_RUN_PLACE(                                                                        \
        "n.now") ") p ON r.state = 0"                                                                                  \
                 " CROSS JOIN LATERAL (SELECT " PGQRSI_PG_RUN_STATE " AS code) s"                                      \
                 " LEFT JOIN @.pgqrs_workers k ON p.k = 2 AND k.id = p.worker_id"

static const char pgqrsi_pa_run_get[] =
    "WITH n AS (SELECT " PGQRSI_PG_NOW " AS now), page AS (SELECT $1::bigint AS id) " PGQRSI_PA_RUN_SHOW;

/* The filter: 1 workflow id (0: all), 2 now, 3 state, 4 key, 5 triggered from, 6 before; in lists 7 the cursor, 8 the limit, 9
 * whether the oldest come first. */
#define PGQRSI_PA_RUN_NOW "WITH n AS MATERIALIZED (SELECT " PGQRSI_PG_NOW " AS now)"
#define PGQRSI_PA_RUN_FILTER                                                                                           \
    "($1 = 0 OR r.workflow_id = $1) AND ($4 IS NULL OR r.idempotency_key = $4)"                                        \
    " AND ($5 IS NULL OR r.triggered_at >= $5) AND ($6 IS NULL OR r.triggered_at < $6)"
/* What the stored row tells of the state asked for. */
#define PGQRSI_PA_RUN_STORED                                                                                           \
    "CASE $3 WHEN 0 THEN true WHEN 1 THEN r.state = 0 AND r.cancel_requested_at IS NULL"                               \
    " WHEN 2 THEN r.state = 0 AND r.cancel_requested_at IS NULL"                                                       \
    " WHEN 3 THEN r.state = 0 AND r.cancel_requested_at IS NULL AND r.wait <> 0"                                       \
    " WHEN 4 THEN r.state = 0 AND r.cancel_requested_at IS NOT NULL WHEN 7 THEN r.state IN (0, 7)"                     \
    " ELSE r.state = $3 END"

/* States that the row nearly tells: what is left to check is looked up run by run, until the page is full. */
#define PGQRSI_PA_RUN_PAGE(beyond, direction)                                                                          \
    PGQRSI_PA_RUN_NOW                                                                                                  \
    ", page AS MATERIALIZED (SELECT r.id FROM @.pgqrs_runs r CROSS JOIN n WHERE " PGQRSI_PA_RUN_FILTER                 \
    " AND " PGQRSI_PA_RUN_STORED " AND r.id " beyond " $7 AND ($3 NOT BETWEEN 1 AND 4 OR"                              \
    " (SELECT " PGQRSI_PG_RUN_STATE " FROM (VALUES (1)) o(o) LEFT JOIN LATERAL (" PGQRSI_PG_RUN_PLACE(                 \
        "n.now") ") p ON true) = $3) AND $9 IS NOT NULL ORDER BY r.id " direction " LIMIT $8) @+"
static const char pgqrsi_pa_run_page_up[] = PGQRSI_PA_RUN_PAGE(">", "ASC");
static const char pgqrsi_pa_run_page_up_more[] = PGQRSI_PA_RUN_SHOW " ORDER BY r.id ASC";
static const char pgqrsi_pa_run_page_down[] = PGQRSI_PA_RUN_PAGE("<", "DESC");
static const char pgqrsi_pa_run_page_down_more[] = PGQRSI_PA_RUN_SHOW " ORDER BY r.id DESC";

/* Runs that somebody has, from the leases; failed ones, from their rows and from all that is open and in no place where a
 * worker would find it. */
#define PGQRSI_PA_RUN_HELD                                                                                             \
    "held AS MATERIALIZED (SELECT x.id FROM n, @.pgqrs_leases t, unnest(t.lo, t.n) AS u(lo, n),"                       \
    " generate_series(u.lo, u.lo + u.n - 1) AS x(id) WHERE t.until > n.now)"
#define PGQRSI_PA_RUN_PLACES                                                                                           \
    "places AS MATERIALIZED (SELECT x.id, t.later FROM (SELECT t.queue_id, t.lo, t.n, false AS later"                  \
    " FROM @.pgqrs_ready t UNION ALL SELECT t.queue_id, t.lo, t.n, t.due_at > " PGQRSI_PG_NOW                          \
    " FROM @.pgqrs_delayed t"                                                                                          \
    " UNION ALL SELECT t.queue_id, u.lo, u.n, false FROM @.pgqrs_leases t, unnest(t.lo, t.n) AS u(lo, n)) t,"          \
    " generate_series(t.lo, t.lo + t.n - 1) AS x(id)"                                                                  \
    " WHERE t.queue_id = ANY(ARRAY(SELECT w.queue_id FROM @.pgqrs_workflows w WHERE $1 = 0 OR w.id = $1)))"
#define PGQRSI_PA_RUN_CHOSEN                                                                                           \
    "CASE $3 WHEN 2 THEN EXISTS (SELECT 1 FROM held h WHERE h.id = r.id) WHEN 7 THEN r.state = 7 OR NOT EXISTS"        \
    " (SELECT 1 FROM places h WHERE h.id = r.id) ELSE $3 = 0 OR r.state <> 0 OR EXISTS"                                \
    " (SELECT 1 FROM places h WHERE h.id = r.id) END"
static const char pgqrsi_pa_run_page_held[] = PGQRSI_PA_RUN_NOW
    ", " PGQRSI_PA_RUN_HELD ", page AS MATERIALIZED (SELECT r.id FROM held h JOIN @.pgqrs_runs r ON r.id = h.id"
    " WHERE " PGQRSI_PA_RUN_FILTER " AND " PGQRSI_PA_RUN_STORED " AND CASE WHEN $9 THEN r.id > $7 ELSE r.id < $7 END"
    " ORDER BY CASE WHEN $9 THEN r.id ELSE -r.id END LIMIT $8) " PGQRSI_PA_RUN_SHOW
    " ORDER BY CASE WHEN $9 THEN r.id ELSE -r.id END";
static const char pgqrsi_pa_run_page_failed[] =
    PGQRSI_PA_RUN_NOW ", " PGQRSI_PA_RUN_PLACES
                      ", page AS MATERIALIZED (SELECT a.id FROM (SELECT r.id FROM @.pgqrs_runs r WHERE r.state = 7"
                      " AND " PGQRSI_PA_RUN_FILTER " UNION ALL SELECT r.id FROM @.pgqrs_runs r LEFT JOIN places h"
                      " ON h.id = r.id WHERE r.state = 0 AND h.id IS NULL AND $3 = 7 AND " PGQRSI_PA_RUN_FILTER
                      ") a WHERE CASE WHEN $9 THEN a.id > $7 ELSE a.id < $7 END"
                      " ORDER BY CASE WHEN $9 THEN a.id ELSE -a.id END LIMIT $8) " PGQRSI_PA_RUN_SHOW
                      " ORDER BY CASE WHEN $9 THEN r.id ELSE -r.id END";

/* Counting: what the rows tell alone; those in the hands of workers; everything else by what is in which place. */
static const char pgqrsi_pa_run_count[] = "SELECT count(*) FROM @.pgqrs_runs r WHERE " PGQRSI_PA_RUN_FILTER
                                          " AND " PGQRSI_PA_RUN_STORED " AND $2 IS NOT DISTINCT FROM $2";
static const char pgqrsi_pa_run_count_held[] =
    PGQRSI_PA_RUN_NOW ", " PGQRSI_PA_RUN_HELD
                      " SELECT count(*) FROM held h JOIN @.pgqrs_runs r ON r.id = h.id WHERE " PGQRSI_PA_RUN_FILTER
                      " AND " PGQRSI_PA_RUN_STORED;
static const char pgqrsi_pa_run_count_failed[] =
    PGQRSI_PA_RUN_NOW ", " PGQRSI_PA_RUN_PLACES " SELECT (SELECT count(*) FROM @.pgqrs_runs r WHERE r.state = 7"
                      " AND " PGQRSI_PA_RUN_FILTER ") + (SELECT count(*) FROM @.pgqrs_runs r LEFT JOIN places h"
                      " ON h.id = r.id WHERE r.state = 0 AND h.id IS NULL AND $3 = 7 AND " PGQRSI_PA_RUN_FILTER ")";
static const char pgqrsi_pa_run_count_open[] = PGQRSI_PA_RUN_NOW
    ", " PGQRSI_PA_RUN_PLACES ", " PGQRSI_PA_RUN_HELD
    " SELECT count(*) FROM @.pgqrs_runs r JOIN places h ON h.id = r.id"
    " LEFT JOIN held l ON l.id = r.id AND $3 <> 4 WHERE l.id IS NULL AND " PGQRSI_PA_RUN_FILTER
    " AND " PGQRSI_PA_RUN_STORED " AND ($3 <> 1 OR NOT h.later OR r.wait = 0) AND ($3 <> 3 OR h.later)";

static const char pgqrsi_pa_run_lock[] = "SELECT r.state, r.queue_id FROM @.pgqrs_runs r WHERE r.id = $1 FOR UPDATE";

static const char pgqrsi_pa_run_state[] =
    "SELECT " PGQRSI_PG_RUN_STATE
    " FROM @.pgqrs_runs r LEFT JOIN LATERAL (" PGQRSI_PG_RUN_PLACE(PGQRSI_PG_NOW) ") p ON true WHERE r.id = $1";

/* Where the message of run $1 is, in the numbers of PGQRSI_PA_LOCK; it stays there until the end of the transaction when that is
 * the line. A lease is not waited for, because its holder may be waiting for the run. 0: there is a message, ask again; no row:
 * there is none. */
static const char pgqrsi_pa_run_at[] =
    "WITH k AS MATERIALIZED (SELECT r.id, r.queue_id FROM @.pgqrs_runs r WHERE r.id = $1),"
    " a AS MATERIALIZED (SELECT t.attempt FROM k, @.pgqrs_ready t WHERE " PGQRSI_PA_IN_RUN " FOR UPDATE OF t),"
    " b AS MATERIALIZED (SELECT t.attempt FROM k, @.pgqrs_delayed t WHERE " PGQRSI_PA_IN_RUN
    " AND NOT EXISTS (SELECT 1 FROM a) FOR UPDATE OF t),"
    " c AS (SELECT 1 AS place, attempt, NULL::bigint AS lease FROM a UNION ALL SELECT 2, attempt, NULL FROM b"
    " UNION ALL SELECT CASE WHEN l.until > " PGQRSI_PG_NOW " THEN 3 ELSE 4 END, u.attempt, l.lease"
    " FROM k, @.pgqrs_leases l, unnest(l.lo, l.n, l.attempt) AS u(lo, n, attempt) WHERE l.queue_id = k.queue_id"
    " AND l.lo_min <= k.id AND l.hi_max >= k.id AND k.id >= u.lo AND k.id < u.lo + u.n"
    " UNION ALL SELECT 5, NULL, NULL FROM k WHERE EXISTS (SELECT 1 FROM @.pgqrs_done d WHERE " PGQRSI_PA_IN_DONE ")"
    " UNION ALL SELECT 6, d.attempt, NULL FROM k JOIN @.pgqrs_dead d ON d.queue_id = k.queue_id AND d.id = k.id"
    " UNION ALL SELECT 0, NULL, NULL FROM k JOIN @.pgqrs_messages m ON m.queue_id = k.queue_id AND m.id = k.id)"
    " SELECT place, attempt, lease FROM c ORDER BY place DESC LIMIT 1";

static const char pgqrsi_pa_run_free[] =
    "SELECT l.lease FROM @.pgqrs_leases l WHERE l.lease = $1 AND l.until <= " PGQRSI_PG_NOW
    " AND EXISTS (SELECT 1 FROM unnest(l.lo, l.n) AS u(lo, n) WHERE $3 >= u.lo AND $3 < u.lo + u.n)"
    " FOR UPDATE SKIP LOCKED";

static const char pgqrsi_pa_run_ask_cancel[] =
    "UPDATE @.pgqrs_runs SET cancel_requested_at = " PGQRSI_PG_NOW ", cancelled_by = $3, cancel_reason = $4"
    " WHERE id = $1 AND cancel_requested_at IS NULL";

/* The message has just been taken out of where it was; 3 is how often it had been delivered. */
static const char pgqrsi_pa_run_cancelled[] =
    "WITH u AS (UPDATE @.pgqrs_runs SET state = 5, finished_at = " PGQRSI_PG_NOW
    ", wait = 0, wait_name = NULL, wait_until = NULL WHERE id = $1 RETURNING id, queue_id),"
    " a AS (INSERT INTO @.pgqrs_done(queue_id, lease, at, outcome, total, lo_min, hi_max, lo, n, attempt)"
    " SELECT queue_id, 0, " PGQRSI_PG_NOW ", 0, 1, id, id, ARRAY[id], ARRAY[1::smallint], ARRAY[$3::smallint] FROM u)"
    " SELECT (SELECT pg_notify('@!', (-id)::text) WHERE EXISTS (SELECT 1 FROM @.pgqrs_sleepers z"
    " WHERE z.queue_id = -id AND z.until > statement_timestamp()))::text FROM u";

static const char pgqrsi_pa_run_reset[] =
    "WITH s AS (DELETE FROM @.pgqrs_steps WHERE run_id = $1 AND state <> 1)"
    " UPDATE @.pgqrs_runs r SET state = 0, wait = 0, wait_name = NULL, wait_until = NULL, retries = 0,"
    " finished_at = NULL, cancel_requested_at = NULL, cancelled_by = NULL, cancel_reason = NULL, error_code = NULL,"
    " error_message = NULL, error_step = NULL, output = NULL, deadline_at = " PGQRSI_PG_NOW
    " + nullif(w.timeout_ms, 0) * interval '1 millisecond'"
    " FROM @.pgqrs_workflows w WHERE r.id = $1 AND w.id = r.workflow_id";

/* 1 run, 2 now, 3 before, 4 input. */
static const char pgqrsi_pa_run_fork[] =
    "WITH r AS MATERIALIZED (SELECT r.id, r.workflow_id, r.queue_id, w.timeout_ms, coalesce(m.priority, 0) AS priority,"
    " coalesce($4, m.payload) AS input, " PGQRSI_PG_NOW " AS now"
    " FROM @.pgqrs_runs r JOIN @.pgqrs_workflows w ON w.id = r.workflow_id"
    " LEFT JOIN @.pgqrs_messages m ON m.queue_id = r.queue_id AND m.id = r.id WHERE r.id = $1),"
    " m AS (INSERT INTO @.pgqrs_messages(queue_id, id, priority, enqueued_at, payload)"
    " SELECT queue_id, nextval('@.pgqrs_message_id'), priority, now, input FROM r WHERE input IS NOT NULL"
    " RETURNING queue_id, id, priority),"
    " f AS (INSERT INTO @.pgqrs_runs(id, workflow_id, queue_id, triggered_at, deadline_at, forked_from)"
    " SELECT m.id, r.workflow_id, r.queue_id, r.now, r.now + nullif(r.timeout_ms, 0) * interval '1 millisecond', r.id"
    " FROM m, r),"
    " s AS (INSERT INTO @.pgqrs_steps(run_id, number, kind, state, retries, started_at, finished_at, due_at, name, key,"
    " input, output, error_code, error_message) SELECT m.id, t.number, t.kind, t.state, t.retries, t.started_at,"
    " t.finished_at, t.due_at, t.name, t.key, t.input, t.output, t.error_code, t.error_message"
    " FROM m, @.pgqrs_steps t WHERE t.run_id = $1 AND t.state = 1 AND t.number < $3),"
    " l AS (INSERT INTO @.pgqrs_ready(queue_id, prio, lo, n) SELECT queue_id, -priority::int, id, 1 FROM m)"
    " SELECT (SELECT id FROM m), " PGQRSI_PG_NOTIFY("(SELECT queue_id AS id FROM m)") "::text FROM r";

/* Ended runs of workflow `w`, oldest first, as x(id, at): in `cancelled`, `success` and `failed` whether such ones, and the time
 * before which they ended (NULL: any). A failed one is known by its row or by its dead letter. */
#define PGQRSI_PA_ENDED_ARM(w, code, wanted, before)                                                                   \
    "(SELECT r.id, r.finished_at AS at FROM @.pgqrs_runs r WHERE r.workflow_id = " w ".id AND r.state = " code         \
    " AND r.state <> 0 AND " wanted " AND (" before " IS NULL OR r.finished_at < " before ")"                          \
    " ORDER BY r.finished_at LIMIT $3)"
#define PGQRSI_PA_ENDED_RUNS(w, cancelled, success, failed, before, failed_before)                                     \
    "(" PGQRSI_PA_ENDED_ARM(w, "5", cancelled, before) " UNION ALL " PGQRSI_PA_ENDED_ARM(                              \
        w, "6", success,                                                                                               \
        before) " UNION ALL " PGQRSI_PA_ENDED_ARM(w, "7", failed,                                                      \
                                                  failed_before) " UNION ALL (SELECT r.id, d.at FROM @.pgqrs_dead d"   \
                                                                 " JOIN @.pgqrs_runs r ON r.id = d.id"                 \
                                                                 " WHERE " failed " AND d.queue_id = " w ".queue_id"   \
                                                                 " AND (" failed_before                                \
                                                                 " IS NULL OR d.at < " failed_before ")"               \
                                                                 " AND r.workflow_id = " w ".id AND r.state = 0"       \
                                                                 " ORDER BY d.id LIMIT $3)) x"

/* 1 workflow id, 2 now, 3 limit, 4 states, 5 older_than_us. */
static const char pgqrsi_pa_purge_ended[] =
    "WITH w AS MATERIALIZED (SELECT id, queue_id, CASE WHEN $5 > 0 THEN " PGQRSI_PG_NOW
    " - $5 * interval '1 microsecond' END AS before FROM @.pgqrs_workflows WHERE id = $1)"
    " SELECT x.id FROM w, LATERAL " PGQRSI_PA_ENDED_RUNS("w", "($4 & 32) <> 0", "($4 & 64) <> 0", "($4 & 128) <> 0",
                                                         "w.before", "w.before") " ORDER BY x.at LIMIT $3";

/* Failed ones that no dead letter tells of: their messages were archived or removed by hand. */
static const char pgqrsi_pa_purge_lost[] =
    "WITH " PGQRSI_PA_RUN_PLACES " SELECT r.id FROM @.pgqrs_runs r LEFT JOIN places h ON h.id = r.id"
    " WHERE r.workflow_id = $1 AND r.state = 0 AND h.id IS NULL AND ($4 & 128) <> 0"
    " AND ($5 = 0 OR r.triggered_at < " PGQRSI_PG_NOW " - $5 * interval '1 microsecond') ORDER BY r.id LIMIT $3";

static const char pgqrsi_pa_purge_open[] = "SELECT r.id FROM @.pgqrs_runs r WHERE r.workflow_id = $1 AND r.state = 0"
                                           " AND $2 IS NOT DISTINCT FROM $2 AND $4 = $4 AND $5 = $5"
                                           " ORDER BY r.id LIMIT $3";

/* 1 queue, 2 now, 3 limit: what the workflows' retention says. */
static const char pgqrsi_pa_purge_old[] =
    "WITH w AS MATERIALIZED (SELECT id, queue_id, retention_ms > 0 AS some, failed_retention_ms > 0 AS failed,"
    " " PGQRSI_PG_NOW " - retention_ms * interval '1 millisecond' AS before,"
    " " PGQRSI_PG_NOW " - failed_retention_ms * interval '1 millisecond' AS failed_before FROM @.pgqrs_workflows"
    " WHERE queue_id = (SELECT id FROM @.pgqrs_queues WHERE name = $1) AND (retention_ms > 0 OR failed_retention_ms > "
    "0))"
    " SELECT x.id FROM w, LATERAL " PGQRSI_PA_ENDED_RUNS("w", "w.some", "w.some", "w.failed", "w.before",
                                                         "w.failed_before") " LIMIT $3";

/* Which of the runs $1 may go: those that have ended, those whose message is not on its way any more ($2), or all ($3). What
 * somebody else is just changing is left for another time. */
static const char pgqrsi_pa_purge_check[] = "SELECT r.id FROM @.pgqrs_runs r WHERE r.id = ANY($1)"
                                            " AND (r.state <> 0 OR r.id = ANY($2) OR $3) FOR UPDATE SKIP LOCKED";

static const char pgqrsi_pa_run_forget[] =
    "WITH gone AS (DELETE FROM @.pgqrs_runs r WHERE r.id = ANY($1) RETURNING r.id),"
    " " PGQRSI_PA_FORGET_RUNS("gone", "r.id") " SELECT count(*) FROM gone";

static const char pgqrsi_pa_drop_runs[] =
    "WITH gone AS (DELETE FROM @.pgqrs_runs r WHERE r.queue_id = $1 RETURNING r.id),"
    " " PGQRSI_PA_FORGET_RUNS("gone", "r.id") " DELETE FROM @.pgqrs_workflows WHERE queue_id = $1";

#define PGQRSI_PA_RUN_STATEMENTS(X)                                                                                    \
    X(WORKFLOW_HAVE, "SELECT id FROM @.pgqrs_workflows WHERE name = $1")                                               \
    X(WORKFLOW_CREATE, pgqrsi_pa_workflow_create)                                                                      \
    X(WORKFLOW_CHANGE, pgqrsi_pa_workflow_change)                                                                      \
    X(WORKFLOW_LIST, pgqrsi_pa_workflow_list)                                                                          \
    X(WORKFLOW_LOCK, pgqrsi_pa_workflow_lock)                                                                          \
    X(WORKFLOW_DROP, "DELETE FROM @.pgqrs_workflows WHERE id = $1")                                                    \
    X(RUN_HAVE, "SELECT 1 FROM @.pgqrs_runs WHERE id = $1")                                                            \
    X(RUN_VALUES, "SELECT name, value, set_at FROM @.pgqrs_run_values WHERE run_id = $1 ORDER BY name COLLATE \"C\"")  \
    X(RUN_GET, pgqrsi_pa_run_get)                                                                                      \
    X(RUN_PAGE_UP, pgqrsi_pa_run_page_up)                                                                              \
    X(RUN_PAGE_UP_MORE, pgqrsi_pa_run_page_up_more)                                                                    \
    X(RUN_PAGE_DOWN, pgqrsi_pa_run_page_down)                                                                          \
    X(RUN_PAGE_DOWN_MORE, pgqrsi_pa_run_page_down_more)                                                                \
    X(RUN_PAGE_HELD, pgqrsi_pa_run_page_held)                                                                          \
    X(RUN_PAGE_FAILED, pgqrsi_pa_run_page_failed)                                                                      \
    X(RUN_COUNT, pgqrsi_pa_run_count)                                                                                  \
    X(RUN_COUNT_HELD, pgqrsi_pa_run_count_held)                                                                        \
    X(RUN_COUNT_FAILED, pgqrsi_pa_run_count_failed)                                                                    \
    X(RUN_COUNT_OPEN, pgqrsi_pa_run_count_open)                                                                        \
    X(RUN_LOCK, pgqrsi_pa_run_lock)                                                                                    \
    X(RUN_STATE, pgqrsi_pa_run_state)                                                                                  \
    X(RUN_AT, pgqrsi_pa_run_at)                                                                                        \
    X(RUN_FREE, pgqrsi_pa_run_free)                                                                                    \
    X(RUN_ASK_CANCEL, pgqrsi_pa_run_ask_cancel)                                                                        \
    X(RUN_CANCELLED, pgqrsi_pa_run_cancelled)                                                                          \
    X(RUN_RESET, pgqrsi_pa_run_reset)                                                                                  \
    X(RUN_FORK, pgqrsi_pa_run_fork)                                                                                    \
    X(PURGE_ENDED, pgqrsi_pa_purge_ended)                                                                              \
    X(PURGE_LOST, pgqrsi_pa_purge_lost)                                                                                \
    X(PURGE_OPEN, pgqrsi_pa_purge_open)                                                                                \
    X(PURGE_OLD, pgqrsi_pa_purge_old)                                                                                  \
    X(PURGE_CHECK, pgqrsi_pa_purge_check)                                                                              \
    X(RUN_FORGET, pgqrsi_pa_run_forget)                                                                                \
    X(DROP_RUNS, pgqrsi_pa_drop_runs)

#define PGQRSI_PA_STATEMENTS(X)                                                                                        \
    PGQRSI_PA_RUN_STATEMENTS(X)                                                                                        \
    PGQRSI_PA_QUEUE_STATEMENTS(X)                                                                                      \
    PGQRSI_PA_MESSAGE_STATEMENTS(X)                                                                                    \
    PGQRSI_PA_WORKER_STATEMENTS(X)                                                                                     \
    PGQRSI_PA_NUMBER_STATEMENTS(X)                                                                                     \
    PGQRSI_PA_VERIFY_STATEMENTS(X)

enum {
    PGQRSI_PA_SQL_BEFORE = PGQRSI_PG_ADMIN_FIRST - 1,
#define PGQRSI_PA_X(name, sql) PGQRSI_PA_SQL_##name,
    PGQRSI_PA_STATEMENTS(PGQRSI_PA_X)
#undef PGQRSI_PA_X
};

static const char *const pgqrsi_pg_admin_texts[] = {
#define PGQRSI_PA_X(name, sql) sql,
    PGQRSI_PA_STATEMENTS(PGQRSI_PA_X)
#undef PGQRSI_PA_X
};

static const char *pgqrsi_pg_admin_sql(int index)
{
    return pgqrsi_pg_admin_texts[index];
}

/* --- reading results ---------------------------------------------------------------------------------------------- */

/* A result object of `head` bytes with room for an item per row; the texts follow. NULL: no memory. */
static void *pgqrsi_pg_object(pgqrsi_pg *pg, const PGresult *r, size_t head, size_t item, void **items)
{
    size_t count = (size_t)PQntuples(r);
    void *object = pgqrs_backend_result_new(pg->store, head, count * item + 64 + pgqrsi_pg_text_bytes(r));
    if (!object) return NULL;
    *items = pgqrs_backend_result_alloc(object, (count ? count : 1) * item);
    if (*items) return object;
    pgqrs_free(object);
    return NULL;
}

/* Runs a call and hands back the number in its first row and column (0: no row). */
static pgqrs_result pgqrsi_pg_write_number(pgqrsi_pg_call *call, int64_t *number)
{
    PGresult *r = NULL;
    pgqrs_result result = pgqrsi_pg_write(call, &r);
    *number = !result && PQntuples(r) > 0 && PQnfields(r) > 0 ? pgqrsi_pg_get_int64(r, 0, 0) : 0;
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_write_only(pgqrsi_pg_call *call)
{
    int64_t ignored;
    return pgqrsi_pg_write_number(call, &ignored);
}

/* Hands an array that came from the server back to it as a parameter; `r` must live until the call is over. */
static void pgqrsi_pg_echo(pgqrsi_pg_call *call, const PGresult *r, int row, int column)
{
    bool none = PQgetisnull(r, row, column);
    pgqrsi_pg_add(call, PQftype(r, column), none ? NULL : PQgetvalue(r, row, column),
                  none ? 0 : (size_t)PQgetlength(r, row, column));
}

/* A transaction of several statements that lost against others is done again from its start, where that is ours to
 * decide. */
static bool pgqrsi_pg_again(pgqrsi_pg *pg, pgqrs_result result, int *tries)
{
    if (result != PGQRS_ERR_CONFLICT || !pgqrsi_pg_alone(pg) || *tries >= pg->settings->retry_limit) return false;
    pgqrsi_pg_back_off(pg, (*tries)++);
    return true;
}

/* Administrators who go through many rows (alone) or through some by their ids pass here. Not a row and not a table,
 * so that nobody else is held up. */
static pgqrs_result pgqrsi_pg_gate(pgqrsi_pg *pg, bool alone)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_GATE);
    pgqrsi_pg_bool(&call, alone);
    return pgqrsi_pg_write_only(&call);
}

/* --- queues ------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_pg_queue_create(void *self, int64_t now_us, const char *queue,
                                           const pgqrs_queue_desc *settings, bool *created)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *created = false;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_QUEUE_CREATE);
    pgqrsi_pg_text(&call, queue);
    pgqrsi_pg_int64(&call, settings->lease_ms);
    pgqrsi_pg_int32(&call, settings->max_attempts);
    pgqrsi_pg_int64(&call, settings->backoff_ms);
    pgqrsi_pg_int64(&call, settings->backoff_max_ms);
    pgqrsi_pg_int64(&call, settings->retention_ms);
    pgqrsi_pg_int64(&call, settings->dead_retention_ms);
    pgqrsi_pg_bool(&call, settings->paused);
    pgqrsi_pg_time(&call, now_us);
    /* only who asks for a new queue cares whether it was this call that made it */
    pgqrs_result result = settings->must_be_new ? pgqrsi_pg_write(&call, &r) : pgqrsi_pg_read(&call, &r);
    if (!result) *created = pgqrsi_pg_get_int64(r, 0, 0) != 0;
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_queue_change(void *self, const char *queue, const pgqrs_backend_queue_change *change)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_QUEUE_CHANGE);
    pgqrsi_pg_text(&call, queue);
    pgqrsi_pg_int64(&call, change->settings.lease_ms);
    pgqrsi_pg_int32(&call, change->settings.max_attempts);
    pgqrsi_pg_int64(&call, change->settings.backoff_ms);
    pgqrsi_pg_int64(&call, change->settings.backoff_max_ms);
    pgqrsi_pg_int64(&call, change->settings.retention_ms);
    pgqrsi_pg_int64(&call, change->settings.dead_retention_ms);
    pgqrsi_pg_int32(&call, (int32_t)change->paused);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_no_queue(pg, queue);
    PQclear(r);
    return result;
}

static bool pgqrsi_pg_read_queue(const PGresult *r, int row, void *result, pgqrs_queue *queue)
{
    queue->id = pgqrsi_pg_get_int64(r, row, 0);
    queue->settings.lease_ms = pgqrsi_pg_get_int64(r, row, 2);
    queue->settings.max_attempts = (int32_t)pgqrsi_pg_get_int64(r, row, 3);
    queue->settings.backoff_ms = pgqrsi_pg_get_int64(r, row, 4);
    queue->settings.backoff_max_ms = pgqrsi_pg_get_int64(r, row, 5);
    queue->settings.retention_ms = pgqrsi_pg_get_int64(r, row, 6);
    queue->settings.dead_retention_ms = pgqrsi_pg_get_int64(r, row, 7);
    queue->settings.paused = pgqrsi_pg_get_int64(r, row, 8) != 0;
    queue->created_at_us = pgqrsi_pg_get_int64(r, row, 9);
    return pgqrsi_pg_copy(result, r, row, 1, &queue->name);
}

static pgqrs_queues *pgqrsi_pg_read_queues(pgqrsi_pg *pg, const PGresult *r)
{
    void *items = NULL;
    pgqrs_queues *list = (pgqrs_queues *)pgqrsi_pg_object(pg, r, sizeof *list, sizeof(pgqrs_queue), &items);
    if (!list) return NULL;
    list->items = (const pgqrs_queue *)items;
    list->count = (size_t)PQntuples(r);
    for (int row = 0; row < PQntuples(r); row++)
        if (!pgqrsi_pg_read_queue(r, row, list, (pgqrs_queue *)items + row)) {
            pgqrs_free(list);
            return NULL;
        }
    return list;
}

static pgqrs_result pgqrsi_pg_queue_list(void *self, const char *queue_or_null, int64_t after_id, size_t limit,
                                         pgqrs_queues **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, queue_or_null ? PGQRSI_PA_SQL_QUEUE_GET : PGQRSI_PA_SQL_QUEUE_PAGE);
    if (queue_or_null) {
        pgqrsi_pg_text(&call, queue_or_null);
    } else {
        pgqrsi_pg_int64(&call, after_id);
        pgqrsi_pg_int64(&call, (int64_t)limit);
    }
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && (*out = pgqrsi_pg_read_queues(pg, r)) == NULL) result = pgqrsi_pg_no_memory(pg);
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_of_queue(pgqrsi_pg *pg, int statement, int64_t queue_id, int64_t *number)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, pg, statement);
    pgqrsi_pg_int64(&call, queue_id);
    return pgqrsi_pg_write_number(&call, number);
}

static pgqrs_result pgqrsi_pg_queue_row(pgqrsi_pg *pg, int statement, const char *queue, int64_t *queue_id)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, pg, statement);
    pgqrsi_pg_text(&call, queue);
    pgqrs_result result = pgqrsi_pg_write_number(&call, queue_id);
    return result || *queue_id ? result : pgqrsi_pg_no_queue(pg, queue);
}

/* How long a lock may be waited for; NULL: 3 s. `before` gets what was set before. */
static pgqrs_result pgqrsi_pg_patience(pgqrsi_pg *pg, const char *time, char before[32])
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_PATIENCE);
    pgqrsi_pg_text(&call, time);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    if (!result && before) snprintf(before, 32, "%.*s", PQgetlength(r, 0, 0), PQgetvalue(r, 0, 0));
    PQclear(r);
    return result;
}

/* Waits until every transaction that writes messages or leases has ended, and keeps all others out until the end of
 * this one: an enqueue that was under way is seen, a later one finds that the queue is gone. Who waits here holds up
 * everybody, so not for long. */
static pgqrs_result pgqrsi_pg_barrier(pgqrsi_pg *pg, const char *what, const char *name)
{
    pgqrsi_pg_call call;
    char before[32];
    pgqrs_result result = pgqrsi_pg_patience(pg, NULL, before);
    if (result) return result;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_QUEUE_BARRIER);
    result = pgqrsi_pg_write_only(&call);
    if (result == PGQRS_ERR_BUSY)
        return pgqrs_backend_fail(pg->store, result, 0, "55P03",
                                  "%s \"%s\" cannot be removed while a transaction that enqueued or settled "
                                  "messages stays "
                                  "open: end it, then try again",
                                  what, name);
    return result ? result : pgqrsi_pg_patience(pg, before, NULL);
}

static pgqrs_result pgqrsi_pg_queue_unused(pgqrsi_pg *pg, const char *queue, int64_t queue_id)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_QUEUE_USE);
    pgqrsi_pg_int64(&call, queue_id);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    int64_t messages = result ? 0 : pgqrsi_pg_get_int64(r, 0, 0);
    int64_t workers = result ? 0 : pgqrsi_pg_get_int64(r, 0, 1);
    if (!result && !PQgetisnull(r, 0, 2))
        result = pgqrs_backend_fail(
            pg->store, PGQRS_ERR_QUEUE_NOT_EMPTY, 0, NULL,
            "queue \"%s\" belongs to workflow \"%.*s\": delete that with pgqrs_workflow_delete, or use force", queue,
            PQgetlength(r, 0, 2), PQgetvalue(r, 0, 2));
    PQclear(r);
    if (result || (messages == 0 && workers == 0)) return result;
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_QUEUE_NOT_EMPTY, 0, NULL,
                              "queue \"%s\" still has %lld messages and %lld live workers: purge and stop them, or "
                              "use force",
                              queue, (long long)messages, (long long)workers);
}

static pgqrs_result pgqrsi_pg_queue_sweep(pgqrsi_pg *pg, int64_t queue_id)
{
    static const int places[] = {PGQRSI_PA_SQL_DROP_DELAYED, PGQRSI_PA_SQL_DROP_READY, PGQRSI_PA_SQL_DROP_LEASES,
                                 PGQRSI_PA_SQL_DROP_DEAD,    PGQRSI_PA_SQL_DROP_DONE,  PGQRSI_PA_SQL_DROP_FAILURES,
                                 PGQRSI_PA_SQL_DROP_DEDUP,   PGQRSI_PA_SQL_DROP_RUNS,  PGQRSI_PA_SQL_DROP_MESSAGES};
    int64_t ignored;
    pgqrs_result result = PGQRS_OK;
    for (size_t i = 0; i < sizeof places / sizeof places[0] && !result; i++)
        result = pgqrsi_pg_of_queue(pg, places[i], queue_id, &ignored);
    return result;
}

/* That it is in use is found out first, so that a refusal holds up nobody. */
static pgqrs_result pgqrsi_pg_queue_drop(pgqrsi_pg *pg, const char *queue, bool force)
{
    int64_t queue_id = 0;
    int64_t ignored;
    pgqrs_result result = pgqrsi_pg_queue_row(pg, PGQRSI_PA_SQL_QUEUE_ID, queue, &queue_id);
    if (!result && !force) result = pgqrsi_pg_queue_unused(pg, queue, queue_id);
    if (!result) result = pgqrsi_pg_gate(pg, true);
    if (!result) result = pgqrsi_pg_barrier(pg, "queue", queue);
    if (!result) result = pgqrsi_pg_queue_row(pg, PGQRSI_PA_SQL_QUEUE_LOCK, queue, &queue_id);
    if (!result) result = force ? pgqrsi_pg_queue_sweep(pg, queue_id) : pgqrsi_pg_queue_unused(pg, queue, queue_id);
    return result ? result : pgqrsi_pg_of_queue(pg, PGQRSI_PA_SQL_QUEUE_DROP, queue_id, &ignored);
}

static pgqrs_result pgqrsi_pg_queue_delete(void *self, int64_t now_us, const char *queue, bool force)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    (void)now_us;
    do {
        result = pgqrsi_pg_begin(pg);
        if (!result) result = pgqrsi_pg_finish(pg, pgqrsi_pg_queue_drop(pg, queue, force));
    } while (pgqrsi_pg_again(pg, result, &tries));
    return result;
}

/* --- purge: `before_us` 0 means any age */

static pgqrs_result pgqrsi_pg_purge_place(pgqrsi_pg *pg, int statement, int64_t queue_id, int64_t before_us,
                                          int64_t *removed)
{
    pgqrsi_pg_call call;
    int64_t count;
    pgqrsi_pg_start(&call, pg, statement);
    pgqrsi_pg_int64(&call, queue_id);
    pgqrsi_pg_time(&call, before_us);
    pgqrs_result result = pgqrsi_pg_write_number(&call, &count);
    *removed += count;
    return result;
}

/* busy: there were leases, so that messages may have come back from one while it was waited for. Only the first
 * round waits: new leases are not greater than those held already, so waiting for them could be waiting in a circle. */
static pgqrs_result pgqrsi_pg_purge_leased(pgqrsi_pg *pg, int64_t queue_id, int64_t before_us, bool wait,
                                           int64_t *removed, bool *busy)
{
    pgqrsi_pg_call call;
    PGresult *locked = NULL;
    int64_t count = 0;
    int64_t there = 0;
    *busy = false;
    pgqrs_result result = pgqrsi_pg_of_queue(pg, PGQRSI_PA_SQL_PURGE_HAVE, queue_id, &there);
    if (result || !there) return result;
    *busy = true;
    pgqrsi_pg_start(&call, pg, wait ? PGQRSI_PA_SQL_PURGE_LOCK : PGQRSI_PA_SQL_PURGE_LOCK_FREE);
    pgqrsi_pg_int64(&call, queue_id);
    result = pgqrsi_pg_write(&call, &locked);
    if (!result && !PQgetisnull(locked, 0, 0)) {
        pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_PURGE_LEASED);
        pgqrsi_pg_int64(&call, queue_id);
        pgqrsi_pg_time(&call, before_us);
        pgqrsi_pg_echo(&call, locked, 0, 0);
        result = pgqrsi_pg_write_number(&call, &count);
    }
    *removed += count;
    PQclear(locked);
    return result;
}

static pgqrs_result pgqrsi_pg_purge_unfinished(pgqrsi_pg *pg, int64_t queue_id, int64_t before_us, int64_t *removed)
{
    bool busy = true;
    pgqrs_result result = PGQRS_OK;
    for (int round = 0; round < 3 && busy && !result; round++) {
        result = pgqrsi_pg_purge_place(pg, PGQRSI_PA_SQL_PURGE_DELAYED, queue_id, before_us, removed);
        if (!result) result = pgqrsi_pg_purge_place(pg, PGQRSI_PA_SQL_PURGE_READY, queue_id, before_us, removed);
        if (!result) result = pgqrsi_pg_purge_leased(pg, queue_id, before_us, round == 0, removed, &busy);
    }
    return result;
}

static pgqrs_result pgqrsi_pg_purge_start(pgqrsi_pg *pg, int64_t now_us, const char *queue, int64_t older_than_ms,
                                          int64_t *queue_id, int64_t *before_us)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_PURGE_START);
    pgqrsi_pg_text(&call, queue);
    pgqrsi_pg_time(&call, now_us);
    pgqrsi_pg_int64(&call, older_than_ms);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_no_queue(pg, queue);
    if (!result) {
        *queue_id = pgqrsi_pg_get_int64(r, 0, 0);
        *before_us = pgqrsi_pg_get_int64(r, 0, 1);
        if (older_than_ms && *before_us == 0) *before_us = 1;
    }
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_purge_all(pgqrsi_pg *pg, int64_t now_us, const char *queue, const pgqrs_purge_desc *desc,
                                        int64_t *removed)
{
    int64_t queue_id = 0;
    int64_t before_us = 0;
    bool all = desc->what == PGQRS_PURGE_ALL;
    pgqrs_result result = pgqrsi_pg_gate(pg, true);
    if (!result) result = pgqrsi_pg_purge_start(pg, now_us, queue, desc->older_than_ms, &queue_id, &before_us);
    if (!result && (all || desc->what == PGQRS_PURGE_UNFINISHED))
        result = pgqrsi_pg_purge_unfinished(pg, queue_id, before_us, removed);
    if (!result && (all || desc->what == PGQRS_PURGE_DEAD))
        result = pgqrsi_pg_purge_place(pg, PGQRSI_PA_SQL_PURGE_DEAD, queue_id, before_us, removed);
    if (!result && (all || desc->what == PGQRS_PURGE_ARCHIVED))
        result = pgqrsi_pg_purge_place(pg, PGQRSI_PA_SQL_PURGE_DONE, queue_id, before_us, removed);
    return result;
}

static pgqrs_result pgqrsi_pg_queue_purge(void *self, int64_t now_us, const char *queue, const pgqrs_purge_desc *desc,
                                          int64_t *removed)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    do {
        *removed = 0;
        result = pgqrsi_pg_begin(pg);
        if (!result) result = pgqrsi_pg_finish(pg, pgqrsi_pg_purge_all(pg, now_us, queue, desc, removed));
    } while (pgqrsi_pg_again(pg, result, &tries));
    if (result) *removed = 0;
    return result;
}

/* --- messages ----------------------------------------------------------------------------------------------------- */

/* The columns are those of PGQRSI_PA_SHOW. */
static bool pgqrsi_pg_read_message(const PGresult *r, int row, void *result, pgqrs_message *message)
{
    message->id = pgqrsi_pg_get_int64(r, row, 0);
    message->state = (pgqrs_state)(int)pgqrsi_pg_get_int64(r, row, 1);
    message->priority = (int32_t)pgqrsi_pg_get_int64(r, row, 2);
    message->attempt = (int32_t)pgqrsi_pg_get_int64(r, row, 3);
    message->lease = pgqrsi_pg_get_int64(r, row, 4);
    message->lease_until_us = pgqrsi_pg_get_int64(r, row, 5);
    message->worker_id = pgqrsi_pg_get_int64(r, row, 6);
    message->enqueued_at_us = pgqrsi_pg_get_int64(r, row, 7);
    message->due_at_us = pgqrsi_pg_get_int64(r, row, 8);
    message->expires_at_us = pgqrsi_pg_get_int64(r, row, 9);
    message->finished_at_us = pgqrsi_pg_get_int64(r, row, 10);
    message->lease_size = (uint32_t)pgqrsi_pg_get_int64(r, row, 11);
    message->payload_size = (size_t)PQgetlength(r, row, 16);
    return pgqrsi_pg_copy(result, r, row, 12, &message->queue) &&
           pgqrsi_pg_copy(result, r, row, 13, &message->dedup_key) &&
           pgqrsi_pg_copy(result, r, row, 14, &message->producer) &&
           pgqrsi_pg_copy(result, r, row, 15, &message->reason) &&
           pgqrsi_pg_copy(result, r, row, 16, &message->payload) &&
           pgqrsi_pg_copy(result, r, row, 17, &message->worker);
}

static pgqrs_result pgqrsi_pg_message_get(void *self, int64_t now_us, int64_t id, pgqrs_message **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_GET);
    pgqrsi_pg_int64(&call, id);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) > 0) {
        pgqrs_message *message =
            (pgqrs_message *)pgqrs_backend_result_new(pg->store, sizeof *message, pgqrsi_pg_text_bytes(r));
        if (message && pgqrsi_pg_read_message(r, 0, message, message)) {
            *out = message;
        } else {
            pgqrs_free(message);
            result = pgqrsi_pg_no_memory(pg);
        }
    }
    PQclear(r);
    return result;
}

static pgqrs_messages *pgqrsi_pg_read_messages(pgqrsi_pg *pg, const PGresult *r)
{
    void *items = NULL;
    pgqrs_messages *list = (pgqrs_messages *)pgqrsi_pg_object(pg, r, sizeof *list, sizeof(pgqrs_message), &items);
    if (!list) return NULL;
    list->items = (const pgqrs_message *)items;
    list->count = (size_t)PQntuples(r);
    for (int row = 0; row < PQntuples(r); row++)
        if (!pgqrsi_pg_read_message(r, row, list, (pgqrs_message *)items + row)) {
            pgqrs_free(list);
            return NULL;
        }
    return list;
}

/* Parameters 1 to 5 of the filter. */
static void pgqrsi_pg_put_filter(pgqrsi_pg_call *call, const pgqrs_message_filter *filter)
{
    pgqrsi_pg_text(call, filter->queue);
    pgqrsi_pg_int32(call, (int32_t)filter->state);
    pgqrsi_pg_int64(call, filter->worker_id);
    pgqrsi_pg_time(call, filter->enqueued_from_us);
    pgqrsi_pg_time(call, filter->enqueued_before_us);
}

static pgqrs_result pgqrsi_pg_message_list(void *self, int64_t now_us, const pgqrs_message_filter *filter,
                                           pgqrs_messages **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, filter->oldest_first ? PGQRSI_PA_SQL_LIST_UP : PGQRSI_PA_SQL_LIST_DOWN);
    pgqrsi_pg_put_filter(&call, filter);
    pgqrsi_pg_int64(&call, filter->after_id || filter->oldest_first ? filter->after_id : INT64_MAX);
    pgqrsi_pg_int64(&call, (int64_t)filter->limit);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && (*out = pgqrsi_pg_read_messages(pg, r)) == NULL) result = pgqrsi_pg_no_memory(pg);
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_message_count(void *self, int64_t now_us, const pgqrs_message_filter *filter,
                                            int64_t *count)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    bool in_range = filter->enqueued_from_us || filter->enqueued_before_us;
    pgqrsi_pg_start(&call, pg, in_range ? PGQRSI_PA_SQL_COUNT_RANGE : PGQRSI_PA_SQL_COUNT);
    pgqrsi_pg_put_filter(&call, filter);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    *count = result ? 0 : pgqrsi_pg_get_int64(r, 0, 0);
    PQclear(r);
    return result;
}

/* --- messages by id: first everything that has one of them is locked, then they are taken out place by place. */

/* Where a locked message is, as PGQRSI_PA_LOCK says it. */
enum {
    PGQRSI_PG_AT_READY = 1,
    PGQRSI_PG_AT_DELAYED = 2,
    PGQRSI_PG_AT_LEASE = 3,
    PGQRSI_PG_AT_RUN_OUT = 4,
    PGQRSI_PG_AT_DONE = 5,
    PGQRSI_PG_AT_DEAD = 6
};

#define PGQRSI_PG_PLACES 7

/* Some of the ids of a request, by where they are. */
typedef struct pgqrsi_pg_batch {
    pgqrsi_pg *pg;
    PGresult *locked; /* one row per id of the request, in its order */
    int64_t *numbers; /* room for ids, queues and leases, one allocation */
    size_t count;     /* of each */
    size_t used;
    bool at[PGQRSI_PG_PLACES];
    size_t lease_count;
} pgqrsi_pg_batch;

static int64_t *pgqrsi_pg_batch_ids(const pgqrsi_pg_batch *batch)
{
    return batch->numbers;
}

static int64_t *pgqrsi_pg_batch_queues(const pgqrsi_pg_batch *batch)
{
    return batch->numbers + batch->count;
}

static int64_t *pgqrsi_pg_batch_leases(const pgqrsi_pg_batch *batch)
{
    return batch->numbers + 2 * batch->count;
}

static int pgqrsi_pg_batch_place(const pgqrsi_pg_batch *batch, size_t row)
{
    return (int)pgqrsi_pg_get_int64(batch->locked, (int)row, 2);
}

static bool pgqrsi_pg_batch_missing(const pgqrsi_pg_batch *batch, size_t row)
{
    return PQgetisnull(batch->locked, (int)row, 1) != 0;
}

/* The same id again in one request. */
static bool pgqrsi_pg_batch_repeated(const pgqrsi_pg_batch *batch, size_t row)
{
    return pgqrsi_pg_get_int64(batch->locked, (int)row, 5) > 1;
}

static void pgqrsi_pg_batch_free(pgqrsi_pg_batch *batch)
{
    PQclear(batch->locked);
    if (batch->numbers) pgqrs_backend_free(batch->pg->store, batch->numbers, 3 * batch->count * sizeof *batch->numbers);
    batch->locked = NULL;
    batch->numbers = NULL;
}

static bool pgqrsi_pg_batch_settled(const pgqrsi_pg_batch *batch)
{
    for (size_t row = 0; row < batch->count; row++)
        if (!pgqrsi_pg_batch_missing(batch, row) && pgqrsi_pg_batch_place(batch, row) == 0) return false;
    return true;
}

static pgqrs_result pgqrsi_pg_batch_ask(pgqrsi_pg_batch *batch, int64_t now_us, const int64_t *ids)
{
    pgqrsi_pg_call call;
    PQclear(batch->locked);
    batch->locked = NULL;
    pgqrsi_pg_start(&call, batch->pg, PGQRSI_PA_SQL_LOCK);
    pgqrsi_pg_ids(&call, ids, batch->count);
    pgqrsi_pg_time(&call, now_us);
    return pgqrsi_pg_write(&call, &batch->locked);
}

/* Inside a transaction. Free the batch whatever comes back. */
static pgqrs_result pgqrsi_pg_batch_lock(pgqrsi_pg_batch *batch, pgqrsi_pg *pg, int64_t now_us, const int64_t *ids,
                                         size_t count)
{
    memset(batch, 0, sizeof *batch);
    batch->pg = pg;
    if (count > INT32_MAX / (3 * sizeof *batch->numbers)) return pgqrsi_pg_no_memory(pg);
    batch->numbers = (int64_t *)pgqrs_backend_alloc(pg->store, 3 * count * sizeof *batch->numbers);
    if (!batch->numbers) return pgqrsi_pg_no_memory(pg);
    batch->count = count;
    pgqrs_result result = pgqrsi_pg_gate(pg, false);
    for (int round = 0; round < 50 && !result; round++) {
        result = pgqrsi_pg_batch_ask(batch, now_us, ids);
        if (result || pgqrsi_pg_batch_settled(batch)) return result;
    }
    if (result) return result;
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_CONFLICT, 0, NULL,
                              "the messages kept moving while they were to be locked: try again; if it stays so, "
                              "pgqrs_verify "
                              "tells whether one is in no state at all");
}

static void pgqrsi_pg_batch_add(pgqrsi_pg_batch *batch, size_t row)
{
    int place = pgqrsi_pg_batch_place(batch, row);
    pgqrsi_pg_batch_ids(batch)[batch->used] = pgqrsi_pg_get_int64(batch->locked, (int)row, 0);
    pgqrsi_pg_batch_queues(batch)[batch->used] = pgqrsi_pg_get_int64(batch->locked, (int)row, 1);
    batch->used++;
    batch->at[place] = true;
    if (place == PGQRSI_PG_AT_LEASE || place == PGQRSI_PG_AT_RUN_OUT)
        pgqrsi_pg_batch_leases(batch)[batch->lease_count++] = pgqrsi_pg_get_int64(batch->locked, (int)row, 3);
}

/* A statement whose parameters are the ids and their queues. */
static void pgqrsi_pg_batch_start(const pgqrsi_pg_batch *batch, pgqrsi_pg_call *call, int statement)
{
    pgqrsi_pg_start(call, batch->pg, statement);
    pgqrsi_pg_ids(call, pgqrsi_pg_batch_ids(batch), batch->used);
    pgqrsi_pg_ids(call, pgqrsi_pg_batch_queues(batch), batch->used);
}

static pgqrs_result pgqrsi_pg_batch_run(const pgqrsi_pg_batch *batch, int statement)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_batch_start(batch, &call, statement);
    return pgqrsi_pg_write_only(&call);
}

static pgqrs_result pgqrsi_pg_batch_take_leased(const pgqrsi_pg_batch *batch)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, batch->pg, PGQRSI_PA_SQL_TAKE_LEASED);
    pgqrsi_pg_ids(&call, pgqrsi_pg_batch_ids(batch), batch->used);
    pgqrsi_pg_ids(&call, pgqrsi_pg_batch_leases(batch), batch->lease_count);
    return pgqrsi_pg_write_only(&call);
}

/* Takes the messages of the batch out of wherever they are. */
static pgqrs_result pgqrsi_pg_batch_take(const pgqrsi_pg_batch *batch)
{
    pgqrs_result result = PGQRS_OK;
    if (batch->at[PGQRSI_PG_AT_READY]) result = pgqrsi_pg_batch_run(batch, PGQRSI_PA_SQL_TAKE_READY);
    if (!result && batch->at[PGQRSI_PG_AT_DELAYED]) result = pgqrsi_pg_batch_run(batch, PGQRSI_PA_SQL_TAKE_DELAYED);
    if (!result && batch->lease_count) result = pgqrsi_pg_batch_take_leased(batch);
    if (!result && batch->at[PGQRSI_PG_AT_DONE]) result = pgqrsi_pg_batch_run(batch, PGQRSI_PA_SQL_TAKE_DONE);
    if (!result && batch->at[PGQRSI_PG_AT_DEAD]) result = pgqrsi_pg_batch_run(batch, PGQRSI_PA_SQL_TAKE_DEAD);
    return result;
}

static pgqrs_result pgqrsi_pg_delete_ids(pgqrsi_pg *pg, int64_t now_us, const int64_t *ids, size_t count, bool force,
                                         pgqrs_result *results)
{
    pgqrsi_pg_batch batch;
    pgqrs_result result = pgqrsi_pg_batch_lock(&batch, pg, now_us, ids, count);
    for (size_t i = 0; i < count && !result; i++) {
        results[i] = PGQRS_OK;
        if (pgqrsi_pg_batch_missing(&batch, i))
            results[i] = PGQRS_ERR_MESSAGE_NOT_FOUND;
        else if (pgqrsi_pg_batch_place(&batch, i) == PGQRSI_PG_AT_LEASE && !force)
            results[i] = PGQRS_ERR_MESSAGE_STATE;
        else if (pgqrsi_pg_batch_repeated(&batch, i))
            results[i] = PGQRS_ERR_MESSAGE_NOT_FOUND;
        else
            pgqrsi_pg_batch_add(&batch, i);
    }
    if (!result && batch.used) result = pgqrsi_pg_batch_take(&batch);
    if (!result && batch.used) result = pgqrsi_pg_batch_run(&batch, PGQRSI_PA_SQL_FORGET);
    pgqrsi_pg_batch_free(&batch);
    return result;
}

static pgqrs_result pgqrsi_pg_message_delete(void *self, int64_t now_us, const int64_t *ids, size_t count, bool force,
                                             pgqrs_result *results)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    do {
        result = pgqrsi_pg_begin(pg);
        if (!result) result = pgqrsi_pg_finish(pg, pgqrsi_pg_delete_ids(pg, now_us, ids, count, force, results));
    } while (pgqrsi_pg_again(pg, result, &tries));
    return result;
}

static pgqrs_result pgqrsi_pg_update_locked(const pgqrsi_pg_batch *batch, int64_t id, const char *payload,
                                            size_t payload_size)
{
    static const char *const places[PGQRSI_PG_PLACES] = {
        "moving", "ready and was tried before", "delayed and was tried before",
        "leased", "waiting for another try",    "archived",
        "dead"};
    pgqrsi_pg *pg = batch->pg;
    pgqrsi_pg_call call;
    int place = pgqrsi_pg_batch_place(batch, 0);
    if (pgqrsi_pg_batch_missing(batch, 0))
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_MESSAGE_NOT_FOUND, 0, NULL, "no message has the id %lld",
                                  (long long)id);
    if (place > PGQRSI_PG_AT_DELAYED || pgqrsi_pg_get_int64(batch->locked, 0, 4) > 0)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_MESSAGE_STATE, 0, NULL,
                                  "message %lld is %s: only one that nobody has started can get another payload",
                                  (long long)id, places[place]);
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_UPDATE);
    pgqrsi_pg_int64(&call, pgqrsi_pg_get_int64(batch->locked, 0, 1));
    pgqrsi_pg_int64(&call, id);
    pgqrsi_pg_text_sized(&call, payload, payload_size);
    return pgqrsi_pg_write_only(&call);
}

static pgqrs_result pgqrsi_pg_message_update(void *self, int64_t now_us, int64_t id, const char *payload,
                                             size_t payload_size)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    do {
        result = pgqrsi_pg_begin(pg);
        if (result) break;
        pgqrsi_pg_batch batch;
        result = pgqrsi_pg_batch_lock(&batch, pg, now_us, &id, 1);
        if (!result) result = pgqrsi_pg_update_locked(&batch, id, payload, payload_size);
        pgqrsi_pg_batch_free(&batch);
        result = pgqrsi_pg_finish(pg, result);
    } while (pgqrsi_pg_again(pg, result, &tries));
    return result;
}

/* Takes the deduplication keys again. What another message holds by now is marked, and left out of the batch. */
static pgqrs_result pgqrsi_pg_replay_keys(pgqrsi_pg_batch *batch, pgqrs_result *results)
{
    pgqrsi_pg_call call;
    PGresult *held = NULL;
    pgqrsi_pg_batch_start(batch, &call, PGQRSI_PA_SQL_REPLAY_KEYS);
    pgqrs_result result = pgqrsi_pg_write(&call, &held);
    int refused = result ? 0 : PQntuples(held);
    for (size_t row = 0; row < batch->count && refused > 0; row++) {
        int64_t id = pgqrsi_pg_get_int64(batch->locked, (int)row, 0);
        for (int i = 0; i < PQntuples(held) && results[row] == PGQRS_OK; i++)
            if (pgqrsi_pg_get_int64(held, i, 0) == id) results[row] = PGQRS_ERR_DUPLICATE;
    }
    if (refused > 0) {
        batch->used = 0;
        memset(batch->at, 0, sizeof batch->at);
        for (size_t row = 0; row < batch->count; row++)
            if (results[row] == PGQRS_OK) pgqrsi_pg_batch_add(batch, row);
    }
    PQclear(held);
    return result;
}

static pgqrs_result pgqrsi_pg_replay_free(const pgqrsi_pg_batch *batch, int64_t now_us)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_batch_start(batch, &call, PGQRSI_PA_SQL_REPLAY_FREE);
    pgqrsi_pg_time(&call, now_us);
    return pgqrsi_pg_write_only(&call);
}

static pgqrs_result pgqrsi_pg_replay_ids(pgqrsi_pg *pg, int64_t now_us, const int64_t *ids, size_t count,
                                         pgqrs_result *results)
{
    pgqrsi_pg_batch batch;
    pgqrs_result result = pgqrsi_pg_batch_lock(&batch, pg, now_us, ids, count);
    for (size_t i = 0; i < count && !result; i++) {
        results[i] = PGQRS_OK;
        if (pgqrsi_pg_batch_missing(&batch, i))
            results[i] = PGQRS_ERR_MESSAGE_NOT_FOUND;
        else if (pgqrsi_pg_batch_place(&batch, i) < PGQRSI_PG_AT_DONE || pgqrsi_pg_batch_repeated(&batch, i))
            results[i] = PGQRS_ERR_MESSAGE_STATE;
        else
            pgqrsi_pg_batch_add(&batch, i);
    }
    if (!result && batch.used) result = pgqrsi_pg_replay_free(&batch, now_us);
    if (!result && batch.used) result = pgqrsi_pg_replay_keys(&batch, results);
    if (!result && batch.used) result = pgqrsi_pg_batch_take(&batch);
    if (!result && batch.used) result = pgqrsi_pg_batch_run(&batch, PGQRSI_PA_SQL_REPLAY);
    pgqrsi_pg_batch_free(&batch);
    return result;
}

static pgqrs_result pgqrsi_pg_message_replay(void *self, int64_t now_us, const int64_t *ids, size_t count,
                                             pgqrs_result *results)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    do {
        result = pgqrsi_pg_begin(pg);
        if (!result) result = pgqrsi_pg_finish(pg, pgqrsi_pg_replay_ids(pg, now_us, ids, count, results));
    } while (pgqrsi_pg_again(pg, result, &tries));
    return result;
}

/* --- workflows ---------------------------------------------------------------------------------------------------- */

static void pgqrsi_pg_put_workflow(pgqrsi_pg_call *call, const pgqrs_workflow_desc *settings)
{
    pgqrsi_pg_int32(call, settings->retry.max_retries);
    pgqrsi_pg_int32(call, (int32_t)settings->retry.backoff);
    pgqrsi_pg_int64(call, settings->retry.base_ms);
    pgqrsi_pg_int64(call, settings->retry.cap_ms);
    pgqrsi_pg_int32(call, settings->retry.jitter_percent);
    pgqrsi_pg_int64(call, settings->timeout_ms);
    pgqrsi_pg_int64(call, settings->step_timeout_ms);
    pgqrsi_pg_int64(call, settings->retention_ms);
    pgqrsi_pg_int64(call, settings->failed_retention_ms);
}

/* *id 0: there is none. */
static pgqrs_result pgqrsi_pg_workflow_id(pgqrsi_pg *pg, const char *workflow, int64_t *id)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKFLOW_HAVE);
    pgqrsi_pg_text(&call, workflow);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    *id = !result && PQntuples(r) > 0 ? pgqrsi_pg_get_int64(r, 0, 0) : 0;
    PQclear(r);
    return result;
}

/* Inside a transaction. */
static pgqrs_result pgqrsi_pg_workflow_make(pgqrsi_pg *pg, int64_t now_us, const char *workflow,
                                            const pgqrs_workflow_desc *settings, const pgqrs_queue_desc *queue,
                                            bool *created)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    int64_t id = 0;
    bool made_queue = false;
    pgqrs_result result = pgqrsi_pg_workflow_id(pg, workflow, &id);
    if (result || id) return result;
    result = pgqrsi_pg_queue_create(pg, now_us, settings->queue, queue, &made_queue);
    if (result) return result;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKFLOW_CREATE);
    pgqrsi_pg_text(&call, workflow);
    pgqrsi_pg_time(&call, now_us);
    pgqrsi_pg_text(&call, settings->queue);
    pgqrsi_pg_bool(&call, made_queue);
    pgqrsi_pg_put_workflow(&call, settings);
    result = pgqrsi_pg_write(&call, &r);
    *created = !result && PQntuples(r) > 0;
    PQclear(r);
    if (!result && !*created) result = pgqrsi_pg_workflow_id(pg, workflow, &id);
    if (result || *created || (id && !made_queue)) return result;
    /* either the queue went, or it was made for nothing: from the start again */
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_CONFLICT, 0, NULL,
                              "workflow \"%s\" or its queue was just being made or removed by others: try again",
                              workflow);
}

static pgqrs_result pgqrsi_pg_workflow_create(void *self, int64_t now_us, const char *workflow,
                                              const pgqrs_workflow_desc *settings, const pgqrs_queue_desc *queue,
                                              bool *created)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    do {
        *created = false;
        result = pgqrsi_pg_begin(pg);
        if (!result)
            result = pgqrsi_pg_finish(pg, pgqrsi_pg_workflow_make(pg, now_us, workflow, settings, queue, created));
    } while (pgqrsi_pg_again(pg, result, &tries));
    return result;
}

static pgqrs_result pgqrsi_pg_workflow_change(void *self, const char *workflow, const pgqrs_workflow_desc *change)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKFLOW_CHANGE);
    pgqrsi_pg_text(&call, workflow);
    pgqrsi_pg_put_workflow(&call, change);
    pgqrs_result result = pgqrsi_pg_read(&call, &r); /* twice is once */
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_no_workflow(pg, workflow);
    PQclear(r);
    return result;
}

static bool pgqrsi_pg_read_workflow(const PGresult *r, int row, void *result, pgqrs_workflow *workflow)
{
    workflow->id = pgqrsi_pg_get_int64(r, row, 11);
    workflow->created_at_us = pgqrsi_pg_get_int64(r, row, 12);
    return pgqrsi_pg_copy(result, r, row, 0, &workflow->name) &&
           pgqrsi_pg_read_settings(r, row, 1, result, &workflow->settings);
}

static pgqrs_workflows *pgqrsi_pg_read_workflows(pgqrsi_pg *pg, const PGresult *r)
{
    void *items = NULL;
    pgqrs_workflows *list = (pgqrs_workflows *)pgqrsi_pg_object(pg, r, sizeof *list, sizeof(pgqrs_workflow), &items);
    if (!list) return NULL;
    list->items = (const pgqrs_workflow *)items;
    list->count = (size_t)PQntuples(r);
    for (size_t i = 0; i < list->count; i++) {
        if (pgqrsi_pg_read_workflow(r, (int)i, list, (pgqrs_workflow *)items + i)) continue;
        pgqrs_free(list);
        return NULL;
    }
    return list;
}

static pgqrs_result pgqrsi_pg_workflow_list(void *self, const char *workflow_or_null, int64_t after_id, size_t limit,
                                            pgqrs_workflows **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKFLOW_LIST);
    pgqrsi_pg_text(&call, workflow_or_null);
    pgqrsi_pg_int64(&call, after_id);
    pgqrsi_pg_int64(&call, (int64_t)limit);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && (*out = pgqrsi_pg_read_workflows(pg, r)) == NULL) result = pgqrsi_pg_no_memory(pg);
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_by_id(pgqrsi_pg *pg, int statement, int64_t id)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, pg, statement);
    pgqrsi_pg_int64(&call, id);
    return pgqrsi_pg_write_only(&call);
}

/* The queue stays when somebody found a use for it meanwhile. */
static pgqrs_result pgqrsi_pg_workflow_drop_queue(pgqrsi_pg *pg, const char *queue)
{
    pgqrs_result result = pgqrsi_pg_queue_drop(pg, queue, false);
    return result == PGQRS_ERR_QUEUE_NOT_EMPTY || result == PGQRS_ERR_QUEUE_NOT_FOUND ? PGQRS_OK : result;
}

/* Locks a workflow that has no runs. */
static pgqrs_result pgqrsi_pg_workflow_unused(pgqrsi_pg *pg, const char *workflow, int64_t *id, bool *queue_too)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKFLOW_LOCK);
    pgqrsi_pg_text(&call, workflow);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    if (!result && PQntuples(r) == 0)
        result = pgqrsi_pg_no_workflow(pg, workflow);
    else if (!result && pgqrsi_pg_get_int64(r, 0, 2))
        result = pgqrs_backend_fail(pg->store, PGQRS_ERR_WORKFLOW_NOT_EMPTY, 0, NULL,
                                    "workflow \"%s\" still has runs: purge them, or delete with force", workflow);
    if (!result) {
        *id = pgqrsi_pg_get_int64(r, 0, 0);
        *queue_too = pgqrsi_pg_get_int64(r, 0, 3) != 0;
    }
    PQclear(r);
    return result;
}

/* A trigger locks no workflow. So whoever is at it is waited for, and the second look finds his run; a later one finds no workflow.
 * That there are runs is found out first, so that a refusal holds up nobody. */
static pgqrs_result pgqrsi_pg_workflow_drop(pgqrsi_pg *pg, const char *workflow, const char *queue)
{
    int64_t id = 0;
    bool queue_too = false;
    pgqrs_result result = pgqrsi_pg_gate(pg, true);
    if (!result) result = pgqrsi_pg_workflow_unused(pg, workflow, &id, &queue_too);
    if (!result) result = pgqrsi_pg_barrier(pg, "workflow", workflow);
    if (!result) result = pgqrsi_pg_workflow_unused(pg, workflow, &id, &queue_too);
    if (!result) result = pgqrsi_pg_by_id(pg, PGQRSI_PA_SQL_WORKFLOW_DROP, id);
    return !result && queue_too ? pgqrsi_pg_workflow_drop_queue(pg, queue) : result;
}

static pgqrs_result pgqrsi_pg_workflow_delete(void *self, int64_t now_us, const char *workflow)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrs_workflows *found = NULL;
    int tries = 0;
    (void)now_us;
    pgqrs_result result = pgqrsi_pg_workflow_list(self, workflow, 0, 1, &found);
    if (!result && found->count == 0) result = pgqrsi_pg_no_workflow(pg, workflow);
    while (!result) {
        result = pgqrsi_pg_begin(pg);
        if (!result)
            result = pgqrsi_pg_finish(pg, pgqrsi_pg_workflow_drop(pg, workflow, found->items[0].settings.queue));
        if (!pgqrsi_pg_again(pg, result, &tries)) break;
        result = PGQRS_OK;
    }
    pgqrs_free(found);
    return result;
}

/* --- runs: questions */

/* The columns are those of PGQRSI_PA_RUN_SHOW. */
static bool pgqrsi_pg_read_run_texts(const PGresult *r, int row, void *result, pgqrs_run_info *run)
{
    run->input_size = PQgetisnull(r, row, 4) ? 0 : (size_t)PQgetlength(r, row, 4);
    run->output_size = PQgetisnull(r, row, 5) ? 0 : (size_t)PQgetlength(r, row, 5);
    return pgqrsi_pg_copy(result, r, row, 2, &run->workflow) && pgqrsi_pg_copy(result, r, row, 3, &run->queue) &&
           pgqrsi_pg_copy(result, r, row, 4, &run->input) && pgqrsi_pg_copy(result, r, row, 5, &run->output) &&
           pgqrsi_pg_copy(result, r, row, 6, &run->error_code) &&
           pgqrsi_pg_copy(result, r, row, 7, &run->error_message) &&
           pgqrsi_pg_copy(result, r, row, 8, &run->error_step) && pgqrsi_pg_copy(result, r, row, 10, &run->wait_name) &&
           pgqrsi_pg_copy(result, r, row, 14, &run->idempotency_key) &&
           pgqrsi_pg_copy(result, r, row, 20, &run->cancelled_by) &&
           pgqrsi_pg_copy(result, r, row, 21, &run->cancel_reason) && pgqrsi_pg_copy(result, r, row, 23, &run->worker);
}

static bool pgqrsi_pg_read_run_info(const PGresult *r, int row, void *result, pgqrs_run_info *run)
{
    run->id = pgqrsi_pg_get_int64(r, row, 0);
    run->state = (pgqrs_run_state)(int)pgqrsi_pg_get_int64(r, row, 1);
    run->wait = (pgqrs_run_wait)(int)pgqrsi_pg_get_int64(r, row, 9);
    run->wait_until_us = pgqrsi_pg_get_int64(r, row, 11);
    run->attempt = (int32_t)pgqrsi_pg_get_int64(r, row, 12);
    run->retries = (int32_t)pgqrsi_pg_get_int64(r, row, 13);
    run->triggered_at_us = pgqrsi_pg_get_int64(r, row, 15);
    run->started_at_us = pgqrsi_pg_get_int64(r, row, 16);
    run->finished_at_us = pgqrsi_pg_get_int64(r, row, 17);
    run->deadline_at_us = pgqrsi_pg_get_int64(r, row, 18);
    run->cancel_requested_at_us = pgqrsi_pg_get_int64(r, row, 19);
    run->worker_id = pgqrsi_pg_get_int64(r, row, 22);
    run->lease_until_us = pgqrsi_pg_get_int64(r, row, 24);
    run->forked_from = pgqrsi_pg_get_int64(r, row, 25);
    return pgqrsi_pg_read_run_texts(r, row, result, run);
}

static pgqrs_runs *pgqrsi_pg_read_runs(pgqrsi_pg *pg, const PGresult *r)
{
    void *items = NULL;
    pgqrs_runs *list = (pgqrs_runs *)pgqrsi_pg_object(pg, r, sizeof *list, sizeof(pgqrs_run_info), &items);
    if (!list) return NULL;
    list->items = (const pgqrs_run_info *)items;
    list->count = (size_t)PQntuples(r);
    for (size_t i = 0; i < list->count; i++) {
        if (pgqrsi_pg_read_run_info(r, (int)i, list, (pgqrs_run_info *)items + i)) continue;
        pgqrs_free(list);
        return NULL;
    }
    return list;
}

/* A workflow that does not exist has no runs. */
static pgqrs_result pgqrsi_pg_filter_workflow(pgqrsi_pg *pg, const pgqrs_run_filter *filter, int64_t *id)
{
    *id = 0;
    if (!filter->workflow) return PGQRS_OK;
    pgqrs_result result = pgqrsi_pg_workflow_id(pg, filter->workflow, id);
    if (!result && *id == 0) *id = -1;
    return result;
}

static void pgqrsi_pg_put_run_filter(pgqrsi_pg_call *call, int64_t workflow_id, int64_t now_us,
                                     const pgqrs_run_filter *filter)
{
    pgqrsi_pg_int64(call, workflow_id);
    pgqrsi_pg_time(call, now_us);
    pgqrsi_pg_int32(call, (int32_t)filter->state);
    pgqrsi_pg_text(call, filter->idempotency_key);
    pgqrsi_pg_time(call, filter->triggered_from_us);
    pgqrsi_pg_time(call, filter->triggered_before_us);
}

static int pgqrsi_pg_run_page(const pgqrs_run_filter *filter)
{
    if (filter->state == PGQRS_RUN_RUNNING) return PGQRSI_PA_SQL_RUN_PAGE_HELD;
    if (filter->state == PGQRS_RUN_ERROR) return PGQRSI_PA_SQL_RUN_PAGE_FAILED;
    return filter->oldest_first ? PGQRSI_PA_SQL_RUN_PAGE_UP : PGQRSI_PA_SQL_RUN_PAGE_DOWN;
}

static pgqrs_result pgqrsi_pg_run_list(void *self, int64_t now_us, int64_t id_or_0, const pgqrs_run_filter *filter,
                                       pgqrs_runs **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    int64_t workflow_id = 0;
    *out = NULL;
    pgqrs_result result = id_or_0 ? PGQRS_OK : pgqrsi_pg_filter_workflow(pg, filter, &workflow_id);
    if (result) return result;
    pgqrsi_pg_start(&call, pg, id_or_0 ? PGQRSI_PA_SQL_RUN_GET : pgqrsi_pg_run_page(filter));
    if (id_or_0) {
        pgqrsi_pg_int64(&call, id_or_0);
        pgqrsi_pg_time(&call, now_us);
    } else {
        pgqrsi_pg_put_run_filter(&call, workflow_id, now_us, filter);
        pgqrsi_pg_int64(&call, filter->after_id || filter->oldest_first ? filter->after_id : INT64_MAX);
        pgqrsi_pg_int64(&call, (int64_t)filter->limit);
        pgqrsi_pg_bool(&call, filter->oldest_first);
    }
    result = pgqrsi_pg_read(&call, &r);
    if (!result && (*out = pgqrsi_pg_read_runs(pg, r)) == NULL) result = pgqrsi_pg_no_memory(pg);
    PQclear(r);
    return result;
}

static int pgqrsi_pg_run_counting(pgqrs_run_state state)
{
    switch ((int)state) {
    case PGQRS_RUN_RUNNING:
        return PGQRSI_PA_SQL_RUN_COUNT_HELD;
    case PGQRS_RUN_ERROR:
        return PGQRSI_PA_SQL_RUN_COUNT_FAILED;
    case PGQRS_RUN_QUEUED:
    case PGQRS_RUN_PAUSED:
    case PGQRS_RUN_CANCELLING:
        return PGQRSI_PA_SQL_RUN_COUNT_OPEN;
    default:
        return PGQRSI_PA_SQL_RUN_COUNT;
    }
}

static pgqrs_result pgqrsi_pg_run_count(void *self, int64_t now_us, const pgqrs_run_filter *filter, int64_t *count)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    int64_t workflow_id = 0;
    *count = 0;
    pgqrs_result result = pgqrsi_pg_filter_workflow(pg, filter, &workflow_id);
    if (result) return result;
    pgqrsi_pg_start(&call, pg, pgqrsi_pg_run_counting(filter->state));
    pgqrsi_pg_put_run_filter(&call, workflow_id, now_us, filter);
    result = pgqrsi_pg_read(&call, &r);
    if (!result) *count = pgqrsi_pg_get_int64(r, 0, 0);
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_need_run(pgqrsi_pg *pg, int64_t run_id)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RUN_HAVE);
    pgqrsi_pg_int64(&call, run_id);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_no_run(pg, run_id);
    PQclear(r);
    return result;
}

static pgqrs_steps *pgqrsi_pg_make_steps(pgqrsi_pg *pg, const PGresult *r)
{
    size_t bytes = pgqrsi_pg_text_bytes(r) + (size_t)PQntuples(r) * sizeof(pgqrs_step_info) + 64;
    pgqrs_steps *list = (pgqrs_steps *)pgqrs_backend_result_new(pg->store, sizeof *list, bytes);
    if (!list || pgqrsi_pg_read_steps(r, list, &list->items, &list->count)) return list;
    pgqrs_free(list);
    return NULL;
}

static pgqrs_result pgqrsi_pg_run_steps(void *self, int64_t run_id, pgqrs_steps **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PG_RUN_STEPS);
    pgqrsi_pg_int64(&call, run_id);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_need_run(pg, run_id);
    if (!result && (*out = pgqrsi_pg_make_steps(pg, r)) == NULL) result = pgqrsi_pg_no_memory(pg);
    PQclear(r);
    return result;
}

static pgqrs_run_values *pgqrsi_pg_make_values(pgqrsi_pg *pg, const PGresult *r)
{
    void *items = NULL;
    pgqrs_run_values *list =
        (pgqrs_run_values *)pgqrsi_pg_object(pg, r, sizeof *list, sizeof(pgqrs_run_value_info), &items);
    if (!list) return NULL;
    list->items = (const pgqrs_run_value_info *)items;
    list->count = (size_t)PQntuples(r);
    for (size_t i = 0; i < list->count; i++) {
        pgqrs_run_value_info *value = (pgqrs_run_value_info *)items + i;
        value->value_size = (size_t)PQgetlength(r, (int)i, 1);
        value->set_at_us = pgqrsi_pg_get_int64(r, (int)i, 2);
        if (pgqrsi_pg_copy(list, r, (int)i, 0, &value->name) && pgqrsi_pg_copy(list, r, (int)i, 1, &value->value))
            continue;
        pgqrs_free(list);
        return NULL;
    }
    return list;
}

static pgqrs_result pgqrsi_pg_run_values(void *self, int64_t run_id, pgqrs_run_values **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RUN_VALUES);
    pgqrsi_pg_int64(&call, run_id);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_need_run(pg, run_id);
    if (!result && (*out = pgqrsi_pg_make_values(pg, r)) == NULL) result = pgqrsi_pg_no_memory(pg);
    PQclear(r);
    return result;
}

/* --- runs: control. All inside a transaction that has locked the run's row */

/* *stored: 0 when it is open. */
static pgqrs_result pgqrsi_pg_run_lock(pgqrsi_pg *pg, int64_t run_id, pgqrs_run_state *stored, int64_t *queue_id)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RUN_LOCK);
    pgqrsi_pg_int64(&call, run_id);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_no_run(pg, run_id);
    if (!result) {
        *stored = (pgqrs_run_state)(int)pgqrsi_pg_get_int64(r, 0, 0);
        *queue_id = pgqrsi_pg_get_int64(r, 0, 1);
    }
    PQclear(r);
    return result;
}

/* Where a run's message is. */
typedef struct pgqrsi_pg_whereabouts {
    bool found;
    int place;
    int64_t attempt;
    int64_t lease;
} pgqrsi_pg_whereabouts;

static pgqrs_result pgqrsi_pg_run_at(pgqrsi_pg *pg, int64_t now_us, int64_t run_id, pgqrsi_pg_whereabouts *at)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RUN_AT);
    pgqrsi_pg_int64(&call, run_id);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    memset(at, 0, sizeof *at);
    at->found = !result && PQntuples(r) > 0;
    if (at->found) {
        at->place = (int)pgqrsi_pg_get_int64(r, 0, 0);
        at->attempt = pgqrsi_pg_get_int64(r, 0, 1);
        at->lease = pgqrsi_pg_get_int64(r, 0, 2);
    }
    PQclear(r);
    return result;
}

/* A lease that is over is locked here; not if its holder, or somebody who sweeps, is just at it. */
static pgqrs_result pgqrsi_pg_run_free(pgqrsi_pg *pg, int64_t now_us, int64_t run_id, int64_t lease, bool *ours)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RUN_FREE);
    pgqrsi_pg_int64(&call, lease);
    pgqrsi_pg_time(&call, now_us);
    pgqrsi_pg_int64(&call, run_id);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    *ours = !result && PQntuples(r) > 0;
    PQclear(r);
    return result;
}

/* Finds the message in a place from where it can be taken, or where it is somebody's or finished. */
static pgqrs_result pgqrsi_pg_run_corner(pgqrsi_pg *pg, int64_t now_us, int64_t run_id, pgqrsi_pg_whereabouts *at)
{
    for (int round = 0; round < 50; round++) {
        bool ours = false;
        pgqrs_result result = pgqrsi_pg_run_at(pg, now_us, run_id, at);
        if (!result && at->place == PGQRSI_PG_AT_RUN_OUT)
            result = pgqrsi_pg_run_free(pg, now_us, run_id, at->lease, &ours);
        if (result || !at->found || (at->place != 0 && (at->place != PGQRSI_PG_AT_RUN_OUT || ours))) return result;
        pgqrs_backend_sleep(pg->store, round * PGQRSI_US_PER_MS);
    }
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_CONFLICT, 0, NULL,
                              "run %lld kept moving while it was to be cancelled: try again", (long long)run_id);
}

static pgqrs_result pgqrsi_pg_run_take(pgqrsi_pg *pg, int64_t run_id, int64_t queue_id, const pgqrsi_pg_whereabouts *at)
{
    pgqrsi_pg_call call;
    int statement = at->place == PGQRSI_PG_AT_READY     ? PGQRSI_PA_SQL_TAKE_READY
                    : at->place == PGQRSI_PG_AT_DELAYED ? PGQRSI_PA_SQL_TAKE_DELAYED
                                                        : PGQRSI_PA_SQL_TAKE_LEASED;
    pgqrsi_pg_start(&call, pg, statement);
    pgqrsi_pg_ids(&call, &run_id, 1);
    pgqrsi_pg_ids(&call, at->place == PGQRSI_PG_AT_RUN_OUT ? &at->lease : &queue_id, 1);
    return pgqrsi_pg_write_only(&call);
}

static pgqrs_result pgqrsi_pg_ask_cancel(pgqrsi_pg *pg, int64_t now_us, int64_t run_id, const char *by,
                                         const char *reason)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RUN_ASK_CANCEL);
    pgqrsi_pg_int64(&call, run_id);
    pgqrsi_pg_time(&call, now_us);
    pgqrsi_pg_text(&call, by);
    pgqrsi_pg_text(&call, reason);
    return pgqrsi_pg_write_only(&call);
}

static pgqrs_result pgqrsi_pg_cancel_now(pgqrsi_pg *pg, int64_t now_us, int64_t run_id, int64_t attempt)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RUN_CANCELLED);
    pgqrsi_pg_int64(&call, run_id);
    pgqrsi_pg_time(&call, now_us);
    pgqrsi_pg_int32(&call, (int32_t)attempt);
    return pgqrsi_pg_write_only(&call);
}

static pgqrs_result pgqrsi_pg_cancel(pgqrsi_pg *pg, int64_t now_us, int64_t run_id, const char *by, const char *reason,
                                     pgqrs_run_state *state)
{
    pgqrsi_pg_whereabouts at;
    int64_t queue_id = 0;
    pgqrs_result result = pgqrsi_pg_gate(pg, false);
    if (!result) result = pgqrsi_pg_run_lock(pg, run_id, state, &queue_id);
    if (result || (int)*state != 0) return result;
    result = pgqrsi_pg_run_corner(pg, now_us, run_id, &at);
    if (result) return result;
    *state = PGQRS_RUN_ERROR;
    if (!at.found || at.place >= PGQRSI_PG_AT_DONE) return PGQRS_OK;
    result = pgqrsi_pg_ask_cancel(pg, now_us, run_id, by, reason);
    *state = at.place == PGQRSI_PG_AT_LEASE ? PGQRS_RUN_CANCELLING : PGQRS_RUN_CANCELLED;
    if (result || at.place == PGQRSI_PG_AT_LEASE) return result;
    result = pgqrsi_pg_run_take(pg, run_id, queue_id, &at);
    return result ? result : pgqrsi_pg_cancel_now(pg, now_us, run_id, at.attempt);
}

static pgqrs_result pgqrsi_pg_run_cancel(void *self, int64_t now_us, int64_t run_id, const char *by, const char *reason,
                                         pgqrs_run_state *state)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    do {
        result = pgqrsi_pg_begin(pg);
        if (!result) result = pgqrsi_pg_finish(pg, pgqrsi_pg_cancel(pg, now_us, run_id, by, reason, state));
    } while (pgqrsi_pg_again(pg, result, &tries));
    return result;
}

static pgqrs_result pgqrsi_pg_at_time(pgqrsi_pg *pg, int statement, int64_t id, int64_t now_us, int64_t *number)
{
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, pg, statement);
    pgqrsi_pg_int64(&call, id);
    pgqrsi_pg_time(&call, now_us);
    return pgqrsi_pg_write_number(&call, number);
}

static pgqrs_result pgqrsi_pg_run_replay(pgqrsi_pg *pg, int64_t now_us, int64_t run_id)
{
    pgqrs_result outcome = PGQRS_OK;
    pgqrs_result result = pgqrsi_pg_replay_ids(pg, now_us, &run_id, 1, &outcome);
    if (result || outcome == PGQRS_OK) return result;
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_RUN_STATE, 0, NULL,
                              outcome == PGQRS_ERR_MESSAGE_NOT_FOUND
                                  ? "run %lld has lost its message and with it its input: fork it with another one"
                                  : "the message of run %lld is still on its way: try again when it is finished",
                              (long long)run_id);
}

static pgqrs_result pgqrsi_pg_restart(pgqrsi_pg *pg, int64_t now_us, int64_t run_id, pgqrs_run_state *state)
{
    int64_t queue_id = 0, code = 0, ignored = 0;
    pgqrs_result result = pgqrsi_pg_gate(pg, false);
    if (!result) result = pgqrsi_pg_run_lock(pg, run_id, state, &queue_id);
    if (!result) result = pgqrsi_pg_at_time(pg, PGQRSI_PA_SQL_RUN_STATE, run_id, now_us, &code);
    if (result) return result;
    *state = (pgqrs_run_state)(int)code;
    if (*state != PGQRS_RUN_ERROR) return PGQRS_OK;
    result = pgqrsi_pg_run_replay(pg, now_us, run_id);
    return result ? result : pgqrsi_pg_at_time(pg, PGQRSI_PA_SQL_RUN_RESET, run_id, now_us, &ignored);
}

static pgqrs_result pgqrsi_pg_run_restart(void *self, int64_t now_us, int64_t run_id, pgqrs_run_state *state)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    do {
        result = pgqrsi_pg_begin(pg);
        if (!result) result = pgqrsi_pg_finish(pg, pgqrsi_pg_restart(pg, now_us, run_id, state));
    } while (pgqrsi_pg_again(pg, result, &tries));
    return result;
}

static pgqrs_result pgqrsi_pg_run_fork(void *self, int64_t now_us, int64_t run_id, int32_t before,
                                       const char *input_or_null, size_t input_size, int64_t *new_run_id)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RUN_FORK);
    pgqrsi_pg_int64(&call, run_id);
    pgqrsi_pg_time(&call, now_us);
    pgqrsi_pg_int32(&call, before);
    pgqrsi_pg_text_sized(&call, input_or_null, input_size);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    if (!result && PQntuples(r) == 0) result = pgqrsi_pg_no_run(pg, run_id);
    *new_run_id = result ? 0 : pgqrsi_pg_get_int64(r, 0, 0);
    PQclear(r);
    if (!result && *new_run_id == 0)
        result = pgqrs_backend_fail(pg->store, PGQRS_ERR_RUN_STATE, 0, NULL,
                                    "run %lld has lost its message and with it its input: give another one",
                                    (long long)run_id);
    return result;
}

/* --- runs: purge */

/* Appends the ids in the first column. `room` of them fit. */
static void pgqrsi_pg_gather(const PGresult *r, int64_t *ids, size_t *count, size_t room)
{
    for (int row = 0; row < PQntuples(r) && *count < room; row++)
        ids[(*count)++] = pgqrsi_pg_get_int64(r, row, 0);
}

/* Those among the ids whose message is not on its way to a worker any more. */
static size_t pgqrsi_pg_stranded(const pgqrsi_pg_batch *batch, const int64_t *ids, int64_t *stranded)
{
    size_t count = 0;
    for (size_t row = 0; row < batch->count; row++)
        if (pgqrsi_pg_batch_missing(batch, row) || pgqrsi_pg_batch_place(batch, row) >= PGQRSI_PG_AT_DONE)
            stranded[count++] = ids[row];
    return count;
}

static void pgqrsi_pg_admit_runs(pgqrsi_pg_batch *batch, const PGresult *may)
{
    for (size_t row = 0; row < batch->count; row++) {
        bool chosen = false;
        if (pgqrsi_pg_batch_missing(batch, row) || pgqrsi_pg_batch_repeated(batch, row)) continue;
        for (int i = 0; i < PQntuples(may) && !chosen; i++)
            chosen = pgqrsi_pg_get_int64(may, i, 0) == pgqrsi_pg_get_int64(batch->locked, (int)row, 0);
        if (chosen) pgqrsi_pg_batch_add(batch, row);
    }
}

/* The runs `may` and their messages, which the batch holds. */
static pgqrs_result pgqrsi_pg_forget_runs(pgqrsi_pg_batch *batch, const PGresult *may, int64_t *ids)
{
    pgqrsi_pg_call call;
    size_t count = 0;
    pgqrsi_pg_gather(may, ids, &count, batch->count);
    pgqrsi_pg_admit_runs(batch, may);
    pgqrs_result result = batch->used ? pgqrsi_pg_batch_take(batch) : PGQRS_OK;
    if (!result && batch->used) result = pgqrsi_pg_batch_run(batch, PGQRSI_PA_SQL_FORGET);
    if (result || count == 0) return result;
    pgqrsi_pg_start(&call, batch->pg, PGQRSI_PA_SQL_RUN_FORGET);
    pgqrsi_pg_ids(&call, ids, count);
    return pgqrsi_pg_write_only(&call);
}

/* `scratch` has room for as many ids as there are. */
static pgqrs_result pgqrsi_pg_purge_ids(pgqrsi_pg *pg, int64_t now_us, const int64_t *ids, size_t count, bool open,
                                        int64_t *scratch, int64_t *removed)
{
    pgqrsi_pg_batch batch;
    pgqrsi_pg_call call;
    PGresult *may = NULL;
    pgqrs_result result = pgqrsi_pg_batch_lock(&batch, pg, now_us, ids, count);
    if (!result) {
        size_t stranded = pgqrsi_pg_stranded(&batch, ids, scratch);
        pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_PURGE_CHECK);
        pgqrsi_pg_ids(&call, ids, count);
        pgqrsi_pg_ids(&call, scratch, stranded);
        pgqrsi_pg_bool(&call, open);
        result = pgqrsi_pg_write(&call, &may);
    }
    if (!result) result = pgqrsi_pg_forget_runs(&batch, may, scratch);
    *removed = result ? 0 : PQntuples(may);
    PQclear(may);
    pgqrsi_pg_batch_free(&batch);
    return result;
}

static pgqrs_result pgqrsi_pg_purge_find(pgqrsi_pg *pg, int statement, int64_t workflow_id,
                                         const pgqrs_backend_run_purge *purge, int64_t *ids, size_t *count)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, statement);
    pgqrsi_pg_int64(&call, workflow_id);
    pgqrsi_pg_time(&call, purge->now_us);
    pgqrsi_pg_int64(&call, (int64_t)(purge->limit - *count));
    pgqrsi_pg_int32(&call, (int32_t)purge->states);
    pgqrsi_pg_int64(&call, purge->older_than_us);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result) pgqrsi_pg_gather(r, ids, count, purge->limit);
    PQclear(r);
    return result;
}

/* A purge of everything has no need to tell the open runs from the failed ones. */
static pgqrs_result pgqrsi_pg_purge_some(pgqrsi_pg *pg, int64_t workflow_id, pgqrs_backend_run_purge *purge,
                                         int64_t *ids)
{
    size_t count = 0;
    bool failed = !purge->open && (purge->states & 1u << PGQRS_RUN_ERROR) != 0;
    pgqrs_result result = pgqrsi_pg_purge_find(pg, PGQRSI_PA_SQL_PURGE_ENDED, workflow_id, purge, ids, &count);
    if (!result && count < purge->limit && failed)
        result = pgqrsi_pg_purge_find(pg, PGQRSI_PA_SQL_PURGE_LOST, workflow_id, purge, ids, &count);
    if (!result && count < purge->limit && purge->open)
        result = pgqrsi_pg_purge_find(pg, PGQRSI_PA_SQL_PURGE_OPEN, workflow_id, purge, ids, &count);
    if (result || count == 0) return result;
    return pgqrsi_pg_purge_ids(pg, purge->now_us, ids, count, purge->open, ids + purge->limit, &purge->removed);
}

static pgqrs_result pgqrsi_pg_run_purge(void *self, pgqrs_backend_run_purge *purge)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    size_t bytes = 2 * purge->limit * sizeof(int64_t);
    int64_t workflow_id = 0;
    int tries = 0;
    pgqrs_result result = pgqrsi_pg_workflow_id(pg, purge->workflow, &workflow_id);
    if (!result && workflow_id == 0) result = pgqrsi_pg_no_workflow(pg, purge->workflow);
    int64_t *ids = result ? NULL : (int64_t *)pgqrs_backend_alloc(pg->store, bytes);
    if (!result && !ids) result = pgqrsi_pg_no_memory(pg);
    while (!result) {
        purge->removed = 0;
        result = pgqrsi_pg_begin(pg);
        if (!result) result = pgqrsi_pg_finish(pg, pgqrsi_pg_purge_some(pg, workflow_id, purge, ids));
        if (!pgqrsi_pg_again(pg, result, &tries)) break;
        result = PGQRS_OK;
    }
    pgqrs_backend_free(pg->store, ids, bytes);
    return result;
}

/* `found`: ids, which a statement before saw. */
static pgqrs_result pgqrsi_pg_retain_found(pgqrsi_pg *pg, int64_t now_us, const PGresult *found, int64_t *removed)
{
    size_t count = 0, room = (size_t)PQntuples(found);
    size_t bytes = 2 * room * sizeof(int64_t);
    int64_t *ids = (int64_t *)pgqrs_backend_alloc(pg->store, bytes);
    if (!ids) return pgqrsi_pg_no_memory(pg);
    pgqrsi_pg_gather(found, ids, &count, room);
    pgqrs_result result = pgqrsi_pg_begin(pg);
    if (!result) result = pgqrsi_pg_finish(pg, pgqrsi_pg_purge_ids(pg, now_us, ids, count, false, ids + room, removed));
    pgqrs_backend_free(pg->store, ids, bytes);
    return result;
}

/* What the retention of the workflows on a queue says, a bounded step: how many went. What does not work now will do so later. */
static int64_t pgqrsi_pg_retain_runs(pgqrsi_pg *pg, int64_t now_us, const char *queue)
{
    pgqrsi_pg_call call;
    PGresult *found = NULL;
    int64_t removed = 0;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_PURGE_OLD);
    pgqrsi_pg_text(&call, queue);
    pgqrsi_pg_time(&call, now_us);
    pgqrsi_pg_int64(&call, PGQRSI_PG_RETAIN_RUNS);
    pgqrs_result result = pgqrsi_pg_read(&call, &found);
    if (!result && PQntuples(found) > 0) result = pgqrsi_pg_retain_found(pg, now_us, found, &removed);
    PQclear(found);
    return result ? 0 : removed;
}

/* --- workers ------------------------------------------------------------------------------------------------------ */

static pgqrs_result pgqrsi_pg_no_worker(pgqrsi_pg *pg, int64_t id)
{
    return pgqrs_backend_fail(pg->store, PGQRS_ERR_WORKER_NOT_FOUND, 0, NULL, "no worker has the id %lld",
                              (long long)id);
}

/* Why a name could not be taken; PGQRS_OK: it can be by now. */
static pgqrs_result pgqrsi_pg_register_refused(pgqrsi_pg *pg, int64_t now_us, const char *name, int64_t stale_us)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_REGISTERED);
    pgqrsi_pg_text(&call, name);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) > 0) {
        int64_t age_us = pgqrsi_pg_get_int64(r, 0, 0) - pgqrsi_pg_get_int64(r, 0, 1);
        if (age_us <= stale_us)
            result = pgqrs_backend_fail(
                pg->store, PGQRS_ERR_WORKER_ACTIVE, 0, NULL,
                "a worker named \"%s\" beat %lld ms ago and was not stopped; it is another process, or it "
                "crashed: then the name is free after %lld ms without a beat (stale_ms), or at once by "
                "pgqrs_worker_reclaim",
                name, (long long)(age_us / PGQRSI_US_PER_MS), (long long)(stale_us / PGQRSI_US_PER_MS));
    }
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_register_try(pgqrsi_pg *pg, int64_t now_us, const char *name, const char *queue_or_null,
                                           int64_t stale_us, pgqrs_worker_ref *worker)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_REGISTER);
    pgqrsi_pg_text(&call, name);
    pgqrsi_pg_text(&call, queue_or_null);
    pgqrsi_pg_int64(&call, worker->epoch);
    pgqrsi_pg_int64(&call, stale_us);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    if (!result) {
        worker->id = pgqrsi_pg_get_int64(r, 0, 0);
        if (queue_or_null && pgqrsi_pg_get_int64(r, 0, 1) == 0) result = pgqrsi_pg_no_queue(pg, queue_or_null);
    }
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_worker_register(void *self, int64_t now_us, const char *name, const char *queue_or_null,
                                              int64_t stale_us, int64_t epoch, pgqrs_worker_ref *out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrs_worker_ref worker;
    pgqrs_result result = PGQRS_OK;
    worker.id = 0;
    worker.epoch = epoch;
    /* between the try and the question why it failed, the name may have become free */
    for (int round = 0; round < 10 && !worker.id && !result; round++) {
        result = pgqrsi_pg_register_try(pg, now_us, name, queue_or_null, stale_us, &worker);
        if (!result && !worker.id) result = pgqrsi_pg_register_refused(pg, now_us, name, stale_us);
    }
    if (!result && !worker.id)
        return pgqrs_backend_fail(pg->store, PGQRS_ERR_CONFLICT, 0, NULL,
                                  "worker \"%s\" kept being registered by others: give each process a name of its own",
                                  name);
    if (!result) *out = worker;
    return result;
}

static pgqrs_result pgqrsi_pg_worker_change(void *self, pgqrs_backend_worker_change *change)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    bool repeatable = (int)change->to == 0 || (change->from & (1u << (unsigned)change->to));
    change->changed = false;
    change->found = false;
    change->held = 0;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKER_CHANGE);
    pgqrsi_pg_int64(&call, change->worker.id);
    pgqrsi_pg_int64(&call, change->worker.epoch);
    pgqrsi_pg_int32(&call, (int32_t)change->from);
    pgqrsi_pg_int32(&call, (int32_t)change->to);
    pgqrsi_pg_bool(&call, change->beat);
    pgqrsi_pg_bool(&call, change->if_idle);
    pgqrsi_pg_time(&call, change->now_us);
    pgqrs_result result = repeatable ? pgqrsi_pg_read(&call, &r) : pgqrsi_pg_write(&call, &r);
    if (!result && PQntuples(r) > 0) {
        change->found = true;
        change->changed = !PQgetisnull(r, 0, 1);
        change->state = (pgqrs_worker_state)(int)pgqrsi_pg_get_int64(r, 0, change->changed ? 1 : 0);
        change->held = pgqrsi_pg_get_int64(r, 0, 2);
    }
    PQclear(r);
    return result;
}

/* Parameters 1 to 5 of PGQRSI_PA_WORKER_FILTER. */
static void pgqrsi_pg_put_worker_filter(pgqrsi_pg_call *call, int64_t now_us, int64_t id,
                                        const pgqrs_worker_filter *filter)
{
    pgqrsi_pg_int64(call, id);
    pgqrsi_pg_text(call, filter->queue);
    pgqrsi_pg_int32(call, (int32_t)filter->state);
    pgqrsi_pg_int64(call, filter->stale_ms);
    pgqrsi_pg_time(call, now_us);
}

static bool pgqrsi_pg_read_worker(const PGresult *r, int row, void *result, pgqrs_worker_info *worker)
{
    worker->id = pgqrsi_pg_get_int64(r, row, 0);
    worker->epoch = pgqrsi_pg_get_int64(r, row, 1);
    worker->state = (pgqrs_worker_state)(int)pgqrsi_pg_get_int64(r, row, 4);
    worker->reclaimed = pgqrsi_pg_get_int64(r, row, 5) != 0;
    worker->started_at_us = pgqrsi_pg_get_int64(r, row, 6);
    worker->heartbeat_at_us = pgqrsi_pg_get_int64(r, row, 7);
    worker->stopped_at_us = pgqrsi_pg_get_int64(r, row, 8);
    worker->held = pgqrsi_pg_get_int64(r, row, 9);
    return pgqrsi_pg_copy(result, r, row, 2, &worker->name) && pgqrsi_pg_copy(result, r, row, 3, &worker->queue);
}

static pgqrs_workers *pgqrsi_pg_read_workers(pgqrsi_pg *pg, const PGresult *r)
{
    void *items = NULL;
    pgqrs_workers *list = (pgqrs_workers *)pgqrsi_pg_object(pg, r, sizeof *list, sizeof(pgqrs_worker_info), &items);
    if (!list) return NULL;
    list->items = (const pgqrs_worker_info *)items;
    list->count = (size_t)PQntuples(r);
    for (int row = 0; row < PQntuples(r); row++)
        if (!pgqrsi_pg_read_worker(r, row, list, (pgqrs_worker_info *)items + row)) {
            pgqrs_free(list);
            return NULL;
        }
    return list;
}

static pgqrs_result pgqrsi_pg_worker_list(void *self, int64_t now_us, int64_t id_or_0,
                                          const pgqrs_worker_filter *filter, pgqrs_workers **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKER_LIST);
    pgqrsi_pg_put_worker_filter(&call, now_us, id_or_0, filter);
    pgqrsi_pg_int64(&call, filter->after_id);
    pgqrsi_pg_int64(&call, (int64_t)filter->limit);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && (*out = pgqrsi_pg_read_workers(pg, r)) == NULL) result = pgqrsi_pg_no_memory(pg);
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_worker_count(void *self, int64_t now_us, const pgqrs_worker_filter *filter,
                                           int64_t *count)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKER_COUNT);
    pgqrsi_pg_put_worker_filter(&call, now_us, 0, filter);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    *count = result ? 0 : pgqrsi_pg_get_int64(r, 0, 0);
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_worker_release(void *self, int64_t now_us, int64_t worker_id, const char *reason,
                                             int64_t *released)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *released = 0;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKER_RELEASE);
    pgqrsi_pg_int64(&call, worker_id);
    pgqrsi_pg_text(&call, reason);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    if (!result && pgqrsi_pg_get_int64(r, 0, 0) == 0) result = pgqrsi_pg_no_worker(pg, worker_id);
    if (!result) *released = pgqrsi_pg_get_int64(r, 0, 1);
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_worker_delete(void *self, int64_t now_us, int64_t worker_id, bool force)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKER_DELETE);
    pgqrsi_pg_int64(&call, worker_id);
    pgqrsi_pg_bool(&call, force);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    if (!result && pgqrsi_pg_get_int64(r, 0, 0) == 0)
        result = pgqrsi_pg_no_worker(pg, worker_id);
    else if (!result && pgqrsi_pg_get_int64(r, 0, 1) == 0)
        result =
            pgqrs_backend_fail(pg->store, PGQRS_ERR_WORKER_ACTIVE, 0, NULL,
                               "worker %lld is not stopped: shut it down first, or use force", (long long)worker_id);
    PQclear(r);
    return result;
}

/* Two statements, so that the second sees what a claim under way has leased to one of the workers until it lost its
 * row. What somebody else has locked by then is being settled. */
static pgqrs_result pgqrsi_pg_reclaim(pgqrsi_pg *pg, int64_t now_us, const char *queue_or_null, int64_t older_than_us,
                                      const char *reason, int64_t *workers, int64_t *messages)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RECLAIM);
    pgqrsi_pg_text(&call, queue_or_null);
    pgqrsi_pg_int64(&call, older_than_us);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_write(&call, &r);
    if (!result && queue_or_null && pgqrsi_pg_get_int64(r, 0, 0) == 0) result = pgqrsi_pg_no_queue(pg, queue_or_null);
    if (!result) *workers = pgqrsi_pg_get_int64(r, 0, 1);
    if (!result && *workers) {
        pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_RELEASE_WORKERS);
        pgqrsi_pg_echo(&call, r, 0, 2);
        pgqrsi_pg_text(&call, reason);
        pgqrsi_pg_time(&call, now_us);
        result = pgqrsi_pg_write_number(&call, messages);
    }
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_worker_reclaim(void *self, int64_t now_us, const char *queue_or_null,
                                             int64_t older_than_us, const char *reason, int64_t *workers,
                                             int64_t *messages)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    int tries = 0;
    pgqrs_result result;
    do {
        *workers = *messages = 0;
        result = pgqrsi_pg_begin(pg);
        if (!result)
            result = pgqrsi_pg_finish(
                pg, pgqrsi_pg_reclaim(pg, now_us, queue_or_null, older_than_us, reason, workers, messages));
    } while (pgqrsi_pg_again(pg, result, &tries));
    if (result) *workers = *messages = 0;
    return result;
}

static pgqrs_result pgqrsi_pg_worker_purge(void *self, int64_t now_us, int64_t older_than_us, int64_t *removed)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKER_PURGE);
    pgqrsi_pg_int64(&call, older_than_us);
    pgqrsi_pg_time(&call, now_us);
    return pgqrsi_pg_write_number(&call, removed);
}

/* --- numbers ------------------------------------------------------------------------------------------------------ */

/* 0 for an unknown time, and for one that lies ahead because clocks differ. */
static int64_t pgqrsi_pg_age_ms(int64_t now_us, int64_t then_us)
{
    return then_us && then_us < now_us ? (now_us - then_us) / PGQRSI_US_PER_MS : 0;
}

static bool pgqrsi_pg_read_metrics_row(const PGresult *r, int row, void *result, pgqrs_queue_metrics *one)
{
    int64_t now_us = pgqrsi_pg_get_int64(r, row, 8);
    one->paused = pgqrsi_pg_get_int64(r, row, 1) != 0;
    one->ready = pgqrsi_pg_get_int64(r, row, 2);
    one->delayed = pgqrsi_pg_get_int64(r, row, 3);
    one->leased = pgqrsi_pg_get_int64(r, row, 4);
    one->archived = pgqrsi_pg_get_int64(r, row, 5);
    one->dead = pgqrsi_pg_get_int64(r, row, 6);
    one->total = one->ready + one->delayed + one->leased + one->archived + one->dead;
    one->lease_expiries = pgqrsi_pg_get_int64(r, row, 7);
    one->oldest_ready_ms = pgqrsi_pg_age_ms(now_us, pgqrsi_pg_get_int64(r, row, 9));
    one->oldest_unfinished_at_us = pgqrsi_pg_get_int64(r, row, 10);
    one->newest_at_us = pgqrsi_pg_get_int64(r, row, 11);
    one->live_workers = pgqrsi_pg_get_int64(r, row, 12);
    return pgqrsi_pg_copy(result, r, row, 0, &one->queue);
}

static pgqrs_metrics *pgqrsi_pg_read_metrics(pgqrsi_pg *pg, const PGresult *r)
{
    void *items = NULL;
    pgqrs_metrics *list = (pgqrs_metrics *)pgqrsi_pg_object(pg, r, sizeof *list, sizeof(pgqrs_queue_metrics), &items);
    if (!list) return NULL;
    list->items = (const pgqrs_queue_metrics *)items;
    list->count = (size_t)PQntuples(r);
    for (int row = 0; row < PQntuples(r); row++)
        if (!pgqrsi_pg_read_metrics_row(r, row, list, (pgqrs_queue_metrics *)items + row)) {
            pgqrs_free(list);
            return NULL;
        }
    return list;
}

static pgqrs_result pgqrsi_pg_metrics(void *self, int64_t now_us, const char *queue_or_null, pgqrs_metrics **out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    *out = NULL;
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_METRICS);
    pgqrsi_pg_text(&call, queue_or_null);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && queue_or_null && PQntuples(r) == 0)
        result = pgqrsi_pg_no_queue(pg, queue_or_null);
    else if (!result && (*out = pgqrsi_pg_read_metrics(pg, r)) == NULL)
        result = pgqrsi_pg_no_memory(pg);
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_worker_stats(void *self, int64_t now_us, const char *queue_or_null, int64_t stale_us,
                                           pgqrs_worker_stats *out)
{
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    memset(out, 0, sizeof *out);
    pgqrsi_pg_start(&call, pg, PGQRSI_PA_SQL_WORKER_STATS);
    pgqrsi_pg_text(&call, queue_or_null);
    pgqrsi_pg_int64(&call, stale_us);
    pgqrsi_pg_time(&call, now_us);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && pgqrsi_pg_get_int64(r, 0, 0) == 0) result = pgqrsi_pg_no_queue(pg, queue_or_null);
    if (!result) {
        int64_t at_us = pgqrsi_pg_get_int64(r, 0, 1);
        out->total = pgqrsi_pg_get_int64(r, 0, 2);
        out->ready = pgqrsi_pg_get_int64(r, 0, 3);
        out->polling = pgqrsi_pg_get_int64(r, 0, 4);
        out->interrupted = pgqrsi_pg_get_int64(r, 0, 5);
        out->suspended = pgqrsi_pg_get_int64(r, 0, 6);
        out->stopped = pgqrsi_pg_get_int64(r, 0, 7);
        out->stale = pgqrsi_pg_get_int64(r, 0, 8);
        out->held = pgqrsi_pg_get_int64(r, 0, 9);
        out->oldest_ms = pgqrsi_pg_age_ms(at_us, pgqrsi_pg_get_int64(r, 0, 10));
        out->newest_heartbeat_ms = pgqrsi_pg_age_ms(at_us, pgqrsi_pg_get_int64(r, 0, 11));
    }
    PQclear(r);
    return result;
}

/* --- verify ------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_pg_verify_step(pgqrsi_pg *pg, int statement)
{
    pgqrsi_pg_call call;
    PGresult *r = NULL;
    pgqrsi_pg_start(&call, pg, statement);
    pgqrs_result result = pgqrsi_pg_read(&call, &r);
    if (!result && PQntuples(r) > 0) {
        int64_t size;
        const char *text = pgqrsi_pg_get_text(r, 0, 0, &size);
        result = pgqrs_backend_fail(pg->store, PGQRS_ERR_SCHEMA_DAMAGED, 0, NULL, "schema %s: %.*s", pg->schema,
                                    (int)size, text ? text : "");
    }
    PQclear(r);
    return result;
}

static pgqrs_result pgqrsi_pg_verify(void *self)
{
    static const int steps[] = {
        PGQRSI_PA_SQL_VERIFY_TABLES, PGQRSI_PA_SQL_VERIFY_RELATIONS, PGQRSI_PA_SQL_VERIFY_INDEXES,
        PGQRSI_PA_SQL_VERIFY_OWNERS, PGQRSI_PA_SQL_VERIFY_PLACES,    PGQRSI_PA_SQL_VERIFY_LEASES,
        PGQRSI_PA_SQL_VERIFY_DONE,   PGQRSI_PA_SQL_VERIFY_KEYS,      PGQRSI_PA_SQL_VERIFY_RUNS};
    pgqrsi_pg *pg = (pgqrsi_pg *)self;
    pgqrs_result result = PGQRS_OK;
    pg->checked = false; /* the first statement then looks at the version */
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && !result; i++)
        result = pgqrsi_pg_verify_step(pg, steps[i]);
    return result;
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

static const char *const pgqrsi_pg_schemes[] = {"postgresql", "postgres", NULL};

static const pgqrs_backend pgqrsi_pg_backend = {
    PGQRS_BACKEND_VERSION,
    "postgres",
    "pgqrs.h",
    pgqrsi_pg_schemes,
    pgqrsi_pg_capabilities,
    pgqrsi_pg_open,
    pgqrsi_pg_close,
    pgqrsi_pg_now,
    pgqrsi_pg_install,
    pgqrsi_pg_uninstall,
    pgqrsi_pg_verify,
    pgqrsi_pg_schema_version,
    pgqrsi_pg_queue_create,
    pgqrsi_pg_queue_change,
    pgqrsi_pg_queue_list,
    pgqrsi_pg_queue_delete,
    pgqrsi_pg_queue_purge,
    pgqrsi_pg_enqueue,
    pgqrsi_pg_exchange,
    pgqrsi_pg_extend,
    pgqrsi_pg_wait_begin,
    pgqrsi_pg_wait_fd,
    pgqrsi_pg_wait_end,
    pgqrsi_pg_message_get,
    pgqrsi_pg_message_list,
    pgqrsi_pg_message_count,
    pgqrsi_pg_message_delete,
    pgqrsi_pg_message_update,
    pgqrsi_pg_message_replay,
    pgqrsi_pg_worker_register,
    pgqrsi_pg_worker_change,
    pgqrsi_pg_worker_list,
    pgqrsi_pg_worker_count,
    pgqrsi_pg_worker_release,
    pgqrsi_pg_worker_delete,
    pgqrsi_pg_worker_reclaim,
    pgqrsi_pg_worker_purge,
    pgqrsi_pg_metrics,
    pgqrsi_pg_worker_stats,
    pgqrsi_pg_maintain,
    pgqrsi_pg_workflow_create,
    pgqrsi_pg_workflow_change,
    pgqrsi_pg_workflow_list,
    pgqrsi_pg_workflow_delete,
    pgqrsi_pg_trigger,
    pgqrsi_pg_run_load,
    pgqrsi_pg_run_write,
    pgqrsi_pg_run_list,
    pgqrsi_pg_run_count,
    pgqrsi_pg_run_steps,
    pgqrsi_pg_run_values,
    pgqrsi_pg_run_cancel,
    pgqrsi_pg_run_send,
    pgqrsi_pg_run_restart,
    pgqrsi_pg_run_fork,
    pgqrsi_pg_run_purge,
    pgqrsi_pg_run_wait_begin,
    pgqrsi_pg_transaction,
    pgqrsi_pg_pgconn,
    NULL,
};

PGQRS_API const pgqrs_backend *pgqrs_postgres_backend(void)
{
    return &pgqrsi_pg_backend;
}

/* Known before main begins, so that including the header is all it takes. */
#if defined(__GNUC__) || defined(__clang__)
__attribute__((constructor)) static void pgqrsi_pg_announce(void)
{
    pgqrs_backend_register(&pgqrsi_pg_backend);
}
#elif defined(__cplusplus)
static const pgqrs_result pgqrsi_pg_announced = pgqrs_backend_register(&pgqrsi_pg_backend);
#endif

#endif /* PGQRS_IMPLEMENTATION, Postgres */
/* ------------------------------------------------------------------------------------------------------------------
 * >>public entry points: thin, in the order of their declarations
 * --------------------------------------------------------------------------------------------------------------- */
#if defined(PGQRS_IMPLEMENTATION) && !defined(PGQRSI_ENTRY_DONE)
#define PGQRSI_ENTRY_DONE

/* --- results and errors */

PGQRS_API const char *pgqrs_result_name(pgqrs_result result)
{
    size_t index = pgqrsi_result_index(result);
    return index < sizeof pgqrsi_results / sizeof pgqrsi_results[0] ? pgqrsi_results[index].name : "PGQRS_(unknown)";
}

PGQRS_API const char *pgqrs_result_text(pgqrs_result result)
{
    size_t index = pgqrsi_result_index(result);
    return index < sizeof pgqrsi_results / sizeof pgqrsi_results[0] ? pgqrsi_results[index].text : "not a pgqrs result";
}

PGQRS_API pgqrs_error_kind pgqrs_result_kind(pgqrs_result result)
{
    size_t index = pgqrsi_result_index(result);
    return index < sizeof pgqrsi_results / sizeof pgqrsi_results[0] ? pgqrsi_results[index].kind : PGQRS_KIND_FATAL;
}

PGQRS_API const char *pgqrs_state_name(pgqrs_state state)
{
    static const char *const names[] = {"unknown", "ready", "delayed", "leased", "archived", "dead"};
    return state >= PGQRS_READY && state <= PGQRS_DEAD ? names[state] : names[0];
}

PGQRS_API const char *pgqrs_worker_state_name(pgqrs_worker_state state)
{
    static const char *const names[] = {"unknown", "ready", "polling", "interrupted", "suspended", "stopped"};
    return state >= PGQRS_WORKER_READY && state <= PGQRS_WORKER_STOPPED ? names[state] : names[0];
}

PGQRS_API const char *pgqrs_version(void)
{
    return PGQRS_VERSION;
}

PGQRS_API void pgqrs_log_stderr(pgqrs_log_level level, const char *text, void *user)
{
    static const char *const names[] = {"", "error", "warn", "info", "debug"};
    (void)user;
    fprintf(stderr, "pgqrs %s: %s\n", level >= PGQRS_LOG_ERROR && level <= PGQRS_LOG_DEBUG ? names[level] : "log",
            text);
}

/* --- backends */

#define PGQRSI_BACKENDS_MAX 8
static const pgqrs_backend *pgqrsi_backends[PGQRSI_BACKENDS_MAX];

PGQRS_API pgqrs_result pgqrs_backend_register(const pgqrs_backend *backend)
{
    if (!backend) return PGQRS_ERR_INVALID_ARGUMENT;
    if (backend->version != PGQRS_BACKEND_VERSION) return PGQRS_ERR_UNSUPPORTED;
    for (int i = 0; i < PGQRSI_BACKENDS_MAX; i++) {
        if (pgqrsi_backends[i] == backend) return PGQRS_OK;
        if (!pgqrsi_backends[i]) {
            pgqrsi_backends[i] = backend;
            return PGQRS_OK;
        }
    }
    return PGQRS_ERR_UNSUPPORTED;
}

static const pgqrs_backend *pgqrsi_backend_for(const char *scheme, size_t length)
{
    for (int i = 0; i < PGQRSI_BACKENDS_MAX && pgqrsi_backends[i]; i++)
        for (const char *const *known = pgqrsi_backends[i]->schemes; *known; known++)
            if (strlen(*known) == length && strncmp(*known, scheme, length) == 0) return pgqrsi_backends[i];
    return NULL;
}

static const struct {
    const char *scheme;
    const char *header;
} pgqrsi_known_schemes[] = {
    {"sqlite", "pgqrs_sqlite.h"}, {"turso", "pgqrs_sqlite.h"}, {"postgresql", "pgqrs.h"}, {"postgres", "pgqrs.h"}};

static pgqrs_result pgqrsi_backend_missing(const char *scheme, size_t length, pgqrs_error *err)
{
    for (size_t i = 0; i < sizeof pgqrsi_known_schemes / sizeof pgqrsi_known_schemes[0]; i++)
        if (strlen(pgqrsi_known_schemes[i].scheme) == length &&
            strncmp(pgqrsi_known_schemes[i].scheme, scheme, length) == 0)
            return pgqrsi_error_set(
                err, PGQRS_ERR_NOT_BUILT,
                "%.*s:// is not part of this program: include \"%s\" where PGQRS_IMPLEMENTATION is defined",
                (int)length, scheme, pgqrsi_known_schemes[i].header);
    return pgqrsi_error_set(
        err, PGQRS_ERR_BAD_DSN,
        "no backend serves the scheme \"%.*s\"; known are sqlite://, turso://, postgresql://, postgres://",
        (int)(length < 40 ? length : 40), scheme);
}

PGQRS_API void *pgqrs_backend_alloc(pgqrs_store *store, size_t size)
{
    return pgqrsi_mem_alloc(&store->settings.allocator, size);
}

PGQRS_API void *pgqrs_backend_resize(pgqrs_store *store, void *pointer, size_t old_size, size_t new_size)
{
    return pgqrsi_mem_resize(&store->settings.allocator, pointer, old_size, new_size);
}

PGQRS_API void pgqrs_backend_free(pgqrs_store *store, void *pointer, size_t size)
{
    pgqrsi_mem_free(&store->settings.allocator, pointer, size);
}

PGQRS_API pgqrs_result pgqrs_backend_fail(pgqrs_store *store, pgqrs_result code, int native_code, const char *sqlstate,
                                          const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    pgqrsi_error_format(&store->error, code, format, arguments);
    va_end(arguments);
    store->error.native_code = native_code;
    snprintf(store->error.sqlstate, sizeof store->error.sqlstate, "%s", sqlstate ? sqlstate : "");
    return code;
}

PGQRS_API void pgqrs_backend_log(pgqrs_store *store, pgqrs_log_level level, const char *format, ...)
{
    va_list arguments;
    if (!pgqrsi_log_wanted(store, level)) return;
    va_start(arguments, format);
    pgqrsi_log_format(store, level, format, arguments);
    va_end(arguments);
}

PGQRS_API int64_t pgqrs_backend_clock(pgqrs_store *store)
{
    return store->settings.clock.now_us ? store->settings.clock.now_us(store->settings.clock.user) : pgqrsi_wall_us();
}

PGQRS_API int64_t pgqrs_backend_monotonic(void)
{
    return pgqrsi_monotonic_us();
}

PGQRS_API uint64_t pgqrs_backend_random(pgqrs_store *store)
{
    return pgqrsi_random(store);
}

PGQRS_API void pgqrs_backend_sleep(pgqrs_store *store, int64_t us)
{
    if (store->settings.sleeper.sleep_us)
        store->settings.sleeper.sleep_us(us, store->settings.sleeper.user);
    else
        pgqrsi_nap_us(us);
}

PGQRS_API void pgqrs_backend_observe(pgqrs_store *store, const pgqrs_event *event)
{
    pgqrsi_observe(store, *event);
}

PGQRS_API void *pgqrs_backend_result_new(pgqrs_store *store, size_t size, size_t reserve)
{
    return pgqrsi_result_new(&store->settings.allocator, size, reserve);
}

PGQRS_API void *pgqrs_backend_result_alloc(void *result, size_t size)
{
    return pgqrsi_result_alloc(result, size);
}

PGQRS_API char *pgqrs_backend_result_text(void *result, const char *text, int64_t size)
{
    return pgqrsi_result_text(result, text, size);
}

/* --- store */

static bool pgqrsi_copy_keys(void *owned, const char *const **keys, size_t count)
{
    const char **copy = (const char **)pgqrsi_result_alloc(owned, (count + 1) * sizeof *copy);
    if (!copy) return false;
    for (size_t i = 0; i < count; i++) {
        copy[i] = pgqrsi_result_text(owned, (*keys)[i], -1);
        if (!copy[i]) return false;
    }
    *keys = copy;
    return true;
}

static void pgqrsi_settings_resolve(pgqrs_store_desc *settings)
{
    settings->allocator = pgqrsi_mem_resolve(&settings->allocator);
    if (!settings->schema) settings->schema = "public";
    if (!settings->json.parse) {
        settings->json.parse = pgqrsi_json_parse;
        settings->json.user = NULL;
    }
    if (!settings->logger.level) settings->logger.level = PGQRS_LOG_INFO;
    settings->connect_timeout_ms = PGQRSI_DEFAULT(settings->connect_timeout_ms, 30000);
    settings->retry_limit = settings->retry_limit < 0 ? -1 : PGQRSI_DEFAULT(settings->retry_limit, 5);
    settings->default_lease_ms = PGQRSI_DEFAULT(settings->default_lease_ms, 30000);
    settings->default_max_attempts = PGQRSI_DEFAULT(settings->default_max_attempts, 5);
    settings->default_batch = PGQRSI_DEFAULT(settings->default_batch, 16);
    settings->heartbeat_ms = PGQRSI_DEFAULT(settings->heartbeat_ms, 5000);
    settings->poll_ms = PGQRSI_DEFAULT(settings->poll_ms, 250);
    if (settings->sqlite_wal == PGQRS_AUTO) settings->sqlite_wal = PGQRS_ON;
    pgqrsi_validation_resolve(&settings->validation);
}

/* Everything a store owns beside the backend's state is in one result object, so one free takes it all. */
static bool pgqrsi_store_own(pgqrs_store *store)
{
    pgqrs_store_desc *settings = &store->settings;
    store->owned = pgqrsi_result_new(&settings->allocator, PGQRSI_POLICY_SLOTS * sizeof(pgqrsi_policy), 256);
    if (!store->owned) return false;
    store->policies = (pgqrsi_policy *)store->owned;
    settings->schema = pgqrsi_result_text(store->owned, settings->schema, -1);
    return settings->schema &&
           pgqrsi_copy_keys(store->owned, &settings->validation.forbidden_keys,
                            settings->validation.forbidden_key_count) &&
           pgqrsi_copy_keys(store->owned, &settings->validation.required_keys, settings->validation.required_key_count);
}

static void pgqrsi_store_free(pgqrs_store *store)
{
    pgqrs_allocator allocator = store->settings.allocator;
    pgqrsi_pipe_close(store->wake);
    pgqrs_free(store->owned);
    pgqrsi_mem_free(&allocator, store, sizeof *store);
}

static pgqrs_store *pgqrsi_store_new(const pgqrs_store_desc *desc, pgqrs_error *err)
{
    pgqrs_store_desc settings;
    memset(&settings, 0, sizeof settings);
    if (desc) settings = *desc;
    if (pgqrsi_settings_check(&settings, err)) return NULL;
    pgqrsi_settings_resolve(&settings);
    pgqrs_store *store = (pgqrs_store *)pgqrsi_mem_alloc(&settings.allocator, sizeof *store);
    if (!store) {
        pgqrsi_error_set(err, PGQRS_ERR_NO_MEMORY, "out of memory: the allocator returned NULL");
        return NULL;
    }
    store->settings = settings;
    store->random_state = pgqrsi_random_seed(store);
    pgqrsi_error_clear(&store->error);
    pgqrsi_bucket_init(&store->bucket, &store->settings.validation, pgqrsi_monotonic_us());
    if (!pgqrsi_pipe_open(store->wake))
        pgqrsi_error_set(err, PGQRS_ERR_CONNECTION,
                         "no file descriptor is left for the store: raise the limit (ulimit -n)");
    else if (!pgqrsi_store_own(store))
        pgqrsi_error_set(err, PGQRS_ERR_NO_MEMORY, "out of memory: the allocator returned NULL");
    else
        return store;
    pgqrsi_store_free(store);
    return NULL;
}

static pgqrs_store *pgqrsi_store_open(const pgqrs_backend *backend, pgqrs_backend_open *request,
                                      const pgqrs_store_desc *desc, pgqrs_error *err)
{
    pgqrs_store *store = pgqrsi_store_new(desc, err);
    if (!store) return NULL;
    store->backend = backend;
    store->scheme = backend->name;
    if (request->dsn && strncmp(request->dsn, "turso:", 6) == 0) /* one backend, two engines: say which */
        store->scheme = "turso";
    request->settings = &store->settings;
    pgqrs_result result = backend->open(store, request, &store->self);
    if (result) {
        if (err) {
            pgqrsi_end(store, result);
            *err = store->error;
        }
        pgqrsi_store_free(store);
        return NULL;
    }
    store->capabilities = backend->capabilities(store->self);
    return store;
}

PGQRS_API pgqrs_store *pgqrs_open(const char *dsn, const pgqrs_store_desc *desc, pgqrs_error *err)
{
    pgqrs_backend_open request;
    memset(&request, 0, sizeof request);
    if (err) pgqrsi_error_clear(err);
    if (!dsn) {
        pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "dsn is NULL");
        return NULL;
    }
    size_t length = pgqrsi_dsn_scheme(dsn);
    if (length == 0) {
        char shown[128];
        pgqrsi_dsn_redact(dsn, shown, sizeof shown);
        pgqrsi_error_set(err, PGQRS_ERR_BAD_DSN,
                         "the DSN \"%s\" has no scheme; write sqlite://FILE or postgresql://USER@HOST/DATABASE", shown);
        return NULL;
    }
    const pgqrs_backend *backend = pgqrsi_backend_for(dsn, length);
    if (!backend) {
        pgqrsi_backend_missing(dsn, length, err);
        return NULL;
    }
    request.dsn = dsn;
    return pgqrsi_store_open(backend, &request, desc, err);
}

static pgqrs_store *pgqrsi_open_foreign(const char *scheme, const void *handle, pgqrs_backend_open *request,
                                        const pgqrs_store_desc *desc, pgqrs_error *err)
{
    const pgqrs_backend *backend = pgqrsi_backend_for(scheme, strlen(scheme));
    if (err) pgqrsi_error_clear(err);
    if (!handle)
        pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "the connection is NULL");
    else if (!backend)
        pgqrsi_backend_missing(scheme, strlen(scheme), err);
    else
        return pgqrsi_store_open(backend, request, desc, err);
    return NULL;
}

PGQRS_API pgqrs_store *pgqrs_open_pgconn(struct pg_conn *connection, const pgqrs_store_desc *desc, pgqrs_error *err)
{
    pgqrs_backend_open request;
    memset(&request, 0, sizeof request);
    request.connection = connection;
    return pgqrsi_open_foreign("postgresql", connection, &request, desc, err);
}

PGQRS_API pgqrs_store *pgqrs_open_sqlite3(struct sqlite3 *database, const pgqrs_store_desc *desc, pgqrs_error *err)
{
    pgqrs_backend_open request;
    memset(&request, 0, sizeof request);
    request.database = database;
    return pgqrsi_open_foreign("sqlite", database, &request, desc, err);
}

PGQRS_API void pgqrs_close(pgqrs_store *store)
{
    if (!store) return;
    store->backend->close(store->self);
    pgqrsi_store_free(store);
}

PGQRS_API const pgqrs_error *pgqrs_last_error(const pgqrs_store *store)
{
    static const pgqrs_error no_store = {PGQRS_ERR_INVALID_ARGUMENT,
                                         PGQRS_KIND_MISUSE,
                                         0,
                                         "",
                                         -1,
                                         0,
                                         "the store is NULL: pgqrs_open failed, see its error"};
    return store ? &store->error : &no_store;
}

PGQRS_API const pgqrs_store_desc *pgqrs_store_settings(const pgqrs_store *store)
{
    return store ? &store->settings : NULL;
}

PGQRS_API const char *pgqrs_store_backend(const pgqrs_store *store)
{
    return store ? store->scheme : "";
}

PGQRS_API void pgqrs_free(void *result)
{
    if (result) pgqrsi_result_free(result);
}

PGQRS_API void pgqrs_stop(pgqrs_store *store)
{
    if (!store) return;
    PGQRSI_FLAG_SET(store->stop, 1);
    pgqrsi_pipe_signal(store->wake);
}

/* Every public call is its work between begin and end. */
#define PGQRSI_CALL(store, work)                                                                                       \
    do {                                                                                                               \
        pgqrs_result pgqrsi_began = pgqrsi_begin(store);                                                               \
        return pgqrsi_began ? pgqrsi_began : pgqrsi_end((store), (work));                                              \
    } while (0)

PGQRS_API pgqrs_result pgqrs_store_now(pgqrs_store *store, int64_t *now_us)
{
    PGQRSI_CALL(store, now_us ? store->backend->now(store->self, now_us) : pgqrsi_null_argument(store, "now_us"));
}

PGQRS_API pgqrs_result pgqrs_install(pgqrs_store *store)
{
    PGQRSI_CALL(store, store->backend->install(store->self, pgqrsi_now(store)));
}

static pgqrs_result pgqrsi_uninstall(pgqrs_store *store)
{
    pgqrsi_policy_forget(store);
    return store->backend->uninstall(store->self);
}

PGQRS_API pgqrs_result pgqrs_uninstall(pgqrs_store *store)
{
    PGQRSI_CALL(store, pgqrsi_uninstall(store));
}

PGQRS_API pgqrs_result pgqrs_verify(pgqrs_store *store)
{
    PGQRSI_CALL(store, store->backend->verify(store->self));
}

PGQRS_API pgqrs_result pgqrs_schema_version(pgqrs_store *store, int32_t *version)
{
    PGQRSI_CALL(store, version ? store->backend->schema_version(store->self, version)
                               : pgqrsi_null_argument(store, "version"));
}

/* --- queues */

PGQRS_API pgqrs_result pgqrs_queue_create(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc)
{
    PGQRSI_CALL(store, pgqrsi_queue_create(store, queue, desc));
}

PGQRS_API pgqrs_result pgqrs_queue_update(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc)
{
    PGQRSI_CALL(store,
                desc ? pgqrsi_queue_change(store, queue, desc, PGQRS_AUTO) : pgqrsi_null_argument(store, "desc"));
}

PGQRS_API pgqrs_result pgqrs_queue_get(pgqrs_store *store, const char *queue, pgqrs_queue **out)
{
    PGQRSI_CALL(store, pgqrsi_queue_get(store, queue, out));
}

PGQRS_API pgqrs_result pgqrs_queue_exists(pgqrs_store *store, const char *queue, bool *exists)
{
    PGQRSI_CALL(store, pgqrsi_queue_exists(store, queue, exists));
}

PGQRS_API pgqrs_result pgqrs_queue_list(pgqrs_store *store, int64_t after_id, size_t limit, pgqrs_queues **out)
{
    PGQRSI_CALL(store, pgqrsi_queue_list(store, after_id, limit, out));
}

PGQRS_API pgqrs_result pgqrs_queue_pause(pgqrs_store *store, const char *queue)
{
    PGQRSI_CALL(store, pgqrsi_queue_change(store, queue, NULL, PGQRS_ON));
}

PGQRS_API pgqrs_result pgqrs_queue_resume(pgqrs_store *store, const char *queue)
{
    PGQRSI_CALL(store, pgqrsi_queue_change(store, queue, NULL, PGQRS_OFF));
}

PGQRS_API pgqrs_result pgqrs_queue_delete(pgqrs_store *store, const char *queue, bool force)
{
    PGQRSI_CALL(store, pgqrsi_queue_delete(store, queue, force));
}

PGQRS_API pgqrs_result pgqrs_queue_purge(pgqrs_store *store, const char *queue, const pgqrs_purge_desc *desc,
                                         int64_t *removed)
{
    PGQRSI_CALL(store, pgqrsi_queue_purge(store, queue, desc, removed));
}

/* --- messages */

PGQRS_API pgqrs_result pgqrs_enqueue(pgqrs_store *store, const char *queue, const char *payload,
                                     const pgqrs_enqueue_desc *desc, pgqrs_receipt *receipt)
{
    pgqrs_enqueue_item item;
    memset(&item, 0, sizeof item);
    item.payload = payload;
    if (desc) item.desc = *desc;
    PGQRSI_CALL(store, pgqrsi_enqueue(store, queue, &item, 1, receipt, true));
}

PGQRS_API pgqrs_result pgqrs_enqueue_many(pgqrs_store *store, const char *queue, const pgqrs_enqueue_item *items,
                                          size_t count, pgqrs_receipt *receipts)
{
    PGQRSI_CALL(store, pgqrsi_enqueue(store, queue, items, count, receipts, false));
}

/* A list of one becomes a message: the copy in the same arena is what pgqrs_free gets. */
static pgqrs_result pgqrsi_dequeue_one(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                       pgqrs_message **out)
{
    pgqrs_dequeue_desc one;
    pgqrs_messages *messages = NULL;
    memset(&one, 0, sizeof one);
    if (desc) one = *desc;
    one.limit = 1;
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_dequeue(store, queue, &one, &messages);
    if (result || !messages) return result;
    *out = (pgqrs_message *)pgqrsi_result_alias(messages, sizeof **out);
    if (*out) {
        **out = messages->items[0];
        return PGQRS_OK;
    }
    pgqrs_free(messages); /* the lease ends by itself */
    return pgqrsi_no_memory(store);
}

PGQRS_API pgqrs_result pgqrs_dequeue(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                     pgqrs_message **out)
{
    PGQRSI_CALL(store, pgqrsi_dequeue_one(store, queue, desc, out));
}

static pgqrs_result pgqrsi_dequeue_many(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                        pgqrs_messages **out)
{
    pgqrs_result result = pgqrsi_dequeue(store, queue, desc, out);
    return result || *out ? result : pgqrsi_empty_messages(store, out);
}

PGQRS_API pgqrs_result pgqrs_dequeue_many(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                          pgqrs_messages **out)
{
    PGQRSI_CALL(store, pgqrsi_dequeue_many(store, queue, desc, out));
}

PGQRS_API pgqrs_settlement pgqrs_settlement_for(const pgqrs_message *message, pgqrs_verdict verdict)
{
    return pgqrsi_settlement_for(message, verdict);
}

static pgqrs_result pgqrsi_settle_and_claim(pgqrs_store *store, pgqrs_settlement *items, size_t count,
                                            const char *queue, const pgqrs_dequeue_desc *desc, pgqrs_messages **next)
{
    pgqrs_backend_claim claim;
    if (next) *next = NULL;
    if (!queue && !next) return desc ? pgqrsi_null_argument(store, "queue") : pgqrsi_settle(store, items, count, NULL);
    if (!next) return pgqrsi_null_argument(store, "next");
    pgqrs_result result = pgqrsi_claim_check(store, queue, desc, &claim);
    if (!result && desc && desc->wait_ms)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT,
                           "wait_ms must be 0 in pgqrs_settle: use pgqrs_dequeue_many to wait");
    if (!result) result = pgqrsi_settle(store, items, count, &claim);
    if (!result) result = pgqrsi_claim_refused(store, &claim);
    *next = claim.messages;
    return result || *next ? result : pgqrsi_empty_messages(store, next);
}

PGQRS_API pgqrs_result pgqrs_settle(pgqrs_store *store, pgqrs_settlement *items, size_t count, const char *queue,
                                    const pgqrs_dequeue_desc *claim, pgqrs_messages **next)
{
    PGQRSI_CALL(store, pgqrsi_settle_and_claim(store, items, count, queue, claim, next));
}

PGQRS_API pgqrs_result pgqrs_archive(pgqrs_store *store, const pgqrs_message *message)
{
    PGQRSI_CALL(store, pgqrsi_settle_one(store, message, pgqrsi_pattern(PGQRS_ARCHIVE, NULL)));
}

PGQRS_API pgqrs_result pgqrs_delete(pgqrs_store *store, const pgqrs_message *message)
{
    PGQRSI_CALL(store, pgqrsi_settle_one(store, message, pgqrsi_pattern(PGQRS_DELETE, NULL)));
}

PGQRS_API pgqrs_result pgqrs_retry(pgqrs_store *store, const pgqrs_message *message, const char *reason)
{
    PGQRSI_CALL(store, pgqrsi_settle_one(store, message, pgqrsi_pattern(PGQRS_RETRY, reason)));
}

PGQRS_API pgqrs_result pgqrs_reject(pgqrs_store *store, const pgqrs_message *message, const char *reason)
{
    PGQRSI_CALL(store, pgqrsi_settle_one(store, message, pgqrsi_pattern(PGQRS_REJECT, reason)));
}

PGQRS_API pgqrs_result pgqrs_release(pgqrs_store *store, const pgqrs_message *message, const pgqrs_release_desc *desc)
{
    PGQRSI_CALL(store, pgqrsi_settle_one(store, message, pgqrsi_release_pattern(desc)));
}

static pgqrs_result pgqrsi_settle_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                       pgqrs_settlement pattern, pgqrs_result *results)
{
    return pgqrsi_settle_same(store, messages, count, &pattern, results);
}

PGQRS_API pgqrs_result pgqrs_archive_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                          pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_settle_many(store, messages, count, pgqrsi_pattern(PGQRS_ARCHIVE, NULL), results));
}

PGQRS_API pgqrs_result pgqrs_delete_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                         pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_settle_many(store, messages, count, pgqrsi_pattern(PGQRS_DELETE, NULL), results));
}

PGQRS_API pgqrs_result pgqrs_release_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                          const pgqrs_release_desc *desc, pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_settle_many(store, messages, count, pgqrsi_release_pattern(desc), results));
}

static const pgqrs_worker_ref pgqrsi_nobody = {0, 0};

static pgqrs_result pgqrsi_extend_one(pgqrs_store *store, const pgqrs_message *message, int64_t lease_ms)
{
    pgqrs_result outcome = PGQRS_OK;
    if (!message) return pgqrsi_null_argument(store, "message");
    pgqrs_result result = pgqrsi_extend(store, message, 1, lease_ms, pgqrsi_nobody, &outcome);
    return result || outcome == PGQRS_OK ? result : pgqrsi_lease_lost(store, message->id);
}

PGQRS_API pgqrs_result pgqrs_extend(pgqrs_store *store, const pgqrs_message *message, int64_t lease_ms)
{
    PGQRSI_CALL(store, pgqrsi_extend_one(store, message, lease_ms));
}

PGQRS_API pgqrs_result pgqrs_extend_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                         int64_t lease_ms, pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_extend(store, messages, count, lease_ms, pgqrsi_nobody, results));
}

/* --- inspection and repair */

static pgqrs_result pgqrsi_message_get(pgqrs_store *store, int64_t id, pgqrs_message **out)
{
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    return store->backend->message_get(store->self, pgqrsi_now(store), id, out);
}

PGQRS_API pgqrs_result pgqrs_message_get(pgqrs_store *store, int64_t id, pgqrs_message **out)
{
    PGQRSI_CALL(store, pgqrsi_message_get(store, id, out));
}

PGQRS_API pgqrs_result pgqrs_message_list(pgqrs_store *store, const pgqrs_message_filter *filter, pgqrs_messages **out)
{
    PGQRSI_CALL(store, pgqrsi_message_list(store, filter, out));
}

PGQRS_API pgqrs_result pgqrs_message_count(pgqrs_store *store, const pgqrs_message_filter *filter, int64_t *count)
{
    PGQRSI_CALL(store, pgqrsi_message_count(store, filter, count));
}

PGQRS_API pgqrs_result pgqrs_message_delete(pgqrs_store *store, const int64_t *ids, size_t count, bool force,
                                            pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_by_ids_run(store, pgqrsi_message_delete_run, ids, count, force, results));
}

PGQRS_API pgqrs_result pgqrs_message_update(pgqrs_store *store, int64_t id, const char *payload, size_t payload_size)
{
    PGQRSI_CALL(store, pgqrsi_message_update(store, id, payload, payload_size));
}

PGQRS_API pgqrs_result pgqrs_message_replay(pgqrs_store *store, int64_t id)
{
    PGQRSI_CALL(store, pgqrsi_message_replay(store, id));
}

PGQRS_API pgqrs_result pgqrs_message_replay_many(pgqrs_store *store, const int64_t *ids, size_t count,
                                                 pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_by_ids_run(store, pgqrsi_message_replay_run, ids, count, false, results));
}

PGQRS_API pgqrs_result pgqrs_dead_list(pgqrs_store *store, const char *queue, int64_t after_id, size_t limit,
                                       pgqrs_messages **out)
{
    PGQRSI_CALL(store, pgqrsi_dead_page(store, queue, after_id, limit, false, out));
}

PGQRS_API pgqrs_result pgqrs_dead_replay_all(pgqrs_store *store, const char *queue, int64_t *replayed)
{
    PGQRSI_CALL(store, pgqrsi_dead_replay_all(store, queue, replayed));
}

PGQRS_API pgqrs_result pgqrs_message_explain(pgqrs_store *store, int64_t id, pgqrs_explanation *out)
{
    PGQRSI_CALL(store, pgqrsi_message_explain(store, id, out));
}

/* --- handlers and the worker loop */

PGQRS_API pgqrs_result pgqrs_message_archive(const pgqrs_message *message)
{
    return pgqrsi_delivery_decide(message, PGQRS_ARCHIVE, 0, NULL);
}

PGQRS_API pgqrs_result pgqrs_message_remove(const pgqrs_message *message)
{
    return pgqrsi_delivery_decide(message, PGQRS_DELETE, 0, NULL);
}

PGQRS_API pgqrs_result pgqrs_message_retry(const pgqrs_message *message, int64_t delay_ms, const char *reason)
{
    return pgqrsi_delivery_decide(message, PGQRS_RETRY, delay_ms, reason);
}

PGQRS_API pgqrs_result pgqrs_message_give_back(const pgqrs_message *message, int64_t delay_ms)
{
    return delay_ms < 0 ? PGQRS_ERR_INVALID_ARGUMENT : pgqrsi_delivery_decide(message, PGQRS_GIVE_BACK, delay_ms, NULL);
}

PGQRS_API pgqrs_result pgqrs_message_reject(const pgqrs_message *message, const char *reason)
{
    return pgqrsi_delivery_decide(message, PGQRS_REJECT, 0, reason);
}

PGQRS_API pgqrs_result pgqrs_message_extend(const pgqrs_message *message, int64_t lease_ms)
{
    pgqrs_delivery *delivery = pgqrsi_delivery_of(message);
    if (!delivery) return PGQRS_ERR_INVALID_ARGUMENT;
    PGQRSI_CALL(delivery->worker->store, pgqrsi_message_extend(delivery->worker, message, lease_ms));
}

PGQRS_API pgqrs_result pgqrs_work(pgqrs_store *store, const char *queue, pgqrs_handler handler, void *user,
                                  const pgqrs_work_desc *desc)
{
    PGQRSI_CALL(store, pgqrsi_work(store, queue, handler, NULL, user, desc));
}

PGQRS_API pgqrs_result pgqrs_work_batch(pgqrs_store *store, const char *queue, pgqrs_batch_handler handler, void *user,
                                        const pgqrs_work_desc *desc)
{
    PGQRSI_CALL(store, pgqrsi_work(store, queue, NULL, handler, user, desc));
}

static pgqrs_worker *pgqrsi_worker_opened(pgqrs_store *store, pgqrs_worker *worker, pgqrs_result result)
{
    if (result && worker) {
        pgqrsi_worker_close(worker, result);
        worker = NULL;
    }
    pgqrsi_end(store, result);
    return worker;
}

PGQRS_API pgqrs_worker *pgqrs_worker_open(pgqrs_store *store, const char *queue, pgqrs_handler handler,
                                          pgqrs_batch_handler batch_handler, void *user, const pgqrs_work_desc *desc)
{
    pgqrs_worker *worker = NULL;
    if (pgqrsi_begin(store)) return NULL;
    pgqrs_result result = pgqrsi_worker_open(store, queue, handler, batch_handler, user, desc, &worker);
    return pgqrsi_worker_opened(store, worker, result);
}

static pgqrs_result pgqrsi_worker_inside(pgqrs_worker *worker)
{
    return pgqrsi_fail(worker->store, PGQRS_ERR_WRONG_THREAD,
                       "the handler of worker \"%s\" is running: poll and close it afterwards", worker->name);
}

static pgqrs_result pgqrsi_worker_poll_counted(pgqrs_worker *worker, int64_t timeout_ms, size_t *handled)
{
    int64_t before = worker->handled;
    if (worker->in_handler) return pgqrsi_worker_inside(worker);
    pgqrs_result result = pgqrsi_check_range(worker->store, "timeout_ms", timeout_ms, 0, PGQRS_FOREVER);
    if (!result) result = pgqrsi_worker_poll(worker, timeout_ms);
    if (handled) *handled = (size_t)(worker->handled - before);
    return result;
}

PGQRS_API pgqrs_result pgqrs_worker_poll(pgqrs_worker *worker, int64_t timeout_ms, size_t *handled)
{
    if (handled) *handled = 0;
    if (!worker) return PGQRS_ERR_INVALID_ARGUMENT;
    PGQRSI_CALL(worker->store, pgqrsi_worker_poll_counted(worker, timeout_ms, handled));
}

PGQRS_API int pgqrs_worker_fd(pgqrs_worker *worker)
{
    return worker && worker->wait.armed_at_us ? worker->store->backend->wait_fd(worker->store->self) : -1;
}

PGQRS_API int64_t pgqrs_worker_next_ms(pgqrs_worker *worker)
{
    return worker ? pgqrsi_worker_next_ms(worker) : 0;
}

PGQRS_API void pgqrs_worker_stop(pgqrs_worker *worker)
{
    if (!worker) return;
    PGQRSI_FLAG_SET(worker->stop, 1);
    pgqrsi_pipe_signal(worker->store->wake);
}

PGQRS_API bool pgqrs_worker_stopping(const pgqrs_worker *worker)
{
    return worker && PGQRSI_FLAG_GET(worker->stop);
}

PGQRS_API pgqrs_worker_ref pgqrs_worker_self(const pgqrs_worker *worker)
{
    return worker ? worker->self : pgqrsi_nobody;
}

PGQRS_API pgqrs_result pgqrs_worker_close(pgqrs_worker *worker)
{
    pgqrs_store *store = worker ? worker->store : NULL;
    if (!worker) return PGQRS_OK;
    PGQRSI_CALL(store, worker->in_handler ? pgqrsi_worker_inside(worker) : pgqrsi_worker_close(worker, PGQRS_OK));
}

/* --- workers */

static pgqrs_result pgqrsi_worker_register_public(pgqrs_store *store, const char *name, const pgqrs_register_desc *desc,
                                                  pgqrs_worker_ref *out)
{
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = pgqrsi_nobody;
    return pgqrsi_worker_register(store, name, desc ? desc->queue : NULL, desc ? desc->stale_ms : 0, out);
}

PGQRS_API pgqrs_result pgqrs_worker_register(pgqrs_store *store, const char *name, const pgqrs_register_desc *desc,
                                             pgqrs_worker_ref *out)
{
    PGQRSI_CALL(store, pgqrsi_worker_register_public(store, name, desc, out));
}

PGQRS_API pgqrs_result pgqrs_worker_heartbeat(pgqrs_store *store, pgqrs_worker_ref worker)
{
    PGQRSI_CALL(store, pgqrsi_worker_change(store, worker, PGQRS_WORKER_BEAT));
}

PGQRS_API pgqrs_result pgqrs_worker_healthy(pgqrs_store *store, int64_t worker_id, int64_t max_age_ms, bool *healthy)
{
    PGQRSI_CALL(store, pgqrsi_worker_healthy(store, worker_id, max_age_ms, healthy));
}

PGQRS_API pgqrs_result pgqrs_worker_begin_polling(pgqrs_store *store, pgqrs_worker_ref worker)
{
    PGQRSI_CALL(store, pgqrsi_worker_change(store, worker, PGQRS_WORKER_BEGIN_POLLING));
}

PGQRS_API pgqrs_result pgqrs_worker_end_polling(pgqrs_store *store, pgqrs_worker_ref worker)
{
    PGQRSI_CALL(store, pgqrsi_worker_change(store, worker, PGQRS_WORKER_END_POLLING));
}

PGQRS_API pgqrs_result pgqrs_worker_interrupt(pgqrs_store *store, int64_t worker_id)
{
    PGQRSI_CALL(store, pgqrsi_worker_command(store, worker_id, PGQRS_WORKER_INTERRUPT));
}

PGQRS_API pgqrs_result pgqrs_worker_suspend(pgqrs_store *store, int64_t worker_id)
{
    PGQRSI_CALL(store, pgqrsi_worker_command(store, worker_id, PGQRS_WORKER_SUSPEND));
}

PGQRS_API pgqrs_result pgqrs_worker_resume(pgqrs_store *store, int64_t worker_id)
{
    PGQRSI_CALL(store, pgqrsi_worker_command(store, worker_id, PGQRS_WORKER_RESUME));
}

PGQRS_API pgqrs_result pgqrs_worker_shutdown(pgqrs_store *store, int64_t worker_id)
{
    PGQRSI_CALL(store, pgqrsi_worker_command(store, worker_id, PGQRS_WORKER_SHUTDOWN));
}

PGQRS_API pgqrs_result pgqrs_worker_get(pgqrs_store *store, int64_t worker_id, pgqrs_worker_info **out)
{
    PGQRSI_CALL(store, pgqrsi_worker_get(store, worker_id, out));
}

PGQRS_API pgqrs_result pgqrs_worker_list(pgqrs_store *store, const pgqrs_worker_filter *filter, pgqrs_workers **out)
{
    PGQRSI_CALL(store, pgqrsi_worker_list(store, filter, out));
}

PGQRS_API pgqrs_result pgqrs_worker_count(pgqrs_store *store, const pgqrs_worker_filter *filter, int64_t *count)
{
    PGQRSI_CALL(store, pgqrsi_worker_count(store, filter, count));
}

PGQRS_API pgqrs_result pgqrs_worker_release(pgqrs_store *store, int64_t worker_id, int64_t *released)
{
    int64_t ignored = 0;
    PGQRSI_CALL(store, store->backend->worker_release(store->self, pgqrsi_now(store), worker_id, "released",
                                                      released ? released : &ignored));
}

PGQRS_API pgqrs_result pgqrs_worker_delete(pgqrs_store *store, int64_t worker_id, bool force)
{
    PGQRSI_CALL(store, store->backend->worker_delete(store->self, pgqrsi_now(store), worker_id, force));
}

PGQRS_API pgqrs_result pgqrs_worker_reclaim(pgqrs_store *store, const char *queue, int64_t older_than_ms,
                                            int64_t *workers, int64_t *messages)
{
    PGQRSI_CALL(store, pgqrsi_worker_reclaim(store, queue, older_than_ms, workers, messages));
}

static pgqrs_result pgqrsi_worker_purge(pgqrs_store *store, int64_t older_than_ms, int64_t *removed)
{
    int64_t ignored = 0;
    pgqrs_result result = pgqrsi_check_range(store, "older_than_ms", older_than_ms, 0, PGQRSI_DELAY_MAX_MS);
    return result ? result
                  : store->backend->worker_purge(store->self, pgqrsi_now(store), older_than_ms * PGQRSI_US_PER_MS,
                                                 removed ? removed : &ignored);
}

PGQRS_API pgqrs_result pgqrs_worker_purge(pgqrs_store *store, int64_t older_than_ms, int64_t *removed)
{
    PGQRSI_CALL(store, pgqrsi_worker_purge(store, older_than_ms, removed));
}

/* --- numbers and housekeeping */

static pgqrs_result pgqrsi_metrics_get(pgqrs_store *store, const char *queue, pgqrs_metrics **out)
{
    if (!out) return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = queue ? pgqrsi_check_queue(store, queue) : PGQRS_OK;
    return result ? result : store->backend->metrics(store->self, pgqrsi_now(store), queue, out);
}

/* --- workflows */

PGQRS_API const char *pgqrs_run_state_name(pgqrs_run_state state)
{
    static const char *const names[] = {"unknown",    "queued",    "running", "paused",
                                        "cancelling", "cancelled", "success", "error"};
    return state >= PGQRS_RUN_QUEUED && state <= PGQRS_RUN_ERROR ? names[state] : names[0];
}

PGQRS_API const char *pgqrs_run_wait_name(pgqrs_run_wait wait)
{
    static const char *const names[] = {"none", "retry", "pause", "sleep", "event"};
    return wait >= PGQRS_WAIT_NONE && wait <= PGQRS_WAIT_EVENT ? names[wait] : "unknown";
}

PGQRS_API const char *pgqrs_step_state_name(pgqrs_step_state state)
{
    static const char *const names[] = {"unknown", "done", "retrying", "waiting", "failed"};
    return state >= PGQRS_STEP_DONE && state <= PGQRS_STEP_FAILED ? names[state] : names[0];
}

PGQRS_API int64_t pgqrs_retry_delay_ms(const pgqrs_retry_policy *given, int32_t retry, uint64_t random)
{
    pgqrs_retry_policy policy = given ? pgqrsi_retry_resolve(given, &pgqrsi_retry_default) : pgqrsi_retry_default;
    return pgqrsi_retry_delay_ms(&policy, retry, random);
}

PGQRS_API pgqrs_result pgqrs_workflow_create(pgqrs_store *store, const char *workflow, const pgqrs_workflow_desc *desc)
{
    PGQRSI_CALL(store, pgqrsi_workflow_create(store, workflow, desc));
}

PGQRS_API pgqrs_result pgqrs_workflow_update(pgqrs_store *store, const char *workflow, const pgqrs_workflow_desc *desc)
{
    PGQRSI_CALL(store, pgqrsi_workflow_update(store, workflow, desc));
}

PGQRS_API pgqrs_result pgqrs_workflow_get(pgqrs_store *store, const char *workflow, pgqrs_workflow **out)
{
    PGQRSI_CALL(store, pgqrsi_workflow_get(store, workflow, out));
}

PGQRS_API pgqrs_result pgqrs_workflow_list(pgqrs_store *store, int64_t after_id, size_t limit, pgqrs_workflows **out)
{
    PGQRSI_CALL(store, pgqrsi_workflow_list(store, after_id, limit, out));
}

PGQRS_API pgqrs_result pgqrs_workflow_delete(pgqrs_store *store, const char *workflow, bool force)
{
    PGQRSI_CALL(store, pgqrsi_workflow_delete(store, workflow, force));
}

static pgqrs_result pgqrsi_workflow_trigger_one(pgqrs_store *store, const char *workflow, const char *input,
                                                const pgqrs_trigger_desc *desc, int64_t *run_id)
{
    pgqrs_trigger_item item;
    pgqrs_receipt receipt;
    memset(&item, 0, sizeof item);
    memset(&receipt, 0, sizeof receipt);
    item.input = input;
    if (desc) item.desc = *desc;
    pgqrs_result result = pgqrsi_workflow_trigger(store, workflow, &item, 1, &receipt, true);
    if (run_id) *run_id = receipt.id;
    return result;
}

PGQRS_API pgqrs_result pgqrs_workflow_trigger(pgqrs_store *store, const char *workflow, const char *input,
                                              const pgqrs_trigger_desc *desc, int64_t *run_id)
{
    PGQRSI_CALL(store, pgqrsi_workflow_trigger_one(store, workflow, input, desc, run_id));
}

PGQRS_API pgqrs_result pgqrs_workflow_trigger_many(pgqrs_store *store, const char *workflow,
                                                   const pgqrs_trigger_item *items, size_t count,
                                                   pgqrs_receipt *receipts)
{
    PGQRSI_CALL(store, pgqrsi_workflow_trigger(store, workflow, items, count, receipts, false));
}

/* --- runs from inside */

PGQRS_API int64_t pgqrs_run_id(const pgqrs_run *run)
{
    return run && run->worker ? run->message->id : 0;
}

PGQRS_API const char *pgqrs_run_workflow(const pgqrs_run *run)
{
    return run && run->worker ? run->loaded->workflow : "";
}

PGQRS_API const char *pgqrs_run_input(const pgqrs_run *run)
{
    return run && run->worker ? run->message->payload : "null";
}

PGQRS_API int32_t pgqrs_run_attempt(const pgqrs_run *run)
{
    return run && run->worker ? run->message->attempt : 0;
}

PGQRS_API pgqrs_store *pgqrs_run_store(const pgqrs_run *run)
{
    return run && run->worker ? run->worker->store : NULL;
}

PGQRS_API const pgqrs_error *pgqrs_run_error(const pgqrs_run *run)
{
    static const pgqrs_error none = {PGQRS_ERR_INVALID_ARGUMENT, PGQRS_KIND_MISUSE, 0, "", -1, 0, "run is NULL"};
    static const pgqrs_error gone = {PGQRS_ERR_STEP_MISUSE,
                                     PGQRS_KIND_MISUSE,
                                     0,
                                     "",
                                     -1,
                                     0,
                                     "the run's function has returned: the run must not be used any more"};
    if (!run) return &none;
    return run->worker ? &run->error : &gone;
}

PGQRS_API pgqrs_result pgqrs_run_status(const pgqrs_run *run)
{
    return pgqrs_run_error(run)->code;
}

/* Every call of a workflow's function on its run stands between enter and leave. False: the run has to stop, or had its end. */
static bool pgqrsi_run_enter(pgqrs_run *run)
{
    if (!run || !run->worker) return false;
    pgqrs_store *store = run->worker->store;
    pgqrs_result result = pgqrsi_begin(store);
    if (result)
        return pgqrsi_run_halt(run, result, "run %lld is used while another call on its store runs",
                               (long long)run->message->id) == PGQRS_OK;
    if (run->returned && !run->status) {
        pgqrsi_run_halt(run, PGQRS_ERR_STEP_MISUSE, "run %lld is used after pgqrs_run_return",
                        (long long)run->message->id);
        pgqrsi_log(store, PGQRS_LOG_ERROR, "%s", run->error.message);
    }
    if (pgqrsi_elapsed_us(store) >= run->worker->lease_end_us) pgqrsi_run_lost(run);
    if (!run->status) return true;
    if (++run->skipped == PGQRSI_RUN_SKIPPED_MANY)
        pgqrsi_log(store, PGQRS_LOG_ERROR,
                   "run %lld has to stop, and its function keeps asking: does a loop look for NULL? (%s)",
                   (long long)run->message->id, run->error.message);
    pgqrsi_run_rollback(run);
    store->error = run->error;
    pgqrsi_end(store, run->status);
    return false;
}

static pgqrs_result pgqrsi_run_leave(pgqrs_run *run)
{
    if (run->status) pgqrsi_run_rollback(run); /* what the function does next must not be a part of it */
    run->worker->store->error = run->error;
    return pgqrsi_end(run->worker->store, run->status);
}

PGQRS_API bool pgqrs_step_with(pgqrs_run *run, const char *name, const pgqrs_step_desc *desc, const char **output)
{
    const char *known = NULL;
    bool todo = false;
    if (output) *output = NULL;
    if (!pgqrsi_run_enter(run)) return false;
    todo = pgqrsi_step_begin(run, name, desc, &known);
    if (output) *output = known;
    return pgqrsi_run_leave(run) == PGQRS_OK && todo;
}

PGQRS_API bool pgqrs_step(pgqrs_run *run, const char *name, const char **output)
{
    return pgqrs_step_with(run, name, NULL, output);
}

PGQRS_API bool pgqrs_step_keyed(pgqrs_run *run, const char *name, const char *key, const char **output)
{
    pgqrs_step_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.key = key ? key : ""; /* refused: without a key every round would be the same step */
    return pgqrs_step_with(run, name, &desc, output);
}

PGQRS_API bool pgqrs_step_indexed(pgqrs_run *run, const char *name, int64_t index, const char **output)
{
    char key[24];
    snprintf(key, sizeof key, "%lld", (long long)index);
    return pgqrs_step_keyed(run, name, key, output);
}

PGQRS_API const char *pgqrs_step_done(pgqrs_run *run, const char *output)
{
    if (!pgqrsi_run_enter(run)) return NULL;
    const char *stored = pgqrsi_step_done(run, output);
    if (stored) pgqrsi_run_heed_cancel(run);
    return pgqrsi_run_leave(run) == PGQRS_OK ? stored : NULL;
}

/* Texts of a failure are copied first of all: they may be the store's last error or libpq's message, which the next call ends. */
typedef struct pgqrsi_failure {
    pgqrs_failure failure;
    char code[PGQRSI_CODE_MAX + 1];
    char message[PGQRSI_REASON_MAX + 1];
} pgqrsi_failure;

static const pgqrs_failure *pgqrsi_failure_keep(const pgqrs_failure *given, pgqrsi_failure *kept)
{
    memset(kept, 0, sizeof *kept);
    if (given) kept->failure = *given;
    pgqrsi_code_copy(kept->failure.code, kept->code);
    kept->failure.code = kept->code;
    if (kept->failure.message) {
        pgqrsi_reason_copy(kept->failure.message, kept->message);
        kept->failure.message = kept->message;
    }
    return &kept->failure;
}

PGQRS_API const char *pgqrs_step_fail(pgqrs_run *run, const pgqrs_failure *given)
{
    pgqrsi_failure kept;
    const pgqrs_failure *failure = pgqrsi_failure_keep(given, &kept);
    if (!pgqrsi_run_enter(run)) return NULL;
    pgqrsi_step_fail(run, failure);
    pgqrsi_run_leave(run);
    return NULL;
}

PGQRS_API const char *pgqrs_step_pause(pgqrs_run *run, int64_t delay_ms, const char *why)
{
    char kept[PGQRSI_REASON_MAX + 1] = "";
    if (why) pgqrsi_reason_copy(why, kept);
    if (!pgqrsi_run_enter(run)) return NULL;
    pgqrsi_step_pause(run, delay_ms, why ? kept : NULL);
    pgqrsi_run_leave(run);
    return NULL;
}

PGQRS_API bool pgqrs_run_sleep(pgqrs_run *run, const char *name, int64_t duration_ms)
{
    bool over = false;
    if (!pgqrsi_run_enter(run)) return false;
    if (duration_ms < 0)
        pgqrsi_run_misuse(run, "sleep \"%s\" of %lld ms: give 0 or more", name ? name : "", (long long)duration_ms);
    else
        over = pgqrsi_run_sleep(run, name, pgqrsi_run_after(run, duration_ms));
    return pgqrsi_run_leave(run) == PGQRS_OK && over;
}

PGQRS_API bool pgqrs_run_sleep_until(pgqrs_run *run, const char *name, int64_t at_us)
{
    bool over = false;
    if (!pgqrsi_run_enter(run)) return false;
    if (at_us < 0 || at_us > PGQRSI_TIME_MAX_US)
        pgqrsi_run_misuse(run, "sleep \"%s\" until %lld: give microseconds since 1970", name ? name : "",
                          (long long)at_us);
    else
        over = pgqrsi_run_sleep(run, name, at_us);
    return pgqrsi_run_leave(run) == PGQRS_OK && over;
}

PGQRS_API bool pgqrs_run_wait_event(pgqrs_run *run, const char *event, int64_t timeout_ms, const char **payload)
{
    const char *found = NULL;
    bool known = false;
    if (payload) *payload = NULL;
    if (!pgqrsi_run_enter(run)) return false;
    if (timeout_ms < 0)
        pgqrsi_run_misuse(run, "event \"%s\" is waited for %lld ms: give 0 or more, or PGQRS_FOREVER",
                          event ? event : "", (long long)timeout_ms);
    else
        known = pgqrsi_run_wait_event(run, event, timeout_ms, &found);
    if (payload) *payload = found;
    return pgqrsi_run_leave(run) == PGQRS_OK && known;
}

PGQRS_API pgqrs_result pgqrs_run_set(pgqrs_run *run, const char *name, const char *json)
{
    if (!pgqrsi_run_enter(run)) return pgqrs_run_status(run);
    pgqrsi_run_set(run, name, json);
    return pgqrsi_run_leave(run);
}

PGQRS_API const char *pgqrs_run_value(pgqrs_run *run, const char *name)
{
    if (!pgqrsi_run_enter(run)) return NULL;
    const char *value = pgqrsi_run_value(run, name);
    pgqrsi_run_leave(run);
    return value;
}

PGQRS_API pgqrs_result pgqrs_run_flush(pgqrs_run *run)
{
    if (!pgqrsi_run_enter(run)) return pgqrs_run_status(run);
    if (run->pending_count) (void)pgqrsi_run_store_now(run, 0, NULL);
    pgqrsi_run_heed_cancel(run);
    return pgqrsi_run_leave(run);
}

PGQRS_API pgqrs_result pgqrs_run_extend(pgqrs_run *run, int64_t lease_ms)
{
    if (!pgqrsi_run_enter(run)) return pgqrs_run_status(run);
    pgqrs_store *store = run->worker->store;
    pgqrs_result result = pgqrsi_check_range(store, "lease_ms", lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result) result = pgqrsi_message_extend(run->worker, run->message, lease_ms);
    if (result == PGQRS_ERR_LEASE_LOST) pgqrsi_run_halt_store(run, result);
    return pgqrsi_end(store, result);
}

PGQRS_API struct pg_conn *pgqrs_run_pgconn(const pgqrs_run *run)
{
    pgqrs_store *store = pgqrs_run_store(run);
    return store && store->backend->pgconn ? store->backend->pgconn(store->self) : NULL;
}

PGQRS_API struct sqlite3 *pgqrs_run_sqlite3(const pgqrs_run *run)
{
    pgqrs_store *store = pgqrs_run_store(run);
    return store && store->backend->database ? store->backend->database(store->self) : NULL;
}

PGQRS_API const char *pgqrs_run_quote(pgqrs_run *run, const char *text)
{
    if (!text || !pgqrsi_run_enter(run)) return NULL;
    const char *quoted = pgqrsi_run_quote(run, text);
    return pgqrsi_run_leave(run) == PGQRS_OK ? quoted : NULL;
}

PGQRS_API const char *pgqrs_run_unquote(pgqrs_run *run, const char *json)
{
    if (!json || !pgqrsi_run_enter(run)) return NULL;
    const char *text = pgqrsi_run_unquote(run, json);
    return pgqrsi_run_leave(run) == PGQRS_OK ? text : NULL;
}

PGQRS_API pgqrs_result pgqrs_run_return(pgqrs_run *run, const char *output)
{
    if (!pgqrsi_run_enter(run)) return pgqrs_run_status(run);
    pgqrsi_run_return(run, output);
    return pgqrsi_run_leave(run);
}

PGQRS_API pgqrs_result pgqrs_run_fail(pgqrs_run *run, const pgqrs_failure *given)
{
    pgqrsi_failure kept;
    const pgqrs_failure *failure = pgqrsi_failure_keep(given, &kept);
    if (!pgqrsi_run_enter(run)) return pgqrs_run_status(run);
    pgqrsi_run_fail(run, failure);
    return pgqrsi_run_leave(run);
}

/* --- workers of workflows */

PGQRS_API pgqrs_result pgqrs_work_workflows(pgqrs_store *store, const pgqrs_workflow_entry *entries, size_t count,
                                            const pgqrs_work_desc *desc)
{
    PGQRSI_CALL(store, pgqrsi_work_workflows(store, entries, count, desc));
}

PGQRS_API pgqrs_result pgqrs_work_workflow(pgqrs_store *store, const char *workflow, pgqrs_workflow_handler handler,
                                           void *user, const pgqrs_work_desc *desc)
{
    pgqrs_workflow_entry entry;
    entry.workflow = workflow;
    entry.handler = handler;
    entry.user = user;
    PGQRSI_CALL(store, pgqrsi_work_workflows(store, &entry, 1, desc));
}

PGQRS_API pgqrs_worker *pgqrs_worker_open_workflows(pgqrs_store *store, const pgqrs_workflow_entry *entries,
                                                    size_t count, const pgqrs_work_desc *desc)
{
    pgqrs_worker *worker = NULL;
    if (pgqrsi_begin(store)) return NULL;
    pgqrs_result result = pgqrsi_worker_open_workflows(store, entries, count, desc, &worker);
    return pgqrsi_worker_opened(store, worker, result);
}

/* --- runs from outside */

PGQRS_API pgqrs_result pgqrs_run_get(pgqrs_store *store, int64_t run_id, pgqrs_run_info **out)
{
    PGQRSI_CALL(store, pgqrsi_run_get(store, run_id, out));
}

PGQRS_API pgqrs_result pgqrs_run_result(pgqrs_store *store, int64_t run_id, int64_t timeout_ms, pgqrs_run_info **out)
{
    PGQRSI_CALL(store, pgqrsi_run_result(store, run_id, timeout_ms, out));
}

PGQRS_API pgqrs_result pgqrs_run_list(pgqrs_store *store, const pgqrs_run_filter *filter, pgqrs_runs **out)
{
    PGQRSI_CALL(store, pgqrsi_run_list(store, filter, out));
}

PGQRS_API pgqrs_result pgqrs_run_count(pgqrs_store *store, const pgqrs_run_filter *filter, int64_t *count)
{
    PGQRSI_CALL(store, pgqrsi_run_count(store, filter, count));
}

PGQRS_API pgqrs_result pgqrs_run_steps(pgqrs_store *store, int64_t run_id, pgqrs_steps **out)
{
    PGQRSI_CALL(store, pgqrsi_run_steps(store, run_id, out));
}

PGQRS_API pgqrs_result pgqrs_run_values_get(pgqrs_store *store, int64_t run_id, pgqrs_run_values **out)
{
    PGQRSI_CALL(store, pgqrsi_run_values_get(store, run_id, out));
}

PGQRS_API pgqrs_result pgqrs_run_explain(pgqrs_store *store, int64_t run_id, pgqrs_explanation *out)
{
    PGQRSI_CALL(store, pgqrsi_run_explain(store, run_id, out));
}

PGQRS_API pgqrs_result pgqrs_run_cancel(pgqrs_store *store, int64_t run_id, const pgqrs_cancel_desc *desc,
                                        pgqrs_run_state *state)
{
    PGQRSI_CALL(store, pgqrsi_run_cancel(store, run_id, desc, state));
}

PGQRS_API pgqrs_result pgqrs_run_send_event(pgqrs_store *store, int64_t run_id, const char *event, const char *payload,
                                            bool *accepted)
{
    PGQRSI_CALL(store, pgqrsi_run_send_event(store, run_id, event, payload, accepted));
}

PGQRS_API pgqrs_result pgqrs_run_restart(pgqrs_store *store, int64_t run_id)
{
    PGQRSI_CALL(store, pgqrsi_run_restart(store, run_id));
}

PGQRS_API pgqrs_result pgqrs_run_fork(pgqrs_store *store, int64_t run_id, const pgqrs_fork_desc *desc,
                                      int64_t *new_run_id)
{
    PGQRSI_CALL(store, pgqrsi_run_fork(store, run_id, desc, new_run_id));
}

PGQRS_API pgqrs_result pgqrs_run_purge(pgqrs_store *store, const char *workflow, const pgqrs_run_purge_desc *desc,
                                       int64_t *removed)
{
    PGQRSI_CALL(store, pgqrsi_run_purge(store, workflow, desc, removed));
}

PGQRS_API pgqrs_result pgqrs_metrics_get(pgqrs_store *store, const char *queue, pgqrs_metrics **out)
{
    PGQRSI_CALL(store, pgqrsi_metrics_get(store, queue, out));
}

PGQRS_API pgqrs_result pgqrs_system_metrics_get(pgqrs_store *store, pgqrs_system_metrics *out)
{
    PGQRSI_CALL(store, pgqrsi_system_metrics(store, out));
}

PGQRS_API pgqrs_result pgqrs_worker_stats_get(pgqrs_store *store, const char *queue, int64_t stale_ms,
                                              pgqrs_worker_stats *out)
{
    PGQRSI_CALL(store, pgqrsi_worker_stats(store, queue, stale_ms, out));
}

PGQRS_API pgqrs_result pgqrs_maintain(pgqrs_store *store, int64_t *changed)
{
    int64_t ignored = 0;
    PGQRSI_CALL(store, store->backend->maintain(store->self, pgqrsi_now(store), changed ? changed : &ignored));
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>configuration
 * Three layers, the strongest first: the code, the environment, a file. Each layer is read completely and every value
 * of it checked, also one that a stronger layer overrules, so that a typing error never waits for the day it matters.
 * --------------------------------------------------------------------------------------------------------------- */

#ifdef PGQRS_YAML
#include <yaml.h>
#endif

#define PGQRSI_CONFIG_SIZE_MAX ((int64_t)(SIZE_MAX / 2)) /* of an int64_t or half a size_t, whichever is smaller */
#define PGQRSI_CONFIG_CONNECTIONS 16

typedef enum pgqrsi_field {
    PGQRSI_FIELD_DSN,
    PGQRSI_FIELD_SCHEMA,
    PGQRSI_FIELD_CONNECTIONS,
    PGQRSI_FIELD_CONNECT_TIMEOUT,
    PGQRSI_FIELD_LEASE,
    PGQRSI_FIELD_BATCH,
    PGQRSI_FIELD_ATTEMPTS,
    PGQRSI_FIELD_HEARTBEAT,
    PGQRSI_FIELD_POLL,
    PGQRSI_FIELD_POOLER,
    PGQRSI_FIELD_WAL,
    PGQRSI_FIELD_PAYLOAD,
    PGQRSI_FIELD_STRING,
    PGQRSI_FIELD_DEPTH,
    PGQRSI_FIELD_FORBIDDEN,
    PGQRSI_FIELD_REQUIRED,
    PGQRSI_FIELD_RATE,
    PGQRSI_FIELD_BURST,
    PGQRSI_FIELD_COUNT
} pgqrsi_field;

typedef enum pgqrsi_field_kind {
    PGQRSI_FIELD_IS_TEXT,
    PGQRSI_FIELD_IS_NUMBER,
    PGQRSI_FIELD_IS_LIMIT, /* a number, or null: no limit */
    PGQRSI_FIELD_IS_FLAG,
    PGQRSI_FIELD_IS_SWITCH,
    PGQRSI_FIELD_IS_LIST
} pgqrsi_field_kind;

typedef struct pgqrsi_field_info {
    const char *section; /* of the file; "" is its top level */
    const char *key;
    const char *variable; /* NULL: a member of PGQRS_VALIDATION_CONFIG */
    pgqrsi_field_kind kind;
    int64_t min, max;
} pgqrsi_field_info;

/* In the order of pgqrsi_field. */
static const pgqrsi_field_info pgqrsi_fields[] = {
    {"", "dsn", "PGQRS_DSN", PGQRSI_FIELD_IS_TEXT, 0, 0},
    {"", "schema", "PGQRS_SCHEMA", PGQRSI_FIELD_IS_TEXT, 0, 0},
    {"", "max_connections", "PGQRS_MAX_CONNECTIONS", PGQRSI_FIELD_IS_NUMBER, 1, 10000},
    {"", "connection_timeout_seconds", "PGQRS_CONNECTION_TIMEOUT", PGQRSI_FIELD_IS_NUMBER, 1, INT32_MAX / 1000},
    {"", "default_lock_time_seconds", "PGQRS_DEFAULT_LOCK_TIME", PGQRSI_FIELD_IS_NUMBER, 1, PGQRSI_LEASE_MAX_MS / 1000},
    {"", "default_max_batch_size", "PGQRS_DEFAULT_BATCH_SIZE", PGQRSI_FIELD_IS_NUMBER, 1, PGQRSI_CLAIM_MAX},
    {"", "max_read_ct", "PGQRS_MAX_READ_CT", PGQRSI_FIELD_IS_NUMBER, 1, PGQRSI_ATTEMPTS_MAX},
    {"", "heartbeat_interval", "PGQRS_HEARTBEAT_INTERVAL", PGQRSI_FIELD_IS_NUMBER, 1, INT32_MAX / 1000},
    {"", "poll_interval_ms", "PGQRS_POLL_INTERVAL_MS", PGQRSI_FIELD_IS_NUMBER, 1, INT32_MAX},
    {"", "pooler", "PGQRS_POOLER", PGQRSI_FIELD_IS_SWITCH, 0, 0},
    {"sqlite", "use_wal", "PGQRS_SQLITE_USE_WAL", PGQRSI_FIELD_IS_FLAG, 0, 0},
    {"validation_config", "max_payload_size_bytes", NULL, PGQRSI_FIELD_IS_NUMBER, 1, PGQRSI_CONFIG_SIZE_MAX},
    {"validation_config", "max_string_length", NULL, PGQRSI_FIELD_IS_LIMIT, 0, PGQRSI_CONFIG_SIZE_MAX},
    {"validation_config", "max_object_depth", NULL, PGQRSI_FIELD_IS_NUMBER, 1, INT32_MAX},
    {"validation_config", "forbidden_keys", NULL, PGQRSI_FIELD_IS_LIST, 0, 0},
    {"validation_config", "required_keys", NULL, PGQRSI_FIELD_IS_LIST, 0, 0},
    {"validation_config", "max_enqueue_per_second", NULL, PGQRSI_FIELD_IS_LIMIT, 0, INT32_MAX},
    {"validation_config", "max_enqueue_burst", NULL, PGQRSI_FIELD_IS_LIMIT, 0, INT32_MAX},
};

/* A text, or a list of them. */
typedef struct pgqrsi_config_text {
    struct pgqrsi_config_text *next;
    const char *text;
} pgqrsi_config_text;

typedef struct pgqrsi_config_value {
    int64_t number;
    const char *text;
    const char *const *items;
    size_t count;
} pgqrsi_config_value;

typedef enum pgqrsi_config_layer { PGQRSI_LAYER_CODE, PGQRSI_LAYER_ENVIRONMENT, PGQRSI_LAYER_FILE } pgqrsi_config_layer;

typedef struct pgqrsi_config_loader {
    pgqrs_config *config; /* the result object: owns all texts */
    pgqrs_error *err;
    pgqrs_allocator allocator;
    pgqrsi_config_layer layer;
    const char *file; /* of PGQRSI_LAYER_FILE, with the line that is being read */
    size_t line;
    bool has[PGQRSI_FIELD_COUNT];  /* from a stronger layer */
    bool seen[PGQRSI_FIELD_COUNT]; /* in this layer */
    pgqrsi_config_value values[PGQRSI_FIELD_COUNT];
    pgqrsi_config_text *list; /* the list being read, the last item first */
    size_t list_count;
} pgqrsi_config_loader;

static pgqrs_result pgqrsi_config_no_memory(pgqrsi_config_loader *loader)
{
    return pgqrsi_error_set(loader->err, PGQRS_ERR_NO_MEMORY, "no memory to read the configuration");
}

/* "PGQRS_SCHEMA", "pgqrs.yaml, line 3: key 'sqlite.use_wal'": what a person has to look for. */
static void pgqrsi_config_place(const pgqrsi_config_loader *loader, const char *section, const char *key,
                                const char *variable, char *out, size_t size)
{
    const char *dot = section[0] ? "." : "";
    if (loader->layer == PGQRSI_LAYER_CODE) {
        snprintf(out, size, "pgqrs_config_desc.%s", key);
    } else if (loader->layer == PGQRSI_LAYER_ENVIRONMENT) {
        if (variable)
            snprintf(out, size, "%s", variable);
        else
            snprintf(out, size, "PGQRS_VALIDATION_CONFIG: key '%s'", key);
    } else {
        char file[128];
        pgqrsi_text_show(loader->file, strlen(loader->file), file, sizeof file);
        snprintf(out, size, "%s, line %zu: key '%s%s%s'", file, loader->line, section, dot, key);
    }
}

static pgqrs_result pgqrsi_config_refuse(pgqrsi_config_loader *loader, pgqrsi_field field, const char *rule)
{
    char place[256];
    const pgqrsi_field_info *info = &pgqrsi_fields[field];
    pgqrsi_config_place(loader, info->section, info->key, info->variable, place, sizeof place);
    return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG, "%s %s", place, rule);
}

/* Says what would have been right. */
static pgqrs_result pgqrsi_config_refuse_value(pgqrsi_config_loader *loader, pgqrsi_field field)
{
    const pgqrsi_field_info *info = &pgqrsi_fields[field];
    char rule[128];
    switch (info->kind) {
    case PGQRSI_FIELD_IS_NUMBER:
    case PGQRSI_FIELD_IS_LIMIT:
        snprintf(rule, sizeof rule, "must be a whole number from %lld to %lld%s", (long long)info->min,
                 (long long)info->max, info->kind == PGQRSI_FIELD_IS_LIMIT ? ", or null for no limit" : "");
        return pgqrsi_config_refuse(loader, field, rule);
    case PGQRSI_FIELD_IS_FLAG:
        return pgqrsi_config_refuse(loader, field, "must be true or false (or 1 or 0)");
    case PGQRSI_FIELD_IS_SWITCH:
        return pgqrsi_config_refuse(loader, field, "must be auto, on or off");
    case PGQRSI_FIELD_IS_LIST:
        return pgqrsi_config_refuse(loader, field, "must be a list of texts");
    default:
        return pgqrsi_config_refuse(loader, field, "must be a text that is not empty");
    }
}

static bool pgqrsi_config_is_null(const pgqrsi_config_loader *loader, const char *text, size_t size)
{
    if (pgqrsi_equal(text, size, "null")) return true;
    return loader->layer == PGQRSI_LAYER_FILE && (size == 0 || pgqrsi_equal(text, size, "~") ||
                                                  pgqrsi_equal(text, size, "Null") || pgqrsi_equal(text, size, "NULL"));
}

static bool pgqrsi_config_flag(const char *text, size_t size, int64_t *out)
{
    bool yes = pgqrsi_equal_nocase(text, size, "true") || pgqrsi_equal(text, size, "1");
    bool no = pgqrsi_equal_nocase(text, size, "false") || pgqrsi_equal(text, size, "0");
    *out = yes ? PGQRS_ON : PGQRS_OFF;
    return yes || no;
}

static bool pgqrsi_config_switch(const char *text, size_t size, int64_t *out)
{
    static const char *const words[] = {"auto", "on", "off"}; /* in the order of pgqrs_switch */
    for (*out = 0; *out < 3; (*out)++)
        if (pgqrsi_equal_nocase(text, size, words[*out])) return true;
    return false;
}

static pgqrs_result pgqrsi_config_text_value(pgqrsi_config_loader *loader, pgqrsi_field field, const char *text,
                                             size_t size, pgqrsi_config_value *value)
{
    if (size == 0) return pgqrsi_config_refuse_value(loader, field);
    if (memchr(text, '\0', size)) return pgqrsi_config_refuse(loader, field, "has a NUL character");
    value->text = pgqrsi_result_text(loader->config, text, (int64_t)size);
    if (!value->text) return pgqrsi_config_no_memory(loader);
    if (field == PGQRSI_FIELD_SCHEMA) {
        pgqrs_error why;
        if (pgqrsi_check_schema_name(value->text, &why) != PGQRS_OK) {
            char rule[192];
            snprintf(rule, sizeof rule, "cannot be used: %.150s", why.message);
            return pgqrsi_config_refuse(loader, field, rule);
        }
    }
    return PGQRS_OK;
}

/* Keeps a checked value, unless a stronger layer has one. */
static pgqrs_result pgqrsi_config_keep(pgqrsi_config_loader *loader, pgqrsi_field field,
                                       const pgqrsi_config_value *value)
{
    if (loader->seen[field]) return pgqrsi_config_refuse(loader, field, "is there twice");
    loader->seen[field] = true;
    if (!loader->has[field]) loader->values[field] = *value;
    return PGQRS_OK;
}

/* One value as it is written. `quoted`: the source says it is a text, whatever it looks like. */
static pgqrs_result pgqrsi_config_scalar(pgqrsi_config_loader *loader, pgqrsi_field field, const char *text,
                                         size_t size, bool quoted)
{
    const pgqrsi_field_info *info = &pgqrsi_fields[field];
    pgqrsi_config_value value;
    bool null = !quoted && pgqrsi_config_is_null(loader, text, size);
    bool good = false;
    memset(&value, 0, sizeof value);
    if (info->kind == PGQRSI_FIELD_IS_TEXT) {
        bool absent = null && loader->layer == PGQRSI_LAYER_FILE;
        pgqrs_result result = pgqrsi_config_text_value(loader, field, text, absent ? 0 : size, &value);
        return result == PGQRS_OK ? pgqrsi_config_keep(loader, field, &value) : result;
    }
    if (!quoted && info->kind == PGQRSI_FIELD_IS_FLAG)
        good = pgqrsi_config_flag(text, size, &value.number);
    else if (info->kind == PGQRSI_FIELD_IS_SWITCH)
        good = pgqrsi_config_switch(text, size, &value.number);
    else if (!quoted && info->kind != PGQRSI_FIELD_IS_LIST)
        good =
            (null && info->kind == PGQRSI_FIELD_IS_LIMIT) ||
            (pgqrsi_parse_int64(text, size, &value.number) && value.number >= info->min && value.number <= info->max);
    return good ? pgqrsi_config_keep(loader, field, &value) : pgqrsi_config_refuse_value(loader, field);
}

static pgqrs_result pgqrsi_config_list_add(pgqrsi_config_loader *loader, pgqrsi_field field, const char *text,
                                           size_t size)
{
    pgqrsi_config_text *item = (pgqrsi_config_text *)pgqrsi_result_alloc(loader->config, sizeof *item);
    if (!item) return pgqrsi_config_no_memory(loader);
    if (size > 0 && memchr(text, '\0', size))
        return pgqrsi_config_refuse(loader, field, "has an item with a NUL character");
    item->text = pgqrsi_result_text(loader->config, size ? text : "", (int64_t)size);
    if (!item->text) return pgqrsi_config_no_memory(loader);
    item->next = loader->list;
    loader->list = item;
    loader->list_count++;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_config_list_end(pgqrsi_config_loader *loader, pgqrsi_field field)
{
    pgqrsi_config_value value;
    size_t at = loader->list_count;
    memset(&value, 0, sizeof value);
    const char **items = (const char **)pgqrsi_result_alloc(loader->config, (at + 1) * sizeof *items);
    if (!items) return pgqrsi_config_no_memory(loader);
    for (pgqrsi_config_text *item = loader->list; item; item = item->next)
        items[--at] = item->text;
    value.items = items;
    value.count = loader->list_count;
    loader->list = NULL;
    loader->list_count = 0;
    return pgqrsi_config_keep(loader, field, &value);
}

static pgqrsi_field pgqrsi_config_find(const char *section, const char *key, size_t size)
{
    int field = 0;
    while (field < PGQRSI_FIELD_COUNT &&
           (strcmp(pgqrsi_fields[field].section, section) != 0 || !pgqrsi_equal(key, size, pgqrsi_fields[field].key)))
        field++;
    return (pgqrsi_field)field;
}

static pgqrs_result pgqrsi_config_unknown(pgqrsi_config_loader *loader, const char *section, const char *key,
                                          size_t size)
{
    char place[320], shown[64];
    pgqrsi_text_show(key, size, shown, sizeof shown);
    pgqrsi_config_place(loader, section, shown, NULL, place, sizeof place);
    return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG, "%s is not a setting of this version", place);
}

/* A layer has been read. Who switches the rate limit off does not want the burst of a weaker layer either. */
static void pgqrsi_config_end_layer(pgqrsi_config_loader *loader)
{
    if (loader->seen[PGQRSI_FIELD_RATE] && !loader->has[PGQRSI_FIELD_RATE] &&
        loader->values[PGQRSI_FIELD_RATE].number == 0)
        loader->seen[PGQRSI_FIELD_BURST] = true;
    for (int field = 0; field < PGQRSI_FIELD_COUNT; field++) {
        loader->has[field] = loader->has[field] || loader->seen[field];
        loader->seen[field] = false;
    }
}

/* PGQRS_VALIDATION_CONFIG, as the JSON parser reports it. */
typedef struct pgqrsi_config_json {
    pgqrsi_config_loader *loader;
    pgqrsi_field field; /* PGQRSI_FIELD_COUNT: no key yet */
    bool in_object;
    bool in_list;
    pgqrs_result result;
} pgqrsi_config_json;

static pgqrs_result pgqrsi_config_json_list(pgqrsi_config_json *reading, pgqrs_json_event event, const char *text,
                                            size_t size)
{
    if (event == PGQRS_JSON_STRING) return pgqrsi_config_list_add(reading->loader, reading->field, text, size);
    if (event != PGQRS_JSON_ARRAY_END) return pgqrsi_config_refuse_value(reading->loader, reading->field);
    reading->in_list = false;
    return pgqrsi_config_list_end(reading->loader, reading->field);
}

static pgqrs_result pgqrsi_config_json_member(pgqrsi_config_json *reading, pgqrs_json_event event, const char *text,
                                              size_t size)
{
    switch (event) {
    case PGQRS_JSON_KEY:
        reading->field = pgqrsi_config_find("validation_config", text, size);
        if (reading->field == PGQRSI_FIELD_COUNT)
            return pgqrsi_config_unknown(reading->loader, "validation_config", text, size);
        return PGQRS_OK;
    case PGQRS_JSON_OBJECT_END:
        return PGQRS_OK;
    case PGQRS_JSON_ARRAY_BEGIN:
        if (pgqrsi_fields[reading->field].kind != PGQRSI_FIELD_IS_LIST)
            return pgqrsi_config_refuse_value(reading->loader, reading->field);
        reading->in_list = true;
        return PGQRS_OK;
    case PGQRS_JSON_OBJECT_BEGIN:
        return pgqrsi_config_refuse_value(reading->loader, reading->field);
    default:
        return pgqrsi_config_scalar(reading->loader, reading->field, text, size, event == PGQRS_JSON_STRING);
    }
}

static bool pgqrsi_config_json_report(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    pgqrsi_config_json *reading = (pgqrsi_config_json *)context;
    if (reading->in_list)
        reading->result = pgqrsi_config_json_list(reading, event, text, size);
    else if (reading->in_object)
        reading->result = pgqrsi_config_json_member(reading, event, text, size);
    else if (event == PGQRS_JSON_OBJECT_BEGIN)
        reading->in_object = true;
    else
        reading->result = pgqrsi_error_set(reading->loader->err, PGQRS_ERR_BAD_CONFIG,
                                           "PGQRS_VALIDATION_CONFIG must be a JSON object");
    return reading->result == PGQRS_OK;
}

static pgqrs_result pgqrsi_config_validation_variable(pgqrsi_config_loader *loader, const char *text)
{
    pgqrsi_config_json reading;
    size_t offset = 0;
    reading.loader = loader;
    reading.field = PGQRSI_FIELD_COUNT;
    reading.in_object = reading.in_list = false;
    reading.result = PGQRS_OK;
    if (pgqrsi_json_parse(text, strlen(text), pgqrsi_config_json_report, &reading, &offset, &loader->allocator))
        return PGQRS_OK;
    if (reading.result != PGQRS_OK) return reading.result;
    if (offset == PGQRSI_JSON_NO_MEMORY) return pgqrsi_config_no_memory(loader);
    return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG,
                            "PGQRS_VALIDATION_CONFIG must be a JSON object: it is not well-formed at byte %zu", offset);
}

static pgqrs_result pgqrsi_config_environment(pgqrsi_config_loader *loader)
{
    pgqrs_result result = PGQRS_OK;
    loader->layer = PGQRSI_LAYER_ENVIRONMENT;
    for (int field = 0; result == PGQRS_OK && field < PGQRSI_FIELD_COUNT; field++) {
        const char *variable = pgqrsi_fields[field].variable;
        const char *text = variable ? getenv(variable) : NULL;
        if (text) result = pgqrsi_config_scalar(loader, (pgqrsi_field)field, text, strlen(text), false);
    }
    const char *validation = getenv("PGQRS_VALIDATION_CONFIG");
    if (result == PGQRS_OK && validation) result = pgqrsi_config_validation_variable(loader, validation);
    if (result == PGQRS_OK && getenv("PGQRS_S3_MODE"))
        result = pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG,
                                  "PGQRS_S3_MODE is set, but this version has no S3 backend: unset it");
    pgqrsi_config_end_layer(loader);
    return result;
}

/* The path of the file to read, NULL for none; *file is it, opened. */
static pgqrs_result pgqrsi_config_find_file(pgqrsi_config_loader *loader, const pgqrs_config_desc *desc,
                                            const char **path, FILE **file)
{
    static const char *const usual[] = {"pgqrs.yaml", "pgqrs.yml"};
    const char *variable = desc->file || desc->no_environment ? NULL : getenv("PGQRS_CONFIG_FILE");
    const char *given = desc->file ? desc->file : variable;
    const char *source = desc->file ? "pgqrs_config_desc.file" : "PGQRS_CONFIG_FILE";
    char shown[128];
    int reason = ENOENT;
    *path = given;
    *file = NULL;
    if (given && given[0] == '\0')
        return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG, "%s must not be empty", source);
    if (given) {
        *file = fopen(given, "rb");
        reason = errno;
    }
    for (int i = 0; !given && !*file && reason == ENOENT && i < 2; i++) {
        *path = usual[i];
        *file = fopen(usual[i], "rb");
        reason = errno;
    }
    if (*file) return PGQRS_OK;
    if (!given && reason == ENOENT) {
        *path = NULL;
        return PGQRS_OK;
    }
    pgqrsi_text_show(*path, strlen(*path), shown, sizeof shown);
    pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG, "%s%s%s cannot be opened: %s", given ? source : "",
                     given ? ": " : "", shown,
                     reason == ENOENT   ? "it is not there"
                     : reason == EACCES ? "permission denied"
                                        : "see native_code, the errno");
    if (loader->err) loader->err->native_code = reason;
    return PGQRS_ERR_BAD_CONFIG;
}

#ifdef PGQRS_YAML

static pgqrs_result pgqrsi_yaml_list(pgqrsi_config_loader *loader, yaml_document_t *document, pgqrsi_field field,
                                     const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE) return pgqrsi_config_refuse_value(loader, field);
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
        const yaml_node_t *text = yaml_document_get_node(document, *item);
        if (text->type != YAML_SCALAR_NODE) return pgqrsi_config_refuse_value(loader, field);
        pgqrs_result result =
            pgqrsi_config_list_add(loader, field, (const char *)text->data.scalar.value, text->data.scalar.length);
        if (result != PGQRS_OK) return result;
    }
    return pgqrsi_config_list_end(loader, field);
}

static pgqrs_result pgqrsi_yaml_value(pgqrsi_config_loader *loader, yaml_document_t *document, pgqrsi_field field,
                                      const yaml_node_t *node)
{
    if (pgqrsi_fields[field].kind == PGQRSI_FIELD_IS_LIST) return pgqrsi_yaml_list(loader, document, field, node);
    if (node->type != YAML_SCALAR_NODE) return pgqrsi_config_refuse_value(loader, field);
    return pgqrsi_config_scalar(loader, field, (const char *)node->data.scalar.value, node->data.scalar.length,
                                node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE);
}

static pgqrs_result pgqrsi_yaml_refuse(pgqrsi_config_loader *loader, const char *section, const char *key,
                                       const char *problem)
{
    char place[256];
    pgqrsi_config_place(loader, section, key, NULL, place, sizeof place);
    return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG, "%s %s", place, problem);
}

static pgqrs_result pgqrsi_yaml_section(pgqrsi_config_loader *loader, yaml_document_t *document, const char *section,
                                        const yaml_node_t *node);

/* A key of the top level that holds keys itself. */
static pgqrs_result pgqrsi_yaml_nested(pgqrsi_config_loader *loader, yaml_document_t *document, const char *key,
                                       size_t size, const yaml_node_t *value, bool *nested)
{
    static const char *const sections[] = {"sqlite", "validation_config"};
    *nested = true;
    if (pgqrsi_equal(key, size, "s3"))
        return pgqrsi_yaml_refuse(loader, "", "s3", "cannot be used: this version has no S3 backend");
    for (int i = 0; i < 2; i++) {
        if (!pgqrsi_equal(key, size, sections[i])) continue;
        if (value->type != YAML_MAPPING_NODE)
            return pgqrsi_yaml_refuse(loader, "", sections[i], "must hold keys of its own, indented below it");
        return pgqrsi_yaml_section(loader, document, sections[i], value);
    }
    *nested = false;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_yaml_member(pgqrsi_config_loader *loader, yaml_document_t *document, const char *section,
                                       const yaml_node_t *key, const yaml_node_t *value)
{
    bool nested = false;
    pgqrs_result result = PGQRS_OK;
    loader->line = key->start_mark.line + 1;
    if (key->type != YAML_SCALAR_NODE) return pgqrsi_yaml_refuse(loader, section, "?", "must be a plain word");
    const char *text = (const char *)key->data.scalar.value;
    size_t size = key->data.scalar.length;
    pgqrsi_field field = pgqrsi_config_find(section, text, size);
    if (field != PGQRSI_FIELD_COUNT) return pgqrsi_yaml_value(loader, document, field, value);
    if (section[0] == '\0') result = pgqrsi_yaml_nested(loader, document, text, size, value, &nested);
    return nested ? result : pgqrsi_config_unknown(loader, section, text, size);
}

static pgqrs_result pgqrsi_yaml_section(pgqrsi_config_loader *loader, yaml_document_t *document, const char *section,
                                        const yaml_node_t *node)
{
    pgqrs_result result = PGQRS_OK;
    yaml_node_pair_t *pair = node->data.mapping.pairs.start;
    for (; result == PGQRS_OK && pair < node->data.mapping.pairs.top; pair++)
        result = pgqrsi_yaml_member(loader, document, section, yaml_document_get_node(document, pair->key),
                                    yaml_document_get_node(document, pair->value));
    return result;
}

static pgqrs_result pgqrsi_yaml_broken(pgqrsi_config_loader *loader, const yaml_parser_t *parser)
{
    char file[128];
    if (parser->error == YAML_MEMORY_ERROR) return pgqrsi_config_no_memory(loader);
    pgqrsi_text_show(loader->file, strlen(loader->file), file, sizeof file);
    if (parser->error == YAML_READER_ERROR) /* lines are counted after reading */
        return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG, "%s, byte %zu: not valid YAML: %s", file,
                                parser->problem_offset, parser->problem ? parser->problem : "it cannot be read");
    return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG, "%s, line %zu: not valid YAML: %s", file,
                            parser->problem_mark.line + 1, parser->problem ? parser->problem : "it cannot be read");
}

/* Reads the next document. No more documents: *found is false. */
static pgqrs_result pgqrsi_yaml_document(pgqrsi_config_loader *loader, yaml_parser_t *parser, bool first, bool *found)
{
    yaml_document_t document;
    pgqrs_result result = PGQRS_OK;
    if (!yaml_parser_load(parser, &document)) return pgqrsi_yaml_broken(loader, parser);
    const yaml_node_t *root = yaml_document_get_root_node(&document);
    *found = root != NULL;
    if (root) {
        loader->line = root->start_mark.line + 1;
        if (!first)
            result = pgqrsi_yaml_refuse(loader, "", "---", "starts a second document: there must be one");
        else if (root->type == YAML_MAPPING_NODE)
            result = pgqrsi_yaml_section(loader, &document, "", root);
        else if (root->type != YAML_SCALAR_NODE || root->data.scalar.length > 0)
            result = pgqrsi_yaml_refuse(loader, "", "?", "is missing: the file must be a list of \"key: value\" lines");
    }
    yaml_document_delete(&document);
    return result;
}

/* libyaml has its own memory: the allocator hook does not reach it. */
static pgqrs_result pgqrsi_config_file(pgqrsi_config_loader *loader, const char *path, FILE *file)
{
    yaml_parser_t parser;
    bool found = true;
    pgqrs_result result = PGQRS_OK;
    loader->layer = PGQRSI_LAYER_FILE;
    loader->file = path;
    if (!yaml_parser_initialize(&parser)) return pgqrsi_config_no_memory(loader);
    yaml_parser_set_input_file(&parser, file);
    for (bool first = true; result == PGQRS_OK && found; first = false)
        result = pgqrsi_yaml_document(loader, &parser, first, &found);
    yaml_parser_delete(&parser);
    pgqrsi_config_end_layer(loader);
    return result;
}

#else

static pgqrs_result pgqrsi_config_file(pgqrsi_config_loader *loader, const char *path, FILE *file)
{
    char shown[128];
    (void)file;
    pgqrsi_text_show(path, strlen(path), shown, sizeof shown);
    return pgqrsi_error_set(loader->err, PGQRS_ERR_NOT_BUILT,
                            "%s cannot be read: compile the implementation with PGQRS_YAML defined and link libyaml, "
                            "or set no_file",
                            shown);
}

#endif

static pgqrs_result pgqrsi_config_files(pgqrsi_config_loader *loader, const pgqrs_config_desc *desc)
{
    const char *path;
    FILE *file;
    if (desc->no_file && desc->file)
        return pgqrsi_error_set(loader->err, PGQRS_ERR_INVALID_ARGUMENT,
                                "pgqrs_config_desc has a file, and no_file: choose one");
    if (desc->no_file) return PGQRS_OK;
    pgqrs_result result = pgqrsi_config_find_file(loader, desc, &path, &file);
    if (result == PGQRS_OK && file) {
        result = pgqrsi_config_file(loader, path, file);
        fclose(file);
    }
    return result;
}

static pgqrs_result pgqrsi_config_code(pgqrsi_config_loader *loader, const pgqrs_config_desc *desc)
{
    pgqrs_result result = PGQRS_OK;
    loader->layer = PGQRSI_LAYER_CODE;
    if (desc->dsn) result = pgqrsi_config_scalar(loader, PGQRSI_FIELD_DSN, desc->dsn, strlen(desc->dsn), true);
    if (result == PGQRS_OK && desc->schema)
        result = pgqrsi_config_scalar(loader, PGQRSI_FIELD_SCHEMA, desc->schema, strlen(desc->schema), true);
    pgqrsi_config_end_layer(loader);
    return result;
}

/* Values that nobody gave stay zero and so mean the store's default. */
static void pgqrsi_config_fill(const pgqrsi_config_loader *loader)
{
    const pgqrsi_config_value *values = loader->values;
    pgqrs_store_desc *store = &loader->config->store;
    pgqrs_validation *rules = &store->validation;
    loader->config->dsn = values[PGQRSI_FIELD_DSN].text;
    loader->config->max_connections = loader->has[PGQRSI_FIELD_CONNECTIONS]
                                          ? (int32_t)values[PGQRSI_FIELD_CONNECTIONS].number
                                          : PGQRSI_CONFIG_CONNECTIONS;
    store->schema = values[PGQRSI_FIELD_SCHEMA].text;
    store->connect_timeout_ms = values[PGQRSI_FIELD_CONNECT_TIMEOUT].number * 1000;
    store->default_lease_ms = values[PGQRSI_FIELD_LEASE].number * 1000;
    store->default_batch = (int32_t)values[PGQRSI_FIELD_BATCH].number;
    store->default_max_attempts = (int32_t)values[PGQRSI_FIELD_ATTEMPTS].number;
    store->heartbeat_ms = values[PGQRSI_FIELD_HEARTBEAT].number * 1000;
    store->poll_ms = values[PGQRSI_FIELD_POLL].number;
    store->pooler = (pgqrs_switch)values[PGQRSI_FIELD_POOLER].number;
    store->sqlite_wal = (pgqrs_switch)values[PGQRSI_FIELD_WAL].number;
    rules->max_payload_bytes = (size_t)values[PGQRSI_FIELD_PAYLOAD].number;
    rules->max_string_bytes = (size_t)values[PGQRSI_FIELD_STRING].number;
    rules->max_depth = (int32_t)values[PGQRSI_FIELD_DEPTH].number;
    rules->forbidden_keys = values[PGQRSI_FIELD_FORBIDDEN].items;
    rules->forbidden_key_count = values[PGQRSI_FIELD_FORBIDDEN].count;
    rules->required_keys = values[PGQRSI_FIELD_REQUIRED].items;
    rules->required_key_count = values[PGQRSI_FIELD_REQUIRED].count;
    rules->max_enqueue_per_second = (int32_t)values[PGQRSI_FIELD_RATE].number;
    rules->max_enqueue_burst = (int32_t)values[PGQRSI_FIELD_BURST].number;
}

/* What can only be seen when all layers are together. */
static pgqrs_result pgqrsi_config_finish(pgqrsi_config_loader *loader)
{
    pgqrs_error why;
    if (!loader->has[PGQRSI_FIELD_DSN])
        return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG,
                                "no DSN: set PGQRS_DSN, or dsn in pgqrs.yaml, for example to sqlite://jobs.db");
    pgqrsi_config_fill(loader);
    if (pgqrsi_validation_check(&loader->config->store.validation, &why) != PGQRS_OK)
        return pgqrsi_error_set(loader->err, PGQRS_ERR_BAD_CONFIG,
                                "PGQRS_VALIDATION_CONFIG and validation_config contradict themselves: %.250s",
                                why.message);
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_config_layers(pgqrsi_config_loader *loader, const pgqrs_config_desc *desc)
{
    pgqrs_result result = pgqrsi_config_code(loader, desc);
    if (result == PGQRS_OK && !desc->no_environment) result = pgqrsi_config_environment(loader);
    if (result == PGQRS_OK) result = pgqrsi_config_files(loader, desc);
    return result == PGQRS_OK ? pgqrsi_config_finish(loader) : result;
}

PGQRS_API pgqrs_config *pgqrs_config_load(const pgqrs_config_desc *desc, pgqrs_error *err)
{
    pgqrsi_config_loader loader;
    pgqrs_config_desc nothing;
    memset(&nothing, 0, sizeof nothing);
    memset(&loader, 0, sizeof loader);
    if (!desc) desc = &nothing;
    loader.err = err;
    loader.allocator = pgqrsi_mem_resolve(&desc->allocator);
    pgqrsi_error_set(err, PGQRS_OK, "%s", "");
    pgqrs_config *config = (pgqrs_config *)pgqrsi_result_new(&loader.allocator, sizeof *config, 512);
    if (!config) {
        pgqrsi_config_no_memory(&loader);
        return NULL;
    }
    loader.config = config;
    config->store.allocator = desc->allocator;
    if (pgqrsi_config_layers(&loader, desc) != PGQRS_OK) {
        pgqrs_free(config);
        return NULL;
    }
    return config;
}

#endif /* the public entry points */

/* ------------------------------------------------------------------------------------------------------------------
 * >>licence
 *
 * Copyright (c) 2026 The pgqrs.h authors. You may use this file under the MIT licence or the Apache licence, version 2.0,
 * at your choice; the texts are in LICENSE-MIT and LICENSE-APACHE, and at https://opensource.org/license/mit and
 * https://www.apache.org/licenses/LICENSE-2.0.
 * --------------------------------------------------------------------------------------------------------------- */
