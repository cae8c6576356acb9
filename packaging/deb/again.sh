#!/bin/sh
# Makes the Debian packages of the last commit twice, in folders with different names, the second
# time with programs of which nothing was compiled before: programs and packages must be the same bytes.
set -eu
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
for folder in first other/place; do
	git clone -q . "$work/$folder"
done
make -s -C "$work/first" deb
cd "$work/other/place"
GOCACHE=$work/cache make -s build BIN=.cache/deb/bin LDFLAGS='-s -w'
VERSION=$(git describe --tags --always) packaging/deb/build.sh .cache/deb/bin .cache/deb

cd "$work/first/.cache/deb"
same=0
for file in bin/* *.deb; do
	cmp "$file" "$work/other/place/.cache/deb/$file"
	same=$((same + 1))
done
[ $same -eq 7 ] || { echo "$same files, want five programs and two packages" >&2; exit 1; }
sha256sum -- *.deb
