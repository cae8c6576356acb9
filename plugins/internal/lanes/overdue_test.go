package lanes

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
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
	b := queueing{makes: make(chan *backends.CreateKeyAnswer)}
	l, ours, ended := serveLanes(t, b)
	limit := l.limits.Creation(stream.Classes[backends.SymmetricDefault])
	until := func(n int) { untilTaken(t, l, n) }
	for id := range 2 {
		sendCreation(t, ours, uint64(id+1))
	}
	until(2)
	began := time.Now()
	if method, _ := l.Overdue(began); method != "" {
		t.Errorf("%s is overdue at once", method)
	}
	if method, _ := l.Overdue(began.Add(limit)); method != "CreateKey" {
		t.Errorf("a creation that takes too long is not overdue: %q", method)
	}
	time.Sleep(time.Millisecond) // the time that the waiting call has waited
	turn := time.Now()
	b.makes <- &backends.CreateKeyAnswer{PublicKey: make([]byte, 1<<20)} // more than the socket holds
	until(1)
	if method, id := l.Overdue(turn.Add(limit)); method != "" {
		t.Errorf("%s (call %d) is overdue, although its turn has just come", method, id)
	}
	if method, _ := l.Overdue(time.Now().Add(2 * limit)); method != "CreateKey" {
		t.Errorf("a second creation that takes too long is not overdue: %q", method)
	}
	go func() { b.makes <- &backends.CreateKeyAnswer{} }()
	go func() { _, _ = io.Copy(io.Discard, ours) }()
	until(0)
	ended()
}

// oneByOne is a backend whose module makes one call at a time: Info waits, too.
type oneByOne struct {
	queueing
	info chan time.Duration // gets how much time each Info has, and then lets it end
}

func (b oneByOne) Info(ctx context.Context, _ *backends.InfoRequest) (*backends.InfoAnswer, error) {
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	b.info <- left
	b.info <- left
	return &backends.InfoAnswer{}, nil
}

// TestOverdueBehindCreation: a quick call that waits for a key that is being made is not
// overdue, and has its own time when that has ended.
func TestOverdueBehindCreation(t *testing.T) {
	t.Parallel()
	b := oneByOne{queueing{makes: make(chan *backends.CreateKeyAnswer)}, make(chan time.Duration)}
	l, ours, ended := serveLanes(t, b)
	ask := func(id uint64) (left time.Duration) {
		t.Helper()
		in, err := stream.Encoding.Marshal(&backends.InfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ours.Write(stream.AppendFrame(nil, stream.Frame{ID: id, Kind: stream.Info.ID, Body: in})); err != nil {
			t.Fatal(err)
		}
		return <-b.info
	}
	began := time.Now()
	if left := ask(1); left > l.limits.Quick {
		t.Errorf("a call has %v", left)
	}
	if method, _ := l.Overdue(time.Now().Add(l.limits.Quick)); method != "Info" {
		t.Errorf("a call that takes too long is not overdue: %q", method)
	}
	<-b.info
	untilTaken(t, l, 0)
	sendCreation(t, ours, 2)
	untilTaken(t, l, 1)
	if left := ask(3); left <= l.limits.Quick {
		t.Errorf("a call that has to wait for a creation has %v", left)
	}
	untilTaken(t, l, 2)
	if method, _ := l.Overdue(began.Add(l.limits.Quick + time.Second)); method != "" {
		t.Errorf("%s is overdue, although a key is being made", method)
	}
	if method, _ := l.Overdue(time.Now().Add(l.limits.Slow)); method == "" {
		t.Error("nothing is overdue after the time of slow calls")
	}
	time.Sleep(time.Millisecond) // the time that the waiting call has waited
	turn := time.Now()
	b.makes <- &backends.CreateKeyAnswer{}
	untilTaken(t, l, 1)
	if method, _ := l.Overdue(turn); method != "" {
		t.Errorf("%s is overdue at its turn", method)
	}
	sendCreation(t, ours, 4) // does not excuse it
	untilTaken(t, l, 2)
	if method, _ := l.Overdue(turn.Add(l.limits.Quick)); method != "" {
		t.Errorf("%s is overdue, although its turn has just come", method)
	}
	if method, _ := l.Overdue(time.Now().Add(l.limits.Quick)); method != "Info" {
		t.Errorf("a call that takes too long after the creation is not overdue: %q", method)
	}
	<-b.info
	b.makes <- &backends.CreateKeyAnswer{}
	go func() { _, _ = io.Copy(io.Discard, ours) }()
	untilTaken(t, l, 0)
	ended()
}

// serveLanes serves a backend on one end of a socket pair. ended is to be called in the
// end, when no call runs.
func serveLanes(t *testing.T, b backends.Backend) (l *Lanes, ours *os.File, ended func()) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	l = New(b, theirs, 8, stream.Limits{Quick: 5 * time.Second, Slow: 2 * time.Minute}, slog.New(slog.DiscardHandler))
	end := make(chan error)
	go func() { end <- l.Run() }()
	return l, ours, func() {
		t.Helper()
		if err := syscall.Shutdown(fds[0], syscall.SHUT_WR); err != nil {
			t.Error(err)
		}
		if err := <-end; err != nil {
			t.Error(err)
		}
		_, _ = theirs.Close(), ours.Close()
	}
}

