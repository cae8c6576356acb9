package faults

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	_ "modernc.org/sqlite" // the driver of the daemon's database

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// house is a daemon with its load. Its main token is behind a shim; the
// bystander's token is not, and has plugin processes of its own.
type house struct {
	rig    *rig.Rig
	token  *testenv.Token
	shim   *shim.Control
	load   *load
	client *kms.Client
	watch  *watch
	setup
	logged int  // bytes of the log that were looked at
	lost   bool // it does not come back
}

// setup is how a daemon runs.
type setup struct {
	rig.Config
	disk  *disk  // of the state or the trail, if one of them has its own
	state string // the state folder, as the test sees it
	trail string // the folder of the trail, as the test sees it
	clock *clock // nil: the real one, and a process of its own
}

// plain is a daemon like any.
func plain(t *testing.T) setup {
	t.Helper()
	dir := rig.Dir(t)
	return setup{Config: rig.Config{Dir: dir}, state: filepath.Join(dir, "s"), trail: filepath.Join(dir, "s", "audit")}
}

// newHouse starts a daemon and its load.
func newHouse(t *testing.T, set setup) *house {
	t.Helper()
	h := &house{token: testenv.NewToken(t), setup: set}
	cfg := set.Config
	m := shim.New(t, h.token.Module)
	h.shim = m.Control
	second := testenv.NewTokenLabelled(t, "second")
	cfg.PlaintextDataKeys = true
	cfg.Token, cfg.Module, cfg.Env = h.token, m.Path, variables(m.Env)
	cfg.Tables += fmt.Sprintf("[[token]]\nname = \"second\"\ncluster_id = \"cluster-a2b3c4d5e6f\"\nmodule = %q\nlabel = %q\npin_file = %q\n%s",
		second.Module, second.Label, second.PINFile, rig.Environment(variables(second.Env)))
	if set.clock == nil {
		cfg.Process = true
	} else {
		cfg.Now = set.clock.Now
	}
	h.rig = rig.New(t, cfg)
	h.client = h.rig.Client("")
	h.load = newLoad(t, h.rig, h.store(t))
	h.watch = newWatch(t, h.rig)
	h.load.start(t)
	return h
}

// store makes the custom key store of the bystander.
func (h *house) store(t *testing.T) string {
	t.Helper()
	made, err := h.client.CreateCustomKeyStore(t.Context(), &kms.CreateCustomKeyStoreInput{
		CustomKeyStoreName: aws.String("second"), CloudHsmClusterId: aws.String("cluster-a2b3c4d5e6f"),
		TrustAnchorCertificate: aws.String("-----BEGIN CERTIFICATE-----"), KeyStorePassword: aws.String("kmsPswd1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.ConnectCustomKeyStore(t.Context(), &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: made.CustomKeyStoreId}); err != nil {
		t.Fatal(err)
	}
	return *made.CustomKeyStoreId
}

func variables(env []string) map[string]string {
	m := map[string]string{}
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		m[k] = v
	}
	return m
}

// get asks the daemon with GET, "" if there is no answer.
func get(ctx context.Context, c *http.Client, path string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return ""
	}
	resp, err := c.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(raw)
}

// post asks an endpoint for operators.
func (h *house) post(t *testing.T, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	c := h.rig.HTTP()
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
	return resp.StatusCode, string(raw)
}

// watch asks for status and metrics all the time, as monitoring would, and keeps
// what it saw.
type watch struct {
	mu       sync.Mutex        // guards what follows
	statuses map[string]string // compact, by what does not change all the time
	state    string
	at       time.Time // when the last one was asked for
	metrics  map[string]bool
}

// fleeting are the members of the status that are another every time.
var fleeting = regexp.MustCompile(`"(uptimeSeconds|auditRecords|inFlight|sessions|pid|freeBytes|since|keys)":("[^"]*"|[0-9]+),?`)

// facts are what plugins say of tokens.
var facts = regexp.MustCompile(`,"(facts|unsupported)":\{[^}]*\}`)

