#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
two expenses, one with a day for the answer and one with a second:
   run 1 asks for an approval
   run 2 asks for an approval
   run 1: paused, waits for the event "answer"
   run 2: paused, waits for the event "answer"
elsewhere, Ada approves the first; that Bob refuses comes too late:
   Ada's answer is accepted
   Bob's answer is ignored
   run 1 pays, the answer is {"yes":"Ada"}
   run 1: success, "paid"
nobody looks at the second:
   run 2: success, "nobody answered in time"
END
