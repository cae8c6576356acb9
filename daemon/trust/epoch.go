package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
)

// The head of the store is authenticated by an HMAC key in the token. Keys
// follow each other in epochs: each replaces the one before, which is
// destroyed, so that nothing can verify a copy of the database that was made
// in an epoch that has ended. The first key of a lineage is made by Init; the
// lineage is named after its CKA_ID. What is in the token cannot be written by
// who has only the file: the labels say what the keys are.

// integrity is what the service knows of the store's head.
type integrity struct {
	seal     atomic.Pointer[sealer] // nil until the head is verified
	mismatch atomic.Pointer[Mismatch]

	ended atomic.Bool // the trail has ended: the head says so

	older atomic.Bool // an older copy is being accepted: the head says so of the trails of other nodes

	// waiting is why the next epoch has not begun, nil if none is due.
	waiting atomic.Pointer[string]

	// mended: the token or the database does again what it did not.
	mended atomic.Bool

	mu       sync.Mutex      // held while an epoch begins or a state is accepted
	whole    bool            // the whole trail has verified at this start; guarded by mu
	attended bool            // what was behind the end of the trail is on record; guarded by mu
	advanced uint64          // store.Changes that the epoch covers; guarded by mu
	due      bool            // an epoch is to begin, whatever has changed; guarded by mu
	pause    keyring.Backoff // since the attempts that failed; guarded by mu
	said     string          // why the last of them failed, in the log; guarded by mu
}

// stateKey is a key that authenticates heads, as the token's label tells.
type stateKey struct {
	id      backends.KeyID
	lineage string
	epoch   int
}

// parseStateKey reads the label of an object; ok is false of other keys.
func parseStateKey(o backends.Object) (k stateKey, ok bool) {
	rest, ok := strings.CutPrefix(o.Label, "cmkd:"+keyring.StateKeyID)
	if !ok {
		return stateKey{}, false
	}
	rest, number, _ := strings.Cut(rest, ":")
	epoch, err := strconv.Atoi(number)
	if err != nil {
		return stateKey{}, false
	}
	if rest == "" {
		return stateKey{o.ID, o.ID.String(), epoch}, epoch == 1
	}
	lineage, ok := strings.CutPrefix(rest, "-")
	return stateKey{o.ID, lineage, epoch}, ok && lineage != "" && epoch > 1
}

// stateKeys lists the keys in the token that authenticate heads: this
// daemon's, and those of others that share the token. known: those are enough that the
// plugin has seen since it opened the token.
func (s *Trust) stateKeys(ctx context.Context, known bool) (map[backends.KeyID]stateKey, error) {
	b, err := s.SystemRoute(s.Token, keyring.PurposeState, backends.HMAC256)
	if err != nil {
		return nil, err
	}
	list, err := b.ListKeys(ctx, &backends.ListKeysRequest{Known: known})
	if err != nil {
		return nil, fmt.Errorf("listing the keys of token %s: %w", s.Token, err)
	}
	keys := map[backends.KeyID]stateKey{}
	for _, o := range list.Objects {
		if k, ok := parseStateKey(o); ok {
			keys[k.id] = k
		}
	}
	return keys, nil
}

// newest returns the last key of a lineage.
func newest(keys map[backends.KeyID]stateKey, lineage string) (last stateKey, ok bool) {
	for _, k := range keys {
		if k.lineage == lineage && k.epoch > last.epoch {
			last = k
		}
	}
	return last, last.epoch > 0
}

// sealer authenticates heads with the keys of a lineage. It implements
// [store.Sealer].
type sealer struct {
	service *Trust
	lineage string
}

// Seal implements [store.Sealer]. The key is the one that the commit leads to,
// so that the commit that begins an epoch is the first one of it.
func (h *sealer) Seal(ctx context.Context, view *store.View, head *store.Head) ([]byte, error) {
	s := h.service
	k, ok := view.CurrentSystemKey(s.Token, keyring.PurposeState)
	if !ok {
		return nil, backends.Errorf(backends.KeyMissing, "token %s has no state key", s.Token)
	}
	head.Time, head.Lineage, head.Epoch = s.Now().UTC(), h.lineage, k.Version
	if sequence, hash := s.Trail.Head(); sequence > 0 {
		head.AuditSequence, head.AuditHash = sequence, hash[:]
		head.AuditLast = s.integrity.ended.Load()
	}
	s.nameTrails(head)
	message, err := head.Message()
	if err != nil {
		return nil, err
	}
	return s.systemMAC(ctx, k, message)
}

