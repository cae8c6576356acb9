package api

import (
	"context"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

const unknownID = "1234abcd-12ab-34cd-56ef-1234567890ab"

var aliasRefused = want{"InvalidArnException", "Key Aliases are not supported for this operation."}

// testIdentifiers: how keys may be named, and what is said of other names.
func testIdentifiers(t *testing.T, a *api) {
	id := *a.fresh(t, &kms.CreateKeyInput{})
	alias := "alias/named-" + id
	if _, err := a.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &id}); err != nil {
		t.Fatal(err)
	}
	invalid := func(text string) want { return notFound("Invalid keyId '%s'", text) }
	replaced := func(old, with string) string { return strings.Replace(rig.ARN("key/"+id), old, with, 1) }
	notASCII := validation(`1 validation error detected: Value 'ключ' at 'keyId' failed to satisfy constraint: Member must satisfy regular expression pattern: ^\p{ASCII}+$`)
	mrk := "mrk-d3b95762d3b95762d3b95762d3b95762"
	names := []struct {
		name, id  string
		key, mgmt want
	}{
		{"key ID", id, wantOK(), wantOK()},
		{"key ARN", rig.ARN("key/" + id), wantOK(), wantOK()},
		{"alias", alias, wantOK(), aliasRefused},
		{"alias ARN", rig.ARN(alias), wantOK(), aliasRefused},
		{"unknown key ID", unknownID, notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID)), notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID))},
		{"unknown key ARN", rig.ARN("key/" + unknownID), notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID)), notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID))},
		{"unknown multi-Region ID", mrk, notFound("Key '%s' does not exist", rig.ARN("key/"+mrk)), notFound("Key '%s' does not exist", rig.ARN("key/"+mrk))},
		{"unknown alias", "alias/none", notFound("Alias %s is not found.", rig.ARN("alias/none")), aliasRefused},
		{"unknown alias ARN", rig.ARN("alias/none"), notFound("Alias %s is not found.", rig.ARN("alias/none")), aliasRefused},
		{"no UUID", "fake-key-id", invalid("fake-key-id"), invalid("fake-key-id")},
		{"UUID without dashes", "134f2428cec14b25a1ae9048164dba47", invalid("134f2428cec14b25a1ae9048164dba47"), invalid("134f2428cec14b25a1ae9048164dba47")},
		{"short multi-Region ID", "mrk-fake-key-id", invalid("mrk-fake-key-id"), invalid("mrk-fake-key-id")},
		{"capital letters", strings.ToUpper(unknownID), notFound("Key '%s' does not exist", rig.ARN("key/"+strings.ToUpper(unknownID))), notFound("Key '%s' does not exist", rig.ARN("key/"+strings.ToUpper(unknownID)))},
		{"space", " " + id, invalid(" " + id), invalid(" " + id)},
		{"other Region", replaced(rig.Region, "ap-southeast-1"), notFound("Invalid arn ap-southeast-1"), notFound("Invalid arn ap-southeast-1")},
		{"other Region of the service", replaced(rig.Region, otherRegion), notFound("Invalid arn %s", otherRegion), notFound("Invalid arn %s", otherRegion)},
		{"other account", replaced(rig.Account, "999999999999"), notFound("Key '%s' does not exist", replaced(rig.Account, "999999999999")), notFound("Key '%s' does not exist", replaced(rig.Account, "999999999999"))},
		{"other partition", replaced("arn:aws:", "arn:aws-cn:"), notFound("Invalid arn %s", replaced("arn:aws:", "arn:aws-cn:")), notFound("Invalid arn %s", replaced("arn:aws:", "arn:aws-cn:"))},
		{"other service", replaced(":kms:", ":s3:"), notFound("Invalid arn %s", replaced(":kms:", ":s3:")), notFound("Invalid arn %s", replaced(":kms:", ":s3:"))},
		{"other resource", rig.ARN("grant/" + id), notFound("Invalid arn %s", rig.ARN("grant/"+id)), notFound("Invalid arn %s", rig.ARN("grant/"+id))},
		{"ARN without an ID", rig.ARN("key/"), notFound("Invalid keyId "), notFound("Invalid keyId ")},
		{"ARN of no UUID", rig.ARN("key/fake"), notFound("Invalid keyId fake"), notFound("Invalid keyId fake")},
		{"alias in a key ARN", rig.ARN("key/" + alias), notFound("Invalid keyId %s", alias), notFound("Invalid keyId %s", alias)},
		{"unknown alias in a key ARN", rig.ARN("key/alias/none"), notFound("Invalid keyId alias/none"), notFound("Invalid keyId alias/none")},
		{"short ARN", "arn:aws:kms", notFound("Invalid arn arn:aws:kms"), notFound("Invalid arn arn:aws:kms")},
		{"not ASCII", "ключ", notASCII, notASCII},
	}
	for _, n := range names {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			n.key.check(t, rig.ErrOf(a.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &n.id})))
			n.key.check(t, rig.ErrOf(a.Encrypt(ctx, &kms.EncryptInput{KeyId: &n.id, Plaintext: aMessage})))
			n.mgmt.check(t, rig.ErrOf(a.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &n.id})))
			n.mgmt.check(t, rig.ErrOf(a.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &n.id})))
		})
	}
	t.Run("by ID in another Region", func(t *testing.T) {
		t.Parallel()
		there := strings.Replace(rig.ARN("key/"+id), rig.Region, otherRegion, 1)
		notFound("Key '%s' does not exist", there).check(t, rig.ErrOf(a.other.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})))
		notFound("Invalid arn %s", rig.Region).check(t, rig.ErrOf(a.other.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String(rig.ARN("key/" + id))})))
	})
}

