package plugins_test

import (
	"os"
	"path/filepath"
	"testing"

	"cmkd/backends"
	"cmkd/plugins"
)

// TestSpent: a process that has no room for a call is replaced, while it goes on with the
// others. The caller notices nothing, and the token does not count as lost.
func TestSpent(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, nil))
	pid := h.Status().PID
	calls, stop := load(t, h, 8)
	mustEncrypt(t, h, "once "+filepath.Join(t.TempDir(), "spent")+" spent")
	progress(t, calls, 100)
	stop()
	if s := h.Status(); s.PID == pid || s.Restarts != 0 || s.Phase != plugins.Ready || h.Losses() != 0 {
		t.Errorf("after a process was spent: %+v, %d losses; it was process %d", s, h.Losses(), pid)
	}
}

// TestSpentAlways: a call for which no process has room ends, and the last one goes on.
func TestSpentAlways(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, nil))
	_, err := h.Encrypt(t.Context(), &backends.EncryptRequest{AAD: []byte("spent")})
	if backends.CodeOf(err) != backends.Lost {
		t.Errorf("a call that no process has room for: %v", err)
	}
	mustEncrypt(t, h, "")
}

// TestSpentAlone: so does one whose process cannot be replaced.
func TestSpentAlone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "broken")
	h := start(t, spec(t, map[string]string{"while-exists": file, "open-error": string(backends.Lost)}))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.Encrypt(t.Context(), &backends.EncryptRequest{AAD: []byte("spent")})
	if backends.CodeOf(err) != backends.Lost {
		t.Errorf("a call that the only process has no room for: %v", err)
	}
	mustEncrypt(t, h, "")
	if s := h.Status(); s.Restarts != 0 {
		t.Errorf("%d processes were lost", s.Restarts)
	}
}

// TestSpentUnsure: a creation that was made again counts as one that the token may go on with, if
// the process that was spent says so.
func TestSpentUnsure(t *testing.T) {
	t.Parallel()
	for order, want := range map[string]int{"Spent": 0, "Spent unsure": 1} {
		h := start(t, spec(t, map[string]string{"create-error": order, "create-once": filepath.Join(t.TempDir(), "spent"), "keys": "0"}))
		if _, err := h.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: backends.Key{ID: backends.KeyID{1}, Spec: backends.AES256}}); err != nil {
			t.Fatalf("%s: %v", order, err)
		}
		if n := h.Losses(); n != want {
			t.Errorf("%s: %d losses, want %d", order, n, want)
		}
	}
}
