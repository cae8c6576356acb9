package plugins

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"cmkd/plugins/internal/stream"
)

// TestLevelOfAnEndedProcess: a process that ends by a signal, which the daemon's own
// may be, does not need anybody's attention; what else go-plugin calls an
// error is.
func TestLevelOfAnEndedProcess(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := newHostLog(slog.New(slog.NewTextHandler(&out, nil)))
	log.Error("plugin process exited", "plugin", "p", "error", errors.New("signal: killed"))
	log.Error("another", "plugin", "p")
	for _, want := range []string{`level=WARN msg="plugin process exited" executable=p error="signal: killed"`, "level=ERROR msg=another"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, out.String())
		}
	}
}

// TestLogIsBounded: whatever a plugin writes, a line of the daemon's log has a limit, and is
// cut between characters.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		message string
		args    []any
		want    []string
	}{
		"a message":        {strings.Repeat("é", longestLine), nil, []string{"é…"}},
		"one off":          {"x" + strings.Repeat("é", longestLine), nil, []string{"xé", "é…"}},
		"no UTF-8":         {strings.Repeat("\x80", 2*longestLine), nil, nil},
		"a value":          {"m", []any{"k", strings.Repeat("€", 100_000), "after", 1.0}, []string{"€…", `"after":1`}},
		"a key":            {"m", []any{strings.Repeat("k", 100_000), "v"}, []string{`kkk…":"v"`}},
		"a map":            {"m", []any{"k", map[string]any{"inner": strings.Repeat("v", 100_000)}}, []string{"inner:vvv"}},
		"many":             {"m", slices.Repeat([]any{"k", "v"}, 10_000), []string{`"k":"v"`, `"attributes_left_out":9968`}},
		"many long ones":   {"m", slices.Repeat([]any{"k", strings.Repeat("v", 1000)}, 20), []string{`"attributes_left_out":12`}},
		"values that stay": {"m", []any{"n", 5.5, "b", true, "none", nil, "e", errors.New("bad"), "args", []string{"a", "b"}}, []string{`"n":5.5,"b":true,"none":null,"e":"bad","args":"[a b]"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			// What is not UTF-8 is left to the handler: this one's would hide a cut.
			newHostLog(slog.New(slog.NewJSONHandler(&out, nil))).Named("p").Info(c.message, c.args...)
			if n := out.Len(); n > 3*longestLine && name != "no UTF-8" || n > 8*longestLine {
				t.Errorf("a line of %d bytes", n)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the line has no %s: %.2000s", want, out.String())
				}
			}
			if name != "no UTF-8" && strings.Contains(out.String(), "\ufffd") {
				t.Errorf("cut in a character: %q", out.String()[max(0, out.Len()-200):])
			}
		})
	}
}

// TestShorten: a text is cut between characters, and only one that is too long.
func TestShorten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text    string
		longest int
		want    string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "abc…"},
		{"aéb", 2, "a…"},
		{"aéb", 3, "aé…"},
		{"€€", 3, "€…"},
		{"€€", 4, "€…"},
		{"€€", 5, "€…"},
		{"𝄞𝄞", 7, "𝄞…"},
		{"𝄞𝄞", 4, "𝄞…"},
		{"\x80\x80\x80\x80\x80\x80\x80\x80\x80", 8, "\x80\x80\x80\x80…"},
	} {
		if got := stream.Shorten(c.text, c.longest); got != c.want {
			t.Errorf("shorten(%q, %d) = %q, want %q", c.text, c.longest, got, c.want)
		}
	}
}
