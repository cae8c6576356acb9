package keyring

import (
	"strings"

	"cmkd/daemon/journal"
	"cmkd/daemon/store"
)

// Rotation is the event of a rotation that makes fresh current. Each attempt
// makes another material.
func (s *Keyring) Rotation(key *store.Key, old, fresh *store.Version) *journal.Event {
	e := s.KeyEvent(journal.EventRotate, key, fresh.Rotated)
	e.Act, e.Single = fresh.MaterialID, true
	e.RotationType, e.KeyOrigin, e.CurrentKeyMaterialID = fresh.RotationType, key.Origin, fresh.MaterialID
	if old != nil {
		e.PreviousKeyMaterialID = old.MaterialID
	}
	return e
}

// Creation is the event of a managed key that was made for its first use.
func (s *Keyring) Creation(key *store.Key) *journal.Event {
	e := s.KeyEvent(journal.EventCreate, key, key.Created)
	e.Single = true
	return e
}

// Expiry is the event of material whose time is over, in every Region of the
// key.
func (s *Keyring) Expiry(replicas []*store.Key, v *store.Version) *journal.Event {
	key := replicas[0]
	for _, r := range replicas {
		if r.Region == r.PrimaryRegion {
			key = r
		}
	}
	e := s.KeyEvent(journal.EventExpire, key, v.ValidTo)
	e.Act += " " + v.MaterialID
	e.KeyMaterialID = v.MaterialID
	for _, r := range replicas {
		if r != key {
			e.Arns = append(e.Arns, s.KeyARN(r.Region, r.ID))
		}
	}
	return e
}

// reconciliation is the event of an interrupted piece of work. The keys of
// epochs have none: they come and go all the time.
func (s *Keyring) reconciliation(i *store.Intent) *journal.Event {
	if IsEpoch(i) {
		return nil
	}
	id := strings.TrimPrefix(i.KeyID, ImportPrefix)
	e := &journal.Event{
		Name: journal.EventReconcile, Act: ObjectID(i.CKAID).String(), Region: s.Region,
		EventDetails: journal.EventDetails{KeyID: id, Interrupted: i.Action, Label: Label(i.KeyID, i.Version)},
	}
	if i.Region != "" {
		e.Region, e.Arns = i.Region, []string{s.KeyARN(i.Region, id)}
	}
	return e
}
