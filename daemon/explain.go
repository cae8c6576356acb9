package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"cmkd/daemon/kms"
	"cmkd/daemon/policy"
	"cmkd/socket/kmsapi"
)

// The questions about policies, as JSON over the same socket. They are asked by
// administrators, who see every policy anyway; only the text of a new key policy
// is for everyone, since it tells nothing but what was asked.

// explainRequest is POST /policy/explain, and POST /policy/who without As.
type explainRequest struct {
	As                string              `json:"as"` // see [identities.named]
	Action            string              `json:"action"`
	Key               string              `json:"key"` // "": an operation on no key
	Region            string              `json:"region"`
	EncryptionContext map[string]string   `json:"encryptionContext"`
	Conditions        map[string][]string `json:"conditions"`
}

type explainAnswer struct {
	Principal string            `json:"principal"`
	Groups    []string          `json:"groups,omitempty"`
	Action    string            `json:"action"`
	Resource  string            `json:"resource"`
	KeyState  string            `json:"keyState,omitempty"`
	Allowed   bool              `json:"allowed"`
	Decision  string            `json:"decision"`
	Steps     []explanationStep `json:"steps"`
}

// explanationStep is a statement or grant that was looked at.
type explanationStep struct {
	Source    string `json:"source"`
	Statement int    `json:"statement,omitempty"` // from 1
	Sid       string `json:"sid,omitempty"`
	Effect    string `json:"effect,omitempty"`
	Matched   bool   `json:"matched"`
	Why       string `json:"why"`
}

type whoAnswer struct {
	Action   string `json:"action"`
	Resource string `json:"resource"`
	// Everyone: somebody of whom nothing is known is allowed.
	Everyone bool           `json:"everyone"`
	Allowed  []whoPrincipal `json:"allowed"`
	// Depends are those whom a condition or a grant's constraint kept out:
	// with another request they may be allowed.
	Depends []whoPrincipal `json:"depends,omitempty"`
}

type whoPrincipal struct {
	Principal string `json:"principal"`
	Why       string `json:"why"`
}

type keyPolicyRequest struct {
	Admins   []string `json:"admins"` // see [identities.named]
	Users    []string `json:"users"`
	KeySpec  string   `json:"keySpec"`
	KeyUsage string   `json:"keyUsage"`
}

type keyPolicyAnswer struct {
	Policy string `json:"policy"`
}

// handlePolicies adds the questions about policies.
func (d *Daemon) handlePolicies(mux *http.ServeMux) {
	mux.Handle("POST /policy/explain", question(d, "ExplainPolicy", true, d.explain))
	mux.Handle("POST /policy/who", question(d, "ListAllowedPrincipals", true, d.who))
	mux.Handle("POST /policy/check", question(d, "CheckPolicy", true, d.checkPolicy))
	mux.Handle("POST /policy/key", question(d, "MakeKeyPolicy", false, d.keyPolicy))
}

// maxQuestion is the longest question in bytes: a policy, with every character of
// it escaped.
const maxQuestion = 256 << 10

// question serves one question.
func question[In, Out any](d *Daemon, name string, adminsOnly bool, ask func(context.Context, *identities, *In) (*Out, error)) http.Handler {
	e := endpoint{name: name, anyone: !adminsOnly, readOnly: true, maxBody: maxQuestion}
	return serveOperator(d, e, func(o *operator, in *In) (*Out, error) {
		out, err := ask(o.Context(), o.ids, in)
		if _, ok := errors.AsType[*kmsapi.Error](err); err != nil && !ok {
			err = invalid(http.StatusBadRequest, err.Error())
		}
		return out, err
	})
}

// apiText is the text of an error, without the code of an error of the API.
func apiText(err error) string {
	if e, ok := errors.AsType[*kmsapi.Error](err); ok && e.Message != "" {
		return e.Message
	}
	return err.Error()
}

func (in *explainRequest) question(c *kms.Caller) *kms.Question {
	return &kms.Question{
		Caller: c, Action: in.Action, KeyID: in.Key, Region: in.Region,
		EncryptionContext: in.EncryptionContext, Conditions: in.Conditions,
	}
}

func (d *Daemon) explain(_ context.Context, ids *identities, in *explainRequest) (*explainAnswer, error) {
	if in.As == "" {
		return nil, errors.New("as is missing: who would call")
	}
	c, err := ids.named(in.As)
	if err != nil {
		return nil, err
	}
	e, err := d.kms.Explain(in.question(c))
	if err != nil {
		return nil, err
	}
	out := &explainAnswer{
		Principal: c.Principal.DisplayARN(), Groups: c.Principal.Groups, Action: e.Action, Resource: e.Resource,
		KeyState: string(e.KeyState), Allowed: e.Decision.Allowed, Decision: e.Decision.String(), Steps: []explanationStep{},
	}
	for _, s := range e.Steps {
		out.Steps = append(out.Steps, describeStep(&s))
	}
	return out, nil
}

