#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
found: { key to string ada key tags [ number 1 literal null ] }

{"to":"ada"}                       PGQRS_OK
{"to":"ada",                       PGQRS_ERR_JSON
    payload: not well-formed JSON in UTF-8 at line 1, column 12 (byte 11)
{"to":"ada"} and more              PGQRS_ERR_JSON
    payload: not well-formed JSON in UTF-8 at line 1, column 14 (byte 13)
{"to":[[["too deep"]]]}            PGQRS_ERR_JSON_TOO_DEEP
    payload: nesting depth 4 exceeds limit 3 (validation.max_depth)
{"to":[{"__proto__":1}]}           PGQRS_ERR_FORBIDDEN_KEY
    payload: forbidden key '__proto__' (validation.forbidden_keys)
{"from":"ada"}                     PGQRS_ERR_MISSING_KEY
    payload: required key 'to' missing (validation.required_keys)
{"to":"a very very long name"}     PGQRS_ERR_STRING_TOO_LONG
    payload: string length 21 exceeds limit 20 (validation.max_string_bytes)
END
