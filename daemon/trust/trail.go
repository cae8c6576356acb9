package trust

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"cmkd/backends"
	"cmkd/daemon/audit"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
)

// checkTrail verifies the end of the audit trail with the token's key, and
// that it has the record that the head names, nil if there is no head that
// could be believed. trusted: the rows are those of the head. It returns what
// is wrong, "" if nothing is. An error is the token's or the disk's.
func (s *Trust) checkTrail(ctx context.Context, head *store.Head, trusted bool) (problem string, err error) {
	verify, err := s.trailKeys(ctx, trusted)
	if err == nil {
		err = s.Trail.Check(knownRecord(head), verify)
	}
	if audit.IsProblem(err) {
		return err.Error(), nil
	}
	return "", err
}

// checkTrailOf is checkTrail for a database that verifies. It locks the
// service if the trail does not. The caller holds integrity.mu.
func (s *Trust) checkTrailOf(ctx context.Context, head *store.Head) error {
	problem, err := s.checkTrail(ctx, head, true)
	if err != nil {
		return fmt.Errorf("verifying the audit trail: %w", err)
	}
	if problem != "" {
		return s.lockTrail(ctx, problem, head, true)
	}
	return nil
}

func knownRecord(head *store.Head) audit.Known {
	if head == nil || head.AuditSequence == 0 || len(head.AuditHash) != sha256.Size {
		return audit.Known{}
	}
	return audit.Known{Sequence: head.AuditSequence, Hash: [sha256.Size]byte(head.AuditHash), Last: head.AuditLast, May: unattended}
}

// errOtherKey: what the token has under the CKA_ID of the audit key is another
// key than the database knows.
var errOtherKey = fmt.Errorf("%w: the audit key in the token is not the one that the database names", audit.ErrCheckpoint)

// trailKeys returns what verifies checkpoints: the audit keys that the database
// names, of which the current one must be the token's. The rows of a database
// that is not trusted may be anybody's: then every key that the token has under
// the label of one is taken, as labels cannot be written by who has the file.
func (s *Trust) trailKeys(ctx context.Context, trusted bool) (audit.SignatureVerifier, error) {
	keys, err := s.trailPublicKeys(ctx, trusted)
	return audit.ECDSAVerifier(keys), err
}

// wholeTrailKeys are those of the whole trail: it may have begun under a database that was lost, whose audit keys
// the token still has.
func (s *Trust) wholeTrailKeys(ctx context.Context, trusted bool) (audit.SignatureVerifier, error) {
	keys, err := s.trailPublicKeys(ctx, trusted)
	if err == nil && trusted {
		err = s.labelledAuditKeys(ctx, keys)
	}
	return audit.ECDSAVerifier(keys), err
}

func (s *Trust) trailPublicKeys(ctx context.Context, trusted bool) (map[string]*ecdsa.PublicKey, error) {
	keys := map[string]*ecdsa.PublicKey{}
	if !trusted {
		return keys, s.labelledAuditKeys(ctx, keys)
	}
	view := s.Store.View()
	for _, row := range view.SystemKeys(s.Token, keyring.PurposeAudit) {
		if err := addAuditKey(keys, keyring.ObjectID(row.CKAID), row.PublicKey); err != nil {
			return nil, err
		}
	}
	row, found, err := s.auditKey(ctx)
	if err == nil && row != nil && !bytes.Equal(found, row.PublicKey) {
		err = errOtherKey
	}
	return keys, err
}

// auditKey returns the current audit key that the database names, nil if it
// names none, and the public key that the token has for it.
func (s *Trust) auditKey(ctx context.Context) (row *store.SystemKey, public []byte, err error) {
	row, ok := s.Store.View().CurrentSystemKey(s.Token, keyring.PurposeAudit)
	if !ok {
		return nil, nil, nil // CheckSystemKeys says so
	}
	ref := keyring.SystemKeyRef(row)
	b, err := s.RouteNew(s.Token, ref.Spec)
	if err != nil {
		return nil, nil, err
	}
	found, err := b.CheckKey(ctx, &backends.CheckKeyRequest{Key: ref})
	if err != nil {
		return nil, nil, fmt.Errorf("the audit key in token %s: %w", s.Token, err)
	}
	return row, found.PublicKey, nil
}

