package kms

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"strconv"
	"time"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

const (
	importTokenLen      = 32 // bytes
	importTokenLifetime = 24 * time.Hour
	maxImportLifetime   = 365 * keyring.Day
	// importTime is how long ImportKeyMaterial waits for the token.
	importTime = time.Minute
	// maxImportParameters is how many wrapping pairs wait in the token for the
	// material of one key. AWS names no limit; a client needs one at a time. The
	// oldest goes, and its import token is not valid any more.
	maxImportParameters = 4
)

// importAlgorithms are the wrapping algorithms for the material of each kind
// of key: an RSA private key is too long for RSAES-OAEP.
// https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
func importAlgorithms(spec backends.KeySpec) []kmsapi.AlgorithmSpec {
	hybrid := []kmsapi.AlgorithmSpec{kmsapi.AlgorithmSpecRSAAESKeyWrapSHA1, kmsapi.AlgorithmSpecRSAAESKeyWrapSHA256}
	switch spec {
	case backends.RSA2048, backends.RSA3072, backends.RSA4096:
		return hybrid
	default:
		return append(hybrid, kmsapi.AlgorithmSpecRSAESOAEPSHA1, kmsapi.AlgorithmSpecRSAESOAEPSHA256)
	}
}

func (s methods) GetParametersForImport(ctx context.Context, c *journal.Call, in *kmsapi.GetParametersForImportRequest) (*kmsapi.GetParametersForImportResponse, error) {
	k, err := s.admit(ctx, c, &demand{keyID: in.KeyId, conditions: []condition{
		says("kms:WrappingAlgorithm", in.WrappingAlgorithm),
		says("kms:WrappingKeySpec", in.WrappingKeySpec),
	}})
	if err != nil {
		return nil, err
	}
	if !keys.Specs[k.Spec].Importable { // a key of an earlier version
		return nil, errNotImportable(k.Spec)
	}
	if !slices.Contains(importAlgorithms(k.Spec), in.WrappingAlgorithm) || in.WrappingKeySpec == kmsapi.WrappingKeySpecSM2 {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
			"Wrapping algorithm %s with wrapping key spec %s is not supported for key spec %s.", in.WrappingAlgorithm, in.WrappingKeySpec, k.Spec)
	}
	if k.backend == nil {
		return nil, journal.InvalidState(k.arn, "unavailable")
	}
	token := make([]byte, importTokenLen)
	_, _ = rand.Read(token) // never fails: crypto/rand
	hash := sha256.Sum256(token)
	params := &store.ImportParameters{
		Region: k.Region, KeyID: k.ID, CKAID: keyring.NewCKAID(), Spec: backends.KeySpec(in.WrappingKeySpec),
		Algorithm: backends.Algorithm(in.WrappingAlgorithm), Token: k.Token, TokenHash: hash[:], ValidTo: s.Now().Add(importTokenLifetime),
	}
	intent := &store.Intent{
		CKAID: params.CKAID, Action: "create", Region: k.Region, KeyID: keyring.ImportPrefix + k.ID, Version: 1, Token: k.Token,
		Spec: params.Spec, Usage: backends.UnwrapImport, Route: k.Spec, Created: s.Now(),
	}
	replaced := &keyring.Cleanup{Ring: s.Keyring}
	defer replaced.Done()
	made, err := s.Generate(ctx, c, k.backend, intent, func(tx *store.Tx, made *backends.CreateKeyAnswer) error {
		params.MaterialWrap = made.PublicKey
		if err := s.dropImports(tx, k.Key, maxImportParameters-1, replaced); err != nil {
			return err
		}
		return tx.PutImportParameters(params)
	})
	if err != nil {
		return nil, err
	}
	replaced.Run(ctx, k.backend)
	return &kmsapi.GetParametersForImportResponse{
		// The answer is wiped, the row stays.
		KeyId: k.arn, ImportToken: token, PublicKey: slices.Clone(made.PublicKey), ParametersValidTo: params.ValidTo,
	}, nil
}

