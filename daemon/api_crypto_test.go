package daemon_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// accountPolicy is a key policy that hands over to the account.
const accountPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + rig.Account + `:root"},"Action":"kms:*","Resource":"*"}]}`

// rsaPair is a key pair of a recipient.
type rsaPair struct {
	private *rsa.PrivateKey
	public  []byte // DER SubjectPublicKeyInfo
}

// toTests is a recipient that tests share, where making one takes a while.
var toTests = sync.OnceValue(func() *rsaPair {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // the system has no randomness
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		panic(err) // an RSA key always has the form
	}
	return &rsaPair{private, public}
})

// info is the recipient in a request. SHA-1 is all that SoftHSM2 wraps with.
func (p *rsaPair) info() *types.RecipientInfo {
	return &types.RecipientInfo{AttestationDocument: p.public, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"}
}

// open decrypts what was sent to the recipient.
func (p *rsaPair) open(t *testing.T, sealed []byte) []byte {
	t.Helper()
	opened, err := rsa.DecryptOAEP(sha1.New(), nil, p.private, sealed, nil)
	if err != nil {
		t.Fatalf("opening for the recipient: %v", err)
	}
	return opened
}

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
