package kms

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"cmkd/daemon/audit"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
)

// event is something that the service does to a key.
type event struct {
	name string // eventName
	act  string // tells this time from others: what made it due
	// single: an attempt that comes after this one is another event.
	single bool
	region string
	arns   []string // of the keys concerned, the first being the one meant; of objects of no key: none
	eventDetails
}

// eventDetails are serviceEventDetails. Those that AWS has are called and
// ordered alike.
type eventDetails struct {
	RotationType          keys.Rotation `json:"rotationType,omitempty"`
	KeyOrigin             keys.Origin   `json:"keyOrigin,omitempty"`
	PreviousKeyMaterialID string        `json:"previousKeyMaterialId,omitempty"`
	CurrentKeyMaterialID  string        `json:"currentKeyMaterialId,omitempty"`
	KeyID                 string        `json:"keyId"`
	KeyMaterialID         string        `json:"keyMaterialId,omitempty"`
	// Interrupted is what did not end: "create" or "destroy" of the object
	// Label, which is destroyed now.
	Interrupted string `json:"interrupted,omitempty"`
	Label       string `json:"label,omitempty"`
}

// keyEvent makes an event of a key. due is when it was to happen, to which it
// happens once.
func (s *Journal) keyEvent(name string, key *store.Key, due time.Time) *event {
	return &event{
		name: name, act: due.UTC().Format(time.RFC3339Nano), region: key.Region,
		arns: []string{s.keyARN(key.Region, key.ID)}, eventDetails: eventDetails{KeyID: key.ID},
	}
}

// id is the eventID: the same whenever the act is tried (RFC 9562, version 5).
func (e *event) id() string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.Join(append(e.arns, e.name, e.act), " "))).String()
}

// acts are those that failed, and what the trail says of them, so that it does
// not say so again each minute. What is given up in between stays until the
// daemon ends.
type acts struct {
	mu   sync.Mutex
	said map[string]said // by eventID; guarded by mu
}

// said is what is on record of an act.
type said struct {
	done bool   // the record that it is done
	code string // the errorCode of the last failure
}

func (a *acts) get(id string) said {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.said[id]
}

func (a *acts) put(id string, what said) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.said == nil {
		a.said = map[string]said{}
	}
	a.said[id] = what
}

// forget is for acts that have happened.
func (a *acts) forget(e *event) {
	if e == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.said, e.id())
}

// announce puts the event on record, durably, unless an attempt before did. It
// is the last step of the transaction that makes it true; nil is no event. The
// record names the commit that it is ahead of, so that the next start takes it
// back if that never came.
func (s *Journal) announce(ctx context.Context, tx *store.Tx, e *event) error {
	if e == nil {
		return nil
	}
	id := e.id()
	was := s.acts.get(id)
	if was.done {
		return nil
	}
	record := s.serviceRecord(e.name)
	record.EventID = id
	if e.name != eventReconcile { // what that tells of has happened in the token
		record.AdditionalEventData.DatabaseSequence = tx.Sequence()
	}
	if err := s.appendEvent(ctx, e, record, s.trail.AppendBefore); err != nil {
		return err
	}
	if !e.single {
		was.done = true
		s.acts.put(id, was)
	}
	return nil
}

// failed puts on record that the event did not happen, once for each cause.
// The job that it belongs to is about to return the cause.
func (s *Journal) failed(ctx context.Context, e *event, cause error) error {
	if e == nil || ctx.Err() != nil {
		return nil //nolint:nilerr // the daemon ends, and nothing has been found out
	}
	c := &Call{}
	if len(e.arns) > 0 {
		c.arn = e.arns[0]
	}
	problem := s.apiError(c, cause)
	id := e.id()
	was := s.acts.get(id)
	if was.code == problem.Code {
		return nil
	}
	record := s.serviceRecord(e.name)
	record.ErrorCode, record.ErrorMessage = problem.Code, problem.Message
	if err := s.appendEvent(ctx, e, record, s.trail.AppendIn); err != nil {
		return err
	}
	was.code = problem.Code
	s.acts.put(id, was)
	return nil
}

func (s *Journal) appendEvent(ctx context.Context, e *event, record *audit.Record, write func(context.Context, *audit.Record, audit.Room) error) (err error) {
	record.AWSRegion = e.region
	for _, arn := range e.arns {
		record.Resources = append(record.Resources, audit.Resource{ARN: arn, AccountID: s.account})
	}
	if record.ServiceEventDetails, err = json.Marshal(&e.eventDetails); err != nil {
		return err
	}
	return write(context.WithoutCancel(ctx), record, audit.Room{})
}

// recordEvent puts something about the database on record.
func (s *Journal) recordEvent(ctx context.Context, name string, details any) error {
	text, err := json.Marshal(details, json.Deterministic(true))
	if err != nil {
		return err
	}
	record := s.serviceRecord(name)
	record.AdditionalEventData.Details = text
	return s.trail.Append(ctx, record)
}

// serviceRecord is a record of what nobody called for.
func (s *Journal) serviceRecord(name string) *audit.Record {
	return &audit.Record{
		EventTime: s.now(), EventName: name, EventType: "AwsServiceEvent", AWSRegion: s.region, ManagementEvent: true,
		UserIdentity:       audit.UserIdentity{Type: "AWSService", AccountID: s.account, InvokedBy: "cmkd"},
		RecipientAccountID: s.account,
	}
}
