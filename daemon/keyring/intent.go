package keyring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/store"
)

// The store and the token cannot change at one moment. So an intent is stored
// before the token is touched, and ended with the transaction that completes
// the work. Whatever a crash leaves in the token, an intent explains.

// ImportPrefix stands before the key ID in the label of the wrapping pair of an
// import.
const ImportPrefix = "import-"

// destroyTimeout bounds the end of work whose caller may have gone.
const destroyTimeout = 10 * time.Second

// Working are the intents that calls of this process are busy with:
// reconciliation leaves them alone.
type working struct {
	mu  sync.Mutex
	IDs map[string]bool // guarded by mu; CKA_IDs
}

func (w *working) Begin(id []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.IDs == nil {
		w.IDs = map[string]bool{}
	}
	w.IDs[string(id)] = true
}

func (w *working) End(id []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.IDs, string(id))
}

func (w *working) on(id []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.IDs[string(id)]
}

// Generate makes a key in the token: the intent first, then the token, then
// what finish stores together with the intent's end. A crash in between
// leaves an intent, and reconciliation destroys what it explains. If the token
// takes too long the caller gets [backends.Timeout], and what comes later is
// undone then: a key whose caller was not told of it does not stay.
// The transaction is c's, see [Journal.Commit].
func (s *Keyring) Generate(ctx context.Context, c *journal.Call, b Backend, intent *store.Intent, finish func(*store.Tx, *backends.CreateKeyAnswer) error) (*backends.CreateKeyAnswer, error) {
	if err := s.Start(ctx, intent); err != nil {
		return nil, err
	}
	c.Creates()
	losses := s.Losses(intent)
	// The token cannot be stopped in the middle: if the call were given up, its
	// key would come after undo has found nothing to destroy.
	made, late, err := InTime(ctx, creationTime(intent.Spec), func(ctx context.Context) (*backends.CreateKeyAnswer, error) {
		return s.MakeKey(ctx, b, intent)
	}, func() { s.Abandon(ctx, b, intent) })
	if late {
		return nil, err
	}
	defer s.Working.End(intent.CKAID)
	err = s.Answered(intent, losses, made != nil && made.Unsure, err)
	if err == nil {
		err = s.Commit(ctx, c, func(tx *store.Tx) error {
			if err := finish(tx, made); err != nil {
				return err
			}
			return s.EndsIntent(tx, intent)
		})
	}
	if err != nil {
		s.Regained(ctx, intent, err)
		s.Undo(ctx, b, intent)
		return nil, err
	}
	s.Generated() // the token makes keys, and the database takes rows
	return made, nil
}

// Abandon undoes work that came too late for its caller, if it came.
func (s *Keyring) Abandon(ctx context.Context, b Backend, intent *store.Intent) {
	defer s.Working.End(intent.CKAID)
	s.Late.expect(intent, s.Now(), true)
	s.Undo(ctx, b, intent)
}

// Start stores the intent of what a call makes, which is worked on until s.Working.End. It fails with
// [backends.Busy] if the token is at too many others; see maxLate.
func (s *Keyring) Start(ctx context.Context, intent *store.Intent) error {
	if n := s.Late.of(intent.Token); n >= maxLate {
		return backends.Errorf(backends.Busy, "token %s may still complete %d creations that failed: nothing is made in it until some are settled, a quarter of an hour after it answers again", intent.Token, n)
	}
	s.Working.Begin(intent.CKAID)
	err := s.PutIntent(ctx, intent)
	if err != nil {
		s.Working.End(intent.CKAID)
	}
	return err
}

func (s *Keyring) PutIntent(ctx context.Context, intent *store.Intent) error {
	intent.Node = s.Node
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		return tx.PutIntent(intent)
	})
	if err != nil {
		return fmt.Errorf("storing the intent: %w", err)
	}
	return nil
}

// MakeKey makes the key of an intent. If a process is killed in the middle of
// a creation, the next one may find a key that lacks attributes, and so looks
// unsafe: it is destroyed and made again, once. A token that makes unsafe keys
// does so again. What the first attempt left unsure the second does not make sure.
func (s *Keyring) MakeKey(ctx context.Context, b Backend, intent *store.Intent) (*backends.CreateKeyAnswer, error) {
	in := &backends.CreateKeyRequest{Key: IntentKey(intent), Label: Label(intent.KeyID, intent.Version)}
	made, err := b.CreateKey(ctx, in)
	if backends.CodeOf(err) != backends.KeyUnsafe {
		return made, err
	}
	s.Log.LogAttrs(ctx, slog.LevelWarn, "an unfinished key is created again", slog.String("key", intent.KeyID), slog.Any("error", err))
	unsure := backends.Doubtful(err)
	if _, err = b.DestroyKey(ctx, &backends.DestroyKeyRequest{Key: in.Key}); err == nil {
		made, err = b.CreateKey(ctx, in)
	}
	if err != nil {
		return nil, backends.DoubtIf(unsure, err)
	}
	made.Unsure = made.Unsure || unsure
	return made, nil
}

