/* pgqrs_sqlite.h - the SQLite backend of pgqrs.h: a durable job queue in one file.
 *
 * >>manual
 *
 * One source file of the program says
 *
 *     #define PGQRS_IMPLEMENTATION
 *     #include "pgqrs_sqlite.h"
 *
 * every other one just includes the header. Link with -lsqlite3 (3.37 or newer). libpq is not needed; a program that
 * wants Postgres as well includes pgqrs.h too, in either order. With gcc, clang and any C++ compiler the backend makes
 * itself known before main; elsewhere call pgqrs_backend_register(pgqrs_sqlite_backend()) first thing.
 *
 * DSNs
 *     sqlite://jobs.db          a file, relative to the working directory       (also sqlite:jobs.db)
 *     sqlite:///var/lib/jobs.db a file, absolute                                (also sqlite:/var/lib/jobs.db)
 *     sqlite::memory:           a private database in memory, gone with the store (also sqlite://:memory:)
 *     turso://jobs.db           the same through a library that is not quite SQLite, see below
 * Options behind a question mark are refused. The file is made when it is missing (not with store_desc.sqlite_create =
 * PGQRS_OFF), its directory is not.
 *
 * Durability
 *     What a call acknowledged survives a crash of the program and of the machine; a call during which the disk failed is
 *     PGQRS_ERR_OUTCOME_UNKNOWN. The store keeps the write-ahead log
 *     (journal_mode=WAL) and waits for the disk once per commit. store_desc.sqlite_wal = PGQRS_OFF selects the rollback
 *     journal with synchronous=FULL instead, for file systems without shared memory; it is slower.
 *
 * Several processes, several threads
 *     Any number of them may open the same file; each store has its own connection. On Linux a write works like this:
 *     wait in the kernel for the lock on "<file>-qlock", BEGIN IMMEDIATE, do the work, COMMIT without waiting for the
 *     disk, unlock, flush "<file>-wal", return. So writers queue up instead of polling, and while one waits for the disk
 *     the next is at work already. This is safe: recovery keeps every whole transaction at the front of the log, SQLite
 *     flushes the log before it copies it into the file, and the file before it starts the log anew. The lock is held for
 *     one transaction; a program stopped in the middle of one (SIGSTOP, a debugger) holds up the others until it goes on, and
 *     pgqrs_open is PGQRS_ERR_BUSY meanwhile, after connect_timeout_ms; "fuser -v FILE-qlock" names it.
 *     Do not remove "<file>-qlock" while a program has the file open; it is empty but for one byte and may be removed
 *     when none has. Where the lock is not to be had (other systems, some file systems) the store uses synchronous=FULL
 *     and says so in the log once. A program that writes to the file with SQLite alone does no harm: SQLite's own lock
 *     is waited for too, for at most store_desc.connect_timeout_ms, then the call is PGQRS_ERR_BUSY.
 *     A waiting consumer is woken by other stores' enqueues through "<file>-qlock" (inotify); enqueues inside a
 *     transaction of yours are seen when the consumer polls next (poll_ms).
 *
 * A connection of your own (pgqrs_open_sqlite3)
 *     It is never closed or configured: journal mode, synchronous and busy timeout are yours, and so durability is. Inside
 *     a transaction of yours each call is a savepoint; start it with BEGIN IMMEDIATE when it will write. Outside of one
 *     each call is its own transaction.
 *
 * Transactional steps (pgqrs_step_desc.transaction)
 *     The body runs between BEGIN IMMEDIATE and COMMIT on the store's own connection, pgqrs_run_sqlite3: nobody else writes
 *     to the file meanwhile. Others wait for at most their connect_timeout_ms, then their call is PGQRS_ERR_BUSY; so does a
 *     second store that the body itself uses. Do not end the transaction in the body; savepoints of your own are fine.
 *
 * Turso
 *     turso:// serves a library that offers the sqlite3 C API: link it in place of -lsqlite3 and define PGQRS_TURSO where
 *     PGQRS_IMPLEMENTATION is. The store then expects less: synchronous=FULL, no queue lock, no wake-up between processes.
 *     With the ordinary library turso:// opens an ordinary file with those settings.
 *
 * What it does not do
 *     Network file systems: SQLite does not work there, and neither does this. Encryption, backups, VACUUM: use SQLite's.
 *     A message is one row that is written again by each step; payloads over some 100 KiB are better kept elsewhere.
 *
 * The tables are pgqrs_meta, pgqrs_queues, pgqrs_messages, pgqrs_workers, and for workflows pgqrs_workflows, pgqrs_runs,
 * pgqrs_steps, pgqrs_run_events and pgqrs_run_values; times in them are microseconds since 1970 UTC. For people there are
 * views: SELECT * FROM pgqrs_message_view WHERE queue = 'emails' AND state = 'dead';
 *        SELECT id, error_step, error_message FROM pgqrs_run_view WHERE workflow = 'signup' AND state = 'error';
 *        SELECT * FROM pgqrs_step_view WHERE run_id = 17;
 *
 * The licence is that of pgqrs.h: MIT or Apache 2.0, as you like.
 */

#ifndef PGQRS_SQLITE_H
#define PGQRS_SQLITE_H

#ifndef PGQRS_H
#define PGQRSI_CORE_ONLY
#include "pgqrs.h"
#undef PGQRSI_CORE_ONLY
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The backend's table, for pgqrs_backend_register. */
PGQRS_API const pgqrs_backend *pgqrs_sqlite_backend(void);

#ifdef __cplusplus
}
#endif

#endif /* PGQRS_SQLITE_H */

#if defined(PGQRS_IMPLEMENTATION) && !defined(PGQRSI_SQLITE_DONE)
#define PGQRSI_SQLITE_DONE

/* The engine has a guard of its own: this adds it when only the declarations were there so far. */
#define PGQRSI_CORE_ONLY
#include "pgqrs.h"
#undef PGQRSI_CORE_ONLY

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sqlite3.h>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------------------------
 * >>sqlite3: everything this file calls of it, in one place
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrsi_sqlite_api {
    int (*libversion_number)(void);
    const char *(*libversion)(void);
    int (*open_v2)(const char *path, sqlite3 **db, int flags, const char *vfs);
    int (*close)(sqlite3 *db);
    int (*prepare_v2)(sqlite3 *db, const char *sql, int size, sqlite3_stmt **statement, const char **tail);
    int (*step)(sqlite3_stmt *statement);
    int (*reset)(sqlite3_stmt *statement);
    int (*clear_bindings)(sqlite3_stmt *statement);
    int (*finalize)(sqlite3_stmt *statement);
    int (*bind_int64)(sqlite3_stmt *statement, int index, sqlite3_int64 value);
    int (*bind_text)(sqlite3_stmt *statement, int index, const char *text, int size, void (*destroy)(void *));
    int (*bind_null)(sqlite3_stmt *statement, int index);
    sqlite3_int64 (*column_int64)(sqlite3_stmt *statement, int column);
    const unsigned char *(*column_text)(sqlite3_stmt *statement, int column);
    int (*column_bytes)(sqlite3_stmt *statement, int column);
    int (*column_type)(sqlite3_stmt *statement, int column);
    int (*column_count)(sqlite3_stmt *statement);
    int (*exec)(sqlite3 *db, const char *sql, int (*row)(void *, int, char **, char **), void *context, char **message);
    int (*extended_errcode)(sqlite3 *db);
    const char *(*errmsg)(sqlite3 *db);
    int (*system_errno)(sqlite3 *db);
    int (*changes)(sqlite3 *db);
    int (*total_changes)(sqlite3 *db);
    int (*get_autocommit)(sqlite3 *db);
    int (*busy_handler)(sqlite3 *db, int (*handler)(void *, int), void *context);
    const char *(*db_filename)(sqlite3 *db, const char *name);
    int (*db_readonly)(sqlite3 *db, const char *name);
} pgqrsi_sqlite_api;

static const pgqrsi_sqlite_api pgqrsi_sqlite3 = {sqlite3_libversion_number,
                                                 sqlite3_libversion,
                                                 sqlite3_open_v2,
                                                 sqlite3_close,
                                                 sqlite3_prepare_v2,
                                                 sqlite3_step,
                                                 sqlite3_reset,
                                                 sqlite3_clear_bindings,
                                                 sqlite3_finalize,
                                                 sqlite3_bind_int64,
                                                 sqlite3_bind_text,
                                                 sqlite3_bind_null,
                                                 sqlite3_column_int64,
                                                 sqlite3_column_text,
                                                 sqlite3_column_bytes,
                                                 sqlite3_column_type,
                                                 sqlite3_column_count,
                                                 sqlite3_exec,
                                                 sqlite3_extended_errcode,
                                                 sqlite3_errmsg,
                                                 sqlite3_system_errno,
                                                 sqlite3_changes,
                                                 sqlite3_total_changes,
                                                 sqlite3_get_autocommit,
                                                 sqlite3_busy_handler,
                                                 sqlite3_db_filename,
                                                 sqlite3_db_readonly};

#define PGQRSI_SQLITE_OLDEST 3037000 /* STRICT tables */

/* ------------------------------------------------------------------------------------------------------------------
 * >>schema: append-only; version i + 1 is reached by running the scripts of row i
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_SQLITE_TIME(us) "strftime('%Y-%m-%dT%H:%M:%fZ', (" us ") / 1000000.0, 'unixepoch')"

/* `ord` is the place in the line of one queue and priority while a message is ready. There is one partial index per state:
 * a step moves a message from one small index to another, and no statement meets rows it does not want. */
static const char *const pgqrsi_sqlite_version_1[] = {
    "CREATE TABLE pgqrs_meta(key TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) STRICT;"
    "INSERT INTO pgqrs_meta(key, value) VALUES ('schema_version', 0), ('max_id', 0), ('max_queue_id', 0), "
    "('max_worker_id', 0);"
    "CREATE TABLE pgqrs_queues("
    "  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, lease_ms INTEGER NOT NULL, max_attempts INTEGER NOT NULL,"
    "  backoff_ms INTEGER NOT NULL, backoff_max_ms INTEGER NOT NULL, retention_ms INTEGER NOT NULL,"
    "  dead_retention_ms INTEGER NOT NULL, paused INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL,"
    "  lease_expiries INTEGER NOT NULL DEFAULT 0) STRICT;"
    /* Not state IN (...): SQLite would make a temporary table of the list for every row that is written. */
    "CREATE TABLE pgqrs_messages("
    "  id INTEGER PRIMARY KEY, queue_id INTEGER NOT NULL,"
    "  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 5)," /* ready, delayed, leased, archived, dead */
    "  priority INTEGER NOT NULL DEFAULT 0, ord INTEGER NOT NULL DEFAULT 0, due_at INTEGER NOT NULL DEFAULT 0,"
    "  lease INTEGER NOT NULL DEFAULT 0, lease_until INTEGER NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0,"
    "  worker_id INTEGER NOT NULL DEFAULT 0, enqueued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL DEFAULT 0,"
    "  finished_at INTEGER NOT NULL DEFAULT 0, dedup_key TEXT, producer TEXT, reason TEXT, payload TEXT NOT NULL) "
    "STRICT;"
    "CREATE INDEX pgqrs_messages_queue ON pgqrs_messages(queue_id);"
    "CREATE INDEX pgqrs_messages_ready ON pgqrs_messages(queue_id, priority DESC, ord) WHERE state = 1;"
    "CREATE INDEX pgqrs_messages_delayed ON pgqrs_messages(queue_id, due_at) WHERE state = 2;"
    "CREATE INDEX pgqrs_messages_leased ON pgqrs_messages(queue_id, lease_until) WHERE state = 3;"
    "CREATE INDEX pgqrs_messages_archived ON pgqrs_messages(queue_id, finished_at) WHERE state = 4;"
    "CREATE INDEX pgqrs_messages_dead ON pgqrs_messages(queue_id, finished_at) WHERE state = 5;"
    "CREATE UNIQUE INDEX pgqrs_messages_dedup ON pgqrs_messages(queue_id, dedup_key)"
    "  WHERE dedup_key IS NOT NULL AND state < 4;"
    "CREATE INDEX pgqrs_messages_expiry ON pgqrs_messages(queue_id, expires_at)"
    "  WHERE expires_at > 0 AND attempt = 0 AND state < 3;"
    "CREATE TABLE pgqrs_workers("
    "  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL, queue_id INTEGER NOT NULL DEFAULT 0,"
    "  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 5)," /* ready, polling, interrupted, suspended, stopped */
    "  reclaimed INTEGER NOT NULL DEFAULT 0, started_at INTEGER NOT NULL, heartbeat_at INTEGER NOT NULL,"
    "  stopped_at INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE INDEX pgqrs_workers_queue ON pgqrs_workers(queue_id);"
    "CREATE VIEW pgqrs_message_view AS"
    "  SELECT m.id, q.name AS queue, m.queue_id,"
    "    CASE m.code WHEN 1 THEN 'ready' WHEN 2 THEN 'delayed' WHEN 3 THEN 'leased' WHEN 4 THEN 'archived' ELSE 'dead' "
    "END"
    "      AS state, m.code AS state_code, m.priority, m.attempt, CASE WHEN m.code = 3 THEN m.lease END AS lease,"
    "    strftime('%Y-%m-%dT%H:%M:%fZ', nullif(m.due_at, 0) / 1000000.0, 'unixepoch') AS due_at,"
    "    strftime('%Y-%m-%dT%H:%M:%fZ', nullif(m.lease_until, 0) / 1000000.0, 'unixepoch') AS lease_until,"
    "    CASE WHEN m.code > 2 THEN nullif(m.worker_id, 0) END AS worker_id, w.name AS worker,"
    "    strftime('%Y-%m-%dT%H:%M:%fZ', m.enqueued_at / 1000000.0, 'unixepoch') AS enqueued_at,"
    "    strftime('%Y-%m-%dT%H:%M:%fZ', nullif(m.expires_at, 0) / 1000000.0, 'unixepoch') AS expires_at,"
    "    strftime('%Y-%m-%dT%H:%M:%fZ', nullif(m.finished_at, 0) / 1000000.0, 'unixepoch') AS finished_at,"
    "    m.dedup_key, m.producer, m.reason, m.payload"
    "  FROM (SELECT *, CASE WHEN state = 2 AND due_at <= c.now_us OR state = 3 AND lease_until <= c.now_us THEN 1"
    "      ELSE state END AS code FROM pgqrs_messages"
    "    CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER) AS now_us) c) m"
    "  JOIN pgqrs_queues q ON q.id = m.queue_id"
    "  LEFT JOIN pgqrs_workers w ON m.code > 2 AND w.id = m.worker_id;",
    NULL};

/* A run has the id of its message, and what that tells is not stored twice. */
static const char *const pgqrsi_sqlite_version_2[] =
    {
        "INSERT INTO pgqrs_meta(key, value) VALUES ('max_workflow_id', 0);"
        "CREATE TABLE pgqrs_workflows("
        "  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, queue_id INTEGER NOT NULL,"
        "  made_queue INTEGER NOT NULL DEFAULT 0, max_retries INTEGER NOT NULL, backoff INTEGER NOT NULL,"
        "  base_ms INTEGER NOT NULL, cap_ms INTEGER NOT NULL, jitter_percent INTEGER NOT NULL,"
        "  timeout_ms INTEGER NOT NULL, step_timeout_ms INTEGER NOT NULL, retention_ms INTEGER NOT NULL,"
        "  failed_retention_ms INTEGER NOT NULL, created_at INTEGER NOT NULL) STRICT;"
        "CREATE INDEX pgqrs_workflows_queue ON pgqrs_workflows(queue_id);"
        "CREATE TABLE pgqrs_runs("
        "  id INTEGER PRIMARY KEY, workflow_id INTEGER NOT NULL,"
        "  state INTEGER NOT NULL DEFAULT 0 CHECK (state = 0 OR state BETWEEN 5 AND 7)," /* open, cancelled, success, error */
        "  wait INTEGER NOT NULL DEFAULT 0, wait_until INTEGER NOT NULL DEFAULT 0, retries INTEGER NOT NULL DEFAULT 0,"
        "  triggered_at INTEGER NOT NULL, started_at INTEGER NOT NULL DEFAULT 0, finished_at INTEGER NOT NULL DEFAULT "
        "0,"
        "  deadline_at INTEGER NOT NULL DEFAULT 0, cancel_requested_at INTEGER NOT NULL DEFAULT 0,"
        "  forked_from INTEGER NOT NULL DEFAULT 0, idempotency_key TEXT, wait_name TEXT, cancelled_by TEXT,"
        "  cancel_reason TEXT, error_code TEXT, error_message TEXT, error_step TEXT, output TEXT) STRICT;"
        "CREATE INDEX pgqrs_runs_workflow ON pgqrs_runs(workflow_id);" /* and by id, as every index of SQLite */
        "CREATE UNIQUE INDEX pgqrs_runs_key ON pgqrs_runs(workflow_id, idempotency_key) WHERE idempotency_key IS NOT "
        "NULL;"
        "CREATE INDEX pgqrs_runs_ended ON pgqrs_runs(workflow_id, state, finished_at) WHERE state <> 0;"
        "CREATE TABLE pgqrs_steps("
        "  run_id INTEGER NOT NULL, number INTEGER NOT NULL,"
        "  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 3),"   /* body, sleep, event */
        "  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4)," /* done, retrying, waiting, failed */
        "  retries INTEGER NOT NULL, started_at INTEGER NOT NULL, finished_at INTEGER NOT NULL, due_at INTEGER NOT "
        "NULL,"
        "  name TEXT NOT NULL, key TEXT, error_code TEXT, error_message TEXT, input TEXT, output TEXT,"
        "  PRIMARY KEY (run_id, number)) STRICT, WITHOUT ROWID;"
        "CREATE TABLE pgqrs_run_events("
        "  run_id INTEGER NOT NULL, name TEXT NOT NULL, sent_at INTEGER NOT NULL, payload TEXT NOT NULL,"
        "  PRIMARY KEY (run_id, name)) STRICT, WITHOUT ROWID;"
        "CREATE TABLE pgqrs_run_values("
        "  run_id INTEGER NOT NULL, name TEXT NOT NULL, set_at INTEGER NOT NULL, value TEXT NOT NULL,"
        "  PRIMARY KEY (run_id, name)) STRICT, WITHOUT ROWID;",
        /* clang-format off */
    "CREATE VIEW pgqrs_run_view AS"
    "  SELECT r.id, w.name AS workflow, q.name AS queue,"
    "    CASE r.code WHEN 1 THEN 'queued' WHEN 2 THEN 'running' WHEN 3 THEN 'paused' WHEN 4 THEN 'cancelling'"
    "      WHEN 5 THEN 'cancelled' WHEN 6 THEN 'success' ELSE 'error' END AS state,"
    "    CASE CASE WHEN r.code = 3 THEN r.wait END WHEN 1 THEN 'retry' WHEN 2 THEN 'pause' WHEN 3 THEN 'sleep'"
    "      WHEN 4 THEN 'event' ELSE 'none' END AS wait,"
    "    CASE WHEN r.code = 3 THEN r.wait_name END AS wait_name,"
    "    " PGQRSI_SQLITE_TIME("CASE WHEN r.code = 3 THEN nullif(r.wait_until, 0) END") " AS wait_until,"
    "    coalesce(r.attempt, 0) AS attempt, r.retries,"
    "    CASE WHEN r.code = 7 AND r.state = 0 THEN 'DEAD' ELSE r.error_code END AS error_code,"
    "    CASE WHEN r.code = 7 AND r.state = 0 THEN r.reason ELSE r.error_message END AS error_message, r.error_step,"
    "    CASE WHEN r.held THEN nullif(r.message_worker_id, 0) END AS worker_id, k.name AS worker,"
    "    " PGQRSI_SQLITE_TIME("CASE WHEN r.held THEN r.message_lease_until END") " AS lease_until,"
    "    " PGQRSI_SQLITE_TIME("r.triggered_at") " AS triggered_at,"
    "    " PGQRSI_SQLITE_TIME("nullif(r.started_at, 0)") " AS started_at,"
    "    " PGQRSI_SQLITE_TIME("nullif(CASE WHEN r.code = 7 AND r.state = 0 THEN r.message_finished_at"
                              " ELSE r.finished_at END, 0)") " AS finished_at,"
    "    " PGQRSI_SQLITE_TIME("nullif(r.deadline_at, 0)") " AS deadline_at,"
    "    " PGQRSI_SQLITE_TIME("nullif(r.cancel_requested_at, 0)") " AS cancel_requested_at,"
    "    r.cancelled_by, r.cancel_reason, r.idempotency_key, nullif(r.forked_from, 0) AS forked_from, r.input, r.output"
    "  FROM (SELECT r.*, m.attempt, m.reason, m.payload AS input, m.worker_id AS message_worker_id,"
    "      m.lease_until AS message_lease_until, m.finished_at AS message_finished_at,"
    "      r.state = 0 AND m.state = 3 AND m.lease_until > c.now_us AS held,"
    "      CASE WHEN r.state <> 0 THEN r.state WHEN m.id IS NULL OR m.state > 3 THEN 7"
    "        WHEN r.cancel_requested_at <> 0 THEN 4 WHEN m.state = 3 AND m.lease_until > c.now_us THEN 2"
    "        WHEN r.wait <> 0 AND m.state = 2 AND m.due_at > c.now_us THEN 3 ELSE 1 END AS code"
    "    FROM pgqrs_runs r LEFT JOIN pgqrs_messages m ON m.id = r.id"
    "    CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER) AS now_us) c) r"
    "  JOIN pgqrs_workflows w ON w.id = r.workflow_id"
    "  LEFT JOIN pgqrs_queues q ON q.id = w.queue_id"
    "  LEFT JOIN pgqrs_workers k ON r.held AND k.id = r.message_worker_id;",
    "CREATE VIEW pgqrs_step_view AS"
    "  SELECT run_id, number, CASE kind WHEN 1 THEN 'step' WHEN 2 THEN 'sleep' ELSE 'event' END AS kind,"
    "    CASE state WHEN 1 THEN 'done' WHEN 2 THEN 'retrying' WHEN 3 THEN 'waiting' ELSE 'failed' END AS state,"
    "    name, key, input, output, error_code, error_message, retries,"
    "    " PGQRSI_SQLITE_TIME("nullif(started_at, 0)") " AS started_at,"
    "    " PGQRSI_SQLITE_TIME("nullif(finished_at, 0)") " AS finished_at,"
    "    " PGQRSI_SQLITE_TIME("nullif(due_at, 0)") " AS due_at"
    "  FROM pgqrs_steps;",
        /* clang-format on */
        NULL};

static const char *const *const pgqrsi_sqlite_migrations[] = {pgqrsi_sqlite_version_1, pgqrsi_sqlite_version_2};

#define PGQRSI_SQLITE_MIGRATIONS ((int32_t)(sizeof(pgqrsi_sqlite_migrations) / sizeof(pgqrsi_sqlite_migrations[0])))

/* ------------------------------------------------------------------------------------------------------------------
 * >>statements: prepared on first use, kept as long as the connection
 * --------------------------------------------------------------------------------------------------------------- */

/* What the stored states mean at ?1, the present. Every count and list is made of these. */
#define PGQRSI_SQLITE_IN_LINE "state = 1"
#define PGQRSI_SQLITE_DUE "state = 2 AND due_at <= ?1"
#define PGQRSI_SQLITE_WAITING "state = 2 AND due_at > ?1"
#define PGQRSI_SQLITE_RUN_OUT "state = 3 AND lease_until <= ?1"
#define PGQRSI_SQLITE_HELD "state = 3 AND lease_until > ?1"
/* Workers whose last heartbeat was before that, or before this when they hold nothing. */
#define PGQRSI_SQLITE_STALE(before, quiet_before)                                                                      \
    "state <> 5 AND heartbeat_at < " before " AND (heartbeat_at < " quiet_before                                       \
    " OR id IN (SELECT worker_id FROM pgqrs_messages WHERE state = 3))"
#define PGQRSI_SQLITE_ARCHIVED "state = 4"
#define PGQRSI_SQLITE_DEAD "state = 5"

#define PGQRSI_SQLITE_QUEUE_COLUMNS                                                                                    \
    "id, name, lease_ms, max_attempts, backoff_ms, backoff_max_ms, retention_ms, dead_retention_ms, paused, "          \
    "created_at"
#define PGQRSI_SQLITE_WORKER_COLUMNS "id, epoch, state, heartbeat_at, queue_id"

#define PGQRSI_SQLITE_METRIC(kind, condition)                                                                          \
    "SELECT " kind ", count(*), min(enqueued_at) FROM pgqrs_messages WHERE queue_id = ?2 AND " condition

/* What a purge removes, by the time that counts for it. */
#define PGQRSI_SQLITE_OLD(state, time) "pgqrs_messages WHERE queue_id = ?1 AND state = " state " AND " time " < ?2"

