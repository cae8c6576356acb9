package kms

import (
	"context"
	"slices"
	"time"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// The rows of a multi-Region key have one ID and share their versions: a
// ciphertext of one decrypts in every Region, since it names no Region. Each
// row has a description, policy, tags, aliases, grants and state of its own.

func (s methods) ReplicateKey(ctx context.Context, c *journal.Call, in *kmsapi.ReplicateKeyRequest) (*kmsapi.ReplicateKeyResponse, error) {
	tags, err := newTags(in.Tags)
	if err != nil {
		return nil, err
	}
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId, Conditions: append(access.TagConditions(tags),
		access.Says("kms:ReplicaRegion", in.ReplicaRegion))})
	if err != nil {
		return nil, err
	}
	if k.PrimaryRegion != k.Region {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s is not a multi-region primary key.", k.ARN)
	}
	if !slices.Contains(s.Regions, in.ReplicaRegion) {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "ReplicaRegion %s is not a Region of this service.", in.ReplicaRegion)
	}
	row := *k.Key
	row.Region, row.Description, row.Tags = in.ReplicaRegion, in.Description, tags
	if err := s.authoriseReplica(c, &row, in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	if row.Policy, err = s.NewPolicy(ctx, c, in.Policy, in.BypassPolicyLockoutSafetyCheck, &row); err != nil {
		return nil, err
	}
	row.Created, row.Creator, row.State = s.Now(), c.Caller.Principal.DisplayARN(), kmsapi.KeyStateEnabled
	row.RotationPeriodDays, row.OnDemandRotations = 0, 0
	row.NextRotation = time.Time{} // the primary's row holds the rotation
	var metadata *kmsapi.KeyMetadata
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		if _, ok := tx.Key(row.Region, row.ID); ok {
			return kmsapi.Errorf(kmsapi.CodeAlreadyExistsException, "Key %s already exists in Region %s.", k.ARN, row.Region)
		}
		if row.Origin == kmsapi.OriginTypeExternal {
			s.ReflectImport(tx, &row, false)
		}
		if err := s.PutNewKey(tx, &row); err != nil {
			return err
		}
		metadata = s.metadata(tx, &row)
		metadata.KeyState, metadata.Enabled = kmsapi.KeyStateCreating, false // as AWS answers; the replica is ready by then
		c.Respond(journal.KeyElements{Replica: journal.MetadataElement(metadata), ReplicaPolicy: row.Policy})
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := &kmsapi.ReplicateKeyResponse{ReplicaKeyMetadata: metadata, ReplicaPolicy: row.Policy}
	for _, t := range tags {
		out.ReplicaTags = append(out.ReplicaTags, kmsapi.Tag{TagKey: t.Key, TagValue: t.Value})
	}
	return out, nil
}

// admitMaterial is admit for a change of imported material, which a multi-Region
// key has in common: the caller needs the permission on the key of every Region,
// since each has a policy.
func (s *Service) admitMaterial(ctx context.Context, c *journal.Call, d *access.Demand) (*access.Key, error) {
	k, err := s.Admit(ctx, c, d)
	if err != nil || k.PrimaryRegion == "" {
		return k, err
	}
	for _, row := range c.View.KeyReplicas(k.ID) {
		if row.Region == k.Region {
			continue
		}
		other := *d
		other.KeyID = s.KeyARN(row.Region, row.ID)
		if err := s.AuthoriseRow(c, &other, row, ""); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// authoriseReplica decides about what ReplicateKey needs besides kms:ReplicateKey
// on the primary key: kms:CreateKey in the Region of the replica, and
// kms:TagResource there if it has tags.
// https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-auth.html
func (s *Service) authoriseReplica(c *journal.Call, row *store.Key, bypass *bool) error {
	d := &access.Demand{Action: keys.ActionNamed("CreateKey"), Region: row.Region, Conditions: newKeyConditions(row, bypass)}
	if err := s.AuthoriseAccount(c, d); err != nil {
		return err
	}
	return s.AuthoriseTags(c, row)
}

func (s methods) UpdatePrimaryRegion(ctx context.Context, c *journal.Call, in *kmsapi.UpdatePrimaryRegionRequest) (*kmsapi.UpdatePrimaryRegionResponse, error) {
	conditions := []access.Condition{access.Says("kms:PrimaryRegion", in.PrimaryRegion)}
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId, Conditions: conditions})
	if err != nil {
		return nil, err
	}
	if k.PrimaryRegion != k.Region {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s is not a multi-region primary key.", k.ARN)
	}
	if in.PrimaryRegion == k.Region {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "%s is the primary Region already.", in.PrimaryRegion)
	}
	if next, ok := c.View.Key(in.PrimaryRegion, k.ID); ok {
		// The caller needs the permission on both keys: each has a policy.
		d := &access.Demand{KeyID: s.KeyARN(next.Region, next.ID), Conditions: conditions}
		if err := s.AuthoriseRow(c, d, next, ""); err != nil {
			return nil, err
		}
	}
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		next, ok := tx.Key(in.PrimaryRegion, k.ID)
		if !ok {
			return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key '%s' does not exist", s.KeyARN(in.PrimaryRegion, k.ID))
		}
		if err := access.CheckState(c.Op, s.KeyARN(next.Region, next.ID), s.KeyState(tx, next)); err != nil {
			return err
		}
		now, ok := tx.Key(k.Region, k.ID)
		if !ok || now.PrimaryRegion != now.Region {
			return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s is not a multi-region primary key.", k.ARN)
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
func (s *Service) describeReplicas(view journal.Reader, row *store.Key) *kmsapi.MultiRegionConfiguration {
	if row.PrimaryRegion == "" {
		return nil
	}
	out := &kmsapi.MultiRegionConfiguration{MultiRegionKeyType: kmsapi.MultiRegionKeyTypeReplica, ReplicaKeys: []kmsapi.MultiRegionKey{}}
	if row.Region == row.PrimaryRegion {
		out.MultiRegionKeyType = kmsapi.MultiRegionKeyTypePrimary
	}
	out.PrimaryKey = &kmsapi.MultiRegionKey{Arn: s.KeyARN(row.PrimaryRegion, row.ID), Region: row.PrimaryRegion}
	for _, r := range view.KeyReplicas(row.ID) {
		if r.Region != row.PrimaryRegion {
			out.ReplicaKeys = append(out.ReplicaKeys, kmsapi.MultiRegionKey{Arn: s.KeyARN(r.Region, r.ID), Region: r.Region})
		}
	}
	return out
}
