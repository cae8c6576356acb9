package token

import (
	"bytes"
	"math/big"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// PairPurpose returns the purpose of a private key: one usage attribute and
// the mechanisms of that usage.
func (p *Profile) PairPurpose(k Kind) (*Purpose, error) {
	pair := der.KindOf(k.Spec)
	if pair == nil {
		return nil, NoSuchPair(k)
	}
	if p.Labels == NoLabels {
		return nil, Unsupported(NeedsLabel)
	}
	u := &Purpose{Class: p11.CKO_PRIVATE_KEY, KeyType: pair.KeyType(), Pair: pair}
	switch {
	case k.Usage == backends.SignVerify && pair.Form != der.MLKEMKey:
		u.Uses = []uint{p11.CKA_SIGN}
		u.Mechanisms = SignMechanisms[pair.Form]
		if pair.Form == der.RSAKey && p.RawSigning {
			u.Mechanisms = append(slices.Clone(u.Mechanisms), p11.CKM_RSA_X_509)
		}
	case k.Usage == backends.KeyAgreement && pair.Form == der.ECKey && k.Spec != backends.Secp256k1:
		u.Uses = []uint{p11.CKA_DERIVE}
		u.Mechanisms = []uint{p11.CKM_ECDH1_DERIVE}
	case k.Usage == backends.EncapsulateDecapsulate && pair.Form == der.MLKEMKey:
		u.Uses = []uint{cryptoki.CKADecapsulate}
		u.Mechanisms = []uint{cryptoki.CKMMLKEM}
	case k.Usage == backends.EncryptDecrypt && pair.Form == der.RSAKey:
		return p.rsaDecryption(u)
	case k.Usage == backends.UnwrapImport && pair.Form == der.RSAKey:
		return p.RSAUnwrapping(u)
	default:
		return nil, NoSuchPair(k)
	}
	return u, nil
}

// NoSuchPair is the error of a kind that no key pair has.
func NoSuchPair(k Kind) error {
	return backends.Errorf(backends.InvalidRequest, "no key pair of spec %s has usage %s", k.Spec, k.Usage)
}

// SignMechanisms are CKA_ALLOWED_MECHANISMS of a signing key.
var SignMechanisms = map[der.Form][]uint{
	der.RSAKey:     {p11.CKM_RSA_PKCS, p11.CKM_RSA_PKCS_PSS},
	der.ECKey:      {p11.CKM_ECDSA},
	der.EdwardsKey: {cryptoki.CKMEDDSA},
	der.MLDSAKey:   {cryptoki.CKMMLDSA},
}

// rsaDecryption completes the purpose of an RSA key that decrypts: with OAEP
// in the token if that does every hash, else with the bare RSA primitive, too.
// A key that was made before the token learned a hash keeps the other set.
func (p *Profile) rsaDecryption(u *Purpose) (*Purpose, error) {
	all := true
	for name := range OAEPHashes {
		all = all && p.OAEPDecrypt[name]
	}
	if !all && !p.RawRSA {
		return nil, Unsupported("CKM_RSA_PKCS_OAEP")
	}
	u.Uses = []uint{p11.CKA_DECRYPT}
	u.Mechanisms, u.tolerated = []uint{p11.CKM_RSA_PKCS_OAEP}, []uint{p11.CKM_RSA_X_509}
	if !all {
		u.Mechanisms = append(u.Mechanisms, p11.CKM_RSA_X_509)
	}
	return u, nil
}

// RSAUnwrapping completes the purpose of an RSA key that unwraps imported key
// material. Where the token cannot unwrap some algorithm, the key decrypts as
// well, and what it decrypts passes through the memory of this process.
func (p *Profile) RSAUnwrapping(u *Purpose) (*Purpose, error) {
	oaep, rsaAES := false, false
	all := p.UnwrappedLength && p.UnwrapsPrivate[der.RSAKey] && p.UnwrapsPrivate[der.ECKey]
	for name := range OAEPHashes {
		oaep, rsaAES = oaep || p.OAEPUnwrap[name], rsaAES || p.RSAAESUnwrap[name]
		all = all && p.OAEPUnwrap[name] && p.RSAAESUnwrap[name]
	}
	u.tolerated = []uint{p11.CKM_RSA_PKCS_OAEP, p11.CKM_RSA_AES_KEY_WRAP, p11.CKM_RSA_X_509}
	if oaep || rsaAES {
		u.Uses = append(u.Uses, p11.CKA_UNWRAP)
	}
	if oaep {
		u.Mechanisms = append(u.Mechanisms, p11.CKM_RSA_PKCS_OAEP)
	}
	if rsaAES {
		u.Mechanisms = append(u.Mechanisms, p11.CKM_RSA_AES_KEY_WRAP)
	}
	if !all && p.RawRSA {
		u.Uses = append(u.Uses, p11.CKA_DECRYPT)
		u.Mechanisms = append(u.Mechanisms, p11.CKM_RSA_X_509)
	}
	if len(u.Uses) == 0 {
		return nil, Unsupported("CKM_RSA_PKCS_OAEP")
	}
	if p.ImportUse != 0 && len(u.Uses) > 1 {
		u.Uses = []uint{p.ImportUse}
	}
	return u, nil
}

// PublicUse is the usage attribute of the public key beside a private key.
// Only ML-KEM's is used here; some tokens want the two to match.
func (u *Purpose) PublicUse() []uint {
	var uses []uint
	for _, a := range u.Uses {
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

// PublicTemplate is the template of the public key of a pair, without what
// says which key it is.
func (p *Profile) PublicTemplate(u *Purpose, token bool, id, label []byte) cryptoki.Template {
	public := Purpose{Class: p11.CKO_PUBLIC_KEY, KeyType: u.KeyType, Uses: u.PublicUse()}
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, public.Class).
		ULong(p11.CKA_KEY_TYPE, public.KeyType).
		Bool(p11.CKA_TOKEN, token)
	t = p.flag(t, public, p11.CKA_MODIFIABLE, false)
	t = p.usage(t, public)
	if token {
		t = t.Bytes(p11.CKA_ID, id).Bytes(p11.CKA_LABEL, label)
	}
	return t
}

// Mismatch names the attribute in which a private key is not of this kind, ""
// if it is.
func (s *Session) Mismatch(k *der.Kind, o cryptoki.Object) (string, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_MODULUS, maxModulus)
	q.Ask(p11.CKA_EC_PARAMS, maxParams)
	q.AskULong(cryptoki.CKAParameterSet)
	if err := s.Attributes(o, &q); err != nil {
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
