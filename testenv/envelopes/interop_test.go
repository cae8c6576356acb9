package envelopes

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"cmkd/socket/client/envelope"
	"cmkd/testenv/rig"
)

// message is one that is sealed by one implementation and opened by another.
type message struct {
	suite envelope.Suite
	frame int
	size  int64
	keys  int
}

func (m message) String() string {
	return fmt.Sprintf("%s, frames of %d, %d bytes, %d keys", m.suite, m.frame, m.size, m.keys)
}

// messages are around the seams of frames, with one key and several.
func messages() []message {
	var out []message
	for _, suite := range []envelope.Suite{envelope.Committed, envelope.Signed} {
		for _, frame := range []int{7, 4096, envelope.DefaultFrameLen} {
			n := int64(frame)
			for i, size := range []int64{0, 1, n - 1, n, n + 1, 3*n + 2} {
				out = append(out, message{suite, frame, size, 1 + i%3})
			}
		}
	}
	return append(out,
		message{envelope.Committed, envelope.DefaultFrameLen, 5<<20 + 3, 1},
		message{envelope.Committed, envelope.MaxFrameLen, envelope.MaxFrameLen + 1, 1})
}

// oldMessages are those of version 1 of the format, which cmkctl only reads.
func oldMessages() []message {
	var out []message
	for i, suite := range []envelope.Suite{0x0014, 0x0046, 0x0078, 0x0114, 0x0146, 0x0178, 0x0214, 0x0346, 0x0378} {
		out = append(out, message{suite, 4096, 0, 1}, message{suite, 4096, 3*4096 + 1, 1 + i%3})
	}
	return out
}

var testContext = map[string]string{"purpose": "test", "Ünïcode": "✓"}

// folder is one with room for large files, which goes with the test's part.
func folder(t *testing.T) string {
	t.Helper()
	cache := filepath.Join(rig.Root(), ".cache")
	dir, err := os.MkdirTemp(cache, "envelopes-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// plaintext makes a file of random bytes.
func plaintext(t *testing.T, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("plain-%d", size))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	f, err := os.Create(path)
	must(t, err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{byte(size)}), size)
	must(t, err)
	must(t, f.Close())
	return path
}

// TestInterop: what this implementation seals the AWS Encryption SDK opens, with each of
// the keys, and the other way round.
func TestInterop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rig.Config{PlaintextDataKeys: true})
	for _, s := range []sdk{javascript, golang} {
		t.Run(s.name+" opens", func(t *testing.T) {
			t.Parallel()
			theyOpen(t, w, s, messages())
		})
		t.Run(s.name+" seals", func(t *testing.T) {
			t.Parallel()
			theySeal(t, w, s, append(messages(), oldMessages()...))
		})
	}
}

// TestInteropLarge is TestInterop with one file of CMKD_INTEROP_MIB MiB, or of a few. The SDK
// for Go takes all of a message into memory, several times, so of 256 MiB at most.
func TestInteropLarge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rig.Config{PlaintextDataKeys: true})
	mib := int64(long("CMKD_INTEROP_MIB", 24))
	large := func(limit int64) []message {
		return []message{{envelope.Committed, envelope.DefaultFrameLen, min(mib, limit)<<20 + 1, 1}}
	}
	// One after the other, each of which removes its files.
	for _, s := range []sdk{javascript, golang} {
		limit := mib
		if s.name == golang.name {
			limit = 256
		}
		t.Run(s.name+" opens", func(t *testing.T) { theyOpen(t, w, s, large(limit)) })
		t.Run(s.name+" seals", func(t *testing.T) { theySeal(t, w, s, large(limit)) })
	}
}

// theyOpen has s open what is sealed here.
func theyOpen(t *testing.T, w *world, s sdk, messages []message) {
	t.Helper()
	dir := folder(t)
	var jobs []job
	var want []string
	for i, m := range messages {
		plain, sealed := plaintext(t, dir, m.size), filepath.Join(dir, fmt.Sprintf("sealed-%d", i))
		o := envelope.Options{Suite: m.suite, FrameLen: m.frame}
		if i%2 == 0 {
			o.Context = testContext
		}
		w.seal(t, plain, sealed, w.keys[:m.keys], o)
		for _, key := range w.keys[:m.keys] {
			jobs = append(jobs, job{Op: "decrypt", In: sealed, Out: fmt.Sprintf("%s-opened-%d", sealed, len(jobs)), Keys: []string{key}, Context: o.Context})
			want = append(want, plain)
		}
	}
	w.do(t, s, jobs)
	for i, j := range jobs {
		f, err := os.Open(j.Out)
		must(t, err)
		if err := same(f, want[i]); err != nil {
			t.Errorf("%s: %v", j.In, err)
		}
		must(t, f.Close())
	}
}

// theySeal opens here what s seals.
func theySeal(t *testing.T, w *world, s sdk, messages []message) {
	t.Helper()
	dir := folder(t)
	var jobs []job
	for i, m := range messages {
		j := job{
			Op: "encrypt", In: plaintext(t, dir, m.size), Out: filepath.Join(dir, fmt.Sprintf("sealed-%d", i)),
			Keys: w.keys[:m.keys], Suite: int(m.suite), FrameLength: m.frame,
		}
		if i%2 == 0 {
			j.Context = testContext
		}
		jobs = append(jobs, j)
	}
	w.do(t, s, jobs)
	for i, j := range jobs {
		o := envelope.Options{Context: j.Context}
		if !messages[i].suite.Commits() {
			if err := w.open(t.Context(), j.Out, "", j.In, o); !errors.Is(err, envelope.ErrUncommitted) {
				t.Errorf("%s without a word: %v", messages[i], err)
			}
			o.AllowUncommitted = true
		}
		if err := w.open(t.Context(), j.Out, "", j.In, o); err != nil {
			t.Errorf("%s: %v", messages[i], err)
		}
		if err := w.open(t.Context(), j.Out, w.keys[messages[i].keys-1], j.In, o); err != nil {
			t.Errorf("%s, by its last key: %v", messages[i], err)
		}
	}
}
