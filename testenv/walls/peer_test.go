package walls_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/spy"
)

// TestPluginAtTheSocket: a module that was taken over, in a sandbox that the token
// needs open for sockets, has the user of the daemon, who is an administrator. The
// daemon turns it away.
func TestPluginAtTheSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	report := filepath.Join(dir, "report")
	if err := os.WriteFile(report, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tok := testenv.NewToken(t)
	r := rig.New(t, rig.Config{
		Token: tok, Module: spy.Build(t), Dir: dir,
		// Without the slash: what the environment names is open to the plugin.
		Env:    map[string]string{"SPY_REPORT": "." + report, "SPY_MODULE": tok.Module, "SPY_SOCKET": "." + filepath.Join(dir, "socket-of-the-daemon")},
		Tables: "sandbox = { network = true, writable = [\"" + report + "\"], readable = [\"" + tok.Module + "\"] }\n",
	})
	if err := os.Symlink(r.Socket, filepath.Join(dir, "socket-of-the-daemon")); err != nil {
		t.Fatal(err)
	}
	if status, text := r.Ask(t, http.MethodPost, "/reload", "{}"); status != http.StatusOK { // new processes, while it serves
		t.Fatalf("reload: %d %s", status, text)
	}
	results := spy.Report(t, report)
	if got := results["ask-daemon"]; got != "ECONNRESET" && got != "EPIPE" {
		t.Errorf("asking the daemon: %q, want the connection closed", got)
	}
	if results["unix-socket"] != "done" {
		t.Errorf("the module has no sockets: %v", results)
	}
	if !strings.Contains(r.Log(), "do not trust its PKCS#11 module") {
		t.Error("the log does not say so")
	}
	if _, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
		t.Errorf("CreateKey: %v", err)
	}
}
