package plugins_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/backends"
	"cmkd/plugins"
)

// shortDir is t.TempDir with a path short enough for sockets.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "cmkd")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// spec describes this test binary as a plugin.
func spec(tb testing.TB, settings map[string]string) plugins.Spec {
	tb.Helper()
	path, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return plugins.Spec{
		Name: "test/memory", Path: path,
		Env: map[string]string{modeEnv: "plugin"},
		Config: plugins.Config{
			Module: "none", TokenLabel: "one", Workers: 1, Settings: settings,
			Sandbox: plugins.Sandbox{Off: true}, // the backend writes where a test says
		},
		Dir:    shortDir(tb),
		Logger: slog.New(slog.DiscardHandler),
		// The machine may be busy with other tests; only the tests of hangs
		// want it shorter.
		WaitTimeout: time.Minute,
	}
}

// start starts the plugin and waits until it serves.
func start(tb testing.TB, s plugins.Spec) *plugins.Host {
	tb.Helper()
	h := launch(tb, s)
	if err := h.Wait(tb.Context()); err != nil {
		tb.Fatalf("plugin does not serve: %v", err)
	}
	return h
}

// launch starts the plugin and closes it at the end of the test.
func launch(tb testing.TB, s plugins.Spec) *plugins.Host {
	tb.Helper()
	h, err := plugins.Start(tb.Context(), s)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			tb.Error(err)
		}
		entries, err := os.ReadDir(s.Dir)
		if err != nil || len(entries) != 0 {
			tb.Errorf("after Close the directory holds %v, %v", entries, err)
		}
	})
	return h
}

func encryptRequest(order, plaintext string) *backends.EncryptRequest {
	return &backends.EncryptRequest{
		Key:       backends.Key{ID: backends.KeyID{1, 2, 3}, Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt},
		Algorithm: "SYMMETRIC_DEFAULT",
		Plaintext: []byte(plaintext),
		AAD:       []byte(order),
	}
}

// mustEncrypt makes a call that must be answered.
func mustEncrypt(tb testing.TB, h *plugins.Host, order string) {
	tb.Helper()
	out, err := h.Encrypt(tb.Context(), encryptRequest(order, "plaintext"))
	if err != nil {
		tb.Fatalf("Encrypt with order %q: %v", order, err)
	}
	if got := string(out.Sealed.Ciphertext); got != "plaintext" {
		tb.Fatalf("Encrypt with order %q returned %q", order, got)
	}
}