// labelledAuditKeys adds the audit keys that the token has.
func (s *Trust) labelledAuditKeys(ctx context.Context, keys map[string]*ecdsa.PublicKey) error {
	b, err := s.RouteNew(s.Token, backends.P256)
	if err != nil {
		return err
	}
	list, err := b.ListKeys(ctx, &backends.ListKeysRequest{})
	if err != nil {
		return fmt.Errorf("listing the keys of token %s: %w", s.Token, err)
	}
	for _, o := range list.Objects {
		if !strings.HasPrefix(o.Label, "cmkd:system-"+keyring.PurposeAudit+":") {
			continue
		}
		found, err := b.CheckKey(ctx, &backends.CheckKeyRequest{Key: backends.Key{ID: o.ID, Spec: backends.P256, Usage: backends.SignVerify}})
		switch backends.CodeOf(err) {
		case backends.KeyMissing, backends.KeyUnsafe, backends.KeyDuplicate:
			continue // it may be another daemon's
		default:
		}
		if err != nil {
			return fmt.Errorf("the audit key %s in token %s: %w", o.ID, s.Token, err)
		}
		if err := addAuditKey(keys, o.ID, found.PublicKey); err != nil {
			return err
		}
	}
	return nil
}

func addAuditKey(keys map[string]*ecdsa.PublicKey, id backends.KeyID, der []byte) error {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return fmt.Errorf("reading audit key %s: %w", id, err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("audit key %s is %T, want ECDSA", id, parsed)
	}
	keys[id.String()] = key
	return nil
}

// trailHolds reports whether all that is wrong with the trail is that records
// were added behind what the database names as the end: those are chained to
// the others, and the trail can go on behind them. So are the daemon's own of a
// time in which the database did not verify.
func (s *Trust) trailHolds(ctx context.Context, m *Mismatch) bool {
	found := s.Store.Found()
	if !m.HeadVerified || found == nil {
		return false
	}
	head, err := s.foundHead(found)
	if err != nil {
		return false
	}
	head.AuditLast = false
	problem, err := s.checkTrail(ctx, head, false)
	return err == nil && problem == ""
}

// resumeTrail signs the trail after a database has been accepted. If the trail
// was started over, what was there before is moved aside. The caller holds
// integrity.mu.
func (s *Trust) resumeTrail(ctx context.Context, begun bool) error {
	if begun {
		if err := s.Trail.Checkpoint(ctx); err != nil {
			return fmt.Errorf("signing the audit trail: %w", err)
		}
		if err := s.writeHead(ctx); err != nil {
			return err
		}
	}
	head, err := s.foundHead(s.Store.Found())
	if err != nil {
		return err
	}
	return s.checkTrailOf(ctx, head)
}

// writeHead makes the database name the end of the trail.
func (s *Trust) writeHead(ctx context.Context) error {
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		tx.WriteHead()
		return nil
	})
}

// NameTrail makes the database name the end of the audit trail, if that has
// grown: what comes after the record that it names could be cut off unnoticed.
func (s *Trust) NameTrail(ctx context.Context) error {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	if s.integrity.seal.Load() == nil {
		return nil
	}
	head, err := s.foundHead(s.Store.Found())
	if err != nil {
		return err
	}
	if sequence, _ := s.Trail.Head(); sequence == head.AuditSequence && !head.AuditLast { // no start has named it yet
		return nil
	}
	return s.writeHead(ctx)
}

// End ends the trail with a checkpoint and the epoch of the database with a
// head that names it: what is cut off or added afterwards is found at the next
// start, and so is a copy of the database from before. No call is answered any
// more. A database that does not verify stays as it is.
func (s *Trust) End(ctx context.Context) error {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	if s.integrity.seal.Load() == nil {
		_, err := s.Trail.End()
		return err
	}
	failed := s.Counters.Settle(ctx, s.Store)
	if failed == nil && !s.othersServe(ctx) && (s.integrity.due || s.Store.Changes() != s.integrity.advanced) {
		_ = s.Store.Sync(ctx) // what others have committed last
		if failed = s.advance(ctx); errors.Is(failed, errEpoch) {
			failed = nil // it has begun
		}
	}
	final, err := s.Trail.End()
	s.integrity.ended.Store(final)
	if failed != nil { // what hangs would hang once more
		return errors.Join(failed, err)
	}
	return errors.Join(err, s.writeHead(ctx))
}