#define PGQRSI_SQLITE_STATEMENTS(X)                                                                                                                     \
    X(BEGIN_READ, "BEGIN")                                                                                                                              \
    X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                                                                                   \
    X(COMMIT, "COMMIT")                                                                                                                                 \
    X(ROLLBACK, "ROLLBACK")                                                                                                                             \
    X(SAVE, "SAVEPOINT pgqrs_call")                                                                                                                     \
    X(SAVE_KEEP, "RELEASE pgqrs_call")                                                                                                                  \
    X(SAVE_UNDO, "ROLLBACK TO pgqrs_call")                                                                                                              \
    X(META_GET, "SELECT value FROM pgqrs_meta WHERE key = ?1")                                                                                          \
    X(META_SET, "UPDATE pgqrs_meta SET value = ?2 WHERE key = ?1")                                                                                      \
    X(TABLE_EXISTS, "SELECT 1 FROM sqlite_master WHERE type = ?1 AND name = ?2")                                                                        \
    /* ids are not used twice: deletes write down the largest before it goes */                                                                         \
    X(MAX_ID, "SELECT max(coalesce((SELECT max(id) FROM pgqrs_messages), 0),"                                                                           \
              " (SELECT value FROM pgqrs_meta WHERE key = 'max_id'))")                                                                                  \
    X(KEEP_ID, "UPDATE pgqrs_meta SET value = ?1 WHERE key = 'max_id' AND value < ?1"                                                                   \
               " AND ?1 >= (SELECT max(id) FROM pgqrs_messages)")                                                                                       \
    X(KEEP_MAX_ID, "UPDATE pgqrs_meta SET value = (SELECT max(id) FROM pgqrs_messages)"                                                                 \
                   " WHERE key = 'max_id' AND value < (SELECT max(id) FROM pgqrs_messages)")                                                            \
    /* queues */                                                                                                                                        \
    X(QUEUE_BY_NAME, "SELECT id, lease_ms, max_attempts, paused FROM pgqrs_queues WHERE name = ?1")                                                     \
    X(QUEUE_PEEK, "SELECT q.id, q.paused,"                                                                                                              \
                  " EXISTS (SELECT 1 FROM pgqrs_messages WHERE queue_id = q.id AND state = 1),"                                                         \
                  " (SELECT min(due_at) FROM pgqrs_messages WHERE queue_id = q.id AND state = 2),"                                                      \
                  " (SELECT min(lease_until) FROM pgqrs_messages WHERE queue_id = q.id AND state = 3)"                                                  \
                  " FROM pgqrs_queues q WHERE q.name = ?1")                                                                                             \
    X(QUEUE_INSERT, "INSERT INTO pgqrs_queues(id, name, lease_ms, max_attempts, backoff_ms, backoff_max_ms,"                                            \
                    " retention_ms, dead_retention_ms, paused, created_at)"                                                                             \
                    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")                                                                                \
    X(QUEUE_CHANGE, "UPDATE pgqrs_queues SET"                                                                                                           \
                    " lease_ms = CASE ?2 WHEN 0 THEN lease_ms ELSE ?2 END,"                                                                             \
                    " max_attempts = CASE ?3 WHEN 0 THEN max_attempts ELSE ?3 END,"                                                                     \
                    " backoff_ms = CASE ?4 WHEN 0 THEN backoff_ms ELSE ?4 END,"                                                                         \
                    " backoff_max_ms = CASE ?5 WHEN 0 THEN backoff_max_ms ELSE ?5 END,"                                                                 \
                    " retention_ms = CASE ?6 WHEN 0 THEN retention_ms WHEN -1 THEN 0 ELSE ?6 END,"                                                      \
                    " dead_retention_ms = CASE ?7 WHEN 0 THEN dead_retention_ms WHEN -1 THEN 0 ELSE ?7 END,"                                            \
                    " paused = CASE ?8 WHEN 0 THEN paused WHEN 1 THEN 1 ELSE 0 END WHERE name = ?1")                                                    \
    X(QUEUE_LIST, "SELECT " PGQRSI_SQLITE_QUEUE_COLUMNS " FROM pgqrs_queues WHERE id > ?1 ORDER BY id LIMIT ?2")                                        \
    X(QUEUE_GET, "SELECT " PGQRSI_SQLITE_QUEUE_COLUMNS " FROM pgqrs_queues WHERE name = ?1")                                                            \
    X(QUEUE_EXPIRIES, "UPDATE pgqrs_queues SET lease_expiries = lease_expiries + ?2 WHERE id = ?1")                                                     \
    X(QUEUE_MESSAGES, "SELECT count(*) FROM pgqrs_messages WHERE queue_id = ?1")                                                                        \
    X(QUEUE_WORKERS, "SELECT count(*) FROM pgqrs_workers WHERE queue_id = ?1 AND state <> 5")                                                           \
    X(QUEUE_DROP_MESSAGES, "DELETE FROM pgqrs_messages WHERE queue_id = ?1")                                                                            \
    X(QUEUE_DROP_WORKERS, "DELETE FROM pgqrs_workers WHERE queue_id = ?1")                                                                              \
    X(QUEUE_DROP, "DELETE FROM pgqrs_queues WHERE id = ?1")                                                                                             \
    X(PURGE_ARCHIVED, "DELETE FROM " PGQRSI_SQLITE_OLD("4", "finished_at"))                                                                             \
    X(PURGE_DEAD, "DELETE FROM " PGQRSI_SQLITE_OLD("5", "finished_at"))                                                                                 \
    X(PURGE_READY, "DELETE FROM " PGQRSI_SQLITE_OLD("1", "enqueued_at"))                                                                                \
    X(PURGE_DELAYED, "DELETE FROM " PGQRSI_SQLITE_OLD("2", "enqueued_at"))                                                                              \
    X(PURGE_LEASED, "DELETE FROM " PGQRSI_SQLITE_OLD("3", "enqueued_at"))                                                                               \
    /* enqueue */                                                                                                                                       \
    X(TAIL, "SELECT ord FROM pgqrs_messages WHERE queue_id = ?1 AND state = 1 AND priority = ?2"                                                        \
            " ORDER BY ord DESC LIMIT 1")                                                                                                               \
    X(DEDUP, "SELECT id, attempt, expires_at, state FROM pgqrs_messages"                                                                                \
             " WHERE queue_id = ?1 AND dedup_key = ?2 AND state < 4")                                                                                   \
    X(INSERT, "INSERT INTO pgqrs_messages(id, queue_id, state, priority, ord, due_at, enqueued_at, expires_at,"                                         \
              " dedup_key, producer, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")                                                   \
    /* settle: the lease must be the message's own and must not have run out */                                                                         \
    X(ARCHIVE, "UPDATE pgqrs_messages SET state = 4, finished_at = ?3, lease = 0, lease_until = 0, reason = NULL"                                       \
               " WHERE id = ?1 AND lease = ?2 AND state = 3 AND lease_until > ?3")                                                                      \
    X(DELETE, "DELETE FROM pgqrs_messages WHERE id = ?1 AND lease = ?2 AND state = 3 AND lease_until > ?3")                                             \
    X(LEASED, "SELECT m.id, m.priority, m.attempt, m.queue_id, q.max_attempts, m.lease_until, q.lease_ms"                                               \
              " FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id"                                                                         \
              " WHERE m.id = ?1 AND m.lease = ?2 AND m.state = 3 AND m.lease_until > ?3")                                                               \
    X(RETURN, "UPDATE pgqrs_messages SET state = ?2, ord = ?3, due_at = ?4, attempt = ?5,"                                                              \
              " lease = 0, lease_until = 0, worker_id = 0, reason = CASE ?6 WHEN 1 THEN ?7 ELSE reason END"                                             \
              " WHERE id = ?1")                                                                                                                         \
    X(BURY, "UPDATE pgqrs_messages SET state = 5, finished_at = ?2, lease = 0, lease_until = 0, reason = ?3"                                            \
            " WHERE id = ?1")                                                                                                                           \
    X(EXPIRE, "UPDATE pgqrs_messages SET state = 4, finished_at = ?2, due_at = 0, reason = 'expired' WHERE id = ?1")                                    \
    /* claim */                                                                                                                                         \
    X(FIND_DUE, "SELECT id, priority FROM pgqrs_messages WHERE queue_id = ?2 AND " PGQRSI_SQLITE_DUE                                                    \
                " ORDER BY due_at, id LIMIT ?3")                                                                                                        \
    X(PROMOTE, "UPDATE pgqrs_messages SET state = 1, ord = ?2, due_at = 0 WHERE id = ?1")                                                               \
    X(FIND_RUN_OUT, "SELECT id, priority, attempt FROM pgqrs_messages WHERE queue_id = ?2 AND " PGQRSI_SQLITE_RUN_OUT                                   \
                    " ORDER BY lease_until, id LIMIT ?3")                                                                                               \
    X(FIND_EXPIRED, "SELECT id FROM pgqrs_messages WHERE queue_id = ?2 AND attempt = 0 AND state < 3"                                                   \
                    " AND expires_at > 0 AND expires_at <= ?1 LIMIT ?3")                                                                                \
    X(HEAD, "SELECT id, attempt, priority, enqueued_at, expires_at, payload FROM pgqrs_messages"                                                        \
            " WHERE queue_id = ?1 AND state = 1 ORDER BY priority DESC, ord LIMIT ?2")                                                                  \
    X(LEASE, "UPDATE pgqrs_messages SET state = 3, lease = ?2, lease_until = ?3, attempt = ?4, worker_id = ?5"                                          \
             " WHERE id = ?1")                                                                                                                          \
    X(EXTEND, "UPDATE pgqrs_messages SET lease_until = ?4"                                                                                              \
              " WHERE queue_id = ?1 AND state = 3 AND lease_until = ?2 AND lease = ?3")                                                                 \
    /* messages by id */                                                                                                                                \
    X(MESSAGE_STATE, "SELECT state, lease_until, attempt, queue_id, priority, dedup_key FROM pgqrs_messages"                                            \
                     " WHERE id = ?1")                                                                                                                  \
    X(MESSAGE_DROP, "DELETE FROM pgqrs_messages WHERE id = ?1")                                                                                         \
    X(MESSAGE_PAYLOAD, "UPDATE pgqrs_messages SET payload = ?2 WHERE id = ?1")                                                                          \
    X(MESSAGE_REPLAY, "UPDATE pgqrs_messages SET state = 1, ord = ?2, attempt = 0, worker_id = 0, finished_at = 0,"                                     \
                      " expires_at = 0, due_at = 0, reason = NULL WHERE id = ?1")                                                                       \
    /* workers */                                                                                                                                       \
    X(WORKER_BY_NAME, "SELECT " PGQRSI_SQLITE_WORKER_COLUMNS " FROM pgqrs_workers WHERE name = ?1")                                                     \
    X(WORKER_BY_ID, "SELECT " PGQRSI_SQLITE_WORKER_COLUMNS " FROM pgqrs_workers WHERE id = ?1")                                                         \
    X(WORKER_INSERT, "INSERT INTO pgqrs_workers(id, name, epoch, queue_id, state, started_at, heartbeat_at)"                                            \
                     " VALUES (?1, ?2, ?3, ?4, 1, ?5, ?5)")                                                                                             \
    X(WORKER_REUSE, "UPDATE pgqrs_workers SET epoch = ?2, queue_id = ?3, state = 1, reclaimed = 0, started_at = ?4,"                                    \
                    " heartbeat_at = ?4, stopped_at = 0 WHERE id = ?1")                                                                                 \
    X(WORKER_BEAT, "UPDATE pgqrs_workers SET heartbeat_at = ?3 WHERE id = ?1 AND epoch = ?2 AND state <> 5")                                            \
    X(WORKER_MOVE, "UPDATE pgqrs_workers SET state = ?2, heartbeat_at = CASE ?3 WHEN 0 THEN heartbeat_at ELSE ?3 END,"                                  \
                   " stopped_at = ?4 WHERE id = ?1")                                                                                                    \
    X(WORKER_RECLAIM, "UPDATE pgqrs_workers SET state = 5, reclaimed = 1, stopped_at = ?2 WHERE id = ?1")                                               \
    X(WORKER_HELD, "SELECT count(*) FROM pgqrs_messages WHERE worker_id = ?2 AND " PGQRSI_SQLITE_HELD)                                                  \
    X(WORKER_MESSAGES, "SELECT m.id, m.priority, m.attempt, m.queue_id, q.max_attempts"                                                                 \
                       " FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id WHERE m.id IN"                                                  \
                       " (SELECT id FROM pgqrs_messages WHERE state = 3 AND worker_id = ?1) ORDER BY m.id")                                             \
    X(WORKER_DROP, "DELETE FROM pgqrs_workers WHERE id = ?1")                                                                                           \
    X(WORKER_ZOMBIES, "SELECT id FROM pgqrs_workers WHERE " PGQRSI_SQLITE_STALE(                                                                        \
                          "?1", "?3") " AND (?2 = 0 OR queue_id = ?2) ORDER BY id")                                                                     \
    X(WORKER_PURGE, "DELETE FROM pgqrs_workers WHERE state = 5 AND stopped_at < ?1")                                                                    \
    X(WORKER_STATS,                                                                                                                                     \
      "SELECT count(*), coalesce(sum(state = 1), 0), coalesce(sum(state = 2), 0),"                                                                      \
      " coalesce(sum(state = 3), 0), coalesce(sum(state = 4), 0), coalesce(sum(state = 5), 0),"                                                         \
      " coalesce(sum(" PGQRSI_SQLITE_STALE(                                                                                                             \
          "?3", "?4") "), 0),"                                                                                                                          \
                      " coalesce(min(CASE WHEN state <> 5 THEN started_at END), 0), coalesce(max(heartbeat_at), 0)"                                     \
                      " FROM pgqrs_workers WHERE ?2 = 0 OR queue_id = ?2")                                                                              \
    X(WORKERS_HELD, "SELECT count(*) FROM pgqrs_messages WHERE " PGQRSI_SQLITE_HELD " AND worker_id IN"                                                 \
                    " (SELECT id FROM pgqrs_workers WHERE ?2 = 0 OR queue_id = ?2)")                                                                    \
    /* numbers */                                                                                                                                       \
    X(                                                                                                                                                  \
        METRICS,                                                                                                                                        \
        PGQRSI_SQLITE_METRIC("1", PGQRSI_SQLITE_IN_LINE) " UNION ALL " PGQRSI_SQLITE_METRIC("1", PGQRSI_SQLITE_DUE) " UNION ALL " PGQRSI_SQLITE_METRIC( \
            "2",                                                                                                                                        \
            PGQRSI_SQLITE_WAITING) " UNION ALL " PGQRSI_SQLITE_METRIC("1",                                                                              \
                                                                      PGQRSI_SQLITE_RUN_OUT) " UNION "                                                  \
                                                                                             "ALL"                                                      \
                                                                                             " " PGQRSI_SQLITE_METRIC(                                  \
                                                                                                 "3",                                                   \
                                                                                                 PGQRSI_SQLITE_HELD))                                   \
    X(METRICS_ARCHIVED, "SELECT count(*) FROM pgqrs_messages WHERE queue_id = ?1 AND " PGQRSI_SQLITE_ARCHIVED)                                          \
    X(METRICS_DEAD, "SELECT count(*) FROM pgqrs_messages WHERE queue_id = ?1 AND " PGQRSI_SQLITE_DEAD)                                                  \
    X(METRICS_NEWEST, "SELECT enqueued_at FROM pgqrs_messages WHERE queue_id = ?1 ORDER BY id DESC LIMIT 1")                                            \
    X(METRICS_QUEUES, "SELECT id, name, paused, lease_expiries FROM pgqrs_queues"                                                                       \
                      " WHERE ?1 IS NULL OR name = ?1 ORDER BY id")                                                                                     \
    X(QUEUE_COUNT, "SELECT count(*) FROM pgqrs_queues")                                                                                                 \
    /* housekeeping: which queues need any */                                                                                                           \
    X(NEEDY, "SELECT id, max_attempts, retention_ms, dead_retention_ms FROM pgqrs_queues q WHERE id > ?2 AND ("                                         \
             " EXISTS (SELECT 1 FROM pgqrs_messages WHERE queue_id = q.id AND " PGQRSI_SQLITE_DUE ")"                                                   \
             " OR EXISTS (SELECT 1 FROM pgqrs_messages WHERE queue_id = q.id AND " PGQRSI_SQLITE_RUN_OUT ")"                                            \
             " OR EXISTS (SELECT 1 FROM pgqrs_messages WHERE queue_id = q.id AND attempt = 0 AND state < 3"                                             \
             "   AND expires_at > 0 AND expires_at <= ?1)"                                                                                              \
             " OR retention_ms > 0 AND EXISTS (SELECT 1 FROM pgqrs_messages WHERE queue_id = q.id AND state = 4"                                        \
             "   AND finished_at < ?1 - 1000 * q.retention_ms)"                                                                                         \
             " OR dead_retention_ms > 0 AND EXISTS (SELECT 1 FROM pgqrs_messages WHERE queue_id = q.id AND state = 5"                                   \
             "   AND finished_at < ?1 - 1000 * q.dead_retention_ms) ) ORDER BY id LIMIT 1")                                                             \
    X(OLD_ARCHIVED, "SELECT id FROM pgqrs_messages WHERE queue_id = ?2 AND state = 4 AND finished_at < ?1"                                              \
                    " ORDER BY finished_at LIMIT ?3")                                                                                                   \
    X(OLD_DEAD, "SELECT id FROM pgqrs_messages WHERE queue_id = ?2 AND state = 5 AND finished_at < ?1"                                                  \
                " ORDER BY finished_at LIMIT ?3")

/* The same for workflows and runs. */
#define PGQRSI_SQLITE_WORKFLOW_COLUMNS                                                                                 \
    "w.id, w.name, (SELECT name FROM pgqrs_queues WHERE id = w.queue_id), w.max_retries, w.backoff, w.base_ms, "       \
    "w.cap_ms,"                                                                                                        \
    " w.jitter_percent, w.timeout_ms, w.step_timeout_ms, w.retention_ms, w.failed_retention_ms, w.created_at"

/* The failed runs among the open ones: their message is a dead letter. */
#define PGQRSI_SQLITE_DEAD_RUNS                                                                                        \
    "pgqrs_messages m CROSS JOIN pgqrs_runs r ON r.id = m.id WHERE m.queue_id = ?2 AND m.state = 5"                    \
    " AND m.finished_at < ?3 AND r.workflow_id = ?1 AND r.state = 0"

#define PGQRSI_SQLITE_RUN_STATEMENTS(X)                                                                                \
    X(WORKFLOW_FIND, "SELECT id, queue_id, timeout_ms, made_queue FROM pgqrs_workflows WHERE name = ?1")               \
    X(WORKFLOW_GET, "SELECT " PGQRSI_SQLITE_WORKFLOW_COLUMNS " FROM pgqrs_workflows w WHERE w.name = ?1")              \
    X(WORKFLOW_LIST, "SELECT " PGQRSI_SQLITE_WORKFLOW_COLUMNS " FROM pgqrs_workflows w WHERE w.id > ?1"                \
                     " ORDER BY w.id LIMIT ?2")                                                                        \
    X(WORKFLOW_INSERT, "INSERT INTO pgqrs_workflows(id, queue_id, made_queue, max_retries, backoff, base_ms, cap_ms,"  \
                       " jitter_percent, timeout_ms, step_timeout_ms, retention_ms, failed_retention_ms, created_at,"  \
                       " name) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)")                  \
    X(WORKFLOW_CHANGE, "UPDATE pgqrs_workflows SET"                                                                    \
                       " max_retries = CASE ?2 WHEN 0 THEN max_retries ELSE ?2 END,"                                   \
                       " backoff = CASE ?3 WHEN 0 THEN backoff ELSE ?3 END,"                                           \
                       " base_ms = CASE ?4 WHEN 0 THEN base_ms ELSE ?4 END,"                                           \
                       " cap_ms = CASE ?5 WHEN 0 THEN cap_ms ELSE ?5 END,"                                             \
                       " jitter_percent = CASE ?6 WHEN 0 THEN jitter_percent ELSE ?6 END,"                             \
                       " timeout_ms = CASE ?7 WHEN 0 THEN timeout_ms WHEN -1 THEN 0 ELSE ?7 END,"                      \
                       " step_timeout_ms = CASE ?8 WHEN 0 THEN step_timeout_ms WHEN -1 THEN 0 ELSE ?8 END,"            \
                       " retention_ms = CASE ?9 WHEN 0 THEN retention_ms WHEN -1 THEN 0 ELSE ?9 END,"                  \
                       " failed_retention_ms = CASE ?10 WHEN 0 THEN failed_retention_ms WHEN -1 THEN 0 ELSE ?10 END"   \
                       " WHERE name = ?1")                                                                             \
    X(WORKFLOW_DROP, "DELETE FROM pgqrs_workflows WHERE id = ?1")                                                      \
    X(WORKFLOW_RUNS, "SELECT count(*) FROM (SELECT 1 FROM pgqrs_runs WHERE workflow_id = ?1 LIMIT 1)")                 \
    X(WORKFLOWS_USING, "SELECT count(*) FROM pgqrs_workflows WHERE queue_id = ?1")                                     \
    X(WORKFLOW_USING, "SELECT name FROM pgqrs_workflows WHERE queue_id = ?1 ORDER BY id LIMIT 1")                      \
    X(WORKFLOW_ANY, "SELECT 1 FROM pgqrs_workflows LIMIT 1")                                                           \
    X(WORKFLOW_DROP_USING, "DELETE FROM pgqrs_workflows WHERE queue_id = ?1")                                          \
    /* runs */                                                                                                         \
    X(RUN_BY_KEY, "SELECT id FROM pgqrs_runs WHERE workflow_id = ?1 AND idempotency_key = ?2")                         \
    X(RUN_INSERT, "INSERT INTO pgqrs_runs(id, workflow_id, triggered_at, deadline_at, forked_from, idempotency_key)"   \
                  " VALUES (?1, ?2, ?3, ?4, ?5, ?6)")                                                                  \
    X(RUN_LOOK, "SELECT r.state, coalesce(m.state, 0), coalesce(m.lease_until, 0), r.cancel_requested_at, r.wait,"     \
                " coalesce(m.due_at, 0), coalesce(m.priority, 0), w.queue_id, w.id, w.timeout_ms,"                     \
                " r.wait = 4 AND r.wait_name IS ?2"                                                                    \
                " FROM pgqrs_runs r JOIN pgqrs_workflows w ON w.id = r.workflow_id"                                    \
                " LEFT JOIN pgqrs_messages m ON m.id = r.id WHERE r.id = ?1")                                          \
    X(RUN_THERE, "SELECT id FROM pgqrs_runs WHERE id = ?1")                                                            \
    X(RUN_LOAD, "SELECT " PGQRSI_SQLITE_WORKFLOW_COLUMNS ", r.state, r.cancel_requested_at, r.retries, r.started_at,"  \
                " r.deadline_at FROM pgqrs_runs r JOIN pgqrs_workflows w ON w.id = r.workflow_id WHERE r.id = ?1")     \
    X(RUN_STEPS, "SELECT number, kind, state, retries, started_at, finished_at, due_at, name, key, error_code,"        \
                 " error_message, input, output FROM pgqrs_steps WHERE run_id = ?1 ORDER BY number")                   \
    X(RUN_EVENTS, "SELECT name, payload, sent_at FROM pgqrs_run_events WHERE run_id = ?1 ORDER BY name")               \
    X(RUN_VALUES, "SELECT name, value, set_at FROM pgqrs_run_values WHERE run_id = ?1 ORDER BY name")                  \
    /* what a worker stores, while the lease is its own and not over */                                                \
    X(RUN_FENCE, "SELECT m.queue_id, m.lease_until, r.cancel_requested_at, r.started_at"                               \
                 " FROM pgqrs_runs r JOIN pgqrs_messages m ON m.id = r.id"                                             \
                 " WHERE r.id = ?1 AND r.state = 0 AND m.lease = ?2 AND m.state = 3 AND m.lease_until > ?3")           \
    X(STEP_PUT, "INSERT OR REPLACE INTO pgqrs_steps(run_id, number, kind, state, retries, started_at, finished_at,"    \
                " due_at, name, key, error_code, error_message, input, output)"                                        \
                " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)")                               \
    X(VALUE_PUT, "INSERT OR REPLACE INTO pgqrs_run_values(run_id, set_at, name, value) VALUES (?1, ?2, ?3, ?4)")       \
    X(VALUE_DROP, "DELETE FROM pgqrs_run_values WHERE run_id = ?1 AND name = ?2")                                      \
    X(RUN_STARTED, "UPDATE pgqrs_runs SET started_at = ?2 WHERE id = ?1")                                              \
    X(RUN_GO_ON, "UPDATE pgqrs_runs SET retries = ?2, wait = ?3, wait_until = ?4,"                                     \
                 " started_at = CASE started_at WHEN 0 THEN ?5 ELSE started_at END, wait_name = ?6 WHERE id = ?1")     \
    X(RUN_END, "UPDATE pgqrs_runs SET state = ?2, finished_at = ?3,"                                                   \
               " started_at = CASE started_at WHEN 0 THEN ?4 ELSE started_at END, wait = 0, wait_until = 0,"           \
               " wait_name = NULL, error_code = ?5, error_message = ?6, error_step = ?7, output = ?8 WHERE id = ?1")   \
    X(EVENT_HERE, "SELECT 1 FROM pgqrs_runs r JOIN pgqrs_run_events e ON e.run_id = r.id AND e.name = r.wait_name"     \
                  " WHERE r.id = ?1 AND r.wait = 4")                                                                   \
    /* control */                                                                                                      \
    X(RUN_ASK_CANCEL, "UPDATE pgqrs_runs SET cancel_requested_at = ?2, cancelled_by = ?3, cancel_reason = ?4"          \
                      " WHERE id = ?1 AND cancel_requested_at = 0")                                                    \
    X(RUN_ARCHIVE, "UPDATE pgqrs_messages SET state = 4, finished_at = ?2, due_at = 0, lease = 0, lease_until = 0,"    \
                   " reason = 'cancelled' WHERE id = ?1")                                                              \
    /* not one that nobody will look at: the wait for it is over */                                                    \
    X(EVENT_PUT, "INSERT OR IGNORE INTO pgqrs_run_events(run_id, sent_at, name, payload) SELECT ?1, ?2, ?3, ?4"        \
                 " WHERE NOT EXISTS (SELECT 1 FROM pgqrs_steps WHERE run_id = ?1 AND kind = 3 AND state = 1"           \
                 " AND name = ?3)")                                                                                    \
    X(RUN_RESTART, "UPDATE pgqrs_runs SET state = 0, wait = 0, wait_until = 0, retries = 0, finished_at = 0,"          \
                   " deadline_at = ?2, cancel_requested_at = 0, wait_name = NULL, cancelled_by = NULL,"                \
                   " cancel_reason = NULL, error_code = NULL, error_message = NULL, error_step = NULL, output = NULL"  \
                   " WHERE id = ?1")                                                                                   \
    X(STEPS_FORGET, "DELETE FROM pgqrs_steps WHERE run_id = ?1 AND state <> 1")                                        \
    X(RUN_REPLAY, "UPDATE pgqrs_messages SET state = 1, ord = ?2, attempt = 0, lease = 0, lease_until = 0,"            \
                  " worker_id = 0, finished_at = 0, expires_at = 0, due_at = 0, reason = NULL WHERE id = ?1")          \
    X(FORK_MESSAGE, "INSERT INTO pgqrs_messages(id, queue_id, state, priority, ord, enqueued_at, payload)"             \
                    " VALUES (?1, ?2, 1, ?3, ?4, ?5,"                                                                  \
                    " coalesce(?7, (SELECT payload FROM pgqrs_messages WHERE id = ?6)))")                              \
    X(FORK_STEPS, "INSERT INTO pgqrs_steps(run_id, number, kind, state, retries, started_at, finished_at, due_at,"     \
                  " name, key, error_code, error_message, input, output) SELECT ?2, number, kind, state, retries,"     \
                  " started_at, finished_at, due_at, name, key, error_code, error_message, input, output"              \
                  " FROM pgqrs_steps WHERE run_id = ?1 AND number < ?3 AND state = 1")                                 \
    /* import */                                                                                                       \
    X(IMPORT_MESSAGE, "INSERT INTO pgqrs_messages(id, queue_id, state, priority, ord, due_at, attempt, enqueued_at,"   \
                      " expires_at, finished_at, dedup_key, producer, reason, payload)"                                \
                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)")                         \
    X(IMPORT_RUN,                                                                                                      \
      "INSERT INTO pgqrs_runs(id, workflow_id, state, wait, wait_until, retries, triggered_at, started_at,"            \
      " finished_at, deadline_at, cancel_requested_at, forked_from, idempotency_key, wait_name,"                       \
      " cancelled_by, cancel_reason, error_code, error_message, error_step, output)"                                   \
      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)")           \
    X(IMPORT_EVENT, "INSERT INTO pgqrs_run_events(run_id, sent_at, name, payload) VALUES (?1, ?2, ?3, ?4)")            \
    X(IMPORT_KEEP, "UPDATE pgqrs_meta SET value = ?1 WHERE key = 'max_id' AND value < ?1")                             \
    X(IMPORT_TAKEN, "SELECT 1 FROM pgqrs_messages WHERE id = ?1 UNION ALL SELECT 1 FROM pgqrs_runs WHERE id = ?1")     \
    /* removal */                                                                                                      \
    X(RUN_DROP_STEPS, "DELETE FROM pgqrs_steps WHERE run_id = ?1")                                                     \
    X(RUN_DROP_EVENTS, "DELETE FROM pgqrs_run_events WHERE run_id = ?1")                                               \
    X(RUN_DROP_VALUES, "DELETE FROM pgqrs_run_values WHERE run_id = ?1")                                               \
    X(RUN_DROP, "DELETE FROM pgqrs_runs WHERE id = ?1")                                                                \
    X(OLD_RUNS, "SELECT id FROM pgqrs_runs WHERE workflow_id = ?1 AND state = ?2 AND state <> 0 AND finished_at < ?3"  \
                " ORDER BY finished_at LIMIT ?4")                                                                      \
    X(OLD_DEAD_RUNS, "SELECT r.id FROM " PGQRSI_SQLITE_DEAD_RUNS " ORDER BY m.finished_at LIMIT ?4")                   \
    X(NEEDY_WORKFLOW,                                                                                                  \
      "SELECT id, queue_id, retention_ms, failed_retention_ms FROM pgqrs_workflows w WHERE id > ?2 AND ("              \
      " retention_ms > 0 AND (EXISTS (SELECT 1 FROM pgqrs_runs WHERE workflow_id = w.id AND state <> 0"                \
      "   AND state = 6 AND finished_at < ?1 - 1000 * w.retention_ms)"                                                 \
      " OR EXISTS (SELECT 1 FROM pgqrs_runs WHERE workflow_id = w.id AND state <> 0"                                   \
      "   AND state = 5 AND finished_at < ?1 - 1000 * w.retention_ms))"                                                \
      " OR failed_retention_ms > 0 AND (EXISTS (SELECT 1 FROM pgqrs_runs WHERE workflow_id = w.id"                     \
      "   AND state <> 0 AND state = 7 AND finished_at < ?1 - 1000 * w.failed_retention_ms)"                           \
      " OR EXISTS (SELECT 1 FROM pgqrs_messages m CROSS JOIN pgqrs_runs r ON r.id = m.id"                              \
      "   WHERE m.queue_id = w.queue_id AND m.state = 5"                                                               \
      "   AND m.finished_at < ?1 - 1000 * w.failed_retention_ms AND r.workflow_id = w.id"                              \
      "   AND r.state = 0)) ) ORDER BY id LIMIT 1")

typedef enum pgqrsi_sqlite_statement {
#define PGQRSI_SQLITE_X(name, sql) PGQRSI_SQLITE_##name##_SQL,
    PGQRSI_SQLITE_STATEMENTS(PGQRSI_SQLITE_X) PGQRSI_SQLITE_RUN_STATEMENTS(PGQRSI_SQLITE_X)
#undef PGQRSI_SQLITE_X
        PGQRSI_SQLITE_STATEMENT_COUNT
} pgqrsi_sqlite_statement;

static const char *const pgqrsi_sqlite_sql[] = {
#define PGQRSI_SQLITE_X(name, sql) sql,
    PGQRSI_SQLITE_STATEMENTS(PGQRSI_SQLITE_X) PGQRSI_SQLITE_RUN_STATEMENTS(PGQRSI_SQLITE_X)
#undef PGQRSI_SQLITE_X
};

/* ------------------------------------------------------------------------------------------------------------------
 * >>connection
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_SQLITE_STEP 100           /* rows of housekeeping before a claim, at least */
#define PGQRSI_SQLITE_MAINTAIN_STEP 500  /* rows of each kind and queue in one pgqrs_maintain */
#define PGQRSI_SQLITE_LOG_SIZE (4 << 20) /* the log is grown to this size once … */
#define PGQRSI_SQLITE_LOG_AFTER 16  /* … by a connection that has written so often; one-shot programs do not wait */
#define PGQRSI_SQLITE_TURN_US 50000 /* how long a write may wait for outsiders while it holds the queue lock */

typedef enum pgqrsi_sqlite_transaction {
    PGQRSI_SQLITE_NONE = 0,
    PGQRSI_SQLITE_OWN = 1,   /* BEGIN … COMMIT of ours */
    PGQRSI_SQLITE_SAVED = 2, /* a savepoint inside the caller's */
    PGQRSI_SQLITE_JOINED = 3 /* a read inside the caller's: nothing to end */
} pgqrsi_sqlite_transaction;

/* Some columns of a row, read before the rows are written to. */
typedef struct pgqrsi_sqlite_row {
    int64_t v[5];
} pgqrsi_sqlite_row;

typedef struct pgqrsi_sqlite {
    int process; /* that opened the file; 0: none did */
    pgqrs_store *store;
    sqlite3 *db;
    sqlite3_stmt *statements[PGQRSI_SQLITE_STATEMENT_COUNT];
    bool borrowed;
    bool turso;
    bool schema_known; /* the version was looked at and is ours */
    bool turn_taken;   /* the queue lock is ours now */
    bool own_flush;    /* synchronous=NORMAL, and we flush the log ourselves after the commit */
    bool flush_failed; /* a flush failed: what was written must reach the file by a checkpoint first */
    bool busy_claims;  /* the last claim found something: the next one need not look first */

    /* files: the paths share one allocation */
    char *paths;
    size_t paths_size;
    const char *called; /* what messages call it; NULL: by its path */
    const char *path;   /* NULL: in memory */
    const char *lock_path;
    const char *log_path;
    int lock_fd;
    int log_fd;
    int wake_fd;
    bool turns;               /* writes take the queue lock */
    int writes;               /* begun, as far as it matters */
    int64_t checkpoint_pages; /* what wal_autocheckpoint was before a span turned it off; 0: nothing to restore */

    /* the running transaction */
    pgqrsi_sqlite_transaction transaction;
    bool
        spanning; /* BEGIN was called: calls are savepoints in it until COMMIT, and leave waking and flushing to that */
    bool writing;
    bool wake;       /* something became deliverable: tell waiting consumers after the commit */
    bool must_flush; /* the answer depends on what others committed, or it was no plain write */
    bool need_flush; /* false: what changed may be lost with the machine (heartbeats) */
    int changes_before;
    int64_t patience_us; /* connect_timeout_ms */
    int64_t quiet_us;    /* see pgqrs_backend_open */
    int64_t deadline_us; /* monotonic: give up waiting for locks */
    int64_t turn_end_us;
    /* where the line of one queue and priority ends */
    bool tail_known;
    int64_t tail_queue;
    int64_t tail_priority;
    int64_t tail;

    /* buffers that grow and stay */
    pgqrsi_sqlite_row *rows;
    size_t row_capacity;
    pgqrs_message *messages;
    size_t message_capacity;
    size_t claim_reserve; /* bytes of the last claim's result: the next is likely as big */
} pgqrsi_sqlite;

static bool pgqrsi_sqlite_contains(const char *text, const char *part)
{
    return text && strstr(text, part) != NULL;
}

static const char *pgqrsi_sqlite_name(const pgqrsi_sqlite *self)
{
    if (self->called) return self->called;
    return self->path ? self->path : self->borrowed ? "your database" : "the database in memory";
}

static pgqrs_result pgqrsi_sqlite_no_memory(pgqrsi_sqlite *self)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_NO_MEMORY, 0, NULL,
                              "no memory for a result; try again with fewer rows");
}

static pgqrs_result pgqrsi_sqlite_no_queue(pgqrsi_sqlite *self, const char *queue)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_QUEUE_NOT_FOUND, 0, NULL,
                              "there is no queue \"%s\": create it with pgqrs_queue_create", queue);
}

static pgqrs_result pgqrsi_sqlite_no_worker(pgqrsi_sqlite *self, int64_t id)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_WORKER_NOT_FOUND, 0, NULL, "there is no worker %lld",
                              (long long)id);
}

static pgqrs_result pgqrsi_sqlite_schema_missing(pgqrsi_sqlite *self)
{
    self->schema_known = false;
    return pgqrs_backend_fail(self->store, PGQRS_ERR_SCHEMA_MISSING, 0, NULL,
                              "%s has no pgqrs tables; call pgqrs_install", pgqrsi_sqlite_name(self));
}

/* Inside a transaction of the caller's, waiting cannot help: the snapshot it began with is out of date. */
static pgqrs_result pgqrsi_sqlite_fail_busy(pgqrsi_sqlite *self, int code)
{
    if (self->borrowed && !pgqrsi_sqlite3.get_autocommit(self->db))
        return pgqrs_backend_fail(self->store, PGQRS_ERR_TRANSACTION, code, NULL,
                                  "your transaction on %s cannot write: it only read so far and another program wrote "
                                  "meanwhile or writes now; roll it back and start it with BEGIN IMMEDIATE",
                                  pgqrsi_sqlite_name(self));
    return pgqrs_backend_fail(self->store, PGQRS_ERR_BUSY, code, NULL,
                              "%s was locked by another program for too long; end its transaction or raise "
                              "connect_timeout_ms",
                              pgqrsi_sqlite_name(self));
}

static pgqrs_result pgqrsi_sqlite_fail_open(pgqrsi_sqlite *self, int code)
{
    int system_code = self->db ? pgqrsi_sqlite3.system_errno(self->db) : 0;
    if (system_code == EACCES || system_code == EPERM || system_code == EROFS)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_ACCESS_DENIED, code, NULL,
                                  "%s cannot be opened for writing: %s; the user needs write access to the file and to "
                                  "its directory",
                                  pgqrsi_sqlite_name(self), strerror(system_code));
    if (system_code == ENOENT || system_code == ENOTDIR || system_code == EISDIR) /* trying again would not help */
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_DSN, code, NULL, "%s cannot be opened: %s; %s",
                                  pgqrsi_sqlite_name(self), strerror(system_code),
                                  system_code == EISDIR ? "name a file in it" : "make its directory first");
    return pgqrs_backend_fail(self->store, PGQRS_ERR_CONNECTION, code, NULL, "%s cannot be opened%s%s",
                              pgqrsi_sqlite_name(self), system_code ? ": " : "",
                              system_code ? strerror(system_code) : "");
}

static pgqrs_result pgqrsi_sqlite_fail_error(pgqrsi_sqlite *self, int code, const char *text)
{
    if (pgqrsi_sqlite_contains(text, "no such table: ") && pgqrsi_sqlite_contains(text, "pgqrs_"))
        return pgqrsi_sqlite_schema_missing(self);
    if (pgqrsi_sqlite_contains(text, "no such column") || pgqrsi_sqlite_contains(text, "has no column"))
        return pgqrs_backend_fail(self->store, PGQRS_ERR_SCHEMA_DAMAGED, code, NULL,
                                  "the tables in %s are not as installed: %s", pgqrsi_sqlite_name(self), text);
    return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, code, NULL, "%s: %s", pgqrsi_sqlite_name(self), text);
}

/* Records what SQLite just reported. */
static pgqrs_result pgqrsi_sqlite_fail(pgqrsi_sqlite *self, int rc)
{
    /* The connection knows the code in full, unless the failure was noticed on our side. */
    int extended = pgqrsi_sqlite3.extended_errcode(self->db);
    const char *text = pgqrsi_sqlite3.errmsg(self->db);
    const char *name = pgqrsi_sqlite_name(self);
    if ((extended & 0xff) != (rc & 0xff)) {
        extended = rc;
        text = "an error SQLite did not explain";
    }
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return pgqrsi_sqlite_fail_busy(self, extended);
    case SQLITE_NOMEM:
        return pgqrs_backend_fail(self->store, PGQRS_ERR_NO_MEMORY, extended, NULL, "SQLite got no memory");
    case SQLITE_READONLY:
        return pgqrs_backend_fail(self->store, PGQRS_ERR_READ_ONLY, extended, NULL,
                                  "%s is read-only: %s; the user needs write access to the file and to its directory",
                                  name, text);
    case SQLITE_FULL:
        return pgqrs_backend_fail(self->store, PGQRS_ERR_FULL, extended, NULL, "no room left for %s: %s", name, text);
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return pgqrs_backend_fail(self->store, PGQRS_ERR_ACCESS_DENIED, extended, NULL, "%s: %s", name, text);
    case SQLITE_CANTOPEN:
        return pgqrsi_sqlite_fail_open(self, extended);
    case SQLITE_NOTADB:
        return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, extended, NULL,
                                  "%s is not a SQLite database, or an encrypted one", name);
    case SQLITE_CORRUPT:
        return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, extended, NULL,
                                  "%s is damaged (%s); restore a backup or use sqlite3's .recover", name, text);
    case SQLITE_IOERR:
        if (extended == SQLITE_IOERR_NOMEM)
            return pgqrs_backend_fail(self->store, PGQRS_ERR_NO_MEMORY, extended, NULL, "SQLite got no memory");
        if (pgqrsi_sqlite3.system_errno(self->db) == ENOSPC)
            return pgqrs_backend_fail(self->store, PGQRS_ERR_FULL, extended, NULL, "no room left for %s", name);
        return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, extended, NULL, "%s: %s (%s)", name, text,
                                  strerror(pgqrsi_sqlite3.system_errno(self->db)));
    case SQLITE_TOOBIG:
        return pgqrs_backend_fail(self->store, PGQRS_ERR_PAYLOAD_TOO_LARGE, extended, NULL,
                                  "a message is larger than SQLite's limit for one row");
    case SQLITE_ERROR:
        return pgqrsi_sqlite_fail_error(self, extended, text);
    default:
        return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, extended, NULL, "%s: %s", name, text);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>query: one run of a statement. Errors stick, so that only the end needs a look.
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrsi_sqlite_query {
    pgqrsi_sqlite *self;
    sqlite3_stmt *statement;
    int rc;
    int bound;
    bool passing; /* not one of the kept statements */
} pgqrsi_sqlite_query;

static pgqrsi_sqlite_query pgqrsi_sqlite_query_text(pgqrsi_sqlite *self, const char *sql)
{
    pgqrsi_sqlite_query query;
    query.self = self;
    query.statement = NULL;
    query.bound = 0;
    query.passing = true;
    query.rc = pgqrsi_sqlite3.prepare_v2(self->db, sql, -1, &query.statement, NULL);
    return query;
}

static pgqrsi_sqlite_query pgqrsi_sqlite_query_new(pgqrsi_sqlite *self, pgqrsi_sqlite_statement which)
{
    pgqrsi_sqlite_query query;
    query.self = self;
    query.statement = self->statements[which];
    query.bound = 0;
    query.rc = SQLITE_OK;
    query.passing = false;
    if (!query.statement) {
        query = pgqrsi_sqlite_query_text(self, pgqrsi_sqlite_sql[which]);
        query.passing = false;
        self->statements[which] = query.statement;
    }
    return query;
}

/* The next parameter. */
static void pgqrsi_sqlite_put(pgqrsi_sqlite_query *query, int64_t value)
{
    if (query->rc == SQLITE_OK) query->rc = pgqrsi_sqlite3.bind_int64(query->statement, ++query->bound, value);
}

/* Text of `size` bytes that lives until the end of the query; NULL is NULL. */
static void pgqrsi_sqlite_put_bytes(pgqrsi_sqlite_query *query, const char *text, size_t size)
{
    if (query->rc != SQLITE_OK) return;
    query->bound++;
    if (!text)
        query->rc = pgqrsi_sqlite3.bind_null(query->statement, query->bound);
    else if (size > (size_t)0x7fffffff)
        query->rc = SQLITE_TOOBIG;
    else
        query->rc = pgqrsi_sqlite3.bind_text(query->statement, query->bound, text, (int)size, SQLITE_STATIC);
}

static void pgqrsi_sqlite_put_text(pgqrsi_sqlite_query *query, const char *text)
{
    pgqrsi_sqlite_put_bytes(query, text, text ? strlen(text) : 0);
}

static bool pgqrsi_sqlite_next(pgqrsi_sqlite_query *query)
{
    if (query->rc == SQLITE_OK || query->rc == SQLITE_ROW) query->rc = pgqrsi_sqlite3.step(query->statement);
    return query->rc == SQLITE_ROW;
}

static int64_t pgqrsi_sqlite_int(pgqrsi_sqlite_query *query, int column)
{
    return pgqrsi_sqlite3.column_int64(query->statement, column);
}

static bool pgqrsi_sqlite_is_null(pgqrsi_sqlite_query *query, int column)
{
    return pgqrsi_sqlite3.column_type(query->statement, column) == SQLITE_NULL;
}

/* A copy of a text column inside a result object; *size may be NULL. */
static const char *pgqrsi_sqlite_copy(pgqrsi_sqlite_query *query, void *result, int column, size_t *size)
{
    const char *text, *copy;
    int bytes;
    if (size) *size = 0;
    if (query->rc != SQLITE_ROW || pgqrsi_sqlite_is_null(query, column)) return NULL;
    text = (const char *)pgqrsi_sqlite3.column_text(query->statement, column);
    bytes = pgqrsi_sqlite3.column_bytes(query->statement, column);
    copy = text ? pgqrs_backend_result_text(result, text, bytes) : NULL;
    if (!copy)
        query->rc = SQLITE_NOMEM;
    else if (size)
        *size = (size_t)bytes;
    return copy;
}

/* Lets go of the statement; an error of any step before is recorded and returned. */
static pgqrs_result pgqrsi_sqlite_end(pgqrsi_sqlite_query *query)
{
    pgqrs_result result = PGQRS_OK;
    if (query->rc != SQLITE_OK && query->rc != SQLITE_ROW && query->rc != SQLITE_DONE)
        result = pgqrsi_sqlite_fail(query->self, query->rc);
    if (!query->statement) return result;
    if (query->passing) {
        pgqrsi_sqlite3.finalize(query->statement);
    } else {
        pgqrsi_sqlite3.reset(query->statement);
        if (query->bound > 0) pgqrsi_sqlite3.clear_bindings(query->statement);
    }
    query->statement = NULL;
    return result;
}

static pgqrs_result pgqrsi_sqlite_run(pgqrsi_sqlite_query *query)
{
    while (pgqrsi_sqlite_next(query)) {
    }
    return pgqrsi_sqlite_end(query);
}

/* A statement that takes integers only. */
static pgqrs_result pgqrsi_sqlite_run_with(pgqrsi_sqlite *self, pgqrsi_sqlite_statement which, const int64_t *values,
                                           int count)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, which);
    int i;
    for (i = 0; i < count; i++)
        pgqrsi_sqlite_put(&query, values[i]);
    return pgqrsi_sqlite_run(&query);
}

/* The same, for statements that give one number; no row leaves *value alone. */
static pgqrs_result pgqrsi_sqlite_number(pgqrsi_sqlite *self, pgqrsi_sqlite_statement which, const int64_t *values,
                                         int count, int64_t *value)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, which);
    int i;
    for (i = 0; i < count; i++)
        pgqrsi_sqlite_put(&query, values[i]);
    if (pgqrsi_sqlite_next(&query)) *value = pgqrsi_sqlite_int(&query, 0);
    return pgqrsi_sqlite_end(&query);
}

static int64_t pgqrsi_sqlite_changes(pgqrsi_sqlite *self)
{
    return pgqrsi_sqlite3.changes(self->db);
}

/* Makes room for `count` rows or messages in a buffer of the connection. */
static bool pgqrsi_sqlite_reserve(pgqrsi_sqlite *self, void **buffer, size_t *capacity, size_t count, size_t item_size)
{
    size_t wanted = *capacity ? *capacity : 64;
    void *grown;
    if (count <= *capacity) return true;
    while (wanted < count)
        wanted *= 2;
    grown = pgqrs_backend_resize(self->store, *buffer, *capacity * item_size, wanted * item_size);
    if (!grown) return false;
    *buffer = grown;
    *capacity = wanted;
    return true;
}

