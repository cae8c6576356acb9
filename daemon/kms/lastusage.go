package kms

import (
	"context"
	"sync"

	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// usages remember the last use of each key until FlushUsage writes them: a
// crash loses what is newer than the last flush.
type usages struct {
	mu   sync.Mutex
	last map[usageKey]*store.Usage // guarded by mu
}

type usageKey struct{ region, keyID string }

// note remembers that a call used the key.
func (u *usages) note(row *store.Usage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = map[usageKey]*store.Usage{}
	}
	u.last[usageKey{row.Region, row.KeyID}] = row
}

// get returns what is not written yet.
func (u *usages) get(region, keyID string) (*store.Usage, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	row, ok := u.last[usageKey{region, keyID}]
	return row, ok
}

// FlushUsage writes what was noted since the last flush.
func (s *Service) FlushUsage(ctx context.Context) error {
	s.usages.mu.Lock()
	noted := s.usages.last
	s.usages.last = nil
	s.usages.mu.Unlock()
	if len(noted) == 0 {
		return nil
	}
	return s.store.Update(ctx, func(tx *store.Tx) error {
		for _, row := range noted {
			if _, ok := tx.Key(row.Region, row.KeyID); !ok {
				continue // deleted since
			}
			if err := tx.PutUsage(row); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) getKeyLastUsage(ctx context.Context, c *Call, in *kmsapi.GetKeyLastUsageRequest) (*kmsapi.GetKeyLastUsageResponse, error) {
	k, err := s.admit(ctx, c, &demand{keyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	out := &kmsapi.GetKeyLastUsageResponse{
		KeyId: k.arn, KeyCreationDate: k.Created, TrackingStartDate: k.Created,
	}
	row, ok := s.usages.get(k.Region, k.ID)
	if !ok {
		row, ok = c.view.Usage(k.Region, k.ID)
	}
	if ok {
		out.KeyLastUsage = &kmsapi.KeyLastUsageData{
			Operation: kmsapi.KeyLastUsageTrackingOperation(row.Operation), Timestamp: row.Time,
			KmsRequestId: row.RequestID, CloudTrailEventId: row.EventID,
		}
	}
	return out, nil
}
