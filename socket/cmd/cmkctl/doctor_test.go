package main

import (
	"strings"
	"testing"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// TestRoles: doctor says what a token can be, and what to do where it cannot.
func TestRoles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		specs []foundSpec
		says  []string
	}{
		"everything": {
			[]foundSpec{{Spec: "HMAC_256"}, {Spec: "ECC_NIST_P256"}, {Spec: "AES_256"}, {Spec: "RSA_2048"}},
			[]string{"first [[token]] yes", "further [[token]] yes, for the 3 key specs above"},
		},
		"signing keys only": {
			[]foundSpec{{Spec: "HMAC_256", Unsupported: "CKM_SHA256_HMAC"}, {Spec: "ECC_NIST_P256"}, {Spec: "AES_256", Unsupported: "CKM_AES_KEY_WRAP_KWP"}},
			[]string{
				"no: lacks CKM_SHA256_HMAC the first [[token]] must be another one",
				"no: lacks CKM_AES_KEY_WRAP_KWP data keys are refused, the rest is served",
				"first [[token]] no", "further [[token]] yes, for the 1 key specs above",
			},
		},
		"no wrapping key": {
			[]foundSpec{{Spec: "HMAC_256"}, {Spec: "ECC_NIST_P256"}, {Spec: "AES_256", Unsupported: "CKM_AES_KEY_WRAP_KWP"}},
			[]string{"first [[token]] yes", "further [[token]] yes, for the 2 key specs above"},
		},
		"nothing": {
			[]foundSpec{{Spec: "HMAC_256", Unsupported: "a"}, {Spec: "ECC_NIST_P256", Unsupported: "b"}},
			[]string{"first [[token]] no", "further [[token]] no: it can hold no key, use another token"},
		},
	} {
		var out strings.Builder
		if err := printFindings(&out, []findings{{Found: &foundToken{Label: "l"}, Specs: c.specs}}, &cli.Printer{Output: cli.Choice{Value: cli.AsTable}}); err != nil {
			t.Fatal(err)
		}
		said := strings.Join(strings.Fields(out.String()), " ")
		for _, want := range c.says {
			if !strings.Contains(said, want) {
				t.Errorf("%s: doctor does not say %q:\n%s", name, want, out.String())
			}
		}
	}
}
