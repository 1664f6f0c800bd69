/* pgqrs work QUEUE -- COMMAND: the queue for shell scripts.
 *
 * The command gets the payload on its standard input, with a line feed at the end, for a shell's read wants one;
 * PGQRS_MESSAGE_ID, PGQRS_QUEUE, PGQRS_ATTEMPT and PGQRS_PRIORITY are in its environment. Its exit status decides:
 *
 *     0        done, the message is archived
 *     65       hopeless (EX_DATAERR of sysexits.h): to the dead letters at once
 *     others   failed, also when a signal ended it or --timeout was over: again after the queue's backoff
 *
 * Commands run on a pool of threads, so leases are renewed however long they take. Ctrl-C (SIGTERM): no new ones are started, those
 * that run have --grace to end; a second Ctrl-C ends them now, a third one kills them. Messages of commands that were ended that way are
 * given back, and the try does not count.
 */
#include "cli.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#define REJECT_STATUS 65
#define GRACE_MS 10000
#define KILL_MS 5000 /* between asking a command to end and killing it */
#define POLL_MAX_MS 50

typedef struct crew {
    cli *c;
    char *const *argv;
    int64_t timeout_ms, grace_ms;
    pthread_mutex_t mutex;
    int broken; /* errno: the command cannot be started at all */
} crew;

typedef enum ending { RUNS, TOOK_TOO_LONG, TOLD_TO_STOP, LEASE_LOST } ending;

/* One command at work on one message. */
typedef struct job {
    crew *crew;
    const pgqrs_message *message;
    pid_t pid;
    int input; /* where its standard input is written to; -1: it has all of it, or wants no more */
    size_t written;
    int64_t started_ms;
    int64_t stop_seen_ms; /* 0: nobody has asked for a stop yet */
    int64_t asked_ms;     /* when it was asked to end; 0: not yet */
    ending why;
} job;

static int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- start */

#define OWN_VARIABLES 4
typedef struct surroundings {
    char **list;
    char own[OWN_VARIABLES][300];
} surroundings;

static bool is_own(const char *variable, const surroundings *s)
{
    for (int i = 0; i < OWN_VARIABLES; i++)
        if (strncmp(variable, s->own[i], strcspn(s->own[i], "=") + 1) == 0) return true;
    return false;
}

static bool make_surroundings(surroundings *s, const pgqrs_message *message)
{
    size_t count = 0, used = 0;
    snprintf(s->own[0], sizeof s->own[0], "PGQRS_MESSAGE_ID=%" PRId64, message->id);
    snprintf(s->own[1], sizeof s->own[1], "PGQRS_QUEUE=%s", message->queue);
    snprintf(s->own[2], sizeof s->own[2], "PGQRS_ATTEMPT=%d", (int)message->attempt);
    snprintf(s->own[3], sizeof s->own[3], "PGQRS_PRIORITY=%d", (int)message->priority);
    while (environ[count])
        count++;
    s->list = calloc(count + OWN_VARIABLES + 1, sizeof *s->list);
    if (!s->list) return false;
    for (size_t i = 0; i < count; i++)
        if (!is_own(environ[i], s)) s->list[used++] = environ[i];
    for (int i = 0; i < OWN_VARIABLES; i++)
        s->list[used++] = s->own[i];
    return true;
}

/* A process group of its own: Ctrl-C in the terminal does not reach the command, and it is ended together with its children. */
static int spawn(job *j, int from, char **environment)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, usual;
    int failed = posix_spawn_file_actions_init(&actions);
    if (failed) return failed;
    failed = posix_spawnattr_init(&attributes);
    if (failed) {
        posix_spawn_file_actions_destroy(&actions);
        return failed;
    }
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    sigaddset(&usual, SIGINT);
    sigaddset(&usual, SIGTERM);
    failed = posix_spawn_file_actions_adddup2(&actions, from, STDIN_FILENO);
    if (!failed) failed = posix_spawnattr_setsigmask(&attributes, &none);
    if (!failed) failed = posix_spawnattr_setsigdefault(&attributes, &usual);
    if (!failed) failed = posix_spawnattr_setpgroup(&attributes, 0);
    if (!failed)
        failed = posix_spawnattr_setflags(
            &attributes, (short)(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP));
    if (!failed) failed = posix_spawnp(&j->pid, j->crew->argv[0], &actions, &attributes, j->crew->argv, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return failed;
}

