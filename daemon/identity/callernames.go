package identity

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cmkd/daemon/config"
	"cmkd/daemon/names"
	"cmkd/socket"
)

// ErrNameless: nobody can say what the caller is called, and policies may deny the name.
var ErrNameless = errors.New("the names of the caller and its groups cannot be resolved now")

// checkUser looks a name up; "" and numbers need no entry. One that has been known, and
// cannot be told now, is taken: whose name it is, callers have to be known by.
func (ids *Identities) checkUser(name string) error {
	if name == "" || isID(name) {
		return nil
	}
	if !isName(name, uidPrefix) {
		return fmt.Errorf("the user name %q cannot be resolved: give the numeric user ID", name)
	}
	if _, err := ids.names.UserNamed(name); !errors.Is(err, names.ErrSilent) {
		return err
	}
	return nil
}

func (ids *Identities) checkGroup(name string) error {
	if name == "" || isID(name) {
		return nil
	}
	if !isName(name, gidPrefix) {
		return fmt.Errorf("the group name %q cannot be resolved: give the numeric group ID", name)
	}
	if _, err := ids.names.GroupNamed(name); !errors.Is(err, names.ErrSilent) {
		return err
	}
	return nil
}

// checkMembers refuses what the system does not know: a typing error must not wait for the
// day the name is given to somebody.
func (ids *Identities) checkMembers(d *config.Duty) error {
	var errs []error
	if slices.Contains(d.Users, "") || slices.Contains(d.Groups, "") {
		errs = append(errs, errors.New("a name is empty: take it out, or name somebody"))
	}
	for _, u := range d.Users {
		errs = append(errs, ids.checkUser(u))
	}
	for _, g := range d.Groups {
		errs = append(errs, ids.checkGroup(g))
	}
	for _, u := range d.Units {
		errs = append(errs, config.CheckUnit(u))
	}
	return errors.Join(errs...)
}

// peerNames is a peer with the names of its user and groups.
type peerNames struct {
	user, uid string
	groups    []groupName
	unit      string
}

type groupName struct{ name, gid string }

// namesOf asks for the names of the peer's IDs, those that have a mapping.
func (ids *Identities) namesOf(peer *socket.Peer, unit string) (*peerNames, error) {
	n := &peerNames{unit: unit}
	if int64(peer.UID) != names.OverflowUID() {
		n.uid = strconv.FormatUint(uint64(peer.UID), 10)
		var err error
		if n.user, err = ids.userName(peer.UID); err != nil {
			return nil, err
		}
	}
	var gids []uint32
	for _, gid := range append([]uint32{peer.GID}, peer.Groups...) {
		if int64(gid) != names.OverflowGID() && !slices.Contains(gids, gid) {
			gids = append(gids, gid)
		}
	}
	list, err := ids.groupNames(gids)
	if err != nil {
		return nil, err
	}
	for i, gid := range gids {
		n.groups = append(n.groups, groupName{name: list[i], gid: strconv.FormatUint(uint64(gid), 10)})
	}
	return n, nil
}

// uidPrefix and gidPrefix lead the names of users and groups without one.
const uidPrefix, gidPrefix = "uid-", "gid-"

// userName is the name of a uid. Without one, or with one that could be another
// user's number, it is called after its number.
func (ids *Identities) userName(uid uint32) (string, error) {
	u, err := ids.names.User(uid)
	switch {
	case err == nil && isName(u.Name, uidPrefix):
		return u.Name, nil
	case err == nil || errors.Is(err, names.ErrUnknown):
		return uidPrefix + strconv.FormatUint(uint64(uid), 10), nil
	}
	return "", err
}

// groupNames is the same for gids.
func (ids *Identities) groupNames(gids []uint32) ([]string, error) {
	list, err := ids.names.Groups(gids)
	if err != nil {
		return nil, err
	}
	for i, gid := range gids {
		if list[i] == "" || !isName(list[i], gidPrefix) {
			list[i] = gidPrefix + strconv.FormatUint(uint64(gid), 10)
		}
	}
	return list, nil
}

// isName reports whether a name of the user database can be one here: not a
// number, nor the form of users (or groups) without a name, nor the name of
// somebody else behind a path.
func isName(name, prefix string) bool {
	number, nameless := strings.CutPrefix(name, prefix)
	return !isID(name) && (!nameless || !isID(number)) && !strings.Contains(name, "/")
}
