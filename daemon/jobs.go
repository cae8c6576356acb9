package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"cmkd/daemon/store"
)

// jobInterval is how often the daemon looks for what is due: rotations,
// deletions and expiries count in days, so a minute is soon enough.
const jobInterval = time.Minute

// jobRetry is how soon jobs that failed are tried again: the token may be back, or
// the disk have room.
const jobRetry = 5 * time.Second

// jobLoop runs the jobs, now, every jobInterval and after each reload, and those that failed
// sooner, until ctx ends.
func (d *Daemon) jobLoop(ctx context.Context) {
	var said time.Time  // when a failure was logged, zero unless the last run failed
	var all time.Time   // when all jobs were run
	var failed []string // none: all are to be run
	for {
		pause := jobInterval
		if failed == nil || time.Since(all) >= jobInterval {
			all, failed = time.Now(), nil
		}
		var err error
		if failed, err = d.runJobs(ctx, failed); err == nil {
			if !said.IsZero() { // what was in the way has gone, and with it what an epoch waits for
				said, pause = time.Time{}, 0
				d.kms.RetryEpoch()
			}
		} else if ctx.Err() == nil {
			pause = jobRetry
			if now := time.Now(); now.Sub(said) >= jobInterval {
				said = now
				d.log.LogAttrs(ctx, slog.LevelError, "background jobs failed, will retry", slog.Any("error", err), slog.String("every", jobRetry.String()))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-d.reloaded: // its processes are new, and who asked for it may have mended something
			failed = nil
			d.kms.RetryEpoch()
		case <-time.After(pause):
		}
	}
}

// tokenShare bounds what looking through the tokens may cost: it pauses this many
// times as long as it took.
const tokenShare = 100

// watchTokens looks for duplicates in the tokens, now and every jobInterval, less
// often in tokens that take long to search, until ctx ends.
func (d *Daemon) watchTokens(ctx context.Context) {
	var said complaint
	for {
		begun := time.Now()
		err := d.kms.CheckDuplicates(ctx)
		if ctx.Err() != nil {
			return
		}
		if said.fresh(err) {
			d.log.LogAttrs(ctx, slog.LevelError, "the tokens cannot be checked, will retry", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(jobInterval, tokenShare*time.Since(begun))):
		}
	}
}

// mendInterval is how often a broken audit trail is tried again.
const mendInterval = time.Second

// mendTrail makes the audit trail work again on its own, each time that it has
// broken, until ctx ends.
func (d *Daemon) mendTrail(ctx context.Context) {
	ticker := time.NewTicker(mendInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.audit.Broken():
		}
		d.log.LogAttrs(ctx, slog.LevelError, "the audit trail cannot be written, calls are refused until it can", slog.Any("error", d.audit.Err()))
		var said complaint
		for {
			err := d.audit.Reopen()
			if err == nil {
				break
			}
			if said.fresh(err) {
				d.log.LogAttrs(ctx, slog.LevelError, "the audit trail still cannot be written, will retry", slog.Any("error", err), slog.String("every", mendInterval.String()))
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
		d.log.LogAttrs(ctx, slog.LevelWarn, "the audit trail can be written again, calls are answered")
		d.checkProblem(ctx)
	}
}

// damagedInterval is how often a damaged database is tried again, which reads
// all of it.
const damagedInterval = time.Minute

// mendDatabase finds out when the database can be written again, each time that
// it cannot, until ctx ends.
func (d *Daemon) mendDatabase(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.store.Broken():
		}
		var said complaint
		for err := d.store.Err(); err != nil; err = d.store.Err() {
			if said.fresh(err) {
				d.log.LogAttrs(ctx, slog.LevelError, "the database cannot be written, nothing can be changed until it can", slog.Any("error", err))
			}
			pause := mendInterval
			if errors.Is(err, store.ErrCorrupt) {
				pause = damagedInterval
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			_ = d.store.Probe(ctx) // Err has it
		}
		if said != "" {
			d.log.LogAttrs(ctx, slog.LevelWarn, "the database can be written again")
			d.kms.RetryEpoch()
			if err := d.RunJobs(ctx); err != nil && ctx.Err() == nil { // what waited for it
				d.log.LogAttrs(ctx, slog.LevelError, "background jobs failed, will retry", slog.Any("error", err))
			}
		}
	}
}

// checkProblem stops the service if the trail goes on, but records are missing.
func (d *Daemon) checkProblem(ctx context.Context) {
	if d.audit.Problem() == nil || d.kms.Mismatch() != nil {
		return
	}
	if err := d.kms.CheckState(ctx); err != nil {
		d.log.LogAttrs(ctx, slog.LevelError, "the audit trail is not verified", slog.Any("error", err))
	}
}

// RunJobs does what is due now: it mends the audit trail, without which nothing
// else is done, finishes interrupted work, looks for key materials that are missing, rotates keys, takes expired material
// out of the tokens, deletes keys, and writes down when keys were last used and
// how many refused calls have no record of their own. Last, it begins a new
// epoch of the database, if that has changed, and names the end of the trail in it. A job that fails does not
// stop the next one; the error joins what failed. The daemon does the same once
// a minute.
func (d *Daemon) RunJobs(ctx context.Context) error {
	_, err := d.runJobs(ctx, nil)
	return err
}

// runJobs is RunJobs of those that are due, all if none is named. It names those that have failed.
func (d *Daemon) runJobs(ctx context.Context, due []string) (failed []string, err error) {
	d.jobs.Lock()
	defer d.jobs.Unlock()
	d.kms.SeeClock()
	if err := d.audit.Reopen(); err != nil {
		d.giveUpLead(ctx)
		return nil, err
	}
	d.checkProblem(ctx)
	if d.kms.Mismatch() != nil { // nothing is done in the name of such a database
		return nil, d.kms.FlushRefusals(ctx)
	}
	if err := d.store.Fresh(); err != nil { // nor of one that may be another by now
		return nil, errors.Join(err, d.kms.FlushRefusals(ctx))
	}
	var errs []error
	leads := d.store.Leads()
	for _, job := range []struct {
		name string
		once bool // by one daemon, where several have the database
		run  func(context.Context) error
	}{
		{"clock", true, d.kms.WatchClock},
		{"reconciliation", false, d.kms.Reconcile},
		{"objects", false, d.kms.LookForObjects},
		{"rotation", true, counted(d.kms.RotateDue)},
		{"expiry", true, counted(d.kms.ExpireDue)},
		{"deletion", true, counted(d.kms.DeleteDue)},
		{"usage", false, d.kms.FlushUsage},
		{"refusals", false, d.kms.FlushRefusals},
		{"epoch", true, d.kms.AdvanceEpoch},
		{"head", false, d.kms.NameTrail},
	} {
		if job.once && !leads || len(due) > 0 && !slices.Contains(due, job.name) {
			continue
		}
		if err := job.run(ctx); err != nil {
			errs, failed = append(errs, fmt.Errorf("%s: %w", job.name, err)), append(failed, job.name)
		}
	}
	return failed, errors.Join(errs...)
}

// giveUpLead has another daemon lead, if one serves: this one does not do what only the leader does.
func (d *Daemon) giveUpLead(ctx context.Context) {
	if d.store.OthersServe() && d.store.Leads() {
		d.store.Leave(ctx) // it joins again as the last
	}
}

// counted drops the number of keys that a job dealt with: each is logged.
func counted(run func(context.Context) (int, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := run(ctx)
		return err
	}
}
