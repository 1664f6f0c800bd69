#!/usr/bin/env bash
# Measures pgqrs.h beside other queues: the same work on the same private server in the same run, the systems taking turns.
#
#   QUICK=1 bench/peers/run.sh         under ten minutes, with rough figures; without QUICK all of it, about 85 minutes
#
#   PEERS="river pgqrs.h"              only these systems      } what is measured so goes to build/peers/partial;
#   SCENARIOS="drain enqueue"          only these scenarios    } the whole goes to bench/results
#   CELLS="1x50 4x10"                  only these cells        }
#   BACKENDS=sqlite                    only this one           }
#   ROUNDS=3                           how often the systems take turns; in the whole, those that are far behind do once
#   RESUME=1                           go on with a run that was interrupted
#
# Every turn has a database of its own, copied for it and removed afterwards. The server is private, with fsync on.
#
# Every turn is written down when it is over, in build/peers/whole.jsonl (partial/part.jsonl), which bench/peers/report.sh can read at
# any time. RESUME=1 does what is not there yet and what failed; of a round of a cell that was interrupted all turns, because they
# are compared with each other (the long ones of pinned and million stay). It refuses to mix results: the sources, the versions of
# all systems, the machine, the server and the settings have to be those of the run that was interrupted.
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
#   fetch seconds=S batch=B [pool=1]               takes and acknowledges up to B at once until nothing is left; pool=1: with
#                                                  handlers instead, and as many more in hand as there are (pgqrs.h)
#   handle seconds=S concurrency=C [until_empty=1] [work_ms=M] [log=FILE] [each=1] [lease_ms=L]
#                                                  handlers of single messages; the log gets a line "n time" for each; each=1:
#                                                  acknowledged one by one; lease_ms: when a dead worker's messages come back, where
#                                                  that can be set; effects=1: the handler writes a row with n in the table
#                                                  peers_effects, in one transaction with the acknowledgement where the system can
#   workflow seconds=S count=N concurrency=C       works off N runs of three steps, which it triggered before
#
# The last four print "ready" when everything is connected, wait for a line, and print one JSON object when they are done: done,
# seconds, cpu_s and rss_kb, and, of messages with "at", p50_ms, p95_ms, p99_ms, the same with early_ and late_ for the first and
# the last third of the time. Then they wait for the end of their input, so that counters are read while they are connected.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=${PEERS_BUILD:-$root/build/peers}
own_driver=${PEERS_DRIVER:-$root/build/bench/peers/pgqrs}
quick=${QUICK:-}
[ "$quick" != 0 ] || quick=
postgres_peers="pgqrs.h pgqrs.h-single pgqrs.h-pool graphile-worker pg-boss river procrastinate pgqrs-rust pgqrs-python dbos"
sqlite_peers="pgqrs.h litequeue huey"
all_scenarios="drain enqueue handlers steady million idle wakeup workflow chaos pinned"
peers=${PEERS:-}
scenarios=${SCENARIOS:-$all_scenarios}
backends=${BACKENDS:-postgres sqlite}
rounds=${ROUNDS:-}
resume=${RESUME:-}
[ "$resume" != 0 ] || resume=
partial=
[ -z "${PEERS:-}${SCENARIOS:-}${CELLS:-}${BACKENDS:-}" ] || partial=1

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
unfinished=
finish() {
    [ -z "$unfinished" ] || say "interrupted: RESUME=1 goes on; bench/peers/report.sh $results DIRECTORY reports what is there"
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
export PEERS_URL=

driver() { # PEER ARGUMENTS...
    local peer=$1
    shift
    case $peer in
    pgqrs.h | pgqrs.h-single | pgqrs.h-pool) exec "$own_driver" "$@" ;;
    graphile-worker | pg-boss) exec "$build/npm/node_modules/.bin/node" "$here/$peer.mjs" "$@" ;;
    river) exec "$build/go/river" "$@" ;;
    pgqrs-rust) exec "$build/cargo/target/release/driver" "$@" ;;
    *) exec "$build/pip/bin/python" "$here/$peer-driver.py" "$@" ;;
    esac
}

reason_missing() {
    sed -n "s/^$1: //p" "$build/missing"
}

# How often this one takes its turn. Where a system is so far behind that the spread says nothing, once; where a figure depends on two
# that both are fast, these two more often.
rounds_of_peer() {
    case $peer-$scenario in
    *-workflow) echo "$rounds" ;;
    pgqrs.h-handlers | graphile-worker-handlers) if [ "$backend" = postgres ]; then pick $((rounds + 2)) "$rounds"; else echo "$rounds"; fi ;;
    procrastinate-* | dbos-* | pgqrs-python-* | litequeue-* | pgqrs-rust-steady | pgqrs-rust-idle | pgqrs-rust-wakeup)
        if [ -n "$partial" ]; then echo "$rounds"; else echo 1; fi
        ;;
    *) echo "$rounds" ;;
    esac
}

