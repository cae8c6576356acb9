package main

import (
	"strings"
	"unicode"
)

// initialisms are the words of enum values that stay in upper case in Go names.
var initialisms = map[string]bool{
	"AES": true, "AWS": true, "DSA": true, "ECC": true, "ECDH": true, "ECDSA": true, "HMAC": true,
	"KEM": true, "KMS": true, "MAC": true, "ML": true, "MU": true, "NIST": true, "OAEP": true, "PH": true,
	"PKCS1": true, "PSS": true, "RSA": true, "RSAES": true, "RSASSA": true, "SECG": true, "SHA": true,
	"SHAKE": true, "SM2": true, "SM2DSA": true, "SM2PKE": true, "TLS": true, "VPC": true, "XKS": true,
	"P256": true, "P384": true, "P521": true, "P256K1": true,
}

// spelled are the words of enum values with a spelling of their own.
var spelled = map[string]string{"CLOUDHSM": "CloudHSM", "HSMS": "HSMs"}

// constant is the Go name of an enum value: the type's name and the value's words, as in KeySpecRSA2048.
// Values in mixed case, as PendingDeletion, are kept.
func constant(enum, value string) string {
	if value != strings.ToUpper(value) {
		return enum + value
	}
	name := enum
	for word := range strings.SplitSeq(value, "_") {
		switch {
		case spelled[word] != "":
			name += spelled[word]
		case initialisms[word]:
			name += word
		default:
			name += word[:1] + strings.ToLower(word[1:])
		}
	}
	return name
}

// lowerCamel is the name of an unexported thing: keySpec for KeySpec.
func lowerCamel(name string) string {
	r := []rune(name)
	for i := range r {
		// The last capital of a run begins the next word: XksKeyId, AWSAccountId.
		if i > 0 && (!unicode.IsUpper(r[i]) || i+1 < len(r) && unicode.IsLower(r[i+1])) {
			break
		}
		r[i] = unicode.ToLower(r[i])
	}
	return string(r)
}

// told are the Booleans of which it matters whether a request says false or
// nothing: policies ask for the member with the Null operator.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-bypass-policy-lockout-safety-check
var told = map[string]bool{"BypassPolicyLockoutSafetyCheck": true}

// memberType is the Go type of a member: a pointer, nil for an absent member, if
// it is one of told.
func (m *model) memberType(member, of string) string {
	if told[member] {
		return "*" + m.goType(of)
	}
	return m.goType(of)
}

// goType is the Go type of a shape.
func (m *model) goType(name string) string {
	switch s := m.Shapes.by[name]; s.Type {
	case "string":
		if s.Enum != nil {
			return name
		}
		return "string"
	case "blob":
		return "[]byte"
	case "boolean":
		return "bool"
	case "integer":
		return "int32"
	case "timestamp":
		return "time.Time"
	case "map":
		return "map[string]string"
	case "list":
		return "[]" + strings.TrimPrefix(m.goType(s.Member.Shape), "*")
	default: // structure
		return "*" + name
	}
}
