package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

const accountRoot = "arn:aws:iam::" + rig.Account + ":root"

// testGrants: what a grant may say, and the answers. Whom grants let in is
// tested with the policies.
func testGrants(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{})
	grant := func(change func(in *kms.CreateGrantInput)) func(context.Context) error {
		return func(ctx context.Context) error {
			in := &kms.CreateGrantInput{KeyId: id, GranteePrincipal: aws.String(someone), Operations: []types.GrantOperation{"Decrypt"}}
			change(in)
			return rig.ErrOf(a.CreateGrant(ctx, in))
		}
	}
	of := func(id *string, operations ...types.GrantOperation) func(context.Context) error {
		return grant(func(in *kms.CreateGrantInput) { in.KeyId, in.Operations = id, operations })
	}
	constrained := func(pairs, length int) func(context.Context) error {
		values := map[string]string{}
		for i := range pairs {
			values[fmt.Sprint(i)] = strings.Repeat("é", length)
		}
		return grant(func(in *kms.CreateGrantInput) {
			in.Constraints = &types.GrantConstraints{EncryptionContextEquals: values}
		})
	}
	refused := wantCode("ValidationException")
	both := map[string]string{"a": "b"}
	runCalls(t, []call{
		{"all of a symmetric key", of(id, "Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair",
			"GenerateDataKeyPairWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo", "CreateGrant", "RetireGrant", "DescribeKey"), wantOK()},
		{"Sign of a symmetric key", of(id, "Sign"), refused},
		{"GetPublicKey of a symmetric key", of(id, "GetPublicKey"), refused},
		{"GenerateMac of a symmetric key", of(id, "GenerateMac"), refused},
		{"all of a signing key", of(a.signing(t), "Sign", "Verify", "GetPublicKey", "CreateGrant", "RetireGrant", "DescribeKey"), wantOK()},
		{"Encrypt of a signing key", of(a.signing(t), "Encrypt"), refused},
		{"DeriveSharedSecret of a signing key", of(a.signing(t), "DeriveSharedSecret"), refused},
		{"all of an HMAC key", of(a.authenticating(t), "GenerateMac", "VerifyMac", "CreateGrant", "RetireGrant", "DescribeKey"), wantOK()},
		{"GetPublicKey of an HMAC key", of(a.authenticating(t), "GetPublicKey"), refused},
		{"all of a key for agreement", of(a.key(t, types.KeySpecEccNistP256, usageAgree), "DeriveSharedSecret", "GetPublicKey"), wantOK()},
		{"all of an RSA key", of(a.key(t, types.KeySpecRsa2048, usageEncrypt), "Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GetPublicKey"), wantOK()},
		{"GenerateDataKey of an RSA key", of(a.key(t, types.KeySpecRsa2048, usageEncrypt), "GenerateDataKey"), refused},
		{"no operation of the API", of(id, "Everything"), refused},
		{"constraint", grant(func(in *kms.CreateGrantInput) {
			in.Constraints = &types.GrantConstraints{EncryptionContextSubset: both}
		}), wantOK()},
		{"both constraints", grant(func(in *kms.CreateGrantInput) {
			in.Constraints = &types.GrantConstraints{EncryptionContextSubset: both, EncryptionContextEquals: both}
		}), validation("More than one constraint supplied")},
		{"CreateGrant alone", of(id, "CreateGrant", "CreateGrant"), validation("Grants must not contain only the CreateGrant operation.")},
		{"8 pairs", constrained(8, 384), wantOK()},
		{"9 pairs", constrained(9, 1), refused},
		{"a long value", constrained(1, 385), refused},
		{"constraint on a signing key", grant(func(in *kms.CreateGrantInput) {
			in.KeyId, in.Operations = a.signing(t), []types.GrantOperation{"Sign"}
			in.Constraints = &types.GrantConstraints{EncryptionContextSubset: both}
		}), refused},
		{"no principal", grant(func(in *kms.CreateGrantInput) { in.GranteePrincipal = aws.String("deploy") }), wantCode("InvalidArnException")},
		{"a principal of another service", grant(func(in *kms.CreateGrantInput) { in.GranteePrincipal = aws.String("arn:aws:s3:::bucket") }), wantCode("InvalidArnException")},
		{"no retiring principal", grant(func(in *kms.CreateGrantInput) { in.RetiringPrincipal = aws.String("deploy") }), wantCode("InvalidArnException")},
		{"a wrong grant token", grant(func(in *kms.CreateGrantInput) { in.GrantTokens = []string{"none"} }), wantCode("InvalidGrantTokenException")},
		{"a key that is not there", of(aws.String(unknownID), "Decrypt"), notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID))},
	})
	t.Run("an empty constraint", func(t *testing.T) { emptyConstraint(t, a) })
	t.Run("names", func(t *testing.T) { grantNames(t, a) })
	t.Run("entries", func(t *testing.T) { grantEntries(t, a) })
	t.Run("endings", func(t *testing.T) { grantEndings(t, a) })
}

