package daemon_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// recipient is a key pair to which data keys are sent.
type recipient struct {
	private *rsa.PrivateKey
	public  []byte // DER SubjectPublicKeyInfo
}

func recipientKey(t *testing.T) *recipient {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &recipient{private, public}
}

// info is the recipient in a request. SHA-1 is all that SoftHSM2 has.
func (r *recipient) info() *types.RecipientInfo {
	return &types.RecipientInfo{AttestationDocument: r.public, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"}
}

func (r *recipient) open(t *testing.T, sealed []byte) []byte {
	t.Helper()
	opened, err := rsa.DecryptOAEP(sha1.New(), nil, r.private, sealed, nil)
	if err != nil {
		t.Fatalf("opening for the recipient: %v", err)
	}
	return opened
}
