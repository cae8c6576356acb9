package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

// ok runs cmkctl and returns its output.
func (r *sealRig) ok(t *testing.T, args ...string) string {
	t.Helper()
	out, err := r.command(t, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("cmkctl %q: %s, %v", args, out, err)
	}
	return string(out)
}

func (r *sealRig) inspect(t *testing.T, path string) inspected {
	t.Helper()
	var out inspected
	if err := json.Unmarshal([]byte(r.ok(t, "inspect", "--json", path)), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRewrap moves files between keys of a real token.
func TestRewrap(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	made, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{})
	clitest.Must(t, err)
	other := *made.KeyMetadata.KeyId
	dir := t.TempDir()
	plain, sealed := filepath.Join(dir, "plain"), filepath.Join(dir, "sealed")
	clitest.Must(t, os.WriteFile(plain, []byte(clitest.Today), 0o600))

	r.ok(t, "seal", "-k", r.key, "-k", other, "--sign", "-c", "host=db1", "--out", sealed, plain)
	clitest.Must(t, os.Chmod(sealed, 0o640))
	first := r.inspect(t, sealed)
	if !first.Signed || !first.KeyCommitment || len(first.Keys) != 2 || !strings.HasSuffix(first.Keys[1].Key, other) || first.Context["host"] != "db1" {
		t.Errorf("sealed: %+v", first)
	}
	if text := strings.Join(strings.Fields(r.ok(t, "inspect", sealed)), " "); !strings.Contains(text, "0x0578 (key commitment: yes, signature: yes)") || !strings.Contains(text, `context "host" "db1"`) {
		t.Errorf("inspect: %s", text)
	}

	r.ok(t, "rewrap", "-k", other, sealed)
	second := r.inspect(t, sealed)
	if !second.Signed || len(second.Keys) != 1 || !strings.HasSuffix(second.Keys[0].Key, other) || second.Context["host"] != "db1" {
		t.Errorf("rewrapped: %+v", second)
	}
	if string(first.MessageID) == string(second.MessageID) {
		t.Error("the same message under another key")
	}
	if info, err := os.Stat(sealed); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := r.ok(t, "open", "-k", other, "-c", "host=db1", sealed); got != clitest.Today {
		t.Errorf("opened: %q", got)
	}
	clitest.Names(t, dir, "plain", "sealed")
}

// TestRewrapRefuses: nothing of a file changes that cannot be moved.
func TestRewrapRefuses(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	dir := t.TempDir()
	plain, sealed := filepath.Join(dir, "plain"), filepath.Join(dir, "sealed")
	clitest.Must(t, os.WriteFile(plain, []byte(clitest.Today), 0o600))
	r.ok(t, "seal", "-k", r.key, "-c", "host=db1", "--out", sealed, plain)
	before, err := os.ReadFile(sealed)
	clitest.Must(t, err)
	cut := filepath.Join(dir, "cut")
	clitest.Must(t, os.WriteFile(cut, before[:len(before)-1], 0o600))
	for name, c := range map[string]struct {
		args []string
		path string
		want string
	}{
		"no key":          {[]string{"-k", "alias/none"}, sealed, "NotFoundException"},
		"another context": {[]string{"-k", r.key, "-c", "host=db2"}, sealed, "another encryption context"},
		"cut":             {[]string{"-k", r.key}, cut, "truncated"},
		"not sealed":      {[]string{"-k", r.key}, plain, "not a valid envelope"},
	} {
		was, err := os.ReadFile(c.path)
		clitest.Must(t, err)
		out, err := r.command(t, append(append([]string{"rewrap"}, c.args...), c.path)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %s, %v", name, out, err)
		}
		clitest.Holds(t, c.path, string(was))
	}
	for name, args := range map[string][]string{
		"standard input": {"rewrap", "-k", r.key, "-"},
		"a device":       {"rewrap", "-k", r.key, "/dev/null"},
	} {
		if out, err := r.command(t, args...).CombinedOutput(); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
	clitest.Names(t, dir, "cut", "plain", "sealed")

	// Only another file can take what has two names.
	link, moved := filepath.Join(dir, "link"), filepath.Join(dir, "moved")
	clitest.Must(t, os.Link(sealed, link))
	for _, args := range [][]string{{"rewrap", "-k", r.key, link}, {"rewrap", "-k", r.key, "--out", sealed, link}} {
		if out, err := r.command(t, args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "use --out to write another file") {
			t.Errorf("%q: %s, %v", args, out, err)
		}
	}
	clitest.Holds(t, sealed, string(before))
	r.ok(t, "rewrap", "-k", r.key, "--out", moved, link)
	if got := r.ok(t, "open", moved); got != clitest.Today {
		t.Errorf("opened: %q", got)
	}
	clitest.Names(t, dir, "cut", "link", "moved", "plain", "sealed")
}

// TestRewrapInAnotherRegion moves a file to a key of the Region in the environment: the
// Region of the key that the file names is the file's affair, also if the key is a
// multi-Region key without a replica there.
func TestRewrapInAnotherRegion(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	multi, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	clitest.Must(t, err)
	there, err := r.Client("eu-west-1").CreateKey(t.Context(), &kms.CreateKeyInput{})
	clitest.Must(t, err)
	sealed := filepath.Join(t.TempDir(), "sealed")
	seal := r.command(t, "seal", "-k", *multi.KeyMetadata.KeyId, "--out", sealed)
	seal.Stdin = strings.NewReader(clitest.Today)
	clitest.Must(t, seal.Run())
	rewrap := r.command(t, "rewrap", "-k", *there.KeyMetadata.KeyId, sealed)
	rewrap.Env = append(rewrap.Env, "AWS_REGION=eu-west-1")
	if out, err := rewrap.CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	if got := r.inspect(t, sealed).Keys; len(got) != 1 || got[0].Key != *there.KeyMetadata.Arn {
		t.Errorf("keys %+v", got)
	}
}

// TestInspectQuotes: what a file says of itself begins no lines of inspect's.
func TestInspectQuotes(t *testing.T) {
	t.Parallel()
	for _, k := range []inspectedKey{{Provider: "x\nkey\taws-kms", Key: "arn"}, {Provider: "x", Key: "arn\nkey\taws-kms"}} {
		var out bytes.Buffer
		if err := (inspected{Keys: []inspectedKey{k}}).print(&out); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(out.String(), "\n"); lines != 3 {
			t.Errorf("%d lines:\n%s", lines, out.String())
		}
	}
}
