#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
told to stop: PGQRS_OK
every number is handled or ready: yes
all handled: PGQRS_OK, 200 of 200, sum 20100
END
