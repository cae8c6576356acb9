package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// agent is what the User-Agent of a call begins with; its number follows. Calls that
// change nothing have another one.
const agent = "crash/"

// trail is what the audit trail says of the calls and the events of one rig.
type trail struct {
	calls  map[string][]string            // eventIDs of records without error, by User-Agent
	failed map[string]int                 // number of records with an error, by User-Agent
	events map[string]map[string]struct{} // eventIDs of what the service did, by name and key (region/ID)
	names  map[string]string              // eventName, by eventID
	// rotated are the IDs of materials that became current.
	rotated map[string]bool
	back    map[string]int // how often an eventID was taken back
}

// readTrail reads the records in a folder.
func readTrail(dir string) (*trail, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	t := &trail{calls: map[string][]string{}, failed: map[string]int{}, events: map[string]map[string]struct{}{}, names: map[string]string{}, back: map[string]int{}, rotated: map[string]bool{}}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(raw) {
			if bytes.Contains(line, []byte(`"userAgent":"`+agent)) || bytes.Contains(line, []byte(`"AwsServiceEvent"`)) || bytes.Contains(line, []byte(`"notCommitted"`)) {
				if err := t.add(line); err != nil {
					return nil, fmt.Errorf("%s: %w", f, err)
				}
			}
		}
	}
	return t, nil
}

func (t *trail) add(line []byte) error {
	var r struct {
		EventID, EventName, EventType, UserAgent, ErrorCode, AWSRegion string
		ServiceEventDetails                                            struct{ KeyID, CurrentKeyMaterialID string }
		AdditionalEventData                                            struct{ Details struct{ NotCommitted string } }
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	if id := r.AdditionalEventData.Details.NotCommitted; id != "" {
		t.back[id]++
		for about, ids := range t.events {
			if delete(ids, id); len(ids) == 0 {
				delete(t.events, about)
			}
		}
	}
	switch {
	case strings.HasPrefix(r.UserAgent, agent) && r.ErrorCode == "":
		t.calls[r.UserAgent] = append(t.calls[r.UserAgent], r.EventID)
		t.names[r.EventID] = r.EventName
	case strings.HasPrefix(r.UserAgent, agent):
		t.failed[r.UserAgent]++
	case r.EventType == "AwsServiceEvent" && r.ErrorCode == "":
		about := r.EventName + " " + r.AWSRegion + "/" + r.ServiceEventDetails.KeyID
		if t.events[about] == nil {
			t.events[about] = map[string]struct{}{}
		}
		t.events[about][r.EventID] = struct{}{}
		if r.EventName == "RotateKey" {
			t.rotated[r.ServiceEventDetails.CurrentKeyMaterialID] = true
		}
	}
	return nil
}

// live are the records of a call that nothing took back.
func (t *trail) live(c *call) (n int, problems []string) {
	for _, id := range t.calls[fmt.Sprint(agent, c.id)] {
		if name := t.names[id]; name != c.operation {
			problems = append(problems, fmt.Sprintf("%v has a record of %s", c, name))
		}
		switch t.back[id] {
		case 0:
			n++
		case 1:
		default:
			problems = append(problems, fmt.Sprintf("%v: the record %s was taken back %d times", c, id, t.back[id]))
		}
	}
	return n, problems
}

// check compares the records of calls with what happened: answered calls have one
// record each, calls that were refused have that of their error, and of the pending
// ones those that happened have one and the others none, or one that was taken back.
// Calls of earlier lives have numbers up to before.
func (t *trail) check(calls []*call, before, at int, happened map[*call]bool) (problems []string) {
	known := map[string]bool{}
	for _, c := range calls {
		known[fmt.Sprint(agent, c.id)] = c.began <= at
		if c.event != "" || c.began > at {
			continue
		}
		n, p := t.live(c)
		problems = append(problems, p...)
		answered := c.ended <= at && c.ended != unanswered
		want := 0
		switch {
		case answered && c.failure == "":
			want = 1
		case answered && t.failed[fmt.Sprint(agent, c.id)] != 1:
			problems = append(problems, fmt.Sprintf("%v was answered with %s and has %d records of errors", c, c.failure, t.failed[fmt.Sprint(agent, c.id)]))
		case !answered && happened[c]:
			want = 1
		case !answered && len(c.change) == 0: // nothing shows whether it happened
			want = min(n, 1)
		}
		if n != want {
			problems = append(problems, fmt.Sprintf("%v has %d records, want %d (answered %t, failure %q, happened %t)", c, n, want, answered, c.failure, happened[c]))
		}
	}
	for a := range t.calls {
		if id, err := strconv.Atoi(strings.TrimPrefix(a, agent)); err == nil && id <= before {
			continue
		}
		if !known[a] {
			problems = append(problems, "a record of a call that nobody made: "+a)
		}
	}
	return problems
}

// checkEvents compares what the service did on its own with its records: each deletion
// of a key has one eventID, and each material that a rotation made has a RotateKey.
func (t *trail) checkEvents(deleted map[string]int, materials map[string]string) (problems []string) {
	for id, key := range materials {
		if !t.rotated[id] {
			problems = append(problems, fmt.Sprintf("no record of the rotation of %s to %s", key, id))
		}
	}
	for key, times := range deleted {
		if n := len(t.events["DeleteKey "+key]); n != times {
			problems = append(problems, fmt.Sprintf("%s was deleted %d times, with %d eventIDs", key, times, n))
		}
	}
	for about := range t.events {
		if key, ok := strings.CutPrefix(about, "DeleteKey "); ok && deleted[key] == 0 {
			problems = append(problems, "the trail says that "+key+" was deleted, and it is there")
		}
	}
	return problems
}
