package daemon

import (
	"fmt"
	"slices"
	"strings"

	"cmkd/daemon/journal"
	"cmkd/daemon/policy"
)

// DutyConfig names who has a part in running the daemon without being an
// administrator. It is read again on SIGHUP.
type DutyConfig struct {
	// Users are names or uids.
	Users []string `toml:"users"`
	// Groups are names or gids.
	Groups []string `toml:"groups"`
	// Units are systemd services or scopes; "web@.service" names every instance.
	Units []string `toml:"units"`
}

// members are the administrators, in the form of a duty.
func (a *AdminConfig) members() *DutyConfig { return &DutyConfig{Users: a.Users, Groups: a.Groups} }

// checkUnit refuses what is not the name of a unit that can have processes.
func checkUnit(name string) error {
	if !strings.HasSuffix(name, ".service") && !strings.HasSuffix(name, ".scope") || strings.Contains(name, "/") {
		return fmt.Errorf("unit must be the name of a service or scope, not %q", name)
	}
	return nil
}

// names reports whether the peer is among those that have the duty.
func (d *DutyConfig) names(n *peerNames) bool {
	return slices.Contains(d.Users, n.user) || slices.Contains(d.Users, n.uid) ||
		slices.ContainsFunc(n.groups, func(g groupName) bool {
			return slices.Contains(d.Groups, g.name) || slices.Contains(d.Groups, g.gid)
		}) ||
		n.unit != "" && slices.ContainsFunc(d.Units, func(unit string) bool { return matchUnit(unit, n.unit) })
}

// duties are the configuration's duties.
func (cfg *Config) duties() map[journal.Duties]DutyConfig {
	return map[journal.Duties]DutyConfig{journal.Monitoring: cfg.Monitors, journal.Auditing: cfg.Auditors, journal.Operating: cfg.Operators}
}

// dutyTables are their tables in the configuration.
var dutyTables = map[journal.Duties]string{journal.Monitoring: "monitors", journal.Auditing: "auditors", journal.Operating: "operators"}

// dutiesOf are the duties of the peer.
func (ids *identities) dutiesOf(n *peerNames) (all journal.Duties) {
	for duty, who := range ids.duties {
		if who.names(n) {
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
