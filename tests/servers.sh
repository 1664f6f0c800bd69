#!/usr/bin/env bash
# Private servers for the tests: a PostgreSQL cluster with a pgBouncer in transaction mode in front of it, and an S3 store:
# Ceph's radosgw over one object store in memory.
#
#   tests/servers.sh start DIR [postgres] [s3]    start them (without names: all) with everything they write inside DIR;
#                                                 prints what `env` prints
#   tests/servers.sh env DIR                      print the shell lines that export the DSNs
#   tests/servers.sh stop DIR                     stop them and remove DIR
#
#   dir=$(mktemp -d) && eval "$(tests/servers.sh start "$dir")" && ... ; tests/servers.sh stop "$dir"
#
# PGQRS_TEST_POSTGRES_BIN names the programs of another PostgreSQL than the newest that is installed.
#
# Exported: PGQRS_TEST_POSTGRES_DSN, PGQRS_TEST_PGBOUNCER_DSN (an ordinary user that owns its database and may create
# more), PGQRS_TEST_POSTGRES_ADMIN_DSN (the superuser, not through pgBouncer), PGQRS_TEST_POSTGRES_DATA (the data
# directory: its postmaster.pid is how a test finds the server's process to kill); PGQRS_TEST_S3_ENDPOINT,
# PGQRS_TEST_S3_ACCESS_KEY, PGQRS_TEST_S3_SECRET_KEY, PGQRS_TEST_S3_BUCKET (which is there and empty).
set -euo pipefail

die() {
    echo "servers.sh: $*" >&2
    exit 1
}

usage() {
    echo "usage: $0 start DIR [postgres] [s3] | stop DIR | env DIR" >&2
    exit 2
}

[ $# -ge 2 ] || usage
action=$1
dir=$2
shift 2
wanted=" ${*:-postgres s3} "
for name in $wanted; do
    case $name in
    postgres | s3) ;;
    *) usage ;;
    esac
done
mark=.pgqrs-test-servers

# initdb and pgbouncer refuse to run as root.
owner=
if [ "$(id -u)" = 0 ]; then
    for candidate in postgres nobody; do
        if id -u "$candidate" >/dev/null 2>&1; then
            owner=$candidate
            break
        fi
    done
    [ -n "$owner" ] || die "running as root, and there is neither a user 'postgres' nor 'nobody' to run the servers as"
fi

as_owner() {
    # Everything runs from / because the servers' user may not be able to enter the current directory.
    if [ -z "$owner" ]; then
        (cd / && "$@")
    elif command -v setpriv >/dev/null 2>&1; then
        (cd / && setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups -- "$@")
    else
        (cd / && runuser -u "$owner" -- "$@")
    fi
}

find_postgres() {
    local candidate
    for candidate in ${PGQRS_TEST_POSTGRES_BIN:-} $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5,5 -Vr) \
        "$(pg_config --bindir 2>/dev/null || true)" "$(dirname "$(command -v initdb 2>/dev/null || echo /nonexistent/x)")"; do
        if [ -x "$candidate/initdb" ] && [ -x "$candidate/pg_ctl" ] && [ -x "$candidate/postgres" ]; then
            echo "$candidate"
            return
        fi
    done
    die "no PostgreSQL server found (initdb, pg_ctl); run tests/install-deps.sh test"
}

find_pgbouncer() {
    PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin" command -v pgbouncer ||
        die "no pgbouncer found; run tests/install-deps.sh test"
}

