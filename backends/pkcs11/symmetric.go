package pkcs11

import (
	"context"
	"fmt"
	"sync/atomic"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// Symmetric is the backend of SYMMETRIC_DEFAULT keys (AES-256-GCM) and of the
// data keys under them. It implements [backends.Backend], [backends.Cipher],
// [backends.ReEncrypter], [backends.DataKeyMaker] and [backends.Randomizer].
type Symmetric struct {
	*secrets
	// searched is when a wrapping key that nobody knows was searched for, in
	// Unix nanoseconds; see mayWrap.
	searched atomic.Int64
}

// symmetricDefault is the only algorithm of symmetric keys.
const symmetricDefault backends.Algorithm = "SYMMETRIC_DEFAULT"

// NewSymmetric returns the backend of symmetric keys in t. Closing it closes t.
func NewSymmetric(t *Token) *Symmetric {
	return &Symmetric{secrets: newSecrets(
		t,
		token.Kind{Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt},
		token.Kind{Spec: backends.AES256, Usage: backends.WrapDataKeys},
	)}
}

// Encrypt implements [backends.Cipher].
func (b *Symmetric) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	if in.Algorithm != symmetricDefault {
		return nil, backends.Errorf(backends.InvalidRequest, "symmetric keys do not encrypt with %s", in.Algorithm)
	}
	sealed, err := b.seal(ctx, &in.Key, in.Plaintext, in.AAD)
	if err != nil {
		return nil, err
	}
	return &backends.EncryptAnswer{Sealed: sealed}, nil
}

// Decrypt implements [backends.Cipher].
func (b *Symmetric) Decrypt(ctx context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	if in.Algorithm != symmetricDefault {
		return nil, backends.Errorf(backends.InvalidRequest, "symmetric keys do not decrypt with %s", in.Algorithm)
	}
	plaintext, err := b.open(ctx, &in.Key, &in.Sealed, in.AAD)
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

// ReEncrypt implements [backends.ReEncrypter].
func (b *Symmetric) ReEncrypt(ctx context.Context, in *backends.ReEncryptRequest) (*backends.EncryptAnswer, error) {
	plaintext, err := b.open(ctx, &in.Source, &in.Sealed, in.SourceAAD)
	if err != nil {
		return nil, err
	}
	defer clear(plaintext)
	sealed, err := b.seal(ctx, &in.Destination, plaintext, in.DestinationAAD)
	if err != nil {
		return nil, err
	}
	return &backends.EncryptAnswer{Sealed: sealed}, nil
}

// seal encrypts with AES-256-GCM in the token.
func (b *Symmetric) seal(ctx context.Context, key *backends.Key, plaintext, aad []byte) (backends.Sealed, error) {
	u, err := b.encrypting(key)
	if err != nil {
		return backends.Sealed{}, err
	}
	var sealed backends.Sealed
	encrypt := func(plaintext, aad []byte) error {
		return b.WithKey(ctx, key, u, func(s *token.Session, h cryptoki.Object) error {
			sealed, err = encryptGCM(b.Profile, s, h, plaintext, aad)
			return err
		})
	}
	err = token.Limited(token.Usual(len(plaintext)+len(aad)), func() error { return encrypt(plaintext, aad) }, func() error { return encrypt(make([]byte, token.Little), nil) },
		func() string {
			return fmt.Sprintf("encrypt %d bytes with %d bytes of context", len(plaintext), len(aad))
		})
	return sealed, err
}

func (b *Symmetric) encrypting(key *backends.Key) (*token.Purpose, error) {
	if key.Usage != backends.EncryptDecrypt {
		return nil, backends.Errorf(backends.InvalidRequest, "a key of usage %s does not encrypt", key.Usage)
	}
	return b.purpose(key)
}

// encryptGCM makes one ciphertext, with an IV from where the token wants it to
// come from.
func encryptGCM(p *token.Profile, s *token.Session, h cryptoki.Object, plaintext, aad []byte) (backends.Sealed, error) {
	iv := make([]byte, token.IVLength)
	if !p.GCMIV {
		if err := s.IV(iv); err != nil {
			return backends.Sealed{}, err
		}
	}
	out := make([]byte, len(plaintext)+token.TagLength)
	r := s.EncryptGCM(s.Handle, h, iv, aad, plaintext, out)
	if err := s.Check("C_Encrypt", r.RV); err != nil {
		return backends.Sealed{}, err
	}
	if r.N != len(out) {
		s.Broken = true
		return backends.Sealed{}, backends.Errorf(backends.Internal, "C_Encrypt wrote %d bytes, not %d", r.N, len(out))
	}
	if p.GCMIV && !s.Fresh(iv) { // two ciphertexts of one IV give plaintext away: none leaves
		return backends.Sealed{}, backends.Errorf(backends.Lost, "the token, which makes the IVs of CKM_AES_GCM, has made none for a call, or one for two")
	}
	return backends.Sealed{IV: iv, Ciphertext: out}, nil
}

// Open decrypts, and tells an altered ciphertext from a token in trouble.
func (b *Symmetric) open(ctx context.Context, key *backends.Key, sealed *backends.Sealed, aad []byte) ([]byte, error) {
	u, err := b.encrypting(key)
	if err != nil {
		return nil, err
	}
	if len(sealed.IV) != token.IVLength || len(sealed.Ciphertext) < token.TagLength {
		return nil, token.InvalidCiphertext()
	}
	var plaintext []byte
	err = token.Blame(func() (err error) {
		plaintext, err = b.decrypt(ctx, key, u, sealed, aad)
		return err
	}, func() error { return b.canary(ctx, key, u) }, token.InvalidCiphertext())
	return plaintext, err
}

func (b *Symmetric) decrypt(ctx context.Context, key *backends.Key, u *token.Purpose, sealed *backends.Sealed, aad []byte) (plaintext []byte, err error) {
	err = b.WithKey(ctx, key, u, func(s *token.Session, h cryptoki.Object) error {
		// Some modules want room for the tag, too.
		out := make([]byte, len(sealed.Ciphertext))
		r := s.DecryptGCM(s.Handle, h, sealed.IV, aad, sealed.Ciphertext, out)
		if err := s.Check("C_Decrypt", r.RV); err != nil { // IV and AAD are input of the Init half
			clear(out)
			return err
		}
		if r.N != len(out)-token.TagLength {
			s.Broken = true
			clear(out)
			return backends.Errorf(backends.Internal, "C_Decrypt wrote %d bytes, not %d", r.N, len(out)-token.TagLength)
		}
		plaintext = out[:r.N]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return plaintext, nil
}

// canary returns nil if the key decrypts what it is known to have encrypted.
// One ciphertext per key is made and kept, so that a flood of bad ciphertexts
// does not use up the key's encryptions.
func (b *Symmetric) canary(ctx context.Context, key *backends.Key, u *token.Purpose) error {
	return b.WithKey(ctx, key, u, func(s *token.Session, h cryptoki.Object) error {
		o := b.Index.Get(token.Ref{ID: key.ID, Class: u.Class})
		if o == nil {
			return backends.Errorf(backends.Lost, "the key is gone again")
		}
		known := o.Canary.Load()
		if known == nil {
			sealed, err := encryptGCM(b.Profile, s, h, []byte("canary"), nil)
			if err != nil {
				return err
			}
			known = &sealed
			o.Canary.Store(known)
		}
		out := make([]byte, len(known.Ciphertext))
		return s.Check("C_Decrypt", s.DecryptGCM(s.Handle, h, known.IV, nil, known.Ciphertext, out).RV)
	})
}
