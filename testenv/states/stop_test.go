package states_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// stopLimit is TimeoutStopSec of the packaged unit: systemd kills then.
const stopLimit = 40 * time.Second

// TestStopWhileHanging: a call that hangs in the token does not keep the daemon
// from ending in time, and is answered.
func TestStopWhileHanging(t *testing.T) {
	t.Parallel()
	token := testenv.NewToken(t)
	module := shim.New(t, token.Module)
	env := map[string]string{}
	for _, e := range module.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	r := rig.New(t, rig.Config{Process: true, Token: token, Module: module.Path, Env: env})
	c := r.Client("")
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	before := module.Control.Calls("C_Encrypt")
	module.Control.Set("C_Encrypt", shim.Hang)
	answered := make(chan error, 1)
	go func() {
		_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("text")})
		answered <- err
	}()
	eventually(t, "the call hangs", func() bool { return module.Control.Calls("C_Encrypt") > before })
	began := time.Now()
	_ = r.Stop() // it was cut off: the exit status says so
	if took := time.Since(began); took > stopLimit {
		t.Errorf("the daemon took %s to end", took)
	} else {
		t.Logf("the daemon took %s to end", took)
	}
	switch got := rig.Code(<-answered); got {
	case "DependencyTimeoutException", "KeyUnavailableException":
	default:
		t.Errorf("the call was answered %q, want a 5xx", got)
	}
	module.Control.ClearAll()
	r.Start(t)
	if err := rig.EncryptWith(t, r.Client(""), id); err != nil {
		t.Error(err)
	}
}

// TestStaleFolders: what the plugins of a daemon that was killed leave goes with
// the next start.
func TestStaleFolders(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	folders := func() map[string]bool {
		entries, err := os.ReadDir(filepath.Join(r.Dir, "s", "plugins"))
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, e := range entries {
			names[e.Name()] = true
		}
		return names
	}
	before := folders()
	if len(before) == 0 {
		t.Fatal("plugins have no folders")
	}
	for range 2 {
		r.Kill()
		r.Start(t)
	}
	after := folders()
	if len(after) > len(before) {
		t.Errorf("%d folders, want %d", len(after), len(before))
	}
	for name := range after {
		if before[name] {
			t.Errorf("%s is left of a daemon that was killed", name)
		}
	}
}
