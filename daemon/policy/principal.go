package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"

	"cmkd/daemon/keys"
)

// PrincipalType is the kind of a principal.
type PrincipalType int

// The kinds of principals.
const (
	User PrincipalType = iota
	Role
	Root    // the account itself
	Service // an AWS service acting for itself
)

// conditionValue is the value of aws:PrincipalType.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html#principaltable
func (t PrincipalType) conditionValue() string {
	switch t {
	case User:
		return "User"
	case Role:
		return "AssumedRole"
	case Root:
		return "Account"
	default:
		return ""
	}
}

// Principal is who makes a request.
type Principal struct {
	Type PrincipalType
	// ARN is the IAM ARN of the user, the role or the account root
	// ("arn:aws:iam::111122223333:root"); of a service it is its name
	// ("ec2.amazonaws.com").
	ARN string
	// SessionARN is the STS ARN of a role session, if there is one
	// ("arn:aws:sts::111122223333:assumed-role/ROLE/SESSION").
	SessionARN string
	// AccountID is the account of the principal, "" for a service.
	AccountID string
	// UserName is the friendly name of a user: aws:username.
	UserName string
	// Groups are the ARNs of the groups of a user. AWS knows no groups as
	// principals; here a policy may name them like users.
	Groups []string
	// Tags are the principal's: aws:PrincipalTag/KEY.
	Tags map[string]string
}

// DisplayARN is the ARN by which messages call the principal: that of the
// session if there is one.
func (p *Principal) DisplayARN() string {
	if p.SessionARN != "" {
		return p.SessionARN
	}
	return p.ARN
}

// UserID is the unique ID of the principal in the form that AWS gives them:
// aws:userid, and CloudTrail's principalId. Of the root it is the account, of a
// user "AIDA" and 17 letters and digits, of a role "AROA…:SESSION"; a service has
// none. AWS draws the 17 characters at random; here they are the first of the
// SHA-256 of the ARN in base32, so they stay the same for as long as the ARN
// does.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html#principaltable
func (p *Principal) UserID() string {
	const length = 17
	sum := sha256.Sum256([]byte(p.ARN))
	var text [(sha256.Size + 4) / 5 * 8]byte
	base32.StdEncoding.Encode(text[:], sum[:])
	id := text[:length]
	switch p.Type {
	case Root:
		return p.AccountID
	case User:
		if p.ARN == "" {
			return ""
		}
		return "AIDA" + string(id)
	case Role:
		return "AROA" + string(id) + ":" + p.SessionARN[strings.LastIndexByte(p.SessionARN, '/')+1:]
	default:
		return ""
	}
}

// is reports whether id, the ARN of a user, role, session or group or the name
// of a service, stands for the principal itself (not for its account).
func (p *Principal) is(id string) bool {
	return id != "" && (id == p.ARN || id == p.SessionARN || slices.Contains(p.Groups, id))
}

// isOf reports whether the principal belongs to the account.
func (p *Principal) isOf(account string) bool { return account != "" && p.AccountID == account }

// accountOf returns the account that id names, as its number or as the ARN of
// its root, "" if it names something else.
func accountOf(id string) string {
	account := id
	if parts, ok := splitARN(id); ok {
		account = parts[4]
		if id != keys.RootARN(account) {
			return ""
		}
	}
	const accountDigits = 12
	if len(account) != accountDigits || !isDigits(account) {
		return ""
	}
	return account
}

// principalSet is a Principal or a NotPrincipal element.
type principalSet struct {
	not      bool
	any      bool     // "*"
	accounts []string // account IDs
	ids      []string // ARNs of users, roles and sessions; names of services
	groups   []string // ARNs of groups
}

// standing is what a Principal element makes of a principal.
type standing uint8

const (
	unnamed        standing = iota
	accountIsNamed          // its account is named, which only hands over to identity policies
	isNamed                 // it is named itself
)

// standing says whether the element lists the principal. The account root is
// named by its account: it is what the account's ARN stands for.
func (s *principalSet) standing(p *Principal) standing {
	switch {
	case s.any || s.lists(p):
		return isNamed
	case p.Type == Service || !slices.Contains(s.accounts, p.AccountID):
		return unnamed
	case p.Type == Root:
		return isNamed
	default:
		return accountIsNamed
	}
}

// lists reports whether the principal itself or a group of it is listed.
func (s *principalSet) lists(p *Principal) bool {
	return p.Type != Root && (slices.Contains(s.ids, p.ARN) || s.listsSession(p) || s.listsGroup(p))
}

func (s *principalSet) listsSession(p *Principal) bool {
	return p.SessionARN != "" && slices.Contains(s.ids, p.SessionARN)
}

func (s *principalSet) listsGroup(p *Principal) bool {
	if len(s.groups) == 0 {
		return false
	}
	return slices.ContainsFunc(p.Groups, func(g string) bool { return slices.Contains(s.groups, g) })
}

// allows says what an Allow statement with this element means to the principal.
// A NotPrincipal allows everyone but those listed; who belongs to a listed
// account is taken to be listed.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_notprincipal.html#specifying-notprincipal-allow
func (s *principalSet) allows(p *Principal) standing {
	found := s.standing(p)
	if !s.not {
		return found
	}
	if found == unnamed {
		return isNamed
	}
	return unnamed
}

// denies reports whether a Deny statement with this element applies to the
// principal. A named account stands for all its principals.
func (s *principalSet) denies(p *Principal) bool {
	if s.not {
		return !s.exempts(p)
	}
	return s.standing(p) != unnamed
}

// exempts reports whether a NotPrincipal takes the principal out of a Deny. As
// AWS warns, all that a request is checked as must be listed: the account, and
// the user or role, and the session.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_notprincipal.html#specifying-notprincipal
func (s *principalSet) exempts(p *Principal) bool {
	if s.any {
		return true
	}
	if p.Type == Service {
		return slices.Contains(s.ids, p.ARN)
	}
	if !slices.Contains(s.accounts, p.AccountID) {
		return false
	}
	if p.Type == Root {
		return true
	}
	return (slices.Contains(s.ids, p.ARN) || s.listsGroup(p)) && (p.SessionARN == "" || s.listsSession(p))
}