/* Reads all rows of a query, up to five integer columns, into self->rows, and ends it. */
static pgqrs_result pgqrsi_sqlite_collect(pgqrsi_sqlite_query *query, size_t *count)
{
    pgqrsi_sqlite *self = query->self;
    size_t found = 0;
    *count = 0;
    while (pgqrsi_sqlite_next(query)) {
        int i, columns = pgqrsi_sqlite3.column_count(query->statement);
        void *rows = self->rows;
        if (!pgqrsi_sqlite_reserve(self, &rows, &self->row_capacity, found + 1, sizeof(pgqrsi_sqlite_row))) {
            query->rc = SQLITE_NOMEM;
            break;
        }
        self->rows = (pgqrsi_sqlite_row *)rows;
        for (i = 0; i < columns && i < 5; i++)
            self->rows[found].v[i] = pgqrsi_sqlite_int(query, i);
        found++;
    }
    *count = found;
    return pgqrsi_sqlite_end(query);
}

static int64_t pgqrsi_sqlite_when(pgqrs_when when, int64_t now_us)
{
    return when.at_us ? when.at_us : now_us + when.delay_us;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>files: the queue lock, the log we flush, and waking others. Never the database file or its -shm: closing any
 * descriptor of those would drop SQLite's locks on them.
 * --------------------------------------------------------------------------------------------------------------- */

#if defined(__linux__)

/* Hidden under -std=c99, and the same on every architecture. */
#define PGQRSI_SQLITE_OFD_SETLK 37
#define PGQRSI_SQLITE_OFD_SETLKW 38
#ifdef O_CLOEXEC
#define PGQRSI_SQLITE_CLOEXEC O_CLOEXEC
#else
#define PGQRSI_SQLITE_CLOEXEC 0
#endif

static int pgqrsi_sqlite_open_file(const char *path, int flags)
{
    int descriptor;
    do {
        descriptor = open(path, flags | PGQRSI_SQLITE_CLOEXEC, 0666);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor >= 0 && !PGQRSI_SQLITE_CLOEXEC) fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    return descriptor;
}

static void pgqrsi_sqlite_close_file(int *descriptor)
{
    if (*descriptor >= 0) close(*descriptor);
    *descriptor = -1;
}

static bool pgqrsi_sqlite_flush_file(int descriptor)
{
    int rc;
    do {
        rc = fdatasync(descriptor);
    } while (rc < 0 && errno == EINTR);
    return rc == 0;
}

static int pgqrsi_sqlite_lock_file(int descriptor, int command, short type)
{
    struct flock lock;
    memset(&lock, 0, sizeof(lock));
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    return fcntl(descriptor, command, &lock);
}

/* The lock file gets the permissions of the database, so that whoever may write the one may lock the other. */
static void pgqrsi_sqlite_open_lock(pgqrsi_sqlite *self)
{
    struct stat database;
    self->lock_fd = pgqrsi_sqlite_open_file(self->lock_path, O_RDWR);
    if (self->lock_fd >= 0 || self->borrowed || errno != ENOENT) return;
    self->lock_fd = pgqrsi_sqlite_open_file(self->lock_path, O_RDWR | O_CREAT);
    if (self->lock_fd < 0 || stat(self->path, &database) != 0) return;
    if (fchmod(self->lock_fd, database.st_mode & 0777) != 0) errno = 0; /* a foreign lock file works as it is */
}

static bool pgqrsi_sqlite_can_lock(const pgqrsi_sqlite *self)
{
    return self->lock_fd >= 0 && sizeof(off_t) == 8 &&
           pgqrsi_sqlite_lock_file(self->lock_fd, PGQRSI_SQLITE_OFD_SETLK, F_UNLCK) == 0;
}

/* Waits in the kernel for our turn. False: this file system has no such locks after all. */
static bool pgqrsi_sqlite_take_turn(pgqrsi_sqlite *self)
{
    while (pgqrsi_sqlite_lock_file(self->lock_fd, PGQRSI_SQLITE_OFD_SETLKW, F_WRLCK) != 0)
        if (errno != EINTR) return false;
    self->turn_taken = true;
    return true;
}

/* Whoever opens the file does not wait in the kernel, which cannot be given up: the program that holds the lock may have been stopped, and a
 * tool that is to find out about it must not hang as well. */
static pgqrs_result pgqrsi_sqlite_take_first_turn(pgqrsi_sqlite *self)
{
    while (pgqrsi_sqlite_lock_file(self->lock_fd, PGQRSI_SQLITE_OFD_SETLK, F_WRLCK) != 0) {
        if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
            self->turns = false;
            return PGQRS_OK;
        }
        if (pgqrs_backend_monotonic() >= self->deadline_us)
            return pgqrs_backend_fail(self->store, PGQRS_ERR_BUSY, 0, NULL,
                                      "%s: another program has held \"%s\" for longer than connect_timeout_ms; was it "
                                      "stopped while it wrote? (fuser -v names it)",
                                      pgqrsi_sqlite_name(self), self->lock_path);
        pgqrs_backend_sleep(self->store, 200 + (int64_t)(pgqrs_backend_random(self->store) % 300));
    }
    self->turn_taken = true;
    return PGQRS_OK;
}

static void pgqrsi_sqlite_end_turn(pgqrsi_sqlite *self)
{
    if (self->turn_taken) pgqrsi_sqlite_lock_file(self->lock_fd, PGQRSI_SQLITE_OFD_SETLK, F_UNLCK);
    self->turn_taken = false;
}

/* A new log is a new entry in its directory, which must survive too. */
static bool pgqrsi_sqlite_flush_directory(pgqrsi_sqlite *self)
{
    char *slash = strrchr(self->paths, '/'); /* the first of the paths is there to be cut */
    const char *directory = slash == self->paths ? "/" : slash ? self->paths : ".";
    bool flushed = false;
    int descriptor;
    if (slash) *slash = 0;
    descriptor = pgqrsi_sqlite_open_file(directory, O_RDONLY);
    if (descriptor >= 0) flushed = pgqrsi_sqlite_flush_file(descriptor);
    pgqrsi_sqlite_close_file(&descriptor);
    if (slash) *slash = '/';
    return flushed;
}

/* Our own descriptor of the log SQLite writes to. SQLite opens the log once in the life of a connection, and nobody may
 * remove it meanwhile; so do we. (No stat(2) here: asking for a file's times makes its next writes and flushes slower.) */
static bool pgqrsi_sqlite_open_log(pgqrsi_sqlite *self)
{
    if (self->log_fd >= 0) return true;
    self->log_fd = pgqrsi_sqlite_open_file(self->log_path, O_RDWR);
    if (self->log_fd >= 0 && !pgqrsi_sqlite_flush_directory(self)) pgqrsi_sqlite_close_file(&self->log_fd);
    return self->log_fd >= 0;
}

/* Writing into room that is there already makes a commit about twice as fast as making the log longer. Called with the
 * write lock held, so that nobody else appends; what follows the last commit in the log means nothing to SQLite. */
static void pgqrsi_sqlite_grow_log(pgqrsi_sqlite *self)
{
    static char zeros[16384]; /* not const: so it takes no room in the program */
    off_t start = lseek(self->log_fd, 0, SEEK_END);
    off_t end = start;
    while (start > 0 && end < PGQRSI_SQLITE_LOG_SIZE) {
        ssize_t wrote = write(self->log_fd, zeros, sizeof(zeros));
        if (wrote <= 0) break;
        end += wrote;
    }
    /* A full disk has better uses for the room. */
    if (start > 0 && end < PGQRSI_SQLITE_LOG_SIZE && ftruncate(self->log_fd, start) != 0) return;
}

static void pgqrsi_sqlite_wake_others(pgqrsi_sqlite *self)
{
    if (self->lock_fd < 0 || lseek(self->lock_fd, 0, SEEK_SET) != 0) return;
    if (write(self->lock_fd, "\n", 1) != 1) return; /* they poll as well */
}

static void pgqrsi_sqlite_drain(pgqrsi_sqlite *self)
{
    char events[1024];
    while (self->wake_fd >= 0 && read(self->wake_fd, events, sizeof(events)) > 0) {
    }
}

static void pgqrsi_sqlite_watch(pgqrsi_sqlite *self)
{
    if (self->wake_fd >= 0 || self->lock_fd < 0) return;
    self->wake_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (self->wake_fd >= 0 && inotify_add_watch(self->wake_fd, self->lock_path, IN_MODIFY) < 0)
        pgqrsi_sqlite_close_file(&self->wake_fd);
}

#else

static void pgqrsi_sqlite_close_file(int *descriptor)
{
    *descriptor = -1;
}

static bool pgqrsi_sqlite_flush_file(int descriptor)
{
    return descriptor >= 0;
}

static void pgqrsi_sqlite_open_lock(pgqrsi_sqlite *self)
{
    self->lock_fd = -1;
}

static bool pgqrsi_sqlite_can_lock(const pgqrsi_sqlite *self)
{
    return self->lock_fd >= 0;
}

static bool pgqrsi_sqlite_take_turn(pgqrsi_sqlite *self)
{
    return self->lock_fd >= 0;
}

static pgqrs_result pgqrsi_sqlite_take_first_turn(pgqrsi_sqlite *self)
{
    self->turns = false;
    return PGQRS_OK;
}

static void pgqrsi_sqlite_end_turn(pgqrsi_sqlite *self)
{
    self->turn_taken = false;
}

static bool pgqrsi_sqlite_open_log(pgqrsi_sqlite *self)
{
    return self->log_fd >= 0;
}

static void pgqrsi_sqlite_grow_log(pgqrsi_sqlite *self)
{
    (void)self;
}

static void pgqrsi_sqlite_wake_others(pgqrsi_sqlite *self)
{
    (void)self;
}

static void pgqrsi_sqlite_drain(pgqrsi_sqlite *self)
{
    (void)self;
}

static void pgqrsi_sqlite_watch(pgqrsi_sqlite *self)
{
    self->wake_fd = -1;
}

#endif

/* ------------------------------------------------------------------------------------------------------------------
 * >>transactions
 * --------------------------------------------------------------------------------------------------------------- */

/* 50 us to 2 ms, growing, never in step with other waiters. */
static void pgqrsi_sqlite_pause(pgqrsi_sqlite *self, int times)
{
    int64_t most = times < 6 ? (int64_t)50 << times : 2000;
    pgqrs_backend_sleep(self->store, 50 + (int64_t)(pgqrs_backend_random(self->store) % (uint64_t)most));
}

static int pgqrsi_sqlite_on_busy(void *context, int times)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    int64_t now_us = pgqrs_backend_monotonic();
    if (now_us >= self->deadline_us || now_us >= self->turn_end_us) return 0;
    pgqrsi_sqlite_pause(self, times);
    return 1;
}

static int pgqrsi_sqlite_step_once(pgqrsi_sqlite *self, pgqrsi_sqlite_statement which)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, which);
    int rc = query.rc == SQLITE_OK ? pgqrsi_sqlite3.step(query.statement) : query.rc;
    if (query.statement) pgqrsi_sqlite3.reset(query.statement);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* The careful way: SQLite waits for the disk itself. */
static pgqrs_result pgqrsi_sqlite_fall_back(pgqrsi_sqlite *self, const char *why)
{
    int rc;
    pgqrsi_sqlite_end_turn(self);
    self->turns = false;
    self->own_flush = false;
    rc = pgqrsi_sqlite3.exec(self->db, "PRAGMA synchronous=FULL", NULL, NULL, NULL);
    if (rc != SQLITE_OK) return pgqrsi_sqlite_fail(self, rc);
    pgqrs_backend_log(self->store, PGQRS_LOG_INFO, "%s: %s; using synchronous=FULL", pgqrsi_sqlite_name(self), why);
    return PGQRS_OK;
}

/* After a failed flush the system may have dropped what it could not write. A checkpoint writes it once more. */
static pgqrs_result pgqrsi_sqlite_mend_log(pgqrsi_sqlite *self)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_text(self, "PRAGMA wal_checkpoint(TRUNCATE)");
    bool done = pgqrsi_sqlite_next(&query) && pgqrsi_sqlite_int(&query, 0) == 0;
    pgqrs_result result = pgqrsi_sqlite_end(&query);
    if (result != PGQRS_OK) return result;
    if (!done)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BUSY, 0, NULL,
                                  "%s: the log could not be written to disk and others are reading it; try again",
                                  pgqrsi_sqlite_name(self));
    self->flush_failed = false;
    return PGQRS_OK;
}

static void pgqrsi_sqlite_rollback(pgqrsi_sqlite *self)
{
    if (!pgqrsi_sqlite3.get_autocommit(self->db)) pgqrsi_sqlite_step_once(self, PGQRSI_SQLITE_ROLLBACK_SQL);
}

static pgqrs_result pgqrsi_sqlite_begin_immediate(pgqrsi_sqlite *self)
{
    int times = 0;
    for (;;) {
        int rc;
        if (self->turns && !pgqrsi_sqlite_take_turn(self)) {
            pgqrs_result result = pgqrsi_sqlite_fall_back(self, "the queue lock is refused");
            if (result != PGQRS_OK) return result;
        }
        /* Whoever holds the queue lock waits for outsiders a little only, then lines up again behind the others. */
        self->turn_end_us = self->turns ? pgqrs_backend_monotonic() + PGQRSI_SQLITE_TURN_US : INT64_MAX;
        rc = pgqrsi_sqlite_step_once(self, PGQRSI_SQLITE_BEGIN_WRITE_SQL);
        self->turn_end_us = INT64_MAX;
        if (rc == SQLITE_OK && self->own_flush && !pgqrsi_sqlite_open_log(self)) {
            pgqrs_result result;
            pgqrsi_sqlite_rollback(self);
            result = pgqrsi_sqlite_fall_back(self, "the log cannot be flushed from here");
            if (result != PGQRS_OK) return result;
            continue;
        }
        if (rc == SQLITE_OK) {
            if (self->own_flush && self->writes <= PGQRSI_SQLITE_LOG_AFTER && self->writes++ == PGQRSI_SQLITE_LOG_AFTER)
                pgqrsi_sqlite_grow_log(self);
            return PGQRS_OK;
        }
        if ((rc & 0xff) != SQLITE_BUSY || pgqrs_backend_monotonic() >= self->deadline_us) {
            pgqrs_result result = pgqrsi_sqlite_fail(self, rc);
            pgqrsi_sqlite_end_turn(self);
            return result;
        }
        pgqrsi_sqlite_end_turn(self);
        pgqrsi_sqlite_pause(self, times++);
    }
}

static pgqrs_result pgqrsi_sqlite_rollback_all(pgqrsi_sqlite *self, pgqrs_result result)
{
    if (self->transaction == PGQRSI_SQLITE_OWN) pgqrsi_sqlite_rollback(self);
    if (self->transaction == PGQRSI_SQLITE_SAVED && !pgqrsi_sqlite3.get_autocommit(self->db)) {
        pgqrsi_sqlite_step_once(self, PGQRSI_SQLITE_SAVE_UNDO_SQL);
        pgqrsi_sqlite_step_once(self, PGQRSI_SQLITE_SAVE_KEEP_SQL);
    }
    self->transaction = PGQRSI_SQLITE_NONE;
    pgqrsi_sqlite_end_turn(self);
    return result;
}

/* Visible to everybody, but not certain to outlive the machine: neither success nor "nothing was changed". */
static pgqrs_result pgqrsi_sqlite_flush_commit(pgqrsi_sqlite *self)
{
    if (pgqrsi_sqlite_flush_file(self->log_fd)) return PGQRS_OK;
    self->flush_failed = true;
    return pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, errno, NULL,
                              "%s: committed, but the disk refused it (%s); it may be lost when the machine stops",
                              pgqrsi_sqlite_name(self), strerror(errno));
}

static pgqrs_result pgqrsi_sqlite_commit_own(pgqrsi_sqlite *self)
{
    bool changed = pgqrsi_sqlite3.total_changes(self->db) != self->changes_before;
    int rc = pgqrsi_sqlite_step_once(self, PGQRSI_SQLITE_COMMIT_SQL);
    if (rc != SQLITE_OK) {
        pgqrs_result result = pgqrsi_sqlite_fail(self, rc);
        /* A failed write of the log leaves open whether a recovery will find the transaction whole. */
        if (self->writing && result == PGQRS_ERR_DATABASE && (rc & 0xff) == SQLITE_IOERR)
            result =
                pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, pgqrsi_sqlite3.extended_errcode(self->db),
                                   NULL, "%s: the disk failed during the commit (%s)", pgqrsi_sqlite_name(self),
                                   pgqrsi_sqlite3.errmsg(self->db));
        return pgqrsi_sqlite_rollback_all(self, result);
    }
    self->transaction = PGQRSI_SQLITE_NONE;
    pgqrsi_sqlite_end_turn(self);
    if (!self->writing) return PGQRS_OK;
    if (self->wake) pgqrsi_sqlite_wake_others(self);
    if (self->own_flush && (self->must_flush || (changed && self->need_flush))) return pgqrsi_sqlite_flush_commit(self);
    return PGQRS_OK;
}

/* Ends what begin_read or begin_write began: keeps it when `result` is PGQRS_OK, undoes it otherwise. */
static pgqrs_result pgqrsi_sqlite_finish(pgqrsi_sqlite *self, pgqrs_result result)
{
    if (result != PGQRS_OK) return pgqrsi_sqlite_rollback_all(self, result);
    if (self->transaction == PGQRSI_SQLITE_OWN) return pgqrsi_sqlite_commit_own(self);
    if (self->transaction == PGQRSI_SQLITE_SAVED) {
        int rc = pgqrsi_sqlite_step_once(self, PGQRSI_SQLITE_SAVE_KEEP_SQL);
        if (rc != SQLITE_OK) return pgqrsi_sqlite_rollback_all(self, pgqrsi_sqlite_fail(self, rc));
    }
    self->transaction = PGQRSI_SQLITE_NONE;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_read_version(pgqrsi_sqlite *self, int32_t *version)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_TABLE_EXISTS_SQL);
    bool exists;
    pgqrs_result result;
    *version = 0;
    pgqrsi_sqlite_put_text(&query, "table");
    pgqrsi_sqlite_put_text(&query, "pgqrs_meta");
    exists = pgqrsi_sqlite_next(&query);
    result = pgqrsi_sqlite_end(&query);
    if (result != PGQRS_OK || !exists) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_META_GET_SQL);
    pgqrsi_sqlite_put_text(&query, "schema_version");
    if (pgqrsi_sqlite_next(&query)) *version = (int32_t)pgqrsi_sqlite_int(&query, 0);
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_newer(pgqrsi_sqlite *self, int32_t version)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_SCHEMA_NEWER, 0, NULL,
                              "the tables in %s have version %d, this library knows up to %d; update the program",
                              pgqrsi_sqlite_name(self), (int)version, (int)PGQRSI_SQLITE_MIGRATIONS);
}

static pgqrs_result pgqrsi_sqlite_check_version(pgqrsi_sqlite *self)
{
    int32_t version;
    pgqrs_result result;
    if (self->schema_known) return PGQRS_OK;
    result = pgqrsi_sqlite_read_version(self, &version);
    if (result != PGQRS_OK) return result;
    if (version == 0) return pgqrsi_sqlite_schema_missing(self);
    if (version > PGQRSI_SQLITE_MIGRATIONS) return pgqrsi_sqlite_newer(self, version);
    if (version < PGQRSI_SQLITE_MIGRATIONS)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_SCHEMA_OLDER, 0, NULL,
                                  "the tables in %s have version %d, this library needs %d; call pgqrs_install",
                                  pgqrsi_sqlite_name(self), (int)version, (int)PGQRSI_SQLITE_MIGRATIONS);
    self->schema_known = true;
    return PGQRS_OK;
}

/* SQLite copies the log into the file right after a commit. After the commit of a span, which has no queue lock, that could meet
 * another store that starts the log anew: a race in SQLite up to 3.51.2 (sqlite.org/wal.html#walresetbug). The next ordinary
 * commit, in its turn, does it instead. */
static void pgqrsi_sqlite_hold_checkpoints(pgqrsi_sqlite *self)
{
    pgqrsi_sqlite_query query;
    if (!self->own_flush) return;
    query = pgqrsi_sqlite_query_text(self, "PRAGMA wal_autocheckpoint");
    if (pgqrsi_sqlite_next(&query)) self->checkpoint_pages = pgqrsi_sqlite_int(&query, 0);
    if (query.statement) pgqrsi_sqlite3.finalize(query.statement);
    if (self->checkpoint_pages > 0) pgqrsi_sqlite3.exec(self->db, "PRAGMA wal_autocheckpoint=0", NULL, NULL, NULL);
}

/* Tried again by the next call, should it fail. */
static void pgqrsi_sqlite_release_checkpoints(pgqrsi_sqlite *self)
{
    char sql[64];
    if (self->checkpoint_pages <= 0) return;
    snprintf(sql, sizeof(sql), "PRAGMA wal_autocheckpoint=%lld", (long long)self->checkpoint_pages);
    if (pgqrsi_sqlite3.exec(self->db, sql, NULL, NULL, NULL) == SQLITE_OK) self->checkpoint_pages = 0;
}

static void pgqrsi_sqlite_start(pgqrsi_sqlite *self, bool writing)
{
    self->deadline_us = pgqrs_backend_monotonic() + self->patience_us;
    self->turn_end_us = INT64_MAX;
    self->tail_known = false;
    if (self->spanning) return; /* what to do after the commit adds up until then */
    pgqrsi_sqlite_release_checkpoints(self);
    self->writing = writing;
    self->wake = false;
    self->must_flush = false;
    self->need_flush = true;
    self->changes_before = pgqrsi_sqlite3.total_changes(self->db);
    if (!self->borrowed) pgqrsi_sqlite_rollback(self); /* nothing, unless an earlier rollback failed */
}

/* SQLite undoes a whole transaction on some errors, and statements of the program may end it. */
static pgqrs_result pgqrsi_sqlite_check_spanning(pgqrsi_sqlite *self)
{
    if (!self->spanning || !pgqrsi_sqlite3.get_autocommit(self->db)) return PGQRS_OK;
    return pgqrs_backend_fail(self->store, PGQRS_ERR_TRANSACTION, 0, NULL,
                              "%s: the transaction is over: an error or a statement of the program ended it",
                              pgqrsi_sqlite_name(self));
}

/* A write transaction, whatever the version of the tables. */
static pgqrs_result pgqrsi_sqlite_begin_any(pgqrsi_sqlite *self)
{
    pgqrs_result result = pgqrsi_sqlite_check_spanning(self);
    if (result != PGQRS_OK) return result;
    pgqrsi_sqlite_start(self, true);
    if (!pgqrsi_sqlite3.get_autocommit(self->db)) {
        int rc = pgqrsi_sqlite_step_once(self, PGQRSI_SQLITE_SAVE_SQL);
        if (rc != SQLITE_OK) return pgqrsi_sqlite_fail(self, rc);
        self->transaction = PGQRSI_SQLITE_SAVED;
        return PGQRS_OK;
    }
    if (self->flush_failed) result = pgqrsi_sqlite_mend_log(self);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_begin_immediate(self);
    if (result == PGQRS_OK) self->transaction = PGQRSI_SQLITE_OWN;
    return result;
}

static pgqrs_result pgqrsi_sqlite_begin_write(pgqrsi_sqlite *self)
{
    pgqrs_result result = pgqrsi_sqlite_begin_any(self);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_check_version(self);
    return result == PGQRS_OK ? PGQRS_OK : pgqrsi_sqlite_rollback_all(self, result);
}

/* A snapshot for several reads; it takes no lock that a writer would notice. */
static pgqrs_result pgqrsi_sqlite_begin_snapshot(pgqrsi_sqlite *self)
{
    int rc;
    pgqrs_result result = pgqrsi_sqlite_check_spanning(self);
    if (result != PGQRS_OK) return result;
    pgqrsi_sqlite_start(self, false);
    self->transaction = PGQRSI_SQLITE_JOINED;
    if (!pgqrsi_sqlite3.get_autocommit(self->db)) return PGQRS_OK;
    rc = pgqrsi_sqlite_step_once(self, PGQRSI_SQLITE_BEGIN_READ_SQL);
    if (rc != SQLITE_OK) return pgqrsi_sqlite_fail(self, rc);
    self->transaction = PGQRSI_SQLITE_OWN;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_begin_read(pgqrsi_sqlite *self)
{
    pgqrs_result result = pgqrsi_sqlite_begin_snapshot(self);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_check_version(self);
    return result == PGQRS_OK ? PGQRS_OK : pgqrsi_sqlite_rollback_all(self, result);
}

/* For a single statement, which is a snapshot by itself. */
static pgqrs_result pgqrsi_sqlite_ready_to_read(pgqrsi_sqlite *self)
{
    pgqrs_result result = pgqrsi_sqlite_check_spanning(self);
    if (result != PGQRS_OK) return result;
    pgqrsi_sqlite_start(self, false);
    self->transaction = PGQRSI_SQLITE_NONE;
    return pgqrsi_sqlite_check_version(self);
}

/* A transaction for the calls that follow. The queue lock is handed on: SQLite's own keeps others out, and they wait for
 * that with a limit, so that a second store in the same thread meets an error instead of waiting for itself. */
static pgqrs_result pgqrsi_sqlite_span(pgqrsi_sqlite *self)
{
    pgqrs_result result;
    if (self->spanning || (self->borrowed && !pgqrsi_sqlite3.get_autocommit(self->db)))
        return pgqrs_backend_fail(self->store, PGQRS_ERR_TRANSACTION, 0, NULL,
                                  "%s is in a transaction already; end it first", pgqrsi_sqlite_name(self));
    result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    pgqrsi_sqlite_hold_checkpoints(self);
    pgqrsi_sqlite_end_turn(self);
    self->transaction = PGQRSI_SQLITE_NONE;
    self->must_flush = true; /* statements of the program may create tables, which does not count as changing rows */
    self->spanning = true;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_end_span(pgqrsi_sqlite *self, bool keep)
{
    pgqrs_result result = keep ? pgqrsi_sqlite_check_spanning(self) : PGQRS_OK;
    if (!self->spanning) {
        if (!keep) return PGQRS_OK;
        return pgqrs_backend_fail(self->store, PGQRS_ERR_TRANSACTION, 0, NULL, "%s: there is no transaction to commit",
                                  pgqrsi_sqlite_name(self));
    }
    self->spanning = false;
    self->transaction = PGQRSI_SQLITE_OWN;
    if (keep && result == PGQRS_OK) return pgqrsi_sqlite_commit_own(self);
    return pgqrsi_sqlite_rollback_all(self, result);
}

static pgqrs_result pgqrsi_sqlite_transact(void *context, pgqrs_backend_verb verb)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    if (verb == PGQRS_BACKEND_BEGIN) return pgqrsi_sqlite_span(self);
    return pgqrsi_sqlite_end_span(self, verb == PGQRS_BACKEND_COMMIT);
}

static sqlite3 *pgqrsi_sqlite_database(void *context)
{
    return ((pgqrsi_sqlite *)context)->db;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>open and close
 * --------------------------------------------------------------------------------------------------------------- */

/* How many files the stores of a process have open, and which process that is. SQLite keeps what it knows of locks per process; a
 * child inherits that and not the locks. So a connection opened in a child beside one that came with it takes none, and when the
 * parent closes its own, the log goes with everything in it. See sqlite.org/howtocorrupt.html, section 2.6. */
static int pgqrsi_sqlite_files;
static int pgqrsi_sqlite_process;

#if defined(__GNUC__) || defined(__clang__)
#define PGQRSI_SQLITE_ADD(number, value) __atomic_add_fetch(&(number), (value), __ATOMIC_SEQ_CST)
#else
#define PGQRSI_SQLITE_ADD(number, value) ((number) += (value))
#endif

static pgqrs_result pgqrsi_sqlite_enter_process(pgqrsi_sqlite *self)
{
    int process = (int)getpid();
    if (PGQRSI_SQLITE_ADD(pgqrsi_sqlite_files, 1) > 1 && pgqrsi_sqlite_process != process) {
        PGQRSI_SQLITE_ADD(pgqrsi_sqlite_files, -1);
        return pgqrs_backend_fail(
            self->store, PGQRS_ERR_UNSUPPORTED, 0, NULL,
            "this process was forked while its parent had a SQLite store open, and SQLite's locks do "
            "not survive that: close every store before fork, or start the child with exec");
    }
    pgqrsi_sqlite_process = process;
    self->process = process;
    return PGQRS_OK;
}

static void pgqrsi_sqlite_leave_process(pgqrsi_sqlite *self)
{
    if (self->process == (int)getpid()) PGQRSI_SQLITE_ADD(pgqrsi_sqlite_files, -1);
}

static void pgqrsi_sqlite_close(void *context)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_store *store;
    int i;
    if (!self) return;
    store = self->store;
    if (self->spanning) pgqrsi_sqlite_end_span(self, false);
    for (i = 0; i < (int)PGQRSI_SQLITE_STATEMENT_COUNT; i++)
        if (self->statements[i]) pgqrsi_sqlite3.finalize(self->statements[i]);
    if (!self->borrowed && self->db) pgqrsi_sqlite3.close(self->db);
    pgqrsi_sqlite_leave_process(self);
    pgqrsi_sqlite_close_file(&self->log_fd);
    pgqrsi_sqlite_close_file(&self->lock_fd);
    pgqrsi_sqlite_close_file(&self->wake_fd);
    if (self->paths) pgqrs_backend_free(store, self->paths, self->paths_size);
    if (self->rows) pgqrs_backend_free(store, self->rows, self->row_capacity * sizeof(pgqrsi_sqlite_row));
    if (self->messages) pgqrs_backend_free(store, self->messages, self->message_capacity * sizeof(pgqrs_message));
    pgqrs_backend_free(store, self, sizeof(*self));
}

/* The file a DSN names; NULL: it names none that we can use, and that is recorded. */
static const char *pgqrsi_sqlite_dsn_path(pgqrsi_sqlite *self, const char *dsn)
{
    const char *path = strchr(dsn, ':');
    const char *question = strchr(dsn, '?');
    if (path) path++;
    if (path && path[0] == '/' && path[1] == '/') path += 2;
    if (!path || !*path) {
        pgqrs_backend_fail(
            self->store, PGQRS_ERR_BAD_DSN, 0, NULL,
            "the DSN names no file; write sqlite://jobs.db, sqlite:///var/lib/jobs.db or sqlite::memory:");
        return NULL;
    }
    if (question && strchr(question, '=')) {
        pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_DSN, 0, NULL,
                           "options after '?' are not supported in a SQLite DSN; use the members of pgqrs_store_desc");
        return NULL;
    }
    return path;
}

/* PATH, PATH-qlock and PATH-wal, in one allocation. */
static pgqrs_result pgqrsi_sqlite_set_paths(pgqrsi_sqlite *self, const char *path)
{
    size_t size = strlen(path) + sizeof("-qlock");
    char *paths = (char *)pgqrs_backend_alloc(self->store, 3 * size);
    if (!paths) return pgqrsi_sqlite_no_memory(self);
    if (self->paths) pgqrs_backend_free(self->store, self->paths, self->paths_size);
    self->paths = paths;
    self->paths_size = 3 * size;
    snprintf(paths, size, "%s", path);
    snprintf(paths + size, size, "%s-qlock", path);
    snprintf(paths + 2 * size, size, "%s-wal", path);
    self->path = paths;
    self->lock_path = paths + size;
    self->log_path = paths + 2 * size;
    return PGQRS_OK;
}

/* Changing the journal mode needs the file for itself for a moment, and SQLite does not always wait for that. */
static pgqrs_result pgqrsi_sqlite_set_journal(pgqrsi_sqlite *self, bool log, bool *logged)
{
    int times = 0;
    for (;;) {
        pgqrsi_sqlite_query query =
            pgqrsi_sqlite_query_text(self, log ? "PRAGMA journal_mode=WAL" : "PRAGMA journal_mode=DELETE");
        const char *mode = NULL;
        int rc;
        if (pgqrsi_sqlite_next(&query)) mode = (const char *)pgqrsi_sqlite3.column_text(query.statement, 0);
        *logged = mode && strcmp(mode, "wal") == 0;
        rc = query.rc;
        if ((rc & 0xff) != SQLITE_BUSY || pgqrs_backend_monotonic() >= self->deadline_us)
            return pgqrsi_sqlite_end(&query);
        pgqrsi_sqlite3.finalize(query.statement);
        pgqrsi_sqlite_pause(self, times++);
    }
}

static pgqrs_result pgqrsi_sqlite_set_up_file(pgqrsi_sqlite *self, bool log)
{
    bool logged = false;
    pgqrs_result result;
    if (!self->turso) pgqrsi_sqlite_open_lock(self);
    self->turns = !self->turso && pgqrsi_sqlite_can_lock(self);
    if (self->turns && (result = pgqrsi_sqlite_take_first_turn(self)) != PGQRS_OK) return result;
    result = pgqrsi_sqlite_set_journal(self, log, &logged);
    pgqrsi_sqlite_end_turn(self);
    if (result != PGQRS_OK) return result;
    if (log && !logged)
        pgqrs_backend_log(self->store, PGQRS_LOG_INFO,
                          "%s: the file system has no write-ahead log; using the rollback journal", self->path);
    if (self->turso || !logged) {
        int rc = pgqrsi_sqlite3.exec(self->db, "PRAGMA synchronous=FULL", NULL, NULL, NULL);
        return rc == SQLITE_OK ? PGQRS_OK : pgqrsi_sqlite_fail(self, rc);
    }
    if (!self->turns) return pgqrsi_sqlite_fall_back(self, "there is no queue lock here");
    /* SQLite's cache of 2 MB for each connection gains nothing here (the pages that count are few, and the system has the rest),
     * and a store is to stay under 1 MB. */
    if (pgqrsi_sqlite3.exec(self->db, "PRAGMA synchronous=NORMAL; PRAGMA cache_size=-512", NULL, NULL, NULL) !=
        SQLITE_OK)
        return pgqrsi_sqlite_fail(self, pgqrsi_sqlite3.extended_errcode(self->db));
    self->own_flush = true;
    return PGQRS_OK;
}

/* Nobody likes to look for a queue in the empty file that a mistyped name has made. */
static pgqrs_result pgqrsi_sqlite_fail_missing(pgqrsi_sqlite *self, const char *path)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_DSN, SQLITE_CANTOPEN, NULL,
                              "there is no file %s; name the right one, or make it with pgqrs install (sqlite_create)",
                              path);
}

static pgqrs_result pgqrsi_sqlite_open_own(pgqrsi_sqlite *self, const char *dsn, const pgqrs_store_desc *settings)
{
    const char *path = pgqrsi_sqlite_dsn_path(self, dsn);
    bool memory;
    int rc, create = settings->sqlite_create == PGQRS_OFF ? 0 : SQLITE_OPEN_CREATE;
    pgqrs_result result;
    if (!path) return PGQRS_ERR_BAD_DSN;
    memory = strcmp(path, ":memory:") == 0;
#ifdef PGQRS_TURSO
    self->turso = true;
#else
    self->turso = strncmp(dsn, "turso:", 6) == 0;
#endif
    if (!memory && (result = pgqrsi_sqlite_enter_process(self)) != PGQRS_OK) return result;
    if (!memory && (result = pgqrsi_sqlite_set_paths(self, path)) != PGQRS_OK) return result;
    rc = pgqrsi_sqlite3.open_v2(path, &self->db, SQLITE_OPEN_READWRITE | create | SQLITE_OPEN_NOMUTEX, NULL);
    if (!self->db) return pgqrs_backend_fail(self->store, PGQRS_ERR_NO_MEMORY, rc, NULL, "SQLite got no memory");
    if (rc == SQLITE_CANTOPEN && !create && access(path, F_OK) != 0 && errno == ENOENT)
        return pgqrsi_sqlite_fail_missing(self, path);
    if (rc != SQLITE_OK) return pgqrsi_sqlite_fail(self, rc);
    rc = pgqrsi_sqlite3.busy_handler(self->db, pgqrsi_sqlite_on_busy, self);
    if (rc != SQLITE_OK) return pgqrsi_sqlite_fail(self, rc);
    if (memory) return PGQRS_OK;
    /* The path as SQLite resolved it stays right when the program changes its directory. */
    path = pgqrsi_sqlite3.db_filename(self->db, "main");
    if (path && *path && (result = pgqrsi_sqlite_set_paths(self, path)) != PGQRS_OK) return result;
    if (pgqrsi_sqlite3.db_readonly(self->db, "main") == 1) return PGQRS_OK; /* good for looking */
    pgqrsi_sqlite_start(self, false);
    return pgqrsi_sqlite_set_up_file(self, settings->sqlite_wal != PGQRS_OFF);
}

