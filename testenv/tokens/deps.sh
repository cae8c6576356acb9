#!/bin/sh
# Installs what the tokens of this folder need: packages of this Debian release, those
# that are missing only, and opencryptoki of sid with its libraries, which is unpacked
# into .cache/sid and not installed. It asks nothing, and works as root or through sudo.
set -eu

missing=
# need FILE PACKAGE: the package has the file.
need() {
	[ -e "$1" ] || missing="$missing $2"
}
need /usr/sbin/pkcsslotd opencryptoki
need /usr/bin/certutil libnss3-tools
need /usr/bin/swtpm swtpm
need /usr/bin/tpm2_ptool libtpm2-pkcs11-tools
ls /usr/lib/*/pkcs11/libtpm2_pkcs11.so >/dev/null 2>&1 || missing="$missing libtpm2-pkcs11-1"
need /usr/bin/tpm2_getcap tpm2-tools
need /usr/sbin/tpm2-abrmd tpm2-abrmd
ls /usr/lib/*/libtss2-tcti-tabrmd.so.0 >/dev/null 2>&1 || missing="$missing libtss2-tcti-tabrmd0"
need /usr/bin/dbus-daemon dbus-daemon

as_root=
[ "$(id -u)" -eq 0 ] || as_root='sudo -n'
if [ -n "$missing" ]; then
	echo "deps-tokens: installing$missing" >&2
	# No service of theirs is to run: the tests start their own.
	$as_root apt-get update -qq
	# shellcheck disable=SC2086 # a list of words
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >/dev/null
fi

cache=$(cd "$(dirname "$0")/../.." && pwd)/.cache
[ ! -e "$cache/sid/usr/sbin/pkcsslotd" ] || exit 0

# apt-get with lists and a configuration of its own finds packages of sid, with the
# archive's host and keys of this system.
host=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/parts"
echo "deb ${host:-http://deb.debian.org/debian} sid main" >"$work/sources"
: >"$work/status"
apt() {
	apt-get -q -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work" \
		-o Dir::Cache::Archives="$work/archives" -o Dir::Etc::SourceList="$work/sources" -o Dir::Etc::SourceParts="$work/parts" \
		-o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}
echo "deps-tokens: fetching opencryptoki of Debian sid" >&2
apt update >/dev/null
# shellcheck disable=SC2046 # a list of words
(cd "$work/archives" && apt download opencryptoki libopencryptoki0 libc6 libssl3t64 libldap2 libsasl2-2 libzstd1 zlib1g libcap2 libgcc-s1 libtspi1 >/dev/null)
mkdir -p "$work/sid"
for package in "$work"/archives/*.deb; do
	dpkg-deb -x "$package" "$work/sid"
done
mkdir -p "$cache"
rm -rf "$cache/sid"
mv "$work/sid" "$cache/sid"
