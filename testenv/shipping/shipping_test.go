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
