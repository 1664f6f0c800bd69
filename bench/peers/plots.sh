#!/usr/bin/env bash
# Plots what bench/peers/run.sh measured: SVG and PNG, a bar for each system.
#
#   bench/peers/plots.sh RESULTS DIRECTORY
set -euo pipefail

results=$1
out=$2
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgqrs-plots.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# A system has the same colour in all plots.
colour() {
    case $1 in
    pgqrs.h) echo "#c00000" ;;
    pgqrs.h-single) echo "#f4a6a0" ;;
    pgqrs.h-pool) echo "#d6579a" ;;
    graphile-worker) echo "#0072b2" ;;
    pg-boss) echo "#7ec8f2" ;;
    river) echo "#009e73" ;;
    procrastinate) echo "#e69f00" ;;
    pgqrs-rust) echo "#7a4a21" ;;
    pgqrs-python) echo "#d9c72f" ;;
    dbos) echo "#8a2be2" ;;
    litequeue) echo "#8c8c8c" ;;
    *) echo "#202020" ;;
    esac
}

# bars SCENARIO BACKEND FIELD TITLE LABEL: groups are the cells, the medians of the systems stand side by side.
bars() {
    local scenario=$1 backend=$2 field=$3 title=$4 label=$5 data=$scratch/bars.tsv clauses='' column=2 peer terminal
    jq -s -r --arg scenario "$scenario" --arg backend "$backend" --arg field "$field" '
        def median: sort | .[length / 2 | floor];
        def unique_in_order: reduce .[] as $x ([]; if index([$x]) then . else . + [$x] end);
        map(select(.scenario == $scenario and .backend == $backend and .[$field])) as $all
        | ($all | map(.peer) | unique_in_order) as $peers
        | if ($peers | length) < 2 then empty else
            (["cell"] + $peers | @tsv),
            ($all | map(.cell) | unique_in_order[] | . as $cell
             | [if $cell == "-" then $scenario else $cell end] + [$peers[] as $peer
                | [$all[] | select(.cell == $cell and .peer == $peer) | .[$field]] | if . == [] then "NaN" else median end] | @tsv)
          end' "$results" >"$data"
    [ -s "$data" ] || return 0
    for peer in $(head -n 1 "$data" | cut -f2-); do
        clauses="$clauses${clauses:+, }\"$data\" every ::1 using $column:xtic(1) title \"$peer\" linecolor rgb \"$(colour "$peer")\""
        column=$((column + 1))
    done
    for terminal in 'svg size 900,500 dynamic background "white":svg' 'pngcairo size 900,500:png'; do
        gnuplot <<END
set terminal ${terminal%:*}
set output "$out/peers-$scenario-$backend.${terminal##*:}"
set datafile separator "\t"
set datafile missing "NaN"
set title "$title"
set ylabel "$label"
set style data histograms
set style fill solid 0.8
set boxwidth 0.9
set logscale y
set grid ytics
set key outside right
plot $clauses
END
    done
}

for backend in postgres sqlite; do
    bars drain $backend per_s "$backend: drain of a backlog, consumers x batch" "messages a second"
    bars enqueue $backend per_s "$backend: enqueue, messages in one call" "messages a second"
    bars handlers $backend per_s "$backend: one-message handlers, concurrency" "messages a second"
    bars workflow $backend per_s "$backend: workflow of three steps, concurrency" "runs a second"
done
bars million postgres per_s "postgres: a backlog of a million, one consumer, batch 10" "messages a second"
bars steady postgres p99_ms "postgres: steady state at each one's peak, at half of it, at 200/s" "p99, ms"
bars pinned postgres p99_ms "postgres: beside an old transaction, at half of each one's peak, at the least of these" "p99, ms"
bars wakeup postgres p50_ms "postgres: from enqueue to a sleeping worker" "p50, ms"
