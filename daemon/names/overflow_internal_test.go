package names

import (
	"testing"
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
