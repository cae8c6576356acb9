package etcd

import (
	"context"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
)

// seen is what the watch has brought: all that has happened under the prefix, in the order
// of etcd's revisions. One watch brings everything, so that who sees a commit also knows
// of every node that had joined before it.
type seen struct {
	node    string        // of this process
	changed chan struct{} // closed when something has changed, and replaced; guarded by mu
	settled atomic.Uint64 // the sequence that nobody who serves is behind

	mu       sync.Mutex // guards what follows
	revision int64      // everything up to it is known
	head     int64      // modification revision of P head
	value    string     // of P head
	sequence uint64     // of that head
	nodes    map[string]int64
	turns    map[string]int64 // creation revisions, by node
	current  turn             // the first of turns
	acks     map[string]*acknowledgement
	queue    []found        // what others have written, to be taken
	own      map[int64]bool // revisions of commits that are in queue, and are this process's
	lost     int64          // something up to that revision is missing in queue, 0 if nothing is
	pending  bool           // a large commit is being written out
	loaded   int64          // the revision that the last Load has read
	base     int64          // the revision that the store has read; nothing up to it is taken
}

// maxQueue is how many revisions are kept for a store that does not take them, having found the
// database changed, say. Behind them there is a gap.
const maxQueue = 10_000

// found are the rows that one revision has changed.
type found struct {
	revision int64
	commit   store.Commit
	pending  *pendingValue // the rows are in its parts
}

// first returns what is to be taken first, nil if there is nothing.
func (s *seen) first() (*found, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 {
		return nil, store.ErrGap
	}
	for len(s.queue) > 0 && (s.queue[0].revision <= s.base || s.own[s.queue[0].revision]) {
		delete(s.own, s.queue[0].revision)
		s.queue = s.queue[1:]
	}
	if len(s.queue) == 0 {
		return nil, nil //nolint:nilnil // mostly there is nothing
	}
	f := s.queue[0] // what the watch brings may move the queue meanwhile
	return &f, nil
}

// drop drops what was taken.
func (s *seen) drop(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 && s.queue[0].revision == revision {
		s.queue = s.queue[1:]
	}
}

// known is the revision up to which everything is known, and the one in which the head was written.
func (s *seen) known() (revision, head int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision, s.head
}

// rewind notes that etcd has gone back.
func (s *seen) rewind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.queue); n == 0 || !s.queue[n-1].commit.Rewound {
		s.queue = append(s.queue, found{revision: math.MaxInt64, commit: store.Commit{Rewound: true}})
	}
}

func newSeen(node string) *seen {
	return &seen{node: node, changed: make(chan struct{}), own: make(map[int64]bool)}
}

// tell wakes up who waits for a change. The caller holds mu.
func (s *seen) tell() {
	s.settled.Store(s.acknowledged())
	close(s.changed)
	s.changed = make(chan struct{})
}

// look reads who is there, and where the head is. What has happened up to then is not taken any
// more: [store.ErrGap], until all of it has been read.
func (e *Engine) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	out, err := e.client.Txn(ctx).Then(
		clientv3.OpGet(e.key(headKey)), clientv3.OpGet(e.key(nodeFolder), clientv3.WithPrefix()),
		clientv3.OpGet(e.key(turnFolder), clientv3.WithPrefix()), clientv3.OpGet(e.key(ackFolder), clientv3.WithPrefix()),
		clientv3.OpGet(e.key(pendingKey)),
	).Commit()
	if err != nil {
		return e.unanswered(ctx, err)
	}
	s := e.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision, s.lost, s.queue = out.Header.Revision, out.Header.Revision, nil
	s.head, s.value, s.sequence, s.pending = 0, "", 0, false
	s.current = turn{}
	s.nodes, s.turns, s.acks = map[string]int64{}, map[string]int64{}, map[string]*acknowledgement{}
	for _, r := range out.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			s.note(mvccpb.PUT, string(kv.Key[len(e.options.Prefix):]), kv)
		}
	}
	s.tell()
	return nil
}

// uninitialised names another node that has the database open, while that has no head: only one may
// make the first.
func (s *seen) uninitialised() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.nodes {
		if name != s.node && s.sequence == 0 {
			return name
		}
	}
	return ""
}

// watch follows the prefix until ctx ends.
func (e *Engine) watch(ctx context.Context) {
	for ctx.Err() == nil {
		e.seen.mu.Lock()
		from := e.seen.revision + 1
		e.seen.mu.Unlock()
		watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		e.rewatch.Store(&cancel)
		for out := range e.client.Watch(watching, e.options.Prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
			if out.CompactRevision > 0 {
				for e.look(ctx) != nil && ctx.Err() == nil {
					pause(ctx)
				}
				e.poke()
				break
			}
			if out.Err() != nil {
				break
			}
			if e.absorb(out.Events) {
				e.poke()
			}
		}
		cancel()
		pause(ctx)
	}
}