static pgqrs_result pgqrsi_sqlite_open_borrowed(pgqrsi_sqlite *self, sqlite3 *db)
{
    const char *path;
    pgqrs_result result;
    self->borrowed = true;
    self->db = db;
    path = pgqrsi_sqlite3.db_filename(db, "main");
    if (!path || !*path) return PGQRS_OK;
    result = pgqrsi_sqlite_set_paths(self, path);
    if (result == PGQRS_OK) pgqrsi_sqlite_open_lock(self); /* only to wake others, and to be woken */
    return result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_open(pgqrs_store *store, const pgqrs_backend_open *request, void **out)
{
    pgqrsi_sqlite *self;
    pgqrs_result result;
    *out = NULL;
    if (request->connection)
        return pgqrs_backend_fail(store, PGQRS_ERR_INVALID_ARGUMENT, 0, NULL, "a libpq connection is not for SQLite");
    if (pgqrsi_sqlite3.libversion_number() < PGQRSI_SQLITE_OLDEST)
        return pgqrs_backend_fail(store, PGQRS_ERR_UNSUPPORTED, 0, NULL,
                                  "SQLite %s is too old; 3.37 or newer is needed", pgqrsi_sqlite3.libversion());
    self = (pgqrsi_sqlite *)pgqrs_backend_alloc(store, sizeof(*self));
    if (!self) return pgqrs_backend_fail(store, PGQRS_ERR_NO_MEMORY, 0, NULL, "no memory for a store");
    self->store = store;
    self->called = request->name;
    self->lock_fd = self->log_fd = self->wake_fd = -1;
    self->patience_us = request->settings->connect_timeout_ms * 1000;
    self->quiet_us = request->quiet_us;
    result = request->database ? pgqrsi_sqlite_open_borrowed(self, request->database)
                               : pgqrsi_sqlite_open_own(self, request->dsn, request->settings);
    if (result != PGQRS_OK) {
        pgqrsi_sqlite_close(self);
        return result;
    }
    *out = self;
    return PGQRS_OK;
}

static uint32_t pgqrsi_sqlite_capabilities(void *context)
{
    const pgqrsi_sqlite *self = (const pgqrsi_sqlite *)context;
    return (self->path ? PGQRS_CAN_SHARE : 0u) | (self->lock_fd >= 0 ? PGQRS_CAN_WAKE : 0u);
}

static pgqrs_result pgqrsi_sqlite_now(void *context, int64_t *now_us)
{
    *now_us = pgqrs_backend_clock(((pgqrsi_sqlite *)context)->store);
    return PGQRS_OK;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>install, uninstall, verify
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_sqlite_exec(pgqrsi_sqlite *self, const char *sql)
{
    int rc = pgqrsi_sqlite3.exec(self->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? PGQRS_OK : pgqrsi_sqlite_fail(self, rc);
}

static pgqrs_result pgqrsi_sqlite_meta_set(pgqrsi_sqlite *self, const char *key, int64_t value)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_META_SET_SQL);
    pgqrsi_sqlite_put_text(&query, key);
    pgqrsi_sqlite_put(&query, value);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_migrate_from(pgqrsi_sqlite *self, int32_t version)
{
    const char *const *script = pgqrsi_sqlite_migrations[version];
    pgqrs_result result = PGQRS_OK;
    for (; *script && result == PGQRS_OK; script++)
        result = pgqrsi_sqlite_exec(self, *script);
    return result;
}

static pgqrs_result pgqrsi_sqlite_migrate(pgqrsi_sqlite *self)
{
    int32_t version;
    pgqrs_result result = pgqrsi_sqlite_read_version(self, &version);
    if (result != PGQRS_OK) return result;
    if (version > PGQRSI_SQLITE_MIGRATIONS) return pgqrsi_sqlite_newer(self, version);
    if (version == PGQRSI_SQLITE_MIGRATIONS) return PGQRS_OK;
    self->must_flush = true; /* creating tables does not count as changing rows */
    for (; version < PGQRSI_SQLITE_MIGRATIONS; version++) {
        result = pgqrsi_sqlite_migrate_from(self, version);
        if (result != PGQRS_OK) return result;
    }
    return pgqrsi_sqlite_meta_set(self, "schema_version", version);
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_install(void *context, int64_t now_us)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_any(self);
    (void)now_us;
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_migrate(self));
}

static pgqrs_result pgqrsi_sqlite_uninstall(void *context)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_any(self);
    if (result != PGQRS_OK) return result;
    self->schema_known = false;
    self->must_flush = true;
    result = pgqrsi_sqlite_exec(self, "DROP VIEW IF EXISTS pgqrs_step_view; DROP VIEW IF EXISTS pgqrs_run_view;"
                                      "DROP VIEW IF EXISTS pgqrs_message_view; DROP TABLE IF EXISTS pgqrs_run_values;"
                                      "DROP TABLE IF EXISTS pgqrs_run_events; DROP TABLE IF EXISTS pgqrs_steps;"
                                      "DROP TABLE IF EXISTS pgqrs_runs; DROP TABLE IF EXISTS pgqrs_workflows;"
                                      "DROP TABLE IF EXISTS pgqrs_messages; DROP TABLE IF EXISTS pgqrs_workers;"
                                      "DROP TABLE IF EXISTS pgqrs_queues; DROP TABLE IF EXISTS pgqrs_meta");
    return pgqrsi_sqlite_finish(self, result);
}

static pgqrs_result pgqrsi_sqlite_schema_version(void *context, int32_t *version)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_snapshot(self);
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_read_version(self, version));
}

static pgqrs_result pgqrsi_sqlite_damaged(pgqrsi_sqlite *self, const char *what, const char *name)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_SCHEMA_DAMAGED, 0, NULL, "%s: %s%s", pgqrsi_sqlite_name(self),
                              what, name);
}

static pgqrs_result pgqrsi_sqlite_verify_columns(pgqrsi_sqlite *self)
{
    static const char *const reads[] = {
        "SELECT key, value FROM pgqrs_meta LIMIT 0",
        "SELECT " PGQRSI_SQLITE_QUEUE_COLUMNS ", lease_expiries FROM pgqrs_queues LIMIT 0",
        "SELECT id, queue_id, state, priority, ord, due_at, lease, lease_until, attempt, worker_id, enqueued_at, "
        "expires_at,"
        " finished_at, dedup_key, producer, reason, payload FROM pgqrs_messages LIMIT 0",
        "SELECT " PGQRSI_SQLITE_WORKER_COLUMNS ", name, reclaimed, started_at, stopped_at FROM pgqrs_workers LIMIT 0",
        "SELECT id, name, queue_id, made_queue, max_retries, backoff, base_ms, cap_ms, jitter_percent, timeout_ms,"
        " step_timeout_ms, retention_ms, failed_retention_ms, created_at FROM pgqrs_workflows LIMIT 0",
        "SELECT id, workflow_id, state, wait, wait_until, retries, triggered_at, started_at, finished_at, deadline_at,"
        " cancel_requested_at, forked_from, idempotency_key, wait_name, cancelled_by, cancel_reason, error_code,"
        " error_message, error_step, output FROM pgqrs_runs LIMIT 0",
        "SELECT run_id, number, kind, state, retries, started_at, finished_at, due_at, name, key, error_code,"
        " error_message, input, output FROM pgqrs_steps LIMIT 0",
        "SELECT run_id, name, sent_at, payload FROM pgqrs_run_events LIMIT 0",
        "SELECT run_id, name, set_at, value FROM pgqrs_run_values LIMIT 0"};
    size_t i;
    for (i = 0; i < sizeof(reads) / sizeof(reads[0]); i++) {
        pgqrsi_sqlite_query query = pgqrsi_sqlite_query_text(self, reads[i]);
        pgqrs_result result;
        if ((query.rc & 0xff) == SQLITE_ERROR) return pgqrsi_sqlite_damaged(self, "", pgqrsi_sqlite3.errmsg(self->db));
        result = pgqrsi_sqlite_run(&query);
        if (result != PGQRS_OK) return result;
    }
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_verify_names(pgqrsi_sqlite *self)
{
    static const char *const names[][2] = {
        {"index", "pgqrs_messages_queue"},  {"index", "pgqrs_messages_ready"},    {"index", "pgqrs_messages_delayed"},
        {"index", "pgqrs_messages_leased"}, {"index", "pgqrs_messages_archived"}, {"index", "pgqrs_messages_dead"},
        {"index", "pgqrs_messages_dedup"},  {"index", "pgqrs_messages_expiry"},   {"index", "pgqrs_workers_queue"},
        {"index", "pgqrs_workflows_queue"}, {"index", "pgqrs_runs_workflow"},     {"index", "pgqrs_runs_key"},
        {"index", "pgqrs_runs_ended"},      {"view", "pgqrs_message_view"},       {"view", "pgqrs_run_view"},
        {"view", "pgqrs_step_view"}};
    size_t i;
    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_TABLE_EXISTS_SQL);
        bool there;
        pgqrs_result result;
        pgqrsi_sqlite_put_text(&query, names[i][0]);
        pgqrsi_sqlite_put_text(&query, names[i][1]);
        there = pgqrsi_sqlite_next(&query);
        result = pgqrsi_sqlite_end(&query);
        if (result != PGQRS_OK) return result;
        if (!there)
            return pgqrsi_sqlite_damaged(self, names[i][0][0] == 'v' ? "missing view " : "missing index ", names[i][1]);
    }
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_verify_rows(pgqrsi_sqlite *self)
{
    static const char *const checks[][2] = {
        {"a message without its queue: ",
         "SELECT id FROM pgqrs_messages m WHERE NOT EXISTS (SELECT 1 FROM pgqrs_queues WHERE id = m.queue_id) LIMIT 1"},
        {"a message in no known state: ", "SELECT id FROM pgqrs_messages WHERE state NOT BETWEEN 1 AND 5 LIMIT 1"},
        {"a leased message without a lease: ",
         "SELECT id FROM pgqrs_messages WHERE state = 3 AND (lease = 0 OR lease_until = 0) LIMIT 1"},
        {"a message that is not leased but has a lease: ",
         "SELECT id FROM pgqrs_messages WHERE state <> 3 AND (lease <> 0 OR lease_until <> 0) LIMIT 1"},
        {"a delayed message without a time: ", "SELECT id FROM pgqrs_messages WHERE state = 2 AND due_at = 0 LIMIT 1"},
        {"a finished message without a time, or an unfinished one with one: ",
         "SELECT id FROM pgqrs_messages WHERE (state >= 4) <> (finished_at <> 0) LIMIT 1"},
        {"a leased or dead message that nobody has tried: ",
         "SELECT id FROM pgqrs_messages WHERE attempt < 0 OR (state = 3 AND attempt = 0) LIMIT 1"},
        {"two unfinished messages with one deduplication key, one is: ",
         "SELECT max(id) FROM pgqrs_messages WHERE dedup_key IS NOT NULL AND state < 4"
         " GROUP BY queue_id, dedup_key HAVING count(*) > 1 LIMIT 1"},
        {"a worker without its queue: ", "SELECT id FROM pgqrs_workers w WHERE queue_id <> 0 AND NOT EXISTS"
                                         " (SELECT 1 FROM pgqrs_queues WHERE id = w.queue_id) LIMIT 1"},
        {"a workflow without its queue: ", "SELECT id FROM pgqrs_workflows w WHERE NOT EXISTS"
                                           " (SELECT 1 FROM pgqrs_queues WHERE id = w.queue_id) LIMIT 1"},
        {"a run without its workflow: ", "SELECT id FROM pgqrs_runs r WHERE NOT EXISTS"
                                         " (SELECT 1 FROM pgqrs_workflows WHERE id = r.workflow_id) LIMIT 1"},
        {"a run in no known state: ", "SELECT id FROM pgqrs_runs WHERE state NOT IN (0, 5, 6, 7) LIMIT 1"},
        {"a run that ended without a time, or an open one with one: ",
         "SELECT id FROM pgqrs_runs WHERE (state <> 0) <> (finished_at <> 0) LIMIT 1"},
        {"a run whose message is in another queue than its workflow: ",
         "SELECT r.id FROM pgqrs_runs r JOIN pgqrs_workflows w ON w.id = r.workflow_id"
         " JOIN pgqrs_messages m ON m.id = r.id WHERE m.queue_id <> w.queue_id LIMIT 1"},
        {"two runs of a workflow with one idempotency key, one is: ",
         "SELECT max(id) FROM pgqrs_runs WHERE idempotency_key IS NOT NULL"
         " GROUP BY workflow_id, idempotency_key HAVING count(*) > 1 LIMIT 1"},
        {"a step without its run: ", "SELECT run_id FROM pgqrs_steps s WHERE NOT EXISTS"
                                     " (SELECT 1 FROM pgqrs_runs WHERE id = s.run_id) LIMIT 1"},
        {"an event without its run: ", "SELECT run_id FROM pgqrs_run_events e WHERE NOT EXISTS"
                                       " (SELECT 1 FROM pgqrs_runs WHERE id = e.run_id) LIMIT 1"},
        {"a value without its run: ", "SELECT run_id FROM pgqrs_run_values v WHERE NOT EXISTS"
                                      " (SELECT 1 FROM pgqrs_runs WHERE id = v.run_id) LIMIT 1"}};
    size_t i;
    for (i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        pgqrsi_sqlite_query query = pgqrsi_sqlite_query_text(self, checks[i][1]);
        bool found = pgqrsi_sqlite_next(&query);
        int64_t id = found ? pgqrsi_sqlite_int(&query, 0) : 0;
        pgqrs_result result = pgqrsi_sqlite_end(&query);
        char number[24];
        if (result != PGQRS_OK) return result;
        snprintf(number, sizeof(number), "%lld", (long long)id);
        if (found) return pgqrsi_sqlite_damaged(self, checks[i][0], number);
    }
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_verify_pages(pgqrsi_sqlite *self)
{
    static const char *const checks[] = {"PRAGMA quick_check(pgqrs_meta)",      "PRAGMA quick_check(pgqrs_queues)",
                                         "PRAGMA quick_check(pgqrs_messages)",  "PRAGMA quick_check(pgqrs_workers)",
                                         "PRAGMA quick_check(pgqrs_workflows)", "PRAGMA quick_check(pgqrs_runs)",
                                         "PRAGMA quick_check(pgqrs_steps)",     "PRAGMA quick_check(pgqrs_run_events)",
                                         "PRAGMA quick_check(pgqrs_run_values)"};
    size_t i;
    for (i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        pgqrsi_sqlite_query query = pgqrsi_sqlite_query_text(self, checks[i]);
        const char *text =
            pgqrsi_sqlite_next(&query) ? (const char *)pgqrsi_sqlite3.column_text(query.statement, 0) : NULL;
        pgqrs_result result = PGQRS_OK, ended;
        if (text && strcmp(text, "ok") != 0) result = pgqrsi_sqlite_damaged(self, "", text);
        ended = pgqrsi_sqlite_end(&query);
        if (ended != PGQRS_OK) return ended;
        if (result != PGQRS_OK) return result;
    }
    return PGQRS_OK;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_verify(void *context)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result;
    self->schema_known = false;
    result = pgqrsi_sqlite_begin_read(self);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_verify_columns(self);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_verify_names(self);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_verify_pages(self);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_verify_rows(self);
    return pgqrsi_sqlite_finish(self, result);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>queues
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrsi_sqlite_queue {
    int64_t id;
    int64_t lease_ms;
    int64_t max_attempts;
    bool paused;
} pgqrsi_sqlite_queue;

/* Always asked of the database: another process may have removed the queue and made it again. queue->id 0: there is none. */
static pgqrs_result pgqrsi_sqlite_find_queue(pgqrsi_sqlite *self, const char *name, pgqrsi_sqlite_queue *queue)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_QUEUE_BY_NAME_SQL);
    memset(queue, 0, sizeof(*queue));
    pgqrsi_sqlite_put_text(&query, name);
    if (pgqrsi_sqlite_next(&query)) {
        queue->id = pgqrsi_sqlite_int(&query, 0);
        queue->lease_ms = pgqrsi_sqlite_int(&query, 1);
        queue->max_attempts = pgqrsi_sqlite_int(&query, 2);
        queue->paused = pgqrsi_sqlite_int(&query, 3) != 0;
    }
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_need_queue(pgqrsi_sqlite *self, const char *name, pgqrsi_sqlite_queue *queue)
{
    pgqrs_result result = pgqrsi_sqlite_find_queue(self, name, queue);
    return result == PGQRS_OK && queue->id == 0 ? pgqrsi_sqlite_no_queue(self, name) : result;
}

/* Ids of queues and workers are counted, so that none is ever used twice. */
static pgqrs_result pgqrsi_sqlite_next_id(pgqrsi_sqlite *self, const char *key, int64_t *id)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_META_GET_SQL);
    pgqrs_result result;
    *id = 0;
    pgqrsi_sqlite_put_text(&query, key);
    if (pgqrsi_sqlite_next(&query)) *id = pgqrsi_sqlite_int(&query, 0);
    result = pgqrsi_sqlite_end(&query);
    ++*id;
    return result == PGQRS_OK ? pgqrsi_sqlite_meta_set(self, key, *id) : result;
}

static pgqrs_result pgqrsi_sqlite_insert_queue(pgqrsi_sqlite *self, int64_t now_us, const char *name,
                                               const pgqrs_queue_desc *settings, bool *created)
{
    pgqrsi_sqlite_queue queue;
    pgqrsi_sqlite_query query;
    int64_t id;
    pgqrs_result result = pgqrsi_sqlite_find_queue(self, name, &queue);
    if (result != PGQRS_OK || queue.id != 0) return result;
    result = pgqrsi_sqlite_next_id(self, "max_queue_id", &id);
    if (result != PGQRS_OK) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_QUEUE_INSERT_SQL);
    pgqrsi_sqlite_put(&query, id);
    pgqrsi_sqlite_put_text(&query, name);
    pgqrsi_sqlite_put(&query, settings->lease_ms);
    pgqrsi_sqlite_put(&query, settings->max_attempts);
    pgqrsi_sqlite_put(&query, settings->backoff_ms);
    pgqrsi_sqlite_put(&query, settings->backoff_max_ms);
    pgqrsi_sqlite_put(&query, settings->retention_ms);
    pgqrsi_sqlite_put(&query, settings->dead_retention_ms);
    pgqrsi_sqlite_put(&query, settings->paused);
    pgqrsi_sqlite_put(&query, now_us);
    result = pgqrsi_sqlite_run(&query);
    *created = result == PGQRS_OK;
    return result;
}

static pgqrs_result pgqrsi_sqlite_queue_create(void *context, int64_t now_us, const char *name,
                                               const pgqrs_queue_desc *settings, bool *created)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrsi_sqlite_queue queue;
    pgqrs_result result = pgqrsi_sqlite_ready_to_read(self);
    *created = false;
    /* Programs create their queues at every start: most are there and need no write. */
    if (result == PGQRS_OK) result = pgqrsi_sqlite_find_queue(self, name, &queue);
    if (result != PGQRS_OK || queue.id != 0) return result;
    result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_insert_queue(self, now_us, name, settings, created));
    if (result != PGQRS_OK) *created = false;
    return result;
}

static pgqrs_result pgqrsi_sqlite_change_queue(pgqrsi_sqlite *self, const char *name,
                                               const pgqrs_backend_queue_change *change)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_QUEUE_CHANGE_SQL);
    pgqrs_result result;
    pgqrsi_sqlite_put_text(&query, name);
    pgqrsi_sqlite_put(&query, change->settings.lease_ms);
    pgqrsi_sqlite_put(&query, change->settings.max_attempts);
    pgqrsi_sqlite_put(&query, change->settings.backoff_ms);
    pgqrsi_sqlite_put(&query, change->settings.backoff_max_ms);
    pgqrsi_sqlite_put(&query, change->settings.retention_ms);
    pgqrsi_sqlite_put(&query, change->settings.dead_retention_ms);
    pgqrsi_sqlite_put(&query, change->paused);
    result = pgqrsi_sqlite_run(&query);
    if (result != PGQRS_OK) return result;
    if (change->paused == PGQRS_OFF) self->wake = true;
    return pgqrsi_sqlite_changes(self) ? PGQRS_OK : pgqrsi_sqlite_no_queue(self, name);
}

static pgqrs_result pgqrsi_sqlite_queue_change(void *context, const char *name,
                                               const pgqrs_backend_queue_change *change)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_change_queue(self, name, change));
}

static void pgqrsi_sqlite_read_queue(pgqrsi_sqlite_query *query, void *result, pgqrs_queue *queue)
{
    queue->id = pgqrsi_sqlite_int(query, 0);
    queue->name = pgqrsi_sqlite_copy(query, result, 1, NULL);
    queue->settings.lease_ms = pgqrsi_sqlite_int(query, 2);
    queue->settings.max_attempts = (int32_t)pgqrsi_sqlite_int(query, 3);
    queue->settings.backoff_ms = pgqrsi_sqlite_int(query, 4);
    queue->settings.backoff_max_ms = pgqrsi_sqlite_int(query, 5);
    queue->settings.retention_ms = pgqrsi_sqlite_int(query, 6);
    queue->settings.dead_retention_ms = pgqrsi_sqlite_int(query, 7);
    queue->settings.paused = pgqrsi_sqlite_int(query, 8) != 0;
    queue->created_at_us = pgqrsi_sqlite_int(query, 9);
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_queue_list(void *context, const char *name, int64_t after_id,
                                                         size_t limit, pgqrs_queues **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_queues *list;
    pgqrs_queue *items;
    pgqrsi_sqlite_query query;
    pgqrs_result result = pgqrsi_sqlite_ready_to_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    if (name || limit == 0) limit = 1;
    list = (pgqrs_queues *)pgqrs_backend_result_new(self->store, sizeof(*list), limit * (sizeof(*items) + 32));
    items = list ? (pgqrs_queue *)pgqrs_backend_result_alloc(list, limit * sizeof(*items)) : NULL;
    if (!items) {
        pgqrs_free(list);
        return pgqrsi_sqlite_no_memory(self);
    }
    list->items = items;
    query = pgqrsi_sqlite_query_new(self, name ? PGQRSI_SQLITE_QUEUE_GET_SQL : PGQRSI_SQLITE_QUEUE_LIST_SQL);
    if (name) {
        pgqrsi_sqlite_put_text(&query, name);
    } else {
        pgqrsi_sqlite_put(&query, after_id);
        pgqrsi_sqlite_put(&query, (int64_t)limit);
    }
    while (list->count < limit && pgqrsi_sqlite_next(&query))
        pgqrsi_sqlite_read_queue(&query, list, &items[list->count++]);
    result = pgqrsi_sqlite_end(&query);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

/* Whether messages of a queue can be runs; queue_id 0: of any. Most stores have no workflow, and pay just for asking. */
static pgqrs_result pgqrsi_sqlite_has_runs(pgqrsi_sqlite *self, int64_t queue_id, bool *has)
{
    int64_t count = 0;
    pgqrs_result result;
    if (queue_id)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_WORKFLOWS_USING_SQL, &queue_id, 1, &count);
    else
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_WORKFLOW_ANY_SQL, NULL, 0, &count);
    *has = count > 0;
    return result;
}

/* All that is stored of one run, if there is any; its message stays. */
static pgqrs_result pgqrsi_sqlite_drop_run(pgqrsi_sqlite *self, int64_t id)
{
    pgqrs_result result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_RUN_DROP_SQL, &id, 1);
    if (result != PGQRS_OK || pgqrsi_sqlite_changes(self) == 0) return result;
    self->wake = true; /* somebody may wait for its end */
    result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_RUN_DROP_STEPS_SQL, &id, 1);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_RUN_DROP_EVENTS_SQL, &id, 1);
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_RUN_DROP_VALUES_SQL, &id, 1) : result;
}

/* The same for all whose ids a subquery over messages or workflows gives. */
static pgqrs_result pgqrsi_sqlite_drop_runs(pgqrsi_sqlite *self, const char *ids, const int64_t *values, int count)
{
    static const char *const rows[] = {"pgqrs_steps WHERE run_id", "pgqrs_run_events WHERE run_id",
                                       "pgqrs_run_values WHERE run_id", "pgqrs_runs WHERE id"};
    pgqrs_result result = PGQRS_OK;
    size_t i;
    for (i = 0; i < sizeof(rows) / sizeof(rows[0]) && result == PGQRS_OK; i++) {
        pgqrsi_sqlite_query query;
        char sql[400];
        int k;
        snprintf(sql, sizeof(sql), "DELETE FROM %s IN (%s)", rows[i], ids);
        query = pgqrsi_sqlite_query_text(self, sql);
        for (k = 0; k < count; k++)
            pgqrsi_sqlite_put(&query, values[k]);
        result = pgqrsi_sqlite_run(&query);
    }
    self->wake = true;
    return result;
}

static pgqrs_result pgqrsi_sqlite_refuse_workflow(pgqrsi_sqlite *self, const char *name, int64_t queue_id)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKFLOW_USING_SQL);
    char workflow[256] = "";
    pgqrs_result result;
    pgqrsi_sqlite_put(&query, queue_id);
    if (pgqrsi_sqlite_next(&query)) {
        const char *text = (const char *)pgqrsi_sqlite3.column_text(query.statement, 0);
        if (text)
            snprintf(workflow, sizeof(workflow), "%s", text);
        else
            query.rc = SQLITE_NOMEM;
    }
    result = pgqrsi_sqlite_end(&query);
    if (result != PGQRS_OK) return result;
    return pgqrs_backend_fail(self->store, PGQRS_ERR_QUEUE_NOT_EMPTY, 0, NULL,
                              "queue \"%s\" is used by the workflow \"%s\"; delete that first, or force", name,
                              workflow);
}

/* With the workflows go all of their runs, also those whose message is gone. */
static pgqrs_result pgqrsi_sqlite_drop_workflows_using(pgqrsi_sqlite *self, int64_t queue_id)
{
    pgqrs_result result = pgqrsi_sqlite_drop_runs(
        self, "SELECT id FROM pgqrs_runs WHERE workflow_id IN (SELECT id FROM pgqrs_workflows WHERE queue_id = ?1)",
        &queue_id, 1);
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_WORKFLOW_DROP_USING_SQL, &queue_id, 1)
                              : result;
}

static pgqrs_result pgqrsi_sqlite_drop_queue_rows(pgqrsi_sqlite *self, int64_t id)
{
    pgqrs_result result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_KEEP_MAX_ID_SQL, NULL, 0);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_QUEUE_DROP_MESSAGES_SQL, &id, 1);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_QUEUE_DROP_WORKERS_SQL, &id, 1);
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_QUEUE_DROP_SQL, &id, 1) : result;
}

static pgqrs_result pgqrsi_sqlite_drop_queue(pgqrsi_sqlite *self, const char *name, bool force)
{
    pgqrsi_sqlite_queue queue;
    int64_t messages = 0, workers = 0;
    bool runs = false;
    pgqrs_result result = pgqrsi_sqlite_need_queue(self, name, &queue);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_has_runs(self, queue.id, &runs);
    if (result == PGQRS_OK && runs && !force) return pgqrsi_sqlite_refuse_workflow(self, name, queue.id);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_QUEUE_MESSAGES_SQL, &queue.id, 1, &messages);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_QUEUE_WORKERS_SQL, &queue.id, 1, &workers);
    if (result == PGQRS_OK && !force && (messages || workers))
        return pgqrs_backend_fail(
            self->store, PGQRS_ERR_QUEUE_NOT_EMPTY, 0, NULL,
            "queue \"%s\" still has %lld messages and %lld live workers; purge and stop them, or force", name,
            (long long)messages, (long long)workers);
    if (result == PGQRS_OK && runs) result = pgqrsi_sqlite_drop_workflows_using(self, queue.id);
    return result == PGQRS_OK ? pgqrsi_sqlite_drop_queue_rows(self, queue.id) : result;
}

static pgqrs_result pgqrsi_sqlite_queue_delete(void *context, int64_t now_us, const char *name, bool force)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    (void)now_us;
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_drop_queue(self, name, force));
}

static pgqrs_result pgqrsi_sqlite_purge(pgqrsi_sqlite *self, int64_t now_us, const char *name,
                                        const pgqrs_purge_desc *desc, int64_t *removed)
{
    static const struct {
        pgqrs_purge what;
        pgqrsi_sqlite_statement drop;
        const char *ids;
    } parts[] = {
        {PGQRS_PURGE_ARCHIVED, PGQRSI_SQLITE_PURGE_ARCHIVED_SQL,
         "SELECT id FROM " PGQRSI_SQLITE_OLD("4", "finished_at")},
        {PGQRS_PURGE_DEAD, PGQRSI_SQLITE_PURGE_DEAD_SQL, "SELECT id FROM " PGQRSI_SQLITE_OLD("5", "finished_at")},
        {PGQRS_PURGE_UNFINISHED, PGQRSI_SQLITE_PURGE_READY_SQL,
         "SELECT id FROM " PGQRSI_SQLITE_OLD("1", "enqueued_at")},
        {PGQRS_PURGE_UNFINISHED, PGQRSI_SQLITE_PURGE_DELAYED_SQL,
         "SELECT id FROM " PGQRSI_SQLITE_OLD("2", "enqueued_at")},
        {PGQRS_PURGE_UNFINISHED, PGQRSI_SQLITE_PURGE_LEASED_SQL,
         "SELECT id FROM " PGQRSI_SQLITE_OLD("3", "enqueued_at")}};
    pgqrsi_sqlite_queue queue;
    int64_t values[2];
    bool runs = false;
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_need_queue(self, name, &queue);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_has_runs(self, queue.id, &runs);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_KEEP_MAX_ID_SQL, NULL, 0);
    values[0] = queue.id;
    values[1] = desc->older_than_ms ? now_us - desc->older_than_ms * 1000 : INT64_MAX;
    for (i = 0; i < sizeof(parts) / sizeof(parts[0]) && result == PGQRS_OK; i++) {
        if (desc->what != PGQRS_PURGE_ALL && desc->what != parts[i].what) continue;
        if (runs) result = pgqrsi_sqlite_drop_runs(self, parts[i].ids, values, 2);
        if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, parts[i].drop, values, 2);
        if (result == PGQRS_OK) *removed += pgqrsi_sqlite_changes(self);
    }
    return result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_queue_purge(void *context, int64_t now_us, const char *name,
                                                          const pgqrs_purge_desc *desc, int64_t *removed)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    *removed = 0;
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_purge(self, now_us, name, desc, removed));
    if (result != PGQRS_OK) *removed = 0;
    return result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>steps: how messages change their state
 * --------------------------------------------------------------------------------------------------------------- */

/* The next place at the end of the line of a queue and priority. */
static pgqrs_result pgqrsi_sqlite_tail(pgqrsi_sqlite *self, int64_t queue_id, int64_t priority, int64_t *ord)
{
    if (!self->tail_known || self->tail_queue != queue_id || self->tail_priority != priority) {
        const int64_t values[] = {queue_id, priority};
        pgqrs_result result;
        self->tail = 0;
        self->tail_known = false;
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_TAIL_SQL, values, 2, &self->tail);
        if (result != PGQRS_OK) return result;
        self->tail_known = true;
        self->tail_queue = queue_id;
        self->tail_priority = priority;
    }
    *ord = ++self->tail;
    return PGQRS_OK;
}

/* A leased message that becomes deliverable again. */
typedef struct pgqrsi_sqlite_return {
    int64_t id;
    int64_t queue_id;
    int64_t priority;
    int64_t attempt;
    int64_t due_us; /* 0: now */
    bool set_reason;
    const char *reason;
} pgqrsi_sqlite_return;

static pgqrs_result pgqrsi_sqlite_put_back(pgqrsi_sqlite *self, const pgqrsi_sqlite_return *back)
{
    pgqrsi_sqlite_query query;
    int64_t ord = 0;
    if (!back->due_us) {
        pgqrs_result result = pgqrsi_sqlite_tail(self, back->queue_id, back->priority, &ord);
        if (result != PGQRS_OK) return result;
    }
    self->wake = true;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RETURN_SQL);
    pgqrsi_sqlite_put(&query, back->id);
    pgqrsi_sqlite_put(&query, back->due_us ? PGQRS_DELAYED : PGQRS_READY);
    pgqrsi_sqlite_put(&query, ord);
    pgqrsi_sqlite_put(&query, back->due_us);
    pgqrsi_sqlite_put(&query, back->attempt);
    pgqrsi_sqlite_put(&query, back->set_reason ? 1 : 0);
    pgqrsi_sqlite_put_text(&query, back->reason);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_bury(pgqrsi_sqlite *self, int64_t id, int64_t now_us, const char *reason)
{
    pgqrsi_sqlite_query query;
    int64_t run_id = 0;
    pgqrs_result result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_RUN_THERE_SQL, &id, 1, &run_id);
    if (result != PGQRS_OK) return result;
    if (run_id) self->wake = true; /* this is its end, and somebody may wait for that */
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_BURY_SQL);
    pgqrsi_sqlite_put(&query, id);
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put_text(&query, reason);
    return pgqrsi_sqlite_run(&query);
}

/* To the dead letters when its attempts are used up, back into the line otherwise. */
static pgqrs_result pgqrsi_sqlite_put_back_or_bury(pgqrsi_sqlite *self, const pgqrsi_sqlite_return *back,
                                                   int64_t max_attempts, int64_t now_us)
{
    if (back->attempt < max_attempts) return pgqrsi_sqlite_put_back(self, back);
    return pgqrsi_sqlite_bury(self, back->id, now_us, back->reason ? back->reason : "attempts used up");
}

/* Due delays to the end of the line, in the order they fell due. */
static pgqrs_result pgqrsi_sqlite_promote(pgqrsi_sqlite *self, int64_t queue_id, int64_t now_us, size_t limit,
                                          size_t *count)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_FIND_DUE_SQL);
    size_t i;
    pgqrs_result result;
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put(&query, queue_id);
    pgqrsi_sqlite_put(&query, (int64_t)limit);
    result = pgqrsi_sqlite_collect(&query, count);
    for (i = 0; i < *count && result == PGQRS_OK; i++) {
        int64_t values[2];
        values[0] = self->rows[i].v[0];
        result = pgqrsi_sqlite_tail(self, queue_id, self->rows[i].v[1], &values[1]);
        if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_PROMOTE_SQL, values, 2);
    }
    return result;
}

static pgqrs_result pgqrsi_sqlite_return_run_out(pgqrsi_sqlite *self, const pgqrsi_sqlite_row *row, int64_t queue_id,
                                                 int64_t max_attempts, int64_t now_us)
{
    pgqrsi_sqlite_return back;
    char reason[96];
    memset(&back, 0, sizeof(back));
    back.id = row->v[0];
    back.queue_id = queue_id;
    back.priority = row->v[1];
    back.attempt = row->v[2];
    back.set_reason = true;
    back.reason = "lease expired";
    if (back.attempt >= max_attempts) {
        snprintf(reason, sizeof(reason), "lease expired on attempt %lld of %lld", (long long)back.attempt,
                 (long long)max_attempts);
        back.reason = reason;
    }
    return pgqrsi_sqlite_put_back_or_bury(self, &back, max_attempts, now_us);
}

/* Leases that ran out: their messages are deliverable again without anybody calling anything. */
static pgqrs_result pgqrsi_sqlite_sweep(pgqrsi_sqlite *self, int64_t queue_id, int64_t max_attempts, int64_t now_us,
                                        size_t limit, size_t *count)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_FIND_RUN_OUT_SQL);
    size_t i;
    pgqrs_result result;
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put(&query, queue_id);
    pgqrsi_sqlite_put(&query, (int64_t)limit);
    result = pgqrsi_sqlite_collect(&query, count);
    for (i = 0; i < *count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_return_run_out(self, &self->rows[i], queue_id, max_attempts, now_us);
    if (result == PGQRS_OK && *count) {
        int64_t values[2];
        values[0] = queue_id;
        values[1] = (int64_t)*count;
        result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_QUEUE_EXPIRIES_SQL, values, 2);
    }
    return result;
}

static pgqrs_result pgqrsi_sqlite_expire(pgqrsi_sqlite *self, int64_t id, int64_t now_us)
{
    const int64_t values[] = {id, now_us};
    return pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_EXPIRE_SQL, values, 2);
}

