package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

const encryptPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Encrypt","Resource":"*"}]}`

// TestFailedReload: a reload that does not take place is seen by whoever asked for
// it, in the status and in the metrics.
func TestFailedReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "user/uid-61002/use.json")
	write := func(text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(encryptPolicy)
	r := rig.New(t, rig.Config{World: true, Extra: fmt.Sprintf("identity_policies = %q", dir)})
	id := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{})
	check := func(what string, wantOK bool, userCode, status string) {
		t.Helper()
		out, ok := rig.Cmkctl(t, r, "reload")
		if ok != wantOK || !ok && !strings.Contains(out, "use.json") {
			t.Errorf("%s: reload: %t\n%s", what, ok, out)
		}
		rig.Outcome(t, what, rig.EncryptWith(t, r.As(t, rig.App), id), userCode)
		out, ok = rig.Cmkctl(t, r, "status")
		if ok != wantOK || !strings.Contains(out, status) {
			t.Errorf("%s: status: %t, want %q in\n%s", what, ok, status, out)
		}
		metric := map[bool]string{true: "cmkd_last_reload_successful 1\n", false: "cmkd_last_reload_successful 0\n"}[wantOK]
		if out, _ := rig.Cmkctl(t, r, "metrics"); !strings.Contains(out, metric) {
			t.Errorf("%s: the metrics have not %s", what, metric)
		}
	}
	check("as it was", true, "", "state")
	write(strings.Replace(encryptPolicy, "Allow", "Denny", 1))
	check("a typing error in what revokes", false, "", "use.json")
	write(strings.Replace(encryptPolicy, "Allow", "Deny", 1))
	check("revoked", true, rig.Denied, "state")

	if err := os.MkdirAll(filepath.Join(dir, "user/no-such-user"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(strings.Replace(encryptPolicy, `"Resource":"*"`, `"Resource":"*","Condition":{"Null":{"kms:Typo":"true"}}`, 1))
	check("what a reload takes", true, "", "no-such-user are for nobody")
	if out, _ := rig.Cmkctl(t, r, "reload"); !strings.Contains(out, "user/uid-61002/use has the condition key kms:Typo") {
		t.Errorf("the reload does not warn:\n%s", out)
	}

	if err := os.Chmod(r.Token.PINFile, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"reload", "status"} { // the status is of the reload before
		if out, ok := rig.Cmkctl(t, r, command); !ok || !strings.Contains(out, "token main: every user can read the PIN file "+r.Token.PINFile+": its mode is 0644") {
			t.Errorf("a PIN that everybody reads: %s: %t\n%s", command, ok, out)
		}
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/reload", nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := rig.Do(t, r.HTTPAs(t, rig.App), req); status != http.StatusForbidden {
		t.Errorf("a user reloads: %d", status)
	}
	if !strings.Contains(r.AuditTrail(t), `"eventName":"ReloadConfiguration"`) {
		t.Error("the reloads are not recorded")
	}
}

// TestCheck: cmkd -check reads what a start reads.
func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pin, policies, plugin := filepath.Join(dir, "pin"), filepath.Join(dir, "policies"), filepath.Join(dir, "plugin")
	module := filepath.Join(dir, "module.so")
	library, err := os.ReadFile(testenv.Module(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{policies, filepath.Join(policies, "user"), filepath.Join(policies, "user/uid-61001"), filepath.Join(policies, "user/nobody-at-all")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	policy, theirs, root := filepath.Join(policies, "user/uid-61001/a.json"), filepath.Join(dir, "theirs"), filepath.Join(dir, "root.pem")
	if err := errors.Join(os.Mkdir(theirs, 0o755), os.Chown(theirs, 61003, 61003)); err != nil {
		t.Fatal(err)
	}
	write := func(file, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	good := fmt.Sprintf("account = \"123456789012\"\nstate_dir = %q\nidentity_policies = %q\n[socket]\npath = \"/run/s\"\n"+
		"[[token]]\nname = \"main\"\nmodule = %q\nlabel = \"l\"\npin_file = %q\n[[plugin]]\nname = \"symmetric\"\npath = %q\nsha256 = \"%x\"\n",
		filepath.Join(dir, "state"), policies, module, pin, plugin, sha256.Sum256([]byte("program")))
	config := filepath.Join(dir, "config.toml")
	for _, tt := range []struct {
		what   string
		change func()
		wants  string // "": it passes
	}{
		{"all right", func() {}, ""},
		{"a policy with a typing error", func() { write(policy, strings.Replace(encryptPolicy, "Allow", "Alow", 1), 0o644) }, "a.json"},
		{"a policy that others write", func() { write(policy, encryptPolicy, 0o666) }, "written by others"},
		{"a PIN that others change", func() { write(pin, "1234", 0o622) }, "pin_file: " + pin + " can be written by others: its mode is 0622, its owner uid 0 (root), its group gid 0: run chmod go-w " + pin},
		{"a plugin that others change", func() { write(plugin, "program", 0o757) }, "plugin symmetric: " + plugin + " can be written by others"},
		{"a module that others change", func() { write(module, string(library), 0o757) }, "token main: module: " + module + " can be written by others"},
		{"a module that is none", func() { write(module, "program", 0o755) }, module + " is not a PKCS#11 library"},
		{"a configuration that others change", func() { write(config, good, 0o602) }, config + " can be written by others: its mode is 0602"},
		{"a state folder of another user", func() {
			write(config, strings.Replace(good, filepath.Join(dir, "state"), theirs, 1), 0o600)
		}, "state_dir: " + theirs + " belongs to uid 61003"},
		{"an audit folder in a folder of another user", func() {
			write(config, "audit_dir = \""+filepath.Join(theirs, "audit")+"\"\n"+good, 0o600)
		}, "audit_dir: " + theirs + " belongs to uid 61003"},
		{"a root that others change", func() {
			write(root, "", 0o666)
			write(config, "attestation_roots = [\""+root+"\"]\n"+good, 0o600)
		}, "attestation_roots: " + root + " can be written by others"},
		{"no PIN", func() { write(pin, "\n", 0o400) }, "is empty"},
		{"another plugin", func() { write(plugin, "another", 0o755) }, "has the SHA-256"},
		{"a plugin that cannot be run", func() { write(plugin, "program", 0o644) }, "has the mode 0644: run chmod a+x " + plugin},
		{"no module", func() { write(config, strings.Replace(good, "module = \""+module, "module = \"/no/such.so", 1), 0o600) }, "/no/such.so"},
		{"an unknown group", func() {
			write(config, strings.Replace(good, "[socket]", "[socket]\ngroup = \"no-such-group\"", 1), 0o600)
		}, "no-such-group"},
		{"an unknown administrator", func() { write(config, good+"[admins]\nusers = [\"no-such-user\"]\n", 0o600) }, "no-such-user"},
		{"no roots", func() { write(config, "attestation_roots = [\"/no/root.pem\"]\n"+good, 0o600) }, "/no/root.pem"},
		{"no secret", func() {
			write(config, good+"[[access_key]]\nid = \"AKIAIOSFODNN7EXAMPLE\"\nsecret_file = \"/no/secret\"\nprincipal = \"arn:aws:iam::123456789012:user/a\"\n", 0o600)
		}, "/no/secret"},
	} {
		write(config, good, 0o600)
		write(policy, encryptPolicy, 0o644)
		write(pin, "1234", 0o400)
		write(plugin, "program", 0o755)
		write(module, string(library), 0o755)
		tt.change()
		out, err := exec.CommandContext(t.Context(), filepath.Join(rig.Binaries(t), "cmkd"), "-check", "-config", config).CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if (err == nil) != (tt.wants == "") || !strings.Contains(string(out), tt.wants) {
			t.Errorf("%s: %v, want %q in\n%s", tt.what, err, tt.wants, out)
		}
		if tt.wants == "" && !strings.Contains(string(out), "warning: the identity policies of user/nobody-at-all are for nobody") {
			t.Errorf("%s: the unknown user is not warned of:\n%s", tt.what, out)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the check has made the state folder: %v", err)
	}
}
