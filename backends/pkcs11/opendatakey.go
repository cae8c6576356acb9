package pkcs11

import (
	"context"
	"crypto/ed25519"
	"errors"
	"time"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// OpenDataKey implements [backends.DataKeyMaker].
func (b *Symmetric) OpenDataKey(ctx context.Context, in *backends.OpenDataKeyRequest) (*backends.OpenDataKeyAnswer, error) {
	text, err := b.open(ctx, &in.Key, &in.Sealed, in.AAD)
	if err != nil {
		return nil, err
	}
	p, err := parsePayload(text)
	if err != nil {
		return nil, err
	}
	if p.pair() != in.Pair {
		return nil, invalidCiphertext()
	}
	w := backends.Key{ID: p.wrapping, Spec: backends.AES256, Usage: backends.WrapDataKeys}
	if err := b.mayWrap(&w); err != nil {
		return nil, err
	}
	answer := &backends.OpenDataKeyAnswer{}
	// Who imported the CMK's material makes payloads of anything.
	err = blame(func() error {
		return b.withWrapping(ctx, &w, in.Recipient, func(s *session, w cryptoki.Object, r *recipient) (err error) {
			if p.pair() {
				answer.ForRecipient, answer.Plaintext, err = b.openPair(s, w, p, r, in.Plaintext)
			} else {
				answer.ForRecipient, answer.Plaintext, err = b.openSecret(s, w, p, r, in.Plaintext)
			}
			return err
		})
	}, func() error { return b.wrappingCanary(ctx, &w) }, invalidCiphertext())
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// mayWrap refuses a wrapping key that is known to be a key of another purpose,
// or that is not known while another unknown one was searched for a moment ago:
// a search takes as long as the token has objects, and nobody else may create
// keys meanwhile.
func (b *Symmetric) mayWrap(w *backends.Key) error {
	o := b.index.get(ref{w.ID, p11.CKO_SECRET_KEY})
	if o == nil {
		now := time.Now().UnixNano()
		if last := b.searched.Load(); now-last < int64(searchPause) || !b.searched.CompareAndSwap(last, now) {
			return backends.Errorf(backends.KeyMissing, "the token has no object with CKA_ID %s for now", w.ID)
		}
		return nil
	}
	if safe := o.safe.Load(); safe != nil && safe.purpose != b.purposes[kind{w.Spec, w.Usage}] {
		return invalidCiphertext()
	}
	return nil
}

// searchPause is the time between two searches for wrapping keys that data keys
// name and nobody knows.
const searchPause = time.Second

// wrappingCanary returns nil if the key unwraps what it has wrapped.
func (b *Symmetric) wrappingCanary(ctx context.Context, w *backends.Key) error {
	return b.withWrapping(ctx, w, nil, func(s *session, w cryptoki.Object, _ *recipient) error {
		k, err := b.profile.makeDataKey(s, kekLength, false)
		if err != nil {
			return err
		}
		defer k.destroy(s)
		p := &payload{form: k.form, length: k.length}
		if p.wrapped, err = s.wrap(cryptoki.Mechanism{Type: b.profile.keyWrap}, w, k.wrapped, kekLength+64); err != nil {
			return err
		}
		_, _, err = b.openSecret(s, w, p, nil, false)
		return err
	})
}

func (b *Symmetric) openSecret(s *session, w cryptoki.Object, p *payload, r *recipient, readable bool) (sealed, plaintext []byte, err error) {
	k, err := b.unwrapSecret(s, w, p, readable || r.reads())
	if err != nil {
		return nil, nil, err
	}
	defer k.destroy(s)
	if r.wraps() && p.length%8 != 0 && k.form == der.SecretKey && !b.profile.keyWrapExact {
		// Made before the token's profile changed.
		return nil, nil, unsupported("CKM_AES_KEY_WRAP_KWP that keeps lengths that are not a multiple of 8")
	}
	sealed, plaintext, err = b.deliver(s, k, r, readable)
	if _, short := errors.AsType[shortKeyError](err); short {
		err = invalidCiphertext() // what was wrapped is not what the payload says
	}
	return sealed, plaintext, err
}

// unwrapSecret makes the data key of a payload a session object again.
func (b *Symmetric) unwrapSecret(s *session, w cryptoki.Object, p *payload, readable bool) (*dataKey, error) {
	m := cryptoki.Mechanism{Type: b.profile.keyWrap}
	if p.form == der.DerivedKey {
		base, rv := s.UnwrapKey(s.handle, m, w, p.wrapped, b.profile.unwrapped(b.profile.sessionKey(p11.CKK_AES, 0, true, p11.CKA_DERIVE)))
		if err := s.check("C_UnwrapKey", rv); err != nil {
			return nil, err
		}
		return b.profile.derive(s, base, p.length, readable)
	}
	h, rv := s.UnwrapKey(s.handle, m, w, p.wrapped, b.profile.unwrapped(b.profile.sessionKey(dataKeyType(p.length), 0, !readable)))
	if err := s.check("C_UnwrapKey", rv); err != nil {
		return nil, err
	}
	return &dataKey{key: h, wrapped: h, form: der.SecretKey, length: p.length}, nil
}

// openPair unwraps a private key: as what it is for the recipient, and to
// prove that it can be opened; as a secret whose value is its PKCS #8 form
// (RFC 5208) to be read.
func (b *Symmetric) openPair(s *session, w cryptoki.Object, p *payload, r *recipient, readable bool) (sealed, plaintext []byte, err error) {
	if r.wraps() || r == nil && !readable {
		length := 0
		t := b.profile.sessionPrivate(p.form, true)
		switch {
		case p.form == der.Ed25519Secret:
			length = len(der.Ed25519PKCS8) + ed25519.SeedSize
			t = b.profile.sessionKey(p11.CKK_GENERIC_SECRET, 0, true)
		case r.wraps() && b.profile.keyWrapExact:
			// Wrapped a second time as a private key, it may come out in another form:
			// opencryptoki leaves out the zeros that a number on a curve begins with,
			// which RFC 5915, section 3, wants.
			t = b.profile.sessionKey(p11.CKK_GENERIC_SECRET, 0, true)
		}
		h, rv := s.UnwrapKey(s.handle, cryptoki.Mechanism{Type: b.profile.keyWrap}, w, p.wrapped, b.profile.unwrapped(t))
		if err := s.check("C_UnwrapKey", rv); err != nil {
			return nil, nil, err
		}
		defer s.destroy(h)
		if r.wraps() {
			if sealed, err = b.wrapTo(s, r, h, length); err != nil {
				return nil, nil, err
			}
		}
	}
	if readable || r.reads() {
		if plaintext, err = b.readPair(s, w, p); err != nil {
			return nil, nil, err
		}
	}
	if r.reads() {
		return r.seal(plaintext, readable)
	}
	return sealed, plaintext, nil
}

// readPair returns the PKCS #8 form of a wrapped private key, without the
// padding that the token may leave behind it.
func (b *Symmetric) readPair(s *session, w cryptoki.Object, p *payload) ([]byte, error) {
	h, rv := s.UnwrapKey(s.handle, cryptoki.Mechanism{Type: b.profile.keyWrap}, w, p.wrapped,
		b.profile.unwrapped(b.profile.sessionKey(p11.CKK_GENERIC_SECRET, 0, false)))
	if err := s.check("C_UnwrapKey", rv); err != nil {
		return nil, err
	}
	defer s.destroy(h)
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, maxWrapped)
	defer q.Reset()
	if err := s.check("C_GetAttributeValue", s.GetAttributes(s.handle, h, &q)); err != nil {
		return nil, err
	}
	v, _ := q.Value(p11.CKA_VALUE)
	var pkcs8 cryptobyte.String
	if in := cryptobyte.String(v); !in.ReadASN1Element(&pkcs8, asn1.SEQUENCE) {
		return nil, invalidCiphertext() // it says to be a private key, and is something else
	}
	if p.form == der.EdwardsKey {
		return der.WellFormed(pkcs8), nil
	}
	return append([]byte(nil), pkcs8...), nil
}
