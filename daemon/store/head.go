package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
)

// Errors of a store with a head.
var (
	// ErrUnverified: the database has a head that has not been verified yet, or
	// that does not verify. Nothing is written.
	ErrUnverified = errors.New("the database is not verified")
	// ErrChanged: the rows are not those that were meant.
	ErrChanged = errors.New("the database has changed meanwhile")
)

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
		s.sealer, s.sequence, s.refusal = sealer, head.Sequence, nil
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

// Adopt takes the rows in the file as they are, without any trust in them,
// and writes a head over them together with what f writes. From then on every
// commit has a head. root is the hash of the rows that are meant:
// [ErrChanged] says that the file has others.
func (s *Store) Adopt(ctx context.Context, sealer Sealer, root []byte, f func(*Tx) error) error {
	arrived := time.Now()
	return s.exclusively(ctx, func() error {
		if err := s.keepFiles(ctx); err != nil {
			return err
		}
		view := newView()
		if err := load(ctx, s.db, &view); err != nil {
			return err
		}
		if !bytes.Equal(view.Root(), root) {
			return ErrChanged
		}
		if err := s.adoptDoubt(ctx); err != nil {
			return err
		}
		tx := &Tx{View: view}
		if err := errors.Join(f(tx), tx.err); err != nil {
			return err
		}
		if found := s.found.Load(); found != nil && s.sequence == 0 {
			if head, err := found.Head(); err == nil {
				s.sequence = head.Sequence
			}
		}
		db, err := s.begin(ctx, arrived)
		if err != nil {
			return err
		}
		defer db.Rollback() //nolint:errcheck // unless it has been committed
		before := s.sealer
		s.sealer = sealer
		if err := s.finish(ctx, db, tx, rehash); err != nil {
			s.sealer = before
			return err
		}
		s.refusal = nil
		return nil
	})
}

// Check reads the file again: [ErrChanged] says that its rows or its head are
// not those of the last commit, [ErrCorrupt] that the next start could not read it.
func (s *Store) Check(ctx context.Context) error {
	arrived := time.Now()
	return s.exclusively(ctx, func() error {
		if err := s.resolve(ctx, arrived); err != nil {
			return err
		}
		if err := s.keepFiles(ctx); err != nil {
			return err
		}
		// What SQLite remembers of the file says nothing about the file.
		if _, err := s.db.ExecContext(ctx, "PRAGMA shrink_memory"); err != nil {
			return corrupt(err)
		}
		if err := checkPages(ctx, s.db); err != nil {
			return err
		}
		view := newView()
		if err := load(ctx, s.db, &view); err != nil {
			return err
		}
		found, err := loadHead(ctx, s.db)
		if err != nil {
			return err
		}
		if !found.equal(s.found.Load()) || !bytes.Equal(view.Root(), s.View().Root()) {
			return ErrChanged
		}
		return nil
	})
}

// resolve finds out whether the commit before, which failed, is in the file:
// the disk may have failed after it was. What it left would differ from every
// head that follows. SQLite has taken it back, and yet a restart could find it
// in the log, until another commit has taken its place there.
func (s *Store) resolve(ctx context.Context, arrived time.Time) error {
	if s.doubtful == nil {
		return nil
	}
	if err := s.touch(ctx, arrived); err != nil {
		return fmt.Errorf("%w (%w): %w", ErrUnknown, s.doubtful.cause, err)
	}
	ctx = context.WithoutCancel(ctx)
	there, err := loadHead(ctx, s.db)
	if err != nil {
		return err
	}
	view := newView()
	if err := load(ctx, s.db, &view); err != nil {
		return err
	}
	root, committed := view.Root(), false
	switch {
	case s.doubtful.head == nil:
		committed = !bytes.Equal(root, s.View().Root())
	case there.equal(s.doubtful.head):
		committed = true
	case !there.equal(s.found.Load()):
		return ErrChanged
	}
	var head *Head
	if committed && there != nil {
		if head, err = there.Head(); err != nil {
			return err
		}
		if !bytes.Equal(head.Root, root) {
			return ErrChanged
		}
	}
	if err := s.tell(ctx, committed); err != nil {
		return err
	}
	if head != nil {
		s.sequence = head.Sequence
		s.found.Store(there)
	}
	if committed {
		s.changes.Add(1)
		s.view.Store(&view)
	}
	s.doubtful = nil
	return nil
}

// tell says what became of the commit that failed; see [Tx.OnSettle].
func (s *Store) tell(ctx context.Context, committed bool) error {
	if f := s.doubtful.settled; f != nil {
		if err := f(ctx, committed); err != nil {
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	return nil
}

// adoptDoubt ends a doubt about rows that are adopted as they are.
func (s *Store) adoptDoubt(ctx context.Context) error {
	if s.doubtful == nil {
		return nil
	}
	there, err := loadHead(ctx, s.db)
	if err != nil {
		return err
	}
	if err := s.tell(ctx, there != nil && there.equal(s.doubtful.head)); err != nil {
		return err
	}
	s.doubtful = nil
	return nil
}

// equal compares heads; nil is one too.
func (s *Sealed) equal(other *Sealed) bool {
	if s == nil || other == nil {
		return s == other
	}
	return bytes.Equal(s.Document, other.Document) && bytes.Equal(s.MAC, other.MAC)
}

// exclusively runs f while nobody else writes.
func (s *Store) exclusively(ctx context.Context, f func() error) error {
	select {
	case s.writer <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting to write to the store: %w", context.Cause(ctx))
	}
	defer func() { <-s.writer }()
	if s.closed {
		return ErrClosed
	}
	return f()
}

// seal makes the head of the commit that leads to view.
func (s *Store) seal(ctx context.Context, view *View) (*Sealed, error) {
	head := &Head{Sequence: s.sequence + 1, Root: view.Root()}
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

const (
	putHead = "INSERT INTO head (id, document, mac) VALUES (1, ?, ?) " +
		"ON CONFLICT (id) DO UPDATE SET document = excluded.document, mac = excluded.mac"
	putHash = "INSERT INTO row_hashes (row_table, name, digest) VALUES (?, ?, ?) " +
		"ON CONFLICT (row_table, name) DO UPDATE SET digest = excluded.digest"
	removeHash = "DELETE FROM row_hashes WHERE row_table = ? AND name = ?"
)

// headWrites are the statements that store the head and the digests of what
// has changed.
func headWrites(sealed *Sealed, changes []change) []write {
	writes := make([]write, 0, len(changes)+1)
	for _, c := range changes {
		if c.document == nil {
			writes = append(writes, write{removeHash, []any{c.table, c.name}})
			continue
		}
		l := newLeaf(c.table, c.name, c.document)
		writes = append(writes, write{putHash, []any{c.table, c.name, l.digest[:]}})
	}
	return append(writes, write{putHead, []any{string(sealed.Document), sealed.MAC}})
}

func loadHead(ctx context.Context, db *sql.DB) (*Sealed, error) {
	var document string
	found := &Sealed{}
	err := db.QueryRowContext(ctx, "SELECT document, mac FROM head WHERE id = 1").Scan(&document, &found.MAC)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // a database without a head is not an error
	}
	if err != nil {
		return nil, fmt.Errorf("reading the head: %w", corrupt(err))
	}
	found.Document = []byte(document)
	return found, nil
}
