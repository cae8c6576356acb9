// Package shim makes a PKCS#11 module misbehave: it builds a small module in C
// (module/shim.c) that forwards to another one and, when a test says so, delays
// calls, answers errors, hangs, crashes, prints, has few sessions or no room, is
// write-protected, or takes the manners of AWS CloudHSM or of other tokens
// (module/manners.h). Rules change while the module is in use, in any process.
package shim

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

//go:embed module/shim.c
var source []byte

// manners is what the source includes.
//
//go:embed module/manners.h
var manners []byte

// Module is a shim before one module.
type Module struct {
	// Path is the shim's own path, to be loaded in place of the real module.
	Path string
	// Env is what a process that loads it must have in its environment.
	Env []string
	// Control changes what it does.
	Control *Control
}

// New builds a shim that forwards to the module at the path behind.
func New(t testing.TB, behind string) *Module {
	t.Helper()
	c := newControl(t)
	return &Module{
		Path:    Build(t),
		Env:     []string{"CMKD_SHIM_MODULE=" + behind, "CMKD_SHIM_CONTROL=" + c.path},
		Control: c,
	}
}

// headers finds the PKCS#11 headers, which miekg/pkcs11 brings along.
var headers = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	return strings.TrimSpace(string(out)), err
})

// Build compiles the shim into a folder of the test and returns its path.
func Build(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "manners.h"), manners, 0o600); err != nil {
		t.Fatal(err)
	}
	return Compile(t, "shim", source, "-I", folder)
}

// Compile compiles a PKCS#11 module written in C, which may include pkcs11.h,
// into a folder of the test and returns its path. The compiler is the one in
// CC, or cc; flags are put before the source.
func Compile(t testing.TB, name string, source []byte, flags ...string) string {
	t.Helper()
	dir, err := headers()
	if err != nil {
		t.Fatalf("finding the PKCS#11 headers with go list: %v", err)
	}
	folder := t.TempDir()
	file, lib := filepath.Join(folder, name+".c"), filepath.Join(folder, name+".so")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		t.Fatal(err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	args := append([]string{"-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", "-I", dir, "-o", lib}, flags...)
	cmd := exec.CommandContext(t.Context(), cc, append(args, file, "-ldl")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compiling %s.c: %v (is a C compiler installed? `make deps`)\n%s", name, err, out)
	}
	return lib
}
