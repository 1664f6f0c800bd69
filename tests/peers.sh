#!/usr/bin/env bash
# The parts of bench/peers that can be tried in seconds: the driver of pgqrs.h on SQLite, as the runner calls it; the runner with that
# driver alone, interrupted and gone on with; and the report, made from results that are kept here.
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
tap_check "fill for handlers" "$out/log" "$out/pgqrs" fill count=70
tap_check "fetch with handlers" "$out/log" drive '.done == 70 and .seconds > 0' fetch pool=1 seconds=30 batch=10
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
tap_check "handlers beside handlers" "$out/log" says "hand | ≥ 3× | 2.5× (1x50) | NOT MET |"
tap_check "not beside one fetch after the other" "$out/log" says "| graphile-worker, drain, batch 50, one fetch after the other | ≥ 3× | 5× (1x50) | met |"
tap_check "the larger backlog" "$out/log" says "Backlogs of 10,000 messages of about 100 bytes; of 30,000 where"
tap_check "a ratio as wanted" "$out/log" says "| pg-boss, drain, batch 50, the largest measured | ≥ 5× | 12× (1x50) | met |"
tap_check "where another one is ahead" "$out/log" says "- enqueue 1, postgres: river does 4,000/s, pgqrs.h 2,000/s"
tap_check "what is not measured" "$out/log" says "- litequeue: there is no python3"
tap_check "how often" "$out/log" says "Turns in each cell: chaos 1, drain 1 to 3, enqueue 1,"
tap_check "what failed" "$out/log" says "| 1x1 | river | failed |"
tap_check "chaos" "$out/log" says "| worker | graphile-worker | 1,996 | 0.57 | – | 0 | 4 | 0 | 1 |"
tap_check "a latency at another rate" "$out/log" says "p99 of graphile-worker 2 ms at 150/s, of pgqrs.h 2.6 ms at 297/s; not the same rate: at 200/s without an old transaction 3 ms, of pgqrs.h 1.5 ms"
tap_check "a latency at the same rate beside an old transaction" "$out/log" says "- pinned half, postgres: p99 of river 3 ms at 150/s, of pgqrs.h 4 ms at 151/s"
tap_check "which is not called another rate" "$out/log" eval '! says "of pgqrs.h 4 ms at 151/s;"'
tap_check "nor compared with ours at a higher rate" "$out/log" eval '! says "- pinned half, postgres: p99 of graphile-worker"'
tap_check "not where it is ahead at the same rate" "$out/log" eval '! says "steady 200, postgres"'
tap_check "who has the higher peak" "$out/log" says "- steady peak, postgres: graphile-worker does 900/s, pgqrs.h 600/s"
if command -v gnuplot >/dev/null 2>&1; then
    tap_check "plots" "$out/log" test -s "$out/peers-drain-postgres.svg" -a -s "$out/peers-drain-postgres.png"
fi

# --- what an interrupted run keeps

turn_line() { # SCENARIO CELL ROUND PEER [MORE]
    printf '{"scenario":"%s","cell":"%s","round":%s,"backend":"postgres","peer":"%s"%s}\n' "$@"
}
about_lines() { # VERSION
    echo "{\"scenario\":\"about\",\"peer\":\"river\",\"version\":\"$1\"}"
    echo '{"scenario":"about","peer":"-","host":"1","date":"'"$1"'"}'
}
keep() { # VERSION
    about_lines "$1" >"$out/about.jsonl"
    jq -n -R -c --slurpfile about "$out/about.jsonl" --slurpfile plan "$out/plan.jsonl" -f bench/peers/resume.jq <"$out/old.jsonl"
}
turns_kept() { # WANTED: cell, round and peer of each
    keep 1 >"$out/kept.jsonl" || return 1
    jq -s -r 'map(select(.scenario != "about") | "\(.cell)-\(.round)-\(.peer)") | join(" ")' "$out/kept.jsonl" | tee "$out/turns"
    [ "$(cat "$out/turns")" = "$1" ] && [ "$(grep -c about "$out/kept.jsonl")" = 2 ]
}
for round in 1 2; do
    for system in pgqrs.h river; do turn_line drain 1x1 $round $system ''; done
