package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// DropMaterial takes imported material out of the token. The rows change
// first, with the intent that explains the object that is left. expiry is on
// record with them, if that is why: material that was imported again since stays.
func (s *Lifecycle) DropMaterial(ctx context.Context, c *journal.Call, key *store.Key, v *store.Version, expiry *journal.Event) error {
	b, err := s.Available(key)
	if err != nil {
		return err
	}
	object := &keyring.Cleanup{Ring: s.Keyring}
	defer object.Done()
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		now, ok := tx.Version(v.KeyID, v.MaterialID)
		if !ok || now.ImportState != kmsapi.ImportStateImported || expiry != nil && !s.Expired(now) {
			return nil
		}
		if err := object.Add(tx, s.DestroyIntent(key, now)); err != nil {
			return err
		}
		if err := takeOutMaterial(tx, now); err != nil {
			return err
		}
		if err := s.reflectReplicas(tx, key.ID, nil, false); err != nil {
			return err
		}
		return s.Announce(ctx, tx, expiry)
	})
	if err == nil {
		object.Run(ctx, b)
	}
	return err
}

// takeOutMaterial makes the rows say that the material is gone from the token.
func takeOutMaterial(tx *store.Tx, v *store.Version) error {
	if v.State == kmsapi.KeyMaterialStatePendingRotation {
		return keyring.Discard(tx, v)
	}
	gone := *v
	keyring.ClearImport(&gone)
	return tx.PutVersion(&gone)
}

// RotateImported makes the material that is pending rotation current.
func (s *Lifecycle) RotateImported(ctx context.Context, c *journal.Call, k *access.Key) error {
	return s.Commit(ctx, c, func(tx *store.Tx) error {
		if _, err := s.Readmit(tx, c, k); err != nil {
			return err
		}
		v := s.PendingRotation(tx, k.ID)
		if v == nil {
			return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "No available key material pending rotation for the key: %s.", k.ARN)
		}
		fresh := *v
		fresh.RotationType, fresh.Rotated = kmsapi.RotationTypeOnDemand, s.Now()
		if err := s.promote(ctx, tx, k.Key, &fresh); err != nil {
			return err
		}
		return s.reflectReplicas(tx, k.ID, nil, false)
	})
}

// ExpireDue takes out imported material whose time is over, and import
// parameters that nobody used, and returns the number of materials. While the
// clock is not to be trusted it takes out nothing: see [Service.Held]. One that
// fails does not stop the others.
func (s *Lifecycle) ExpireDue(ctx context.Context) (int, error) {
	if s.Held() {
		return 0, nil
	}
	expired := 0
	var errs []error
	view := s.Store.View()
	for v := range view.AllVersions() {
		if v.ImportState != kmsapi.ImportStateImported || !s.Expired(v) {
			continue
		}
		replicas := view.KeyReplicas(v.KeyID)
		if len(replicas) == 0 {
			continue
		}
		e := s.Expiry(replicas, v)
		if err := s.DropMaterial(ctx, nil, replicas[0], v, e); err != nil {
			errs = append(errs, fmt.Errorf("expiring material of key %s: %w", v.KeyID, err), s.Failed(ctx, e, err))
			continue
		}
		s.Forget(e)
		expired++
	}
	for p := range view.AllImportParameters() {
		if s.Now().Before(p.ValidTo) {
			continue
		}
		if err := s.discardPair(ctx, p); err != nil {
			errs = append(errs, err)
		}
	}
	return expired, errors.Join(errs...)
}

// discardPair destroys the wrapping pair of an import that nobody finished.
func (s *Lifecycle) discardPair(ctx context.Context, p *store.ImportParameters) error {
	key, ok := s.Store.View().Key(p.Region, p.KeyID)
	if !ok {
		return nil // deleted since, with its parameters
	}
	e := s.KeyEvent(journal.EventExpireImport, key, p.ValidTo)
	e.Act += " " + keyring.ObjectID(p.CKAID).String()
	if err := s.destroyPair(ctx, key, p, e); err != nil {
		return errors.Join(err, s.Failed(ctx, e, err))
	}
	s.Forget(e)
	return nil
}

func (s *Lifecycle) destroyPair(ctx context.Context, key *store.Key, p *store.ImportParameters, e *journal.Event) error {
	b, err := s.Available(key)
	if err != nil {
		return err
	}
	pair := &keyring.Cleanup{Ring: s.Keyring}
	defer pair.Done()
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		if !tx.DeleteImportParameters(p.TokenHash) {
			return nil // used since
		}
		if err := pair.Add(tx, s.PairIntent(key, p)); err != nil {
			return err
		}
		return s.Announce(ctx, tx, e)
	})
	if err == nil {
		pair.Run(ctx, b) // recorded, it has happened: the object is left to reconciliation
	}
	return err
}
