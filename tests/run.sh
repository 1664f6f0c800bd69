#!/usr/bin/env bash
# Runs test programs and sums up what they say.
#
#   tests/run.sh [-v] PROGRAM...
#
# A program is anything that prints TAP, as cmocka does when asked and as the scripts beside this one do. Each runs in a
# fresh directory; its output goes to build/logs, and is shown when it fails (always with -v). The last line is
#
#   123 passed, 0 failed, 0 skipped
#
# A program whose source has a line `test targets: sqlite-file postgres ...` (inside a comment) is run once per target,
# with PGQRS_TEST_TARGET and PGQRS_TEST_DSN set; conformance.c and fault_*.c without that line are run on all of them,
# everything else once; fault_*.c only once per target when its sanitized build is given, too. Whatever uses Postgres gets a database of
# its own.
#
#   PGQRS_TEST_TARGETS   run only these targets: "sqlite-file sqlite-memory postgres pgbouncer s3 s3-local
#                        s3-radosgw s3-local-radosgw"; s3 and s3-local are on the server with faults. The conformance suite asks
#                        no server in local mode, so it is run on the last one only when that is named here
#   PGQRS_TEST_PGBOUNCER_SHARE  behind pgBouncer only every so manyth case of the conformance suite, beside the whole without it
#   PGQRS_TEST_SANITIZED_SHARE  on Postgres, S3 and SQLite in memory only every so manyth case with sanitizers, beside the whole without
#   PGQRS_TEST_RADOSGW_SHARE   on radosgw only every so manyth case of the conformance suite, beside the whole on the server with faults
#   PGQRS_TEST_JOBS      programs at a time (2)
#   TMPDIR               where they work (/dev/shm when there is room, else /tmp)
#   PGQRS_TEST_TIMEOUT   seconds a program may take (900)
#   PGQRS_TEST_POSTGRES_DSN, PGQRS_TEST_PGBOUNCER_DSN, PGQRS_TEST_POSTGRES_ADMIN_DSN
#                        servers to use; without them private ones are started and stopped (tests/servers.sh)
#   PGQRS_TEST_S3_ENDPOINT, PGQRS_TEST_S3_ACCESS_KEY, PGQRS_TEST_S3_SECRET_KEY, PGQRS_TEST_S3_BUCKET
#                        likewise: an S3 store with a bucket
#   PGQRS_TEST_S3_SPLIT  split_bytes of the stores: 1 makes every object one in parts (default: as everywhere)
#   PGQRS_TEST_S3_SERVER the program of the S3 server with faults (build/test/s3_server)
#   PGQRS_TEST_TALLY     a file to append "passed failed skipped" to
#   CI=true              a skipped test counts as a failure
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
verbose=
if [ "${1:-}" = -v ]; then
    verbose=1
    shift
fi
[ $# -gt 0 ] || {
    echo "usage: $0 [-v] PROGRAM..." >&2
    exit 2
}

all_targets="sqlite-file sqlite-memory postgres pgbouncer s3 s3-local s3-radosgw s3-local-radosgw"
suite_targets=${all_targets% s3-local-radosgw}
case " ${PGQRS_TEST_TARGETS:-} " in
*" s3-local-radosgw "*) suite_targets=$all_targets ;;
esac
wanted_targets=${PGQRS_TEST_TARGETS:-$all_targets}
for target in $wanted_targets; do
    case " $all_targets " in
    *" $target "*) ;;
    *)
        echo "run.sh: unknown target '$target' in PGQRS_TEST_TARGETS; there are: $all_targets" >&2
        exit 2
        ;;
    esac
done
jobs_at_once=${PGQRS_TEST_JOBS:-2}
timeout_s=${PGQRS_TEST_TIMEOUT:-900}
logs=$root/build/logs
export PGQRS_TEST_S3_SERVER=${PGQRS_TEST_S3_SERVER:-$root/build/test/s3_server}
mkdir -p "$logs"

programs="$*"

source_of() {
    local name
    name=$(basename "$1")
    if [ -f "$here/$name.c" ]; then echo "$here/$name.c"; else echo "$1"; fi
}

