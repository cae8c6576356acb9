package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cmkd/socket"
	"cmkd/testenv/trails"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cmkctl": main})
}

// TestScripts runs cmkctl against a service that answers from a table.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"serve":   serve,
			"silent":  silent,
			"trail":   writeTrail,
			"waitfor": waitFor,
		},
	})
}

// TestDaemonScripts runs cmkctl with the real daemon, its plugins and a
// SoftHSM2 token.
func TestDaemonScripts(t *testing.T) {
	t.Parallel()
	bin := buildDaemon(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/daemon",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			return setupScript(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "waitfor": waitFor},
	})
}

// buildDaemon builds cmkd and its plugins as make does.
func buildDaemon(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{
		"cmkd":            "cmkd/daemon/cmd/cmkd",
		"cmkd-symmetric":  "cmkd/plugins/symmetric",
		"cmkd-asymmetric": "cmkd/plugins/asymmetric",
		"cmkd-hmac":       "cmkd/plugins/hmac",
	} {
		out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("building %s: %v\n%s", pkg, err, out)
		}
	}
	return dir
}

// setupScript gives a script a short temporary folder, for sockets have short
// names, and nothing of the AWS configuration of whoever runs the test.
func setupScript(env *testscript.Env) error {
	tmp, err := os.MkdirTemp("", "cmkctl")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(tmp) })
	env.Setenv("TMPDIR", tmp)
	// Some installations of the AWS CLI find themselves by HOME.
	env.Setenv("HOME", os.Getenv("HOME"))
	env.Setenv("AWS_CONFIG_FILE", filepath.Join(tmp, "none"))
	env.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(tmp, "none"))
	env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	env.Setenv("AWS_PAGER", "")
	return nil
}

// serve [STATUS]: starts the service and sets CMKD_SOCKET. STATUS is a file
// with what it answers to GET /status.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: serve [status.json]")
	}
	status := ""
	if len(args) == 1 {
		status = ts.ReadFile(args[0])
	}
	path := filepath.Join(ts.Getenv("TMPDIR"), "cmkd.sock")
	stop, err := startService(path, status)
	ts.Check(err)
	ts.Defer(func() { ts.Check(stop()) })
	ts.Setenv("CMKD_SOCKET", path)
}

// trail FOLDER RECORDS: writes an audit trail, and the public key of its checkpoints to
// audit-key-test.pem beside it.
func writeTrail(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: trail folder records")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	ts.Check(trails.Write(trails.Config{
		Dir: dir, Records: n, SegmentBytes: 256 << 10, KeyFile: filepath.Join(filepath.Dir(dir), "audit-key-test.pem"),
	}))
}

// silent: listens where nobody answers and sets CMKD_SOCKET.
func silent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: silent")
	}
	path := filepath.Join(ts.Getenv("TMPDIR"), "silent")
	ln, err := net.Listen("unix", path)
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv("CMKD_SOCKET", path)
}

// exits STATUS COMMAND...: runs the command, which ends with the exit status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits status command [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	status := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Check(err)
		}
		status = exit.ExitCode()
	}
	if status != want {
		ts.Fatalf("%s: exit status %d, want %d", strings.Join(args[1:], " "), status, want)
	}
}

// [!] waitfor FILE or COMMAND...: waits until the file is there or the command
// succeeds, or with ! the opposite.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	done := func() bool {
		if len(args) > 1 {
			return ts.Exec(args[0], args[1:]...) == nil
		}
		_, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil
	}
	for deadline := time.Now().Add(time.Minute); done() == neg; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain")
		}
	}
}

// startService serves an answer to each call that tells what arrived.
func startService(path, status string) (stop func() error, err error) {
	srv, err := socket.Listen(context.Background(), socket.Config{Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		if !strings.HasPrefix(status, "{") {
			http.Error(w, status, http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if !strings.Contains(status, `"state": "ok"`) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, status)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "only admins may", http.StatusForbidden)
	})
	mux.HandleFunc("POST /", answerCall)
	mux.HandleFunc("POST /accept-state", answerAcceptState)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, mux) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-served
	}), nil
}

// answerAcceptState has a database to accept, with the root abcd.
func answerAcceptState(w http.ResponseWriter, r *http.Request) {
	var in struct{ Root string }
	json.NewDecoder(r.Body).Decode(&in)
	switch in.Root {
	case "":
		io.WriteString(w, `{"mismatch": {"reason": "rows were changed", "root": "abcd", "sequence": 7, "time": "2026-01-02T03:04:05Z",
			"epoch": 3, "headVerified": true, "laterRecords": 2, "exact": true,
			"differences": [{"table": "keys", "row": "[\"us-east-1\",\"k\"]", "change": "changed"}]}}`)
	case "abcd":
		io.WriteString(w, `{"accepted": true}`)
	default:
		http.Error(w, "the database is not the one that was looked at: look again", http.StatusConflict)
	}
}

// answerCall answers ListAliases with what arrived, dressed as an alias, and
// everything else with an error.
func answerCall(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "00000000-0000-4000-8000-000000000000")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	peer, _ := socket.PeerFrom(r.Context())
	region := strings.Split(r.Header.Get("Authorization")+"////", "/")[2]
	switch target := r.Header.Get("X-Amz-Target"); target {
	case "TrentService.ListAliases":
		json.NewEncoder(w).Encode(map[string]any{
			"Aliases": []map[string]string{{
				"AliasName":   "alias/" + region,
				"TargetKeyId": fmt.Sprintf("uid %d host %s", peer.UID, r.Host),
				"AliasArn":    string(body),
			}},
			"Truncated": false,
		})
	case "TrentService.Decrypt":
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"__type":"InvalidCiphertextException"}`)
	default:
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"__type": "AccessDeniedException", "Message": "You may not call " + target})
	}
}
