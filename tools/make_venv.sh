#!/bin/sh
# Create the virtual environment $1 with the interpreter $2, or with the newest python3 >= 3.10 that is found.
# Every way this can fail on a fresh machine is one line that says what to do.
set -eu

venv=$1
chosen=${2:-}

fail() {
    echo "setup: $1" >&2
    exit 1
}

new_enough() {
    command -v "$1" > /dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null
}

if [ -n "$chosen" ]; then
    new_enough "$chosen" || fail "PYTHON=$chosen is not a Python 3.10 or newer"
    python=$chosen
else
    python=
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if new_enough "$name"; then
            python=$name
            break
        fi
    done
    [ -n "$python" ] || fail "no Python 3.10 or newer found; install one, or name it: make setup PYTHON=/path/to/python3"
fi

# Debian and Ubuntu ship venv without ensurepip until python3-venv is installed.
if ! "$python" -c 'import venv, ensurepip' 2> /dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if command -v apt-get > /dev/null 2>&1; then
        fail "$python has no venv module; install it: sudo apt-get install python$version-venv"
    fi
    fail "$python has no venv module; install your system's package for it, or name another: make setup PYTHON=..."
fi

log=$(mktemp) || fail "no temporary file can be written; check the free space and the permissions of ${TMPDIR:-/tmp}"
trap 'rm -f "$log"' EXIT
# Half an environment would look like a whole one to make.
trap 'rm -rf "$venv"; exit 130' INT TERM HUP
rm -rf "$venv"
if ! "$python" -m venv "$venv" > "$log" 2>&1; then
    rm -rf "$venv"
    fail "cannot create $venv: $(tail -n 1 "$log")"
fi
# --group, by which the developers' packages are installed, came with pip 25.1.
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' > "$log" 2>&1; then
    rm -rf "$venv"
    fail "pip cannot be brought up to date; is the package index reachable? ($(grep -i error "$log" | tail -n 1))"
fi
