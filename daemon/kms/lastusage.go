package kms

import (
	"context"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
)

func (s methods) GetKeyLastUsage(ctx context.Context, c *journal.Call, in *kmsapi.GetKeyLastUsageRequest) (*kmsapi.GetKeyLastUsageResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	out := &kmsapi.GetKeyLastUsageResponse{
		KeyId: k.ARN, KeyCreationDate: k.Created, TrackingStartDate: k.Created,
	}
	if row, ok := s.LastUse(c.View, k.Key); ok {
		out.KeyLastUsage = &kmsapi.KeyLastUsageData{
			Operation: row.Operation, Timestamp: row.Time,
			KmsRequestId: row.RequestID, CloudTrailEventId: row.EventID,
		}
	}
	return out, nil
}
