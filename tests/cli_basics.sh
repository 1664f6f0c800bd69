#!/usr/bin/env bash
# The command-line tool itself: options, help, configuration, formats, errors and exit codes.
. "$(dirname "$0")/cli.sh"

# --- help and usage
gives "the version" 0 pgqrs --version
is "which is the library's" "pgqrs $(sed -n 's/^#define PGQRS_VERSION "\(.*\)"/\1/p' "$root/pgqrs.h")" "$out"
gives "no command is wrong usage" 2 pgqrs
has "and shows the help" "queue create NAME" "$err"
gives "help" 0 pgqrs --help
overview=$out
gives "help for a group" 0 pgqrs queue --help
has "lists its commands" "queue create NAME" "$out"
case $out in *"message read"*) tap_fail "and no others" ;; *) tap_ok "and no others" ;; esac

# Every command of the overview has help of its own, with its words in the first line.
helpless=
words_of='s/^  ([a-z-]+( [a-z-]+)?)(  .*| [A-Z[-].*)?$/\1/p'
while read -r words; do
    # shellcheck disable=SC2086
    pgqrs $words --help 2>&1 | head -n 1 | grep -q "^pgqrs $words" || helpless="$helpless [$words]"
done <<EOF
$(echo "$overview" | sed -nE "$words_of")
EOF
is "the overview has them all" "$(grep -c '^    {"[a-z -]*", "' "$root/examples/cli/pgqrs.c")" \
    "$(echo "$overview" | sed -nE "$words_of" | wc -l)"
is "every command has help" "" "$helpless"

for wrong in "foo" "queue" "queue foo" "queue create" "queue create a b" "queue list --lock-time 5" "queue create a --bad" \
    "queue create a --lock-time" "queue create a --lock-time x" "queue create a --lock-time -5" "queue create a --lock-time 99999999d" \
    "queue list --format xml" "queue list --limit 0" "message send a 1 --priority 40000" "message show a x" \
    "message send a --file f 1" "message show a 1 --log-level loud" "message list a --state odd" "queue list -z" \
    "message send a 1 --producer="; do
    # shellcheck disable=SC2086
    gives "wrong usage: $wrong" 2 pgqrs -d sqlite::memory: $wrong
    [ "$(echo "$err" | wc -l)" = 1 ] && [ -z "$out" ] || tap_fail "in one line: $wrong"
done

# --- which store
gives "without a store" 2 pgqrs queue list
has "the cure is said" "--dsn" "$err"
gives "an unknown scheme" 2 pgqrs -d foo://x queue list
gives "no server" 4 pgqrs -d postgresql://ada:secret@127.0.0.1:1/x queue list
case $err in *secret*) tap_fail "no password in messages" ;; *) tap_ok "no password in messages" ;; esac
gives "a file that cannot be made" 2 pgqrs -d "sqlite://$scratch/nowhere/x.db" install
for command in "queue list" "message send a 1" "migrate" "doctor" "copy sqlite://$scratch/typo.db sqlite://$scratch/typo2.db --yes"; do
    # shellcheck disable=SC2086
    gives "a file that is not there: $command" 2 pgqrs -d "sqlite://$scratch/typo.db" $command
    has "is named with the cure" "there is no file $scratch/typo.db; name the right one, or make it with pgqrs install" "$err"
done
is "and is not there afterwards" "" "$(ls "$scratch" | grep typo)"
: >"$scratch/empty.db"
gives "no tables" 1 pgqrs -d "sqlite://$scratch/empty.db" queue list
has "the command that makes them is named" "pgqrs install" "$err"
for format in table json jsonl csv; do
    for command in "queue list" "message list a" "worker list" "workflow list" "run list"; do
        # shellcheck disable=SC2086
        gives "a list that fails: $command, $format" 1 pgqrs -d "sqlite://$scratch/empty.db" $command --format $format
        is "shows nothing else" "" "$out"
    done
done

