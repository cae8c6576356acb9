package main

import (
	"strings"
	"testing"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// TestRoles: doctor says what a token can be, and what to do where it cannot.
func TestRoles(t *testing.T) {
	t.Parallel()
	signs := []string{"SIGN_VERIFY"}
	for name, c := range map[string]struct {
		specs    []foundSpec
		says     []string
		readOnly bool
		keys     int
	}{
		"everything": {
			specs: []foundSpec{{Spec: "SYMMETRIC_DEFAULT"}, {Spec: "HMAC_256"}, {Spec: "ECC_NIST_P256", Usages: signs}, {Spec: "AES_256"}, {Spec: "RSA_2048", Usages: signs}},
			says:  []string{"first [[token]] yes", "further [[token]] yes, for symmetric encryption keys, with signing_keys = true also for signing keys of 2 specs"},
		},
		"signing keys only": {
			specs: []foundSpec{{Spec: "HMAC_256", Unsupported: "CKM_SHA256_HMAC"}, {Spec: "ECC_NIST_P256", Usages: signs}, {Spec: "AES_256", Unsupported: "CKM_AES_KEY_WRAP_KWP"}},
			says: []string{
				"no: lacks CKM_SHA256_HMAC the first [[token]] must be another one",
				"no: lacks CKM_AES_KEY_WRAP_KWP data keys are refused, the rest is served",
				"first [[token]] no", "further [[token]] yes, with signing_keys = true, for signing keys of 1 spec",
			},
		},
		"no wrapping key": {
			specs: []foundSpec{{Spec: "SYMMETRIC_DEFAULT"}, {Spec: "HMAC_256"}, {Spec: "ECC_NIST_P256", Usages: []string{"KEY_AGREEMENT"}}, {Spec: "AES_256", Unsupported: "CKM_AES_KEY_WRAP_KWP"}},
			says:  []string{"first [[token]] yes", "further [[token]] yes, for symmetric encryption keys"},
		},
		"write-protected": {
			specs:    []foundSpec{{Spec: "SYMMETRIC_DEFAULT"}, {Spec: "HMAC_256"}, {Spec: "ECC_NIST_P256", Usages: signs}, {Spec: "AES_256"}},
			says:     []string{"first [[token]] no: it is write-protected, and no key", "further [[token]] no: it is write-protected"},
			readOnly: true,
		},
		"write-protected, with keys": {
			specs:    []foundSpec{{Spec: "SYMMETRIC_DEFAULT"}, {Spec: "HMAC_256"}, {Spec: "ECC_NIST_P256", Usages: signs}, {Spec: "AES_256"}},
			says:     []string{"it holds 4 keys of a cmkd's already", "first [[token]] yes, but with the 4 keys of cmkd's alone that it holds: it is write-protected"},
			readOnly: true, keys: 4,
		},
		"nothing": {
			specs: []foundSpec{{Spec: "HMAC_256", Unsupported: "a"}, {Spec: "ECC_NIST_P256", Unsupported: "b"}},
			says:  []string{"first [[token]] no", "further [[token]] no: a custom key store holds symmetric encryption keys and signing keys, and this token neither"},
		},
	} {
		var out strings.Builder
		r := reports([]findings{{Found: &foundToken{Label: "l", ReadOnly: c.readOnly, Keys: c.keys}, Specs: c.specs}}, true)
		if err := printProbed(&out, &r[0], &cli.Printer{Output: cli.Choice{Value: cli.AsTable}}); err != nil {
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
