# Sourced by the tests of the command-line tool, which run it as a person does: through a shell, in an empty directory.
#
#   on_each_store FUNCTION          calls it on SQLite, and on Postgres when PGQRS_TEST_POSTGRES_DSN is set
#   gives NAME STATUS COMMAND...    the exit status is STATUS; what it printed is in $out and $err afterwards
#   is NAME EXPECTED ACTUAL         the two are equal
#   has NAME TEXT ACTUAL            TEXT is somewhere in it
#   json NAME FILTER COMMAND...     with --format json it prints JSON of which jq's FILTER is true
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
. "$here/tap.sh"
PATH=$root/build:$PATH
unset PGQRS_DSN PGQRS_CONFIG_FILE PGQRS_SCHEMA
export LC_ALL=C.UTF-8
# In memory where that can be had: what the tool says does not depend on the disk, and half of the time would be waiting for it. Programs are
# started from it too, which some systems forbid there.
scratch=$(mktemp -d -p /dev/shm 2>/dev/null) && printf '#!/bin/sh\n' >"$scratch/try" && chmod +x "$scratch/try" && "$scratch/try" 2>/dev/null || {
    rm -rf "$scratch"
    scratch=$(mktemp -d) || exit 1
}
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
store=
details=$scratch/details

gives() {
    local name=$1 wanted=$2 status=0
    shift 2
    "$@" >"$scratch/out" 2>"$scratch/err" </dev/null || status=$?
    out=$(<"$scratch/out") err=$(<"$scratch/err")
    if [ "$status" = "$wanted" ]; then
        tap_ok "$store$name"
    else
        printf 'exit status %s, not %s: %s\n%s\n%s\n' "$status" "$wanted" "$*" "$out" "$err" >"$details"
        tap_fail "$store$name" "$details"
    fi
}

is() {
    if [ "$2" = "$3" ]; then
        tap_ok "$store$1"
    else
        printf 'expected: %s\nis:       %s\n' "$2" "$3" >"$details"
        tap_fail "$store$1" "$details"
    fi
}

has() {
    case $3 in
    *"$2"*) tap_ok "$store$1" ;;
    *)
        printf 'not in it: %s\nit is:     %s\n' "$2" "$3" >"$details"
        tap_fail "$store$1" "$details"
        ;;
    esac
}

json() {
    local name=$1 filter=$2 status=0
    shift 2
    "$@" --format json >"$scratch/out" 2>"$scratch/err" </dev/null || status=$?
    out=$(<"$scratch/out")
    if [ "$status" = 0 ] && jq -e "$filter" "$scratch/out" >/dev/null 2>"$details"; then
        tap_ok "$store$name"
    else
        { printf 'exit status %s, or this is not true: %s\n' "$status" "$filter" && cat "$scratch/out" "$scratch/err"; } >>"$details"
        tap_fail "$store$name" "$details"
    fi
}

# For programs that need a moment: the command has to succeed within ten seconds.
soon() {
    local name=$1 tries=0
    shift
    until "$@" >"$details" 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 200 ]; then
            tap_fail "$store$name" "$details"
            return
        fi
        sleep 0.05
    done
    tap_ok "$store$name"
}

# A bucket named shop on a server of our own. It ends with the test.
start_bucket() {
    "${PGQRS_TEST_S3_SERVER:-$root/build/test/s3_server}" port_file="$scratch/port" bucket=shop access_key=me secret_key=hunter2 >/dev/null &
    server=$!
    trap 'kill $server 2>/dev/null; rm -rf "$scratch"' EXIT
    soon "the server is there" test -s "$scratch/port"
    export AWS_ENDPOINT_URL_S3=http://127.0.0.1:$(<"$scratch/port") AWS_ACCESS_KEY_ID=me AWS_SECRET_ACCESS_KEY=hunter2
    export XDG_CACHE_HOME=$scratch/cache
}

on_each_store() {
    mkdir -p "$scratch/sqlite" && cd "$scratch/sqlite" || exit 1
    export PGQRS_DSN=sqlite://$scratch/test.db
    store="sqlite: "
    "$@"
    cd "$scratch" || exit 1
    if [ -n "${PGQRS_TEST_POSTGRES_DSN:-}" ]; then
        mkdir -p "$scratch/postgres" && cd "$scratch/postgres" || exit 1
        export PGQRS_DSN=$PGQRS_TEST_POSTGRES_DSN
        export PGQRS_SCHEMA=cli_$$
        store="postgres: "
        "$@"
        unset PGQRS_SCHEMA
        cd "$scratch" || exit 1
    else
        tap_skip "on Postgres: PGQRS_TEST_POSTGRES_DSN is not set"
    fi
    store=
    unset PGQRS_DSN
}
