package keyring

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"cmkd/backends"
	"cmkd/daemon/store"
)

// Duplicate is a CKA_ID of the database that two objects of one class have in
// the token: which of them is the key nobody knows, so neither is used.
type Duplicate struct {
	Token string
	ID    string // CKA_ID, hexadecimal
	// KeyID is the key's; of one of the daemon's own keys it is "system-" and the
	// purpose, and of a wrapping pair "import-" and the ID of the key.
	KeyID   string
	Version int
}

// duplicates are those that the last look at each token found.
type duplicates struct {
	mu    sync.Mutex                 // held while found is replaced
	found atomic.Pointer[foundTwice] // nil: none
}

// foundTwice has the duplicates by CKA_ID. It is not changed.
type foundTwice map[backends.KeyID]Duplicate

func (d *duplicates) load() foundTwice {
	if found := d.found.Load(); found != nil {
		return *found
	}
	return nil
}

// Duplicates are the CKA_IDs that are not used because two objects have them, by
// token and key, as [Service.CheckDuplicates] or [Service.Recover] last found them.
func (s *Keyring) Duplicates() []Duplicate {
	return slices.SortedFunc(maps.Values(s.duplicates.load()), func(a, b Duplicate) int {
		return cmp.Or(cmp.Compare(a.Token, b.Token), cmp.Compare(a.KeyID, b.KeyID), cmp.Compare(a.Version, b.Version), cmp.Compare(a.ID, b.ID))
	})
}

// Duplicated reports whether two objects have the CKA_ID.
func (s *Keyring) Duplicated(id []byte) bool {
	found := s.duplicates.load()
	if len(found) == 0 {
		return false
	}
	_, ok := found[ObjectID(id)]
	return ok
}

// ListDuplicates lists a token with each of its plugins. away: one of them does not
// serve, and nothing new is known.
func (s *Keyring) ListDuplicates(ctx context.Context, token string) (doubled []backends.KeyID, away bool, err error) {
	servers, all := s.servers(token)
	if !all {
		return nil, true, nil
	}
	for _, b := range servers {
		list, err := b.ListKeys(ctx, &backends.ListKeysRequest{})
		if err != nil {
			return nil, false, err
		}
		doubled = append(doubled, duplicatesOf(list.Objects)...)
	}
	return doubled, false, nil
}

func duplicatesOf(objects []backends.Object) []backends.KeyID {
	var doubled []backends.KeyID
	for _, o := range objects {
		if o.Duplicate {
			doubled = append(doubled, o.ID)
		}
	}
	return doubled
}

// NoteDuplicates takes what a look at a token found for what is known of it, and
// logs what is new and what is over.
func (s *Keyring) NoteDuplicates(ctx context.Context, view *store.View, token string, doubled []backends.KeyID) {
	s.duplicates.mu.Lock()
	defer s.duplicates.mu.Unlock()
	before, now := s.duplicates.load(), foundTwice{}
	for id, d := range before {
		if d.Token != token {
			now[id] = d
		}
	}
	for _, id := range doubled {
		if d, ok := s.duplicate(view, token, id); ok {
			now[id] = d
		}
	}
	if maps.Equal(before, now) {
		return
	}
	s.duplicates.found.Store(&now)
	for id, d := range now {
		if _, ok := before[id]; !ok {
			s.logDuplicate(ctx, slog.LevelError, "two objects in the token have the CKA_ID of a key: neither is used until one is removed", d)
		}
	}
	for id, d := range before {
		if _, ok := now[id]; !ok {
			s.logDuplicate(ctx, slog.LevelWarn, "the key's CKA_ID is unique in the token again", d)
		}
	}
}

func (s *Keyring) logDuplicate(ctx context.Context, level slog.Level, message string, d Duplicate) {
	s.Log.LogAttrs(ctx, level, message, slog.String("token", d.Token), slog.String("key", d.KeyID),
		slog.Int("version", d.Version), slog.String("id", d.ID))
}

// duplicate says whose the CKA_ID is. ok is false if the database does not know it.
func (s *Keyring) duplicate(view *store.View, token string, id backends.KeyID) (d Duplicate, ok bool) {
	d = Duplicate{Token: token, ID: id.String()}
	if v, ok := view.VersionByCKAID(id[:]); ok {
		d.KeyID, d.Version = v.KeyID, v.Number
		return d, true
	}
	for k := range view.AllSystemKeys() {
		if string(k.CKAID) == string(id[:]) {
			d.KeyID, d.Version = "system-"+k.Purpose, k.Version
			return d, true
		}
	}
	for p := range view.AllImportParameters() {
		if string(p.CKAID) == string(id[:]) {
			d.KeyID = ImportPrefix + p.KeyID
			return d, true
		}
	}
	return d, false
}
