package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"cmkd/daemon/store"
)

// content is what an engine has.
type content struct {
	rows, digests []string // by table and name
	head          *store.Sealed
}

func contentOf(t *testing.T, e store.Engine) content {
	t.Helper()
	var c content
	var err error
	c.head, err = e.Load(t.Context(), store.Visitor{
		Row: func(r *store.Row) error {
			c.rows = append(c.rows, r.Table+" "+r.Name+" "+string(r.Document))
			return nil
		},
		Digest: func(d *store.Digest) error {
			c.digests = append(c.digests, d.Table+" "+d.Name)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(c.rows)
	slices.Sort(c.digests)
	return c
}

func (c *content) check(t *testing.T, what string, rows, digests []string, head *store.Sealed) {
	t.Helper()
	if !slices.Equal(c.rows, rows) || !slices.Equal(c.digests, digests) || !c.head.Equal(head) {
		t.Errorf("%s: %q, %q, %v; want %q, %q, %v", what, c.rows, c.digests, c.head, rows, digests, head)
	}
}

// setting is a change as a store makes it; without a value the row is deleted.
func setting(name, value string) store.Change {
	c := store.Change{Row: store.Row{Table: "settings", Name: store.RowName([]any{name}), Columns: []any{name}}}
	if value != "" {
		c.Document = []byte(`{"Name":"` + name + `","Value":"` + value + `"}`)
		c.Digest = sha256.Sum256(c.Document)
	}
	return c
}

// testVisitorStops: an error of the visitor ends the reading, and is returned as it is.
func testVisitorStops(t *testing.T, e store.Engine) {
	t.Helper()
	before, err := e.Load(t.Context(), store.Visitor{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := e.Begin(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Rollback()
	intent := store.Change{Row: store.Row{Table: "intents", Name: store.RowName([]any{[]byte{1}}), Columns: []any{[]byte{1}}, Document: []byte(`{"CKAID":"AQ=="}`)}}
	if err := w.Commit(t.Context(), &store.Batch{Changes: []store.Change{setting("d", "1"), intent}, Before: before, Head: before}); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	visits := 0
	visit := func() error { visits++; return stop }
	for name, v := range map[string]store.Visitor{
		"rows":                {Row: func(*store.Row) error { return visit() }},
		"digests":             {Digest: func(*store.Digest) error { return visit() }},
		"rows before digests": {Row: func(*store.Row) error { return visit() }, Digest: func(*store.Digest) error { return visit() }},
	} {
		visits = 0
		if _, err := e.Load(t.Context(), v); err != stop || visits != 1 { //nolint:errorlint // as it is
			t.Errorf("a visitor of %s that stops: %v, after %d visits", name, err, visits)
		}
	}
}

// testEngine uses an engine without a store: a batch is written whole or not at
// all, and if several may write, only over the head that it follows.
func testEngine(t *testing.T, db Database) {
	e, err := db.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	commit := func(b *store.Batch) error {
		w, err := e.Begin(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Rollback()
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // it does not stop halfway
		return w.Commit(ctx, b)
	}
	sealed := func(n byte) *store.Sealed {
		return &store.Sealed{Document: []byte{'{', '"', n, '"', '}'}, MAC: []byte{n}}
	}
	check := func(what string, rows, digests []string, head *store.Sealed) {
		t.Helper()
		c := contentOf(t, e)
		c.check(t, what, rows, digests, head)
	}
	const a, b, c = `settings ["a"]`, `settings ["b"]`, `settings ["c"]`
	check("empty", nil, nil, nil)
	if err := commit(&store.Batch{Changes: []store.Change{setting("a", "1"), setting("a", "2"), setting("b", "1")}}); err != nil {
		t.Fatal(err)
	}
	rows := []string{a + ` {"Name":"a","Value":"2"}`, b + ` {"Name":"b","Value":"1"}`}
	check("without a head", rows, nil, nil)

	w, err := e.Begin(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.Rollback()
	w.Rollback()
	refused := func(what string, change store.Change, before, head *store.Sealed) {
		t.Helper()
		if !db.Shared() {
			return
		}
		was := contentOf(t, e)
		err := commit(&store.Batch{Changes: []store.Change{change}, Before: before, Head: head})
		if !errors.Is(err, store.ErrChanged) || errors.Is(err, store.ErrUnknown) || e.Trouble().Err() != nil {
			t.Errorf("%s: %v, trouble: %v", what, err, e.Trouble().Err())
		}
		check(what, was.rows, was.digests, was.head)
	}
	refused("over a head that is not there", setting("c", "1"), sealed('0'), sealed('1'))
	if err := commit(&store.Batch{Head: sealed('1'), Rehash: true, Digests: []store.Digest{{Table: "settings", Name: `["a"]`, Sum: make([]byte, 32)}}}); err != nil {
		t.Fatal(err)
	}
	check("the first head", rows, []string{a}, sealed('1'))
	for _, before := range []*store.Sealed{nil, sealed('2'), {Document: sealed('1').Document, MAC: []byte{0}}} {
		refused("over another head", setting("a", ""), before, sealed('3'))
	}
	refused("without a head, over one", setting("a", ""), nil, nil)
	if err := commit(&store.Batch{Changes: []store.Change{setting("a", ""), setting("c", "1")}, Before: sealed('1'), Head: sealed('2')}); err != nil {
		t.Fatal(err)
	}
	rows = []string{rows[1], c + ` {"Name":"c","Value":"1"}`}
	check("the second head", rows, []string{c}, sealed('2'))
	if err := errors.Join(e.Check(t.Context()), e.Probe(t.Context(), time.Now())); err != nil {
		t.Error(err)
	}
	check("after Probe", rows, []string{c}, sealed('2'))

	testVisitorStops(t, e)
	if head, err := e.Load(t.Context(), store.Visitor{}); err != nil || !head.Equal(sealed('2')) {
		t.Errorf("the head alone: %v, %v", head, err)
	}
}
