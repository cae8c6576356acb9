package envelopes

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkd/socket/client/envelope"
	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// endings is how often each command is ended in each way: CMKD_ENDS, or a few times.
func endings() int { return long("CMKD_ENDS", 5) }

// replacement is a command that replaces the file b by another of its making.
type replacement struct {
	name string
	// old and input are the files of the world that b and the input are copies of.
	old, input string
	args       []string
	holds      func(t *testing.T, path string) error // the new content
}

// size of the content, so large that it takes a while.
const size = 8 << 20

// replacements are the commands that replace files.
func replacements(w *world, dir string) []replacement {
	sealed := func(key string) func(*testing.T, string) error {
		return func(t *testing.T, path string) error {
			return w.open(t.Context(), path, key, filepath.Join(dir, "plain"), envelope.Options{})
		}
	}
	return []replacement{
		{"seal", "sealed", "plain", []string{"seal", "-k", w.keys[1], "--out", "b"}, sealed(w.keys[1])},
		{"open", "before", "sealed", []string{"open", "--out", "b"}, func(_ *testing.T, path string) error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return same(f, filepath.Join(dir, "plain"))
		}},
		{"rewrap", "sealed", "", []string{"rewrap", "-k", w.keys[1], "b"}, sealed(w.keys[1])},
	}
}

// files makes those that replacements name.
func files(t *testing.T, w *world) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Rename(plaintext(t, dir, size), filepath.Join(dir, "plain")))
	must(t, os.WriteFile(filepath.Join(dir, "before"), []byte("of yesterday"), 0o600))
	w.seal(t, filepath.Join(dir, "plain"), filepath.Join(dir, "sealed"), w.keys[:1], envelope.Options{})
	return dir
}

// TestEnds ends the commands that replace a file, at random moments, by SIGKILL and by Ctrl-C
// in a pipe: the file is the old one or the new one, and whole.
func TestEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rig.Config{})
	dir := files(t, w)
	for _, r := range replacements(w, dir) {
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
			t.Run(fmt.Sprintf("%s by %v", r.name, signal), func(t *testing.T) {
				took := r.run(t, w, dir, time.Hour, signal).took
				var old, renewed int
				for range endings() {
					if r.run(t, w, dir, rand.N(took*5/4), signal).renewed {
						renewed++
					} else {
						old++
					}
				}
				t.Logf("undisturbed %v; the old file %d times, the new one %d times", took, old, renewed)
			})
		}
	}
}

// end is what became of a command.
type end struct {
	took    time.Duration
	renewed bool // the file is the new one
}

// run has the command in a pipe, signals all of that after a while, and looks at the file.
func (r *replacement) run(t *testing.T, w *world, dir string, after time.Duration, signal syscall.Signal) end {
	t.Helper()
	at := t.TempDir()
	b := filepath.Join(at, "b")
	must(t, copyFile(filepath.Join(dir, r.old), b))
	cmd := w.cmkctl(t, r.args...)
	cmd.Dir, cmd.SysProcAttr = at, &syscall.SysProcAttr{Setpgid: true}
	var said strings.Builder
	cmd.Stderr = &said
	group := cmd
	if r.input != "" {
		// As a shell does it: both in one group of processes, which Ctrl-C is for.
		in, out, err := os.Pipe()
		must(t, err)
		group = exec.CommandContext(t.Context(), "cat", filepath.Join(dir, r.input))
		group.Stdout, group.SysProcAttr = out, &syscall.SysProcAttr{Setpgid: true}
		must(t, group.Start())
		must(t, out.Close())
		defer in.Close()
		cmd.Stdin, cmd.SysProcAttr.Pgid = in, group.Process.Pid
	}
	begun := time.Now()
	must(t, cmd.Start())
	timer := time.AfterFunc(after, func() { _ = syscall.Kill(-group.Process.Pid, signal) })
	err := cmd.Wait()
	timer.Stop()
	if group != cmd {
		_ = group.Process.Kill()
		_ = group.Wait()
	}
	e := end{took: time.Since(begun)}
	failed := r.holds(t, b)
	e.renewed = failed == nil
	if old := sameFiles(b, filepath.Join(dir, r.old)); failed != nil && old != nil {
		t.Errorf("after %v: the file is neither the new one (%v) nor the old one (%v)", after, failed, old)
	}
	if err == nil && !e.renewed {
		t.Errorf("after %v: exit status 0 and the old file", after)
	}
	if after == time.Hour && err != nil {
		t.Fatalf("undisturbed: %s, %v", said.String(), err)
	}
	if left := names(t, at); left != "b" && signal != syscall.SIGKILL {
		t.Errorf("after %v: left in the folder: %s", after, left)
	}
	return e
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Close()
}

