package identity

import (
	"log/slog"
	"slices"
	"testing"

	"cmkd/daemon/config"
	"cmkd/daemon/journal"
	"cmkd/daemon/policy"
	"cmkd/socket"
)

// TestDuties: duties go to users, groups and units, and to nobody who is mapped to a role.
func TestDuties(t *testing.T) {
	t.Parallel()
	const account = "123456789012"
	for _, tt := range []struct {
		name   string
		peer   socket.Peer
		unit   string
		rules  []config.Map
		duties journal.Duties
	}{
		{name: "nobody", peer: socket.Peer{UID: 61300, GID: 61300}},
		{name: "a user", peer: socket.Peer{UID: 61301, GID: 61300}, duties: journal.Auditing},
		{name: "a group", peer: socket.Peer{UID: 61300, GID: 61300, Groups: []uint32{7, 61302}}, duties: journal.Operating},
		{name: "a group that is the first", peer: socket.Peer{UID: 61300, GID: 61302}, duties: journal.Operating},
		{name: "a user whose number is the group's", peer: socket.Peer{UID: 61302, GID: 61300}},
		{name: "a unit", peer: socket.Peer{UID: 61300, GID: 61300}, unit: "exporter.service", duties: journal.Monitoring},
		{name: "an instance", peer: socket.Peer{UID: 61300, GID: 61300}, unit: "node@1.service", duties: journal.Monitoring},
		{name: "another unit", peer: socket.Peer{UID: 61300, GID: 61300}, unit: "exporter.scope"},
		{name: "two", peer: socket.Peer{UID: 61301, GID: 61302}, unit: "exporter.service", duties: journal.Auditing | journal.Operating | journal.Monitoring},
		{
			name: "mapped to a user", peer: socket.Peer{UID: 61301, GID: 61300},
			rules: []config.Map{{User: "61301", ARN: "arn:aws:iam::" + account + ":user/web"}}, duties: journal.Auditing,
		},
		{
			name: "mapped to a role", peer: socket.Peer{UID: 61301, GID: 61302}, unit: "exporter.service",
			rules: []config.Map{{User: "61301", ARN: "arn:aws:iam::" + account + ":role/web"}},
		},
	} {
		cfg := &config.Config{
			Account: account, Auditors: config.Duty{Users: []string{"61301"}}, Operators: config.Duty{Groups: []string{"61302"}},
			Monitors: config.Duty{Units: []string{"exporter.service", "node@.service"}},
		}
		cfg.Principals.Map = tt.rules
		ids, err := New(cfg, slog.New(slog.DiscardHandler), false)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		c, err := ids.lookup(tt.peer, tt.unit)
		if err != nil {
			t.Fatal(err)
		}
		sees := slices.ContainsFunc(c.Policies, func(d *policy.Document) bool { return d.Name() == "AuditorAccess" })
		if c.Duties != tt.duties || c.Admin || sees != (tt.duties&journal.Auditing != 0) {
			t.Errorf("%s: %b, administrator %v, policy %v, want %b", tt.name, c.Duties, c.Admin, sees, tt.duties)
		}
	}
}

// TestUnknownDuties: a name that nobody has must not wait for somebody who gets it.
func TestUnknownDuties(t *testing.T) {
	t.Parallel()
	for _, d := range []config.Duty{{Users: []string{""}}, {Groups: []string{""}}, {Users: []string{"no-such-user"}}, {Groups: []string{"no-such-group"}}, {Units: []string{"web"}}, {Units: []string{"a/b.service"}}} {
		if _, err := New(&config.Config{Account: "123456789012", Monitors: d}, slog.New(slog.DiscardHandler), false); err == nil {
			t.Errorf("%+v is taken", d)
		}
		if _, err := New(&config.Config{Account: "123456789012", Admins: config.Admins{Users: d.Users, Groups: d.Groups}}, slog.New(slog.DiscardHandler), false); err == nil && d.Units == nil {
			t.Errorf("%+v is taken of administrators", d)
		}
	}
}
