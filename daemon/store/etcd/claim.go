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
	// overtaken: another node has committed something since the lease ended.
	overtaken atomic.Bool

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
	nodes := e.key(nodeFolder)
	for {
		nobody := clientv3.Compare(clientv3.CreateRevision(nodes), "=", 0).WithPrefix()
		out, err := e.client.Txn(ctx).If(nobody).
			Then(clientv3.OpPut(c.key, string(c.identity), clientv3.WithLease(lease.ID))).
			Else(clientv3.OpGet(nodes, clientv3.WithPrefix())).Commit()
		if err != nil {
			return e.unanswered(ctx, err)
		}
		if out.Succeeded {
			c.taken(lease.ID, out.Header.Revision, asked)
			return nil
		}
		for _, kv := range out.Responses[0].GetResponseRange().Kvs {
			if string(kv.Key) != c.key || !bytes.Equal(kv.Value, c.identity) {
				_, _ = e.client.Revoke(ctx, lease.ID) // it ends anyway
				return fmt.Errorf("%w: the node %q has the prefix %s, or had it less than %d s ago; only one daemon at a time may",
					store.ErrLocked, kv.Key[len(nodes):], e.options.Prefix, c.seconds())
			}
			if _, err := e.client.Revoke(ctx, clientv3.LeaseID(kv.Lease)); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return e.unanswered(ctx, err)
			}
		}
	}
}

// keep renews the lease until ctx ends. A lease that has ended is replaced, unless another
// node has come meanwhile, or the rows are others.
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
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			c.retake(ctx)
		}
	}
}

// retake is take of a node that has fenced itself. What it has read counts again if
// nobody has committed anything since.
func (c *claim) retake(ctx context.Context) {
	c.retaking.Lock()
	defer c.retaking.Unlock()
	e := c.engine
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	there, err := e.client.Get(ctx, e.key(headKey))
	if err != nil {
		return
	}
	revision, known := e.head.isOurs(there.Kvs)
	if !known {
		c.overtaken.Store(true)
		return
	}
	asked := now()
	lease, err := e.client.Grant(ctx, c.seconds())
	if err != nil {
		return
	}
	out, err := e.client.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(e.key(nodeFolder)), "=", 0).WithPrefix(),
		clientv3.Compare(clientv3.ModRevision(e.key(headKey)), "=", revision),
	).Then(clientv3.OpPut(c.key, string(c.identity), clientv3.WithLease(lease.ID))).Commit()
	if err != nil || !out.Succeeded {
		_, _ = e.client.Revoke(ctx, lease.ID) // or it ends without
		return
	}
	c.taken(lease.ID, out.Header.Revision, asked)
}

// taken notes that the key has been created under the lease, which was asked for then.
func (c *claim) taken(lease clientv3.LeaseID, revision, asked int64) {
	c.lease.Store(int64(lease))
	c.revision.Store(revision)
	c.heard.Store(asked)
}

// LeaseTime is how long the lease of a node lasts that has ended without giving it up.
func LeaseTime(maxStaleness time.Duration) time.Duration {
	return (maxStaleness + leaseMargin + time.Second - 1).Truncate(time.Second)
}

// seconds is how long the lease lasts.
func (c *claim) seconds() int64 { return int64(LeaseTime(c.engine.options.MaxStaleness) / time.Second) }

// fresh returns nil while nobody else can have changed what is known here.
func (c *claim) fresh() error {
	switch silence := time.Duration(now() - c.heard.Load()); {
	case silence < c.engine.options.MaxStaleness:
		return nil
	case c.overtaken.Load():
		return fmt.Errorf("%w: another daemon has changed the database meanwhile: restart this one", store.ErrStale)
	default:
		return fmt.Errorf("%w: etcd has not answered for %s", store.ErrStale, silence.Round(time.Millisecond))
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
