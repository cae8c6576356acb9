package pkcs11

import (
	"context"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// Encapsulate implements [backends.Encapsulator], with the public key object in
// the token.
func (b *Asymmetric) Encapsulate(ctx context.Context, in *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	u, err := b.encapsulating(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	answer := &backends.EncapsulateAnswer{}
	err = b.withObject(ctx, token.Ref{ID: in.Key.ID, Class: p11.CKO_PUBLIC_KEY}, func(s *token.Session, public cryptoki.Object) error {
		answer.SharedSecret, answer.Ciphertext, err = token.Encapsulate(b.Profile, s, u.Pair, public)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// Decapsulate implements [backends.Encapsulator]. A ciphertext of the right length
// always gives a secret: ML-KEM rejects implicitly.
func (b *Asymmetric) Decapsulate(ctx context.Context, in *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	u, err := b.encapsulating(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	if len(in.Ciphertext) != u.Pair.Ciphertext {
		return nil, token.InvalidCiphertext()
	}
	answer := &backends.DecapsulateAnswer{}
	decapsulate := func(ciphertext []byte) (secret []byte, err error) {
		err = b.WithKey(ctx, &in.Key, u, func(s *token.Session, private cryptoki.Object) (err error) {
			secret, err = token.Decapsulate(b.Profile, s, private, ciphertext)
			return err
		})
		return secret, err
	}
	err = token.Blame(func() (err error) {
		answer.SharedSecret, err = decapsulate(in.Ciphertext)
		return err
	}, func() error {
		known, err := b.Encapsulate(ctx, &backends.EncapsulateRequest{Key: in.Key, Algorithm: in.Algorithm})
		if err == nil {
			_, err = decapsulate(known.Ciphertext)
		}
		return err
	}, token.InvalidCiphertext())
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// encapsulating returns what a key is in the token.
func (b *Asymmetric) encapsulating(key *backends.Key, algorithm backends.Algorithm) (*token.Purpose, error) {
	u, err := b.purposeFor(key, backends.EncapsulateDecapsulate)
	if err == nil && algorithm != "ML_KEM" {
		err = backends.Errorf(backends.InvalidRequest, "a key of spec %s does not encapsulate with %s", key.Spec, algorithm)
	}
	return u, err
}
