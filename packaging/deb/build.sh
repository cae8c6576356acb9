#!/bin/sh
# Makes the Debian packages of what `make build` has built, without a trace of the
# machine or the moment: two runs give the same bytes.
#
#   build.sh BIN OUT
#
# BIN is the folder of the programs, OUT takes cmkd_VERSION_ARCH.deb and
# cmkd-softhsm_VERSION_all.deb. SOURCE_DATE_EPOCH is the time of all that is in them
# (that of the last commit), DEB_VERSION their version (made of VERSION, which is as
# git describe has it), SBOM a list of the modules that is at hand already.
set -eu
umask 022
cd "$(dirname "$0")/../.."
bin=$(realpath "$1") out=$(realpath "$2")
NFPM=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
release=${VERSION:-$(git describe --tags --always --dirty)}
if [ -z "${DEB_VERSION-}" ]; then
	case $release in
	v[0-9]*) DEB_VERSION=$(echo "${release#v}" | sed 's/-/+/; s/-/./g') ;;
	# No release yet: by date, and older than all that come.
	*) DEB_VERSION=0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d).$(echo "$release" | sed 's/-/./g') ;;
	esac
fi
ARCH=$(dpkg --print-architecture)
# The oldest libc6 that has every version of a symbol that the programs want of it.
LIBC6=$(readelf --version-info --wide "$bin"/cmkd* "$bin/cmkctl" | grep -oE '\bGLIBC_[0-9.]+' | sort -Vu | tail -n 1 | cut -d _ -f 2)
[ -n "$LIBC6" ] || { echo "$bin: no program wants a symbol of libc6" >&2; exit 1; }
export SOURCE_DATE_EPOCH DEB_VERSION ARCH LIBC6

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# papers PACKAGE ROOT: what Debian wants beside the files themselves.
papers() {
	doc=$2/usr/share/doc/$1
	install -D -m 0644 -t "$doc" packaging/deb/copyright
	printf '%s (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md in the documentation of cmkd.\n\n -- cmkd maintainers <cmkd@example.org>  %s\n' \
		"$1" "$DEB_VERSION" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
	find "$2" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

root=$work/cmkd
make -s install BIN="$bin" DESTDIR="$root"
doc=$root/usr/share/doc/cmkd
rm "$doc/LICENSE"
install -D -m 0644 -t "$doc" CHANGELOG.md
install -D -m 0644 packaging/deb/lintian-overrides "$root/usr/share/lintian/overrides/cmkd"
packaging/sbom.sh "$doc/cmkd.cdx.json"
find "$root/usr/share/man" -type f -exec gzip -9n {} +
papers cmkd "$root"
ROOT=$root go run "$NFPM" package --config packaging/deb/nfpm.yaml --packager deb --target "$out" >&2

soft=$work/cmkd-softhsm
install -D -m 0644 -t "$soft/usr/lib/systemd/system/cmkd.service.d" packaging/systemd/softhsm.conf
papers cmkd-softhsm "$soft"
ROOT=$soft go run "$NFPM" package --config packaging/deb/nfpm-softhsm.yaml --packager deb --target "$out" >&2
