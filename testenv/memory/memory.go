// Package memory is a token in memory, for tests that make more calls, or stop
// them at more places, than a real token allows. It passes the suite of the real
// backends.
package memory

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"hash"
	"maps"
	"sync"

	"cmkd/backends"
	"cmkd/backends/backendstest"
)

// Token is a token in memory, and the backend of the kinds of key that it knows.
type Token struct {
	mu      sync.Mutex
	objects map[backends.KeyID]Object // guarded by mu
	away    bool                      // guarded by mu; the token does not answer
}

// Object is a key in the token.
type Object struct {
	Key    backends.Key
	Label  string
	Secret []byte
	// Twice: another object has its CKA_ID.
	Twice bool
}

// New makes an empty token.
func New() *Token { return &Token{objects: map[backends.KeyID]Object{}} }

// SetAway takes the token away, so that it does not answer, or brings it back.
func (m *Token) SetAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

// Objects returns what is in the token.
func (m *Token) Objects() map[backends.KeyID]Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.objects)
}

// SetObjects replaces what is in the token.
func (m *Token) SetObjects(objects map[backends.KeyID]Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects = maps.Clone(objects)
}

// Pair is the wrapping pair of every import: making one takes longer than a
// sequence of the test.
var Pair = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

var curveKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
})

var secretLengths = map[backends.KeySpec]int{backends.SymmetricDefault: 32, backends.HMAC256: 32}

// enter begins a call.
func (m *Token) enter(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return backends.Errorf(backends.Timeout, "the deadline has passed")
	case ctx.Err() != nil:
		return backends.Errorf(backends.Internal, "the call was canceled")
	case m.away:
		return backends.Errorf(backends.Lost, "the token is away")
	}
	return nil
}

// find returns the object of a key.
func (m *Token) find(ctx context.Context, key backends.Key) (Object, error) {
	if err := m.enter(ctx); err != nil {
		return Object{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key.ID]
	switch {
	case !ok:
		return o, backends.Errorf(backends.KeyMissing, "no object %s", key.ID)
	case o.Twice:
		return o, backends.Errorf(backends.KeyDuplicate, "more than one object has CKA_ID %s", key.ID)
	case o.Key != key:
		return o, backends.Errorf(backends.KeyUnsafe, "object %s is another key", key.ID)
	}
	return o, nil
}

func (m *Token) Info(context.Context, *backends.InfoRequest) (*backends.InfoAnswer, error) {
	return &backends.InfoAnswer{
		Token: backends.TokenInfo{Label: "memory", Serial: "1", OpenSessions: 1},
		Specs: []backends.SpecInfo{
			{Spec: backends.SymmetricDefault, Usages: []backends.Usage{backends.EncryptDecrypt}},
			{Spec: backends.HMAC256, Usages: []backends.Usage{backends.GenerateVerifyMAC}},
			{Spec: backends.RSA2048, Usages: []backends.Usage{backends.UnwrapImport}},
		},
	}, nil
}

func (m *Token) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	var public, secret []byte
	if n := secretLengths[in.Key.Spec]; n > 0 {
		secret = make([]byte, n)
		_, _ = rand.Read(secret)
	} else if in.Key.Usage == backends.UnwrapImport {
		var err error
		if public, err = x509.MarshalPKIXPublicKey(&Pair().PublicKey); err != nil {
			return nil, err
		}
	} else {
		return nil, backends.Errorf(backends.InvalidRequest, "no keys of spec %s", in.Key.Spec)
	}
	_, err := m.find(ctx, in.Key)
	switch backends.CodeOf(err) {
	case "":
		return &backends.CreateKeyAnswer{PublicKey: public, Existed: true}, nil
	case backends.KeyMissing:
	default:
		return nil, err
	}
	m.Put(in.Key, in.Label, secret)
	return &backends.CreateKeyAnswer{PublicKey: public}, nil
}

