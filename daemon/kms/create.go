package kms

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

func (s methods) CreateKey(ctx context.Context, c *journal.Call, in *kmsapi.CreateKeyRequest) (*kmsapi.CreateKeyResponse, error) {
	row, err := s.newKey(c, in)
	if err != nil {
		return nil, err
	}
	if err := s.AuthoriseAccount(c, &access.Demand{Conditions: newKeyConditions(row, in.BypassPolicyLockoutSafetyCheck)}); err != nil {
		return nil, err
	}
	if err := s.AuthoriseTags(c, row); err != nil {
		return nil, err
	}
	if err := s.placeInStore(c, in, row); err != nil {
		return nil, err
	}
	if row.Policy, err = s.NewPolicy(ctx, c, in.Policy, in.BypassPolicyLockoutSafetyCheck, row); err != nil {
		return nil, err
	}
	b, err := s.RouteNew(row.Token, row.Spec)
	if err != nil {
		return nil, err
	}
	out := new(kmsapi.CreateKeyResponse)
	switch {
	case row.Origin == kmsapi.OriginTypeExternal:
		row.State = kmsapi.KeyStatePendingImport
		err = s.Commit(ctx, c, func(tx *store.Tx) error {
			if err := s.PutNewKey(tx, row); err != nil {
				return err
			}
			out.KeyMetadata = s.created(c, tx, row)
			return nil
		})
	case !s.Router.Available(row.Token, row.Spec):
		err = backends.Errorf(backends.Away, "token %s has been away for a while", row.Token)
	default:
		err = s.GenerateKey(ctx, c, b, row, func(tx *store.Tx) error {
			out.KeyMetadata = s.created(c, tx, row)
			return nil
		})
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// newKeyConditions are the condition keys of kms:CreateKey: what the key will be,
// its tags included.
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_awskeymanagementservice.html
func newKeyConditions(row *store.Key, bypass *bool) []access.Condition {
	list := append(access.TagConditions(row.Tags),
		access.Says("kms:KeySpec", row.Spec),
		access.Says("kms:KeyUsage", row.Usage),
		access.Says("kms:KeyOrigin", row.Origin),
		access.Says("kms:MultiRegion", access.Boolean(row.PrimaryRegion != "")),
		access.SaysIf("kms:MultiRegionKeyType", access.MultiRegionType(row)),
		access.SaysBool("kms:BypassPolicyLockoutSafetyCheck", bypass),
	)
	for _, t := range row.Tags {
		list = append(list, access.Says(access.ResourceTagPrefix+t.Key, t.Value))
	}
	return list
}

// created notes what the record of CreateKey says of the key, and returns what the
// answer does.
func (s *Service) created(c *journal.Call, tx *store.Tx, row *store.Key) *kmsapi.KeyMetadata {
	c.Admitted(s.Journal, s.KeyARN(row.Region, row.ID))
	m := s.metadata(tx, row)
	c.Respond(journal.KeyElements{Metadata: journal.MetadataElement(m)})
	return m
}

// newKey makes the row of the key that the request asks for, or says what is
// wrong with the request.
func (s *Service) newKey(c *journal.Call, in *kmsapi.CreateKeyRequest) (*store.Key, error) {
	keySpec, usage, err := specAndUsage(in)
	if err != nil {
		return nil, err
	}
	tags, err := newTags(in.Tags)
	if err != nil {
		return nil, err
	}
	row := &store.Key{
		Region:      c.Region,
		ID:          uuid.NewString(),
		Description: in.Description,
		Spec:        keySpec,
		Usage:       usage,
		Origin:      kmsapi.OriginTypeAWSKMS,
		Manager:     kmsapi.KeyManagerTypeCustomer,
		State:       kmsapi.KeyStateEnabled,
		Token:       s.Token,
		Tags:        tags,
		Created:     s.Now(),
		Creator:     c.Caller.Principal.DisplayARN(),
	}
	if in.MultiRegion {
		row.ID = keyring.NewMultiRegionID()
		row.PrimaryRegion = row.Region
	}
	return row, setOrigin(in, keySpec, row)
}

// setOrigin reads Origin.
func setOrigin(in *kmsapi.CreateKeyRequest, keySpec backends.KeySpec, row *store.Key) error {
	if in.Origin != "" {
		row.Origin = in.Origin
	}
	switch {
	case in.Origin == kmsapi.OriginTypeExternalKeyStore || in.XksKeyId != "":
		return errNoXKS()
	case in.Origin == kmsapi.OriginTypeExternal && !keys.Specs[keySpec].Importable:
		return errNotImportable(keySpec)
	case (in.Origin == kmsapi.OriginTypeAWSCloudHSM) != (in.CustomKeyStoreId != ""):
		return kmsapi.Errorf(kmsapi.CodeValidationException, "CustomKeyStoreId and Origin AWS_CLOUDHSM go together.")
	}
	return nil
}

// placeInStore puts the new key into the custom key store that it is to live in,
// if any. The caller must be authorised: who is not learns nothing of the stores.
func (s *Service) placeInStore(c *journal.Call, in *kmsapi.CreateKeyRequest, row *store.Key) error {
	if in.CustomKeyStoreId == "" {
		return nil
	}
	row.CustomKeyStoreID = in.CustomKeyStoreId
	cks, err := s.StoreForKey(c.View, row)
	if err != nil {
		return err
	}
	signing := row.Usage == backends.SignVerify && slices.Contains(s.signingTokens, cks.Token)
	if row.Spec != keys.SymmetricDefault && !signing || row.PrimaryRegion != "" {
		return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
			"A custom key store holds symmetric encryption keys of one Region only.")
	}
	row.Token = cks.Token
	return nil
}

func errNotImportable(spec backends.KeySpec) error {
	return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "Origin EXTERNAL is not supported for KeySpec %s.", spec)
}

// specAndUsage reads KeySpec, or its older name, and KeyUsage.
func specAndUsage(in *kmsapi.CreateKeyRequest) (backends.KeySpec, backends.Usage, error) {
	keySpec, usage := backends.KeySpec(in.KeySpec), backends.Usage(in.KeyUsage)
	if in.CustomerMasterKeySpec != "" {
		if in.KeySpec != "" {
			return "", "", kmsapi.Errorf(kmsapi.CodeValidationException,
				"You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.")
		}
		keySpec = backends.KeySpec(in.CustomerMasterKeySpec)
	}
	if keySpec == "" {
		keySpec = backends.SymmetricDefault
	}
	allowed, ok := keys.Specs[keySpec]
	if !ok {
		return "", "", kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "KeySpec %s is not supported in this Region", keySpec)
	}
	if usage == "" {
		if keySpec != backends.SymmetricDefault {
			return "", "", kmsapi.Errorf(kmsapi.CodeValidationException, "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
		}
		usage = backends.EncryptDecrypt
	}
	if !slices.Contains(allowed.Usages, usage) {
		return "", "", kmsapi.Errorf(kmsapi.CodeValidationException, "KeyUsage %s is not compatible with KeySpec %s", usage, keySpec)
	}
	return keySpec, usage, nil
}
