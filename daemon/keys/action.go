package keys

import (
	"strings"

	"cmkd/backends"
)

// Action is a permission of AWS KMS, and what is to be known of the operation that needs
// it. Policies and grants, the question what they would decide, the states in which keys
// refuse, and the records read all of it from the one table, [Actions].
type Action struct {
	Name string // without "kms:"
	// Of is the operation that needs the permission, "" if it is called the same:
	// ReEncrypt needs two, of which the one for the source comes first.
	Of string

	// Aliases: KeyId may be an alias. Management operations refuse aliases.
	Aliases bool
	// Refuses says in which states of the key the operation is refused.
	Refuses Refusals
	// Origin is the only origin of keys that the operation takes, "" any.
	Origin Origin
	// Usage is the one that the key must have, "" any.
	Usage backends.Usage
	// Uses: the operation counts as a use of the key (GetKeyLastUsage).
	Uses bool
	// ReadOnly is CloudTrail's readOnly.
	ReadOnly bool
	// Believed: what the operation answers would be believed, so that it is not served
	// from a database that does not verify, as others are that only show it.
	Believed bool

	// Context is the member of the request with the encryption context, "" if it has
	// none, as the audit trail writes it. Constraints of grants apply to those that
	// have one.
	Context string
	// Grant says on which keys a grant can allow the action.
	Grant Grantable
	// Conditions are the condition keys that come from the request.
	Conditions []Condition

	permission string // kept by index
}

// Condition is a condition key whose value comes from a member of the request.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
type Condition struct {
	Key string // such as "kms:MessageType"
	// Member is the one of the request, as the audit trail writes it, "" if the value
	// comes from elsewhere.
	Member string
	// Default is the value if the request has none, "" if the condition key is absent
	// then.
	Default string
	// Preset: the default stands for a member that the request has not got, which a
	// condition with IfExists or Null sees.
	Preset bool
	// Symmetric: the default is that of symmetric encryption keys.
	Symmetric bool
}

// Grantable says on which keys a grant can allow an action.
// https://docs.aws.amazon.com/kms/latest/developerguide/grants.html#terms-grant-operations
type Grantable uint8

// The values of [Action.Grant].
const (
	Never        Grantable = iota
	OnAny                  // key
	OnUsage                // keys with the usage of the action
	OnSymmetric            // encryption keys, which alone make data keys
	OnAsymmetric           // keys, which alone have a public key
)

// Grantable reports whether a grant on a key of the spec and usage can allow the action.
func (a *Action) Grantable(spec backends.KeySpec, usage backends.Usage) bool {
	switch a.Grant {
	case OnAny:
		return true
	case OnUsage:
		return usage == a.Usage
	case OnSymmetric:
		return spec == backends.SymmetricDefault
	case OnAsymmetric:
		return TypeOf(spec, usage) == Asymmetric
	case Never:
	}
	return false
}

// Operation is the operation that needs the action.
func (a *Action) Operation() string {
	if a.Of != "" {
		return a.Of
	}
	return a.Name
}

// Permission is the action as policies write it, such as "kms:Encrypt".
func (a *Action) Permission() string {
	if a.permission != "" {
		return a.permission
	}
	return "kms:" + a.Name
}

// Inspects reports whether the operation shows the database and no more.
func (a *Action) Inspects() bool { return a.ReadOnly && !a.Uses && !a.Believed }

// actionsByName are the rows of the table.
var actionsByName, operationsByName, lowerNames = index()

func index() (actions, operations, lower map[string]*Action) {
	actions, operations, lower = map[string]*Action{}, map[string]*Action{}, map[string]*Action{}
	for i := range Actions {
		a := &Actions[i]
		a.permission = a.Permission()
		actions[a.Name], lower[strings.ToLower(a.Name)] = a, a
		if operations[a.Operation()] == nil {
			operations[a.Operation()] = a
		}
	}
	return actions, operations, lower
}

// ActionNamed finds an action by its name without "kms:"; nil if there is none.
func ActionNamed(name string) *Action { return actionsByName[name] }

// ActionFolded is ActionNamed for a name in any case, with "kms:" or without.
func ActionFolded(name string) *Action {
	return lowerNames[strings.TrimPrefix(strings.ToLower(name), "kms:")]
}

// ActionOf is the action that an operation needs, of ReEncrypt the first one; nil if there
// is no such operation.
func ActionOf(operation string) *Action { return operationsByName[operation] }
