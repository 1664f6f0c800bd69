#!/usr/bin/env bash
# The command-line tool: `work` with commands that succeed, fail, hang and are killed; workers; the doctor.
. "$(dirname "$0")/cli.sh"

send() {
    local n
    printf "%s\n" "$@" | pgqrs message send jobs --lines >/dev/null
}
counts() { # total ready delayed leased archived dead
    pgqrs queue metrics jobs --format json | jq -r '"\(.ready) ready \(.leased + .delayed) held \(.archived) archived \(.dead) dead"'
}
is_now() { [ "$(counts)" = "$1" ]; }

working() {
    pgqrs install >/dev/null
    pgqrs queue create jobs --max-attempts 2 --backoff 10ms --lock-time 1m >/dev/null
    gives "no command" 2 pgqrs work jobs
    gives "no command behind the dashes" 2 pgqrs work jobs --
    gives "no queue" 3 pgqrs work nowhere --until-empty -- true

    send '{"n":1}' '{"n":2}' '{"n":3}'
    gives "payloads on standard input" 0 pgqrs work jobs --until-empty -- sh -c 'jq .n; echo "$PGQRS_QUEUE $PGQRS_ATTEMPT" >&2'
    is "in their order" "1 2 3" "$(echo $out)"
    is "the queue and the attempt" "jobs 1 jobs 1 jobs 1" "$(echo $err)"
    is "archived" "0 ready 0 held 3 archived 0 dead" "$(counts)"

    send 1 65 7
    gives "commands that fail" 0 pgqrs work jobs --until-empty --log-dest log -- sh -c 'exit "$(cat)"'
    json "are retried, or rejected" '(map(.attempt) | sort) == [1, 2, 2] and (map(.reason) | sort | .[1]) == "sh ended with exit status 65"' \
        pgqrs dead list jobs
    pgqrs queue purge jobs --yes >/dev/null
    send 1
    gives "one that a signal ends" 0 pgqrs work jobs --until-empty --log-dest log -- sh -c 'kill -9 $$'
    json "says which" '.[0].reason == "sh was ended by signal 9"' pgqrs dead list jobs
    pgqrs queue purge jobs --yes >/dev/null
    send 1
    gives "one that hangs" 0 pgqrs work jobs --until-empty --timeout 50ms --log-dest log -- sleep 100
    json "is ended" '.[0].reason == "sleep took longer than 50ms"' pgqrs dead list jobs
    pgqrs queue purge jobs --yes >/dev/null
    send 1
    gives "one that is not there" 1 pgqrs work jobs --until-empty -- no-such-command
    has "is named" "no-such-command cannot be started" "$err"
    json "costs no attempt" '.[0].attempt == 0 and .[0].state == "ready"' pgqrs message list jobs
    gives "one that reads nothing" 0 pgqrs work jobs --until-empty -- true
    printf '"%0200000d"' 0 >large.json
    pgqrs message send jobs --file large.json --out /dev/null
    is "a payload larger than a pipe" 200003 "$(pgqrs work jobs --until-empty -- sh -c 'sleep 0.1; cat' | wc -c)"
    pgqrs message send jobs --file large.json --out /dev/null
    gives "which nobody reads" 0 pgqrs work jobs --until-empty -- true
    pgqrs queue purge jobs --yes >/dev/null
}

together() {
    # Three commands that end only when all of them run.
    send 1 2 3
    rm -rf meet && mkdir meet
    # shellcheck disable=SC2016
    gives "three at a time" 0 timeout 20 pgqrs work jobs --jobs 3 --max-messages 3 -- \
        sh -c 'touch meet/$PGQRS_MESSAGE_ID; while [ "$(ls meet | wc -l)" -lt 3 ]; do sleep 0.02; done'
    is "all are done" "0 ready 0 held 3 archived 0 dead" "$(counts)"
    pgqrs queue purge jobs --yes >/dev/null
}

