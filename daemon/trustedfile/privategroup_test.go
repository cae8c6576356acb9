package trustedfile

import (
	"testing"
)

// TestPrivateGroups: a group is private if nobody but root and the daemon's user is in it.
func TestPrivateGroups(t *testing.T) {
	t.Parallel()
	const users = "root:x:0:0:root:/root:/bin/sh\ndeploy:x:1000:1000::/home/deploy:/bin/sh\nops:x:1001:100::/:/bin/sh\nguest:x:1002:1002::/:/bin/sh\nalso:x:1003:1002::/:/bin/sh\n"
	const groups = "root:x:0:\ndeploy:x:1000:deploy\nusers:x:100:\nguest:x:1002:\nwheel:x:10:deploy\nempty:x:11:\n"
	for _, tt := range []struct {
		daemon, gid uint32
		more        string
		mine        bool
		want        bool
	}{
		{0, 0, "", false, true},
		{1000, 0, "", false, true}, // root may write whatever it likes
		{1000, 1000, "", false, true},
		{0, 1000, "", false, false},    // that of another user
		{1001, 100, "", false, true},   // whatever its name
		{1002, 1002, "", false, false}, // the first group of two
		{1000, 10, "", false, true},    // a further group of the daemon's user
		{1001, 10, "", false, false},
		{1005, 1005, "", true, false}, // not in the file
		{1000, 11, "", false, false},  // of nobody: a program may run with it
		{1000, 11, "", true, true},    // the daemon has it from systemd
		{0, 0, "wheel:x:0:deploy\n", false, false},
		{1000, 1000, "staff:x:1000:ops\n", false, false},
		{1000, 1000, "staff:x:1000:nobody-knows\n", false, false},
	} {
		if got := isPrivate(users, groups+tt.more, tt.gid, tt.mine, 0, tt.daemon); got != tt.want {
			t.Errorf("daemon %d, gid %d, %q, %t: %t", tt.daemon, tt.gid, tt.more, tt.mine, got)
		}
	}
}

// TestOtherSourcesOfGroups: with other sources of users and groups than the files, who
// is in a group cannot be proven.
func TestOtherSourcesOfGroups(t *testing.T) {
	t.Parallel()
	for config, want := range map[string][2]bool{ // without and with user records
		"": {true, true}, // the C library's own choice
		"passwd: files\ngroup: files # ldap\nhosts: files dns\nnetgroup: nis\n":   {true, true},
		"passwd: files systemd\ngroup: files [SUCCESS=merge] systemd\n":           {true, false},
		"passwd:\tfiles\n group :\tfiles [ NOTFOUND=return SUCCESS=merge ] files": {true, true},
		"passwd: files\ngroup: files ldap\n":                                      {false, false},
		"passwd: sss files\ngroup: files\n":                                       {false, false},
		"passwd: files\ngroup: files\ninitgroups: files sss\n":                    {false, false},
		"passwd: compat\ngroup: compat\n":                                         {false, false},
		"group: files [SUCCESS=merge\n":                                           {false, false},
		"group: files[NOTFOUND=return]winbind\n":                                  {false, false},
	} {
		for i, records := range []bool{false, true} {
			if got := onlyFiles(config, func() bool { return records }); got != want[i] {
				t.Errorf("%q, user records %t: %t", config, records, got)
			}
		}
	}
}
