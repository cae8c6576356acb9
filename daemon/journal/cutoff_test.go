package journal

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cmkd/daemon/store"
)

// TestCutOffCommits: the record of a call that the end of the daemon cuts off after
// its commit failed names the record that was ahead of the change, and says that
// nothing was changed only where that is known.
func TestCutOffCommits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, ahead   string
		err           error
		details, says string
		cut           bool
	}{
		{"nothing written", "", errors.New("outdated"), "", "nothing was changed", true},
		{"failed", "e-1", errors.New("disk full"), `{"notCommitted":"e-1"}`, "nothing was changed", true},
		{"in doubt", "e-1", fmt.Errorf("syncing: %w", store.ErrUnknown), `{"outcomeUnknown":"e-1"}`, "before it was known whether", true},
		{"refused because of another one in doubt", "", fmt.Errorf("before: %w", store.ErrUnknown), "", "nothing was changed", true},
		{"committed", "e-1", nil, "", "", false},
	} {
		var f inFlight
		call := new(Call)
		if err := f.enter(call); err != nil {
			t.Fatal(err)
		}
		if err := f.settle(call); err != nil {
			t.Fatal(err)
		}
		call.Ahead = c.ahead
		if records, more := f.cutOff(); len(records) != 0 || !more {
			t.Errorf("%s: cut off while its record is being written", c.name)
		}
		f.concluded(call, c.err)
		records, more := f.cutOff()
		if len(records) == 1 != c.cut || more {
			t.Errorf("%s: %d records, more: %t", c.name, len(records), more)
			continue
		}
		for _, r := range records {
			if details := string(r.AdditionalEventData.Details); details != c.details || !strings.Contains(r.ErrorMessage, c.says) {
				t.Errorf("%s: the record says %q with the details %q", c.name, r.ErrorMessage, details)
			}
		}
	}
}
