# Sourced by the scripts in this directory.
#
#   expect COMMAND... <<'END'     runs the command; everything it prints on standard output must be this text
#
# With PGQRS_DSN set, each script gets a database of its own on that server, so that it always starts from nothing.
set -eu

fresh_database() {
    server=$PGQRS_DSN
    database=example_$$
    psql -q -X -v ON_ERROR_STOP=1 "$server" -c "CREATE DATABASE $database"
    trap 'psql -q -X "$server" -c "DROP DATABASE IF EXISTS $database"' EXIT
    # The name stands between the last slash of the address and the options.
    PGQRS_DSN=$(echo "$server" | sed "s|^\([a-z]*://[^/]*\)/[^?]*|\1/$database|")
    export PGQRS_DSN
}

expect() {
    cat >expected.txt
    status=0
    "$@" >printed.txt || status=$?
    diff -u expected.txt printed.txt || {
        echo "the output is not what it should be"
        exit 1
    }
    if [ "$status" != 0 ]; then
        echo "exit status $status"
        exit 1
    fi
}

if [ -n "${PGQRS_DSN:-}" ]; then fresh_database; fi
