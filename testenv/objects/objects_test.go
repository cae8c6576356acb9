// Package objects holds tests of what cmkd says of objects that a process does not see
// in the token, and of those that are not there.
package objects

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"cmkd/testenv/rig"
)

func newKey(t *testing.T, c *kms.Client, spec types.KeySpec, usage types.KeyUsageType) string {
	t.Helper()
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
	if err != nil {
		t.Fatal(err)
	}
	return *out.KeyMetadata.KeyId
}

func symmetric(t *testing.T, c *kms.Client) string {
	return newKey(t, c, types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt)
}

func elliptic(t *testing.T, c *kms.Client) string {
	return newKey(t, c, types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
}

func mac(t *testing.T, c *kms.Client) string {
	return newKey(t, c, types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac)
}

// repeating repeats calls as SDKs do by default.
func repeating(o *kms.Options) { o.Retryer = retry.NewStandard() }

func useMAC(t *testing.T, c *kms.Client, id string) error {
	_, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &id, Message: []byte("x"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256}, repeating)
	return err
}

func state(t *testing.T, c *kms.Client, id string) types.KeyState {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	return out.KeyMetadata.KeyState
}

// ask asks an operators' endpoint.
func ask(t *testing.T, r *rig.Rig, method, path, text string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	c := r.HTTP()
	defer c.CloseIdleConnections()
	answer, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// missing are the keys that POST /recover says are missing, sorted. It must find
// nothing else.
func missing(t *testing.T, r *rig.Rig) []string {
	t.Helper()
	var inv struct {
		Missing                []struct{ KeyID string }
		Found, Leftovers, Away []any
	}
	text := ask(t, r, http.MethodPost, "/recover", "{}")
	if err := json.Unmarshal([]byte(text), &inv); err != nil || len(inv.Found)+len(inv.Leftovers)+len(inv.Away) > 0 {
		t.Fatalf("POST /recover: %v %s", err, text)
	}
	var ids []string
	for _, m := range inv.Missing {
		ids = append(ids, m.KeyID)
	}
	slices.Sort(ids)
	return ids
}

// files are the object files of the token.
func files(t *testing.T, r *rig.Rig) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(r.Token.ConfFile), "*", "*", "*.object"))
	if err != nil || len(found) == 0 {
		t.Fatalf("the token has no files: %v", err)
	}
	return found
}

// filesOf are the object files that making a key adds.
func filesOf(t *testing.T, r *rig.Rig, create func()) []string {
	t.Helper()
	before := files(t, r)
	create()
	return slices.DeleteFunc(files(t, r), func(f string) bool { return slices.Contains(before, f) })
}

