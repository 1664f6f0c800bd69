#!/usr/bin/env bash
# Runs programs under valgrind's memcheck: no error of memory, and nothing left allocated at the end, reachable or not.
# It takes thirty times as long, so two are run in part, every fifth case of them: the conformance suite on SQLite in memory, and the
# tests of the S3 backend.
#
#   tests/valgrind.sh [PROGRAM...]     (the unit tests, the conformance suite, test_s3_store, the corpora)
#
#   PGQRS_TEST_SHARE   every so many cases of these two (5 and 15)
#
# There are no suppressions: libpq, SQLite, libyaml and the C library free what they take.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/logs/valgrind
. "$here/tap.sh"
mkdir -p "$out"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgqrs-valgrind.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

[ $# -gt 0 ] || set -- "$root"/build/test/unit_* "$root"/build/test/conformance "$root"/build/test/test_s3_store "$root"/build/fuzz/replay/fuzz_*

memcheck() { # PROGRAM [ARGUMENTS]: children are left alone: they end with _exit, which frees nothing
    (cd "$scratch" && valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=all --errors-for-leak-kinds=all \
        --child-silent-after-fork=yes "$@")
}

for program in "$@"; do
    program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
    name=$(basename "$program")
    case $program in
    */fuzz/replay/*)
        tap_check "no memory error or leak: the corpus of $name" "$out/$name.log" \
            memcheck "$program" "$here/corpus/${name#fuzz_}"/*
        ;;
    *)
        share=1 target=sqlite-memory
        case $name in
        conformance) share=${PGQRS_TEST_SHARE:-5} ;;
        test_s3_*) share=${PGQRS_TEST_SHARE:-15} target=s3 ;;
        esac
        PGQRS_TEST_TARGET=$target PGQRS_TEST_SHARE=$share PGQRS_TEST_S3_SERVER=$root/build/test/s3_server \
            tap_check "no memory error or leak: $name" "$out/$name.log" memcheck "$program"
        ;;
    esac
done
tap_end
