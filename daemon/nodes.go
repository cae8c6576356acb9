package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cmkd/daemon/config"
	"cmkd/daemon/store"
	"cmkd/daemon/store/etcd"
)

// openStore opens the database where the configuration says it is.
func (d *Daemon) openStore(ctx context.Context) (s *store.Store, err error) {
	patience, poll := lockPatience, lockPoll
	if d.cfg.Store.Engine == config.EngineEtcd {
		patience, poll = patience+etcd.LeaseTime(d.cfg.Store.MaxStaleness), etcdPoll // of a daemon that was killed
	}
	return s, d.awaitEtcd(ctx, func() error {
		engine, err := patiently(ctx, patience, poll, store.ErrLocked, func() (store.Engine, error) { return openEngine(ctx, d.cfg, d.log, d.impatient) })
		if err == nil {
			s, err = store.Open(ctx, engine)
		}
		return err
	})
}

const waitingForEtcd = "waiting for etcd, nothing is served"

// say tells who has asked for it what the start waits for.
func (d *Daemon) say(what string) {
	if d.waiting != nil {
		d.waiting(what)
	}
}

// awaitEtcd does a step of the start. While etcd does not answer it is done again, and
// nothing is served.
func (d *Daemon) awaitEtcd(ctx context.Context, step func() error) error {
	var said complaint
	waits := false
	for {
		err := step()
		if !errors.Is(err, store.ErrBusy) || d.cfg.Store.Engine != config.EngineEtcd || d.impatient || ctx.Err() != nil {
			if waits {
				d.say("")
			}
			return err
		}
		waits = true
		d.say(waitingForEtcd + ": " + strings.Join(strings.Fields(err.Error()), " "))
		if said.fresh(err) {
			d.log.LogAttrs(ctx, slog.LevelError, waitingForEtcd, slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(mendInterval):
		}
	}
}

// join makes this daemon one of those that serve, if several have the database: the others wait for it, and
// destroy nothing that it uses, until leave. It goes on to follow them while it drains: else
// changes of theirs would wait until its last call has ended.
func (d *Daemon) join(ctx context.Context) (leave func()) {
	if !d.store.Shared() {
		return func() {}
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { d.kms.Follow(following, d.cfg.Store.MaxStaleness) })
	// A moment until it knows what others have changed: calls before that would only be refused.
	for end := time.Now().Add(d.cfg.Store.MaxStaleness); d.store.Fresh() != nil && d.kms.Mismatch() == nil && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	return sync.OnceFunc(func() {
		stop()
		running.Wait()
		d.store.Leave(context.WithoutCancel(ctx))
	})
}
