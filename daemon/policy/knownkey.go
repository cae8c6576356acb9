package policy

import (
	"slices"
	"strconv"
	"strings"

	"cmkd/daemon/keys"
)

// knownKeys are the condition keys of AWS KMS and of cmkd that have no argument,
// in lower case: those of requests, which are in the table of actions, and those of keys,
// callers and recipients.
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_awskeymanagementservice.html#awskeymanagementservice-policy-keys
var knownKeys = setOf(append(conditionsOfActions(),
	"kms:CallerAccount", "kms:CustomerMasterKeySpec", "kms:CustomerMasterKeyUsage", "kms:EncryptionContextKeys",
	"kms:KeyOrigin", "kms:KeySpec", "kms:KeyUsage", "kms:MultiRegion", "kms:MultiRegionKeyType",
	"kms:ReEncryptOnSameKey", "kms:RecipientAttestation:ImageSha384", "kms:RequestAlias", "kms:ResourceAliases",
	"kms:TrailingDaysWithoutKeyUsage", "kms:ViaService", "cmkd:PeerExecutable", "cmkd:PeerGid", "cmkd:PeerUid",
	"cmkd:PlaintextDataKey",
)...)

func conditionsOfActions() (names []string) {
	for i := range keys.Actions {
		for _, c := range keys.Actions[i].Conditions {
			names = append(names, c.Key)
		}
	}
	return names
}

// registerKeys lead the condition keys about registers of an attested recipient,
// with the number of registers.
var registerKeys = map[string]int{"kms:recipientattestation:pcr": 32, "kms:recipientattestation:nitrotpmpcr": 24}

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[lowerASCII(name)] = true
	}
	return set
}

// KnownKey reports whether a condition key can be in a request, as far as its
// name says. Of keys that are not of AWS KMS or cmkd it knows nothing, and
// reports true: AWS adds global keys all the time.
func KnownKey(name string) bool {
	lower := lowerASCII(name)
	if !strings.HasPrefix(lower, "kms:") && !strings.HasPrefix(lower, "cmkd:") {
		return true
	}
	if knownKeys[lower] || strings.HasPrefix(lower, encryptionContextPrefix) {
		return true
	}
	for prefix, registers := range registerKeys {
		if number, ok := strings.CutPrefix(lower, prefix); ok {
			n, err := strconv.Atoi(number)
			return err == nil && n >= 0 && n < registers && number == strconv.Itoa(n)
		}
	}
	return false
}

// UnknownKeys are the condition keys of the document, as written and sorted, that
// no request ever has (see [KnownKey]). AWS accepts them without a word, and so
// must we; but a Deny on such a key denies nothing.
func (d *Document) UnknownKeys() []string {
	var names []string
	for i := range d.statements {
		for j := range d.statements[i].conditions {
			if name := d.statements[i].conditions[j].key.name; !KnownKey(name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
