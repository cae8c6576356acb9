package identity

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cmkd/daemon/config"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/names"
	"cmkd/daemon/policy"
	"cmkd/socket"
)

// prefix leads the ARNs of the account's principals.
func (ids *Identities) prefix() string { return keys.PrincipalARN(ids.account, "") }

// rule is the first rule of the configuration that fits the peer, nil if none
// does. Rules that give groups another ARN make no principal.
func (ids *Identities) rule(n *peerNames) *config.Map {
	for i := range ids.rules {
		r := &ids.rules[i]
		p, err := config.ParsePrincipal(ids.account, r.ARN)
		if err != nil || p.Kind == "group" {
			continue
		}
		if (r.Unit == "" || matchUnit(r.Unit, n.unit)) &&
			(r.User == "" || r.User == n.user || r.User == n.uid) &&
			(r.Group == "" || slices.ContainsFunc(n.groups, func(g groupName) bool { return g.is(r) })) {
			return r
		}
	}
	return nil
}

// is reports whether a rule of the configuration means the group.
func (g groupName) is(rule *config.Map) bool { return rule.Group == g.name || rule.Group == g.gid }

// groupARNs are the ARNs of a user's groups.
func (ids *Identities) groupARNs(groups []groupName) []string {
	var arns []string
	for _, g := range groups {
		arn := ids.prefix() + "group/" + g.name
		for i := range ids.rules {
			r := &ids.rules[i]
			if p, err := config.ParsePrincipal(ids.account, r.ARN); err == nil && p.Kind == "group" && g.is(r) {
				arn = r.ARN
				break
			}
		}
		arns = append(arns, arn)
	}
	return arns
}

// principal is the user or role of an ARN. session names the session of a role:
// the Unix user, or the access key.
func (ids *Identities) principal(arn, session string) policy.Principal {
	p, err := config.ParsePrincipal(ids.account, arn)
	if err != nil { // a Unix user of a name that AWS would not allow
		p = config.PrincipalName{Kind: "user", Name: arn[strings.LastIndexByte(arn, '/')+1:]}
	}
	if p.Kind == "role" {
		return policy.Principal{
			Type: policy.Role, ARN: arn, AccountID: ids.account,
			SessionARN: ids.sessionPrefix() + p.Name + "/" + session,
		}
	}
	return policy.Principal{Type: policy.User, ARN: arn, AccountID: ids.account, UserName: p.Name}
}

func (ids *Identities) sessionPrefix() string {
	return keys.SessionARN(ids.account, "assumed-role/")
}

// policiesOf are the identity policies of a principal and its groups. A folder
// belongs to the name, which in AWS too is unique whatever the path.
func (ids *Identities) policiesOf(p *policy.Principal) []*policy.Document {
	kind, name := "user", p.UserName
	if p.Type == policy.Role {
		kind, name = "role", lastPart(p.ARN)
	}
	list := slices.Clone(ids.policies[kind+"/"+name])
	for _, g := range p.Groups {
		list = append(list, ids.policies["group/"+lastPart(g)]...)
	}
	return list
}

