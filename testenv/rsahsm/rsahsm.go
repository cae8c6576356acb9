// Package rsahsm puts before SoftHSM2 what hardware has and SoftHSM2 2.6 has
// not: RSA-OAEP with SHA-256, C_WrapKey by it and by CKM_AES_CBC_PAD, and
// C_UnwrapKey by OAEP and by CKM_RSA_AES_KEY_WRAP to keys that know their length.
package rsahsm

import (
	_ "embed"
	"testing"

	"cmkd/testenv/shim"
)

//go:embed module/rsahsm.c
var source []byte

// New builds the module before the one at the path behind. It returns its path
// and what a process that loads it must have in its environment.
func New(t testing.TB, behind string) (path string, env []string) {
	t.Helper()
	return shim.Compile(t, "rsahsm", source), []string{"CMKD_RSAHSM_MODULE=" + behind}
}
