#!/bin/sh
. "$(dirname "$0")/expect.sh"

if [ -z "${PGQRS_DSN:-}" ]; then
    status=0
    "$1" 2>message.txt || status=$?
    test "$status" = 2
    expect cat message.txt <<'END'
Set PGQRS_DSN to a Postgres database, as in postgresql://user:password@host/database
END
    exit
fi

expect "$1" <<'END'
begin, insert the order, enqueue the job, commit:   1 orders, 1 jobs to do
begin, insert the order, enqueue the job, rollback: 1 orders, 1 jobs to do
a refused job does not harm the transaction:        2 orders, 2 jobs to do
take a job, do it, archive it, in one transaction:  2 orders, 1 jobs to do
END
