package rig

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// Recipient is a key pair to which data keys are sent.
type Recipient struct {
	Private *rsa.PrivateKey
	Public  []byte // DER SubjectPublicKeyInfo
}

// NewRecipient makes a pair of RSA_2048.
func NewRecipient(t *testing.T) *Recipient {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &Recipient{private, public}
}

// Info is the recipient in a request. SHA-1 is all that SoftHSM2 has.
func (r *Recipient) Info() *types.RecipientInfo {
	return &types.RecipientInfo{AttestationDocument: r.Public, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"}
}

// Open decrypts a CiphertextForRecipient.
func (r *Recipient) Open(t *testing.T, sealed []byte) []byte {
	t.Helper()
	opened, err := rsa.DecryptOAEP(sha1.New(), nil, r.Private, sealed, nil)
	if err != nil {
		t.Fatalf("opening for the recipient: %v", err)
	}
	return opened
}