# Whether the system has what the scenario needs.
can() {
    [ "$cell" != slowest ] || [ "$peer" = pgqrs.h ] || return 1
    case $cell-$peer in
    *-tx-pgqrs-rust) return 1 ;; # no effects of its handlers in the database
    *-tx-pgqrs.h | *-tx-graphile-worker) ;;
    *-tx-*) [ -z "$quick" ] || [ -n "$partial" ] || return 1 ;;
    esac
    case $backend-$peer-$scenario in
    postgres-pgqrs.h-single-drain) [ "$cell" = 1x50 ] || { [ -z "$quick" ] && [[ $cell = 1x1 || $cell = 4x10 ]]; } ;;
    postgres-pgqrs.h-single-handlers) [ -z "$quick" ] ;;
    postgres-pgqrs.h-single-million) ;;
    postgres-pgqrs.h-single-*) return 1 ;; # only the backlog is another one
    postgres-pgqrs.h-pool-drain) [[ $cell = *x[15]0 ]] ;;
    postgres-pgqrs.h-pool-million) ;;
    postgres-pgqrs.h-pool-*) return 1 ;; # pgqrs.h has a pool where there are handlers
    sqlite-*-workflow) return 1 ;;
    postgres-pgqrs.h-workflow | postgres-dbos-workflow) ;;
    postgres-pgqrs-python-workflow) [ "$cell" = 1 ] ;;
    # The same store as the crate's, which is there instead.
    postgres-pgqrs-python-drain) [ -n "$without_crate" ] || { [ -z "$quick" ] && [[ $cell = 1x* ]]; } ;;
    postgres-pgqrs-python-enqueue | postgres-pgqrs-python-handlers) [ -n "$without_crate" ] || [ -z "$quick" ] ;;
    postgres-pgqrs-python-*) [ -n "$without_crate" ] ;;
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
    pgqrs.h | pgqrs.h-single | pgqrs.h-pool)
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