// VerifyTrail verifies the whole audit trail with the token's key. What is
// wrong is in problem; the service is locked then. A trail of which records were
// cut off or added verifies by itself: it stays a problem until it is accepted.
func (s *Trust) VerifyTrail(ctx context.Context) (report audit.Report, problem string, err error) {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	trusted := s.integrity.seal.Load() != nil
	verify, err := s.wholeTrailKeys(ctx, trusted)
	if err == nil {
		report, err = s.Trail.Verify(ctx, verify)
	}
	m := s.Mismatch()
	if err == nil && m != nil {
		return report, m.Trail, nil
	}
	if !audit.IsProblem(err) {
		return report, "", err
	}
	problem = err.Error()
	if m != nil && !m.Deep { // which is accepted with the trail
		found := *m
		found.Trail, found.Deep = problem, true
		s.integrity.mismatch.Store(&found)
		if err := s.RecordEvent(ctx, journal.EventStateMismatch, found.brief()); err != nil {
			return report, problem, err
		}
	}
	if !trusted {
		return report, problem, nil
	}
	head, err := s.foundHead(s.Store.Found())
	if err != nil {
		return report, problem, err
	}
	return report, problem, s.lockDeep(ctx, problem, head)
}

// wholeTimeout bounds the verification of the whole trail at a start, for which systemd waits. It is enough
// for millions of records.
const wholeTimeout = 45 * time.Second

// checkWhole verifies the whole trail at a start, if the last run had found something wrong with it so: the end
// alone may verify all the same. What takes too long counts as not mended.
func (s *Trust) checkWhole(ctx context.Context, head *store.Head) (problem string, err error) {
	recorded, err := s.recordedProblem(head)
	if err != nil || recorded == "" || s.integrity.whole {
		return "", err
	}
	bounded, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	verify, err := s.wholeTrailKeys(ctx, true)
	if err == nil {
		_, err = s.Trail.Verify(bounded, verify)
	}
	switch {
	case err == nil:
		s.integrity.whole = true
		return "", nil
	case audit.IsProblem(err):
		return err.Error(), nil
	case bounded.Err() != nil && ctx.Err() == nil:
		return recorded, nil
	}
	return "", err
}

// recordedProblem is what was found when the whole trail was verified, by the records behind the head; "" if nothing was.
func (s *Trust) recordedProblem(head *store.Head) (problem string, err error) {
	err = s.Trail.After(head.AuditSequence, func(line []byte) error {
		var r struct {
			EventName  string `json:"eventName"`
			Additional struct {
				Details struct {
					Trail string `json:"trail"`
					Deep  bool   `json:"wholeTrail"`
				} `json:"details"`
			} `json:"additionalEventData"`
		}
		if bytes.Contains(line, []byte(journal.EventStateMismatch)) && json.Unmarshal(line, &r) == nil &&
			r.EventName == journal.EventStateMismatch && r.Additional.Details.Deep {
			problem = r.Additional.Details.Trail
		}
		return nil
	})
	return problem, err
}

// PruneTrail removes the oldest segments of the audit trail, which verify, on
// record like a call. It returns nil if none is to go, and a [Mismatch] is an
// error that wraps [store.ErrUnverified].
func (s *Trust) PruneTrail(ctx context.Context, c *journal.Call, opt audit.PruneOptions) (*audit.Pruning, error) {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	if s.integrity.seal.Load() == nil {
		return nil, store.ErrUnverified
	}
	verify, err := s.trailKeys(ctx, true)
	if err != nil {
		return nil, err
	}
	pruned, err := s.Trail.Prune(ctx, opt, verify, func(p *audit.Pruning) error {
		details, err := json.Marshal(p, json.Deterministic(true))
		if err != nil {
			return err
		}
		c.Record.AdditionalEventData.Details = details
		return s.RecordAhead(ctx, c, 0)
	}, func() error { return s.writeHead(ctx) })
	if c.Ahead != "" {
		s.Concluded(c, err)
	}
	return pruned, err
}
