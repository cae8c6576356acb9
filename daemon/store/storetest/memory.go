package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cmkd/daemon/store"
)

// Disk is a database in memory, which outlives the engines that open it. It keeps
// no columns.
type Disk struct {
	shared bool
	turn   chan struct{} // has room for who writes
	held   atomic.Bool   // by who is not an engine

	mu          sync.Mutex // guards what follows
	state       state
	opened      int
	log         []entry // what was written, if the disk is shared
	joined      []*sharedMemory
	woken       chan struct{} // closed when an engine has joined, acknowledged or left
	room        int           // bytes that may be written, -1: any number
	afterCommit func() error
}

// rowID identifies a row.
type rowID struct{ table, name string }

// state is all that is durable. Byte strings in it do not change.
type state struct {
	rows    map[rowID][]byte // documents
	digests map[rowID][]byte
	head    *store.Sealed
}

func (s state) clone() state { return state{maps.Clone(s.rows), maps.Clone(s.digests), s.head} }

// NewDisk returns an empty database.
func NewDisk() *Disk {
	return &Disk{turn: make(chan struct{}, 1), room: -1, state: state{make(map[rowID][]byte), make(map[rowID][]byte), nil}}
}

// NewSharedDisk returns an empty database that any number of engines may have open
// at once, as those of several machines do. Otherwise a second one gets
// [store.ErrLocked].
func NewSharedDisk() *Disk {
	d := NewDisk()
	d.shared, d.woken = true, make(chan struct{})
	return d
}

// Shared implements [Database].
func (d *Disk) Shared() bool { return d.shared }

// NewStore returns an empty store in memory, which the test closes.
func NewStore(t testing.TB) *store.Store {
	t.Helper()
	return Open(t, NewDisk())
}

// OpenStore opens the store on the disk. The caller closes it.
func (d *Disk) OpenStore(ctx context.Context) (*store.Store, error) { return openStore(ctx, d) }

// Open implements [Database].
func (d *Disk) Open(ctx context.Context) (store.Engine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opened > 0 && !d.shared {
		return nil, store.ErrLocked
	}
	d.opened++
	m := &memory{disk: d, trouble: store.NewTrouble()}
	if d.shared {
		return newSharedMemory(m), nil
	}
	return m, nil
}

// Hold implements [Database].
func (d *Disk) Hold(testing.TB) (release func()) {
	d.turn <- struct{}{}
	d.held.Store(true)
	return func() {
		d.held.Store(false)
		<-d.turn
	}
}

// Fill implements [Database].
func (d *Disk) Fill(testing.TB) (release func()) {
	set := func(room int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.room = room
	}
	set(1 << 20)
	return func() { set(-1) }
}

// AfterCommit implements [Database].
func (d *Disk) AfterCommit(f func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.afterCommit = f
}

// Copy implements [Database].
func (d *Disk) Copy(testing.TB) (restore func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	copied := d.state.clone()
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.outside(copied)
		d.state = copied.clone()
	}
}

// Crash implements [Database].
func (d *Disk) Crash(testing.TB) Database {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := NewDisk()
	if d.shared {
		after = NewSharedDisk()
	}
	after.state = d.state.clone()
	return after
}

// Overwrite implements [Database].
func (d *Disk) Overwrite(_ testing.TB, table, document string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.state.clone()
	for id := range d.state.rows {
		if id.table == table {
			d.state.rows[id] = []byte(document)
		}
	}
	d.outsideOf(before)
}

// DeleteRows implements [Database].
func (d *Disk) DeleteRows(_ testing.TB, table string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.state.clone()
	defer d.outsideOf(before)
	maps.DeleteFunc(d.state.rows, func(id rowID, _ []byte) bool { return id.table == table })
}

// memory is a [store.Engine] over a disk.
type memory struct {
	disk    *Disk
	trouble *store.Trouble
}

