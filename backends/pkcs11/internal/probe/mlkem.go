package probe

import (
	"bytes"
	"cmp"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// encapsulation makes a pair of each ML-KEM kind: what it encapsulates it must
// decapsulate, and something else from an altered ciphertext.
func (b *pairProber) encapsulation() error {
	for _, k := range der.MLKEMKinds {
		u, err := b.PairPurpose(token.Kind{Spec: k.Spec, Usage: backends.EncapsulateDecapsulate})
		if err != nil {
			return err
		}
		var public, private cryptoki.Object
		rv := b.fit(u, func() (rv uint) {
			public, private, rv = b.generatePair(u)
			return rv
		})
		if rv != p11.CKR_OK {
			if err := token.Fatal("C_GenerateKeyPair", rv); err != nil {
				return err
			}
			b.refused[k.Spec] = &backends.Error{Code: backends.Unsupported, Message: k.Name, RV: rv}
			continue
		}
		if rv := b.tryEncapsulation(k, public, private); rv != p11.CKR_OK {
			if err := token.Fatal("C_EncapsulateKey", rv); err != nil {
				return err
			}
			b.refused[k.Spec] = &backends.Error{Code: backends.Unsupported, Message: "CKM_ML_KEM with C_EncapsulateKey and C_DecapsulateKey", RV: rv}
		}
	}
	return nil
}

func (b *pairProber) tryEncapsulation(k *der.Kind, public, private cryptoki.Object) (rv uint) {
	if _, err := b.parsedPublic(k, public); err != nil {
		return p11.CKR_FUNCTION_FAILED
	}
	secret, ciphertext, err := token.Encapsulate(b.Profile, b.s, k, public)
	if err != nil {
		return cmp.Or(token.RVOf(err), p11.CKR_FUNCTION_FAILED)
	}
	again, err := token.Decapsulate(b.Profile, b.s, private, ciphertext)
	if err != nil {
		return cmp.Or(token.RVOf(err), p11.CKR_FUNCTION_FAILED)
	}
	ciphertext[0] ^= 1
	other, err := token.Decapsulate(b.Profile, b.s, private, ciphertext)
	if err != nil {
		return cmp.Or(token.RVOf(err), p11.CKR_FUNCTION_FAILED)
	}
	if !bytes.Equal(secret, again) || bytes.Equal(secret, other) {
		return p11.CKR_FUNCTION_FAILED
	}
	return p11.CKR_OK
}
