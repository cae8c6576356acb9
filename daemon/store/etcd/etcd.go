// Package etcd keeps a [store.Store] in etcd, under a prefix. docs/decisions/0023-etcd.md
// says why it is as it is. Version 1, "P" for the prefix, which ends with a slash:
//
//	P format            "1"
//	P head              JSON of headValue: the head, or that there is none yet
//	P row/TABLE/NAME    document of a row, JSON
//	P digest/TABLE/NAME SHA-256 of the document, 32 bytes
//	P node/NAME         identity of a process that has the rows open, under its lease
//	P alone             name of the process that has them open alone, under its lease
//	P turn/NAME         a place in the queue of those who commit, under the lease
//	P ack/NAME          sequence of the newest head that a process acts on, its max_staleness, and its identity
//	P pending           JSON of pendingValue: a large commit whose rows are being written
//	P part/ID/NUMBER    JSON array of mutation: a piece of that commit
//
// A commit is one transaction. It compares the modification revision of the head and the
// creation revisions of the node's key and of its turn, writes rows, digests and head, and
// gives the turn up.
//
// A commit that is too large for one transaction is put beside the rows first, in parts
// that nobody reads. The transaction that commits it writes the head and P pending, which
// makes the parts count: whoever reads the rows lays them over. Then they are written
// where they belong, in as many transactions as it takes, and taken away.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"

	"cmkd/daemon/internal/lockfile"
	"cmkd/daemon/store"
)

// What a prefix has below it.
const (
	formatKey  = "format"
	headKey    = "head"
	rowFolder  = "row/"
	sumFolder  = "digest/"
	nodeFolder = "node/"
	aloneKey   = "alone"
	turnFolder = "turn/"
	ackFolder  = "ack/"
	pendingKey = "pending"
	partFolder = "part/"
)

// format is the version of the layout.
const format = 1

// answerTime bounds the wait for one answer of etcd. A new leader takes it about a
// second; what is asked for then fails with a 5xx, and clients repeat it.
const answerTime = 2 * time.Second

// loadTime bounds the wait for one page of rows.
const loadTime = 30 * time.Second

// Options say where the rows are.
type Options struct {
	Client clientv3.Config // endpoints and TLS; the engine sets the rest
	// Prefix of all keys; it starts and ends with a slash.
	Prefix string
	// Node is the name of this daemon among those of the prefix.
	Node string
	// Lock is the path of a local file: who holds its lock is the node.
	Lock string
	// MaxStaleness is how long after it last heard from etcd the node may act on what it
	// has read. At least a second.
	MaxStaleness time.Duration
	// Alone keeps all others out.
	Alone bool
}

// Engine is a [store.Shared] over a prefix of etcd.
type Engine struct {
	options Options
	client  *clientv3.Client
	lock    *lockfile.Lock
	trouble *store.Trouble
	claim   *claim

	seen    *seen
	arrived chan struct{}
	writing atomic.Bool                        // between Begin and the end of the writer
	rewatch atomic.Pointer[context.CancelFunc] // ends the watch, so that another one begins
	stop    context.CancelFunc
	running sync.WaitGroup

	afterCommit func() error // nil but in tests: what etcd reports of a commit
}

// Fresh implements [store.Fenced].
func (e *Engine) Fresh() error { return e.claim.fresh() }

// silent: etcd does not answer. It is [store.ErrBusy].
type silent struct{ cause error }

func (e *silent) Error() string {
	if errors.Is(e.cause, rpctypes.ErrPermissionDenied) {
		return fmt.Sprintf("etcd has no role for the user of the daemon's certificate that reaches the prefix: %v", e.cause)
	}
	if refused, ok := errors.AsType[rpctypes.EtcdError](e.cause); ok && refused.Code() != codes.Unavailable {
		return fmt.Sprintf("etcd refuses: %v", e.cause)
	}
	return fmt.Sprintf("etcd does not answer, it may have no quorum: %v", e.cause)
}

func (e *silent) Is(target error) bool { return target == store.ErrBusy }
func (e *silent) Unwrap() error        { return e.cause }

