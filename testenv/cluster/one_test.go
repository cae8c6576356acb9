package cluster

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const staleness = "max_staleness = \"2s\"\n"

// encrypt encrypts under the key, and returns the code of the error, "" if there is none.
func encrypt(ctx context.Context, c *kms.Client, key string) string {
	_, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("text")})
	return rig.Code(err)
}

// eventually calls f until it returns true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// TestKilled: a daemon that was killed starts again at once, with all that was answered.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Etcd: etcd.Start(t), Process: true})
	c := r.Client("")
	key := rig.NewKey(t, c, &kms.CreateKeyInput{})
	out, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("text")})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}}); err != nil {
			t.Fatal(err)
		}
		r.Kill()
		r.Start(t)
		if s := r.Status(t); s.State != "ok" || s.Keys != 1 {
			t.Fatalf("after a kill: %+v", s)
		}
	}
	if back, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob}); err != nil || string(back.Plaintext) != "text" {
		t.Errorf("after the kills: %v", err)
	}
}

// TestSecond: a second daemon on the prefix is refused while the first has it, whatever it
// is named.
func TestSecond(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	first := rig.New(t, rig.Config{Etcd: server, StoreExtra: staleness})
	for _, node := range []string{"one", "two"} {
		second := rig.Prepare(t, rig.Config{Etcd: server, StoreExtra: staleness + "node = \"" + node + "\"\n", Token: first.Token})
		if err := second.TryInitialise(t.Context()); err == nil || !strings.Contains(err.Error(), "only one daemon at a time") {
			t.Errorf("node %s: %v", node, err)
		}
	}
	if got := encrypt(t.Context(), first.Client(""), rig.NewKey(t, first.Client(""), &kms.CreateKeyInput{})); got != "" {
		t.Errorf("the first: %s", got)
	}
}

// TestSilent: while etcd does not answer, nothing can be changed, and calls are answered
// for max_staleness, and then refused with what SDKs repeat. When it is back, so is the
// daemon.
func TestSilent(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	r := rig.New(t, rig.Config{Etcd: server, StoreExtra: staleness})
	c := r.Client("")
	key := rig.NewKey(t, c, &kms.CreateKeyInput{})
	for _, pause := range []time.Duration{0, 6 * time.Second} { // and with a lease that ends meanwhile
		server.Signal(t, syscall.SIGSTOP)
		if got := encrypt(t.Context(), c, key); got != "" {
			t.Errorf("at once: %s", got)
		}
		if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}); rig.Code(err) != "KMSInternalException" && rig.Code(err) != "DependencyTimeoutException" {
			t.Errorf("a change: %v", err)
		}
		eventually(t, "fenced", func() bool { return encrypt(t.Context(), c, key) == "DependencyTimeoutException" })
		if _, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key}); rig.Code(err) != "DependencyTimeoutException" {
			t.Errorf("a call that only looks: %v", err)
		}
		if s := r.Status(t); s.State != "degraded" {
			t.Errorf("status %+v", s)
		}
		if status, text := r.Ask(t, "POST", "/policy/who", fmt.Sprintf(`{"action":"kms:Encrypt","key":%q}`, key)); status != 503 || !strings.Contains(text, "does not answer") {
			t.Errorf("a question about policies: %d %s", status, text)
		}
		time.Sleep(pause)
		server.Signal(t, syscall.SIGCONT)
		eventually(t, "back", func() bool { return encrypt(t.Context(), c, key) == "" })
		eventually(t, "changes", func() bool {
			_, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}})
			return err == nil
		})
		eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
	}
}

// TestRestarted: an etcd that is killed and comes back costs no ciphertext and no change.
func TestRestarted(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	r := rig.New(t, rig.Config{Etcd: server, StoreExtra: staleness})
	c := r.Client("")
	key := rig.NewKey(t, c, &kms.CreateKeyInput{})
	for range 3 {
		server.Kill()
		server.Run(t)
		eventually(t, "a change", func() bool {
			_, err := c.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: aws.String("x")})
			return err == nil
		})
		eventually(t, "a call", func() bool { return encrypt(t.Context(), c, key) == "" })
	}
	eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
}

