package token

import (
	"crypto"
	_ "crypto/sha1" // for crypto.Hash.New
	_ "crypto/sha256"
	_ "crypto/sha512"
	"slices"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// Purpose is what a key of some spec and usage is in the token: the attributes
// it is made with and must have when it is read back. Every token defaults to
// far more than that, so each usage attribute is set, most of them to false.
type Purpose struct {
	Class   uint // CKO_SECRET_KEY, CKO_PRIVATE_KEY or CKO_PUBLIC_KEY
	KeyType uint // CKK_…
	Length  uint // CKA_VALUE_LEN of a secret key, in bytes; 0: has none
	// uses are the usage attributes that are true.
	Uses []uint
	// mechanisms is CKA_ALLOWED_MECHANISMS; empty: not set.
	Mechanisms []uint
	// tolerated are mechanisms that a key of this purpose was made with when
	// the token could do less or more than it can now.
	tolerated []uint
	// pair is the kind of a private key, nil of a secret key.
	Pair *der.Kind
}

// UsageAttributes are the usage attributes by class of key (PKCS#11 2.40 Base, sections 4.8 to
// 4.10).
var UsageAttributes = map[uint][]uint{
	p11.CKO_SECRET_KEY: {
		p11.CKA_ENCRYPT, p11.CKA_DECRYPT, p11.CKA_SIGN, p11.CKA_VERIFY,
		p11.CKA_WRAP, p11.CKA_UNWRAP, p11.CKA_DERIVE,
	},
	p11.CKO_PRIVATE_KEY: {
		p11.CKA_DECRYPT, p11.CKA_SIGN, p11.CKA_SIGN_RECOVER, p11.CKA_UNWRAP, p11.CKA_DERIVE,
	},
	p11.CKO_PUBLIC_KEY: {
		p11.CKA_ENCRYPT, p11.CKA_VERIFY, p11.CKA_VERIFY_RECOVER, p11.CKA_WRAP, p11.CKA_DERIVE,
	},
}

// UsageOf are the usage attributes of a key's class. Those of PKCS#11 3.2 are of
// ML-KEM keys only: older tokens know them not.
func UsageOf(class, keyType uint) []uint {
	all := UsageAttributes[class]
	if keyType != cryptoki.CKKMLKEM {
		return all
	}
	return append(all[:len(all):len(all)], map[uint]uint{p11.CKO_PRIVATE_KEY: cryptoki.CKADecapsulate, p11.CKO_PUBLIC_KEY: cryptoki.CKAEncapsulate}[class])
}

// HMACs are the HMAC specs: the key is as long as the hash (the only lengths
// that AWS KMS generates).
var HMACs = map[backends.KeySpec]struct {
	Hash      crypto.Hash
	Mechanism uint
	Name      string
}{
	backends.HMAC224: {crypto.SHA224, p11.CKM_SHA224_HMAC, "CKM_SHA224_HMAC"},
	backends.HMAC256: {crypto.SHA256, p11.CKM_SHA256_HMAC, "CKM_SHA256_HMAC"},
	backends.HMAC384: {crypto.SHA384, p11.CKM_SHA384_HMAC, "CKM_SHA384_HMAC"},
	backends.HMAC512: {crypto.SHA512, p11.CKM_SHA512_HMAC, "CKM_SHA512_HMAC"},
}

// SecretPurpose returns the purpose of a symmetric or HMAC key.
func (p *Profile) SecretPurpose(spec backends.KeySpec, usage backends.Usage) (Purpose, error) {
	mac, isMAC := HMACs[spec]
	if rv, ok := p.Untried[spec]; ok {
		return Purpose{}, &backends.Error{Code: backends.Unsupported, Message: "making such a key for a test that it stays in the token" + NameOf(rv), RV: rv}
	}
	switch {
	case p.Labels == NoLabels:
		return Purpose{}, Unsupported(NeedsLabel)
	case usage == backends.EncryptDecrypt && spec == backends.SymmetricDefault:
		if !p.GCM {
			return Purpose{}, Unsupported("CKM_AES_GCM")
		}
		return Purpose{
			Class: p11.CKO_SECRET_KEY, KeyType: p11.CKK_AES, Length: 32,
			Uses:       []uint{p11.CKA_ENCRYPT, p11.CKA_DECRYPT},
			Mechanisms: []uint{p11.CKM_AES_GCM},
		}, nil
	case usage == backends.WrapDataKeys && spec == backends.AES256:
		if p.KeyWrap == 0 {
			return Purpose{}, Unsupported("CKM_AES_KEY_WRAP_KWP")
		}
		return Purpose{
			Class: p11.CKO_SECRET_KEY, KeyType: p11.CKK_AES, Length: 32,
			Uses:       []uint{p11.CKA_WRAP, p11.CKA_UNWRAP},
			Mechanisms: []uint{p.KeyWrap},
		}, nil
	case usage == backends.GenerateVerifyMAC && isMAC:
		if !p.HMAC[spec] {
			return Purpose{}, Unsupported(mac.Name)
		}
		return Purpose{
			Class: p11.CKO_SECRET_KEY, KeyType: p11.CKK_GENERIC_SECRET, Length: uint(mac.Hash.Size()),
			Uses:       []uint{p11.CKA_SIGN, p11.CKA_VERIFY},
			Mechanisms: []uint{mac.Mechanism},
		}, nil
	}
	return Purpose{}, backends.Errorf(backends.InvalidRequest, "no secret key of spec %s has usage %s", spec, usage)
}

// AttributeOf names an attribute of one type of key.
type AttributeOf struct{ KeyType, Attribute uint }

// Optional are the attributes that a token may refuse in a template, besides
// the usage attributes that are false. What remains is still read back.
var Optional = []uint{p11.CKA_PRIVATE, p11.CKA_MODIFIABLE, p11.CKA_COPYABLE, p11.CKA_ALLOWED_MECHANISMS}

// CMK returns the template of a CMK: it can never leave the token. Imported
// and session keys of the same purpose are made with it as well.
func (p *Profile) CMK(u Purpose, token bool, id, label []byte) cryptoki.Template {
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, u.Class).
		ULong(p11.CKA_KEY_TYPE, u.KeyType).
		Bool(p11.CKA_TOKEN, token).
		Bool(p11.CKA_SENSITIVE, true).
		Bool(p11.CKA_EXTRACTABLE, false)
	if u.Length != 0 {
		t = t.ULong(p11.CKA_VALUE_LEN, u.Length)
	}
	t = p.flag(t, u, p11.CKA_PRIVATE, true)
	t = p.flag(t, u, p11.CKA_COPYABLE, false)
	t = p.usage(t, u)
	if token {
		t = t.Bytes(p11.CKA_ID, id).Bytes(p11.CKA_LABEL, label)
	}
	// Last: C_UnwrapKey of SoftHSM2 lets nothing follow it.
	return p.flag(t, u, p11.CKA_MODIFIABLE, false)
}

