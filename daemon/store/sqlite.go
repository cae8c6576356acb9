package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks the database as cmkd's (PRAGMA application_id): "cmkd".
const applicationID = 0x636d6b64

// lockFile takes the lock that keeps a second process out. SQLite's own locks
// would let two processes take turns, each with a snapshot that the other
// makes stale. The kernel drops the lock with the process.
func lockFile(path string) (*os.File, error) {
	f, err := openOwn(path)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return f, nil
}

// unlockFile drops the lock. Closing the file alone would not, as long as a
// child process that has not yet come from fork to exec holds it open too.
func unlockFile(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

// openOwn opens or makes a file of the store's, and follows no link.
func openOwn(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: put the file itself there, or let state_dir name its folder", path)
	}
	return f, err
}

// createFile makes sure that the database file exists and is ours alone.
// SQLite gives its other files the owner and mode of this one.
func createFile(path string) error {
	f, err := openOwn(path)
	if err != nil {
		return err
	}
	err = checkFile(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func checkFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%w: not a regular file", ErrPermissions)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%w: mode %04o, want 0600", ErrPermissions, st.Mode&0o7777)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%w: owned by uid %d, not by uid %d", ErrPermissions, st.Uid, os.Geteuid())
	}
	return nil
}

// explained is err and, if that is what it may come from, that the disk is full:
// SQLite calls it an I/O error where it maps a file.
func explained(path string, err error) error {
	var st unix.Statfs_t
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok || e.Code()&0xff != sqlite3.SQLITE_IOERR || unix.Statfs(filepath.Dir(path), &st) != nil || st.Bavail > 0 {
		return err
	}
	return fmt.Errorf("%w: %w", err, unix.ENOSPC)
}

// needsRoom reports whether the database was not opened for want of files beside
// it, which SQLite makes for the log and for the memory that its users share.
func needsRoom(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
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
	// From now on the store itself waits for who has it locked.
	if _, err := db.ExecContext(ctx, "PRAGMA busy_timeout = 0"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// checkDatabase refuses files that SQLite does not know or finds damaged,
// databases of other programs, and a SQLite that would not keep what it
// acknowledged.
func checkDatabase(ctx context.Context, db *sql.DB) error {
	var id, tables, synchronous int
	var journal string
	err := db.QueryRowContext(ctx, `SELECT
		(SELECT application_id FROM pragma_application_id),
		(SELECT count(*) FROM sqlite_schema),
		(SELECT synchronous FROM pragma_synchronous),
		(SELECT journal_mode FROM pragma_journal_mode)`).Scan(&id, &tables, &synchronous, &journal)
	switch {
	case err != nil:
		return corrupt(err)
	case tables > 0 && id != applicationID:
		return fmt.Errorf("%w: it belongs to another program (application_id %#x)", ErrCorrupt, id)
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
		return fmt.Errorf("%w: %s", ErrCorrupt, damage)
	}
	return nil
}

// corrupt marks the errors by which SQLite says that a file is damaged.
func corrupt(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff { // the primary result code
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT:
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
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
		return fmt.Errorf("%w: version %d, want at most %d", ErrNewerSchema, current, target)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema from version %d to %d: %w", current, target, corrupt(err))
	}
	return nil
}

// load reads all rows into view.
func load(ctx context.Context, db *sql.DB, view *View) error {
	var leaves []leaf
	err := errors.Join(
		loadTable(ctx, db, keyKind, &view.keys, &leaves),
		loadTable(ctx, db, versionKind, &view.versions, &leaves),
		loadTable(ctx, db, aliasKind, &view.aliases, &leaves),
		loadTable(ctx, db, grantKind, &view.grants, &leaves),
		loadTable(ctx, db, usageKind, &view.usages, &leaves),
		loadTable(ctx, db, intentKind, &view.intents, &leaves),
		loadTable(ctx, db, systemKeyKind, &view.systemKeys, &leaves),
		loadTable(ctx, db, importKind, &view.imports, &leaves),
		loadTable(ctx, db, customKeyStoreKind, &view.customKeyStores, &leaves),
		loadTable(ctx, db, settingKind, &view.settings, &leaves),
	)
	if err != nil {
		return err
	}
	view.hashes = newHashes(leaves)
	return nil
}

func loadTable[T any](ctx context.Context, db *sql.DB, k *kind[T], t *table[T], leaves *[]leaf) error {
	rows, err := db.QueryContext(ctx, k.query())
	if err != nil {
		return fmt.Errorf("reading %s: %w", k.table, corrupt(err))
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	columns, document, targets := k.targets()
	b := newBuilder(k)
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return fmt.Errorf("reading %s: %w", k.table, corrupt(err))
		}
		row, err := decode[T](*document)
		if err == nil {
			err = matches(k, columns, row)
		}
		if err == nil {
			err = b.add(row)
		}
		if err != nil {
			return fmt.Errorf("%w: %s %v: %w", ErrCorrupt, k.table, printable(columns), err)
		}
		*leaves = append(*leaves, newLeaf(k.table, rowName(columns[:k.primary]), *document))
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", k.table, corrupt(err))
	}
	*t = b.table()
	return nil
}

// matches compares the columns with the fields of the document.
func matches[T any](k *kind[T], columns []any, row *T) error {
	fields := k.fields(row)
	if err := k.check(fields); err != nil {
		return err
	}
	for i, f := range fields {
		var same bool
		switch f := f.(type) {
		case string:
			same = columns[i] == any(f)
		case int:
			same = columns[i] == any(int64(f))
		case []byte:
			column, ok := columns[i].([]byte)
			same = ok && bytes.Equal(column, f)
		}
		if !same {
			return fmt.Errorf("column %s differs from the document", k.columns[i])
		}
	}
	return nil
}

// printable makes byte strings readable in an error text.
func printable(columns []any) []any {
	out := make([]any, len(columns))
	for i, c := range columns {
		out[i] = c
		if b, ok := c.([]byte); ok {
			out[i] = fmt.Sprintf("%x", b)
		}
	}
	return out
}