admin_sql() { # SQL...: each by itself, on one connection
    PGOPTIONS="-c client_min_messages=warning" psql -XAtq -v ON_ERROR_STOP=1 "$PGQRS_TEST_POSTGRES_ADMIN_DSN" "${@/#/-c}"
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

# Waits until no client is connected to a database any more.
left_alone() {
    local _
    for _ in $(seq 40); do
        [ "$(admin_sql "SELECT count(*) FROM pg_stat_activity WHERE datname = '$1' AND backend_type = 'client backend'")" != 0 ] || break
        sleep 0.05
    done
}

# Transactions of all kinds, and row versions that became dead: counted when the connections are gone.
statistics() {
    left_alone "$1"
    sql "$1" "SELECT json_build_object(
        'transactions', (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
        'dead_rows', (SELECT coalesce(sum(n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables))"
}

# --- what a turn begins with: made once for each system and size of the backlog, then copied

database=peers
declare -A templates=()
use_database() {
    PEERS_URL=${PGQRS_TEST_POSTGRES_DSN%/*}/$1
}

drop_database() {
    admin_sql "DROP DATABASE IF EXISTS $1 WITH (FORCE)"
}

# template_database COUNT: sets $template.
template=
template_database() {
    local empty=peers_${peer//[.-]/_}
    template=$empty
    [ "$1" = 0 ] || template=${empty}_$1
    [ -z "${templates[$template]:-}" ] || return 0
    use_database "$empty"
    if [ -z "${templates[$empty]:-}" ]; then
        admin_sql "CREATE DATABASE $empty OWNER pgqrs" || return 1
        set_up || { drop_database "$empty" && return 1; }
        templates[$empty]=1
    fi
    if [ "$1" != 0 ]; then
        left_alone "$empty"
        admin_sql "CREATE DATABASE $template OWNER pgqrs TEMPLATE $empty" || return 1
        use_database "$template"
        fill "$1" || { drop_database "$template" && return 1; }
    fi
    templates[$template]=1
}

# The checkpoint: what was left to write is not this turn's.
fresh_database() { # COUNT
    template_database "$1" && left_alone "$template" && admin_sql "DROP DATABASE IF EXISTS $database WITH (FORCE)" CHECKPOINT \
        "CREATE DATABASE $database OWNER pgqrs TEMPLATE $template" && use_database $database
}

# The same with files.
fresh_file() { # COUNT
    local directory=$scratch/sqlite-$peer-$1
    if [ ! -d "$directory" ]; then
        mkdir "$directory"
        PEERS_URL=sqlite://$directory/peers
        set_up && { [ "$1" = 0 ] || fill "$1"; } || { rm -rf "$directory" && return 1; }
    fi
    rm -rf "$scratch/sqlite" && cp -r "$directory" "$scratch/sqlite" && sync "$scratch/sqlite"/* && PEERS_URL=sqlite://$scratch/sqlite/peers
}

prepare() { # COUNT
    if [ "$backend" = postgres ]; then fresh_database "$1"; else fresh_file "$1"; fi
}

fill() { # COUNT [LEASE_MS]
    local single=0
    [ "$peer" != pgqrs.h-single ] || single=1
    (driver "$peer" fill count="$1" lease_ms="${2:-0}" single=$single) >/dev/null 2>"$scratch/err.fill" </dev/null || {
        say "  $peer fill: $(tail -n 3 "$scratch/err.fill")"
        return 1
    }
    # As it would be in a database that is older than some seconds: without statistics some of them get poor plans.
    [ "$backend" != postgres ] || psql -XAtq -v ON_ERROR_STOP=1 "${PGQRS_TEST_POSTGRES_ADMIN_DSN%/*}/${PEERS_URL##*/}" -c 'VACUUM ANALYZE'
}

set_up() {
    (driver "$peer" setup) >"$scratch/setup.$peer.$backend" 2>"$scratch/err.setup" </dev/null || {
        say "  $peer setup: $(tail -n 3 "$scratch/err.setup")"
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

hang_up() {
    eval "exec ${to[$1]}>&- ${from[$1]}<&-"
}

wait_for_end() {
    for _ in $(seq 60); do
        kill -0 "${running[$1]}" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "${running[$1]}" 2>/dev/null || true
    unset "running[$1]"
}

end() {
    hang_up "$1"
    wait_for_end "$1"
}

# Those that were started later have the others' inputs open, too.
end_all() {
    local index
    for index in "${!running[@]}"; do hang_up "$index"; done
    for index in "${!running[@]}"; do wait_for_end "$index"; done
}

# --- one turn

results=
turn_began=
# record JSON: adds what identifies the turn, and how long it took with its preparations.
record() {
    local took='{}'
    [ -z "$turn_began" ] || took=$(awk -v a="$turn_began" -v b="$EPOCHREALTIME" 'BEGIN { printf "{\"took_s\":%.3f}", b - a }')
    jq -c --arg scenario "$scenario" --arg cell "$cell" --arg backend "$backend" --arg peer "$peer" --argjson round "$round" \
        --argjson took "$took" '{scenario: $scenario, cell: $cell, backend: $backend, peer: $peer, round: $round} + . + $took' \
        <<<"$1" >>"$results"
}

# A session whose snapshot keeps every row version.
pin_snapshot() {
    PGAPPNAME=pinned psql -XAtq "${PGQRS_TEST_POSTGRES_DSN%/*}/$database" \
        -c 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current(); SELECT pg_sleep(86400)' >/dev/null 2>&1 &
}

unpin_snapshot() {
    admin_sql "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pinned'" >/dev/null
}

# One look at what an idle system and the server take, as idle.awk wants it: to the nanosecond, without starting a process for it.
idle_look() { # POSTMASTER
    local file id ns title counters pids hertz=$2
    echo "look $EPOCHREALTIME"
    for file in "/proc/${running[0]:-none}"/task/*; do
        if read -r ns _ 2>/dev/null <"$file/schedstat"; then echo "client ${file##*/} $ns"; fi
    done
    read -r -a pids <"/proc/$1/task/$1/children"
    for id in "$1" "${pids[@]}"; do
        if read -r ns _ <"/proc/$id/schedstat" && IFS= read -r -d '' title <"/proc/$id/cmdline"; then echo "server $id $ns $title"; fi
    done 2>/dev/null
    # The postmaster's name has no brackets.
    read -r -a counters <"/proc/$1/stat"
    printf 'ended %d.%03d\n' $(((counters[15] + counters[16]) / hertz)) $(((counters[15] + counters[16]) % hertz * 1000 / hertz))
}

# Connections that were ever made to the database; nothing on a server that does not count them.
connections_made() {
    admin_sql "SELECT coalesce((to_jsonb(s) ->> 'sessions')::bigint, 0) FROM pg_stat_database s WHERE datname = '$database'"
}

# idle_cost SECONDS: what is taken in that time; the looks are close together, so that a connection that comes and goes is seen.
idle_cost() {
    local postmaster hertz end=$((SECONDS + $1)) made
    postmaster=$(head -n 1 "$PGQRS_TEST_POSTGRES_DATA/postmaster.pid")
    hertz=$(getconf CLK_TCK)
    made=$(connections_made) || return 1
    while idle_look "$postmaster" "$hertz" && [ "$SECONDS" -lt "$end" ]; do sleep 0.25; done >"$scratch/looks"
    made=$(($(connections_made) - made)) || return 1
    awk -v database="$database" -f "$here/idle.awk" "$scratch/looks" | jq -c --argjson made "$made" '. + {connections: $made}'
}

# measure SECONDS COMMANDS...: drivers side by side, each argument the command line of one. What producers beside consumers did
# counts as their cost only.
measure() {
    local seconds=$1 index=0 command before=null after=null before_statistics=null after_statistics=null idle=null line
    local lines=$scratch/lines commands=("${@:2}")
    shift
    if [ "$backend" = postgres ]; then before_statistics=$(statistics $database) || return 1; fi
    for command in "$@"; do
        # shellcheck disable=SC2086
        start $index 120 "$peer" $command || return 1
        index=$((index + 1))
    done
    [ "$scenario" != pinned ] || pin_snapshot
    if [ "$backend" = postgres ]; then before=$(counters) || return 1; fi
    for index in "${!running[@]}"; do
        # The worker is there already when the first message comes: what its beginning costs is not the message's.
        [[ ${commands[index]} != produce* ]] || [ "$index" = 0 ] || sleep 1
        go "$index" || return 1
    done
    if [ "$scenario" = idle ]; then
        sleep 3 # what beginning costs does not belong to it
        # While its threads are there, and between the counters, which ask the server.
        before=$(counters) && idle=$(idle_cost $((seconds - 4))) && after=$(counters) || return 1
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
             background_cpu_us: (if $idle then $idle.background * 1e6 / $per else null end),
             connections: $idle.connections, connections_unseen: (if $idle then [$idle.connections - $idle.seen, 0] | max else null end),
             wal_bytes: (($after.wal - $before.wal) / $per), writes: (($after.xids - $before.xids) / $per),
             transactions: (($sa.transactions - $sb.transactions) / (if $idle then $seconds else $per end)),
             dead_rows: (($sa.dead_rows - $sb.dead_rows) / $per)}
          else {} end' "$lines"
}

# The same server with an empty database and nobody connected: what there is to subtract.
nobody_turn() { # SECONDS
    local before idle after
    admin_sql "DROP DATABASE IF EXISTS $database WITH (FORCE)" CHECKPOINT "CREATE DATABASE $database OWNER pgqrs" || return 1
    sleep 3
    before=$(counters) && idle=$(idle_cost "$1") && after=$(counters) || return 1
    record "$(jq -nc --argjson before "$before" --argjson after "$after" --argjson idle "$idle" '
        {done: 0, per_s: 0, seconds: $idle.seconds, client_cpu_us: 0, client_rss_kb: 0, server_cpu_us: ($idle.server * 1e6 / $idle.seconds),
         background_cpu_us: ($idle.background * 1e6 / $idle.seconds), connections: $idle.connections,
         wal_bytes: (($after.wal - $before.wal) / $idle.seconds), writes: (($after.xids - $before.xids) / $idle.seconds)}')"
}

# turn FILL SECONDS COMMANDS...
turn() {
    local count=$1 kept=$1
    shift
    [ "$count" -le "$large_backlog_size" ] || kept=0 # used once, so it is not worth a copy
    if prepare "$kept" && { [ "$count" = "$kept" ] || fill "$count"; } && measure "$@" >"$scratch/measured"; then
        record "$(cat "$scratch/measured")"
        say "  $scenario $cell, $backend, $peer: $(jq -r '"\(.per_s | round)/s"' "$scratch/measured")"
    else
        end_all
        record '{"error":"the driver failed"}'
        say "  $scenario $cell, $backend, $peer: failed"
    fi
}

# --- scenarios

# The time ends the turn of a system that does not get through its backlog. What gets through the usual one, or nearly, has a larger
# one, so that the turn is long enough to be measured; for the others that would only be more to copy, and some become slower by it.
# DBOS has no bulk enqueue: a minute for 50,000.
has_large_backlog() {
    case $peer-$scenario-$cell in
    pgqrs.h*-handlers-* | graphile-worker-handlers-*) ;;
    pgqrs.h*-drain-*x[15]0 | graphile-worker-drain-*x[15]0 | pg-boss-drain-*x50) ;;
    *) return 1 ;;
    esac
}

