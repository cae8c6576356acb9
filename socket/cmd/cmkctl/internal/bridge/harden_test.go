package bridge

import (
	"slices"
	"testing"
)

// TestRestored: what a bridge runs has the GODEBUG that the bridge was started with.
func TestRestored(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ environ, want []string }{
		"not started again": {[]string{"A=1", "GODEBUG=asyncpreemptoff=1"}, []string{"A=1", "GODEBUG=asyncpreemptoff=1"}},
		"there was none":    {[]string{"A=1", "CMKCTL_FORMER_GODEBUG=", "GODEBUG=asyncpreemptoff=1"}, []string{"A=1"}},
		"there was one":     {[]string{"CMKCTL_FORMER_GODEBUG=gctrace=0", "A=1", "GODEBUG=gctrace=0,asyncpreemptoff=1"}, []string{"A=1", "GODEBUG=gctrace=0"}},
	} {
		if got := restored(tt.environ); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	for settings, want := range map[string]string{
		"": "", "asyncpreemptoff=1": "1", "gctrace=0,asyncpreemptoff=1": "1", "asyncpreemptoff=1,asyncpreemptoff=0": "0",
		"noasyncpreemptoff=1": "", "asyncpreemptoff=1x": "1x", "asyncpreemptoff": "",
	} {
		if got := lastSetting(settings, "asyncpreemptoff"); got != want {
			t.Errorf("%q has %q, want %q", settings, got, want)
		}
	}
}