/* Between pipe() and fcntl() no other thread may start a command: that would keep this one's input open. */
static int start_locked(job *j, char **environment)
{
    int ends[2];
    if (pipe(ends) != 0) return errno;
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    int failed = spawn(j, ends[0], environment);
    close(ends[0]);
    j->input = ends[1];
    if (failed) close(ends[1]);
    return failed;
}

static int start(job *j)
{
    surroundings s;
    if (!make_surroundings(&s, j->message)) return ENOMEM;
    pthread_mutex_lock(&j->crew->mutex);
    int failed = start_locked(j, s.list);
    pthread_mutex_unlock(&j->crew->mutex);
    free(s.list);
    return failed;
}

/* --- while it runs */

static void close_input(job *j)
{
    if (j->input >= 0) close(j->input);
    j->input = -1;
}

static void feed(job *j)
{
    const pgqrs_message *message = j->message;
    while (j->input >= 0) {
        size_t left = message->payload_size - j->written;
        if (j->written > message->payload_size) {
            close_input(j);
            return;
        }
        ssize_t put = left > 0 ? write(j->input, message->payload + j->written, left) : write(j->input, "\n", 1);
        if (put > 0)
            j->written += (size_t)put;
        else if (errno == EAGAIN || errno == EINTR)
            return;
        else
            close_input(j); /* it does not read its input, which is its own affair */
    }
}

/* Waits a little, or until its input takes more. */
static void pass_time(const job *j, int ms)
{
    struct pollfd wants = {.fd = j->input, .events = POLLOUT};
    (void)poll(&wants, j->input >= 0 ? 1 : 0, ms);
}

/* The worker is told to stop, or the lease has ended and somebody else has the message. */
static ending unwanted(job *j, int64_t now_ms)
{
    if (cli_interrupted() == 0 && j->stop_seen_ms == 0 && pgqrs_message_extend(j->message, 1) == PGQRS_ERR_LEASE_LOST)
        return LEASE_LOST;
    if (j->stop_seen_ms == 0) j->stop_seen_ms = now_ms;
    if (cli_interrupted() > 1 || now_ms - j->stop_seen_ms >= j->crew->grace_ms) return TOLD_TO_STOP;
    return RUNS;
}

static ending should_end(job *j, int64_t now_ms)
{
    if (j->crew->timeout_ms > 0 && now_ms - j->started_ms >= j->crew->timeout_ms) return TOOK_TOO_LONG;
    if (cli_interrupted() > 0 || !pgqrs_message_wanted(j->message)) return unwanted(j, now_ms);
    return RUNS;
}

static void end_if_due(job *j)
{
    int64_t now_ms = clock_ms();
    if (j->why == RUNS) {
        j->why = should_end(j, now_ms);
        if (j->why == RUNS) return;
        j->asked_ms = now_ms;
        kill(-j->pid, SIGTERM);
    }
    if (now_ms - j->asked_ms >= KILL_MS || cli_interrupted() > 2) kill(-j->pid, SIGKILL);
}

/* Looks after the command until it has ended; its wait status. */
static int attend(job *j)
{
    int status = 0;
    double pause_ms = 1;
    for (;;) {
        feed(j);
        pid_t ended = waitpid(j->pid, &status, WNOHANG);
        if (ended == j->pid || (ended < 0 && errno != EINTR)) break;
        end_if_due(j);
        pass_time(j, (int)pause_ms);
        if (pause_ms < POLL_MAX_MS) pause_ms *= 1.3;
    }
    close_input(j);
    return status;
}

