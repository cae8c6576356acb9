package tokens

import (
	"path/filepath"
	"testing"

	"cmkd/testenv"
)

// tpm2 is a TPM in software with its resource manager on a message bus of its own.
var tpm2 = &Rig{
	Name: "tpm2", About: "tpm2-pkcs11 of Debian 12 on swtpm",
	Packages:  "swtpm libtpm2-pkcs11-1 libtpm2-pkcs11-tools tpm2-tools tpm2-abrmd libtss2-tcti-tabrmd0 dbus-daemon",
	Installed: "/usr/sbin/tpm2-abrmd", Refused: "it lacks CKM_SHA256_HMAC", Further: true, new: newTPM2,
}

func newTPM2(t testing.TB, dir, label string) *testenv.Token {
	t.Helper()
	tok := newToken(t, dir, label)
	state, store := mkdir(t, dir, "tpm"), mkdir(t, dir, "store")
	socket, bus := filepath.Join(dir, "tpm.sock"), filepath.Join(dir, "bus")
	background(t, nil, socket, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear")
	background(t, nil, bus, "dbus-daemon", "--session", "--nofork", "--address=unix:path="+bus)
	env := []string{
		"DBUS_SESSION_BUS_ADDRESS=unix:path=" + bus, "TPM2TOOLS_TCTI=tabrmd:bus_type=session",
		"TPM2_PKCS11_TCTI=tabrmd:bus_type=session", "TPM2_PKCS11_STORE=" + store,
	}
	manager(t, env, socket, filepath.Join(dir, "abrmd"))
	run(t, env, "tpm2_ptool", "init", "--path", store)
	run(t, env, "tpm2_ptool", "addtoken", "--pid", "1", "--label", label, "--userpin", pin, "--sopin", soPIN, "--path", store)
	tok.Module, tok.Env = library(t, "pkcs11/libtpm2_pkcs11.so"), env
	tok.Sandbox = quoted("sandbox = { network = true, readable = [%q], writable = [%q] }", "/etc", dir)
	return tok
}

// manager starts the resource manager, and waits until it answers.
func manager(t testing.TB, env []string, socket, ready string) {
	t.Helper()
	background(t, env, ready, "sh", "-c", `tpm2-abrmd --allow-root --session --tcti="swtpm:path=$0" & pid=$!
trap 'kill $pid' EXIT
until tpm2_getcap properties-fixed >/dev/null 2>&1; do kill -0 $pid || exit 1; sleep 0.05; done
: >"$1"; wait`, socket, ready)
}
