package cluster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
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

// TestSecond: a second daemon initialises nothing on the prefix while the first has it, whatever it
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
		for _, path := range []string{"/backup", "/confirm-clock"} {
			if status, text := r.Ask(t, "POST", path, ""); status != 503 || !strings.Contains(text, "does not answer") && !strings.Contains(text, "cannot be written") {
				t.Errorf("%s: %d %s", path, status, text)
			}
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

// TestAway: a daemon that starts before its etcd waits for it, serves nothing, and tells systemd so, which
// would otherwise take the start for one that has failed.
func TestAway(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	path, told := notified(t)
	r := rig.New(t, rig.Config{Etcd: server, Process: true, Wrap: []string{"env", "NOTIFY_SOCKET=" + path}})
	key := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(told(), "\n"); !strings.Contains(text, "READY=1") || strings.Contains(text, "STATUS=") {
		t.Errorf("a start that does not wait tells systemd %q", text)
	}
	server.Kill()
	started := make(chan struct{})
	go func() {
		defer close(started)
		r.Start(t)
	}()
	eventually(t, "the log", func() bool { return strings.Contains(r.Log(), "waiting for etcd") })
	var waiting []string
	eventually(t, "systemd is told twice", func() bool {
		waiting = append(waiting, told()...)
		return len(waiting) > 1
	})
	for _, text := range waiting {
		if !strings.HasPrefix(text, "STATUS=waiting for etcd, nothing is served: ") || !strings.HasSuffix(text, "\nEXTEND_TIMEOUT_USEC=120000000") {
			t.Errorf("while it waits, systemd is told %q", text)
		}
	}
	if n := strings.Count(r.Log(), "waiting for etcd"); n != 1 {
		t.Errorf("the log says %d times that it waits for etcd", n)
	}
	server.Run(t)
	<-started
	if got := encrypt(t.Context(), r.Client(""), key); got != "" {
		t.Error(got)
	}
	var after []string
	eventually(t, "systemd is told that it is ready", func() bool {
		after = append(after, told()...)
		return slices.Contains(after, "READY=1")
	})
	if i := slices.Index(after, "STATUS=\nEXTEND_TIMEOUT_USEC=120000000"); i < 0 || i > slices.Index(after, "READY=1") {
		t.Errorf("once it does not wait any more, systemd is told %q", after)
	}
}

// notified is a socket like the one that systemd has a service write to, and what was told it since the last call.
func notified(t *testing.T) (path string, told func() []string) {
	t.Helper()
	path = filepath.Join(rig.Dir(t), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return path, func() (all []string) {
		text := make([]byte, 4096)
		for {
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(text)
			if err != nil {
				return all
			}
			all = append(all, string(text[:n]))
		}
	}
}