stopping() {
    # Ctrl-C, and a command that goes on for too long: it is ended, and the message given back.
    local worker
    send 1 2
    pgqrs work jobs --grace 100ms -- sh -c 'touch started; sleep 100' 2>/dev/null &
    worker=$!
    soon "a command runs" test -f started
    kill -INT "$worker"
    status=0
    wait "$worker" || status=$?
    is "Ctrl-C is no failure" 0 "$status"
    is "what was held is given back" "2 ready 0 held 0 archived 0 dead" "$(counts)"
    json "and the try does not count" 'map(.attempt) == [0, 0]' pgqrs message list jobs
    # One that ends in time is done.
    rm -f started
    pgqrs work jobs -- sh -c 'touch started; sleep 0.1' &
    worker=$!
    soon "a short command runs" test -f started
    kill -TERM "$worker"
    wait "$worker"
    is "it may end" "1 ready 0 held 1 archived 0 dead" "$(counts)"
    # Two signals do not wait; a command that does not listen is killed by the third.
    rm -f started
    pgqrs work jobs --grace 1h -- sh -c 'trap "" TERM; touch started; while :; do sleep 0.1; done' &
    worker=$!
    soon "a stubborn command runs" test -f started
    kill -INT "$worker" && sleep 0.2 && kill -INT "$worker" && sleep 0.2 && kill -INT "$worker"
    status=0
    wait "$worker" || status=$?
    is "three signals are enough" 0 "$status"
    is "that one is given back too" "1 ready 0 held 1 archived 0 dead" "$(counts)"
    # Killed: the lease ends, or somebody reclaims.
    rm -f started
    pgqrs work jobs --name victim -- sh -c 'touch started; exec sleep 5' &
    worker=$!
    soon "a command of a worker that will be killed" test -f started
    kill -KILL "$worker"
    wait "$worker" 2>/dev/null
    is "its message is held" "0 ready 1 held 1 archived 0 dead" "$(counts)"
}

workers() {
    victim=$(pgqrs worker list --queue jobs --format json | jq '.[] | select(.name == "victim") | .id')
    json "list" 'map([.name, .queue, .held]) == [["victim", "jobs", 1]]' pgqrs worker list
    json "list of a state" '. == []' pgqrs worker list --state stopped
    json "get" '.name == "victim" and .heartbeat_at != null' pgqrs worker get "$victim"
    json "messages" 'length == 1 and .[0].worker == "victim"' pgqrs worker messages "$victim"
    json "stats" '.total == 1 and .held == 1' pgqrs worker stats jobs
    json "healthy so far" '. == []' pgqrs worker health --max-age 1h
    gives "this one as well" 0 pgqrs worker health "$victim" --max-age 1h
    sleep 0.05
    gives "not by a stricter rule" 1 pgqrs worker health --queue jobs --max-age 10ms
    has "it is named" victim "$out"
    gives "nor this one" 1 pgqrs worker health "$victim" --max-age 10ms
    gives "doctor" 1 pgqrs doctor --max-age 10ms
    has "names the worker" victim "$out"
    has "and the cure" "pgqrs worker reclaim" "$out"
    json "reclaim" '.workers == 1 and .messages == 1' pgqrs worker reclaim --queue jobs --older-than 10ms
    json "reclaimed" '.reclaimed and .state == "stopped"' pgqrs worker get "$victim"
    gives "resume a stopped one" 1 pgqrs worker resume "$victim"
    json "stop a stopped one" '.action == "unchanged"' pgqrs worker stop "$victim"
    json "purge by age" '.count == 0' pgqrs worker purge --older-than 1h --yes
    json "purge" '.count == 1' pgqrs worker purge --yes
    gives "is gone" 3 pgqrs worker get "$victim"

    # Another one that was killed, found sooner by a person than by its heartbeat.
    pgqrs queue purge jobs --yes >/dev/null
    send 1
    rm -f started
    pgqrs work jobs --name second -- sh -c 'touch started; exec sleep 5' &
    local second=$!
    soon "a command of a second one" test -f started
    kill -KILL "$second"
    wait "$second" 2>/dev/null
    second=$(pgqrs worker list --queue jobs --format json | jq '.[0].id')
    json "release" '.action == "released" and .count == 1' pgqrs worker release "$second"
    is "what it had is to be had" "1 ready 0 held 0 archived 0 dead" "$(counts)"
    gives "delete it with force" 0 pgqrs worker delete "$second" --yes --force

    # A live one: suspended it takes nothing, stopped it ends by itself.
    pgqrs queue purge jobs --yes >/dev/null
    pgqrs work jobs --name alive -- true &
    local worker=$!
    soon "a worker" sh -c 'pgqrs worker list --state polling --format json | jq -e "length == 1"'
    alive=$(pgqrs worker list --format json | jq '.[0].id')
    gives "suspend" 0 pgqrs worker suspend "$alive"
    send 1
    sleep 0.4
    is "nothing is taken" "1 ready 0 held 0 archived 0 dead" "$(counts)"
    gives "delete a live one" 1 pgqrs worker delete "$alive" --yes
    gives "resume" 0 pgqrs worker resume "$alive"
    soon "now it is" is_now "0 ready 0 held 1 archived 0 dead"
    soon "it waits again" sh -c "pgqrs worker get $alive --format json | jq -e '.state == \"polling\"'"
    json "stop" '.action == "interrupted"' pgqrs worker stop "$alive"
    status=0
    wait "$worker" || status=$?
    is "it has ended" 0 "$status"
    gives "delete" 0 pgqrs worker delete "$alive" --yes --force
    for command in get messages stop delete release health; do gives "no such worker: $command" 3 pgqrs worker "$command" 999999 ; done
    gives "no such worker: suspend" 3 pgqrs worker suspend 999999
}

