package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// Encrypt implements [backends.Cipher]: RSAES-OAEP with the public key, in
// this process.
func (b *Asymmetric) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	u, h, err := b.decrypting(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	if len(in.AAD) > 0 {
		return nil, backends.Errorf(backends.InvalidRequest, "RSA keys take no additional authenticated data")
	}
	public, err := b.publicKey(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	key := public.Key.(*rsa.PublicKey)
	if room := h.room(key.Size()); len(in.Plaintext) > room {
		return nil, backends.Errorf(backends.InvalidRequest, "a plaintext of %d bytes: %s under this key takes %d", len(in.Plaintext), in.Algorithm, room)
	}
	ciphertext, err := rsa.EncryptOAEP(h.hash.New(), rand.Reader, key, in.Plaintext, nil)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encrypting with OAEP: %v", err)
	}
	return &backends.EncryptAnswer{Sealed: backends.Sealed{Ciphertext: ciphertext}}, nil
}

// Decrypt implements [backends.Cipher].
func (b *Asymmetric) Decrypt(ctx context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	u, h, err := b.decrypting(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	if len(in.AAD) > 0 || len(in.Sealed.IV) > 0 {
		return nil, invalidCiphertext()
	}
	d := &rsaDecryption{Token: b.Token, key: &in.Key, purpose: u, hash: h, token: b.profile.oaepDecrypt[in.Algorithm]}
	plaintext, err := d.decrypt(ctx, in.Sealed.Ciphertext)
	if err != nil {
		return nil, err
	}
	if in.Recipient == nil {
		return &backends.DecryptAnswer{Plaintext: plaintext}, nil
	}
	defer clear(plaintext)
	sealed, err := sealToRecipient(in.Recipient, plaintext)
	if err != nil {
		return nil, err
	}
	return &backends.DecryptAnswer{ForRecipient: sealed}, nil
}

// decrypting returns what a key is in the token and the hash of its OAEP.
func (b *Asymmetric) decrypting(key *backends.Key, algorithm backends.Algorithm) (*purpose, oaepHash, error) {
	u, err := b.purposeFor(key, backends.EncryptDecrypt)
	if err != nil {
		return nil, oaepHash{}, err
	}
	h, ok := oaepHashes[algorithm]
	if !ok {
		return nil, h, backends.Errorf(backends.InvalidRequest, "RSA keys do not encrypt with %s", algorithm)
	}
	if !b.profile.oaepDecrypt[algorithm] && !b.profile.rawRSA {
		return nil, h, unsupported(h.name)
	}
	return u, h, nil
}

// rsaDecryption decrypts RSAES-OAEP with a private key.
type rsaDecryption struct {
	*Token
	key     *backends.Key
	purpose *purpose
	hash    oaepHash
	// token: the token removes the padding. Otherwise it does the bare RSA
	// primitive and the padding is removed here.
	token bool
}

// decrypt answers [backends.InvalidCiphertext] to whatever is not a ciphertext.
func (d *rsaDecryption) decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	public, err := d.publicKey(ctx, d.key, d.purpose)
	if err != nil {
		return nil, err
	}
	// Anybody can see that these are no ciphertexts (RFC 8017, section 5.1.2).
	// With them out of the way, an error of the bare primitive is the token's.
	n := public.Key.(*rsa.PublicKey).N
	if len(ciphertext) != d.purpose.pair.Size() || new(big.Int).SetBytes(ciphertext).Cmp(n) >= 0 {
		return nil, invalidCiphertext()
	}
	if d.token {
		return d.inToken(ctx, ciphertext)
	}
	encoded := make([]byte, len(ciphertext))
	raw := func(ciphertext []byte) error {
		return d.withKey(ctx, d.key, d.purpose, func(s *session, h cryptoki.Object) error {
			return s.rawRSA(h, ciphertext, encoded)
		})
	}
	err = blame(func() error { return raw(ciphertext) }, func() error {
		known, err := d.canary(ctx)
		if err == nil {
			err = raw(known)
		}
		return err
	}, invalidCiphertext())
	if err != nil {
		return nil, err
	}
	defer clear(encoded)
	plaintext, ok := der.RemoveOAEP(d.hash.hash, encoded)
	if !ok {
		return nil, invalidCiphertext()
	}
	return bytes.Clone(plaintext), nil
}

// rawRSA is CKM_RSA_X_509, which fills encoded.
func (s *session) rawRSA(key cryptoki.Object, ciphertext, encoded []byte) error {
	r := s.Decrypt(s.handle, key, cryptoki.Mechanism{Type: p11.CKM_RSA_X_509}, ciphertext, encoded)
	switch err := s.checkInput("C_Decrypt", r); {
	case backends.CodeOf(err) == backends.InvalidCiphertext: // it was no larger than the modulus
		return &backends.Error{Code: backends.Internal, Message: "C_Decrypt with CKM_RSA_X_509" + nameOf(r.RV), RV: r.RV}
	case err != nil:
		return err
	}
	if missing := len(encoded) - r.N; missing > 0 { // some tokens drop leading zeros
		copy(encoded[missing:], encoded[:r.N])
		clear(encoded[:missing])
	}
	return nil
}

// inToken decrypts with CKM_RSA_PKCS_OAEP. Tokens answer bad padding with
// errors of every kind, so what is not clearly a lost token is looked into: if
// the key decrypts what is known to be good, and still not this ciphertext,
// then that is to blame. It is done for every bad ciphertext alike.
func (d *rsaDecryption) inToken(ctx context.Context, ciphertext []byte) ([]byte, error) {
	var plaintext []byte
	err := blame(func() (err error) {
		plaintext, err = d.oaep(ctx, ciphertext)
		return err
	}, func() error {
		known, err := d.canary(ctx)
		if err == nil {
			_, err = d.oaep(ctx, known)
		}
		return err
	}, invalidCiphertext())
	return plaintext, err
}

// oaep is C_Decrypt.
func (d *rsaDecryption) oaep(ctx context.Context, ciphertext []byte) (plaintext []byte, err error) {
	err = d.withKey(ctx, d.key, d.purpose, func(s *session, h cryptoki.Object) error {
		out := make([]byte, len(ciphertext)) // some modules want room for the padding, too
		r := s.Decrypt(s.handle, h, d.hash.mechanism(), ciphertext, out)
		if err := s.checkInput("C_Decrypt", r); err != nil {
			clear(out)
			return err
		}
		plaintext = out[:r.N]
		return nil
	})
	return plaintext, err
}

// canary returns a ciphertext that is known to be good.
func (d *rsaDecryption) canary(ctx context.Context) ([]byte, error) {
	public, err := d.publicKey(ctx, d.key, d.purpose)
	if err != nil {
		return nil, err
	}
	return oaep(public.Key.(*rsa.PublicKey), d.hash, []byte("canary"))
}
