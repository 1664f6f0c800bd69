# Copies the examples of a document into files, one per example.
#
#   awk -v out=DIR -v prefix=NAME -f extract.awk FILE
#
# In Markdown: every ```c block, named prefix-1, prefix-2, ... In a header: what stands between a line `@example NAME`
# and a line `@end`. Prints the name of each.
function finish(    i, indent, shortest) {
    shortest = -1
    for (i = 1; i <= n; i++) {
        if (line[i] ~ /^[ \t]*$/) continue
        match(line[i], /^[ \t]*/)
        indent = RLENGTH
        if (shortest < 0 || indent < shortest) shortest = indent
    }
    # The line number keeps the compiler's messages pointing at the document.
    printf "#line %d \"%s\"\n", first, FILENAME > path
    for (i = 1; i <= n; i++) print substr(line[i], shortest + 1) > path
    close(path)
    print name
    inside = 0
}
function begin(which) {
    if (which in seen) { print FILENAME ":" FNR ": a second example named " which > "/dev/stderr"; bad = 1 }
    seen[which] = 1
    name = which
    path = out "/" name ".block"
    n = 0
    first = FNR + 1
    inside = 1
}
{
    stripped = $0
    sub(/^[ \t]+/, "", stripped)
    sub(/[ \t\r]+$/, "", stripped)
}
FILENAME ~ /\.md$/ {
    if (inside && stripped == "```") { finish(); next }
    if (!inside && !other && stripped == "```c") { begin(prefix "-" ++count); next }
    if (!inside && stripped ~ /^```/) { other = !other; next }
}
FILENAME !~ /\.md$/ {
    if (inside && stripped == "@end") { finish(); next }
    if (!inside && stripped ~ /^@example [A-Za-z0-9_-]+$/) { begin(substr(stripped, 10)); next }
    if (stripped ~ /^@example/) { print FILENAME ":" FNR ": an example inside another, or without a plain name" > "/dev/stderr"; bad = 1 }
}
inside { line[++n] = $0 }
END {
    if (inside) { print FILENAME ": example " name " has no end" > "/dev/stderr"; bad = 1 }
    exit bad
}