static pgqrs_result pgqrsi_sqlite_expire_some(pgqrsi_sqlite *self, int64_t queue_id, int64_t now_us, size_t limit,
                                              size_t *count)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_FIND_EXPIRED_SQL);
    size_t i;
    pgqrs_result result;
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put(&query, queue_id);
    pgqrsi_sqlite_put(&query, (int64_t)limit);
    result = pgqrsi_sqlite_collect(&query, count);
    for (i = 0; i < *count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_expire(self, self->rows[i].v[0], now_us);
    return result;
}

/* Before the row with this id goes: the id must not come back. */
static pgqrs_result pgqrsi_sqlite_keep_id(pgqrsi_sqlite *self, int64_t id)
{
    return pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_KEEP_ID_SQL, &id, 1);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>enqueue
 * --------------------------------------------------------------------------------------------------------------- */

/* *holder: the unfinished message that has the key, 0 when the key is free. One that nobody started in time is over, even
 * when nobody has put it away yet, and does not keep its key. */
static pgqrs_result pgqrsi_sqlite_key_holder(pgqrsi_sqlite *self, int64_t queue_id, const char *key, int64_t now_us,
                                             int64_t *holder)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_DEDUP_SQL);
    bool over = false;
    pgqrs_result result;
    *holder = 0;
    pgqrsi_sqlite_put(&query, queue_id);
    pgqrsi_sqlite_put_text(&query, key);
    if (pgqrsi_sqlite_next(&query)) {
        int64_t expires_us = pgqrsi_sqlite_int(&query, 2);
        *holder = pgqrsi_sqlite_int(&query, 0);
        over = pgqrsi_sqlite_int(&query, 1) == 0 && expires_us > 0 && expires_us <= now_us;
    }
    result = pgqrsi_sqlite_end(&query);
    if (result != PGQRS_OK || !over) return result;
    result = pgqrsi_sqlite_expire(self, *holder, now_us);
    *holder = 0;
    return result;
}

static pgqrs_result pgqrsi_sqlite_insert(pgqrsi_sqlite *self, const pgqrs_backend_message *item, int64_t queue_id,
                                         int64_t now_us, int64_t id)
{
    int64_t due_us = pgqrsi_sqlite_when(item->due, now_us);
    bool expires = item->expires.at_us != 0 || item->expires.delay_us != 0;
    bool delayed = due_us > now_us;
    int64_t ord = 0;
    pgqrsi_sqlite_query query;
    if (!delayed) {
        pgqrs_result result = pgqrsi_sqlite_tail(self, queue_id, item->priority, &ord);
        if (result != PGQRS_OK) return result;
    }
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_INSERT_SQL);
    pgqrsi_sqlite_put(&query, id);
    pgqrsi_sqlite_put(&query, queue_id);
    pgqrsi_sqlite_put(&query, delayed ? PGQRS_DELAYED : PGQRS_READY);
    pgqrsi_sqlite_put(&query, item->priority);
    pgqrsi_sqlite_put(&query, ord);
    pgqrsi_sqlite_put(&query, delayed ? due_us : 0);
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put(&query, expires ? pgqrsi_sqlite_when(item->expires, now_us) : 0);
    pgqrsi_sqlite_put_text(&query, item->dedup_key);
    pgqrsi_sqlite_put_text(&query, item->producer);
    pgqrsi_sqlite_put_bytes(&query, item->payload, item->payload_size);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_enqueue_all(pgqrsi_sqlite *self, const pgqrs_backend_enqueue *request,
                                              pgqrs_receipt *receipts)
{
    pgqrsi_sqlite_queue queue;
    int64_t id = 0;
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_need_queue(self, request->queue, &queue);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_MAX_ID_SQL, NULL, 0, &id);
    for (i = 0; i < request->count && result == PGQRS_OK; i++) {
        const pgqrs_backend_message *item = &request->items[i];
        pgqrs_receipt receipt;
        memset(&receipt, 0, sizeof(receipt));
        if (item->dedup_key)
            result = pgqrsi_sqlite_key_holder(self, queue.id, item->dedup_key, request->now_us, &receipt.id);
        receipt.duplicate = receipt.id != 0;
        if (result == PGQRS_OK && !receipt.duplicate) {
            receipt.id = ++id;
            result = pgqrsi_sqlite_insert(self, item, queue.id, request->now_us, id);
            self->wake = true;
        }
        if (receipts) receipts[i] = receipt;
    }
    return result;
}

static pgqrs_result pgqrsi_sqlite_enqueue(void *context, const pgqrs_backend_enqueue *request, pgqrs_receipt *receipts)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    self->must_flush = true; /* "it is there already" is a promise too, about somebody else's commit */
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_enqueue_all(self, request, receipts));
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>settle
 * --------------------------------------------------------------------------------------------------------------- */

/* A leased message as far as verdicts and extensions need it. */
typedef struct pgqrsi_sqlite_leased {
    bool held; /* by the lease in question, which has not run out */
    int64_t priority;
    int64_t attempt;
    int64_t queue_id;
    int64_t max_attempts;
    int64_t lease_until_us;
    int64_t queue_lease_ms;
} pgqrsi_sqlite_leased;

static pgqrs_result pgqrsi_sqlite_find_leased(pgqrsi_sqlite *self, int64_t id, int64_t lease, int64_t now_us,
                                              pgqrsi_sqlite_leased *leased)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_LEASED_SQL);
    memset(leased, 0, sizeof(*leased));
    pgqrsi_sqlite_put(&query, id);
    pgqrsi_sqlite_put(&query, lease);
    pgqrsi_sqlite_put(&query, now_us);
    if (pgqrsi_sqlite_next(&query)) {
        leased->held = true;
        leased->priority = pgqrsi_sqlite_int(&query, 1);
        leased->attempt = pgqrsi_sqlite_int(&query, 2);
        leased->queue_id = pgqrsi_sqlite_int(&query, 3);
        leased->max_attempts = pgqrsi_sqlite_int(&query, 4);
        leased->lease_until_us = pgqrsi_sqlite_int(&query, 5);
        leased->queue_lease_ms = pgqrsi_sqlite_int(&query, 6);
    }
    return pgqrsi_sqlite_end(&query);
}

/* Archive and delete: one conditional statement. */
static pgqrs_result pgqrsi_sqlite_finish_message(pgqrsi_sqlite *self, pgqrs_backend_verdict *verdict, int64_t now_us)
{
    const int64_t values[] = {verdict->id, verdict->lease, now_us};
    bool archive = verdict->verdict == PGQRS_ARCHIVE;
    pgqrs_result result = archive ? PGQRS_OK : pgqrsi_sqlite_keep_id(self, verdict->id);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_run_with(self, archive ? PGQRSI_SQLITE_ARCHIVE_SQL : PGQRSI_SQLITE_DELETE_SQL, values, 3);
    verdict->result = result == PGQRS_OK && pgqrsi_sqlite_changes(self) == 0 ? PGQRS_ERR_LEASE_LOST : result;
    return result;
}

/* A run as a worker's write finds it. */
typedef struct pgqrsi_sqlite_fence {
    bool held; /* the lease is the message's own and not over, and the run is open */
    bool cancel;
    bool started;
    int64_t queue_id;
    int64_t lease_until_us;
} pgqrsi_sqlite_fence;

static pgqrs_result pgqrsi_sqlite_find_fence(pgqrsi_sqlite *self, const pgqrs_backend_run_write *write, int64_t now_us,
                                             pgqrsi_sqlite_fence *fence)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_FENCE_SQL);
    memset(fence, 0, sizeof(*fence));
    pgqrsi_sqlite_put(&query, write->run_id);
    pgqrsi_sqlite_put(&query, write->lease);
    pgqrsi_sqlite_put(&query, now_us);
    if (pgqrsi_sqlite_next(&query)) {
        fence->held = true;
        fence->queue_id = pgqrsi_sqlite_int(&query, 0);
        fence->lease_until_us = pgqrsi_sqlite_int(&query, 1);
        fence->cancel = pgqrsi_sqlite_int(&query, 2) != 0;
        fence->started = pgqrsi_sqlite_int(&query, 3) != 0;
    }
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_put_step(pgqrsi_sqlite *self, int64_t run_id, const pgqrs_step_info *step)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_STEP_PUT_SQL);
    pgqrsi_sqlite_put(&query, run_id);
    pgqrsi_sqlite_put(&query, step->number);
    pgqrsi_sqlite_put(&query, step->kind);
    pgqrsi_sqlite_put(&query, step->state);
    pgqrsi_sqlite_put(&query, step->retries);
    pgqrsi_sqlite_put(&query, step->started_at_us);
    pgqrsi_sqlite_put(&query, step->finished_at_us);
    pgqrsi_sqlite_put(&query, step->due_at_us);
    pgqrsi_sqlite_put_text(&query, step->name);
    pgqrsi_sqlite_put_text(&query, step->key);
    pgqrsi_sqlite_put_text(&query, step->error_code);
    pgqrsi_sqlite_put_text(&query, step->error_message);
    pgqrsi_sqlite_put_text(&query, step->input);
    pgqrsi_sqlite_put_bytes(&query, step->output, step->output_size);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_put_value(pgqrsi_sqlite *self, int64_t run_id, int64_t now_us,
                                            const pgqrs_backend_value *value)
{
    pgqrsi_sqlite_query query =
        pgqrsi_sqlite_query_new(self, value->value ? PGQRSI_SQLITE_VALUE_PUT_SQL : PGQRSI_SQLITE_VALUE_DROP_SQL);
    pgqrsi_sqlite_put(&query, run_id);
    if (value->value) pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put_text(&query, value->name);
    if (value->value) pgqrsi_sqlite_put_bytes(&query, value->value, value->value_size);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_end_run(pgqrsi_sqlite *self, const pgqrs_backend_run_write *write, bool cancelled,
                                          int64_t now_us)
{
    bool failed = write->state == PGQRS_RUN_ERROR;
    bool success = write->state == PGQRS_RUN_SUCCESS && !cancelled;
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_END_SQL);
    pgqrsi_sqlite_put(&query, write->run_id);
    pgqrsi_sqlite_put(&query, failed ? PGQRS_RUN_ERROR : success ? PGQRS_RUN_SUCCESS : PGQRS_RUN_CANCELLED);
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put(&query, write->started_at_us);
    pgqrsi_sqlite_put_text(&query, failed ? write->error_code : NULL);
    pgqrsi_sqlite_put_text(&query, failed ? write->error_message : NULL);
    pgqrsi_sqlite_put_text(&query, failed ? write->error_step : NULL);
    pgqrsi_sqlite_put_bytes(&query, success ? write->output : NULL, write->output_size);
    self->wake = true; /* somebody may wait for it */
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_suspend_run(pgqrsi_sqlite *self, const pgqrs_backend_run_write *write)
{
    bool waits = write->wait != PGQRS_WAIT_NONE;
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_GO_ON_SQL);
    pgqrsi_sqlite_put(&query, write->run_id);
    pgqrsi_sqlite_put(&query, write->retries);
    pgqrsi_sqlite_put(&query, write->wait);
    pgqrsi_sqlite_put(&query, waits ? write->wait_until_us : 0);
    pgqrsi_sqlite_put(&query, write->started_at_us);
    pgqrsi_sqlite_put_text(&query, waits ? write->wait_name : NULL);
    return pgqrsi_sqlite_run(&query);
}

/* The run's row, which most steps leave as it is. */
static pgqrs_result pgqrsi_sqlite_move_run(pgqrsi_sqlite *self, const pgqrs_backend_run_write *write,
                                           const pgqrsi_sqlite_fence *fence, int64_t now_us)
{
    int64_t values[2];
    if (write->state == PGQRS_RUN_SUCCESS || write->state == PGQRS_RUN_ERROR || write->state == PGQRS_RUN_CANCELLED)
        return pgqrsi_sqlite_end_run(self, write, fence->cancel, now_us);
    if ((int)write->state != 0) return pgqrsi_sqlite_suspend_run(self, write);
    if (fence->started || !write->started_at_us) return PGQRS_OK;
    values[0] = write->run_id;
    values[1] = write->started_at_us;
    return pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_RUN_STARTED_SQL, values, 2);
}

/* The other messages of the lease go along, as with pgqrs_extend. */
static pgqrs_result pgqrsi_sqlite_prolong(pgqrsi_sqlite *self, const pgqrs_backend_run_write *write,
                                          const pgqrsi_sqlite_fence *fence, int64_t now_us)
{
    int64_t values[4];
    values[0] = fence->queue_id;
    values[1] = fence->lease_until_us;
    values[2] = write->lease;
    values[3] = now_us + write->lease_us;
    if (!write->lease_us || values[3] <= fence->lease_until_us) return PGQRS_OK;
    return pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_EXTEND_SQL, values, 4);
}

/* Inside a write transaction nobody else can take the message, so that one look at the lease is enough. */
static pgqrs_result pgqrsi_sqlite_store_run(pgqrsi_sqlite *self, pgqrs_backend_run_write *write, int64_t now_us)
{
    pgqrsi_sqlite_fence fence;
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_find_fence(self, write, now_us, &fence);
    write->cancel = fence.cancel;
    write->result = fence.held ? PGQRS_OK : PGQRS_ERR_LEASE_LOST;
    if (result != PGQRS_OK || !fence.held) return result;
    result = pgqrsi_sqlite_prolong(self, write, &fence, now_us);
    for (i = 0; i < write->step_count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_put_step(self, write->run_id, &write->steps[i]);
    for (i = 0; i < write->value_count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_put_value(self, write->run_id, now_us, &write->values[i]);
    return result == PGQRS_OK ? pgqrsi_sqlite_move_run(self, write, &fence, now_us) : result;
}

/* What a run waits for may have come while it was on its way to sleep. */
static pgqrs_result pgqrsi_sqlite_is_wanted(pgqrsi_sqlite *self, const pgqrs_backend_run_write *write, bool *wanted)
{
    int64_t here = 0;
    pgqrs_result result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_EVENT_HERE_SQL, &write->run_id, 1, &here);
    *wanted = write->cancel || here != 0;
    return result;
}

static pgqrs_result pgqrsi_sqlite_give_back(pgqrsi_sqlite *self, const pgqrs_backend_verdict *verdict,
                                            pgqrsi_sqlite_return *back)
{
    bool wanted = false;
    pgqrs_result result = verdict->run ? pgqrsi_sqlite_is_wanted(self, verdict->run, &wanted) : PGQRS_OK;
    if (result != PGQRS_OK) return result;
    if (wanted) back->due_us = 0;
    if (back->attempt > 0) back->attempt--;
    if (verdict->fresh) back->attempt = 0;
    return pgqrsi_sqlite_put_back(self, back);
}

static pgqrs_result pgqrsi_sqlite_settle_one(pgqrsi_sqlite *self, pgqrs_backend_verdict *verdict, int64_t now_us)
{
    pgqrsi_sqlite_leased leased;
    pgqrsi_sqlite_return back;
    pgqrs_result result;
    if (verdict->run) {
        result = pgqrsi_sqlite_store_run(self, verdict->run, now_us);
        verdict->result = verdict->run->result;
        if (result != PGQRS_OK || verdict->result != PGQRS_OK || !verdict->verdict) return result;
    }
    if (verdict->verdict == PGQRS_ARCHIVE || verdict->verdict == PGQRS_DELETE)
        return pgqrsi_sqlite_finish_message(self, verdict, now_us);
    result = pgqrsi_sqlite_find_leased(self, verdict->id, verdict->lease, now_us, &leased);
    if (result != PGQRS_OK) return result;
    verdict->result = leased.held ? PGQRS_OK : PGQRS_ERR_LEASE_LOST;
    if (!leased.held) return PGQRS_OK;
    if (verdict->verdict == PGQRS_REJECT)
        return pgqrsi_sqlite_bury(self, verdict->id, now_us, verdict->reason ? verdict->reason : "rejected");
    memset(&back, 0, sizeof(back));
    back.id = verdict->id;
    back.queue_id = leased.queue_id;
    back.priority = leased.priority;
    back.attempt = leased.attempt;
    back.due_us = pgqrsi_sqlite_when(verdict->due, now_us);
    if (back.due_us <= now_us) back.due_us = 0;
    if (verdict->verdict == PGQRS_GIVE_BACK) return pgqrsi_sqlite_give_back(self, verdict, &back);
    back.set_reason = true;
    back.reason = verdict->reason;
    return pgqrsi_sqlite_put_back_or_bury(self, &back, leased.max_attempts, now_us);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>claim
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrsi_sqlite_claim {
    pgqrs_backend_claim *request;
    pgqrsi_sqlite_queue queue;
    int64_t now_us;
    int64_t lease;
    int64_t lease_until_us;
    pgqrs_messages *out; /* NULL until there is a message */
    const char *name;    /* of the queue, inside out */
    size_t taken;
    size_t bytes;
} pgqrsi_sqlite_claim;

/* A worker that is gone, stopped or registered again may not claim; nor may one that is asked to pause. */
static pgqrs_result pgqrsi_sqlite_admit(pgqrsi_sqlite *self, pgqrs_worker_ref worker, pgqrs_result *refused)
{
    pgqrsi_sqlite_query query;
    *refused = PGQRS_OK;
    if (worker.id == 0) return PGQRS_OK;
    *refused = PGQRS_ERR_WORKER_STOPPED;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKER_BY_ID_SQL);
    pgqrsi_sqlite_put(&query, worker.id);
    if (pgqrsi_sqlite_next(&query) && pgqrsi_sqlite_int(&query, 1) == worker.epoch) {
        int64_t state = pgqrsi_sqlite_int(&query, 2);
        if (state == PGQRS_WORKER_READY || state == PGQRS_WORKER_POLLING) *refused = PGQRS_OK;
        if (state == PGQRS_WORKER_SUSPENDED) *refused = PGQRS_ERR_WORKER_SUSPENDED;
        if (state == PGQRS_WORKER_INTERRUPTED) *refused = PGQRS_ERR_WORKER_INTERRUPTED;
    }
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_beat(pgqrsi_sqlite *self, pgqrs_worker_ref worker, int64_t now_us)
{
    const int64_t values[] = {worker.id, worker.epoch, now_us};
    return pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_WORKER_BEAT_SQL, values, 3);
}

/* Is anything deliverable, and if not, when will something be? */
typedef struct pgqrsi_sqlite_peek {
    bool found; /* the queue */
    bool paused;
    bool work; /* a claim would find something to do */
    int64_t next_due_us;
} pgqrsi_sqlite_peek;

static int64_t pgqrsi_sqlite_sooner(int64_t best_us, pgqrsi_sqlite_query *query, int column)
{
    int64_t at_us;
    if (pgqrsi_sqlite_is_null(query, column)) return best_us;
    at_us = pgqrsi_sqlite_int(query, column);
    return best_us == 0 || at_us < best_us ? at_us : best_us;
}

static pgqrs_result pgqrsi_sqlite_look(pgqrsi_sqlite *self, const char *name, int64_t now_us, pgqrsi_sqlite_peek *peek)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_QUEUE_PEEK_SQL);
    memset(peek, 0, sizeof(*peek));
    peek->next_due_us = -1;
    pgqrsi_sqlite_put_text(&query, name);
    if (pgqrsi_sqlite_next(&query)) {
        bool ready = pgqrsi_sqlite_int(&query, 2) != 0;
        int64_t next_us = pgqrsi_sqlite_sooner(pgqrsi_sqlite_sooner(0, &query, 3), &query, 4);
        peek->found = true;
        peek->paused = pgqrsi_sqlite_int(&query, 1) != 0;
        peek->work = !peek->paused && (ready || (next_us != 0 && next_us <= now_us));
        if (!peek->paused && next_us != 0) peek->next_due_us = next_us > now_us ? next_us - now_us : 0;
        if (!peek->paused && ready) peek->next_due_us = 0;
    }
    return pgqrsi_sqlite_end(&query);
}

/* Takes over the row under the query as the next message of the claim. */
static bool pgqrsi_sqlite_take(pgqrsi_sqlite *self, pgqrsi_sqlite_claim *claim, pgqrsi_sqlite_query *query)
{
    void *buffer = self->messages;
    pgqrs_message *message;
    if (!claim->out) {
        claim->out = (pgqrs_messages *)pgqrs_backend_result_new(self->store, sizeof(*claim->out), self->claim_reserve);
        claim->name = claim->out ? pgqrs_backend_result_text(claim->out, claim->request->queue, -1) : NULL;
        claim->bytes = sizeof(*message) + strlen(claim->request->queue) + 16;
    }
    if (!claim->name ||
        !pgqrsi_sqlite_reserve(self, &buffer, &self->message_capacity, claim->taken + 1, sizeof(*message))) {
        query->rc = SQLITE_NOMEM;
        return false;
    }
    self->messages = (pgqrs_message *)buffer;
    message = &self->messages[claim->taken];
    memset(message, 0, sizeof(*message));
    message->id = pgqrsi_sqlite_int(query, 0);
    message->lease = claim->lease;
    message->payload = pgqrsi_sqlite_copy(query, claim->out, 5, &message->payload_size);
    message->queue = claim->name;
    message->attempt = (int32_t)pgqrsi_sqlite_int(query, 1) + 1;
    message->priority = (int32_t)pgqrsi_sqlite_int(query, 2);
    message->enqueued_at_us = pgqrsi_sqlite_int(query, 3);
    message->lease_until_us = claim->lease_until_us;
    message->worker_id = claim->request->worker.id;
    message->state = PGQRS_LEASED;
    if (!message->payload) return false;
    claim->taken++;
    claim->bytes += sizeof(*message) + message->payload_size + 16;
    return true;
}

/* Reads the head of the line: what may be delivered joins the claim, what expired is noted in self->rows. */
static pgqrs_result pgqrsi_sqlite_read_head(pgqrsi_sqlite *self, pgqrsi_sqlite_claim *claim, size_t *expired)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_HEAD_SQL);
    *expired = 0;
    pgqrsi_sqlite_put(&query, claim->queue.id);
    pgqrsi_sqlite_put(&query, (int64_t)(claim->request->limit - claim->taken));
    while (pgqrsi_sqlite_next(&query)) {
        int64_t expires_us = pgqrsi_sqlite_int(&query, 4);
        if (expires_us > 0 && expires_us <= claim->now_us && pgqrsi_sqlite_int(&query, 1) == 0) {
            void *rows = self->rows;
            if (!pgqrsi_sqlite_reserve(self, &rows, &self->row_capacity, *expired + 1, sizeof(pgqrsi_sqlite_row))) {
                query.rc = SQLITE_NOMEM;
                break;
            }
            self->rows = (pgqrsi_sqlite_row *)rows;
            self->rows[(*expired)++].v[0] = pgqrsi_sqlite_int(&query, 0);
        } else if (!pgqrsi_sqlite_take(self, claim, &query)) {
            break;
        }
    }
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_lease(pgqrsi_sqlite *self, const pgqrsi_sqlite_claim *claim,
                                        const pgqrs_message *message)
{
    int64_t values[5];
    values[0] = message->id;
    values[1] = claim->lease;
    values[2] = claim->lease_until_us;
    values[3] = message->attempt;
    values[4] = message->worker_id;
    return pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_LEASE_SQL, values, 5);
}

/* One round: housekeeping, then the head of the line. *more: another round may find more. */
static pgqrs_result pgqrsi_sqlite_claim_round(pgqrsi_sqlite *self, pgqrsi_sqlite_claim *claim, bool *more)
{
    size_t step = claim->request->limit > PGQRSI_SQLITE_STEP ? claim->request->limit : PGQRSI_SQLITE_STEP;
    size_t due = 0, run_out = 0, expired = 0, first = claim->taken, i;
    pgqrs_result result = pgqrsi_sqlite_promote(self, claim->queue.id, claim->now_us, step, &due);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_sweep(self, claim->queue.id, claim->queue.max_attempts, claim->now_us, step, &run_out);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_read_head(self, claim, &expired);
    for (i = 0; i < expired && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_expire(self, self->rows[i].v[0], claim->now_us);
    for (i = first; i < claim->taken && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_lease(self, claim, &self->messages[i]);
    *more = claim->taken < claim->request->limit && (due == step || run_out == step || expired > 0);
    return result;
}

/* Hands the buffered messages over inside the result object. */
static pgqrs_result pgqrsi_sqlite_hand_over(pgqrsi_sqlite *self, pgqrsi_sqlite_claim *claim)
{
    pgqrs_message *items;
    size_t i;
    self->busy_claims = claim->taken > 0;
    if (claim->taken == 0) return PGQRS_OK;
    items = (pgqrs_message *)pgqrs_backend_result_alloc(claim->out, claim->taken * sizeof(*items));
    if (!items) return pgqrsi_sqlite_no_memory(self);
    memcpy(items, self->messages, claim->taken * sizeof(*items));
    for (i = 0; i < claim->taken; i++)
        items[i].lease_size = (uint32_t)claim->taken;
    claim->out->items = items;
    claim->out->count = claim->taken;
    self->claim_reserve = claim->bytes < (size_t)1 << 20 ? claim->bytes : (size_t)1 << 20;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_claim_rounds(pgqrsi_sqlite *self, pgqrsi_sqlite_claim *claim)
{
    bool more = true;
    int rounds = 0;
    claim->lease = (int64_t)(pgqrs_backend_random(self->store) & (uint64_t)INT64_MAX);
    if (claim->lease == 0) claim->lease = 1;
    claim->lease_until_us =
        claim->now_us + (claim->request->lease_us ? claim->request->lease_us : claim->queue.lease_ms * 1000);
    while (more && rounds++ < 1000) {
        pgqrs_result result = pgqrsi_sqlite_claim_round(self, claim, &more);
        if (result != PGQRS_OK) return result;
    }
    return pgqrsi_sqlite_hand_over(self, claim);
}

static pgqrs_result pgqrsi_sqlite_claim_some(pgqrsi_sqlite *self, pgqrs_backend_claim *request, int64_t now_us,
                                             pgqrs_messages **out)
{
    pgqrsi_sqlite_claim claim;
    pgqrsi_sqlite_peek peek;
    pgqrs_result result;
    memset(&claim, 0, sizeof(claim));
    claim.request = request;
    claim.now_us = now_us;
    result = pgqrsi_sqlite_need_queue(self, request->queue, &claim.queue);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_admit(self, request->worker, &request->refused);
    if (result == PGQRS_OK && request->heartbeat && request->worker.id)
        result = pgqrsi_sqlite_beat(self, request->worker, now_us);
    if (result != PGQRS_OK || request->refused != PGQRS_OK) return result;
    request->paused = claim.queue.paused;
    if (request->paused) return PGQRS_OK;
    if (request->limit > 0) result = pgqrsi_sqlite_claim_rounds(self, &claim);
    *out = claim.out;
    if (result != PGQRS_OK || claim.taken) return result;
    result = pgqrsi_sqlite_look(self, request->queue, now_us, &peek);
    request->next_due_us = peek.next_due_us;
    return result;
}

/* Looks without writing. *settled: there is nothing to claim, and the request says so. */
static pgqrs_result pgqrsi_sqlite_claim_nothing(pgqrsi_sqlite *self, pgqrs_backend_claim *request, int64_t now_us,
                                                bool *settled)
{
    pgqrsi_sqlite_peek peek;
    pgqrs_result result = pgqrsi_sqlite_look(self, request->queue, now_us, &peek);
    if (result == PGQRS_OK && !peek.found) return pgqrsi_sqlite_no_queue(self, request->queue);
    if (result != PGQRS_OK || peek.work) return result;
    result = pgqrsi_sqlite_admit(self, request->worker, &request->refused);
    request->paused = request->refused == PGQRS_OK && peek.paused;
    request->next_due_us = request->refused == PGQRS_OK ? peek.next_due_us : -1;
    *settled = true;
    return result;
}

static pgqrs_result pgqrsi_sqlite_load_run(pgqrsi_sqlite *self, int64_t now_us, int64_t run_id,
                                           pgqrs_backend_run **out);

static pgqrs_result pgqrsi_sqlite_load_claimed(pgqrsi_sqlite *self, int64_t now_us, const pgqrs_messages *messages,
                                               pgqrs_backend_run **runs)
{
    pgqrs_result result = PGQRS_OK;
    size_t i;
    for (i = 0; i < messages->count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_load_run(self, now_us, messages->items[i].id, &runs[i]);
    return result;
}

static pgqrs_result pgqrsi_sqlite_exchange(void *context, pgqrs_backend_exchange *exchange)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_backend_claim *request = exchange->claim;
    pgqrs_messages *out = NULL;
    size_t i;
    pgqrs_result result;
    if (request) {
        request->messages = NULL;
        request->next_due_us = -1;
        request->paused = false;
        request->refused = PGQRS_OK;
    }
    /* An idle consumer looks often: that costs no lock and no commit. A busy one need not look twice. */
    if (request && exchange->verdict_count == 0 && !request->heartbeat && !self->busy_claims) {
        bool settled = false;
        result = pgqrsi_sqlite_ready_to_read(self);
        if (result == PGQRS_OK) result = pgqrsi_sqlite_claim_nothing(self, request, exchange->now_us, &settled);
        if (result != PGQRS_OK || settled) return result;
    }
    result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    for (i = 0; i < exchange->verdict_count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_settle_one(self, &exchange->verdicts[i], exchange->now_us);
    if (request && result == PGQRS_OK) result = pgqrsi_sqlite_claim_some(self, request, exchange->now_us, &out);
    if (out && request->runs && result == PGQRS_OK)
        result = pgqrsi_sqlite_load_claimed(self, exchange->now_us, out, request->runs);
    result = pgqrsi_sqlite_finish(self, result);
    if (result == PGQRS_OK) {
        if (request) request->messages = out;
        return PGQRS_OK;
    }
    for (i = 0; out && request->runs && i < out->count; i++) {
        pgqrs_free(request->runs[i]);
        request->runs[i] = NULL;
    }
    pgqrs_free(out);
    return result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>extend
 * --------------------------------------------------------------------------------------------------------------- */

/* All messages of a lease end together, so they are found by that time; the rest of a lease goes along with any of it. */
static pgqrs_result pgqrsi_sqlite_extend_one(pgqrsi_sqlite *self, const pgqrs_backend_extend *request, size_t i)
{
    const pgqrs_backend_verdict *item = &request->leases[i];
    pgqrsi_sqlite_leased leased;
    int64_t values[4];
    pgqrs_result result = pgqrsi_sqlite_find_leased(self, item->id, item->lease, request->now_us, &leased);
    if (result != PGQRS_OK) return result;
    request->results[i] = leased.held ? PGQRS_OK : PGQRS_ERR_LEASE_LOST;
    if (!leased.held) return PGQRS_OK;
    values[0] = leased.queue_id;
    values[1] = leased.lease_until_us;
    values[2] = item->lease;
    values[3] = request->now_us + (request->lease_us ? request->lease_us : leased.queue_lease_ms * 1000);
    if (values[3] <= leased.lease_until_us) return PGQRS_OK;
    return pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_EXTEND_SQL, values, 4);
}

static pgqrs_result pgqrsi_sqlite_extend(void *context, const pgqrs_backend_extend *request)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    for (i = 0; i < request->count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_extend_one(self, request, i);
    if (result == PGQRS_OK && request->worker.id) result = pgqrsi_sqlite_beat(self, request->worker, request->now_us);
    return pgqrsi_sqlite_finish(self, result);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>waiting: other stores write a byte to the queue lock's file after a commit that may interest a consumer
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_sqlite_wait_begin(void *context, int64_t now_us, const char *queue, int64_t for_us)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    (void)now_us;
    (void)queue;
    (void)for_us;
    pgqrsi_sqlite_watch(self);
    pgqrsi_sqlite_drain(self);
    return PGQRS_OK;
}

static int pgqrsi_sqlite_wait_fd(void *context)
{
    return ((pgqrsi_sqlite *)context)->wake_fd;
}

static void pgqrsi_sqlite_wait_end(void *context)
{
    pgqrsi_sqlite_drain((pgqrsi_sqlite *)context);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>messages: inspect and repair
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_SQLITE_LOST "(m.state = 3 AND m.lease_until <= ?1)"

/* Every column of a message as people should see it at ?1. A lease that ran out is none; when it ended is still told. */
#define PGQRSI_SQLITE_MESSAGE_COLUMNS                                                                                  \
    "m.id, CASE WHEN " PGQRSI_SQLITE_LOST " OR (m.state = 2 AND m.due_at <= ?1) THEN 1 ELSE m.state END, m.priority,"  \
    " m.attempt, CASE WHEN " PGQRSI_SQLITE_LOST " THEN 0 ELSE m.lease END,"                                            \
    " m.lease_until, CASE WHEN " PGQRSI_SQLITE_LOST " THEN 0 ELSE m.worker_id END, m.enqueued_at,"                     \
    " CASE WHEN m.state = 2 AND m.due_at > ?1 THEN m.due_at ELSE 0 END, m.expires_at, m.finished_at,"                  \
    " CASE WHEN m.state <> 3 OR m.lease_until <= ?1 THEN 0 ELSE (SELECT count(*) FROM pgqrs_messages s"                \
    "   WHERE s.queue_id = m.queue_id AND s.state = 3 AND s.lease_until = m.lease_until AND s.lease = m.lease) END,"   \
    " (SELECT name FROM pgqrs_queues WHERE id = m.queue_id), m.dedup_key, m.producer, m.reason, m.payload,"            \
    " CASE WHEN " PGQRSI_SQLITE_LOST " THEN NULL ELSE (SELECT name FROM pgqrs_workers WHERE id = m.worker_id) END,"    \
    " CASE m.state WHEN 1 THEN m.ord ELSE 0 END"

static void pgqrsi_sqlite_read_message(pgqrsi_sqlite_query *query, void *result, pgqrs_message *message)
{
    message->id = pgqrsi_sqlite_int(query, 0);
    message->state = (pgqrs_state)(int)pgqrsi_sqlite_int(query, 1);
    message->priority = (int32_t)pgqrsi_sqlite_int(query, 2);
    message->attempt = (int32_t)pgqrsi_sqlite_int(query, 3);
    message->lease = pgqrsi_sqlite_int(query, 4);
    message->lease_until_us = pgqrsi_sqlite_int(query, 5);
    message->worker_id = pgqrsi_sqlite_int(query, 6);
    message->enqueued_at_us = pgqrsi_sqlite_int(query, 7);
    message->due_at_us = pgqrsi_sqlite_int(query, 8);
    message->expires_at_us = pgqrsi_sqlite_int(query, 9);
    message->finished_at_us = pgqrsi_sqlite_int(query, 10);
    message->lease_size = (uint32_t)pgqrsi_sqlite_int(query, 11);
    message->queue = pgqrsi_sqlite_copy(query, result, 12, NULL);
    message->dedup_key = pgqrsi_sqlite_copy(query, result, 13, NULL);
    message->producer = pgqrsi_sqlite_copy(query, result, 14, NULL);
    message->reason = pgqrsi_sqlite_copy(query, result, 15, NULL);
    message->payload = pgqrsi_sqlite_copy(query, result, 16, &message->payload_size);
    message->worker = pgqrsi_sqlite_copy(query, result, 17, NULL);
    message->place = pgqrsi_sqlite_int(query, 18);
}

static pgqrs_result pgqrsi_sqlite_message_get(void *context, int64_t now_us, int64_t id, pgqrs_message **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_message *message = NULL;
    pgqrsi_sqlite_query query;
    pgqrs_result result = pgqrsi_sqlite_ready_to_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    query = pgqrsi_sqlite_query_text(self,
                                     "SELECT " PGQRSI_SQLITE_MESSAGE_COLUMNS " FROM pgqrs_messages m WHERE m.id = ?2");
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put(&query, id);
    if (pgqrsi_sqlite_next(&query)) {
        message = (pgqrs_message *)pgqrs_backend_result_new(self->store, sizeof(*message), 512);
        if (message)
            pgqrsi_sqlite_read_message(&query, message, message);
        else
            query.rc = SQLITE_NOMEM;
    }
    result = pgqrsi_sqlite_end(&query);
    if (result != PGQRS_OK)
        pgqrs_free(message);
    else
        *out = message;
    return result;
}

/* A text that is put together from pieces of this file; what callers give goes in as parameters. */
typedef struct pgqrsi_sqlite_text {
    char text[4096];
    size_t size;
} pgqrsi_sqlite_text;

static void pgqrsi_sqlite_add(pgqrsi_sqlite_text *sql, const char *piece)
{
    size_t size = strlen(piece);
    if (size >= sizeof(sql->text) - sql->size) return; /* the pieces fit; a cut statement would not even parse */
    memcpy(sql->text + sql->size, piece, size + 1);
    sql->size += size;
}

static void pgqrsi_sqlite_add_ids(pgqrsi_sqlite_text *sql, const char *condition, bool of_queue)
{
    pgqrsi_sqlite_add(sql, "SELECT id FROM pgqrs_messages WHERE ");
    pgqrsi_sqlite_add(sql, condition);
    if (of_queue) pgqrsi_sqlite_add(sql, " AND queue_id = ?2");
}

/* Each state finds its messages by its own index. Archived ones are the exception when they are listed: there are many, so
 * walking by id and skipping the others is the shorter way to a page of them. */
static void pgqrsi_sqlite_add_state(pgqrsi_sqlite_text *sql, const pgqrs_message_filter *filter, bool listing)
{
    bool of_queue = filter->queue != NULL;
    if (filter->state == PGQRS_ARCHIVED && listing) {
        pgqrsi_sqlite_add(sql, " AND +m.state = 4");
        return;
    }
    pgqrsi_sqlite_add(sql, " AND m.id IN (");
    switch (filter->state) {
    case PGQRS_READY:
        pgqrsi_sqlite_add_ids(sql, PGQRSI_SQLITE_IN_LINE, of_queue);
        pgqrsi_sqlite_add(sql, " UNION ALL ");
        pgqrsi_sqlite_add_ids(sql, PGQRSI_SQLITE_DUE, of_queue);
        pgqrsi_sqlite_add(sql, " UNION ALL ");
        pgqrsi_sqlite_add_ids(sql, PGQRSI_SQLITE_RUN_OUT, of_queue);
        break;
    case PGQRS_DELAYED:
        pgqrsi_sqlite_add_ids(sql, PGQRSI_SQLITE_WAITING, of_queue);
        break;
    case PGQRS_LEASED:
        pgqrsi_sqlite_add_ids(sql, PGQRSI_SQLITE_HELD, of_queue);
        break;
    case PGQRS_ARCHIVED:
        pgqrsi_sqlite_add_ids(sql, PGQRSI_SQLITE_ARCHIVED, of_queue);
        break;
    default:
        pgqrsi_sqlite_add_ids(sql, PGQRSI_SQLITE_DEAD, of_queue);
        break;
    }
    pgqrsi_sqlite_add(sql, ")");
}

/* Parameters: 1 now, 2 queue, 3 worker, 4 from, 5 before, 6 after id, 7 limit. */
static void pgqrsi_sqlite_add_filter(pgqrsi_sqlite_text *sql, const pgqrs_message_filter *filter, bool listing)
{
    pgqrsi_sqlite_add(sql, " FROM pgqrs_messages m WHERE coalesce(?1, ?2, ?3, ?4, ?5, ?6, ?7) NOTNULL");
    if (filter->queue)
        pgqrsi_sqlite_add(sql, filter->state && filter->state != PGQRS_ARCHIVED ? " AND +m.queue_id = ?2"
                                                                                : " AND m.queue_id = ?2");
    if (filter->state) pgqrsi_sqlite_add_state(sql, filter, listing);
    if (filter->worker_id) pgqrsi_sqlite_add(sql, " AND m.worker_id = ?3 AND NOT " PGQRSI_SQLITE_LOST);
    if (filter->enqueued_from_us) pgqrsi_sqlite_add(sql, " AND m.enqueued_at >= ?4");
    if (filter->enqueued_before_us) pgqrsi_sqlite_add(sql, " AND m.enqueued_at < ?5");
    if (!listing) return;
    if (filter->after_id) pgqrsi_sqlite_add(sql, filter->oldest_first ? " AND m.id > ?6" : " AND m.id < ?6");
    pgqrsi_sqlite_add(sql, filter->oldest_first ? " ORDER BY m.id LIMIT ?7" : " ORDER BY m.id DESC LIMIT ?7");
}

static void pgqrsi_sqlite_put_filter(pgqrsi_sqlite_query *query, const pgqrs_message_filter *filter, int64_t queue_id,
                                     int64_t now_us)
{
    pgqrsi_sqlite_put(query, now_us);
    pgqrsi_sqlite_put(query, queue_id);
    pgqrsi_sqlite_put(query, filter->worker_id);
    pgqrsi_sqlite_put(query, filter->enqueued_from_us);
    pgqrsi_sqlite_put(query, filter->enqueued_before_us);
    pgqrsi_sqlite_put(query, filter->after_id);
    pgqrsi_sqlite_put(query, (int64_t)filter->limit);
}

/* *queue_id 0: no restriction. */
static pgqrs_result pgqrsi_sqlite_filter_queue(pgqrsi_sqlite *self, const char *name, int64_t *queue_id)
{
    pgqrsi_sqlite_queue queue;
    pgqrs_result result = PGQRS_OK;
    memset(&queue, 0, sizeof(queue));
    if (name) result = pgqrsi_sqlite_need_queue(self, name, &queue);
    *queue_id = queue.id;
    return result;
}

static pgqrs_result pgqrsi_sqlite_list_messages(pgqrsi_sqlite *self, int64_t now_us, const pgqrs_message_filter *filter,
                                                pgqrs_messages *list)
{
    size_t limit = filter->limit ? filter->limit : 100;
    pgqrs_message *items = (pgqrs_message *)pgqrs_backend_result_alloc(list, limit * sizeof(*items));
    pgqrsi_sqlite_text sql;
    pgqrsi_sqlite_query query;
    int64_t queue_id;
    pgqrs_result result;
    if (!items) return pgqrsi_sqlite_no_memory(self);
    list->items = items;
    result = pgqrsi_sqlite_filter_queue(self, filter->queue, &queue_id);
    if (result != PGQRS_OK) return result;
    sql.size = 0;
    pgqrsi_sqlite_add(&sql, "SELECT " PGQRSI_SQLITE_MESSAGE_COLUMNS);
    pgqrsi_sqlite_add_filter(&sql, filter, true);
    query = pgqrsi_sqlite_query_text(self, sql.text);
    pgqrsi_sqlite_put_filter(&query, filter, queue_id, now_us);
    while (list->count < limit && pgqrsi_sqlite_next(&query))
        pgqrsi_sqlite_read_message(&query, list, &items[list->count++]);
    return pgqrsi_sqlite_end(&query);
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_message_list(void *context, int64_t now_us,
                                                           const pgqrs_message_filter *filter, pgqrs_messages **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_messages *list;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    list = (pgqrs_messages *)pgqrs_backend_result_new(self->store, sizeof(*list),
                                                      filter->limit * (sizeof(pgqrs_message) + 128));
    result = list ? pgqrsi_sqlite_list_messages(self, now_us, filter, list) : pgqrsi_sqlite_no_memory(self);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

static pgqrs_result pgqrsi_sqlite_count_messages(pgqrsi_sqlite *self, int64_t now_us,
                                                 const pgqrs_message_filter *filter, int64_t *count)
{
    pgqrsi_sqlite_text sql;
    pgqrsi_sqlite_query query;
    int64_t queue_id;
    pgqrs_result result = pgqrsi_sqlite_filter_queue(self, filter->queue, &queue_id);
    if (result != PGQRS_OK) return result;
    sql.size = 0;
    pgqrsi_sqlite_add(&sql, "SELECT count(*)");
    pgqrsi_sqlite_add_filter(&sql, filter, false);
    query = pgqrsi_sqlite_query_text(self, sql.text);
    pgqrsi_sqlite_put_filter(&query, filter, queue_id, now_us);
    if (pgqrsi_sqlite_next(&query)) *count = pgqrsi_sqlite_int(&query, 0);
    return pgqrsi_sqlite_end(&query);
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_message_count(void *context, int64_t now_us,
                                                            const pgqrs_message_filter *filter, int64_t *count)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *count = 0;
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_count_messages(self, now_us, filter, count));
}

/* A message as the repairing calls need it. */
typedef struct pgqrsi_sqlite_found {
    bool found;
    int64_t state; /* a lease that ran out is still a lease here */
    int64_t lease_until_us;
    int64_t attempt;
    int64_t queue_id;
    int64_t priority;
    bool keyed;
    char key[256];
} pgqrsi_sqlite_found;

static pgqrs_result pgqrsi_sqlite_find_message(pgqrsi_sqlite *self, int64_t id, pgqrsi_sqlite_found *found)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_MESSAGE_STATE_SQL);
    memset(found, 0, sizeof(*found));
    pgqrsi_sqlite_put(&query, id);
    if (pgqrsi_sqlite_next(&query)) {
        const char *key = (const char *)pgqrsi_sqlite3.column_text(query.statement, 5);
        found->found = true;
        found->state = pgqrsi_sqlite_int(&query, 0);
        found->lease_until_us = pgqrsi_sqlite_int(&query, 1);
        found->attempt = pgqrsi_sqlite_int(&query, 2);
        found->queue_id = pgqrsi_sqlite_int(&query, 3);
        found->priority = pgqrsi_sqlite_int(&query, 4);
        found->keyed = !pgqrsi_sqlite_is_null(&query, 5);
        if (found->keyed && !key) query.rc = SQLITE_NOMEM;
        if (key) snprintf(found->key, sizeof(found->key), "%s", key);
    }
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_delete_one(pgqrsi_sqlite *self, int64_t now_us, int64_t id, bool force, bool runs,
                                             pgqrs_result *outcome)
{
    pgqrsi_sqlite_found message;
    pgqrs_result result = pgqrsi_sqlite_find_message(self, id, &message);
    if (result != PGQRS_OK) return result;
    *outcome = PGQRS_OK;
    if (!message.found)
        *outcome = PGQRS_ERR_MESSAGE_NOT_FOUND;
    else if (message.state == PGQRS_LEASED && message.lease_until_us > now_us && !force)
        *outcome = PGQRS_ERR_MESSAGE_STATE;
    if (*outcome != PGQRS_OK) return PGQRS_OK;
    result = pgqrsi_sqlite_keep_id(self, id);
    if (result == PGQRS_OK && runs) result = pgqrsi_sqlite_drop_run(self, id);
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_MESSAGE_DROP_SQL, &id, 1) : result;
}

static pgqrs_result pgqrsi_sqlite_message_delete(void *context, int64_t now_us, const int64_t *ids, size_t count,
                                                 bool force, pgqrs_result *results)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    bool runs = false;
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_has_runs(self, 0, &runs);
    for (i = 0; i < count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_delete_one(self, now_us, ids[i], force, runs, &results[i]);
    return pgqrsi_sqlite_finish(self, result);
}

static pgqrs_result pgqrsi_sqlite_update_message(pgqrsi_sqlite *self, int64_t id, const char *payload,
                                                 size_t payload_size)
{
    pgqrsi_sqlite_found message;
    pgqrsi_sqlite_query query;
    pgqrs_result result = pgqrsi_sqlite_find_message(self, id, &message);
    if (result != PGQRS_OK) return result;
    if (!message.found)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_MESSAGE_NOT_FOUND, 0, NULL, "there is no message %lld",
                                  (long long)id);
    if (message.attempt > 0 || (message.state != PGQRS_READY && message.state != PGQRS_DELAYED))
        return pgqrs_backend_fail(self->store, PGQRS_ERR_MESSAGE_STATE, 0, NULL,
                                  "message %lld was started already or is finished; its payload stays as it is",
                                  (long long)id);
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_MESSAGE_PAYLOAD_SQL);
    pgqrsi_sqlite_put(&query, id);
    pgqrsi_sqlite_put_bytes(&query, payload, payload_size);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_message_update(void *context, int64_t now_us, int64_t id, const char *payload,
                                                 size_t payload_size)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    (void)now_us;
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_update_message(self, id, payload, payload_size));
}

static pgqrs_result pgqrsi_sqlite_replay_one(pgqrsi_sqlite *self, int64_t now_us, int64_t id, pgqrs_result *outcome)
{
    pgqrsi_sqlite_found message;
    int64_t holder = 0;
    int64_t values[2];
    pgqrs_result result = pgqrsi_sqlite_find_message(self, id, &message);
    if (result != PGQRS_OK) return result;
    *outcome = PGQRS_OK;
    if (!message.found)
        *outcome = PGQRS_ERR_MESSAGE_NOT_FOUND;
    else if (message.state != PGQRS_ARCHIVED && message.state != PGQRS_DEAD)
        *outcome = PGQRS_ERR_MESSAGE_STATE;
    if (*outcome != PGQRS_OK) return PGQRS_OK;
    if (message.keyed) result = pgqrsi_sqlite_key_holder(self, message.queue_id, message.key, now_us, &holder);
    if (result == PGQRS_OK && holder) *outcome = PGQRS_ERR_DUPLICATE;
    if (result != PGQRS_OK || holder) return result;
    values[0] = id;
    result = pgqrsi_sqlite_tail(self, message.queue_id, message.priority, &values[1]);
    self->wake = true;
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_MESSAGE_REPLAY_SQL, values, 2) : result;
}

