package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"cmkd/daemon/config"
)

// Initialise is `cmkd -init`: [Open], [Daemon.Init] and [Daemon.Close]. One that fails
// before anything in a token is explained by the database takes back the files that it
// has made. Only the record of a PIN that a token refused stays: the same PIN must not
// be tried again.
func Initialise(ctx context.Context, path string, log *slog.Logger, options ...Option) (err error) {
	var d *Daemon
	d, err = Open(ctx, path, log, append(options, func(d *Daemon) { d.tentative, d.impatient = &footprint{}, true })...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(context.WithoutCancel(ctx))) }()
	if err := d.Init(ctx); err != nil {
		return err
	}
	d.tentative = nil
	return nil
}

// footprint is what an initialisation that may fail has found in the file system.
type footprint struct {
	// dirs are the state folder and those above it that were not there, from the inside out.
	dirs []string
	// names are what was in the state folder.
	names map[string]bool
	// trail and database: there was an audit folder, there was a database.
	trail, database bool
}

// look notes what is there before anything is made.
func (f *footprint) look(cfg *config.Config) error {
	f.names = map[string]bool{}
	for dir := cfg.StateDir; absent(dir); dir = filepath.Dir(dir) {
		f.dirs = append(f.dirs, dir)
	}
	f.trail = !absent(cfg.AuditDir)
	f.database = !absent(databasePath(cfg))
	entries, err := os.ReadDir(cfg.StateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		f.names[e.Name()] = true
	}
	return nil
}

func databasePath(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "cmkd.db") }

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// takeBack removes what was made since. The caller holds the lock of the database, which
// names nothing in a token.
func (f *footprint) takeBack(cfg *config.Config) error {
	var errs []error
	if !f.trail {
		errs = append(errs, os.RemoveAll(cfg.AuditDir))
	}
	entries, err := os.ReadDir(cfg.StateDir)
	errs = append(errs, err)
	for _, e := range entries {
		info, err := e.Info()
		refusedPIN := strings.HasPrefix(e.Name(), loginPrefix) && err == nil && info.Size() > 0
		if !f.names[e.Name()] && !refusedPIN {
			errs = append(errs, os.RemoveAll(filepath.Join(cfg.StateDir, e.Name())))
		}
	}
	for _, dir := range f.dirs {
		_ = os.Remove(dir) // one with a record of a login in it stays
	}
	return errors.Join(errs...)
}
