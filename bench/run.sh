#!/usr/bin/env bash
# Runs the benchmarks against real servers and prints what they found: tables, then the figures that are aimed at.
#
#   bench/run.sh PROGRAM_DIRECTORY
#
# JSON lines go to build/bench/results.jsonl, plots beside them. Private servers are started and stopped, unless
# PGQRS_TEST_POSTGRES_DSN names one; there everything happens in schemas pgqrs_bench_… and is removed afterwards.
#
#   PGQRS_BENCH_QUICK    1: five minutes, with rough figures; the whole takes thirty to thirty-five
#   PGQRS_BENCH_ONLY     names of tables, with commas: enqueue, drain, operations, payload, steady, wakeup, idle, backlog, queues,
#                        pinned, processes, allocations, traffic, memory, handlers, producer, runs, workflow, resume, compile, size,
#                        s3_consumer, s3_outstanding, s3_hosts, s3_requests, s3_state, s3_idle
#   PGQRS_BENCH_ROUNDS   how often floor and candidate take turns
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
programs=$1
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgqrs-bench.XXXXXX")
chmod 755 "$scratch"
started=
finish() {
    [ -z "$started" ] || "$root/tests/servers.sh" stop "$started" || true
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

if [ -z "${PGQRS_TEST_POSTGRES_DSN:-}" ]; then
    started=$scratch/servers
    mkdir "$started"
    PGQRS_SERVERS_FSYNC=on "$root/tests/servers.sh" start "$started" postgres >"$scratch/env.sh"
    # shellcheck disable=SC1091
    . "$scratch/env.sh"
fi
mkdir -p "$root/build/bench"
results=$root/build/bench/results.jsonl
: >"$results"
begun=$SECONDS
for program in queue threads workflow latency scale processes footprint; do
    for dsn in "sqlite://$scratch/bench" "$PGQRS_TEST_POSTGRES_DSN"; do
        "$programs/$program" "$dsn" >>"$results"
    done
done
TMPDIR=$scratch "$programs/s3" s3://pgqrs-bench >>"$results" # starts its own server, build/test/s3_server
"$here/size.sh" >>"$results"
awk -f "$here/json.awk" -f "$here/table.awk" "$results"
awk -f "$here/json.awk" -f "$here/targets.awk" "$results"
if command -v gnuplot >/dev/null 2>&1; then
    "$here/plots.sh" "$results" "$root/build/bench"
else
    echo "gnuplot is not there, so nothing is plotted" >&2
fi
echo "JSON lines: ${results#"$root"/}, plots: build/bench/*.svg, *.png; it took $((SECONDS - begun)) s"
