#!/usr/bin/env bash
# Plots the JSON lines of the benchmarks: SVG and PNG.
#
#   bench/plots.sh RESULTS DIRECTORY
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
results=$1
out=$2
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgqrs-plots.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# rows BENCH BACKEND FIELD... prints those fields of the matching lines, one line each.
rows() {
    local bench=$1 backend=$2
    shift 2
    awk -f "$here/json.awk" -f <(
        cat <<'AWK'
{
    parse($0)
    if (value["bench"] != bench || value["backend"] != backend) next
    n = split(fields, wanted, " ")
    for (i = 1; i <= n; i++) printf "%s%s", value[wanted[i]], i < n ? "\t" : "\n"
}
AWK
    ) -v bench="$bench" -v backend="$backend" -v fields="$*" "$results"
}

# plot NAME: what gnuplot is to draw comes in on stdin; nothing is drawn for a table that was left out.
plot() {
    local name=$1 data=$2 commands terminal
    [ -s "$data" ] || return 0
    commands=$(cat)
    for terminal in 'svg size 900,500 dynamic background "white":svg' 'pngcairo size 900,500:png'; do
        gnuplot <<END
set terminal ${terminal%:*}
set output "$out/$name.${terminal##*:}"
set datafile separator "\t"
set datafile missing "NaN"
set grid ytics
set key outside right
$commands
END
    done
}

for backend in postgres sqlite; do
    rows drain "$backend" consumers batch of_floor >"$scratch/drain.tsv"
    plot "drain-$backend" "$scratch/drain.tsv" <<END
set title "$backend: drain of a backlog, ratio to the floor"
set logscale y
set logscale x 2
set xlabel "consumers"
set xtics (1, 2, 4)
set ylabel "messages per commit of the floor"
plot for [b in "1 10 50"] "$scratch/drain.tsv" using (\$2 == b ? \$1 : NaN):3 with linespoints linewidth 2 pointtype 7 title "batch ".b, 1 title "floor" dashtype 2 linecolor "black"
END
    rows enqueue "$backend" group of_floor lowest highest >"$scratch/enqueue.tsv"
    plot "enqueue-$backend" "$scratch/enqueue.tsv" <<END
set title "$backend: enqueue, ratio to the floor"
set logscale xy
set xlabel "messages in one call"
set ylabel "messages per commit of the floor"
plot "$scratch/enqueue.tsv" using 1:2 with lines linewidth 2 title "median", "" using 1:2:3:4 with yerrorbars pointtype 7 title "lowest, highest", 1 title "floor" dashtype 2 linecolor "black"
END
    rows steady "$backend" load p50_ms p95_ms p99_ms floor_ms >"$scratch/steady.tsv"
    plot "steady-$backend" "$scratch/steady.tsv" <<END
set title "$backend: from enqueue to consumer"
set style data histograms
set style fill solid 0.7
set logscale y
set yrange [0.01:*]
set ylabel "ms"
plot "$scratch/steady.tsv" using 2:xtic(1) title "p50", "" using 3 title "p95", "" using 4 title "p99", "" using 5 title "floor p50"
END
    for bench in handlers producer runs; do
        rows "$bench" "$backend" threads of_floor lowest highest >>"$scratch/pool-$backend-$bench.tsv"
    done
    plot "threads-$backend" "$scratch/pool-$backend-handlers.tsv" <<END
set title "$backend: threads on one connection, ratio to the floor"
set logscale y
set xlabel "threads (0: the caller's)"
set xtics (0, 1, 4, 16)
set ylabel "per commit of the floor"
plot for [b in "handlers producer runs"] "$scratch/pool-$backend-".b.".tsv" using 1:2:3:4 with yerrorlines linewidth 2 pointtype 7 title b, 1 title "floor" dashtype 2 linecolor "black"
END
done
rows pinned_window postgres until_s dequeue_p50_ms dequeue_p99_ms floor_p50_ms backlog >"$scratch/pinned.tsv"
plot pinned "$scratch/pinned.tsv" <<END
set title "postgres: 4,000 messages a second beside an old transaction"
set xlabel "s"
set ylabel "ms"
set y2label "messages"
set y2tics
set yrange [0:*]
set y2range [0:*]
plot "$scratch/pinned.tsv" using 1:2 with linespoints linewidth 2 title "dequeue p50", "" using 1:3 with linespoints title "dequeue p99", "" using 1:4 with lines dashtype 2 title "floor p50", "" using 1:5 axes x1y2 with lines title "backlog (right)"
END
rows processes sqlite processes of_one_process median_worst_wait_ms >"$scratch/processes.tsv"
plot processes-sqlite "$scratch/processes.tsv" <<END
set title "sqlite: processes on one file"
set xlabel "processes"
set xtics (1, 2, 4)
set ylabel "throughput, of one process"
set y2label "longest wait, ms"
set y2tics
set yrange [0:*]
set y2range [0:*]
plot "$scratch/processes.tsv" using 1:2 with linespoints linewidth 2 pointtype 7 title "throughput", "" using 1:3 axes x1y2 with linespoints linewidth 2 pointtype 5 title "longest wait (right)"
END