backlog() {
    if has_large_backlog; then
        echo "$large_backlog_size"
    elif [ "$peer" = dbos ]; then
        pick "$backlog_size" 2000
    else
        echo "$backlog_size"
    fi
}

seconds_each() {
    pick 3 2
}

# median_rate SCENARIO CELL: of this system on this backend in this run; nothing when it was not measured.
median_rate() {
    jq -s -r --arg scenario "$1" --arg cell "$2" --arg peer "$peer" --arg backend "$backend" '
        map(select(.scenario == $scenario and .cell == $cell and .peer == $peer and .backend == $backend and .per_s) | .per_s)
        | sort | if . == [] then empty else .[length / 2 | floor] end' "$results"
}

# What the system itself does when a producer that does not wait is beside its handlers; measured first where it is missing.
half_of_peak() {
    local peak
    peak=$(median_rate steady peak)
    if [ -z "$peak" ]; then scenario=steady cell=peak run_turn && peak=$(median_rate steady peak); fi
    awk -v peak="${peak:-0}" 'BEGIN { if (peak > 0) printf "%.3f", peak / 2 }'
}

# The least half of all systems that were measured, so that pgqrs.h can be compared with the slowest at its rate.
least_half() {
    local own
    own=$(half_of_peak)
    jq -s -r --arg backend "$backend" --arg own "$own" '
        map(select(.scenario == "steady" and .cell == "peak" and .backend == $backend and .per_s)) | group_by(.peer)
        | map(map(.per_s) | sort | .[length / 2 | floor] | . / 2) | min // empty
        | if $own == "" then empty else . * 1000 | round / 1000 end' "$results"
}

