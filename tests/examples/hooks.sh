#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
with 100 bytes of memory: PGQRS_ERR_NO_MEMORY
with 64 MiB of memory:
log:       warning: queue "jobs": the verdict on message 2 came too late, its lease had ended: give it a longer lease_ms, or call pgqrs_message_extend in the handler
observer:  4 claimed, 4 handled, 1 leases lost
clock:     1 hour passed
random:    used
allocator: 0 bytes left over
END
