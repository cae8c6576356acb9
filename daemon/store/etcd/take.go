package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
)

// take creates the key of the node under a new lease. What a process before this one
// has left goes.
func (c *claim) take(ctx context.Context) error {
	for {
		before, err := c.attempt(ctx)
		if err != nil || before == nil {
			return err
		}
		if err := c.remove(ctx, before); err != nil {
			return err
		}
	}
}

// attempt is take, unless something of processes before this one is in the way.
func (c *claim) attempt(ctx context.Context) (*left, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	e := c.engine
	asked := now()
	lease, err := e.client.Grant(ctx, c.seconds())
	if err != nil {
		return nil, e.unanswered(ctx, err)
	}
	out, err := e.client.Txn(ctx).If(c.mayCome()...).
		Then(c.puts(lease.ID)...).
		Else(clientv3.OpGet(e.key(nodeFolder), clientv3.WithPrefix()), clientv3.OpGet(e.key(aloneKey)), clientv3.OpGet(e.key(ackFolder), clientv3.WithPrefix())).Commit()
	if err != nil {
		return nil, e.unanswered(ctx, err)
	}
	if out.Succeeded {
		c.taken(lease.ID, out.Header.Revision, asked)
		return nil, nil //nolint:nilnil // nothing is in the way any more
	}
	_, _ = e.client.Revoke(ctx, lease.ID) // it ends anyway
	return c.predecessor(out)
}

// left is what processes before this one have left.
type left struct {
	lease clientv3.LeaseID // of the process before this one, 0 if it has gone
	own   *mvccpb.KeyValue // P ack/NODE of that process, nil if it has none
	// others are acknowledgements of processes that have lost their key. They may still act.
	others []*mvccpb.KeyValue
}

// remove takes away what is left, once who has left it has stopped to act.
func (c *claim) remove(ctx context.Context, before *left) error {
	e := c.engine
	if len(before.others) > 0 {
		var fence time.Duration
		for _, kv := range before.others {
			fence = max(fence, parseAck(kv).fence)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for nodes that have gone: %w", context.Cause(ctx))
		case <-time.After(fence):
		}
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if before.own != nil { // the lock says that the process has ended
		if err := e.dropAck(ctx, string(before.own.Key), before.own.CreateRevision); err != nil {
			return err
		}
	}
	for _, kv := range before.others {
		node := e.key(nodeFolder) + string(kv.Key[len(e.key(ackFolder)):])
		if err := e.dropAck(ctx, string(kv.Key), kv.CreateRevision, clientv3.Compare(clientv3.CreateRevision(node), "=", 0)); err != nil {
			return err
		}
	}
	if before.lease != 0 {
		if _, err := e.client.Revoke(ctx, before.lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return e.unanswered(ctx, err)
		}
	}
	return nil
}

// dropAck takes an acknowledgement away, if it is still the one of that revision and the conditions hold.
func (e *Engine) dropAck(ctx context.Context, key string, created int64, conditions ...clientv3.Cmp) error {
	if _, err := e.client.Txn(ctx).If(append(conditions, clientv3.Compare(clientv3.CreateRevision(key), "=", created))...).
		Then(clientv3.OpDelete(key)).Commit(); err != nil {
		return e.unanswered(ctx, err)
	}
	return nil
}

// mayCome are the conditions under which the node may come.
func (c *claim) mayCome() []clientv3.Cmp {
	if c.engine.options.Alone {
		return append(c.mayReturn(0), clientv3.Compare(clientv3.CreateRevision(c.engine.key(ackFolder)), "=", 0).WithPrefix())
	}
	return c.mayReturn(0)
}

// mayReturn are the conditions under which the node may come that has left the acknowledgement with that
// creation revision, 0 for none.
func (c *claim) mayReturn(acknowledged int64) []clientv3.Cmp {
	e := c.engine
	own := clientv3.Compare(clientv3.CreateRevision(c.ackKey()), "=", acknowledged)
	if e.options.Alone {
		return []clientv3.Cmp{own, clientv3.Compare(clientv3.CreateRevision(e.key(nodeFolder)), "=", 0).WithPrefix()}
	}
	return []clientv3.Cmp{own, clientv3.Compare(clientv3.CreateRevision(c.key), "=", 0), clientv3.Compare(clientv3.CreateRevision(e.key(aloneKey)), "=", 0)}
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

// predecessor is what processes before this one have left, if that is all that is in the way.
func (c *claim) predecessor(out *clientv3.TxnResponse) (*left, error) {
	e := c.engine
	before := &left{}
	there := map[string]bool{}
	for _, kv := range out.Responses[0].GetResponseRange().Kvs {
		name := string(kv.Key[len(e.key(nodeFolder)):])
		there[name] = true
		switch {
		case string(kv.Key) == c.key && bytes.Equal(kv.Value, c.identity):
			before.lease = clientv3.LeaseID(kv.Lease)
		case string(kv.Key) == c.key && !e.options.Alone:
			return nil, fmt.Errorf("%w: another daemon is the node %q of the prefix %s, or was less than %d s ago: each needs a name of its own",
				store.ErrLocked, name, e.options.Prefix, c.seconds())
		case e.options.Alone || len(out.Responses[1].GetResponseRange().Kvs) > 0:
			return nil, fmt.Errorf("%w: the node %q has the prefix %s, or had it less than %d s ago; only one daemon at a time may",
				store.ErrLocked, name, e.options.Prefix, c.seconds())
		}
	}
	for _, kv := range out.Responses[2].GetResponseRange().Kvs {
		name := string(kv.Key[len(e.key(ackFolder)):])
		switch {
		case name == e.options.Node && c.wrote(kv):
			before.own = kv
		case !there[name] && (e.options.Alone || name == e.options.Node):
			before.others = append(before.others, kv)
		}
	}
	return before, nil
}

// wrote reports whether the acknowledgement is of this process, or of one before it that has ended.
func (c *claim) wrote(kv *mvccpb.KeyValue) bool {
	fields := bytes.SplitN(kv.Value, []byte(" "), 3)
	return len(fields) == 3 && bytes.Equal(fields[2], c.identity)
}

// ackKey is the key of the node's acknowledgement.
func (c *claim) ackKey() string { return c.engine.key(ackFolder + c.engine.options.Node) }
