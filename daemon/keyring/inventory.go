package keyring

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cmkd/backends"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
)

// Inventory is what the tokens and the database do not agree on.
type Inventory struct {
	// Away are the tokens that do not answer: nothing is known of them.
	Away []string
	// Missing are key materials of the database that are not in their token.
	Missing []Material
	// Unsafe are key materials of the database whose objects have other attributes than
	// cmkd gave them, those that a call has met.
	Unsafe []Material
	// Found are key materials in a token that the database does not know, by
	// key.
	Found []*FoundKey
	// Duplicates are CKA_IDs of the database that two objects have.
	Duplicates []Duplicate
	// Leftovers are further objects of cmkd's that the database does not know:
	// the daemon's own keys of an earlier database, and what imports left.
	Leftovers []Leftover
}

// Material is a key material of the database.
type Material struct {
	KeyID   string
	Version int
	Token   string
}

// Leftover is an object in a token.
type Leftover struct {
	Token string
	ID    string // CKA_ID, hexadecimal
	Label string // CKA_LABEL
	// Needed: data keys that were wrapped with it cannot be opened without it, or backups
	// that it authenticates not be restored.
	Needed bool
}

// Inventory lists tokens and checks them against the database. What is missing has
// been looked for by processes that were opened since; what is found has been listed
// twice, since calls go on and make objects and take them back. Unless anew, an object
// that was missing before, and that no plugin lists, is missing without another process.
func (s *Keyring) Inventory(ctx context.Context, tokens []string, anew bool) (*Inventory, error) {
	before := s.Store.View()
	listed, away, err := s.listTokens(ctx, tokens)
	if err != nil {
		return nil, err
	}
	inv := &Inventory{Away: away}
	// What was made since the first view is not lost, nor what was destroyed since.
	after := s.Store.View()
	there := listedIDs(listed)
	for _, m := range s.Absences.all() {
		if there[string(m.ckaID)] { // if its own process does not see it, a call finds out
			s.found(ctx, m)
		}
	}
	gone, _, err := s.confirm(ctx, missing(before, after, listed), anew)
	if err != nil {
		return nil, fmt.Errorf("looking for key materials: %w", err)
	}
	for _, m := range gone {
		inv.Missing = append(inv.Missing, m.Material)
	}
	slices.SortFunc(inv.Missing, compareMaterials)
	s.lookAgain(ctx, &s.Unsafes)
	inv.Unsafe = s.UnsafeMaterials()
	// What any view explains is not reported: it may have been made before the list, or
	// destroyed after it.
	known, again := explained(before, after), listed
	if anyUnknown(known, listed) {
		if again, _, err = s.listTokens(ctx, tokens); err != nil {
			return nil, err
		}
		after = s.Store.View()
		maps.Copy(known, explained(after))
	}
	found := map[string]*FoundKey{}
	for _, token := range tokens {
		for _, o := range unknown(known, listed[token]) {
			if slices.Contains(again[token], o) {
				inv.place(after, found, token, o)
			}
		}
	}
	inv.Found = slices.SortedFunc(maps.Values(found), func(a, b *FoundKey) int { return cmp.Compare(a.KeyID, b.KeyID) })
	return inv, nil
}

func anyUnknown(known map[string]bool, listed map[string][]backends.Object) bool {
	for _, objects := range listed {
		if len(unknown(known, objects)) > 0 {
			return true
		}
	}
	return false
}

// listTokens lists the objects of each of the tokens through every plugin that has it: one
// alone may not see what another one made. away are the tokens of which a plugin does
// not answer.
func (s *Keyring) listTokens(ctx context.Context, tokens []string) (listed map[string][]backends.Object, away []string, err error) {
	listed = map[string][]backends.Object{}
	for _, token := range tokens {
		servers, all := s.servers(token)
		if !all {
			away = append(away, token)
			continue
		}
		objects := map[backends.Object]int{} // the number of those that look alike
		for _, b := range servers {
			list, err := b.ListKeys(ctx, &backends.ListKeysRequest{})
			if err != nil {
				return nil, nil, fmt.Errorf("listing the keys of token %s: %w", token, err)
			}
			here := map[backends.Object]int{}
			for _, o := range list.Objects {
				o.Duplicate = false // which each plugin sees for itself: see CheckDuplicates
				here[o]++
				objects[o] = max(objects[o], here[o])
			}
		}
		listed[token] = []backends.Object{}
		for o, n := range objects {
			listed[token] = append(listed[token], slices.Repeat([]backends.Object{o}, n)...)
		}
	}
	return listed, away, nil
}

// servers are the backends of a token. all: each of them answers.
func (s *Keyring) servers(token string) (servers []Backend, all bool) {
	all = true
	for _, spec := range slices.Sorted(maps.Keys(keys.Specs)) {
		b, _, ok := s.Router.Route(token, spec)
		if !ok || slices.Contains(servers, b) {
			continue
		}
		servers = append(servers, b)
		all = all && s.Router.Serving(token, spec)
	}
	return servers, all && len(servers) > 0
}

