package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
)

// headValue is the value of P head.
type headValue struct {
	Document []byte `json:"document,omitempty"` // both empty: there is no head yet
	MAC      []byte `json:"mac,omitempty"`
}

func encodeHead(s *store.Sealed) (string, error) {
	var v headValue
	if s != nil {
		v = headValue{s.Document, s.MAC}
	}
	text, err := json.Marshal(&v, json.Deterministic(true))
	return string(text), err
}

// decodeHead reads the key that was found, or was not.
func decodeHead(found []*mvccpb.KeyValue) (*store.Sealed, error) {
	if len(found) == 0 {
		return nil, nil //nolint:nilnil // a database without a head is not an error
	}
	var v headValue
	if err := json.Unmarshal(found[0].Value, &v, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: reading the head: %w", store.ErrCorrupt, err)
	}
	if len(v.Document) == 0 && len(v.MAC) == 0 {
		return nil, nil //nolint:nilnil // nor is one that has yet to get one
	}
	return &store.Sealed{Document: v.Document, MAC: v.MAC}, nil
}

// position is what the engine knows of P head.
type position struct {
	mu sync.Mutex // guards what follows
	// revision is the modification revision of the head that was loaded or committed
	// last, 0 if there was none.
	revision int64
	// doubtful is the value of a head whose commit has an unknown outcome.
	doubtful string
}

func (p *position) get() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revision
}

func (p *position) set(revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision, p.doubtful = revision, ""
}

func (p *position) doubt(value string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubtful = value
}

// isOurs reports whether a head is the last one that this process knows of, or has
// written, and its modification revision.
func (p *position) isOurs(found []*mvccpb.KeyValue) (revision int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(found) == 0 {
		return 0, p.revision == 0
	}
	revision = found[0].ModRevision
	return revision, revision == p.revision || p.doubtful != "" && p.doubtful == string(found[0].Value)
}

// page is how many keys are read at once.
const page = 500

// Load implements [store.Engine]: everything is read at the revision at which the head
// is found.
func (e *Engine) Load(ctx context.Context, visit store.Visitor) (*store.Sealed, error) {
	s, err := e.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if visit.Row != nil {
		if err := s.each(ctx, rowFolder, false, func(table, name string, value []byte) error {
			return visit.Row(&store.Row{Table: table, Name: name, Document: value})
		}); err != nil {
			return nil, err
		}
	}
	if visit.Digest != nil {
		if err := s.each(ctx, sumFolder, s.rehash, func(table, name string, value []byte) error {
			return visit.Digest(&store.Digest{Table: table, Name: name, Sum: value})
		}); err != nil {
			return nil, err
		}
	}
	e.head.set(s.headRevision)
	return s.head, nil
}

// Check implements [store.Engine]: Load asks etcd, which remembers nothing that it would
// not find after a start.
func (e *Engine) Check(ctx context.Context) error { return ctx.Err() }

// snapshot is all that was under the prefix at one revision.
type snapshot struct {
	engine       *Engine
	revision     int64
	head         *store.Sealed
	headRevision int64
	// parts are what a large commit has yet to write, by key without the prefix.
	parts  map[string][]byte
	rehash bool // no digests count but those of parts
}

func (e *Engine) snapshot(ctx context.Context) (*snapshot, error) {
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	out, err := e.client.Txn(asking).Then(clientv3.OpGet(e.key(headKey)), clientv3.OpGet(e.key(pendingKey))).Commit()
	if err != nil {
		return nil, e.unanswered(asking, err)
	}
	s := &snapshot{engine: e, revision: out.Header.Revision}
	found := out.Responses[0].GetResponseRange().Kvs
	if s.head, err = decodeHead(found); err != nil {
		return nil, err
	}
	if len(found) > 0 {
		s.headRevision = found[0].ModRevision
	}
	pending, err := decodePending(out.Responses[1].GetResponseRange().Kvs)
	if err != nil || pending == nil {
		return s, err
	}
	s.parts, s.rehash = make(map[string][]byte), pending.Rehash
	for number := range pending.Parts {
		part, err := e.part(ctx, pending, number, s.revision)
		if err != nil {
			return nil, err
		}
		for _, m := range part {
			s.parts[m.Key] = m.Value
		}
	}
	return s, nil
}

// each visits the keys of a folder, in order but for those that are in parts only. alone:
// only those are there.
func (s *snapshot) each(ctx context.Context, folder string, alone bool, visit func(table, name string, value []byte) error) error {
	e := s.engine
	seen := make(map[string]bool)
	visitKey := func(suffix string, value []byte) error {
		table, name, ok := splitRow(suffix[len(folder):])
		if !ok {
			return fmt.Errorf("%w: there is a key %q", store.ErrCorrupt, e.key(suffix))
		}
		return visit(table, name, value)
	}
	for from, end := e.key(folder), clientv3.GetPrefixRangeEnd(e.key(folder)); !alone; {
		found, err := s.page(ctx, from, end)
		if err != nil {
			return err
		}
		for _, kv := range found.Kvs {
			suffix := string(kv.Key[len(e.options.Prefix):])
			value := kv.Value
			if later, ok := s.parts[suffix]; ok {
				seen[suffix] = true
				if later == nil {
					continue
				}
				value = later
			}
			if err := visitKey(suffix, value); err != nil {
				return err
			}
		}
		if !found.More {
			break
		}
		from = string(found.Kvs[len(found.Kvs)-1].Key) + "\x00"
	}
	for _, suffix := range slices.Sorted(maps.Keys(s.parts)) {
		if value := s.parts[suffix]; value != nil && !seen[suffix] && strings.HasPrefix(suffix, folder) {
			if err := visitKey(suffix, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *snapshot) page(ctx context.Context, from, end string) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	found, err := s.engine.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(s.revision))
	if err != nil {
		return nil, s.engine.unanswered(ctx, err)
	}
	return found, nil
}

// Probe implements [store.Engine]. A request whose answer was lost may still be on its
// way: writing the head again as it is makes every commit fail that compares what was
// there before.
func (e *Engine) Probe(ctx context.Context, asked time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline(asked))
	defer cancel()
	for retaken := false; ; {
		there, err := e.client.Get(ctx, e.key(headKey))
		if err != nil {
			return e.failed(ctx, err)
		}
		var revision int64
		value, err := encodeHead(nil)
		if err != nil {
			return err
		}
		if len(there.Kvs) > 0 {
			revision, value = there.Kvs[0].ModRevision, string(there.Kvs[0].Value)
		}
		_, ours := e.head.isOurs(there.Kvs)
		out, err := e.client.Txn(ctx).If(e.claim.owned(), e.headIs(revision)).
			Then(clientv3.OpPut(e.key(headKey), value)).
			Else(clientv3.OpGet(e.claim.key)).Commit()
		switch {
		case err != nil:
			return e.failed(ctx, err)
		case out.Succeeded:
			if ours { // else the caller finds out that it is another
				e.head.set(out.Header.Revision)
			}
			e.trouble.End()
			return nil
		case e.claim.found(out.Responses[0].GetResponseRange().Kvs): // the head has changed just now
		case retaken:
			return e.trouble.Begin(errNotOurs)
		default:
			e.claim.retake(ctx)
			retaken = true
		}
	}
}

// failed keeps why etcd cannot be written.
func (e *Engine) failed(ctx context.Context, err error) error {
	err = e.unanswered(ctx, err)
	if errors.Is(err, context.Canceled) {
		return err
	}
	return e.trouble.Begin(err)
}