static pgqrs_result pgqrsi_sqlite_message_replay(void *context, int64_t now_us, const int64_t *ids, size_t count,
                                                 pgqrs_result *results)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    for (i = 0; i < count && result == PGQRS_OK; i++)
        result = pgqrsi_sqlite_replay_one(self, now_us, ids[i], &results[i]);
    return pgqrsi_sqlite_finish(self, result);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>workers
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrsi_sqlite_worker {
    int64_t id; /* 0: there is none */
    int64_t epoch;
    int64_t state;
    int64_t heartbeat_at_us;
} pgqrsi_sqlite_worker;

static pgqrs_result pgqrsi_sqlite_end_worker(pgqrsi_sqlite_query *query, pgqrsi_sqlite_worker *worker)
{
    memset(worker, 0, sizeof(*worker));
    if (pgqrsi_sqlite_next(query)) {
        worker->id = pgqrsi_sqlite_int(query, 0);
        worker->epoch = pgqrsi_sqlite_int(query, 1);
        worker->state = pgqrsi_sqlite_int(query, 2);
        worker->heartbeat_at_us = pgqrsi_sqlite_int(query, 3);
    }
    return pgqrsi_sqlite_end(query);
}

static pgqrs_result pgqrsi_sqlite_find_worker(pgqrsi_sqlite *self, int64_t id, pgqrsi_sqlite_worker *worker)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKER_BY_ID_SQL);
    pgqrsi_sqlite_put(&query, id);
    return pgqrsi_sqlite_end_worker(&query, worker);
}

/* Everything a worker holds goes back into the line, or to the dead letters; the attempt counts. */
static pgqrs_result pgqrsi_sqlite_release_held(pgqrsi_sqlite *self, int64_t worker_id, int64_t now_us,
                                               const char *reason, int64_t *released)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKER_MESSAGES_SQL);
    size_t count, i;
    pgqrs_result result;
    pgqrsi_sqlite_put(&query, worker_id);
    result = pgqrsi_sqlite_collect(&query, &count);
    for (i = 0; i < count && result == PGQRS_OK; i++) {
        const int64_t *row = self->rows[i].v;
        pgqrsi_sqlite_return back;
        memset(&back, 0, sizeof(back));
        back.id = row[0];
        back.priority = row[1];
        back.attempt = row[2];
        back.queue_id = row[3];
        back.set_reason = true;
        back.reason = reason;
        result = pgqrsi_sqlite_put_back_or_bury(self, &back, row[4], now_us);
    }
    if (result == PGQRS_OK) *released += (int64_t)count;
    return result;
}

static pgqrs_result pgqrsi_sqlite_add_worker(pgqrsi_sqlite *self, int64_t now_us, const char *name, int64_t queue_id,
                                             pgqrs_worker_ref *worker)
{
    pgqrsi_sqlite_query query;
    pgqrs_result result = pgqrsi_sqlite_next_id(self, "max_worker_id", &worker->id);
    if (result != PGQRS_OK) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKER_INSERT_SQL);
    pgqrsi_sqlite_put(&query, worker->id);
    pgqrsi_sqlite_put_text(&query, name);
    pgqrsi_sqlite_put(&query, worker->epoch);
    pgqrsi_sqlite_put(&query, queue_id);
    pgqrsi_sqlite_put(&query, now_us);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_take_over(pgqrsi_sqlite *self, int64_t now_us, int64_t queue_id,
                                            const pgqrs_worker_ref *worker)
{
    int64_t released = 0;
    int64_t values[4];
    pgqrs_result result = pgqrsi_sqlite_release_held(self, worker->id, now_us, "worker taken over", &released);
    if (result != PGQRS_OK) return result;
    values[0] = worker->id;
    values[1] = worker->epoch;
    values[2] = queue_id;
    values[3] = now_us;
    return pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_WORKER_REUSE_SQL, values, 4);
}

static pgqrs_result pgqrsi_sqlite_register_worker(pgqrsi_sqlite *self, int64_t now_us, const char *name,
                                                  const char *queue_name, int64_t stale_us, pgqrs_worker_ref *out)
{
    pgqrsi_sqlite_worker old;
    pgqrsi_sqlite_query query;
    int64_t queue_id;
    pgqrs_result result = pgqrsi_sqlite_filter_queue(self, queue_name, &queue_id);
    if (result != PGQRS_OK) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKER_BY_NAME_SQL);
    pgqrsi_sqlite_put_text(&query, name);
    result = pgqrsi_sqlite_end_worker(&query, &old);
    if (result != PGQRS_OK) return result;
    if (!old.id) return pgqrsi_sqlite_add_worker(self, now_us, name, queue_id, out);
    out->id = old.id;
    if (old.state != PGQRS_WORKER_STOPPED && old.heartbeat_at_us >= now_us - stale_us)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_WORKER_ACTIVE, 0, NULL,
                                  "a worker named \"%s\" beat %lld ms ago and was not stopped; it is another process, "
                                  "or it crashed: then the name is "
                                  "free after %lld ms without a beat (stale_ms), or at once by pgqrs_worker_reclaim",
                                  name, (long long)((now_us - old.heartbeat_at_us) / 1000),
                                  (long long)(stale_us / 1000));
    return pgqrsi_sqlite_take_over(self, now_us, queue_id, out);
}

static pgqrs_result pgqrsi_sqlite_worker_register(void *context, int64_t now_us, const char *name,
                                                  const char *queue_or_null, int64_t stale_us, int64_t epoch,
                                                  pgqrs_worker_ref *out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_worker_ref worker;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    worker.id = 0;
    worker.epoch = epoch;
    result =
        pgqrsi_sqlite_finish(self, pgqrsi_sqlite_register_worker(self, now_us, name, queue_or_null, stale_us, &worker));
    if (result == PGQRS_OK) *out = worker;
    return result;
}

static pgqrs_result pgqrsi_sqlite_move_worker(pgqrsi_sqlite *self, pgqrs_backend_worker_change *change)
{
    pgqrsi_sqlite_worker worker;
    int64_t held = 0;
    int64_t values[4];
    pgqrs_result result = pgqrsi_sqlite_find_worker(self, change->worker.id, &worker);
    if (result != PGQRS_OK) return result;
    change->found = worker.id != 0 && (change->worker.epoch == 0 || change->worker.epoch == worker.epoch);
    if (!change->found) return PGQRS_OK;
    change->state = (pgqrs_worker_state)(int)worker.state;
    if (!(change->from & (1u << worker.state))) return PGQRS_OK;
    if (change->if_idle) {
        values[0] = change->now_us;
        values[1] = worker.id;
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_WORKER_HELD_SQL, values, 2, &held);
        change->held = held;
        if (result != PGQRS_OK || held) return result;
    }
    values[0] = worker.id;
    values[1] = (int)change->to ? (int64_t)change->to : worker.state;
    values[2] = change->beat ? change->now_us : 0;
    values[3] = values[1] == PGQRS_WORKER_STOPPED ? change->now_us : 0;
    result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_WORKER_MOVE_SQL, values, 4);
    if (result != PGQRS_OK) return result;
    change->changed = true;
    change->state = (pgqrs_worker_state)(int)values[1];
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_worker_change(void *context, pgqrs_backend_worker_change *change)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result;
    change->changed = change->found = false;
    change->held = 0;
    result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    self->need_flush = (int)change->to != 0; /* a heartbeat that a power cut takes is no loss */
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_move_worker(self, change));
}

/* The later of the two moments that PGQRSI_SQLITE_STALE takes is given, this is the other. */
static int64_t pgqrsi_sqlite_quiet_before(const pgqrsi_sqlite *self, int64_t now_us, int64_t before_us)
{
    return now_us - self->quiet_us < before_us ? now_us - self->quiet_us : before_us;
}

/* Parameters: 1 now, 2 queue, 3 state, 4 stale before, 5 after id, 6 limit, 7 id, 8 stale before when it holds nothing. */
static void pgqrsi_sqlite_add_worker_filter(pgqrsi_sqlite_text *sql, const pgqrs_worker_filter *filter, int64_t id)
{
    pgqrsi_sqlite_add(sql, " WHERE coalesce(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) NOTNULL");
    if (id) pgqrsi_sqlite_add(sql, " AND w.id = ?7");
    if (filter->queue) pgqrsi_sqlite_add(sql, " AND w.queue_id = ?2");
    if (filter->state) pgqrsi_sqlite_add(sql, " AND w.state = ?3");
    if (filter->stale_ms) pgqrsi_sqlite_add(sql, " AND " PGQRSI_SQLITE_STALE("?4", "?8"));
}

static pgqrs_result pgqrsi_sqlite_put_worker_filter(pgqrsi_sqlite_query *query, const pgqrs_worker_filter *filter,
                                                    int64_t id, int64_t now_us, int64_t limit)
{
    int64_t queue_id;
    int64_t before_us = filter->stale_ms > INT64_MAX / 1000 ? INT64_MIN / 2 : now_us - filter->stale_ms * 1000;
    pgqrs_result result = pgqrsi_sqlite_filter_queue(query->self, filter->queue, &queue_id);
    if (result != PGQRS_OK) return result;
    pgqrsi_sqlite_put(query, now_us);
    pgqrsi_sqlite_put(query, queue_id);
    pgqrsi_sqlite_put(query, filter->state);
    pgqrsi_sqlite_put(query, before_us);
    pgqrsi_sqlite_put(query, filter->after_id);
    pgqrsi_sqlite_put(query, limit);
    pgqrsi_sqlite_put(query, id);
    pgqrsi_sqlite_put(query, pgqrsi_sqlite_quiet_before(query->self, now_us, before_us));
    return PGQRS_OK;
}

static void pgqrsi_sqlite_read_worker(pgqrsi_sqlite_query *query, void *result, pgqrs_worker_info *worker)
{
    worker->id = pgqrsi_sqlite_int(query, 0);
    worker->epoch = pgqrsi_sqlite_int(query, 1);
    worker->state = (pgqrs_worker_state)(int)pgqrsi_sqlite_int(query, 2);
    worker->reclaimed = pgqrsi_sqlite_int(query, 3) != 0;
    worker->started_at_us = pgqrsi_sqlite_int(query, 4);
    worker->heartbeat_at_us = pgqrsi_sqlite_int(query, 5);
    worker->stopped_at_us = pgqrsi_sqlite_int(query, 6);
    worker->held = pgqrsi_sqlite_int(query, 7);
    worker->name = pgqrsi_sqlite_copy(query, result, 8, NULL);
    worker->queue = pgqrsi_sqlite_copy(query, result, 9, NULL);
}

static pgqrs_result pgqrsi_sqlite_list_workers(pgqrsi_sqlite *self, int64_t now_us, int64_t id,
                                               const pgqrs_worker_filter *filter, size_t limit, pgqrs_workers *list)
{
    pgqrs_worker_info *items = (pgqrs_worker_info *)pgqrs_backend_result_alloc(list, limit * sizeof(*items));
    pgqrsi_sqlite_text sql;
    pgqrsi_sqlite_query query;
    pgqrs_result result, ended;
    if (!items) return pgqrsi_sqlite_no_memory(self);
    list->items = items;
    sql.size = 0;
    /* What they hold is counted in one pass over the leased messages, not once per worker. */
    pgqrsi_sqlite_add(&sql, "WITH held(worker_id, n) AS MATERIALIZED (SELECT worker_id, count(*) FROM pgqrs_messages"
                            " WHERE " PGQRSI_SQLITE_HELD " AND worker_id <> 0 GROUP BY worker_id)"
                            " SELECT w.id, w.epoch, w.state, w.reclaimed, w.started_at, w.heartbeat_at, w.stopped_at,"
                            " coalesce((SELECT n FROM held WHERE worker_id = w.id), 0), w.name,"
                            " (SELECT name FROM pgqrs_queues WHERE id = w.queue_id) FROM pgqrs_workers w");
    pgqrsi_sqlite_add_worker_filter(&sql, filter, id);
    if (filter->after_id) pgqrsi_sqlite_add(&sql, " AND w.id > ?5");
    pgqrsi_sqlite_add(&sql, " ORDER BY w.id LIMIT ?6");
    query = pgqrsi_sqlite_query_text(self, sql.text);
    result = pgqrsi_sqlite_put_worker_filter(&query, filter, id, now_us, (int64_t)limit);
    while (result == PGQRS_OK && list->count < limit && pgqrsi_sqlite_next(&query))
        pgqrsi_sqlite_read_worker(&query, list, &items[list->count++]);
    ended = pgqrsi_sqlite_end(&query);
    return result == PGQRS_OK ? ended : result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_worker_list(void *context, int64_t now_us, int64_t id_or_0,
                                                          const pgqrs_worker_filter *filter, pgqrs_workers **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_worker_filter all;
    pgqrs_workers *list;
    size_t limit;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    memset(&all, 0, sizeof(all));
    if (!filter) filter = &all;
    limit = id_or_0 ? 1 : filter->limit ? filter->limit : 100;
    list =
        (pgqrs_workers *)pgqrs_backend_result_new(self->store, sizeof(*list), limit * (sizeof(pgqrs_worker_info) + 64));
    result =
        list ? pgqrsi_sqlite_list_workers(self, now_us, id_or_0, filter, limit, list) : pgqrsi_sqlite_no_memory(self);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

static pgqrs_result pgqrsi_sqlite_count_workers(pgqrsi_sqlite *self, int64_t now_us, const pgqrs_worker_filter *filter,
                                                int64_t *count)
{
    pgqrsi_sqlite_text sql;
    pgqrsi_sqlite_query query;
    pgqrs_result result, ended;
    sql.size = 0;
    pgqrsi_sqlite_add(&sql, "SELECT count(*) FROM pgqrs_workers w");
    pgqrsi_sqlite_add_worker_filter(&sql, filter, 0);
    query = pgqrsi_sqlite_query_text(self, sql.text);
    result = pgqrsi_sqlite_put_worker_filter(&query, filter, 0, now_us, 0);
    if (result == PGQRS_OK && pgqrsi_sqlite_next(&query)) *count = pgqrsi_sqlite_int(&query, 0);
    ended = pgqrsi_sqlite_end(&query);
    return result == PGQRS_OK ? ended : result;
}

static pgqrs_result pgqrsi_sqlite_worker_count(void *context, int64_t now_us, const pgqrs_worker_filter *filter,
                                               int64_t *count)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *count = 0;
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_count_workers(self, now_us, filter, count));
}

static pgqrs_result pgqrsi_sqlite_release_worker(pgqrsi_sqlite *self, int64_t now_us, int64_t worker_id,
                                                 const char *reason, int64_t *released)
{
    pgqrsi_sqlite_worker worker;
    pgqrs_result result = pgqrsi_sqlite_find_worker(self, worker_id, &worker);
    if (result == PGQRS_OK && !worker.id) result = pgqrsi_sqlite_no_worker(self, worker_id);
    return result == PGQRS_OK ? pgqrsi_sqlite_release_held(self, worker_id, now_us, reason, released) : result;
}

static pgqrs_result pgqrsi_sqlite_worker_release(void *context, int64_t now_us, int64_t worker_id, const char *reason,
                                                 int64_t *released)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    *released = 0;
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_release_worker(self, now_us, worker_id, reason, released));
    if (result != PGQRS_OK) *released = 0;
    return result;
}

static pgqrs_result pgqrsi_sqlite_drop_worker(pgqrsi_sqlite *self, int64_t now_us, int64_t worker_id, bool force)
{
    pgqrsi_sqlite_worker worker;
    int64_t released = 0;
    pgqrs_result result = pgqrsi_sqlite_find_worker(self, worker_id, &worker);
    if (result != PGQRS_OK) return result;
    if (!worker.id) return pgqrsi_sqlite_no_worker(self, worker_id);
    if (worker.state != PGQRS_WORKER_STOPPED && !force)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_WORKER_ACTIVE, 0, NULL,
                                  "worker %lld is not stopped; shut it down first, or force", (long long)worker_id);
    result = pgqrsi_sqlite_release_held(self, worker_id, now_us, "its worker was removed", &released);
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_WORKER_DROP_SQL, &worker_id, 1) : result;
}

static pgqrs_result pgqrsi_sqlite_worker_delete(void *context, int64_t now_us, int64_t worker_id, bool force)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_drop_worker(self, now_us, worker_id, force));
}

/* One at a time, because releasing uses the buffer the ids are read into. */
static pgqrs_result pgqrsi_sqlite_reclaim_one(pgqrsi_sqlite *self, int64_t now_us, int64_t before_us, int64_t queue_id,
                                              const char *reason, bool *found, int64_t *messages)
{
    const int64_t search[] = {before_us, queue_id, pgqrsi_sqlite_quiet_before(self, now_us, before_us)};
    int64_t values[2];
    pgqrs_result result;
    values[0] = 0;
    values[1] = now_us;
    result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_WORKER_ZOMBIES_SQL, search, 3, &values[0]);
    *found = values[0] != 0;
    if (result != PGQRS_OK || !*found) return result;
    result = pgqrsi_sqlite_release_held(self, values[0], now_us, reason, messages);
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_WORKER_RECLAIM_SQL, values, 2) : result;
}

static pgqrs_result pgqrsi_sqlite_reclaim(pgqrsi_sqlite *self, int64_t now_us, const char *queue_or_null,
                                          int64_t before_us, const char *reason, int64_t *workers, int64_t *messages)
{
    bool found = true;
    int64_t queue_id;
    pgqrs_result result = pgqrsi_sqlite_filter_queue(self, queue_or_null, &queue_id);
    while (result == PGQRS_OK) {
        result = pgqrsi_sqlite_reclaim_one(self, now_us, before_us, queue_id, reason, &found, messages);
        if (!found) break;
        ++*workers;
    }
    return result;
}

static pgqrs_result pgqrsi_sqlite_worker_reclaim(void *context, int64_t now_us, const char *queue_or_null,
                                                 int64_t older_than_us, const char *reason, int64_t *workers,
                                                 int64_t *messages)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    *workers = *messages = 0;
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_reclaim(self, now_us, queue_or_null, now_us - older_than_us, reason, workers, messages);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK) *workers = *messages = 0;
    return result;
}

static pgqrs_result pgqrsi_sqlite_worker_purge(void *context, int64_t now_us, int64_t older_than_us, int64_t *removed)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    int64_t before_us = now_us - older_than_us;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    *removed = 0;
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_WORKER_PURGE_SQL, &before_us, 1);
    if (result == PGQRS_OK) *removed = pgqrsi_sqlite_changes(self);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK) *removed = 0;
    return result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>numbers
 * --------------------------------------------------------------------------------------------------------------- */

static int64_t pgqrsi_sqlite_earlier(int64_t a_us, int64_t b_us)
{
    return a_us == 0 || (b_us != 0 && b_us < a_us) ? b_us : a_us;
}

static pgqrs_result pgqrsi_sqlite_count_unfinished(pgqrsi_sqlite *self, int64_t now_us, int64_t queue_id,
                                                   pgqrs_queue_metrics *metrics)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_METRICS_SQL);
    int64_t oldest_ready_us = 0;
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put(&query, queue_id);
    while (pgqrsi_sqlite_next(&query)) {
        int64_t state = pgqrsi_sqlite_int(&query, 0);
        int64_t count = pgqrsi_sqlite_int(&query, 1);
        int64_t oldest_us = pgqrsi_sqlite_int(&query, 2);
        if (state == PGQRS_READY) {
            metrics->ready += count;
            oldest_ready_us = pgqrsi_sqlite_earlier(oldest_ready_us, oldest_us);
        } else if (state == PGQRS_DELAYED) {
            metrics->delayed += count;
        } else {
            metrics->leased += count;
        }
        metrics->oldest_unfinished_at_us = pgqrsi_sqlite_earlier(metrics->oldest_unfinished_at_us, oldest_us);
    }
    if (oldest_ready_us && oldest_ready_us < now_us) metrics->oldest_ready_ms = (now_us - oldest_ready_us) / 1000;
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_measure_queue(pgqrsi_sqlite *self, int64_t now_us, int64_t id,
                                                pgqrs_queue_metrics *metrics)
{
    pgqrs_result result = pgqrsi_sqlite_count_unfinished(self, now_us, id, metrics);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_METRICS_ARCHIVED_SQL, &id, 1, &metrics->archived);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_METRICS_DEAD_SQL, &id, 1, &metrics->dead);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_METRICS_NEWEST_SQL, &id, 1, &metrics->newest_at_us);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_QUEUE_WORKERS_SQL, &id, 1, &metrics->live_workers);
    metrics->total = metrics->ready + metrics->delayed + metrics->leased + metrics->archived + metrics->dead;
    return result;
}

static pgqrs_result pgqrsi_sqlite_measure(pgqrsi_sqlite *self, int64_t now_us, const char *queue_or_null,
                                          pgqrs_metrics *list)
{
    pgqrs_queue_metrics *items;
    pgqrsi_sqlite_query query;
    int64_t queues = 1;
    pgqrs_result result = PGQRS_OK;
    if (!queue_or_null) result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_QUEUE_COUNT_SQL, NULL, 0, &queues);
    if (result != PGQRS_OK) return result;
    items = (pgqrs_queue_metrics *)pgqrs_backend_result_alloc(list, (size_t)(queues ? queues : 1) * sizeof(*items));
    if (!items) return pgqrsi_sqlite_no_memory(self);
    list->items = items;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_METRICS_QUEUES_SQL);
    pgqrsi_sqlite_put_text(&query, queue_or_null);
    while (result == PGQRS_OK && list->count < (size_t)queues && pgqrsi_sqlite_next(&query)) {
        pgqrs_queue_metrics *metrics = &items[list->count++];
        int64_t id = pgqrsi_sqlite_int(&query, 0);
        metrics->queue = pgqrsi_sqlite_copy(&query, list, 1, NULL);
        metrics->paused = pgqrsi_sqlite_int(&query, 2) != 0;
        metrics->lease_expiries = pgqrsi_sqlite_int(&query, 3);
        if (query.rc == SQLITE_ROW) result = pgqrsi_sqlite_measure_queue(self, now_us, id, metrics);
    }
    if (result != PGQRS_OK) {
        query.rc = SQLITE_OK; /* recorded already */
        pgqrsi_sqlite_end(&query);
        return result;
    }
    result = pgqrsi_sqlite_end(&query);
    if (result == PGQRS_OK && queue_or_null && list->count == 0) result = pgqrsi_sqlite_no_queue(self, queue_or_null);
    return result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_metrics(void *context, int64_t now_us, const char *queue_or_null,
                                                      pgqrs_metrics **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_metrics *list;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    list = (pgqrs_metrics *)pgqrs_backend_result_new(self->store, sizeof(*list), sizeof(pgqrs_queue_metrics) + 64);
    result = list ? pgqrsi_sqlite_measure(self, now_us, queue_or_null, list) : pgqrsi_sqlite_no_memory(self);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

static pgqrs_result pgqrsi_sqlite_read_stats(pgqrsi_sqlite *self, int64_t now_us, const char *queue_or_null,
                                             int64_t stale_us, pgqrs_worker_stats *out)
{
    pgqrsi_sqlite_query query;
    int64_t values[3];
    pgqrs_result result = pgqrsi_sqlite_filter_queue(self, queue_or_null, &values[1]);
    if (result != PGQRS_OK) return result;
    values[0] = now_us;
    values[2] = now_us - stale_us;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKER_STATS_SQL);
    pgqrsi_sqlite_put(&query, values[0]);
    pgqrsi_sqlite_put(&query, values[1]);
    pgqrsi_sqlite_put(&query, values[2]);
    pgqrsi_sqlite_put(&query, pgqrsi_sqlite_quiet_before(self, now_us, values[2]));
    if (pgqrsi_sqlite_next(&query)) {
        int64_t started_us = pgqrsi_sqlite_int(&query, 7);
        int64_t heartbeat_us = pgqrsi_sqlite_int(&query, 8);
        out->total = pgqrsi_sqlite_int(&query, 0);
        out->ready = pgqrsi_sqlite_int(&query, 1);
        out->polling = pgqrsi_sqlite_int(&query, 2);
        out->interrupted = pgqrsi_sqlite_int(&query, 3);
        out->suspended = pgqrsi_sqlite_int(&query, 4);
        out->stopped = pgqrsi_sqlite_int(&query, 5);
        out->stale = pgqrsi_sqlite_int(&query, 6);
        out->oldest_ms = started_us && started_us < now_us ? (now_us - started_us) / 1000 : 0;
        out->newest_heartbeat_ms = heartbeat_us && heartbeat_us < now_us ? (now_us - heartbeat_us) / 1000 : 0;
    }
    result = pgqrsi_sqlite_end(&query);
    return result == PGQRS_OK ? pgqrsi_sqlite_number(self, PGQRSI_SQLITE_WORKERS_HELD_SQL, values, 2, &out->held)
                              : result;
}

