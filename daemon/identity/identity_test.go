package identity

import (
	"log/slog"
	"slices"
	"testing"

	"cmkd/daemon/config"
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
		rules  []config.Map
		admins config.Admins
		arn    string
		admin  bool
	}{
		{name: "root", arn: "arn:aws:iam::" + account + ":root", admin: true},
		{name: "the daemon's user", uid: 61234, arn: "arn:aws:iam::" + account + ":root", admin: true},
		{name: "somebody", uid: 61235, arn: "arn:aws:iam::" + account + ":user/uid-61235"},
		{name: "root in a unit", unit: "web.service", rules: []config.Map{{Unit: "web.service", ARN: role}}, arn: role},
		{name: "root in another unit", unit: "db.service", rules: []config.Map{{Unit: "web.service", ARN: role}}, arn: "arn:aws:iam::" + account + ":root", admin: true},
		{name: "root as a role, listed", rules: []config.Map{{User: "root", ARN: role}}, admins: config.Admins{Users: []string{"root"}}, arn: role},
		{name: "root as a user", rules: []config.Map{{User: "root", ARN: user}}, arn: user},
		{name: "root as a user, listed", rules: []config.Map{{User: "root", ARN: user}}, admins: config.Admins{Users: []string{"root"}}, arn: user, admin: true},
		{name: "the daemon's user as a role", uid: 61234, rules: []config.Map{{User: "61234", ARN: role}}, arn: role},
	} {
		cfg := &config.Config{Account: account, Admins: tt.admins}
		cfg.Principals.Map = tt.rules
		ids, err := New(cfg, slog.New(slog.DiscardHandler), false)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		ids.self = 61234
		if tt.unit == "" { // which is read from the control group
			if got := ids.Privileged(socket.Peer{UID: tt.uid}); got != tt.admin {
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
