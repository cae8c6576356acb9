package cli

import (
	"maps"
	"testing"
)

func TestPairs(t *testing.T) {
	t.Parallel()
	p := Pairs{}
	for _, text := range []string{"dn=cn=a,ou=b", `quoted="x`, "empty="} {
		if err := p.Set(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if want := (Pairs{"dn": "cn=a,ou=b", "quoted": `"x`, "empty": ""}); !maps.Equal(p, want) {
		t.Errorf("%v, want %v", p, want)
	}
	for _, text := range []string{"", "name", "=value", "dn=again"} {
		if err := p.Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