func sameFiles(a, b string) error {
	f, err := os.Open(a)
	if err != nil {
		return err
	}
	defer f.Close()
	return same(f, b)
}

// TestFullDisk has the commands replace a file on a disk that is too small, by a random
// amount: the file is as it was, nothing is left beside it, and cmkctl says why.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rig.Config{World: true})
	dir := files(t, w)
	must(t, os.Chmod(dir, 0o755))
	for _, r := range replacements(w, dir) {
		t.Run(r.name, func(t *testing.T) {
			old, err := os.Stat(filepath.Join(dir, r.old))
			must(t, err)
			var sizes []string
			for range endings() {
				// Of pages, of which the old file needs one more than it fills, and the folder some.
				sizes = append(sizes, fmt.Sprint((old.Size()+rand.Int64N(size))/4096+2))
			}
			at := t.TempDir()
			cmd := w.cmkctl(t, r.args...)
			full := testenv.InNamespace(t, []string{"PATH=" + os.Getenv("PATH")}, filepath.Join(rig.Root(), "testenv/envelopes/full.sh"),
				append([]string{at, filepath.Join(dir, r.old), dir + "/" + r.input, strings.Join(sizes, " ")}, cmd.Args...)...)
			out, err := full.CombinedOutput()
			if want := strings.Repeat("the old file, and why\n", len(sizes)); err != nil || string(out) != want {
				t.Errorf("%s%v", out, err)
			}
		})
	}
}

// TestEveryByte: a file with any one of its bytes altered does not open, and leaves no output.
// All bytes of it with CMKD_EVERY_BYTE, or some.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rig.Config{})
	dir := t.TempDir()
	plain, sealed, out := filepath.Join(dir, "plain"), filepath.Join(dir, "sealed"), filepath.Join(dir, "out")
	must(t, os.WriteFile(plain, []byte("some content"), 0o600))
	w.ok(t, "seal", "--sign", "-k", w.keys[0], "-k", w.keys[2], "-c", "host=db1", "--out", sealed, plain)
	content, err := os.ReadFile(sealed)
	must(t, err)
	step := 1
	if os.Getenv("CMKD_EVERY_BYTE") == "" {
		step = len(content) / 12
	}
	for i := rand.IntN(step); i < len(content); i += step {
		altered := append([]byte(nil), content...)
		altered[i] ^= byte(1 + rand.IntN(255))
		must(t, os.WriteFile(sealed, altered, 0o600))
		if said, err := w.cmkctl(t, "open", "--allow-uncommitted", "--out", out, sealed).CombinedOutput(); err == nil {
			t.Errorf("byte %d of %d: it opens: %s", i, len(content), said)
		}
		if left := names(t, dir); left != "plain sealed" {
			t.Fatalf("byte %d of %d: left in the folder: %s", i, len(content), left)
		}
	}
	must(t, os.WriteFile(sealed, content, 0o600))
	w.ok(t, "open", "--out", out, sealed)
	if err := exec.CommandContext(t.Context(), "cmp", out, plain).Run(); err != nil {
		t.Error(err)
	}
}
