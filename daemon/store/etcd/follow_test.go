package etcd

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	server "cmkd/testenv/etcd"
)

// node is a store that goes on after the head that it finds, and its engine.
func (d *database) node(t *testing.T) (*store.Store, *Engine) {
	t.Helper()
	s := storetest.Open(t, d)
	if s.Found() == nil {
		storetest.Adopt(t, s)
		return s, d.engine
	}
	head, err := s.Found().Head()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(t.Context(), storetest.Sealer{}, head); err != nil {
		t.Fatal(err)
	}
	return s, d.engine
}

func put(s *store.Store, value string) error {
	return s.Update(context.Background(), func(tx *store.Tx) error {
		return tx.PutSetting(&store.Setting{Name: "followed", Value: value})
	})
}

func followed(s *store.Store) string {
	if row, ok := s.View().Setting("followed"); ok {
		return row.Value
	}
	return ""
}

// TestSequenceSettled: a commit whose answer was lost, and which the watch has brought before
// it was settled, is waited for like any other.
func TestSequenceSettled(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	s, _ := d.node(t)
	d.AfterCommit(func() error { return syscall.EIO })
	if err := put(s, "1"); !errors.Is(err, store.ErrUnknown) {
		t.Fatal(err)
	}
	d.AfterCommit(nil)
	for followed(s) != "1" {
		if err := s.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	sequence := s.View().Sequence()
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := s.View().Sequence(); now != sequence || now == 0 {
		t.Errorf("the sequence was %d and is %d", sequence, now)
	}
}

// TestGap: after a gap everything is read again, with its sequence, so that the node joins and
// is waited for. What was read before the gap was found does not end it.
func TestGap(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	first, _ := d.node(t)
	second, engine := d.node(t)
	if err := errors.Join(first.Join(t.Context()), put(first, "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Load(t.Context(), store.Visitor{}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(put(first, "2"), engine.look(t.Context())); err != nil {
		t.Fatal(err)
	}
	engine.Rebase()
	if _, err := engine.Take(t.Context()); !errors.Is(err, store.ErrGap) {
		t.Errorf("after a gap that a read does not close: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := second.Join(ctx); err != nil {
		t.Fatal(err)
	}
	if followed(second) != "2" || second.View().Sequence() != first.View().Sequence() {
		t.Errorf("after the gap: %q, sequence %d of %d", followed(second), second.View().Sequence(), first.View().Sequence())
	}
	if err := errors.Join(first.Await(ctx), put(second, "3"), second.Check(ctx)); err != nil {
		t.Error(err)
	}
}

// TestAfterLarge: a commit that comes right behind a large one waits until the rows of that have come
// once more, as they are written out: they would differ from what it makes of them.
func TestAfterLarge(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	s, engine := d.node(t)
	const rows = 500
	for round := range 5 {
		for large := range 2 {
			n := rows
			if large == 1 {
				n = 1
			}
			storetest.Update(t, s, func(tx *store.Tx) (err error) {
				for i := range n {
					err = errors.Join(err, tx.PutSetting(&store.Setting{Name: strconv.Itoa(rows - i), Value: strconv.Itoa(2*round + large)}))
				}
				return err
			})
		}
		if err := errors.Join(s.Sync(t.Context()), s.Check(t.Context())); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	late := func(pending bool) {
		engine.seen.mu.Lock()
		defer engine.seen.mu.Unlock()
		engine.seen.pending = pending
		engine.seen.tell()
	}
	late(true)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if w, err := engine.Begin(ctx, time.Now()); err == nil {
		w.Rollback()
		t.Error("a commit begins before the large one has been written out")
	}
	late(false)
	if err := put(s, "1"); err != nil {
		t.Error(err)
	}
}

// TestQueueEnds: what a store does not take, it is not kept for without end.
func TestQueueEnds(t *testing.T) {
	t.Parallel()
	e := &Engine{options: Options{Prefix: "/p/"}, seen: newSeen("n")}
	for revision := range int64(3 * maxQueue) {
		e.absorb([]*clientv3.Event{{Type: mvccpb.PUT, Kv: &mvccpb.KeyValue{Key: []byte("/p/row/settings/x"), Value: []byte("{}"), ModRevision: revision + 1}}})
		if len(e.seen.queue) > maxQueue {
			t.Fatalf("%d revisions are kept", len(e.seen.queue))
		}
	}
	if _, err := e.Take(t.Context()); !errors.Is(err, store.ErrGap) {
		t.Errorf("what was not kept: %v", err)
	}
}

// trailed is the sealer of a node whose audit trail grows with each commit.
type trailed struct {
	storetest.Sealer
	node  string
	store *store.Store
}

// Seal implements [store.Sealer].
func (s *trailed) Seal(ctx context.Context, view *store.View, head *store.Head) ([]byte, error) {
	head.Node, head.Trails = s.node, map[string]store.TrailEnd{}
	if found, err := s.store.Found().Head(); err == nil {
		maps.Copy(head.Trails, found.Trails)
	}
	head.Trails[s.node] = store.TrailEnd{Sequence: head.Trails[s.node].Sequence + 1}
	return s.Sealer.Seal(ctx, view, head)
}

// TestUnknownInGap: what became of a commit whose answer was lost is known even if the watch never brings
// it, and others have committed since.
func TestUnknownInGap(t *testing.T) {
	t.Parallel()
	for _, made := range []bool{true, false} {
		t.Run(strconv.FormatBool(made), func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, server.Start(t), true)
			first, engine := d.node(t)
			other, _ := d.node(t)
			for node, s := range map[string]*store.Store{"first": first, "other": other} {
				head, err := s.Found().Head()
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Resume(t.Context(), &trailed{node: node, store: s}, head); err != nil {
					t.Fatal(err)
				}
			}
			if err := put(first, "0"); err != nil {
				t.Fatal(err)
			}
			takeBack := d.Copy(t)
			engine.afterCommit = func() error {
				if !made {
					takeBack()
				}
				return syscall.EIO
			}
			var settled []bool
			err := first.Update(t.Context(), func(tx *store.Tx) error {
				tx.OnSettle(func(_ context.Context, committed bool) error {
					settled = append(settled, committed)
					return nil
				})
				return tx.PutSetting(&store.Setting{Name: "followed", Value: "1"})
			})
			if !errors.Is(err, store.ErrUnknown) {
				t.Fatal(err)
			}
			engine.afterCommit = nil
			if made { // else the other has seen what was taken back
				if err := other.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				other = reopened(t, d, other)
			}
			if err := errors.Join(put(other, "2"), engine.look(t.Context()), first.CatchUp(t.Context()), first.Settle(t.Context())); err != nil {
				t.Fatal(err)
			}
			if len(settled) != 1 || settled[0] != made || followed(first) != "2" {
				t.Errorf("settled %v, shown %q", settled, followed(first))
			}
		})
	}
}

// reopened is another store in the place of one that has seen what was taken back.
func reopened(t *testing.T, d *database, s *store.Store) *store.Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = d.node(t)
	head, err := s.Found().Head()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(t.Context(), &trailed{node: "other", store: s}, head); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAcknowledgesAnew: a node whose acknowledgement somebody has taken away or changed, or a late request of
// its own, joins again.
func TestAcknowledgesAnew(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	first, _ := d.node(t)
	second, engine := d.node(t)
	if err := errors.Join(first.Join(t.Context()), second.Join(t.Context())); err != nil {
		t.Fatal(err)
	}
	key := ackFolder + engine.options.Node
	for _, value := range []string{"", "1"} {
		d.write(t, map[string]string{key: value})
		for end := time.Now().Add(30 * time.Second); second.Fresh() == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("with %q as its acknowledgement the node serves", value)
			}
		}
		if err := second.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := put(first, "after "+value); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := first.Await(ctx); !errors.Is(err, store.ErrStale) {
			t.Errorf("a node that has joined again is not waited for: %v", err)
		}
		cancel()
		if err := errors.Join(second.Sync(t.Context()), second.Join(t.Context()), first.Await(t.Context())); err != nil {
			t.Error(err)
		}
	}
}
