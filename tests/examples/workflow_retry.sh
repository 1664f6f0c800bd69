#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
work:
   reserve: the warehouse does not answer
   reserve: the warehouse does not answer
   reserve: done
   charge: the card is refused
the result:
   PGQRS_ERR_RUN_FAILED: run 1 of "place_order" failed in step "charge": REFUSED: the card has expired
   step "charge", code "REFUSED", message "the card has expired"
   reserve is done, retries: 2
   charge is failed, retries: 0
there is a new card; restart:
   charge: done
   success: "ordered"
   reserve is done, retries: 2
   charge is done, retries: 0
END
