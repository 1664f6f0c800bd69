#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
line read:  A
job done:   {"line":"A"}
line read:  B
job done:   {"line":"B"}
job done:   {"from":"elsewhere"}
END
