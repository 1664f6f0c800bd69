/* A model of what a power cut leaves of a SQLite file. While recording, every write, truncation and flush of the database, its log
 * and its journal, and every name made and removed beside them, is written down in its order, whoever made the system call:
 * SQLite or the library. From that come images: what was flushed is there for certain; of what came later each sector of
 * 512 bytes is as it was at any time since, names come and go likewise, and room that was never written holds rubbish.
 *
 * The calls are taken by definitions of the same name in the program, which come before those of the C library. Include this
 * after support.h. Nothing is really flushed: what counts is when it was asked for, and tests are faster. */
#ifndef PGQRS_TEST_POWER_H
#define PGQRS_TEST_POWER_H

#include <sys/mman.h>
#include <sys/syscall.h>

enum { POWER_SECTOR = 512, POWER_FILES = 256, POWER_DESCRIPTORS = 256 };
enum { POWER_DATABASE, POWER_LOG, POWER_JOURNAL, POWER_NAMES, POWER_TURN_LOCK, POWER_DIRECTORY, POWER_NONE };

typedef enum power_kind {
    POWER_WRITE = 1,
    POWER_TRUNCATE,
    POWER_FLUSH, /* asked for */
    POWER_FLUSHED,
    POWER_NAME_MADE,
    POWER_NAME_GONE
} power_kind;

typedef struct power_event {
    power_kind kind;
    int file; /* -1: the directory */
    int name;
    int64_t at, size;
    int64_t data; /* in the arena; -1: zeros. FLUSHED: the number of its FLUSH */
} power_event;

/* Shared with child processes. */
typedef struct power_recording {
    int lock;
    bool on;
    char path[640], directory[640];
    int64_t event_count, arena_used;
    int file_count;
    int bound[POWER_NAMES]; /* the file a name stands for; -1: none */
    int64_t now_us;
    int turn_holder;         /* a process id; 0: nobody has the queue lock */
    int64_t turn_violations; /* see power_check_turn */
    int64_t checkpointed, restarted, nested;
    power_event events[1 << 18];
    unsigned char arena[INT64_C(400) << 20];
} power_recording;

static power_recording *power;
static int power_descriptors[POWER_DESCRIPTORS]; /* of this process: 0 not watched, else 1 + file, or below 0 */
static bool power_outsider;                      /* opening, closing, or not the library at all */
static bool power_in_step;                       /* a transactional step: it has SQLite's lock instead of the queue lock */
static void (*power_while_flushing)(void);

enum { POWER_IS_TURN_LOCK = -1, POWER_IS_DIRECTORY = -2 };

