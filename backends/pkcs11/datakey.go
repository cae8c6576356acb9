package pkcs11

import (
	"context"
	"encoding/binary"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
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
		return nil, token.InvalidCiphertext()
	}
	n := binary.BigEndian.Uint16(b[len(backends.KeyID{}):])
	p := &payload{
		wrapping: backends.KeyID(b[:len(backends.KeyID{})]),
		form:     der.Form(n >> lengthBits),
		length:   int(n & (1<<lengthBits - 1)),
		wrapped:  b[payloadHeader:],
	}
	if p.form > der.Ed25519Secret || p.pair() != (p.length == 0) || p.length > maxDataKey {
		return nil, token.InvalidCiphertext()
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

func (k *dataKey) destroy(s *token.Session) {
	s.Destroy(k.key)
	if k.wrapped != k.key {
		s.Destroy(k.wrapped)
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
		return b.withWrapping(ctx, &in.Wrapping, in.Recipient, func(s *token.Session, w cryptoki.Object, r *recipient) (err error) {
			p.length = length
			answer.ForRecipient, answer.Plaintext, err = b.newDataKey(s, w, p, r, in.Plaintext)
			return err
		})
	}
	known := token.Little/2 + in.Length%8 // made in the same way
	err := token.Limited(in.Length == known, func() error { return generate(in.Length) }, func() error {
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
func (b *Symmetric) newDataKey(s *token.Session, w cryptoki.Object, p *payload, r *recipient, readable bool) (sealed, plaintext []byte, err error) {
	k, err := makeDataKey(b.Profile, s, p.length, readable || r.reads())
	if err != nil {
		return nil, nil, err
	}
	defer k.destroy(s)
	p.form = k.form
	if p.wrapped, err = s.Wrap(cryptoki.Mechanism{Type: b.Profile.KeyWrap}, w, k.wrapped, p.length+64); err != nil {
		return nil, nil, err
	}
	if k.doubtful {
		again, err := b.unwrapSecret(s, w, p, false)
		switch rv := token.RVOf(err); {
		case err == nil:
			again.destroy(s)
		case token.RefusedTemplate(rv), rv == p11.CKR_KEY_SIZE_RANGE, backends.CodeOf(err) == backends.InvalidCiphertext:
			return nil, nil, otherLength("unwrap", p.length, rv)
		default:
			return nil, nil, err
		}
	}
	return b.deliver(s, k, r, readable)
}

// withWrapping runs do with the wrapping key and the recipient, if there is
// one.
func (b *Symmetric) withWrapping(ctx context.Context, w *backends.Key, to *backends.Recipient, do func(*token.Session, cryptoki.Object, *recipient) error) error {
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
	return b.WithKey(ctx, w, u, func(s *token.Session, h cryptoki.Object) error { return do(s, h, r) })
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
func makeDataKey(p *token.Profile, s *token.Session, length int, readable bool) (*dataKey, error) {
	switch {
	case length%8 != 0 && !p.KeyWrapExact && p.DeriveCBC:
		return deriveNew(p, s, length, readable)
	case readable && !p.Readable:
		return injectDataKey(p, s, length)
	}
	keyType := dataKeyType(length)
	h, rv := s.GenerateKey(s.Handle, cryptoki.Mechanism{Type: token.Generators[keyType]}, p.SessionKey(keyType, uint(length), !readable))
	if keyType == p11.CKK_GENERIC_SECRET && (token.RefusedTemplate(rv) || rv == p11.CKR_KEY_SIZE_RANGE) {
		return otherwise(p, s, length, readable)
	}
	if err := s.Check("C_GenerateKey", rv); err != nil {
		return nil, err
	}
	return &dataKey{key: h, wrapped: h, form: der.SecretKey, length: length}, nil
}

// otherwise makes a data key of a length that the token does not generate: opencryptoki
// generates generic secrets of 10 to 256 bytes. It is derived, or else made of the
// token's random bytes, which pass through this process then as the data key does.
func otherwise(p *token.Profile, s *token.Session, length int, readable bool) (*dataKey, error) {
	if p.DeriveCBC {
		k, err := deriveNew(p, s, length, readable)
		if err == nil || backends.CodeOf(err) == backends.Lost {
			return k, err
		}
	}
	if !readable {
		return nil, otherLength("generate", length, p11.CKR_KEY_SIZE_RANGE)
	}
	k, err := injectDataKey(p, s, length)
	switch rv := token.RVOf(err); {
	case err == nil:
		k.doubtful = true
	case token.RefusedTemplate(rv) || rv == p11.CKR_KEY_SIZE_RANGE:
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
func deriveNew(p *token.Profile, s *token.Session, length int, readable bool) (*dataKey, error) {
	base, rv := s.GenerateKey(s.Handle, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN},
		p.SessionKey(p11.CKK_AES, 32, true, p11.CKA_DERIVE))
	if err := s.Check("C_GenerateKey", rv); err != nil {
		return nil, err
	}
	return derive(p, s, base, length, readable)
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
func derive(p *token.Profile, s *token.Session, base cryptoki.Object, length int, readable bool) (*dataKey, error) {
	h, rv := s.DeriveCBC(s.Handle, base, token.DerivationData(length), p.SessionKey(p11.CKK_GENERIC_SECRET, uint(length), !readable))
	if err := s.Check("C_DeriveKey", rv); err != nil {
		return nil, err
	}
	return &dataKey{key: h, wrapped: base, form: der.DerivedKey, length: length}, nil
}

// injectDataKey makes a data key that is to be read in a token that gives no
// generated key's value out: of the token's random bytes.
func injectDataKey(p *token.Profile, s *token.Session, length int) (*dataKey, error) {
	value := make([]byte, length)
	defer clear(value)
	if err := s.Check("C_GenerateRandom", s.GenerateRandom(s.Handle, value)); err != nil {
		return nil, err
	}
	t := p.SessionKey(p11.CKK_GENERIC_SECRET, 0, false).Bytes(p11.CKA_VALUE, value)
	defer clear(t)
	h, rv := s.CreateObject(s.Handle, t)
	if err := s.Check("C_CreateObject", rv); err != nil {
		return nil, err
	}
	return &dataKey{key: h, wrapped: h, form: der.SecretKey, length: length}, nil
}

// deliver gives a key to whom it is for: the recipient, the caller in the clear,
// both or neither.
func (t *Token) deliver(s *token.Session, k *dataKey, r *recipient, readable bool) (sealed, plaintext []byte, err error) {
	if r.wraps() {
		if sealed, err = t.wrapTo(s, r, k.key, k.length); err != nil {
			return nil, nil, err
		}
	}
	if readable || r.reads() {
		if plaintext, err = s.Read(k.key, k.length, k.length+7); err != nil {
			return nil, nil, err
		}
	}
	if r.reads() {
		return r.seal(plaintext, readable)
	}
	return sealed, plaintext, nil
}
