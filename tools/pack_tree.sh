#!/bin/sh
# Write the source tree as a tar stream: what git tracks or would track, as it stands on disk.
#
# For builds that need a tree of their own, so that their extension and the one in evergreen/ never mix.
set -eu
cd "$(dirname "$0")/.."

if [ -e .git ]; then
    git -c safe.directory="$PWD" ls-files -z --cached --others --exclude-standard --deduplicate |
        xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
        tar --create --null --files-from=-
else  # an unpacked release
    tar --create --exclude='./.*' --exclude=./build --exclude='*.so' .
fi
