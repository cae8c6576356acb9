package pkcs11

import (
	"context"
	"fmt"
	"slices"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/probe"
	"cmkd/backends/pkcs11/internal/token"
)

// Sign implements [backends.Signer].
func (b *Asymmetric) Sign(ctx context.Context, in *backends.SignRequest) (*backends.SignAnswer, error) {
	u, a, err := b.signing(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	input, err := a.Input(in.Type, in.Message)
	if err != nil {
		return nil, err
	}
	if !b.signs.Can[probe.SpecAlgorithm{Spec: in.Key.Spec, Algorithm: in.Algorithm}] {
		return nil, token.Unsupported(a.Mechanism)
	}
	public, err := b.witness(ctx, &in.Key, u)
	if err != nil {
		return nil, b.Spent(ctx, in.Key.ID, err)
	}
	b.Note(in.Key.ID, false)
	var signature []byte
	sign := func(input []byte) error {
		return b.WithKey(ctx, &in.Key, u, func(s *token.Session, h cryptoki.Object) error {
			if signature, err = s.Signature(a, h, u.Pair, input); err != nil {
				return err
			}
			if public == nil || a.Verify(public.Key, input, signature) {
				return nil
			}
			s.Broken = true
			code := backends.Internal
			if b.Profile.Lasting {
				code = backends.Lost // the handle is another key's: the next process has the right one
			}
			return backends.Errorf(code, "C_Sign made a signature that is not one of key %s: it is kept back", in.Key.ID)
		})
	}
	err = token.Limited(token.Usual(len(input)), func() error { return sign(input) }, func() error { return sign(make([]byte, token.Little)) },
		func() string { return fmt.Sprintf("sign %d bytes", len(input)) })
	if err != nil {
		return nil, b.Spent(ctx, in.Key.ID, err)
	}
	b.Note(in.Key.ID, true)
	return &backends.SignAnswer{Signature: signature}, nil
}

// witness is the public key by which signatures are verified before they leave, nil if they
// are not. Those of an RSA key are: one that a token has made with a fault in one of its primes
// gives the key away to everybody who sees it (Boneh, DeMillo, Lipton, 1997); and those of an Edwards
// key, for two different ones of the same message do (Barenghi, Pelosi, 2016). Verifying takes a small
// part of the time that such a signature takes. Faults give away less of other kinds of key; those are
// verified where a handle may be that of another key (see loaded). docs/decisions/0029-checked-output.md
// has the figures. Where the token does not tell the public key of such a key, it does not sign: that
// it lacks it is what CheckKey says, too.
func (b *Asymmetric) witness(ctx context.Context, key *backends.Key, u *token.Purpose) (*der.PublicKey, error) {
	if u.Pair.Form != der.RSAKey && u.Pair.Form != der.EdwardsKey && !b.Profile.Lasting {
		return nil, nil //nolint:nilnil // most signatures leave as they are
	}
	return b.publicKey(ctx, key, u)
}

// signing returns what a key is in the token and how it signs.
func (b *Asymmetric) signing(key *backends.Key, algorithm backends.Algorithm) (*token.Purpose, *der.Signing, error) {
	u, err := b.purposeFor(key, backends.SignVerify)
	if err != nil {
		return nil, nil, err
	}
	a := der.Signings[algorithm]
	if a == nil || !slices.Contains(a.Specs, key.Spec) {
		return nil, nil, backends.Errorf(backends.InvalidRequest, "a key of spec %s does not sign with %s", key.Spec, algorithm)
	}
	return u, a, nil
}
