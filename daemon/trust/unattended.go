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
		Additional  struct {
			DatabaseSequence uint64 `json:"databaseSequence"`
			Details          struct {
				NotCommitted string `json:"notCommitted"`
			} `json:"details"`
		} `json:"additionalEventData"`
	}
	if json.Unmarshal(line, &r) != nil || r.Additional.DatabaseSequence != 0 || r.Additional.Details.NotCommitted != "" {
		return false
	}
	switch {
	case r.EventType == journal.ServiceEvent && r.EventSource == journal.Source:
		return r.EventName == journal.EventStateMismatch || !first && r.EventName == journal.EventStateVerified
	case first || r.EventType != journal.APICall:
		return false
	case r.EventSource == journal.OperatorSource:
		return r.ErrorCode != "" || r.ReadOnly || r.EventName == reloadName
	case r.EventSource == journal.Source:
		action := keys.ActionOf(r.EventName)
		return r.ErrorCode != "" || action != nil && action.Inspects()
	default:
		return false
	}
}

// attend has the database name the end of the trail as it is at the start: what is recorded from then on is behind
// that end, and not behind one that the head calls the last. count is how many records are there already.
// accepted: what they tell of may have been undone when another daemon's operator accepted an older copy of the database.
func (s *Trust) attend(ctx context.Context, head *store.Head, count uint64, accepted bool) error {
	if !head.AuditLast && !accepted {
		return nil
	}
	if count > 0 && !s.integrity.attended {
		event, text := journal.EventStateVerified, "records follow the one that was the last of the audit trail when the daemon stopped: nothing vouches for them"
		if accepted {
			event, text = journal.EventAcceptedElsewhere, "the changes that the audit trail has last may have been undone: the database was accepted on another daemon"
		}
		first, last := head.AuditSequence+1, head.AuditSequence+count
		s.Log.LogAttrs(ctx, slog.LevelWarn, text, slog.Uint64("first", first), slog.Uint64("last", last))
		if err := s.RecordEvent(ctx, event, map[string]uint64{"first": first, "last": last}); err != nil {
			return err
		}
		s.integrity.attended = true
	}
	return s.writeHead(ctx)
}
