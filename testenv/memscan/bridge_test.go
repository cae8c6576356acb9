package memscan_test

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/memscan"
	"cmkd/testenv/rig"
)

// startBridge starts a bridge as a process of its own, and returns its process ID and a
// client that calls through it.
func startBridge(t *testing.T, r *rig.Rig, env ...string) (int, *kms.Client) {
	t.Helper()
	cmd := exec.Command(filepath.Join(rig.Binaries(t), "cmkctl"), "bridge", "--socket", r.Socket)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the bridge: %v", err)
		}
	})
	vars := map[string]string{}
	for lines := bufio.NewScanner(out); lines.Scan() && !strings.HasPrefix(lines.Text(), "unset "); {
		name, value, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		vars[name] = value
	}
	if vars["AWS_ENDPOINT_URL_KMS"] == "" {
		t.Fatal("the bridge names no endpoint")
	}
	return cmd.Process.Pid, kms.New(kms.Options{
		BaseEndpoint: aws.String(vars["AWS_ENDPOINT_URL_KMS"]),
		Region:       vars["AWS_REGION"],
		Credentials:  credentials.NewStaticCredentialsProvider(vars["AWS_ACCESS_KEY_ID"], vars["AWS_SECRET_ACCESS_KEY"], ""),
	})
}

// TestNothingStaysInABridge makes calls of each kind through a bridge, and looks for what they had
// secret in its memory one second later.
func TestNothingStaysInABridge(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test reads the memory of processes that close it to others, so it must run as root")
	}
	r := rig.New(t, rig.Config{Process: true, PlaintextDataKeys: true})
	held := random(64)
	pid, client := startBridge(t, r, "CMKD_TEST_HELD="+hex.EncodeToString(held))
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || !strings.Contains(string(environ), "\x00GODEBUG=asyncpreemptoff=1\x00") {
		t.Errorf("the bridge gets signals of the Go runtime: its environment is %q, %v", environ, err)
	}
	c := newCaller(t, client)
	n, few := 12, 2
	if os.Getenv("CMKD_LONG") != "" {
		n, few = 200, 20
	}
	c.runAll(n, few)
	if t.Failed() {
		return
	}
	c.secret("held by the bridge", held) // the control: it is found
	time.Sleep(time.Second)              // what is promised
	t.Logf("%d secrets", c.secrets.Len())
	hits, err := c.secrets.Search(pid)
	if err != nil {
		t.Fatal(err)
	}
	isControl := func(h memscan.Hit) bool { return h.Secret == "held by the bridge" }
	if !slices.ContainsFunc(hits, isControl) {
		t.Error("what it holds is not found")
	}
	report(t, "bridge", slices.DeleteFunc(hits, isControl))
}
