package policy

import "strings"

// actionNames are the actions of AWS KMS: its operations, with ReEncrypt as the
// two permissions that it needs. Their order is of no consequence; policies are
// compiled to bit sets over it when they are parsed.
// https://docs.aws.amazon.com/kms/latest/developerguide/kms-api-permissions-reference.html
var actionNames = [...]string{
	"CancelKeyDeletion", "ConnectCustomKeyStore", "CreateAlias", "CreateCustomKeyStore", "CreateGrant",
	"CreateKey", "Decapsulate", "Decrypt", "DeleteAlias", "DeleteCustomKeyStore",
	"DeleteImportedKeyMaterial", "DeriveSharedSecret", "DescribeCustomKeyStores", "DescribeKey", "DisableKey",
	"DisableKeyRotation", "DisconnectCustomKeyStore", "EnableKey", "EnableKeyRotation", "Encapsulate",
	"Encrypt", "GenerateDataKey", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
	"GenerateDataKeyWithoutPlaintext", "GenerateMac", "GenerateRandom", "GetKeyLastUsage", "GetKeyPolicy",
	"GetKeyRotationStatus", "GetParametersForImport", "GetPublicKey", "ImportKeyMaterial", "ListAliases",
	"ListGrants", "ListKeyPolicies", "ListKeyRotations", "ListKeys", "ListResourceTags",
	"ListRetirableGrants", "PutKeyPolicy", "ReEncryptFrom", "ReEncryptTo", "ReplicateKey", "RetireGrant",
	"RevokeGrant", "RotateKeyOnDemand", "ScheduleKeyDeletion", "Sign", "TagResource", "UntagResource",
	"UpdateAlias", "UpdateCustomKeyStore", "UpdateKeyDescription", "UpdatePrimaryRegion", "Verify", "VerifyMac",
}

// actionBits has one bit for each of actionNames.
type actionBits uint64

var _ [64 - len(actionNames)]struct{} // the names must fit into actionBits

// allActions has the bit of every known action.
const allActions actionBits = 1<<len(actionNames) - 1

// actionBit maps an action ("kms:Encrypt") to its bit, and lowerActions holds
// the same names in lower case, by bit number.
var actionBit, lowerActions = indexActions()

func indexActions() (bit map[string]actionBits, lower [len(actionNames)]string) {
	bit = make(map[string]actionBits, len(actionNames))
	for i, name := range actionNames {
		bit["kms:"+name] = 1 << i
		lower[i] = "kms:" + strings.ToLower(name)
	}
	return bit, lower
}

// actionSet is an Action or a NotAction element.
type actionSet struct {
	bits     actionBits // the known actions that the element matches
	not      bool
	patterns []pattern // in lower case
}

// newActionSet compiles an element. Actions are matched without regard to case.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_action.html
func newActionSet(patterns []pattern, not bool) actionSet {
	s := actionSet{not: not, patterns: patterns}
	for i, name := range lowerActions {
		if matchesAny(patterns, name) {
			s.bits |= 1 << i
		}
	}
	if not {
		s.bits = allActions &^ s.bits
	}
	return s
}

// matches reports whether the element matches the action, which is given as its
// bit or, if it is not a known one, by its name in lower case.
func (s *actionSet) matches(bit actionBits, lower string) bool {
	if bit != 0 {
		return s.bits&bit != 0
	}
	return matchesAny(s.patterns, lower) != s.not
}

// matchesAny matches an action, which is short.
func matchesAny(patterns []pattern, value string) bool {
	for i := range patterns {
		b := newBudget()
		if patterns[i].matchLiteral(&b, value) {
			return true
		}
	}
	return false
}

// CanonicalAction returns the action of that name, which may lack "kms:" and be
// in any case, as AWS spells it: "kms:Decrypt" for "decrypt".
func CanonicalAction(name string) (action string, ok bool) {
	lower := "kms:" + strings.TrimPrefix(strings.ToLower(name), "kms:")
	for i := range lowerActions {
		if lowerActions[i] == lower {
			return "kms:" + actionNames[i], true
		}
	}
	return "", false
}
