package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Binaries returns the folder of cmkd, cmkctl, the plugins and flood, built from the
// tree as it is. Test binaries that run at once share one build.
func Binaries(t testing.TB) string {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatalf("building cmkd: %v", err)
	}
	return dir
}

var binaries = sync.OnceValues(func() (string, error) {
	root := Root()
	dir := filepath.Join(root, ".cache", "bin")
	if !ours(root) {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("cmkd-test-%d", os.Getuid()))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if !ours(dir) {
		return "", fmt.Errorf("others can change %s: remove it", dir)
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }() // which unlocks it
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", dir, err)
	}
	for _, b := range []struct{ name, pkg, cgo string }{
		{"cmkd", "./daemon/cmd/cmkd", "0"},
		{"cmkctl", "./socket/cmd/cmkctl", "0"},
		{"cmkd-symmetric", "./plugins/symmetric", "1"},
		{"cmkd-asymmetric", "./plugins/asymmetric", "1"},
		{"cmkd-hmac", "./plugins/hmac", "1"},
		{"flood", "./testenv/flood", "0"},
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, b.name), b.pkg)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build %s: %w\n%s", b.pkg, err, strings.TrimSpace(string(out)))
		}
	}
	return dir, nil
})

// ours reports whether nobody but this user and root can change a folder and those above
// it. A daemon runs no plugin from another one, as in root's tests of another user's
// clone.
func ours(dir string) bool {
	for {
		var st syscall.Stat_t
		if err := syscall.Stat(dir, &st); err != nil || st.Uid != 0 && int(st.Uid) != os.Getuid() || st.Mode&0o022 != 0 && st.Mode&syscall.S_ISVTX == 0 {
			return false
		}
		if dir == "/" {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

// Root is the folder of go.mod.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
