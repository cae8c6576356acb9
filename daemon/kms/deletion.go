package kms

import (
	"context"
	"strconv"
	"time"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

const (
	minDeletionDays = 7
	maxDeletionDays = 30
)

func (s methods) ScheduleKeyDeletion(ctx context.Context, c *journal.Call, in *kmsapi.ScheduleKeyDeletionRequest) (*kmsapi.ScheduleKeyDeletionResponse, error) {
	days := int(in.PendingWindowInDays)
	d := &access.Demand{KeyID: in.KeyId}
	if days == 0 {
		days, d.Presets = keys.DeletionDays, []string{"kms:ScheduleKeyDeletionPendingWindowInDays"}
	}
	if days < minDeletionDays || days > maxDeletionDays {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
			"PendingWindowInDays must be between %d and %d", minDeletionDays, maxDeletionDays)
	}
	out := &kmsapi.ScheduleKeyDeletionResponse{PendingWindowInDays: int32(days)}
	d.Conditions = []access.Condition{access.Says("kms:ScheduleKeyDeletionPendingWindowInDays", strconv.Itoa(days))}
	imports := &keyring.Cleanup{Ring: s.Keyring}
	defer imports.Done()
	var token store.Key
	err := s.changeTx(ctx, c, d, func(tx *store.Tx, row *store.Key) (err error) {
		token = *row
		if err := s.DropImports(tx, row, 0, imports); err != nil { // nothing is imported to such a key
			return err
		}
		row.State = kmsapi.KeyStatePendingDeletion
		row.Deletion = s.Now().Add(time.Duration(days) * keyring.Day)
		if row.Region == row.PrimaryRegion && len(tx.KeyReplicas(row.ID)) > 1 {
			row.State = kmsapi.KeyStatePendingReplicaDeletion
			row.Deletion = time.Time{}
		}
		row.PendingWindowDays = days
		out.KeyState = row.State
		out.DeletionDate = row.Deletion
		elements := journal.KeyElements{KeyID: s.KeyARN(row.Region, row.ID), KeyState: row.State, Window: days}
		if !row.Deletion.IsZero() {
			elements.DeletionDate = row.Deletion.UTC().Format(time.RFC3339)
		}
		c.Respond(elements)
		return nil
	})
	out.KeyId = c.ARN
	if err == nil && len(imports.Intents) > 0 {
		if b, err := s.Available(&token); err == nil { // else reconciliation destroys them
			imports.Run(ctx, b)
		}
	}
	return out, err
}

func (s methods) CancelKeyDeletion(ctx context.Context, c *journal.Call, in *kmsapi.CancelKeyDeletionRequest) (*kmsapi.CancelKeyDeletionResponse, error) {
	err := s.changeTx(ctx, c, &access.Demand{KeyID: in.KeyId}, func(tx *store.Tx, row *store.Key) error {
		row.State = kmsapi.KeyStateDisabled
		if row.Origin == kmsapi.OriginTypeExternal && !s.HasMaterial(tx, row.ID) {
			row.State = kmsapi.KeyStatePendingImport
		}
		row.Deletion, row.PendingWindowDays = time.Time{}, 0
		return nil
	})
	return &kmsapi.CancelKeyDeletionResponse{KeyId: c.ARN}, err
}
