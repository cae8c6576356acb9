package journal

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"

	"github.com/go-json-experiment/json"

	"cmkd/daemon/store"
)

// uncommitted is the serviceEventDetails of a change whose record was written
// and which then was not committed, because the daemon was killed between the
// two or the disk failed.
type uncommitted struct {
	EventID   string `json:"eventID"`
	EventName string `json:"eventName"`
	RequestID string `json:"requestID,omitempty"` // "" of what nobody called for
}

// RecordUncommitted records what the trail says was done and the database
// does not have: records with the sequence of a commit behind the head. The
// record of what was committed is durable before its head is made, so that only
// records behind the one that the head names can be such.
func (s *Journal) RecordUncommitted(ctx context.Context, head *store.Head) error {
	last := head.Sequence // of what is committed
	if head.Node != "" {
		if head.AuditSequence == 0 {
			return nil // the node has not committed anything yet
		}
		last = 0 // another node may have used the numbers behind
	}
	open := map[string]uncommitted{} // by eventID
	var order []string
	marks := [][]byte{[]byte(`"databaseSequence":`), []byte(`"notCommitted":`)}
	err := s.Trail.After(head.AuditSequence, func(line []byte) error {
		if !bytes.Contains(line, marks[0]) && !bytes.Contains(line, marks[1]) {
			return nil
		}
		var r struct {
			uncommitted
			AdditionalEventData struct {
				DatabaseSequence uint64 `json:"databaseSequence"`
				Details          struct {
					NotCommitted string `json:"notCommitted"`
				} `json:"details"`
			} `json:"additionalEventData"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return nil //nolint:nilerr // it is none of ours: verification finds it
		}
		delete(open, r.AdditionalEventData.Details.NotCommitted)
		if r.AdditionalEventData.DatabaseSequence > last {
			open[r.EventID] = r.uncommitted
			order = append(order, r.EventID)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the audit trail: %w", err)
	}
	for _, id := range order {
		u, ok := open[id]
		if !ok {
			continue
		}
		delete(open, id) // an act that is tried again has the same ID
		if err := s.recordNotCommitted(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// takeBack is for a change whose record is written and whose commit may fail in
// such a way that nobody knows what has become of it, see [store.Tx.OnSettle].
func (s *Journal) takeBack(u uncommitted) func(ctx context.Context, committed bool) error {
	return func(ctx context.Context, committed bool) error {
		if committed {
			return nil // as its record says
		}
		return s.recordNotCommitted(context.WithoutCancel(ctx), u)
	}
}

func (s *Journal) recordNotCommitted(ctx context.Context, u uncommitted) error {
	details, err := json.Marshal(&u)
	if err != nil {
		return err
	}
	r := s.serviceRecord(EventNotCommitted)
	r.ServiceEventDetails, r.AdditionalEventData.Details = details, notCommitted(u.EventID)
	if err := s.Trail.Append(ctx, r); err != nil {
		return fmt.Errorf("recording that a change did not happen: %w", err)
	}
	s.Log.LogAttrs(ctx, slog.LevelWarn, "a change was recorded and not committed: it did not happen",
		slog.String("operation", u.EventName), slog.String("event", u.EventID))
	return nil
}
