#!/bin/sh
. "$(dirname "$0")/expect.sh"

# The same program prints the same on either database.
expect "$1" <<'END'
thumbnail of "dog.png", priority 1
thumbnail of "cat.png", priority 0
END

# Messages that wait in a file move to the other store (on a run without PGQRS_DSN: to another file).
env PGQRS_DSN=sqlite://prototype.db "$1" enqueue
expect "$1" move sqlite://prototype.db <<'END'
moved "dog.png"
moved "cat.png"
END
expect "$1" move sqlite://prototype.db </dev/null
expect "$1" work <<'END'
thumbnail of "dog.png", priority 1
thumbnail of "cat.png", priority 0
END
