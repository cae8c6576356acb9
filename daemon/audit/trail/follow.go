package trail

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"
)

// followInterval is how often a follower looks for more.
const followInterval = 200 * time.Millisecond

// Last returns the newest n records that fit, oldest first, and the sequence of the
// last record of the trail, whatever it is: 0 if there is none.
func Last(ctx context.Context, from Source, q Query, n int) (events []*Event, last uint64, err error) {
	err = from.Search(ctx, Options{Query: Query{Checkpoints: true}, Reverse: true}, func(e *Event) error {
		if e.Sequence == 0 { // not a record: what follows is not the whole trail for that
			return nil
		}
		last = e.Sequence
		return Stop
	})
	if err != nil || n == 0 {
		return nil, last, err
	}
	err = from.Search(ctx, Options{Query: q, Reverse: true}, func(e *Event) error {
		if e.Sequence > last {
			return nil // it was written meanwhile, and follows
		}
		if events = append(events, e); len(events) == n {
			return Stop
		}
		return nil
	})
	slices.Reverse(events)
	return events, last, err
}

// Follow hands the records behind the one with the sequence to f, those that fit, as
// they are written. It ends with ctx, or with f's error; [Stop] is none.
func Follow(ctx context.Context, dir string, q Query, after uint64, f func(*Event) error) error {
	r := NewReader(dir, after)
	defer r.Close()
	m := newMatcher(q)
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		line, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
			continue
		case err != nil:
			return err
		}
		e := m.whole(line)
		if e == nil {
			continue
		}
		if err := f(e.clone()); err == Stop { //nolint:errorlint // see Search
			return nil
		} else if err != nil {
			return err
		}
	}
}