func IntentKey(i *store.Intent) backends.Key {
	return backends.Key{
		ID: ObjectID(i.CKAID), Spec: i.Spec,
		Usage: i.Usage, Imported: i.Imported,
	}
}

// DestroyIntent explains the object of a version that is on its way out.
func (s *Keyring) DestroyIntent(row *store.Key, v *store.Version) *store.Intent {
	return &store.Intent{
		CKAID: v.CKAID, Action: "destroy", Region: row.Region, KeyID: row.ID, Version: v.Number, Token: row.Token,
		Spec: row.Spec, Usage: row.Usage, Imported: v.Imported, Created: s.Now(),
	}
}

// PairIntent is destroyIntent of the wrapping pair of an import.
func (s *Keyring) PairIntent(row *store.Key, p *store.ImportParameters) *store.Intent {
	return &store.Intent{
		CKAID: p.CKAID, Action: "destroy", Region: row.Region, KeyID: ImportPrefix + p.KeyID, Version: 1, Token: p.Token,
		Spec: p.Spec, Usage: backends.UnwrapImport, Route: row.Spec, Created: s.Now(),
	}
}

// Cleanup destroys objects that a transaction takes the rows of. Reconciliation leaves
// them to it until done.
type Cleanup struct {
	Ring    *Keyring
	Intents []*store.Intent
}

// Add stores the intent that explains the object, within the transaction.
func (w *Cleanup) Add(tx *store.Tx, intents ...*store.Intent) error {
	for _, i := range intents {
		w.Ring.Working.Begin(i.CKAID)
		w.Intents = append(w.Intents, i)
		i.Node = w.Ring.Node
		if err := tx.PutIntent(i); err != nil {
			return err
		}
	}
	return nil
}

// Run is undo of what was added, after the transaction.
func (w *Cleanup) Run(ctx context.Context, b Backend) {
	for _, i := range w.Intents {
		w.Ring.Undo(ctx, b, i)
	}
}

// Done is called when no more is done, whatever became of the transaction.
func (w *Cleanup) Done() {
	for _, i := range w.Intents {
		w.Ring.Working.End(i.CKAID)
	}
}

// Destroy takes the object that the intent explains out of the token, and ends
// the intent, with e recorded if it is not nil. The backend has looked again
// and found nothing. An intent whose object may come later stays.
func (s *Keyring) Destroy(ctx context.Context, b Backend, intent *store.Intent, e *journal.Event) (objects int, err error) {
	objects, err = s.take(ctx, b, intent)
	if err != nil || s.Late.Expects(intent.CKAID) {
		return objects, err
	}
	return objects, s.endIntent(ctx, intent, true, e)
}

// Take takes the object that the intent explains out of the token.
//
// What a commit of unknown outcome would make true is not undone: that is made
// certain first, and an intent that has ended by it explains nothing any more.
func (s *Keyring) take(ctx context.Context, b Backend, intent *store.Intent) (objects int, err error) {
	if err := s.Store.Settle(ctx); err != nil {
		return 0, fmt.Errorf("before version %d of key %s is destroyed: %w", intent.Version, intent.KeyID, err)
	}
	if now, ok := s.Store.View().Intent(intent.CKAID); !ok || !s.holds(now) {
		return 0, nil
	}
	if err := s.Acknowledged(ctx); err != nil { // another node may still use it
		return 0, fmt.Errorf("before version %d of key %s is destroyed: %w", intent.Version, intent.KeyID, err)
	}
	made, err := b.DestroyKey(ctx, &backends.DestroyKeyRequest{Key: IntentKey(intent)})
	if err != nil {
		return 0, fmt.Errorf("destroying version %d of key %s: %w", intent.Version, intent.KeyID, err)
	}
	if made.Objects == 0 && intent.Action == "destroy" && !IsEpoch(intent) && !s.Absences.Has(intent.CKAID) {
		// It was there, and may be hidden from the process: see absences.
		if err := s.renew(ctx, intent.Token, intentRoute(intent)); err != nil {
			return 0, fmt.Errorf("looking again for version %d of key %s: %w", intent.Version, intent.KeyID, err)
		}
		if made, err = b.DestroyKey(ctx, &backends.DestroyKeyRequest{Key: IntentKey(intent)}); err != nil {
			return 0, fmt.Errorf("destroying version %d of key %s: %w", intent.Version, intent.KeyID, err)
		}
	}
	return made.Objects, nil
}

