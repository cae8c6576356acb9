package sqlite

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

	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
)

// sequence makes commits of every sort: with and without a head, bookkeeping,
// failed ones, deletions and rows that are put twice.
func sequence(t testing.TB, s *store.Store) {
	t.Helper()
	storetest.Update(t, s, storetest.Sample)
	storetest.Update(t, s, func(tx *store.Tx) error { // a rotation
		old, _ := tx.CurrentVersion(storetest.Key(1).ID)
		retired := *old
		retired.State, retired.Encryptions = "NON_CURRENT", 1<<20
		next := storetest.Version(1)
		next.Number, next.CKAID, next.MaterialID = 2, []byte("of key 1, second"), strings.Repeat("ab", 32)
		next.Rotated, next.RotationType = storetest.Created.AddDate(1, 0, 0), "ON_DEMAND"
		return errors.Join(tx.PutVersion(&retired), tx.PutVersion(next))
	})
	failed := errors.New("failed")
	if err := s.Update(context.Background(), func(tx *store.Tx) error {
		tx.DeleteKey(storetest.Region, storetest.Key(1).ID)
		return failed
	}); !errors.Is(err, failed) {
		t.Error(err)
	}
	nothing := func(*store.Tx) error { return nil }
	if err := s.Adopt(context.Background(), storetest.Sealer{}, s.View().Root(), nothing); err != nil {
		t.Fatal(err)
	}
	storetest.Update(t, s, func(tx *store.Tx) error {
		for _, value := range []string{"1", "2"} {
			if err := tx.PutSetting(&store.Setting{Name: "clock", Value: value}); err != nil {
				return err
			}
		}
		tx.Bookkeeping()
		return nil
	})
	storetest.Update(t, s, func(tx *store.Tx) error {
		k := storetest.Key(3)
		k.Description, k.State, k.Deletion, k.PendingWindowDays = "\u2028 \"quoted\" <&>", "PendingDeletion", storetest.Created.AddDate(0, 0, 7), 7
		tx.DeleteKey(storetest.Region, storetest.Key(2).ID)
		tx.DeleteIntent([]byte{0, 1})
		return errors.Join(tx.PutKey(k),
			tx.PutAlias(&store.Alias{Region: storetest.Region, Name: "alias/gone", KeyID: k.ID, Created: storetest.Created}),
			tx.PutGrant(&store.Grant{Region: storetest.Region, KeyID: k.ID, ID: "no constraint", Grantee: "g", Issuer: "i", ContextEquals: map[string]string{}, Created: storetest.Created}))
	})
	storetest.Update(t, s, func(tx *store.Tx) error {
		tx.DeleteAlias(storetest.Region, "alias/gone")
		tx.DeleteVersion(storetest.Key(2).ID, 1)
		tx.DeleteSystemKey("main", "wrapping", 9)
		return nil
	})
	storetest.Update(t, s, func(tx *store.Tx) error { tx.WriteHead(); return nil })
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
	printAll := func(query string) {
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
	printAll("PRAGMA application_id")
	printAll("PRAGMA journal_mode")
	printAll("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")
	for _, table := range []string{
		"aliases", "custom_key_stores", "goose_db_version", "grants", "head", "import_parameters", "intents",
		"keys", "row_hashes", "settings", "system_keys", "usages", "versions",
	} {
		printAll("SELECT * FROM " + table + " ORDER BY 1, 2")
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
	if err != nil || !hmac.Equal(sealed.MAC, storetest.Sealer{}.MAC(sealed.Message())) || !bytes.Equal(head.Root, s.View().Root()) || head.Sequence != 5 {
		t.Fatalf("head %+v, %v", head, err)
	}
	if err := s.Resume(t.Context(), storetest.Sealer{}, head); err != nil {
		t.Fatal(err)
	}
	storetest.Update(t, s, func(tx *store.Tx) error { return tx.PutKey(storetest.Key(8)) })
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if found, err := s.Compare(t.Context()); err != nil || len(found.Rows) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
}
