package operator

import (
	"maps"
	"slices"
	"testing"

	"cmkd/daemon/keys"
)

// TestPastConditions: a recorded call has the condition keys that the call itself had.
func TestPastConditions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		action     string
		parameters map[string]any
		want       map[string][]string
	}{
		{"Encapsulate", map[string]any{"encapsulationAlgorithm": "ML_KEM"}, map[string][]string{"kms:EncapsulationAlgorithm": {"ML_KEM"}}},
		{"ReEncryptFrom", map[string]any{"sourceEncryptionAlgorithm": "A", "destinationEncryptionAlgorithm": "B"}, map[string][]string{"kms:EncryptionAlgorithm": {"A"}}},
		{"ReEncryptTo", map[string]any{"sourceEncryptionAlgorithm": "A", "destinationEncryptionAlgorithm": "B"}, map[string][]string{"kms:EncryptionAlgorithm": {"B"}}},
		{"CreateGrant", map[string]any{"operations": []any{"Decrypt"}, "granteePrincipal": "g"}, map[string][]string{"kms:GrantOperations": {"Decrypt"}, "kms:GranteePrincipal": {"g"}}},
		{"ListGrants", map[string]any{"granteePrincipal": "g"}, map[string][]string{}}, // no condition key of ListGrants
		{"ScheduleKeyDeletion", map[string]any{"pendingWindowInDays": 7.0}, map[string][]string{"kms:ScheduleKeyDeletionPendingWindowInDays": {"7"}}},
	} {
		if got := pastConditions(keys.ActionNamed(c.action), c.parameters); !maps.EqualFunc(got, c.want, slices.Equal) {
			t.Errorf("%s has %v, want %v", c.action, got, c.want)
		}
	}
}
