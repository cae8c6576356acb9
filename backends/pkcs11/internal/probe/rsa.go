package probe

import (
	"bytes"
	"crypto/rsa"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// recipients finds the hashes that CKM_RSA_PKCS_OAEP wraps with, by opening
// what it wrapped.
func (b *prober) recipients() error {
	private := der.KnownRSA()
	key, value, rv := b.known(p11.CKK_GENERIC_SECRET, 32)
	if rv != p11.CKR_OK {
		b.fact("oaep", "not probed: no key of known value: "+token.RVName(rv))
		return token.Fatal("C_CreateObject", rv)
	}
	public, rv := b.keep(b.s.CreateObject(b.s.Handle, token.RecipientTemplate(&private.PublicKey)))
	if rv != p11.CKR_OK {
		b.fact("oaep", "no RSA public key as a session object: "+token.RVName(rv))
		return token.Fatal("C_CreateObject", rv)
	}
	for name, h := range token.OAEPHashes {
		out := make([]byte, private.Size())
		r := b.s.WrapKey(b.s.Handle, h.Mechanism(), public, key, out)
		if r.RV != p11.CKR_OK {
			b.fact(h.Fact, "no: "+token.RVName(r.RV))
			continue
		}
		opened, err := private.Decrypt(nil, out[:r.N], &rsa.OAEPOptions{Hash: h.Hash})
		b.OAEP[name] = err == nil && bytes.Equal(opened, value)
		b.fact(h.Fact, token.Yes(b.OAEP[name]))
	}
	return nil
}

// derivation looks whether CKM_AES_CBC_ENCRYPT_DATA derives keys of exactly
// the length asked for.
func (b *prober) derivation() error {
	base, rv := b.generate(p11.CKM_AES_KEY_GEN, b.SessionKey(p11.CKK_AES, 32, true, p11.CKA_DERIVE))
	if rv != p11.CKR_OK {
		b.fact("derive-cbc", "no: C_GenerateKey "+token.RVName(rv))
		return token.Fatal("C_GenerateKey", rv)
	}
	o, rv := b.keep(b.s.DeriveCBC(b.s.Handle, base, token.DerivationData(33),
		b.SessionKey(p11.CKK_GENERIC_SECRET, 33, true)))
	if rv != p11.CKR_OK {
		b.fact("derive-cbc", "no: "+token.RVName(rv))
		return token.Fatal("C_DeriveKey", rv)
	}
	b.DeriveCBC = b.valueLength(o) == 33
	b.fact("derive-cbc", token.Yes(b.DeriveCBC))
	return nil
}
