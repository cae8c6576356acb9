package pkcs11

import (
	"bytes"
	"math/big"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// pairPurpose returns the purpose of a private key: one usage attribute and
// the mechanisms of that usage.
func (p *profile) pairPurpose(k kind) (*purpose, error) {
	pair := der.KindOf(k.spec)
	if pair == nil {
		return nil, noSuchPair(k)
	}
	if p.labels == noLabels {
		return nil, unsupported(needsLabel)
	}
	u := &purpose{class: p11.CKO_PRIVATE_KEY, keyType: pair.KeyType(), pair: pair}
	switch {
	case k.usage == backends.SignVerify && pair.Form != der.MLKEMKey:
		u.uses = []uint{p11.CKA_SIGN}
		u.mechanisms = signMechanisms[pair.Form]
		if pair.Form == der.RSAKey && p.rawSigning {
			u.mechanisms = append(slices.Clone(u.mechanisms), p11.CKM_RSA_X_509)
		}
	case k.usage == backends.KeyAgreement && pair.Form == der.ECKey && k.spec != backends.Secp256k1:
		u.uses = []uint{p11.CKA_DERIVE}
		u.mechanisms = []uint{p11.CKM_ECDH1_DERIVE}
	case k.usage == backends.EncapsulateDecapsulate && pair.Form == der.MLKEMKey:
		u.uses = []uint{cryptoki.CKADecapsulate}
		u.mechanisms = []uint{cryptoki.CKMMLKEM}
	case k.usage == backends.EncryptDecrypt && pair.Form == der.RSAKey:
		return p.rsaDecryption(u)
	case k.usage == backends.UnwrapImport && pair.Form == der.RSAKey:
		return p.rsaUnwrapping(u)
	default:
		return nil, noSuchPair(k)
	}
	return u, nil
}

func noSuchPair(k kind) error {
	return backends.Errorf(backends.InvalidRequest, "no key pair of spec %s has usage %s", k.spec, k.usage)
}

// signMechanisms are CKA_ALLOWED_MECHANISMS of a signing key.
var signMechanisms = map[der.Form][]uint{
	der.RSAKey:     {p11.CKM_RSA_PKCS, p11.CKM_RSA_PKCS_PSS},
	der.ECKey:      {p11.CKM_ECDSA},
	der.EdwardsKey: {cryptoki.CKMEDDSA},
	der.MLDSAKey:   {cryptoki.CKMMLDSA},
}

// rsaDecryption completes the purpose of an RSA key that decrypts: with OAEP
// in the token if that does every hash, else with the bare RSA primitive, too.
// A key that was made before the token learned a hash keeps the other set.
func (p *profile) rsaDecryption(u *purpose) (*purpose, error) {
	all := true
	for name := range oaepHashes {
		all = all && p.oaepDecrypt[name]
	}
	if !all && !p.rawRSA {
		return nil, unsupported("CKM_RSA_PKCS_OAEP")
	}
	u.uses = []uint{p11.CKA_DECRYPT}
	u.mechanisms, u.tolerated = []uint{p11.CKM_RSA_PKCS_OAEP}, []uint{p11.CKM_RSA_X_509}
	if !all {
		u.mechanisms = append(u.mechanisms, p11.CKM_RSA_X_509)
	}
	return u, nil
}

// rsaUnwrapping completes the purpose of an RSA key that unwraps imported key
// material. Where the token cannot unwrap some algorithm, the key decrypts as
// well, and what it decrypts passes through the memory of this process.
func (p *profile) rsaUnwrapping(u *purpose) (*purpose, error) {
	oaep, rsaAES := false, false
	all := p.unwrappedLength && p.unwrapsPrivate[der.RSAKey] && p.unwrapsPrivate[der.ECKey]
	for name := range oaepHashes {
		oaep, rsaAES = oaep || p.oaepUnwrap[name], rsaAES || p.rsaAESUnwrap[name]
		all = all && p.oaepUnwrap[name] && p.rsaAESUnwrap[name]
	}
	u.tolerated = []uint{p11.CKM_RSA_PKCS_OAEP, p11.CKM_RSA_AES_KEY_WRAP, p11.CKM_RSA_X_509}
	if oaep || rsaAES {
		u.uses = append(u.uses, p11.CKA_UNWRAP)
	}
	if oaep {
		u.mechanisms = append(u.mechanisms, p11.CKM_RSA_PKCS_OAEP)
	}
	if rsaAES {
		u.mechanisms = append(u.mechanisms, p11.CKM_RSA_AES_KEY_WRAP)
	}
	if !all && p.rawRSA {
		u.uses = append(u.uses, p11.CKA_DECRYPT)
		u.mechanisms = append(u.mechanisms, p11.CKM_RSA_X_509)
	}
	if len(u.uses) == 0 {
		return nil, unsupported("CKM_RSA_PKCS_OAEP")
	}
	if p.importUse != 0 && len(u.uses) > 1 {
		u.uses = []uint{p.importUse}
	}
	return u, nil
}

// publicUse is the usage attribute of the public key beside a private key.
// Only ML-KEM's is used here; some tokens want the two to match.
func (u *purpose) publicUse() []uint {
	var uses []uint
	for _, a := range u.uses {
		switch a {
		case p11.CKA_SIGN:
			uses = append(uses, p11.CKA_VERIFY)
		case p11.CKA_DECRYPT:
			uses = append(uses, p11.CKA_ENCRYPT)
		case p11.CKA_UNWRAP:
			uses = append(uses, p11.CKA_WRAP)
		case cryptoki.CKADecapsulate:
			uses = append(uses, cryptoki.CKAEncapsulate)
		}
	}
	return uses
}

// publicTemplate is the template of the public key of a pair, without what
// says which key it is.
func (p *profile) publicTemplate(u *purpose, token bool, id, label []byte) cryptoki.Template {
	public := purpose{class: p11.CKO_PUBLIC_KEY, keyType: u.keyType, uses: u.publicUse()}
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, public.class).
		ULong(p11.CKA_KEY_TYPE, public.keyType).
		Bool(p11.CKA_TOKEN, token)
	t = p.flag(t, public, p11.CKA_MODIFIABLE, false)
	t = p.usage(t, public)
	if token {
		t = t.Bytes(p11.CKA_ID, id).Bytes(p11.CKA_LABEL, label)
	}
	return t
}