# --- precedence: flag, environment, file; field by field
gives "install by flag" 0 pgqrs -d "sqlite://$scratch/flag.db" install
gives "install by environment" 0 env PGQRS_DSN="sqlite://$scratch/env.db" pgqrs install
printf 'dsn: sqlite://%s/file.db\ndefault_lock_time_seconds: 77\n' "$scratch" >pgqrs.yaml
gives "install by file" 0 pgqrs install
for place in flag env file; do pgqrs -d "sqlite://$scratch/$place.db" queue create "from-$place" >/dev/null; done
only_queue() { "$@" --format jsonl | jq -r .name; }
is "the file" from-file "$(only_queue pgqrs queue list)"
is "the environment wins over it" from-env "$(only_queue env PGQRS_DSN="sqlite://$scratch/env.db" pgqrs queue list)"
is "the flag wins over both" from-flag \
    "$(only_queue env PGQRS_DSN="sqlite://$scratch/env.db" pgqrs --dsn "sqlite://$scratch/flag.db" queue list)"
pgqrs -d "sqlite://$scratch/flag.db" queue create merged >/dev/null
json "the rest of the file counts all the same" '.lease_ms == 77000' pgqrs -d "sqlite://$scratch/flag.db" queue get merged
mv pgqrs.yaml other.yml
gives "a file by flag" 0 pgqrs -c other.yml queue get from-file
gives "a file that is not there" 2 pgqrs -c nowhere.yml queue list
echo 'dns: sqlite://x' >bad.yml
gives "a wrong key in the file" 2 pgqrs -c bad.yml queue list
has "is named" dns "$err"

# --- formats
export PGQRS_DSN=sqlite://$scratch/flag.db
nasty=$(printf '{"text":"a \\"quoted\\"\\nline, 100%% \\u0001 \303\251"}')
gives "a payload that is hard to print" 0 pgqrs message send from-flag "$nasty" --producer 'O"Hara, Ada'
json "json: one record" '.payload.text | startswith("a \"quoted\"\nline, 100% ")' pgqrs message show from-flag 1
json "json: text" '.producer == "O\"Hara, Ada" and .reason == null' pgqrs message show from-flag 1
json "json: a list" 'length == 1 and .[0].id == 1' pgqrs message list from-flag
json "json: an empty list" '. == []' pgqrs message list merged
json "json: times are ISO 8601" '.enqueued_at | sub("\\.[0-9]+Z$"; "Z") | fromdate > 1700000000' pgqrs message show from-flag 1
pgqrs message send from-flag "$(printf '{\n "two":\t2\r\n}')" >/dev/null
is "jsonl: a line for each" "2 2" "$(pgqrs message list from-flag --format jsonl | jq -s length) $(pgqrs message list from-flag --format jsonl | wc -l)"
gives "csv" 0 pgqrs message list from-flag --format csv
is "csv: names" "id,queue,state,attempt,priority,enqueued_at,due_at,expires_at,finished_at,lease,lease_until,worker_id,worker,producer,dedup_key,reason,payload" "$(echo "$out" | head -n 1)"
has "csv: quotes" ',"O""Hara, Ada",' "$out"
gives "table" 0 pgqrs message list from-flag
has "names above" "id  state  attempt  priority  enqueued_at" "$out"
has "times for people" " ago " "$out"
gives "table in UTC" 0 pgqrs message list from-flag --utc
has "UTC" "$(date -u +%Y-%m-%dT)" "$out"
gives "a text with control characters" 0 pgqrs message read from-flag
pgqrs message release from-flag 1 --reason "$(printf 'red \033[31m bell \a')" >/dev/null
gives "does not reach the terminal" 0 pgqrs message show from-flag 1
case $out in *"$(printf '\033')"*) tap_fail "no escape" ;; *) tap_ok "no escape" ;; esac
json "and is whole in JSON" '.reason | contains("\u001b[31m")' pgqrs message show from-flag 1

