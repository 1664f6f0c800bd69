#!/usr/bin/env bash
# The command-line tool on a bucket: everyday commands, and copies from SQLite into it and back with a run under way, the first one interrupted.
. "$(dirname "$0")/cli.sh"
flow=$root/build/test/cli_flow
"${PGQRS_TEST_S3_SERVER:-$root/build/test/s3_server}" port_file="$scratch/port" bucket=shop access_key=me secret_key=hunter2 >/dev/null &
server=$!
trap 'kill $server 2>/dev/null; rm -rf "$scratch"' EXIT
soon "the server is there" test -s "$scratch/port"
export AWS_ENDPOINT_URL_S3=http://127.0.0.1:$(<"$scratch/port") AWS_ACCESS_KEY_ID=me AWS_SECRET_ACCESS_KEY=hunter2
export XDG_CACHE_HOME=$scratch/cache
bucket=s3://shop/jobs.sqlite

# --- every day
export PGQRS_DSN=$bucket
gives "install" 0 pgqrs install
gives "a queue" 0 pgqrs queue create mail
json "a message" '.id > 0' pgqrs message send mail '{"to":"ada"}'
gives "lines" 0 bash -c 'seq 1 20 | pgqrs message send mail --lines'
gives "work" 0 pgqrs work mail --until-empty -- cat
has "gave the payload" '{"to":"ada"}' "$out"
json "all archived" '.archived == 21 and .ready == 0' pgqrs queue metrics mail
gives "verify" 0 pgqrs verify
gives "doctor" 0 pgqrs doctor
gives "a wrong key" 4 env AWS_SECRET_ACCESS_KEY=wrong XDG_CACHE_HOME="$scratch/other" pgqrs queue list
is "shows no secret" "" "$(printf '%s' "$err" | grep -E 'hunter2|wrong' || true)"
gives "no such bucket" 2 env XDG_CACHE_HOME="$scratch/other" pgqrs -d s3://nowhere/jobs.sqlite queue list
has "is said" "nowhere" "$err"

# --- local mode, from the environment
gives "local mode" 0 env PGQRS_S3_MODE=local PGQRS_S3_CACHE_DIR="$scratch/local" pgqrs -d s3://shop/notes.sqlite install
gives "whose changes stay here" 0 env PGQRS_S3_MODE=local PGQRS_S3_CACHE_DIR="$scratch/local" pgqrs -d s3://shop/notes.sqlite queue create notes
is "the bucket has nothing of it" "no" "$(pgqrs -d s3://shop/notes.sqlite queue get notes >/dev/null 2>&1 && echo yes || echo no)"

# --- from SQLite into the bucket and back
first=sqlite://$scratch/first.db second=s3://shop/copy.sqlite third=sqlite://$scratch/third.db
export PGQRS_DSN=$first
pgqrs install >/dev/null
pgqrs queue create mail --max-attempts 4 >/dev/null
seq 1 400 | pgqrs message send mail --lines >/dev/null
pgqrs message dequeue mail >/dev/null
pgqrs workflow create expense --max-retries 0 >/dev/null
lunch=$(pgqrs run trigger expense '"lunch"' --key lunch-1 --format json | jq .id)
gives "a worker" 0 "$flow"
pgqrs run send-event "$lunch" answer '{"by":"ada"}' >/dev/null
asked=$(pgqrs run steps "$lunch" --format json | jq -c '.[0]')
pgqrs copy "$first" "$second" --yes --force >/dev/null 2>&1 &
copier=$!
sleep 0.2
kill -KILL "$copier" 2>/dev/null
wait "$copier" 2>/dev/null
json "into the bucket, begun again" 'all(.equal)' pgqrs copy "$first" "$second" --yes --force
cp out there.json
gives "the copy is whole" 0 pgqrs -d "$second" verify
json "and back" 'all(.equal)' pgqrs copy "$second" "$third" --yes
is "with the same checksums" "$(jq -c 'map([.name, .kind, .count, .checksum]) | sort' there.json)" "$(jq -c 'map([.name, .kind, .count, .checksum]) | sort' out)"
gives "the last copy is whole" 0 pgqrs -d "$third" verify
for at in "$second" "$third"; do
    export PGQRS_DSN=$at
    pgqrs queue resume expense >/dev/null
done
json "the run goes on" '.state == "queued" or .state == "paused" or .state == "success"' pgqrs run show "$lunch"
gives "where it is" 0 "$flow"
json "after its last step" '.state == "success" and .output == {"by":"ada"}' pgqrs run show "$lunch"
is "which was not done again" "$asked" "$(pgqrs run steps "$lunch" --format json | jq -c '.[0]')"
tap_end
