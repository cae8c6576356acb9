package pkcs11

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"

	p11 "github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// recipientTemplate is the template of a recipient's public key: a session
// object that wraps and does nothing else.
func recipientTemplate(k *rsa.PublicKey) cryptoki.Template {
	return cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY).
		ULong(p11.CKA_KEY_TYPE, p11.CKK_RSA).
		Bool(p11.CKA_TOKEN, false).
		Bool(p11.CKA_WRAP, true).
		Bool(p11.CKA_ENCRYPT, false).
		Bool(p11.CKA_VERIFY, false).
		Bytes(p11.CKA_MODULUS, k.N.Bytes()).
		Bytes(p11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(k.E)).Bytes())
}

// parseRecipient checks a recipient's public key and algorithm.
func parseRecipient(r *backends.Recipient) (*rsa.PublicKey, oaepHash, error) {
	h, ok := oaepHashes[r.Algorithm]
	if !ok {
		return nil, h, backends.Errorf(backends.InvalidRequest, "no recipient algorithm %s", r.Algorithm)
	}
	if r.CMS {
		return nil, h, unsupported("CMS EnvelopedData for a recipient")
	}
	k, err := x509.ParsePKIXPublicKey(r.PublicKey)
	if err != nil {
		return nil, h, backends.Errorf(backends.InvalidRequest, "the recipient's public key is not a SubjectPublicKeyInfo")
	}
	public, ok := k.(*rsa.PublicKey)
	if !ok {
		return nil, h, backends.Errorf(backends.InvalidRequest, "the recipient's public key is not an RSA key")
	}
	if n := public.N.BitLen(); n < 2048 || n > 4096 || n%8 != 0 || public.E < 65537 || public.E%2 == 0 || public.N.Bit(0) == 0 {
		return nil, h, backends.Errorf(backends.InvalidRequest, "the recipient's RSA key has %d bits and exponent %d: 2048 to 4096 bits and an odd exponent of at least 65537 are accepted", n, public.E)
	}
	return public, h, nil
}

// sealToRecipient encrypts a plaintext that is in the plugin's memory anyway.
func sealToRecipient(r *backends.Recipient, plaintext []byte) ([]byte, error) {
	public, h, err := parseRecipient(r)
	if err != nil {
		return nil, err
	}
	if len(plaintext) <= h.room(public.Size()) {
		return oaep(public, h, plaintext)
	}
	kek := make([]byte, kekLength)
	defer clear(kek)
	if _, err := rand.Read(kek); err != nil {
		return nil, backends.Errorf(backends.Internal, "making a key encryption key: %v", err)
	}
	sealed, err := oaep(public, h, kek)
	if err != nil {
		return nil, err
	}
	kwp, err := subtle.NewKWP(kek)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "wrapping for a recipient: %v", err)
	}
	wrapped, err := kwp.Wrap(plaintext)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "wrapping for a recipient: %v", err)
	}
	return append(sealed, wrapped...), nil
}

// kekLength is the length of the key between OAEP and what is too long for it.
const kekLength = 32

func oaep(public *rsa.PublicKey, h oaepHash, plaintext []byte) ([]byte, error) {
	sealed, err := rsa.EncryptOAEP(h.new(), rand.Reader, public, plaintext, nil)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encrypting for a recipient: %v", err)
	}
	return sealed, nil
}

type recipientCache struct{}

// derivationData is what the base key of a derived data key encrypts.
func derivationData(length int) []byte {
	return make([]byte, (length+15)/16*16)
}
