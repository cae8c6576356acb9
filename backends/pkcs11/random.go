package pkcs11

import (
	"context"
	"fmt"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/token"
)

// maxRandom is the most random bytes in one answer (AWS's NumberOfBytes).
const maxRandom = 1024

// GenerateRandom implements [backends.Randomizer].
func (b *Symmetric) GenerateRandom(ctx context.Context, in *backends.GenerateRandomRequest) (*backends.GenerateRandomAnswer, error) {
	if in.Length < 1 || in.Length > maxRandom {
		return nil, backends.Errorf(backends.InvalidRequest, "%d random bytes: 1 to %d are possible", in.Length, maxRandom)
	}
	out := make([]byte, in.Length)
	fill := func(out []byte) error {
		return b.WithSession(ctx, func(s *token.Session) error {
			return s.Check("C_GenerateRandom", s.GenerateRandom(s.Handle, out))
		})
	}
	err := token.Limited(token.Usual(in.Length), func() error { return fill(out) }, func() error { return fill(make([]byte, token.Little)) }, func() string { return fmt.Sprintf("give %d random bytes at a time", in.Length) })
	if err != nil {
		return nil, err
	}
	if in.Recipient == nil {
		return &backends.GenerateRandomAnswer{Plaintext: out}, nil
	}
	defer clear(out)
	sealed, err := sealToRecipient(in.Recipient, out)
	if err != nil {
		return nil, err
	}
	return &backends.GenerateRandomAnswer{ForRecipient: sealed}, nil
}
