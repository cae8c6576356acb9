package fair

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/callers"
	"cmkd/testenv/rig"
)

// Users of no system.
const (
	flooder   = 71001
	neighbour = 71002
)

const (
	floodConnections     = 500
	neighbourConnections = 4
)

// flood is what the flooder's connections send.
type flood struct {
	name string
	// socket is TOML for the table of the socket, tables what comes after all.
	socket, tables string
	// request makes the flooder's request in a daemon.
	request func(t *testing.T, r *rig.Rig) []byte
	any     bool // answers are refusals
	slow    bool // a call takes long
}

var floods = []flood{
	{name: "served", request: func(t *testing.T, r *rig.Rig) []byte {
		return encryptRequest(openKey(t, r, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"))
	}},
	{name: "refused", any: true, request: func(t *testing.T, r *rig.Rig) []byte {
		return encryptRequest(rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{}))
	}},
	{name: "throttled", any: true, socket: "max_calls_per_user = 8", request: func(t *testing.T, r *rig.Rig) []byte {
		return encryptRequest(openKey(t, r, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"))
	}},
	{name: "quota", any: true, tables: "[limits]\nrequest_rates = { GenerateRandom = 1.0 }", request: func(*testing.T, *rig.Rig) []byte {
		return rawRequest("GenerateRandom", `{"NumberOfBytes":32}`)
	}},
	{name: "RSA-4096", slow: true, request: func(t *testing.T, r *rig.Rig) []byte {
		id := openKey(t, r, "RSA_4096", "SIGN_VERIFY")
		return rawRequest("Sign", fmt.Sprintf(`{"KeyId":%q,"Message":%q,"MessageType":"DIGEST","SigningAlgorithm":"RSASSA_PKCS1_V1_5_SHA_256"}`,
			id, strings.Repeat("A", 43)+"="))
	}},
}

// openKey makes a key that everybody may use.
func openKey(t *testing.T, r *rig.Rig, spec types.KeySpec, usage types.KeyUsageType) string {
	t.Helper()
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"kms:*","Resource":"*"}]}`
	return rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage, Policy: aws.String(policy)})
}

func encryptRequest(id string) []byte {
	return rawRequest("Encrypt", fmt.Sprintf(`{"KeyId":%q,"Plaintext":"%s="}`, id, strings.Repeat("A", 43)))
}

func rawRequest(operation, body string) []byte {
	return fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"+
		"X-Amz-Target: TrentService.%s\r\nContent-Length: %d\r\n\r\n%s", operation, len(body), body)
}

// floodProcess is a process that makes calls as a user.
type floodProcess struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

func startCallers(t *testing.T, socket string, uid, connections int, request []byte, args ...string) *floodProcess {
	t.Helper()
	args = append([]string{"-socket", socket, "-uid", strconv.Itoa(uid), "-callers", strconv.Itoa(connections)}, args...)
	c := &floodProcess{cmd: exec.CommandContext(t.Context(), filepath.Join(rig.Binaries(t), "flood"), args...)}
	c.cmd.Stdin, c.cmd.Stderr = bytes.NewReader(request), os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// flooding waits until every connection has had an answer.
func (c *floodProcess) flooding(t *testing.T) {
	t.Helper()
	if line, err := c.out.ReadString('\n'); err != nil {
		t.Fatalf("the flood says %q: %v", line, err)
	}
}

// result waits for the end.
func (c *floodProcess) result(t *testing.T) callers.Result {
	t.Helper()
	text, err := io.ReadAll(c.out)
	if err := c.cmd.Wait(); err != nil {
		t.Fatalf("flood: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var r callers.Result
	if err != nil || json.Unmarshal([]byte(lines[len(lines)-1]), &r) != nil {
		t.Fatalf("flood says %q, %v", text, err)
	}
	return r
}

func (c *floodProcess) stop(t *testing.T) callers.Result {
	t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	return c.result(t)
}

// fairness is how TestFair measures.
type fairness struct {
	window         time.Duration
	pairs, atLeast int     // of measurements: as many as it takes, but at least
	keep           float64 // of the calls beside a flood elsewhere
	slowest        bool    // the slowest status counts, else their median
	rsaConnections int
}

// quick is for every run of the tests, on machines that have other work: before
// there were turns, a quarter was left.
var quick = fairness{window: 300 * time.Millisecond, pairs: 12, atLeast: 3, keep: 0.5, rsaConnections: 100}

// thorough is for `make fair`, on a machine that has nothing else to do.
var thorough = fairness{window: 2 * time.Second, pairs: 8, atLeast: 8, keep: 0.8, slowest: true, rsaConnections: floodConnections}

// maxStatus is how long root waits for the status in a flood.
const maxStatus = time.Second

// TestFair floods a daemon as one user and measures what is left of another's
// calls, against what is left of them beside the same flood of another daemon on
// this machine, in turns. All the while root asks for the status.
func TestFair(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: this test acts as other users")
		return
	}
	how := quick
	if os.Getenv("CMKD_FAIR") != "" {
		how = thorough
	}
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) { how.test(t, &f) })
	}
}

func (how *fairness) test(t *testing.T, f *flood) {
	cfg := rig.Config{World: true, Process: true, SocketExtra: f.socket, Tables: f.tables}
	here, there := rig.New(t, cfg), rig.New(t, cfg)
	calls := encryptRequest(openKey(t, here, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"))
	requests := map[*rig.Rig][]byte{here: f.request(t, here), there: f.request(t, there)}
	var statuses []time.Duration
	measure := func(flooded *rig.Rig) float64 {
		t.Helper()
		args := []string{}
		if f.any {
			args = append(args, "-any")
		}
		connections := floodConnections
		if f.slow {
			connections = how.rsaConnections
		}
		flooding := startCallers(t, flooded.Socket, flooder, connections, requests[flooded], args...)
		flooding.flooding(t)
		stop := pollStatus(t, here)
		r := startCallers(t, here.Socket, neighbour, neighbourConnections, calls, "-for", how.window.String()).result(t)
		took := stop()
		if flooded == here {
			statuses = append(statuses, took...)
		}
		flooding.stop(t)
		return float64(r.Calls) / r.Took.Seconds()
	}
	var ratios []float64
	for len(ratios) < how.atLeast || len(ratios) < how.pairs && median(ratios) < how.keep {
		beside := measure(there)
		ratios = append(ratios, measure(here)/beside)
	}
	slices.Sort(statuses)
	slow := statuses[len(statuses)/2]
	if how.slowest {
		slow = statuses[len(statuses)-1]
	}
	t.Logf("beside a flood elsewhere 1, in the flood %.2f (median of %.2f); status within %v", median(ratios), ratios, slow)
	if median(ratios) < how.keep {
		t.Errorf("the flood leaves %.2f of what the same flood of another daemon leaves, want %.2f", median(ratios), how.keep)
	}
	if slow > maxStatus {
		t.Errorf("root waits %v for the status, want at most %v", slow, maxStatus)
	}
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// pollStatus asks for the status again and again, each time on a connection of its
// own, until it is stopped. It returns how long each answer took.
func pollStatus(t *testing.T, r *rig.Rig) (stop func() []time.Duration) {
	t.Helper()
	var took []time.Duration
	var polling sync.WaitGroup
	ended := make(chan struct{})
	polling.Go(func() {
		for {
			began := time.Now()
			if s := r.Status(t); s.State != "ok" {
				t.Errorf("status %q", s.State)
			}
			took = append(took, time.Since(began))
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return func() []time.Duration { close(ended); polling.Wait(); return took }
}

// TestIdleConnections has two users hold every connection there is: neither root
// nor a newcomer, nor they themselves, are kept out.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not root: this test acts as other users")
		return
	}
	r := rig.New(t, rig.Config{World: true, SocketExtra: "max_connections = 96\nreserve = 4"})
	for _, uid := range []uint32{flooder, flooder + 10} {
		for range 48 {
			c, err := r.DialAs(rig.User{UID: uid, GID: uid})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
	}
	for range 10 {
		if s := r.Status(t); s.State != "ok" {
			t.Errorf("status %q", s.State)
		}
	}
	for _, uid := range []uint32{neighbour, flooder} {
		c := r.As(t, rig.User{UID: uid, GID: uid})
		deadline := time.Now().Add(time.Minute)
		for {
			_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
			if err == nil || rig.Code(err) == "AccessDeniedException" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("user %d is kept out: %v", uid, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}
