package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cmkd/daemon/store"
)

// connect opens the database file.
func (e *Engine) connect(ctx context.Context) (err error) {
	if e.file, err = os.Lstat(e.path); err != nil {
		return err
	}
	e.makeshift = false
	if e.db, err = openDatabase(ctx, e.path, false); !needsRoom(err) {
		return err
	}
	db, again := openDatabase(ctx, e.path, true)
	if again != nil {
		return errors.Join(err, again)
	}
	e.db, e.makeshift = db, true
	e.failed(err) //nolint:errcheck // it is kept
	return nil
}

// keepFiles makes the database's files again if they have been removed.
func (e *Engine) keepFiles(ctx context.Context) error {
	there, err := os.Lstat(e.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = e.restore(ctx)
	case err != nil:
		return err
	case !os.SameFile(there, e.file):
		return fmt.Errorf("%w: %s", store.ErrReplaced, e.path)
	default:
		if _, err := os.Lstat(e.path + "-wal"); e.db != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err = e.reconnect(ctx); err == nil && e.makeshift {
			return nil // nothing has been made again
		}
	}
	if err != nil {
		return fmt.Errorf("making the removed database files again: %w", err)
	}
	if e.restored != nil {
		e.restored()
	}
	return nil
}

// restore copies the database, which lives on for as long as it is open, to
// where it was. After a failure it goes on where it stopped.
func (e *Engine) restore(ctx context.Context) error {
	copied := e.path + ".restored"
	if e.db != nil {
		if err := e.copyTo(ctx, copied); err != nil {
			return err
		}
		// Before the copy is in place: closing removes the log by its name.
		if err := e.disconnect(); err != nil {
			return err
		}
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(e.path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(copied, e.path); err != nil {
		return err
	}
	if err := syncFile(filepath.Dir(e.path)); err != nil {
		return err
	}
	return e.connect(ctx)
}

// copyTo makes a durable copy of the database.
func (e *Engine) copyTo(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := createFile(path); err != nil {
		return err
	}
	// It takes an empty file, whose mode stays (https://sqlite.org/lang_vacuum.html).
	if _, err := e.db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		return err
	}
	return syncFile(path)
}

// reconnect closes the database, which writes the removed log back, and opens
// it again.
func (e *Engine) reconnect(ctx context.Context) error {
	if err := e.disconnect(); err != nil {
		return err
	}
	return e.connect(ctx)
}

func (e *Engine) disconnect() error {
	if e.db == nil {
		return nil
	}
	db := e.db
	e.db = nil
	return db.Close()
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