# steady SECONDS CELL: peak, half, slowest, or messages a second. The worker begins a second before the producer; it stays a second longer,
# except for the peak, for which only what it did meanwhile counts.
steady() {
    local rate=$2 longer=2
    case $2 in
    peak) rate=0 longer=1 ;;
    half) rate=$(half_of_peak) ;;
    slowest) rate=$(least_half) ;;
    esac
    [ -n "$rate" ] || {
        record '{"error":"its peak is not known"}'
        return 0
    }
    turn 0 $(($1 + longer)) "handle concurrency=4 seconds=$(($1 + longer))" "produce seconds=$1 rate=$rate"
}

# --- chaos

# What was handled so far, each number once, and how often anything was: in the log file, or in the table of the effects. Nothing
# while the server is away.
chaos_handled() {
    if [ -n "$effects" ]; then
        sql $database "SELECT count(DISTINCT n) || ' ' || count(*) FROM peers_effects" 2>/dev/null
    else
        awk '{ lines++; if (!seen[$1]++) numbers++ } END { print numbers + 0, lines + 0 }' "$1"
    fi
}

chaos_strike() { # WORKER
    case $cell in
    restart*) "$root/tests/proof.sh" server immediate >"$scratch/restart" 2>&1 ;;
    backends*)
        admin_sql "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = '$database' AND backend_type = 'client backend'" >/dev/null
        ;;
    worker*) kill -KILL "${running[$1]}" ;;
    esac
}

# How often it happens. Once says little of a moment that is short: what an effect and its acknowledgement have between them.
chaos_strikes() {
    case $cell in
    worker-tx) echo 5 ;;
    backends-tx) echo 10 ;;
    *) echo 1 ;;
    esac
}

# The rows of the effects as lines of a log.
chaos_log_of_effects() {
    sql $database "SELECT n || ' ' || extract(epoch FROM at)::numeric(16, 3) FROM peers_effects ORDER BY at"
}

