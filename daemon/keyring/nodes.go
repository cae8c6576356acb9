package keyring

import (
	"context"
	"errors"
	"log/slog"

	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// errTakenOver: another node has undone what this one was at, since it was cut off.
var errTakenOver = kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The daemon was cut off from its database meanwhile, and another one has undone the change. Try again.")

// EndsIntent ends an intent within the transaction that completes its work, if it is still this
// node's.
func (s *Keyring) EndsIntent(tx *store.Tx, intent *store.Intent) error {
	now, ok := tx.Intent(intent.CKAID)
	if s.Node != "" && (!ok || now.Node != intent.Node) {
		return errTakenOver
	}
	tx.DeleteIntent(intent.CKAID)
	return nil
}

// holds reports whether the intent, as it is now, is this node's to end. Another one has taken it
// over, or taken up again what this one had taken over.
func (s *Keyring) holds(now *store.Intent) bool { return s.Node == "" || now.Node == s.Node }

// ours reports whether this node is to undo the intent: it is its own, or it is of a node whose
// lease has ended, and this is the leader. Then it is made this node's first, so that
// the other one cannot complete it any more.
func (s *Keyring) ours(ctx context.Context, intent *store.Intent) (bool, error) {
	if s.holds(intent) {
		return true, nil
	}
	if !s.Store.Leads() || s.Store.Alive(intent.Node) {
		return false, nil
	}
	taken := false
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		now, ok := tx.Intent(intent.CKAID)
		if taken = ok && now.Node == intent.Node && !s.Store.Alive(intent.Node); !taken {
			return nil
		}
		row := *now
		row.Node = s.Node
		return tx.PutIntent(&row)
	})
	return taken && err == nil, err
}

// Regained is for work that another node has taken over while its object was made: the intent is there
// again, so that the object is undone.
func (s *Keyring) Regained(ctx context.Context, intent *store.Intent, err error) {
	if !errors.Is(err, errTakenOver) {
		return
	}
	if err := s.PutIntent(context.WithoutCancel(ctx), intent); err != nil {
		s.Log.LogAttrs(ctx, slog.LevelError, "an object may be left in the token", slog.String("id", ObjectID(intent.CKAID).String()), slog.Any("error", err))
	}
}
