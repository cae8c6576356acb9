package plugins

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

// newHostLog returns the logger that go-plugin wants, which passes its own
// records and those of the plugin on to log.
func newHostLog(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Debug, Output: io.Discard})
	l.RegisterSink(slogSink{log, rate.NewLimiter(linesPerSecond, linesAtOnce), new(atomic.Int64)})
	return l
}

// slogSink implements [hclog.SinkAdapter].
type slogSink struct {
	log  *slog.Logger
	most *rate.Limiter
	left *atomic.Int64 // out, since the last that was let through
}

// A plugin, which shares its memory with a vendor's library, may write as many
// linesPerSecond after a burst of linesAtOnce, each of longestLine bytes.
const (
	linesPerSecond = 20
	linesAtOnce    = 500
	longestLine    = 8 << 10
)

// processExited is go-plugin's record of a process that a signal has ended, an ERROR
// even if the daemon itself sent that. What it means to the plugin follows, in a record
// of the supervisor's.
const processExited = "plugin process exited"

// Accept implements [hclog.SinkAdapter]. hclog's interface has no context.
func (s slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	var to slog.Level
	switch level {
	case hclog.Info:
		to = slog.LevelInfo
	case hclog.Warn:
		to = slog.LevelWarn
	case hclog.Error:
		to = slog.LevelError
	default:
		to = slog.LevelDebug
	}
	if to == slog.LevelError && msg == processExited {
		to = slog.LevelWarn
	}
	ctx := context.Background()
	if !s.log.Enabled(ctx, to) {
		return
	}
	if !s.most.Allow() {
		s.left.Add(1)
		return
	}
	if n := s.left.Swap(0); n > 0 {
		s.log.Warn("the plugin logs too much: lines were left out", "lines", n)
	}
	msg = msg[:min(len(msg), longestLine)]
	args = slices.Clone(args)
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] == "plugin" { // go-plugin's, which log has for the plugin's name
			args[i] = "executable"
		}
	}
	if name != "" {
		args = append([]any{"from", name}, args...)
	}
	s.log.Log(ctx, to, msg, args...)
}