// emptyConstraint: beside a constraint, the empty other one is none. Terraform
// sends both.
func emptyConstraint(t *testing.T, a *api) {
	t.Helper()
	id := a.fresh(t, &kms.CreateKeyInput{})
	some, none := map[string]string{"a": "b"}, map[string]string{}
	for name, c := range map[string]struct{ in, want *types.GrantConstraints }{
		"subset": {&types.GrantConstraints{EncryptionContextSubset: some, EncryptionContextEquals: none}, &types.GrantConstraints{EncryptionContextSubset: some}},
		"equals": {&types.GrantConstraints{EncryptionContextSubset: none, EncryptionContextEquals: some}, &types.GrantConstraints{EncryptionContextEquals: some}},
		"both":   {&types.GrantConstraints{EncryptionContextSubset: none, EncryptionContextEquals: none}, &types.GrantConstraints{EncryptionContextEquals: none}},
	} {
		made, err := a.CreateGrant(t.Context(), &kms.CreateGrantInput{
			KeyId: id, GranteePrincipal: aws.String(someone), Operations: []types.GrantOperation{"Decrypt"}, Constraints: c.in,
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		out, err := a.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: id, GrantId: made.GrantId})
		if err != nil || len(out.Grants) != 1 || !reflect.DeepEqual(out.Grants[0].Constraints, c.want) {
			t.Errorf("%s: %v, %+v", name, err, out)
		}
	}
}

