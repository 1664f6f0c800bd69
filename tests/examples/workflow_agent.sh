#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
   process 1 thinks {"look_up":"Oslo"}
   process 1 observes {"Oslo":4}
   process 1 thinks {"look_up":"Rome"}
   process 1 is killed
seen from outside: progress is {"turn":2,"doing":{"look_up":"Rome"}}
   process 2 observes {"Rome":21}
   process 2 thinks {"answer":"Rome is warmer"}
   process 2 tells mail
   process 2 tells chat
seen from outside: progress is {"turn":2,"doing":{"look_up":"Rome"}}
"Is it warmer in Oslo or in Rome?" {"answer":"Rome is warmer"}
END