func TestCallsAndErrors(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, map[string]string{"keys": "20000"}))
	ctx := t.Context()

	big := strings.Repeat("x", 128<<10) // more than a buffer
	out, err := h.Encrypt(ctx, encryptRequest("", big))
	if err != nil || string(out.Sealed.Ciphertext) != big {
		t.Errorf("128 KiB: %v", err)
	}
	list, err := h.ListKeys(ctx, &backends.ListKeysRequest{})
	if err != nil || len(list.Objects) != 20000 || list.Objects[19999].Label != "cmkd:19999:1" {
		t.Errorf("ListKeys: %d objects, %v", len(list.Objects), err)
	}
	key := backends.Key{ID: backends.KeyID{7}}
	if a, err := h.CreateKey(ctx, &backends.CreateKeyRequest{Key: key}); err != nil || a.Existed {
		t.Errorf("CreateKey: %+v, %v", a, err)
	}
	if a, err := h.CreateKey(ctx, &backends.CreateKeyRequest{Key: key}); err != nil || !a.Existed {
		t.Errorf("CreateKey again: %+v, %v", a, err)
	}

	for _, c := range []struct {
		name string
		call func() error
		want backends.Error
	}{
		{
			"typed", func() error { _, err := h.CheckKey(ctx, &backends.CheckKeyRequest{}); return err },
			backends.Error{Code: backends.KeyMissing, Message: "no key 00000000000000000000000000000000", RV: 0x82},
		},
		{
			"wrapped", func() error { _, err := h.Decrypt(ctx, &backends.DecryptRequest{}); return err },
			backends.Error{Code: backends.InvalidCiphertext, Message: "bad tag", RV: 5},
		},
		{
			"untyped", func() error { _, err := h.Encrypt(ctx, encryptRequest("error", "")); return err },
			backends.Error{Code: backends.Internal, Message: "the backend failed without saying how"},
		},
		{
			"not implemented", func() error { _, err := h.Sign(ctx, &backends.SignRequest{}); return err },
			backends.Error{Code: backends.Unsupported, Message: "this plugin does not do Sign"},
		},
		{
			"panic", func() error { _, err := h.Encrypt(ctx, encryptRequest("panic", "")); return err },
			backends.Error{Code: backends.Internal, Message: "Encrypt panicked in the backend"},
		},
		{
			"nil pointer", func() error { _, err := h.Encrypt(ctx, encryptRequest("nil", "")); return err },
			backends.Error{Code: backends.Internal, Message: "Encrypt panicked in the backend"},
		},
	} {
		err := c.call()
		if got, ok := errors.AsType[*backends.Error](err); !ok || *got != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, &c.want)
		}
	}
	if s := h.Status(); s.Restarts != 0 || s.Phase != plugins.Ready || s.PID == 0 {
		t.Errorf("errors and panics replaced the process: %+v", s)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("CMKD_TEST_OF_THE_HOST", "secret")
	h := start(t, spec(t, nil))
	out, err := h.Info(t.Context(), &backends.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if out.Facts["env:PATH"] == "" || out.Facts["env:"+modeEnv] == "" {
		t.Errorf("PATH or Spec.Env is missing: %v", out.Facts)
	}
	for name := range out.Facts {
		if name == "env:CMKD_TEST_OF_THE_HOST" || name == "env:HOME" {
			t.Errorf("the plugin has %s of the daemon's environment", name)
		}
	}
}

func TestNoiseOnStandardOutput(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	s := spec(t, map[string]string{"noise": "1"})
	s.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := start(t, s)
	for range 100 {
		mustEncrypt(t, h, "noise")
	}
	if s := h.Status(); s.Restarts != 0 {
		t.Errorf("noise cost a process: %+v", s)
	}
	if err := h.Close(t.Context()); err != nil { // the log is complete
		t.Fatal(err)
	}
	for _, want := range []string{"vendor library 1.0 loaded", "and through Go", "memory is open"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
}

func TestPanicLeavesNoSecretInTheLog(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	s := spec(t, nil)
	s.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := start(t, s)
	if _, err := h.Encrypt(t.Context(), encryptRequest("panic", "the plaintext")); err == nil {
		t.Fatal("a panic was answered")
	}
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); !strings.Contains(text, "panic in the backend") {
		t.Errorf("the panic is not in the log:\n%s", text)
	} else if strings.Contains(text, "a secret") || strings.Contains(text, "the plaintext") {
		t.Errorf("the log has the value of the panic:\n%s", text)
	}
}

// syncBuffer is a buffer for a logger.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestSlowCallsDoNotDelayQuickOnes(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, nil))
	var slow sync.WaitGroup
	created := make(chan error, 3)
	for i := range 3 {
		slow.Go(func() {
			_, err := h.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: backends.Key{ID: backends.KeyID{byte(i)}}, Label: "wait"})
			created <- err
		})
	}
	for range 1000 {
		mustEncrypt(t, h, "")
	}
	select {
	case err := <-created:
		t.Fatalf("a creation ended before it was let go: %v", err)
	default:
	}
	// Opens the gate until the three have gone through it.
	done := make(chan struct{})
	go func() { slow.Wait(); close(done) }()
	for open := true; open; {
		if _, err := h.DestroyKey(t.Context(), &backends.DestroyKeyRequest{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			open = false
		default:
		}
	}
	for range 3 {
		if err := <-created; err != nil {
			t.Error(err)
		}
	}
}

