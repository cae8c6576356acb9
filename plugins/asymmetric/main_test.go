package main

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/backends"
	"cmkd/plugins"
	"cmkd/testenv"
)

// TestPlugin signs and verifies through the process that the daemon starts.
func TestPlugin(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cmkd-asymmetric")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	sockets := t.TempDir()
	if err := os.Chmod(sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	tok := testenv.NewToken(t)
	env := map[string]string{}
	for _, e := range tok.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	h, err := plugins.Start(t.Context(), plugins.Spec{
		Name: "test/asymmetric", Path: path, Dir: sockets, Env: env, Logger: slog.New(slog.DiscardHandler),
		Config: plugins.Config{Module: tok.Module, TokenLabel: tok.Label, PINFile: tok.PINFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	key := backends.Key{ID: backends.KeyID{1}, Spec: backends.P256, Usage: backends.SignVerify}
	made, err := h.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"})
	if err != nil || len(made.PublicKey) == 0 {
		t.Fatalf("%+v, %v", made, err)
	}
	message := []byte("message")
	signed, err := h.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: "ECDSA_SHA_256", Type: backends.Raw, Message: message})
	if err != nil {
		t.Fatal(err)
	}
	verified, err := h.Verify(t.Context(), &backends.VerifyRequest{
		Key: key, Algorithm: "ECDSA_SHA_256", Type: backends.Raw, Message: message, Signature: signed.Signature,
	})
	if err != nil || !verified.Valid {
		t.Errorf("%+v, %v", verified, err)
	}
}
