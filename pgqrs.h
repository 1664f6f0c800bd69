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
#define PGQRS_RESULTS(X)                                                                                              \
    X(OK, 0, NONE, "success")                                                                                         \
    /* the call */                                                                                                    \
    X(ERR_INVALID_ARGUMENT, -1, MISUSE, "an argument is NULL, out of range or contradicts another")                   \
    X(ERR_NO_MEMORY, -2, RETRY, "the allocator returned NULL")                                                        \
    X(ERR_INTERNAL, -3, FATAL, "a state the library believes impossible")                                             \
    X(ERR_NOT_BUILT, -4, MISUSE, "the backend for this DSN is not part of the program")                               \
    X(ERR_UNSUPPORTED, -5, MISUSE, "this backend or platform cannot do it")                                           \
    X(ERR_HANDLER, -6, RETRY, "for handlers: the try failed")                                                         \
    X(ERR_WRONG_THREAD, -7, MISUSE, "a store is being used by two calls at once")                                     \
    /* configuration */                                                                                               \
    X(ERR_BAD_DSN, -20, MISUSE, "the DSN cannot be read")                                                             \
    X(ERR_BAD_CONFIG, -21, MISUSE, "a configuration value or file cannot be used")                                    \
    X(ERR_BAD_NAME, -22, MISUSE, "a queue, schema or worker name is not allowed")                                     \
    /* the store */                                                                                                   \
    X(ERR_CONNECTION, -40, RETRY, "the database cannot be reached; nothing was done")                                 \
    X(ERR_OUTCOME_UNKNOWN, -41, CONFLICT, "the connection broke while the database may have committed")               \
    X(ERR_BUSY, -42, RETRY, "the database is locked by others for too long")                                          \
    X(ERR_CONFLICT, -43, RETRY, "serialization failure or deadlock, repeatedly")                                      \
    X(ERR_READ_ONLY, -44, FATAL, "the database or its file is read-only")                                             \
    X(ERR_FULL, -45, RETRY, "no room left on the device")                                                             \
    X(ERR_ACCESS_DENIED, -46, FATAL, "the database refuses the user or the permission")                               \
    X(ERR_DATABASE, -47, FATAL, "any other error of the database")                                                    \
    X(ERR_SCHEMA_MISSING, -48, MISUSE, "the tables are not there: call pgqrs_install")                                \
    X(ERR_SCHEMA_NEWER, -49, FATAL, "the tables were made by a newer version of this library")                        \
    X(ERR_SCHEMA_OLDER, -50, MISUSE, "the tables need a migration: call pgqrs_install")                               \
    X(ERR_SCHEMA_DAMAGED, -51, FATAL, "a table, column or index is missing, or rows contradict each other")           \
    X(ERR_TRANSACTION, -52, MISUSE, "the caller's transaction has failed or does not allow this call")                \
    /* objects */                                                                                                     \
    X(ERR_QUEUE_NOT_FOUND, -60, MISUSE, "no queue of this name")                                                      \
    X(ERR_QUEUE_EXISTS, -61, CONFLICT, "a queue of this name is there already")                                       \
    X(ERR_QUEUE_NOT_EMPTY, -62, CONFLICT, "the queue still has messages or live workers")                             \
    X(ERR_MESSAGE_NOT_FOUND, -63, MISUSE, "no message of this id")                                                    \
    X(ERR_MESSAGE_STATE, -64, CONFLICT, "the message is in a state that does not allow this")                         \
    X(ERR_WORKER_NOT_FOUND, -65, MISUSE, "no worker of this id")                                                      \
    X(ERR_WORKER_ACTIVE, -66, CONFLICT, "a live worker has this name")                                                \
    X(ERR_WORKER_STATE, -67, CONFLICT, "the worker's state does not allow this transition")                           \
    X(ERR_WORKER_BUSY, -68, CONFLICT, "the worker still holds messages")                                              \
    X(ERR_DUPLICATE, -69, CONFLICT, "an unfinished message holds this deduplication key")                             \
    /* deliveries */                                                                                                  \
    X(ERR_LEASE_LOST, -80, CONFLICT, "the lease has ended: somebody else may have the message")                       \
    X(ERR_WORKER_STOPPED, -81, FATAL, "the worker was shut down or reclaimed and must register anew")                 \
    X(ERR_WORKER_SUSPENDED, -82, CONFLICT, "the worker is suspended")                                                 \
    X(ERR_WORKER_INTERRUPTED, -83, CONFLICT, "the worker was interrupted and is suspended now")                       \
    /* validation */                                                                                                  \
    X(ERR_JSON, -100, MISUSE, "the payload is not well-formed JSON in UTF-8")                                         \
    X(ERR_PAYLOAD_TOO_LARGE, -101, MISUSE, "the payload has too many bytes")                                          \
    X(ERR_JSON_TOO_DEEP, -102, MISUSE, "the payload is nested too deeply")                                            \
    X(ERR_STRING_TOO_LONG, -103, MISUSE, "a string or key in the payload is too long")                                \
    X(ERR_FORBIDDEN_KEY, -104, MISUSE, "the payload has a forbidden key")                                             \
    X(ERR_MISSING_KEY, -105, MISUSE, "the payload lacks a required key")                                              \
    X(ERR_RATE_LIMITED, -106, RETRY, "more enqueues than the store's rate limit allows")

typedef enum pgqrs_result {
#define PGQRSI_X(name, value, kind, text) PGQRS_##name = (value),
    PGQRS_RESULTS(PGQRSI_X)
#undef PGQRSI_X
    PGQRSI_RESULT_LAST = -32768 /* no result: makes the type wide enough for results to come */
} pgqrs_result;

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
 * machine's (SQLite). With a clock of your own, its time is used for every decision: tests move time with it. */
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
 * well-formed (then *error_offset is the byte where it went wrong), out of memory, or a report returned false.
 * Default: the built-in parser (RFC 8259, UTF-8 checked, no recursion). */
typedef struct pgqrs_json {
    bool (*parse)(const char *text, size_t size, pgqrs_json_report report, void *context, size_t *error_offset, void *user);
    void *user;
} pgqrs_json;

typedef enum pgqrs_event_type {
    PGQRS_EVENT_ENQUEUED = 1,   /* count messages were stored; duration_us of the call */
    PGQRS_EVENT_CLAIMED = 2,    /* count messages were leased; duration_us of the call */
    PGQRS_EVENT_STARTED = 3,    /* a handler starts: message_id, attempt */
    PGQRS_EVENT_FINISHED = 4,   /* a handler ended: message_id, attempt, result, duration_us */
    PGQRS_EVENT_SETTLED = 5,    /* count verdicts were stored; duration_us of the call */
    PGQRS_EVENT_LEASE_LOST = 6, /* a verdict came too late: message_id */
    PGQRS_EVENT_RECONNECTED = 7 /* the connection was lost and made again */
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
    const char *schema; /* [public] Postgres: letters, digits, _ and $, first a letter or _, at most 63 bytes */
    pgqrs_allocator allocator;
    pgqrs_logger logger;
    pgqrs_clock clock;
    pgqrs_random random;
    pgqrs_sleeper sleeper;
    pgqrs_json json;
    pgqrs_observer observer;
    pgqrs_validation validation;
    int64_t connect_timeout_ms;  /* [30000] for connecting, and for waiting on a locked SQLite file */
    int32_t retry_limit;         /* [5] how often a safe call is tried again after a passing error; -1: never */
    int64_t default_lease_ms;    /* [30000] lease of queues created through this store */
    int32_t default_max_attempts; /* [5] the same for max_attempts */
    int32_t default_batch;       /* [16] messages a worker takes at once */
    int64_t heartbeat_ms;        /* [5000] between the heartbeats of a worker */
    int64_t poll_ms;             /* [250] a waiting consumer looks this often even when nobody wakes it */
    pgqrs_switch pooler;         /* [auto] Postgres: is there a transaction pooler between? on: no session state */
    pgqrs_switch sqlite_wal;     /* [on] SQLite: write-ahead log; off: rollback journal */
} pgqrs_store_desc;

/* Opens the store a DSN names: sqlite://FILE, sqlite::memory:, turso://FILE, postgresql://…, postgres://… .
 * The scheme picks the backend among those whose header the program includes. Nothing is created in the database
 * (SQLite makes the file); call pgqrs_install for that. desc may be NULL, err may be NULL. NULL back: see *err.
 * Close with pgqrs_close. A store belongs to one thread at a time; open as many as you like. */
PGQRS_API pgqrs_store *pgqrs_open(const char *dsn, const pgqrs_store_desc *desc, pgqrs_error *err);

/* A store on a connection that stays yours: it is never closed, never set up, never reconnected, and a transaction
 * that is open on it is respected: what this store writes commits or rolls back with it. The connection must outlive
 * the store, and must not be used by another thread meanwhile. libpq: the connection must be in blocking mode and not
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

/* Frees any result object a call returned (messages, lists, a configuration); NULL is fine. Any thread. */
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
#define PGQRS_SCHEMA_VERSION 1

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
    int64_t older_than_ms; /* [0: any age] since the message was archived or died; other states: since it was enqueued */
} pgqrs_purge_desc;

PGQRS_API pgqrs_result pgqrs_queue_purge(pgqrs_store *store, const char *queue, const pgqrs_purge_desc *desc, int64_t *removed);

/* ------------------------------------------------------------------------------------------------------------------
 * >>messages: enqueue
 * --------------------------------------------------------------------------------------------------------------- */

