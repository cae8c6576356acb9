package kms_test

import (
	"fmt"
	"testing"
	"time"
)

// TestAbsentMembersAreNull: a member that the request leaves out is Null, also
// where the operation has a default.
func TestAbsentMembersAreNull(t *testing.T) {
	t.Parallel()
	a := newAsker(t)
	key := func(pairs ...any) map[string]any {
		in := map[string]any{"KeyId": a.keyID}
		for i := 0; i < len(pairs); i += 2 {
			in[pairs[i].(string)] = pairs[i+1]
		}
		return in
	}
	validTo := a.now.Add(time.Hour).Unix()
	material := func(pairs ...any) map[string]any {
		return key(append(pairs, "ImportToken", "eA==", "EncryptedKeyMaterial", "eA==")...)
	}
	signing := func(pairs ...any) map[string]any {
		return key(append(pairs, "Message", "eA==", "Signature", "eA==", "SigningAlgorithm", "ECDSA_SHA_256")...)
	}
	for _, tt := range []struct {
		action, key   string
		given, absent map[string]any
		// preset is the value that limits the operation without the member, "" for
		// none: the guide has examples where the key must be absent altogether.
		preset string
	}{
		{"PutKeyPolicy", "kms:BypassPolicyLockoutSafetyCheck", key("Policy", askAllow, "BypassPolicyLockoutSafetyCheck", false), key("Policy", askAllow), ""},
		{"CreateKey", "kms:BypassPolicyLockoutSafetyCheck", map[string]any{"BypassPolicyLockoutSafetyCheck": false}, map[string]any{}, ""},
		{"ImportKeyMaterial", "kms:ExpirationModel", material("ExpirationModel", "KEY_MATERIAL_EXPIRES", "ValidTo", validTo), material("ValidTo", validTo), ""},
		{"ImportKeyMaterial", "kms:ValidTo", material("ValidTo", validTo), material("ExpirationModel", "KEY_MATERIAL_DOES_NOT_EXPIRE"), ""},
		{"Sign", "kms:MessageType", signing("MessageType", "RAW"), signing(), "RAW"},
		{"Verify", "kms:MessageType", signing("MessageType", "RAW"), signing(), "RAW"},
		{"EnableKeyRotation", "kms:RotationPeriodInDays", key("RotationPeriodInDays", 365), key(), "365"},
		{"ScheduleKeyDeletion", "kms:ScheduleKeyDeletionPendingWindowInDays", key("PendingWindowInDays", 30), key(), "30"},
		{"CreateGrant", "kms:RetiringPrincipal", key("GranteePrincipal", a.userARN, "RetiringPrincipal", a.userARN, "Operations", []string{"Decrypt"}), key("GranteePrincipal", a.userARN, "Operations", []string{"Decrypt"}), ""},
		{"CreateKey", "aws:ResourceTag/team", map[string]any{"Tags": []any{tag("team", "a")}}, map[string]any{}, ""},
		{"CreateKey", "kms:MultiRegionKeyType", map[string]any{"MultiRegion": true}, map[string]any{}, ""},
	} {
		isNull := fmt.Sprintf(`{"Null":{%q:"true"}}`, tt.key)
		if !a.denies(t, tt.action, tt.action, tt.absent, isNull) {
			t.Errorf("%s without the member: %s is not Null", tt.action, tt.key)
		}
		if a.denies(t, tt.action, tt.action, tt.given, isNull) {
			t.Errorf("%s with the member: %s is Null", tt.action, tt.key)
		}
		anything := fmt.Sprintf(`{"StringLike":{%q:"*"}}`, tt.key)
		if got := a.denies(t, tt.action, tt.action, tt.absent, anything); got != (tt.preset != "") {
			t.Errorf("%s without the member: a Deny of any %s applies: %t", tt.action, tt.key, got)
		}
		if tt.preset != "" && !a.denies(t, tt.action, tt.action, tt.absent, fmt.Sprintf(`{"StringEquals":{%q:%q}}`, tt.key, tt.preset)) {
			t.Errorf("%s without the member evades a Deny of %s = %s, which is what it does", tt.action, tt.key, tt.preset)
		}
	}
}

// TestValidToOperators: kms:ValidTo is a date, and seconds of the Unix epoch.
func TestValidToOperators(t *testing.T) {
	t.Parallel()
	a := newAsker(t)
	at := a.now.Add(time.Hour)
	in := map[string]any{
		"KeyId": a.keyID, "ImportToken": "eA==", "EncryptedKeyMaterial": "eA==", "ExpirationModel": "KEY_MATERIAL_EXPIRES",
		"ValidTo": float64(at.UnixMilli()+500) / 1000,
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%d.0", at.Add(d).Unix()) }
	date := func(d time.Duration) string { return at.Add(d).Format(time.RFC3339) }
	for _, tt := range []struct {
		operator, value string
		want            bool
	}{
		{"NumericLessThanEquals", seconds(time.Second), true},
		{"NumericLessThanEquals", seconds(0), false}, // half a second later
		{"NumericGreaterThan", seconds(0), true},
		{"NumericEquals", fmt.Sprintf("%d.5", at.Unix()), true},
		{"NumericEquals", seconds(0), false},
		{"DateLessThan", date(time.Second), true},
		{"DateLessThan", date(0), false},
		{"DateGreaterThan", date(0), true},
		{"DateGreaterThan", seconds(0), true},
		{"DateLessThanEquals", seconds(time.Second), true},
		{"DateEquals", fmt.Sprintf("%d.5", at.Unix()), true},
		{"DateEquals", date(0), false},
	} {
		condition := fmt.Sprintf(`{%q:{"kms:ValidTo":%q}}`, tt.operator, tt.value)
		if got := a.denies(t, "ImportKeyMaterial", "ImportKeyMaterial", in, condition); got != tt.want {
			t.Errorf("ValidTo %s %s: %t, want %t", tt.operator, tt.value, got, tt.want)
		}
	}
}
