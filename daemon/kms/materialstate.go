package kms

import (
	"cmp"
	"slices"
	"time"

	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// What imported material is depends on the time: from the moment at which it
// expires it is as if it were deleted, though the job that destroys it in the
// token comes later, and later still while deletions are held.

// maxDiscarded is how many rows of discarded material a key keeps.
const maxDiscarded = 25

// over reports whether a time, if there is one, has come.
func (s *Keyring) over(t time.Time) bool { return !t.IsZero() && !s.now().Before(t) }

// expired reports whether the time of imported material is over.
func (s *Keyring) expired(v *store.Version) bool { return s.over(v.ValidTo) }

// importState is ImportState of the material now, "" of material that the token
// made.
func (s *Keyring) importState(v *store.Version) kmsapi.ImportState {
	if v.ImportState == kmsapi.ImportStateImported && s.expired(v) {
		return kmsapi.ImportStatePendingImport
	}
	return v.ImportState
}

// associated are the versions whose material belongs to the key: all that are or
// were current, and what waits in the token to become so.
func (s *Keyring) associated(versions []*store.Version) []*store.Version {
	return slices.DeleteFunc(slices.Clone(versions), func(v *store.Version) bool {
		return v.State == keys.Discarded ||
			v.State == kmsapi.KeyMaterialStatePendingRotation && s.importState(v) == kmsapi.ImportStatePendingImport
	})
}

// inOrder are the associated versions in the order in which they became current:
// that of their numbers, except for material that was discarded and imported again.
func (s *Keyring) inOrder(versions []*store.Version) []*store.Version {
	list := s.associated(versions)
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

// material finds an associated version by its KeyMaterialId.
func (s *Keyring) material(view reader, keyID, id string) (*store.Version, bool) {
	for _, v := range s.associated(view.Versions(keyID)) {
		if v.MaterialID == id {
			return v, true
		}
	}
	return nil, false
}

// pendingRotation is the material that waits to become current, nil if there is
// none.
func (s *Keyring) pendingRotation(view reader, keyID string) *store.Version {
	for _, v := range s.associated(view.Versions(keyID)) {
		if v.State == kmsapi.KeyMaterialStatePendingRotation {
			return v
		}
	}
	return nil
}

// hasMaterial reports whether every material of the key that is or was current is
// in the token.
func (s *Keyring) hasMaterial(view reader, keyID string) bool {
	versions := s.associated(view.Versions(keyID))
	return len(versions) > 0 && !slices.ContainsFunc(versions, func(v *store.Version) bool {
		return s.importState(v) == kmsapi.ImportStatePendingImport
	})
}

// lost reports whether material that the key needs has expired. What was deleted,
// the key's row says.
func (s *Keyring) lost(view reader, keyID string) bool {
	return slices.ContainsFunc(view.Versions(keyID), func(v *store.Version) bool {
		return v.State != kmsapi.KeyMaterialStatePendingRotation && s.expired(v)
	})
}

// discard takes material that never was current from the key.
func discard(tx *store.Tx, v *store.Version) error {
	gone := *v
	gone.State = keys.Discarded
	clearImport(&gone)
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

// clearImport makes the row say that the material is not in the token.
func clearImport(v *store.Version) {
	v.ImportState = kmsapi.ImportStatePendingImport
	v.ValidTo, v.ExpirationModel = time.Time{}, ""
}
