# Sourced by the scripts that check something: they report as the test programs do (TAP), so that run.sh counts them.
tap_count=0
tap_failed=0

# tap_ok NAME / tap_fail NAME [FILE-WITH-DETAILS] / tap_skip NAME
tap_ok() {
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1"
}

tap_fail() {
    tap_count=$((tap_count + 1))
    tap_failed=$((tap_failed + 1))
    echo "not ok $tap_count - $1"
    if [ -n "${2:-}" ] && [ -f "$2" ]; then
        # The end says why, and the beginning what was tried.
        awk 'NR <= 15 { print; next } { last[NR] = $0 } END {
            from = NR > 60 ? NR - 44 : 16
            if (from > 16) print "[" from - 16 " lines left out]"
            for (i = from; i <= NR; i++) print last[i] }' "$2" | sed 's/^/# /'
    fi
}

tap_skip() {
    tap_count=$((tap_count + 1))
    echo "ok $tap_count # SKIP $1"
}

# tap_check NAME LOG COMMAND...: runs the command, its output goes to LOG.
tap_check() {
    local name=$1 log=$2
    shift 2
    if "$@" >"$log" 2>&1; then tap_ok "$name"; else tap_fail "$name" "$log"; fi
}

tap_end() {
    echo "1..$tap_count"
    [ "$tap_failed" -eq 0 ]
}
