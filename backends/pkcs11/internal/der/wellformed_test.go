package der

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"testing"

	"cmkd/backends"
)

// TestWellFormed: an Ed25519 private key without the inner OCTET STRING of RFC 8410,
// section 7, is mended, and nothing else is touched.
func TestWellFormed(t *testing.T) {
	t.Parallel()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	good, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	bare := append(bytes.Clone(good[:len(good)-2-ed25519.SeedSize]), key.Seed()...)
	bare[1], bare[len(bare)-ed25519.SeedSize-1] = bare[1]-2, ed25519.SeedSize // the lengths of what is shorter now
	if _, err := ParsePKCS8(Kinds[backends.Ed25519], bare); err == nil {
		t.Error("the form without the OCTET STRING is taken for well-formed")
	}
	for name, c := range map[string]struct{ in, want []byte }{
		"well-formed":    {good, good},
		"bare":           {bare, good},
		"something":      {[]byte("something"), []byte("something")},
		"bare, too long": {append(bytes.Clone(bare), 0), append(bytes.Clone(bare), 0)},
	} {
		if got := WellFormed(c.in); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %x, want %x", name, got, c.want)
		}
	}
}
