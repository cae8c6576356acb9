package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// What a call changes and the record of it are one decision. Room in the trail
// is taken before the call begins ([Journal.Open]). A call that changes nothing
// is recorded before its answer leaves; one that changes something, before the
// change is committed ([Journal.Commit]): a change without a record cannot be,
// whatever fails or is killed. If the commit fails then, a second record says
// so, or the next start does ([Journal.RecordUncommitted]). If nobody knows yet
// whether it has failed, the second record says that, and a third one is written
// if it turns out that it has ([Journal.takeBack]).

// recording is what is known of a call's record.
type recording struct {
	Record event.Record
	room   audit.Room
	// Ahead is the eventID of the record that was written ahead of a change,
	// "" unless the change is not committed.
	Ahead string
	// plain: that change is made by no commit.
	plain bool
	// unknown is the last one ahead of a change that may be committed all the same.
	// The end of the daemon reads both, of calls that are open.
	unknown string
	// recorded: every change of the call is committed and recorded.
	recorded bool
	// excess: a refusal that is only counted.
	excess bool

	previous, next *Call // in inFlight; guarded by its mu
	phase          phase // guarded by inFlight.mu
}

// record begins every record of the daemon: name is its eventName.
func (s *Journal) record(name string, by event.UserIdentity) event.Record {
	by.AccountID = s.Account
	return event.Record{
		EventTime: s.Now(), EventName: name, AWSRegion: s.Region, UserIdentity: by, RecipientAccountID: s.Account, ManagementEvent: true,
	}
}

// openRecord fills in what is known of every call.
func (s *Journal) openRecord(c *Call, r *kmsapi.Request) {
	p := &c.Caller.Principal
	by := event.UserIdentity{Type: "IAMUser", ARN: p.DisplayARN(), UserName: p.UserName, AccessKeyID: c.Caller.AccessKeyID, PrincipalID: c.Caller.ID}
	if by.PrincipalID == "" {
		by.PrincipalID = p.UserID()
	}
	switch p.Type {
	case policy.Root:
		by.Type = "Root"
	case policy.Role:
		by.Type = "AssumedRole"
	default:
	}
	c.Record = s.record(r.Operation, by)
	c.Record.AWSRegion, c.Record.UserAgent, c.Record.RequestID = c.Region, r.UserAgent, r.RequestID
	c.memory.peer = event.Peer{UID: c.Caller.UID, GID: c.Caller.GID, PID: c.Caller.PID}
	c.Record.AdditionalEventData.Peer = &c.memory.peer
	c.Record.Resources = c.memory.resources[:0]
}

// Open takes room for the records of a call. If there is none, the call must
// not do anything: it is refused without a record, and counted.
func (s *Journal) Open(c *Call) error {
	room, err := s.Trail.Reserve(c.Caller.Admin)
	if err == nil {
		if err = s.calls.enter(c); err == nil {
			c.room = room
			return nil
		}
		s.Trail.Release(room)
	}
	if !errors.Is(err, audit.ErrBroken) { // the daemon has logged that, once
		s.refusals.count(&c.Caller)
	}
	return err
}

// Close gives the room back.
func (s *Journal) Close(c *Call) {
	s.calls.leave(c)
	s.Trail.Release(c.room)
}

// Commit is a transaction of the call. It fails with errOutdated if the keys that
// the call decided on have changed since. What f writes is recorded before it is
// committed; without a record it is not. What the record is to say of it, f has
// said when it returns. c is nil where nobody called.
func (s *Journal) Commit(ctx context.Context, c *Call, f func(tx *store.Tx) error) error {
	if c == nil {
		return s.Store.Update(ctx, f)
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		if c.Outdated(tx) {
			return ErrOutdated
		}
		if err := errors.Join(f(tx), tx.Err()); err != nil {
			return err
		}
		if err := s.RecordAhead(ctx, c, tx.Sequence()); err != nil {
			return err
		}
		tx.OnSettle(s.takeBack(uncommitted{c.Record.EventID, c.Record.EventName, c.Record.RequestID}))
		return nil
	})
	s.calls.concluded(c, err)
	return err
}

// RecordAhead writes the record of a change that comes next.
func (s *Journal) RecordAhead(ctx context.Context, c *Call, sequence uint64) error {
	if err := s.calls.settle(c); err != nil {
		return err
	}
	if c.Record.ResponseElements == nil && c.ARN != "" && !c.Record.ReadOnly {
		c.Respond(KeyElements{KeyID: c.ARN})
	}
	c.Record.EventID = kmsapi.NewID()
	c.Record.AdditionalEventData.DatabaseSequence = sequence
	if err := s.Trail.AppendBefore(context.WithoutCancel(ctx), &c.Record, c.room); err != nil {
		s.Log.LogAttrs(ctx, slog.LevelError, "a change cannot be recorded and is not made", slog.String("operation", c.Record.EventName),
			slog.String("request", c.Record.RequestID), slog.String("key", c.ARN), slog.Any("error", err))
		return fmt.Errorf("recording the change: %w", err)
	}
	c.Ahead, c.plain = c.Record.EventID, sequence == 0
	return nil
}

