package main

import (
	"encoding/json"
	"strings"
	"testing"
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
