package plugins

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"cmkd/plugins/internal/stream"
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
// linesPerSecond after a burst of linesAtOnce, each with a message of longestLine
// bytes and at most mostAttributes, which have longestLine bytes in all.
const (
	linesPerSecond = 20
	linesAtOnce    = 500
	longestLine    = 8 << 10
	mostAttributes = 32
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
		s.log.Warn("the plugin logs too much: lines were dropped", "lines", n)
	}
	all := attributes(args)
	if name != "" {
		all = append([]any{"from", stream.Told(name)}, all...)
	}
	s.log.Log(ctx, to, stream.Shorten(msg, longestLine), all...)
}

// attributes are args, pairs of a key and a value as hclog has them, within the limits of a
// line. What is beyond them is counted.
func attributes(args []any) []any {
	var all []any
	room := longestLine
	for i := 0; i+1 < len(args); i += 2 {
		key, value := stream.Told(fmt.Sprint(args[i])), bounded(args[i+1])
		if key == "plugin" { // go-plugin's, which log has for the plugin's name
			key = "executable"
		}
		room -= len(key) + len(fmt.Sprint(value))
		if room < 0 || len(all) == 2*mostAttributes {
			return append(all, "attributes_left_out", (len(args)-i)/2)
		}
		all = append(all, key, value)
	}
	return all
}

// bounded is a value of an attribute in at most some 1,000 bytes: a scalar as it is, and
// anything else as text.
func bounded(value any) any {
	switch reflect.ValueOf(value).Kind() {
	case reflect.Invalid, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return value
	default:
		return stream.Told(fmt.Sprint(value))
	}
}
