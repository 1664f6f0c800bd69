#!/usr/bin/env bash
# The command-line tool on a bucket: everyday commands, local mode. Copies into it and out of it are in cli_copy.sh.
. "$(dirname "$0")/cli.sh"
start_bucket
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
gives "no credentials" 2 env -u AWS_SECRET_ACCESS_KEY pgqrs queue list
has "are named as variables" "AWS_SECRET_ACCESS_KEY" "$err"
is "and not as what a C program sets" "" "$(printf '%s' "$err" | grep pgqrs_s3_desc || true)"
gives "the help" 0 pgqrs --help
for variable in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AWS_ENDPOINT_URL_S3 PGQRS_S3_MODE PGQRS_S3_CACHE_DIR; do
    has "names $variable" "$variable" "$out"
done
gives "a wrong region" 2 env AWS_REGION=eu-north-1 XDG_CACHE_HOME="$scratch/other" pgqrs queue list
has "names the right one" "us-east-1" "$err"
gives "nobody there" 4 env AWS_ENDPOINT_URL_S3=http://127.0.0.1:1 XDG_CACHE_HOME="$scratch/other" timeout 8 pgqrs queue list
has "names the endpoint" "http://127.0.0.1:1" "$err"
gives "no such bucket" 2 env XDG_CACHE_HOME="$scratch/other" pgqrs -d s3://nowhere/jobs.sqlite queue list
has "is said" "nowhere" "$err"

# --- deleted by somebody
PGQRS_TEST_S3_ENDPOINT=$AWS_ENDPOINT_URL_S3 PGQRS_TEST_S3_ACCESS_KEY=me PGQRS_TEST_S3_SECRET_KEY=hunter2 \
    "$root/build/test/s3_request" DELETE /shop/jobs.sqlite >/dev/null 2>&1
gives "an object that is gone" 1 pgqrs queue list
has "says what to do" "pgqrs install --again" "$err"
gives "install does not make it anew by itself" 1 pgqrs install
gives "install --again does" 0 pgqrs install --again
gives "and it is empty" 0 pgqrs queue list
gives "which is no way around what is there" 1 pgqrs install --again

# --- local mode, from the environment
gives "local mode" 0 env PGQRS_S3_MODE=local PGQRS_S3_CACHE_DIR="$scratch/local" pgqrs -d s3://shop/notes.sqlite install
gives "whose changes stay here" 0 env PGQRS_S3_MODE=local PGQRS_S3_CACHE_DIR="$scratch/local" pgqrs -d s3://shop/notes.sqlite queue create notes
is "the bucket has nothing of it" "no" "$(pgqrs -d s3://shop/notes.sqlite queue get notes >/dev/null 2>&1 && echo yes || echo no)"
tap_end
