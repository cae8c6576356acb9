// Package duties holds tests of who may what without being an administrator: auditors,
// operators and monitors, at every endpoint and for every operation.
package duties

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/socket/kmsapi"
	"cmkd/testenv/rig"
)

// people, in the order of the columns below.
var people = []struct {
	name string
	user rig.User
}{
	{"admin", rig.User{UID: 62001, GID: 62001}},
	{"auditor", rig.User{UID: 62002, GID: 62002}},
	{"operator", rig.User{UID: 62003, GID: 62003}},
	{"monitor", rig.User{UID: 62004, GID: 62004}},
	{"user", rig.User{UID: 62005, GID: 62005}},
}

const tables = `
[admins]
users = ["62001"]
[auditors]
users = ["62002"]
groups = ["62100"]
[operators]
users = ["62003"]
[monitors]
users = ["62004"]
`

// call makes a request as a user.
func call(t *testing.T, c *http.Client, method, path, target, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if target != "" {
		req.Header.Set("Content-Type", "application/x-amz-json-1.1")
		req.Header.Set("X-Amz-Target", "TrentService."+target)
	}
	status, _, answer = rig.Do(t, c, req)
	return status, answer
}

// TestEndpoints asks every endpoint as everybody.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: tables})
	id := newKey(t, r)
	question := `{"action":"kms:Encrypt","key":"` + id + `","as":"root"}`
	for _, e := range []struct {
		method, path, body string
		may                string // initials of people
	}{
		{"GET", "/status", "", "admin auditor operator monitor"},
		{"GET", "/metrics", "", "admin auditor operator monitor"},
		{"GET", "/recipient", "", "admin auditor operator monitor user"},
		{"POST", "/confirm-clock", "", "admin"},
		{"POST", "/accept-state", "", "admin"},
		{"POST", "/recover", "{}", "admin operator"},
		{"POST", "/backup", "", "admin operator"},
		{"POST", "/backup/verify", "{}", "admin auditor operator"},
		{"POST", "/reload", "", "admin operator"},
		{"POST", "/audit/verify", "", "admin auditor"},
		{"POST", "/audit/read", `{"sequence":1}`, "admin auditor"},
		{"POST", "/audit/prune", `{"before":"no time"}`, "admin"},
		{"POST", "/policy/explain", question, "admin auditor"},
		{"POST", "/policy/who", strings.Replace(question, `,"as":"root"`, "", 1), "admin auditor"},
		{"POST", "/policy/check", `{}`, "admin auditor"},
		{"POST", "/policy/key", `{"admins":["root"],"users":[]}`, "admin auditor operator monitor user"},
	} {
		var may []string
		for _, p := range people {
			c := r.HTTPAs(t, p.user)
			status, answer := call(t, c, e.method, e.path, "", e.body)
			if status != http.StatusForbidden {
				may = append(may, p.name)
			} else if !strings.Contains(answer, "only root and the configuration's admins") {
				t.Errorf("%s as %s: %q", e.path, p.name, answer)
			}
		}
		if got := strings.Join(may, " "); got != e.may {
			t.Errorf("%s %s: %s may, want %s", e.method, e.path, got, e.may)
		}
	}
}

func newKey(t *testing.T, r *rig.Rig) string {
	t.Helper()
	made, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	return *made.KeyMetadata.KeyId
}

// seen are the actions that auditors have on keys that the account decides on.
var seen = []string{
	"kms:DescribeCustomKeyStores", "kms:DescribeKey", "kms:GetKeyLastUsage", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
	"kms:GetPublicKey", "kms:ListAliases", "kms:ListGrants", "kms:ListKeyPolicies", "kms:ListKeyRotations", "kms:ListKeys",
	"kms:ListResourceTags", "kms:ListRetirableGrants",
}

// explained is whether a user may do something with the key, as an administrator is told.
func explained(t *testing.T, admin *http.Client, u rig.User, action, key string) bool {
	t.Helper()
	question, err := json.Marshal(map[string]string{"as": u.ARN(), "action": action, "key": key})
	if err != nil {
		t.Fatal(err)
	}
	status, answer := call(t, admin, "POST", "/policy/explain", "", string(question))
	var out struct{ Allowed bool }
	if err := json.Unmarshal([]byte(answer), &out); status != http.StatusOK || err != nil {
		t.Errorf("%s: %d %s", action, status, answer)
	}
	return out.Allowed
}