// systemMAC is the MAC by a key of the daemon's own.
func (s *Trust) systemMAC(ctx context.Context, k *store.SystemKey, message []byte) ([]byte, error) {
	b, err := s.RouteNew(s.Token, backends.HMAC256)
	if err != nil {
		return nil, err
	}
	out, err := b.GenerateMAC(ctx, &backends.MACRequest{Key: keyring.SystemKeyRef(k), Algorithm: "HMAC_SHA_256", Message: message})
	if err != nil {
		return nil, err
	}
	return out.MAC, nil
}

// AdvanceEpoch begins a new epoch if anything but bookkeeping was committed
// since the last one began. Copies of the database from before are then
// worthless. An epoch that could not begin is tried again after a minute, then less
// and less often, up to once an hour: each time costs a key made and destroyed in
// the token, and two commits. [Service.EpochWaiting] says why, and the log once.
func (s *Trust) AdvanceEpoch(ctx context.Context) error {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	if s.integrity.mended.Swap(false) {
		s.integrity.pause = keyring.Backoff{}
	}
	if !s.Store.Leads() || !s.integrity.due && s.Store.Changes() == s.integrity.advanced || !s.integrity.pause.Over(time.Now()) { // a clock that does not jump
		return nil
	}
	return s.advanceLater(ctx)
}

// RetryEpoch makes the next AdvanceEpoch try at once: what was in the way may have
// gone.
func (s *Trust) RetryEpoch() { s.integrity.mended.Store(true) }

// EpochWaiting is why the epoch that is due has not begun, "" if none is due, or another
// daemon is to begin it.
// Until it begins, a copy of the database from the epoch before would verify.
func (s *Trust) EpochWaiting() string {
	if why := s.integrity.waiting.Load(); why != nil && s.Store.Leads() {
		return *why
	}
	return ""
}

// advanceLater is advance for a service that goes on without a new epoch: the
// database may be full, or the token. The jobs try again. The caller holds
// integrity.mu.
func (s *Trust) advanceLater(ctx context.Context) error {
	err := s.advance(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	level := slog.LevelError
	if why := cause(err); s.integrity.said == why {
		level = slog.LevelDebug
	} else {
		s.integrity.said = why
	}
	s.Log.LogAttrs(ctx, level, "the epoch of the database was not renewed: older copies of the database still verify",
		slog.Any("error", err), slog.String("again", s.integrity.pause.Pause.String()))
	return nil
}

// cause is what an error has in common with another one of the same reason:
// messages of backends name objects that are others each time.
func cause(err error) string {
	if e, ok := errors.AsType[*backends.Error](err); ok {
		return string(e.Code)
	}
	return err.Error()
}

// errEpoch: this node was taken for no leader meanwhile. The other one's key must keep its row, which
// is all that explains it.
var errEpoch = errors.New("another daemon has begun an epoch meanwhile")

// advance begins a new epoch: the new key first, then a head under it, then
// the old key is destroyed. Each step is explained by an intent. The caller
// holds integrity.mu.
func (s *Trust) advance(ctx context.Context) (err error) {
	s.integrity.due = true
	defer func() {
		if err == nil {
			s.integrity.due = false
			s.integrity.waiting.Store(nil)
			s.integrity.pause, s.integrity.said = keyring.Backoff{}, ""
			return
		}
		s.integrity.pause.Failed(time.Now())
		why := err.Error()
		s.integrity.waiting.Store(&why)
	}()
	seal := s.integrity.seal.Load()
	old, ok := s.Store.View().CurrentSystemKey(s.Token, keyring.PurposeState)
	if seal == nil || !ok {
		return nil // not verified
	}
	b, err := s.RouteNew(s.Token, backends.HMAC256)
	if err != nil {
		return err
	}
	changes := s.Store.Changes()
	end := s.epochIntent("destroy", seal.lineage, old.Version, old.CKAID)
	for range journal.MaxCreations {
		intent := s.epochIntent("create", seal.lineage, old.Version+1, keyring.NewCKAID())
		err = s.beginEpoch(ctx, b, intent, func(tx *store.Tx) error {
			if now, ok := tx.CurrentSystemKey(s.Token, keyring.PurposeState); !ok || !bytes.Equal(now.CKAID, old.CKAID) {
				return errEpoch
			}
			tx.DeleteSystemKey(s.Token, keyring.PurposeState, old.Version)
			if err := s.EndsIntent(tx, intent); err != nil {
				return err
			}
			return errors.Join(tx.PutIntent(end), tx.PutSystemKey(s.stateKeyRow(stateKey{keyring.ObjectID(intent.CKAID), seal.lineage, intent.Version})))
		})
		if !errors.Is(err, keyring.ErrUnanswered) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("beginning epoch %d: %w", old.Version+1, err)
	}
	s.integrity.advanced = changes
	s.Undo(ctx, b, end) // what it leaves, reconciliation destroys
	return nil
}

// beginEpoch makes the key of the intent and commits what finish writes. It
// leaves a commit that fails to reconciliation: that may yet be found
// after a crash, and so its key must stay until another one has succeeded.
func (s *Trust) beginEpoch(ctx context.Context, b keyring.Backend, intent *store.Intent, finish func(*store.Tx) error) error {
	s.Working.Begin(intent.CKAID)
	defer s.Working.End(intent.CKAID)
	if err := s.PutIntent(ctx, intent); err != nil {
		return err
	}
	losses := s.Losses(intent)
	made, err := s.MakeKey(ctx, b, intent)
	if err = s.Answered(intent, losses, made != nil && made.Unsure, err); err != nil {
		s.Undo(ctx, b, intent) // nothing can name its key yet
		return err
	}
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		return finish(tx)
	})
}

