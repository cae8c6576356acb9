#!/bin/sh
# Runs in the booted container of units.sh, as root: sets the installed cmkd up as
# docs/operations.md says, and writes what each command answered to the file RESULT,
# with a line "--- NAME STATUS" before each. units_test.go has the right values.
#
#   inside.sh RESULT
set -u
result=$1
cd /
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

# settled UNIT...: waits until the units have failed for good.
settled() {
	tries=0
	until systemctl is-failed -q "$@" || [ $tries -ge 1200 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	systemctl is-failed "$@"
}

property() { systemctl show -P "$1" "$2"; }

# process: user, groups and capabilities of the daemon.
process() {
	at=/proc/$(property MainPID cmkd.service)/status
	id -nu "$(awk '/^Uid:/ { print $3 }' "$at")"
	for group in $(sed -n 's/^Groups://p' "$at"); do
		echo "group $(getent group "$group" | cut -d: -f1)"
	done
	grep -E '^(CapPrm|CapEff|CapAmb|CapBnd|NoNewPrivs):' "$at" | tr -s '\t' ' '
}

# policy EFFECT ACTION: the identity policy of the role.
policy() {
	mkdir -p /etc/cmkd/policies/role/app
	cat >/etc/cmkd/policies/role/app/use.json <<JSON
{"Version": "2012-10-17", "Statement": [{"Effect": "$1", "Action": "$2", "Resource": "*"}]}
JSON
}

# job UNIT: a service of the user app, which is in the group cmkd.
job() {
	cat >"/etc/systemd/system/$1.service" <<UNIT
[Service]
Type=oneshot
User=app
ExecStart=cmkctl call GenerateRandom '{"NumberOfBytes":1}'
ExecStart=cmkctl key create --alias $1
StandardOutput=append:/opt/units/$1.log
StandardError=append:/opt/units/$1.log
UNIT
}

# run UNIT: starts it and shows what it printed.
run() {
	: >"/opt/units/$1.log"
	systemctl start "$1.service" 2>/dev/null
	status=$?
	cat "/opt/units/$1.log"
	return $status
}

# probe NAME [DROP-IN]: what the unit refuses, with a drop-in, to a program that runs
# as the daemon does. NAME "plain" is a service with no walls.
probe() {
	at=/etc/systemd/system/probe.service
	if [ "$1" = plain ]; then
		printf '[Service]\nUser=cmkd\nGroup=cmkd\n' >$at
	else
		grep -vE '^(ExecStart|ExecReload|Requires|After|Restart|RestartSec)=' /usr/lib/systemd/system/cmkd.service >$at
		echo '[Service]' >>$at
	fi
	rm -rf /etc/systemd/system/probe.service.d
	if [ $# -gt 1 ]; then
		install -D -m 0644 -t /etc/systemd/system/probe.service.d "/usr/share/doc/cmkd/$2"
	fi
	cat >>$at <<-UNIT
		Type=oneshot
		ExecStart=/opt/units/probe
		StandardOutput=truncate:/opt/units/probe.log
		StandardError=truncate:/opt/units/probe.log
	UNIT
	systemctl daemon-reload
	systemctl start probe.service
	status=$?
	cat /opt/units/probe.log
	return $status
}

# with DROP-IN: restarts cmkd with a drop-in.
with() {
	install -D -m 0644 -t /etc/systemd/system/cmkd.service.d "$1"
	systemctl daemon-reload
	systemctl restart cmkd.service
}

# without DROP-IN: takes it away.
without() {
	rm "/etc/systemd/system/cmkd.service.d/$1"
	systemctl daemon-reload
	systemctl restart cmkd.service
}

score() { systemd-analyze security --no-pager --threshold=20 cmkd.service; }

# walls VARIANT: the drop-in that takes walls away that are filters of system calls: none of
# them is left, those that are older than SystemCallFilter=, or all.
walls() {
	mkdir -p /etc/systemd/system/cmkd.service.d
	{
		echo '[Service]'
		if [ "$1" != all ]; then
			printf '%s=\n' SystemCallFilter SystemCallArchitectures RestrictAddressFamilies
			printf '%s=no\n' RestrictNamespaces MemoryDenyWriteExecute ProtectHostname PrivateDevices
		fi
		if [ "$1" = none ]; then
			printf '%s=no\n' RestrictRealtime RestrictSUIDSGID LockPersonality ProtectClock
			printf '%s=no\n' ProtectKernelTunables ProtectKernelModules ProtectKernelLogs
		fi
	} >/etc/systemd/system/cmkd.service.d/price.conf
	systemctl daemon-reload
	systemctl restart cmkd.service
}

# ticks: the processor time of the unit's processes, in hundredths of a second.
ticks() {
	for root in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
		for pid in $(cat "$root$(property ControlGroup cmkd.service)/cgroup.procs" 2>/dev/null); do
			cat "/proc/$pid/stat"
		done
	done | awk '!seen[$1]++ { sum += $14 + $15 } END { print sum }'
}

# price ROUNDS: lines of variant, calls, the ticks that they took, and whether the daemon
# has a filter.
price() {
	cmkctl key create --alias price >/dev/null || return
	body='{"KeyId":"alias/price","Plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}'
	printf 'POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: TrentService.Encrypt\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n%s' ${#body} "$body" >/root/request
	flood="/opt/units/flood -socket /run/cmkd/cmkd.sock -callers 64"
	for _ in $(seq "$1"); do
		for variant in none some all; do
			walls $variant
			$flood -for 1s </root/request >/dev/null
			began=$(ticks)
			calls=$($flood -for 2s </root/request | sed -n 's/.*"ok":\([0-9]*\).*/\1/p')
			echo "$variant $calls $(($(ticks) - began)) $(grep -c '^Seccomp:.*2' /proc/"$(property MainPID cmkd.service)"/status)"
		done
	done
	without price.conf
}

check sysusers systemd-sysusers
check user id -nG cmkd
for who in alice app mallory; do
	id "$who" >/dev/null 2>&1 || useradd "$who"
done
usermod -aG cmkd alice
usermod -aG cmkd app

# As docs/operations.md has it, with a token of SoftHSM2.
install -d -o cmkd -g cmkd -m 0700 /etc/cmkd /var/lib/cmkd
check init as cmkd cmkctl init --dir /etc/cmkd --state-dir /var/lib/cmkd --softhsm --account 123456789012
install -D -m 0644 /usr/share/doc/cmkd/softhsm.conf /etc/systemd/system/cmkd.service.d/softhsm.conf
policy Allow kms:GenerateRandom
sed -i '1i identity_policies = "/etc/cmkd/policies"' /etc/cmkd/config.toml
cat >>/etc/cmkd/config.toml <<'TOML'

[[principals.map]]
unit = "app.service"
arn = "arn:aws:iam::123456789012:role/app"
TOML
job app
job other
check daemon-reload systemctl daemon-reload
check verify systemd-analyze verify cmkd.service cmkd.socket cmkd-bridge@alice.service
check start-limit systemctl show -p StartLimitIntervalUSec -p StartLimitBurst -p Restart -p RestartUSec cmkd.service

# The socket starts the service.
check socket-start systemctl start cmkd.socket
check socket stat -c '%a %U %G' /run/cmkd/cmkd.sock
check before-call systemctl is-active cmkd.service
check status cmkctl status
systemctl is-active -q cmkd.service || exit 1 # what follows could only wait
check after-call systemctl is-active cmkd.service
check process process
check key cmkctl key create --alias first --user alice
check member as alice sh -c 'echo hello | cmkctl seal -k alias/first | cmkctl open'
check outsider as mallory cmkctl call GenerateRandom '{"NumberOfBytes":1}'

# A rule for a unit, and a reload that gives its role more.
check unit-role run app
check unit-other run other
policy Allow 'kms:*'
check reload systemctl reload cmkd
check unit-role-reloaded run app
policy Alow 'kms:*'
check reload-typo systemctl reload cmkd
check status-typo cmkctl status
check active-typo systemctl is-active cmkd.service
policy Allow 'kms:*'
check reload-again systemctl reload cmkd
check status-again cmkctl status
check restarts property NRestarts cmkd.service

# The walls: their score, and what they refuse.
check score score
mkdir -m 0777 /var/tmp/open
install -D -m 0644 /dev/null /home/alice/readable
chmod 0755 /home/alice
mknod -m 0666 /dev/its-device c 1 3
check walls probe unit
check walls-plain probe plain
check walls-network probe network network.conf
check walls-device probe device device.conf
with /usr/share/doc/cmkd/network.conf
check score-network score
check network-status cmkctl status
without network.conf
with /usr/share/doc/cmkd/device.conf
check score-device score
check device-status cmkctl status
without device.conf
printf '[Service]\nPrivateUsers=yes\n' >/root/users.conf
with /root/users.conf
check users-hidden as alice cmkctl call GenerateRandom '{"NumberOfBytes":1}'
without users.conf

[ -z "$CMKD_LONG" ] || check price price 7

check features env CMKD_UNITS=features HOME=/root /opt/units/units.test -test.v -test.run '^TestUnits$'

# A bridge for alice, used by somebody who only knows her access key.
install -d -m 0700 /etc/cmkd-bridge
printf 'PORT=4599\nACCESS_KEY=app\n' >/etc/cmkd-bridge/alice.conf
(umask 077 && head -c 30 /dev/urandom | base64 >/etc/cmkd-bridge/alice.secret)
check bridge-start systemctl start cmkd-bridge@alice.service
check bridge-score systemd-analyze security --no-pager --threshold=20 cmkd-bridge@alice.service
bridged() {
	as mallory env CMKD_UNITS=bridged AWS_ENDPOINT_URL_KMS=http://127.0.0.1:4599 AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=app \
		AWS_SECRET_ACCESS_KEY="$1" /opt/units/units.test -test.run '^TestUnits$'
}
check bridge-call bridged "$(cat /etc/cmkd-bridge/alice.secret)"
check bridge-stranger bridged "$(head -c 30 /dev/urandom | base64)"
check bridge-log journalctl -q --no-hostname -o cat -u cmkd-bridge@alice.service --grep "\\Q$(cat /etc/cmkd-bridge/alice.secret)\\E"
echo 'OPTIONS=--tls --ca-file /run/cmkd-bridge-alice/ca.pem' >>/etc/cmkd-bridge/alice.conf
check bridge-tls-start systemctl restart cmkd-bridge@alice.service
bridged_tls() {
	as mallory env CMKD_UNITS=bridged AWS_ENDPOINT_URL_KMS=https://127.0.0.1:4599 AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=app \
		AWS_SECRET_ACCESS_KEY="$(cat /etc/cmkd-bridge/alice.secret)" SSL_CERT_FILE="$1" /opt/units/units.test -test.run '^TestUnits$'
}
check bridge-tls-call bridged_tls /run/cmkd-bridge-alice/ca.pem
check bridge-tls-stranger bridged_tls /etc/ssl/certs/ca-certificates.crt
check bridge-stop systemctl stop cmkd-bridge@alice.service
check bridge-stopped property Result cmkd-bridge@alice.service

# The trail is shipped to a program within the unit's walls, and through a socket.
ship() {
	sed -i '/^\[audit\.ship\]/,$d' /etc/cmkd/config.toml
	printf '[audit.ship]\n%s\n' "$1" >>/etc/cmkd/config.toml
	cmkctl reload
}
# taken: waits until all records have been taken.
taken() {
	tries=0
	until cmkctl status -o json | jq -e '.auditShipping | (.error // "") == "" and .lagRecords == 0 and .position > 0' >/dev/null || [ $tries -ge 600 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	cmkctl status -o json | jq -r '.auditShipping | .to, .error // empty'
}
cp /etc/cmkd/config.toml /root/config.toml
check ship-program ship 'program = ["/bin/sh", "-c", "exec cat >>/var/lib/cmkd/received.jsonl"]'
check ship-program-taken taken
check ship-program-same sh -c 'cat /var/lib/cmkd/audit/audit-*.jsonl | head -c "$(stat -c %s /var/lib/cmkd/received.jsonl)" | cmp - /var/lib/cmkd/received.jsonl'
# Over TLS it is shipped with the drop-in for it, and not without.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=receiver -addext subjectAltName=IP:127.0.0.1 \
	-keyout /root/receiver.key -out /etc/cmkd/receiver.pem 2>/dev/null
chmod 0644 /etc/cmkd/receiver.pem
sleep infinity | openssl s_server -quiet -accept 127.0.0.1:6514 -cert /etc/cmkd/receiver.pem -key /root/receiver.key >/root/received 2>/dev/null &
ids() { cat "$@" | grep -oE '"eventID":"[-0-9a-f]+"' | sort -u; }
refused() {
	tries=0
	until cmkctl status -o json | jq -e '(.auditShipping.error // "") != ""' >/dev/null || [ $tries -ge 600 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	cmkctl status -o json | jq -r '.auditShipping | .to, .error'
}
check ship-tls ship 'syslog = "tls:127.0.0.1:6514"
ca_file = "/etc/cmkd/receiver.pem"'
check ship-tls-walled refused
sed 's/^IPAddressAllow=.*/IPAddressAllow=127.0.0.1/' /usr/share/doc/cmkd/ship.conf >/root/ship.conf
check ship-tls-with with /root/ship.conf
ids /var/lib/cmkd/audit/audit-*.jsonl >/root/before
check ship-tls-taken taken
ids /root/received >/root/after
check ship-tls-same comm -23 /root/before /root/after
check ship-tls-score score
without ship.conf
check ship-typo ship 'program = ["/bin/none"]'
check ship-check as cmkd /usr/libexec/cmkd/cmkd --check --config /etc/cmkd/config.toml
check ship-nothing sh -c 'cp /root/config.toml /etc/cmkd/config.toml && cmkctl reload && cmkctl status -o json | jq .auditShipping'

# The PIN as a credential, which the daemon's user could not read where it is.
install -m 0400 /etc/cmkd/pin /root/cmkd-pin && rm /etc/cmkd/pin
sed -i 's|^\(pin_file *= *\)"/etc/cmkd/pin"|\1"pin"|' /etc/cmkd/config.toml
printf '[Service]\nLoadCredential=pin:/root/cmkd-pin\n' >/etc/systemd/system/cmkd.service.d/pin.conf
systemctl daemon-reload
check pin-file grep pin_file /etc/cmkd/config.toml
check credential-start systemctl restart cmkd.service
check credential-status cmkctl status
check credential-key cmkctl key create --alias second

# A daemon that cannot start: the limit of the unit, reached sooner.
cp -p /etc/cmkd/config.toml /root/config.toml
echo 'nonsense = [' >>/etc/cmkd/config.toml
printf '[Unit]\nStartLimitBurst=3\n[Service]\nRestartSec=100ms\n' >/etc/systemd/system/cmkd.service.d/quick.conf
systemctl daemon-reload
systemctl reset-failed cmkd.service cmkd.socket
systemctl stop cmkd.service
check broken-start systemctl start cmkd.service
check broken-service settled cmkd.service
check broken-socket settled cmkd.socket
check broken-reason property Result cmkd.socket
check broken-refused cmkctl status
cp -p /root/config.toml /etc/cmkd/config.toml
check repaired-reset systemctl reset-failed cmkd.service cmkd.socket
check repaired-enable systemctl enable --now cmkd.socket cmkd.service
check repaired-status cmkctl status
check enabled systemctl is-enabled cmkd.socket cmkd.service
check stop systemctl stop cmkd.service cmkd.socket
check stopped property Result cmkd.service
