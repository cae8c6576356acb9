package policy

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// TestUnmappedUsers: in a user namespace the kernel gives everybody without a
// mapping the same number, which is nobody in particular.
func TestUnmappedUsers(t *testing.T) {
	t.Parallel()
	everyone := `[[principals.map]]` + "\ngroup = \"65534\"\narn = \"arn:aws:iam::" + rig.Account + ":role/nogroup\"\n"
	r := rig.New(t, rig.Config{World: true, Process: true, Wrap: []string{"unshare", "--user", "--map-root-user"}, Tables: everyone})
	id := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing("*", `"kms:*"`, ""))})
	rig.Outcome(t, "root, who has a mapping", rig.EncryptWith(t, r.Client(""), id), "")
	for _, u := range []rig.User{rig.Stranger, rig.App, {UID: 65534, GID: 65534}} {
		err := rig.EncryptWith(t, r.As(t, u), id)
		if rig.Code(err) != rig.Denied || !strings.Contains(err.Error(), "has no mapping in the user namespace") {
			t.Errorf("uid %d: %v", u.UID, err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.HTTPAs(t, rig.Stranger).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("GET /status: %s", resp.Status)
	}
	_, err = r.Client("").PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &id, Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""),
		rig.Allowing("arn:aws:iam::"+rig.Account+":user/nobody", `"kms:*"`, ""))})
	rig.Outcome(t, "a policy for the user nobody, whom no caller can be", err, "MalformedPolicyDocumentException")
	if trail := r.AuditTrail(t); !strings.Contains(trail, "has no mapping") || strings.Contains(trail, "user/nobody\",\"accountId") {
		t.Error("the audit trail has not the refusals, or has them of somebody")
	}
}

// TestNamesLikeNumbers: a user who is called as cmkd calls users without a name is
// not one of those.
func TestNamesLikeNumbers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mounts := []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$@"`, dir}
	for name, more := range map[string]string{
		"passwd": "uid-61001:x:61050:61050::/:/bin/sh\n61002:x:61051:61051::/:/bin/sh\n",
		"group":  "gid-61100:x:61150:\n61101:x:61151:\n",
	} {
		text, err := os.ReadFile(filepath.Join("/etc", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), append(text, more...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := rig.New(t, rig.Config{World: true, Process: true, Wrap: mounts, Extra: "", Tables: "[admins]\nusers = [\"61002\"]\n"})
	group := "arn:aws:iam::" + rig.Account + ":group/gid-61100"
	id := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:PutKeyPolicy"`, ""),
		rig.Allowing(rig.Operator.ARN(), `"kms:Encrypt"`, ""), rig.Allowing(group, `"kms:Encrypt"`, ""))})
	for _, tt := range []struct {
		what string
		user rig.User
		code string
	}{
		{"uid 61001 without a name", rig.Operator, ""},
		{"uid 61050, who is called uid-61001", rig.User{UID: 61050, GID: 61050}, rig.Denied},
		{"a member of gid 61100 without a name", rig.User{UID: 61003, GID: 61100}, ""},
		{"a member of gid 61150, which is called gid-61100", rig.User{UID: 61003, GID: 61150}, rig.Denied},
	} {
		rig.Outcome(t, tt.what, rig.EncryptWith(t, r.As(t, tt.user), id), tt.code)
	}
	_, err := r.As(t, rig.User{UID: 61002, GID: 61002}).ListKeys(t.Context(), &kms.ListKeysInput{})
	rig.Outcome(t, "the administrator 61002", err, "")
	_, err = r.As(t, rig.User{UID: 61051, GID: 61051}).ListKeys(t.Context(), &kms.ListKeysInput{})
	rig.Outcome(t, "uid 61051, who is called 61002", err, rig.Denied)
	out, ok := rig.Cmkctl(t, r, "policy", "explain", "--as", "uid-61001", "--action", "kms:Encrypt", "--key", id)
	if !ok || !strings.Contains(out, rig.Operator.ARN()) {
		t.Errorf("explain --as uid-61001: %s", out)
	}
}
