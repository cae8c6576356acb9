package trust

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
)

// Mismatch is why the database is not trusted, and what an operator needs to
// know to decide. It names rows and holds nothing of their contents.
type Mismatch struct {
	Reason string `json:"reason"`
	// Root is the hash over the rows as they are now, hexadecimal: what is
	// accepted is what was looked at.
	Root string `json:"root"`
	// Sequence, Time and Epoch are of the head in the database. They can be
	// trusted if HeadVerified.
	Sequence     uint64    `json:"sequence,omitzero"`
	Time         time.Time `json:"time,omitzero"`
	Epoch        int       `json:"epoch,omitzero"`
	HeadVerified bool      `json:"headVerified"`
	// Trail is what is wrong with the audit trail, "" if nothing is known to be.
	Trail string `json:"trail,omitempty"`
	// LaterRecords is how many records the audit trail has after the head.
	LaterRecords uint64 `json:"laterRecords,omitzero"`
	// Differences are the rows that are not what they were at the last commit.
	// Exact: they are all that was done; else what tells them apart may have
	// been changed too.
	Differences []store.Difference `json:"differences,omitempty"`
	Exact       bool               `json:"exact"`
	// CompareError says why there are no differences.
	CompareError string `json:"compareError,omitempty"`

	// Deep: the whole trail was verified, and what is wrong may be before its last checkpoints.
	Deep bool `json:"wholeTrail,omitzero"`

	ofTrail bool // the rows verified
}

// Mismatch returns why the database is not trusted, nil if it is.
func (s *Trust) Mismatch() *Mismatch { return s.integrity.mismatch.Load() }

// VerifyState verifies the database with the token before anything trusts it.
// One that does not verify is not an error: [Service.Mismatch] tells, and nothing
// is served or changed until [Service.AcceptState]. A database without a head
// gets one if its token has never had a key for a second head: it is new, or
// of a version of the program that knew no heads. One that Init has yet to
// make keys for stays as it is.
func (s *Trust) VerifyState(ctx context.Context) error {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	for {
		if err := s.verifyState(ctx); !errors.Is(err, errMoved) {
			return err
		}
	}
}

func (s *Trust) verifyState(ctx context.Context) error {
	view, found, err := s.current(ctx)
	if err != nil {
		return fmt.Errorf("reading the database: %w", err)
	}
	// After that: the key of an epoch is there before its head. Plugins open the token after the
	// database is locked, but if daemons share it another one may have begun an epoch since.
	keys, err := s.stateKeys(ctx, !s.Store.Shared())
	if err != nil {
		return fmt.Errorf("verifying the database: %w", err)
	}
	key, hasKey := view.CurrentSystemKey(s.Token, keyring.PurposeState)
	if found == nil && !hasKey && empty(view) {
		return nil // Init has not been here
	}
	if found == nil {
		if bad := malformed(view); bad != "" {
			return s.lock(ctx, "it has rows that cmkd does not write: "+bad, nil, false)
		}
		k, ok := s.adoptable(keys, key)
		if !ok {
			return s.lock(ctx, "its head is missing", nil, false)
		}
		problem, err := s.checkTrail(ctx, nil, false)
		if err != nil {
			return fmt.Errorf("verifying the audit trail: %w", err)
		}
		if problem != "" {
			return s.lockTrail(ctx, problem, nil, false)
		}
		return s.adoptState(ctx, k)
	}
	head, err := s.foundHead(found)
	if err != nil {
		return s.lock(ctx, "its head cannot be read", nil, false)
	}
	authentic, why, err := s.verifyHead(ctx, view, found, head, keys)
	if err != nil && s.moved(ctx, found) {
		return errMoved
	}
	if err != nil {
		return fmt.Errorf("verifying the database: %w", err)
	}
	if bad := malformed(view); bad != "" {
		why = "it has rows that cmkd does not write: " + bad
	}
	if why != "" && s.moved(ctx, found) {
		return errMoved
	}
	if why != "" {
		return s.lock(ctx, why, head, authentic)
	}
	problem, err := s.checkTrail(ctx, head, true)
	if err != nil {
		return fmt.Errorf("verifying the audit trail: %w", err)
	}
	if problem != "" {
		return s.lockTrail(ctx, problem, head, true)
	}
	if problem, err = s.checkWhole(ctx, head); err != nil {
		return fmt.Errorf("verifying the audit trail: %w", err)
	}
	if problem != "" {
		return s.lockDeep(ctx, problem, head)
	}
	end, _ := s.Trail.Head()
	seal := &sealer{service: s, lineage: head.Lineage}
	if err := s.Store.Resume(ctx, seal, head); errors.Is(err, store.ErrChanged) && s.moved(ctx, found) {
		return errMoved
	} else if err != nil {
		return err
	}
	s.integrity.seal.Store(seal)
	accepted := s.acceptedElsewhere(head)
	// After an orderly end nothing can be behind the head that was to be committed, and what is not in rows that were
	// accepted may have been made all the same.
	if !accepted && !head.AuditLast {
		if err := s.RecordUncommitted(ctx, head); err != nil {
			return err
		}
	}
	if err := s.attend(ctx, head, end-head.AuditSequence, accepted); err != nil {
		if ctx.Err() != nil || s.Store.Shared() && errors.Is(err, store.ErrBusy) { // etcd is waited for
			return err
		}
		s.Log.LogAttrs(ctx, slog.LevelError, "the database does not name the end of the audit trail, the jobs try again", slog.Any("error", err))
	}
	if s.Accompanied() { // the leader begins epochs
		return nil
	}
	return s.advanceLater(ctx)
}

