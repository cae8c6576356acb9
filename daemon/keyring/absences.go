package keyring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/backends"
	"cmkd/daemon/journal"
)

// A process may not see an object that is in the token (see ListKeys in backends/pkcs11),
// and a token that lost its objects answers like one that never had any. So that an
// object is missing is believed, and told, only of a plugin process that was opened
// after it had been looked for in vain. That is done once for each object: as long as no
// plugin lists it, it stays missing without another process. It is not for ever: the
// object is looked for again with each run of the jobs, and when its key is used.

// Absences are the materials whose objects are not in their token.
type absences struct {
	materialSet

	mu     sync.Mutex
	listed map[string]time.Time // when each token was last looked through; guarded by mu
	used   time.Time            // when recheckUsed last looked; guarded by mu
	// looking is held by who makes sure, since that replaces processes.
	looking chan struct{}
	// began and ended count the processes that were replaced to look again.
	began, Ended atomic.Int64
}

func newAbsences() *absences {
	return &absences{listed: map[string]time.Time{}, looking: make(chan struct{}, 1)}
}

// due reports whether the token is to be looked through.
func (a *absences) due(token string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	since := now.Sub(a.listed[token])
	return since < 0 || since >= listInterval
}

func (a *absences) lookedThrough(token string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listed[token] = now
}

// recheck reports whether recheckUsed is to look now.
func (a *absences) recheck(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if since := now.Sub(a.used); since >= 0 && since < recheckInterval {
		return false
	}
	a.used = now
	return true
}

// recheckInterval bounds what calls cost whose keys have a material that is missing.
const recheckInterval = time.Second

// listInterval is how often the tokens are looked through, which takes 60 µs an object
// in SoftHSM2. What a call does not find is looked for at once.
const listInterval = time.Hour

// MissingMaterials counts the key materials of the database that are known not to be
// in their token, without those of keys that are pending deletion.
func (s *Keyring) MissingMaterials() int {
	view, n := s.Store.View(), 0
	for _, m := range s.Absences.all() {
		if missed(view, m) {
			n++
		}
	}
	return n
}

// there asks the plugin of the material's kind for its object. An error says nothing
// of the object.
func (s *Keyring) there(ctx context.Context, m *material) (bool, error) {
	b, _, ok := s.Router.Route(m.Token, m.key.Spec)
	if !ok || !s.Router.Serving(m.Token, m.key.Spec) {
		return false, backends.Errorf(backends.Lost, "token %s does not answer", m.Token)
	}
	_, err := b.CheckKey(ctx, &backends.CheckKeyRequest{Key: m.key})
	switch backends.CodeOf(err) {
	case "", backends.KeyUnsafe, backends.KeyDuplicate:
		s.found(ctx, m)
		s.noteSafety(ctx, m, err)
		return true, nil
	case backends.KeyMissing:
		s.noteSafety(ctx, m, err)
		return false, nil
	default:
		return false, err
	}
}

func (s *Keyring) found(ctx context.Context, m *material) {
	if s.Absences.set(m, false) {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "a missing key material is in its token again",
			slog.String("key", m.KeyID), slog.Int("version", m.Version), slog.String("token", m.Token))
	}
}

