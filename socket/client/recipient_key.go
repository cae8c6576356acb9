package client

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	kwp "github.com/tink-crypto/tink-go/v2/kwp/subtle"

	_ "crypto/sha1" // for OAEP
	_ "crypto/sha256"
)

// recipientKey is a key pair that answers are encrypted to.
type recipientKey struct {
	private *rsa.PrivateKey
	public  []byte // DER SubjectPublicKeyInfo (RFC 5280 section 4.1)
}

// kekLen is the length of the AES-256 key between RSA and a long plaintext.
const kekLen = 32

// errNotOpened says no more: what is wrong with a ciphertext is nobody's
// business.
var errNotOpened = errors.New("CiphertextForRecipient cannot be opened with the recipient key")

// processKeys has the key pair of each size, made when it is first asked for.
var processKeys = map[int]func() (*recipientKey, error){
	2048: sync.OnceValues(func() (*recipientKey, error) { return newRecipientKey(2048) }),
	3072: sync.OnceValues(func() (*recipientKey, error) { return newRecipientKey(3072) }),
	4096: sync.OnceValues(func() (*recipientKey, error) { return newRecipientKey(4096) }),
}

func processKey(bits int) (*recipientKey, error) {
	keyOf, ok := processKeys[bits]
	if !ok {
		return nil, fmt.Errorf("recipient key of %d bits, want 2048, 3072 or 4096", bits)
	}
	return keyOf()
}

func newRecipientKey(bits int) (*recipientKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, fmt.Errorf("making a recipient key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the recipient key: %w", err)
	}
	return &recipientKey{private: private, public: public}, nil
}

// open returns the plaintext of a CiphertextForRecipient, which is
//
//	RSAES-OAEP(plaintext)                             as long as the modulus
//	RSAES-OAEP(KEK, 32 bytes) | AES-KWP(KEK, plaintext)          longer
//
// with an empty OAEP label (RFC 8017 section 7.1) and RFC 5649 key wrapping
// with padding. The second form is for what is too long for the first.
func (k *recipientKey) open(ciphertext []byte, algorithm types.KeyEncryptionMechanism) ([]byte, error) {
	size := k.private.Size()
	if len(ciphertext) < size {
		return nil, errNotOpened
	}
	hash := crypto.SHA256
	if algorithm == oaepSHA1 {
		hash = crypto.SHA1
	}
	opened, err := k.private.Decrypt(rand.Reader, ciphertext[:size], &rsa.OAEPOptions{Hash: hash})
	if err != nil {
		return nil, errNotOpened
	}
	if len(ciphertext) == size {
		return opened, nil
	}
	defer clear(opened)
	if len(opened) != kekLen {
		return nil, errNotOpened
	}
	wrap, err := kwp.NewKWP(opened)
	if err != nil {
		return nil, errNotOpened
	}
	plaintext, err := wrap.Unwrap(ciphertext[size:])
	if err != nil {
		return nil, errNotOpened
	}
	return plaintext, nil
}
