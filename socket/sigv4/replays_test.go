package sigv4

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"
)

// showing is a request with its number for a signature.
func showing(key string, n uint32, at time.Time, unique bool) Identity {
	i := Identity{AccessKeyID: key, Date: at, Unique: unique}
	binary.BigEndian.PutUint32(i.Signature[:], n)
	return i
}

// steadyReplays are replays whose monotonic clock follows the wall clock that
// the checks give.
func steadyReplays() (*Replays, func(Identity, uint32, time.Time) error) {
	r := NewReplays()
	var arrival time.Duration
	r.elapsed = func() time.Duration { return arrival }
	return r, func(id Identity, user uint32, now time.Time) error {
		arrival = now.Sub(testTime) + time.Hour
		return r.Check(id, user, now)
	}
}

func refusalCode(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

func TestReplays(t *testing.T) {
	t.Parallel()
	id := func(n uint32, at time.Time, unique bool) Identity { return showing("a", n, at, unique) }
	_, check := steadyReplays()
	for _, step := range []struct {
		name   string
		id     Identity
		user   uint32
		now    time.Time
		refuse bool
	}{
		{"first", id(1, testTime, true), 5, testTime, false},
		{"again", id(1, testTime, true), 5, testTime, true},
		{"another call", id(2, testTime, true), 5, testTime, false},
		{"no nonce", id(3, testTime, false), 5, testTime, false},
		{"the same client, perhaps", id(3, testTime, false), 5, testTime, false},
		{"another user", id(3, testTime, false), 6, testTime, true},
		{"no client is that slow", id(3, testTime, false), 5, testTime.Add(maxLag + time.Second), true},
		{"at the end of its time", id(1, testTime, true), 5, testTime.Add(maxSkew), true},
		{"early", id(4, testTime.Add(maxSkew), true), 5, testTime, false},
		{"and late", id(4, testTime.Add(maxSkew), true), 5, testTime.Add(2 * maxSkew), true},
	} {
		if err := check(step.id, step.user, step.now); (err != nil) != step.refuse {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}

// TestReplaysForget: what has expired takes no memory, nor does an access key
// that is not used any more.
func TestReplaysForget(t *testing.T) {
	t.Parallel()
	r, check := steadyReplays()
	now := testTime
	for i := range uint32(3600) {
		now = now.Add(time.Second)
		if err := check(showing("a", i, now, true), 1, now); err != nil {
			t.Fatal(err)
		}
	}
	if k := r.keys["a"]; k.count > 610 || len(k.seconds) != k.count {
		t.Errorf("%d signatures of %d seconds are kept, want those of ten minutes", k.count, len(k.seconds))
	}
	now = now.Add(time.Hour)
	if err := check(showing("b", 1, now, true), 1, now); err != nil || len(r.keys) != 1 {
		t.Errorf("%v, %d access keys are kept", err, len(r.keys))
	}
}

// TestReplaysBudget: one access key that uses up its budget is throttled, by
// that name, and others do not notice. Nothing can be replayed meanwhile.
func TestReplaysBudget(t *testing.T) {
	t.Parallel()
	_, check := steadyReplays()
	for i := range uint32(Budget) {
		if err := check(showing("greedy", i, testTime.Add(maxSkew), true), 1, testTime); err != nil {
			t.Fatal(i, err)
		}
	}
	for _, step := range []struct {
		name string
		id   Identity
		now  time.Time
		want string
	}{
		{"one too many", showing("greedy", Budget, testTime, true), testTime, codeThrottling},
		{"a replay", showing("greedy", 7, testTime.Add(maxSkew), true), testTime, codeInvalid},
		{"another access key", showing("modest", Budget, testTime, true), testTime, ""},
		{"as long as they are good", showing("greedy", Budget, testTime.Add(2*maxSkew), true), testTime.Add(2 * maxSkew), codeThrottling},
		{"when they have expired", showing("greedy", Budget, testTime.Add(2*maxSkew), true), testTime.Add(2*maxSkew + 2*time.Second), ""},
	} {
		if got := refusalCode(check(step.id, 1, step.now)); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}

// TestReplaysAndClock: a clock that is a day ahead for a moment blocks nobody
// once it is right again, neither then nor a day later, and lets nothing be
// replayed.
func TestReplaysAndClock(t *testing.T) {
	t.Parallel()
	r := NewReplays()
	var arrival time.Duration
	r.elapsed = func() time.Duration { return arrival }
	const day = 24 * time.Hour
	for _, step := range []struct {
		name    string
		n       uint32
		wall    time.Duration // the date, and the clock, since testTime
		arrival time.Duration // the monotonic clock
		late    time.Duration // the clock after the date
		want    string
	}{
		{"before", 1, 0, time.Hour, 0, ""},
		{"while it is ahead", 2, day, time.Hour + 1*time.Second, 0, ""},
		{"right again", 3, 2 * time.Second, time.Hour + 2*time.Second, 0, ""},
		{"a replay from before", 1, 0, time.Hour + 3*time.Second, 3 * time.Second, codeInvalid},
		{"a day later", 4, day - time.Second, day + time.Hour - time.Second, 0, ""},
		{"a replay from while it was ahead", 2, day, day + time.Hour + time.Second, time.Second, codeInvalid},
		{"what that second may be", 5, day, day + time.Hour + time.Second, time.Second, codeInvalid},
		{"the next second", 6, day + time.Second, day + time.Hour + time.Second, 0, ""},
	} {
		arrival = step.arrival
		date := testTime.Add(step.wall)
		if got := refusalCode(r.Check(showing("a", step.n, date, true), 1, date.Add(step.late))); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}
