package keys

import (
	"regexp"
	"strings"
)

// Partition is the partition of AWS that cmkd answers in.
const Partition = "aws"

// AliasPrefix begins every alias.
const AliasPrefix = "alias/"

// MRKPrefix begins the IDs of multi-Region keys.
const MRKPrefix = "mrk-"

// idForm is a key ID as a client may write it. Capital letters are well formed, but no
// key has them.
var idForm = regexp.MustCompile(`^(?:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|mrk-[0-9a-fA-F]{32})$`)

// IsID reports whether the text has the form of a key ID: a UUID, or "mrk-" and 32
// hexadecimal digits.
func IsID(text string) bool { return idForm.MatchString(text) }

// ARN is an Amazon Resource Name, arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
type ARN struct{ Partition, Service, Region, Account, Resource string }

// ParseARN takes an ARN apart. ok is false for what has fewer parts, or another first one;
// nothing is asked of the parts.
func ParseARN(text string) (a ARN, ok bool) {
	rest, ok := strings.CutPrefix(text, "arn:")
	for _, part := range []*string{&a.Partition, &a.Service, &a.Region, &a.Account} {
		if !ok {
			return ARN{}, false
		}
		*part, rest, ok = strings.Cut(rest, ":")
	}
	if !ok {
		return ARN{}, false
	}
	a.Resource = rest
	return a, true
}

// KeyARN is the ARN of a key.
func KeyARN(region, account, id string) string {
	return "arn:" + Partition + ":kms:" + region + ":" + account + ":key/" + id
}

// AliasARN is the ARN of an alias, whose name has its prefix.
func AliasARN(region, account, name string) string {
	return "arn:" + Partition + ":kms:" + region + ":" + account + ":" + name
}

// PrincipalARN is the ARN of a user, a group or a role of the account, such as
// "user/alice", or of its root, "root".
func PrincipalARN(account, name string) string {
	return "arn:" + Partition + ":iam::" + account + ":" + name
}

// SessionARN is the ARN of what AWS STS makes, such as "assumed-role/ROLE/SESSION".
func SessionARN(account, name string) string {
	return "arn:" + Partition + ":sts::" + account + ":" + name
}

// RootARN is the ARN of the account's root.
func RootARN(account string) string { return PrincipalARN(account, "root") }
