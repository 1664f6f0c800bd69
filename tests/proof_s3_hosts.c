/* Proof for the S3 backend: processes of two hosts, one of which has a wrong clock, work on one object while every eighth PUT and
 * every thirtieth GET goes wrong, processes are killed or stopped for a while at any moment, and files of the caches that they share
 * are damaged or removed. Each keeps a journal. Afterwards, against the object and all of its versions:
 *
 *   - an enqueue that was acknowledged is there once, under the id that was returned; one that failed is not there
 *   - nothing is there that nobody enqueued, and nothing twice
 *   - nobody got a message while another one's lease for it ran
 *   - an archive that was acknowledged is done, and was acknowledged to one alone; nothing else is archived
 *   - each version is the successor of the one before, has all that was in it, and is a sound SQLite file; from some size on the
 *     object is one in parts: then so is what its parts make together, and each of them is written once
 *   - nobody ever saw a conflict, or any error but that the store was away (which it is, now and then, for longer than a call waits)
 *
 *   proof_s3_hosts [SECONDS [SETTING...]]   15; settings of tests/s3_server.c that hold beside or instead of the faults
 *
 *   PGQRS_PROOF_OPERATIONS=N   until N enqueues and archives were acknowledged; SECONDS (3600) is when it gives up
 *   PGQRS_PROOF_SEED=N         repeats a run as far as processes repeat themselves
 *   PGQRS_PROOF_PROCESSES=N PGQRS_PROOF_HOSTS=N   4 and 2: those of one host share a cache, and with it their commits
 *   PGQRS_PROOF_CALM=1         nobody is stopped, and no file is damaged */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <time.h>
#include <stdint.h>

/* The clock of a host that is wrong: the library asks for the time through this. */
static int64_t wrong_by_s;
static int proof_clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = clock_gettime(clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += (time_t)wrong_by_s;
    return result;
}
#define clock_gettime proof_clock_gettime
#define PGQRS_IMPLEMENTATION
#include "../pgqrs_s3.h"
#undef clock_gettime
#include "../examples/http_socket.h"

#include <dirent.h>
#include <inttypes.h>
#include <sys/mman.h>

#include "s3_parts.h"
#include "s3_process.h"

enum { PROCESSES_MAX = 16, TAG = 48, LEASE_MS = 2500, BATCH = 5, SPLIT = 65536, DEADLINE_MS = 1200, REPORT_MS = 10000,
       SKEW_MS = 1100 /* a Date has no fractions: so far may the clocks of two hosts be apart, and a lease end early */ };

static const char secret[] = "swordfish-7731";

typedef struct shared_page {
    volatile int stop;
    int64_t acknowledged; /* enqueues and archives */
} shared_page;