done >"$out/plan.jsonl"
for system in pgqrs.h river; do turn_line pinned half 1 $system ''; done >>"$out/plan.jsonl"
{
    about_lines 1
    head -n 3 "$out/plan.jsonl"
} >"$out/old.jsonl"
tap_check "a round that was interrupted is done again" "$out/log" turns_kept "1x1-1-pgqrs.h 1x1-1-river"
turn_line drain 1x1 2 river ',"error":"the driver failed"' >>"$out/old.jsonl"
tap_check "a round in which a turn failed, too" "$out/log" turns_kept "1x1-1-pgqrs.h 1x1-1-river"
turn_line drain 1x1 2 river '' >>"$out/old.jsonl"
{
    turn_line pinned half 1 pgqrs.h ''
    printf '{"scenario":"pin'
} >>"$out/old.jsonl"
tap_check "long turns stay, half a line does not" "$out/log" turns_kept \
    "1x1-1-pgqrs.h 1x1-1-river 1x1-2-pgqrs.h 1x1-2-river half-1-pgqrs.h"
tap_check "no other version" "$out/log" eval '! keep 2 2>"$out/refused" && grep -F "(version of river)" "$out/refused"'

# One scenario of three turns, on SQLite, without a server.
kept=$out/build/partial/part.jsonl
runner() {
    env QUICK=1 BACKENDS=sqlite PEERS=pgqrs.h SCENARIOS=enqueue CELLS=1 ROUNDS=3 RESUME="$1" PEERS_BUILD="$out/build" PEERS_OUT="$out/run" \
        PEERS_DRIVER="$out/pgqrs" bench/peers/run.sh
}
turns_of() {
    grep -c '"scenario":"enqueue"' "$1" || true
}
interrupted() {
    local runner status=0 _
    (runner '') &
    runner=$!
    for _ in $(seq 300); do
        [ ! -e "$kept" ] || [ "$(turns_of "$kept")" = 0 ] || break
        sleep 0.1
    done
    # The shell between has it as its only child.
    kill -TERM "$(cat "/proc/$runner/task/$runner/children")" || return 1
    wait "$runner" || status=$?
    [ "$status" = 130 ] && [ "$(turns_of "$kept")" -gt 0 ] && [ "$(turns_of "$kept")" -lt 3 ]
}
refused() {
    cp "$kept" "$out/kept.jsonl"
    sed -i 's/"sources":"/&0/' "$kept"
    ! runner 1 2>"$out/refused" && grep -F "(sources)" "$out/refused" && mv "$out/kept.jsonl" "$kept"
}
gone_on() {
    local before
    before=$(grep enqueue "$kept" | head -n 1)
    runner 1 2>"$out/progress" || return 1
    cat "$out/progress"
    # What was there was not measured again.
    [ ! -e "$kept" ] && grep -F "3 turns, " "$out/progress" && ! grep -F "[1/3" "$out/progress" && grep -F "[3/3, 0 min" "$out/progress" &&
        [ "$(turns_of "$out/run/peers.jsonl")" = 3 ] && grep -qxF "$before" "$out/run/peers.jsonl" && ! grep -F "Not complete" "$out/run/PEERS.md"
}
tap_check "a run is interrupted" "$out/log" interrupted
bench/peers/report.sh "$kept" "$out" >"$out/log" 2>&1 || tap_fail "a report of an unfinished run" "$out/log"
tap_check "a report of an unfinished run" "$out/log" says "of 3 turns.**"
tap_check "other sources are not mixed in" "$out/log" refused
tap_check "a run is gone on with" "$out/log" gone_on
tap_end
