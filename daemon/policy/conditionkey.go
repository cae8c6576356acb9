package policy

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// conditionKey is a condition key as a policy names it. Names are not
// case-sensitive, the part that stands for a tag or for an encryption context
// key included.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-encryption-context-case
type conditionKey struct {
	name  string // as written
	lower string
	asked string // lower, or the new name of a deprecated key: what the Context is asked for
	kind  keyKind
	arg   string // the tag or encryption context key, in lower case
}

type keyKind uint8

const (
	keyOfContext keyKind = iota // the request's Context knows
	keyPrincipalARN
	keyPrincipalAccount
	keyPrincipalType
	keyPrincipalTag
	keyPrincipalIsService
	keyPrincipalServiceName
	keyUserName
	keyUserID
	keyResourceAccount
	keyCurrentTime
	keyEpochTime
	keyEncryptionContext
	keyEncryptionContextKeys
)

var keyKinds = map[string]keyKind{
	"aws:principalarn":          keyPrincipalARN,
	"aws:principalaccount":      keyPrincipalAccount,
	"kms:calleraccount":         keyPrincipalAccount,
	"aws:principaltype":         keyPrincipalType,
	"aws:principalisawsservice": keyPrincipalIsService,
	"aws:principalservicename":  keyPrincipalServiceName,
	"aws:username":              keyUserName,
	"aws:userid":                keyUserID,
	"aws:resourceaccount":       keyResourceAccount,
	"aws:currenttime":           keyCurrentTime,
	"aws:epochtime":             keyEpochTime,
	"kms:encryptioncontextkeys": keyEncryptionContextKeys,
}

// deprecatedKeys are the keys that AWS renamed when "customer master key" became
// "KMS key". They go on to work.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-key-spec-replaced
var deprecatedKeys = map[string]string{
	"kms:customermasterkeyspec":  "kms:keyspec",
	"kms:customermasterkeyusage": "kms:keyusage",
}

const (
	principalTagPrefix      = "aws:principaltag/"
	requestTagPrefix        = "aws:requesttag/"
	encryptionContextPrefix = "kms:encryptioncontext:"
)

func newConditionKey(name string) (conditionKey, error) {
	k := conditionKey{name: name, lower: lowerASCII(name)}
	colon := strings.IndexByte(name, ':')
	if colon <= 0 || colon == len(name)-1 {
		return k, errors.New("a condition key has the form service:name")
	}
	if arg, ok := strings.CutPrefix(k.lower, principalTagPrefix); ok {
		k.kind, k.arg = keyPrincipalTag, arg
	} else if arg, ok := strings.CutPrefix(k.lower, encryptionContextPrefix); ok {
		k.kind, k.arg = keyEncryptionContext, arg
	} else {
		k.kind = keyKinds[k.lower]
	}
	k.asked = k.lower
	if name, ok := deprecatedKeys[k.lower]; ok {
		k.asked = name
	}
	return k, nil
}

// lowerASCII lowers A to Z only, as [equalFoldASCII] compares.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + ('a' - 'A')
		}
		return r
	}, s)
}

// appendValues appends the values that the request has for k to dst.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
func (r *Request) appendValues(dst []string, k *conditionKey) []string {
	p := &r.Principal
	switch k.kind {
	case keyPrincipalARN:
		return p.appendUnlessService(dst, p.ARN)
	case keyPrincipalAccount:
		return p.appendUnlessService(dst, p.AccountID)
	case keyPrincipalType:
		return p.appendUnlessService(dst, p.Type.conditionValue())
	case keyPrincipalTag:
		return AppendTag(dst, p.Tags, k.arg)
	case keyPrincipalIsService:
		return append(dst, strconv.FormatBool(p.Type == Service))
	case keyPrincipalServiceName:
		if p.Type == Service {
			dst = append(dst, p.ARN)
		}
		return dst
	case keyUserName:
		if p.Type == User && p.UserName != "" {
			dst = append(dst, p.UserName)
		}
		return dst
	case keyUserID:
		return appendNonEmpty(dst, p.UserID())
	case keyResourceAccount:
		return appendNonEmpty(dst, r.ResourceAccount)
	case keyCurrentTime:
		return append(dst, r.Now.UTC().Format(time.RFC3339))
	case keyEpochTime:
		return append(dst, strconv.FormatInt(r.Now.Unix(), 10))
	case keyEncryptionContext:
		return AppendTag(dst, r.EncryptionContext, k.arg)
	case keyEncryptionContextKeys:
		for key := range r.EncryptionContext {
			dst = append(dst, key)
		}
		return dst
	default:
		if r.Context == nil {
			return dst
		}
		return r.Context.AppendValues(dst, k.asked)
	}
}

// presets reports whether the request left the key's member out, so that its
// value is only what the operation takes by default.
func (r *Request) presets(k *conditionKey) bool {
	p, ok := r.Context.(Presetter)
	return ok && k.kind == keyOfContext && p.Preset(k.asked)
}

func (p *Principal) appendUnlessService(dst []string, value string) []string {
	if p.Type == Service {
		return dst
	}
	return appendNonEmpty(dst, value)
}

func appendNonEmpty(dst []string, value string) []string {
	if value == "" {
		return dst
	}
	return append(dst, value)
}
