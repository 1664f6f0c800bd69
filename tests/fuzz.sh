#!/usr/bin/env bash
# Replays the corpus of each fuzz target (tests/corpus/NAME) with any compiler's program, then fuzzes for a few seconds
# with libFuzzer (make fuzz builds both). A new input that fails is kept in build/fuzz; it belongs into the corpus, in the
# same commit that mends what it found.
#
#   tests/fuzz.sh
#
#   PGQRS_FUZZ_SECONDS   for each target (5)
#   PGQRS_FUZZ_SEED      what libFuzzer starts from (1, so that make test tries the same inputs for the same sources; 0: another
#                        one each time, as make fuzz has it)
#   PGQRS_FUZZ_KEEP      a directory to collect new inputs in, for a longer run
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/fuzz
seconds=${PGQRS_FUZZ_SECONDS:-5}
seed=${PGQRS_FUZZ_SEED:-1}
. "$here/tap.sh"
mkdir -p "$out/log"

replay() { # NAME PROGRAM
    find "$here/corpus/$1" -type f | LC_ALL=C sort >"$out/log/$1.inputs"
    [ -s "$out/log/$1.inputs" ] || {
        echo "tests/corpus/$1 is empty"
        return 1
    }
    xargs -d '\n' "$2" <"$out/log/$1.inputs"
}

fuzz() { # NAME PROGRAM
    local new=${PGQRS_FUZZ_KEEP:-$out/new}/$1
    mkdir -p "$new"
    "$2" -seed="$seed" -max_total_time="$seconds" -max_len=2048 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$out/$1-" "$new" "$here/corpus/$1"
}

for target in "$here"/fuzz_*.c; do
    name=$(basename "$target" .c)
    name=${name#fuzz_}
    if [ -x "$out/replay/fuzz_$name" ]; then
        tap_check "replay $name" "$out/log/replay-$name.log" replay "$name" "$out/replay/fuzz_$name"
    else
        tap_fail "replay $name: not built"
    fi
    if [ -x "$out/run/fuzz_$name" ]; then
        tap_check "fuzz $name for $seconds s" "$out/log/$name.log" fuzz "$name" "$out/run/fuzz_$name"
    else
        tap_skip "fuzz $name: no libFuzzer"
    fi
done
tap_end
