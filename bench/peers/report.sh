#!/usr/bin/env bash
# Makes the report and the plots of what bench/peers/run.sh measured.
#
#   bench/peers/report.sh RESULTS DIRECTORY
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
jq -s -r --slurpfile systems "$here/systems.json" -f "$here/report.jq" "$1" >"$2/PEERS.md"
if command -v gnuplot >/dev/null 2>&1; then
    "$here/plots.sh" "$1" "$2"
else
    echo "gnuplot is not there, so nothing is plotted" >&2
fi
