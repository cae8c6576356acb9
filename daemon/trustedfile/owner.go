package trustedfile

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"cmkd/daemon/names"
)

// UntrustedError: somebody but root and the daemon's user can change a file or
// folder. The text says how it is and what to do.
type UntrustedError struct{ text string }

// Error implements error.
func (e *UntrustedError) Error() string { return e.text }

// checkTrusted refuses what somebody but root and the daemon's user owns or can
// write; fd is of it. onTheWay: something in it is meant. shared is as in walkTrusted.
func checkTrusted(path string, fd int, st *unix.Stat_t, onTheWay, shared bool) error {
	kind, perm := st.Mode&unix.S_IFMT, st.Mode&0o7777
	if shared && kind != unix.S_IFDIR && kind != unix.S_IFREG && kind != unix.S_IFLNK {
		return nil
	}
	if st.Uid != 0 && int64(st.Uid) != int64(os.Getuid()) {
		advice := fmt.Sprintf("run chown %d %s", os.Getuid(), path)
		if os.Getuid() == 0 { // an operator who checks what is the daemon's
			advice = fmt.Sprintf("run cmkd as that user, or, if it is to run as root, chown 0 %s", path)
		}
		return &UntrustedError{fmt.Sprintf("%s belongs to uid %d%s, neither to root nor to the daemon's user (uid %d); its mode is %#o: %s",
			path, st.Uid, named(st.Uid), os.Getuid(), perm, advice)}
	}
	if kind == unix.S_IFLNK || perm&0o022 == 0 { // a link has no mode
		return nil
	}
	if (onTheWay || shared) && kind == unix.S_IFDIR && perm&unix.S_ISVTX != 0 {
		return nil
	}
	if perm&0o002 == 0 && !hasACL(fd) && privateGroup(st.Gid) {
		return nil
	}
	advice := "run chmod go-w " + path
	if shared && kind == unix.S_IFDIR {
		advice += ", or, if others have to write there, chmod +t " + path
	}
	return &UntrustedError{fmt.Sprintf("%s can be written by others: its mode is %#o, its owner uid %d%s, its group gid %d: %s",
		path, perm, st.Uid, named(st.Uid), st.Gid, advice)}
}

// named is the name of a user in brackets, if there is one.
func named(uid uint32) string {
	if int64(uid) == names.OverflowUID() {
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
