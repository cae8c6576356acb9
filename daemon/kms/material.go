package kms

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cmkd/backends"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

func (s *Service) deleteImportedKeyMaterial(ctx context.Context, c *Call, in *kmsapi.DeleteImportedKeyMaterialRequest) (*kmsapi.DeleteImportedKeyMaterialResponse, error) {
	k, err := s.admitMaterial(ctx, c, &demand{keyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	out := &kmsapi.DeleteImportedKeyMaterialResponse{KeyId: k.arn, KeyMaterialId: in.KeyMaterialId}
	v, ok := k.view.CurrentVersion(k.ID)
	if in.KeyMaterialId != "" {
		if v, ok = k.view.Version(k.ID, in.KeyMaterialId); !ok {
			return nil, errNoMaterial(in.KeyMaterialId)
		}
	}
	if !ok {
		return out, nil // nothing was ever imported
	}
	out.KeyMaterialId = v.MaterialID
	return out, s.dropMaterial(ctx, k.Key, v, nil)
}

// dropMaterial takes imported material out of the token. The rows change
// first, with the intent that explains the object that is left. expiry is on
// record with them, if that is why: material that was imported anew since stays.
func (s *Service) dropMaterial(ctx context.Context, key *store.Key, v *store.Version, expiry *event) error {
	b, err := s.available(key)
	if err != nil {
		return err
	}
	intent := s.destroyIntent(key, v)
	dropped := false
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		now, ok := tx.Version(v.KeyID, v.MaterialID)
		if !ok || now.ImportState != string(kmsapi.ImportStateImported) || expiry != nil && !s.expired(now) {
			return nil
		}
		dropped = true
		intent.CKAID = now.CKAID
		if err := tx.PutIntent(intent); err != nil {
			return err
		}
		if now.State == string(kmsapi.KeyMaterialStatePendingRotation) {
			tx.DeleteVersion(now.KeyID, now.Number)
		} else {
			gone := *now
			gone.ImportState = string(kmsapi.ImportStatePendingImport)
			gone.ValidTo, gone.ExpirationModel = time.Time{}, ""
			if err := tx.PutVersion(&gone); err != nil {
				return err
			}
		}
		if err := s.reflectReplicas(tx, key.ID, nil); err != nil {
			return err
		}
		return s.announce(ctx, expiry)
	})
	if err == nil && dropped {
		s.undo(ctx, b, intent)
	}
	return err
}

// rotateImported makes the material that is pending rotation current.
func (s *Service) rotateImported(ctx context.Context, c *Call, k *key) error {
	return s.store.Update(ctx, func(tx *store.Tx) error {
		now, ok := tx.Key(k.Region, k.ID)
		if !ok {
			return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key '%s' does not exist", k.arn)
		}
		if err := checkState(c.op, k.arn, s.keyState(tx, now)); err != nil {
			return err
		}
		for _, v := range tx.Versions(k.ID) {
			if v.State == string(kmsapi.KeyMaterialStatePendingRotation) && v.ImportState == string(kmsapi.ImportStateImported) {
				fresh := *v
				fresh.RotationType, fresh.Rotated = "ON_DEMAND", s.now()
				if err := s.promote(ctx, tx, k.Key, &fresh); err != nil {
					return err
				}
				return s.reflectReplicas(tx, k.ID, nil)
			}
		}
		return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "No available key material pending rotation for the key: %s.", k.arn)
	})
}

// ExpireDue takes out imported material whose time is over, and import
// parameters that nobody used, and returns the number of materials. While the
// clock is not to be trusted it takes out nothing: see [Service.Held]. One that
// fails does not stop the others.
func (s *Service) ExpireDue(ctx context.Context) (int, error) {
	if s.Held() {
		return 0, nil
	}
	expired := 0
	var errs []error
	view := s.store.View()
	for v := range view.AllVersions() {
		if v.ImportState != string(kmsapi.ImportStateImported) || !s.expired(v) {
			continue
		}
		replicas := view.KeyReplicas(v.KeyID)
		if len(replicas) == 0 {
			continue
		}
		e := s.expiry(replicas, v)
		if err := s.dropMaterial(ctx, replicas[0], v, e); err != nil {
			errs = append(errs, fmt.Errorf("expiring material of key %s: %w", v.KeyID, err), s.failed(ctx, e, err))
			continue
		}
		s.acts.forget(e)
		expired++
	}
	for p := range view.AllImportParameters() {
		if s.now().Before(p.ValidTo) {
			continue
		}
		if err := s.discard(ctx, p); err != nil {
			errs = append(errs, err)
		}
	}
	return expired, errors.Join(errs...)
}

// expired reports whether the time of imported material is over.
func (s *Service) expired(v *store.Version) bool {
	return !v.ValidTo.IsZero() && !s.now().Before(v.ValidTo)
}

// discard destroys the wrapping pair of an import that nobody finished.
func (s *Service) discard(ctx context.Context, p *store.ImportParameters) error {
	key, ok := s.store.View().Key(p.Region, p.KeyID)
	if !ok {
		return nil // deleted since, with its parameters
	}
	e := s.keyEvent(eventExpireImport, key, p.ValidTo)
	e.act += " " + backends.KeyID(p.CKAID).String()
	if err := s.destroyPair(ctx, key, p, e); err != nil {
		return errors.Join(err, s.failed(ctx, e, err))
	}
	s.acts.forget(e)
	return nil
}

func (s *Service) destroyPair(ctx context.Context, key *store.Key, p *store.ImportParameters, e *event) error {
	b, err := s.available(key)
	if err != nil {
		return err
	}
	intent, dropped := s.pairIntent(key, p), false
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		if dropped = tx.DeleteImportParameters(p.TokenHash); !dropped {
			return nil // used since
		}
		if err := tx.PutIntent(intent); err != nil {
			return err
		}
		return s.announce(ctx, e)
	})
	if err == nil && dropped {
		s.undo(ctx, b, intent) // on record, it has happened: the object is left to reconciliation
	}
	return err
}
