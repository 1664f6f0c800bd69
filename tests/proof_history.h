/* What every process of a proof writes down, and how it is read again.
 *
 * A process appends to a file of its own, one line per record and one write() for what belongs together: before a call what it is
 * about to do, after it what came of it. A process that is killed leaves a '?' without its '!': the outcome is unknown. Times are of
 * the monotonic clock, which all processes of a machine share.
 *
 *   at call mark op queue id lease attempt priority ms count result tag key
 *
 * enqueue    ? tag, priority, ms = delay, key, count = size of the batch (the items of one share the call); ! id, attempt = 1: duplicate. id 0
 *            and PGQRS_OK: it was handed over, and a flush says that it is stored
 * claim      ? count = limit, ms = lease;   ! result, count = messages, each of which follows as a `got` of the same call
 * got        ! id, lease, attempt, priority, tag
 * archive …  ? id, lease, ms = delay;  ! result
 * extend     ? id, lease, ms;  ! result
 * start      . id, lease, attempt, tag, ms = what is left of the lease, key = 1: somebody renews it: a handler starts
 * finish     . id, lease, result
 * died       . id = number of the process that was killed, and is surely gone now
 * resumed    . id = number of the process that was stopped for ms and goes on
 * trigger    ? tag;  ! id (of the run), result
 * enter      . id (of the run), attempt: its function is entered
 * body       . id, count = number of the step, tag = its output: the body begins
 * seen       . id, count = number of the step, tag: what the step gives, now or later
 * stored     . id, count: step `count` is durable (a flush or the commit of its transaction was acknowledged)
 * ended      . id: somebody was told that the run has ended as a success
 */
#ifndef PGQRS_PROOF_HISTORY_H
#define PGQRS_PROOF_HISTORY_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PROOF_OPS(X)                                                                                                                  \
    X(ENQUEUE, "enqueue") X(CLAIM, "claim") X(GOT, "got") X(ARCHIVE, "archive") X(DELETE, "delete") X(RETRY, "retry")              \
    X(RELEASE, "release") X(GIVE_BACK, "give_back") X(REJECT, "reject") X(EXTEND, "extend") X(START, "start")                      \
    X(FINISH, "finish") X(DIED, "died") X(RESUMED, "resumed") X(TRIGGER, "trigger") X(ENTER, "enter") X(BODY, "body")               \
    X(SEEN, "seen") X(STORED, "stored") X(ENDED, "ended")

typedef enum proof_op {
    PROOF_NO_OP,
#define X(name, text) PROOF_##name,
    PROOF_OPS(X)
#undef X
    PROOF_OP_COUNT
} proof_op;

typedef struct proof_record {
    int64_t at_us;
    int32_t process; /* from the file's name */
    int32_t call;    /* of the process: ties what came of it to what was meant */
    char mark;       /* '?' about to, '!' came of it, '.' by the way */
    proof_op op;
    int32_t queue;
    int64_t id, lease;
    int32_t attempt, priority;
    int64_t ms;
    int32_t count, result;
    int64_t tag; /* what was said, unique: process · 1,000,000 + number */
    int32_t key; /* deduplication key; 0: none */
} proof_record;

#define PROOF_TAGS_PER_PROCESS INT64_C(1000000)

static const char *proof_op_name(proof_op op)
{
    static const char *const names[] = {"none",
#define X(name, text) text,
                                        PROOF_OPS(X)
#undef X
    };
    return op < PROOF_OP_COUNT ? names[op] : "unknown";
}

static int64_t proof_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* --- writing --- */

typedef struct proof_writer {
    int file;
    int32_t calls;
    size_t used;
    char text[64 * 1024];
} proof_writer;

static bool proof_open_writer(proof_writer *writer, const char *dir, int process)
{
    char name[600];
    snprintf(name, sizeof(name), "%s/history.%d", dir, process);
    memset(writer, 0, sizeof(*writer));
    writer->file = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    return writer->file >= 0;
}

