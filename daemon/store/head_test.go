package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestGoldenHash checks the format of the package comment against what it was.
func TestGoldenHash(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		primary []any
		want    string
	}{
		{[]any{"us-east-1", "a\"b\u00e9"}, `["us-east-1","a\"bé"]`},
		{[]any{"key", 12}, `["key",12]`},
		{[]any{[]byte{0xab, 0}}, `["ab00"]`},
	} {
		if got := RowName(c.primary); got != c.want {
			t.Errorf("name %s, want %s", got, c.want)
		}
	}
	h := newHashes(nil).with([]Change{
		newChange("settings", 1, []any{"account"}, []byte(`{"Name":"account","Value":"1"}`)),
		newChange("settings", 1, []any{"clock"}, []byte(`{"Name":"clock","Value":"2"}`)),
	})
	// Worked out by hand from the format: only two buckets are not empty.
	buckets := make([][]byte, bucketCount)
	for i := range buckets {
		buckets[i] = []byte{1}
	}
	for name, document := range map[string]string{
		`["account"]`: `{"Name":"account","Value":"1"}`, `["clock"]`: `{"Name":"clock","Value":"2"}`,
	} {
		place, digest := sha256.Sum256([]byte("\x00settings\x00"+name)), sha256.Sum256([]byte(document))
		i := int(place[0])<<2 | int(place[1])>>6
		buckets[i] = append(append(buckets[i], place[:]...), digest[:]...)
	}
	all := []byte{2}
	for _, b := range buckets {
		sum := sha256.Sum256(b)
		all = append(all, sum[:]...)
	}
	if want := sha256.Sum256(all); !bytes.Equal(h.root(), want[:]) {
		t.Errorf("root %x, want %x", h.root(), want)
	}
	const root = "b8a1ea94bbc964401e544946dc39f9e51fe40abd495cca2a566689d256b1cd81"
	if got := hex.EncodeToString(h.root()); got != root {
		t.Errorf("root %s, want %s", got, root)
	}
	head := &Head{Sequence: 7, Root: []byte{1, 2}, Time: time.Date(2026, time.January, 2, 3, 4, 5, 6, time.UTC), Lineage: "ab", Epoch: 3, AuditSequence: 9, AuditHash: []byte{3}}
	message, err := head.Message()
	const want = "cmkd state head v1\n" + `{"Sequence":7,"Root":"AQI=","Time":"2026-01-02T03:04:05.000000006Z","Lineage":"ab","Epoch":3,"AuditSequence":9,"AuditHash":"Aw=="}`
	if err != nil || string(message) != want {
		t.Errorf("message %q, %v, want %q", message, err, want)
	}
}

// TestKinds: every table of a snapshot has its kind, and none has two.
func TestKinds(t *testing.T) {
	t.Parallel()
	fields, tables := 0, make(map[string]bool)
	for f := range reflect.TypeFor[View]().Fields() {
		if strings.HasPrefix(f.Type.Name(), "table[") {
			fields++
		}
	}
	for _, table := range Tables() {
		tables[table.Name] = true
	}
	if len(kinds) != fields || len(tables) != fields {
		t.Errorf("%d kinds with %d names, for %d tables of a snapshot", len(kinds), len(tables), fields)
	}
}

// BenchmarkHash hashes a change among 30,000 rows.
func BenchmarkHash(b *testing.B) {
	leaves := make([]leaf, 0, 30_000)
	for i := range cap(leaves) {
		leaves = append(leaves, newLeaf("keys", fmt.Sprint(i), []byte("{}")))
	}
	h, changes := newHashes(leaves), []Change{newChange("keys", 2, []any{"us-east-1", "x"}, []byte("{}"))}
	for b.Loop() {
		h.with(changes).root()
	}
}

// FuzzHead reads heads as somebody may have left them.
func FuzzHead(f *testing.F) {
	f.Add([]byte(`{"Sequence":7,"Root":"AQI=","Time":"2026-01-02T03:04:05Z","Lineage":"ab","Epoch":3}`))
	f.Add([]byte(`{"Sequence":-1}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		head, err := (&Sealed{Document: document}).Head()
		if err != nil {
			return
		}
		message, err := head.Message()
		if err != nil {
			return // a time that JSON cannot hold
		}
		again, err := (&Sealed{Document: message[len(headDomain):]}).Head()
		if err != nil || again.Sequence != head.Sequence || !bytes.Equal(again.Root, head.Root) || again.Lineage != head.Lineage || again.Epoch != head.Epoch {
			t.Errorf("%s reads as %+v, and that as %+v, %v", document, head, again, err)
		}
	})
}