// confirm returns those of the suspects that are not in their token, which it has
// made sure of with processes that were opened since. hidden: such a process sees one
// that another did not. What cannot be made sure of is in the error, and not in the
// answer. Unless anew, what was missing before is so until it is found.
func (s *Keyring) confirm(ctx context.Context, suspects []*material, anew bool) (gone []*material, hidden bool, err error) {
	fine := func(m *material) bool {
		ok, err := s.there(ctx, m)
		return ok && err == nil
	}
	if suspects = slices.DeleteFunc(suspects, fine); len(suspects) == 0 {
		return nil, false, nil
	}
	select {
	case s.Absences.looking <- struct{}{}:
		defer func() { <-s.Absences.looking }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	type server struct {
		token string
		b     Backend
	}
	doubtful := map[server][]*material{}
	var order []server
	var errs []error
	for _, m := range suspects {
		known := !anew && s.Absences.Has(m.ckaID)
		ok, err := s.there(ctx, m)
		switch {
		case err != nil:
			errs = append(errs, err)
		case ok: // whoever held looking has had the process replaced
			hidden = true
		case known:
			gone = append(gone, m)
		default:
			b, _, _ := s.Router.Route(m.Token, m.key.Spec)
			at := server{m.Token, b}
			if doubtful[at] == nil {
				order = append(order, at)
			}
			doubtful[at] = append(doubtful[at], m)
		}
	}
	for _, at := range order {
		more, err := s.lookAnew(ctx, at.b, doubtful[at])
		gone = append(gone, more...)
		if err != nil {
			errs = append(errs, err)
		} else if len(more) < len(doubtful[at]) {
			hidden = true
		}
	}
	return gone, hidden, errors.Join(errs...)
}

// renew puts another process in the place of the one that serves the key spec.
func (s *Keyring) renew(ctx context.Context, token string, spec backends.KeySpec) error {
	s.Absences.began.Add(1)
	defer s.Absences.Ended.Add(1)
	return s.Router.Renew(ctx, token, spec)
}

// lookAnew replaces the process of b, which serves all suspects, and looks for them
// again. Whatever else the new process does not list is looked for, too: for the next
// missing object no other process is needed.
func (s *Keyring) lookAnew(ctx context.Context, b Backend, suspects []*material) (gone []*material, err error) {
	first := suspects[0]
	s.Log.LogAttrs(ctx, slog.LevelWarn, "key materials not found: checking with another process",
		slog.String("token", first.Token), slog.Int("materials", len(suspects)), slog.String("key", first.KeyID))
	view := s.Store.View()
	if err := s.renew(ctx, first.Token, first.key.Spec); err != nil {
		return nil, fmt.Errorf("renewing the plugin of %s keys: %w", first.key.Spec, err)
	}
	list, err := b.ListKeys(ctx, &backends.ListKeysRequest{})
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{}
	for _, o := range list.Objects {
		listed[string(o.ID[:])] = true
	}
	asked := map[string]bool{}
	for _, m := range suspects {
		asked[string(m.ckaID)] = true
	}
	candidates := slices.Clone(suspects)
	for v := range view.AllVersions() {
		m := materialOf(view, v)
		if m == nil || listed[string(v.CKAID)] || asked[string(v.CKAID)] || m.Token != first.Token {
			continue
		}
		if other, _, ok := s.Router.Route(m.Token, m.key.Spec); ok && other == b {
			candidates = append(candidates, m)
		}
	}
	var errs []error
	for _, m := range candidates {
		ok, err := s.there(ctx, m)
		switch {
		case err != nil:
			errs = append(errs, err)
		case ok || !expected(s.Store.View(), m): // it is there, or was deleted meanwhile
		default:
			if s.Absences.set(m, true) {
				s.Log.LogAttrs(ctx, slog.LevelError, "a key material is not in its token",
					slog.String("key", m.KeyID), slog.Int("version", m.Version), slog.String("token", m.Token))
			}
			if asked[string(m.ckaID)] {
				gone = append(gone, m)
			}
		}
	}
	return gone, errors.Join(errs...)
}

// Doubt is what becomes of the error of a call that did not find an object. If the
// objects of the keys that it used were hidden from the process alone, the caller is
// to try again. Nothing else is known if they are all there and processes were replaced
// during the call: the one that did not find them may have been among those.
func (s *Keyring) Doubt(ctx context.Context, c *journal.Call, err error) error {
	if len(c.Used) == 0 || c.Op == nil {
		return err
	}
	switch backends.CodeOf(err) {
	case backends.KeyMissing:
	case backends.KeyUnsafe:
		s.lookForUnsafe(ctx, c)
		return err
	default:
		return err
	}
	gone, hidden, problem := s.confirm(ctx, s.needed(c, s.Absences.Has), false)
	if problem != nil {
		return backends.Errorf(backends.Lost, "whether an object is missing is not known: %v", problem)
	}
	if hidden || len(gone) == 0 && s.Absences.began.Load() > c.Renewals {
		return backends.Errorf(backends.Lost, "an object was hidden from the process that looked for it: %v", err)
	}
	return err
}

// RecheckUsed looks again for the missing and unsafe materials of the keys that a
// successful call has used. Calls with other keys, and those that use none, leave the next
// look to them.
func (s *Keyring) RecheckUsed(ctx context.Context, c *journal.Call) {
	if s.Absences.empty() && s.Unsafes.empty() { // of nearly every call
		return
	}
	var missed []*material
	view := s.Store.View()
	for _, row := range c.Used {
		for _, v := range view.Versions(row.ID) {
			if m := materialOf(view, v); m != nil && (s.Absences.Has(v.CKAID) || s.Unsafes.Has(v.CKAID)) {
				missed = append(missed, m)
			}
		}
	}
	if len(missed) == 0 || !s.Absences.recheck(s.Now()) {
		return
	}
	for _, m := range missed {
		_, _ = s.there(ctx, m) // the jobs look again
	}
}

// LookForObjects finds out which key materials are in no token: it looks again for
// those that were missing or unsafe, and once an hour through every token that answers.
func (s *Keyring) LookForObjects(ctx context.Context) error {
	s.lookAgain(ctx, &s.Unsafes)
	now := s.Now()
	due := slices.DeleteFunc(s.Tokens(), func(token string) bool {
		_, all := s.servers(token)
		return !all || !s.Absences.due(token, now)
	})
	if len(due) > 0 {
		inv, err := s.Inventory(ctx, due, false) // which notes what is missing
		if err != nil {
			return err
		}
		for _, token := range due {
			if !slices.Contains(inv.Away, token) {
				s.Absences.lookedThrough(token, now)
			}
		}
	}
	s.lookAgain(ctx, &s.Absences.materialSet)
	return nil
}
