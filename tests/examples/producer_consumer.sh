#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
300 jobs enqueued
0 lost, 0 done twice
the queue says: 300 archived, 0 unfinished, 0 dead
END
