package operate

import (
	"strings"
	"testing"

	"cmkd/socket/operatorapi"
)

// TestNext: what stops most is what to do first, in one line.
func TestNext(t *testing.T) {
	t.Parallel()
	h := Health{State: operatorapi.OK, AuditShipping: &operatorapi.AuditShipping{To: "tls:logs:6514"}}
	// Each of these stops more than those before it.
	for _, c := range []struct {
		want string
		add  func()
	}{
		{nothingNext, func() {}},
		{"token main: no room", func() {
			h.Plugins = []operatorapi.PluginHealth{{Name: "hmac", Token: "main", State: operatorapi.OK, Limits: []string{"no room"}}}
		}},
		{"pin.txt is readable by others", func() { h.Warnings = []string{"pin.txt is readable by others"} }},
		{"cmkctl audit prune", func() { h.AuditDisk.Warning = "3 days are left" }},
		{"tls:logs:6514", func() { h.AuditShipping.Error, h.State = "refused", operatorapi.Degraded }},
		{"cmkctl confirm-clock", func() { h.DeletionsHeld = true }},
		{"epoch", func() { h.EpochError = "token" }},
		{"cmkctl reload", func() { h.ReloadError = "line 3" }},
		{"cmkctl recover", func() { h.MissingMaterials = 1 }},
		{"restore the object of key k", func() { h.UnsafeMaterials = []operatorapi.Material{{KeyID: "k", Token: "main"}} }},
		{"CKA_ID 00ff", func() { h.Duplicates = []operatorapi.Duplicate{{ID: "00ff", Token: "main"}} }},
		{"check token main: RSA", func() { h.Plugins[0].Hanging = "RSA" }},
		{"is failed", func() { h.Plugins[0].State = "failed" }},
		{"check member b of token main", func() {
			h.Tokens = []operatorapi.TokenHealth{{Name: "main", State: "degraded", Members: []operatorapi.MemberHealth{
				{Name: "a", State: operatorapi.OK}, {Name: "b", State: "unavailable"},
			}}}
		}},
		{"clone token main to its member b", func() { h.Tokens[0].Members[1].State = "refused" }},
		{"check token main, its network", func() { h.Tokens = []operatorapi.TokenHealth{{Name: "main", State: "unavailable"}} }},
		{"correct the PIN of token main", func() { h.Plugins[0].State = "login failed" }},
		{"administrators", func() { h.AuditDisk.Reserved = true }},
		{"disk of the database", func() { h.DatabaseError = "full" }},
		{"disk of the audit trail", func() { h.AuditError = "full" }},
		{"cmkctl accept-state", func() { h.StateMismatch = "rows" }},
	} {
		c.add()
		if got := h.next(); !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if got := (&Health{State: operatorapi.Degraded}).next(); !strings.Contains(got, "cmkctl status") {
		t.Errorf("of what is not known: %q", got)
	}
}
