package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"sync"
	"time"

	"cmkd/daemon/kms"
	"cmkd/daemon/policy"
	"cmkd/socket"
)

// identityAge is how long what the user database said is believed. A user
// removed from a group loses what the group gave after at most this long (and
// after logging in anew, since the kernel tells the groups of the login).
const identityAge = 10 * time.Second

// identities turns the peer that the kernel names into a caller.
//
// The daemon is built without cgo, so names come from /etc/passwd and
// /etc/group; a uid that is not there is named after its number.
type identities struct {
	account string
	self    uint32
	admins  AdminConfig
	now     func() time.Time
	// administrator is administratorAccess, compiled.
	administrator *policy.Document

	mu    sync.Mutex
	known map[uint32]identity // guarded by mu
}

type identity struct {
	caller  *kms.Caller
	groups  []uint32
	expires time.Time
}

// maxIdentities bounds the cache.
const maxIdentities = 4096

func newIdentities(account string, admins AdminConfig) (*identities, error) {
	administrator, err := policy.Parse([]byte(administratorAccess), policy.IdentityPolicy, policy.WithName("AdministratorAccess"))
	if err != nil {
		return nil, fmt.Errorf("compiling the administrators' policy: %w", err)
	}
	ids := &identities{
		account: account, self: uint32(os.Getuid()), admins: admins,
		now: time.Now, administrator: administrator, known: map[uint32]identity{},
	}
	return ids, ids.check()
}

// check refuses admins that the system does not know: a typing error must not
// wait for the day the name is given to somebody.
func (ids *identities) check() error {
	for _, u := range ids.admins.Users {
		if _, err := strconv.ParseUint(u, 10, 32); err == nil {
			continue
		}
		if _, err := user.Lookup(u); err != nil {
			return fmt.Errorf("admins: %w", err)
		}
	}
	for _, g := range ids.admins.Groups {
		if _, err := strconv.ParseUint(g, 10, 32); err == nil {
			continue
		}
		if _, err := user.LookupGroup(g); err != nil {
			return fmt.Errorf("admins: %w", err)
		}
	}
	return nil
}

// caller returns who is at the other end of the connection.
func (ids *identities) caller(ctx context.Context) (*kms.Caller, error) {
	peer, ok := socket.PeerFrom(ctx)
	if !ok {
		return nil, errors.New("the connection has no peer")
	}
	now := ids.now()
	ids.mu.Lock()
	id, ok := ids.known[peer.UID]
	ids.mu.Unlock()
	if ok && now.Before(id.expires) && id.caller.GID == peer.GID && sameGroups(id.groups, peer.Groups) {
		if id.caller.PID == peer.PID {
			return id.caller, nil
		}
		c := *id.caller
		c.PID = peer.PID
		return &c, nil
	}
	c := ids.lookup(peer)
	ids.mu.Lock()
	if len(ids.known) >= maxIdentities {
		clear(ids.known)
	}
	ids.known[peer.UID] = identity{caller: c, groups: peer.Groups, expires: now.Add(identityAge)}
	ids.mu.Unlock()
	return c, nil
}

func sameGroups(a, b []uint32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// lookup asks the user database.
func (ids *identities) lookup(peer socket.Peer) *kms.Caller {
	uid := strconv.FormatUint(uint64(peer.UID), 10)
	name := "uid-" + uid
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	prefix := "arn:aws:iam::" + ids.account
	c := &kms.Caller{UID: peer.UID, GID: peer.GID, PID: peer.PID, Principal: policy.Principal{
		Type: policy.User, ARN: prefix + ":user/" + name, AccountID: ids.account, UserName: name,
	}}
	admin := listed(ids.admins.Users, name, uid)
	for _, gid := range append([]uint32{peer.GID}, peer.Groups...) {
		number := strconv.FormatUint(uint64(gid), 10)
		group := "gid-" + number
		if g, err := user.LookupGroupId(number); err == nil {
			group = g.Name
		}
		c.Principal.Groups = append(c.Principal.Groups, prefix+":group/"+group)
		admin = admin || listed(ids.admins.Groups, group, number)
	}
	if peer.UID == 0 || peer.UID == ids.self {
		c.Principal = policy.Principal{Type: policy.Root, ARN: prefix + ":root", AccountID: ids.account}
		admin = true
	}
	c.Admin = admin
	if admin {
		c.Policies = []*policy.Document{ids.administrator}
	}
	return c
}

// administratorAccess is the identity policy of the configuration's admins.
// Like any identity policy it counts where a key policy hands over to the
// account; a key policy that does not keeps the admins out.
const administratorAccess = `{"Version":"2012-10-17","Statement":[{"Sid":"AdministratorAccess","Effect":"Allow","Action":"*","Resource":"*"}]}`

func listed(list []string, name, number string) bool {
	for _, l := range list {
		if l == name || l == number {
			return true
		}
	}
	return false
}
