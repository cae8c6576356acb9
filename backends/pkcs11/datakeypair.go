package pkcs11

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// GenerateDataKeyPair implements [backends.DataKeyMaker]. Pairs are made one
// at a time: an RSA-4096 pair takes seconds, and calls beside it get their
// share of the processor.
func (b *Symmetric) GenerateDataKeyPair(ctx context.Context, in *backends.GenerateDataKeyPairRequest) (*backends.GenerateDataKeyAnswer, error) {
	kind, ok := der.Kinds[in.Spec]
	if !ok {
		return nil, backends.Errorf(backends.InvalidRequest, "no data key pair of spec %s", in.Spec)
	}
	if _, err := b.encrypting(&in.Key); err != nil {
		return nil, err
	}
	if err := b.Pairs.Lock(ctx); err != nil {
		return nil, err
	}
	defer b.Pairs.Unlock()
	answer := &backends.GenerateDataKeyAnswer{}
	p := &payload{wrapping: in.Wrapping.ID}
	generate := func(s *token.Session, w cryptoki.Object, r *recipient) error {
		clear(answer.Plaintext)
		p.form = kind.Form
		readable := in.Plaintext || r.reads()
		public, private, err := b.makePair(s, kind, !readable || kind.Form != der.EdwardsKey)
		if err != nil {
			return err
		}
		defer s.Destroy(public, private)
		if answer.PublicKey, err = s.PublicKey(kind, public); err != nil {
			return err
		}
		if err := b.wrapPair(s, w, private, p, readable); err != nil {
			return err
		}
		if answer.ForRecipient, answer.Plaintext, err = b.openPair(s, w, p, kind, r, in.Plaintext); err != nil {
			return err
		}
		return b.proves(s, w, kind, p, answer.PublicKey)
	}
	// That the token wraps and unwraps some pairs does not mean that it does this one.
	err := token.Limited(false, func() error { return b.withWrapping(ctx, &in.Wrapping, in.Recipient, generate) },
		func() error { return b.wrappingCanary(ctx, &in.Wrapping) }, func() string { return fmt.Sprintf("make data key pairs of %s", in.Spec) })
	if err != nil {
		clear(answer.Plaintext)
		return nil, err
	}
	return b.sealDataKey(ctx, &in.Key, p, in.AAD, answer)
}

// makePair generates a data key pair. Some tokens answer CKR_GENERAL_ERROR for a curve
// that they lack: it is that if the token does the rest and fails so again.
func (b *Symmetric) makePair(s *token.Session, kind *der.Kind, sensitive bool) (public, private cryptoki.Object, err error) {
	generate := func() (rv uint) {
		public, private, rv = s.GenerateKeyPair(s.Handle, cryptoki.Mechanism{Type: kind.Mechanism},
			b.Profile.SessionPublic(kind), b.Profile.SessionPrivate(kind.Form, sensitive))
		return rv
	}
	rv := generate()
	if token.MaybeNoRoom(token.Failed("", rv)) && b.Does(s) == nil {
		if again := generate(); again == p11.CKR_OK || again != rv {
			rv = again
		} else {
			s.Broken = true
			return 0, 0, &backends.Error{Code: backends.Unsupported, Message: kind.Name, RV: rv}
		}
	}
	if err := s.Check("C_GenerateKeyPair", rv); err != nil {
		return 0, 0, token.PairRefused(kind, err)
	}
	return public, private, nil
}

// proves fails unless the wrapped private key is the one of a public key: the token
// unwraps it to sign once. A token without the mechanism is believed, and so is one that
// makes no private keys of what it has wrapped: it unwraps them as secrets.
func (b *Symmetric) proves(s *token.Session, w cryptoki.Object, k *der.Kind, p *payload, public []byte) error {
	if p.form == der.Ed25519Secret {
		return nil // it was read from the pair and encoded here
	}
	h, rv := s.UnwrapKey(s.Handle, cryptoki.Mechanism{Type: b.Profile.KeyWrap}, w, p.wrapped,
		b.Profile.Unwrapped(b.Profile.PrivateTemplate(p.form, true, true, p11.CKA_SIGN)))
	if err := s.Check("C_UnwrapKey", rv); err != nil {
		if backends.CodeOf(err) == backends.Unsupported || token.RefusedTemplate(rv) {
			return nil
		}
		return err
	}
	defer s.Destroy(h)
	parsed, err := der.ParsePublic(k.Spec, public)
	if err != nil {
		return backends.Errorf(backends.Internal, "the public key of a new data key pair does not parse: %v", err)
	}
	with := k.TrialSigning()
	length := 32 // in bytes; a key that signs messages takes any
	if with.Hash != 0 {
		length = with.Hash.Size()
	}
	input := make([]byte, length)
	copy(input, checkLabel)
	signature, err := s.Signature(with, h, k, input)
	switch {
	case backends.CodeOf(err) == backends.Unsupported:
		return nil
	case err != nil:
		return err
	case !with.Verify(parsed.Key, input, signature):
		return backends.Errorf(backends.Internal, "the private key of a new data key pair does not sign for its public key")
	}
	return nil
}

// wrapPair wraps a private key of p's form for p.
func (b *Symmetric) wrapPair(s *token.Session, w, private cryptoki.Object, p *payload, readable bool) error {
	if p.form == der.EdwardsKey && !b.Profile.EdwardsWraps {
		if !readable || !mayRead(s, private) {
			return token.Unsupported("C_WrapKey of a CKK_EC_EDWARDS private key")
		}
		secret, err := ed25519AsSecret(s, b.Profile, private)
		if err != nil {
			return err
		}
		defer s.Destroy(secret)
		p.form, private = der.Ed25519Secret, secret
	}
	var err error
	p.wrapped, err = s.Wrap(cryptoki.Mechanism{Type: b.Profile.KeyWrap}, w, private, token.MaxWrapped)
	switch token.RVOf(err) {
	case p11.CKR_KEY_NOT_WRAPPABLE, p11.CKR_KEY_UNEXTRACTABLE, p11.CKR_ACTION_PROHIBITED, p11.CKR_FUNCTION_REJECTED:
		// Luna by policy, whatever the template says.
		return &backends.Error{Code: backends.Unsupported, Message: "C_WrapKey of a private key, which the token's policy may forbid", RV: token.RVOf(err)}
	}
	return err
}

// mayRead reports whether the token makes the value of a key known.
func mayRead(s *token.Session, o cryptoki.Object) bool {
	var q cryptoki.Query
	q.AskBool(p11.CKA_SENSITIVE, p11.CKA_EXTRACTABLE)
	s.GetAttributes(s.Handle, o, &q)
	sensitive, _ := q.Bool(p11.CKA_SENSITIVE)
	extractable, told := q.Bool(p11.CKA_EXTRACTABLE)
	return !sensitive && (extractable || !told)
}

// ed25519AsSecret makes a secret key of the PKCS #8 form of a readable Ed25519
// private key.
func ed25519AsSecret(s *token.Session, p *token.Profile, private cryptoki.Object) (cryptoki.Object, error) {
	seed, err := s.Read(private, ed25519.SeedSize, ed25519.SeedSize)
	if err != nil {
		return 0, err
	}
	defer clear(seed)
	value := append(bytes.Clone(der.Ed25519PKCS8), seed...)
	defer clear(value)
	t := p.SessionKey(p11.CKK_GENERIC_SECRET, 0, false).Bytes(p11.CKA_VALUE, value)
	defer clear(t)
	h, rv := s.CreateObject(s.Handle, t)
	return h, s.Check("C_CreateObject", rv)
}
