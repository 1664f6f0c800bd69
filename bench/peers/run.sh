#!/usr/bin/env bash
# Measures pgqrs.h beside other queues: the same work on the same private server in the same run, the systems taking turns.
#
#   QUICK=1 bench/peers/run.sh         under ten minutes, with rough figures; without QUICK all of it, some hours
#
#   PEERS="river pgqrs.h"              only these systems      } what is measured so goes to build/peers/partial;
#   SCENARIOS="drain enqueue"          only these scenarios    } the whole goes to bench/results
#   CELLS="1x50 4x10"                  only these cells        }
#   ROUNDS=3                           how often the systems take turns
#
# Every turn has a database of its own, made for it and removed afterwards. The server is private, with fsync on.
#
# A system is driven by a program, in its own language, that is called as
#
#   PEERS_URL=URL DRIVER COMMAND [KEY=VALUE...]
#
#   setup                                          makes tables and queue; prints {"version":"..."}
#   fill count=N [lease_ms=L]                      enqueues N messages, a thousand in each call where it can,
#                                                  {"n":1..N,"at":0,"pad":...}; not measured
#   produce seconds=S [group=G] [rate=R]           enqueues for S seconds, G in each call, at R calls a second or one after the
#                                                  other; "at" is when a message was due, in seconds since 1970
#   fetch seconds=S batch=B                        takes and acknowledges up to B at once until nothing is left
#   handle seconds=S concurrency=C [until_empty=1] [work_ms=M] [log=FILE] [each=1] [lease_ms=L]
#                                                  handlers of single messages; the log gets a line "n time" for each; each=1:
#                                                  acknowledged one by one; lease_ms: when a dead worker's messages come back, where
#                                                  that can be set
#   workflow seconds=S count=N concurrency=C       works off N runs of three steps, which it triggered before
#
# The last four print "ready" when everything is connected, wait for a line, and print one JSON object when they are done: done,
# seconds, cpu_s and rss_kb, and, of messages with "at", p50_ms, p95_ms, p99_ms, the same with early_ and late_ for the first and
# the last third of the time. Then they wait for the end of their input, so that counters are read while they are connected.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/build/peers
quick=${QUICK:-}
[ "$quick" != 0 ] || quick=
postgres_peers="pgqrs.h pgqrs.h-single graphile-worker pg-boss river procrastinate pgqrs-rust pgqrs-python dbos"
sqlite_peers="pgqrs.h litequeue huey"
all_scenarios="drain enqueue handlers steady pinned million idle wakeup workflow chaos"
peers=${PEERS:-}
scenarios=${SCENARIOS:-$all_scenarios}
rounds=${ROUNDS:-}
partial=
[ -z "${PEERS:-}${SCENARIOS:-}${CELLS:-}" ] || partial=1

say() {
    echo "$*" >&2
}

# pick FULL QUICK
pick() {
    if [ -n "$quick" ]; then echo "$2"; else echo "$1"; fi
}

[ -n "$rounds" ] || rounds=$(pick 3 1)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgqrs-peers.XXXXXX")
chmod 755 "$scratch"
started=
running=() # process ids of drivers
finish() {
    [ ${#running[@]} = 0 ] || kill -KILL "${running[@]}" 2>/dev/null || true
    [ -z "$started" ] || "$root/tests/servers.sh" stop "$started" || true
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
trap : PIPE # a driver that dies is a failed turn

# --- systems

export PEERS_NODE=$build/npm
export NODE_NO_WARNINGS=1
export PYTHONWARNINGS=ignore

driver() { # PEER ARGUMENTS...
    local peer=$1
    shift
    case $peer in
    pgqrs.h | pgqrs.h-single) exec "$root/build/bench/peers/pgqrs" "$@" ;;
    graphile-worker | pg-boss) exec "$build/npm/node_modules/.bin/node" "$here/$peer.mjs" "$@" ;;
    river) exec "$build/go/river" "$@" ;;
    pgqrs-rust) exec "$build/cargo/target/release/driver" "$@" ;;
    *) exec "$build/pip/bin/python" "$here/$peer-driver.py" "$@" ;;
    esac
}

