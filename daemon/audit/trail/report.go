package trail

import (
	"cmp"
	"context"
	"maps"
	"slices"
)

// Use is what one caller did with one key on one day.
type Use struct {
	Day       string `json:"day"` // of the calls, in UTC: 2006-01-02
	Key       string `json:"key"` // its ARN; "" for calls of no key, or of one that was not found
	Principal string `json:"principal"`
	// Used, Refused and Failed count calls by how they ended.
	Used    uint64 `json:"used"`
	Refused uint64 `json:"refused"`
	Failed  uint64 `json:"failed"`
	// Operations are how often each was called, however it ended.
	Operations map[string]uint64 `json:"operations"`
}

// about is what a [Use] is of.
type about struct{ day, key, principal string }

// Report counts the records that fit by day, key and caller, in this order. What it
// takes in memory depends on how many of these there are, not on the records. A record
// that is about several keys counts for each.
func Report(ctx context.Context, from Source, q Query) ([]*Use, error) {
	all := map[about]*Use{}
	dir, files := from.(Dir)
	if !files {
		m := newMatcher(q)
		err := from.Search(ctx, Options{Query: q}, func(e *Event) error {
			m.count(all, e)
			return nil
		})
		return sorted(all), err
	}
	err := scan(ctx, string(dir), Options{Query: q}, func(m *matcher, lines []byte) map[about]*Use {
		found := map[about]*Use{}
		m.each(lines, func(line []byte) {
			if e := m.line(line); e != nil {
				m.count(found, e)
			}
		})
		return found
	}, func(found map[about]*Use) error {
		for a, u := range found {
			if all[a] == nil {
				all[a] = u
			} else {
				all[a].add(u)
			}
		}
		return nil
	})
	return sorted(all), err
}

func sorted(all map[about]*Use) []*Use {
	uses := slices.Collect(maps.Values(all))
	slices.SortFunc(uses, func(a, b *Use) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Principal, b.Principal))
	})
	return uses
}

// count counts a record, of the keys that were asked for.
func (m *matcher) count(found map[about]*Use, e *Event) {
	arns := []string{""}
	if len(e.Resources) > 0 {
		arns = arns[:0]
		for _, r := range e.Resources {
			if len(m.keys) == 0 || m.keyFits(&Event{AWSRegion: e.AWSRegion, Resources: []Resource{r}}) {
				arns = append(arns, r.ARN)
			}
		}
	}
	for _, arn := range arns {
		a := about{e.EventTime.UTC().Format("2006-01-02"), arn, e.Identity.Principal()}
		u := found[a]
		if u == nil {
			u = &Use{Day: a.day, Key: a.key, Principal: a.principal, Operations: map[string]uint64{}}
			found[a] = u
		}
		u.Operations[e.EventName]++
		switch e.Outcome() {
		case OK:
			u.Used++
		case Refused:
			u.Refused++
		default:
			u.Failed++
		}
	}
}

// add adds what was counted elsewhere.
func (u *Use) add(other *Use) {
	u.Used += other.Used
	u.Refused += other.Refused
	u.Failed += other.Failed
	for op, n := range other.Operations {
		u.Operations[op] += n
	}
}