// Put puts a key into the token.
func (m *Token) Put(key backends.Key, label string, secret []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key.ID] = Object{Key: key, Label: label, Secret: secret}
}

func (m *Token) CheckKey(ctx context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	_, err := m.find(ctx, in.Key)
	if err != nil {
		return nil, err
	}
	out := &backends.CheckKeyAnswer{}
	switch {
	case in.Key.Usage == backends.UnwrapImport:
		out.PublicKey, err = x509.MarshalPKIXPublicKey(&Pair().PublicKey)
	case in.Key.Spec == backends.P256: // the audit key of a token, which signs nothing here
		out.PublicKey, err = x509.MarshalPKIXPublicKey(&curveKey().PublicKey)
	}
	return out, err
}

func (m *Token) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &backends.DestroyKeyAnswer{}
	if _, ok := m.objects[in.Key.ID]; ok {
		out.Objects = 1
		delete(m.objects, in.Key.ID)
	}
	return out, nil
}

func (m *Token) ListKeys(ctx context.Context, _ *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &backends.ListKeysAnswer{}
	for id, o := range m.objects {
		out.Objects = append(out.Objects, backends.Object{ID: id, Label: o.Label, Duplicate: o.Twice})
	}
	return out, nil
}

func (m *Token) gcm(ctx context.Context, key backends.Key) (cipher.AEAD, error) {
	o, err := m.find(ctx, key)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(o.Secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (m *Token) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	if len(in.Plaintext) < 1 || len(in.Plaintext) > 4096 || in.Algorithm != "SYMMETRIC_DEFAULT" || in.Key.Usage != backends.EncryptDecrypt {
		return nil, backends.Errorf(backends.InvalidRequest, "%d bytes by %s with a key for %s", len(in.Plaintext), in.Algorithm, in.Key.Usage)
	}
	aead, err := m.gcm(ctx, in.Key)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, aead.NonceSize())
	_, _ = rand.Read(iv)
	return &backends.EncryptAnswer{Sealed: backends.Sealed{IV: iv, Ciphertext: aead.Seal(nil, iv, in.Plaintext, in.AAD)}}, nil
}

func (m *Token) Decrypt(ctx context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	if in.Algorithm != "SYMMETRIC_DEFAULT" || in.Key.Usage != backends.EncryptDecrypt {
		return nil, backends.Errorf(backends.InvalidRequest, "%s with a key for %s", in.Algorithm, in.Key.Usage)
	}
	aead, err := m.gcm(ctx, in.Key)
	if err != nil {
		return nil, err
	}
	if len(in.Sealed.IV) != aead.NonceSize() {
		return nil, backends.Errorf(backends.InvalidCiphertext, "")
	}
	plaintext, err := aead.Open(nil, in.Sealed.IV, in.Sealed.Ciphertext, in.AAD)
	if err != nil {
		return nil, backends.Errorf(backends.InvalidCiphertext, "")
	}
	if in.Recipient != nil {
		sealed, err := sealTo(in.Recipient, plaintext)
		return &backends.DecryptAnswer{ForRecipient: sealed}, err
	}
	return &backends.DecryptAnswer{Plaintext: plaintext}, nil
}

// sealTo encrypts to a recipient.
func sealTo(to *backends.Recipient, plaintext []byte) ([]byte, error) {
	hashes := map[backends.Algorithm]func() hash.Hash{"RSAES_OAEP_SHA_256": sha256.New, "RSAES_OAEP_SHA_1": sha1.New}
	parsed, err := x509.ParsePKIXPublicKey(to.PublicKey)
	public, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok || public.E != 65537 || hashes[to.Algorithm] == nil {
		return nil, backends.Errorf(backends.InvalidRequest, "no recipient for %s", to.Algorithm)
	}
	switch {
	case to.CMS && to.Algorithm != "RSAES_OAEP_SHA_256":
		return nil, backends.Errorf(backends.InvalidRequest, "no CMS for %s", to.Algorithm)
	case to.CMS:
		return nil, backendstest.ErrNoCMS
	}
	fresh := hashes[to.Algorithm]
	if len(plaintext) <= public.Size()-2*fresh().Size()-2 {
		return rsa.EncryptOAEP(fresh(), rand.Reader, public, plaintext, nil)
	}
	kek := make([]byte, 32)
	_, _ = rand.Read(kek)
	sealed, err := rsa.EncryptOAEP(fresh(), rand.Reader, public, kek, nil)
	return append(sealed, wrapPadded(kek, plaintext)...), err
}

