#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
higher priority first, then in order of arrival
  cook: "the mayor's steak" "soup" "salad" "yesterday's guest"
not before: a delay, or a point in time
  cook: nothing
2 hours pass
  cook: "snack in 2 hours"
4 hours pass
  cook: "breakfast at 6"
not after: what nobody has started in time is archived as expired
3 hours pass
  cook: "stew"
  "flambee" is archived: expired
only once: a key is unique while its message is unfinished
  the second is a duplicate, the ids are equal
  cook: "bill for table 7"
  the first is done, so the third is new
  cook: "bill for table 7"
END
