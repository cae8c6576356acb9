package daemon

import (
	"log/slog"
	"slices"
	"testing"

	"cmkd/daemon/policy"
	"cmkd/socket"
)

// TestMappedRootIsNoAdministrator: uid 0, or the daemon's own user, is the
// account's root and an administrator, unless a rule makes it something else.
// A user it is mapped to can be listed as an administrator; a role cannot.
func TestMappedRootIsNoAdministrator(t *testing.T) {
	t.Parallel()
	const account = "123456789012"
	role, user := "arn:aws:iam::"+account+":role/web", "arn:aws:iam::"+account+":user/web"
	for _, tt := range []struct {
		name   string
		uid    uint32
		unit   string
		rules  []MapConfig
		admins AdminConfig
		arn    string
		admin  bool
	}{
		{name: "root", arn: "arn:aws:iam::" + account + ":root", admin: true},
		{name: "the daemon's user", uid: 61234, arn: "arn:aws:iam::" + account + ":root", admin: true},
		{name: "somebody", uid: 61235, arn: "arn:aws:iam::" + account + ":user/uid-61235"},
		{name: "root in a unit", unit: "web.service", rules: []MapConfig{{Unit: "web.service", ARN: role}}, arn: role},
		{name: "root in another unit", unit: "db.service", rules: []MapConfig{{Unit: "web.service", ARN: role}}, arn: "arn:aws:iam::" + account + ":root", admin: true},
		{name: "root as a role, listed", rules: []MapConfig{{User: "root", ARN: role}}, admins: AdminConfig{Users: []string{"root"}}, arn: role},
		{name: "root as a user", rules: []MapConfig{{User: "root", ARN: user}}, arn: user},
		{name: "root as a user, listed", rules: []MapConfig{{User: "root", ARN: user}}, admins: AdminConfig{Users: []string{"root"}}, arn: user, admin: true},
		{name: "the daemon's user as a role", uid: 61234, rules: []MapConfig{{User: "61234", ARN: role}}, arn: role},
	} {
		cfg := &Config{Account: account, Admins: tt.admins}
		cfg.Principals.Map = tt.rules
		ids, err := newIdentities(cfg, slog.New(slog.DiscardHandler), false)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		ids.self = 61234
		if tt.unit == "" { // which is read from the control group
			d := &Daemon{}
			d.identities.Store(ids)
			if got := d.privileged(socket.Peer{UID: tt.uid}); got != tt.admin {
				t.Errorf("%s: the reserve of administrators: %v, want %v", tt.name, got, tt.admin)
			}
		}
		c, err := ids.lookup(socket.Peer{UID: tt.uid}, tt.unit)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		everything := slices.ContainsFunc(c.Policies, func(d *policy.Document) bool { return d.Name() == "AdministratorAccess" })
		if c.Principal.ARN != tt.arn || c.Admin != tt.admin || everything != tt.admin {
			t.Errorf("%s: %s, administrator %v, policy %v, want %s, %v", tt.name, c.Principal.ARN, c.Admin, everything, tt.arn, tt.admin)
		}
	}
}
