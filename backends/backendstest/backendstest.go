// Package backendstest is the conformance suite that every backend passes. It
// tests the interfaces of package backends that the backend has, with the keys
// that it announces.
package backendstest

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"testing"

	"cmkd/backends"
)

// Flaw is what is wrong with an object that [Rig.Plant] makes.
type Flaw string

// The flaws. Each object is otherwise as the backend makes it.
const (
	Extractable    Flaw = "extractable"    // CKA_EXTRACTABLE
	NotSensitive   Flaw = "not sensitive"  // CKA_SENSITIVE is false
	Modifiable     Flaw = "modifiable"     // CKA_MODIFIABLE
	ExtraUsage     Flaw = "an extra usage" // CKA_WRAP or CKA_DECRYPT besides its own
	OtherMechanism Flaw = "another use"    // CKA_ALLOWED_MECHANISMS has one more
	NotGenerated   Flaw = "made elsewhere" // not CKA_LOCAL
	OtherLength    Flaw = "another length" // CKA_VALUE_LEN
	Good           Flaw = "no flaw at all" // the control
)

// Flaws are all flaws that make a key unsafe.
var Flaws = []Flaw{Extractable, NotSensitive, Modifiable, ExtraUsage, OtherMechanism, NotGenerated, OtherLength}

// Rig is a backend and what a test does behind its back.
type Rig struct {
	// Open returns a backend on the same token each time. The suite closes it
	// if it is an io.Closer.
	Open func(t testing.TB) backends.Backend
	// Plant puts a key object with a flaw into the token. Nil: cannot be done.
	Plant func(t testing.TB, key backends.Key, flaw Flaw)
	// Inject puts a key of known value into the token as an imported one.
	// Nil: cannot be done.
	Inject func(t testing.TB, key backends.Key, value []byte)
	// Few: the token may have no data keys of other lengths than AES keys and 64 bytes,
	// and no data key pairs of some kinds.
	Few bool
	// Frail: the module crashes when it unwraps what it has not wrapped. Nothing does
	// that to it but who holds the token's keys, so the suite does not either.
	Frail bool
}

// Run runs the whole suite.
func Run(t *testing.T, rig Rig) {
	s := &suite{rig: rig}
	b := s.open(t)
	t.Run("Info", func(t *testing.T) { s.info(t, b) })
	if _, ok := b.(backends.Randomizer); ok {
		t.Run("Randomizer", func(t *testing.T) { s.random(t, b) })
	}
	if len(s.kinds(t, b)) == 0 {
		return // the token holds no such keys
	}
	t.Run("Lifecycle", func(t *testing.T) { s.lifecycle(t, b) })
	t.Run("Unsafe", func(t *testing.T) { s.unsafe(t, b) })
	t.Run("Context", func(t *testing.T) { s.contexts(t, b) })
	if _, ok := s.supports(t, b, backends.SymmetricDefault, backends.EncryptDecrypt); ok {
		t.Run("Cipher", func(t *testing.T) { s.cipher(t, b) })
		_, wraps := s.supports(t, b, backends.AES256, backends.WrapDataKeys)
		if _, ok := b.(backends.DataKeyMaker); ok && wraps {
			t.Run("DataKeyMaker", func(t *testing.T) { s.dataKeys(t, b) })
		}
	}
	if _, ok := b.(backends.MACer); ok {
		t.Run("MACer", func(t *testing.T) { s.macs(t, b) })
	}
	if _, ok := s.supports(t, b, backends.RSA2048, backends.EncryptDecrypt); ok {
		t.Run("RSA", func(t *testing.T) { s.rsaCipher(t, b) })
	}
	if _, ok := b.(backends.Signer); ok {
		t.Run("Signer", func(t *testing.T) { s.signer(t, b) })
	}
	if _, ok := b.(backends.Agreer); ok {
		t.Run("Agreer", func(t *testing.T) { s.agreer(t, b) })
	}
	t.Run("Failures", func(t *testing.T) { s.failures(t, b) })
	t.Run("Concurrency", func(t *testing.T) { s.concurrency(t, b) })
}

type suite struct{ rig Rig }

func (s *suite) open(t testing.TB) backends.Backend {
	t.Helper()
	b := s.rig.Open(t)
	t.Cleanup(func() {
		if c, ok := b.(io.Closer); ok {
			if err := c.Close(); err != nil {
				t.Errorf("closing the backend: %v", err)
			}
		}
	})
	return b
}

// kinds are the keys that the backend announces and can make, with the usages
// that this package tests: those of clients, and its own wrapping key.
func (s *suite) kinds(t testing.TB, b backends.Backend) []backends.Key {
	t.Helper()
	info, err := b.Info(t.Context(), &backends.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []backends.Key
	for _, spec := range info.Specs {
		if spec.Unsupported != "" {
			continue
		}
		for _, usage := range spec.Usages {
			kinds = append(kinds, backends.Key{Spec: spec.Spec, Usage: usage})
		}
	}
	return kinds
}

func (s *suite) supports(t testing.TB, b backends.Backend, spec backends.KeySpec, usage backends.Usage) (backends.Key, bool) {
	t.Helper()
	want := backends.Key{Spec: spec, Usage: usage}
	return want, slices.Contains(s.kinds(t, b), want)
}

// newID returns a fresh CKA_ID.
func newID() (id backends.KeyID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// label is the label of a key as the daemon gives it, which has a UUID.
func label(key backends.Key) string {
	id := key.ID
	return fmt.Sprintf("cmkd:%x-%x-%x-%x-%x:1", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// create makes a key of a kind.
func create(t testing.TB, b backends.Backend, kind backends.Key) backends.Key {
	t.Helper()
	kind.ID = newID()
	answer, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: kind, Label: label(kind)})
	if err != nil {
		t.Fatalf("creating a key of spec %s and usage %s: %v", kind.Spec, kind.Usage, err)
	}
	if answer.Existed {
		t.Fatalf("a new key of spec %s existed", kind.Spec)
	}
	return kind
}

// wantCode fails unless err has the code.
func wantCode(t testing.TB, what string, err error, want backends.Code) {
	t.Helper()
	if got := backends.CodeOf(err); got != want {
		t.Errorf("%s: %v, want the code %s", what, err, want)
	}
}

// use does with a key what it is for, if this package knows how.
func use(ctx context.Context, b backends.Backend, key backends.Key) error {
	var err error
	switch key.Usage {
	case backends.EncryptDecrypt:
		algorithm := symmetricDefault
		if key.Spec != backends.SymmetricDefault {
			algorithm = "RSAES_OAEP_SHA_256"
		}
		_, err = b.(backends.Cipher).Encrypt(ctx, &backends.EncryptRequest{
			Key: key, Algorithm: algorithm, Plaintext: []byte("plaintext"),
		})
	case backends.SignVerify:
		all := signings[key.Spec]
		if all == nil {
			return errNoUse
		}
		_, err = b.(backends.Signer).Sign(ctx, &backends.SignRequest{
			Key: key, Algorithm: all[0].algorithm, Type: backends.Raw, Message: []byte("message"),
		})
	case backends.GenerateVerifyMAC:
		_, err = b.(backends.MACer).GenerateMAC(ctx, &backends.MACRequest{
			Key: key, Algorithm: macAlgorithms[key.Spec], Message: []byte("message"),
		})
	default:
		return errNoUse
	}
	return err
}