// testManagement: operations that manage keys take no alias.
func testManagement(t *testing.T, a *api) {
	id := *a.fresh(t, &kms.CreateKeyInput{})
	alias := aws.String("alias/managed-" + id)
	if _, err := a.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: alias, TargetKeyId: &id}); err != nil {
		t.Fatal(err)
	}
	token := []byte("0123456789abcdef")
	runCalls(t, []call{
		{"CancelKeyDeletion", func(ctx context.Context) error {
			return rig.ErrOf(a.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: alias}))
		}, aliasRefused},
		{"CreateGrant", func(ctx context.Context) error {
			return rig.ErrOf(a.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: alias, GranteePrincipal: aws.String(someone), Operations: []types.GrantOperation{"Decrypt"}}))
		}, aliasRefused},
		{"DeleteImportedKeyMaterial", func(ctx context.Context) error {
			return rig.ErrOf(a.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: alias}))
		}, aliasRefused},
		{"DisableKey", func(ctx context.Context) error {
			return rig.ErrOf(a.DisableKey(ctx, &kms.DisableKeyInput{KeyId: alias}))
		}, aliasRefused},
		{"DisableKeyRotation", func(ctx context.Context) error {
			return rig.ErrOf(a.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: alias}))
		}, aliasRefused},
		{"EnableKey", func(ctx context.Context) error { return rig.ErrOf(a.EnableKey(ctx, &kms.EnableKeyInput{KeyId: alias})) }, aliasRefused},
		{"EnableKeyRotation", func(ctx context.Context) error {
			return rig.ErrOf(a.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: alias}))
		}, aliasRefused},
		{"GetKeyLastUsage", func(ctx context.Context) error {
			return rig.ErrOf(a.GetKeyLastUsage(ctx, &kms.GetKeyLastUsageInput{KeyId: alias}))
		}, aliasRefused},
		{"GetKeyRotationStatus", func(ctx context.Context) error {
			return rig.ErrOf(a.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: alias}))
		}, aliasRefused},
		{"GetParametersForImport", func(ctx context.Context) error {
			return rig.ErrOf(a.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: alias, WrappingAlgorithm: oaepSHA1, WrappingKeySpec: spec2048}))
		}, aliasRefused},
		{"ImportKeyMaterial", func(ctx context.Context) error {
			return rig.ErrOf(a.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{KeyId: alias, ImportToken: token, EncryptedKeyMaterial: token, ExpirationModel: lifetime}))
		}, aliasRefused},
		{"ListGrants", func(ctx context.Context) error {
			return rig.ErrOf(a.ListGrants(ctx, &kms.ListGrantsInput{KeyId: alias}))
		}, aliasRefused},
		{"ListKeyPolicies", func(ctx context.Context) error {
			return rig.ErrOf(a.ListKeyPolicies(ctx, &kms.ListKeyPoliciesInput{KeyId: alias}))
		}, aliasRefused},
		{"ListKeyRotations", func(ctx context.Context) error {
			return rig.ErrOf(a.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: alias}))
		}, aliasRefused},
		{"PutKeyPolicy", func(ctx context.Context) error {
			return rig.ErrOf(a.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: alias, Policy: aws.String(accountPolicy)}))
		}, aliasRefused},
		{"ReplicateKey", func(ctx context.Context) error {
			return rig.ErrOf(a.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: alias, ReplicaRegion: aws.String(otherRegion)}))
		}, aliasRefused},
		{"RevokeGrant", func(ctx context.Context) error {
			return rig.ErrOf(a.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: alias, GrantId: aws.String("0123")}))
		}, aliasRefused},
		{"RotateKeyOnDemand", func(ctx context.Context) error {
			return rig.ErrOf(a.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: alias}))
		}, aliasRefused},
		{"ScheduleKeyDeletion", func(ctx context.Context) error {
			return rig.ErrOf(a.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: alias}))
		}, aliasRefused},
		{"TagResource", func(ctx context.Context) error {
			return rig.ErrOf(a.TagResource(ctx, &kms.TagResourceInput{KeyId: alias, Tags: tags("a", "b")}))
		}, aliasRefused},
		{"UntagResource", func(ctx context.Context) error {
			return rig.ErrOf(a.UntagResource(ctx, &kms.UntagResourceInput{KeyId: alias, TagKeys: []string{"a"}}))
		}, aliasRefused},
		{"UpdateKeyDescription", func(ctx context.Context) error {
			return rig.ErrOf(a.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: alias, Description: aws.String("d")}))
		}, aliasRefused},
		{"UpdatePrimaryRegion", func(ctx context.Context) error {
			return rig.ErrOf(a.UpdatePrimaryRegion(ctx, &kms.UpdatePrimaryRegionInput{KeyId: alias, PrimaryRegion: aws.String(otherRegion)}))
		}, aliasRefused},
		{"ListAliases", func(ctx context.Context) error {
			return rig.ErrOf(a.ListAliases(ctx, &kms.ListAliasesInput{KeyId: alias}))
		}, aliasRefused},
	})
}

