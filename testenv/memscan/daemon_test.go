package memscan_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
	"cmkd/testenv/memscan"
	"cmkd/testenv/rig"
)

// processes are the daemon and its plugins, by name.
func processes(t *testing.T, r *rig.Rig) map[string]int {
	t.Helper()
	all := map[string]int{"cmkd": r.Process.Process.Pid}
	for _, p := range r.Status(t).Plugins {
		all[p.Name] = p.PID
	}
	if len(all) != 4 {
		t.Fatalf("the processes are %v", all)
	}
	return all
}

// TestNothingStays makes calls of each kind, and looks for what they had secret in the
// memory of the daemon and of the plugins one second later.
func TestNothingStays(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test reads the memory of processes that close it to others, so it must run as root")
	}
	inPlugins := random(64)
	r := rig.New(t, rig.Config{Process: true, PlaintextDataKeys: true, Env: map[string]string{"CMKD_TEST_HELD": hex.EncodeToString(inPlugins)}})
	c := newCaller(t, r.Client(""))
	n, few := 20, 6
	if os.Getenv("CMKD_LONG") != "" {
		n, few = 200, 20
	}
	c.runAll(n, few)
	if t.Failed() {
		return
	}
	// The control: what the processes have reason to hold is found. A key's
	// description is in the daemon's snapshot of its rows.
	inDaemon := random(64)
	c.create(&kms.CreateKeyInput{Description: aws.String(hex.EncodeToString(inDaemon))})
	c.secret("held by the daemon", inDaemon)
	c.secret("held by the plugins", inPlugins)
	c.secrets.AddShort("the PIN", []byte(r.Token.PIN))

	time.Sleep(time.Second) // what is promised
	pids := processes(t, r)
	t.Logf("%d secrets", c.secrets.Len())
	for _, name := range slices.Sorted(maps.Keys(pids)) {
		hits, err := c.secrets.Search(pids[name])
		if err != nil {
			t.Fatal(err)
		}
		libc := libraryAt(t, pids[name])
		held := "held by the plugins"
		if name == "cmkd" {
			held = "held by the daemon"
		}
		if !slices.ContainsFunc(hits, func(h memscan.Hit) bool { return h.Secret == held }) {
			t.Errorf("%s: what it holds is not found", name)
		}
		hits = slices.DeleteFunc(hits, func(h memscan.Hit) bool { return strings.HasPrefix(h.Secret, "held by ") || ofModule(name, h, libc) })
		report(t, name, hits)
	}
}

// ofModule reports whether a hit is what SECURITY.md says of SoftHSM2: it, or OpenSSL,
// frees a PKCS #8 form of private keys that are imported or made for data key pairs
// without overwriting it. That is memory of the C library, which the kernel maps beside
// the library itself, wherever that is this time: Go's is elsewhere.
func ofModule(process string, h memscan.Hit, libc uint64) bool {
	ofKind := process == "asymmetric" && strings.HasPrefix(h.Secret, "ImportKeyMaterial, private keys") ||
		process == "symmetric" && strings.HasPrefix(h.Secret, "GenerateDataKeyPair") // RSA, too
	return ofKind && h.Form == memscan.Raw && (libc != 0 && max(h.Address, libc)-min(h.Address, libc) < besideLibrary || h.Mapping == "[heap]")
}

// besideLibrary is how far from the C library its memory is at most: 64 GiB, of the
// terabyte in which the kernel chooses a place for both.
const besideLibrary = 1 << 36

// libraryAt is where a process has the C library, 0 if it has none.
func libraryAt(t *testing.T, pid int) (address uint64) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "/libc.so") {
			if _, err := fmt.Sscanf(line, "%x-", &address); err != nil {
				t.Fatal(err)
			}
			return address
		}
	}
	return 0
}

// TestMemoryIsClosed runs the daemon as another user than root: neither it nor a plugin is
// dumpable, which shows in whom the kernel gives its files in /proc to (proc(5)).
func TestMemoryIsClosed(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	token := testenv.NewToken(t)
	r := rig.New(t, rig.Config{Process: true, Token: token, Wrap: []string{"sh", "-ec", fmt.Sprintf(
		`chown -R %d:%[1]d "$(dirname "$3")" "$(dirname %s)"; exec setpriv --reuid %[1]d --regid %[1]d --clear-groups "$@"`, nobody, token.ConfFile), "sh"}})
	for name, pid := range processes(t, r) {
		for _, file := range []string{"status", "mem", "environ"} {
			info, err := os.Stat(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil {
				t.Fatal(err)
			}
			if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
				t.Errorf("%s: /proc/PID/%s is uid %d's", name, file, uid)
			}
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", nobody)) {
			t.Errorf("%s runs as another user:\n%s", name, status)
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			t.Fatal(err)
		}
		settings := "GODEBUG=asyncpreemptoff=1"
		if name != "cmkd" {
			settings += ",gcshrinkstackoff=1"
		}
		if !strings.Contains(string(environ), settings+"\x00") {
			t.Errorf("%s gets signals of the Go runtime, or its stacks move: its environment is %q, want %s in it", name, environ, settings)
		}
	}
}

// TestClientsMemoryIsClosed does the same with cmkctl, which waits for its input.
func TestClientsMemoryIsClosed(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	dir, err := os.MkdirTemp("", "memscan")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	pipe := filepath.Join(dir, "pipe")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Chown(pipe, nobody, nobody), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(rig.Binaries(t), "cmkctl"), "inspect", pipe)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) { // polls: it closes its memory first
		info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid))
		if err == nil && info.Sys().(*syscall.Stat_t).Uid == 0 {
			break
		}
		if err != nil || time.Since(begun) > time.Minute {
			t.Fatalf("the memory of cmkctl stays open to its user's processes: %v", err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", nobody)) {
		t.Errorf("cmkctl runs as another user, or has ended: %v\n%s", err, status)
	}
}

// report fails for hits, by secret and form.
func report(t *testing.T, process string, hits []memscan.Hit) {
	t.Helper()
	counts, first := map[string]int{}, map[string]memscan.Hit{}
	for _, h := range hits {
		of := fmt.Sprintf("%s, %s", h.Secret, h.Form)
		if counts[of]++; counts[of] == 1 {
			first[of] = h
		}
	}
	for _, of := range slices.Sorted(maps.Keys(counts)) {
		t.Errorf("%s: %d pieces of %s, the first at %#x in %s", process, counts[of], of, first[of].Address, first[of].Mapping)
	}
}
