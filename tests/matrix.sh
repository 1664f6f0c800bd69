#!/usr/bin/env bash
# The compile matrix: both compilers, every C and C++ version we promise, every way of including the headers. Each cell
# compiles the implementation in one file and its use in another, links the two and runs the result. Of a language's versions the
# oldest and the newest are built; what lies between is only parsed: nothing is generated differently for it.
#
#   tests/matrix.sh [-j N]     (2 at a time)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/matrix
flags="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Werror"
pg_include=$(pg_config --includedir)
pg_lib=$(pg_config --libdir)

c_standards="c99 c11 c17"
cxx_standards="c++11 c++17 c++20"
layouts="sqlite postgres s3 s3+postgres sqlite+postgres postgres+sqlite static-sqlite static-s3 static-both threads static-threads"

lines() { printf '%s\n' "$@"; }

# include_lines LAYOUT: how the headers are included; a sensible program may use either order.
include_lines() {
    case $1 in
    sqlite | static-sqlite) lines '#include "pgqrs_sqlite.h"' ;;
    postgres) lines '#include "pgqrs.h"' ;;
    s3 | static-s3) lines '#include "pgqrs_s3.h"' ;;
    s3+postgres) lines '#include "pgqrs_s3.h"' '#include "pgqrs_sqlite.h"' '#include "pgqrs.h"' ;;
    sqlite+postgres | static-both | threads | static-threads) lines '#include "pgqrs_sqlite.h"' '#include "pgqrs.h"' ;;
    postgres+sqlite) lines '#include "pgqrs.h"' '#include "pgqrs_sqlite.h"' ;;
    esac
}

# uses_threads LAYOUT: the lines of a program that handles a message on a pool and enqueues through a producer.
uses_threads() {
    case $1 in
    *threads) ;;
    *) return ;;
    esac
    cat <<'END'
#include <string.h>
static pgqrs_result matrix_handle(const pgqrs_message *message, void *user)
{
    ++*(int *)user;
    return message->payload[0] == '1' ? PGQRS_OK : PGQRS_ERR_HANDLER;
}
static int matrix_threads(void)
{
    pgqrs_work_desc desc;
    pgqrs_error err;
    int handled = 0;
    pgqrs_store *store = pgqrs_open("sqlite::memory:", NULL, &err);
    if (!store || pgqrs_install(store) || pgqrs_queue_create(store, "q", NULL)) return 1;
    pgqrs_producer *producer = pgqrs_producer_open(store, NULL);
    if (!producer || pgqrs_producer_enqueue(producer, "q", "1", NULL, NULL, &err)) return 1;
    if (pgqrs_producer_hand_over(producer, "q", "1", NULL, &err) || pgqrs_producer_close(producer, &err)) return 1;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    desc.until_empty = true;
    if (pgqrs_work(store, "q", matrix_handle, &handled, &desc) || handled != 2) return 1;
    pgqrs_close(store);
    return 0;
}
END
}