reason_missing() {
    sed -n "s/^$1: //p" "$build/missing"
}

# Whether the system has what the scenario needs.
can() {
    case $backend-$peer-$scenario in
    postgres-pgqrs.h-single-drain | postgres-pgqrs.h-single-handlers) [ -z "$quick" ] || [ "$cell" != 4x10 ] && [ "$cell" != 24 ] ;;
    postgres-pgqrs.h-single-million) ;;
    postgres-pgqrs.h-single-*) return 1 ;; # only the backlog is another one
    sqlite-*-workflow) return 1 ;;
    postgres-pgqrs.h-workflow | postgres-dbos-workflow) ;;
    postgres-pgqrs-python-workflow) [ "$cell" = 1 ] ;;
    postgres-pgqrs-python-*) [ -z "$quick" ] || [ -n "$(reason_missing pgqrs-rust)" ] ;; # the crate is there instead
    *-workflow) return 1 ;;
    postgres-dbos-enqueue) [ "$cell" = 1 ] ;; # no bulk enqueue
    sqlite-huey-enqueue) [ "$cell" = 1 ] ;;
    sqlite-*-drain) [ "${cell#*x}" = 1 ] ;; # no batches
    sqlite-litequeue-handlers) return 1 ;; # no workers
    postgres-dbos-million) return 1 ;;     # filling takes an hour
    sqlite-*-handlers) [ -z "$quick" ] || [ "$cell" = 4 ] ;;
    sqlite-*-enqueue) ;;
    sqlite-*) return 1 ;;
    esac
}

# How many messages are not acknowledged, asked of the tables.
unfinished_sql() {
    case $1 in
    pgqrs.h | pgqrs.h-single)
        echo "SELECT count(*) FROM pgqrs_bench_peers.pgqrs_message_view WHERE state IN ('ready', 'delayed', 'leased')"
        ;;
    graphile-worker) echo "SELECT count(*) FROM graphile_worker._private_jobs" ;;
    pg-boss) echo "SELECT count(*) FROM pgboss.job WHERE name = 'bench' AND state < 'completed'" ;;
    river) echo "SELECT count(*) FROM river_job WHERE finalized_at IS NULL" ;;
    procrastinate) echo "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')" ;;
    pgqrs-rust | pgqrs-python) echo "SELECT count(*) FROM pgqrs_messages WHERE archived_at IS NULL" ;;
    dbos) echo "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED')" ;;
    esac
}

# --- the server

sql() { # DATABASE SQL
    psql -XAtq -v ON_ERROR_STOP=1 "${PGQRS_TEST_POSTGRES_DSN%/*}/$1" -c "$2"
}

admin_sql() {
    PGOPTIONS="-c client_min_messages=warning" psql -XAtq -v ON_ERROR_STOP=1 "$PGQRS_TEST_POSTGRES_ADMIN_DSN" -c "$1"
}

# Processor seconds of the postmaster, of its children, and of those that ended.
server_cpu() {
    local postmaster children child
    postmaster=$(head -n 1 "$PGQRS_TEST_POSTGRES_DATA/postmaster.pid")
    children=$(cat "/proc/$postmaster/task/$postmaster/children")
    # A child may end between the two looks.
    for child in $children; do cat "/proc/$child/stat" 2>/dev/null || true; done | cat "/proc/$postmaster/stat" - |
        awk -v own="$postmaster" -v hertz="$(getconf CLK_TCK)" '
            { pid = $1; sub(/^.*\) /, ""); sum += $12 + $13; if (pid == own) sum += $14 + $15 } END { print sum / hertz }'
}

# Bytes of log and transactions that wrote, in the whole cluster; nothing else runs there.
counters() {
    admin_sql "SELECT json_build_object('wal', pg_current_wal_insert_lsn() - '0/0', 'cpu', $(server_cpu),
        'xids', pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"
}

