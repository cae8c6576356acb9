package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
)

var golden = flag.Bool("golden", false, "write testdata again")

// TestGolden opens a database that schema version 1 wrote.
func TestGolden(t *testing.T) {
	const v1 = "testdata/v1.db"
	path := filepath.Join(t.TempDir(), "store.db")
	if *golden {
		s := open(t, path)
		storetest.Update(t, s, storetest.Sample)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		copyFile(t, path, v1)
	}
	copyFile(t, v1, path)
	storetest.CheckSample(t, open(t, path).View())
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRefusedFiles opens stores that somebody has tampered with or that are
// none. The file must stay as it is.
func TestRefusedFiles(t *testing.T) {
	t.Parallel()
	statement := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			db, err := sql.Open("sqlite", path)
			if err == nil {
				_, err = db.ExecContext(t.Context(), text)
			}
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	bytes := func(change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, change(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(*testing.T, string)
		want  error
		text  string
	}{
		"unknown field": {
			statement(`UPDATE settings SET document = json_insert(document, '$.Colour', 'red')`),
			store.ErrCorrupt, "Colour",
		},
		"field of another type": {
			statement(`UPDATE settings SET document = json_set(document, '$.Value', 1)`), store.ErrCorrupt, "settings [\"account\"]",
		},
		"cut document": {
			statement(`UPDATE keys SET document = substr(document, 1, 50)`), store.ErrCorrupt, "keys [",
		},
		"row moved to another key": {
			statement(`UPDATE grants SET key_id = '00000002-0000-4000-8000-000000000000' WHERE id LIKE '%4'`),
			store.ErrCorrupt, "column key_id differs",
		},
		"document of another row": {
			statement(`UPDATE keys SET document = (SELECT document FROM keys WHERE region = 'eu-west-1')`),
			store.ErrCorrupt, "column",
		},
		"CKA_ID changed": {
			statement(`UPDATE versions SET cka_id = x'00' WHERE number = 2`), store.ErrCorrupt, "column cka_id differs",
		},
		"second current version": {
			statement(`UPDATE versions SET document = json_set(document, '$.State', 'CURRENT')`),
			store.ErrCorrupt, "same current version",
		},
		"newer schema": {
			statement(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`),
			store.ErrNewerSchema, "version 999",
		},
		"other program": {statement(`PRAGMA application_id = 7`), store.ErrCorrupt, "another program"},
		"no database": {
			bytes(func([]byte) []byte { return []byte(strings.Repeat("not a database. ", 64)) }), store.ErrCorrupt, "",
		},
		"truncated": {bytes(func(b []byte) []byte { return b[:len(b)/2] }), store.ErrCorrupt, ""},
		"page overwritten": {
			bytes(func(b []byte) []byte { return append(b[:4096], make([]byte, len(b)-4096)...) }), store.ErrCorrupt, "",
		},
		"group may read": {func(t *testing.T, path string) {
			t.Helper()
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		}, store.ErrPermissions, "mode 0640, want 0600"},
		"directory": {func(t *testing.T, path string) {
			t.Helper()
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, nil, "is a directory"},
		"symbolic link": {func(t *testing.T, path string) {
			t.Helper()
			if err := errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path)); err != nil {
				t.Fatal(err)
			}
		}, nil, "is a symbolic link: put the file itself there"},
		"no folder": {func(t *testing.T, path string) {
			t.Helper()
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, os.ErrNotExist, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "sub", "store.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			s := open(t, path)
			storetest.Update(t, s, storetest.Sample)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, path)
			before, _ := os.ReadFile(path)
			s, err := Open(t.Context(), path, Options{})
			if err == nil {
				t.Fatal("opened", s.Close())
			}
			if (c.want != nil && !errors.Is(err, c.want)) || !strings.Contains(err.Error(), c.text) ||
				!strings.Contains(err.Error(), "opening the store "+path) {
				t.Errorf("got %q, want %v and %q", err, c.want, c.text)
			}
			if after, _ := os.ReadFile(path); !reflect.DeepEqual(before, after) {
				t.Error("the refused file was changed")
			}
		})
	}
}

// TestUnfinished: a database whose first migration failed is as good as none.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := db.QueryContext(t.Context(), "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name != 'goose_db_version'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	statements := []string{"DELETE FROM goose_db_version WHERE version_id > 0", "PRAGMA application_id = 0"}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		statements = append(statements, "DROP TABLE "+name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, text := range statements {
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	storetest.Update(t, s, storetest.Sample)
}

func TestLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("in this process: %v", err)
	}
	out, err := childCommand(t, "open", path).Output()
	if err == nil || !strings.Contains(string(out), store.ErrLocked.Error()) {
		t.Errorf("in another process: %v, %s", err, out)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := childCommand(t, "open", path).Output(); err != nil {
		t.Errorf("after Close: %v, %s", err, out)
	}
}

func TestFileModes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storetest.Update(t, open(t, filepath.Join(dir, "store.db")), storetest.Sample)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%v, %v: want the database, its log, its index and the lock", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", e.Name(), info.Mode().Perm())
		}
	}
}

func TestOpenCancelled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, path, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	storetest.Update(t, open(t, path), storetest.Sample)
}

// TestFilesRemoved takes the database's files away under the store: what it
// acknowledges is there when it is opened again.
func TestFilesRemoved(t *testing.T) {
	t.Parallel()
	for _, suffixes := range [][]string{{""}, {"-wal"}, {"", "-wal", "-shm"}} {
		t.Run(strings.Join(suffixes, ","), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "store.db")
			restored := 0
			s, err := Open(t.Context(), path, Options{Restored: func() { restored++ }})
			if err != nil {
				t.Fatal(err)
			}
			storetest.Update(t, s, storetest.Sample)
			for i := 11; i < 14; i++ {
				for _, suffix := range suffixes {
					if err := os.Remove(path + suffix); err != nil {
						t.Fatal(err)
					}
				}
				storetest.Update(t, s, func(tx *store.Tx) error { return tx.PutKey(storetest.Key(i)) })
			}
			// A copy of the files, as a crash would leave them.
			crashed := filepath.Join(t.TempDir(), "store.db")
			for _, suffix := range []string{"", "-wal"} {
				b, err := os.ReadFile(path + suffix)
				if err == nil {
					err = os.WriteFile(crashed+suffix, b, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{path, crashed} {
				view := open(t, path).View()
				for _, i := range []int{1, 2, 11, 12, 13} {
					if _, ok := view.Key(storetest.Region, storetest.Key(i).ID); !ok {
						t.Errorf("key %d is lost", i)
					}
				}
			}
			if restored != 3 {
				t.Errorf("restored %d times, want 3", restored)
			}
		})
	}
}

// TestFileReplaced: what another file lies over is not written to.
func TestFileReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	storetest.Update(t, s, storetest.Sample)
	if err := errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutKey(storetest.Key(11)) })
	if _, ok := s.View().Key(storetest.Region, storetest.Key(11).ID); !errors.Is(err, store.ErrReplaced) || ok {
		t.Errorf("stored: %t, %v", ok, err)
	}
}

// TestReconnect: a database that could not be opened again, but for its log, is
// opened with the next change.
func TestReconnect(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	s := d.store(t)
	storetest.Update(t, s, storetest.Sample)
	if err := d.engine.disconnect(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.path+"-wal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	storetest.Update(t, s, func(tx *store.Tx) error { return tx.PutKey(storetest.Key(11)) })
}
