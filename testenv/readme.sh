#!/bin/sh
# Runs the blocks of README.md as written. The test beside it calls it as root in a
# mount and a PID namespace of its own:
#
#   readme.sh USER REPOSITORY FOLDER
#
# USER is root, or the name of a user to make, who has sudo. FOLDER holds the
# blocks, 1.sh and so on, and takes all that is written: nothing else of the
# machine changes.
set -eu
user=$1 repo=$2 dir=$3
cd /

# copy PATH AT: a copy of PATH at AT that is written to in memory only.
copy() {
	mkdir -p "$dir/layers/of$1/upper" "$dir/layers/of$1/work" "$2"
	mount -t overlay -o "lowerdir=$1,upperdir=$dir/layers/of$1/upper,workdir=$dir/layers/of$1/work" overlay "$2"
}

chmod 0755 "$dir"
mkdir "$dir/layers"
mount -t tmpfs -o mode=0755 tmpfs "$dir/layers"
here=$dir/layers/repo cache=$dir/layers/gocache modules=$dir/layers/gomod
copy "$repo" "$here"
copy "$GOCACHE" "$cache"
mkdir "$modules"
mount --bind "$GOMODCACHE" "$modules"
for path in /etc /usr /var /home /root; do
	copy "$path" "$path"
done
chmod 0755 /root # an AWS CLI may be there
mount -t tmpfs -o mode=0755 tmpfs /run
rm -rf /etc/cmkd /var/lib/cmkd "$here/bin"

# The machine that README.md is for: users, a token, and of systemd the part that
# counts here, since nothing has booted.
echo "127.0.0.1 $(hostname)" >>/etc/hosts
useradd -m alice
home=$dir/layers/home
if [ "$user" = root ]; then
	mkdir "$home"
else
	useradd -m -d "$home" "$user"
	chown "$user" "$here"
	find "$cache" -maxdepth 1 -exec chown "$user" {} +
fi
echo "$user ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/readme
rm -rf /var/lib/softhsm /etc/softhsm
mkdir -p /var/lib/softhsm/tokens /etc/softhsm
echo "directories.tokendir = /var/lib/softhsm/tokens" >/etc/softhsm/softhsm2.conf
softhsm2-util --module "$SOFTHSM2_MODULE" --init-token --free --label cmkd --so-pin 87654321 --pin 12345678 >/dev/null
chmod -R o+rwX /etc/softhsm /var/lib/softhsm
ln -s "$SOFTHSM2_MODULE" /usr/lib/your-hsm.so
mkdir -p /usr/local/sbin
cat >/usr/local/sbin/systemctl <<'EOF'
#!/bin/sh
# Starts the installed service as its user, with the folder of its socket.
[ "$*" = "enable --now cmkd.socket cmkd.service" ] || exit 64
install -d -o cmkd -g cmkd /run/cmkd
setsid setpriv --reuid cmkd --regid cmkd --init-groups --no-new-privs \
	$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/cmkd.service) >/run/cmkd.log 2>&1 </dev/null &
tries=0
until cmkctl status >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ $tries -lt 600 ] || { cat /run/cmkd.log >&2; exit 1; }
	sleep 0.1
done
EOF
cat >/usr/local/sbin/systemd-sysusers <<'EOF'
#!/bin/sh
# Makes the user of the installed file.
grep -q '^u cmkd ' /usr/lib/sysusers.d/cmkd.conf && useradd --system --user-group --home-dir /var/lib/cmkd cmkd
EOF
chmod 0755 /usr/local/sbin/systemctl /usr/local/sbin/systemd-sysusers
export PATH="/usr/local/sbin:$PATH:/usr/sbin:/sbin"

# as USER HOME COMMAND...: runs a command as a login of the user.
as() {
	who=$1 at=$2
	shift 2
	setpriv --reuid "$who" --regid "$who" --init-groups env -i HOME="$at" USER="$who" PATH="$PATH" TERM=dumb \
		GOCACHE="$cache" GOMODCACHE="$modules" GOFLAGS=-buildvcs=false GOTOOLCHAIN=local GOPROXY=off GOTELEMETRY=off \
		AWS_EC2_METADATA_DISABLED=true AWS_PAGER= "$@"
}

# Block 1 is `make demo` and `make test`. Block 2 is a daemon to play with, which
# stays while block 3 runs beside it.
cd "$here"
as "$user" "$home" setsid sh -c 'echo $$ >&2; exec sh -e "$0"' "$dir/2.sh" >"$dir/exports" 2>"$dir/dev.log" &
dev=$!
until grep -q 'cmkd is ready' "$dir/dev.log" && grep -q AWS_SECRET_ACCESS_KEY "$dir/exports"; do
	kill -0 $dev 2>/dev/null || { cat "$dir/exports" "$dir/dev.log" >&2; exit 1; }
	sleep 0.1
done
grep -E '^(export|unset) ' "$dir/exports" >"$dir/env"
as "$user" "$home" sh -ec '. "$0"; . "$1"' "$dir/env" "$dir/3.sh" | grep -x hello
kill -TERM "-$(head -n 1 "$dir/dev.log")"
wait $dev || true

# Block 4 sets the service up, and alice uses it.
printf 12345678 >pin
as "$user" "$home" sh -e "$dir/4.sh"
cp secret.txt /home/alice/
cd /home/alice
as alice /home/alice sh -e "$dir/5.sh" | grep -x hello
echo correct horse >password
chown alice password
as alice /home/alice sh -e "$dir/6.sh"
grep -x 'correct horse' password
as alice /home/alice sh -e "$dir/7.sh" | grep '"KeyState": "Enabled"'
as alice /home/alice cmkctl bridge -- python3 "$dir/app.py" | grep -x secret
# A module of its own takes the library from the clone; there is no checksum database
# to be asked here, nor a proxy.
mkdir "$dir/layers/app"
ln -s "$here" "$dir/layers/cmkd"
cp "$dir/main.go" "$dir/layers/app/"
cd "$dir/layers/app"
export GOPROXY=off GOSUMDB=off GOFLAGS=-buildvcs=false GOTOOLCHAIN=local
go mod init example
sh -e "$dir/8.sh"
go build -o "$dir/layers/example" .
cd "$here"
as alice /home/alice "$dir/layers/example" | grep -x secret
echo "README.md runs for $user"
