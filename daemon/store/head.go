package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
)

// ErrUnverified: the database has a head that has not been verified yet, or
// that does not verify. Nothing is written.
var ErrUnverified = errors.New("the database is not verified")

// Head is what a commit says of the whole database.
type Head struct {
	Sequence uint64 // of the commit, from 1
	Root     []byte // hash over all rows, SHA-256
	Time     time.Time
	// Lineage and Epoch name the key that authenticates the head. Each key
	// replaces the one before for good, so that heads of the past cannot be
	// verified any more.
	Lineage string
	Epoch   int
	// AuditSequence and AuditHash are of the last record of the audit trail
	// that was durable before the commit.
	AuditSequence uint64 `json:",omitzero"`
	AuditHash     []byte `json:",omitempty"`
	// AuditLast: nothing was recorded after that, for the daemon ended.
	AuditLast bool `json:",omitzero"`
	// Node is the daemon that made the commit, where several take turns, and Trails are the
	// ends of the audit trails of all of them, that one included.
	Node   string              `json:",omitempty"`
	Trails map[string]TrailEnd `json:",omitempty"`
	// Accepted: an older copy was accepted at some time. A daemon that Trails does not name may have recorded
	// changes that are not in it.
	Accepted bool `json:",omitzero"`
	// Bookkeeping: the commit changes nothing that protects something on its own. It is said
	// where several take turns.
	Bookkeeping bool `json:",omitzero"`
}

// TrailEnd is the last record of the audit trail of a node that was durable before its last commit.
type TrailEnd struct {
	Sequence uint64 `json:",omitzero"`
	Hash     []byte `json:",omitempty"`
	Last     bool   `json:",omitzero"` // nothing was recorded after that, for the daemon ended
	// Accepted: another daemon's operator has accepted an older copy. What was recorded
	// after that may or may not be in it.
	Accepted bool `json:",omitzero"`
}

// headDomain leads what is authenticated.
const headDomain = "cmkd state head v1\n"

// Message is what the MAC of the head is computed over.
func (h *Head) Message() ([]byte, error) {
	document, err := json.Marshal(h, encoding)
	if err != nil {
		return nil, fmt.Errorf("encoding the head: %w", err)
	}
	return append([]byte(headDomain), document...), nil
}

// Sealed is a head as the database holds it: nothing in it is verified.
type Sealed struct {
	Document []byte
	MAC      []byte
}

// Message is what MAC should be of.
func (s *Sealed) Message() []byte { return append([]byte(headDomain), s.Document...) }

// Head reads the document.
func (s *Sealed) Head() (*Head, error) {
	h, err := decode[Head](s.Document)
	if err != nil {
		return nil, fmt.Errorf("reading the head: %w", err)
	}
	return h, nil
}

// Sealer authenticates heads.
type Sealer interface {
	// Seal completes the head of the commit that leads to view (Time, Lineage,
	// Epoch, the audit trail) and returns its MAC. An error fails the
	// commit. It must not use the store's methods that write.
	Seal(ctx context.Context, view *View, head *Head) (mac []byte, err error)
	// Verify verifies the head of a commit that another process has made, which leads
	// from the rows before to view. It fails with [ErrChanged] if the head is not
	// authentic; other errors say nothing about it. The root is the one of view.
	Verify(ctx context.Context, before, view *View, found *Sealed) error
}

// sealTimeout bounds the wait for one MAC: writers wait for each other.
const sealTimeout = 5 * time.Second

// Found returns the head of the database, nil if it has none.
func (s *Store) Found() *Sealed { return s.found.Load() }

// Root returns the hash over all rows of the snapshot.
func (v *View) Root() []byte { return v.hashes.root() }

// Resume goes on after a head that the caller has verified: from now on every
// commit has one. It fails with [ErrChanged] if the rows are not those of the
// head.
func (s *Store) Resume(ctx context.Context, sealer Sealer, head *Head) error {
	return s.exclusively(ctx, func() error {
		if !bytes.Equal(head.Root, s.View().Root()) {
			return ErrChanged
		}
		s.applying.Lock()
		defer s.applying.Unlock()
		s.sealer, s.sequence, s.refusal = sealer, head.Sequence, nil
		s.recent.everything(head.Sequence)
		return nil
	})
}

// Lock makes Update fail with [ErrUnverified] and the reason, until [Store.Adopt].
func (s *Store) Lock(ctx context.Context, reason string) error {
	return s.exclusively(ctx, func() error {
		s.refusal = fmt.Errorf("%w: %s", ErrUnverified, reason)
		return nil
	})
}

