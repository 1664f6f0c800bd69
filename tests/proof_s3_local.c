/* Proof for the S3 backend's local mode: processes of one machine write to the local file, and upload and fetch it, while requests go
 * wrong and processes are killed at any moment. In the first half of the time this machine writes and another one follows it, in the
 * second half it is the other way round; so nobody ever has to give up what he wrote. The object is one file, or in parts: every other
 * seed. In the end, and of every version of the object:
 *
 *   - what was acknowledged by the local file is there once, with its archive, on both machines and in the bucket
 *   - what was never begun, or refused, is not there
 *   - each version is a sound SQLite file and has all that the one before had
 *   - no sync ever said that both sides were changed
 *
 *   proof_s3_local [SECONDS]   (6)
 *
 * test targets: s3-local s3-local-radosgw */
#define PGQRS_THREADS
#include "support.h"

#include <dirent.h>
#include <sys/mman.h>

enum { WRITERS = 2, COPIERS = 2, ACTORS = WRITERS + COPIERS, MESSAGES = 200000 };
enum { BEGUN = 1, REFUSED = 2, DONE = 4, ARCHIVED = 8 };

/* Shared by all processes, so that a kill loses nothing of it. */
static struct {
    volatile int stop;
    int64_t next, unexpected, acknowledged, archived, syncs, snapshots, failed_copies;
    unsigned char messages[MESSAGES];
} *page;

static int seconds = 6;
static bool in_parts; /* the object; what its versions are then is seen to by proof_s3_hosts */
static const char *machines[2] = {"here", "there"};

static pgqrs_store *store_of(int machine, pgqrs_error *err)
{
    pgqrs_store_desc desc = real_time_desc();
    char cache[700];
    snprintf(cache, sizeof(cache), "%.600s/%s", S3.cache, machines[machine]);
    S3.desc.cache_dir = cache;
    S3.desc.request_timeout_ms = 300;
    S3.desc.deadline_ms = 1000;
    S3.desc.split_bytes = in_parts ? 1 : -1;
    memset(&desc.allocator, 0, sizeof(desc.allocator));
    return pgqrs_open(T.dsn, &desc, err);
}

static void unexpected(const char *what, const char *why)
{
    __atomic_add_fetch(&page->unexpected, 1, __ATOMIC_SEQ_CST);
    fprintf(stderr, "# UNEXPECTED: %s: %s\n", what, why);
}

/* --- a process */

static void act_write(pgqrs_store *store)
{
    int64_t number = __atomic_add_fetch(&page->next, 1, __ATOMIC_SEQ_CST);
    pgqrs_result result;
    char payload[24];
    if (number >= MESSAGES) {
        page->stop = 1;
        return;
    }
    snprintf(payload, sizeof(payload), "%" PRId64, number);
    page->messages[number] = BEGUN;
    result = pgqrs_enqueue(store, "q", payload, NULL, NULL);
    if (result == PGQRS_OK) {
        page->messages[number] = BEGUN | DONE;
        __atomic_add_fetch(&page->acknowledged, 1, __ATOMIC_SEQ_CST);
    } else if (result == PGQRS_ERR_BUSY) {
        page->messages[number] = REFUSED;
    } else {
        unexpected("enqueue", last_message(store));
    }
}

static void act_archive(pgqrs_store *store)
{
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc desc = {.lease_ms = 600000};
    pgqrs_result result = pgqrs_dequeue(store, "q", &desc, &message);
    if (result == PGQRS_OK && message) {
        int64_t number = strtoll(message->payload, NULL, 10);
        result = pgqrs_archive(store, message);
        if (result == PGQRS_OK) {
            page->messages[number] |= ARCHIVED;
            __atomic_add_fetch(&page->archived, 1, __ATOMIC_SEQ_CST);
        }
    }
    if (result != PGQRS_OK && result != PGQRS_ERR_BUSY)
        unexpected("dequeue or archive", last_message(store));
    pgqrs_free(message);
}