// mismatch names the attribute in which a private key is not of this kind, ""
// if it is.
func (s *session) mismatch(k *der.Kind, o cryptoki.Object) (string, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_MODULUS, maxModulus)
	q.Ask(p11.CKA_EC_PARAMS, maxParams)
	q.AskULong(cryptoki.CKAParameterSet)
	if err := s.attributes(o, &q); err != nil {
		return "", err
	}
	switch k.Form {
	case der.RSAKey:
		n, ok := q.Value(p11.CKA_MODULUS)
		if !ok || new(big.Int).SetBytes(n).BitLen() != int(k.Bits) {
			return "CKA_MODULUS", nil
		}
	case der.MLDSAKey, der.MLKEMKey:
		if set, ok := q.ULong(cryptoki.CKAParameterSet); !ok || set != k.ParameterSet {
			return "CKA_PARAMETER_SET", nil
		}
	default:
		params, ok := q.Value(p11.CKA_EC_PARAMS)
		if !ok || !bytes.Equal(params, k.CurveOID()) && (k.Form != der.EdwardsKey || !bytes.Equal(params, k.CurveName())) {
			return "CKA_EC_PARAMS", nil
		}
	}
	return "", nil
}

// Room for attributes: the modulus of an RSA-8192 key, which is too long to be
// right but long enough to be seen, and the name of a curve.
const (
	maxModulus = 1024
	maxParams  = 64
)
