package daemon

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// untrustedError: somebody but root and the daemon's user can change a file or
// folder. The text says how it is and what to do.
type untrustedError struct{ text string }

// Error implements error.
func (e *untrustedError) Error() string { return e.text }

// checkTrusted refuses what somebody but root and the daemon's user owns or can
// write; fd is of it. onTheWay: something in it is meant.
func checkTrusted(path string, fd int, st *unix.Stat_t, onTheWay bool) error {
	kind, perm := st.Mode&unix.S_IFMT, st.Mode&0o7777
	if st.Uid != 0 && int64(st.Uid) != int64(os.Getuid()) {
		advice := fmt.Sprintf("run chown %d %s", os.Getuid(), path)
		if os.Getuid() == 0 { // an operator who checks what is the daemon's
			advice = fmt.Sprintf("run cmkd as that user, or, if it is to run as root, chown 0 %s", path)
		}
		return &untrustedError{fmt.Sprintf("%s belongs to uid %d%s, neither to root nor to the daemon's user (uid %d); its mode is %#o: %s",
			path, st.Uid, named(st.Uid), os.Getuid(), perm, advice)}
	}
	if kind == unix.S_IFLNK || perm&0o022 == 0 { // a link has no mode
		return nil
	}
	if onTheWay && kind == unix.S_IFDIR && perm&unix.S_ISVTX != 0 {
		return nil
	}
	if perm&0o002 == 0 && !hasACL(fd) && privateGroup(st.Uid, st.Gid) {
		return nil
	}
	return &untrustedError{fmt.Sprintf("%s can be written by others: its mode is %#o, its owner uid %d%s, its group gid %d: run chmod go-w %s",
		path, perm, st.Uid, named(st.Uid), st.Gid, path)}
}

// named is the name of a user in brackets, if there is one.
func named(uid uint32) string {
	if int64(uid) == overflowUID() {
		return " (without a mapping in the user namespace of this service)"
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return ""
	}
	return " (" + u.Username + ")"
}

// hasACL reports whether an access control list lets in further users and groups;
// the mode then has the most that any of them may do (acl(5)).
func hasACL(fd int) bool {
	n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), "system.posix_acl_access", nil)
	return err == nil && n > 0
}

// privateGroup reports whether a group is its user's alone, as distributions with a
// umask of 002 make one for each user: nobody else has it, as first or further group.
func privateGroup(uid, gid uint32) bool {
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return false
	}
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		return false
	}
	return isPrivate(string(users), string(groups), uid, gid)
}

// isPrivate is privateGroup for the contents of passwd(5) and group(5).
func isPrivate(users, groups string, uid, gid uint32) bool {
	wantUID, wantGID := strconv.FormatUint(uint64(uid), 10), strconv.FormatUint(uint64(gid), 10)
	owner := ""
	for line := range strings.Lines(users) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[3] != wantGID {
			continue
		}
		if f[2] != wantUID {
			return false
		}
		owner = f[0]
	}
	found := false
	for line := range strings.Lines(groups) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[2] != wantGID {
			continue
		}
		found = true
		for member := range strings.SplitSeq(f[3], ",") {
			if member != "" && member != owner {
				return false
			}
		}
	}
	return found && owner != ""
}
