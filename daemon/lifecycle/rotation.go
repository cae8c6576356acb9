package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// maxOnDemandRotations is how often a key is rotated on demand.
// https://docs.aws.amazon.com/kms/latest/developerguide/rotating-keys-on-demand.html
const maxOnDemandRotations = 25

// Primary is the row that holds the rotation of a multi-Region key.
func (s *Lifecycle) Primary(view *store.View, row *store.Key) *store.Key {
	if row.PrimaryRegion != "" && row.PrimaryRegion != row.Region {
		if p, ok := view.Key(row.PrimaryRegion, row.ID); ok {
			return p
		}
	}
	return row
}

// Rotating returns the intent of the rotation of the key that is under way,
// automatic or on demand, or nil. One that has failed is over, even if its material may
// still come.
func (s *Lifecycle) Rotating(view *store.View, keyID string) *store.Intent {
	for i := range view.Intents() {
		if i.KeyID == keyID && i.Action == "create" && !i.Imported && !s.Late.Expects(i.CKAID) {
			return i
		}
	}
	return nil
}

// RotateOnDemand makes a new material of an admitted key current.
func (s *Lifecycle) RotateOnDemand(ctx context.Context, c *journal.Call, k *access.Key) error {
	if k.OnDemandRotations >= maxOnDemandRotations {
		return errRotationLimit(k.ARN)
	}
	// AWS documents it for an automatic rotation, too:
	// https://docs.aws.amazon.com/kms/latest/APIReference/API_RotateKeyOnDemand.html
	if s.Rotating(s.Store.View(), k.ID) != nil {
		return kmsapi.Errorf(kmsapi.CodeConflictException, "%s is being rotated.", k.ARN)
	}
	return s.rotate(ctx, c, k.Key, kmsapi.RotationTypeOnDemand)
}

func errRotationLimit(arn string) error {
	return kmsapi.Errorf(kmsapi.CodeLimitExceededException,
		"The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: %s", arn)
}

// rotate makes a new key material in the token and makes it current, both or
// neither. Old materials go on decrypting.
func (s *Lifecycle) rotate(ctx context.Context, c *journal.Call, row *store.Key, kind keys.Rotation) error {
	b, err := s.RouteNew(row.Token, row.Spec)
	if err != nil {
		return err
	}
	versions := s.Store.View().Versions(row.ID)
	if len(versions) == 0 {
		return fmt.Errorf("key %s has no material to rotate", row.ID)
	}
	fresh := keyring.NewVersion(row.ID, versions[len(versions)-1].Number+1, s.Now())
	fresh.RotationType, fresh.Rotated = kind, fresh.Created
	intent := &store.Intent{
		CKAID: fresh.CKAID, Action: "create", Region: row.Region, KeyID: row.ID, Version: fresh.Number,
		Token: row.Token, Spec: row.Spec, Usage: row.Usage, Rotation: kind, Created: s.Now(),
	}
	_, err = s.Generate(ctx, c, b, intent, func(tx *store.Tx, _ *backends.CreateKeyAnswer) error {
		return s.promote(ctx, tx, row, fresh)
	})
	return err
}

// promote makes the version current, the key's row tell of the rotation, and the
// trail too.
func (s *Lifecycle) promote(ctx context.Context, tx *store.Tx, was *store.Key, fresh *store.Version) error {
	now, ok := tx.Key(was.Region, was.ID)
	if !ok || fresh.RotationType == kmsapi.RotationTypeAutomatic && !rotationDue(now, fresh.Rotated) {
		return journal.ErrOutdated
	}
	row := *now
	if fresh.RotationType == kmsapi.RotationTypeOnDemand {
		if row.OnDemandRotations >= maxOnDemandRotations {
			return errRotationLimit(s.KeyARN(row.Region, row.ID))
		}
		row.OnDemandRotations++
	} else {
		row.NextRotation = fresh.Rotated.Add(time.Duration(row.RotationPeriodDays) * keyring.Day)
	}
	old, ok := tx.CurrentVersion(row.ID)
	if ok {
		if old.Number >= fresh.Number && !fresh.Imported {
			return journal.ErrOutdated
		}
		demoted := *old
		demoted.State = kmsapi.KeyMaterialStateNonCurrent
		if err := tx.PutVersion(&demoted); err != nil {
			return err
		}
	}
	current := *fresh
	current.State = kmsapi.KeyMaterialStateCurrent
	if err := tx.PutVersion(&current); err != nil {
		return err
	}
	if err := tx.PutKey(&row); err != nil {
		return err
	}
	return s.Announce(ctx, tx, s.Rotation(&row, old, fresh))
}