// endIntent records e, if it is not nil, and ends the intent unless it stays. One
// that has ended meanwhile, or is another node's by now, is nothing to tell of.
func (s *Keyring) endIntent(ctx context.Context, intent *store.Intent, ends bool, e *journal.Event) error {
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		if now, ok := tx.Intent(intent.CKAID); !ok || !s.holds(now) {
			return nil
		}
		if ends {
			tx.DeleteIntent(intent.CKAID)
		}
		return s.Announce(ctx, tx, e)
	})
}

// Undo is destroy for a caller that has its answer, or has gone: if it fails,
// the intent stays for the next reconciliation.
func (s *Keyring) Undo(ctx context.Context, b Backend, intent *store.Intent) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	if _, err := s.Destroy(ctx, b, intent, nil); err != nil {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "key left for reconciliation",
			slog.String("key", intent.KeyID), slog.Any("error", err))
	}
}

// Reconcile finishes what was interrupted: of every intent that is left, the
// object is destroyed and the intent ended. It touches only what an intent
// explains, and passes over tokens that are away, or have left the configuration. One
// that fails does not stop the others, but see maxAway.
func (s *Keyring) Reconcile(ctx context.Context) error {
	var errs []error
	away, waiting := map[string]int{}, map[string]int{} // by token
	var creations []*store.Intent
	s.Late.prune(func(id []byte) bool {
		_, ok := s.Store.View().Intent(id)
		return ok
	})
	intents := slices.Collect(s.Store.View().Intents())
	rand.Shuffle(len(intents), func(i, j int) { intents[i], intents[j] = intents[j], intents[i] }) // some may never succeed
	for _, intent := range intents {
		if s.Working.on(intent.CKAID) {
			continue
		}
		// Work may have ended since the view was taken. An intent that nobody
		// works on and that is still there now, nobody will end.
		if _, ok := s.Store.View().Intent(intent.CKAID); !ok {
			continue
		}
		spec := intentRoute(intent)
		if ours, err := s.ours(ctx, intent); err != nil || !ours {
			errs = append(errs, err)
			continue
		}
		b, _, ok := s.Router.Route(intent.Token, spec)
		if !ok {
			s.warnUnrouted(ctx, intent)
			continue
		}
		if !s.Router.Serving(intent.Token, spec) {
			continue
		}
		if intent.Action == "create" {
			creations = append(creations, intent)
			continue
		}
		if away[intent.Token] == maxAway {
			waiting[intent.Token]++
			continue
		}
		e := s.reconciliation(intent)
		objects, err := s.Destroy(ctx, b, intent, e)
		if backends.CodeOf(err) == backends.Lost {
			away[intent.Token]++
		}
		if err != nil {
			errs = append(errs, err, s.Failed(ctx, e, err))
			continue
		}
		s.Forget(e)
		s.Log.LogAttrs(ctx, slog.LevelWarn, "interrupted work undone", slog.String("action", intent.Action),
			slog.String("key", intent.KeyID), slog.Int("version", intent.Version), slog.Int("objects", objects))
	}
	for token, n := range waiting {
		errs = append(errs, fmt.Errorf("%d more objects in token %s wait for it, or for a member of it, to be destroyed", n, token))
	}
	return errors.Join(append(errs, s.reconcileLate(ctx, creations))...)
}

// maxAway is after how many Lost answers the rest of a token's objects waits for another time: a member
// of it is away, and as long as it is, each epoch leaves another object.
const maxAway = 3

// warnUnrouted says once for each token that it holds what nobody will destroy.
func (s *Keyring) warnUnrouted(ctx context.Context, intent *store.Intent) {
	if _, said := s.unrouted.LoadOrStore(intent.Token, true); !said {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "interrupted work is left in a token that is not in the configuration: objects of it may stay there",
			slog.String("token", intent.Token), slog.String("action", intent.Action), slog.String("key", intent.KeyID))
	}
}

// Available finds the backend of a key that is to be changed in its token now.
func (s *Keyring) Available(row *store.Key) (Backend, error) {
	spec := row.Spec
	b, _, ok := s.Router.Route(row.Token, spec)
	if !ok || !s.Router.Available(row.Token, spec) {
		return nil, journal.InvalidState(s.KeyARN(row.Region, row.ID), "unavailable")
	}
	return b, nil
}
