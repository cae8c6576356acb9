package plugins

import (
	"bytes"
	"context"
	"slices"
	"time"

	"cmkd/backends"
)

// What a Group does otherwise than a Host: what makes, destroys or lists keys is about all
// members.

// CreateKey implements [backends.Backend].
func (g *Group) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	out, err := g.Calls.CreateKey(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := g.shown(ctx, in.Key, out.PublicKey, out.Unsure); err != nil {
		return nil, err
	}
	return out, nil
}

// ImportKey implements [backends.Importer].
func (g *Group) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	out, err := g.Calls.ImportKey(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := g.shown(ctx, in.Key, out.PublicKey, out.Unsure); err != nil {
		return nil, err
	}
	return out, nil
}

// shown waits until every member that has a process shows the key. One that loses its
// process meanwhile is not waited for. The error is Unsure if the answer was.
func (g *Group) shown(ctx context.Context, key backends.Key, public []byte, unsure bool) error {
	if !g.spec.ShownByAll {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.spec.ShowTimeout)
	defer cancel()
	for _, h := range g.hosts {
		if err := h.shows(ctx, key, public); err != nil {
			return backends.DoubtIf(unsure, err)
		}
	}
	return nil
}

const (
	// A member is asked for a key that was made on another one after firstLook, and then
	// after twice the time each, up to lastLook.
	firstLook = 2 * time.Millisecond
	lastLook  = 250 * time.Millisecond
	// renewedLook is after how long another process looks, once: some modules do not find
	// what others have made.
	renewedLook = time.Second
)

// shows waits until the token shows the key.
func (h *Host) shows(ctx context.Context, key backends.Key, public []byte) error {
	began, renewed := time.Now(), false
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		st := h.state.Load()
		if st.process == nil || !st.process.usable() {
			return nil // it is compared when it is back
		}
		found, err := Calls{st.process}.CheckKey(ctx, &backends.CheckKeyRequest{Key: key})
		switch code := backends.CodeOf(err); {
		case err == nil && !bytes.Equal(found.PublicKey, public):
			return backends.Errorf(backends.KeyUnsafe, "plugin %s shows another public key than the member that has made the key", st.spec.Name)
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return backends.Errorf(backends.Lost, "plugin %s has not shown the key %s, which another member has made, within %s", st.spec.Name, key.ID, time.Since(began).Round(time.Millisecond))
		case code == backends.Lost, code == backends.Timeout: // then there is another process, or none
		case code != backends.KeyMissing && code != backends.Busy:
			return err
		case !renewed && time.Since(began) >= renewedLook:
			renewed = true
			_ = h.Renew(ctx) // the old process stays if there is no other
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// DestroyKey implements [backends.Backend]. It succeeds when no member has the key: one
// that has no process now may still have it.
func (g *Group) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	out, err := g.Calls.DestroyKey(ctx, in)
	if err != nil {
		return nil, err
	}
	elsewhere := *in
	elsewhere.Elsewhere = true
	for _, h := range g.hosts {
		st := h.state.Load()
		if st.process == nil {
			err = backends.Errorf(backends.Lost, "plugin %s has no process now, and its token may still have the key", st.spec.Name)
			continue
		}
		more, failed := Calls{st.process}.DestroyKey(ctx, &elsewhere)
		if failed != nil {
			err = failed
			continue
		}
		out.Objects = max(out.Objects, more.Objects)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListKeys implements [backends.Backend]: the objects that any member shows that has a
// process. One that loses it meanwhile is left out.
func (g *Group) ListKeys(ctx context.Context, in *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	if err := g.Wait(ctx); err != nil {
		return nil, err
	}
	out, at := new(backends.ListKeysAnswer), map[backends.KeyID]int{}
	answered := false
	var lost error = backends.Errorf(backends.Lost, "no member has a process now")
	for _, h := range g.hosts {
		st := h.state.Load()
		if st.process == nil || !st.process.usable() {
			continue
		}
		list, err := Calls{st.process}.ListKeys(ctx, in)
		if code := backends.CodeOf(err); ctx.Err() == nil && (code == backends.Lost || code == backends.Timeout) {
			lost = err
			continue
		}
		if err != nil {
			return nil, err
		}
		answered = true
		for _, o := range list.Objects {
			if i, ok := at[o.ID]; ok {
				out.Objects[i].Duplicate = out.Objects[i].Duplicate || o.Duplicate
				continue
			}
			at[o.ID] = len(out.Objects)
			out.Objects = append(out.Objects, o)
		}
	}
	if !answered {
		return nil, lost
	}
	slices.SortFunc(out.Objects, func(a, b backends.Object) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out, nil
}
