package kms

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/backends"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

const (
	importTokenLen      = 32 // bytes
	importTokenLifetime = 24 * time.Hour
	maxImportLifetime   = 365 * day
)

// importAlgorithms are the wrapping algorithms for the material of each kind
// of key: an RSA private key is too long for RSAES-OAEP.
// https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
func importAlgorithms(spec backends.KeySpec) []kmsapi.AlgorithmSpec {
	hybrid := []kmsapi.AlgorithmSpec{kmsapi.AlgorithmSpecRSAAESKeyWrapSHA1, kmsapi.AlgorithmSpecRSAAESKeyWrapSHA256}
	switch spec {
	case backends.RSA2048, backends.RSA3072, backends.RSA4096, backends.MLDSA44, backends.MLDSA65, backends.MLDSA87:
		return hybrid
	default:
		return append(hybrid, kmsapi.AlgorithmSpecRSAESOAEPSHA1, kmsapi.AlgorithmSpecRSAESOAEPSHA256)
	}
}

func (s *Service) getParametersForImport(ctx context.Context, c *Call, in *kmsapi.GetParametersForImportRequest) (*kmsapi.GetParametersForImportResponse, error) {
	k, err := s.admit(ctx, c, &demand{keyID: in.KeyId, conditions: []condition{
		{"kms:WrappingAlgorithm", []string{string(in.WrappingAlgorithm)}},
		{"kms:WrappingKeySpec", []string{string(in.WrappingKeySpec)}},
	}})
	if err != nil {
		return nil, err
	}
	if !slices.Contains(importAlgorithms(backends.KeySpec(k.Spec)), in.WrappingAlgorithm) || in.WrappingKeySpec == kmsapi.WrappingKeySpecSM2 {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
			"Wrapping algorithm %s with wrapping key spec %s is not supported for key spec %s.", in.WrappingAlgorithm, in.WrappingKeySpec, k.Spec)
	}
	if k.backend == nil {
		return nil, invalidState(k.arn, "unavailable")
	}
	token := make([]byte, importTokenLen)
	_, _ = rand.Read(token) // never fails: crypto/rand
	hash := sha256.Sum256(token)
	params := &store.ImportParameters{
		Region: k.Region, KeyID: k.ID, CKAID: newCKAID(), Spec: string(in.WrappingKeySpec),
		Algorithm: string(in.WrappingAlgorithm), Token: k.Token, TokenHash: hash[:], ValidTo: s.now().Add(importTokenLifetime),
	}
	intent := &store.Intent{
		CKAID: params.CKAID, Action: "create", Region: k.Region, KeyID: importPrefix + k.ID, Version: 1, Token: k.Token,
		Spec: params.Spec, Usage: string(backends.UnwrapImport), Route: k.Spec, Created: s.now(),
	}
	made, err := s.generate(ctx, k.backend, intent, func(tx *store.Tx, made *backends.CreateKeyAnswer) error {
		params.MaterialWrap = made.PublicKey
		return tx.PutImportParameters(params)
	})
	if err != nil {
		return nil, err
	}
	return &kmsapi.GetParametersForImportResponse{
		KeyId: k.arn, ImportToken: token, PublicKey: made.PublicKey, ParametersValidTo: params.ValidTo,
	}, nil
}

func (s *Service) importKeyMaterial(ctx context.Context, c *Call, in *kmsapi.ImportKeyMaterialRequest) (*kmsapi.ImportKeyMaterialResponse, error) {
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
		return nil, invalidState(k.arn, "unavailable")
	}
	params, err := s.importParameters(k, in.ImportToken)
	if err != nil {
		return nil, err
	}
	v, err := s.importTarget(k, in)
	if err != nil {
		return nil, err
	}
	v.ExpirationModel, v.ValidTo = string(model), in.ValidTo
	if in.KeyMaterialDescription != "" {
		v.Description = in.KeyMaterialDescription
	}
	if err := s.importVersion(ctx, c, k, params, v, in.EncryptedKeyMaterial); err != nil {
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
	now := s.now()
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
	p, ok := s.store.View().ImportParameters(hash[:])
	if !ok || p.Region != k.Region || p.KeyID != k.ID {
		return nil, &kmsapi.Error{Code: kmsapi.CodeInvalidImportTokenException}
	}
	if !s.now().Before(p.ValidTo) {
		return nil, &kmsapi.Error{Code: kmsapi.CodeExpiredImportTokenException}
	}
	return p, nil
}

