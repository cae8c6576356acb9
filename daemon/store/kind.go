package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/go-json-experiment/json"

	"cmkd/daemon/keys"
)

// kind describes one kind of row: its table in the database, and how the
// snapshot finds its rows.
type kind[T any] struct {
	table string
	of    func(*View) *table[T] // its rows in a snapshot
	// columns are the columns beside the document; the first primary of them
	// are the primary key.
	columns []string
	primary int
	// fields returns the values of columns: strings, ints and byte strings.
	// Only the last one of a key may be a byte string.
	fields func(*T) []any
	// indexes are further orders of the rows. A key that does not contain the
	// whole primary key is a promise of uniqueness, which put enforces.
	indexes []index[T]
	// group, if set, is what rows are counted by.
	group func(*T) []any
	// key, if set, is the ID of the key that the row belongs to.
	key func(*T) string
	// aside: no answer depends on the rows.
	aside bool
}

// maxIndexes bounds len(kind.indexes): snapshots hold them in an array, which
// is copied by assignment.
const maxIndexes = 4

type index[T any] struct {
	name string
	// of returns the row's key in this index, nil if it is not in it.
	of func(*T) []any
}

// Positions in the indexes of their kinds.
const (
	keysByID = 0

	versionsByCKAID    = 0
	versionsByMaterial = 1
	versionsCurrent    = 2

	aliasesByKey = 0

	grantsByID       = 0
	grantsByGrantee  = 1
	grantsByRetiring = 2
	grantsByName     = 3

	importsByKey = 0

	customKeyStoresByName = 0
)

var keyKind = &kind[Key]{
	of:    func(v *View) *table[Key] { return &v.keys },
	table: "keys", columns: []string{"region", "id"}, primary: 2,
	fields: func(k *Key) []any { return []any{k.Region, k.ID} },
	indexes: []index[Key]{
		keysByID: {"ID", func(k *Key) []any { return []any{k.ID, k.Region} }},
	},
	group: func(k *Key) []any { return []any{k.Region} },
	key:   func(k *Key) string { return k.ID },
}

var versionKind = &kind[Version]{
	of:    func(v *View) *table[Version] { return &v.versions },
	table: "versions", columns: []string{"key_id", "number", "cka_id"}, primary: 2,
	fields: func(v *Version) []any { return []any{v.KeyID, v.Number, v.CKAID} },
	indexes: []index[Version]{
		versionsByCKAID: {"CKA_ID", func(v *Version) []any { return []any{v.CKAID} }},
		versionsByMaterial: {"key material ID", func(v *Version) []any {
			if v.MaterialID == "" { // material yet to be imported
				return nil
			}
			return []any{v.MaterialID, v.KeyID} // the material first, so that one is found without its key
		}},
		versionsCurrent: {"current version", func(v *Version) []any {
			if v.State != keys.Current {
				return nil
			}
			return []any{v.KeyID}
		}},
	},
	key: func(v *Version) string { return v.KeyID },
}

var aliasKind = &kind[Alias]{
	of:    func(v *View) *table[Alias] { return &v.aliases },
	table: "aliases", columns: []string{"region", "name", "key_id"}, primary: 2,
	fields: func(a *Alias) []any { return []any{a.Region, a.Name, a.KeyID} },
	indexes: []index[Alias]{
		aliasesByKey: {"key", func(a *Alias) []any { return []any{a.Region, a.KeyID, a.Name} }},
	},
	group: func(a *Alias) []any { return []any{a.Region} },
	key:   func(a *Alias) string { return a.KeyID },
}

var grantKind = &kind[Grant]{
	of:    func(v *View) *table[Grant] { return &v.grants },
	table: "grants", columns: []string{"region", "key_id", "id"}, primary: 3,
	fields: func(g *Grant) []any { return []any{g.Region, g.KeyID, g.ID} },
	indexes: []index[Grant]{
		grantsByID: {"grant ID", func(g *Grant) []any { return []any{g.Region, g.ID} }},
		grantsByGrantee: {"grantee", func(g *Grant) []any {
			return []any{g.Region, g.KeyID, g.Grantee, g.ID}
		}},
		grantsByRetiring: {"retiring principal", func(g *Grant) []any {
			if g.Retiring == "" {
				return nil
			}
			return []any{g.Region, g.Retiring, g.ID}
		}},
		grantsByName: {"name", func(g *Grant) []any {
			if g.Name == "" {
				return nil
			}
			return []any{g.Region, g.KeyID, g.Name, g.ID}
		}},
	},
	group: func(g *Grant) []any { return []any{g.Region, g.KeyID} },
	key:   func(g *Grant) string { return g.KeyID },
}

var usageKind = &kind[Usage]{
	of:    func(v *View) *table[Usage] { return &v.usages },
	table: "usages", columns: []string{"region", "key_id"}, primary: 2,
	fields: func(u *Usage) []any { return []any{u.Region, u.KeyID} },
	aside:  true,
}

var intentKind = &kind[Intent]{
	of:    func(v *View) *table[Intent] { return &v.intents },
	table: "intents", columns: []string{"cka_id"}, primary: 1,
	fields: func(i *Intent) []any { return []any{i.CKAID} },
	aside:  true,
}

var systemKeyKind = &kind[SystemKey]{
	of:    func(v *View) *table[SystemKey] { return &v.systemKeys },
	table: "system_keys", columns: []string{"token", "purpose", "version"}, primary: 3,
	fields: func(k *SystemKey) []any { return []any{k.Token, k.Purpose, k.Version} },
}