// NewEngine takes the prefix for this node. Errors that an operator can act on are the
// store's.
func NewEngine(ctx context.Context, options Options) (*Engine, error) {
	e := &Engine{options: options, trouble: store.NewTrouble(), seen: newSeen(options.Node), arrived: make(chan struct{}, 1)}
	if err := e.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store %s in etcd: %w", options.Prefix, e.explain(ctx, err)), e.Close())
	}
	return e, nil
}

func (e *Engine) open(ctx context.Context) (err error) {
	if e.lock, err = lockfile.Take(e.options.Lock); err != nil {
		if errors.Is(err, lockfile.ErrHeld) {
			err = fmt.Errorf("locking %s: %w: does another cmkd run with this state_dir?", e.options.Lock, store.ErrLocked)
		}
		return err
	}
	cfg := e.options.Client
	cfg.Logger = zap.NewNop() // what matters is in the errors
	cfg.DialTimeout = answerTime
	// An etcd that was away for long is asked again as soon as one that was away for a moment: by
	// default, gRPC waits for up to two minutes.
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: answerTime,
	}))
	if cfg.DialKeepAliveTime == 0 {
		cfg.DialKeepAliveTime, cfg.DialKeepAliveTimeout = answerTime, answerTime
	}
	if e.client, err = clientv3.New(cfg); err != nil {
		return fmt.Errorf("connecting to etcd: %w", err)
	}
	if err := e.checkFormat(ctx); err != nil {
		return err
	}
	if e.claim, err = e.newClaim(ctx); err != nil {
		return err
	}
	if err := e.look(ctx); err != nil {
		return err
	}
	if other := e.seen.uninitialised(); other != "" {
		return fmt.Errorf("%w: the node %q initialises the prefix %s", store.ErrLocked, other, e.options.Prefix)
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	e.running.Go(func() { e.watch(following) })
	return e.removeLeftovers(ctx)
}

// checkFormat refuses a prefix of another version, and names the version in an empty one.
func (e *Engine) checkFormat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	absent := clientv3.Compare(clientv3.CreateRevision(e.options.Prefix), "=", 0).WithPrefix()
	out, err := e.client.Txn(ctx).If(absent).
		Then(clientv3.OpPut(e.key(formatKey), strconv.Itoa(format))).
		Else(clientv3.OpGet(e.key(formatKey))).Commit()
	if err != nil {
		return e.unanswered(ctx, err)
	}
	if out.Succeeded {
		return nil
	}
	found := out.Responses[0].GetResponseRange().Kvs
	if len(found) == 0 {
		return fmt.Errorf("%w: there are keys under the prefix, but no %q: is the prefix right?", store.ErrCorrupt, e.key(formatKey))
	}
	there, err := strconv.Atoi(string(found[0].Value))
	switch {
	case err != nil || there < format:
		return fmt.Errorf("%w: %q is %q, which no release has written: is the prefix right?", store.ErrCorrupt, e.key(formatKey), found[0].Value)
	case there > format:
		return fmt.Errorf("%w: it has the format %d, this program knows %d", store.ErrNewerSchema, there, format)
	}
	return nil
}

// Close gives the prefix up for others and ends the connection.
func (e *Engine) Close() error {
	var errs []error
	if e.stop != nil {
		e.stop()
		e.running.Wait()
		e.stop = nil
	}
	if e.claim != nil {
		e.claim.end()
		e.claim = nil
	}
	if e.client != nil {
		errs = append(errs, e.client.Close())
		e.client = nil
	}
	if e.lock != nil {
		errs = append(errs, e.lock.Release())
		e.lock = nil
	}
	return errors.Join(errs...)
}

// Trouble implements [store.Engine].
func (e *Engine) Trouble() *store.Trouble { return e.trouble }

// key is a key under the prefix.
func (e *Engine) key(suffix string) string { return e.options.Prefix + suffix }

// unanswered explains an error of a request whose context is ctx.
func (e *Engine) unanswered(ctx context.Context, err error) error {
	if errors.Is(err, store.ErrBusy) {
		return err
	}
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return fmt.Errorf("waiting for etcd: %w", context.Canceled)
	}
	return &silent{err}
}

// rowKey is where a row is, below folder.
func rowKey(folder, table, name string) string { return folder + table + "/" + name }

// splitRow is the inverse of rowKey, of a key without its folder.
func splitRow(rest string) (table, name string, ok bool) { return strings.Cut(rest, "/") }