func newWatch(t *testing.T, r *rig.Rig) *watch {
	w := &watch{}
	w.reset()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		c := r.HTTP()
		defer c.CloseIdleConnections()
		for ctx.Err() == nil {
			w.look(ctx, c)
			select { // a monitor's interval
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

// look asks once.
func (w *watch) look(ctx context.Context, c *http.Client) {
	at := time.Now()
	var compact bytes.Buffer
	status := struct{ State string }{"no answer"}
	raw := get(ctx, c, "/status")
	if json.Unmarshal([]byte(raw), &status) == nil {
		_ = json.Compact(&compact, []byte(raw)) // it has just been parsed
	}
	metrics := get(ctx, c, "/metrics")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state, w.at = status.State, at
	w.statuses[fleeting.ReplaceAllString(facts.ReplaceAllString(compact.String(), ""), "")] = status.State
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "cmkd_") {
			w.metrics[strings.TrimSpace(line)] = true
		}
	}
}

// reset forgets what was seen.
func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.statuses, w.metrics = map[string]string{}, map[string]bool{}
}

// sawStatus reports whether a status that is not ok had a text.
func (w *watch) sawStatus(text *regexp.Regexp) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s, state := range w.statuses {
		if state != "ok" && text.MatchString(s) {
			return true
		}
	}
	return false
}

// sawMetric reports whether there was a line of the metrics.
func (w *watch) sawMetric(line *regexp.Regexp) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.metrics {
		if line.MatchString(l) {
			return true
		}
	}
	return false
}

// okSince reports whether the last status is ok and was asked for after at.
func (w *watch) okSince(at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state == "ok" && w.at.After(at)
}

// all is what was seen of the status, for a test that fails.
func (w *watch) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	n := 0
	for s, state := range w.statuses {
		if n++; n <= 2 {
			fmt.Fprintf(&b, "  %s: %.2500s\n", state, s)
		}
	}
	return b.String()
}

// inventory is the answer to POST /recover.
type inventory struct {
	Away, Missing, Found, Leftovers []any
}

// leftovers says what the token has and the database does not know, and the
// other way round.
func (h *house) leftovers(t *testing.T) string {
	t.Helper()
	status, body := h.post(t, "/recover", "{}")
	var inv inventory
	if err := json.Unmarshal([]byte(body), &inv); err != nil || status != http.StatusOK {
		return fmt.Sprintf("POST /recover: %d %s", status, body)
	}
	if len(inv.Away)+len(inv.Missing)+len(inv.Found)+len(inv.Leftovers) > 0 {
		return body
	}
	return ""
}

// unrecorded returns calls that were answered and have no record in the trail.
func (h *house) unrecorded(t *testing.T, calls []call) (missing []string) {
	t.Helper()
	recorded := map[string]bool{}
	for _, f := range segments(t, h.trail) {
		for _, m := range requestIDs.FindAllSubmatch(read(t, f), -1) {
			recorded[string(m[1])] = true
		}
	}
	for _, c := range calls {
		if c.status == http.StatusOK && !recorded[c.request] {
			missing = append(missing, c.operation+" "+c.request)
		}
	}
	return missing
}

var requestIDs = regexp.MustCompile(`"requestID":"([^"]+)"`)

// leaks says which secrets are in the log since the last time that somebody
// looked.
func (h *house) leaks() (found []string) {
	log := h.rig.Log()
	text := log[h.logged:]
	h.logged = len(log)
	for _, s := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))[:18], hex.EncodeToString([]byte(secret)), h.token.PIN} {
		if strings.Contains(text, s) {
			found = append(found, s)
		}
	}
	if strings.Contains(text, "panic") {
		found = append(found, "a panic")
	}
	return found
}

// plugin is the process that serves a plugin of the main token.
func (h *house) plugin(t *testing.T, name string) int {
	t.Helper()
	for {
		for _, p := range h.rig.Status(t).Plugins {
			if p.Name == name && p.Token == "main" && p.PID != 0 {
				return p.PID
			}
		}
		time.Sleep(5 * time.Millisecond) // polls the status
	}
}

// segments are the files of a trail.
func segments(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no audit trail in %s: %v", folder, err)
	}
	return files
}

func (h *house) database() string { return filepath.Join(h.state, "cmkd.db") }

// open opens the database beside the daemon.
func (h *house) open(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", h.database())
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// write replaces a file.
func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