var importKind = &kind[ImportParameters]{
	of:    func(v *View) *table[ImportParameters] { return &v.imports },
	table: "import_parameters", columns: []string{"token_hash"}, primary: 1,
	fields: func(p *ImportParameters) []any { return []any{p.TokenHash} },
	indexes: []index[ImportParameters]{
		importsByKey: {"key", func(p *ImportParameters) []any {
			return []any{p.Region, p.KeyID, p.TokenHash}
		}},
	},
	key: func(p *ImportParameters) string { return p.KeyID },
}

var customKeyStoreKind = &kind[CustomKeyStore]{
	of:    func(v *View) *table[CustomKeyStore] { return &v.customKeyStores },
	table: "custom_key_stores", columns: []string{"region", "id"}, primary: 2,
	fields: func(c *CustomKeyStore) []any { return []any{c.Region, c.ID} },
	indexes: []index[CustomKeyStore]{
		customKeyStoresByName: {"name", func(c *CustomKeyStore) []any { return []any{c.Region, c.Name} }},
	},
}

var settingKind = &kind[Setting]{
	of:    func(v *View) *table[Setting] { return &v.settings },
	table: "settings", columns: []string{"name"}, primary: 1,
	fields: func(s *Setting) []any { return []any{s.Name} },
}

// kinds are all kinds of rows, in the order in which their tables can be filled.
var kinds = []rowKind{
	keyKind, versionKind, aliasKind, grantKind, usageKind, intentKind, systemKeyKind, importKind, customKeyStoreKind, settingKind,
}

var kindsByTable = func() map[string]rowKind {
	all := make(map[string]rowKind, len(kinds))
	for _, k := range kinds {
		all[k.describe().Name] = k
	}
	return all
}()

// rowKind is a kind whose type does not matter.
type rowKind interface {
	describe() Table
	filler() filler
	// rows encodes the rows of the kind, by primary key.
	rows(v *View) iter.Seq2[*Row, error]
	// change is the change that puts the row of the document.
	change(document []byte) (Change, error)
	// add puts a row that an engine has, and drop removes one by its name if it is there.
	add(v *View, r *Row) error
	drop(v *View, name string) error
	// owner is the ID of the key that the row belongs to which has the name, "" if there is none.
	// asideOf: no answer depends on the rows.
	owner(v *View, name string) string
	asideOf() bool
}

// filler makes a table of rows that an engine has.
type filler interface {
	add(r *Row) error
	into(v *View)
}

func (k *kind[T]) describe() Table { return Table{k.table, k.columns, k.primary} }

func (k *kind[T]) change(document []byte) (Change, error) {
	row, err := decode[T](document)
	if err != nil {
		return Change{}, err
	}
	fields := k.fields(row)
	if err := k.check(fields); err != nil {
		return Change{}, err
	}
	return newChange(k.table, k.primary, fields, document), nil
}

func (k *kind[T]) filler() filler { return newBuilder(k) }

func (k *kind[T]) add(v *View, r *Row) error {
	row, err := decode[T](r.Document)
	if err == nil {
		err = matches(k, r, row)
	}
	if err != nil {
		return err
	}
	t := k.of(v)
	changed, err := t.put(k, row)
	if err == nil {
		*t = changed
	}
	return err
}

func (k *kind[T]) drop(v *View, name string) error {
	primary, err := k.parseName(name)
	if err != nil {
		return err
	}
	t := k.of(v)
	*t, _ = t.remove(k, appendKey(nil, primary...))
	return nil
}

func (k *kind[T]) asideOf() bool { return k.aside }

func (k *kind[T]) owner(v *View, name string) string {
	if k.key == nil {
		return ""
	}
	primary, err := k.parseName(name)
	if err != nil {
		return ""
	}
	row, ok := k.of(v).rows.Get(appendKey(nil, primary...))
	if !ok {
		return ""
	}
	return k.key(row)
}

// parseName is the inverse of [RowName] for the rows of the kind.
func (k *kind[T]) parseName(name string) ([]any, error) {
	var fields []any
	if err := json.Unmarshal([]byte(name), &fields); err != nil {
		return nil, err
	}
	if len(fields) != k.primary {
		return nil, errors.New("the name has another number of fields")
	}
	for i, like := range k.fields(new(T))[:k.primary] {
		ok := true
		switch like.(type) {
		case string:
			_, ok = fields[i].(string)
		case int:
			var n float64
			n, ok = fields[i].(float64)
			fields[i] = int(n)
		case []byte:
			text, _ := fields[i].(string)
			raw, err := hex.DecodeString(text)
			fields[i], ok = raw, err == nil
		}
		if !ok {
			return nil, errors.New("the name has a field of another type")
		}
	}
	if RowName(fields) != name {
		return nil, errors.New("the name is written in another way")
	}
	return fields, nil
}

// check refuses fields that cannot identify a row.
func (k *kind[T]) check(fields []any) error {
	for i, f := range fields {
		switch f := f.(type) {
		case string:
			if f == "" || strings.IndexByte(f, 0) >= 0 {
				return fmt.Errorf("%s: %s is empty or has a NUL byte", k.table, k.columns[i])
			}
		case []byte:
			if len(f) == 0 {
				return fmt.Errorf("%s: %s is empty", k.table, k.columns[i])
			}
		case int:
			if f < 0 {
				return fmt.Errorf("%s: %s is negative", k.table, k.columns[i])
			}
		}
	}
	return nil
}

// appendKey appends the order-preserving form of fields: strings end in a NUL,
// ints are 8 bytes, big-endian; a byte string comes last and has no end mark.
func appendKey(dst []byte, fields ...any) []byte {
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			dst = append(dst, f...)
			dst = append(dst, 0)
		case []byte:
			dst = append(dst, f...)
		case int:
			dst = binary.BigEndian.AppendUint64(dst, uint64(f))
		}
	}
	return dst
}
