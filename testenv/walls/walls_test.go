// Package walls_test attacks a whole daemon from where an attacker may stand: a
// plugin that was taken over, files that others can change, root in the clothes of
// somebody else.
package walls_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// ask sends a request to the daemon as the test's user.
func ask(t *testing.T, r *rig.Rig, method, path, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	c := r.HTTP()
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

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
	} {
		if status, text := ask(t, r, q.method, q.path, q.body); status != http.StatusForbidden {
			t.Errorf("%s: %d %s", q.path, status, text)
		}
	}
}
