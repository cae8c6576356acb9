package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
)

// pendingValue is the value of P pending.
type pendingValue struct {
	ID     string `json:"id"`
	Parts  int    `json:"parts"`
	Rehash bool   `json:"rehash,omitempty"` // no digests count but those of the parts

	revision int64 // of its creation, where it was found
}

func (p *pendingValue) encode() (string, error) {
	text, err := json.Marshal(p, json.Deterministic(true))
	return string(text), err
}

// decodePending reads the key that was found; nil if it was not.
func decodePending(found []*mvccpb.KeyValue) (*pendingValue, error) {
	if len(found) == 0 {
		return nil, nil //nolint:nilnil // mostly there is none
	}
	p := &pendingValue{}
	if err := json.Unmarshal(found[0].Value, p, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: reading what a large commit has yet to write: %w", store.ErrCorrupt, err)
	}
	p.revision = found[0].ModRevision
	return p, nil
}

// partKey is where a part is, without the prefix.
func partKey(id string, number int) string { return fmt.Sprintf("%s%s/%08d", partFolder, id, number) }

// partBytes is how large a part becomes: in JSON, values take a third more.
const partBytes = maxBytes / 2

// putParts puts the mutations beside the rows, where nobody reads them. What a commit has left
// there that did not come to its end goes.
func (e *Engine) putParts(ctx context.Context, w *writer, mutations []mutation, rehash bool) (*pendingValue, error) {
	p := &pendingValue{ID: uuid.NewString(), Rehash: rehash}
	if err := e.step(ctx, w.conditions(), clientv3.OpDelete(e.key(partFolder), clientv3.WithPrefix())); err != nil {
		return nil, err
	}
	for len(mutations) > 0 {
		n, size := 0, 0
		for n < len(mutations) && (n == 0 || size+mutations[n].size() <= partBytes) {
			size += mutations[n].size()
			n++
		}
		text, err := json.Marshal(mutations[:n], json.Deterministic(true))
		if err != nil {
			return nil, err
		}
		if err := e.step(ctx, w.conditions(), clientv3.OpPut(e.key(partKey(p.ID, p.Parts)), string(text))); err != nil {
			return nil, err
		}
		mutations = mutations[n:]
		p.Parts++
	}
	return p, nil
}

// part reads a part as it was at a revision, 0 for now.
func (e *Engine) part(ctx context.Context, p *pendingValue, number int, revision int64) ([]mutation, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	key := e.key(partKey(p.ID, number))
	found, err := e.client.Get(ctx, key, clientv3.WithRev(revision))
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil, store.ErrGap
	}
	if err != nil {
		return nil, e.unanswered(ctx, err)
	}
	if len(found.Kvs) == 0 {
		return nil, fmt.Errorf("%w: a large commit lacks its part %q", store.ErrCorrupt, key)
	}
	var part []mutation
	if err := json.Unmarshal(found.Kvs[0].Value, &part, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: reading %q: %w", store.ErrCorrupt, key, err)
	}
	return part, nil
}

// writeOut writes the parts where they belong, and takes them away. Doing it again, from
// the start, does no harm, nor do several at once: nothing else is committed meanwhile, and
// nothing is written any more once P pending has gone.
func (e *Engine) writeOut(ctx context.Context, p *pendingValue) error {
	still := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(e.key(pendingKey)), "=", p.revision)}
	if p.Rehash {
		if err := e.step(ctx, still, clientv3.OpDelete(e.key(sumFolder), clientv3.WithPrefix())); err != nil {
			return err
		}
	}
	for number := range p.Parts {
		part, err := e.part(ctx, p, number, 0)
		if errors.Is(err, store.ErrCorrupt) { // or another node has written it out meanwhile
			err = cmp.Or(e.step(ctx, still), err)
		}
		if err != nil {
			return err
		}
		for len(part) > 0 {
			var operations []clientv3.Op
			size := 0
			for len(part) > 0 && len(operations) < maxOperations && (size == 0 || size+part[0].size() <= maxBytes) {
				size += part[0].size()
				operations = append(operations, e.operation(part[0]))
				part = part[1:]
			}
			if err := e.step(ctx, still, operations...); err != nil {
				return err
			}
		}
	}
	return e.step(ctx, still, clientv3.OpDelete(e.key(pendingKey)), clientv3.OpDelete(e.key(partFolder), clientv3.WithPrefix()))
}

// step does something that this node may do while the conditions hold.
func (e *Engine) step(ctx context.Context, conditions []clientv3.Cmp, operations ...clientv3.Op) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	out, err := e.client.Txn(ctx).If(append(conditions[:len(conditions):len(conditions)], e.claim.owned())...).Then(operations...).Commit()
	if err != nil {
		return e.unanswered(ctx, err)
	}
	if !out.Succeeded {
		return errNotOurs
	}
	return nil
}

// pendingRows are the rows that the parts of a large commit write.
func (e *Engine) pendingRows(ctx context.Context, f *found) ([]store.Row, error) {
	rows := slices.Clone(f.commit.Rows)
	for number := range f.pending.Parts {
		part, err := e.part(ctx, f.pending, number, f.revision)
		if err != nil {
			return nil, err
		}
		for _, m := range part {
			rest, ok := strings.CutPrefix(m.Key, rowFolder)
			if !ok {
				continue
			}
			table, name, ok := splitRow(rest)
			if !ok {
				return nil, fmt.Errorf("%w: a part of a large commit has a key %q", store.ErrCorrupt, m.Key)
			}
			rows = append(rows, store.Row{Table: table, Name: name, Document: m.Value})
		}
	}
	return rows, nil
}

// removeLeftovers takes away the parts of commits that did not come to their end.
func (e *Engine) removeLeftovers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	nothing := clientv3.Compare(clientv3.CreateRevision(e.key(pendingKey)), "=", 0)
	nobody := clientv3.Compare(clientv3.CreateRevision(e.key(turnFolder)), "=", 0).WithPrefix()
	if _, err := e.client.Txn(ctx).If(e.claim.owned(), nothing, nobody).
		Then(clientv3.OpDelete(e.key(partFolder), clientv3.WithPrefix())).Commit(); err != nil {
		return e.unanswered(ctx, err)
	}
	return nil
}
