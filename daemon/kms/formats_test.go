package kms

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"testing"
)

// What is written here is in the hands of users, or in tokens, for years: a
// test that has to be changed for a change of the code says that ciphertexts,
// grants or keys made before cannot be used any more.

const (
	formatKey   = "01234567-89ab-cdef-0123-456789abcdef"
	formatGrant = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

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
		if id, ok := parseGrantToken(token); !ok || id != formatGrant {
			t.Errorf("the token %s names %q, %t", token, id, ok)
		}
	}
	grant, _ := hex.DecodeString(formatGrant)
	made, err := base64.StdEncoding.DecodeString(newGrantToken(formatGrant))
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
