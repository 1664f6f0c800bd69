/*
 * The S3 backend against the S3 server of the tests, with a round trip of 60 ms: how fast it is, how processes and machines share it,
 * what it costs in requests and bytes. The server counts; the floor is a conditional PUT of as many bytes as the object has,
 * one after the other through the same HTTP adapter. Filling is not measured, and done without the round trip.
 *
 *   s3 s3://BUCKET      (the bucket is made on the server that is started)
 *
 *   PGQRS_BENCH_DELAY_MS   the round trip
 *
 * Tables: s3_consumer, s3_outstanding, s3_hosts, s3_requests, s3_state, s3_idle
 */
#define PGQRS_THREADS
#include "bench.h"
#include "bench_floor.h"
#include "bench_store.h"
#include "pgqrs_s3.h"
#include "examples/http_socket.h"
#include "tests/s3_process.h"

#define SECRET "secret-of-the-benchmarks"

static s3_process server;
static char scratch[512];
static int places; /* every place is a new one: what the cache says of an old one never fits */

/* --- the server */

static void control(const char *line)
{
    if (!s3_control(server.port, line)) bench_die("server", "it does not answer");
}

static void round_trips(bool slow)
{
    const char *given = getenv("PGQRS_BENCH_DELAY_MS");
    char line[64];
    snprintf(line, sizeof line, "delay_ms=%d", !slow ? 0 : given && *given ? atoi(given) : 60);
    control(line);
}

/* cpu_ms: of this process. */
typedef struct tally {
    double puts, gets, put_bytes, refused, cpu_ms, seconds;
} tally;

static double counter(const char *name)
{
    int64_t value = s3_counter(server.port, name);
    if (value < 0) bench_die("server", "it does not answer");
    return (double)value;
}

static double own_cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1000 + (double)t.tv_nsec / 1e6;
}

static tally tally_now(void)
{
    tally t = {
        counter("requests.PUT"), counter("requests.GET"), counter("bytes_in.PUT"), counter("status.412"), own_cpu_ms(),
        bench_seconds()};
    return t;
}

static tally tally_since(tally before)
{
    tally now = tally_now();
    now.puts -= before.puts;
    now.gets -= before.gets;
    now.put_bytes -= before.put_bytes;
    now.refused -= before.refused;
    now.cpu_ms -= before.cpu_ms;
    now.seconds -= before.seconds;
    return now;
}

/* --- a store and the connection it has for itself */

typedef struct site {
    http_socket *http;
    pgqrs_store *store;
} site;

static pgqrs_s3_desc settings(http_socket *http, const char *cache)
{
    static char endpoint[64];
    pgqrs_s3_desc desc = {.access_key = "bench", .secret_key = SECRET, .region = "us-east-1", .cache_dir = cache};
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", server.port);
    desc.endpoint = endpoint;
    desc.http = http_socket_callback(http);
    return desc;
}

/* `host`: machines differ in their cache directories. */
static site site_open(int host)
{
    char dsn[256], cache[600];
    pgqrs_error err;
    site s = {http_socket_create(), NULL};
    if (!s.http) bench_die("open", "out of memory");
    snprintf(dsn, sizeof dsn, "%s/place-%d.sqlite", bench_dsn, places);
    snprintf(cache, sizeof cache, "%s/host-%d", scratch, host);
    pgqrs_s3_desc s3 = settings(s.http, cache);
    pgqrs_store_desc desc = {.s3 = &s3};
    s.store = pgqrs_open(dsn, &desc, &err);
    if (!s.store) bench_die("open", err.message);
    return s;
}

static void site_close(site *s)
{
    pgqrs_close(s->store);
    http_socket_destroy(s->http);
}

/* A new place with a queue "bench" and so many messages in it; those before are removed. */
static site site_make(int64_t messages)
{
    control("objects=0");
    round_trips(false);
    places++;
    site s = site_open(0);
    bench_check(s.store, pgqrs_install(s.store));
    bench_check(s.store, pgqrs_queue_create(s.store, "bench", NULL));
    bench_enqueue(s.store, "bench", messages, bench_payload);
    round_trips(true);
    return s;
}

static s3_text object_bytes(void)
{
    s3_text body = {NULL, 0, 0, false};
    char path[256];
    snprintf(path, sizeof path, "/_raw/%s/place-%d.sqlite", bench_dsn + strlen("s3://"), places);
    if (s3_raw(server.port, "GET", path, NULL, 0, &body) != 200 || body.failed) bench_die("server", "no object");
    return body;
}