/* What a process did not manage to write down it must not do, so this ends it. */
static void proof_flush(proof_writer *writer)
{
    size_t done = 0;
    while (done < writer->used) {
        ssize_t size = write(writer->file, writer->text + done, writer->used - done);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0) {
            perror("proof: writing a history");
            _exit(99);
        }
        done += (size_t)size;
    }
    writer->used = 0;
}

/* Adds a record; it is on its way to the file with the next proof_flush. */
static void proof_add(proof_writer *writer, proof_record r)
{
    if (sizeof(writer->text) - writer->used < 400)
        proof_flush(writer);
    if (!r.at_us)
        r.at_us = proof_now_us();
    writer->used += (size_t)snprintf(writer->text + writer->used, sizeof(writer->text) - writer->used,
                                     "%" PRId64 " %d %c %s %d %" PRId64 " %" PRId64 " %d %d %" PRId64 " %d %d %" PRId64 " %d\n",
                                     r.at_us, r.call, r.mark, proof_op_name(r.op), r.queue, r.id, r.lease, r.attempt, r.priority,
                                     r.ms, r.count, r.result, r.tag, r.key);
}

static void proof_write(proof_writer *writer, proof_record r)
{
    proof_add(writer, r);
    proof_flush(writer);
}

/* --- reading --- */

typedef struct proof_history {
    proof_record *items;
    size_t count, room;
} proof_history;

static void *proof_more(void *items, size_t count, size_t *room, size_t size)
{
    void *more = items;
    if (count < *room)
        return items;
    *room = *room ? *room * 2 : 1024;
    more = realloc(items, *room * size);
    if (!more) {
        fprintf(stderr, "proof: out of memory\n");
        exit(98);
    }
    return more;
}

static void proof_push(proof_history *history, proof_record r)
{
    history->items = (proof_record *)proof_more(history->items, history->count, &history->room, sizeof(r));
    history->items[history->count++] = r;
}

static proof_op proof_op_of(const char *name)
{
    int op;
    for (op = 1; op < PROOF_OP_COUNT; op++)
        if (strcmp(proof_op_name((proof_op)op), name) == 0)
            return (proof_op)op;
    return PROOF_NO_OP;
}

static bool proof_read_line(const char *line, int process, proof_record *r)
{
    char op[32];
    memset(r, 0, sizeof(*r));
    r->process = process;
    if (sscanf(line, "%" SCNd64 " %d %c %31s %d %" SCNd64 " %" SCNd64 " %d %d %" SCNd64 " %d %d %" SCNd64 " %d", &r->at_us, &r->call,
               &r->mark, op, &r->queue, &r->id, &r->lease, &r->attempt, &r->priority, &r->ms, &r->count, &r->result, &r->tag,
               &r->key) != 14)
        return false;
    r->op = proof_op_of(op);
    return r->op != PROOF_NO_OP;
}

/* The last line of a killed process may be cut; a wrong line before that is a mistake of the proof itself: false. */
static bool proof_read_file(proof_history *history, const char *name, int process)
{
    char line[512];
    bool good = true;
    FILE *file = fopen(name, "r");
    if (!file)
        return errno == ENOENT;
    while (good && fgets(line, sizeof(line), file)) {
        proof_record r;
        if (!strchr(line, '\n'))
            break;
        good = proof_read_line(line, process, &r);
        if (good)
            proof_push(history, r);
        else
            fprintf(stderr, "proof: %s has a line that cannot be read: %s", name, line);
    }
    fclose(file);
    return good;
}

static bool proof_read_all(proof_history *history, const char *dir, int processes)
{
    int i;
    for (i = 0; i < processes; i++) {
        char name[600];
        snprintf(name, sizeof(name), "%s/history.%d", dir, i);
        if (!proof_read_file(history, name, i))
            return false;
    }
    return true;
}

#endif /* PGQRS_PROOF_HISTORY_H */
