#!/usr/bin/env bash
# Runs the benchmarks against real servers and prints what they found as a table.
#
#   bench/run.sh PROGRAM_DIRECTORY
#
# JSON lines go to build/bench/results.jsonl. Private servers are started and stopped, unless PGQRS_TEST_POSTGRES_DSN names one.
#
#   PGQRS_BENCH_ROUNDS   how often floor and candidate take turns (7)
#   PGQRS_BENCH_RUNS     runs of a workflow in each turn (300)
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
    PGQRS_SERVERS_FSYNC=on "$root/tests/servers.sh" start "$started" >"$scratch/env.sh"
    # shellcheck disable=SC1091
    . "$scratch/env.sh"
fi
mkdir -p "$root/build/bench"
results=$root/build/bench/results.jsonl
: >"$results"
for dsn in "sqlite://$scratch/bench.db" "$PGQRS_TEST_POSTGRES_DSN"; do
    echo "workflows on ${dsn%%:*}:" >&2
    "$programs/workflow" "$dsn" "${PGQRS_BENCH_ROUNDS:-7}" "${PGQRS_BENCH_RUNS:-300}" >>"$results"
done
awk -f "$here/table.awk" "$results"
echo "JSON lines: ${results#"$root"/}"
