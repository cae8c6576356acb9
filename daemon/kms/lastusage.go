package kms

import (
	"context"
	"sync"

	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// usages remember the last use of each key until FlushUsage writes them: a
// crash loses what is newer than the last flush.
type usages struct {
	mu   sync.Mutex
	last map[usageKey]store.Usage // guarded by mu
}

type usageKey struct{ region, keyID string }

// note remembers that the call used its keys.
func (u *usages) note(c *journal.Call) {
	if len(c.Used) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = map[usageKey]store.Usage{}
	}
	for _, k := range c.Used {
		u.last[usageKey{k.Region, k.ID}] = store.Usage{
			Region: k.Region, KeyID: k.ID, Operation: keys.Operation(c.Op.Operation()), Time: c.Record.EventTime,
			RequestID: c.Record.RequestID, EventID: c.Record.EventID, Principal: c.Record.UserIdentity.ARN,
		}
	}
}

// get returns what is not written yet.
func (u *usages) get(region, keyID string) (*store.Usage, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	row, ok := u.last[usageKey{region, keyID}]
	return &row, ok
}

// FlushUsage writes what was noted since the last flush.
func (s *Service) FlushUsage(ctx context.Context) error {
	noted := s.usages.take()
	if len(noted) == 0 {
		return nil
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		for _, row := range noted {
			if _, ok := tx.Key(row.Region, row.KeyID); !ok {
				continue // deleted since
			}
			if now, ok := tx.Usage(row.Region, row.KeyID); ok && s.Node != "" && now.Time.After(row.Time) {
				continue // by another node
			}
			if err := tx.PutUsage(&row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.usages.giveBack(noted)
	}
	return err
}

// take takes out what is not written yet.
func (u *usages) take() map[usageKey]store.Usage {
	u.mu.Lock()
	defer u.mu.Unlock()
	noted := u.last
	u.last = nil
	return noted
}

// giveBack is for what could not be written: newer uses count.
func (u *usages) giveBack(noted map[usageKey]store.Usage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, row := range u.last {
		noted[key] = row
	}
	u.last = noted
}

func (s methods) GetKeyLastUsage(ctx context.Context, c *journal.Call, in *kmsapi.GetKeyLastUsageRequest) (*kmsapi.GetKeyLastUsageResponse, error) {
	k, err := s.admit(ctx, c, &demand{keyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	out := &kmsapi.GetKeyLastUsageResponse{
		KeyId: k.arn, KeyCreationDate: k.Created, TrackingStartDate: k.Created,
	}
	row, ok := s.usages.get(k.Region, k.ID)
	if written, there := c.View.Usage(k.Region, k.ID); there && (!ok || s.Node != "" && written.Time.After(row.Time)) {
		row, ok = written, true
	}
	if ok {
		out.KeyLastUsage = &kmsapi.KeyLastUsageData{
			Operation: row.Operation, Timestamp: row.Time,
			KmsRequestId: row.RequestID, CloudTrailEventId: row.EventID,
		}
	}
	return out, nil
}
