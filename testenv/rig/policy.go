package rig

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// The users of most tests are in no user database: cmkd calls them uid-N.
var (
	Operator = User{UID: 61001, GID: 61001}                          // administers the key
	App      = User{UID: 61002, GID: 61002, Groups: []uint32{61100}} // uses it, by its group
	Stranger = User{UID: 61003, GID: 61003}
	AppGroup = "arn:aws:iam::" + Account + ":group/gid-61100"
)

// RootARN is the account's root.
const RootARN = "arn:aws:iam::" + Account + ":root"

// Allowing writes one Allow statement of a key policy.
func Allowing(principal, actions, condition string) string {
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return fmt.Sprintf(`{"Effect":"Allow","Principal":{"AWS":%q},"Action":[%s],"Resource":"*"%s}`, principal, actions, condition)
}

// KeyPolicy is a key policy of the statements; see [Allowing].
func KeyPolicy(statements ...string) *string {
	return aws.String(`{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`)
}

// EncryptWith is the error of an Encrypt under the key.
func EncryptWith(t *testing.T, c *kms.Client, key string) error {
	_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
	return err
}

// Outcome compares the code of an error, "" for none, with the one wanted.
func Outcome(t *testing.T, what string, err error, wantCode string) {
	t.Helper()
	if Code(err) != wantCode {
		t.Errorf("%s: %v, want code %q", what, err, wantCode)
	}
}

// Denied is the code of a refusal by policy.
const Denied = "AccessDeniedException"
