package access

import (
	"unicode/utf8"

	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// ConstraintConditions is what CreateGrant and RetireGrant say of the grant's
// constraint.
func ConstraintConditions(g *store.Grant) []Condition {
	switch {
	case g.ContextEquals != nil:
		return []Condition{Says("kms:GrantConstraintType", "EncryptionContextEquals")}
	case g.ContextSubset != nil:
		return []Condition{Says("kms:GrantConstraintType", "EncryptionContextSubset")}
	default:
		return nil
	}
}

// ErrGrantNotFound answers about a grant that is not there.
func ErrGrantNotFound(id string) error {
	return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Grant ID %s not found", id)
}

// maxContext is how many characters the names and values of an encryption
// context have in all. AWS documents no limit; what its users report is 8,192.
// What is longer would be evaluated by policies, authenticated and recorded with
// every call.
const maxContext = 8192

// CheckContext refuses an encryption context that is too long. The message is
// ours: AWS's is not known.
func CheckContext(context map[string]string) error {
	n := 0
	for name, value := range context {
		n += utf8.RuneCountInString(name) + utf8.RuneCountInString(value)
	}
	if n > maxContext {
		return kmsapi.Errorf(kmsapi.CodeValidationException,
			"The encryption context has %d characters, the most that its names and values may have together is %d.", n, maxContext)
	}
	return nil
}

// ConstraintContext is the encryption context of the grant's constraint, which
// is what kms:EncryptionContext:KEY and kms:EncryptionContextKeys are of
// CreateGrant.
func ConstraintContext(g *store.Grant) map[string]string {
	if g.ContextEquals != nil {
		return g.ContextEquals
	}
	return g.ContextSubset
}