static double object_kb(void)
{
    s3_text object = object_bytes();
    double kb = (double)object.size / 1024;
    s3_free(&object);
    return kb;
}

/* --- the floor */

typedef struct put_floor {
    http_socket *http;
    s3_text body;
    char url[300], etag[PGQRSI_S3_ETAG_MAX];
} put_floor;

/* One PUT that replaces the version before; the first makes the object. */
static void floor_put(put_floor *f)
{
    char payload[65], stamp[17], authorization[PGQRSI_S3_AUTHORIZATION_MAX];
    unsigned char digest[32];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    pgqrsi_s3_sha_of(f->body.data, f->body.size, digest);
    pgqrsi_s3_hex(digest, payload);
    pgqrsi_s3_stamp((int64_t)now.tv_sec * 1000000, stamp);
    const char *host = f->url + strlen("http://"), *path = strchr(host, '/');
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(path - host), host);
    pgqrs_http_field fields[] = {{"host", name},
                                 {*f->etag ? "if-match" : "if-none-match", *f->etag ? f->etag : "*"},
                                 {"x-amz-content-sha256", payload},
                                 {"x-amz-date", stamp},
                                 {"authorization", authorization}};
    pgqrsi_s3_signing signing = {"PUT", path, "", fields, 4, payload, stamp, "us-east-1", "bench", SECRET};
    pgqrsi_s3_sign(&signing, authorization);
    pgqrs_http_request request = {"PUT", f->url, fields, 5, f->body.data, f->body.size, 10000};
    pgqrs_http_reply reply;
    memset(&reply, 0, sizeof reply);
    int status = http_socket_callback(f->http).exchange(f->http, &request, &reply);
    if (status != 200 || !*reply.etag) bench_die("floor", "the server does not take a PUT");
    memcpy(f->etag, reply.etag, sizeof f->etag);
}

/* PUTs per second, of an object as large as that of the place is now. */
static double floor_rate(double seconds)
{
    static int objects;
    put_floor f = {.http = http_socket_create(), .body = object_bytes()};
    int64_t done = 0;
    if (!f.http) bench_die("floor", "out of memory");
    snprintf(f.url, sizeof f.url, "http://127.0.0.1:%d/%s/floor-%d-%d", server.port, bench_dsn + strlen("s3://"),
             (int)getpid(), objects++);
    floor_put(&f);
    double begun = bench_seconds(), until = begun + bench_slice(seconds);
    for (; bench_seconds() < until; done++)
        floor_put(&f);
    double rate = (double)done / (bench_seconds() - begun);
    s3_free(&f.body);
    http_socket_destroy(f.http);
    return rate;
}

#define PUT_ROUND(series, measure)                                                                                     \
    do {                                                                                                               \
        double before_ = floor_rate(1.5);                                                                              \
        double rate_ = (measure);                                                                                      \
        bench_series_add(series, (before_ + floor_rate(1.5)) / 2, rate_);                                              \
    } while (0)

/* With a decimal: some of these figures are small. */
static void end_series(bench_series *s)
{
    bench_number("per_s", bench_median(&s->rate), 1);
    bench_number("floor_per_s", bench_median(&s->floor), 1);
    bench_number("of_floor", bench_median(&s->ratio), 2);
    bench_number("lowest", bench_percentile(&s->ratio, 0), 2);
    bench_number("highest", bench_percentile(&s->ratio, 1), 2);
    bench_end();
    bench_progress("    %.1f/s, floor %.1f/s, ratio %.2f\n", bench_median(&s->rate), bench_median(&s->floor),
                   bench_median(&s->ratio));
    bench_series_drop(s);
}

/* --- one consumer */

/* Settle and claim in one commit, until the time is over. */
static double drain(pgqrs_store *store, size_t batch, double seconds)
{
    bench_consumer consumer = {store, "bench", batch};
    double begun = bench_seconds();
    bench_client client = {.context = &consumer, .until = begun + bench_slice(seconds)};
    bench_consume(&client);
    return (double)client.done / (bench_seconds() - begun);
}

static double drain_counted(pgqrs_store *store, size_t batch, double seconds, tally *cost)
{
    tally before = tally_now();
    double rate = drain(store, batch, seconds);
    *cost = tally_since(before);
    return rate;
}

