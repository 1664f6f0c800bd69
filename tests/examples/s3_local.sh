#!/bin/sh
. "$(dirname "$0")/expect.sh"

program=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
"${PGQRS_TEST_S3_SERVER:-$root/build/test/s3_server}" port_file="$PWD/port" bucket=shop access_key=me secret_key=mine >/dev/null &
server=$!
trap 'kill $server' EXIT
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -s port ] || sleep 0.2
done
AWS_ENDPOINT_URL_S3=http://127.0.0.1:$(cat port) AWS_ACCESS_KEY_ID=me AWS_SECRET_ACCESS_KEY=mine XDG_CACHE_HOME=$PWD/cache
export AWS_ENDPOINT_URL_S3 AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY XDG_CACHE_HOME
expect "$program" s3://shop/notes.sqlite <<'END'
laptop: both sides have changed; mine is done again on theirs
desk: fetches what is new
2 notes on the desk
END
