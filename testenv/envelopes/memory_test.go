package envelopes

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cmkd/testenv/rig"
)

// TestMemory: seal and open take less than 64 MiB, however much goes through.
func TestMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rig.Config{})
	const content, limit = 192 << 20, 64 << 10 // bytes, KiB
	sealed := filepath.Join(folder(t), "sealed")
	seal := w.cmkctl(t, "seal", "-k", w.keys[0], "-o", sealed)
	seal.Stdin = io.LimitReader(rand.NewChaCha8([32]byte{}), content)
	must(t, seal.Run())
	open := w.cmkctl(t, "open", sealed)
	src, want := rand.NewChaCha8([32]byte{}), filepath.Join(t.TempDir(), "want")
	f, err := os.Create(want)
	must(t, err)
	_, err = io.CopyN(f, src, content)
	must(t, err)
	must(t, f.Close())
	out, err := open.StdoutPipe()
	must(t, err)
	must(t, open.Start())
	must(t, same(out, want))
	must(t, open.Wait())
	for name, usage := range map[string]any{"seal": seal.ProcessState.SysUsage(), "open": open.ProcessState.SysUsage()} {
		if u, ok := usage.(*syscall.Rusage); !ok || u.Maxrss >= limit {
			t.Errorf("%s took %d KiB", name, u.Maxrss)
		}
	}
}
