package token

import (
	"maps"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// Unwrapped is the template of a key that C_UnwrapKey makes, without what the token
// refuses there.
func (p *Profile) Unwrapped(t cryptoki.Template) cryptoki.Template {
	return t.Without(p.UnwrapOmits...)
}

// SessionPrivate is the template of a data key pair's private key: a session
// object that can be wrapped and does nothing else.
func (p *Profile) SessionPrivate(f der.Form, sensitive bool) cryptoki.Template {
	return p.PrivateTemplate(f, sensitive, true)
}

// PrivateTemplate is the template of a private key as a session object.
func (p *Profile) PrivateTemplate(f der.Form, sensitive, extractable bool, uses ...uint) cryptoki.Template {
	u := Purpose{Class: p11.CKO_PRIVATE_KEY, KeyType: der.KeyTypes[f], Uses: uses}
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, u.Class).
		ULong(p11.CKA_KEY_TYPE, u.KeyType).
		Bool(p11.CKA_TOKEN, false).
		Bool(p11.CKA_SENSITIVE, sensitive).
		Bool(p11.CKA_EXTRACTABLE, extractable)
	t = p.flag(t, u, p11.CKA_PRIVATE, true)
	return p.usage(t, u)
}

// ImportProfile is what a token can do with RSA private keys that decrypt and
// unwrap. The maps are by the name of AWS's OAEP algorithm.
type ImportProfile struct {
	// rawRSA: CKM_RSA_X_509 gives the right answer.
	RawRSA bool
	// oaepDecrypt: CKM_RSA_PKCS_OAEP decrypts. oaepUnwrap: it unwraps, to keys that stay
	// in the token. rsaAESUnwrap: CKM_RSA_AES_KEY_WRAP does, to keys of any length.
	OAEPDecrypt, OAEPUnwrap, RSAAESUnwrap map[backends.Algorithm]bool
	// unwrappedLength: CKA_VALUE_LEN tells how long an unwrapped secret key is.
	// SoftHSM2 has 0 there.
	UnwrappedLength bool
	// unwrapsPrivate are the forms of private key that C_UnwrapKey makes of
	// PKCS #8 so that they stay in the token and their public key can be found out.
	UnwrapsPrivate map[der.Form]bool
	// importUse is the one use of a wrapping pair, CKA_UNWRAP or CKA_DECRYPT, in a token
	// that makes none with both; 0 in others.
	ImportUse uint
	// wrapping has a purpose, or wrappingRefused why there is none, for each
	// kind of wrapping pair.
	Wrapping        map[Kind]*Purpose
	WrappingRefused map[Kind]error
}

// Profile is what this token can do and how it wants to be asked, found by
// calling it: mechanism lists promise too much and too little.
type Profile struct {
	// omitted are the attributes that the token refuses in a template.
	Omitted map[AttributeOf]bool
	// gcm: CKM_AES_GCM gives the right ciphertext and refuses a wrong tag.
	GCM bool
	// gcmIV: the token chooses the IV and writes it to a zeroed buffer.
	GCMIV bool
	// keyWrap is the mechanism that is RFC 5649 here; 0: none.
	KeyWrap uint
	// keyWrapExact: keyWrap keeps every length. SoftHSM2 pads keys to a
	// multiple of 8 bytes, when it wraps them and when it unwraps them.
	KeyWrapExact bool
	// unwrapOmits are the attributes that C_UnwrapKey refuses in every template. What it
	// makes has the token's values then.
	UnwrapOmits []uint
	// keyWrapSafe: what keyWrap unwraps is sensitive and not extractable if it is to be.
	KeyWrapSafe bool
	// edwardsOID: CKA_EC_PARAMS of an Edwards curve is its OID (RFC 8410) and not its name.
	EdwardsOID bool
	// edwardsWraps: keyWrap wraps an Ed25519 private key in the form of RFC 8410.
	EdwardsWraps bool
	// deriveCBC: CKM_AES_CBC_ENCRYPT_DATA works, into keys of any length.
	DeriveCBC bool
	// oaep are the hashes that CKM_RSA_PKCS_OAEP wraps with, by the name of
	// AWS's algorithm.
	OAEP map[backends.Algorithm]bool
	// wrapCBCPad: CKM_AES_CBC_PAD wraps keys of every length.
	WrapCBCPad bool
	// readable: a session key that is not sensitive can be generated and read.
	Readable bool
	// hmac are the HMAC specs whose mechanism gives the right answer.
	HMAC map[backends.KeySpec]bool
	// labels is the form of CKA_LABEL that the token takes.
	Labels LabelForm
	// lasting: pairs are made as token objects only, and are probed as such.
	Lasting bool
	// forced are usage attributes of private keys that the token sets to true, whatever
	// is asked. This package never uses a key for what its purpose does not name.
	Forced map[AttributeOf]bool
	// Untried are the specs of secret keys, with the token's answer, that could not be tried
	// for leaks: none are made.
	Untried map[backends.KeySpec]uint
	// rawSigning: an RSA key signs with CKM_RSA_PKCS only if CKA_ALLOWED_MECHANISMS has
	// CKM_RSA_X_509, too.
	RawSigning bool
	ImportProfile
	Found map[string]string
}

// ckmCloudHSMKeyWrapZeroPad is AWS CloudHSM's RFC 5649
// (CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD).
const ckmCloudHSMKeyWrapZeroPad = 0x8000216F

// KeyWraps are the mechanism numbers that are RFC 5649 in some token:
// CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD (RFC 5649 in SoftHSM2, RFC 3394
// over PKCS #7 padding elsewhere) and CloudHSM's own.
var KeyWraps = []uint{0x210B, 0x210A, ckmCloudHSMKeyWrapZeroPad}

// Fatal returns the error of rv if it says that the token is lost.
func Fatal(call string, rv uint) error {
	if err := Failed(call, rv); rv != p11.CKR_GENERAL_ERROR && err.Code == backends.Lost {
		return err
	}
	return nil
}

// Yes writes a Boolean in a fact.
func Yes(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

// RVName names a return value in a fact.
func RVName(rv uint) string { return RVText(rv) }

// Facts returns what probing found.
func (p *Profile) Facts() map[string]string { return maps.Clone(p.Found) }

// TagLength is the length of a GCM tag in bytes, the longest there is.
const TagLength = 16
