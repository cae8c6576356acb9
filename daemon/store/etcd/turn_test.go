package etcd

import (
	"errors"
	"testing"
	"time"

	"cmkd/daemon/store"
	server "cmkd/testenv/etcd"
)

// TestEndlessTurn: a node that hangs in the middle of a change holds the others up for a while only. What
// it commits when it goes on is too late, and it can commit again.
func TestEndlessTurn(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	d.staleness = time.Second
	first, _ := d.node(t)
	second, _ := d.node(t)
	begun, goOn, late := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		late <- first.Update(t.Context(), func(tx *store.Tx) error {
			close(begun)
			<-goOn
			return tx.PutSetting(&store.Setting{Name: "followed", Value: "late"})
		})
	}()
	<-begun
	for _, value := range []string{"1", "2"} {
		for end := time.Now().Add(time.Minute); ; {
			err := put(second, value)
			if err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("while another node hangs: %v", err)
			}
		}
	}
	close(goOn)
	if err := <-late; !errors.Is(err, store.ErrUnwritable) || errors.Is(err, store.ErrUnknown) {
		t.Errorf("a commit after the end of its turn: %v", err)
	}
	if err := errors.Join(first.Sync(t.Context()), first.Check(t.Context())); err != nil || followed(first) != "2" {
		t.Errorf("after it: %v, %q", err, followed(first))
	}
	if err := put(first, "3"); err != nil {
		t.Errorf("the next change: %v", err)
	}
}

// TestWrittenOut: a large commit that another node writes out first lacks its parts then, and is not taken
// for a corrupt one.
func TestWrittenOut(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	var engines []*Engine
	for range 2 {
		d.node(t)
		engines = append(engines, d.engine)
	}
	slow, fast := engines[0], engines[1]
	w, err := slow.Begin(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Rollback()
	p, err := slow.putParts(t.Context(), w.(*writer), []mutation{{Key: rowKey(rowFolder, "settings", "a"), Value: []byte("{}")}}, false)
	if err != nil {
		t.Fatal(err)
	}
	text, err := p.encode()
	if err != nil {
		t.Fatal(err)
	}
	put, err := slow.client.Put(t.Context(), slow.key(pendingKey), text)
	if err != nil {
		t.Fatal(err)
	}
	p.revision = put.Header.Revision
	if err := fast.writeOut(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := slow.writeOut(t.Context(), p); !errors.Is(err, errNotOurs) || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("parts that another node has written out: %v", err)
	}
}
