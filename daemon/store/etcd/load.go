package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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

// How many keys are read at once: the first time the fewest, then as many as are about pageBytes long. For
// each page etcd counts all keys behind it, so that many small pages would grow with the square.
const (
	minPage   = 500
	maxPage   = 20_000
	pageBytes = 8 << 20
)

// nextPage is how many keys the page after found should have: at most twice as many, for they may be longer.
func nextPage(found []*mvccpb.KeyValue) int64 {
	size := 0
	for _, kv := range found {
		size += len(kv.Key) + len(kv.Value)
	}
	if size == 0 {
		return minPage
	}
	return int64(min(max(len(found)*pageBytes/size, minPage), maxPage, 2*len(found)))
}

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
	e.seen.mu.Lock()
	defer e.seen.mu.Unlock()
	e.seen.loaded = s.revision
	return s.head, nil
}

// Check implements [store.Engine]: Load asks etcd, which remembers nothing that it would
// not find after a start.
func (e *Engine) Check(ctx context.Context) error { return ctx.Err() }

// snapshot is all that was under the prefix at one revision.
type snapshot struct {
	engine   *Engine
	revision int64
	head     *store.Sealed
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
	limit := int64(minPage)
	for from, end := e.key(folder), clientv3.GetPrefixRangeEnd(e.key(folder)); !alone; {
		found, err := s.page(ctx, from, end, limit)
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
		from, limit = string(found.Kvs[len(found.Kvs)-1].Key)+"\x00", nextPage(found.Kvs)
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

func (s *snapshot) page(ctx context.Context, from, end string, limit int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	found, err := s.engine.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(s.revision))
	if err != nil {
		return nil, s.engine.unanswered(ctx, err)
	}
	return found, nil
}

// Probe implements [store.Engine]: a turn that is taken and given up. A request whose answer was
// lost may still be on its way: it fails from then on, for it compares the turn that it was made in.
func (e *Engine) Probe(ctx context.Context, asked time.Time) error {
	w, err := e.Begin(ctx, asked)
	if err != nil {
		return err
	}
	w.Rollback()
	e.trouble.End()
	return nil
}

// failed keeps why etcd cannot be written.
func (e *Engine) failed(ctx context.Context, err error) error {
	if errors.Is(err, errNotOurs) || errors.Is(err, store.ErrCorrupt) {
		return e.trouble.Begin(err)
	}
	err = e.unanswered(ctx, err)
	if errors.Is(err, context.Canceled) {
		return err
	}
	return e.trouble.Begin(err)
}