func describeStep(s *policy.Step) explanationStep {
	step := explanationStep{Source: "key policy", Statement: s.Statement + 1, Sid: s.Sid, Effect: s.Effect.String(), Matched: s.Matched, Why: s.Why}
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
func (d *Daemon) who(ctx context.Context, ids *identities, in *explainRequest) (*whoAnswer, error) {
	named := []string{ids.prefix() + "root"}
	if in.Key != "" {
		more, err := d.kms.PrincipalsOf(in.Region, in.Key)
		if err != nil {
			return nil, err
		}
		named = append(named, more...)
	}
	users, err := systemUsers()
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		named = append(named, ids.prefix()+"user/"+u)
	}
	for arn := range ids.configured {
		named = append(named, arn)
	}
	out := &whoAnswer{Allowed: []whoPrincipal{}}
	seen := map[string]bool{}
	for _, arn := range named {
		if err := ctx.Err(); err != nil {
			return nil, err // nobody waits for the answer any more
		}
		c, err := ids.byARN(arn)
		if err != nil || seen[c.Principal.DisplayARN()] {
			continue // a service, say, which never calls
		}
		seen[c.Principal.DisplayARN()] = true
		if err := d.askWho(out, in, c); err != nil {
			return nil, err
		}
	}
	nobody := &kms.Caller{Principal: ids.principal(ids.prefix()+"user/uid-4294967294", "")}
	e, err := d.kms.Explain(in.question(nobody))
	if err != nil {
		return nil, err
	}
	out.Action, out.Resource, out.Everyone = e.Action, e.Resource, e.Decision.Allowed
	byName := func(a, b whoPrincipal) int { return cmp.Compare(a.Principal, b.Principal) }
	slices.SortFunc(out.Allowed, byName)
	slices.SortFunc(out.Depends, byName)
	return out, nil
}

// askWho adds a principal to the answer, if it belongs there.
func (d *Daemon) askWho(out *whoAnswer, in *explainRequest, c *kms.Caller) error {
	e, err := d.kms.Explain(in.question(c))
	if err != nil {
		return err
	}
	if e.Decision.Allowed {
		out.Allowed = append(out.Allowed, whoPrincipal{c.Principal.DisplayARN(), e.Decision.String()})
		return nil
	}
	for i := range e.Steps {
		if s := &e.Steps[i]; s.Depends && s.Effect == policy.Allow && !e.Decision.Explicit {
			step := describeStep(s)
			out.Depends = append(out.Depends, whoPrincipal{c.Principal.DisplayARN(), step.Source + ": " + s.Why})
			break
		}
	}
	return nil
}

// systemUsers are the names in the user database.
func systemUsers() ([]string, error) {
	raw, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil, fmt.Errorf("reading the user database: %w", err)
	}
	var list []string
	for line := range strings.Lines(string(raw)) {
		if name, _, ok := strings.Cut(line, ":"); ok && name != "" && name[0] != '#' {
			list = append(list, name)
		}
	}
	return list, nil
}

// maxNames is how many principals a new key policy may name. Each is looked up in
// the user database, and a policy has no room for many more.
const maxNames = 500

func (d *Daemon) keyPolicy(ctx context.Context, ids *identities, in *keyPolicyRequest) (*keyPolicyAnswer, error) {
	if n := len(in.Admins) + len(in.Users); n > maxNames {
		return nil, fmt.Errorf("%d admins and users, at most %d are allowed: name a group instead", n, maxNames)
	}
	admins, err := ids.arns(ctx, in.Admins)
	if err != nil {
		return nil, err
	}
	users, err := ids.arns(ctx, in.Users)
	if err != nil {
		return nil, err
	}
	text, err := d.kms.ConsolePolicy(admins, users, in.KeySpec, in.KeyUsage)
	if err != nil {
		return nil, err
	}
	return &keyPolicyAnswer{Policy: text}, nil
}

// arns are the ARNs of principals that an administrator names.
func (ids *identities) arns(ctx context.Context, names []string) ([]string, error) {
	var list []string
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err // nobody waits for the answer any more
		}
		c, err := ids.named(name)
		if err != nil {
			return nil, err
		}
		list = append(list, c.Principal.ARN)
	}
	return list, nil
}