// grantNames: the same grant under the same name is made once.
func grantNames(t *testing.T, a *api) {
	t.Helper()
	id := a.fresh(t, &kms.CreateKeyInput{})
	create := func(name *string, operations ...types.GrantOperation) (string, string) {
		t.Helper()
		out, err := a.CreateGrant(t.Context(), &kms.CreateGrantInput{KeyId: id, GranteePrincipal: aws.String(someone), Operations: operations, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if len(*out.GrantId) != 64 {
			t.Errorf("GrantId is %q", *out.GrantId)
		}
		return *out.GrantId, *out.GrantToken
	}
	name := aws.String("job-1")
	first, token1 := create(name, "Encrypt", "Decrypt")
	second, token2 := create(name, "Decrypt", "Encrypt")
	if first != second || token1 == token2 {
		t.Errorf("again under its name: the grant is the same: %t, the token is new: %t", first == second, token1 != token2)
	}
	if other, _ := create(name, "Decrypt"); other == first {
		t.Error("another grant under the name is the same")
	}
	third, _ := create(nil, "Decrypt")
	if fourth, _ := create(nil, "Decrypt"); third == fourth {
		t.Error("two grants without a name are one")
	}
}

// grantEntries: what the lists say of a grant.
func grantEntries(t *testing.T, a *api) {
	t.Helper()
	id := a.fresh(t, &kms.CreateKeyInput{})
	retiring := someRetirer
	want, err := a.CreateGrant(t.Context(), &kms.CreateGrantInput{
		KeyId: id, GranteePrincipal: aws.String(someone), RetiringPrincipal: &retiring, Name: aws.String("entry"),
		Operations: []types.GrantOperation{"Decrypt", "Encrypt"}, Constraints: &types.GrantConstraints{EncryptionContextEquals: map[string]string{"a": "b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateGrant(t.Context(), &kms.CreateGrantInput{KeyId: id, GranteePrincipal: aws.String(accountRoot), Operations: []types.GrantOperation{"Decrypt"}}); err != nil {
		t.Fatal(err)
	}
	check := func(what string, list []types.GrantListEntry, err error) {
		t.Helper()
		if err != nil || len(list) != 1 {
			t.Errorf("%s: %d grants, %v", what, len(list), err)
			return
		}
		g := list[0]
		if *g.GrantId != *want.GrantId || *g.KeyId != keyARN(id) || *g.GranteePrincipal != someone || *g.RetiringPrincipal != retiring ||
			*g.Name != "entry" || *g.IssuingAccount != accountRoot || g.CreationDate == nil ||
			!slices.Equal(g.Operations, []types.GrantOperation{"Decrypt", "Encrypt"}) ||
			g.Constraints == nil || !maps.Equal(g.Constraints.EncryptionContextEquals, map[string]string{"a": "b"}) {
			t.Errorf("%s: %+v", what, g)
		}
	}
	byID, err := a.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: aws.String(keyARN(id)), GrantId: want.GrantId})
	check("by ID", byID.Grants, err)
	byGrantee, err := a.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: id, GranteePrincipal: aws.String(someone)})
	check("by grantee", byGrantee.Grants, err)
	retirable, err := a.ListRetirableGrants(t.Context(), &kms.ListRetirableGrantsInput{RetiringPrincipal: &retiring})
	check("retirable", retirable.Grants, err)
	other := a.fresh(t, &kms.CreateKeyInput{})
	list := func(key, grant string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &key, GrantId: &grant}))
		}
	}
	retirableBy := func(in *kms.ListRetirableGrantsInput) func(context.Context) error {
		return func(ctx context.Context) error { return rig.ErrOf(a.ListRetirableGrants(ctx, in)) }
	}
	service := aws.String("rds.amazonaws.com")
	runCalls(t, []call{
		{"of another key", list(*other, *want.GrantId), wantCode("InvalidGrantIdException")},
		{"unknown", list(*id, strings.Repeat("0", 64)), wantCode("InvalidGrantIdException")},
		{"not an ID", list(*id, "none"), wantCode("InvalidGrantIdException")},
		{"retirable by nobody", retirableBy(&kms.ListRetirableGrantsInput{}), wantCode("ValidationException")},
		{"retirable by two", retirableBy(&kms.ListRetirableGrantsInput{RetiringPrincipal: &retiring, RetiringServicePrincipal: service}), wantCode("ValidationException")},
		{"retirable by a name", retirableBy(&kms.ListRetirableGrantsInput{RetiringPrincipal: aws.String("deploy")}), wantCode("InvalidArnException")},
		{"retirable by a bucket", retirableBy(&kms.ListRetirableGrantsInput{RetiringPrincipal: aws.String("arn:aws:s3:::bucket")}), wantCode("InvalidArnException")},
		{"retirable by a user who has gone", retirableBy(&kms.ListRetirableGrantsInput{RetiringPrincipal: aws.String(accountUser("gone"))}), wantOK()},
		{"retirable by a role", retirableBy(&kms.ListRetirableGrantsInput{RetiringPrincipal: aws.String("arn:aws:iam::" + rig.Account + ":role/path/r")}), wantOK()},
		{"retirable by a federated user", retirableBy(&kms.ListRetirableGrantsInput{RetiringPrincipal: aws.String("arn:aws:sts::" + rig.Account + ":federated-user/f")}), wantOK()},
		{"retirable by a service", retirableBy(&kms.ListRetirableGrantsInput{RetiringServicePrincipal: service}), wantCode("ValidationException")},
	})
}

func accountUser(name string) string { return "arn:aws:iam::" + rig.Account + ":user/" + name }

// grantEndings: grants are retired by token, or by key and ID, and revoked
// by ID, each once.
func grantEndings(t *testing.T, a *api) {
	t.Helper()
	id := a.fresh(t, &kms.CreateKeyInput{})
	var made []*kms.CreateGrantOutput
	for range 4 {
		out, err := a.CreateGrant(t.Context(), &kms.CreateGrantInput{KeyId: id, GranteePrincipal: aws.String(someone), Operations: []types.GrantOperation{"Decrypt"}})
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, out)
	}
	gone := func(i int) want { return notFound("Grant ID %s not found", *made[i].GrantId) }
	retire := func(in *kms.RetireGrantInput) func(context.Context) error {
		return func(ctx context.Context) error { return rig.ErrOf(a.RetireGrant(ctx, in)) }
	}
	revoke := func(i int) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: id, GrantId: made[i].GrantId}))
		}
	}
	runCalls(t, []call{
		{"retire by token", retire(&kms.RetireGrantInput{GrantToken: made[0].GrantToken}), wantOK()},
		{"retire by token again", retire(&kms.RetireGrantInput{GrantToken: made[0].GrantToken}), gone(0)},
		{"retire by key ID", retire(&kms.RetireGrantInput{KeyId: id, GrantId: made[3].GrantId}), wantOK()},
		{"retire by key ID again", retire(&kms.RetireGrantInput{KeyId: id, GrantId: made[3].GrantId}), gone(3)},
		{"retire by alias", retire(&kms.RetireGrantInput{KeyId: aws.String("alias/none"), GrantId: made[1].GrantId}), aliasRefused},
		{"retire by token and ID", retire(&kms.RetireGrantInput{KeyId: id, GrantId: made[1].GrantId, GrantToken: made[1].GrantToken}), wantCode("ValidationException")},
		{"retire nothing", retire(&kms.RetireGrantInput{}), wantCode("ValidationException")},
		{"retire by key ARN", retire(&kms.RetireGrantInput{KeyId: aws.String(keyARN(id)), GrantId: made[1].GrantId}), wantOK()},
		{"retire by key ARN again", retire(&kms.RetireGrantInput{KeyId: aws.String(keyARN(id)), GrantId: made[1].GrantId}), gone(1)},
		{"revoke", revoke(2), wantOK()},
		{"revoke again", revoke(2), gone(2)},
	})
}

