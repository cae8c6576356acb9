package keyring_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/testenv/memory"
)

// interrupted is a token in memory that calls then before it answers a destruction.
type interrupted struct {
	*memory.Router
	then func()
}

func (t *interrupted) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	out, err := t.Router.DestroyKey(ctx, in)
	t.then()
	return out, err
}

// TestRegained: a node whose work was taken over, and that takes it up again because its object has come
// after the other one had looked, keeps its intent until it has destroyed the object.
func TestRegained(t *testing.T) {
	t.Parallel()
	disk, token := storetest.NewSharedDisk(), memory.New()
	backend := &memory.Router{Token: token}
	node := func(name string) *keyring.Keyring {
		return keyring.New(journal.New(journal.Config{
			Store: storetest.Open(t, disk), Node: name, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		}), "main", nil, backend)
	}
	leader, other := node("n1"), node("n2")
	ctx := t.Context()
	mine := func() *store.Intent {
		return &store.Intent{
			CKAID: []byte("0123456789abcdef"), Action: "create", KeyID: "k", Version: 1, Token: "main",
			Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt, Created: time.Now(),
		}
	}
	intent := mine()
	if err := leader.PutIntent(ctx, intent); err != nil { // it was taken over
		t.Fatal(err)
	}
	regain := func() {
		token.Put(keyring.IntentKey(intent), keyring.Label("k", 1), make([]byte, 32))
		if err := other.PutIntent(ctx, mine()); err != nil {
			t.Error(err)
		}
	}
	if _, err := leader.Destroy(ctx, &interrupted{backend, regain}, intent, nil); err != nil {
		t.Fatal(err)
	}
	if err := leader.Store.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if now, ok := leader.Store.View().Intent(intent.CKAID); !ok || now.Node != "n2" {
		t.Fatalf("the intent that the other node has taken up again: %+v", now)
	}
	if objects, err := leader.Destroy(ctx, backend, intent, nil); err != nil || objects != 0 {
		t.Errorf("what is another node's was destroyed: %d, %v", objects, err)
	}
	if objects, err := other.Destroy(ctx, backend, mine(), nil); err != nil || objects != 1 {
		t.Errorf("its own: %d, %v", objects, err)
	}
	if _, ok := other.Store.View().Intent(intent.CKAID); ok || len(token.Objects()) > 0 {
		t.Error("something is left")
	}
}
