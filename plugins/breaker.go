package plugins

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

const (
	// firstCutOff is how long calls of one caller with one key are refused when
	// such a call has been lost with two processes, maxCutOff how long they are
	// at most: each further loss doubles it.
	firstCutOff = 10 * time.Second
	maxCutOff   = 10 * time.Minute
	// creationCutOff is the same for the creation of keys of one spec, whose
	// caller is hardly to blame.
	creationCutOff = 30 * time.Second
	// keptCuts bounds what a breaker remembers.
	keptCuts = 4096
)

// breaker refuses calls that have been the end of processes, before they are
// that of more.
type breaker struct {
	size atomic.Int32 // of cuts; 0 spares the lock
	mu   sync.Mutex   // guards cuts
	cuts map[cutID]*cut
}

// cutID says which calls are refused: those of a caller with a key or, of
// creations, whose keys are new each time, all of one method and key spec.
type cutID struct {
	caller uint32
	key    backends.KeyID
	method string
	spec   backends.KeySpec
}

type cut struct {
	losses int
	until  time.Time
	// trial: a call has been let through to see whether it is over.
	trial bool
}

// cutOf names the calls that in stands for; ok is false if they are never
// refused: the daemon's own, and those without a key.
func cutOf(r *stream.Row, of stream.Flow, in any) (id cutID, ok bool) {
	k, keyed := in.(backends.Keyed)
	switch {
	case r.Creates():
		return cutID{method: r.Name, spec: stream.SpecOf(in)}, true
	case !keyed || of.Caller == stream.NoCaller:
		return id, false
	}
	return cutID{caller: of.Caller, key: k.Subject().ID}, true
}

// check returns the error of a call that is refused. Of creations that have been
// refused, one is let through when their time is over; [breaker.release] ends it.
func (b *breaker) check(id cutID, now time.Time) error {
	if b.size.Load() == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.cuts[id]
	switch {
	case c == nil:
		return nil
	case now.Before(c.until) || c.trial:
		if id.method != "" {
			return backends.Errorf(backends.Timeout, "%s of %s hangs in the token: refused until %s", id.method, id.spec, timeText(c.until))
		}
		return backends.Errorf(backends.CutOff, "Your calls with this key have ended plugin processes. They are refused until %s.", timeText(c.until))
	}
	c.trial = id.method != ""
	return nil
}

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// lost notes that a call was the end of two processes, and returns until when those
// like it are refused.
func (b *breaker) lost(id cutID, now time.Time) (until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.cuts) >= keptCuts {
		for id, c := range b.cuts {
			if now.After(c.until) {
				delete(b.cuts, id)
			}
		}
	}
	c := b.cuts[id]
	if c == nil || now.Sub(c.until) > maxCutOff {
		c = new(cut)
		if b.cuts == nil {
			b.cuts = map[cutID]*cut{}
		}
		b.cuts[id] = c
	}
	d := creationCutOff
	if id.method == "" {
		d = min(maxCutOff, firstCutOff<<min(c.losses, 16))
	}
	c.losses++
	c.until = now.Add(d)
	b.size.Store(int32(len(b.cuts)))
	return c.until
}

// answered notes that a creation came to an end.
func (b *breaker) answered(id cutID) {
	if b.size.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.cuts, id)
	b.size.Store(int32(len(b.cuts)))
}

// Release lets the next creation through.
func (b *breaker) release(id cutID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.cuts[id]; c != nil {
		c.trial = false
	}
}

// refusing describes the creations that are refused.
func (b *breaker) refusing() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for id, c := range b.cuts {
		if id.method != "" {
			all = append(all, fmt.Sprintf("%s of %s hangs in the token, refused until %s", id.method, id.spec, timeText(c.until)))
		}
	}
	slices.Sort(all)
	return all
}

// inProgress are calls under way.
type inProgress struct {
	mu    sync.Mutex // guards what follows
	calls map[*progressing]struct{}
}

type progressing struct {
	id    cutID
	since time.Time
}

func (i *inProgress) begin(id cutID) *progressing {
	c := &progressing{id, time.Now()}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.calls == nil {
		i.calls = map[*progressing]struct{}{}
	}
	i.calls[c] = struct{}{}
	return c
}

func (i *inProgress) end(c *progressing) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.calls, c)
}

// hanging says which creations take longer than half of what they may, and which
// are refused because others have; "" if none.
func (h *Host) hanging(spec *Spec, now time.Time) string {
	all := h.breaker.refusing()
	h.creating.mu.Lock()
	var oldest *progressing
	for c := range h.creating.calls {
		late := now.Sub(c.since) > spec.Config.limits().Creation(stream.Classes[c.id.spec])/2
		if late && (oldest == nil || c.since.Before(oldest.since)) {
			oldest = c
		}
	}
	h.creating.mu.Unlock()
	if oldest != nil {
		all = append(all, fmt.Sprintf("%s of %s has not been answered for %v", oldest.id.method, oldest.id.spec, now.Sub(oldest.since).Round(time.Second)))
	}
	return strings.Join(all, "; ")
}
