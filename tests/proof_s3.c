/* Processes on two machines (two cache directories) share a queue in a bucket, while 12 % of all requests go wrong in some way and
 * the processes are killed at random. Each writes down what it was told, before and after every call. Then a checker reads it all:
 *
 *   - every acknowledged enqueue is there once, under the id that was returned, with its own payload;
 *   - an enqueue of unknown outcome is there once or not at all, and a kill counts as one;
 *   - every acknowledged archive is there, by the delivery that it was acknowledged to, and no message has two;
 *   - every version of the object that ever was is a whole SQLite file, and its messages are those of the one before or more.
 *
 *   proof_s3 [SECONDS]   (15, or PGQRS_PROOF_S3_SECONDS)
 * test targets: s3
 */
#define PGQRS_THREADS
#include "support.h"

#include <dirent.h>
#include <sys/mman.h>

enum { ACTORS = 6, NOTES = 200000 };

typedef enum note_kind {
    NOTE_ENQUEUE_BEGINS = 1,
    NOTE_ENQUEUED = 2, /* id */
    NOTE_ENQUEUE_UNKNOWN = 3,
    NOTE_ENQUEUE_FAILED = 4, /* certainly not stored */
    NOTE_CLAIMED = 5, /* id */
    NOTE_ARCHIVE_BEGINS = 6,
    NOTE_ARCHIVED = 7,
    NOTE_ARCHIVE_LOST = 8,
    NOTE_ARCHIVE_UNKNOWN = 9
} note_kind;

typedef struct note {
    int32_t kind;
    int32_t actor;
    int64_t number; /* of the enqueue: it is the payload; or the id of the message */
    int64_t id;
    int64_t payload;
} note;

/* Shared by all processes, so that a kill loses nothing of it. */
static struct {
    int64_t count;
    int64_t numbers; /* of enqueues begun */
    int64_t unexpected;
    int64_t calls;
    int stop;
    note notes[NOTES];
} *page;

static int actor_number;
static char proof_cache[2][700];
static pgqrs_s3_desc proof_s3;

static void write_down(note_kind kind, int64_t number, int64_t id, int64_t payload)
{
    int64_t at = __atomic_fetch_add(&page->count, 1, __ATOMIC_SEQ_CST);
    if (at >= NOTES) {
        page->stop = 1;
        return;
    }
    page->notes[at].actor = actor_number;
    page->notes[at].number = number;
    page->notes[at].id = id;
    page->notes[at].payload = payload;
    __atomic_store_n(&page->notes[at].kind, (int32_t)kind, __ATOMIC_SEQ_CST);
}

static void unexpected(const char *what, pgqrs_store *store)
{
    __atomic_fetch_add(&page->unexpected, 1, __ATOMIC_SEQ_CST);
    fprintf(stderr, "# UNEXPECTED: actor %d, %s: %s\n", actor_number, what, last_message(store));
}

static pgqrs_store *proof_store(int machine)
{
    pgqrs_store_desc desc;
    pgqrs_error err;
    pgqrs_store *store;
    memset(&desc, 0, sizeof(desc));
    proof_s3 = *test_s3_desc();
    proof_s3.cache_dir = proof_cache[machine];
    proof_s3.deadline_ms = 5000;
    proof_s3.request_timeout_ms = 300;
    desc.s3 = &proof_s3;
    store = pgqrs_open(T.dsn, &desc, &err);
    if (!store)
        fprintf(stderr, "# actor %d cannot open: %s\n", actor_number, err.message);
    return store;
}

static void act_enqueue(pgqrs_store *store)
{
    int64_t number = __atomic_add_fetch(&page->numbers, 1, __ATOMIC_SEQ_CST);
    pgqrs_receipt receipt;
    pgqrs_result result;
    char payload[32];
    snprintf(payload, sizeof(payload), "%" PRId64, number);
    write_down(NOTE_ENQUEUE_BEGINS, number, 0, 0);
    result = pgqrs_enqueue(store, "proof", payload, NULL, &receipt);
    if (result == PGQRS_OK)
        write_down(NOTE_ENQUEUED, number, receipt.id, 0);
    else if (result == PGQRS_ERR_OUTCOME_UNKNOWN)
        write_down(NOTE_ENQUEUE_UNKNOWN, number, 0, 0);
    else if (pgqrs_result_kind(result) == PGQRS_KIND_RETRY)
        write_down(NOTE_ENQUEUE_FAILED, number, 0, 0);
    else
        unexpected("enqueue", store);
}

