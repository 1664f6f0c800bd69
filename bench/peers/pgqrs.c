/*
 * The driver of pgqrs.h for the comparison with other systems: what bench/peers/run.sh expects of one is written there.
 */
#define PGQRS_THREADS
#include "../bench.h"
#include "../bench_floor.h"
#include "../bench_store.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

#define PLACE "peers"
#define GROUP_MAX 1000
#define PAYLOAD_SIZE 128

/* What the command line says: KEY=VALUE. */
static const char *option(char **argv, const char *key, const char *otherwise)
{
    size_t length = strlen(key);
    for (int i = 2; argv[i]; i++)
        if (strncmp(argv[i], key, length) == 0 && argv[i][length] == '=') return argv[i] + length + 1;
    return otherwise;
}

static double number(char **argv, const char *key, double otherwise)
{
    const char *text = option(argv, key, NULL);
    return text ? atof(text) : otherwise;
}

/* --- payloads: a number, and when the message was due, on the clock that all processes of a machine share */

static double wall_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void write_payload(char *payload, int64_t n, double at)
{
    snprintf(payload, PAYLOAD_SIZE,
             "{\"n\":%" PRId64 ",\"at\":%.6f,\"pad\":\"........................................................\"}", n, at);
}

static int64_t payload_number(const char *payload)
{
    const char *n = strstr(payload, "\"n\":");
    return n ? atoll(n + 4) : 0;
}

static double payload_at(const char *payload)
{
    const char *at = strstr(payload, "\"at\":");
    return at ? atof(at + 5) : 0;
}

/* --- what is reported */

/* Latencies of the whole, and of the first and the last third of the time. */
typedef struct report {
    pthread_mutex_t mutex;
    bench_figures all_ms, early_ms, late_ms;
    int64_t done;
    double begun, seconds, last; /* begun, last: monotonic */
    int log;                     /* a file that gets the number of each message that was handled; -1: none */
} report;

static report the_report = {.mutex = PTHREAD_MUTEX_INITIALIZER, .log = -1};

static void report_message(const char *payload)
{
    report *r = &the_report;
    double now = bench_seconds(), at = payload_at(payload), ms = (wall_seconds() - at) * 1000;
    pthread_mutex_lock(&r->mutex);
    r->done++;
    r->last = now;
    if (at > 0) {
        double elapsed = now - r->begun;
        bench_add(&r->all_ms, ms);
        if (elapsed < r->seconds / 3) bench_add(&r->early_ms, ms);
        if (elapsed > r->seconds * 2 / 3) bench_add(&r->late_ms, ms);
    }
    pthread_mutex_unlock(&r->mutex);
    if (r->log >= 0) {
        char line[32];
        int size = snprintf(line, sizeof line, "%" PRId64 " %.3f\n", payload_number(payload), wall_seconds());
        if (write(r->log, line, (size_t)size) != size) bench_die("log", strerror(errno));
    }
}

static double used_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double cpu_before;

/* Everything is prepared: the runner reads its counters and says when to begin. */
static void wait_for_go(void)
{
    char line[16];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) exit(1);
    cpu_before = used_cpu();
    the_report.begun = the_report.last = bench_seconds();
}

static void percentiles(const char *prefix, bench_figures *ms)
{
    static const struct {
        const char *name;
        double p;
    } wanted[] = {{"p50_ms", 0.5}, {"p95_ms", 0.95}, {"p99_ms", 0.99}};
    if (ms->count == 0) return;
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s%s", prefix, wanted[i].name);
        bench_number(name, bench_percentile(ms, wanted[i].p), 3);
    }
}

/* Then the connections stay until the runner has read its counters again. */
static void end(int64_t done, double seconds)
{
    char line[16];
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    bench_number("done", (double)done, 0);
    bench_number("seconds", seconds, 6);
    bench_number("cpu_s", used_cpu() - cpu_before, 6);
    bench_number("rss_kb", (double)u.ru_maxrss, 0);
    percentiles("", &the_report.all_ms);
    percentiles("early_", &the_report.early_ms);
    percentiles("late_", &the_report.late_ms);
    bench_end();
    while (fgets(line, sizeof line, stdin)) {
    }
}

/* --- commands */

static void setup(void)
{
    pgqrs_store *store = bench_make(PLACE);
    bench_check(store, pgqrs_workflow_create(store, "three", NULL));
    pgqrs_close(store);
    bench_text("version", pgqrs_version());
    bench_end();
}

static char payloads[GROUP_MAX][PAYLOAD_SIZE];
static pgqrs_enqueue_item items[GROUP_MAX];

/* In calls of a thousand, as the other drivers do; single=1: one by one, so that each message has a row of its own. */
static void fill(char **argv)
{
    int64_t count = (int64_t)number(argv, "count", 0), group;
    pgqrs_store *store = bench_open(PLACE);
    if (number(argv, "single", 0) > 0) bench_fill(store, PLACE, count);
    for (int64_t n = bench_ready(store); n < count; n += group) {
        group = count - n < GROUP_MAX ? count - n : GROUP_MAX;
        for (int64_t i = 0; i < group; i++) {
            write_payload(payloads[i], n + i + 1, 0);
            items[i].payload = payloads[i];
        }
        bench_check(store, pgqrs_enqueue_many(store, "bench", items, (size_t)group, NULL));
    }
    pgqrs_close(store);
}

