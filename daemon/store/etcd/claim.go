package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"cmkd/daemon/store"
)

// A node has the rows open while its key under P node/ exists, which goes with its lease.
// It acts on what it has read for MaxStaleness after it last asked etcd for that key, in a linearizable
// transaction, and found it there.
//
// No lease is trusted further than that. A leader of etcd that hangs, and goes on after another one has
// been elected, may end leases that were renewed with the other, or renew some that have ended
// (etcd issues 12528 and 15247). So P ack/NODE, which others wait for, is under no lease: it is taken away once P node/NODE has been gone for
// MaxStaleness and a margin, by whoever has seen that. By then the node has stopped to act,
// whatever has become of it.

// fenceMargin is how much longer others wait for a node: clocks do not run at the same speed.
const fenceMargin = time.Second

// expiryTime is how late etcd may end a lease: it looks for those that are due twice a second.
const expiryTime = time.Second

// minLease is the shortest lease of a node, in which it asks for renewal several times.
const minLease = 3 * time.Second

// claim is the key of this node.
type claim struct {
	engine   *Engine
	key      string
	identity []byte

	lease    atomic.Int64 // clientv3.LeaseID
	revision atomic.Int64 // of the key's creation
	heard    atomic.Int64 // when the last request was made that found the key; see now

	cluster atomic.Uint64 // the ID of etcd's cluster, 0 before the first answer

	joined atomic.Int64 // the revision of the claim under which the node serves; others wait for it
	ack    sync.Mutex   // held while P ack/NODE is written; guards acked
	acked  uint64       // what it says
	at     atomic.Int64 // the revision in which it was written

	retaking sync.Mutex             // held by retake
	obstacle atomic.Pointer[string] // why retake has failed, nil if it has not
	still    stillness              // of the watch; of keep
	stop     context.CancelFunc
	done     sync.WaitGroup
}

// now is the time since the machine has started, sleep included: a clock that nobody sets.
func now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Now().UnixNano() // never on Linux
	}
	return t.Nano()
}

// newClaim takes the prefix for the node, and keeps it until end.
func (e *Engine) newClaim(ctx context.Context) (*claim, error) {
	identity, err := processIdentity(e.options.Lock)
	if err != nil {
		return nil, err
	}
	c := &claim{engine: e, key: e.key(nodeFolder + e.options.Node), identity: identity}
	if err := c.take(ctx); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	c.done.Go(func() { c.keep(background) })
	return c, nil
}

// processIdentity is of the process that holds the lock of the file: the kernel that runs and the
// file in it. Another process with the same identity can only come after this one has
// ended, so it need not wait for the lease.
func processIdentity(path string) ([]byte, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("telling this machine from others: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("looking at %s: %w", path, err)
	}
	return fmt.Appendf(nil, "%s %x:%x", bytes.TrimSpace(boot), st.Dev, st.Ino), nil
}

// keep renews the lease until ctx ends. A lease that has ended is replaced: the node joins
// again when it knows what others have done meanwhile.
func (c *claim) keep(ctx context.Context) {
	e := c.engine
	ticker := time.NewTicker(c.pause())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		lease := c.lease.Load()
		err := c.twice(ctx, func(ctx context.Context) error {
			_, err := e.client.KeepAliveOnce(ctx, clientv3.LeaseID(lease))
			return err
		})
		if errors.Is(err, rpctypes.ErrLeaseNotFound) && c.lease.Load() == lease {
			c.joined.Store(0)
		}
		if c.look(ctx) {
			c.tidy(ctx)
		}
	}
}

// pause is the time between two questions for the key.
func (c *claim) pause() time.Duration {
	return max(c.engine.options.MaxStaleness/10, 50*time.Millisecond)
}

// twice asks once more if there is no answer: the client asks its servers in turn, and one may hang.
func (c *claim) twice(ctx context.Context, ask func(context.Context) error) error {
	for again := false; ; again = true {
		asking, cancel := context.WithTimeout(ctx, c.engine.options.MaxStaleness/4)
		err := ask(asking)
		late := asking.Err() != nil
		cancel()
		if again || !late {
			return err
		}
	}
}

// look asks whether the key of the node is there, and reports whether it is: until then nobody has taken
// its acknowledgement away. A node that has lost it stops to serve at once, and joins again under
// another.
func (c *claim) look(ctx context.Context) bool {
	e := c.engine
	claimed := c.revision.Load()
	var asked, known, head int64
	var out *clientv3.TxnResponse
	err := c.twice(ctx, func(ctx context.Context) (err error) {
		asked = now()
		known, head = e.seen.known()
		out, err = e.client.Txn(ctx).If(c.owned()).Then(e.besidesRows()...).Commit()
		return err
	})
	if err != nil {
		return false
	}
	older := out.Header.Revision < known || out.Succeeded && modified(out.Responses[0]) < head
	if h := out.Header; older || !c.cluster.CompareAndSwap(0, h.ClusterId) && c.cluster.Load() != h.ClusterId {
		// A linearizable answer is not older than what was known before the question. The store
		// decides nothing any more: nobody can tell what it knows that the others do not.
		c.joined.Store(0)
		e.seen.rewind()
		e.poke()
		return false
	}
	if !out.Succeeded {
		c.joined.CompareAndSwap(claimed, 0)
		c.retake(ctx)
		return false
	}
	c.heard.Store(asked)
	c.watched(out)
	return true
}