static bool is_excused(pgqrs_result result)
{
    return result == PGQRS_OK || result == PGQRS_ERR_CONNECTION || result == PGQRS_ERR_OUTCOME_UNKNOWN || result == PGQRS_ERR_BUSY;
}

/* `writes`: on this machine, so a snapshot may find local changes in its way. */
static void act_copy(pgqrs_store *store, bool writes, int dice)
{
    pgqrs_s3_state state;
    pgqrs_result result;
    if (dice == 0) {
        result = pgqrs_s3_state_get(store, &state);
        if (!is_excused(result))
            unexpected("state_get", last_message(store));
        return;
    }
    if (writes ? dice < 4 : dice > 4) {
        result = pgqrs_s3_sync(store);
        __atomic_add_fetch(result == PGQRS_OK ? &page->syncs : &page->failed_copies, 1, __ATOMIC_SEQ_CST);
        if (!is_excused(result))
            unexpected("sync", last_message(store));
    } else {
        result = pgqrs_s3_snapshot(store, false);
        __atomic_add_fetch(result == PGQRS_OK ? &page->snapshots : &page->failed_copies, 1, __ATOMIC_SEQ_CST);
        if (!is_excused(result) && !(writes && result == PGQRS_ERR_OBJECT_CHANGED))
            unexpected("snapshot", last_message(store));
    }
}

/* Of the machine that writes, the first ones write; all others copy. */
static void act(int number, int writing)
{
    int machine = number < WRITERS + 1 ? writing : 1 - writing;
    unsigned seed = (unsigned)getpid();
    pgqrs_store *store = NULL;
    pgqrs_error err;
    signal(SIGALRM, SIG_DFL);
    alarm(0);
    S3.count = 0;
    T.random_state ^= (uint64_t)getpid() << 32;
    while (!page->stop && !store) {
        store = store_of(machine, &err);
        if (!store && err.code != PGQRS_ERR_BUSY)
            unexpected("open", err.message);
    }
    while (!page->stop)
        if (number >= WRITERS)
            act_copy(store, machine == writing, rand_r(&seed) % 5);
        else if (rand_r(&seed) % 3)
            act_write(store);
        else
            act_archive(store);
    pgqrs_close(store);
    _exit(0);
}

static pid_t start_actor(int number, int writing)
{
    pid_t pid;
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        act(number, writing);
    return pid;
}

/* --- the checker */

