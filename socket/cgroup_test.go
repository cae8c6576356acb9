package socket

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

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
