package kms

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
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// What a call changes and the record of it are one decision. Room in the trail
// is taken before the call begins ([Service.begin]). A call that changes nothing
// is recorded before its answer leaves; one that changes something, before the
// change is committed ([Service.commit]): a change without a record cannot be,
// whatever fails or is killed. If the commit fails then, a second record says
// so, or the next start does ([Service.recordUncommitted]). If nobody knows yet
// whether it has failed, the second record says that, and a third one is written
// if it turns out that it has ([Service.takeBack]).

// recording is what is known of a call's record.
type recording struct {
	record audit.Record
	room   audit.Room
	// ahead is the eventID of the record that was written ahead of a change,
	// "" unless the change is not committed.
	ahead string
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

// openRecord fills in what is known of every call.
func (s *Journal) openRecord(c *Call, r *kmsapi.Request) {
	c.record = audit.Record{
		EventTime: s.now(),
		EventName: r.Operation,
		AWSRegion: c.region,
		UserAgent: r.UserAgent,
		RequestID: r.RequestID,
		UserIdentity: audit.UserIdentity{
			Type: "IAMUser", ARN: c.caller.Principal.DisplayARN(), AccountID: s.account, UserName: c.caller.Principal.UserName,
			AccessKeyID: c.caller.AccessKeyID, PrincipalID: c.caller.ID,
		},
		RecipientAccountID: s.account,
		AdditionalEventData: audit.AdditionalEventData{
			Peer: &c.memory.peer,
		},
		ManagementEvent: true,
		Resources:       c.memory.resources[:0],
	}
	if c.caller.ID == "" {
		c.record.UserIdentity.PrincipalID = c.caller.Principal.UserID()
	}
	c.memory.peer = audit.Peer{UID: c.caller.UID, GID: c.caller.GID, PID: c.caller.PID}
	switch c.caller.Principal.Type {
	case policy.Root:
		c.record.UserIdentity.Type = "Root"
	case policy.Role:
		c.record.UserIdentity.Type = "AssumedRole"
	default:
	}
}

// begin takes room for the records of a call. If there is none, the call must
// not do anything: it is refused without a record, and counted.
func (s *Journal) begin(c *Call) error {
	room, err := s.trail.Reserve(c.caller.Admin)
	if err == nil {
		if err = s.calls.enter(c); err == nil {
			c.room = room
			return nil
		}
		s.trail.Release(room)
	}
	if !errors.Is(err, audit.ErrBroken) { // the daemon has logged that, once
		s.refusals.count(&c.caller)
	}
	return err
}

// end gives the room back.
func (s *Journal) end(c *Call) {
	s.calls.leave(c)
	s.trail.Release(c.room)
}

// commit is a transaction of the call. It fails with errOutdated if the keys that
// the call decided on have changed since. What f writes is recorded before it is
// committed; without a record it is not. What the record is to say of it, f has
// said when it returns. c is nil where nobody called.
func (s *Journal) commit(ctx context.Context, c *Call, f func(tx *store.Tx) error) error {
	if c == nil {
		return s.store.Update(ctx, f)
	}
	err := s.store.Update(ctx, func(tx *store.Tx) error {
		if c.outdated(tx) {
			return errOutdated
		}
		if err := errors.Join(f(tx), tx.Err()); err != nil {
			return err
		}
		if err := s.recordAhead(ctx, c, tx.Sequence()); err != nil {
			return err
		}
		tx.OnSettle(s.takeBack(uncommitted{c.record.EventID, c.record.EventName, c.record.RequestID}))
		return nil
	})
	s.calls.concluded(c, err)
	return err
}

// recordAhead writes the record of a change that comes next.
func (s *Journal) recordAhead(ctx context.Context, c *Call, sequence uint64) error {
	if err := s.calls.settle(c); err != nil {
		return err
	}
	if c.record.ResponseElements == nil && c.arn != "" && !c.record.ReadOnly {
		c.respond(keyElements{KeyID: c.arn})
	}
	c.record.EventID = kmsapi.NewID()
	c.record.AdditionalEventData.DatabaseSequence = sequence
	if err := s.trail.AppendBefore(context.WithoutCancel(ctx), &c.record, c.room); err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "a change cannot be recorded and is not made", slog.String("operation", c.record.EventName),
			slog.String("request", c.record.RequestID), slog.String("key", c.arn), slog.Any("error", err))
		return fmt.Errorf("recording the change: %w", err)
	}
	c.ahead = c.record.EventID
	return nil
}

