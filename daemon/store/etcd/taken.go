package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"cmkd/daemon/store"
)

// errOverdue: etcd answers, and what is waited for does not come.
var errOverdue error = &overdue{}

// overdue is [store.ErrBusy].
type overdue struct{}

func (*overdue) Error() string        { return "it takes too long, although etcd answers" }
func (*overdue) Is(target error) bool { return target == store.ErrBusy }

// until waits until done returns true of what has been seen; it is called with mu held.
// etcd that is silent meanwhile ends the wait, and so does the end of ctx.
func (e *Engine) until(ctx context.Context, done func(*seen) bool) error {
	timer := time.NewTicker(retryPause)
	defer timer.Stop()
	for {
		e.seen.mu.Lock()
		ok, changed := done(e.seen), e.seen.changed
		e.seen.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
			if silence := e.claim.silence(); silence > max(answerTime, e.options.MaxStaleness) {
				return &silent{fmt.Errorf("for %s", silence.Round(time.Millisecond))}
			}
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return e.unanswered(ctx, context.Cause(ctx))
			}
			if silence := e.claim.silence(); silence > e.options.MaxStaleness*3/4 {
				return &silent{fmt.Errorf("for %s", silence.Round(time.Millisecond))}
			}
			return errOverdue
		}
	}
}

// waiting says in an error what was waited for.
func waiting(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("waiting for %s: %w", what, err)
}

// Arrived implements [store.Shared].
func (e *Engine) Arrived() <-chan struct{} { return e.arrived }

// Sync implements [store.Shared].
func (e *Engine) Sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	found, err := e.client.Get(ctx, e.key(headKey))
	if err != nil {
		return e.unanswered(ctx, err)
	}
	if len(found.Kvs) == 0 {
		return nil
	}
	return waiting("the watch to bring the last change", e.until(ctx, func(s *seen) bool { return s.head >= found.Kvs[0].ModRevision }))
}

// Rebase implements [store.Shared].
func (e *Engine) Rebase() {
	s := e.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = max(s.base, s.loaded)
	if s.base >= s.lost {
		s.lost = 0
	}
	maps.DeleteFunc(s.own, func(revision int64, _ bool) bool { return revision <= s.base })
}

// committed notes that the revision is a commit of this process, which the store shows.
func (s *seen) committed(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[revision] = true
}

// Take implements [store.Shared].
func (e *Engine) Take(ctx context.Context) ([]store.Commit, error) {
	var all []store.Commit
	for {
		f, err := e.seen.first()
		if err != nil || f == nil {
			return all, err
		}
		if f.pending != nil {
			if f.commit.Rows, err = e.pendingRows(ctx, f); err != nil {
				return all, err
			}
		}
		all = append(all, f.commit)
		e.seen.drop(f.revision)
	}
}