static int64_t one_number(sqlite3 *database, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int64_t value = -1;
    if (sqlite3_prepare_v2(database, sql, -1, &statement, NULL) == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
        value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

static int violations;
static void violated(const char *where, const char *what, int64_t number)
{
    if (violations++ < 20)
        fprintf(stderr, "# VIOLATION: %s: %s: %" PRId64 "\n", where, what, number);
}

static bool is_sound(sqlite3 *database)
{
    sqlite3_stmt *statement = NULL;
    bool sound = sqlite3_prepare_v2(database, "PRAGMA integrity_check", -1, &statement, NULL) == SQLITE_OK &&
                 sqlite3_step(statement) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(statement, 0), "ok") == 0;
    sqlite3_finalize(statement);
    return sound;
}

static void check_messages(const char *where, const char *file)
{
    static unsigned char found[MESSAGES];
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    memset(found, 0, sizeof(found));
    assert_int_equal(sqlite3_open(file, &database), SQLITE_OK);
    if (!is_sound(database))
        violated(where, "damaged", 0);
    assert_int_equal(sqlite3_prepare_v2(database, "SELECT payload, state FROM pgqrs_messages", -1, &statement, NULL), SQLITE_OK);
    while (sqlite3_step(statement) == SQLITE_ROW) {
        int64_t number = sqlite3_column_int64(statement, 0);
        if (number < 1 || number >= MESSAGES || !(page->messages[number] & BEGUN))
            violated(where, "nobody enqueued it", number);
        else if (found[number]++)
            violated(where, "it is there twice", number);
        else if ((page->messages[number] & ARCHIVED) && sqlite3_column_int(statement, 1) != PGQRS_ARCHIVED)
            violated(where, "its archive was acknowledged and is gone", number);
    }
    sqlite3_finalize(statement);
    sqlite3_close(database);
    for (int64_t i = 1; i < MESSAGES; i++)
        if ((page->messages[i] & DONE) && !found[i])
            violated(where, "it was acknowledged and is gone", i);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t check_versions(const char *versions)
{
    static char *names[20000];
    size_t count = 0;
    int64_t before = 0;
    DIR *listing = opendir(versions);
    struct dirent *entry;
    assert_non_null(listing);
    while ((entry = readdir(listing)) != NULL && count < COUNT_OF(names))
        if (entry->d_name[0] != '.')
            names[count++] = strdup(entry->d_name);
    closedir(listing);
    qsort(names, count, sizeof(names[0]), by_name);
    for (size_t i = 0; i < count; i++) {
        char path[1400];
        sqlite3 *database = NULL;
        int64_t messages;
        snprintf(path, sizeof(path), "%.700s/%.600s", versions, names[i]);
        assert_int_equal(sqlite3_open_v2(path, &database, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
        messages = one_number(database, "SELECT count(*) FROM pgqrs_messages");
        if (!is_sound(database))
            violated(names[i], "a version is damaged", (int64_t)i);
        if (messages < before)
            violated(names[i], "a version has lost messages", before - messages);
        before = messages;
        sqlite3_close(database);
        free(names[i]);
    }
    return count;
}

/* --- the world */

static const char faults[] = "reset=0.02\nlate=PUT:0.02\nerror_before=0.02\nbusy=0.01\nslow_down=0.01\nfalse_412=PUT:0.01\nlost_reply=PUT:0.03\n"
                             "slow_reply=PUT:0.01\nerror_after=PUT:0.02\nown_412=PUT:0.01\ncut_head=PUT:0.01\ntruncated=GET:0.02\n"
                             "shortened=GET:0.02\ncorrupted=GET:0.02\nlate_ms=40\nslow_ms=400\nretry_after=0\ndelay_ms=3";
static const char no_faults[] = "reset=0\nlate=0\nerror_before=0\nbusy=0\nslow_down=0\nfalse_412=0\nlost_reply=0\nslow_reply=0\nerror_after=0\n"
                                "own_412=0\ncut_head=0\ntruncated=0\nshortened=0\ncorrupted=0\ndelay_ms=0\nretry_after=1";

static void control(const char *lines)
{
    if (run.s3_server.pid) /* another server does as it likes */
        YES(s3_control(run.s3_server.port, lines));
}

static int kill_at_random(int writing, int64_t for_ms)
{
    int64_t end_ms = monotonic_ms() + for_ms;
    unsigned seed = (unsigned)(run.seed ^ (uint64_t)writing);
    pid_t pids[ACTORS];
    int kills = 0;
    page->stop = 0;
    for (int i = 0; i < ACTORS; i++)
        pids[i] = start_actor(i, writing);
    while (monotonic_ms() < end_ms && !page->stop) {
        int victim = rand_r(&seed) % ACTORS, status = 0;
        sleep_ms(20 + rand_r(&seed) % 150);
        kill(pids[victim], SIGKILL);
        waitpid(pids[victim], &status, 0);
        if (!WIFSIGNALED(status))
            violated("the proof", "a process ended by itself", victim);
        pids[victim] = start_actor(victim, writing);
        kills++;
    }
    page->stop = 1;
    for (int i = 0; i < ACTORS; i++)
        waitpid(pids[i], NULL, 0);
    return kills;
}

static void file_of(int machine, char out[1100])
{
    char pattern[700];
    DIR *listing;
    struct dirent *entry;
    snprintf(pattern, sizeof(pattern), "%.600s/%s", S3.cache, machines[machine]);
    listing = opendir(pattern);
    assert_non_null(listing);
    out[0] = '\0';
    while ((entry = readdir(listing)) != NULL)
        if (entry->d_name[0] != '.')
            snprintf(out, 1100, "%.680s/%.300s/local.sqlite", pattern, entry->d_name);
    closedir(listing);
}

/* Both machines have what the object has. */
static void settle(int writing)
{
    pgqrs_error err;
    control(no_faults);
    sleep_ms(200); /* what is late comes now */
    for (int i = 0; i < 2; i++) {
        int machine = i == 0 ? writing : 1 - writing;
        char file[1100];
        pgqrs_store *store = store_of(machine, &err);
        assert_non_null(store);
        if (i == 0)
            OK_ON(store, pgqrs_s3_sync(store));
        else
            OK_ON(store, pgqrs_s3_snapshot(store, false));
        pgqrs_close(store);
        file_of(machine, file);
        check_messages(machines[machine], file);
    }
}

static void check_object(void)
{
    char path[700], place[600];
    snprintf(place, sizeof(place), "%s", T.file);
    snprintf(T.file, sizeof(T.file), "%.500s/object", run.dir);
    snprintf(path, sizeof(path), "%s", T.file);
    s3_fetch_object();
    snprintf(T.file, sizeof(T.file), "%s", place);
    check_messages("the object", path);
    unlink(path);
}

static void nothing_written_locally_is_lost(void)
{
    char versions[600], line[700];
    pgqrs_queue_desc desc = {.max_attempts = 1000};
    pgqrs_error err;
    pgqrs_store *store;
    size_t count = 0;
    int kills = 0;
    watch((unsigned)seconds * 3 + 120);
    in_parts = run.seed % 2 == 0;
    memset(page, 0, sizeof(*page));
    snprintf(versions, sizeof(versions), "%.500s/versions", run.dir);
    assert_int_equal(mkdir(versions, 0700), 0);
    snprintf(line, sizeof(line), "keep=%s", versions);
    control(line);
    store = store_of(0, &err);
    assert_non_null(store);
    OK_ON(store, pgqrs_install(store));
    OK_ON(store, pgqrs_queue_create(store, "q", &desc));
    OK_ON(store, pgqrs_s3_sync(store));
    pgqrs_close(store);
    store = store_of(1, &err);
    assert_non_null(store);
    OK_ON(store, pgqrs_s3_snapshot(store, true));
    pgqrs_close(store);
    for (int writing = 0; writing < 2; writing++) {
        control(faults);
        kills += kill_at_random(writing, (int64_t)seconds * 500);
        settle(writing);
        printf("# %d kills, %" PRId64 " acknowledged, %" PRId64 " archived, %" PRId64 " syncs, %" PRId64 " snapshots, %" PRId64
               " that failed\n", kills, page->acknowledged, page->archived, page->syncs, page->snapshots, page->failed_copies);
        fflush(stdout);
    }
    check_object();
    control("keep=");
    if (run.s3_server.pid && !in_parts) {
        count = check_versions(versions);
        YES(count > 5);
    }
    printf("# %zu versions%s, %d violations\n", count, in_parts ? ", an object in parts" : "", violations);
    snprintf(line, sizeof(line), "rm -rf '%s'", versions);
    EQ(0, system(line));
    YES(page->acknowledged > 50 && page->archived > 20 && page->syncs > 5 && page->snapshots > 5);
    EQ(0, violations);
    EQ(0, page->unexpected);
}

static const test_case local_cases[] = {
    CASE(nothing_written_locally_is_lost, NO_STORE | NO_BALANCE),
};

int main(int argc, char **argv)
{
    static const test_list lists[] = {LIST(local_cases)};
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    if (argc > 1 && atoi(argv[1]) > 0)
        seconds = atoi(argv[1]);
    page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return 3;
    failed = run_lists("proof_s3_local", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
