/* What a power failure or a bad disk may leave of the S3 backend's cache directory: any file of it cut short, emptied, zeroed from some
 * block on, with a bit or a stretch changed, longer, gone, of an older version than its neighbours, or half the one and half the other.
 * Each trial does that to one file, or two, and goes on with what is left:
 *
 *   durable   the store opens, every acknowledged message is there, the next one is taken, and the object stays a sound SQLite file with
 *             exactly the messages that were enqueued; half of the time another machine has committed meanwhile
 *   local     the same of the local file, as long as that itself is whole; sync uploads it or says that both sides changed, and then
 *             both are as they were. A damaged local file is an error, or what can be read of it; it never gets into the bucket
 *
 *   PGQRS_PROOF_TRIALS=N   instead of one of each kind and some more
 *
 * test targets: s3 s3-local */
#include "support.h"

#include <dirent.h>

enum { FILES = 12, SHORT = 24 /* trials by chance, beside one of each kind */ };

typedef struct kept_file {
    char name[80];
    unsigned char *data;
    size_t size;
} kept_file;

/* The directory as it was after some trial. */
typedef struct kept_state {
    kept_file files[FILES];
    size_t count;
} kept_state;

static kept_state states[3]; /* the newest first */
static uint64_t dice;
static int64_t total; /* acknowledged, and in the bucket or in the local file */
static int64_t damaged, refused, unreadable;
static char directory[800], note[400];

