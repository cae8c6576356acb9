package pkcs11

import (
	"bytes"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// ckmEDDSA is CKM_EDDSA of PKCS#11 3.0.
const ckmEDDSA = 0x1057

// pairPurpose returns the purpose of a private key: one usage attribute and
// the mechanisms of that usage.
func (p *profile) pairPurpose(k kind) (*purpose, error) {
	pair := pairKindOf(k.spec)
	if pair == nil {
		return nil, noSuchPair(k)
	}
	if p.labels == noLabels {
		return nil, unsupported(needsLabel)
	}
	u := &purpose{class: p11.CKO_PRIVATE_KEY, keyType: pair.keyType(), pair: pair}
	switch {
	case k.usage == backends.SignVerify && pair.form != mlKEMKey:
		u.uses = []uint{p11.CKA_SIGN}
		u.mechanisms = signMechanisms[pair.form]
	case k.usage == backends.KeyAgreement && pair.form == ecKey && k.spec != backends.Secp256k1:
		u.uses = []uint{p11.CKA_DERIVE}
		u.mechanisms = []uint{p11.CKM_ECDH1_DERIVE}
	case k.usage == backends.EncapsulateDecapsulate && pair.form == mlKEMKey:
		u.uses = []uint{ckaDecapsulate}
		u.mechanisms = []uint{ckmMLKEM}
	case k.usage == backends.EncryptDecrypt && pair.form == rsaKey:
		return p.rsaDecryption(u)
	case k.usage == backends.UnwrapImport && pair.form == rsaKey:
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
var signMechanisms = map[form][]uint{
	rsaKey:     {p11.CKM_RSA_PKCS, p11.CKM_RSA_PKCS_PSS},
	ecKey:      {p11.CKM_ECDSA},
	edwardsKey: {ckmEDDSA},
	mlDSAKey:   {ckmMLDSA},
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
	all := p.unwrappedLength && p.unwrapsPrivate[rsaKey] && p.unwrapsPrivate[ecKey]
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
		case ckaDecapsulate:
			uses = append(uses, ckaEncapsulate)
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

// keyType is CKA_KEY_TYPE.
func (k *pairKind) keyType() uint {
	switch k.form {
	case mlDSAKey:
		return ckkMLDSA
	case mlKEMKey:
		return ckkMLKEM
	default:
		return pairKeyTypes[k.form]
	}
}

// size is the length in bytes of an RSA modulus or of a field element.
func (k *pairKind) size() int {
	switch k.form {
	case rsaKey:
		return int(k.bits) / 8
	case ecKey:
		return k.point / 2 // 04 | x | y
	default:
		return k.point
	}
}

// mismatch names the attribute in which a private key is not of this kind, ""
// if it is.
func (k *pairKind) mismatch(s *session, o cryptoki.Object) (string, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_MODULUS, maxModulus)
	q.Ask(p11.CKA_EC_PARAMS, maxParams)
	q.AskULong(ckaParameterSet)
	if err := s.attributes(o, &q); err != nil {
		return "", err
	}
	switch k.form {
	case rsaKey:
		n, ok := q.Value(p11.CKA_MODULUS)
		if !ok || new(big.Int).SetBytes(n).BitLen() != int(k.bits) {
			return "CKA_MODULUS", nil
		}
	case mlDSAKey, mlKEMKey:
		if set, ok := q.ULong(ckaParameterSet); !ok || set != k.parameterSet {
			return "CKA_PARAMETER_SET", nil
		}
	default:
		params, ok := q.Value(p11.CKA_EC_PARAMS)
		if !ok || !bytes.Equal(params, k.curveOID()) && (k.form != edwardsKey || !bytes.Equal(params, k.curveName())) {
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