func TestDeadlineOfTheCallerDoesNotCostAProcess(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, nil))
	for _, order := range []string{"deadline", "expired"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := h.Encrypt(ctx, encryptRequest(order, ""))
		cancel()
		if backends.CodeOf(err) != backends.Timeout {
			t.Errorf("%s: %v, want Timeout", order, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Encrypt(ctx, encryptRequest("", "")); backends.CodeOf(err) != backends.Timeout {
		t.Errorf("canceled before the call: %v", err)
	}
	mustEncrypt(t, h, "")
	if s := h.Status(); s.Restarts != 0 {
		t.Errorf("the process was replaced: %+v", s)
	}
}

func TestChecksum(t *testing.T) {
	t.Parallel()
	s := spec(t, nil)
	text, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	s.Path, s.SHA256 = filepath.Join(shortDir(t), "plugin"), sum[:]
	other := s.Path + ".new"
	if err := errors.Join(os.WriteFile(s.Path, text, 0o755), os.WriteFile(other, []byte("#!/bin/false\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	h := start(t, s)
	kill(t, h.Status().PID) // a checksum must serve for the next process too
	mustEncrypt(t, h, "")
	if err := os.Rename(other, s.Path); err != nil {
		t.Fatal(err)
	}
	kill(t, h.Status().PID) // and whatever becomes of the file
	mustEncrypt(t, h, "")
	if err := h.Reload(t.Context(), s); err != nil {
		t.Errorf("reloading with the checksum of before: %v", err)
	}
	changed := s
	changed.SHA256 = bytes.Repeat([]byte{1}, sha256.Size)
	if err := h.Reload(t.Context(), changed); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("reloading with another checksum: %v", err)
	}
	mustEncrypt(t, h, "")

	opens := filepath.Join(shortDir(t), "opens")
	wrong := spec(t, map[string]string{"opens": opens})
	wrong.SHA256 = bytes.Repeat([]byte{1}, sha256.Size)
	bad := launch(t, wrong)
	err = bad.Wait(t.Context())
	if backends.CodeOf(err) != backends.Lost || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("wrong checksum: %v", err)
	}
	if _, err := os.Stat(opens); err == nil {
		t.Error("the executable with the wrong checksum was run")
	}
}

func TestSpecIsChecked(t *testing.T) {
	t.Parallel()
	open := shortDir(t)
	if err := os.Chmod(open, 0o750); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(shortDir(t), "link")
	if err := os.Symlink(shortDir(t), link); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*plugins.Spec){
		"others may enter": func(s *plugins.Spec) { s.Dir = open },
		"not a directory":  func(s *plugins.Spec) { s.Dir = link },
		"room for":         func(s *plugins.Spec) { s.Dir = "/" + strings.Repeat("d", 80) },
		"not absolute":     func(s *plugins.Spec) { s.Path = "plugin" },
		"without a name":   func(s *plugins.Spec) { s.Name = "" },
		"has 32 bytes":     func(s *plugins.Spec) { s.SHA256 = []byte{1} },
	} {
		s := spec(t, nil)
		change(&s)
		h, err := plugins.Start(t.Context(), s)
		if err == nil {
			h.Close(t.Context())
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("error %q does not say %q", err, name)
		}
	}
}

func TestDirectoryIsMadePrivate(t *testing.T) {
	t.Parallel()
	s := spec(t, nil)
	s.Dir = filepath.Join(shortDir(t), "new")
	h := start(t, s)
	err := filepath.Walk(s.Dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if fi.IsDir() && fi.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %#o", path, fi.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	mustEncrypt(t, h, "")
}

// kill sends SIGKILL.
func kill(tb testing.TB, pid int) {
	tb.Helper()
	if pid <= 1 {
		tb.Fatalf("no process: pid %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		tb.Fatal(err)
	}
}

// pidfd lets a test wait for the end of a process that is not its child.
func pidfd(tb testing.TB, pid int) int {
	tb.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

// awaitExit waits for the process of a pidfd to end; the test's own time limit
// is the only one.
func awaitExit(tb testing.TB, fd int) {
	tb.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if n == 1 {
			return
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			tb.Fatal(err)
		}
	}
}
