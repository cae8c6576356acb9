package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestModeAndGroup(t *testing.T) {
	t.Parallel()
	gid := os.Getegid()
	if os.Geteuid() == 0 {
		gid = 4711 // root may give a file to any group
	}
	for _, mode := range []fs.FileMode{0o600, 0o660, 0o666, 0o777} {
		s := serve(t, Config{Mode: mode, Group: fmt.Sprint(gid)}, ok)
		var st unix.Stat_t
		if err := unix.Lstat(s.path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != unix.S_IFSOCK|uint32(mode) || st.Gid != uint32(gid) {
			t.Errorf("mode %#o gid %d, want %#o gid %d", st.Mode, st.Gid, unix.S_IFSOCK|uint32(mode), gid)
		}
	}
}

func TestGroupByName(t *testing.T) {
	t.Parallel()
	_, err := Listen(t.Context(), Config{Path: socketPath(t), Group: "no such group"})
	if err == nil || !strings.Contains(err.Error(), "no such group") {
		t.Errorf("unknown group: %v", err)
	}
	if gid, err := lookupGroup("root"); gid != 0 || err != nil {
		t.Errorf("group root is %d, %v", gid, err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, cfg := range map[string]Config{
		"relative path":   {Path: "s"},
		"no path":         {},
		"long path":       {Path: filepath.Join(dir, strings.Repeat("x", 108))},
		"no folder":       {Path: filepath.Join(dir, "missing", "s")},
		"setuid mode":     {Path: filepath.Join(dir, "s"), Mode: 0o4755},
		"read-only mode":  {Path: filepath.Join(dir, "s"), Mode: 0o444},
		"negative limit":  {Path: filepath.Join(dir, "s"), Limits: Limits{Calls: -1}},
		"negative period": {Path: filepath.Join(dir, "s"), IdleTimeout: -1},
	} {
		if s, err := Listen(t.Context(), cfg); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// stale leaves a socket file behind as a killed process does.
func stale(t *testing.T, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
}

func TestStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	stale(t, path)
	s := serve(t, Config{Path: path}, ok)
	dial(t, s.path).call(t).expectOK(t)
}

func TestWhatIsInTheWayStays(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(t *testing.T, path string){
		"regular file": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"folder": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"link to a stale socket": func(t *testing.T, path string) {
			stale(t, path+".target")
			if err := os.Symlink(path+".target", path); err != nil {
				t.Fatal(err)
			}
		},
		"dangling link": func(t *testing.T, path string) {
			if err := os.Symlink(path+".target", path); err != nil {
				t.Fatal(err)
			}
		},
		"live socket": func(t *testing.T, path string) {
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
		},
		"live datagram socket": func(t *testing.T, path string) {
			conn, err := net.ListenPacket("unixgram", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := socketPath(t)
			put(t, path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Listen(t.Context(), Config{Path: path})
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if strings.HasPrefix(name, "live") != errors.Is(err, ErrInUse) {
				t.Errorf("error %v", err)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("it did not stay: %v", err)
			}
		})
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{}, ok)
	if _, err := Listen(t.Context(), Config{Path: s.path}); !errors.Is(err, ErrInUse) {
		t.Errorf("second server: %v", err)
	}
	dial(t, s.path).call(t).expectOK(t)

	s.stop()
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	again := serve(t, Config{Path: s.path}, ok)
	dial(t, again.path).call(t).expectOK(t)
}

func TestLockIsNoLink(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	if err := os.Symlink(path+".victim", path+".lock"); err != nil {
		t.Fatal(err)
	}
	if s, err := Listen(t.Context(), Config{Path: path}); err == nil {
		s.Close()
		t.Error("followed a link at the lock's name")
	}
	if _, err := os.Lstat(path + ".victim"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made the link's target: %v", err)
	}
}

func TestSocketFileRemovedOnlyIfOurs(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{}, ok)
	s.stop()
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket file is still there: %v", err)
	}

	s = serve(t, Config{}, ok)
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s.stop()
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.path); err != nil {
		t.Errorf("someone else's socket was removed: %v", err)
	}
}

// activatedEnv makes the test binary serve a socket passed to it.
const activatedEnv = "CMKD_TEST_SERVE_ACTIVATED"

func serveActivated() int {
	s, err := Listen(context.Background(), Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv("LISTEN_FDS") != "" {
		fmt.Fprintln(os.Stderr, "LISTEN_FDS is left for children")
		return 1
	}
	if err := s.Serve(context.Background(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s.Addr()) })); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestSystemdActivation(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	cmd := activatedCommand(f)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := dial(t, path).call(t)
	a.expectOK(t)
	if a.body != path {
		t.Errorf("serves %q, want %q", a.body, path)
	}
	cmd.Process.Kill()
	cmd.Wait()
}

func TestSystemdActivationRefusesTCP(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := activatedCommand(f).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "want a Unix stream socket") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = activatedCommand(f, f).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "2 sockets") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestSystemdActivationRefusesMessages(t *testing.T) {
	t.Parallel()
	for kind, want := range map[int]string{
		unix.SOCK_DGRAM:     "ListenDatagram=",
		unix.SOCK_SEQPACKET: "ListenSequentialPacket=",
	} {
		fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: socketPath(t)}); err != nil {
			t.Fatal(err)
		}
		out, err := activatedCommand(f).CombinedOutput()
		f.Close()
		if err == nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "ListenStream=") {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// activatedCommand runs the test binary as systemd would: the shell gives
// LISTEN_PID the pid that the binary will have.
func activatedCommand(files ...*os.File) *exec.Cmd {
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), activatedEnv+"=1", fmt.Sprintf("LISTEN_FDS=%d", len(files)))
	cmd.ExtraFiles = files
	return cmd
}

// TestSocketFileRemoved: the socket file comes back, and open connections stay.
func TestSocketFileRemoved(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(path string) error{
		"file": os.Remove,
		"folder": func(path string) error {
			dir := filepath.Dir(path)
			return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, Config{Mode: 0o600}, ok)
			before := dial(t, s.path)
			before.call(t).expectOK(t)
			if err := remove(s.path); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the socket file", func() bool {
				conn, err := net.Dial("unix", s.path)
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
			if info, err := os.Lstat(s.path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the socket file: %v, %v", info, err)
			}
			dial(t, s.path).call(t).expectOK(t)
			before.call(t).expectOK(t)
			if _, err := Listen(t.Context(), Config{Path: s.path}); !errors.Is(err, ErrInUse) {
				t.Errorf("a second server: %v", err)
			}
		})
	}
}