// Load implements [store.Engine].
func (m *memory) Load(ctx context.Context, visit store.Visitor) (*store.Sealed, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.disk.mu.Lock()
	s := m.disk.state.clone()
	m.disk.mu.Unlock()
	if visit.Row != nil {
		for id, document := range s.rows {
			if err := visit.Row(&store.Row{Table: id.table, Name: id.name, Document: document}); err != nil {
				return nil, err
			}
		}
	}
	if visit.Digest != nil {
		for id, sum := range s.digests {
			if err := visit.Digest(&store.Digest{Table: id.table, Name: id.name, Sum: sum}); err != nil {
				return nil, err
			}
		}
	}
	return s.head, nil
}

// Check implements [store.Engine]: Load reads the disk itself.
func (m *memory) Check(ctx context.Context) error { return ctx.Err() }

// holdWait is how long Begin waits for who holds the disk. For other engines it waits as long
// as they take.
const holdWait = 200 * time.Millisecond

// Begin implements [store.Engine].
func (m *memory) Begin(ctx context.Context, asked time.Time) (store.Writer, error) {
	select {
	case m.disk.turn <- struct{}{}: // at once, however long ago it was
		return &memoryWriter{engine: m}, nil
	default:
	}
	wait := time.NewTimer(time.Until(asked.Add(holdWait)))
	defer wait.Stop()
	for {
		select {
		case m.disk.turn <- struct{}{}:
			return &memoryWriter{engine: m}, nil
		case <-wait.C:
			if m.disk.held.Load() {
				return nil, m.trouble.Begin(store.ErrBusy)
			}
			wait.Reset(holdWait)
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the database: %w", context.Cause(ctx))
		}
	}
}

// Probe implements [store.Engine].
func (m *memory) Probe(ctx context.Context, asked time.Time) error {
	w, err := m.Begin(ctx, asked)
	if err != nil {
		return err
	}
	w.Rollback()
	m.trouble.End()
	return nil
}

// Trouble implements [store.Engine].
func (m *memory) Trouble() *store.Trouble { return m.trouble }

// Close implements [store.Engine].
func (m *memory) Close() error {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.opened--
	return nil
}

// memoryWriter has the disk's turn until it has ended.
type memoryWriter struct {
	engine *memory
	ended  bool
}

// Rollback implements [store.Writer].
func (w *memoryWriter) Rollback() {
	if !w.ended {
		w.ended = true
		<-w.engine.disk.turn
	}
}

// Commit implements [store.Writer].
func (w *memoryWriter) Commit(_ context.Context, batch *store.Batch) error {
	defer w.Rollback()
	report, err := w.engine.disk.write(w.engine, batch)
	switch {
	case errors.Is(err, store.ErrChanged):
		return err
	case err != nil:
		return w.engine.trouble.Begin(err)
	}
	if report != nil {
		if err := report(); err != nil {
			return fmt.Errorf("%w: %w", store.ErrUnknown, w.engine.trouble.Begin(err))
		}
	}
	w.engine.trouble.End()
	return nil
}

// write makes the batch durable. report, if not nil, is what the disk says of it.
func (d *Disk) write(by *memory, batch *store.Batch) (report func() error, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shared && !d.state.head.Equal(batch.Before) {
		return nil, store.ErrChanged
	}
	size := 0
	for _, c := range batch.Changes {
		size += len(c.Document)
	}
	if d.room >= 0 && size > d.room {
		return nil, syscall.ENOSPC
	}
	if d.room >= 0 {
		d.room -= size
	}
	d.state.apply(batch)
	d.wrote(by, batch)
	return d.afterCommit, nil
}

func (s *state) apply(batch *store.Batch) {
	for _, c := range batch.Changes {
		id := rowID{c.Table, c.Name}
		if c.Deleted() {
			delete(s.rows, id)
			delete(s.digests, id)
			continue
		}
		s.rows[id] = bytes.Clone(c.Document)
		if batch.Head != nil {
			s.digests[id] = bytes.Clone(c.Digest[:])
		}
	}
	if batch.Rehash {
		clear(s.digests)
		for _, d := range batch.Digests {
			s.digests[rowID{d.Table, d.Name}] = bytes.Clone(d.Sum)
		}
	}
	if batch.Head != nil {
		s.head = batch.Head
	}
}
