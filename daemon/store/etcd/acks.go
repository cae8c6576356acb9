package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
)

// A node serves while P ack/NODE exists, which says how new the rows are that it acts on, and of which
// process it is. The key is created only while the head is the one that the node shows: whoever commits
// after that knows of it. It goes once the node has fenced itself.

// acknowledgement is the value of P ack/NODE.
type acknowledgement struct {
	joined   int64 // creation revision
	sequence uint64
	fence    time.Duration // how long after the key of the node has gone the node may act; see fenceTime
	behind   time.Time     // since when there is a later head, zero while there is none
	gone     time.Time     // since when the key of the node is not there, zero while it is
}

// parseAck parses P ack/NODE: the sequence, the node's own max_staleness, and the process. Who says nothing
// that can be read is waited for as long as any may be.
func parseAck(kv *mvccpb.KeyValue) *acknowledgement {
	a := &acknowledgement{joined: kv.CreateRevision, fence: fenceTime(maxStaleness)}
	fields := strings.SplitN(string(kv.Value), " ", 3)
	a.sequence, _ = strconv.ParseUint(fields[0], 10, 64)
	if len(fields) == 3 {
		if d, err := time.ParseDuration(fields[1]); err == nil && d > 0 && d < maxStaleness {
			a.fence = fenceTime(d)
		}
	}
	return a
}

// maxStaleness is the longest that can be configured.
const maxStaleness = time.Minute

// Acknowledge implements [store.Shared].
func (e *Engine) Acknowledge(ctx context.Context, sequence uint64) error {
	c := e.claim
	c.ack.Lock()
	defer c.ack.Unlock()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	claimed := c.revision.Load()
	if c.joined.Load() != claimed {
		return c.join(ctx, claimed, sequence)
	}
	if c.acked >= sequence || !e.seen.others() {
		return nil
	}
	return c.acknowledge(ctx, sequence, e.claim.owned())
}

// join begins to serve, if nothing has been committed since the sequence.
func (c *claim) join(ctx context.Context, claimed int64, sequence uint64) error {
	e := c.engine
	f, err := e.seen.first()
	e.seen.mu.Lock()
	revision, at, left := e.seen.head, e.seen.sequence, e.seen.acks[e.options.Node]
	e.seen.mu.Unlock()
	if err != nil || f != nil || at != sequence {
		return store.ErrChanged
	}
	key := c.ackKey()
	// What is left is taken away first, and nothing but that: a request that is still on its way must not meet
	// the new one.
	if left != nil {
		if err := e.dropAck(ctx, key, left.joined, c.owned()); err != nil {
			return err
		}
	}
	absent := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	err = c.acknowledge(ctx, sequence, absent, e.headIs(revision), clientv3.Compare(clientv3.CreateRevision(c.key), "=", claimed))
	if errors.Is(err, errNotOurs) {
		return store.ErrChanged
	}
	if err == nil {
		c.joined.Store(claimed)
	}
	return err
}

// acknowledge writes the key under the conditions. The caller holds ack.
func (c *claim) acknowledge(ctx context.Context, sequence uint64, conditions ...clientv3.Cmp) error {
	e := c.engine
	put := clientv3.OpPut(c.ackKey(), fmt.Sprintf("%d %s %s", sequence, e.options.MaxStaleness, c.identity))
	out, err := e.client.Txn(ctx).If(conditions...).Then(put).Commit()
	if err != nil {
		return e.unanswered(ctx, err)
	}
	if !out.Succeeded {
		return fmt.Errorf("%w: %w", store.ErrStale, errNotOurs)
	}
	c.at.Store(out.Header.Revision)
	c.acked = sequence
	return nil
}

// Leave implements [store.Shared]. What cannot be taken away now, tidy takes away.
func (e *Engine) Leave(ctx context.Context) {
	c := e.claim
	c.joined.Store(0)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
	defer cancel()
	c.tidy(ctx)
}

