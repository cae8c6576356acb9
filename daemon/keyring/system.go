package keyring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/store"
)

// The purposes of the daemon's own keys. Each token that holds CMKs has its
// own set.
const (
	PurposeWrapping = "wrapping" // wraps data keys (RFC 5649)
	PurposeState    = "state"    // HMAC over the head of the store
	PurposeAudit    = "audit"    // signs checkpoints of the audit trail
	// PurposeBackup authenticates backups. It is made in the first token with the first
	// backup, and outlives epochs.
	PurposeBackup = "backup"
)

// systemSpec is the key spec and usage of a purpose.
type systemSpec struct {
	purpose string
	Spec    backends.KeySpec
	Usage   backends.Usage
}

// systemSpecs are those of the keys that Init makes.
var systemSpecs = []systemSpec{
	{PurposeWrapping, backends.AES256, backends.WrapDataKeys},
	{PurposeState, backends.HMAC256, backends.GenerateVerifyMAC},
	{PurposeAudit, backends.P256, backends.SignVerify},
}

var BackupSpec = systemSpec{PurposeBackup, backends.HMAC256, backends.GenerateVerifyMAC}

// SystemKeyRef names a system key to its backend.
func SystemKeyRef(k *store.SystemKey) backends.Key {
	ref := backends.Key{ID: ObjectID(k.CKAID)}
	for _, row := range append(systemSpecs[:len(systemSpecs):len(systemSpecs)], BackupSpec) {
		if row.purpose == k.Purpose {
			ref.Spec, ref.Usage = row.Spec, row.Usage
		}
	}
	return ref
}

// uses is what the daemon needs a key of its own for.
var uses = map[string]string{
	PurposeWrapping: "data keys leave the service wrapped under it",
	PurposeState:    "it authenticates the database",
	PurposeAudit:    "it signs the audit trail",
}

// SystemRoute finds the backend for a key of the daemon's own. It is nil, without an
// error, if the token cannot hold such a key and serves the others without: data keys
// need the wrapping key, and the database and the trail those of the first token.
func (s *Keyring) SystemRoute(token, purpose string, spec backends.KeySpec) (Backend, error) {
	b, info, ok := s.Router.Route(token, spec)
	switch {
	case ok && info.Unsupported == "":
		return b, nil
	case ok && (purpose == PurposeWrapping || token != s.Token):
		return nil, nil //nolint:nilnil // said above
	case ok:
		return nil, fmt.Errorf("token %s cannot hold the %s key, which the daemon does not serve without (%s): it lacks %s. "+
			"Let the first [[token]] be one that can; this one can be a further one, for the keys that `cmkctl doctor` says it can hold",
			token, purpose, uses[purpose], info.Unsupported)
	}
	return nil, fmt.Errorf("no plugin serves key spec %s, which the %s key has (%s)", spec, purpose, uses[purpose])
}

// Init makes the daemon's own keys in the token, those that are missing, and
// returns the purposes of those it made. Nothing is made in a token that cannot
// hold what the daemon needs, and what was made before a failure is destroyed again.
func (s *Keyring) Init(ctx context.Context, token string) (made []string, err error) {
	for _, row := range systemSpecs {
		b, err := s.SystemRoute(token, row.purpose, row.Spec)
		if err != nil {
			return nil, err
		}
		if b == nil {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "the token cannot hold a key of the daemon's own: what needs it is not served",
				slog.String("token", token), slog.String("key", row.purpose), slog.String("needed", uses[row.purpose]))
		}
	}
	for _, row := range systemSpecs {
		if _, ok := s.Store.View().CurrentSystemKey(token, row.purpose); ok {
			continue
		}
		if b, _ := s.SystemRoute(token, row.purpose, row.Spec); b == nil {
			continue
		}
		if err := s.AddSystemKey(ctx, token, row.purpose, row.Spec, row.Usage, 1); err != nil {
			s.removeSystemKeys(ctx, token, made)
			return nil, fmt.Errorf("making the %s key in token %s: %w", row.purpose, token, err)
		}
		made = append(made, row.purpose)
	}
	return made, nil
}

