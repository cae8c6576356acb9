package keyring

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"cmkd/backends"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// Material is a material that should be in a token.
type material struct {
	Material
	ckaID []byte
	key   backends.Key
}

// materialOf is the material of a version, nil if it should be in no token.
func materialOf(view *store.View, v *store.Version) *material {
	rows := view.KeyReplicas(v.KeyID)
	if len(rows) == 0 || v.ImportState == kmsapi.ImportStatePendingImport || len(v.CKAID) != len(backends.KeyID{}) {
		return nil
	}
	row := rows[0]
	return &material{Material{v.KeyID, v.Number, row.Token}, v.CKAID, backends.Key{
		ID: ObjectID(v.CKAID), Spec: row.Spec, Usage: row.Usage, Imported: v.Imported,
	}}
}

// missed reports whether anybody would miss the material: not that of a key that is
// about to be deleted.
func missed(view *store.View, m *material) bool {
	if !expected(view, m) {
		return false
	}
	rows := view.KeyReplicas(m.KeyID)
	return len(rows) == 0 || slices.ContainsFunc(rows, func(row *store.Key) bool {
		return row.State != kmsapi.KeyStatePendingDeletion && row.State != kmsapi.KeyStatePendingReplicaDeletion
	})
}

// expected reports whether the material still should be in its token.
func expected(view *store.View, m *material) bool {
	if v, ok := view.VersionByCKAID(m.ckaID); ok {
		return materialOf(view, v) != nil
	}
	for k := range view.AllSystemKeys() {
		if bytes.Equal(k.CKAID, m.ckaID) {
			return true
		}
	}
	return false
}

func compareMaterials(a, b Material) int {
	return cmp.Or(cmp.Compare(a.Token, b.Token), cmp.Compare(a.KeyID, b.KeyID), cmp.Compare(a.Version, b.Version))
}

// materialSet are materials whose objects are not as they should be: few, mostly none.
type materialSet struct {
	guard sync.Mutex
	byID  map[string]*material // by CKA_ID; guarded by guard
	size  atomic.Int64         // the length of byID, for those that ask in every call
}

func (t *materialSet) empty() bool { return t.size.Load() == 0 }

func (t *materialSet) Has(id []byte) bool {
	if t.empty() {
		return false
	}
	t.guard.Lock()
	defer t.guard.Unlock()
	return t.byID[string(id)] != nil
}

// set puts a material in or takes it out, and reports whether that is news.
func (t *materialSet) set(m *material, in bool) bool {
	t.guard.Lock()
	defer t.guard.Unlock()
	if (t.byID[string(m.ckaID)] != nil) == in {
		return false
	}
	if in {
		if t.byID == nil {
			t.byID = map[string]*material{}
		}
		t.byID[string(m.ckaID)] = m
	} else {
		delete(t.byID, string(m.ckaID))
	}
	t.size.Store(int64(len(t.byID)))
	return true
}

func (t *materialSet) all() []*material {
	t.guard.Lock()
	defer t.guard.Unlock()
	return slices.Collect(maps.Values(t.byID))
}
