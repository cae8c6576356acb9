package kms

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"cmkd/backends"
)

// What is written here is in the hands of users, or in tokens, for years: a
// test that has to be changed for a change of the code says that ciphertexts,
// grants or keys made before cannot be used any more.

const (
	formatKey      = "01234567-89ab-cdef-0123-456789abcdef"
	formatMRK      = "mrk-0123456789abcdef0123456789abcdef"
	formatMaterial = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

// TestBlobFormat pins the bytes of a ciphertext blob and of what it
// authenticates.
func TestBlobFormat(t *testing.T) {
	t.Parallel()
	iv, ciphertext := bytes.Repeat([]byte{0xaa}, ivLen), bytes.Repeat([]byte{0xbb}, 3+tagLen)
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
		kind   blobKind
		keyID  string
		header string
	}{
		{"plaintext", kindPlaintext, formatKey, "010100" + rest},
		{"data key", kindDataKey, formatKey, "010200" + rest},
		{"private key", kindPrivateKey, formatKey, "010300" + rest},
		{"multi-Region", kindPlaintext, formatMRK, "010101" + rest},
	} {
		b := &blob{kind: c.kind, keyID: c.keyID, material: formatMaterial, sealed: backends.Sealed{IV: iv, Ciphertext: ciphertext}}
		want := c.header + strings.Repeat("aa", 12) + strings.Repeat("bb", 19)
		made := b.marshal()
		if got := hex.EncodeToString(made); got != want {
			t.Errorf("%s: the blob is\n%s, want\n%s", c.name, got, want)
		}
		if got, want := hex.EncodeToString(b.aad("123456789012", context)), c.header+authTail; got != want {
			t.Errorf("%s: the additional authenticated data is\n%s, want\n%s", c.name, got, want)
		}
		parsed, ok := parseBlob(made)
		if !ok || parsed.kind != c.kind || parsed.keyID != c.keyID || parsed.material != formatMaterial ||
			!bytes.Equal(parsed.sealed.IV, iv) || !bytes.Equal(parsed.sealed.Ciphertext, ciphertext) {
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

// TestTokenNames pins what stands in tokens and what is made of it: a lost
// database is recovered from these alone.
func TestTokenNames(t *testing.T) {
	t.Parallel()
	id := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	const wantLabel = "cmkd:" + formatKey + ":12"
	if got := label(formatKey, 12); got != wantLabel {
		t.Errorf("the label is %q, want %q", got, wantLabel)
	}
	// SHA-256 of the label, a zero byte and the first 8 bytes of the CKA_ID.
	const wantMaterial = "44b4d129503a2772ac13749128838cdb23cbfc07f7b0f61036382e782353a819"
	if got := materialID(formatKey, 12, id); got != wantMaterial {
		t.Errorf("the key material ID is %s, want %s", got, wantMaterial)
	}
	if sum := sha256.Sum256([]byte(wantLabel + "\x00\x00\x01\x02\x03\x04\x05\x06\x07")); hex.EncodeToString(sum[:]) != wantMaterial {
		t.Errorf("the key material ID is not what its description says, %x", sum)
	}
	next := nextCKAID(id)
	if materialID(formatKey, 12, next) != wantMaterial || bytes.Equal(next, id) {
		t.Errorf("another object of the material has the CKA_ID %x", next)
	}
}

// TestGrantTokenFormat: a token made before names the same grant.
func TestGrantTokenFormat(t *testing.T) {
	t.Parallel()
	const (
		v1 = "AczMzMzMzMzMzMzMzMzMzMwAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHw=="
		v2 = "AszMzMzMzMzMzMzMzMzMzMwAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHy3KS+Myfgsm"
	)
	for _, token := range []string{v1, v2} {
		if id, ok := parseGrantToken(token); !ok || id != formatMaterial {
			t.Errorf("the token %s names %q, %t", token, id, ok)
		}
	}
	grant, _ := hex.DecodeString(formatMaterial)
	made, err := base64.StdEncoding.DecodeString(newGrantToken(formatMaterial))
	if err != nil || len(made) != 57 || made[0] != 2 || !bytes.Equal(made[17:49], grant) {
		t.Errorf("a new token is %x, %v", made, err)
	}
	raw, _ := base64.StdEncoding.DecodeString(v1)
	for name, token := range map[string]string{
		"of another version":                    base64.StdEncoding.EncodeToString(append([]byte{2}, raw[1:]...)),
		"of the first version, and longer":      base64.StdEncoding.EncodeToString(append([]byte{1}, made[1:]...)),
		"of the first version, with a bit more": v1[:len(v1)-3] + "x==",
		"in two lines":                          v2[:38] + "\n" + v2[38:],
		"with a line break at the end":          v2 + "\r\n",
		"that is empty":                         "",
		"without its checksum":                  base64.StdEncoding.EncodeToString(made[:49]),
		"in the other base64":                   base64.RawURLEncoding.EncodeToString(append(bytes.Repeat([]byte{0xff}, 48), made[:9]...)),
	} {
		if _, ok := parseGrantToken(token); ok {
			t.Errorf("a token %s is taken", name)
		}
	}
}