doctors() {
    pgqrs queue purge jobs --yes >/dev/null
    json "doctor, all is well" 'all(.status == "ok") and (map(.check) | index("tables") != null)' pgqrs doctor
    send 1
    json "nobody works" 'map(select(.status == "warning")) | length == 1 and .[0].check == "queues" and (.[0].found | contains("nobody works on \"jobs\""))' \
        pgqrs doctor
    pgqrs queue pause jobs >/dev/null
    json "paused" 'map(select(.status == "warning")) | .[0].cure == "pgqrs queue resume jobs"' pgqrs doctor
    pgqrs queue resume jobs >/dev/null
    pgqrs message read jobs --lock-time 5h >/dev/null
    json "a long lease" 'map(select(.check == "leases")) | .[0].status == "warning"' pgqrs doctor
    pgqrs queue purge jobs --yes >/dev/null
}

# Somebody begins a transaction and goes for lunch: $1 is what he sends to psql before.
lunch() {
    rm -f lunch
    mkfifo lunch
    psql -X -q -d "${2:-$PGQRS_TEST_POSTGRES_DSN}" <lunch >/dev/null 2>&1 &
    guest=$!
    exec 9>lunch
    echo "$1" >&9
}
vacuum_is() { # STATUS TEXT: what doctor says first about vacuum
    { pgqrs doctor --transaction-age 50ms --format json || true; } | jq -e --arg text "$2" \
        "map(select(.check == \"vacuum\")) | .[0] | .status == \"$1\" and (.found | contains(\$text))"
}
cured() { # what doctor says to do about it is done
    local cure
    cure=$(pgqrs doctor --transaction-age 50ms --format json | jq -r 'map(select(.check == "vacuum")) | .[0].cure')
    psql -X -q -d "$PGQRS_TEST_POSTGRES_DSN" -c "$cure" >/dev/null
}

pinned() {
    lunch "BEGIN; SELECT 1;"
    soon "postgres: an idle transaction is a warning" vacuum_is warning "(idle in transaction) has a transaction open"
    gives "postgres: it keeps vacuum from nothing" 0 pgqrs doctor --transaction-age 50ms
    echo "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;" >&9
    soon "postgres: one that keeps an old snapshot is a problem" vacuum_is problem "so vacuum cleans up nothing"
    gives "postgres: so doctor is not content" 1 pgqrs doctor --transaction-age 50ms
    gives "postgres: the cure can be carried out" 0 cured
    exec 9>&-
    wait "$guest"
    soon "postgres: and cures" vacuum_is ok "no transaction"
    if [ "$(psql -X -t -A -d "$PGQRS_TEST_POSTGRES_DSN" -c 'SHOW max_prepared_transactions')" != 0 ]; then
        psql -X -q -d "$PGQRS_TEST_POSTGRES_DSN" -c "BEGIN; CREATE TABLE forgotten(x int); PREPARE TRANSACTION 'it''s forgotten'"
        soon "postgres: a prepared transaction is a problem" vacuum_is problem "prepared transaction 'it''s forgotten'"
        gives "postgres: its cure can be carried out" 0 cured
        soon "postgres: and cures it" vacuum_is ok "no transaction"
    else
        tap_skip "prepared transactions: the server has max_prepared_transactions = 0"
    fi
    [ -n "${PGQRS_TEST_POSTGRES_ADMIN_DSN:-}" ] || return
    lunch "BEGIN;" "$PGQRS_TEST_POSTGRES_ADMIN_DSN"
    soon "postgres: what may not be seen is said" vacuum_is ok "those of 1 session he may not"
    exec 9>&-
    wait "$guest"
}

