package journal

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit/event"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// inFlight are the calls that have begun and not ended, for the end of the
// daemon: what it cuts off is recorded too.
type inFlight struct {
	mu    sync.Mutex
	first *Call         // guarded by mu, like the links between calls
	ended bool          // guarded by mu: no call begins any more
	left  chan struct{} // guarded by mu: told of each call that ends, nil until the daemon ends
}

var errEnded = errors.New("the daemon is ending")

func (f *inFlight) enter(c *Call) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return errEnded
	}
	if c.next = f.first; c.next != nil {
		c.next.previous = c
	}
	f.first = c
	return nil
}

func (f *inFlight) leave(c *Call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.next != nil {
		c.next.previous = c.previous
	}
	if c.previous != nil {
		c.previous.next = c.next
	} else {
		f.first = c.next
	}
	f.tell()
}

func (f *inFlight) tell() {
	if f.left != nil {
		select {
		case f.left <- struct{}{}:
		default:
		}
	}
}

// describe notes what the call is. EndCalls may read it at any time.
func (f *inFlight) describe(c *Call, readOnly bool, region string, parameters jsontext.Value) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.Record.ReadOnly, c.Record.AWSRegion, c.Record.RequestParameters = readOnly, region, parameters
}

// DescribeCall notes what the call is.
func (s *Journal) DescribeCall(c *Call, readOnly bool, region string, parameters jsontext.Value) {
	s.calls.describe(c, readOnly, region, parameters)
}

// Restore puts back the record of a call as it was: the end of the daemon may be
// reading it.
func (s *Journal) Restore(c *Call, record event.Record) {
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	c.Record = record
}

// Concluded ends what recordAhead began: err says what became of the change.
func (s *Journal) Concluded(c *Call, err error) { s.calls.concluded(c, err) }

// phase is how far the record of a call is.
type phase int

const (
	open    phase = iota // not written
	writing              // being written, and what it is ahead of being committed
	written              // for good
	cut                  // by EndCalls
)

// settle begins to write the record of a call, which the end of the daemon
// waits for, unless it has written one already.
func (f *inFlight) settle(c *Call) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.phase == cut {
		return errEnded
	}
	c.phase = writing
	return nil
}

// settled ends what settle began. What was not done leaves the call open.
func (f *inFlight) settled(c *Call, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settledLocked(c, done)
}

// Concluded is settled for a change that the record is ahead of, of which err says
// what became. Both are one step: what cuts the call off then must know.
func (f *inFlight) concluded(c *Call, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		c.Ahead, c.recorded = "", true
	case errors.Is(err, store.ErrUnknown):
		c.unknown = c.Ahead
	}
	f.settledLocked(c, err == nil)
}

func (f *inFlight) settledLocked(c *Call, done bool) {
	switch {
	case c.phase == cut:
		return
	case done:
		c.phase = written
	default:
		c.phase = open
	}
	f.tell()
}

// cutOffTimeout bounds the wait for records that are being written when the
// daemon ends: what they are ahead of is not committed without them.
const cutOffTimeout = 10 * time.Second

// EndCalls lets no call begin any more and waits, until ctx ends, for those in
// flight. Those that are left then get a record which says that they were cut
// off; they cannot change anything from then on. Their goroutines may go on
// until the plugins end.
func (s *Journal) EndCalls(ctx context.Context) error {
	f := &s.calls
	f.mu.Lock()
	f.ended, f.left = true, make(chan struct{}, 1)
	f.mu.Unlock()
	for !f.none() && ctx.Err() == nil {
		select {
		case <-f.left:
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutOffTimeout)
	defer cancel()
	var errs []error
	for more := true; more && ctx.Err() == nil; {
		var records []*event.Record
		records, more = f.cutOff()
		for _, r := range records {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "call cut off", slog.String("operation", r.EventName), slog.String("request", r.RequestID))
			errs = append(errs, s.Trail.Append(ctx, r))
		}
		if more {
			select {
			case <-f.left:
			case <-ctx.Done():
			}
		}
	}
	return errors.Join(errs...)
}

func (f *inFlight) none() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first == nil
}

// cutOff cuts off the calls that are open and returns their records. more says
// that there are others whose records are being written.
func (f *inFlight) cutOff() (records []*event.Record, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := f.first; c != nil; c = c.next {
		switch c.phase {
		case open:
			c.phase = cut
			records = append(records, c.cutRecord())
		case writing:
			more = true
		case written, cut:
		}
	}
	return records, more
}

// cutRecord is the record of a call that was cut off. It reads nothing that the
// call may be writing.
func (c *Call) cutRecord() *event.Record {
	r := &c.Record
	message := "The daemon ended before the call did: nothing was changed."
	if c.Ahead != "" && c.Ahead == c.unknown {
		message = "The daemon ended before the call did, and before it was known whether its change is in the database."
	}
	return &event.Record{
		EventTime: r.EventTime, EventName: r.EventName, EventSource: r.EventSource, AWSRegion: r.AWSRegion, UserAgent: r.UserAgent,
		RequestID: r.RequestID, UserIdentity: r.UserIdentity, RecipientAccountID: r.RecipientAccountID, ManagementEvent: true,
		RequestParameters: r.RequestParameters, ReadOnly: r.ReadOnly, Resources: slices.Clone(r.Resources),
		AdditionalEventData: event.AdditionalEventData{Peer: r.AdditionalEventData.Peer, Details: c.unmade()},
		ErrorCode:           kmsapi.CodeKMSInternalException, ErrorMessage: message,
	}
}
