package kms

import (
	"context"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/lifecycle"
	"cmkd/socket/kmsapi"
)

func (s methods) DeleteImportedKeyMaterial(ctx context.Context, c *journal.Call, in *kmsapi.DeleteImportedKeyMaterialRequest) (*kmsapi.DeleteImportedKeyMaterialResponse, error) {
	k, err := s.admitMaterial(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	out := &kmsapi.DeleteImportedKeyMaterialResponse{KeyId: k.ARN, KeyMaterialId: in.KeyMaterialId}
	v, ok := k.View.CurrentVersion(k.ID)
	if in.KeyMaterialId != "" {
		if v, ok = s.Material(k.View, k.ID, in.KeyMaterialId); !ok {
			return nil, lifecycle.ErrNoMaterial(in.KeyMaterialId)
		}
	}
	if !ok {
		return out, nil // nothing was ever imported
	}
	out.KeyMaterialId = v.MaterialID
	c.Respond(journal.KeyElements{KeyID: k.ARN, KeyMaterialID: v.MaterialID})
	return out, s.DropMaterial(ctx, c, k.Key, v, nil)
}
