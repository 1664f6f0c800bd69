/* pgqrs_s3.h - the S3 backend of pgqrs.h: a durable job queue in a bucket, without a database server.
 *
 * >>manual
 *
 * One source file of the program says
 *
 *     #define PGQRS_IMPLEMENTATION
 *     #include "pgqrs_s3.h"
 *
 * every other one just includes the header. Link with -lsqlite3 (3.37 or newer); pgqrs_sqlite.h stands beside it and comes
 * along, libpq is not needed. HTTP is the program's own, through one function; examples/http_curl.h is a ready-made one (-lcurl):
 *
 *     http_curl *curl = http_curl_create();
 *     pgqrs_s3_desc s3 = {.http = http_curl_callback(curl)};
 *     pgqrs_store_desc desc = {.s3 = &s3};
 *     pgqrs_store *store = pgqrs_open("s3://bucket/jobs.sqlite", &desc, &err);
 *     ...
 *     pgqrs_close(store);
 *     http_curl_destroy(curl);
 *
 * From there on it is a store like any other: pgqrs_install, pgqrs_enqueue, pgqrs_work, workflows. Credentials, region and endpoint
 * come from pgqrs_s3_desc, or from the usual variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION
 * (AWS_DEFAULT_REGION), AWS_ENDPOINT_URL_S3 (AWS_ENDPOINT_URL); not from ~/.aws, nor from the role of a machine. A store keeps what
 * it was opened with: once a session token has expired (PGQRS_ERR_ACCESS_DENIED) open another. The key needs to read and write the
 * object and its parts (s3:GetObject, s3:PutObject, and s3:DeleteObject for KEY.d/: without it old parts stay), and to list the
 * bucket (s3:ListBucket), without which S3 says "denied" where it means "not there".
 *
 * What is in the bucket
 *     One object: a SQLite file, which sqlite3 opens as it is, followed by some bytes that SQLite ignores (who committed last). It
 *     is the whole queue. Any number of processes on any number of machines may use it. The first pgqrs_install makes it.
 *     A SQLite file made by pgqrs_sqlite.h may be uploaded as it is; one that another program has written to goes through
 *     VACUUM INTO first, which removes those bytes.
 *
 * Large objects: parts
 *     A commit uploads the object, so one that is larger than split_bytes (256 KiB) is kept in parts. The object KEY is then a head, still
 *     the one thing that commits replace, and beside it, named KEY.d/SEQ-RANDOM.sqlite, are parts that are written once and never
 *     changed: first a SQLite file, the whole queue as it was some time ago, then groups of pages (1 KiB) that have changed since.
 *     The head names the parts, and carries the pages that changed last: those of its own commit, and of commits before as many as
 *     make ten with them, or sixteen times its own if those are more than ten, and no more than 384 KiB. What is beyond that becomes a
 *     part, with a PUT before the head's. So a commit is one PUT, and a second one is made every ten commits or so when each is one
 *     small call, and every thirty with batches of fifty; only a commit that changes more than 384 KiB, such as 2,500 messages at
 *     once, always writes one.
 *     Ever so many small parts become a larger one, and when the parts together are half as large as the file all become a new one: a change
 *     is uploaded about seven times until it rests. What nobody touches any more, such as archived messages, is uploaded with that new
 *     file only, and never makes the head larger.
 *     A part is written before the head names it. Whoever knows an earlier version fetches what is newer; whoever knows none
 *     fetches the head and all parts, 20 at most in practice. Each has a CRC-32 in the head, and the head a sum over all
 *     pages: what is missing, cut off or of another object is an error, never adopted. Parts that no head names any more are
 *     deleted with the commits that come 10 s later, those of a process that was killed by the next one of its machine.
 *     So the head alone is a SQLite file that says where the rest is; the first part is a whole file, but an older version. What
 *     makes one file of the newest: pgqrs_s3_export, pgqrs copy. Copy, rename, or restore a head only with its parts. Whoever
 *     wants one file at any time sets split_bytes to -1: an object in parts becomes one file with the next commit, and says so, so that
 *     programs without that setting leave it at that. One that has shrunk to half of split_bytes becomes one file as well.
 *
 * Durability
 *     A call that changed something returns when the store has it: a PUT that says which version it replaces (If-Match). When
 *     somebody else was faster, the call is carried out again on the new version; the program does not see that. When no reply came,
 *     a GET shows whether the change is there; if that cannot be found out within deadline_ms, the call is
 *     PGQRS_ERR_OUTCOME_UNKNOWN. So the store must honour conditions on PUT: Ceph does (tested); AWS S3, Cloudflare R2 and
 *     MinIO from its release of 2025-09-07 on by their documentation (an older MinIO makes a deleted object again). A store that
 *     accepts a condition and ignores it is found out before the first commit, and refused (PGQRS_ERR_UNSUPPORTED).
 *     An object that was deleted is an error, PGQRS_ERR_OBJECT_GONE, and never made again by itself; pgqrs_s3_bootstrap does that. A
 *     bucket that is not there is PGQRS_ERR_BAD_DSN. Both end a worker; a network that is away (PGQRS_ERR_CONNECTION) is waited for.
 *     To have back what was deleted: the last version that a machine knew is in its cache directory, and may be uploaded after
 *     sqlite3 BUCKET-.../image "VACUUM INTO 'rescued.sqlite'" has made a SQLite file of it.
 *
 * What it costs
 *     A commit is one PUT: of the whole object up to split_bytes; then of 6 to 14 KB, or of 20 to 390 KB with a batch of fifty, and now
 *     and then another one, for a part (see above). All of it is in memory and in the cache, where each commit compares, copies and
 *     writes it (10 ms of processor time for 10 MB), so keep it small: delete instead of archive, or give queues a retention (the file
 *     shrinks when most of it was removed), and keep large payloads elsewhere. A call that finds nothing to change is one GET that is
 *     answered "not modified"; so is a question.
 *     Idle workers cost these GETs, which the stores of one machine share, ever fewer of them down to one every idle_ms, and no PUT
 *     but two an hour each (idle_heartbeat_ms), which say that they live. A round trip is the unit of time: pgqrs_enqueue_many,
 *     batches, pools of threads and producers put many operations into one.
 *
 * Several processes, several threads, several machines
 *     Stores on one machine share commits through the cache directory: while one is on its way, the others carry out their
 *     calls on what it will have made, and the next one is for all of them. They see each other's commits there without a GET;
 *     waiting consumers are woken by them (Linux; elsewhere they look there every poll_ms). What a process that was killed had
 *     begun may still be carried out by the others, until deadline_ms and two seconds after it began. For one that was stopped they
 *     wait two seconds, and go on without it; for one that was stopped in a transaction of its own they wait until
 *     connect_timeout_ms is over (PGQRS_ERR_BUSY).
 *     Stores on different machines compete; whoever loses goes again. So that nobody loses for long, a machine makes a
 *     pause after a commit of its own: 0.7 round trips for each other machine that commits, and two every four seconds for
 *     those that may want to. A machine is a cache directory, which has a number for it.
 *     The cache directory (default: pgqrs in the user's cache directory) holds one directory per object, with its last known
 *     version. It is only a copy: what a crash leaves of it is checked before it is used, and when it is removed it is made again
 *     (not so in local mode: there it is all that there is). It must be on a local file system.
 *     The clock of all of them is the store's, read off the Date of its replies; a machine whose clock is wrong does no harm. A Date
 *     has no fractions, so two machines may differ by up to a second: leases should be longer than that by far.
 *
 * Transactional steps (pgqrs_step_desc.transaction)
 *     pgqrs_run_sqlite3 is the copy of the object in memory; what the body writes there is part of the object after the step (give
 *     tables of your own an INTEGER PRIMARY KEY: the file is made anew now and then, as by VACUUM). Others
 *     on this machine wait meanwhile. When another machine commits meanwhile the step is rolled back and the run goes again.
 *
 * Local mode (pgqrs_s3_desc.mode = PGQRS_S3_LOCAL)
 *     The store is a SQLite file in the cache directory (BUCKET-...-local/local.sqlite), for any number of processes of one
 *     machine, and no call waits for the network. pgqrs_s3_sync uploads what was changed since the last time, pgqrs_s3_snapshot
 *     fetches what others have uploaded, and pgqrs_s3_state_get tells which of them there is to do. What was not synced is as
 *     durable as this machine's disk. When both sides were changed sync is PGQRS_ERR_OBJECT_CHANGED and nothing is touched: go on
 *     locally, or throw the local changes away with pgqrs_s3_snapshot(store, true), and do again what they were. A file that was in
 *     the cache is used again after a restart.
 *     A file that is damaged or was emptied is not uploaded: sync is PGQRS_ERR_DATABASE then, and a snapshot that discards it helps.
 *     An upload whose reply was lost, or whose process ended before it came, is recognised by the next sync. Durable and local
 *     stores of one object have separate caches.
 *
 * What it does not do
 *     HTTP, TLS, proxies: your function's business. Server-side listing, multipart, versions, encryption settings of the bucket: not
 *     touched. Deleting an object in parts: KEY and all of KEY.d/ are yours to delete.
 *
 * The licence is that of pgqrs.h: MIT or Apache 2.0, as you like.
 */

#ifndef PGQRS_S3_H
#define PGQRS_S3_H

#ifndef PGQRS_H
#define PGQRSI_CORE_ONLY
#include "pgqrs.h"
#undef PGQRSI_CORE_ONLY
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------------------------
 * >>http: what the program lends to the library
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrs_http_field {
    const char *name, *value;
} pgqrs_http_field;

typedef struct pgqrs_http_request {
    const char *method, *url; /* "GET", "PUT", "DELETE"; url complete, percent-encoded: to be sent as it is */
    const pgqrs_http_field
        *fields; /* every field, signature and Host included; none may be added that begins with x-amz- */
    size_t field_count;
    const void *body;
    size_t body_size;   /* PUT: to be sent as Content-Length */
    int64_t timeout_ms; /* for the whole exchange */
} pgqrs_http_request;

/* The reply under way. The function below fills it: every field of the final reply (not of a 100), then the body, piece by
 * piece. False: stop, there is no room for it. */
typedef struct pgqrs_http_reply pgqrs_http_reply;
PGQRS_API bool pgqrs_http_reply_field(pgqrs_http_reply *reply, const char *name, size_t name_size, const char *value,
                                      size_t value_size);
PGQRS_API bool pgqrs_http_reply_body(pgqrs_http_reply *reply, const void *data, size_t size);

/* exchange: sends the request once and reads the reply. Back: the HTTP status of a complete reply; 0 when none came (timeout, reset,
 * cut off), so that nobody knows what happened; negative when certainly nothing was sent (no such host, connection refused). It never
 * repeats a request, follows no redirects, and keeps connections open if it can. It is called on the thread that called the store
 * (with a pool or a producer: on any of their threads), one call at a time per store; several stores on several threads want one
 * each, or a function that is safe for that. */
typedef struct pgqrs_http {
    int (*exchange)(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply);
    void *user;
} pgqrs_http;

/* ------------------------------------------------------------------------------------------------------------------
 * >>settings
 * --------------------------------------------------------------------------------------------------------------- */

typedef enum pgqrs_s3_mode {
    PGQRS_S3_DURABLE = 0, /* what a call has changed is in the bucket when it returns */
    PGQRS_S3_LOCAL = 1    /* it is in a file of this machine until pgqrs_s3_sync */
} pgqrs_s3_mode;

/* pgqrs_store_desc.s3. Zero means the default in brackets. Strings are copied; http.user must outlive the store. */
typedef struct pgqrs_s3_desc {
    pgqrs_http http;            /* required */
    pgqrs_s3_mode mode;         /* [PGQRS_S3_DURABLE] */
    const char *endpoint;       /* [AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, https://s3.REGION.amazonaws.com] */
    const char *region;         /* [AWS_REGION, AWS_DEFAULT_REGION, us-east-1] */
    const char *access_key;     /* [AWS_ACCESS_KEY_ID]; with it come secret_key and session_token from here as well */
    const char *secret_key;     /* [AWS_SECRET_ACCESS_KEY] */
    const char *session_token;  /* [AWS_SESSION_TOKEN, if any] */
    const char *cache_dir;      /* [$XDG_CACHE_HOME/pgqrs, $HOME/.cache/pgqrs] made when missing */
    int64_t request_timeout_ms; /* [10000] of one HTTP exchange */
    /* [30000] of one call: then PGQRS_ERR_CONNECTION, PGQRS_ERR_BUSY (others were faster, or the store asks for fewer requests) or
     * PGQRS_ERR_OUTCOME_UNKNOWN. pgqrs_open takes pgqrs_store_desc.connect_timeout_ms when that is less, and gives up after a second
     * when no connection can be made at all */
    int64_t deadline_ms;
    int64_t heartbeat_ms; /* [20000] a heartbeat that nothing else goes along with is stored this often; -1: each one */
    /* [1800000] and this often by a worker that holds no message. Such a worker is stale after twice this time at the earliest, so all
     * programs of an object want the same. Its name is free after stale_ms all the same: another one of that name takes over from it,
     * which ends it (PGQRS_ERR_WORKER_STOPPED). -1: as heartbeat_ms */
    int64_t idle_heartbeat_ms;
    int64_t idle_ms;          /* [2000] a waiting consumer asks the store at least this often */
    int64_t max_object_bytes; /* [268435456] larger objects are refused (PGQRS_ERR_FULL); at most 1 GiB */
    int64_t split_bytes;      /* [262144, unless the object says never] what is larger is kept in parts; -1: never */
} pgqrs_s3_desc;

/* Makes the object, with empty tables, where there is none, also where one was deleted; PGQRS_ERR_OBJECT_EXISTS where there is one.
 * pgqrs_install is the everyday way: it makes the object or brings it up to date, and refuses only what was deleted. In local mode
 * PGQRS_ERR_UNSUPPORTED: there pgqrs_install and pgqrs_s3_sync make it. */
PGQRS_API pgqrs_result pgqrs_s3_bootstrap(pgqrs_store *store);

typedef enum pgqrs_s3_state {
    PGQRS_S3_LOCAL_MISSING = 1,        /* the local file was removed */
    PGQRS_S3_REMOTE_MISSING_CLEAN = 2, /* there is no object, and nothing to sync */
    PGQRS_S3_REMOTE_MISSING_DIRTY = 3, /* there is no object; sync would make it */
    PGQRS_S3_IN_SYNC = 4,
    PGQRS_S3_LOCAL_CHANGES = 5,     /* sync would upload them */
    PGQRS_S3_REMOTE_CHANGES = 6,    /* snapshot would fetch them */
    PGQRS_S3_CONCURRENT_CHANGES = 7 /* both: sync would be PGQRS_ERR_OBJECT_CHANGED */
} pgqrs_s3_state;

/* Compares the local file, what it was at the last sync or snapshot, and the object. Changes nothing. A durable store is in sync, or
 * has no object. */
PGQRS_API pgqrs_result pgqrs_s3_state_get(pgqrs_store *store, pgqrs_s3_state *state);

/* Uploads the local file, as one consistent version, if it was changed; also where the object was deleted. Others may write to the
 * file meanwhile; what they write is for the next sync. Nothing changed: nothing is sent. PGQRS_ERR_OBJECT_CHANGED: the object was
 * changed by others since the last sync or snapshot; both are as they were. PGQRS_ERR_DATABASE also when the cache directory's notes of
 * syncs cannot be read or written, and it says whether the file was uploaded: do it again when that is mended. A durable store: nothing
 * to do. */
PGQRS_API pgqrs_result pgqrs_s3_sync(pgqrs_store *store);

/* Makes the local file what the object is. With changes that were not synced it is PGQRS_ERR_OBJECT_CHANGED, unless `discard` is set: then
 * they are lost. PGQRS_ERR_OBJECT_GONE: there is no object. A durable store looks for a newer version, no more. */
PGQRS_API pgqrs_result pgqrs_s3_snapshot(pgqrs_store *store, bool discard);

/* Writes the newest version of the object into a file, as one SQLite file that any tool opens, also pgqrs_sqlite.h. There must not be one
 * of that name (PGQRS_ERR_INVALID_ARGUMENT); PGQRS_ERR_OBJECT_GONE: there is no object. In local mode it is what the local file was
 * at the last sync or snapshot. */
PGQRS_API pgqrs_result pgqrs_s3_export(pgqrs_store *store, const char *path);

/* The backend's table, for pgqrs_backend_register. */
PGQRS_API const pgqrs_backend *pgqrs_s3_backend(void);

#ifdef __cplusplus
}
#endif

#endif /* PGQRS_S3_H */

#if defined(PGQRS_IMPLEMENTATION) && !defined(PGQRSI_S3_DONE)
#define PGQRSI_S3_DONE

#include "pgqrs_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/inotify.h>
#include <sys/statfs.h>
#endif
#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 7))
#define PGQRSI_S3_SHA_X86
#include <cpuid.h>
#include <immintrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------------------------
 * >>digests: SHA-256, HMAC, CRC-32
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrsi_s3_sha {
    uint32_t state[8];
    uint64_t size;
    unsigned char block[64];
} pgqrsi_s3_sha;

static const uint32_t pgqrsi_s3_sha_constants[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};

static uint32_t pgqrsi_s3_rotate(uint32_t value, int bits)
{
    return value >> bits | value << (32 - bits);
}

static uint32_t pgqrsi_s3_big32(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void pgqrsi_s3_sha_schedule(uint32_t w[64], const unsigned char *block)
{
    size_t i;
    for (i = 0; i < 16; i++)
        w[i] = pgqrsi_s3_big32(block + 4 * i);
    for (; i < 64; i++) {
        uint32_t low = pgqrsi_s3_rotate(w[i - 15], 7) ^ pgqrsi_s3_rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t high = pgqrsi_s3_rotate(w[i - 2], 17) ^ pgqrsi_s3_rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + low + w[i - 7] + high;
    }
}

/* A round gives two of the eight words new values; instead of moving the others on, the next one names them differently. */
#define PGQRSI_S3_SHA_ROUND(a, b, c, d, e, f, g, h, i)                                                                 \
    do {                                                                                                               \
        uint32_t first = (h) + pgqrsi_s3_sha_constants[i] + w[i] + ((g) ^ ((e) & ((f) ^ (g)))) +                       \
                         (pgqrsi_s3_rotate(e, 6) ^ pgqrsi_s3_rotate(e, 11) ^ pgqrsi_s3_rotate(e, 25));                 \
        uint32_t second = (pgqrsi_s3_rotate(a, 2) ^ pgqrsi_s3_rotate(a, 13) ^ pgqrsi_s3_rotate(a, 22)) +               \
                          (((a) & (b)) | ((c) & ((a) | (b))));                                                         \
        (d) += first;                                                                                                  \
        (h) = first + second;                                                                                          \
    } while (0)

static void pgqrsi_s3_sha_block(uint32_t state[8], const unsigned char *block)
{
    uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    size_t i;
    pgqrsi_s3_sha_schedule(w, block);
    for (i = 0; i < 64; i += 8) {
        PGQRSI_S3_SHA_ROUND(a, b, c, d, e, f, g, h, i);
        PGQRSI_S3_SHA_ROUND(h, a, b, c, d, e, f, g, i + 1);
        PGQRSI_S3_SHA_ROUND(g, h, a, b, c, d, e, f, i + 2);
        PGQRSI_S3_SHA_ROUND(f, g, h, a, b, c, d, e, i + 3);
        PGQRSI_S3_SHA_ROUND(e, f, g, h, a, b, c, d, i + 4);
        PGQRSI_S3_SHA_ROUND(d, e, f, g, h, a, b, c, i + 5);
        PGQRSI_S3_SHA_ROUND(c, d, e, f, g, h, a, b, i + 6);
        PGQRSI_S3_SHA_ROUND(b, c, d, e, f, g, h, a, i + 7);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void pgqrsi_s3_sha_blocks_plain(uint32_t state[8], const unsigned char *bytes, size_t count)
{
    for (; count > 0; bytes += 64, count--)
        pgqrsi_s3_sha_block(state, bytes);
}

/* The instructions that most x86-64 processors since 2017 have, some seven times as fast; whether this one does is asked once. */
#if defined(PGQRSI_S3_SHA_X86)

static bool pgqrsi_s3_sha_has_x86(void)
{
    static int known; /* 1: no, 2: yes */
    int answer = __atomic_load_n(&known, __ATOMIC_RELAXED);
    unsigned a, b = 0, c = 0, d;
    if (answer == 0) {
        bool has = __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 19); /* SSE 4.1 */
        has = has && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
        answer = has ? 2 : 1;
        __atomic_store_n(&known, answer, __ATOMIC_RELAXED);
    }
    return answer == 2;
}

/* Four rounds in each turn; `w` is a window of sixteen words on the schedule, which moves on by four. */
__attribute__((target("sha,sse4.1"))) static void pgqrsi_s3_sha_blocks_x86(uint32_t state[8],
                                                                           const unsigned char *bytes, size_t count)
{
    const __m128i order = _mm_set_epi64x(INT64_C(0x0c0d0e0f08090a0b), INT64_C(0x0405060700010203));
    __m128i abef = _mm_set_epi32((int)state[0], (int)state[1], (int)state[4], (int)state[5]);
    __m128i cdgh = _mm_set_epi32((int)state[2], (int)state[3], (int)state[6], (int)state[7]);
    uint32_t out[8];
    for (; count > 0; bytes += 64, count--) {
        __m128i w[4] = {order, order, order, order}, abef_before = abef, cdgh_before = cdgh;
        size_t i;
        for (i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(bytes + 16 * i)), order);
        for (i = 0; i < 64; i += 4) {
            const void *constants = &pgqrsi_s3_sha_constants[i];
            __m128i sum = _mm_add_epi32(w[0], _mm_loadu_si128((const __m128i *)constants));
            __m128i next = _mm_add_epi32(_mm_sha256msg1_epu32(w[0], w[1]), _mm_alignr_epi8(w[3], w[2], 4));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
            next = _mm_sha256msg2_epu32(next, w[3]);
            w[0] = w[1], w[1] = w[2], w[2] = w[3], w[3] = next;
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    _mm_storeu_si128((__m128i *)(void *)out, abef);
    _mm_storeu_si128((__m128i *)(void *)(out + 4), cdgh);
    state[0] = out[3], state[1] = out[2], state[4] = out[1], state[5] = out[0];
    state[2] = out[7], state[3] = out[6], state[6] = out[5], state[7] = out[4];
}
#endif

static void pgqrsi_s3_sha_blocks(uint32_t state[8], const unsigned char *bytes, size_t count)
{
#if defined(PGQRSI_S3_SHA_X86)
    if (pgqrsi_s3_sha_has_x86()) {
        pgqrsi_s3_sha_blocks_x86(state, bytes, count);
        return;
    }
#endif
    pgqrsi_s3_sha_blocks_plain(state, bytes, count);
}

static void pgqrsi_s3_sha_start(pgqrsi_s3_sha *sha)
{
    static const uint32_t start[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                      0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
    memset(sha, 0, sizeof(*sha));
    memcpy(sha->state, start, sizeof(start));
}

static void pgqrsi_s3_sha_add(pgqrsi_s3_sha *sha, const void *data, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)data;
    size_t used = (size_t)(sha->size % 64);
    sha->size += size;
    if (used > 0) {
        size_t room = 64 - used < size ? 64 - used : size;
        memcpy(sha->block + used, bytes, room);
        bytes += room;
        size -= room;
        if (used + room < 64) return;
        pgqrsi_s3_sha_blocks(sha->state, sha->block, 1);
    }
    pgqrsi_s3_sha_blocks(sha->state, bytes, size / 64);
    if (size % 64 > 0) memcpy(sha->block, bytes + size / 64 * 64, size % 64);
}

static void pgqrsi_s3_sha_text(pgqrsi_s3_sha *sha, const char *text)
{
    pgqrsi_s3_sha_add(sha, text, strlen(text));
}

static void pgqrsi_s3_sha_end(pgqrsi_s3_sha *sha, unsigned char out[32])
{
    static const unsigned char padding[64] = {0x80};
    unsigned char length[8];
    uint64_t bits = sha->size * 8;
    size_t used = (size_t)(sha->size % 64);
    int i;
    for (i = 0; i < 8; i++)
        length[i] = (unsigned char)(bits >> (56 - 8 * i) & 0xff);
    pgqrsi_s3_sha_add(sha, padding, used < 56 ? 56 - used : 120 - used);
    pgqrsi_s3_sha_add(sha, length, 8);
    for (i = 0; i < 32; i++)
        out[i] = (unsigned char)(sha->state[i / 4] >> (24 - 8 * (i % 4)) & 0xff);
}

static void pgqrsi_s3_sha_of(const void *data, size_t size, unsigned char out[32])
{
    pgqrsi_s3_sha sha;
    pgqrsi_s3_sha_start(&sha);
    if (size > 0) pgqrsi_s3_sha_add(&sha, data, size);
    pgqrsi_s3_sha_end(&sha, out);
}

static void pgqrsi_s3_hmac(const void *key, size_t key_size, const char *text, unsigned char out[32])
{
    unsigned char pad[64], inner[32];
    pgqrsi_s3_sha sha;
    int i;
    memset(pad, 0, sizeof(pad));
    if (key_size > sizeof(pad))
        pgqrsi_s3_sha_of(key, key_size, pad);
    else
        memcpy(pad, key, key_size);
    for (i = 0; i < 64; i++)
        pad[i] ^= 0x36;
    pgqrsi_s3_sha_start(&sha);
    pgqrsi_s3_sha_add(&sha, pad, sizeof(pad));
    pgqrsi_s3_sha_text(&sha, text);
    pgqrsi_s3_sha_end(&sha, inner);
    for (i = 0; i < 64; i++)
        pad[i] ^= 0x36 ^ 0x5c;
    pgqrsi_s3_sha_start(&sha);
    pgqrsi_s3_sha_add(&sha, pad, sizeof(pad));
    pgqrsi_s3_sha_add(&sha, inner, sizeof(inner));
    pgqrsi_s3_sha_end(&sha, out);
}

static void pgqrsi_s3_hex(const unsigned char digest[32], char out[65])
{
    static const char digits[] = "0123456789abcdef";
    size_t i;
    for (i = 0; i < 32; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[64] = '\0';
}

/* For the CRC-32 of zip and PNG: what four bits become when so many times four bits follow them. */
static const uint32_t pgqrsi_s3_crc_table[16][16] = {
    {0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
     0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu},
    {0x00000000u, 0x77073096u, 0xee0e612cu, 0x990951bau, 0x076dc419u, 0x706af48fu, 0xe963a535u, 0x9e6495a3u,
     0x0edb8832u, 0x79dcb8a4u, 0xe0d5e91eu, 0x97d2d988u, 0x09b64c2bu, 0x7eb17cbdu, 0xe7b82d07u, 0x90bf1d91u},
    {0x00000000u, 0x4ac21251u, 0x958424a2u, 0xdf4636f3u, 0xf0794f05u, 0xbabb5d54u, 0x65fd6ba7u, 0x2f3f79f6u,
     0x3b83984bu, 0x71418a1au, 0xae07bce9u, 0xe4c5aeb8u, 0xcbfad74eu, 0x8138c51fu, 0x5e7ef3ecu, 0x14bce1bdu},
    {0x00000000u, 0x191b3141u, 0x32366282u, 0x2b2d53c3u, 0x646cc504u, 0x7d77f445u, 0x565aa786u, 0x4f4196c7u,
     0xc8d98a08u, 0xd1c2bb49u, 0xfaefe88au, 0xe3f4d9cbu, 0xacb54f0cu, 0xb5ae7e4du, 0x9e832d8eu, 0x87981ccfu},
    {0x00000000u, 0x1c26a370u, 0x384d46e0u, 0x246be590u, 0x709a8dc0u, 0x6cbc2eb0u, 0x48d7cb20u, 0x54f16850u,
     0xe1351b80u, 0xfd13b8f0u, 0xd9785d60u, 0xc55efe10u, 0x91af9640u, 0x8d893530u, 0xa9e2d0a0u, 0xb5c473d0u},
    {0x00000000u, 0x01c26a37u, 0x0384d46eu, 0x0246be59u, 0x0709a8dcu, 0x06cbc2ebu, 0x048d7cb2u, 0x054f1685u,
     0x0e1351b8u, 0x0fd13b8fu, 0x0d9785d6u, 0x0c55efe1u, 0x091af964u, 0x08d89353u, 0x0a9e2d0au, 0x0b5c473du},
    {0x00000000u, 0x5019579fu, 0xa032af3eu, 0xf02bf8a1u, 0x9b14583du, 0xcb0d0fa2u, 0x3b26f703u, 0x6b3fa09cu,
     0xed59b63bu, 0xbd40e1a4u, 0x4d6b1905u, 0x1d724e9au, 0x764dee06u, 0x2654b999u, 0xd67f4138u, 0x866616a7u},
    {0x00000000u, 0xb8bc6765u, 0xaa09c88bu, 0x12b5afeeu, 0x8f629757u, 0x37def032u, 0x256b5fdcu, 0x9dd738b9u,
     0xc5b428efu, 0x7d084f8au, 0x6fbde064u, 0xd7018701u, 0x4ad6bfb8u, 0xf26ad8ddu, 0xe0df7733u, 0x58631056u},
    {0x00000000u, 0x60e09782u, 0xc1c12f04u, 0xa121b886u, 0x58f35849u, 0x3813cfcbu, 0x9932774du, 0xf9d2e0cfu,
     0xb1e6b092u, 0xd1062710u, 0x70279f96u, 0x10c70814u, 0xe915e8dbu, 0x89f57f59u, 0x28d4c7dfu, 0x4834505du},
    {0x00000000u, 0x3d6029b0u, 0x7ac05360u, 0x47a07ad0u, 0xf580a6c0u, 0xc8e08f70u, 0x8f40f5a0u, 0xb220dc10u,
     0x30704bc1u, 0x0d106271u, 0x4ab018a1u, 0x77d03111u, 0xc5f0ed01u, 0xf890c4b1u, 0xbf30be61u, 0x825097d1u},
    {0x00000000u, 0x03d6029bu, 0x07ac0536u, 0x047a07adu, 0x0f580a6cu, 0x0c8e08f7u, 0x08f40f5au, 0x0b220dc1u,
     0x1eb014d8u, 0x1d661643u, 0x191c11eeu, 0x1aca1375u, 0x11e81eb4u, 0x123e1c2fu, 0x16441b82u, 0x15921919u},
    {0x00000000u, 0xcb5cd3a5u, 0x4dc8a10bu, 0x869472aeu, 0x9b914216u, 0x50cd91b3u, 0xd659e31du, 0x1d0530b8u,
     0xec53826du, 0x270f51c8u, 0xa19b2366u, 0x6ac7f0c3u, 0x77c2c07bu, 0xbc9e13deu, 0x3a0a6170u, 0xf156b2d5u},
    {0x00000000u, 0x67de9cceu, 0xcfbd399cu, 0xa863a552u, 0x440b7579u, 0x23d5e9b7u, 0x8bb64ce5u, 0xec68d02bu,
     0x8816eaf2u, 0xefc8763cu, 0x47abd36eu, 0x20754fa0u, 0xcc1d9f8bu, 0xabc30345u, 0x03a0a617u, 0x647e3ad9u},
    {0x00000000u, 0xa6770bb4u, 0x979f1129u, 0x31e81a9du, 0xf44f2413u, 0x52382fa7u, 0x63d0353au, 0xc5a73e8eu,
     0x33ef4e67u, 0x959845d3u, 0xa4705f4eu, 0x020754fau, 0xc7a06a74u, 0x61d761c0u, 0x503f7b5du, 0xf64870e9u},
    {0x00000000u, 0x7cbb312bu, 0xf9766256u, 0x85cd537du, 0x299dc2edu, 0x5526f3c6u, 0xd0eba0bbu, 0xac509190u,
     0x533b85dau, 0x2f80b4f1u, 0xaa4de78cu, 0xd6f6d6a7u, 0x7aa64737u, 0x061d761cu, 0x83d02561u, 0xff6b144au},
    {0x00000000u, 0xccaa009eu, 0x4225077du, 0x8e8f07e3u, 0x844a0efau, 0x48e00e64u, 0xc66f0987u, 0x0ac50919u,
     0xd3e51bb5u, 0x1f4f1b2bu, 0x91c01cc8u, 0x5d6a1c56u, 0x57af154fu, 0x9b0515d1u, 0x158a1232u, 0xd92012acu}};

static uint32_t pgqrsi_s3_little32(const unsigned char *bytes)
{
    return (uint32_t)bytes[3] << 24 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[1] << 8 | bytes[0];
}

/* What the eight groups of four bits become, the last of which is followed by `k` groups. */
static uint32_t pgqrsi_s3_crc_word(uint32_t word, int k)
{
    const uint32_t(*table)[16] = &pgqrsi_s3_crc_table[k];
    return table[7][word & 15] ^ table[6][word >> 4 & 15] ^ table[5][word >> 8 & 15] ^ table[4][word >> 12 & 15] ^
           table[3][word >> 16 & 15] ^ table[2][word >> 20 & 15] ^ table[1][word >> 24 & 15] ^ table[0][word >> 28];
}

/* The CRC-32 of zip and PNG, eight bytes at a time; `crc` is 0 or what the bytes before gave. */
static uint32_t pgqrsi_s3_crc(uint32_t crc, const unsigned char *bytes, size_t size)
{
    crc = ~crc;
    for (; size >= 8; size -= 8, bytes += 8)
        crc = pgqrsi_s3_crc_word(crc ^ pgqrsi_s3_little32(bytes), 8) ^
              pgqrsi_s3_crc_word(pgqrsi_s3_little32(bytes + 4), 0);
    for (; size > 0; size--, bytes++) {
        crc = crc >> 4 ^ pgqrsi_s3_crc_table[0][(crc ^ *bytes) & 15];
        crc = crc >> 4 ^ pgqrsi_s3_crc_table[0][(crc ^ (uint32_t)*bytes >> 4) & 15];
    }
    return ~crc;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>text: what requests are made of
 * --------------------------------------------------------------------------------------------------------------- */

static bool pgqrsi_s3_plain_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_' || c == '~';
}

/* Percent-encodes all but letters, digits, - . _ ~ and the slash, as S3 wants a path both sent and signed. Room for three
 * times the text and a NUL. */
static void pgqrsi_s3_encode(const char *text, char *out)
{
    static const char digits[] = "0123456789ABCDEF";
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (pgqrsi_s3_plain_char(*text) || byte == '/') {
            *out++ = *text;
        } else {
            *out++ = '%';
            *out++ = digits[byte >> 4];
            *out++ = digits[byte & 15];
        }
    }
    *out = '\0';
}

/* Days since 1970-01-01 of a date in the Gregorian calendar, counted in years that begin in March. */
static int64_t pgqrsi_s3_days(int64_t year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t of_era = y - era * 400;
    int64_t of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static char *pgqrsi_s3_write_digits(char *out, int64_t value, int count)
{
    int i;
    for (i = count - 1; i >= 0; i--, value /= 10)
        out[i] = (char)('0' + value % 10);
    return out + count;
}

/* "20130524T000000Z" */
static void pgqrsi_s3_stamp(int64_t now_us, char out[17])
{
    int64_t seconds = now_us / 1000000, days = seconds / 86400;
    int rest = (int)(seconds % 86400);
    int year = 1970, month = 1;
    while (pgqrsi_s3_days(year + 1, 1, 1) <= days && year < 9998)
        year++;
    while (month < 12 && pgqrsi_s3_days(year, month + 1, 1) <= days)
        month++;
    out = pgqrsi_s3_write_digits(out, year, 4);
    out = pgqrsi_s3_write_digits(out, month, 2);
    out = pgqrsi_s3_write_digits(out, days - pgqrsi_s3_days(year, month, 1) + 1, 2);
    *out++ = 'T';
    out = pgqrsi_s3_write_digits(out, rest / 3600, 2);
    out = pgqrsi_s3_write_digits(out, rest / 60 % 60, 2);
    out = pgqrsi_s3_write_digits(out, rest % 60, 2);
    *out++ = 'Z';
    *out = '\0';
}

static int pgqrsi_s3_digits(const char *text, int count)
{
    int value = 0;
    for (; count > 0; count--, text++) {
        if (*text < '0' || *text > '9') return -1;
        value = value * 10 + (*text - '0');
    }
    return value;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT" in microseconds since 1970; 0: not such a date. */
static int64_t pgqrsi_s3_http_date(const char *text, size_t size)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    int day, year, hour, minute, second;
    size_t month;
    if (size != 29 || text[3] != ',' || text[16] != ' ' || text[19] != ':' || text[22] != ':' ||
        memcmp(text + 25, " GMT", 4) != 0)
        return 0;
    for (month = 0; month < 12 && memcmp(months + 3 * month, text + 8, 3) != 0; month++) {
    }
    day = pgqrsi_s3_digits(text + 5, 2);
    year = pgqrsi_s3_digits(text + 12, 4);
    hour = pgqrsi_s3_digits(text + 17, 2);
    minute = pgqrsi_s3_digits(text + 20, 2);
    second = pgqrsi_s3_digits(text + 23, 2);
    if (month == 12 || day < 1 || day > 31 || year < 1970 || hour < 0 || hour > 23 || minute < 0 || minute > 59 ||
        second < 0 || second > 60)
        return 0;
    return (pgqrsi_s3_days(year, (int)month + 1, day) * 86400 + (int64_t)hour * 3600 + (int64_t)minute * 60 + second) *
           INT64_C(1000000);
}

static bool pgqrsi_s3_same_word(const char *text, size_t size, const char *word)
{
    size_t i;
    for (i = 0; i < size; i++) {
        char c = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] - 'A' + 'a') : text[i];
        if (word[i] == '\0' || c != word[i]) return false;
    }
    return word[size] == '\0';
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>signature: AWS Signature Version 4
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_S3_NAME_MAX 128          /* of a key id and of a region */
#define PGQRSI_S3_AUTHORIZATION_MAX 800 /* room for the field's value */

typedef struct pgqrsi_s3_signing {
    const char *method;
    const char *path;               /* encoded */
    const char *query;              /* encoded and sorted; "" */
    const pgqrs_http_field *fields; /* to be signed: names in lower case, sorted */
    size_t field_count;
    const char *payload; /* hex digest of the body */
    const char *stamp;
    const char *region;
    const char *access_key;
    const char *secret_key;
} pgqrsi_s3_signing;

static void pgqrsi_s3_signed_names(const pgqrsi_s3_signing *signing, char *out, size_t room)
{
    size_t i, used = 0;
    out[0] = '\0';
    for (i = 0; i < signing->field_count; i++) {
        int wrote = snprintf(out + used, room - used, "%s%s", i ? ";" : "", signing->fields[i].name);
        if (wrote < 0 || (size_t)wrote >= room - used) return;
        used += (size_t)wrote;
    }
}

static void pgqrsi_s3_canonical(const pgqrsi_s3_signing *signing, const char *names, char hex[65])
{
    pgqrsi_s3_sha sha;
    unsigned char digest[32];
    size_t i;
    pgqrsi_s3_sha_start(&sha);
    pgqrsi_s3_sha_text(&sha, signing->method);
    pgqrsi_s3_sha_text(&sha, "\n");
    pgqrsi_s3_sha_text(&sha, signing->path);
    pgqrsi_s3_sha_text(&sha, "\n");
    pgqrsi_s3_sha_text(&sha, signing->query);
    pgqrsi_s3_sha_text(&sha, "\n");
    for (i = 0; i < signing->field_count; i++) {
        pgqrsi_s3_sha_text(&sha, signing->fields[i].name);
        pgqrsi_s3_sha_text(&sha, ":");
        pgqrsi_s3_sha_text(&sha, signing->fields[i].value);
        pgqrsi_s3_sha_text(&sha, "\n");
    }
    pgqrsi_s3_sha_text(&sha, "\n");
    pgqrsi_s3_sha_text(&sha, names);
    pgqrsi_s3_sha_text(&sha, "\n");
    pgqrsi_s3_sha_text(&sha, signing->payload);
    pgqrsi_s3_sha_end(&sha, digest);
    pgqrsi_s3_hex(digest, hex);
}

/* The value of the field Authorization. */
static void pgqrsi_s3_sign(const pgqrsi_s3_signing *signing, char out[PGQRSI_S3_AUTHORIZATION_MAX])
{
    char names[256], scope[PGQRSI_S3_NAME_MAX + 32], text[PGQRSI_S3_NAME_MAX + 192], hex[65], day[9], secret[260];
    unsigned char key[32];
    memcpy(day, signing->stamp, 8);
    day[8] = '\0';
    pgqrsi_s3_signed_names(signing, names, sizeof(names));
    pgqrsi_s3_canonical(signing, names, hex);
    snprintf(scope, sizeof(scope), "%s/%s/s3/aws4_request", day, signing->region);
    snprintf(text, sizeof(text), "AWS4-HMAC-SHA256\n%s\n%s\n%s", signing->stamp, scope, hex);
    snprintf(secret, sizeof(secret), "AWS4%s", signing->secret_key);
    pgqrsi_s3_hmac(secret, strlen(secret), day, key);
    pgqrsi_s3_hmac(key, sizeof(key), signing->region, key);
    pgqrsi_s3_hmac(key, sizeof(key), "s3", key);
    pgqrsi_s3_hmac(key, sizeof(key), "aws4_request", key);
    pgqrsi_s3_hmac(key, sizeof(key), text, key);
    pgqrsi_s3_hex(key, hex);
    memset(secret, 0, sizeof(secret));
    snprintf(out, PGQRSI_S3_AUTHORIZATION_MAX, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
             signing->access_key, scope, names, hex);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>reply: what came back
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_S3_ETAG_MAX 256

typedef struct pgqrsi_s3_bytes {
    unsigned char *data;
    size_t size;
    size_t room;
} pgqrsi_s3_bytes;

struct pgqrs_http_reply {
    pgqrs_store *store;
    int status;
    pgqrsi_s3_bytes body;
    size_t most; /* a larger body is refused */
    bool no_memory;
    bool too_large;
    bool length_known;
    uint64_t length;
    char etag[PGQRSI_S3_ETAG_MAX]; /* "": none, or none that we could send back */
    char region[64];               /* where the bucket really is */
    char code[64];                 /* of an error: "NoSuchKey" */
    int64_t date_us;               /* 0: none */
    int64_t retry_after_ms;        /* 0: none */
};

static bool pgqrsi_s3_reserve(pgqrs_store *store, pgqrsi_s3_bytes *bytes, size_t room)
{
    size_t grown = bytes->room ? bytes->room : 4096;
    void *data;
    if (room <= bytes->room) return true;
    while (grown < room)
        grown = grown > SIZE_MAX / 2 ? room : grown * 2;
    data = pgqrs_backend_resize(store, bytes->data, bytes->room, grown);
    if (!data) return false;
    bytes->data = (unsigned char *)data;
    bytes->room = grown;
    return true;
}

static void pgqrsi_s3_release(pgqrs_store *store, pgqrsi_s3_bytes *bytes)
{
    if (bytes->data) pgqrs_backend_free(store, bytes->data, bytes->room);
    memset(bytes, 0, sizeof(*bytes));
}

static uint64_t pgqrsi_s3_number(const char *text, size_t size, bool *fine)
{
    uint64_t value = 0;
    *fine = size > 0 && size < 19;
    for (; size > 0 && *fine; size--, text++) {
        *fine = *text >= '0' && *text <= '9';
        value = value * 10 + (uint64_t)(*text - '0');
    }
    return *fine ? value : 0;
}

/* Only what may stand in a field of a request, since it goes back in one. */
static void pgqrsi_s3_keep_text(char *out, size_t room, const char *value, size_t size)
{
    size_t i;
    out[0] = '\0';
    if (size == 0 || size >= room) return;
    for (i = 0; i < size; i++)
        if ((unsigned char)value[i] < 0x20 || (unsigned char)value[i] > 0x7e) return;
    memcpy(out, value, size);
    out[size] = '\0';
}

PGQRS_API bool pgqrs_http_reply_field(pgqrs_http_reply *reply, const char *name, size_t name_size, const char *value,
                                      size_t value_size)
{
    bool fine;
    while (value_size > 0 && strchr(" \t\r\n", value[0]))
        value++, value_size--;
    while (value_size > 0 && strchr(" \t\r\n", value[value_size - 1]))
        value_size--;
    if (pgqrsi_s3_same_word(name, name_size, "etag")) {
        pgqrsi_s3_keep_text(reply->etag, sizeof(reply->etag), value, value_size);
    } else if (pgqrsi_s3_same_word(name, name_size, "x-amz-bucket-region")) {
        pgqrsi_s3_keep_text(reply->region, sizeof(reply->region), value, value_size);
    } else if (pgqrsi_s3_same_word(name, name_size, "date")) {
        reply->date_us = pgqrsi_s3_http_date(value, value_size);
    } else if (pgqrsi_s3_same_word(name, name_size, "retry-after")) {
        uint64_t seconds = pgqrsi_s3_number(value, value_size, &fine);
        reply->retry_after_ms = fine ? (int64_t)(seconds < 3600 ? seconds : 3600) * 1000 : 0;
    } else if (pgqrsi_s3_same_word(name, name_size, "content-length")) {
        reply->length = pgqrsi_s3_number(value, value_size, &reply->length_known);
    }
    return true;
}

PGQRS_API bool pgqrs_http_reply_body(pgqrs_http_reply *reply, const void *data, size_t size)
{
    if (size == 0) return true;
    if (size > reply->most || reply->body.size > reply->most - size) {
        reply->too_large = true;
        return false;
    }
    if (!pgqrsi_s3_reserve(reply->store, &reply->body, reply->body.size + size)) {
        reply->no_memory = true;
        return false;
    }
    memcpy(reply->body.data + reply->body.size, data, size);
    reply->body.size += size;
    return true;
}

/* What begins with `open` in the XML of an error reply, as far as it is a plain word. */
static void pgqrsi_s3_find_word(const pgqrs_http_reply *reply, const char *open, char *out, size_t room)
{
    const unsigned char *data = reply->body.data;
    size_t length = strlen(open), at = 0, used = 0, size = reply->body.size < 4096 ? reply->body.size : 4096;
    while (at + length <= size && memcmp(data + at, open, length) != 0)
        at++;
    for (at += length; at < size && used + 1 < room; at++) {
        char c = (char)data[at];
        if (!pgqrsi_s3_plain_char(c)) break;
        out[used++] = c;
    }
    out[used] = '\0';
}

/* The name of the error, and the region that the store wants. The rest of it is not shown to anybody: it may quote the request. */
static void pgqrsi_s3_find_code(pgqrs_http_reply *reply)
{
    pgqrsi_s3_find_word(reply, "<Code>", reply->code, sizeof(reply->code));
    if (reply->status == 400 && !reply->region[0] && strcmp(reply->code, "AuthorizationHeaderMalformed") == 0)
        pgqrsi_s3_find_word(reply, "<Region>", reply->region, sizeof(reply->region));
}

/* A body that is not as long as was announced is no reply, nor is one that there was no room for. */
static int pgqrsi_s3_judge(pgqrs_http_reply *reply, int status)
{
    if (status > 0 && (reply->too_large || reply->no_memory)) status = 0;
    if (status > 0 && (status < 100 || status > 599)) status = 0;
    if (status > 0 && status != 304 && reply->length_known && reply->length != reply->body.size) status = 0;
    reply->status = status;
    if (status >= 300) pgqrsi_s3_find_code(reply);
    return status;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>trailer: what follows the SQLite file in the object
 *
 *     0 magic   8 version   12 flags   16 bytes of the SQLite file   24 birth: random, of this object's history
 *    32 seq: the commit this is   40 horizon   48 number of writers   52 place   56 writers   CRC-32 of all before
 *
 * A writer is a store that committed: its random id, the number of its last commit as it counts them, that commit's seq and
 * time. Commits above the horizon are those whose writers are all still listed. The place is a CRC-32 of endpoint and bucket,
 * where the flags hold. All numbers are little-endian.
 *
 * Version 2, of an object in parts (>>parts), or of one that was, has between the writers and the CRC-32:
 *
 *     0 page size   4 number of pages   8 sum of all pages   16 number of parts   20 of retired ones   24 of pages in the head   28 zero
 *    32 parts: seq 8, id 8, upto 8, pages 4, kind 4, CRC-32 of it 4, zero 4   retired: seq 8, id 8, since when 8
 *       page numbers from 0 on, ascending, 4 each   those pages
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_S3_TRAILER_VERSION 1
#define PGQRSI_S3_TRAILER_PARTS 2
#define PGQRSI_S3_TRAILER_HEAD 56
#define PGQRSI_S3_TRAILER_WRITER 32
#define PGQRSI_S3_TRAILER_LEAST (PGQRSI_S3_TRAILER_HEAD + 4)
#define PGQRSI_S3_TRAILER_MORE 32
#define PGQRSI_S3_TRAILER_PART 40
#define PGQRSI_S3_TRAILER_RETIRED 24
#define PGQRSI_S3_WRITERS_MAX 1024
#define PGQRSI_S3_WRITER_AGE_US INT64_C(120000000) /* longer than a call may take to find out what became of it */
#define PGQRSI_S3_PROVEN 1u                        /* flag: the store was seen to honour conditions */
#define PGQRSI_S3_ONE_FILE 2u                      /* flag: somebody wants it never to be in parts */
static const unsigned char pgqrsi_s3_magic[8] = {'p', 'g', 'q', 'r', 's', '-', 's', '3'};

typedef struct pgqrsi_s3_writer {
    uint64_t id;
    uint64_t counter;
    uint64_t seq;
    int64_t at_us;
} pgqrsi_s3_writer;

#define PGQRSI_S3_WHOLE 0u /* kinds of a part: a SQLite file */
#define PGQRSI_S3_PAGES 1u /* some of its pages */

typedef struct pgqrsi_s3_part {
    uint64_t seq;  /* the commit it was made for */
    uint64_t id;   /* random */
    uint64_t upto; /* whoever knows this commit has what is in it */
    uint32_t pages;
    uint32_t kind;
    uint32_t crc;
} pgqrsi_s3_part;

typedef struct pgqrsi_s3_retired {
    uint64_t seq;
    uint64_t id;
    int64_t at_us;
} pgqrsi_s3_retired;

typedef struct pgqrsi_s3_trailer {
    size_t image_size; /* of the SQLite file that the object is or has parts of */
    size_t file_size;  /* of the SQLite file that the object begins with */
    uint32_t version;
    uint32_t flags;
    uint64_t birth;
    uint64_t seq;
    uint64_t horizon;
    uint32_t writer_count;
    uint32_t place;
    uint32_t page_size;
    uint32_t page_count;
    uint64_t sum;
    uint32_t part_count; /* 0: all in one */
    uint32_t retired_count;
    uint32_t number_count;
    const unsigned char *writers; /* these are inside the bytes decoded */
    const unsigned char *parts;
    const unsigned char *retired;
    const unsigned char *numbers;
    const unsigned char *pages;
} pgqrsi_s3_trailer;

typedef enum pgqrsi_s3_shape {
    PGQRSI_S3_FINE = 0,
    PGQRSI_S3_NO_SQLITE = 1,
    PGQRSI_S3_FOREIGN = 2, /* something follows the SQLite file that is not ours */
    PGQRSI_S3_NEWER = 3,
    PGQRSI_S3_DAMAGED = 4,
    PGQRSI_S3_OLDER = 5, /* fine, but we know a newer version */
    PGQRSI_S3_PARTED = 6 /* fine, but a part of it is missing or damaged */
} pgqrsi_s3_shape;

static uint64_t pgqrsi_s3_get(const unsigned char *bytes, int size)
{
    uint64_t value = 0;
    while (size > 0)
        value = value << 8 | bytes[--size];
    return value;
}

static void pgqrsi_s3_put(unsigned char *bytes, int size, uint64_t value)
{
    for (; size > 0; size--, bytes++, value >>= 8)
        *bytes = (unsigned char)(value & 0xff);
}

/* The page size in the header of a SQLite file; 0: none that there is. */
static uint32_t pgqrsi_s3_page_size(const unsigned char *data)
{
    uint32_t page = (uint32_t)data[16] << 8 | data[17];
    if (page == 1) page = 65536;
    return page < 512 || (page & (page - 1)) != 0 ? 0 : page;
}

/* The size of the SQLite file at the start of the bytes, as its header tells; 0: there is none, or it is cut off. */
static size_t pgqrsi_s3_image_size(const unsigned char *data, size_t size)
{
    uint64_t page, pages;
    if (size < 512 || memcmp(data, "SQLite format 3", 16) != 0) return 0;
    page = pgqrsi_s3_page_size(data);
    if (page == 0) return 0;
    pages = pgqrsi_s3_big32(data + 28);
    /* Very old versions of SQLite do not keep the number of pages up to date. */
    if (pages == 0 || memcmp(data + 24, data + 92, 4) != 0) return size % page == 0 ? size : 0;
    return page * pages <= size ? (size_t)(page * pages) : 0;
}

static pgqrsi_s3_part pgqrsi_s3_part_at(const pgqrsi_s3_trailer *trailer, uint32_t index)
{
    const unsigned char *bytes = trailer->parts + (size_t)index * PGQRSI_S3_TRAILER_PART;
    pgqrsi_s3_part part;
    part.seq = pgqrsi_s3_get(bytes, 8);
    part.id = pgqrsi_s3_get(bytes + 8, 8);
    part.upto = pgqrsi_s3_get(bytes + 16, 8);
    part.pages = (uint32_t)pgqrsi_s3_get(bytes + 24, 4);
    part.kind = (uint32_t)pgqrsi_s3_get(bytes + 28, 4);
    part.crc = (uint32_t)pgqrsi_s3_get(bytes + 32, 4);
    return part;
}

static pgqrsi_s3_retired pgqrsi_s3_retired_at(const pgqrsi_s3_trailer *trailer, uint32_t index)
{
    const unsigned char *bytes = trailer->retired + (size_t)index * PGQRSI_S3_TRAILER_RETIRED;
    pgqrsi_s3_retired retired;
    retired.seq = pgqrsi_s3_get(bytes, 8);
    retired.id = pgqrsi_s3_get(bytes + 8, 8);
    retired.at_us = (int64_t)pgqrsi_s3_get(bytes + 16, 8);
    return retired;
}

static uint32_t pgqrsi_s3_number_at(const pgqrsi_s3_trailer *trailer, uint32_t index)
{
    return (uint32_t)pgqrsi_s3_get(trailer->numbers + (size_t)index * 4, 4);
}

/* Do the parts and the pages named make sense? The first part is a SQLite file, each one reaches further than the one before. */
static bool pgqrsi_s3_parts_fine(const pgqrsi_s3_trailer *trailer)
{
    uint64_t upto = 0;
    uint32_t i;
    for (i = 0; i < trailer->part_count; i++) {
        pgqrsi_s3_part part = pgqrsi_s3_part_at(trailer, i);
        if (part.kind != (i == 0 ? PGQRSI_S3_WHOLE : PGQRSI_S3_PAGES) || part.pages == 0 || part.upto <= upto ||
            part.upto > trailer->seq || part.upto == UINT64_MAX)
            return false;
        upto = part.upto;
    }
    for (i = 0; i < trailer->number_count; i++) {
        uint32_t number = pgqrsi_s3_number_at(trailer, i);
        if (number >= trailer->page_count || (i > 0 && number <= pgqrsi_s3_number_at(trailer, i - 1))) return false;
    }
    return true;
}

/* What version 2 has more: `size` bytes. False: it is not what it says. */
static bool pgqrsi_s3_decode_parts(const unsigned char *bytes, size_t size, pgqrsi_s3_trailer *out)
{
    uint64_t wanted = PGQRSI_S3_TRAILER_MORE;
    if (size < PGQRSI_S3_TRAILER_MORE) return false;
    out->page_size = (uint32_t)pgqrsi_s3_get(bytes, 4);
    out->page_count = (uint32_t)pgqrsi_s3_get(bytes + 4, 4);
    out->sum = pgqrsi_s3_get(bytes + 8, 8);
    out->part_count = (uint32_t)pgqrsi_s3_get(bytes + 16, 4);
    out->retired_count = (uint32_t)pgqrsi_s3_get(bytes + 20, 4);
    out->number_count = (uint32_t)pgqrsi_s3_get(bytes + 24, 4);
    wanted += (uint64_t)out->part_count * PGQRSI_S3_TRAILER_PART;
    wanted += (uint64_t)out->retired_count * PGQRSI_S3_TRAILER_RETIRED;
    wanted += (uint64_t)out->number_count * ((uint64_t)out->page_size + 4);
    if (wanted != size) return false;
    out->parts = bytes + PGQRSI_S3_TRAILER_MORE;
    out->retired = out->parts + (size_t)out->part_count * PGQRSI_S3_TRAILER_PART;
    out->numbers = out->retired + (size_t)out->retired_count * PGQRSI_S3_TRAILER_RETIRED;
    out->pages = out->numbers + (size_t)out->number_count * 4;
    if (out->part_count == 0) return out->page_size == 0 && out->page_count == 0 && out->number_count == 0;
    if (out->page_size < 512 || out->page_size > 65536 || (out->page_size & (out->page_size - 1)) != 0 ||
        out->page_count == 0 || (uint64_t)out->page_count * out->page_size > UINT32_MAX)
        return false;
    out->image_size = (size_t)out->page_count * out->page_size;
    return pgqrsi_s3_parts_fine(out);
}

/* Reads the trailer, and does not ask whether the bytes are what they were. Without a trailer it is a SQLite file that somebody
 * uploaded: commit 0 of a new history. */
static pgqrsi_s3_shape pgqrsi_s3_parse(const unsigned char *data, size_t size, pgqrsi_s3_trailer *out)
{
    const unsigned char *bytes;
    size_t rest;
    memset(out, 0, sizeof(*out));
    out->image_size = out->file_size = data ? pgqrsi_s3_image_size(data, size) : 0;
    if (out->image_size == 0) return PGQRSI_S3_NO_SQLITE;
    rest = size - out->file_size;
    if (rest == 0) return PGQRSI_S3_FINE;
    bytes = data + out->file_size;
    if (rest < PGQRSI_S3_TRAILER_LEAST || memcmp(bytes, pgqrsi_s3_magic, 8) != 0) return PGQRSI_S3_FOREIGN;
    out->version = (uint32_t)pgqrsi_s3_get(bytes + 8, 4);
    if (out->version > PGQRSI_S3_TRAILER_PARTS) return PGQRSI_S3_NEWER;
    out->flags = (uint32_t)pgqrsi_s3_get(bytes + 12, 4);
    out->birth = pgqrsi_s3_get(bytes + 24, 8);
    out->seq = pgqrsi_s3_get(bytes + 32, 8);
    out->horizon = pgqrsi_s3_get(bytes + 40, 8);
    out->writer_count = (uint32_t)pgqrsi_s3_get(bytes + 48, 4);
    out->place = (uint32_t)pgqrsi_s3_get(bytes + 52, 4);
    out->writers = bytes + PGQRSI_S3_TRAILER_HEAD;
    rest -= PGQRSI_S3_TRAILER_LEAST;
    if (pgqrsi_s3_get(bytes + 16, 8) != out->file_size || out->writer_count > rest / PGQRSI_S3_TRAILER_WRITER)
        return PGQRSI_S3_DAMAGED;
    rest -= (size_t)out->writer_count * PGQRSI_S3_TRAILER_WRITER;
    bytes = out->writers + (size_t)out->writer_count * PGQRSI_S3_TRAILER_WRITER;
    if (out->version < PGQRSI_S3_TRAILER_PARTS) return rest == 0 ? PGQRSI_S3_FINE : PGQRSI_S3_DAMAGED;
    return pgqrsi_s3_decode_parts(bytes, rest, out) ? PGQRSI_S3_FINE : PGQRSI_S3_DAMAGED;
}

static pgqrsi_s3_shape pgqrsi_s3_decode(const unsigned char *data, size_t size, pgqrsi_s3_trailer *out)
{
    pgqrsi_s3_shape shape = pgqrsi_s3_parse(data, size, out);
    if (shape != PGQRSI_S3_FINE || size == out->file_size) return shape;
    return pgqrsi_s3_crc(0, data, size - 4) == pgqrsi_s3_get(data + size - 4, 4) ? PGQRSI_S3_FINE : PGQRSI_S3_DAMAGED;
}

static pgqrsi_s3_writer pgqrsi_s3_writer_at(const pgqrsi_s3_trailer *trailer, uint32_t index)
{
    const unsigned char *bytes = trailer->writers + (size_t)index * PGQRSI_S3_TRAILER_WRITER;
    pgqrsi_s3_writer writer;
    writer.id = pgqrsi_s3_get(bytes, 8);
    writer.counter = pgqrsi_s3_get(bytes + 8, 8);
    writer.seq = pgqrsi_s3_get(bytes + 16, 8);
    writer.at_us = (int64_t)pgqrsi_s3_get(bytes + 24, 8);
    return writer;
}

static void pgqrsi_s3_put_writer(unsigned char *bytes, const pgqrsi_s3_writer *writer)
{
    pgqrsi_s3_put(bytes, 8, writer->id);
    pgqrsi_s3_put(bytes + 8, 8, writer->counter);
    pgqrsi_s3_put(bytes + 16, 8, writer->seq);
    pgqrsi_s3_put(bytes + 24, 8, (uint64_t)writer->at_us);
}

/* The counter of the last commit of this writer that the trailer knows; 0: none. */
static uint64_t pgqrsi_s3_last_commit(const pgqrsi_s3_trailer *trailer, uint64_t id)
{
    uint32_t i;
    for (i = 0; i < trailer->writer_count; i++) {
        pgqrsi_s3_writer writer = pgqrsi_s3_writer_at(trailer, i);
        if (writer.id == id) return writer.counter;
    }
    return 0;
}

/* Room that the trailer after `old` needs at most. */
static size_t pgqrsi_s3_trailer_room(const pgqrsi_s3_trailer *old)
{
    return PGQRSI_S3_TRAILER_LEAST + ((size_t)old->writer_count + 1) * PGQRSI_S3_TRAILER_WRITER;
}

/* Appends all of the trailer of the commit `me` but what version 2 has more, and the CRC-32. Writers that committed long ago are left
 * out; of too many, those that committed first. */
static void pgqrsi_s3_append_writers(pgqrsi_s3_bytes *body, uint32_t version, const pgqrsi_s3_trailer *old,
                                     uint64_t birth, uint32_t flags, uint32_t place, const pgqrsi_s3_writer *me)
{
    unsigned char *head = body->data + body->size;
    unsigned char *next = head + PGQRSI_S3_TRAILER_HEAD;
    uint64_t horizon = old->horizon;
    uint32_t i, count = 1;
    memset(head, 0, PGQRSI_S3_TRAILER_HEAD);
    for (i = 0; i < old->writer_count; i++) {
        pgqrsi_s3_writer writer = pgqrsi_s3_writer_at(old, i);
        /* They stand in the order of their commits: each commit puts its own at the end. */
        bool surplus = old->writer_count - i >= PGQRSI_S3_WRITERS_MAX;
        if (writer.id == me->id) continue;
        if (surplus || writer.at_us < me->at_us - PGQRSI_S3_WRITER_AGE_US) {
            if (writer.seq > horizon) horizon = writer.seq;
            continue;
        }
        pgqrsi_s3_put_writer(next, &writer);
        next += PGQRSI_S3_TRAILER_WRITER;
        count++;
    }
    pgqrsi_s3_put_writer(next, me);
    next += PGQRSI_S3_TRAILER_WRITER;
    memcpy(head, pgqrsi_s3_magic, 8);
    pgqrsi_s3_put(head + 8, 4, version);
    pgqrsi_s3_put(head + 12, 4, flags);
    pgqrsi_s3_put(head + 16, 8, body->size);
    pgqrsi_s3_put(head + 24, 8, birth);
    pgqrsi_s3_put(head + 32, 8, me->seq);
    pgqrsi_s3_put(head + 40, 8, horizon);
    pgqrsi_s3_put(head + 48, 4, count);
    pgqrsi_s3_put(head + 52, 4, place);
    body->size = (size_t)(next - body->data);
}

static void pgqrsi_s3_append_crc(pgqrsi_s3_bytes *body)
{
    pgqrsi_s3_put(body->data + body->size, 4, pgqrsi_s3_crc(0, body->data, body->size));
    body->size += 4;
}

/* Appends the trailer of the commit `me` to body, which holds the image and has the room. */
static void pgqrsi_s3_append_trailer(pgqrsi_s3_bytes *body, const pgqrsi_s3_trailer *old, uint64_t birth,
                                     uint32_t flags, uint32_t place, const pgqrsi_s3_writer *me)
{
    pgqrsi_s3_append_writers(body, PGQRSI_S3_TRAILER_VERSION, old, birth, flags, place, me);
    pgqrsi_s3_append_crc(body);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>parts: a large object is a small head and immutable parts
 *
 * A part is a SQLite file as it is, or some pages of one:
 *
 *     0 magic   8 version   12 page size   16 birth   24 seq   32 id   40 number of pages   44 zero
 *    48 page numbers from 0 on, ascending, 4 each   those pages   CRC-32 of all before
 *
 * Laid over each other in their order, and the pages in the head last, they are the SQLite file; what is beyond its number of pages is
 * dropped. Which pages a part has follows from `born`, which every reader keeps: for each page the upto of the newest part it is in.
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_S3_PART_VERSION 1
#define PGQRSI_S3_PART_HEAD 48
#define PGQRSI_S3_PART_NAME 48      /* room for "0123456789abcdef-0123456789abcdef.sqlite" */
#define PGQRSI_S3_PARTS_MAX 64      /* then they are made one */
#define PGQRSI_S3_RETIRED_MAX 256   /* older ones are forgotten, and stay */
#define PGQRSI_S3_UNBORN UINT64_MAX /* a page that is in the head alone */
#define PGQRSI_S3_HEAD_PAGES 10     /* as many are always fine in a head */
#define PGQRSI_S3_HEAD_BYTES 393216 /* of pages in a head: more take longer than another request */
#define PGQRSI_S3_GRACE_US                                                                                             \
    INT64_C(10000000) /* a part that no head names any more is kept for those who read an older one */
static const unsigned char pgqrsi_s3_part_magic[8] = {'p', 'g', 'q', 'r', 's', '-', 'p', 't'};

static bool pgqrsi_s3_in_parts(const pgqrsi_s3_trailer *trailer)
{
    return trailer->part_count > 0;
}

static void pgqrsi_s3_part_name(uint64_t seq, uint64_t id, char out[PGQRSI_S3_PART_NAME])
{
    static const char digits[] = "0123456789abcdef";
    int i;
    for (i = 15; i >= 0; i--, seq >>= 4, id >>= 4) {
        out[i] = digits[seq & 15];
        out[17 + i] = digits[id & 15];
    }
    out[16] = '-';
    memcpy(out + 33, ".sqlite", 8);
}

/* What a page adds to the sum of all: it depends on where the page is, and sums of other pages do not cancel it. */
static uint64_t pgqrsi_s3_page_sum(uint32_t number, const unsigned char *page, size_t size)
{
    uint64_t z = (uint64_t)number << 32 | pgqrsi_s3_crc(0, page, size);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t pgqrsi_s3_image_sum(const unsigned char *image, uint32_t page_size, uint32_t from, uint32_t to)
{
    uint64_t sum = 0;
    for (; from < to; from++)
        sum += pgqrsi_s3_page_sum(from, image + (size_t)from * page_size, page_size);
    return sum;
}

static size_t pgqrsi_s3_part_size(const pgqrsi_s3_part *part, uint32_t page_size)
{
    if (part->kind == PGQRSI_S3_WHOLE) return (size_t)part->pages * page_size;
    return PGQRSI_S3_PART_HEAD + (size_t)part->pages * ((size_t)page_size + 4) + 4;
}

/* Is this the part that the head means? */
static bool pgqrsi_s3_part_fine(const unsigned char *data, size_t size, const pgqrsi_s3_part *part, uint64_t birth,
                                uint32_t page_size)
{
    uint32_t i, before = 0;
    if ((uint64_t)part->pages * page_size > UINT32_MAX || size != pgqrsi_s3_part_size(part, page_size)) return false;
    if (part->kind == PGQRSI_S3_WHOLE) return pgqrsi_s3_crc(0, data, size) == part->crc;
    if (memcmp(data, pgqrsi_s3_part_magic, 8) != 0 || pgqrsi_s3_get(data + 8, 4) != PGQRSI_S3_PART_VERSION ||
        pgqrsi_s3_get(data + 12, 4) != page_size || pgqrsi_s3_get(data + 16, 8) != birth ||
        pgqrsi_s3_get(data + 24, 8) != part->seq || pgqrsi_s3_get(data + 32, 8) != part->id ||
        pgqrsi_s3_get(data + 40, 4) != part->pages || pgqrsi_s3_get(data + size - 4, 4) != part->crc ||
        pgqrsi_s3_crc(0, data, size - 4) != part->crc)
        return false;
    for (i = 0; i < part->pages; i++) {
        uint32_t number = (uint32_t)pgqrsi_s3_get(data + PGQRSI_S3_PART_HEAD + (size_t)i * 4, 4);
        if (i > 0 && number <= before) return false;
        before = number;
    }
    return true;
}

/* Makes a part of kind PAGES of the pages whose flag is set; sets its crc. `out` has the room. */
static void pgqrsi_s3_encode_part(pgqrsi_s3_bytes *out, pgqrsi_s3_part *part, uint64_t birth,
                                  const unsigned char *image, uint32_t page_size, uint32_t page_count,
                                  const unsigned char *flags)
{
    unsigned char *numbers = out->data + PGQRSI_S3_PART_HEAD, *pages = numbers + (size_t)part->pages * 4;
    uint32_t i;
    memset(out->data, 0, PGQRSI_S3_PART_HEAD);
    memcpy(out->data, pgqrsi_s3_part_magic, 8);
    pgqrsi_s3_put(out->data + 8, 4, PGQRSI_S3_PART_VERSION);
    pgqrsi_s3_put(out->data + 12, 4, page_size);
    pgqrsi_s3_put(out->data + 16, 8, birth);
    pgqrsi_s3_put(out->data + 24, 8, part->seq);
    pgqrsi_s3_put(out->data + 32, 8, part->id);
    pgqrsi_s3_put(out->data + 40, 4, part->pages);
    for (i = 0; i < page_count; i++) {
        if (!flags[i]) continue;
        pgqrsi_s3_put(numbers, 4, i);
        memcpy(pages, image + (size_t)i * page_size, page_size);
        numbers += 4;
        pages += page_size;
    }
    out->size = (size_t)(pages - out->data);
    part->crc = pgqrsi_s3_crc(0, out->data, out->size);
    pgqrsi_s3_append_crc(out);
}

/* A version of the object. */
typedef struct pgqrsi_s3_version {
    pgqrsi_s3_bytes base; /* begins with the SQLite file; of an object that is all in one, it is the object */
    pgqrsi_s3_bytes head; /* of one in parts: the object */
    pgqrsi_s3_bytes born; /* of one in parts: 8 bytes for each page */
    pgqrsi_s3_trailer trailer;
    uint64_t sum; /* while it is put together: of the pages that are there */
    uint32_t missing;
} pgqrsi_s3_version;

static uint64_t pgqrsi_s3_born(const pgqrsi_s3_bytes *born, uint32_t number)
{
    return pgqrsi_s3_get(born->data + (size_t)number * 8, 8);
}

static void pgqrsi_s3_set_born(pgqrsi_s3_bytes *born, uint32_t number, uint64_t upto)
{
    pgqrsi_s3_put(born->data + (size_t)number * 8, 8, upto);
}

/* Puts a page in its place. */
static void pgqrsi_s3_lay_page(pgqrsi_s3_version *version, uint32_t number, const unsigned char *page, uint64_t upto)
{
    size_t size = version->trailer.page_size;
    unsigned char *place;
    uint64_t before;
    if (number >= version->trailer.page_count) return;
    place = version->base.data + (size_t)number * size;
    before = pgqrsi_s3_born(&version->born, number);
    if (before == 0)
        version->missing--;
    else
        version->sum -= pgqrsi_s3_page_sum(number, place, size);
    memcpy(place, page, size);
    version->sum += pgqrsi_s3_page_sum(number, place, size);
    if (before == 0 || upto != PGQRSI_S3_UNBORN) pgqrsi_s3_set_born(&version->born, number, upto);
}

/* Lays a part, which is fine, over what is there. */
static void pgqrsi_s3_lay_part(pgqrsi_s3_version *version, const pgqrsi_s3_part *part, const unsigned char *data)
{
    size_t size = version->trailer.page_size;
    uint32_t i;
    for (i = 0; i < part->pages && part->kind == PGQRSI_S3_WHOLE; i++)
        pgqrsi_s3_lay_page(version, i, data + (size_t)i * size, part->upto);
    for (i = 0; i < part->pages && part->kind == PGQRSI_S3_PAGES; i++) {
        const unsigned char *numbers = data + PGQRSI_S3_PART_HEAD;
        pgqrsi_s3_lay_page(version, (uint32_t)pgqrsi_s3_get(numbers + (size_t)i * 4, 4),
                           numbers + (size_t)part->pages * 4 + (size_t)i * size, part->upto);
    }
}

/* At last the pages in the head. False: what is there now is not what the writer of the head had. */
static bool pgqrsi_s3_lay_head(pgqrsi_s3_version *version)
{
    const pgqrsi_s3_trailer *trailer = &version->trailer;
    uint32_t i;
    for (i = 0; i < trailer->number_count; i++)
        pgqrsi_s3_lay_page(version, pgqrsi_s3_number_at(trailer, i), trailer->pages + (size_t)i * trailer->page_size,
                           PGQRSI_S3_UNBORN);
    return version->missing == 0 && version->sum == trailer->sum &&
           pgqrsi_s3_image_size(version->base.data, trailer->image_size) == trailer->image_size;
}

/* Room for the pages, and those of `known`, an older version in parts; NULL: none. False: no memory. */
static bool pgqrsi_s3_lay_begin(pgqrs_store *store, pgqrsi_s3_version *version, const pgqrsi_s3_version *known)
{
    uint32_t pages = version->trailer.page_count, both = 0;
    if (!pgqrsi_s3_reserve(store, &version->base, version->trailer.image_size) ||
        !pgqrsi_s3_reserve(store, &version->born, (size_t)pages * 8))
        return false;
    version->base.size = version->trailer.image_size;
    version->born.size = (size_t)pages * 8;
    version->sum = 0;
    if (known) {
        uint32_t size = version->trailer.page_size, old = known->trailer.page_count;
        both = old < pages ? old : pages;
        memcpy(version->base.data, known->base.data, (size_t)both * size);
        memcpy(version->born.data, known->born.data, (size_t)both * 8);
        version->sum = known->trailer.sum - pgqrsi_s3_image_sum(known->base.data, size, both, old);
    }
    version->missing = pages - both;
    memset(version->born.data + (size_t)both * 8, 0, (size_t)(pages - both) * 8);
    return true;
}

/* With `more` pages in another part: do the newer ones have so much that the whole file is to be written anew? */
static bool pgqrsi_s3_is_whole_due(const pgqrsi_s3_part *parts, uint32_t count, uint32_t more, uint32_t page_count)
{
    uint64_t newer = more;
    uint32_t i;
    for (i = 1; i < count; i++)
        newer += parts[i].pages;
    return newer * 2 >= page_count || count >= PGQRSI_S3_PARTS_MAX - 2;
}

/* The parts from this one on are to be made one, since together they have become larger than the one before them; part_count: none is. So
 * a page is written anew about as often as its part may grow threefold. 0: all of them, which only `may_whole` allows. */
static uint32_t pgqrsi_s3_choose_merge(const pgqrsi_s3_part *parts, uint32_t count, uint32_t page_count, bool may_whole)
{
    uint64_t newer = 0;
    uint32_t i, from = count;
    for (i = count; i-- > 1;) {
        if (count - i >= 4 && (uint64_t)parts[i].pages * 2 <= newer) from = i;
        newer += parts[i].pages;
    }
    return may_whole && pgqrsi_s3_is_whole_due(parts, count, 0, page_count) ? 0 : from;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>store: one per pgqrs_open. The object lives in memory, as bytes and as the database that the SQLite backend works on.
 * --------------------------------------------------------------------------------------------------------------- */

typedef enum pgqrsi_s3_presence {
    PGQRSI_S3_UNKNOWN = 0,
    PGQRSI_S3_ABSENT = 1, /* it was not there, and we know nothing of an earlier one */
    PGQRSI_S3_PRESENT = 2
} pgqrsi_s3_presence;

/* A commit, and the one that it follows. */
typedef struct pgqrsi_s3_mark {
    uint64_t birth;
    uint64_t seq;
    uint64_t id; /* its last writer, and what that counted */
    uint64_t counter;
} pgqrsi_s3_mark;

#define PGQRSI_S3_STAGED_MAX 64

/* A commit to be: the image, and the writers who have a part in it. */
typedef struct pgqrsi_s3_staged {
    pgqrsi_s3_mark after;
    int64_t until_us; /* monotonic: then none of its writers waits any more */
    uint32_t era;     /* of the monotonic clock: see pgqrsi_s3_era */
    uint32_t count;
    uint64_t ids[PGQRSI_S3_STAGED_MAX], counters[PGQRSI_S3_STAGED_MAX];
    pgqrsi_s3_bytes image;
} pgqrsi_s3_staged;

typedef struct pgqrsi_s3 {
    pgqrs_store *store;
    void *inner; /* of the SQLite backend, on db */
    sqlite3 *db; /* in memory: the base, and what a call has just changed; in local mode only for a moment */
    bool local;
    pgqrs_store_desc local_settings;
    int64_t file_until_us; /* how long a connection of ours to the local file waits for it */
    const char *local_path;
    const char *pending_path;
    const char *arriving_path; /* local mode: the base of a snapshot that is under way */

    /* settings: the texts share one result object */
    void *owned;
    pgqrs_http http;
    const char *name; /* the DSN, for messages */
    const char *bucket;
    const char *url;
    uint32_t place;   /* a CRC-32 of the url up to the key */
    const char *path; /* of the url, encoded */
    const char *host;
    const char *region;
    const char *access_key;
    const char *secret_key;
    const char *session_token; /* NULL: none */
    int64_t request_timeout_ms;
    int64_t deadline_us;
    int64_t heartbeat_us;
    int64_t idle_heartbeat_us; /* 0: a worker that holds nothing is like any other */
    int64_t idle_us;
    int64_t patience_us;
    size_t most;
    int64_t split; /* negative: never; 0: as the object says */

    /* the version of the object that we know: see pgqrsi_s3_version */
    pgqrsi_s3_presence presence;
    pgqrsi_s3_bytes base;
    pgqrsi_s3_bytes head;
    pgqrsi_s3_bytes born;
    pgqrsi_s3_trailer trailer;
    char etag[PGQRSI_S3_ETAG_MAX];
    bool bare_etag;          /* this store compares ETags without their quotes */
    bool loaded;             /* db is base */
    bool unsure;             /* we do not know how our last PUT ended: look before anything else */
    bool proven;             /* we saw that the store honours conditions */
    int64_t verified_at_us;  /* monotonic: when base was the newest; 0: never */
    uint32_t change_counter; /* of base */

    /* parts */
    pgqrsi_s3_bytes cover; /* the SQLite file that a head begins with, when the first part is this one: */
    uint64_t cover_of;
    uint64_t tidied[16]; /* ids of parts that we deleted */
    uint32_t tidied_count;
    int64_t parts_pause_us; /* monotonic: until then no part is made, */
    int64_t whole_pause_us; /* no new file is made of them all, */
    int64_t tidy_pause_us;  /* none is deleted */
    bool lost;              /* the last commit was: be quick */

    /* who we are to other writers */
    uint64_t machine; /* of this cache directory: the first bits of `writer` */
    uint64_t writer;
    uint64_t counter;
    uint64_t
        doubt_counter;  /* of the first try of this call that may still be committed although we go again; 0: none */
    uint64_t doubt_seq; /* and the last commit that could be one of those tries */

    /* the common clock: the store's, carried on by our monotonic one */
    int64_t offset_us;

    /* cache directory: the paths share `owned` too */
    const char *image_path;
    const char *temporary_path;
    char *directory;
    const char *shared_path; /* a directory: what is staged, and what is in flight */
    int line_fd;             /* whoever has it is the next to get lock_fd */
    int lock_fd;
    int commit_fd; /* whoever has it is the one who sends commits */
    int wake_fd;
    int read_error; /* errno, when catch_up could not read the file; 0: it is not there, or what is in it was read */
    bool saved;     /* the last version that was to be written there is */
    bool locked;
    bool committing;    /* has commit_fd */
    bool unpublished;   /* base is newer than what the cache has */
    pgqrs_result cause; /* why the last try of a commit was refused, also when the outcome of another try is unknown */
    bool apart;         /* this call does without the shared files, which cannot be read */
    int64_t flight_us;  /* the time of the flight's file, while we and nobody else are sending it; otherwise 0 */
    bool on_tip;        /* db is on top of what is not base: the tip */
    pgqrsi_s3_staged tip; /* its image; the next stage follows `after`, and has these writers before us */

    bool spanning;
    int64_t waiting_run_id; /* somebody waits for its end; 0: nobody */
    int64_t quiet_us;       /* whoever waits asks the store no sooner than this after the last time */
    int64_t pace_us;  /* between commits, when the store says that we are too fast */
    int64_t put_at_us;
    bool joined;       /* nobody on this machine had committed for long before our last commit */
    int64_t round_us;  /* the last exchange took this long */
    int64_t landed_us; /* by this machine's wall clock: since when base has been known here */
} pgqrsi_s3;

static int64_t pgqrsi_s3_wall_us(void)
{
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t pgqrsi_s3_clock(const pgqrsi_s3 *self)
{
    return pgqrs_backend_monotonic() + self->offset_us;
}

/* Never the random hook's: what makes writers distinct must not repeat, whatever a program does for its tests. */
static uint64_t pgqrsi_s3_unique(void)
{
    static unsigned times; /* two threads may count the same, on different stacks */
    uint64_t seed[3] = {0, 0, 0};
    unsigned char digest[32];
    int descriptor = open("/dev/urandom", O_RDONLY);
    uint64_t value = 0;
    if (descriptor >= 0) {
        if (read(descriptor, &value, sizeof(value)) != (ssize_t)sizeof(value)) value = 0;
        close(descriptor);
    }
    seed[0] = (uint64_t)pgqrsi_s3_wall_us() ^ (uint64_t)getpid() << 40;
    seed[1] = (uint64_t)pgqrs_backend_monotonic() ^ (uint64_t)(uintptr_t)&seed[0];
    seed[2] = PGQRSI_FLAG_GET(times) + 1u;
    PGQRSI_FLAG_SET(times, (unsigned)seed[2]);
    pgqrsi_s3_sha_of(seed, sizeof(seed), digest);
    if (value == 0) value = pgqrsi_s3_get(digest, 8);
    return value ? value : 1;
}

static pgqrs_result pgqrsi_s3_no_memory(pgqrsi_s3 *self)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_NO_MEMORY, 0, NULL, "no memory for %s", self->name);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>setup: the DSN, the settings, the environment
 * --------------------------------------------------------------------------------------------------------------- */

static const char *pgqrsi_s3_environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static const char *pgqrsi_s3_first(const char *given, const char *variable, const char *other_variable)
{
    const char *value = given && *given ? given : pgqrsi_s3_environment(variable);
    return value || !other_variable ? value : pgqrsi_s3_environment(other_variable);
}

static bool pgqrsi_s3_printable(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text <= 0x20 || (unsigned char)*text > 0x7e) return false;
    return true;
}

static pgqrs_result pgqrsi_s3_bad_dsn(pgqrsi_s3 *self, const char *what)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_DSN, 0, NULL,
                              "%s; write s3://bucket/key.sqlite, credentials and endpoint go into pgqrs_s3_desc or the "
                              "environment",
                              what);
}

/* A segment that a client or a server might take for a direction. */
static bool pgqrsi_s3_odd_key(const char *key)
{
    const char *end;
    for (;; key = end + 1) {
        size_t size;
        end = strchr(key, '/');
        size = end ? (size_t)(end - key) : strlen(key);
        if (size == 0 || (size <= 2 && memcmp(key, "..", size) == 0)) return true;
        if (!end) return false;
    }
}

/* *bucket_size, *key: where they are in the DSN. */
static pgqrs_result pgqrsi_s3_read_dsn(pgqrsi_s3 *self, const char *dsn, size_t *bucket_size, const char **key)
{
    const char *bucket = dsn + 5;
    size_t i;
    if (strncmp(dsn, "s3://", 5) != 0) return pgqrsi_s3_bad_dsn(self, "the DSN is not of the form s3://bucket/key");
    *bucket_size = strcspn(bucket, "/");
    for (i = 0; i < *bucket_size; i++)
        if (!pgqrsi_s3_plain_char(bucket[i]) || bucket[i] == '~')
            return pgqrsi_s3_bad_dsn(self, "the DSN's bucket has a character that no bucket has");
    if (*bucket_size == 0) return pgqrsi_s3_bad_dsn(self, "the DSN has a missing bucket");
    if (*bucket_size > 255) return pgqrsi_s3_bad_dsn(self, "the DSN's bucket is longer than 255 bytes");
    *key = bucket + *bucket_size;
    if (**key == '/') ++*key;
    if (**key == '\0') return pgqrsi_s3_bad_dsn(self, "the DSN has a missing object key");
    if (strlen(*key) > 1024) return pgqrsi_s3_bad_dsn(self, "the DSN's object key is longer than 1024 bytes");
    if (strchr(*key, '?') || strchr(*key, '#'))
        return pgqrsi_s3_bad_dsn(self, "options after '?' or '#' are not supported in an S3 DSN");
    if (pgqrsi_s3_odd_key(*key))
        return pgqrsi_s3_bad_dsn(self, "the DSN's object key has an empty segment, or one that is . or ..");
    return PGQRS_OK;
}

static const char *pgqrsi_s3_own(pgqrsi_s3 *self, const char *text)
{
    return pgqrs_backend_result_text(self->owned, text, -1);
}

static pgqrs_result pgqrsi_s3_read_credentials(pgqrsi_s3 *self, const pgqrs_s3_desc *desc)
{
    bool given = desc->access_key && *desc->access_key;
    const char *key = given ? desc->access_key : pgqrsi_s3_environment("AWS_ACCESS_KEY_ID");
    const char *secret = given ? desc->secret_key : pgqrsi_s3_environment("AWS_SECRET_ACCESS_KEY");
    const char *token = given ? desc->session_token : pgqrsi_s3_environment("AWS_SESSION_TOKEN");
    const char *region = pgqrsi_s3_first(desc->region, "AWS_REGION", "AWS_DEFAULT_REGION");
    if (!key || !secret || !*secret)
        return pgqrs_backend_fail(
            self->store, PGQRS_ERR_BAD_CONFIG, 0, NULL,
            "%s: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or access_key and "
            "secret_key of pgqrs_s3_desc",
            self->name);
    if (!region) region = "us-east-1";
    if (!pgqrsi_s3_printable(key) || !pgqrsi_s3_printable(secret) || !pgqrsi_s3_printable(region) ||
        (token && !pgqrsi_s3_printable(token)) || strlen(key) >= PGQRSI_S3_NAME_MAX || strlen(secret) > 250 ||
        strlen(region) >= PGQRSI_S3_NAME_MAX)
        return pgqrs_backend_fail(
            self->store, PGQRS_ERR_BAD_CONFIG, 0, NULL,
            "%s: the access key, the secret key, the session token or the region is too long, or has "
            "white space or a line break in it",
            self->name);
    self->access_key = pgqrsi_s3_own(self, key);
    self->secret_key = pgqrsi_s3_own(self, secret);
    self->session_token = token && *token ? pgqrsi_s3_own(self, token) : NULL;
    self->region = pgqrsi_s3_own(self, region);
    if (!self->access_key || !self->secret_key || !self->region || (token && *token && !self->session_token))
        return pgqrsi_s3_no_memory(self);
    return PGQRS_OK;
}

/* http://host:port or https://host, maybe with a path; no slash at its end, nothing else. */
static bool pgqrsi_s3_endpoint_fine(const char *endpoint)
{
    const char *host;
    if (strncmp(endpoint, "http://", 7) == 0)
        host = endpoint + 7;
    else if (strncmp(endpoint, "https://", 8) == 0)
        host = endpoint + 8;
    else
        return false;
    return *host && *host != '/' && pgqrsi_s3_printable(host) && !strpbrk(host, "?#@\\\"<>") && strlen(host) < 256;
}

static pgqrs_result pgqrsi_s3_make_url(pgqrsi_s3 *self, const char *endpoint, const char *key)
{
    size_t size = strlen(endpoint), room = size + strlen(self->bucket) + 3 * strlen(key) + 4;
    char *url = (char *)pgqrs_backend_result_alloc(self->owned, room);
    char *host;
    const char *path;
    size_t host_size;
    if (!url) return pgqrsi_s3_no_memory(self);
    while (size > 0 && endpoint[size - 1] == '/')
        size--;
    snprintf(url, room, "%.*s/%s/", (int)size, endpoint, self->bucket);
    self->place = pgqrsi_s3_crc(0, (const unsigned char *)url, strlen(url));
    pgqrsi_s3_encode(key, url + strlen(url));
    path = strchr(strstr(url, "://") + 3, '/');
    host_size = (size_t)(path - (strstr(url, "://") + 3));
    host = pgqrs_backend_result_text(self->owned, path - host_size, (int64_t)host_size);
    if (!host) return pgqrsi_s3_no_memory(self);
    self->url = url;
    self->path = path;
    self->host = host;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_s3_read_endpoint(pgqrsi_s3 *self, const pgqrs_s3_desc *desc, const char *key)
{
    char standard[PGQRSI_S3_NAME_MAX + 40];
    const char *endpoint = pgqrsi_s3_first(desc->endpoint, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL");
    snprintf(standard, sizeof(standard), "https://s3.%s.amazonaws.com", self->region);
    if (!endpoint) endpoint = standard;
    if (!pgqrsi_s3_endpoint_fine(endpoint))
        return pgqrs_backend_fail(
            self->store, PGQRS_ERR_BAD_CONFIG, 0, NULL,
            "%s: the endpoint is not of the form https://host, http://host:port (pgqrs_s3_desc.endpoint, "
            "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL); it takes no user, password or options",
            self->name);
    return pgqrsi_s3_make_url(self, endpoint, key);
}

static int64_t pgqrsi_s3_default(int64_t given, int64_t standard)
{
    return given ? given : standard;
}

static pgqrs_result pgqrsi_s3_read_numbers(pgqrsi_s3 *self, const pgqrs_s3_desc *desc)
{
    const int64_t most_ms = INT64_C(86400000);
    if (desc->request_timeout_ms < 0 || desc->request_timeout_ms > most_ms || desc->deadline_ms < 0 ||
        desc->deadline_ms > most_ms || desc->heartbeat_ms < -1 || desc->heartbeat_ms > most_ms ||
        desc->idle_heartbeat_ms < -1 || desc->idle_heartbeat_ms > most_ms || desc->idle_ms < 0 ||
        desc->idle_ms > most_ms || desc->max_object_bytes < 0 || desc->max_object_bytes > INT64_C(1) << 30 ||
        desc->split_bytes < -1)
        return pgqrs_backend_fail(
            self->store, PGQRS_ERR_BAD_CONFIG, 0, NULL,
            "%s: a time in pgqrs_s3_desc is negative or longer than a day, max_object_bytes is not "
            "between 0 and 1 GiB, or split_bytes is less than -1",
            self->name);
    self->local = desc->mode == PGQRS_S3_LOCAL;
    self->request_timeout_ms = pgqrsi_s3_default(desc->request_timeout_ms, 10000);
    self->deadline_us = pgqrsi_s3_default(desc->deadline_ms, 30000) * 1000;
    self->heartbeat_us =
        desc->heartbeat_ms < 0 || self->local ? 0 : pgqrsi_s3_default(desc->heartbeat_ms, 20000) * 1000;
    if (self->heartbeat_us && desc->idle_heartbeat_ms >= 0)
        self->idle_heartbeat_us = pgqrsi_s3_default(desc->idle_heartbeat_ms, 1800000) * 1000;
    self->idle_us = pgqrsi_s3_default(desc->idle_ms, 2000) * 1000;
    self->most = (size_t)pgqrsi_s3_default(desc->max_object_bytes, INT64_C(268435456));
    self->split = desc->split_bytes;
    return PGQRS_OK;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>cache: the last known version of the object in a file, for other stores and for the next start
 *
 * The file is the object's bytes, then url, ETag, and a tail: 0 magic   8 bytes of the object   16 bytes of the url
 * 20 bytes of the ETag   24 seq   32 flags   36 CRC-32 of url, ETag and tail. It is replaced by rename, and nobody waits for the disk:
 * what a power failure leaves of it shows in the checksums.
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_S3_TAIL 40
#define PGQRSI_S3_TAIL_BARE 1u   /* bare_etag */
#define PGQRSI_S3_TAIL_PROVEN 2u /* proven */
#define PGQRSI_S3_TAIL_PARTS 4u  /* the object is in parts: see pgqrsi_s3_unpack */
#define PGQRSI_S3_URL_MAX 4352   /* as long as one can be: endpoint, bucket, three times the key, name of a part */
static const unsigned char pgqrsi_s3_tail_magic[8] = {'p', 'g', 'q', 'r', 's', '-', 'c', '1'};

static void pgqrsi_s3_close_file(int *descriptor)
{
    if (*descriptor >= 0) close(*descriptor);
    *descriptor = -1;
}

static int pgqrsi_s3_open_file(const char *path, int flags)
{
    int descriptor;
    do {
        descriptor = open(path, flags, 0600);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor >= 0) fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    return descriptor;
}

/* False: errno says why, 0: the file is not that long. */
static bool pgqrsi_s3_read_at(int descriptor, void *out, size_t size, off_t at)
{
    unsigned char *bytes = (unsigned char *)out;
    while (size > 0) {
        ssize_t got = pread(descriptor, bytes, size, at);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = 0;
        if (got <= 0) return false;
        bytes += got;
        size -= (size_t)got;
        at += got;
    }
    return true;
}

static bool pgqrsi_s3_write_all(int descriptor, const void *data, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)data;
    while (size > 0) {
        ssize_t wrote = write(descriptor, bytes, size);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return false;
        bytes += wrote;
        size -= (size_t)wrote;
    }
    return true;
}

/* A lock that is only as good as a server's would let hosts share a directory that they see at different times. */
static bool pgqrsi_s3_is_network(uint64_t type)
{
    return type == 0x6969u || type == 0x517bu || type == 0xff534d42u || type == 0xfe534d42u;
}

static pgqrs_result pgqrsi_s3_bad_cache(pgqrsi_s3 *self, const char *path, const char *why)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_CONFIG, errno, NULL,
                              "the cache directory %s cannot be used: %s; name another one in pgqrs_s3_desc.cache_dir",
                              path, why);
}

static bool pgqrsi_s3_make_directories(char *path)
{
    char *slash;
    for (slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST && access(path, X_OK) != 0) {
            *slash = '/';
            return false;
        }
        *slash = '/';
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static pgqrs_result pgqrsi_s3_check_directory(pgqrsi_s3 *self, const char *path)
{
#if defined(__linux__)
    struct statfs system;
    if (statfs(path, &system) == 0 && pgqrsi_s3_is_network((uint64_t)system.f_type & 0xffffffffu)) {
        errno = 0;
        return pgqrsi_s3_bad_cache(self, path, "it is on a network file system");
    }
#endif
    if (access(path, R_OK | W_OK | X_OK) != 0) return pgqrsi_s3_bad_cache(self, path, strerror(errno));
    return PGQRS_OK;
}

static const char *pgqrsi_s3_path_of(pgqrsi_s3 *self, const char *name)
{
    size_t room = strlen(self->directory) + strlen(name) + 2;
    char *path = (char *)pgqrs_backend_result_alloc(self->owned, room);
    if (path) snprintf(path, room, "%s/%s", self->directory, name);
    return path;
}

/* One directory per object: bucket, and a digest of the url. */
static pgqrs_result pgqrsi_s3_name_cache(pgqrsi_s3 *self, const char *given)
{
    const char *base = given && *given ? given : pgqrsi_s3_environment("XDG_CACHE_HOME");
    const char *between = given && *given ? "" : "/pgqrs";
    unsigned char digest[32];
    char hex[65];
    size_t room;
    if (!base && (base = pgqrsi_s3_environment("HOME")) != NULL) between = "/.cache/pgqrs";
    if (!base)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_CONFIG, 0, NULL,
                                  "there is no place for the cache: neither XDG_CACHE_HOME nor HOME is set; name a "
                                  "directory in pgqrs_s3_desc.cache_dir");
    pgqrsi_s3_sha_of(self->url, strlen(self->url), digest);
    pgqrsi_s3_hex(digest, hex);
    room = strlen(base) + strlen(between) + strlen(self->bucket) + 32;
    self->directory = (char *)pgqrs_backend_result_alloc(self->owned, room);
    if (!self->directory) return pgqrsi_s3_no_memory(self);
    snprintf(self->directory, room, "%s%s/%s-%.16s%s", base, between, self->bucket, hex, self->local ? "-local" : "");
    self->image_path = pgqrsi_s3_path_of(self, "image");
    self->temporary_path = pgqrsi_s3_path_of(self, "image.new");
    self->shared_path = pgqrsi_s3_path_of(self, "shared");
    self->local_path = pgqrsi_s3_path_of(self, "local.sqlite");
    self->pending_path = pgqrsi_s3_path_of(self, "pending");
    self->arriving_path = pgqrsi_s3_path_of(self, "arriving");
    if (!self->image_path || !self->temporary_path || !self->shared_path || !self->local_path || !self->pending_path ||
        !self->arriving_path)
        return pgqrsi_s3_no_memory(self);
    if (!pgqrsi_s3_make_directories(self->directory))
        return pgqrsi_s3_bad_cache(self, self->directory, strerror(errno));
    return pgqrsi_s3_check_directory(self, self->directory);
}

/* Opens the file in place of what was open before. */
static bool pgqrsi_s3_open_again(const pgqrsi_s3 *self, const char *name, int *descriptor)
{
    char path[4200];
    int now;
    snprintf(path, sizeof(path), "%s/%s", self->directory, name);
    now = pgqrsi_s3_open_file(path, O_RDWR | O_CREAT);
    if (now < 0) return false;
    pgqrsi_s3_close_file(descriptor);
    *descriptor = now;
    return true;
}

/* The file of that name, which others open, is not the one that we have open. */
static bool pgqrsi_s3_is_replaced(const pgqrsi_s3 *self, const char *name, int descriptor)
{
    char path[4200];
    struct stat named, ours;
    snprintf(path, sizeof(path), "%s/%s", self->directory, name);
    if (stat(path, &named) != 0) return errno == ENOENT;
    return fstat(descriptor, &ours) == 0 && named.st_ino != ours.st_ino;
}

/* Makes what is missing of the directory, and opens the files that stay open. */
static bool pgqrsi_s3_open_files(pgqrsi_s3 *self)
{
    if (!pgqrsi_s3_make_directories(self->directory) || (mkdir(self->shared_path, 0700) != 0 && errno != EEXIST) ||
        !pgqrsi_s3_open_again(self, "line", &self->line_fd) || !pgqrsi_s3_open_again(self, "lock", &self->lock_fd) ||
        !pgqrsi_s3_open_again(self, "commit", &self->commit_fd))
        return false;
#if defined(__linux__)
    if (self->wake_fd >= 0 && inotify_add_watch(self->wake_fd, self->directory, IN_MOVED_TO) < 0)
        pgqrsi_s3_close_file(&self->wake_fd);
#endif
    return true;
}

static pgqrs_result pgqrsi_s3_open_cache(pgqrsi_s3 *self, const char *given)
{
    pgqrs_result result = pgqrsi_s3_name_cache(self, given);
    if (result != PGQRS_OK) return result;
#if defined(__linux__)
    self->wake_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
#endif
    if (!pgqrsi_s3_open_files(self)) return pgqrsi_s3_bad_cache(self, self->directory, strerror(errno));
    return PGQRS_OK;
}

#define PGQRSI_S3_MACHINE_SHIFT 48 /* the bits of a writer's id above tell its machine */

/* The number of this cache directory. A symbolic link holds it, which is made as a whole or not at all. What cannot be kept, or is
 * not a number, is a machine of its own: only fairness suffers. */
static uint64_t pgqrsi_s3_read_machine(pgqrsi_s3 *self)
{
    char path[4096], text[17];
    ssize_t size;
    uint64_t host = 0;
    int i;
    snprintf(path, sizeof(path), "%s/machine", self->directory);
    snprintf(text, sizeof(text), "%04x", (unsigned)(pgqrsi_s3_unique() >> PGQRSI_S3_MACHINE_SHIFT));
    if (symlink(text, path) != 0 && (size = readlink(path, text, sizeof(text) - 1)) >= 0) text[size] = '\0';
    for (i = 0; i < 4 && text[i]; i++) {
        const char *digits = "0123456789abcdef", *digit = strchr(digits, text[i]);
        host = host << 4 | (uint64_t)(digit ? digit - digits : 0);
    }
    return host;
}

static void pgqrsi_s3_drain(pgqrsi_s3 *self)
{
    char events[1024];
    while (self->wake_fd >= 0 && read(self->wake_fd, events, sizeof(events)) > 0) {
    }
}

static int pgqrsi_s3_flock(int descriptor, int operation)
{
    int rc;
    do {
        rc = flock(descriptor, operation);
    } while (rc != 0 && errno == EINTR);
    return rc;
}

static void pgqrsi_s3_real_pause(int64_t us)
{
    struct timespec time;
    time.tv_sec = (time_t)(us / 1000000);
    time.tv_nsec = (long)(us % 1000000) * 1000;
    nanosleep(&time, NULL);
}

static pgqrs_result pgqrsi_s3_fail_lock(pgqrsi_s3 *self)
{
    if (errno != EWOULDBLOCK) return pgqrsi_s3_bad_cache(self, self->directory, strerror(errno));
    return pgqrs_backend_fail(
        self->store, PGQRS_ERR_BUSY, errno, NULL,
        "%s: another store of this machine kept the lock in %s for too long; end its transaction or "
        "raise connect_timeout_ms",
        self->name, self->directory);
}

#define PGQRSI_S3_LINE_US                                                                                              \
    INT64_C(1000000) /* whoever waits at the head of the line longer than this has been stopped there */

/* How long until the next try. The line has no order of its own: whoever has waited longer tries more often. */
static int64_t pgqrsi_s3_line_pause_us(bool head, int64_t waited_us)
{
    if (head || waited_us > 150000) return 200;
    return waited_us > 50000 ? 500 : 1000;
}

/* The directory was removed, or a file in it, by somebody who tidies up: whoever comes now has another lock. A try to open that; what is
 * known here is written there. */
static void pgqrsi_s3_move_in(pgqrsi_s3 *self)
{
    if (!pgqrsi_s3_open_files(self)) return;
    self->committing = false;
    self->unpublished = self->presence == PGQRSI_S3_PRESENT;
}

/* Waits for our turn among the stores of this machine. Whoever has the line is the next to get the lock, so nobody who has just let
 * go of it overtakes. */
static pgqrs_result pgqrsi_s3_lock(pgqrsi_s3 *self)
{
    int64_t begin_us = pgqrs_backend_monotonic();
    bool head = false, done = false;
    if (self->locked) return PGQRS_OK;
    if (!self->local && pgqrsi_s3_is_replaced(self, "lock", self->lock_fd)) pgqrsi_s3_move_in(self);
    for (;;) {
        int64_t waited_us, pause_us;
        if (!head) head = pgqrsi_s3_flock(self->line_fd, LOCK_EX | LOCK_NB) == 0;
        waited_us = pgqrs_backend_monotonic() - begin_us;
        if (head || waited_us > PGQRSI_S3_LINE_US) done = pgqrsi_s3_flock(self->lock_fd, LOCK_EX | LOCK_NB) == 0;
        if (done || errno != EWOULDBLOCK || waited_us >= self->patience_us) break;
        pause_us = pgqrsi_s3_line_pause_us(head, waited_us);
        pgqrsi_s3_real_pause(pause_us / 2 + (int64_t)(pgqrs_backend_random(self->store) % (uint64_t)pause_us));
    }
    if (!done) {
        pgqrs_result result = pgqrsi_s3_fail_lock(self);
        if (head) pgqrsi_s3_flock(self->line_fd, LOCK_UN);
        return result;
    }
    if (head) pgqrsi_s3_flock(self->line_fd, LOCK_UN);
    self->locked = true;
    return PGQRS_OK;
}

static void pgqrsi_s3_unlock(pgqrsi_s3 *self)
{
    if (self->committing) pgqrsi_s3_flock(self->commit_fd, LOCK_UN);
    if (self->locked) pgqrsi_s3_flock(self->lock_fd, LOCK_UN);
    self->locked = self->committing = false;
}

/* Lets others work on the copy, and stays the one who sends. */
static void pgqrsi_s3_open_up(pgqrsi_s3 *self)
{
    if (self->locked) pgqrsi_s3_flock(self->lock_fd, LOCK_UN);
    self->locked = false;
}

/* The version that we know, as far as it is of interest to others of this machine. */
static bool pgqrsi_s3_write_version(pgqrsi_s3 *self, int descriptor)
{
    unsigned char tail[12];
    if (!pgqrsi_s3_write_all(descriptor, self->base.data, self->base.size)) return false;
    if (!pgqrsi_s3_in_parts(&self->trailer)) return true;
    pgqrsi_s3_put(tail, 8, self->head.size);
    pgqrsi_s3_put(tail + 8, 4, pgqrsi_s3_crc(0, self->born.data, self->born.size));
    return pgqrsi_s3_write_all(descriptor, self->born.data, self->born.size) &&
           pgqrsi_s3_write_all(descriptor, self->head.data, self->head.size) &&
           pgqrsi_s3_write_all(descriptor, tail, sizeof(tail));
}

/* Local mode, where nobody else knows what the file was made from: it has to be there after a power failure, too. So what has been
 * written gets to the disk, and its name. */
static bool pgqrsi_s3_settle(const pgqrsi_s3 *self, int written)
{
    int directory = pgqrsi_s3_open_file(self->directory, O_RDONLY);
    bool done = (written < 0 || fsync(written) == 0) && directory >= 0 && fsync(directory) == 0;
    pgqrsi_s3_close_file(&directory);
    return done;
}

static bool pgqrsi_s3_save_as(pgqrsi_s3 *self, const char *path)
{
    unsigned char tail[PGQRSI_S3_TAIL];
    bool parts = pgqrsi_s3_in_parts(&self->trailer);
    uint32_t crc, flags = (self->bare_etag ? PGQRSI_S3_TAIL_BARE : 0) | (self->proven ? PGQRSI_S3_TAIL_PROVEN : 0) |
                          (parts ? PGQRSI_S3_TAIL_PARTS : 0);
    size_t url_size = strlen(self->url), etag_size = strlen(self->etag);
    int descriptor = pgqrsi_s3_open_file(self->temporary_path, O_WRONLY | O_CREAT | O_TRUNC);
    bool done;
    memcpy(tail, pgqrsi_s3_tail_magic, 8);
    pgqrsi_s3_put(tail + 8, 8, self->base.size + (parts ? self->born.size + self->head.size + 12 : 0));
    pgqrsi_s3_put(tail + 16, 4, url_size);
    pgqrsi_s3_put(tail + 20, 4, etag_size);
    pgqrsi_s3_put(tail + 24, 8, self->trailer.seq);
    pgqrsi_s3_put(tail + 32, 4, flags);
    crc = pgqrsi_s3_crc(0, (const unsigned char *)self->url, url_size);
    crc = pgqrsi_s3_crc(crc, (const unsigned char *)self->etag, etag_size);
    pgqrsi_s3_put(tail + 36, 4, pgqrsi_s3_crc(crc, tail, 36));
    done = descriptor >= 0 && pgqrsi_s3_write_version(self, descriptor) &&
           pgqrsi_s3_write_all(descriptor, self->url, url_size) &&
           pgqrsi_s3_write_all(descriptor, self->etag, etag_size) &&
           pgqrsi_s3_write_all(descriptor, tail, sizeof(tail));
    if (done && self->local) done = pgqrsi_s3_settle(self, descriptor);
    pgqrsi_s3_close_file(&descriptor);
    if (done && rename(self->temporary_path, path) == 0 && (!self->local || pgqrsi_s3_settle(self, -1))) return true;
    unlink(self->temporary_path);
    pgqrs_backend_log(self->store, PGQRS_LOG_WARN, "%s: the cache in %s cannot be written: %s", self->name,
                      self->directory, strerror(errno));
    return false;
}

/* Writes base where other stores look for it. Without success they ask the store itself. */
static bool pgqrsi_s3_save(pgqrsi_s3 *self)
{
    self->saved = pgqrsi_s3_save_as(self, self->image_path);
    return self->saved;
}

/* The tail of the file, and the ETag before it. */
typedef struct pgqrsi_s3_cached {
    size_t size;
    uint64_t seq;
    uint32_t flags;
    int64_t written_us; /* by this machine's wall clock: see pgqrsi_s3_believe */
    char etag[PGQRSI_S3_ETAG_MAX];
} pgqrsi_s3_cached;

static int64_t pgqrsi_s3_file_time(const struct stat *file)
{
#if defined(__APPLE__)
    return (int64_t)file->st_mtimespec.tv_sec * 1000000 + file->st_mtimespec.tv_nsec / 1000;
#else
    return (int64_t)file->st_mtim.tv_sec * 1000000 + file->st_mtim.tv_nsec / 1000;
#endif
}

/* A part of a cache file. */
static bool pgqrsi_s3_read_part_of(pgqrsi_s3 *self, int descriptor, void *out, size_t size, off_t at)
{
    if (pgqrsi_s3_read_at(descriptor, out, size, at)) return true;
    self->read_error = errno;
    return false;
}

/* False: nothing there that could be used. */
static bool pgqrsi_s3_read_tail(pgqrsi_s3 *self, int descriptor, pgqrsi_s3_cached *out)
{
    unsigned char tail[PGQRSI_S3_TAIL];
    char url[PGQRSI_S3_URL_MAX];
    struct stat file;
    size_t url_size = strlen(self->url), etag_size;
    off_t at;
    if (fstat(descriptor, &file) != 0) {
        self->read_error = errno;
        return false;
    }
    if (file.st_size < (off_t)(PGQRSI_S3_TAIL + url_size)) return false;
    if (!pgqrsi_s3_read_part_of(self, descriptor, tail, sizeof(tail), file.st_size - PGQRSI_S3_TAIL)) return false;
    etag_size = (size_t)pgqrsi_s3_get(tail + 20, 4);
    out->written_us = pgqrsi_s3_file_time(&file);
    out->size = (size_t)pgqrsi_s3_get(tail + 8, 8);
    out->seq = pgqrsi_s3_get(tail + 24, 8);
    out->flags = (uint32_t)pgqrsi_s3_get(tail + 32, 4);
    if (memcmp(tail, pgqrsi_s3_tail_magic, 8) != 0 || pgqrsi_s3_get(tail + 16, 4) != url_size ||
        url_size > sizeof(url) || etag_size == 0 || etag_size >= PGQRSI_S3_ETAG_MAX ||
        out->size / (out->flags & PGQRSI_S3_TAIL_PARTS ? 2 : 1) > self->most ||
        out->size + url_size + etag_size + PGQRSI_S3_TAIL != (size_t)file.st_size)
        return false;
    at = (off_t)out->size;
    if (!pgqrsi_s3_read_part_of(self, descriptor, url, url_size, at) ||
        !pgqrsi_s3_read_part_of(self, descriptor, out->etag, etag_size, at + (off_t)url_size))
        return false;
    out->etag[etag_size] = '\0';
    return memcmp(url, self->url, url_size) == 0 &&
           pgqrsi_s3_crc(pgqrsi_s3_crc(pgqrsi_s3_crc(0, (const unsigned char *)url, url_size),
                                       (const unsigned char *)out->etag, etag_size),
                         tail, 36) == pgqrsi_s3_get(tail + 36, 4);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>image: the object in memory
 * --------------------------------------------------------------------------------------------------------------- */

/* The version and its ETag become what we know; the bytes change hands, and version gets the old ones. */
static void pgqrsi_s3_adopt(pgqrsi_s3 *self, pgqrsi_s3_version *version, const char *etag)
{
    pgqrsi_s3_version old;
    memset(&old, 0, sizeof(old));
    old.base = self->base, old.head = self->head, old.born = self->born, old.trailer = self->trailer;
    self->base = version->base;
    self->head = version->head;
    self->born = version->born;
    self->trailer = version->trailer;
    *version = old;
    self->presence = PGQRSI_S3_PRESENT;
    self->loaded = false;
    self->landed_us = pgqrsi_s3_wall_us();
    if ((self->trailer.flags & PGQRSI_S3_PROVEN) && self->trailer.place == self->place) self->proven = true;
    if (etag != self->etag) snprintf(self->etag, sizeof(self->etag), "%s", etag);
}

static void pgqrsi_s3_drop_version(pgqrs_store *store, pgqrsi_s3_version *version)
{
    pgqrsi_s3_release(store, &version->base);
    pgqrsi_s3_release(store, &version->head);
    pgqrsi_s3_release(store, &version->born);
}

/* The object as the store has it. */
static const pgqrsi_s3_bytes *pgqrsi_s3_stored(const pgqrsi_s3 *self)
{
    return pgqrsi_s3_in_parts(&self->trailer) ? &self->head : &self->base;
}

/* What the cache has of an object in parts: the SQLite file, born, the head, and a tail of 12 bytes: 0 bytes of the head   8 CRC-32 of born */
static bool pgqrsi_s3_unpack(pgqrsi_s3 *self, pgqrsi_s3_version *version, bool *memory)
{
    size_t size = version->base.size, head_size, image_size, born_size;
    const unsigned char *data = version->base.data;
    if (size < 12) return false;
    size -= 12;
    head_size = (size_t)pgqrsi_s3_get(data + size, 8);
    if (head_size == 0 || head_size > size) return false;
    *memory = pgqrsi_s3_reserve(self->store, &version->head, head_size);
    if (!*memory) return false;
    memcpy(version->head.data, data + size - head_size, head_size);
    version->head.size = head_size;
    if (pgqrsi_s3_decode(version->head.data, head_size, &version->trailer) != PGQRSI_S3_FINE ||
        !pgqrsi_s3_in_parts(&version->trailer))
        return false;
    image_size = version->trailer.image_size;
    born_size = (size_t)version->trailer.page_count * 8;
    if (image_size + born_size + head_size != size) return false;
    *memory = pgqrsi_s3_reserve(self->store, &version->born, born_size);
    if (!*memory) return false;
    memcpy(version->born.data, data + image_size, born_size);
    version->born.size = born_size;
    version->base.size = image_size;
    return pgqrsi_s3_crc(0, version->born.data, born_size) == pgqrsi_s3_get(data + size + 8, 4) &&
           pgqrsi_s3_image_sum(data, version->trailer.page_size, 0, version->trailer.page_count) ==
               version->trailer.sum;
}

/* Reads what the tail found in the file promises. False: it is not that. */
static bool pgqrsi_s3_read_cached(pgqrsi_s3 *self, int descriptor, const pgqrsi_s3_cached *cached,
                                  pgqrsi_s3_version *version, bool *memory)
{
    *memory = pgqrsi_s3_reserve(self->store, &version->base, cached->size);
    if (!*memory || !pgqrsi_s3_read_part_of(self, descriptor, version->base.data, cached->size, 0)) return false;
    version->base.size = cached->size;
    if (cached->flags & PGQRSI_S3_TAIL_PARTS) return pgqrsi_s3_unpack(self, version, memory);
    /* Without a trailer there is no checksum over the bytes; the seq binds them to the ETag. */
    return pgqrsi_s3_decode(version->base.data, version->base.size, &version->trailer) == PGQRSI_S3_FINE &&
           version->trailer.writer_count > 0 && !pgqrsi_s3_in_parts(&version->trailer);
}

/* The time of the file is when its version was last known to be the newest, to any store of this machine. A time in the future means
 * that the clock was set back. */
static void pgqrsi_s3_believe(pgqrsi_s3 *self, int64_t written_us)
{
    int64_t age_us = pgqrsi_s3_wall_us() - written_us, at_us = pgqrs_backend_monotonic() - age_us;
    if (age_us >= 0 && at_us > self->verified_at_us) self->verified_at_us = at_us;
}

/* Tells the other stores of this machine that our version still is the newest, so that they need not ask. */
static void pgqrsi_s3_vouch(pgqrsi_s3 *self)
{
    pgqrsi_s3_cached cached;
    int64_t at_us = pgqrsi_s3_wall_us() - (pgqrs_backend_monotonic() - self->verified_at_us);
    int descriptor = self->presence == PGQRSI_S3_PRESENT ? pgqrsi_s3_open_file(self->image_path, O_RDONLY) : -1;
    if (descriptor < 0) return;
    if (pgqrsi_s3_read_tail(self, descriptor, &cached) && strcmp(cached.etag, self->etag) == 0 &&
        cached.written_us < at_us) {
        struct timespec times[2];
        times[0].tv_sec = times[1].tv_sec = (time_t)(at_us / 1000000);
        times[0].tv_nsec = times[1].tv_nsec = (long)(at_us % 1000000) * 1000;
        futimens(descriptor, times);
    }
    pgqrsi_s3_close_file(&descriptor);
}

/* Takes over what another store of this machine left, when it is newer. Anything odd about it is no error: the store has it.
 * False: there was no memory for it. */
static bool pgqrsi_s3_catch_up_from(pgqrsi_s3 *self, const char *path)
{
    pgqrsi_s3_cached cached;
    pgqrsi_s3_version version;
    bool first = self->presence != PGQRSI_S3_PRESENT, memory = true;
    int descriptor = pgqrsi_s3_open_file(path, O_RDONLY);
    self->read_error = descriptor < 0 && errno != ENOENT ? errno : 0;
    if (descriptor < 0) return true;
    memset(&version, 0, sizeof(version));
    if (!pgqrsi_s3_read_tail(self, descriptor, &cached)) {
        pgqrsi_s3_close_file(&descriptor);
        return true;
    }
    if ((first || cached.seq > self->trailer.seq) &&
        pgqrsi_s3_read_cached(self, descriptor, &cached, &version, &memory) && version.trailer.seq == cached.seq &&
        (first || version.trailer.birth == self->trailer.birth)) {
        pgqrsi_s3_adopt(self, &version, cached.etag);
        self->unpublished = false;
        self->landed_us = cached.written_us;
        self->bare_etag = (cached.flags & PGQRSI_S3_TAIL_BARE) != 0; /* what worked last */
        if (cached.flags & PGQRSI_S3_TAIL_PROVEN) self->proven = true;
    }
    if (self->presence == PGQRSI_S3_PRESENT && strcmp(cached.etag, self->etag) == 0)
        pgqrsi_s3_believe(self, cached.written_us);
    pgqrsi_s3_drop_version(self->store, &version);
    pgqrsi_s3_close_file(&descriptor);
    return memory;
}

static bool pgqrsi_s3_catch_up(pgqrsi_s3 *self)
{
    return pgqrsi_s3_catch_up_from(self, self->image_path);
}

static void pgqrsi_s3_close_database(pgqrsi_s3 *self)
{
    if (self->inner) pgqrs_sqlite_backend()->close(self->inner);
    if (self->db) sqlite3_close_v2(self->db); /* also when the program left a statement of its own open */
    self->inner = NULL;
    self->db = NULL;
    self->loaded = false;
}

static pgqrs_result pgqrsi_s3_open_database(pgqrsi_s3 *self)
{
    pgqrs_backend_open request;
    if (sqlite3_open_v2(":memory:", &self->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        return pgqrsi_s3_no_memory(self);
    memset(&request, 0, sizeof(request));
    request.database = self->db;
    request.name = self->name;
    request.settings = pgqrs_store_settings(self->store);
    request.quiet_us = 2 * self->idle_heartbeat_us;
    return pgqrs_sqlite_backend()->open(self->store, &request, &self->inner);
}

/* Makes db what base is; an empty database when there is no object. On a new connection each time: statements that were prepared
 * before sqlite3_deserialize may be run on the schema that it has freed, when the new one looks like it. */
static pgqrs_result pgqrsi_s3_load_image(pgqrsi_s3 *self, const unsigned char *image, size_t size)
{
    unsigned char *copy;
    pgqrs_result result;
    pgqrsi_s3_close_database(self);
    result = pgqrsi_s3_open_database(self);
    if (result != PGQRS_OK) return result;
    copy = (unsigned char *)sqlite3_malloc64(size ? size : 1);
    if (!copy) return pgqrsi_s3_no_memory(self);
    if (size > 0) {
        memcpy(copy, image, size);
        copy[18] = copy[19] = 1; /* a file that was in WAL mode elsewhere has no log here */
    }
    /* SQLite frees the copy in any case. */
    if (sqlite3_deserialize(self->db, "main", copy, (sqlite3_int64)size, (sqlite3_int64)(size ? size : 1),
                            SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE) != SQLITE_OK)
        return pgqrsi_s3_no_memory(self);
    if (size == 0 && sqlite3_exec(self->db, "PRAGMA page_size=1024", NULL, NULL, NULL) != SQLITE_OK)
        return pgqrsi_s3_no_memory(self);
    self->change_counter = size ? pgqrsi_s3_big32(image + 24) : 0;
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_s3_load(pgqrsi_s3 *self)
{
    pgqrs_result result = PGQRS_OK;
    if (!self->loaded)
        result = pgqrsi_s3_load_image(self, self->base.data,
                                      self->presence == PGQRSI_S3_PRESENT ? self->trailer.image_size : 0);
    self->loaded = result == PGQRS_OK;
    return result;
}

/* The database as it is now, SQLite's own bytes; NULL: empty. */
static const unsigned char *pgqrsi_s3_image(pgqrsi_s3 *self, size_t *size)
{
    sqlite3_int64 bytes = 0;
    const unsigned char *data = sqlite3_serialize(self->db, "main", &bytes, SQLITE_SERIALIZE_NOCOPY);
    *size = data && bytes > 0 ? (size_t)bytes : 0;
    return *size ? data : NULL;
}

/* Has a commit changed it? Every commit that changes a page counts up in the header. */
static bool pgqrsi_s3_changed(pgqrsi_s3 *self)
{
    size_t size;
    const unsigned char *data = pgqrsi_s3_image(self, &size);
    return data && size >= 100 && pgqrsi_s3_big32(data + 24) != self->change_counter;
}

static pgqrs_result pgqrsi_s3_exec(pgqrsi_s3 *self, const char *sql)
{
    int rc = sqlite3_exec(self->db, sql, NULL, NULL, NULL);
    if (rc == SQLITE_OK) return PGQRS_OK;
    if (rc == SQLITE_NOMEM) return pgqrsi_s3_no_memory(self);
    return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, rc, NULL, "%s: %s", self->name,
                              sqlite3_errmsg(self->db));
}

static void pgqrsi_s3_rollback(pgqrsi_s3 *self)
{
    if (!sqlite3_get_autocommit(self->db) && sqlite3_exec(self->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        self->loaded = false;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>requests: one exchange with the store, signed, its outcome read
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct pgqrsi_s3_request {
    const char *method;
    const char *part;      /* its name; NULL: the object itself */
    const char *condition; /* "if-match", "if-none-match" or NULL */
    const char *etag;
    const unsigned char *body;
    size_t body_size;
    int64_t timeout_ms;
} pgqrsi_s3_request;

static void pgqrsi_s3_reply_start(pgqrsi_s3 *self, pgqrs_http_reply *reply)
{
    memset(reply, 0, sizeof(*reply));
    reply->store = self->store;
    reply->most = self->most + (size_t)65536;
}

static void pgqrsi_s3_reply_end(pgqrsi_s3 *self, pgqrs_http_reply *reply)
{
    pgqrsi_s3_release(self->store, &reply->body);
}

/* The Date of a reply is some moment between sending the request and reading the reply, cut to a second. Our clock moves just as
 * far as it must for that to be true. */
static void pgqrsi_s3_set_clock(pgqrsi_s3 *self, int64_t date_us, int64_t sent_us, int64_t read_us)
{
    int64_t least = date_us - read_us, most = date_us + 1000000 - sent_us;
    if (date_us <= 0) return;
    if (self->offset_us < least) self->offset_us = least;
    if (self->offset_us > most) self->offset_us = most;
}

/* The ETag as it goes back in a condition. */
static void pgqrsi_s3_etag_text(const pgqrsi_s3 *self, const char *etag, char out[PGQRSI_S3_ETAG_MAX])
{
    size_t size = strlen(etag);
    bool strip = self->bare_etag && size >= 2 && etag[0] == '"' && etag[size - 1] == '"';
    snprintf(out, PGQRSI_S3_ETAG_MAX, "%.*s", (int)(strip ? size - 2 : size), strip ? etag + 1 : etag);
}

/* The status, 0 or negative as pgqrs_http says. The caller ends the reply. */
static int pgqrsi_s3_send(pgqrsi_s3 *self, const pgqrsi_s3_request *request, pgqrs_http_reply *reply)
{
    pgqrs_http_field fields[8];
    pgqrs_http_request http;
    pgqrsi_s3_signing signing;
    unsigned char digest[32];
    char payload[65], stamp[17], etag[PGQRSI_S3_ETAG_MAX], authorization[PGQRSI_S3_AUTHORIZATION_MAX];
    char url[PGQRSI_S3_URL_MAX];
    size_t count = 0;
    int64_t sent_us = pgqrs_backend_monotonic();
    int status;
    pgqrsi_s3_reply_start(self, reply);
    snprintf(url, sizeof(url), "%s%s%s", self->url, request->part ? ".d/" : "", request->part ? request->part : "");
    pgqrsi_s3_sha_of(request->body, request->body_size, digest);
    pgqrsi_s3_hex(digest, payload);
    pgqrsi_s3_stamp(pgqrsi_s3_clock(self), stamp);
    memset(fields, 0, sizeof(fields));
    fields[count].name = "host", fields[count++].value = self->host;
    if (request->condition) {
        pgqrsi_s3_etag_text(self, request->etag, etag);
        fields[count].name = request->condition, fields[count++].value = etag;
    }
    fields[count].name = "x-amz-content-sha256", fields[count++].value = payload;
    fields[count].name = "x-amz-date", fields[count++].value = stamp;
    if (self->session_token) fields[count].name = "x-amz-security-token", fields[count++].value = self->session_token;
    memset(&signing, 0, sizeof(signing));
    signing.method = request->method;
    signing.path = url + (self->path - self->url);
    signing.query = "";
    signing.fields = fields;
    signing.field_count = count;
    signing.payload = payload;
    signing.stamp = stamp;
    signing.region = self->region;
    signing.access_key = self->access_key;
    signing.secret_key = self->secret_key;
    pgqrsi_s3_sign(&signing, authorization);
    fields[count].name = "authorization", fields[count++].value = authorization;
    if (request->body) fields[count].name = "content-type", fields[count++].value = "application/vnd.sqlite3";
    memset(&http, 0, sizeof(http));
    http.method = request->method;
    http.url = url;
    http.fields = fields;
    http.field_count = count;
    http.body = request->body;
    http.body_size = request->body_size;
    http.timeout_ms = request->timeout_ms;
    status = pgqrsi_s3_judge(reply, self->http.exchange(self->http.user, &http, reply));
    if (status > 0) pgqrsi_s3_set_clock(self, reply->date_us, sent_us, pgqrs_backend_monotonic());
    if (status > 0 && !request->part) self->round_us = pgqrs_backend_monotonic() - sent_us;
    pgqrs_backend_log(self->store, PGQRS_LOG_DEBUG, "%s %s%s%s%s: %d %s, %zu bytes up, %zu down, %lld us",
                      request->method, self->name, request->part ? ".d/" : "", request->part ? request->part : "",
                      request->condition ? " (conditional)" : "", status, reply->code, request->body_size,
                      reply->body.size, (long long)(pgqrs_backend_monotonic() - sent_us));
    return status;
}

/* How long a call goes on trying. Sleeping that a hook only pretends counts as if it had happened. */
typedef struct pgqrsi_s3_patience {
    int64_t end_us;
    int64_t refused_us; /* 0: never; when nobody was there to talk to until then that is the answer */
    int times;
} pgqrsi_s3_patience;

static pgqrsi_s3_patience pgqrsi_s3_begin_patience(int64_t for_us)
{
    pgqrsi_s3_patience patience;
    patience.end_us = pgqrs_backend_monotonic() + for_us;
    patience.refused_us = 0;
    patience.times = 0;
    return patience;
}

static int64_t pgqrsi_s3_left_us(const pgqrsi_s3_patience *patience)
{
    return patience->end_us - pgqrs_backend_monotonic();
}

static void pgqrsi_s3_show_life(pgqrsi_s3 *self);

static void pgqrsi_s3_sleep(pgqrsi_s3 *self, pgqrsi_s3_patience *patience, int64_t us)
{
    int64_t begin_us = pgqrs_backend_monotonic(), left_us = us, slept_us;
    while (left_us > 0) {
        int64_t part_us = self->flight_us != 0 && left_us > 500000 ? 500000 : left_us;
        pgqrs_backend_sleep(self->store, part_us);
        left_us -= part_us;
        pgqrsi_s3_show_life(self);
    }
    slept_us = pgqrs_backend_monotonic() - begin_us;
    if (slept_us < us) patience->end_us -= us - slept_us;
}

/* Before another try: longer each time, never in step with others, at least as long as the store asks. False: no time is left. */
static bool pgqrsi_s3_back_off(pgqrsi_s3 *self, pgqrsi_s3_patience *patience, int64_t least_ms)
{
    int64_t most_us = (int64_t)20000 << (patience->times < 7 ? patience->times : 7);
    int64_t us = most_us / 2 + (int64_t)(pgqrs_backend_random(self->store) % (uint64_t)most_us);
    patience->times++;
    if (us < least_ms * 1000) us = least_ms * 1000;
    if (us >= pgqrsi_s3_left_us(patience)) return false;
    pgqrsi_s3_sleep(self, patience, us);
    return true;
}

static int64_t pgqrsi_s3_timeout_ms(const pgqrsi_s3 *self, const pgqrsi_s3_patience *patience)
{
    int64_t left_ms = pgqrsi_s3_left_us(patience) / 1000;
    if (left_ms < 100) left_ms = 100;
    return left_ms < self->request_timeout_ms ? left_ms : self->request_timeout_ms;
}

/* Worth another try: nothing came, or the store says that it is its own fault, or that we are too fast. */
static bool pgqrsi_s3_is_passing(const pgqrs_http_reply *reply)
{
    int status = reply->status;
    if (status == 400) return strcmp(reply->code, "RequestTimeout") == 0;
    return status <= 0 || status == 408 || status == 429 || (status >= 500 && status != 501 && status != 505);
}

/* A wrong region, or an endpoint of another one. */
static bool pgqrsi_s3_is_elsewhere(const pgqrsi_s3 *self, const pgqrs_http_reply *reply)
{
    int status = reply->status;
    return status == 301 || status == 307 || status == 308 ||
           (status == 400 && reply->region[0] && strcmp(reply->region, self->region) != 0);
}

static pgqrs_result pgqrsi_s3_fail_elsewhere(pgqrsi_s3 *self, const pgqrs_http_reply *reply)
{
    if (!reply->region[0] || strcmp(reply->region, self->region) == 0)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_CONFIG, reply->status, NULL,
                                  "%s: the bucket is not at %s (HTTP %d %s); set the endpoint (AWS_ENDPOINT_URL_S3, "
                                  "AWS_ENDPOINT_URL, pgqrs_s3_desc.endpoint) to that of its region",
                                  self->name, self->host, reply->status, reply->code);
    return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_CONFIG, reply->status, NULL,
                              "%s: the bucket is in the region %s, but the setting is %s (HTTP %d %s); set AWS_REGION "
                              "(pgqrs_s3_desc.region) to %s, and the endpoint, where one is set, to that region's",
                              self->name, reply->region, self->region, reply->status, reply->code, reply->region);
}

static pgqrs_result pgqrsi_s3_fail_access(pgqrsi_s3 *self, const pgqrs_http_reply *reply)
{
    const char *cure = "check the access key, the secret key and what they may do with this object";
    if (strcmp(reply->code, "RequestTimeTooSkewed") == 0) cure = "the clocks of this machine and of the store differ";
    if (strcmp(reply->code, "ExpiredToken") == 0) cure = "the session token has expired; open the store with a new one";
    if (strcmp(reply->code, "InvalidToken") == 0)
        cure = "check the session token (AWS_SESSION_TOKEN, pgqrs_s3_desc.session_token): temporary keys need theirs, "
               "others none";
    if (strcmp(reply->code, "SignatureDoesNotMatch") == 0) cure = "check the secret key and the region";
    if (strcmp(reply->code, "AccessDenied") == 0)
        cure =
            "the key needs s3:GetObject, s3:PutObject and s3:ListBucket, without which an object that is not there is "
            "denied too";
    return pgqrs_backend_fail(self->store, PGQRS_ERR_ACCESS_DENIED, reply->status, NULL,
                              "%s: the store refuses (HTTP %d %s): %s", self->name, reply->status, reply->code, cure);
}

/* What a status says to whoever called; the outcome of a change is known to be: nothing. */
static pgqrs_result pgqrsi_s3_fail_status(pgqrsi_s3 *self, const pgqrs_http_reply *reply)
{
    int status = reply->status;
    if (reply->no_memory) return pgqrsi_s3_no_memory(self);
    if (reply->too_large)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_FULL, 0, NULL,
                                  "%s is larger than max_object_bytes of pgqrs_s3_desc: raise it, or remove messages",
                                  self->name);
    if (status == 401 || status == 403 || strcmp(reply->code, "ExpiredToken") == 0 ||
        strcmp(reply->code, "InvalidToken") == 0)
        return pgqrsi_s3_fail_access(self, reply);
    if (status == 404 && strcmp(reply->code, "NoSuchBucket") == 0)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_DSN, status, NULL,
                                  "%s: there is no bucket \"%s\" at this endpoint; make it first", self->name,
                                  self->bucket);
    if (pgqrsi_s3_is_elsewhere(self, reply)) return pgqrsi_s3_fail_elsewhere(self, reply);
    if (status == 429 || status == 503)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BUSY, status, NULL,
                                  "%s: the store asks for fewer requests (HTTP %d %s), for longer than deadline_ms",
                                  self->name, status, reply->code);
    if (status <= 0)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_CONNECTION, 0, NULL,
                                  "%s: %s the store at %.*s; check the endpoint (AWS_ENDPOINT_URL_S3, "
                                  "AWS_ENDPOINT_URL, pgqrs_s3_desc.endpoint) and the network",
                                  self->name, status < 0 ? "no connection to" : "no answer from",
                                  (int)(self->path - self->url), self->url);
    if (pgqrsi_s3_is_passing(reply))
        return pgqrs_backend_fail(self->store, PGQRS_ERR_CONNECTION, status, NULL,
                                  "%s: no answer from the store at %s (HTTP %d %s); check endpoint and network",
                                  self->name, self->host, status, reply->code);
    return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, status, NULL, "%s: the store answered HTTP %d %s",
                              self->name, status, reply->code);
}

static pgqrs_result pgqrsi_s3_fail_shape(pgqrsi_s3 *self, pgqrsi_s3_shape shape)
{
    const char *what = "is damaged: its checksum is wrong; restore an earlier version";
    if (shape == PGQRSI_S3_NO_SQLITE) what = "is not a SQLite file; another key is meant, or it was overwritten";
    if (shape == PGQRSI_S3_FOREIGN)
        what =
            "is a SQLite file with something after its end that is not of this library: another program wrote to it; "
            "upload what VACUUM INTO makes of it";
    if (shape == PGQRSI_S3_OLDER) what = "was answered with an older version than before";
    if (shape == PGQRSI_S3_NEWER)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_SCHEMA_NEWER, 0, NULL,
                                  "%s was written by a newer version of this library; update the program", self->name);
    return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, 0, NULL, "%s %s", self->name, what);
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>look: is the version that we know still the newest?
 * --------------------------------------------------------------------------------------------------------------- */

static pgqrs_result pgqrsi_s3_fail_part(pgqrsi_s3 *self, const char *name, const char *what)
{
    return pgqrs_backend_fail(
        self->store, PGQRS_ERR_DATABASE, 0, NULL,
        "%s: its part %s.d/%s is %s; restore it, or an earlier version of the object with its parts", self->name,
        self->name, name, what);
}

#define PGQRSI_S3_ODD_MAX 4 /* times that a body which cannot be used is asked for again */

/* Fetches a part that the head names. One that is not there may have been retired while the head was on its way. */
static pgqrs_result pgqrsi_s3_get_part(pgqrsi_s3 *self, const pgqrsi_s3_trailer *head, const pgqrsi_s3_part *part,
                                       pgqrsi_s3_patience *patience, pgqrs_http_reply *reply, pgqrsi_s3_shape *shape)
{
    char name[PGQRSI_S3_PART_NAME];
    int odd = 0;
    pgqrsi_s3_part_name(part->seq, part->id, name);
    for (;;) {
        pgqrsi_s3_request request;
        pgqrs_result result;
        bool again;
        memset(&request, 0, sizeof(request));
        request.method = "GET";
        request.part = name;
        request.timeout_ms = pgqrsi_s3_timeout_ms(self, patience);
        pgqrsi_s3_send(self, &request, reply);
        again = pgqrsi_s3_is_passing(reply) && !reply->too_large && !reply->no_memory;
        if (reply->status == 200 &&
            pgqrsi_s3_part_fine(reply->body.data, reply->body.size, part, head->birth, head->page_size))
            return PGQRS_OK;
        if (reply->status == 200) {
            *shape = PGQRSI_S3_PARTED;
            result = pgqrsi_s3_fail_part(self, name, "damaged, or not the one that was written");
        } else if (reply->status == 404) {
            *shape = PGQRSI_S3_PARTED;
            result = pgqrsi_s3_fail_part(self, name, "gone");
        } else {
            result = pgqrsi_s3_fail_status(self, reply);
        }
        /* It may have been damaged on its way. */
        if (!(reply->status == 200 && odd++ < 2) &&
            !(again && pgqrsi_s3_back_off(self, patience, reply->retry_after_ms)))
            return result;
        pgqrsi_s3_reply_end(self, reply);
        *shape = PGQRSI_S3_FINE;
    }
}

/* Fetches the parts that are newer than what we know of the same history, and lays all over each other. */
static pgqrs_result pgqrsi_s3_lay_parts(pgqrsi_s3 *self, pgqrsi_s3_version *version, const pgqrsi_s3_version *known,
                                        pgqrsi_s3_patience *patience, pgqrsi_s3_shape *shape)
{
    uint32_t i;
    if (!pgqrsi_s3_lay_begin(self->store, version, known)) return pgqrsi_s3_no_memory(self);
    for (i = 0; i < version->trailer.part_count; i++) {
        pgqrsi_s3_part part = pgqrsi_s3_part_at(&version->trailer, i);
        pgqrs_http_reply reply;
        pgqrs_result result;
        if (known && part.upto <= known->trailer.seq) continue;
        result = pgqrsi_s3_get_part(self, &version->trailer, &part, patience, &reply, shape);
        if (result == PGQRS_OK) pgqrsi_s3_lay_part(version, &part, reply.body.data);
        pgqrsi_s3_reply_end(self, &reply);
        if (result != PGQRS_OK) return result;
    }
    if (pgqrsi_s3_lay_head(version)) return PGQRS_OK;
    *shape = PGQRSI_S3_DAMAGED;
    return pgqrsi_s3_fail_shape(self, *shape);
}

/* Puts together the version whose head has come. */
static pgqrs_result pgqrsi_s3_assemble(pgqrsi_s3 *self, pgqrsi_s3_version *version, pgqrsi_s3_patience *patience,
                                       pgqrsi_s3_shape *shape)
{
    pgqrsi_s3_version known;
    memset(&known, 0, sizeof(known));
    known.base = self->base, known.born = self->born, known.trailer = self->trailer;
    if (version->trailer.image_size > self->most)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_FULL, 0, NULL,
                                  "%s is larger than max_object_bytes of pgqrs_s3_desc: raise it, or remove messages",
                                  self->name);
    if (self->presence == PGQRSI_S3_PRESENT && pgqrsi_s3_in_parts(&self->trailer) &&
        self->trailer.birth == version->trailer.birth && self->trailer.page_size == version->trailer.page_size &&
        self->trailer.seq <= version->trailer.seq) {
        pgqrs_result result = pgqrsi_s3_lay_parts(self, version, &known, patience, shape);
        if (result == PGQRS_OK || *shape != PGQRSI_S3_DAMAGED) return result;
        *shape = PGQRSI_S3_FINE; /* what we know is of another branch of its history: from the beginning */
    }
    return pgqrsi_s3_lay_parts(self, version, NULL, patience, shape);
}

/* Takes over the body of a reply. An older version than we know comes from a replica that lags behind, or, when it keeps coming,
 * from somebody who restored it. */
static pgqrs_result pgqrsi_s3_take_body(pgqrsi_s3 *self, pgqrs_http_reply *reply, bool older,
                                        pgqrsi_s3_patience *patience, pgqrsi_s3_shape *shape)
{
    pgqrsi_s3_version version;
    pgqrs_result result = PGQRS_OK;
    int64_t read_us = pgqrs_backend_monotonic();
    memset(&version, 0, sizeof(version));
    *shape = pgqrsi_s3_decode(reply->body.data, reply->body.size, &version.trailer);
    if (*shape == PGQRSI_S3_FINE && !older && self->presence == PGQRSI_S3_PRESENT &&
        version.trailer.birth == self->trailer.birth && version.trailer.seq < self->trailer.seq)
        *shape = PGQRSI_S3_OLDER;
    if (*shape != PGQRSI_S3_FINE) return pgqrsi_s3_fail_shape(self, *shape);
    if (!reply->etag[0])
        return pgqrs_backend_fail(self->store, PGQRS_ERR_UNSUPPORTED, 0, NULL,
                                  "%s: the store gives no ETag that could be used, so nothing can be written safely",
                                  self->name);
    if (pgqrsi_s3_in_parts(&version.trailer)) {
        version.head = reply->body;
        result = pgqrsi_s3_assemble(self, &version, patience, shape);
    } else {
        version.base = reply->body;
    }
    memset(&reply->body, 0, sizeof(reply->body));
    if (result == PGQRS_OK) {
        pgqrsi_s3_adopt(self, &version, reply->etag);
        self->verified_at_us = read_us; /* parts may have taken long since */
    }
    pgqrsi_s3_drop_version(self->store, &version);
    return result;
}

static pgqrs_result pgqrsi_s3_gone(pgqrsi_s3 *self)
{
    return pgqrs_backend_fail(
        self->store, PGQRS_ERR_OBJECT_GONE, 404, NULL,
        "%s was there and is gone: somebody deleted it; restore it, or call pgqrs_s3_bootstrap to begin "
        "again with nothing",
        self->name);
}

/* Puts base into the cache, unless others have put something newer there since we knew `seq`. False: it could not be written. */
static bool pgqrsi_s3_publish(pgqrsi_s3 *self, uint64_t seq)
{
    pgqrsi_s3_cached cached;
    int descriptor = pgqrsi_s3_open_file(self->image_path, O_RDONLY);
    bool newer = descriptor >= 0 && pgqrsi_s3_read_tail(self, descriptor, &cached) && cached.seq > self->trailer.seq &&
                 cached.seq > seq;
    pgqrsi_s3_close_file(&descriptor);
    return newer || pgqrsi_s3_save(self);
}

/* Other stores of this machine may have it from here, unless they have something newer, or are about to. */
static void pgqrsi_s3_share(pgqrsi_s3 *self)
{
    bool mine = self->locked;
    if (self->local) return;  /* there it is what the local file was made from */
    self->unpublished = true; /* nobody may build on what the others cannot know */
    if (!mine && pgqrsi_s3_flock(self->lock_fd, LOCK_EX | LOCK_NB) != 0) return;
    self->locked = true;
    self->unpublished = !pgqrsi_s3_publish(self, mine ? UINT64_MAX : 0);
    if (!mine) pgqrsi_s3_open_up(self);
}

static pgqrs_result pgqrsi_s3_absent(pgqrsi_s3 *self)
{
    if (self->presence == PGQRSI_S3_PRESENT) return pgqrsi_s3_gone(self);
    self->presence = PGQRSI_S3_ABSENT;
    self->loaded = false;
    memset(&self->trailer, 0, sizeof(self->trailer));
    self->verified_at_us = pgqrs_backend_monotonic();
    return PGQRS_OK;
}

/* One damaged reply may have been damaged on its way: that much is no verdict on the object. */
static pgqrs_result pgqrsi_s3_fail_unjudged(pgqrsi_s3 *self)
{
    pgqrs_error why = *pgqrs_last_error(self->store);
    return pgqrs_backend_fail(self->store, PGQRS_ERR_CONNECTION, 0, NULL,
                              "%s: a reply that cannot be used, and deadline_ms left no time to ask again (%s)",
                              self->name, why.message);
}

/* Asks the store until it answers or the patience is over. *moved: base is another version than before. */
static pgqrs_result pgqrsi_s3_look(pgqrsi_s3 *self, pgqrsi_s3_patience *patience, bool *moved)
{
    pgqrsi_s3_presence before = self->presence;
    int odd = 0, skewed = 0;
    *moved = false;
    for (;;) {
        pgqrsi_s3_request request;
        pgqrs_http_reply reply;
        pgqrsi_s3_shape shape = PGQRSI_S3_FINE;
        pgqrs_result result;
        int64_t begin_us = pgqrs_backend_monotonic(), retry_ms;
        int status;
        bool again;
        memset(&request, 0, sizeof(request));
        request.method = "GET";
        request.condition = self->presence == PGQRSI_S3_PRESENT ? "if-none-match" : NULL;
        request.etag = self->etag;
        request.timeout_ms = pgqrsi_s3_timeout_ms(self, patience);
        status = pgqrsi_s3_send(self, &request, &reply);
        retry_ms = reply.retry_after_ms;
        if (status == 304 && self->presence == PGQRSI_S3_PRESENT) {
            self->verified_at_us = begin_us;
            result = PGQRS_OK;
        } else if (status == 200 && self->presence == PGQRSI_S3_PRESENT && strcmp(reply.etag, self->etag) == 0 &&
                   reply.body.size == pgqrsi_s3_stored(self)->size &&
                   memcmp(reply.body.data, pgqrsi_s3_stored(self)->data, reply.body.size) == 0) {
            self->verified_at_us = begin_us; /* a store that knows no conditions on GET */
            result = PGQRS_OK;
        } else if (status == 200) {
            result = pgqrsi_s3_take_body(self, &reply, odd == PGQRSI_S3_ODD_MAX, patience, &shape);
            *moved = result == PGQRS_OK;
        } else if (status == 404 && strcmp(reply.code, "NoSuchBucket") != 0) {
            result = pgqrsi_s3_absent(self);
            *moved = result == PGQRS_OK && before != self->presence;
        } else {
            result = pgqrsi_s3_fail_status(self, &reply);
        }
        /* A body may be damaged on its way; the clock has just been set by the refusal's own Date. */
        again = (shape != PGQRSI_S3_FINE && odd++ < PGQRSI_S3_ODD_MAX) ||
                (pgqrsi_s3_is_passing(&reply) && !reply.too_large && !reply.no_memory) ||
                (status == 403 && strcmp(reply.code, "RequestTimeTooSkewed") == 0 && skewed++ == 0);
        pgqrsi_s3_reply_end(self, &reply);
        if (*moved && self->presence == PGQRSI_S3_PRESENT) pgqrsi_s3_share(self);
        if (result == PGQRS_OK || !again) return result;
        if (status < 0 && patience->refused_us && pgqrs_backend_monotonic() >= patience->refused_us) return result;
        if (!pgqrsi_s3_back_off(self, patience, retry_ms))
            return shape == PGQRSI_S3_FINE ? result : pgqrsi_s3_fail_unjudged(self);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>commit: one PUT that replaces the version we know, and what became of it
 * --------------------------------------------------------------------------------------------------------------- */

typedef enum pgqrsi_s3_outcome {
    PGQRSI_S3_LANDED = 0,
    PGQRSI_S3_LOST = 1, /* somebody else was faster; base is the newest version */
    PGQRSI_S3_FAILED = 2
} pgqrsi_s3_outcome;

typedef struct pgqrsi_s3_commit {
    pgqrsi_s3_bytes body;
    pgqrsi_s3_trailer trailer; /* of body */
    pgqrsi_s3_bytes image;     /* of an object in parts, whose head is the body */
    pgqrsi_s3_bytes born;
    uint64_t id, counter; /* of the last of its writers */
    bool create;
    bool uncertain; /* a try may have been carried out, or may still be */
    bool slowed;    /* the last try was answered with 429 */
    int skewed;
    int refusals; /* 412 for the ETag that is there */
    pgqrs_result result;
} pgqrsi_s3_commit;

/* A history's number. It follows from what the first commit is made on, so that those who compete for it agree. */
static uint64_t pgqrsi_s3_birth(pgqrsi_s3 *self)
{
    unsigned char digest[32];
    uint64_t birth = self->trailer.birth;
    if (birth == 0 && self->presence == PGQRSI_S3_PRESENT) {
        pgqrsi_s3_sha_of(self->base.data, self->base.size, digest); /* an object without a trailer is all in one */
        birth = pgqrsi_s3_get(digest, 8);
    }
    return birth ? birth : pgqrsi_s3_unique();
}

/* --- an object in parts: what a commit makes of it */

#define PGQRSI_S3_CARRIED 1
#define PGQRSI_S3_CHANGED 2

typedef struct pgqrsi_s3_plan {
    const unsigned char *image;
    pgqrsi_s3_writer me;
    const pgqrsi_s3_trailer *old; /* of base, with all other writers of this commit */
    uint64_t birth;
    uint32_t page_size;
    uint32_t page_count;
    unsigned char *flags; /* for each page: it goes into the head, CARRIED from that of base or CHANGED since */
    uint32_t flagged;
    uint32_t changed;      /* so many of them */
    pgqrsi_s3_bytes *born; /* of the new version */
    uint64_t sum;
    pgqrsi_s3_part parts[PGQRSI_S3_PARTS_MAX];
    uint32_t part_count;
    pgqrsi_s3_retired retired[PGQRSI_S3_RETIRED_MAX];
    uint32_t retired_count;
} pgqrsi_s3_plan;

static bool pgqrsi_s3_wants_one_file(const pgqrsi_s3 *self)
{
    return self->split < 0 || (self->split == 0 && (self->trailer.flags & PGQRSI_S3_ONE_FILE));
}

/* Of the next commit. */
static uint32_t pgqrsi_s3_flags(const pgqrsi_s3 *self)
{
    return (self->proven ? PGQRSI_S3_PROVEN : 0) | (pgqrsi_s3_wants_one_file(self) ? PGQRSI_S3_ONE_FILE : 0);
}

/* Large ones are; one that has become smaller stays so until it is half as large. */
static bool pgqrsi_s3_wants_parts(const pgqrsi_s3 *self, const unsigned char *image, size_t size)
{
    size_t limit = (size_t)pgqrsi_s3_default(self->split, 262144);
    if (pgqrsi_s3_wants_one_file(self) || pgqrsi_s3_page_size(image) == 0) return false;
    if (strlen(strchr(self->name + 5, '/')) + PGQRSI_S3_PART_NAME + 4 > 1024) return false; /* no key may be longer */
    return size > (pgqrsi_s3_in_parts(&self->trailer) ? limit / 2 : limit);
}

static bool pgqrsi_s3_is_tidied(const pgqrsi_s3 *self, uint64_t id)
{
    uint32_t i;
    for (i = 0; i < self->tidied_count && i < 16; i++)
        if (self->tidied[i] == id) return true;
    return false;
}

static void pgqrsi_s3_retire(pgqrsi_s3_plan *plan, uint64_t seq, uint64_t id, int64_t at_us)
{
    if (plan->retired_count == PGQRSI_S3_RETIRED_MAX)
        memmove(plan->retired, plan->retired + 1, --plan->retired_count * sizeof(plan->retired[0]));
    plan->retired[plan->retired_count].seq = seq;
    plan->retired[plan->retired_count].id = id;
    plan->retired[plan->retired_count++].at_us = at_us;
}

/* Those that are deleted are left out. */
static void pgqrsi_s3_plan_begin(const pgqrsi_s3 *self, pgqrsi_s3_plan *plan)
{
    uint32_t i;
    for (i = 0; i < self->trailer.part_count; i++) {
        pgqrsi_s3_part part = pgqrsi_s3_part_at(&self->trailer, i);
        if (i < PGQRSI_S3_PARTS_MAX)
            plan->parts[plan->part_count++] = part;
        else
            pgqrsi_s3_retire(plan, part.seq, part.id, plan->me.at_us);
    }
    for (i = 0; i < self->trailer.retired_count; i++) {
        pgqrsi_s3_retired retired = pgqrsi_s3_retired_at(&self->trailer, i);
        if (!pgqrsi_s3_is_tidied(self, retired.id)) pgqrsi_s3_retire(plan, retired.seq, retired.id, retired.at_us);
    }
}

static void pgqrsi_s3_retire_from(pgqrsi_s3_plan *plan, uint32_t from)
{
    uint32_t i;
    for (i = from; i < plan->part_count; i++)
        pgqrsi_s3_retire(plan, plan->parts[i].seq, plan->parts[i].id, plan->me.at_us);
    plan->part_count = from;
}

/* The names of parts that are about to be made are in a file of the cache, until a commit of this machine finds that a head names them,
 * or that none will: 0 birth   8 seq   16 id   24 CRC-32. Otherwise a process that is killed would leave parts that nobody knows. */
#define PGQRSI_S3_STRAY 28
#define PGQRSI_S3_STRAYS_MAX 32

static size_t pgqrsi_s3_read_strays(pgqrsi_s3 *self, unsigned char out[PGQRSI_S3_STRAYS_MAX * PGQRSI_S3_STRAY])
{
    char path[4200];
    int descriptor;
    size_t count = 0;
    snprintf(path, sizeof(path), "%s/strays", self->directory);
    descriptor = pgqrsi_s3_open_file(path, O_RDONLY);
    while (descriptor >= 0 && count < PGQRSI_S3_STRAYS_MAX) {
        unsigned char *stray = out + count * PGQRSI_S3_STRAY;
        if (!pgqrsi_s3_read_at(descriptor, stray, PGQRSI_S3_STRAY, (off_t)(count * PGQRSI_S3_STRAY)) ||
            pgqrsi_s3_crc(0, stray, 24) != pgqrsi_s3_get(stray + 24, 4))
            break;
        count++;
    }
    pgqrsi_s3_close_file(&descriptor);
    return count;
}

/* None: the file is removed. Not being able to write it costs the bucket some room at worst. */
static void pgqrsi_s3_write_strays(pgqrsi_s3 *self, const unsigned char *strays, size_t count)
{
    char path[4200];
    int descriptor;
    snprintf(path, sizeof(path), "%s/strays", self->directory);
    if (count == 0) {
        unlink(path);
        return;
    }
    descriptor = pgqrsi_s3_open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
    if (descriptor < 0 || !pgqrsi_s3_write_all(descriptor, strays, count * PGQRSI_S3_STRAY))
        pgqrs_backend_log(self->store, PGQRS_LOG_WARN, "%s: %s cannot be written: %s", self->name, path,
                          strerror(errno));
    pgqrsi_s3_close_file(&descriptor);
}

static void pgqrsi_s3_add_stray(pgqrsi_s3 *self, uint64_t birth, const pgqrsi_s3_part *part)
{
    unsigned char strays[PGQRSI_S3_STRAYS_MAX * PGQRSI_S3_STRAY];
    size_t count = pgqrsi_s3_read_strays(self, strays);
    unsigned char *stray = strays + (count < PGQRSI_S3_STRAYS_MAX ? count : --count) * PGQRSI_S3_STRAY;
    pgqrsi_s3_put(stray, 8, birth);
    pgqrsi_s3_put(stray + 8, 8, part->seq);
    pgqrsi_s3_put(stray + 16, 8, part->id);
    pgqrsi_s3_put(stray + 24, 4, pgqrsi_s3_crc(0, stray, 24));
    pgqrsi_s3_write_strays(self, strays, count + 1);
}

/* Puts a part where no other one can be. False: it may be there or not, and is not to be named; the pages go elsewhere. */
static bool pgqrsi_s3_put_part(pgqrsi_s3 *self, const pgqrsi_s3_plan *plan, const pgqrsi_s3_part *part,
                               const unsigned char *data, size_t size, pgqrsi_s3_patience *patience)
{
    char name[PGQRSI_S3_PART_NAME];
    pgqrsi_s3_request request;
    pgqrs_http_reply reply;
    bool done;
    pgqrsi_s3_add_stray(self, plan->birth, part);
    pgqrsi_s3_part_name(part->seq, part->id, name);
    memset(&request, 0, sizeof(request));
    request.method = "PUT";
    request.part = name;
    request.condition = "if-none-match";
    request.etag = "*";
    request.body = data;
    request.body_size = size;
    request.timeout_ms = pgqrsi_s3_timeout_ms(self, patience);
    pgqrsi_s3_send(self, &request, &reply);
    done = reply.status >= 200 && reply.status < 300;
    if (!done) self->parts_pause_us = pgqrs_backend_monotonic() + 5000000;
    pgqrsi_s3_reply_end(self, &reply);
    return done;
}

static pgqrsi_s3_part pgqrsi_s3_new_part(const pgqrsi_s3_plan *plan, uint32_t kind, uint32_t pages, uint64_t upto)
{
    pgqrsi_s3_part part;
    part.seq = plan->me.seq;
    part.id = pgqrsi_s3_unique();
    part.upto = upto;
    part.pages = pages;
    part.kind = kind;
    part.crc = 0;
    return part;
}

/* The whole file becomes the first part, instead of all that there are. With an older `upto` than this commit the pages in the head stay
 * there, so that nobody who knows them has to fetch it. */
static bool pgqrsi_s3_make_whole(pgqrsi_s3 *self, pgqrsi_s3_plan *plan, uint64_t upto, pgqrsi_s3_patience *patience)
{
    pgqrsi_s3_part part = pgqrsi_s3_new_part(plan, PGQRSI_S3_WHOLE, plan->page_count, upto);
    size_t size = (size_t)plan->page_count * plan->page_size;
    part.crc = pgqrsi_s3_crc(0, plan->image, size);
    if (!pgqrsi_s3_put_part(self, plan, &part, plan->image, size, patience)) return false;
    pgqrsi_s3_retire_from(plan, 0);
    plan->parts[plan->part_count++] = part;
    return true;
}

/* The flagged pages become a part, instead of those from `from` on. */
static bool pgqrsi_s3_make_pages(pgqrsi_s3 *self, pgqrsi_s3_plan *plan, const unsigned char *flags, uint32_t pages,
                                 uint32_t from, uint64_t upto, pgqrsi_s3_patience *patience)
{
    pgqrsi_s3_part part = pgqrsi_s3_new_part(plan, PGQRSI_S3_PAGES, pages, upto);
    pgqrsi_s3_bytes bytes;
    bool done;
    memset(&bytes, 0, sizeof(bytes));
    if (!pgqrsi_s3_reserve(self->store, &bytes, pgqrsi_s3_part_size(&part, plan->page_size))) return false;
    pgqrsi_s3_encode_part(&bytes, &part, plan->birth, plan->image, plan->page_size, plan->page_count, flags);
    done = pgqrsi_s3_put_part(self, plan, &part, bytes.data, bytes.size, patience);
    pgqrsi_s3_release(self->store, &bytes);
    if (!done) return false;
    pgqrsi_s3_retire_from(plan, from);
    plan->parts[plan->part_count++] = part;
    return true;
}

/* Makes the last parts one, of which nobody needs anything who knows them. */
static void pgqrsi_s3_merge_parts(pgqrsi_s3 *self, pgqrsi_s3_plan *plan, pgqrsi_s3_patience *patience)
{
    bool may_whole = pgqrs_backend_monotonic() >= self->whole_pause_us;
    uint32_t from = pgqrsi_s3_choose_merge(plan->parts, plan->part_count, plan->page_count, may_whole), i, pages = 0;
    uint64_t above, upto = plan->parts[plan->part_count - 1].upto;
    pgqrsi_s3_bytes flags;
    if (from == plan->part_count) return;
    if (from == 0) { /* it may be too large for request_timeout_ms, and goes on in parts meanwhile */
        if (!pgqrsi_s3_make_whole(self, plan, upto, patience))
            self->whole_pause_us = pgqrs_backend_monotonic() + 60000000;
        return;
    }
    above = plan->parts[from - 1].upto;
    memset(&flags, 0, sizeof(flags));
    if (!pgqrsi_s3_reserve(self->store, &flags, plan->page_count)) return;
    for (i = 0; i < plan->page_count; i++) {
        uint64_t born = pgqrsi_s3_born(plan->born, i);
        flags.data[i] = born > above && born <= upto;
        pages += flags.data[i];
    }
    if (pages > 0)
        pgqrsi_s3_make_pages(self, plan, flags.data, pages, from, upto, patience);
    else
        pgqrsi_s3_retire_from(plan, from); /* all of them have become newer, or are beyond the end */
    pgqrsi_s3_release(self->store, &flags);
}

/* Flags what differs from base, and what is in its head; the rest is in parts. False: too much for that. */
static bool pgqrsi_s3_compare_pages(const pgqrsi_s3 *self, pgqrsi_s3_plan *plan)
{
    const pgqrsi_s3_trailer *old = &self->trailer;
    size_t size = plan->page_size;
    uint32_t i;
    if (self->presence != PGQRSI_S3_PRESENT || !pgqrsi_s3_in_parts(old) || old->page_size != plan->page_size)
        return false;
    memset(plan->flags, 0, plan->page_count);
    for (i = 0; i < old->number_count; i++)
        if (pgqrsi_s3_number_at(old, i) < plan->page_count)
            plan->flags[pgqrsi_s3_number_at(old, i)] = PGQRSI_S3_CARRIED;
    plan->sum = old->sum;
    for (i = 0; i < plan->page_count || i < old->page_count; i++) {
        const unsigned char *now = plan->image + i * size, *before = self->base.data + i * size;
        bool is = i < plan->page_count, was = i < old->page_count;
        if (is) pgqrsi_s3_set_born(plan->born, i, was ? pgqrsi_s3_born(&self->born, i) : PGQRSI_S3_UNBORN);
        if (is && was && memcmp(now, before, size) == 0) continue;
        if (is) plan->flags[i] = PGQRSI_S3_CHANGED;
        if (is) plan->sum += pgqrsi_s3_page_sum(i, now, size);
        if (was) plan->sum -= pgqrsi_s3_page_sum(i, before, size);
    }
    plan->flagged = plan->changed = 0;
    for (i = 0; i < plan->page_count; i++) {
        plan->flagged += plan->flags[i] != 0;
        plan->changed += plan->flags[i] == PGQRSI_S3_CHANGED;
    }
    return plan->flagged <= plan->page_count / 2;
}

/* These pages are in a part; they need not be in the head. */
static void pgqrsi_s3_unflag(pgqrsi_s3_plan *plan, const unsigned char *pages)
{
    uint32_t i;
    for (i = 0; i < plan->page_count; i++) {
        if (!pages[i]) continue;
        pgqrsi_s3_set_born(plan->born, i, plan->me.seq);
        plan->flags[i] = 0;
        plan->flagged--;
    }
}

/* Writes the pages with these flags, some of those in the plan, or the whole file if that is due. */
static void pgqrsi_s3_write_part(pgqrsi_s3 *self, pgqrsi_s3_plan *plan, const unsigned char *flags, uint32_t pages,
                                 pgqrsi_s3_patience *patience)
{
    bool done, whole = pgqrs_backend_monotonic() >= self->whole_pause_us &&
                       pgqrsi_s3_is_whole_due(plan->parts, plan->part_count, pages, plan->page_count);
    if (whole)
        done = pgqrsi_s3_make_whole(self, plan, plan->me.seq, patience);
    else
        done = pgqrsi_s3_make_pages(self, plan, flags, pages, plan->part_count, plan->me.seq, patience);
    if (done)
        pgqrsi_s3_unflag(plan, flags);
    else if (whole)
        self->whole_pause_us = pgqrs_backend_monotonic() + 60000000;
}

/* Pages of the head become a part: all of them, or those that it would have from the heads before. */
static void pgqrsi_s3_relieve_head(pgqrsi_s3 *self, pgqrsi_s3_plan *plan, bool all, pgqrsi_s3_patience *patience)
{
    pgqrsi_s3_bytes flags;
    uint32_t i, pages = 0;
    memset(&flags, 0, sizeof(flags));
    if (!pgqrsi_s3_reserve(self->store, &flags, plan->page_count)) return;
    for (i = 0; i < plan->page_count; i++) {
        flags.data[i] = all ? plan->flags[i] != 0 : plan->flags[i] == PGQRSI_S3_CARRIED;
        pages += flags.data[i];
    }
    if (pages > 0) pgqrsi_s3_write_part(self, plan, flags.data, pages, patience);
    pgqrsi_s3_release(self->store, &flags);
}

/* How many pages the head may have. A commit that changed few is not to carry many of others; to one that changed more the others' may
 * come along, as long as they take less time than a part would, once in so many commits. */
static uint32_t pgqrsi_s3_head_room(const pgqrsi_s3_plan *plan)
{
    uint32_t most = PGQRSI_S3_HEAD_BYTES / plan->page_size;
    if (plan->changed <= PGQRSI_S3_HEAD_PAGES) return PGQRSI_S3_HEAD_PAGES;
    return plan->changed < most / 16 ? plan->changed * 16 : most;
}

/* Decides what is written beside the head, and writes it. False: nothing, the object is to be all in one. */
static bool pgqrsi_s3_plan_parts(pgqrsi_s3 *self, pgqrsi_s3_plan *plan, pgqrsi_s3_patience *patience)
{
    bool pause = pgqrs_backend_monotonic() < self->parts_pause_us;
    if (!pgqrsi_s3_compare_pages(self, plan) || self->trailer.part_count >= PGQRSI_S3_PARTS_MAX) {
        memset(plan->flags, PGQRSI_S3_CHANGED, plan->page_count);
        plan->flagged = plan->page_count;
        pgqrsi_s3_unflag(plan, plan->flags);
        plan->sum = pgqrsi_s3_image_sum(plan->image, plan->page_size, 0, plan->page_count);
        return !pause && pgqrsi_s3_make_whole(self, plan, plan->me.seq, patience);
    }
    /* Whoever has just lost a race does without, and whatever does not work now is left for the next commit. */
    if (pause || self->lost) return true;
    if (plan->flagged <= pgqrsi_s3_head_room(plan))
        pgqrsi_s3_merge_parts(self, plan, patience);
    else /* with more than half of the room changed, every other commit would write a part anyway */
        pgqrsi_s3_relieve_head(self, plan, plan->changed > PGQRSI_S3_HEAD_BYTES / plan->page_size / 2, patience);
    return true;
}

/* The file that the head begins with, for whoever opens it with something else. It says where the rest is. */
static bool pgqrsi_s3_make_cover(pgqrsi_s3 *self, const pgqrsi_s3_part *whole)
{
    char name[PGQRSI_S3_PART_NAME], *sql = NULL;
    sqlite3 *db = NULL;
    sqlite3_int64 size = 0;
    unsigned char *data = NULL;
    bool done = false;
    if (self->cover.size > 0 && self->cover_of == whole->id) return true;
    pgqrsi_s3_part_name(whole->seq, whole->id, name);
    sql = sqlite3_mprintf(
        "PRAGMA page_size=512; CREATE TABLE pgqrs_s3(about TEXT, file TEXT) STRICT; INSERT INTO pgqrs_s3 VALUES("
        "'This object is the head of a queue; what it says follows the end of this file, and the rest is in parts "
        "beside it, in a folder "
        "of its name and .d; pgqrs copy and pgqrs_s3_export make one file of it. Older, but whole: the file that is "
        "named here.',%Q)",
        name);
    if (sql && sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK &&
        sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK)
        data = sqlite3_serialize(db, "main", &size, 0);
    if (data && pgqrsi_s3_reserve(self->store, &self->cover, (size_t)size)) {
        memcpy(self->cover.data, data, (size_t)size);
        self->cover.size = (size_t)size;
        self->cover_of = whole->id;
        done = true;
    }
    sqlite3_free(data);
    sqlite3_close(db);
    sqlite3_free(sql);
    return done;
}

/* Everything in the trailer that version 2 has more. */
static void pgqrsi_s3_append_parts(pgqrsi_s3_bytes *body, const pgqrsi_s3_plan *plan, bool parts)
{
    unsigned char *next = body->data + body->size, *pages;
    uint32_t i, flagged = parts ? plan->flagged : 0;
    memset(next, 0, PGQRSI_S3_TRAILER_MORE);
    pgqrsi_s3_put(next, 4, parts ? plan->page_size : 0);
    pgqrsi_s3_put(next + 4, 4, parts ? plan->page_count : 0);
    pgqrsi_s3_put(next + 8, 8, parts ? plan->sum : 0);
    pgqrsi_s3_put(next + 16, 4, parts ? plan->part_count : 0);
    pgqrsi_s3_put(next + 20, 4, plan->retired_count);
    pgqrsi_s3_put(next + 24, 4, flagged);
    next += PGQRSI_S3_TRAILER_MORE;
    for (i = 0; parts && i < plan->part_count; i++, next += PGQRSI_S3_TRAILER_PART) {
        pgqrsi_s3_put(next, 8, plan->parts[i].seq);
        pgqrsi_s3_put(next + 8, 8, plan->parts[i].id);
        pgqrsi_s3_put(next + 16, 8, plan->parts[i].upto);
        pgqrsi_s3_put(next + 24, 4, plan->parts[i].pages);
        pgqrsi_s3_put(next + 28, 4, plan->parts[i].kind);
        pgqrsi_s3_put(next + 32, 8, plan->parts[i].crc);
    }
    for (i = 0; i < plan->retired_count; i++, next += PGQRSI_S3_TRAILER_RETIRED) {
        pgqrsi_s3_put(next, 8, plan->retired[i].seq);
        pgqrsi_s3_put(next + 8, 8, plan->retired[i].id);
        pgqrsi_s3_put(next + 16, 8, (uint64_t)plan->retired[i].at_us);
    }
    pages = next + (size_t)flagged * 4;
    for (i = 0; flagged > 0 && i < plan->page_count; i++) {
        if (!plan->flags[i]) continue;
        pgqrsi_s3_put(next, 4, i);
        memcpy(pages, plan->image + (size_t)i * plan->page_size, plan->page_size);
        next += 4;
        pages += plan->page_size;
    }
    body->size = (size_t)(pages - body->data);
}

static size_t pgqrsi_s3_parts_room(const pgqrsi_s3_plan *plan)
{
    return PGQRSI_S3_TRAILER_MORE + (size_t)plan->part_count * PGQRSI_S3_TRAILER_PART +
           (size_t)plan->retired_count * PGQRSI_S3_TRAILER_RETIRED +
           (size_t)plan->flagged * ((size_t)plan->page_size + 4);
}

static pgqrs_result pgqrsi_s3_check_build(pgqrsi_s3 *self, pgqrsi_s3_commit *commit)
{
    if (pgqrsi_s3_parse(commit->body.data, commit->body.size, &commit->trailer) == PGQRSI_S3_FINE) return PGQRS_OK;
    return pgqrs_backend_fail(self->store, PGQRS_ERR_INTERNAL, 0, NULL, "%s: SQLite gave a file that is none",
                              self->name);
}

/* The object is the file, a trailer, and the names of what is still to be deleted since it was in parts. */
static pgqrs_result pgqrsi_s3_build_whole(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, pgqrsi_s3_plan *plan, size_t size)
{
    pgqrsi_s3_bytes *body = &commit->body;
    uint32_t flags = pgqrsi_s3_flags(self);
    if (!pgqrsi_s3_reserve(self->store, body, size + pgqrsi_s3_trailer_room(plan->old) + pgqrsi_s3_parts_room(plan)))
        return pgqrsi_s3_no_memory(self);
    memcpy(body->data, plan->image, size);
    body->size = size;
    if (plan->retired_count == 0) {
        pgqrsi_s3_append_trailer(body, plan->old, plan->birth, flags, self->place, &plan->me);
    } else {
        pgqrsi_s3_append_writers(body, PGQRSI_S3_TRAILER_PARTS, plan->old, plan->birth, flags, self->place, &plan->me);
        pgqrsi_s3_append_parts(body, plan, false);
        pgqrsi_s3_append_crc(body);
    }
    return pgqrsi_s3_check_build(self, commit);
}

static pgqrs_result pgqrsi_s3_build_head(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, pgqrsi_s3_plan *plan)
{
    pgqrsi_s3_bytes *body = &commit->body;
    size_t size = (size_t)plan->page_count * plan->page_size;
    if (!pgqrsi_s3_make_cover(self, &plan->parts[0]) ||
        !pgqrsi_s3_reserve(self->store, body,
                           self->cover.size + pgqrsi_s3_trailer_room(plan->old) + pgqrsi_s3_parts_room(plan)) ||
        !pgqrsi_s3_reserve(self->store, &commit->image, size))
        return pgqrsi_s3_no_memory(self);
    memcpy(commit->image.data, plan->image, size);
    commit->image.size = size;
    memcpy(body->data, self->cover.data, self->cover.size);
    body->size = self->cover.size;
    pgqrsi_s3_append_writers(body, PGQRSI_S3_TRAILER_PARTS, plan->old, plan->birth, pgqrsi_s3_flags(self), self->place,
                             &plan->me);
    pgqrsi_s3_append_parts(body, plan, true);
    pgqrsi_s3_append_crc(body);
    return pgqrsi_s3_check_build(self, commit);
}

static pgqrs_result pgqrsi_s3_build_for(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, const unsigned char *image,
                                        size_t size, const pgqrsi_s3_trailer *old, pgqrsi_s3_patience *patience)
{
    pgqrsi_s3_plan plan;
    pgqrsi_s3_bytes flags;
    bool parts = false;
    pgqrs_result result;
    memset(&plan, 0, sizeof(plan));
    memset(&flags, 0, sizeof(flags));
    plan.image = image;
    plan.birth = pgqrsi_s3_birth(self);
    if (!image) return pgqrsi_s3_no_memory(self);
    if (size > self->most)
        return pgqrs_backend_fail(
            self->store, PGQRS_ERR_FULL, 0, NULL,
            "%s would be larger than max_object_bytes of pgqrs_s3_desc: raise it, or remove messages", self->name);
    plan.old = old;
    plan.me.id = commit->id;
    plan.me.counter = commit->counter;
    plan.me.seq = self->trailer.seq + 1;
    plan.me.at_us = pgqrsi_s3_clock(self);
    pgqrsi_s3_plan_begin(self, &plan);
    if (!commit->create && pgqrsi_s3_wants_parts(self, image, size)) {
        plan.page_size = pgqrsi_s3_page_size(image);
        plan.page_count = (uint32_t)(size / plan.page_size);
        commit->born.size = (size_t)plan.page_count * 8;
        plan.born = &commit->born;
        if (!pgqrsi_s3_reserve(self->store, &flags, plan.page_count) ||
            !pgqrsi_s3_reserve(self->store, &commit->born, commit->born.size)) {
            pgqrsi_s3_release(self->store, &flags);
            return pgqrsi_s3_no_memory(self);
        }
        plan.flags = flags.data;
        parts = pgqrsi_s3_plan_parts(self, &plan, patience);
    }
    if (!parts) {
        pgqrsi_s3_retire_from(&plan, 0);
        pgqrsi_s3_release(self->store, &commit->born);
    }
    result = parts ? pgqrsi_s3_build_head(self, commit, &plan) : pgqrsi_s3_build_whole(self, commit, &plan, size);
    pgqrsi_s3_release(self->store, &flags);
    return result;
}

/* `staged`: who has a part in it; NULL: we alone. */
static pgqrs_result pgqrsi_s3_build(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, const unsigned char *image, size_t size,
                                    const pgqrsi_s3_staged *staged, pgqrsi_s3_patience *patience)
{
    pgqrsi_s3_trailer old = self->trailer;
    pgqrsi_s3_bytes writers;
    uint32_t i, k, last = staged ? staged->count - 1 : 0;
    pgqrs_result result;
    memset(&writers, 0, sizeof(writers));
    commit->id = staged ? staged->ids[last] : self->writer;
    commit->counter = staged ? staged->counters[last] : ++self->counter;
    if (!pgqrsi_s3_reserve(self->store, &writers,
                           ((size_t)self->trailer.writer_count + last + 1) * PGQRSI_S3_TRAILER_WRITER))
        return pgqrsi_s3_no_memory(self);
    old.writers = writers.data;
    old.writer_count = 0;
    for (i = 0; i < self->trailer.writer_count; i++) {
        pgqrsi_s3_writer writer = pgqrsi_s3_writer_at(&self->trailer, i);
        for (k = 0; k < last && staged->ids[k] != writer.id; k++) {
        }
        if (k == last)
            pgqrsi_s3_put_writer(writers.data + (size_t)PGQRSI_S3_TRAILER_WRITER * old.writer_count++, &writer);
    }
    for (k = 0; k < last; k++) {
        pgqrsi_s3_writer writer;
        writer.id = staged->ids[k];
        writer.counter = staged->counters[k];
        writer.seq = self->trailer.seq + 1;
        writer.at_us = pgqrsi_s3_clock(self);
        pgqrsi_s3_put_writer(writers.data + (size_t)PGQRSI_S3_TRAILER_WRITER * old.writer_count++, &writer);
    }
    result = pgqrsi_s3_build_for(self, commit, image, size, &old, patience);
    pgqrsi_s3_release(self->store, &writers);
    return result;
}

/* --- parts that are not needed any more */

static bool pgqrsi_s3_delete_part(pgqrsi_s3 *self, uint64_t seq, uint64_t id, const pgqrsi_s3_patience *patience)
{
    char name[PGQRSI_S3_PART_NAME];
    pgqrsi_s3_request request;
    pgqrs_http_reply reply;
    bool done;
    pgqrsi_s3_part_name(seq, id, name);
    memset(&request, 0, sizeof(request));
    request.method = "DELETE";
    request.part = name;
    request.timeout_ms = pgqrsi_s3_timeout_ms(self, patience);
    if (request.timeout_ms > 2000) request.timeout_ms = 2000;
    pgqrsi_s3_send(self, &request, &reply);
    done = (reply.status >= 200 && reply.status < 300) || reply.status == 404;
    if (done) self->tidied[self->tidied_count++ % 16] = id;
    if (!done) self->tidy_pause_us = pgqrs_backend_monotonic() + 60000000;
    if (!done && reply.status == 403)
        pgqrs_backend_log(self->store, PGQRS_LOG_WARN,
                          "%s: parts that are not needed any more cannot be deleted; the key needs s3:DeleteObject for "
                          "them",
                          self->name);
    pgqrsi_s3_reply_end(self, &reply);
    return done;
}

/* Does the head name it? */
static bool pgqrsi_s3_names_part(const pgqrsi_s3_trailer *trailer, uint64_t id)
{
    uint32_t i;
    for (i = 0; i < trailer->part_count; i++)
        if (pgqrsi_s3_part_at(trailer, i).id == id) return true;
    for (i = 0; i < trailer->retired_count; i++)
        if (pgqrsi_s3_retired_at(trailer, i).id == id) return true;
    return false;
}

/* A commit that would have named a stray has either been made, and then a head named it, or can never be made any more, since its seq
 * has passed. */
static void pgqrsi_s3_tidy_strays(pgqrsi_s3 *self, const pgqrsi_s3_patience *patience)
{
    unsigned char strays[PGQRSI_S3_STRAYS_MAX * PGQRSI_S3_STRAY];
    size_t count = pgqrsi_s3_read_strays(self, strays), kept = 0, i;
    bool stop = false; /* one request at a time */
    for (i = 0; i < count; i++) {
        unsigned char *stray = strays + i * PGQRSI_S3_STRAY;
        uint64_t seq = pgqrsi_s3_get(stray + 8, 8), id = pgqrsi_s3_get(stray + 16, 8);
        if (pgqrsi_s3_get(stray, 8) != self->trailer.birth || pgqrsi_s3_names_part(&self->trailer, id)) continue;
        if (seq <= self->trailer.seq && !stop && pgqrsi_s3_delete_part(self, seq, id, patience)) {
            stop = true;
            continue;
        }
        memmove(strays + kept++ * PGQRSI_S3_STRAY, stray, PGQRSI_S3_STRAY);
        stop = true;
    }
    if (kept < count) pgqrsi_s3_write_strays(self, strays, kept);
}

/* Is there anything that could be deleted now? */
static bool pgqrsi_s3_is_untidy(pgqrsi_s3 *self)
{
    char path[4200];
    int64_t before_us = pgqrsi_s3_clock(self) - PGQRSI_S3_GRACE_US;
    uint32_t i;
    if (pgqrs_backend_monotonic() < self->tidy_pause_us) return false;
    for (i = 0; i < self->trailer.retired_count; i++) {
        pgqrsi_s3_retired retired = pgqrsi_s3_retired_at(&self->trailer, i);
        if (retired.at_us <= before_us && !pgqrsi_s3_is_tidied(self, retired.id)) return true;
    }
    snprintf(path, sizeof(path), "%s/strays", self->directory);
    return access(path, F_OK) == 0;
}

/* After a commit: deletes some of what no head names any more. */
static void pgqrsi_s3_tidy(pgqrsi_s3 *self, const pgqrsi_s3_patience *patience)
{
    int64_t before_us = pgqrsi_s3_clock(self) - PGQRSI_S3_GRACE_US;
    uint32_t i, deleted = 0;
    if (pgqrs_backend_monotonic() < self->tidy_pause_us) return;
    pgqrsi_s3_tidy_strays(self, patience);
    for (i = 0; i < self->trailer.retired_count && deleted < 2; i++) {
        pgqrsi_s3_retired retired = pgqrsi_s3_retired_at(&self->trailer, i);
        if (retired.at_us > before_us || pgqrsi_s3_is_tidied(self, retired.id)) continue;
        if (!pgqrsi_s3_delete_part(self, retired.seq, retired.id, patience)) return;
        deleted++;
    }
}

/* A try of this call is given up although nothing proves that it can never be committed: until the next one is, see to it that no two of
 * them are. */
static void pgqrsi_s3_doubt(pgqrsi_s3 *self, uint64_t counter, uint64_t seq)
{
    if (self->doubt_counter == 0) self->doubt_counter = counter;
    if (self->doubt_seq < seq) self->doubt_seq = seq;
}

static pgqrs_result pgqrsi_s3_fail_untold(pgqrsi_s3 *self)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, 0, NULL,
                              "%s was replaced by a version that does not tell whether the change was in it",
                              self->name);
}

/* Before the call is carried out on base once more: none of its tries may be in there. */
static pgqrs_result pgqrsi_s3_check_doubt(pgqrsi_s3 *self)
{
    const pgqrsi_s3_trailer *now = &self->trailer;
    if (self->doubt_counter == 0 || self->presence != PGQRSI_S3_PRESENT) return PGQRS_OK;
    if (pgqrsi_s3_last_commit(now, self->writer) >= self->doubt_counter)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, 0, NULL,
                                  "%s: the change was carried out, by a try that was given up for lost, so its results "
                                  "are not known",
                                  self->name);
    if (now->horizon >= self->doubt_seq) return pgqrsi_s3_fail_untold(self);
    if (now->seq >= self->doubt_seq) self->doubt_counter = self->doubt_seq = 0; /* its place is taken */
    return PGQRS_OK;
}

/* Base is what the store has now: are we in it? */
static pgqrsi_s3_outcome pgqrsi_s3_find_commit(pgqrsi_s3 *self, pgqrsi_s3_commit *commit)
{
    const pgqrsi_s3_trailer *now = &self->trailer;
    if (now->birth == commit->trailer.birth &&
        (commit->create || pgqrsi_s3_last_commit(now, commit->id) >= commit->counter))
        return PGQRSI_S3_LANDED;
    /* Whoever made the object from nothing gave it another birth; otherwise it must be a successor of what we built on, and one
     * whose writers are all known. */
    if (commit->create ? now->birth != commit->trailer.birth
                       : now->birth == commit->trailer.birth && now->seq >= commit->trailer.seq &&
                             now->horizon < commit->trailer.seq)
        return PGQRSI_S3_LOST;
    /* Replaced as a whole, or an earlier version restored, and no try of ours left open. */
    if (!commit->uncertain && (now->birth != commit->trailer.birth || now->seq < commit->trailer.seq)) {
        if (now->birth == commit->trailer.birth && commit->id == self->writer)
            pgqrsi_s3_doubt(self, commit->counter, commit->trailer.seq);
        return PGQRSI_S3_LOST;
    }
    commit->result = pgqrsi_s3_fail_untold(self);
    return PGQRSI_S3_FAILED;
}

/* Looks what the store has. *again: exactly the version we built on, so the same bytes may be sent again. */
static pgqrsi_s3_outcome pgqrsi_s3_resolve(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, int status,
                                           pgqrsi_s3_patience *patience, bool *again)
{
    bool moved;
    pgqrs_result result = pgqrsi_s3_look(self, patience, &moved);
    *again = false;
    if (result == PGQRS_OK && moved) return pgqrsi_s3_find_commit(self, commit);
    if (result == PGQRS_OK) {
        *again = true;
        return PGQRSI_S3_LOST;
    }
    /* Only a look that went well says that nothing happened; not even a 412 does, which may be for a second try by a proxy. What
     * cannot be read, or is of a newer schema, may have been made of our commit. */
    if (result != PGQRS_ERR_OBJECT_GONE) {
        pgqrs_error why = *pgqrs_last_error(self->store);
        commit->uncertain = true;
        result = pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, 0, NULL,
                                    "%s: it could not be found out what became of a commit: HTTP %d, then %s (%s)",
                                    self->name, status, pgqrs_result_name(result), why.message);
    }
    commit->result = result;
    return PGQRSI_S3_FAILED;
}

static void pgqrsi_s3_slow_down(pgqrsi_s3 *self, const pgqrs_http_reply *reply)
{
    int64_t wish_us = reply->retry_after_ms * 1000;
    self->pace_us = self->pace_us < 50000 ? 100000 : self->pace_us * 2;
    if (self->pace_us > 2000000) self->pace_us = 2000000;
    if (self->pace_us < wish_us) self->pace_us = wish_us < 5000000 ? wish_us : 5000000;
}

/* Nothing can be tried any more. */
static pgqrsi_s3_outcome pgqrsi_s3_give_up(pgqrsi_s3 *self, pgqrsi_s3_commit *commit)
{
    if (commit->uncertain)
        commit->result = pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, 0, NULL,
                                            "%s: the store took longer than deadline_ms for a commit; it may still be "
                                            "carried out",
                                            self->name);
    else
        commit->result =
            pgqrs_backend_fail(self->store, commit->slowed ? PGQRS_ERR_BUSY : PGQRS_ERR_CONNECTION, 0, NULL,
                               "%s: the store did not take a commit within deadline_ms%s", self->name,
                               commit->slowed ? "; it asks for fewer requests (HTTP 429)" : "");
    return PGQRSI_S3_FAILED;
}

static pgqrsi_s3_outcome pgqrsi_s3_put_later(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, int64_t least_ms,
                                             pgqrsi_s3_patience *patience, bool *again)
{
    *again = pgqrsi_s3_back_off(self, patience, least_ms);
    return *again ? PGQRSI_S3_LOST : pgqrsi_s3_give_up(self, commit);
}

/* 412 although the condition holds: this store compares ETags without their quotes, or with them, or it was a whim. */
static pgqrsi_s3_outcome pgqrsi_s3_put_refused(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, pgqrsi_s3_patience *patience,
                                               bool *again)
{
    if (self->etag[0] == '"' && !commit->create) self->bare_etag = !self->bare_etag;
    if (++commit->refusals == 1) return PGQRSI_S3_LOST;
    if (commit->refusals < 8) return pgqrsi_s3_put_later(self, commit, 0, patience, again);
    *again = false;
    commit->result = pgqrs_backend_fail(
        self->store, commit->uncertain ? PGQRS_ERR_OUTCOME_UNKNOWN : PGQRS_ERR_UNSUPPORTED, 412, NULL,
        "%s: the store refuses a condition that holds (HTTP 412 for the ETag it gave)", self->name);
    return PGQRSI_S3_FAILED;
}

/* May a PUT with this status have been carried out, or refused because an earlier try of it was? Only a look can tell. */
static bool pgqrsi_s3_needs_look(const pgqrs_http_reply *reply)
{
    int status = reply->status;
    if (status < 0 || status == 429) return false;
    if (status == 404) return strcmp(reply->code, "NoSuchBucket") != 0;
    return status < 300 || status == 409 || status == 412 || pgqrsi_s3_is_passing(reply);
}

static void pgqrsi_s3_adopt_commit(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, const char *etag)
{
    bool parts = pgqrsi_s3_in_parts(&commit->trailer);
    pgqrsi_s3_version version;
    memset(&version, 0, sizeof(version));
    version.trailer = commit->trailer;
    version.base = parts ? commit->image : commit->body;
    version.born = commit->born;
    if (parts) version.head = commit->body;
    pgqrsi_s3_adopt(self, &version, etag);
    memset(&commit->body, 0, sizeof(commit->body));
    memset(&commit->image, 0, sizeof(commit->image));
    memset(&commit->born, 0, sizeof(commit->born));
    pgqrsi_s3_drop_version(self->store, &version);
}

/* What a PUT's status means. *again: send the same bytes once more. */
static pgqrsi_s3_outcome pgqrsi_s3_read_put(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, pgqrs_http_reply *reply,
                                            pgqrsi_s3_patience *patience, bool *again)
{
    int status = reply->status;
    *again = false;
    if (status >= 200 && status < 300 && reply->etag[0]) {
        pgqrsi_s3_adopt_commit(self, commit, reply->etag);
        self->verified_at_us = pgqrs_backend_monotonic();
        self->pace_us = self->pace_us > 20000 ? self->pace_us * 9 / 10 : 0;
        return PGQRSI_S3_LANDED;
    }
    commit->slowed = status == 429;
    if (status == 429 || status == 503)
        pgqrsi_s3_slow_down(self, reply);
    else if (status == 412)
        self->pace_us = self->pace_us > 20000 ? self->pace_us * 9 / 10 : 0;
    if (pgqrsi_s3_needs_look(reply)) {
        pgqrsi_s3_outcome outcome;
        if (status < 300 || pgqrsi_s3_is_passing(reply)) commit->uncertain = true;
        outcome = pgqrsi_s3_resolve(self, commit, status, patience, again);
        if (!*again) return outcome;
        if (status == 412) return pgqrsi_s3_put_refused(self, commit, patience, again);
        return pgqrsi_s3_put_later(self, commit, reply->retry_after_ms, patience, again);
    }
    if (status < 0 || status == 429) return pgqrsi_s3_put_later(self, commit, reply->retry_after_ms, patience, again);
    if (status == 403 && strcmp(reply->code, "RequestTimeTooSkewed") == 0 && commit->skewed++ == 0) {
        *again = true; /* our clock has just been set by the Date of the refusal */
        return PGQRSI_S3_LOST;
    }
    self->cause = commit->result = pgqrsi_s3_fail_status(self, reply);
    if (commit->uncertain)
        commit->result = pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, status, NULL,
                                            "%s: the store was lost during a commit, and now refuses (HTTP %d %s)",
                                            self->name, status, reply->code);
    return PGQRSI_S3_FAILED;
}

static pgqrsi_s3_outcome pgqrsi_s3_put_body(pgqrsi_s3 *self, pgqrsi_s3_commit *commit, pgqrsi_s3_patience *patience)
{
    for (;;) {
        pgqrsi_s3_request request;
        pgqrs_http_reply reply;
        pgqrsi_s3_outcome outcome;
        bool again;
        memset(&request, 0, sizeof(request));
        request.method = "PUT";
        request.condition = commit->create ? "if-none-match" : "if-match";
        request.etag = commit->create ? "*" : self->etag;
        request.body = commit->body.data;
        request.body_size = commit->body.size;
        request.timeout_ms = pgqrsi_s3_timeout_ms(self, patience);
        self->put_at_us = pgqrs_backend_monotonic();
        pgqrsi_s3_send(self, &request, &reply);
        outcome = pgqrsi_s3_read_put(self, commit, &reply, patience, &again);
        pgqrsi_s3_reply_end(self, &reply);
        if (!again) return outcome;
        if (pgqrsi_s3_left_us(patience) <= 0) return pgqrsi_s3_give_up(self, commit);
    }
}

/* Two requests that must fail: conditions that do not hold, with the very bytes that are there already. */
static pgqrs_result pgqrsi_s3_prove(pgqrsi_s3 *self, pgqrsi_s3_patience *patience)
{
    static const char *const conditions[2][2] = {{"if-match", "\"pgqrs-not-the-etag\""}, {"if-none-match", "*"}};
    int i = 0, skewed = 0;
    while (i < 2) {
        pgqrsi_s3_request request;
        pgqrs_http_reply reply;
        pgqrs_result result = PGQRS_OK;
        int status;
        bool again;
        memset(&request, 0, sizeof(request));
        request.method = "PUT";
        request.condition = conditions[i][0];
        request.etag = conditions[i][1];
        request.body = pgqrsi_s3_stored(self)->data;
        request.body_size = pgqrsi_s3_stored(self)->size;
        request.timeout_ms = pgqrsi_s3_timeout_ms(self, patience);
        status = pgqrsi_s3_send(self, &request, &reply);
        again = pgqrsi_s3_is_passing(&reply) ||
                (status == 403 && strcmp(reply.code, "RequestTimeTooSkewed") == 0 && skewed++ == 0);
        if (status == 412 || status == 409)
            i++;
        else if ((status >= 200 && status < 300) || status == 501)
            result =
                pgqrs_backend_fail(self->store, PGQRS_ERR_UNSUPPORTED, status, NULL,
                                   "%s: this store does not honour conditions on PUT (%s, HTTP %d), so commits would "
                                   "overwrite each other; use one that does",
                                   self->name, conditions[i][0], status);
        else
            result = pgqrsi_s3_fail_status(self, &reply);
        again = again && result != PGQRS_OK && pgqrsi_s3_back_off(self, patience, reply.retry_after_ms);
        pgqrsi_s3_reply_end(self, &reply);
        if (result != PGQRS_OK && !again) return result;
    }
    self->proven = true;
    return PGQRS_OK;
}

/* Stores the image as the successor of base. `staged`: the writers who have a part in it, or NULL. `*uncertain`: a try of it may have been
 * made already; then: its outcome is unknown. Whoever calls saves base. */
static pgqrsi_s3_outcome pgqrsi_s3_push_for(pgqrsi_s3 *self, const unsigned char *image, size_t size,
                                            const pgqrsi_s3_staged *staged, bool *uncertain,
                                            pgqrsi_s3_patience *patience, pgqrs_result *result)
{
    pgqrsi_s3_commit commit;
    pgqrsi_s3_outcome outcome = PGQRSI_S3_FAILED;
    memset(&commit, 0, sizeof(commit));
    commit.create = self->presence != PGQRSI_S3_PRESENT;
    if (!commit.create && !self->proven) commit.result = pgqrsi_s3_prove(self, patience);
    if (commit.result == PGQRS_OK) commit.result = pgqrsi_s3_build(self, &commit, image, size, staged, patience);
    commit.uncertain = *uncertain;
    self->cause = PGQRS_OK;
    if (commit.result == PGQRS_OK) outcome = pgqrsi_s3_put_body(self, &commit, patience);
    *uncertain = commit.uncertain && outcome == PGQRSI_S3_FAILED;
    if (outcome == PGQRSI_S3_LANDED && commit.create) {
        pgqrsi_s3_save(self); /* nobody shares this one */
        commit.result = pgqrsi_s3_prove(self, patience);
    }
    if (outcome == PGQRSI_S3_LANDED && commit.result != PGQRS_OK) outcome = PGQRSI_S3_FAILED;
    self->lost = outcome == PGQRSI_S3_LOST;
    pgqrsi_s3_release(self->store, &commit.body);
    pgqrsi_s3_release(self->store, &commit.image);
    pgqrsi_s3_release(self->store, &commit.born);
    *result = commit.result;
    return outcome;
}

static pgqrsi_s3_outcome pgqrsi_s3_push_image(pgqrsi_s3 *self, const unsigned char *image, size_t size,
                                              pgqrsi_s3_patience *patience, pgqrs_result *result)
{
    bool uncertain = false;
    pgqrsi_s3_outcome outcome = pgqrsi_s3_push_for(self, image, size, NULL, &uncertain, patience, result);
    if (uncertain) self->unsure = true;
    if (outcome == PGQRSI_S3_LANDED) {
        self->unpublished = !pgqrsi_s3_save(self);
        pgqrsi_s3_tidy(self, patience);
    }
    return outcome;
}

/* Stores what db holds now. */
static pgqrsi_s3_outcome pgqrsi_s3_push(pgqrsi_s3 *self, pgqrsi_s3_patience *patience, pgqrs_result *result)
{
    size_t size;
    const unsigned char *image = pgqrsi_s3_image(self, &size);
    pgqrsi_s3_outcome outcome = pgqrsi_s3_push_image(self, image, size, patience, result);
    /* db is what we sent, unless others have committed on top of it meanwhile. */
    self->loaded =
        outcome == PGQRSI_S3_LANDED && size == self->trailer.image_size && memcmp(image, self->base.data, size) == 0;
    if (self->loaded) self->change_counter = pgqrsi_s3_big32(self->base.data + 24);
    return outcome;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>turns: fairness between machines. Whoever has just committed knows the newest version a round trip before all others, and would win
 * again and again. So a machine makes a pause after each commit of its own, in which the others fetch that version and commit. Who the
 * others are shows in the trailer; one that has not won yet does not stand there, so for it there is a pause now and then, and after
 * the first commit of those that were quiet before.
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_S3_CROWD_US INT64_C(10000000) /* a machine counts for this long after its last commit, */
#define PGQRSI_S3_CROWD_COMMITS 24           /* and for so many commits of others */
#define PGQRSI_S3_CROWD_MAX 8
#define PGQRSI_S3_PROBE_US INT64_C(4000000)
#define PGQRSI_S3_YIELD_MAX_US INT64_C(1000000)

/* Does this writer commit these days? */
static bool pgqrsi_s3_is_active(const pgqrsi_s3_trailer *trailer, const pgqrsi_s3_writer *writer, int64_t now_us)
{
    return trailer->seq - writer->seq <= PGQRSI_S3_CROWD_COMMITS && writer->at_us >= now_us - PGQRSI_S3_CROWD_US;
}

/* How many machines do, `me` included; *joins: it does not, so far. */
static int pgqrsi_s3_active_machines(const pgqrsi_s3_trailer *trailer, uint64_t me, int64_t now_us, bool *joins)
{
    uint64_t machines[PGQRSI_S3_CROWD_MAX];
    uint32_t i;
    int count = 1, k;
    machines[0] = me;
    *joins = true;
    for (i = trailer->writer_count; i > 0 && count < PGQRSI_S3_CROWD_MAX; i--) {
        pgqrsi_s3_writer writer = pgqrsi_s3_writer_at(trailer, i - 1);
        uint64_t machine = writer.id >> PGQRSI_S3_MACHINE_SHIFT;
        if (!pgqrsi_s3_is_active(trailer, &writer, now_us)) continue;
        for (k = 0; k < count && machines[k] != machine; k++) {
        }
        if (k == 0) *joins = false;
        if (k == count) machines[count++] = machine;
    }
    return count;
}

static bool pgqrsi_s3_is_of_machine(const pgqrsi_s3_trailer *trailer, uint64_t machine)
{
    return trailer->writer_count > 0 &&
           pgqrsi_s3_writer_at(trailer, trailer->writer_count - 1).id >> PGQRSI_S3_MACHINE_SHIFT == machine;
}

/* The pause after a commit of ours that landed then. Among several, nearly as many round trips as there are others. Alone, two of them,
 * a loser's way from one try to the next, when this machine has just joined, and at the end of each interval. */
static int64_t pgqrsi_s3_yield_us(int machines, bool joined, int64_t round_us, int64_t landed_us, int64_t now_us)
{
    int64_t yield_us = round_us * 7 / 10 * (machines - 1);
    bool probes = joined || (landed_us - round_us) / PGQRSI_S3_PROBE_US != now_us / PGQRSI_S3_PROBE_US;
    if (machines == 1 && probes) yield_us = 2 * round_us;
    if (yield_us > PGQRSI_S3_YIELD_MAX_US) yield_us = PGQRSI_S3_YIELD_MAX_US;
    return now_us >= landed_us && now_us - landed_us < yield_us ? landed_us + yield_us - now_us : 0;
}

/* How long it is still the others' turn, and how many machines there are. */
static int64_t pgqrsi_s3_turn_us(pgqrsi_s3 *self, int *machines)
{
    bool joins, joined = self->joined;
    *machines = pgqrsi_s3_active_machines(&self->trailer, self->machine, pgqrsi_s3_clock(self), &joins);
    self->joined = joins;
    if (!pgqrsi_s3_is_of_machine(&self->trailer, self->machine)) return 0;
    return pgqrsi_s3_yield_us(*machines, joined, self->round_us, self->landed_us, pgqrsi_s3_wall_us());
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>sharing: the stores of one machine put their operations into one commit
 *
 * While a commit is under way (its image and its writers stand in the file "flight"), others carry out their operations on that image
 * and put the outcome down in the file "stage", each on top of the one before, and add themselves to its writers. When the flight has
 * landed, whoever is first makes the stage the next flight. An operation holds when base names its writer; till then its results are
 * held back. lock_fd guards the files and is held for moments, commit_fd is held by the one who sends.
 *
 *   carried out --write_stage--> stage --rename--> flight --PUT--> the store --publish--> base, in the cache
 *        ^                         |                  | refused for certain  |
 *        |                         v                  v                      | 412: another machine was faster
 *        |                   stage.dropped      flight.dropped               v
 *        +---------------------------+------------------+------ base has passed it, and does not name it
 *
 * Every arrow but the PUT is one rename under lock_fd, so a process that is killed or stopped leaves a file in one place or the other:
 *   before write_stage   nothing of it is there
 *   in the stage         others send it; it was never sent before, so that whoever drops a stage may call it undone
 *   in flight            it may have been sent, or may be yet: whoever comes next sends it again, and the PUT's condition lets one in
 *   landed, unpublished  as in flight: 412, and the object names its writers. A store that meets it by a GET publishes it (unpublished)
 *   published            the flight follows an older base and means nothing any more; the stage follows base
 * Stopped with lock_fd it holds up the others until their connect_timeout_ms is over; with commit_fd until they see that nothing moves.
 *
 * A writer who goes again must not be committed twice. What proves that a try is lost is base, which has got past it (is_past), or the
 * file where it was dropped. Where the files tell nothing, since they were damaged or removed, the store is asked; and if even that
 * leaves the try open it is doubted: the operation goes again on base, alone, and if base turns out to name any doubted try it is
 * over, with an unknown outcome. The doubted try and the new one replace the same version, so only one of them can land.
 *
 * The files: 0 magic   8 birth, 16 seq, 24 writer, 32 counter of the commit before   40 number of writers   44 era of the clock
 * 48 bytes of the image   56 until when somebody waits, monotonic   64 writers (id, counter)   CRC-32 of all that   image   CRC-32 of it
 * --------------------------------------------------------------------------------------------------------------- */

#define PGQRSI_S3_STAGED_HEAD 64
#define PGQRSI_S3_STAGED_ROOM (PGQRSI_S3_STAGED_HEAD + 16 * PGQRSI_S3_STAGED_MAX + 4)
#define PGQRSI_S3_GRACE_WAIT_US                                                                                        \
    INT64_C(2000000) /* so long after its deadline a call has certainly looked what became of it */
#define PGQRSI_S3_STUCK_US INT64_C(2000000) /* who does not get on for so long was stopped: others send for him */
#define PGQRSI_S3_ERA_S 60                  /* clocks are set by less */
static const unsigned char pgqrsi_s3_staged_magic[8] = {'p', 'g', 'q', 'r', 's', '-', 'm', '1'};

typedef enum pgqrsi_s3_file {
    PGQRSI_S3_STAGE = 0,
    PGQRSI_S3_FLIGHT = 1,
    PGQRSI_S3_DROPPED_STAGE = 2,
    PGQRSI_S3_DROPPED_FLIGHT = 3,
    PGQRSI_S3_NEW_STAGE = 4
} pgqrsi_s3_file;

static void pgqrsi_s3_shared_name(const pgqrsi_s3 *self, pgqrsi_s3_file file, char out[4400])
{
    static const char *const names[] = {"stage", "flight", "stage.dropped", "flight.dropped", "stage.new"};
    snprintf(out, 4400, "%s/%s", self->shared_path, names[file]);
}

static void pgqrsi_s3_remove_shared(const pgqrsi_s3 *self, pgqrsi_s3_file file)
{
    char path[4400];
    pgqrsi_s3_shared_name(self, file, path);
    unlink(path);
}

/* Of a stage, or of a flight no try of which can have been carried out: its writers find it there, and go again. */
static void pgqrsi_s3_drop_shared(const pgqrsi_s3 *self, pgqrsi_s3_file file)
{
    char path[4400], dropped[4400];
    pgqrsi_s3_shared_name(self, file, path);
    pgqrsi_s3_shared_name(self, file == PGQRSI_S3_STAGE ? PGQRSI_S3_DROPPED_STAGE : PGQRSI_S3_DROPPED_FLIGHT, dropped);
    if (rename(path, dropped) != 0) unlink(path);
}

/* When the file was last written, or touched; 0: it is not there. */
static int64_t pgqrsi_s3_shared_time(const pgqrsi_s3 *self, pgqrsi_s3_file file)
{
    char path[4400];
    struct stat status;
    pgqrsi_s3_shared_name(self, file, path);
    return stat(path, &status) == 0 ? pgqrsi_s3_file_time(&status) : 0;
}

static void pgqrsi_s3_touch_shared(const pgqrsi_s3 *self, pgqrsi_s3_file file)
{
    char path[4400];
    pgqrsi_s3_shared_name(self, file, path);
    utimensat(AT_FDCWD, path, NULL, 0);
}

/* Tells the monotonic clock of this start of the machine from that of another, by when it was zero. */
static uint32_t pgqrsi_s3_era(void)
{
    return (uint32_t)((pgqrsi_s3_wall_us() - pgqrs_backend_monotonic()) / 1000000);
}

static pgqrsi_s3_mark pgqrsi_s3_mark_of_base(const pgqrsi_s3 *self)
{
    const pgqrsi_s3_trailer *trailer = &self->trailer;
    pgqrsi_s3_writer last = pgqrsi_s3_writer_at(trailer, trailer->writer_count - 1);
    pgqrsi_s3_mark mark;
    mark.birth = trailer->birth;
    mark.seq = trailer->seq;
    mark.id = last.id;
    mark.counter = last.counter;
    return mark;
}

static pgqrsi_s3_mark pgqrsi_s3_mark_of(const pgqrsi_s3_staged *staged)
{
    pgqrsi_s3_mark mark;
    mark.birth = staged->after.birth;
    mark.seq = staged->after.seq + 1;
    mark.id = staged->ids[staged->count - 1];
    mark.counter = staged->counters[staged->count - 1];
    return mark;
}

static bool pgqrsi_s3_same_mark(pgqrsi_s3_mark a, pgqrsi_s3_mark b)
{
    return a.birth == b.birth && a.seq == b.seq && a.id == b.id && a.counter == b.counter;
}

static bool pgqrsi_s3_has_writer(const pgqrsi_s3_staged *staged, uint64_t id, uint64_t counter)
{
    uint32_t i;
    for (i = 0; i < staged->count; i++)
        if (staged->ids[i] == id && staged->counters[i] == counter) return true;
    return false;
}

/* The head of the file, with its checksum; its size. */
static size_t pgqrsi_s3_staged_head(const pgqrsi_s3_staged *staged, unsigned char out[PGQRSI_S3_STAGED_ROOM])
{
    size_t size = PGQRSI_S3_STAGED_HEAD, i;
    memset(out, 0, PGQRSI_S3_STAGED_HEAD);
    memcpy(out, pgqrsi_s3_staged_magic, 8);
    pgqrsi_s3_put(out + 8, 8, staged->after.birth);
    pgqrsi_s3_put(out + 16, 8, staged->after.seq);
    pgqrsi_s3_put(out + 24, 8, staged->after.id);
    pgqrsi_s3_put(out + 32, 8, staged->after.counter);
    pgqrsi_s3_put(out + 40, 4, staged->count);
    pgqrsi_s3_put(out + 44, 4, staged->era);
    pgqrsi_s3_put(out + 48, 8, staged->image.size);
    pgqrsi_s3_put(out + 56, 8, (uint64_t)staged->until_us);
    for (i = 0; i < staged->count; i++, size += 16) {
        pgqrsi_s3_put(out + size, 8, staged->ids[i]);
        pgqrsi_s3_put(out + size + 8, 8, staged->counters[i]);
    }
    pgqrsi_s3_put(out + size, 4, pgqrsi_s3_crc(0, out, size));
    return size + 4;
}

/* Reads it back; the size of the image goes to *image_size. 0: it is damaged, or cut off; otherwise the size of the head. */
static size_t pgqrsi_s3_read_staged_head(const unsigned char *data, size_t size, pgqrsi_s3_staged *out,
                                         uint64_t *image_size)
{
    size_t at = PGQRSI_S3_STAGED_HEAD, i;
    if (size < PGQRSI_S3_STAGED_HEAD || memcmp(data, pgqrsi_s3_staged_magic, 8) != 0) return 0;
    out->after.birth = pgqrsi_s3_get(data + 8, 8);
    out->after.seq = pgqrsi_s3_get(data + 16, 8);
    out->after.id = pgqrsi_s3_get(data + 24, 8);
    out->after.counter = pgqrsi_s3_get(data + 32, 8);
    out->count = (uint32_t)pgqrsi_s3_get(data + 40, 4);
    out->era = (uint32_t)pgqrsi_s3_get(data + 44, 4);
    *image_size = pgqrsi_s3_get(data + 48, 8);
    out->until_us = (int64_t)pgqrsi_s3_get(data + 56, 8);
    if (out->count == 0 || out->count > PGQRSI_S3_STAGED_MAX || size < at + (size_t)16 * out->count + 4) return 0;
    for (i = 0; i < out->count; i++, at += 16) {
        out->ids[i] = pgqrsi_s3_get(data + at, 8);
        out->counters[i] = pgqrsi_s3_get(data + at + 8, 8);
    }
    return pgqrsi_s3_crc(0, data, at) == pgqrsi_s3_get(data + at, 4) ? at + 4 : 0;
}

static bool pgqrsi_s3_write_stage(pgqrsi_s3 *self, const pgqrsi_s3_staged *staged)
{
    unsigned char head[PGQRSI_S3_STAGED_ROOM], sum[4];
    char path[4400], temporary[4400];
    size_t head_size = pgqrsi_s3_staged_head(staged, head);
    int descriptor;
    bool done;
    pgqrsi_s3_shared_name(self, PGQRSI_S3_STAGE, path);
    pgqrsi_s3_shared_name(self, PGQRSI_S3_NEW_STAGE, temporary);
    pgqrsi_s3_put(sum, 4, pgqrsi_s3_crc(0, staged->image.data, staged->image.size));
    descriptor = pgqrsi_s3_open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (descriptor < 0 && errno == ENOENT && mkdir(self->shared_path, 0700) == 0)
        descriptor = pgqrsi_s3_open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    done = descriptor >= 0 && pgqrsi_s3_write_all(descriptor, head, head_size) &&
           pgqrsi_s3_write_all(descriptor, staged->image.data, staged->image.size) &&
           pgqrsi_s3_write_all(descriptor, sum, sizeof(sum));
    pgqrsi_s3_close_file(&descriptor);
    if (done && rename(temporary, path) == 0) return true;
    unlink(temporary);
    return false;
}

typedef enum pgqrsi_s3_found {
    PGQRSI_S3_THERE = 0,
    PGQRSI_S3_NOT_THERE = 1, /* or it does not follow `after`, or nobody waits for it any more, or it is damaged */
    PGQRSI_S3_UNREADABLE = 2 /* nobody knows: no memory, an error of the disk */
} pgqrsi_s3_found;

/* What there is of the file, up to its image. UNREADABLE: errno says why. */
static pgqrsi_s3_found pgqrsi_s3_load_head(int descriptor, pgqrsi_s3_staged *out, size_t *head_size,
                                           uint64_t *image_size)
{
    unsigned char head[PGQRSI_S3_STAGED_ROOM];
    struct stat status;
    size_t size;
    if (fstat(descriptor, &status) != 0) return PGQRSI_S3_UNREADABLE;
    size = status.st_size < (off_t)sizeof(head) ? (size_t)status.st_size : sizeof(head);
    if (!pgqrsi_s3_read_at(descriptor, head, size, 0)) return PGQRSI_S3_UNREADABLE;
    *head_size = pgqrsi_s3_read_staged_head(head, size, out, image_size);
    if (*head_size == 0 || *image_size > (uint64_t)status.st_size ||
        *head_size + *image_size + 4 != (uint64_t)status.st_size)
        return PGQRSI_S3_NOT_THERE;
    return PGQRSI_S3_THERE;
}

static pgqrsi_s3_found pgqrsi_s3_load_staged_image(pgqrsi_s3 *self, int descriptor, size_t head_size,
                                                   uint64_t image_size, pgqrsi_s3_bytes *out)
{
    unsigned char sum[4];
    if (image_size > self->most) return PGQRSI_S3_NOT_THERE;
    if (!pgqrsi_s3_reserve(self->store, out, (size_t)image_size)) {
        errno = ENOMEM;
        return PGQRSI_S3_UNREADABLE;
    }
    if (!pgqrsi_s3_read_at(descriptor, out->data, (size_t)image_size, (off_t)head_size) ||
        !pgqrsi_s3_read_at(descriptor, sum, sizeof(sum), (off_t)(head_size + image_size)))
        return PGQRSI_S3_UNREADABLE;
    out->size = (size_t)image_size;
    return pgqrsi_s3_crc(0, out->data, out->size) == pgqrsi_s3_get(sum, 4) ? PGQRSI_S3_THERE : PGQRSI_S3_NOT_THERE;
}

/* Is anybody waiting for it? */
static bool pgqrsi_s3_is_awaited(const pgqrsi_s3_staged *staged)
{
    return staged->until_us > pgqrs_backend_monotonic() &&
           pgqrsi_s3_era() - staged->era + PGQRSI_S3_ERA_S <= 2 * PGQRSI_S3_ERA_S;
}

/* `image`: with its image; otherwise only the head is read. */
static pgqrsi_s3_found pgqrsi_s3_read_shared(pgqrsi_s3 *self, pgqrsi_s3_file file, pgqrsi_s3_mark after, bool image,
                                             pgqrsi_s3_staged *out)
{
    char path[4400];
    size_t head_size = 0;
    uint64_t image_size = 0;
    pgqrsi_s3_found found;
    int descriptor;
    out->count = 0;
    pgqrsi_s3_shared_name(self, file, path);
    descriptor = pgqrsi_s3_open_file(path, O_RDONLY);
    if (descriptor < 0) return errno == ENOENT ? PGQRSI_S3_NOT_THERE : PGQRSI_S3_UNREADABLE;
    found = pgqrsi_s3_load_head(descriptor, out, &head_size, &image_size);
    if (found == PGQRSI_S3_THERE && !pgqrsi_s3_is_awaited(out)) found = PGQRSI_S3_NOT_THERE;
    if (found == PGQRSI_S3_THERE && !pgqrsi_s3_same_mark(out->after, after)) {
        bool ahead = file == PGQRSI_S3_FLIGHT && out->after.birth == after.birth && out->after.seq > after.seq;
        found = ahead ? PGQRSI_S3_UNREADABLE : PGQRSI_S3_NOT_THERE;
        if (ahead) errno = ESTALE; /* it follows what we have not been able to read */
    }
    if (found == PGQRSI_S3_THERE && image)
        found = pgqrsi_s3_load_staged_image(self, descriptor, head_size, image_size, &out->image);
    if (found != PGQRSI_S3_THERE) out->count = 0;
    pgqrsi_s3_close_file(&descriptor);
    return found;
}

static bool pgqrsi_s3_is_dropped_in(const pgqrsi_s3 *self, pgqrsi_s3_file file)
{
    char path[4400];
    pgqrsi_s3_staged dropped;
    size_t head_size;
    uint64_t image_size;
    int descriptor;
    bool found;
    pgqrsi_s3_shared_name(self, file, path);
    descriptor = pgqrsi_s3_open_file(path, O_RDONLY);
    found = descriptor >= 0 && pgqrsi_s3_load_head(descriptor, &dropped, &head_size, &image_size) == PGQRSI_S3_THERE &&
            pgqrsi_s3_has_writer(&dropped, self->writer, self->counter);
    pgqrsi_s3_close_file(&descriptor);
    return found;
}

/* Is our try in what was dropped? */
static bool pgqrsi_s3_is_dropped(const pgqrsi_s3 *self)
{
    return pgqrsi_s3_is_dropped_in(self, PGQRSI_S3_DROPPED_STAGE) ||
           pgqrsi_s3_is_dropped_in(self, PGQRSI_S3_DROPPED_FLIGHT);
}

/* They cannot be read. Nothing that matters hangs on them, so the call goes on alone. */
static pgqrs_result pgqrsi_s3_stay_apart(pgqrsi_s3 *self)
{
    if (errno == ENOMEM) return pgqrsi_s3_no_memory(self);
    if (errno == ESTALE) self->unsure = true; /* base is not the newest: ask the store */
    pgqrs_backend_log(self->store, PGQRS_LOG_WARN, "%s: what is shared with other stores in %s cannot be read: %s",
                      self->name, self->shared_path, strerror(errno));
    self->apart = true;
    return PGQRS_OK;
}

/* Is it still that flight that lies there? */
static bool pgqrsi_s3_is_flight(pgqrsi_s3 *self, const pgqrsi_s3_staged *flight)
{
    pgqrsi_s3_staged now;
    memset(&now, 0, sizeof(now));
    return pgqrsi_s3_read_shared(self, PGQRSI_S3_FLIGHT, flight->after, false, &now) == PGQRSI_S3_THERE &&
           pgqrsi_s3_same_mark(pgqrsi_s3_mark_of(&now), pgqrsi_s3_mark_of(flight));
}

/* The flight came back. It stays when its outcome is unknown, or could not be told to others: then the next one finds it out. */
static void pgqrsi_s3_end_flight(pgqrsi_s3 *self, const pgqrsi_s3_staged *flight, pgqrsi_s3_outcome outcome,
                                 uint64_t known_seq)
{
    if (self->unpublished && pgqrsi_s3_publish(self, known_seq)) self->unpublished = false;
    if (self->unpublished || !pgqrsi_s3_is_flight(self, flight)) return;
    if (outcome == PGQRSI_S3_FAILED)
        pgqrsi_s3_drop_shared(self, PGQRSI_S3_FLIGHT);
    else
        pgqrsi_s3_remove_shared(self, PGQRSI_S3_FLIGHT);
    if (outcome != PGQRSI_S3_LANDED) pgqrsi_s3_drop_shared(self, PGQRSI_S3_STAGE);
}

/* Not before the others know that the commit landed; meanwhile they go on. */
static void pgqrsi_s3_tidy_shared(pgqrsi_s3 *self, const pgqrsi_s3_patience *patience)
{
    if (!pgqrsi_s3_is_untidy(self)) return;
    pgqrsi_s3_unlock(self);
    pgqrsi_s3_tidy(self, patience);
    if (pgqrsi_s3_lock(self) == PGQRS_OK && !pgqrsi_s3_catch_up(self)) pgqrsi_s3_open_up(self);
}

static void pgqrsi_s3_touch_flight(pgqrsi_s3 *self)
{
    pgqrsi_s3_touch_shared(self, PGQRSI_S3_FLIGHT);
    self->flight_us = pgqrsi_s3_shared_time(self, PGQRSI_S3_FLIGHT);
}

/* Whoever takes over the flight touches it, under the lock. */
static bool pgqrsi_s3_flies_alone(const pgqrsi_s3 *self)
{
    return self->flight_us != 0 && pgqrsi_s3_shared_time(self, PGQRSI_S3_FLIGHT) == self->flight_us;
}

/* Whoever sends and waits for another try has not been stopped. */
static void pgqrsi_s3_show_life(pgqrsi_s3 *self)
{
    if (self->flight_us == 0 || pgqrsi_s3_flock(self->lock_fd, LOCK_EX | LOCK_NB) != 0) return;
    if (pgqrsi_s3_flies_alone(self))
        pgqrsi_s3_touch_flight(self);
    else
        self->flight_us = 0;
    pgqrsi_s3_flock(self->lock_fd, LOCK_UN);
}

/* Sends what is in flight, with the files open to others meanwhile. `again`: it may have been sent before. */
static pgqrsi_s3_outcome pgqrsi_s3_fly(pgqrsi_s3 *self, pgqrsi_s3_staged *flight, bool again,
                                       pgqrsi_s3_patience *patience, pgqrs_result *result)
{
    uint64_t seq = self->trailer.seq;
    bool uncertain = again, alone;
    pgqrsi_s3_outcome outcome;
    pgqrsi_s3_touch_flight(self);
    pgqrsi_s3_open_up(self);
    outcome = pgqrsi_s3_push_for(self, flight->image.data, flight->image.size, flight, &uncertain, patience, result);
    if (outcome != PGQRSI_S3_FAILED) self->unpublished = true;
    alone = pgqrsi_s3_lock(self) == PGQRS_OK && pgqrsi_s3_flies_alone(self);
    self->flight_us = 0;
    if (!self->locked || (outcome == PGQRSI_S3_FAILED && (uncertain || !alone))) return outcome;
    pgqrsi_s3_end_flight(self, flight, outcome, seq);
    if (outcome == PGQRSI_S3_LANDED) pgqrsi_s3_tidy_shared(self, patience);
    return outcome;
}

/* Tries to be the one who sends. Only speed hangs on this: if two of them send, the PUT's condition lets one in. */
static bool pgqrsi_s3_take_commit(pgqrsi_s3 *self)
{
    if (self->committing) return true;
    if (pgqrsi_s3_is_replaced(self, "commit", self->commit_fd)) pgqrsi_s3_open_again(self, "commit", &self->commit_fd);
    self->committing = pgqrsi_s3_flock(self->commit_fd, LOCK_EX | LOCK_NB) == 0;
    return self->committing;
}

/* Since when nothing has moved, as far as this store has watched. */
typedef struct pgqrsi_s3_watch {
    int64_t since_us;
    int64_t flight_us;
    int64_t stage_us;
    uint64_t seq;
} pgqrsi_s3_watch;

static bool pgqrsi_s3_is_stuck(pgqrsi_s3 *self, pgqrsi_s3_watch *watch)
{
    int64_t now_us = pgqrs_backend_monotonic(), flight_us = pgqrsi_s3_shared_time(self, PGQRSI_S3_FLIGHT);
    int64_t stage_us = pgqrsi_s3_shared_time(self, PGQRSI_S3_STAGE);
    if (watch->since_us == 0 || watch->flight_us != flight_us || watch->stage_us != stage_us ||
        watch->seq != self->trailer.seq) {
        watch->since_us = now_us;
        watch->flight_us = flight_us;
        watch->stage_us = stage_us;
        watch->seq = self->trailer.seq;
    }
    return now_us - watch->since_us > PGQRSI_S3_STUCK_US + 4 * self->round_us;
}

/* Whoever sends has been stopped: the others get a lock that it does not hold. */
static bool pgqrsi_s3_may_send(pgqrsi_s3 *self, pgqrsi_s3_watch *watch)
{
    char path[4200];
    if (pgqrsi_s3_take_commit(self)) return true;
    if (!pgqrsi_s3_is_stuck(self, watch)) return false;
    memset(watch, 0, sizeof(*watch));
    snprintf(path, sizeof(path), "%s/commit", self->directory);
    if (unlink(path) == 0) pgqrsi_s3_open_again(self, "commit", &self->commit_fd);
    pgqrsi_s3_take_commit(self);
    return true;
}

/* The flight that was left behind, or else the stage, which becomes a flight. */
static pgqrsi_s3_found pgqrsi_s3_take_next(pgqrsi_s3 *self, pgqrsi_s3_staged *next, bool *again)
{
    char stage[4400], flight[4400];
    pgqrsi_s3_mark base = pgqrsi_s3_mark_of_base(self);
    pgqrsi_s3_found found = pgqrsi_s3_read_shared(self, PGQRSI_S3_FLIGHT, base, true, next);
    *again = found == PGQRSI_S3_THERE;
    if (found != PGQRSI_S3_NOT_THERE) return found;
    pgqrsi_s3_remove_shared(self, PGQRSI_S3_FLIGHT); /* what is damaged must not seem to be under way */
    found = pgqrsi_s3_read_shared(self, PGQRSI_S3_STAGE, base, true, next);
    if (found == PGQRSI_S3_NOT_THERE) pgqrsi_s3_drop_shared(self, PGQRSI_S3_STAGE);
    if (found != PGQRSI_S3_THERE) return found;
    pgqrsi_s3_shared_name(self, PGQRSI_S3_STAGE, stage);
    pgqrsi_s3_shared_name(self, PGQRSI_S3_FLIGHT, flight);
    if (rename(stage, flight) != 0) pgqrsi_s3_drop_shared(self, PGQRSI_S3_STAGE);
    /* Another one, or none, when somebody has removed the lock's file, and others have another lock: what we have read may be dropped. */
    return pgqrsi_s3_is_flight(self, next) ? PGQRSI_S3_THERE : PGQRSI_S3_NOT_THERE;
}

/* Sends what is to be sent next. *ours: our try was in it. */
static pgqrs_result pgqrsi_s3_send_next(pgqrsi_s3 *self, pgqrsi_s3_patience *patience, pgqrsi_s3_outcome *outcome,
                                        bool *ours)
{
    pgqrsi_s3_staged next;
    pgqrsi_s3_found found;
    bool again;
    pgqrs_result result = PGQRS_OK;
    memset(&next, 0, sizeof(next));
    *outcome = PGQRSI_S3_LANDED;
    *ours = false;
    if (self->unpublished && pgqrsi_s3_publish(self, 0)) self->unpublished = false;
    found = pgqrsi_s3_take_next(self, &next, &again);
    if (found == PGQRSI_S3_UNREADABLE) result = pgqrsi_s3_stay_apart(self);
    if (found == PGQRSI_S3_THERE) {
        *ours = pgqrsi_s3_has_writer(&next, self->writer, self->counter);
        *outcome = pgqrsi_s3_fly(self, &next, again, patience, &result);
        if (*outcome != PGQRSI_S3_FAILED) result = PGQRS_OK;
    }
    pgqrsi_s3_release(self->store, &next.image);
    return result;
}

/* Lets others have the files for a moment, and looks what has come of it. */
static pgqrs_result pgqrsi_s3_pause_shared(pgqrsi_s3 *self, int64_t us)
{
    pgqrs_result result;
    pgqrsi_s3_open_up(self);
    pgqrsi_s3_real_pause(us);
    result = pgqrsi_s3_lock(self);
    if (result == PGQRS_OK && !pgqrsi_s3_catch_up(self)) {
        result = pgqrsi_s3_no_memory(self);
        pgqrsi_s3_open_up(self); /* with an old base nothing can be told from the files */
    }
    return result;
}

/* The files can follow base. */
static bool pgqrsi_s3_has_mark(const pgqrsi_s3 *self)
{
    return self->presence == PGQRSI_S3_PRESENT && self->trailer.writer_count > 0;
}

/* Base, and commits on top of it, can be shared; otherwise one store alone may do something. */
static bool pgqrsi_s3_may_share(const pgqrsi_s3 *self)
{
    return !self->unsure && !self->unpublished && !self->apart && pgqrsi_s3_has_mark(self);
}

/* What the next operation is to be carried out on: the stage, or else the flight, or else base (then on_tip is false). */
static pgqrs_result pgqrsi_s3_find_tip(pgqrsi_s3 *self, bool *flight)
{
    pgqrsi_s3_staged *tip = &self->tip;
    pgqrsi_s3_mark base = pgqrsi_s3_mark_of_base(self), after = base;
    pgqrsi_s3_found found = pgqrsi_s3_read_shared(self, PGQRSI_S3_FLIGHT, base, false, tip);
    *flight = found == PGQRSI_S3_THERE;
    if (*flight) after = pgqrsi_s3_mark_of(tip);
    if (found != PGQRSI_S3_UNREADABLE) found = pgqrsi_s3_read_shared(self, PGQRSI_S3_STAGE, after, true, tip);
    self->on_tip = found == PGQRSI_S3_THERE;
    if (found == PGQRSI_S3_NOT_THERE) pgqrsi_s3_drop_shared(self, PGQRSI_S3_STAGE);
    if (found == PGQRSI_S3_NOT_THERE && *flight) { /* we begin a stage on it */
        found = pgqrsi_s3_read_shared(self, PGQRSI_S3_FLIGHT, base, true, tip);
        self->on_tip = *flight = found == PGQRSI_S3_THERE;
        if (found == PGQRSI_S3_NOT_THERE) pgqrsi_s3_remove_shared(self, PGQRSI_S3_FLIGHT);
        tip->after = after;
        tip->count = 0;
    }
    return found == PGQRSI_S3_UNREADABLE ? pgqrsi_s3_stay_apart(self) : PGQRS_OK;
}

/* Sends what others have left, before something of ours is carried out. */
static pgqrs_result pgqrsi_s3_send_left(pgqrsi_s3 *self, pgqrsi_s3_patience *patience)
{
    pgqrsi_s3_outcome outcome;
    bool ours;
    pgqrs_result result = pgqrsi_s3_send_next(self, patience, &outcome, &ours);
    if (result == PGQRS_ERR_OUTCOME_UNKNOWN) /* of theirs; of ours nothing was done */
        return pgqrs_backend_fail(self->store, self->cause ? self->cause : PGQRS_ERR_CONNECTION, 0, NULL,
                                  "%s: it could not be found out what became of the commit before", self->name);
    if (result != PGQRS_OK || self->locked) return result;
    result = pgqrsi_s3_lock(self);
    if (result == PGQRS_OK && !pgqrsi_s3_catch_up(self)) result = pgqrsi_s3_no_memory(self);
    return result;
}

/* Waits until there is something to carry an operation out on: the tip, or base, and then nobody else sends anything. `alone`: on base
 * only. It sends what others have left, but only once: while it does there may be more each time, and what was staged then goes again. */
static pgqrs_result pgqrsi_s3_take_tip(pgqrsi_s3 *self, bool alone, pgqrsi_s3_patience *patience)
{
    int64_t end_us = pgqrs_backend_monotonic() + self->patience_us;
    pgqrsi_s3_watch watch;
    pgqrs_result result = PGQRS_OK;
    bool sent = false;
    memset(&watch, 0, sizeof(watch));
    if (self->unpublished && pgqrsi_s3_publish(self, 0)) self->unpublished = false;
    while (result == PGQRS_OK) {
        bool mine = pgqrsi_s3_may_send(self, &watch), flight = false;
        self->on_tip = false;
        if (pgqrsi_s3_may_share(self)) result = pgqrsi_s3_find_tip(self, &flight);
        if (result != PGQRS_OK) return result;
        if (!self->on_tip && mine) return PGQRS_OK;
        if (self->on_tip && !alone && !(mine && flight) && self->tip.count < PGQRSI_S3_STAGED_MAX) return PGQRS_OK;
        if (self->on_tip && mine && sent && !flight) {
            pgqrsi_s3_drop_shared(self, PGQRSI_S3_STAGE);
            continue;
        }
        if (self->on_tip && mine) {
            sent = alone;
            result = pgqrsi_s3_send_left(self, patience);
            continue;
        }
        if (pgqrs_backend_monotonic() > end_us) {
            errno = EWOULDBLOCK;
            return pgqrsi_s3_fail_lock(self);
        }
        result = pgqrsi_s3_pause_shared(self, 1000);
    }
    return result;
}

/* --- after it was carried out */

/* Writes down what db is now, with us among its writers. */
static bool pgqrsi_s3_stage_db(pgqrsi_s3 *self, const pgqrsi_s3_patience *patience)
{
    pgqrsi_s3_staged *tip = &self->tip;
    size_t size, i;
    const unsigned char *image = pgqrsi_s3_image(self, &size);
    if (!self->on_tip) {
        tip->after = pgqrsi_s3_mark_of_base(self);
        tip->count = 0;
    }
    if (tip->count == 0 || tip->until_us < patience->end_us + PGQRSI_S3_GRACE_WAIT_US)
        tip->until_us = patience->end_us + PGQRSI_S3_GRACE_WAIT_US;
    for (i = 0; i < tip->count && tip->ids[i] != self->writer; i++) {
    }
    if (i < tip->count) return false; /* ours is in there already: not ours, then */
    tip->era = pgqrsi_s3_era();
    if (!image || size > self->most || !pgqrsi_s3_reserve(self->store, &tip->image, size)) return false;
    memcpy(tip->image.data, image, size);
    tip->image.size = size;
    tip->ids[tip->count] = self->writer;
    tip->counters[tip->count++] = ++self->counter;
    return pgqrsi_s3_write_stage(self, tip);
}

typedef enum pgqrsi_s3_place {
    PGQRSI_S3_IN_BASE = 0,
    PGQRSI_S3_IN_FLIGHT = 1,
    PGQRSI_S3_IN_STAGE = 2,
    PGQRSI_S3_NOWHERE = 3,
    PGQRSI_S3_NO_IDEA = 4
} pgqrsi_s3_place;

/* Where our operation is now; `staged` counts the writers of the stage. A stage that follows nothing is dropped: if what it follows were
 * found out to have been committed after all, it would come back to life, with what its writers have carried out again by then. */
static pgqrsi_s3_place pgqrsi_s3_find_place(pgqrsi_s3 *self, uint32_t *staged)
{
    pgqrsi_s3_staged found;
    pgqrsi_s3_found flight, stage;
    pgqrsi_s3_mark base;
    *staged = 0;
    if (!pgqrsi_s3_has_mark(self)) return PGQRSI_S3_NOWHERE;
    if (pgqrsi_s3_last_commit(&self->trailer, self->writer) >= self->counter) return PGQRSI_S3_IN_BASE;
    memset(&found, 0, sizeof(found));
    base = pgqrsi_s3_mark_of_base(self);
    flight = pgqrsi_s3_read_shared(self, PGQRSI_S3_FLIGHT, base, false, &found);
    if (flight == PGQRSI_S3_UNREADABLE) return PGQRSI_S3_NO_IDEA;
    if (flight == PGQRSI_S3_THERE) {
        if (pgqrsi_s3_has_writer(&found, self->writer, self->counter)) return PGQRSI_S3_IN_FLIGHT;
        base = pgqrsi_s3_mark_of(&found);
    }
    stage = pgqrsi_s3_read_shared(self, PGQRSI_S3_STAGE, base, false, &found);
    if (stage == PGQRSI_S3_UNREADABLE) return PGQRSI_S3_NO_IDEA;
    if (stage == PGQRSI_S3_NOT_THERE) pgqrsi_s3_drop_shared(self, PGQRSI_S3_STAGE);
    if (stage == PGQRSI_S3_THERE) *staged = found.count;
    return stage == PGQRSI_S3_THERE && pgqrsi_s3_has_writer(&found, self->writer, self->counter) ? PGQRSI_S3_IN_STAGE
                                                                                                 : PGQRSI_S3_NOWHERE;
}

/* What follows `after` can never be committed any more: its place in the history is taken, or that of what it follows. */
static bool pgqrsi_s3_is_past(const pgqrsi_s3 *self, pgqrsi_s3_mark after)
{
    const pgqrsi_s3_trailer *base = &self->trailer;
    if (!pgqrsi_s3_has_mark(self) || base->birth != after.birth || base->horizon > after.seq) return false;
    return base->seq > after.seq ||
           (base->seq == after.seq && !pgqrsi_s3_same_mark(pgqrsi_s3_mark_of_base(self), after));
}

/* Our try follows `after` and is neither in base nor in a file that follows it. `asked`: base was the newest a moment ago. *ask: it has
 * to be. */
static pgqrsi_s3_outcome pgqrsi_s3_judge_nowhere(pgqrsi_s3 *self, pgqrsi_s3_mark after, bool asked, bool *ask,
                                                 pgqrs_result *result)
{
    *ask = false;
    if (pgqrsi_s3_is_past(self, after) || pgqrsi_s3_is_dropped(self)) return PGQRSI_S3_LOST;
    if (self->trailer.birth != after.birth || self->trailer.horizon > after.seq) {
        *result = pgqrsi_s3_fail_untold(self);
        return PGQRSI_S3_FAILED;
    }
    *ask = !asked;
    if (asked) pgqrsi_s3_doubt(self, self->counter, after.seq + 1);
    return PGQRSI_S3_LOST;
}

/* Asks the store, with the files open to others meanwhile. */
static pgqrs_result pgqrsi_s3_ask_shared(pgqrsi_s3 *self, pgqrsi_s3_patience *patience)
{
    bool moved;
    pgqrs_result result;
    pgqrsi_s3_open_up(self);
    result = pgqrsi_s3_look(self, patience, &moved);
    if (result == PGQRS_OK) result = pgqrsi_s3_pause_shared(self, 0);
    return result;
}

/* Before the stage is sent: other machines have their turn, and the stores that shared the last commit, who are about to come again, are
 * waited for during a part of a round trip. */
static pgqrs_result pgqrsi_s3_gather(pgqrsi_s3 *self)
{
    int machines;
    int64_t begin_us = pgqrs_backend_monotonic(), paced_us = self->put_at_us + self->pace_us;
    int64_t turn_us = begin_us + pgqrsi_s3_turn_us(self, &machines), end_us;
    pgqrs_result result = PGQRS_OK;
    uint32_t i, expected = 0, staged;
    if (self->pace_us > 0 && turn_us < paced_us) turn_us = paced_us;
    end_us = begin_us + (self->round_us / 8 < 20000 ? self->round_us / 8 : 20000);
    if (end_us < turn_us) end_us = turn_us;
    for (i = self->trailer.writer_count; i > 0; i--) {
        pgqrsi_s3_writer writer = pgqrsi_s3_writer_at(&self->trailer, i - 1);
        if (writer.seq != self->trailer.seq) break;
        expected += writer.id >> PGQRSI_S3_MACHINE_SHIFT == self->machine;
    }
    while (result == PGQRS_OK && pgqrs_backend_monotonic() < end_us &&
           pgqrsi_s3_find_place(self, &staged) == PGQRSI_S3_IN_STAGE &&
           (staged < expected || pgqrs_backend_monotonic() < turn_us)) {
        pgqrsi_s3_touch_shared(self, PGQRSI_S3_STAGE); /* we have not been stopped */
        result = pgqrsi_s3_pause_shared(self, 500);
    }
    return result;
}

/* Until base has moved, or nobody sends any more. */
static pgqrs_result pgqrsi_s3_wait_shared(pgqrsi_s3 *self)
{
    struct stat before, now;
    int times;
    bool known = stat(self->image_path, &before) == 0;
    pgqrsi_s3_open_up(self);
    for (times = 0; times < 40; times++) {
        pgqrsi_s3_real_pause(500);
        if (pgqrsi_s3_take_commit(self)) break;
        if (stat(self->image_path, &now) != 0 || !known || now.st_ino != before.st_ino) break;
    }
    return pgqrsi_s3_pause_shared(self, 0);
}

/* A flight that nobody else waits for is not sent again: whoever is told that its outcome is unknown looks, and does it again. */
static void pgqrsi_s3_forget_flight(pgqrsi_s3 *self)
{
    pgqrsi_s3_staged flight;
    memset(&flight, 0, sizeof(flight));
    if (pgqrsi_s3_read_shared(self, PGQRSI_S3_FLIGHT, pgqrsi_s3_mark_of_base(self), false, &flight) !=
            PGQRSI_S3_THERE ||
        flight.count > 1 || !pgqrsi_s3_has_writer(&flight, self->writer, self->counter))
        return;
    pgqrsi_s3_remove_shared(self, PGQRSI_S3_FLIGHT);
    self->unsure = true;
}

/* It is over without success. What is only staged can be taken back, and all others in the stage go again. */
static pgqrs_result pgqrsi_s3_leave_shared(pgqrsi_s3 *self, pgqrsi_s3_place place, pgqrs_result why)
{
    if (place == PGQRSI_S3_IN_STAGE) {
        pgqrsi_s3_drop_shared(self, PGQRSI_S3_STAGE);
        if (why != PGQRS_OK && why != PGQRS_ERR_OUTCOME_UNKNOWN) return why;
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BUSY, 0, NULL,
                                  "%s: other stores of this machine took longer than deadline_ms for their commits",
                                  self->name);
    }
    if (place == PGQRSI_S3_IN_FLIGHT) pgqrsi_s3_forget_flight(self);
    if (why == PGQRS_ERR_OUTCOME_UNKNOWN) return why;
    if (why != PGQRS_OK) {
        pgqrs_error cause = *pgqrs_last_error(self->store);
        return pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, 0, NULL,
                                  "%s: it could not be found out what became of a commit: %s (%s)", self->name,
                                  pgqrs_result_name(why), cause.message);
    }
    return pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, 0, NULL,
                              "%s: the store took longer than deadline_ms for a commit; it may still be carried out",
                              self->name);
}

/* Our turn: sends the stage, or the flight that was left behind. *over: `outcome` is that of our operation. */
static pgqrs_result pgqrsi_s3_send_ours(pgqrsi_s3 *self, pgqrsi_s3_place place, pgqrsi_s3_mark after,
                                        pgqrsi_s3_patience *patience, pgqrsi_s3_outcome *outcome, bool *over)
{
    bool ours = false;
    pgqrs_result result = place == PGQRSI_S3_IN_STAGE ? pgqrsi_s3_gather(self) : PGQRS_OK;
    *outcome = PGQRSI_S3_LANDED;
    if (result == PGQRS_OK) result = pgqrsi_s3_send_next(self, patience, outcome, &ours);
    *over = ours && *outcome == PGQRSI_S3_LOST;
    if (*over && self->trailer.birth == after.birth && !pgqrsi_s3_is_past(self, after))
        pgqrsi_s3_doubt(self, self->counter, after.seq + 1); /* an earlier version was restored */
    if (ours && *outcome == PGQRSI_S3_FAILED && self->locked && pgqrsi_s3_is_dropped(self)) *over = true;
    return result;
}

/* It cannot go on, or the files are not ours any more. */
static pgqrsi_s3_outcome pgqrsi_s3_abandon(pgqrsi_s3 *self, pgqrsi_s3_mark after, pgqrs_result *result)
{
    uint32_t staged;
    pgqrsi_s3_place place;
    if (pgqrsi_s3_last_commit(&self->trailer, self->writer) >= self->counter) return PGQRSI_S3_LANDED;
    if (pgqrsi_s3_is_past(self, after)) return PGQRSI_S3_LOST;
    if (!self->locked) { /* once more: what is still in the stage can be taken back */
        pgqrs_error why = *pgqrs_last_error(self->store);
        if (pgqrsi_s3_lock(self) == PGQRS_OK && !pgqrsi_s3_catch_up(self)) pgqrsi_s3_open_up(self);
        if (*result != PGQRS_OK)
            pgqrs_backend_fail(self->store, *result, why.native_code, why.sqlstate, "%s", why.message);
    }
    place = self->locked ? pgqrsi_s3_find_place(self, &staged) : PGQRSI_S3_NO_IDEA;
    *result = pgqrsi_s3_leave_shared(self, place, *result);
    return PGQRSI_S3_FAILED;
}

/* Our operation is in the stage: waits until it is decided, and sends what there is when it is our turn. */
static pgqrsi_s3_outcome pgqrsi_s3_await(pgqrsi_s3 *self, pgqrsi_s3_patience *patience, pgqrs_result *result)
{
    pgqrsi_s3_mark after = self->tip.after;
    pgqrsi_s3_watch watch;
    bool tried = false, asked = false;
    memset(&watch, 0, sizeof(watch));
    *result = PGQRS_OK;
    for (;;) {
        uint32_t staged;
        pgqrsi_s3_outcome outcome = PGQRSI_S3_LANDED;
        pgqrsi_s3_place place = pgqrsi_s3_find_place(self, &staged);
        bool over = false, ask = false;
        if (place == PGQRSI_S3_IN_BASE) return PGQRSI_S3_LANDED;
        if (self->apart && place == PGQRSI_S3_IN_STAGE) pgqrsi_s3_drop_shared(self, PGQRSI_S3_STAGE);
        if (self->apart || place == PGQRSI_S3_NOWHERE || place == PGQRSI_S3_NO_IDEA) {
            outcome = pgqrsi_s3_judge_nowhere(self, after, asked, &ask, result);
            if (!ask) return outcome;
            asked = true;
            *result = pgqrsi_s3_ask_shared(self, patience);
            if (*result == PGQRS_ERR_OBJECT_GONE) return PGQRSI_S3_FAILED;
        } else if (pgqrsi_s3_left_us(patience) <= 0 && (tried || !self->committing)) {
            *result = pgqrsi_s3_leave_shared(self, place, PGQRS_OK);
            return PGQRSI_S3_FAILED;
        } else if (pgqrsi_s3_may_send(self, &watch)) {
            tried = true;
            *result = pgqrsi_s3_send_ours(self, place, after, patience, &outcome, &over);
        } else {
            *result = pgqrsi_s3_wait_shared(self);
        }
        if (over) return outcome;
        if (*result != PGQRS_OK || !self->locked) return pgqrsi_s3_abandon(self, after, result);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>operations: a call is carried out on the copy in memory, by the SQLite backend, and holds once the store has the outcome. It
 * may be carried out several times, on newer and newer versions, and only the last time counts:
 *
 *     op = begin(…); while (again(&op)) { forget what the last time gave; op.result = do it; }  return op.result;
 * --------------------------------------------------------------------------------------------------------------- */

typedef enum pgqrsi_s3_kind {
    PGQRSI_S3_READ = 0,
    PGQRSI_S3_WRITE = 1,
    PGQRSI_S3_CLAIM = 2 /* a write that mostly finds nothing to do: first tried without the lock */
} pgqrsi_s3_kind;

typedef enum pgqrsi_s3_stage {
    PGQRSI_S3_START = 0,
    PGQRSI_S3_RUNNING = 1,
    PGQRSI_S3_PASSING = 2, /* a part of the transaction that is open */
    PGQRSI_S3_OVER = 3
} pgqrsi_s3_stage;

typedef struct pgqrsi_s3_op {
    pgqrsi_s3 *self;
    pgqrsi_s3_kind kind;
    pgqrsi_s3_stage stage;
    bool alone;   /* on base, and nobody sends anything meanwhile */
    bool fresh;   /* we know a version that was the newest since the call began */
    bool discard; /* what this changes is not worth a commit */
    bool relaxed; /* nobody minds when the answer is a little old */
    bool waits;   /* one look of many: nobody minds as long as idle_ms is kept */
    bool beat;    /* what this changes is a heartbeat, which does not mean that there is something to do */
    int64_t begin_us; /* monotonic */
    int64_t given_us;
    int64_t now_us;
    int changes_before;
    pgqrsi_s3_patience patience;
    pgqrs_result result;
} pgqrsi_s3_op;

#define PGQRSI_S3_VERIFY_US INT64_C(60000000) /* a write on a version that is older than this looks first */

static pgqrsi_s3_op pgqrsi_s3_begin(pgqrsi_s3 *self, pgqrsi_s3_kind kind, int64_t now_us)
{
    pgqrsi_s3_op op;
    memset(&op, 0, sizeof(op));
    op.self = self;
    op.kind = kind;
    op.begin_us = pgqrs_backend_monotonic();
    op.given_us = now_us;
    op.patience = pgqrsi_s3_begin_patience(self->deadline_us);
    self->doubt_counter = self->doubt_seq = 0;
    self->apart = false;
    return op;
}

static bool pgqrsi_s3_end(pgqrsi_s3_op *op, pgqrs_result result)
{
    pgqrsi_s3 *self = op->self;
    op->result = result;
    op->stage = PGQRSI_S3_OVER;
    if (result != PGQRS_OK && result != PGQRS_ERR_OUTCOME_UNKNOWN && self->doubt_counter > 0) {
        pgqrs_error why = *pgqrs_last_error(self->store);
        op->result =
            pgqrs_backend_fail(self->store, PGQRS_ERR_OUTCOME_UNKNOWN, 0, NULL,
                               "%s: a try of this change may still be carried out; the last one failed: %s (%s)",
                               self->name, pgqrs_result_name(result), why.message);
    }
    if (!self->spanning) pgqrsi_s3_unlock(self);
    return false;
}

/* Whoever waits, and has just looked, may go by what is known. */
static bool pgqrsi_s3_is_quiet(const pgqrsi_s3_op *op)
{
    const pgqrsi_s3 *self = op->self;
    return op->waits && self->verified_at_us > 0 &&
           pgqrs_backend_monotonic() - self->verified_at_us < self->quiet_us;
}

static pgqrs_result pgqrsi_s3_op_look(pgqrsi_s3_op *op, bool *moved)
{
    pgqrsi_s3 *self = op->self;
    pgqrs_result result = pgqrsi_s3_look(self, &op->patience, moved);
    if (result != PGQRS_OK) return result;
    self->unsure = false;
    op->fresh = true;
    if (!*moved) pgqrsi_s3_vouch(self);
    if (*moved)
        self->quiet_us = 0;
    else if (op->waits)
        self->quiet_us = self->quiet_us < 100000 ? 100000 : self->quiet_us * 3 / 2;
    if (self->quiet_us > self->idle_us) self->quiet_us = self->idle_us;
    return PGQRS_OK;
}

/* Waiting, where it must be, is done before the newest version is asked for: whoever waits with an old one in hand loses. True: what we
 * know is certainly old now. */
static bool pgqrsi_s3_keep_pace(pgqrsi_s3 *self, pgqrsi_s3_patience *patience)
{
    int machines;
    int64_t pace_us = self->put_at_us + self->pace_us - pgqrs_backend_monotonic();
    int64_t yield_us = pgqrsi_s3_turn_us(self, &machines);
    bool paced = self->pace_us > 0 && pace_us > 0 && pace_us < pgqrsi_s3_left_us(patience);
    if (paced)
        pgqrsi_s3_sleep(self, patience, pace_us);
    else if (yield_us > 0)
        pgqrsi_s3_real_pause(yield_us);
    return paced && machines > 1;
}

static pgqrs_result pgqrsi_s3_begin_work(pgqrsi_s3_op *op)
{
    pgqrs_result result = PGQRS_OK;
    if (op->kind != PGQRSI_S3_READ) result = pgqrsi_s3_exec(op->self, "BEGIN IMMEDIATE");
    if (result == PGQRS_OK) op->changes_before = sqlite3_total_changes(op->self->db);
    op->now_us = op->given_us ? op->given_us : pgqrsi_s3_clock(op->self);
    return result;
}

/* On top of what others are about to commit. */
static pgqrs_result pgqrsi_s3_prepare_tip(pgqrsi_s3_op *op)
{
    pgqrsi_s3 *self = op->self;
    pgqrs_result result = pgqrsi_s3_load_image(self, self->tip.image.data, self->tip.image.size);
    op->fresh = false;
    return result == PGQRS_OK ? pgqrsi_s3_begin_work(op) : result;
}

/* Before the operation is carried out: in turn, on the newest version known, inside a transaction. */
static pgqrs_result pgqrsi_s3_prepare(pgqrsi_s3_op *op, bool lock)
{
    pgqrsi_s3 *self = op->self;
    bool moved;
    pgqrs_result result = PGQRS_OK;
    if (lock && !self->locked) {
        result = pgqrsi_s3_lock(self);
        op->patience = pgqrsi_s3_begin_patience(self->deadline_us); /* it is for the store, not for our neighbours */
    }
    if (result != PGQRS_OK) return result;
    if (!self->unsure && !pgqrsi_s3_catch_up(self) && lock) return pgqrsi_s3_no_memory(self);
    if (self->doubt_counter > 0) op->alone = true; /* not on top of its own tries */
    if (!lock) self->on_tip = false;
    if (lock) result = pgqrsi_s3_take_tip(self, op->alone, &op->patience);
    if (result != PGQRS_OK) return result;
    if (self->on_tip) return pgqrsi_s3_prepare_tip(op);
    if (lock && pgqrsi_s3_keep_pace(self, &op->patience)) {
        op->fresh = false;
        self->verified_at_us = 0;
    }
    if (!op->fresh && (self->unsure || self->presence == PGQRSI_S3_UNKNOWN ||
                       (op->kind == PGQRSI_S3_READ && !pgqrsi_s3_is_quiet(op)) ||
                       (lock && (self->verified_at_us == 0 ||
                                 pgqrs_backend_monotonic() - self->verified_at_us > PGQRSI_S3_VERIFY_US))))
        result = pgqrsi_s3_op_look(op, &moved);
    if (result == PGQRS_OK) result = pgqrsi_s3_check_doubt(self);
    if (result == PGQRS_OK) result = pgqrsi_s3_load(self);
    return result == PGQRS_OK ? pgqrsi_s3_begin_work(op) : result;
}

static bool pgqrsi_s3_run(pgqrsi_s3_op *op, bool lock)
{
    pgqrs_result result = pgqrsi_s3_prepare(op, lock);
    if (result != PGQRS_OK) return pgqrsi_s3_end(op, result);
    op->stage = PGQRSI_S3_RUNNING;
    return true;
}

/* An error that says something about the data, which may be different in a newer version. */
static bool pgqrsi_s3_is_answer(pgqrs_result result)
{
    switch (result) {
    case PGQRS_ERR_NO_MEMORY:
    case PGQRS_ERR_INTERNAL:
    case PGQRS_ERR_UNSUPPORTED:
    case PGQRS_ERR_FULL:
    case PGQRS_ERR_BUSY:
        return false;
    default:
        return true;
    }
}

/* Nothing was changed. That is an answer only if it is one about the newest version. */
static bool pgqrsi_s3_answer(pgqrsi_s3_op *op)
{
    pgqrsi_s3 *self = op->self;
    bool moved = false;
    pgqrs_error detail = *pgqrs_last_error(self->store);
    pgqrs_result answer = op->result, result;
    if (op->fresh || !pgqrsi_s3_is_answer(answer) || (answer == PGQRS_OK && (op->relaxed || pgqrsi_s3_is_quiet(op))))
        return pgqrsi_s3_end(op, answer);
    result = pgqrsi_s3_op_look(op, &moved);
    if (result != PGQRS_OK) return pgqrsi_s3_end(op, result);
    if (moved) return pgqrsi_s3_run(op, self->locked);
    if (answer != PGQRS_OK) /* the look may have met errors of its own on the way */
        pgqrs_backend_fail(self->store, answer, detail.native_code, detail.sqlstate, "%s", detail.message);
    return pgqrsi_s3_end(op, answer);
}

/* What was removed leaves pages behind that are uploaded with every commit: when they are most of the file it is made anew. Not
 * being able to is no reason to fail. */
static void pgqrsi_s3_shrink(pgqrsi_s3 *self)
{
    size_t size;
    const unsigned char *data = pgqrsi_s3_image(self, &size);
    uint32_t pages, unused;
    if (!data || size < 100) return;
    pages = pgqrsi_s3_big32(data + 28);
    unused = pgqrsi_s3_big32(data + 36);
    if (pages > 128 && unused > pages / 2) sqlite3_exec(self->db, "VACUUM", NULL, NULL, NULL);
}

/* What is true of the tip may never be true of the object: that is no answer. */
static bool pgqrsi_s3_run_alone(pgqrsi_s3_op *op)
{
    op->alone = true;
    return pgqrsi_s3_run(op, true);
}

/* Stores what db is now: together with other stores of this machine, or alone. */
static pgqrsi_s3_outcome pgqrsi_s3_commit_db(pgqrsi_s3_op *op, pgqrs_result *result)
{
    pgqrsi_s3 *self = op->self;
    pgqrsi_s3_outcome outcome;
    size_t size;
    const unsigned char *image = pgqrsi_s3_image(self, &size);
    if (op->alone || !pgqrsi_s3_may_share(self)) return pgqrsi_s3_push(self, &op->patience, result);
    self->loaded = false;
    if (!pgqrsi_s3_stage_db(self, &op->patience)) {
        if (!self->on_tip) return pgqrsi_s3_push(self, &op->patience, result);
        op->alone = true;
        return PGQRSI_S3_LOST;
    }
    outcome = pgqrsi_s3_await(self, &op->patience, result);
    self->loaded =
        outcome == PGQRSI_S3_LANDED && size == self->trailer.image_size && memcmp(image, self->base.data, size) == 0;
    if (self->loaded) self->change_counter = pgqrsi_s3_big32(self->base.data + 24);
    return outcome;
}

static bool pgqrsi_s3_conclude(pgqrsi_s3_op *op)
{
    pgqrsi_s3 *self = op->self;
    uint64_t seq = self->trailer.seq;
    pgqrs_result result;
    if (op->kind == PGQRSI_S3_READ) return pgqrsi_s3_end(op, op->result);
    if (op->result != PGQRS_OK || op->discard ||
        (op->kind == PGQRSI_S3_CLAIM && sqlite3_total_changes(self->db) == op->changes_before)) {
        pgqrsi_s3_rollback(self);
        return self->on_tip ? pgqrsi_s3_run_alone(op) : pgqrsi_s3_answer(op);
    }
    if (!self->locked) { /* there is something to do: once more, in turn */
        pgqrsi_s3_rollback(self);
        return pgqrsi_s3_run(op, true);
    }
    op->result = pgqrsi_s3_exec(self, "COMMIT");
    if (op->result != PGQRS_OK) {
        pgqrsi_s3_rollback(self);
        return pgqrsi_s3_end(op, op->result);
    }
    if (!pgqrsi_s3_changed(self)) return self->on_tip ? pgqrsi_s3_run_alone(op) : pgqrsi_s3_answer(op);
    pgqrsi_s3_shrink(self);
    switch (pgqrsi_s3_commit_db(op, &result)) {
    case PGQRSI_S3_LANDED:
        if (!op->beat) self->quiet_us = 0;
        return pgqrsi_s3_end(op, PGQRS_OK);
    case PGQRSI_S3_LOST:
        op->fresh = self->trailer.seq != seq && self->verified_at_us >= op->begin_us;
        if (pgqrsi_s3_left_us(&op->patience) > 0) return pgqrsi_s3_run(op, true);
        return pgqrsi_s3_end(op, pgqrs_backend_fail(self->store, PGQRS_ERR_BUSY, 0, NULL, "%s: %s within deadline_ms", self->name,
                                                    self->trailer.seq != seq ? "other machines committed first each time"
                                                                             : "nothing could be sent"));
    default:
        return pgqrsi_s3_end(op, result);
    }
}

static bool pgqrsi_s3_again(pgqrsi_s3_op *op)
{
    switch (op->stage) {
    case PGQRSI_S3_START:
        if (!op->self->spanning && !op->self->local) return pgqrsi_s3_run(op, op->kind == PGQRSI_S3_WRITE);
        op->now_us = op->given_us ? op->given_us : pgqrsi_s3_clock(op->self);
        op->stage = PGQRSI_S3_PASSING;
        return true;
    case PGQRSI_S3_RUNNING:
        return pgqrsi_s3_conclude(op);
    default:
        return false;
    }
}

/* --- a transaction of several calls, and of the program's own statements */

static pgqrs_result pgqrsi_s3_span(pgqrsi_s3 *self)
{
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, PGQRSI_S3_WRITE, 0);
    pgqrs_result result;
    if (self->spanning)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_TRANSACTION, 0, NULL,
                                  "%s is in a transaction already; end it first", self->name);
    op.kind = PGQRSI_S3_READ; /* the inner store begins the transaction itself */
    op.alone = true;
    result = pgqrsi_s3_prepare(&op, true);
    if (result == PGQRS_OK) result = pgqrs_sqlite_backend()->transaction(self->inner, PGQRS_BACKEND_BEGIN);
    if (result == PGQRS_OK)
        self->spanning = true;
    else
        pgqrsi_s3_unlock(self);
    return result;
}

static pgqrs_result pgqrsi_s3_end_span(pgqrsi_s3 *self, pgqrs_backend_verb verb)
{
    pgqrsi_s3_patience patience = pgqrsi_s3_begin_patience(self->deadline_us);
    pgqrs_result result;
    if (!self->spanning && verb == PGQRS_BACKEND_ROLLBACK) return PGQRS_OK;
    if (!self->spanning)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_TRANSACTION, 0, NULL, "%s: there is no transaction to commit",
                                  self->name);
    result = pgqrs_sqlite_backend()->transaction(self->inner, verb);
    self->spanning = false;
    if (verb == PGQRS_BACKEND_COMMIT && result == PGQRS_OK && pgqrsi_s3_changed(self) &&
        pgqrsi_s3_push(self, &patience, &result) == PGQRSI_S3_LOST)
        result = pgqrs_backend_fail(
            self->store, PGQRS_ERR_CONFLICT, 0, NULL,
            "%s: another machine committed during the transaction, which was undone; do it again", self->name);
    /* What the program's statements may have done outside of the transaction is not part of the object. */
    if (result != PGQRS_OK || verb == PGQRS_BACKEND_ROLLBACK) {
        pgqrsi_s3_rollback(self);
        if (pgqrsi_s3_changed(self)) self->loaded = false;
    }
    pgqrsi_s3_unlock(self);
    return result;
}

static pgqrs_result pgqrsi_s3_transact(void *context, pgqrs_backend_verb verb)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    if (self->local) return pgqrs_sqlite_backend()->transaction(self->inner, verb);
    return verb == PGQRS_BACKEND_BEGIN ? pgqrsi_s3_span(self) : pgqrsi_s3_end_span(self, verb);
}

static sqlite3 *pgqrsi_s3_database(void *context)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    return self->local ? pgqrs_sqlite_backend()->database(self->inner) : self->db;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>open and close
 * --------------------------------------------------------------------------------------------------------------- */

static void pgqrsi_s3_close(void *context)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    pgqrs_store *store;
    if (!self) return;
    store = self->store;
    if (self->spanning) pgqrsi_s3_end_span(self, PGQRS_BACKEND_ROLLBACK);
    pgqrsi_s3_close_database(self);
    pgqrsi_s3_unlock(self);
    pgqrsi_s3_close_file(&self->lock_fd);
    pgqrsi_s3_close_file(&self->line_fd);
    pgqrsi_s3_close_file(&self->commit_fd);
    pgqrsi_s3_close_file(&self->wake_fd);
    pgqrsi_s3_release(store, &self->base);
    pgqrsi_s3_release(store, &self->tip.image);
    pgqrsi_s3_release(store, &self->head);
    pgqrsi_s3_release(store, &self->born);
    pgqrsi_s3_release(store, &self->cover);
    pgqrs_free(self->owned);
    pgqrs_backend_free(store, self, sizeof(*self));
}

static pgqrs_result pgqrsi_s3_read_settings(pgqrsi_s3 *self, const char *dsn, const pgqrs_s3_desc *desc)
{
    size_t bucket_size = 0;
    const char *key = NULL;
    pgqrs_result result = pgqrsi_s3_read_dsn(self, dsn, &bucket_size, &key);
    if (result != PGQRS_OK) return result;
    if (!desc || !desc->http.exchange)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BAD_CONFIG, 0, NULL,
                                  "%s: there is no function for HTTP; set pgqrs_store_desc.s3 to a pgqrs_s3_desc with "
                                  "http.exchange, as examples/http_curl.h does",
                                  dsn);
    self->owned = pgqrs_backend_result_new(self->store, 1, 1024);
    if (!self->owned) return pgqrsi_s3_no_memory(self);
    self->http = desc->http;
    self->bucket = pgqrs_backend_result_text(self->owned, dsn + 5, (int64_t)bucket_size);
    if (!self->bucket || !(self->name = pgqrsi_s3_own(self, dsn))) {
        self->name = "the store";
        return pgqrsi_s3_no_memory(self);
    }
    result = pgqrsi_s3_read_numbers(self, desc);
    if (result == PGQRS_OK) result = pgqrsi_s3_read_credentials(self, desc);
    if (result == PGQRS_OK) result = pgqrsi_s3_read_endpoint(self, desc, key);
    if (result == PGQRS_OK) result = pgqrsi_s3_open_cache(self, desc->cache_dir);
    if (result != PGQRS_OK) return result;
    self->machine = pgqrsi_s3_read_machine(self);
    self->writer = pgqrsi_s3_unique() >> (64 - PGQRSI_S3_MACHINE_SHIFT) | self->machine << PGQRSI_S3_MACHINE_SHIFT;
    return PGQRS_OK;
}

#define PGQRSI_S3_REFUSED_US INT64_C(1000000)

/* The object is asked for at once, so that what is wrong with settings, credentials or network shows here. Where nobody listens at
 * all it is rather the endpoint that is wrong than that somebody will do so soon. */
static pgqrs_result pgqrsi_s3_first_look(pgqrsi_s3 *self)
{
    pgqrsi_s3_patience patience =
        pgqrsi_s3_begin_patience(self->patience_us < self->deadline_us ? self->patience_us : self->deadline_us);
    bool moved;
    pgqrs_result result;
    patience.refused_us = pgqrs_backend_monotonic() + PGQRSI_S3_REFUSED_US;
    pgqrsi_s3_catch_up(self);
    result = pgqrsi_s3_look(self, &patience, &moved);
    return result == PGQRS_ERR_OBJECT_GONE ? PGQRS_OK : result; /* said by the first call; bootstrap is one */
}

/* SQLite's own way of waiting tries ever more seldom, so that those who write without a pause keep us out. */
static int pgqrsi_s3_wait_for_file(void *context, int times)
{
    const pgqrsi_s3 *self = (const pgqrsi_s3 *)context;
    (void)times;
    if (pgqrs_backend_monotonic() >= self->file_until_us) return 0;
    pgqrsi_s3_real_pause(300);
    return 1;
}

/* A connection to the local file, which the caller closes; NULL: there is no such file, or no memory. */
static sqlite3 *pgqrsi_s3_connect_local(pgqrsi_s3 *self, int flags)
{
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(self->local_path, &db, SQLITE_OPEN_READWRITE | flags, NULL) == SQLITE_OK) {
        self->file_until_us = pgqrs_backend_monotonic() + self->patience_us;
        sqlite3_busy_handler(db, pgqrsi_s3_wait_for_file, self);
        return db;
    }
    sqlite3_close(db);
    return NULL;
}

/* A new file has nothing to do with what was uploaded before, so that is forgotten first: otherwise it would look like a change of it,
 * and a sync would put it in the object's place. */
static pgqrs_result pgqrsi_s3_make_local(pgqrsi_s3 *self)
{
    pgqrs_result result = pgqrsi_s3_lock(self);
    if (result != PGQRS_OK) return result;
    if (access(self->local_path, F_OK) != 0) {
        sqlite3 *db = NULL;
        int rc = unlink(self->image_path) == 0 || errno == ENOENT ? SQLITE_OK : SQLITE_CANTOPEN;
        if (unlink(self->pending_path) != 0 && errno != ENOENT) rc = SQLITE_CANTOPEN;
        if (unlink(self->arriving_path) != 0 && errno != ENOENT) rc = SQLITE_CANTOPEN;
        if (rc == SQLITE_OK) db = pgqrsi_s3_connect_local(self, SQLITE_OPEN_CREATE);
        rc = db ? sqlite3_exec(db, "PRAGMA page_size=1024; VACUUM", NULL, NULL, NULL) : SQLITE_CANTOPEN;
        sqlite3_close(db);
        if (rc != SQLITE_OK && rc != SQLITE_BUSY)
            result = pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, rc, NULL, "%s: the file %s cannot be made",
                                        self->name, self->local_path);
    }
    pgqrsi_s3_unlock(self);
    return result;
}

/* In local mode nobody is asked anything: the file is made, or is what it was when the last program ended. */
static pgqrs_result pgqrsi_s3_open_local(pgqrsi_s3 *self)
{
    pgqrs_backend_open request;
    char dsn[4200];
    if (access(self->local_path, F_OK) != 0) {
        pgqrs_result result = pgqrsi_s3_make_local(self);
        if (result != PGQRS_OK) return result;
    }
    self->local_settings = *pgqrs_store_settings(self->store);
    self->local_settings.sqlite_wal = PGQRS_OFF; /* so that the file alone is all there is */
    memset(&request, 0, sizeof(request));
    snprintf(dsn, sizeof(dsn), "sqlite://%s", self->local_path);
    request.dsn = dsn;
    request.settings = &self->local_settings;
    return pgqrs_sqlite_backend()->open(self->store, &request, &self->inner);
}

static PGQRSI_RARE pgqrs_result pgqrsi_s3_open(pgqrs_store *store, const pgqrs_backend_open *request, void **out)
{
    pgqrsi_s3 *self;
    pgqrs_result result;
    *out = NULL;
    if (!request->dsn)
        return pgqrs_backend_fail(store, PGQRS_ERR_INVALID_ARGUMENT, 0, NULL, "a connection is not for S3");
    self = (pgqrsi_s3 *)pgqrs_backend_alloc(store, sizeof(*self));
    if (!self) return pgqrs_backend_fail(store, PGQRS_ERR_NO_MEMORY, 0, NULL, "no memory for a store");
    self->store = store;
    self->name = "the store";
    self->line_fd = self->lock_fd = self->commit_fd = self->wake_fd = -1;
    self->patience_us = request->settings->connect_timeout_ms * 1000;
    self->offset_us = pgqrsi_s3_wall_us() - pgqrs_backend_monotonic();
    result = pgqrsi_s3_read_settings(self, request->dsn, request->settings->s3);
    if (result == PGQRS_OK) result = self->local ? pgqrsi_s3_open_local(self) : pgqrsi_s3_first_look(self);
    if (result != PGQRS_OK) {
        pgqrsi_s3_close(self);
        return result;
    }
    *out = self;
    return PGQRS_OK;
}

static uint32_t pgqrsi_s3_capabilities(void *context)
{
    const pgqrsi_s3 *self = (const pgqrsi_s3 *)context;
    if (self->local) return PGQRS_CAN_CLOCK | pgqrs_sqlite_backend()->capabilities(self->inner);
    return PGQRS_CAN_CLOCK | PGQRS_CAN_SHARE | (self->wake_fd >= 0 ? PGQRS_CAN_WAKE : 0u);
}

static pgqrs_result pgqrsi_s3_now(void *context, int64_t *now_us)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    bool hooked = pgqrs_store_settings(self->store)->clock.now_us != NULL;
    *now_us = hooked ? pgqrs_backend_clock(self->store) : pgqrsi_s3_clock(self);
    return PGQRS_OK;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>calls: those of the backend interface, each an operation
 * --------------------------------------------------------------------------------------------------------------- */

/* The frame of a call: `call` is what the SQLite backend is asked, `forget` undoes what an earlier time gave. */
#define PGQRSI_S3_OPERATION(context, kind, now, forget, call)                                                          \
    pgqrsi_s3 *self = (pgqrsi_s3 *)(context);                                                                          \
    const pgqrs_backend *sqlite = pgqrs_sqlite_backend();                                                              \
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, (kind), (now));                                                            \
    while (pgqrsi_s3_again(&op)) {                                                                                     \
        forget;                                                                                                        \
        op.result = sqlite->call;                                                                                      \
    }                                                                                                                  \
    if (op.result != PGQRS_OK) {                                                                                       \
        forget;                                                                                                        \
    }                                                                                                                  \
    return op.result

#define PGQRSI_S3_NOTHING (void)0
#define PGQRSI_S3_FREE(out) (pgqrs_free(*(out)), *(out) = NULL)

static pgqrs_result pgqrsi_s3_install(void *context, int64_t now_us)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING, install(self->inner, op.now_us));
}

static pgqrs_result pgqrsi_s3_uninstall(void *context)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, 0, PGQRSI_S3_NOTHING, uninstall(self->inner));
}

static pgqrs_result pgqrsi_s3_verify(void *context)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, 0, PGQRSI_S3_NOTHING, verify(self->inner));
}

static pgqrs_result pgqrsi_s3_schema_version(void *context, int32_t *version)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, 0, *version = 0, schema_version(self->inner, version));
}

static pgqrs_result pgqrsi_s3_queue_create(void *context, int64_t now_us, const char *queue,
                                           const pgqrs_queue_desc *settings, bool *created)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        queue_create(self->inner, op.now_us, queue, settings, created));
}

static pgqrs_result pgqrsi_s3_queue_change(void *context, const char *queue, const pgqrs_backend_queue_change *change)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, 0, PGQRSI_S3_NOTHING, queue_change(self->inner, queue, change));
}

static pgqrs_result pgqrsi_s3_queue_list(void *context, const char *queue_or_null, int64_t after_id, size_t limit,
                                         pgqrs_queues **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, 0, PGQRSI_S3_FREE(out),
                            queue_list(self->inner, queue_or_null, after_id, limit, out));
    }
}

static pgqrs_result pgqrsi_s3_queue_delete(void *context, int64_t now_us, const char *queue, bool force)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        queue_delete(self->inner, op.now_us, queue, force));
}

static pgqrs_result pgqrsi_s3_queue_purge(void *context, int64_t now_us, const char *queue,
                                          const pgqrs_purge_desc *desc, int64_t *removed)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, *removed = 0,
                        queue_purge(self->inner, op.now_us, queue, desc, removed));
}

static pgqrs_result pgqrsi_s3_enqueue(void *context, const pgqrs_backend_enqueue *request, pgqrs_receipt *receipts)
{
    pgqrs_backend_enqueue mine = *request;
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, request->now_us, mine.now_us = op.now_us,
                        enqueue(self->inner, &mine, receipts));
}

static pgqrs_result pgqrsi_s3_extend(void *context, const pgqrs_backend_extend *request)
{
    pgqrs_backend_extend mine = *request;
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, request->now_us, mine.now_us = op.now_us, extend(self->inner, &mine));
}

/* --- claim and settle */

static void pgqrsi_s3_forget_claim(pgqrs_backend_claim *claim, bool first)
{
    size_t i;
    if (!claim || first) return;
    for (i = 0; claim->runs && claim->messages && i < claim->messages->count; i++)
        PGQRSI_S3_FREE(&claim->runs[i]);
    PGQRSI_S3_FREE(&claim->messages);
}

/* A heartbeat goes along with whatever else is committed. Alone it waits until the last one stored is old, which it is later when
 * the worker holds no message that others might want. What is odd about the worker is for the call itself to say. */
static bool pgqrsi_s3_beat_is_due(pgqrsi_s3 *self, pgqrs_worker_ref worker, int64_t now_us)
{
    pgqrs_workers *found = NULL;
    bool due = true;
    if (self->heartbeat_us == 0) return true;
    if (pgqrs_sqlite_backend()->worker_list(self->inner, now_us, worker.id, NULL, &found) == PGQRS_OK &&
        found->count > 0 && found->items[0].epoch == worker.epoch) {
        int64_t age_us = now_us - found->items[0].heartbeat_at_us, most_us = self->heartbeat_us;
        if (found->items[0].held == 0 && most_us < self->idle_heartbeat_us) most_us = self->idle_heartbeat_us;
        due = age_us >= most_us || age_us <= -most_us;
    }
    pgqrs_free(found);
    return due;
}

static pgqrs_result pgqrsi_s3_exchange(void *context, pgqrs_backend_exchange *exchange)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    pgqrs_backend_claim *claim = exchange->claim;
    int64_t given_us = exchange->now_us;
    bool first = true, beat = claim && claim->heartbeat && claim->worker.id;
    pgqrsi_s3_op op =
        pgqrsi_s3_begin(self, exchange->verdict_count ? PGQRSI_S3_WRITE : PGQRSI_S3_CLAIM, exchange->now_us);
    op.waits = claim && claim->waits && exchange->verdict_count == 0;
    while (pgqrsi_s3_again(&op)) {
        pgqrsi_s3_forget_claim(claim, first);
        first = false;
        exchange->now_us = op.now_us;
        if (beat)
            claim->heartbeat =
                self->locked || exchange->verdict_count > 0 || pgqrsi_s3_beat_is_due(self, claim->worker, op.now_us);
        op.result = pgqrs_sqlite_backend()->exchange(self->inner, exchange);
        op.beat = beat && !claim->messages && exchange->verdict_count == 0;
    }
    if (op.result != PGQRS_OK) pgqrsi_s3_forget_claim(claim, first);
    if (beat) claim->heartbeat = true;
    exchange->now_us = given_us;
    return op.result;
}

/* --- waiting: every commit of a store on this machine ends with a rename in the cache directory */

static pgqrs_result pgqrsi_s3_wait_begin(void *context, int64_t now_us, const char *queue, int64_t for_us)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    if (self->local) return pgqrs_sqlite_backend()->wait_begin(self->inner, now_us, queue, for_us);
    pgqrsi_s3_drain(self);
    return PGQRS_OK;
}

static pgqrs_result pgqrsi_s3_run_wait_begin(void *context, int64_t now_us, int64_t run_id, int64_t for_us)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    if (self->local) return pgqrs_sqlite_backend()->run_wait_begin(self->inner, now_us, run_id, for_us);
    self->waiting_run_id = run_id;
    pgqrsi_s3_drain(self);
    return PGQRS_OK;
}

static int pgqrsi_s3_wait_fd(void *context)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    return self->local ? pgqrs_sqlite_backend()->wait_fd(self->inner) : self->wake_fd;
}

static void pgqrsi_s3_wait_end(void *context)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    if (self->local) pgqrs_sqlite_backend()->wait_end(self->inner);
    self->waiting_run_id = 0;
    pgqrsi_s3_drain(self);
}

/* --- messages */

static pgqrs_result pgqrsi_s3_message_get(void *context, int64_t now_us, int64_t id, pgqrs_message **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, PGQRSI_S3_FREE(out),
                            message_get(self->inner, op.now_us, id, out));
    }
}

static pgqrs_result pgqrsi_s3_message_list(void *context, int64_t now_us, const pgqrs_message_filter *filter,
                                           pgqrs_messages **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, PGQRSI_S3_FREE(out),
                            message_list(self->inner, op.now_us, filter, out));
    }
}

static pgqrs_result pgqrsi_s3_message_count(void *context, int64_t now_us, const pgqrs_message_filter *filter,
                                            int64_t *count)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, *count = 0,
                        message_count(self->inner, op.now_us, filter, count));
}

static pgqrs_result pgqrsi_s3_message_delete(void *context, int64_t now_us, const int64_t *ids, size_t count,
                                             bool force, pgqrs_result *results)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        message_delete(self->inner, op.now_us, ids, count, force, results));
}

static pgqrs_result pgqrsi_s3_message_update(void *context, int64_t now_us, int64_t id, const char *payload,
                                             size_t payload_size)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        message_update(self->inner, op.now_us, id, payload, payload_size));
}

static pgqrs_result pgqrsi_s3_message_replay(void *context, int64_t now_us, const int64_t *ids, size_t count,
                                             pgqrs_result *results)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        message_replay(self->inner, op.now_us, ids, count, results));
}

/* --- workers */

static pgqrs_result pgqrsi_s3_worker_register(void *context, int64_t now_us, const char *name,
                                              const char *queue_or_null, int64_t stale_us, int64_t epoch,
                                              pgqrs_worker_ref *out)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        worker_register(self->inner, op.now_us, name, queue_or_null, stale_us, epoch, out));
}

/* A mere heartbeat is tried on the copy, which tells whether the worker is still what it was, and kept when it is due. */
static pgqrs_result pgqrsi_s3_worker_change(void *context, pgqrs_backend_worker_change *change)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    int64_t given_us = change->now_us;
    bool mere = change->to == 0 && change->beat && change->worker.epoch;
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, mere ? PGQRSI_S3_CLAIM : PGQRSI_S3_WRITE, change->now_us);
    op.beat = mere;
    while (pgqrsi_s3_again(&op)) {
        change->now_us = op.now_us;
        op.discard = mere && !pgqrsi_s3_beat_is_due(self, change->worker, op.now_us);
        op.result = pgqrs_sqlite_backend()->worker_change(self->inner, change);
    }
    change->now_us = given_us;
    return op.result;
}

static pgqrs_result pgqrsi_s3_worker_list(void *context, int64_t now_us, int64_t id_or_0,
                                          const pgqrs_worker_filter *filter, pgqrs_workers **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, PGQRSI_S3_FREE(out),
                            worker_list(self->inner, op.now_us, id_or_0, filter, out));
    }
}

static pgqrs_result pgqrsi_s3_worker_count(void *context, int64_t now_us, const pgqrs_worker_filter *filter,
                                           int64_t *count)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, *count = 0,
                        worker_count(self->inner, op.now_us, filter, count));
}

static pgqrs_result pgqrsi_s3_worker_release(void *context, int64_t now_us, int64_t worker_id, const char *reason,
                                             int64_t *released)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, *released = 0,
                        worker_release(self->inner, op.now_us, worker_id, reason, released));
}

static pgqrs_result pgqrsi_s3_worker_delete(void *context, int64_t now_us, int64_t worker_id, bool force)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        worker_delete(self->inner, op.now_us, worker_id, force));
}

static pgqrs_result pgqrsi_s3_worker_reclaim(void *context, int64_t now_us, const char *queue_or_null,
                                             int64_t older_than_us, const char *reason, int64_t *workers,
                                             int64_t *messages)
{
    PGQRSI_S3_OPERATION(
        context, PGQRSI_S3_WRITE, now_us, *workers = *messages = 0,
        worker_reclaim(self->inner, op.now_us, queue_or_null, older_than_us, reason, workers, messages));
}

static pgqrs_result pgqrsi_s3_worker_purge(void *context, int64_t now_us, int64_t older_than_us, int64_t *removed)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, *removed = 0,
                        worker_purge(self->inner, op.now_us, older_than_us, removed));
}

/* --- numbers and housekeeping */

static pgqrs_result pgqrsi_s3_metrics(void *context, int64_t now_us, const char *queue_or_null, pgqrs_metrics **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, PGQRSI_S3_FREE(out),
                            metrics(self->inner, op.now_us, queue_or_null, out));
    }
}

static pgqrs_result pgqrsi_s3_worker_stats(void *context, int64_t now_us, const char *queue_or_null, int64_t stale_us,
                                           pgqrs_worker_stats *out)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, PGQRSI_S3_NOTHING,
                        worker_stats(self->inner, op.now_us, queue_or_null, stale_us, out));
}

/* What a worker does now and then, mostly for nothing: then it asks nobody. */
static pgqrs_result pgqrsi_s3_maintain(void *context, int64_t now_us, int64_t *changed)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, PGQRSI_S3_CLAIM, now_us);
    op.relaxed = true;
    while (pgqrsi_s3_again(&op)) {
        *changed = 0;
        op.result = pgqrs_sqlite_backend()->maintain(self->inner, op.now_us, changed);
    }
    if (op.result != PGQRS_OK) *changed = 0;
    return op.result;
}

/* --- workflows */

static pgqrs_result pgqrsi_s3_workflow_create(void *context, int64_t now_us, const char *workflow,
                                              const pgqrs_workflow_desc *settings, const pgqrs_queue_desc *queue,
                                              bool *created)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        workflow_create(self->inner, op.now_us, workflow, settings, queue, created));
}

static pgqrs_result pgqrsi_s3_workflow_change(void *context, const char *workflow, const pgqrs_workflow_desc *change)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, 0, PGQRSI_S3_NOTHING, workflow_change(self->inner, workflow, change));
}

static pgqrs_result pgqrsi_s3_workflow_list(void *context, const char *workflow_or_null, int64_t after_id, size_t limit,
                                            pgqrs_workflows **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, 0, PGQRSI_S3_FREE(out),
                            workflow_list(self->inner, workflow_or_null, after_id, limit, out));
    }
}

static pgqrs_result pgqrsi_s3_workflow_delete(void *context, int64_t now_us, const char *workflow)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        workflow_delete(self->inner, op.now_us, workflow));
}

static pgqrs_result pgqrsi_s3_trigger(void *context, const pgqrs_backend_trigger *request, pgqrs_receipt *receipts)
{
    pgqrs_backend_trigger mine = *request;
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, request->now_us, mine.now_us = op.now_us,
                        trigger(self->inner, &mine, receipts));
}

static pgqrs_result pgqrsi_s3_run_load(void *context, int64_t now_us, int64_t run_id, pgqrs_backend_run **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, PGQRSI_S3_FREE(out),
                            run_load(self->inner, op.now_us, run_id, out));
    }
}

static pgqrs_result pgqrsi_s3_run_write(void *context, pgqrs_backend_run_write *write)
{
    pgqrs_backend_run_write mine = *write;
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, PGQRSI_S3_WRITE, write->now_us);
    while (pgqrsi_s3_again(&op)) {
        mine.now_us = op.now_us;
        op.result = pgqrs_sqlite_backend()->run_write(self->inner, &mine);
    }
    write->result = mine.result;
    write->cancel = mine.cancel;
    return op.result;
}

static pgqrs_result pgqrsi_s3_run_list(void *context, int64_t now_us, int64_t id_or_0, const pgqrs_run_filter *filter,
                                       pgqrs_runs **out)
{
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, PGQRSI_S3_READ, now_us);
    op.waits = id_or_0 != 0 && id_or_0 == self->waiting_run_id;
    *out = NULL;
    while (pgqrsi_s3_again(&op)) {
        PGQRSI_S3_FREE(out);
        op.result = pgqrs_sqlite_backend()->run_list(self->inner, op.now_us, id_or_0, filter, out);
    }
    if (op.result != PGQRS_OK) {
        PGQRSI_S3_FREE(out);
    }
    return op.result;
}

static pgqrs_result pgqrsi_s3_run_count(void *context, int64_t now_us, const pgqrs_run_filter *filter, int64_t *count)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, now_us, *count = 0, run_count(self->inner, op.now_us, filter, count));
}

static pgqrs_result pgqrsi_s3_run_steps(void *context, int64_t run_id, pgqrs_steps **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, 0, PGQRSI_S3_FREE(out), run_steps(self->inner, run_id, out));
    }
}

static pgqrs_result pgqrsi_s3_run_events(void *context, int64_t run_id, pgqrs_run_events **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, 0, PGQRSI_S3_FREE(out), run_events(self->inner, run_id, out));
    }
}

static pgqrs_result pgqrsi_s3_import_items(void *context, const pgqrs_backend_import *request)
{
    pgqrs_backend_import mine = *request;
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, request->now_us, mine.now_us = op.now_us,
                        import_items(self->inner, &mine));
}

static pgqrs_result pgqrsi_s3_run_values(void *context, int64_t run_id, pgqrs_run_values **out)
{
    *out = NULL;
    {
        PGQRSI_S3_OPERATION(context, PGQRSI_S3_READ, 0, PGQRSI_S3_FREE(out), run_values(self->inner, run_id, out));
    }
}

static pgqrs_result pgqrsi_s3_run_cancel(void *context, int64_t now_us, int64_t run_id, const char *by,
                                         const char *reason, pgqrs_run_state *state)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        run_cancel(self->inner, op.now_us, run_id, by, reason, state));
}

static pgqrs_result pgqrsi_s3_run_send(void *context, int64_t now_us, int64_t run_id, const char *event,
                                       const char *payload, size_t payload_size, bool *accepted, pgqrs_run_state *state)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        run_send(self->inner, op.now_us, run_id, event, payload, payload_size, accepted, state));
}

static pgqrs_result pgqrsi_s3_run_restart(void *context, int64_t now_us, int64_t run_id, pgqrs_run_state *state)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, PGQRSI_S3_NOTHING,
                        run_restart(self->inner, op.now_us, run_id, state));
}

static pgqrs_result pgqrsi_s3_run_fork(void *context, int64_t now_us, int64_t run_id, int32_t before,
                                       const char *input_or_null, size_t input_size, int64_t *new_run_id)
{
    PGQRSI_S3_OPERATION(context, PGQRSI_S3_WRITE, now_us, *new_run_id = 0,
                        run_fork(self->inner, op.now_us, run_id, before, input_or_null, input_size, new_run_id));
}

static pgqrs_result pgqrsi_s3_run_purge(void *context, pgqrs_backend_run_purge *purge)
{
    pgqrs_backend_run_purge mine = *purge;
    pgqrsi_s3 *self = (pgqrsi_s3 *)context;
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, PGQRSI_S3_WRITE, purge->now_us);
    while (pgqrsi_s3_again(&op)) {
        mine.now_us = op.now_us;
        mine.removed = 0;
        op.result = pgqrs_sqlite_backend()->run_purge(self->inner, &mine);
    }
    purge->removed = op.result == PGQRS_OK ? mine.removed : 0;
    return op.result;
}

/* ------------------------------------------------------------------------------------------------------------------
 * >>the table, and what only S3 has
 * --------------------------------------------------------------------------------------------------------------- */

static const char *const pgqrsi_s3_schemes[] = {"s3", NULL};

static const pgqrs_backend pgqrsi_s3_table = {PGQRS_BACKEND_VERSION,
                                              "s3",
                                              "pgqrs_s3.h",
                                              pgqrsi_s3_schemes,
                                              pgqrsi_s3_capabilities,
                                              pgqrsi_s3_open,
                                              pgqrsi_s3_close,
                                              pgqrsi_s3_now,
                                              pgqrsi_s3_install,
                                              pgqrsi_s3_uninstall,
                                              pgqrsi_s3_verify,
                                              pgqrsi_s3_schema_version,
                                              pgqrsi_s3_queue_create,
                                              pgqrsi_s3_queue_change,
                                              pgqrsi_s3_queue_list,
                                              pgqrsi_s3_queue_delete,
                                              pgqrsi_s3_queue_purge,
                                              pgqrsi_s3_enqueue,
                                              pgqrsi_s3_exchange,
                                              pgqrsi_s3_extend,
                                              pgqrsi_s3_wait_begin,
                                              pgqrsi_s3_wait_fd,
                                              pgqrsi_s3_wait_end,
                                              pgqrsi_s3_message_get,
                                              pgqrsi_s3_message_list,
                                              pgqrsi_s3_message_count,
                                              pgqrsi_s3_message_delete,
                                              pgqrsi_s3_message_update,
                                              pgqrsi_s3_message_replay,
                                              pgqrsi_s3_worker_register,
                                              pgqrsi_s3_worker_change,
                                              pgqrsi_s3_worker_list,
                                              pgqrsi_s3_worker_count,
                                              pgqrsi_s3_worker_release,
                                              pgqrsi_s3_worker_delete,
                                              pgqrsi_s3_worker_reclaim,
                                              pgqrsi_s3_worker_purge,
                                              pgqrsi_s3_metrics,
                                              pgqrsi_s3_worker_stats,
                                              pgqrsi_s3_maintain,
                                              pgqrsi_s3_workflow_create,
                                              pgqrsi_s3_workflow_change,
                                              pgqrsi_s3_workflow_list,
                                              pgqrsi_s3_workflow_delete,
                                              pgqrsi_s3_trigger,
                                              pgqrsi_s3_run_load,
                                              pgqrsi_s3_run_write,
                                              pgqrsi_s3_run_list,
                                              pgqrsi_s3_run_count,
                                              pgqrsi_s3_run_steps,
                                              pgqrsi_s3_run_values,
                                              pgqrsi_s3_run_cancel,
                                              pgqrsi_s3_run_send,
                                              pgqrsi_s3_run_restart,
                                              pgqrsi_s3_run_fork,
                                              pgqrsi_s3_run_purge,
                                              pgqrsi_s3_run_wait_begin,
                                              pgqrsi_s3_transact,
                                              NULL,
                                              pgqrsi_s3_database,
                                              pgqrsi_s3_run_events,
                                              pgqrsi_s3_import_items};

PGQRS_API const pgqrs_backend *pgqrs_s3_backend(void)
{
    return &pgqrsi_s3_table;
}

/* Looks once without believing anything we knew, and makes the object if that finds none. */
static pgqrs_result pgqrsi_s3_make_object(pgqrsi_s3 *self)
{
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, PGQRSI_S3_WRITE, 0);
    bool moved = false;
    pgqrs_result result = pgqrsi_s3_lock(self);
    if (result != PGQRS_OK) return result;
    self->presence = PGQRSI_S3_UNKNOWN;
    self->unsure = false;
    result = pgqrsi_s3_look(self, &op.patience, &moved);
    if (result == PGQRS_OK && self->presence == PGQRSI_S3_PRESENT)
        result = pgqrs_backend_fail(self->store, PGQRS_ERR_OBJECT_EXISTS, 0, NULL,
                                    "%s is in the bucket already; pgqrs_install is for that", self->name);
    if (result != PGQRS_OK) {
        pgqrsi_s3_unlock(self);
        return result;
    }
    unlink(self->image_path); /* of an object that is no more */
    op.fresh = true;
    while (pgqrsi_s3_again(&op)) {
        op.result = PGQRS_ERR_OBJECT_EXISTS;
        if (self->presence == PGQRSI_S3_PRESENT)
            pgqrs_backend_fail(self->store, PGQRS_ERR_OBJECT_EXISTS, 0, NULL,
                               "%s was made by somebody else at the same time", self->name);
        else
            op.result = pgqrs_sqlite_backend()->install(self->inner, op.now_us);
    }
    return op.result;
}

/* --- local mode: the file, the base it was made from, and the object */

typedef struct pgqrsi_s3_copy {
    sqlite3 *db;          /* the local file; NULL: it is not there */
    unsigned char *image; /* what is in it; SQLite's memory */
    size_t size;
    bool dirty;
} pgqrsi_s3_copy;

/* Apart from what SQLite counts in the header at every commit and every change of the schema, and the mode of the journal. */
static bool pgqrsi_s3_same_image(const unsigned char *a, size_t a_size, const unsigned char *b, size_t b_size)
{
    return a_size == b_size && a_size >= 100 && memcmp(a, b, 18) == 0 && memcmp(a + 20, b + 20, 4) == 0 &&
           memcmp(a + 28, b + 28, 12) == 0 && memcmp(a + 44, b + 44, 48) == 0 &&
           memcmp(a + 100, b + 100, a_size - 100) == 0;
}

static bool pgqrsi_s3_is_base(const pgqrsi_s3 *self, const pgqrsi_s3_copy *copy)
{
    return pgqrsi_s3_same_image(copy->image, copy->size, self->base.data, self->trailer.image_size);
}

static void pgqrsi_s3_close_copy(pgqrsi_s3_copy *copy)
{
    sqlite3_free(copy->image);
    sqlite3_close(copy->db);
    memset(copy, 0, sizeof(*copy));
}

static bool pgqrsi_s3_has_tables(sqlite3 *db)
{
    sqlite3_stmt *statement = NULL;
    bool has = sqlite3_prepare_v2(db, "SELECT 1 FROM sqlite_master LIMIT 1", -1, &statement, NULL) == SQLITE_OK &&
               sqlite3_step(statement) == SQLITE_ROW;
    sqlite3_finalize(statement);
    return has;
}

static pgqrs_result pgqrsi_s3_fail_copy(pgqrsi_s3 *self, const pgqrsi_s3_copy *copy)
{
    int rc = sqlite3_errcode(copy->db);
    if (rc == SQLITE_BUSY)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_BUSY, rc, NULL,
                                  "%s is in use by another program for too long; try again", self->local_path);
    return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, rc, NULL, "%s: %s", self->local_path,
                              sqlite3_errmsg(copy->db));
}

/* Reads the local file as one version of it. `keep_out`: nobody else gets at it until the copy is closed. */
static pgqrs_result pgqrsi_s3_open_copy(pgqrsi_s3 *self, bool keep_out, pgqrsi_s3_copy *copy)
{
    /* In this order: in exclusive mode it would keep its first, shared lock while it waits for a writer that waits for that. */
    const char *begin = keep_out ? "BEGIN EXCLUSIVE; PRAGMA locking_mode=EXCLUSIVE" : "BEGIN IMMEDIATE";
    sqlite3_int64 size = 0;
    copy->db = access(self->local_path, F_OK) == 0 ? pgqrsi_s3_connect_local(self, 0) : NULL;
    if (!copy->db) return PGQRS_OK;
    if (sqlite3_exec(copy->db, begin, NULL, NULL, NULL) != SQLITE_OK) return pgqrsi_s3_fail_copy(self, copy);
    copy->dirty = pgqrsi_s3_has_tables(copy->db);
    copy->image = sqlite3_serialize(copy->db, "main", &size, 0);
    copy->size = copy->image ? (size_t)size : 0;
    if (sqlite3_exec(copy->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK) return pgqrsi_s3_fail_copy(self, copy);
    if (!copy->image) return pgqrsi_s3_no_memory(self);
    if (copy->size >= 100) copy->image[18] = copy->image[19] = 1;
    if (self->presence == PGQRSI_S3_PRESENT) copy->dirty = !pgqrsi_s3_is_base(self, copy);
    return PGQRS_OK;
}

/* Without the base everything looks like a change, so a file that is there and cannot be read is an error. */
static pgqrs_result pgqrsi_s3_reread_base(pgqrsi_s3 *self, const char *path)
{
    self->presence = PGQRSI_S3_UNKNOWN;
    memset(&self->trailer, 0, sizeof(self->trailer));
    if (!pgqrsi_s3_catch_up_from(self, path)) return pgqrsi_s3_no_memory(self);
    if (self->read_error)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, self->read_error, NULL,
                                  "%s: the file %s cannot be read: %s; nothing was changed, try again when it can",
                                  self->name, path, strerror(self->read_error));
    return PGQRS_OK;
}

/* A snapshot was cut off. If the file is what it brought, that is its base; otherwise it never got so far. */
static pgqrs_result pgqrsi_s3_finish_restore(pgqrsi_s3 *self)
{
    pgqrsi_s3_copy copy;
    pgqrs_result result;
    bool moved = true;
    if (access(self->arriving_path, F_OK) != 0) return PGQRS_OK;
    memset(&copy, 0, sizeof(copy));
    result = pgqrsi_s3_reread_base(self, self->arriving_path);
    if (result == PGQRS_OK) result = pgqrsi_s3_open_copy(self, false, &copy);
    if (result == PGQRS_OK && copy.db && self->presence == PGQRSI_S3_PRESENT && !copy.dirty)
        moved = rename(self->arriving_path, self->image_path) == 0 && pgqrsi_s3_settle(self, -1);
    else if (result == PGQRS_OK)
        moved = unlink(self->arriving_path) == 0;
    if (!moved) result = pgqrsi_s3_bad_cache(self, self->arriving_path, strerror(errno));
    pgqrsi_s3_close_copy(&copy);
    return result;
}

/* The base is read anew each time, because another process may have synced. */
static pgqrs_result pgqrsi_s3_begin_copy(pgqrsi_s3 *self, bool keep_out, pgqrsi_s3_copy *copy)
{
    pgqrs_result result;
    memset(copy, 0, sizeof(*copy));
    result = pgqrsi_s3_lock(self);
    if (result == PGQRS_OK) result = pgqrsi_s3_finish_restore(self);
    if (result == PGQRS_OK) result = pgqrsi_s3_reread_base(self, self->image_path);
    if (result != PGQRS_OK) return result;
    return pgqrsi_s3_open_copy(self, keep_out, copy);
}

static pgqrs_result pgqrsi_s3_end_copy(pgqrsi_s3 *self, pgqrsi_s3_copy *copy, pgqrs_result result)
{
    pgqrsi_s3_close_copy(copy);
    pgqrsi_s3_unlock(self);
    return result;
}

static pgqrs_result pgqrsi_s3_fail_missing(pgqrsi_s3 *self)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, 0, NULL,
                              "the local file %s was removed while the store was open; open the store anew and take a "
                              "snapshot",
                              self->local_path);
}

static pgqrs_result pgqrsi_s3_fail_changed(pgqrsi_s3 *self, const char *what)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_OBJECT_CHANGED, 0, NULL, "%s: %s", self->name, what);
}

/* Before an upload its writer and counter are written down. So whoever finds the object changed can tell whether it was that one,
 * whose end nobody saw, also after a restart. Several may be open: one that is late, and the next one that got no reply. */
#define PGQRSI_S3_PENDING_MAX 8

typedef struct pgqrsi_s3_pending {
    pgqrsi_s3_writer items[PGQRSI_S3_PENDING_MAX];
    size_t count;
} pgqrsi_s3_pending;

/* False: something is there that cannot be read. What is damaged counts for nothing. */
static bool pgqrsi_s3_read_pending(pgqrsi_s3 *self, pgqrsi_s3_pending *pending)
{
    unsigned char bytes[16 * PGQRSI_S3_PENDING_MAX + 4];
    struct stat file;
    size_t size, i;
    int descriptor = pgqrsi_s3_open_file(self->pending_path, O_RDONLY);
    bool known = descriptor >= 0 && fstat(descriptor, &file) == 0;
    memset(pending, 0, sizeof(*pending));
    if (descriptor < 0) return errno == ENOENT;
    size = known && file.st_size > 4 && file.st_size <= (off_t)sizeof(bytes) ? (size_t)file.st_size - 4 : 0;
    if (size > 0) known = pgqrsi_s3_read_at(descriptor, bytes, size + 4, 0) || errno == 0;
    pgqrsi_s3_close_file(&descriptor);
    if (!known || size == 0 || size % 16 != 0 || pgqrsi_s3_crc(0, bytes, size) != pgqrsi_s3_get(bytes + size, 4))
        return known;
    for (i = 0; i < size / 16; i++) {
        pending->items[i].id = pgqrsi_s3_get(bytes + 16 * i, 8);
        pending->items[i].counter = pgqrsi_s3_get(bytes + 16 * i + 8, 8);
    }
    pending->count = size / 16;
    return true;
}

/* One more, the oldest given up when there are too many. */
static bool pgqrsi_s3_write_pending(pgqrsi_s3 *self, uint64_t counter, pgqrsi_s3_pending *pending)
{
    unsigned char bytes[16 * PGQRSI_S3_PENDING_MAX + 4];
    int descriptor = pgqrsi_s3_open_file(self->temporary_path, O_WRONLY | O_CREAT | O_TRUNC);
    size_t i, size;
    bool done;
    if (pending->count == PGQRSI_S3_PENDING_MAX)
        memmove(pending->items, pending->items + 1, --pending->count * sizeof(pending->items[0]));
    pending->items[pending->count].id = self->writer;
    pending->items[pending->count++].counter = counter;
    size = 16 * pending->count;
    for (i = 0; i < pending->count; i++) {
        pgqrsi_s3_put(bytes + 16 * i, 8, pending->items[i].id);
        pgqrsi_s3_put(bytes + 16 * i + 8, 8, pending->items[i].counter);
    }
    pgqrsi_s3_put(bytes + size, 4, pgqrsi_s3_crc(0, bytes, size));
    done = descriptor >= 0 && pgqrsi_s3_write_all(descriptor, bytes, size + 4) && pgqrsi_s3_settle(self, descriptor);
    pgqrsi_s3_close_file(&descriptor);
    if (done && rename(self->temporary_path, self->pending_path) == 0 && pgqrsi_s3_settle(self, -1)) return true;
    unlink(self->temporary_path);
    return false;
}

/* Without it an upload whose reply is lost would look like one of somebody else, once the local file has changed again. */
static pgqrs_result pgqrsi_s3_fail_pending(pgqrsi_s3 *self, const char *what)
{
    return pgqrs_backend_fail(self->store, PGQRS_ERR_DATABASE, errno, NULL,
                              "%s: the file %s, which tells uploads of this machine from others, cannot be %s: %s; "
                              "nothing was uploaded, try again when it can",
                              self->name, self->pending_path, what, strerror(errno));
}

/* Is the object's last commit one of these? */
static bool pgqrsi_s3_is_last(const pgqrsi_s3 *self, const pgqrsi_s3_pending *pending)
{
    const pgqrsi_s3_trailer *trailer = &self->trailer;
    pgqrsi_s3_writer last;
    size_t i;
    if (trailer->writer_count == 0) return false;
    last = pgqrsi_s3_writer_at(trailer, trailer->writer_count - 1);
    for (i = 0; i < pending->count; i++)
        if (last.id == pending->items[i].id && last.counter == pending->items[i].counter) return true;
    return false;
}

/* Nobody could tell later that the local file was uploaded, once others have changed the object. */
static pgqrs_result pgqrsi_s3_fail_unsaved(pgqrsi_s3 *self)
{
    return pgqrs_backend_fail(
        self->store, PGQRS_ERR_DATABASE, 0, NULL,
        "%s: the local file and the object are the same now, but the file %s, which would say so, cannot be "
        "written; see to that (room, permissions), then do it again",
        self->name, self->image_path);
}

static pgqrs_result pgqrsi_s3_upload(pgqrsi_s3 *self, const pgqrsi_s3_copy *copy)
{
    pgqrsi_s3_patience patience = pgqrsi_s3_begin_patience(self->deadline_us);
    pgqrsi_s3_pending pending;
    pgqrs_result result = PGQRS_OK;
    int times;
    if (!pgqrsi_s3_read_pending(self, &pending)) return pgqrsi_s3_fail_pending(self, "read");
    for (times = 0; times < 3; times++) {
        pgqrsi_s3_outcome outcome;
        bool same;
        if (!pgqrsi_s3_write_pending(self, self->counter + 1, &pending)) return pgqrsi_s3_fail_pending(self, "written");
        outcome = pgqrsi_s3_push_image(self, copy->image, copy->size, &patience, &result);
        if (outcome == PGQRSI_S3_FAILED && result != PGQRS_ERR_OBJECT_GONE) return result;
        if (outcome == PGQRSI_S3_FAILED) { /* deleted by somebody: made again from what we have */
            self->presence = PGQRSI_S3_ABSENT;
            memset(&self->trailer, 0, sizeof(self->trailer));
            continue;
        }
        same = pgqrsi_s3_is_base(self, copy);
        if (outcome == PGQRSI_S3_LOST && !same && !pgqrsi_s3_is_last(self, &pending)) break;
        if (outcome == PGQRSI_S3_LOST) pgqrsi_s3_save(self); /* an earlier upload of ours is what the object is */
        if ((outcome == PGQRSI_S3_LANDED || same) && !self->saved) return pgqrsi_s3_fail_unsaved(self);
        if (outcome == PGQRSI_S3_LANDED || same) {
            unlink(self->pending_path);
            return PGQRS_OK;
        }
    }
    return pgqrsi_s3_fail_changed(
        self, "it was changed by others since the last sync or snapshot, and so was the local file; "
              "take a snapshot that discards the local changes, and do them again");
}

/* A file that was emptied is a new one for SQLite. It counts the changes of the schema, which tells it from one whose tables were
 * dropped. */
static bool pgqrsi_s3_was_emptied(const pgqrsi_s3 *self, const pgqrsi_s3_copy *copy)
{
    if (copy->size < 100) return true;
    return pgqrsi_s3_big32(copy->image + 40) == 0 && self->presence == PGQRSI_S3_PRESENT &&
           pgqrsi_s3_big32(self->base.data + 40) != 0;
}

/* What a bad disk, or a hand, has damaged must not take the place of what is whole. */
static pgqrs_result pgqrsi_s3_check_copy(pgqrsi_s3 *self, const pgqrsi_s3_copy *copy)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    int rc = SQLITE_CORRUPT;
    bool sound = false;
    if (!pgqrsi_s3_was_emptied(self, copy)) {
        rc = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
        if (rc == SQLITE_OK)
            rc = sqlite3_deserialize(db, "main", copy->image, (sqlite3_int64)copy->size, (sqlite3_int64)copy->size,
                                     SQLITE_DESERIALIZE_READONLY);
        if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(db, "PRAGMA integrity_check(1)", -1, &statement, NULL);
        if (rc == SQLITE_OK) rc = sqlite3_step(statement);
        sound = rc == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(statement, 0), "ok") == 0;
        sqlite3_finalize(statement);
        sqlite3_close(db);
    }
    if (sound) return PGQRS_OK;
    if (rc == SQLITE_NOMEM) return pgqrsi_s3_no_memory(self);
    return pgqrs_backend_fail(
        self->store, PGQRS_ERR_DATABASE, rc == SQLITE_ROW ? SQLITE_CORRUPT : rc, NULL,
        "the local file %s is damaged, so it is not uploaded; a snapshot that discards it brings back "
        "what is in the bucket",
        self->local_path);
}

static pgqrs_result pgqrsi_s3_sync_file(pgqrsi_s3 *self)
{
    pgqrsi_s3_copy copy;
    pgqrs_result result = pgqrsi_s3_begin_copy(self, false, &copy);
    if (result == PGQRS_OK && !copy.db) result = pgqrsi_s3_fail_missing(self);
    if (result == PGQRS_OK && copy.dirty) {
        sqlite3_close(copy.db); /* others may write while we upload */
        copy.db = NULL;
        result = pgqrsi_s3_check_copy(self, &copy);
        if (result == PGQRS_OK) result = pgqrsi_s3_upload(self, &copy);
    }
    return pgqrsi_s3_end_copy(self, &copy, result);
}

/* Writes the base into the local file, in one transaction: whoever has it open sees the one or the other. */
static pgqrs_result pgqrsi_s3_restore_copy(pgqrsi_s3 *self, pgqrsi_s3_copy *copy)
{
    sqlite3_backup *backup = NULL;
    pgqrs_result result;
    self->loaded = false;
    result = pgqrsi_s3_load(self); /* base, as a database in memory */
    if (result == PGQRS_OK) backup = sqlite3_backup_init(copy->db, "main", self->db, "main");
    if (result == PGQRS_OK && (!backup || sqlite3_backup_step(backup, -1) != SQLITE_DONE))
        result = pgqrsi_s3_fail_copy(self, copy);
    if (backup && sqlite3_backup_finish(backup) != SQLITE_OK && result == PGQRS_OK)
        result = pgqrsi_s3_fail_copy(self, copy);
    return result;
}

static pgqrs_result pgqrsi_s3_fail_unsynced(pgqrsi_s3 *self)
{
    return pgqrsi_s3_fail_changed(self, "the local file has unsynced writes; sync, or discard them");
}

/* Asks for the newest version, while the local file belongs to everybody. *needed: the file is another one. */
static pgqrs_result pgqrsi_s3_fetch(pgqrsi_s3 *self, const pgqrsi_s3_copy *before, bool discard, bool *needed)
{
    pgqrsi_s3_patience patience = pgqrsi_s3_begin_patience(self->deadline_us);
    pgqrs_result result;
    if (before->dirty && !discard) return pgqrsi_s3_fail_unsynced(self);
    result = pgqrsi_s3_look(self, &patience, needed);
    if (result != PGQRS_OK) return result;
    if (self->presence == PGQRSI_S3_ABSENT)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_OBJECT_GONE, 404, NULL, "%s is not in the bucket", self->name);
    if (before->dirty) *needed = true;
    return PGQRS_OK;
}

/* Puts the base in the local file's place, unless somebody has written to that since `before`. The store's own connection stays;
 * what is loaded to copy from is another one, and goes again. */
static pgqrs_result pgqrsi_s3_restore_file(pgqrsi_s3 *self, const pgqrsi_s3_copy *before, bool discard)
{
    pgqrsi_s3_copy copy;
    void *inner = self->inner;
    pgqrs_result result;
    bool arrives;
    memset(&copy, 0, sizeof(copy));
    result = pgqrsi_s3_open_copy(self, true, &copy);
    if (result == PGQRS_OK && !copy.db) result = pgqrsi_s3_fail_missing(self);
    if (result == PGQRS_OK && !discard &&
        (copy.size != before->size || memcmp(copy.image, before->image, copy.size) != 0))
        result = pgqrsi_s3_fail_unsynced(self);
    self->inner = NULL;
    /* Its base first, under another name: a file without it would look like one with changes of its own. */
    arrives = result == PGQRS_OK && pgqrsi_s3_save_as(self, self->arriving_path);
    if (result == PGQRS_OK) result = pgqrsi_s3_restore_copy(self, &copy);
    if (result == PGQRS_OK &&
        (!arrives || rename(self->arriving_path, self->image_path) != 0 || !pgqrsi_s3_settle(self, -1))) {
        pgqrsi_s3_save(self);
        if (!self->saved) result = pgqrsi_s3_fail_unsaved(self);
        if (!self->saved) arrives = false; /* where it is the next call finds it, see pgqrsi_s3_finish_restore */
    }
    if (result != PGQRS_OK && arrives) unlink(self->arriving_path);
    if (result == PGQRS_OK) unlink(self->pending_path); /* what is still under way was not made of this file */
    pgqrsi_s3_close_database(self);
    self->inner = inner;
    pgqrsi_s3_close_copy(&copy);
    return result;
}

static pgqrs_result pgqrsi_s3_snapshot_file(pgqrsi_s3 *self, bool discard)
{
    pgqrsi_s3_copy before;
    bool needed = false;
    pgqrs_result result = pgqrsi_s3_begin_copy(self, false, &before);
    if (result == PGQRS_OK && !before.db) result = pgqrsi_s3_fail_missing(self);
    sqlite3_close(before.db);
    before.db = NULL;
    if (result == PGQRS_OK) result = pgqrsi_s3_fetch(self, &before, discard, &needed);
    if (result == PGQRS_OK && needed) result = pgqrsi_s3_restore_file(self, &before, discard);
    return pgqrsi_s3_end_copy(self, &before, result);
}

static pgqrs_result pgqrsi_s3_compare(pgqrsi_s3 *self, pgqrs_s3_state *state)
{
    pgqrsi_s3_patience patience = pgqrsi_s3_begin_patience(self->deadline_us);
    pgqrsi_s3_copy copy;
    bool moved = false, missing;
    pgqrs_result result = pgqrsi_s3_begin_copy(self, false, &copy);
    *state = PGQRS_S3_LOCAL_MISSING;
    if (result != PGQRS_OK || !copy.db) return pgqrsi_s3_end_copy(self, &copy, result);
    result = pgqrsi_s3_look(self, &patience, &moved);
    missing = result == PGQRS_ERR_OBJECT_GONE || (result == PGQRS_OK && self->presence == PGQRSI_S3_ABSENT);
    if (missing)
        *state = copy.dirty ? PGQRS_S3_REMOTE_MISSING_DIRTY : PGQRS_S3_REMOTE_MISSING_CLEAN;
    else if (moved && copy.dirty && result == PGQRS_OK && pgqrsi_s3_is_base(self, &copy))
        *state = PGQRS_S3_IN_SYNC; /* what it was made from had been lost */
    else if (moved)
        *state = copy.dirty ? PGQRS_S3_CONCURRENT_CHANGES : PGQRS_S3_REMOTE_CHANGES;
    else
        *state = copy.dirty ? PGQRS_S3_LOCAL_CHANGES : PGQRS_S3_IN_SYNC;
    return pgqrsi_s3_end_copy(self, &copy, missing ? PGQRS_OK : result);
}

/* --- the entry points */

static pgqrs_result pgqrsi_s3_look_once(pgqrsi_s3 *self)
{
    pgqrsi_s3_op op = pgqrsi_s3_begin(self, PGQRSI_S3_READ, 0);
    bool moved;
    return pgqrsi_s3_op_look(&op, &moved);
}

PGQRS_API pgqrs_result pgqrs_s3_bootstrap(pgqrs_store *store)
{
    void *context;
    pgqrsi_s3 *self;
    pgqrs_result result = pgqrs_backend_enter(store, pgqrs_s3_backend(), &context);
    if (result != PGQRS_OK) return result;
    self = (pgqrsi_s3 *)context;
    if (self->local)
        result = pgqrs_backend_fail(store, PGQRS_ERR_UNSUPPORTED, 0, NULL,
                                    "%s: in local mode call pgqrs_install, then pgqrs_s3_sync", self->name);
    else
        result = pgqrsi_s3_make_object(self);
    return pgqrs_backend_leave(store, result);
}

PGQRS_API pgqrs_result pgqrs_s3_state_get(pgqrs_store *store, pgqrs_s3_state *state)
{
    void *context;
    pgqrsi_s3 *self;
    pgqrs_result result = pgqrs_backend_enter(store, pgqrs_s3_backend(), &context);
    if (result != PGQRS_OK) return result;
    self = (pgqrsi_s3 *)context;
    if (!state) {
        result = pgqrs_backend_fail(store, PGQRS_ERR_INVALID_ARGUMENT, 0, NULL, "state is NULL");
    } else if (self->local) {
        result = pgqrsi_s3_compare(self, state);
    } else {
        bool there;
        result = pgqrsi_s3_look_once(self);
        there = result == PGQRS_OK && self->presence == PGQRSI_S3_PRESENT;
        *state = there ? PGQRS_S3_IN_SYNC : PGQRS_S3_REMOTE_MISSING_CLEAN;
        if (result == PGQRS_ERR_OBJECT_GONE) result = PGQRS_OK;
    }
    return pgqrs_backend_leave(store, result);
}

PGQRS_API pgqrs_result pgqrs_s3_sync(pgqrs_store *store)
{
    void *context;
    pgqrs_result result = pgqrs_backend_enter(store, pgqrs_s3_backend(), &context);
    if (result != PGQRS_OK) return result;
    if (((pgqrsi_s3 *)context)->local) result = pgqrsi_s3_sync_file((pgqrsi_s3 *)context);
    return pgqrs_backend_leave(store, result);
}

PGQRS_API pgqrs_result pgqrs_s3_snapshot(pgqrs_store *store, bool discard)
{
    void *context;
    pgqrs_result result = pgqrs_backend_enter(store, pgqrs_s3_backend(), &context);
    if (result != PGQRS_OK) return result;
    if (((pgqrsi_s3 *)context)->local)
        result = pgqrsi_s3_snapshot_file((pgqrsi_s3 *)context, discard);
    else
        result = pgqrsi_s3_look_once((pgqrsi_s3 *)context);
    return pgqrs_backend_leave(store, result);
}

static pgqrs_result pgqrsi_s3_write_file(pgqrsi_s3 *self, const char *path)
{
    int descriptor;
    bool done;
    if (self->presence != PGQRSI_S3_PRESENT)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_OBJECT_GONE, 404, NULL, "%s is not in the bucket", self->name);
    descriptor = pgqrsi_s3_open_file(path, O_WRONLY | O_CREAT | O_EXCL);
    if (descriptor < 0)
        return pgqrs_backend_fail(self->store, PGQRS_ERR_INVALID_ARGUMENT, errno, NULL, "%s cannot be made: %s", path,
                                  strerror(errno));
    done = pgqrsi_s3_write_all(descriptor, self->base.data, self->trailer.image_size) && fsync(descriptor) == 0;
    if (close(descriptor) == 0 && done) return PGQRS_OK;
    unlink(path);
    return pgqrs_backend_fail(self->store, PGQRS_ERR_FULL, errno, NULL, "%s cannot be written: %s", path,
                              strerror(errno));
}

PGQRS_API pgqrs_result pgqrs_s3_export(pgqrs_store *store, const char *path)
{
    void *context;
    pgqrsi_s3 *self;
    pgqrsi_s3_copy copy;
    pgqrs_result result = pgqrs_backend_enter(store, pgqrs_s3_backend(), &context);
    if (result != PGQRS_OK) return result;
    self = (pgqrsi_s3 *)context;
    memset(&copy, 0, sizeof(copy));
    if (!path || !*path)
        return pgqrs_backend_leave(
            store, pgqrs_backend_fail(store, PGQRS_ERR_INVALID_ARGUMENT, 0, NULL, "path is NULL or empty"));
    result = self->local ? pgqrsi_s3_begin_copy(self, false, &copy) : pgqrsi_s3_look_once(self);
    if (result == PGQRS_OK) result = pgqrsi_s3_write_file(self, path);
    if (self->local) pgqrsi_s3_end_copy(self, &copy, result);
    return pgqrs_backend_leave(store, result);
}

#if defined(__GNUC__) || defined(__clang__)
__attribute__((constructor)) static void pgqrsi_s3_register_early(void)
{
    pgqrs_backend_register(pgqrs_s3_backend());
}
#elif defined(__cplusplus)
static const pgqrs_result pgqrsi_s3_registered = pgqrs_backend_register(pgqrs_s3_backend());
#endif

#ifdef __cplusplus
}
#endif

#endif /* PGQRS_IMPLEMENTATION && !PGQRSI_S3_DONE */
