package access

import (
	"context"
	"sync"

	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
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

// NoteUse remembers that the call used its keys.
func (s *Access) NoteUse(c *journal.Call) { s.usages.note(c) }

// LastUse is the last use of the key, written or not.
func (s *Access) LastUse(view *store.View, key *store.Key) (*store.Usage, bool) {
	row, ok := s.usages.get(key.Region, key.ID)
	if written, there := view.Usage(key.Region, key.ID); there && (!ok || s.Node != "" && written.Time.After(row.Time)) {
		return written, true
	}
	return row, ok
}

// FlushUsage writes what was noted since the last flush.
func (s *Access) FlushUsage(ctx context.Context) error {
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
