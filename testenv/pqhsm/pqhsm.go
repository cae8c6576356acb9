// Package pqhsm puts before SoftHSM2 what PKCS#11 3.2 has and SoftHSM2 2.6 has
// not: ML-DSA and ML-KEM.
package pqhsm

import (
	_ "embed"
	"os/exec"
	"path/filepath"
	"testing"

	"cmkd/testenv/shim"
)

//go:embed module/pqhsm.c
var source []byte

// New builds the module before the one at the path behind. It returns its path
// and what a process that loads it must have in its environment.
func New(t testing.TB, behind string) (path string, env []string) {
	t.Helper()
	lattice := filepath.Join(t.TempDir(), "lattice")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", lattice, "cmkd/testenv/pqhsm/lattice")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the arithmetic of pqhsm: %v\n%s", err, out)
	}
	return shim.Compile(t, "pqhsm", source), []string{"CMKD_PQHSM_MODULE=" + behind, "CMKD_PQHSM_LATTICE=" + lattice}
}
