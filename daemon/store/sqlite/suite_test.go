package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
)

// database is a database file for the suite of storetest.
type database struct {
	path   string
	engine *Engine // opened last
}

func newDatabase(t testing.TB) *database {
	return &database{path: filepath.Join(t.TempDir(), "store.db")}
}

// Open implements [storetest.Database].
func (d *database) Open(ctx context.Context) (store.Engine, error) {
	engine, err := NewEngine(ctx, d.path, Options{})
	if err != nil {
		return nil, err
	}
	d.engine = engine
	return engine, nil
}

// store opens the database, and closes it with the test.
func (d *database) store(t testing.TB) *store.Store {
	t.Helper()
	return storetest.Open(t, d)
}

// Shared implements [storetest.Database].
func (*database) Shared() bool { return false }

// Hold implements [storetest.Database].
func (d *database) Hold(t testing.TB) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+d.path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(tx.Rollback(), db.Close()); err != nil {
			t.Error(err)
		}
	}
}

// Fill implements [storetest.Database].
func (d *database) Fill(t testing.TB) (release func()) {
	t.Helper()
	var pages, most int
	if err := d.engine.db.QueryRowContext(t.Context(), "PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit := func(n int) {
		if err := d.engine.db.QueryRowContext(context.Background(), fmt.Sprintf("PRAGMA max_page_count = %d", n)).Scan(&most); err != nil {
			t.Fatal(err)
		}
	}
	limit(pages + 200)
	return func() { limit(1 << 30) }
}

// AfterCommit implements [storetest.Database].
func (d *database) AfterCommit(f func() error) { d.engine.afterCommit = f }

// Copy implements [storetest.Database].
func (d *database) Copy(t testing.TB) (restore func()) {
	t.Helper()
	backup := filepath.Join(t.TempDir(), "backup")
	d.query(t, "VACUUM INTO '"+backup+"'")
	return func() {
		t.Helper()
		statements := []string{"ATTACH '" + backup + "' AS backup"}
		for _, table := range append(names(), "head", "row_hashes") {
			statements = append(statements, "DELETE FROM "+table, "INSERT INTO "+table+" SELECT * FROM backup."+table)
		}
		d.query(t, statements...)
	}
}

func names() []string {
	var all []string
	for _, t := range store.Tables() {
		all = append(all, t.Name)
	}
	return all
}

// Crash implements [storetest.Database].
func (d *database) Crash(t testing.TB) storetest.Database {
	t.Helper()
	after := newDatabase(t)
	for _, suffix := range []string{"", "-wal"} {
		copyFile(t, d.path+suffix, after.path+suffix)
	}
	return after
}

// Overwrite implements [storetest.Database].
func (d *database) Overwrite(t testing.TB, table, document string) {
	d.query(t, "UPDATE "+table+" SET document = '"+document+"'")
}

// DeleteRows implements [storetest.Database].
func (d *database) DeleteRows(t testing.TB, table string) { d.query(t, "DELETE FROM "+table) }

// query executes statements behind the engine's back.
func (d *database) query(t testing.TB, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+d.path+"?_pragma=busy_timeout(30000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, statement := range statements {
		if _, err := db.ExecContext(context.Background(), statement); err != nil {
			t.Fatal(statement, err)
		}
	}
}

func TestSuite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Database { return newDatabase(t) })
}

func open(t testing.TB, path string) *store.Store {
	t.Helper()
	return storetest.Open(t, &database{path: path})
}

// TestCheckDamaged: pages of the file that were overwritten while the store has it open
// are found, although SQLite remembers what was in them and the log beside it is whole.
func TestCheckDamaged(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	s := d.store(t)
	storetest.Adopt(t, s)
	for i := range 60 { // more than a page
		storetest.Update(t, s, func(tx *store.Tx) error { return tx.PutKey(storetest.Key(100 + i)) })
	}
	if _, err := d.engine.db.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	storetest.Update(t, s, func(tx *store.Tx) error { return tx.PutSetting(&store.Setting{Name: "next", Value: "1"}) })
	if err := s.Check(t.Context()); err != nil {
		t.Fatalf("before: %v", err)
	}
	file, err := os.OpenFile(d.path, os.O_RDWR, 0)
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
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Check: %v, want ErrCorrupt", err)
	}
}
