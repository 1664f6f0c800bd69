#!/bin/sh
# Prints the linker flags a C file needs, from the headers that really end up in it. Linking libpq only where libpq's
# header was read is a test in itself: a program on SQLite alone must link without it.
#
#   tests/libs.sh FILE [COMPILER-FLAGS...]
set -eu

file=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
pg_include=$(pg_config --includedir 2>/dev/null || echo /usr/include)
# A file that cannot be read by the compiler gets no flags here; compiling it tells why.
headers=$(${CC:-cc} "$@" -M -I"$root" -isystem "$pg_include" "$file" 2>/dev/null || true)
flags=
for pair in 'libpq-fe.h=-lpq' 'cmocka.h=-lcmocka' 'cJSON.h=-lcjson' 'jansson.h=-ljansson' 'yaml.h=-lyaml' \
    'curl/curl.h=-lcurl' 'math.h=-lm'; do
    case "$headers " in
    *"/${pair%%=*} "* | *"/${pair%%=*}
"*) flags="$flags ${pair#*=}" ;;
    esac
done
case $flags in
*-lpq*) flags="-L$(pg_config --libdir 2>/dev/null || echo /usr/lib)$flags" ;;
esac
echo "$flags -lsqlite3 -pthread"
