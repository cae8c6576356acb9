package token

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// OAEPHash is a hash of RSAES-OAEP (RFC 8017, section 7.1), used for MGF1 too.
type OAEPHash struct {
	Hash       crypto.Hash
	CKM, MGF   uint
	Name, Fact string // as PKCS#11 and the facts name it
}

// OAEPHashes are AWS's algorithms for a recipient, and SHA-1 for tokens that
// have no other.
var OAEPHashes = map[backends.Algorithm]OAEPHash{
	"RSAES_OAEP_SHA_256": {crypto.SHA256, p11.CKM_SHA256, p11.CKG_MGF1_SHA256, "CKM_RSA_PKCS_OAEP with CKM_SHA256", "oaep-sha256"},
	"RSAES_OAEP_SHA_1":   {crypto.SHA1, p11.CKM_SHA_1, p11.CKG_MGF1_SHA1, "CKM_RSA_PKCS_OAEP with CKM_SHA_1", "oaep-sha1"},
}

// Mechanism is CKM_RSA_PKCS_OAEP with CK_RSA_PKCS_OAEP_PARAMS (PKCS#11 2.40
// Current Mechanisms, section 2.1.8) and no label.
func (h OAEPHash) Mechanism() cryptoki.Mechanism {
	var parameter []byte
	for _, field := range []uint{h.CKM, h.MGF, p11.CKZ_DATA_SPECIFIED, 0, 0} {
		parameter = cryptoki.AppendULong(parameter, field)
	}
	return cryptoki.Mechanism{Type: p11.CKM_RSA_PKCS_OAEP, Parameter: parameter}
}

// Room is how many bytes OAEP takes under a modulus of size bytes.
func (h OAEPHash) Room(size int) int { return size - 2*h.Hash.Size() - 2 }

// EncryptOAEP encrypts outside of the token.
func EncryptOAEP(public *rsa.PublicKey, h OAEPHash, plaintext []byte) ([]byte, error) {
	sealed, err := rsa.EncryptOAEP(h.Hash.New(), rand.Reader, public, plaintext, nil)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encrypting for a recipient: %v", err)
	}
	return sealed, nil
}

// RecipientTemplate is the template of a recipient's public key: a session
// object that wraps and does nothing else.
func RecipientTemplate(k *rsa.PublicKey) cryptoki.Template {
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
