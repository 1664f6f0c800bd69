#!/usr/bin/env bash
# Installs the systems that bench/peers/run.sh compares with, in the versions of bench/peers/versions, each with the package manager
# of its language.
#
#   bench/peers/install.sh DIRECTORY [SYSTEM...]       all, or what these need
#
# DIRECTORY/missing gets a line with a reason for each peer that could not be installed; that is no failure.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
systems=" $* "
: >"$out/missing"

packages() { # REGISTRY SEPARATOR
    awk -v registry="$1" -v separator="$2" '$1 == registry { print $2 separator $3 }' "$here/versions"
}

is_wanted() { # PEERS
    local peer
    [ "$systems" != "  " ] || return 0
    for peer in $1; do
        case $systems in *" $peer "*) return 0 ;; esac
    done
    return 1
}

# install KIND PEERS COMMAND...: nothing is done when exactly this was installed before.
install() {
    local kind=$1 peers=$2 peer wanted
    shift 2
    is_wanted "$peers" || return 0
    wanted=$(packages "$kind" @)
    case $kind in
    go) wanted=$wanted$(cat "$here"/*.go) ;;
    cargo) wanted=$wanted$(cat "$here"/*.rs) ;;
    esac
    if [ "$wanted" = "$(cat "$out/$kind.done" 2>/dev/null)" ]; then return; fi
    echo "installing with $kind: $(packages "$kind" ' ' | tr '\n' ' ')" >&2
    if "$@" >"$out/$kind.log" 2>&1; then
        printf '%s\n' "$wanted" >"$out/$kind.done"
    else
        tail -n 5 "$out/$kind.log" >&2
        for peer in $peers; do
            echo "$peer: $kind could not install it: $(grep -v '^$' "$out/$kind.log" | tail -n 1)" >>"$out/missing"
        done
    fi
}

with_npm() {
    command -v npm || {
        echo "there is no npm"
        return 1
    }
    rm -rf "$out/npm" && mkdir -p "$out/npm" && echo '{"private":true}' >"$out/npm/package.json"
    # shellcheck disable=SC2046
    npm install --prefix "$out/npm" --no-audit --no-fund --loglevel=error $(packages npm @) && "$out/npm/node_modules/.bin/node" --version
}

with_pip() {
    command -v python3 || {
        echo "there is no python3"
        return 1
    }
    # shellcheck disable=SC2046
    rm -rf "$out/pip" && python3 -m venv "$out/pip" && "$out/pip/bin/pip" install --quiet $(packages pip ==) &&
        "$out/pip/bin/pip" freeze
}

with_go() {
    command -v go || {
        echo "there is no go"
        return 1
    }
    rm -rf "$out/go" && mkdir -p "$out/go" && cp "$here/river.go" "$out/go/main.go" && cd "$out/go" && go mod init peers &&
        packages go @ | xargs go get && go mod tidy && go build -o river .
}

# The exact version of what is measured; of what only helps the driver, the newest that fits.
with_cargo() {
    command -v cargo || {
        echo "there is no cargo"
        return 1
    }
    mkdir -p "$out/cargo/src" && cp "$here/pgqrs-rust.rs" "$out/cargo/src/main.rs" && cat >"$out/cargo/Cargo.toml" <<END && cd "$out/cargo" &&
[package]
name = "driver"
version = "0.1.0"
edition = "2021"

[dependencies]
$(packages cargo ' ' | awk '{ printf "%s = { version = \"%s%s\"%s }\n", $1, $1 == "pgqrs" ? "=" : "", $2, $1 == "tokio" ? ", features = [\"full\"]" : "" }')
END
        PGQRS_VERSION=$(packages cargo ' ' | sed -n 's/^pgqrs //p') cargo build --quiet --release
}

install npm "graphile-worker pg-boss" with_npm
install pip "procrastinate pgqrs-python dbos huey litequeue" with_pip
install go river with_go
install cargo pgqrs-rust with_cargo
cat "$out/missing" >&2
