package access

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/policy/templates"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// PolicyName is the only name that a key policy has.
const PolicyName = "default"

// compiled keeps key policies in their compiled form, by their text: most keys
// share one.
type compiled struct {
	standard *policy.Document // the default key policy

	mu        sync.RWMutex
	documents map[string]*policy.Document // guarded by mu
	size      int                         // of the texts in bytes; guarded by mu
}

// maxCompiled bounds the number of texts kept, and maxCompiledSize their bytes: a
// policy that is made to be large takes forty times its text.
const (
	maxCompiled     = 4096
	maxCompiledSize = 4 << 20
)

func newCompiled(account string) compiled {
	standard, err := policy.Parse([]byte(templates.DefaultKeyPolicy(account)), policy.KeyPolicy)
	if err != nil {
		panic("the default key policy does not parse: " + err.Error()) // a constant
	}
	return compiled{standard: standard, documents: map[string]*policy.Document{}}
}

// parse returns the compiled form of a stored policy.
func (p *compiled) parse(text string) (*policy.Document, error) {
	p.mu.RLock()
	d, ok := p.documents[text]
	p.mu.RUnlock()
	if ok {
		return d, nil
	}
	d, err := policy.Parse([]byte(text), policy.KeyPolicy, policy.WithName(PolicyName))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.documents) >= maxCompiled || p.size+len(text) > maxCompiledSize {
		clear(p.documents)
		p.size = 0
	}
	if p.documents[text] == nil {
		p.documents[text] = d
		p.size += len(text)
	}
	return d, nil
}

// NewPolicy checks the policy of a request and returns it, or the default one
// where the request has none. row is the key that it is for.
func (s *Access) NewPolicy(ctx context.Context, c *journal.Call, text string, bypass *bool, row *store.Key) (string, error) {
	if text == "" {
		return templates.DefaultKeyPolicy(s.Account), nil
	}
	d, err := s.parsePolicy(text)
	if err != nil {
		return "", err
	}
	for _, name := range d.UnknownKeys() {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "a key policy has a condition key that does not exist: a Deny on it denies nothing",
			slog.String("conditionKey", name), slog.String("key", s.KeyARN(row.Region, row.ID)))
	}
	if bypass != nil && *bypass {
		return text, nil
	}
	// The next call may leave the member out, or say false.
	no := []Condition{Says("kms:BypassPolicyLockoutSafetyCheck", Boolean(false))}
	for _, conditions := range [][]Condition{nil, no} {
		next := &Demand{Action: keys.ActionNamed("PutKeyPolicy"), Region: row.Region, Conditions: conditions}
		r := s.policyRequest(c, next)
		r.Resource = s.KeyARN(row.Region, row.ID)
		r.Context = &keyContext{s: s, c: c, d: next, key: row}
		if !d.LocksOut(r, c.Caller.Policies) {
			return text, nil
		}
	}
	return "", kmsapi.Errorf(kmsapi.CodeMalformedPolicyDocumentException, "The new key policy will not allow you to update the key policy in the future.")
}

// parsePolicy checks the grammar of a key policy, and that its principals exist.
func (s *Access) parsePolicy(text string) (*policy.Document, error) {
	if len(text) > policy.MaxSize {
		return nil, kmsapi.Errorf(kmsapi.CodeLimitExceededException,
			"The key policy has %d bytes, the most that it may have is %d.", len(text), policy.MaxSize)
	}
	d, err := policy.Parse([]byte(text), policy.KeyPolicy)
	if err != nil {
		syntax, ok := errors.AsType[*policy.SyntaxError](err)
		if !ok {
			return nil, err
		}
		return nil, kmsapi.Errorf(kmsapi.CodeMalformedPolicyDocumentException, "%s", syntax.Error())
	}
	for _, p := range d.Principals() {
		if !s.PrincipalExists(p) {
			return nil, kmsapi.Errorf(kmsapi.CodeMalformedPolicyDocumentException, "Policy contains a statement with one or more invalid principals.")
		}
	}
	return d, nil
}
