package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// hostileText would clear a terminal, make up a line, set the title, hide what
// follows and turn it round.
const hostileText = "a\x1b[2J\x1b]0;title\x07\x9b1m\r\nFORGED\tline\x7f\u009b31m\u0085\u2028\u2029\u202eevil\u2066\u200f\x00z"

// written is what a terminalWriter makes of texts, written one after the other.
func written(t testing.TB, texts ...[]byte) string {
	t.Helper()
	var out bytes.Buffer
	w := &terminalWriter{to: &out}
	for _, text := range texts {
		if n, err := w.Write(text); err != nil || n != len(text) {
			t.Fatalf("Write: %d of %d, %v", n, len(text), err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// shown reports whether a terminal shows all of a text.
func shown(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return obeyed(r) && r != '\n' && r != '\t' })
}

func TestTerminalWriter(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain é 漢 😀\n\tx":         "plain é 漢 😀\n\tx",
		"\x1b[31m":                 `\u001b[31m`,
		"a\rb\x00\x7f\u0085\u009b": `a\u000db\u0000\u007f\u0085\u009b`,
		"\u2028\u202e\u2066\ufeff": `\u2028\u202e\u2066\ufeff`,
		"\x9b1m\xff":               `\x9b1m\xff`,
		"cut \xe6\xbc":             `cut \xe6\xbc`,
		"�":                        "�", // as it was sent
	} {
		if got := written(t, []byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		var each [][]byte
		for _, b := range []byte(in) {
			each = append(each, []byte{b})
		}
		if got := written(t, each...); got != want {
			t.Errorf("%q byte by byte: %q, want %q", in, got, want)
		}
	}
}

// FuzzTerminalWriter: whatever is written, in whatever pieces, a terminal shows it;
// JSON stays JSON of the same values; and a quoted text is one line.
func FuzzTerminalWriter(f *testing.F) {
	f.Add([]byte(hostileText), uint(3))
	f.Add([]byte("{\"a\":\"\u009b\u202e\u2028\"}\n"), uint(9))
	f.Add([]byte("\xf0\x9f\x98"), uint(1))
	f.Fuzz(func(t *testing.T, text []byte, cut uint) {
		whole := written(t, text)
		at := int(cut % uint(len(text)+1))
		if parts := written(t, text[:at], text[at:]); parts != whole {
			t.Errorf("in pieces %q, at once %q", parts, whole)
		}
		if !shown(whole) {
			t.Errorf("%q", whole)
		}
		if shown(string(text)) && whole != string(text) {
			t.Errorf("%q becomes %q", text, whole)
		}
		if q := quote(string(text)); strings.ContainsFunc(q, obeyed) {
			t.Errorf("quoted %q", q)
		}
		var was, is any
		if json.Unmarshal(text, &was) == nil && utf8.Valid(text) && !bytes.ContainsRune(text, '\r') {
			if err := json.Unmarshal([]byte(whole), &is); err != nil || !reflect.DeepEqual(was, is) {
				t.Errorf("JSON %q becomes %q: %v", text, whole, err)
			}
		}
	})
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	type inner struct{ Text string }
	v := struct {
		Text    string
		List    []string
		Map     map[string]inner
		Pointer *inner
		Any     any
		hidden  string
		Number  int
	}{"a\nb", []string{"a\tb"}, map[string]inner{"k\n": {"v\n"}}, &inner{"p\x1b"}, []any{1}, "h\n", 7}
	printable(&v)
	if v.Text != `a\u000ab` || v.List[0] != `a\u0009b` || v.Map[`k\u000a`].Text != `v\u000a` || len(v.Map) != 1 || v.Pointer.Text != `p\u001b` || v.hidden != "h\n" || v.Number != 7 {
		t.Errorf("%+v", v)
	}
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
	quoted, err := json.Marshal(strings.ToValidUTF8(hostileText, "?"))
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
			if err := json.Unmarshal(out.Bytes(), &answer); err != nil || answer.Text != strings.ToValidUTF8(hostileText, "?") {
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
			_, _ = w.Write([]byte(hostileText))
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
			http.Error(w, hostileText, http.StatusForbidden)
		}
	})
}
