package kms

import (
	"unicode/utf8"

	"cmkd/daemon/access"
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
	pairs := access.ConstraintContext(g)
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
