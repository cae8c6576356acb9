package backendstest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"cmkd/backends"
)

// failures makes a thousand calls fail and looks for what they left behind.
func (s *suite) failures(t *testing.T, b backends.Backend) {
	key := s.usable(t, b)
	missing := key
	missing.ID = newID()
	fail := func() {
		err := use(t.Context(), b, missing)
		wantCode(t, "a key that is missing", err, backends.KeyMissing)
		if c, ok := b.(backends.Cipher); ok && key.Spec == backends.SymmetricDefault {
			_, err := unseal(t, c, key, backends.Sealed{IV: make([]byte, ivLength), Ciphertext: make([]byte, 64)}, nil)
			wantCode(t, "a bad ciphertext", err, backends.InvalidCiphertext)
		}
	}
	fail() // opens the sessions that failing takes
	before := sessions(t, b)
	for range 1000 {
		fail()
		if t.Failed() {
			return
		}
	}
	if after := sessions(t, b); after > before {
		t.Errorf("%d sessions before and %d after 1,000 failures", before, after)
	}
	if err := use(t.Context(), b, key); err != nil {
		t.Errorf("a good call afterwards: %v", err)
	}
}

// usable returns a key that use can use.
func (s *suite) usable(t testing.TB, b backends.Backend) backends.Key {
	t.Helper()
	for _, kind := range s.kinds(t, b) {
		if err := use(t.Context(), b, kind); !errors.Is(err, errNoUse) {
			return create(t, b, kind)
		}
	}
	return create(t, b, s.kinds(t, b)[0])
}

func sessions(t testing.TB, b backends.Backend) int {
	t.Helper()
	info, err := b.Info(t.Context(), &backends.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return info.Token.OpenSessions
}

// concurrency lets callers use keys while others create and destroy some.
func (s *suite) concurrency(t *testing.T, b backends.Backend) {
	key := s.usable(t, b)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	const callers, calls, creators, keys = 16, 200, 3, 20
	errs := make(chan error, callers+creators)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range calls {
				if err := use(ctx, b, key); err != nil && !errors.Is(err, errNoUse) {
					errs <- err
					return
				}
			}
		})
	}
	for range creators {
		kind := key
		wg.Go(func() {
			for range keys {
				kind.ID = newID()
				if err := createUseDestroy(ctx, b, kind); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func createUseDestroy(ctx context.Context, b backends.Backend, key backends.Key) error {
	if _, err := b.CreateKey(ctx, &backends.CreateKeyRequest{Key: key, Label: label(key)}); err != nil {
		return err
	}
	if err := use(ctx, b, key); err != nil && !errors.Is(err, errNoUse) {
		return err
	}
	_, err := b.DestroyKey(ctx, &backends.DestroyKeyRequest{Key: key})
	return err
}
