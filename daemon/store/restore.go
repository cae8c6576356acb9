package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// connect opens the database file.
func (s *Store) connect(ctx context.Context) (err error) {
	if s.file, err = os.Lstat(s.path); err != nil {
		return err
	}
	s.makeshift = false
	if s.db, err = openDatabase(ctx, s.path, false); !needsRoom(err) {
		return err
	}
	db, again := openDatabase(ctx, s.path, true)
	if again != nil {
		return errors.Join(err, again)
	}
	s.db, s.makeshift = db, true
	s.failed(err) //nolint:errcheck // it is kept
	return nil
}

// keepFiles makes the database's files again if they have been removed.
func (s *Store) keepFiles(ctx context.Context) error {
	there, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = s.restore(ctx)
	case err != nil:
		return err
	case !os.SameFile(there, s.file):
		return fmt.Errorf("%w: %s", ErrReplaced, s.path)
	default:
		if _, err := os.Lstat(s.path + "-wal"); s.db != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err = s.reconnect(ctx); err == nil && s.makeshift {
			return nil // nothing has been made again
		}
	}
	if err != nil {
		return fmt.Errorf("making the removed database files again: %w", err)
	}
	if s.restored != nil {
		s.restored()
	}
	return nil
}

// restore copies the database, which lives on for as long as it is open, to
// where it was. After a failure it goes on where it stopped.
func (s *Store) restore(ctx context.Context) error {
	copied := s.path + ".restored"
	if s.db != nil {
		if err := s.copyTo(ctx, copied); err != nil {
			return err
		}
		// Before the copy is in place: closing removes the log by its name.
		if err := s.disconnect(); err != nil {
			return err
		}
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(s.path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(copied, s.path); err != nil {
		return err
	}
	if err := syncFile(filepath.Dir(s.path)); err != nil {
		return err
	}
	return s.connect(ctx)
}

// copyTo makes a durable copy of the database.
func (s *Store) copyTo(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := createFile(path); err != nil {
		return err
	}
	// It takes an empty file, whose mode stays (https://sqlite.org/lang_vacuum.html).
	if _, err := s.db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		return err
	}
	return syncFile(path)
}

// reconnect closes the database, which writes the removed log back, and opens
// it again.
func (s *Store) reconnect(ctx context.Context) error {
	if err := s.disconnect(); err != nil {
		return err
	}
	return s.connect(ctx)
}

func (s *Store) disconnect() error {
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return db.Close()
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
