package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/daemon/config"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/plugins"
)

// A member of a token gets calls only with processes that have shown the daemon's own keys
// (docs/decisions/0028-members.md). The audit key signs a challenge, which the public key in
// the database verifies: so no other member is needed to compare with. The plugins
// that do not serve the audit key go by that proof, and by the serial number; each shows its own
// keys of the daemon's beside it.

// proof is what the audit key of a member has shown.
type proof struct {
	mu      sync.Mutex
	serial  string        // guarded by mu; of the token that has signed, "" if the last has not
	err     error         // guarded by mu; why it has not
	changed chan struct{} // guarded by mu; closed with the next result; nil: nobody waits
}

// set notes the result of a challenge.
func (p *proof) set(serial string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serial, p.err = serial, err
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// proofTime is how long a process waits for the one that has the audit key: longer than until
// that is started again.
const proofTime = 8 * time.Second

// await waits until the token with the serial number has signed.
func (p *proof) await(ctx context.Context, serial string) error {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	for first := true; ; first = false {
		p.mu.Lock()
		proven, err := p.serial, p.err
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		switch {
		case proven == serial && err == nil && proven != "":
			return nil
		case err != nil && !first:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the token with serial number %s has not been proven by the audit key: the last that was has %q", serial, proven)
		}
	}
}

// comparison returns what compares a member by the daemon's own keys.
func (r *router) comparison(cfg *config.Config, t config.Part) func(context.Context, *backends.InfoAnswer, plugins.Calls) error {
	at := slices.IndexFunc(cfg.Tokens, func(other config.Token) bool { return other.Name == t.Name })
	first := cfg.Tokens[at].Members[0].Name
	proof := &r.known[t.Title()].proof
	return func(ctx context.Context, info *backends.InfoAnswer, calls plugins.Calls) error {
		view := r.own()
		audit, signed := view.CurrentSystemKey(t.Name, keyring.PurposeAudit)
		wrapping, wraps := view.CurrentSystemKey(t.Name, keyring.PurposeWrapping)
		state, macs := view.CurrentSystemKey(t.Name, keyring.PurposeState)
		if !signed && !wraps && !macs {
			if t.Member == first {
				return nil // which then gets them
			}
			return fmt.Errorf("there are no keys to compare this member by: until there are, only the member %q is used", first)
		}
		c := comparing{ctx, info, calls, false}
		if signed {
			if err := c.prove(audit, proof); err != nil {
				return fmt.Errorf("the member is not a clone of the token: the audit key: %w", err)
			}
		}
		if wraps {
			if err := c.check(wrapping); err != nil {
				return fmt.Errorf("the member is not a clone of the token: the wrapping key: %w", err)
			}
		}
		if macs { // each start makes another, which the member may get later
			if err := c.check(state); err != nil && (!signed || backends.CodeOf(err) != backends.KeyMissing) {
				return fmt.Errorf("the member is not a clone of the token: the state key: %w", err)
			}
		}
		if !c.done {
			return errors.New("the daemon has no key of its own that this plugin could show, so the member cannot be compared")
		}
		return nil
	}
}

// comparing is a process that is being compared.
type comparing struct {
	ctx   context.Context //nolint:containedctx // of one call
	info  *backends.InfoAnswer
	calls plugins.Calls
	done  bool // something was compared
}

// serves reports whether the process has keys of the spec.
func (c *comparing) serves(spec backends.KeySpec) bool {
	return slices.ContainsFunc(c.info.Specs, func(s backends.SpecInfo) bool { return s.Spec == spec })
}

// check has the process show the key, if it is of its kind.
func (c *comparing) check(k *store.SystemKey) error {
	key := keyring.SystemKeyRef(k)
	if !c.serves(key.Spec) {
		return nil
	}
	c.done = true
	_, err := c.calls.CheckKey(c.ctx, &backends.CheckKeyRequest{Key: key})
	return err
}

// prove has the process sign a challenge, or waits until another one of the member has.
func (c *comparing) prove(k *store.SystemKey, of *proof) error {
	c.done = true
	if !c.serves(keyring.SystemKeyRef(k).Spec) {
		return of.await(c.ctx, c.info.Token.Serial)
	}
	err := c.challenge(k)
	if err != nil {
		of.set("", err)
		return err
	}
	of.set(c.info.Token.Serial, nil)
	return nil
}

// challengeDomain leads what is signed: never a checkpoint of the audit trail.
const challengeDomain = "cmkd member challenge v1\n"

// challenge has the key sign what was never signed before.
func (c *comparing) challenge(k *store.SystemKey) error {
	key := keyring.SystemKeyRef(k)
	shown, err := c.calls.CheckKey(c.ctx, &backends.CheckKeyRequest{Key: key})
	if err != nil {
		return err
	}
	if !bytes.Equal(shown.PublicKey, k.PublicKey) {
		return errors.New("its public key is another")
	}
	message := []byte(challengeDomain + rand.Text())
	made, err := c.calls.Sign(c.ctx, &backends.SignRequest{Key: key, Algorithm: "ECDSA_SHA_256", Type: backends.Raw, Message: message})
	if err != nil {
		return err
	}
	digest := sha256.Sum256(message)
	public, err := x509.ParsePKIXPublicKey(k.PublicKey)
	if verifier, ok := public.(*ecdsa.PublicKey); err != nil || !ok || !ecdsa.VerifyASN1(verifier, digest[:], made.Signature) {
		return errors.New("its signature of a challenge does not verify")
	}
	return nil
}