// Tokens are the names of the configured tokens.
func (s *Keyring) Tokens() []string {
	return append([]string{s.Token}, slices.Sorted(maps.Values(s.Clusters))...)
}

// listedIDs are the CKA_IDs of what was listed in any token.
func listedIDs(listed map[string][]backends.Object) map[string]bool {
	there := map[string]bool{}
	for _, objects := range listed {
		for _, o := range objects {
			there[string(o.ID[:])] = true
		}
	}
	return there
}

// missing are the materials of both views whose token was listed without them.
func missing(before, after *store.View, listed map[string][]backends.Object) []*material {
	there := listedIDs(listed)
	var out []*material
	for v := range before.AllVersions() {
		m := materialOf(after, v)
		if m == nil || there[string(v.CKAID)] || !expected(after, m) {
			continue
		}
		if _, ok := listed[m.Token]; ok {
			out = append(out, m)
		}
	}
	return out
}

// explained are the CKA_IDs that a row of one of the views names.
func explained(views ...*store.View) map[string]bool {
	known := map[string]bool{}
	for _, view := range views {
		for v := range view.AllVersions() {
			known[string(v.CKAID)] = true
		}
		for k := range view.AllSystemKeys() {
			known[string(k.CKAID)] = true
		}
		for p := range view.AllImportParameters() {
			known[string(p.CKAID)] = true
		}
		for i := range view.Intents() {
			known[string(i.CKAID)] = true
		}
	}
	return known
}

// unknown are the objects that no row explains, versions in ascending order.
func unknown(known map[string]bool, objects []backends.Object) []backends.Object {
	var out []backends.Object
	for _, o := range objects {
		if !known[string(o.ID[:])] {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b backends.Object) int {
		_, m, _ := parseLabel(a.Label)
		_, n, _ := parseLabel(b.Label)
		return cmp.Or(cmp.Compare(m, n), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

// place puts an object that no row explains where it belongs.
func (inv *Inventory) place(view *store.View, found map[string]*FoundKey, token string, o backends.Object) {
	id, version, ok := parseLabel(o.Label)
	rows := view.KeyReplicas(id)
	if !ok || len(rows) > 0 && rows[0].Token != token || superseded(view, rows, id, version, o) {
		inv.Leftovers = append(inv.Leftovers, Leftover{
			Token: token, ID: o.ID.String(), Label: o.Label,
			Needed: strings.HasPrefix(o.Label, "cmkd:system-"+PurposeWrapping+":") || IsBackupKey(o),
		})
		return
	}
	k := found[id]
	switch {
	case k == nil:
		k = &FoundKey{KeyID: id, Token: token, Known: len(rows) > 0}
		found[id] = k
	case k.Token != token:
		k.Problem = fmt.Sprintf("it is in tokens %s and %s", k.Token, token)
	case slices.ContainsFunc(k.IDs, func(other []byte) bool { return MaterialID(id, version, other) == MaterialID(id, version, o.ID[:]) }):
		k.Problem = fmt.Sprintf("two objects are its version %d", version)
	}
	k.Versions, k.IDs = append(k.Versions, version), append(k.IDs, o.ID[:])
}

// superseded reports whether the database has another object for what this one
// is: material that was imported again, or the version of a key that has only
// one. Two materials of one version are none of these: if the copy of an
// earlier day was restored, and a key that had been rotated since was rotated
// again before anybody looked, both have encrypted.
func superseded(view *store.View, rows []*store.Key, id string, version int, o backends.Object) bool {
	for _, v := range view.Versions(id) {
		if v.Number == version && (len(rows) > 0 && rows[0].Spec != keys.SymmetricDefault || bytes.HasPrefix(v.CKAID, o.ID[:materialBytes])) {
			return true
		}
	}
	return false
}

// IsBackupKey reports whether an object authenticates backups, as its label says.
func IsBackupKey(o backends.Object) bool {
	return strings.HasPrefix(o.Label, "cmkd:system-"+PurposeBackup+":")
}

// FoundKey is a key some of whose materials the database does not know.
type FoundKey struct {
	KeyID    string           `json:"keyId"`
	Token    string           `json:"token"`
	Versions []int            `json:"versions"` // as CKA_LABEL has them, ascending
	Spec     backends.KeySpec `json:"spec,omitempty"`
	Usage    backends.Usage   `json:"usage,omitempty"`
	Imported bool             `json:"imported,omitempty"`
	// Known: the database knows the key, and other materials of it.
	Known bool `json:"known"`
	// Problem is why the key cannot be recovered, "" if it can.
	Problem string `json:"problem,omitempty"`
	// Recovered: it has been.
	Recovered bool `json:"recovered,omitempty"`

	IDs       [][]byte `json:"-"` // CKA_ID of each version
	PublicKey []byte   `json:"-"`
	StoreID   string   `json:"-"` // CustomKeyStoreId
}
