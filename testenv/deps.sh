#!/bin/sh
# Installs the Debian packages that tests and `make demo` need, those that are
# missing only; with the argument demo those of the demo. It works as root or through sudo, asks nothing but
# the password of that, and says nothing when there is nothing to do.
set -eu

missing=

# need COMMAND PACKAGE: the package gives the command.
need() {
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

# need_module: SoftHSM2's library may be elsewhere than its tools.
need_module() {
	[ -n "${SOFTHSM2_MODULE:-}" ] && return
	for f in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
		/usr/lib64/pkcs11/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
		[ -e "$f" ] && return
	done
	missing="$missing softhsm2"
}

# need_remoting: the client half of p11-kit remoting is a module, not a command.
need_remoting() {
	for f in /usr/lib/*/pkcs11/p11-kit-client.so /usr/lib/pkcs11/p11-kit-client.so \
		/usr/lib64/pkcs11/p11-kit-client.so; do
		[ -e "$f" ] && return
	done
	missing="$missing p11-kit-modules"
}

# need_extrausers: a source of users beside the files is a library, not a command.
need_extrausers() {
	for f in /usr/lib/*/libnss_extrausers.so.2 /lib/*/libnss_extrausers.so.2; do
		[ -e "$f" ] && return
	done
	missing="$missing libnss-extrausers"
}

# need_go: Debian's own Go is too old, and whose newer one to take is for a person to say.
# One from 1.21 on that may (GOTOOLCHAIN) fetches the release that go.mod names.
need_go() {
	want=$(sed -n 's/^go //p' "$(dirname "$0")/../go.mod")
	have=$(cd / && go env GOVERSION 2>/dev/null | sed 's/^go//')
	[ -n "$have" ] && [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ] && return 0
	case $(cd / && go env GOTOOLCHAIN 2>/dev/null) in
	auto | *+auto) return 0 ;;
	esac
	release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	cat >&2 <<-MISSING
		deps: Go $want or newer is needed; here is ${have:-none}. With ${release:-Debian}-backports among
		the sources of apt (https://backports.debian.org/Instructions/) run
		    sudo apt-get install -t ${release:-stable}-backports golang-go
		    go env -w GOTOOLCHAIN=auto
		of which the second has an older Go fetch that one. Or install Go in any other way, such as
		https://go.dev/doc/install, and have it in PATH.
	MISSING
	exit 1
}

# What `make demo` needs.
need_go
need gcc 'gcc libc6-dev'
need softhsm2-util softhsm2
need_module
need openssl openssl
need jq jq
need aws awscli

# for_tests: what tests need besides.
for_tests() {
	need pkcs11-tool opensc
	need p11-kit p11-kit
	need_remoting
	need_extrausers
	[ -e /sbin/mkfs.ext4 ] || [ -e /usr/sbin/mkfs.ext4 ] || missing="$missing e2fsprogs"
	need curl curl
	need etcd etcd-server
	need sudo sudo
	need systemctl systemd
	need systemd-nspawn systemd-container
	need lintian lintian
	need zsh zsh
	need fish fish
	need age age
	need node nodejs
	need npm npm
	python3 -c 'import boto3, cryptography' 2>/dev/null || missing="$missing python3-boto3 python3-cryptography"
	[ -e /usr/share/bash-completion/bash_completion ] || missing="$missing bash-completion"
}
[ "${1-}" = demo ] || for_tests

[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "deps: these Debian packages are missing and there is no apt-get:$missing" >&2
	exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null 2>&1; then
		echo "deps: run this as root, or install as root:$missing" >&2
		exit 1
	fi
	# At a terminal sudo may ask for the password.
	as_root='sudo -n'
	if [ -t 2 ]; then as_root=sudo; fi
fi

echo "deps: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # both are lists of words
if ! { $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
	cat "$log" >&2
	echo "deps: installing failed" >&2
	exit 1
fi
case $missing in
*etcd-server*) # its package starts a service that nobody has asked for; tests run servers of their own
	[ ! -d /run/systemd/system ] || $as_root systemctl disable --now etcd >"$log" 2>&1 || cat "$log" >&2
	;;
esac
