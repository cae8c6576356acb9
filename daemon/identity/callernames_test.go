package identity

import (
	"testing"

	"cmkd/daemon/names"
)

func TestIsName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"deploy": true, "uid-x": true, "uid-61001": false, "uid-061001": true, "gid-61001": true, "1000": false, "a/b": false, "uid-": true,
	} {
		if got := isName(name, uidPrefix); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
	for _, name := range []string{"uid-0", "0061", "gid-5"} {
		if (&Identities{names: names.Files{}}).checkUser(name) == nil {
			t.Errorf("the configuration may name the user %q", name)
		}
	}
}
