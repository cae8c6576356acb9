package kms

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"

	"cmkd/backends"
	"cmkd/daemon/store"
)

// The purposes of the daemon's own keys. Each token that holds CMKs has its
// own set.
const (
	PurposeWrapping = "wrapping" // wraps data keys (RFC 5649)
	PurposeState    = "state"    // HMAC over the head of the store
	PurposeAudit    = "audit"    // signs checkpoints of the audit trail
)

// systemSpecs are the key spec and usage for each purpose.
var systemSpecs = []struct {
	purpose string
	spec    backends.KeySpec
	usage   backends.Usage
}{
	{PurposeWrapping, backends.AES256, backends.WrapDataKeys},
	{PurposeState, backends.HMAC256, backends.GenerateVerifyMAC},
	{PurposeAudit, backends.P256, backends.SignVerify},
}

// systemKeyRef names a system key to its backend.
func systemKeyRef(k *store.SystemKey) backends.Key {
	ref := backends.Key{ID: objectID(k.CKAID)}
	for _, row := range systemSpecs {
		if row.purpose == k.Purpose {
			ref.Spec, ref.Usage = row.spec, row.usage
		}
	}
	return ref
}

// Init makes the daemon's own keys in the token, those that are missing, and
// returns the purposes of those it made.
func (s *Service) Init(ctx context.Context, token string) (made []string, err error) {
	for _, row := range systemSpecs {
		if _, ok := s.store.View().CurrentSystemKey(token, row.purpose); ok {
			continue
		}
		if err := s.addSystemKey(ctx, token, row.purpose, row.spec, row.usage, 1); err != nil {
			return made, fmt.Errorf("making the %s key in token %s: %w", row.purpose, token, err)
		}
		made = append(made, row.purpose)
	}
	return made, nil
}

func (s *Service) addSystemKey(ctx context.Context, token, purpose string, spec backends.KeySpec, usage backends.Usage, version int) error {
	b, err := s.routeNew(token, spec)
	if err != nil {
		return err
	}
	id := newCKAID()
	intent := &store.Intent{
		CKAID: id, Action: "create", KeyID: "system-" + purpose, Version: version,
		Token: token, Spec: string(spec), Usage: string(usage), Created: s.now(),
	}
	_, err = s.generate(ctx, nil, b, intent, func(tx *store.Tx, made *backends.CreateKeyAnswer) error {
		return tx.PutSystemKey(&store.SystemKey{
			Token: token, Purpose: purpose, Version: version, CKAID: id, PublicKey: made.PublicKey, Created: s.now(),
		})
	})
	return err
}

// SignCheckpoint implements [audit.Signer] with the audit key of the first
// token. keyID is the key's CKA_ID.
func (s *Service) SignCheckpoint(ctx context.Context, digest []byte) (signature []byte, keyID string, err error) {
	k, ok := s.store.View().CurrentSystemKey(s.token, PurposeAudit)
	if !ok {
		return nil, "", fmt.Errorf("token %s has no audit key: run cmkd -init", s.token)
	}
	ref := systemKeyRef(k)
	b, err := s.routeNew(s.token, ref.Spec)
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
func (s *Service) AuditKeys() map[string][]byte {
	keys := map[string][]byte{}
	for _, k := range s.store.View().SystemKeys(s.token, PurposeAudit) {
		keys[objectID(k.CKAID).String()] = k.PublicKey
	}
	return keys
}

// CheckSystemKeys says which of the daemon's own keys are missing or unsafe:
// without them it does not serve.
func (s *Service) CheckSystemKeys(ctx context.Context, token string) error {
	for _, row := range systemSpecs {
		k, ok := s.store.View().CurrentSystemKey(token, row.purpose)
		if !ok {
			return fmt.Errorf("token %s has no %s key: run cmkd -init", token, row.purpose)
		}
		b, err := s.routeNew(token, row.spec)
		if err != nil {
			return err
		}
		if _, err := b.CheckKey(ctx, &backends.CheckKeyRequest{Key: systemKeyRef(k)}); err != nil {
			return fmt.Errorf("the %s key in token %s: %w", row.purpose, token, err)
		}
	}
	return nil
}