static void consumer(void)
{
    static const struct {
        int batch, backlog;
    } cases[] = {{1, 200}, {10, 1000}, {50, 1500}, {50, 6000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench_series series = {{0}, {0}, {0}};
        double kb = 0;
        tally cost = {0};
        for (int round = 0; round < bench_rounds(3, 1); round++) {
            site s = site_make(cases[i].backlog);
            kb = object_kb();
            PUT_ROUND(&series, drain_counted(s.store, (size_t)cases[i].batch, 5, &cost));
            site_close(&s);
        }
        bench_begin("s3_consumer", "s3");
        bench_number("batch", cases[i].batch, 0);
        bench_number("backlog", cases[i].backlog, 0);
        bench_number("object_kb", kb, 0);
        bench_number("cpu_ms", cost.cpu_ms / (cost.puts > 0 ? cost.puts : 1), 1);
        end_series(&series);
    }
}

/* --- many operations at once in one process */

#define THREADS 50

static void produce(bench_client *client)
{
    pgqrs_error err;
    for (; bench_going(client); client->done++)
        if (pgqrs_producer_enqueue(client->context, "bench", bench_payload, NULL, NULL, &err))
            bench_die("producer", err.message);
}

static double produce_slice(pgqrs_store *store, tally *cost)
{
    void *contexts[THREADS];
    pgqrs_error err;
    pgqrs_producer *producer = pgqrs_producer_open(store, NULL);
    if (!producer) bench_die("producer", pgqrs_last_error(store)->message);
    for (int i = 0; i < THREADS; i++)
        contexts[i] = producer;
    tally before = tally_now();
    double rate = bench_clients(THREADS, bench_slice(3), produce, contexts);
    *cost = tally_since(before);
    if (pgqrs_producer_close(producer, &err)) bench_die("producer", err.message);
    return rate;
}

typedef struct slice {
    pgqrs_store *store;
    pthread_mutex_t mutex;
    double begun, last;
    int64_t done, before; /* handled; before the last */
    bool stopped;
} slice;

/* Whoever finds that the time is over stops the loop, once. */
static pgqrs_result handle(const pgqrs_message *message, void *user)
{
    slice *s = user;
    (void)message;
    pthread_mutex_lock(&s->mutex);
    double now = bench_seconds();
    if (s->done == 0) s->begun = now;
    if (!s->stopped) s->last = now, s->before = s->done;
    s->done++;
    bool stops = !s->stopped && now > s->begun + bench_slice(3);
    s->stopped = s->stopped || stops;
    pthread_mutex_unlock(&s->mutex);
    if (stops) pgqrs_stop(s->store);
    return PGQRS_OK;
}

/* As many messages are taken as there are threads, not more. The time is that from the first message to the one at which it is over: when
 * that one comes those before it are settled. A worker is opened and closed with requests of its own, which are not measured here. */
static double handle_slice(pgqrs_store *store, tally *cost)
{
    tally before = tally_now();
    slice s = {.store = store, .mutex = PTHREAD_MUTEX_INITIALIZER};
    pgqrs_work_desc desc = {.until_empty = true, .threads = THREADS, .batch = THREADS};
    bench_check(store, pgqrs_work(store, "bench", handle, &s, &desc));
    *cost = tally_since(before);
    return s.last > s.begun ? (double)s.before / (s.last - s.begun) : 0;
}

static void outstanding(void)
{
    static const struct {
        const char *operation;
        int backlog;
        double (*measure)(pgqrs_store *store, tally *cost);
    } cases[] = {{"enqueue, by a producer", 0, produce_slice}, {"handle, on a pool", 2500, handle_slice}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench_series series = {{0}, {0}, {0}};
        double kb = 0;
        tally cost = {0};
        for (int round = 0; round < bench_rounds(3, 1); round++) {
            site s = site_make(cases[i].backlog);
            PUT_ROUND(&series, cases[i].measure(s.store, &cost));
            kb = object_kb();
            site_close(&s);
        }
        bench_begin("s3_outstanding", "s3");
        bench_text("operation", cases[i].operation);
        bench_number("threads", THREADS, 0);
        bench_number("object_kb", kb, 0);
        bench_number("puts_per_s", cost.puts / cost.seconds, 1);
        bench_number("cpu_ms", cost.cpu_ms / (cost.puts > 0 ? cost.puts : 1), 1);
        end_series(&series);
    }
}

/* --- processes on one machine, and on as many machines */

#define PROCESSES_MAX 4

static double timed(double since, bench_figures *ms)
{
    double now = bench_seconds();
    bench_add(ms, (now - since) * 1000);
    return now;
}

/* Enqueues, takes and archives, one after the other; each of the three is an operation. */
static void cycle(int host, double at, double seconds, bench_figures *ms)
{
    site s = site_open(host);
    double until = at + seconds;
    bench_sleep_until(at);
    for (at = bench_seconds(); at < until;) {
        pgqrs_message *message = NULL;
        bench_check(s.store, pgqrs_enqueue(s.store, "bench", bench_payload, NULL, NULL));
        at = timed(at, ms);
        bench_check(s.store, pgqrs_dequeue(s.store, "bench", NULL, &message));
        at = timed(at, ms);
        if (message) {
            bench_check(s.store, pgqrs_archive(s.store, message));
            at = timed(at, ms);
        }
        pgqrs_free(message);
    }
    site_close(&s);
}

static bool write_all(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t wrote = write(fd, at, size);
        if (wrote <= 0) return false;
        at += wrote;
        size -= (size_t)wrote;
    }
    return true;
}

