package keyring

import (
	"cmp"
	"slices"
	"time"

	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// What imported material is depends on the time: from the moment at which it
// expires it is as if it were deleted, though the job that destroys it in the
// token comes later, and later still while deletions are held.

// maxDiscarded is how many rows of discarded material a key keeps.
const maxDiscarded = 25

// Over reports whether a time, if there is one, has come.
func (s *Keyring) Over(t time.Time) bool { return !t.IsZero() && !s.Now().Before(t) }

// Expired reports whether the time of imported material is over.
func (s *Keyring) Expired(v *store.Version) bool { return s.Over(v.ValidTo) }

// ImportState is ImportState of the material now, "" of material that the token
// made.
func (s *Keyring) ImportState(v *store.Version) kmsapi.ImportState {
	if v.ImportState == kmsapi.ImportStateImported && s.Expired(v) {
		return kmsapi.ImportStatePendingImport
	}
	return v.ImportState
}

// Associated are the versions whose material belongs to the key: all that are or
// were current, and what waits in the token to become so.
func (s *Keyring) Associated(versions []*store.Version) []*store.Version {
	return slices.DeleteFunc(slices.Clone(versions), func(v *store.Version) bool {
		return v.State == keys.Discarded ||
			v.State == kmsapi.KeyMaterialStatePendingRotation && s.ImportState(v) == kmsapi.ImportStatePendingImport
	})
}

// InOrder are the associated versions in the order in which they became current:
// that of their numbers, except for material that was discarded and imported again.
func (s *Keyring) InOrder(versions []*store.Version) []*store.Version {
	list := s.Associated(versions)
	slices.SortStableFunc(list, func(a, b *store.Version) int {
		if waits := cmpWaiting(a, b); waits != 0 {
			return waits
		}
		return a.Rotated.Compare(b.Rotated)
	})
	return list
}

// cmpWaiting puts material that waits for rotation last.
func cmpWaiting(a, b *store.Version) int {
	waits := func(v *store.Version) int {
		if v.State == kmsapi.KeyMaterialStatePendingRotation {
			return 1
		}
		return 0
	}
	return cmp.Compare(waits(a), waits(b))
}

// Material finds an associated version by its KeyMaterialId.
func (s *Keyring) Material(view journal.Reader, keyID, id string) (*store.Version, bool) {
	for _, v := range s.Associated(view.Versions(keyID)) {
		if v.MaterialID == id {
			return v, true
		}
	}
	return nil, false
}

// PendingRotation is the material that waits to become current, nil if there is
// none.
func (s *Keyring) PendingRotation(view journal.Reader, keyID string) *store.Version {
	for _, v := range s.Associated(view.Versions(keyID)) {
		if v.State == kmsapi.KeyMaterialStatePendingRotation {
			return v
		}
	}
	return nil
}

// HasMaterial reports whether every material of the key that is or was current is
// in the token.
func (s *Keyring) HasMaterial(view journal.Reader, keyID string) bool {
	versions := s.Associated(view.Versions(keyID))
	return len(versions) > 0 && !slices.ContainsFunc(versions, func(v *store.Version) bool {
		return s.ImportState(v) == kmsapi.ImportStatePendingImport
	})
}

// Lost reports whether material that the key needs has expired. What was deleted,
// the key's row says.
func (s *Keyring) Lost(view journal.Reader, keyID string) bool {
	return slices.ContainsFunc(view.Versions(keyID), func(v *store.Version) bool {
		return v.State != kmsapi.KeyMaterialStatePendingRotation && s.Expired(v)
	})
}

// Discard takes material that never was current from the key.
func Discard(tx *store.Tx, v *store.Version) error {
	gone := *v
	gone.State = keys.Discarded
	ClearImport(&gone)
	var discarded []*store.Version
	for _, old := range tx.Versions(v.KeyID) {
		if old.State == keys.Discarded {
			discarded = append(discarded, old)
		}
	}
	if len(discarded) >= maxDiscarded {
		oldest := slices.MinFunc(discarded, func(a, b *store.Version) int { return cmp.Compare(a.Number, b.Number) })
		tx.DeleteVersion(oldest.KeyID, oldest.Number)
	}
	return tx.PutVersion(&gone)
}

// ClearImport makes the row say that the material is not in the token.
func ClearImport(v *store.Version) {
	v.ImportState = kmsapi.ImportStatePendingImport
	v.ValidTo, v.ExpirationModel = time.Time{}, ""
}