static void act_consume(pgqrs_store *store)
{
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc desc = {.lease_ms = 1500};
    pgqrs_result result = pgqrs_dequeue(store, "proof", &desc, &message);
    if (result != PGQRS_OK && result != PGQRS_ERR_OUTCOME_UNKNOWN && pgqrs_result_kind(result) != PGQRS_KIND_RETRY)
        unexpected("dequeue", store);
    if (!message)
        return;
    write_down(NOTE_CLAIMED, message->id, message->lease, strtoll(message->payload, NULL, 10));
    write_down(NOTE_ARCHIVE_BEGINS, message->id, message->lease, 0);
    result = pgqrs_archive(store, message);
    if (result == PGQRS_OK)
        write_down(NOTE_ARCHIVED, message->id, message->lease, 0);
    else if (result == PGQRS_ERR_LEASE_LOST)
        write_down(NOTE_ARCHIVE_LOST, message->id, message->lease, 0);
    else if (result == PGQRS_ERR_OUTCOME_UNKNOWN || pgqrs_result_kind(result) == PGQRS_KIND_RETRY)
        write_down(NOTE_ARCHIVE_UNKNOWN, message->id, message->lease, 0);
    else
        unexpected("archive", store);
    pgqrs_free(message);
}

static int act(void *user)
{
    pgqrs_store *store = NULL;
    unsigned seed = (unsigned)getpid();
    actor_number = *(int *)user;
    alarm(0);
    signal(SIGALRM, SIG_DFL);
    while (!page->stop) {
        if (!store)
            store = proof_store(actor_number % 2);
        if (!store)
            continue;
        if (rand_r(&seed) % 2)
            act_enqueue(store);
        else
            act_consume(store);
        __atomic_fetch_add(&page->calls, 1, __ATOMIC_SEQ_CST);
    }
    pgqrs_close(store);
    return 0;
}

static pid_t start_actor(int number)
{
    static int numbers[ACTORS];
    pid_t pid;
    numbers[number] = number;
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        _exit(act(&numbers[number]));
    return pid;
}

static void faults_of_proof(double each)
{
    static const char *const kinds[] = {"reset", "late", "slow", "error_before", "busy", "slow_down", "conflict", "false_412",
                                        "lost_reply", "slow_reply", "error_after", "own_412", "cut_head", "garbage",
                                        "truncated", "shortened", "corrupted"};
    char line[64];
    size_t i;
    for (i = 0; i < COUNT_OF(kinds); i++) {
        snprintf(line, sizeof(line), "%s=%.4f", kinds[i], each);
        YES(s3_control(run.s3_server.port, line));
    }
}

/* --- the checker */

