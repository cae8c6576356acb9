package tokens_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// meanings says what the rows of a probe mean. One that ends in a hyphen stands for all that begin so.
var meanings = []struct{ fact, text string }{
	{"aes-gcm", "AES-GCM, without which there are no symmetric encryption keys"},
	{"aes-gcm-iv-by-token", "the token makes the IV itself"},
	{"aes-gcm-wrong-tag", "what it answers to an altered ciphertext; any error will do"},
	{"aes-key-wrap-pad", "the number of the mechanism that is RFC 5649, without which there are no data keys"},
	{"aes-key-wrap-pad-exact", "it gives a key back whose length is not a multiple of 8 bytes"},
	{"allowed-mechanisms", "a key can be limited to mechanisms (CKA_ALLOWED_MECHANISMS)"},
	{"attributes-refused", "what it does not take in a template; keys are made without, and read back"},
	{"changes-private-keys", "whoever has the PIN can change the attributes of private keys that are not modifiable, and what comes of it"},
	{"CKM_", "a mechanism that it lacks, and its answer"},
	{"derive-cbc", "data keys of odd lengths are derived in the token"},
	{"ecdh-point", "how it takes the peer's point: raw, or in an OCTET STRING"},
	{"ed25519", "how it takes the curve"},
	{"ed25519-wraps", "data key pairs on Edwards curves, whose private keys it wraps as RFC 8410 has them"},
	{"hmac", "why MACs could not be probed"},
	{"import-", "where imported key material is unwrapped, by wrapping algorithm: in the token, or through the plugin's memory; no: not at all"},
	{"labels", "the label that it takes instead of the usual one"},
	{"negative-tests", "passed: no way was found to get sensitive keys out; each kind that is served was tried. not possible: what the token made no key for, so that it could not be tried; kinds named there are not served"},
	{"oaep", "why RSA-OAEP could not be probed"},
	{"oaep-sha1", "data keys are wrapped for recipients with RSA-OAEP and this hash, in the token"},
	{"oaep-sha256", "the same with SHA-256"},
	{"oaep-sha1-decrypt", "RSA keys decrypt with RSA-OAEP and this hash in the token; else in the plugin, by rsa-x509"},
	{"oaep-sha256-decrypt", "the same with SHA-256"},
	{"private-keys-decrypt", "signing keys could decrypt, too"},
	{"readable-session-keys", "data keys for callers are made in the token; else of its random bytes"},
	{"rsa-decrypt", "why decryption with RSA keys could not be probed"},
	{"rsa-x509", "the bare RSA primitive, for padding that the token does not know"},
	{"session-key-pairs", "key pairs that are not token objects, for probes and data key pairs"},
	{"sign-", "the signing algorithm, verified outside of the token"},
	{"unwrap-template", "what C_UnwrapKey does not take in its template"},
	{"unwrapped-keys-stay-in-the-token", "a key that was unwrapped is as sensitive as its template says; else imports go through the plugin"},
	{"unwrapped-length", "it tells the length of a key that it has unwrapped, by which imports in the token are measured"},
	{"usages-added-later", "what whoever has the PIN can let keys do that are not modifiable; no key comes out by it"},
	{"wrap-aes-cbc-pad", "data keys are wrapped for attested recipients in the token (CMS with CKM_AES_CBC_PAD)"},
}

// meaning finds the row of a fact.
func meaning(fact string) string {
	for _, m := range meanings {
		if m.fact == fact || (strings.HasSuffix(m.fact, "-") || strings.HasSuffix(m.fact, "_")) && strings.HasPrefix(fact, m.fact) {
			return m.text
		}
	}
	return ""
}

// legend says what the rows mean that the probes have. One without a meaning fails the test.
func legend(t *testing.T, found map[string]*report) string {
	t.Helper()
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		for fact := range found[name].Facts {
			if text := meaning(fact); text != "" {
				seen[text] = true
			} else {
				t.Errorf("the row %q of %s is explained nowhere", fact, name)
			}
		}
	}
	var b strings.Builder
	b.WriteString("\n## What the probe asks\n\nThe rows that `cmkctl doctor` prints, and that stand below for each token:\n\n| row | means |\n|---|---|\n")
	for _, m := range meanings {
		if seen[m.text] {
			fmt.Fprintf(&b, "| %s | %s |\n", m.fact+map[bool]string{true: "…"}[strings.HasSuffix(m.fact, "-") || strings.HasSuffix(m.fact, "_")], m.text)
		}
	}
	return b.String()
}