static void power_begin(const char *directory, const char *path)
{
    if (!power) {
        void *memory = mmap(NULL, sizeof(*power), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        assert_true(memory != MAP_FAILED);
        power = (power_recording *)memory;
    }
    memset(power, 0, offsetof(power_recording, events));
    memset(power_descriptors, 0, sizeof(power_descriptors));
    snprintf(power->directory, sizeof(power->directory), "%s", directory);
    snprintf(power->path, sizeof(power->path), "%s", path);
    for (int i = 0; i < POWER_NAMES; i++)
        power->bound[i] = -1;
    power->on = true;
}

static void power_end(void)
{
    power->on = false;
}

/* --- recording --- */

static void power_enter(void)
{
    while (__atomic_exchange_n(&power->lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void power_leave(void)
{
    __atomic_store_n(&power->lock, 0, __ATOMIC_RELEASE);
}

static int64_t power_time(void)
{
    return power ? __atomic_load_n(&power->event_count, __ATOMIC_ACQUIRE) : 0;
}

/* Called with the lock held. Data beyond the end of the arena would be a test that is too long. */
static power_event *power_record(power_kind kind, int file)
{
    power_event *event = &power->events[power->event_count];
    if (power->event_count + 1 >= (int64_t)COUNT_OF(power->events))
        abort();
    memset(event, 0, sizeof(*event));
    event->kind = kind;
    event->file = file;
    event->data = -1;
    __atomic_store_n(&power->event_count, power->event_count + 1, __ATOMIC_RELEASE);
    return event;
}

static void power_keep(power_event *event, const void *data, size_t size)
{
    const char *bytes = (const char *)data;
    event->size = (int64_t)size;
    if (size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0))
        return;
    if (power->arena_used + (int64_t)size > (int64_t)sizeof(power->arena))
        abort();
    event->data = power->arena_used;
    memcpy(power->arena + power->arena_used, data, size);
    power->arena_used += (int64_t)size;
}

static int power_name_of(const char *path)
{
    static const char *const endings[] = {"", "-wal", "-journal"};
    size_t length = power && power->on ? strlen(power->path) : 0;
    if (length == 0)
        return POWER_NONE;
    if (strcmp(path, power->directory) == 0)
        return POWER_DIRECTORY;
    if (strncmp(path, power->path, length) != 0)
        return POWER_NONE;
    if (strcmp(path + length, "-qlock") == 0)
        return POWER_TURN_LOCK;
    for (int i = 0; i < POWER_NAMES; i++)
        if (strcmp(path + length, endings[i]) == 0)
            return i;
    return POWER_NONE;
}

static int power_watched(int descriptor)
{
    return power && power->on && descriptor >= 0 && descriptor < POWER_DESCRIPTORS ? power_descriptors[descriptor] : 0;
}

static void power_opened(int descriptor, int name)
{
    if (descriptor < 0)
        return;
    if (descriptor >= POWER_DESCRIPTORS || power->file_count >= POWER_FILES)
        abort();
    if (name == POWER_TURN_LOCK || name == POWER_DIRECTORY) {
        power_descriptors[descriptor] = name == POWER_TURN_LOCK ? POWER_IS_TURN_LOCK : POWER_IS_DIRECTORY;
        return;
    }
    if (power->bound[name] < 0) {
        power_event *event;
        power->bound[name] = power->file_count++;
        event = power_record(POWER_NAME_MADE, -1);
        event->name = name;
        event->at = power->bound[name];
    }
    power_descriptors[descriptor] = 1 + power->bound[name];
}

static int power_open(const char *path, int flags, int mode)
{
    int name = power_name_of(path);
    int descriptor;
    if (name == POWER_NONE)
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    power_enter();
    descriptor = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    power_opened(descriptor, name);
    power_leave();
    return descriptor;
}

/* The library's protection against the race of a checkpoint with a new start of the log (sqlite.org/wal.html#walresetbug): whoever
 * copies into the file, or starts the log anew, has the queue lock. */
static void power_check_turn(int file, int64_t at)
{
    bool starts_log = file == power->bound[POWER_LOG] && at == 0;
    bool checkpoints = file == power->bound[POWER_DATABASE];
    power->restarted += starts_log;
    power->checkpointed += checkpoints;
    if (power_outsider || power->turn_holder == (int)getpid())
        return;
    if (checkpoints || (file == power->bound[POWER_LOG] && !power_in_step))
        power->turn_violations++;
}

static ssize_t power_write(int descriptor, const void *data, size_t size, int64_t at)
{
    int watched = power_watched(descriptor);
    ssize_t wrote;
    if (watched > 0) {
        power_enter();
        if (at < 0)
            at = (int64_t)syscall(SYS_lseek, descriptor, 0, SEEK_CUR);
        wrote = (ssize_t)syscall(SYS_pwrite64, descriptor, data, size, at);
        if (wrote > 0) {
            power_event *event = power_record(POWER_WRITE, watched - 1);
            event->at = at;
            power_keep(event, data, (size_t)wrote);
            power_check_turn(watched - 1, at);
            syscall(SYS_lseek, descriptor, at + wrote, SEEK_SET);
        }
        power_leave();
        return wrote;
    }
    if (at < 0)
        return (ssize_t)syscall(SYS_write, descriptor, data, size);
    return (ssize_t)syscall(SYS_pwrite64, descriptor, data, size, at);
}

static int power_truncate(int descriptor, int64_t size)
{
    int watched = power_watched(descriptor);
    int rc;
    if (watched <= 0)
        return (int)syscall(SYS_ftruncate, descriptor, size);
    power_enter();
    rc = (int)syscall(SYS_ftruncate, descriptor, size);
    if (rc == 0)
        power_record(POWER_TRUNCATE, watched - 1)->size = size;
    power_leave();
    return rc;
}

/* What is written while the flush is under way is not covered by it. */
static int power_flush(int descriptor)
{
    int watched = power_watched(descriptor);
    int file = watched == POWER_IS_DIRECTORY ? -1 : watched - 1;
    int64_t began;
    if (watched == 0 || watched == POWER_IS_TURN_LOCK)
        return 0;
    power_enter();
    began = power->event_count;
    power_record(POWER_FLUSH, file);
    power_leave();
    if (power_while_flushing)
        power_while_flushing();
    power_enter();
    power_record(POWER_FLUSHED, file)->data = began;
    power_leave();
    return 0;
}

static int power_unlink(const char *path)
{
    int name = power_name_of(path);
    int rc;
    if (name >= POWER_NAMES)
        return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    power_enter();
    rc = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (rc == 0) {
        power->bound[name] = -1;
        power_record(POWER_NAME_GONE, -1)->name = name;
    }
    power_leave();
    return rc;
}

/* The library's locks are those of an open file (F_OFD_SETLK 37, F_OFD_SETLKW 38), SQLite's are of the process. */
static int power_control(int descriptor, int command, void *argument)
{
    bool ours = power_watched(descriptor) == POWER_IS_TURN_LOCK && (command == 37 || command == 38);
    const struct flock *lock = (const struct flock *)argument;
    bool lets_go = ours && lock->l_type == F_UNLCK;
    int rc;
    if (lets_go && power->turn_holder == (int)getpid())
        power->turn_holder = 0;
    rc = (int)syscall(SYS_fcntl, descriptor, command, argument);
    if (ours && !lets_go && rc == 0)
        power->turn_holder = (int)getpid();
    return rc;
}

/* Is the queue lock free? Asked through a descriptor of our own. */
static bool power_turn_is_free(void)
{
    char path[700];
    struct flock lock;
    int descriptor;
    bool is_free;
    snprintf(path, sizeof(path), "%s-qlock", power->path);
    descriptor = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    memset(&lock, 0, sizeof(lock));
    lock.l_type = F_WRLCK;
    is_free = descriptor >= 0 && syscall(SYS_fcntl, descriptor, 37, &lock) == 0;
    if (descriptor >= 0)
        syscall(SYS_close, descriptor);
    return is_free;
}

int open(const char *path, int flags, ...)
{
    int mode = 0;
    if (flags & O_CREAT) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, int);
        va_end(arguments);
    }
    return power_open(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    int mode = 0;
    if (flags & O_CREAT) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, int);
        va_end(arguments);
    }
    return power_open(path, flags, mode);
}