// usage appends the usage attributes of a purpose, and the mechanisms.
func (p *Profile) usage(t cryptoki.Template, u Purpose) cryptoki.Template {
	for _, a := range UsageOf(u.Class, u.KeyType) {
		t = p.flag(t, u, a, slices.Contains(u.Uses, a))
	}
	if len(u.Mechanisms) > 0 && !p.Omitted[AttributeOf{u.KeyType, p11.CKA_ALLOWED_MECHANISMS}] {
		t = t.ULongs(p11.CKA_ALLOWED_MECHANISMS, u.Mechanisms...)
	}
	return t
}

// flag appends a CK_BBOOL attribute unless the token refuses it.
func (p *Profile) flag(t cryptoki.Template, u Purpose, attribute uint, v bool) cryptoki.Template {
	if p.Omitted[AttributeOf{u.KeyType, attribute}] {
		return t
	}
	return t.Bool(attribute, v)
}

// SessionKey returns the template of a session object that may be wrapped: a
// data key, or a key that lives for one call. Length 0: the call that makes
// the key says how long it is.
func (p *Profile) SessionKey(keyType, length uint, sensitive bool, uses ...uint) cryptoki.Template {
	u := Purpose{Class: p11.CKO_SECRET_KEY, KeyType: keyType, Length: length, Uses: uses}
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, u.Class).
		ULong(p11.CKA_KEY_TYPE, u.KeyType).
		Bool(p11.CKA_TOKEN, false).
		Bool(p11.CKA_SENSITIVE, sensitive).
		Bool(p11.CKA_EXTRACTABLE, true)
	if length != 0 {
		t = t.ULong(p11.CKA_VALUE_LEN, length)
	}
	t = p.flag(t, u, p11.CKA_PRIVATE, true)
	return p.usage(t, u)
}

// OctetString is the DER of an OCTET STRING.
func OctetString(v []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes(v) })
	return b.BytesOrPanic() // short
}

// RefusedTemplate reports whether a token did not take a template.
func RefusedTemplate(rv uint) bool {
	switch rv {
	case p11.CKR_ATTRIBUTE_READ_ONLY, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID,
		p11.CKR_TEMPLATE_INCONSISTENT, p11.CKR_TEMPLATE_INCOMPLETE, p11.CKR_ARGUMENTS_BAD:
		return true
	}
	return false
}

// Generators are the mechanisms that make secret keys, by CKA_KEY_TYPE.
var Generators = map[uint]uint{
	p11.CKK_AES:            p11.CKM_AES_KEY_GEN,
	p11.CKK_GENERIC_SECRET: p11.CKM_GENERIC_SECRET_KEY_GEN,
}

// DerivationData is the whole blocks that a base key encrypts for length
// bytes.
func DerivationData(length int) []byte { return make([]byte, (length+15)/16*16) }

// Kind names keys that have one purpose.
type Kind struct {
	Spec  backends.KeySpec
	Usage backends.Usage
}