/* --- what becomes of the message */

static pgqrs_result failed_with(const job *j, int status)
{
    char reason[200];
    const char *name = j->crew->argv[0];
    if (WIFSIGNALED(status))
        snprintf(reason, sizeof reason, "%.100s was ended by signal %d", name, WTERMSIG(status));
    else
        snprintf(reason, sizeof reason, "%.100s ended with exit status %d", name, WEXITSTATUS(status));
    if (WIFEXITED(status) && WEXITSTATUS(status) == REJECT_STATUS) return pgqrs_message_reject(j->message, reason);
    return pgqrs_message_retry(j->message, 0, reason);
}

static pgqrs_result verdict(const job *j, int status)
{
    char reason[200], time[UNITS_ROOM];
    switch (j->why) {
    case TOLD_TO_STOP:
        return pgqrs_message_give_back(j->message, 0);
    case LEASE_LOST:
        return PGQRS_ERR_HANDLER; /* whoever has it now decides */
    case TOOK_TOO_LONG:
        units_write_duration(time, sizeof time, j->crew->timeout_ms);
        snprintf(reason, sizeof reason, "%.100s took longer than %s", j->crew->argv[0], time);
        return pgqrs_message_retry(j->message, 0, reason);
    case RUNS:
        break;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? PGQRS_OK : failed_with(j, status);
}

/* What is wrong with the command is no message's fault. What passes (no memory, no processes) is tried again in a second. */
static pgqrs_result cannot_start(job *j, int error)
{
    crew *all = j->crew;
    if (error == ENOMEM || error == EAGAIN || error == EMFILE || error == ENFILE)
        return pgqrs_message_give_back(j->message, 1000);
    pthread_mutex_lock(&all->mutex);
    all->broken = error;
    pthread_mutex_unlock(&all->mutex);
    pgqrs_stop(all->c->store);
    return pgqrs_message_give_back(j->message, 0);
}

static pgqrs_result handle(const pgqrs_message *message, void *user)
{
    job j = {.crew = user, .message = message, .input = -1, .started_ms = clock_ms()};
    int failed = start(&j);
    if (failed) return cannot_start(&j, failed);
    int status = attend(&j);
    return verdict(&j, status);
}

/* --- the command */

static exit_code ended(cli *c, const crew *all, pgqrs_result result)
{
    switch (result) {
    case PGQRS_OK:
        if (all->broken)
            return cli_fail(FAILED, "%s cannot be started: %s; what was taken is given back", all->argv[0],
                            strerror(all->broken));
        return DONE;
    case PGQRS_ERR_WORKER_INTERRUPTED: /* somebody told it to stop */
    case PGQRS_ERR_WORKER_STOPPED:
        return DONE;
    default:
        return cli_store_failed(c);
    }
}

exit_code work(cli *c)
{
    int64_t jobs = given(c, OPT_JOBS) ? number_of(c, OPT_JOBS) : 1;
    crew all = {.c = c,
                .argv = c->operands + c->tail,
                .timeout_ms = number_of(c, OPT_TIMEOUT),
                .grace_ms = given(c, OPT_GRACE) ? number_of(c, OPT_GRACE) : GRACE_MS,
                .mutex = PTHREAD_MUTEX_INITIALIZER};
    /* No more are taken ahead than there are commands: what waits here could be run elsewhere. */
    pgqrs_work_desc desc = {.name = c->options[OPT_NAME].text,
                            .threads = (int32_t)jobs,
                            .batch = (int32_t)jobs,
                            .lease_ms = number_of(c, OPT_LOCK_TIME),
                            .max_messages = number_of(c, OPT_MAX_MESSAGES),
                            .until_empty = given(c, OPT_UNTIL_EMPTY)};
    cli_count_signals(c);
    pgqrs_result result = pgqrs_work(c->store, c->operands[0], handle, &all, &desc);
    exit_code code = ended(c, &all, result);
    pthread_mutex_destroy(&all.mutex);
    return code;
}