// TestOperations asks for every operation who may do it with a key of which the account
// decides.
func TestOperations(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: tables})
	id, admin := newKey(t, r), r.HTTP()
	for _, p := range people {
		var allowed, all []string
		for _, op := range kmsapi.Operations {
			actions := []string{"kms:" + op.Name}
			if op.Name == "ReEncrypt" {
				actions = []string{"kms:ReEncryptFrom", "kms:ReEncryptTo"}
			}
			for _, action := range actions {
				all = append(all, action)
				if explained(t, admin, p.user, action, id) {
					allowed = append(allowed, action)
				}
			}
		}
		slices.Sort(allowed)
		slices.Sort(all)
		if want := map[string][]string{"admin": all, "auditor": seen}[p.name]; !slices.Equal(allowed, want) {
			t.Errorf("%s: %v, want %v", p.name, allowed, want)
		}
	}
}

// TestCalls makes some of the calls, and with a key whose policy does not hand over to the
// account: that keeps auditors out, as it keeps administrators.
func TestCalls(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: tables})
	id := newKey(t, r)
	closed := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + people[4].user.ARN() + `"},"Action":"kms:*","Resource":"*"}]}`
	made, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{Policy: &closed, BypassPolicyLockoutSafetyCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	other := *made.KeyMetadata.KeyId
	for _, c := range []struct{ operation, body, may string }{
		{"DescribeKey", `{"KeyId":"` + id + `"}`, "admin auditor"},
		{"DescribeKey", `{"KeyId":"` + other + `"}`, "user"},
		{"GetKeyPolicy", `{"KeyId":"` + id + `"}`, "admin auditor"},
		{"GetKeyPolicy", `{"KeyId":"` + other + `"}`, "user"},
		{"ListKeys", `{}`, "admin auditor"},
		{"ListGrants", `{"KeyId":"` + id + `"}`, "admin auditor"},
		{"Encrypt", `{"KeyId":"` + id + `","Plaintext":"AAAA"}`, "admin"},
		{"GenerateRandom", `{"NumberOfBytes":8}`, "admin"},
		{"GetParametersForImport", `{"KeyId":"` + id + `","WrappingAlgorithm":"RSAES_OAEP_SHA_256","WrappingKeySpec":"RSA_2048"}`, "admin"},
		{"CreateKey", `{}`, "admin"},
		{"PutKeyPolicy", `{"KeyId":"` + id + `","Policy":"{}"}`, "admin"},
		{"TagResource", `{"KeyId":"` + id + `","Tags":[{"TagKey":"a","TagValue":"b"}]}`, "admin"},
		{"DisableKey", `{"KeyId":"` + id + `"}`, "admin"},
	} {
		var may []string
		for _, p := range people {
			if _, answer := call(t, r.HTTPAs(t, p.user), "POST", "/", c.operation, c.body); !strings.Contains(answer, "AccessDeniedException") {
				may = append(may, p.name)
			}
		}
		if got := strings.Join(may, " "); got != c.may {
			t.Errorf("%s %s: %s may, want %s", c.operation, c.body, got, c.may)
		}
	}
}

// TestByGroup: a group has duties as a user has, and loses them with a reload.
func TestByGroup(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: tables})
	c := r.HTTPAs(t, rig.User{UID: 62006, GID: 62006, Groups: []uint32{62100}})
	if status, answer := call(t, c, "POST", "/", "ListKeys", "{}"); status != http.StatusOK {
		t.Errorf("an auditor by the group: %d %s", status, answer)
	}
	config, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path, []byte(strings.Replace(string(config), `groups = ["62100"]`, "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Daemon.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, answer := call(t, c, "POST", "/", "ListKeys", "{}"); !strings.Contains(answer, "AccessDeniedException") {
		t.Errorf("an auditor no more: %d %s", status, answer)
	}
	if status, answer := call(t, c, "POST", "/audit/verify", "", ""); status != http.StatusForbidden {
		t.Errorf("an auditor no more: %d %s", status, answer)
	}
}
