package access

import (
	"time"

	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// CheckState refuses what the key's state does not allow.
func CheckState(op *keys.Action, arn string, state keys.State) error {
	switch op.Refuses.In(state) {
	case 'D':
		return kmsapi.Errorf(kmsapi.CodeDisabledException, "%s is disabled.", arn)
	case 'P':
		return journal.InvalidState(arn, "pending deletion")
	case 'I':
		return journal.InvalidState(arn, "pending import")
	case 'U':
		return journal.InvalidState(arn, "unavailable")
	case 'C':
		return journal.InvalidState(arn, "creating")
	case 'G':
		return journal.InvalidState(arn, "updating")
	case 'N':
		return journal.InvalidState(arn, "not pending deletion")
	}
	return nil
}

// KeyState is the state of the key now: that of its row, Unavailable if its
// token has been away for a while or its custom key store is disconnected, or
// PendingImport from the moment any of its imported materials expires. A key pending
// deletion or import stays so.
func (s *Access) KeyState(view journal.Reader, key *store.Key) keys.State {
	state := key.State
	usable := state == kmsapi.KeyStateEnabled || state == kmsapi.KeyStateDisabled
	if usable && key.Origin == kmsapi.OriginTypeExternal && s.Lost(view, key.ID) {
		return kmsapi.KeyStatePendingImport
	}
	if usable && (!connected(view, key) || !s.Router.Available(key.Token, key.Spec)) {
		return kmsapi.KeyStateUnavailable
	}
	return state
}

// ShownState is keyState for people to see: Unavailable too while the key's current
// material is known not to be in its token, or to be there twice or unsafe. Such a key is admitted
// all the same: a call finds out what the token has now, what the key encrypted under
// other materials can be decrypted, and a rotation mends it.
func (s *Access) ShownState(view journal.Reader, key *store.Key) keys.State {
	state := s.KeyState(view, key)
	if state != kmsapi.KeyStateEnabled && state != kmsapi.KeyStateDisabled {
		return state
	}
	if v, ok := view.CurrentVersion(key.ID); ok && (s.Duplicated(v.CKAID) || s.Absences.Has(v.CKAID) || s.Unsafes.Has(v.CKAID)) {
		return kmsapi.KeyStateUnavailable
	}
	return state
}

// KeyCount counts keys, for figures of the whole service.
type KeyCount struct {
	Keys map[KeyCountLabel]int
	// Expiries are when the first of a key's imported materials expires, by key
	// ARN.
	Expiries map[string]time.Time
}

// KeyCountLabel is what keys are counted by.
type KeyCountLabel struct {
	Region string
	State  keys.State
}

// CountKeys counts the keys as they are now.
func (s *Access) CountKeys() KeyCount {
	c := KeyCount{Keys: map[KeyCountLabel]int{}, Expiries: map[string]time.Time{}}
	view := s.Store.View()
	for k := range view.AllKeys() {
		c.Keys[KeyCountLabel{k.Region, s.ShownState(view, k)}]++
	}
	for v := range view.AllVersions() {
		if v.ValidTo.IsZero() {
			continue
		}
		for _, k := range view.KeyReplicas(v.KeyID) {
			arn := s.KeyARN(k.Region, k.ID)
			if first, ok := c.Expiries[arn]; !ok || v.ValidTo.Before(first) {
				c.Expiries[arn] = v.ValidTo
			}
		}
	}
	return c
}

// connected reports whether the key's custom key store, if it has one, is
// connected.
func connected(view journal.Reader, row *store.Key) bool {
	if row.CustomKeyStoreID == "" {
		return true
	}
	cks, ok := view.CustomKeyStore(row.Region, row.CustomKeyStoreID)
	return ok && cks.ConnectionState == kmsapi.ConnectionStateTypeConnected
}
