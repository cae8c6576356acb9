package envelopes

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"cmkd/testenv/rig"
)

// TestMemory: seal and open take less than 64 MiB, however much goes through.
func TestMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rig.Config{})
	const content, limit = 192 << 20, 64 << 10 // bytes, KiB
	sealed := filepath.Join(folder(t), "sealed")
	seal := w.cmkctl(t, "seal", "-k", w.keys[0], "--out", sealed)
	seal.Stdin = io.LimitReader(rand.NewChaCha8([32]byte{}), content)
	must(t, seal.Start())
	sealPeak := peak(seal.Process.Pid)
	must(t, seal.Wait())
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
	openPeak := peak(open.Process.Pid)
	must(t, same(out, want))
	must(t, open.Wait())
	for name, took := range map[string]int{"seal": <-sealPeak, "open": <-openPeak} {
		if took == 0 || took >= limit {
			t.Errorf("%s took %d KiB", name, took)
		}
	}
}

// vmHWM is the line of proc_pid_status(5) that has the most memory so far, in KiB.
var vmHWM = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peak gives the most memory that a process took, in KiB, once that has ended. getrusage(2) would
// count what its parent took as well.
func peak(pid int) <-chan int {
	took := make(chan int, 1)
	go func() {
		most := 0
		for {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			line := vmHWM.FindSubmatch(status)
			if err != nil || line == nil { // a process that has ended has no memory
				took <- most
				return
			}
			n, _ := strconv.Atoi(string(line[1])) // digits
			most = max(most, n)
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return took
}
