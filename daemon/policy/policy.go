// Package policy decides who may do what: it parses key policies and identity
// policies and evaluates them, with grants, as AWS documents it.
//
// The package is pure. It reads no clock, no file and no network; everything a
// decision depends on is in the [Request], the [Document] values and the
// [Grant] values given to [Evaluate]. A Document is immutable once parsed and
// may be used by any number of goroutines.
//
// The order of a decision, for one account
// (https://docs.aws.amazon.com/kms/latest/developerguide/policy-evaluation.html):
//
//  1. an explicit Deny in the key policy or in an identity policy refuses;
//  2. the key policy alone may allow a principal that it names;
//  3. where the key policy names the account, an identity policy may allow;
//  4. a grant allows its operations to its grantee;
//  5. everything else is refused.
//
// Where AWS's documentation leaves a case open, the choice that refuses is
// taken, and the code says so.
package policy

import "slices"

// MaxSize is the largest policy document in bytes.
// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html#key-policy-format
const MaxSize = 32 << 10

// Kind says what a policy document hangs on, which decides its grammar.
type Kind int

const (
	// KeyPolicy is the resource-based policy of one key: each statement has
	// a Principal or a NotPrincipal.
	KeyPolicy Kind = iota
	// IdentityPolicy belongs to a user, group or role: no statement may name
	// a principal.
	IdentityPolicy
)

// String returns AWS's term for the kind of policy.
func (k Kind) String() string {
	if k == IdentityPolicy {
		return "identity-based policy"
	}
	return "resource-based policy"
}

// Effect is what a statement does to the requests that it matches.
type Effect int

// The two effects of the policy language.
const (
	Allow Effect = iota
	Deny
)

// String returns the effect as policies spell it.
func (e Effect) String() string {
	if e == Deny {
		return "Deny"
	}
	return "Allow"
}

// Document is a parsed and compiled policy.
type Document struct {
	kind       Kind
	name       string
	id         string
	version    string
	statements []statement
	principals []string
}

// Kind returns what the document was parsed as.
func (d *Document) Kind() Kind { return d.kind }

// Name returns the name given with [WithName].
func (d *Document) Name() string { return d.name }

// ID returns the Id element, "" if there is none.
func (d *Document) ID() string { return d.id }

// Version returns the version of the policy language, "2008-10-17" where the
// document does not say.
func (d *Document) Version() string { return d.version }

// Len returns the number of statements.
func (d *Document) Len() int { return len(d.statements) }

// Principals returns the principals that the document names, sorted and
// without repetition, so that a caller can check that they exist: ARNs of
// users, roles, groups and sessions, an account as its root ARN, services by
// name. "*" is not among them.
func (d *Document) Principals() []string { return slices.Clone(d.principals) }

// LocksOut reports whether, with d as the key policy, the caller could not
// replace it again: PutKeyPolicy and CreateKey refuse such a policy unless told
// not to ("The new key policy will not allow you to update the key policy in
// the future."). r is the present request; its action is taken to be
// kms:PutKeyPolicy and its resource the key that d is for. As in AWS, the
// caller's identity policies count where d hands over to the account.
// https://docs.aws.amazon.com/kms/latest/APIReference/API_PutKeyPolicy.html
func (d *Document) LocksOut(r *Request, identity []*Document) bool {
	again := *r
	again.Action = "kms:PutKeyPolicy"
	return !Evaluate(&again, d, identity, nil).Allowed
}

// statement is one compiled statement.
type statement struct {
	sid        string
	effect     Effect
	principals principalSet // key policies only
	actions    actionSet
	resources  resourceSet
	conditions []condition
	words      string // of a decision by it
}