// testPolicies: key policies are kept as they came, and what is none is refused.
func testPolicies(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{})
	get := func() string {
		t.Helper()
		out, err := a.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: id})
		if err != nil || aws.ToString(out.PolicyName) != "default" {
			t.Fatalf("GetKeyPolicy: %v", err)
		}
		return *out.Policy
	}
	var preset struct {
		Version, ID string `json:",omitempty"`
		Statement   []struct{ Sid, Effect, Action, Resource string }
	}
	if err := json.Unmarshal([]byte(get()), &preset); err != nil || preset.Version != "2012-10-17" || preset.ID != "key-default-1" ||
		len(preset.Statement) != 1 || preset.Statement[0].Sid != "Enable IAM User Permissions" || preset.Statement[0].Action != "kms:*" {
		t.Errorf("the default policy is %s, %v", get(), err)
	}
	put := func(text string, bypass bool) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: id, Policy: &text, PolicyName: aws.String("default"), BypassPolicyLockoutSafetyCheck: bypass}))
		}
	}
	create := func(text string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.CreateKey(ctx, &kms.CreateKeyInput{Policy: &text}))
		}
	}
	malformed := wantCode("MalformedPolicyDocumentException")
	lockout := wantError("MalformedPolicyDocumentException", "The new key policy will not allow you to update the key policy in the future.")
	spaced := strings.ReplaceAll(accountPolicy, ",", " ,\n ")
	away := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + someone + `"},"Action":"kms:Decrypt","Resource":"*"}]}`
	long := strings.Replace(accountPolicy, `"Effect"`, `"Sid":"`+strings.Repeat("a", 33<<10)+`","Effect"`, 1)
	other := aws.String("other")
	runCalls(t, []call{
		{"put", put(spaced, false), wantOK()},
		{"as it came", func(context.Context) error {
			if got := get(); got != spaced {
				return fmt.Errorf("the policy is %s", got)
			}
			return nil
		}, wantOK()},
		{"no JSON", put("{", false), malformed},
		{"no policy", put("{}", false), malformed},
		{"no effect", put(strings.Replace(accountPolicy, "Allow", "Perhaps", 1), false), malformed},
		{"no principal", put(strings.Replace(accountPolicy, `"Principal":{"AWS":"`+accountRoot+`"},`, "", 1), false), malformed},
		{"too long", put(long, false), wantCode("LimitExceededException")},
		{"longer than the model", put(strings.Repeat(" ", 131073), false), wantCode("ValidationException")},
		{"lockout", put(away, false), lockout},
		{"no lockout where the bypass must be said", put(strings.Replace(accountPolicy, `"Action":"kms:*","Resource":"*"`, `"Action":"kms:*","Resource":"*"},{"Effect":"Deny","Principal":"*","Action":"kms:PutKeyPolicy","Resource":"*","Condition":{"Null":{"kms:BypassPolicyLockoutSafetyCheck":"true"}}`, 1), false), wantOK()},
		{"without saying it", put(spaced, false), wantCode("AccessDeniedException")},
		{"put back", put(spaced, true), wantOK()},
		{"malformed at creation", create("{"), malformed},
		{"lockout at creation", create(away), lockout},
		{"another name", func(ctx context.Context) error {
			return rig.ErrOf(a.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: id, PolicyName: other}))
		}, wantCode("NotFoundException")},
		{"put under another name", func(ctx context.Context) error {
			return rig.ErrOf(a.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: id, PolicyName: other, Policy: aws.String(accountPolicy)}))
		}, wantCode("NotFoundException")},
		{"still as it came", func(context.Context) error {
			if got := get(); got != spaced {
				return fmt.Errorf("the policy is %s", got)
			}
			return nil
		}, wantOK()},
		{"lockout on purpose", put(away, true), wantOK()},
		{"locked out", put(accountPolicy, false), wantCode("AccessDeniedException")},
	})
}
