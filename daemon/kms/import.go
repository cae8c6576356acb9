package kms

import (
	"context"
	"slices"
	"strconv"
	"time"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/socket/kmsapi"
)

const maxImportLifetime = 365 * keyring.Day

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
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId, Conditions: []access.Condition{
		access.Says("kms:WrappingAlgorithm", in.WrappingAlgorithm),
		access.Says("kms:WrappingKeySpec", in.WrappingKeySpec),
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
	if k.Backend == nil {
		return nil, journal.InvalidState(k.ARN, "unavailable")
	}
	offer, err := s.OfferImport(ctx, c, k, backends.KeySpec(in.WrappingKeySpec), backends.Algorithm(in.WrappingAlgorithm))
	if err != nil {
		return nil, err
	}
	return &kmsapi.GetParametersForImportResponse{
		KeyId: k.ARN, ImportToken: offer.Token, PublicKey: offer.PublicKey, ParametersValidTo: offer.ValidTo,
	}, nil
}

func (s methods) ImportKeyMaterial(ctx context.Context, c *journal.Call, in *kmsapi.ImportKeyMaterialRequest) (*kmsapi.ImportKeyMaterialResponse, error) {
	model, err := s.expiration(in)
	if err != nil {
		return nil, err
	}
	k, err := s.admitMaterial(ctx, c, &access.Demand{KeyID: in.KeyId, Conditions: []access.Condition{
		access.SaysIf("kms:ExpirationModel", in.ExpirationModel),
		access.SaysAll("kms:ValidTo", epochValues(in.ValidTo)),
	}})
	if err != nil {
		return nil, err
	}
	if k.Backend == nil {
		return nil, journal.InvalidState(k.ARN, "unavailable")
	}
	if err := checkImportMembers(k, in); err != nil {
		return nil, err
	}
	v, err := s.Import(ctx, c, k, in, model)
	if err != nil {
		return nil, err
	}
	return &kmsapi.ImportKeyMaterialResponse{KeyId: k.ARN, KeyMaterialId: v.MaterialID}, nil
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

// checkImportMembers refuses what only symmetric encryption keys have, since only
// they can have more than one material.
// https://docs.aws.amazon.com/kms/latest/APIReference/API_ImportKeyMaterial.html
func checkImportMembers(k *access.Key, in *kmsapi.ImportKeyMaterialRequest) error {
	if k.Spec == keys.SymmetricDefault {
		return nil
	}
	for _, m := range []struct{ name, value string }{
		{"ImportType", string(in.ImportType)}, {"KeyMaterialDescription", in.KeyMaterialDescription}, {"KeyMaterialId", in.KeyMaterialId},
	} {
		if m.value != "" {
			return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
				"%s is supported only for symmetric encryption keys: %s has key spec %s.", m.name, k.ARN, k.Spec)
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
