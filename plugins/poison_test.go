package plugins_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"cmkd/backends"
)

// TestPoisonIsCutOff: a caller whose calls end every process costs the others a
// few of them, and is refused then, with that key.
func TestPoisonIsCutOff(t *testing.T) {
	t.Parallel()
	for order, most := range map[string]int{"lost": 2, "crash": 5} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			h := start(t, spec(t, nil))
			calls, stop := load(t, h, 8)
			progress(t, calls, 100)
			poison := backends.WithCaller(t.Context(), 1000)
			var wg sync.WaitGroup
			for range 4 { // at the same time
				wg.Go(func() {
					_, err := h.Encrypt(poison, encryptRequest(order, ""))
					if code := backends.CodeOf(err); code != backends.Lost && code != backends.CutOff {
						t.Errorf("%v, want Lost or CutOff", err)
					}
				})
			}
			wg.Wait()
			// Callers may have their answers before the last loss is counted. The process
			// that answers now was started after that.
			if _, err := h.Encrypt(backends.WithCaller(t.Context(), 1001), encryptRequest("", "x")); err != nil {
				t.Errorf("another user, after the losses: %v", err)
			}
			before := h.Status().Restarts
			if before > 4*most {
				t.Errorf("four calls cost %d processes", before)
			}
			for range 10 {
				if _, err := h.Encrypt(poison, encryptRequest(order, "")); backends.CodeOf(err) != backends.CutOff {
					t.Fatalf("again: %v, want CutOff", err)
				}
			}
			if n := h.Status().Restarts; n != before {
				t.Errorf("what is cut off cost %d processes", n-before)
			}
			if _, err := h.Encrypt(backends.WithCaller(t.Context(), 1001), encryptRequest("", "x")); err != nil {
				t.Errorf("another user: %v", err)
			}
			other := encryptRequest("", "x")
			other.Key.ID = backends.KeyID{9}
			if _, err := h.Encrypt(poison, other); err != nil {
				t.Errorf("another key: %v", err)
			}
			progress(t, calls, 100)
			stop() // none of the others has failed
		})
	}
}

// TestTokenThatIsGoneBlamesNobody: without other calls that are answered nothing tells that
// the call is to blame.
func TestTokenThatIsGoneBlamesNobody(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, nil))
	ctx := backends.WithCaller(t.Context(), 1000)
	for range 2 {
		if _, err := h.Encrypt(ctx, encryptRequest("lost", "")); backends.CodeOf(err) != backends.Lost {
			t.Errorf("%v, want Lost", err)
		}
	}
	if _, err := h.Encrypt(ctx, encryptRequest("", "x")); err != nil {
		t.Errorf("when the token is back: %v", err)
	}
}

// TestHungCreation: a creation that hangs in the module costs two processes, its
// caller gets an answer, others go on, and the next creation is refused at once.
func TestHungCreation(t *testing.T) {
	t.Parallel()
	s := spec(t, nil)
	s.Config.SlowTimeout = 500 * time.Millisecond
	s.Config.Settings = map[string]string{"keys": "0"} // which a repeated creation lists
	s.HeartbeatInterval = 50 * time.Millisecond
	h := start(t, s)
	calls, stop := load(t, h, 8)
	hung := &backends.CreateKeyRequest{Key: backends.Key{ID: backends.KeyID{1}, Spec: backends.P256}, Label: "hang"}
	result := make(chan error, 1)
	go func() {
		_, err := h.CreateKey(t.Context(), hung)
		result <- err
	}()
	for !strings.Contains(h.Status().Hanging, "CreateKey of ECC_NIST_P256 has not been answered") && len(result) == 0 {
		time.Sleep(time.Millisecond) // polls
	}
	if len(result) != 0 {
		t.Error("the status has not told of it")
	}
	if err := <-result; backends.CodeOf(err) != backends.Timeout {
		t.Errorf("a creation that hangs: %v, want Timeout", err)
	}
	awaitRestarts(t, 2, h)
	if st := h.Status(); !strings.Contains(st.Hanging, "CreateKey of ECC_NIST_P256 hangs in the token, refused until") {
		t.Errorf("%+v", st)
	}
	if _, err := h.CreateKey(t.Context(), hung); backends.CodeOf(err) != backends.Timeout {
		t.Errorf("the next one: %v, want Timeout", err)
	}
	if n := h.Status().Restarts; n != 2 {
		t.Errorf("the next one cost a process: %d", n)
	}
	other := &backends.CreateKeyRequest{Key: backends.Key{ID: backends.KeyID{2}, Spec: backends.P384}}
	if _, err := h.CreateKey(t.Context(), other); err != nil {
		t.Errorf("a key of another spec: %v", err)
	}
	progress(t, calls, 100)
	stop()
}