/* How a message is enqueued. Zero means the default in brackets. Times are microseconds since 1970 UTC. */
typedef struct pgqrs_enqueue_desc {
    size_t payload_size;     /* [strlen] bytes of the payload */
    int32_t priority;        /* [0] -32768 … 32767, higher first */
    int64_t delay_ms;        /* [0] not delivered before now + delay_ms */
    int64_t at_us;           /* [0] or not before this time; not both */
    int64_t expire_ms;       /* [0: never] not started by now + expire_ms: archived as expired, not delivered */
    int64_t expire_at_us;    /* [0: never] or by this time; not both */
    const char *dedup_key;   /* [none] up to 255 bytes; unique in the queue while the message is unfinished */
    const char *producer;    /* [none] up to 255 bytes; who enqueued it, for people */
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
PGQRS_API pgqrs_result pgqrs_enqueue_many(pgqrs_store *store, const char *queue, const pgqrs_enqueue_item *items, size_t count,
                                          pgqrs_receipt *receipts);

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

/* A message. From a dequeue: the members down to `worker_id` are filled. From the inspecting calls (get, list): all. */
typedef struct pgqrs_message {
    int64_t id;
    int64_t lease;          /* fencing token of this delivery; 0 when not leased */
    const char *payload;    /* NUL-terminated */
    size_t payload_size;    /* without the NUL */
    const char *queue;
    int32_t attempt;        /* 1 on the first delivery; not delivered yet: 0 */
    int32_t priority;
    int64_t enqueued_at_us;
    int64_t lease_until_us; /* 0 when not leased */
    uint32_t lease_size;    /* how many messages came with the same lease */
    int64_t worker_id;      /* holder, or who finished it; 0: no registered worker */
    /* inspection only */
    pgqrs_state state;
    int64_t due_at_us;      /* delayed: when it may be taken */
    int64_t expires_at_us;  /* 0: never */
    int64_t finished_at_us; /* archived or dead since; 0: unfinished */
    const char *dedup_key;  /* NULL: none */
    const char *producer;   /* NULL: unnamed */
    const char *worker;     /* name of worker_id, NULL when unknown or gone */
    const char *reason;     /* why it is dead, or why its last try failed; NULL: no failure so far */
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
    size_t limit;            /* [1] dequeue_many: at most so many, at most 10000 */
    int64_t lease_ms;        /* [the queue's] how long they are yours; at most 10 years */
    int64_t wait_ms;         /* [0: do not wait] wait so long for the first one; PGQRS_FOREVER: until pgqrs_stop */
    pgqrs_worker_ref worker; /* [nobody] a live registered worker; a stopped or suspended one gets an error */
} pgqrs_dequeue_desc;
#define PGQRS_FOREVER INT64_MAX

/* Takes one message, or gives *out = NULL and PGQRS_OK when there is none (empty, delayed, paused). It is yours until
 * lease_until_us; after that it is delivered again by itself, as another attempt. Free with pgqrs_free. */
PGQRS_API pgqrs_result pgqrs_dequeue(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc, pgqrs_message **out);

/* Takes up to desc->limit messages in delivery order: higher priority first, then enqueue order; retried ones are at the
 * tail. *out is never NULL on success; its count may be 0. All of them share the lease time, most share the lease. */
PGQRS_API pgqrs_result pgqrs_dequeue_many(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc,
                                          pgqrs_messages **out);

/* What is to become of a delivered message. */
typedef enum pgqrs_verdict {
    PGQRS_ARCHIVE = 1, /* done; kept for the record */
    PGQRS_DELETE = 2,  /* done; no trace is kept */
    PGQRS_RETRY = 3,   /* the try failed: again after the queue's backoff, or dead when the attempts are used up */
    PGQRS_RELEASE = 4, /* the same, but after delay_ms or at at_us instead of the backoff; 0: now */
    PGQRS_GIVE_BACK = 5, /* not started: like PGQRS_RELEASE, but the attempt is not counted */
    PGQRS_REJECT = 6     /* dead at once, with the reason */
} pgqrs_verdict;

/* One message and its verdict, for pgqrs_settle. */
typedef struct pgqrs_settlement {
    int64_t id;    /* from the message */
    int64_t lease; /* from the message */
    int32_t attempt; /* from the message; backoff grows with it. 0: as after the first try */
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
 * queues and leases, each gets its own `result`; a lost lease is not an error of the call. `queue`, `claim` and `next` may be
 * NULL together: then it only settles. On an error of the call nothing was changed. */
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
PGQRS_API pgqrs_result pgqrs_archive_many(pgqrs_store *store, const pgqrs_message *messages, size_t count, pgqrs_result *results);
PGQRS_API pgqrs_result pgqrs_delete_many(pgqrs_store *store, const pgqrs_message *messages, size_t count, pgqrs_result *results);
PGQRS_API pgqrs_result pgqrs_release_many(pgqrs_store *store, const pgqrs_message *messages, size_t count,
                                          const pgqrs_release_desc *desc, pgqrs_result *results);

/* Keeps a lease alive: at least lease_ms from now (0: the queue's lease), never shorter than before. It holds for every
 * message of the same lease that is not settled yet. */
PGQRS_API pgqrs_result pgqrs_extend(pgqrs_store *store, const pgqrs_message *message, int64_t lease_ms);
PGQRS_API pgqrs_result pgqrs_extend_many(pgqrs_store *store, const pgqrs_message *messages, size_t count, int64_t lease_ms,
                                         pgqrs_result *results);

/* ------------------------------------------------------------------------------------------------------------------
 * >>messages: inspect and repair. These look at any state and change nothing that is leased, unless said so.
 * --------------------------------------------------------------------------------------------------------------- */

/* Which messages. Zero means no restriction, or the default in brackets. */
typedef struct pgqrs_message_filter {
    const char *queue;          /* one that does not exist is PGQRS_ERR_QUEUE_NOT_FOUND */
    pgqrs_state state;
    int64_t worker_id;          /* held by (leased), or finished by (archived, dead) */
    int64_t enqueued_from_us;   /* enqueued at or after */
    int64_t enqueued_before_us; /* enqueued before */
    int64_t after_id;           /* the last id of the page before; keyset paging, so pages never shift */
    bool oldest_first;          /* [false: newest first] by id */
    size_t limit;               /* [100] at most 1000 */
} pgqrs_message_filter;

/* *out is NULL when there is no such message. */
PGQRS_API pgqrs_result pgqrs_message_get(pgqrs_store *store, int64_t id, pgqrs_message **out);
PGQRS_API pgqrs_result pgqrs_message_list(pgqrs_store *store, const pgqrs_message_filter *filter, pgqrs_messages **out);
/* Counts all that match; after_id, oldest_first and limit are ignored. */
PGQRS_API pgqrs_result pgqrs_message_count(pgqrs_store *store, const pgqrs_message_filter *filter, int64_t *count);

/* Removes messages by id, whatever their state unless leased (PGQRS_ERR_MESSAGE_STATE; with `force` leased ones too, whose
 * holder then finds its lease lost). One transaction; results (may be NULL): PGQRS_OK, PGQRS_ERR_MESSAGE_NOT_FOUND, … */
PGQRS_API pgqrs_result pgqrs_message_delete(pgqrs_store *store, const int64_t *ids, size_t count, bool force, pgqrs_result *results);

/* Replaces the payload of a message that nobody has started and that is not finished (ready or delayed); validated like an
 * enqueue. PGQRS_ERR_MESSAGE_STATE otherwise. */
PGQRS_API pgqrs_result pgqrs_message_update(pgqrs_store *store, int64_t id, const char *payload, size_t payload_size);

/* Makes dead or archived messages deliverable again, attempts counted from zero, at the tail of their queue, under the
 * same id. A deduplication key that another unfinished message now holds: PGQRS_ERR_DUPLICATE. A message in another state:
 * PGQRS_ERR_MESSAGE_STATE. One transaction; results may be NULL for many. */
PGQRS_API pgqrs_result pgqrs_message_replay(pgqrs_store *store, int64_t id);
PGQRS_API pgqrs_result pgqrs_message_replay_many(pgqrs_store *store, const int64_t *ids, size_t count, pgqrs_result *results);

/* Dead letters of a queue: pgqrs_message_list with state PGQRS_DEAD, in one word. after_id and limit as there. */
PGQRS_API pgqrs_result pgqrs_dead_list(pgqrs_store *store, const char *queue, int64_t after_id, size_t limit, pgqrs_messages **out);
/* Replays every dead letter of a queue; *replayed (may be NULL) counts them. Those whose key is taken stay. */
PGQRS_API pgqrs_result pgqrs_dead_replay_all(pgqrs_store *store, const char *queue, int64_t *replayed);

/* Why is this message not moving? */
typedef enum pgqrs_reason {
    PGQRS_WHY_NEXT = 1,       /* deliverable, and somebody is working on the queue */
    PGQRS_WHY_NO_WORKER = 2,  /* deliverable, but no live worker is registered for the queue */
    PGQRS_WHY_PAUSED = 3,     /* its queue is paused */
    PGQRS_WHY_DELAYED = 4,    /* waits until until_us: enqueued with a delay, or backing off after a failure */
    PGQRS_WHY_LEASED = 5,     /* held by worker_id until until_us */
    PGQRS_WHY_LEASE_OVER = 6, /* its lease ran out; the next claim or idle worker of the queue takes it back */
    PGQRS_WHY_EXPIRED = 7,    /* nobody started it in time; it will be, or was, archived as expired */
    PGQRS_WHY_ARCHIVED = 8,   /* done */
    PGQRS_WHY_DEAD = 9,       /* in the dead letters: replay it once the cause is mended */
    PGQRS_WHY_UNKNOWN_ID = 10 /* there is no such message (deleted, purged, or never there) */
} pgqrs_reason;

typedef struct pgqrs_explanation {
    pgqrs_reason reason;
    int64_t until_us;  /* when it changes by itself; 0: it does not */
    int64_t worker_id; /* leased: the holder; 0: none or not registered */
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

/* Verdicts inside a handler; the last one counts. Each returns PGQRS_OK, so a handler can end with
 * `return pgqrs_message_retry(message, 5000, "mail server is down");`. Outside of a handler: PGQRS_ERR_INVALID_ARGUMENT. */
PGQRS_API pgqrs_result pgqrs_message_archive(const pgqrs_message *message);
PGQRS_API pgqrs_result pgqrs_message_remove(const pgqrs_message *message); /* done, and no trace is kept */
/* Failed; again after delay_ms, -1: the queue's backoff. The reason (may be NULL) is shown to people. */
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
    const char *name;     /* [host-pid-random, and its row goes when the loop ends] a name of your own stays listed */
    int32_t batch;        /* [the store's default_batch, 16] at most so many messages taken at once. Single-message handlers
                             start with 1 and take more as long as a batch is done within settle_ms */
    int64_t lease_ms;     /* [the queue's] */
    int64_t settle_ms;    /* [50] finished messages are settled after this time at the latest, usually with the next claim;
                             a crash in between delivers them again. -1: after every message */
    int64_t heartbeat_ms; /* [the store's heartbeat_ms, 5000] */
    int64_t poll_ms;      /* [the store's poll_ms, 250] */
    int64_t stale_ms;     /* [60000] a worker of the same name whose heartbeat is older is taken over */
    int64_t max_messages; /* [0: no limit] end after handling so many */
    bool until_empty;     /* [false] end when nothing is deliverable now; messages that this loop itself sent to a retry are
                             waited for, other delayed ones are not */
} pgqrs_work_desc;

/* Works on a queue until told to stop (pgqrs_stop, a shutdown or interrupt of the worker, max_messages, until_empty) or
 * until the store cannot be used any more. A failing handler never ends it; a passing store error is waited out. */
PGQRS_API pgqrs_result pgqrs_work(pgqrs_store *store, const char *queue, pgqrs_handler handler, void *user,
                                  const pgqrs_work_desc *desc);
PGQRS_API pgqrs_result pgqrs_work_batch(pgqrs_store *store, const char *queue, pgqrs_batch_handler handler, void *user,
                                        const pgqrs_work_desc *desc);

/* The same loop in slices, for programs that own their event loop. */
typedef struct pgqrs_worker pgqrs_worker;

/* Registers a worker. Exactly one of handler and batch_handler. NULL back: pgqrs_last_error(store). */
PGQRS_API pgqrs_worker *pgqrs_worker_open(pgqrs_store *store, const char *queue, pgqrs_handler handler,
                                          pgqrs_batch_handler batch_handler, void *user, const pgqrs_work_desc *desc);

/* Takes at most one batch, handles and settles it, then returns; waits up to timeout_ms for the first message (0: not at
 * all). *handled (may be NULL) counts. Call it when the descriptor is readable or the deadline has come. */
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

typedef struct pgqrs_worker_info {
    int64_t id;
    int64_t epoch; /* of its last registration */
    const char *name;
    const char *queue; /* NULL: not tied to a queue */
    pgqrs_worker_state state;
    bool reclaimed; /* stopped by a reclaim, not by a shutdown */
    int64_t started_at_us;
    int64_t heartbeat_at_us;
    int64_t stopped_at_us;  /* 0: not stopped */
    int64_t held; /* messages it holds now */
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
PGQRS_API pgqrs_result pgqrs_worker_shutdown(pgqrs_store *store, int64_t worker_id); /* PGQRS_ERR_WORKER_BUSY: holds messages */

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
PGQRS_API pgqrs_result pgqrs_worker_reclaim(pgqrs_store *store, const char *queue, int64_t older_than_ms, int64_t *workers,
                                            int64_t *messages);

/* Removes rows of workers stopped for longer than older_than_ms. *removed may be NULL. */
PGQRS_API pgqrs_result pgqrs_worker_purge(pgqrs_store *store, int64_t older_than_ms, int64_t *removed);

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
    int64_t lease_expiries;    /* leases that ran out since the queue was created */
    int64_t oldest_ready_ms;   /* age of the oldest deliverable message, since it was enqueued; 0: none */
    int64_t oldest_unfinished_at_us; /* 0: none */
    int64_t newest_at_us;      /* 0: none */
    int64_t live_workers;      /* registered for it and not stopped */
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
PGQRS_API pgqrs_result pgqrs_worker_stats_get(pgqrs_store *store, const char *queue, int64_t stale_ms, pgqrs_worker_stats *out);

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

#define PGQRS_BACKEND_VERSION 1

#define PGQRS_CAN_CLOCK 0x1u  /* has a clock that all its users share: now_us may be 0 */
#define PGQRS_CAN_WAKE 0x2u   /* wait_begin / wait_fd work: others' enqueues wake a sleeping consumer */
#define PGQRS_CAN_SHARE 0x4u  /* several processes may use one store */

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
    pgqrs_when expires; /* 0 and 0: never */
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
    const char *reason;  /* NULL or at most 500 bytes */
    pgqrs_result result; /* out: PGQRS_OK or PGQRS_ERR_LEASE_LOST */
} pgqrs_backend_verdict;

typedef struct pgqrs_backend_claim {
    const char *queue;
    size_t limit;
    int64_t lease_us;        /* 0: the queue's */
    pgqrs_worker_ref worker; /* {0, 0}: nobody */
    bool heartbeat;          /* also store a heartbeat of the worker */
    /* out */
    pgqrs_messages *messages;    /* a result object; NULL when nothing was claimed */
    int64_t next_due_us;         /* when nothing was claimed: microseconds until the queue's next message falls due by
                                    itself (delay, lease end); -1: never */
    bool paused;                 /* when nothing was claimed: because the queue is paused */
    pgqrs_result refused;        /* PGQRS_OK, or why the worker may not claim: PGQRS_ERR_WORKER_STOPPED, _SUSPENDED,
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
    int64_t lease_us; /* 0: the queue's */
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
    uint32_t from; /* bit (1 << state) for every state it may start from */
    pgqrs_worker_state to; /* 0: the state stays (a heartbeat) */
    bool beat;     /* store a heartbeat */
    bool if_idle;  /* only when it holds no message (leases run out do not count) */
    /* out */
    bool changed;
    bool found;               /* a row with this id (and epoch) is there */
    pgqrs_worker_state state; /* of the row found: after the change, or as it stood in its way */
    int64_t held;             /* with if_idle and not changed: messages it holds */
} pgqrs_backend_worker_change;

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
    pgqrs_result (*queue_create)(void *self, int64_t now_us, const char *queue, const pgqrs_queue_desc *settings, bool *created);
    pgqrs_result (*queue_change)(void *self, const char *queue, const pgqrs_backend_queue_change *change);
    pgqrs_result (*queue_list)(void *self, const char *queue_or_null, int64_t after_id, size_t limit, pgqrs_queues **out);
    pgqrs_result (*queue_delete)(void *self, int64_t now_us, const char *queue, bool force);
    pgqrs_result (*queue_purge)(void *self, int64_t now_us, const char *queue, const pgqrs_purge_desc *desc, int64_t *removed);

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
    pgqrs_result (*message_delete)(void *self, int64_t now_us, const int64_t *ids, size_t count, bool force, pgqrs_result *results);
    pgqrs_result (*message_update)(void *self, int64_t now_us, int64_t id, const char *payload, size_t payload_size);
    pgqrs_result (*message_replay)(void *self, int64_t now_us, const int64_t *ids, size_t count, pgqrs_result *results);

    /* workers */
    pgqrs_result (*worker_register)(void *self, int64_t now_us, const char *name, const char *queue_or_null, int64_t stale_us,
                                    int64_t epoch, pgqrs_worker_ref *out);
    pgqrs_result (*worker_change)(void *self, pgqrs_backend_worker_change *change);
    pgqrs_result (*worker_list)(void *self, int64_t now_us, int64_t id_or_0, const pgqrs_worker_filter *filter, pgqrs_workers **out);
    pgqrs_result (*worker_count)(void *self, int64_t now_us, const pgqrs_worker_filter *filter, int64_t *count);
    pgqrs_result (*worker_release)(void *self, int64_t now_us, int64_t worker_id, const char *reason, int64_t *released);
    pgqrs_result (*worker_delete)(void *self, int64_t now_us, int64_t worker_id, bool force);
    pgqrs_result (*worker_reclaim)(void *self, int64_t now_us, const char *queue_or_null, int64_t older_than_us, const char *reason,
                                   int64_t *workers, int64_t *messages);
    pgqrs_result (*worker_purge)(void *self, int64_t now_us, int64_t older_than_us, int64_t *removed);

    /* numbers and housekeeping */
    pgqrs_result (*metrics)(void *self, int64_t now_us, const char *queue_or_null, pgqrs_metrics **out);
    pgqrs_result (*worker_stats)(void *self, int64_t now_us, const char *queue_or_null, int64_t stale_us, pgqrs_worker_stats *out);
    pgqrs_result (*maintain)(void *self, int64_t now_us, int64_t *changed);
} pgqrs_backend;

/* Makes a backend known to pgqrs_open; the headers of the built-in ones do it before main where the compiler can (gcc,
 * clang, any C++), elsewhere call it first thing: pgqrs_backend_register(pgqrs_sqlite_backend()). Registering twice is
 * harmless. Not thread-safe. PGQRS_ERR_UNSUPPORTED: a table of a version this library does not know, or too many. */
PGQRS_API pgqrs_result pgqrs_backend_register(const pgqrs_backend *backend);

/* What the engine offers to backends. `store` is the one given to open. */
PGQRS_API void *pgqrs_backend_alloc(pgqrs_store *store, size_t size);                        /* zeroed; NULL: fails */
PGQRS_API void *pgqrs_backend_resize(pgqrs_store *store, void *pointer, size_t old_size, size_t new_size);
PGQRS_API void pgqrs_backend_free(pgqrs_store *store, void *pointer, size_t size);
/* Records the error of the running call and returns `code`. sqlstate may be NULL. The text names the thing and the cure. */
PGQRS_API pgqrs_result pgqrs_backend_fail(pgqrs_store *store, pgqrs_result code, int native_code, const char *sqlstate,
                                          const char *format, ...) PGQRSI_PRINTF(5, 6);
PGQRS_API void pgqrs_backend_log(pgqrs_store *store, pgqrs_log_level level, const char *format, ...) PGQRSI_PRINTF(3, 4);
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
#error "pgqrs.h: POSIX is hidden. Include pgqrs first in the file that defines PGQRS_IMPLEMENTATION, or compile with -D_POSIX_C_SOURCE=200809L"
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
    if (us > 0)
        nanosleep(&time, NULL);
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
        if (got == (ssize_t)sizeof seed)
            return seed;
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
        if (fds[i] >= 0)
            close(fds[i]);
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
    if (timeout_ms > 60000)
        timeout_ms = 60000;
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
    if (pointer)
        memset(pointer, 0, size);
    return pointer;
}

static void pgqrsi_mem_free(const pgqrs_allocator *allocator, void *pointer, size_t size)
{
    if (pointer)
        (void)pgqrsi_mem_resize(allocator, pointer, size, 0);
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
    if (payload > SIZE_MAX / 2)
        return NULL;
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
    if (block->size - block->used < size)
        return NULL;
    void *taken = (char *)block + block->used;
    block->used += size;
    return taken;
}