port_is_free() {
    ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Below the range the kernel takes outgoing ports from, and far from any server's default.
free_port() {
    local port
    for _ in $(seq 100); do
        port=$((21000 + (RANDOM * 32768 + RANDOM) % 11000))
        if port_is_free "$port"; then
            echo "$port"
            return
        fi
    done
    die "no free port found on 127.0.0.1"
}

random_word() {
    od -An -N12 -tx1 /dev/urandom | tr -d ' \n'
}

# A pid from a stale file may belong to somebody else by now; only a process that was started with this directory is ours.
is_ours() {
    local pid=$1 args
    [ -n "$pid" ] || return 1
    if [ -r "/proc/$pid/cmdline" ]; then
        args=$(tr '\0' ' ' <"/proc/$pid/cmdline")
    else
        args=$(ps -o args= -p "$pid" 2>/dev/null || true)
    fi
    case $args in
    *"$dir"/*) return 0 ;;
    esac
    return 1
}

pid_of() {
    [ -r "$1" ] && head -n 1 "$1" || true
}

stop_process() {
    local pid=$1 signal=$2
    is_ours "$pid" || return 0
    kill "-$signal" "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
        is_ours "$pid" || return 0
        sleep 0.1
    done
    # The cluster is thrown away, so a hard end costs nothing.
    kill -KILL "$pid" 2>/dev/null || true
}

stop_servers() {
    local name
    # Nothing of theirs is kept, and an orderly end takes them seconds.
    for name in radosgw osd mon; do
        stop_process "$(pid_of "$dir/s3/$name.pid")" KILL
    done
    stop_process "$(pid_of "$dir/pgbouncer.pid")" INT
    stop_process "$(pid_of "$dir/data/postmaster.pid")" INT
}

show_logs() {
    local log
    for log in "$dir"/log/*; do
        [ -s "$log" ] || continue
        echo "--- $log (end)" >&2
        tail -n 30 "$log" >&2
    done
}

start_postgres() {
    local bin=$1 attempt
    printf '%s\n' "$admin_password" >"$dir/pwfile"
    chmod 600 "$dir/pwfile"
    [ -z "$owner" ] || chown "$owner" "$dir/pwfile"
    as_owner "$bin/initdb" -D "$dir/data" -U postgres --pwfile="$dir/pwfile" -A scram-sha-256 -E UTF8 --no-locale \
        --no-sync >"$dir/log/initdb.log" 2>&1 || die_with_logs "initdb failed"
    rm -f "$dir/pwfile"
    # The unusual time zone and date style catch code that depends on a session setting it did not choose.
    # No Unix socket: the tests use TCP, and a socket's path has a length limit that a deep directory would hit.
    cat >>"$dir/data/postgresql.conf" <<END
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 120
max_prepared_transactions = 4
shared_buffers = 64MB
fsync = ${PGQRS_SERVERS_FSYNC:-off}
full_page_writes = ${PGQRS_SERVERS_FSYNC:-off}
password_encryption = scram-sha-256
timezone = 'America/St_Johns'
datestyle = 'SQL, DMY'
log_min_messages = warning
log_min_error_statement = error
log_line_prefix = '%m [%p] %a '
autovacuum_naptime = 5s
END
    for attempt in 1 2 3 4 5; do
        postgres_port=$(free_port)
        # Another program may take the port between the look and the start: that is worth another try.
        if as_owner "$bin/pg_ctl" -D "$dir/data" -s -w -t 60 -l "$dir/log/postgres.log" -o "-p $postgres_port" start \
            >"$dir/log/pg_ctl.log" 2>&1 </dev/null; then
            return
        fi
    done
    die_with_logs "PostgreSQL did not start"
}

admin_sql() {
    PGPASSWORD=$admin_password PGCONNECT_TIMEOUT=10 "$1/psql" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$postgres_port" \
        -U postgres -d postgres -c "$2" >>"$dir/log/setup.log" 2>&1
}

start_pgbouncer() {
    local bouncer=$1 bin=$2 attempt
    printf '"pgqrs" "%s"\n' "$password" >"$dir/userlist.txt"
    for attempt in 1 2 3 4 5; do
        pgbouncer_port=$(free_port)
        # The pool is small so that statements of one client really move between server connections.
        cat >"$dir/pgbouncer.ini" <<END
[databases]
* = host=127.0.0.1 port=$postgres_port

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pgbouncer_port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $dir/userlist.txt
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
server_login_retry = 1
logfile = $dir/log/pgbouncer.log
pidfile = $dir/pgbouncer.pid
END
        if [ -n "$owner" ]; then
            chown "$owner" "$dir/pgbouncer.ini" "$dir/userlist.txt"
        fi
        chmod 600 "$dir/userlist.txt"
        as_owner "$bouncer" -q -d "$dir/pgbouncer.ini" >"$dir/log/pgbouncer-start.log" 2>&1 </dev/null || continue
        for _ in $(seq 100); do
            if PGPASSWORD=$password PGCONNECT_TIMEOUT=5 "$bin/psql" -X -q -h 127.0.0.1 -p "$pgbouncer_port" -U pgqrs \
                -d pgqrs -c 'SELECT 1' >>"$dir/log/setup.log" 2>&1; then
                return
            fi
            is_ours "$(pid_of "$dir/pgbouncer.pid")" || break
            sleep 0.1
        done
        stop_process "$(pid_of "$dir/pgbouncer.pid")" INT
    done
    die_with_logs "pgBouncer did not start"
}

# Ceph's daemons take their address from the configuration. The proposal intervals are what makes it fast: with the defaults the
# monitor gathers changes for a second before it decides on each.
write_ceph_conf() {
    cat >"$dir/s3/ceph.conf" <<END
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = v2:127.0.0.1:$mon_port
mon_data = $dir/s3/mon
osd_data = $dir/s3/osd
rgw_data = $dir/s3/rgw
run_dir = $dir/s3
crash_dir = $dir/s3
keyring = $dir/s3/keyring
log_file = $dir/log/ceph-\$type.log
admin_socket =
public_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
setuser_match_path =
client_mount_timeout = 30
rados_mon_op_timeout = 30
rados_osd_op_timeout = 60
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 2000
mon_data_avail_crit = 0
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_memory_target = 939524096
rgw_run_sync_thread = false
rgw_enable_usage_log = false
rgw_enable_ops_log = false
rgw_dynamic_resharding = false
rgw_enable_lc_threads = false
rgw_override_bucket_index_max_shards = 1
[mon]
pid_file = $dir/s3/mon.pid
[osd]
pid_file = $dir/s3/osd.pid
[client.radosgw]
pid_file = $dir/s3/radosgw.pid
rgw_frontends = beast endpoint=127.0.0.1:$s3_port tcp_nodelay=1
END
}

ceph_tool() {
    echo "+ $*"
    as_owner timeout 60 "$@" </dev/null
}

start_ceph() {
    local conf="$dir/s3/ceph.conf" key=$dir/s3/keyring osd_id
    ceph_tool ceph-authtool --create-keyring "$key" --gen-key -n mon. --cap mon 'allow *' &&
        ceph_tool ceph-authtool "$key" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' &&
        ceph_tool ceph-authtool "$key" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' &&
        ceph_tool ceph-authtool "$key" --gen-key -n client.radosgw --cap mon 'allow rw' --cap osd 'allow rwx' &&
        ceph_tool monmaptool -c "$conf" --create --clobber --fsid "$(sed -n 's/^fsid = //p' "$conf")" \
            --addv a "[v2:127.0.0.1:$mon_port]" "$dir/s3/monmap" &&
        ceph_tool ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/s3/monmap" --keyring "$key" &&
        ceph_tool ceph-mon -c "$conf" -i a || return 1
    osd_id=$(cat /proc/sys/kernel/random/uuid)
    ceph_tool ceph -c "$conf" --connect-timeout 30 osd new "$osd_id" &&
        ceph_tool ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd_id" &&
        ceph_tool ceph-osd -c "$conf" -i 0 &&
        ceph_tool radosgw -c "$conf" -n client.radosgw &&
        ceph_tool radosgw-admin -c "$conf" user create --uid=pgqrs --display-name=pgqrs --access-key="$s3_access_key" \
            --secret="$s3_secret_key" >/dev/null
}

find_radosgw() {
    local tool
    for tool in radosgw radosgw-admin ceph-mon ceph-osd ceph ceph-authtool monmaptool; do
        command -v "$tool" >/dev/null 2>&1 ||
            die "no S3 server found ($tool is missing); install ceph-mon, ceph-osd and radosgw, or run tests/install-deps.sh test"
    done
}

# A program of ours, built by make or here.
s3_request() {
    local program
    program=$(cd "$(dirname "$0")/.." && pwd)/build/test/s3_request
    if [ ! -x "$program" ]; then
        program=$dir/s3/s3_request
        [ -x "$program" ] || "${CC:-cc}" -std=c99 -O1 "$(dirname "$0")/s3_request.c" -o "$program" || return 1
    fi
    PGQRS_TEST_S3_ENDPOINT=http://127.0.0.1:$s3_port PGQRS_TEST_S3_ACCESS_KEY=$s3_access_key \
        PGQRS_TEST_S3_SECRET_KEY=$s3_secret_key "$program" "$@"
}

# Leaves $dir/s3/env.sh when everything runs. It is called in the background.
start_s3() {
    local attempt s3_port mon_port s3_access_key=pgqrs s3_secret_key
    s3_secret_key=$(random_word)
    for attempt in 1 2 3; do
        rm -rf "$dir/s3"
        mkdir -p "$dir/s3/mon" "$dir/s3/osd" "$dir/s3/rgw"
        s3_port=$(free_port)
        mon_port=$(free_port)
        write_ceph_conf
        [ -z "$owner" ] || chown -R "$owner" "$dir/s3"
        if start_ceph; then
            for _ in $(seq 100); do
                if s3_request PUT /pgqrs-test 2>&1; then
                    cat >"$dir/s3/env.sh" <<END
export PGQRS_TEST_S3_ENDPOINT='http://127.0.0.1:$s3_port'
export PGQRS_TEST_S3_ACCESS_KEY='$s3_access_key'
export PGQRS_TEST_S3_SECRET_KEY='$s3_secret_key'
export PGQRS_TEST_S3_BUCKET='pgqrs-test'
END
                    return 0
                fi
                is_ours "$(pid_of "$dir/s3/radosgw.pid")" || break
                sleep 0.1
            done
        fi
        # Another program may have taken a port between the look and the start.
        for name in radosgw osd mon; do
            stop_process "$(pid_of "$dir/s3/$name.pid")" KILL
        done
    done
    return 1
}

die_with_logs() {
    show_logs
    end_start
    die "$* (the logs are kept in $dir/log)"
}

is_wanted() {
    case $wanted in
    *" $1 "*) return 0 ;;
    esac
    return 1
}

all_run() {
    local pid_file
    if is_wanted postgres; then
        for pid_file in data/postmaster.pid pgbouncer.pid; do
            is_ours "$(pid_of "$dir/$pid_file")" || return 1
        done
    fi
    if is_wanted s3; then
        for pid_file in s3/mon.pid s3/osd.pid s3/radosgw.pid; do
            is_ours "$(pid_of "$dir/$pid_file")" || return 1
        done
    fi
}

# Nothing may be started any more when everything is stopped.
end_start() {
    if [ -n "$s3_starting" ]; then
        kill "$s3_starting" 2>/dev/null || true
        wait "$s3_starting" || true
    fi
    stop_servers
}

start_postgres_and_pgbouncer() {
    password=$(random_word)
    admin_password=$(random_word)
    start_postgres "$postgres_bin"
    admin_sql "$postgres_bin" "CREATE ROLE pgqrs LOGIN CREATEDB PASSWORD '$password'" || die_with_logs "cannot create the user"
    admin_sql "$postgres_bin" "CREATE DATABASE pgqrs OWNER pgqrs" || die_with_logs "cannot create the database"
    start_pgbouncer "$pgbouncer" "$postgres_bin"
    cat >"$dir/env.new" <<END
export PGQRS_TEST_POSTGRES_DSN='postgresql://pgqrs:$password@127.0.0.1:$postgres_port/pgqrs'
export PGQRS_TEST_PGBOUNCER_DSN='postgresql://pgqrs:$password@127.0.0.1:$pgbouncer_port/pgqrs'
export PGQRS_TEST_POSTGRES_ADMIN_DSN='postgresql://postgres:$admin_password@127.0.0.1:$postgres_port/pgqrs'
export PGQRS_TEST_POSTGRES_DATA='$dir/data'
END
}

case $action in
start)
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd -P)
    if [ -f "$dir/env.sh" ] && all_run; then
        cat "$dir/env.sh"
        exit 0
    fi
    if [ -n "$(ls -A "$dir")" ]; then
        # Only what an earlier run left behind is cleared; anybody else's files are not ours to delete.
        [ -f "$dir/$mark" ] || die "$dir is not empty and was not made by this script"
        stop_servers
        find "$dir" -mindepth 1 -delete
    fi
    : >"$dir/$mark"
    mkdir "$dir/log"
    if [ -n "$owner" ]; then
        chmod 755 "$dir"
        chown -R "$owner" "$dir"
        as_owner test -w "$dir" || die "user '$owner', who runs the servers, cannot reach $dir; choose a directory under /tmp"
    fi

    # What is missing is said before anything is started.
    if is_wanted postgres; then
        postgres_bin=$(find_postgres)
        pgbouncer=$(find_pgbouncer)
    fi
    if is_wanted s3; then find_radosgw; fi
    s3_starting=
    trap 'end_start; exit 130' INT TERM HUP
    if is_wanted s3; then
        start_s3 >"$dir/log/s3-start.log" 2>&1 </dev/null &
        s3_starting=$!
    fi
    if is_wanted postgres; then start_postgres_and_pgbouncer; fi
    if [ -n "$s3_starting" ]; then
        wait "$s3_starting" || die_with_logs "radosgw did not start"
        s3_starting=
        cat "$dir/s3/env.sh" >>"$dir/env.new"
    fi
    mv "$dir/env.new" "$dir/env.sh"
    cat "$dir/env.sh"
    ;;
env)
    [ -f "$dir/env.sh" ] || die "no servers were started in $dir"
    cat "$dir/env.sh"
    ;;
stop)
    [ -d "$dir" ] || exit 0
    dir=$(cd "$dir" && pwd -P)
    [ -f "$dir/$mark" ] || die "$dir was not made by this script"
    stop_servers
    find "$dir" -mindepth 1 -delete
    rmdir "$dir" 2>/dev/null || true
    ;;
*)
    usage
    ;;
esac