# chaos_turn COUNT WAIT: a worker that ended is started again, as a supervisor would.
chaos_turn() {
    local count=$1 wait=$2 log=$scratch/handled worker=0 first='' struck='' limit restarts=-1 handled=0 lines=0 waiting lease_ms=0
    local effects='' strikes left arguments
    # Short where it is how soon a dead worker's messages come back; elsewhere the server may be away for longer than that.
    [[ $cell != worker* ]] || lease_ms=5000
    [[ $cell != *-tx ]] || effects=1
    strikes=$(chaos_strikes)
    left=$strikes
    : >"$log"
    prepare 0 && fill "$count" "$lease_ms" || return 1
    [ -z "$effects" ] || sql $database "CREATE TABLE peers_effects(n bigint, at timestamptz DEFAULT clock_timestamp())" || return 1
    arguments="lease_ms=$lease_ms log=$log"
    [ -z "$effects" ] || arguments="$arguments effects=1"
    limit=$((SECONDS + 30))
    while [ "$SECONDS" -lt "$limit" ]; do
        if [ -z "${running[$worker]:-}" ] || ! kill -0 "${running[$worker]}" 2>/dev/null; then
            [ -z "${running[$worker]:-}" ] || end "$worker"
            # The server may not be there yet.
            # shellcheck disable=SC2086
            if start "$worker" 20 "$peer" handle concurrency=4 work_ms=5 each=1 $arguments seconds=600 2>/dev/null; then
                go "$worker" && restarts=$((restarts + 1))
            else
                end "$worker"
            fi
        fi
        read -r handled lines <<<"$(chaos_handled "$log" || echo "$handled $lines")"
        [ "$handled" -lt "$count" ] || [ "$left" -gt 0 ] || break
        # At a quarter, then evenly up to three quarters.
        if [ "$left" -gt 0 ] && [ "$handled" -ge $((count / 4 + count * (strikes - left) / (2 * strikes))) ]; then
            struck=$(date +%s.%N)
            first=${first:-$struck}
            left=$((left - 1))
            chaos_strike "$worker" || return 1
            limit=$((SECONDS + wait))
        fi
        sleep 0.1
    done
    [ -n "$struck" ] || return 1
    sleep 0.5 # what is in somebody's hands
    read -r handled lines <<<"$(chaos_handled "$log")"
    waiting=$(sql $database "$(unfinished_sql "$peer")") || return 1
    [ -z "$effects" ] || chaos_log_of_effects >"$log" || return 1
    for worker in "${!running[@]}"; do kill -KILL "${running[$worker]}" 2>/dev/null || true; done
    end_all
    record "$(awk -v first="$first" -v struck="$struck" -v count="$count" -v handled="$handled" -v lines="$lines" -v waiting="$waiting" \
        -v restarts="$restarts" -v strikes=$((strikes - left)) '
        $2 > first { t[++n] = $2 }
        END {
            last = first
            for (i = 1; i <= n; i++) { if (t[i] - last > pause) pause = t[i] - last; if (t[i] > last) last = t[i] }
            missing = count - handled
            # Handled, and yet not acknowledged by now: these come again.
            again = waiting > missing ? waiting - missing : 0
            waiting -= again
            printf "{\"done\":%d,\"per_s\":0,\"pause_s\":%.3f,", handled, n ? pause : -1
            if (missing == 0) printf "\"complete_s\":%.3f,", (last > struck ? last - struck : 0)
            printf "\"lost\":%d,\"waiting\":%d,\"twice\":%d,\"restarts\":%d,\"strikes\":%d,\"again\":%d}",
                missing - waiting, waiting, lines - handled, restarts, strikes, again
        }' "$log")"
    say "  chaos $cell, $peer: $(tail -n 1 "$results" | jq -c '{done, pause_s, complete_s, lost, waiting, twice, restarts, strikes, again}')"
}

chaos() {
    local count
    case $peer in
    procrastinate | dbos | pgqrs-rust | pgqrs-python) count=$(pick 600 300) ;;
    *) count=$(pick 2000 800) ;;
    esac
    if ! chaos_turn "$count" "$(pick 15 6)"; then
        end_all
        record '{"error":"the driver failed"}'
        say "  chaos $cell, $peer: failed"
    fi
}

run_turn() {
    local s commands=() consumer pool=
    s=$(seconds_each)
    [ "$peer" != pgqrs.h-pool ] || pool=" pool=1"
    case $scenario in
    drain)
        # The cell: consumers x batch.
        for consumer in $(seq "${cell%x*}"); do commands+=("fetch batch=${cell#*x} seconds=$s$pool"); done
        turn "$(backlog)" "$s" "${commands[@]}"
        ;;
    enqueue) turn 0 5 "produce group=$cell seconds=$(pick 3 1)" ;;
    handlers) turn "$(backlog)" "$s" "handle concurrency=$cell until_empty=1 seconds=$s" ;;
    steady | pinned | wakeup)
        case $scenario-$cell in
        steady-peak) s=$(pick 3 2) ;;
        steady-*) s=$(pick 9 3) ;;
        pinned-*) s=$(pick 180 5) ;;
        wakeup-*) s=$(pick 9 2) ;;
        esac
        steady "$s" "$cell"
        ;;
    million) turn 1000000 "$s" "fetch batch=10 seconds=$s$pool" ;;
    idle)
        s=$(pick 18 8)
        if [ "$peer" = nobody ]; then nobody_turn $((s - 4)) || record '{"error":"it could not be measured"}'; else turn 0 "$s" "handle concurrency=4 seconds=$s"; fi
        ;;
    workflow) turn 0 "$s" "workflow concurrency=$cell count=$(pick 2000 600) seconds=$s" ;;
    chaos) chaos ;;
    esac
}

