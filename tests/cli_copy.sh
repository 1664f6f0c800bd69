#!/usr/bin/env bash
# The command-line tool: a store with work under way is copied to another backend and back, killed in the middle, begun again; nothing is
# missing, nothing is there twice, and runs go on after their last step.
. "$(dirname "$0")/cli.sh"
flow=$root/build/test/cli_flow
first=sqlite://$scratch/first.db
second=sqlite://$scratch/second.db
third=sqlite://$scratch/third.db
many=25000 # a file is copied faster than it is looked at
if [ -n "${PGQRS_TEST_POSTGRES_DSN:-}" ]; then
    second=$PGQRS_TEST_POSTGRES_DSN
    many=3000
    export PGQRS_SCHEMA=copy_$$
    trap 'pgqrs -d "$second" uninstall --yes >/dev/null 2>&1; rm -rf "$scratch"' EXIT
else
    tap_skip "to Postgres and back: PGQRS_TEST_POSTGRES_DSN is not set"
fi

# --- the first store: one of everything
on_first() { pgqrs -d "$first" "$@"; }
on_first install >/dev/null
on_first queue create mail --lock-time 45s --max-attempts 4 --retention 30d >/dev/null
on_first queue create empty >/dev/null
seq 1 $many | on_first message send mail --lines >/dev/null
on_first message send mail '{"of":"ada"}' --dedup-key one --producer me --priority 9 --delay 1h >/dev/null
for _ in 1 2 3; do on_first message dequeue mail >/dev/null; done
lease=$(on_first message read mail --count 2 --lock-time 5h --format json | jq -r '.[0].lease')
back=$(on_first message read mail --lock-time 5h --format json | jq '.[0].id')
on_first message release mail "$back" --reason "try again" >/dev/null
next=$(on_first message list mail --state ready --limit 100000 --format json | jq "map(.id) - [$back] | min")
on_first workflow create expense --max-retries 0 --timeout 7d >/dev/null
lunch=$(on_first run trigger expense '"lunch"' --key lunch-1 --format json | jq .id)
dinner=$(on_first run trigger expense '"dinner"' --format json | jq .id)
gives "a worker" 0 env PGQRS_DSN="$first" "$flow"
on_first run send-event "$lunch" answer '{"by":"ada"}' >/dev/null
queued=$(on_first run trigger expense 1 --delay 2h --format json | jq .id)
asked=$(on_first run steps "$lunch" --format json | jq -c '.[0]')

# --- what is refused
gives "to itself" 2 pgqrs copy "$first" "$first" --yes
gives "without a question" 2 pgqrs copy "$first" "$second"
has "says what it would do" "pause 3 of the 3 queues" "$err"
json "and has done nothing" 'map(.paused) | any | not' pgqrs -d "$first" queue list
gives "while somebody is at work" 1 pgqrs copy "$first" "$second" --yes
has "says so" "2 messages are still being worked on" "$err"
has "and the cure" "--force" "$err"
gives "from a store that is not there" 4 pgqrs copy postgresql://ada:secret@127.0.0.1:1/x "$second" --yes
gives "one DSN" 2 pgqrs copy "$first"

# --- killed in the middle: some of it has arrived by then, and not all
arrived() { pgqrs -d "$second" message count mail --state "$1" --format json 2>/dev/null | jq -e .count 2>/dev/null || echo 0; }
pgqrs copy "$first" "$second" --yes --force >/dev/null 2>&1 &
copier=$!
while [ "$(arrived ready)" = 0 ] && kill -0 "$copier" 2>/dev/null; do :; done
kill -KILL "$copier" 2>/dev/null
wait "$copier" 2>/dev/null
half=$(arrived ready)
if [ "$half" -gt 0 ] && [ "$half" -lt $((many - 100)) ]; then tap_ok "killed with $half messages copied"; else tap_fail "killed with $half messages copied"; fi
gives "the half is whole" 0 pgqrs -d "$second" verify

# --- begun again
json "begun again" 'all(.equal)' pgqrs copy "$first" "$second" --yes --force
cp out there.json
is "everything is counted" '["mail","unfinished",'$((many - 2))'] ["mail","archived",3] ["mail","dead",0] ["expense","unfinished",3] ["expense","runs",3]' \
    "$(jq -c '.[] | select(.name != "empty") | select(.name != "expense" or .kind == "unfinished" or .kind == "runs") | [.name, .kind, .count]' there.json | paste -sd ' ')"
json "again: nothing new" 'all(.equal)' pgqrs copy "$first" "$second" --yes --force
pgqrs copy "$first" "$second" --yes --force >/dev/null 2>said
has "and it says so" "0 messages and runs were stored" "$(<said)"
json "settings, and paused" '.lease_ms == 45000 and .max_attempts == 4 and .retention_ms == 2592000000 and .paused' \
    pgqrs -d "$second" queue get mail
json "the workflow" '.max_retries == 0 and .timeout_ms == 604800000' pgqrs -d "$second" workflow get expense
json "what was leased is delayed" 'length == 3' pgqrs -d "$second" message list mail --state delayed
gives "the copy is whole" 0 pgqrs -d "$second" verify

# --- and on to the third
json "to the third store" 'all(.equal)' pgqrs copy "$second" "$third" --yes
is "with the same checksums" "$(jq -c 'map([.name, .kind, .count, .checksum]) | sort' there.json)" "$(jq -c 'map([.name, .kind, .count, .checksum]) | sort' out)"
gives "the last copy is whole" 0 pgqrs -d "$third" verify
export PGQRS_DSN=$third
for queue in mail expense; do pgqrs queue resume "$queue" >/dev/null; done
gives "runs go on there" 0 "$flow"
json "after their last step" '.state == "success" and .output == {"by":"ada"} and .idempotency_key == "lunch-1"' pgqrs run show "$lunch"
is "which was not done again" "$asked" "$(pgqrs run steps "$lunch" --format json | jq -c '.[0]')"
json "others go on waiting" '.state == "paused" and .wait == "event"' pgqrs run show "$dinner"
json "or for their time" '.state == "queued"' pgqrs run show "$queued"
json "the key is known" ".duplicate and .id == $lunch" pgqrs run trigger expense 2 --key lunch-1
json "the order is kept" ".id == $next" pgqrs message dequeue mail
json "what came back is at the tail" '.attempt == 1 and .reason == "try again" and .state == "ready"' pgqrs message show mail "$back"
json "new ids are new" ".id > $queued" pgqrs message send mail 1
is "a lease means nothing elsewhere" "no" "$(pgqrs message archive mail 4 --lease "$lease" >/dev/null 2>&1 && echo yes || echo no)"
gives "a queue that delivers already" 1 pgqrs copy "$first" "$third" --yes --force
has "is named" 'queue "mail" is delivering' "$err"
tap_end
