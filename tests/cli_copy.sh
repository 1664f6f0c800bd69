#!/usr/bin/env bash
# The command-line tool: a store with work under way is copied from backend to backend, in every direction, each time killed in the middle and
# begun again; nothing is missing, nothing is there twice, and on each kind of store runs go on after their last step.
. "$(dirname "$0")/cli.sh"
flow=$root/build/test/cli_flow
many=3000
start_bucket

# The way goes from store to store; @N behind a Postgres DSN is the schema.
first=sqlite://$scratch/first.db
last=sqlite://$scratch/last.db
way=("$first" s3://shop/one.sqlite "$last")
going_on=(s3://shop/one.sqlite "$last")
if [ -n "${PGQRS_TEST_POSTGRES_DSN:-}" ]; then
    postgres=$PGQRS_TEST_POSTGRES_DSN
    way=("$first" "$postgres@1" s3://shop/one.sqlite "sqlite://$scratch/second.db" s3://shop/two.sqlite "$postgres@2" "$last")
    going_on=(s3://shop/two.sqlite "$postgres@2" "$last")
    trap 'for n in 1 2; do pgqrs -d "$postgres" -s "copy_$$_$n" uninstall --yes >/dev/null 2>&1; done; kill $server; rm -rf "$scratch"' EXIT
else
    tap_skip "from and to Postgres: PGQRS_TEST_POSTGRES_DSN is not set"
fi
dsn_of() { case $1 in postgres*@[12]) echo "${1%@?}" ;; *) echo "$1" ;; esac; }
schema_of() { case $1 in postgres*@[12]) echo "copy_$$_${1##*@}" ;; *) echo unused ;; esac; }
kind_of() { echo "${1%%:*}"; }
on() { # STORE COMMAND...
    local at=$1
    shift
    pgqrs -d "$(dsn_of "$at")" -s "$(schema_of "$at")" "$@"
}
copy() { # FROM TO OPTION...
    prepared "$@"
    "${command[@]}"
}
prepared() { # the same, in an array: behind a function there would be a shell more, and a signal would reach that one only
    local from=$1 to=$2
    shift 2
    command=(pgqrs copy "$(dsn_of "$from")" "$(dsn_of "$to")" --from-schema "$(schema_of "$from")" --to-schema "$(schema_of "$to")" "$@")
}

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
gives "to itself" 2 pgqrs copy "$first" "$first" --yes --to-schema other
gives "without a question" 2 copy "${way[0]}" "${way[1]}"
has "says what it would do" "pause 3 of 3 queues" "$err"
json "and has done nothing" 'map(.paused) | any | not' pgqrs -d "$first" queue list
gives "while somebody is at work" 1 copy "${way[0]}" "${way[1]}" --yes
has "says so" "2 messages are still being worked on" "$err"
has "and the cure" "--force" "$err"
gives "from a store that is not there" 4 pgqrs copy postgresql://ada:secret@127.0.0.1:1/x "$last" --yes
gives "one DSN" 2 pgqrs copy "$first"

