#!/usr/bin/env bash
# The command-line tool out of memory, at each of its allocations: it says so and ends with an exit status of its own, or does all it should; never
# does it crash, and never is half a result called done.
. "$(dirname "$0")/cli.sh"

shim=$scratch/shim.so
if ! "${CC:-cc}" -std=c99 -O1 -shared -fPIC "$here/cli_memory.c" -o "$shim" >"$details" 2>&1; then
    tap_fail "allocations can be made to fail" "$details"
    tap_end
    exit 1
fi

export PGQRS_DSN=sqlite://$scratch/test.db
export PGQRS_HEARTBEAT_INTERVAL=1
pgqrs install >/dev/null
pgqrs queue create jobs >/dev/null
pgqrs workflow create expense >/dev/null
seq 1 70 | pgqrs message send jobs --lines >/dev/null
pgqrs message read jobs --lock-time 5h >/dev/null
run=$(pgqrs run trigger expense 1 --format json | jq .id)
printf '"%050000d"' 0 >large.json

without_memory() { # NAME REPEATABLE COMMAND...: repeatable commands print the same each time
    local name=$1 repeatable=$2 at=0 status
    shift 2
    "$@" >whole 2>/dev/null
    while :; do
        at=$((at + 1)) status=0
        rm -f mark
        CLI_FAIL_AT=$at CLI_FAIL_MARK=mark LD_PRELOAD=$shim timeout 20 "$@" >part 2>said </dev/null || status=$?
        [ -e mark ] || break
        if [ "$status" -gt 4 ] || { [ "$status" != 0 ] && ! grep -q '^pgqrs: ' said && ! grep -q 'no memory' part; } ||
            { [ "$status" = 0 ] && [ "$repeatable" = yes ] && ! cmp -s whole part; }; then
            { echo "allocation $at: exit status $status: $*" && cat said && head -n 5 part; } >"$details"
            tap_fail "$name" "$details"
            return
        fi
    done
    if [ "$at" -gt 3 ]; then tap_ok "$name: $((at - 1)) allocations"; else tap_fail "$name: only $((at - 1)) allocations"; fi
}

without_memory "a table" yes pgqrs message list jobs --utc --limit 3
without_memory "JSON" yes pgqrs message list jobs --format json
without_memory "one record" yes pgqrs message show jobs 3 --utc
without_memory "copy" no pgqrs copy "$PGQRS_DSN" sqlite::memory: --yes --force
for queue in jobs expense; do pgqrs queue resume "$queue" >/dev/null; done
without_memory "a large payload" no pgqrs message send jobs --file large.json --format json
without_memory "bulk" no bash -c 'seq 1 5 | pgqrs message send jobs --lines'
without_memory "read" no pgqrs message read jobs --count 3 --lock-time 10ms
without_memory "work" no pgqrs work jobs --max-messages 1 -- cat
without_memory "a run" yes pgqrs run show "$run" --utc
without_memory "doctor" no pgqrs doctor
without_memory "doctor, CSV" no pgqrs doctor --format csv
gives "the store is whole" 0 pgqrs verify
tap_end
