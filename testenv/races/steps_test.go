package races

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"cmkd/backends"
	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/testenv/memory"
)

// steps are the places at which a call leaves package kms: it asks for the time,
// for a backend, the token for something, or the trail. At one of them it can be
// stopped. Only one call at a time is under way when they are counted.
type steps struct {
	names []string
	stop  int           // the place, by its number; 0: nowhere
	at    chan struct{} // closed when the call is stopped there
	let   chan struct{} // closed when it may go on
	off   bool          // steps are not counted any more
	dead  bool          // the daemon has been killed: nothing outside is reached
}

// pass is one of the places.
func (s *steps) pass(name string) {
	if s.off {
		return
	}
	s.names = append(s.names, name)
	if len(s.names) == s.stop {
		s.off = true
		close(s.at)
		<-s.let
	}
}

// errKilled is what a dead daemon gets from everything outside.
var errKilled = errors.New("killed")

// router finds the token for every name.
type router struct{ w *world }

// tokenSpecs are those of the token in memory, and those of the daemon's own keys.
func (r *router) Route(_ string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	r.w.steps.pass("route")
	return &backend{Router: memory.Router{Token: r.w.token}, w: r.w}, backends.SpecInfo{Spec: spec}, true
}

func (r *router) Available(string, backends.KeySpec) bool {
	r.w.steps.pass("available")
	return true
}

// backend stops before and after each call that changes the token or makes a
// ciphertext.
type backend struct {
	memory.Router
	w *world
}

func step[In, Out any](b *backend, name string, f func(context.Context, *In) (*Out, error)) func(context.Context, *In) (*Out, error) {
	w := b.w
	steps := &w.steps
	return func(ctx context.Context, in *In) (*Out, error) {
		steps.pass("before " + name)
		if steps.dead {
			return nil, backends.Errorf(backends.Lost, "killed")
		}
		out, err := f(ctx, in)
		steps.pass("after " + name)
		if steps.dead {
			return nil, backends.Errorf(backends.Lost, "killed")
		}
		return out, err
	}
}

func (b *backend) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	return step(b, "CreateKey", b.Router.CreateKey)(ctx, in)
}

func (b *backend) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	return step(b, "DestroyKey", b.Router.DestroyKey)(ctx, in)
}

func (b *backend) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	return step(b, "ImportKey", b.Router.ImportKey)(ctx, in)
}

func (b *backend) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	return step(b, "Encrypt", b.Router.Encrypt)(ctx, in)
}

func (b *backend) CheckKey(ctx context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	return step(b, "CheckKey", b.Router.CheckKey)(ctx, in)
}

// trail keeps the records of a run.
type trail struct {
	journal.Trail
	w *world
}

func (t *trail) write(r *event.Record) error {
	t.w.steps.pass("record")
	if t.w.steps.dead {
		return errKilled
	}
	resources := r.Resources
	if r.ErrorCode != "" { // whether a refusal names the key depends on when it is found not to be there
		resources = nil
	}
	text, err := json.Marshal(struct {
		Event, Error, Region string
		Resources            []event.Resource
		Response, Details    jsontext.Value `json:",omitempty"`
	}{r.EventName, r.ErrorCode, r.AWSRegion, resources, r.ResponseElements, r.ServiceEventDetails}, json.Deterministic(true))
	if err != nil {
		return err
	}
	t.w.noting.Lock()
	defer t.w.noting.Unlock()
	t.w.records = append(t.w.records, string(text))
	return nil
}

func (t *trail) Append(_ context.Context, r *event.Record) error { return t.write(r) }

func (t *trail) AppendIn(_ context.Context, r *event.Record, _ audit.Room) error { return t.write(r) }

func (t *trail) AppendBefore(_ context.Context, r *event.Record, _ audit.Room) error {
	return t.write(r)
}

func (t *trail) Reserve(bool) (audit.Room, error) {
	t.w.steps.pass("begin")
	return audit.Room{}, nil
}
func (t *trail) Release(audit.Room)                     { t.w.steps.pass("end") }
func (t *trail) After(uint64, func([]byte) error) error { return nil }
func (t *trail) Err() error                             { return nil }
func (t *trail) Head() (uint64, [32]byte)               { return 0, [32]byte{} }

// Serving implements [keyring.Router].
func (r *router) Serving(token string, spec backends.KeySpec) bool { return r.Available(token, spec) }

// Renew implements [keyring.Router].
func (r *router) Renew(context.Context, string, backends.KeySpec) error { return nil }

// Losses implements [keyring.Router].
func (r *router) Losses(string, backends.KeySpec) int { return 0 }
