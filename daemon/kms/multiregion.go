package kms

import (
	"context"
	"time"

	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// The rows of a multi-Region key have one ID and share their versions: a
// ciphertext of one decrypts in every Region, since it names no Region. Each
// row has a description, policy, tags, aliases, grants and state of its own.

func (s *Service) replicateKey(ctx context.Context, c *Call, in *kmsapi.ReplicateKeyRequest) (*kmsapi.ReplicateKeyResponse, error) {
	tags, err := newTags(in.Tags)
	if err != nil {
		return nil, err
	}
	k, err := s.admit(ctx, c, &demand{keyID: in.KeyId, conditions: append(tagConditions(tags),
		condition{"kms:ReplicaRegion", []string{in.ReplicaRegion}})})
	if err != nil {
		return nil, err
	}
	if k.PrimaryRegion != k.Region {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s is not a multi-region primary key.", k.arn)
	}
	if !s.regions[in.ReplicaRegion] {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "ReplicaRegion %s is not a Region of this service.", in.ReplicaRegion)
	}
	document, err := s.newPolicy(c, in.Policy, in.BypassPolicyLockoutSafetyCheck, s.keyARN(in.ReplicaRegion, k.ID))
	if err != nil {
		return nil, err
	}
	row := *k.Key
	row.Region, row.Description, row.Policy, row.Tags = in.ReplicaRegion, in.Description, document, tags
	row.Created, row.Creator, row.State = s.now(), c.caller.Principal.DisplayARN(), string(kmsapi.KeyStateEnabled)
	row.RotationPeriodDays, row.OnDemandRotations = 0, 0
	row.NextRotation = time.Time{} // the primary's row holds the rotation
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		if _, ok := tx.Key(row.Region, row.ID); ok {
			return kmsapi.Errorf(kmsapi.CodeAlreadyExistsException, "Key %s already exists in Region %s.", k.arn, row.Region)
		}
		if row.Origin == string(kmsapi.OriginTypeExternal) {
			s.reflectImport(tx, &row)
		}
		return tx.PutKey(&row)
	})
	if err != nil {
		return nil, err
	}
	metadata := s.metadata(s.store.View(), &row)
	metadata.KeyState, metadata.Enabled = kmsapi.KeyStateCreating, false // as AWS answers; the replica is ready by now
	out := &kmsapi.ReplicateKeyResponse{ReplicaKeyMetadata: metadata, ReplicaPolicy: row.Policy, ReplicaTags: []kmsapi.Tag{}}
	for _, t := range tags {
		out.ReplicaTags = append(out.ReplicaTags, kmsapi.Tag{TagKey: t.Key, TagValue: t.Value})
	}
	return out, nil
}

func (s *Service) updatePrimaryRegion(ctx context.Context, c *Call, in *kmsapi.UpdatePrimaryRegionRequest) (*kmsapi.UpdatePrimaryRegionResponse, error) {
	k, err := s.admit(ctx, c, &demand{keyID: in.KeyId, conditions: []condition{{"kms:PrimaryRegion", []string{in.PrimaryRegion}}}})
	if err != nil {
		return nil, err
	}
	if k.PrimaryRegion != k.Region {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s is not a multi-region primary key.", k.arn)
	}
	if in.PrimaryRegion == k.Region {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "%s is the primary Region already.", in.PrimaryRegion)
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		next, ok := tx.Key(in.PrimaryRegion, k.ID)
		if !ok {
			return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key '%s' does not exist", s.keyARN(in.PrimaryRegion, k.ID))
		}
		if err := checkState(c.op, s.keyARN(next.Region, next.ID), s.keyState(tx, next)); err != nil {
			return err
		}
		now, ok := tx.Key(k.Region, k.ID)
		if !ok || now.PrimaryRegion != now.Region {
			return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s is not a multi-region primary key.", k.arn)
		}
		for _, replica := range tx.KeyReplicas(k.ID) {
			row := *replica
			row.PrimaryRegion = in.PrimaryRegion
			moveRotation(&row, now)
			if err := tx.PutKey(&row); err != nil {
				return err
			}
		}
		return nil
	})
	return &kmsapi.UpdatePrimaryRegionResponse{}, err
}

// moveRotation gives the rotation to the new primary and takes it from the
// others.
func moveRotation(row, old *store.Key) {
	if row.Region == row.PrimaryRegion {
		row.RotationPeriodDays, row.NextRotation, row.OnDemandRotations = old.RotationPeriodDays, old.NextRotation, old.OnDemandRotations
		return
	}
	row.RotationPeriodDays, row.OnDemandRotations = 0, 0
	row.NextRotation = time.Time{}
}

// describeReplicas is MultiRegionConfiguration of a key.
func (s *Service) describeReplicas(view reader, row *store.Key) *kmsapi.MultiRegionConfiguration {
	if row.PrimaryRegion == "" {
		return nil
	}
	out := &kmsapi.MultiRegionConfiguration{MultiRegionKeyType: kmsapi.MultiRegionKeyTypeReplica, ReplicaKeys: []kmsapi.MultiRegionKey{}}
	if row.Region == row.PrimaryRegion {
		out.MultiRegionKeyType = kmsapi.MultiRegionKeyTypePrimary
	}
	out.PrimaryKey = &kmsapi.MultiRegionKey{Arn: s.keyARN(row.PrimaryRegion, row.ID), Region: row.PrimaryRegion}
	for _, r := range view.KeyReplicas(row.ID) {
		if r.Region != row.PrimaryRegion {
			out.ReplicaKeys = append(out.ReplicaKeys, kmsapi.MultiRegionKey{Arn: s.keyARN(r.Region, r.ID), Region: r.Region})
		}
	}
	return out
}
