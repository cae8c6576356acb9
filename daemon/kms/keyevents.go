package kms

import (
	"strings"

	"cmkd/daemon/store"
)

// What the service does by itself is on record in CloudTrail's service events:
// https://docs.aws.amazon.com/kms/latest/developerguide/ct-rotatekey.html
// https://docs.aws.amazon.com/kms/latest/developerguide/ct-delete-key.html
// https://docs.aws.amazon.com/kms/latest/developerguide/ct-deleteexpiredkeymaterial.html
//
// The record is written within the transaction that commits the change, as its
// last step: a change that cannot be recorded is rolled back, and the head of
// the database names a record that has it. If the commit fails, or the daemon
// is killed between the two, the trail tells of a change that did not happen.
// After a kill the next start says so ([Service.recordUncommitted]). It is tried
// again, then, and what is recorded again has the same eventID.
const (
	eventRotate       = "RotateKey"
	eventDelete       = "DeleteKey"
	eventExpire       = "DeleteExpiredKeyMaterial"
	eventExpireImport = "DeleteExpiredImportParameters"
	eventReconcile    = "ReconcileKeyMaterial"
	eventCreate       = "CreateKey"
)

// rotation is the event of a rotation that makes fresh current. Each attempt
// makes another material.
func (s *Keyring) rotation(key *store.Key, old, fresh *store.Version) *event {
	e := s.keyEvent(eventRotate, key, fresh.Rotated)
	e.act, e.single = fresh.MaterialID, true
	e.RotationType, e.KeyOrigin, e.CurrentKeyMaterialID = fresh.RotationType, key.Origin, fresh.MaterialID
	if old != nil {
		e.PreviousKeyMaterialID = old.MaterialID
	}
	return e
}

// creation is the event of a managed key that was made for its first use.
func (s *Keyring) creation(key *store.Key) *event {
	e := s.keyEvent(eventCreate, key, key.Created)
	e.single = true
	return e
}

// expiry is the event of material whose time is over, in every Region of the
// key.
func (s *Keyring) expiry(replicas []*store.Key, v *store.Version) *event {
	key := replicas[0]
	for _, r := range replicas {
		if r.Region == r.PrimaryRegion {
			key = r
		}
	}
	e := s.keyEvent(eventExpire, key, v.ValidTo)
	e.act += " " + v.MaterialID
	e.KeyMaterialID = v.MaterialID
	for _, r := range replicas {
		if r != key {
			e.arns = append(e.arns, s.keyARN(r.Region, r.ID))
		}
	}
	return e
}

// reconciliation is the event of an interrupted piece of work. The keys of
// epochs have none: they come and go all the time.
func (s *Keyring) reconciliation(i *store.Intent) *event {
	if isEpoch(i) {
		return nil
	}
	id := strings.TrimPrefix(i.KeyID, importPrefix)
	e := &event{
		name: eventReconcile, act: objectID(i.CKAID).String(), region: s.region,
		eventDetails: eventDetails{KeyID: id, Interrupted: i.Action, Label: label(i.KeyID, i.Version)},
	}
	if i.Region != "" {
		e.region, e.arns = i.Region, []string{s.keyARN(i.Region, id)}
	}
	return e
}
