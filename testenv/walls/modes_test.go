package walls_test

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/daemon"
	"cmkd/testenv/rig"
)

// TestOthersCannotChangeFiles: what the daemon believes or runs must be out of the
// reach of other users, at the start and at each reload. A world-writable
// configuration would make whoever likes it an administrator.
func TestOthersCannotChangeFiles(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files to other users, so it must run as root")
	}
	const user = 61007
	r := rig.New(t, rig.Config{})
	state, tokens := filepath.Join(r.Dir, "s"), filepath.Join(filepath.Dir(r.Token.ConfFile), "tokens")
	for _, c := range []struct {
		what, path string
		spoil      func(path string) error
		want       string
	}{
		{"configuration", r.Path, func(p string) error { return os.Chmod(p, 0o666) }, "mode is 0666"},
		{"configuration of another user", r.Path, func(p string) error { return os.Chown(p, user, user) }, "belongs to uid 61007"},
		{"folder of the configuration", r.Dir, func(p string) error { return os.Chmod(p, 0o777) }, "mode is 0777"},
		{"state folder", state, func(p string) error { return os.Chmod(p, 0o722) }, "state_dir: " + state},
		{"state folder with the sticky bit", state, func(p string) error { return os.Chmod(p, 0o777|os.ModeSticky) }, "state_dir: " + state},
		{"audit folder", filepath.Join(state, "audit"), func(p string) error { return os.Chown(p, user, -1) }, "audit_dir: "},
		{"PIN file", r.Token.PINFile, func(p string) error { return os.Chmod(p, 0o602) }, "pin_file: " + r.Token.PINFile},
		{"folder of the PIN file", filepath.Dir(r.Token.PINFile), func(p string) error { return os.Chown(p, user, -1) }, "pin_file: " + filepath.Dir(r.Token.PINFile)},
		{"SoftHSM2's configuration", r.Token.ConfFile, func(p string) error { return os.Chmod(p, 0o606) }, "env SOFTHSM2_CONF: " + r.Token.ConfFile},
		{"folder of SoftHSM2's tokens", tokens, func(p string) error { return os.Chmod(p, 0o722) }, "directories.tokendir in " + r.Token.ConfFile + ": " + tokens},
		{"folder of SoftHSM2's tokens of another user", tokens, func(p string) error { return os.Chown(p, user, -1) }, "directories.tokendir in "},
	} {
		was, err := os.Stat(c.path)
		if err != nil {
			t.Fatal(err)
		}
		check := func(how string, said string) {
			t.Helper()
			if !strings.Contains(said, c.want) || !strings.Contains(said, "run ch") && !strings.Contains(said, ", chown ") {
				t.Errorf("%s, %s: %s, want %q and what to run", c.what, how, said, c.want)
			}
		}
		if err := c.spoil(c.path); err != nil {
			t.Fatal(err)
		}
		status, text := r.Ask(t, http.MethodPost, "/reload", "{}")
		if status == http.StatusOK {
			t.Errorf("%s: the reload takes it", c.what)
		}
		check("reload", text)
		d, err := daemon.Open(t.Context(), r.Path, slog.New(slog.DiscardHandler))
		if err == nil {
			_ = d.Close(t.Context())
			t.Fatalf("%s: the daemon starts", c.what)
		}
		check("start", err.Error())
		_, err = daemon.Check(r.Path)
		if err == nil {
			t.Fatalf("%s: -check takes it", c.what)
		}
		check("-check", err.Error())
		if err := os.Chown(c.path, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(c.path, was.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	if status, text := r.Ask(t, http.MethodPost, "/reload", "{}"); status != http.StatusOK {
		t.Errorf("as it was: %d %s", status, text)
	}
}

// TestPublishedKeyReplacesLink: a link where the daemon publishes its audit key is
// replaced, and what it leads to is not written.
func TestPublishedKeyReplacesLink(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	keys, err := filepath.Glob(filepath.Join(r.Dir, "s", "audit-key-*.pem"))
	if err != nil || len(keys) != 1 {
		t.Fatalf("published keys: %v, %v", keys, err)
	}
	key, err := os.ReadFile(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(r.Dir, "victim")
	for _, err := range []error{os.WriteFile(victim, []byte("text"), 0o600), os.Remove(keys[0]), os.Symlink(victim, keys[0]), os.Symlink(victim, keys[0]+".new")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.Start(t)
	if text, err := os.ReadFile(victim); err != nil || string(text) != "text" {
		t.Errorf("what the link led to has %q, %v", text, err)
	}
	if info, err := os.Lstat(keys[0]); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o644 {
		t.Errorf("the published key is %v, %v", info, err)
	}
	if text, err := os.ReadFile(keys[0]); err != nil || string(text) != string(key) {
		t.Errorf("the published key has changed: %v", err)
	}
}