// Adopt takes the rows in the database as they are, without any trust in them,
// and writes a head over them together with what f writes. From then on every
// commit has a head. root is the hash of the rows that are meant:
// [ErrChanged] says that the database has others.
func (s *Store) Adopt(ctx context.Context, sealer Sealer, root []byte, f func(*Tx) error) error {
	asked := time.Now()
	return s.exclusively(ctx, func() (err error) {
		digests := make(map[rowID][]byte)
		view, there, err := s.readEach(ctx, func(r *Row, l leaf) { digests[rowID{r.Table, r.Name}] = l.digest[:] })
		if err != nil {
			return err
		}
		if !bytes.Equal(view.Root(), root) {
			return ErrChanged
		}
		if err := s.adoptDoubt(ctx, there); err != nil {
			return err
		}
		tx := &Tx{View: *view}
		if there != nil && s.shared != nil { // which may be newer than what is shown
			shown, sequence := s.found.Load(), s.sequence
			s.found.Store(there)
			s.sequence = max(s.sequence, view.sequence)
			defer func() {
				if err != nil {
					s.found.Store(shown)
					s.sequence = sequence
				}
			}()
		}
		if err := errors.Join(f(tx), tx.err); err != nil {
			return err
		}
		if found := s.found.Load(); found != nil && s.sequence == 0 {
			if head, err := found.Head(); err == nil {
				s.sequence = head.Sequence
			}
		}
		w, err := s.begin(ctx, asked)
		if err != nil {
			return err
		}
		defer w.Rollback() // unless it has been committed
		s.applying.Lock()
		defer s.applying.Unlock()
		before := s.sealer
		s.sealer = sealer
		s.recent.everything(s.sequence + 1)
		if err := s.finish(ctx, w, tx, &Batch{Before: there, Rehash: true, Digests: rehashed(digests, tx.changes)}); err != nil {
			s.sealer = before
			s.recent.everything(s.View().sequence)
			return err
		}
		if s.shared != nil {
			s.shared.Rebase()
		}
		s.ahead, s.spoiled = nil, nil
		s.refusal = nil
		return nil
	})
}

// rehashed are the digests of all rows after the changes.
func rehashed(digests map[rowID][]byte, changes []Change) []Digest {
	for _, c := range changes {
		id := rowID{c.Table, c.Name}
		if c.Deleted() {
			delete(digests, id)
			continue
		}
		digests[id] = c.Digest[:]
	}
	all := make([]Digest, 0, len(digests))
	for id, sum := range digests {
		all = append(all, Digest{id.table, id.name, sum})
	}
	return all
}

// Check reads the database again: [ErrChanged] says that its rows or its head are
// not those of the last commit, [ErrCorrupt] that the next start could not read it.
func (s *Store) Check(ctx context.Context) error {
	asked := time.Now()
	return s.exclusively(ctx, func() error {
		if err := s.resolve(ctx, asked); err != nil {
			return err
		}
		if err := s.engine.Check(ctx); err != nil {
			return err
		}
		if s.shared != nil { // nobody commits meanwhile
			w, err := s.begin(ctx, asked)
			if err != nil {
				return err
			}
			defer w.Rollback()
		}
		s.applying.Lock()
		defer s.applying.Unlock()
		for {
			if err := s.catchUp(ctx); err != nil && s.spoiled == nil {
				return err
			}
			shown := s.Found()
			view, found, err := s.read(ctx)
			if err != nil {
				return err
			}
			if found.Equal(shown) && bytes.Equal(view.Root(), s.View().Root()) {
				break
			}
			if moved, err := s.moved(ctx, shown); err != nil || !moved {
				return cmp.Or(err, s.spoiled, ErrChanged)
			}
		}
		if s.shared != nil { // it is as it should be
			s.shared.Rebase()
			s.ahead, s.spoiled = nil, nil
			s.recent.everything(s.View().sequence) // what was noted of commits that are not there
		}
		return nil
	})
}

// moved reports whether others have committed something since the head was shown: reading may take longer
// than a turn lasts. The caller holds applying.
func (s *Store) moved(ctx context.Context, shown *Sealed) (bool, error) {
	if s.shared == nil || s.spoiled != nil {
		return false, nil //nolint:nilerr // what others have committed was not read
	}
	if err := s.shared.Sync(ctx); err != nil {
		return false, err
	}
	if err := s.catchUp(ctx); err != nil && s.spoiled == nil {
		return false, err
	}
	return s.spoiled == nil && !s.Found().Equal(shown), nil
}

// Equal compares heads; nil is one too.
func (s *Sealed) Equal(other *Sealed) bool {
	if s == nil || other == nil {
		return s == other
	}
	return bytes.Equal(s.Document, other.Document) && bytes.Equal(s.MAC, other.MAC)
}

// seal makes the head of the commit that leads to view.
func (s *Store) seal(ctx context.Context, view *View, bookkeeping bool) (*Sealed, error) {
	head := &Head{Sequence: s.sequence + 1, Root: view.Root(), Bookkeeping: bookkeeping && s.shared != nil}
	// The caller may be gone: what it has done in the token is finished.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sealTimeout)
	defer cancel()
	mac, err := s.sealer.Seal(ctx, view, head)
	if err != nil {
		return nil, fmt.Errorf("authenticating the commit: %w", err)
	}
	message, err := head.Message()
	if err != nil {
		return nil, err
	}
	return &Sealed{Document: message[len(headDomain):], MAC: mac}, nil
}
