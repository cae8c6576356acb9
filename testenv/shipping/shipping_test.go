// Package shipping kills a daemon that ships its audit trail, and the receiver, at random
// moments of its work: the trail arrives whole.
package shipping

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// kills is how often both are killed: CMKD_SHIP_KILLS, or 5.
func kills() int {
	if n, err := strconv.Atoi(os.Getenv("CMKD_SHIP_KILLS")); err == nil {
		return n
	}
	return 5
}

func TestKills(t *testing.T) {
	t.Parallel()
	dir := rig.Dir(t)
	out, pids := filepath.Join(dir, "received"), filepath.Join(dir, "receiver.pid")
	// It acknowledges a record when it has it in a file.
	receiver := filepath.Join(dir, "receiver")
	if err := os.WriteFile(receiver, []byte(`#!/bin/sh
echo $$ >`+pids+`
while IFS= read -r line; do
	printf '%s\n' "$line" >>`+out+` || exit 1
	n=${line##*,\"sequence\":}
	echo "${n%%,*}"
done
`), 0o700); err != nil {
		t.Fatal(err)
	}
	r := rig.New(t, rig.Config{Process: true, Tables: "[audit.ship]\nprogram = [\"" + receiver + "\"]\nacknowledges = true\n"})
	var killed int
	for range kills() {
		calls := make(chan struct{})
		var calling sync.WaitGroup
		client := r.Client("")
		for range 2 {
			calling.Go(func() {
				for {
					select {
					case <-calls:
						return
					default:
						client.ListKeys(t.Context(), &kms.ListKeysInput{}) // it fails while there is no daemon
					}
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // the random moment
		if text, err := os.ReadFile(pids); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && ours(pid, receiver) {
				if syscall.Kill(pid, syscall.SIGKILL) == nil {
					killed++
				}
			}
		}
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		r.Kill()
		close(calls)
		calling.Wait()
		r.Start(t)
	}
	var missing int
	for deadline := time.Now().Add(2*time.Minute + time.Duration(kills())*5*time.Second); ; time.Sleep(200 * time.Millisecond) {
		received, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for line := range bytes.Lines(received) {
			have[string(line)] = true
		}
		missing = 0
		all := 0
		for line := range strings.Lines(r.AuditTrail(t)) {
			all++
			if !have[line] {
				missing++
			}
		}
		if missing == 0 && all > 0 {
			t.Logf("%d records, daemon killed %d times, receiver %d times", all, kills(), killed)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d records are missing", missing, all)
		}
	}
}

// ours reports whether the process runs the program.
func ours(pid int, program string) bool {
	text, err := exec.Command("cat", "/proc/"+strconv.Itoa(pid)+"/cmdline").Output()
	return err == nil && bytes.Contains(text, []byte(program))
}

// TestReload: a reload that changes nothing leaves the program alone, and one after its
// file or its arguments have changed restarts it.
func TestReload(t *testing.T) {
	t.Parallel()
	dir := rig.Dir(t)
	starts, receiver := filepath.Join(dir, "starts"), filepath.Join(dir, "receiver")
	script := func(comment string) {
		t.Helper()
		text := "#!/bin/sh\n# " + comment + "\necho $$ >>" + starts + "\nexec cat >/dev/null\n"
		if err := os.WriteFile(receiver+".new", []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(receiver+".new", receiver); err != nil {
			t.Fatal(err)
		}
	}
	script("first")
	r := rig.New(t, rig.Config{Tables: "[audit.ship]\nprogram = [\"" + receiver + "\"]\n"})
	started := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			text, err := os.ReadFile(starts)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			n := bytes.Count(text, []byte("\n"))
			if n == want {
				return
			}
			if n > want || time.Now().After(deadline) {
				t.Fatalf("the program was started %d times, want %d", n, want)
			}
		}
	}
	reload := func() {
		t.Helper()
		if err := r.Daemon.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		// A program is started for the next record.
		if _, err := r.Client("").ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
			t.Fatal(err)
		}
	}
	started(1)
	for range 3 {
		reload()
	}
	script("second")
	reload()
	started(2) // and not five times
	config, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path, []byte(strings.Replace(string(config), receiver+`"]`, receiver+`", "argument"]`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	reload()
	started(3)
	reload()
	started(3)
}
