#!/bin/sh
# Installs what the project needs from the system's packages, and does nothing when all of it is there.
#
#   tests/install-deps.sh quickstart    a C compiler and SQLite's header: enough for `make quickstart`
#   tests/install-deps.sh cli           what the command-line tool is built with
#   tests/install-deps.sh test          everything `make test` and `make check` use
#   tests/install-deps.sh bench         everything `make bench` uses
#
# Only Debian and Ubuntu are installed on automatically. Elsewhere the names to install are printed, because a guess
# at another package manager that nobody has tried would be worse than an honest message.
set -eu

set_name=${1:-test}

case $set_name in
quickstart)
    apt_packages="gcc libc6-dev make libsqlite3-dev"
    commands="make"
    headers="sqlite3.h"
    other="dnf install gcc make sqlite-devel
apk add build-base sqlite-dev
pacman -S --needed gcc make sqlite
brew install sqlite    (and: xcode-select --install)"
    ;;
cli)
    apt_packages="gcc libc6-dev make libsqlite3-dev libpq-dev libyaml-dev libcurl4-openssl-dev libncurses-dev pkg-config"
    commands="make pkg-config"
    headers="sqlite3.h libpq-fe.h yaml.h curl/curl.h curses.h"
    other="dnf install gcc make sqlite-devel libpq-devel libyaml-devel libcurl-devel ncurses-devel pkgconf
apk add build-base sqlite-dev libpq-dev yaml-dev curl-dev ncurses-dev pkgconf
pacman -S --needed gcc make sqlite postgresql-libs libyaml curl ncurses pkgconf
brew install sqlite libpq libyaml curl ncurses pkg-config"
    ;;
test)
    apt_packages="gcc g++ libc6-dev make clang libsqlite3-dev libpq-dev postgresql pgbouncer \
libcmocka-dev libyaml-dev libcjson-dev libjansson-dev libcurl4-openssl-dev libncurses-dev pkg-config clang-tidy llvm valgrind \
ceph-mon ceph-osd radosgw jq tmux zsh groff-base"
    commands="gcc g++ make clang clang++ clang-tidy llvm-cov llvm-profdata valgrind pgbouncer pkg-config ceph-mon ceph-osd radosgw jq tmux zsh groff"
    headers="sqlite3.h libpq-fe.h curses.h cmocka.h yaml.h cjson/cJSON.h jansson.h curl/curl.h"
    other="dnf install gcc gcc-c++ make clang clang-tools-extra compiler-rt llvm valgrind libasan libubsan sqlite-devel libpq-devel postgresql-server pgbouncer libcmocka-devel libyaml-devel cjson-devel jansson-devel libcurl-devel ncurses-devel pkgconf ceph-mon ceph-osd ceph-radosgw jq tmux zsh groff
apk add build-base clang clang-extra-tools compiler-rt llvm valgrind sqlite-dev libpq-dev postgresql pgbouncer cmocka-dev yaml-dev cjson-dev jansson-dev curl-dev ncurses-dev pkgconf bash jq tmux zsh groff    (and Ceph's radosgw, or PGQRS_TEST_S3_ENDPOINT names another S3 store)
pacman -S --needed gcc make clang compiler-rt llvm valgrind sqlite postgresql pgbouncer cmocka libyaml cjson jansson curl ncurses pkgconf jq tmux zsh groff    (and Ceph's radosgw, or PGQRS_TEST_S3_ENDPOINT names another S3 store)
brew install llvm sqlite libpq postgresql pgbouncer cmocka libyaml cjson jansson curl ncurses pkg-config jq tmux groff    (radosgw is not in it: PGQRS_TEST_S3_ENDPOINT names another S3 store)"
    ;;
bench)
    apt_packages="gcc libc6-dev make clang libsqlite3-dev libpq-dev postgresql pgbouncer gnuplot-nox jq"
    commands="gcc make clang pgbouncer gnuplot jq strip"
    headers="sqlite3.h libpq-fe.h"
    other="dnf install gcc make clang binutils sqlite-devel libpq-devel postgresql-server pgbouncer gnuplot jq
apk add build-base clang sqlite-dev libpq-dev postgresql pgbouncer gnuplot jq bash
pacman -S --needed gcc make clang sqlite postgresql pgbouncer gnuplot jq
brew install llvm sqlite libpq postgresql pgbouncer gnuplot jq"
    ;;
*)
    echo "usage: $0 quickstart|cli|test|bench" >&2
    exit 2
    ;;
esac

compiler() {
    for candidate in ${CC:-} cc gcc clang; do
        if command -v "$candidate" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}

# What counts is whether the tools are there, whoever installed them; packages are only the usual way to get them.
missing_tools() {
    for tool in $commands; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null 2>&1 || echo "$tool"
    done
    cc=$(compiler)
    if [ -z "$cc" ]; then
        echo "a C compiler"
        return
    fi
    for header in $headers; do
        # cmocka.h wants these four in front of it.
        printf '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <%s>\n' "$header" |
            $cc -I"$(pg_config --includedir 2>/dev/null || echo /usr/include)" -E -x c - >/dev/null 2>&1 || echo "$header"
    done
}

by_hand() {
    echo "Install the packages with your system's package manager, for example:" >&2
    echo "$other" | sed 's/^/    /' >&2
    exit 1
}

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    missing=$(missing_tools | tr '\n' ' ')
    if [ -z "$missing" ]; then
        exit 0
    fi
    echo "Missing: $missing" >&2
    by_hand
fi

if { [ "$set_name" = quickstart ] || [ "$set_name" = cli ]; } && [ -z "$(missing_tools)" ]; then
    exit 0
fi

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]
}

# clang's sanitizers and its fuzzer need a runtime. Releases carry it as a package of its own, under a name with or
# without clang's version, or (the older ones) inside a package that clang pulls in by itself.
clang_runtime() {
    for file in /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.asan-*.a /usr/lib/clang/*/lib/linux/libclang_rt.asan-*.a; do
        [ -e "$file" ] && return
    done
    for name in libclang-rt-dev "libclang-rt-$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\).*/\1/p' | head -n 1)-dev"; do
        if apt-cache show "$name" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
}

missing_packages() {
    for package in $apt_packages; do
        is_installed "$package" || printf '%s ' "$package"
    done
    if [ "$set_name" = test ]; then
        clang_runtime | tr '\n' ' '
    fi
}

missing=$(missing_packages)
if [ -z "$missing" ]; then
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    as_root="env"
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n env"
else
    echo "These packages are missing: $missing" >&2
    echo "Install them with:" >&2
    echo "    sudo apt-get update && sudo apt-get install --no-install-recommends $missing" >&2
    exit 1
fi

echo "installing: $missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run_apt() {
    # RUNLEVEL=1 keeps the packages from starting services of their own: the tests start private servers.
    $as_root DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        echo "apt-get $* failed" >&2
        exit 1
    }
}
run_apt update
missing=$(missing_packages) # a fresh package list may know the runtime's name where an empty one did not
# shellcheck disable=SC2086
run_apt install --no-install-recommends $missing

missing=$(missing_packages)
if [ -n "$missing" ]; then
    echo "still missing after the installation: $missing" >&2
    exit 1
fi