// testAnswersByARN: answers name keys by their ARN, however the client did.
func testAnswersByARN(t *testing.T, a *api) {
	ctx := t.Context()
	alias := func(id *string) *string {
		name := aws.String("alias/by-" + *id)
		if _, err := a.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: name, TargetKeyId: id}); err != nil {
			t.Fatal(err)
		}
		return name
	}
	same := func(what string, got func() *string, id *string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if name := aws.ToString(got()); name != keyARN(id) {
			t.Errorf("%s names %q, want %q", what, name, keyARN(id))
		}
	}
	id := a.fresh(t, &kms.CreateKeyInput{})
	key := alias(id)
	sealed, err := a.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	same("Encrypt", func() *string { return sealed.KeyId }, id, err)
	opened, err := a.Decrypt(ctx, &kms.DecryptInput{KeyId: key, CiphertextBlob: sealed.CiphertextBlob})
	same("Decrypt", func() *string { return opened.KeyId }, id, err)
	moved, err := a.ReEncrypt(ctx, &kms.ReEncryptInput{SourceKeyId: key, DestinationKeyId: key, CiphertextBlob: sealed.CiphertextBlob})
	same("ReEncrypt's source", func() *string { return moved.SourceKeyId }, id, err)
	same("ReEncrypt's destination", func() *string { return moved.KeyId }, id, err)
	wrapped, err := a.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: key, KeySpec: types.DataKeySpecAes128})
	same("GenerateDataKeyWithoutPlaintext", func() *string { return wrapped.KeyId }, id, err)
	sent, err := a.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes128, Recipient: toTests().info()})
	same("GenerateDataKey", func() *string { return sent.KeyId }, id, err)
	pair, err := a.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: key, KeyPairSpec: p256Pair})
	same("GenerateDataKeyPairWithoutPlaintext", func() *string { return pair.KeyId }, id, err)
	status, err := a.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: id})
	same("GetKeyRotationStatus", func() *string { return status.KeyId }, id, err)
	rotated, err := a.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: id})
	same("RotateKeyOnDemand", func() *string { return rotated.KeyId }, id, err)
	used, err := a.GetKeyLastUsage(ctx, &kms.GetKeyLastUsageInput{KeyId: id})
	same("GetKeyLastUsage", func() *string { return used.KeyId }, id, err)
	due, err := a.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: id})
	same("ScheduleKeyDeletion", func() *string { return due.KeyId }, id, err)
	back, err := a.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: id})
	same("CancelKeyDeletion", func() *string { return back.KeyId }, id, err)

	signing, mac := a.fresh(t, &kms.CreateKeyInput{KeySpec: signingKind.spec, KeyUsage: signingKind.usage}), a.fresh(t, &kms.CreateKeyInput{KeySpec: macKind.spec, KeyUsage: macKind.usage})
	signer, authenticator := alias(signing), alias(mac)
	signed, err := a.Sign(ctx, &kms.SignInput{KeyId: signer, Message: aMessage, SigningAlgorithm: ecdsa256})
	if err != nil {
		t.Fatal(err)
	}
	same("Sign", func() *string { return signed.KeyId }, signing, err)
	verified, err := a.Verify(ctx, &kms.VerifyInput{KeyId: signer, Message: aMessage, SigningAlgorithm: ecdsa256, Signature: signed.Signature})
	same("Verify", func() *string { return verified.KeyId }, signing, err)
	public, err := a.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: signer})
	same("GetPublicKey", func() *string { return public.KeyId }, signing, err)
	tagged, err := a.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: authenticator, Message: aMessage, MacAlgorithm: hmac256})
	if err != nil {
		t.Fatal(err)
	}
	same("GenerateMac", func() *string { return tagged.KeyId }, mac, err)
	checked, err := a.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: authenticator, Message: aMessage, MacAlgorithm: hmac256, Mac: tagged.Mac})
	same("VerifyMac", func() *string { return checked.KeyId }, mac, err)
	external := a.fresh(t, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	parameters, err := a.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: external, WrappingAlgorithm: oaepSHA1, WrappingKeySpec: spec2048})
	same("GetParametersForImport", func() *string { return parameters.KeyId }, external, err)
}

// tags makes tags of keys and values in turn.
func tags(pairs ...string) []types.Tag {
	var list []types.Tag
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, types.Tag{TagKey: &pairs[i], TagValue: &pairs[i+1]})
	}
	return list
}
