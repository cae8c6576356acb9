package policy

import (
	"fmt"
	"strconv"
)

// Source is what a decision comes from.
type Source int

// The sources. Of an implicit refusal the source is the kind of policy that
// could have allowed the request and did not.
const (
	KeyPolicySource Source = iota
	IdentityPolicySource
	GrantSource
	// AccountSource: the caller is the account root and the operation is on
	// no key.
	AccountSource
)

// Decision is the answer to a [Request].
type Decision struct {
	Allowed bool
	// Explicit: a Deny statement refused. Otherwise a refusal means that
	// nothing allowed.
	Explicit bool
	Source   Source
	// Policy is the name of the policy that decided and Statement the place of
	// the statement in it, from 0, with its Sid. Statement is -1 if no
	// statement decided.
	Policy    string
	Sid       string
	Statement int
	// GrantID is the grant that allowed.
	GrantID string
	// TooCostly: it would have taken too long to say what the policies mean for
	// this request, so it is refused.
	TooCostly bool

	words string // for String, where a statement decided: the same for each request
}

func (v verdict) decision(source Source, allowed bool) Decision {
	return Decision{
		Allowed:   allowed,
		Explicit:  !allowed,
		Source:    source,
		Policy:    v.policy.name,
		Sid:       v.policy.statements[v.statement].sid,
		Statement: v.statement,
		words:     v.policy.statements[v.statement].words,
	}
}

// wordDecisions puts into words what each statement decides.
func (d *Document) wordDecisions() {
	source := KeyPolicySource
	if d.kind == IdentityPolicy {
		source = IdentityPolicySource
	}
	for i := range d.statements {
		s := &d.statements[i]
		s.words = verdict{policy: d, statement: i}.decision(source, s.effect == Allow).String()
	}
}

// AccessDenied returns the text of the AccessDeniedException for a refusal.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
func (d Decision) AccessDenied(r *Request) string {
	article, kind := "a ", KeyPolicy
	if d.Source == IdentityPolicySource {
		article, kind = "an ", IdentityPolicy
	}
	text := fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s ",
		r.Principal.DisplayARN(), r.Action, r.Resource)
	if d.TooCostly {
		return text + "because the policies are too costly to evaluate for this request"
	}
	if d.Explicit {
		return text + "with an explicit deny in " + article + kind.String()
	}
	return text + fmt.Sprintf("because no %s allows the %s action", kind, r.Action)
}

// HiddenKey returns the text of the AccessDeniedException with which AWS KMS
// keeps to itself whether the key that made a ciphertext exists: it is the same
// for a key that does not exist and for one that the caller may not use.
func HiddenKey(r *Request) string {
	return fmt.Sprintf("User: %s is not authorized to perform: %s on the resource associated with this ciphertext because the "+
		"resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access",
		r.Principal.DisplayARN(), r.Action)
}

// String says for people what decided.
func (d Decision) String() string {
	switch {
	case d.words != "":
		return d.words
	case d.Allowed && d.Source == AccountSource:
		return "allowed: the caller is the account root"
	case d.Allowed && d.Source == GrantSource:
		return "allowed by grant " + d.GrantID
	case d.Allowed:
		return d.place("allowed by ")
	case d.TooCostly:
		return "refused: the policies are too costly to evaluate for this request"
	case d.Explicit:
		return d.place("explicitly denied by ")
	case d.Source == IdentityPolicySource:
		return "refused: no identity-based policy allows it"
	default:
		return "refused: neither the key policy nor a grant allows it"
	}
}

// place names the statement that decided, counting from 1, behind what it did.
func (d Decision) place(did string) string {
	text := did + "statement " + strconv.Itoa(d.Statement+1)
	if d.Sid != "" {
		text += " (" + strconv.Quote(d.Sid) + ")"
	}
	if d.Source == KeyPolicySource {
		return text + " of the key policy"
	}
	return text + " of the identity policy " + d.Policy
}
