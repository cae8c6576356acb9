package daemon

import (
	"testing"

	"cmkd/daemon/names"
)

func TestMapped(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		want uint64
	}{
		{"         0          0 4294967295\n", allMapped},
		{"0 0 1\n", 1},
		{"0 1000 1\n1 100000 65536\n", 65537},
		{"", 0},
		{"nonsense\n", 0},
	} {
		if got := mapped(tt.text); got != tt.want {
			t.Errorf("%q: %d, want %d", tt.text, got, tt.want)
		}
	}
}

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
		if (&identities{names: names.Files{}}).checkUser(name) == nil {
			t.Errorf("the configuration may name the user %q", name)
		}
	}
}
