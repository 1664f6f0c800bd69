#!/usr/bin/env bash
# The parts of bench/peers that can be tried in seconds: the driver of pgqrs.h on SQLite, as the runner calls it, and on Postgres where
# its handlers write there; the runner with that driver alone, interrupted and gone on with; what an idle system takes, and the report,
# made from looks and results that are kept here.
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

# Every tenth effect fails at first, half of these only when it is committed, after its message was acknowledged: both come again, and
# each effect is there once. The rows tell by their xmin that effect and acknowledgement were one transaction.
postgres() {
    psql -XAtq -v ON_ERROR_STOP=1 "$PGQRS_TEST_POSTGRES_DSN" -c "$1"
}
effects_once() {
    export PEERS_URL=$PGQRS_TEST_POSTGRES_DSN
    "$out/pgqrs" setup && "$out/pgqrs" fill count=300 && postgres "CREATE TABLE peers_effects(n bigint, at timestamptz DEFAULT clock_timestamp());
        CREATE SEQUENCE failures;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
            IF nextval('failures') <= 15 THEN RAISE EXCEPTION 'not yet'; END IF; RETURN NEW; END \$\$;
        CREATE TRIGGER at_once BEFORE INSERT ON peers_effects FOR EACH ROW WHEN (NEW.n % 20 = 0) EXECUTE FUNCTION fail();
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON peers_effects DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN (NEW.n % 20 = 10) EXECUTE FUNCTION fail()" || return 1
    drive '.done == 300' handle seconds=60 concurrency=4 until_empty=1 each=1 effects=1 || return 1
    [ "$(postgres "SELECT count(*), count(DISTINCT n), (SELECT count(*) FROM pgqrs_bench_peers.pgqrs_message_view WHERE state = 'archived'),
        (SELECT last_value > 15 FROM failures) FROM peers_effects")" = "300|300|300|t" ] &&
        [ "$(postgres "SELECT count(*) FROM peers_effects e
            WHERE EXISTS (SELECT 1 FROM pgqrs_bench_peers.pgqrs_done d WHERE d.xmin = e.xmin)")" = 300 ]
}
if [ -n "${PGQRS_TEST_POSTGRES_DSN:-}" ]; then
    tap_check "effects and acknowledgements in one transaction" "$out/log" effects_once
    PEERS_URL=sqlite://$out/jobs
else
    tap_skip "effects and acknowledgements in one transaction: tests/run.sh has a server for it"
fi

bench/peers/report.sh "$here/peers.jsonl" "$out" >"$out/log" 2>&1 || tap_fail "the report is made" "$out/log"
says() { # LINE: with these characters in it
    grep -qF -- "$1" "$out/PEERS.md" || {
        echo "not in the report: $1"
        return 1
    }
}
aside_above() {
    jq -c 'if .scenario == "drain" and .cell == "1x10" and .peer == "pgqrs.h" then .per_s = 50000 else . end' "$here/peers.jsonl" >"$out/better.jsonl"
    jq -s -r --slurpfile systems bench/peers/systems.json -f bench/peers/report.jq "$out/better.jsonl" >"$out/better.md" &&
        grep -F "one fetch after the other |  | 5× (1x10) | not the same work" "$out/better.md"
}
# Of three turns the one in the middle; beside it what pgqrs.h does.
tap_check "medians and spread" "$out/log" says "| 1x50 | graphile-worker | 12,000 | 10,000–15,000 | 5× | 10,000 |"
tap_check "a lower ratio than wanted" "$out/log" says "| graphile-worker, handlers | ≥ 3× | 2× (4) | NOT MET |"
tap_check "handlers beside handlers" "$out/log" says "hand | ≥ 3× | 2.5× (1x50) | NOT MET |"
tap_check "not beside one fetch after the other" "$out/log" says "| graphile-worker, drain, batch 50, one fetch after the other | ≥ 3× | 5× (1x50) | met |"
tap_check "what is measured beside other work has no verdict" "$out/log" says "one fetch after the other |  | 2.5× (1x10) | below 3×; not the same work"
tap_check "nor when it is above" "$out/log" aside_above
tap_check "a million, handlers beside handlers" "$out/log" says "| graphile-worker, a million, batch 10, handlers beside handlers with as many in hand | ≥ 3× | 3.5× (1x10) | met |"
tap_check "the larger backlog" "$out/log" says "Backlogs of 10,000 messages of about 100 bytes; of 30,000 where"
tap_check "a ratio as wanted" "$out/log" says "| pg-boss, drain, batch 50, the largest measured | ≥ 5× | 12× (1x50) | met |"
tap_check "where another one is ahead" "$out/log" says "- enqueue 1, postgres: river does 4,000/s, pgqrs.h 2,000/s"
tap_check "what is not measured" "$out/log" says "- litequeue: there is no python3"
tap_check "how often" "$out/log" says "Turns in each cell: chaos 1, drain 1 to 3, enqueue 1,"
tap_check "what failed" "$out/log" says "| 1x1 | river | failed |"
tap_check "chaos" "$out/log" says "| worker | graphile-worker | 1,996 | 0.57 | – | 0 | 4 | 0 | 1 |"
tap_check "chaos with effects in the database is a table of its own" "$out/log" says "| worker-tx | pgqrs.h | yes | 2,000 | 1.04 | 5.04 | 0 | 0 | 0 | 0 | 5 |"
tap_check "and what comes again after hours is not forgotten" "$out/log" says "| worker-tx | graphile-worker | no | 1,985 | 0.42 | – | 0 | 15 | 0 | 2 | 5 |"
tap_check "how an effect is written" "$out/log" says "- graphile-worker: no: the worker completes a job after the handler"
tap_check "what chaos may do to ours" "$out/log" says "| chaos, effects in the same database: messages lost; effects twice | 0; 0 | 0; 0 | met |"
chaos_with() { # FIELD VALUE: of pgqrs.h, where the effects are in the database
    jq -c --arg field "$1" --argjson value "$2" \
        'if .cell == "worker-tx" and .peer == "pgqrs.h" then .[$field] = $value else . end' "$here/peers.jsonl" >"$out/worse.jsonl"
    mkdir -p "$out/worse" && jq -s -r --slurpfile systems bench/peers/systems.json -f bench/peers/report.jq "$out/worse.jsonl" >"$out/worse/PEERS.md" &&
        grep -F "| chaos, effects in the same database: messages lost; effects twice | 0; 0 | $3 | NOT MET |" "$out/worse/PEERS.md"
}
tap_check "a lost message is one too many" "$out/log" chaos_with lost 1 "1; 0"
tap_check "and so is an effect that comes twice" "$out/log" chaos_with twice 1 "0; 1"
tap_check "or will" "$out/log" chaos_with again 2 "0; 2"
tap_check "idle: what the system causes, and the rest beside it" "$out/log" says "| graphile-worker | 0.9 | 0.4 | 1.3 | 21 | 3 (1 not seen) | 16.3 |"
tap_check "and a server with nobody" "$out/log" says "| nobody | 0 | 0 | 0 | 19 | 0 | – |"
tap_check "who is idle for less" "$out/log" says "- idle, postgres: river takes 0.9 ms of processor a second, pgqrs.h 1"
tap_check "not by what is nobody's" "$out/log" eval '! says "idle, postgres: graphile-worker" && ! says "idle, postgres: nobody"'
tap_check "a latency at another rate" "$out/log" says "p99 of graphile-worker 2 ms at 150/s, of pgqrs.h 2.6 ms at 297/s; not the same rate: at 200/s without an old transaction 3 ms, of pgqrs.h 1.5 ms"
tap_check "a latency at the same rate beside an old transaction" "$out/log" says "- pinned half, postgres: p99 of river 3 ms at 150/s, of pgqrs.h 4 ms at 151/s"
tap_check "which is not called another rate" "$out/log" eval '! says "of pgqrs.h 4 ms at 151/s;"'
tap_check "nor compared with ours at a higher rate" "$out/log" eval '! says "- pinned half, postgres: p99 of graphile-worker"'
tap_check "not where it is ahead at the same rate" "$out/log" eval '! says "steady 200, postgres"'
tap_check "who has the higher peak" "$out/log" says "- steady peak, postgres: graphile-worker does 900/s, pgqrs.h 600/s"
if command -v gnuplot >/dev/null 2>&1; then
    tap_check "plots" "$out/log" test -s "$out/peers-drain-postgres.svg" -a -s "$out/peers-drain-postgres.png"
