package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"cmkd/daemon/backup"
	"cmkd/daemon/config"
	"cmkd/daemon/store"
	"cmkd/daemon/store/sqlite"
	"cmkd/daemon/trust"
	"cmkd/plugins"
	"cmkd/socket/operatorapi"
)

// restoring is a restore under way.
type restoring struct {
	cfg   *config.Config
	log   *slog.Logger
	rows  []*store.Row
	found *backup.Found
	head  *store.Sealed
	plan  *operatorapi.RestorePlan
}

// Restore compares the backup in file with the database of the configuration, which no
// daemon may have open, after the token has verified it. If accept is the name of the
// plan that comes out, the plan is carried out: in one commit, so that a restore that is
// interrupted leaves the old database or the new one. An older state is one after it too:
// the daemon waits for [kms.Service.AcceptState].
func Restore(ctx context.Context, path, file, accept string, log *slog.Logger) (_ *operatorapi.RestorePlan, err error) {
	cfg, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	if err := cfg.CheckTrusted(); err != nil {
		return nil, err
	}
	r := &restoring{cfg: cfg, log: log, plan: &operatorapi.RestorePlan{}}
	if err := r.read(file); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state folder: %w", err)
	}
	lost := cfg.Store.Engine != config.EngineEtcd && absent(databasePath(cfg))
	engine, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if lost && !r.plan.Done { // the engine has made an empty one, which is still locked
			err = errors.Join(err, sqlite.Remove(databasePath(cfg)))
		}
		if engine != nil {
			err = errors.Join(err, engine.Close())
		}
	}()
	if err := r.verify(ctx, log); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	replacement, err := r.compare(ctx, engine)
	if err != nil {
		return nil, err
	}
	switch {
	case accept == "" || r.plan.Same:
		return r.plan, nil
	case accept != r.plan.Plan:
		return nil, errors.New("the database or the backup is not the one that was shown: look again")
	}
	if err := r.leaveNote(); err != nil {
		return nil, err
	}
	if r.plan.Damage == "" {
		err = replacement.Commit(ctx)
		if err != nil && !errors.Is(err, store.ErrUnknown) { // then the next start does not record what was not done
			err = errors.Join(err, os.Remove(restoreNotePath(cfg)))
		}
	} else {
		var aside string
		aside, err = sqlite.Rebuild(ctx, databasePath(cfg), func(e store.Engine) error {
			fresh, err := store.NewReplacement(ctx, e, r.rows, r.head)
			if err != nil {
				return err
			}
			return fresh.Commit(ctx)
		})
		if err != nil && aside == "" { // nor what had not begun
			err = errors.Join(err, os.Remove(restoreNotePath(cfg)))
		}
		r.plan.Warnings = append(r.plan.Warnings, "the damaged database is kept as "+aside)
	}
	if err != nil {
		return nil, fmt.Errorf("restoring: %w", err)
	}
	r.plan.Done = true
	return r.plan, nil
}

// read reads the backup.
func (r *restoring) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	r.found, err = backup.Read(f, func(row *backup.Row) error {
		r.rows = append(r.rows, &store.Row{Table: row.Table, Document: row.Document})
		return nil
	})
	if err != nil {
		return err
	}
	h := r.found.Header
	if h.Account != r.cfg.Account {
		return fmt.Errorf("the backup is of account %s, the configuration says %s", h.Account, r.cfg.Account)
	}
	if r.found.Head != nil {
		r.head = &store.Sealed{Document: r.found.Head.Document, MAC: r.found.Head.MAC}
	}
	r.plan.Backup = operatorapi.RestoreSide{
		Rows: h.Rows, Root: h.Root, Sequence: h.Sequence, Time: h.Committed, Created: h.Created, Account: h.Account, Audit: h.AuditSequence,
	}
	return nil
}

// open opens the database, and notes why it cannot be read. The engine is nil then.
func (r *restoring) open(ctx context.Context) (store.Engine, error) {
	engine, err := openEngine(ctx, r.cfg, r.log, true)
	switch damaged := errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNewerSchema); {
	case damaged && r.cfg.Store.Engine != config.EngineEtcd:
		r.plan.Damage = err.Error()
		return nil, nil //nolint:nilnil // said above
	case errors.Is(err, store.ErrLocked):
		return nil, fmt.Errorf("cmkd must not run while its database is restored, stop it first: %w", err)
	case err != nil:
		return nil, err
	}
	return engine, nil
}

// verify has the token verify the backup, before anything in it is believed.
func (r *restoring) verify(ctx context.Context, log *slog.Logger) (err error) {
	// The database is locked, so no daemon has processes there.
	if err := errors.Join(plugins.RemoveLeftovers(pluginsDir(r.cfg)), plugins.RemoveLeftovers(spareDir(r.cfg))); err != nil {
		log.WarnContext(ctx, "folders of ended plugin processes remain", "error", err)
	}
	first := *r.cfg
	first.Tokens = first.Tokens[:1] // it has the key
	router, err := startRouter(ctx, &first, nil, log)
	if err != nil {
		return err
	}
	defer router.close(context.WithoutCancel(ctx))
	problem, err := trust.VerifyBackup(ctx, router, first.Tokens[0].Name, &r.found.Header, &r.found.Seal)
	if err != nil {
		return err
	}
	if problem != "" {
		return fmt.Errorf("the backup does not verify: %s", problem)
	}
	return nil
}

// compare completes the plan. Without an engine there is nothing to compare with.
func (r *restoring) compare(ctx context.Context, engine store.Engine) (*store.Replacement, error) {
	name := sha256.New()
	name.Write(r.found.Seal.Sum[:])
	defer func() { r.plan.Plan = hex.EncodeToString(name.Sum(nil)) }()
	if engine == nil {
		name.Write([]byte(r.plan.Damage))
		return nil, nil //nolint:nilnil // said above
	}
	replacement, err := store.NewReplacement(ctx, engine, r.rows, r.head)
	if err != nil {
		return nil, fmt.Errorf("comparing the backup with the database: %w", err)
	}
	name.Write(replacement.Before)
	p := r.plan
	p.Same = replacement.Same()
	p.Present = operatorapi.RestoreSide{Rows: replacement.Rows, Root: hex.EncodeToString(replacement.Before)}
	for _, d := range replacement.Differences {
		p.Differences = append(p.Differences, operatorapi.Difference(d))
	}
	if replacement.Head == nil {
		return replacement, nil
	}
	name.Write(replacement.Head.Document)
	name.Write(replacement.Head.MAC)
	if head, err := replacement.Head.Head(); err != nil {
		p.Warnings = append(p.Warnings, "the head of the present database cannot be read")
	} else {
		p.Present.Sequence, p.Present.Time, p.Present.Audit = head.Sequence, head.Time, head.AuditSequence
	}
	return replacement, nil
}