static pgqrs_result pgqrsi_sqlite_worker_stats(void *context, int64_t now_us, const char *queue_or_null,
                                               int64_t stale_us, pgqrs_worker_stats *out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    memset(out, 0, sizeof(*out));
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_read_stats(self, now_us, queue_or_null, stale_us, out));
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>workflows
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrsi_sqlite_workflow {
    int64_t id; /* 0: there is none */
    int64_t queue_id;
    int64_t timeout_ms;
    bool made_queue;
} pgqrsi_sqlite_workflow;

static pgqrs_result pgqrsi_sqlite_find_workflow(pgqrsi_sqlite *self, const char *name, pgqrsi_sqlite_workflow *workflow)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKFLOW_FIND_SQL);
    memset(workflow, 0, sizeof(*workflow));
    pgqrsi_sqlite_put_text(&query, name);
    if (pgqrsi_sqlite_next(&query)) {
        workflow->id = pgqrsi_sqlite_int(&query, 0);
        workflow->queue_id = pgqrsi_sqlite_int(&query, 1);
        workflow->timeout_ms = pgqrsi_sqlite_int(&query, 2);
        workflow->made_queue = pgqrsi_sqlite_int(&query, 3) != 0;
    }
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_no_workflow(pgqrsi_sqlite *self, const char *name)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_WORKFLOW_NOT_FOUND, 0, NULL,
                              "there is no workflow \"%s\": create it with pgqrs_workflow_create", name);
}

static pgqrs_result pgqrsi_sqlite_need_workflow(pgqrsi_sqlite *self, const char *name, pgqrsi_sqlite_workflow *workflow)
{
    pgqrs_result result = pgqrsi_sqlite_find_workflow(self, name, workflow);
    return result == PGQRS_OK && workflow->id == 0 ? pgqrsi_sqlite_no_workflow(self, name) : result;
}

static void pgqrsi_sqlite_put_workflow(pgqrsi_sqlite_query *query, const pgqrs_workflow_desc *settings)
{
    pgqrsi_sqlite_put(query, settings->retry.max_retries);
    pgqrsi_sqlite_put(query, settings->retry.backoff);
    pgqrsi_sqlite_put(query, settings->retry.base_ms);
    pgqrsi_sqlite_put(query, settings->retry.cap_ms);
    pgqrsi_sqlite_put(query, settings->retry.jitter_percent);
    pgqrsi_sqlite_put(query, settings->timeout_ms);
    pgqrsi_sqlite_put(query, settings->step_timeout_ms);
    pgqrsi_sqlite_put(query, settings->retention_ms);
    pgqrsi_sqlite_put(query, settings->failed_retention_ms);
}

static pgqrs_result pgqrsi_sqlite_insert_workflow(pgqrsi_sqlite *self, int64_t now_us, const char *name,
                                                  const pgqrs_workflow_desc *settings, const pgqrs_queue_desc *queue,
                                                  bool *created)
{
    const char *queue_name = settings->queue ? settings->queue : name;
    pgqrsi_sqlite_workflow workflow;
    pgqrsi_sqlite_queue place;
    pgqrsi_sqlite_query query;
    bool made = false;
    int64_t id;
    pgqrs_result result = pgqrsi_sqlite_find_workflow(self, name, &workflow);
    if (result != PGQRS_OK || workflow.id != 0) return result;
    result = pgqrsi_sqlite_insert_queue(self, now_us, queue_name, queue, &made);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_need_queue(self, queue_name, &place);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_next_id(self, "max_workflow_id", &id);
    if (result != PGQRS_OK) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKFLOW_INSERT_SQL);
    pgqrsi_sqlite_put(&query, id);
    pgqrsi_sqlite_put(&query, place.id);
    pgqrsi_sqlite_put(&query, made);
    pgqrsi_sqlite_put_workflow(&query, settings);
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put_text(&query, name);
    result = pgqrsi_sqlite_run(&query);
    *created = result == PGQRS_OK;
    return result;
}

static pgqrs_result pgqrsi_sqlite_workflow_create(void *context, int64_t now_us, const char *name,
                                                  const pgqrs_workflow_desc *settings, const pgqrs_queue_desc *queue,
                                                  bool *created)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrsi_sqlite_workflow workflow;
    pgqrs_result result = pgqrsi_sqlite_ready_to_read(self);
    *created = false;
    if (result == PGQRS_OK) result = pgqrsi_sqlite_find_workflow(self, name, &workflow);
    if (result != PGQRS_OK || workflow.id != 0) return result;
    result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_insert_workflow(self, now_us, name, settings, queue, created);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK) *created = false;
    return result;
}

static pgqrs_result pgqrsi_sqlite_workflow_change(void *context, const char *name, const pgqrs_workflow_desc *change)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrsi_sqlite_query query;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_WORKFLOW_CHANGE_SQL);
    pgqrsi_sqlite_put_text(&query, name);
    pgqrsi_sqlite_put_workflow(&query, change);
    result = pgqrsi_sqlite_run(&query);
    if (result == PGQRS_OK && pgqrsi_sqlite_changes(self) == 0) result = pgqrsi_sqlite_no_workflow(self, name);
    return pgqrsi_sqlite_finish(self, result);
}

static void pgqrsi_sqlite_read_workflow(pgqrsi_sqlite_query *query, void *result, pgqrs_workflow *workflow)
{
    pgqrs_workflow_desc *settings = &workflow->settings;
    workflow->id = pgqrsi_sqlite_int(query, 0);
    workflow->name = pgqrsi_sqlite_copy(query, result, 1, NULL);
    settings->queue = pgqrsi_sqlite_copy(query, result, 2, NULL);
    settings->retry.max_retries = (int32_t)pgqrsi_sqlite_int(query, 3);
    settings->retry.backoff = (pgqrs_backoff)(int)pgqrsi_sqlite_int(query, 4);
    settings->retry.base_ms = pgqrsi_sqlite_int(query, 5);
    settings->retry.cap_ms = pgqrsi_sqlite_int(query, 6);
    settings->retry.jitter_percent = (int32_t)pgqrsi_sqlite_int(query, 7);
    settings->timeout_ms = pgqrsi_sqlite_int(query, 8);
    settings->step_timeout_ms = pgqrsi_sqlite_int(query, 9);
    settings->retention_ms = pgqrsi_sqlite_int(query, 10);
    settings->failed_retention_ms = pgqrsi_sqlite_int(query, 11);
    workflow->created_at_us = pgqrsi_sqlite_int(query, 12);
}

static pgqrs_result pgqrsi_sqlite_workflow_list(void *context, const char *name, int64_t after_id, size_t limit,
                                                pgqrs_workflows **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_workflows *list;
    pgqrs_workflow *items;
    pgqrsi_sqlite_query query;
    pgqrs_result result = pgqrsi_sqlite_ready_to_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    if (name || limit == 0) limit = 1;
    list = (pgqrs_workflows *)pgqrs_backend_result_new(self->store, sizeof(*list), limit * (sizeof(*items) + 64));
    items = list ? (pgqrs_workflow *)pgqrs_backend_result_alloc(list, limit * sizeof(*items)) : NULL;
    if (!items) {
        pgqrs_free(list);
        return pgqrsi_sqlite_no_memory(self);
    }
    list->items = items;
    query = pgqrsi_sqlite_query_new(self, name ? PGQRSI_SQLITE_WORKFLOW_GET_SQL : PGQRSI_SQLITE_WORKFLOW_LIST_SQL);
    if (name) {
        pgqrsi_sqlite_put_text(&query, name);
    } else {
        pgqrsi_sqlite_put(&query, after_id);
        pgqrsi_sqlite_put(&query, (int64_t)limit);
    }
    while (list->count < limit && pgqrsi_sqlite_next(&query))
        pgqrsi_sqlite_read_workflow(&query, list, &items[list->count++]);
    result = pgqrsi_sqlite_end(&query);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

/* A queue that was made for a workflow goes with it, unless somebody else uses it. */
static pgqrs_result pgqrsi_sqlite_drop_made_queue(pgqrsi_sqlite *self, int64_t queue_id)
{
    int64_t messages = 0, workers = 0, workflows = 0;
    pgqrs_result result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_QUEUE_MESSAGES_SQL, &queue_id, 1, &messages);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_QUEUE_WORKERS_SQL, &queue_id, 1, &workers);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_WORKFLOWS_USING_SQL, &queue_id, 1, &workflows);
    if (result != PGQRS_OK || messages || workers || workflows) return result;
    return pgqrsi_sqlite_drop_queue_rows(self, queue_id);
}

static pgqrs_result pgqrsi_sqlite_drop_workflow(pgqrsi_sqlite *self, const char *name)
{
    pgqrsi_sqlite_workflow workflow;
    int64_t runs = 0;
    pgqrs_result result = pgqrsi_sqlite_need_workflow(self, name, &workflow);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_WORKFLOW_RUNS_SQL, &workflow.id, 1, &runs);
    if (result != PGQRS_OK) return result;
    if (runs)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_WORKFLOW_NOT_EMPTY, 0, NULL,
                                  "workflow \"%s\" still has runs; cancel or purge them, or force", name);
    result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_WORKFLOW_DROP_SQL, &workflow.id, 1);
    if (result != PGQRS_OK || !workflow.made_queue) return result;
    return pgqrsi_sqlite_drop_made_queue(self, workflow.queue_id);
}

static pgqrs_result pgqrsi_sqlite_workflow_delete(void *context, int64_t now_us, const char *name)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    (void)now_us;
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_drop_workflow(self, name));
}

static pgqrs_result pgqrsi_sqlite_find_key(pgqrsi_sqlite *self, int64_t workflow_id, const char *key, int64_t *run_id)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_BY_KEY_SQL);
    *run_id = 0;
    pgqrsi_sqlite_put(&query, workflow_id);
    pgqrsi_sqlite_put_text(&query, key);
    if (pgqrsi_sqlite_next(&query)) *run_id = pgqrsi_sqlite_int(&query, 0);
    return pgqrsi_sqlite_end(&query);
}

static int64_t pgqrsi_sqlite_deadline(int64_t timeout_ms, int64_t now_us)
{
    return timeout_ms > 0 ? now_us + timeout_ms * 1000 : 0;
}

static pgqrs_result pgqrsi_sqlite_insert_run(pgqrsi_sqlite *self, const int64_t values[5], const char *key)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_INSERT_SQL);
    int i;
    for (i = 0; i < 5; i++)
        pgqrsi_sqlite_put(&query, values[i]);
    pgqrsi_sqlite_put_text(&query, key);
    self->wake = true;
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_trigger_one(pgqrsi_sqlite *self, const pgqrs_backend_trigger_item *item,
                                              const pgqrsi_sqlite_workflow *workflow, int64_t now_us, int64_t id)
{
    pgqrs_backend_message message;
    int64_t values[5];
    pgqrs_result result;
    memset(&message, 0, sizeof(message));
    message.payload = item->input ? item->input : "null";
    message.payload_size = item->input ? item->input_size : 4;
    message.priority = item->priority;
    message.due = item->due;
    result = pgqrsi_sqlite_insert(self, &message, workflow->queue_id, now_us, id);
    values[0] = id;
    values[1] = workflow->id;
    values[2] = now_us;
    values[3] = pgqrsi_sqlite_deadline(workflow->timeout_ms, now_us);
    values[4] = 0;
    return result == PGQRS_OK ? pgqrsi_sqlite_insert_run(self, values, item->idempotency_key) : result;
}

static pgqrs_result pgqrsi_sqlite_trigger_all(pgqrsi_sqlite *self, const pgqrs_backend_trigger *request,
                                              pgqrs_receipt *receipts)
{
    pgqrsi_sqlite_workflow workflow;
    int64_t id = 0;
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_need_workflow(self, request->workflow, &workflow);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_MAX_ID_SQL, NULL, 0, &id);
    for (i = 0; i < request->count && result == PGQRS_OK; i++) {
        const pgqrs_backend_trigger_item *item = &request->items[i];
        pgqrs_receipt receipt;
        memset(&receipt, 0, sizeof(receipt));
        if (item->idempotency_key)
            result = pgqrsi_sqlite_find_key(self, workflow.id, item->idempotency_key, &receipt.id);
        receipt.duplicate = receipt.id != 0;
        if (result == PGQRS_OK && !receipt.duplicate) {
            receipt.id = ++id;
            result = pgqrsi_sqlite_trigger_one(self, item, &workflow, request->now_us, id);
        }
        if (receipts) receipts[i] = receipt;
    }
    return result;
}

static pgqrs_result pgqrsi_sqlite_trigger(void *context, const pgqrs_backend_trigger *request, pgqrs_receipt *receipts)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    self->must_flush = true; /* as for enqueue: a run that is there already is a promise too */
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_trigger_all(self, request, receipts));
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>runs: for the worker that has one
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_sqlite_no_run(pgqrsi_sqlite *self, int64_t id)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_RUN_NOT_FOUND, 0, NULL,
                              "there is no run %lld; it was removed, or never was", (long long)id);
}

/* Makes room for one more item of an array in a result object. What it outgrew stays in the arena, half of it at most. */
static void *pgqrsi_sqlite_grow(void *result, void *items, size_t count, size_t *capacity, size_t item_size)
{
    void *grown;
    if (count < *capacity) return items;
    *capacity = *capacity ? *capacity * 2 : 8;
    grown = pgqrs_backend_result_alloc(result, *capacity * item_size);
    if (grown && items) memcpy(grown, items, count * item_size);
    return grown;
}

static void pgqrsi_sqlite_read_step(pgqrsi_sqlite_query *query, void *result, pgqrs_step_info *step)
{
    step->number = (int32_t)pgqrsi_sqlite_int(query, 0);
    step->kind = (pgqrs_step_kind)(int)pgqrsi_sqlite_int(query, 1);
    step->state = (pgqrs_step_state)(int)pgqrsi_sqlite_int(query, 2);
    step->retries = (int32_t)pgqrsi_sqlite_int(query, 3);
    step->started_at_us = pgqrsi_sqlite_int(query, 4);
    step->finished_at_us = pgqrsi_sqlite_int(query, 5);
    step->due_at_us = pgqrsi_sqlite_int(query, 6);
    step->name = pgqrsi_sqlite_copy(query, result, 7, NULL);
    step->key = pgqrsi_sqlite_copy(query, result, 8, NULL);
    step->error_code = pgqrsi_sqlite_copy(query, result, 9, NULL);
    step->error_message = pgqrsi_sqlite_copy(query, result, 10, NULL);
    step->input = pgqrsi_sqlite_copy(query, result, 11, NULL);
    step->output = pgqrsi_sqlite_copy(query, result, 12, &step->output_size);
}

static pgqrs_result pgqrsi_sqlite_read_steps(pgqrsi_sqlite *self, int64_t run_id, void *result,
                                             const pgqrs_step_info **out, size_t *count)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_STEPS_SQL);
    pgqrs_step_info *items = NULL;
    size_t capacity = 0;
    *count = 0;
    pgqrsi_sqlite_put(&query, run_id);
    while (pgqrsi_sqlite_next(&query)) {
        items = (pgqrs_step_info *)pgqrsi_sqlite_grow(result, items, *count, &capacity, sizeof(*items));
        if (!items) {
            query.rc = SQLITE_NOMEM;
            break;
        }
        pgqrsi_sqlite_read_step(&query, result, &items[(*count)++]);
    }
    *out = items;
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_read_events(pgqrsi_sqlite *self, pgqrs_backend_run *run)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_EVENTS_SQL);
    pgqrs_backend_run_event *items = NULL;
    size_t capacity = 0;
    pgqrsi_sqlite_put(&query, run->id);
    while (pgqrsi_sqlite_next(&query)) {
        pgqrs_backend_run_event *event;
        items = (pgqrs_backend_run_event *)pgqrsi_sqlite_grow(run, items, run->event_count, &capacity, sizeof(*items));
        if (!items) {
            query.rc = SQLITE_NOMEM;
            break;
        }
        event = &items[run->event_count++];
        event->name = pgqrsi_sqlite_copy(&query, run, 0, NULL);
        event->payload = pgqrsi_sqlite_copy(&query, run, 1, &event->payload_size);
    }
    run->events = items;
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_load_run(pgqrsi_sqlite *self, int64_t now_us, int64_t run_id, pgqrs_backend_run **out)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_LOAD_SQL);
    pgqrs_backend_run *run = NULL;
    pgqrs_workflow workflow;
    pgqrs_result result;
    memset(&workflow, 0, sizeof(workflow));
    pgqrsi_sqlite_put(&query, run_id);
    if (pgqrsi_sqlite_next(&query)) {
        run = (pgqrs_backend_run *)pgqrs_backend_result_new(self->store, sizeof(*run), 2048);
        if (run) {
            pgqrsi_sqlite_read_workflow(&query, run, &workflow);
            run->stored = (pgqrs_run_state)(int)pgqrsi_sqlite_int(&query, 13);
            run->cancel = pgqrsi_sqlite_int(&query, 14) != 0;
            run->retries = (int32_t)pgqrsi_sqlite_int(&query, 15);
            run->started_at_us = pgqrsi_sqlite_int(&query, 16);
            run->deadline_at_us = pgqrsi_sqlite_int(&query, 17);
        } else {
            query.rc = SQLITE_NOMEM;
        }
    }
    *out = run;
    result = pgqrsi_sqlite_end(&query);
    if (result != PGQRS_OK || !run) return result;
    run->now_us = now_us;
    run->id = run_id;
    run->workflow = workflow.name;
    run->settings = workflow.settings;
    result = pgqrsi_sqlite_read_steps(self, run_id, run, &run->steps, &run->step_count);
    return result == PGQRS_OK ? pgqrsi_sqlite_read_events(self, run) : result;
}

static pgqrs_result pgqrsi_sqlite_run_load(void *context, int64_t now_us, int64_t run_id, pgqrs_backend_run **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_backend_run *run = NULL;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_load_run(self, now_us, run_id, &run));
    if (result != PGQRS_OK)
        pgqrs_free(run);
    else
        *out = run;
    return result;
}

static pgqrs_result pgqrsi_sqlite_run_write(void *context, pgqrs_backend_run_write *write)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result;
    write->cancel = false;
    write->result = PGQRS_ERR_LEASE_LOST;
    result = pgqrsi_sqlite_begin_write(self);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_store_run(self, write, write->now_us));
    if (result != PGQRS_OK) write->result = result;
    return result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>runs: questions
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_SQLITE_RUN_HELD "(r.state = 0 AND m.state = 3 AND m.lease_until > ?1)"

/* What a run is at ?1: stored, or read off its message. */
#define PGQRSI_SQLITE_RUN_STATE                                                                                        \
    "CASE WHEN r.state <> 0 THEN r.state WHEN m.id IS NULL OR m.state > 3 THEN 7"                                      \
    " WHEN r.cancel_requested_at <> 0 THEN 4 WHEN m.state = 3 AND m.lease_until > ?1 THEN 2"                           \
    " WHEN r.wait <> 0 AND m.state = 2 AND m.due_at > ?1 THEN 3 ELSE 1 END"

#define PGQRSI_SQLITE_RUN_COLUMNS                                                                                      \
    "r.id, " PGQRSI_SQLITE_RUN_STATE ", r.state, r.wait, r.wait_until, coalesce(m.attempt, 0), r.retries,"             \
    " r.triggered_at, r.started_at, r.finished_at, m.finished_at, r.deadline_at, r.cancel_requested_at, "              \
    "r.forked_from,"                                                                                                   \
    " CASE WHEN " PGQRSI_SQLITE_RUN_HELD " THEN m.worker_id END, CASE WHEN " PGQRSI_SQLITE_RUN_HELD                    \
    " THEN m.lease_until END, (SELECT name FROM pgqrs_workflows WHERE id = r.workflow_id),"                            \
    " (SELECT q.name FROM pgqrs_workflows w JOIN pgqrs_queues q ON q.id = w.queue_id WHERE w.id = r.workflow_id),"     \
    " m.payload, r.output, r.error_code, r.error_message, r.error_step, m.reason, r.wait_name, r.idempotency_key,"     \
    " r.cancelled_by, r.cancel_reason, CASE WHEN " PGQRSI_SQLITE_RUN_HELD                                              \
    " THEN (SELECT name FROM pgqrs_workers WHERE id = m.worker_id) END"

static void pgqrsi_sqlite_read_run_error(pgqrsi_sqlite_query *query, void *result, pgqrs_run_info *run)
{
    if (pgqrsi_sqlite_int(query, 2) != 0) {
        run->error_code = pgqrsi_sqlite_copy(query, result, 20, NULL);
        run->error_message = pgqrsi_sqlite_copy(query, result, 21, NULL);
        run->error_step = pgqrsi_sqlite_copy(query, result, 22, NULL);
        return;
    }
    run->finished_at_us = pgqrsi_sqlite_int(query, 10);
    run->error_code = "DEAD";
    run->error_message = pgqrsi_sqlite_copy(query, result, 23, NULL);
}

static void pgqrsi_sqlite_read_run(pgqrsi_sqlite_query *query, void *result, pgqrs_run_info *run)
{
    run->id = pgqrsi_sqlite_int(query, 0);
    run->state = (pgqrs_run_state)(int)pgqrsi_sqlite_int(query, 1);
    run->attempt = (int32_t)pgqrsi_sqlite_int(query, 5);
    run->retries = (int32_t)pgqrsi_sqlite_int(query, 6);
    run->triggered_at_us = pgqrsi_sqlite_int(query, 7);
    run->started_at_us = pgqrsi_sqlite_int(query, 8);
    run->finished_at_us = pgqrsi_sqlite_int(query, 9);
    run->deadline_at_us = pgqrsi_sqlite_int(query, 11);
    run->cancel_requested_at_us = pgqrsi_sqlite_int(query, 12);
    run->forked_from = pgqrsi_sqlite_int(query, 13);
    run->worker_id = pgqrsi_sqlite_int(query, 14);
    run->lease_until_us = pgqrsi_sqlite_int(query, 15);
    run->workflow = pgqrsi_sqlite_copy(query, result, 16, NULL);
    run->queue = pgqrsi_sqlite_copy(query, result, 17, NULL);
    run->input = pgqrsi_sqlite_copy(query, result, 18, &run->input_size);
    run->output = pgqrsi_sqlite_copy(query, result, 19, &run->output_size);
    run->idempotency_key = pgqrsi_sqlite_copy(query, result, 25, NULL);
    run->cancelled_by = pgqrsi_sqlite_copy(query, result, 26, NULL);
    run->cancel_reason = pgqrsi_sqlite_copy(query, result, 27, NULL);
    run->worker = pgqrsi_sqlite_copy(query, result, 28, NULL);
    if (run->state == PGQRS_RUN_ERROR) pgqrsi_sqlite_read_run_error(query, result, run);
    if (run->state != PGQRS_RUN_PAUSED) return;
    run->wait = (pgqrs_run_wait)(int)pgqrsi_sqlite_int(query, 3);
    run->wait_until_us = pgqrsi_sqlite_int(query, 4);
    run->wait_name = pgqrsi_sqlite_copy(query, result, 24, NULL);
}

static void pgqrsi_sqlite_add_unfinished(pgqrsi_sqlite_text *sql, const char *state, bool of_queue)
{
    pgqrsi_sqlite_add(sql, "SELECT id FROM pgqrs_messages WHERE state = ");
    pgqrsi_sqlite_add(sql, state);
    if (of_queue) pgqrsi_sqlite_add(sql, " AND queue_id = ?9");
}

static void pgqrsi_sqlite_add_all_unfinished(pgqrsi_sqlite_text *sql, bool of_queue)
{
    pgqrsi_sqlite_add_unfinished(sql, "3", of_queue);
    pgqrsi_sqlite_add(sql, " UNION ALL ");
    pgqrsi_sqlite_add_unfinished(sql, "1", of_queue);
    pgqrsi_sqlite_add(sql, " UNION ALL ");
    pgqrsi_sqlite_add_unfinished(sql, "2", of_queue);
}

/* Open runs are found by their messages, of which there are few compared with all runs ever. A page of ended ones is found
 * sooner by walking along the ids; counting them is a matter of their index. */
static void pgqrsi_sqlite_add_run_state(pgqrsi_sqlite_text *sql, const pgqrs_run_filter *filter, bool listing)
{
    bool of_queue = filter->workflow != NULL;
    char number[16];
    snprintf(number, sizeof(number), "%d", (int)filter->state);
    if (filter->open) {
        pgqrsi_sqlite_add(sql, " AND r.state = 0 AND r.id IN (");
        pgqrsi_sqlite_add_all_unfinished(sql, of_queue);
        pgqrsi_sqlite_add(sql, ")");
        return;
    }
    if (filter->state == PGQRS_RUN_ERROR) {
        pgqrsi_sqlite_add(sql, " AND (r.state = 7 OR r.state = 0 AND NOT EXISTS"
                               " (SELECT 1 FROM pgqrs_messages WHERE id = r.id AND state < 4))");
        return;
    }
    if (filter->state == PGQRS_RUN_SUCCESS || filter->state == PGQRS_RUN_CANCELLED) {
        pgqrsi_sqlite_add(sql, listing ? " AND +r.state = " : " AND r.state <> 0 AND r.state = ");
        pgqrsi_sqlite_add(sql, number);
        return;
    }
    pgqrsi_sqlite_add(sql, " AND r.id IN (");
    if (filter->state == PGQRS_RUN_RUNNING)
        pgqrsi_sqlite_add_unfinished(sql, "3", of_queue);
    else
        pgqrsi_sqlite_add_all_unfinished(sql, of_queue);
    pgqrsi_sqlite_add(sql, ") AND " PGQRSI_SQLITE_RUN_STATE " = ");
    pgqrsi_sqlite_add(sql, number);
}

/* Parameters: 1 now, 2 workflow, 3 key, 4 from, 5 before, 6 after id, 7 limit, 8 id, 9 queue. */
static void pgqrsi_sqlite_add_run_filter(pgqrsi_sqlite_text *sql, const pgqrs_run_filter *filter, int64_t id,
                                         bool listing)
{
    bool of_message = (int)filter->state != 0 && filter->state < PGQRS_RUN_CANCELLED;
    pgqrsi_sqlite_add(sql, " FROM pgqrs_runs r");
    if (listing || of_message) pgqrsi_sqlite_add(sql, " LEFT JOIN pgqrs_messages m ON m.id = r.id");
    pgqrsi_sqlite_add(sql, " WHERE coalesce(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) NOTNULL");
    if (id) pgqrsi_sqlite_add(sql, " AND r.id = ?8");
    if (filter->workflow) pgqrsi_sqlite_add(sql, " AND r.workflow_id = ?2");
    if ((int)filter->state || filter->open) pgqrsi_sqlite_add_run_state(sql, filter, listing);
    if (filter->idempotency_key) pgqrsi_sqlite_add(sql, " AND r.idempotency_key = ?3");
    if (filter->triggered_from_us) pgqrsi_sqlite_add(sql, " AND r.triggered_at >= ?4");
    if (filter->triggered_before_us) pgqrsi_sqlite_add(sql, " AND r.triggered_at < ?5");
    if (!listing) return;
    if (filter->after_id) pgqrsi_sqlite_add(sql, filter->oldest_first ? " AND r.id > ?6" : " AND r.id < ?6");
    pgqrsi_sqlite_add(sql, filter->oldest_first ? " ORDER BY r.id LIMIT ?7" : " ORDER BY r.id DESC LIMIT ?7");
}

static pgqrs_result pgqrsi_sqlite_put_run_filter(pgqrsi_sqlite_query *query, const pgqrs_run_filter *filter, int64_t id,
                                                 int64_t now_us, size_t limit)
{
    pgqrsi_sqlite_workflow workflow;
    pgqrs_result result = PGQRS_OK;
    memset(&workflow, 0, sizeof(workflow));
    if (filter->workflow) result = pgqrsi_sqlite_need_workflow(query->self, filter->workflow, &workflow);
    if (result != PGQRS_OK) return result;
    pgqrsi_sqlite_put(query, now_us);
    pgqrsi_sqlite_put(query, workflow.id);
    pgqrsi_sqlite_put_text(query, filter->idempotency_key);
    pgqrsi_sqlite_put(query, filter->triggered_from_us);
    pgqrsi_sqlite_put(query, filter->triggered_before_us);
    pgqrsi_sqlite_put(query, filter->after_id);
    pgqrsi_sqlite_put(query, (int64_t)limit);
    pgqrsi_sqlite_put(query, id);
    pgqrsi_sqlite_put(query, workflow.queue_id);
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_sqlite_list_runs(pgqrsi_sqlite *self, int64_t now_us, int64_t id,
                                            const pgqrs_run_filter *filter, size_t limit, pgqrs_runs *list)
{
    pgqrs_run_info *items = (pgqrs_run_info *)pgqrs_backend_result_alloc(list, limit * sizeof(*items));
    pgqrsi_sqlite_text sql;
    pgqrsi_sqlite_query query;
    pgqrs_result result, ended;
    if (!items) return pgqrsi_sqlite_no_memory(self);
    list->items = items;
    sql.size = 0;
    pgqrsi_sqlite_add(&sql, "SELECT " PGQRSI_SQLITE_RUN_COLUMNS);
    pgqrsi_sqlite_add_run_filter(&sql, filter, id, true);
    query = pgqrsi_sqlite_query_text(self, sql.text);
    result = pgqrsi_sqlite_put_run_filter(&query, filter, id, now_us, limit);
    while (result == PGQRS_OK && list->count < limit && pgqrsi_sqlite_next(&query))
        pgqrsi_sqlite_read_run(&query, list, &items[list->count++]);
    ended = pgqrsi_sqlite_end(&query);
    return result == PGQRS_OK ? ended : result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_run_list(void *context, int64_t now_us, int64_t id_or_0,
                                                       const pgqrs_run_filter *filter, pgqrs_runs **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_run_filter all;
    pgqrs_runs *list;
    size_t limit;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    memset(&all, 0, sizeof(all));
    if (!filter) filter = &all;
    limit = id_or_0 ? 1 : filter->limit ? filter->limit : 100;
    list = (pgqrs_runs *)pgqrs_backend_result_new(self->store, sizeof(*list), limit * (sizeof(pgqrs_run_info) + 128));
    result = list ? pgqrsi_sqlite_list_runs(self, now_us, id_or_0, filter, limit, list) : pgqrsi_sqlite_no_memory(self);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

static pgqrs_result pgqrsi_sqlite_count_runs(pgqrsi_sqlite *self, int64_t now_us, const pgqrs_run_filter *filter,
                                             int64_t *count)
{
    pgqrsi_sqlite_text sql;
    pgqrsi_sqlite_query query;
    pgqrs_result result, ended;
    sql.size = 0;
    pgqrsi_sqlite_add(&sql, "SELECT count(*)");
    pgqrsi_sqlite_add_run_filter(&sql, filter, 0, false);
    query = pgqrsi_sqlite_query_text(self, sql.text);
    result = pgqrsi_sqlite_put_run_filter(&query, filter, 0, now_us, 0);
    if (result == PGQRS_OK && pgqrsi_sqlite_next(&query)) *count = pgqrsi_sqlite_int(&query, 0);
    ended = pgqrsi_sqlite_end(&query);
    return result == PGQRS_OK ? ended : result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_run_count(void *context, int64_t now_us, const pgqrs_run_filter *filter,
                                                        int64_t *count)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_run_filter all;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *count = 0;
    if (result != PGQRS_OK) return result;
    memset(&all, 0, sizeof(all));
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_count_runs(self, now_us, filter ? filter : &all, count));
}

static pgqrs_result pgqrsi_sqlite_need_run(pgqrsi_sqlite *self, int64_t run_id)
{
    int64_t id = 0;
    pgqrs_result result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_RUN_THERE_SQL, &run_id, 1, &id);
    return result == PGQRS_OK && !id ? pgqrsi_sqlite_no_run(self, run_id) : result;
}

static pgqrs_result pgqrsi_sqlite_run_steps(void *context, int64_t run_id, pgqrs_steps **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_steps *list;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    list = (pgqrs_steps *)pgqrs_backend_result_new(self->store, sizeof(*list), 2048);
    result = list ? pgqrsi_sqlite_need_run(self, run_id) : pgqrsi_sqlite_no_memory(self);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_read_steps(self, run_id, list, &list->items, &list->count);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

static pgqrs_result pgqrsi_sqlite_read_values(pgqrsi_sqlite *self, int64_t run_id, pgqrs_run_values *list)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_VALUES_SQL);
    pgqrs_run_value_info *items = NULL;
    size_t capacity = 0;
    pgqrsi_sqlite_put(&query, run_id);
    while (pgqrsi_sqlite_next(&query)) {
        pgqrs_run_value_info *value;
        items = (pgqrs_run_value_info *)pgqrsi_sqlite_grow(list, items, list->count, &capacity, sizeof(*items));
        if (!items) {
            query.rc = SQLITE_NOMEM;
            break;
        }
        value = &items[list->count++];
        value->name = pgqrsi_sqlite_copy(&query, list, 0, NULL);
        value->value = pgqrsi_sqlite_copy(&query, list, 1, &value->value_size);
        value->set_at_us = pgqrsi_sqlite_int(&query, 2);
    }
    list->items = items;
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_run_values(void *context, int64_t run_id, pgqrs_run_values **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_run_values *list;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    list = (pgqrs_run_values *)pgqrs_backend_result_new(self->store, sizeof(*list), 1024);
    result = list ? pgqrsi_sqlite_need_run(self, run_id) : pgqrsi_sqlite_no_memory(self);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_read_values(self, run_id, list);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>runs: control
 * --------------------------------------------------------------------------------------------------------------- */

/* A run and its message as the controlling calls need them. */
typedef struct pgqrsi_sqlite_control {
    pgqrs_run_state state;
    int64_t message_state; /* 0: it has no message any more; a lease that ran out is still a lease here */
    bool held;             /* by somebody whose lease is not over */
    bool waits;            /* and its time has not come */
    bool expects;          /* it waits for the event asked about */
    int64_t workflow_id;
    int64_t queue_id;
    int64_t timeout_ms;
    int64_t priority;
} pgqrsi_sqlite_control;

static pgqrs_run_state pgqrsi_sqlite_state_of(int64_t stored, const pgqrsi_sqlite_control *run, bool cancel)
{
    if (stored) return (pgqrs_run_state)(int)stored;
    if (run->message_state == 0 || run->message_state > PGQRS_LEASED) return PGQRS_RUN_ERROR;
    if (cancel) return PGQRS_RUN_CANCELLING;
    if (run->held) return PGQRS_RUN_RUNNING;
    return run->waits ? PGQRS_RUN_PAUSED : PGQRS_RUN_QUEUED;
}

static pgqrs_result pgqrsi_sqlite_look_at_run(pgqrsi_sqlite *self, int64_t now_us, int64_t run_id, const char *event,
                                              pgqrsi_sqlite_control *run)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_LOOK_SQL);
    bool found;
    pgqrs_result result;
    memset(run, 0, sizeof(*run));
    pgqrsi_sqlite_put(&query, run_id);
    pgqrsi_sqlite_put_text(&query, event);
    found = pgqrsi_sqlite_next(&query);
    if (found) {
        run->message_state = pgqrsi_sqlite_int(&query, 1);
        run->held = run->message_state == PGQRS_LEASED && pgqrsi_sqlite_int(&query, 2) > now_us;
        run->waits = pgqrsi_sqlite_int(&query, 4) != 0 && run->message_state == PGQRS_DELAYED &&
                     pgqrsi_sqlite_int(&query, 5) > now_us;
        run->priority = pgqrsi_sqlite_int(&query, 6);
        run->queue_id = pgqrsi_sqlite_int(&query, 7);
        run->workflow_id = pgqrsi_sqlite_int(&query, 8);
        run->timeout_ms = pgqrsi_sqlite_int(&query, 9);
        run->expects = pgqrsi_sqlite_int(&query, 10) != 0;
        run->state = pgqrsi_sqlite_state_of(pgqrsi_sqlite_int(&query, 0), run, pgqrsi_sqlite_int(&query, 3) != 0);
    }
    result = pgqrsi_sqlite_end(&query);
    return result == PGQRS_OK && !found ? pgqrsi_sqlite_no_run(self, run_id) : result;
}

static bool pgqrsi_sqlite_has_ended(pgqrs_run_state state)
{
    return state == PGQRS_RUN_SUCCESS || state == PGQRS_RUN_ERROR || state == PGQRS_RUN_CANCELLED;
}

