package sigv4

import (
	"encoding/binary"
	"testing"
	"time"
)

func TestReplays(t *testing.T) {
	t.Parallel()
	id := func(n uint32, at time.Time, unique bool) Identity {
		i := Identity{Date: at, Unique: unique}
		binary.BigEndian.PutUint32(i.Signature[:], n)
		return i
	}
	r := NewReplays()
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
		{"at the end of its time", id(1, testTime, true), 5, testTime.Add(maxSkew), true},
		{"early", id(4, testTime.Add(maxSkew), true), 5, testTime, false},
		{"and late", id(4, testTime.Add(maxSkew), true), 5, testTime.Add(2 * maxSkew), true},
		{"forgotten", id(1, testTime, true), 5, testTime.Add(2 * maxSkew), true},
	} {
		if err := r.Check(step.id, step.user, step.now); (err != nil) != step.refuse {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}

// TestReplaysWhenFull: what is forgotten for want of room is refused, never
// accepted again.
func TestReplaysWhenFull(t *testing.T) {
	t.Parallel()
	r := NewReplays()
	first := Identity{Date: testTime, Unique: true}
	if err := r.Check(first, 1, testTime); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(maxReplays + 10) {
		id := Identity{Date: testTime.Add(time.Second), Unique: true}
		binary.BigEndian.PutUint32(id.Signature[:], i+1)
		if err := r.Check(id, 1, testTime.Add(time.Second)); err != nil && i < maxReplays {
			t.Fatal(err)
		}
	}
	if err := r.Check(first, 1, testTime.Add(time.Second)); err == nil {
		t.Error("a replay was accepted after its signature had been forgotten")
	}
	if r.count > maxReplays {
		t.Errorf("%d signatures are kept", r.count)
	}
}