cells() {
    case $1 in
    drain) pick "1x1 2x1 4x1 1x10 2x10 4x10 1x50 2x50 4x50" "1x1 1x50 4x10" ;;
    enqueue) pick "1 50 1000" "1 1000" ;;
    handlers) echo "4 24" ;;
    workflow) echo "1 4" ;;
    steady) echo "peak half 200" ;;
    pinned) echo "half slowest" ;;
    wakeup) echo 20 ;;
    chaos) pick "restart backends worker restart-tx backends-tx worker-tx" "restart backends worker worker-tx" ;;
    million) pick 1x10 "" ;;
    *) echo - ;;
    esac
}

# These take minutes, and chaos counts instead of timing.
rounds_of() {
    case $scenario in
    pinned | million | chaos) echo 1 ;;
    handlers) pick $((rounds + 2)) "$rounds" ;;
    *) echo "$rounds" ;;
    esac
}

# Every turn of the run in its order: SCENARIO CELL ROUND BACKEND PEER SECONDS, the last an estimate.
plan() {
    local scenario cell round backend peer peer_list
    for scenario in $scenarios; do
        for cell in $(cells "$scenario"); do
            [ -z "${CELLS:-}" ] || case " $CELLS " in *" $cell "*) ;; *) continue ;; esac
            for round in $(seq "$(rounds_of)"); do
                for backend in postgres sqlite; do
                    peer_list=$(echo "$present" | tr ' ' '\n' | sed -n "s/^$backend://p")
                    [ "$scenario-$backend" != idle-postgres ] || [ -z "$peer_list" ] || peer_list="$peer_list
nobody"
                    # The next round begins with another one.
                    for peer in $(echo "$peer_list" | awk -v n="$round" 'NF { a[++c] = $0 } END { for (i = 0; i < c; i++) print a[(i + n - 1) % c + 1] }'); do
                        if can && [ "$round" -le "$(rounds_of_peer)" ]; then echo "$scenario $cell $round $backend $peer $(turn_seconds)"; fi
                    done
                done
            done
        done
    done
}

# How long a turn takes with everything around it, roughly.
turn_seconds() {
    case $scenario-$cell in
    drain-* | handlers-*) if has_large_backlog; then pick 6 4; else pick 4 3; fi ;;
    workflow-*) pick 4 3 ;;
    enqueue-*) pick 4 2 ;;
    steady-peak) pick 5 4 ;;
    pinned-*) pick 205 8 ;; # 183, and more where the producer does not keep up
    million-*) echo 40 ;;
    chaos-worker*) pick 13 9 ;;
    chaos-*) pick 6 4 ;;
    idle-*) pick 21 9 ;;
    *) pick 12 6 ;;
    esac
}

minutes() {
    echo $((($1 + 30) / 60))
}

# A server that is gone would let all turns that are left fail.
server_is_there() {
    local _
    [[ " $backends " = *" postgres "* ]] || return 0
    for _ in $(seq 60); do
        if admin_sql 'SELECT 1' >/dev/null 2>&1; then return 0; fi
        sleep 0.5
    done
    say "the server is gone"
    return 1
}

run_plan() {
    local all number planned planned_done=0 left estimate began=$SECONDS
    jq -r 'select(.scenario != "about") | "\(.scenario) \(.cell) \(.round) \(.backend) \(.peer)"' "$results" |
        awk 'FILENAME == "-" { there[$0] = 1; next } !($1 " " $2 " " $3 " " $4 " " $5 in there)' - "$scratch/plan" >"$scratch/todo"
    planned=$(awk '{ sum += $6 } END { print sum + 0 }' "$scratch/todo")
    left=$planned
    all=$(wc -l <"$scratch/plan")
    number=$((all - $(wc -l <"$scratch/todo")))
    say "$all turns, $number of them there already; about $(minutes "$planned") min"
    while read -r -u 9 scenario cell round backend peer estimate; do
        number=$((number + 1))
        say "[$number/$all, $(minutes $((SECONDS - began))) min, about $(minutes "$left") left] $scenario $cell, round $round, $backend, $peer"
        turn_began=$EPOCHREALTIME
        run_turn
        server_is_there || return 1
        planned_done=$((planned_done + estimate))
        # As fast as it went so far, once that says something.
        left=$((planned - planned_done))
        [ "$planned_done" -lt 120 ] || left=$((left * (SECONDS - began) / planned_done))
    done 9<"$scratch/todo"
}

