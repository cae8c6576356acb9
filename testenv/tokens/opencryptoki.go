package tokens

import (
	"path/filepath"
	"runtime"
	"testing"

	"cmkd/testenv"
)

// enter.sh runs pkcsslotd in namespaces of its own, where the system's
// /var/lib/opencryptoki is not seen. There is one software token, which each test
// remakes: tests that use it run one after the other.
var opencryptoki = &Rig{
	Name: "opencryptoki", About: "opencryptoki of Debian 12, software token",
	Packages: "opencryptoki", Installed: "/usr/sbin/pkcsslotd",
	Refused: "it lacks CKM_EC_KEY_PAIR_GEN on P-256", new: newOpencryptoki,
}

// opencryptokiSid is laid over /usr in the namespace, with the C library that it needs. Its
// C_UnwrapKey (3.27) reads what is nowhere when the check value of RFC 5649 does not fit.
// What the daemon has it unwrap was authenticated before, by AES-GCM.
var opencryptokiSid = &Rig{
	Name: "opencryptoki-sid", About: "opencryptoki of Debian sid, software token",
	Packages: "opencryptoki of Debian sid", Installed: sid() + "/usr/sbin/pkcsslotd",
	Few: true, Frail: true, new: newOpencryptoki,
}

// initialSOPIN is that of a token that was never initialised. C_InitToken keeps it.
const initialSOPIN = "87654321"

func newOpencryptoki(t testing.TB, dir, label string) *testenv.Token {
	t.Helper()
	tok := newToken(t, dir, label)
	tok.Module = library(t, "opencryptoki/libopencryptoki.so.0")
	run(t, nil, "pkcs11-tool", "--module", tok.Module, "--slot-index", "0", "--init-token", "--label", label, "--so-pin", initialSOPIN)
	run(t, nil, "pkcs11-tool", "--module", tok.Module, "--token-label", label, "--login", "--login-type", "so", "--so-pin", initialSOPIN, "--init-pin", "--new-pin", pin)
	tok.Sandbox = quoted("sandbox = { off = true }") // it makes shared memory, and changes modes by name
	return tok
}

// sid is where `make deps-tokens` unpacks packages of Debian sid, beside the builds.
func sid() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", ".cache", "sid")
}
