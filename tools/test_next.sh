#!/bin/sh
# Run the tests on the Pythons that Debian sid has and stable has not: test_next.sh CHROOT PYTHON [PYTEST ARGUMENT...]
#
# CHROOT is a Debian sid made by debootstrap from the mirror that this system's apt uses; it is kept, and brought up
# to date each time.  The pip of PYTHON fetches the wheels outside, with this system's settings.
set -eu
chroot=$1
python=$2
shift 2
tools=$(dirname "$0")
pythons="3.14 3.15"

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root=sudo
else
    echo "make: a chroot takes root: run this as root, or where sudo asks no password" >&2
    exit 1
fi
command -v debootstrap >/dev/null || [ -x /usr/sbin/debootstrap ] || "$tools/apt_install.sh" debootstrap

# A mount namespace of its own: what is mounted here is gone when the command ends, however it ends.  The shell stays,
# as the process that orphans go to: the tests do not expect children that are not theirs.
in_chroot() {
    $as_root unshare --mount --pid --fork sh -ec '
        root=$1; shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        chroot "$root" env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            ${http_proxy:+http_proxy="$http_proxy"} "$@"
        exit
    ' sh "$chroot" "$@"
}

if [ ! -e "$chroot/.made" ]; then
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN)/$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's|^Debian/Debian ||p' | head -n 1)}
    if [ -z "$mirror" ]; then
        echo "make: apt knows no mirror of Debian here: run make with DEBIAN_MIRROR=address" >&2
        exit 1
    fi
    $as_root rm -rf "$chroot"
    echo "making a Debian sid in $chroot"
    $as_root env PATH="$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase sid "$chroot" "$mirror" >"$chroot.log" 2>&1 || {
        tail -n 20 "$chroot.log" >&2
        exit 1
    }
    rm -f "$chroot.log"
    $as_root touch "$chroot/.made"
fi

# The network's names change: take this system's resolver each time.
$as_root cp -L /etc/resolv.conf /etc/hosts "$chroot/etc/"
# A mirror that lags behind, so that its lists have expired, still has the Pythons.
in_chroot sh -ec '
    apt-get update -q -o Acquire::Check-Valid-Until=false
    packages="gcc libc6-dev pkgconf libuv1-dev"
    for version; do
        if apt-cache show "python$version-dev" >/dev/null 2>&1; then
            packages="$packages python$version-dev python$version-venv"
        fi
    done
    apt-get install -q -y --no-install-recommends $packages
    apt-get clean
' sh $pythons >"$chroot.log" 2>&1 || {
    tail -n 20 "$chroot.log" >&2
    exit 1
}
rm -f "$chroot.log"

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
status=0
summary=
for version in $pythons; do
    if [ ! -x "$chroot/usr/bin/python$version" ]; then
        summary="$summary
python$version: skipped, Debian sid does not have it"
        continue
    fi
    "$python" "$tools/requirements.py" build run test >"$wheels/requirements.txt"
    "$python" -m pip --disable-pip-version-check download -q --only-binary=:all: --python-version "$version" \
        -d "$wheels/$version" -r "$wheels/requirements.txt"
    tree=/srv/$version
    $as_root rm -rf "$chroot$tree"
    $as_root mkdir -p "$chroot$tree/src" "$chroot$tree/wheels"
    $as_root cp -r "$wheels/requirements.txt" "$wheels/$version/." "$chroot$tree/wheels"
    "$tools/pack_tree.sh" | $as_root tar --extract --no-same-owner -C "$chroot$tree/src"
    echo "== python$version =="
    if in_chroot sh -ec '
        tree=$1 python=$2; shift 2
        $python -m venv "$tree/venv"
        pip="$tree/venv/bin/pip --disable-pip-version-check -q"
        $pip install --no-index --find-links "$tree/wheels" -r "$tree/wheels/requirements.txt"
        cd "$tree/src"
        EVERGREEN_DEV=1 $pip install --no-index --no-build-isolation --no-deps -e .
        exec "$tree/venv/bin/python" -m pytest -q "$@"
    ' sh "$tree" "python$version" "$@"; then
        summary="$summary
python$version: passed"
    else
        summary="$summary
python$version: failed"
        status=1
    fi
done
echo "$summary"
exit $status
