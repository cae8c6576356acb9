#!/bin/sh
# Boots the machine's own tree in a container with cmkd installed, and has
# inside.sh run there. The test beside it calls it as root in a mount and a PID
# namespace of its own:
#
#   units.sh REPOSITORY BINARIES TOOLS FOLDER
#
# TOOLS may have an inside.sh of its own.
#
# With CMKD_LONG it measures the price of the walls, too, in a container without a filter
# of system calls, so that the unit's is the only one.
#
# FOLDER takes all that is written, in memory, and names the control groups, which go
# with the script: nothing else of the machine changes. It prints what
# inside.sh found.
set -eu
repo=$1 binaries=$2 tools=$3 dir=$4
PATH=$PATH:/usr/sbin:/sbin

mount -t tmpfs -o mode=0755 tmpfs "$dir"
root=$dir/root
mkdir "$dir/upper" "$dir/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" overlay "$root"
mount -t tmpfs -o mode=0755 tmpfs /run # systemd-nspawn keeps locks there

# Of the machine's own services and cmkd nothing is left.
rm -rf "$root"/etc/systemd/system/* "$root/etc/cmkd" "$root/var/lib/cmkd"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
# BINARIES "-" leaves it to the script that runs inside.
[ "$binaries" = - ] || make -s -C "$repo" install BIN="$binaries" DESTDIR="$root"
install -D -m 0755 -t "$root/opt/units" "$tools"/*
[ -e "$tools/inside.sh" ] || install -m 0755 -t "$root/opt/units" "$repo/testenv/units/inside.sh"
cat >"$root/etc/systemd/system/units.service" <<UNIT
[Unit]
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin CMKD_LONG=${CMKD_LONG-}
ExecStart=/opt/units/inside.sh /opt/units/result
TimeoutStartSec=15min
StandardOutput=file:/opt/units/log
StandardError=file:/opt/units/log
UNIT

# Control groups of this container alone, where systemd keeps services: others may
# run beside it.
groups=
for at in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
	if [ -e "$at/cgroup.procs" ] && mkdir "$at/${dir##*/}"; then
		groups="$groups $at/${dir##*/}"
	fi
done
# shellcheck disable=SC2086 # a list of words
trap 'find $groups -depth -type d -exec rmdir {} \;' EXIT

# The plugins lock themselves in with Landlock, and cmkd its PIN into memory, which
# systemd-nspawn keeps from containers unless told.
(
	for group in $groups; do
		echo 0 >"$group/cgroup.procs"
	done
	[ -z "${CMKD_LONG-}" ] || export SYSTEMD_SECCOMP=0
	exec timeout --kill-after=30s 18m systemd-nspawn --directory="$root" --machine=cmkd-units --boot \
		--quiet --console=pipe --register=no --keep-unit --link-journal=no --private-network \
		--system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self @memlock @keyring" \
		-- --unit=units.service
) </dev/null >"$dir/console" 2>&1 || {
	echo "systemd-nspawn: exit $?" >&2
	cat "$dir/console" >&2
}
cat "$root/opt/units/log" >&2 || cat "$dir/console" >&2
cat "$root/opt/units/result"
