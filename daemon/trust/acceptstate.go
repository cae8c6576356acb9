package trust

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"github.com/go-json-experiment/json"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
)

// ErrMalformed: rows cannot be accepted, for no version of the program writes such.
var ErrMalformed = errors.New("rows that cmkd does not write cannot be accepted: remove or repair them, or put a backup in place")

// AcceptState is an operator's decision to trust the rows as they are. root is
// the one of the [Mismatch] that was looked at; [store.ErrChanged] says that
// the rows are others now. It is recorded before it is done.
func (s *Trust) AcceptState(ctx context.Context, c *journal.Call, root string) (err error) {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	m := s.Mismatch()
	raw, err := hex.DecodeString(root)
	if m == nil || err != nil || root != m.Root {
		return store.ErrChanged
	}
	seen, err := s.stored(ctx)
	if err != nil {
		return err
	}
	if bad := malformed(seen.view); bad != "" {
		return fmt.Errorf("%w: %s", ErrMalformed, bad)
	}
	auditKey, public, err := s.auditKey(ctx)
	if err != nil {
		return err
	}
	replaced := auditKey != nil && !bytes.Equal(auditKey.PublicKey, public)
	if s.Store.Shared() && m.ofTrail && seen.why == "" && !replaced {
		return s.acceptTrail(ctx, c, m)
	}
	if !bytes.Equal(seen.view.Root(), raw) {
		return store.ErrChanged
	}
	k, made, err := s.acceptedKey(ctx, seen)
	if err != nil {
		return err
	}
	adopting := false // from then on a database may name the key
	defer func() {
		if err != nil && made && !adopting {
			s.dropStateKey(ctx, k)
		}
	}()
	begins, err := s.recordAccepted(ctx, c, m)
	if err != nil {
		return err
	}
	seal := &sealer{service: s, lineage: k.lineage}
	adopting = true
	s.integrity.older.Store(!seen.current || !seen.found.Equal(s.Store.Found()))
	err = s.Store.Adopt(ctx, seal, raw, func(tx *store.Tx) error {
		if replaced { // it signs from now on
			row := *auditKey
			row.PublicKey = public
			if err := tx.PutSystemKey(&row); err != nil {
				return err
			}
		}
		for _, row := range tx.SystemKeys(s.Token, keyring.PurposeState) {
			tx.DeleteSystemKey(s.Token, keyring.PurposeState, row.Version)
		}
		tx.DeleteIntent(k.id[:]) // the key stays
		s.dropCreations(tx)
		if err := s.HoldDeletions(tx); err != nil {
			return err
		}
		return tx.PutSystemKey(s.stateKeyRow(k))
	})
	s.integrity.older.Store(false)
	s.Concluded(c, err)
	if err != nil {
		return fmt.Errorf("accepting the database: %w", err)
	}
	s.integrity.seal.Store(seal)
	s.integrity.mismatch.Store(nil)
	if err := s.resumeTrail(ctx, begins); err != nil {
		return err
	}
	s.Log.LogAttrs(ctx, slog.LevelWarn, "the database is accepted as it is", slog.String("root", root))
	return s.advanceLater(ctx)
}

// recordAccepted records the operator's decision before it is carried out, in a trail that is started over if it
// cannot go on: begins.
func (s *Trust) recordAccepted(ctx context.Context, c *journal.Call, m *Mismatch) (begins bool, err error) {
	details, err := json.Marshal(m.brief(), json.Deterministic(true))
	if err != nil {
		return false, err
	}
	begins = m.Trail != "" && (m.Deep || !s.trailHolds(ctx, m))
	if begins {
		if err := s.Trail.Begin(ctx, m.Trail); err != nil {
			return false, err
		}
	}
	c.Record.AdditionalEventData.Details = details
	return begins, s.RecordAhead(ctx, c, 0)
}

// dropCreations ends what a copy of the database says is in the making: since
// the copy was taken it may have become a key, which reconciliation would
// destroy. What it leaves in the token, [Service.Recover] finds.
func (s *Trust) dropCreations(tx *store.Tx) {
	for i := range tx.Intents() {
		if i.Action == "create" && !keyring.IsEpoch(i) {
			tx.DeleteIntent(i.CKAID)
		}
	}
}

// acceptedKey chooses the key for the head of a state that is accepted: the
// last one of the lineage that the database names, or one that is made for it.
func (s *Trust) acceptedKey(ctx context.Context, seen *stored) (k stateKey, made bool, err error) {
	keys, err := s.stateKeys(ctx, false)
	if err != nil {
		return stateKey{}, false, err
	}
	var lineages []string // that the database names, without trust
	if row, ok := seen.view.CurrentSystemKey(s.Token, keyring.PurposeState); ok && len(row.CKAID) == len(backends.KeyID{}) {
		id := keyring.ObjectID(row.CKAID)
		if k, ok := keys[id]; ok {
			if last, _ := newest(keys, k.lineage); last.epoch > k.epoch {
				return last, false, nil
			}
			return k, false, nil
		}
		lineages = append(lineages, row.Lineage, id.String())
	}
	if seen.head != nil {
		lineages = append(lineages, seen.head.Lineage)
	}
	for _, lineage := range lineages {
		if last, ok := newest(keys, lineage); ok {
			return last, false, nil
		}
	}
	k, err = s.firstStateKey(ctx)
	return k, err == nil, err
}
