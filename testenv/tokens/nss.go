package tokens

import (
	_ "embed"
	"fmt"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/shim"
)

//go:embed module/nss.c
var nssModule []byte

// nss is softokn, by a module that gives it its parameters. It copies sensitive keys
// to extractable ones, and wraps those that must not be extracted.
var nss = &Rig{
	Name: "nss", About: "NSS softokn of Debian 12, behind a module that gives C_Initialize the parameters it wants (without them: CKR_ARGUMENTS_BAD)",
	Packages: "libnss3 libnss3-tools", Installed: "/usr/bin/certutil",
	Refused: "no key is safe in it", new: newNSS,
}

func newNSS(t testing.TB, dir, _ string) *testenv.Token {
	t.Helper()
	tok := newToken(t, dir, "NSS Certificate DB")
	db := mkdir(t, dir, "db")
	run(t, nil, "certutil", "-N", "-d", "sql:"+db, "-f", tok.PINFile)
	tok.Module = shim.Compile(t, "nss", nssModule, fmt.Sprintf("-DMODULE=%q", library(t, "libsoftokn3.so")))
	tok.Env = []string{"CMKD_NSS=configdir='sql:" + db + "' certPrefix='' keyPrefix='' secmod='secmod.db' flags="}
	tok.Sandbox = quoted("sandbox = { writable = [%q] }", db)
	return tok
}
