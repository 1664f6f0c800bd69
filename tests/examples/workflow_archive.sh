#!/bin/sh
. "$(dirname "$0")/expect.sh"

mkdir inbox
echo "first" >inbox/a.txt
echo "second" >inbox/b.txt
expect "$1" inbox <<'END'
listed:   ["a.txt","b.txt"]
archived: inbox.archive
run 1: "inbox.archive"
END
expect cat inbox.archive <<'END'
==> inbox/a.txt <==
first
==> inbox/b.txt <==
second
END
