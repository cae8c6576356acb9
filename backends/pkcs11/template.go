package pkcs11

import (
	"crypto"
	_ "crypto/sha1" // for crypto.Hash.New
	_ "crypto/sha256"
	_ "crypto/sha512"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// purpose is what a key of some spec and usage is in the token: the attributes
// it is made with and must have when it is read back. Every token defaults to
// far more than that, so each usage attribute is set, most of them to false.
type purpose struct {
	class   uint // CKO_SECRET_KEY, CKO_PRIVATE_KEY or CKO_PUBLIC_KEY
	keyType uint // CKK_…
	length  uint // CKA_VALUE_LEN of a secret key, in bytes; 0: has none
	// uses are the usage attributes that are true.
	uses []uint
	// mechanisms is CKA_ALLOWED_MECHANISMS; empty: not set.
	mechanisms []uint
	// tolerated are mechanisms that a key of this purpose was made with when
	// the token could do less or more than it can now.
	tolerated []uint
	// pair is the kind of a private key, nil of a secret key.
	pair *der.Kind
}

// The usage attributes by class of key (PKCS#11 2.40 Base, sections 4.8 to
// 4.10).
var usageAttributes = map[uint][]uint{
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

// usageOf are the usage attributes of a key's class. Those of PKCS#11 3.2 are of
// ML-KEM keys only: older tokens know them not.
func usageOf(class, keyType uint) []uint {
	all := usageAttributes[class]
	if keyType != cryptoki.CKKMLKEM {
		return all
	}
	return append(all[:len(all):len(all)], map[uint]uint{p11.CKO_PRIVATE_KEY: cryptoki.CKADecapsulate, p11.CKO_PUBLIC_KEY: cryptoki.CKAEncapsulate}[class])
}

// hmacs are the HMAC specs: the key is as long as the hash (the only lengths
// that AWS KMS generates).
var hmacs = map[backends.KeySpec]struct {
	hash      crypto.Hash
	mechanism uint
	name      string
}{
	backends.HMAC224: {crypto.SHA224, p11.CKM_SHA224_HMAC, "CKM_SHA224_HMAC"},
	backends.HMAC256: {crypto.SHA256, p11.CKM_SHA256_HMAC, "CKM_SHA256_HMAC"},
	backends.HMAC384: {crypto.SHA384, p11.CKM_SHA384_HMAC, "CKM_SHA384_HMAC"},
	backends.HMAC512: {crypto.SHA512, p11.CKM_SHA512_HMAC, "CKM_SHA512_HMAC"},
}

// secretPurpose returns the purpose of a symmetric or HMAC key.
func (p *profile) secretPurpose(spec backends.KeySpec, usage backends.Usage) (purpose, error) {
	mac, isMAC := hmacs[spec]
	switch {
	case p.labels == noLabels:
		return purpose{}, unsupported(needsLabel)
	case usage == backends.EncryptDecrypt && spec == backends.SymmetricDefault:
		if !p.gcm {
			return purpose{}, unsupported("CKM_AES_GCM")
		}
		return purpose{
			class: p11.CKO_SECRET_KEY, keyType: p11.CKK_AES, length: 32,
			uses:       []uint{p11.CKA_ENCRYPT, p11.CKA_DECRYPT},
			mechanisms: []uint{p11.CKM_AES_GCM},
		}, nil
	case usage == backends.WrapDataKeys && spec == backends.AES256:
		if p.keyWrap == 0 {
			return purpose{}, unsupported("CKM_AES_KEY_WRAP_KWP")
		}
		return purpose{
			class: p11.CKO_SECRET_KEY, keyType: p11.CKK_AES, length: 32,
			uses:       []uint{p11.CKA_WRAP, p11.CKA_UNWRAP},
			mechanisms: []uint{p.keyWrap},
		}, nil
	case usage == backends.GenerateVerifyMAC && isMAC:
		if !p.hmac[spec] {
			return purpose{}, unsupported(mac.name)
		}
		return purpose{
			class: p11.CKO_SECRET_KEY, keyType: p11.CKK_GENERIC_SECRET, length: uint(mac.hash.Size()),
			uses:       []uint{p11.CKA_SIGN, p11.CKA_VERIFY},
			mechanisms: []uint{mac.mechanism},
		}, nil
	}
	return purpose{}, backends.Errorf(backends.InvalidRequest, "no secret key of spec %s has usage %s", spec, usage)
}

// attributeOf names an attribute of one type of key.
type attributeOf struct{ keyType, attribute uint }

// optional are the attributes that a token may refuse in a template, besides
// the usage attributes that are false. What remains is still read back.
var optional = []uint{p11.CKA_PRIVATE, p11.CKA_MODIFIABLE, p11.CKA_COPYABLE, p11.CKA_ALLOWED_MECHANISMS}

// cmk returns the template of a CMK: it can never leave the token. Imported
// and session keys of the same purpose are made with it as well.
func (p *profile) cmk(u purpose, token bool, id, label []byte) cryptoki.Template {
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, u.class).
		ULong(p11.CKA_KEY_TYPE, u.keyType).
		Bool(p11.CKA_TOKEN, token).
		Bool(p11.CKA_SENSITIVE, true).
		Bool(p11.CKA_EXTRACTABLE, false)
	if u.length != 0 {
		t = t.ULong(p11.CKA_VALUE_LEN, u.length)
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
func (p *profile) usage(t cryptoki.Template, u purpose) cryptoki.Template {
	for _, a := range usageOf(u.class, u.keyType) {
		t = p.flag(t, u, a, slices.Contains(u.uses, a))
	}
	if len(u.mechanisms) > 0 && !p.omitted[attributeOf{u.keyType, p11.CKA_ALLOWED_MECHANISMS}] {
		t = t.ULongs(p11.CKA_ALLOWED_MECHANISMS, u.mechanisms...)
	}
	return t
}

// flag appends a CK_BBOOL attribute unless the token refuses it.
func (p *profile) flag(t cryptoki.Template, u purpose, attribute uint, v bool) cryptoki.Template {
	if p.omitted[attributeOf{u.keyType, attribute}] {
		return t
	}
	return t.Bool(attribute, v)
}

// sessionKey returns the template of a session object that may be wrapped: a
// data key, or a key that lives for one call. Length 0: the call that makes
// the key says how long it is.
func (p *profile) sessionKey(keyType, length uint, sensitive bool, uses ...uint) cryptoki.Template {
	u := purpose{class: p11.CKO_SECRET_KEY, keyType: keyType, length: length, uses: uses}
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, u.class).
		ULong(p11.CKA_KEY_TYPE, u.keyType).
		Bool(p11.CKA_TOKEN, false).
		Bool(p11.CKA_SENSITIVE, sensitive).
		Bool(p11.CKA_EXTRACTABLE, true)
	if length != 0 {
		t = t.ULong(p11.CKA_VALUE_LEN, length)
	}
	t = p.flag(t, u, p11.CKA_PRIVATE, true)
	return p.usage(t, u)
}
