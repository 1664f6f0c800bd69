#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
sending {"to":"ada@example.com"}
END
# The queue is a file that is there afterwards: a second run finds nothing old to do.
test -s jobs.db
expect "$1" <<'END'
sending {"to":"ada@example.com"}
END