write_sources() {
    local layout dir threads
    for layout in $layouts; do
        dir=$out/src/$layout
        mkdir -p "$dir"
        threads=
        case $layout in *threads) threads='#define PGQRS_THREADS' ;; esac
        {
            if [ -n "$threads" ]; then lines "$threads"; fi
            case $layout in static-*) lines '#define PGQRS_STATIC' ;; esac
            lines '#define PGQRS_IMPLEMENTATION'
            include_lines "$layout"
            # A translation unit of its own must not be empty, and in static mode something has to call in.
            case $layout in
            static-*) lines 'int matrix_first(void);' 'int matrix_first(void)' '{' '    pgqrs_error err;' \
                '    return pgqrs_open("nosuchscheme://x", NULL, &err) == NULL;' '}' ;;
            *) lines 'int matrix_first(void);' 'int matrix_first(void)' '{' '    return 1;' '}' ;;
            esac
        } >"$dir/first.c"
        {
            # Without static mode only the file with the implementation has to know of the threads.
            case $layout in
            static-*)
                if [ -n "$threads" ]; then lines "$threads"; fi
                lines '#define PGQRS_STATIC' '#define PGQRS_IMPLEMENTATION'
                ;;
            esac
            # Twice, because a header that is included through two others must not mind.
            include_lines "$layout"
            include_lines "$layout"
            uses_threads "$layout"
            lines 'int matrix_first(void);' 'int main(void)' '{' '    pgqrs_error err;' \
                '    pgqrs_store *store = pgqrs_open("nosuchscheme://x", NULL, &err);' \
                '    if (store || !matrix_first()) return 1;'
            if [ -n "$threads" ]; then lines '    if (matrix_threads()) return 1;'; fi
            lines '    return 0;' '}'
        } >"$dir/second.c"
        cp "$dir/first.c" "$dir/first.cpp"
        cp "$dir/second.c" "$dir/second.cpp"
    done
    # Found in place of libpq's own header: whoever needs it on SQLite alone fails with these words.
    mkdir -p "$out/no-libpq/postgresql"
    lines '#error "libpq must not be needed for SQLite alone"' >"$out/no-libpq/libpq-fe.h"
    cp "$out/no-libpq/libpq-fe.h" "$out/no-libpq/postgresql/libpq-fe.h"
}

compiler_for() { # COMPILER STANDARD
    case $1:$2 in
    gcc:c++*) echo g++ ;;
    clang:c++*) echo clang++ ;;
    *) echo "$1" ;;
    esac
}

build_cell() { # COMPILER STANDARD OPTIMIZATION LAYOUT DIR
    local cc ext=c includes libs=-lsqlite3 src=$out/src/$4
    local parsed=
    case $2$3 in c11-O0 | c++17-O0) parsed=1 ;; esac
    cc=$(compiler_for "$1" "$2")
    case $2 in c++*) ext=cpp ;; esac
    case $4 in
    sqlite | s3 | static-sqlite | static-s3) includes="-isystem $out/no-libpq" ;;
    *) includes="-isystem $pg_include" libs="-L$pg_lib -lpq -lsqlite3" ;;
    esac
    if [ -n "$parsed" ]; then
        # shellcheck disable=SC2086
        "$cc" "-std=$2" $flags -I"$root" $includes -fsyntax-only "$src/first.$ext" "$src/second.$ext"
        return
    fi
    # shellcheck disable=SC2086
    {
        "$cc" "-std=$2" "$3" $flags -I"$root" $includes -c "$src/first.$ext" -o "$5/first.o" &&
            "$cc" "-std=$2" "$3" $flags -I"$root" $includes -c "$src/second.$ext" -o "$5/second.o" &&
            "$cc" "$5/first.o" "$5/second.o" -o "$5/program" $libs -pthread &&
            timeout 30 "$5/program" || return 1
    }
    case $4 in
    static-*)
        if nm -g --defined-only "$5/first.o" | grep -w '[A-Z] _*pgqrs[a-z]*_.*'; then
            echo "PGQRS_STATIC still exports the symbols above"
            return 1
        fi
        ;;
    esac
}

# Public declarations may pull in stddef.h, stdint.h and stdbool.h, and what those pull in themselves.
declarations_are_light() { # COMPILER STANDARD HEADER DIR
    local cc lang=c extra
    cc=$(compiler_for "$1" "$2")
    case $2 in c++*) lang=c++ ;; esac
    files() { "$cc" "-std=$2" -x $lang -I"$root" -isystem "$out/no-libpq" -E - | sed -n 's/^# [0-9]* "\([^<"]*\)".*/\1/p' | sort -u; }
    printf '#include <stddef.h>\n#include <stdint.h>\n#include <stdbool.h>\n' | files "$@" >"$4/allowed"
    printf '#include <stddef.h>\n#include <stdint.h>\n#include <stdbool.h>\n#include "%s"\n' "$3" | files "$@" >"$4/found"
    extra=$(comm -13 "$4/allowed" "$4/found" | grep -vE '(^|/)pgqrs[a-z0-9_]*\.h$' || true)
    if [ -n "$extra" ]; then
        echo "the declarations of $3 include:"
        echo "$extra"
        return 1
    fi
    # The three alone must be enough, so nothing else is included in front.
    printf '#include "%s"\nextern int matrix_unused;\n' "$3" >"$4/alone.$lang"
    # shellcheck disable=SC2086
    "$cc" "-std=$2" $flags -x $lang -I"$root" -isystem "$out/no-libpq" -fsyntax-only "$4/alone.$lang"
}

