package etcd

import (
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	server "cmkd/testenv/etcd"
)

// TestLeaseEnded: a node whose lease etcd has ended, though it was renewed a moment ago, and that does not
// hear of it, is waited for until it has stopped to act.
func TestLeaseEnded(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	d.staleness = 2 * time.Second
	first, _ := d.node(t)
	proxy, direct := server.NewProxy(t, d.server), d.client
	d.client.Endpoints = []string{proxy.Endpoint}
	second, engine := d.node(t)
	d.client = direct
	if err := errors.Join(first.Join(t.Context()), second.Join(t.Context())); err != nil {
		t.Fatal(err)
	}
	proxy.Silence()
	c := d.server.Client(t)
	defer c.Close()
	if _, err := c.Revoke(t.Context(), clientv3.LeaseID(engine.claim.lease.Load())); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(put(first, "1"), first.Await(t.Context())); err != nil {
		t.Fatal(err)
	}
	if second.Fresh() == nil {
		t.Error("a node acts on what it knows, and nobody waits for it")
	}
	proxy.Resume()
	for end := time.Now().Add(time.Minute); second.Fresh() != nil; time.Sleep(time.Millisecond) {
		if err := second.Join(t.Context()); time.Now().After(end) {
			t.Fatalf("it does not come back: %v", err)
		}
	}
	if followed(second) != "1" {
		t.Errorf("back, it shows %q", followed(second))
	}
}

// TestSilentWatch: a watch that goes silent, while other requests are answered, is replaced.
func TestSilentWatch(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	d.staleness = 2 * time.Second
	first, _ := d.node(t)
	proxies := []*server.Proxy{server.NewProxy(t, d.server), server.NewProxy(t, d.server)}
	d.client = clientv3.Config{
		Endpoints: []string{proxies[0].Endpoint, proxies[1].Endpoint}, DialKeepAliveTime: time.Hour, // else gRPC would notice
	}
	second, _ := d.node(t)
	for i, p := range proxies { // the watch is on one of them
		p.Silence()
		if err := put(first, p.Endpoint); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); followed(second) != p.Endpoint; time.Sleep(time.Millisecond) {
			if err := second.CatchUp(t.Context()); time.Now().After(end) {
				t.Fatalf("with server %d silent, a commit does not come: %v", i, err)
			}
		}
		p.Resume()
	}
}

// TestLeftAcknowledgement: what a process of the same name on another machine has left is taken away once
// that has stopped to act, and so is what a node has left that does not come back.
func TestLeftAcknowledgement(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, server.Start(t), true)
	d.staleness = time.Second
	first, _ := d.node(t)
	d.write(t, map[string]string{ackFolder + "n2": "1 1s another", ackFolder + "n9": "1 1s another"})
	began := time.Now()
	second, _ := d.node(t) // n2
	if waited := time.Since(began); waited < fenceTime(time.Second) {
		t.Errorf("another process of the name may act for %s, and was waited for %s", fenceTime(time.Second), waited)
	}
	if err := errors.Join(first.Join(t.Context()), second.Join(t.Context()), second.Fresh()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(put(first, "1"), second.Sync(t.Context()), second.Join(t.Context()), first.Await(t.Context())); err != nil {
		t.Errorf("a change that waits for a node which has gone: %v", err)
	}
}