// importTarget is the version that the material is for, under a fresh CKA_ID:
// a new one, or the one that the material is to be given back to.
func (s *Service) importTarget(k *key, in *kmsapi.ImportKeyMaterialRequest) (*store.Version, error) {
	versions := k.view.Versions(k.ID)
	kind := in.ImportType
	if kind == "" && len(versions) > 0 {
		kind = kmsapi.ImportTypeExistingKeyMaterial
	}
	if kind != kmsapi.ImportTypeExistingKeyMaterial {
		return s.newImport(k, versions, in)
	}
	if len(versions) == 0 {
		return nil, kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "%s has no existing key material.", k.arn)
	}
	var old *store.Version
	if in.KeyMaterialId == "" {
		old, _ = k.view.CurrentVersion(k.ID)
	} else {
		old, _ = k.view.Version(k.ID, in.KeyMaterialId)
	}
	if old == nil {
		return nil, errNoMaterial(in.KeyMaterialId)
	}
	v := *old
	v.CKAID = nextCKAID(old.CKAID)
	return &v, nil
}

func errNoMaterial(id string) error {
	return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key material '%s' does not exist", id)
}

func (s *Service) newImport(k *key, versions []*store.Version, in *kmsapi.ImportKeyMaterialRequest) (*store.Version, error) {
	if in.KeyMaterialId != "" {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "KeyMaterialId cannot be specified when importing new key material")
	}
	number := 1
	if len(versions) > 0 {
		number = versions[len(versions)-1].Number + 1
	}
	v := newVersion(k.ID, number, s.now())
	v.Imported = true
	if len(versions) == 0 {
		return v, nil
	}
	if k.Spec != symmetricDefault {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s cannot have more than one key material.", k.arn)
	}
	for _, old := range versions {
		if old.State == string(kmsapi.KeyMaterialStatePendingRotation) {
			return nil, kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException,
				"New key material (id: %s) cannot be imported into KMS key %s, because another key material (id: %s) is pending rotation.",
				v.MaterialID, k.arn, old.MaterialID)
		}
	}
	v.State = string(kmsapi.KeyMaterialStatePendingRotation)
	return v, nil
}

// importVersion brings the material into the token under v's CKA_ID and makes
// it v's. The wrapping pair has served then and is destroyed; if the material
// is refused, the client may try again with it. As in generate, a caller who
// leaves does not stop the token.
func (s *Service) importVersion(ctx context.Context, c *Call, k *key, params *store.ImportParameters, v *store.Version, material []byte) error {
	intent := &store.Intent{
		CKAID: v.CKAID, Action: "create", Region: k.Region, KeyID: k.ID, Version: v.Number, Token: k.Token,
		Spec: k.Spec, Usage: k.Usage, Imported: true, Created: s.now(),
	}
	s.working.begin(intent.CKAID)
	defer s.working.end(intent.CKAID)
	if err := s.store.Update(ctx, func(tx *store.Tx) error { return tx.PutIntent(intent) }); err != nil {
		return fmt.Errorf("storing the intent: %w", err)
	}
	made, err := k.backend.ImportKey(context.WithoutCancel(ctx), &backends.ImportKeyRequest{
		Key: intentKey(intent), Label: label(k.ID, v.Number),
		Wrapping:  backends.Key{ID: backends.KeyID(params.CKAID), Spec: backends.KeySpec(params.Spec), Usage: backends.UnwrapImport},
		Algorithm: backends.Algorithm(params.Algorithm), Material: material, TokenOnly: s.tokenOnlyImport,
	})
	var spent []*store.Intent
	if err == nil {
		if made.ThroughPlugin {
			c.record.AdditionalEventData.Details = jsontext.Value(`{"materialThroughPlugin":true}`)
		}
		err = s.store.Update(ctx, func(tx *store.Tx) error {
			spent, err = s.adopt(tx, k, v, params, made)
			if err != nil {
				return err
			}
			tx.DeleteIntent(intent.CKAID)
			return nil
		})
	}
	if err != nil {
		s.undo(ctx, k.backend, intent)
		return err
	}
	for _, i := range spent {
		s.undo(ctx, k.backend, i)
	}
	return nil
}

