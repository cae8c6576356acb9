package token

import (
	"crypto/rsa"
	"crypto/x509"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// Generation appends the attributes that say which key to generate.
func (p *Profile) Generation(k *der.Kind, t cryptoki.Template) cryptoki.Template {
	switch k.Form {
	case der.RSAKey:
		return t.ULong(p11.CKA_MODULUS_BITS, k.Bits).
			Bytes(p11.CKA_PUBLIC_EXPONENT, big.NewInt(65537).Bytes())
	case der.MLDSAKey, der.MLKEMKey:
		return t.ULong(cryptoki.CKAParameterSet, k.ParameterSet)
	default:
		return t.Bytes(p11.CKA_EC_PARAMS, p.Params(k))
	}
}

// Params is CKA_EC_PARAMS. For Edwards curves that is the name as a PrintableString or
// the OID: PKCS#11 3.0 (section 2.3.5) has both, and there are modules that take one alone.
func (p *Profile) Params(k *der.Kind) []byte {
	if k.Form == der.EdwardsKey && !p.EdwardsOID {
		return k.CurveName()
	}
	return k.CurveOID()
}

// SessionPublic is the template of a data key pair's public key, which does
// nothing in the token.
func (p *Profile) SessionPublic(k *der.Kind) cryptoki.Template {
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY).
		ULong(p11.CKA_KEY_TYPE, der.KeyTypes[k.Form]).
		Bool(p11.CKA_TOKEN, false)
	return p.Generation(k, t)
}

// PairRefused names the mechanism in the error of a pair that the token cannot
// generate.
func PairRefused(k *der.Kind, err error) error {
	switch RVOf(err) {
	case p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_DOMAIN_PARAMS_INVALID, p11.CKR_TEMPLATE_INCONSISTENT:
	default:
		if backends.CodeOf(err) != backends.Unsupported {
			return err
		}
	}
	return &backends.Error{Code: backends.Unsupported, Message: k.Name, RV: RVOf(err)}
}

// PublicKey reads a public key object and returns its DER
// SubjectPublicKeyInfo (RFC 5280, section 4.1).
func (s *Session) PublicKey(k *der.Kind, o cryptoki.Object) ([]byte, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_MODULUS, 512)
	q.Ask(p11.CKA_PUBLIC_EXPONENT, 16)
	q.Ask(p11.CKA_EC_POINT, 160)
	q.Ask(p11.CKA_VALUE, 4096)
	if err := s.Attributes(o, &q); err != nil {
		return nil, err
	}
	if k.Form == der.RSAKey {
		return rsaPublicKey(&q, int(k.Bits))
	}
	if k.Form == der.MLDSAKey || k.Form == der.MLKEMKey {
		value, ok := q.Value(p11.CKA_VALUE)
		if !ok || len(value) != k.Point {
			return nil, backends.Errorf(backends.Internal, "CKA_VALUE of a public key has %d bytes, not %d", len(value), k.Point)
		}
		return k.PointKey(value)
	}
	point, ok := q.Value(p11.CKA_EC_POINT)
	if !ok {
		return nil, backends.Errorf(backends.Internal, "a public key has no CKA_EC_POINT")
	}
	return k.ECPublicKey(point)
}

func rsaPublicKey(q *cryptoki.Query, bits int) ([]byte, error) {
	n, ok := q.Value(p11.CKA_MODULUS)
	e, ok2 := q.Value(p11.CKA_PUBLIC_EXPONENT)
	if !ok || !ok2 || len(e) > 4 {
		return nil, backends.Errorf(backends.Internal, "an RSA public key has no modulus or no exponent of 32 bits")
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if public.N.BitLen() != bits {
		return nil, backends.Errorf(backends.Internal, "an RSA public key has %d bits, not %d", public.N.BitLen(), bits)
	}
	encoded, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encoding an RSA public key: %v", err)
	}
	return encoded, nil
}

// Components appends the value of the key to a template.
func (p *Profile) Components(k *der.PrivateKey, t cryptoki.Template) cryptoki.Template {
	if k.Kind.Form != der.RSAKey {
		return t.Bytes(p11.CKA_EC_PARAMS, p.Params(k.Kind)).Bytes(p11.CKA_VALUE, k.Value)
	}
	n := 0
	for _, v := range k.RSA {
		n += len(v)
	}
	t = t.Reserve(len(k.RSA), n)
	for i, a := range []uint{
		p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT, p11.CKA_PRIVATE_EXPONENT, p11.CKA_PRIME_1, p11.CKA_PRIME_2,
		p11.CKA_EXPONENT_1, p11.CKA_EXPONENT_2, p11.CKA_COEFFICIENT,
	} {
		t = t.Bytes(a, k.RSA[i])
	}
	return t
}
