#!/usr/bin/env bash
# Proof by chaos (tests/proof_chaos.c) on every backend that several processes can share, on private servers that write to the disk
# as in real life. Prints TAP, progress, and a table at the end.
#
#   tests/proof.sh                     about 80 seconds: the share of `make test`
#   PGQRS_PROOF_SECONDS=600 tests/proof.sh
#   tests/proof.sh server fast|immediate|start     (used by the program) restarts the server of PGQRS_TEST_POSTGRES_DATA
#
#   PGQRS_PROOF_SECONDS   for each backend, about, beside what the scenarios need to come to rest (12)
#   PGQRS_PROOF_SEED      repeats a run; printed at the start
#   PGQRS_PROOF_TARGETS   "sqlite-file postgres"; or DSNs of your own, whose servers are not restarted
#   PGQRS_PROOF_ONLY      only scenarios whose name contains it
#   PGQRS_PROOF_DIR       where histories go (build/proof); those of a failed round stay there
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")

# The server's own user runs it: it refuses to be run by root.
as_owner() {
    local owner
    owner=$(stat -c %U "$PGQRS_TEST_POSTGRES_DATA")
    if [ "$(id -u)" != 0 ] || [ "$owner" = root ]; then
        (cd / && "$@")
    elif command -v setpriv >/dev/null 2>&1; then
        (cd / && setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups -- "$@")
    else
        (cd / && runuser -u "$owner" -- "$@")
    fi
}

# The options it was started with, the port among them, are in postmaster.opts: pg_ctl takes them from there.
server() {
    local data=$PGQRS_TEST_POSTGRES_DATA bin log
    bin=$(dirname "$(cut -d' ' -f1 "$data/postmaster.opts")")
    log=$(dirname "$data")/log/postgres.log
    [ ! -f "${PGQRS_PROOF_PRELOAD:-}" ] || export LD_PRELOAD=$PGQRS_PROOF_PRELOAD
    case $1 in
    fast | immediate) as_owner "$bin/pg_ctl" -D "$data" -s -w -t 60 -l "$log" -m "$1" restart </dev/null ;;
    start) as_owner "$bin/pg_ctl" -D "$data" -s -w -t 60 -l "$log" -o "$(port_of "$data")" start </dev/null ;;
    *) exit 2 ;;
    esac
}

port_of() {
    sed -n 's/.*"-p" "\([0-9]*\)".*/-p \1/p' "$1/postmaster.opts"
}

if [ "${1:-}" = server ]; then
    server "$2"
    exit
fi

seconds=${PGQRS_PROOF_SECONDS:-12}
targets=${PGQRS_PROOF_TARGETS:-sqlite-file postgres}
dir=${PGQRS_PROOF_DIR:-$root/build/proof}
program=$root/build/test/proof_chaos
seed=${PGQRS_PROOF_SEED:-$(od -An -N7 -tu8 /dev/urandom | tr -d ' ')}
[ -x "$program" ] || {
    echo "proof.sh: $program is not there: make build-tests" >&2
    exit 2
}
echo "# seed $seed (PGQRS_PROOF_SEED=$seed repeats it), about $seconds seconds for each of: $targets"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
servers=
running=

finish() {
    local status=$?
    trap - EXIT INT TERM HUP
    if [ -n "$running" ]; then
        kill -TERM -- "-$running" 2>/dev/null || true
        sleep 0.2
        kill -KILL -- "-$running" 2>/dev/null || true
    fi
    if [ -n "$servers" ]; then
        if [ "$status" -ne 0 ]; then cp -r "$servers/log" "$dir/server-log-$$" 2>/dev/null || true; fi
        "$here/servers.sh" stop "$servers" || true
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Real syncs, because the server is killed; and a disk that can be filled, where the loader lets us.
start_servers() {
    servers=$(mktemp -d /tmp/pgqrs-proof.XXXXXX)
    PGQRS_SERVERS_FSYNC=on "$here/servers.sh" start "$servers" postgres >"$dir/env.sh"
    # shellcheck disable=SC1091
    . "$dir/env.sh"
    rm -f "$dir/env.sh"
    export PGQRS_PROOF_SERVER="$here/proof.sh server"
    if ${CC:-cc} -O1 -shared -fPIC "$here/proof_fulldisk.c" -o "$servers/fulldisk.so" -ldl 2>"$dir/fulldisk.log"; then
        chmod 755 "$servers/fulldisk.so"
        export PGQRS_PROOF_PRELOAD=$servers/fulldisk.so PGQRS_PROOF_FULL=$servers/disk-is-full
        export PGQRS_PROOF_FULL_UNDER=$PGQRS_TEST_POSTGRES_DATA/
        server fast
        grep -q fulldisk.so "/proc/$(head -n 1 "$PGQRS_TEST_POSTGRES_DATA/postmaster.pid")/maps" 2>/dev/null ||
            unset PGQRS_PROOF_FULL
    fi
}

# The program leads a group of its own, so that nothing it forked outlives it. Where there is no setsid only it is ended.
leader=(env)
if command -v setsid >/dev/null 2>&1; then leader=(setsid); fi
run_on() {
    local name=$1 dsn=$2 status=0
    echo "# --- $name"
    rm -rf "${dir:?}/$name"
    mkdir -p "$dir/$name"
    (cd "$dir/$name" && exec env PGQRS_PROOF_SEED="$seed" PGQRS_PROOF_SECONDS="$seconds" "${leader[@]}" "$program" "$dsn") &
    running=$!
    wait "$running" || status=$?
    running=
    rmdir "$dir/$name" 2>/dev/null || true
    return "$status"
}

failed=0
for target in $targets; do
    case $target in
    sqlite-file) run_on sqlite-file "sqlite://$dir/sqlite-file/store.db" || failed=1 ;;
    postgres)
        start_servers
        run_on postgres "$PGQRS_TEST_POSTGRES_DSN" || failed=1
        ;;
    *://*) run_on other "$target" || failed=1 ;;
    *)
        echo "proof.sh: unknown target $target; there are sqlite-file, postgres, and DSNs" >&2
        exit 2
        ;;
    esac
done
exit "$failed"
