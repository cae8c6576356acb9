package walls_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkd/daemon"
	"cmkd/testenv/rig"
)

// TestAnotherProgram puts a plugin of another kind in the place of cmkd-symmetric: a
// reload refuses it and the old process goes on, a process that has crashed is not
// replaced by it, and the daemon does not start with it. The right program comes back
// into service on its own.
func TestAnotherProgram(t *testing.T) {
	t.Parallel()
	bin, tables := rig.Dir(t), ""
	install := func(program, as string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(rig.Binaries(t), "cmkd-"+program))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(bin, as)
		if err := os.WriteFile(path+".new", text, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"symmetric", "asymmetric", "hmac"} {
		install(p, p)
		tables += fmt.Sprintf("[[plugin]]\nname = %q\npath = %q\n", p, filepath.Join(bin, p))
	}
	r := rig.New(t, rig.Config{Tables: tables})
	status, key := r.Post(t, "CreateKey", "{}")
	if status != http.StatusOK {
		t.Fatalf("CreateKey: %d %v", status, key)
	}
	encrypt := fmt.Sprintf(`{"KeyId":%q,"Plaintext":"cGxhaW4="}`, key["KeyMetadata"].(map[string]any)["KeyId"])
	refused := func(how, said string) {
		t.Helper()
		for _, want := range []string{filepath.Join(bin, "symmetric"), "it serves HMAC_224, HMAC_256, HMAC_384, HMAC_512, and not SYMMETRIC_DEFAULT", "restart the daemon"} {
			if !strings.Contains(said, want) {
				t.Errorf("%s: %s, want %q in it", how, said, want)
			}
		}
	}

	install("hmac", "symmetric")
	status, text := r.Ask(t, http.MethodPost, "/reload", "{}")
	if status != http.StatusUnprocessableEntity {
		t.Errorf("the reload takes it: %d", status)
	}
	refused("reload", text)
	if status, answer := r.Post(t, "Encrypt", encrypt); status != http.StatusOK {
		t.Errorf("beside a refused reload: %d %v", status, answer)
	}

	for _, p := range r.Status(t).Plugins {
		if p.Name == "symmetric" {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if status, answer := r.Post(t, "Encrypt", encrypt); status != http.StatusInternalServerError {
		t.Errorf("after a crash: %d %v", status, answer)
	}
	_, text = r.Ask(t, http.MethodGet, "/status", "")
	refused("status", text)

	install("symmetric", "symmetric")
	for deadline := time.Now().Add(time.Minute); ; {
		status, answer := r.Post(t, "Encrypt", encrypt)
		if status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with the right program: %d %v", status, answer)
		}
	}

	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, as := range []string{"symmetric", "asymmetric", "hmac"} { // none has what any other has
		install("asymmetric", as)
	}
	d, err := daemon.Open(t.Context(), r.Path, slog.New(slog.DiscardHandler))
	if err == nil {
		_ = d.Close(t.Context())
		t.Fatal("the daemon starts")
	}
	if !strings.Contains(err.Error(), ", and not SYMMETRIC_DEFAULT") {
		t.Errorf("start: %v", err)
	}
}