// adopt stores the version that was just imported, and the intents to destroy
// what has served: the wrapping pair, and the object that v replaces if there
// is one.
func (s *Service) adopt(tx *store.Tx, k *key, v *store.Version, params *store.ImportParameters, made *backends.ImportKeyAnswer) ([]*store.Intent, error) {
	now, ok := tx.Key(k.Region, k.ID)
	if !ok {
		return nil, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key '%s' does not exist", k.arn)
	}
	if !tx.DeleteImportParameters(params.TokenHash) {
		return nil, &kmsapi.Error{Code: kmsapi.CodeInvalidImportTokenException} // used at the same time
	}
	for _, other := range tx.Versions(k.ID) {
		same := bytes.Equal(other.CheckValue, made.CheckValue)
		if other.MaterialID == v.MaterialID && !same || other.MaterialID != v.MaterialID && same {
			return nil, &kmsapi.Error{Code: kmsapi.CodeIncorrectKeyMaterialException}
		}
	}
	spent := []*store.Intent{s.pairIntent(k.Key, params)}
	if old, ok := tx.Version(k.ID, v.MaterialID); ok && old.ImportState == string(kmsapi.ImportStateImported) {
		spent = append(spent, s.destroyIntent(k.Key, old))
	}
	for _, i := range spent {
		if err := tx.PutIntent(i); err != nil {
			return nil, err
		}
	}
	v.CheckValue, v.ImportState = made.CheckValue, string(kmsapi.ImportStateImported)
	if err := tx.PutVersion(v); err != nil {
		return nil, err
	}
	return spent, s.reflectReplicas(tx, now.ID, made.PublicKey)
}

// reflectReplicas is reflectImport for the key in every Region: they share the
// material. publicKey is the pair's that was imported, if it is one.
func (s *Service) reflectReplicas(tx *store.Tx, id string, publicKey []byte) error {
	for _, replica := range tx.KeyReplicas(id) {
		row := *replica
		if len(publicKey) > 0 {
			row.PublicKey = publicKey
		}
		s.reflectImport(tx, &row)
		if err := tx.PutKey(&row); err != nil {
			return err
		}
	}
	return nil
}

// reflectImport sets what the key's row says of its imported material: a key
// that lacks any of its materials is pending import.
func (s *Service) reflectImport(tx *store.Tx, row *store.Key) {
	row.ExpirationModel, row.ValidTo = "", time.Time{}
	if v, ok := tx.CurrentVersion(row.ID); ok && v.ImportState == string(kmsapi.ImportStateImported) {
		row.ExpirationModel, row.ValidTo = v.ExpirationModel, v.ValidTo
	}
	complete := hasMaterial(tx, row.ID)
	switch {
	case complete && row.State == string(kmsapi.KeyStatePendingImport):
		row.State = string(kmsapi.KeyStateEnabled)
	case !complete && (row.State == string(kmsapi.KeyStateEnabled) || row.State == string(kmsapi.KeyStateDisabled)):
		row.State = string(kmsapi.KeyStatePendingImport)
	}
}

// hasMaterial reports whether every material of the key that is or was
// current is in the token.
func hasMaterial(tx *store.Tx, keyID string) bool {
	versions := tx.Versions(keyID)
	for _, v := range versions {
		if v.State != string(kmsapi.KeyMaterialStatePendingRotation) && v.ImportState == string(kmsapi.ImportStatePendingImport) {
			return false
		}
	}
	return len(versions) > 0
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
