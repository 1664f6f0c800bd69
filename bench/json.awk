# Reads the flat JSON objects of the benchmarks, one in each line: names[1..count] and value[name].
function parse(line,   pair) {
    count = 0
    delete value
    while (match(line, /"[a-z0-9_]+":("[^"]*"|[^,}]*)/)) {
        pair = substr(line, RSTART, RLENGTH)
        line = substr(line, RSTART + RLENGTH)
        names[++count] = substr(pair, 2, index(pair, "\":") - 2)
        value[names[count]] = substr(pair, index(pair, "\":") + 2)
        gsub(/"/, "", value[names[count]])
    }
}
