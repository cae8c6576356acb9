package pkcs11

import (
	"bytes"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// C_UnwrapKey is where tokens differ most in what they take in a template:
// opencryptoki refuses CKA_SENSITIVE and CKA_EXTRACTABLE for keys that AES unwraps, and
// ignores them for those that RSA does, and what it makes can be read. That is good
// enough for a data key, which lives for one call, and not for a CMK.

// unwrapVariants are the attributes left out of a template of C_UnwrapKey, in the order
// in which that is tried.
var unwrapVariants = [][]uint{nil, {p11.CKA_EXTRACTABLE}, {p11.CKA_SENSITIVE}, {p11.CKA_SENSITIVE, p11.CKA_EXTRACTABLE}}

// unwrapped is the template of a key that C_UnwrapKey makes, without what the token
// refuses there.
func (p *profile) unwrapped(t cryptoki.Template) cryptoki.Template {
	return t.Without(p.unwrapOmits...)
}

// unwrap unwraps a generic secret that is to be read, and finds the template by which
// the token does that.
func (b *prober) unwrap(m cryptoki.Mechanism, kek cryptoki.Object, wrapped, value []byte) (o cryptoki.Object, rv uint) {
	for _, b.unwrapOmits = range unwrapVariants {
		o, rv = b.keep(b.s.UnwrapKey(b.s.handle, m, kek, wrapped, b.unwrapped(b.sessionKey(p11.CKK_GENERIC_SECRET, 0, false))))
		switch {
		case rv == p11.CKR_OK && (b.unwrapOmits == nil || b.gives(o, value)):
			if b.unwrapOmits != nil {
				b.fact("unwrap-template", "without what says whether the key can be read")
			}
			return o, rv
		case rv != p11.CKR_OK && !refusedTemplate(rv):
			b.unwrapOmits = nil
			return o, rv
		}
	}
	b.unwrapOmits = nil
	return o, rv
}

// gives reports whether a key has the value, and shows it; it may be padded.
func (b *prober) gives(o cryptoki.Object, value []byte) bool {
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, 2*len(value))
	b.s.GetAttributes(b.s.handle, o, &q)
	v, ok := q.Value(p11.CKA_VALUE)
	return ok && bytes.HasPrefix(v, value)
}

// lastingKey is the template of a secret key that is to stay in the token, as a session
// object.
func (b *prober) lastingKey(keyType uint) cryptoki.Template {
	return b.cmk(purpose{class: p11.CKO_SECRET_KEY, keyType: keyType}, false, nil, nil)
}

// staysIn reports whether a key is sensitive and not extractable.
func (b *prober) staysIn(o cryptoki.Object) bool {
	var q cryptoki.Query
	q.AskBool(p11.CKA_SENSITIVE, p11.CKA_EXTRACTABLE)
	b.s.GetAttributes(b.s.handle, o, &q)
	sensitive, ok := q.Bool(p11.CKA_SENSITIVE)
	extractable, ok2 := q.Bool(p11.CKA_EXTRACTABLE)
	return ok && ok2 && sensitive && !extractable
}

// edwards finds out how the token wants an Edwards curve to be named, and in which form
// it wraps a private key of it.
func (b *prober) edwards() error {
	k := der.Kinds[backends.Ed25519]
	var private cryptoki.Object
	var rv uint
	for _, b.edwardsOID = range []bool{false, true} {
		var public cryptoki.Object
		public, private, rv = b.s.GenerateKeyPair(b.s.handle, cryptoki.Mechanism{Type: k.Mechanism},
			b.sessionPublic(k), b.sessionPrivate(der.EdwardsKey, true))
		if rv == p11.CKR_OK {
			b.made = append(b.made, public, private)
			break
		}
	}
	if rv != p11.CKR_OK {
		b.edwardsOID = false
		b.fact("ed25519", "no: "+rvName(rv))
		return fatal("C_GenerateKeyPair", rv)
	}
	b.fact("ed25519", map[bool]string{false: "by the curve's name", true: "by the curve's OID"}[b.edwardsOID])
	return b.edwardsForm(private)
}

// edwardsForm wraps an Ed25519 private key under a key of known value and looks what
// comes out: kryoptic leaves out the OCTET STRING of RFC 8410, section 7.
func (b *prober) edwardsForm(private cryptoki.Object) error {
	if b.keyWrap == 0 {
		return nil
	}
	kek, kwp, err := b.knownKEK(p11.CKA_WRAP)
	if err != nil || kwp == nil {
		return err
	}
	out := make([]byte, maxWrapped)
	var r cryptoki.Result
	b.mayLack(func() {
		r = b.s.WrapKey(b.s.handle, cryptoki.Mechanism{Type: b.keyWrap}, kek, private, out)
	})
	if r.RV != p11.CKR_OK {
		b.fact("ed25519-wraps", "no: "+rvName(r.RV))
		return fatal("C_WrapKey", r.RV)
	}
	encoded, err := kwp.Unwrap(out[:r.N])
	if err == nil {
		_, err = der.ParsePKCS8(der.Kinds[backends.Ed25519], encoded)
	}
	clear(encoded)
	b.edwardsWraps = err == nil
	b.fact("ed25519-wraps", map[bool]string{false: "no: not in the form of RFC 8410", true: "yes"}[b.edwardsWraps])
	return nil
}
