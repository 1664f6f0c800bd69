#!/usr/bin/env bash
# The command-line tool: workflows and runs, started, watched and mended from a shell. What they do is tests/cli_flow.c.
. "$(dirname "$0")/cli.sh"
flow=$root/build/test/cli_flow

workflows() {
    pgqrs install >/dev/null
    json "create" '.action == "created"' pgqrs workflow create expense --max-retries 0 --timeout 7d --lock-time 1m --retention 30d
    gives "create again" 1 pgqrs workflow create expense
    json "create if missing" '.action == "unchanged"' pgqrs workflow create expense --if-missing
    json "list" 'map([.name, .queue, .max_retries, .timeout_ms, .retention_ms]) == [["expense", "expense", 0, 604800000, 2592000000]]' \
        pgqrs workflow list
    json "get" '.name == "expense"' pgqrs workflow get expense
    gives "get none" 3 pgqrs workflow get nothing
    json "its queue has the lease" '.lease_ms == 60000' pgqrs queue get expense
}

runs() {
    json "trigger" '.workflow == "expense" and .duplicate == false' pgqrs run trigger expense '"lunch"' --key lunch-1
    lunch=$(jq .id "$scratch/out")
    json "the same key" ".duplicate and .id == $lunch" pgqrs run trigger expense 2 --key lunch-1
    echo '"broke"' >input.json
    broke=$(pgqrs run trigger expense --file input.json --format json | jq .id)
    doomed=$(pgqrs run trigger expense --delay 1h --priority 2 --format json | jq .id)
    gives "trigger none" 3 pgqrs run trigger nothing 1
    gives "input that is no JSON" 1 pgqrs run trigger expense '{'
    json "show" '.state == "queued" and .input == "lunch" and .idempotency_key == "lunch-1" and .output == null' pgqrs run show "$lunch"
    gives "no result yet" 1 pgqrs run result "$lunch"
    pgqrs run result "$lunch" --wait 1m >waited 2>said &
    waiting=$!
    sleep 0.3
    kill -INT "$waiting"
    status=0
    wait "$waiting" || status=$?
    is "Ctrl-C while it waits" 1 "$status"
    is "and it gives nothing" "" "$(<waited)"
    gives "a worker" 0 "$flow"
    json "they wait" 'map(.state) == ["queued", "paused", "paused"]' pgqrs run list expense
    json "list by state" "map(.id) == [$broke, $lunch]" pgqrs run list --state paused
    json "list the open ones" 'length == 3' pgqrs run list expense --open
    gives "none of which has ended" 2 pgqrs run list --open --state success
    json "list by key" "map(.id) == [$lunch]" pgqrs run list expense --key lunch-1
    json "list with a limit" "map(.id) == [$doomed]" pgqrs run list --limit 1
    json "the next page" "map(.id) == [$broke]" pgqrs run list --limit 1 --after "$doomed"
    json "what it waits for" '.wait == "event" and .wait_name == "answer" and .wait_until != null' pgqrs run show "$lunch"
    json "explain" '.reason == "event"' pgqrs run explain "$lunch"
    json "steps" 'map([.name, .state, .output]) == [["ask", "done", "asked"], ["answer", "waiting", null]]' pgqrs run steps "$lunch"
    json "values" 'map([.name, .value]) == [["progress", 50]]' pgqrs run values "$lunch"
    json "send an event" '.action == "sent"' pgqrs run send-event "$lunch" answer '{"by":"ada"}'
    json "a second one" '.action == "ignored"' pgqrs run send-event "$lunch" answer 2
    gives "an event for the other" 0 pgqrs run send-event "$broke" answer
    json "cancel" '.action == "cancelled"' pgqrs run cancel "$doomed" --by ada --reason "not hungry"
    json "it is not open any more" "map(.id) == [$broke, $lunch]" pgqrs run list --open
    json "who and why" '.state == "cancelled" and .cancelled_by == "ada" and .cancel_reason == "not hungry"' pgqrs run show "$doomed"
    gives "its result" 1 pgqrs run result "$doomed"
    gives "a worker again" 0 "$flow"
    json "result" '.state == "success" and .output == {"by":"ada"}' pgqrs run result "$lunch"
    is "result for people" '{"by":"ada"}' "$(pgqrs run result "$lunch" --wait 5s)"
    json "steps in a loop have keys" 'map([.name, .key]) == [["ask", null], ["answer", null], ["pay", "cash"]]' pgqrs run steps "$lunch"
    gives "a failed run" 1 pgqrs run result "$broke"
    has "says why" "there is no money" "$err"
    json "show it" '.state == "error" and .error_code == "BROKE" and .error_step == "pay"' pgqrs run show "$broke"
    touch money
    gives "restart" 0 pgqrs run restart "$broke"
    gives "restart what has not failed" 1 pgqrs run restart "$lunch"
    gives "a worker once more" 0 "$flow"
    json "mended" '.state == "success"' pgqrs run result "$broke"
    fork=$(pgqrs run fork "$broke" --step pay --key cash --format json | jq .id)
    json "fork" ".forked_from == $broke and .state == \"queued\"" pgqrs run show "$fork"
    gives "fork from no step" 3 pgqrs run fork "$broke" --step nothing
    for command in show steps values explain cancel restart result fork; do gives "no such run: $command" 3 pgqrs run "$command" 999999; done
    gives "no such run: send-event" 3 pgqrs run send-event 999999 x
    for command in show steps explain result; do gives "for people: $command" 0 pgqrs run "$command" "$lunch"; done
    gives "for people: list" 0 pgqrs run list
    has "with names above" "state" "$out"
}

end() {
    gives "purge needs a yes" 2 pgqrs run purge expense
    json "purge by state" '.count == 1' pgqrs run purge expense --state cancelled --yes
    json "purge" '.count == 2' pgqrs run purge expense --yes
    gives "delete with an open run" 1 pgqrs workflow delete expense --yes
    gives "delete with force" 0 pgqrs workflow delete expense --yes --force
    json "none is left" '. == []' pgqrs workflow list
    rm -f money
    pgqrs uninstall --yes >/dev/null
}

everything() {
    workflows
    runs
    end
}
on_each_store everything
tap_end