static int64_t one_number(sqlite3 *db, const char *sql, int64_t a, int64_t b)
{
    sqlite3_stmt *statement;
    int64_t value = -1;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    if (sqlite3_bind_parameter_count(statement) > 0)
        sqlite3_bind_int64(statement, 1, a);
    if (sqlite3_bind_parameter_count(statement) > 1)
        sqlite3_bind_int64(statement, 2, b);
    if (sqlite3_step(statement) == SQLITE_ROW)
        value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

static int violations;
static void violated(const char *what, int64_t number, int64_t id)
{
    if (violations++ < 20)
        fprintf(stderr, "# VIOLATION: %s: %" PRId64 ", %" PRId64 "\n", what, number, id);
}

/* What may be said of a message: of its enqueues by number, of its archives by id. */
static void check_notes(sqlite3 *db)
{
    int64_t count = page->count < NOTES ? page->count : NOTES, i, enqueued = 0, archived = 0;
    unsigned char *archives = (unsigned char *)calloc(NOTES, 1);
    assert_non_null(archives);
    for (i = 0; i < count; i++) {
        const note *n = &page->notes[i];
        if (n->kind == NOTE_ENQUEUED) {
            enqueued++;
            if (one_number(db, "SELECT count(*) FROM pgqrs_messages WHERE payload = ?1", n->number, 0) != 1)
                violated("an acknowledged enqueue is not there once", n->number, n->id);
            if (one_number(db, "SELECT id FROM pgqrs_messages WHERE payload = ?1", n->number, 0) != n->id)
                violated("an acknowledged enqueue has another id", n->number, n->id);
        }
        if (n->kind == NOTE_ENQUEUE_FAILED &&
            one_number(db, "SELECT count(*) FROM pgqrs_messages WHERE payload = ?1", n->number, 0) != 0)
            violated("an enqueue that was said to have failed is there", n->number, 0);
        if (n->kind == NOTE_ENQUEUE_BEGINS &&
            one_number(db, "SELECT count(*) FROM pgqrs_messages WHERE payload = ?1", n->number, 0) > 1)
            violated("one enqueue is there twice", n->number, 0);
        if (n->kind == NOTE_CLAIMED &&
            one_number(db, "SELECT payload FROM pgqrs_messages WHERE id = ?1", n->number, 0) != n->payload)
            violated("a delivery had another payload", n->number, n->payload);
        if (n->kind == NOTE_ARCHIVED) {
            archived++;
            if (one_number(db, "SELECT state FROM pgqrs_messages WHERE id = ?1", n->number, 0) != PGQRS_ARCHIVED)
                violated("an acknowledged archive is not archived", n->number, n->id);
            if (n->number < NOTES && archives[n->number]++)
                violated("a message was archived twice", n->number, n->id);
        }
    }
    free(archives);
    printf("# %" PRId64 " calls, %" PRId64 " enqueued, %" PRId64 " archived by acknowledgement\n", page->calls, enqueued, archived);
    YES(enqueued > 20 && archived > 20);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Every version that ever was the object. */
static void check_versions(const char *directory)
{
    char *names[1 << 16];
    size_t count = 0, i;
    int64_t before = 0, archived_before = 0;
    DIR *listing = opendir(directory);
    struct dirent *entry;
    assert_non_null(listing);
    while ((entry = readdir(listing)) != NULL && count < COUNT_OF(names))
        if (entry->d_name[0] != '.')
            names[count++] = strdup(entry->d_name);
    closedir(listing);
    qsort(names, count, sizeof(names[0]), by_name);
    for (i = 0; i < count; i++) {
        sqlite3 *db;
        sqlite3_stmt *statement;
        char path[1500];
        int64_t messages, archived;
        snprintf(path, sizeof(path), "%s/%.600s", directory, names[i]);
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        if (sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &statement, NULL) != SQLITE_OK ||
            sqlite3_step(statement) != SQLITE_ROW || strcmp((const char *)sqlite3_column_text(statement, 0), "ok") != 0)
            violated("a version is damaged", (int64_t)i, 0);
        sqlite3_finalize(statement);
        if (i > 2) {
            messages = one_number(db, "SELECT count(*) FROM pgqrs_messages", 0, 0);
            archived = one_number(db, "SELECT count(*) FROM pgqrs_messages WHERE state = 4", 0, 0);
            if (messages < before || archived < archived_before)
                violated("a version has lost something", (int64_t)i, messages);
            before = messages;
            archived_before = archived;
        }
        sqlite3_close(db);
        free(names[i]);
    }
    printf("# %zu versions\n", count);
    YES(count > 40);
}

static int proof_seconds = 15;

static void nothing_acknowledged_is_lost(void)
{
    char versions[640], line[720];
    pid_t pids[ACTORS];
    unsigned seed = (unsigned)run.seed;
    int64_t end_ms = monotonic_ms() + proof_seconds * 1000;
    int i, kills = 0;
    sqlite3 *db;
    alarm(0);
    snprintf(versions, sizeof(versions), "%s/versions", run.dir);
    assert_int_equal(mkdir(versions, 0700), 0);
    snprintf(line, sizeof(line), "keep=%s", versions);
    YES(s3_control(run.s3_server.port, line));
    for (i = 0; i < 2; i++)
        snprintf(proof_cache[i], sizeof(proof_cache[i]), "%.600s/machine%d", S3.cache, i);
    T.store = proof_store(0);
    assert_non_null(T.store);
    OK_ON(T.store, pgqrs_install(T.store));
    OK_ON(T.store, pgqrs_queue_create(T.store, "proof", &(pgqrs_queue_desc){.max_attempts = 1000}));
    pgqrs_close(T.store);
    T.store = NULL;
    YES(s3_control(run.s3_server.port, "late_ms=60\nslow_ms=40\nretry_after=0\ndelay_ms=2"));
    faults_of_proof(0.12 / 17);
    for (i = 0; i < ACTORS; i++)
        pids[i] = start_actor(i);
    while (monotonic_ms() < end_ms && !page->stop) {
        sleep_ms(50 + rand_r(&seed) % 250);
        i = rand_r(&seed) % ACTORS;
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
        pids[i] = start_actor(i);
        kills++;
    }
    page->stop = 1;
    for (i = 0; i < ACTORS; i++)
        waitpid(pids[i], NULL, 0);
    faults_of_proof(0);
    YES(s3_control(run.s3_server.port, "delay_ms=0\nkeep="));
    sleep_ms(200); /* what is late comes now */
    s3_fetch_object();
    assert_int_equal(sqlite3_open(T.file, &db), SQLITE_OK);
    check_notes(db);
    sqlite3_close(db);
    unlink(T.file);
    check_versions(versions);
    snprintf(line, sizeof(line), "rm -rf '%s'", versions);
    EQ(0, system(line));
    printf("# %d kills\n", kills);
    EQ(0, violations);
    EQ(0, page->unexpected);
}

static const test_case proof_cases[] = {
    CASE(nothing_acknowledged_is_lost, NO_STORE | NO_BALANCE),
};

int main(int argc, char **argv)
{
    static const test_list lists[] = {LIST(proof_cases)};
    const char *seconds = argc > 1 ? argv[1] : getenv("PGQRS_PROOF_S3_SECONDS");
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    if (seconds && atoi(seconds) > 0)
        proof_seconds = atoi(seconds);
    page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return 3;
    failed = run_lists("proof_s3", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
