package keys

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// TestPolicyCheckTellsOfOthers: kinds of calls that the daemon leaves out of its
// list are refused calls all the same.
func TestPolicyCheckTellsOfOthers(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{
		`{"resource":"key","calls":9,"refused":[{"principal":"p","action":"kms:Decrypt","calls":2}],"others":7}`: true,
		`{"resource":"key","calls":9,"refused":[{"principal":"p","action":"kms:Decrypt","calls":2}]}`:            false,
	} {
		var c policyCheck
		if err := json.Unmarshal([]byte(answer), &c); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := c.print(&out, true); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "and 7 calls of further kinds\n"); got != want {
			t.Errorf("%s: %q", answer, out.String())
		}
	}
}

// TestWholeAnswers: what the daemon leaves out while it is empty is there for scripts.
func TestWholeAnswers(t *testing.T) {
	t.Parallel()
	p := cli.Printer{Output: cli.Choice{Value: cli.AsJSON}}
	for _, c := range []struct {
		answer any
		want   string
	}{
		{&policyCheck{}, `{"resource":"","calls":0,"refused":null,"others":0,"unknownConditionKeys":null}`},
		{&policyWho{Allowed: []operatorapi.AllowedPrincipal{{Principal: "<a>"}}}, `{"action":"","resource":"","everyone":false,"allowed":[{"principal":"\u003ca\u003e","why":""}],"depends":null}`},
	} {
		var out, got bytes.Buffer
		if err := p.PrintAs(&out, c.answer, nil); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&got, out.Bytes()); err != nil || got.String() != c.want {
			t.Errorf("%T: %s, want %s, %v", c.answer, got.String(), c.want, err)
		}
	}
}
