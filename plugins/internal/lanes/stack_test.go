package lanes

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"
	"unsafe"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

// deep is a backend whose calls take much of the stack.
type deep struct {
	backends.Backend
	backends.Cipher
	moved *bool
}

func (d deep) Encrypt(context.Context, *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	var here byte
	before := address(&here)
	useStack()
	*d.moved = address(&here) != before
	return &backends.EncryptAnswer{}, nil
}

// address is where a variable is, which stays on the stack.
//
//go:nosplit
func address(p *byte) uintptr { return uintptr(unsafe.Pointer(p)) }

//go:noinline
func useStack() {
	var frame [16 << 10]byte
	wipeFrame(frame[:])
}

// TestStacksDoNotMove: the stack of a worker has room for a call before it begins, in the
// quick lane and in the slow one. A copy of it would keep what the call had there.
func TestStacksDoNotMove(t *testing.T) {
	t.Parallel()
	for name, work := range map[string]func(l *Lanes, j job){
		"quick": func(l *Lanes, j job) {
			l.queue.push(j)
			l.ended = true
			l.work(l.workers[0])
		},
		"slow": func(l *Lanes, j job) {
			l.slow.push(j)
			j, _ = l.slow.pop()
			l.workSlow(j, l.free[0])
		},
	} {
		calls, other, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer calls.Close()
		defer other.Close()
		moved := true
		l := New(deep{moved: &moved}, other, 1, stream.Limits{Quick: time.Minute, Slow: time.Minute}, slog.New(slog.NewTextHandler(io.Discard, nil)))
		body, err := stream.Encoding.Marshal(&backends.EncryptRequest{Key: backends.Key{Usage: backends.EncryptDecrypt}})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // a collection of garbage may shrink the stack here, but not in a plugin
			done := make(chan struct{})
			go func() { // whose stack is new, and small
				defer close(done)
				work(l, job{row: stream.Encrypt.Row, body: bytes.Clone(body)})
			}()
			if <-done; !moved {
				break
			}
		}
		if moved {
			t.Errorf("%s: the stack was moved in the middle of a call", name)
		}
	}
}
