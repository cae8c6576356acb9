#!/bin/sh
# Runs the image that the test beside it has unpacked, as its user and with nothing of the
# machine but /proc and /dev. The test calls it as root in a mount and a PID namespace of its own:
#
#   image.sh ROOT
set -eu
root=$1
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for device in null zero urandom random; do
	: >"$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done

# run COMMAND...: as the image's configuration has it.
chroot=$(command -v chroot)
run() { env -i PATH=/usr/bin "$chroot" --userspec=65532:65532 "$root" "$@"; }

run /usr/libexec/cmkd/cmkd -version
# A service as operations.md sets it up, on a SoftHSM2 token.
run cmkctl init --dir /etc/cmkd --state-dir /var/lib/cmkd --softhsm
run /usr/libexec/cmkd/cmkd -config /etc/cmkd/config.toml 2>"$root/tmp/log" &
tries=0
until run cmkctl status >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ $tries -lt 600 ] || { cat "$root/tmp/log" >&2; exit 1; }
	sleep 0.1
done
# Every kind of key, and a sealed file.
run cmkctl key create --alias app >/dev/null
run cmkctl key create --alias pair --spec ECC_NIST_P256 --usage SIGN_VERIFY >/dev/null
run cmkctl key create --alias code --spec HMAC_256 --usage GENERATE_VERIFY_MAC >/dev/null
echo hello | run cmkctl seal -k alias/app | run cmkctl open
echo hello >"$root/tmp/message"
run cmkctl sign -k alias/pair --out /tmp/signature /tmp/message
run cmkctl verify -k alias/pair --signature /tmp/signature /tmp/message >/dev/null && echo verified
run cmkctl mac -k alias/code --out /tmp/mac /tmp/message
run cmkctl verify-mac -k alias/code --mac /tmp/mac /tmp/message >/dev/null && echo verified
