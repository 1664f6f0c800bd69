#!/bin/sh
. "$(dirname "$0")/expect.sh"

expect "$1" <<'END'
refused: payload: not well-formed JSON in UTF-8 at line 2, column 2 (byte 27)
refused: payload: required key 'to' missing (validation.required_keys)
refused: payload: nesting depth 3 exceeds limit 2 (validation.max_depth)
2 x to ada@example.com
1 x to grace@example.com
dead: {"to":42}, not an e-mail
END
