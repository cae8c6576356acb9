package audit

import (
	"context"
	"fmt"
	"sync"

	"cmkd/daemon/audit/event"
)

// Append writes a record of what has happened and returns when it is durable.
// An error that does not wrap ctx's means that the call must not be answered:
// the record was refused ([ErrTooLong], [ErrInvalidRecord], [ErrBacklog],
// [ErrClosed]), or may or may not be in the log and is written again by
// [Log.Reopen] ([ErrBroken]).
//
// ctx bounds the wait only. The record is handed in even if ctx is done, for
// the call that it reports has happened; it will be written, but Append then
// returns ctx's error, as it cannot say that it has been.
func (l *Log) Append(ctx context.Context, r *event.Record) error {
	return l.appendForeign(ctx, r, Room{}, false)
}

// AppendIn is Append into a room, for which no backlog is too long: a record
// that is longer than the room, while there is no more, is cut to it.
func (l *Log) AppendIn(ctx context.Context, r *event.Record, room Room) error {
	return l.appendForeign(ctx, r, room, false)
}

// AppendBefore is AppendIn for what happens only once the record is durable: if
// it cannot be written now, it never is. ctx must not be done before. The zero
// Room makes it an Append.
func (l *Log) AppendBefore(ctx context.Context, r *event.Record, room Room) error {
	return l.appendForeign(ctx, r, room, true)
}

func (l *Log) appendForeign(ctx context.Context, r *event.Record, room Room, before bool) error {
	if r.EventSource == ownSource {
		return fmt.Errorf("%w: the eventSource %s is the log's own", event.ErrInvalidRecord, ownSource)
	}
	_, err := l.append(ctx, r, room, entry{before: before})
	return err
}

// entry is what a record is to the log besides its text.
type entry struct {
	own    bool // the log's
	before bool // see [Log.AppendBefore]
}

// bodies are buffers for encoding.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// append is Append, also for the log's own records. It returns the sequence.
func (l *Log) append(ctx context.Context, r *event.Record, room Room, as entry) (uint64, error) {
	if r.AdditionalEventData.Node != l.cfg.Node {
		named := *r // the caller's, and perhaps another's at the same time
		named.AdditionalEventData.Node = l.cfg.Node
		r = &named
	}
	body := bodies.Get().(*[]byte)
	defer bodies.Put(body)
	encoded, err := event.Append((*body)[:0], r, event.MaxRecord)
	if err != nil {
		return 0, err
	}
	*body = encoded
	extra, err := l.fit(room, len(encoded), as)
	if err != nil {
		return 0, err
	}
	if extra < 0 {
		if encoded, err = event.Append(encoded[:0], r, room.size-chainSize); err != nil {
			return 0, err
		}
		extra = 0
	}
	b, sequence, write, err := l.enqueue(encoded, as)
	if err != nil {
		l.free(extra)
		return 0, err
	}
	switch {
	case write && ctx.Done() == nil:
		l.commits(b)
	case write:
		go l.commits(nil)
	}
	if ctx.Done() != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.done.Wait()
			l.free(extra)
		}()
		select {
		case <-done:
			return sequence, b.err
		case <-ctx.Done():
		}
		select {
		case <-done:
			return sequence, b.err
		default:
			return 0, fmt.Errorf("waiting for the audit log: %w", context.Cause(ctx))
		}
	}
	b.done.Wait()
	l.free(extra)
	return sequence, b.err
}