// KeyElements are CloudTrail's responseElements of operations that answer
// nothing but change a key, and of some that answer more.
// https://docs.aws.amazon.com/kms/latest/developerguide/understanding-kms-entries.html
type KeyElements struct {
	KeyID         string     `json:"keyId,omitempty"` // its ARN
	GrantID       string     `json:"grantId,omitempty"`
	KeyMaterialID string     `json:"keyMaterialId,omitempty"`
	KeyState      keys.State `json:"keyState,omitempty"`
	DeletionDate  string     `json:"deletionDate,omitempty"` // RFC 3339
	Window        int        `json:"pendingWindowInDays,omitzero"`
	StoreID       string     `json:"customKeyStoreId,omitempty"`
	Metadata      element    `json:"keyMetadata,omitempty"`
	Replica       element    `json:"replicaKeyMetadata,omitempty"`
	ReplicaPolicy string     `json:"replicaPolicy,omitempty"`
}

type element = jsontext.Value

// Respond notes the responseElements of the record.
func (c *Call) Respond(elements KeyElements) {
	c.Record.ResponseElements, _ = json.Marshal(&elements) // made of JSON
}

// MetadataElement is KeyMetadata as CloudTrail names its members: keyId,
// aWSAccountId.
func MetadataElement(m *kmsapi.KeyMetadata) element {
	dec := jsontext.NewDecoder(bytes.NewReader(m.AppendJSON(nil)))
	var out bytes.Buffer
	enc := jsontext.NewEncoder(&out)
	for {
		token, err := dec.ReadToken()
		if err != nil {
			return out.Bytes()
		}
		if kind, n := dec.StackIndex(dec.StackDepth()); kind == '{' && n%2 == 1 && token.Kind() == '"' { // a name
			name := token.String()
			token = jsontext.String(strings.ToLower(name[:1]) + name[1:])
		}
		if err := enc.WriteToken(token); err != nil {
			return nil
		}
	}
}

// RecordError records the call with the error that answers it. A stranger's
// words are kept short, and of a stranger's refusals there are only so many
// records; see [refusals].
func (s *Journal) RecordError(ctx context.Context, c *Call, e *kmsapi.Error) bool {
	if c.stranger() {
		c.Record.Terse = true
		if c.excess = !s.refusals.take(&c.Caller); c.excess {
			return true
		}
	}
	return s.writeError(ctx, c, e)
}

func (s *Journal) writeError(ctx context.Context, c *Call, e *kmsapi.Error) bool {
	c.Record.ErrorCode = e.Code
	if e.Code == kmsapi.CodeAccessDeniedException {
		c.Record.ErrorCode = "AccessDenied" // as CloudTrail writes it
	}
	c.Record.ErrorMessage = e.Message
	return s.RecordCall(ctx, c)
}

// stranger reports whether nothing has said that the caller may do anything.
func (c *Call) stranger() bool {
	return !c.Caller.Admin && c.Record.AdditionalEventData.Decision != "Allow"
}

// RecordCall records the call, also if the caller has gone, unless it has a
// record already. If it returns false, whatever the call did, its answer
// must not leave.
func (s *Journal) RecordCall(ctx context.Context, c *Call) bool {
	if c.Record.ErrorCode == "" && c.recorded {
		return true
	}
	if s.calls.settle(c) != nil {
		return false
	}
	defer s.calls.settled(c, true)
	if c.Ahead != "" || c.recorded {
		c.Record.EventID, c.Record.AdditionalEventData.DatabaseSequence = "", 0
	}
	if c.Record.ErrorCode != "" {
		c.Record.ResponseElements = nil
		if details := c.unmade(); details != nil {
			c.Record.AdditionalEventData.Details = details
		}
	}
	write := s.Trail.AppendIn
	if c.Record.ErrorCode == "" && !c.Record.ReadOnly { // nothing has changed: without its answer, nothing has happened
		write = s.Trail.AppendBefore
	}
	err := write(context.WithoutCancel(ctx), &c.Record, c.room)
	if err != nil {
		s.Log.LogAttrs(ctx, slog.LevelError, "a call cannot be recorded, its answer is withheld", slog.String("operation", c.Record.EventName),
			slog.String("request", c.Record.RequestID), slog.String("key", c.ARN), slog.Any("error", err))
	}
	return err == nil
}

// unmade refers to the record of a change that was not committed, or of which nobody
// knows whether it was; nil if there is none.
func (r *recording) unmade() jsontext.Value {
	switch {
	case r.Ahead == "":
		return nil
	case r.Ahead == r.unknown:
		return jsontext.Value(`{"outcomeUnknown":"` + r.Ahead + `"}`)
	case r.plain:
		return jsontext.Value(`{"notDone":"` + r.Ahead + `"}`)
	default:
		return notCommitted(r.Ahead)
	}
}

// notCommitted refers to the record of a change that did not happen.
func notCommitted(eventID string) jsontext.Value {
	return jsontext.Value(`{"notCommitted":"` + eventID + `"}`)
}

// NoTrail is the answer when the record of a call cannot be written.
func NoTrail() *kmsapi.Answer {
	return kmsapi.AnswerError(kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The audit trail cannot be written."))
}

// RecordRefusal records a call, or counts it, that was refused with e
// before it came here. It reports whether that is done, so that the call may be
// answered. Even administrators get only so many records of such calls.
func (s *Journal) RecordRefusal(ctx context.Context, caller *Caller, r *kmsapi.Request, e *kmsapi.Error) bool {
	if !s.refusals.take(caller) {
		return s.Trail.Err() == nil
	}
	c := s.NewCall(caller, r)
	if err := s.Open(c); err != nil {
		return false
	}
	defer s.Close(c)
	c.Record.Terse = true
	return s.writeError(ctx, c, e)
}
