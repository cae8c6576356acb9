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

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"cmkd/daemon/store"
)

// A node has the rows open while its key under P node/ exists, which goes with its lease.
// It acts on what it has read for MaxStaleness after it last asked etcd to renew the lease
// and was answered. The lease lasts longer, and by etcd's clock it begins later: so when
// the key has gone, the node has stopped to act, whatever has become of it.

// leaseMargin is how much longer the lease lasts: clocks do not run at the same speed.
const leaseMargin = 2 * time.Second

// claim is the key of this node.
type claim struct {
	engine   *Engine
	key      string
	identity []byte

	lease    atomic.Int64 // clientv3.LeaseID
	revision atomic.Int64 // of the key's creation
	heard    atomic.Int64 // when the last request was made that renewed the lease; see now

	joined atomic.Int64 // the revision of the claim under which the node serves; others wait for it
	ack    sync.Mutex   // held while P ack/NODE is written; guards acked
	acked  uint64       // what it says
	at     atomic.Int64 // the revision in which it was written

	retaking sync.Mutex // held by retake
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

// take creates the key of the node under a new lease. One that a process before this one
// has left goes.
func (c *claim) take(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	e := c.engine
	asked := now()
	lease, err := e.client.Grant(ctx, c.seconds())
	if err != nil {
		return e.unanswered(ctx, err)
	}
	for {
		out, err := e.client.Txn(ctx).If(c.mayCome()...).
			Then(c.puts(lease.ID)...).
			Else(clientv3.OpGet(e.key(nodeFolder), clientv3.WithPrefix()), clientv3.OpGet(e.key(aloneKey))).Commit()
		if err != nil {
			return e.unanswered(ctx, err)
		}
		if out.Succeeded {
			c.taken(lease.ID, out.Header.Revision, asked)
			return nil
		}
		before, err := c.predecessor(out)
		if err != nil {
			_, _ = e.client.Revoke(ctx, lease.ID) // it ends anyway
			return err
		}
		if _, err := e.client.Revoke(ctx, before); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return e.unanswered(ctx, err)
		}
	}
}

// mayCome are the conditions under which the node may come.
func (c *claim) mayCome() []clientv3.Cmp {
	e := c.engine
	if e.options.Alone {
		return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(e.key(nodeFolder)), "=", 0).WithPrefix()}
	}
	return []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(c.key), "=", 0),
		clientv3.Compare(clientv3.CreateRevision(e.key(aloneKey)), "=", 0),
	}
}

// puts are the keys of the node.
func (c *claim) puts(lease clientv3.LeaseID) []clientv3.Op {
	e := c.engine
	ops := []clientv3.Op{clientv3.OpPut(c.key, string(c.identity), clientv3.WithLease(lease))}
	if e.options.Alone {
		ops = append(ops, clientv3.OpPut(e.key(aloneKey), e.options.Node, clientv3.WithLease(lease)))
	}
	return ops
}

// predecessor is the lease of the process before this one, if it is all that is in the way.
func (c *claim) predecessor(out *clientv3.TxnResponse) (lease clientv3.LeaseID, err error) {
	e := c.engine
	for _, kv := range out.Responses[0].GetResponseRange().Kvs {
		name := string(kv.Key[len(e.key(nodeFolder)):])
		switch {
		case string(kv.Key) == c.key && bytes.Equal(kv.Value, c.identity):
			lease = clientv3.LeaseID(kv.Lease)
		case string(kv.Key) == c.key && !e.options.Alone:
			return 0, fmt.Errorf("%w: another daemon is the node %q of the prefix %s, or was less than %d s ago: each needs a name of its own",
				store.ErrLocked, name, e.options.Prefix, c.seconds())
		case e.options.Alone || len(out.Responses[1].GetResponseRange().Kvs) > 0:
			return 0, fmt.Errorf("%w: the node %q has the prefix %s, or had it less than %d s ago; only one daemon at a time may",
				store.ErrLocked, name, e.options.Prefix, c.seconds())
		}
	}
	return lease, nil
}

// keep renews the lease until ctx ends. A lease that has ended is replaced: the node joins
// again when it knows what others have done meanwhile.
func (c *claim) keep(ctx context.Context) {
	e := c.engine
	ticker := time.NewTicker(max(e.options.MaxStaleness/10, 50*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		asked := now()
		asking, cancel := context.WithTimeout(ctx, answerTime)
		_, err := e.client.KeepAliveOnce(asking, clientv3.LeaseID(c.lease.Load()))
		cancel()
		switch {
		case err == nil:
			c.heard.Store(asked)
			c.tidy(ctx)
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			c.retake(ctx)
		}
	}
}

// retake is take of a node whose lease has ended, if nobody is in the way.
func (c *claim) retake(ctx context.Context) {
	c.retaking.Lock()
	defer c.retaking.Unlock()
	e := c.engine
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	found, err := e.client.Get(ctx, c.key)
	if err != nil || c.found(found.Kvs) {
		return // it is there: somebody was faster
	}
	asked := now()
	lease, err := e.client.Grant(ctx, c.seconds())
	if err != nil {
		return
	}
	out, err := e.client.Txn(ctx).If(c.mayCome()...).Then(c.puts(lease.ID)...).Commit()
	if err != nil || !out.Succeeded {
		_, _ = e.client.Revoke(ctx, lease.ID) // or it ends without
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
}

// LeaseTime is how long the lease of a node lasts that has ended without giving it up.
func LeaseTime(maxStaleness time.Duration) time.Duration {
	return (maxStaleness + leaseMargin + time.Second - 1).Truncate(time.Second)
}

// seconds is how long the lease lasts.
func (c *claim) seconds() int64 { return int64(LeaseTime(c.engine.options.MaxStaleness) / time.Second) }

// silence is for how long the lease has not been renewed.
func (c *claim) silence() time.Duration { return time.Duration(now() - c.heard.Load()) }

// fresh returns nil while nobody else can have changed what is known here.
func (c *claim) fresh() error {
	switch silence := c.silence(); {
	case silence >= c.engine.options.MaxStaleness:
		return fmt.Errorf("%w: etcd has not answered for %s", store.ErrStale, silence.Round(time.Millisecond))
	case c.joined.Load() != c.revision.Load():
		return fmt.Errorf("%w: this daemon has yet to find out what others have changed", store.ErrStale)
	default:
		return nil
	}
}

// lost is told of the revision in which P ack/NODE was deleted: nobody waits for the node any more. An etcd
// whose leader hangs may end a lease that another leader has renewed.
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
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	_, _ = c.engine.client.Revoke(ctx, clientv3.LeaseID(c.lease.Load())) // or it ends by itself
}
