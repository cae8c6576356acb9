// Package walls_test attacks a whole daemon from where an attacker may stand: a
// plugin that was taken over, files that others can change, root in the clothes of
// somebody else.
package walls_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// TestMappedRoot: root that the configuration maps to a role is that role, which
// may do nothing but what policies say, even if root is listed as an administrator.
func TestMappedRoot(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Tables: fmt.Sprintf(`[admins]
users = ["root", "0"]
groups = ["0"]
[[principals.map]]
user = "0"
arn = "arn:aws:iam::%s:role/web"
`, rig.Account)})
	if _, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{}); err == nil || !strings.Contains(err.Error(), "assumed-role/web/root") {
		t.Errorf("CreateKey: %v", err)
	}
	for _, q := range []struct{ method, path, body string }{
		{"GET", "/status", ""},
		{"GET", "/metrics", ""},
		{"POST", "/reload", "{}"},
		{"POST", "/confirm-clock", "{}"},
		{"POST", "/accept-state", "{}"},
		{"POST", "/recover", "{}"},
		{"POST", "/audit/verify", "{}"},
		{"POST", "/audit/prune", "{}"},
		{"POST", "/audit/read", "{}"},
	} {
		if status, text := r.Ask(t, q.method, q.path, q.body); status != http.StatusForbidden {
			t.Errorf("%s: %d %s", q.path, status, text)
		}
	}
}
