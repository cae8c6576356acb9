package main

import "testing"

// TestSendsNoSignals: an environment that has the setting in some form, but not so that
// the runtime takes it, does not keep the program from starting again.
func TestSendsNoSignals(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]bool{
		"": false, "asyncpreemptoff=1": true, "asyncpreemptoff=0": false, "gctrace=0,asyncpreemptoff=1": true,
		"asyncpreemptoff=1,asyncpreemptoff=0": false, "asyncpreemptoff=0,asyncpreemptoff=1": true,
		"noasyncpreemptoff=1": false, "asyncpreemptoff=1x": false, "asyncpreemptoff=1,gctrace=0": true,
	} {
		if got := sendsNoSignals(settings); got != want {
			t.Errorf("%q: %v, want %v", settings, got, want)
		}
	}
}
