package plugins

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sayEnv has the test binary say who it is and wait for the end of its input.
const sayEnv = "CMKD_PLUGINS_TEST=say"

// goodRunner is a runner for a copy of this test binary, with its checksum.
func goodRunner(t *testing.T, path string) *processRunner {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	target := path
	if link, err := os.Readlink(path); err == nil {
		target = link
	}
	if err := os.WriteFile(target, self, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(self)
	s := newSpawner()
	t.Cleanup(s.close)
	r, err := newProcessRunner(s, &Spec{Path: path, SHA256: sum[:]}, []string{sayEnv}, t.TempDir(), os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const evil = "#!/bin/sh\necho evil\n"

// TestSwappedExecutable: whatever becomes of the file between the check of its
// checksum and its execution, what was checked is executed.
func TestSwappedExecutable(t *testing.T) {
	t.Parallel()
	write := func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(evil), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, swap := range map[string]func(t *testing.T, path string){
		"another in its place": func(t *testing.T, path string) {
			write(t, path+".new")
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"written into": write,
		"a link that leads elsewhere": func(t *testing.T, path string) {
			write(t, path+".new")
			if err := errors.Join(os.Remove(path), os.Symlink(path+".new", path)); err != nil {
				t.Fatal(err)
			}
		},
		"the target of a link": func(t *testing.T, path string) {
			target, err := os.Readlink(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, target)
		},
		"removed": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "cmkd-good")
			if name == "the target of a link" {
				if err := os.Symlink(filepath.Join(t.TempDir(), "target"), path); err != nil {
					t.Fatal(err)
				}
			}
			r := goodRunner(t, path)
			if err := r.check(); err != nil {
				t.Fatal(err)
			}
			swap(t, path)
			if err := r.spawner.start(r.cmd); err != nil {
				t.Fatal(err)
			}
			said, err := io.ReadAll(r.stdout)
			if err := errors.Join(err, r.cmd.Wait()); err != nil {
				t.Error(err)
			}
			if string(said) != "good" {
				t.Errorf("what ran says %q", said)
			}
		})
	}
}

// TestSealedExecutable: the copy that was checked cannot be changed by anybody, and
// what is not the executable of the configuration is not executed.
func TestSealedExecutable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cmkd-good")
	r := goodRunner(t, path)
	s, err := r.spawner.checked(path, r.sha256)
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"a write":     second(s.file.WriteAt([]byte{0}, 0)),
		"a cut":       s.file.Truncate(1),
		"an addition": second(s.file.WriteAt([]byte{0}, 1<<30)),
		"a mapping":   second(unix.Mmap(int(s.file.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED)),
		"a new seal":  second(unix.FcntlInt(s.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE)),
		"by its path": second(os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()), os.O_WRONLY|os.O_TRUNC, 0)),
	} {
		if err == nil {
			t.Errorf("%s is possible", what)
		}
	}
	if err := os.WriteFile(path, []byte(evil), 0o755); err != nil {
		t.Fatal(err)
	}
	if again, err := r.spawner.checked(path, r.sha256); err != nil || again != s {
		t.Errorf("for the next process: %v", err)
	}
	sum := sha256.Sum256([]byte(evil + " "))
	if _, err := r.spawner.checked(path, sum[:]); !errors.Is(err, errChecksum) {
		t.Errorf("another checksum: %v", err)
	}
	fifo := path + ".fifo"
	if err := unix.Mkfifo(fifo, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, filepath.Dir(path), path + ".none", "/dev/zero"} {
		if _, err := seal(path, sum[:]); err == nil || errors.Is(err, errChecksum) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func second[A any](_ A, err error) error { return err }

// TestSealedProcessNames: ps(1) shows the path, and the process can name itself.
func TestSealedProcessNames(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cmkd-good")
	r := goodRunner(t, path)
	r.cmd.Env = append(r.cmd.Env, "CMKD_PLUGINS_TEST=wait")
	in, err := r.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strconv.Itoa(r.process())
	// Before it runs, the kernel may not show its arguments yet.
	if _, err := io.ReadFull(r.stdout, make([]byte, len("good"))); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(proc + "/cmdline")
	if err != nil || !bytes.HasPrefix(line, []byte(path+"\x00")) {
		t.Errorf("its command line is %q, %v", line, err)
	}
	// Nothing of the daemon's is open in it, the copy neither.
	open, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range open {
		if to, err := os.Readlink(proc + "/fd/" + e.Name()); err == nil && strings.Contains(to, "memfd") {
			t.Errorf("descriptor %s is %s", e.Name(), to)
		}
	}
	name, err := os.ReadFile(proc + "/comm")
	if err != nil || string(name) != "cmkd-good\n" {
		t.Errorf("its name is %q, %v", name, err)
	}
	_ = in.Close()
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestPluginToHost: the daemon connects to a socket in the plugin's directory and
// to nothing else that a plugin names.
func TestPluginToHost(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "cmkd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	inside := filepath.Join(dir, "own")
	if err := errors.Join(os.Mkdir(inside, 0o700), os.WriteFile(inside+"/file", nil, 0o600), os.Symlink(at("other"), inside+"/link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{inside + "/socket", at("other")} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	r := &processRunner{dir: inside}
	if _, address, err := r.PluginToHost("unix", inside+"/socket"); err != nil || address != inside+"/socket" {
		t.Errorf("its own: %s, %v", address, err)
	}
	for _, c := range [][2]string{
		{"tcp", "127.0.0.1:1"},
		{"tcp", "192.0.2.1:443"},
		{"udp", inside + "/socket"},
		{"", inside + "/socket"},
		{"unix", ""},
		{"unix", "socket"},
		{"unix", "@abstract"},
		{"unix", at("other")},
		{"unix", inside + "/../other"},
		{"unix", inside + "/none"},
		{"unix", inside + "/file"},
		{"unix", inside + "/link"},
		{"unix", inside},
	} {
		if _, _, err := r.PluginToHost(c[0], c[1]); err == nil {
			t.Errorf("%s %q is taken", c[0], c[1])
		}
	}
}

// say is what the copies of the test binary do.
func say(wait bool) {
	closeSealed()
	setName(os.Args[0])
	_, _ = os.Stdout.WriteString("good")
	if wait {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { os.Exit(1) })
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}
}

// Say lets TestMain, which is in the package's other tests, do that.
var Say = say
