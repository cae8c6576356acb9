package etcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
)

// Who commits takes a turn first: a key under its lease, in the order of creation. A node
// that dies loses it with the lease. So the change is decided on what was committed before,
// and no record, no work of the token and no MAC is made for a commit that loses a
// race. The commit compares the turn all the same: a node that hangs in the middle of a change, and
// still renews its lease, has its turn ended by those who wait, and commits nothing any more.

// turnTime is how long a turn may last while others wait.
func turnTime(maxStaleness time.Duration) time.Duration { return LeaseTime(maxStaleness) }

// writer is a [store.Writer], which has the turn.
type writer struct {
	engine   *Engine
	turn     int64 // creation revision of its key
	head     *store.Sealed
	revision int64 // modification revision of the head
	ended    bool
}

// key is the key of this node in the queue.
func (w *writer) key() string { return w.engine.key(turnFolder + w.engine.options.Node) }

// conditions are those under which it is this turn.
func (w *writer) conditions() []clientv3.Cmp {
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(w.key()), "=", w.turn)}
}

// Begin implements [store.Engine]. A commit that was made in parts is written out first.
func (e *Engine) Begin(ctx context.Context, asked time.Time) (store.Writer, error) {
	e.writing.Store(true)
	w := &writer{engine: e}
	if err := e.begin(ctx, w, asked); err != nil {
		w.Rollback()
		return nil, err
	}
	return w, nil
}

func (e *Engine) begin(ctx context.Context, w *writer, asked time.Time) error {
	asking, cancel := context.WithDeadline(ctx, deadline(asked))
	defer cancel()
	first, pending, err := w.enqueue(asking)
	if err != nil {
		return e.failed(asking, err)
	}
	if first && pending == nil {
		return nil
	}
	if !first {
		// Whoever has died keeps the turn until the lease ends.
		waiting, cancel := context.WithDeadline(ctx, later(asked, time.Now()).Add(LeaseTime(e.options.MaxStaleness)+answerTime))
		defer cancel()
		if err := w.wait(waiting); err != nil {
			return e.failed(waiting, err)
		}
	}
	for {
		if pending != nil {
			if err := e.writeOut(ctx, pending); err != nil {
				return e.failed(ctx, err)
			}
		}
		asking, cancel := context.WithTimeout(ctx, answerTime)
		pending, err = w.look(asking)
		cancel()
		if err != nil {
			return e.failed(asking, err)
		}
		if pending == nil {
			return nil
		}
	}
}

// wait returns when it is this turn. One before it that lasts too long is ended.
func (w *writer) wait(ctx context.Context) error {
	e := w.engine
	for {
		lost, endless := false, turn{}
		if err := e.until(ctx, func(s *seen) bool {
			if s.revision < w.turn {
				return false
			}
			lost = s.turns[s.node] != w.turn
			if !lost && s.current.revision != w.turn && time.Since(s.current.since) > turnTime(e.options.MaxStaleness) {
				endless = s.current
			}
			return lost || s.current.revision == w.turn || endless.node != ""
		}); err != nil {
			return waiting("the turn to commit", err)
		}
		if lost {
			return errNotOurs
		}
		if endless.node == "" {
			return nil
		}
		key := e.key(turnFolder + endless.node)
		if _, err := e.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", endless.revision)).Then(clientv3.OpDelete(key)).Commit(); err != nil {
			return err
		}
		if err := e.until(ctx, func(s *seen) bool { return s.turns[endless.node] != endless.revision }); err != nil {
			return waiting("the end of the turn of "+endless.node, err)
		}
	}
}