# What --help calls the fields of a command are the members of its JSON.
for words in "queue get from-flag" "queue metrics from-flag" "message show from-flag 1" "message list from-flag" "message explain from-flag 1" \
    "message count from-flag" "archive count from-flag" "worker stats" "doctor" "verify" "queue resume from-flag" "run trigger wf 1"; do
    [ "${words%% *}" != run ] || pgqrs workflow create wf >/dev/null
    # shellcheck disable=SC2086
    is "documented fields: $words" "$(pgqrs $words --help | sed -n '/^Fields/,$p' | tail -n +2 | tr -d ' \n')" \
        "$(pgqrs $words --format jsonl | head -n 1 | jq -r 'keys_unsorted | join(",")')"
done

gives "--out" 0 pgqrs queue list --format jsonl --out list.txt
is "is a file" from-flag "$(jq -r .name list.txt | head -n 1)"
is "and nothing is on standard output" "" "$out"
gives "--out that cannot be written" 1 pgqrs queue list --out /nowhere/x
gives "--log-dest that cannot be written" 1 pgqrs queue list --log-dest /nowhere/x
if [ -e /dev/full ]; then
    gives "a full disk" 1 pgqrs queue list --out /dev/full
    has "is told" "cannot write" "$err"
    pgqrs queue create full >/dev/null && pgqrs message send full 1 >/dev/null
    gives "a message that cannot be shown" 1 pgqrs message dequeue full --out /dev/full
    is "is given back" 1 "$(pgqrs message count full)"
fi
status=0
pgqrs message list from-flag >&- 2>/dev/null || status=$?
is "standard output that is closed" 1 "$status"
gives "the log" 0 pgqrs message read from-flag --log-dest log.txt --log-level trace
has "has something to say" 'claimed 1 from "from-flag"' "$(cat log.txt)"

# --- on a terminal: script(1) makes one of the width given
on_terminal() { # COLUMNS COMMAND
    script -qec "stty cols $1 rows 40; $2" /dev/null </dev/null | tr -d '\r'
}
pgqrs queue create wide >/dev/null
pgqrs message send wide "\"$(printf 'x%.0s' $(seq 300))\"" >/dev/null
if command -v script >/dev/null; then
    longest=$(on_terminal 70 "pgqrs message list wide --no-color" | awk '{ if (length($0) > n) n = length($0) } END { print n }')
    is "a table fits the terminal" 70 "$longest"
    has "colors" "$(printf '\033')[1m" "$(on_terminal 100 "pgqrs queue list")"
    is "--no-color" "" "$(on_terminal 100 "pgqrs queue list --no-color" | grep "$(printf '\033')")"
    is "NO_COLOR" "" "$(on_terminal 100 "NO_COLOR=1 pgqrs queue list" | grep "$(printf '\033')")"
    seq 1 2000 >lines
    has "a progress bar" "[=========================] 100%  2000 messages" "$(on_terminal 100 "pgqrs message send wide --lines --file lines")"
    # A person is asked, and may say no.
    pgqrs queue create one >/dev/null && pgqrs message send one 1 >/dev/null
    has "one is no several" 'delete queue "one" with 1 message? [y/N]' \
        "$( (sleep 0.3 && echo n) | script -qec "pgqrs queue delete one --force" /dev/null | tr -d '\r')"
    answer() { (sleep 0.3 && echo "$1") | script -qec "pgqrs queue delete wide --force" /dev/null | tr -d '\r'; }
    has "no is no" "nothing was changed" "$(answer n)"
    gives "so it is still there" 0 pgqrs queue get wide
    has "the question says what would go" 'delete queue "wide" with 2001 messages? [y/N]' "$(answer y)"
    gives "yes is yes" 3 pgqrs queue get wide
else
    tap_skip "tables on a terminal: script(1) is not there"
fi

is "numbers stand on the right" "from-flag|     2
merged   |     0" "$(pgqrs queue metrics | awk 'NR == 1 { at = index($0, "total") + 4; next } /^(from-flag|merged)/ { print substr($0, 1, 9) "|" substr($0, at - 5, 6) }')"

