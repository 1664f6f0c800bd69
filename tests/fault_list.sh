#!/usr/bin/env bash
# Every public function that talks to a store is made to fail somewhere: its call stands in fault_operations.h, which the tests
# fault_memory and fault_statements go through. A new function is listed here as one that talks to no store, or gets an operation.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
header=${1:-$here/../pgqrs.h}
. "$here/tap.sh"

# They look at what is in memory, or name a constant.
no_store="result_name result_text result_kind version log_stderr validation_strict last_error store_settings store_backend store_pooled free stop
state_name settlement_for worker_fd worker_next_ms worker_stop worker_stopping worker_self worker_state_name retry_delay_ms run_id
run_workflow run_input run_attempt run_store run_status run_error run_pgconn run_sqlite3 run_quote run_unquote run_state_name
run_wait_name step_state_name step_kind_name reason_name message_wanted message_settled"
# Made to fail elsewhere: fault_memory and fault_connection have cases of their own for borrowed connections and uninstalling; close
# cannot fail.
elsewhere="open_pgconn open_sqlite3 close uninstall"

# The declarations, up to the interface for backends, which programs do not call.
declared=$(awk '/^PGQRS_API .*pgqrs_backend_register/ { exit } /^PGQRS_API / { print }' "$header" |
    sed -n 's/^[^(]*[ *]pgqrs_\([a-z0-9_]*\)(.*/\1/p' | sort -u)
# What prepares data and looks at it does not run under a failure.
called=$(awk '/^static [a-z_ ]+\**(prepare_|picture|forget_|total_of)/ { skip = 1 } !skip { print } /^}/ { skip = 0 }' \
    "$here/fault_operations.h" | grep -v '^ *{"' | grep -o 'pgqrs_[a-z0-9_]*(' | sed 's/^pgqrs_//; s/($//' | sort -u)

if [ "$(echo "$declared" | wc -l)" -gt 100 ]; then tap_ok "the header was read"; else tap_fail "the header was read"; fi
missing=
for name in $declared; do
    grep -qx "$name" <<<"$called" || grep -qw "$name" <<<"$no_store $elsewhere" || missing="$missing pgqrs_$name"
done
stale=
for name in $no_store $elsewhere; do
    grep -qx "$name" <<<"$declared" || stale="$stale pgqrs_$name"
done
details=$(mktemp)
trap 'rm -f "$details"' EXIT
echo "without a failure:${missing:- none}; listed and not there:${stale:- none}" >"$details"
if [ -z "$missing$stale" ]; then
    tap_ok "every function that talks to a store is made to fail"
else
    tap_fail "every function that talks to a store is made to fail" "$details"
fi
tap_end