fi

# --- what an idle system takes

# Of a system with the database peers: a backend that stays, one that ends, one that comes and says only later which database it
# wants, and a parallel worker. Of others: the postmaster, an autovacuum worker there, another database, one that ends.
looks() {
    cat <<'END'
look 100.000
client 7 1000000000
server 10 2000000000 /usr/lib/postgresql/15/bin/postgres
server 11 5000000 postgres: pgqrs peers 127.0.0.1(4711) idle
server 12 7000000 postgres: pgqrs peers 127.0.0.1(4712) idle
server 13 1000000 postgres: pgqrs peers_river 127.0.0.1(4713) idle
server 14 50000000 postgres: autovacuum launcher
server 15 4000000 postgres: autovacuum worker peers
ended 3.500
look 100.250
client 7 1010000000
client 8 3000000
server 10 2000000000 /usr/lib/postgresql/15/bin/postgres
server 11 6000000 postgres: pgqrs peers 127.0.0.1(4711) idle
server 12 9000000 postgres: pgqrs peers 127.0.0.1(4712) COMMIT
server 13 1000000 postgres: pgqrs peers_river 127.0.0.1(4713) idle
server 14 51000000 postgres: autovacuum launcher
server 16 2000000 postgres: [unknown] [unknown] 127.0.0.1(4714) startup
server 17 500000 postgres: parallel worker for PID 11
ended 3.510
look 102.000
client 7 1020000000
server 10 2001000000 /usr/lib/postgresql/15/bin/postgres
server 11 8000000 postgres: pgqrs peers 127.0.0.1(4711) idle
server 13 1000000 postgres: pgqrs peers_river 127.0.0.1(4713) idle
server 14 52000000 postgres: autovacuum launcher
server 16 4000000 postgres: pgqrs peers 127.0.0.1(4714) idle
ended 3.530
END
}
# Client 20 + 3 ms, the thread that ended included. Server 3 + 2 + 4 + 0.5. All that the server took: the postmaster 1, 11 3, 14 2, 16 4
# and 30 that ended, without the 7 and 4 which two of those had before; without the system's 9.5.
tap_check "idle: by process and by whose it is" "$out/log" eval 'looks | awk -v database=peers -f bench/peers/idle.awk | tee "$out/idle" &&
    jq -e "[.seconds, .client, .server, .background, .seen] == [2, 0.023, 0.0095, 0.0195, 1]" "$out/idle"'
tap_check "idle: nobody is there" "$out/log" eval 'looks | grep -v -e client -e "peers 127" -e parallel | awk -v database=peers -f bench/peers/idle.awk |
    jq -e ".client == 0 and .server == 0 and .background > 0 and .seen == 0"'

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
    # In the middle of the next turn, while it waits for the driver: a trap in the middle of a $(...) is a syntax error to bash 5.2.
    sleep 0.6
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
