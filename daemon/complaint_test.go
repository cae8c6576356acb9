package daemon

import (
	"errors"
	"testing"
)

// TestComplaint: a failure is logged once, and again if it is another one or comes back.
func TestComplaint(t *testing.T) {
	t.Parallel()
	full, away := errors.New("disk full"), errors.New("token away")
	var c complaint
	for i, step := range []struct {
		err  error
		want bool
	}{{nil, false}, {full, true}, {full, false}, {errors.New("disk full"), false}, {away, true}, {full, true}, {nil, false}, {nil, false}, {full, true}} {
		if got := c.fresh(step.err); got != step.want {
			t.Errorf("step %d, %v: %v", i+1, step.err, got)
		}
	}
}
