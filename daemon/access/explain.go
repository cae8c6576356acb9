package access

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// Question is a call that nobody makes: what would the policies say to it?
type Question struct {
	Caller *journal.Caller
	Action string // such as "kms:Decrypt"; see [keys.ActionFolded]
	KeyID  string // as in a request, an alias too; "" for what is on no key
	Region string // "" means the service's own
	// Policy is a key policy to be checked against the call instead of the key's
	// own; "" means that.
	Policy            string
	EncryptionContext map[string]string
	// Conditions are values of condition keys that the call would have. What an
	// operation has by default need not be given.
	Conditions map[string][]string
	Now        time.Time // zero means now
}

// Explanation is the answer to a [Question].
type Explanation struct {
	policy.Trace
	Action   string
	Resource string          // ARN of the key, "*" if there is none
	KeyState kmsapi.KeyState // which counts after the policies; "" without a key
}

// reEncryptHint says which actions belong to the operation ReEncrypt, which has two.
func reEncryptHint(action string) string {
	if strings.EqualFold(strings.TrimPrefix(action, "kms:"), "ReEncrypt") {
		return ": use kms:ReEncryptFrom or kms:ReEncryptTo"
	}
	return ""
}

// Explain says what the policies and grants would decide, and why.
func (s *Access) Explain(q *Question) (*Explanation, error) {
	action := keys.ActionFolded(q.Action)
	if action == nil {
		return nil, fmt.Errorf("unknown action %q%s", q.Action, reEncryptHint(q.Action))
	}
	if err := CheckContext(q.EncryptionContext); err != nil {
		return nil, err
	}
	c := &journal.Call{Caller: *q.Caller, Region: s.regionOr(q.Region), View: s.Store.View()}
	d := &Demand{KeyID: q.KeyID, Action: action, Context: q.EncryptionContext}
	for _, name := range slices.Sorted(maps.Keys(q.Conditions)) {
		d.Conditions = append(d.Conditions, Condition{name, q.Conditions[name]})
	}
	r := s.policyRequest(c, d)
	if !q.Now.IsZero() {
		r.Now = q.Now
	}
	if q.KeyID == "" {
		r.Resource = "*"
		r.Context = &keyContext{s: s, c: c, d: d}
		return &Explanation{Trace: policy.Explain(r, nil, c.Caller.Policies, nil), Action: "kms:" + action.Name, Resource: r.Resource}, nil
	}
	row, alias, err := s.Resolve(c.View, c.Region, q.KeyID, true)
	if err != nil {
		return nil, err
	}
	d.addDefaults(row)
	k := &Key{Key: row, ARN: s.KeyARN(row.Region, row.ID), View: c.View}
	r.Resource, r.Context = k.ARN, &keyContext{s: s, c: c, d: d, key: row, alias: alias}
	document, err := s.policyIn(q, row)
	if err != nil {
		return nil, err
	}
	return &Explanation{
		Trace:  policy.Explain(r, document, c.Caller.Policies, s.allGrants(c, k)),
		Action: "kms:" + action.Name, Resource: k.ARN, KeyState: s.KeyState(c.View, row),
	}, nil
}

func (s *Access) regionOr(region string) string {
	if region == "" {
		return s.Region
	}
	return region
}

// policyIn is the key policy that the question is about.
func (s *Access) policyIn(q *Question, row *store.Key) (*policy.Document, error) {
	if q.Policy == "" {
		return s.policies.parse(row.Policy)
	}
	return s.policies.parse(q.Policy)
}

// addDefaults adds the condition keys that the operation has by default and the
// question does not mention.
func (d *Demand) addDefaults(row *store.Key) {
	for _, cond := range d.Action.Conditions {
		if cond.Default == "" || cond.Symmetric && (row.Spec != keys.SymmetricDefault || row.Usage != backends.EncryptDecrypt) {
			continue
		}
		if slices.ContainsFunc(d.Conditions, func(c Condition) bool { return policy.EqualFold(c.name, cond.Key) }) {
			continue
		}
		d.Conditions = append(d.Conditions, Says(cond.Key, cond.Default))
		if cond.Preset {
			d.Presets = append(d.Presets, cond.Key)
		}
	}
}

// CheckPolicy parses a key policy as PutKeyPolicy would for a key, and says what
// is wrong with it. unknown are its condition keys that no request ever has.
func (s *Access) CheckPolicy(text string) (unknown []string, err error) {
	if text == "" {
		return nil, errors.New("the policy is empty")
	}
	d, err := s.parsePolicy(text)
	if err != nil {
		return nil, err
	}
	return d.UnknownKeys(), nil
}

// PrincipalsOf are the principals that the key's policy and grants name, sorted.
func (s *Access) PrincipalsOf(region, keyID string) ([]string, error) {
	view := s.Store.View()
	row, _, err := s.Resolve(view, s.regionOr(region), keyID, true)
	if err != nil {
		return nil, err
	}
	document, err := s.policies.parse(row.Policy)
	if err != nil {
		return nil, err
	}
	names := document.Principals()
	seen := map[string]bool{}
	for g := range view.GrantsOf(row.Region, row.ID, "") {
		if !seen[g.Grantee] {
			seen[g.Grantee] = true
			names = append(names, g.Grantee)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// ARNOf is the ARN of the key that an identifier names.
func (s *Access) ARNOf(region, keyID string) (string, error) {
	row, _, err := s.Resolve(s.Store.View(), s.regionOr(region), keyID, true)
	if err != nil {
		return "", err
	}
	return s.KeyARN(row.Region, row.ID), nil
}
