package plugins

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// newHostLog returns the logger that go-plugin wants, which passes its own
// records and those of the plugin on to log.
func newHostLog(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Debug, Output: io.Discard})
	l.RegisterSink(slogSink{log})
	return l
}

// slogSink implements [hclog.SinkAdapter].
type slogSink struct{ log *slog.Logger }

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
	ctx := context.Background()
	if !s.log.Enabled(ctx, to) {
		return
	}
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
