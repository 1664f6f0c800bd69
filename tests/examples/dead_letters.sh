#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
three labels, and no paper: 3 dead
  "Oslo"               after try 2: out of paper
  "Atlantis"           after try 1: nobody delivers to Atlantis
  "Paris"              after try 2: the handler returned PGQRS_ERR_HANDLER (-6)
paper is here, replay Paris alone: 2 dead
  "Oslo"               after try 2: out of paper
  "Atlantis"           after try 1: nobody delivers to Atlantis
  why? message 1 is done and archived
replay all: 2 replayed, then 1 dead
  "Atlantis"           after try 1: nobody delivers to Atlantis
  why? message 2 is in the dead letters since attempt 1: nobody delivers to Atlantis. Mend the cause, then replay it with pgqrs_message_replay
purge: 1 removed, 0 dead
END