func lastPart(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// collect lists the ARNs that the configuration knows.
func (ids *Identities) collect(cfg *config.Config) map[string]bool {
	arns := map[string]bool{}
	for _, arn := range cfg.Principals.Known {
		arns[arn] = true
	}
	for _, m := range cfg.Principals.Map {
		arns[m.ARN] = true
	}
	for _, k := range cfg.AccessKeys {
		arns[k.Principal] = true
	}
	for owner := range ids.policies {
		arns[ids.prefix()+owner] = true
	}
	return arns
}

// Exists implements [kms.Principals]: the account, users and groups that the
// system or the configuration knows, roles that the configuration knows, their
// sessions, and services. Other accounts do not exist here.
func (ids *Identities) Exists(arn string) bool {
	if ids.configured[arn] || arn == ids.prefix()+"root" {
		return true
	}
	if session, ok := strings.CutPrefix(arn, ids.sessionPrefix()); ok {
		role, name, ok := strings.Cut(session, "/")
		return ok && name != "" && ids.knowsRole(role)
	}
	if rest, ok := strings.CutPrefix(arn, ids.prefix()); ok {
		kind, name, _ := strings.Cut(rest, "/")
		return kind == "user" && ids.isUser(name) || kind == "group" && ids.isGroup(name)
	}
	return policy.IsService(arn) && strings.HasSuffix(arn, ".amazonaws.com")
}

// somebody reports whether anyone can be the owner of identity policies, such as
// "user/deploy". Who else, in time, is given that name gets its policies.
func (ids *Identities) somebody(owner string) bool {
	kind, name, _ := strings.Cut(owner, "/")
	for _, r := range ids.rules {
		if p, err := config.ParsePrincipal(ids.account, r.ARN); err == nil && p.Kind == kind && p.Name == name {
			return true
		}
	}
	for _, k := range ids.keys {
		if p, err := config.ParsePrincipal(ids.account, k.principal); err == nil && p.Kind == kind && p.Name == name {
			return true
		}
	}
	return kind == "user" && ids.isUser(name) || kind == "group" && ids.isGroup(name)
}

// knowsRole reports whether a role of the name is configured, under any path.
func (ids *Identities) knowsRole(name string) bool {
	for arn := range ids.configured {
		if p, err := config.ParsePrincipal(ids.account, arn); err == nil && p.Kind == "role" && p.Name == name {
			return true
		}
	}
	return false
}

// isUser reports whether callers can be called so: by a name of the user
// database, or uid-N for a number without a name. Of one who has been seen it stays true
// while the database does not answer.
func (ids *Identities) isUser(name string) bool {
	if number, ok := strings.CutPrefix(name, uidPrefix); ok && isID(number) {
		found, err := ids.userName(parseID(number))
		return err == nil && found == name
	}
	if !isName(name, uidPrefix) {
		return false
	}
	u, err := ids.names.UserNamed(name)
	return err == nil && int64(u.UID) != names.OverflowUID()
}

func (ids *Identities) isGroup(name string) bool {
	if number, ok := strings.CutPrefix(name, gidPrefix); ok && isID(number) {
		found, err := ids.groupNames([]uint32{parseID(number)})
		return err == nil && found[0] == name
	}
	if !isName(name, gidPrefix) {
		return false
	}
	gid, err := ids.names.GroupNamed(name)
	return err == nil && int64(gid) != names.OverflowGID()
}

// isID reports whether the text is a uid or gid as it is written here.
func isID(text string) bool {
	n, err := strconv.ParseUint(text, 10, 32)
	return err == nil && strconv.FormatUint(n, 10) == text
}

// errUnknownPrincipal: a name that nobody has.
var errUnknownPrincipal = errors.New("no such user, group or role")

// Named is the caller that an administrator means: the name of a user, or
// user:NAME, group:NAME, role:NAME, unit:NAME, or an ARN. A group stands for a
// member of it that is nothing else, and a unit for a service that runs in it as
// root.
func (ids *Identities) Named(text string) (*journal.Caller, error) {
	kind, name, ok := strings.Cut(text, ":")
	if !ok {
		kind, name = "user", text
	}
	switch kind {
	case "arn":
		return ids.ByARN(text)
	case "user":
		return ids.byUser(name)
	case "group":
		return ids.byGroup(name)
	case "role":
		return ids.ByARN(ids.prefix() + "role/" + name)
	case "unit":
		if c, err := ids.lookup(socket.Peer{}, name); err != nil || c.Principal.Type != policy.Root {
			return c, err
		}
	}
	return nil, fmt.Errorf("%q: %w", text, errUnknownPrincipal)
}

// byUser is the user of the system, with all its groups.
func (ids *Identities) byUser(name string) (*journal.Caller, error) {
	var u names.User
	var err error
	if number := strings.TrimPrefix(name, uidPrefix); isID(number) {
		if u, err = ids.names.User(parseID(number)); errors.Is(err, names.ErrUnknown) {
			u, err = names.User{UID: parseID(number), GID: parseID(number)}, nil
		}
	} else if u, err = ids.names.UserNamed(name); errors.Is(err, names.ErrUnknown) {
		return ids.ByARN(ids.prefix() + "user/" + name)
	}
	if err != nil {
		return nil, err
	}
	peer := socket.Peer{UID: u.UID, GID: u.GID}
	if u.Name != "" {
		if peer.Groups, err = ids.names.GroupsOf(u); err != nil {
			return nil, err
		}
	}
	c, err := ids.lookup(peer, "")
	if err != nil {
		return nil, err
	}
	return c, known(c)
}

// parseID parses a number of the user database, which has been one already.
func parseID(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32)
	return uint32(n)
}

