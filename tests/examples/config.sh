#!/bin/sh
. "$(dirname "$0")/expect.sh"

program=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
PGQRS_DSN=${PGQRS_DSN:-sqlite://jobs.db}
export PGQRS_DSN
case $PGQRS_DSN in
sqlite*) backend=sqlite ;;
*) backend=postgres ;;
esac

PGQRS_SCHEMA=configured PGQRS_DEFAULT_LOCK_TIME=90 PGQRS_MAX_READ_CT=3 PGQRS_DEFAULT_BATCH_SIZE=7 \
    PGQRS_POLL_INTERVAL_MS=100 PGQRS_VALIDATION_CONFIG='{"max_object_depth": 8, "forbidden_keys": ["password"]}' \
    expect "$program" <<END
backend:       $backend
schema:        configured
lease:         90000 ms
max attempts:  3
batch:         7
poll interval: 100 ms
max depth:     8
forbidden key: password
queue jobs:    90000 ms, 3 attempts
END

# What cannot be used ends the program and is named.
refused() {
    status=0
    "$@" 2>message.txt || status=$?
    test "$status" = 2
    expect cat message.txt
}
refused env PGQRS_MAX_READ_CT=many "$program" <<'END'
PGQRS_MAX_READ_CT must be a whole number from 1 to 32767
END
refused env -u PGQRS_DSN "$program" <<'END'
no DSN: set PGQRS_DSN, or dsn in pgqrs.yaml, for example to sqlite://jobs.db
END

# The same program, built with YAML. The environment wins over the file.
# shellcheck disable=SC2046
"${CC:-cc}" -std=c99 -DPGQRS_YAML -I"$root" -isystem "$(pg_config --includedir)" "$root/examples/config.c" -o with_yaml \
    $("$root/tests/libs.sh" "$root/examples/config.c" -DPGQRS_YAML)
cat >pgqrs.yaml <<'END'
dsn: sqlite://not_used.db
schema: from_the_file
default_lock_time_seconds: 45
max_read_ct: 9
validation_config:
  forbidden_keys: [password, token]
END
PGQRS_MAX_READ_CT=2 expect ./with_yaml <<END
backend:       $backend
schema:        from_the_file
lease:         45000 ms
max attempts:  2
batch:         16
poll interval: 250 ms
max depth:     64
forbidden key: password
forbidden key: token
$(if [ $backend = sqlite ]; then echo "queue jobs:    90000 ms, 3 attempts"; else echo "queue jobs:    45000 ms, 2 attempts"; fi)
END
test ! -e not_used.db