// empty reports whether the database knows of no key of a client.
func empty(view *store.View) bool {
	for range view.AllKeys() {
		return false
	}
	for range view.AllVersions() {
		return false
	}
	return true
}

// adoptable reports whether a database without a head may get its first one:
// its key is the first of its lineage, and no second one has been made.
func (s *Trust) adoptable(keys map[backends.KeyID]stateKey, row *store.SystemKey) (stateKey, bool) {
	if row == nil || len(row.CKAID) != len(backends.KeyID{}) {
		return stateKey{}, false
	}
	k, ok := keys[keyring.ObjectID(row.CKAID)]
	if !ok || k.epoch != 1 || row.Version != 1 {
		return stateKey{}, false
	}
	last, _ := newest(keys, k.lineage)
	return k, last == k
}

// adoptState writes the first head and begins the second epoch, after which no
// database of this lineage is taken without a head.
func (s *Trust) adoptState(ctx context.Context, k stateKey) error {
	view := s.Store.View()
	fresh := empty(view)
	if err := s.RecordEvent(ctx, journal.EventAdoptState, map[string]any{"root": hex.EncodeToString(view.Root()), "new": fresh}); err != nil {
		return err
	}
	seal := &sealer{service: s, lineage: k.lineage}
	err := s.Store.Adopt(ctx, seal, view.Root(), func(tx *store.Tx) error {
		if !fresh {
			return nil
		}
		// Nobody answers for intents of a database that was never verified, and
		// a new one has nothing in the token but its own keys.
		for i := range view.Intents() {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "an object may be left in the token", slog.String("id", hex.EncodeToString(i.CKAID)), slog.String("key", i.KeyID))
			tx.DeleteIntent(i.CKAID)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing the first head of the database: %w", err)
	}
	s.integrity.seal.Store(seal)
	s.Log.LogAttrs(ctx, slog.LevelInfo, "the database is now authenticated", slog.Bool("new", fresh))
	return s.advance(ctx)
}

// verifyHead says why a head does not verify, "" if it does, and whether the
// head itself is authentic. An error is the token's, and says nothing.
func (s *Trust) verifyHead(ctx context.Context, view *store.View, found *store.Sealed, head *store.Head, keys map[backends.KeyID]stateKey) (authentic bool, why string, err error) {
	last, known := newest(keys, head.Lineage)
	row, ok := view.CurrentSystemKey(s.Token, keyring.PurposeState)
	if !ok || len(row.CKAID) != len(backends.KeyID{}) {
		return false, "it names no key that its head could be verified with", nil
	}
	k, ok := keys[keyring.ObjectID(row.CKAID)]
	switch {
	case !ok && known && last.epoch > head.Epoch:
		return false, fmt.Sprintf("it is an older copy, of epoch %d: the token has epoch %d", head.Epoch, last.epoch), nil
	case !ok:
		return false, "the key that its head is verified with is not in the token: it is another token, or has lost keys", nil
	case k.lineage != head.Lineage || k.epoch != head.Epoch:
		return false, "its head is of another key than the database names", nil
	}
	mac, err := s.systemMAC(ctx, row, found.Message())
	if err != nil {
		return false, "", err
	}
	if !hmac.Equal(mac, found.MAC) {
		return false, "its head was changed", nil
	}
	if !bytes.Equal(head.Root, view.Root()) {
		return true, "rows were changed, added or deleted", nil
	}
	if intent, ok := view.Intent(last.id[:]); last.epoch > k.epoch && (!ok || intent.Action != "create") {
		return true, fmt.Sprintf("it is an older copy, of epoch %d: the token has epoch %d", head.Epoch, last.epoch), nil
	}
	return true, "", nil
}

// lock stops everything that would have to trust the database. What is wrong
// with the trail besides is found as well.
func (s *Trust) lock(ctx context.Context, reason string, head *store.Head, authentic bool) error {
	known := head
	if !authentic {
		known = nil
	}
	problem, err := s.checkTrail(ctx, known, false)
	if err != nil {
		return fmt.Errorf("verifying the audit trail: %w", err)
	}
	m := &Mismatch{Reason: reason, Trail: problem, HeadVerified: authentic}
	if problem == "" && known != nil { // what the last run has found stays found
		if m.Trail, err = s.recordedProblem(known); err != nil {
			return fmt.Errorf("verifying the audit trail: %w", err)
		}
		m.Deep = m.Trail != ""
	}
	return s.lockWith(ctx, m, head)
}

// trailReason is that of a database which verifies.
const trailReason = "the audit trail does not verify"

// lockTrail is lock for a trail that does not verify.
func (s *Trust) lockTrail(ctx context.Context, problem string, head *store.Head, authentic bool) error {
	return s.lockWith(ctx, &Mismatch{Reason: trailReason, Trail: problem, HeadVerified: authentic, ofTrail: true}, head)
}

// lockDeep is lockTrail for what was found when the whole trail was verified.
func (s *Trust) lockDeep(ctx context.Context, problem string, head *store.Head) error {
	return s.lockWith(ctx, &Mismatch{Reason: trailReason, Trail: problem, HeadVerified: true, ofTrail: true, Deep: true}, head)
}

func (s *Trust) lockWith(ctx context.Context, m *Mismatch, head *store.Head) error {
	ctx = context.WithoutCancel(ctx)
	begun := *m
	s.integrity.mismatch.Store(&begun) // so that Follow does not join again
	s.Store.Leave(ctx)                 // others must not wait for a daemon that follows them no more
	if err := s.Store.Lock(ctx, m.Reason); err != nil {
		return err
	}
	s.integrity.seal.Store(nil)
	s.Trail.Hold()
	if head != nil {
		m.Sequence, m.Time, m.Epoch = head.Sequence, head.Time, head.Epoch
		if sequence, _ := s.Trail.Head(); sequence > head.AuditSequence {
			m.LaterRecords = sequence - head.AuditSequence
		}
	}
	s.compare(ctx, m, head)
	s.integrity.mismatch.Store(m)
	s.Log.LogAttrs(ctx, slog.LevelError, "the database does not verify: no cryptography and no changes until cmkctl accept-state",
		slog.String("reason", m.Reason), slog.String("trail", m.Trail), slog.Int("differences", len(m.Differences)))
	if err := s.RecordEvent(ctx, journal.EventStateMismatch, m.brief()); err != nil {
		s.Log.LogAttrs(ctx, slog.LevelError, "the mismatch could not be recorded", slog.Any("error", err))
	}
	return nil
}

// compare completes what is known of the rows.
func (s *Trust) compare(ctx context.Context, m *Mismatch, head *store.Head) {
	found, err := s.Store.Compare(ctx)
	if err != nil {
		m.CompareError = err.Error()
		return
	}
	m.CompareError, m.Root, m.Differences = "", hex.EncodeToString(found.Now), found.Rows
	m.Exact = m.HeadVerified && bytes.Equal(found.Root, head.Root)
}

// MaxRecorded is how many differences a record of the audit trail lists.
const MaxRecorded = 100

// brief is the mismatch for the audit trail, whose records have a largest size.
func (m *Mismatch) brief() *Mismatch {
	out := *m
	out.Differences = out.Differences[:min(len(out.Differences), MaxRecorded)]
	return &out
}

// CheckState reads the database file and the end of the audit trail again: a
// running daemon does not read them otherwise.
func (s *Trust) CheckState(ctx context.Context) error {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	if s.integrity.seal.Load() == nil {
		return nil
	}
	err := s.Store.Check(ctx)
	found := s.Store.Found()
	head, headErr := s.foundHead(found)
	if err == nil && headErr == nil {
		return s.checkTrailOf(ctx, head)
	}
	if !errors.Is(err, store.ErrChanged) && !errors.Is(err, store.ErrCorrupt) {
		return errors.Join(err, headErr)
	}
	return errors.Join(headErr, s.lock(ctx, "the file was changed while the daemon was running", head, headErr == nil))
}
