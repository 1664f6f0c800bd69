# The JSON lines of the benchmarks as tables for people.
function field(name,   at, rest) {
    at = index($0, "\"" name "\":")
    if (!at) return "-"
    rest = substr($0, at + length(name) + 3)
    sub(/[,}].*/, "", rest)
    gsub(/"/, "", rest)
    return rest == "null" ? "-" : rest
}
/"bench":"workflow"/ {
    if (!workflows++) {
        print "\nRuns of a workflow, triggered and worked off one by one (one process, one worker, batch 1). The floor is a one-row"
        print "insert per commit. `per commit` is the time of a run divided by its steps + 2, over that of the floor.\n"
        printf "%-9s %5s %9s %9s %9s %11s %8s %8s %8s %11s %12s %10s\n", "backend", "steps", "runs/s", "floor/s", "of floor",
            "per commit", "p50 ms", "p99 ms", "commits", "statements", "round trips", "WAL bytes"
    }
    printf "%-9s %5s %9s %9s %9s %11s %8s %8s %8s %11s %12s %10s\n", field("backend"), field("steps"), field("runs_per_s"),
        field("floor_per_s"), field("of_floor"), field("commit_over_floor"), field("p50_ms"), field("p99_ms"), field("commits"),
        field("statements"), field("round_trips"), field("wal_bytes")
}
/"bench":"resume"/ { resumed[++resumes] = sprintf("%-9s %7s %10s", field("backend"), field("steps"), field("median_ms")) }
END {
    if (resumes) printf "\nResuming a run: claim, load, walk through its finished steps, end\n\n%-9s %7s %10s\n", "backend", "steps", "median ms"
    for (i = 1; i <= resumes; i++) print resumed[i]
    print ""
}
