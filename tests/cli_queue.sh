#!/usr/bin/env bash
# The command-line tool: tables, queues, messages, archive, dead letters.
. "$(dirname "$0")/cli.sh"

tables() {
    [[ $PGQRS_DSN != sqlite* ]] || : >"${PGQRS_DSN#sqlite://}" # a file without tables
    gives "migrate without tables" 1 pgqrs migrate
    json "install" '.action == "installed" and .before == 0 and .version > 0' pgqrs install
    json "install again" '.action == "unchanged"' pgqrs install
    json "migrate" '.action == "unchanged"' pgqrs migrate
    json "verify" '.action == "verified"' pgqrs verify
}

# Makes the tables look as version 1 left them, before there were workflows: on Postgres in the schema, which psql finds first.
back_to_version_1() {
    local sql="DROP VIEW pgqrs_run_view; DROP VIEW pgqrs_step_view; DROP TABLE pgqrs_run_values; DROP TABLE pgqrs_run_events;
        DROP TABLE pgqrs_steps; DROP TABLE pgqrs_runs; DROP TABLE pgqrs_workflows; DELETE FROM pgqrs_meta WHERE key = 'max_workflow_id';
        UPDATE pgqrs_meta SET value = 1 WHERE key = 'schema_version'"
    case $PGQRS_DSN in
    sqlite*) "$root/build/test/cli_flow" "${PGQRS_DSN#sqlite://}" "$sql" ;;
    *) psql -X -q -v ON_ERROR_STOP=1 -d "$PGQRS_DSN" -c "SET search_path = $PGQRS_SCHEMA" -c "$sql" ;;
    esac
}

older_tables() {
    pgqrs queue create kept >/dev/null
    pgqrs message send kept '"kept"' >/dev/null
    gives "back to version 1" 0 back_to_version_1
    gives "tables of an older version are refused" 1 pgqrs queue list
    has "and the cure is said" "pgqrs install" "$err"
    gives "doctor sees them" 1 pgqrs doctor
    has "and says its cure" "pgqrs migrate" "$out"
    json "migrate changes them" '.action == "migrated" and .before == 1 and .version > 1' pgqrs migrate
    gives "what is whole then" 0 pgqrs verify
    gives "and can do what version 1 could not" 0 pgqrs workflow create flow
    gives "and undo it" 0 pgqrs workflow delete flow --yes
    json "with what was there" '.payload == "kept"' pgqrs message dequeue kept
    gives "the queue goes" 0 pgqrs queue delete kept --yes --force
    back_to_version_1
    json "install migrates as well" '.action == "migrated"' pgqrs install
}