// wrapPadded is AES key wrap with padding, RFC 5649, of more than 8 bytes.
func wrapPadded(kek, plaintext []byte) []byte {
	block, err := aes.NewCipher(kek)
	if err != nil {
		panic(err)
	}
	n := (len(plaintext) + 7) / 8
	out := binary.BigEndian.AppendUint32([]byte{0xA6, 0x59, 0x59, 0xA6}, uint32(len(plaintext)))
	out = append(out, plaintext...)
	out = append(out, make([]byte, 8*n-len(plaintext))...)
	var b [16]byte
	for step := range 6 * n {
		r := out[8*(step%n+1):][:8]
		copy(b[:8], out)
		copy(b[8:], r)
		block.Encrypt(b[:], b[:])
		binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(b[:8])^uint64(step+1))
		copy(r, b[8:])
	}
	return out
}

func (m *Token) ReEncrypt(ctx context.Context, in *backends.ReEncryptRequest) (*backends.EncryptAnswer, error) {
	opened, err := m.Decrypt(ctx, &backends.DecryptRequest{Key: in.Source, Algorithm: "SYMMETRIC_DEFAULT", Sealed: in.Sealed, AAD: in.SourceAAD})
	if err != nil {
		return nil, err
	}
	return m.Encrypt(ctx, &backends.EncryptRequest{Key: in.Destination, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: opened.Plaintext, AAD: in.DestinationAAD})
}

func (m *Token) GenerateMAC(ctx context.Context, in *backends.MACRequest) (*backends.MACAnswer, error) {
	if in.Algorithm != "HMAC_SHA_256" || in.Key.Usage != backends.GenerateVerifyMAC || len(in.Message) < 1 || len(in.Message) > 4096 {
		return nil, backends.Errorf(backends.InvalidRequest, "%s of %d bytes with a key for %s", in.Algorithm, len(in.Message), in.Key.Usage)
	}
	o, err := m.find(ctx, in.Key)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, o.Secret)
	mac.Write(in.Message)
	return &backends.MACAnswer{MAC: mac.Sum(nil)}, nil
}

func (m *Token) VerifyMAC(ctx context.Context, in *backends.VerifyMACRequest) (*backends.VerifyAnswer, error) {
	made, err := m.GenerateMAC(ctx, &backends.MACRequest{Key: in.Key, Algorithm: in.Algorithm, Message: in.Message})
	if err != nil {
		return nil, err
	}
	return &backends.VerifyAnswer{Valid: hmac.Equal(made.MAC, in.MAC)}, nil
}

func (m *Token) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	if _, err := m.find(ctx, in.Wrapping); err != nil {
		return nil, err
	}
	secret, err := rsa.DecryptOAEP(sha256.New(), nil, Pair(), in.Material, nil)
	if err != nil {
		return nil, backends.Errorf(backends.InvalidMaterial, "the material does not unwrap")
	}
	if len(secret) != secretLengths[in.Key.Spec] {
		return nil, backends.Errorf(backends.UnfitMaterial, "the material is not a key of spec %s", in.Key.Spec)
	}
	m.Put(in.Key, in.Label, secret)
	check := sha256.Sum256(append([]byte("check"), secret...))
	return &backends.ImportKeyAnswer{CheckValue: check[:]}, nil
}
