package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cmkd/backends/loginrecord"
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
	fresh := blank(d.store.View())
	if err := d.Init(ctx); err != nil {
		return err
	}
	d.tentative = nil
	if d.note != nil {
		for _, text := range d.router.notes(fresh) {
			d.note(text)
		}
	}
	return nil
}

// WithNotes has note told, once the daemon's keys are made, what tokens cannot hold, and of keys
// that were in them before.
func WithNotes(note func(text string)) Option { return func(d *Daemon) { d.note = note } }

// notes says of each token that answers which keys it cannot hold. fresh: the database knew of
// no key before, so that those of cmkd's that are in a token are others'.
func (r *router) notes(fresh bool) []string {
	lacks, others := map[string][]string{}, map[string]int{}
	for _, s := range r.served {
		for _, h := range s.hosts {
			info := h.info.Load()
			if info == nil {
				continue
			}
			if fresh {
				others[s.token] = max(others[s.token], info.Token.Keys)
			}
			for _, spec := range info.Specs {
				if name := string(spec.Spec); spec.Unsupported != "" && !slices.Contains(lacks[s.token], name) {
					lacks[s.token] = append(lacks[s.token], name)
				}
			}
		}
	}
	var out []string
	for _, token := range slices.Sorted(maps.Keys(lacks)) {
		slices.Sort(lacks[token])
		out = append(out, fmt.Sprintf("token %s cannot hold keys of %s: cmkctl doctor says why", token, strings.Join(lacks[token], ", ")))
	}
	for _, token := range slices.Sorted(maps.Keys(others)) {
		if n := others[token]; n > 0 {
			out = append(out, fmt.Sprintf("token %s held %d keys of another cmkd before, or of a database that is lost: they stay; "+
				"cmkctl recover says which, and takes in what is yours", token, n))
		}
	}
	return out
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
		path := filepath.Join(cfg.StateDir, e.Name())
		refusedPIN := strings.HasPrefix(e.Name(), loginPrefix) && loginrecord.Remembers(path)
		if !f.names[e.Name()] && !refusedPIN {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	for _, dir := range f.dirs {
		_ = os.Remove(dir) // one with a record of a login in it stays
	}
	return errors.Join(errs...)
}
