package pkcs11

import (
	"context"
	"encoding/binary"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// A payload is what is encrypted under the CMK for a data key:
//
//	CKA_ID of the wrapping key (16) | form and length (2, big-endian) | RFC 5649 ciphertext
//
// The upper 4 bits are the form of the data key, the lower 12 its length in
// bytes (0 for private keys, whose PKCS #8 form says how long it is).
type payload struct {
	wrapping backends.KeyID
	form     der.Form
	length   int
	wrapped  []byte
}

const (
	payloadHeader = len(backends.KeyID{}) + 2
	lengthBits    = 12
	// maxDataKey is the longest data key, in bytes (AWS's NumberOfBytes).
	maxDataKey = 1024
)

func (p *payload) marshal() []byte {
	b := make([]byte, 0, payloadHeader+len(p.wrapped))
	b = append(b, p.wrapping[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(p.form)<<lengthBits|uint16(p.length))
	return append(b, p.wrapped...)
}

// parsePayload reads what marshal wrote. It is authentic, so anything else is
// a ciphertext that holds no data key.
func parsePayload(b []byte) (*payload, error) {
	if len(b) < payloadHeader+16 || (len(b)-payloadHeader)%8 != 0 {
		return nil, invalidCiphertext()
	}
	n := binary.BigEndian.Uint16(b[len(backends.KeyID{}):])
	p := &payload{
		wrapping: backends.KeyID(b[:len(backends.KeyID{})]),
		form:     der.Form(n >> lengthBits),
		length:   int(n & (1<<lengthBits - 1)),
		wrapped:  b[payloadHeader:],
	}
	if p.form > der.Ed25519Secret || p.pair() != (p.length == 0) || p.length > maxDataKey {
		return nil, invalidCiphertext()
	}
	return p, nil
}

// pair reports whether the data key is a private key.
func (p *payload) pair() bool { return p.form >= der.RSAKey }

// dataKey is a data key as session objects.
type dataKey struct {
	key cryptoki.Object
	// wrapped is what is wrapped for it: key, or what key was derived from.
	wrapped cryptoki.Object
	form    der.Form
	length  int // bytes; 0 of a private key
	// doubtful: the token does not generate keys of this length, so that it may not
	// unwrap them either.
	doubtful bool
}

func (k *dataKey) destroy(s *session) {
	s.destroy(k.key)
	if k.wrapped != k.key {
		s.destroy(k.wrapped)
	}
}

// GenerateDataKey implements [backends.DataKeyMaker].
func (b *Symmetric) GenerateDataKey(ctx context.Context, in *backends.GenerateDataKeyRequest) (*backends.GenerateDataKeyAnswer, error) {
	if in.Length < 1 || in.Length > maxDataKey {
		return nil, backends.Errorf(backends.InvalidRequest, "a data key of %d bytes: 1 to %d are possible", in.Length, maxDataKey)
	}
	if _, err := b.encrypting(&in.Key); err != nil {
		return nil, err
	}
	answer := &backends.GenerateDataKeyAnswer{}
	p := &payload{wrapping: in.Wrapping.ID}
	generate := func(length int) error {
		return b.withWrapping(ctx, &in.Wrapping, in.Recipient, func(s *session, w cryptoki.Object, r *recipient) (err error) {
			p.length = length
			answer.ForRecipient, answer.Plaintext, err = b.newDataKey(s, w, p, r, in.Plaintext)
			return err
		})
	}
	known := little/2 + in.Length%8 // made in the same way
	err := limited(in.Length == known, func() error { return generate(in.Length) }, func() error {
		err := generate(known)
		clear(answer.Plaintext)
		return err
	}, func() string { return fmt.Sprintf("make data keys of %d bytes", in.Length) })
	if err != nil {
		return nil, err
	}
	return b.sealDataKey(ctx, &in.Key, p, in.AAD, answer)
}

// newDataKey makes a data key of p.length bytes, and the rest of p.
func (b *Symmetric) newDataKey(s *session, w cryptoki.Object, p *payload, r *recipient, readable bool) (sealed, plaintext []byte, err error) {
	k, err := b.profile.makeDataKey(s, p.length, readable || r.reads())
	if err != nil {
		return nil, nil, err
	}
	defer k.destroy(s)
	p.form = k.form
	if p.wrapped, err = s.wrap(cryptoki.Mechanism{Type: b.profile.keyWrap}, w, k.wrapped, p.length+64); err != nil {
		return nil, nil, err
	}
	if k.doubtful {
		again, err := b.unwrapSecret(s, w, p, false)
		if err != nil {
			return nil, nil, otherLength("unwrap", p.length, rvOf(err))
		}
		again.destroy(s)
	}
	return b.deliver(s, k, r, readable)
}

// withWrapping runs do with the wrapping key and the recipient, if there is
// one.
func (b *Symmetric) withWrapping(ctx context.Context, w *backends.Key, to *backends.Recipient, do func(*session, cryptoki.Object, *recipient) error) error {
	if w.Usage != backends.WrapDataKeys {
		return backends.Errorf(backends.InvalidRequest, "a key of usage %s does not wrap data keys", w.Usage)
	}
	u, err := b.purpose(w)
	if err != nil {
		return err
	}
	r, err := b.recipient(to)
	if err != nil {
		return err
	}
	defer b.done(r)
	return b.withKey(ctx, w, u, func(s *session, h cryptoki.Object) error { return do(s, h, r) })
}

// sealDataKey completes an answer with the payload, encrypted under the CMK.
func (b *Symmetric) sealDataKey(ctx context.Context, key *backends.Key, p *payload, aad []byte, answer *backends.GenerateDataKeyAnswer) (*backends.GenerateDataKeyAnswer, error) {
	sealed, err := b.seal(ctx, key, p.marshal(), aad)
	if err != nil {
		clear(answer.Plaintext)
		return nil, err
	}
	answer.Sealed = sealed
	return answer, nil
}

// makeDataKey generates a data key. Only one that is to be read afterwards is
// not sensitive.
func (p *profile) makeDataKey(s *session, length int, readable bool) (*dataKey, error) {
	switch {
	case length%8 != 0 && !p.keyWrapExact && p.deriveCBC:
		return p.deriveNew(s, length, readable)
	case readable && !p.readable:
		return p.injectDataKey(s, length)
	}
	keyType := dataKeyType(length)
	h, rv := s.GenerateKey(s.handle, cryptoki.Mechanism{Type: generators[keyType]}, p.sessionKey(keyType, uint(length), !readable))
	if keyType == p11.CKK_GENERIC_SECRET && (refusedTemplate(rv) || rv == p11.CKR_KEY_SIZE_RANGE) {
		return p.otherwise(s, length, readable)
	}
	if err := s.check("C_GenerateKey", rv); err != nil {
		return nil, err
	}
	return &dataKey{key: h, wrapped: h, form: der.SecretKey, length: length}, nil
}

// otherwise makes a data key of a length that the token does not generate: opencryptoki
// generates generic secrets of 10 to 256 bytes. It is derived, or else made of the
// token's random bytes, which pass through this process then as the data key does.
func (p *profile) otherwise(s *session, length int, readable bool) (*dataKey, error) {
	if p.deriveCBC {
		k, err := p.deriveNew(s, length, readable)
		if err == nil || backends.CodeOf(err) == backends.Lost {
			return k, err
		}
	}
	if !readable {
		return nil, otherLength("generate", length, p11.CKR_KEY_SIZE_RANGE)
	}
	k, err := p.injectDataKey(s, length)
	switch rv := rvOf(err); {
	case err == nil:
		k.doubtful = true
	case refusedTemplate(rv) || rv == p11.CKR_KEY_SIZE_RANGE:
		err = otherLength("take", length, rv)
	}
	return k, err
}

// otherLength is the error of a data key of a length that the token has no keys of.
func otherLength(verb string, length int, rv uint) error {
	return &backends.Error{
		Code: backends.Unsupported, RV: rv,
		Message: fmt.Sprintf("the token does not %s data keys of %d bytes: ask for 16, 24, 32 or 64 bytes", verb, length),
	}
}

// deriveNew makes a data key that is derived from a new AES key.
func (p *profile) deriveNew(s *session, length int, readable bool) (*dataKey, error) {
	base, rv := s.GenerateKey(s.handle, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN},
		p.sessionKey(p11.CKK_AES, 32, true, p11.CKA_DERIVE))
	if err := s.check("C_GenerateKey", rv); err != nil {
		return nil, err
	}
	return p.derive(s, base, length, readable)
}

// dataKeyType is CKA_KEY_TYPE of a data key: AES where AES has such keys,
// because that is what every token generates.
func dataKeyType(length int) uint {
	switch length {
	case 16, 24, 32:
		return p11.CKK_AES
	}
	return p11.CKK_GENERIC_SECRET
}

// derive makes the data key of a base key. The base key encrypts nothing but
// these zeros, so what comes out is as good as random.
func (p *profile) derive(s *session, base cryptoki.Object, length int, readable bool) (*dataKey, error) {
	h, rv := s.DeriveCBC(s.handle, base, derivationData(length), p.sessionKey(p11.CKK_GENERIC_SECRET, uint(length), !readable))
	if err := s.check("C_DeriveKey", rv); err != nil {
		return nil, err
	}
	return &dataKey{key: h, wrapped: base, form: der.DerivedKey, length: length}, nil
}

// derivationData is the whole blocks that a base key encrypts for length
// bytes.
func derivationData(length int) []byte { return make([]byte, (length+15)/16*16) }

// injectDataKey makes a data key that is to be read in a token that gives no
// generated key's value out: of the token's random bytes.
func (p *profile) injectDataKey(s *session, length int) (*dataKey, error) {
	value := make([]byte, length)
	defer clear(value)
	if err := s.check("C_GenerateRandom", s.GenerateRandom(s.handle, value)); err != nil {
		return nil, err
	}
	t := p.sessionKey(p11.CKK_GENERIC_SECRET, 0, false).Bytes(p11.CKA_VALUE, value)
	defer clear(t)
	h, rv := s.CreateObject(s.handle, t)
	if err := s.check("C_CreateObject", rv); err != nil {
		return nil, err
	}
	return &dataKey{key: h, wrapped: h, form: der.SecretKey, length: length}, nil
}

// deliver gives a key to whom it is for: the recipient, the caller in the clear,
// both or neither.
func (t *Token) deliver(s *session, k *dataKey, r *recipient, readable bool) (sealed, plaintext []byte, err error) {
	if r.wraps() {
		if sealed, err = t.wrapTo(s, r, k.key, k.length); err != nil {
			return nil, nil, err
		}
	}
	if readable || r.reads() {
		if plaintext, err = s.read(k.key, k.length, k.length+7); err != nil {
			return nil, nil, err
		}
	}
	if r.reads() {
		return r.seal(plaintext, readable)
	}
	return sealed, plaintext, nil
}

// read returns the first length bytes of CKA_VALUE, of at most room.
func (s *session) read(o cryptoki.Object, length, room int) ([]byte, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, room)
	defer q.Reset()
	if err := s.check("C_GetAttributeValue", s.GetAttributes(s.handle, o, &q)); err != nil {
		return nil, err
	}
	v, ok := q.Value(p11.CKA_VALUE)
	if !ok || len(v) < length {
		return nil, shortKeyError{backends.Errorf(backends.Internal, "C_GetAttributeValue gave %d bytes of a data key, not %d", len(v), length)}
	}
	return append([]byte(nil), v[:length]...), nil
}

// shortKeyError is the error of read if the value is shorter than that.
type shortKeyError struct{ error }

// Unwrap lets the code be found.
func (e shortKeyError) Unwrap() error { return e.error }
