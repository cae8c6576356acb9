package plugins_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/plugins"
)

// TestLyingPlugin: whatever a plugin that was taken over says, the daemon gives an
// error or the right answer, in time, does not grow with it, connects to nothing, and
// ends it. Other plugins serve meanwhile.
func TestLyingPlugin(t *testing.T) {
	t.Parallel()
	good := start(t, spec(t, nil))
	victim := filepath.Join(shortDir(t), "victim")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", victim)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Error("a plugin has the daemon connect to a socket of somebody else")
			_ = c.Close()
		}
	}()
	var wait sync.WaitGroup
	turns := make(chan struct{}, 4) // processes at a time
	for how, answers := range map[string]bool{
		"truth": true, "handshake: nothing": false, "handshake: no line": false, "handshake: noise": false, "handshake: an endless line": false,
		"handshake: another core": false, "handshake: another protocol": false, "handshake: net/rpc": false, "handshake: a network": false,
		"handshake: no socket": false, "handshake: another's socket": false, "handshake: a negative version": false, "handshake: no certificate": false,
		"open: a long answer": false, "open: a long code": false, "open: noise": false,
		"health: a long answer": false, "health: an overdue call that is not there": false, "health: an error": false,
		"never reads": false, "closes the stream": false, "stops": false,
		"frames: ids of nobody": true, "frames: an answer twice": true, "frames: answers of before": true,
		"frames: length 0": false, "frames: a short length": false, "frames: a huge length": false, "frames: a negative length": false,
		"frames: another kind": false, "frames: the kind of a lost process": false, "frames: late": false,
		"frames: half of one": false, "frames: half of a long one": false, "frames: without end": false,
		"bodies: a long one": false, "bodies: no CBOR": false, "bodies: none": false, "bodies: deep": false,
		"bodies: a text as long as the world": false, "bodies: an array as long as the world": false,
		"errors: a long one": false, "errors: no code": false, "errors: lost": false, "errors: timeout": false,
		"logs without end": true,
	} {
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			lied(t, how, victim, answers)
			mustEncrypt(t, good, "")
		})
	}
	wait.Wait()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 256<<20 {
		t.Errorf("after the lies the heap has %d MiB", m.HeapAlloc>>20)
	}
}

// lied makes calls to a liar. answers: it gives right answers, too.
func lied(t *testing.T, how, victim string, answers bool) {
	var log lockedBuffer
	s := spec(t, nil)
	s.Env = map[string]string{modeEnv: "lie", "CMKD_TEST_LIE": how, "CMKD_TEST_VICTIM": victim}
	s.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.StartTimeout, s.WaitTimeout, s.HeartbeatInterval = 20*time.Second, 20*time.Second, 50*time.Millisecond
	if strings.HasPrefix(how, "handshake: ") {
		s.StartTimeout = 2 * time.Second // as some say nothing
	}
	h, err := plugins.Start(t.Context(), s)
	if err != nil {
		t.Errorf("%s: %v", how, err)
		return
	}
	right := 0
	for i := range 5 {
		if i > 0 && !answers {
			break
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		if answers {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		}
		began := time.Now()
		text := how + strings.Repeat("!", i)
		out, err := h.Encrypt(ctx, encryptRequest("", text))
		cancel()
		switch {
		case err == nil && string(out.Sealed.Ciphertext) == text:
			right++
		case err == nil:
			t.Errorf("%s: call %d is answered with %.100q", how, i, out.Sealed.Ciphertext)
		case len(err.Error()) > 4096 || len(backends.CodeOf(err)) > 2048:
			t.Errorf("%s: the error has %d bytes, its code %d", how, len(err.Error()), len(backends.CodeOf(err)))
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%s: the call took %v", how, took)
		}
	}
	if (right > 0) != answers && !strings.HasPrefix(how, "health: ") { // which end the process at some time
		t.Errorf("%s: %d calls were answered\n%.2000s", how, right, log.String())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		t.Errorf("%s: Close: %v", how, err)
	}
	if n := len(log.String()); n > 8<<20 {
		t.Errorf("%s: the log has %d bytes", how, n)
	}
}

// lockedBuffer is a log that goroutines share.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