func (ids *Identities) byGroup(name string) (*journal.Caller, error) {
	arns := ids.groupARNs([]groupName{{name: name}})
	if !ids.Exists(ids.prefix()+"group/"+name) && !ids.configured[arns[0]] {
		return nil, fmt.Errorf("group %q: %w", name, errUnknownPrincipal)
	}
	c := &journal.Caller{Principal: policy.Principal{Type: policy.User, ARN: arns[0], AccountID: ids.account, Groups: arns}}
	c.Policies = ids.policiesOf(&c.Principal)
	return c, nil
}

// ByARN is the principal of an ARN: of a session its role, of a user of the
// system that user.
func (ids *Identities) ByARN(arn string) (*journal.Caller, error) {
	if arn == ids.prefix()+"root" {
		root := policy.Principal{Type: policy.Root, ARN: arn, AccountID: ids.account}
		return &journal.Caller{Principal: root, Policies: []*policy.Document{ids.builtin.administrator}, Admin: true}, nil
	}
	session := "explain"
	if rest, ok := strings.CutPrefix(arn, ids.sessionPrefix()); ok {
		role, name, _ := strings.Cut(rest, "/")
		arn, session = ids.roleARN(role), name
	}
	if !ids.Exists(arn) {
		return nil, fmt.Errorf("%s: %w", arn, errUnknownPrincipal)
	}
	if name, ok := strings.CutPrefix(arn, ids.prefix()+"group/"); ok {
		return ids.byGroup(name)
	}
	if name, ok := strings.CutPrefix(arn, ids.prefix()+"user/"); ok && ids.isUser(name) {
		return ids.byUser(name)
	}
	c := &journal.Caller{Principal: ids.principal(arn, session)}
	for i := range ids.rules {
		if ids.rules[i].ARN == arn {
			c.Principal.Tags = ids.rules[i].Tags
			break
		}
	}
	c.Policies = ids.policiesOf(&c.Principal)
	return c, nil
}

// roleARN is the ARN of the configured role of a name.
func (ids *Identities) roleARN(name string) string {
	for arn := range ids.configured {
		if p, err := config.ParsePrincipal(ids.account, arn); err == nil && p.Kind == "role" && p.Name == name {
			return arn
		}
	}
	return ids.prefix() + "role/" + name
}

// Everybody are the ARNs of the account, of the system's users, and of all that the
// configuration knows.
func (ids *Identities) Everybody() ([]string, error) {
	users, err := ids.names.Users()
	if err != nil {
		return nil, err
	}
	list := []string{ids.prefix() + "root"}
	for _, u := range users {
		list = append(list, ids.prefix()+"user/"+u)
	}
	for arn := range ids.configured {
		list = append(list, arn)
	}
	return list, nil
}

// Nobody is a user whom no policy names.
func (ids *Identities) Nobody() *journal.Caller {
	return &journal.Caller{Principal: ids.principal(ids.prefix()+"user/uid-4294967294", "")}
}
