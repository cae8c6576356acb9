package etcd

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A watch may go silent while other requests are answered: its server hangs, say, and theirs go to another.
// Then the node sees neither commits nor turns, and the others wait for it. gRPC notices after 12 seconds.
// So each time the node asks for its key it is told what there is besides rows, and a watch
// that has not brought it, and brings nothing else, is replaced. Progress requests would do it
// with less, but the client believes the answers, and those of older releases of etcd may be ahead of events
// (etcd issue 15220), which it would then skip when it connects again.

// stillness is since when the watch brings nothing though there is something.
type stillness struct {
	revision int64 // that it has brought
	since    int64 // when something was missing there first; see now. 0: nothing is
	replaced int64 // when it was replaced last
}

// besidesRows are questions for what there is besides rows.
func (e *Engine) besidesRows() []clientv3.Op {
	all := []clientv3.Op{clientv3.OpGet(e.key(headKey), clientv3.WithKeysOnly())}
	for _, folder := range []string{turnFolder, nodeFolder, ackFolder} {
		all = append(all, clientv3.OpGet(e.key(folder), clientv3.WithPrefix(), clientv3.WithKeysOnly()))
	}
	return all
}

// watched compares what the answer to look has with what the watch has brought. A node whose watch stays
// silent serves no longer than one that does not hear of etcd.
func (c *claim) watched(out *clientv3.TxnResponse) {
	e, at := c.engine, now()
	revision, missing := e.seen.misses(out)
	if !missing || revision != c.still.revision || c.still.since == 0 {
		c.still.revision, c.still.since = revision, 0
		if missing {
			c.still.since = at
		}
		return
	}
	silent := time.Duration(at - c.still.since)
	if half := e.options.MaxStaleness / 2; silent > half && time.Duration(at-c.still.replaced) > half {
		c.still.replaced = at
		if end := e.rewatch.Load(); end != nil {
			(*end)()
		}
	}
	if silent > e.options.MaxStaleness {
		c.joined.Store(0) // tidy does the rest
		e.poke()
	}
}

// misses reports whether the watch has yet to bring something that there is, or that has gone, and up to
// which revision it has brought everything.
func (s *seen) misses(out *clientv3.TxnResponse) (revision int64, missing bool) {
	there := 0
	var newest int64
	for i, r := range out.Responses {
		kvs := r.GetResponseRange().Kvs
		if i > 0 { // not of the head
			there += len(kvs)
		}
		for _, kv := range kvs {
			newest = max(newest, kv.ModRevision)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision, newest > s.revision || there != len(s.turns)+len(s.nodes)+len(s.acks)
}