// epochIntent explains the key of an epoch that comes or goes.
func (s *Trust) epochIntent(action, lineage string, epoch int, id []byte) *store.Intent {
	return &store.Intent{
		CKAID: id, Node: s.Node, Action: action, KeyID: keyring.StateKeyID + "-" + lineage, Version: epoch, Token: s.Token,
		Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC, Created: s.Now(),
	}
}

// stateKeyRow names a key that authenticates heads in the database.
func (s *Trust) stateKeyRow(k stateKey) *store.SystemKey {
	row := &store.SystemKey{Token: s.Token, Purpose: keyring.PurposeState, Version: k.epoch, CKAID: k.id[:], Created: s.Now()}
	if k.epoch > 1 {
		row.Lineage = k.lineage
	}
	return row
}

// firstStateKey makes the first key of a new lineage, for a state that is
// accepted without any key that is known to be its own. No intent explains it, since nothing can be
// written into a database that is not accepted yet: if the process ends before it is, the key stays in the
// token, which costs its room. So does what comes late of an attempt that is given up; the next one has
// another CKA_ID.
func (s *Trust) firstStateKey(ctx context.Context) (stateKey, error) {
	b, err := s.RouteNew(s.Token, backends.HMAC256)
	if err != nil {
		return stateKey{}, err
	}
	for range journal.MaxCreations {
		intent := &store.Intent{
			CKAID: keyring.NewCKAID(), Action: "create", KeyID: keyring.StateKeyID, Version: 1, Token: s.Token,
			Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC, Created: s.Now(),
		}
		id := keyring.ObjectID(intent.CKAID)
		k := stateKey{id, id.String(), 1}
		losses := s.Losses(intent)
		var made *backends.CreateKeyAnswer
		made, err = s.MakeKey(ctx, b, intent)
		if err = s.Answered(intent, losses, made != nil && made.Unsure, err); err == nil {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "state key created: earlier ones are unknown and stay in the token", slog.String("id", id.String()))
			return k, nil
		}
		s.dropStateKey(ctx, k)
		if !errors.Is(err, keyring.ErrUnanswered) {
			break
		}
	}
	return stateKey{}, fmt.Errorf("making a state key in token %s: %w", s.Token, err)
}

// dropStateKey destroys what firstStateKey has made, for a state that was not accepted or in doubt.
func (s *Trust) dropStateKey(ctx context.Context, k stateKey) {
	b, err := s.RouteNew(s.Token, backends.HMAC256)
	if err == nil {
		key := backends.Key{ID: k.id, Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC}
		_, err = b.DestroyKey(context.WithoutCancel(ctx), &backends.DestroyKeyRequest{Key: key})
	}
	if err != nil {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "a state key is left in the token", slog.String("id", k.id.String()), slog.Any("error", err))
	}
}
