package keyring

import (
	"context"
	"log/slog"
	"slices"

	"cmkd/backends"
	"cmkd/daemon/journal"
)

// An object is unsafe if it has attributes that cmkd gives to none: another program has
// changed or replaced it. No plugin uses such an object. The first call that meets one makes
// it known; it is looked at again with each run of the jobs, and when its key is used.

// noteSafety notes what a plugin said of an object that is in its token, or of none.
func (s *Keyring) noteSafety(ctx context.Context, m *material, err error) {
	unsafe := backends.CodeOf(err) == backends.KeyUnsafe
	switch news := s.Unsafes.set(m, unsafe); {
	case news && unsafe:
		s.Log.LogAttrs(ctx, slog.LevelError, "the object of a key material has other attributes than cmkd gave it: it is not used",
			slog.String("key", m.KeyID), slog.Int("version", m.Version), slog.String("token", m.Token), slog.Any("error", err))
	case news:
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the object of a key material no longer has other attributes than cmkd gave it",
			slog.String("key", m.KeyID), slog.Int("version", m.Version), slog.String("token", m.Token))
	}
}

// UnsafeMaterials are the key materials of the database that are known to be in their
// token with other attributes than cmkd gave them, sorted by token, key and version.
func (s *Keyring) UnsafeMaterials() []Material {
	view := s.Store.View()
	var out []Material
	for _, m := range s.Unsafes.all() {
		if missed(view, m) {
			out = append(out, m.Material)
		}
	}
	slices.SortFunc(out, compareMaterials)
	return out
}

// lookForUnsafe finds out which of the objects that a call needed is unsafe. What is known
// to be is not asked for again.
func (s *Keyring) lookForUnsafe(ctx context.Context, c *journal.Call) {
	for _, m := range s.needed(c, s.Unsafes.Has) {
		_, _ = s.there(ctx, m)
	}
}

// lookAgain looks again at the objects of the materials in the set.
func (s *Keyring) lookAgain(ctx context.Context, set *materialSet) {
	for _, m := range set.all() {
		if !expected(s.Store.View(), m) {
			set.set(m, false)
			continue
		}
		_, _ = s.there(ctx, m) // of a token that does not answer nothing is known: that is seen elsewhere
	}
}

// needed are the materials that a call may have needed, but for those that are known to be
// what it met.
func (s *Keyring) needed(c *journal.Call, known func(id []byte) bool) []*material {
	var out []*material
	view := s.Store.View()
	tokens := map[string]bool{}
	for _, row := range c.Used {
		tokens[row.Token] = true
		for _, v := range view.Versions(row.ID) {
			if m := materialOf(view, v); m != nil && !known(v.CKAID) {
				out = append(out, m)
			}
		}
	}
	for k := range view.AllSystemKeys() {
		if k.Purpose == PurposeWrapping && tokens[k.Token] && !known(k.CKAID) {
			out = append(out, &material{Material{Label("system-"+k.Purpose, k.Version), k.Version, k.Token}, k.CKAID, SystemKeyRef(k)})
		}
	}
	return out
}
