#!/bin/sh
# Install Debian packages: apt_install.sh PACKAGE...
#
# As root or with a sudo that asks nothing; otherwise say the command to run, and fail.
set -eu

if ! command -v apt-get >/dev/null; then
    echo "make: please install your system's counterparts of these Debian packages, then run make again: $*" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root=sudo
else
    echo "make: please run this, then make again:  sudo apt-get install $*" >&2
    exit 1
fi

echo "installing $*"
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" </dev/null
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists may be missing or stale: fetch them only when the first try fails.
install "$@" >"$log" 2>&1 || {
    $as_root apt-get update -q >"$log" 2>&1 && install "$@" >>"$log" 2>&1
} || {
    cat "$log" >&2
    exit 1
}
