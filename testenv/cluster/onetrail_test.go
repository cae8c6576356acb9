package cluster

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestOneTrail: a daemon whose audit trail does not verify any more holds up no change of the others, and can be
// accepted while they go on.
func TestOneTrail(t *testing.T) {
	t.Parallel()
	all := nodes(t, etcd.Start(t), 2, false)
	a, b := all[0], all[1]
	key := rig.NewKey(t, a.Client(""), &kms.CreateKeyInput{})
	if got := encrypt(t.Context(), b.Client(""), key); got != "" {
		t.Fatal(got)
	}
	files, err := filepath.Glob(filepath.Join(b.Dir, "s", "audit", "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the files of the trail: %v, %v", files, err)
	}
	text, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[len(files)-1], bytes.Replace(text, []byte(`:root"`), []byte(`:eve!"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	change := func() {
		t.Helper()
		began := time.Now()
		for _, call := range []func() error{
			func() error {
				_, err := a.Client("").DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}, once)
				return err
			},
			func() error {
				_, err := a.Client("").EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &key}, once)
				return err
			},
		} {
			if err := call(); err != nil {
				t.Errorf("a change while another daemon's trail does not verify, after %s: %v", time.Since(began), err)
			}
		}
	}
	// Changes come also while it finds that out.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			change()
		}
	}()
	status, answered := b.Ask(t, http.MethodPost, "/reload", "{}")
	<-done
	if status != http.StatusOK {
		t.Fatalf("reload: %d %s", status, answered)
	}
	if _, m := rig.AcceptState(t, b, ""); m.Mismatch == nil || m.Mismatch.Trail == "" {
		t.Fatalf("not found: %+v", m.Mismatch)
	}
	change()
	if got := encrypt(t.Context(), b.Client(""), key); got == "" {
		t.Error("the daemon whose trail does not verify serves")
	}
	_, m := rig.AcceptState(t, b, "")
	change() // between looking and accepting
	if status, answer := rig.AcceptState(t, b, m.Mismatch.Root); !answer.Accepted {
		t.Fatalf("not accepted: status %d\n%s", status, b.Log())
	}
	eventually(t, "serving", func() bool { return encrypt(t.Context(), b.Client(""), key) == "" })
	change()
	for _, r := range all {
		if s := r.Status(t); s.State != "ok" {
			t.Errorf("state %s\n%s", s.State, r.Log())
		}
	}
}
