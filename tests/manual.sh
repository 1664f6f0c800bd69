#!/usr/bin/env bash
# Compiles every example of the README and of the manuals in the headers. One with a main is run as well, in an empty
# directory; the others are put into a function, after the declarations of manual_prelude.h.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/manual
cc=${CC:-cc}
strict="-std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"
# A fragment shows one thing: names it does not use further, or declares once more, are no fault of it.
lenient="-Wno-shadow -Wno-unused-variable -Wno-unused-but-set-variable -Wno-unused-function -Wno-unused-value -Wno-unused-label"
pg_include=$(pg_config --includedir)

. "$here/tap.sh"
rm -rf "$out"
mkdir -p "$out"

# Definitions and directives cannot stand inside a function; they go in front of it. A definition begins in the first
# column and ends with a brace in the first column.
part() {
    awk -v want="$1" '
        /^#line / { line_number = $2; file = $3; next }
        { where = line_number + count++ }
        {
            if (definition) kind = "definition"
            else if (continued || /^#/) kind = "directive"
            else if (/^(static|typedef|extern) / || /^(struct|enum|union) [A-Za-z_0-9]+( {|$)/ ||
                     /^(pgqrs_result|void|int|bool|const char \*|char \*) ?\*?[a-z_0-9]+\([^;]*$/) {
                kind = "definition"
                if (!/;[ \t]*((\/\/|\/\*).*)?$/ && !/}[ \t]*$/) definition = 1
            } else kind = "statement"
            continued = kind == "directive" && /\\$/
            if (kind == want) {
                if (where != previous + 1) printf "#line %d %s\n", where, file
                previous = where
                print
            }
            if (definition && /^}/) definition = 0
        }' "$2"
}

compile_program() { # NAME
    # shellcheck disable=SC2086,SC2046
    "$cc" $strict -O1 -g -I"$root" -isystem "$pg_include" "$out/$1.c" -o "$out/$1" $("$here/libs.sh" "$out/$1.c")
}

run_program() { # NAME
    local dir status=0
    dir=$(mktemp -d)
    (cd "$dir" && unset PGQRS_DSN && timeout 60 "$out/$1" </dev/null) || status=$?
    rm -rf "$dir"
    [ "$status" = 0 ] || echo "exit status $status"
    return "$status"
}

compile_fragment() { # NAME
    # shellcheck disable=SC2086
    "$cc" $strict $lenient -I"$root" -I"$here" -isystem "$pg_include" -c "$out/$1.c" -o "$out/$1.o"
}

one_example() { # NAME DOCUMENT
    local name=$1 label="$2: $1"
    if grep -Eq '^int main' "$out/$name.block"; then
        cp "$out/$name.block" "$out/$name.c"
        if ! compile_program "$name" >"$out/$name.log" 2>&1; then
            tap_fail "$label (compile)" "$out/$name.log"
        else
            tap_check "$label (program)" "$out/$name.log" run_program "$name"
        fi
        return
    fi
    {
        part directive "$out/$name.block"
        echo '#include "manual_prelude.h"'
        part definition "$out/$name.block"
        echo 'void manual_fragment(void);'
        echo 'void manual_fragment(void)'
        echo '{'
        part statement "$out/$name.block"
        echo '}'
    } >"$out/$name.c"
    tap_check "$label (fragment)" "$out/$name.log" compile_fragment "$name"
}

for document in README.md pgqrs.h pgqrs_sqlite.h; do
    if [ ! -f "$root/$document" ]; then
        tap_fail "$document is missing"
        continue
    fi
    if (cd "$root" && awk -v out="$out" -v prefix="${document%.*}" -f "$here/extract.awk" "$document") >"$out/names" 2>"$out/extract.log"; then
        while read -r name; do
            one_example "$name" "$document"
        done <"$out/names"
    else
        tap_fail "$document: extract the examples" "$out/extract.log"
    fi
done
tap_end
