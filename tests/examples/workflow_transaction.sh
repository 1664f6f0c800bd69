#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
   process 1: taken from Ada ... killed
ada has 100
bob has 0
   process 2: taken from Ada
   process 2: given to Bob
   process 2: after the step ... killed
ada has 70
bob has 30
   process 3: after the step
ada has 70
bob has 30
END
