#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
refused: PGQRS_ERR_JSON
orders: 300 confirmed, 300 in the queue
clicks: 400 handed over, 400 in the queue
END
