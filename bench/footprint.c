/*
 * What a message uses besides time: allocations and bytes, log, commits and statements; and what an open store keeps in memory.
 *
 * Tables: allocations, traffic, memory
 */
#include "bench.h"
#include "bench_floor.h"
#include "bench_store.h"

/* --- allocations, counted twice: through the library's allocator hook, and by standing in front of malloc, which also sees
 * what libpq and SQLite do */

typedef struct allocation_counts {
    int64_t calls, bytes;
} allocation_counts;

static allocation_counts through_hook, through_malloc;

static void *counted_resize(void *pointer, size_t old_size, size_t new_size, void *user)
{
    (void)old_size;
    (void)user;
    if (new_size == 0) {
        free(pointer);
        return NULL;
    }
    through_hook.calls++;
    through_hook.bytes += (int64_t)new_size;
    return realloc(pointer, new_size);
}

#ifdef __GLIBC__
#define MALLOC_IS_COUNTED true

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *pointer, size_t size);

static void count_malloc(size_t size)
{
    through_malloc.calls++;
    through_malloc.bytes += (int64_t)size;
}

void *malloc(size_t size)
{
    count_malloc(size);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    count_malloc(count * size);
    return __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size)
{
    count_malloc(size);
    return __libc_realloc(pointer, size);
}
#else
#define MALLOC_IS_COUNTED false
#endif

typedef struct allocation_cost {
    double hook_calls, hook_bytes, malloc_calls, malloc_bytes; /* of one call of the library */
} allocation_cost;

static allocation_cost allocations_per_call(int calls)
{
    allocation_cost cost = {(double)through_hook.calls / calls, (double)through_hook.bytes / calls,
                            (double)through_malloc.calls / calls, (double)through_malloc.bytes / calls};
    return cost;
}

static void forget_allocations(void)
{
    memset(&through_hook, 0, sizeof through_hook);
    memset(&through_malloc, 0, sizeof through_malloc);
}

enum { ALLOCATION_CALLS = 200 };

static allocation_cost enqueue_cost(pgqrs_store *store, size_t batch)
{
    pgqrs_enqueue_item items[50];
    memset(items, 0, sizeof items);
    for (size_t i = 0; i < batch; i++)
        items[i].payload = bench_payload;
    for (int call = -20; call < ALLOCATION_CALLS; call++) { /* those below 0 warm up */
        if (call == 0) forget_allocations();
        bench_check(store, batch == 1 ? pgqrs_enqueue(store, "bench", bench_payload, NULL, NULL)
                                      : pgqrs_enqueue_many(store, "bench", items, batch, NULL));
    }
    return allocations_per_call(ALLOCATION_CALLS);
}

/* Archives a batch and takes the next one, in one call; freeing the result is part of it. */
static allocation_cost settle_cost(pgqrs_store *store, size_t batch)
{
    pgqrs_settlement verdicts[50];
    pgqrs_messages *taken = NULL, *next = NULL;
    pgqrs_dequeue_desc desc = {.limit = batch};
    bench_check(store, pgqrs_dequeue_many(store, "bench", &desc, &taken));
    for (int call = -5; call < ALLOCATION_CALLS; call++) {
        if (call == 0) forget_allocations();
        if (taken->count != batch) bench_die("allocations", "the queue is empty");
        for (size_t i = 0; i < batch; i++)
            verdicts[i] = pgqrs_settlement_for(&taken->items[i], PGQRS_ARCHIVE);
        bench_check(store, pgqrs_settle(store, verdicts, batch, "bench", &desc, &next));
        pgqrs_free(taken);
        taken = next;
    }
    allocation_cost cost = allocations_per_call(ALLOCATION_CALLS);
    bench_check(store, pgqrs_archive_many(store, taken->items, taken->count, NULL));
    pgqrs_free(taken);
    return cost;
}

static void allocation_line(const char *bench, const char *operation, size_t batch, allocation_cost cost)
{
    bench_begin(bench, bench_backend());
    bench_text("operation", operation);
    if (batch > 0) bench_number("batch", (double)batch, 0);
    bench_number("library", cost.hook_calls, 2);
    bench_number("library_bytes", cost.hook_bytes, 0);
    if (MALLOC_IS_COUNTED) {
        bench_number("malloc", cost.malloc_calls, 2);
        bench_number("malloc_bytes", cost.malloc_bytes, 0);
    }
    bench_end();
}

/* What one more message in a batch costs: the difference of batches of 50 and of 10. */
static void allocations_of(pgqrs_store *store, const char *operation, allocation_cost (*of)(pgqrs_store *, size_t))
{
    allocation_cost one = of(store, 1), ten = of(store, 10), fifty = of(store, 50);
    allocation_line("allocations", operation, 1, one);
    allocation_line("allocations", operation, 10, ten);
    allocation_line("allocations", operation, 50, fifty);
    allocation_cost each = {(fifty.hook_calls - ten.hook_calls) / 40, (fifty.hook_bytes - ten.hook_bytes) / 40,
                            (fifty.malloc_calls - ten.malloc_calls) / 40, (fifty.malloc_bytes - ten.malloc_bytes) / 40};
    allocation_line("allocations_per_message", operation, 0, each);
}

