package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestTakeover: a daemon on another host takes over from one that was killed, with a
// trail of its own, and the first one comes back after it. Each trail is held to what the
// database says of it, whoever has committed last.
func TestTakeover(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	first := rig.New(t, rig.Config{Etcd: server, StoreExtra: staleness, Process: true})
	second := rig.Prepare(t, rig.Config{Etcd: server, StoreExtra: staleness + "node = \"two\"\n", Process: true, Token: first.Token})
	key := rig.NewKey(t, first.Client(""), &kms.CreateKeyInput{})
	describe := func(r *rig.Rig, text string) {
		t.Helper()
		if _, err := r.Client("").UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: &text}); err != nil {
			t.Fatal(err)
		}
	}
	well := func(r *rig.Rig, text string) {
		t.Helper()
		out, err := r.Client("").DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
		if err != nil || aws.ToString(out.KeyMetadata.Description) != text {
			t.Fatalf("%v, %v, want %q\n%s", out, err, text, r.Log())
		}
		if got := encrypt(t.Context(), r.Client(""), key); got != "" {
			t.Fatalf("Encrypt: %s", got)
		}
		if s := r.Status(t); s.State != "ok" {
			t.Fatalf("status %+v", s)
		}
	}
	last := ""
	for _, r := range []*rig.Rig{first, second, first, second} {
		if r.Process == nil || r.Process.ProcessState != nil {
			r.Start(t) // which waits for the lease of the other
		}
		well(r, last)
		last = "by " + filepath.Base(r.Dir)
		describe(r, last)
		r.Kill()
	}
	for _, r := range []*rig.Rig{first, second} {
		if trail := r.AuditTrail(t); strings.Contains(trail, "ChangeNotCommitted") {
			t.Error("a change that was committed is recorded as one that was not")
		}
	}

	// The end of the first one's trail is cut off while the second serves.
	files, err := filepath.Glob(filepath.Join(first.Dir, "s", "audit", "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	text, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	second.Start(t)
	describe(second, "after the cut")
	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	if err := os.WriteFile(files[len(files)-1], []byte(strings.Join(lines[:len(lines)-4], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	first.Start(t)
	if got := encrypt(t.Context(), first.Client(""), key); got != "KMSInvalidStateException" {
		t.Errorf("with a trail that was cut: %q", got)
	}
}
