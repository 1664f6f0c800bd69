#!/usr/bin/env bash
# What can be said about the sources without running them.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/check
strict="-std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Werror"
pg_include=$(pg_config --includedir)

cd "$root"
. "$here/tap.sh"
rm -rf "$out"
mkdir -p "$out"

printf '#define PGQRS_IMPLEMENTATION\n#include "pgqrs_sqlite.h"\n' >"$out/sqlite.c"
printf '#define PGQRS_IMPLEMENTATION\n#include "pgqrs.h"\n' >"$out/postgres.c"
printf '#define PGQRS_IMPLEMENTATION\n#include "pgqrs_s3.h"\n' >"$out/s3.c"

compile() { # NAME FLAGS...
    local name=$1
    shift
    # shellcheck disable=SC2086
    gcc $strict "$@" -I. -isystem "$pg_include" -c "$out/$name.c" -o "$out/$name.o"
}

only_our_symbols() { # NAME
    local foreign
    nm -g --defined-only "$out/$1.o" >"$out/$1.symbols"
    grep -q ' pgqrs_' "$out/$1.symbols" || {
        echo "exports nothing that begins with pgqrs_"
        return 1
    }
    foreign=$(awk '$3 !~ /^_?pgqrs_/' "$out/$1.symbols")
    if [ -n "$foreign" ]; then
        echo "exported, but not named pgqrs_...:"
        echo "$foreign"
        return 1
    fi
}

for name in sqlite postgres s3; do
    if compile "$name" -O1 >"$out/$name.log" 2>&1; then
        tap_check "exported symbols, $name" "$out/$name.log" only_our_symbols "$name"
    else
        tap_fail "exported symbols, $name (compile)" "$out/$name.log"
    fi
    # A result object points into its block, behind a header; gcc 12 loses the block and calls it a leak. Leaks are looked
    # for by the address sanitizer and by the counting allocator of the suites, in every path these run.
    tap_check "gcc -fanalyzer, $name" "$out/$name.log" compile "$name" -O1 -fanalyzer -Wno-analyzer-malloc-leak
done

# Each header is the main file once, because the analyzer follows paths only through the functions of that. The bound on
# what it explores per function halves the time and lost one finding that was none. See .clang-tidy.
tidy() { # HEADER
    clang-tidy --quiet "$root/$1" -- -x c -std=c99 -DPGQRS_IMPLEMENTATION -DPGQRS_YAML -DPGQRS_THREADS -I"$root" \
        -isystem "$pg_include" -Xclang -analyzer-config -Xclang max-nodes=50000
}
tidy pgqrs.h >"$out/tidy-pgqrs.log" 2>&1 &
tidy_pgqrs=$!
tidy pgqrs_sqlite.h >"$out/tidy-sqlite.log" 2>&1 &
tidy_sqlite=$!
tidy pgqrs_s3.h >"$out/tidy-s3.log" 2>&1 &
tidy_s3=$!

# The command-line tool without the library, which has been looked at. One process for each file: with several in one, clang-tidy 14 takes
# every va_list of the second for uninitialized.
cli_sources=$(printf '%s\n' examples/cli/*.c | grep -v /library.c)
cli_flags="-std=c99 -DPGQRS_YAML -DPGQRS_THREADS -I. -isystem $pg_include"
analyze_cli() {
    local file status=0
    for file in $cli_sources; do
        # shellcheck disable=SC2086
        gcc $strict $cli_flags -O1 -fanalyzer -pthread -c "$file" -o "$out/cli.o" || status=1
    done
    return "$status"
}
tidy_cli() {
    local file status=0
    for file in $cli_sources; do
        # shellcheck disable=SC2086
        clang-tidy --quiet "$file" -- -x c $cli_flags || status=1
    done
    return "$status"
}
tidy_cli >"$out/tidy-cli.log" 2>&1 &
tidied_cli=$!
tap_check "gcc -fanalyzer, command-line tool" "$out/analyze-cli.log" analyze_cli

# What would be committed: files that are ignored do not count.
if git rev-parse --git-dir >/dev/null 2>&1; then
    git ls-files -co --exclude-standard -z
else
    find . -type f -not -path './build/*' -print0
fi | sort -z | xargs -0 -I{} sh -c '[ ! -f "$1" ] || printf "%s\0" "$1"' sh {} >"$out/files"

nothing_matches() { # MESSAGE PATTERN [PATHSPEC-REGEX]
    local found
    found=$(grep -zE "${3:-.}" "$out/files" | xargs -0 -r grep -InE -e "$2" || true)
    if [ -n "$found" ]; then
        echo "$1:"
        echo "$found"
        return 1
    fi
}

# Spelled in pieces so that this file does not find itself.
places="home root Users work workspace mnt srv"
tap_check "no paths of one machine" "$out/paths.log" nothing_matches "an absolute path of some machine" \
    "(^|[^A-Za-z0-9_.})-])/($(echo "$places" | tr ' ' '|'))/[A-Za-z0-9_.]"
tap_check "no unfinished business" "$out/words.log" nothing_matches "a note to self" "\b(TO""DO|FIX""ME|X""XX|HA""CK)\b"
tap_check "no conflict marks" "$out/conflicts.log" nothing_matches "a merge conflict" "^(<<<<<<<|>>>>>>>) "
tap_check "no trailing white space" "$out/space.log" nothing_matches "white space at the end of a line" "[[:space:]]+$" \
    '\.(c|h|sh|md|awk)$|Makefile$|run$'
tap_check "no tabs in C" "$out/tabs.log" nothing_matches "a tab" "$(printf '\t')" '\.(c|h)$'

scripts_parse() {
    local file status=0
    while IFS= read -r -d '' file; do
        case $(head -n 1 "$file") in
        '#!'*bash) bash -n "$file" || status=1 ;;
        '#!'*sh) sh -n "$file" || status=1 ;;
        esac
    done <"$out/files"
    return "$status"
}
tap_check "scripts parse" "$out/scripts.log" scripts_parse

scripts_are_executable() {
    local file status=0
    while IFS= read -r -d '' file; do
        if [ "$(head -c 2 "$file" | tr -d '\0')" = '#!' ] && [ ! -x "$file" ]; then
            echo "$file has an interpreter line, but is not executable"
            status=1
        fi
    done <"$out/files"
    return "$status"
}
tap_check "scripts are executable" "$out/modes.log" scripts_are_executable


tidied() { # PID LOG
    wait "$1" || {
        cat "$2"
        return 1
    }
}
tap_check "clang-tidy, pgqrs.h" "$out/tidied.log" tidied "$tidy_pgqrs" "$out/tidy-pgqrs.log"
tap_check "clang-tidy, pgqrs_sqlite.h" "$out/tidied.log" tidied "$tidy_sqlite" "$out/tidy-sqlite.log"
tap_check "clang-tidy, pgqrs_s3.h" "$out/tidied.log" tidied "$tidy_s3" "$out/tidy-s3.log"
tap_check "clang-tidy, command-line tool" "$out/tidied.log" tidied "$tidied_cli" "$out/tidy-cli.log"

tap_end