// sendCreation asks for a key, with the number of the call as its label.
func sendCreation(t *testing.T, ours *os.File, id uint64) {
	t.Helper()
	in, err := stream.Encoding.Marshal(&backends.CreateKeyRequest{Key: backends.Key{Spec: backends.SymmetricDefault}, Label: strconv.FormatUint(id, 10)})
	if err != nil {
		t.Fatal(err)
	}
	flow := stream.Flow{Caller: 1000, Class: stream.Classes[backends.SymmetricDefault]}
	if _, err := ours.Write(stream.AppendFrame(nil, stream.Frame{ID: id, Kind: stream.CreateKey.ID, Flow: flow, Body: in})); err != nil {
		t.Fatal(err)
	}
}

// untilTaken waits until so many calls run.
func untilTaken(t *testing.T, l *Lanes, n int) {
	t.Helper()
	taken := func() (n int) {
		for _, s := range l.slots {
			if s.running.Load() != nil {
				n++
			}
		}
		return n
	}
	for taken() != n && t.Context().Err() == nil {
		time.Sleep(time.Millisecond) // polls the slots
	}
}

// late is a backend of which each creation ends with Timeout when the test says so.
type late struct {
	backends.Backend
	end map[string]chan struct{} // by label
}

func (b late) CreateKey(_ context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	<-b.end[in.Label]
	return nil, backends.Errorf(backends.Timeout, "the deadline passed before the token was called")
}

// TestOverdueAfterTimeout: a creation that times out behind the token's own work has had
// its turn, and the time of the one that waits begins there. One that times out while it
// waits has not, and does not give the one that is stuck more time.
func TestOverdueAfterTimeout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, ends string
		overdue    uint64 // the call that is, after as much time as a creation has
	}{
		{"in its turn", "1", 0},
		{"while it waits", "2", 1},
	} {
		b := late{end: map[string]chan struct{}{"1": make(chan struct{}), "2": make(chan struct{})}}
		l, ours, ended := serveLanes(t, b)
		limit := l.limits.Creation(stream.Classes[backends.SymmetricDefault])
		sendCreation(t, ours, 1)
		untilTaken(t, l, 1)
		time.Sleep(time.Millisecond) // so that the second one begins later by any clock
		sendCreation(t, ours, 2)
		untilTaken(t, l, 2)
		time.Sleep(time.Millisecond) // the time that both have waited
		turn := time.Now()
		close(b.end[c.ends])
		untilTaken(t, l, 1)
		if _, id := l.Overdue(turn.Add(limit)); id != c.overdue {
			t.Errorf("%s: call %d is overdue, want %d", c.name, id, c.overdue)
		}
		if _, id := l.Overdue(time.Now().Add(2 * limit)); id == 0 {
			t.Errorf("%s: a creation that takes too long is not overdue", c.name)
		}
		for label, end := range b.end {
			if label != c.ends {
				close(end)
			}
		}
		untilTaken(t, l, 0)
		ended()
	}
}
