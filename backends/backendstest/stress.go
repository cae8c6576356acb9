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

// usable returns a key that use can use. The suite makes more of its kind.
func (s *suite) usable(t testing.TB, b backends.Backend) backends.Key {
	t.Helper()
	for _, kind := range s.kinds(t, b) {
		if !quick(kind.Spec) {
			continue
		}
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
	errs := make(chan error, callers+creators+2)
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
	if d, ok := b.(backends.DataKeyMaker); ok {
		request := &backends.GenerateDataKeyRequest{Key: key, Wrapping: create(t, b, wrapping), Length: 33}
		wg.Go(func() { errs <- makeDataKeys(ctx, d, request, calls) })
		if !s.rig.Few {
			wg.Go(func() { errs <- makePairs(ctx, d, request) })
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

// makeDataKeys makes session keys and destroys them.
func makeDataKeys(ctx context.Context, d backends.DataKeyMaker, in *backends.GenerateDataKeyRequest, n int) error {
	for range n {
		made, err := d.GenerateDataKey(ctx, in)
		if err != nil {
			return err
		}
		if _, err := d.OpenDataKey(ctx, &backends.OpenDataKeyRequest{Key: in.Key, Sealed: made.Sealed}); err != nil {
			return err
		}
	}
	return nil
}

// makePairs makes the slow kind of pair and some of the quick kind.
func makePairs(ctx context.Context, d backends.DataKeyMaker, in *backends.GenerateDataKeyRequest) error {
	for _, spec := range []backends.KeySpec{backends.P256, backends.RSA2048, backends.P384, backends.RSA2048, backends.P521} {
		_, err := d.GenerateDataKeyPair(ctx, &backends.GenerateDataKeyPairRequest{Key: in.Key, Wrapping: in.Wrapping, Spec: spec})
		if err != nil {
			return err
		}
	}
	return nil
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
