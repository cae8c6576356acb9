package journal

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

// troubles is what was logged of calls that failed because of the token or of
// the service. Whoever calls can have the same trouble as often as they like:
// who knows the material of an imported key makes data keys that name wrapping
// keys that do not exist. So each kind is logged once in a while, and every call
// is in the audit trail.
type troubles struct {
	mu     sync.Mutex
	logged map[trouble]time.Time // guarded by mu
}

// trouble is a kind of trouble.
type trouble struct {
	operation, key string
	code           backends.Code // "" if it is not the token's
}

const (
	// troublePause is the time between two lines about one kind of trouble.
	troublePause = 10 * time.Second
	// maxTroubles bounds the kinds that are remembered.
	maxTroubles = 1024
)

// level says how to log one more trouble of the kind at a time.
func (t *troubles) level(kind trouble, now time.Time) slog.Level {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.logged[kind]; ok && now.Sub(last) < troublePause {
		return slog.LevelDebug
	}
	if t.logged == nil || len(t.logged) >= maxTroubles {
		t.logged = map[trouble]time.Time{}
	}
	t.logged[kind] = now
	return slog.LevelError
}

// LogTrouble logs a call that failed if operators should hear of it.
func (s *Journal) LogTrouble(ctx context.Context, c *Call, e *kmsapi.Error, err error) {
	if e.Status() < 500 && !backendTrouble(err) {
		return
	}
	code, level := backends.CodeOf(err), slog.LevelDebug
	// If the caller has gone, or is cut off, whoever calls could fill the log.
	if ctx.Err() == nil && code != backends.CutOff {
		level = s.troubles.level(trouble{c.Record.EventName, c.ARN, code}, time.Now()) // a real clock, for real files
	}
	s.Log.LogAttrs(ctx, level, "call failed", slog.String("operation", c.Record.EventName),
		slog.String("request", c.Record.RequestID), slog.String("key", c.ARN), slog.Any("error", err))
}