// removeSystemKeys destroys keys that a failed Init has just made: nothing is encrypted or
// authenticated with them. What the token does not destroy now is left to Reconcile.
func (s *Keyring) removeSystemKeys(ctx context.Context, token string, purposes []string) {
	for _, purpose := range purposes {
		k, ok := s.Store.View().CurrentSystemKey(token, purpose)
		if !ok {
			continue
		}
		ref := SystemKeyRef(k)
		intent := &store.Intent{
			CKAID: k.CKAID, Action: "destroy", KeyID: "system-" + purpose, Version: k.Version,
			Token: token, Spec: ref.Spec, Usage: ref.Usage, Created: s.Now(),
		}
		err := s.Store.Update(ctx, func(tx *store.Tx) error {
			tx.DeleteSystemKey(token, purpose, k.Version)
			intent.Node = s.Node
			return tx.PutIntent(intent)
		})
		b, routeErr := s.RouteNew(token, ref.Spec)
		if err := errors.Join(err, routeErr); err != nil {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "a key of the daemon's own was left in the token",
				slog.String("id", ref.ID.String()), slog.Any("error", err))
			continue
		}
		s.Undo(ctx, b, intent)
	}
}

func (s *Keyring) AddSystemKey(ctx context.Context, token, purpose string, spec backends.KeySpec, usage backends.Usage, version int) (err error) {
	for range journal.MaxCreations {
		if err = s.makeSystemKey(ctx, token, purpose, spec, usage, version); !errors.Is(err, ErrUnanswered) {
			break
		}
	}
	return err
}

func (s *Keyring) makeSystemKey(ctx context.Context, token, purpose string, spec backends.KeySpec, usage backends.Usage, version int) error {
	b, err := s.RouteNew(token, spec)
	if err != nil {
		return err
	}
	id := NewCKAID()
	intent := &store.Intent{
		CKAID: id, Action: "create", KeyID: "system-" + purpose, Version: version,
		Token: token, Spec: spec, Usage: usage, Created: s.Now(),
	}
	_, err = s.Generate(ctx, nil, b, intent, func(tx *store.Tx, made *backends.CreateKeyAnswer) error {
		if _, there := tx.SystemKey(token, purpose, version); there {
			return fmt.Errorf("another daemon has made the %s key of token %s meanwhile: try again", purpose, token)
		}
		return tx.PutSystemKey(&store.SystemKey{
			Token: token, Purpose: purpose, Version: version, CKAID: id, PublicKey: made.PublicKey, Created: s.Now(),
		})
	})
	return err
}

// CheckSystemKeys says which of the daemon's own keys are missing or unsafe:
// without them it does not serve.
func (s *Keyring) CheckSystemKeys(ctx context.Context, token string) error {
	for _, row := range systemSpecs {
		b, err := s.SystemRoute(token, row.purpose, row.Spec)
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		for {
			k, ok := s.Store.View().CurrentSystemKey(token, row.purpose)
			if !ok {
				return fmt.Errorf("the database names no %s key in token %s: run cmkd -init if this installation is new; if it is not, this is another database than before: see to state_dir, or [store], and restore a backup if it is lost", row.purpose, token)
			}
			_, err := b.CheckKey(ctx, &backends.CheckKeyRequest{Key: SystemKeyRef(k)})
			if err == nil {
				break
			}
			if now, _ := s.Store.View().CurrentSystemKey(token, row.purpose); now != k {
				continue // another daemon has begun the next epoch
			}
			return fmt.Errorf("the %s key in token %s: %w", row.purpose, token, err)
		}
	}
	return nil
}

// StateKeyID is the key ID in the label of the first key of a lineage; those
// that follow have the lineage behind it: "cmkd:system-state-<lineage>:<epoch>".
const StateKeyID = "system-" + PurposeState

// IsEpoch reports whether the intent is of a key that authenticates heads.
func IsEpoch(i *store.Intent) bool { return strings.HasPrefix(i.KeyID, StateKeyID+"-") }
