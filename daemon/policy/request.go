package policy

import "time"

// Request is a call to be authorised: who, what, on what, and the circumstances
// that conditions ask for.
type Request struct {
	Principal Principal
	// Action is the permission that is needed, such as "kms:Encrypt". It is
	// not always the operation: ReEncrypt needs kms:ReEncryptFrom on one key
	// and kms:ReEncryptTo on another.
	Action string
	// Resource is the ARN of the key or alias, "*" for operations that have
	// none (CreateKey, ListKeys and so on).
	Resource string
	// ResourceAccount is the account that owns Resource. A principal of another
	// account needs the key policy and an identity policy.
	ResourceAccount string
	// Now is the time of the request: aws:CurrentTime and aws:EpochTime.
	Now time.Time
	// EncryptionContext is that of the cryptographic operation; of CreateGrant
	// it is the encryption context of the constraint. It answers
	// kms:EncryptionContext:KEY and kms:EncryptionContextKeys and is what grant
	// constraints are checked against.
	EncryptionContext map[string]string
	// NewGrant is the grant that kms:CreateGrant would make. A caller who may
	// create grants only because of a grant cannot make one that allows more.
	NewGrant *Grant
	// Context answers the other condition keys. Nil: there are none.
	Context Context
}

// Context gives the values of condition keys that the package does not know
// from the [Request] itself. It is asked only when a statement that matches so
// far has a condition on the key, so that a request builds nothing in vain.
//
// It answers every key but these: aws:PrincipalArn, aws:PrincipalAccount,
// aws:PrincipalType, aws:PrincipalTag/KEY, aws:PrincipalIsAWSService,
// aws:PrincipalServiceName, aws:username, aws:userid, aws:ResourceAccount, aws:CurrentTime,
// aws:EpochTime, kms:CallerAccount, kms:EncryptionContext:KEY and
// kms:EncryptionContextKeys. Deprecated keys are asked for by their new names:
// kms:KeySpec for kms:CustomerMasterKeySpec.
type Context interface {
	// AppendValues appends the values of the condition key to dst; a key that
	// is not in the request appends nothing. key is in lower case, the part
	// after a slash too ("kms:keyspec", "aws:resourcetag/stage"): condition
	// keys are not case-sensitive. Numbers are decimal, times RFC 3339 or
	// seconds of the Unix epoch, booleans "true" or "false", binary values the
	// bytes themselves.
	AppendValues(dst []string, key string) []string
}

// Presetter is a [Context] that gives a key the value that its operation takes
// by default. A limit on such a value must hold for who leaves the member out as
// well, so the value counts; but to the operator Null the member is absent.
type Presetter interface {
	// Preset reports whether the value of the key, in lower case, is a default.
	Preset(key string) bool
}

// ContextFunc is a function that is a [Context].
type ContextFunc func(dst []string, key string) []string

// AppendValues calls f.
func (f ContextFunc) AppendValues(dst []string, key string) []string { return f(dst, key) }

// AppendTag appends the values of the tags whose key is name but for case, as a
// [Context] does for aws:ResourceTag/NAME and aws:RequestTag/NAME. More than
// one tag can fit; conditions then refuse what is not clear.
func AppendTag(dst []string, tags map[string]string, name string) []string {
	for key, value := range tags {
		if equalFoldASCII(key, name) {
			dst = append(dst, value)
		}
	}
	return dst
}

// EqualFold compares the names of condition keys, tags and encryption context
// keys as policies do: without regard to the case of A to Z.
func EqualFold(a, b string) bool { return equalFoldASCII(a, b) }

// equalFoldASCII compares without regard to the case of A to Z. Unicode's
// folding would let U+212A (the Kelvin sign) stand for a k, and so a renamed
// encryption context key for the one that a policy requires.
func equalFoldASCII(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z' {
			return false
		}
	}
	return true
}