targets_of() {
    local source declared
    source=$(source_of "$1")
    case $source in
    *.c) ;;
    *) return ;;
    esac
    declared=$(sed -n 's/^[^A-Za-z]*test targets: *\([a-z0-9 -]*[a-z0-9]\).*/\1/p' "$source" | head -n 1)
    if [ -n "$declared" ]; then
        echo "$declared"
        return
    fi
    case $1 in
    # Behind the pooler and on another S3 server there is the same code of ours: without sanitizers. What fails on purpose takes minutes, so it is run with them or
    # without, not both.
    */sanitize/conformance) echo "sqlite-file sqlite-memory postgres s3" ;;
    # On S3, where each call is an upload, they do a share of what they can (PGQRS_TEST_WHOLE=1: all of it).
    */sanitize/fault_connection) echo "sqlite-file sqlite-memory postgres" ;;
    */sanitize/fault_*) echo "sqlite-file sqlite-memory postgres s3" ;;
    */fault_connection) case " $programs " in
        *"/sanitize/$(basename "$1") "*) echo pgbouncer ;;
        *) echo "sqlite-file sqlite-memory postgres pgbouncer" ;;
        esac ;;
    */fault_*) case " $programs " in
        *"/sanitize/$(basename "$1") "*) echo "pgbouncer s3-local s3-local-radosgw" ;;
        *) echo "sqlite-file sqlite-memory postgres pgbouncer s3 s3-local s3-local-radosgw" ;;
        esac ;;
    # Likewise on S3, where the sanitizers cost little beside the server.
    */conformance) case " $programs " in
        *"/sanitize/conformance "*) echo "${suite_targets/ s3 / }" ;;
        *) echo "$suite_targets" ;;
        esac ;;
    esac
}

label_of() {
    local label
    label=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
    label=${label#"$root"/}
    label=${label#build/}
    label=${label#test/}
    label=${label#tests/}
    echo "${label%.sh}"
}

# Nothing here has to outlive the machine, and a slow disk doubles the time: everything goes to memory where there is enough of it.
# What is about disks (tests/proof.sh) uses one.
in_memory() {
    [ -d /dev/shm ] && [ -w /dev/shm ] && [ "$(df -Pk /dev/shm | awk 'NR == 2 { print $4 }')" -gt 3000000 ]
}
if [ -z "${TMPDIR:-}" ] && in_memory; then export TMPDIR=/dev/shm; fi
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgqrs-test.XXXXXX")
chmod 755 "$scratch" # tests of what another user may do get to their files through it
started_servers=
running_pids=

finish() {
    local status=$? pid
    trap - EXIT INT TERM HUP
    for pid in $running_pids; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in $running_pids; do
        wait "$pid" 2>/dev/null || true
    done
    if [ -n "$started_servers" ]; then
        if [ "$status" -ne 0 ]; then
            rm -rf "$logs/servers"
            cp -r "$started_servers/log" "$logs/servers" 2>/dev/null && echo "the servers' logs are in $logs/servers" >&2 || true
        fi
        "$here/servers.sh" stop "$started_servers" || true
    fi
    rm -rf "$scratch"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

run_names=()
run_programs=()
run_targets=()
for program in "$@"; do
    [ -x "$program" ] || {
        echo "run.sh: $program is not there or not executable" >&2
        exit 2
    }
    declared=$(targets_of "$program")
    name=$(label_of "$program")
    program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
    if [ -z "$declared" ]; then
        run_names+=("$name") run_programs+=("$program") run_targets+=("")
        continue
    fi
    for target in $declared; do
        case " $all_targets " in
        *" $target "*) ;;
        *)
            echo "run.sh: $(source_of "$program") declares an unknown target '$target'; there are: $all_targets" >&2
            exit 2
            ;;
        esac
        case " $wanted_targets " in
        *" $target "*) run_names+=("$name [$target]") run_programs+=("$program") run_targets+=("$target") ;;
        esac
    done
done

if [ "${#run_names[@]}" = 0 ]; then
    echo "run.sh: nothing to run on these targets: $wanted_targets" >&2
    exit 1
fi

# Programs without a target may use the servers as well, so they are there for everything but the plain scripts.
needs_postgres='' needs_s3=''
uses_postgres() {
    case ${run_targets[$1]}:${run_programs[$1]} in
    :*/test_s3_*) return 1 ;;
    postgres:* | pgbouncer:* | :*/test_* | :*/examples.sh | :*/peers.sh | :*/cli_*.sh) return 0 ;;
    esac
    return 1
}
uses_s3() {
    case ${run_targets[$1]}:${run_programs[$1]} in
    s3-radosgw:* | s3-local-radosgw:* | :*/test_s3_http) return 0 ;;
    esac
    return 1
}
for i in "${!run_programs[@]}"; do
    if uses_postgres "$i" && { [ -z "${PGQRS_TEST_POSTGRES_DSN:-}" ] || [ -z "${PGQRS_TEST_PGBOUNCER_DSN:-}" ]; }; then needs_postgres=postgres; fi
    if uses_s3 "$i" && [ -z "${PGQRS_TEST_S3_ENDPOINT:-}" ]; then needs_s3=s3; fi
