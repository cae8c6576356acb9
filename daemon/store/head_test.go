package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// hmacSealer authenticates heads with a key in memory.
type hmacSealer struct{ err error }

func (h hmacSealer) mac(message []byte) []byte {
	m := hmac.New(sha256.New, []byte("key"))
	m.Write(message)
	return m.Sum(nil)
}

// Seal implements [Sealer].
func (h hmacSealer) Seal(_ context.Context, _ *View, head *Head) ([]byte, error) {
	if h.err != nil {
		return nil, h.err
	}
	head.Time = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)
	head.Lineage, head.Epoch = "lineage", 1
	message, err := head.Message()
	return h.mac(message), err
}

// adopted is a store with the sample's rows and a head.
func adopted(t testing.TB, path string) *Store {
	t.Helper()
	s := open(t, path)
	update(t, s, sample)
	if err := s.Adopt(context.Background(), hmacSealer{}, s.View().Root(), func(*Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestGoldenHash holds the format of the package comment against what it was.
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
		if got := rowName(c.primary); got != c.want {
			t.Errorf("name %s, want %s", got, c.want)
		}
	}
	h := newHashes(nil).with([]change{
		{"settings", `["account"]`, []byte(`{"Name":"account","Value":"1"}`)},
		{"settings", `["clock"]`, []byte(`{"Name":"clock","Value":"2"}`)},
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

// TestHead: the hash that is kept as rows change is the hash of the file, each
// commit has a head, and nothing is written before the head is verified.
func TestHead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := adopted(t, path)
	update(t, s, func(tx *Tx) error {
		tx.DeleteKey(region, testKey(2).ID)
		k := testKey(1)
		k.Description = "changed"
		return errors.Join(tx.PutKey(k), tx.PutKey(testKey(7)))
	})
	root, changes := s.View().Root(), s.Changes()
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	found, err := s.Compare(t.Context())
	if err != nil || len(found.Rows) != 0 || !bytes.Equal(found.Root, root) || !bytes.Equal(found.Now, root) {
		t.Errorf("Compare: %+v, %v", found, err)
	}
	update(t, s, func(tx *Tx) error {
		tx.Bookkeeping()
		return tx.PutSetting(&Setting{Name: "clock", Value: "1"})
	})
	if s.Changes() != changes {
		t.Error("bookkeeping counts as a change")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, path)
	sealed := s.Found()
	head, err := sealed.Head()
	if err != nil || head.Sequence != 3 || !hmac.Equal(sealed.MAC, hmacSealer{}.mac(sealed.Message())) {
		t.Fatalf("head %+v, %v", head, err)
	}
	if err := s.Update(t.Context(), sample); !errors.Is(err, ErrUnverified) {
		t.Errorf("Update before Resume: %v", err)
	}
	other := *head
	other.Root = root
	if err := s.Resume(t.Context(), hmacSealer{}, &other); !errors.Is(err, ErrChanged) {
		t.Errorf("Resume with another root: %v", err)
	}
	if err := s.Resume(t.Context(), hmacSealer{}, head); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *Tx) error { return tx.PutKey(testKey(8)) })
	if err := s.Lock(t.Context(), "why"); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), sample); !errors.Is(err, ErrUnverified) {
		t.Errorf("Update of a locked store: %v", err)
	}
}

// TestUnsealed: a commit that cannot be authenticated changes nothing.
func TestUnsealed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := adopted(t, path)
	head, err := s.Found().Head()
	if err != nil {
		t.Fatal(err)
	}
	away := errors.New("the token is away")
	if err := s.Resume(t.Context(), hmacSealer{away}, head); err != nil {
		t.Fatal(err)
	}
	before := s.View()
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.PutKey(testKey(9)) }); !errors.Is(err, away) {
		t.Errorf("Update: %v", err)
	}
	if s.View() != before {
		t.Error("the snapshot has changed")
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("the file has changed: %v", err)
	}
}

// TestDoubtful: a commit that is reported as failed and yet is in the file is
// found before the next one, whose head would not fit otherwise.
func TestDoubtful(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := adopted(t, path)
	before, found, sequence := s.View(), s.Found(), s.sequence
	update(t, s, func(tx *Tx) error { return tx.PutKey(testKey(9)) })
	// As if the disk had failed after the commit.
	s.doubtful = &doubt{head: s.Found()}
	s.view.Store(before)
	s.found.Store(found)
	s.sequence = sequence
	update(t, s, func(tx *Tx) error { return tx.PutSetting(&Setting{Name: "next", Value: "1"}) })
	if _, ok := s.View().Key(region, testKey(9).ID); !ok {
		t.Error("the commit that is in the file is not shown")
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	// As if it had failed before it.
	s.doubtful = &doubt{head: &Sealed{Document: []byte("{}"), MAC: []byte{1}}}
	update(t, s, func(tx *Tx) error { return tx.PutSetting(&Setting{Name: "next", Value: "2"}) })
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// TestCheckDamaged: pages of the file that were overwritten while the store has it open
// are found, although SQLite remembers what was in them and the log beside it is whole.
func TestCheckDamaged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := adopted(t, path)
	for i := range 60 { // more than a page
		update(t, s, func(tx *Tx) error { return tx.PutKey(testKey(100 + i)) })
	}
	if _, err := s.db.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *Tx) error { return tx.PutSetting(&Setting{Name: "next", Value: "1"}) })
	if err := s.Check(t.Context()); err != nil {
		t.Fatalf("before: %v", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err == nil {
		_, err = file.WriteAt(bytes.Repeat([]byte{0xa5}, int(info.Size())-8192), 8192)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Check: %v, want ErrCorrupt", err)
	}
}

// TestAdoptOther: only what was looked at is adopted.
func TestAdoptOther(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := adopted(t, path)
	root := s.View().Root()
	db, err := sql.Open("sqlite", path)
	if err == nil {
		_, err = db.ExecContext(t.Context(), `DELETE FROM grants`)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("Check: %v", err)
	}
	nothing := func(*Tx) error { return nil }
	if err := s.Adopt(t.Context(), hmacSealer{}, root, nothing); !errors.Is(err, ErrChanged) {
		t.Errorf("Adopt of what was there: %v", err)
	}
	found, err := s.Compare(t.Context())
	if err != nil || len(found.Rows) == 0 || found.Rows[0].Kind != "missing" || !bytes.Equal(found.Root, root) {
		t.Fatalf("Compare: %+v, %v", found, err)
	}
	if err := s.Adopt(t.Context(), hmacSealer{}, found.Now, nothing); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil || s.View().GrantCount(region, testKey(1).ID) != 0 {
		t.Errorf("after Adopt: %v, %d grants", err, s.View().GrantCount(region, testKey(1).ID))
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
