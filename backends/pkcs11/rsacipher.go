package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"math/big"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
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
	if room := h.Room(key.Size()); len(in.Plaintext) > room {
		return nil, backends.Errorf(backends.InvalidRequest, "a plaintext of %d bytes: %s under this key takes %d", len(in.Plaintext), in.Algorithm, room)
	}
	ciphertext, err := rsa.EncryptOAEP(h.Hash.New(), rand.Reader, key, in.Plaintext, nil)
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
		return nil, token.InvalidCiphertext()
	}
	d := &rsaDecryption{Token: b.Token, key: &in.Key, purpose: u, hash: h, token: b.Profile.OAEPDecrypt[in.Algorithm]}
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
func (b *Asymmetric) decrypting(key *backends.Key, algorithm backends.Algorithm) (*token.Purpose, token.OAEPHash, error) {
	u, err := b.purposeFor(key, backends.EncryptDecrypt)
	if err != nil {
		return nil, token.OAEPHash{}, err
	}
	h, ok := token.OAEPHashes[algorithm]
	if !ok {
		return nil, h, backends.Errorf(backends.InvalidRequest, "RSA keys do not encrypt with %s", algorithm)
	}
	if !b.Profile.OAEPDecrypt[algorithm] && !b.Profile.RawRSA {
		return nil, h, token.Unsupported(h.Name)
	}
	return u, h, nil
}

// rsaDecryption decrypts RSAES-OAEP with a private key.
type rsaDecryption struct {
	*Token
	key     *backends.Key
	purpose *token.Purpose
	hash    token.OAEPHash
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
	// Anybody can see that these are not ciphertexts (RFC 8017, section 5.1.2).
	// With them out of the way, an error of the bare primitive is the token's.
	n := public.Key.(*rsa.PublicKey).N
	if len(ciphertext) != d.purpose.Pair.Size() || new(big.Int).SetBytes(ciphertext).Cmp(n) >= 0 {
		return nil, token.InvalidCiphertext()
	}
	if d.token {
		return d.inToken(ctx, ciphertext)
	}
	encoded := make([]byte, len(ciphertext))
	raw := func(ciphertext []byte) error {
		return d.WithKey(ctx, d.key, d.purpose, func(s *token.Session, h cryptoki.Object) error {
			return s.RawRSA(h, ciphertext, encoded)
		})
	}
	err = token.Blame(func() error { return raw(ciphertext) }, func() error {
		known, err := d.canary(ctx)
		if err == nil {
			err = raw(known)
		}
		return err
	}, token.InvalidCiphertext())
	if err != nil {
		return nil, err
	}
	defer clear(encoded)
	plaintext, ok := der.RemoveOAEP(d.hash.Hash, encoded)
	if !ok {
		return nil, token.InvalidCiphertext()
	}
	return bytes.Clone(plaintext), nil
}

// inToken decrypts with CKM_RSA_PKCS_OAEP. Tokens answer bad padding with
// errors of every kind, so what is not clearly a lost token is looked into: if
// the key decrypts what is known to be good, and still not this ciphertext,
// then that is to blame. It is done for every bad ciphertext alike.
func (d *rsaDecryption) inToken(ctx context.Context, ciphertext []byte) ([]byte, error) {
	var plaintext []byte
	err := token.Blame(func() (err error) {
		plaintext, err = d.oaep(ctx, ciphertext)
		return err
	}, func() error {
		known, err := d.canary(ctx)
		if err == nil {
			_, err = d.oaep(ctx, known)
		}
		return err
	}, token.InvalidCiphertext())
	return plaintext, err
}

// EncryptOAEP is C_Decrypt.
func (d *rsaDecryption) oaep(ctx context.Context, ciphertext []byte) (plaintext []byte, err error) {
	err = d.WithKey(ctx, d.key, d.purpose, func(s *token.Session, h cryptoki.Object) error {
		out := make([]byte, len(ciphertext)) // some modules want room for the padding, too
		r := s.Decrypt(s.Handle, h, d.hash.Mechanism(), ciphertext, out)
		if err := s.CheckInput("C_Decrypt", r); err != nil {
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
	return token.EncryptOAEP(public.Key.(*rsa.PublicKey), d.hash, []byte("canary"))
}
