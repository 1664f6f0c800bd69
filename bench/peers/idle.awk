# What an idle system takes, from looks at its processes and at the server's, one after the other: seconds of processor as JSON.
#
#   look TIME               the beginning of a look, in seconds
#   client THREAD NS        a thread of the system's program, and how long it has been on a processor
#   server PID NS TITLE...  a process of the server, with the title that it gives itself; the postmaster itself, too
#   ended SECONDS           of the server's processes that have ended
#
# A process that is there in the first look counts from then on, one that comes later from its beginning, and one that goes up to the
# last look that has it. Those of the system are the ones that are connected to `database`, and what these start.
/^look / {
    looks++
    if (looks == 1) first = $2
    last = $2
    split("", alive)
    next
}
/^ended / {
    if (looks == 1) ended = $2
    ended_now = $2
    next
}
/^(client|server) / {
    id = $1 " " $2
    if (!(id in base)) {
        base[id] = looks == 1 ? $3 : 0
        if (looks > 1) {
            came[id] = 1
            connects[id] = $5 " " $6 != "parallel worker"
        }
    }
    now[id] = alive[id] = $3
    # A connection has no database in its title until it has said which.
    if ($1 == "server" && ($4 == "postgres:" && $6 == database || $5 " " $6 == "parallel worker" && "server " $9 in own)) own[id] = 1
}
END {
    for (id in now) {
        if (id ~ /^client/) client += now[id] - base[id]
        else {
            if (id in own) server += now[id] - base[id]
            if (id in own && connects[id]) connections++
            all -= id in came ? 0 : base[id]
            if (id in alive) all += alive[id]
        }
    }
    # What ended had a beginning, too: all of it is in `ended`, and what it had taken before the first look is taken off above.
    all = all / 1e9 + ended_now - ended
    background = all - server / 1e9
    if (background < 0) background = 0
    printf "{\"seconds\":%.3f,\"client\":%.9f,\"server\":%.9f,\"background\":%.9f,\"seen\":%d}\n",
        last - first, client / 1e9, server / 1e9, background, connections
}
