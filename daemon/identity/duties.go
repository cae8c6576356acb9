package identity

import (
	"fmt"
	"slices"

	"cmkd/daemon/config"
	"cmkd/daemon/journal"
	"cmkd/daemon/policy"
)

// has reports whether the peer is among those that have the duty.
func (n *peerNames) has(d *config.Duty) bool {
	return slices.Contains(d.Users, n.user) || slices.Contains(d.Users, n.uid) ||
		slices.ContainsFunc(n.groups, func(g groupName) bool {
			return slices.Contains(d.Groups, g.name) || slices.Contains(d.Groups, g.gid)
		}) ||
		n.unit != "" && slices.ContainsFunc(d.Units, func(unit string) bool { return matchUnit(unit, n.unit) })
}

// dutiesOf are the duties of the peer.
func (ids *Identities) dutiesOf(n *peerNames) (all journal.Duties) {
	for duty, who := range ids.duties {
		if n.has(&who) {
			all |= duty
		}
	}
	return all
}

// auditorAccess is the identity policy of the configuration's auditors: to see keys,
// aliases, policies, grants and tags, and to use and change nothing. Like
// administratorAccess it counts where a key policy hands over to the account.
const auditorAccess = `{"Version":"2012-10-17","Statement":[{"Sid":"AuditorAccess","Effect":"Allow","Action":["kms:Describe*","kms:List*","kms:GetKey*","kms:GetPublicKey"],"Resource":"*"}]}`

// builtinPolicies are the identity policies that cmkd itself gives.
type builtinPolicies struct{ administrator, auditor *policy.Document }

func parseBuiltinPolicies() (b builtinPolicies, err error) {
	if b.administrator, err = policy.Parse([]byte(administratorAccess), policy.IdentityPolicy, policy.WithName("AdministratorAccess")); err != nil {
		return b, fmt.Errorf("compiling the administrators' policy: %w", err)
	}
	if b.auditor, err = policy.Parse([]byte(auditorAccess), policy.IdentityPolicy, policy.WithName("AuditorAccess")); err != nil {
		return b, fmt.Errorf("compiling the auditors' policy: %w", err)
	}
	return b, nil
}
