package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrGap: what others have committed is not known one by one any more. Everything has to
// be read again.
var ErrGap = errors.New("commits of others were missed")

// Shared is an [Engine] whose database several stores have open at once. They commit in
// turn: Begin waits for the turn, and the end of the [Writer] gives it up. What Begin
// has waited for, Take returns.
//
// A store serves after it has joined with Acknowledge, and every change that it shows is
// acknowledged. So each can wait, with Await, until no store that serves shows anything
// older. Follow, Take and the methods behind it may be called while others are.
type Shared interface {
	Engine
	Fenced
	// Take returns what others have committed, or changed outside of a commit, since the
	// last Take or Rebase, oldest first. Errors are [ErrGap] and those of asking.
	Take(ctx context.Context) ([]Commit, error)
	// Sync returns when Take has everything that was committed before the call.
	Sync(ctx context.Context) error
	// Arrived receives a value when Take may have something, or an acknowledgement be due.
	Arrived() <-chan struct{}
	// Rebase says that the store shows what the last Load has read.
	Rebase()
	// Acknowledge tells others that this store shows the commit with the sequence and
	// nothing older. The first time, it joins those that serve: [ErrChanged] says
	// that there has been another commit since.
	Acknowledge(ctx context.Context, sequence uint64) error
	// Leave ends what Acknowledge began: Fresh fails from then on.
	Leave(ctx context.Context)
	// Await returns nil when every store that serves has acknowledged the sequence, or has
	// ceased to serve. Errors wrap [ErrStale].
	Await(ctx context.Context, sequence uint64) error
	// Nodes are the processes that have the database open, by name.
	Nodes() []Node
	// Servers asks each server that keeps the database how it is.
	Servers(ctx context.Context) []Server
}

// Server is one that keeps the database.
type Server struct {
	Name   string
	Leader bool
	Err    error // why it does not answer, nil if it does
}

// Node is a process that has the database open.
type Node struct {
	Name string
	Self bool
	// Serves: it has joined. Leader: it is the one that has served longest.
	Serves, Leader bool
	// Lag is for how long it has not acknowledged what was committed.
	Lag time.Duration
}

// Commit is what a [Shared] engine has found that others have written.
type Commit struct {
	Rows []Row // as the commit leaves them; one without a document is deleted
	Head *Sealed
	// Outside: the rows, or the head, were changed, but not by a commit.
	Outside bool
	// Rewound: the database is an older one now, or another.
	Rewound bool
}

// errRewound: somebody has put another database in the place of the one that was open.
var errRewound = fmt.Errorf("%w: its servers have gone back to an older state, or are others: stop all daemons before a snapshot is restored", ErrChanged)

// errOutside: somebody has written rows without a head over them.
var errOutside = fmt.Errorf("%w: rows were written outside of a commit", ErrChanged)

// catchUp shows what others have committed, all of it, after the last head has been
// verified. What does not verify spoils the store: it shows nothing new until it is
// adopted or opened again. The caller holds applying.
func (s *Store) catchUp(ctx context.Context) error {
	if s.shared == nil {
		return nil
	}
	if s.spoiled != nil {
		return s.spoiled
	}
	err := s.take(ctx)
	if errors.Is(err, ErrGap) {
		return s.reread(ctx)
	}
	if err != nil {
		return fmt.Errorf("following the database: %w", err)
	}
	next := s.ahead
	if next == nil {
		return nil
	}
	if err = next.err; err == nil && next.sealed != nil && s.sealer != nil {
		sequence := next.view.sequence
		if err = s.sealer.Verify(ctx, s.View(), next.view, next.sealed); errors.Is(err, ErrChanged) {
			err = s.unlessNewer(ctx, sequence, err)
		}
	}
	if errors.Is(err, ErrChanged) || errors.Is(err, ErrCorrupt) {
		s.spoiled = err
	}
	if err != nil { // of the token, say: it is verified later
		return fmt.Errorf("following the database: %w", err)
	}
	if s.doubtful != nil && next.doubted {
		s.doubtful.committed = true
	}
	s.ahead, s.overtaken = nil, 0
	if next.sealed != nil {
		s.found.Store(next.sealed)
		s.sequence = next.view.sequence
	}
	s.view.Store(next.view)
	s.changes.Add(next.changes)
	return nil
}

// unlessNewer returns why the commit with the sequence does not verify, unless there are newer ones: what the
// token has is of a moment ago, and may be what they have made there. Those are verified next. The
// caller holds applying.
func (s *Store) unlessNewer(ctx context.Context, sequence uint64, why error) error {
	if err := s.shared.Sync(ctx); err != nil {
		return err
	}
	if err := s.take(ctx); err != nil {
		return errors.Join(errNewer, err)
	}
	if s.ahead.view.sequence > sequence {
		return s.newer(why)
	}
	return why
}

// newer is the error of a commit behind which there are others, for as long as that can explain why it does not verify.
func (s *Store) newer(why error) error {
	if s.overtaken++; s.overtaken > maxOvertaken {
		return why
	}
	return fmt.Errorf("%w (%v)", errNewer, why) //nolint:errorlint // it is not believed yet
}

// maxOvertaken is how many commits in a row may not verify for what is behind them. An epoch is two commits.
const maxOvertaken = 20

// errNewer: a commit was verified against a token that knows of the next one.
var errNewer = errors.New("other daemons have committed more meanwhile")