done
if [ -n "$needs_postgres$needs_s3" ]; then
    started_servers=$(mktemp -d "${TMPDIR:-/tmp}/pgqrs-servers.XXXXXX")
    # shellcheck disable=SC2086
    "$here/servers.sh" start "$started_servers" $needs_postgres $needs_s3 >"$scratch/env.sh"
    # shellcheck disable=SC1091
    . "$scratch/env.sh"
fi

psql_bin=$(PATH="$PATH:$(pg_config --bindir 2>/dev/null || true)" command -v psql || true)

# A database of its own for each run lets programs run side by side without seeing each other's queues.
fresh_database() {
    local name=pgqrs_$$_$1
    if [ -n "$psql_bin" ] && [ -n "${PGQRS_TEST_POSTGRES_DSN:-}" ]; then
        "$psql_bin" -X -q -v ON_ERROR_STOP=1 -d "$PGQRS_TEST_POSTGRES_DSN" -c "DROP DATABASE IF EXISTS $name" \
            -c "CREATE DATABASE $name" >&2 || return 1
        echo "$name"
    else
        echo "run.sh: psql was not found, or there is no Postgres to use" >&2
        return 1
    fi
}

with_database() {
    local base=${1%%\?*} query=
    case $1 in
    *\?*) query="?${1#*\?}" ;;
    esac
    echo "${base%/*}/$2$query"
}

