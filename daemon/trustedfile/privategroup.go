package trustedfile

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// privateGroup reports whether nobody but root and the daemon's user has a group, as first
// or further one: distributions with a umask of 002 make such a group for each user, and a
// daemon may be alone in that of its token's files. It is not private if that cannot be
// proven, since others than passwd(5) and group(5) say who is in which group.
func privateGroup(gid uint32) bool {
	config, err := os.ReadFile("/etc/nsswitch.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) || !onlyFiles(string(config), userRecords) {
		return false
	}
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return false
	}
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		return false
	}
	mine := false
	if further, err := os.Getgroups(); err == nil { // systemd's SupplementaryGroups= are in no file
		mine = os.Getegid() == int(gid) || slices.Contains(further, int(gid))
	}
	return isPrivate(string(users), string(groups), gid, mine, 0, uint32(os.Getuid()))
}

// onlyFiles reports whether nsswitch.conf(5) has users and groups come from passwd(5) and
// group(5) alone. nss-systemd(8) is as good while there are no user records beside its
// own: root, nobody, and the users of running units, which are in no other's group.
func onlyFiles(config string, records func() bool) bool {
	for line := range strings.Lines(config) {
		line, _, _ = strings.Cut(line, "#")
		database, sources, ok := strings.Cut(line, ":")
		if !ok || !slices.Contains([]string{"passwd", "group", "initgroups"}, strings.TrimSpace(database)) {
			continue
		}
		for strings.Contains(sources, "[") { // what to do after a source
			before, rest, _ := strings.Cut(sources, "[")
			_, after, closed := strings.Cut(rest, "]")
			if !closed {
				return false
			}
			sources = before + " " + after
		}
		for source := range strings.FieldsSeq(sources) {
			if source != "files" && (source != "systemd" || records()) {
				return false
			}
		}
	}
	return true
}

// userRecords reports whether the system has user records (userdbd, homed): they may say
// of any user that it is in a group (https://systemd.io/USER_GROUP_API/).
func userRecords() bool {
	for _, folder := range []string{"/etc/userdb", "/run/userdb", "/run/host/userdb", "/usr/local/lib/userdb", "/usr/lib/userdb"} {
		entries, err := os.ReadDir(folder)
		if len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	_, err := os.Lstat("/run/systemd/userdb/io.systemd.Home")
	return !errors.Is(err, fs.ErrNotExist)
}

// isPrivate is privateGroup for the contents of passwd(5) and group(5). A group that
// nobody is in may be that of a program with the set-group-ID bit; mine says that one of
// the trusted users has it.
func isPrivate(users, groups string, gid uint32, mine bool, trusted ...uint32) bool {
	wantGID := strconv.FormatUint(uint64(gid), 10)
	names := map[string]bool{}
	for line := range strings.Lines(users) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		uid, err := strconv.ParseUint(f[2], 10, 32)
		known := err == nil && slices.Contains(trusted, uint32(uid))
		names[f[0]] = known
		if f[3] != wantGID {
			continue
		}
		if !known {
			return false
		}
		mine = true
	}
	found := false
	for line := range strings.Lines(groups) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[2] != wantGID {
			continue
		}
		found = true
		for member := range strings.SplitSeq(f[3], ",") {
			if member == "" {
				continue
			}
			if !names[member] {
				return false
			}
			mine = true
		}
	}
	return found && mine
}