// tidy takes away what requests have left whose answers were lost: others would wait for it. A node
// whose key says what it said before, or has gone unnoticed, joins again.
func (c *claim) tidy(ctx context.Context) {
	e := c.engine
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	e.seen.mu.Lock()
	turn, ack, revision := e.seen.turns[e.options.Node], e.seen.acks[e.options.Node], e.seen.revision
	e.seen.mu.Unlock()
	if turn != 0 && !e.writing.Load() {
		_ = (&writer{engine: e, turn: turn}).release(ctx)
	}
	c.ack.Lock()
	defer c.ack.Unlock()
	serves := c.joined.Load() == c.revision.Load()
	if serves && revision >= c.at.Load() && (ack == nil || ack.sequence < c.acked) {
		c.joined.Store(0)
		e.poke()
		return
	}
	if ack != nil && !serves {
		_ = e.dropAck(ctx, c.ackKey(), ack.joined, c.owned())
	}
	for name, created := range e.seen.fenced() {
		_ = e.dropAck(ctx, e.key(ackFolder+name), created, clientv3.Compare(clientv3.CreateRevision(e.key(nodeFolder+name)), "=", 0))
	}
}

// fenced are the acknowledgements of nodes whose key has been gone for so long that they have stopped to act.
func (s *seen) fenced() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all map[string]int64
	for name, a := range s.acks {
		if name != s.node && !a.gone.IsZero() && time.Since(a.gone) > a.fence {
			if all == nil {
				all = map[string]int64{}
			}
			all[name] = a.joined
		}
	}
	return all
}

// others reports whether another node serves.
func (s *seen) others() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.acks {
		if name != s.node {
			return true
		}
	}
	return false
}

// acknowledged is the newest sequence that no other node which serves is behind. The caller
// holds mu.
func (s *seen) acknowledged() uint64 {
	least := s.sequence
	for name, a := range s.acks {
		if name != s.node {
			least = min(least, a.sequence)
		}
	}
	return least
}

// Await implements [store.Shared].
func (e *Engine) Await(ctx context.Context, sequence uint64) error {
	if e.seen.settled.Load() >= sequence {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, LeaseTime(e.options.MaxStaleness)+answerTime)
	defer cancel()
	var late []string
	err := e.until(ctx, func(s *seen) bool {
		late = late[:0]
		for name, a := range s.acks {
			if name != s.node && a.sequence < sequence {
				late = append(late, name)
			}
		}
		return len(late) == 0 && s.sequence >= sequence
	})
	if err != nil {
		what := "the watch to bring the last change"
		if len(late) > 0 {
			slices.Sort(late)
			what = "the daemons " + strings.Join(late, ", ") + " to confirm the last change"
		}
		return fmt.Errorf("%w: %w", store.ErrStale, waiting(what, err))
	}
	return nil
}

// Nodes implements [store.Shared].
func (e *Engine) Nodes() []store.Node {
	s := e.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []store.Node
	leader := ""
	for name, a := range s.acks {
		if leader == "" || a.joined < s.acks[leader].joined {
			leader = name
		}
	}
	names := maps.Clone(s.nodes)
	for name, a := range s.acks { // one that may still act is there
		names[name] = a.joined
	}
	for name := range names {
		n := store.Node{Name: name, Self: name == s.node, Leader: name == leader}
		if a := s.acks[name]; a != nil {
			n.Serves = true
			if !a.behind.IsZero() && !n.Self {
				n.Lag = time.Since(a.behind)
			}
		}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b store.Node) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Servers implements [store.Shared].
func (e *Engine) Servers(ctx context.Context) []store.Server {
	all := make([]store.Server, len(e.client.Endpoints()))
	var asked sync.WaitGroup // one that does not answer must not hold up the others
	for i, endpoint := range e.client.Endpoints() {
		asked.Go(func() {
			all[i] = store.Server{Name: endpoint}
			status, err := e.client.Status(ctx, endpoint)
			if err == nil && status.Leader == 0 {
				err = errors.New("it has no leader")
			}
			if all[i].Err = err; err == nil {
				all[i].Leader = status.Leader == status.Header.MemberId
			}
		})
	}
	asked.Wait()
	return all
}

// noteGone notes whether the node that has acknowledged something has its key. The caller holds mu.
func (s *seen) noteGone(name string) {
	a := s.acks[name]
	if _, there := s.nodes[name]; a == nil || there {
		if a != nil {
			a.gone = time.Time{}
		}
	} else if a.gone.IsZero() {
		a.gone = time.Now()
	}
}
