// Package identity says who calls: from the peer that the kernel names, or the access key
// that signs a request, to a caller with identity policies and duties.
package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cmkd/daemon/config"
	"cmkd/daemon/journal"
	"cmkd/daemon/names"
	"cmkd/daemon/policy"
	"cmkd/socket"
)

// identityAge is how long what the user database said is believed. A user
// removed from a group loses what the group gave after at most this long (and
// after logging in again, since the kernel tells the groups of the login).
const identityAge = 10 * time.Second

// Identities turns the peer that the kernel names into a caller. A reload of
// the configuration makes new ones, so nothing old is believed.
//
// Names come from /etc/passwd and /etc/group, or from the system ([config.Names]); a uid that
// is not there is named after its number, and one whose name cannot be told is nobody.
type Identities struct {
	names    names.Database
	account  string
	self     uint32
	admins   config.Admins
	rules    []config.Map
	policies identityPolicies
	keys     accessKeys
	// configured are the ARNs that the configuration knows.
	configured map[string]bool
	now        func() time.Time
	duties     map[journal.Duties]config.Duty
	builtin    builtinPolicies

	mu    sync.Mutex
	known map[identityKey]identity // guarded by mu
}

// identityKey is what a caller is looked up by. Groups are compared.
type identityKey struct {
	uid  uint32
	unit string
}

type identity struct {
	caller  *journal.Caller
	groups  []uint32
	expires time.Time
}

// maxIdentities bounds the cache.
const maxIdentities = 4096

// New reads all that the configuration says of callers. keep: what is learnt of
// names outlives the daemon.
func New(cfg *config.Config, log *slog.Logger, keep bool) (*Identities, error) {
	builtin, err := parseBuiltinPolicies()
	if err != nil {
		return nil, err
	}
	ids := &Identities{
		account: cfg.Account, self: uint32(os.Getuid()), admins: cfg.Admins, rules: cfg.Principals.Map,
		duties: cfg.Duties(), now: time.Now, builtin: builtin, known: map[identityKey]identity{},
	}
	if ids.names, err = cfg.Database(log, keep); err != nil {
		return nil, err
	}
	if int64(ids.self) == names.OverflowUID() {
		return nil, fmt.Errorf("cmkd runs as uid %d, by which its user namespace calls everybody without a mapping: map the user that it runs as", ids.self)
	}
	if err := ids.check(); err != nil {
		return nil, err
	}
	if ids.policies, err = loadIdentityPolicies(cfg.IdentityPolicies); err != nil {
		return nil, fmt.Errorf("loading the identity policies: %w", err)
	}
	if ids.keys, err = loadAccessKeys(cfg.AccessKeys); err != nil {
		return nil, err
	}
	ids.configured = ids.collect(cfg)
	return ids, nil
}

// check refuses users and groups that the system does not know: a typing error
// must not wait for the day the name is given to somebody.
func (ids *Identities) check() error {
	if err := ids.checkMembers(ids.admins.Members()); err != nil {
		return fmt.Errorf("admins: %w", err)
	}
	for duty, who := range ids.duties {
		if err := ids.checkMembers(&who); err != nil {
			return fmt.Errorf("%s: %w", config.DutyTables[duty], err)
		}
	}
	for i, m := range ids.rules {
		if err := errors.Join(ids.checkUser(m.User), ids.checkGroup(m.Group)); err != nil {
			return fmt.Errorf("principals: map %d: %w", i+1, err)
		}
	}
	return nil
}

// Caller returns who is at the other end of the connection. With ErrUnmapped and
// ErrNameless it returns what there is of one, for the record.
func (ids *Identities) Caller(ctx context.Context) (*journal.Caller, error) {
	peer, ok := socket.PeerFrom(ctx)
	if !ok {
		return nil, errors.New("the connection has no peer")
	}
	return ids.callerAt(&peer)
}

// callerAt is caller for a peer that is known.
func (ids *Identities) callerAt(peer *socket.Peer) (*journal.Caller, error) {
	now, key := ids.now(), identityKey{peer.UID, unitOf(peer.Cgroup)}
	if id, ok := ids.remembered(key); ok && now.Before(id.expires) && id.caller.GID == peer.GID && slices.Equal(id.groups, peer.Groups) {
		if id.caller.PID == peer.PID {
			return id.caller, known(id.caller)
		}
		c := *id.caller
		c.PID = peer.PID
		return &c, known(&c)
	}
	c, err := ids.lookup(*peer, key.unit)
	if err != nil {
		return c, err
	}
	c.ID = c.Principal.UserID()
	ids.mu.Lock()
	if len(ids.known) >= maxIdentities {
		clear(ids.known)
	}
	ids.known[key] = identity{caller: c, groups: peer.Groups, expires: now.Add(identityAge)}
	ids.mu.Unlock()
	return c, known(c)
}

