package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// The primes of the RSA-2048 key that OAEP is probed with. It was made for
// this purpose, only ever wraps a public constant, and protects nothing.
const (
	probePrimeP = "" +
		"e31ee2777cfe0c6252533f169b7789f2f790d66379f86201b68de922ec7320f0" +
		"43442ee9b3c2d3b1e37407970446275a994a4febda58bd2ee103dc911c9c601a" +
		"c1b9983e5e1ae6adcfe00ee2accc888b325f20f690f6a922031a97c82f72b21d" +
		"3a28418eb342e76609ce8a2088cdbabe413c1d9586dc8fe3e3aafc8c9dc3dcc7"
	probePrimeQ = "" +
		"e04facfc4a69fe4038c873b30efa93f8518bd3d86fa301ad54c8098a4be5b3d0" +
		"800a75f6c032b66e9b9d90c7df7bf9674102242c7bc26312265bb97fe58e5e50" +
		"ca51528f25a44bfe67593ee3e1e7129ec246bdead36768d73c10bcc907d7ed31" +
		"aa422a45dce99c785cbbf6b0cfd7e6998821a7b610af565573dd3625a14904c1"
)

// probeRSA is the key of the two primes above.
func probeRSA() *rsa.PrivateKey {
	p, _ := new(big.Int).SetString(probePrimeP, 16)
	q, _ := new(big.Int).SetString(probePrimeQ, 16)
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	k := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537},
		D:         new(big.Int).ModInverse(big.NewInt(65537), phi),
		Primes:    []*big.Int{p, q},
	}
	k.Precompute()
	return k
}

// recipients finds the hashes that CKM_RSA_PKCS_OAEP wraps with, by opening
// what it wrapped.
func (b *prober) recipients() error {
	private := probeRSA()
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
