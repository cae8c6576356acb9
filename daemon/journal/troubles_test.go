package journal

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

// TestTroublesDoNotFillTheLog: who can make calls fail because of the token gets
// one line for each kind of failure, and another after a while.
func TestTroublesDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	s := &Journal{Config: Config{Log: slog.New(slog.NewTextHandler(&text, nil))}}
	missing := backends.Errorf(backends.KeyMissing, "no object")
	for _, key := range []string{"a", "b"} {
		for range 1000 {
			c := &Call{ARN: key}
			c.Record.EventName = "Decrypt"
			s.LogTrouble(t.Context(), c, &kmsapi.Error{Code: kmsapi.CodeKMSInvalidStateException}, missing)
		}
	}
	if n := strings.Count(text.String(), "call failed"); n != 2 {
		t.Errorf("%d lines for 2,000 failures of two keys, want 2", n)
	}

	var old troubles
	now := time.Now()
	kind := trouble{"Decrypt", "a", backends.KeyMissing}
	for _, step := range []struct {
		after time.Duration
		want  slog.Level
	}{{0, slog.LevelError}, {troublePause - 1, slog.LevelDebug}, {troublePause, slog.LevelError}} {
		if got := old.level(kind, now.Add(step.after)); got != step.want {
			t.Errorf("after %v: %v, want %v", step.after, got, step.want)
		}
	}
	for i := range 3 * maxTroubles {
		old.level(trouble{operation: strings.Repeat("x", i)}, now)
	}
	if len(old.logged) > maxTroubles {
		t.Errorf("%d kinds are remembered", len(old.logged))
	}
}