# --- the whole

# shellcheck disable=SC2086
"$here/install.sh" "$build" $peers
without_crate=$(reason_missing pgqrs-rust)
present=
for backend in $backends; do
    list=$postgres_peers
    [ "$backend" = postgres ] || list=$sqlite_peers
    for peer in $list; do
        [ -z "$peers" ] || case " $peers " in *" $peer "*) ;; *) continue ;; esac
        [ -n "$(reason_missing "$peer")" ] || present="$present $backend:$peer"
    done
done
server=null
settings=null
if [[ " $backends " = *" postgres "* ]]; then
    started=$scratch/servers
    mkdir "$started"
    PGQRS_SERVERS_FSYNC=on "$root/tests/servers.sh" start "$started" postgres >"$scratch/env.sh"
    # shellcheck disable=SC1091
    . "$scratch/env.sh"
    server=$(admin_sql 'SHOW server_version' | jq -R .)
    settings=$(admin_sql "SELECT json_object_agg(name, setting) FROM pg_settings
        WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'autovacuum_naptime')")
fi
backlog_size=50000
large_backlog_size=$(pick 300000 100000)
begun=$SECONDS
plan >"$scratch/plan"

# What the figures belong to: the machine, the server, the sources, the versions as the systems themselves tell them.
results=$scratch/about.jsonl
scenario=about cell=- round=0
for backend_peer in $present; do
    backend=${backend_peer%%:*} peer=${backend_peer#*:}
    prepare 0 && record "$(jq -c . "$scratch/setup.$peer.$backend")" || record '{"error":"the driver failed"}'
done
while IFS= read -r line; do
    peer=${line%%:*} backend=-
    record "$(jq -nc --arg reason "${line#*: }" '{missing: $reason}')"
done <"$build/missing"
peer=- backend=-
checksum() {
    cksum | cut -d' ' -f1
}
record "$(jq -nc --arg quick "${quick:-0}" --argjson server "$server" --argjson settings "$settings" --arg cpus "$(getconf _NPROCESSORS_ONLN)" \
    --arg machine "$(uname -sr)" --arg date "$(date -u +%F)" --arg commit "$(git -C "$root" rev-parse --short HEAD 2>/dev/null || true)" \
    --arg sources "$(cat "$root"/pgqrs*.h "$root"/bench/*.h "$here"/*.{awk,c,py,mjs,go,rs} "$here/versions" "$here/run.sh" | checksum)" \
    --arg host "$({ uname -nm && cat /etc/machine-id 2>/dev/null; } | checksum)" \
    --arg storage "$(df --output=fstype "$scratch" 2>/dev/null | tail -n 1)" --argjson backlog "$backlog_size" \
    --argjson large_backlog "$large_backlog_size" --argjson rounds "$rounds" \
    --arg scope "$scenarios; ${peers:-all}; ${CELLS:-all}; $backends" --argjson turns "$(wc -l <"$scratch/plan")" \
    '{quick: ($quick != "0"), server: $server, cpus: $cpus, machine: $machine, date: $date, storage: $storage, settings: $settings,
      backlog: $backlog, large_backlog: $large_backlog, rounds: $rounds, commit: $commit, sources: $sources, host: $host, scope: $scope, turns: $turns}')"

# What was measured is kept as it comes.
out=$root/bench/results
results=$build/whole.jsonl
if [ -n "$partial" ]; then
    out=$build/partial
    results=$out/part.jsonl
fi
out=${PEERS_OUT:-$out}
mkdir -p "$out" "${results%/*}"
if [ -n "$resume" ] && [ -e "$results" ]; then
    jq -R -c 'split(" ") | {scenario: .[0], cell: .[1], round: (.[2] | tonumber), backend: .[3], peer: .[4]}' "$scratch/plan" >"$scratch/plan.jsonl"
    jq -n -R -c --slurpfile about "$scratch/about.jsonl" --slurpfile plan "$scratch/plan.jsonl" -f "$here/resume.jq" <"$results" >"$scratch/kept.jsonl" ||
        exit 1
    mv "$scratch/kept.jsonl" "$results"
else
    [ -z "$resume" ] || say "there is no run to go on with: this one begins"
    # An unfinished run is not thrown away by a new one.
    [ ! -e "$results" ] || { mv "$results" "$results.old" && say "the unfinished run is in $results.old"; }
    cp "$scratch/about.jsonl" "$results"
fi
unfinished=1
run_plan
unfinished=
mv "$results" "$out/peers.jsonl"
"$here/report.sh" "$out/peers.jsonl" "$out"
say "it took $((SECONDS - begun)) s"
