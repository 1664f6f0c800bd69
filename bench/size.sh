#!/usr/bin/env bash
# How long the SQLite backend takes to compile, and how large a program with it is: JSON lines.
#
#   bench/size.sh
#
# Seconds are those of the processor, which other programs on the machine disturb less; the clock's are beside them.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgqrs-size.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM HUP

rounds=5
case ${PGQRS_BENCH_QUICK:-0} in
'' | 0) ;;
*) rounds=1 ;;
esac

wanted() {
    case ",${PGQRS_BENCH_ONLY:-$1}," in
    *",$1,"*) return 0 ;;
    esac
    return 1
}

median() {
    sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

compile_time() {
    local cc=$1 round
    printf '#define PGQRS_IMPLEMENTATION\n#include "pgqrs_sqlite.h"\n' >"$scratch/one.c"
    for round in $(seq "$rounds"); do
        echo "  $cc -O2: round $round of $rounds" >&2
        TIMEFORMAT='%R %U %S'
        { time "$cc" -std=c99 -O2 -I"$root" -c "$scratch/one.c" -o "$scratch/one.o"; } 2>>"$scratch/$cc.times"
    done
    printf '{"bench":"compile","backend":"sqlite","compiler":"%s","options":"-O2","cpu_s":%.2f,"clock_s":%.2f}\n' "$cc" \
        "$(awk '{ print $2 + $3 }' "$scratch/$cc.times" | median)" "$(awk '{ print $1 }' "$scratch/$cc.times" | median)"
}

program_size() {
    local cc=$1 options=$2
    # shellcheck disable=SC2086
    "$cc" -std=c99 $options -I"$root" "$root/examples/quickstart.c" -o "$scratch/quickstart" -lsqlite3 -pthread
    strip "$scratch/quickstart"
    printf '{"bench":"size","backend":"sqlite","compiler":"%s","options":"%s","stripped_bytes":%d}\n' "$cc" "$options" \
        "$(wc -c <"$scratch/quickstart")"
}

gcc=${CC:-gcc}
if wanted compile; then
    compile_time "$gcc"
    [ "$rounds" = 1 ] || compile_time clang
fi
if wanted size; then
    for options in -O2 "-O2 -DPGQRS_STATIC" -Os; do program_size "$gcc" "$options"; done
fi
