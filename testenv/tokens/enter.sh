#!/bin/sh
# Runs a command whose tests get the named kind of token: enter.sh NAME COMMAND...
# opencryptoki has one daemon for the whole system, which is started here in mount, IPC
# and PID namespaces of its own (as root), with folders in memory over its own ones.
set -eu

name=$1
shift
export CMKD_TEST_TOKEN="$name"
case $name in
opencryptoki*) ;;
*) exec "$@" ;;
esac

if [ "${CMKD_INSIDE:-}" != "$name" ]; then
	as_root=
	[ "$(id -u)" -eq 0 ] || as_root='sudo -n -E'
	exec $as_root env CMKD_INSIDE="$name" unshare --mount --propagation private --ipc --pid --fork --kill-child --mount-proc \
		sh "$0" "$name" "$@"
fi

# Debian sid's is laid over the system's files, with its C library, on which
# programs of an older one run, too.
configuration=
if [ "$name" = opencryptoki-sid ]; then
	sid=$(cd "$(dirname "$0")/../.." && pwd)/.cache/sid
	mount -t overlay overlay -o "lowerdir=$sid/usr:/usr" /usr
	configuration=$sid/etc/opencryptoki
fi
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
cp /etc/passwd /etc/group "$files"
grep -q '^pkcs11:' "$files/group" || echo 'pkcs11:x:65000:root' >>"$files/group"
group=$(sed -n 's/^pkcs11:[^:]*:\([0-9]*\):.*/\1/p' "$files/group")
grep -q '^pkcsslotd:' "$files/passwd" || echo "pkcsslotd:x:65001:$group:::/usr/sbin/nologin" >>"$files/passwd"
chmod 0644 "$files/passwd" "$files/group"
mount --bind "$files/passwd" /etc/passwd
mount --bind "$files/group" /etc/group
for dir in /etc/opencryptoki /var/lib/opencryptoki /var/log/opencryptoki; do # that of a package not installed is made for good
	[ -d "$dir" ] || mkdir -p "$dir"
	mount -t tmpfs -o mode=0755 tmpfs "$dir"
done
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm # memory that processes share, in another form by version
mkdir -p -m 1777 /run/lock
mkdir -p /run/lock/opencryptoki/swtok /run/opencryptoki /var/lib/opencryptoki/swtok/TOK_OBJ
if [ -n "$configuration" ]; then cp "$configuration/strength.conf" /etc/opencryptoki; fi
printf 'version opencryptoki-3.8\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n' >/etc/opencryptoki/opencryptoki.conf
chmod 0640 /etc/opencryptoki/*
chgrp -R pkcs11 /etc/opencryptoki /run/lock/opencryptoki /run/opencryptoki /var/lib/opencryptoki /var/log/opencryptoki
chmod -R 0770 /run/lock/opencryptoki /run/opencryptoki /var/lib/opencryptoki /var/log/opencryptoki
chown pkcsslotd /run/opencryptoki
/usr/sbin/pkcsslotd
status=0
"$@" || status=$?
exit "$status"
