package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"cmkd/daemon/config"
	"cmkd/daemon/store"
)

// CopyStore is `cmkd -copy-store`: it copies the database of the configuration from into
// the empty one of the configuration to, and verifies it on both sides with the token. No
// daemon runs with either. From the verification of the copy on, the database that was
// copied counts as an older one.
func CopyStore(ctx context.Context, from, to string, log *slog.Logger) error {
	source, err := config.Load(from)
	if err != nil {
		return err
	}
	target, err := config.Load(to)
	if err != nil {
		return err
	}
	switch {
	case source.Account != target.Account:
		return fmt.Errorf("%s is of account %s and %s of %s", from, source.Account, to, target.Account)
	case source.StateDir != target.StateDir || source.AuditDir != target.AuditDir:
		return fmt.Errorf("%s and %s must have the same state_dir and audit_dir: the database names the end of the audit trail", from, to)
	case source.Store.Engine == config.EngineEtcd && target.Store.Engine == config.EngineEtcd:
		return fmt.Errorf("%s and %s both have the database in etcd: copy it to SQLite first, and from there", from, to)
	case source.Store.Place() == target.Store.Place():
		return fmt.Errorf("%s and %s have the database in the same place", from, to)
	}
	if err := verifyStore(ctx, from, log); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if err := copyStore(ctx, source, target, log); err != nil {
		return err
	}
	if err := verifyStore(ctx, to, log); err != nil {
		return fmt.Errorf("the copy: %s: %w", to, err)
	}
	return nil
}

// verifyStore opens a daemon as a start does, verifies its database with the token, and
// ends it in good order.
func verifyStore(ctx context.Context, config string, log *slog.Logger) (err error) {
	d, err := Open(ctx, config, log, func(d *Daemon) { d.impatient = true })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(context.WithoutCancel(ctx))) }()
	if d.store.Found() == nil {
		return errors.New("the database has not been initialised")
	}
	return errors.Join(d.kms.VerifyState(ctx), d.mismatch())
}

func copyStore(ctx context.Context, source, target *config.Config, log *slog.Logger) (err error) {
	from, err := openEngine(ctx, source, log, true)
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	into, err := openEngine(ctx, target, log, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, into.Close()) }()
	return s.Copy(ctx, into)
}
