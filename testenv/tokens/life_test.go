package tokens_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/backends"
	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// live kills and restarts what uses the token, and loses the database.
func live(t *testing.T, r *rig.Rig, tok *testenv.Token, found *report) {
	t.Helper()
	ctx := t.Context()
	w := newWorld(t, r, true)
	k, err := w.of(ctx, backends.HMAC256, backends.GenerateVerifyMAC)
	if err != nil {
		t.Fatal(err)
	}
	want, err := w.mac(ctx, k.id)
	if err != nil {
		t.Fatal(err)
	}
	same := func() error {
		got, err := newWorld(t, r, true).mac(ctx, k.id)
		if err == nil && got != want {
			return errors.New("the key is another one")
		}
		return err
	}
	found.note(check{capability: "restart", name: "a plugin that is killed"}, killed(t, r, same))
	found.note(check{capability: "restart", name: "plugins that are killed during imports"}, killedImports(t, r, tok))
	found.note(check{capability: "restart", name: "plugins that are killed while they make keys"}, killedCreations(t, w, tok))
	lives(t, r, found, same)
	found.note(check{capability: "recover", name: "recover --adopt"}, recovered(t, r, k.id, same))
}

// lives starts the daemon again, and then without its database.
func lives(t *testing.T, r *rig.Rig, found *report, same func() error) {
	t.Helper()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	r.Start(t)
	found.note(check{capability: "restart", name: "the daemon"}, same())
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(r.Dir, "s")); err != nil {
		t.Fatal(err)
	}
	r.Initialise(t)
	r.Start(t)
}

// mac is the MAC of a message.
func (w *world) mac(ctx context.Context, id *string) (string, error) {
	out, err := w.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: id, Message: []byte("message"), MacAlgorithm: "HMAC_SHA_256"})
	if err != nil {
		return "", err
	}
	return string(out.Mac), nil
}

// killed kills the plugins, and waits until the daemon serves again.
func killed(t *testing.T, r *rig.Rig, same func() error) (err error) {
	t.Helper()
	for _, p := range r.Status(t).Plugins {
		if p.PID == 0 {
			continue // it is being replaced
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = same(); err == nil && r.Status(t).State == "ok" { // a slow token is probed for seconds
			return nil
		}
	}
	return err
}

// recovered has the daemon take up the keys that it finds in the token.
func recovered(t *testing.T, r *rig.Rig, id *string, same func() error) error {
	t.Helper()
	if status, answer := r.Ask(t, "POST", "/recover", `{"adopt":true}`); status != 200 {
		return errors.New(answer)
	}
	if _, err := r.Client("").EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: id}); err != nil {
		return err
	}
	return same()
}