// modified is the revision in which a key was written, 0 if it is not there.
func modified(r *etcdserverpb.ResponseOp) int64 {
	if kvs := r.GetResponseRange().Kvs; len(kvs) > 0 {
		return kvs[0].ModRevision
	}
	return 0
}

// retake is take of a node whose lease has ended, if nobody is in the way.
func (c *claim) retake(ctx context.Context) {
	c.retaking.Lock()
	defer c.retaking.Unlock()
	e := c.engine
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	failed := func(why string) { c.obstacle.Store(&why) }
	found, err := e.client.Txn(ctx).Then(clientv3.OpGet(c.key), clientv3.OpGet(c.ackKey())).Commit()
	if err != nil {
		failed(err.Error())
		return
	}
	if c.found(found.Responses[0].GetResponseRange().Kvs) {
		return // it is there: somebody was faster
	}
	c.ack.Lock() // what this node has acknowledged goes with the key that it had
	defer c.ack.Unlock()
	c.joined.Store(0)
	var acknowledged int64
	if kvs := found.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
		if !c.wrote(kvs[0]) {
			failed("another process has the node's name, or had it a moment ago")
			return
		}
		acknowledged = kvs[0].CreateRevision
	}
	asked := now()
	lease, err := e.client.Grant(ctx, c.seconds())
	if err != nil {
		failed(err.Error())
		return
	}
	out, err := e.client.Txn(ctx).If(c.mayReturn(acknowledged)...).Then(append(c.puts(lease.ID), clientv3.OpDelete(c.ackKey()))...).Commit()
	if err != nil || !out.Succeeded {
		_, _ = e.client.Revoke(ctx, lease.ID) // or it ends without
		failed("another process has the node's name, or another daemon keeps all others out")
		if err != nil {
			failed(err.Error())
		}
		return
	}
	c.taken(lease.ID, out.Header.Revision, asked)
	e.poke()
}

// taken notes that the key has been created under the lease, which was asked for then.
func (c *claim) taken(lease clientv3.LeaseID, revision, asked int64) {
	c.lease.Store(int64(lease))
	c.revision.Store(revision) // before heard: the node has not joined under it
	c.heard.Store(asked)
	c.obstacle.Store(nil)
}

// fenceTime is how long after its key has gone others wait for a node.
func fenceTime(staleness time.Duration) time.Duration { return staleness + fenceMargin }

// leaseTime is how long the lease of a node lasts.
func leaseTime(maxStaleness time.Duration) time.Duration {
	return max((maxStaleness*3/4 + time.Second - 1).Truncate(time.Second), minLease)
}

// LeaseTime is how long a node is waited for that has ended without giving its lease up.
func LeaseTime(maxStaleness time.Duration) time.Duration {
	return leaseTime(maxStaleness) + expiryTime + fenceTime(maxStaleness)
}

// seconds is how long the lease lasts.
func (c *claim) seconds() int64 { return int64(leaseTime(c.engine.options.MaxStaleness) / time.Second) }

// silence is for how long etcd has not said that the key is there.
func (c *claim) silence() time.Duration { return time.Duration(now() - c.heard.Load()) }

// fresh returns nil while nobody else can have changed what is known here.
func (c *claim) fresh() error {
	switch silence := c.silence(); {
	case silence >= c.engine.options.MaxStaleness:
		return fmt.Errorf("%w: etcd has not answered for %s", store.ErrStale, silence.Round(time.Millisecond))
	case c.joined.Load() != c.revision.Load():
		if why := c.obstacle.Load(); why != nil {
			return fmt.Errorf("%w: the lease of this daemon in etcd has ended, and it gets no other: %s", store.ErrStale, *why)
		}
		return fmt.Errorf("%w: this daemon has yet to find out what others have changed", store.ErrStale)
	default:
		return nil
	}
}

// lost is told of the revision in which P ack/NODE was deleted: nobody waits for the node any more.
func (c *claim) lost(revision int64) {
	if claimed := c.revision.Load(); revision > c.at.Load() && c.joined.CompareAndSwap(claimed, 0) {
		c.engine.poke()
	}
}

// owned is the comparison by which a transaction fails after the lease has ended.
func (c *claim) owned() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(c.key), "=", c.revision.Load())
}

// end gives the prefix up.
func (c *claim) end() {
	c.stop()
	c.done.Wait()
	c.joined.Store(0)
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	// While the key is there, the acknowledgement is this node's: nobody need wait until it is fenced.
	_, _ = c.engine.client.Txn(ctx).If(c.owned()).Then(clientv3.OpDelete(c.ackKey())).Commit()
	_, _ = c.engine.client.Revoke(ctx, clientv3.LeaseID(c.lease.Load())) // or it ends on its own
}
