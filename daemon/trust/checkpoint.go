package trust

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"

	"cmkd/backends"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
)

// CheckDuplicates looks for objects with one CKA_ID in every token that answers,
// through each of its plugins: each then knows which of its keys it must not use,
// and which it may use again. It searches all of a token.
func (s *Trust) CheckDuplicates(ctx context.Context) error {
	if s.Mismatch() != nil {
		return nil // the rows may be anybody's
	}
	var errs []error
	for _, token := range s.Tokens() {
		doubled, away, err := s.ListDuplicates(ctx, token)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("looking for duplicates in token %s: %w", token, err))
		case !away:
			s.NoteDuplicates(ctx, s.Store.View(), token, doubled)
		}
	}
	return errors.Join(errs...)
}

// SignCheckpoint implements [audit.Signer] with the audit key of the first
// token. keyID is the key's CKA_ID.
func (s *Trust) SignCheckpoint(ctx context.Context, digest []byte) (signature []byte, keyID string, err error) {
	k, ok := s.Store.View().CurrentSystemKey(s.Token, keyring.PurposeAudit)
	if !ok {
		return nil, "", fmt.Errorf("token %s has no audit key: run cmkd -init", s.Token)
	}
	ref := keyring.SystemKeyRef(k)
	b, err := s.RouteNew(s.Token, ref.Spec)
	if err != nil {
		return nil, "", err
	}
	if s.integrity.seal.Load() == nil { // the row may be anybody's
		return nil, "", store.ErrUnverified
	}
	made, err := b.Sign(ctx, &backends.SignRequest{Key: ref, Algorithm: "ECDSA_SHA_256", Type: backends.Digest, Message: digest})
	if err != nil {
		return nil, "", err
	}
	// One that does not verify would make the next start refuse the whole trail.
	public, err := x509.ParsePKIXPublicKey(k.PublicKey)
	if key, ok := public.(*ecdsa.PublicKey); err != nil || !ok || !ecdsa.VerifyASN1(key, digest, made.Signature) {
		return nil, "", backends.Errorf(backends.Internal, "the token's signature does not verify with the public key of audit key %s", ref.ID)
	}
	return made.Signature, ref.ID.String(), nil
}

// AuditKeys returns the public keys, DER SubjectPublicKeyInfo, that verify
// checkpoints, by their names.
func (s *Trust) AuditKeys() map[string][]byte {
	keys := map[string][]byte{}
	for _, k := range s.Store.View().SystemKeys(s.Token, keyring.PurposeAudit) {
		keys[keyring.ObjectID(k.CKAID).String()] = k.PublicKey
	}
	return keys
}
