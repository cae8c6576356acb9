package etcd

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	server "cmkd/testenv/etcd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// prefixes numbers the prefixes of one server.
var prefixes atomic.Int64

// database is a prefix for the suite of storetest.
type database struct {
	server *server.Server
	prefix string
	dir    string // of the locks
	shared bool
	opened int
	engine *Engine // opened last

	staleness time.Duration
	client    clientv3.Config // with the server's endpoint, or those of proxies in front of it
}

func newDatabase(t testing.TB, s *server.Server, shared bool) *database {
	return &database{server: s, prefix: fmt.Sprintf("/cmkd/%d/", prefixes.Add(1)), dir: t.TempDir(), shared: shared, staleness: 5 * time.Second, client: clientv3.Config{Endpoints: []string{s.Endpoint}}}
}

func (d *database) options() Options {
	return Options{
		Client: d.client,
		Prefix: d.prefix, Node: "one", Lock: filepath.Join(d.dir, "lock"), MaxStaleness: d.staleness, Alone: !d.shared,
	}
}

// Open implements [storetest.Database].
func (d *database) Open(ctx context.Context) (store.Engine, error) {
	options := d.options()
	if d.opened++; d.shared {
		options.Node = fmt.Sprintf("n%d", d.opened)
		options.Lock = filepath.Join(d.dir, options.Node)
	}
	engine, err := NewEngine(ctx, options)
	if err != nil {
		return nil, err
	}
	d.engine = engine
	return engine, nil
}

// Shared implements [storetest.Database].
func (d *database) Shared() bool { return d.shared }

// Hold implements [storetest.Database].
func (d *database) Hold(t testing.TB) (release func()) {
	d.server.Signal(t, syscall.SIGSTOP)
	return func() { d.server.Signal(t, syscall.SIGCONT) }
}

// Fill implements [storetest.Database].
func (d *database) Fill(t testing.TB) (release func()) {
	d.server.Kill()
	d.server.Run(t, "--quota-backend-bytes", "8000000")
	d.server.Await(t)
	return func() {
		d.server.Kill()
		d.server.Run(t)
		d.server.Await(t)
		c := d.server.Client(t)
		defer c.Close()
		if _, err := c.AlarmDisarm(context.Background(), &clientv3.AlarmMember{}); err != nil {
			t.Error(err)
		}
	}
}

// AfterCommit implements [storetest.Database].
func (d *database) AfterCommit(f func() error) { d.engine.afterCommit = f }

// keys reads what is under the prefix, but for the claims of nodes.
func (d *database) keys(t testing.TB) map[string]string {
	t.Helper()
	c := d.server.Client(t)
	defer c.Close()
	found, err := c.Get(context.Background(), d.prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string, len(found.Kvs))
	for _, kv := range found.Kvs {
		if suffix := string(kv.Key[len(d.prefix):]); kv.Lease == 0 && !strings.HasPrefix(suffix, ackFolder) {
			all[suffix] = string(kv.Value)
		}
	}
	return all
}

// write changes keys behind the engine's back; "" deletes one.
func (d *database) write(t testing.TB, changes map[string]string) {
	t.Helper()
	c := d.server.Client(t)
	defer c.Close()
	for suffix, value := range changes {
		var err error
		if value == "" {
			_, err = c.Delete(context.Background(), d.prefix+suffix)
		} else {
			_, err = c.Put(context.Background(), d.prefix+suffix, value)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Copy implements [storetest.Database].
func (d *database) Copy(t testing.TB) (restore func()) {
	copied := d.keys(t)
	return func() {
		changes := make(map[string]string)
		for suffix, value := range d.keys(t) {
			if copied[suffix] != value {
				changes[suffix] = copied[suffix]
			}
		}
		for suffix, value := range copied {
			changes[suffix] = value
		}
		d.write(t, changes)
	}
}

// Crash implements [storetest.Database].
func (d *database) Crash(t testing.TB) storetest.Database {
	after := newDatabase(t, d.server, d.shared)
	after.write(t, d.keys(t))
	return after
}

// Overwrite implements [storetest.Database].
func (d *database) Overwrite(t testing.TB, table, document string) {
	changes := make(map[string]string)
	for suffix := range d.keys(t) {
		if strings.HasPrefix(suffix, rowKey(rowFolder, table, "")) {
			changes[suffix] = document
		}
	}
	d.write(t, changes)
}

// DeleteRows implements [storetest.Database].
func (d *database) DeleteRows(t testing.TB, table string) { d.Overwrite(t, table, "") }

func TestSuite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Database { return newDatabase(t, server.Start(t), false) })
}

// TestSharedSuite runs it with nodes that come and go.
func TestSharedSuite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Database { return newDatabase(t, server.Start(t), true) })
}
