#!/bin/sh
# Runs in the booted container of units.sh, as root: installs the packages beside it,
# uses, upgrades, removes and purges them, and writes what each command answered to
# the file RESULT, as inside.sh does. package_test.go has the right values.
#
#   package.sh RESULT
set -u
result=$1
cd /opt/units
trap 'journalctl -q --no-hostname -u cmkd.service -u cmkd.socket' EXIT
trap 'exit 1' TERM

# check NAME COMMAND...
check() {
	name=$1
	shift
	out=$("$@" 2>&1 </dev/null)
	printf -- '--- %s %s\n%s\n' "$name" "$?" "$out" >>"$result"
}

# as USER COMMAND...: in all the groups of the user.
as() {
	who=$1
	shift
	setpriv --reuid "$who" --regid "$who" --init-groups "$@"
}

# capabilities: user and capabilities of the daemon.
capabilities() {
	at=/proc/$(systemctl show -P MainPID cmkd.service)/status
	id -nu "$(awk '/^Uid:/ { print $3 }' "$at")"
	grep -E '^(CapPrm|CapEff|CapAmb|CapBnd):' "$at" | tr -s '\t' ' '
}

# run UNIT: starts it and shows what it printed.
run() {
	systemctl start "$1.service" 2>/dev/null
	status=$?
	cat "/opt/units/$1.log"
	return $status
}

export DEBIAN_FRONTEND=noninteractive
userdel cmkd 2>/dev/null
check install dpkg -i cmkd.deb cmkd-softhsm.deb
check not-enabled systemctl is-enabled cmkd.socket
check not-started systemctl is-active cmkd.socket cmkd.service
check config stat -c '%a %U %G' /etc/cmkd /etc/cmkd/config.toml /var/lib/cmkd
check verify systemd-analyze verify cmkd.service cmkd.socket
check page man -w cmkctl-key-create cmkd cmkd-config

# As operations.md has it, with SoftHSM2 and the drop-in as it is shipped.
check init as cmkd cmkctl init --dir /etc/cmkd --state-dir /var/lib/cmkd --softhsm --account 123456789012
cat >>/etc/cmkd/config.toml <<'TOML'

[[principals.map]]
unit = "app.service"
arn = "arn:aws:iam::123456789012:role/app"
TOML
sed -i '1i identity_policies = "/etc/cmkd/policies"' /etc/cmkd/config.toml
install -d /etc/cmkd/policies/role/app
echo '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*"}]}' >/etc/cmkd/policies/role/app/use.json
for who in alice app; do
	id "$who" >/dev/null 2>&1 || useradd "$who"
	usermod -aG cmkd "$who"
done
install -d -o alice /home/alice
cat >/etc/systemd/system/app.service <<'UNIT'
[Service]
Type=oneshot
User=app
ExecStart=cmkctl call GenerateRandom '{"NumberOfBytes":1}'
StandardOutput=truncate:/opt/units/app.log
StandardError=truncate:/opt/units/app.log
UNIT

# The PIN as a credential, and the socket that starts the service.
install -m 0400 /etc/cmkd/pin /root/cmkd-pin && rm /etc/cmkd/pin
sed -i 's|^\(pin_file *= *\)"/etc/cmkd/pin"|\1"pin"|' /etc/cmkd/config.toml
install -d /etc/systemd/system/cmkd.service.d
printf '[Service]\nLoadCredential=pin:/root/cmkd-pin\n' >/etc/systemd/system/cmkd.service.d/pin.conf
systemctl daemon-reload
check enable systemctl -q enable --now cmkd.socket
check before-call systemctl is-active cmkd.service
check key cmkctl key create --alias first --user alice
systemctl is-active -q cmkd.service || exit 1 # what follows could only wait
check member as alice sh -c 'echo hello | cmkctl seal -k alias/first --out /home/alice/sealed && cmkctl open /home/alice/sealed'
check unit run app
check process capabilities
check score systemd-analyze security --no-pager --threshold=20 cmkd.service
echo nonsense >/etc/cmkd/policies/role/app/more.json
check reload-broken systemctl reload cmkd
rm /etc/cmkd/policies/role/app/more.json
check reload systemctl reload cmkd
install -d -m 0700 /etc/cmkd-bridge
printf 'PORT=4599\nACCESS_KEY=app\n' >/etc/cmkd-bridge/alice.conf
(umask 077 && head -c 30 /dev/urandom | base64 >/etc/cmkd-bridge/alice.secret)
check bridge systemctl start cmkd-bridge@alice.service
check bridge-active systemctl is-active cmkd-bridge@alice.service

# A backup by the timer's service, and what it has comes back.
check timer systemctl -q enable --now cmkd-backup.timer
check timer-active systemctl is-active cmkd-backup.timer
check backup systemctl start cmkd-backup.service
check backup-file sh -c 'stat -c "%a %U" /var/backups/cmkd/cmkd-*.cmkd-backup && cmkctl backup verify /var/backups/cmkd/cmkd-*.cmkd-backup'
check backup-score systemd-analyze security --no-pager --threshold=20 cmkd-backup.service
systemctl stop cmkd.service cmkd.socket
check backup-skipped sh -c 'systemctl start cmkd-backup.service; echo "status $?"; systemctl show -P Result cmkd-backup.service; systemctl is-failed cmkd-backup.service; systemctl is-active cmkd.socket'
rm -f /var/lib/cmkd/cmkd.db*
cat >/etc/systemd/system/restore.service <<UNIT
[Service]
Type=oneshot
User=cmkd
LoadCredential=pin:/root/cmkd-pin
ExecStart=cmkctl restore --yes $(echo /var/backups/cmkd/cmkd-*.cmkd-backup)
StandardOutput=truncate:/opt/units/restore.log
StandardError=truncate:/opt/units/restore.log
UNIT
systemctl daemon-reload
check restore run restore
systemctl start cmkd.socket cmkd.service
check older cmkctl accept-state
root=$(cmkctl accept-state | sed -n 's/.*--root //p')
check accepted cmkctl accept-state --root "$root"
check restored as alice cmkctl open /home/alice/sealed

# A newer package: what runs is restarted, with its keys and its configuration.
sum=$(sha256sum </etc/cmkd/config.toml)
pid=$(systemctl show -P MainPID cmkd.service)
check upgrade dpkg -i cmkd-newer.deb
check upgraded as alice cmkctl open /home/alice/sealed
check restarted test "$pid" != "$(systemctl show -P MainPID cmkd.service)"
check kept test "$sum" = "$(sha256sum </etc/cmkd/config.toml)"

# Without the package there is no service, and with it again all is as it was.
check remove dpkg -r cmkd-softhsm cmkd
check stopped sh -c '! systemctl is-active -q cmkd-bridge@alice.service cmkd.service cmkd.socket'
check removed test ! -e /run/cmkd/cmkd.sock -a ! -e /usr/bin/cmkctl -a -e /var/lib/cmkd/cmkd.db
check again dpkg -i cmkd.deb cmkd-softhsm.deb
check again-start systemctl -q enable --now cmkd.socket
check again-open as alice cmkctl open /home/alice/sealed
check purge dpkg -P cmkd-softhsm cmkd
check purged ls /etc/cmkd /var/lib/cmkd
