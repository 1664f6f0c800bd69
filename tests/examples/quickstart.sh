#!/bin/sh
. "$(dirname "$0")/expect.sh"

"$1" >all.txt
expect sed "s|$(pwd -P)|WHERE|" all.txt <<'END'
1. A queue is a name in a database; here the database is the file jobs.db. A failed message
   comes back after 0.2 s, then 0.4 s, 0.8 s, ... and is given up after 5 tries.

2. Enqueue. When pgqrs_enqueue returns, the message is on the disk: pull the plug, it is still there.
          {"to":"ada@example.com"}
          {"to":"grace@example.com"}
          {"to":"alan@example.net"}

3. Work, until nothing is left to do. One function gets every message:
   try 1  {"to":"ada@example.com"}        sent: archived
   try 1  {"to":"grace@example.com"}      the mail server is busy: retry, a little later
   try 1  {"to":"alan@example.net"}       no such domain: to the dead letters
   try 2  {"to":"grace@example.com"}      sent: archived

4. What could not be done is not lost. It waits among the dead letters, with the reason:
   dead   {"to":"alan@example.net"}       no such domain

5. Somebody registers the domain. Replay the dead letters and work again:
   try 1  {"to":"alan@example.net"}       sent: archived

6. A workflow is a function made of steps; what a step gave is stored before the next one begins.
   Here the process that runs it is killed in the middle (SIGKILL: it cannot even say goodbye):
   download    "film.raw"
   transcode   half-way ... KILLED

7. Another process. It finds the run a second later, and goes on where the first one was:
   download    was done before: "film.raw"
   transcode   "film.mp4"
   publish     "https://example.com/film"
   the run ended with success: "https://example.com/film"

That was all: no server, no daemon. Everything is in one SQLite file, open to plain SQL:

   cd WHERE
   sqlite3 -box jobs.db 'SELECT id, state, attempt, payload FROM pgqrs_message_view'
   sqlite3 -box jobs.db 'SELECT run_id, number, name, state, output FROM pgqrs_step_view'

The same program works on Postgres when you include pgqrs.h and open postgresql://...
END
# The commands it prints must work. Only the sqlite3 program is not something the tests insist on.
if command -v sqlite3 >/dev/null; then
    sed -n 's/^ *sqlite3 -box/sqlite3 -list/p' all.txt | sh >rows.txt
    expect cat rows.txt <<'END'
1|archived|1|{"to":"ada@example.com"}
2|archived|2|{"to":"grace@example.com"}
3|archived|1|{"to":"alan@example.net"}
4|archived|2|null
4|1|download|done|"film.raw"
4|2|transcode|done|"film.mp4"
4|3|publish|done|"https://example.com/film"
END
fi
