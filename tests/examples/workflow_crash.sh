#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
   process 1: download
   process 1: transcode ... killed
   process 2: transcode
   process 2: publish ... killed
   process 3: publish
run 1: success after 3 deliveries, "https://example.com/film"
   step 1: download   "film.raw"
   step 2: transcode  "film.mp4"
   step 3: publish    "https://example.com/film"
END
