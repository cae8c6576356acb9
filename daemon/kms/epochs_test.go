package kms_test

import (
	"bytes"
	"context"
	"testing"

	"cmkd/backends"
	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/testenv/memory"
)

// meeting is a token in which something else happens while the next state key is made.
type meeting struct {
	ownKeys
	meanwhile func()
}

func (m *meeting) Route(token string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	_, info, ok := m.ownKeys.Route(token, spec)
	return m, info, ok
}

// noStateKeys is a token that makes none.
type noStateKeys struct{ ownKeys }

func (n *noStateKeys) Route(token string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	_, info, ok := n.ownKeys.Route(token, spec)
	return n, info, ok
}

func (n *noStateKeys) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	if in.Key.Spec == backends.HMAC256 {
		return nil, backends.Errorf(backends.TokenFull, "no room")
	}
	return n.ownKeys.CreateKey(ctx, in)
}

// TestEpochOfLeader: an epoch that waits is the leader's trouble, and that of no daemon that led before.
func TestEpochOfLeader(t *testing.T) {
	t.Parallel()
	s := trustedWith(t, func(cfg *kms.Config) { cfg.Store = storetest.Open(t, storetest.NewSharedDisk()) })
	if err := s.cfg.Store.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.cfg.Router = &noStateKeys{s.cfg.Router.(ownKeys)}
	s.service = kms.New(s.cfg)
	s.verify()
	s.newKey(nil)
	if err := s.service.AdvanceEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if why := s.service.EpochWaiting(); why == "" {
		t.Error("nothing is said of the epoch that has not begun")
	}
	s.cfg.Store.Leave(t.Context())
	if why := s.service.EpochWaiting(); why != "" {
		t.Errorf("a daemon that does not lead: %s", why)
	}
}

func (m *meeting) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	if f := m.meanwhile; f != nil && in.Key.Spec == backends.HMAC256 {
		m.meanwhile = nil
		f()
	}
	return m.ownKeys.CreateKey(ctx, in)
}

// TestEpochsMeet: of two daemons that begin the same epoch one does, and the other leaves its key
// and its row alone: a key without a row would stay in the token.
func TestEpochsMeet(t *testing.T) {
	t.Parallel()
	s := trusted(t)
	token := &meeting{ownKeys: ownKeys{&memory.Router{Token: s.token}}}
	s.cfg.Router = token
	s.restart()
	s.newKey(nil)
	old, _ := s.cfg.Store.View().CurrentSystemKey("main", keyring.PurposeState)
	other := *old
	other.Version, other.CKAID = old.Version+1, keyring.NewCKAID()
	token.meanwhile = func() {
		s.token.Put(backends.Key{ID: keyring.ObjectID(other.CKAID), Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC},
			keyring.Label(keyring.StateKeyID+"-"+old.Lineage, other.Version), make([]byte, 32))
		storetest.Update(t, s.cfg.Store, func(tx *store.Tx) error {
			tx.DeleteSystemKey("main", keyring.PurposeState, old.Version)
			return tx.PutSystemKey(&other)
		})
	}
	if err := s.service.AdvanceEpoch(t.Context()); err != nil || token.meanwhile != nil {
		t.Fatalf("no epoch has begun: %v", err)
	}
	now, ok := s.cfg.Store.View().CurrentSystemKey("main", keyring.PurposeState)
	if !ok || !bytes.Equal(now.CKAID, other.CKAID) {
		t.Errorf("the state key is %+v, want that of the other daemon", now)
	}
	if why := s.service.EpochWaiting(); why == "" {
		t.Error("nothing is said of the epoch that has not begun")
	}
}
