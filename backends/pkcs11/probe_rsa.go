package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rsa"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// recipients finds the hashes that CKM_RSA_PKCS_OAEP wraps with, by opening
// what it wrapped.
func (b *prober) recipients() error {
	private := der.KnownRSA()
	key, value, rv := b.known(p11.CKK_GENERIC_SECRET, 32)
	if rv != p11.CKR_OK {
		b.fact("oaep", "not probed: no key of known value: "+rvName(rv))
		return fatal("C_CreateObject", rv)
	}
	public, rv := b.keep(b.s.CreateObject(b.s.handle, recipientTemplate(&private.PublicKey)))
	if rv != p11.CKR_OK {
		b.fact("oaep", "no RSA public key as a session object: "+rvName(rv))
		return fatal("C_CreateObject", rv)
	}
	for name, h := range oaepHashes {
		out := make([]byte, private.Size())
		r := b.s.WrapKey(b.s.handle, h.mechanism(), public, key, out)
		if r.RV != p11.CKR_OK {
			b.fact(h.fact, "no: "+rvName(r.RV))
			continue
		}
		opened, err := private.Decrypt(nil, out[:r.N], &rsa.OAEPOptions{Hash: h.hash})
		b.oaep[name] = err == nil && bytes.Equal(opened, value)
		b.fact(h.fact, yes(b.oaep[name]))
	}
	return nil
}

// oaepHash is a hash of RSAES-OAEP (RFC 8017, section 7.1), used for MGF1 too.
type oaepHash struct {
	hash       crypto.Hash
	ckm, mgf   uint
	name, fact string // as PKCS#11 and the facts name it
}

// oaepHashes are AWS's algorithms for a recipient, and SHA-1 for tokens that
// have no other.
var oaepHashes = map[backends.Algorithm]oaepHash{
	"RSAES_OAEP_SHA_256": {crypto.SHA256, p11.CKM_SHA256, p11.CKG_MGF1_SHA256, "CKM_RSA_PKCS_OAEP with CKM_SHA256", "oaep-sha256"},
	"RSAES_OAEP_SHA_1":   {crypto.SHA1, p11.CKM_SHA_1, p11.CKG_MGF1_SHA1, "CKM_RSA_PKCS_OAEP with CKM_SHA_1", "oaep-sha1"},
}

// mechanism is CKM_RSA_PKCS_OAEP with CK_RSA_PKCS_OAEP_PARAMS (PKCS#11 2.40
// Current Mechanisms, section 2.1.8) and no label.
func (h oaepHash) mechanism() cryptoki.Mechanism {
	var parameter []byte
	for _, field := range []uint{h.ckm, h.mgf, p11.CKZ_DATA_SPECIFIED, 0, 0} {
		parameter = cryptoki.AppendULong(parameter, field)
	}
	return cryptoki.Mechanism{Type: p11.CKM_RSA_PKCS_OAEP, Parameter: parameter}
}

// room is how many bytes OAEP takes under a modulus of size bytes.
func (h oaepHash) room(size int) int { return size - 2*h.hash.Size() - 2 }

// derivation looks whether CKM_AES_CBC_ENCRYPT_DATA derives keys of exactly
// the length asked for.
func (b *prober) derivation() error {
	base, rv := b.generate(p11.CKM_AES_KEY_GEN, b.sessionKey(p11.CKK_AES, 32, true, p11.CKA_DERIVE))
	if rv != p11.CKR_OK {
		b.fact("derive-cbc", "no: C_GenerateKey "+rvName(rv))
		return fatal("C_GenerateKey", rv)
	}
	o, rv := b.keep(b.s.DeriveCBC(b.s.handle, base, derivationData(33),
		b.sessionKey(p11.CKK_GENERIC_SECRET, 33, true)))
	if rv != p11.CKR_OK {
		b.fact("derive-cbc", "no: "+rvName(rv))
		return fatal("C_DeriveKey", rv)
	}
	b.deriveCBC = b.valueLength(o) == 33
	b.fact("derive-cbc", yes(b.deriveCBC))
	return nil
}