func (ids *Identities) remembered(key identityKey) (identity, bool) {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	id, ok := ids.known[key]
	return id, ok
}

// known is ErrUnmapped if there is no principal.
func known(c *journal.Caller) error {
	if c.Principal.ARN == "" {
		return ErrUnmapped
	}
	return nil
}

// Privileged reports whether a peer is an administrator. Who is mapped to somebody else is
// that principal only, with uid 0 too. Nobody is asked who may take long: whose name
// is elsewhere is one from the second connection on.
func (ids *Identities) Privileged(peer socket.Peer) bool {
	if !ids.names.Near(peer.UID, append([]uint32{peer.GID}, peer.Groups...)) {
		return false
	}
	c, err := ids.callerAt(&peer)
	return err == nil && c.Admin
}

// lookup asks the user database and the configuration. Of IDs without a mapping
// nothing is known; what has one counts, the unit too. The error is ErrNameless, with what
// there is of a caller.
func (ids *Identities) lookup(peer socket.Peer, unit string) (*journal.Caller, error) {
	unmapped := int64(peer.UID) == names.OverflowUID()
	c := &journal.Caller{UID: peer.UID, GID: peer.GID, PID: peer.PID}
	n, err := ids.namesOf(&peer, unit)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrNameless, err)
	}
	session := cmp.Or(n.user, "unknown")
	rule := ids.rule(n)
	root := rule == nil && !unmapped && (peer.UID == 0 || peer.UID == ids.self)
	if rule != nil {
		c.Principal = ids.principal(rule.ARN, session)
		c.Principal.Tags = rule.Tags
	} else if unmapped {
		return c, nil
	} else if root {
		c.Principal = policy.Principal{Type: policy.Root, ARN: ids.prefix() + "root", AccountID: ids.account}
	} else {
		c.Principal = ids.principal(ids.prefix()+"user/"+n.user, n.user)
	}
	if c.Principal.Type == policy.User {
		c.Principal.Groups = ids.groupARNs(n.groups)
	}
	ids.empower(c, n, root)
	return c, nil
}

// empower gives the caller what the configuration gives who it is.
func (ids *Identities) empower(c *journal.Caller, n *peerNames, root bool) {
	c.Policies = ids.policiesOf(&c.Principal)
	role := c.Principal.Type == policy.Role
	listed := !role && n.has(ids.admins.Members())
	if listed || c.Principal.Type == policy.Root {
		c.Policies = append(c.Policies, ids.builtin.administrator)
	}
	c.Admin = listed || root
	if role {
		return
	}
	if c.Duties = ids.dutiesOf(n); c.Duties&journal.Auditing != 0 {
		c.Policies = append(c.Policies, ids.builtin.auditor)
	}
}

// administratorAccess is the identity policy of the configuration's admins.
// Like any identity policy it counts where a key policy hands over to the
// account; a key policy that does not keeps the admins out.
const administratorAccess = `{"Version":"2012-10-17","Statement":[{"Sid":"AdministratorAccess","Effect":"Allow","Action":"*","Resource":"*"}]}`

// Warnings are what an administrator should know of names and identity policies: those
// of nobody, and condition keys that do not exist.
func (ids *Identities) Warnings() []string {
	list := []string{}
	if err := ids.names.Trouble(); err != nil {
		list = append(list, fmt.Sprintf("callers are refused whose names cannot be told: %v", err))
	}
	for owner, documents := range ids.policies {
		if !ids.somebody(owner) {
			list = append(list, fmt.Sprintf("the identity policies of %s are for nobody: no such %s", owner, filepath.Dir(owner)))
		}
		for _, d := range documents {
			list = append(list, unknownKeys(d)...)
		}
	}
	slices.Sort(list)
	return list
}

func unknownKeys(d *policy.Document) []string {
	var list []string
	for _, name := range d.UnknownKeys() {
		list = append(list, fmt.Sprintf("the identity policy %s has the condition key %s, which no request ever has: a Deny on it denies nothing", d.Name(), name))
	}
	return list
}
