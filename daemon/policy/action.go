package policy

import (
	"strings"

	"cmkd/daemon/keys"
)

// actionBits has one bit for each of [keys.Actions], to whose order it is of no
// consequence: policies are compiled to bit sets over it when they are parsed.
type actionBits uint64

// allActions has the bit of every known action.
var allActions = actionBits(1)<<len(keys.Actions) - 1

// actionBit maps an action ("kms:Encrypt") to its bit, and lowerActions holds
// the same names in lower case, by bit number.
var actionBit, lowerActions = indexActions()

func indexActions() (bit map[string]actionBits, lower []string) {
	bit, lower = make(map[string]actionBits, len(keys.Actions)), make([]string, len(keys.Actions))
	for i := range keys.Actions {
		name := keys.Actions[i].Name
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
