package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// DeleteDue destroys the keys whose waiting period is over: every version in
// the token, which proves that nothing is left, then the rows. It returns the
// number of keys deleted.
// While the clock is not to be trusted it deletes nothing: see [Service.Held].
func (s *Lifecycle) DeleteDue(ctx context.Context) (int, error) {
	if s.Held() {
		return 0, nil
	}
	deleted := 0
	var errs []error
	for key := range s.Store.View().AllKeys() {
		if !s.deletionDue(key) {
			continue
		}
		e := s.KeyEvent(journal.EventDelete, key, key.Deletion)
		gone, err := s.deleteKey(ctx, key, e)
		if err != nil {
			errs = append(errs, fmt.Errorf("deleting key %s: %w", e.Arns[0], err))
		}
		if err != nil && !gone {
			errs = append(errs, s.Failed(ctx, e, err))
			continue
		}
		s.Forget(e)
		deleted++
	}
	return deleted, errors.Join(errs...)
}

// deletionDue reports whether the waiting period of a key is over.
func (s *Lifecycle) deletionDue(key *store.Key) bool {
	return key.State == kmsapi.KeyStatePendingDeletion && !key.Deletion.IsZero() && !s.Now().Before(key.Deletion)
}

// deleteKey deletes one key. The rows go first, all at once, with intents that
// explain the objects, and with the record of e: from then on the key is gone,
// its deletion cannot be cancelled, and if the token fails, reconciliation goes
// on. The material of a multi-Region key is destroyed with the last of its
// replicas.
func (s *Lifecycle) deleteKey(ctx context.Context, key *store.Key, e *journal.Event) (gone bool, err error) {
	b, err := s.Available(key)
	if err != nil {
		return false, err
	}
	objects := &keyring.Cleanup{Ring: s.Keyring}
	defer objects.Done()
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		now, ok := tx.Key(key.Region, key.ID)
		if !ok || !s.deletionDue(now) {
			return nil // cancelled since
		}
		gone = true
		if err := objects.Add(tx, s.takeOut(tx, now)...); err != nil {
			return err
		}
		tx.DeleteKey(key.Region, key.ID) // with its aliases, grants and usage
		if err := s.startPrimaryDeletion(tx, key); err != nil {
			return err
		}
		return s.Announce(ctx, tx, e)
	})
	if err != nil || !gone {
		return false, err
	}
	destroyed := 0
	for _, i := range objects.Intents {
		n, err := s.Destroy(ctx, b, i, nil)
		if err != nil {
			return true, err
		}
		destroyed += n
	}
	s.Log.LogAttrs(ctx, slog.LevelInfo, "key deleted", slog.String("key", s.KeyARN(key.Region, key.ID)), slog.Int("objects", destroyed))
	return true, nil
}

// takeOut deletes the rows of what the key has in the token, and returns the
// intents that explain the objects instead.
func (s *Lifecycle) takeOut(tx *store.Tx, key *store.Key) []*store.Intent {
	var intents []*store.Intent
	if len(tx.KeyReplicas(key.ID)) <= 1 {
		for _, v := range tx.Versions(key.ID) {
			intents = append(intents, s.DestroyIntent(key, v))
			tx.DeleteVersion(v.KeyID, v.Number)
			s.Counters.Forget(v)
		}
	}
	for p := range tx.ImportParametersOf(key.Region, key.ID) {
		intents = append(intents, s.PairIntent(key, p))
		tx.DeleteImportParameters(p.TokenHash)
	}
	return intents
}

// startPrimaryDeletion starts the waiting period of a primary whose last
// replica is gone.
func (s *Lifecycle) startPrimaryDeletion(tx *store.Tx, gone *store.Key) error {
	left := tx.KeyReplicas(gone.ID)
	if len(left) != 1 || left[0].State != kmsapi.KeyStatePendingReplicaDeletion {
		return nil
	}
	row := *left[0]
	row.State = kmsapi.KeyStatePendingDeletion
	row.Deletion = s.Now().Add(time.Duration(row.PendingWindowDays) * keyring.Day)
	return tx.PutKey(&row)
}
