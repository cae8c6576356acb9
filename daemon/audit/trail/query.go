package trail

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit"
)

// Query says which records are wanted: those that all of it fits. The zero Query
// wants all but checkpoints.
type Query struct {
	// Keys are alternatives; none: any key, and records without one.
	Keys []Key
	// Principal is an ARN, its part behind the account (user/NAME), a user name or a
	// principal ID; * stands for any text. "": anybody.
	Principal string
	// Operations are alternative eventNames, in any case.
	Operations []string
	// Outcome is [OK], [Refused], [Failed] or an error code, whose "Exception" may be left out. "": any.
	Outcome string
	// Since and Until bound eventTime: at or after, and before. Zero: no bound.
	Since, Until time.Time
	// Text must occur in the record, as it is in the JSON.
	Text string
	// Region of the record. "": any.
	Region string
	// ID is an eventID or a requestID.
	ID string
	// Sequence of the record; 0: any.
	Sequence uint64
	// Checkpoints are wanted too. Naming them in Operations has the same effect.
	Checkpoints bool
}

// Key is a key by its ID, in one Region or, with Region "", in any.
type Key struct{ Region, ID string }

// matcher is a query made ready for lines.
type matcher struct {
	query      Query
	needles    [][]byte // all of them are in a line that fits; the rarest comes first
	since      string
	until      string
	principal  *regexp.Regexp
	operations []string // lower case
	keys       []keyText
}

// keyText is how requests name a key.
type keyText struct {
	Key
	plain, inARN []byte
}

// literal is text as it is within a JSON string of the trail.
func literal(text string) []byte {
	quoted, _ := jsontext.AppendQuote(nil, strings.ToValidUTF8(text, "\uFFFD"))
	return quoted[1 : len(quoted)-1]
}

func newMatcher(q Query) *matcher {
	m := &matcher{query: q}
	need := func(before, text, after string) {
		if text != "" {
			m.needles = append(m.needles, slices.Concat([]byte(before), literal(text), []byte(after)))
		}
	}
	if q.Sequence != 0 {
		m.needles = append(m.needles, []byte(`,"sequence":`+strconv.FormatUint(q.Sequence, 10)+`,`))
	}
	need(`ID":"`, q.ID, `"`)
	if q.Text != "" {
		m.needles = append(m.needles, []byte(q.Text))
	}
	if len(q.Keys) == 1 {
		need("", q.Keys[0].ID, "")
	}
	for _, k := range q.Keys {
		m.keys = append(m.keys, keyText{
			Key: k, plain: slices.Concat([]byte(`"`), literal(k.ID), []byte(`"`)), inARN: slices.Concat([]byte(`:key/`), literal(k.ID), []byte(`"`)),
		})
	}
	if q.Principal != "" && strings.Contains(q.Principal, "*") {
		parts := strings.Split(q.Principal, "*")
		for i, p := range parts {
			parts[i] = regexp.QuoteMeta(p)
		}
		m.principal = regexp.MustCompile("^(?s:" + strings.Join(parts, ".*") + ")$")
	} else {
		need("", q.Principal, `"`)
	}
	switch q.Outcome {
	case "", OK:
	case Refused, Failed:
		m.needles = append(m.needles, []byte(`"errorCode":"`))
	default:
		need(`"errorCode":"`, q.Outcome, "")
	}
	for _, op := range q.Operations {
		m.operations = append(m.operations, strings.ToLower(op))
	}
	m.since, m.until = timeText(q.Since), timeText(q.Until)
	if common := commonPrefix(m.since, m.until); common != "" {
		m.needles = append(m.needles, []byte(`"eventTime":"`+common))
	}
	return m
}

func timeText(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(audit.TimeFormat)
}

// commonPrefix is what all times begin with from since to before until.
func commonPrefix(since, until string) string {
	n := 0
	for n < len(since) && n < len(until) && since[n] == until[n] {
		n++
	}
	return since[:n]
}

// whole is line for a line in which the first needle has not been found yet.
func (m *matcher) whole(line []byte) *Event {
	if len(m.needles) > 0 && !bytes.Contains(line, m.needles[0]) {
		return nil
	}
	return m.line(line)
}

// line returns the event of a line that fits and has the first needle, else nil.
func (m *matcher) line(line []byte) *Event {
	for _, needle := range m.needles[min(1, len(m.needles)):] {
		if !bytes.Contains(line, needle) {
			return nil
		}
	}
	if m.since == "" && m.until == "" {
		// any time
	} else if at := audit.LineTime(line); at < m.since || m.until != "" && at >= m.until {
		return nil
	}
	if !m.named(line) {
		return nil
	}
	if e := parse(line); m.event(e) {
		return e
	}
	return nil
}

// named looks at the eventName, which stands before anything of a caller's in which
// a quote is not escaped.
func (m *matcher) named(line []byte) bool {
	_, rest, ok := bytes.Cut(line, []byte(`"eventName":"`))
	name, _, closed := bytes.Cut(rest, []byte(`"`))
	if !ok || !closed {
		return len(m.operations) == 0
	}
	if len(m.operations) > 0 {
		return slices.Contains(m.operations, strings.ToLower(string(name)))
	}
	return m.query.Checkpoints || m.query.ID != "" || m.query.Sequence != 0 || string(name) != checkpointName
}

// event looks at what needs the whole record.
func (m *matcher) event(e *Event) bool {
	q := &m.query
	switch {
	case q.Region != "" && e.AWSRegion != q.Region,
		q.Sequence != 0 && e.Sequence != q.Sequence,
		q.ID != "" && !e.named(q.ID),
		q.Text != "" && !bytes.Contains(audit.LineBody(e.Line), []byte(q.Text)),
		q.Principal != "" && !m.principalFits(&e.Identity),
		len(m.keys) > 0 && !m.keyFits(e):
		return false
	}
	return q.Outcome == "" || q.Outcome == e.Outcome() || q.Outcome == e.ErrorCode || q.Outcome+"Exception" == e.ErrorCode
}

// named reports whether the ID is the record's or its request's.
func (e *Event) named(id string) bool {
	d := e.Details()
	return d.EventID == id || d.RequestID == id
}

func (m *matcher) principalFits(i *Identity) bool {
	names := []string{i.ARN, i.UserName, i.PrincipalID, i.InvokedBy}
	if parts := strings.SplitN(i.ARN, ":", 6); len(parts) == 6 {
		names = append(names, parts[5])
	}
	return slices.ContainsFunc(names, func(name string) bool {
		if m.principal != nil {
			return name != "" && m.principal.MatchString(name)
		}
		return name == m.query.Principal
	})
}

// keyFits reports whether the record is about one of the keys: its resources have
// it, or its request names it, as one does that failed before the key was found.
func (m *matcher) keyFits(e *Event) bool {
	for i := range m.keys {
		k := &m.keys[i]
		for _, r := range e.Resources {
			arn, id, ok := strings.Cut(r.ARN, ":key/")
			if ok && id == k.ID && (k.Region == "" || strings.Contains(arn+":", ":"+k.Region+":")) {
				return true
			}
		}
	}
	if e.EventName == readName { // what was looked for in the trail
		return false
	}
	for i := range m.keys {
		k := &m.keys[i]
		if k.Region != "" && e.AWSRegion != k.Region || !bytes.Contains(e.Line, k.plain) && !bytes.Contains(e.Line, k.inARN) {
			continue
		}
		if p := e.Details().Parameters; bytes.Contains(p, k.plain) || bytes.Contains(p, k.inARN) {
			return true
		}
	}
	return false
}