static void *pgqrsi_result_new(const pgqrs_allocator *allocator, size_t size, size_t reserve)
{
    size_t object = PGQRSI_RESULT_HEADER + PGQRSI_ROUND(size);
    reserve += reserve ? PGQRSI_RESULT_HEADER + PGQRSI_ROUND(sizeof(pgqrs_message)) : 0;
    if (reserve > SIZE_MAX / 4 || size > SIZE_MAX / 4)
        return NULL;
    pgqrsi_block *block = pgqrsi_block_new(allocator, object + PGQRSI_ROUND(reserve));
    if (!block)
        return NULL;
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
    if (size > SIZE_MAX / 4)
        return NULL;
    size = PGQRSI_ROUND(size ? size : 1);
    void *taken = pgqrsi_block_take(header->blocks, size);
    if (taken)
        return taken;
    size_t grown = header->blocks->size * 2 > PGQRSI_BLOCK_MIN ? header->blocks->size * 2 : PGQRSI_BLOCK_MIN;
    pgqrsi_block *block = pgqrsi_block_new(&header->allocator, size > grown ? size : grown);
    if (!block)
        return NULL;
    block->next = header->blocks;
    header->blocks = block;
    return pgqrsi_block_take(block, size);
}

static char *pgqrsi_result_text(void *result, const char *text, int64_t size)
{
    if (!text)
        return NULL;
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
    if (!header)
        return NULL;
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
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (size < length)
        return 0;
    if (lead == 0xE0)
        low = 0xA0;
    else if (lead == 0xED)
        high = 0x9F;
    else if (lead == 0xF0)
        low = 0x90;
    else if (lead == 0xF4)
        high = 0x8F;
    unsigned char second = (unsigned char)text[1];
    if (second < low || second > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (((unsigned char)text[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

static bool pgqrsi_utf8_valid(const char *text, size_t size, size_t *bad_offset)
{
    size_t at = 0;
    while (at < size) {
        size_t step = pgqrsi_utf8_step(text + at, size - at);
        if (step == 0) {
            if (bad_offset)
                *bad_offset = at;
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
    if (first < 0x20 || first == 0x7F)
        return true;
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
        if (word[i] == '\0' || pgqrsi_lower(text[i]) != word[i])
            return false;
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
    if (size == 0)
        return;
    while (at < length) {
        size_t step = pgqrsi_utf8_step(text + at, length - at);
        bool plain = step > 0 && !pgqrsi_is_control(text + at, length - at);
        size_t bytes = plain ? step : 1;
        if (used + bytes >= size)
            break;
        if (plain)
            memcpy(out + used, text + at, bytes);
        else
            out[used] = '?';
        used += bytes;
        at += step ? step : 1;
        if (used + 3 < size)
            fits = used;
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
    if (at == size || (text[at] == '0' && size - at > 1))
        return false;
    for (; at < size; at++) {
        if (!pgqrsi_is_digit(text[at]))
            return false;
        uint64_t digit = (uint64_t)(text[at] - '0');
        if (value > (limit - digit) / 10)
            return false;
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
        if (step == 0)
            return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME, "%s is not UTF-8: see its byte %zu", what, at);
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
    if (!name)
        return pgqrsi_error_set(err, PGQRS_ERR_INVALID_ARGUMENT, "the schema name is NULL");
    size_t size = strlen(name);
    if (size == 0)
        return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME, "the schema name cannot be empty");
    if (size > PGQRSI_SCHEMA_NAME_MAX)
        return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME,
                                "the schema name has %zu bytes, which exceeds the maximum length of %d", size,
                                PGQRSI_SCHEMA_NAME_MAX);
    if (!pgqrsi_is_letter(name[0]) && name[0] != '_')
        return pgqrsi_error_set(err, PGQRS_ERR_BAD_NAME,
                                "the schema name must start with a letter or underscore (ASCII letters only)");
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
    if (!dsn || !pgqrsi_is_letter(dsn[0]))
        return 0;
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
    if (pgqrsi_is_digit(c))
        return c - '0';
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
            if (memcmp(key + at, words[word], length) == 0)
                return true;
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
        if (used == sizeof key)
            return true; /* nobody names a parameter like this */
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
        if (dsn[at] == '=' && pgqrsi_dsn_secret_key(dsn, at))
            return at + 1;
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
    if (scheme > 0)
        start = strncmp(dsn + scheme, "://", 3) == 0 ? scheme + 3 : scheme;
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
    if (size == 0)
        return;
    if (!dsn)
        dsn = "(none)";
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
    PGQRSI_JSON_KEY_OR_END = 4,   /* after { */
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
        if (larger)
            memcpy(larger, first, *bytes);
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
        if (!larger)
            return false;
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
        if (!larger)
            return false;
        reader->scratch = (char *)larger;
    }
    if (count > 0)
        memcpy(reader->scratch + reader->scratch_used, bytes, count);
    reader->scratch_used = needed;
    return true;
}

static void pgqrsi_json_space(pgqrsi_json_reader *reader)
{
    while (reader->at < reader->size) {
        char c = reader->text[reader->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return;
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
        if (special & high)
            break;
        at += 8;
    }
    while (at < size) {
        unsigned char c = (unsigned char)text[at];
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\')
            break;
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
        if (digit < 0)
            return false;
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
    if (!pgqrsi_json_hex(reader, code) || (*code >= 0xDC00 && *code <= 0xDFFF))
        return false;
    if (*code < 0xD800 || *code > 0xDFFF)
        return true;
    if (reader->size - reader->at < 6 || reader->text[reader->at] != '\\' || reader->text[reader->at + 1] != 'u')
        return false;
    reader->at += 2;
    if (!pgqrsi_json_hex(reader, &low) || low < 0xDC00 || low > 0xDFFF)
        return false;
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return true;
}

/* Decodes the escape whose backslash is at reader->at. */
static bool pgqrsi_json_escape(pgqrsi_json_reader *reader)
{
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    size_t start = reader->at, count = 1;
    char decoded[4];
    if (reader->size - start < 2)
        return pgqrsi_json_fail(reader, reader->size);
    char kind = reader->text[start + 1];
    reader->at = start + 2;
    if (kind == 'u') {
        uint32_t code;
        if (!pgqrsi_json_unicode(reader, &code))
            return pgqrsi_json_fail(reader, reader->at == reader->size ? reader->size : start);
        count = pgqrsi_utf8_encode(code, decoded);
    } else {
        const char *found = kind == '\0' ? NULL : strchr(escapes, kind);
        if (!found)
            return pgqrsi_json_fail(reader, start);
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
        if (at == size)
            return pgqrsi_json_fail(reader, size);
        unsigned char c = (unsigned char)text[at];
        if (c == '"')
            break;
        if (c >= 0x80) {
            size_t step = pgqrsi_utf8_step(text + at, size - at);
            if (step == 0)
                return pgqrsi_json_fail(reader, at);
            at += step;
            continue;
        }
        if (c != '\\')
            return pgqrsi_json_fail(reader, at);
        if (!escaped)
            reader->scratch_used = 0;
        escaped = true;
        reader->at = at;
        if (!pgqrsi_json_append(reader, text + start, at - start) || !pgqrsi_json_escape(reader))
            return false;
        start = at = reader->at;
    }
    reader->at = at + 1;
    if (!escaped)
        return reader->report(event, text + start, at - start, reader->context);
    if (!pgqrsi_json_append(reader, text + start, at - start))
        return false;
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
    if (reader->at == reader->size || reader->text[reader->at] != c)
        return false;
    reader->at++;
    return true;
}

static bool pgqrsi_json_number(pgqrsi_json_reader *reader)
{
    size_t start = reader->at;
    pgqrsi_json_take(reader, '-');
    if (!pgqrsi_json_take(reader, '0') && !pgqrsi_json_digits(reader))
        return false;
    if (pgqrsi_json_take(reader, '.') && !pgqrsi_json_digits(reader))
        return false;
    if (pgqrsi_json_take(reader, 'e') || pgqrsi_json_take(reader, 'E')) {
        if (!pgqrsi_json_take(reader, '+'))
            pgqrsi_json_take(reader, '-');
        if (!pgqrsi_json_digits(reader))
            return false;
    }
    return reader->report(PGQRS_JSON_NUMBER, reader->text + start, reader->at - start, reader->context);
}

static bool pgqrsi_json_literal(pgqrsi_json_reader *reader, const char *word)
{
    size_t start = reader->at;
    for (; *word; word++)
        if (!pgqrsi_json_take(reader, *word))
            return false;
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
    if (!pgqrsi_json_push(reader, c == '{'))
        return false;
    reader->at++;
    return reader->report(c == '{' ? PGQRS_JSON_OBJECT_BEGIN : PGQRS_JSON_ARRAY_BEGIN, NULL, 0, reader->context);
}

/* Reads a key and its colon. */
static bool pgqrsi_json_key(pgqrsi_json_reader *reader)
{
    if (reader->text[reader->at] != '"' || !pgqrsi_json_string(reader, PGQRS_JSON_KEY))
        return false;
    pgqrsi_json_space(reader);
    return pgqrsi_json_take(reader, ':');
}

static bool pgqrsi_json_document(pgqrsi_json_reader *reader)
{
    pgqrsi_json_due due = PGQRSI_JSON_VALUE;
    for (;;) {
        pgqrsi_json_space(reader);
        if (due == PGQRSI_JSON_COMMA_OR_END && reader->depth == 0)
            return reader->at == reader->size;
        if (reader->at == reader->size)
            return false;
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
                if (!pgqrsi_json_take(reader, ','))
                    return false;
                due = object ? PGQRSI_JSON_KEY_DUE : PGQRSI_JSON_VALUE;
                continue;
            }
        }
        if (due == PGQRSI_JSON_KEY_DUE || due == PGQRSI_JSON_KEY_OR_END) {
            if (!pgqrsi_json_key(reader))
                return false;
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
    if (reader.stack != reader.first_stack)
        pgqrsi_mem_free(&allocator, reader.stack, reader.stack_bytes);
    if (reader.scratch != reader.first_scratch)
        pgqrsi_mem_free(&allocator, reader.scratch, reader.scratch_bytes);
    if (!fine && error_offset)
        *error_offset = reader.at;
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
    if (rules->max_payload_bytes == 0)
        rules->max_payload_bytes = PGQRSI_DEFAULT_PAYLOAD_BYTES;
    if (rules->max_depth == 0)
        rules->max_depth = PGQRSI_DEFAULT_DEPTH;
    if (rules->max_enqueue_burst == 0)
        rules->max_enqueue_burst = rules->max_enqueue_per_second;
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
    if (result == PGQRS_OK)
        result = pgqrsi_validation_check_required(rules, err);
    return result;
}

static pgqrs_result pgqrsi_settings_range(const char *member, int64_t value, int64_t min, int64_t max, pgqrs_error *err)
{
    if (value >= min && value <= max)
        return PGQRS_OK;
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
    if (limit == 0 || size <= limit)
        return PGQRS_OK;
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
            if (pgqrsi_equal(key, size, rules->required_keys[i]))
                inspection->found[i] = 1;
    return pgqrsi_inspect_length(inspection, "key", size);
}

static pgqrs_result pgqrsi_inspect_depth(const pgqrsi_inspection *inspection)
{
    if (inspection->depth <= inspection->rules->max_depth)
        return PGQRS_OK;
    return pgqrsi_error_set(inspection->err, PGQRS_ERR_JSON_TOO_DEEP,
                            "payload: object depth %lld exceeds limit %d (validation.max_depth)",
                            (long long)inspection->depth, (int)inspection->rules->max_depth);
}

/* What hangs on the parser's reports. */
static bool pgqrsi_inspect(pgqrs_json_event event, const char *text, size_t size, void *context)
{
    pgqrsi_inspection *inspection = (pgqrsi_inspection *)context;
    if (inspection->refused != PGQRS_OK)
        return false;
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
        if (event == PGQRS_JSON_OBJECT_BEGIN && inspection->depth == 0)
            inspection->root_is_object = true;
        if (event == PGQRS_JSON_OBJECT_BEGIN || event == PGQRS_JSON_ARRAY_BEGIN)
            inspection->depth++;
    }
    return inspection->refused == PGQRS_OK;
}

/* Line and column count from 1, the column in characters, the byte from 0. */
static pgqrs_result pgqrsi_malformed(const char *payload, size_t size, size_t offset, pgqrs_error *err)
{
    size_t line = 1, column = 1;
    if (offset > size)
        offset = size;
    for (size_t i = 0; i < offset; i++) {
        if (payload[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)payload[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    return pgqrsi_error_set(err, PGQRS_ERR_JSON,
                            "payload: not well-formed JSON in UTF-8 at line %zu, column %zu (byte %zu%s)", line,
                            column, offset, offset == size ? ": it ends too early" : "");
}

static pgqrs_result pgqrsi_inspect_payload(pgqrsi_inspection *inspection, const pgqrs_store_desc *settings,
                                           const char *payload, size_t size)
{
    size_t offset = 0;
    const pgqrs_validation *rules = inspection->rules;
    pgqrs_allocator allocator = settings->allocator;
    void *user = settings->json.parse == pgqrsi_json_parse ? &allocator : settings->json.user;
    bool fine = settings->json.parse(payload, size, pgqrsi_inspect, inspection, &offset, user);
    if (inspection->refused != PGQRS_OK)
        return inspection->refused;
    if (!fine && offset == PGQRSI_JSON_NO_MEMORY)
        return pgqrsi_error_set(inspection->err, PGQRS_ERR_NO_MEMORY, "no memory to check a payload of %zu bytes",
                                size);
    if (!fine)
        return pgqrsi_malformed(payload, size, offset, inspection->err);
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
    if (many)
        pgqrsi_mem_free(&settings->allocator, inspection.found, rules->required_key_count);
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
    if (now_us <= bucket->filled_at_us)
        return;
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
    if (bucket->rate == 0)
        return PGQRS_OK;
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
    if (err)
        err->retry_after_ms = wait_ms;
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
    int wake[2];                 /* pgqrs_stop writes, a waiting call reads */
    int stop;                    /* set by pgqrs_stop, taken by the call it ends */
    int in_call;                 /* one call at a time: see pgqrsi_begin */
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
        if (pgqrsi_results[i].code == result)
            return i;
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
    if (length + 1 < size)
        return;
    while (length > 0 && ((unsigned char)text[length - 1] & 0xC0) == 0x80)
        length--;
    if (length > 0 && (unsigned char)text[length - 1] >= 0xC0)
        length--;
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
    if (!err)
        return code;
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
    if (!store)
        return PGQRS_ERR_INVALID_ARGUMENT;
    if (!PGQRSI_FLAG_TRY(store->in_call))
        return PGQRS_ERR_WRONG_THREAD;
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
        if (*c == '\n' || *c == '\r')
            *c = ' ';
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
    if (!pgqrsi_log_wanted(store, level))
        return;
    va_start(arguments, format);
    pgqrsi_log_format(store, level, format, arguments);
    va_end(arguments);
}

static void pgqrsi_observe(pgqrs_store *store, pgqrs_event event)
{
    if (store->settings.observer.observe)
        store->settings.observer.observe(&event, store->settings.observer.user);
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
    if (store->settings.random.next)
        return store->settings.random.next(store->settings.random.user);
    return pgqrsi_random_step(&store->random_state);
}

/* The now_us of a request: 0 lets a backend with a shared clock use its own. */
static int64_t pgqrsi_now(pgqrs_store *store)
{
    if (store->settings.clock.now_us)
        return store->settings.clock.now_us(store->settings.clock.user);
    return (store->capabilities & PGQRS_CAN_CLOCK) ? 0 : pgqrsi_wall_us();
}

/* For measuring how long something takes: the clock hook when there is one, so that tests move waits too. */
static int64_t pgqrsi_elapsed_us(pgqrs_store *store)
{
    return store->settings.clock.now_us ? store->settings.clock.now_us(store->settings.clock.user) : pgqrsi_monotonic_us();
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
    if (value >= least && value <= most)
        return PGQRS_OK;
    return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "%s is %lld, allowed is %lld to %lld", what, (long long)value,
                       (long long)least, (long long)most);
}

/* A point in time given as a delay or absolutely, in two members of a desc; the names are theirs. */
static pgqrs_result pgqrsi_check_when(pgqrs_store *store, const char *delay_name, int64_t delay_ms, const char *at_name,
                                      int64_t at_us, pgqrs_when *out)
{
    if (delay_ms && at_us)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "%s and %s are both given: choose one", delay_name, at_name);
    pgqrs_result result = pgqrsi_check_range(store, delay_name, delay_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, at_name, at_us, 0, PGQRSI_TIME_MAX_US);
    out->at_us = at_us;
    out->delay_us = result ? 0 : delay_ms * PGQRSI_US_PER_MS;
    return result;
}

/* Keys and producers follow the rules of names, but are arguments rather than names of things. */
static pgqrs_result pgqrsi_check_label(pgqrs_store *store, const char *what, const char *label)
{
    pgqrs_result result = label ? pgqrsi_check_name(what, label, &store->error) : PGQRS_OK;
    if (result != PGQRS_ERR_BAD_NAME)
        return result;
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
        if (strcmp(policy->queue, queue) == 0)
            return policy;
        if (!policy->queue[0] || (oldest->queue[0] && policy->read_at_us < oldest->read_at_us))
            oldest = policy;
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
    return pgqrsi_fail(store, PGQRS_ERR_QUEUE_NOT_FOUND, "queue \"%s\" does not exist: create it with pgqrs_queue_create", queue);
}

static pgqrs_result pgqrsi_policy_get(pgqrs_store *store, const char *queue, pgqrs_queue_desc *settings)
{
    pgqrsi_policy *policy = pgqrsi_policy_slot(store, queue);
    int64_t now_us = pgqrsi_monotonic_us();
    if (!policy->queue[0] || now_us - policy->read_at_us > PGQRSI_POLICY_FRESH_US) {
        pgqrs_queues *queues = NULL;
        pgqrs_result result = pgqrsi_queue_find(store, queue, &queues);
        if (result)
            return result;
        if (!queues)
            return pgqrsi_queue_unknown(store, queue);
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
    if (!item->payload)
        return pgqrsi_null_argument(store, "payload");
    out->payload = item->payload;
    out->payload_size = desc->payload_size ? desc->payload_size : strlen(item->payload);
    out->priority = desc->priority;
    out->dedup_key = desc->dedup_key;
    out->producer = desc->producer;
    result = pgqrsi_check_range(store, "priority", desc->priority, INT16_MIN, INT16_MAX);
    if (!result)
        result = pgqrsi_check_when(store, "delay_ms", desc->delay_ms, "at_us", desc->at_us, &out->due);
    if (!result)
        result = pgqrsi_check_when(store, "expire_ms", desc->expire_ms, "expire_at_us", desc->expire_at_us, &out->expires);
    if (!result)
        result = pgqrsi_check_label(store, "dedup_key", desc->dedup_key);
    if (!result)
        result = pgqrsi_check_label(store, "producer", desc->producer);
    if (!result)
        result = pgqrsi_check_payload(&store->settings, out->payload, out->payload_size, &store->error);
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
    if (count > (size_t)INT32_MAX / 4)
        return false;
    while (table_size < 2 * count)
        table_size *= 2;
    batch->bytes = count * (sizeof(pgqrs_backend_message) + sizeof(pgqrs_receipt) + sizeof(int32_t)) +
                   table_size * sizeof(int32_t);
    batch->memory = pgqrsi_mem_alloc(&store->settings.allocator, batch->bytes);
    if (!batch->memory)
        return false;
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
        if (strcmp(batch->messages[position].dedup_key, key) == 0)
            return position;
    }
    batch->table[slot] = next + 1;
    return next;
}

static pgqrs_result pgqrsi_batch_fill(pgqrs_store *store, pgqrsi_batch *batch, const pgqrs_enqueue_item *items, bool single)
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
    if (result)
        return result;
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
    if (result || count == 0)
        return result;
    if (!items)
        return pgqrsi_null_argument(store, "items");
    if (!pgqrsi_batch_open(store, &batch, count))
        return pgqrsi_no_memory(store);
    result = pgqrsi_batch_fill(store, &batch, items, single);
    if (!result)
        result = pgqrsi_batch_store(store, &batch, queue);
    if (!result && receipts)
        pgqrsi_batch_receipts(&batch, receipts);
    pgqrsi_batch_close(store, &batch);
    return result;
}

/* --- waiting ------------------------------------------------------------------------------------------------------ */

/* After lying down, look again soon: a producer whose transaction began before we lay down wakes nobody. */
static const int64_t pgqrsi_wait_probes_us[] = {2000, 10000, 50000};
#define PGQRSI_WAIT_ARM_US (10 * PGQRSI_US_PER_S)

typedef struct pgqrsi_wait {
    pgqrs_store *store;
    const char *queue;
    int *stop;          /* a second flag that ends it, or NULL */
    int64_t poll_us;
    int64_t end_us;     /* by pgqrsi_elapsed_us */
    int64_t real_end_us; /* by the monotonic clock, in case a clock hook stands still */
    int64_t armed_at_us; /* 0: not armed */
    size_t probe;
    bool over; /* the last look has been granted */
} pgqrsi_wait;

static int64_t pgqrsi_later_us(int64_t now_us, int64_t delay_ms)
{
    return delay_ms >= (INT64_MAX - now_us) / PGQRSI_US_PER_MS ? INT64_MAX : now_us + delay_ms * PGQRSI_US_PER_MS;
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
    wait->real_end_us = pgqrsi_later_us(pgqrsi_monotonic_us(), timeout_ms);
}

static void pgqrsi_wait_close(pgqrsi_wait *wait)
{
    if (wait->armed_at_us)
        wait->store->backend->wait_end(wait->store->self);
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
    return pgqrsi_min(wait->end_us - pgqrsi_elapsed_us(wait->store), wait->real_end_us - pgqrsi_monotonic_us());
}

static bool pgqrsi_wait_can_arm(const pgqrsi_wait *wait)
{
    return (wait->store->capabilities & PGQRS_CAN_WAKE) && wait->queue;
}

/* The first time: lie down. Later: swallow what woke us, and stay down. Either way the queue must be looked at again before
 * sleeping, because what is swallowed here may have been the news of the next message. */
static pgqrs_result pgqrsi_wait_arm(pgqrsi_wait *wait)
{
    pgqrs_store *store = wait->store;
    if (!pgqrsi_wait_can_arm(wait))
        return PGQRS_OK;
    pgqrs_result result = store->backend->wait_begin(store->self, pgqrsi_now(store), wait->queue, PGQRSI_WAIT_ARM_US);
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
    if (us <= 0)
        return;
    if (store->settings.sleeper.sleep_us)
        store->settings.sleeper.sleep_us(us, store->settings.sleeper.user);
    else
        pgqrsi_poll_us(fd, store->wake[0], us);
    pgqrsi_pipe_drain(store->wake); /* the flags are looked at after this */
}

static int64_t pgqrsi_wait_step_us(pgqrsi_wait *wait)
{
    size_t probes = sizeof pgqrsi_wait_probes_us / sizeof pgqrsi_wait_probes_us[0];
    if (!wait->armed_at_us || wait->probe >= probes)
        return wait->poll_us;
    return pgqrsi_min(wait->poll_us, pgqrsi_wait_probes_us[wait->probe++]);
}

/* Sleeps until it is worth looking again, at most until the next known due time. *again false: the time is over, or somebody
 * told us to stop. After the deadline one more look is owed to a message that fell due with it. */
static pgqrs_result pgqrsi_wait_next(pgqrsi_wait *wait, int64_t next_due_us, bool *again)
{
    *again = false;
    int64_t left_us = pgqrsi_wait_left_us(wait);
    if (pgqrsi_wait_stopped(wait) || wait->over || left_us <= 0)
        return PGQRS_OK;
    if (pgqrsi_wait_can_arm(wait) && !wait->armed_at_us) {
        *again = true;
        return pgqrsi_wait_arm(wait);
    }
    int64_t step_us = pgqrsi_min(pgqrsi_wait_step_us(wait), left_us);
    if (next_due_us >= 0)
        step_us = pgqrsi_min(step_us, next_due_us > 0 ? next_due_us : PGQRSI_US_PER_MS);
    pgqrsi_wait_sleep(wait, step_us);
    wait->over = pgqrsi_wait_left_us(wait) <= 0;
    *again = !pgqrsi_wait_stopped(wait);
    return *again ? pgqrsi_wait_arm(wait) : PGQRS_OK;
}

/* The call that ends because of pgqrs_stop takes the request with it. */
static bool pgqrsi_stop_take(pgqrs_store *store)
{
    if (!PGQRSI_FLAG_TAKE(store->stop))
        return false;
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
    claim->limit = desc && desc->limit ? desc->limit : 1;
    claim->next_due_us = -1;
    if (result || !desc)
        return result;
    claim->worker = desc->worker;
    if (desc->limit > PGQRSI_CLAIM_MAX)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "limit is %zu, allowed is 1 to %d", desc->limit, PGQRSI_CLAIM_MAX);
    result = pgqrsi_check_range(store, "lease_ms", desc->lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "wait_ms", desc->wait_ms, 0, PGQRS_FOREVER);
    claim->lease_us = result ? 0 : desc->lease_ms * PGQRSI_US_PER_MS;
    return result;
}

/* Settle, claim, tell the observer. What was refused is not an error here. */
static pgqrs_result pgqrsi_exchange(pgqrs_store *store, pgqrs_backend_verdict *verdicts, size_t count, pgqrs_backend_claim *claim)
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
    if (result || !store->settings.observer.observe)
        return result;
    if (count)
        pgqrsi_observe(store, pgqrsi_event(PGQRS_EVENT_SETTLED, claim ? claim->queue : NULL, (int64_t)count, started_us));
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
    if (claim->refused == PGQRS_OK)
        return PGQRS_OK;
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
        if (!result)
            result = pgqrsi_claim_refused(store, claim);
        if (result || claim->messages || wait_ms == 0)
            break;
        result = pgqrsi_wait_next(&wait, claim->next_due_us, &again);
        if (result)
            break;
    }
    pgqrsi_wait_close(&wait);
    if (wait_ms > 0)
        pgqrsi_stop_take(store);
    return result;
}

static pgqrs_result pgqrsi_dequeue(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc, pgqrs_messages **out)
{
    pgqrs_backend_claim claim;
    if (!out)
        return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_claim_check(store, queue, desc, &claim);
    if (!result)
        result = pgqrsi_claim(store, &claim, desc ? desc->wait_ms : 0);
    *out = claim.messages;
    return result;
}

/* A retry becomes a release with the backoff worked out; the rest is copied. */
static pgqrs_result pgqrsi_settlement_check(pgqrs_store *store, const pgqrs_settlement *item, pgqrs_backend_verdict *out)
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
        return pgqrsi_queue_backoff(store, item->queue, item->attempt, &out->due.delay_us);
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
    if (length <= PGQRSI_REASON_MAX && pgqrsi_utf8_valid(verdict->reason, length, NULL))
        return true;
    if (!*texts)
        *texts = pgqrsi_result_new(allocator, 1, PGQRSI_REASON_MAX + 1);
    char *copy = *texts ? (char *)pgqrsi_result_alloc(*texts, PGQRSI_REASON_MAX + 1) : NULL;
    if (!copy)
        return false;
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
        if (!pgqrsi_reason_fit(&verdicts[i], texts, &store->settings.allocator))
            return pgqrsi_no_memory(store);
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
    if (count && !items)
        return pgqrsi_null_argument(store, "items");
    if (count > SIZE_MAX / 2 / sizeof *verdicts)
        return pgqrsi_no_memory(store);
    if (count > PGQRSI_SETTLE_LOCAL)
        verdicts = (pgqrs_backend_verdict *)pgqrsi_mem_alloc(&store->settings.allocator, count * sizeof *verdicts);
    if (!verdicts)
        return pgqrsi_no_memory(store);
    pgqrs_result result = pgqrsi_settle_convert(store, items, count, verdicts, &texts);
    if (!result && (count || claim))
        result = pgqrsi_exchange(store, verdicts, count, claim);
    for (size_t i = 0; i < count; i++)
        items[i].result = result ? result : verdicts[i].result;
    pgqrs_free(texts);
    if (verdicts != local)
        pgqrsi_mem_free(&store->settings.allocator, verdicts, count * sizeof *verdicts);
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
    if (count && !messages)
        return pgqrsi_null_argument(store, "messages");
    if (count > SIZE_MAX / 2 / sizeof *items)
        return pgqrsi_no_memory(store);
    if (count > PGQRSI_SETTLE_LOCAL)
        items = (pgqrs_settlement *)pgqrsi_mem_alloc(&store->settings.allocator, count * sizeof *items);
    if (!items)
        return pgqrsi_no_memory(store);
    for (size_t i = 0; i < count; i++) {
        items[i] = pgqrsi_settlement_for(&messages[i], pattern->verdict);
        items[i].delay_ms = pattern->delay_ms;
        items[i].at_us = pattern->at_us;
        items[i].reason = pattern->reason;
    }
    pgqrs_result result = pgqrsi_settle(store, items, count, NULL);
    for (size_t i = 0; results && i < count; i++)
        results[i] = items[i].result;
    if (items != local)
        pgqrsi_mem_free(&store->settings.allocator, items, count * sizeof *items);
    return result;
}

static pgqrs_result pgqrsi_lease_lost(pgqrs_store *store, int64_t id)
{
    return pgqrsi_fail(store, PGQRS_ERR_LEASE_LOST,
                       "the lease on message %lld has ended; nothing was changed, the message is delivered again by itself",
                       (long long)id);
}

static pgqrs_result pgqrsi_settle_one(pgqrs_store *store, const pgqrs_message *message, pgqrs_settlement pattern)
{
    pgqrs_result outcome = PGQRS_OK;
    if (!message)
        return pgqrsi_null_argument(store, "message");
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

static pgqrs_result pgqrsi_extend_run(pgqrs_store *store, const pgqrs_backend_verdict *leases, size_t count, int64_t lease_ms,
                                      pgqrs_worker_ref worker, pgqrs_result *results)
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
    if (result || count == 0)
        return result;
    if (!messages)
        return pgqrsi_null_argument(store, "messages");
    if (count > SIZE_MAX / 256)
        return pgqrsi_no_memory(store);
    pgqrs_backend_verdict *leases = (pgqrs_backend_verdict *)pgqrsi_mem_alloc(&store->settings.allocator, bytes);
    if (!leases)
        return pgqrsi_no_memory(store);
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
    (PGQRSI_STATE_BIT(PGQRS_WORKER_READY) | PGQRSI_STATE_BIT(PGQRS_WORKER_POLLING) |                                    \
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

static const char *pgqrsi_worker_state_name(pgqrs_worker_state state)
{
    switch (state) {
    case PGQRS_WORKER_READY: return "ready";
    case PGQRS_WORKER_POLLING: return "polling";
    case PGQRS_WORKER_INTERRUPTED: return "interrupted";
    case PGQRS_WORKER_SUSPENDED: return "suspended";
    case PGQRS_WORKER_STOPPED: return "stopped";
    }
    return "unknown";
}

static pgqrs_result pgqrsi_worker_unknown(pgqrs_store *store, int64_t id)
{
    return pgqrsi_fail(store, PGQRS_ERR_WORKER_NOT_FOUND, "no worker has the id %lld", (long long)id);
}

/* Why a transition did not happen. */
static pgqrs_result pgqrsi_worker_refused(pgqrs_store *store, const pgqrs_backend_worker_change *change, const char *verb)
{
    long long id = (long long)change->worker.id;
    if (!change->found && change->worker.epoch)
        return pgqrsi_fail(store, PGQRS_ERR_WORKER_STOPPED,
                           "worker %lld is gone, or was registered again by somebody else: register anew", id);
    if (!change->found)
        return pgqrsi_worker_unknown(store, change->worker.id);
    if (change->worker.epoch && change->state == PGQRS_WORKER_STOPPED)
        return pgqrsi_fail(store, PGQRS_ERR_WORKER_STOPPED, "worker %lld was shut down or reclaimed: register anew", id);
    if (change->if_idle && (change->from & PGQRSI_STATE_BIT(change->state)))
        return pgqrsi_fail(store, PGQRS_ERR_WORKER_BUSY, "worker %lld still holds %lld messages: settle or release them first", id,
                           (long long)change->held);
    return pgqrsi_fail(store, PGQRS_ERR_WORKER_STATE, "worker %lld is %s and cannot %s", id,
                       pgqrsi_worker_state_name(change->state), verb);
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
    if (worker.id <= 0)
        return pgqrsi_worker_unknown(store, worker.id);
    pgqrs_result result = store->backend->worker_change(store->self, &change);
    if (result || change.changed)
        return result;
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
    if (!result && queue)
        result = pgqrsi_check_queue(store, queue);
    if (!result)
        result = pgqrsi_check_range(store, "stale_ms", stale_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (result)
        return result;
    if (stale_ms == 0)
        stale_ms = PGQRSI_STALE_DEFAULT_MS;
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
    pgqrs_worker *worker; /* NULL outside of the handler */
    pgqrs_verdict verdict; /* 0: none said */
    int64_t delay_ms;     /* -1: the queue's backoff */
    char reason[PGQRSI_REASON_MAX + 1];
} pgqrs_delivery;

struct pgqrs_worker {
    pgqrs_store *store;
    pgqrs_handler handler;
    pgqrs_batch_handler batch_handler;
    void *user;
    pgqrs_work_desc desc; /* resolved */
    pgqrs_worker_ref self;
    bool own_name; /* the name is the program's: the row stays */
    bool registered;
    bool suspended; /* seen suspended: polling must begin again afterwards */
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
    if (given)
        *desc = *given;
    result = pgqrsi_check_range(store, "batch", desc->batch, 0, PGQRSI_CLAIM_MAX);
    if (!result)
        result = pgqrsi_check_range(store, "lease_ms", desc->lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "settle_ms", desc->settle_ms, -1, PGQRSI_LEASE_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "heartbeat_ms", desc->heartbeat_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "poll_ms", desc->poll_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "max_messages", desc->max_messages, 0, INT64_MAX);
    if (!result && desc->name)
        result = pgqrsi_check_name("worker name", desc->name, &store->error);
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
    if (!worker)
        return NULL;
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
    if (result)
        return result;
    worker->lease_ms = PGQRSI_DEFAULT(worker->desc.lease_ms, settings.lease_ms);
    result = pgqrsi_worker_register(store, worker->name, worker->queue, worker->desc.stale_ms, &worker->self);
    if (result)
        return result;
    worker->registered = true;
    worker->beat_at_us = pgqrsi_elapsed_us(store);
    return pgqrsi_worker_change(store, worker->self, PGQRS_WORKER_BEGIN_POLLING);
}

static void pgqrsi_worker_free(pgqrs_worker *worker)
{
    pgqrs_store *store = worker->store;
    pgqrsi_wait_close(&worker->wait);
    pgqrs_free(worker->held);
    pgqrsi_mem_free(&store->settings.allocator, worker, worker->bytes);
}

static pgqrs_result pgqrsi_worker_open(pgqrs_store *store, const char *queue, pgqrs_handler handler,
                                       pgqrs_batch_handler batch_handler, void *user, const pgqrs_work_desc *given,
                                       pgqrs_worker **out)
{
    pgqrs_work_desc desc;
    *out = NULL;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result)
        result = pgqrsi_work_check(store, given, &desc);
    if (result)
        return result;
    if ((handler != NULL) == (batch_handler != NULL))
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "give exactly one of handler and batch_handler");
    pgqrs_worker *worker = pgqrsi_worker_alloc(store, queue, &desc);
    if (!worker)
        return pgqrsi_no_memory(store);
    worker->handler = handler;
    worker->batch_handler = batch_handler;
    worker->user = user;
    result = pgqrsi_worker_enlist(worker);
    if (result && !worker->registered) {
        pgqrsi_worker_free(worker);
        return result;
    }
    *out = worker;
    return result;
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
    if (!delivery || delay_ms < -1 || delay_ms > PGQRSI_DELAY_MAX_MS)
        return PGQRS_ERR_INVALID_ARGUMENT;
    delivery->verdict = verdict;
    delivery->delay_ms = delay_ms;
    delivery->reason[0] = '\0';
    if (reason)
        pgqrsi_reason_copy(reason, delivery->reason);
    return PGQRS_OK;
}

/* What nobody said: success archives, anything else is a failed try. */
static void pgqrsi_delivery_default(pgqrs_delivery *delivery, pgqrs_result returned)
{
    if (delivery->verdict)
        return;
    delivery->verdict = returned == PGQRS_OK ? PGQRS_ARCHIVE : PGQRS_RETRY;
    delivery->delay_ms = -1;
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
    else if (delivery->verdict == PGQRS_RETRY && delivery->delay_ms < 0)
        result = pgqrsi_queue_backoff(store, worker->queue, message->attempt, &owed->due.delay_us);
    if (result) /* the settings cannot be read now: the default policy is better than losing the verdict */
        owed->due.delay_us = pgqrsi_backoff_us(store, 1000, 60000, message->attempt);
    if (owed->verdict == PGQRS_RELEASE || owed->verdict == PGQRS_GIVE_BACK) {
        int64_t due_us = pgqrsi_elapsed_us(store) + owed->due.delay_us;
        if (due_us > worker->retry_until_us)
            worker->retry_until_us = due_us;
    }
    if (worker->owed_count++ == 0)
        worker->owed_since_us = pgqrsi_monotonic_us();
    delivery->worker = NULL;
    return PGQRS_OK;
}

/* --- exchange with the store */

static void pgqrsi_worker_settled(pgqrs_worker *worker)
{
    for (size_t i = 0; i < worker->owed_count; i++)
        if (worker->owed[i].result == PGQRS_ERR_LEASE_LOST)
            pgqrsi_log(worker->store, PGQRS_LOG_WARN,
                       "queue \"%s\": message %lld was finished after its lease had ended and is delivered again; give it a longer "
                       "lease_ms, or call pgqrs_message_extend in the handler",
                       worker->queue, (long long)worker->owed[i].id);
    worker->owed_count = 0;
}

static bool pgqrsi_worker_beat_due(const pgqrs_worker *worker)
{
    return pgqrsi_elapsed_us(worker->store) - worker->beat_at_us >= worker->desc.heartbeat_ms * PGQRSI_US_PER_MS;
}

static pgqrs_result pgqrsi_worker_flush(pgqrs_worker *worker)
{
    if (worker->owed_count == 0)
        return PGQRS_OK;
    pgqrs_result result = pgqrsi_exchange(worker->store, worker->owed, worker->owed_count, NULL);
    if (!result)
        pgqrsi_worker_settled(worker);
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
    if (result)
        return result;
    if (!again) {
        worker->registered = false;
        return pgqrsi_fail(store, PGQRS_ERR_WORKER_STOPPED, "worker \"%s\" was shut down, removed or registered elsewhere",
                           worker->name);
    }
    pgqrsi_log(store, PGQRS_LOG_WARN,
               "worker \"%s\" was reclaimed because its heartbeat was late; it registers again", worker->name);
    return pgqrsi_worker_enlist(worker);
}

static pgqrs_result pgqrsi_worker_beat(pgqrs_worker *worker)
{
    int64_t now_us = pgqrsi_elapsed_us(worker->store);
    if (!pgqrsi_worker_beat_due(worker))
        return PGQRS_OK;
    pgqrs_result result = pgqrsi_worker_change(worker->store, worker->self, PGQRS_WORKER_BEAT);
    if (!result)
        worker->beat_at_us = now_us;
    return result;
}

static pgqrs_result pgqrsi_worker_refusal(pgqrs_worker *worker, const pgqrs_backend_claim *claim)
{
    pgqrs_store *store = worker->store;
    if (claim->refused == PGQRS_ERR_WORKER_STOPPED)
        return pgqrsi_worker_stopped(worker);
    if (claim->refused == PGQRS_ERR_WORKER_SUSPENDED) {
        worker->suspended = true;
        return worker->desc.until_empty ? pgqrsi_refusal(store, claim) : pgqrsi_worker_beat(worker);
    }
    if (claim->refused == PGQRS_ERR_WORKER_INTERRUPTED) {
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
    pgqrs_result result = pgqrsi_exchange(store, worker->owed, worker->owed_count, &claim);
    if (result)
        return result;
    worker->looked_at_us = pgqrsi_monotonic_us();
    pgqrsi_worker_settled(worker);
    pgqrs_free(worker->held);
    worker->held = claim.messages;
    worker->next = 0;
    worker->next_due_us = claim.next_due_us;
    worker->lease_end_us = started_us + worker->lease_ms * PGQRSI_US_PER_MS;
    if (claim.heartbeat)
        worker->beat_at_us = started_us;
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
    int64_t started_us = pgqrsi_elapsed_us(store);
    pgqrs_result result =
        pgqrsi_extend(store, &worker->held->items[first], count, lease_ms, worker->self, results);
    if (!result) {
        worker->beat_at_us = started_us;
        if (started_us + lease_ms * PGQRSI_US_PER_MS > worker->lease_end_us)
            worker->lease_end_us = started_us + lease_ms * PGQRSI_US_PER_MS;
    }
    return result;
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

static void pgqrsi_worker_tell(pgqrs_worker *worker, pgqrs_event_type type, const pgqrs_message *message, pgqrs_result result,
                               int64_t started_us)
{
    if (!worker->store->settings.observer.observe)
        return;
    pgqrs_event event = pgqrsi_event(type, worker->queue, 1, started_us);
    event.message_id = message->id;
    event.attempt = message->attempt;
    event.result = result;
    pgqrsi_observe(worker->store, event);
}

/* The handler may use the store: the call in progress is put aside for as long as it runs. */
static pgqrs_result pgqrsi_worker_call(pgqrs_worker *worker, const pgqrs_message *message)
{
    pgqrs_result returned;
    PGQRSI_FLAG_SET(worker->store->in_call, 0);
    returned = message ? worker->handler(message, worker->user) : worker->batch_handler(worker->held, worker->user);
    PGQRSI_FLAG_SET(worker->store->in_call, 1);
    return returned;
}

static void pgqrsi_worker_handle_one(pgqrs_worker *worker)
{
    pgqrs_message *message = pgqrsi_worker_message(worker, worker->next);
    int64_t started_us = pgqrsi_monotonic_us();
    size_t slot = worker->owed_count;
    pgqrsi_worker_start(worker, message, slot);
    worker->next++;
    pgqrsi_worker_tell(worker, PGQRS_EVENT_STARTED, message, PGQRS_OK, started_us);
    pgqrs_result returned = pgqrsi_worker_call(worker, message);
    pgqrsi_delivery_default(&worker->deliveries[slot], returned);
    pgqrsi_worker_tell(worker, PGQRS_EVENT_FINISHED, message, returned, started_us);
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
        pgqrsi_worker_tell(worker, PGQRS_EVENT_FINISHED, message, returned, started_us);
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
    if (worker->window > (size_t)worker->desc.batch)
        worker->window = (size_t)worker->desc.batch;
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
            pgqrsi_worker_handle_one(worker);
        bool late = worker->owed_count &&
                    pgqrsi_monotonic_us() - worker->owed_since_us >= worker->desc.settle_ms * PGQRSI_US_PER_MS;
        if (late && pgqrsi_worker_unstarted(worker) > 0)
            result = pgqrsi_worker_flush(worker);
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
    if (worker->tended_at_us && now_us - worker->tended_at_us < pause_us)
        return PGQRS_OK;
    if (worker->held && !worker->tended_at_us) /* a loop that starts with work does the work first */
        worker->tended_at_us = now_us;
    if (worker->held && now_us == worker->tended_at_us)
        return PGQRS_OK;
    worker->tended_at_us = now_us;
    return worker->store->backend->maintain(worker->store->self, pgqrsi_now(worker->store), &changed);
}

/* A failed settlement leaves its verdicts owed and unstarted messages held: finish these before claiming anew. */
static pgqrs_result pgqrsi_worker_resume(pgqrs_worker *worker)
{
    pgqrs_result result = pgqrsi_worker_unstarted(worker) ? pgqrsi_worker_flush(worker) : PGQRS_OK;
    if (!result && pgqrsi_worker_unstarted(worker))
        result = pgqrsi_worker_handle(worker);
    return result;
}

static pgqrs_result pgqrsi_worker_turn(pgqrs_worker *worker)
{
    pgqrs_result result = pgqrsi_worker_resume(worker);
    if (!result)
        result = pgqrsi_worker_claim(worker);
    if (!result && worker->held)
        result = pgqrsi_worker_handle(worker);
    return result ? result : pgqrsi_worker_tend(worker);
}

/* Is there nothing left that this loop would wait for? */
static bool pgqrsi_worker_drained(const pgqrs_worker *worker)
{
    int64_t grace_us = 50 * PGQRSI_US_PER_MS; /* the server's clock and ours need not agree to the millisecond */
    if (worker->desc.max_messages && worker->handled >= worker->desc.max_messages)
        return true;
    if (!worker->desc.until_empty || worker->held)
        return false;
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
    return pgqrsi_wait_next(wait, worker->next_due_us, again);
}

/* A store that fails for a passing reason is asked again, ever more slowly, until somebody says stop. */
static bool pgqrsi_worker_may_go_on(pgqrs_worker *worker, pgqrs_result result)
{
    pgqrs_store *store = worker->store;
    bool again = false;
    bool passing = pgqrs_result_kind(result) == PGQRS_KIND_RETRY || result == PGQRS_ERR_OUTCOME_UNKNOWN;
    if (!passing || (worker->desc.until_empty && worker->failures >= 3))
        return false;
    int64_t delay_us = pgqrsi_backoff_us(store, 100, 30000, ++worker->failures);
    pgqrsi_log(store, PGQRS_LOG_WARN, "queue \"%s\": %s; trying again in %lld ms", worker->queue, store->error.message,
               (long long)(delay_us / PGQRSI_US_PER_MS));
    pgqrsi_wait wait;
    pgqrsi_wait_open(&wait, store, NULL, &worker->stop, PGQRSI_YEAR_MS, delay_us / PGQRSI_US_PER_MS + 1);
    do {
        if (pgqrsi_wait_next(&wait, -1, &again) != PGQRS_OK)
            return false;
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
            if (pgqrsi_worker_drained(worker))
                break;
            if (!worker->held)
                result = pgqrsi_worker_rest(worker, pgqrsi_worker_beat_left_ms(worker) + 1, &again);
        }
        if (result && !pgqrsi_worker_may_go_on(worker, result))
            break;
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
    } else if (worker->registered) {
        pgqrs_result removed = store->backend->worker_delete(store->self, pgqrsi_now(store), worker->self.id, true);
        last = last || removed == PGQRS_ERR_WORKER_NOT_FOUND ? last : removed;
    }
    pgqrsi_worker_free(worker);
    if (!result)
        return last;
    store->error = first;
    return result;
}

static pgqrs_result pgqrsi_work(pgqrs_store *store, const char *queue, pgqrs_handler handler, pgqrs_batch_handler batch_handler,
                                void *user, const pgqrs_work_desc *desc)
{
    pgqrs_worker *worker = NULL;
    pgqrs_result result = pgqrsi_worker_open(store, queue, handler, batch_handler, user, desc, &worker);
    if (!worker)
        return result;
    if (!result)
        result = pgqrsi_worker_run(worker);
    result = pgqrsi_worker_close(worker, result);
    pgqrsi_stop_take(store);
    return result;
}

/* For foreign loops: one batch, everything settled before it returns, lying down armed so that the descriptor speaks. */
static pgqrs_result pgqrsi_worker_poll(pgqrs_worker *worker, int64_t timeout_ms)
{
    pgqrs_store *store = worker->store;
    int64_t end_us = pgqrsi_later_us(pgqrsi_elapsed_us(store), timeout_ms);
    bool again = !pgqrsi_worker_stopping(worker);
    pgqrs_result result = worker->wait.armed_at_us ? pgqrsi_wait_arm(&worker->wait) : PGQRS_OK;
    while (again && !result) {
        again = false;
        result = pgqrsi_worker_turn(worker);
        int64_t left_ms = (end_us - pgqrsi_elapsed_us(store)) / PGQRSI_US_PER_MS;
        if (!result && !worker->held && left_ms > 0)
            result = pgqrsi_worker_rest(worker, pgqrsi_min(left_ms, pgqrsi_worker_beat_left_ms(worker) + 1), &again);
    }
    if (!result)
        result = pgqrsi_worker_flush(worker);
    if (!result && !worker->held && !worker->wait.armed_at_us)
        result = pgqrsi_wait_arm(&worker->wait);
    pgqrsi_stop_take(store);
    return result;
}

static int64_t pgqrsi_worker_next_ms(pgqrs_worker *worker)
{
    int64_t next_ms = pgqrsi_min(pgqrsi_worker_beat_left_ms(worker), worker->desc.poll_ms);
    bool looked = worker->looked_at_us && worker->looked_at_us >= worker->wait.armed_at_us;
    if (worker->held || pgqrsi_worker_stopping(worker) || worker->owed_count || !looked)
        return 0;
    if (worker->next_due_us >= 0) {
        int64_t left_us = worker->next_due_us - (pgqrsi_monotonic_us() - worker->looked_at_us);
        next_ms = pgqrsi_min(next_ms, left_us <= 0 ? 0 : left_us / PGQRSI_US_PER_MS + 1);
    }
    return next_ms;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>workflow: runs and steps build on deliveries above and on the backend table; they are not part of this version.
 * --------------------------------------------------------------------------------------------------------------- */

/* ------------------------------------------------------------------------------------------------------------------
 * >>admin: queues, inspection, repair, numbers
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_check_limit(pgqrs_store *store, size_t *limit)
{
    if (*limit == 0)
        *limit = PGQRSI_LIST_DEFAULT;
    if (*limit <= PGQRSI_LIST_MAX)
        return PGQRS_OK;
    return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "limit is %zu, allowed is 1 to %d: read page by page with after_id",
                       *limit, PGQRSI_LIST_MAX);
}

/* --- queues */

static pgqrs_result pgqrsi_queue_desc_check(pgqrs_store *store, const pgqrs_queue_desc *desc)
{
    pgqrs_result result = pgqrsi_check_range(store, "lease_ms", desc->lease_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "max_attempts", desc->max_attempts, 0, INT16_MAX);
    if (!result)
        result = pgqrsi_check_range(store, "backoff_ms", desc->backoff_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "backoff_max_ms", desc->backoff_max_ms, 0, PGQRSI_LEASE_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "retention_ms", desc->retention_ms, -1, PGQRSI_DELAY_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "dead_retention_ms", desc->dead_retention_ms, -1, PGQRSI_DELAY_MAX_MS);
    return result;
}

static void pgqrsi_queue_desc_resolve(const pgqrs_store *store, pgqrs_queue_desc *desc)
{
    desc->lease_ms = PGQRSI_DEFAULT(desc->lease_ms, store->settings.default_lease_ms);
    desc->max_attempts = PGQRSI_DEFAULT(desc->max_attempts, store->settings.default_max_attempts);
    desc->backoff_ms = PGQRSI_DEFAULT(desc->backoff_ms, 1000);
    desc->backoff_max_ms = PGQRSI_DEFAULT(desc->backoff_max_ms, 60000);
    desc->retention_ms = desc->retention_ms < 0 ? 0 : desc->retention_ms;
    desc->dead_retention_ms = desc->dead_retention_ms < 0 ? 0 : desc->dead_retention_ms;
}

static pgqrs_result pgqrsi_queue_create(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc)
{
    pgqrs_queue_desc settings;
    bool created = false;
    memset(&settings, 0, sizeof settings);
    if (desc)
        settings = *desc;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result)
        result = pgqrsi_queue_desc_check(store, &settings);
    if (result)
        return result;
    pgqrsi_queue_desc_resolve(store, &settings);
    result = store->backend->queue_create(store->self, pgqrsi_now(store), queue, &settings, &created);
    pgqrsi_policy_forget(store);
    if (!result && !created && settings.must_be_new)
        return pgqrsi_fail(store, PGQRS_ERR_QUEUE_EXISTS, "queue \"%s\" exists already", queue);
    return result;
}

static pgqrs_result pgqrsi_queue_change(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc, pgqrs_switch paused)
{
    pgqrs_backend_queue_change change;
    memset(&change, 0, sizeof change);
    if (desc)
        change.settings = *desc;
    change.paused = paused;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result)
        result = pgqrsi_queue_desc_check(store, &change.settings);
    if (!result)
        result = store->backend->queue_change(store->self, queue, &change);
    pgqrsi_policy_forget(store);
    return result;
}

static pgqrs_result pgqrsi_queue_get(pgqrs_store *store, const char *queue, pgqrs_queue **out)
{
    pgqrs_queues *queues = NULL;
    if (!out)
        return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result)
        result = pgqrsi_queue_find(store, queue, &queues);
    if (result || !queues)
        return result;
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
    if (!exists)
        return pgqrsi_null_argument(store, "exists");
    *exists = false;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result)
        result = pgqrsi_queue_find(store, queue, &queues);
    *exists = queues != NULL;
    pgqrs_free(queues);
    return result;
}

static pgqrs_result pgqrsi_queue_list(pgqrs_store *store, int64_t after_id, size_t limit, pgqrs_queues **out)
{
    if (!out)
        return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_check_limit(store, &limit);
    if (!result)
        result = pgqrsi_check_range(store, "after_id", after_id, 0, INT64_MAX);
    return result ? result : store->backend->queue_list(store->self, NULL, after_id, limit, out);
}

static pgqrs_result pgqrsi_queue_delete(pgqrs_store *store, const char *queue, bool force)
{
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    pgqrsi_policy_forget(store);
    return result ? result : store->backend->queue_delete(store->self, pgqrsi_now(store), queue, force);
}

static pgqrs_result pgqrsi_queue_purge(pgqrs_store *store, const char *queue, const pgqrs_purge_desc *given, int64_t *removed)
{
    pgqrs_purge_desc desc;
    int64_t ignored = 0;
    memset(&desc, 0, sizeof desc);
    if (given)
        desc = *given;
    pgqrs_result result = pgqrsi_check_queue(store, queue);
    if (!result)
        result = pgqrsi_check_range(store, "what", desc.what, PGQRS_PURGE_ALL, PGQRS_PURGE_UNFINISHED);
    if (!result)
        result = pgqrsi_check_range(store, "older_than_ms", desc.older_than_ms, 0, PGQRSI_DELAY_MAX_MS);
    return result ? result : store->backend->queue_purge(store->self, pgqrsi_now(store), queue, &desc, removed ? removed : &ignored);
}

/* --- messages */

static pgqrs_result pgqrsi_message_filter(pgqrs_store *store, const pgqrs_message_filter *given, pgqrs_message_filter *filter)
{
    memset(filter, 0, sizeof *filter);
    if (given)
        *filter = *given;
    pgqrs_result result = filter->queue ? pgqrsi_check_queue(store, filter->queue) : PGQRS_OK;
    if (!result)
        result = pgqrsi_check_range(store, "state", filter->state, 0, PGQRS_DEAD);
    if (!result)
        result = pgqrsi_check_range(store, "worker_id", filter->worker_id, 0, INT64_MAX);
    if (!result)
        result = pgqrsi_check_range(store, "after_id", filter->after_id, 0, INT64_MAX);
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
    if (!result && !queues)
        result = pgqrsi_queue_unknown(store, queue);
    pgqrs_free(queues);
    return result;
}

static pgqrs_result pgqrsi_message_list(pgqrs_store *store, const pgqrs_message_filter *given, pgqrs_messages **out)
{
    pgqrs_message_filter filter;
    if (!out)
        return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_message_filter(store, given, &filter);
    if (!result)
        result = store->backend->message_list(store->self, pgqrsi_now(store), &filter, out);
    if (!result && (*out)->count == 0 && filter.queue)
        result = pgqrsi_queue_must_exist(store, filter.queue);
    if (result) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

static pgqrs_result pgqrsi_message_count(pgqrs_store *store, const pgqrs_message_filter *given, int64_t *count)
{
    pgqrs_message_filter filter;
    if (!count)
        return pgqrsi_null_argument(store, "count");
    *count = 0;
    pgqrs_result result = pgqrsi_message_filter(store, given, &filter);
    filter.after_id = 0;
    if (!result)
        result = store->backend->message_count(store->self, pgqrsi_now(store), &filter, count);
    if (!result && *count == 0 && filter.queue)
        result = pgqrsi_queue_must_exist(store, filter.queue);
    return result;
}

static pgqrs_result pgqrsi_message_unknown(pgqrs_store *store, int64_t id)
{
    return pgqrsi_fail(store, PGQRS_ERR_MESSAGE_NOT_FOUND, "no message has the id %lld", (long long)id);
}

static pgqrs_result pgqrsi_message_update(pgqrs_store *store, int64_t id, const char *payload, size_t payload_size)
{
    if (!payload)
        return pgqrsi_null_argument(store, "payload");
    size_t size = payload_size ? payload_size : strlen(payload);
    pgqrs_result result = pgqrsi_check_payload(&store->settings, payload, size, &store->error);
    return result ? result : store->backend->message_update(store->self, pgqrsi_now(store), id, payload, size);
}

typedef pgqrs_result (*pgqrsi_by_ids)(pgqrs_store *store, const int64_t *ids, size_t count, bool force, pgqrs_result *results);

static pgqrs_result pgqrsi_message_delete_run(pgqrs_store *store, const int64_t *ids, size_t count, bool force, pgqrs_result *results)
{
    return store->backend->message_delete(store->self, pgqrsi_now(store), ids, count, force, results);
}

static pgqrs_result pgqrsi_message_replay_run(pgqrs_store *store, const int64_t *ids, size_t count, bool force, pgqrs_result *results)
{
    (void)force;
    return store->backend->message_replay(store->self, pgqrsi_now(store), ids, count, results);
}

/* Backends always want room for the results; callers may not care. */
static pgqrs_result pgqrsi_by_ids_run(pgqrs_store *store, pgqrsi_by_ids run, const int64_t *ids, size_t count, bool force,
                                      pgqrs_result *results)
{
    pgqrs_result *outcomes = results;
    if (count == 0)
        return PGQRS_OK;
    if (!ids)
        return pgqrsi_null_argument(store, "ids");
    if (count > SIZE_MAX / 2 / sizeof *outcomes)
        return pgqrsi_no_memory(store);
    if (!outcomes)
        outcomes = (pgqrs_result *)pgqrsi_mem_alloc(&store->settings.allocator, count * sizeof *outcomes);
    if (!outcomes)
        return pgqrsi_no_memory(store);
    pgqrs_result result = run(store, ids, count, force, outcomes);
    for (size_t i = 0; result && i < count; i++)
        outcomes[i] = result;
    if (outcomes != results)
        pgqrsi_mem_free(&store->settings.allocator, outcomes, count * sizeof *outcomes);
    return result;
}

static pgqrs_result pgqrsi_message_replay(pgqrs_store *store, int64_t id)
{
    pgqrs_result outcome = PGQRS_OK;
    pgqrs_result result = pgqrsi_by_ids_run(store, pgqrsi_message_replay_run, &id, 1, false, &outcome);
    if (result || outcome == PGQRS_OK)
        return result;
    if (outcome == PGQRS_ERR_MESSAGE_NOT_FOUND)
        return pgqrsi_message_unknown(store, id);
    if (outcome == PGQRS_ERR_DUPLICATE)
        return pgqrsi_fail(store, outcome, "message %lld cannot be replayed: an unfinished message has its deduplication key",
                           (long long)id);
    return pgqrsi_fail(store, outcome, "message %lld is neither dead nor archived, so there is nothing to replay", (long long)id);
}

static pgqrs_result pgqrsi_dead_page(pgqrs_store *store, const char *queue, int64_t after_id, size_t limit, bool oldest_first,
                                     pgqrs_messages **out)
{
    pgqrs_message_filter filter;
    memset(&filter, 0, sizeof filter);
    filter.queue = queue;
    filter.state = PGQRS_DEAD;
    filter.after_id = after_id;
    filter.limit = limit;
    filter.oldest_first = oldest_first;
    if (out)
        *out = NULL;
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
    if (replayed)
        *replayed = total;
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
                   "message %lld is in the dead letters after %d attempts: %s. Mend the cause, then replay it with "
                   "pgqrs_message_replay",
                   id, (int)m->attempt, reason);
    else if (m->reason && m->attempt == 0)
        pgqrsi_say(out, PGQRS_WHY_EXPIRED, 0,
                   "message %lld was archived as expired: nobody started it in time. Replay it, or enqueue with a later expiry", id);
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
        pgqrsi_say(out, PGQRS_WHY_PAUSED, 0, "message %lld is ready, but queue \"%s\" is paused: pgqrs_queue_resume", id, m->queue);
    else if (facts->live_workers == 0)
        pgqrsi_say(out, PGQRS_WHY_NO_WORKER, 0,
                   "message %lld is ready, but no registered worker is alive for queue \"%s\": start one", id, m->queue);
    else if (m->lease_until_us)
        pgqrsi_say(out, PGQRS_WHY_LEASE_OVER, 0,
                   "the lease on message %lld ran out %.1f s ago (attempt %d); the next claim on \"%s\" takes it back", id,
                   pgqrsi_seconds(m->lease_until_us, facts->now_us), (int)m->attempt, m->queue);
    else
        pgqrsi_say(out, PGQRS_WHY_NEXT, 0,
                   "message %lld is ready and %lld workers are alive for queue \"%s\": it is taken when its turn comes", id,
                   (long long)facts->live_workers, m->queue);
}

static void pgqrsi_explain_facts(const pgqrsi_facts *facts, pgqrs_explanation *out)
{
    const pgqrs_message *m = facts->message;
    long long id = (long long)m->id;
    out->worker_id = m->state == PGQRS_LEASED ? m->worker_id : 0;
    if (m->state == PGQRS_LEASED)
        pgqrsi_say(out, PGQRS_WHY_LEASED, m->lease_until_us,
                   "message %lld is held by worker %s (%lld), attempt %d, for another %.1f s; then it returns by itself", id,
                   m->worker ? m->worker : "(not registered)", (long long)m->worker_id, (int)m->attempt,
                   pgqrsi_seconds(facts->now_us, m->lease_until_us));
    else if (m->state == PGQRS_DELAYED && !pgqrsi_expired(facts))
        pgqrsi_say(out, PGQRS_WHY_DELAYED, m->due_at_us, "message %lld waits another %.1f s%s%s", id,
                   pgqrsi_seconds(facts->now_us, m->due_at_us), m->reason ? ", after its last try failed: " : " for its time",
                   m->reason ? m->reason : "");
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
    if (!result)
        result = pgqrsi_queue_find(store, message->queue, &queues);
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
    if (!out)
        return pgqrsi_null_argument(store, "out");
    memset(out, 0, sizeof *out);
    pgqrs_result result = store->backend->message_get(store->self, pgqrsi_now(store), id, &message);
    if (result)
        return result;
    if (!message) {
        pgqrsi_say(out, PGQRS_WHY_UNKNOWN_ID, 0, "there is no message %lld: it was deleted, purged, or never there", (long long)id);
        return PGQRS_OK;
    }
    result = pgqrsi_explain_gather(store, message, &facts);
    if (!result)
        pgqrsi_explain_facts(&facts, out);
    pgqrs_free(message);
    return result;
}

/* --- workers */

static pgqrs_result pgqrsi_worker_healthy(pgqrs_store *store, int64_t worker_id, int64_t max_age_ms, bool *healthy)
{
    pgqrs_workers *found = NULL;
    int64_t now_us = 0;
    if (!healthy)
        return pgqrsi_null_argument(store, "healthy");
    *healthy = false;
    pgqrs_result result = pgqrsi_check_range(store, "max_age_ms", max_age_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (!result)
        result = pgqrsi_worker_find(store, worker_id, &found);
    if (!result && !found)
        result = pgqrsi_worker_unknown(store, worker_id);
    if (!result)
        result = store->backend->now(store->self, &now_us);
    if (!result && max_age_ms > 0 && found->items[0].state != PGQRS_WORKER_STOPPED)
        *healthy = now_us - found->items[0].heartbeat_at_us <= max_age_ms * PGQRSI_US_PER_MS;
    pgqrs_free(found);
    return result;
}

static pgqrs_result pgqrsi_worker_filter(pgqrs_store *store, const pgqrs_worker_filter *given, pgqrs_worker_filter *filter)
{
    memset(filter, 0, sizeof *filter);
    if (given)
        *filter = *given;
    pgqrs_result result = filter->queue ? pgqrsi_check_queue(store, filter->queue) : PGQRS_OK;
    if (!result)
        result = pgqrsi_check_range(store, "state", filter->state, 0, PGQRS_WORKER_STOPPED);
    if (!result)
        result = pgqrsi_check_range(store, "stale_ms", filter->stale_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (!result)
        result = pgqrsi_check_range(store, "after_id", filter->after_id, 0, INT64_MAX);
    return result ? result : pgqrsi_check_limit(store, &filter->limit);
}

static pgqrs_result pgqrsi_worker_list(pgqrs_store *store, const pgqrs_worker_filter *given, pgqrs_workers **out)
{
    pgqrs_worker_filter filter;
    if (!out)
        return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_worker_filter(store, given, &filter);
    if (!result)
        result = store->backend->worker_list(store->self, pgqrsi_now(store), 0, &filter, out);
    if (!result && (*out)->count == 0 && filter.queue)
        result = pgqrsi_queue_must_exist(store, filter.queue);
    if (result) {
        pgqrs_free(*out);
        *out = NULL;
    }
    return result;
}

static pgqrs_result pgqrsi_worker_count(pgqrs_store *store, const pgqrs_worker_filter *given, int64_t *count)
{
    pgqrs_worker_filter filter;
    if (!count)
        return pgqrsi_null_argument(store, "count");
    *count = 0;
    pgqrs_result result = pgqrsi_worker_filter(store, given, &filter);
    filter.after_id = 0;
    if (!result)
        result = store->backend->worker_count(store->self, pgqrsi_now(store), &filter, count);
    if (!result && *count == 0 && filter.queue)
        result = pgqrsi_queue_must_exist(store, filter.queue);
    return result;
}

static pgqrs_result pgqrsi_worker_get(pgqrs_store *store, int64_t worker_id, pgqrs_worker_info **out)
{
    pgqrs_workers *found = NULL;
    if (!out)
        return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_worker_find(store, worker_id, &found);
    if (result || !found)
        return result;
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

static pgqrs_result pgqrsi_worker_reclaim(pgqrs_store *store, const char *queue, int64_t older_than_ms, int64_t *workers,
                                          int64_t *messages)
{
    int64_t ignored[2] = {0, 0};
    pgqrs_result result = queue ? pgqrsi_check_queue(store, queue) : PGQRS_OK;
    if (!result)
        result = pgqrsi_check_range(store, "older_than_ms", older_than_ms, 0, PGQRSI_DELAY_MAX_MS);
    if (result)
        return result;
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

static pgqrs_result pgqrsi_worker_stats(pgqrs_store *store, const char *queue, int64_t stale_ms, pgqrs_worker_stats *out)
{
    if (!out)
        return pgqrsi_null_argument(store, "out");
    memset(out, 0, sizeof *out);
    pgqrs_result result = queue ? pgqrsi_check_queue(store, queue) : PGQRS_OK;
    if (!result)
        result = pgqrsi_check_range(store, "stale_ms", stale_ms, 0, PGQRSI_DELAY_MAX_MS);
    stale_ms = PGQRSI_DEFAULT(stale_ms, PGQRSI_STALE_DEFAULT_MS);
    return result ? result
                  : store->backend->worker_stats(store->self, pgqrsi_now(store), queue, stale_ms * PGQRSI_US_PER_MS, out);
}

static pgqrs_result pgqrsi_system_metrics(pgqrs_store *store, pgqrs_system_metrics *out)
{
    pgqrs_metrics *metrics = NULL;
    if (!out)
        return pgqrsi_null_argument(store, "out");
    memset(out, 0, sizeof *out);
    pgqrs_result result = store->backend->metrics(store->self, pgqrsi_now(store), NULL, &metrics);
    if (!result)
        result = store->backend->schema_version(store->self, &out->schema_version);
    if (!result)
        result = pgqrsi_worker_stats(store, NULL, 0, &out->workers);
    for (size_t i = 0; !result && i < metrics->count; i++)
        pgqrsi_metrics_add(out, &metrics->items[i]);
    if (!result)
        out->queues = (int64_t)metrics->count;
    pgqrs_free(metrics);
    return result;
}

#endif /* the engine */

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

PGQRS_API const char *pgqrs_version(void)
{
    return PGQRS_VERSION;
}

PGQRS_API void pgqrs_log_stderr(pgqrs_log_level level, const char *text, void *user)
{
    static const char *const names[] = {"", "error", "warn", "info", "debug"};
    (void)user;
    fprintf(stderr, "pgqrs %s: %s\n", level >= PGQRS_LOG_ERROR && level <= PGQRS_LOG_DEBUG ? names[level] : "log", text);
}

/* --- backends */

#define PGQRSI_BACKENDS_MAX 8
static const pgqrs_backend *pgqrsi_backends[PGQRSI_BACKENDS_MAX];

PGQRS_API pgqrs_result pgqrs_backend_register(const pgqrs_backend *backend)
{
    if (!backend)
        return PGQRS_ERR_INVALID_ARGUMENT;
    if (backend->version != PGQRS_BACKEND_VERSION)
        return PGQRS_ERR_UNSUPPORTED;
    for (int i = 0; i < PGQRSI_BACKENDS_MAX; i++) {
        if (pgqrsi_backends[i] == backend)
            return PGQRS_OK;
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
            if (strlen(*known) == length && strncmp(*known, scheme, length) == 0)
                return pgqrsi_backends[i];
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
        if (strlen(pgqrsi_known_schemes[i].scheme) == length && strncmp(pgqrsi_known_schemes[i].scheme, scheme, length) == 0)
            return pgqrsi_error_set(err, PGQRS_ERR_NOT_BUILT,
                                    "%.*s:// is not part of this program: include \"%s\" where PGQRS_IMPLEMENTATION is defined",
                                    (int)length, scheme, pgqrsi_known_schemes[i].header);
    return pgqrsi_error_set(err, PGQRS_ERR_BAD_DSN,
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
    if (!pgqrsi_log_wanted(store, level))
        return;
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
    if (!copy)
        return false;
    for (size_t i = 0; i < count; i++) {
        copy[i] = pgqrsi_result_text(owned, (*keys)[i], -1);
        if (!copy[i])
            return false;
    }
    *keys = copy;
    return true;
}

static void pgqrsi_settings_resolve(pgqrs_store_desc *settings)
{
    settings->allocator = pgqrsi_mem_resolve(&settings->allocator);
    if (!settings->schema)
        settings->schema = "public";
    if (!settings->json.parse) {
        settings->json.parse = pgqrsi_json_parse;
        settings->json.user = NULL;
    }
    if (!settings->logger.level)
        settings->logger.level = PGQRS_LOG_INFO;
    settings->connect_timeout_ms = PGQRSI_DEFAULT(settings->connect_timeout_ms, 30000);
    settings->retry_limit = settings->retry_limit < 0 ? -1 : PGQRSI_DEFAULT(settings->retry_limit, 5);
    settings->default_lease_ms = PGQRSI_DEFAULT(settings->default_lease_ms, 30000);
    settings->default_max_attempts = PGQRSI_DEFAULT(settings->default_max_attempts, 5);
    settings->default_batch = PGQRSI_DEFAULT(settings->default_batch, 16);
    settings->heartbeat_ms = PGQRSI_DEFAULT(settings->heartbeat_ms, 5000);
    settings->poll_ms = PGQRSI_DEFAULT(settings->poll_ms, 250);
    if (settings->sqlite_wal == PGQRS_AUTO)
        settings->sqlite_wal = PGQRS_ON;
    pgqrsi_validation_resolve(&settings->validation);
}

/* Everything a store owns beside the backend's state is in one result object, so one free takes it all. */
static bool pgqrsi_store_own(pgqrs_store *store)
{
    pgqrs_store_desc *settings = &store->settings;
    store->owned = pgqrsi_result_new(&settings->allocator, PGQRSI_POLICY_SLOTS * sizeof(pgqrsi_policy), 256);
    if (!store->owned)
        return false;
    store->policies = (pgqrsi_policy *)store->owned;
    settings->schema = pgqrsi_result_text(store->owned, settings->schema, -1);
    return settings->schema &&
           pgqrsi_copy_keys(store->owned, &settings->validation.forbidden_keys, settings->validation.forbidden_key_count) &&
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
    if (desc)
        settings = *desc;
    if (pgqrsi_settings_check(&settings, err))
        return NULL;
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
        pgqrsi_error_set(err, PGQRS_ERR_CONNECTION, "no file descriptor is left for the store: raise the limit (ulimit -n)");
    else if (!pgqrsi_store_own(store))
        pgqrsi_error_set(err, PGQRS_ERR_NO_MEMORY, "out of memory: the allocator returned NULL");
    else
        return store;
    pgqrsi_store_free(store);
    return NULL;
}

static pgqrs_store *pgqrsi_store_open(const pgqrs_backend *backend, pgqrs_backend_open *request, const pgqrs_store_desc *desc,
                                      pgqrs_error *err)
{
    pgqrs_store *store = pgqrsi_store_new(desc, err);
    if (!store)
        return NULL;
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
    if (err)
        pgqrsi_error_clear(err);
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
    if (err)
        pgqrsi_error_clear(err);
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
    if (!store)
        return;
    store->backend->close(store->self);
    pgqrsi_store_free(store);
}

PGQRS_API const pgqrs_error *pgqrs_last_error(const pgqrs_store *store)
{
    static const pgqrs_error no_store = {
        PGQRS_ERR_INVALID_ARGUMENT, PGQRS_KIND_MISUSE, 0, "", -1, 0, "the store is NULL: pgqrs_open failed, see its error"};
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
    if (result)
        pgqrsi_result_free(result);
}

PGQRS_API void pgqrs_stop(pgqrs_store *store)
{
    if (!store)
        return;
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

PGQRS_API pgqrs_result pgqrs_uninstall(pgqrs_store *store)
{
    if (store)
        pgqrsi_policy_forget(store);
    PGQRSI_CALL(store, store->backend->uninstall(store->self));
}

PGQRS_API pgqrs_result pgqrs_verify(pgqrs_store *store)
{
    PGQRSI_CALL(store, store->backend->verify(store->self));
}

PGQRS_API pgqrs_result pgqrs_schema_version(pgqrs_store *store, int32_t *version)
{
    PGQRSI_CALL(store, version ? store->backend->schema_version(store->self, version) : pgqrsi_null_argument(store, "version"));
}

/* --- queues */

PGQRS_API pgqrs_result pgqrs_queue_create(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc)
{
    PGQRSI_CALL(store, pgqrsi_queue_create(store, queue, desc));
}

PGQRS_API pgqrs_result pgqrs_queue_update(pgqrs_store *store, const char *queue, const pgqrs_queue_desc *desc)
{
    PGQRSI_CALL(store, desc ? pgqrsi_queue_change(store, queue, desc, PGQRS_AUTO) : pgqrsi_null_argument(store, "desc"));
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

PGQRS_API pgqrs_result pgqrs_queue_purge(pgqrs_store *store, const char *queue, const pgqrs_purge_desc *desc, int64_t *removed)
{
    PGQRSI_CALL(store, pgqrsi_queue_purge(store, queue, desc, removed));
}

/* --- messages */

PGQRS_API pgqrs_result pgqrs_enqueue(pgqrs_store *store, const char *queue, const char *payload, const pgqrs_enqueue_desc *desc,
                                     pgqrs_receipt *receipt)
{
    pgqrs_enqueue_item item;
    memset(&item, 0, sizeof item);
    item.payload = payload;
    if (desc)
        item.desc = *desc;
    PGQRSI_CALL(store, pgqrsi_enqueue(store, queue, &item, 1, receipt, true));
}

PGQRS_API pgqrs_result pgqrs_enqueue_many(pgqrs_store *store, const char *queue, const pgqrs_enqueue_item *items, size_t count,
                                          pgqrs_receipt *receipts)
{
    PGQRSI_CALL(store, pgqrsi_enqueue(store, queue, items, count, receipts, false));
}

/* A list of one becomes a message: the copy in the same arena is what pgqrs_free gets. */
static pgqrs_result pgqrsi_dequeue_one(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc, pgqrs_message **out)
{
    pgqrs_dequeue_desc one;
    pgqrs_messages *messages = NULL;
    memset(&one, 0, sizeof one);
    if (desc)
        one = *desc;
    one.limit = 1;
    if (!out)
        return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = pgqrsi_dequeue(store, queue, &one, &messages);
    if (result || !messages)
        return result;
    *out = (pgqrs_message *)pgqrsi_result_alias(messages, sizeof **out);
    if (*out) {
        **out = messages->items[0];
        return PGQRS_OK;
    }
    pgqrs_free(messages); /* the lease ends by itself */
    return pgqrsi_no_memory(store);
}

PGQRS_API pgqrs_result pgqrs_dequeue(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc, pgqrs_message **out)
{
    PGQRSI_CALL(store, pgqrsi_dequeue_one(store, queue, desc, out));
}

static pgqrs_result pgqrsi_dequeue_many(pgqrs_store *store, const char *queue, const pgqrs_dequeue_desc *desc, pgqrs_messages **out)
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

static pgqrs_result pgqrsi_settle_and_claim(pgqrs_store *store, pgqrs_settlement *items, size_t count, const char *queue,
                                            const pgqrs_dequeue_desc *desc, pgqrs_messages **next)
{
    pgqrs_backend_claim claim;
    if (next)
        *next = NULL;
    if (!queue && !next)
        return desc ? pgqrsi_null_argument(store, "queue") : pgqrsi_settle(store, items, count, NULL);
    if (!next)
        return pgqrsi_null_argument(store, "next");
    pgqrs_result result = pgqrsi_claim_check(store, queue, desc, &claim);
    if (!result && desc && desc->wait_ms)
        return pgqrsi_fail(store, PGQRS_ERR_INVALID_ARGUMENT, "wait_ms must be 0 in pgqrs_settle: use pgqrs_dequeue_many to wait");
    if (!result)
        result = pgqrsi_settle(store, items, count, &claim);
    if (!result)
        result = pgqrsi_refusal(store, &claim);
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

static pgqrs_result pgqrsi_settle_many(pgqrs_store *store, const pgqrs_message *messages, size_t count, pgqrs_settlement pattern,
                                       pgqrs_result *results)
{
    return pgqrsi_settle_same(store, messages, count, &pattern, results);
}

PGQRS_API pgqrs_result pgqrs_archive_many(pgqrs_store *store, const pgqrs_message *messages, size_t count, pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_settle_many(store, messages, count, pgqrsi_pattern(PGQRS_ARCHIVE, NULL), results));
}

PGQRS_API pgqrs_result pgqrs_delete_many(pgqrs_store *store, const pgqrs_message *messages, size_t count, pgqrs_result *results)
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
    if (!message)
        return pgqrsi_null_argument(store, "message");
    pgqrs_result result = pgqrsi_extend(store, message, 1, lease_ms, pgqrsi_nobody, &outcome);
    return result || outcome == PGQRS_OK ? result : pgqrsi_lease_lost(store, message->id);
}

PGQRS_API pgqrs_result pgqrs_extend(pgqrs_store *store, const pgqrs_message *message, int64_t lease_ms)
{
    PGQRSI_CALL(store, pgqrsi_extend_one(store, message, lease_ms));
}

PGQRS_API pgqrs_result pgqrs_extend_many(pgqrs_store *store, const pgqrs_message *messages, size_t count, int64_t lease_ms,
                                         pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_extend(store, messages, count, lease_ms, pgqrsi_nobody, results));
}

/* --- inspection and repair */

static pgqrs_result pgqrsi_message_get(pgqrs_store *store, int64_t id, pgqrs_message **out)
{
    if (!out)
        return pgqrsi_null_argument(store, "out");
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

PGQRS_API pgqrs_result pgqrs_message_delete(pgqrs_store *store, const int64_t *ids, size_t count, bool force, pgqrs_result *results)
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

PGQRS_API pgqrs_result pgqrs_message_replay_many(pgqrs_store *store, const int64_t *ids, size_t count, pgqrs_result *results)
{
    PGQRSI_CALL(store, pgqrsi_by_ids_run(store, pgqrsi_message_replay_run, ids, count, false, results));
}

PGQRS_API pgqrs_result pgqrs_dead_list(pgqrs_store *store, const char *queue, int64_t after_id, size_t limit, pgqrs_messages **out)
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

static pgqrs_result pgqrsi_message_extend(pgqrs_worker *worker, const pgqrs_message *message, int64_t lease_ms)
{
    pgqrs_result outcome = PGQRS_OK;
    int64_t length_ms = lease_ms ? lease_ms : worker->lease_ms;
    size_t index = (size_t)(message - worker->held->items);
    pgqrs_result result = pgqrsi_worker_extend(worker, index, 1, length_ms, &outcome);
    return result || outcome == PGQRS_OK ? result : pgqrsi_lease_lost(worker->store, message->id);
}

PGQRS_API pgqrs_result pgqrs_message_extend(const pgqrs_message *message, int64_t lease_ms)
{
    pgqrs_delivery *delivery = pgqrsi_delivery_of(message);
    if (!delivery)
        return PGQRS_ERR_INVALID_ARGUMENT;
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

PGQRS_API pgqrs_worker *pgqrs_worker_open(pgqrs_store *store, const char *queue, pgqrs_handler handler,
                                          pgqrs_batch_handler batch_handler, void *user, const pgqrs_work_desc *desc)
{
    pgqrs_worker *worker = NULL;
    if (pgqrsi_begin(store))
        return NULL;
    pgqrs_result result = pgqrsi_worker_open(store, queue, handler, batch_handler, user, desc, &worker);
    if (result && worker) {
        pgqrsi_worker_close(worker, result);
        worker = NULL;
    }
    pgqrsi_end(store, result);
    return worker;
}

static pgqrs_result pgqrsi_worker_poll_counted(pgqrs_worker *worker, int64_t timeout_ms, size_t *handled)
{
    int64_t before = worker->handled;
    pgqrs_result result = pgqrsi_check_range(worker->store, "timeout_ms", timeout_ms, 0, PGQRS_FOREVER);
    if (!result)
        result = pgqrsi_worker_poll(worker, timeout_ms);
    if (handled)
        *handled = (size_t)(worker->handled - before);
    return result;
}

PGQRS_API pgqrs_result pgqrs_worker_poll(pgqrs_worker *worker, int64_t timeout_ms, size_t *handled)
{
    if (handled)
        *handled = 0;
    if (!worker)
        return PGQRS_ERR_INVALID_ARGUMENT;
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
    if (!worker)
        return;
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
    if (!worker)
        return PGQRS_OK;
    PGQRSI_CALL(store, pgqrsi_worker_close(worker, PGQRS_OK));
}

/* --- workers */

static pgqrs_result pgqrsi_worker_register_public(pgqrs_store *store, const char *name, const pgqrs_register_desc *desc,
                                                  pgqrs_worker_ref *out)
{
    if (!out)
        return pgqrsi_null_argument(store, "out");
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

PGQRS_API pgqrs_result pgqrs_worker_reclaim(pgqrs_store *store, const char *queue, int64_t older_than_ms, int64_t *workers,
                                            int64_t *messages)
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
    if (!out)
        return pgqrsi_null_argument(store, "out");
    *out = NULL;
    pgqrs_result result = queue ? pgqrsi_check_queue(store, queue) : PGQRS_OK;
    return result ? result : store->backend->metrics(store->self, pgqrsi_now(store), queue, out);
}

PGQRS_API pgqrs_result pgqrs_metrics_get(pgqrs_store *store, const char *queue, pgqrs_metrics **out)
{
    PGQRSI_CALL(store, pgqrsi_metrics_get(store, queue, out));
}

PGQRS_API pgqrs_result pgqrs_system_metrics_get(pgqrs_store *store, pgqrs_system_metrics *out)
{
    PGQRSI_CALL(store, pgqrsi_system_metrics(store, out));
}

PGQRS_API pgqrs_result pgqrs_worker_stats_get(pgqrs_store *store, const char *queue, int64_t stale_ms, pgqrs_worker_stats *out)
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

typedef enum pgqrsi_config_layer {
    PGQRSI_LAYER_CODE,
    PGQRSI_LAYER_ENVIRONMENT,
    PGQRSI_LAYER_FILE
} pgqrsi_config_layer;

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
    if (pgqrsi_equal(text, size, "null"))
        return true;
    return loader->layer == PGQRSI_LAYER_FILE &&
           (size == 0 || pgqrsi_equal(text, size, "~") || pgqrsi_equal(text, size, "Null") ||
            pgqrsi_equal(text, size, "NULL"));
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
        if (pgqrsi_equal_nocase(text, size, words[*out]))
            return true;
    return false;
}

static pgqrs_result pgqrsi_config_text_value(pgqrsi_config_loader *loader, pgqrsi_field field, const char *text,
                                             size_t size, pgqrsi_config_value *value)
{
    if (size == 0)
        return pgqrsi_config_refuse_value(loader, field);
    if (memchr(text, '\0', size))
        return pgqrsi_config_refuse(loader, field, "has a NUL character");
    value->text = pgqrsi_result_text(loader->config, text, (int64_t)size);
    if (!value->text)
        return pgqrsi_config_no_memory(loader);
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
    if (loader->seen[field])
        return pgqrsi_config_refuse(loader, field, "is there twice");
    loader->seen[field] = true;
    if (!loader->has[field])
        loader->values[field] = *value;
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
        good = (null && info->kind == PGQRSI_FIELD_IS_LIMIT) ||
               (pgqrsi_parse_int64(text, size, &value.number) && value.number >= info->min &&
                value.number <= info->max);
    return good ? pgqrsi_config_keep(loader, field, &value) : pgqrsi_config_refuse_value(loader, field);
}

static pgqrs_result pgqrsi_config_list_add(pgqrsi_config_loader *loader, pgqrsi_field field, const char *text,
                                           size_t size)
{
    pgqrsi_config_text *item = (pgqrsi_config_text *)pgqrsi_result_alloc(loader->config, sizeof *item);
    if (!item)
        return pgqrsi_config_no_memory(loader);
    if (size > 0 && memchr(text, '\0', size))
        return pgqrsi_config_refuse(loader, field, "has an item with a NUL character");
    item->text = pgqrsi_result_text(loader->config, size ? text : "", (int64_t)size);
    if (!item->text)
        return pgqrsi_config_no_memory(loader);
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
    if (!items)
        return pgqrsi_config_no_memory(loader);
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
    if (event == PGQRS_JSON_STRING)
        return pgqrsi_config_list_add(reading->loader, reading->field, text, size);
    if (event != PGQRS_JSON_ARRAY_END)
        return pgqrsi_config_refuse_value(reading->loader, reading->field);
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
    if (reading.result != PGQRS_OK)
        return reading.result;
    if (offset == PGQRSI_JSON_NO_MEMORY)
        return pgqrsi_config_no_memory(loader);
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
        if (text)
            result = pgqrsi_config_scalar(loader, (pgqrsi_field)field, text, strlen(text), false);
    }
    const char *validation = getenv("PGQRS_VALIDATION_CONFIG");
    if (result == PGQRS_OK && validation)
        result = pgqrsi_config_validation_variable(loader, validation);
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
    if (*file)
        return PGQRS_OK;
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
    if (loader->err)
        loader->err->native_code = reason;
    return PGQRS_ERR_BAD_CONFIG;
}

#ifdef PGQRS_YAML

static pgqrs_result pgqrsi_yaml_list(pgqrsi_config_loader *loader, yaml_document_t *document, pgqrsi_field field,
                                     const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE)
        return pgqrsi_config_refuse_value(loader, field);
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
        const yaml_node_t *text = yaml_document_get_node(document, *item);
        if (text->type != YAML_SCALAR_NODE)
            return pgqrsi_config_refuse_value(loader, field);
        pgqrs_result result = pgqrsi_config_list_add(loader, field, (const char *)text->data.scalar.value,
                                                     text->data.scalar.length);
        if (result != PGQRS_OK)
            return result;
    }
    return pgqrsi_config_list_end(loader, field);
}

static pgqrs_result pgqrsi_yaml_value(pgqrsi_config_loader *loader, yaml_document_t *document, pgqrsi_field field,
                                      const yaml_node_t *node)
{
    if (pgqrsi_fields[field].kind == PGQRSI_FIELD_IS_LIST)
        return pgqrsi_yaml_list(loader, document, field, node);
    if (node->type != YAML_SCALAR_NODE)
        return pgqrsi_config_refuse_value(loader, field);
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
        if (!pgqrsi_equal(key, size, sections[i]))
            continue;
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
    if (key->type != YAML_SCALAR_NODE)
        return pgqrsi_yaml_refuse(loader, section, "?", "must be a plain word");
    const char *text = (const char *)key->data.scalar.value;
    size_t size = key->data.scalar.length;
    pgqrsi_field field = pgqrsi_config_find(section, text, size);
    if (field != PGQRSI_FIELD_COUNT)
        return pgqrsi_yaml_value(loader, document, field, value);
    if (section[0] == '\0')
        result = pgqrsi_yaml_nested(loader, document, text, size, value, &nested);
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
    if (parser->error == YAML_MEMORY_ERROR)
        return pgqrsi_config_no_memory(loader);
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
    if (!yaml_parser_load(parser, &document))
        return pgqrsi_yaml_broken(loader, parser);
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
    if (!yaml_parser_initialize(&parser))
        return pgqrsi_config_no_memory(loader);
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
    if (desc->no_file)
        return PGQRS_OK;
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
    if (desc->dsn)
        result = pgqrsi_config_scalar(loader, PGQRSI_FIELD_DSN, desc->dsn, strlen(desc->dsn), true);
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
    if (result == PGQRS_OK && !desc->no_environment)
        result = pgqrsi_config_environment(loader);
    if (result == PGQRS_OK)
        result = pgqrsi_config_files(loader, desc);
    return result == PGQRS_OK ? pgqrsi_config_finish(loader) : result;
}

PGQRS_API pgqrs_config *pgqrs_config_load(const pgqrs_config_desc *desc, pgqrs_error *err)
{
    pgqrsi_config_loader loader;
    pgqrs_config_desc nothing;
    memset(&nothing, 0, sizeof nothing);
    memset(&loader, 0, sizeof loader);
    if (!desc)
        desc = &nothing;
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
