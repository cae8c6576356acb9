package plugins

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestLevelOfAnEndedProcess: a process that ends by a signal, which the daemon's own
// may be, is nothing that needs somebody by itself; what else go-plugin calls an
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
