# The figures that are aimed at, each with what was measured.
#
#   awk -f bench/json.awk -f bench/targets.awk results.jsonl
#
# A ratio to the floor is the median over rounds in which both took turns; the connections of the floor are as many as the
# candidate has.
function put(key, field) {
    if (field in value) figure[key, field] = value[field]
}
{
    parse($0)
    key = value["bench"] " " value["backend"]
    if ("operation" in value) key = key " " value["operation"]
    if ("group" in value) key = key " " value["group"]
    if ("consumers" in value) key = key " " value["consumers"]
    if ("batch" in value) key = key " " value["batch"]
    if ("threads" in value) key = key " " value["threads"]
    if ("processes" in value) key = key " " value["processes"]
    if ("hosts" in value) key = key " " value["hosts"]
    if ("backlog" in value && value["bench"] ~ /^s3_/) key = key " " value["backlog"]
    if ("state" in value) key = key " " value["state"] " " value["messages"]
    if ("compiler" in value) key = key " " value["compiler"]
    if ("options" in value) key = key " " value["options"]
    for (i = 1; i <= count; i++) put(key, names[i])
}
# what: for people; key and field: where it stands; sense: ">=" or "<=".
function target(what, key, field, sense, wanted, unit,   measured, met, range) {
    total++
    if (!((key, field) in figure)) {
        printf "%-66s %12s %12s  not measured\n", what, sense " " wanted unit, "-"
        return
    }
    measured = figure[key, field]
    met = sense == ">=" ? measured + 0 >= wanted : measured + 0 <= wanted
    if (met) reached++
    if (field ~ /over_few/) what = what " (" figure[key, "many_messages"] ", " figure[key, "few_messages"] ")"
    if ((key, "lowest") in figure && field ~ /floor|over_few/) range = "  (" figure[key, "lowest"] " to " figure[key, "highest"] ")"
    printf "%-66s %12s %12s  %s%s\n", what, sense " " wanted unit, measured unit, met ? "met" : "NOT MET", range
}
END {
    printf "%-66s %12s %12s\n", "Figures to reach", "target", "measured"
    target("Postgres drain, 4 consumers, batch 1, of the floor", "drain postgres 4 1", "of_floor", ">=", 0.4, "")
    target("Postgres drain, 4 consumers, batch 50, of the floor", "drain postgres 4 50", "of_floor", ">=", 7, "")
    target("Postgres, one-message handlers on 4 threads, of the floor", "handlers postgres 4", "of_floor", ">=", 5, "")
    target("  ... of a floor with 4 connections", "handlers postgres 4", "of_4_connections", ">=", 5, "")
    target("Postgres, old transaction: dequeue p50, last over first", "pinned postgres", "last_over_first", "<=", 2, "")
    target("  ... over the same ratio of the floor (the machine itself)", "pinned postgres", "beyond_the_floor", "<=", 2, "")
    target("  ... backlog at the end (100 ms of messages)", "pinned postgres", "backlog", "<=", 400, "")
    target("Postgres dequeue, large over small backlog, batch 1", "backlog postgres 1", "many_over_few", "<=", 2, "")
    target("Postgres dequeue, large over small backlog, batch 10", "backlog postgres 10", "many_over_few", "<=", 2, "")
    target("Postgres enqueue, single, of the floor", "enqueue postgres 1", "of_floor", ">=", 0.75, "")
    target("Postgres enqueue, 1000 at once, of the floor", "enqueue postgres 1000", "of_floor", ">=", 30, "")
    target("Postgres enqueue, 4 threads through a producer, of the floor", "producer postgres 4", "of_floor", ">=", 3, "")
    target("Postgres log beyond the payload, batches of 50", "traffic postgres 50", "beyond_payload", "<=", 350, " B")
    target("SQLite enqueue, single, over the raw commit", "operations sqlite enqueue", "over_floor", "<=", 1.5, "")
    target("SQLite dequeue, single, over the raw commit", "operations sqlite dequeue", "over_floor", "<=", 1.5, "")
    target("SQLite archive, single, over the raw commit", "operations sqlite archive", "over_floor", "<=", 1.5, "")
    target("SQLite dequeue, large over small backlog, batch 1", "backlog sqlite 1", "many_over_few", "<=", 1.5, "")
    target("SQLite dequeue, large over small backlog, batch 10", "backlog sqlite 10", "many_over_few", "<=", 1.5, "")
    target("SQLite, 4 processes: longest wait (median of the rounds)", "processes sqlite 4", "median_worst_wait_ms", "<=", 50, " ms")
    target("SQLite, 4 processes: throughput over that of one", "processes sqlite 4", "of_one_process", ">=", 1, "")
    target("SQLite, one-message handlers on 4 threads, of raw commits", "handlers sqlite 4", "of_floor", ">=", 5, "")
    target("Postgres, 3-step runs on 4 threads, of the floor", "runs postgres 4", "of_floor", ">=", 0.333, "")
    target("SQLite, 3-step runs on 4 threads, of raw commits", "runs sqlite 4", "of_floor", ">=", 0.333, "")
    target("Postgres: allocations per message, enqueue", "allocations_per_message postgres enqueue", "library", "<=", 0, "")
    target("Postgres: allocations per message, archive and dequeue", "allocations_per_message postgres archive and dequeue", "library", "<=", 0, "")
    target("SQLite: allocations per message, enqueue", "allocations_per_message sqlite enqueue", "library", "<=", 0, "")
    target("SQLite: allocations per message, archive and dequeue", "allocations_per_message sqlite archive and dequeue", "library", "<=", 0, "")
    target("Postgres: resident memory of a store", "memory postgres", "resident_kb_per_store", "<=", 1024, " KB")
    target("SQLite: resident memory of a store", "memory sqlite", "resident_kb_per_store", "<=", 1024, " KB")
    target("S3 at 60 ms, one consumer, batch 1, messages per second", "s3_consumer s3 1 200", "per_s", ">=", 14, "")
    target("S3 at 60 ms, one consumer, batch 50, messages per second", "s3_consumer s3 50 1500", "per_s", ">=", 650, "")
    target("  ... with a backlog of 6,000 messages", "s3_consumer s3 50 6000", "per_s", ">=", 650, "")
    target("S3 at 60 ms, 50 threads and a producer, enqueues per second", "s3_outstanding s3 enqueue, by a producer 50", "per_s", ">=", 600, "")
    target("S3 at 60 ms, 50 threads of a pool, messages per second", "s3_outstanding s3 handle, on a pool 50", "per_s", ">=", 600, "")
    target("S3, 4 processes on one machine: lowest share of the fair one", "s3_hosts s3 4 1", "lowest_share", ">=", 0.5, "")
    target("  ... p99 of an operation", "s3_hosts s3 4 1", "p99_ms", "<=", 4000, " ms")
    target("S3, 4 machines: lowest share of the fair one", "s3_hosts s3 4 4", "lowest_share", ">=", 0.5, "")
    target("  ... p99 of an operation", "s3_hosts s3 4 4", "p99_ms", "<=", 4000, " ms")
    target("S3, uploaded per enqueue at 20,000 messages", "s3_state s3 ready 20000", "kb_up_per_enqueue", "<=", 16, " KB")
    target("pgqrs_sqlite.h at -O2: compile time (processor)", "compile sqlite gcc -O2", "cpu_s", "<=", 2, " s")
    target("quickstart at -O2, stripped", "size sqlite gcc -O2", "stripped_bytes", "<=", 300000, " B")
    printf "\n%d of %d reached\n", reached, total
}
