package plugins_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/plugins"
)

// startGroup starts a group, whose members are closed at the end of the test.
func startGroup(tb testing.TB, how plugins.GroupSpec, specs ...plugins.Spec) *plugins.Group {
	tb.Helper()
	g, err := plugins.StartGroup(tb.Context(), how, specs)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, h := range g.Hosts() {
			if err := h.Close(context.Background()); err != nil {
				tb.Error(err)
			}
		}
	})
	return g
}

// awaitAll waits until all members serve.
func awaitAll(tb testing.TB, g *plugins.Group) {
	tb.Helper()
	for i, h := range g.Hosts() {
		if err := h.Ready(tb.Context()); err != nil {
			tb.Fatalf("member %d: %v", i, err)
		}
	}
}

// awaitRestarts waits until processes of hosts were lost: a call may be answered by another
// process before the supervisor counts the one that it was lost with.
func awaitRestarts(tb testing.TB, want int, hosts ...*plugins.Host) {
	tb.Helper()
	for {
		n := 0
		for _, h := range hosts {
			n += h.Status().Restarts
		}
		switch {
		case n > want, n < want && tb.Context().Err() != nil:
			tb.Fatalf("%d processes were lost, want %d", n, want)
		case n == want:
			return
		}
		time.Sleep(time.Millisecond) // polls
	}
}

// TestGroupKeys: a key that one member has is found whichever is asked first, and one that
// is to be shown by all is not answered before.
func TestGroupKeys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	one := backends.CreateKeyRequest{Key: backends.Key{ID: backends.KeyID{1}, Spec: backends.AES256}}
	g := startGroup(t, plugins.GroupSpec{}, spec(t, nil), spec(t, nil))
	awaitAll(t, g)
	if _, err := g.CreateKey(ctx, &one); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := g.CheckKey(ctx, &backends.CheckKeyRequest{Key: one.Key}); err != nil {
			t.Fatalf("a key that one member shows: %v", err)
		}
	}
	unknown := backends.CheckKeyRequest{Key: backends.Key{ID: backends.KeyID{2}}}
	if _, err := g.CheckKey(ctx, &unknown); backends.CodeOf(err) != backends.KeyMissing {
		t.Errorf("a key that no member shows: %v", err)
	}

	all := startGroup(t, plugins.GroupSpec{ShownByAll: true, ShowTimeout: 100 * time.Millisecond}, spec(t, nil), spec(t, nil))
	awaitAll(t, all)
	if _, err := all.CreateKey(ctx, &one); backends.CodeOf(err) != backends.Lost || !strings.Contains(err.Error(), "has not shown the key") {
		t.Errorf("a key that one member alone shows is answered %v", err)
	}
}

// TestGroupMissing: what the others do not show is not missing before the last member
// counts as away.
func TestGroupMissing(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := spec(t, map[string]string{"while-exists": closed, "open-error": string(backends.Lost)})
	b.AwayAfter = 5 * time.Second
	g := startGroup(t, plugins.GroupSpec{}, spec(t, nil), b)
	if err := g.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	unknown := backends.CheckKeyRequest{Key: backends.Key{ID: backends.KeyID{2}}}
	if _, err := g.CheckKey(t.Context(), &unknown); backends.CodeOf(err) != backends.Lost && !g.Hosts()[1].Away() {
		t.Errorf("a key that a member may show that has just gone: %v", err)
	}
	if _, err := g.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: unknown.Key}); backends.CodeOf(err) != backends.Lost {
		t.Errorf("a key that a member may still have counts as destroyed: %v", err)
	}
	for !g.Hosts()[1].Away() {
		time.Sleep(10 * time.Millisecond)
	}
	if g.Away() {
		t.Error("a group counts as away of which one member serves")
	}
	if _, err := g.CheckKey(t.Context(), &unknown); backends.CodeOf(err) != backends.KeyMissing {
		t.Errorf("a key that a member may show that is gone for good: %v", err)
	}
}

