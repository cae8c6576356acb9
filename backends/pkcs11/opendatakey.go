package pkcs11

import (
	"bytes"
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
	"cmkd/backends/pkcs11/internal/token"
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
		return nil, token.InvalidCiphertext()
	}
	w := backends.Key{ID: p.wrapping, Spec: backends.AES256, Usage: backends.WrapDataKeys}
	if err := b.mayWrap(&w); err != nil {
		return nil, err
	}
	answer := &backends.OpenDataKeyAnswer{}
	// Who imported the CMK's material makes payloads of anything.
	err = token.Blame(func() error {
		return b.withWrapping(ctx, &w, in.Recipient, func(s *token.Session, w cryptoki.Object, r *recipient) (err error) {
			if p.pair() {
				answer.ForRecipient, answer.Plaintext, err = b.openPair(s, w, p, nil, r, in.Plaintext)
			} else {
				answer.ForRecipient, answer.Plaintext, err = b.openSecret(s, w, p, r, in.Plaintext)
			}
			return err
		})
	}, func() error { return b.wrappingCanary(ctx, &w) }, token.InvalidCiphertext())
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
	o := b.Index.Get(token.Ref{ID: w.ID, Class: p11.CKO_SECRET_KEY})
	if o == nil {
		now := time.Now().UnixNano()
		if last := b.searched.Load(); now-last < int64(searchPause) || !b.searched.CompareAndSwap(last, now) {
			return backends.Errorf(backends.KeyMissing, "the token has no object with CKA_ID %s for now", w.ID)
		}
		return nil
	}
	if safe := o.Safe.Load(); safe != nil && safe.Purpose != b.purposes[token.Kind{Spec: w.Spec, Usage: w.Usage}] {
		return token.InvalidCiphertext()
	}
	return nil
}

// searchPause is the time between two searches for wrapping keys that data keys
// name and nobody knows.
const searchPause = time.Second

// wrappingCanary returns nil if the key unwraps what it has wrapped.
func (b *Symmetric) wrappingCanary(ctx context.Context, w *backends.Key) error {
	return b.withWrapping(ctx, w, nil, func(s *token.Session, w cryptoki.Object, _ *recipient) error {
		k, err := makeDataKey(b.Profile, s, token.KEKLength, false)
		if err != nil {
			return err
		}
		defer k.destroy(s)
		p := &payload{form: k.form, length: k.length}
		if p.wrapped, err = s.Wrap(cryptoki.Mechanism{Type: b.Profile.KeyWrap}, w, k.wrapped, token.KEKLength+64); err != nil {
			return err
		}
		_, _, err = b.openSecret(s, w, p, nil, false)
		return err
	})
}

func (b *Symmetric) openSecret(s *token.Session, w cryptoki.Object, p *payload, r *recipient, readable bool) (sealed, plaintext []byte, err error) {
	k, err := b.unwrapSecret(s, w, p, readable || r.reads())
	if err != nil {
		return nil, nil, err
	}
	defer k.destroy(s)
	if r.wraps() && p.length%8 != 0 && k.form == der.SecretKey && !b.Profile.KeyWrapExact {
		// Made before the token's profile changed.
		return nil, nil, token.Unsupported("CKM_AES_KEY_WRAP_KWP that keeps lengths that are not a multiple of 8")
	}
	sealed, plaintext, err = b.deliver(s, k, r, readable)
	if _, short := errors.AsType[token.ShortKeyError](err); short {
		err = token.InvalidCiphertext() // what was wrapped is not what the payload says
	}
	return sealed, plaintext, err
}

