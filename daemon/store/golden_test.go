package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sequence makes commits of every sort: with and without a head, bookkeeping,
// failed ones, deletions and rows that are put twice.
func sequence(t testing.TB, s *Store) {
	t.Helper()
	update(t, s, sample)
	update(t, s, func(tx *Tx) error { // a rotation
		old, _ := tx.CurrentVersion(testKey(1).ID)
		retired := *old
		retired.State, retired.Encryptions = "NON_CURRENT", 1<<20
		next := testVersion(1)
		next.Number, next.CKAID, next.MaterialID = 2, []byte("of key 1, second"), strings.Repeat("ab", 32)
		next.Rotated, next.RotationType = created.AddDate(1, 0, 0), "ON_DEMAND"
		return errors.Join(tx.PutVersion(&retired), tx.PutVersion(next))
	})
	failed := errors.New("failed")
	if err := s.Update(context.Background(), func(tx *Tx) error {
		tx.DeleteKey(region, testKey(1).ID)
		return failed
	}); !errors.Is(err, failed) {
		t.Error(err)
	}
	nothing := func(*Tx) error { return nil }
	if err := s.Adopt(context.Background(), hmacSealer{}, s.View().Root(), nothing); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *Tx) error {
		for _, value := range []string{"1", "2"} {
			if err := tx.PutSetting(&Setting{Name: "clock", Value: value}); err != nil {
				return err
			}
		}
		tx.Bookkeeping()
		return nil
	})
	update(t, s, func(tx *Tx) error {
		k := testKey(3)
		k.Description, k.State, k.Deletion, k.PendingWindowDays = "\u2028 \"quoted\" <&>", "PendingDeletion", created.AddDate(0, 0, 7), 7
		tx.DeleteKey(region, testKey(2).ID)
		tx.DeleteIntent([]byte{0, 1})
		return errors.Join(tx.PutKey(k),
			tx.PutAlias(&Alias{Region: region, Name: "alias/gone", KeyID: k.ID, Created: created}),
			tx.PutGrant(&Grant{Region: region, KeyID: k.ID, ID: "no constraint", Grantee: "g", Issuer: "i", ContextEquals: map[string]string{}, Created: created}))
	})
	update(t, s, func(tx *Tx) error {
		tx.DeleteAlias(region, "alias/gone")
		tx.DeleteVersion(testKey(2).ID, 1)
		tx.DeleteSystemKey("main", "wrapping", 9)
		return nil
	})
	update(t, s, func(tx *Tx) error { tx.WriteHead(); return nil })
}

// dump is the schema and all rows of a database, but for the times of migrations.
func dump(t *testing.T, path string) []byte {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var out bytes.Buffer
	print := func(query string) {
		rows, err := db.QueryContext(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		values, targets := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		fmt.Fprintf(&out, "-- %s\n", query)
		for rows.Next() {
			if err := rows.Scan(targets...); err != nil {
				t.Fatal(err)
			}
			for i, c := range columns {
				format := "%s=%v "
				if _, ok := values[i].([]byte); ok {
					format = "%s=%x "
				}
				if c != "tstamp" {
					fmt.Fprintf(&out, format, c, values[i])
				}
			}
			out.WriteByte('\n')
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	print("PRAGMA application_id")
	print("PRAGMA journal_mode")
	print("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")
	for _, table := range []string{
		"aliases", "custom_key_stores", "goose_db_version", "grants", "head", "import_parameters", "intents",
		"keys", "row_hashes", "settings", "system_keys", "usages", "versions",
	} {
		print("SELECT * FROM " + table + " ORDER BY 1, 2")
	}
	return out.Bytes()
}

// TestGoldenSequence: what a fixed sequence of commits leaves in the file is what
// it left before, and a file of the version before opens and verifies.
func TestGoldenSequence(t *testing.T) {
	t.Parallel()
	const text, file = "testdata/sequence.txt", "testdata/v2.db"
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	sequence(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got := dump(t, path)
	if *golden {
		copyFile(t, path, file)
		if err := os.WriteFile(text, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(text)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the rows differ from %s (%v):\n%s", text, err, got)
	}
	copyFile(t, file, path)
	if got := dump(t, path); !bytes.Equal(got, want) {
		t.Errorf("the rows of %s differ from %s", file, text)
	}
	s = open(t, path)
	sealed := s.Found()
	head, err := sealed.Head()
	if err != nil || !hmac.Equal(sealed.MAC, hmacSealer{}.mac(sealed.Message())) || !bytes.Equal(head.Root, s.View().Root()) || head.Sequence != 5 {
		t.Fatalf("head %+v, %v", head, err)
	}
	if err := s.Resume(t.Context(), hmacSealer{}, head); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *Tx) error { return tx.PutKey(testKey(8)) })
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if found, err := s.Compare(t.Context()); err != nil || len(found.Rows) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
}