static void read_all(int fd, void *data, size_t size)
{
    char *at = data;
    while (size > 0) {
        ssize_t got = read(fd, at, size);
        if (got <= 0) bench_die("processes", "a process broke off");
        at += got;
        size -= (size_t)got;
    }
}

typedef struct child {
    pid_t pid;
    int from; /* how many operations it did, and how long each took */
    size_t count;
} child;

static child cycle_elsewhere(int host, double at, double seconds)
{
    int ends[2];
    if (pipe(ends)) bench_die("processes", "no pipe");
    child c = {fork(), ends[0], 0};
    if (c.pid < 0) bench_die("processes", "no more processes");
    if (c.pid == 0) {
        bench_figures ms = {0};
        close(ends[0]);
        cycle(host, at, seconds, &ms);
        _exit(write_all(ends[1], &ms.count, sizeof ms.count) &&
                      write_all(ends[1], ms.items, ms.count * sizeof *ms.items)
                  ? 0
                  : 1);
    }
    close(ends[1]);
    return c;
}

static void read_child(child *c, bench_figures *ms)
{
    read_all(c->from, &c->count, sizeof c->count);
    for (size_t i = 0; i < c->count; i++) {
        double figure;
        read_all(c->from, &figure, sizeof figure);
        bench_add(ms, figure);
    }
    close(c->from);
    waitpid(c->pid, NULL, 0);
}

typedef struct sharing {
    bench_series series;
    bench_figures ms, share, refused;
} sharing;

/* All begin at the same time and end at the same time, so what each got done is its share. */
static double run_processes(int count, int machines, sharing *out)
{
    double seconds = bench_slice(15), at = bench_seconds() + 1;
    child children[PROCESSES_MAX];
    size_t all = 0, lowest = SIZE_MAX;
    tally before = tally_now();
    for (int i = 0; i < count; i++)
        children[i] = cycle_elsewhere(i % machines, at, seconds);
    for (int i = 0; i < count; i++) {
        read_child(&children[i], &out->ms);
        all += children[i].count;
        if (children[i].count < lowest) lowest = children[i].count;
    }
    tally cost = tally_since(before);
    bench_add(&out->share, (double)lowest * count / (double)all);
    bench_add(&out->refused, cost.refused / (cost.puts > 0 ? cost.puts : 1));
    return (double)all / seconds;
}