static void produce(char **argv)
{
    double seconds = number(argv, "seconds", 1), rate = number(argv, "rate", 0);
    int64_t group = (int64_t)number(argv, "group", 1), done = 0;
    pgqrs_store *store = bench_open(PLACE);
    if (group < 1 || group > GROUP_MAX) bench_die("group", "1 to 1000");
    wait_for_go();
    double begun = bench_seconds(), wall = wall_seconds() - begun, at = begun;
    while (at < begun + seconds) {
        if (rate > 0) bench_sleep_until(at);
        for (int64_t i = 0; i < group; i++) {
            write_payload(payloads[i], done + i + 1, wall + at);
            items[i].payload = payloads[i];
        }
        if (group == 1)
            bench_check(store, pgqrs_enqueue(store, "bench", payloads[0], NULL, NULL));
        else
            bench_check(store, pgqrs_enqueue_many(store, "bench", items, (size_t)group, NULL));
        done += group;
        /* The next one is due at its time, however long this one took: a slow call does not hide the wait behind it. */
        at = rate > 0 ? at + 1 / rate : bench_seconds();
    }
    end(done, bench_seconds() - begun);
    pgqrs_close(store);
}

/* A thread that stops the store's loop when the time is over; it sleeps until then, so that an idle worker is idle. */
typedef struct deadline {
    pgqrs_store *store;
    struct timespec at;
    bool over;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    pthread_t thread;
} deadline;

static void *deadline_main(void *argument)
{
    deadline *d = argument;
    int status = 0;
    pthread_mutex_lock(&d->mutex);
    while (!d->over && status == 0)
        status = pthread_cond_timedwait(&d->ended, &d->mutex, &d->at);
    pthread_mutex_unlock(&d->mutex);
    pgqrs_stop(d->store);
    return NULL;
}

static void deadline_begin(deadline *d, pgqrs_store *store, double seconds)
{
    double at = wall_seconds() + seconds;
    memset(d, 0, sizeof *d);
    d->store = store;
    d->at.tv_sec = (time_t)at;
    d->at.tv_nsec = (long)((at - (double)d->at.tv_sec) * 1e9);
    if (pthread_mutex_init(&d->mutex, NULL) || pthread_cond_init(&d->ended, NULL) ||
        pthread_create(&d->thread, NULL, deadline_main, d))
        bench_die("deadline", "no more threads");
}

static void deadline_end(deadline *d)
{
    pthread_mutex_lock(&d->mutex);
    d->over = true;
    pthread_cond_signal(&d->ended);
    pthread_mutex_unlock(&d->mutex);
    pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->ended);
    pthread_mutex_destroy(&d->mutex);
}

/* --- effects in the queue's own database */

/* Each thread of the pool has a connection for what its handler writes, and a store on it to acknowledge with. */
typedef struct effects {
    PGconn *connection;
    pgqrs_store *store;
} effects;

static pthread_key_t effects_key;
static bool effects_wanted;

static void effects_close(void *argument)
{
    effects *e = argument;
    pgqrs_close(e->store);
    PQfinish(e->connection);
    free(e);
}

static bool effects_sql(const effects *e, const char *text)
{
    PGresult *reply = PQexec(e->connection, text);
    bool done = PQresultStatus(reply) == PGRES_COMMAND_OK;
    PQclear(reply);
    return done;
}

/* NULL while the server is away. */
static effects *effects_of_thread(void)
{
    effects *e = pthread_getspecific(effects_key);
    if (e && PQstatus(e->connection) == CONNECTION_OK) return e;
    if (e) effects_close(e);
    pthread_setspecific(effects_key, NULL);
    e = calloc(1, sizeof *e);
    if (!e) bench_die("effects", "no more memory");
    pgqrs_store_desc desc = {.schema = "pgqrs_bench_" PLACE};
    e->connection = PQconnectdb(bench_dsn);
    e->store = pgqrs_open_pgconn(e->connection, &desc, NULL);
    if (!e->store) {
        PQfinish(e->connection);
        free(e);
        return NULL;
    }
    pthread_setspecific(effects_key, e);
    return e;
}

/* The effect and the acknowledgement in one transaction: both are there, or neither. */
static bool effect(const pgqrs_message *message)
{
    char insert[96];
    effects *e = effects_of_thread();
    if (!e || !effects_sql(e, "BEGIN")) return false;
    snprintf(insert, sizeof insert, "INSERT INTO peers_effects(n) VALUES (%" PRId64 ")", payload_number(message->payload));
    if (effects_sql(e, insert) && pgqrs_archive(e->store, message) == PGQRS_OK) return effects_sql(e, "COMMIT");
    effects_sql(e, "ROLLBACK");
    return false;
}