// pause waits before something is tried again.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryPause):
	}
}

const retryPause = 50 * time.Millisecond

// poke makes the store take what has come.
func (e *Engine) poke() {
	select {
	case e.arrived <- struct{}{}:
	default:
	}
}

// absorb notes events, and reports whether the store has something to do.
func (e *Engine) absorb(events []*clientv3.Event) (news bool) {
	s := e.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].Kv.ModRevision == events[0].Kv.ModRevision {
			n++
		}
		news = e.absorbRevision(events[:n]) || news
		s.revision = events[0].Kv.ModRevision
		events = events[n:]
	}
	s.tell()
	return news
}

// absorbRevision notes what one transaction has done. The caller holds mu.
func (e *Engine) absorbRevision(events []*clientv3.Event) (news bool) {
	s := e.seen
	f := found{revision: events[0].Kv.ModRevision}
	headed, before := false, s.value
	for _, event := range events {
		suffix, kv := string(event.Kv.Key[len(e.options.Prefix):]), event.Kv
		switch {
		case suffix == headKey && event.Type == mvccpb.DELETE:
			s.note(event.Type, suffix, kv)
			f.commit.Outside, f.commit.Head = true, &store.Sealed{}
		case suffix == headKey:
			s.note(event.Type, suffix, kv)
			headed = true
			head, err := decodeHead([]*mvccpb.KeyValue{kv})
			if f.commit.Head = head; err != nil {
				f.commit.Outside, f.commit.Head = true, &store.Sealed{}
			}
		case suffix == pendingKey && event.Type == mvccpb.PUT:
			s.note(event.Type, suffix, kv)
			if p, err := decodePending([]*mvccpb.KeyValue{kv}); err == nil {
				f.pending = p
			}
		case strings.HasPrefix(suffix, rowFolder):
			table, name, ok := splitRow(suffix[len(rowFolder):])
			if !ok {
				f.commit.Outside, f.commit.Head = true, &store.Sealed{}
			}
			row := store.Row{Table: table, Name: name}
			if event.Type == mvccpb.PUT {
				row.Document = kv.Value
			}
			f.commit.Rows = append(f.commit.Rows, row)
		default:
			if suffix == ackFolder+s.node && event.Type == mvccpb.DELETE {
				e.claim.lost(kv.ModRevision)
			}
			news = s.note(event.Type, suffix, kv) || news
		}
	}
	if !headed { // parts count with a head only
		f.pending = nil
		f.commit.Outside = f.commit.Outside || len(f.commit.Rows) > 0
	}
	if f.commit.Outside || headed && (len(f.commit.Rows) > 0 || f.pending != nil || s.value != before) {
		if s.queue = append(s.queue, f); len(s.queue) > maxQueue {
			s.lost, s.queue = f.revision, nil
		}
		news = true
	}
	return news
}

// note notes what has become of a key that is not a row, and reports whether another node
// has joined. The caller holds mu.
func (s *seen) note(kind mvccpb.Event_EventType, suffix string, kv *mvccpb.KeyValue) (joined bool) {
	there := kind == mvccpb.PUT
	folder, name, _ := strings.Cut(suffix, "/")
	switch folder + "/" {
	case nodeFolder:
		keep(s.nodes, name, kv.CreateRevision, there)
		s.noteGone(name)
	case turnFolder:
		keep(s.turns, name, kv.CreateRevision, there)
		s.noteTurn()
	case partFolder:
		s.current.since = time.Now()
	case ackFolder:
		before := s.acks[name]
		a := parseAck(kv)
		if a.sequence < s.sequence {
			a.behind = time.Now()
			if before != nil && before.sequence == a.sequence && !before.behind.IsZero() {
				a.behind = before.behind
			}
		}
		keep(s.acks, name, a, there)
		s.noteGone(name)
		return there && before == nil
	case pendingKey + "/":
		s.pending = there
	case headKey + "/":
		s.head, s.value, s.sequence = kv.ModRevision, string(kv.Value), 0
		if !there {
			s.value = ""
		} else if head, err := decodeHead([]*mvccpb.KeyValue{kv}); err == nil && head != nil {
			s.sequence = sequenceOf(head)
		}
		for _, a := range s.acks {
			if a.sequence < s.sequence && a.behind.IsZero() {
				a.behind = time.Now()
			}
		}
	}
	return false
}

func keep[V any](m map[string]V, name string, value V, there bool) {
	if there {
		m[name] = value
	} else {
		delete(m, name)
	}
}

// sequenceOf is what an unverified head says of itself, 0 if it cannot be read.
func sequenceOf(s *store.Sealed) uint64 {
	var head struct{ Sequence uint64 }
	if json.Unmarshal(s.Document, &head) != nil {
		return 0
	}
	return head.Sequence
}
