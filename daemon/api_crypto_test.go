package daemon_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"sync"
	"testing"

	"cmkd/testenv/rig"
)

// accountPolicy is a key policy that hands over to the account.
const accountPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + rig.Account + `:root"},"Action":"kms:*","Resource":"*"}]}`

// toTests is a recipient that tests share, where making one takes a while.
var toTests = sync.OnceValue(func() *recipient {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // the system has no randomness
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		panic(err) // an RSA key always has the form
	}
	return &recipient{private, public}
})

// sealOAEP1 encrypts to a DER public key with RSAES-OAEP and SHA-1.
func sealOAEP1(t *testing.T, public, plaintext []byte) []byte {
	t.Helper()
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("a public key of type %T", parsed)
	}
	sealed, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key, plaintext, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}