// RotateDue rotates the keys whose time has come and returns how many. A key
// that was not rotated for several periods is rotated once. One that fails does
// not stop the others. A key that was rotated while the clock was ahead, and is
// due a period after that, becomes due a period from now.
func (s *Lifecycle) RotateDue(ctx context.Context) (int, error) {
	now := s.Now()
	rotated := 0
	var errs []error
	for row := range s.Store.View().AllKeys() {
		if !rotates(row) {
			continue
		}
		if row.NextRotation.After(latestRotation(row, now).Add(keyring.ClockJump)) {
			errs = append(errs, s.bringForward(ctx, row))
			continue
		}
		if !rotationDue(row, now) {
			continue
		}
		e := s.KeyEvent(journal.EventRotate, row, row.NextRotation)
		e.RotationType, e.KeyOrigin = kmsapi.RotationTypeAutomatic, row.Origin
		if _, err := s.Available(row); err != nil { // it is due when the token is back
			errs = append(errs, s.Failed(ctx, e, err))
			continue
		}
		done, err := s.rotateDue(ctx, row)
		if err != nil {
			errs = append(errs, fmt.Errorf("rotating key %s: %w", e.Arns[0], err), s.Failed(ctx, e, err))
			continue
		}
		s.Forget(e)
		if !done {
			continue
		}
		s.Log.LogAttrs(ctx, slog.LevelInfo, "key rotated", slog.String("key", s.KeyARN(row.Region, row.ID)))
		rotated++
	}
	return rotated, errors.Join(errs...)
}

// rotates reports whether the service rotates the key of its own accord, at some time.
func rotates(row *store.Key) bool {
	return row.State == kmsapi.KeyStateEnabled && row.RotationPeriodDays > 0 &&
		(row.PrimaryRegion == "" || row.PrimaryRegion == row.Region)
}

// rotationDue reports whether that time has come.
func rotationDue(row *store.Key, now time.Time) bool {
	return rotates(row) && !now.Before(row.NextRotation)
}

// rotateDue rotates a key whose time has come, unless that has changed meanwhile.
func (s *Lifecycle) rotateDue(ctx context.Context, row *store.Key) (done bool, err error) {
	for range journal.MaxCreations {
		if err := s.rotate(ctx, nil, row, kmsapi.RotationTypeAutomatic); !errors.Is(err, journal.ErrOutdated) && !errors.Is(err, keyring.ErrUnanswered) {
			return err == nil, err
		}
		view := s.Store.View()
		now, ok := view.Key(row.Region, row.ID)
		if !ok {
			return false, nil
		}
		if row = s.Primary(view, now); !rotationDue(row, s.Now()) {
			return false, nil
		}
	}
	return false, journal.ErrOutdated
}

// latestRotation is when the key is due at the latest: a period from now.
func latestRotation(row *store.Key, now time.Time) time.Time {
	return now.Add(time.Duration(row.RotationPeriodDays) * keyring.Day)
}

// bringForward makes the key due a period from now.
func (s *Lifecycle) bringForward(ctx context.Context, row *store.Key) error {
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		now, ok := tx.Key(row.Region, row.ID)
		if !ok || now.RotationPeriodDays == 0 {
			return nil
		}
		earlier := *now
		if latest := latestRotation(now, s.Now()); earlier.NextRotation.After(latest) {
			earlier.NextRotation = latest
		}
		return tx.PutKey(&earlier)
	})
	if err != nil {
		return fmt.Errorf("bringing forward the rotation of key %s: %w", s.KeyARN(row.Region, row.ID), err)
	}
	s.Log.LogAttrs(ctx, slog.LevelWarn, "the clock was set back: the next rotation is brought forward", slog.String("key", s.KeyARN(row.Region, row.ID)))
	return nil
}