# --- from store to store
# Another cache: a copier that is stopped may hold the lock of its own.
arrived() {
    XDG_CACHE_HOME=$scratch/looking timeout 20 "$root/build/pgqrs" -d "$(dsn_of "$1")" -s "$(schema_of "$1")" message count mail --state ready 2>/dev/null ||
        echo 0
}
# While the copier is stopped. In a file of SQLite it may have the turn, which others wait for: there the log is looked at, which has the
# tables alone at a third of that size.
has_begun() {
    case $1 in
    sqlite*) [ "$(wc -c 2>/dev/null <"${1#sqlite://}-wal")" -gt 600000 ] 2>/dev/null ;;
    *) [ "$(arrived "$1")" -gt 0 ] ;;
    esac
}
killed_halfway() { # FROM TO: stopped and looked at again and again, until some has arrived
    local copier half=0
    prepared "$1" "$2" --yes --force
    "${command[@]}" >/dev/null 2>&1 &
    copier=$!
    while kill -STOP "$copier" 2>/dev/null; do
        ! has_begun "$2" || break
        kill -CONT "$copier"
        sleep 0.002
    done
    kill -KILL "$copier" 2>/dev/null
    wait "$copier" 2>/dev/null
    half=$(arrived "$2")
    if [ "$half" -gt 0 ] && [ "$half" -lt $((many - 100)) ]; then tap_ok "$store killed with a part copied"; else tap_fail "$store killed with $half copied"; fi
}
sums() { jq -c 'map([.name, .kind, .count, .checksum]) | sort' "$1"; }
leg() { # FROM TO
    store="$(kind_of "$1") to $(kind_of "$2"): "
    killed_halfway "$1" "$2"
    gives "the part is whole" 0 on "$2" verify
    json "begun again" 'all(.equal)' copy "$1" "$2" --yes --force
    [ -e there.json ] || cp out there.json
    is "with the same checksums" "$(sums there.json)" "$(sums out)"
    has "once more, nothing is new" "0 messages and runs were stored" "$(copy "$1" "$2" --yes --force 2>&1 >/dev/null)"
    gives "the copy is whole" 0 on "$2" verify
    store=
}
for ((i = 0; i + 1 < ${#way[@]}; i++)); do leg "${way[i]}" "${way[i + 1]}"; done
is "everything was counted" '["mail","unfinished",'$((many - 2))'] ["mail","archived",3] ["mail","dead",0] ["expense","unfinished",3] ["expense","runs",3]' \
    "$(jq -c '.[] | select(.name != "empty") | select(.name != "expense" or .kind == "unfinished" or .kind == "runs") | [.name, .kind, .count]' there.json | paste -sd ' ')"
[ -z "${postgres:-}" ] || json "two schemas of one database are two stores" 'all(.equal)' copy "$postgres@1" "$postgres@2" --yes

# --- the last one
json "settings, and paused" '.lease_ms == 45000 and .max_attempts == 4 and .retention_ms == 2592000000 and .paused' \
    pgqrs -d "$last" queue get mail
json "the workflow" '.max_retries == 0 and .timeout_ms == 604800000' pgqrs -d "$last" workflow get expense
json "what was leased is delayed" 'length == 3' pgqrs -d "$last" message list mail --state delayed
for at in "${going_on[@]}"; do
    store="$(kind_of "$at"): "
    on "$at" queue resume expense >/dev/null
    gives "runs go on there" 0 env PGQRS_DSN="$(dsn_of "$at")" PGQRS_SCHEMA="$(schema_of "$at")" "$flow"
    json "after their last step" '.state == "success" and .output == {"by":"ada"} and .idempotency_key == "lunch-1"' on "$at" run show "$lunch"
    is "which was not done again" "$asked" "$(on "$at" run steps "$lunch" --format json | jq -c '.[0]')"
    json "others go on waiting" '.state == "paused" and .wait == "event"' on "$at" run show "$dinner"
    json "or for their time" '.state == "queued"' on "$at" run show "$queued"
    json "the key is known" ".duplicate and .id == $lunch" on "$at" run trigger expense 2 --key lunch-1
done
store=
export PGQRS_DSN=$last
pgqrs queue resume mail >/dev/null
json "the order is kept" ".id == $next" pgqrs message dequeue mail
json "what came back is at the tail" '.attempt == 1 and .reason == "try again" and .state == "ready"' pgqrs message show mail "$back"
json "new ids are new" ".id > $queued" pgqrs message send mail 1
is "a lease means nothing elsewhere" "no" "$(pgqrs message archive mail 4 --lease "$lease" >/dev/null 2>&1 && echo yes || echo no)"
gives "a queue that delivers already" 1 pgqrs copy "$first" "$last" --yes --force
has "is named" 'queue "mail" is delivering' "$err"
tap_end