static void allocations(void)
{
    pgqrs_store_desc desc = {.allocator = {counted_resize, NULL}};
    pgqrs_close(bench_make("allocations"));
    pgqrs_store *store = bench_open_with("allocations", desc);
    allocations_of(store, "enqueue", enqueue_cost);
    bench_enqueue(store, "bench", 20000, bench_payload);
    allocations_of(store, "archive and dequeue", settle_cost);
    pgqrs_close(store);
    bench_remove("allocations");
}

/* --- log, commits, statements */

/* Bytes that this process handed to the kernel for writing. */
static double written_bytes(void)
{
    char line[128];
    double bytes = 0;
    FILE *file = fopen("/proc/self/io", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "wchar: ", 7) == 0) bytes = atof(line + 7);
    fclose(file);
    return bytes;
}

static void settle_all(pgqrs_store *store, size_t batch)
{
    bench_consumer consumer = {store, "bench", batch};
    void *context = &consumer;
    bench_clients(1, 3600, bench_consume, &context);
}

/* From the enqueue to the archive, per message. Right after a checkpoint a page is logged whole; the median of the rounds is
 * without that. */
static void traffic_with(size_t batch)
{
    const int messages = bench_pick(batch == 1 ? 1000 : 5000, batch == 1 ? 200 : 1000);
    PGconn *connection = bench_postgres() ? bench_connect(bench_dsn) : NULL;
    pgqrs_store *store = bench_make("traffic");
    bench_figures wal = {0}, commits = {0}, statements = {0}, round_trips = {0};
    for (int round = -1; round < bench_rounds(5, 2); round++) { /* the first only warms up */
        double written = written_bytes();
        bench_traffic before = bench_traffic_now(connection);
        for (int i = 0; i < messages; i += (int)batch)
            bench_enqueue(store, "bench", (int64_t)batch, bench_payload);
        settle_all(store, batch);
        bench_traffic per = bench_traffic_per(before, connection, messages);
        if (round < 0) continue;
        bench_add(&wal, connection ? per.wal_bytes : (written_bytes() - written) / messages);
        bench_add(&commits, per.commits);
        bench_add(&statements, per.statements);
        bench_add(&round_trips, per.round_trips);
    }
    bench_begin("traffic", bench_backend());
    bench_number("batch", (double)batch, 0);
    bench_number("payload_bytes", (double)strlen(bench_payload), 0);
    bench_number(connection ? "wal_bytes" : "written_bytes", bench_median(&wal), 0);
    bench_number("beyond_payload", bench_median(&wal) - (double)strlen(bench_payload), 0);
    bench_number("commits", bench_median(&commits), 3);
    bench_number("statements", bench_median(&statements), 3);
    if (connection) bench_number("round_trips", bench_median(&round_trips), 3);
    bench_end();
    bench_drop(&wal);
    bench_drop(&commits);
    bench_drop(&statements);
    bench_drop(&round_trips);
    pgqrs_close(store);
    if (connection) PQfinish(connection);
}

static void traffic(void)
{
    traffic_with(1);
    traffic_with(10);
    traffic_with(50);
    bench_remove("traffic");
}

/* --- memory of a store */

static double resident_kb(void)
{
    double total, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%lf %lf", &total, &resident) != 2) resident = 0;
    fclose(file);
    return resident * (double)sysconf(_SC_PAGESIZE) / 1024;
}

static pgqrs_store *used_store(void)
{
    pgqrs_store *store = bench_open("memory");
    bench_enqueue(store, "bench", 1000, bench_payload);
    bench_consumer consumer = {store, "bench", 50};
    bench_client client = {.context = &consumer, .until = bench_seconds() + 0.5};
    bench_consume(&client);
    return store;
}

/* The first store also brings in the libraries' code and is left out. Each is used on a large backlog, so caches are full. */
static void memory(void)
{
    enum { STORES = 8 };
    pgqrs_store *stores[STORES];
    pgqrs_store *first = bench_make("memory");
    bench_enqueue(first, "bench", bench_pick(50000, 20000), bench_payload);
    pgqrs_close(first);
    first = used_store();
    double before = resident_kb();
    for (int i = 0; i < STORES; i++)
        stores[i] = used_store();
    double each = (resident_kb() - before) / STORES;
    for (int i = 0; i < STORES; i++)
        pgqrs_close(stores[i]);
    pgqrs_close(first);
    bench_begin("memory", bench_backend());
    bench_number("resident_kb_per_store", each, 0);
    bench_end();
    bench_remove("memory");
}

int main(int argc, char **argv)
{
    static const bench_table tables[] = {
        {"allocations", BENCH_BOTH, allocations},
        {"traffic", BENCH_BOTH, traffic},
        {"memory", BENCH_BOTH, memory},
    };
    return bench_main(argc, argv, tables, sizeof tables / sizeof *tables);
}
