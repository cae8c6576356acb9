package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"cmkd/daemon/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks the database as cmkd's (PRAGMA application_id): "cmkd".
const applicationID = 0x636d6b64

// explained is err and, if that is what it may come from, that the disk is full:
// SQLite calls it an I/O error where it maps a file.
func explained(path string, err error) error {
	var st unix.Statfs_t
	e, ok := errors.AsType[*driver.Error](err)
	if !ok || e.Code()&0xff != sqlite3.SQLITE_IOERR || unix.Statfs(filepath.Dir(path), &st) != nil || st.Bavail > 0 {
		return err
	}
	return fmt.Errorf("%w: %w", err, unix.ENOSPC)
}

// needsRoom reports whether the database was not opened for want of files beside
// it, which SQLite makes for the log and for the memory that its users share.
func needsRoom(err error) bool {
	e, ok := errors.AsType[*driver.Error](err)
	if !ok {
		return false
	}
	switch e.Code() & 0xff { // the primary result code
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
		return true
	}
	return false
}

// openDatabase opens the file. alone: without shared memory, for this process
// alone (https://sqlite.org/wal.html#noshm).
func openDatabase(ctx context.Context, path string, alone bool) (*sql.DB, error) {
	pragmas := []string{
		"busy_timeout(5000)", // for an operator's sqlite3 shell, say
		"synchronous(FULL)",  // fsync with every commit
		"foreign_keys(ON)",
		"trusted_schema(OFF)",
		"cell_size_check(ON)",
	}
	if alone { // it comes before anything that looks at the file, as journal_mode does
		pragmas = slices.Insert(pragmas, 0, "locking_mode(EXCLUSIVE)")
	} else {
		pragmas = append(pragmas, "journal_mode(WAL)")
	}
	options := url.Values{"_txlock": {"immediate"}, "_pragma": pragmas}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	name := url.URL{Scheme: "file", Path: absolute, RawQuery: options.Encode()}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := checkDatabase(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	// From now on the engine itself waits for who has it locked.
	if _, err := db.ExecContext(ctx, "PRAGMA busy_timeout = 0"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// checkDatabase refuses files that SQLite does not know or finds damaged,
// databases of other programs, and a SQLite that would not keep what it
// acknowledged. One with nothing but the table of the migrations is new: the disk was full
// when the first was made.
func checkDatabase(ctx context.Context, db *sql.DB) error {
	var id, tables, synchronous int
	var journal string
	err := db.QueryRowContext(ctx, `SELECT
		(SELECT application_id FROM pragma_application_id),
		(SELECT count(*) FROM sqlite_schema WHERE name != 'goose_db_version' AND name NOT LIKE 'sqlite_%'),
		(SELECT synchronous FROM pragma_synchronous),
		(SELECT journal_mode FROM pragma_journal_mode)`).Scan(&id, &tables, &synchronous, &journal)
	switch {
	case err != nil:
		return corrupt(err)
	case tables > 0 && id != applicationID:
		return fmt.Errorf("%w: it belongs to another program (application_id %#x)", store.ErrCorrupt, id)
	case synchronous != 2 || journal != "wal":
		return fmt.Errorf("journal_mode is %s and synchronous is %d, want wal and 2 (FULL): "+
			"does the file system support shared memory maps?", journal, synchronous)
	}
	// All pages are about to be read anyway.
	return checkPages(ctx, db)
}

// checkPages has SQLite read every page: a damaged table that reads as an empty one
// would otherwise go unnoticed.
func checkPages(ctx context.Context, db *sql.DB) error {
	var damage string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&damage); err != nil {
		return corrupt(err)
	}
	if damage != "ok" {
		return fmt.Errorf("%w: %s", store.ErrCorrupt, damage)
	}
	return nil
}

// corrupt marks the errors by which SQLite says that a file is damaged.
func corrupt(err error) error {
	var e *driver.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff { // the primary result code
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT:
			return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
	}
	return err
}

// migrate brings the schema up to date, each migration in a transaction.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema version: %w", corrupt(err))
	}
	if current > target {
		return fmt.Errorf("%w: version %d, want at most %d", store.ErrNewerSchema, current, target)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema from version %d to %d: %w", current, target, corrupt(err))
	}
	return nil
}