static int64_t below(int64_t limit)
{
    dice += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = (dice ^ dice >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return limit > 0 ? (int64_t)((z ^ z >> 31) % (uint64_t)limit) : 0;
}

/* --- files */

static void find_directory(void)
{
    DIR *listing = opendir(S3.cache);
    struct dirent *entry;
    assert_non_null(listing);
    directory[0] = '\0';
    while ((entry = readdir(listing)) != NULL)
        if (strncmp(entry->d_name, run.s3_bucket, strlen(run.s3_bucket)) == 0)
            snprintf(directory, sizeof(directory), "%.500s/%.250s", S3.cache, entry->d_name);
    closedir(listing);
    YES(directory[0] != '\0');
}

static void path_of(const char *name, char out[900])
{
    snprintf(out, 900, "%.700s/%.79s", directory, name);
}

static unsigned char *read_whole(const char *name, size_t *size)
{
    char path[900];
    unsigned char *data = (unsigned char *)malloc(8 << 20);
    FILE *file;
    path_of(name, path);
    file = fopen(path, "rb");
    assert_non_null(data);
    if (!file)
        fail_at(__FILE__, __LINE__, "%s cannot be read: %s", path, strerror(errno));
    *size = fread(data, 1, 8 << 20, file);
    fclose(file);
    return data;
}

static void write_whole(const char *name, const unsigned char *data, size_t size)
{
    char path[900];
    FILE *file;
    path_of(name, path);
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void forget_state(kept_state *state)
{
    for (size_t i = 0; i < state->count; i++)
        free(state->files[i].data);
    state->count = 0;
}

static void keep_state(void)
{
    DIR *listing = opendir(directory);
    struct dirent *entry;
    assert_non_null(listing);
    forget_state(&states[2]);
    states[2] = states[1];
    states[1] = states[0];
    states[0].count = 0;
    while ((entry = readdir(listing)) != NULL && states[0].count < FILES) {
        kept_file *file = &states[0].files[states[0].count];
        struct stat is;
        char path[900];
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= sizeof(file->name))
            continue;
        path_of(entry->d_name, path);
        if (lstat(path, &is) != 0 || !S_ISREG(is.st_mode))
            continue;
        snprintf(file->name, sizeof(file->name), "%.79s", entry->d_name);
        file->data = read_whole(file->name, &file->size);
        states[0].count++;
    }
    closedir(listing);
    YES(states[0].count >= 3);
}

static const kept_file *older(const char *name, size_t age)
{
    for (size_t i = 0; i < states[age].count; i++)
        if (strcmp(states[age].files[i].name, name) == 0)
            return &states[age].files[i];
    return NULL;
}

/* --- damage */

typedef enum damage_kind {
    CUT_SHORT,
    EMPTIED,
    BIT_CHANGED,
    STRETCH_CHANGED,
    ZEROED_FROM,
    ALL_ZERO,
    LONGER,
    GONE,
    OLDER,
    HALF_OLDER,
    KINDS
} damage_kind;

static const char *const kind_names[KINDS] = {"cut short",  "emptied", "a bit changed", "a stretch changed", "zeroed from",
                                              "all zero",   "longer",  "gone",          "older",             "half older"};

/* Where headers, trailers and tails are it is more often tried. */
static size_t some_place(size_t size)
{
    size_t end = size < 300 ? size : 300;
    int64_t where = below(3);
    if (where == 0)
        return (size_t)below((int64_t)(size < 110 ? size : 110));
    return where == 1 ? size - 1 - (size_t)below((int64_t)end) : (size_t)below((int64_t)size);
}

static void damage(const char *name, damage_kind kind)
{
    char path[900];
    const kept_file *before = older(name, (size_t)(1 + below(2)));
    size_t size = 0, at = 0;
    unsigned char *data;
    path_of(name, path);
    if (access(path, F_OK) != 0)
        return; /* it was there the last time */
    data = read_whole(name, &size);
    if (size > 0)
        at = some_place(size);
    switch (kind) {
    case CUT_SHORT: write_whole(name, data, at); break;
    case EMPTIED: write_whole(name, data, at = 0); break;
    case BIT_CHANGED:
        if (size > 0)
            data[at] ^= (unsigned char)(1 << below(8));
        write_whole(name, data, size);
        break;
    case STRETCH_CHANGED:
        for (size_t i = at; i < size && i < at + 512; i++)
            data[i] = (unsigned char)below(256);
        write_whole(name, data, size);
        break;
    case ZEROED_FROM:
        at = at / 512 * 512;
        memset(data + at, 0, size - at);
        write_whole(name, data, size);
        break;
    case ALL_ZERO:
        memset(data, 0, size);
        write_whole(name, data, size);
        break;
    case LONGER:
        memset(data + size, (int)below(256), 700);
        write_whole(name, data, size + (size_t)below(700) + 1);
        break;
    case GONE: assert_int_equal(unlink(path), 0); break;
    case OLDER:
        if (before)
            write_whole(name, before->data, before->size);
        else
            unlink(path);
        break;
    case HALF_OLDER:
        if (before)
            memcpy(data, before->data, before->size < size / 2 ? before->size : size / 2);
        write_whole(name, data, size);
        break;
    default: break;
    }
    snprintf(note + strlen(note), sizeof(note) - strlen(note), " %s %s (%zu of %zu)", name, kind_names[kind], at, size);
    free(data);
    damaged++;
}

/* --- what has to hold */

static void failed_after(const char *what, int64_t is, int64_t expected)
{
    fail_at(__FILE__, __LINE__, "%s is %" PRId64 ", not %" PRId64 ", after:%s", what, is, expected, note);
}

static int64_t one_number(sqlite3 *database, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int64_t value = -1;
    if (sqlite3_prepare_v2(database, sql, -1, &statement, NULL) == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
        value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

/* The payloads are the numbers from 1 on, so a changed one shows. -1: the object is not sound. */
static bool object_is_sound;
static int64_t messages_in_the_bucket(void)
{
    char path[700], place[600];
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    int64_t count = -1;
    snprintf(place, sizeof(place), "%s", T.file);
    snprintf(T.file, sizeof(T.file), "%.500s/object", run.dir);
    snprintf(path, sizeof(path), "%s", T.file);
    s3_fetch_object();
    snprintf(T.file, sizeof(T.file), "%s", place);
    if (sqlite3_open(path, &database) == SQLITE_OK &&
        sqlite3_prepare_v2(database, "PRAGMA integrity_check", -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(statement, 0), "ok") == 0)
        count = one_number(database, "SELECT count(DISTINCT payload) FROM pgqrs_messages");
    sqlite3_finalize(statement);
    object_is_sound = count >= 0;
    if (one_number(database, "SELECT max(CAST(payload AS INTEGER)) FROM pgqrs_messages") != count ||
        one_number(database, "SELECT count(*) FROM pgqrs_messages") != count)
        count = -1;
    sqlite3_close(database);
    unlink(path);
    return count;
}

static int64_t messages_on(pgqrs_store *store)
{
    pgqrs_message_filter filter = {.queue = T.queue};
    int64_t count = -1;
    OK_ON(store, pgqrs_message_count(store, &filter, &count));
    return count;
}

static void enqueue_next(pgqrs_store *store)
{
    char payload[24];
    snprintf(payload, sizeof(payload), "%" PRId64, total + 1);
    if (pgqrs_enqueue(store, T.queue, payload, NULL, NULL) != PGQRS_OK)
        fail_at(__FILE__, __LINE__, "enqueue: %s, after:%s", last_message(store), note);
    total++;
}

static pgqrs_store *open_elsewhere(void)
{
    pgqrs_store_desc desc = test_desc();
    char cache[700];
    snprintf(cache, sizeof(cache), "%s/elsewhere", S3.cache);
    S3.desc.cache_dir = cache;
    return open_store(&desc);
}

/* A file that a process left when it was killed while it wrote. */
static void leave_half_a_file(void)
{
    const kept_file *image = older("image", 1);
    if (image)
        write_whole("image.new", image->data, (size_t)below((int64_t)image->size));
}

/* The number of this machine is a link that leads nowhere. */
static void damage_number_of_machine(void)
{
    char path[900];
    path_of("machine", path);
    if (unlink(path) != 0)
        return;
    switch (below(4)) {
    case 0: break;
    case 1: assert_int_equal(symlink("no number at all", path), 0); break;
    case 2: assert_int_equal(symlink("0", path), 0); break;
    default: write_whole("machine", (const unsigned char *)"7", 1); break;
    }
    snprintf(note + strlen(note), sizeof(note) - strlen(note), " machine is another,");
}

/* --- durable */

static void trial_durable(const char *name, damage_kind kind, const char *second)
{
    bool meanwhile = below(2) == 0;
    note[0] = '\0';
    keep_state();
    if (below(4) == 0)
        leave_half_a_file();
    if (below(6) == 0)
        damage_number_of_machine();
    damage(name, kind);
    if (second)
        damage(second, (damage_kind)below(KINDS));
    if (meanwhile) {
        pgqrs_store *there = open_elsewhere();
        enqueue_next(there);
        close_all_stores();
        snprintf(note + strlen(note), sizeof(note) - strlen(note), ", and another machine has committed");
    }
    T.store = open_store(NULL);
    if (messages_on(T.store) != total)
        failed_after("what can be read", messages_on(T.store), total);
    enqueue_next(T.store);
    close_all_stores();
    if (messages_in_the_bucket() != total)
        failed_after("what is in the bucket", messages_in_the_bucket(), total);
}

/* --- local mode */

static bool no_replies; /* from the first PUT on that is carried out */
static bool silent;

static int exchange_without_reply(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    int status = s3_exchange_plain(request, reply);
    (void)user;
    if (strcmp(request->method, "PUT") == 0 && status == 200)
        silent = no_replies;
    if (!silent)
        return status;
    reply->body.size = 0;
    return 0;
}

/* The upload is done, and nobody hears of it: `pending` stays. */
static void sync_without_reply(void)
{
    no_replies = true;
    FAILS(ERR_OUTCOME_UNKNOWN, pgqrs_s3_sync(T.store));
    no_replies = silent = false;
}

/* Both sides as they were, and the way out that the manual names. */
static void check_refusal(int64_t synced)
{
    refused++;
    if (messages_on(T.store) != total)
        failed_after("what the local file has after a refused sync", messages_on(T.store), total);
    if (messages_in_the_bucket() != synced)
        failed_after("what the bucket has after a refused sync", messages_in_the_bucket(), synced);
    OK(pgqrs_s3_snapshot(T.store, true));
    total = synced;
}

static void trial_local(const char *name, damage_kind kind, const char *second)
{
    int64_t synced = total;
    pgqrs_result result;
    int way = (int)below(3);
    note[0] = '\0';
    if (way > 0) {
        T.store = open_store(NULL);
        enqueue_next(T.store);
        if (way == 2) {
            sync_without_reply();
            synced = total;
            if (below(2) == 0)
                enqueue_next(T.store);
            snprintf(note, sizeof(note), " a sync whose reply was lost,");
        }
        close_all_stores();
    }
    keep_state();
    if (below(4) == 0)
        leave_half_a_file();
    if (below(6) == 0)
        damage_number_of_machine();
    damage(name, kind);
    if (second && strcmp(second, "local.sqlite") != 0)
        damage(second, (damage_kind)below(KINDS));
    T.store = open_store(NULL);
    if (messages_on(T.store) != total)
        failed_after("what the local file has", messages_on(T.store), total);
    result = pgqrs_s3_sync(T.store);
    if (result == PGQRS_ERR_OBJECT_CHANGED && (strstr(note, "image") || strstr(note, "pending")))
        check_refusal(synced);
    else if (result != PGQRS_OK)
        fail_at(__FILE__, __LINE__, "sync gave %s (%s) after:%s", pgqrs_result_name(result), last_message(T.store), note);
    enqueue_next(T.store);
    OK(pgqrs_s3_sync(T.store));
    if (messages_in_the_bucket() != total || messages_on(T.store) != total)
        failed_after("what is in the bucket", messages_in_the_bucket(), total);
    close_all_stores();
}

/* A file with a change that SQLite does not see, such as one in a payload, is uploaded: nothing tells it from a whole one. Then the
 * object is put back as it was. */
static bool may_be_unseen(damage_kind kind)
{
    return kind == BIT_CHANGED || kind == STRETCH_CHANGED || kind == HALF_OLDER || kind == OLDER;
}

static void check_bucket_is_sound(damage_kind kind, const s3_text *good)
{
    int64_t found = messages_in_the_bucket();
    if (may_be_unseen(kind) ? !object_is_sound : found != total)
        failed_after("what is in the bucket", found, total);
    if (may_be_unseen(kind))
        assert_int_equal(s3_object("PUT", good->data, good->size, NULL), 200);
}

/* The local file itself: what is lost of it is lost, but only here. */
static void trial_local_file(damage_kind kind)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_error err;
    char command[900];
    s3_text good = {NULL, 0, 0, false};
    assert_int_equal(s3_object("GET", NULL, 0, &good), 200);
    if (may_be_unseen(kind) && s3_parts_table(&good)) { /* its parts would have to be put back, too */
        s3_free(&good);
        return;
    }
    note[0] = '\0';
    keep_state();
    damage("local.sqlite", kind);
    T.store = remember_store(pgqrs_open(T.dsn, &desc, &err));
    if (!T.store)
        check_error_text(err.message, "open", __FILE__, __LINE__);
    unreadable += !T.store || pgqrs_s3_sync(T.store) != PGQRS_OK;
    close_all_stores();
    check_bucket_is_sound(kind, &good);
    s3_free(&good);
    snprintf(command, sizeof(command), "rm -rf '%.700s'", directory);
    assert_int_equal(system(command), 0);
    T.store = open_store(NULL);
    OK(pgqrs_s3_snapshot(T.store, true));
    if (messages_on(T.store) != total)
        failed_after("what a snapshot brought", messages_on(T.store), total);
    enqueue_next(T.store);
    OK(pgqrs_s3_sync(T.store));
    close_all_stores();
}

/* --- */

static const char *any_file(void)
{
    return states[0].files[below((int64_t)states[0].count)].name;
}

static void cache_after_a_power_failure(void)
{
    const char *given = getenv("PGQRS_PROOF_TRIALS");
    int64_t trials = given ? strtoll(given, NULL, 10) : SHORT;
    void (*trial)(const char *, damage_kind, const char *) = on(ON_S3) ? trial_durable : trial_local;
    char name[80], second[80];
    watch(3600);
    total = 0;
    S3.instead.exchange = exchange_without_reply;
    dice = run.seed;
    enqueue_next(T.store);
    OK(pgqrs_s3_sync(T.store));
    close_all_stores();
    find_directory();
    for (int i = 0; i < 3; i++)
        keep_state();
    for (int kind = 0; kind < KINDS; kind++)
        trial("image", (damage_kind)kind, NULL);
    for (int64_t i = 0; i < trials; i++) {
        bool twice = below(4) == 0;
        snprintf(name, sizeof(name), "%s", below(2) == 0 ? "image" : any_file());
        snprintf(second, sizeof(second), "%s", any_file());
        if (on(ON_S3_LOCAL) && strncmp(name, "local.sqlite", 12) == 0)
            continue;
        trial(name, (damage_kind)below(KINDS), twice && strcmp(name, second) != 0 && strcmp(second, "image.new") != 0 ? second : NULL);
    }
    for (int64_t i = 0; on(ON_S3_LOCAL) && i < KINDS + trials / 2; i++)
        trial_local_file((damage_kind)(i % KINDS));
    printf("# %" PRId64 " files damaged, %" PRId64 " messages, %" PRId64 " syncs refused, %" PRId64 " local files not uploaded\n", damaged, total,
           refused, unreadable);
    YES(on(ON_S3) || unreadable > 5);
    for (int i = 0; i < 3; i++)
        forget_state(&states[i]);
}

static const test_case cache_cases[] = {
    CASE(cache_after_a_power_failure, PLAIN),
};

int main(void)
{
    static const test_list lists[] = {LIST(cache_cases)};
    int stop = begin_run();
    int failed;
    if (stop)
        return stop - 1;
    failed = run_lists("proof_s3_cache", lists, COUNT_OF(lists));
    return end_run() || failed ? 1 : 0;
}
