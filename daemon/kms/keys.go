package kms

import (
	"context"
	"slices"
	"time"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/paging"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

func (s methods) DescribeKey(ctx context.Context, c *journal.Call, in *kmsapi.DescribeKeyRequest) (*kmsapi.DescribeKeyResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId, GrantTokens: in.GrantTokens})
	if err != nil {
		return nil, err
	}
	return &kmsapi.DescribeKeyResponse{KeyMetadata: s.metadata(c.View, k.Key)}, nil
}

// olderSpecs are the key specs that answers have in CustomerMasterKeySpec too: those
// of its enum, and ML-DSA, which AWS sends in it all the same.
// https://aws.amazon.com/blogs/security/how-to-create-post-quantum-signatures-using-aws-kms-and-ml-dsa/
var olderSpecs = append(kmsapi.CustomerMasterKeySpec("").Values(),
	kmsapi.CustomerMasterKeySpec(backends.MLDSA44), kmsapi.CustomerMasterKeySpec(backends.MLDSA65), kmsapi.CustomerMasterKeySpec(backends.MLDSA87))

// metadata is KeyMetadata of a key as it stands in the view.
func (s *Service) metadata(view journal.Reader, row *store.Key) *kmsapi.KeyMetadata {
	state := s.ShownState(view, row)
	m := &kmsapi.KeyMetadata{
		AWSAccountId:     s.Account,
		KeyId:            row.ID,
		Arn:              s.KeyARN(row.Region, row.ID),
		CreationDate:     row.Created,
		Enabled:          state == kmsapi.KeyStateEnabled,
		Description:      row.Description,
		KeyUsage:         kmsapi.KeyUsageType(row.Usage),
		KeyState:         state,
		DeletionDate:     row.Deletion,
		ValidTo:          row.ValidTo,
		Origin:           row.Origin,
		CustomKeyStoreId: row.CustomKeyStoreID,
		ExpirationModel:  row.ExpirationModel,
		KeyManager:       row.Manager,
		KeySpec:          kmsapi.KeySpec(row.Spec),
		MultiRegion:      row.PrimaryRegion != "",
	}
	if s.Over(row.ValidTo) {
		m.ValidTo, m.ExpirationModel = time.Time{}, ""
	}
	if slices.Contains(olderSpecs, kmsapi.CustomerMasterKeySpec(row.Spec)) {
		m.CustomerMasterKeySpec = kmsapi.CustomerMasterKeySpec(row.Spec)
	}
	if row.State == kmsapi.KeyStatePendingReplicaDeletion {
		m.PendingDeletionWindowInDays = int32(row.PendingWindowDays)
	}
	m.MultiRegionConfiguration = s.describeReplicas(view, row)
	if cks, ok := view.CustomKeyStore(row.Region, row.CustomKeyStoreID); ok {
		m.CloudHsmClusterId = cks.ClusterID
	}
	describeAlgorithms(m, row)
	if row.Spec == backends.SymmetricDefault {
		if v, ok := view.CurrentVersion(row.ID); ok {
			m.CurrentKeyMaterialId = v.MaterialID
		}
	}
	return m
}

// describeAlgorithms lists the algorithms of the key's usage.
func describeAlgorithms(m *kmsapi.KeyMetadata, row *store.Key) {
	names := keys.Specs[row.Spec].Algorithms[row.Usage]
	switch row.Usage {
	case backends.EncryptDecrypt:
		m.EncryptionAlgorithms = named[kmsapi.EncryptionAlgorithmSpec](names)
	case backends.SignVerify:
		m.SigningAlgorithms = named[kmsapi.SigningAlgorithmSpec](names)
	case backends.GenerateVerifyMAC:
		m.MacAlgorithms = named[kmsapi.MacAlgorithmSpec](names)
	case backends.KeyAgreement:
		m.KeyAgreementAlgorithms = named[kmsapi.KeyAgreementAlgorithmSpec](names)
	case backends.EncapsulateDecapsulate:
		m.EncapsulationAlgorithms = named[kmsapi.EncapsulationAlgorithmSpec](names)
	default: // usages of the daemon's own keys, which no client sees
	}
}

func named[T, F ~string](names []F) []T {
	list := make([]T, len(names))
	for i, n := range names {
		list[i] = T(n)
	}
	return list
}

