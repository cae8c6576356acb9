package config

import (
	"maps"
	"slices"
	"testing"
)

// TestParts: a member has from the token what it does not say.
func TestParts(t *testing.T) {
	t.Parallel()
	token := Token{
		Name: "main", Module: "/m", Label: "l", PINFile: "/p", Env: map[string]string{"A": "1", "B": "2"},
		Sandbox: Sandbox{Network: true},
		Members: []Member{{Name: "a"}, {
			Name: "b", Module: "/n", Serial: "7", PINFile: "/q", Env: map[string]string{"B": "3"}, Sandbox: &Sandbox{Off: true},
		}},
	}
	parts := token.Parts()
	if len(parts) != 2 {
		t.Fatalf("%d parts", len(parts))
	}
	a, b := parts[0], parts[1]
	if a.Title() != "main/a" || a.Module != "/m" || a.Label != "l" || a.Serial != "" || a.PINFile != "/p" || !maps.Equal(a.Env, token.Env) || !a.Sandbox.Network {
		t.Errorf("member a is %+v", a)
	}
	if b.Title() != "main/b" || b.Module != "/n" || b.Label != "" || b.Serial != "7" || b.PINFile != "/q" || b.Sandbox.Network || !b.Sandbox.Off {
		t.Errorf("member b is %+v", b)
	}
	if want := map[string]string{"A": "1", "B": "3"}; !maps.Equal(b.Env, want) || token.Env["B"] != "2" {
		t.Errorf("member b has the environment %v, and the token %v", b.Env, token.Env)
	}
	alone := Token{Name: "main"}
	if got := alone.Parts(); !slices.EqualFunc(got, []Part{{Token: alone}}, func(x, y Part) bool { return x.Title() == y.Title() }) {
		t.Errorf("a token without members has the parts %+v", got)
	}
}
