#!/usr/bin/env bash
# The parts of bench/peers that can be tried in seconds: the driver of pgqrs.h on SQLite, as the runner calls it, and the report,
# made from results that are kept here.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/peers-test

cd "$root"
. "$here/tap.sh"
rm -rf "$out"
mkdir -p "$out"
export PEERS_URL=sqlite://$out/jobs

# drive WANTED COMMAND...: the driver says that it is ready, is told to go, and reports; WANTED is a jq expression that holds for it.
drive() {
    local wanted=$1
    shift
    echo go | "$out/pgqrs" "$@" >"$out/result" || return 1
    cat "$out/result"
    [ "$(head -n 1 "$out/result")" = ready ] && tail -n 1 "$out/result" | jq -e "$wanted" >/dev/null
}

compile() {
    # shellcheck disable=SC2046
    ${CC:-cc} -std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -O0 -I. -isystem "$(pg_config --includedir)" \
        bench/peers/pgqrs.c -o "$out/pgqrs" $(tests/libs.sh bench/peers/pgqrs.c)
}

logged() {
    drive '.done == 300' handle seconds=30 concurrency=4 until_empty=1 each=1 "log=$out/handled" &&
        [ "$(cut -d' ' -f1 "$out/handled" | sort -n | uniq | wc -l)" = 300 ] && [ "$(sort -n "$out/handled" | tail -n 1 | cut -d' ' -f1)" = 300 ]
}

tap_check "the driver compiles" "$out/log" compile
tap_check "setup tells the version" "$out/log" eval '"$out/pgqrs" setup | jq -e ".version | length > 0"'
tap_check "produce in groups" "$out/log" drive '.done > 0 and .done % 50 == 0 and .seconds >= 0.2' produce seconds=0.2 group=50
tap_check "produce at a rate" "$out/log" drive '.done >= 20 and .done <= 22' produce seconds=0.2 rate=100
tap_check "fetch until nothing is left" "$out/log" drive '.done > 70 and .cpu_s > 0 and .rss_kb > 0' fetch seconds=60 batch=50
tap_check "nothing is left" "$out/log" drive '.done == 0' fetch seconds=10 batch=1
tap_check "fill" "$out/log" "$out/pgqrs" fill count=300
tap_check "handlers write down what they handled" "$out/log" logged
tap_check "latencies" "$out/log" eval 'drive ".done > 0" produce seconds=0.1 &&
    drive ".p50_ms > 0 and .p99_ms >= .p50_ms" handle seconds=30 concurrency=2 until_empty=1'
tap_check "fill one by one" "$out/log" "$out/pgqrs" fill count=40 single=1
tap_check "what was filled is there" "$out/log" drive '.done == 40' fetch seconds=30 batch=1
tap_check "workflow" "$out/log" drive '.done == 20' workflow seconds=30 count=20 concurrency=2

bench/peers/report.sh "$here/peers.jsonl" "$out" >"$out/log" 2>&1 || tap_fail "the report is made" "$out/log"
says() { # LINE: with these characters in it
    grep -qF -- "$1" "$out/PEERS.md" || {
        echo "not in the report: $1"
        return 1
    }
}
# Of three turns the one in the middle; beside it what pgqrs.h does.
tap_check "medians and spread" "$out/log" says "| 1x50 | graphile-worker | 12,000 | 10,000–15,000 | 5× | 10,000 |"
tap_check "a lower ratio than wanted" "$out/log" says "| graphile-worker, handlers | ≥ 3× | 2× (4) | NOT MET |"
tap_check "a ratio as wanted" "$out/log" says "| pg-boss, drain, batch 50, the largest measured | ≥ 5× | 12× (1x50) | met |"
tap_check "where another one is ahead" "$out/log" says "- enqueue 1, postgres: river does 4,000/s, pgqrs.h 2,000/s"
tap_check "what is not measured" "$out/log" says "- litequeue: there is no python3"
tap_check "how often" "$out/log" says "Turns in each cell: chaos 1, drain 3, enqueue 1,"
tap_check "what failed" "$out/log" says "| 1x1 | river | failed |"
tap_check "chaos" "$out/log" says "| worker | graphile-worker | 1,996 | 0.57 | – | 0 | 4 | 0 | 1 |"
if command -v gnuplot >/dev/null 2>&1; then
    tap_check "plots" "$out/log" test -s "$out/peers-drain-postgres.svg" -a -s "$out/peers-drain-postgres.png"
fi
tap_end
