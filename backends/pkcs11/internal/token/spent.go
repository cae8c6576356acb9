package token

import (
	"bytes"
	"context"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// Behind tpm2-pkcs11 every key that a process makes or uses stays loaded in the TPM's
// resource manager until the process ends, and that has room for some two dozen. Then
// C_GenerateKeyPair and C_SignInit answer CKR_GENERAL_ERROR. The token is not lost: the
// next process has room again.
//
// And tpm2-pkcs11 1.9 gives a new object the handle of another one, if one was destroyed in the
// process before: whoever signs with the new key signs with the other, and whoever destroys it
// destroys that. A process that has destroyed something makes nothing any more, therefore, a
// handle is believed if it has the CKA_ID that was asked for, and signatures are verified.

// loaded are the keys that this process has made or used: true of those that the token
// has loaded, false of those that it was asked to use and did not.
type loaded struct {
	mu   sync.Mutex // guards keys
	keys map[backends.KeyID]bool
}

// Note notes that this process makes or uses a key. done: it has.
func (t *Token) Note(id backends.KeyID, done bool) {
	if !t.Profile.Lasting {
		return
	}
	t.loaded.mu.Lock()
	defer t.loaded.mu.Unlock()
	if t.loaded.keys == nil {
		t.loaded.keys = map[backends.KeyID]bool{}
	}
	t.loaded.keys[id] = t.loaded.keys[id] || done
}

// others reports whether there is room taken by other keys than id, and none by id.
func (l *loaded) others(id backends.KeyID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys[id] {
		return false
	}
	for _, done := range l.keys {
		if done {
			return true
		}
	}
	return false
}

// tried reports whether this process has used a key, or failed to.
func (l *loaded) tried(id backends.KeyID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, tried := l.keys[id]
	return tried
}

// noRoom are the answers of a token that cannot load another key.
var noRoom = map[uint]bool{
	p11.CKR_GENERAL_ERROR: true, p11.CKR_FUNCTION_FAILED: true, p11.CKR_HOST_MEMORY: true, p11.CKR_DEVICE_MEMORY: true,
}

// Spent is err, recoded to [backends.Spent] if this process has filled a token of
// lasting pairs with other keys, and the token is there.
func (t *Token) Spent(ctx context.Context, id backends.KeyID, err error) error {
	if err == nil || !t.Profile.Lasting || !noRoom[RVOf(err)] || !t.loaded.others(id) || !t.sound(ctx) {
		return err
	}
	return backends.DoubtIf(backends.Doubtful(err), backends.Errorf(backends.Spent, "the token loads no further key in this process (%s)", RVText(RVOf(err))))
}

// InUse is err, recoded to [backends.Spent] if it is that of C_DestroyObject of tpm2-pkcs11 for
// a key that failed to sign in this process. In one that has not used the key another process
// would not help.
func (t *Token) InUse(ctx context.Context, id backends.KeyID, err error) error {
	if err == nil || !t.Profile.Lasting || RVOf(err) != p11.CKR_FUNCTION_FAILED || !t.loaded.tried(id) || !t.sound(ctx) {
		return err
	}
	return backends.Errorf(backends.Spent, "the token does not destroy a key that it takes for being in use in this process (%s)", RVText(RVOf(err)))
}

// MayMake fails with [backends.Spent] if this process makes no pairs any more.
func (t *Token) MayMake() error {
	if t.Profile.Lasting && t.Module.Destroyed.Load() {
		return backends.Errorf(backends.Spent, "the token makes no keys in a process that has destroyed one")
	}
	return nil
}

// Is fails unless the handle is that of an object of a class with a CKA_ID.
func (s *Session) Is(o cryptoki.Object, class uint, id []byte) error {
	var q cryptoki.Query
	q.AskULong(p11.CKA_CLASS)
	q.Ask(p11.CKA_ID, len(id))
	if err := s.Attributes(o, &q); err != nil {
		return err
	}
	gotClass, _ := q.ULong(p11.CKA_CLASS)
	if got, _ := q.Value(p11.CKA_ID); gotClass != class || !bytes.Equal(got, id) {
		return backends.Errorf(backends.Lost, "the token gives a new object the handle of another one")
	}
	return nil
}