// unwrapSecret makes the data key of a payload a session object again.
func (b *Symmetric) unwrapSecret(s *token.Session, w cryptoki.Object, p *payload, readable bool) (*dataKey, error) {
	m := cryptoki.Mechanism{Type: b.Profile.KeyWrap}
	if p.form == der.DerivedKey {
		base, rv := s.UnwrapKey(s.Handle, m, w, p.wrapped, b.Profile.Unwrapped(b.Profile.SessionKey(p11.CKK_AES, 0, true, p11.CKA_DERIVE)))
		if err := s.Check("C_UnwrapKey", rv); err != nil {
			return nil, err
		}
		return derive(b.Profile, s, base, p.length, readable)
	}
	h, rv := s.UnwrapKey(s.Handle, m, w, p.wrapped, b.Profile.Unwrapped(b.Profile.SessionKey(dataKeyType(p.length), 0, !readable)))
	if err := s.Check("C_UnwrapKey", rv); err != nil {
		return nil, err
	}
	return &dataKey{key: h, wrapped: h, form: der.SecretKey, length: p.length}, nil
}

// openPair unwraps a private key: as what it is for the recipient, and to
// prove that it can be opened; as a secret whose value is its PKCS #8 form
// (RFC 5208) to be read.
func (b *Symmetric) openPair(s *token.Session, w cryptoki.Object, p *payload, made *der.Kind, r *recipient, readable bool) (sealed, plaintext []byte, err error) {
	if r.wraps() || r == nil && !readable {
		length := 0
		t := b.Profile.SessionPrivate(p.form, true)
		switch {
		case p.form == der.Ed25519Secret:
			length = len(der.Ed25519PKCS8) + ed25519.SeedSize
			t = b.Profile.SessionKey(p11.CKK_GENERIC_SECRET, 0, true)
		case r.wraps() && b.Profile.KeyWrapExact:
			// Wrapped a second time as a private key, it may come out in another form:
			// opencryptoki leaves out the zeros that a number on a curve begins with,
			// which RFC 5915, section 3, wants.
			t = b.Profile.SessionKey(p11.CKK_GENERIC_SECRET, 0, true)
		}
		h, rv := s.UnwrapKey(s.Handle, cryptoki.Mechanism{Type: b.Profile.KeyWrap}, w, p.wrapped, b.Profile.Unwrapped(t))
		if err := s.Check("C_UnwrapKey", rv); err != nil {
			return nil, nil, err
		}
		defer s.Destroy(h)
		if r.wraps() {
			if sealed, err = b.wrapTo(s, r, h, length); err != nil {
				return nil, nil, err
			}
		}
	}
	if readable || r.reads() {
		if plaintext, err = b.readPair(s, w, p, made); err != nil {
			return nil, nil, err
		}
	}
	if r.reads() {
		return r.seal(plaintext, readable)
	}
	return sealed, plaintext, nil
}

// readPair returns the PKCS #8 form of a wrapped private key, without the
// padding that the token may leave behind it. That of a new pair must parse, whoever it is for:
// made is its kind then, nil of one that was made before.
func (b *Symmetric) readPair(s *token.Session, w cryptoki.Object, p *payload, made *der.Kind) ([]byte, error) {
	h, rv := s.UnwrapKey(s.Handle, cryptoki.Mechanism{Type: b.Profile.KeyWrap}, w, p.wrapped,
		b.Profile.Unwrapped(b.Profile.SessionKey(p11.CKK_GENERIC_SECRET, 0, false)))
	if err := s.Check("C_UnwrapKey", rv); err != nil {
		return nil, err
	}
	defer s.Destroy(h)
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, token.MaxWrapped)
	defer q.Reset()
	if err := s.Check("C_GetAttributeValue", s.GetAttributes(s.Handle, h, &q)); err != nil {
		return nil, err
	}
	v, _ := q.Value(p11.CKA_VALUE)
	var pkcs8 cryptobyte.String
	if in := cryptobyte.String(v); !in.ReadASN1Element(&pkcs8, asn1.SEQUENCE) {
		return nil, token.InvalidCiphertext() // it says to be a private key, and is something else
	}
	var read []byte // all copies of it are wiped
	if p.form == der.EdwardsKey {
		read = der.WellFormed(pkcs8)
	} else {
		read = bytes.Clone(pkcs8)
	}
	if made != nil {
		if _, err := der.ParsePKCS8(made, read); err != nil {
			clear(read)
			return nil, backends.Errorf(backends.Internal, "the token wrapped a private key of a new data key pair in another form than PKCS #8")
		}
	}
	return read, nil
}