# Between the oldest and the newest version of a language, and of what is static, some are enough.
layouts_for() { # STANDARD
    case $1 in
    c99 | c++20) echo "$layouts" ;;
    c11 | c++17) echo "s3+postgres threads" ;;
    *) printf '%s\n' $layouts | grep -v '^static-' ;;
    esac
}

cells() {
    local cc std layout opt
    for cc in gcc clang; do
        for std in $c_standards $cxx_standards; do
            for layout in $(layouts_for "$std"); do
                echo "$cc $std -O0 $layout"
            done
            for layout in declarations-of-pgqrs.h declarations-of-pgqrs_sqlite.h declarations-of-pgqrs_s3.h; do
                echo "$cc $std -O0 $layout"
            done
        done
        # Some warnings appear only when the optimizer has looked; the language version makes no difference to those.
        for std in c99 c++17; do
            for layout in sqlite sqlite+postgres static-both threads; do
                echo "$cc $std -O2 $layout"
            done
        done
    done
}

if [ "${1:-}" = --cell ]; then
    dir=$out/cells/$2-$3$4-$5
    mkdir -p "$dir"
    status=0
    case $5 in
    declarations-of-*) declarations_are_light "$2" "$3" "${5#declarations-of-}" "$dir" >"$dir/log" 2>&1 || status=$? ;;
    *) build_cell "$2" "$3" "$4" "$5" "$dir" >"$dir/log" 2>&1 || status=$? ;;
    esac
    echo "$status" >"$dir/status"
    exit 0
fi

jobs=2
if [ "${1:-}" = -j ]; then jobs=$2; fi

. "$here/tap.sh"
for tool in gcc g++ clang clang++ nm; do
    command -v "$tool" >/dev/null 2>&1 || {
        echo "matrix.sh: $tool is missing; run tests/install-deps.sh test" >&2
        exit 1
    }
done
rm -rf "$out"
write_sources
cells | xargs -P "$jobs" -n 4 "$0" --cell

while read -r cc std opt layout; do
    dir=$out/cells/$cc-$std$opt-$layout
    name=$(printf '%-5s %-5s %s %s' "$cc" "$std" "$opt" "$layout")
    if [ "$(cat "$dir/status" 2>/dev/null)" = 0 ]; then tap_ok "$name"; else tap_fail "$name" "$dir/log"; fi
done < <(cells)

echo "#"
for cc in gcc clang; do
    printf '# %-38s' "$cc"
    printf ' %-6s' $c_standards $cxx_standards
    echo
    for opt in -O0 -O2; do
        for layout in $layouts declarations-of-pgqrs.h declarations-of-pgqrs_sqlite.h; do
            row= any=
            for std in $c_standards $cxx_standards; do
                cell=-
                status=$out/cells/$cc-$std$opt-$layout/status
                if [ -f "$status" ]; then
                    any=1
                    if [ "$(cat "$status")" = 0 ]; then cell=ok; else cell=FAILED; fi
                fi
                row="$row $(printf '%-6s' "$cell")"
            done
            if [ -n "$any" ]; then printf '#   %s %-32s %s\n' "$opt" "$layout" "$row"; fi
        done
    done
done
tap_end