// dropImports deletes what was given out for imports to a key, but for the newest
// keep, and leaves their wrapping pairs to w.
func (s *Service) dropImports(tx *store.Tx, key *store.Key, keep int, w *keyring.Cleanup) error {
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

func (s methods) ImportKeyMaterial(ctx context.Context, c *journal.Call, in *kmsapi.ImportKeyMaterialRequest) (*kmsapi.ImportKeyMaterialResponse, error) {
	model, err := s.expiration(in)
	if err != nil {
		return nil, err
	}
	k, err := s.admitMaterial(ctx, c, &demand{keyID: in.KeyId, conditions: []condition{
		{"kms:ExpirationModel", nonEmpty(string(in.ExpirationModel))},
		{"kms:ValidTo", epochValues(in.ValidTo)},
	}})
	if err != nil {
		return nil, err
	}
	if k.backend == nil {
		return nil, journal.InvalidState(k.arn, "unavailable")
	}
	if err := checkImportMembers(k, in); err != nil {
		return nil, err
	}
	params, err := s.importParameters(k, in.ImportToken)
	if err != nil {
		return nil, err
	}
	target, err := s.importTarget(k, in)
	if err != nil {
		return nil, err
	}
	v, err := s.importMaterial(ctx, c, &imported{key: k, params: params, in: in, model: model}, target)
	if err != nil {
		return nil, err
	}
	return &kmsapi.ImportKeyMaterialResponse{KeyId: k.arn, KeyMaterialId: v.MaterialID}, nil
}

// expiration reads ExpirationModel and ValidTo.
func (s *Service) expiration(in *kmsapi.ImportKeyMaterialRequest) (kmsapi.ExpirationModelType, error) {
	validTo := in.ValidTo
	if in.ExpirationModel == kmsapi.ExpirationModelTypeKeyMaterialDoesNotExpire {
		if !validTo.IsZero() {
			return "", kmsapi.Errorf(kmsapi.CodeValidationException, "A validTo date cannot be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE")
		}
		return in.ExpirationModel, nil
	}
	now := s.Now()
	switch {
	case validTo.IsZero():
		return "", kmsapi.Errorf(kmsapi.CodeValidationException, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")
	case !validTo.After(now):
		return "", kmsapi.Errorf(kmsapi.CodeValidationException, "The validTo date must be in the future")
	case validTo.After(now.Add(maxImportLifetime)):
		return "", kmsapi.Errorf(kmsapi.CodeValidationException, "The validTo date must be within 365 days")
	}
	return kmsapi.ExpirationModelTypeKeyMaterialExpires, nil
}

// importParameters finds what the import token stands for.
func (s *Service) importParameters(k *key, token []byte) (*store.ImportParameters, error) {
	hash := sha256.Sum256(token)
	p, ok := k.view.ImportParameters(hash[:])
	if !ok || p.Region != k.Region || p.KeyID != k.ID {
		return nil, &kmsapi.Error{Code: kmsapi.CodeInvalidImportTokenException}
	}
	if !s.Now().Before(p.ValidTo) {
		return nil, &kmsapi.Error{Code: kmsapi.CodeExpiredImportTokenException}
	}
	return p, nil
}

// checkImportMembers refuses what only symmetric encryption keys have, since only
// they can have more than one material.
// https://docs.aws.amazon.com/kms/latest/APIReference/API_ImportKeyMaterial.html
func checkImportMembers(k *key, in *kmsapi.ImportKeyMaterialRequest) error {
	if k.Spec == keys.SymmetricDefault {
		return nil
	}
	for _, m := range []struct{ name, value string }{
		{"ImportType", string(in.ImportType)}, {"KeyMaterialDescription", in.KeyMaterialDescription}, {"KeyMaterialId", in.KeyMaterialId},
	} {
		if m.value != "" {
			return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
				"%s is supported only for symmetric encryption keys: %s has key spec %s.", m.name, k.arn, k.Spec)
		}
	}
	return nil
}

// epochValues is a time as AWS gives it to policies, in seconds of the Unix epoch:
// Date operators compare it as well as Numeric ones.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-valid-to
func epochValues(t time.Time) []string {
	if t.IsZero() {
		return nil
	}
	return []string{strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', -1, 64)}
}