// enqueue takes a place in the queue. If it is the first one, it looks too.
func (w *writer) enqueue(ctx context.Context) (first bool, pending *pendingValue, err error) {
	e := w.engine
	for retaken := false; ; {
		absent := clientv3.Compare(clientv3.CreateRevision(w.key()), "=", 0)
		put := clientv3.OpPut(w.key(), "", clientv3.WithLease(clientv3.LeaseID(e.claim.lease.Load())))
		queue := clientv3.OpGet(e.key(turnFolder), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend), clientv3.WithLimit(1))
		out, err := e.client.Txn(ctx).If(e.claim.owned(), absent).Then(put, queue, clientv3.OpGet(e.key(headKey)), clientv3.OpGet(e.key(pendingKey))).Else(clientv3.OpGet(w.key()), clientv3.OpGet(e.claim.key)).Commit()
		if err != nil {
			return false, nil, err
		}
		if out.Succeeded {
			w.turn = out.Header.Revision
			if out.Responses[1].GetResponseRange().Kvs[0].CreateRevision != w.turn {
				return false, nil, nil
			}
			pending, err := w.found(ctx, out.Responses[2:])
			return true, pending, err
		}
		if left := out.Responses[0].GetResponseRange().Kvs; len(left) > 0 { // of a commit that failed
			before := &writer{engine: e, turn: left[0].CreateRevision}
			if err := before.release(ctx); err != nil {
				return false, nil, err
			}
			continue
		}
		if e.claim.found(out.Responses[1].GetResponseRange().Kvs) {
			continue
		}
		if retaken {
			return false, nil, errNotOurs
		}
		e.claim.retake(ctx)
		retaken = true
	}
}

// look reads the head that the commit follows; see found.
func (w *writer) look(ctx context.Context) (pending *pendingValue, err error) {
	e := w.engine
	out, err := e.client.Txn(ctx).If(append(w.conditions(), e.claim.owned())...).
		Then(clientv3.OpGet(e.key(headKey)), clientv3.OpGet(e.key(pendingKey))).Commit()
	if err != nil {
		return nil, err
	}
	if !out.Succeeded {
		return nil, errNotOurs
	}
	return w.found(ctx, out.Responses)
}

// found notes the head that the commit follows, and returns once everything up to it
// can be taken. pending, if not nil, is to be written out first.
func (w *writer) found(ctx context.Context, responses []*pb.ResponseOp) (pending *pendingValue, err error) {
	found := responses[0].GetResponseRange().Kvs
	if w.head, err = decodeHead(found); err != nil {
		return nil, err
	}
	w.revision = 0
	if len(found) > 0 {
		w.revision = found[0].ModRevision
	}
	if pending, err = decodePending(responses[1].GetResponseRange().Kvs); err != nil {
		return nil, err
	}
	// The rows of a large commit come once more, as it is written out. They must have come before
	// this commit changes them, else they would be taken for what somebody has changed back.
	return pending, waiting("the watch to bring the last change", w.engine.until(ctx, func(s *seen) bool {
		return s.head >= w.revision && (pending != nil || !s.pending)
	}))
}

// turn is a place in the queue.
type turn struct {
	node     string
	revision int64     // of its creation
	since    time.Time // when it was first, or a large commit has got on
}

// noteTurn notes whose turn it is. The caller holds mu.
func (s *seen) noteTurn() {
	first := turn{since: time.Now()}
	for node, revision := range s.turns {
		if first.revision == 0 || revision < first.revision {
			first.node, first.revision = node, revision
		}
	}
	if first.revision != s.current.revision {
		s.current = first
	}
}

// Rollback implements [store.Writer]. A turn that cannot be given up now, tidy gives up.
func (w *writer) Rollback() {
	if w.ended {
		return
	}
	w.ended = true
	defer w.engine.writing.Store(false)
	if w.turn == 0 || w.engine.trouble.Err() != nil {
		return // etcd does not answer: nobody waits for that
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	_ = w.release(ctx)
}

// release gives the turn up, if it is still this one.
func (w *writer) release(ctx context.Context) error {
	_, err := w.engine.client.Txn(ctx).If(w.conditions()...).Then(clientv3.OpDelete(w.key())).Commit()
	return err
}
