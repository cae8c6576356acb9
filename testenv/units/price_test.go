package units_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// logPrice reports what the walls cost that are filters of system calls: the unit's
// processor time for each call, as a multiple of that without them in the same
// round.
func logPrice(t *testing.T, measured string) {
	t.Helper()
	var without float64
	micros, ratios := map[string][]float64{}, map[string][]float64{}
	for line := range strings.Lines(measured) {
		var variant string
		var calls, ticks float64
		var filtered int
		if _, err := fmt.Sscan(line, &variant, &calls, &ticks, &filtered); err != nil || calls == 0 {
			t.Fatalf("the price was not measured: %v\n%s", err, measured)
		}
		if (filtered != 0) != (variant != "none") {
			t.Errorf("%s: %d", line, filtered)
		}
		each := ticks / calls * 1e4
		if variant == "none" {
			without = each
		}
		micros[variant] = append(micros[variant], each)
		ratios[variant] = append(ratios[variant], each/without)
	}
	for _, variant := range []string{"none", "some", "all"} {
		slices.Sort(micros[variant])
		slices.Sort(ratios[variant])
		n := len(ratios[variant])
		t.Logf("%-4s %6.1f µs, %.3f (%.3f to %.3f)", variant, micros[variant][n/2], ratios[variant][n/2], ratios[variant][0], ratios[variant][n-1])
	}
}