static void hosts(void)
{
    static const struct {
        int processes, hosts;
    } cases[] = {{1, 1}, {4, 1}, {4, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sharing s;
        memset(&s, 0, sizeof s);
        for (int round = 0; round < bench_rounds(2, 1); round++) {
            site made = site_make(0);
            site_close(&made); /* none is open while there are children: SQLite's locks do not survive a fork */
            PUT_ROUND(&s.series, run_processes(cases[i].processes, cases[i].hosts, &s));
        }
        bench_begin("s3_hosts", "s3");
        bench_number("processes", cases[i].processes, 0);
        bench_number("hosts", cases[i].hosts, 0);
        bench_number("lowest_share", bench_percentile(&s.share, 0), 2);
        bench_number("p50_ms", bench_median(&s.ms), 0);
        bench_number("p99_ms", bench_percentile(&s.ms, 0.99), 0);
        bench_number("worst_ms", bench_percentile(&s.ms, 1), 0);
        bench_number("puts_refused", bench_median(&s.refused), 2);
        bench_drop(&s.ms);
        bench_drop(&s.share);
        bench_drop(&s.refused);
        end_series(&s.series);
    }
}

/* --- requests and bytes */

static void requests_line(const char *operation, int batch, int count, tally before)
{
    tally cost = tally_since(before);
    bench_begin("s3_requests", "s3");
    bench_text("operation", operation);
    bench_number("batch", batch, 0);
    bench_number("puts_per_1000", cost.puts * 1000 / count, 0);
    bench_number("gets_per_1000", cost.gets * 1000 / count, 0);
    bench_number("kb_up_per_message", cost.put_bytes / 1024 / count, 1);
    bench_number("object_kb", object_kb(), 0);
    bench_end();
}

/* Each operation in a commit of its own; then archive and claim together. A first message keeps the self-test of a new object out. */
static void requests_of(int batch, int count)
{
    site s = site_make(1);
    pgqrs_messages **taken = calloc((size_t)(count / batch), sizeof *taken);
    pgqrs_enqueue_item items[50];
    pgqrs_settlement verdicts[50];
    pgqrs_dequeue_desc desc = {.limit = (size_t)batch, .lease_ms = 3600000};
    if (!taken) bench_die("requests", "out of memory");
    memset(items, 0, sizeof items);
    for (int i = 0; i < batch; i++)
        items[i].payload = bench_payload;
    round_trips(false);
    tally before = tally_now();
    for (int i = 0; i < count / batch; i++)
        bench_check(s.store, pgqrs_enqueue_many(s.store, "bench", items, (size_t)batch, NULL));
    requests_line("enqueue", batch, count, before);
    before = tally_now();
    for (int i = 0; i < count / batch; i++)
        bench_check(s.store, pgqrs_dequeue_many(s.store, "bench", &desc, &taken[i]));
    requests_line("claim", batch, count, before);
    before = tally_now();
    for (int i = 0; i < count / batch; i++) {
        for (size_t k = 0; k < taken[i]->count; k++)
            verdicts[k] = pgqrs_settlement_for(&taken[i]->items[k], PGQRS_ARCHIVE);
        bench_check(s.store, pgqrs_settle(s.store, verdicts, taken[i]->count, NULL, NULL, NULL));
        pgqrs_free(taken[i]);
    }
    requests_line("archive", batch, count, before);
    free(taken);
    site_close(&s);
    s = site_make(count);
    round_trips(false);
    before = tally_now();
    drain(s.store, (size_t)batch, 3600);
    requests_line("archive and claim", batch, count, before);
    site_close(&s);
}

static void requests(void)
{
    static const int batches[] = {1, 10, 50};
    for (int i = 0; i < 3; i++)
        requests_of(batches[i], bench_pick(1000, 200));
}

/* --- what a commit costs when the object is large */

/* The bytes of many commits, since now and then one writes a large part anew; the time of some. */
static void state_line(pgqrs_store *store, const char *state, int messages)
{
    int timed = bench_pick(30, 10), count = messages < 5000 ? timed : bench_pick(2000, 500);
    bench_figures ms = {0};
    round_trips(false);
    tally before = tally_now();
    for (int i = 0; i < count; i++)
        bench_check(store, pgqrs_enqueue(store, "bench", bench_payload, NULL, NULL));
    tally cost = tally_since(before);
    round_trips(true);
    for (int i = 0; i < timed; i++) {
        double begun = bench_seconds();
        bench_check(store, pgqrs_enqueue(store, "bench", bench_payload, NULL, NULL));
        bench_add(&ms, (bench_seconds() - begun) * 1000);
    }
    bench_begin("s3_state", "s3");
    bench_text("state", state);
    bench_number("messages", messages, 0);
    bench_number("object_kb", object_kb(), 0);
    bench_number("kb_up_per_enqueue", cost.put_bytes / 1024 / count, 1);
    bench_number("puts_per_enqueue", cost.puts / count, 2);
    bench_number("p50_ms", bench_median(&ms), 1);
    bench_number("cpu_ms", cost.cpu_ms / count, 1);
    bench_end();
    bench_progress("    %d %s: %.1f ms\n", messages, state, bench_median(&ms));
    bench_drop(&ms);
}

static void state(void)
{
    static const int counts[] = {0, 1000, 5000, 20000};
    for (int i = 0; i < 4; i++) {
        site s = site_make(counts[i]);
        state_line(s.store, "ready", counts[i]);
        site_close(&s);
    }
    site s = site_make(20000);
    round_trips(false);
    drain(s.store, 1000, 3600);
    state_line(s.store, "archived", 20000);
    site_close(&s);
}

/* --- workers that have nothing to do */

typedef struct idler {
    pgqrs_worker *worker;
    pgqrs_store *store;
    double begin, until;
    tally *cost;
} idler;

static pgqrs_result nothing(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    return PGQRS_OK;
}

static void idle_until(idler *it, double until)
{
    for (double left; (left = until - bench_seconds()) > 0;)
        bench_check(it->store, pgqrs_worker_poll(it->worker, (int64_t)(left * 1000) + 1, NULL));
}

/* The first one asks the server for all of them. */
static void idle_body(bench_client *client)
{
    idler *it = client->context;
    idle_until(it, it->begin);
    if (client->number == 0) *it->cost = tally_now();
    idle_until(it, it->until);
    if (client->number == 0) *it->cost = tally_since(*it->cost);
}

/* At first a worker asks often; that is not measured. */
static void idle_workers(int count)
{
    double seconds = bench_pick(60, 20), begin = bench_seconds() + bench_pick(15, 10);
    site sites[PROCESSES_MAX];
    idler idlers[PROCESSES_MAX];
    void *contexts[PROCESSES_MAX];
    tally cost;
    for (int i = 0; i < count; i++) {
        sites[i] = i ? site_open(0) : site_make(0);
        idler it = {NULL, sites[i].store, begin, begin + seconds, &cost};
        it.worker = pgqrs_worker_open(it.store, "bench", nothing, NULL, NULL, NULL);
        if (!it.worker) bench_die("worker", pgqrs_last_error(it.store)->message);
        idlers[i] = it;
        contexts[i] = &idlers[i];
    }
    double cpu = own_cpu_ms(), since = bench_seconds();
    bench_clients(count, 0, idle_body, contexts);
    cpu = (own_cpu_ms() - cpu) / (bench_seconds() - since);
    bench_begin("s3_idle", "s3");
    bench_number("workers", count, 0);
    bench_number("gets_per_minute", cost.gets * 60 / seconds, 0);
    bench_number("puts_per_minute", cost.puts * 60 / seconds, 0);
    bench_number("cpu_ms_per_s", cpu, 2);
    bench_end();
    for (int i = 0; i < count; i++) {
        bench_check(idlers[i].store, pgqrs_worker_close(idlers[i].worker));
        site_close(&sites[i]);
    }
}

static void idle(void)
{
    idle_workers(1);
    idle_workers(PROCESSES_MAX);
}

/* --- main */

static void start(const char *dsn)
{
    char bucket[128];
    const char *lines[] = {"access_key=bench", "secret_key=" SECRET, bucket, NULL};
    const char *directory = getenv("TMPDIR");
    snprintf(bucket, sizeof bucket, "bucket=%s", strncmp(dsn, "s3://", 5) == 0 ? dsn + 5 : "");
    if (strchr(bucket, '/') || !strcmp(bucket, "bucket=")) bench_die("usage", "s3 s3://BUCKET");
    snprintf(scratch, sizeof scratch, "%s/pgqrs-bench-s3.XXXXXX", directory && *directory ? directory : "/tmp");
    if (!mkdtemp(scratch)) bench_die(scratch, strerror(errno));
    if (!s3_process_start(&server, lines))
        bench_die("server", "tests/s3_server does not start; make build/test/s3_server");
}

static void clean_up(void)
{
    char command[600];
    s3_process_stop(&server);
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    if (system(command)) fprintf(stderr, "%s is left\n", scratch);
}

int main(int argc, char **argv)
{
    static const bench_table tables[] = {
        {"s3_consumer", BENCH_S3, consumer}, {"s3_outstanding", BENCH_S3, outstanding},
        {"s3_hosts", BENCH_S3, hosts},       {"s3_requests", BENCH_S3, requests},
        {"s3_state", BENCH_S3, state},       {"s3_idle", BENCH_S3, idle},
    };
    if (argc != 2) bench_die("usage", "s3 s3://BUCKET");
    start(argv[1]);
    int result = bench_main(argc, argv, tables, sizeof tables / sizeof *tables);
    clean_up();
    return result;
}
