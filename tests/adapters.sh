#!/usr/bin/env bash
# The HTTP adapters of examples/ as people use them: copied beside the headers, included behind pgqrs_s3.h, in C and in C++, with
# every warning. What they do is tested by test_s3_http.c.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
out=$root/build/adapters
flags="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Werror"

. "$here/tap.sh"
rm -rf "$out"
mkdir -p "$out"

cat >"$out/both.c" <<'END'
#define PGQRS_IMPLEMENTATION
#include "pgqrs_s3.h"
#include "examples/http_curl.h"
#include "examples/http_socket.h"

int main(void)
{
    http_curl *curl = http_curl_create();
    http_socket *plain = http_socket_create();
    pgqrs_http by_curl, by_socket;
    if (!curl || !plain) return 1;
    by_curl = http_curl_callback(curl);
    by_socket = http_socket_callback(plain);
    if (!by_curl.exchange || by_curl.user != curl || !by_socket.exchange || by_socket.user != plain) return 1;
    http_curl_destroy(curl);
    http_socket_destroy(plain);
    http_curl_destroy(NULL);
    http_socket_destroy(NULL);
    return 0;
}
END
cp "$out/both.c" "$out/both.cpp"

use() { # COMPILER STANDARD SUFFIX
    # shellcheck disable=SC2086
    "$1" "-std=$2" -O0 $flags -I"$root" "$out/both.$3" -o "$out/both" -lcurl -lsqlite3 -pthread && timeout 30 "$out/both"
}

for standard in c99 c17; do
    for cc in gcc clang; do tap_check "$cc $standard" "$out/log" use "$cc" "$standard" c; done
done
for standard in c++11 c++20; do
    for cc in g++ clang++; do tap_check "$cc $standard" "$out/log" use "$cc" "$standard" cpp; done
done
tap_end