admin_sql() { psql -X -t -A -q -d "$PGQRS_TEST_POSTGRES_ADMIN_DSN" -c "$1"; }

is_left() {
    [ "$(admin_sql "SELECT xmin IS NOT NULL AND NOT active FROM pg_replication_slots WHERE slot_name = '$1'")" = t ]
}

slots() {
    local slot=gone_$$ xid admin=$PGQRS_TEST_POSTGRES_ADMIN_DSN
    # Its clock, the oldest transaction that it looks at, no transaction for the catalogs.
    xid=$(admin_sql "SELECT lpad(to_hex(x & 4294967295), 8, '0') || lpad(to_hex(x >> 32), 8, '0') FROM txid_current() AS x")
    gives "postgres: a standby with a slot goes" 0 "$root/build/test/cli_flow" "$admin?replication=true" "$slot" \
        "0000000000000000${xid}0000000000000000"
    soon "postgres: its slot keeps what was said" is_left "$slot"
    gives "postgres: that is a problem" 1 pgqrs doctor
    has "postgres: which is named" "replication slot \"$slot\", which nobody uses, keeps all that is dead since " "$out"
    has "postgres: with its cure" "SELECT pg_drop_replication_slot('$slot')" "$out"
    gives "postgres: the slot can be dropped" 0 admin_sql "SELECT pg_drop_replication_slot('$slot')"
    json "postgres: nothing keeps vacuum any more" 'map(select(.check == "vacuum")) | length == 1 and .[0].status == "ok"' pgqrs doctor
}

database() {
    case $PGQRS_DSN in postgres*) ;; *) return ;; esac
    json "postgres: nothing keeps vacuum" 'map(select(.check == "vacuum")) | .[0].status == "ok"' pgqrs doctor
    pinned
    if [ -n "${PGQRS_TEST_POSTGRES_ADMIN_DSN:-}" ]; then slots; else tap_skip "postgres: replication slots: there is no superuser"; fi
    local version
    version=$(pgqrs verify --format json | jq .version)
    set_version() { psql -X -q -d "$PGQRS_TEST_POSTGRES_DSN" -c "UPDATE $PGQRS_SCHEMA.pgqrs_meta SET value = $1 WHERE key = 'schema_version'"; }
    set_version 99
    gives "postgres: tables of a newer version" 1 pgqrs doctor
    has "postgres: are named" "newer than this tool's" "$out"
    gives "postgres: verify refuses them" 1 pgqrs verify
    set_version $((version - 1))
    gives "postgres: tables of an older version" 1 pgqrs doctor
    has "postgres: have a cure" "pgqrs migrate" "$out"
    set_version "$version"
    json "postgres: no pooler" 'map(select(.check == "pooler")) | .[0].found == "none"' pgqrs doctor
    json "postgres: a pooler that the configuration denies" 'map(select(.check == "pooler")) | .[0].status == "warning"' \
        env PGQRS_POOLER=on pgqrs doctor
    if [ -n "${PGQRS_TEST_PGBOUNCER_DSN:-}" ]; then
        json "pgbouncer: a pooler" 'map(select(.check == "pooler")) | .[0].found | startswith("a pooler stands between")' \
            pgqrs doctor -d "$PGQRS_TEST_PGBOUNCER_DSN"
    fi
}

damaged() {
    local sql="DROP INDEX $1"
    case $PGQRS_DSN in
    sqlite*) "$root/build/test/cli_flow" "${PGQRS_DSN#sqlite://}" "$sql" ;;
    *) psql -X -q -d "$PGQRS_TEST_POSTGRES_DSN" -c "SET search_path = $PGQRS_SCHEMA" -c "$sql" ;;
    esac
}

end() {
    damaged pgqrs_runs_ended
    gives "doctor without an index" 1 pgqrs doctor
    has "says that it is missing" missing "$out"
    has "and of which table" pgqrs_runs "$out"
    has "and the cure" "pgqrs copy" "$out"
    gives "verify without it" 1 pgqrs verify
    pgqrs uninstall --yes >/dev/null
    gives "doctor without tables" 1 pgqrs doctor
    has "names the cure" "pgqrs install" "$out"
}

everything() {
    rm -f started
    working
    together
    stopping
    workers
    doctors
    database
    end
}
on_each_store everything
tap_end
