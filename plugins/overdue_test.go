package plugins

import (
	"context"
	"io"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"time"

	"cmkd/backends"
)

// queueing is a backend that makes one key at a time, when the test says so.
type queueing struct {
	backends.Backend
	makes chan *backends.CreateKeyAnswer
}

func (b queueing) CreateKey(ctx context.Context, _ *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	select {
	case answer := <-b.makes:
		return answer, nil
	case <-ctx.Done():
		return nil, backends.Errorf(backends.Timeout, "the deadline passed before its turn")
	}
}

// TestOverdueGivesEachCreationItsTime lets a creation wait for another one's
// turn for almost as long as a creation may take. Its own time begins when the
// other one ends, also before the daemon has read the answer to that.
func TestOverdueGivesEachCreationItsTime(t *testing.T) {
	t.Parallel()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer func() { _ = theirs.Close() }()
	b := queueing{makes: make(chan *backends.CreateKeyAnswer)}
	l := newLanes(b, theirs, Config{}.withDefaults(), slog.New(slog.DiscardHandler))
	ended := make(chan error)
	go func() { ended <- l.run() }()

	in, err := encoding.Marshal(&backends.CreateKeyRequest{Key: backends.Key{Spec: backends.SymmetricDefault}})
	if err != nil {
		t.Fatal(err)
	}
	class := classes[backends.SymmetricDefault]
	limit := l.cfg.creationLimit(class)
	for id := range 2 {
		if _, err := ours.Write(appendFrame(nil, frame{id: uint64(id + 1), kind: createKey.id, flow: flow{1000, class}, body: in})); err != nil {
			t.Fatal(err)
		}
	}
	taken := func() (n int) {
		for _, s := range l.slots {
			if s.running.Load() != nil {
				n++
			}
		}
		return n
	}
	until := func(n int) {
		for taken() != n && t.Context().Err() == nil {
			time.Sleep(time.Millisecond) // polls the slots
		}
	}
	until(2)
	began := time.Now()
	if method, _ := l.overdue(began); method != "" {
		t.Errorf("%s is overdue at once", method)
	}
	if method, _ := l.overdue(began.Add(limit)); method != "CreateKey" {
		t.Errorf("a creation that takes too long is not overdue: %q", method)
	}
	time.Sleep(time.Millisecond) // the time that the waiting call has waited
	turn := time.Now()
	b.makes <- &backends.CreateKeyAnswer{PublicKey: make([]byte, 1<<20)} // more than the socket holds
	until(1)
	if method, id := l.overdue(turn.Add(limit)); method != "" {
		t.Errorf("%s (call %d) is overdue, although its turn has just come", method, id)
	}
	if method, _ := l.overdue(time.Now().Add(2 * limit)); method != "CreateKey" {
		t.Errorf("a second creation that takes too long is not overdue: %q", method)
	}
	go func() { b.makes <- &backends.CreateKeyAnswer{} }()
	go func() { _, _ = io.Copy(io.Discard, ours) }()
	until(0)
	if err := syscall.Shutdown(fds[0], syscall.SHUT_WR); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	_ = ours.Close()
}
