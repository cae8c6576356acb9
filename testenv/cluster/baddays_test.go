package cluster

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestOtherPrefix: a prefix that is not this daemon's is refused, with the reason.
func TestOtherPrefix(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	first := rig.New(t, rig.Config{Etcd: server, Process: true})
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
	const format = "/cmkd/format"
	for value, want := range map[string]string{"2": "newer schema", "0": "is the prefix right?", "x": "is the prefix right?", "": "is the prefix right?"} {
		if _, err := client.Put(t.Context(), format, value); err != nil {
			t.Fatal(err)
		}
		if value == "" { // what another program has written
			if _, err := client.Delete(t.Context(), format); err != nil {
				t.Fatal(err)
			}
		}
		refused("format "+value, want, rig.Prepare(t, rig.Config{Etcd: server, Token: first.Token}))
	}
	if _, err := client.Put(t.Context(), format, "1"); err != nil {
		t.Fatal(err)
	}
	refused("another token", "does not verify", rig.Prepare(t, rig.Config{Etcd: server}))
	text, err := os.ReadFile(first.Path)
	if err != nil {
		t.Fatal(err)
	}
	change := func(r *rig.Rig, from, to string) *rig.Rig {
		t.Helper()
		if err := os.WriteFile(r.Path, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		return r
	}
	refused("another account", "belongs to account "+rig.Account, change(first, rig.Account, "210987654321"))
	change(first, "[store]\n", "[store]\nprefix = \"/cmkc/\"\n")
	if err := first.TryStart(t); err == nil || !strings.Contains(err.Error(), "run cmkd -init") {
		t.Errorf("a prefix with nothing in it: %v", err)
	}
	change(first, "", "")
	first.Start(t)
	if s := first.Status(t); s.State != "ok" {
		t.Errorf("as it was: %+v", s)
	}
}

// TestQuorum: two of three servers are lost. Changes fail at once, calls are answered until max_staleness, and
// all is well again without a restart.
func TestQuorum(t *testing.T) {
	t.Parallel()
	servers := etcd.StartCluster(t, 3)
	r := nodesOf(t, servers, 1, false)[0]
	c := r.Client("")
	key := rig.NewKey(t, c, &kms.CreateKeyInput{})
	describe := func(ctx context.Context, text string) error {
		_, err := c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: &text}, once)
		return err
	}
	servers[0].Kill()
	eventually(t, "a change on two servers", func() bool { return describe(t.Context(), "two") == nil })
	servers[1].Kill()
	if got := encrypt(t.Context(), c, key); got != "" {
		t.Errorf("at once: %s", got)
	}
	if code := rig.Code(describe(t.Context(), "one")); code != "KMSInternalException" && code != "DependencyTimeoutException" {
		t.Errorf("a change: %q", code)
	}
	eventually(t, "fenced", func() bool { return encryptOnce(t.Context(), c, key) == "error" })
	if _, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key}, once); rig.Code(err) != "DependencyTimeoutException" {
		t.Errorf("a call that only looks: %v", err)
	}
	servers[0].Run(t)
	eventually(t, "a call", func() bool { return encryptOnce(t.Context(), c, key) == "" })
	eventually(t, "a change", func() bool { return describe(t.Context(), "back") == nil })
	servers[1].Run(t)
	eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
	if out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key}); err != nil || aws.ToString(out.KeyMetadata.Description) != "back" {
		t.Errorf("%v, %v", out, err)
	}
}
