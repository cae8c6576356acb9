package probe

import (
	"bytes"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// C_UnwrapKey is where tokens differ most in what they take in a template:
// opencryptoki refuses CKA_SENSITIVE and CKA_EXTRACTABLE for keys that AES unwraps, and
// ignores them for those that RSA does, and what it makes can be read. That is good
// enough for a data key, which lives for one call, and not for a CMK.

// unwrapVariants are the attributes left out of a template of C_UnwrapKey, in the order
// in which that is tried.
var unwrapVariants = [][]uint{nil, {p11.CKA_EXTRACTABLE}, {p11.CKA_SENSITIVE}, {p11.CKA_SENSITIVE, p11.CKA_EXTRACTABLE}}

// unwrap unwraps a generic secret that is to be read, and finds the template by which
// the token does that.
func (b *prober) unwrap(m cryptoki.Mechanism, kek cryptoki.Object, wrapped, value []byte) (o cryptoki.Object, rv uint) {
	for _, b.UnwrapOmits = range unwrapVariants {
		o, rv = b.keep(b.s.UnwrapKey(b.s.Handle, m, kek, wrapped, b.Unwrapped(b.SessionKey(p11.CKK_GENERIC_SECRET, 0, false))))
		switch {
		case rv == p11.CKR_OK && (b.UnwrapOmits == nil || b.gives(o, value)):
			if b.UnwrapOmits != nil {
				b.fact("unwrap-template", "without what says whether the key can be read")
			}
			return o, rv
		case rv != p11.CKR_OK && !token.RefusedTemplate(rv):
			b.UnwrapOmits = nil
			return o, rv
		}
	}
	b.UnwrapOmits = nil
	return o, rv
}

// gives reports whether a key has the value, and shows it; it may be padded.
func (b *prober) gives(o cryptoki.Object, value []byte) bool {
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, 2*len(value))
	b.s.GetAttributes(b.s.Handle, o, &q)
	v, ok := q.Value(p11.CKA_VALUE)
	return ok && bytes.HasPrefix(v, value)
}

// lastingKey is the template of a secret key that is to stay in the token, as a session
// object.
func (b *prober) lastingKey(keyType uint) cryptoki.Template {
	return b.CMK(token.Purpose{Class: p11.CKO_SECRET_KEY, KeyType: keyType}, false, nil, nil)
}

// staysIn reports whether a key says that it is sensitive and not extractable.
func (b *prober) staysIn(o cryptoki.Object) bool {
	sensitive, extractable := b.stays(o)
	return sensitive == yes && extractable == no
}

// mayLeave reports whether a key says that it is not sensitive, or that it is extractable.
func (b *prober) mayLeave(o cryptoki.Object) bool {
	sensitive, extractable := b.stays(o)
	return sensitive == no || extractable == yes
}

// said is what the token says of an attribute.
type said int

const (
	nothing said = iota
	yes
	no
)

// stays reads what the token says of a key.
func (b *prober) stays(o cryptoki.Object) (sensitive, extractable said) {
	var q cryptoki.Query
	q.AskBool(p11.CKA_SENSITIVE, p11.CKA_EXTRACTABLE)
	if rv := b.s.GetAttributes(b.s.Handle, o, &q); troubled[rv] || vague(rv) {
		return nothing, nothing
	}
	read := func(a uint) said {
		switch v, ok := q.Bool(a); {
		case !ok:
			return nothing
		case v:
			return yes
		}
		return no
	}
	return read(p11.CKA_SENSITIVE), read(p11.CKA_EXTRACTABLE)
}

// edwards finds out how the token wants an Edwards curve to be named, and in which form
// it wraps a private key of it.
func (b *prober) edwards() error {
	k := der.Kinds[backends.Ed25519]
	var private cryptoki.Object
	var rv uint
	for _, b.EdwardsOID = range []bool{false, true} {
		var public cryptoki.Object
		public, private, rv = b.s.GenerateKeyPair(b.s.Handle, cryptoki.Mechanism{Type: k.Mechanism},
			b.SessionPublic(k), b.SessionPrivate(der.EdwardsKey, true))
		if rv == p11.CKR_OK {
			b.made = append(b.made, public, private)
			break
		}
	}
	if rv != p11.CKR_OK {
		b.EdwardsOID = false
		b.fact("ed25519", "no: "+token.RVName(rv))
		return token.Fatal("C_GenerateKeyPair", rv)
	}
	b.fact("ed25519", map[bool]string{false: "by the curve's name", true: "by the curve's OID"}[b.EdwardsOID])
	return b.edwardsForm(private)
}

// edwardsForm wraps an Ed25519 private key under a key of known value and looks what
// comes out: kryoptic leaves out the OCTET STRING of RFC 8410, section 7.
func (b *prober) edwardsForm(private cryptoki.Object) error {
	if b.KeyWrap == 0 {
		return nil
	}
	kek, kwp, err := b.knownKEK(p11.CKA_WRAP)
	if err != nil || kwp == nil {
		return err
	}
	out := make([]byte, token.MaxWrapped)
	var r cryptoki.Result
	b.mayLack(func() {
		r = b.s.WrapKey(b.s.Handle, cryptoki.Mechanism{Type: b.KeyWrap}, kek, private, out)
	})
	if r.RV != p11.CKR_OK {
		b.fact("ed25519-wraps", "no: "+token.RVName(r.RV))
		return token.Fatal("C_WrapKey", r.RV)
	}
	encoded, err := kwp.Unwrap(out[:r.N])
	if err == nil {
		_, err = der.ParsePKCS8(der.Kinds[backends.Ed25519], encoded)
	}
	clear(encoded)
	b.EdwardsWraps = err == nil
	b.fact("ed25519-wraps", map[bool]string{false: "no: not in the form of RFC 8410", true: "yes"}[b.EdwardsWraps])
	return nil
}