// reread is catchUp that reads everything. The caller holds applying.
func (s *Store) reread(ctx context.Context) error {
	view, found, err := s.read(ctx)
	if err != nil {
		return err
	}
	if found == nil || s.Found() == nil {
		if found != nil || s.Found() != nil {
			s.spoiled = fmt.Errorf("%w: its head has come or gone", ErrChanged)
			return s.spoiled
		}
		s.shared.Rebase()
		s.ahead = nil
		s.view.Store(view)
		return nil
	}
	head, err := found.Head()
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	case !bytes.Equal(head.Root, view.Root()):
		err = fmt.Errorf("%w: the rows are not those of the head", ErrChanged)
	case head.Sequence < s.View().sequence || head.Sequence == s.View().sequence && !found.Equal(s.Found()):
		err = fmt.Errorf("%w: its head, of commit %d, is older than commit %d", ErrChanged, head.Sequence, s.View().sequence)
	case s.sealer != nil:
		if err = s.sealer.Verify(ctx, s.View(), view, found); errors.Is(err, ErrChanged) {
			if _, now, again := s.read(ctx); again != nil {
				err = errors.Join(errNewer, again)
			} else if !now.Equal(found) { // see unlessNewer
				err = s.newer(err)
			}
		}
	}
	if err != nil {
		if errors.Is(err, ErrChanged) || errors.Is(err, ErrCorrupt) {
			s.spoiled = err
		}
		return fmt.Errorf("reading the database again: %w", err)
	}
	s.shared.Rebase()
	s.ahead, s.overtaken = nil, 0
	if s.doubtful != nil && s.doubtful.behind(found, head) {
		s.doubtful.committed = true
	}
	s.recent.everything(head.Sequence)
	s.found.Store(found)
	s.view.Store(view)
	s.sequence = head.Sequence
	s.changes.Add(1)
	return nil
}

// Sync is CatchUp with everything that was committed before the call.
func (s *Store) Sync(ctx context.Context) error {
	if s.shared == nil {
		return nil
	}
	if err := s.shared.Sync(ctx); err != nil {
		return fmt.Errorf("following the database: %w", err)
	}
	return s.CatchUp(ctx)
}

// CatchUp shows what others have committed so far. Errors that wrap [ErrChanged] or
// [ErrCorrupt] say that the database does not verify; they stay until [Store.Adopt].
func (s *Store) CatchUp(ctx context.Context) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	return s.catchUp(ctx)
}

// Join shows what others have committed, and makes this store one of those that serve:
// from then on their changes wait for it. A store that is alone with its database
// has nothing to join.
func (s *Store) Join(ctx context.Context) error {
	if s.shared == nil {
		return nil
	}
	for {
		if err := s.CatchUp(ctx); err != nil {
			return err
		}
		err := s.shared.Acknowledge(ctx, s.View().Sequence())
		if !errors.Is(err, ErrChanged) {
			return err
		}
		select { // which it has yet to hear of
		case <-s.shared.Arrived():
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(joinPause):
		}
	}
}

// joinPause bounds the wait for a commit that is said to be there.
const joinPause = 100 * time.Millisecond

// Arrived receives a value when [Store.Join] has something to do, nil if it never has.
func (s *Store) Arrived() <-chan struct{} {
	if s.shared == nil {
		return nil
	}
	return s.shared.Arrived()
}

// Leave makes [Store.Fresh] fail, and others not wait for this store any more.
func (s *Store) Leave(ctx context.Context) {
	if s.shared != nil {
		s.shared.Leave(ctx)
	}
}

// Await returns nil when no store that serves shows anything older than this one does
// at the time of the call. Errors wrap [ErrStale].
func (s *Store) Await(ctx context.Context) error {
	if s.shared == nil {
		return nil
	}
	return s.shared.Await(ctx, s.View().Sequence())
}

// AwaitChanges is Await for an answer that rests on the keys with the IDs, what belongs to them, and what
// belongs to no key; without IDs on anything but bookkeeping. A store that does not acknowledge,
// as it is waited for until it has fenced itself, so holds up only what has just changed.
func (s *Store) AwaitChanges(ctx context.Context, keyIDs ...string) error {
	if s.shared == nil {
		return nil
	}
	return s.shared.Await(ctx, s.recent.of(keyIDs))
}

// Shared reports whether other processes may have the database open too.
func (s *Store) Shared() bool { return s.shared != nil }

// Nodes are the processes that are known to have the database open; nil if it can only be one.
func (s *Store) Nodes() []Node {
	if s.shared == nil {
		return nil
	}
	return s.shared.Nodes()
}

// Servers asks each server that keeps the database how it is; nil if there are none.
func (s *Store) Servers(ctx context.Context) []Server {
	if s.shared == nil {
		return nil
	}
	return s.shared.Servers(ctx)
}

// Leads reports whether this is the process that does what only one is to do.
func (s *Store) Leads() bool {
	return s.shared == nil || slices.ContainsFunc(s.shared.Nodes(), func(n Node) bool { return n.Self && n.Leader })
}

// Leader is the name of the process that does what only one is to do; "" if there is none now, or can only be one.
func (s *Store) Leader() string {
	for _, n := range s.Nodes() {
		if n.Leader {
			return n.Name
		}
	}
	return ""
}

// OthersServe reports whether a process besides this one is known to serve.
func (s *Store) OthersServe() bool {
	return slices.ContainsFunc(s.Nodes(), func(n Node) bool { return !n.Self && n.Serves })
}

// Alive reports whether the node has the database open, or had it a moment ago.
func (s *Store) Alive(node string) bool {
	return slices.ContainsFunc(s.Nodes(), func(n Node) bool { return n.Name == node })
}

// Sequence is that of the head that the snapshot was committed with, 0 without a head.
func (v *View) Sequence() uint64 { return v.sequence }
