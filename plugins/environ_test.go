package plugins

import (
	"slices"
	"testing"
)

// TestEnvironment: what a token's configuration sets of GODEBUG is kept, and does not
// have the runtime send signals or move stacks again.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	s := Spec{Env: map[string]string{"GODEBUG": "asyncpreemptoff=0,gctrace=1"}}
	if env := s.environ(); !slices.Contains(env, "GODEBUG=asyncpreemptoff=0,gctrace=1,asyncpreemptoff=1,gcshrinkstackoff=1") {
		t.Errorf("the environment is %q", env)
	}
}
