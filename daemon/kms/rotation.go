package kms

import (
	"context"
	"slices"
	"strconv"
	"time"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/paging"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// errNoRotation refuses rotation of keys that are not symmetric. AWS sends no
// message.
func errNoRotation() error {
	return &kmsapi.Error{Code: kmsapi.CodeUnsupportedOperationException}
}

// checkRotatable refuses automatic rotation of keys that cannot have it.
func (s *Service) checkRotatable(k *access.Key) error {
	switch {
	case k.Spec != keys.SymmetricDefault:
		return errNoRotation()
	case k.Origin != kmsapi.OriginTypeAWSKMS:
		return access.WrongOrigin(k)
	}
	return nil
}

// checkPrimary refuses what only the primary of a multi-Region key does.
func checkPrimary(k *access.Key) error {
	if k.PrimaryRegion != "" && k.PrimaryRegion != k.Region {
		return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s is not a multi-region primary key.", k.ARN)
	}
	return nil
}

func (s methods) EnableKeyRotation(ctx context.Context, c *journal.Call, in *kmsapi.EnableKeyRotationRequest) (*kmsapi.EnableKeyRotationResponse, error) {
	days := int(in.RotationPeriodInDays)
	d := &access.Demand{KeyID: in.KeyId}
	if days == 0 {
		days, d.Presets = keys.RotationDays, []string{"kms:RotationPeriodInDays"}
	}
	d.Conditions = []access.Condition{access.Says("kms:RotationPeriodInDays", strconv.Itoa(days))}
	k, err := s.Admit(ctx, c, d)
	if err != nil {
		return nil, err
	}
	err = s.changeRotation(ctx, c, k, func(row *store.Key) {
		row.RotationPeriodDays = days
		row.NextRotation = s.Now().Add(time.Duration(days) * keyring.Day)
	})
	return &kmsapi.EnableKeyRotationResponse{}, err
}

func (s methods) DisableKeyRotation(ctx context.Context, c *journal.Call, in *kmsapi.DisableKeyRotationRequest) (*kmsapi.DisableKeyRotationResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	if k.Spec != keys.SymmetricDefault {
		return &kmsapi.DisableKeyRotationResponse{}, nil // AWS turns off what was never on
	}
	err = s.changeRotation(ctx, c, k, func(row *store.Key) {
		row.RotationPeriodDays, row.NextRotation = 0, time.Time{}
	})
	return &kmsapi.DisableKeyRotationResponse{}, err
}

func (s *Service) changeRotation(ctx context.Context, c *journal.Call, k *access.Key, f func(row *store.Key)) error {
	if err := s.checkRotatable(k); err != nil {
		return err
	}
	if err := checkPrimary(k); err != nil {
		return err
	}
	return s.rewrite(ctx, c, k, func(_ *store.Tx, row *store.Key) error {
		f(row)
		return nil
	})
}

func (s methods) GetKeyRotationStatus(ctx context.Context, c *journal.Call, in *kmsapi.GetKeyRotationStatusRequest) (*kmsapi.GetKeyRotationStatusResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	out := &kmsapi.GetKeyRotationStatusResponse{KeyId: k.ARN}
	if k.Spec != keys.SymmetricDefault {
		// AWS says false where the other operations refuse: Terraform asks of every key.
		return out, nil
	}
	if err := s.checkRotatable(k); err != nil {
		return nil, err
	}
	row := s.Primary(c.View, k.Key)
	if row.RotationPeriodDays > 0 && k.StateNow != kmsapi.KeyStatePendingDeletion {
		out.KeyRotationEnabled = true
		out.RotationPeriodInDays = int32(row.RotationPeriodDays)
		out.NextRotationDate = row.NextRotation
	}
	if i := s.Rotating(c.View, k.ID); i != nil && i.Rotation == kmsapi.RotationTypeOnDemand {
		out.OnDemandRotationStartDate = i.Created
	}
	return out, nil
}

func (s methods) RotateKeyOnDemand(ctx context.Context, c *journal.Call, in *kmsapi.RotateKeyOnDemandRequest) (*kmsapi.RotateKeyOnDemandResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	switch {
	case k.Spec != keys.SymmetricDefault:
		return nil, errNoRotation()
	case k.Origin == kmsapi.OriginTypeAWSCloudHSM:
		return nil, access.WrongOrigin(k)
	}
	if err := checkPrimary(k); err != nil {
		return nil, err
	}
	out := &kmsapi.RotateKeyOnDemandResponse{KeyId: k.ARN}
	if k.Origin == kmsapi.OriginTypeExternal {
		return out, s.RotateImported(ctx, c, k)
	}
	return out, s.RotateOnDemand(ctx, c, k)
}

func (s methods) ListKeyRotations(ctx context.Context, c *journal.Call, in *kmsapi.ListKeyRotationsRequest) (*kmsapi.ListKeyRotationsResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	if k.Spec != keys.SymmetricDefault {
		return nil, errNoRotation()
	}
	l := paging.ListOf(c, k.ID)
	after, err := l.DecodeMarker(in.Marker)
	if err != nil {
		return nil, err
	}
	versions := s.InOrder(c.View.Versions(k.ID))
	if after != "" {
		i := slices.IndexFunc(versions, func(v *store.Version) bool { return v.MaterialID == after })
		if i < 0 {
			return nil, paging.ErrInvalidMarker()
		}
		versions = versions[i+1:]
	}
	all := in.IncludeKeyMaterial == kmsapi.IncludeKeyMaterialAllKeyMaterial
	rows := func(yield func(*store.Version) bool) {
		for _, v := range versions {
			if (all || !v.Rotated.IsZero()) && !yield(v) {
				return
			}
		}
	}
	list, next := paging.Page(l, rows, paging.Limit(in.Limit, 100), func(v *store.Version) string { return v.MaterialID })
	out := &kmsapi.ListKeyRotationsResponse{Rotations: []kmsapi.RotationsListEntry{}, NextMarker: next, Truncated: next != ""}
	for _, v := range list {
		e := kmsapi.RotationsListEntry{
			KeyId: k.ID, KeyMaterialId: v.MaterialID, KeyMaterialDescription: v.Description,
			ImportState: s.ImportState(v), KeyMaterialState: v.State,
			RotationDate: v.Rotated, RotationType: v.RotationType,
		}
		if e.ImportState == kmsapi.ImportStateImported {
			e.ExpirationModel, e.ValidTo = v.ExpirationModel, v.ValidTo
		}
		out.Rotations = append(out.Rotations, e)
	}
	return out, nil
}