# --- what scripts for the earlier tool use
kept=$PGQRS_DSN
unset PGQRS_DSN
mkdir old && cd old || exit 1
echo 'dsn: sqlite://old.db' >pgqrs.yml
gives "old: install, by pgqrs.yml" 0 pgqrs install
gives "old: verify" 0 pgqrs verify
gives "old: queue create" 0 pgqrs -d sqlite://old.db queue create jobs
gives "old: queue create --unlogged" 0 pgqrs queue create fast --unlogged
gives "old: queue list" 0 pgqrs --format json queue list
is "old: globals stand in front, too" "fast jobs" "$(jq -r '.[].name' <<<"$out" | sort | xargs)"
gives "old: message send" 0 pgqrs --format json --log-dest stderr --log-level trace --out stdout message send jobs '{"n":1}'
is "old: prints the message" 1 "$(jq .payload.n <<<"$out")"
json "old: message send --delay" '.state == "delayed"' pgqrs message send jobs 2 --delay 60
json "old: message read" 'length == 1 and .[0].payload.n == 1' pgqrs message read jobs
id=$(jq '.[0].id' "$scratch/out")
json "old: it is held for five seconds" '((.lease_until | sub("\\.[0-9]+Z$"; "Z") | fromdate) - now) | . > 2 and . < 6' pgqrs message show jobs "$id"
json "old: message read -n -t --lock-time" '. == []' pgqrs message read jobs -n 2 --lock-time 10 -t mail
json "old: message read --archive" '. == []' pgqrs message read jobs --archive
gives "old: message count" 0 pgqrs message count jobs
is "old: the one that is delayed" 1 "$out"
gives "old: message count --archive" 0 pgqrs message count jobs --archive
is "old: none yet" 0 "$out"
gives "old: message archive, its lease is ours" 0 pgqrs message archive jobs "$id"
json "old: message show --archive" ".id == $id" pgqrs message show jobs "$id" --archive
json "old: archive list" "map(.id) == [$id]" pgqrs archive list jobs
pgqrs message send jobs 3 >/dev/null
json "old: message dequeue" '.payload == 3 and .lease == null and .lease_until == null' pgqrs message dequeue jobs
gives "old: message delete" 0 pgqrs message delete jobs "$id" --yes
gives "old: queue metrics" 0 pgqrs queue metrics
json "old: queue metrics of one" '.archived == 1 and .delayed == 1' pgqrs queue metrics jobs
gives "old: queue purge" 0 pgqrs queue purge jobs --yes
gives "old: queue delete" 0 pgqrs queue delete jobs --yes
gives "old: config" 0 pgqrs -c pgqrs.yml queue list
gives "old: uninstall" 0 pgqrs --config pgqrs.yml uninstall --yes
cd .. || exit 1
export PGQRS_DSN=$kept

# --- the README, as a newcomer would
mkdir newcomer && cd newcomer || exit 1
awk '/^## The command line/ { on = 1 } on && /^```$/ { inside = 0 } inside { print } on && /^```sh/ { inside = ++blocks == 2 } /^## Which/ { on = 0 }' \
    "$root/README.md" >readme.sh
gives "the README's commands" 0 bash -e readme.sh
has "do what they say" '{"to":"ada@example.com"}' "$out"
named=$(awk '/^## The command line/ { on = 1 } /^## Which/ { on = 0 } on && /^\| `/ { print }' "$root/README.md" | cut -d'|' -f2 |
    grep -o '`pgqrs [a-z]* *[a-z]*' | tr -d '`' | sed 's/^pgqrs //; s/ *$//' | sort -u)
unknown=
while read -r words; do
    # shellcheck disable=SC2086
    pgqrs $words --help 2>/dev/null | head -n 1 | grep -q "^pgqrs $words" || unknown="$unknown [$words]"
done <<<"$named"
is "its table names commands that are there" "" "$unknown"
cd ..

# --- installed
gives "make install" 0 env -u MAKEFLAGS -u MAKELEVEL make -s -C "$root" install PREFIX="$scratch/prefix"
gives "it runs from there" 0 "$scratch/prefix/bin/pgqrs" --version
[ -f "$scratch/prefix/include/pgqrs.h" ] && tap_ok "with the headers" || tap_fail "with the headers"
tap_end
