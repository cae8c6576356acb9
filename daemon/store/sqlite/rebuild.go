package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cmkd/daemon/store"
)

// Rebuild puts a new database in the place of one that cannot be opened, which no store
// has open. fill fills it, before anything of the old one is touched. The files of the old
// one are kept beside it, under the name that Rebuild returns. Whenever it is
// interrupted, there is the old database or the new one.
func Rebuild(ctx context.Context, path string, fill func(store.Engine) error) (aside string, err error) {
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return "", openingFailed(path, err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	fresh := path + ".rebuilt"
	clean := func() error { return errors.Join(Remove(fresh), removeFile(fresh+".lock")) } // nobody else has it
	if err := clean(); err != nil {                                                        // of a rebuild that was interrupted
		return "", err
	}
	defer func() { err = errors.Join(err, clean()) }()
	engine, err := NewEngine(ctx, fresh, Options{})
	if err != nil {
		return "", err
	}
	// Closing writes the log back into the file.
	if err := errors.Join(fill(engine), engine.Close()); err != nil {
		return "", err
	}
	if err := syncFile(fresh); err != nil {
		return "", err
	}
	aside = path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000")
	if err := os.Link(path, aside); err != nil {
		return "", fmt.Errorf("setting the damaged database aside: %w", err)
	}
	// The log belongs to the old file. SQLite would apply it to the new one.
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", err
	}
	return aside, syncFile(filepath.Dir(path))
}

// Remove removes the files of a database, those that are there. The caller has it locked.
func Remove(path string) error {
	return errors.Join(removeFile(path), removeFile(path+"-wal"), removeFile(path+"-shm"))
}

func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
