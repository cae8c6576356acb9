package crash

import (
	"fmt"
	"maps"
	"slices"
)

// facts are what callers can see of a daemon, one value for each name, flat so that
// what is and what should be are compared with nothing left out: "key/c1-7/us-east-1/state"
// is "Enabled".
type facts map[string]string

// change is what a call does to the facts, all of it or nothing. gone takes a fact
// away.
type change map[string]string

const gone = "\x00gone"

func (c change) apply(to facts) {
	for name, value := range c {
		if value == gone {
			delete(to, name)
		} else {
			to[name] = value
		}
	}
}

// shows reports whether the facts are as after the change.
func (c change) shows(in facts) bool {
	for name, value := range c {
		got, ok := in[name]
		if value == gone && ok || value != gone && (!ok || got != value) {
			return false
		}
	}
	return true
}

// call is something that was asked of the daemon, and may change facts.
type call struct {
	// id is in the User-Agent of the call, and so in its record.
	id        int
	operation string
	change    change
	// event is the key (region/ID) that the service does it to on its own, because time
	// has passed; "" is a call of the API.
	event string
	// began and ended are positions of the disk's log, see disk.Log; without a disk
	// only whether ended is unanswered matters.
	began, ended int
	failure      string // the code of the error that answered it
}

// unanswered is the ended of calls that were not answered, for all that comes.
const unanswered = int(^uint(0) >> 1)

func (c *call) String() string { return fmt.Sprintf("call %d, %s", c.id, c.operation) }

// fold returns the facts after all calls that were answered by the time, and the calls
// that were under way then.
func fold(base facts, calls []*call, at int) (facts, []*call) {
	now := maps.Clone(base)
	var pending []*call
	for _, c := range slices.SortedStableFunc(slices.Values(calls), func(a, b *call) int { return a.ended - b.ended }) {
		switch {
		case c.began > at:
		case c.ended > at || c.ended == unanswered:
			pending = append(pending, c)
		case c.failure == "":
			c.change.apply(now)
		}
	}
	return now, pending
}

// settle finds out which of the pending calls happened, and what else differs between
// the facts that were acknowledged and those that are seen.
func settle(acknowledged facts, pending []*call, seen facts) (happened map[*call]bool, problems []string) {
	want, happened := maps.Clone(acknowledged), map[*call]bool{}
	for _, c := range pending {
		if len(c.change) > 0 && c.change.shows(seen) {
			c.change.apply(want)
			happened[c] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got, ok := seen[name]; !ok {
			problems = append(problems, fmt.Sprintf("%s should be %q and is not there", name, want[name]))
		} else if got != want[name] {
			problems = append(problems, fmt.Sprintf("%s should be %q and is %q", name, want[name], got))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		if _, ok := want[name]; !ok {
			problems = append(problems, fmt.Sprintf("%s is %q and should not be there", name, seen[name]))
		}
	}
	return happened, problems
}
