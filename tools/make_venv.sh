#!/bin/sh
# Make a virtual environment, and have on the system what a build in it needs: make_venv.sh VENV [PYTHON]
#
# PYTHON defaults to the one VENV was made with, else to python3.  A VENV made with another Python is made anew.
# VENV/.python is touched when that happened, and at no other time.
set -eu
venv=$1
asked=${2:-}
here=$(dirname "$0")

if [ -e "$venv/.python" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    [ -n "$asked" ] || exit 0
    identity='import sys; print(sys.base_prefix, sys.version)'
    [ "$("$asked" -c "$identity" 2>&1)" != "$("$venv/bin/python" -c "$identity")" ] || exit 0
fi
python=${asked:-python3}

if ! found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
    echo "make: Evergreen needs Python 3.11 or newer, and $python cannot be run: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "make: Evergreen needs Python 3.11 or newer, and $python is $found: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi

needed=
need() {
    needed="$needed $*"
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || need "python$found-venv"
"$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || need "python$found-dev"
command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || need gcc libc6-dev
command -v "${PKG_CONFIG:-pkg-config}" >/dev/null || need pkg-config
"${PKG_CONFIG:-pkg-config}" --atleast-version=1.44 libuv 2>/dev/null || need libuv1-dev
# shellcheck disable=SC2086  # a list of package names
[ -z "$needed" ] || "$here/apt_install.sh" $needed

rm -rf "$venv"
"$python" -m venv "$venv"
touch "$venv/.python"
