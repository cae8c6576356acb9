package socket

import (
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cmkd/testenv"
)

func TestSystemdCgroup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{"0::/system.slice/web.service\n", "/system.slice/web.service"},
		{"9:name=systemd:/system.slice/web.service\n4:memory:/other\n0::/\n", "/system.slice/web.service"},
		{"0::/a\n9:name=systemd:/b\n", "/b"},
		{"4:memory:/other\n", ""},
		{"0::/with:colon.service\n", "/with:colon.service"},
		{"nonsense", ""},
		{"", ""},
	} {
		if got := systemdCgroup(tt.text); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}

// TestPeerCgroup: the group is that of the process that connected.
func TestPeerCgroup(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := PeerFrom(r.Context())
		_, _ = w.Write([]byte(peer.Cgroup))
	}))
	curl := func(prefix ...string) string {
		t.Helper()
		args := append(prefix, "curl", "-s", "--unix-socket", srv.path, "http://localhost/")
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl: %v\n%s", err, out)
		}
		return string(out)
	}
	if got, want := curl(), systemdCgroup(string(raw)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	dir, ok := testenv.Cgroup(t, "cmkd-socket-test-"+strconv.Itoa(os.Getpid())+".service")
	if !ok {
		t.Log("no control group can be made here: only the test's own was looked at")
		return
	}
	// The shell moves into the group before it becomes curl.
	script := `echo $$ > "$0/cgroup.procs" && exec "$@"`
	want := "/" + filepath.Base(dir)
	if got := curl("sh", "-c", script, dir); !strings.HasSuffix(got, want) {
		t.Errorf("from the group %s: %q", want, got)
	}
}

// TestPeerCgroupUnprivileged: a daemon without capabilities knows the group of
// another user's process as well.
func TestPeerCgroupUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test acts as other users, so it must run as root")
	}
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	curl := exec.Command("curl", "-s", "--unix-socket", l.Addr().String(), "http://localhost/")
	if err := curl.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := asUser(61050, func() (*Peer, error) { return readPeer(conn) })
	if want := systemdCgroup(string(raw)); err != nil || peer.UID != 0 || peer.Cgroup != want {
		t.Errorf("a process of root's is %+v, %v; want the group %q", peer, err, want)
	}
	if err := curl.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = curl.Wait() // it was killed
	peer, err = asUser(61050, func() (*Peer, error) { return readPeer(conn) })
	if err != nil || peer.Cgroup != "" {
		t.Errorf("a process that has ended is %+v, %v; want no group", peer, err)
	}
}

// asUser runs do on a thread of the user's, without capabilities. The thread ends
// with its goroutine, which never unlocks it.
func asUser(uid uintptr, do func() (*Peer, error)) (*Peer, error) {
	type result struct {
		peer *Peer
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			done <- result{err: errors.New(errno.Error())}
			return
		}
		peer, err := do()
		done <- result{peer, err}
	}()
	got := <-done
	return got.peer, got.err
}
