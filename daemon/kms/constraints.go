package kms

import (
	"unicode/utf8"

	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// Limits of a constraint on the encryption context:
// https://docs.aws.amazon.com/kms/latest/APIReference/API_CreateGrant.html#KMS-CreateGrant-request-Constraints
const (
	maxConstraintPairs = 8
	maxConstraintValue = 384 // characters
)

// constrain gives the grant its constraints. Of the two about the encryption
// context one may be there, and the other empty: so Terraform sends them.
func constrain(g *store.Grant, in *kmsapi.GrantConstraints) error {
	if in == nil {
		return nil
	}
	g.ContextEquals, g.ContextSubset, g.SourceArn = in.EncryptionContextEquals, in.EncryptionContextSubset, in.SourceArn
	switch {
	case g.ContextEquals == nil || g.ContextSubset == nil:
	case len(g.ContextSubset) == 0:
		g.ContextSubset = nil
	case len(g.ContextEquals) == 0:
		g.ContextEquals = nil
	default:
		return kmsapi.Errorf(kmsapi.CodeValidationException, "More than one constraint supplied")
	}
	pairs := constraintContext(g)
	if len(pairs) > maxConstraintPairs {
		return kmsapi.Errorf(kmsapi.CodeValidationException, "A grant constraint can have at most %d encryption context pairs.", maxConstraintPairs)
	}
	for _, value := range pairs {
		if utf8.RuneCountInString(value) > maxConstraintValue {
			return kmsapi.Errorf(kmsapi.CodeValidationException, "The values of a grant constraint can have at most %d characters.", maxConstraintValue)
		}
	}
	return nil
}

// maxContext is how many characters the names and values of an encryption
// context have in all. AWS documents no limit; what its users report is 8,192.
// What is longer would be evaluated by policies, authenticated and recorded with
// every call.
const maxContext = 8192

// checkContext refuses an encryption context that is too long. The message is
// ours: AWS's is not known.
func checkContext(context map[string]string) error {
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

// constraintContext is the encryption context of the grant's constraint, which
// is what kms:EncryptionContext:KEY and kms:EncryptionContextKeys are of
// CreateGrant.
func constraintContext(g *store.Grant) map[string]string {
	if g.ContextEquals != nil {
		return g.ContextEquals
	}
	return g.ContextSubset
}
