#!/usr/bin/env bash
# Which branches the tests take, from clang's source-based counters: every operand of a condition has two, so that
# `a && b` counts four; those inside of a macro count where it is used. Given are the programs, built with these counters
# (make coverage does it).
#
#   tests/coverage.sh PROGRAM...
#
# Prints a table per section of the headers, and the figure of the engine: all of it but the backends. What is not
# covered stands with its line in build/coverage/uncovered.txt.
#
#   PGQRS_COVERAGE_LEAST   per cent of the engine's branches below which this fails (90)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/coverage
least=${PGQRS_COVERAGE_LEAST:-90}
programs=("$@")
[ $# -gt 0 ] || {
    echo "usage: $0 PROGRAM..." >&2
    exit 2
}

mkdir -p "$out"
rm -rf "$out/raw" "$out"/*.branches "$out"/*.txt

# %c keeps the counters in a mapped file: a test that is killed, or a child that leaves with _exit, is counted too.
failed=
LLVM_PROFILE_FILE="$out/raw/%p%c.profraw" "$here/run.sh" "$@" || failed=1
llvm-profdata merge -sparse "$out"/raw/*.profraw -o "$out/tests.profdata"
rm -rf "$out/raw"

# Every program contains the headers once more, and some of them leave parts out: a branch counts when it was taken in any.
# A line per condition: line, column or number of the macro's condition on that line, ever true, ever false.
branches_of() { # HEADER
    local program
    for program in "${programs[@]}"; do
        llvm-cov show -show-branches=count -show-expansions -instr-profile "$out/tests.profdata" "$program" "$root/$1"
    done | awk '
        /^ *[0-9]+\|/ { line = $1 + 0; nth = 0 }
        match($0, /Branch \([0-9]+:[0-9]+\): \[True: [^,]*, False: [^]]*\]/) {
            split(substr($0, RSTART, RLENGTH), part, /[(:), \]]+/)
            place = $0 ~ /^  \|  \|/ ? line " m" ++nth : part[2] " " part[3]
            places[place] = 1
            if (part[5] != "0") yes[place] = 1
            if (part[7] != "0") no[place] = 1
        }
        END { for (place in places) print place, yes[place] + 0, no[place] + 0 }' | sort -n
}

# The sections are the marks in the header; those of a backend's own header are named after it.
sections_of() { # HEADER PREFIX
    awk -v header="$1" -v prefix="$2" -v uncovered="$out/uncovered.txt" '
        function note(which) {
            printf "%s:%d: [%s] never %s (%s): %s\n", header, value[1], of, which, value[2], text[value[1]] >>uncovered
        }
        FNR == 1 { file++ }
        file == 1 { row[++rows] = $0; next }
        match($0, /^ \* >>[a-z ]+/) { section = prefix substr($0, RSTART + 5, RLENGTH - 5) }
        { text[FNR] = $0; sub(/^ +/, "", text[FNR]); in_section[FNR] = section }
        END {
            for (i = 1; i <= rows; i++) {
                split(row[i], value, " ")
                of = in_section[value[1]]
                if (!(of in all)) order[++sections] = of
                all[of] += 2
                taken[of] += value[3] + value[4]
                if (!value[3]) note("true")
                if (!value[4]) note("false")
            }
            for (i = 1; i <= sections; i++) print order[i] "\t" taken[order[i]] "\t" all[order[i]]
        }' "$out/$1.branches" "$root/$1"
}

: >"$out/uncovered.txt"
for header in pgqrs.h pgqrs_sqlite.h pgqrs_s3.h; do
    branches_of "$header" >"$out/$header.branches"
done
{
    sections_of pgqrs.h ""
    sections_of pgqrs_sqlite.h "sqlite: "
    sections_of pgqrs_s3.h "s3: "
} >"$out/table.txt"

awk -F '\t' -v least="$least" '
    function show(name, taken, all) { printf "%-26s %6d of %6d  %6.2f %%\n", name, taken, all, 100 * taken / all }
    { show($1, $2, $3) }
    $1 == "postgres" { postgres += $2; postgres_of += $3; next }
    $1 ~ /^sqlite: / { sqlite += $2; sqlite_of += $3; next }
    $1 ~ /^s3: / { s3 += $2; s3_of += $3; next }
    { engine += $2; engine_of += $3 }
    END {
        print ""
        show("the Postgres backend", postgres, postgres_of)
        show("the SQLite backend", sqlite, sqlite_of)
        show("the S3 backend", s3, s3_of)
        show("the engine", engine, engine_of)
        if (100 * engine < least * engine_of) { printf "the engine is below %s %%\n", least; exit 1 }
    }' "$out/table.txt" || failed=1
echo "not covered: $(wc -l <"$out/uncovered.txt") branches, listed in build/coverage/uncovered.txt"
[ -z "$failed" ]
