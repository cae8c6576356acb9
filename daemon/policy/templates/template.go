// Package templates writes the key policies that AWS KMS and its console write, byte for byte.
package templates

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"cmkd/daemon/keys"

	"github.com/go-json-experiment/json/jsontext"
)

// DefaultKeyPolicy returns the policy of a key that is created without one, in
// the bytes in which AWS KMS returns it: the account has the key and identity
// policies may allow its use.
// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
func DefaultKeyPolicy(account string) string {
	return document("key-default-1", accountStatement(account))
}

// KeyUse is what a key is for, which decides what its users may do.
type KeyUse int

// The uses of keys.
const (
	UseSymmetricEncryption KeyUse = iota
	UseAsymmetricEncryption
	UseSigning
	UseMAC
	UseKeyAgreement
	UseEncapsulation
)

// userActions are the actions of the statement "Allow use of the key".
// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html#key-policy-users-crypto
var userActions = map[KeyUse][]string{
	UseSymmetricEncryption:  {"kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"},
	UseAsymmetricEncryption: {"kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:DescribeKey", "kms:GetPublicKey"},
	UseSigning:              {"kms:DescribeKey", "kms:GetPublicKey", "kms:Sign", "kms:Verify"},
	UseMAC:                  {"kms:DescribeKey", "kms:GenerateMac", "kms:VerifyMac"},
	UseKeyAgreement:         {"kms:DescribeKey", "kms:DeriveSharedSecret", "kms:GetPublicKey"},
	UseEncapsulation:        {"kms:Decapsulate", "kms:DescribeKey", "kms:Encapsulate", "kms:GetPublicKey"},
}

// administratorActions are the actions of "Allow access for Key Administrators":
// everything about the key except using it.
var administratorActions = []string{
	"kms:Create*", "kms:Describe*", "kms:Enable*", "kms:List*", "kms:Put*", "kms:Update*", "kms:Revoke*",
	"kms:Disable*", "kms:Get*", "kms:Delete*", "kms:TagResource", "kms:UntagResource",
	"kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion", "kms:RotateKeyOnDemand",
}

// KeyPolicyFor returns the key policy that AWS's console writes: the account,
// the administrators, who may manage the key and not use it, and the users, who
// may use it and, through services only, make grants for it. admins and users
// are ARNs; where there are none the statement is left out.
func KeyPolicyFor(account string, admins, users []string, use KeyUse) string {
	statements := []string{accountStatement(account)}
	if len(admins) > 0 {
		statements = append(statements, allowStatement("Allow access for Key Administrators", admins, administratorActions, ""))
	}
	if len(users) > 0 {
		grants := []string{"kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"}
		const throughServices = `{
      "Bool" : {
        "kms:GrantIsForAWSResource" : "true"
      }
    }`
		statements = append(statements,
			allowStatement("Allow use of the key", users, userActions[use], ""),
			allowStatement("Allow attachment of persistent resources", users, grants, throughServices))
	}
	return document("key-consolepolicy-3", statements...)
}

// ManagedKeyPolicy returns the key policy of a key that the service manages for
// users, which are ARNs or "*": they may use it, the account may look at it,
// and nobody may change it, as with AWS managed keys.
// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
func ManagedKeyPolicy(account string, users []string) string {
	look := []string{"kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"}
	return document("auto-managed-1",
		allowStatement("Allow use of the key", users, userActions[UseSymmetricEncryption], ""),
		allowStatement("Allow direct access to key metadata to the account", []string{keys.RootARN(account)}, look, ""))
}

// FormerManagedKeyPolicy returns the key policy of a key that the service managed
// and no longer does: nobody uses it, and the account may have it deleted.
func FormerManagedKeyPolicy(account string) string {
	return document("former-managed-1",
		allowStatement("Allow the account to delete the key", []string{keys.RootARN(account)}, []string{
			"kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant", "kms:EnableKey", "kms:DisableKey",
			"kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion",
		}, ""))
}

func accountStatement(account string) string {
	return allowStatement("Enable IAM User Permissions", []string{keys.RootARN(account)}, []string{"kms:*"}, "")
}

// document and allowStatement write JSON as AWS KMS does: two spaces, a space
// on either side of a colon, lists on one line, a list of one as its item.
func document(id string, statements ...string) string {
	return "{\n" +
		`  "Version" : "2012-10-17",` + "\n" +
		`  "Id" : ` + quoted(id) + ",\n" +
		`  "Statement" : [ ` + strings.Join(statements, ", ") + " ]\n}"
}

func allowStatement(sid string, principals, actions []string, condition string) string {
	text := "{\n" +
		`    "Sid" : ` + quoted(sid) + ",\n" +
		`    "Effect" : "Allow",` + "\n" +
		`    "Principal" : {` + "\n" +
		`      "AWS" : ` + oneOrList(principals) + "\n    },\n" +
		`    "Action" : ` + oneOrList(actions) + ",\n" +
		`    "Resource" : "*"`
	if condition != "" {
		text += ",\n" + `    "Condition" : ` + condition
	}
	return text + "\n  }"
}

func oneOrList(items []string) string {
	if len(items) == 1 {
		return quoted(items[0])
	}
	quotedItems := make([]string, len(items))
	for i, item := range items {
		quotedItems[i] = quoted(item)
	}
	return "[ " + strings.Join(quotedItems, ", ") + " ]"
}

// quoted writes a JSON string, with escapes for what a policy may not contain as
// such: characters beyond Latin-1.
func quoted(s string) string {
	plain, err := jsontext.AppendQuote(nil, strings.ToValidUTF8(s, "\uFFFD"))
	if err != nil {
		return `""` // not reached: only invalid UTF-8 is an error
	}
	var b strings.Builder
	for _, r := range string(plain) {
		switch high, low := utf16.EncodeRune(r); {
		case r <= 0xFF:
			b.WriteRune(r)
		case high != utf8.RuneError:
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
