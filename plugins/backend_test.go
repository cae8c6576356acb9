package plugins_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cmkd/backends"
	"cmkd/plugins"
)

// modeEnv makes the test binary something else: a plugin, or a parent of one.
const modeEnv = "CMKD_PLUGINS_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(modeEnv) {
	case "plugin":
		plugins.Serve("memory", openMemory)
		return
	case "parent":
		parent()
		return
	case "lie":
		plugins.Lie(os.Getenv("CMKD_TEST_LIE"))
		return
	case "say", "wait":
		plugins.Say(os.Getenv(modeEnv) == "wait")
		return
	}
	dir, err := os.MkdirTemp("", "cmkd-plugin")
	if err != nil {
		panic(err)
	}
	buildDir = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// memory is a backend without a token. It serves Backend, Cipher, Signer and
// MACer; what a call does beside its work, its Plaintext or Message says.
type memory struct {
	cfg plugins.Config

	mu      sync.Mutex // guards created, gate and hoard
	hoard   [][]byte   // what the order "grow" took, a MiB each time
	created map[backends.KeyID]bool
	gate    chan struct{} // closed by DestroyKey, waited for by CreateKey "wait"
}

func openMemory(_ context.Context, cfg plugins.Config) (backends.Backend, error) {
	if f := cfg.Settings["opens"]; f != "" {
		appendTo(f, "o")
	}
	if cfg.Settings["noise"] != "" {
		noise()
	}
	if err := refused(cfg); err != nil {
		return nil, err
	}
	if cfg.Settings["child"] != "" {
		child := exec.Command("sleep", "1000")
		if err := child.Start(); err != nil {
			return nil, err
		}
		appendTo(cfg.Settings["child"], strconv.Itoa(child.Process.Pid))
	}
	slog.Info("memory is open", "label", cfg.TokenLabel)
	return &memory{cfg: cfg, created: map[backends.KeyID]bool{}, gate: make(chan struct{})}, nil
}

// refused is the error that a test wants while its file is there.
func refused(cfg plugins.Config) error {
	if f := cfg.Settings["while-exists"]; f != "" {
		if _, err := os.Stat(f); err == nil {
			return &backends.Error{Code: backends.Code(cfg.Settings["open-error"]), Message: "as the test wants", RV: 0x30}
		}
	}
	return nil
}

// Close leaves a mark, so that a test sees the order of an end.
func (m *memory) Close() error {
	if f := m.cfg.Settings["closed"]; f != "" {
		appendTo(f, "c")
	}
	return nil
}

func appendTo(file, text string) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		panic(err)
	}
}

// noise prints as C code does: to the descriptor.
func noise() {
	_, _ = syscall.Write(1, []byte("1|1|unix|/nowhere|grpc|\nvendor library 1.0 loaded\n\x00\xff"))
	fmt.Println("and through Go")
	fmt.Fprintln(os.Stderr, "on standard error too")
}

func (m *memory) Info(_ context.Context, in *backends.InfoRequest) (*backends.InfoAnswer, error) {
	if in.Prove {
		if err := refused(m.cfg); err != nil {
			return nil, err
		}
	}
	facts := map[string]string{"pid": strconv.Itoa(os.Getpid()), "label": m.cfg.TokenLabel}
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		facts["env:"+name] = "set"
	}
	return &backends.InfoAnswer{
		Specs: []backends.SpecInfo{{Spec: backends.AES256, Usages: []backends.Usage{backends.EncryptDecrypt}}},
		Facts: facts,
	}, nil
}

func (m *memory) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	if in.Label == "wait" {
		m.mu.Lock()
		gate := m.gate
		m.mu.Unlock()
		if f := m.cfg.Settings["waiting"]; f != "" {
			appendTo(f, "w")
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if in.Label == "hang" {
		select {}
	}
	if err := m.ordered("create"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	existed := m.created[in.Key.ID]
	m.created[in.Key.ID] = true
	return &backends.CreateKeyAnswer{Existed: existed}, nil
}

// ordered is the error that a test wants of a call: its code, and "unsure" behind it. With a
// file it is the first call's, whichever process has it.
func (m *memory) ordered(call string) error {
	code, unsure := strings.CutSuffix(m.cfg.Settings[call+"-error"], " unsure")
	if code == "" {
		return nil
	}
	if file := m.cfg.Settings[call+"-once"]; file != "" {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil //nolint:nilerr // another call had it
		}
		f.Close()
	}
	return &backends.Error{Code: backends.Code(code), Message: "as the test wants", Unsure: unsure}
}

func (m *memory) CheckKey(_ context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	if err := m.ordered("check"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.created[in.Key.ID] {
		return nil, &backends.Error{Code: backends.KeyMissing, Message: "no key " + in.Key.ID.String(), RV: 0x82}
	}
	return &backends.CheckKeyAnswer{}, nil
}

func (m *memory) DestroyKey(context.Context, *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.gate)
	m.gate = make(chan struct{})
	return &backends.DestroyKeyAnswer{Objects: 1}, nil
}

func (m *memory) ListKeys(context.Context, *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	n, err := strconv.Atoi(m.cfg.Settings["keys"])
	if err != nil {
		return nil, err // no backends.Error: its text must not get out
	}
	out := &backends.ListKeysAnswer{}
	for i := range n {
		out.Objects = append(out.Objects, backends.Object{ID: backends.KeyID{byte(i), byte(i >> 8), byte(i >> 16)}, Label: fmt.Sprintf("cmkd:%d:1", i)})
	}
	return out, nil
}

// Encrypt returns the plaintext, after what the associated data orders.
func (m *memory) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	if err := m.obey(ctx, string(in.AAD)); err != nil {
		return nil, err
	}
	return &backends.EncryptAnswer{Sealed: backends.Sealed{IV: in.AAD, Ciphertext: bytes.Clone(in.Plaintext)}}, nil
}

func (m *memory) Decrypt(ctx context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	return nil, fmt.Errorf("wrapped: %w", &backends.Error{Code: backends.InvalidCiphertext, Message: "bad tag", RV: 5})
}

// obey does what an order says; "once FILE ORDER" obeys ORDER unless FILE is
// there, and makes it.
func (m *memory) obey(ctx context.Context, order string) error {
	if rest, ok := strings.CutPrefix(order, "once "); ok {
		file, order, _ := strings.Cut(rest, " ")
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		switch {
		case errors.Is(err, fs.ErrExist):
			return nil
		case err != nil:
			return err
		}
		f.Close()
		return m.obey(ctx, order)
	}
	switch order {
	case "crash":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		select {}
	case "panic":
		panic("a secret: " + order)
	case "nil":
		var p *memory
		p.cfg.Module = ""
	case "hang":
		select {}
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "noise":
		noise()
	case "deadline":
		<-ctx.Done()
		return ctx.Err()
	case "expired":
		for ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		return ctx.Err()
	case "lost":
		return backends.Errorf(backends.Lost, "the token is gone")
	case "spent":
		return backends.Errorf(backends.Spent, "there is no room for this call")
	case "grow":
		m.mu.Lock()
		m.hoard = append(m.hoard, bytes.Repeat([]byte{1}, 1<<20))
		m.mu.Unlock()
	case "error":
		return errors.New("a secret in an untyped error")
	}
	return nil
}