// TestStopped: a daemon that was stopped until its lease had ended refuses what it is asked until
// it knows what has been committed meanwhile, and then goes on.
func TestStopped(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	r := rig.New(t, rig.Config{Etcd: server, StoreExtra: staleness, Process: true})
	c := r.Client("")
	key := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if err := r.Process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	client := server.Client(t)
	defer client.Close()
	eventually(t, "the end of the lease", func() bool {
		found, err := client.Get(t.Context(), "/cmkd/node/", clientv3.WithPrefix())
		return err == nil && len(found.Kvs) == 0
	})
	if err := r.Process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := encrypt(t.Context(), c, key); got != "DependencyTimeoutException" && got != "" {
		t.Errorf("after the end of its lease: %q", got)
	}
	eventually(t, "back", func() bool { return encrypt(t.Context(), c, key) == "" })
	eventually(t, "a change", func() bool {
		_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key})
		return err == nil
	})
	eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
}

// TestTampered: rows that somebody writes with etcdctl are found by a reload, and at the
// next start.
func TestTampered(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	r := rig.New(t, rig.Config{Etcd: server})
	c := r.Client("")
	key := rig.NewKey(t, c, &kms.CreateKeyInput{})
	client := server.Client(t)
	defer client.Close()
	found, err := client.Get(t.Context(), "/cmkd/row/keys/", clientv3.WithPrefix())
	if err != nil || len(found.Kvs) != 1 {
		t.Fatal(err, found)
	}
	row := found.Kvs[0]
	other := strings.Replace(string(row.Value), `"State":"Enabled"`, `"State":"Disabled"`, 1)
	if _, err := client.Put(t.Context(), string(row.Key), other); err != nil {
		t.Fatal(err)
	}
	r.Ask(t, "POST", "/reload", "")
	if got := encrypt(t.Context(), c, key); got != "KMSInvalidStateException" {
		t.Errorf("after a reload: %q", got)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	r.Start(t)
	if got := encrypt(t.Context(), c, key); got != "KMSInvalidStateException" {
		t.Errorf("after a start: %q", got)
	}
	if _, err := client.Put(t.Context(), string(row.Key), string(row.Value)); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	r.Start(t)
	if got := encrypt(t.Context(), c, key); got != "" {
		t.Errorf("as it was: %q", got)
	}
}

// TestAway: a daemon that starts before its etcd waits for it, and serves nothing.
func TestAway(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	r := rig.New(t, rig.Config{Etcd: server, Process: true})
	key := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	started := make(chan struct{})
	go func() {
		defer close(started)
		r.Start(t)
	}()
	eventually(t, "the log", func() bool { return strings.Contains(r.Log(), "waiting for etcd") })
	server.Run(t)
	<-started
	if got := encrypt(t.Context(), r.Client(""), key); got != "" {
		t.Error(got)
	}
}

// TestOtherPrefix: a prefix that is not this daemon's is refused, with the reason.
func TestOtherPrefix(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	first := rig.New(t, rig.Config{Etcd: server})
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	client := server.Client(t)
	defer client.Close()
	refused := func(name, want string, r *rig.Rig) {
		t.Helper()
		if err := r.TryInitialise(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := client.Put(t.Context(), "/cmkd/format", "2"); err != nil {
		t.Fatal(err)
	}
	refused("another format", "newer schema", rig.Prepare(t, rig.Config{Etcd: server, Token: first.Token}))
	if _, err := client.Delete(t.Context(), "/cmkd/format"); err != nil {
		t.Fatal(err)
	}
	refused("no format", "is the prefix right?", rig.Prepare(t, rig.Config{Etcd: server, Token: first.Token}))
	if _, err := client.Put(t.Context(), "/cmkd/format", "1"); err != nil {
		t.Fatal(err)
	}
	refused("another token", "does not verify", rig.Prepare(t, rig.Config{Etcd: server}))
}
