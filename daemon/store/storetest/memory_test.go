package storetest

import (
	"errors"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	t.Parallel()
	Run(t, func(*testing.T) Database { return NewDisk() })
}

func TestSharedMemory(t *testing.T) {
	t.Parallel()
	Run(t, func(*testing.T) Database { return NewSharedDisk() })
}

// TestTokenAway: commits that cannot be verified, the token being away, are applied once and not with each
// attempt, and shown when it is back.
func TestTokenAway(t *testing.T) { // not parallel: it counts allocations
	disk := NewSharedDisk()
	first, other := adopted(t, disk), second(t, disk)
	head, err := other.Found().Head()
	if err != nil {
		t.Fatal(err)
	}
	away := &Sealer{Err: errors.New("the token is away")}
	if err := other.Resume(t.Context(), away, head); err != nil {
		t.Fatal(err)
	}
	attempt := func() {
		if err := other.CatchUp(t.Context()); !errors.Is(err, away.Err) {
			t.Fatalf("with the token away: %v", err)
		}
	}
	const commits = 300
	for n := range commits {
		if err := put(first, "n", strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
		attempt()
	}
	if each := testing.AllocsPerRun(5, attempt); each > commits/2 {
		t.Errorf("an attempt behind %d commits allocates %v times", commits, each)
	}
	if value(other, "n") != "" {
		t.Error("what is not verified is shown")
	}
	away.Err = nil
	if err := other.CatchUp(t.Context()); err != nil || value(other, "n") != strconv.Itoa(commits-1) || other.View().Sequence() != first.View().Sequence() {
		t.Errorf("with the token back: %v, %q, sequence %d of %d", err, value(other, "n"), other.View().Sequence(), first.View().Sequence())
	}
}