# Transactions of all kinds, and row versions that became dead: counted when the connections are gone.
statistics() {
    local _
    for _ in $(seq 40); do
        [ "$(admin_sql "SELECT count(*) FROM pg_stat_activity WHERE datname = '$1' AND backend_type = 'client backend'")" != 0 ] || break
        sleep 0.05
    done
    sql "$1" "SELECT json_build_object(
        'transactions', (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
        'dead_rows', (SELECT coalesce(sum(n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables))"
}

# Made once for each system, then copied: the tables of some take seconds.
database=peers
fresh_database() {
    local template=peers_${peer//[.-]/_}
    PEERS_URL=${PGQRS_TEST_POSTGRES_DSN%/*}/$template
    if [ -z "$(admin_sql "SELECT 1 FROM pg_database WHERE datname = '$template'")" ]; then
        admin_sql "CREATE DATABASE $template OWNER pgqrs" && set_up || return 1
    fi
    for _ in $(seq 40); do
        [ "$(admin_sql "SELECT count(*) FROM pg_stat_activity WHERE datname = '$template'")" != 0 ] || break
        sleep 0.05
    done
    # The checkpoint: what the last turn left to write is not this one's.
    admin_sql "DROP DATABASE IF EXISTS $database WITH (FORCE)" &&
        admin_sql "CREATE DATABASE $database OWNER pgqrs TEMPLATE $template" && admin_sql CHECKPOINT || return 1
    PEERS_URL=${PGQRS_TEST_POSTGRES_DSN%/*}/$database
}

set_up() {
    (driver "$peer" setup) >"$scratch/setup.$peer.$backend" 2>"$scratch/err.setup" </dev/null || {
        say "  $peer setup: $(tail -n 3 "$scratch/err.setup")"
        [ "$backend" != postgres ] || admin_sql "DROP DATABASE IF EXISTS ${PEERS_URL##*/} WITH (FORCE)"
        return 1
    }
}

# --- drivers that run

# start INDEX SECONDS PEER ARGUMENTS...: returns when it is ready.
start() {
    local index=$1 seconds=$2 line
    shift 2
    rm -f "$scratch/in.$index" "$scratch/out.$index"
    mkfifo "$scratch/in.$index" "$scratch/out.$index"
    driver "$@" <"$scratch/in.$index" >"$scratch/out.$index" 2>"$scratch/err.$index" &
    running[$index]=$!
    disown # nothing is said when it is killed
    exec {to[$index]}>"$scratch/in.$index" {from[$index]}<"$scratch/out.$index"
    if ! read -r -t "$seconds" -u "${from[$index]}" line || [ "$line" != ready ]; then
        say "  $*: $(tail -n 3 "$scratch/err.$index")"
        return 1
    fi
}

go() {
    echo go 2>/dev/null >&"${to[$1]}"
}

# result INDEX SECONDS: prints the JSON object.
result() {
    local line
    if ! read -r -t "$2" -u "${from[$1]}" line; then
        say "  no result: $(tail -n 3 "$scratch/err.$1")"
        return 1
    fi
    printf '%s\n' "$line"
}

end() {
    eval "exec ${to[$1]}>&- ${from[$1]}<&-"
    for _ in $(seq 60); do
        kill -0 "${running[$1]}" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "${running[$1]}" 2>/dev/null || true
    unset "running[$1]"
}

end_all() {
    local index
    for index in "${!running[@]}"; do end "$index"; done
}

# --- one turn

results=
# record JSON: adds what identifies the turn.
record() {
    jq -c --arg scenario "$scenario" --arg cell "$cell" --arg backend "$backend" --arg peer "$peer" --argjson round "$round" \
        '{scenario: $scenario, cell: $cell, backend: $backend, peer: $peer, round: $round} + .' <<<"$1" >>"$results"
}

# A session whose snapshot keeps every row version.
pin_snapshot() {
    PGAPPNAME=pinned psql -XAtq "${PGQRS_TEST_POSTGRES_DSN%/*}/$database" \
        -c 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current(); SELECT pg_sleep(86400)' >/dev/null 2>&1 &
}

unpin_snapshot() {
    admin_sql "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pinned'" >/dev/null
}

# Seconds that all threads of some processes were on a processor, to the nanosecond.
precise_cpu() {
    local pid
    for pid in "$@"; do cat "/proc/$pid"/task/*/schedstat 2>/dev/null || true; done | awk '{ ns += $1 } END { print ns / 1e9 }'
}

# What an idle worker and the server take, too little for the counters of the others.
idle_cpu() {
    local postmaster
    postmaster=$(head -n 1 "$PGQRS_TEST_POSTGRES_DATA/postmaster.pid")
    # shellcheck disable=SC2046
    jq -nc --argjson client "$(precise_cpu "${running[0]}")" \
        --argjson server "$(precise_cpu $(cat "/proc/$postmaster/task/$postmaster/children"))" '{$client, $server}'
}

# measure SECONDS COMMANDS...: drivers side by side, each argument the command line of one. What producers beside consumers did
# counts as their cost only.
measure() {
    local seconds=$1 index=0 command before=null after=null before_statistics=null after_statistics=null idle=null line
    local lines=$scratch/lines
    shift
    if [ "$backend" = postgres ]; then before_statistics=$(statistics $database) || return 1; fi
    for command in "$@"; do
        # shellcheck disable=SC2086
        start $index 120 "$peer" $command || return 1
        index=$((index + 1))
    done
    [ "$scenario" != pinned ] || pin_snapshot
    if [ "$backend" = postgres ]; then before=$(counters) || return 1; fi
    for index in "${!running[@]}"; do go "$index" || return 1; done
    if [ "$scenario" = idle ]; then
        sleep 2 # what beginning costs does not belong to it
        before=$(counters) && idle=$(idle_cpu) && sleep $((seconds - 3)) || return 1
        # While its threads are there, and before the counters, which ask the server.
        idle=$(jq -c --argjson now "$(idle_cpu)" --argjson seconds $((seconds - 3)) \
            '{client: ($now.client - .client), server: ($now.server - .server), $seconds}' <<<"$idle") && after=$(counters) || return 1
    fi
    : >"$lines"
    index=0
    for command in "$@"; do
        line=$(result "$index" $((seconds + 60))) || return 1
        jq -c --arg command "${command%% *}" '{command: $command} + .' <<<"$line" >>"$lines"
        index=$((index + 1))
    done
    if [ "$backend" = postgres ] && [ "$idle" = null ]; then after=$(counters) || return 1; fi
    [ "$scenario" != pinned ] || unpin_snapshot
    end_all
    if [ "$backend" = postgres ]; then after_statistics=$(statistics $database) || return 1; fi
    jq -sc --argjson before "$before" --argjson after "$after" --argjson sb "$before_statistics" --argjson sa "$after_statistics" \
        --argjson idle "$idle" '
        map(select(.command == "produce")) as $producers | map(select(.command != "produce")) as $others
        | (if $others == [] then $producers else $others end) as $workers
        | ($workers | map(.done) | add) as $done
        | (if $others != [] and $producers != [] then $producers else $workers end | map(.seconds) | max) as $seconds
        | (if $idle then $idle.seconds else [$done, 1] | max end) as $per
        | (if $idle then $idle.client else map(.cpu_s) | add end) as $cpu
        | ($workers | map(del(.done, .seconds, .cpu_s, .rss_kb, .command)) | add)
        + {done: $done, seconds: $seconds, per_s: (if $seconds > 0 then $done / $seconds else 0 end),
           client_cpu_us: ($cpu * 1e6 / $per), client_rss_kb: (map(.rss_kb) | add)}
        + if $others != [] and $producers != [] then {left: (($producers | map(.done) | add) - $done)} else {} end
        + if $after then
            {server_cpu_us: (if $idle then $idle.server else $after.cpu - $before.cpu end * 1e6 / $per),
             wal_bytes: (($after.wal - $before.wal) / $per), writes: (($after.xids - $before.xids) / $per),
             transactions: (($sa.transactions - $sb.transactions) / (if $idle then $seconds else $per end)),
             dead_rows: (($sa.dead_rows - $sb.dead_rows) / $per)}
          else {} end' "$lines"
}

export PEERS_URL=
prepare() {
    if [ "$backend" = postgres ]; then
        fresh_database
    else
        rm -rf "$scratch/sqlite" && mkdir "$scratch/sqlite"
        PEERS_URL=sqlite://$scratch/sqlite/peers
        set_up
    fi
}

fill() { # COUNT [LEASE_MS]
    local single=0
    [ "$peer" != pgqrs.h-single ] || single=1
    (driver "$peer" fill count="$1" lease_ms="${2:-0}" single=$single) >/dev/null 2>"$scratch/err.fill" </dev/null || {
        say "  $peer fill: $(tail -n 3 "$scratch/err.fill")"
        return 1
    }
    # As it would be in a database that is older than some seconds: without statistics some of them get poor plans.
    [ "$backend" != postgres ] || psql -XAtq -v ON_ERROR_STOP=1 "${PGQRS_TEST_POSTGRES_ADMIN_DSN%/*}/$database" -c ANALYZE
}

# turn FILL SECONDS COMMANDS...
turn() {
    local count=$1
    shift
    if prepare && { [ "$count" = 0 ] || fill "$count"; } && measure "$@" >"$scratch/measured"; then
        record "$(cat "$scratch/measured")"
        say "  $scenario $cell, $backend, $peer: $(jq -r '"\(.per_s | round)/s"' "$scratch/measured")"
    else
        end_all
        record '{"error":"the driver failed"}'
        say "  $scenario $cell, $backend, $peer: failed"
    fi
}

# --- scenarios

# What can be filled and handled in reasonable time: the time ends the turn of a slow system in any case.
backlog() {
    case $peer in
    pgqrs.h | graphile-worker) echo "$backlog_size" ;;
    dbos) pick 10000 1000 ;;
    procrastinate) pick "$backlog_size" 3000 ;;
    litequeue | huey) pick "$backlog_size" 10000 ;;
    *) pick "$backlog_size" 20000 ;;
    esac
}

seconds_each() {
    pick 20 2
}

# median_rate SCENARIO CELL: of this system on this backend in this run; nothing when it was not measured.
median_rate() {
    jq -s -r --arg scenario "$1" --arg cell "$2" --arg peer "$peer" --arg backend "$backend" '
        map(select(.scenario == $scenario and .cell == $cell and .peer == $peer and .backend == $backend and .per_s) | .per_s)
        | sort | if . == [] then empty else .[length / 2 | floor] end' "$results"
}

# Messages a second: half of what enqueueing and handling leave each other. What that takes is measured first where it is missing.
half_of_peak() {
    local enqueue handlers
    enqueue=$(median_rate enqueue 1)
    handlers=$(median_rate handlers 4)
    if [ -z "$enqueue" ]; then scenario=enqueue cell=1 run_turn && enqueue=$(median_rate enqueue 1); fi
    if [ -z "$handlers" ]; then scenario=handlers cell=4 run_turn && handlers=$(median_rate handlers 4); fi
    awk -v e="${enqueue:-0}" -v h="${handlers:-0}" 'BEGIN { if (e > 0 && h > 0) printf "%.3f", 0.5 / (1 / e + 1 / h) }'
}

# steady SECONDS RATE: a consumer that stays a second longer than the producer.
steady() {
    [ -n "$2" ] || {
        record '{"error":"its peak is not known"}'
        return 0
    }
    turn 0 $(($1 + 1)) "handle concurrency=4 seconds=$(($1 + 1))" "produce seconds=$1 rate=$2"
}

# --- chaos

# What was handled so far, each number once, and how often anything was.
chaos_handled() {
    awk '{ lines++; if (!seen[$1]++) numbers++ } END { print numbers + 0, lines + 0 }' "$1"
}

chaos_strike() {
    case $cell in
    restart) "$root/tests/proof.sh" server immediate >"$scratch/restart" 2>&1 ;;
    backends)
        admin_sql "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = '$database' AND backend_type = 'client backend'" >/dev/null
        ;;
    worker) kill -KILL "${running[0]}" ;;
    esac
}

# chaos_turn COUNT WAIT: a worker that ended is started again, as a supervisor would.
chaos_turn() {
    local count=$1 wait=$2 log=$scratch/handled worker=0 struck='' limit restarts=-1 handled=0 lines=0 waiting lease_ms=0
    # Short where it is how soon a dead worker's messages come back; elsewhere the server may be away for longer than that.
    [ "$cell" != worker ] || lease_ms=5000
    : >"$log"
    prepare && fill "$count" "$lease_ms" || return 1
    limit=$((SECONDS + 30))
    while [ "$SECONDS" -lt "$limit" ]; do
        if [ -z "${running[$worker]:-}" ] || ! kill -0 "${running[$worker]}" 2>/dev/null; then
            [ -z "${running[$worker]:-}" ] || end "$worker"
            # The server may not be there yet.
            if start "$worker" 20 "$peer" handle concurrency=4 work_ms=5 each=1 "lease_ms=$lease_ms" "log=$log" seconds=600 2>/dev/null; then
                go "$worker" && restarts=$((restarts + 1))
            else
                end "$worker"
            fi
        fi
        read -r handled lines <<<"$(chaos_handled "$log")"
        [ "$handled" -lt "$count" ] || break
        if [ -z "$struck" ] && [ "$handled" -ge $((count / 4)) ]; then
            struck=$(date +%s.%N)
            chaos_strike || return 1
            limit=$((SECONDS + wait))
        fi
        sleep 0.1
    done
    [ -n "$struck" ] || return 1
    sleep 0.5 # what is in somebody's hands
    read -r handled lines <<<"$(chaos_handled "$log")"
    waiting=$(sql $database "$(unfinished_sql "$peer")") || return 1
    for worker in "${!running[@]}"; do kill -KILL "${running[$worker]}" 2>/dev/null || true; done
    end_all
    record "$(awk -v struck="$struck" -v count="$count" -v handled="$handled" -v lines="$lines" -v waiting="$waiting" -v restarts="$restarts" '
        $2 > struck { t[++n] = $2 }
        END {
            last = struck
            for (i = 1; i <= n; i++) { if (t[i] - last > pause) pause = t[i] - last; if (t[i] > last) last = t[i] }
            missing = count - handled
            if (waiting > missing) waiting = missing
            printf "{\"done\":%d,\"per_s\":0,\"pause_s\":%.3f,", handled, n ? pause : -1
            if (missing == 0) printf "\"complete_s\":%.3f,", last - struck
            printf "\"lost\":%d,\"waiting\":%d,\"twice\":%d,\"restarts\":%d}", missing - waiting, waiting, lines - handled, restarts
        }' "$log")"
    say "  chaos $cell, $peer: $(tail -n 1 "$results" | jq -c '{done, pause_s, complete_s, lost, waiting, twice, restarts}')"
}

chaos() {
    local count
    case $peer in
    procrastinate | dbos | pgqrs-rust | pgqrs-python) count=$(pick 1000 300) ;;
    *) count=$(pick 4000 800) ;;
    esac
    if ! chaos_turn "$count" "$(pick 90 6)"; then
        end_all
        record '{"error":"the driver failed"}'
        say "  chaos $cell, $peer: failed"
    fi
}

run_turn() {
    local s commands=() consumer
    s=$(seconds_each)
    case $scenario in
    drain)
        # The cell: consumers x batch.
        for consumer in $(seq "${cell%x*}"); do commands+=("fetch batch=${cell#*x} seconds=$s"); done
        turn "$(backlog)" "$s" "${commands[@]}"
        ;;
    enqueue) turn 0 5 "produce group=$cell seconds=$(pick 5 1)" ;;
    handlers) turn "$(backlog)" "$s" "handle concurrency=$cell until_empty=1 seconds=$s" ;;
    steady | pinned | wakeup)
        # The cell: messages a second.
        case $scenario in
        steady) s=$(pick 30 3) ;;
        pinned) s=$(pick 180 5) ;;
        wakeup) s=$(pick 30 2) ;;
        esac
        if [ "$cell" = half ]; then steady "$s" "$(half_of_peak)"; else steady "$s" "$cell"; fi
        ;;
    million) turn 1000000 "$s" "fetch batch=10 seconds=$s" ;;
    idle) turn 0 "$(pick 33 5)" "handle concurrency=4 seconds=$(pick 33 5)" ;;
    workflow) turn 0 "$s" "workflow concurrency=$cell count=$(pick 4000 600) seconds=$s" ;;
    chaos) chaos ;;
    esac
}

cells() {
    case $1 in
    drain) pick "1x1 2x1 4x1 1x10 2x10 4x10 1x50 2x50 4x50" "1x1 1x50 4x10" ;;
    enqueue) echo "1 50 1000" ;;
    handlers) echo "4 24" ;;
    workflow) echo "1 4" ;;
    steady) pick "half 200" half ;;
    pinned) echo half ;;
    wakeup) echo 20 ;;
    chaos) echo "restart backends worker" ;;
    million) pick 1x10 "" ;;
    *) echo - ;;
    esac
}

# These take minutes.
rounds_of() {
    case $scenario in
    pinned | million) echo 1 ;;
    *) echo "$rounds" ;;
    esac
}

run_scenario() {
    local peer_list
    for cell in $(cells "$scenario"); do
        [ -z "${CELLS:-}" ] || case " $CELLS " in *" $cell "*) ;; *) continue ;; esac
        for round in $(seq "$(rounds_of)"); do
            for backend in postgres sqlite; do
                peer_list=$(echo "$present" | tr ' ' '\n' | sed -n "s/^$backend://p")
                # The next round begins with another one.
                for peer in $(echo "$peer_list" | awk -v n="$round" 'NF { a[++c] = $0 } END { for (i = 0; i < c; i++) print a[(i + n - 1) % c + 1] }'); do
                    if can; then run_turn; fi
                done
            done
        done
    done
}

# --- the whole

"$here/install.sh" "$build"
present=
for backend in postgres sqlite; do
    list=$postgres_peers
    [ $backend = postgres ] || list=$sqlite_peers
    for peer in $list; do
        [ -z "$peers" ] || case " $peers " in *" $peer "*) ;; *) continue ;; esac
        [ -n "$(reason_missing "$peer")" ] || present="$present $backend:$peer"
    done
done
results=$scratch/results.jsonl
: >"$results"
started=$scratch/servers
mkdir "$started"
PGQRS_SERVERS_FSYNC=on "$root/tests/servers.sh" start "$started" postgres >"$scratch/env.sh"
# shellcheck disable=SC1091
. "$scratch/env.sh"
backlog_size=50000
begun=$SECONDS

# What the figures belong to: the machine, the server, the versions as the systems themselves tell them.
scenario=about cell=- round=0
for backend_peer in $present; do
    backend=${backend_peer%%:*} peer=${backend_peer#*:}
    prepare && record "$(jq -c . "$scratch/setup.$peer.$backend")" || record '{"error":"the driver failed"}'
done
while IFS= read -r line; do
    peer=${line%%:*} backend=-
    record "$(jq -nc --arg reason "${line#*: }" '{missing: $reason}')"
done <"$build/missing"
peer=- backend=-
record "$(jq -nc --arg quick "${quick:-0}" --arg server "$(admin_sql 'SHOW server_version')" --arg cpus "$(getconf _NPROCESSORS_ONLN)" \
    --arg machine "$(uname -sr)" --arg date "$(date -u +%F)" --argjson settings "$(admin_sql "SELECT json_object_agg(name, setting) FROM pg_settings
    WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'autovacuum_naptime')")" \
    --arg storage "$(df --output=fstype "$scratch" 2>/dev/null | tail -n 1)" --argjson backlog "$backlog_size" --argjson rounds "$rounds" \
    '{quick: ($quick != "0"), server: $server, cpus: $cpus, machine: $machine, date: $date, storage: $storage, settings: $settings, backlog: $backlog, rounds: $rounds}')"

for scenario in $scenarios; do run_scenario; done

out=$root/bench/results
[ -z "$partial" ] || out=$build/partial
mkdir -p "$out"
cp "$results" "$out/peers.jsonl"
"$here/report.sh" "$out/peers.jsonl" "$out"
say "it took $((SECONDS - begun)) s"
