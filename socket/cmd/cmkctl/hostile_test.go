package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

// shown reports whether a terminal shows all of a text.
func shown(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' })
}

// TestHostileDaemon: what a daemon answers, or others have it answer, reaches the
// terminal as text, in its own place.
func TestHostileDaemon(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "cmkctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	quoted, err := json.Marshal(strings.ToValidUTF8(clitest.HostileText, "?"))
	if err != nil {
		t.Fatal(err)
	}
	raw := strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029").Replace(string(quoted))
	server := &http.Server{Handler: hostile(raw)} //nolint:gosec // of a test
	go server.Serve(l)
	t.Cleanup(func() { _ = server.Close() })
	for _, line := range []string{
		"status", "status --json", "doctor", "doctor -o json", "metrics", "reload", "recover", "accept-state", "confirm-clock",
		"audit verify", "audit prune --keep 1h", "policy explain --as a --action kms:Decrypt", "policy who --key k --action kms:Decrypt",
		"call ListAliases", "call Refuse", "key create", "key create --alias a", "nonsense \x1b[2J", "status --flag\x1b[2J", "call \x9b",
	} {
		var out, errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "cmkctl", append([]string{"--socket", socket}, strings.Fields(line)...)...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		runErr := cmd.Run()
		for name, text := range map[string]string{"output": out.String(), "errors": errs.String()} {
			if !shown(text) {
				t.Errorf("%q: %s %q", line, name, text)
			}
			if strings.Contains("\n"+text, "\nFORGED") && line != "metrics" { // which are lines
				t.Errorf("%q: the %s have a line of the daemon's: %q", line, name, text)
			}
		}
		if line == "call ListAliases" {
			var answer struct{ Text string }
			if err := json.Unmarshal(out.Bytes(), &answer); err != nil || answer.Text != strings.ToValidUTF8(clitest.HostileText, "?") {
				t.Errorf("JSON: %q, %v", out.String(), err)
			}
		}
		if out.Len()+errs.Len() == 0 {
			t.Errorf("%q says nothing: %v", line, runErr)
		}
	}
}

// hostile answers with the text, which is in JSON, wherever there may be one.
func hostile(text string) http.Handler {
	const members = `"state":T,"version":T,"account":T,"regions":[T],"reloadError":T,"stateMismatch":T,"auditMismatch":T,"warnings":[T],
		"auditDisk":{"warning":T},"tokens":[{"name":T,"label":T,"serial":T,"model":T,"state":T}],
		"plugins":[{"name":T,"token":T,"state":T,"lastError":T,"hanging":T,"facts":{T:T},"unsupported":{T:T}}]`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fill := func(form string) []byte { return []byte(strings.ReplaceAll(form, "T", text)) }
		switch {
		case r.Method == http.MethodGet && r.URL.Path == "/status":
			_, _ = w.Write(fill("{" + members + "}"))
		case r.URL.Path == "/metrics":
			_, _ = w.Write([]byte(clitest.HostileText))
		case r.URL.Path == "/policy/explain":
			_, _ = w.Write(fill(`{"principal":T,"groups":[T],"action":T,"resource":T,"keyState":T,"decision":T,"steps":[{"source":T,"effect":T,"why":T}]}`))
		case r.URL.Path == "/policy/who":
			_, _ = w.Write(fill(`{"allowed":[{"principal":T,"why":T}],"depends":[{"principal":T,"why":T}]}`))
		case r.URL.Path == "/recover":
			_, _ = w.Write(fill(`{"away":[T],"adopted":[T]}`))
		case r.URL.Path == "/reload":
			_, _ = w.Write(fill(`{"warnings":[T]}`))
		case strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".ListAliases"):
			_, _ = w.Write(fill(`{"text":T}`))
		case r.URL.Path == "/":
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write(fill(`{"__type":T,"message":T}`))
		default:
			http.Error(w, clitest.HostileText, http.StatusForbidden)
		}
	})
}
