// Package names tells the names of users and groups: from passwd(5) and group(5), and if
// the configuration says so from whatever else the system asks, such as SSSD or LDAP.
package names

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// Errors of a [Database]. What else it returns says that it cannot be told now, and
// nothing may be concluded from it.
var (
	// ErrUnknown: there is no such user or group, or none with a name.
	ErrUnknown = errors.New("no such user or group")
	// ErrSilent: who would know does not answer, or not all of it.
	ErrSilent = errors.New("the system's user database does not answer")
)

// User is an entry of a user database.
type User struct {
	Name     string
	UID, GID uint32
}

// Database tells names. Its methods may be called concurrently.
type Database interface {
	// User returns the user with a uid.
	User(uid uint32) (User, error)
	// Groups returns the names of gids, "" of those without one.
	Groups(gids []uint32) ([]string, error)
	// UserNamed returns the user with a name, which is not a number.
	UserNamed(name string) (User, error)
	// GroupNamed returns the gid of the group with a name, which is not a number.
	GroupNamed(name string) (uint32, error)
	// GroupsOf returns the gids of a user, the first group included.
	GroupsOf(u User) ([]uint32, error)
	// Users returns the names of users, as far as they can be listed.
	Users() ([]string, error)
	// Trouble is why names could not be told lately, nil if they could.
	Trouble() error
	// Near reports whether what is needed of a user and groups is known without asking
	// anybody who may take long.
	Near(uid uint32, gids []uint32) bool
}

// Files is the database of /etc/passwd and /etc/group, as the Go library reads them
// without cgo.
type Files struct{}

// User implements [Database].
func (Files) User(uid uint32) (User, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	return entry(u, err)
}

// UserNamed implements [Database].
func (Files) UserNamed(name string) (User, error) { return entry(user.Lookup(name)) }

func entry(u *user.User, err error) (User, error) {
	_, noID := errors.AsType[user.UnknownUserIdError](err)
	_, noName := errors.AsType[user.UnknownUserError](err)
	switch {
	case noID, noName:
		return User{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	case err != nil:
		return User{}, fmt.Errorf("%w: %w", ErrSilent, err)
	}
	uid, err := parseID(u.Uid)
	gid, err2 := parseID(u.Gid)
	if err := errors.Join(err, err2); err != nil {
		return User{}, fmt.Errorf("%w: user %q: %w", ErrUnknown, u.Username, err)
	}
	return User{u.Username, uid, gid}, nil
}

// Groups implements [Database].
func (Files) Groups(gids []uint32) ([]string, error) {
	names := make([]string, len(gids))
	for i, gid := range gids {
		g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10))
		if _, unknown := errors.AsType[user.UnknownGroupIdError](err); unknown {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSilent, err)
		}
		names[i] = g.Name
	}
	return names, nil
}

// GroupNamed implements [Database].
func (Files) GroupNamed(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if _, unknown := errors.AsType[user.UnknownGroupError](err); unknown {
		return 0, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrSilent, err)
	}
	return parseID(g.Gid)
}

// GroupsOf implements [Database].
func (Files) GroupsOf(u User) ([]uint32, error) {
	texts, err := (&user.User{Username: u.Name, Uid: formatID(u.UID), Gid: formatID(u.GID)}).GroupIds()
	if err != nil {
		return nil, fmt.Errorf("%w: the groups of %s: %w", ErrSilent, u.Name, err)
	}
	var gids []uint32
	for _, text := range texts {
		if gid, err := parseID(text); err == nil && !slices.Contains(gids, gid) {
			gids = append(gids, gid)
		}
	}
	return gids, nil
}

// Users implements [Database].
func (Files) Users() ([]string, error) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return nil, fmt.Errorf("reading the user database: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	var list []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, _, ok := strings.Cut(lines.Text(), ":"); ok && name != "" && name[0] != '#' {
			list = append(list, name)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the user database: %w", err)
	}
	return list, nil
}

// Trouble implements [Database].
func (Files) Trouble() error { return nil }

// Near implements [Database].
func (Files) Near(uint32, []uint32) bool { return true }

func parseID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err
}

func formatID(id uint32) string { return strconv.FormatUint(uint64(id), 10) }
