#!/bin/sh
# Makes .venv: the versions of requirements.lock, and this checkout as an editable install.
# Does nothing when neither the lock, nor pyproject.toml, nor this file, nor the checkout's place has changed.
#
#   PYTHON=/path/to/python3   the interpreter to use; otherwise the first on PATH that is recent enough
#   RANKPG_NO_UV=1            install with plain venv and pip, leave uv alone
#
# `tools/setup.sh --uv` only prints where uv is, after installing it into .venv if need be.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
venv=.venv
python=$venv/bin/python
owned=$venv/.made-by-rankpg # only a .venv that carries this file is ever deleted
stamp=$venv/.rankpg-stamp
wanted="$root $(cat requirements.lock pyproject.toml tools/setup.sh | cksum)"

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "rankpg: $*"
    exit 1
}

# The programs that a version manager leaves on PATH may exist and yet fail: a candidate counts only once it has run.
runs_recent_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# An interpreter named outright must also be the one that .venv stands on.
is_the_wanted_python() {
    runs_recent_python "$python" || return 1
    [ -n "${PYTHON:-}" ] || return 0
    identity='import os, sys; print(sys.version, os.path.realpath(sys.base_prefix))'
    [ "$("$PYTHON" -c "$identity" 2>/dev/null)" = "$("$python" -c "$identity")" ]
}
is_ready() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && is_the_wanted_python; }

find_python() {
    found=''
    for candidate in ${PYTHON:+"$PYTHON"} $([ -n "${PYTHON:-}" ] || echo python3 python3.13 python3.12 python3.11 python3.14 python); do
        if runs_recent_python "$candidate"; then
            # the interpreter below, should this one be an environment's: .venv must not stand on itself
            "$candidate" -c 'import sys; print(sys._base_executable)'
            return
        fi
        version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
        found="$found${found:+, }$candidate is $version"
    done
    say "rankpg needs Python 3.11 or newer, and found none (${found:-no ${PYTHON:-python3} that runs})." \
        "Install one, for instance with 'apt install python3.12 python3.12-venv' or 'brew install python@3.12'," \
        "or name one that is not on PATH: 'make setup PYTHON=/path/to/python3.12'."
    return 1
}

[ "${1:-}" = --uv ] || ! is_ready || exit 0
base=$(find_python) || exit 1

# Nothing is written outside the checkout but the caches of pip and uv, and those too stay inside without a usable HOME.
if [ -z "${HOME:-}" ] || [ ! -d "$HOME" ] || [ ! -w "$HOME" ]; then
    HOME=$root/$venv/home
    export HOME
fi
export PIP_USER=no PIP_REQUIRE_VIRTUALENV=no PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}" # trust whom pip trusts, a company's proxy included

# --- the empty environment -------------------------------------------------------------------------------------
if [ -f "$owned" ] && { [ "$(cat "$owned")" != "$root" ] || ! is_the_wanted_python; }; then
    rm -rf "$venv" # moved, of another Python, or left half-made
fi
if [ -e "$venv" ] && [ ! -f "$owned" ] && ! runs_recent_python "$python"; then
    fail "$root/$venv exists, was not made by this project and has no Python 3.11 or newer. Move it away and try again."
fi
if [ ! -e "$venv" ]; then
    mkdir "$venv"
    printf '%s\n' "$root" >"$owned"
fi

# --- uv: on PATH, or installed for this checkout alone ------------------------------------------------------------
find_uv() {
    [ -z "${RANKPG_NO_UV:-}" ] || return 1
    for candidate in uv "$root/$venv/uv/bin/uv"; do
        if "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    say "rankpg: installing uv into $venv/uv"
    # --target needs no environment, so this works where the system's Python is marked as externally managed
    installer=$base
    if ! "$base" -m pip --version >/dev/null 2>&1; then
        installer=$python
        "$base" -m venv "$venv" >/dev/null 2>&1 || return 1
    fi
    if "$installer" -m pip install --quiet --target "$venv/uv" uv >&2 && "$venv/uv/bin/uv" --version >/dev/null 2>&1; then
        echo "$root/$venv/uv/bin/uv"
        return
    fi
    say "rankpg: uv could not be installed; going on with pip"
    return 1
}

install_with_uv() {
    runs_recent_python "$python" || "$1" venv --quiet --allow-existing --no-project --python "$base" "$venv" || return 1
    "$1" pip sync --quiet --python "$python" requirements.lock || return 1
    "$1" pip install --quiet --python "$python" --no-deps --editable . || return 1
}

install_with_pip() {
    if "$python" -m pip --version >/dev/null 2>&1 || "$base" -m venv "$venv" >/dev/null 2>&1; then
        pip() { "$python" -m pip "$@"; }
    elif "$base" -m pip --version >/dev/null 2>&1 && "$base" -m venv --without-pip "$venv"; then
        pip() { "$base" -m pip --python "$python" "$@"; } # Debian without python3-venv: its pip fills our environment
    else
        fail "$base can neither make a virtual environment nor run pip." \
            "On Debian and Ubuntu: 'apt install python3-venv python3-pip'. Then try again."
    fi
    pip install --quiet --requirement requirements.lock || return 1
    pip install --quiet --no-deps --editable . || return 1
}

if [ "${1:-}" = --uv ]; then
    find_uv
    exit
fi

say "rankpg: setting up $venv with $base (once; about 1.4 GB)"
uv=$(find_uv) || uv=''
if [ -n "$uv" ] && ! install_with_uv "$uv"; then
    say "rankpg: uv could not do it; trying again with pip"
    uv=''
fi
if [ -z "$uv" ] && ! install_with_pip; then
    fail "the installation failed; the reason stands above. 'make clean' followed by 'make setup' starts afresh."
fi
printf '%s\n' "$wanted" >"$stamp"
say "rankpg: $venv is ready"
