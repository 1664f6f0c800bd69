#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
refused because of item 2
taken:    10 20 30
next:     40 50 60
again:    PGQRS_ERR_LEASE_LOST
again:    PGQRS_ERR_LEASE_LOST
again:    PGQRS_ERR_LEASE_LOST
saved:    2
dead:     -80, a length cannot be negative
dead:     30, sensor 30 is being repaired
END
