# The JSON lines of the benchmarks as tables for people: one for each benchmark, a row for each line, a column for each field.
#
#   awk -f bench/json.awk -f bench/table.awk results.jsonl
BEGIN {
    caption["enqueue"] = "Enqueue, in groups of 1 to 1000 messages, one connection: messages per second. The floor is a one-row INSERT per commit."
    caption["drain"] = "Drain of a backlog of 50,000 messages that were enqueued one by one. The floor has as many clients; on SQLite one."
    caption["operations"] = "One operation per commit, its time over that of the floor."
    caption["payload"] = "Payloads of three sizes, one message per commit; the floor stores the same payload."
    caption["steady"] = "One producer, two consumers that take up to ten: from the enqueue (when it was due) to the consumer's hands. Paced: at a quarter\nof the floor's rate; flat out: one enqueue after the other."
    caption["wakeup"] = "From the start of an enqueue, its commit included, to the hands of a consumer that slept."
    caption["idle"] = "A worker on an empty queue. The server's own idling is subtracted."
    caption["backlog"] = "Dequeue from a small and from a large backlog, taking turns."
    caption["queues"] = "Dequeue from one queue and from many with as many messages, taking turns."
    caption["pinned"] = "An old transaction stays open while 4,000 messages a second come and go."
    caption["pinned_window"] = "The same, window by window."
    caption["processes"] = "Processes that each enqueue, dequeue and archive, one message per commit: messages per second of all, longest call."
    caption["allocations"] = "Allocations in one call: of the library through its hook, and everything that reaches malloc."
    caption["allocations_per_message"] = "The same for one more message in a batch."
    caption["traffic"] = "From enqueue to archived, per message. written_bytes: what the process wrote into files, checkpoints included."
    caption["memory"] = "Resident memory of one more open store, after use."
    caption["handlers"] = "Handlers of single messages on a pool of threads (0: the caller's), one connection: messages per second."
    caption["producer"] = "Threads that enqueue single messages durably through one producer: messages per second."
    caption["runs"] = "Runs of a three-step workflow on a pool of threads (0: the caller's), triggered before: runs per second."
    caption["workflow"] = "Runs triggered and worked off one by one, one worker. commit_over_floor: time of a run / (steps + 2) over the floor."
    caption["resume"] = "Resuming a run: claim, load, walk through its finished steps, end."
    caption["s3_consumer"] = "S3, 60 ms round trip: one consumer that settles and claims in one commit: messages per second. The floor is one conditional PUT after\nthe other, as large as the object. cpu_ms: of the process, per commit."
    caption["s3_outstanding"] = "S3, 60 ms: 50 threads of one process, each with one operation at a time: operations per second."
    caption["s3_hosts"] = "S3, 60 ms: processes that each enqueue, take and archive, on one machine and on as many (cache directories of their own): operations\nper second of all; lowest_share: of the slowest process, over the fair share; puts_refused: by HTTP 412, of all PUTs."
    caption["s3_requests"] = "S3: requests for 1,000 messages, bytes uploaded per message. object_kb: the object at the end."
    caption["s3_state"] = "S3, 60 ms: single enqueues into an object that holds so many messages. cpu_ms: of the process, per enqueue."
    caption["s3_idle"] = "S3, 60 ms: workers on an empty queue, in one process: requests of all."
    caption["compile"] = "Compiling pgqrs_sqlite.h with its implementation."
    caption["size"] = "The quickstart, stripped, without libsqlite3."
}
{
    parse($0)
    bench = value["bench"]
    if (!(bench in rows)) order[++benches] = bench
    row = ++rows[bench]
    for (i = 2; i <= count; i++) {
        name = names[i]
        if (!((bench, name) in known)) {
            known[bench, name] = 1
            column[bench, ++columns[bench]] = name
            width[bench, name] = length(name)
        }
        cell[bench, row, name] = value[name]
        if (length(value[name]) > width[bench, name]) width[bench, name] = length(value[name])
    }
}
function print_row(bench, row,   i, name, text) {
    for (i = 1; i <= columns[bench]; i++) {
        name = column[bench, i]
        text = row == 0 ? name : (bench, row, name) in cell ? cell[bench, row, name] : "-"
        printf "%" (name ~ /^(backend|operation|load|producer|compiler|options|state)$/ ? "-" : "") width[bench, name] "s%s", text, i < columns[bench] ? "  " : "\n"
    }
}
END {
    for (b = 1; b <= benches; b++) {
        printf "\n%s\n\n", caption[order[b]]
        for (r = 0; r <= rows[order[b]]; r++) print_row(order[b], r)
    }
    print ""
}