int close(int descriptor)
{
    if (descriptor >= 0 && descriptor < POWER_DESCRIPTORS)
        power_descriptors[descriptor] = 0;
    return (int)syscall(SYS_close, descriptor);
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    return power_write(descriptor, data, size, -1);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t at)
{
    return power_write(descriptor, data, size, (int64_t)at);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at)
{
    return power_write(descriptor, data, size, (int64_t)at);
}

int ftruncate(int descriptor, off_t size)
{
    return power_truncate(descriptor, (int64_t)size);
}

int ftruncate64(int descriptor, off64_t size)
{
    return power_truncate(descriptor, (int64_t)size);
}

int fsync(int descriptor)
{
    return power_flush(descriptor);
}

int fdatasync(int descriptor)
{
    return power_flush(descriptor);
}

int unlink(const char *path)
{
    return power_unlink(path);
}

int fcntl(int descriptor, int command, ...)
{
    void *argument;
    va_list arguments;
    va_start(arguments, command);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return power_control(descriptor, command, argument);
}

int fcntl64(int descriptor, int command, ...)
{
    void *argument;
    va_list arguments;
    va_start(arguments, command);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return power_control(descriptor, command, argument);
}

/* --- images --- */

typedef enum power_mode {
    POWER_LOSE_ALL,  /* of what was not flushed */
    POWER_KEEP_ALL,
    POWER_PREFIX,    /* in order, the last write torn */
    POWER_SUBSET,    /* any of the writes, each whole */
    POWER_SECTORS,   /* each sector as it was at any time since the flush */
    POWER_MODES
} power_mode;

