// Package rig runs a whole cmkd for a test: a fresh SoftHSM2 token, the real
// plugin processes, the daemon and its socket, and the AWS SDK as the client.
package rig

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cmkd/daemon"
	"cmkd/daemon/store"
	"cmkd/testenv"
	"cmkd/testenv/etcd"
	_ "cmkd/testenv/tokens" // for CMKD_TEST_TOKEN
)

// Account and Region of every rig.
const (
	Account = "123456789012"
	Region  = "us-east-1"
)

// StoreVariable has every rig keep its database in an etcd of its own, if it is "etcd".
const StoreVariable = "CMKD_TEST_STORE"

// Config is what a test asks for. The zero value is a daemon as `cmkctl init`
// configures it.
type Config struct {
	// PlaintextDataKeys is plaintext_data_keys.
	PlaintextDataKeys bool
	// Regions besides Region.
	Regions []string
	// World lets every user reach the socket. Other rigs are for the test's own
	// user, so that nobody on the machine can use them.
	World bool
	// Etcd is the server that has the database, nil: SQLite. StoreExtra is TOML for the
	// table of the store, which may name other endpoints. SQLite keeps StoreVariable from
	// choosing: the test reaches into the file.
	Etcd       *etcd.Server
	StoreExtra string
	SQLite     bool
	// Extra is TOML that goes before the tables, and Tables after them.
	Extra, Tables string
	// SocketExtra is TOML for the table of the socket.
	SocketExtra string
	// Token is the token to use; nil: a fresh one.
	Token *testenv.Token
	// Module and Env replace those of the token: a shim, or a remote module.
	Module string
	Env    map[string]string
	// Now is the daemon's clock, nil the real one.
	Now func() time.Time
	// SegmentBytes is the size of the audit trail's segments, 0 the usual one. A
	// daemon in a process of its own does not know it.
	SegmentBytes int64
	// Process runs cmkd in a process of its own, built as `make build` does,
	// so that it can be killed.
	Process bool
	// Wrap is a command that runs cmkd, which it is given with its arguments, in
	// Process; such as unshare(1).
	Wrap []string
	// Dir is the folder for state and configuration, "" a fresh one.
	Dir string
	// Log takes the daemon's log; nil: the test's, if it fails.
	Log io.Writer
}

// Rig is a running daemon.
type Rig struct {
	Token  *testenv.Token
	Dir    string // state and configuration
	Path   string // of the configuration
	Socket string
	// Daemon is nil if the daemon runs in a process of its own.
	Daemon *daemon.Daemon
	// Process is nil if it does not.
	Process *exec.Cmd

	cfg  Config
	log  *syncBuffer
	stop func() error
}

// New starts a daemon that lives as long as the test.
func New(t testing.TB, cfg Config) *Rig {
	t.Helper()
	r := Prepare(t, cfg)
	r.Initialise(t)
	r.Start(t)
	return r
}

// Prepare writes what a daemon needs, and does not start it.
func Prepare(t testing.TB, cfg Config) *Rig {
	t.Helper()
	if cfg.Token == nil {
		cfg.Token = testenv.NewToken(t)
	}
	if cfg.Etcd == nil && !cfg.SQLite && os.Getenv(StoreVariable) == "etcd" {
		cfg.Etcd = etcd.Start(t)
	}
	r := &Rig{Token: cfg.Token, cfg: cfg, log: &syncBuffer{}}
	dir := cfg.Dir
	if dir == "" {
		dir = Dir(t)
	}
	r.Dir, r.Path, r.Socket = dir, filepath.Join(dir, "config.toml"), filepath.Join(dir, "cmkd.sock")
	if cfg.World {
		if err := os.Chmod(dir, 0o711); err != nil { // what is in it is closed
			t.Fatal(err)
		}
	}
	r.configure(t)
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("stopping cmkd: %v", err)
		}
		if t.Failed() {
			t.Logf("log of cmkd:\n%s", r.log.String())
		}
	})
	return r
}

