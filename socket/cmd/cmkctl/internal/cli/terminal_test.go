package cli

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

// written is what a terminalWriter makes of texts, written one after the other.
func written(t testing.TB, texts ...[]byte) string {
	t.Helper()
	var out bytes.Buffer
	w := &TerminalWriter{To: &out}
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
	f.Add([]byte(clitest.HostileText), uint(3))
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
		if q := Quote(string(text)); strings.ContainsFunc(q, obeyed) {
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
	Printable(&v)
	if v.Text != `a\u000ab` || v.List[0] != `a\u0009b` || v.Map[`k\u000a`].Text != `v\u000a` || len(v.Map) != 1 || v.Pointer.Text != `p\u001b` || v.hidden != "h\n" || v.Number != 7 {
		t.Errorf("%+v", v)
	}
}

// TestTextWriter writes text in two pieces that cut a character, and what is none.
func TestTextWriter(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"a\tword\nü€😀":         true,
		"":                     true,
		"a\x1b[2J":             false,
		"a\rb":                 false,
		"a\xffb":               false,
		"\u202e":               false,
		"\x00":                 false,
		"cut \xe2\x82":         false,
		clitest.HostileText:    false,
		"\u009b31m and more":   false,
		"text\nthen\x07\nmore": false,
	} {
		for cut := range len(text) + 1 {
			var out bytes.Buffer
			w := &TextWriter{To: &out}
			_, err := w.Write([]byte(text[:cut]))
			if err == nil {
				_, err = w.Write([]byte(text[cut:]))
			}
			if err == nil {
				err = w.Close()
			}
			if (err == nil) != ok || ok && out.String() != text || !ok && len(text) > 0 && out.Len() == len(text) {
				t.Errorf("%q cut at %d: %q, %v", text, cut, out.String(), err)
			}
		}
	}
}
