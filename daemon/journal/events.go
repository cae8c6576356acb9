package journal

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
)

// Event is something that the service does to a key.
type Event struct {
	Name string // eventName
	Act  string // tells this time from others: what made it due
	// Single: an attempt that comes after this one is another event.
	Single bool
	Region string
	Arns   []string // of the keys concerned, the first being the one meant; of objects of no key: none
	EventDetails
}

// EventDetails are serviceEventDetails. Those that AWS has are called and
// ordered alike.
type EventDetails struct {
	RotationType          keys.Rotation `json:"rotationType,omitempty"`
	KeyOrigin             keys.Origin   `json:"keyOrigin,omitempty"`
	PreviousKeyMaterialID string        `json:"previousKeyMaterialId,omitempty"`
	CurrentKeyMaterialID  string        `json:"currentKeyMaterialId,omitempty"`
	KeyID                 string        `json:"keyId"`
	KeyMaterialID         string        `json:"keyMaterialId,omitempty"`
	// Interrupted is what did not end: "create" or "destroy" of the object
	// label, which is destroyed now.
	Interrupted string `json:"interrupted,omitempty"`
	Label       string `json:"label,omitempty"`
}

// KeyEvent makes an event of a key. due is when it was to happen, to which it
// happens once.
func (s *Journal) KeyEvent(name string, key *store.Key, due time.Time) *Event {
	return &Event{
		Name: name, Act: due.UTC().Format(time.RFC3339Nano), Region: key.Region,
		Arns: []string{s.KeyARN(key.Region, key.ID)}, EventDetails: EventDetails{KeyID: key.ID},
	}
}

// id is the eventID: the same whenever the act is tried (RFC 9562, version 5).
func (e *Event) id() string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.Join(append(e.Arns, e.Name, e.Act), " "))).String()
}

// acts are those that failed, and what the trail says of them, so that it does
// not say so again each minute. What is given up in between stays until the
// daemon ends.
type acts struct {
	mu   sync.Mutex
	said map[string]said // by eventID; guarded by mu
}

// said is what is recorded of an act.
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

// Forget is for acts that have happened.
func (a *acts) forget(e *Event) {
	if e == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.said, e.id())
}

// Forget is for events that have happened.
func (s *Journal) Forget(e *Event) { s.acts.forget(e) }

// Announce records the event, durably, unless an attempt before did. It
// is the last step of the transaction that makes it true; nil means no event. The
// record names the commit that it is ahead of, so that the next start takes it
// back if that never came.
func (s *Journal) Announce(ctx context.Context, tx *store.Tx, e *Event) error {
	if e == nil {
		return nil
	}
	id := e.id()
	was := s.acts.get(id)
	if was.done {
		return nil
	}
	record := s.serviceRecord(e.Name)
	record.EventID = id
	if e.Name != EventReconcile { // what that reports has happened in the token
		record.AdditionalEventData.DatabaseSequence = tx.Sequence()
	}
	if err := s.appendEvent(ctx, e, record, s.Trail.AppendBefore); err != nil {
		return err
	}
	if !e.Single {
		was.done = true
		s.acts.put(id, was)
	}
	return nil
}

// Failed records that the event did not happen, once for each cause.
// The job that it belongs to is about to return the cause.
func (s *Journal) Failed(ctx context.Context, e *Event, cause error) error {
	if e == nil || ctx.Err() != nil {
		return nil //nolint:nilerr // the daemon ends, and nothing has been found out
	}
	c := &Call{}
	if len(e.Arns) > 0 {
		c.ARN = e.Arns[0]
	}
	problem := s.APIError(c, cause)
	id := e.id()
	was := s.acts.get(id)
	if was.code == problem.Code {
		return nil
	}
	record := s.serviceRecord(e.Name)
	record.ErrorCode, record.ErrorMessage = problem.Code, problem.Message
	if err := s.appendEvent(ctx, e, record, s.Trail.AppendIn); err != nil {
		return err
	}
	was.code = problem.Code
	s.acts.put(id, was)
	return nil
}

func (s *Journal) appendEvent(ctx context.Context, e *Event, record *event.Record, write func(context.Context, *event.Record, audit.Room) error) (err error) {
	record.AWSRegion = e.Region
	for _, arn := range e.Arns {
		record.Resources = append(record.Resources, event.Resource{ARN: arn, AccountID: s.Account})
	}
	if record.ServiceEventDetails, err = json.Marshal(&e.EventDetails); err != nil {
		return err
	}
	return write(context.WithoutCancel(ctx), record, audit.Room{})
}

// RecordEvent records something about the database.
func (s *Journal) RecordEvent(ctx context.Context, name string, details any) error {
	text, err := json.Marshal(details, json.Deterministic(true))
	if err != nil {
		return err
	}
	record := s.serviceRecord(name)
	record.AdditionalEventData.Details = text
	return s.Trail.Append(ctx, record)
}

// serviceRecord is a record of what nobody called for.
func (s *Journal) serviceRecord(name string) *event.Record {
	r := s.record(name, event.UserIdentity{Type: "AWSService", InvokedBy: "cmkd"})
	r.EventType = ServiceEvent
	return &r
}

// What the service does on its own is recorded in CloudTrail's service events:
// https://docs.aws.amazon.com/kms/latest/developerguide/ct-rotatekey.html
// https://docs.aws.amazon.com/kms/latest/developerguide/ct-delete-key.html
// https://docs.aws.amazon.com/kms/latest/developerguide/ct-deleteexpiredkeymaterial.html
//
// The record is written within the transaction that commits the change, as its
// last step: a change that cannot be recorded is rolled back, and the head of
// the database names a record that has it. If the commit fails, or the daemon
// is killed between the two, the trail reports a change that did not happen.
// After a kill the next start says so ([Journal.RecordUncommitted]). It is tried
// again, then, and what is recorded again has the same eventID.
const (
	EventRotate       = "RotateKey"
	EventDelete       = "DeleteKey"
	EventExpire       = "DeleteExpiredKeyMaterial"
	EventExpireImport = "DeleteExpiredImportParameters"
	EventReconcile    = "ReconcileKeyMaterial"
	EventCreate       = "CreateKey"

	EventAdoptState    = "AdoptState"
	EventStateMismatch = "StateMismatch"
	EventStateVerified = "StateVerified"
	EventNotCommitted  = "ChangeNotCommitted"
	// EventAcceptedElsewhere: the records that it names may be of changes that were undone, as the operator of another
	// daemon has accepted the database, perhaps an older copy.
	EventAcceptedElsewhere = "StateAcceptedElsewhere"
)

// ServiceEvent is the eventType of what nobody called for.
const ServiceEvent = "AwsServiceEvent"

// APICall is the eventType of everything else.
const APICall = "AwsApiCall"
