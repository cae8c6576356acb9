package storetest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cmkd/daemon/store"
)

// entry is something that was written to a shared disk.
type entry struct {
	by     *memory // nil: behind the back of all
	commit store.Commit
}

// wrote notes a commit. The caller holds mu.
func (d *Disk) wrote(by *memory, batch *store.Batch) {
	if !d.shared {
		return
	}
	rows := map[rowID]store.Row{}
	for _, c := range batch.Changes {
		rows[rowID{c.Table, c.Name}] = store.Row{Table: c.Table, Name: c.Name, Document: c.Document}
	}
	e := entry{by: by, commit: store.Commit{Head: batch.Head}}
	for _, r := range rows {
		e.commit.Rows = append(e.commit.Rows, r)
	}
	d.tell(e)
}

// outside notes what changes if the state becomes another one. The caller holds mu.
func (d *Disk) outside(to state) {
	d.note(d.state, to)
}

// outsideOf notes what has changed since the state was another one. The caller holds mu.
func (d *Disk) outsideOf(before state) { d.note(before, d.state) }

func (d *Disk) note(from, to state) {
	if !d.shared {
		return
	}
	e := entry{commit: store.Commit{Outside: true}}
	for id, document := range to.rows {
		if string(from.rows[id]) != string(document) {
			e.commit.Rows = append(e.commit.Rows, store.Row{Table: id.table, Name: id.name, Document: document})
		}
	}
	for id := range from.rows {
		if _, there := to.rows[id]; !there {
			e.commit.Rows = append(e.commit.Rows, store.Row{Table: id.table, Name: id.name})
		}
	}
	if !from.head.Equal(to.head) {
		e.commit.Head = &store.Sealed{}
	}
	if len(e.commit.Rows) > 0 || e.commit.Head != nil {
		d.tell(e)
	}
}

// tell adds an entry and wakes up who waits. The caller holds mu.
func (d *Disk) tell(e entry) {
	d.log = append(d.log, e)
	d.wake()
}

func (d *Disk) wake() {
	close(d.woken)
	d.woken = make(chan struct{})
	for _, m := range d.joined {
		m.poke()
	}
}

// sharedMemory is a [store.Shared] over a disk.
type sharedMemory struct {
	*memory
	arrived chan struct{}

	// Guarded by disk.mu.
	taken, loaded int // entries of the log
	joinedAt      int // the turn in which it joined, 0: it has not
	sequence      uint64
}

func newSharedMemory(m *memory) *sharedMemory {
	s := &sharedMemory{memory: m, arrived: make(chan struct{}, 1)}
	m.disk.joined = append(m.disk.joined, s)
	return s
}

func (m *sharedMemory) poke() {
	select {
	case m.arrived <- struct{}{}:
	default:
	}
}

// Load implements [store.Engine].
func (m *sharedMemory) Load(ctx context.Context, visit store.Visitor) (*store.Sealed, error) {
	m.disk.mu.Lock()
	m.loaded = len(m.disk.log)
	m.disk.mu.Unlock()
	return m.memory.Load(ctx, visit)
}

// Close implements [store.Engine].
func (m *sharedMemory) Close() error {
	m.Leave(context.Background())
	m.disk.mu.Lock()
	m.disk.joined = slices.DeleteFunc(m.disk.joined, func(other *sharedMemory) bool { return other == m })
	m.disk.mu.Unlock()
	return m.memory.Close()
}

// Fresh implements [store.Fenced].
func (m *sharedMemory) Fresh() error {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.joinedAt == 0 {
		return store.ErrStale
	}
	return nil
}

// Take implements [store.Shared].
func (m *sharedMemory) Take(context.Context) ([]store.Commit, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	var all []store.Commit
	for _, e := range m.disk.log[m.taken:] {
		if e.by != m.memory {
			all = append(all, e.commit)
		}
	}
	m.taken = len(m.disk.log)
	return all, nil
}

// Sync implements [store.Shared].
func (m *sharedMemory) Sync(context.Context) error { return nil }

// Arrived implements [store.Shared].
func (m *sharedMemory) Arrived() <-chan struct{} { return m.arrived }

// Rebase implements [store.Shared].
func (m *sharedMemory) Rebase() {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.taken = max(m.taken, m.loaded)
}

// Acknowledge implements [store.Shared].
func (m *sharedMemory) Acknowledge(_ context.Context, sequence uint64) error {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.joinedAt == 0 {
		for _, e := range m.disk.log[m.taken:] {
			if e.by != m.memory {
				return store.ErrChanged
			}
		}
		m.joinedAt = 1
		for _, other := range m.disk.joined {
			if other != m {
				m.joinedAt = max(m.joinedAt, other.joinedAt+1)
			}
		}
	}
	m.sequence = sequence
	m.disk.wake()
	return nil
}

// Leave implements [store.Shared].
func (m *sharedMemory) Leave(context.Context) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.joinedAt = 0
	m.disk.wake()
}

// Await implements [store.Shared].
func (m *sharedMemory) Await(ctx context.Context, sequence uint64) error {
	for {
		m.disk.mu.Lock()
		late := slices.ContainsFunc(m.disk.joined, func(other *sharedMemory) bool {
			return other != m && other.joinedAt > 0 && other.sequence < sequence
		})
		woken := m.disk.woken
		m.disk.mu.Unlock()
		if !late {
			return nil
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", store.ErrStale, context.Cause(ctx))
		}
	}
}

// Servers implements [store.Shared].
func (m *sharedMemory) Servers(context.Context) []store.Server { return nil }

// Nodes implements [store.Shared].
func (m *sharedMemory) Nodes() []store.Node {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	all := make([]store.Node, len(m.disk.joined))
	leader := -1
	for i, other := range m.disk.joined {
		all[i] = store.Node{Name: fmt.Sprintf("%p", other), Self: other == m, Serves: other.joinedAt > 0, Lag: time.Duration(0)}
		if other.joinedAt > 0 && (leader < 0 || other.joinedAt < m.disk.joined[leader].joinedAt) {
			leader = i
		}
	}
	if leader >= 0 {
		all[leader].Leader = true
	}
	return all
}
