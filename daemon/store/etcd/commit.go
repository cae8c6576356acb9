package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
)

// What one transaction may have: etcd takes 128 operations and 1.5 MiB.
const (
	maxOperations = 100
	maxBytes      = 1 << 20
)

// errNotOurs: the lease of this node or its turn has ended.
var errNotOurs = errors.New("another daemon does not wait for this one any more: its lease in etcd or its turn to commit has ended")

// errTurnEnded: another node has ended the turn of this one.
var errTurnEnded = errors.New("the change took so long that another daemon has gone on without it")

// deadline is when a caller who asked then has waited long enough.
func deadline(asked time.Time) time.Time {
	// Whoever asked long ago has waited for others, not for etcd.
	return later(asked.Add(answerTime), time.Now().Add(answerTime/10))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// mutation is a key without the prefix as a commit leaves it.
type mutation struct {
	Key   string `json:"key"`
	Value []byte `json:"value,omitzero"` // without one the key is deleted
}

func (e *Engine) operation(m mutation) clientv3.Op {
	if m.Value == nil {
		return clientv3.OpDelete(e.key(m.Key))
	}
	return clientv3.OpPut(e.key(m.Key), string(m.Value))
}

// headIs is the comparison by which a commit fails that follows another head.
func (e *Engine) headIs(revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(e.key(headKey)), "=", revision)
}

// found reports whether the key of the node is the one of this claim.
func (c *claim) found(kvs []*mvccpb.KeyValue) bool {
	return len(kvs) > 0 && kvs[0].CreateRevision == c.revision.Load()
}

// holds reports whether the key of the turn is still the one of this writer.
func (w *writer) holds(kvs []*mvccpb.KeyValue) bool {
	return len(kvs) > 0 && kvs[0].CreateRevision == w.turn
}

// Commit implements [store.Writer].
func (w *writer) Commit(ctx context.Context, batch *store.Batch) error {
	e := w.engine
	defer w.Rollback() // if it fails: what is still on its way fails then too
	ctx = context.WithoutCancel(ctx)
	head, err := encodeHead(batch.Head)
	if err != nil {
		return e.trouble.Begin(err)
	}
	if !w.head.Equal(batch.Before) {
		return store.ErrChanged
	}
	mutations := mutationsOf(batch)
	var pending *pendingValue
	operations := []clientv3.Op{clientv3.OpPut(e.key(headKey), head)}
	if batch.Rehash || len(mutations)+len(operations) >= maxOperations || sizeOf(mutations) > maxBytes {
		if pending, err = e.putParts(ctx, w, mutations, batch.Rehash); err != nil {
			return e.trouble.Begin(err)
		}
		text, err := pending.encode()
		if err != nil {
			return e.trouble.Begin(err)
		}
		operations = append(operations, clientv3.OpPut(e.key(pendingKey), text))
	} else {
		for _, m := range mutations {
			operations = append(operations, e.operation(m))
		}
		operations = append(operations, clientv3.OpDelete(w.key()))
	}
	conditions := append(w.conditions(), e.claim.owned(), e.headIs(w.revision), clientv3.Compare(clientv3.CreateRevision(e.key(pendingKey)), "=", 0))
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	out, err := e.client.Txn(asking).If(conditions...).Then(operations...).Else(clientv3.OpGet(e.claim.key), clientv3.OpGet(w.key())).Commit()
	if err == nil && out.Succeeded && e.afterCommit != nil {
		err = e.afterCommit()
	}
	switch {
	case refused(err):
		return e.trouble.Begin(err)
	case err != nil:
		return fmt.Errorf("%w: %w", store.ErrUnknown, e.trouble.Begin(e.unanswered(asking, err)))
	case !out.Succeeded && !e.claim.found(out.Responses[0].GetResponseRange().Kvs):
		return e.trouble.Begin(errNotOurs)
	case !out.Succeeded && !w.holds(out.Responses[1].GetResponseRange().Kvs):
		return fmt.Errorf("%w: %w", store.ErrUnwritable, errTurnEnded)
	case !out.Succeeded:
		return store.ErrChanged
	}
	e.seen.committed(out.Header.Revision)
	e.trouble.End()
	if pending != nil { // it counts; what is not written out now, the next commit does
		pending.revision = out.Header.Revision
		_ = e.writeOut(ctx, pending)
		return nil
	}
	w.ended = true
	e.writing.Store(false)
	return nil
}

// refused reports whether etcd has said that it has not done, and will not do, what it was
// asked for. ErrNoSpace does not say so: the transaction that crosses the quota is made, and
// answered with it all the same.
func refused(err error) bool {
	for _, definite := range []error{
		rpctypes.ErrTooManyOps, rpctypes.ErrRequestTooLarge, rpctypes.ErrDuplicateKey,
		rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken, rpctypes.ErrTooManyRequests, rpctypes.ErrCorrupt,
	} {
		if errors.Is(err, definite) {
			return true
		}
	}
	return false
}

// mutationsOf are the rows and digests as the batch leaves them, each key once.
func mutationsOf(batch *store.Batch) []mutation {
	var all []mutation
	at := make(map[string]int)
	set := func(key string, value []byte) {
		if i, ok := at[key]; ok {
			all[i].Value = value
			return
		}
		at[key] = len(all)
		all = append(all, mutation{key, value})
	}
	for i := range batch.Changes {
		c := &batch.Changes[i]
		set(rowKey(rowFolder, c.Table, c.Name), c.Document)
		if batch.Head == nil || batch.Rehash {
			continue
		}
		if c.Deleted() {
			set(rowKey(sumFolder, c.Table, c.Name), nil)
		} else {
			set(rowKey(sumFolder, c.Table, c.Name), c.Digest[:])
		}
	}
	for _, d := range batch.Digests {
		set(rowKey(sumFolder, d.Table, d.Name), d.Sum)
	}
	return all
}

func sizeOf(mutations []mutation) (n int) {
	for _, m := range mutations {
		n += m.size()
	}
	return n
}

// size is about what the mutation takes in a request.
func (m *mutation) size() int { return len(m.Key) + len(m.Value) + 64 }
