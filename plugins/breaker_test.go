package plugins

import (
	"testing"
	"time"

	"cmkd/backends"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	var b breaker
	now := time.Unix(1_000_000, 0)
	id := cutID{caller: 1000, key: backends.KeyID{1}}
	refused := func(what string, id cutID, want backends.Code) {
		t.Helper()
		if got := backends.CodeOf(b.check(id, now)); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	refused("nothing was lost", id, "")
	// What is refused doubles, up to ten minutes.
	for _, cutOff := range []int{10, 20, 40, 80, 160, 320, 600, 600} {
		b.lost(id, now)
		refused("right after a loss", id, backends.CutOff)
		refused("another user", cutID{caller: 1001, key: id.key}, "")
		refused("another key", cutID{caller: 1000, key: backends.KeyID{2}}, "")
		now = now.Add(time.Duration(cutOff)*time.Second - 1)
		refused("just before the end", id, backends.CutOff)
		now = now.Add(1)
		refused("after it", id, "")
	}
	now = now.Add(time.Hour) // it is forgotten
	b.lost(id, now)
	now = now.Add(firstCutOff)
	refused("the first loss after an hour", id, "")

	creation := cutID{method: "CreateKey", spec: backends.P256}
	b.lost(creation, now)
	refused("creations", creation, backends.Timeout)
	if got := b.refusing(); len(got) != 1 || got[0] == "" {
		t.Errorf("for operators: %q", got)
	}
	now = now.Add(creationCutOff)
	refused("one is tried", creation, "")
	refused("one alone", creation, backends.Timeout)
	b.release(creation)
	refused("the next one", creation, "")
	b.answered(creation)
	refused("when one was answered", creation, "")
	refused("all are let through", creation, "")
	if got := b.refusing(); len(got) != 0 {
		t.Errorf("for operators: %q", got)
	}
	for i := range 3 * keptCuts { // of as many callers
		now = now.Add(time.Minute)
		b.lost(cutID{caller: uint32(i), key: id.key}, now)
	}
	if len(b.cuts) > keptCuts {
		t.Errorf("%d are kept", len(b.cuts))
	}
}
