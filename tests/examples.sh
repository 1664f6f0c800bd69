#!/usr/bin/env bash
# Compiles every program in examples/ and runs it in an empty directory; it must end by itself with exit status 0.
# One that reads PGQRS_DSN and has the Postgres backend in it is run once more on Postgres. A program that needs
# arguments or input has a script tests/examples/NAME.sh, which is run in its place with the program's path as argument.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/examples
cc=${CC:-cc}
strict="-std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"
pg_include=$(pg_config --includedir)

. "$here/tap.sh"
mkdir -p "$out"

compile() { # SOURCE PROGRAM
    # shellcheck disable=SC2086,SC2046
    "$cc" $strict -O0 -I"$root" -isystem "$pg_include" "$1" -o "$2" $("$here/libs.sh" "$1")
}

run() { # DSN COMMAND...
    local dsn=$1 dir status=0
    shift
    dir=$(mktemp -d)
    if [ -n "$dsn" ]; then export PGQRS_DSN=$dsn; else unset PGQRS_DSN; fi
    (cd "$dir" && timeout 120 "$@" </dev/null) || status=$?
    rm -rf "$dir"
    unset PGQRS_DSN
    [ "$status" = 0 ] || echo "exit status $status"
    return "$status"
}

for source in "$root"/examples/*.c; do
    [ -f "$source" ] || continue
    name=$(basename "$source" .c)
    log=$out/$name.log
    if ! compile "$source" "$out/$name" >"$log" 2>&1; then
        tap_fail "$name (compile)" "$log"
        continue
    fi
    command=("$out/$name")
    if [ -x "$here/examples/$name.sh" ]; then command=("$here/examples/$name.sh" "$out/$name"); fi
    tap_check "$name" "$log" run "" "${command[@]}"
    if grep -q PGQRS_DSN "$source" && "$here/libs.sh" "$source" | grep -q -e -lpq; then
        if [ -n "${PGQRS_TEST_POSTGRES_DSN:-}" ]; then
            tap_check "$name (on Postgres)" "$log" run "$PGQRS_TEST_POSTGRES_DSN" "${command[@]}"
        else
            tap_skip "$name (on Postgres): PGQRS_TEST_POSTGRES_DSN is not set"
        fi
    fi
done
tap_end