// hide takes files out of the token, behind the back of its processes, until the
// function is called.
func hide(t *testing.T, hidden []string) (show func()) {
	t.Helper()
	if len(hidden) == 0 {
		t.Fatal("the key has no files")
	}
	for _, f := range hidden {
		if err := os.Rename(f, f+".hidden"); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for _, f := range hidden {
			if err := os.Rename(f+".hidden", f); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func reload(t *testing.T, r *rig.Rig) {
	t.Helper()
	if err := r.Daemon.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestHiddenFromTheList: whichever plugin changed the token last, and so does not see
// what the others made, nothing is said to be missing.
func TestHiddenFromTheList(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	kinds := []func(*testing.T, *kms.Client) string{symmetric, elliptic, mac}
	for last := range kinds {
		for i := range kinds {
			kinds[(last+i+1)%len(kinds)](t, c) // kinds[last] comes last
		}
		if ids := missing(t, r); len(ids) > 0 {
			t.Errorf("after plugin %d changed the token: %v are missing", last, ids)
		}
	}
	for _, p := range r.Status(t).Plugins {
		if p.Restarts > 0 {
			t.Errorf("plugin %s was lost %d times", p.Name, p.Restarts)
		}
	}
}

// TestHiddenFromItsPlugin: a key whose plugin does not see it is not taken for missing:
// callers repeat the call, and it works.
func TestHiddenFromItsPlugin(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	var id string
	show := hide(t, filesOf(t, r, func() { id = mac(t, c) }))
	reload(t, r) // a process that has not seen the key
	mac(t, c)
	show() // the process has changed the token last: it does not look again
	if err := useMAC(t, c, id); err != nil {
		t.Errorf("GenerateMac with a key that its plugin did not see: %v", err)
	}
	if got := state(t, c, id); got != types.KeyStateEnabled {
		t.Errorf("the key is %s", got)
	}
	if ids := missing(t, r); len(ids) > 0 {
		t.Errorf("%v are missing", ids)
	}
}

// TestMissing: what is missing is known before it is used, seen by operators and
// clients, and well again when it is back and somebody looks.
func TestMissing(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	r := rig.New(t, rig.Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	c := r.Client("")
	var gone []string
	var hidden []string
	for _, kind := range []func(*testing.T, *kms.Client) string{symmetric, elliptic, mac} {
		hidden = append(hidden, filesOf(t, r, func() { gone = append(gone, kind(t, c)) })...)
	}
	there := mac(t, c)
	show := hide(t, hidden)
	reload(t, r) // as after a start
	ahead.Add(int64(2 * time.Hour))
	if err := r.Daemon.RunJobs(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range gone {
		if got := state(t, c, id); got != types.KeyStateUnavailable {
			t.Errorf("a key whose object is missing is %s", got)
		}
	}
	if got := state(t, c, there); got != types.KeyStateEnabled {
		t.Errorf("a key whose object is there is %s", got)
	}
	want := slices.Sorted(slices.Values(gone))
	if ids := missing(t, r); !slices.Equal(ids, want) {
		t.Errorf("missing are %v, want %v", ids, want)
	}
	if text := ask(t, r, http.MethodGet, "/status", ""); !strings.Contains(text, `"missingMaterials": 3`) || !strings.Contains(text, `"degraded"`) {
		t.Errorf("the status: %s", text)
	}
	if text := ask(t, r, http.MethodGet, "/metrics", ""); !strings.Contains(text, "cmkd_key_materials_missing 3") {
		t.Errorf("the metrics have no cmkd_key_materials_missing 3")
	}
	var refusal smithy.APIError
	if err := useMAC(t, c, gone[2]); !errors.As(err, &refusal) || refusal.ErrorCode() != "KMSInvalidStateException" {
		t.Errorf("GenerateMac with a missing key: %v", err)
	}

	show()
	if ids := missing(t, r); len(ids) > 0 { // looks with new processes
		t.Errorf("missing are %v when all are back", ids)
	}
	for _, id := range gone {
		if got := state(t, c, id); got != types.KeyStateEnabled {
			t.Errorf("a key whose object is there again is %s", got)
		}
	}
	if text := ask(t, r, http.MethodGet, "/status", ""); !strings.Contains(text, `"ok"`) || strings.Contains(text, "missingMaterials") {
		t.Errorf("the status: %s", text)
	}
	if err := useMAC(t, c, gone[2]); err != nil {
		t.Error(err)
	}
}

// TestUnsafe: an object that was damaged in the token is not used, and operators and
// clients see that, until it is restored.
func TestUnsafe(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	var id string
	damaged := filesOf(t, r, func() { id = mac(t, c) })
	if len(damaged) != 1 {
		t.Fatalf("the key has %d files", len(damaged))
	}
	whole, err := os.ReadFile(damaged[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged[0], whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	reload(t, r) // new processes see the object as it is
	for range 2 {
		var refusal smithy.APIError
		if err := useMAC(t, c, id); !errors.As(err, &refusal) || refusal.ErrorCode() != "KMSInvalidStateException" {
			t.Errorf("GenerateMac with a damaged key: %v", err)
		}
	}
	if got := state(t, c, id); got != types.KeyStateUnavailable {
		t.Errorf("a key whose object is damaged is %s", got)
	}
	for path, want := range map[string]string{"/status": `"unsafeMaterials"`, "/metrics": "cmkd_key_materials_unsafe 1"} {
		if text := ask(t, r, http.MethodGet, path, ""); !strings.Contains(text, want) {
			t.Errorf("%s has no %s:\n%s", path, want, text)
		}
	}
	if text := ask(t, r, http.MethodPost, "/recover", "{}"); !strings.Contains(text, `"unsafe"`) || !strings.Contains(text, id) {
		t.Errorf("recover says %s", text)
	}

	if err := os.WriteFile(damaged[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	reload(t, r)
	if err := useMAC(t, c, id); err != nil {
		t.Error(err)
	}
	if got := state(t, c, id); got != types.KeyStateEnabled {
		t.Errorf("a key whose object is restored is %s", got)
	}
	if text := ask(t, r, http.MethodGet, "/status", ""); !strings.Contains(text, `"state": "ok"`) {
		t.Errorf("the status: %s", text)
	}
}