// TestGroupRefused: a member that is not the one that it should be gets no call, until it
// is. The log says why once, and again if the reason changes.
func TestGroupRefused(t *testing.T) {
	t.Parallel()
	verdict := filepath.Join(t.TempDir(), "verdict")
	var compared atomic.Int64
	var log syncBuffer
	b := spec(t, nil)
	b.Logger = slog.New(slog.NewTextHandler(&log, nil))
	b.Compare = func(ctx context.Context, _ *backends.InfoAnswer, calls plugins.Calls) error {
		defer compared.Add(1)
		if _, err := calls.Info(ctx, &backends.InfoRequest{}); err != nil {
			return err
		}
		switch text, err := os.ReadFile(verdict); {
		case err != nil:
			return errors.New("it shows other keys")
		case len(text) > 0:
			return errors.New(string(text))
		}
		return nil
	}
	g := startGroup(t, plugins.GroupSpec{}, spec(t, nil), b)
	if err := g.Hosts()[1].Wait(t.Context()); backends.CodeOf(err) != backends.Lost {
		t.Fatalf("the wait for a member that is refused: %v", err)
	}
	st := g.Hosts()[1].Status()
	if st.Phase != plugins.Refused || !strings.Contains(st.LastError, "other keys") {
		t.Errorf("the status is %+v", st)
	}
	for range 10 {
		if _, err := g.Encrypt(t.Context(), encryptRequest("", "text")); err != nil {
			t.Fatal(err)
		}
	}
	said := func(want int) {
		t.Helper()
		count := func() int { return strings.Count(log.String(), "the token is refused") }
		for before := compared.Load(); compared.Load() < before+2 || count() < want; { // that of the first of them is in the log then
			time.Sleep(10 * time.Millisecond)
		}
		if got := count(); got != want {
			t.Errorf("the log says %d times that the token is refused, want %d:\n%s", got, want, log.String())
		}
	}
	said(1)
	if err := os.WriteFile(verdict, []byte("it shows none"), 0o600); err != nil {
		t.Fatal(err)
	}
	said(2)
	if err := os.WriteFile(verdict, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitAll(t, g)
}

// TestGroupLost loses the process that has a call, and has none come in its place: the other
// member answers, and this one serves again when it can.
func TestGroupLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	settings := map[string]string{"while-exists": closed, "open-error": string(backends.Lost)}
	g := startGroup(t, plugins.GroupSpec{}, spec(t, settings), spec(t, settings))
	awaitAll(t, g)
	if err := os.WriteFile(closed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Encrypt(t.Context(), encryptRequest("once "+filepath.Join(dir, "crashed")+" crash", "text")); err != nil {
		t.Errorf("the call that a process was lost with: %v", err)
	}
	awaitRestarts(t, 1, g.Hosts()...)
	if err := os.Remove(closed); err != nil {
		t.Fatal(err)
	}
	awaitAll(t, g)
}

// TestGroupCreates: a key is made on another member if the first one certainly has not made it,
// and else on none.
func TestGroupCreates(t *testing.T) {
	t.Parallel()
	key := backends.Key{ID: backends.KeyID{1}, Spec: backends.AES256}
	for order, elsewhere := range map[string]bool{"Busy": true, "KeyMissing": true, "Busy unsure": false, "KeyMissing unsure": false} {
		g := startGroup(t, plugins.GroupSpec{}, spec(t, map[string]string{"create-error": order}), spec(t, nil))
		awaitAll(t, g)
		out, err := g.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key})
		if elsewhere && (err != nil || out.Unsure) || !elsewhere && !backends.Doubtful(err) {
			t.Errorf("%s: the creation is answered %+v, %v", order, out, err)
		}
		_, err = g.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key})
		if (err == nil) != elsewhere || g.Losses() != 0 {
			t.Errorf("%s: the key is answered %v, %d losses", order, err, g.Losses())
		}
	}
}

// TestGroupBusy: a key that one member does not show is not missing while another one is busy,
// whichever is asked first.
func TestGroupBusy(t *testing.T) {
	t.Parallel()
	g := startGroup(t, plugins.GroupSpec{}, spec(t, map[string]string{"check-error": "Busy"}), spec(t, nil))
	awaitAll(t, g)
	for range 4 {
		if _, err := g.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: backends.Key{ID: backends.KeyID{1}}}); backends.CodeOf(err) != backends.Busy {
			t.Errorf("a key that a busy member may have: %v", err)
		}
	}
}
