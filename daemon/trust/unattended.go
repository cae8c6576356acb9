package trust

import (
	"context"
	"log/slog"

	"github.com/go-json-experiment/json"

	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
)

// A daemon whose database does not verify records that, and what it refuses, behind the record
// that the head says is the last. Once the database is what it was, or the right token
// is back, the trail goes on behind those records. They are not signed, so anyone who can write the file may
// have written them: only what such a daemon writes is let through, and a record says that nothing
// vouches for them.

// reloadName is the eventName of an operator's reload.
const reloadName = "ReloadConfiguration"

// unattended reports whether a line is a record that a daemon writes whose database does not
// verify. The first one says so. No key is used and none changes.
func unattended(line []byte, first bool) bool {
	var r struct {
		EventType   string `json:"eventType"`
		EventSource string `json:"eventSource"`
		EventName   string `json:"eventName"`
		ErrorCode   string `json:"errorCode"`
		ReadOnly    bool   `json:"readOnly"`
	}
	if json.Unmarshal(line, &r) != nil {
		return false
	}
	service := r.EventType == journal.ServiceEvent
	switch {
	case service && (first || r.EventName == journal.EventStateMismatch):
		return r.EventSource == journal.Source && r.EventName == journal.EventStateMismatch
	case first:
		return false
	case service:
		return r.EventSource == journal.Source && (r.EventName == journal.EventStateVerified || r.EventName == journal.EventNotCommitted)
	case r.EventSource == journal.OperatorSource: // what an operator has accepted, the head has
		return r.ErrorCode != "" || r.ReadOnly || r.EventName == reloadName
	default:
		action := keys.ActionOf(r.EventName)
		return r.ErrorCode != "" || action != nil && action.Inspects()
	}
}

// attend has the database name the end of the trail as it is at the start: what is recorded from then on is behind
// that end, and not behind one that the head calls the last. count is how many records are there already.
// accepted: what they tell of may have been undone when another daemon's operator accepted an older copy of the database.
func (s *Trust) attend(ctx context.Context, head *store.Head, count uint64, accepted bool) error {
	if !head.AuditLast && !accepted {
		return nil
	}
	if count > 0 {
		event, text := journal.EventStateVerified, "records of the audit trail are from a time in which the database did not verify: nothing vouches for them"
		if accepted {
			event, text = journal.EventAcceptedElsewhere, "the changes that the audit trail has last may have been undone: the database was accepted on another daemon"
		}
		first, last := head.AuditSequence+1, head.AuditSequence+count
		s.Log.LogAttrs(ctx, slog.LevelWarn, text, slog.Uint64("first", first), slog.Uint64("last", last))
		if err := s.RecordEvent(ctx, event, map[string]uint64{"first": first, "last": last}); err != nil {
			return err
		}
	}
	return s.writeHead(ctx)
}