static pgqrs_result handle_message(const pgqrs_message *message, void *user)
{
    const double *work_s = user;
    if (*work_s > 0) bench_sleep_until(bench_seconds() + *work_s);
    /* When the answer to COMMIT was lost, giving it back changes nothing if it was carried out: the lease is gone. */
    if (effects_wanted && !effect(message)) return pgqrs_message_give_back(message, 0);
    report_message(message->payload);
    return effects_wanted ? pgqrs_message_settled(message) : PGQRS_OK;
}

/* Handlers of single messages, as the descriptor says. */
static void work(char **argv, pgqrs_work_desc *desc)
{
    deadline d;
    double work_s = number(argv, "work_ms", 0) / 1000;
    const char *log = option(argv, "log", NULL);
    pgqrs_store *store = bench_open(PLACE);
    desc->lease_ms = (int64_t)number(argv, "lease_ms", 0);
    effects_wanted = number(argv, "effects", 0) > 0;
    if (effects_wanted && pthread_key_create(&effects_key, effects_close)) bench_die("effects", "no more keys");
    the_report.seconds = number(argv, "seconds", 10);
    if (log) the_report.log = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (log && the_report.log < 0) bench_die(log, strerror(errno));
    wait_for_go();
    deadline_begin(&d, store, the_report.seconds);
    bench_check(store, pgqrs_work(store, "bench", handle_message, &work_s, desc));
    double ended = bench_seconds();
    deadline_end(&d);
    end(the_report.done, ended - the_report.begun);
    pgqrs_close(store);
}

/* On a pool; 500 messages in hand, as graphile-worker has with its recommended settings. */
static void handle(char **argv)
{
    bool each = number(argv, "each", 0) > 0;
    pgqrs_work_desc desc = {.threads = (int32_t)number(argv, "concurrency", 4),
                            .until_empty = number(argv, "until_empty", 0) > 0,
                            .settle_ms = each ? -1 : 0,
                            .batch = each ? 0 : 500};
    work(argv, &desc);
}

/* A drain as graphile-worker does it: as many handlers as the batch, up to its 24, beside a batch that waits; together they are the
 * most that is in hand. What is done is acknowledged after a millisecond, which is what a timer of 0 takes there. */
static void fetch_on_pool(char **argv)
{
    int32_t batch = (int32_t)number(argv, "batch", 1), threads = batch < 24 ? batch : 24;
    pgqrs_work_desc desc = {.threads = threads, .until_empty = true, .settle_ms = 1, .batch = threads + batch};
    work(argv, &desc);
}

/* Dequeue and settle by hand, as many as `batch` at once; pool=1: with handlers. */
static void fetch(char **argv)
{
    if (number(argv, "pool", 0) > 0) {
        fetch_on_pool(argv);
        return;
    }
    bench_consumer consumer = {bench_open(PLACE), "bench", (size_t)number(argv, "batch", 1)};
    bench_client client = {0};
    client.context = &consumer;
    wait_for_go();
    double begun = bench_seconds();
    client.until = begun + number(argv, "seconds", 10);
    bench_consume(&client);
    end(client.done, bench_seconds() - begun);
    pgqrs_close(consumer.store);
}

static pgqrs_result three_steps(pgqrs_run *run, void *user)
{
    const char *output;
    (void)user;
    for (int i = 0; i < 3; i++)
        if (pgqrs_step_indexed(run, "step", i, &output))
            pgqrs_step_done(run, "{\"bytes\":1234,\"path\":\"/tmp/a.zip\"}");
    pgqrs_result result = pgqrs_run_return(run, "\"done\"");
    if (!result) __atomic_fetch_add(&the_report.done, 1, __ATOMIC_RELAXED);
    return result;
}

/* Runs that wait already are worked off. */
static void workflow(char **argv)
{
    deadline d;
    pgqrs_trigger_item item = {.input = "{\"path\":\"/tmp/report.csv\"}"};
    pgqrs_store *store = bench_open(PLACE);
    pgqrs_work_desc desc = {.until_empty = true, .threads = (int32_t)number(argv, "concurrency", 1)};
    for (int64_t i = 0; i < (int64_t)number(argv, "count", 100); i++)
        bench_check(store, pgqrs_workflow_trigger_many(store, "three", &item, 1, NULL));
    wait_for_go();
    deadline_begin(&d, store, number(argv, "seconds", 10));
    bench_check(store, pgqrs_work_workflow(store, "three", three_steps, NULL, &desc));
    double ended = bench_seconds();
    deadline_end(&d);
    end(the_report.done, ended - the_report.begun);
    pgqrs_close(store);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(char **argv);
    } commands[] = {{"fill", fill}, {"produce", produce}, {"fetch", fetch}, {"handle", handle}, {"workflow", workflow}};
    bench_dsn = getenv("PEERS_URL");
    if (argc < 2 || !bench_dsn || !strstr(bench_dsn, "://"))
        bench_die("usage", "PEERS_URL=postgres://... or sqlite://... pgqrs COMMAND [KEY=VALUE...]");
    if (strcmp(argv[1], "setup") == 0) return setup(), 0;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argv), 0;
    bench_die("unknown command", argv[1]);
    return 1;
}
