package pkcs11

import (
	"bytes"
	"context"
	"crypto/ed25519"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// GenerateDataKeyPair implements [backends.DataKeyMaker]. Pairs are made one
// at a time: an RSA-4096 pair takes seconds, and calls beside it get their
// share of the processor.
func (b *Symmetric) GenerateDataKeyPair(ctx context.Context, in *backends.GenerateDataKeyPairRequest) (*backends.GenerateDataKeyAnswer, error) {
	kind, ok := pairKinds[in.Spec]
	if !ok {
		return nil, backends.Errorf(backends.InvalidRequest, "no data key pair of spec %s", in.Spec)
	}
	if _, err := b.encrypting(&in.Key); err != nil {
		return nil, err
	}
	if err := b.pairs.lock(ctx); err != nil {
		return nil, err
	}
	defer b.pairs.unlock()
	answer := &backends.GenerateDataKeyAnswer{}
	p := &payload{wrapping: in.Wrapping.ID, form: kind.form}
	err := b.withWrapping(ctx, &in.Wrapping, in.Recipient, func(s *session, w cryptoki.Object, r *recipient) error {
		readable := in.Plaintext || r.reads()
		public, private, rv := s.GenerateKeyPair(s.handle, cryptoki.Mechanism{Type: kind.mechanism},
			kind.sessionPublic(), b.profile.sessionPrivate(kind.form, !readable || kind.form != edwardsKey))
		if err := s.check("C_GenerateKeyPair", rv); err != nil {
			return kind.refused(err)
		}
		defer s.destroy(public, private)
		var err error
		if answer.PublicKey, err = kind.publicKey(s, public); err != nil {
			return err
		}
		if err := b.wrapPair(s, w, private, p, readable); err != nil {
			return err
		}
		answer.ForRecipient, answer.Plaintext, err = b.openPair(s, w, p, r, in.Plaintext)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b.sealDataKey(ctx, &in.Key, p, in.AAD, answer)
}

// wrapPair wraps a private key of p's form for p.
func (b *Symmetric) wrapPair(s *session, w, private cryptoki.Object, p *payload, readable bool) error {
	m := cryptoki.Mechanism{Type: b.profile.keyWrap}
	out := make([]byte, maxWrapped)
	r := s.WrapKey(s.handle, m, w, private, out)
	if r.RV == p11.CKR_KEY_NOT_WRAPPABLE && p.form == edwardsKey {
		if !readable {
			return unsupported("C_WrapKey of a CKK_EC_EDWARDS private key")
		}
		secret, err := ed25519AsSecret(s, b.profile, private)
		if err != nil {
			return err
		}
		defer s.destroy(secret)
		p.form = ed25519Secret
		r = s.WrapKey(s.handle, m, w, secret, out)
	}
	p.wrapped = out[:r.N:r.N]
	return s.check("C_WrapKey", r.RV)
}

// ed25519PKCS8 is the PKCS #8 form of an Ed25519 private key without its 32
// bytes (RFC 8410, section 7 and appendix A).
var ed25519PKCS8 = []byte{
	0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
}

// ed25519AsSecret makes a secret key of the PKCS #8 form of a readable Ed25519
// private key.
func ed25519AsSecret(s *session, p *profile, private cryptoki.Object) (cryptoki.Object, error) {
	seed, err := s.read(private, ed25519.SeedSize, ed25519.SeedSize)
	if err != nil {
		return 0, err
	}
	defer clear(seed)
	value := append(bytes.Clone(ed25519PKCS8), seed...)
	defer clear(value)
	t := p.sessionKey(p11.CKK_GENERIC_SECRET, 0, false).Bytes(p11.CKA_VALUE, value)
	defer clear(t)
	h, rv := s.CreateObject(s.handle, t)
	return h, s.check("C_CreateObject", rv)
}

// sessionPrivate is the template of a data key pair's private key: a session
// object that can be wrapped and does nothing else.
func (p *profile) sessionPrivate(f form, sensitive bool) cryptoki.Template {
	u := purpose{class: p11.CKO_PRIVATE_KEY, keyType: pairKeyTypes[f]}
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, u.class).
		ULong(p11.CKA_KEY_TYPE, u.keyType).
		Bool(p11.CKA_TOKEN, false).
		Bool(p11.CKA_SENSITIVE, sensitive).
		Bool(p11.CKA_EXTRACTABLE, true)
	t = p.flag(t, u, p11.CKA_PRIVATE, true)
	return p.usage(t, u)
}

// pairKeyTypes is CKA_KEY_TYPE by form.
var pairKeyTypes = map[form]uint{
	rsaKey:     p11.CKK_RSA,
	ecKey:      p11.CKK_EC,
	edwardsKey: ckkECEdwards,
}
