package lifecycle

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"time"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

const (
	importTokenLen      = 32 // bytes
	importTokenLifetime = 24 * time.Hour
	// maxImportParameters is how many wrapping pairs wait in the token for the
	// material of one key. AWS names no limit; a client needs one at a time. The
	// oldest goes, and its import token is not valid any more.
	maxImportParameters = 4
)

// ImportOffer is what a client needs to import material.
type ImportOffer struct {
	Token     []byte
	PublicKey []byte // of the pair that wraps the material, DER SubjectPublicKeyInfo
	ValidTo   time.Time
}

// OfferImport makes a wrapping pair for an import to the key.
func (s *Lifecycle) OfferImport(ctx context.Context, c *journal.Call, k *access.Key, spec backends.KeySpec, algorithm backends.Algorithm) (*ImportOffer, error) {
	token := make([]byte, importTokenLen)
	_, _ = rand.Read(token) // never fails: crypto/rand
	hash := sha256.Sum256(token)
	params := &store.ImportParameters{
		Region: k.Region, KeyID: k.ID, CKAID: keyring.NewCKAID(), Spec: spec,
		Algorithm: algorithm, Token: k.Token, TokenHash: hash[:], ValidTo: s.Now().Add(importTokenLifetime),
	}
	intent := &store.Intent{
		CKAID: params.CKAID, Action: "create", Region: k.Region, KeyID: keyring.ImportPrefix + k.ID, Version: 1, Token: k.Token,
		Spec: params.Spec, Usage: backends.UnwrapImport, Route: k.Spec, Created: s.Now(),
	}
	replaced := &keyring.Cleanup{Ring: s.Keyring}
	defer replaced.Done()
	made, err := s.Generate(ctx, c, k.Backend, intent, func(tx *store.Tx, made *backends.CreateKeyAnswer) error {
		params.MaterialWrap = made.PublicKey
		if err := s.DropImports(tx, k.Key, maxImportParameters-1, replaced); err != nil {
			return err
		}
		return tx.PutImportParameters(params)
	})
	if err != nil {
		return nil, err
	}
	replaced.Run(ctx, k.Backend)
	// The answer is wiped, the row stays.
	return &ImportOffer{Token: token, PublicKey: slices.Clone(made.PublicKey), ValidTo: params.ValidTo}, nil
}

// DropImports deletes what was given out for imports to a key, but for the newest
// keep, and leaves their wrapping pairs to w.
func (s *Lifecycle) DropImports(tx *store.Tx, key *store.Key, keep int, w *keyring.Cleanup) error {
	all := slices.SortedFunc(tx.ImportParametersOf(key.Region, key.ID), func(a, b *store.ImportParameters) int {
		return b.ValidTo.Compare(a.ValidTo)
	})
	for _, p := range all[min(keep, len(all)):] {
		if err := w.Add(tx, s.PairIntent(key, p)); err != nil {
			return err
		}
		tx.DeleteImportParameters(p.TokenHash)
	}
	return nil
}

// importParameters finds what the import token stands for.
func (s *Lifecycle) importParameters(k *access.Key, token []byte) (*store.ImportParameters, error) {
	hash := sha256.Sum256(token)
	p, ok := k.View.ImportParameters(hash[:])
	if !ok || p.Region != k.Region || p.KeyID != k.ID {
		return nil, &kmsapi.Error{Code: kmsapi.CodeInvalidImportTokenException}
	}
	if !s.Now().Before(p.ValidTo) {
		return nil, &kmsapi.Error{Code: kmsapi.CodeExpiredImportTokenException}
	}
	return p, nil
}
