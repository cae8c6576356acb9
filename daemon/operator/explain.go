package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/policy"
	"cmkd/socket/operatorapi"
)

// The questions about policies, as JSON over the same socket. They are asked by
// administrators and auditors, who see every policy anyway; only the text of a new key policy
// is for everyone, since it tells nothing but what was asked.

// ask is a question to the KMS API about a caller.
func ask(in *operatorapi.PolicyQuestion, c *journal.Caller) *access.Question {
	return &access.Question{
		Caller: c, Action: in.Action, KeyID: in.Key, Region: in.Region,
		EncryptionContext: in.EncryptionContext, Conditions: in.Conditions,
	}
}

func (s *Service) explain(_ context.Context, by *Caller, in *operatorapi.PolicyQuestion) (*operatorapi.Explanation, error) {
	if in.As == "" {
		return nil, errors.New("as is missing: who would call")
	}
	c, err := by.ids.Named(in.As)
	if err != nil {
		return nil, err
	}
	e, err := s.KMS.Explain(ask(in, c))
	if err != nil {
		return nil, err
	}
	out := &operatorapi.Explanation{
		Principal: c.Principal.DisplayARN(), Groups: c.Principal.Groups, Action: e.Action, Resource: e.Resource,
		KeyState: string(e.KeyState), Allowed: e.Decision.Allowed, Decision: e.Decision.String(), Steps: []operatorapi.ExplanationStep{},
	}
	for i := range e.Steps {
		out.Steps = append(out.Steps, describeStep(&e.Steps[i]))
	}
	return out, nil
}

func describeStep(s *policy.Step) operatorapi.ExplanationStep {
	step := operatorapi.ExplanationStep{Source: "key policy", Statement: s.Statement + 1, Sid: s.Sid, Effect: s.Effect.String(), Matched: s.Matched, Why: s.Why}
	switch s.Source {
	case policy.IdentityPolicySource:
		step.Source = "identity policy " + s.Policy
	case policy.GrantSource:
		step.Source, step.Effect = "grant "+s.GrantID, ""
	default:
	}
	return step
}

// who asks for every principal that is known: root, the users of the system,
// whom the configuration names, and whom the key's policy and grants name.
func (s *Service) who(ctx context.Context, by *Caller, in *operatorapi.PolicyQuestion) (*operatorapi.Allowed, error) {
	var named []string
	if in.Key != "" {
		var err error
		if named, err = s.KMS.PrincipalsOf(in.Region, in.Key); err != nil {
			return nil, err
		}
	}
	known, err := by.ids.Known()
	if err != nil {
		return nil, err
	}
	out := &operatorapi.Allowed{Allowed: []operatorapi.AllowedPrincipal{}}
	seen := map[string]bool{}
	for _, arn := range append(known, named...) {
		if err := ctx.Err(); err != nil {
			return nil, err // nobody waits for the answer any more
		}
		c, err := by.ids.ByARN(arn)
		if err != nil || seen[c.Principal.DisplayARN()] {
			continue // a service, say, which never calls
		}
		seen[c.Principal.DisplayARN()] = true
		if err := s.askWho(out, in, c); err != nil {
			return nil, err
		}
	}
	e, err := s.KMS.Explain(ask(in, by.ids.Nobody()))
	if err != nil {
		return nil, err
	}
	out.Action, out.Resource, out.Everyone = e.Action, e.Resource, e.Decision.Allowed
	byName := func(a, b operatorapi.AllowedPrincipal) int { return cmp.Compare(a.Principal, b.Principal) }
	slices.SortFunc(out.Allowed, byName)
	slices.SortFunc(out.Depends, byName)
	return out, nil
}

// askWho adds a principal to the answer, if it belongs there.
func (s *Service) askWho(out *operatorapi.Allowed, in *operatorapi.PolicyQuestion, c *journal.Caller) error {
	e, err := s.KMS.Explain(ask(in, c))
	if err != nil {
		return err
	}
	if e.Decision.Allowed {
		out.Allowed = append(out.Allowed, operatorapi.AllowedPrincipal{Principal: c.Principal.DisplayARN(), Why: e.Decision.String()})
		return nil
	}
	for i := range e.Steps {
		if step := &e.Steps[i]; step.Depends && step.Effect == policy.Allow && !e.Decision.Explicit {
			out.Depends = append(out.Depends, operatorapi.AllowedPrincipal{Principal: c.Principal.DisplayARN(), Why: describeStep(step).Source + ": " + step.Why})
			break
		}
	}
	return nil
}

// maxNames is how many principals a new key policy may name. Each is looked up in
// the user database, and a policy has no room for many more.
const maxNames = 500

func (s *Service) keyPolicy(ctx context.Context, by *Caller, in *operatorapi.KeyPolicyRequest) (*operatorapi.KeyPolicy, error) {
	if n := len(in.Admins) + len(in.Users); n > maxNames {
		return nil, fmt.Errorf("%d admins and users, at most %d are allowed: name a group instead", n, maxNames)
	}
	admins, err := arns(ctx, by.ids, in.Admins)
	if err != nil {
		return nil, err
	}
	users, err := arns(ctx, by.ids, in.Users)
	if err != nil {
		return nil, err
	}
	text, err := s.KMS.ConsolePolicy(admins, users, in.KeySpec, in.KeyUsage)
	if err != nil {
		return nil, err
	}
	return &operatorapi.KeyPolicy{Policy: text}, nil
}

// arns are the ARNs of principals that an administrator names.
func arns(ctx context.Context, ids Identities, names []string) ([]string, error) {
	var list []string
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err // nobody waits for the answer any more
		}
		c, err := ids.Named(name)
		if err != nil {
			return nil, err
		}
		list = append(list, c.Principal.ARN)
	}
	return list, nil
}