# Runs number $1 to its end. Leaves $scratch/$1.result: passed failed skipped seconds, then the reasons it failed for.
run_one() {
    local i=$1 program=${run_programs[$1]} target=${run_targets[$1]} dir=$scratch/$1 log=$2 status=0 begin end database timer=
    # A Ctrl-C reaches this shell directly, but not the program behind `timeout`.
    trap 'if [ -n "$timer" ]; then kill -TERM "$timer" 2>/dev/null; wait "$timer"; fi; exit 143' INT TERM HUP
    mkdir -p "$dir"
    begin=$(date +%s%N)
    {
        export PGQRS_TEST_TARGET=$target PGQRS_TEST_DSN=
        export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
        unset PGQRS_DSN
        case $target in
        sqlite-file) PGQRS_TEST_DSN=sqlite://$dir/test.db ;;
        sqlite-memory) PGQRS_TEST_DSN=sqlite::memory: ;;
        esac
        if uses_postgres "$i"; then
            database=$(fresh_database "$i") || status=1
            if [ "$status" = 0 ]; then
                [ -z "${PGQRS_TEST_POSTGRES_ADMIN_DSN:-}" ] ||
                    export PGQRS_TEST_POSTGRES_ADMIN_DSN=$(with_database "$PGQRS_TEST_POSTGRES_ADMIN_DSN" "$database")
                export PGQRS_TEST_POSTGRES_DSN=$(with_database "$PGQRS_TEST_POSTGRES_DSN" "$database")
                export PGQRS_TEST_PGBOUNCER_DSN=$(with_database "$PGQRS_TEST_PGBOUNCER_DSN" "$database")
            fi
        fi
        case $target in
        postgres) PGQRS_TEST_DSN=${PGQRS_TEST_POSTGRES_DSN:-} ;;
        pgbouncer) PGQRS_TEST_DSN=${PGQRS_TEST_PGBOUNCER_DSN:-} ;;
        esac
        case $target:$program in
        s3-radosgw:* | s3-local-radosgw:*) [ -z "${PGQRS_TEST_RADOSGW_SHARE:-}" ] || export PGQRS_TEST_SHARE=$PGQRS_TEST_RADOSGW_SHARE ;;
        postgres:*/sanitize/conformance | sqlite-memory:*/sanitize/conformance | s3:*/sanitize/conformance)
            [ -z "${PGQRS_TEST_SANITIZED_SHARE:-}" ] || export PGQRS_TEST_SHARE=$PGQRS_TEST_SANITIZED_SHARE
            ;;
        pgbouncer:*/conformance) [ -z "${PGQRS_TEST_PGBOUNCER_SHARE:-}" ] || export PGQRS_TEST_SHARE=$PGQRS_TEST_PGBOUNCER_SHARE ;;
        esac
        if [ "$status" = 0 ]; then
            # `timeout` leads a process group of its own and passes a signal on to all that the program forked.
            (cd "$dir" && CMOCKA_MESSAGE_OUTPUT=TAP exec timeout --kill-after=10 "$timeout_s" "$program") &
            timer=$!
            wait "$timer" || status=$?
        fi
    } >"$log" 2>&1 </dev/null
    end=$(date +%s%N)
    awk -v status="$status" -v seconds="$(awk "BEGIN { printf \"%.1f\", ($end - $begin) / 1e9 }")" -v limit="$timeout_s" -v ci="${CI:-}" '
        # Test programs print too, and a line of theirs without an end swallows the start of ours.
        match($0, /(not )?ok [0-9]+ (- |# SKIP|# skip)/) {
            line = substr($0, RSTART)
            if (line ~ /^(not )?ok [0-9]+ (- .*)?# ?(SKIP|skip)/) { skipped++; why[++n] = "skipped: " line }
            else if (line ~ /^ok /) passed++
            else { failed++; why[++n] = line }
            next
        }
        match($0, /1\.\.[0-9]+$/) { planned += substr($0, RSTART + 3); plans++ }
        END {
            reported = passed + failed + skipped
            if (status == 124 || status == 137) { why[++n] = "did not end within " limit " seconds, or was killed"; failed++ }
            else if (plans && reported != planned) { why[++n] = "reported " reported " tests, planned " planned " (exit status " status ")"; failed++ }
            else if (status != 0 && !failed && !(skipped && status == 77)) { why[++n] = "exit status " status; failed++ }
            else if (!reported) { why[++n] = "ran no tests"; failed++ }
            printf "%d %d %d %s\n", passed, failed, skipped, seconds
            for (i = 1; i <= n; i++) print why[i]
        }' "$log" >"$scratch/$i.result"
    rm -rf "$dir"
}

passed=0 failed=0 skipped=0
report() {
    local i=$1 log=$2 p f s seconds word=ok
    read -r p f s seconds <"$scratch/$i.result"
    if [ "$f" -gt 0 ]; then word=FAILED; elif [ "$s" -gt 0 ]; then word=SKIPPED; fi
    printf '%-8s %-44s %4d passed' "$word" "${run_names[$i]}" "$p"
    [ "$f" = 0 ] || printf ', %d failed' "$f"
    [ "$s" = 0 ] || printf ', %d SKIPPED' "$s"
    printf '  %6ss\n' "$seconds"
    if [ -n "$verbose" ] || [ "$f" -gt 0 ]; then
        echo "--- ${log#"$root"/}"
        # A log may be huge; the failures and the end of it are what is looked for.
        if [ "$(wc -l <"$log")" -le 400 ]; then cat "$log"; else grep -n '^not ok' "$log" | head -n 100; echo ...; tail -n 200 "$log"; fi
        echo "---"
    fi
    if [ "$f" -gt 0 ] || [ "$s" -gt 0 ]; then sed -n '2,$s/^/         /p' "$scratch/$i.result"; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

log_of() {
    echo "$logs/$(echo "${run_names[$1]}" | tr -c 'A-Za-z0-9_.\n-' '_').log"
}

next=0 total=${#run_names[@]}
declare -A run_of_pid=()
while [ "$next" -lt "$total" ] || [ -n "$running_pids" ]; do
    while [ "$next" -lt "$total" ] && [ "${#run_of_pid[@]}" -lt "$jobs_at_once" ]; do
        run_one "$next" "$(log_of "$next")" &
        run_of_pid[$!]=$next
        next=$((next + 1))
    done
    running_pids="${!run_of_pid[*]}"
    wait -n $running_pids || true
    for pid in $running_pids; do
        if ! kill -0 "$pid" 2>/dev/null; then
            i=${run_of_pid[$pid]}
            unset "run_of_pid[$pid]"
            [ -f "$scratch/$i.result" ] || printf '0 1 0 0\nthe runner itself broke off\n' >"$scratch/$i.result"
            report "$i" "$(log_of "$i")"
        fi
    done
    running_pids="${!run_of_pid[*]}"
done

if [ "$skipped" -gt 0 ]; then
    echo "WARNING: $skipped tests were SKIPPED; CI counts that as a failure"
fi
[ -z "${PGQRS_TEST_TALLY:-}" ] || echo "$passed $failed $skipped" >>"$PGQRS_TEST_TALLY"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] || exit 1
if [ "${CI:-}" = true ] && [ "$skipped" -gt 0 ]; then exit 1; fi