// Dir makes a folder for a rig, which goes with the test.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cmkd-") // short: socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// configure writes the configuration.
func (r *Rig) configure(t testing.TB) {
	t.Helper()
	module, env := r.Token.Module, map[string]string{}
	for _, pair := range r.Token.Env {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	if r.cfg.Module != "" {
		module = r.cfg.Module
	}
	for k, v := range r.cfg.Env {
		env[k] = v
	}
	text := fmt.Sprintf(`account = %q
region = %q
regions = [%s]
state_dir = %q
plugin_dir = %q
plaintext_data_keys = %t
%s
%s
[socket]
path = %q
mode = "0666"
%s
[[token]]
name = "main"
module = %q
label = %q
pin_file = %q
%s
%s
`, Account, Region, quoted(r.cfg.Regions), filepath.Join(r.Dir, "s"), Binaries(t), r.cfg.PlaintextDataKeys, r.cfg.Extra, r.cfg.store(),
		r.Socket, r.cfg.SocketExtra, module, r.Token.Label, r.Token.PINFile, environment(env, cmp.Or(r.Token.Sandbox, sandboxOf(env))), r.cfg.Tables)
	if err := os.WriteFile(r.Path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// store is the table of the store.
func (cfg *Config) store() string {
	if cfg.Etcd == nil {
		return ""
	}
	text := fmt.Sprintf("[store]\nengine = \"etcd\"\n%s\n", cfg.StoreExtra)
	if !strings.Contains(cfg.StoreExtra, "endpoints =") {
		text += fmt.Sprintf("endpoints = [%q]\n", cfg.Etcd.Endpoint)
	}
	if !strings.Contains(cfg.StoreExtra, "node =") {
		text += "node = \"one\"\n"
	}
	return text
}

func quoted(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(out, ", ")
}

func (r *Rig) logger() *slog.Logger {
	var w io.Writer = r.log
	if r.cfg.Log != nil {
		w = io.MultiWriter(r.log, r.cfg.Log)
	}
	return slog.New(slog.NewJSONHandler(w, nil))
}

// Initialise makes the daemon's own keys, as `cmkd -init` does.
func (r *Rig) Initialise(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		err := r.TryInitialise(t.Context())
		if err == nil {
			return
		}
		if !errors.Is(err, store.ErrBusy) && !errors.Is(err, store.ErrUnwritable) || r.cfg.Etcd == nil || time.Now().After(end) { // of an etcd that is slow, on a machine that is busy
			t.Fatal(err)
		}
	}
}

// TryInitialise is Initialise on a token that may not be good enough.
func (r *Rig) TryInitialise(ctx context.Context) error {
	return daemon.Initialise(ctx, r.Path, r.logger())
}

// Start starts the daemon, again after Stop or Kill.
func (r *Rig) Start(t testing.TB) {
	t.Helper()
	if r.cfg.Process {
		r.startProcess(t)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	d, err := daemon.Open(ctx, r.Path, r.logger(), daemon.WithClock(r.cfg.Now), daemon.WithSegmentBytes(r.cfg.SegmentBytes))
	if err != nil {
		cancel()
		t.Fatalf("opening cmkd: %v", err)
	}
	r.Daemon = d
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- d.Serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		t.Fatalf("serving: %v", err)
	}
	r.stop = func() error {
		cancel()
		return errors.Join(<-ended, d.Close(context.Background()))
	}
}

func (r *Rig) startProcess(t testing.TB) {
	t.Helper()
	if err := r.TryStart(t); err != nil {
		t.Fatal(err)
	}
}

// TryStart is Start of a daemon in a process of its own, which may end instead of serving.
func (r *Rig) TryStart(t testing.TB) error {
	t.Helper()
	args := append(slices.Clone(r.cfg.Wrap), filepath.Join(Binaries(t), "cmkd"), "-config", r.Path)
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...) // it outlives t.Context in Stop
	cmd.Stdout, cmd.Stderr = r.log, r.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	ended := make(chan error, 1)
	go func() { // Pdeathsig follows the thread that starts the process
		runtime.LockOSThread()
		started <- cmd.Start()
		ended <- cmd.Wait()
	}()
	if err := <-started; err != nil {
		t.Fatalf("starting cmkd: %v", err)
	}
	r.Process = cmd
	r.stop = func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		return <-ended
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", r.Socket)
		if err == nil {
			_ = c.Close()
			return nil
		}
		select {
		case err := <-ended:
			r.stop = nil
			return fmt.Errorf("cmkd ended: %w\n%s", err, r.log.String())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("cmkd is not ready after two minutes\n%s", r.log.String())
		}
	}
}

// Kill ends the daemon's process with SIGKILL and waits for its end.
func (r *Rig) Kill() {
	_ = r.Process.Process.Kill()
	if r.stop != nil {
		_ = r.stop()
		r.stop = nil
	}
}

// Stop drains and ends the daemon.
func (r *Rig) Stop() error {
	if r.stop == nil {
		return nil
	}
	stop := r.stop
	r.stop = nil
	return stop()
}

// AuditTrail returns the records of the audit trail so far, as JSON lines.
func (r *Rig) AuditTrail(t testing.TB) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.Dir, "s", "audit", "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no audit trail: %v", err)
	}
	var all strings.Builder
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	return all.String()
}

// syncBuffer is a buffer that the daemon's goroutines share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Log is what the daemon logged so far.
func (r *Rig) Log() string { return r.log.String() }