func (s methods) ListKeys(_ context.Context, c *journal.Call, in *kmsapi.ListKeysRequest) (*kmsapi.ListKeysResponse, error) {
	if err := s.AuthoriseAccount(c, &access.Demand{}); err != nil {
		return nil, err
	}
	l := paging.ListOf(c, "")
	after, err := l.DecodeMarker(in.Marker)
	if err != nil {
		return nil, err
	}
	rows, next := paging.Page(l, c.View.Keys(c.Region, after), paging.Limit(in.Limit, 100), func(k *store.Key) string { return k.ID })
	out := &kmsapi.ListKeysResponse{Keys: []kmsapi.KeyListEntry{}, NextMarker: next, Truncated: next != ""}
	for _, k := range rows {
		out.Keys = append(out.Keys, kmsapi.KeyListEntry{KeyId: k.ID, KeyArn: s.KeyARN(k.Region, k.ID)})
	}
	return out, nil
}

func (s methods) UpdateKeyDescription(ctx context.Context, c *journal.Call, in *kmsapi.UpdateKeyDescriptionRequest) (*kmsapi.UpdateKeyDescriptionResponse, error) {
	err := s.change(ctx, c, &access.Demand{KeyID: in.KeyId}, func(row *store.Key) error {
		row.Description = in.Description
		return nil
	})
	return &kmsapi.UpdateKeyDescriptionResponse{}, err
}

func (s methods) EnableKey(ctx context.Context, c *journal.Call, in *kmsapi.EnableKeyRequest) (*kmsapi.EnableKeyResponse, error) {
	err := s.change(ctx, c, &access.Demand{KeyID: in.KeyId}, func(row *store.Key) error {
		row.State = kmsapi.KeyStateEnabled
		return nil
	})
	return &kmsapi.EnableKeyResponse{}, err
}

func (s methods) DisableKey(ctx context.Context, c *journal.Call, in *kmsapi.DisableKeyRequest) (*kmsapi.DisableKeyResponse, error) {
	err := s.change(ctx, c, &access.Demand{KeyID: in.KeyId}, func(row *store.Key) error {
		row.State = kmsapi.KeyStateDisabled
		return nil
	})
	return &kmsapi.DisableKeyResponse{}, err
}

// change admits the call and stores a changed copy of the key's row. The
// state is looked at again inside of the transaction: of two changes at once,
// the second sees the first.
func (s *Service) change(ctx context.Context, c *journal.Call, d *access.Demand, f func(row *store.Key) error) error {
	return s.changeTx(ctx, c, d, func(_ *store.Tx, row *store.Key) error { return f(row) })
}

// changeTx is change for what needs to see other rows.
func (s *Service) changeTx(ctx context.Context, c *journal.Call, d *access.Demand, f func(tx *store.Tx, row *store.Key) error) error {
	k, err := s.Admit(ctx, c, d)
	if err != nil {
		return err
	}
	return s.rewrite(ctx, c, k, f)
}

// rewrite stores a changed copy of the row of an admitted key.
func (s *Service) rewrite(ctx context.Context, c *journal.Call, k *access.Key, f func(tx *store.Tx, row *store.Key) error) error {
	return s.Commit(ctx, c, func(tx *store.Tx) error {
		now, err := s.Readmit(tx, c, k)
		if err != nil {
			return err
		}
		row := *now
		if err := f(tx, &row); err != nil {
			return err
		}
		return tx.PutKey(&row)
	})
}

func (s methods) GetPublicKey(ctx context.Context, c *journal.Call, in *kmsapi.GetPublicKeyRequest) (*kmsapi.GetPublicKeyResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId, GrantTokens: in.GrantTokens})
	if err != nil {
		return nil, err
	}
	if len(k.PublicKey) == 0 {
		return nil, &kmsapi.Error{Code: kmsapi.CodeUnsupportedOperationException} // AWS gives no message
	}
	m := s.metadata(c.View, k.Key)
	return &kmsapi.GetPublicKeyResponse{
		KeyId: k.ARN, PublicKey: k.PublicKey, KeySpec: m.KeySpec, CustomerMasterKeySpec: m.CustomerMasterKeySpec,
		KeyUsage: m.KeyUsage, EncryptionAlgorithms: m.EncryptionAlgorithms, SigningAlgorithms: m.SigningAlgorithms,
		KeyAgreementAlgorithms: m.KeyAgreementAlgorithms, EncapsulationAlgorithms: m.EncapsulationAlgorithms,
	}, nil
}