queues() {
    json "create" '.action == "created" and .name == "jobs"' pgqrs queue create jobs --lock-time 5m --max-attempts 2 \
        --backoff 10ms --backoff-max 1h30m --retention 7d
    json "settings" '[.lease_ms, .max_attempts, .backoff_ms, .backoff_max_ms, .retention_ms, .dead_retention_ms, .paused]
        == [300000, 2, 10, 5400000, 604800000, 0, false]' pgqrs queue get jobs
    gives "create again" 1 pgqrs queue create jobs
    json "create if missing" '.action == "unchanged"' pgqrs queue create jobs --if-missing
    gives "update" 0 pgqrs queue update jobs --retention 0 --lock-time 30
    json "updated" '[.lease_ms, .max_attempts, .retention_ms] == [30000, 2, 0]' pgqrs queue get jobs
    gives "a paused one" 0 pgqrs queue create later --paused
    json "list" 'map(.name) == ["jobs", "later"] and .[1].paused' pgqrs queue list
    json "list with a limit" 'map(.name) == ["jobs"]' pgqrs queue list --limit 1
    json "list, the next page" 'map(.name) == ["later"]' pgqrs queue list --after "$(pgqrs queue get jobs --format json | jq .id)"
    gives "resume" 0 pgqrs queue resume later
    json "resumed" '.paused == false' pgqrs queue get later
    gives "pause" 0 pgqrs queue pause later
    json "resume all" '.count == 1 and .name == null' pgqrs queue resume --all
    json "pause all" '.count == 2' pgqrs queue pause --all
    gives "which one?" 2 pgqrs queue pause
    gives "one of them again" 0 pgqrs queue resume jobs
    json "metrics of all" 'map([.queue, .paused, .total]) == [["jobs", false, 0], ["later", true, 0]]' pgqrs queue metrics
    for command in "get" "pause" "resume" "metrics" "purge -y" "delete -y" "update --lock-time 1"; do
        # shellcheck disable=SC2086
        gives "no such queue: $command" 3 pgqrs queue ${command%% *} nowhere ${command#"${command%% *}"}
    done
    gives "delete without anybody to ask" 2 pgqrs queue delete later
    gives "delete" 0 pgqrs queue delete later --yes
    gives "is gone" 3 pgqrs queue get later
    gives "a bad name" 2 pgqrs queue create "$(printf 'a\tb')"
}

sending() {
    json "send" '.payload == {"n":1} and .priority == 3 and .state == "ready" and .dedup_key == "k" and .producer == "test"' \
        pgqrs message send jobs '{"n":1}' --priority 3 --dedup-key k --producer test
    first=$(jq .id <<<"$out")
    json "the same key" ".id == $first" pgqrs message send jobs '{"n":2}' --dedup-key k
    has "is told" "nothing was stored" "$(cat "$scratch/err")"
    json "with a delay" '.state == "delayed" and .due_at != null' pgqrs message send jobs 2 --delay 1h
    json "with an expiry" '.expires_at != null' pgqrs message send jobs 3 --expire 1h
    gives "to no queue" 3 pgqrs message send nowhere 1
    has "names the cure" "pgqrs queue create" "$err"
    gives "what is no JSON" 1 pgqrs message send jobs hello
    has "and how it would be" "'\"hello\"'" "$err"
    gives "an empty payload" 2 pgqrs message send jobs ""
    printf '{\n"from":"file"\n}\n' >payload.json
    json "from a file" '.payload.from == "file"' pgqrs message send jobs --file payload.json
    gives "from a file that is not there" 1 pgqrs message send jobs --file nowhere.json
    is "from standard input" input "$(echo '"input"' | pgqrs message send jobs --format json | jq -r .payload)"
    json "count the pending" '.count == 5 and .state == "pending"' pgqrs message count jobs
    is "count for people" 5 "$(pgqrs message count jobs)"
    is "count the delayed" 1 "$(pgqrs message count jobs --state delayed)"
    json "list" 'length == 5 and (map(.id) | . == (sort | reverse))' pgqrs message list jobs
    json "list of a state" 'map(.payload) == [2]' pgqrs message list jobs --state delayed
    gives "purge" 0 pgqrs queue purge jobs --yes
    is "nothing is left" 0 "$(pgqrs message count jobs)"

    # In bulk: several groups, an empty line, a file.
    seq 1 1200 | sed 's/^\(7..\)$/\1\n/' >lines
    json "lines from a file" '.count == 1200' pgqrs message send jobs --lines --file lines --priority -2
    json "in their order" 'map(.payload) == [1200, 1199]' pgqrs message list jobs --limit 2
    json "over several pages" "length == 1200 and (map(.payload) | sort) == [range(1; 1201)]" pgqrs message list jobs --limit 5000
    json "from standard input" '.count == 3' bash -c 'printf "1\n2\n3" | pgqrs message send jobs --lines "$@"' send
    { seq 1 600 && echo '{"bad":' && seq 1 10; } >lines
    gives "a bad line" 1 pgqrs message send jobs --lines --file lines
    has "is named" "line 601" "$err"
    has "and what is stored" "go on at line 501, before it 500 messages are stored" "$err"
    is "is true" 1703 "$(pgqrs message count jobs)"
    gives "a key for many" 2 pgqrs message send jobs --lines --dedup-key k
    gives "purge the unfinished" 0 pgqrs queue purge jobs --state unfinished --yes
}

taking() {
    for n in 1 2 3 4 5 6; do pgqrs message send jobs "$n" >/dev/null; done
    json "read" 'map(.payload) == [1, 2] and (map(.attempt) == [1, 1]) and (.[0].lease | type) == "string"' \
        pgqrs message read jobs --count 2 --lock-time 1m -t ignored
    lease=$(jq -r '.[0].lease' "$scratch/out") one=$(jq '.[0].id' "$scratch/out") two=$(jq '.[1].id' "$scratch/out")
    json "a minute" '((.lease_until | sub("\\.[0-9]+Z$"; "Z") | fromdate) - now) | . > 50 and . < 62' pgqrs message show jobs "$one"
    json "explain" '.reason == "leased" and .until != null' pgqrs message explain jobs "$one"
    gives "extend" 0 pgqrs message extend jobs "$one" --lock-time 1h --lease "$lease"
    json "extended" '((.lease_until | sub("\\.[0-9]+Z$"; "Z") | fromdate) - now) > 3500' pgqrs message show jobs "$one"
    gives "another lease" 1 pgqrs message archive jobs "$one" --lease 1234567
    json "archive" '.action == "archived" and .count == 1' pgqrs message archive jobs "$one" --lease "$lease"
    gives "once only" 1 pgqrs message archive jobs "$one"
    gives "release" 0 pgqrs message release jobs "$two" --delay 1h --reason "not today"
    json "released" '.state == "delayed" and .reason == "not today" and .attempt == 1' pgqrs message show jobs "$two"
    gives "archive what nobody has" 1 pgqrs message archive jobs "$two"
    json "dequeue" '.payload == 3' pgqrs message dequeue jobs
    is "it is archived" 2 "$(pgqrs message count jobs --archive)"
    json "read the archive" 'map(.payload) == [3]' pgqrs message read jobs --archive
    json "show an archived one" '.state == "archived"' pgqrs message show jobs "$one" --archive
    gives "show a pending one as archived" 3 pgqrs message show jobs "$two" --archive
    three=$(pgqrs message read jobs --format json | jq '.[0].id')
    json "give back" '.action == "released"' pgqrs message release jobs "$three" --give-back
    json "costs no attempt" '.attempt == 0 and .state == "ready"' pgqrs message show jobs "$three"
    gives "delete" 0 pgqrs message delete jobs "$two" --yes
    gives "is gone" 3 pgqrs message show jobs "$two"
    gives "delete needs a yes" 2 pgqrs message delete jobs "$three"
    pgqrs message read jobs --lock-time 1h >/dev/null
    gives "delete what is leased" 1 pgqrs message delete jobs "$three" "$(pgqrs message list jobs --state leased --format jsonl | jq .id)" -y
    gives "an id of another queue" 3 pgqrs message show nowhere "$one"
    gives "requeue" 0 pgqrs message requeue jobs "$one"
    json "it is pending again" '.state == "ready" and .attempt == 0' pgqrs message show jobs "$one"
    gives "requeue what is pending" 1 pgqrs message requeue jobs "$one"
    gives "wait for something" 3 pgqrs message dequeue empty --wait 0
    pgqrs queue create empty >/dev/null
    gives "dequeue nothing" 3 pgqrs message dequeue empty
    json "read nothing" '. == []' pgqrs message read empty
    (sleep 0.3 && pgqrs message send empty '"late"' >/dev/null) &
    json "wait for the first" '.payload == "late"' pgqrs message dequeue empty --wait 10s
    wait
    for command in "message read" "message dequeue"; do
        # shellcheck disable=SC2086
        pgqrs $command empty --wait 1m >waited 2>said &
        waiting=$!
        sleep 0.3
        kill -INT "$waiting"
        status=0
        wait "$waiting" || status=$?
        is "Ctrl-C while $command waits" "1 pgqrs: interrupted" "$status $(cat waited said)"
    done
}

archives() {
    json "archive list" 'map(.payload) == [3]' pgqrs archive list jobs
    is "archive count" 1 "$(pgqrs archive count jobs)"
    json "archive show" '.payload == 3' pgqrs archive show jobs "$(pgqrs archive list jobs --format json | jq '.[0].id')"
    json "archive purge by age" '.count == 0' pgqrs archive purge jobs --older-than 1h --yes
    json "archive purge" '.count == 1' pgqrs archive purge jobs --yes
    is "it is empty" 0 "$(pgqrs archive count jobs)"
}

dead_letters() {
    pgqrs queue create fragile --max-attempts 1 >/dev/null
    for n in 1 2 3; do
        pgqrs message send fragile "$n" >/dev/null
        pgqrs message release fragile "$(pgqrs message read fragile --format json | jq '.[0].id')" --reason "broke $n" >/dev/null
    done
    json "dead list" 'map([.payload, .reason, .state]) == [[3, "broke 3", "dead"], [2, "broke 2", "dead"], [1, "broke 1", "dead"]]' \
        pgqrs dead list fragile
    one=$(jq '.[2].id' "$scratch/out")
    json "dead show" '.reason == "broke 1"' pgqrs dead show fragile "$one"
    gives "which ones?" 2 pgqrs dead replay fragile
    json "replay one" '.count == 1 and .id == '"$one" pgqrs dead replay fragile "$one"
    gives "it is not dead any more" 3 pgqrs dead replay fragile "$one"
    json "replay all" '.count == 2' pgqrs dead replay fragile --all
    json "none is dead" '. == []' pgqrs dead list fragile
    is "all are pending" 3 "$(pgqrs message count fragile)"
    gives "no such queue" 3 pgqrs dead list nowhere
}

end() {
    gives "delete a queue with messages" 1 pgqrs queue delete jobs --yes
    gives "with force" 0 pgqrs queue delete jobs --yes --force
    gives "uninstall needs a yes" 2 pgqrs uninstall
    gives "verify" 0 pgqrs verify
    gives "uninstall" 0 pgqrs uninstall --yes
    gives "nothing is left" 1 pgqrs queue list
    gives "uninstall again" 3 pgqrs uninstall --yes
}

everything() {
    tables
    older_tables
    queues
    sending
    taking
    archives
    dead_letters
    end
}
on_each_store everything
tap_end