static struct {
    char dir[200], endpoint[64];
    int processes, hosts;
    bool calm;
    uint64_t random;
    shared_page *page;
    s3_process server;
    int64_t kills, stops, damages, failures, versions, begun_ms, wanted; /* operations; 0: by the clock */
    int64_t parts, parted;      /* written; versions that are in parts */
    int64_t messages, archived; /* in the newest version looked at */
    uint64_t last_seq;
} P;

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static int below(uint64_t *state, int limit)
{
    return (int)(next_random(state) % (uint64_t)limit);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void nap_ms(int64_t ms)
{
    struct timespec pause = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

static void complain(const char *format, ...)
{
    va_list arguments;
    if (++P.failures > 20)
        return;
    printf("# ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

/* ---- one process ---- */

typedef struct actor {
    int number, life, journal;
    int64_t count;
    uint64_t random;
    pgqrs_store *store;
} actor;

/* A line is there as a whole or not at all, also when the process is killed. */
static void note(const actor *self, const char *format, ...)
{
    char line[200];
    va_list arguments;
    int size;
    va_start(arguments, format);
    size = vsnprintf(line, sizeof(line) - 1, format, arguments);
    va_end(arguments);
    line[size++] = '\n';
    if (write(self->journal, line, (size_t)size) != size)
        _exit(9);
}

static pgqrs_store *open_store(int host, http_socket *http, pgqrs_error *err)
{
    const char *split = getenv("PGQRS_TEST_S3_SPLIT");
    char cache[300];
    pgqrs_s3_desc s3;
    pgqrs_store_desc desc;
    memset(&s3, 0, sizeof(s3));
    memset(&desc, 0, sizeof(desc));
    snprintf(cache, sizeof(cache), "%s/host%d", P.dir, host);
    s3.http = http_socket_callback(http);
    s3.endpoint = P.endpoint;
    s3.access_key = "proof";
    s3.secret_key = secret;
    s3.cache_dir = cache;
    s3.request_timeout_ms = DEADLINE_MS / 2;
    s3.deadline_ms = DEADLINE_MS;
    s3.split_bytes = split ? strtoll(split, NULL, 10) : SPLIT;
    desc.s3 = &s3;
    return pgqrs_open("s3://proof/queue.sqlite", &desc, err);
}

/* What may happen while the store is bad. A conflict may not. */
static bool is_excused(pgqrs_result result)
{
    return result == PGQRS_ERR_OUTCOME_UNKNOWN || result == PGQRS_ERR_CONNECTION || result == PGQRS_ERR_BUSY;
}

static void judge(const actor *self, pgqrs_result result)
{
    const pgqrs_error *error = pgqrs_last_error(self->store);
    if (result != PGQRS_OK && strstr(error->message, secret))
        note(self, "X the secret is in an error");
    if (result != PGQRS_OK && !is_excused(result))
        note(self, "X %s: %.120s", pgqrs_result_name(result), error->message);
}

static void act_enqueue(actor *self)
{
    char tag[TAG];
    pgqrs_receipt receipt;
    pgqrs_result result;
    memset(&receipt, 0, sizeof(receipt));
    snprintf(tag, sizeof(tag), "\"p%d-%d-%" PRId64 "\"", self->number, self->life, ++self->count);
    note(self, "E %s", tag);
    result = pgqrs_enqueue(self->store, "q", tag, NULL, &receipt);
    judge(self, result);
    if (result == PGQRS_OK)
        __atomic_add_fetch(&P.page->acknowledged, 1, __ATOMIC_RELAXED);
    note(self, "e %s %" PRId64 " %s", tag, receipt.id, result == PGQRS_OK ? "ok" : result == PGQRS_ERR_OUTCOME_UNKNOWN ? "unknown" : "failed");
}

static void act_archive(actor *self, const pgqrs_messages *batch)
{
    pgqrs_result results[BATCH] = {PGQRS_OK}, result;
    for (size_t i = 0; i < batch->count; i++)
        note(self, "A %" PRId64 " %" PRId64, batch->items[i].id, batch->items[i].lease);
    result = pgqrs_archive_many(self->store, batch->items, batch->count, results);
    judge(self, result);
    for (size_t i = 0; i < batch->count; i++)
        note(self, "a %" PRId64 " %" PRId64 " %s", batch->items[i].id, batch->items[i].lease,
             result == PGQRS_ERR_OUTCOME_UNKNOWN       ? "unknown"
             : result != PGQRS_OK                      ? "failed"
             : results[i] == PGQRS_OK                  ? "ok"
             : results[i] == PGQRS_ERR_LEASE_LOST      ? "lost"
                                                       : "odd");
    for (size_t i = 0; result == PGQRS_OK && i < batch->count; i++)
        if (results[i] == PGQRS_OK)
            __atomic_add_fetch(&P.page->acknowledged, 1, __ATOMIC_RELAXED);
}

static void act_dequeue(actor *self)
{
    pgqrs_messages *batch = NULL;
    pgqrs_dequeue_desc desc;
    pgqrs_result result;
    memset(&desc, 0, sizeof(desc));
    desc.limit = (size_t)(1 + below(&self->random, BATCH));
    desc.lease_ms = LEASE_MS;
    result = pgqrs_dequeue_many(self->store, "q", &desc, &batch);
    judge(self, result);
    for (size_t i = 0; result == PGQRS_OK && i < batch->count; i++)
        note(self, "C %" PRId64 " %" PRId64 " %" PRId64 " %s", batch->items[i].id, batch->items[i].lease, batch->items[i].lease_until_us,
             batch->items[i].payload);
    if (result == PGQRS_OK && batch->count > 0 && below(&self->random, 10) > 0)
        act_archive(self, batch); /* otherwise the leases run out */
    pgqrs_free(batch);
}

static void run_actor(int number, int life)
{
    char path[300];
    pgqrs_error err;
    actor self;
    http_socket *http = http_socket_create();
    memset(&self, 0, sizeof(self));
    self.number = number;
    self.life = life;
    self.random = P.random ^ (uint64_t)(number * 1000003 + life);
    wrong_by_s = number % P.hosts ? 7200 : 0;
    snprintf(path, sizeof(path), "%s/journal%d-%d", P.dir, number, life);
    self.journal = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (!http || self.journal < 0)
        _exit(8);
    while (!P.page->stop && !self.store) {
        self.store = open_store(number % P.hosts, http, &err);
        if (!self.store && !is_excused(err.code))
            note(&self, "X open: %.120s", err.message);
    }
    while (!P.page->stop)
        if (below(&self.random, 5) < 2)
            act_enqueue(&self);
        else
            act_dequeue(&self);
    pgqrs_close(self.store);
    http_socket_destroy(http);
    _exit(0);
}

/* ---- versions ---- */

static uint64_t little(const unsigned char *bytes)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* A number that the query gives, or -1. */
static int64_t number_of(sqlite3 *database, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int64_t value = -1;
    if (sqlite3_prepare_v2(database, sql, -1, &statement, NULL) == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
        value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

/* Nobody deletes here: what a version holds, its successors hold. */
static void check_nothing_lost(const char *path, sqlite3 *database)
{
    int64_t messages = number_of(database, "SELECT count(*) FROM pgqrs_messages");
    int64_t archived = number_of(database, "SELECT count(*) FROM pgqrs_messages WHERE state = 4");
    if (messages < P.messages || archived < P.archived)
        complain("%s: %" PRId64 " messages, %" PRId64 " of them archived, after %" PRId64 " and %" PRId64, path, messages, archived,
                 P.messages, P.archived);
    P.messages = messages;
    P.archived = archived;
}

static bool sqlite_can_open(const char *path)
{
    sqlite3 *database = NULL;
    bool good = sqlite3_open_v2(path, &database, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK && number_of(database, "SELECT count(*) FROM pgqrs_s3") == 1;
    if (!good)
        complain("the head of an object is not sound: %s", path);
    sqlite3_close(database);
    return good;
}

static void check_sound(const char *path)
{
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    const char *says = "it cannot be opened";
    if (sqlite3_open_v2(path, &database, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK &&
        sqlite3_prepare_v2(database, "PRAGMA integrity_check", -1, &statement, NULL) == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
        says = (const char *)sqlite3_column_text(statement, 0);
    if (strcmp(says, "ok") != 0)
        complain("a version of the object is not sound: %s: %s", path, says);
    sqlite3_finalize(statement);
    check_nothing_lost(path, database);
    sqlite3_close(database);
}

static bool write_file(const char *path, const s3_text *body)
{
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(body->data, 1, body->size, file) == body->size;
    return (!file || fclose(file) == 0) && good;
}

static bool kept_part(void *user, const char *name, s3_text *body)
{
    static char data[65536];
    char path[400];
    FILE *file;
    size_t got;
    (void)user;
    snprintf(path, sizeof(path), "%s/parts/%s", P.dir, name);
    file = fopen(path, "rb");
    while (file && (got = fread(data, 1, sizeof(data), file)) > 0)
        s3_add(body, data, got);
    if (file)
        fclose(file);
    return file && !body->failed;
}

/* The file that the parts make, in place of the head. */
static void check_parts(const char *path, const unsigned char *data, size_t size)
{
    s3_text head = {NULL, 0, 0, false}, whole = {NULL, 0, 0, false};
    s3_add(&head, data, size);
    if (s3_parts_table(&head)) {
        P.parted++;
        if (!s3_parts_assemble(&head, kept_part, NULL, &whole) || !write_file(path, &whole))
            complain("%s: its parts are not all there", path);
    }
    s3_free(&head);
    s3_free(&whole);
}

/* The trailer is read here on its own, from what the format says. */
static void check_version(const char *path)
{
    static unsigned char data[16 << 20];
    FILE *file = fopen(path, "rb");
    size_t size = file ? fread(data, 1, sizeof(data), file) : 0, page, image;
    if (file)
        fclose(file);
    page = size > 100 ? (size_t)data[16] << 8 | data[17] : 0;
    image = size > 100 ? page * ((size_t)data[28] << 24 | (size_t)data[29] << 16 | (size_t)data[30] << 8 | data[31]) : 0;
    P.versions++;
    if (image == 0 || image + 60 > size || memcmp(data + image, "pgqrs-s3", 8) != 0) {
        complain("%s has no trailer", path);
        return;
    }
    if (little(data + image + 32) != P.last_seq + 1)
        complain("%s: commit %" PRIu64 " follows %" PRIu64, path, little(data + image + 32), P.last_seq);
    P.last_seq = little(data + image + 32);
    if (data[image + 8] == 2 && sqlite_can_open(path))
        check_parts(path, data, size);
    check_sound(path);
}

/* It is for the versions to come. */
static void keep_part(const char *path, const char *name)
{
    char place[400];
    snprintf(place, sizeof(place), "%s/parts/%s", P.dir, name);
    if (access(place, F_OK) == 0)
        complain("a part was written twice: %s", name);
    if (rename(path, place) != 0)
        complain("the checker itself: %s: %s", place, strerror(errno));
    P.parts++;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((const char *)a, (const char *)b);
}

/* Those that are written, and removes them; the newest may not be complete yet. */
static void check_versions(bool all)
{
    static char names[20000][96];
    char path[400];
    size_t count = 0;
    struct dirent *entry;
    DIR *listing;
    snprintf(path, sizeof(path), "%s/versions", P.dir);
    listing = opendir(path);
    while (listing && count < 20000 && (entry = readdir(listing)) != NULL)
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < sizeof(names[0]))
            strcpy(names[count++], entry->d_name);
    if (listing)
        closedir(listing);
    qsort(names, count, sizeof(names[0]), compare_names);
    for (size_t i = 0; i + (all ? 0 : 1) < count; i++) {
        snprintf(path, sizeof(path), "%s/versions/%.95s", P.dir, names[i]);
        if (strstr(names[i], ".d+")) {
            keep_part(path, strstr(names[i], ".d+") + 3);
            continue;
        }
        check_version(path);
        unlink(path);
    }
}

/* ---- journals ---- */

static sqlite3 *book;

static void book_run(const char *sql)
{
    char *problem = NULL;
    if (sqlite3_exec(book, sql, NULL, NULL, &problem) != SQLITE_OK) {
        complain("the checker itself: %s: %s", problem ? problem : "", sql);
        sqlite3_free(problem);
    }
}

/* Each row the query gives is a failure. */
static void book_none(const char *claim, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(book, sql, -1, &statement, NULL) != SQLITE_OK)
        complain("the checker itself: %s", sqlite3_errmsg(book));
    while (statement && sqlite3_step(statement) == SQLITE_ROW)
        complain("%s: %s", claim, (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
}

static int64_t book_count(const char *sql)
{
    return number_of(book, sql);
}

static void read_line(const char *line, int process, int life)
{
    char tag[100] = "", outcome[16] = "", sql[600];
    int64_t id = 0, lease = 0, until = 0;
    sql[0] = '\0';
    if (sscanf(line, "E %99s", tag) == 1)
        snprintf(sql, sizeof(sql), "INSERT INTO enqueues(tag) VALUES ('%s')", tag);
    else if (sscanf(line, "e %99s %" SCNd64 " %15s", tag, &id, outcome) == 3)
        snprintf(sql, sizeof(sql), "UPDATE enqueues SET id = %" PRId64 ", outcome = '%s' WHERE tag = '%s'", id, outcome, tag);
    else if (sscanf(line, "C %" SCNd64 " %" SCNd64 " %" SCNd64 " %99s", &id, &lease, &until, tag) == 4)
        snprintf(sql, sizeof(sql), "INSERT INTO claims(id, lease, until, tag, process) VALUES (%" PRId64 ", %" PRId64 ", %" PRId64 ", '%s', '%d-%d')",
                 id, lease, until, tag, process, life);
    else if (sscanf(line, "A %" SCNd64 " %" SCNd64, &id, &lease) == 2)
        snprintf(sql, sizeof(sql), "INSERT INTO archives(id, lease, process) VALUES (%" PRId64 ", %" PRId64 ", '%d-%d')", id, lease, process, life);
    else if (sscanf(line, "a %" SCNd64 " %" SCNd64 " %15s", &id, &lease, outcome) == 3)
        snprintf(sql, sizeof(sql),
                 "UPDATE archives SET outcome = '%s' WHERE id = %" PRId64 " AND lease = %" PRId64 " AND process = '%d-%d'", outcome, id, lease,
                 process, life);
    else
        complain("process %d-%d: %s", process, life, line);
    if (sql[0])
        book_run(sql);
}

static void read_journal(int process, int life)
{
    char path[300], line[300];
    FILE *file;
    snprintf(path, sizeof(path), "%s/journal%d-%d", P.dir, process, life);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = '\0';
        read_line(line, process, life);
    }
    if (file)
        fclose(file);
    unlink(path);
}

static bool part_of_object(void *user, const char *name, s3_text *body)
{
    char path[200];
    (void)user;
    snprintf(path, sizeof(path), "/_raw/proof/queue.sqlite.d/%s", name);
    return s3_raw(P.server.port, "GET", path, NULL, 0, body) == 200;
}

static void open_book(void)
{
    char sql[400];
    s3_text object = {NULL, 0, 0, false}, whole = {NULL, 0, 0, false};
    if (sqlite3_open(":memory:", &book) != SQLITE_OK)
        complain("the checker itself: no memory");
    book_run("CREATE TABLE enqueues(tag TEXT PRIMARY KEY, id INTEGER, outcome TEXT);"
             "CREATE TABLE claims(id INTEGER, lease INTEGER, until INTEGER, tag TEXT, process TEXT);"
             "CREATE TABLE archives(id INTEGER, lease INTEGER, process TEXT, outcome TEXT);"
             "CREATE INDEX archives_id ON archives(id, lease); CREATE INDEX claims_id ON claims(id, until)");
    snprintf(sql, sizeof(sql), "%s/object", P.dir);
    if (s3_raw(P.server.port, "GET", "/_raw/proof/queue.sqlite", NULL, 0, &object) != 200 ||
        (s3_parts_table(&object) && !s3_parts_assemble(&object, part_of_object, NULL, &whole)) ||
        !write_file(sql, whole.size > 0 ? &whole : &object))
        complain("the object cannot be read");
    s3_free(&object);
    s3_free(&whole);
    snprintf(sql, sizeof(sql), "ATTACH '%s/object' AS final", P.dir);
    book_run(sql);
}

static void check_journals(void)
{
    char sql[600];
    book_none("an acknowledged enqueue is not there, or not under its id",
              "SELECT e.tag || ' ' || e.id FROM enqueues e LEFT JOIN final.pgqrs_messages m ON m.id = e.id AND m.payload = e.tag "
              "WHERE e.outcome = 'ok' AND m.id IS NULL");
    book_none("an enqueue that failed is there", "SELECT e.tag FROM enqueues e JOIN final.pgqrs_messages m ON m.payload = e.tag WHERE e.outcome = 'failed'");
    book_none("a message is there twice", "SELECT payload FROM final.pgqrs_messages GROUP BY payload HAVING count(*) > 1");
    book_none("a message is there that nobody enqueued",
              "SELECT payload FROM final.pgqrs_messages WHERE payload NOT IN (SELECT tag FROM enqueues)");
    book_none("a message is dead", "SELECT payload FROM final.pgqrs_messages WHERE state = 5");
    book_none("a message came with another one's payload",
              "SELECT c.tag || ' ' || c.id FROM claims c JOIN final.pgqrs_messages m ON m.id = c.id WHERE m.payload <> c.tag");
    book_none("a message that was claimed is gone", "SELECT c.tag FROM claims c LEFT JOIN final.pgqrs_messages m ON m.id = c.id WHERE m.id IS NULL");
    snprintf(sql, sizeof(sql),
             "SELECT id || ' by ' || process || ' at ' || (until - %d) || ', while another lease ran until ' || before FROM "
             "(SELECT *, lag(until) OVER (PARTITION BY id ORDER BY until) AS before FROM claims) WHERE before > until - %d",
             LEASE_MS * 1000, (LEASE_MS - SKEW_MS) * 1000);
    book_none("a message was leased twice at once", sql);
    book_none("a lease was given to two", "SELECT lease FROM claims GROUP BY lease HAVING count(DISTINCT process) > 1");
    book_none("an acknowledged archive is not done",
              "SELECT a.id FROM archives a LEFT JOIN final.pgqrs_messages m ON m.id = a.id AND m.state = 4 WHERE a.outcome = 'ok' AND m.id IS NULL");
    book_none("an archive was acknowledged twice", "SELECT id FROM archives WHERE outcome = 'ok' GROUP BY id HAVING count(*) > 1");
    book_none("a message is archived, and nobody can have done it",
              "SELECT id FROM final.pgqrs_messages m WHERE state = 4 AND NOT EXISTS (SELECT 1 FROM archives a WHERE a.id = m.id AND "
              "(a.outcome IS NULL OR a.outcome IN ('ok', 'unknown')))");
    book_none("an odd verdict", "SELECT id FROM archives WHERE outcome = 'odd'");
    printf("# %" PRId64 " enqueues: %" PRId64 " acknowledged, %" PRId64 " unknown, %" PRId64 " failed\n", book_count("SELECT count(*) FROM enqueues"),
           book_count("SELECT count(*) FROM enqueues WHERE outcome = 'ok'"), book_count("SELECT count(*) FROM enqueues WHERE outcome = 'unknown'"),
           book_count("SELECT count(*) FROM enqueues WHERE outcome = 'failed'"));
    printf("# %" PRId64 " claims, %" PRId64 " archives: %" PRId64 " acknowledged, %" PRId64 " too late, %" PRId64 " unknown, %" PRId64 " failed\n",
           book_count("SELECT count(*) FROM claims"), book_count("SELECT count(*) FROM archives"),
           book_count("SELECT count(*) FROM archives WHERE outcome = 'ok'"), book_count("SELECT count(*) FROM archives WHERE outcome = 'lost'"),
           book_count("SELECT count(*) FROM archives WHERE outcome = 'unknown'"), book_count("SELECT count(*) FROM archives WHERE outcome = 'failed'"));
    if (book_count("SELECT count(*) FROM enqueues WHERE outcome = 'ok'") < 20 || book_count("SELECT count(*) FROM archives WHERE outcome = 'ok'") < 20)
        complain("there was too little to look at");
}

/* ---- the world ---- */

/* Of every hundred PUTs twelve. */
static const char faults[] = "reset=0.01\nlate=PUT:0.01\nslow=PUT:0.005\nerror_before=0.01\nbusy=0.01\nslow_down=0.005\nconflict=PUT:0.01\n"
                             "false_412=PUT:0.01\nlost_reply=PUT:0.02\nslow_reply=PUT:0.005\nerror_after=PUT:0.01\nown_412=PUT:0.01\n"
                             "cut_head=PUT:0.005\ngarbage=PUT:0.005\ntruncated=GET:0.01\nshortened=GET:0.01\ncorrupted=GET:0.01\n"
                             "late_ms=30\nslow_ms=700\nretry_after=0\ndelay_ms=4\njitter_ms=4";
static const char no_faults[] = "reset=0\nlate=0\nslow=0\nerror_before=0\nbusy=0\nslow_down=0\nconflict=0\nfalse_412=0\nlost_reply=0\n"
                                "slow_reply=0\nerror_after=0\nown_412=0\ncut_head=0\ngarbage=0\ntruncated=0\nshortened=0\ncorrupted=0\n"
                                "delay_ms=0\njitter_ms=0";

static bool start_world(char **more)
{
    char versions[300], seed[40];
    const char *const settings[] = {"access_key=proof", "secret_key=swordfish-7731", "bucket=proof", versions, seed, NULL};
    pgqrs_error err;
    pgqrs_queue_desc queue;
    http_socket *http = http_socket_create();
    pgqrs_store *store;
    bool good;
    snprintf(P.dir, sizeof(P.dir), "%s/pgqrs-proof-hosts.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    P.page = (shared_page *)mmap(NULL, sizeof(*P.page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!http || P.page == MAP_FAILED || !mkdtemp(P.dir))
        return false;
    snprintf(versions, sizeof(versions), "%s/versions", P.dir);
    if (mkdir(versions, 0700) != 0)
        return false;
    snprintf(versions, sizeof(versions), "%s/parts", P.dir);
    if (mkdir(versions, 0700) != 0)
        return false;
    snprintf(versions, sizeof(versions), "keep=%s/versions", P.dir);
    snprintf(seed, sizeof(seed), "seed=%" PRId64, (int64_t)(P.random & INT64_MAX));
    if (!s3_process_start(&P.server, settings))
        return false;
    snprintf(P.endpoint, sizeof(P.endpoint), "http://127.0.0.1:%d", P.server.port);
    store = open_store(0, http, &err);
    memset(&queue, 0, sizeof(queue));
    queue.lease_ms = LEASE_MS;
    queue.max_attempts = 1000;
    good = store && pgqrs_install(store) == PGQRS_OK && pgqrs_queue_create(store, "q", &queue) == PGQRS_OK;
    if (!good)
        complain("%s", store ? pgqrs_last_error(store)->message : err.message);
    pgqrs_close(store);
    http_socket_destroy(http);
    good = good && s3_control(P.server.port, faults);
    for (; good && *more; more++)
        good = s3_control(P.server.port, *more);
    return good;
}

static pid_t start_actor(int number, int life)
{
    pid_t pid;
    fflush(stdout);
    pid = fork();
    if (pid == 0)
        run_actor(number, life);
    return pid;
}

/* Long enough that calls give up: what they were about, nobody knows. */
static void outage(bool begins)
{
    s3_control(P.server.port, begins ? "lost_reply=PUT:0.9\nreset=GET:1" : "lost_reply=PUT:0.02\nreset=0.01");
}

static void report_progress(void)
{
    printf("# %" PRId64 " s: %" PRId64 " acknowledged", (now_ms() - P.begun_ms) / 1000, P.page->acknowledged);
    if (P.wanted > 0)
        printf(" of %" PRId64, P.wanted);
    printf(", %" PRId64 " kills, %" PRId64 " stops, %" PRId64 " damaged files, %" PRId64 " versions, %" PRId64 " violations\n", P.kills,
           P.stops, P.damages, P.versions, P.failures);
    fflush(stdout);
}

/* A file of a host's cache loses its end, or a bit of it flips, or it is gone. */
static void damage_cache(void)
{
    static const char *const names[] = {"image", "shared/stage", "shared/flight", "shared/stage.dropped", "shared/flight.dropped",
                                        "strays", "machine", "commit", "shared/stage.new", "image.new"};
    char directory[400], path[700];
    struct dirent *entry;
    struct stat status;
    DIR *listing;
    int descriptor, how = below(&P.random, 4);
    snprintf(directory, sizeof(directory), "%s/host%d", P.dir, below(&P.random, P.hosts));
    snprintf(path, sizeof(path), "%s", directory);
    if ((listing = opendir(directory)) == NULL)
        return;
    while ((entry = readdir(listing)) != NULL)
        if (entry->d_name[0] != '.')
            snprintf(path, sizeof(path), "%s/%.200s", directory, entry->d_name);
    closedir(listing);
    snprintf(path + strlen(path), 60, "/%s", names[below(&P.random, (int)(sizeof(names) / sizeof(names[0])))]);
    if (how == 0) {
        P.damages += unlink(path) == 0;
        return;
    }
    descriptor = open(path, O_RDWR);
    if (descriptor >= 0 && fstat(descriptor, &status) == 0 && status.st_size > 0) {
        off_t at = how == 1 ? below(&P.random, 200) % status.st_size : (off_t)(next_random(&P.random) % (uint64_t)status.st_size);
        unsigned char byte = 0;
        if (how == 3)
            P.damages += ftruncate(descriptor, at) == 0;
        else if (pread(descriptor, &byte, 1, at) == 1 && (byte ^= (unsigned char)(1u << below(&P.random, 8)), true))
            P.damages += pwrite(descriptor, &byte, 1, at) == 1;
    }
    if (descriptor >= 0)
        close(descriptor);
}

/* Stops somebody for a while, mostly a short one; it is killed there or goes on. */
static void stop_actor(pid_t pid)
{
    kill(pid, SIGSTOP);
    nap_ms(below(&P.random, 8) ? below(&P.random, 300) : 2200 + below(&P.random, 1500));
    P.stops++;
}

/* Of a proof by the clock every second second is an outage, of a proof by count every eighth. */
static bool let_them_work(int64_t until_ms, pid_t pids[PROCESSES_MAX], int lives[PROCESSES_MAX])
{
    int64_t next_ms = now_ms() + 2000, report_ms = now_ms() + REPORT_MS;
    bool out = false;
    for (int i = 0; i < P.processes; i++)
        pids[i] = start_actor(i, lives[i] = 1);
    while (now_ms() < until_ms && (P.wanted == 0 || P.page->acknowledged < P.wanted)) {
        int victim = below(&P.random, P.processes), status = 0;
        nap_ms(40 + below(&P.random, 500));
        check_versions(false);
        if (now_ms() >= next_ms) {
            outage(out = !out);
            next_ms = now_ms() + (out ? 3 * DEADLINE_MS : P.wanted > 0 ? 24000 : 3000);
        }
        if (now_ms() >= report_ms) {
            report_progress();
            report_ms = now_ms() + REPORT_MS;
        }
        for (int i = 0; !P.calm && i < 3; i++)
            damage_cache();
        if (!P.calm && below(&P.random, 3) == 0) {
            stop_actor(pids[victim]);
            if (below(&P.random, 2) == 0) {
                kill(pids[victim], SIGCONT);
                continue;
            }
        }
        kill(pids[victim], SIGKILL);
        waitpid(pids[victim], &status, 0);
        if (!WIFSIGNALED(status))
            complain("process %d-%d ended by itself", victim, lives[victim]);
        P.kills++;
        pids[victim] = start_actor(victim, ++lives[victim]);
    }
    return P.wanted == 0 || P.page->acknowledged >= P.wanted;
}

static void end_actors(const pid_t pids[PROCESSES_MAX])
{
    P.page->stop = 1;
    for (int i = 0; i < P.processes; i++) {
        int status = 0;
        waitpid(pids[i], &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            complain("process %d ended with %#x", i, (unsigned)status);
    }
}

/* A setting of the environment, from 1 to `most`. */
static int64_t number_in(const char *name, int64_t usual, int64_t most)
{
    const char *text = getenv(name);
    int64_t value = text ? strtoll(text, NULL, 10) : usual;
    return value < 1 ? 1 : value > most ? most : value;
}

int main(int argc, char **argv)
{
    const char *seed = getenv("PGQRS_PROOF_SEED");
    const char *wanted = getenv("PGQRS_PROOF_OPERATIONS");
    int seconds;
    pid_t pids[PROCESSES_MAX];
    int lives[PROCESSES_MAX];
    char command[300];
    int64_t happened = 0;
    int kinds = 0;
    P.processes = (int)number_in("PGQRS_PROOF_PROCESSES", 4, PROCESSES_MAX);
    P.hosts = (int)number_in("PGQRS_PROOF_HOSTS", 2, PROCESSES_MAX);
    P.calm = getenv("PGQRS_PROOF_CALM") != NULL;
    P.wanted = wanted ? strtoll(wanted, NULL, 10) : 0;
    P.begun_ms = now_ms();
    seconds = argc > 1 ? atoi(argv[1]) : P.wanted > 0 ? 3600 : 15;
    P.random = seed ? (uint64_t)strtoull(seed, NULL, 10) : (uint64_t)now_ms() * 2654435761u + (uint64_t)getpid();
    printf("# seed %" PRIu64 " (PGQRS_PROOF_SEED), %d seconds", P.random, seconds);
    if (P.wanted > 0)
        printf(" at most, %" PRId64 " operations", P.wanted);
    printf("\n");
    fflush(stdout);
    if (start_world(argv + (argc > 1 ? 2 : argc))) {
        static const char *const counted[] = {"reset", "late", "slow", "error_before", "busy", "slow_down", "conflict", "false_412",
                                              "lost_reply", "slow_reply", "error_after", "own_412", "cut_head", "garbage"};
        if (!let_them_work(now_ms() + (int64_t)seconds * 1000, pids, lives))
            complain("%" PRId64 " of %" PRId64 " operations in %d seconds", P.page->acknowledged, P.wanted, seconds);
        end_actors(pids);
        s3_control(P.server.port, no_faults);
        nap_ms(800); /* for the last late one */
        check_versions(true);
        open_book();
        book_run("BEGIN");
        for (int i = 0; i < P.processes; i++)
            for (int life = 1; life <= lives[i]; life++)
                read_journal(i, life);
        book_run("COMMIT");
        check_journals();
        for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++) {
            char name[40];
            int64_t count;
            snprintf(name, sizeof(name), "fault.%s", counted[i]);
            count = s3_counter(P.server.port, name);
            happened += count > 0 ? count : 0;
            kinds += count > 0;
        }
        if (kinds < 6 && argc <= 2)
            complain("only %d kinds of faults happened", kinds);
        printf("# %" PRId64 " PUTs, %" PRId64 " faults, %" PRId64 " versions, %" PRId64 " of them in %" PRId64 " parts, %" PRId64 " deleted, %" PRId64 " kills, %" PRId64 " stops, %" PRId64 " damaged files, %" PRId64 " violations, %" PRId64 " s\n",
               s3_counter(P.server.port, "requests.PUT"), happened, P.versions, P.parted, P.parts,
               s3_counter(P.server.port, "requests.DELETE"), P.kills, P.stops, P.damages, P.failures, (now_ms() - P.begun_ms) / 1000);
        sqlite3_close(book);
    } else {
        complain("the world does not start");
    }
    s3_process_stop(&P.server);
    if (P.failures == 0) {
        snprintf(command, sizeof(command), "rm -rf '%s'", P.dir);
        if (system(command) != 0)
            complain("%s is left behind", P.dir);
    }
    printf("%s 1 - processes of several hosts on a store that fails\n1..1\n", P.failures ? "not ok" : "ok");
    return P.failures ? 1 : 0;
}