typedef struct power_content {
    unsigned char *bytes;
    int64_t size, room;
} power_content;

typedef struct power_image_state {
    power_content base[POWER_FILES]; /* certain at the moment looked at */
    int64_t certain[POWER_FILES];    /* events before this one are in it */
    int64_t directory_certain;
    uint64_t random;
} power_image_state;

static uint64_t power_random(uint64_t *state)
{
    uint64_t value = (*state += UINT64_C(0x9E3779B97F4A7C15));
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

static int64_t power_below(uint64_t *state, int64_t limit)
{
    return limit > 0 ? (int64_t)(power_random(state) % (uint64_t)limit) : 0;
}

static void power_resize(power_content *content, int64_t size)
{
    if (size > content->room) {
        content->room = size * 2;
        content->bytes = (unsigned char *)realloc(content->bytes, (size_t)content->room);
        assert_non_null(content->bytes);
    }
    if (size > content->size)
        memset(content->bytes + content->size, 0, (size_t)(size - content->size));
    content->size = size;
}

/* A part of a write, `from` and `to` counted from its start. */
static void power_put(power_content *content, const power_event *event, int64_t from, int64_t to)
{
    if (event->at + to > content->size)
        power_resize(content, event->at + to);
    if (event->data < 0)
        memset(content->bytes + event->at + from, 0, (size_t)(to - from));
    else
        memcpy(content->bytes + event->at + from, power->arena + event->data + from, (size_t)(to - from));
}

static void power_apply(power_content *content, const power_event *event)
{
    if (event->kind == POWER_WRITE)
        power_put(content, event, 0, event->size);
    else if (event->kind == POWER_TRUNCATE)
        power_resize(content, event->size);
}

static bool power_changes(const power_event *event, int file)
{
    return event->file == file && (event->kind == POWER_WRITE || event->kind == POWER_TRUNCATE);
}

/* The last flush of `file` that was over before `crash` covers everything before the event returned. */
static int64_t power_certain_at(int file, int64_t from, int64_t crash)
{
    int64_t certain = 0;
    for (int64_t i = from; i < crash; i++)
        if (power->events[i].kind == POWER_FLUSHED && power->events[i].file == file && power->events[i].data > certain)
            certain = power->events[i].data;
    return certain;
}

static void power_reset(power_image_state *state)
{
    for (int i = 0; i < POWER_FILES; i++)
        state->base[i].size = 0;
    memset(state->certain, 0, sizeof(state->certain));
    state->directory_certain = 0;
}

static void power_free(power_image_state *state)
{
    for (int i = 0; i < POWER_FILES; i++)
        free(state->base[i].bytes);
    memset(state, 0, sizeof(*state));
}

/* Goes on to a later moment. */
static void power_advance(power_image_state *state, int64_t crash)
{
    for (int file = 0; file < power->file_count; file++) {
        int64_t certain = power_certain_at(file, state->certain[file], crash);
        for (int64_t i = state->certain[file]; i < certain; i++)
            if (power_changes(&power->events[i], file))
                power_apply(&state->base[file], &power->events[i]);
        if (certain > state->certain[file])
            state->certain[file] = certain;
    }
    int64_t certain = power_certain_at(-1, state->directory_certain, crash);
    if (certain > state->directory_certain)
        state->directory_certain = certain;
}

/* Some sectors of a write: what the disk was at when the power went. */
static void power_tear(power_content *content, const power_event *event, uint64_t *random)
{
    int64_t cut = power_below(random, event->size + 1);
    if (event->kind != POWER_WRITE) {
        power_apply(content, event);
        return;
    }
    if (power_below(random, 3) > 0)
        cut -= cut % POWER_SECTOR; /* else anywhere: the log is said to survive that too */
    if (cut > 0)
        power_put(content, event, 0, cut);
}

/* Each sector as of any time: the parts of the writes before a point drawn for the sector. */
static void power_mix(power_content *content, const power_event *event, int64_t nth, int64_t count, uint64_t salt)
{
    int64_t from = 0;
    if (event->kind != POWER_WRITE)
        return;
    while (from < event->size) {
        int64_t sector = (event->at + from) / POWER_SECTOR;
        int64_t to = (sector + 1) * POWER_SECTOR - event->at;
        uint64_t draw = salt ^ ((uint64_t)sector * UINT64_C(0xD1B54A32D192ED03));
        int64_t kind = power_below(&draw, 4);
        int64_t until = kind == 0 ? 0 : kind == 1 ? count : power_below(&draw, count + 1);
        if (to > event->size)
            to = event->size;
        if (nth < until)
            power_put(content, event, from, to);
        from = to;
    }
}

/* A file may have grown before what is in it arrived: zeros, or what the disk held there before, old parts of the log. */
static void power_rubbish(power_content *content, int64_t from, uint64_t *random)
{
    int64_t at = from;
    if (power->arena_used < 100000 || power_below(random, 2) == 0)
        return;
    while (at < content->size) {
        int64_t size = content->size - at < 4120 ? content->size - at : 4120;
        memcpy(content->bytes + at, power->arena + power_below(random, power->arena_used - 4120), (size_t)size);
        at += size;
    }
}

/* A file grows by any number of bytes, before or after what is written there arrives. It shrinks at once or not at all: no file
 * system leaves it half cut, and SQLite counts on that when it empties its log. */
static void power_choose_size(power_content *content, int64_t floor, int64_t top, uint64_t *random)
{
    int64_t before = content->size;
    if (power_below(random, 3) == 0 || top <= floor)
        return;
    power_resize(content, floor + power_below(random, top - floor + 1));
    if (content->size > before)
        power_rubbish(content, before, random);
}

static int64_t power_count(const power_image_state *state, int file, int64_t crash, bool truncations)
{
    int64_t count = 0;
    for (int64_t i = state->certain[file]; i < crash; i++)
        if (power_changes(&power->events[i], file))
            count += !truncations || power->events[i].kind == POWER_TRUNCATE;
    return count;
}

/* What was not flushed, in order, up to `keep` of it. */
static void power_image_in_order(const power_image_state *state, int file, int64_t crash, int64_t keep, uint64_t *random,
                                 power_content *out)
{
    int64_t nth = 0;
    for (int64_t i = state->certain[file]; i < crash && nth <= keep; i++) {
        if (!power_changes(&power->events[i], file))
            continue;
        if (nth < keep)
            power_apply(out, &power->events[i]);
        else
            power_tear(out, &power->events[i], random);
        nth++;
    }
}

/* What was not flushed, any of it: whole writes, or sectors of them. */
static void power_image_mixed(const power_image_state *state, int file, int64_t crash, bool sectors, uint64_t *random,
                              power_content *out)
{
    int64_t count = power_count(state, file, crash, false), nth = 0;
    int64_t cuts = power_below(random, power_count(state, file, crash, true) + 1);
    int64_t chance = 1 + power_below(random, 9);
    int64_t floor = out->size, top = out->size;
    uint64_t salt = power_random(random);
    for (int64_t i = state->certain[file]; i < crash; i++) {
        const power_event *event = &power->events[i];
        if (!power_changes(event, file))
            continue;
        if (event->kind == POWER_TRUNCATE) {
            if (cuts-- > 0) {
                power_apply(out, event);
                floor = top = event->size;
            }
        } else {
            if (event->at + event->size > top)
                top = event->at + event->size;
            if (sectors)
                power_mix(out, event, nth, count, salt);
            else if (power_below(random, 10) < chance)
                power_apply(out, event);
        }
        nth++;
    }
    power_choose_size(out, floor, top, random);
}

/* One file as it may be after power was lost just before event `crash`. */
static void power_image(const power_image_state *state, int file, int64_t crash, power_mode mode, uint64_t *random,
                        power_content *out)
{
    out->size = 0;
    power_resize(out, state->base[file].size);
    if (out->size > 0)
        memcpy(out->bytes, state->base[file].bytes, (size_t)out->size);
    if (mode == POWER_KEEP_ALL)
        power_image_in_order(state, file, crash, INT64_MAX - 1, random, out);
    else if (mode == POWER_PREFIX)
        power_image_in_order(state, file, crash, power_below(random, power_count(state, file, crash, false) + 1), random, out);
    else if (mode != POWER_LOSE_ALL)
        power_image_mixed(state, file, crash, mode == POWER_SECTORS, random, out);
}

/* Which file a name stands for afterwards: as of the last flush of the directory, or of any time since. */
static void power_bindings(const power_image_state *state, int64_t crash, power_mode mode, uint64_t *random, int *bound)
{
    int64_t span = crash - state->directory_certain, until = crash;
    if (mode == POWER_LOSE_ALL)
        until = state->directory_certain;
    else if (mode != POWER_KEEP_ALL)
        until = state->directory_certain + power_below(random, span + 1);
    for (int name = 0; name < POWER_NAMES; name++) {
        int64_t end = until;
        if (mode == POWER_SECTORS)
            end = state->directory_certain + power_below(random, span + 1);
        bound[name] = -1;
        for (int64_t i = 0; i < end; i++) {
            if (power->events[i].kind == POWER_NAME_MADE && power->events[i].name == name)
                bound[name] = (int)power->events[i].at;
            if (power->events[i].kind == POWER_NAME_GONE && power->events[i].name == name)
                bound[name] = -1;
        }
    }
}

static void power_save(const char *path, const power_content *content)
{
    int descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    assert_true(descriptor >= 0);
    for (int64_t at = 0; at < content->size;) {
        ssize_t wrote = pwrite(descriptor, content->bytes + at, (size_t)(content->size - at), (off_t)at);
        assert_true(wrote > 0);
        at += wrote;
    }
    close(descriptor);
}

/* Writes one possible image to PATH and its companions. `mode` POWER_MODES: another one for each file. */
static void power_write_image(const power_image_state *state, int64_t crash, power_mode mode, uint64_t *random,
                              const char *path)
{
    static const char *const endings[] = {"", "-wal", "-journal"};
    static power_content scratch;
    int bound[POWER_NAMES];
    char name[700];
    remove_file(path);
    power_bindings(state, crash, mode == POWER_MODES ? POWER_SECTORS : mode, random, bound);
    for (int i = 0; i < POWER_NAMES; i++) {
        power_mode here = mode == POWER_MODES ? (power_mode)power_below(random, POWER_MODES) : mode;
        if (bound[i] < 0)
            continue;
        power_image(state, bound[i], crash, here, random, &scratch);
        snprintf(name, sizeof(name), "%s%s", path, endings[i]);
        power_save(name, &scratch);
    }
    if (power_below(random, 4) == 0) { /* the index of the log is no file to rely on: whatever is in it */
        power_resize(&scratch, 32768);
        for (int64_t i = 0; i < scratch.size; i++)
            scratch.bytes[i] = (unsigned char)power_random(random);
        snprintf(name, sizeof(name), "%s-shm", path);
        power_save(name, &scratch);
    }
}

#endif /* PGQRS_TEST_POWER_H */
