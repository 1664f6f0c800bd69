#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
job 1 begins
job 1 ends
job 2 begins
   SIGTERM arrives
job 2 ends
the loop has ended: PGQRS_OK
job 1 is archived, tries: 1
job 2 is archived, tries: 1
job 3 is ready, tries: 0
job 4 is ready, tries: 0
job 5 is ready, tries: 0
END