static pgqrs_result pgqrsi_sqlite_cancel_now(pgqrsi_sqlite *self, int64_t now_us, int64_t run_id)
{
    const int64_t values[] = {run_id, now_us};
    pgqrs_backend_run_write end;
    pgqrs_result result;
    memset(&end, 0, sizeof(end));
    end.run_id = run_id;
    end.state = PGQRS_RUN_CANCELLED;
    result = pgqrsi_sqlite_end_run(self, &end, true, now_us);
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_RUN_ARCHIVE_SQL, values, 2) : result;
}

static pgqrs_result pgqrsi_sqlite_cancel(pgqrsi_sqlite *self, int64_t now_us, int64_t run_id, const char *by,
                                         const char *reason, pgqrs_run_state *state)
{
    pgqrsi_sqlite_control run;
    pgqrsi_sqlite_query query;
    pgqrs_result result = pgqrsi_sqlite_look_at_run(self, now_us, run_id, NULL, &run);
    *state = run.state;
    if (result != PGQRS_OK || pgqrsi_sqlite_has_ended(run.state)) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_ASK_CANCEL_SQL);
    pgqrsi_sqlite_put(&query, run_id);
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put_text(&query, by);
    pgqrsi_sqlite_put_text(&query, reason);
    result = pgqrsi_sqlite_run(&query);
    *state = run.held ? PGQRS_RUN_CANCELLING : PGQRS_RUN_CANCELLED;
    return result == PGQRS_OK && !run.held ? pgqrsi_sqlite_cancel_now(self, now_us, run_id) : result;
}

static pgqrs_result pgqrsi_sqlite_run_cancel(void *context, int64_t now_us, int64_t run_id, const char *by,
                                             const char *reason, pgqrs_run_state *state)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    self->must_flush = true; /* what it says of a run that ended is about somebody else's commit */
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_cancel(self, now_us, run_id, by, reason, state));
}

static pgqrs_result pgqrsi_sqlite_rouse(pgqrsi_sqlite *self, int64_t run_id, const pgqrsi_sqlite_control *run)
{
    int64_t values[2];
    pgqrs_result result;
    values[0] = run_id;
    result = pgqrsi_sqlite_tail(self, run->queue_id, run->priority, &values[1]);
    self->wake = true;
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_PROMOTE_SQL, values, 2) : result;
}

typedef struct pgqrsi_sqlite_event {
    int64_t run_id;
    const char *name;
    const char *payload;
    size_t payload_size;
} pgqrsi_sqlite_event;

static pgqrs_result pgqrsi_sqlite_send(pgqrsi_sqlite *self, int64_t now_us, const pgqrsi_sqlite_event *event,
                                       bool *accepted, pgqrs_run_state *state)
{
    pgqrsi_sqlite_control run;
    pgqrsi_sqlite_query query;
    pgqrs_result result = pgqrsi_sqlite_look_at_run(self, now_us, event->run_id, event->name, &run);
    *state = run.state;
    if (result != PGQRS_OK || pgqrsi_sqlite_has_ended(run.state)) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_EVENT_PUT_SQL);
    pgqrsi_sqlite_put(&query, event->run_id);
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put_text(&query, event->name);
    pgqrsi_sqlite_put_bytes(&query, event->payload ? event->payload : "null", event->payload ? event->payload_size : 4);
    result = pgqrsi_sqlite_run(&query);
    *accepted = result == PGQRS_OK && pgqrsi_sqlite_changes(self) > 0;
    if (!*accepted || !run.expects || run.message_state != PGQRS_DELAYED) return result;
    return pgqrsi_sqlite_rouse(self, event->run_id, &run);
}

static pgqrs_result pgqrsi_sqlite_run_send(void *context, int64_t now_us, int64_t run_id, const char *event,
                                           const char *payload, size_t payload_size, bool *accepted,
                                           pgqrs_run_state *state)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrsi_sqlite_event sent;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    *accepted = false;
    if (result != PGQRS_OK) return result;
    sent.run_id = run_id;
    sent.name = event;
    sent.payload = payload;
    sent.payload_size = payload_size;
    self->must_flush = true; /* "there is one already" is a promise about somebody else's commit */
    result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_send(self, now_us, &sent, accepted, state));
    if (result != PGQRS_OK) *accepted = false;
    return result;
}

static pgqrs_result pgqrsi_sqlite_no_input(pgqrsi_sqlite *self, int64_t run_id)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_RUN_STATE, 0, NULL,
                              "the message of run %lld was removed, and its input with it", (long long)run_id);
}

static pgqrs_result pgqrsi_sqlite_restart(pgqrsi_sqlite *self, int64_t now_us, int64_t run_id, pgqrs_run_state *state)
{
    pgqrsi_sqlite_control run;
    int64_t values[2];
    pgqrs_result result = pgqrsi_sqlite_look_at_run(self, now_us, run_id, NULL, &run);
    *state = run.state;
    if (result != PGQRS_OK || run.state != PGQRS_RUN_ERROR) return result;
    if (!run.message_state) return pgqrsi_sqlite_no_input(self, run_id);
    values[0] = run_id;
    values[1] = pgqrsi_sqlite_deadline(run.timeout_ms, now_us);
    result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_STEPS_FORGET_SQL, values, 1);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_RUN_RESTART_SQL, values, 2);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_tail(self, run.queue_id, run.priority, &values[1]);
    self->wake = true;
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_RUN_REPLAY_SQL, values, 2) : result;
}

static pgqrs_result pgqrsi_sqlite_run_restart(void *context, int64_t now_us, int64_t run_id, pgqrs_run_state *state)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    return pgqrsi_sqlite_finish(self, pgqrsi_sqlite_restart(self, now_us, run_id, state));
}

typedef struct pgqrsi_sqlite_fork {
    int64_t now_us;
    int64_t from_id;
    int32_t before;
    const char *input; /* NULL: the same */
    size_t input_size;
} pgqrsi_sqlite_fork;

static pgqrs_result pgqrsi_sqlite_fork_message(pgqrsi_sqlite *self, const pgqrsi_sqlite_fork *fork,
                                               const pgqrsi_sqlite_control *run, int64_t new_id)
{
    pgqrsi_sqlite_query query;
    int64_t ord = 0;
    pgqrs_result result = pgqrsi_sqlite_tail(self, run->queue_id, run->priority, &ord);
    if (result != PGQRS_OK) return result;
    query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_FORK_MESSAGE_SQL);
    pgqrsi_sqlite_put(&query, new_id);
    pgqrsi_sqlite_put(&query, run->queue_id);
    pgqrsi_sqlite_put(&query, run->priority);
    pgqrsi_sqlite_put(&query, ord);
    pgqrsi_sqlite_put(&query, fork->now_us);
    pgqrsi_sqlite_put(&query, fork->from_id);
    pgqrsi_sqlite_put_bytes(&query, fork->input, fork->input_size);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_fork_all(pgqrsi_sqlite *self, const pgqrsi_sqlite_fork *fork, int64_t *new_id)
{
    pgqrsi_sqlite_control run;
    int64_t values[5];
    pgqrs_result result = pgqrsi_sqlite_look_at_run(self, fork->now_us, fork->from_id, NULL, &run);
    if (result == PGQRS_OK && !run.message_state && !fork->input) result = pgqrsi_sqlite_no_input(self, fork->from_id);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_MAX_ID_SQL, NULL, 0, new_id);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_fork_message(self, fork, &run, ++*new_id);
    if (result != PGQRS_OK) return result;
    values[0] = *new_id;
    values[1] = run.workflow_id;
    values[2] = fork->now_us;
    values[3] = pgqrsi_sqlite_deadline(run.timeout_ms, fork->now_us);
    values[4] = fork->from_id;
    result = pgqrsi_sqlite_insert_run(self, values, NULL);
    values[0] = fork->from_id;
    values[1] = *new_id;
    values[2] = fork->before;
    return result == PGQRS_OK ? pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_FORK_STEPS_SQL, values, 3) : result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_run_fork(void *context, int64_t now_us, int64_t run_id, int32_t before,
                                                       const char *input_or_null, size_t input_size,
                                                       int64_t *new_run_id)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrsi_sqlite_fork fork;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    *new_run_id = 0;
    if (result != PGQRS_OK) return result;
    fork.now_us = now_us;
    fork.from_id = run_id;
    fork.before = before;
    fork.input = input_or_null;
    fork.input_size = input_size;
    result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_fork_all(self, &fork, new_run_id));
    if (result != PGQRS_OK) *new_run_id = 0;
    return result;
}

/* Other stores write a byte after a commit that ended a run, as they do for messages. */
static pgqrs_result pgqrsi_sqlite_run_wait_begin(void *context, int64_t now_us, int64_t run_id, int64_t for_us)
{
    (void)run_id;
    return pgqrsi_sqlite_wait_begin(context, now_us, NULL, for_us);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>runs: removal
 * --------------------------------------------------------------------------------------------------------------- */

/* The runs whose ids are in self->rows, with their messages. */
static pgqrs_result pgqrsi_sqlite_remove_runs(pgqrsi_sqlite *self, size_t count)
{
    size_t i;
    pgqrs_result result = PGQRS_OK;
    if (count) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_KEEP_MAX_ID_SQL, NULL, 0);
    for (i = 0; i < count && result == PGQRS_OK; i++) {
        const int64_t id = self->rows[i].v[0];
        result = pgqrsi_sqlite_drop_run(self, id);
        if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_MESSAGE_DROP_SQL, &id, 1);
    }
    return result;
}

/* What a purge is about, in the order of the parameters of its statements. */
typedef struct pgqrsi_sqlite_run_purge {
    int64_t workflow_id;
    int64_t queue_id;
    int64_t before_us;
    int64_t limit;
    bool of_state[8];
    bool open;
} pgqrsi_sqlite_run_purge;

/* Those that an index gives in the order of their end: the ended ones and dead letters. */
static bool pgqrsi_sqlite_add_ended(pgqrsi_sqlite_text *sql, const pgqrsi_sqlite_run_purge *purge)
{
    bool any = false;
    int state;
    pgqrsi_sqlite_add(sql, "SELECT id FROM (");
    for (state = PGQRS_RUN_CANCELLED; state <= PGQRS_RUN_ERROR; state++) {
        char number[16];
        if (!purge->of_state[state]) continue;
        snprintf(number, sizeof(number), "%d", state);
        if (any) pgqrsi_sqlite_add(sql, " UNION ALL ");
        pgqrsi_sqlite_add(sql, "SELECT * FROM (SELECT id, finished_at AS at FROM pgqrs_runs WHERE workflow_id = ?1"
                               " AND state <> 0 AND finished_at < ?3 AND state = ");
        pgqrsi_sqlite_add(sql, number);
        pgqrsi_sqlite_add(sql, " ORDER BY finished_at LIMIT ?4)");
        any = true;
    }
    if (purge->of_state[PGQRS_RUN_ERROR])
        pgqrsi_sqlite_add(sql,
                          " UNION ALL SELECT * FROM (SELECT r.id, m.finished_at AS at FROM " PGQRSI_SQLITE_DEAD_RUNS
                          " ORDER BY m.finished_at LIMIT ?4)");
    pgqrsi_sqlite_add(sql, ") WHERE coalesce(?1, ?2, ?3, ?4) NOTNULL ORDER BY at, id LIMIT ?4");
    return any;
}

/* The others: open ones, and failed ones whose message is neither there to be delivered nor a dead letter. */
static bool pgqrsi_sqlite_add_open(pgqrsi_sqlite_text *sql, const pgqrsi_sqlite_run_purge *purge)
{
    bool failed = purge->of_state[PGQRS_RUN_ERROR];
    pgqrsi_sqlite_add(sql, "SELECT r.id FROM pgqrs_runs r LEFT JOIN pgqrs_messages m ON m.id = r.id"
                           " WHERE r.workflow_id = ?1 AND +r.state = 0 AND coalesce(?1, ?2, ?3, ?4) NOTNULL AND (");
    if (purge->open) pgqrsi_sqlite_add(sql, "m.state < 4");
    if (purge->open && failed) pgqrsi_sqlite_add(sql, " OR ");
    if (failed)
        pgqrsi_sqlite_add(sql, "(m.id IS NULL OR m.state > 3) AND coalesce(m.finished_at, r.triggered_at) < ?3");
    pgqrsi_sqlite_add(sql, ") ORDER BY r.id LIMIT ?4");
    return purge->open || failed;
}

static pgqrs_result pgqrsi_sqlite_purge_found(pgqrsi_sqlite *self, const char *sql, pgqrsi_sqlite_run_purge *purge)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_text(self, sql);
    size_t count = 0;
    pgqrs_result result;
    pgqrsi_sqlite_put(&query, purge->workflow_id);
    pgqrsi_sqlite_put(&query, purge->queue_id);
    pgqrsi_sqlite_put(&query, purge->before_us);
    pgqrsi_sqlite_put(&query, purge->limit);
    result = pgqrsi_sqlite_collect(&query, &count);
    purge->limit -= (int64_t)count;
    return result == PGQRS_OK ? pgqrsi_sqlite_remove_runs(self, count) : result;
}

static pgqrs_result pgqrsi_sqlite_purge_runs(pgqrsi_sqlite *self, pgqrsi_sqlite_run_purge *purge)
{
    bool everything = purge->open && purge->of_state[PGQRS_RUN_CANCELLED] && purge->of_state[PGQRS_RUN_SUCCESS] &&
                      purge->of_state[PGQRS_RUN_ERROR] && purge->before_us == INT64_MAX;
    pgqrsi_sqlite_text sql;
    pgqrs_result result = PGQRS_OK;
    if (everything)
        return pgqrsi_sqlite_purge_found(self,
                                         "SELECT id FROM pgqrs_runs WHERE workflow_id = ?1"
                                         " AND coalesce(?1, ?2, ?3, ?4) NOTNULL ORDER BY id LIMIT ?4",
                                         purge);
    sql.size = 0;
    if (pgqrsi_sqlite_add_ended(&sql, purge)) result = pgqrsi_sqlite_purge_found(self, sql.text, purge);
    sql.size = 0;
    if (result == PGQRS_OK && purge->limit > 0 && pgqrsi_sqlite_add_open(&sql, purge))
        result = pgqrsi_sqlite_purge_found(self, sql.text, purge);
    return result;
}

static pgqrs_result pgqrsi_sqlite_plan_purge(pgqrsi_sqlite *self, const pgqrs_backend_run_purge *request,
                                             pgqrsi_sqlite_run_purge *purge)
{
    pgqrsi_sqlite_workflow workflow;
    int state;
    pgqrs_result result = pgqrsi_sqlite_need_workflow(self, request->workflow, &workflow);
    purge->workflow_id = workflow.id;
    purge->queue_id = workflow.queue_id;
    purge->before_us = request->older_than_us ? request->now_us - request->older_than_us : INT64_MAX;
    purge->limit = (int64_t)request->limit;
    for (state = 0; state < 8; state++)
        purge->of_state[state] = (request->states >> state & 1) != 0;
    purge->open = request->open;
    return result;
}

static pgqrs_result pgqrsi_sqlite_run_purge_some(void *context, pgqrs_backend_run_purge *request)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrsi_sqlite_run_purge purge;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    request->removed = 0;
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_plan_purge(self, request, &purge);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_purge_runs(self, &purge);
    result = pgqrsi_sqlite_finish(self, result);
    if (result == PGQRS_OK) request->removed = (int64_t)request->limit - purge.limit;
    return result;
}

/* Ended runs of one workflow that were kept long enough. */
static pgqrs_result pgqrsi_sqlite_remove_old_runs(pgqrsi_sqlite *self, pgqrsi_sqlite_statement find,
                                                  const int64_t values[4], int64_t *changed)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, find);
    size_t count = 0;
    int i;
    pgqrs_result result;
    for (i = 0; i < 4; i++)
        pgqrsi_sqlite_put(&query, values[i]);
    result = pgqrsi_sqlite_collect(&query, &count);
    *changed += (int64_t)count;
    return result == PGQRS_OK ? pgqrsi_sqlite_remove_runs(self, count) : result;
}

/* A row of NEEDY_WORKFLOW: id, queue, retentions. */
static pgqrs_result pgqrsi_sqlite_maintain_workflow(pgqrsi_sqlite *self, int64_t now_us,
                                                    const pgqrsi_sqlite_row *workflow, int64_t *changed)
{
    int64_t values[4];
    int state;
    pgqrs_result result = PGQRS_OK;
    values[0] = workflow->v[0];
    values[3] = PGQRSI_SQLITE_MAINTAIN_STEP;
    for (state = PGQRS_RUN_CANCELLED; state <= PGQRS_RUN_ERROR && result == PGQRS_OK; state++) {
        int64_t keep_ms = workflow->v[state == PGQRS_RUN_ERROR ? 3 : 2];
        if (keep_ms <= 0) continue;
        values[1] = state;
        values[2] = keep_ms > now_us / 1000 ? 0 : now_us - keep_ms * 1000;
        result = pgqrsi_sqlite_remove_old_runs(self, PGQRSI_SQLITE_OLD_RUNS_SQL, values, changed);
    }
    if (result != PGQRS_OK || workflow->v[3] <= 0) return result;
    values[1] = workflow->v[1];
    return pgqrsi_sqlite_remove_old_runs(self, PGQRSI_SQLITE_OLD_DEAD_RUNS_SQL, values, changed);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>import
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_sqlite_list_events(pgqrsi_sqlite *self, int64_t run_id, pgqrs_run_events *list)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, PGQRSI_SQLITE_RUN_EVENTS_SQL);
    pgqrs_run_event_info *items = NULL;
    size_t capacity = 0;
    pgqrsi_sqlite_put(&query, run_id);
    while (pgqrsi_sqlite_next(&query)) {
        pgqrs_run_event_info *event;
        items = (pgqrs_run_event_info *)pgqrsi_sqlite_grow(list, items, list->count, &capacity, sizeof(*items));
        if (!items) {
            query.rc = SQLITE_NOMEM;
            break;
        }
        event = &items[list->count++];
        event->name = pgqrsi_sqlite_copy(&query, list, 0, NULL);
        event->payload = pgqrsi_sqlite_copy(&query, list, 1, &event->payload_size);
        event->sent_at_us = pgqrsi_sqlite_int(&query, 2);
    }
    list->items = items;
    return pgqrsi_sqlite_end(&query);
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_run_events(void *context, int64_t run_id, pgqrs_run_events **out)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrs_run_events *list;
    pgqrs_result result = pgqrsi_sqlite_begin_read(self);
    *out = NULL;
    if (result != PGQRS_OK) return result;
    list = (pgqrs_run_events *)pgqrs_backend_result_new(self->store, sizeof(*list), 1024);
    result = list ? pgqrsi_sqlite_need_run(self, run_id) : pgqrsi_sqlite_no_memory(self);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_list_events(self, run_id, list);
    result = pgqrsi_sqlite_finish(self, result);
    if (result != PGQRS_OK)
        pgqrs_free(list);
    else
        *out = list;
    return result;
}

typedef struct pgqrsi_sqlite_import {
    pgqrsi_sqlite *self;
    const pgqrs_backend_import *request;
    int64_t queue_id;
    int64_t workflow_id;
} pgqrsi_sqlite_import;

/* What has to be true before the first row is written. */
static pgqrs_result pgqrsi_sqlite_import_target(pgqrsi_sqlite_import *job)
{
    pgqrsi_sqlite *self = job->self;
    const pgqrs_backend_import *request = job->request;
    pgqrsi_sqlite_queue queue;
    pgqrsi_sqlite_workflow workflow;
    pgqrs_result result = pgqrsi_sqlite_need_queue(self, request->queue, &queue);
    if (result != PGQRS_OK) return result;
    job->queue_id = queue.id;
    if (!queue.paused)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_QUEUE_NOT_PAUSED, 0, NULL,
                                  "queue \"%s\" is not paused: pause it until everything has arrived", request->queue);
    if (!request->workflow) return PGQRS_OK;
    result = pgqrsi_sqlite_need_workflow(self, request->workflow, &workflow);
    if (result != PGQRS_OK) return result;
    job->workflow_id = workflow.id;
    if (workflow.queue_id == queue.id) return PGQRS_OK;
    return pgqrs_backend_fail(self->store, PGQRS_ERR_INVALID_ARGUMENT, 0, NULL,
                              "workflow \"%s\" has another queue than \"%s\" here", request->workflow, request->queue);
}

static pgqrs_result pgqrsi_sqlite_import_free(const pgqrsi_sqlite_import *job, const pgqrs_run_image *item, int64_t id)
{
    pgqrsi_sqlite *self = job->self;
    int64_t taken = 0, holder = 0, run_id = 0;
    const pgqrs_message *message = item->message;
    pgqrs_result result = pgqrsi_sqlite_number(self, PGQRSI_SQLITE_IMPORT_TAKEN_SQL, &id, 1, &taken);
    if (result != PGQRS_OK) return result;
    if (taken)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_ID_TAKEN, 0, NULL, "there is a message or run %lld already",
                                  (long long)id);
    if (message && message->dedup_key && message->state < PGQRS_LEASED)
        result = pgqrsi_sqlite_key_holder(self, job->queue_id, message->dedup_key, job->request->now_us, &holder);
    if (result == PGQRS_OK && item->run && item->run->idempotency_key)
        result = pgqrsi_sqlite_find_key(self, job->workflow_id, item->run->idempotency_key, &run_id);
    if (result != PGQRS_OK || (!holder && !run_id)) return result;
    return pgqrs_backend_fail(self->store, PGQRS_ERR_DUPLICATE, 0, NULL, "%s %lld has a key that %s %lld holds here",
                              run_id ? "run" : "message", (long long)id, run_id ? "run" : "message",
                              (long long)(run_id ? run_id : holder));
}

static pgqrs_result pgqrsi_sqlite_import_message(const pgqrsi_sqlite_import *job, const pgqrs_message *message)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(job->self, PGQRSI_SQLITE_IMPORT_MESSAGE_SQL);
    pgqrsi_sqlite_put(&query, message->id);
    pgqrsi_sqlite_put(&query, job->queue_id);
    pgqrsi_sqlite_put(&query, message->state);
    pgqrsi_sqlite_put(&query, message->priority);
    pgqrsi_sqlite_put(&query, message->place);
    pgqrsi_sqlite_put(&query, message->due_at_us);
    pgqrsi_sqlite_put(&query, message->attempt);
    pgqrsi_sqlite_put(&query, message->enqueued_at_us);
    pgqrsi_sqlite_put(&query, message->expires_at_us);
    pgqrsi_sqlite_put(&query, message->finished_at_us);
    pgqrsi_sqlite_put_text(&query, message->dedup_key);
    pgqrsi_sqlite_put_text(&query, message->producer);
    pgqrsi_sqlite_put_text(&query, message->reason);
    pgqrsi_sqlite_put_bytes(&query, message->payload, message->payload_size);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_import_run_row(const pgqrsi_sqlite_import *job, const pgqrs_run_info *run)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(job->self, PGQRSI_SQLITE_IMPORT_RUN_SQL);
    pgqrsi_sqlite_put(&query, run->id);
    pgqrsi_sqlite_put(&query, job->workflow_id);
    pgqrsi_sqlite_put(&query, run->state);
    pgqrsi_sqlite_put(&query, run->wait);
    pgqrsi_sqlite_put(&query, run->wait_until_us);
    pgqrsi_sqlite_put(&query, run->retries);
    pgqrsi_sqlite_put(&query, run->triggered_at_us);
    pgqrsi_sqlite_put(&query, run->started_at_us);
    pgqrsi_sqlite_put(&query, run->finished_at_us);
    pgqrsi_sqlite_put(&query, run->deadline_at_us);
    pgqrsi_sqlite_put(&query, run->cancel_requested_at_us);
    pgqrsi_sqlite_put(&query, run->forked_from);
    pgqrsi_sqlite_put_text(&query, run->idempotency_key);
    pgqrsi_sqlite_put_text(&query, run->wait_name);
    pgqrsi_sqlite_put_text(&query, run->cancelled_by);
    pgqrsi_sqlite_put_text(&query, run->cancel_reason);
    pgqrsi_sqlite_put_text(&query, run->error_code);
    pgqrsi_sqlite_put_text(&query, run->error_message);
    pgqrsi_sqlite_put_text(&query, run->error_step);
    pgqrsi_sqlite_put_bytes(&query, run->output, run->output_size);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_import_text(pgqrsi_sqlite *self, pgqrsi_sqlite_statement which, const int64_t at[2],
                                              const char *name, const char *text)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, which);
    pgqrsi_sqlite_put(&query, at[0]);
    pgqrsi_sqlite_put(&query, at[1]);
    pgqrsi_sqlite_put_text(&query, name);
    pgqrsi_sqlite_put_text(&query, text);
    return pgqrsi_sqlite_run(&query);
}

static pgqrs_result pgqrsi_sqlite_import_run(const pgqrsi_sqlite_import *job, const pgqrs_run_image *item)
{
    pgqrsi_sqlite *self = job->self;
    int64_t at[2];
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_import_run_row(job, item->run);
    at[0] = item->run->id;
    for (i = 0; i < item->step_count && result == PGQRS_OK; i++) {
        pgqrs_step_info step = item->steps[i];
        if (step.output && !step.output_size) step.output_size = strlen(step.output);
        result = pgqrsi_sqlite_put_step(self, item->run->id, &step);
    }
    for (i = 0; i < item->value_count && result == PGQRS_OK; i++) {
        at[1] = item->values[i].set_at_us;
        result = pgqrsi_sqlite_import_text(self, PGQRSI_SQLITE_VALUE_PUT_SQL, at, item->values[i].name,
                                           item->values[i].value);
    }
    for (i = 0; i < item->event_count && result == PGQRS_OK; i++) {
        at[1] = item->events[i].sent_at_us;
        result = pgqrsi_sqlite_import_text(self, PGQRSI_SQLITE_IMPORT_EVENT_SQL, at, item->events[i].name,
                                           item->events[i].payload);
    }
    return result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_import_all(pgqrsi_sqlite_import *job)
{
    size_t i;
    pgqrs_result result = pgqrsi_sqlite_import_target(job);
    for (i = 0; i < job->request->count && result == PGQRS_OK; i++) {
        const pgqrs_run_image *item = &job->request->items[i];
        result = pgqrsi_sqlite_import_free(job, item, item->run ? item->run->id : item->message->id);
        if (result == PGQRS_OK && item->message) result = pgqrsi_sqlite_import_message(job, item->message);
        if (result == PGQRS_OK && item->run) result = pgqrsi_sqlite_import_run(job, item);
        if (result == PGQRS_OK && !item->message)
            result = pgqrsi_sqlite_run_with(job->self, PGQRSI_SQLITE_IMPORT_KEEP_SQL, &item->run->id, 1);
    }
    return result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_import_items(void *context, const pgqrs_backend_import *request)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrsi_sqlite_import job;
    pgqrs_result result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    memset(&job, 0, sizeof(job));
    job.self = self;
    job.request = request;
    result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_import_all(&job));
    self->tail_known = false; /* lines got places of their own choice */
    return result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>housekeeping
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_sqlite_remove_old(pgqrsi_sqlite *self, pgqrsi_sqlite_statement find, int64_t queue_id,
                                             int64_t now_us, int64_t keep_ms, size_t *count)
{
    pgqrsi_sqlite_query query;
    bool runs = false;
    size_t i;
    pgqrs_result result;
    *count = 0;
    if (keep_ms <= 0) return PGQRS_OK;
    query = pgqrsi_sqlite_query_new(self, find);
    pgqrsi_sqlite_put(&query, keep_ms > now_us / 1000 ? 0 : now_us - keep_ms * 1000);
    pgqrsi_sqlite_put(&query, queue_id);
    pgqrsi_sqlite_put(&query, PGQRSI_SQLITE_MAINTAIN_STEP);
    result = pgqrsi_sqlite_collect(&query, count);
    if (result != PGQRS_OK || *count == 0) return result;
    result = pgqrsi_sqlite_has_runs(self, queue_id, &runs);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_KEEP_MAX_ID_SQL, NULL, 0);
    for (i = 0; i < *count && result == PGQRS_OK; i++) {
        if (runs) result = pgqrsi_sqlite_drop_run(self, self->rows[i].v[0]);
        if (result == PGQRS_OK)
            result = pgqrsi_sqlite_run_with(self, PGQRSI_SQLITE_MESSAGE_DROP_SQL, &self->rows[i].v[0], 1);
    }
    return result;
}

/* The first queue or workflow after `after_id` that needs something done: id and three more columns; id 0: there is none. */
static pgqrs_result pgqrsi_sqlite_next_needy(pgqrsi_sqlite *self, pgqrsi_sqlite_statement which, int64_t now_us,
                                             int64_t after_id, pgqrsi_sqlite_row *row)
{
    pgqrsi_sqlite_query query = pgqrsi_sqlite_query_new(self, which);
    int i;
    memset(row, 0, sizeof(*row));
    pgqrsi_sqlite_put(&query, now_us);
    pgqrsi_sqlite_put(&query, after_id);
    if (pgqrsi_sqlite_next(&query))
        for (i = 0; i < 4; i++)
            row->v[i] = pgqrsi_sqlite_int(&query, i);
    return pgqrsi_sqlite_end(&query);
}

static pgqrs_result pgqrsi_sqlite_maintain_queue(pgqrsi_sqlite *self, int64_t now_us, const pgqrsi_sqlite_row *queue,
                                                 int64_t *changed)
{
    int64_t id = queue->v[0];
    size_t counts[5] = {0, 0, 0, 0, 0};
    size_t step = PGQRSI_SQLITE_MAINTAIN_STEP;
    int i;
    pgqrs_result result = pgqrsi_sqlite_expire_some(self, id, now_us, step, &counts[0]);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_promote(self, id, now_us, step, &counts[1]);
    if (result == PGQRS_OK) result = pgqrsi_sqlite_sweep(self, id, queue->v[1], now_us, step, &counts[2]);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_remove_old(self, PGQRSI_SQLITE_OLD_ARCHIVED_SQL, id, now_us, queue->v[2], &counts[3]);
    if (result == PGQRS_OK)
        result = pgqrsi_sqlite_remove_old(self, PGQRSI_SQLITE_OLD_DEAD_SQL, id, now_us, queue->v[3], &counts[4]);
    for (i = 0; i < 5; i++)
        *changed += (int64_t)counts[i];
    return result;
}

static pgqrs_result pgqrsi_sqlite_maintain_all(pgqrsi_sqlite *self, int64_t now_us, int64_t *changed)
{
    pgqrsi_sqlite_row row;
    pgqrs_result result = pgqrsi_sqlite_next_needy(self, PGQRSI_SQLITE_NEEDY_SQL, now_us, 0, &row);
    while (result == PGQRS_OK && row.v[0] != 0) {
        result = pgqrsi_sqlite_maintain_queue(self, now_us, &row, changed);
        if (result == PGQRS_OK)
            result = pgqrsi_sqlite_next_needy(self, PGQRSI_SQLITE_NEEDY_SQL, now_us, row.v[0], &row);
    }
    if (result == PGQRS_OK) result = pgqrsi_sqlite_next_needy(self, PGQRSI_SQLITE_NEEDY_WORKFLOW_SQL, now_us, 0, &row);
    while (result == PGQRS_OK && row.v[0] != 0) {
        result = pgqrsi_sqlite_maintain_workflow(self, now_us, &row, changed);
        if (result == PGQRS_OK)
            result = pgqrsi_sqlite_next_needy(self, PGQRSI_SQLITE_NEEDY_WORKFLOW_SQL, now_us, row.v[0], &row);
    }
    return result;
}

static PGQRSI_RARE pgqrs_result pgqrsi_sqlite_maintain(void *context, int64_t now_us, int64_t *changed)
{
    pgqrsi_sqlite *self = (pgqrsi_sqlite *)context;
    pgqrsi_sqlite_row row;
    pgqrs_result result = pgqrsi_sqlite_ready_to_read(self);
    *changed = 0;
    /* Looking costs no lock; mostly there is nothing to do. */
    if (result == PGQRS_OK) result = pgqrsi_sqlite_next_needy(self, PGQRSI_SQLITE_NEEDY_SQL, now_us, 0, &row);
    if (result == PGQRS_OK && row.v[0] == 0)
        result = pgqrsi_sqlite_next_needy(self, PGQRSI_SQLITE_NEEDY_WORKFLOW_SQL, now_us, 0, &row);
    if (result != PGQRS_OK || row.v[0] == 0) return result;
    result = pgqrsi_sqlite_begin_write(self);
    if (result != PGQRS_OK) return result;
    result = pgqrsi_sqlite_finish(self, pgqrsi_sqlite_maintain_all(self, now_us, changed));
    if (result != PGQRS_OK) *changed = 0;
    return result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>the table
 * --------------------------------------------------------------------------------------------------------------- */

static const char *const pgqrsi_sqlite_schemes[] = {"sqlite", "turso", NULL};

static const pgqrs_backend pgqrsi_sqlite_table = {PGQRS_BACKEND_VERSION,
                                                  "sqlite",
                                                  "pgqrs_sqlite.h",
                                                  pgqrsi_sqlite_schemes,
                                                  pgqrsi_sqlite_capabilities,
                                                  pgqrsi_sqlite_open,
                                                  pgqrsi_sqlite_close,
                                                  pgqrsi_sqlite_now,
                                                  pgqrsi_sqlite_install,
                                                  pgqrsi_sqlite_uninstall,
                                                  pgqrsi_sqlite_verify,
                                                  pgqrsi_sqlite_schema_version,
                                                  pgqrsi_sqlite_queue_create,
                                                  pgqrsi_sqlite_queue_change,
                                                  pgqrsi_sqlite_queue_list,
                                                  pgqrsi_sqlite_queue_delete,
                                                  pgqrsi_sqlite_queue_purge,
                                                  pgqrsi_sqlite_enqueue,
                                                  pgqrsi_sqlite_exchange,
                                                  pgqrsi_sqlite_extend,
                                                  pgqrsi_sqlite_wait_begin,
                                                  pgqrsi_sqlite_wait_fd,
                                                  pgqrsi_sqlite_wait_end,
                                                  pgqrsi_sqlite_message_get,
                                                  pgqrsi_sqlite_message_list,
                                                  pgqrsi_sqlite_message_count,
                                                  pgqrsi_sqlite_message_delete,
                                                  pgqrsi_sqlite_message_update,
                                                  pgqrsi_sqlite_message_replay,
                                                  pgqrsi_sqlite_worker_register,
                                                  pgqrsi_sqlite_worker_change,
                                                  pgqrsi_sqlite_worker_list,
                                                  pgqrsi_sqlite_worker_count,
                                                  pgqrsi_sqlite_worker_release,
                                                  pgqrsi_sqlite_worker_delete,
                                                  pgqrsi_sqlite_worker_reclaim,
                                                  pgqrsi_sqlite_worker_purge,
                                                  pgqrsi_sqlite_metrics,
                                                  pgqrsi_sqlite_worker_stats,
                                                  pgqrsi_sqlite_maintain,
                                                  pgqrsi_sqlite_workflow_create,
                                                  pgqrsi_sqlite_workflow_change,
                                                  pgqrsi_sqlite_workflow_list,
                                                  pgqrsi_sqlite_workflow_delete,
                                                  pgqrsi_sqlite_trigger,
                                                  pgqrsi_sqlite_run_load,
                                                  pgqrsi_sqlite_run_write,
                                                  pgqrsi_sqlite_run_list,
                                                  pgqrsi_sqlite_run_count,
                                                  pgqrsi_sqlite_run_steps,
                                                  pgqrsi_sqlite_run_values,
                                                  pgqrsi_sqlite_run_cancel,
                                                  pgqrsi_sqlite_run_send,
                                                  pgqrsi_sqlite_run_restart,
                                                  pgqrsi_sqlite_run_fork,
                                                  pgqrsi_sqlite_run_purge_some,
                                                  pgqrsi_sqlite_run_wait_begin,
                                                  pgqrsi_sqlite_transact,
                                                  NULL,
                                                  pgqrsi_sqlite_database,
                                                  pgqrsi_sqlite_run_events,
                                                  pgqrsi_sqlite_import_items};

PGQRS_API const pgqrs_backend *pgqrs_sqlite_backend(void)
{
    return &pgqrsi_sqlite_table;
}

#if defined(__GNUC__) || defined(__clang__)
__attribute__((constructor)) static void pgqrsi_sqlite_register_early(void)
{
    pgqrs_backend_register(pgqrs_sqlite_backend());
}
#elif defined(__cplusplus)
static const pgqrs_result pgqrsi_sqlite_registered = pgqrs_backend_register(pgqrs_sqlite_backend());
#endif

#ifdef __cplusplus
}
#endif

#endif /* PGQRS_IMPLEMENTATION && !PGQRSI_SQLITE_DONE */