// keyElements are CloudTrail's responseElements of operations that answer
// nothing but change a key, and of some that answer more.
// https://docs.aws.amazon.com/kms/latest/developerguide/understanding-kms-entries.html
type keyElements struct {
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

// respond notes the responseElements of the record.
func (c *Call) respond(elements keyElements) {
	c.record.ResponseElements, _ = json.Marshal(&elements) // made of JSON
}

// metadataElement is KeyMetadata as CloudTrail names its members: keyId,
// aWSAccountId.
func metadataElement(m *kmsapi.KeyMetadata) element {
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

// recordError records the call with the error that answers it. A stranger's
// words are kept short, and of a stranger's refusals there are only so many
// records; see [refusals].
func (s *Journal) recordError(ctx context.Context, c *Call, e *kmsapi.Error) bool {
	if c.stranger() {
		c.record.Terse = true
		if c.excess = !s.refusals.take(&c.caller); c.excess {
			return true
		}
	}
	return s.writeError(ctx, c, e)
}

func (s *Journal) writeError(ctx context.Context, c *Call, e *kmsapi.Error) bool {
	c.record.ErrorCode = e.Code
	if e.Code == kmsapi.CodeAccessDeniedException {
		c.record.ErrorCode = "AccessDenied" // as CloudTrail writes it
	}
	c.record.ErrorMessage = e.Message
	return s.recordCall(ctx, c)
}

// stranger reports whether nothing has said that the caller may do anything.
func (c *Call) stranger() bool {
	return !c.caller.Admin && c.record.AdditionalEventData.Decision != "Allow"
}

// recordCall records the call, also if the caller has gone, unless it has a
// record already. If it returns false, whatever the call did, its answer
// must not leave.
func (s *Journal) recordCall(ctx context.Context, c *Call) bool {
	if c.record.ErrorCode == "" && c.recorded {
		return true
	}
	if s.calls.settle(c) != nil {
		return false
	}
	defer s.calls.settled(c, true)
	if c.ahead != "" || c.recorded {
		c.record.EventID, c.record.AdditionalEventData.DatabaseSequence = "", 0
	}
	if c.record.ErrorCode != "" {
		c.record.ResponseElements = nil
		if details := c.unmade(); details != nil {
			c.record.AdditionalEventData.Details = details
		}
	}
	write := s.trail.AppendIn
	if c.record.ErrorCode == "" && !c.record.ReadOnly { // nothing has changed: without its answer, nothing has happened
		write = s.trail.AppendBefore
	}
	err := write(context.WithoutCancel(ctx), &c.record, c.room)
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "a call cannot be recorded, its answer is withheld", slog.String("operation", c.record.EventName),
			slog.String("request", c.record.RequestID), slog.String("key", c.arn), slog.Any("error", err))
	}
	return err == nil
}

// unmade refers to the record of a change that was not committed, or of which nobody
// knows whether it was; nil if there is none.
func (r *recording) unmade() jsontext.Value {
	switch r.ahead {
	case "":
		return nil
	case r.unknown:
		return jsontext.Value(`{"outcomeUnknown":"` + r.ahead + `"}`)
	default:
		return notCommitted(r.ahead)
	}
}

// notCommitted refers to the record of a change that did not happen.
func notCommitted(eventID string) jsontext.Value {
	return jsontext.Value(`{"notCommitted":"` + eventID + `"}`)
}

// noTrail is the answer when the record of a call cannot be written.
func noTrail() *kmsapi.Answer {
	return kmsapi.AnswerError(kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The audit trail cannot be written."))
}
