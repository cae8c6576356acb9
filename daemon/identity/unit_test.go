package identity

import (
	"testing"
)

func TestUnitOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ cgroup, want string }{
		{"/system.slice/web.service", "web.service"},
		{"/system.slice/system-web.slice/web@1.service", "web@1.service"},
		{"/system.slice/web.service/worker", "web.service"},
		{"/system.slice/web.service/db.service", "web.service"},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", "user@1000.service"},
		{"/user.slice/user-1000.slice/session-3.scope", "session-3.scope"},
		{"/_cpu.service", "cpu.service"},
		{"/web/web.service", ""}, // a folder that systemd did not make
		{"/system.slice", ""},
		{"/", ""},
		{"", ""},
		{"/../../system.slice/web.service", ""},
	} {
		if got := unitOf(tt.cgroup); got != tt.want {
			t.Errorf("unitOf(%q) is %q, want %q", tt.cgroup, got, tt.want)
		}
	}
}

func TestMatchUnit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule, unit string
		want       bool
	}{
		{"web.service", "web.service", true},
		{"web.service", "web2.service", false},
		{"web.service", "", false},
		{"web@.service", "web@1.service", true},
		{"web@.service", "web@a.b.service", true},
		{"web@.service", "web@.service", true}, // which systemd runs under no such name
		{"web@.service", "web.service", false},
		{"web@.service", "web@1.scope", false},
		{"web@.service", "my-web@1.service", false},
	} {
		if got := matchUnit(tt.rule, tt.unit); got != tt.want {
			t.Errorf("matchUnit(%q, %q) is %t", tt.rule, tt.unit, got)
		}
	}
}
