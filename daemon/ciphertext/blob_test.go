package ciphertext

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"cmkd/backends"
)

const (
	formatKey      = "01234567-89ab-cdef-0123-456789abcdef"
	formatMRK      = "mrk-0123456789abcdef0123456789abcdef"
	formatMaterial = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

// TestBlobFormat pins the bytes of a ciphertext blob and of what it
// authenticates.
func TestBlobFormat(t *testing.T) {
	t.Parallel()
	iv, ciphertext := bytes.Repeat([]byte{0xaa}, IVLen), bytes.Repeat([]byte{0xbb}, 3+TagLen)
	context := map[string]string{"b": "2", "a": "", "ä": "x"}
	const (
		id       = "0123456789abcdef0123456789abcdef"
		rest     = id + formatMaterial + "0c"
		authTail = "0000000c" + "313233343536373839303132" + // the account
			"00000003" + // pairs, in the order of the keys' bytes
			"00000001" + "61" + "00000000" +
			"00000001" + "62" + "00000001" + "32" +
			"00000002" + "c3a4" + "00000001" + "78"
	)
	for _, c := range []struct {
		name   string
		kind   Kind
		keyID  string
		header string
	}{
		{"plaintext", Plaintext, formatKey, "010100" + rest},
		{"data key", DataKey, formatKey, "010200" + rest},
		{"private key", PrivateKey, formatKey, "010300" + rest},
		{"multi-Region", Plaintext, formatMRK, "010101" + rest},
	} {
		b := &Blob{Kind: c.kind, KeyID: c.keyID, Material: formatMaterial, Sealed: backends.Sealed{IV: iv, Ciphertext: ciphertext}}
		want := c.header + strings.Repeat("aa", 12) + strings.Repeat("bb", 19)
		made := b.Marshal()
		if got := hex.EncodeToString(made); got != want {
			t.Errorf("%s: the blob is\n%s, want\n%s", c.name, got, want)
		}
		if got, want := hex.EncodeToString(b.AAD("123456789012", context)), c.header+authTail; got != want {
			t.Errorf("%s: the additional authenticated data is\n%s, want\n%s", c.name, got, want)
		}
		parsed, ok := Parse(made)
		if !ok || parsed.Kind != c.kind || parsed.KeyID != c.keyID || parsed.Material != formatMaterial ||
			!bytes.Equal(parsed.Sealed.IV, iv) || !bytes.Equal(parsed.Sealed.Ciphertext, ciphertext) {
			t.Errorf("%s: the blob parses to %+v, %t", c.name, parsed, ok)
		}
	}
}

// TestContextFormat pins the canonical form of encryption contexts, in which
// no context has the form of another.
func TestContextFormat(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, c := range []struct {
		name    string
		context map[string]string
		want    string
	}{
		{"nil", nil, "00000000"},
		{"one pair", map[string]string{"a": "b"}, "00000001" + "0000000161" + "0000000162"},
		{"an empty value", map[string]string{"ab": ""}, "00000001" + "000000026162" + "00000000"},
		{"the same bytes in the key and the value", map[string]string{"": "ab"}, "00000001" + "00000000" + "000000026162"},
		{"capitals sort first", map[string]string{"a": "1", "B": "2"}, "00000002" + "0000000142" + "0000000132" + "0000000161" + "0000000131"},
		{"shorter sorts first", map[string]string{"aa": "", "a": ""}, "00000002" + "0000000161" + "00000000" + "000000026161" + "00000000"},
	} {
		got := hex.EncodeToString(appendContext(nil, c.context))
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s has the form of %s", c.name, other)
		}
		seen[got] = c.name
	}
	if got := appendContext(nil, map[string]string{}); !bytes.Equal(got, appendContext(nil, nil)) {
		t.Errorf("an empty context is %x, and differs from none", got)
	}
}
