# The JSON lines of run.sh as a report in Markdown, beside what systems.json says of each system: jq -s -r --slurpfile systems systems.json
def median: sort | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def text:
  if . == null then "–"
  elif . >= 100 then round | tostring
  elif . >= 10 then . * 10 | round / 10 | tostring
  elif . >= 0.1 then . * 100 | round / 100 | tostring
  else . * 1000 | round / 1000 | tostring end;
def thousands: if . == null then "–" else round | tostring | gsub("(?<a>[0-9])(?=([0-9]{3})+$)"; "\(.a),") end;
def row: "| " + join(" | ") + " |";
def table($heads): ($heads | row), ($heads | map("---") | row), (.[] | row);
def ours: "pgqrs.h";

# The turns of one system in one cell as one object: medians, and the lowest and the highest rate.
def summary:
  . as $turns
  | map(select(.error | not)) as $good
  | {scenario: .[0].scenario, cell: .[0].cell, backend: .[0].backend, peer: .[0].peer, turns: ($good | length),
     failed: ($turns | map(select(.error)) | length)}
    + ($good | map(to_entries[] | select(.value | type == "number")) | group_by(.key)
       | map({key: .[0].key, value: (map(.value) | median)}) | from_entries)
    + {lowest: ($good | map(.per_s) | min), highest: ($good | map(.per_s) | max), note: ($good | map(.note // empty) | first)};

def cells($turns):
  [$turns | group_by([.scenario, .backend, .cell, .peer])[] | summary];

# How often the systems took their turn in the cells of a scenario: a number, or from the least to the most.
def turns_in_cells:
  [group_by([.backend, .cell, .peer])[] | map(.round) | max] | (min | tostring) as $least | (max | tostring) as $most
  | if $least == $most then $most else "\($least) to \($most)" end;

# In the order in which they were measured first.
def unordered_unique: reduce .[] as $x ([]; if index([$x]) then . else . + [$x] end);

def scenario_titles: {
  drain: "Drain of a backlog",
  enqueue: "Enqueue",
  handlers: "One-message handlers",
  steady: "Steady state",
  pinned: "Steady state beside an old transaction",
  million: "A backlog of a million",
  idle: "Idle",
  wakeup: "Waking up",
  workflow: "A durable workflow of three steps",
  chaos: "Chaos"
};
def scenario_texts: {
  drain: "Cells are consumers x batch. Each consumer is a process of its own that takes up to a batch at once and acknowledges it. How many messages a consumer has in hand (taken, not acknowledged) differs. pgqrs.h and pg-boss: one fetch after the other, a batch in hand. graphile-worker has no such call: it runs as many handlers as the batch (24 at most) beside a local queue of the size of the batch, so at batch 10 ten are being worked on and ten wait, 20 in hand, at batch 50 74; what is done and not yet acknowledged comes on top, without a limit (its rows with locked_at are mostly one or two batches, at times several). pgqrs.h-pool works as it does, with as many in hand: as many handlers of one message each, and at most 20, or 74, taken and not acknowledged. Until nothing is left, or the time is over; a run that handed in less than the backlog was ended by the time.",
  enqueue: "Cells are messages in one call, one connection, one call after the other; every call is a commit of its own.",
  handlers: "Cells are the concurrency: one process, handlers that do nothing, one message each.",
  steady: "One producer, and handlers at concurrency 4 in another process, which are there a second before it. The row of the rate peak: the producer enqueues one message after the other as fast as it can; what is handled meanwhile is this system's peak. half: messages are due at half of that, so every system has another rate. 200: at 200 a second for all. From when a message was due until its handler has it; its commit belongs to it.",
  pinned: "At half of its peak, while another session holds a snapshot open, so that no dead row can be removed; pgqrs.h also at the rate of the slowest, for a comparison at equal rates. Late over early: p50 in the last third of the time over p50 in the first.",
  million: "One consumer, batch 10, a backlog of 1,000,000, for some seconds; not DBOS, which has no bulk enqueue.",
  idle: "Handlers at concurrency 4 that get nothing. Per second, not per message; the transactions are those of the beginning, too. Client: all threads of the system's program. Its server processes: the backends that are connected to its database, and what these start. Both to the nanosecond (schedstat of each process), from three seconds after it began, with a look every quarter of a second, so that a backend that comes or goes in between counts for what it did meanwhile; one that came and went between two looks does not, and is told of as not seen. Background: everything else of the server, processes that ended meanwhile included: postmaster, autovacuum (which goes round the databases of all systems here every 5 s, one after the other), checkpointer, writers; in steps of 10 ms. It is nobody's: nobody is the same server, with an empty database and nobody connected, measured in the same way in the same run, to subtract.",
  wakeup: "20 messages a second, each after the last one is done: from when it was due, its commit included, until a handler has it.",
  workflow: "Cells are the concurrency. Runs of three steps, each stored, wait already; runs per second.",
  chaos: "Numbered messages, handlers of 5 ms at concurrency 4, each acknowledged by itself. When a quarter is done something happens: the server is restarted (pg_ctl -m immediate), all the system's connections are ended by pg_terminate_backend, or the worker process is killed and another one started. A worker that ends is started again. For the killed worker leases are 5 s where they can be set (pgqrs.h lease_ms, pg-boss expireInSeconds, River RescueStuckJobsAfter, pgqrs in Rust default_lock_time_seconds), otherwise as by default. A system that does not go on within 15 s (a short run: 6 s) is not waited for. A message whose handler has returned and whose acknowledgement is under way when the worker dies is handled twice with every system here: the handler writes a line to a file, which no database knows of. Where the effect of a handler is in the same database it need not be so: the second table. Longest pause: between two handled messages after that. All done: seconds until the last one was handled; –: not within the time. Waiting: not handled within the time, but still in the tables. Lost: neither handled nor there. Twice: handled more than once."
};

def ratio($other): if . == null or $other == null or $other == 0 then null else . / $other end;

def rate_table($here):
  $here | map(. as $c | ($here | map(select(.peer == ours and .cell == $c.cell and .backend == $c.backend)) | first | .per_s) as $our
    | if .turns == 0 then [.cell, .peer, "failed", "", "", "", "", "", "", "", "", ""] else
      [.cell, .peer, (.per_s | thousands), "\(.lowest | thousands)–\(.highest | thousands)",
       (if .peer == ours then "" else ($our | ratio($c.per_s) | text) + "×" end), (.done | thousands),
       (.client_cpu_us | text), (.server_cpu_us | text), (.wal_bytes | text), (.dead_rows | text), (.writes | text), (.client_rss_kb / 1024 | text)] end)
  | table(["cell", "system", "per second", "lowest–highest", "pgqrs.h is", "messages", "client CPU µs", "server CPU µs", "log bytes", "dead rows", "commits", "client MB"]);

def latency_table($here):
  $here | map(if .turns == 0 then [.cell, .peer, "failed", "", "", "", "", "", "", "", ""] else
      [.cell, .peer, (.per_s | thousands), (.p50_ms | text), (.p95_ms | text), (.p99_ms | text), (. as $c | .late_p50_ms | ratio($c.early_p50_ms) | text),
       (.left | text), (.client_cpu_us | text), (.server_cpu_us | text), (.dead_rows | text)] end)
  | table(["rate", "system", "per second", "p50 ms", "p95 ms", "p99 ms", "late over early", "left over", "client CPU µs", "server CPU µs", "dead rows"]);

def idle_table($here):
  $here | map(if .turns == 0 then [.peer, "failed", "", "", "", "", "", "", "", ""] else
      [.peer, (.client_cpu_us / 1000 | text), (.server_cpu_us / 1000 | text), ((.client_cpu_us + .server_cpu_us) / 1000 | text),
       (if .background_cpu_us then .background_cpu_us / 1000 | text else "in its server processes" end),
       ((.connections | text) + if (.connections_unseen // 0) > 0 then " (\(.connections_unseen | text) not seen)" else "" end),
       (.transactions | text), (.writes | text), (.wal_bytes | text), (.client_rss_kb / 1024 | text)] end)
  | table(["system", "client CPU ms/s", "its server processes ms/s", "both", "background ms/s", "connections made", "transactions/s", "of them writing", "log bytes/s", "client MB"]);

def chaos_table($here):
  $here | map(if .turns == 0 then [.cell, .peer, "failed", "", "", "", "", "", "", ""] else
      [.cell, .peer, (.done | thousands), (if .pause_s < 0 then "–" else (.pause_s | text) end), (.complete_s | text), (.lost | text), (.waiting | text), (.twice | text), (.restarts | text)] end)
  | table(["what happens", "system", "handled", "longest pause s", "all done s", "lost", "waiting", "twice", "started again"]);

def effects_table($here):
  $here | map(if .turns == 0 then [.cell, .peer, "failed", "", "", "", "", "", "", "", ""] else
      [.cell, .peer, ($systems[0][.peer].effects // "no" | test("^yes") | if . then "yes" else "no" end), (.done | thousands),
       (if .pause_s < 0 then "–" else (.pause_s | text) end), (.complete_s | text), (.lost | text), (.waiting | text), (.twice | text), (.again | text), (.restarts | text)] end)
  | table(["what happens", "system", "in one transaction", "effects", "longest pause s", "all done s", "lost", "waiting", "twice", "comes again", "started again"]);

def has_effects: .scenario == "chaos" and (.cell | endswith("-tx"));

# The cells of the chaos in which the effect is a row in the system's own database.
def effects_part($rows):
  ($rows | map(select(has_effects))) as $here
  | if $here == [] then empty else
    "", "Effects in the same database: each handler inserts a row into a table there, which has no unique constraint, and the rows are counted. The backends are ended ten times, the worker is killed five times, from a quarter of the messages to three quarters; the server is restarted once. All done: after the last time. Comes again: the effect is there, and at the end of the turn its message is not acknowledged, so there will be a second effect (where a dead worker's messages come back after hours, that is how it shows). Effect and acknowledgement in one transaction:", "",
    ($here | map(.peer) | unordered_unique | map(. as $p | "- \($p): \($systems[0][$p].effects // "no")")[]), "",
    effects_table($here) end;

def scenario_section($cells; $name; $about):
  ($cells | map(select(.scenario == $name))) as $here
  | if $here == [] then empty else
    "", "## \(scenario_titles[$name])", "", scenario_texts[$name],
    ($here | map(.backend) | unordered_unique[] | . as $backend
     | ($here | map(select(.backend == $backend))) as $rows
     | "", "On \(if $backend == "postgres" then "Postgres" else "SQLite" end):", "",
       (if $name == "chaos" then chaos_table($rows | map(select(has_effects | not))), effects_part($rows) elif $name == "idle" then idle_table($rows)
        elif $name == "steady" or $name == "pinned" or $name == "wakeup" then latency_table($rows) else rate_table($rows) end)),
    "", "Again: `\(if $about.quick then "QUICK=1 " else "" end)SCENARIOS=\($name) make bench-peers`; one cell: `CELLS=\"\($here[0].cell)\"` in front; one system beside pgqrs.h: `PEERS=\"pgqrs.h \($here | map(.peer) | map(select(startswith(ours) | not)) | first // ours)\"`."
    end;

def same_rate($other): (.per_s - $other.per_s | fabs) <= 0.05 * $other.per_s;

# Beside a comparison of latencies at half of each one's peak: the same at the rate that is the same for all.
def at_equal_rate($cells; $c; $our):
  if $c.cell != "half" or ($our | same_rate($c)) then "" else
    ([ours, $c.peer] | map(. as $peer | $cells | map(select(.scenario == "steady" and .cell == "200" and .backend == $c.backend and .peer == $peer)) | first | .p99_ms)) as $p
    | "; not the same rate" + if $p[0] and $p[1] then ": at 200/s without an old transaction \($p[1] | text) ms, of pgqrs.h \($p[0] | text) ms" else "" end end;

# What of ours a cell of another system is compared with: the same cell, or, beside an old transaction, what was done at the same rate.
def beside($cells; $c):
  ($cells | map(select(.peer == ours and .scenario == $c.scenario and .backend == $c.backend and .turns > 0))) as $ours
  | ($ours | map(select(.cell == "slowest" and $c.scenario == "pinned" and same_rate($c))) | first)
    // ($ours | map(select(.cell == $c.cell)) | first);

# Where another system is ahead: more per second, or a lower p99.
def behind($cells):
  [$cells[] | select((.peer | startswith(ours) | not) and .turns > 0) | . as $c
   | beside($cells; $c) as $our
   | select($our)
   | (if ((.scenario | IN("drain", "enqueue", "handlers", "million", "workflow")) or .cell == "peak") and .per_s > $our.per_s
      then "- \(.scenario) \(.cell), \(.backend): \(.peer) does \(.per_s | thousands)/s, pgqrs.h \($our.per_s | thousands)/s" else empty end),
     (if (.scenario | IN("steady", "pinned", "wakeup")) and .cell != "peak" and .p99_ms and $our.p99_ms and .p99_ms < $our.p99_ms
      then "- \(.scenario) \(.cell), \(.backend): p99 of \(.peer) \(.p99_ms | text) ms at \(.per_s | thousands)/s, of pgqrs.h \($our.p99_ms | text) ms at \($our.per_s | thousands)/s\(at_equal_rate($cells; $c; $our))" else empty end),
     (if .scenario == "idle" and .peer != "nobody" and .client_cpu_us + .server_cpu_us < $our.client_cpu_us + $our.server_cpu_us
      then "- idle, \(.backend): \(.peer) takes \((.client_cpu_us + .server_cpu_us) / 1000 | text) ms of processor a second, pgqrs.h \(($our.client_cpu_us + $our.server_cpu_us) / 1000 | text)" else empty end)];

def figure($cells; $our; $what; $scenario; $peer; $choose; $wanted):
  ($cells | map(select(.scenario == $scenario and .backend == "postgres" and .turns > 0))) as $here
  | ($here | map(select(.peer == $peer and (.cell | test($choose)))) | map(. as $c
      | ($here | map(select(.peer == $our and .cell == $c.cell)) | first | .per_s | ratio($c.per_s)) as $r | {cell, r: $r}) | map(select(.r))) as $ratios
  | if $ratios == [] then [$what, "≥ \($wanted)×", "not measured", ""]
    else ($ratios | min_by(.r)) as $lowest | [$what, "≥ \($wanted)×", "\($lowest.r | text)× (\($lowest.cell))", (if $lowest.r >= $wanted then "met" else "NOT MET" end)] end;

# What was measured beside a figure that is wanted of other work: no verdict, but it says so where it is below.
def aside($row; $why):
  [$row[0], "", $row[2], if $row[3] == "NOT MET" then "below \($row[1] | ltrimstr("≥ ")); \($why)" else $why end];

# What chaos does to pgqrs.h where the effect is in the same database: all cells together.
def chaos_figure($cells):
  ["chaos, effects in the same database: messages lost; effects twice", "0; 0"]
  + ($cells | map(select(has_effects and .peer == ours)) | if . == [] then ["not measured", ""] else
      map(if .turns == 0 then null else .lost end) as $lost | map(if .turns == 0 then null else .twice + .again end) as $twice
      | if any($lost[], $twice[]; . == null) then ["failed", "NOT MET"]
        else ["\($lost | add); \($twice | add)", (if ($lost | add) + ($twice | add) == 0 then "met" else "NOT MET" end)] end end);

map(select(.scenario == "about")) as $abouts
| ($abouts | map(select(.date)) | first) as $about
| map(select(.scenario != "about")) as $turns
| cells($turns) as $sorted
# Systems in the order of systems.json, cells in that of the run.
| ($systems[0] | keys_unsorted) as $peers
| ($turns | map([.scenario, .cell]) | unordered_unique) as $order
| ($sorted | sort_by([.backend] + [(. as $c | $order | index([[$c.scenario, $c.cell]])), (. as $c | $peers | index([$c.peer]))])) as $cells
| "# pgqrs.h beside other queues",
  "",
  "Made by `\(if $about.quick then "QUICK=1 " else "" end)make bench-peers`; this file is written by bench/peers/report.jq from [peers.jsonl](peers.jsonl). All systems ran on the same private server, in the same run, taking turns; every turn had a new database. Figures are medians of the turns, costs are per message. Turns in each cell: \([$turns | group_by(.scenario)[] | "\(.[0].scenario) \(turns_in_cells)"] | join(", ")).\(($turns | map(.took_s // 0) | add // 0) as $took | if $took == 0 then "" else " All turns took \($took / 60 | round) minutes." end)",
  (if $about.turns and ($turns | map([.scenario, .cell, .round, .backend, .peer]) | unique | length) < $about.turns
   then "", "**Not complete: \($turns | length) of \($about.turns) turns.**" else empty end),
  ($abouts[] | select(.note) | "", .note),
  (if $about.quick then "", "**A short run: turns of a few seconds, mostly one in each cell. It shows sizes, not differences of a few percent.**" else empty end),
  "",
  "\($about.date), \($about.machine), \($about.cpus) processors, which the clients share with the server. Its files are on \($about.storage). \(if $about.server then "PostgreSQL \($about.server): \($about.settings | to_entries | map("\(.key) \(.value)") | join(", ")). " else "" end)Backlogs of \($about.backlog | thousands) messages of about 100 bytes\(if $about.quick then ", of 2,000 for DBOS, which has no bulk enqueue" else "" end)\(if $about.large_backlog then "; of \($about.large_backlog | thousands) where a system gets through that in the time, or nearly (pgqrs.h and graphile-worker: handlers and drain with batch 10 and 50; pg-boss: drain with batch 50)" else "" end); they were enqueued once for each system, vacuumed and analyzed, and every turn has a copy.",
  "",
  "## The systems, and what they guarantee here",
  "",
  "On Postgres every acknowledged enqueue and every acknowledgement is a commit with synchronous_commit on, for all of them, and all of them deliver at least once. On SQLite every commit is flushed to the disk by all of them; huey delivers at most once.",
  "",
  ($abouts | map(select(.version) | {peer, version}) | unique_by(.peer) | sort_by(.peer as $p | $systems[0] | keys_unsorted | index([$p])) | map($systems[0][.peer] as $s
    | [.peer, .version, $s.language, $s.acknowledged, $s.kept, "\($s.settings) (\($s.documentation))"])
   | table(["system", "version", "in", "acknowledged", "afterwards", "settings (and where its documentation says so)"])),
  ($abouts | map(select(.missing or .error)) | if . == [] then empty else "", "Not measured:", "", (.[] | "- \(.peer): \(.missing // .error)") end),
  "",
  "## Where pgqrs.h is not ahead",
  "",
  (behind($cells) | if . == [] then "Nowhere in this run." else .[] end),
  "",
  "## Figures to reach",
  "",
  ([figure($cells; ours; "graphile-worker, drain, batch 50, one fetch after the other"; "drain"; "graphile-worker"; "x50$"; 3),
    figure($cells; "pgqrs.h-pool"; "graphile-worker, drain, batch 50, handlers beside handlers with as many in hand"; "drain"; "graphile-worker"; "x50$"; 3),
    figure($cells; "pgqrs.h-pool"; "graphile-worker, drain, batch 10, handlers beside handlers with as many in hand"; "drain"; "graphile-worker"; "x10$"; 3),
    aside(figure($cells; ours; "graphile-worker, drain, batch 10, one fetch after the other"; "drain"; "graphile-worker"; "x10$"; 3);
      "not the same work: 10 in hand beside 20 and more, and each fetch waits for a commit"),
    figure($cells; "pgqrs.h-pool"; "graphile-worker, a million, batch 10, handlers beside handlers with as many in hand"; "million"; "graphile-worker"; "."; 3),
    figure($cells; ours; "graphile-worker, handlers"; "handlers"; "graphile-worker"; "."; 3),
    figure($cells; ours; "pg-boss, drain, batch 50, the largest measured"; "drain"; "pg-boss"; "x50$"; 5),
    figure($cells; ours; "pgqrs in Rust, drain, batch 1"; "drain"; "pgqrs-rust"; "x1$"; 10),
    figure($cells; ours; "pgqrs in Rust, drain, batch 50"; "drain"; "pgqrs-rust"; "x50$"; 5),
    chaos_figure($cells)]
   | table(["beside (lowest cell)", "wanted", "measured", ""])),
  (("drain", "enqueue", "handlers", "steady", "pinned", "million", "idle", "wakeup", "workflow", "chaos") as $name | scenario_section($cells; $name; $about))
