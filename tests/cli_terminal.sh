#!/usr/bin/env bash
# The command-line tool on a terminal: top and the completions, driven in tmux, whose screen is compared; the manual page.
. "$(dirname "$0")/cli.sh"

terminal() { tmux -S "$scratch/tmux" -u -f /dev/null "$@"; }
trap 'terminal kill-server 2>/dev/null; rm -rf "$scratch"' EXIT

screen() { terminal capture-pane -p; }
# What changes from run to run becomes the same; blanks at the ends of lines and empty lines are nothing.
steady() { sed -E 's/[0-9-]{10}T[0-9:]{8}Z/TIME/; s/ +[0-9.]+(ms|s|m)( |$)/ AGE\2/g; s/ +$//' | grep -v '^$'; }
shows() { screen | grep -qF -- "$1"; }
is_gone() { ! shows "$1"; }

tops() {
    pgqrs install >/dev/null
    gives "top without a terminal" 2 pgqrs top
    pgqrs queue create mail >/dev/null
    pgqrs queue create reports --max-attempts 1 >/dev/null
    pgqrs workflow create expense >/dev/null
    for n in 1 2 3; do pgqrs message send mail "$n" >/dev/null; done
    pgqrs message send reports 4 >/dev/null
    dead=$(pgqrs message read reports --format json | jq '.[0].id')
    pgqrs message release reports "$dead" >/dev/null
    pgqrs queue pause reports >/dev/null
    pgqrs message read mail --lock-time 1h >/dev/null
    run=$(pgqrs run trigger expense 1 --format json | jq .id)

    terminal new-session -d -x 90 -y 24 "pgqrs top --interval 100ms; echo the end: \$?; sleep 60"
    soon "top: it is there" shows "q quit"
    screen | steady >screen
    cat >expected <<EOF
pgqrs top on $(pgqrs verify --format json | jq -r .backend), TIME
3 queues: 3 ready, 0 delayed, 1 leased, 1 dead, 0 archived; 0 workers, 0 stale
QUEUE                 ready  delayed   leased     dead archived   done/s  workers   oldest
mail                      2        0        1        0        0      0.0        0 AGE
reports (paused)          0        0        0        1        0      0.0        0
expense                   1        0        0        0        0      0.0        0 AGE
  WORKER name                 queue                state         held heartbeat
     RUN workflow             state              age waits for
$(printf '%8d' "$run") expense              queued AGE
q quit   Tab next section   arrows scroll   space look now
EOF
    if diff expected screen >"$details"; then tap_ok "${store}top: the screen"; else tap_fail "${store}top: the screen" "$details"; fi
    pgqrs message send mail 5 >/dev/null
    soon "top: it looks again" shows "4 ready"
    pgqrs work mail --name visible -- true 2>/dev/null &
    worker=$!
    soon "top: a worker" shows "visible"
    soon "top: what was done" shows "1 ready, 0 delayed, 1 leased, 1 dead, 3 archived"
    pgqrs run cancel "$run" >/dev/null
    soon "top: a run that has ended goes" is_gone "$run expense"
    run=$(pgqrs run trigger expense '"broke"' --format json | jq .id)
    pgqrs run send-event "$run" answer >/dev/null
    "$root/build/test/cli_flow"
    soon "top: one that failed stays" shows "BROKE: there is no"
    terminal send-keys Tab Tab
    terminal resize-window -x 40 -y 12
    soon "top: a small terminal" shows "RUN work state"
    is "top: no line is longer than that" "" "$(screen | awk 'length($0) > 40')"
    terminal send-keys Down Up PageDown Home x
    kill "$worker" && wait "$worker"
    terminal send-keys q
    soon "top: q ends it" shows "the end: 0"
    terminal kill-server
    pgqrs uninstall --yes >/dev/null
}

# The store goes away and comes back: top says so, and goes on.
outage() {
    export PGQRS_DSN=sqlite://$scratch/away.db
    pgqrs install >/dev/null
    pgqrs queue create here >/dev/null
    terminal new-session -d -x 90 -y 24 "pgqrs top --interval 100ms; echo the end: \$?; sleep 60"
    soon "top: before" shows "here"
    pgqrs uninstall --yes >/dev/null
    soon "top: an error is shown" shows "run: pgqrs install"
    soon "top: with what was seen last" shows "here"
    pgqrs install >/dev/null
    soon "top: it goes on" shows "0 queues"
    terminal send-keys C-c
    soon "top: Ctrl-C ends it" shows "the end: 0"
    terminal kill-server
    unset PGQRS_DSN
}

# --- completions
completions() {
    gives "completion for bash" 0 pgqrs completion bash
    bash -n "$scratch/out" 2>"$details" && tap_ok "bash reads it" || tap_fail "bash reads it" "$details"
    . "$scratch/out"
    completed() { COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=() && _pgqrs; echo "${COMPREPLY[*]}"; }
    is "bash: commands" "work worker workflow" "$(completed "pgqrs wo" | tr ' ' '\n' | sort | xargs)"
    is "bash: second words" "pause purge" "$(completed "pgqrs queue p" | tr ' ' '\n' | sort | xargs)"
    is "bash: behind a DSN" "create" "$(completed "pgqrs -d sqlite://a.db queue cr")"
    is "bash: options of a command" "--delay --dedup-key --dsn" "$(completed "pgqrs message send mail --d")"
    is "bash: values" "json jsonl" "$(completed "pgqrs queue list --format j")"
    is "bash: not for the command of work" "" "$(completed "pgqrs work mail -- ")"
    touch "$scratch/some-file"
    is "bash: files" "$scratch/some-file" "$(completed "pgqrs message send mail --file $scratch/some-f")"
    gives "completion for zsh" 0 pgqrs completion zsh
    cp "$scratch/out" "$scratch/_pgqrs"
    gives "completion for no shell" 2 pgqrs completion csh
    terminal new-session -d -x 90 -y 24 "zsh -f"
    terminal send-keys "PS1='ready> '; fpath=($scratch \$fpath); autoload -Uz compinit; compinit -u -D; clear" Enter
    soon "zsh: a prompt" sh -c "tmux -S '$scratch/tmux' capture-pane -p | grep -q '^ready>'"
    terminal send-keys "pgqrs que" Tab
    soon "zsh: commands" shows "pgqrs queue"
    terminal send-keys "cr" Tab
    soon "zsh: second words" shows "pgqrs queue create"
    terminal send-keys "mail --max" Tab
    soon "zsh: options" shows "pgqrs queue create mail --max-attempts"
    terminal send-keys "3 --format cs" Tab
    soon "zsh: values" shows "--max-attempts 3 --format csv"
    terminal kill-server
}

# --- the manual page
manuals() {
    gives "manual" 0 pgqrs manual
    cp "$scratch/out" page
    groff -man -ww -z -Tutf8 page 2>"$details"
    is "the manual page has no mistakes" "" "$(cat "$details")"
    groff -man -Tascii -P-c page 2>/dev/null | sed 's/.\x08//g' >text
    missing=
    for words in $(pgqrs --help | sed -nE 's/^  ([a-z-]+( [a-z-]+)?)(  .*| [A-Z[-].*)?$/\1/p' | tr ' ' '_'); do
        grep -q "pgqrs ${words//_/ }" text || missing="$missing $words"
    done
    is "every command is in it" "" "$missing"
}

on_each_store tops
outage
completions
manuals
tap_end
